/* The provider's entry, under one name for the loadable module and for our own programs. */
#ifndef HPL_ENGINE_PROVIDER_PROVIDER_H
#define HPL_ENGINE_PROVIDER_PROVIDER_H

#include <openssl/core.h>

int hpl_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *from_core, const OSSL_DISPATCH **functions, void **provider);

#endif
