/* Measuring in turn: sample by sample over all tasks, the clock probed before and after each. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "base/clock.h"

/* Of the thread, so that what others do on its core is not counted; of the wall where several threads work. */
static double now_ns(const struct hpl_bench_task *task)
{
    struct timespec now;
    if (task->is_wall)
        return (double)hpl_clock_mono_ns();
    HPL_CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static double time_runs(const struct hpl_bench_task *task, size_t count)
{
    if (task->time)
        return task->time(task->arg, count);
    double start = now_ns(task);
    for (size_t i = 0; i < count; i++)
        task->run(task->arg);
    return now_ns(task) - start;
}

#define MIN_SAMPLES 5
#define PATIENCE 10 /* how many times the wanted time a row may take, when one run alone is long */

/* What a task's samples are made of. */
struct plan {
    size_t num_runs, num_samples; /* runs a sample */
};

/* As many runs as last the wanted time; warms up on the way. */
static struct plan plan_for(const struct hpl_bench_options *options, const struct hpl_bench_task *task)
{
    double wanted = options->seconds * 1e9, took;
    size_t count = 1;
    while ((took = time_runs(task, count)) < wanted / (double)options->num_samples / 8)
        count *= 2;
    double run = took / (double)count;
    return (struct plan){(size_t)fmax(1, wanted / (double)options->num_samples / run),
                         (size_t)fmin((double)options->num_samples, fmax(MIN_SAMPLES, PATIENCE * wanted / run))};
}

struct samples {
    double ns[HPL_BENCH_MAX_SAMPLES], cycles[HPL_BENCH_MAX_SAMPLES];
};

static void take_sample(const struct hpl_bench_task *task, size_t num_runs, size_t size, struct samples *samples, size_t index)
{
    double before = hpl_bench_ghz();
    samples->ns[index] = time_runs(task, num_runs) / ((double)num_runs * task->num_ops);
    samples->cycles[index] = samples->ns[index] * fmax(before, hpl_bench_ghz()) * 64 / (double)size; /* the slower probe may have lost its core */
}

void hpl_bench_measure(const struct hpl_bench_options *options, const struct hpl_bench_task *tasks, size_t num_tasks, const char *op, size_t size,
                       struct hpl_bench_row *rows)
{
    struct samples samples[HPL_BENCH_MAX_TASKS];
    struct plan plans[HPL_BENCH_MAX_TASKS];
    for (size_t i = 0; i < num_tasks; i++)
        plans[i] = plan_for(options, &tasks[i]);
    for (size_t sample = 0; sample < options->num_samples; sample++)
        for (size_t i = 0; i < num_tasks; i++)
            if (sample < plans[i].num_samples)
                take_sample(&tasks[i], plans[i].num_runs, size, &samples[i], sample);
    for (size_t i = 0; i < num_tasks; i++) {
        rows[i] = (struct hpl_bench_row){.op = op, .size = size, .threads = tasks[i].threads, .ns = hpl_bench_quantile(samples[i].ns, plans[i].num_samples, 0.25),
                                         .cycles = hpl_bench_quantile(samples[i].cycles, plans[i].num_samples, 0.25)};
        snprintf(rows[i].impl, sizeof rows[i].impl, "%s", tasks[i].impl);
        rows[i].gbps = (double)size / rows[i].ns;
    }
}
