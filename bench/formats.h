/* The program that times other stored formats (bench/peers/stored), asked over pipes, so that it takes its turn among ours. One thread. */
#ifndef HPL_BENCH_FORMATS_H
#define HPL_BENCH_FORMATS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#define HPL_BENCH_MAX_FORMATS 8

struct hpl_bench_formats {
    pid_t pid;
    FILE *to, *from;
    char names[HPL_BENCH_MAX_FORMATS][64];
    size_t count;
};

/* Starts the program that HPL_BENCH_STORED names. Without it, or when it does not run (told on standard error), count is 0. */
void hpl_bench_formats_start(struct hpl_bench_formats *formats);
/* Nanoseconds that sealing or opening size bytes count times takes there, by its own clock. Ends the process when the program does not answer. */
double hpl_bench_formats_time(struct hpl_bench_formats *formats, size_t format, const char *op, size_t size, size_t count);
void hpl_bench_formats_stop(struct hpl_bench_formats *formats);

#endif
