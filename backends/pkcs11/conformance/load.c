/* Wraps and unwraps by the backend's own code for a while, by 1, 2, 4 and 8 threads, each in a session of its own. IVs are looked at for
 * repeats, plaintexts for being right. */
#include "backends/pkcs11/conformance/probe.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/clock.h"

#define MOST_THREADS 8u
#define MOST_SAMPLES (1u << 19)
#define MOST_CODES 8u
#define IV_LEN 16u
#define ERROR_PAUSE_NS 5000000

struct failures {
    CK_RV code;
    const char *function;
    uint64_t times;
};

struct worker {
    struct hpl_probe *probe;
    pthread_t thread;
    uint64_t until_ns, num_wraps, num_unwraps, num_wrong;
    uint32_t *wrap_us, *unwrap_us; /* the first MOST_SAMPLES of each */
    uint8_t (*ivs)[IV_LEN];
    struct failures failures[MOST_CODES];
};

static void fail(struct worker *worker, const char *function, CK_RV code)
{
    for (size_t i = 0; i < MOST_CODES; i++)
        if (!worker->failures[i].times || (worker->failures[i].code == code && strcmp(worker->failures[i].function, function) == 0)) {
            worker->failures[i] = (struct failures){code, function, worker->failures[i].times + 1};
            break;
        }
    nanosleep(&(struct timespec){.tv_nsec = ERROR_PAUSE_NS}, NULL);
}

static void sample(uint32_t *samples, uint64_t *num, uint64_t since_ns)
{
    if (*num < MOST_SAMPLES)
        samples[*num] = (uint32_t)((hpl_clock_mono_ns() - since_ns) / 1000u);
    (*num)++;
}

static struct hpl_p11_io io_of(const struct hpl_probe *probe, CK_SESSION_HANDLE session)
{
    struct hpl_p11_io io = {.fn = probe->fn, .session = session, .id = "the ID of a trial..", .aad = "the context of a load, 32 bytes."};
    memcpy(io.handles, probe->handles, sizeof io.handles);
    return io;
}

static bool wrap(struct worker *worker, struct hpl_p11_io *io, const uint8_t *secret, struct hpl_wrapped *out)
{
    const struct hpl_probe *probe = worker->probe;
    uint64_t since_ns = hpl_clock_mono_ns();
    CK_RV rv = probe->tier->seal(io, probe->mode, hpl_bytes(secret, HPL_PROBE_SECRET_LEN), out);
    if (rv != CKR_OK || !io->is_as_said) {
        fail(worker, rv == CKR_OK ? "an IV that is not as it was proven" : io->function, rv);
        return false;
    }
    if (worker->num_wraps < MOST_SAMPLES) {
        memset(worker->ivs[worker->num_wraps], 0, IV_LEN);
        memcpy(worker->ivs[worker->num_wraps], out->iv, out->iv_len < IV_LEN ? out->iv_len : IV_LEN);
    }
    sample(worker->wrap_us, &worker->num_wraps, since_ns);
    return true;
}

/* False when the session has to be replaced. */
static bool turn(struct worker *worker, CK_SESSION_HANDLE session)
{
    uint8_t secret[HPL_PROBE_SECRET_LEN] = "load", out[sizeof ((struct hpl_wrapped *)0)->ct];
    CK_ULONG out_len = sizeof out;
    struct hpl_wrapped wrapped;
    struct hpl_p11_io io = io_of(worker->probe, session);
    memcpy(secret + 8, &worker->num_wraps, sizeof worker->num_wraps);
    if (!wrap(worker, &io, secret, &wrapped))
        return false;
    uint64_t since_ns = hpl_clock_mono_ns();
    CK_RV rv = worker->probe->tier->open(&io, &wrapped, out, &out_len);
    if (rv != CKR_OK) {
        fail(worker, io.function, rv);
        return false;
    }
    sample(worker->unwrap_us, &worker->num_unwraps, since_ns);
    worker->num_wrong += out_len != sizeof secret || memcmp(out, secret, sizeof secret) != 0;
    return true;
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    CK_SESSION_HANDLE session = 0;
    bool has_session = false;
    while (hpl_clock_mono_ns() < worker->until_ns) {
        if (!has_session) {
            CK_RV rv = hpl_probe_open(worker->probe, &session);
            has_session = rv == CKR_OK;
            if (!has_session) {
                fail(worker, "C_OpenSession", rv);
                continue;
            }
        }
        if (!turn(worker, session)) {
            hpl_probe_close(worker->probe, session);
            has_session = false;
        }
    }
    if (has_session)
        hpl_probe_close(worker->probe, session);
    return NULL;
}

