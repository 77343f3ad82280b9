/* Workers and the ring of batches. Callers block in hpl_work_run; workers run the pieces. The lock guards the ring and who is in
 * which batch; pieces are claimed by an atomic add and never see it. */
#include "engine/work/work.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/secret.h"
#include "engine/aead.h"
#include "engine/work/cpus.h"

#define MAGIC 0x48504c57u /* "HPLW" */
#define RING_LEN 64u
#define MAX_THREADS 1024u

/* Lives on its caller's stack until the last worker has left it. */
struct batch {
    hpl_work_fn fn;
    void *arg;
    size_t count;
    _Atomic(size_t) next;   /* the first piece not yet claimed */
    unsigned num_inside;    /* workers in it; under the lock */
    pthread_cond_t is_done; /* every piece claimed and nobody inside */
};

struct worker {
    struct hpl_work *work;
    pthread_t thread;
    uint8_t *scratch;
};

struct hpl_work {
    uint32_t magic;
    pthread_mutex_t lock;
    pthread_cond_t has_work, has_room;
    struct batch *ring[RING_LEN];
    size_t head, len;       /* under the lock, as everything above */
    unsigned num_idle;
    bool is_ending;
    unsigned num_workers;
    uint8_t *buffers;       /* num_workers * HPL_WORK_SCRATCH */
    struct worker workers[];
};

static bool is_exhausted(struct batch *batch)
{
    return atomic_load_explicit(&batch->next, memory_order_relaxed) >= batch->count;
}

/* The oldest batch with pieces to claim, or NULL. Drops those without; under the lock. */
static struct batch *oldest(struct hpl_work *work)
{
    while (work->len > 0 && is_exhausted(work->ring[work->head])) {
        work->head = (work->head + 1) % RING_LEN;
        work->len--;
        pthread_cond_signal(&work->has_room);
    }
    return work->len > 0 ? work->ring[work->head] : NULL;
}

/* Waits for a batch and joins it; NULL when the workers end. Under the lock. */
static struct batch *join(struct hpl_work *work)
{
    struct batch *batch;
    while (!(batch = oldest(work)) && !work->is_ending) {
        work->num_idle++;
        pthread_cond_wait(&work->has_work, &work->lock);
        work->num_idle--;
    }
    if (batch)
        batch->num_inside++;
    return batch;
}

/* Under the lock. Only the oldest batch is ever joined, so this one, exhausted now, is at the ring's head or out of it already: it
 * leaves the ring before its caller can return. */
static void leave(struct hpl_work *work, struct batch *batch)
{
    oldest(work);
    if (--batch->num_inside == 0)
        pthread_cond_signal(&batch->is_done);
}

static void run_pieces(struct batch *batch, uint8_t *scratch)
{
    size_t index;
    while ((index = atomic_fetch_add_explicit(&batch->next, 1, memory_order_relaxed)) < batch->count)
        batch->fn(batch->arg, index, scratch);
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct hpl_work *work = worker->work;
    struct batch *batch;
    hpl_aead_lend_table(worker->scratch);
    pthread_mutex_lock(&work->lock);
    while ((batch = join(work))) {
        pthread_mutex_unlock(&work->lock);
        run_pieces(batch, worker->scratch);
        pthread_mutex_lock(&work->lock);
        leave(work, batch);
    }
    pthread_mutex_unlock(&work->lock);
    return NULL;
}

/* Under the lock: no more wake-ups than there is work or sleepers. */
static void wake(struct hpl_work *work, size_t count)
{
    if (count >= work->num_idle)
        pthread_cond_broadcast(&work->has_work);
    else
        for (size_t i = 0; i < count; i++)
            pthread_cond_signal(&work->has_work);
}

void hpl_work_run(struct hpl_work *work, hpl_work_fn fn, void *arg, size_t count)
{
    HPL_CHECK(work->magic == MAGIC);
    if (count == 0)
        return;
    HPL_CHECK(count <= SIZE_MAX - MAX_THREADS); /* every worker claims once past the end */
    struct batch batch = {.fn = fn, .arg = arg, .count = count, .is_done = PTHREAD_COND_INITIALIZER};
    pthread_mutex_lock(&work->lock);
    HPL_CHECK(!work->is_ending);
    while (work->len == RING_LEN)
        pthread_cond_wait(&work->has_room, &work->lock);
    work->ring[(work->head + work->len++) % RING_LEN] = &batch;
    wake(work, count);
    while (!is_exhausted(&batch) || batch.num_inside > 0)
        pthread_cond_wait(&batch.is_done, &work->lock);
    pthread_mutex_unlock(&work->lock);
    pthread_cond_destroy(&batch.is_done);
}

static void release(struct hpl_work *work)
{
    size_t len = (size_t)work->num_workers * HPL_WORK_SCRATCH;
    hpl_wipe(work->buffers, len);
    munmap(work->buffers, len);
    pthread_cond_destroy(&work->has_room);
    pthread_cond_destroy(&work->has_work);
    pthread_mutex_destroy(&work->lock);
    work->magic = 0;
    free(work);
}

