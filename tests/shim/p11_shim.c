/* A PKCS#11 module between p11-kit and SoftHSM, for tests: other tokens' ways, injected faults, counters. Knobs: p11_shim.h. Any
 * thread. Handles carry the number of the initialisation they were given in, so that one kept too long is seen. */
#include "backends/pkcs11/cryptoki.h"
#include "tests/shim/p11_shim.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_SESSIONS 256u
#define MAX_TAINTED 4096u
#define MAX_KEYS 1024u
#define GENERATION_SHIFT 40

EXPORT extern struct shim hpl_shim;
struct shim hpl_shim;

static struct shim *state = &hpl_shim;
static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST mine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pid_t owner;
static CK_ULONG generation;                    /* of this process */
static CK_SESSION_HANDLE first_session, last_session, last_lost; /* as given, of this generation; under the lock */
static CK_SESSION_HANDLE tainted[MAX_TAINTED]; /* as given; under the lock */
static CK_OBJECT_HANDLE keys[MAX_KEYS];        /* key versions in the order they were used */
static unsigned num_keys;
static struct { CK_SESSION_HANDLE session; unsigned char iv[16], len; } appended[MAX_SESSIONS];

/* --- faults ----------------------------------------------------------------------------------------------------------------------- */

struct fault {
    CK_RV rv;
    unsigned is_after, delay_ms;
};

static unsigned long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (unsigned long long)now.tv_sec * 1000000000u + (unsigned long long)now.tv_nsec;
}

static void count(unsigned *what, int by)
{
    __atomic_fetch_add(what, (unsigned)by, __ATOMIC_RELAXED);
}

/* Under the lock. */
static int is_due(enum shim_where where)
{
    if (shim_get(state->where) != where || !state->times || (state->until_ns && now_ns() > state->until_ns))
        return 0;
    if (state->skip) {
        state->skip--;
        return 0;
    }
    if (state->every > 1)
        state->skip = state->every - 1;
    if (state->times != SHIM_ALWAYS)
        state->times--;
    return 1;
}

static int is_about_the_module(enum shim_where where)
{
    return where == SHIM_INITIALIZE || where == SHIM_FINALIZE || where == SHIM_GET_INFO || where == SHIM_CLOSE;
}

static struct fault fault_of(enum shim_where where)
{
    struct fault fault = {CKR_OK, 0, 0};
    count(&state->num_calls[where], 1);
    if (getpid() != owner)
        count(&state->num_foreign, 1);
    pthread_mutex_lock(&lock);
    if (is_due(where)) {
        fault = (struct fault){state->rv, state->is_after, state->delay_ms};
        if (state->then_rv != CKR_OK)
            state->rv = state->then_rv;
        count(&state->num_injected, 1);
    } else if (shim_get(state->is_dead) && !is_about_the_module(where))
        fault.rv = CKR_DEVICE_ERROR;
    pthread_mutex_unlock(&lock);
    for (unsigned slept = 0; slept < fault.delay_ms && shim_get(state->where) == where; slept += 5)
        usleep(5000);
    if (fault.rv == SHIM_CRASH)
        raise(SIGSEGV);
    return fault;
}

static CK_RV answer(struct fault fault, CK_RV rv)
{
    return fault.is_after && rv == CKR_OK ? fault.rv : rv;
}

/* --- handles ------------------------------------------------------------------------------------------------------------------------ */

static CK_ULONG give(CK_ULONG handle)
{
    return handle ? handle | __atomic_load_n(&generation, __ATOMIC_ACQUIRE) << GENERATION_SHIFT : handle;
}

static int is_stale(CK_ULONG handle)
{
    return handle >> GENERATION_SHIFT != __atomic_load_n(&generation, __ATOMIC_ACQUIRE);
}

static CK_ULONG bare(CK_ULONG handle)
{
    return handle & (((CK_ULONG)1 << GENERATION_SHIFT) - 1);
}

