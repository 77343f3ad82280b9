/* Hardening at start. One thread. */
#include "daemon/hardening.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/check.h"

void hpl_harden(void)
{
    const struct rlimit none = {0, 0};
    umask(077);
    HPL_CHECK(setrlimit(RLIMIT_CORE, &none) == 0);
    HPL_CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}
