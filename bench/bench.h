/* What the sub-commands of hardplate-bench share: options, measuring in turn, the report. One thread. */
#ifndef HPL_BENCH_BENCH_H
#define HPL_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"

enum { HPL_BENCH_USAGE = 2 };
#define HPL_BENCH_MAX_TASKS 24
#define HPL_BENCH_MAX_SIZES 32
#define HPL_BENCH_MAX_SAMPLES 41

/* Each returns the program's exit status. */
int hpl_bench_gcm(int argc, char **argv);
int hpl_bench_provider(int argc, char **argv);
int hpl_bench_seal(int argc, char **argv);
int hpl_bench_workers(int argc, char **argv);
int hpl_bench_hash(int argc, char **argv);
int hpl_bench_kms(int argc, char **argv);

struct hpl_bench_options {
    bool is_json;
    double seconds; /* of measuring, a row */
    size_t num_samples;
    size_t sizes[HPL_BENCH_MAX_SIZES], num_sizes;
    const char *plot; /* a file to write; NULL: none */
};

/* Parses what all sub-commands understand; sizes and quick_sizes are the defaults, comma separated, the latter for --quick. -1: go on; else the exit
 * status, and all was said. */
int hpl_bench_parse(struct hpl_bench_options *options, int argc, char **argv, const char *sizes, const char *quick_sizes);

size_t hpl_bench_max_size(const struct hpl_bench_options *options);

/* One implementation at one piece of work. */
struct hpl_bench_task {
    char impl[64];
    unsigned threads;
    bool is_wall;                                /* timed by the wall clock, not by the thread's own */
    double num_ops;                              /* that one run does */
    void (*run)(void *arg);
    double (*time)(void *arg, size_t count);     /* nanoseconds of count runs, where the task has a clock of its own; NULL: run is timed */
    void *arg;
};

struct hpl_bench_row {
    const char *op;
    char impl[64];
    size_t size;
    unsigned threads;
    double gbps, cycles, ns; /* 10^9 bytes a second; clock-normalised, for 64 bytes; for one operation */
};

/* Measures all tasks in turn, sample by sample, so that all see the same machine, and writes a row for each: of
 * its samples the lower quartile, which is what it takes when nobody else has the core, and still not the luckiest. */
void hpl_bench_measure(const struct hpl_bench_options *options, const struct hpl_bench_task *tasks, size_t num_tasks, const char *op, size_t size,
                       struct hpl_bench_row *rows);

/* What becomes the table, the JSON object and the plot. */
struct hpl_bench_report {
    const struct hpl_bench_options *options;
    const char *command;
    char cpu[128];
    double wall; /* of AESENC, for 64 bytes; below 0: none */
    struct hpl_bench_row *rows;
    size_t num_rows, room;
};

void hpl_bench_report_init(struct hpl_bench_report *report, const struct hpl_bench_options *options, const char *command);
/* The last row is the one that the others are compared with in the table. */
void hpl_bench_report_add(struct hpl_bench_report *report, const struct hpl_bench_row *rows, size_t num_rows);
/* Writes JSON and plot where asked for, frees. False: could not be written, and why was said. */
bool hpl_bench_report_end(struct hpl_bench_report *report);

/* Throughput by size, a panel for each op; where rows differ in threads: by threads, a panel for each op and size. A line for each implementation. */
bool hpl_bench_plot(const char *path, const char *title, const struct hpl_bench_row *rows, size_t num_rows);

/* What the system calls the processor. */
void hpl_bench_cpu_name(char *out, size_t out_size);
/* This core's clock now, in GHz: a chain of additions, each one cycle, against the wall clock. Some 30 microseconds. */
double hpl_bench_ghz(void);
/* Cycles that AESENC alone, on the widest registers there are, takes for four blocks of AES-256; below 0 where there is no AES-NI. */
double hpl_bench_aes_wall(void);
/* Sorts, and gives the value that a share of the others, 0 to 1, is below; count at least 1. */
double hpl_bench_quantile(double *values, size_t count, double share);

#endif
