/* The one door where Cryptoki's codes become ours (PKCS#11 v2.40 section 5.1). Codes are hints: vendors differ, so what is not
 * listed counts as device trouble and the canary judges. Any thread. */
#include "backends/pkcs11/internal.h"

struct row {
    CK_RV rv;
    const char *name;
    enum hpl_p11_class class;
};

#define ROW(rv, class) {rv, #rv, HPL_P11_##class}
static const struct row rows[] = {
    ROW(CKR_ENCRYPTED_DATA_INVALID, CALLER), ROW(CKR_ENCRYPTED_DATA_LEN_RANGE, CALLER), ROW(CKR_DATA_INVALID, CALLER),
    ROW(CKR_DATA_LEN_RANGE, CALLER),

    ROW(CKR_SESSION_HANDLE_INVALID, SESSION), ROW(CKR_SESSION_CLOSED, SESSION), ROW(CKR_OPERATION_ACTIVE, SESSION),
    ROW(CKR_OPERATION_NOT_INITIALIZED, SESSION),

    ROW(CKR_OBJECT_HANDLE_INVALID, HANDLE), ROW(CKR_KEY_HANDLE_INVALID, HANDLE), ROW(CKR_KEY_CHANGED, HANDLE),

    ROW(CKR_USER_NOT_LOGGED_IN, LOGIN),

    ROW(CKR_DEVICE_ERROR, DEVICE), ROW(CKR_DEVICE_REMOVED, DEVICE), ROW(CKR_TOKEN_NOT_PRESENT, DEVICE),
    ROW(CKR_TOKEN_NOT_RECOGNIZED, DEVICE), ROW(CKR_SLOT_ID_INVALID, DEVICE), ROW(CKR_FUNCTION_FAILED, DEVICE),
    ROW(CKR_GENERAL_ERROR, DEVICE), ROW(CKR_CRYPTOKI_NOT_INITIALIZED, DEVICE), ROW(CKR_CRYPTOKI_ALREADY_INITIALIZED, DEVICE), ROW(CKR_ARGUMENTS_BAD, DEVICE),
    ROW(CKR_BUFFER_TOO_SMALL, DEVICE), ROW(CKR_CANT_LOCK, DEVICE), ROW(CKR_NEED_TO_CREATE_THREADS, DEVICE),

    ROW(CKR_SESSION_COUNT, LOAD), ROW(CKR_DEVICE_MEMORY, LOAD), ROW(CKR_HOST_MEMORY, LOAD), ROW(CKR_FUNCTION_CANCELED, LOAD),

    ROW(CKR_PIN_INCORRECT, PIN), ROW(CKR_PIN_INVALID, PIN), ROW(CKR_PIN_LEN_RANGE, PIN), ROW(CKR_PIN_EXPIRED, PIN),
    ROW(CKR_PIN_LOCKED, PIN), ROW(CKR_USER_PIN_NOT_INITIALIZED, PIN),

    ROW(CKR_MECHANISM_INVALID, CONFIG), ROW(CKR_MECHANISM_PARAM_INVALID, CONFIG), ROW(CKR_KEY_FUNCTION_NOT_PERMITTED, CONFIG),
    ROW(CKR_KEY_TYPE_INCONSISTENT, CONFIG), ROW(CKR_KEY_SIZE_RANGE, CONFIG), ROW(CKR_TEMPLATE_INCOMPLETE, CONFIG),
    ROW(CKR_TEMPLATE_INCONSISTENT, CONFIG), ROW(CKR_ATTRIBUTE_READ_ONLY, CONFIG), ROW(CKR_ATTRIBUTE_SENSITIVE, CONFIG),
    ROW(CKR_ATTRIBUTE_TYPE_INVALID, CONFIG), ROW(CKR_ATTRIBUTE_VALUE_INVALID, CONFIG), ROW(CKR_FUNCTION_NOT_SUPPORTED, CONFIG),
    ROW(CKR_TOKEN_WRITE_PROTECTED, CONFIG), ROW(CKR_SESSION_READ_ONLY, CONFIG), ROW(CKR_ACTION_PROHIBITED, CONFIG),
    ROW(CKR_RANDOM_NO_RNG, CONFIG),
};
#undef ROW

static const enum hpl_status statuses[] = {
    [HPL_P11_CALLER] = HPL_BACKEND,         [HPL_P11_SESSION] = HPL_BACKEND,
    [HPL_P11_HANDLE] = HPL_KEY_UNAVAILABLE, [HPL_P11_LOGIN] = HPL_KEY_UNAVAILABLE,
    [HPL_P11_DEVICE] = HPL_KEY_UNAVAILABLE, [HPL_P11_LOAD] = HPL_KEY_UNAVAILABLE,
    [HPL_P11_PIN] = HPL_PIN_REJECTED,       [HPL_P11_CONFIG] = HPL_INTERNAL, /* which nobody tries again */
};

static const struct row *row_of(CK_RV rv)
{
    for (size_t i = 0; i < HPL_COUNT(rows); i++)
        if (rows[i].rv == rv)
            return &rows[i];
    return NULL;
}

enum hpl_p11_class hpl_p11_classify(CK_RV rv)
{
    const struct row *row = row_of(rv);
    return rv == CKR_OK ? HPL_P11_NONE : row ? row->class : HPL_P11_DEVICE;
}

const char *hpl_p11_rv_name(CK_RV rv)
{
    const struct row *row = row_of(rv);
    return row ? row->name : "an unknown code";
}

enum hpl_status hpl_p11_fail(struct hpl_call *call, const char *function, CK_RV rv)
{
    HPL_CHECK(rv != CKR_OK);
    return hpl_fail(call, statuses[hpl_p11_classify(rv)], "%s returned %s (0x%lx)", function, hpl_p11_rv_name(rv), rv);
}
