/* AES-GCM with AES-NI and PCLMULQDQ, 128-bit registers: eight blocks in flight, one reduction for eight. For processors from 2010 on that lack VAES. */
#include "engine/gcm/gcm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("aes,pclmul,ssse3,sse4.1")))
#define INLINE __attribute__((always_inline, target("aes,pclmul,ssse3,sse4.1"))) static inline
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

enum { WIDE = 8, GROUP = 16 * WIDE }; /* blocks in a group; its bytes */

INLINE __m128i load(const void *at) { return _mm_loadu_si128(at); }
INLINE void store(void *at, __m128i v) { _mm_storeu_si128(at, v); }
INLINE __m128i swap_bytes(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

/* Leaves no key, keystream or hash state in a register. */
INLINE void clear_registers(void)
{
#define CLEAR(n) "pxor %%xmm" #n ", %%xmm" #n "\n\t"
    __asm__ volatile(CLEAR(0) CLEAR(1) CLEAR(2) CLEAR(3) CLEAR(4) CLEAR(5) CLEAR(6) CLEAR(7) CLEAR(8) CLEAR(9) CLEAR(10) CLEAR(11) CLEAR(12) CLEAR(13)
                     CLEAR(14) CLEAR(15)
                     ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#undef CLEAR
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
    clear_registers();
}

/* --- GHASH: blocks are byte-swapped; powers are kept times x, which saves a shift of every product ------------------------- */

/* Partial products at bit 0, 64 and 128, of as many blocks as a group has. */
struct sum {
    __m128i low, middle, high;
};

INLINE void add_product(struct sum *sum, __m128i a, __m128i b)
{
    sum->low = _mm_xor_si128(sum->low, _mm_clmulepi64_si128(a, b, 0x00));
    sum->high = _mm_xor_si128(sum->high, _mm_clmulepi64_si128(a, b, 0x11));
    sum->middle = _mm_xor_si128(sum->middle, _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10)));
}

INLINE __m128i fold_up(__m128i low, __m128i into)
{
    const __m128i by = _mm_set_epi64x(0, (long long)0xc200000000000000ull);
    return _mm_xor_si128(into, _mm_xor_si128(_mm_shuffle_epi32(low, 0x4e), _mm_clmulepi64_si128(low, by, 0x00)));
}

/* Modulo x^128 + x^7 + x^2 + x + 1 in the reflected form: low into middle, middle into high. */
INLINE __m128i reduce(struct sum sum)
{
    return fold_up(fold_up(sum.low, sum.middle), sum.high);
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
    clear_registers();
}

/* y after a group of blocks. */
INLINE __m128i hash_group(const struct hpl_gcm_key *key, __m128i acc, const uint8_t *in)
{
    struct sum sum = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    UNROLLED for (int i = 0; i < WIDE; i++)
    {
        __m128i block = swap_bytes(load(in + 16 * i));
        add_product(&sum, i ? block : _mm_xor_si128(block, acc), load(key->powers[WIDE - 1 - i]));
    }
    return reduce(sum);
}

INLINE __m128i hash_blocks(const struct hpl_gcm_key *key, __m128i acc, const uint8_t *in, size_t num_blocks)
{
    for (; num_blocks >= WIDE; num_blocks -= WIDE, in += GROUP)
        acc = hash_group(key, acc, in);
    for (; num_blocks; num_blocks--, in += 16)
        acc = multiply(_mm_xor_si128(acc, swap_bytes(load(in))), load(key->powers[0]));
    return acc;
}

TARGET static void ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    store(y, swap_bytes(hash_blocks(key, swap_bytes(load(y)), in, num_blocks)));
    clear_registers();
}

TARGET static void finish(const struct hpl_gcm_key *key, const uint8_t j0[16], const uint8_t y[16], const uint8_t *in, size_t num_blocks, uint8_t tag[16])
{
    __m128i mask = encrypt_block(key, load(j0)), acc = hash_blocks(key, swap_bytes(load(y)), in, num_blocks);
    store(tag, _mm_xor_si128(swap_bytes(acc), mask));
    clear_registers();
}

/* --- bulk ----------------------------------------------------------------------------------------------------------------- */

