/* AES-GCM with VAES, VPCLMULQDQ and AVX-512: four blocks to a register, eight registers to a group, one reduction to a group. For Ice Lake and Zen 4 and
 * what came after them. Powers of the hash key are laid out once, when the key is set. */
#include "engine/gcm/gcm.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "engine/cpu/cpu.h"

#define ISA "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,aes,pclmul,ssse3,sse4.1"
#define TARGET __attribute__((target(ISA)))
#define INLINE __attribute__((always_inline, target(ISA))) static inline
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

enum {
    WIDE = 8,                    /* registers in a group */
    GROUP = 64 * WIDE,           /* its bytes */
    WINDOW = 4 * WIDE,           /* blocks that one reduction can take: H^32 to H^1 */
    SHORT = 4                    /* registers in a run that is no whole group */
};

INLINE __m512i load(const void *at) { return _mm512_loadu_si512(at); }
INLINE __m128i load128(const void *at) { return _mm_loadu_si128(at); }
INLINE __m512i spread(const void *at) { return _mm512_broadcast_i32x4(load128(at)); }
INLINE __m512i xor3(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
INLINE __mmask64 first_bytes(size_t len) { return len < 64 ? (1ull << len) - 1 : ~0ull; }

INLINE size_t blocks_of(size_t len) { return (len + 15) / 16; }

INLINE __m128i swap128(__m128i v)
{
    return _mm_shuffle_epi8(v, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
}

INLINE __m512i swap(__m512i v)
{
    return _mm512_shuffle_epi8(v, _mm512_broadcast_i32x4(_mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)));
}

/* Leaves no key, keystream or hash state in a register. These are zeroing idioms: some six cycles for all. */
INLINE void clear_registers(void)
{
#define CLEAR(n) "vpxord %%xmm" #n ", %%xmm" #n ", %%xmm" #n "\n\t"
    __asm__ volatile(CLEAR(0) CLEAR(1) CLEAR(2) CLEAR(3) CLEAR(4) CLEAR(5) CLEAR(6) CLEAR(7) CLEAR(8) CLEAR(9) CLEAR(10) CLEAR(11) CLEAR(12) CLEAR(13)
                     CLEAR(14) CLEAR(15) CLEAR(16) CLEAR(17) CLEAR(18) CLEAR(19) CLEAR(20) CLEAR(21) CLEAR(22) CLEAR(23) CLEAR(24) CLEAR(25) CLEAR(26)
                     CLEAR(27) CLEAR(28) CLEAR(29) CLEAR(30) CLEAR(31)
                     ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
                         "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30",
                         "xmm31");
#undef CLEAR
}

/* --- GHASH: blocks are byte-swapped; powers are kept times x, which saves a shift of every product ------------------------- */

/* Partial products at bit 0, 64 and 128, of as many blocks as a window has. */
struct sum {
    __m512i low, middle, high;
};

INLINE struct sum no_sum(void)
{
    return (struct sum){_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
}

INLINE void add_product(struct sum *sum, __m512i a, __m512i b)
{
    sum->low = _mm512_xor_si512(sum->low, _mm512_clmulepi64_epi128(a, b, 0x00));
    sum->high = _mm512_xor_si512(sum->high, _mm512_clmulepi64_epi128(a, b, 0x11));
    sum->middle = xor3(sum->middle, _mm512_clmulepi64_epi128(a, b, 0x01), _mm512_clmulepi64_epi128(a, b, 0x10));
}

/* Modulo x^128 + x^7 + x^2 + x + 1 in the reflected form: low into middle, middle into high, each by a product with 0xc2 << 56. */
INLINE __m512i reduce_lanes(struct sum sum)
{
    const __m512i fold = _mm512_set1_epi64((long long)0xc200000000000000ull);
    sum.middle = xor3(sum.middle, _mm512_shuffle_epi32(sum.low, 0x4e), _mm512_clmulepi64_epi128(sum.low, fold, 0x00));
    return xor3(sum.high, _mm512_shuffle_epi32(sum.middle, 0x4e), _mm512_clmulepi64_epi128(sum.middle, fold, 0x00));
}

INLINE __m128i reduce(struct sum sum)
{
    __m512i lanes = reduce_lanes(sum);
    __m256i half = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
    return _mm_xor_si128(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

INLINE __m512i multiply(__m512i a, __m512i b_times_x)
{
    struct sum sum = no_sum();
    add_product(&sum, a, b_times_x);
    return reduce_lanes(sum);
}

/* One bit to the left in the reflected form, with the carry folded in. */
INLINE __m512i times_x(__m512i h)
{
    __m512i carry = _mm512_srai_epi32(_mm512_shuffle_epi32(h, 0xff), 31);
    __m512i shifted = _mm512_or_si512(_mm512_slli_epi64(h, 1), _mm512_bslli_epi128(_mm512_srli_epi64(h, 63), 8));
    return _mm512_xor_si512(shifted, _mm512_and_si512(carry, _mm512_broadcast_i32x4(_mm_set_epi64x((long long)0xc200000000000000ull, 1))));
}

/* The place from which on the powers belong to the last num_blocks blocks of a window. */
INLINE const uint8_t *powers_of(const struct hpl_gcm_key *key, size_t num_blocks)
{
    return key->powers[WINDOW - num_blocks];
}

/* len bytes, zero-padded to blocks, added to the sum under the powers that begin at power; before goes onto the first block. Returns the next power. */
INLINE const uint8_t *add_bytes(struct sum *sum, __m128i before, const uint8_t *power, const uint8_t *in, size_t len)
{
    __m512i first = _mm512_zextsi128_si512(before);
    for (; len >= 64; in += 64, len -= 64, power += 64) {
        add_product(sum, _mm512_xor_si512(swap(load(in)), first), load(power));
        first = _mm512_setzero_si512();
    }
    if (len) {
        add_product(sum, _mm512_xor_si512(swap(_mm512_maskz_loadu_epi8(first_bytes(len), in)), first), load(power));
        power += 16 * blocks_of(len);
    }
    return power;
}

INLINE __m128i hash_bytes(const struct hpl_gcm_key *key, __m128i acc, const uint8_t *in, size_t len)
{
    while (len) {
        size_t n = len < GROUP ? len : GROUP;
        struct sum sum = no_sum();
        add_bytes(&sum, acc, powers_of(key, blocks_of(n)), in, n);
        acc = reduce(sum);
        in += n, len -= n;
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
INLINE void begin(const struct hpl_gcm_key *key, __m512i *counters, __m512i *state, int n)
{
    const __m512i four = _mm512_broadcast_i32x4(_mm_set_epi32(0, 0, 0, 4)), k = spread(key->round_keys[0]);
    UNROLLED for (int i = 0; i < n; i++)
    {
        state[i] = _mm512_xor_si512(swap(*counters), k);
        *counters = _mm512_add_epi32(*counters, four);
    }
}

INLINE void one_round(const struct hpl_gcm_key *key, uint32_t round, __m512i *state, int n)
{
    const __m512i k = spread(key->round_keys[round]);
    UNROLLED for (int i = 0; i < n; i++)
        state[i] = _mm512_aesenc_epi128(state[i], k);
}

/* The rounds after the ninth that longer keys have. */
INLINE void late_rounds(const struct hpl_gcm_key *key, __m512i *state, int n)
{
    if (key->rounds > 10) {
        one_round(key, 10, state, n);
        one_round(key, 11, state, n);
    }
    if (key->rounds > 12) {
        one_round(key, 12, state, n);
        one_round(key, 13, state, n);
    }
}

INLINE __m512i counters_from(__m128i counter)
{
    return _mm512_add_epi32(_mm512_broadcast_i32x4(counter), _mm512_set_epi32(0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0));
}

/* --- bulk ----------------------------------------------------------------------------------------------------------------- */

/* One group through the cipher, while the group of ciphertext at hashed (NULL: none) is folded into acc: the rounds and the products use different
 * units, or the gaps of the same. */
INLINE void crypt_group(const struct hpl_gcm_key *key, __m512i *counters, __m128i *acc, const uint8_t *hashed, const uint8_t *in, uint8_t *out)
{
    struct sum sum = no_sum();
    __m512i state[WIDE], block;
    begin(key, counters, state, WIDE);
    UNROLLED for (uint32_t i = 0; i < WIDE; i++)
    {
        one_round(key, i + 1, state, WIDE);
        if (hashed) {
            block = swap(load(hashed + 64 * i));
            add_product(&sum, i ? block : _mm512_xor_si512(block, _mm512_zextsi128_si512(*acc)), load(key->powers[4 * i]));
        }
    }
    one_round(key, 9, state, WIDE);
    if (hashed)
        *acc = reduce(sum);
    late_rounds(key, state, WIDE);
    const __m512i k = spread(key->round_keys[key->rounds]);
    UNROLLED for (int i = 0; i < WIDE; i++)
        state[i] = _mm512_aesenclast_epi128(state[i], _mm512_xor_si512(k, load(in + 64 * i)));
    UNROLLED for (int i = 0; i < WIDE; i++)
        _mm512_storeu_si512(out + 64 * i, state[i]);
}

/* Whole groups. What was sealed is hashed one group later; what is opened is hashed before it is overwritten. */
INLINE void crypt_groups(const struct hpl_gcm_key *key, bool is_open, __m512i *counters, __m128i *acc, const uint8_t *in, uint8_t *out, size_t num_groups)
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
    *acc = hash_bytes(key, *acc, out, GROUP);
}

/* Up to n registers of text, any number of bytes, added to the sum like add_bytes. */
INLINE const uint8_t *crypt_short(const struct hpl_gcm_key *key, bool is_open, __m512i *counters, struct sum *sum, __m128i before, const uint8_t *power,
                                  const uint8_t *in, uint8_t *out, size_t len, int n)
{
    __m512i state[SHORT], first = _mm512_zextsi128_si512(before);
    begin(key, counters, state, n);
    UNROLLED for (uint32_t round = 1; round < 10; round++)
        one_round(key, round, state, n);
    late_rounds(key, state, n);
    const __m512i k = spread(key->round_keys[key->rounds]);
    UNROLLED for (size_t i = 0; i < (size_t)n; i++)
    {
        __mmask64 mask = first_bytes(len > 64 * i ? len - 64 * i : 0);
        __m512i from = _mm512_maskz_loadu_epi8(mask, in + 64 * i), to = _mm512_aesenclast_epi128(state[i], _mm512_xor_si512(k, from));
        _mm512_mask_storeu_epi8(out + 64 * i, mask, to);
        __m512i block = swap(is_open ? from : _mm512_maskz_mov_epi8(mask, to));
        add_product(sum, i ? block : _mm512_xor_si512(block, first), load(power + 64 * i));
    }
    return power + 16 * blocks_of(len);
}

/* Less than a group. */
INLINE const uint8_t *crypt_rest(const struct hpl_gcm_key *key, bool is_open, __m512i *counters, struct sum *sum, __m128i before, const uint8_t *power,
                                 const uint8_t *in, uint8_t *out, size_t len)
{
    if (len > 64 * SHORT) {
        power = crypt_short(key, is_open, counters, sum, before, power, in, out, 64 * SHORT, SHORT);
        in += 64 * SHORT, out += 64 * SHORT, len -= 64 * SHORT;
        before = _mm_setzero_si128();
    }
    if (len > 64)
        return crypt_short(key, is_open, counters, sum, before, power, in, out, len, SHORT);
    return len ? crypt_short(key, is_open, counters, sum, before, power, in, out, len, 1) : power;
}

/* --- the kernel ----------------------------------------------------------------------------------------------------------- */

TARGET static void set_key(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len)
{
    hpl_gcm_expand(key, bytes, key_len, sub_word);
    __m512i h = _mm512_broadcast_i32x4(swap128(encrypt_block(key, _mm_setzero_si128()))), h_times_x = times_x(h);
    __m512i h2 = multiply(h, h_times_x), h3 = multiply(h2, h_times_x), h4 = multiply(h3, h_times_x), h4_times_x = times_x(h4);
    /* Lanes H^4, H^3, H^2, H^1. */
    __m512i powers = _mm512_mask_mov_epi64(_mm512_mask_mov_epi64(_mm512_mask_mov_epi64(h, 0x30, h2), 0x0c, h3), 0x03, h4);
    for (int i = WIDE - 1; i >= 0; i--) {
        _mm512_storeu_si512(key->powers[4 * i], times_x(powers));
        powers = multiply(powers, h4_times_x);
    }
    for (int i = WINDOW; i < HPL_GCM_NUM_POWERS; i++) /* read past the last power, times zero */
        _mm_storeu_si128((__m128i *)(void *)key->powers[i], _mm_setzero_si128());
    clear_registers();
}

TARGET static void encrypt(const struct hpl_gcm_key *key, const uint8_t in[16], uint8_t out[16])
{
    _mm_storeu_si128((__m128i *)(void *)out, encrypt_block(key, load128(in)));
    clear_registers();
}

TARGET static void ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    _mm_storeu_si128((__m128i *)(void *)y, swap128(hash_bytes(key, swap128(load128(y)), in, 16 * num_blocks)));
    clear_registers();
}

TARGET static void finish(const struct hpl_gcm_key *key, const uint8_t j0[16], const uint8_t y[16], const uint8_t *in, size_t num_blocks, uint8_t tag[16])
{
    __m128i mask = encrypt_block(key, load128(j0)), acc = hash_bytes(key, swap128(load128(y)), in, 16 * num_blocks);
    _mm_storeu_si128((__m128i *)(void *)tag, _mm_xor_si128(swap128(acc), mask));
    clear_registers();
}

INLINE void crypt_blocks(const struct hpl_gcm_key *key, bool is_open, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    __m128i start = swap128(load128(counter)), acc = swap128(load128(y));
    __m512i counters = counters_from(start);
    size_t num_groups = num_blocks / WINDOW, rest = num_blocks % WINDOW;
    _mm_storeu_si128((__m128i *)(void *)counter, swap128(_mm_add_epi32(start, _mm_set_epi32(0, 0, 0, (int)(uint32_t)num_blocks))));
    crypt_groups(key, is_open, &counters, &acc, in, out, num_groups);
    if (rest) {
        struct sum sum = no_sum();
        crypt_rest(key, is_open, &counters, &sum, acc, powers_of(key, rest), in + GROUP * num_groups, out + GROUP * num_groups, 16 * rest);
        acc = reduce(sum);
    }
    _mm_storeu_si128((__m128i *)(void *)y, swap128(acc));
    clear_registers();
}

TARGET static void seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    crypt_blocks(key, false, counter, y, in, out, num_blocks);
}

TARGET static void open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    crypt_blocks(key, true, counter, y, in, out, num_blocks);
}

/* What is left of a message, less than a group of text, and the lengths: one reduction if they fit a window, as all but 497 to 511 bytes do. */
INLINE __m128i end_message(const struct hpl_gcm_key *key, bool is_open, __m512i *counters, __m128i acc, size_t aad_len, size_t done,
                           const struct hpl_gcm_message *m)
{
    __m128i last = _mm_set_epi64x((long long)(m->aad_len * 8), (long long)(m->len * 8));
    size_t rest = m->len - done, num_blocks = blocks_of(aad_len) + blocks_of(rest) + 1;
    const uint8_t *power = powers_of(key, num_blocks > WINDOW ? WINDOW : num_blocks);
    struct sum sum = no_sum();
    if (aad_len) {
        power = add_bytes(&sum, acc, power, m->aad, aad_len);
        acc = _mm_setzero_si128();
    }
    if (rest) {
        power = crypt_rest(key, is_open, counters, &sum, acc, power, m->in + done, m->out + done, rest);
        acc = _mm_setzero_si128();
    }
    if (num_blocks > WINDOW) {
        acc = reduce(sum);
        sum = no_sum();
        power = powers_of(key, 1);
    }
    add_product(&sum, _mm512_zextsi128_si512(_mm_xor_si128(last, acc)), load(power));
    return reduce(sum);
}

/* Read as it was most likely written, in eight bytes and four: a wider load of what was just stored would wait for the store. */
INLINE __m128i load_nonce(const uint8_t nonce[12])
{
    uint64_t low;
    uint32_t high;
    __builtin_memcpy(&low, nonce, 8);
    __builtin_memcpy(&high, nonce + 8, 4);
    return swap128(_mm_set_epi64x((long long)high, (long long)low));
}

INLINE void crypt_message(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *m)
{
    const __m128i nonce = load_nonce(m->nonce), e_j0 = encrypt_block(key, swap128(_mm_or_si128(nonce, _mm_set_epi32(0, 0, 0, 1))));
    __m512i counters = counters_from(_mm_or_si128(nonce, _mm_set_epi32(0, 0, 0, 2)));
    __m128i acc = _mm_setzero_si128();
    size_t aad_len = m->aad_len, done = 0;
    if (aad_len >= GROUP || m->len >= GROUP || blocks_of(aad_len) + blocks_of(m->len) >= WINDOW) { /* all at once would not fit */
        acc = hash_bytes(key, acc, m->aad, aad_len);
        aad_len = 0;
        done = m->len / GROUP * GROUP;
        crypt_groups(key, is_open, &counters, &acc, m->in, m->out, done / GROUP);
    }
    acc = end_message(key, is_open, &counters, acc, aad_len, done, m);
    _mm_storeu_si128((__m128i *)(void *)m->tag, _mm_xor_si128(swap128(acc), e_j0));
    clear_registers();
}

TARGET static void message(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *m)
{
    if (is_open)
        crypt_message(key, true, m);
    else
        crypt_message(key, false, m);
}

const struct hpl_gcm_kernel hpl_gcm_vaes_avx512 = {.name = "vaes-avx512", .needs = HPL_CPU_AESNI | HPL_CPU_VAES_AVX512, .set_key = set_key,
    .encrypt = encrypt, .ghash = ghash, .seal = seal, .open = open, .finish = finish, .message = message};
#endif
