/* A PKCS#11 module between p11-kit and SoftHSM, for tests: other tokens' ways with IVs, injected errors, counters. Knobs: p11_shim.h. */
#include "backends/pkcs11/cryptoki.h"
#include "tests/shim/p11_shim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_SESSIONS 256

EXPORT extern struct shim hpl_shim;
struct shim hpl_shim;

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST mine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { CK_SESSION_HANDLE session; unsigned char iv[16]; } appended[MAX_SESSIONS];

static CK_RV injected(enum shim_where where)
{
    CK_RV rv = CKR_OK;
    pthread_mutex_lock(&lock);
    if (hpl_shim.where == where && hpl_shim.times) {
        hpl_shim.times--;
        rv = hpl_shim.rv;
    }
    pthread_mutex_unlock(&lock);
    return rv;
}

static void count(unsigned *what, int by)
{
    pthread_mutex_lock(&lock);
    *what += (unsigned)by;
    pthread_mutex_unlock(&lock);
}

static int is_zero(const unsigned char *bytes, size_t len)
{
    size_t i = 0;
    while (i < len && bytes[i] == 0)
        i++;
    return i == len;
}

static void keep_iv(CK_SESSION_HANDLE session, const unsigned char *iv)
{
    pthread_mutex_lock(&lock);
    appended[session % MAX_SESSIONS].session = session;
    memcpy(appended[session % MAX_SESSIONS].iv, iv, 16);
    pthread_mutex_unlock(&lock);
}

static CK_RV encrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
    static const unsigned char constant[12] = "constant iv";
    CK_RV rv = injected(SHIM_ENCRYPT_INIT);
    if (rv != CKR_OK || mechanism->mechanism != CKM_AES_GCM || hpl_shim.iv == SHIM_AS_IS)
        return rv != CKR_OK ? rv : real->C_EncryptInit(session, mechanism, key);
    CK_GCM_PARAMS params = *(CK_GCM_PARAMS *)mechanism->pParameter, *given = mechanism->pParameter;
    CK_MECHANISM changed = {CKM_AES_GCM, &params, sizeof params};
    unsigned char iv[16];
    int is_asked = given->ulIvLen == 12 && is_zero(given->pIv, 12);
    if (getrandom(iv, sizeof iv, 0) != sizeof iv || hpl_shim.iv == SHIM_NO_GCM)
        return CKR_MECHANISM_INVALID;
    if (hpl_shim.iv == SHIM_RETURNS_ONE || hpl_shim.iv == SHIM_IGNORES)
        memcpy(iv, constant, sizeof constant);
    if ((hpl_shim.iv == SHIM_RETURNS || hpl_shim.iv == SHIM_RETURNS_ONE) && !is_asked)
        return CKR_MECHANISM_PARAM_INVALID;
    params.pIv = iv;
    params.ulIvLen = hpl_shim.iv == SHIM_APPENDS ? 16 : 12;
    params.ulIvBits = params.ulIvLen * 8;
    rv = real->C_EncryptInit(session, &changed, key);
    if (hpl_shim.iv == SHIM_APPENDS)
        keep_iv(session, iv);
    else if (hpl_shim.iv != SHIM_IGNORES && rv == CKR_OK)
        memcpy(given->pIv, iv, 12);
    return rv;
}

static CK_RV encrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CK_RV rv = injected(SHIM_ENCRYPT);
    if (rv != CKR_OK)
        return rv;
    rv = real->C_Encrypt(session, in, in_len, out, out_len);
    if (rv == CKR_OK && hpl_shim.iv == SHIM_APPENDS && appended[session % MAX_SESSIONS].session == session) {
        memcpy(out + *out_len, appended[session % MAX_SESSIONS].iv, 16);
        *out_len += 16;
    }
    return rv;
}

static CK_RV decrypt_init(CK_SESSION_HANDLE session, CK_MECHANISM_PTR mechanism, CK_OBJECT_HANDLE key)
{
    CK_RV rv = injected(SHIM_DECRYPT_INIT);
    if (rv != CKR_OK)
        return rv;
    if (hpl_shim.iv != SHIM_IGNORES || mechanism->mechanism != CKM_AES_GCM)
        return real->C_DecryptInit(session, mechanism, key);
    unsigned char iv[12] = "constant iv";
    CK_GCM_PARAMS params = *(CK_GCM_PARAMS *)mechanism->pParameter;
    CK_MECHANISM changed = {CKM_AES_GCM, &params, sizeof params};
    params.pIv = iv;
    return real->C_DecryptInit(session, &changed, key);
}

static CK_RV decrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CK_RV rv = injected(SHIM_DECRYPT);
    return rv != CKR_OK ? rv : real->C_Decrypt(session, in, in_len, out, out_len);
}

static CK_RV find_init(CK_SESSION_HANDLE session, CK_ATTRIBUTE_PTR template, CK_ULONG num)
{
    CK_RV rv = injected(SHIM_FIND);
    count(&hpl_shim.num_finds, 1);
    return rv != CKR_OK ? rv : real->C_FindObjectsInit(session, template, num);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR in, CK_ULONG in_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    CK_RV rv = injected(SHIM_SIGN);
    return rv != CKR_OK ? rv : real->C_Sign(session, in, in_len, out, out_len);
}

static CK_RV open_session(CK_SLOT_ID slot, CK_FLAGS flags, void *application, CK_NOTIFY notify, CK_SESSION_HANDLE_PTR session)
{
    CK_RV rv = injected(SHIM_OPEN);
    if (rv == CKR_OK)
        rv = real->C_OpenSession(slot, flags, application, notify, session);
    if (rv == CKR_OK)
        count(&hpl_shim.num_open, 1);
    return rv;
}

static CK_RV close_session(CK_SESSION_HANDLE session)
{
    CK_RV rv = real->C_CloseSession(session);
    if (rv == CKR_OK)
        count(&hpl_shim.num_open, -1);
    return rv;
}

static CK_RV login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG pin_len)
{
    count(&hpl_shim.num_logins, 1);
    return real->C_Login(session, user, pin, pin_len);
}

static CK_RV initialize(void *args)
{
    count(&hpl_shim.num_initialised, 1);
    return real->C_Initialize(args);
}

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    void *module = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = module ? (CK_RV (*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(module, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != CKR_OK)
        return CKR_GENERAL_ERROR;
    mine = *real;
    mine.C_EncryptInit = encrypt_init;
    mine.C_Encrypt = encrypt;
    mine.C_DecryptInit = decrypt_init;
    mine.C_Decrypt = decrypt;
    mine.C_FindObjectsInit = find_init;
    mine.C_Sign = sign;
    mine.C_OpenSession = open_session;
    mine.C_CloseSession = close_session;
    mine.C_Login = login;
    mine.C_Initialize = initialize;
    *list = &mine;
    return CKR_OK;
}