static CK_RV take_object(CK_OBJECT_HANDLE *handle)
{
    if (is_stale(*handle)) {
        count(&state->num_stale_objects, 1);
        return CKR_OBJECT_HANDLE_INVALID;
    }
    *handle = bare(*handle);
    return CKR_OK;
}

/* Operations of more than one step: a failure of one may leave the session busy. */
static int has_steps(enum shim_where where)
{
    return (where >= SHIM_FIND && where <= SHIM_FIND_FINAL) || (where >= SHIM_ENCRYPT_INIT && where <= SHIM_SIGN);
}

static void taint(CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&lock);
    tainted[session % MAX_TAINTED] = session;
    pthread_mutex_unlock(&lock);
}

static void judge_use(enum shim_where where, CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&lock);
    int is_bad = tainted[session % MAX_TAINTED] == session && session;
    pthread_mutex_unlock(&lock);
    if (is_bad && has_steps(where))
        count(&state->num_tainted, 1);
}

static int is_lost(CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&lock);
    if (shim_get(state->loses_sessions)) {
        last_lost = last_session;
        shim_set(state->loses_sessions, 0);
    }
    int is = session > first_session && session <= last_lost;
    pthread_mutex_unlock(&lock);
    return is;
}

static CK_RV take_session(enum shim_where where, CK_SESSION_HANDLE *session, struct fault *fault)
{
    *fault = fault_of(where);
    if (is_stale(*session)) {
        count(&state->num_stale_sessions, 1);
        return CKR_SESSION_HANDLE_INVALID;
    }
    if (where != SHIM_CLOSE && is_lost(*session))
        return CKR_SESSION_HANDLE_INVALID;
    if (shim_get(state->has_lost_anchor) && where != SHIM_CLOSE && (*session == first_session || has_steps(where)))
        return *session == first_session ? CKR_SESSION_HANDLE_INVALID : CKR_USER_NOT_LOGGED_IN;
    judge_use(where, *session);
    if (fault->rv != CKR_OK && has_steps(where))
        taint(*session);
    *session = bare(*session);
    return fault->is_after ? CKR_OK : fault->rv;
}

/* --- IVs ------------------------------------------------------------------------------------------------------------------------------ */

static enum shim_iv iv_way(void)
{
    return shim_get(state->iv);
}

static int is_zero(const unsigned char *bytes, size_t len)
{
    size_t i = 0;
    while (i < len && bytes[i] == 0)
        i++;
    return i == len;
}

static void keep_iv(CK_SESSION_HANDLE session, const unsigned char *iv, CK_ULONG len)
{
    pthread_mutex_lock(&lock);
    appended[session % MAX_SESSIONS].session = session;
    appended[session % MAX_SESSIONS].len = (unsigned char)len;
    memcpy(appended[session % MAX_SESSIONS].iv, iv, 16);
    pthread_mutex_unlock(&lock);
}

static void append_iv(CK_SESSION_HANDLE session, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    pthread_mutex_lock(&lock);
    if (appended[session % MAX_SESSIONS].session == session) {
        unsigned len = appended[session % MAX_SESSIONS].len;
        memcpy(out + *out_len, appended[session % MAX_SESSIONS].iv, len);
        *out_len += len;
        appended[session % MAX_SESSIONS].session = 0;
    }
    pthread_mutex_unlock(&lock);
}

static int does_append(enum shim_iv way)
{
    return way == SHIM_APPENDS || way == SHIM_APPENDS_12 || way == SHIM_APPENDS_GARBAGE;
}

static int does_return(enum shim_iv way)
{
    return way == SHIM_RETURNS || way == SHIM_RETURNS_ONE || way == SHIM_RETURNS_ZERO || way == SHIM_RETURNS_GARBAGE;
}