/* Ends the first num_started threads and frees everything. */
static void end(struct hpl_work *work, unsigned num_started)
{
    pthread_mutex_lock(&work->lock);
    work->is_ending = true;
    pthread_cond_broadcast(&work->has_work);
    pthread_mutex_unlock(&work->lock);
    for (unsigned i = 0; i < num_started; i++)
        pthread_join(work->workers[i].thread, NULL);
    release(work);
}

/* Looked-up rounds tell a key, so the buffers are locked as secret memory is, or a warning where that need not be. */
static enum hpl_status lock_buffers(struct hpl_call *call, uint8_t *buffers, size_t len)
{
    if (mlock(buffers, len) == 0)
        return HPL_OK;
    if (hpl_secret_must_lock())
        return hpl_fail(call, HPL_UNAVAILABLE, "cannot lock %zu KiB of memory for the workers (%s): raise it with 'ulimit -l 8192' or LimitMEMLOCK=8M", len / 1024,
                        strerror(errno));
    hpl_log(HPL_LOG_WARN, "work.unlocked", HPL_S("reason", strerror(errno)), HPL_N("bytes", len),
            HPL_S("mend", "raise RLIMIT_MEMLOCK, or LimitMEMLOCK= of the service"));
    return HPL_OK;
}

/* The buffers of all workers in one mapping. */
static enum hpl_status map_buffers(struct hpl_call *call, struct hpl_work *work, size_t len)
{
    uint8_t *buffers = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for the buffers of %u workers", work->num_workers);
    madvise(buffers, len, MADV_HUGEPAGE); /* where there are so many workers that one fits; mlock brings the pages in */
    enum hpl_status status = lock_buffers(call, buffers, len);
    if (status != HPL_OK) {
        munmap(buffers, len);
        return status;
    }
    madvise(buffers, len, MADV_DONTDUMP);
    madvise(buffers, len, MADV_WIPEONFORK);
    work->buffers = buffers;
    return HPL_OK;
}

static enum hpl_status allocate(struct hpl_call *call, unsigned num_threads, struct hpl_work **out)
{
    struct hpl_work *work = calloc(1, sizeof *work + num_threads * sizeof work->workers[0]);
    if (!work)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for %u workers", num_threads);
    work->num_workers = num_threads;
    enum hpl_status status = map_buffers(call, work, (size_t)num_threads * HPL_WORK_SCRATCH);
    if (status != HPL_OK) {
        free(work);
        return status;
    }
    pthread_mutex_init(&work->lock, NULL);
    pthread_cond_init(&work->has_work, NULL);
    pthread_cond_init(&work->has_room, NULL);
    work->magic = MAGIC;
    *out = work;
    return HPL_OK;
}

/* A worker that takes no signals: those are for the threads that wait for them. */
static int start_thread(struct hpl_work *work, unsigned index)
{
    struct worker *worker = &work->workers[index];
    sigset_t all, before;
    char name[16];
    *worker = (struct worker){.work = work, .scratch = work->buffers + (size_t)index * HPL_WORK_SCRATCH};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error == 0) {
        snprintf(name, sizeof name, "hpl-work-%u", index % 10000);
        pthread_setname_np(worker->thread, name);
    }
    return error;
}

/* A worker that cannot be pinned still works. */
static void pin(struct hpl_work *work, const struct hpl_cpus *cpus)
{
    for (unsigned i = 0; i < work->num_workers; i++) {
        cpu_set_t one[HPL_COUNT(cpus->sets)];
        memset(one, 0, sizeof one);
        CPU_SET_S(hpl_cpus_nth(cpus, i), sizeof one, one);
        (void)pthread_setaffinity_np(work->workers[i].thread, sizeof one, one);
    }
}

enum hpl_status hpl_work_start(struct hpl_call *call, struct hpl_work **out, unsigned num_threads)
{
    struct hpl_cpus cpus;
    hpl_cpus_find(&cpus);
    if (num_threads > MAX_THREADS)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "%u workers are too many; the most is %u", num_threads, MAX_THREADS);
    if (num_threads == 0)
        num_threads = cpus.num_usable < MAX_THREADS ? cpus.num_usable : MAX_THREADS;
    struct hpl_work *work = NULL;
    HPL_TRY(allocate(call, num_threads, &work));
    for (unsigned i = 0; i < num_threads; i++) {
        int error = start_thread(work, i);
        if (error) {
            end(work, i);
            return hpl_fail(call, HPL_UNAVAILABLE, "worker %u of %u cannot start: %s", i + 1, num_threads, strerror(error));
        }
    }
    if (num_threads == cpus.num_allowed)
        pin(work, &cpus);
    *out = work;
    return HPL_OK;
}

void hpl_work_stop(struct hpl_work *work)
{
    if (!work)
        return;
    HPL_CHECK(work->magic == MAGIC);
    end(work, work->num_workers);
}

unsigned hpl_work_num_threads(const struct hpl_work *work)
{
    HPL_CHECK(work->magic == MAGIC);
    return work->num_workers;
}
