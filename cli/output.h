/* The file that a command writes: a temporary beside its target, renamed at the end, so that nothing half-written ever bears the name. One thread. */
#ifndef HPL_CLI_OUTPUT_H
#define HPL_CLI_OUTPUT_H

#include <limits.h>

#include "base/status.h"

struct hpl_output {
    int fd;                     /* -1: not open */
    const char *path;           /* what was asked for; "-" is standard output */
    char temporary[PATH_MAX];   /* empty for standard output */
    bool may_replace;
};

/* Opens it, with mode's permissions for a file. HPL_CONFLICT when path is there and may_replace is not given, HPL_INVALID_ARGUMENT when what is there is
 * not a regular file. SIGINT, SIGTERM and SIGHUP remove the temporary from now on. One output a process. */
enum hpl_status hpl_output_open(struct hpl_call *call, struct hpl_output *out, const char *path, bool may_replace, unsigned mode) HPL_MUST_USE;

/* Synced and under its name; on failure the temporary is gone and what bore the name before is as it was. */
enum hpl_status hpl_output_finish(struct hpl_call *call, struct hpl_output *out) HPL_MUST_USE;

/* Removes what was not finished. */
void hpl_output_drop(struct hpl_output *out);

#endif
