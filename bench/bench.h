/* What the sub-commands of hardplate-bench share. */
#ifndef HPL_BENCH_BENCH_H
#define HPL_BENCH_BENCH_H

#include <stddef.h>

enum { HPL_BENCH_USAGE = 2 };

/* Each returns the program's exit status. */
int hpl_bench_gcm(int argc, char **argv);

/* This core's clock now, in GHz: a chain of additions, each one cycle, against the wall clock. Some 30 microseconds. */
double hpl_bench_ghz(void);
/* Cycles that AESENC alone, on the widest registers there are, takes for four blocks of AES-256; below 0 where there is no AES-NI. */
double hpl_bench_aes_wall(void);
/* Sorts; count at least 1. */
double hpl_bench_median(double *values, size_t count);

#endif
