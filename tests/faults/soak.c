/* Many wraps and unwraps on SoftHSM behind the shim: does anything grow? Prints memory, sessions, descriptors and secret bytes before
 * and after, and fails when one of them grew past its bound.
 *   soak [--worker] [COUNT]     (wraps, each unwrapped again; default 20000. --worker: through hardplate-tokend, whose memory counts too) */
#include "tests/faults/faults.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"
#include "tests/sanitizer.h"

#define NUM_THREADS 4u
#define WARM_UP 20000u
#define RSS_BOUND (1024 * 1024) /* SoftHSM grew by 0 KiB over 100,000; pages of the heap that are touched late are let pass */

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

struct sample {
    long rss_bytes, num_sessions, num_fds, secret_bytes;
};

struct soak {
    struct bench *bench;
    _Atomic long left;
    _Atomic unsigned num_bad;
};

static long long worker_of(const struct bench *bench)
{
    json_t *HPL_JSON_AUTO facts = bench->keystore->ops->describe(bench->keystore);
    return json_integer_value(json_object_get(facts, "worker_pid"));
}

static long rss(long long pid)
{
    long pages = 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/%lld/statm", pid);
    FILE *file = fopen(path, "re");
    EXPECT(file != NULL);
    EXPECT_NUM(fscanf(file, "%*d %ld", &pages), 1);
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static long num_fds(void)
{
    long num = 0;
    DIR *dir = opendir("/proc/self/fd");
    EXPECT(dir != NULL);
    while (readdir(dir))
        num++;
    closedir(dir);
    return num - 3; /* itself, "." and ".." */
}

static struct sample sample(const struct bench *bench, const char *when)
{
    struct sample now = {.rss_bytes = rss(getpid()) + (bench->is_worker ? rss(worker_of(bench)) : 0), .num_sessions = shim_get(bench->shim->num_open), .num_fds = num_fds(),
                         .secret_bytes = (long)hpl_secret_in_use()};
    printf("%-8s %8ld KiB resident %4ld sessions %4ld descriptors %6ld secret bytes\n", when, now.rss_bytes / 1024, now.num_sessions, now.num_fds,
           now.secret_bytes);
    return now;
}

static bool wrap_and_unwrap(struct bench *bench)
{
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    hpl_call_init(&call, 10000);
    if (bench->keystore->ops->wrap(bench->keystore, &call, bench->uid, 1, aad, bench->secret, &wrapped) != HPL_OK ||
        bench->keystore->ops->unwrap(bench->keystore, &call, bench->uid, 1, aad, &wrapped, &back) != HPL_OK)
        return false;
    return back->len == bench->secret->len && memcmp(back->bytes, bench->secret->bytes, back->len) == 0;
}

static void *work(void *arg)
{
    struct soak *soak = arg;
    while (atomic_fetch_sub(&soak->left, 1) > 0)
        if (!wrap_and_unwrap(soak->bench))
            atomic_fetch_add(&soak->num_bad, 1);
    return NULL;
}

/* How many failed. */
static unsigned run(struct bench *bench, long count)
{
    struct soak soak = {.bench = bench, .left = count};
    pthread_t threads[NUM_THREADS];
    for (size_t i = 0; i < NUM_THREADS; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, &soak), 0);
    for (size_t i = 0; i < NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    return atomic_load(&soak.num_bad);
}

static int judge(const struct sample *before, const struct sample *after, unsigned num_bad)
{
    bool has_grown = (!HAS_SANITIZER && after->rss_bytes - before->rss_bytes > RSS_BOUND) || after->num_sessions > before->num_sessions ||
                     after->num_fds > before->num_fds || after->secret_bytes > before->secret_bytes;
    printf("%u failed; memory grew by %ld KiB (bound %d KiB), sessions by %ld, descriptors by %ld, secret bytes by %ld\n", num_bad,
           (after->rss_bytes - before->rss_bytes) / 1024, RSS_BOUND / 1024, after->num_sessions - before->num_sessions,
           after->num_fds - before->num_fds, after->secret_bytes - before->secret_bytes);
    return has_grown || num_bad ? 1 : 0;
}

int main(int argc, char **argv)
{
    bool is_worker = argc > 1 && strcmp(argv[1], "--worker") == 0;
    long count = argc > 1 + is_worker ? strtol(argv[1 + is_worker], NULL, 10) : 20000;
    struct bench bench;
    hpl_json_init();
    EXPECT(count > 0);
    if (!softhsm_is_there())
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    faults_bench_init(&bench, is_worker);
    unsigned num_bad = run(&bench, WARM_UP);
    struct sample before = sample(&bench, "before");
    uint64_t start_ns = hpl_clock_mono_ns();
    num_bad += run(&bench, count);
    double seconds = (double)(hpl_clock_mono_ns() - start_ns) / 1e9;
    struct sample after = sample(&bench, "after");
    printf("%ld wraps and as many unwraps by %u threads in %.1f s\n", count, NUM_THREADS, seconds);
    int code = judge(&before, &after, num_bad);
    faults_bench_wipe(&bench);
    faults_remove_dirs();
    return code;
}
