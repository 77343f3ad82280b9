/* AES-GCM as an OpenSSL provider's cipher. */
#ifndef HPL_ENGINE_PROVIDER_CIPHER_H
#define HPL_ENGINE_PROVIDER_CIPHER_H

#include <openssl/core.h>

/* The provider's rows for OSSL_OP_CIPHER, ended by an empty one. */
extern const OSSL_ALGORITHM hpl_provider_ciphers[];

#endif
