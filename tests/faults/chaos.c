/* Faults at random while eight threads wrap, unwrap, make keys and write records: no crash, no wrong secret, no status out of place, no
 * handle kept too long, no session lost, READY within five seconds after each fault. One that was late is made again, at most twice: it
 * may have been the machine.
 *   chaos [--worker] [--seed N] [SECONDS]     (default 4; prints the seed) */
#include "tests/faults/faults.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define NUM_THREADS 8u
#define READY_MS 5000u
#define GIVE_UP_MS 60000u
#define MAX_AGAIN 2u
#define PAUSE_MS 20u /* between a thread's rounds: SoftHSM is not what is measured */

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

struct chaos {
    struct bench *bench;
    _Atomic bool should_stop;
    _Atomic unsigned num_wrong;     /* another secret, or something given by a call that failed */
    _Atomic unsigned counts[HPL_NUM_STATUSES];
};

struct worker {
    struct chaos *chaos;
    unsigned number;
};

static void count(struct chaos *chaos, enum hpl_status status)
{
    atomic_fetch_add(&chaos->counts[status], 1);
}

static bool is_same(const struct bench *bench, const struct hpl_secret *secret)
{
    return secret && secret->len == bench->secret->len && memcmp(secret->bytes, bench->secret->bytes, secret->len) == 0;
}

static void open_good(struct chaos *chaos, const struct hpl_wrapped *wrapped)
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    struct bench *bench = chaos->bench;
    hpl_call_init(&call, 5000);
    enum hpl_status status = bench->keystore->ops->unwrap(bench->keystore, &call, bench->uid, 1, aad, wrapped, &back);
    count(chaos, status);
    atomic_fetch_add(&chaos->num_wrong, status == HPL_OK ? !is_same(bench, back) : back != NULL);
}

static void wrap(struct chaos *chaos)
{
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    struct bench *bench = chaos->bench;
    hpl_call_init(&call, 5000);
    enum hpl_status status = bench->keystore->ops->wrap(bench->keystore, &call, bench->uid, 1, aad, bench->secret, &wrapped);
    count(chaos, status);
    atomic_fetch_add(&chaos->num_wrong, status != HPL_OK && wrapped.ct_len);
    if (status == HPL_OK)
        open_good(chaos, &wrapped);
}

static void make_key(struct chaos *chaos, uint32_t version)
{
    struct hpl_call call;
    struct bench *bench = chaos->bench;
    hpl_call_init(&call, 5000);
    count(chaos, bench->keystore->ops->create_version(bench->keystore, &call, bench->uid, version));
    hpl_call_init(&call, 5000);
    count(chaos, bench->keystore->ops->destroy_version(bench->keystore, &call, bench->uid, version));
}

static void put_record(struct chaos *chaos, unsigned thread, unsigned round)
{
    struct hpl_call call;
    struct bench *bench = chaos->bench;
    uint64_t revision;
    char name[48];
    snprintf(name, sizeof name, "record-%u-%u", thread, round);
    hpl_call_init(&call, 5000);
    count(chaos, bench->keystore->ops->record_put(bench->keystore, &call, name, bench->uid, 0, hpl_bytes_str("{}"), &revision));
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct chaos *chaos = worker->chaos;
    for (unsigned round = 0; !atomic_load(&chaos->should_stop); round++) {
        wrap(chaos);
        open_good(chaos, &chaos->bench->good);
        if (worker->number < 2 && round % 8 == 0)
            make_key(chaos, 100 + worker->number);
        if (worker->number == 2 && round % 8 == 0)
            put_record(chaos, worker->number, round);
        usleep(PAUSE_MS * 1000);
    }
    return NULL;
}

/* --- the faults ----------------------------------------------------------------------------------------------------------------------- */

/* Not a refused PIN: after that an operator has to come. */
static struct one_case pick(unsigned *seed)
{
    struct one_case one;
    do
        one = faults_case((size_t)rand_r(seed) % faults_num_short());
    while (one.where == SHIM_LOGIN && one.code->family == PIN);
    return one;
}

static bool is_ready(struct chaos *chaos)
{
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    struct bench *bench = chaos->bench;
    hpl_call_init(&call, 5000);
    return bench->keystore->ops->wrap(bench->keystore, &call, bench->uid, 1, aad, bench->secret, &wrapped) == HPL_OK &&
           bench->keystore->ops->unwrap(bench->keystore, &call, bench->uid, 1, aad, &bench->good, &back) == HPL_OK;
}

