/* SoftHSM with its configuration named by C_Initialize's pReserved, so that one process can hold several, each from a copy of this
 * module with a copy of libsofthsm2.so beside it ("softhsm.so"). */
#include "backends/pkcs11/cryptoki.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

static CK_FUNCTION_LIST *real;
static CK_FUNCTION_LIST mine;

/* SoftHSM reads the environment, which belongs to the process: under a lock that all copies of this module share. */
static CK_RV initialize(void *given)
{
    CK_C_INITIALIZE_ARGS args = *(CK_C_INITIALIZE_ARGS *)given;
    const char *conf = args.pReserved;
    args.pReserved = NULL;
    flockfile(stdin);
    if (conf)
        setenv("SOFTHSM2_CONF", conf, 1);
    CK_RV rv = real->C_Initialize(&args);
    funlockfile(stdin);
    return rv;
}

static int load(void)
{
    Dl_info info;
    char path[4096];
    const char *end = dladdr((void *)&mine, &info) ? strrchr(info.dli_fname, '/') : NULL;
    if (!end)
        return 0;
    snprintf(path, sizeof path, "%.*s/softhsm.so", (int)(end - info.dli_fname), info.dli_fname);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CK_C_GetFunctionList get = module ? (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList") : NULL;
    return get && get(&real) == CKR_OK;
}

EXPORT CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list);
CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (!real && !load())
        return CKR_GENERAL_ERROR;
    mine = *real;
    mine.C_Initialize = initialize;
    *list = &mine;
    return CKR_OK;
}
