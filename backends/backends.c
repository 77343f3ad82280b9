/* The list of backends, a line each. */
#include "backends/backends.h"

#include "backends/local/local.h"

static const struct hpl_backend *const list[] = {
    &hpl_backend_local,
    NULL,
};

const struct hpl_backend *const *hpl_backends(void)
{
    return list;
}
