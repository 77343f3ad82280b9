/* The list of backends; the daemon hands it to the key service. */
#ifndef HPL_BACKENDS_BACKENDS_H
#define HPL_BACKENDS_BACKENDS_H

#include "kms/keystore.h"

/* NULL-terminated; lives for ever. */
const struct hpl_backend *const *hpl_backends(void);

#endif
