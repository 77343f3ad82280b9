/* A binary heap of deadlines; timers know their place, so that one is moved or taken out in logarithmic time. I/O thread. */
#include "http/timer.h"

#include <stdlib.h>

bool hpl_timers_init(struct hpl_timers *timers, size_t cap)
{
    *timers = (struct hpl_timers){.heap = calloc(cap + 1, sizeof(struct hpl_timer *)), .cap = cap};
    return timers->heap != NULL;
}

void hpl_timers_wipe(struct hpl_timers *timers)
{
    free(timers->heap);
    *timers = (struct hpl_timers){0};
}

static void place(struct hpl_timers *timers, struct hpl_timer *timer, size_t at)
{
    timers->heap[at] = timer;
    timer->index = at;
}

static void sift_up(struct hpl_timers *timers, struct hpl_timer *timer, size_t at)
{
    for (; at > 1 && timers->heap[at / 2]->at_ns > timer->at_ns; at /= 2)
        place(timers, timers->heap[at / 2], at);
    place(timers, timer, at);
}

static void sift_down(struct hpl_timers *timers, struct hpl_timer *timer, size_t at)
{
    for (size_t child = 2 * at; child <= timers->num; child = 2 * at) {
        if (child < timers->num && timers->heap[child + 1]->at_ns < timers->heap[child]->at_ns)
            child++;
        if (timers->heap[child]->at_ns >= timer->at_ns)
            break;
        place(timers, timers->heap[child], at);
        at = child;
    }
    place(timers, timer, at);
}

void hpl_timers_clear(struct hpl_timers *timers, struct hpl_timer *timer)
{
    size_t at = timer->index;
    if (at == 0)
        return;
    timer->index = 0;
    struct hpl_timer *last = timers->heap[timers->num--];
    if (last == timer)
        return;
    if (at > 1 && timers->heap[at / 2]->at_ns > last->at_ns)
        sift_up(timers, last, at);
    else
        sift_down(timers, last, at);
}

void hpl_timers_set(struct hpl_timers *timers, struct hpl_timer *timer, uint64_t at_ns)
{
    hpl_timers_clear(timers, timer);
    HPL_CHECK(timers->num < timers->cap);
    timer->at_ns = at_ns;
    timers->num++;
    sift_up(timers, timer, timers->num);
}

struct hpl_timer *hpl_timers_first(const struct hpl_timers *timers)
{
    return timers->num ? timers->heap[1] : NULL;
}
