/* The helping threads. Callers may block. */
#include "kms/spread.h"

#include <stdatomic.h>
#include <stddef.h>

struct hpl_spread_job {
    struct hpl_spread_job *next;
    void (*fn)(void *arg, size_t index);
    void *arg;
    _Atomic size_t at;
    size_t last;
    unsigned num_helping, most_helpers; /* under the lock */
    pthread_cond_t left;
};

void hpl_spread_init(struct hpl_spread *spread)
{
    *spread = (struct hpl_spread){0};
    pthread_mutex_init(&spread->lock, NULL);
    pthread_cond_init(&spread->has_work, NULL);
}

void hpl_spread_wipe(struct hpl_spread *spread)
{
    pthread_mutex_lock(&spread->lock);
    HPL_CHECK(!spread->jobs);
    spread->is_closing = true;
    pthread_cond_broadcast(&spread->has_work);
    pthread_mutex_unlock(&spread->lock);
    for (unsigned i = 0; i < spread->num_threads; i++)
        pthread_join(spread->threads[i], NULL);
    pthread_cond_destroy(&spread->has_work);
    pthread_mutex_destroy(&spread->lock);
}

static void work_on(struct hpl_spread_job *job)
{
    for (size_t index = atomic_fetch_add(&job->at, 1); index < job->last; index = atomic_fetch_add(&job->at, 1))
        job->fn(job->arg, index);
}

/* A job with something left to take, or NULL. Under the lock. */
static struct hpl_spread_job *find_job(const struct hpl_spread *spread)
{
    struct hpl_spread_job *job = spread->jobs;
    while (job && (atomic_load(&job->at) >= job->last || job->num_helping >= job->most_helpers))
        job = job->next;
    return job;
}

static void *help(void *arg)
{
    struct hpl_spread *spread = arg;
    pthread_mutex_lock(&spread->lock);
    while (!spread->is_closing) {
        struct hpl_spread_job *job = find_job(spread);
        if (!job) {
            pthread_cond_wait(&spread->has_work, &spread->lock);
            continue;
        }
        job->num_helping++;
        pthread_mutex_unlock(&spread->lock);
        work_on(job);
        pthread_mutex_lock(&spread->lock);
        if (--job->num_helping == 0)
            pthread_cond_signal(&job->left);
    }
    pthread_mutex_unlock(&spread->lock);
    return NULL;
}

/* Under the lock. Fewer threads than wanted are fewer, no failure. */
static void start_threads(struct hpl_spread *spread)
{
    while (spread->num_threads < HPL_SPREAD_THREADS && pthread_create(&spread->threads[spread->num_threads], NULL, help, spread) == 0)
        spread->num_threads++;
}

void hpl_spread_run(struct hpl_spread *spread, size_t first, size_t last, unsigned most_helpers, void (*fn)(void *arg, size_t index), void *arg)
{
    struct hpl_spread_job job = {.fn = fn, .arg = arg, .last = last, .most_helpers = most_helpers};
    struct hpl_spread_job **at;
    atomic_init(&job.at, first);
    pthread_cond_init(&job.left, NULL);
    pthread_mutex_lock(&spread->lock);
    start_threads(spread);
    for (at = &spread->jobs; *at; at = &(*at)->next) /* behind those that came before */
        ;
    *at = &job;
    pthread_cond_broadcast(&spread->has_work);
    pthread_mutex_unlock(&spread->lock);
    work_on(&job);
    pthread_mutex_lock(&spread->lock);
    for (at = &spread->jobs; *at != &job; at = &(*at)->next)
        ;
    *at = job.next;
    while (job.num_helping)
        pthread_cond_wait(&job.left, &spread->lock);
    pthread_mutex_unlock(&spread->lock);
    pthread_cond_destroy(&job.left);
}
