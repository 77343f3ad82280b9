/* The backend for PKCS#11 tokens: what the list of backends and the tests need to know of it. */
#ifndef HPL_BACKENDS_PKCS11_PKCS11_H
#define HPL_BACKENDS_PKCS11_PKCS11_H

#include "kms/keystore.h"

/* Keys made in the token, never extractable; data keys wrapped there by CKM_AES_GCM; records in the catalog, authenticated by the
 * token. Needs env->catalog, env->state_dir, env->root and at least one entry in env->tokens; all of them must outlive the keystore. */
extern const struct hpl_backend hpl_backend_pkcs11;

#endif
