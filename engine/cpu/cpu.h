/* What this processor has, and what is worth using on it: two different things. */
#ifndef HPL_ENGINE_CPU_CPU_H
#define HPL_ENGINE_CPU_CPU_H

#include <stdint.h>

enum {
    HPL_CPU_AESNI = 1u << 0,      /* AES-NI, PCLMULQDQ, SSSE3, SSE4.1 */
    HPL_CPU_VAES_AVX2 = 1u << 1,  /* VAES, VPCLMULQDQ, AVX2, with the ymm state enabled */
    HPL_CPU_VAES_AVX512 = 1u << 2 /* VAES, VPCLMULQDQ, AVX-512 F, BW, DQ, VL, with the zmm state enabled */
};

/* Found by CPUID and XGETBV once; then what the environment variable HARDPLATE_CPU names is taken away. Any thread. */
uint32_t hpl_cpu_has(void);

/* Of these, what is worth choosing: a subset. First-generation AVX-512 parts with VAES (Ice Lake, Tiger Lake) lower the clock of the whole core for
 * 512-bit work, which costs the rest of the process more than it gains here: they prefer 256 bits. Any thread. */
uint32_t hpl_cpu_prefers(void);

/* The bits left of has after a HARDPLATE_CPU text (NULL: all): a list of "-name", commas or blanks between, where name is "aesni" (and all that builds
 * on it), "vaes" (both widths), "vaes-avx2", "vaes-avx512" or "avx512" (the same). It may only remove; whatever else it says is ignored. Pure. */
uint32_t hpl_cpu_masked(uint32_t has, const char *text);

/* The bits preferred by a processor of this vendor, family and model (display values of CPUID leaf 1) that has these. Pure. */
uint32_t hpl_cpu_preferred(uint32_t has, const char vendor[12], unsigned family, unsigned model);

#endif
