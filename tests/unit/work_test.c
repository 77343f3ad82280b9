/* Workers: every piece runs once, callers wait for their own, sleepers wake, and stopping is clean. */
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/secret.h"
#include "engine/aead.h"
#include "engine/work/cpus.h"
#include "engine/work/work.h"

#define MANY 3000u

static struct hpl_work *start(unsigned num_threads)
{
    struct hpl_work *work = NULL;
    EXPECT_OK(hpl_work_start(NULL, &work, num_threads));
    return work;
}

static void mark(void *arg, size_t index, uint8_t *scratch)
{
    _Atomic(unsigned) *runs = arg;
    scratch[index % HPL_WORK_SCRATCH] = (uint8_t)index;
    atomic_fetch_add(&runs[index], 1);
}

/* Not atomic on purpose: the end of the run must order these before the caller's reads (ThreadSanitizer looks). */
static void write_plain(void *arg, size_t index, uint8_t *scratch)
{
    (void)scratch;
    ((uint32_t *)arg)[index] = (uint32_t)index + 1;
}

HPL_TEST(every_piece_runs_once)
{
    struct hpl_work *work = start(4);
    for (size_t count = 0; count <= MANY; count = count * 3 + 1) {
        _Atomic(unsigned) *runs = calloc(count + 1, sizeof *runs);
        hpl_work_run(work, mark, runs, count);
        for (size_t i = 0; i < count; i++)
            EXPECT_NUM(runs[i], 1);
        EXPECT_NUM(runs[count], 0);
        free(runs);
    }
    hpl_work_stop(work);
}

HPL_TEST(what_the_pieces_wrote_is_there_when_the_run_returns)
{
    struct hpl_work *work = start(3);
    static uint32_t values[MANY];
    for (int round = 0; round < 20; round++) {
        memset(values, 0, sizeof values);
        hpl_work_run(work, write_plain, values, MANY);
        for (uint32_t i = 0; i < MANY; i++)
            if (values[i] != i + 1)
                EXPECT(!"a piece's write is missing");
    }
    hpl_work_stop(work);
}

static struct hpl_work *shared;

static void *call_often(void *arg)
{
    uint32_t values[64];
    (void)arg;
    for (size_t round = 0; round < 200; round++) {
        size_t count = 1 + round % HPL_COUNT(values);
        memset(values, 0, sizeof values);
        hpl_work_run(shared, write_plain, values, count);
        for (size_t i = 0; i < HPL_COUNT(values); i++)
            if (values[i] != (i < count ? i + 1 : 0))
                return (void *)1;
    }
    return NULL;
}

HPL_TEST(more_callers_than_the_ring_has_places_all_get_their_own)
{
    pthread_t callers[100];
    shared = start(2);
    for (size_t i = 0; i < HPL_COUNT(callers); i++)
        EXPECT_NUM(pthread_create(&callers[i], NULL, call_often, NULL), 0);
    for (size_t i = 0; i < HPL_COUNT(callers); i++) {
        void *failed = NULL;
        pthread_join(callers[i], &failed);
        EXPECT(failed == NULL);
    }
    hpl_work_stop(shared);
}

struct meeting {
    pthread_mutex_t lock;
    pthread_cond_t all_here;
    unsigned num_here;
    uint8_t *scratch[2];
};

/* Returns only when two workers are in it at once. */
static void meet(void *arg, size_t index, uint8_t *scratch)
{
    struct meeting *meeting = arg;
    pthread_mutex_lock(&meeting->lock);
    meeting->scratch[index] = scratch;
    meeting->num_here++;
    pthread_cond_broadcast(&meeting->all_here);
    while (meeting->num_here < 2)
        pthread_cond_wait(&meeting->all_here, &meeting->lock);
    pthread_mutex_unlock(&meeting->lock);
}