/* How long it took to be READY after one fault; GIVE_UP_MS: it was not. */
static unsigned strike(struct chaos *chaos, const struct one_case *one, bool loses_sessions, unsigned lasts_ms)
{
    struct shim *shim = chaos->bench->shim;
    shim->rv = one->code->rv;
    shim->is_after = one->is_after;
    shim->times = SHIM_ALWAYS;
    shim->skip = 0;
    shim->every = one->when == EVERY_SEVENTH ? 7 : one->when == THIRD ? 3 : 0;
    shim_set(shim->where, one->where);
    shim_set(shim->is_dead, one->stage == RECONNECT);
    shim_set(shim->loses_sessions, loses_sessions);
    usleep(lasts_ms * 1000);
    shim_set(shim->where, SHIM_NOWHERE);
    uint64_t start_ns = hpl_clock_mono_ns(), took_ms = 0;
    while (!is_ready(chaos) && took_ms < GIVE_UP_MS) {
        usleep(2000);
        took_ms = (hpl_clock_mono_ns() - start_ns) / 1000000u;
    }
    return (unsigned)took_ms;
}

static unsigned one_fault(struct chaos *chaos, unsigned *seed)
{
    char name[128];
    struct one_case one = pick(seed);
    bool loses_sessions = rand_r(seed) % 4 == 0;
    unsigned lasts_ms = (unsigned)(20 + rand_r(seed) % 180), took_ms = strike(chaos, &one, loses_sessions, lasts_ms);
    faults_name(&one, name);
    for (unsigned again = 0; again < MAX_AGAIN && took_ms >= READY_MS; again++) {
        printf("not READY %u ms after %s\n", took_ms, name);
        took_ms = strike(chaos, &one, loses_sessions, lasts_ms);
    }
    return took_ms;
}

static unsigned run(struct chaos *chaos, unsigned seed, unsigned seconds, unsigned *longest_ms)
{
    uint64_t until_ns = hpl_clock_mono_ns() + seconds * 1000000000ull;
    unsigned num_faults = 0;
    for (; hpl_clock_mono_ns() < until_ns; num_faults++) {
        unsigned took_ms = one_fault(chaos, &seed);
        *longest_ms = took_ms > *longest_ms ? took_ms : *longest_ms;
    }
    return num_faults;
}

static bool judge(const struct chaos *chaos, unsigned longest_ms)
{
    const struct shim *shim = chaos->bench->shim;
    bool holds = longest_ms < READY_MS && !chaos->num_wrong && !shim->num_stale_sessions && !shim->num_stale_objects && !shim->num_tainted;
    for (unsigned i = 0; i < HPL_NUM_STATUSES; i++) {
        bool may_be = i == HPL_OK || i == HPL_KEY_UNAVAILABLE || i == HPL_BACKEND || i == HPL_INTERNAL || i == HPL_TIMEOUT || i == HPL_PIN_REJECTED || i == HPL_INVALID_CIPHERTEXT;
        if (chaos->counts[i])
            printf("  %8u %s%s\n", chaos->counts[i], hpl_status_row(i)->name, may_be ? "" : ", which may not be");
        holds &= may_be || !chaos->counts[i];
    }
    printf("%u wrong secrets or leftovers; %u stale sessions, %u stale objects, %u busy sessions used; %u sessions open\n", chaos->num_wrong,
           shim->num_stale_sessions, shim->num_stale_objects, shim->num_tainted, shim->num_open);
    return holds;
}

int main(int argc, char **argv)
{
    struct bench bench;
    struct chaos chaos = {.bench = &bench};
    struct worker workers[NUM_THREADS];
    pthread_t threads[NUM_THREADS];
    unsigned seconds = 4, seed = (unsigned)hpl_clock_mono_ns(), longest_ms = 0;
    bool is_worker = false;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--worker") == 0)
            is_worker = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = (unsigned)strtoul(argv[++i], NULL, 10);
        else
            seconds = (unsigned)strtoul(argv[i], NULL, 10);
    hpl_json_init();
    if (!softhsm_is_there())
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    faults_bench_init(&bench, is_worker);
    printf("%s, seed %u\n", is_worker ? "worker" : "in process", seed);
    for (unsigned i = 0; i < NUM_THREADS; i++) {
        workers[i] = (struct worker){.chaos = &chaos, .number = i};
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    unsigned num_faults = run(&chaos, seed, seconds, &longest_ms);
    atomic_store(&chaos.should_stop, true);
    for (unsigned i = 0; i < NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    printf("%u faults; longest until READY after one: %u ms\n", num_faults, longest_ms);
    bool holds = judge(&chaos, longest_ms);
    bench.keystore->ops->close(bench.keystore);
    bench.keystore = NULL;
    holds &= shim_get(bench.shim->num_open) == 0;
    faults_bench_wipe(&bench);
    faults_remove_dirs();
    return holds ? 0 : 1;
}
