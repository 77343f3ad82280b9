/* Hardening at start, and room for clients. The main thread. */
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

#define BESIDE 256u /* files of objects under way, two databases, backends' connections */

unsigned hpl_make_room(unsigned num_connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)num_connections + BESIDE;
    HPL_CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        HPL_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    }
    if (limit.rlim_cur >= wanted)
        return num_connections;
    return (unsigned)(limit.rlim_cur >= 2 * BESIDE ? limit.rlim_cur - BESIDE : limit.rlim_cur / 2);
}
