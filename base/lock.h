/* Locks that are held while something outside is asked: who waits for one waits no longer than it may. */
#ifndef HPL_BASE_LOCK_H
#define HPL_BASE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* Takes the lock; false, without it, at deadline_ns of hpl_clock_mono_ns() (0: waits as long as it takes). One that is free is taken whatever the
 * deadline. Any thread; blocks. */
bool hpl_lock_by(pthread_mutex_t *lock, uint64_t deadline_ns);

#endif