INLINE void begin(const struct hpl_gcm_key *key, __m128i *counter, __m128i state[WIDE])
{
    const __m128i one = _mm_set_epi32(0, 0, 0, 1), k = load(key->round_keys[0]);
    UNROLLED for (int i = 0; i < WIDE; i++)
    {
        state[i] = _mm_xor_si128(swap_bytes(*counter), k);
        *counter = _mm_add_epi32(*counter, one);
    }
}

INLINE void one_round(const struct hpl_gcm_key *key, uint32_t round, __m128i state[WIDE])
{
    const __m128i k = load(key->round_keys[round]);
    UNROLLED for (int i = 0; i < WIDE; i++)
        state[i] = _mm_aesenc_si128(state[i], k);
}

/* One group through the cipher, while the group of ciphertext at hashed (NULL: none) is folded into acc: the rounds and the products use different
 * units, or the gaps of the same. */
INLINE void crypt_group(const struct hpl_gcm_key *key, __m128i *counter, __m128i *acc, const uint8_t *hashed, const uint8_t *in, uint8_t *out)
{
    struct sum sum = {_mm_setzero_si128(), _mm_setzero_si128(), _mm_setzero_si128()};
    __m128i state[WIDE], block;
    begin(key, counter, state);
    UNROLLED for (uint32_t i = 0; i < WIDE; i++)
    {
        one_round(key, i + 1, state);
        if (hashed) {
            block = swap_bytes(load(hashed + 16 * i));
            add_product(&sum, i ? block : _mm_xor_si128(block, *acc), load(key->powers[WIDE - 1 - i]));
        }
    }
    one_round(key, 9, state);
    if (hashed)
        *acc = reduce(sum);
    for (uint32_t round = 10; round < key->rounds; round += 2) {
        one_round(key, round, state);
        one_round(key, round + 1, state);
    }
    const __m128i k = load(key->round_keys[key->rounds]);
    UNROLLED for (int i = 0; i < WIDE; i++)
        state[i] = _mm_aesenclast_si128(state[i], _mm_xor_si128(k, load(in + 16 * i)));
    UNROLLED for (int i = 0; i < WIDE; i++)
        store(out + 16 * i, state[i]);
}

/* Whole groups. What was sealed is hashed one group later; what is opened is hashed before it is overwritten. */
INLINE void crypt_groups(const struct hpl_gcm_key *key, bool is_open, __m128i *counter, __m128i *acc, const uint8_t *in, uint8_t *out, size_t num_groups)
{
    if (is_open) {
        for (; num_groups; num_groups--, in += GROUP, out += GROUP)
            crypt_group(key, counter, acc, in, in, out);
        return;
    }
    if (num_groups == 0)
        return;
    crypt_group(key, counter, acc, NULL, in, out);
    while (--num_groups) {
        in += GROUP, out += GROUP;
        crypt_group(key, counter, acc, out - GROUP, in, out);
    }
    *acc = hash_group(key, *acc, out);
}

INLINE void crypt_blocks(const struct hpl_gcm_key *key, bool is_open, uint8_t counter_bytes[16], uint8_t y[16], const uint8_t *in, uint8_t *out,
                         size_t num_blocks)
{
    __m128i counter = swap_bytes(load(counter_bytes)), acc = swap_bytes(load(y));
    crypt_groups(key, is_open, &counter, &acc, in, out, num_blocks / WIDE);
    for (size_t i = num_blocks / WIDE * WIDE; i < num_blocks; i++) {
        __m128i from = load(in + 16 * i), to = _mm_xor_si128(from, encrypt_block(key, swap_bytes(counter)));
        counter = _mm_add_epi32(counter, _mm_set_epi32(0, 0, 0, 1));
        store(out + 16 * i, to);
        acc = multiply(_mm_xor_si128(acc, swap_bytes(is_open ? from : to)), load(key->powers[0]));
    }
    store(counter_bytes, swap_bytes(counter));
    store(y, swap_bytes(acc));
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

#include "engine/cpu/cpu.h"

const struct hpl_gcm_kernel hpl_gcm_aesni = {
    .name = "aesni", .needs = HPL_CPU_AESNI, .set_key = set_key, .encrypt = encrypt, .ghash = ghash, .seal = seal, .open = open, .finish = finish};
#endif
