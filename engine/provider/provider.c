/* The OpenSSL 3 provider "hardplate": AES-GCM by the best kernel of this processor. No threads, no locks, no state: it works after fork. */
#include "engine/provider/provider.h"

#include <stdbool.h>
#include <stdint.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/params.h>

#include "engine/gcm/gcm.h"
#include "engine/provider/cipher.h"

static OSSL_FUNC_provider_teardown_fn teardown;
static void teardown(void *provider)
{
    (void)provider;
}

static OSSL_FUNC_provider_gettable_params_fn gettable_params;
static const OSSL_PARAM *gettable_params(void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_NAME, NULL, 0),
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_VERSION, NULL, 0),
        OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_BUILDINFO, NULL, 0),
        OSSL_PARAM_int(OSSL_PROV_PARAM_STATUS, NULL),
        OSSL_PARAM_END,
    };
    (void)provider;
    return table;
}

static bool put_text(OSSL_PARAM params[], const char *name, const char *text)
{
    OSSL_PARAM *param = OSSL_PARAM_locate(params, name);
    return !param || OSSL_PARAM_set_utf8_ptr(param, text);
}

/* The build info is the kernel in use. */
static OSSL_FUNC_provider_get_params_fn get_params;
static int get_params(void *provider, OSSL_PARAM params[])
{
    OSSL_PARAM *status = OSSL_PARAM_locate(params, OSSL_PROV_PARAM_STATUS);
    (void)provider;
    return put_text(params, OSSL_PROV_PARAM_NAME, "hardplate") && put_text(params, OSSL_PROV_PARAM_VERSION, HPL_VERSION) &&
           put_text(params, OSSL_PROV_PARAM_BUILDINFO, hpl_gcm_kernel()->name) && (!status || OSSL_PARAM_set_int(status, 1));
}

static OSSL_FUNC_provider_query_operation_fn query_operation;
static const OSSL_ALGORITHM *query_operation(void *provider, int operation, int *is_uncached)
{
    (void)provider;
    *is_uncached = 0;
    return operation == OSSL_OP_CIPHER ? hpl_provider_ciphers : NULL;
}

/* Kernels are tested before they are chosen. */
static OSSL_FUNC_provider_self_test_fn self_test;
static int self_test(void *provider)
{
    (void)provider;
    return hpl_gcm_kernel() != NULL;
}

int hpl_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *from_core, const OSSL_DISPATCH **functions, void **provider)
{
    static const OSSL_DISPATCH table[] = {
        {OSSL_FUNC_PROVIDER_TEARDOWN, (void (*)(void))teardown},
        {OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, (void (*)(void))gettable_params},
        {OSSL_FUNC_PROVIDER_GET_PARAMS, (void (*)(void))get_params},
        {OSSL_FUNC_PROVIDER_QUERY_OPERATION, (void (*)(void))query_operation},
        {OSSL_FUNC_PROVIDER_SELF_TEST, (void (*)(void))self_test},
        {0, NULL},
    };
    (void)from_core;
    *provider = (void *)(uintptr_t)core; /* only to be non-NULL */
    *functions = table;
    return 1;
}
