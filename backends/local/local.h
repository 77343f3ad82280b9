/* The local backend: master keys in a folder, sealed under the root secret. */
#ifndef HPL_BACKENDS_LOCAL_LOCAL_H
#define HPL_BACKENDS_LOCAL_LOCAL_H

#include "kms/keystore.h"

extern const struct hpl_backend hpl_backend_local;

#endif
