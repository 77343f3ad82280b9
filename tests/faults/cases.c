/* The cases of the fault matrix: which there are, what they are called, which statuses a caller may see. Says anew, apart from
 * backends/pkcs11/error.c, what each code means. Any thread. */
#include "tests/faults/faults.h"

#define ROW(rv, family) {#rv, rv, family}
static const struct code codes[] = {
    ROW(CKR_ENCRYPTED_DATA_INVALID, CALLER), ROW(CKR_ENCRYPTED_DATA_LEN_RANGE, CALLER), ROW(CKR_DATA_INVALID, CALLER),
    ROW(CKR_DATA_LEN_RANGE, CALLER),
    ROW(CKR_SESSION_HANDLE_INVALID, SESSION), ROW(CKR_SESSION_CLOSED, SESSION), ROW(CKR_OPERATION_ACTIVE, SESSION),
    ROW(CKR_OPERATION_NOT_INITIALIZED, SESSION),
    ROW(CKR_OBJECT_HANDLE_INVALID, HANDLE), ROW(CKR_KEY_HANDLE_INVALID, HANDLE),
    ROW(CKR_USER_NOT_LOGGED_IN, LOGIN),
    ROW(CKR_DEVICE_ERROR, DEVICE), ROW(CKR_DEVICE_REMOVED, DEVICE), ROW(CKR_TOKEN_NOT_PRESENT, DEVICE), ROW(CKR_TOKEN_NOT_RECOGNIZED, DEVICE),
    ROW(CKR_SLOT_ID_INVALID, DEVICE), ROW(CKR_FUNCTION_FAILED, DEVICE), ROW(CKR_GENERAL_ERROR, DEVICE), ROW(CKR_CRYPTOKI_NOT_INITIALIZED, DEVICE),
    ROW(CKR_ARGUMENTS_BAD, DEVICE), ROW(CKR_BUFFER_TOO_SMALL, DEVICE), ROW(CKR_CANT_LOCK, DEVICE), ROW(CKR_SIGNATURE_INVALID, DEVICE),
    {"vendor code", 0x80000001ul, DEVICE}, {"unknown code", 0x7ffffffful, DEVICE},
    ROW(CKR_SESSION_COUNT, LOAD), ROW(CKR_DEVICE_MEMORY, LOAD), ROW(CKR_HOST_MEMORY, LOAD), ROW(CKR_FUNCTION_CANCELED, LOAD),
    ROW(CKR_PIN_INCORRECT, PIN), ROW(CKR_PIN_INVALID, PIN), ROW(CKR_PIN_LEN_RANGE, PIN), ROW(CKR_PIN_EXPIRED, PIN), ROW(CKR_PIN_LOCKED, PIN),
    ROW(CKR_USER_PIN_NOT_INITIALIZED, PIN),
    ROW(CKR_MECHANISM_INVALID, CONFIG), ROW(CKR_MECHANISM_PARAM_INVALID, CONFIG), ROW(CKR_KEY_FUNCTION_NOT_PERMITTED, CONFIG),
    ROW(CKR_KEY_TYPE_INCONSISTENT, CONFIG), ROW(CKR_KEY_SIZE_RANGE, CONFIG), ROW(CKR_TEMPLATE_INCOMPLETE, CONFIG),
    ROW(CKR_TEMPLATE_INCONSISTENT, CONFIG), ROW(CKR_ATTRIBUTE_READ_ONLY, CONFIG), ROW(CKR_ATTRIBUTE_SENSITIVE, CONFIG),
    ROW(CKR_ATTRIBUTE_TYPE_INVALID, CONFIG), ROW(CKR_ATTRIBUTE_VALUE_INVALID, CONFIG), ROW(CKR_FUNCTION_NOT_SUPPORTED, CONFIG),
    ROW(CKR_TOKEN_WRITE_PROTECTED, CONFIG)};

#define NAME(knob, name) [SHIM_##knob] = #name,
static const char *const functions[SHIM_NUM_FUNCTIONS] = {SHIM_FUNCTIONS(NAME)};
#undef NAME
static const char *const stages[] = {"work", "reconnect", "open"};
static const char *const whens[] = {"first", "third", "every 7th", "a while", "half a minute", "hanging"};

