/* CPU detection. Any thread. */
#include "engine/cpu/cpu.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const struct { const char *name; uint32_t bit; } names[] = {
    {"aesni", HPL_CPU_AESNI | HPL_CPU_VAES_AVX2 | HPL_CPU_VAES_AVX512},
    {"vaes-avx2", HPL_CPU_VAES_AVX2},
    {"vaes-avx512", HPL_CPU_VAES_AVX512},
};

uint32_t hpl_cpu_masked(uint32_t has, const char *text)
{
    while (text && *text) {
        size_t len = strcspn(text, ",");
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
            if (*text == '-' && strlen(names[i].name) == len - 1 && strncmp(text + 1, names[i].name, len - 1) == 0)
                has &= ~names[i].bit;
        text += len + (text[len] == ',');
    }
    return has;
}

static uint32_t detect(void)
{
    uint32_t has = 0;
#if defined(__x86_64__)
    unsigned a, b, c, d, b7 = 0, c7 = 0, state = 0, high;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    bool aesni = (c & bit_AES) && (c & bit_PCLMUL) && (c & bit_SSSE3) && (c & bit_SSE4_1);
    bool avx = (c & bit_OSXSAVE) && (c & bit_AVX);
    if (avx)
        __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d))
        b7 = c7 = 0;
    bool wide = aesni && avx && (c7 & bit_VAES) && (c7 & bit_VPCLMULQDQ);
    if (aesni)
        has |= HPL_CPU_AESNI;
    if (wide && (state & 6) == 6 && (b7 & bit_AVX2))
        has |= HPL_CPU_VAES_AVX2;
    if (wide && (state & 0xe6) == 0xe6 && (b7 & bit_AVX512F) && (b7 & bit_AVX512BW) && (b7 & bit_AVX512DQ) && (b7 & bit_AVX512VL))
        has |= HPL_CPU_VAES_AVX512;
#endif
    return has;
}

static uint32_t found;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void)
{
    found = hpl_cpu_masked(detect(), getenv("HARDPLATE_CPU"));
}

uint32_t hpl_cpu_has(void)
{
    pthread_once(&once, find);
    return found;
}
