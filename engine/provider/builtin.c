/* A private library context with our provider before the default one. */
#include "engine/provider/builtin.h"

#include <pthread.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include "engine/provider/provider.h"

static OSSL_LIB_CTX *libctx;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void make_libctx(void)
{
    OSSL_LIB_CTX *made = OSSL_LIB_CTX_new();
    if (made && OSSL_PROVIDER_add_builtin(made, "hardplate", hpl_provider_init) && OSSL_PROVIDER_load(made, "hardplate") &&
        OSSL_PROVIDER_load(made, "default") && EVP_set_default_properties(made, "?provider=hardplate"))
        libctx = made;
    else
        OSSL_LIB_CTX_free(made);
}

OSSL_LIB_CTX *hpl_provider_libctx(void)
{
    pthread_once(&once, make_libctx);
    return libctx;
}
