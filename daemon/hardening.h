/* What the daemon gives up before it touches a secret, and the room that it takes for its clients. */
#ifndef HPL_DAEMON_HARDENING_H
#define HPL_DAEMON_HARDENING_H

/* No core dumps, not dumpable (so no ptrace and no /proc/self/mem by the same user), files 0600 by default. Before threads. */
void hpl_harden(void);

/* Raises the limit of descriptors, as far as it may be, to what so many connections take with those beside them that objects, databases and backends
 * need. How many connections fit. The main thread. */
unsigned hpl_make_room(unsigned num_connections);

#endif
