/* hardplate-bench kms: wraps and unwraps of keystores in this process, taking turns. */
#include "bench/kms.h"

#include <stdio.h>
#include <stdlib.h>

struct row {
    struct hpl_bench_keystore *keystore;
    bool is_unwrap;
    unsigned threads;
    struct hpl_bench_wraps wraps;
};

static const char *const names[] = {"local", "softhsm", "tokend", "openbao"};
#define NUM_KEYSTORES HPL_COUNT(names)

/* What this machine has; what it has not is said. */
static size_t open_all(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, const struct hpl_secret *root,
                       struct hpl_bench_keystore *keystores, bool *is_good)
{
    size_t count = 0;
    for (size_t i = 0; i < HPL_COUNT(names); i++) {
        struct hpl_call call = {0};
        if (!hpl_bench_kms_wants(options, names[i]))
            continue;
        enum hpl_status status = hpl_bench_keystore_open(&call, place, names[i], &options->keystore, root, &keystores[count]);
        if (status == HPL_OK) {
            count++;
            continue;
        }
        fprintf(stderr, "hardplate-bench: %s left out: %s\n", names[i], hpl_detail(&call, status));
        *is_good &= status == HPL_UNAVAILABLE;
        hpl_bench_keystore_close(&keystores[count]);
    }
    return count;
}

static void tell(const struct hpl_bench_kms_options *options, const struct row *row, json_t *rows)
{
    const struct hpl_bench_wraps *wraps = &row->wraps;
    const char *op = row->is_unwrap ? "unwrap" : "wrap";
    double a_second = (double)wraps->num_done / wraps->seconds, p50 = hpl_bench_latency_us(&wraps->latency, 0.5), p99 = hpl_bench_latency_us(&wraps->latency, 0.99);
    json_array_append_new(rows, json_pack("{s:s, s:s, s:i, s:I, s:i, s:i, s:f, s:f, s:f, s:I}", "op", op, "impl", row->keystore->name, "threads", (int)row->threads,
                                          "keys", (json_int_t)row->keystore->num_keys, "sessions", (int)options->keystore.sessions, "latency_ms",
                                          (int)options->keystore.latency_ms, "ops_per_s", hpl_bench_rounded(a_second, 1), "p50_us", hpl_bench_rounded(p50, 1),
                                          "p99_us", hpl_bench_rounded(p99, 1), "failures", (json_int_t)wraps->num_failed));
    if (!options->is_json)
        printf("%-8s %-14s %7u %8zu %12.0f %10.1f %10.1f %9llu\n", op, row->keystore->name, row->threads, row->keystore->num_keys, a_second, p50, p99,
               (unsigned long long)wraps->num_failed);
}

static void run_all(const struct hpl_bench_kms_options *options, struct row *table, size_t num_rows)
{
    for (unsigned round = 0; round < options->rounds; round++)
        for (size_t i = 0; i < num_rows; i++)
            hpl_bench_keystore_run(table[i].keystore, table[i].is_unwrap, table[i].threads, options->seconds / options->rounds, &table[i].wraps);
}

static bool measure(const struct hpl_bench_kms_options *options, struct hpl_bench_keystore *keystores, size_t count, json_t *rows)
{
    size_t num_rows = 0;
    bool is_good = true;
    struct row *table = calloc(count * 2 * options->num_threads + 1, sizeof *table);
    HPL_CHECK(table);
    for (int is_unwrap = 0; is_unwrap < 2; is_unwrap++)
        for (size_t k = 0; k < count; k++)
            for (unsigned t = 0; t < options->num_threads; t++)
                table[num_rows++] = (struct row){.keystore = &keystores[k], .is_unwrap = is_unwrap, .threads = options->threads[t]};
    run_all(options, table, num_rows);
    if (!options->is_json)
        printf("%-8s %-14s %7s %8s %12s %10s %10s %9s\n", "op", "keystore", "threads", "keys", "a second", "p50 us", "p99 us", "failures");
    for (size_t i = 0; i < num_rows; i++) {
        tell(options, &table[i], rows);
        is_good &= table[i].wraps.num_failed == 0;
    }
    free(table);
    return is_good;
}

bool hpl_bench_kms_wraps(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, json_t *rows)
{
    struct hpl_bench_keystore keystores[NUM_KEYSTORES];
    struct hpl_secret *HPL_SECRET_AUTO root = hpl_secret_random(32);
    bool is_good = true;
    size_t count = open_all(options, place, root, keystores, &is_good);
    is_good &= measure(options, keystores, count, rows);
    for (size_t i = 0; i < count; i++)
        hpl_bench_keystore_close(&keystores[i]);
    return is_good;
}
