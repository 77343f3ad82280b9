/* The list of backends, a line each. */
#include "backends/backends.h"

#include "backends/local/local.h"
#include "backends/pkcs11/pkcs11.h"
#include "backends/vault/vault.h"

static const struct hpl_backend *const list[] = {
    &hpl_backend_local,
    &hpl_backend_pkcs11,
    &hpl_backend_vault,
    NULL,
};

const struct hpl_backend *const *hpl_backends(void)
{
    return list;
}
