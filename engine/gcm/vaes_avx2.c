/* AES-GCM with VAES and VPCLMULQDQ on 256-bit registers: two blocks to a register, eight registers to a group, one reduction to a group. For processors
 * without AVX-512 (Alder Lake and after, Zen 3) and for those whose clock drops under it. */
#include "engine/gcm/gcm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "engine/cpu/cpu.h"

#define ISA "avx2,vaes,vpclmulqdq,aes,pclmul,ssse3,sse4.1"
#define TARGET __attribute__((target(ISA)))
#define INLINE __attribute__((always_inline, target(ISA))) static inline
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

enum {
    WIDE = 8,            /* registers in a group */
    GROUP = 32 * WIDE,   /* its bytes */
    WINDOW = 2 * WIDE,   /* blocks that one reduction can take: H^16 to H^1 */
    SHORT = 4            /* registers in a run that is no whole group */
};

INLINE __m128i load128(const void *at) { return _mm_loadu_si128(at); }
INLINE void store128(void *at, __m128i v) { _mm_storeu_si128(at, v); }
INLINE __m256i load(const void *at) { return _mm256_loadu_si256(at); }
INLINE __m256i spread(const void *at) { return _mm256_broadcastsi128_si256(load128(at)); }
INLINE __m256i low_lane(__m128i v) { return _mm256_inserti128_si256(_mm256_setzero_si256(), v, 0); }

