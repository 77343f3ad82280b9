/* What this processor has, and what is worth using on it: two different things. */
#ifndef HPL_ENGINE_CPU_CPU_H
#define HPL_ENGINE_CPU_CPU_H

#include <stdint.h>

enum {
    HPL_CPU_AESNI = 1u << 0,    /* AES-NI, PCLMULQDQ, SSSE3, SSE4.1 */
    HPL_CPU_VAES_AVX2 = 1u << 1,   /* VAES, VPCLMULQDQ, AVX2, with the ymm state enabled */
    HPL_CPU_VAES_AVX512 = 1u << 2  /* VAES, VPCLMULQDQ, AVX-512 F, BW, DQ, VL, with the zmm state enabled */
};

/* Found by CPUID and XGETBV once; then what the environment variable HARDPLATE_CPU names ("-vaes-avx512,-aesni") is taken away: it may only
 * remove. Any thread. */
uint32_t hpl_cpu_has(void);

/* The bits left of has after a HARDPLATE_CPU text (NULL: all). Pure. */
uint32_t hpl_cpu_masked(uint32_t has, const char *text);

#endif
