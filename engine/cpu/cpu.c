/* CPU detection. Any thread. */
#include "engine/cpu/cpu.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const struct { const char *name; uint32_t bits; } names[] = {
    {"aesni", HPL_CPU_AESNI | HPL_CPU_VAES_AVX2 | HPL_CPU_VAES_AVX512},
    {"vaes", HPL_CPU_VAES_AVX2 | HPL_CPU_VAES_AVX512},
    {"vaes-avx2", HPL_CPU_VAES_AVX2},
    {"vaes-avx512", HPL_CPU_VAES_AVX512},
    {"avx512", HPL_CPU_VAES_AVX512},
};

/* Intel models (family 6) whose clock drops under 512-bit work: Ice Lake server and client, Tiger Lake. */
static const uint8_t drops_clock[] = {0x6a, 0x6c, 0x7d, 0x7e, 0x9d, 0x8c, 0x8d};

static uint32_t bits_of(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strlen(names[i].name) == len && strncmp(name, names[i].name, len) == 0)
            return names[i].bits;
    return 0;
}

uint32_t hpl_cpu_masked(uint32_t has, const char *text)
{
    while (text && *text) {
        size_t len = strcspn(text, ", ");
        if (*text == '-')
            has &= ~bits_of(text + 1, len - 1);
        text += len + strspn(text + len, ", ");
    }
    return has;
}

uint32_t hpl_cpu_preferred(uint32_t has, const char vendor[12], unsigned family, unsigned model)
{
    if (memcmp(vendor, "GenuineIntel", 12) == 0 && family == 6 && model <= UINT8_MAX && memchr(drops_clock, (int)model, sizeof drops_clock))
        has &= ~(uint32_t)HPL_CPU_VAES_AVX512;
    return has;
}

static uint32_t found, preferred;

#if defined(__x86_64__)
static uint64_t enabled_state(void)
{
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low | (uint64_t)high << 32;
}

static uint32_t detect(unsigned leaf1_c)
{
    unsigned a, b7 = 0, c7 = 0, d;
    if (!(leaf1_c & bit_AES) || !(leaf1_c & bit_PCLMUL) || !(leaf1_c & bit_SSSE3) || !(leaf1_c & bit_SSE4_1))
        return 0;
    if (!(leaf1_c & bit_OSXSAVE) || !(leaf1_c & bit_AVX) || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d) || !(c7 & bit_VAES) || !(c7 & bit_VPCLMULQDQ))
        return HPL_CPU_AESNI;
    uint64_t state = enabled_state(); /* bits 1, 2: xmm and ymm; 5 to 7: masks and zmm */
    bool is_wide = (b7 & bit_AVX512F) && (b7 & bit_AVX512BW) && (b7 & bit_AVX512DQ) && (b7 & bit_AVX512VL) && (state & 0xe6) == 0xe6;
    return HPL_CPU_AESNI | ((b7 & bit_AVX2) && (state & 6) == 6 ? HPL_CPU_VAES_AVX2 : 0) | (is_wide ? HPL_CPU_VAES_AVX512 : 0);
}

static void find(void)
{
    unsigned a, b, c, d, vendor[3];
    if (!__get_cpuid(0, &a, &vendor[0], &vendor[2], &vendor[1]) || !__get_cpuid(1, &a, &b, &c, &d))
        return;
    unsigned family = a >> 8 & 15, model = (a >> 4 & 15) | (a >> 12 & 0xf0);
    found = hpl_cpu_masked(detect(c), getenv("HARDPLATE_CPU"));
    preferred = hpl_cpu_preferred(found, (const char *)vendor, family == 15 ? family + (a >> 20 & 255) : family, model);
}
#else
static void find(void)
{
    /* Nothing that a kernel here could use. */
}
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;

uint32_t hpl_cpu_has(void)
{
    pthread_once(&once, find);
    return found;
}

uint32_t hpl_cpu_prefers(void)
{
    pthread_once(&once, find);
    return preferred;
}
