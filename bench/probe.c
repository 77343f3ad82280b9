/* Measures of the machine itself: its clock, and the least that AES can cost on it. */
#include "bench/bench.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/cpu/cpu.h"

#define NUM_SAMPLES 9
#define NUM_ADDS 100000

/* A thousand at a time, in assembler, so that a build without optimization measures the same. The addend is in a register: processors do away with
 * chains of constants. */
#if defined(__x86_64__)
#define ADD_1000 ".rept 1000\n\tadd %1, %0\n\t.endr"
#elif defined(__aarch64__)
#define ADD_1000 ".rept 1000\n\tadd %0, %0, %1\n\t.endr"
#else
#error "hardplate-bench: no chain of additions for this processor"
#endif

double hpl_bench_ghz(void)
{
    uint64_t sum = 1, by = 3, start = hpl_clock_mono_ns();
    for (int i = 0; i < NUM_ADDS / 1000; i++)
        __asm__ volatile(ADD_1000 : "+r"(sum) : "r"(by));
    return NUM_ADDS / (double)(hpl_clock_mono_ns() - start);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double hpl_bench_median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, compare);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

#if defined(__x86_64__)
#define NUM_STREAMS 12 /* more than latency times width of any processor we know */
#define NUM_TURNS 5000

/* Nanoseconds for one AESENC when many are under way. In assembler: a compiler may keep the streams in memory, and then that is what is measured. */
static double time_aesenc(void)
{
    uint64_t start = hpl_clock_mono_ns(), turns = NUM_TURNS;
    __asm__ volatile("1:\n\t"
                     "aesenc %%xmm12, %%xmm0\n\taesenc %%xmm12, %%xmm1\n\taesenc %%xmm12, %%xmm2\n\taesenc %%xmm12, %%xmm3\n\t"
                     "aesenc %%xmm12, %%xmm4\n\taesenc %%xmm12, %%xmm5\n\taesenc %%xmm12, %%xmm6\n\taesenc %%xmm12, %%xmm7\n\t"
                     "aesenc %%xmm12, %%xmm8\n\taesenc %%xmm12, %%xmm9\n\taesenc %%xmm12, %%xmm10\n\taesenc %%xmm12, %%xmm11\n\t"
                     "dec %0\n\tjnz 1b"
                     : "+r"(turns)
                     :
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12");
    return (double)(hpl_clock_mono_ns() - start) / (NUM_TURNS * NUM_STREAMS);
}

double hpl_bench_aes_wall(void)
{
    double cycles[NUM_SAMPLES];
    if (!(hpl_cpu_has() & HPL_CPU_AESNI))
        return -1;
    for (int i = 0; i < NUM_SAMPLES; i++) {
        double before = hpl_bench_ghz(), ns = time_aesenc();
        cycles[i] = 14 * 4 * ns * (before + hpl_bench_ghz()) / 2;
    }
    return hpl_bench_median(cycles, NUM_SAMPLES);
}
#else
double hpl_bench_aes_wall(void)
{
    return -1;
}
#endif
