/* hardplate-bench hash: the checksums that S3 clients ask for, as s3/checksum.h computes them. */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "s3/checksum.h"

static const struct {
    const char *op;
    enum hpl_checksum_kind kind;
} hashes[] = {{"md5", HPL_SUM_MD5}, {"sha256", HPL_SUM_SHA256}, {"crc32", HPL_SUM_CRC32}, {"crc32c", HPL_SUM_CRC32C}, {"crc64nvme", HPL_SUM_CRC64NVME}};
#define NUM_HASHES (sizeof hashes / sizeof hashes[0])

struct job {
    enum hpl_checksum_kind kind;
    uint8_t *data;
    size_t size;
};

static void run(void *arg)
{
    struct job *job = arg;
    struct hpl_checksums sums;
    HPL_CHECK(hpl_checksums_init(&sums, 1u << job->kind) == HPL_OK);
    hpl_checksums_update(&sums, job->data, job->size);
    hpl_checksums_final(&sums);
    hpl_checksums_wipe(&sums);
}

static bool measure_all(const struct hpl_bench_options *options, uint8_t *data)
{
    struct hpl_bench_report report;
    hpl_bench_report_init(&report, options, "hash");
    for (size_t s = 0; s < options->num_sizes; s++)
        for (size_t i = 0; i < NUM_HASHES; i++) {
            struct job job = {hashes[i].kind, data, options->sizes[s]};
            struct hpl_bench_task task = {.impl = "hardplate", .threads = 1, .num_ops = 1, .run = run, .arg = &job};
            struct hpl_bench_row row;
            hpl_bench_measure(options, &task, 1, hashes[i].op, job.size, &row);
            hpl_bench_report_add(&report, &row, 1);
        }
    return hpl_bench_report_end(&report);
}

int hpl_bench_hash(int argc, char **argv)
{
    struct hpl_bench_options options;
    int status = hpl_bench_parse(&options, argc, argv, "1024,65536,1048576", "4096");
    if (status >= 0)
        return status;
    size_t most = hpl_bench_max_size(&options);
    uint8_t *data = malloc(most);
    HPL_CHECK(data);
    memset(data, 0x5a, most);
    status = measure_all(&options, data) ? 0 : 1;
    free(data);
    return status;
}
