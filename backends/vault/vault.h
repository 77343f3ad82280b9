/* The Vault and OpenBao backend: transit keeps the master keys, KV v2 their records. */
#ifndef HPL_BACKENDS_VAULT_VAULT_H
#define HPL_BACKENDS_VAULT_VAULT_H

#include "kms/keystore.h"

extern const struct hpl_backend hpl_backend_vault;

#endif
