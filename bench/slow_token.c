/* A PKCS#11 module before SoftHSM that takes HPL_SLOW_TOKEN_MS milliseconds longer for every call that works with a key, as a token behind a network does:
 * hardplate-bench kms --latency-ms. Sessions do not wait for each other. */
#include "backends/pkcs11/cryptoki.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST mine;
static long delay_ms;

static void wait_for_the_network(void)
{
    const struct timespec delay = {delay_ms / 1000, delay_ms % 1000 * 1000000};
    nanosleep(&delay, NULL);
}

static CK_RV encrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG data_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    wait_for_the_network();
    return real->C_Encrypt(session, data, data_len, out, out_len);
}

static CK_RV decrypt(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG data_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    wait_for_the_network();
    return real->C_Decrypt(session, data, data_len, out, out_len);
}

static CK_RV generate_random(CK_SESSION_HANDLE session, CK_BYTE_PTR out, CK_ULONG len)
{
    wait_for_the_network();
    return real->C_GenerateRandom(session, out, len);
}

static CK_RV sign(CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG data_len, CK_BYTE_PTR out, CK_ULONG_PTR out_len)
{
    wait_for_the_network();
    return real->C_Sign(session, data, data_len, out, out_len);
}

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list);
EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
    const char *text = getenv("HPL_SLOW_TOKEN_MS");
    void *library = dlopen("/usr/lib/softhsm/libsofthsm2.so", RTLD_NOW | RTLD_LOCAL);
    CK_C_GetFunctionList get = library ? (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != CKR_OK)
        return CKR_GENERAL_ERROR;
    delay_ms = text ? strtol(text, NULL, 10) : 0;
    mine = *real;
    mine.C_Encrypt = encrypt;
    mine.C_Decrypt = decrypt;
    mine.C_GenerateRandom = generate_random;
    mine.C_Sign = sign;
    *list = &mine;
    return CKR_OK;
}
