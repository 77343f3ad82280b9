/* How many workers this process should have: the CPUs it may run on, and what its cgroups let it use. Reads /proc and /sys once,
 * at start; not for a hot path. */
#ifndef HPL_ENGINE_WORK_CPUS_H
#define HPL_ENGINE_WORK_CPUS_H

#include <sched.h>
#include "base/bytes.h"

#define HPL_MAX_CPUS 8192u

struct hpl_cpus {
    cpu_set_t sets[HPL_MAX_CPUS / CPU_SETSIZE]; /* one long set for the CPU_*_S macros */
    unsigned num_allowed;                       /* CPUs in it, at least 1 */
    unsigned num_usable;                        /* num_allowed, lowered by the quota; at least 1 */
};

/* The affinity of the calling thread and the smallest cgroup v2 cpu.max on the way to the root. */
void hpl_cpus_find(struct hpl_cpus *out);

/* The number of the CPU that comes at place index (below num_allowed) in the set. */
unsigned hpl_cpus_nth(const struct hpl_cpus *cpus, unsigned index);

/* "200000 100000" is 2 CPUs, "150000 100000" is 2 (rounded up), "max 100000" and anything not of the form are limit itself. At
 * least 1, at most limit. */
unsigned hpl_cpus_of_quota(struct hpl_bytes cpu_max, unsigned limit);

#endif