HPL_TEST(two_workers_run_at_once_each_with_its_own_aligned_buffer)
{
    struct meeting meeting = {.lock = PTHREAD_MUTEX_INITIALIZER, .all_here = PTHREAD_COND_INITIALIZER};
    struct hpl_work *work = start(2);
    hpl_work_run(work, meet, &meeting, 2);
    EXPECT(meeting.scratch[0] != meeting.scratch[1]);
    EXPECT_NUM((uintptr_t)meeting.scratch[0] % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
    EXPECT_NUM((uintptr_t)meeting.scratch[1] % (uintptr_t)sysconf(_SC_PAGESIZE), 0);
    hpl_work_stop(work);
}

static uint64_t cpu_time_ns(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000u +
           (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000u;
}

HPL_TEST(idle_workers_sleep_and_wake_again)
{
    struct hpl_work *work = start(4);
    uint32_t values[8] = {0};
    hpl_work_run(work, write_plain, values, 8);
    uint64_t before = cpu_time_ns();
    usleep(100000);
    EXPECT(cpu_time_ns() - before < 50000000u);
    memset(values, 0, sizeof values);
    hpl_work_run(work, write_plain, values, 8);
    EXPECT_NUM(values[7], 8);
    hpl_work_stop(work);
}

HPL_TEST(starting_and_stopping_leaves_no_thread)
{
    struct hpl_work *work = start(3);
    EXPECT_NUM(hpl_test_num_threads("hpl-work-"), 3);
    hpl_work_stop(work);
    for (int i = 0; i < 20; i++)
        hpl_work_stop(start(1 + (unsigned)i % 5));
    hpl_work_stop(NULL);
    EXPECT_NUM(hpl_test_num_threads("hpl-work-"), 0);
}

HPL_TEST(zero_threads_means_what_the_machine_lets_us_use)
{
    struct hpl_work *work = start(0);
    struct hpl_cpus cpus;
    hpl_cpus_find(&cpus);
    EXPECT_NUM(hpl_work_num_threads(work), cpus.num_usable);
    EXPECT(cpus.num_usable >= 1 && cpus.num_usable <= cpus.num_allowed);
    hpl_work_stop(work);
}

HPL_TEST(affinity_is_honoured)
{
    cpu_set_t before, one;
    struct hpl_cpus cpus;
    EXPECT_NUM(sched_getaffinity(0, sizeof before, &before), 0);
    hpl_cpus_find(&cpus);
    unsigned last = hpl_cpus_nth(&cpus, cpus.num_allowed - 1);
    CPU_ZERO(&one);
    CPU_SET(last, &one);
    EXPECT_NUM(sched_setaffinity(0, sizeof one, &one), 0);
    hpl_cpus_find(&cpus);
    struct hpl_work *work = start(0);
    unsigned num_threads = hpl_work_num_threads(work);
    hpl_work_stop(work);
    EXPECT_NUM(sched_setaffinity(0, sizeof before, &before), 0);
    EXPECT_NUM(cpus.num_allowed, 1);
    EXPECT_NUM(hpl_cpus_nth(&cpus, 0), last);
    EXPECT_NUM(num_threads, 1);
}

HPL_TEST(quotas_are_read_as_the_kernel_writes_them)
{
    EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str("max 100000\n"), 16), 16);
    EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str("200000 100000\n"), 16), 2);
    EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str("150000 100000\n"), 16), 2);
    EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str("1000 100000\n"), 16), 1);
    EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str("0 100000"), 16), 1);
    EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str("6400000 100000\n"), 16), 16);
}

HPL_TEST(quotas_of_no_known_form_limit_nothing)
{
    static const char *const texts[] = {"", "\n", "100000", "100000 0\n", "100000 x\n", "-1 100000", "9999999999999999999 1", "1x 2"};
    for (size_t i = 0; i < HPL_COUNT(texts); i++)
        EXPECT_NUM(hpl_cpus_of_quota(hpl_bytes_str(texts[i]), 16), 16);
}

HPL_TEST(workers_start_though_memory_cannot_be_locked)
{
    struct rlimit before, none = {0, 0};
    EXPECT_NUM(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    none.rlim_max = before.rlim_max;
    EXPECT_NUM(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    struct hpl_work *work = start(2);
    uint32_t values[4] = {0};
    hpl_work_run(work, write_plain, values, 4);
    EXPECT_NUM(values[3], 4);
    hpl_work_stop(work);
    EXPECT_NUM(setrlimit(RLIMIT_MEMLOCK, &before), 0);
}

static void seal_long(void *arg, size_t index, uint8_t *scratch)
{
    static const uint8_t nonce[12];
    uint8_t *bytes = calloc(1, 65536), tag[16];
    (void)scratch;
    (void)index;
    hpl_aead_seal(arg, nonce, (struct hpl_bytes){0}, bytes, 65536, bytes, tag);
    free(bytes);
}

HPL_TEST(a_worker_seals_long_messages_in_memory_of_its_own)
{
    struct hpl_aead_key *key;
    struct hpl_work *work = start(2);
    EXPECT_OK(hpl_aead_key_new(NULL, &key, (const uint8_t[32]){0}, 32));
    size_t before = hpl_secret_in_use();
    hpl_work_run(work, seal_long, key, 16);
    EXPECT_NUM(hpl_secret_in_use(), before);
    hpl_work_stop(work);
    hpl_aead_key_free(key);
}

HPL_TEST(workers_do_not_start_unlocked_in_a_process_that_must_lock)
{
    struct rlimit before, none = {0, 0};
    struct hpl_work *work = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_secret_init(&call, 1u << 20, HPL_SECRET_MUST_LOCK));
    EXPECT_NUM(getrlimit(RLIMIT_MEMLOCK, &before), 0);
    none.rlim_max = before.rlim_max;
    EXPECT_NUM(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    bool may_lock = mlock(&before, sizeof before) == 0; /* root may still */
    EXPECT_STATUS(hpl_work_start(&call, &work, 2), may_lock ? HPL_OK : HPL_UNAVAILABLE);
    EXPECT(may_lock || strstr(call.detail, "LimitMEMLOCK"));
    hpl_work_stop(work);
    EXPECT_NUM(setrlimit(RLIMIT_MEMLOCK, &before), 0);
}

HPL_TEST(too_many_workers_are_refused)
{
    struct hpl_work *work = NULL;
    EXPECT_STATUS(hpl_work_start(NULL, &work, 100000), HPL_INVALID_ARGUMENT);
    EXPECT(work == NULL);
}