/* Which functions are called in a stage. */
static const struct { enum stage stage; enum shim_where where; } places[] = {
    {WORK, SHIM_ENCRYPT_INIT}, {WORK, SHIM_ENCRYPT}, {WORK, SHIM_DECRYPT_INIT}, {WORK, SHIM_DECRYPT}, {WORK, SHIM_SIGN_INIT}, {WORK, SHIM_SIGN},
    {WORK, SHIM_RANDOM}, {WORK, SHIM_FIND}, {WORK, SHIM_FIND_NEXT}, {WORK, SHIM_FIND_FINAL}, {WORK, SHIM_GET_ATTRIBUTES}, {WORK, SHIM_GENERATE},
    {WORK, SHIM_DESTROY}, {WORK, SHIM_OPEN}, {WORK, SHIM_CLOSE},
    {RECONNECT, SHIM_INITIALIZE}, {RECONNECT, SHIM_FINALIZE}, {RECONNECT, SHIM_GET_INFO}, {RECONNECT, SHIM_GET_SLOT_LIST},
    {RECONNECT, SHIM_GET_TOKEN_INFO}, {RECONNECT, SHIM_OPEN}, {RECONNECT, SHIM_CLOSE}, {RECONNECT, SHIM_GET_SESSION_INFO}, {RECONNECT, SHIM_LOGIN},
    {RECONNECT, SHIM_FIND}, {RECONNECT, SHIM_FIND_NEXT}, {RECONNECT, SHIM_FIND_FINAL}, {RECONNECT, SHIM_GET_ATTRIBUTES},
    {RECONNECT, SHIM_DECRYPT_INIT}, {RECONNECT, SHIM_DECRYPT},
    {OPEN, SHIM_INITIALIZE}, {OPEN, SHIM_FINALIZE}, {OPEN, SHIM_GET_INFO}, {OPEN, SHIM_GET_SLOT_LIST}, {OPEN, SHIM_GET_TOKEN_INFO}, {OPEN, SHIM_OPEN},
    {OPEN, SHIM_CLOSE}, {OPEN, SHIM_GET_SESSION_INFO}, {OPEN, SHIM_LOGIN}, {OPEN, SHIM_GENERATE}, {OPEN, SHIM_DESTROY}, {OPEN, SHIM_FIND},
    {OPEN, SHIM_FIND_NEXT}, {OPEN, SHIM_FIND_FINAL}, {OPEN, SHIM_GET_ATTRIBUTES}, {OPEN, SHIM_ENCRYPT_INIT}, {OPEN, SHIM_ENCRYPT},
    {OPEN, SHIM_DECRYPT_INIT}, {OPEN, SHIM_DECRYPT}};

/* Faults that last, and calls that do not return. */
static const enum shim_where lasting[] = {SHIM_ENCRYPT, SHIM_DECRYPT, SHIM_DECRYPT_INIT, SHIM_SIGN, SHIM_FIND, SHIM_OPEN, SHIM_INITIALIZE, SHIM_LOGIN};
static const struct code lasting_codes[] = {ROW(CKR_DEVICE_ERROR, DEVICE), ROW(CKR_GENERAL_ERROR, DEVICE), ROW(CKR_SESSION_HANDLE_INVALID, SESSION),
                                            ROW(CKR_USER_NOT_LOGGED_IN, LOGIN),
                                            {"a crash", SHIM_CRASH, DEVICE}};
static const struct code no_answer = {"no answer", CKR_OK, DEVICE};
static const enum shim_where hanging[] = {SHIM_ENCRYPT, SHIM_DECRYPT, SHIM_SIGN, SHIM_RANDOM, SHIM_FIND, SHIM_GENERATE, SHIM_DESTROY, SHIM_CLOSE};
#undef ROW

size_t faults_num_short(void)
{
    return HPL_COUNT(places) * HPL_COUNT(codes) * NUM_WHENS * 2;
}

size_t faults_num_cases(void)
{
    return faults_num_short() + HPL_COUNT(lasting) * HPL_COUNT(lasting_codes) + HPL_COUNT(hanging);
}

static struct one_case long_case(size_t index)
{
    size_t code = index % HPL_COUNT(lasting_codes), place = index / HPL_COUNT(lasting_codes);
    if (place >= HPL_COUNT(lasting))
        return (struct one_case){.where = hanging[index - HPL_COUNT(lasting) * HPL_COUNT(lasting_codes)], .stage = WORK, .code = &no_answer, .when = HANGS};
    bool is_on_the_way_up = lasting[place] == SHIM_OPEN || lasting[place] == SHIM_INITIALIZE || lasting[place] == SHIM_LOGIN;
    return (struct one_case){.where = lasting[place], .stage = is_on_the_way_up ? RECONNECT : WORK, .code = &lasting_codes[code], .when = FOR_LONG};
}

struct one_case faults_case(size_t index)
{
    if (index >= faults_num_short())
        return long_case(index - faults_num_short());
    size_t code = index % HPL_COUNT(codes), place = index / HPL_COUNT(codes) % HPL_COUNT(places);
    size_t rest = index / HPL_COUNT(codes) / HPL_COUNT(places);
    return (struct one_case){.where = places[place].where, .stage = places[place].stage, .code = &codes[code], .when = (enum when)(rest / 2),
                             .is_after = rest % 2};
}

void faults_name(const struct one_case *one, char name[static 128])
{
    snprintf(name, 128, "%s: %s, %s, %s the call, at %s", functions[one->where], one->code->name, whens[one->when], one->is_after ? "after" : "before",
             stages[one->stage]);
}

/* What a code may become, whatever it strikes; unavailable is always honest. */
static bool is_of_family(const struct one_case *one, enum hpl_status status)
{
    switch (one->code->family) {
    case CALLER:
    case SESSION:
        return status == HPL_BACKEND;
    case CONFIG:
        return status == HPL_INTERNAL;
    case PIN:
        return status == HPL_PIN_REJECTED;
    default:
        return false;
    }
}

/* A ciphertext is refused only where the token may have meant it. */
static bool is_about_ciphertext(const struct one_case *one)
{
    CK_RV rv = one->code->rv;
    return one->where == SHIM_DECRYPT && (one->code->family == CALLER || rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED);
}

bool faults_may_see(const struct one_case *one, bool is_unwrap, enum hpl_status status)
{
    if (status == HPL_OK || status == HPL_KEY_UNAVAILABLE || is_of_family(one, status))
        return true;
    if (status == HPL_TIMEOUT)
        return one->when == HANGS;
    if (is_unwrap && status == HPL_INVALID_CIPHERTEXT)
        return is_about_ciphertext(one);
    return false;
}
