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

/* How many runs last about ns; warms up on the way. */
static size_t count_for(const struct hpl_bench_task *task, double ns)
{
    size_t count = 1;
    for (;;) {
        double took = time_runs(task, count);
        if (took >= ns / 8)
            return (size_t)fmax(1, (double)count * ns / took);
        count *= 2;
    }
}

void hpl_bench_measure(const struct hpl_bench_options *options, const struct hpl_bench_task *tasks, size_t num_tasks, const char *op, size_t size,
                       struct hpl_bench_row *rows)
{
    double ns[HPL_BENCH_MAX_TASKS][HPL_BENCH_MAX_SAMPLES], cycles[HPL_BENCH_MAX_TASKS][HPL_BENCH_MAX_SAMPLES];
    size_t counts[HPL_BENCH_MAX_TASKS];
    for (size_t i = 0; i < num_tasks; i++)
        counts[i] = count_for(&tasks[i], options->seconds * 1e9 / (double)options->num_samples);
    for (size_t sample = 0; sample < options->num_samples; sample++)
        for (size_t i = 0; i < num_tasks; i++) {
            double before = hpl_bench_ghz();
            ns[i][sample] = time_runs(&tasks[i], counts[i]) / ((double)counts[i] * tasks[i].num_ops);
            cycles[i][sample] = ns[i][sample] * fmax(before, hpl_bench_ghz()) * 64 / (double)size; /* the slower probe may have lost its core */
        }
    for (size_t i = 0; i < num_tasks; i++) {
        rows[i] = (struct hpl_bench_row){.op = op, .size = size, .threads = tasks[i].threads, .ns = hpl_bench_quantile(ns[i], options->num_samples, 0.25),
                                         .cycles = hpl_bench_quantile(cycles[i], options->num_samples, 0.25)};
        snprintf(rows[i].impl, sizeof rows[i].impl, "%s", tasks[i].impl);
        rows[i].gbps = (double)size / rows[i].ns;
    }
}
