/* Tampered blobs, as many as go through, beside good ones: is every one refused in one word, and does the token stay READY? The
 * keystore's unwrap on SoftHSM behind the shim, which counts initialisations and logins.
 *   tampered [--worker] [--at-least RATE] [SECONDS]     (default 2; exit 1 when something did not hold or the rate was lower) */
#include "tests/faults/faults.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define NUM_THREADS 3u
#define NUM_KINDS 5u

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

struct flood {
    struct bench *bench;
    _Atomic bool should_stop;
    _Atomic uint64_t num_refused, num_good, num_wrong; /* wrong: any other answer to either */
    _Atomic uint64_t num_away;                         /* times that status did not say connected */
};

/* One bit of ciphertext, tag, IV or context, or a blob of the right shape and nothing else. */
static void tamper(struct hpl_wrapped *wrapped, uint8_t context[static HPL_WRAP_AAD_LEN], unsigned number)
{
    uint8_t bit = (uint8_t)(1u << number / NUM_KINDS % 8);
    switch (number % NUM_KINDS) {
    case 0:
        wrapped->ct[number / 40 % 32] ^= bit;
        break;
    case 1:
        wrapped->ct[32 + number / 40 % 16] ^= bit;
        break;
    case 2:
        wrapped->iv[number / 40 % 12] ^= bit;
        break;
    case 3:
        context[number / 40 % HPL_WRAP_AAD_LEN] ^= bit;
        break;
    default:
        memset(wrapped->ct, (int)(number / 40), wrapped->ct_len);
    }
}

static enum hpl_status unwrap(struct flood *flood, const struct hpl_wrapped *wrapped, const uint8_t context[static HPL_WRAP_AAD_LEN])
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    struct hpl_keystore *keystore = flood->bench->keystore;
    hpl_call_init(&call, 5000);
    enum hpl_status status = keystore->ops->unwrap(keystore, &call, flood->bench->uid, 1, context, wrapped, &back);
    if (status != HPL_OK && (back || call.detail[0])) /* one text for all that is wrong with a ciphertext */
        atomic_fetch_add(&flood->num_wrong, 1);
    return status;
}

static void *send_tampered(void *arg)
{
    struct flood *flood = arg;
    for (unsigned number = 0; !atomic_load(&flood->should_stop); number++) {
        struct hpl_wrapped wrapped = flood->bench->good;
        uint8_t context[HPL_WRAP_AAD_LEN];
        memcpy(context, aad, sizeof context);
        tamper(&wrapped, context, number);
        bool is_right = unwrap(flood, &wrapped, context) == HPL_INVALID_CIPHERTEXT;
        atomic_fetch_add(is_right ? &flood->num_refused : &flood->num_wrong, 1);
    }
    return NULL;
}

static bool is_connected(struct hpl_keystore *keystore)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    return json_is_true(json_object_get(facts, "is_connected"));
}

static void *send_good(void *arg)
{
    struct flood *flood = arg;
    while (!atomic_load(&flood->should_stop)) {
        bool is_right = unwrap(flood, &flood->bench->good, aad) == HPL_OK;
        atomic_fetch_add(is_right ? &flood->num_good : &flood->num_wrong, 1);
        atomic_fetch_add(&flood->num_away, !is_connected(flood->bench->keystore));
        usleep(1000);
    }
    return NULL;
}

static double run(struct flood *flood, unsigned seconds)
{
    pthread_t threads[NUM_THREADS + 1];
    uint64_t start_ns = hpl_clock_mono_ns();
    for (size_t i = 0; i <= NUM_THREADS; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, i ? send_tampered : send_good, flood), 0);
    sleep(seconds);
    atomic_store(&flood->should_stop, true);
    for (size_t i = 0; i <= NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    return (double)(hpl_clock_mono_ns() - start_ns) / 1e9;
}

int main(int argc, char **argv)
{
    struct bench bench;
    struct flood flood = {.bench = &bench};
    unsigned seconds = 2;
    double at_least = 0;
    bool is_worker = false;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--worker") == 0)
            is_worker = true;
        else if (strcmp(argv[i], "--at-least") == 0 && i + 1 < argc)
            at_least = strtod(argv[++i], NULL);
        else
            seconds = (unsigned)strtoul(argv[i], NULL, 10);
    EXPECT(seconds > 0);
    hpl_json_init();
    if (!softhsm_is_there())
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    faults_bench_init(&bench, is_worker);
    double took = run(&flood, seconds), rate = (double)flood.num_refused / took;
    const struct shim *shim = bench.shim;
    printf("%s: %llu tampered blobs in %.1f s, %.0f a second, each refused as InvalidCiphertext; %llu good ones served meanwhile; %llu wrong answers\n",
           is_worker ? "worker" : "in process", (unsigned long long)flood.num_refused, took, rate, (unsigned long long)flood.num_good,
           (unsigned long long)flood.num_wrong);
    printf("C_Initialize %u times, C_Finalize %u, C_Login %u; the token was not READY at %llu of %llu looks\n", shim->num_initialised, shim->num_finalized,
           shim->num_logins, (unsigned long long)flood.num_away, (unsigned long long)flood.num_good);
    bool holds = flood.num_refused > 0 && flood.num_good > 0 && !flood.num_wrong && !flood.num_away && shim->num_initialised == 1 &&
                 shim->num_finalized == 0 && shim->num_logins == 1 && rate >= at_least;
    faults_bench_wipe(&bench);
    faults_remove_dirs();
    return holds ? 0 : 1;
}
