/* Bounded pools of threads that run what may block. A job is embedded in what it works on; one job runs in one place at a time. */
#ifndef HPL_HTTP_JOBS_H
#define HPL_HTTP_JOBS_H

#include "base/status.h"

struct hpl_job {
    void (*run)(struct hpl_job *job); /* may give the job's owner away or free it: the pool does not touch it afterwards */
    struct hpl_job *next;
};

struct hpl_pool;

/* HPL_UNAVAILABLE when the threads cannot be started. */
enum hpl_status hpl_pool_new(struct hpl_call *call, struct hpl_pool **out, const char *name, unsigned num_threads,
                             unsigned max_queued) HPL_MUST_USE;
/* New work: false when max_queued jobs wait already. Any thread. */
bool hpl_pool_try_submit(struct hpl_pool *pool, struct hpl_job *job) HPL_MUST_USE;
/* More of what was let in before: always taken. Any thread. */
void hpl_pool_submit(struct hpl_pool *pool, struct hpl_job *job);
/* Whether a job runs that began before then_ns (hpl_clock_mono_ns). Any thread. */
bool hpl_pool_is_stuck(const struct hpl_pool *pool, uint64_t then_ns);
/* Runs what is queued, then ends the threads. NULL is fine. */
void hpl_pool_free(struct hpl_pool *pool);

#endif
