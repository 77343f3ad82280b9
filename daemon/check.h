/* hardplated --check. */
#ifndef HPL_DAEMON_CHECK_H
#define HPL_DAEMON_CHECK_H

#include "daemon/config.h"

/* Prints one line a finding on standard output: "ok", "warn" or "FAIL", what, and its mend. Touches nothing but reads and one throw-away
 * session key on each token. Returns how many failed. */
int hpl_check_run(const struct hpl_config *config, bool is_dev);

#endif
