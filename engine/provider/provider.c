/* The OpenSSL 3 provider "hardplate": AES-GCM by the best kernel of this processor. Unless it is told to
 * have threads: no threads, no locks, no state. Works after fork. */
#include "engine/provider/provider.h"

#include <stdbool.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <openssl/proverr.h>

#include "engine/gcm/gcm.h"
#include "engine/provider/cipher.h"
#include "engine/provider/threads.h"

static _Atomic(unsigned) default_threads;

void hpl_provider_set_threads(unsigned count)
{
    atomic_store(&default_threads, count < HPL_THREADS_MAX ? count : HPL_THREADS_MAX);
}

static OSSL_FUNC_provider_teardown_fn teardown;
static void teardown(void *vprovider)
{
    struct hpl_provider *provider = vprovider;
    hpl_threads_free(provider->threads);
    free(provider);
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

/* Decimal digits alone, at most HPL_THREADS_MAX. */
static bool parse_threads(const char *text, unsigned *count)
{
    unsigned value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && value <= HPL_THREADS_MAX; at++)
        value = value * 10 + (unsigned)(*at - '0');
    *count = value;
    return at != text && *at == '\0' && value <= HPL_THREADS_MAX;
}

/* "threads = N" in the provider's section of openssl.cnf; what the program set where there is none. False when it is no number we can serve. */
static bool find_threads(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *from_core, unsigned *count)
{
    char *text = NULL;
    OSSL_PARAM params[] = {OSSL_PARAM_utf8_ptr("threads", &text, 0), OSSL_PARAM_END};
    OSSL_FUNC_core_get_params_fn *get = NULL;
    for (; from_core->function_id; from_core++)
        if (from_core->function_id == OSSL_FUNC_CORE_GET_PARAMS)
            get = OSSL_FUNC_core_get_params(from_core);
    *count = atomic_load(&default_threads);
    return !get || !get(core, params) || !text || parse_threads(text, count);
}

static struct hpl_provider *new_provider(unsigned num_threads)
{
    struct hpl_provider *provider = calloc(1, sizeof *provider);
    if (provider && num_threads > 1 && !(provider->threads = hpl_threads_new(num_threads))) {
        free(provider);
        return NULL;
    }
    return provider;
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
    unsigned num_threads;
    if (!find_threads(core, from_core, &num_threads)) {
        ERR_raise_data(ERR_LIB_PROV, PROV_R_INVALID_DATA, "threads must be a number from 0 to %u", HPL_THREADS_MAX);
        return 0;
    }
    if (!(*provider = new_provider(num_threads))) {
        ERR_raise(ERR_LIB_PROV, ERR_R_MALLOC_FAILURE);
        return 0;
    }
    *functions = table;
    return 1;
}