/* --- what came of it ---------------------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, IV_LEN);
}

static size_t kept(uint64_t num)
{
    return num < MOST_SAMPLES ? (size_t)num : MOST_SAMPLES;
}

static json_t *latency_json(const struct worker *workers, unsigned num_threads, bool is_wrap, double seconds)
{
    uint64_t total = 0;
    size_t num = 0;
    uint32_t *all = malloc(sizeof *all * MOST_SAMPLES * num_threads);
    for (unsigned i = 0; i < num_threads; i++) {
        uint64_t count = is_wrap ? workers[i].num_wraps : workers[i].num_unwraps;
        if (all && count)
            memcpy(all + num, is_wrap ? workers[i].wrap_us : workers[i].unwrap_us, kept(count) * sizeof *all);
        num += kept(count);
        total += count;
    }
    json_t *answer = json_pack("{s:f}", "a_second", (double)total / seconds);
    if (all && num) {
        qsort(all, num, sizeof *all, by_size);
        json_object_set_new(answer, "p50_us", json_integer(all[num / 2]));
        json_object_set_new(answer, "p99_us", json_integer(all[num - 1 - num / 100]));
        json_object_set_new(answer, "most_us", json_integer(all[num - 1]));
    }
    free(all);
    return answer;
}

static json_int_t num_repeats(const struct worker *workers, unsigned num_threads)
{
    size_t num = 0;
    json_int_t repeats = 0;
    uint8_t(*all)[IV_LEN] = malloc((size_t)IV_LEN * MOST_SAMPLES * num_threads);
    if (!all)
        return -1;
    for (unsigned i = 0; i < num_threads; num += kept(workers[i].num_wraps), i++)
        memcpy(all + num, workers[i].ivs, kept(workers[i].num_wraps) * IV_LEN);
    qsort(all, num, IV_LEN, by_bytes);
    for (size_t i = 1; i < num; i++)
        repeats += memcmp(all[i - 1], all[i], IV_LEN) == 0;
    free(all);
    return repeats;
}

static json_t *failures_json(const struct worker *workers, unsigned num_threads)
{
    json_t *rows = json_array();
    for (unsigned i = 0; i < num_threads; i++)
        for (size_t j = 0; j < MOST_CODES && workers[i].failures[j].times; j++)
            json_array_append_new(rows, json_pack("{s:i, s:s, s:o, s:I}", "thread", (int)i + 1, "function", workers[i].failures[j].function, "code",
                                                  hpl_probe_code(workers[i].failures[j].code), "times", (json_int_t)workers[i].failures[j].times));
    return rows;
}

/* --- one step -------------------------------------------------------------------------------------------------------------------- */

static void worker_wipe(struct worker *worker)
{
    free(worker->wrap_us);
    free(worker->unwrap_us);
    free(worker->ivs);
}

static bool worker_init(struct worker *worker, struct hpl_probe *probe, uint64_t until_ns)
{
    *worker = (struct worker){.probe = probe, .until_ns = until_ns, .wrap_us = malloc(sizeof *worker->wrap_us * MOST_SAMPLES),
                              .unwrap_us = malloc(sizeof *worker->unwrap_us * MOST_SAMPLES), .ivs = malloc((size_t)IV_LEN * MOST_SAMPLES)};
    return worker->wrap_us && worker->unwrap_us && worker->ivs;
}

static json_t *run_step(struct hpl_probe *probe, unsigned num_threads, double seconds)
{
    struct worker workers[MOST_THREADS];
    uint64_t since_ns = hpl_clock_mono_ns(), wrong = 0;
    unsigned num = 0;
    while (num < num_threads && worker_init(&workers[num], probe, since_ns + (uint64_t)(seconds * 1e9)) &&
           pthread_create(&workers[num].thread, NULL, work, &workers[num]) == 0)
        num++;
    if (num < num_threads)
        worker_wipe(&workers[num]);
    for (unsigned i = 0; i < num; i++) {
        pthread_join(workers[i].thread, NULL);
        wrong += workers[i].num_wrong;
    }
    double took = hpl_probe_ms(since_ns) / 1000;
    json_t *answer = json_pack("{s:i, s:f, s:o, s:o, s:I, s:I, s:o}", "threads", (int)num, "seconds", took, "wraps",
                               latency_json(workers, num, true, took), "unwraps", latency_json(workers, num, false, took), "wrong_plaintexts",
                               (json_int_t)wrong, "repeated_ivs", num_repeats(workers, num), "failures", failures_json(workers, num));
    for (unsigned i = 0; i < num; i++)
        worker_wipe(&workers[i]);
    return answer;
}

json_t *hpl_probe_load(struct hpl_probe *probe)
{
    static const unsigned steps[] = {1, 2, 4, 8};
    json_t *rows = json_array();
    if (!hpl_probe_make_objects(probe))
        return rows;
    for (size_t i = 0; i < HPL_COUNT(steps); i++)
        json_array_append_new(rows, run_step(probe, steps[i], (double)probe->asked->seconds / HPL_COUNT(steps)));
    hpl_probe_drop_objects(probe);
    return rows;
}
