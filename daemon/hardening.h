/* What the daemon gives up before it touches a secret. */
#ifndef HPL_DAEMON_HARDENING_H
#define HPL_DAEMON_HARDENING_H

/* No core dumps, not dumpable (so no ptrace and no /proc/self/mem by the same user), files 0600 by default. Before threads. */
void hpl_harden(void);

#endif
