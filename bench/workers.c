/* hardplate-bench workers: the packages of one part, and one message, over 1 to all workers. */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "bench/stored.h"
#include "engine/seal/batch.h"
#include "engine/work/split.h"

#define MAX_STEPS 10 /* 1, 2, 4, … and all */

enum kind { SEAL, OPEN, SEAL_SPLIT, OPEN_SPLIT };

struct step {
    struct hpl_work *work; /* NULL: on the calling thread */
    unsigned threads;
};

struct bench {
    struct step steps[MAX_STEPS];
    size_t num_steps;
    struct hpl_bench_stored stored;
    struct hpl_call call;
    struct hpl_aead_key *key; /* of the one message */
    uint8_t nonce[12], tag[16];
};

struct job {
    struct bench *bench;
    struct hpl_work *work;
};

static void run_seal(void *arg)
{
    struct job *job = arg;
    struct hpl_bench_stored *stored = &job->bench->stored;
    HPL_CHECK(hpl_packages_seal_all(job->work, stored->key, 0, true, stored->plain, stored->len, stored->out) == stored->sealed_len);
}

static void run_open(void *arg)
{
    struct job *job = arg;
    struct hpl_bench_stored *stored = &job->bench->stored;
    size_t len;
    HPL_CHECK(hpl_packages_open_all(&job->bench->call, job->work, stored->key, stored->len, 0, stored->sealed, stored->sealed_len, stored->out, &len) == HPL_OK);
}

static void run_seal_split(void *arg)
{
    struct job *job = arg;
    struct bench *bench = job->bench;
    bench->nonce[0]++;
    hpl_aead_seal_split(job->work, bench->key, bench->nonce, (struct hpl_bytes){0}, bench->stored.plain, bench->stored.len, bench->stored.sealed, bench->tag);
}

static void run_open_split(void *arg)
{
    struct job *job = arg;
    struct bench *bench = job->bench;
    HPL_CHECK(hpl_aead_open_split(job->work, bench->key, bench->nonce, (struct hpl_bytes){0}, bench->stored.sealed, bench->stored.len, bench->stored.out,
                                  bench->tag) == HPL_OK);
}

/* Most threads first, so that the last row, which the table compares with, is one thread. */
static size_t make_tasks(struct bench *bench, enum kind kind, struct hpl_bench_task *tasks, struct job *jobs)
{
    static void (*const runs[])(void *) = {run_seal, run_open, run_seal_split, run_open_split};
    for (size_t i = 0; i < bench->num_steps; i++) {
        const struct step *step = &bench->steps[bench->num_steps - 1 - i];
        jobs[i] = (struct job){bench, step->work};
        tasks[i] = (struct hpl_bench_task){.threads = step->threads, .is_wall = true, .num_ops = 1, .run = runs[kind], .arg = &jobs[i]};
        snprintf(tasks[i].impl, sizeof tasks[i].impl, "%s:%s", kind < SEAL_SPLIT ? "hardplate" : "hardplate-split", hpl_aead_kernel());
    }
    return bench->num_steps;
}

static void measure(const struct hpl_bench_options *options, struct hpl_bench_report *report, struct bench *bench, enum kind kind)
{
    struct hpl_bench_task tasks[MAX_STEPS];
    struct hpl_bench_row rows[MAX_STEPS];
    struct job jobs[MAX_STEPS];
    size_t num_tasks = make_tasks(bench, kind, tasks, jobs);
    if (kind == OPEN_SPLIT)
        run_seal_split(&jobs[0]);
    hpl_bench_measure(options, tasks, num_tasks, kind % 2 == SEAL ? "seal" : "open", bench->stored.len, rows);
    hpl_bench_report_add(report, rows, num_tasks);
}

static bool measure_all(const struct hpl_bench_options *options, struct bench *bench)
{
    struct hpl_bench_report report;
    hpl_bench_report_init(&report, options, "workers");
    for (size_t s = 0; s < options->num_sizes; s++) {
        hpl_bench_stored_set(&bench->stored, options->sizes[s]);
        for (enum kind kind = SEAL; kind <= OPEN_SPLIT; kind++)
            measure(options, &report, bench, kind);
    }
    return hpl_bench_report_end(&report);
}

static enum hpl_status start_steps(struct hpl_call *call, struct bench *bench)
{
    struct hpl_work *all;
    HPL_TRY(hpl_work_start(call, &all, 0));
    unsigned most = hpl_work_num_threads(all);
    bench->steps[bench->num_steps++] = (struct step){NULL, 1};
    if (most == 1) {
        hpl_work_stop(all);
        return HPL_OK;
    }
    for (unsigned n = 2; n < most && bench->num_steps < MAX_STEPS - 1; n *= 2) {
        struct step *step = &bench->steps[bench->num_steps++];
        step->threads = n;
        enum hpl_status status = hpl_work_start(call, &step->work, n);
        if (status != HPL_OK) {
            hpl_work_stop(all);
            return status;
        }
    }
    bench->steps[bench->num_steps++] = (struct step){all, most};
    return HPL_OK;
}

static enum hpl_status start(struct hpl_call *call, struct bench *bench, size_t most)
{
    static const uint8_t bytes[32] = "not a secret: for the bench only";
    HPL_TRY(hpl_bench_stored_init(call, &bench->stored, most));
    HPL_TRY(hpl_aead_key_new(call, &bench->key, bytes, sizeof bytes));
    return start_steps(call, bench);
}

int hpl_bench_workers(int argc, char **argv)
{
    static struct bench bench;
    struct hpl_bench_options options;
    int exit_status = hpl_bench_parse(&options, argc, argv, "4194304,67108864", "2097152");
    if (exit_status >= 0)
        return exit_status;
    hpl_call_init(&bench.call, 0);
    enum hpl_status status = start(&bench.call, &bench, hpl_bench_max_size(&options));
    if (status == HPL_OK)
        exit_status = measure_all(&options, &bench) ? 0 : 1;
    else
        fprintf(stderr, "hardplate-bench: %s\n", hpl_detail(&bench.call, status));
    for (size_t i = 0; i < bench.num_steps; i++)
        hpl_work_stop(bench.steps[i].work);
    hpl_aead_key_free(bench.key);
    hpl_bench_stored_wipe(&bench.stored);
    return exit_status >= 0 ? exit_status : 1;
}
