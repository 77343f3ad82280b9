/* AES-GCM with AES-NI and PCLMULQDQ, 128-bit registers: eight blocks in flight, one reduction for eight. For processors from 2010 on that lack VAES. */
#include "engine/gcm/gcm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("aes,pclmul,ssse3,sse4.1")))
#define INLINE __attribute__((always_inline, target("aes,pclmul,ssse3,sse4.1"))) static inline
#define WIDE 8

INLINE __m128i load(const void *at) { return _mm_loadu_si128(at); }
INLINE void store(void *at, __m128i v) { _mm_storeu_si128(at, v); }
INLINE __m128i swap_bytes(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

TARGET static uint32_t sub_word(uint32_t word)
{
    return (uint32_t)_mm_cvtsi128_si32(_mm_aeskeygenassist_si128(_mm_slli_si128(_mm_cvtsi32_si128((int)word), 4), 0));
}

INLINE __m128i encrypt_block(const struct hpl_gcm_key *key, __m128i block)
{
    block = _mm_xor_si128(block, load(key->round_keys[0]));
    for (uint32_t round = 1; round < key->rounds; round++)
        block = _mm_aesenc_si128(block, load(key->round_keys[round]));
    return _mm_aesenclast_si128(block, load(key->round_keys[key->rounds]));
}

TARGET static void encrypt(const struct hpl_gcm_key *key, const uint8_t in[16], uint8_t out[16])
{
    store(out, encrypt_block(key, load(in)));
}

/* --- GHASH: blocks are byte-swapped; powers are kept times x, which saves a shift of every product ------------------------- */

/* The three partial products of a and b added to a running sum. */
struct sum {
    __m128i low, middle, high;
};

INLINE void add_product(struct sum *sum, __m128i a, __m128i b)
{
    sum->low = _mm_xor_si128(sum->low, _mm_clmulepi64_si128(a, b, 0x00));
    sum->high = _mm_xor_si128(sum->high, _mm_clmulepi64_si128(a, b, 0x11));
    sum->middle = _mm_xor_si128(sum->middle, _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10)));
}

/* Modulo x^128 + x^7 + x^2 + x + 1 in the reflected form: two folds by 0xc2 << 56. */
INLINE __m128i reduce(struct sum sum)
{
    const __m128i fold = _mm_set_epi64x(0, (long long)0xc200000000000000ull);
    sum.low = _mm_xor_si128(sum.low, _mm_slli_si128(sum.middle, 8));
    sum.high = _mm_xor_si128(sum.high, _mm_srli_si128(sum.middle, 8));
    for (int i = 0; i < 2; i++)
        sum.low = _mm_xor_si128(_mm_shuffle_epi32(sum.low, 0x4e), _mm_clmulepi64_si128(sum.low, fold, 0x00));
    return _mm_xor_si128(sum.high, sum.low);
}

INLINE __m128i multiply(__m128i a, __m128i b_times_x)
{
    struct sum sum = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    add_product(&sum, a, b_times_x);
    return reduce(sum);
}

/* One bit to the left in the reflected form, with the carry folded in. */
INLINE __m128i times_x(__m128i h)
{
    __m128i carry = _mm_srai_epi32(_mm_shuffle_epi32(h, 0xff), 31);
    __m128i shifted = _mm_or_si128(_mm_slli_epi64(h, 1), _mm_slli_si128(_mm_srli_epi64(h, 63), 8));
    return _mm_xor_si128(shifted, _mm_and_si128(carry, _mm_set_epi64x((long long)0xc200000000000000ull, 1)));
}

TARGET static void set_key(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len)
{
    hpl_gcm_expand(key, bytes, key_len, sub_word);
    __m128i h = swap_bytes(encrypt_block(key, _mm_setzero_si128())), h_times_x = times_x(h), power = h;
    for (int i = 0; i < WIDE; i++) { /* powers[i] = H^(i+1) · x */
        store(key->powers[i], times_x(power));
        power = multiply(power, h_times_x);
    }
}

