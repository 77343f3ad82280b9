/* Taking a lock by a deadline. Any thread. */
#include "base/lock.h"

#include <time.h>

#include "base/clock.h"

#define S_NS UINT64_C(1000000000)

/* By the wall clock, the only one of a timed lock that sanitizers follow. */
bool hpl_lock_by(pthread_mutex_t *lock, uint64_t deadline_ns)
{
    struct timespec until;
    if (pthread_mutex_trylock(lock) == 0) /* as nearly always */
        return true;
    if (!deadline_ns)
        return pthread_mutex_lock(lock) == 0;
    uint64_t now_ns = hpl_clock_mono_ns();
    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t at_ns = (uint64_t)until.tv_nsec + (deadline_ns > now_ns ? deadline_ns - now_ns : 0);
    until.tv_sec += (time_t)(at_ns / S_NS);
    until.tv_nsec = (long)(at_ns % S_NS);
    return pthread_mutex_timedlock(lock, &until) == 0;
}
