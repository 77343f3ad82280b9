/* What the files of hardplate-bench kms share: options, rows, the report. One thread. */
#ifndef HPL_BENCH_KMS_H
#define HPL_BENCH_KMS_H

#include "bench/bench.h"
#include "bench/keystores.h"

#define HPL_BENCH_MAX_THREADS 8u

struct hpl_bench_kms_options {
    bool is_json, is_http, is_quick, is_reconfigure;
    double seconds;     /* of measuring, a row */
    unsigned rounds;    /* that it is split into, so that all take turns */
    unsigned threads[HPL_BENCH_MAX_THREADS], num_threads;
    unsigned connections;
    const char *only;   /* comma-separated names; NULL: all */
    struct hpl_bench_keystore_options keystore;
};

/* True where the option --only does not leave it out. */
bool hpl_bench_kms_wants(const struct hpl_bench_kms_options *options, const char *name);

/* Each measures and appends its rows, told as they come; false: something failed, and was said. */
bool hpl_bench_kms_wraps(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, json_t *rows);
bool hpl_bench_kms_http(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, json_t *rows);
bool hpl_bench_kms_reconfigure(const struct hpl_bench_kms_options *options, const struct hpl_bench_place *place, json_t *rows);

/* value to so many decimals. */
double hpl_bench_rounded(double value, int decimals);

#endif