INLINE __m128i swap128(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE __m256i swap(__m256i v)
{
    return _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
}

/* Two blocks, or the one or none that is left, then zero. */
INLINE __m256i load_some(const uint8_t *at, size_t num_blocks)
{
    return num_blocks > 1 ? load(at) : num_blocks ? low_lane(load128(at)) : _mm256_setzero_si256();
}

INLINE void store_some(uint8_t *at, __m256i v, size_t num_blocks)
{
    if (num_blocks > 1)
        _mm256_storeu_si256((__m256i *)(void *)at, v);
    else if (num_blocks)
        store128(at, _mm256_castsi256_si128(v));
}

/* Leaves no key, keystream or hash state in a register. */
INLINE void clear_registers(void)
{
#define CLEAR(n) "vpxor %%xmm" #n ", %%xmm" #n ", %%xmm" #n "\n\t"
    __asm__ volatile(CLEAR(0) CLEAR(1) CLEAR(2) CLEAR(3) CLEAR(4) CLEAR(5) CLEAR(6) CLEAR(7) CLEAR(8) CLEAR(9) CLEAR(10) CLEAR(11) CLEAR(12) CLEAR(13)
                     CLEAR(14) CLEAR(15)
                     ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef CLEAR
}

/* --- GHASH: blocks are byte-swapped; powers are kept times x, which saves a shift of every product ------------------------- */

/* Partial products at bit 0, 64 and 128, of as many blocks as a window has. */
struct sum {
    __m256i low, middle, high;
};

INLINE struct sum no_sum(void)
{
    return (struct sum){_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256()};
}

INLINE void add_product(struct sum *sum, __m256i a, __m256i b)
{
    sum->low = _mm256_xor_si256(sum->low, _mm256_clmulepi64_epi128(a, b, 0x00));
    sum->high = _mm256_xor_si256(sum->high, _mm256_clmulepi64_epi128(a, b, 0x11));
    sum->middle = _mm256_xor_si256(sum->middle, _mm256_clmulepi64_epi128(a, b, 0x01));
    sum->middle = _mm256_xor_si256(sum->middle, _mm256_clmulepi64_epi128(a, b, 0x10));
}

INLINE __m256i fold_up(__m256i low, __m256i into)
{
    const __m256i fold = _mm256_set1_epi64x((long long)0xc200000000000000ull);
    return _mm256_xor_si256(into, _mm256_xor_si256(_mm256_shuffle_epi32(low, 0x4e), _mm256_clmulepi64_epi128(low, fold, 0x00)));
}

/* Modulo x^128 + x^7 + x^2 + x + 1 in the reflected form: low into middle, middle into high. */
INLINE __m256i reduce_lanes(struct sum sum)
{
    return fold_up(fold_up(sum.low, sum.middle), sum.high);
}

INLINE __m128i reduce(struct sum sum)
{
    __m256i lanes = reduce_lanes(sum);
    return _mm_xor_si128(_mm256_castsi256_si128(lanes), _mm256_extracti128_si256(lanes, 1));
}

INLINE __m256i multiply(__m256i a, __m256i b_times_x)
{
    struct sum sum = no_sum();
    add_product(&sum, a, b_times_x);
    return reduce_lanes(sum);
}

/* One bit to the left in the reflected form, with the carry folded in. */
INLINE __m256i times_x(__m256i h)
{
    __m256i carry = _mm256_srai_epi32(_mm256_shuffle_epi32(h, 0xff), 31);
    __m256i shifted = _mm256_or_si256(_mm256_slli_epi64(h, 1), _mm256_bslli_epi128(_mm256_srli_epi64(h, 63), 8));
    return _mm256_xor_si256(shifted, _mm256_and_si256(carry, _mm256_broadcastsi128_si256(_mm_set_epi64x((long long)0xc200000000000000ull, 1))));
}

INLINE __m128i hash_blocks(const struct hpl_gcm_key *key, __m128i acc, const uint8_t *in, size_t num_blocks)
{
    while (num_blocks) {
        size_t n = num_blocks < WINDOW ? num_blocks : WINDOW;
        struct sum sum = no_sum();
        for (size_t i = 0; i < n; i += 2) {
            __m256i block = swap(load_some(in + 16 * i, n - i));
            add_product(&sum, i ? block : _mm256_xor_si256(block, low_lane(acc)), load(key->powers[WINDOW - n + i]));
        }
        acc = reduce(sum);
        in += 16 * n, num_blocks -= n;
    }
    return acc;
}

/* --- AES ------------------------------------------------------------------------------------------------------------------ */

TARGET static uint32_t sub_word(uint32_t word)
{
    return (uint32_t)_mm_cvtsi128_si32(_mm_aeskeygenassist_si128(_mm_slli_si128(_mm_cvtsi32_si128((int)word), 4), 0));
}

INLINE __m128i encrypt_block(const struct hpl_gcm_key *key, __m128i block)
{
    block = _mm_xor_si128(block, load128(key->round_keys[0]));
    for (uint32_t round = 1; round < key->rounds; round++)
        block = _mm_aesenc_si128(block, load128(key->round_keys[round]));
    return _mm_aesenclast_si128(block, load128(key->round_keys[key->rounds]));
}

/* Counters are kept byte-swapped, one to a lane: n registers of them become the cipher's first state. */
INLINE void begin(const struct hpl_gcm_key *key, __m256i *counters, __m256i *state, int n)
{
    const __m256i two = _mm256_set_epi32(0, 0, 0, 2, 0, 0, 0, 2), k = spread(key->round_keys[0]);
    UNROLLED for (int i = 0; i < n; i++)
    {
        state[i] = _mm256_xor_si256(swap(*counters), k);
        *counters = _mm256_add_epi32(*counters, two);
    }
}

INLINE void one_round(const struct hpl_gcm_key *key, uint32_t round, __m256i *state, int n)
{
    const __m256i k = spread(key->round_keys[round]);
    UNROLLED for (int i = 0; i < n; i++)
        state[i] = _mm256_aesenc_epi128(state[i], k);
}

/* The rounds after the ninth that longer keys have. */
INLINE void late_rounds(const struct hpl_gcm_key *key, __m256i *state, int n)
{
    for (uint32_t round = 10; round < key->rounds; round += 2) {
        one_round(key, round, state, n);
        one_round(key, round + 1, state, n);
    }
}

/* --- bulk ----------------------------------------------------------------------------------------------------------------- */

/* One group through the cipher, while the group of ciphertext at hashed (NULL: none) is folded into acc: the rounds and the products use different
 * units, or the gaps of the same. */
INLINE void crypt_group(const struct hpl_gcm_key *key, __m256i *counters, __m128i *acc, const uint8_t *hashed, const uint8_t *in, uint8_t *out)
{
    struct sum sum = no_sum();
    __m256i state[WIDE], block;
    begin(key, counters, state, WIDE);
    UNROLLED for (uint32_t i = 0; i < WIDE; i++)
    {
        one_round(key, i + 1, state, WIDE);
        if (hashed) {
            block = swap(load(hashed + 32 * i));
            add_product(&sum, i ? block : _mm256_xor_si256(block, low_lane(*acc)), load(key->powers[2 * i]));
        }
    }
    one_round(key, 9, state, WIDE);
    if (hashed)
        *acc = reduce(sum);
    late_rounds(key, state, WIDE);
    const __m256i k = spread(key->round_keys[key->rounds]);
    UNROLLED for (int i = 0; i < WIDE; i++)
        state[i] = _mm256_aesenclast_epi128(state[i], _mm256_xor_si256(k, load(in + 32 * i)));
    UNROLLED for (int i = 0; i < WIDE; i++)
        _mm256_storeu_si256((__m256i *)(void *)(out + 32 * i), state[i]);
}

/* Whole groups. What was sealed is hashed one group later; what is opened is hashed before it is overwritten. */
INLINE void crypt_groups(const struct hpl_gcm_key *key, bool is_open, __m256i *counters, __m128i *acc, const uint8_t *in, uint8_t *out, size_t num_groups)
{
    if (is_open) {
        for (; num_groups; num_groups--, in += GROUP, out += GROUP)
            crypt_group(key, counters, acc, in, in, out);
        return;
    }
    if (num_groups == 0)
        return;
    crypt_group(key, counters, acc, NULL, in, out);
    while (--num_groups) {
        in += GROUP, out += GROUP;
        crypt_group(key, counters, acc, out - GROUP, in, out);
    }
    *acc = hash_blocks(key, *acc, out, WINDOW);
}

/* One to eight blocks. */
INLINE void crypt_short(const struct hpl_gcm_key *key, bool is_open, __m256i *counters, __m128i *acc, const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    __m256i state[SHORT];
    begin(key, counters, state, SHORT);
    UNROLLED for (uint32_t round = 1; round < 10; round++)
        one_round(key, round, state, SHORT);
    late_rounds(key, state, SHORT);
    const __m256i k = spread(key->round_keys[key->rounds]);
    if (is_open)
        *acc = hash_blocks(key, *acc, in, num_blocks);
    UNROLLED for (size_t i = 0; i < SHORT; i++)
    {
        size_t left = num_blocks > 2 * i ? num_blocks - 2 * i : 0;
        store_some(out + 32 * i, _mm256_aesenclast_epi128(state[i], _mm256_xor_si256(k, load_some(in + 32 * i, left))), left);
    }
    if (!is_open)
        *acc = hash_blocks(key, *acc, out, num_blocks);
}

/* --- the kernel ----------------------------------------------------------------------------------------------------------- */

TARGET static void set_key(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len)
{
    hpl_gcm_expand(key, bytes, key_len, sub_word);
    __m256i h = _mm256_broadcastsi128_si256(swap128(encrypt_block(key, _mm_setzero_si128())));
    __m256i h2 = multiply(h, times_x(h)), h2_times_x = times_x(h2), powers = _mm256_blend_epi32(h2, h, 0xf0); /* lanes H^2, H^1 */
    for (int i = WIDE - 1; i >= 0; i--) {
        _mm256_storeu_si256((__m256i *)(void *)key->powers[2 * i], times_x(powers));
        powers = multiply(powers, h2_times_x);
    }
    for (int i = WINDOW; i < HPL_GCM_NUM_POWERS; i++) /* read past the last power, times zero */
        store128(key->powers[i], _mm_setzero_si128());
    clear_registers();
}

TARGET static void encrypt(const struct hpl_gcm_key *key, const uint8_t in[16], uint8_t out[16])
{
    store128(out, encrypt_block(key, load128(in)));
    clear_registers();
}

TARGET static void ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    store128(y, swap128(hash_blocks(key, swap128(load128(y)), in, num_blocks)));
    clear_registers();
}

TARGET static void finish(const struct hpl_gcm_key *key, const uint8_t j0[16], const uint8_t y[16], const uint8_t *in, size_t num_blocks, uint8_t tag[16])
{
    __m128i mask = encrypt_block(key, load128(j0)), acc = hash_blocks(key, swap128(load128(y)), in, num_blocks);
    store128(tag, _mm_xor_si128(swap128(acc), mask));
    clear_registers();
}

INLINE void crypt_blocks(const struct hpl_gcm_key *key, bool is_open, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    __m128i start = swap128(load128(counter)), acc = swap128(load128(y));
    __m256i counters = _mm256_add_epi32(_mm256_broadcastsi128_si256(start), _mm256_set_epi32(0, 0, 0, 1, 0, 0, 0, 0));
    size_t done = num_blocks / WINDOW * WINDOW, n;
    store128(counter, swap128(_mm_add_epi32(start, _mm_set_epi32(0, 0, 0, (int)(uint32_t)num_blocks))));
    crypt_groups(key, is_open, &counters, &acc, in, out, num_blocks / WINDOW);
    for (; done < num_blocks; done += n) {
        n = num_blocks - done < 2 * SHORT ? num_blocks - done : 2 * SHORT;
        crypt_short(key, is_open, &counters, &acc, in + 16 * done, out + 16 * done, n);
    }
    store128(y, swap128(acc));
    clear_registers();
}

TARGET static void seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    (void)table;
    crypt_blocks(key, false, counter, y, in, out, num_blocks);
}

TARGET static void open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    (void)table;
    crypt_blocks(key, true, counter, y, in, out, num_blocks);
}

const struct hpl_gcm_kernel hpl_gcm_vaes_avx2 = {.name = "vaes-avx2", .needs = HPL_CPU_AESNI | HPL_CPU_VAES_AVX2, .set_key = set_key, .encrypt = encrypt,
    .ghash = ghash, .seal = seal, .open = open, .finish = finish};
#endif