static CK_RV encrypt_gcm(CK_SESSION_HANDLE session, CK_GCM_PARAMS *given, CK_OBJECT_HANDLE key, enum shim_iv way)
{
    CK_GCM_PARAMS params = *given;
    CK_MECHANISM changed = {CKM_AES_GCM, &params, sizeof params};
    unsigned char iv[16], other[16];
    int is_asked = given->ulIvLen == 12 && is_zero(given->pIv, 12);
    if (way == SHIM_NO_GCM || getrandom(iv, sizeof iv, 0) != sizeof iv || getrandom(other, sizeof other, 0) != sizeof other)
        return CKR_MECHANISM_INVALID;
    if (way == SHIM_RETURNS_ONE || way == SHIM_IGNORES)
        memcpy(iv, "constant iv", 12);
    if (way == SHIM_RETURNS_ZERO)
        memset(iv, 0, sizeof iv);
    if (does_return(way) && !is_asked)
        return CKR_MECHANISM_PARAM_INVALID;
    params.pIv = iv;
    params.ulIvLen = way == SHIM_APPENDS ? 16 : 12;
    params.ulIvBits = params.ulIvLen * 8;
    CK_RV rv = real->C_EncryptInit(session, &changed, key);
    if (does_append(way))
        keep_iv(session, way == SHIM_APPENDS_GARBAGE ? other : iv, params.ulIvLen);
    else if (does_return(way) && rv == CKR_OK)
        memcpy(given->pIv, way == SHIM_RETURNS_GARBAGE ? other : iv, 12);
    return rv;
}

/* --- keys mixed up ---------------------------------------------------------------------------------------------------------------------- */

/* A key version of ours: neither the canary nor what is tried out in a session. */
static int is_worth_mixing(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    char label[64] = "";
    CK_ATTRIBUTE template = {CKA_LABEL, label, sizeof label - 1};
    return real->C_GetAttributeValue(session, key, &template, 1) == CKR_OK && strncmp(label, "hpl/", 4) == 0 && strncmp(label, "hpl/canary", 10) != 0;
}

/* The other of its pair, in order of first use. */
static CK_OBJECT_HANDLE mixed(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE key)
{
    unsigned i = 0;
    pthread_mutex_lock(&lock);
    while (i < num_keys && keys[i] != key)
        i++;
    if (i == num_keys && num_keys < MAX_KEYS && is_worth_mixing(session, key))
        keys[num_keys++] = key;
    if (shim_get(state->mixes_keys) && (i ^ 1) < num_keys)
        key = keys[i ^ 1];
    pthread_mutex_unlock(&lock);
    return key;
}

static void wait_latency(void)
{
    unsigned us = shim_get(state->latency_us);
    if (us)
        usleep(us);
}

/* --- the functions of a session ------------------------------------------------------------------------------------------------------------ */

