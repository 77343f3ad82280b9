/* Where the key folder is, whether it may be used, and which one it is. Any thread; blocks on the disk. */
#ifndef HPL_BACKENDS_LOCAL_PLACE_H
#define HPL_BACKENDS_LOCAL_PLACE_H

#include <limits.h>

#include "kms/keystore.h"

#define HPL_LOCAL_IDENTITY_LEN 16u

/* The real place of the folder that 'key_dir' asks for: links are followed first, then it must lie under the state folder or a root of the local
 * configuration file. It need not be there yet; its parent must. HPL_INVALID_REQUEST by name. */
enum hpl_status hpl_local_place(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, char out[static PATH_MAX]) HPL_MUST_USE;

/* Makes the folder when it is not there; it must be ours alone. */
enum hpl_status hpl_local_own(struct hpl_call *call, const char *dir) HPL_MUST_USE;

/* What tells this folder from every other, wherever it is moved: random, in hex, kept in `.identity` under a MAC of the root secret and made at the first
 * opening. The caller holds the folder's lock. HPL_INVALID_CONFIGURATION when it was made under another root secret or changed. */
enum hpl_status hpl_local_identity(struct hpl_call *call, const char *dir, const struct hpl_secret *root,
                                   char identity[static 2 * HPL_LOCAL_IDENTITY_LEN + 1]) HPL_MUST_USE;

#endif
