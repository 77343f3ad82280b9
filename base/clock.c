/* Clocks. Any thread. */
#include "base/clock.h"

#include <stdatomic.h>
#include <time.h>

static _Atomic int64_t shift_ms;

uint64_t hpl_clock_mono_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int64_t hpl_clock_unix_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000 + atomic_load_explicit(&shift_ms, memory_order_relaxed);
}

void hpl_clock_shift_ms(int64_t by)
{
    atomic_fetch_add(&shift_ms, by);
}