/* ON_SESSION(knob, name, parameters, what to do with the bare handles): the fault before, the work, the fault after. */
#define ON_SESSION(knob, name, parameters, work)                                                                                       \
    static CK_RV shim_##name parameters                                                                                                \
    {                                                                                                                                  \
        struct fault fault;                                                                                                            \
        CK_RV rv = take_session(SHIM_##knob, &session, &fault);                                                                        \
        return rv != CKR_OK ? rv : answer(fault, work);                                                                                \
    }

#define ON_OBJECT(knob, name, parameters, work)                                                                                        \
    static CK_RV shim_##name parameters                                                                                                \
    {                                                                                                                                  \
        struct fault fault;                                                                                                            \
        CK_RV rv = take_session(SHIM_##knob, &session, &fault);                                                                        \
        if (rv == CKR_OK)                                                                                                              \
            rv = take_object(&object);                                                                                                 \
        return rv != CKR_OK ? rv : answer(fault, work);                                                                                \
    }

static CK_RV without_context(CK_SESSION_HANDLE session, const CK_MECHANISM *given, CK_OBJECT_HANDLE key,
                             CK_RV (*init)(CK_SESSION_HANDLE, CK_MECHANISM_PTR, CK_OBJECT_HANDLE))
{
    CK_GCM_PARAMS params = *(CK_GCM_PARAMS *)given->pParameter;
    CK_MECHANISM changed = {CKM_AES_GCM, &params, sizeof params};
    params.pAAD = NULL;
    params.ulAADLen = 0;
    return init(session, &changed, key);
}

/* GCM is counter mode from 2 on (SP 800-38D section 7.2). */
static CK_RV without_tag(CK_SESSION_HANDLE session, const CK_GCM_PARAMS *given, CK_OBJECT_HANDLE key)
{
    CK_AES_CTR_PARAMS params = {.ulCounterBits = 32};
    CK_MECHANISM changed = {CKM_AES_CTR, &params, sizeof params};
    memcpy(params.cb, given->pIv, 12);
    params.cb[15] = 2;
    return real->C_DecryptInit(session, &changed, key);
}

static CK_RV encrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE object)
{
    enum shim_iv way = iv_way();
    if (mechanism->mechanism == CKM_AES_GCM && way == SHIM_NO_CONTEXT)
        return without_context(session, mechanism, mixed(session, object), real->C_EncryptInit);
    if (mechanism->mechanism != CKM_AES_GCM || way == SHIM_AS_IS || way >= SHIM_HIDES_GCM)
        return real->C_EncryptInit(session, mechanism, mixed(session, object));
    return encrypt_gcm(session, mechanism->pParameter, mixed(session, object), way);
}

static CK_RV encrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    wait_latency();
    CK_RV rv = real->C_Encrypt(session, in, in_len, out, out_len);
    if (rv == CKR_OK && out && does_append(iv_way()))
        append_iv(session, out, out_len);
    return rv;
}

static CK_RV decrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE object)
{
    if (mechanism->mechanism == CKM_AES_GCM && iv_way() == SHIM_NO_CONTEXT)
        return without_context(session, mechanism, mixed(session, object), real->C_DecryptInit);
    if (mechanism->mechanism == CKM_AES_GCM && iv_way() == SHIM_NO_TAG)
        return without_tag(session, mechanism->pParameter, mixed(session, object));
    if (iv_way() != SHIM_IGNORES || mechanism->mechanism != CKM_AES_GCM)
        return real->C_DecryptInit(session, mechanism, mixed(session, object));
    unsigned char iv[12] = "constant iv";
    CK_GCM_PARAMS params = *(CK_GCM_PARAMS *)mechanism->pParameter;
    CK_MECHANISM changed = {CKM_AES_GCM, &params, sizeof params};
    params.pIv = iv;
    params.ulIvLen = sizeof iv;
    params.ulIvBits = sizeof iv * 8;
    return real->C_DecryptInit(session, &changed, mixed(session, object));
}

static CK_RV decrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    wait_latency();
    CK_ULONG cut = iv_way() == SHIM_NO_TAG && in_len >= 16 ? 16 : 0;
    CK_RV rv = real->C_Decrypt(session, in, in_len - cut, out, out_len);
    if (iv_way() == SHIM_OPENS_CUT && in_len <= 16) {
        *out_len = 0;
        rv = CKR_OK;
    }
    if (rv == CKR_OK && shim_get(state->told_len))
        *out_len = shim_get(state->told_len);
    return rv;
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    wait_latency();
    return real->C_Sign(session, in, in_len, out, out_len);
}

static CK_RV find_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR template, CK_ULONG num)
{
    count(&state->num_finds, 1);
    return real->C_FindObjectsInit(session, template, num);
}

static CK_RV find_next(CK_SESSION_HANDLE session, CK_OBJECT_HANDLE_PTR found, CK_ULONG most, CK_ULONG_PTR num)
{
    CK_RV rv = real->C_FindObjects(session, found, most, num);
    for (; rv == CKR_OK && shim_get(state->finds_no_end) && most > 2 && *num < most; ++*num)
        found[*num] = 1;
    for (CK_ULONG i = 0; rv == CKR_OK && i < *num; i++)
        found[i] = give(found[i]);
    return rv;
}

