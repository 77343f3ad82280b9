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

double hpl_bench_quantile(double *values, size_t count, double share)
{
    qsort(values, count, sizeof *values, compare);
    return values[(size_t)(share * (double)(count - 1))];
}

#if defined(__x86_64__)
#define NUM_STREAMS 12 /* more than latency times width of any processor we know */
#define NUM_TURNS 5000

/* Nanoseconds for one AESENC when many are under way, by width of register. In assembler: a compiler may keep the streams in memory, and then that is
 * what is measured. */
#define TIME_STREAMS(op, reg)                                                                                                         \
    __asm__ volatile("1:\n\t" op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) "dec %0\n\tjnz 1b"             \
                     : "+r"(turns)::"cc", reg "0", reg "1", reg "2", reg "3", reg "4", reg "5", reg "6", reg "7", reg "8", reg "9",    \
                       reg "10", reg "11", reg "12")
#define AESENC_XMM(n) "aesenc %%xmm12, %%xmm" #n "\n\t"
#define AESENC_YMM(n) "vaesenc %%ymm12, %%ymm" #n ", %%ymm" #n "\n\t"
#define AESENC_ZMM(n) "vaesenc %%zmm12, %%zmm" #n ", %%zmm" #n "\n\t"

static double time_aesenc(unsigned blocks)
{
    uint64_t start = hpl_clock_mono_ns(), turns = NUM_TURNS;
    if (blocks == 4)
        TIME_STREAMS(AESENC_ZMM, "xmm");
    else if (blocks == 2)
        TIME_STREAMS(AESENC_YMM, "xmm");
    else
        TIME_STREAMS(AESENC_XMM, "xmm");
    if (blocks > 1)
        __asm__ volatile("vzeroupper"); /* or every SSE instruction after this waits for the upper halves */
    return (double)(hpl_clock_mono_ns() - start) / (NUM_TURNS * NUM_STREAMS);
}

double hpl_bench_aes_wall(void)
{
    double cycles[NUM_SAMPLES];
    uint32_t has = hpl_cpu_has();
    unsigned blocks = has & HPL_CPU_VAES_AVX512 ? 4 : has & HPL_CPU_VAES_AVX2 ? 2 : 1;
    if (!(has & HPL_CPU_AESNI))
        return -1;
    for (int i = 0; i < NUM_SAMPLES; i++) {
        double before = hpl_bench_ghz(), ns = time_aesenc(blocks);
        cycles[i] = 14.0 * 4 / blocks * ns * (before + hpl_bench_ghz()) / 2;
    }
    return hpl_bench_quantile(cycles, NUM_SAMPLES, 0.5);
}
#else
double hpl_bench_aes_wall(void)
{
    return -1;
}
#endif