/* y after n ≤ WIDE byte-swapped blocks. */
INLINE __m128i fold(const struct hpl_gcm_key *key, __m128i y, const __m128i *blocks, int n)
{
    struct sum sum = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    add_product(&sum, _mm_xor_si128(y, blocks[0]), load(key->powers[n - 1]));
    for (int i = 1; i < n; i++)
        add_product(&sum, blocks[i], load(key->powers[n - 1 - i]));
    return reduce(sum);
}

TARGET static void ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    __m128i acc = swap_bytes(load(y)), blocks[WIDE];
    for (; num_blocks >= WIDE; num_blocks -= WIDE, in += 16 * WIDE) {
        for (int i = 0; i < WIDE; i++)
            blocks[i] = swap_bytes(load(in + 16 * i));
        acc = fold(key, acc, blocks, WIDE);
    }
    for (; num_blocks; num_blocks--, in += 16)
        acc = multiply(_mm_xor_si128(acc, swap_bytes(load(in))), load(key->powers[0]));
    store(y, swap_bytes(acc));
}

/* --- bulk ---------------------------------------------------------------------------------------------------------------- */

/* Eight counters through the cipher, while the eight blocks before them are folded: the two units work side by side. */
INLINE void stream8(const struct hpl_gcm_key *key, __m128i *counter, __m128i stream[WIDE])
{
    const __m128i one = _mm_set_epi32(0, 0, 0, 1);
    __m128i k = load(key->round_keys[0]);
    for (int i = 0; i < WIDE; i++) {
        stream[i] = _mm_xor_si128(swap_bytes(*counter), k);
        *counter = _mm_add_epi32(*counter, one);
    }
    for (uint32_t round = 1; round < key->rounds; round++) {
        k = load(key->round_keys[round]);
        for (int i = 0; i < WIDE; i++)
            stream[i] = _mm_aesenc_si128(stream[i], k);
    }
    k = load(key->round_keys[key->rounds]);
    for (int i = 0; i < WIDE; i++)
        stream[i] = _mm_aesenclast_si128(stream[i], k);
}

INLINE void crypt_bulk(const struct hpl_gcm_key *key, uint8_t counter_bytes[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, bool is_open)
{
    __m128i counter = swap_bytes(load(counter_bytes)), acc = swap_bytes(load(y)), stream[WIDE], folded[WIDE];
    for (; num_blocks >= WIDE; num_blocks -= WIDE, in += 16 * WIDE, out += 16 * WIDE) {
        stream8(key, &counter, stream);
        for (int i = 0; i < WIDE; i++) {
            __m128i from = load(in + 16 * i), to = _mm_xor_si128(from, stream[i]);
            store(out + 16 * i, to);
            folded[i] = swap_bytes(is_open ? from : to);
        }
        acc = fold(key, acc, folded, WIDE);
    }
    for (; num_blocks; num_blocks--, in += 16, out += 16) {
        __m128i from = load(in), to = _mm_xor_si128(from, encrypt_block(key, swap_bytes(counter)));
        counter = _mm_add_epi32(counter, _mm_set_epi32(0, 0, 0, 1));
        store(out, to);
        acc = multiply(_mm_xor_si128(acc, swap_bytes(is_open ? from : to)), load(key->powers[0]));
    }
    store(counter_bytes, swap_bytes(counter));
    store(y, swap_bytes(acc));
}

TARGET static void seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    crypt_bulk(key, counter, y, in, out, num_blocks, false);
}

TARGET static void open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    crypt_bulk(key, counter, y, in, out, num_blocks, true);
}

#include "engine/cpu/cpu.h"

const struct hpl_gcm_kernel hpl_gcm_aesni = {
    .name = "aesni", .needs = HPL_CPU_AESNI, .set_key = set_key, .encrypt = encrypt, .ghash = ghash, .seal = seal, .open = open};
#endif
