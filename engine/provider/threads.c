/* A few threads inside a host program, for one large message at a time: whoever comes while they are taken works alone and never waits. The module carries
 * neither base nor engine/work, so these are its own. */
#include "engine/provider/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/gcm/gcm.h"

/* Lives on its caller's stack until the last thread has left it. */
struct job {
    hpl_gcm_slice_fn fn;
    void *arg;
    size_t count;
    _Atomic(size_t) next; /* the first slice not yet claimed */
};

enum start { NOT_STARTED, STARTING, STARTED };

struct hpl_threads {
    _Atomic(enum start) start;
    pid_t owner;            /* the only process that has threads: the one that loaded the provider */
    atomic_flag is_taken;
    pthread_mutex_t lock;
    pthread_cond_t has_job, is_left;
    struct job *job;        /* under the lock, as the two below; NULL: nothing to join */
    unsigned num_inside;
    bool is_ending;
    unsigned num_wanted, num_started;
    cpu_set_t cpus;         /* where they may run; whoever took them sets it */
    pthread_t threads[];
};

static void run_slices(struct job *job)
{
    size_t index;
    while ((index = atomic_fetch_add_explicit(&job->next, 1, memory_order_relaxed)) < job->count)
        job->fn(job->arg, index, NULL);
}

/* Under the lock: one job, from joining it to leaving it. */
static void help(struct hpl_threads *threads, struct job *job)
{
    threads->num_inside++;
    pthread_mutex_unlock(&threads->lock);
    run_slices(job);
    pthread_mutex_lock(&threads->lock);
    if (threads->job == job) /* exhausted: nobody else need look */
        threads->job = NULL;
    if (--threads->num_inside == 0)
        pthread_cond_signal(&threads->is_left);
}

static void *thread_main(void *arg)
{
    struct hpl_threads *threads = arg;
    pthread_mutex_lock(&threads->lock);
    while (!threads->is_ending) {
        if (threads->job)
            help(threads, threads->job);
        else
            pthread_cond_wait(&threads->has_job, &threads->lock);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

/* As many as the system lets us have; their signals are the host's. */
static void start(struct hpl_threads *threads)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (threads->num_started < threads->num_wanted &&
           pthread_create(&threads->threads[threads->num_started], NULL, thread_main, threads) == 0)
        threads->num_started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    atomic_store(&threads->start, STARTED);
}

/* In a forked child there are none, and the lock may be anyone's. */
static bool are_here(struct hpl_threads *threads)
{
    return threads->owner == getpid() && atomic_load(&threads->start) == STARTED && threads->num_started > 0;
}

/* The first who asks starts them; who comes meanwhile has none. A child never starts any: its parent may have been anywhere. */
static bool take(struct hpl_threads *threads)
{
    enum start expected = NOT_STARTED;
    if (threads->owner == getpid() && atomic_compare_exchange_strong(&threads->start, &expected, STARTING))
        start(threads);
    return are_here(threads) && !atomic_flag_test_and_set(&threads->is_taken);
}

/* The others run where the caller may, but not where it does: the scheduler likes to wake them there, and they would wait for it to end. */
static void keep_clear(struct hpl_threads *threads)
{
    cpu_set_t cpus;
    int own = sched_getcpu();
    if (own < 0 || sched_getaffinity(0, sizeof cpus, &cpus) != 0)
        return;
    if (CPU_COUNT(&cpus) > 1)
        CPU_CLR((unsigned)own, &cpus);
    if (CPU_EQUAL(&cpus, &threads->cpus))
        return;
    threads->cpus = cpus;
    for (unsigned i = 0; i < threads->num_started; i++)
        (void)pthread_setaffinity_np(threads->threads[i], sizeof cpus, &cpus);
}

/* The caller takes slices too, and waits for those that others still have. */
static void run(void *self, hpl_gcm_slice_fn fn, void *arg, size_t count)
{
    struct hpl_threads *threads = self;
    struct job job = {.fn = fn, .arg = arg, .count = count};
    keep_clear(threads);
    pthread_mutex_lock(&threads->lock);
    threads->job = &job;
    pthread_cond_broadcast(&threads->has_job);
    pthread_mutex_unlock(&threads->lock);
    run_slices(&job);
    pthread_mutex_lock(&threads->lock);
    threads->job = NULL;
    while (threads->num_inside > 0)
        pthread_cond_wait(&threads->is_left, &threads->lock);
    pthread_mutex_unlock(&threads->lock);
}

bool hpl_threads_update(struct hpl_threads *threads, struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t len)
{
    const struct hpl_gcm_crew crew = {.run = run, .self = threads};
    if (!threads || len < HPL_GCM_SPLIT_MIN || !take(threads))
        return hpl_gcm_update(gcm, in, out, len);
    bool is_done = hpl_gcm_update_split(gcm, &crew, in, out, len);
    atomic_flag_clear(&threads->is_taken);
    return is_done;
}

struct hpl_threads *hpl_threads_new(unsigned count)
{
    struct hpl_threads *threads = calloc(1, sizeof *threads + (count - 1) * sizeof threads->threads[0]);
    if (!threads)
        return NULL;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->has_job, NULL);
    pthread_cond_init(&threads->is_left, NULL);
    atomic_flag_clear(&threads->is_taken);
    threads->num_wanted = count - 1;
    threads->owner = getpid();
    return threads;
}

static void end(struct hpl_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    threads->is_ending = true;
    pthread_cond_broadcast(&threads->has_job);
    pthread_mutex_unlock(&threads->lock);
    while (threads->num_started > 0)
        pthread_join(threads->threads[--threads->num_started], NULL);
}

void hpl_threads_free(struct hpl_threads *threads)
{
    if (!threads)
        return;
    if (are_here(threads))
        end(threads);
    free(threads);
}
