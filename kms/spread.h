/* A handful of threads that help a caller with many equal calls of a backend that takes its time. Started when first needed. */
#ifndef HPL_KMS_SPREAD_H
#define HPL_KMS_SPREAD_H

#include <pthread.h>
#include <stdbool.h>

#include "base/check.h"

#define HPL_SPREAD_THREADS 7u /* and the caller itself */

struct hpl_spread_job;

struct hpl_spread {
    pthread_mutex_t lock;
    pthread_cond_t has_work;
    pthread_t threads[HPL_SPREAD_THREADS];
    unsigned num_threads;
    bool is_closing;
    struct hpl_spread_job *jobs;
};

void hpl_spread_init(struct hpl_spread *spread);
void hpl_spread_wipe(struct hpl_spread *spread); /* nobody may be in run */

/* Calls fn(arg, first) … fn(arg, last - 1), each once, on this thread and at most most_helpers of those that have nothing else to do; returns when all
 * are done. */
void hpl_spread_run(struct hpl_spread *spread, size_t first, size_t last, unsigned most_helpers, void (*fn)(void *arg, size_t index), void *arg);

#endif