static int is_of_session(const CK_ATTRIBUTE *template, CK_ULONG num)
{
    int is_token = 0;
    for (CK_ULONG i = 0; i < num; i++)
        if (template[i].type == CKA_TOKEN && template[i].pValue)
            is_token = *(const CK_BBOOL *)template[i].pValue == CK_TRUE;
    return !is_token;
}

static CK_RV generate(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR template, CK_ULONG num, CK_OBJECT_HANDLE_PTR object)
{
    if (shim_get(state->has_no_session_objects) && is_of_session(template, num))
        return CKR_ATTRIBUTE_VALUE_INVALID;
    CK_RV rv = real->C_GenerateKey(session, mechanism, template, num, object);
    if (rv == CKR_OK)
        *object = give(*object);
    return rv;
}

static CK_RV generate_pair(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR public_template, CK_ULONG num_public,
                           CK_ATTRIBUTE_PTR private_template, CK_ULONG num_private, CK_OBJECT_HANDLE_PTR public_key, CK_OBJECT_HANDLE_PTR private_key)
{
    if (shim_get(state->has_no_session_objects) && is_of_session(private_template, num_private))
        return CKR_ATTRIBUTE_VALUE_INVALID;
    CK_RV rv = real->C_GenerateKeyPair(session, mechanism, public_template, num_public, private_template, num_private, public_key, private_key);
    if (rv == CKR_OK) {
        *public_key = give(*public_key);
        *private_key = give(*private_key);
    }
    return rv;
}

static CK_RV create(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR template, CK_ULONG num, CK_OBJECT_HANDLE_PTR object)
{
    if (shim_get(state->has_no_session_objects) && is_of_session(template, num))
        return CKR_ATTRIBUTE_VALUE_INVALID;
    CK_RV rv = real->C_CreateObject(session, template, num, object);
    if (rv == CKR_OK)
        *object = give(*object);
    return rv;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG pin_len)
{
    return real->C_Login(session, user, pin, pin_len);
}

ON_SESSION(GET_SESSION_INFO, C_GetSessionInfo, (CK_SESSION_HANDLE session, CK_SESSION_INFO_PTR info), real->C_GetSessionInfo(session, info))
ON_SESSION(LOGOUT, C_Logout, (CK_SESSION_HANDLE session), real->C_Logout(session))
ON_SESSION(FIND, C_FindObjectsInit, (CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR template, CK_ULONG num), find_init(session, template, num))
ON_SESSION(FIND_NEXT, C_FindObjects, (CK_SESSION_HANDLE session, CK_OBJECT_HANDLE_PTR found, CK_ULONG most, CK_ULONG_PTR num),
           find_next(session, found, most, num))
ON_SESSION(FIND_FINAL, C_FindObjectsFinal, (CK_SESSION_HANDLE session), real->C_FindObjectsFinal(session))
ON_OBJECT(GET_ATTRIBUTES, C_GetAttributeValue, (CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object, CK_ATTRIBUTE_PTR template, CK_ULONG num),
          real->C_GetAttributeValue(session, object, template, num))
ON_SESSION(GENERATE, C_GenerateKey, (CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR template, CK_ULONG num,
           CK_OBJECT_HANDLE_PTR object), generate(session, mechanism, template, num, object))
ON_SESSION(GENERATE_PAIR, C_GenerateKeyPair, (CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_ATTRIBUTE_PTR public_template,
           CK_ULONG num_public, CK_ATTRIBUTE_PTR private_template, CK_ULONG num_private, CK_OBJECT_HANDLE_PTR public_key,
           CK_OBJECT_HANDLE_PTR private_key),
           generate_pair(session, mechanism, public_template, num_public, private_template, num_private, public_key, private_key))
ON_SESSION(CREATE, C_CreateObject, (CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR template, CK_ULONG num, CK_OBJECT_HANDLE_PTR object),
           create(session, template, num, object))
ON_OBJECT(DESTROY, C_DestroyObject, (CK_SESSION_HANDLE session, CK_OBJECT_HANDLE object), real->C_DestroyObject(session, object))
ON_OBJECT(ENCRYPT_INIT, C_EncryptInit, (CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE object),
          encrypt_init(session, mechanism, object))
