/* hardplate-bench seal: a part of the stored format sealed and opened in memory on one core, beside the formats of others. */
#include "bench/bench.h"

#include <stdio.h>

#include "bench/formats.h"
#include "bench/stored.h"
#include "engine/aead.h"

static const char *const op_names[] = {"seal", "open"};

struct part {
    struct hpl_bench_stored stored;
    struct hpl_call call;
};

struct other {
    struct hpl_bench_formats *formats;
    size_t index, size;
    const char *op;
};

static void run_seal(void *arg)
{
    struct hpl_bench_stored *stored = &((struct part *)arg)->stored;
    HPL_CHECK(hpl_packages_seal(stored->key, 0, true, stored->plain, stored->len, stored->out) == stored->sealed_len);
}

static void run_open(void *arg)
{
    struct part *part = arg;
    struct hpl_bench_stored *stored = &part->stored;
    size_t len;
    HPL_CHECK(hpl_packages_open(&part->call, stored->key, stored->len, 0, stored->sealed, stored->sealed_len, stored->out, &len) == HPL_OK && len == stored->len);
}

static double time_other(void *arg, size_t count)
{
    struct other *other = arg;
    return hpl_bench_formats_time(other->formats, other->index, other->op, other->size, count);
}

static size_t make_tasks(struct hpl_bench_task *tasks, struct part *part, struct hpl_bench_formats *formats, struct other *others, int op)
{
    tasks[0] = (struct hpl_bench_task){.threads = 1, .num_ops = 1, .run = op == 0 ? run_seal : run_open, .arg = part};
    snprintf(tasks[0].impl, sizeof tasks[0].impl, "hardplate:%s", hpl_aead_kernel());
    for (size_t i = 0; i < formats->count; i++) {
        others[i] = (struct other){formats, i, part->stored.len, op_names[op]};
        tasks[i + 1] = (struct hpl_bench_task){.threads = 1, .num_ops = 1, .time = time_other, .arg = &others[i]};
        snprintf(tasks[i + 1].impl, sizeof tasks[0].impl, "%s", formats->names[i]);
    }
    return formats->count + 1;
}

static bool measure_all(const struct hpl_bench_options *options, struct part *part, struct hpl_bench_formats *formats)
{
    struct hpl_bench_report report;
    struct hpl_bench_task tasks[HPL_BENCH_MAX_FORMATS + 1];
    struct hpl_bench_row rows[HPL_BENCH_MAX_FORMATS + 1];
    struct other others[HPL_BENCH_MAX_FORMATS];
    hpl_bench_report_init(&report, options, "seal");
    for (size_t s = 0; s < options->num_sizes; s++)
        for (int op = 0; op < 2; op++) {
            hpl_bench_stored_set(&part->stored, options->sizes[s]);
            size_t num_tasks = make_tasks(tasks, part, formats, others, op);
            hpl_bench_measure(options, tasks, num_tasks, op_names[op], part->stored.len, rows);
            hpl_bench_report_add(&report, rows, num_tasks);
        }
    return hpl_bench_report_end(&report);
}

int hpl_bench_seal(int argc, char **argv)
{
    struct hpl_bench_options options;
    struct part part;
    struct hpl_bench_formats formats;
    int exit_status = hpl_bench_parse(&options, argc, argv, "4096,65536,1048576,67108864", "4096,262144");
    if (exit_status >= 0)
        return exit_status;
    hpl_call_init(&part.call, 0);
    hpl_bench_formats_start(&formats);
    enum hpl_status status = hpl_bench_stored_init(&part.call, &part.stored, hpl_bench_max_size(&options));
    if (status == HPL_OK)
        exit_status = measure_all(&options, &part, &formats) ? 0 : 1;
    else
        fprintf(stderr, "hardplate-bench: %s\n", hpl_detail(&part.call, status));
    hpl_bench_stored_wipe(&part.stored);
    hpl_bench_formats_stop(&formats);
    return exit_status >= 0 ? exit_status : 1;
}
