/* CPU affinity and cgroup v2 quota. Blocking reads of /proc and /sys; at start only. */
#include "engine/work/cpus.h"

#include <limits.h>
#include <stdio.h>

#include "base/file.h"

#define CGROUP_ROOT "/sys/fs/cgroup"
#define MAX_FILE 65536u

/* Decimal digits up to a space, a newline or the end, taken from text; false when there is none or too many. */
static bool take_number(struct hpl_bytes *text, uint64_t *value)
{
    size_t i = 0;
    *value = 0;
    for (; i < text->len && text->data[i] >= '0' && text->data[i] <= '9'; i++) {
        if (i == 18)
            return false;
        *value = *value * 10 + (uint64_t)(text->data[i] - '0');
    }
    bool ends = i == text->len || text->data[i] == ' ' || text->data[i] == '\n';
    size_t used = i < text->len ? i + 1 : i;
    *text = hpl_bytes(text->data + used, text->len - used);
    return i > 0 && ends;
}

unsigned hpl_cpus_of_quota(struct hpl_bytes cpu_max, unsigned limit)
{
    uint64_t quota, period;
    if (cpu_max.len == 0 || !take_number(&cpu_max, &quota) || !take_number(&cpu_max, &period) || period == 0)
        return limit;
    uint64_t cpus = quota / period + (quota % period != 0);
    return cpus < 1 ? 1 : cpus < limit ? (unsigned)cpus : limit;
}

/* The quota of one cgroup, or limit where the file is not there (the root has none). */
static unsigned quota_of(const char *cgroup, unsigned limit)
{
    char path[PATH_MAX];
    struct hpl_buf text = {0};
    int n = snprintf(path, sizeof path, CGROUP_ROOT "%s/cpu.max", cgroup);
    if (n > 0 && (size_t)n < sizeof path && hpl_file_read(NULL, path, MAX_FILE, &text) == HPL_OK)
        limit = hpl_cpus_of_quota(hpl_buf_bytes(&text), limit);
    hpl_buf_wipe(&text);
    return limit;
}

/* Our cgroup v2 path ("0::/a/b" in /proc/self/cgroup) as a text to be cut from its end; "" when there is none. */
static void own_cgroup(char out[static PATH_MAX])
{
    struct hpl_buf text = {0};
    out[0] = '\0';
    char *lines = hpl_file_read(NULL, "/proc/self/cgroup", MAX_FILE, &text) == HPL_OK ? hpl_buf_text(&text) : NULL;
    for (char *rest = NULL, *line = lines ? strtok_r(lines, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest))
        if (strncmp(line, "0::/", 4) == 0 && strlen(line + 3) < PATH_MAX && !strstr(line, ".."))
            strcpy(out, line + 3);
    hpl_buf_wipe(&text);
}

static unsigned smallest_quota(unsigned limit)
{
    char cgroup[PATH_MAX];
    own_cgroup(cgroup);
    for (char *slash; (slash = strrchr(cgroup, '/')); *slash = '\0')
        limit = quota_of(cgroup, limit);
    return quota_of("", limit);
}

void hpl_cpus_find(struct hpl_cpus *out)
{
    memset(out, 0, sizeof *out);
    if (sched_getaffinity(0, sizeof out->sets, out->sets) != 0)
        CPU_SET_S(0, sizeof out->sets, out->sets);
    out->num_allowed = (unsigned)CPU_COUNT_S(sizeof out->sets, out->sets);
    HPL_CHECK(out->num_allowed > 0);
    out->num_usable = smallest_quota(out->num_allowed);
}

unsigned hpl_cpus_nth(const struct hpl_cpus *cpus, unsigned index)
{
    HPL_CHECK(index < cpus->num_allowed);
    for (unsigned cpu = 0; cpu < HPL_MAX_CPUS; cpu++)
        if (CPU_ISSET_S(cpu, sizeof cpus->sets, cpus->sets) && index-- == 0)
            return cpu;
    HPL_CHECK(!"the set holds num_allowed CPUs");
    return 0;
}
