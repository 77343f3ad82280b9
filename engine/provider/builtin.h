/* The provider inside our own programs: TLS and whatever else asks EVP gets our AES-GCM. */
#ifndef HPL_ENGINE_PROVIDER_BUILTIN_H
#define HPL_ENGINE_PROVIDER_BUILTIN_H

#include <openssl/types.h>

/* A library context of our own, made once and kept: AES-GCM from "hardplate", all else from "default". NULL when OpenSSL could not make it. Any thread. */
OSSL_LIB_CTX *hpl_provider_libctx(void);

#endif