ON_SESSION(ENCRYPT, C_Encrypt, (CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len),
           encrypt(session, in, in_len, out, out_len))
ON_OBJECT(DECRYPT_INIT, C_DecryptInit, (CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE object),
          decrypt_init(session, mechanism, object))
ON_SESSION(DECRYPT, C_Decrypt, (CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len),
           decrypt(session, in, in_len, out, out_len))
ON_OBJECT(SIGN_INIT, C_SignInit, (CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE object),
          real->C_SignInit(session, mechanism, object))
ON_SESSION(SIGN, C_Sign, (CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len),
           sign(session, in, in_len, out, out_len))
ON_SESSION(RANDOM, C_GenerateRandom, (CK_SESSION_HANDLE session, CK_BYTE_PTR out, CK_ULONG len), real->C_GenerateRandom(session, out, len))

static CK_RV shim_C_Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG pin_len)
{
    struct fault fault;
    count(&state->num_logins, 1);
    CK_RV rv = take_session(SHIM_LOGIN, &session, &fault);
    return rv != CKR_OK ? rv : answer(fault, login(session, user, pin, pin_len));
}

/* --- the functions of the module and of a slot ------------------------------------------------------------------------------------------------ */

#define ON_MODULE(knob, name, parameters, work)                                                                                        \
    static CK_RV shim_##name parameters                                                                                                \
    {                                                                                                                                  \
        struct fault fault = fault_of(SHIM_##knob);                                                                                    \
        return fault.rv != CKR_OK && !fault.is_after ? fault.rv : answer(fault, work);                                                 \
    }

static CK_RV initialize(void *args)
{
    CK_RV rv = real->C_Initialize(args);
    count(&state->num_initialised, 1);
    if (rv != CKR_OK)
        return rv;
    pthread_mutex_lock(&lock);
    owner = getpid();
    __atomic_fetch_add(&generation, 1, __ATOMIC_ACQ_REL);
    memset(tainted, 0, sizeof tainted);
    num_keys = 0;
    first_session = last_session = last_lost = 0;
    shim_set(state->has_lost_anchor, 0);
    shim_set(state->num_open, 0);
    shim_set(state->is_dead, 0);
    pthread_mutex_unlock(&lock);
    return rv;
}

static CK_RV finalize(void *reserved)
{
    count(&state->num_finalized, 1);
    shim_set(state->num_open, 0);
    return real->C_Finalize(reserved);
}

static CK_RV token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info)
{
    CK_RV rv = real->C_GetTokenInfo(slot, info);
    if (rv != CKR_OK)
        return rv;
    info->flags |= shim_get(state->token_flags);
    if (shim_get(state->told_sessions))
        info->ulMaxRwSessionCount = shim_get(state->told_sessions);
    if (shim_get(state->has_other_serial))
        memcpy(info->serialNumber, "0ther5erial00000", 16);
    return rv;
}

static CK_RV slot_list(CK_BBOOL has_token, CK_SLOT_ID_PTR list, CK_ULONG_PTR num)
{
    CK_RV rv = real->C_GetSlotList(has_token, list, num);
    if (rv == CKR_OK && list)
        *num += shim_get(state->num_more_slots);
    return rv;
}

/* CKM_AES_GCM is taken out of the list. */
static CK_RV mechanism_list(CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR list, CK_ULONG_PTR num)
{
    CK_RV rv = real->C_GetMechanismList(slot, list, num);
    for (CK_ULONG i = 0; rv == CKR_OK && list && iv_way() == SHIM_HIDES_GCM && i < *num; i++)
        if (list[i] == CKM_AES_GCM)
            list[i] = list[--*num];
    return rv;
}

