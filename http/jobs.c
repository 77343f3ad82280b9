/* Job pools: one queue, one mutex, one condition a pool. Any thread submits, the pool's own threads run. */
#include "http/jobs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

struct worker {
    struct hpl_pool *pool;
    pthread_t thread;
    _Atomic uint64_t since_ns; /* when its job began; 0: it has none */
};

struct hpl_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct hpl_job *first, **last;
    unsigned num_queued, max_queued;
    bool is_ending;
    unsigned num_threads;
    struct worker workers[];
};

/* The next job, or NULL when the pool ends and nothing is left. */
static struct hpl_job *take(struct hpl_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    while (!pool->first && !pool->is_ending)
        pthread_cond_wait(&pool->work, &pool->lock);
    struct hpl_job *job = pool->first;
    if (job) {
        pool->first = job->next;
        pool->num_queued--;
        if (!pool->first)
            pool->last = &pool->first;
    }
    pthread_mutex_unlock(&pool->lock);
    return job;
}

static void *run(void *arg)
{
    struct worker *worker = arg;
    for (struct hpl_job *job = take(worker->pool); job; job = take(worker->pool)) {
        atomic_store_explicit(&worker->since_ns, hpl_clock_mono_ns(), memory_order_relaxed);
        job->run(job);
        atomic_store_explicit(&worker->since_ns, 0, memory_order_relaxed);
    }
    return NULL;
}

static bool put(struct hpl_pool *pool, struct hpl_job *job, unsigned max_queued)
{
    pthread_mutex_lock(&pool->lock);
    bool is_taken = pool->num_queued < max_queued;
    if (is_taken) {
        job->next = NULL;
        *pool->last = job;
        pool->last = &job->next;
        pool->num_queued++;
        pthread_cond_signal(&pool->work);
    }
    pthread_mutex_unlock(&pool->lock);
    return is_taken;
}

bool hpl_pool_try_submit(struct hpl_pool *pool, struct hpl_job *job)
{
    return put(pool, job, pool->max_queued);
}

void hpl_pool_submit(struct hpl_pool *pool, struct hpl_job *job)
{
    HPL_CHECK(put(pool, job, UINT32_MAX));
}

enum hpl_status hpl_pool_new(struct hpl_call *call, struct hpl_pool **out, const char *name, unsigned num_threads,
                             unsigned max_queued)
{
    struct hpl_pool *pool = calloc(1, sizeof *pool + num_threads * sizeof pool->workers[0]);
    if (!pool)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for the %s threads", name);
    pool->last = &pool->first;
    pool->max_queued = max_queued;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    for (; pool->num_threads < num_threads; pool->num_threads++) {
        struct worker *worker = &pool->workers[pool->num_threads];
        worker->pool = pool;
        int error = pthread_create(&worker->thread, NULL, run, worker);
        if (error) {
            hpl_pool_free(pool);
            return hpl_fail(call, HPL_UNAVAILABLE, "cannot start the %s threads: %s", name, strerror(error));
        }
        pthread_setname_np(worker->thread, name);
    }
    *out = pool;
    return HPL_OK;
}

bool hpl_pool_is_stuck(const struct hpl_pool *pool, uint64_t then_ns)
{
    for (unsigned i = 0; i < pool->num_threads; i++) {
        uint64_t since_ns = atomic_load_explicit(&pool->workers[i].since_ns, memory_order_relaxed);
        if (since_ns && since_ns < then_ns)
            return true;
    }
    return false;
}

void hpl_pool_free(struct hpl_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->is_ending = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < pool->num_threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work);
    free(pool);
}
