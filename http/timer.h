/* Deadlines of one I/O thread's connections: a binary heap of embedded timers. Its I/O thread only. */
#ifndef HPL_HTTP_TIMER_H
#define HPL_HTTP_TIMER_H

#include <stdbool.h>
#include "base/check.h"

struct hpl_timer {
    uint64_t at_ns;
    size_t index; /* its place in the heap, from 1; 0: not set */
};

struct hpl_timers {
    struct hpl_timer **heap; /* heap[1] is due first */
    size_t num, cap;
};

/* Room for cap timers, so that setting one never fails. False when memory is out. */
bool hpl_timers_init(struct hpl_timers *timers, size_t cap);
void hpl_timers_wipe(struct hpl_timers *timers);
void hpl_timers_set(struct hpl_timers *timers, struct hpl_timer *timer, uint64_t at_ns);
void hpl_timers_clear(struct hpl_timers *timers, struct hpl_timer *timer); /* not set is fine */
/* The one that is due first, or NULL. */
struct hpl_timer *hpl_timers_first(const struct hpl_timers *timers);

#endif
