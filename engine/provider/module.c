/* The loadable module's only exported name. */
#include "engine/provider/provider.h"

#include <openssl/core_dispatch.h>

OSSL_provider_init_fn OSSL_provider_init;

__attribute__((visibility("default"))) int OSSL_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *from_core, const OSSL_DISPATCH **functions,
                                                              void **provider)
{
    return hpl_provider_init(core, from_core, functions, provider);
}
