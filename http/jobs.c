/* Job pools: one queue, one mutex, one condition a pool. Any thread submits, the pool's own threads run. */
#include "http/jobs.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct hpl_pool {
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct hpl_job *first, **last;
    unsigned num_queued, max_queued;
    bool is_ending;
    unsigned num_threads;
    pthread_t threads[];
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
    struct hpl_pool *pool = arg;
    for (struct hpl_job *job = take(pool); job; job = take(pool))
        job->run(job);
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
    struct hpl_pool *pool = calloc(1, sizeof *pool + num_threads * sizeof pool->threads[0]);
    if (!pool)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for the %s threads", name);
    pool->last = &pool->first;
    pool->max_queued = max_queued;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    for (; pool->num_threads < num_threads; pool->num_threads++) {
        int error = pthread_create(&pool->threads[pool->num_threads], NULL, run, pool);
        if (error) {
            hpl_pool_free(pool);
            return hpl_fail(call, HPL_UNAVAILABLE, "cannot start the %s threads: %s", name, strerror(error));
        }
        pthread_setname_np(pool->threads[pool->num_threads], name);
    }
    *out = pool;
    return HPL_OK;
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
        pthread_join(pool->threads[i], NULL);
    pthread_mutex_destroy(&pool->lock);
    pthread_cond_destroy(&pool->work);
    free(pool);
}