/* One more session, below the limit; false when there is no place. */
static int take_place(void)
{
    pthread_mutex_lock(&lock);
    unsigned limit = shim_get(state->session_limit);
    int has_place = !limit || shim_get(state->num_open) < limit;
    if (has_place)
        count(&state->num_open, 1);
    if (shim_get(state->num_open) > shim_get(state->num_most_open))
        shim_set(state->num_most_open, shim_get(state->num_open));
    pthread_mutex_unlock(&lock);
    return has_place;
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session, struct fault fault)
{
    CK_SESSION_HANDLE opened;
    if (!take_place())
        return CKR_SESSION_COUNT;
    CK_RV rv = real->C_OpenSession(slot, flags, application, notify, &opened);
    if (rv == CKR_OK && fault.rv != CKR_OK) {
        real->C_CloseSession(opened); /* nobody can close it whose handle was lost */
        rv = fault.rv;
    }
    if (rv != CKR_OK) {
        count(&state->num_open, -1);
        return rv;
    }
    *session = give(opened);
    pthread_mutex_lock(&lock);
    last_session = *session;
    first_session = first_session ? first_session : *session;
    pthread_mutex_unlock(&lock);
    return rv;
}

/* A session that could not be closed counts as given back: its owner can do no more. */
static CK_RV shim_C_CloseSession(CK_SESSION_HANDLE session)
{
    struct fault fault;
    int is_ours = !is_stale(session);
    CK_RV rv = take_session(SHIM_CLOSE, &session, &fault);
    if (rv == CKR_OK)
        rv = real->C_CloseSession(session);
    if (is_ours && (rv == CKR_OK || fault.rv != CKR_OK) && shim_get(state->num_open))
        count(&state->num_open, -1);
    return answer(fault, rv);
}

ON_MODULE(INITIALIZE, C_Initialize, (void *args), initialize(args))
ON_MODULE(FINALIZE, C_Finalize, (void *reserved), finalize(reserved))
ON_MODULE(GET_INFO, C_GetInfo, (CK_INFO_PTR info), real->C_GetInfo(info))
ON_MODULE(GET_SLOT_LIST, C_GetSlotList, (CK_BBOOL has_token, CK_SLOT_ID_PTR list, CK_ULONG_PTR num), slot_list(has_token, list, num))
ON_MODULE(GET_SLOT_INFO, C_GetSlotInfo, (CK_SLOT_ID slot, CK_SLOT_INFO_PTR info), real->C_GetSlotInfo(slot, info))
ON_MODULE(GET_TOKEN_INFO, C_GetTokenInfo, (CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info), token_info(slot, info))
ON_MODULE(GET_MECHANISM_LIST, C_GetMechanismList, (CK_SLOT_ID slot, CK_MECHANISM_TYPE_PTR list, CK_ULONG_PTR num), mechanism_list(slot, list, num))
ON_MODULE(GET_MECHANISM_INFO, C_GetMechanismInfo, (CK_SLOT_ID slot, CK_MECHANISM_TYPE type, CK_MECHANISM_INFO_PTR info),
          real->C_GetMechanismInfo(slot, type, info))
ON_MODULE(OPEN, C_OpenSession, (CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session),
          open_session(slot, flags, application, notify, session, fault))
ON_MODULE(CLOSE_ALL, C_CloseAllSessions, (CK_SLOT_ID slot), real->C_CloseAllSessions(slot))

/* --- the module -------------------------------------------------------------------------------------------------------------------------------- */

static void share(void)
{
    const char *path = getenv("HPL_SHIM_STATE"), *conf = getenv("SOFTHSM2_CONF");
    char beside[4096];
    if (!path && conf && snprintf(beside, sizeof beside, "%s.shim", conf) < (int)sizeof beside && access(beside, W_OK) == 0)
        path = beside;
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *shared = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (shared != MAP_FAILED)
        state = shared;
}

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    void *module = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = module ? (CK_RV (*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != CKR_OK)
        return CKR_GENERAL_ERROR;
    owner = getpid();
    share();
    mine = *real;
#define PUT(knob, name) mine.name = shim_##name;
    SHIM_FUNCTIONS(PUT)
#undef PUT
    *list = &mine;
    return CKR_OK;
}
