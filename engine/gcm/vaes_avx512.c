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
    SHORT = 4,                   /* registers in a run that is no whole group */
    LOOK_UP_FROM = 12288          /* bytes of a message from which on a table of looked-up rounds pays */
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

/* The same with one product less (Karatsuba): middle_b holds the sum of b's halves; what middle then has too much is low and high, once for all products. */
INLINE void add_product_of_halves(struct sum *sum, __m512i a, __m512i b, __m512i middle_b)
{
    __m512i middle_a = _mm512_xor_si512(a, _mm512_shuffle_epi32(a, 0x4e));
    sum->low = _mm512_xor_si512(sum->low, _mm512_clmulepi64_epi128(a, b, 0x00));
    sum->high = _mm512_xor_si512(sum->high, _mm512_clmulepi64_epi128(a, b, 0x11));
    sum->middle = _mm512_xor_si512(sum->middle, _mm512_clmulepi64_epi128(middle_a, middle_b, 0x00));
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

/* What follows the first rounds of a group's states, while the group of ciphertext at hashed (NULL: none) is folded into acc: the rounds and the products
 * use different units, or the gaps of the same. from: the first round that is still to be done. */
INLINE void finish_group(const struct hpl_gcm_key *key, __m512i *state, uint32_t from, __m128i *acc, const uint8_t *hashed, const uint8_t *in, uint8_t *out)
{
    struct sum sum = no_sum();
    UNROLLED for (uint32_t i = 0; i < WIDE; i++)
    {
        if (from + i < 10)
            one_round(key, from + i, state, WIDE);
        if (hashed) {
            __m512i block = swap(load(hashed + 64 * i));
            add_product_of_halves(&sum, i ? block : _mm512_xor_si512(block, _mm512_zextsi128_si512(*acc)), load(key->powers[4 * i]), load(key->middles[4 * i]));
        }
    }
    sum.middle = xor3(sum.middle, sum.low, sum.high);
    if (from + WIDE < 10)
        one_round(key, from + WIDE, state, WIDE);
    if (hashed)
        *acc = reduce(sum);
    late_rounds(key, state, WIDE);
    const __m512i k = spread(key->round_keys[key->rounds]);
    UNROLLED for (int i = 0; i < WIDE; i++)
        state[i] = _mm512_aesenclast_epi128(state[i], _mm512_xor_si512(k, load(in + 64 * i)));
    UNROLLED for (int i = 0; i < WIDE; i++)
        _mm512_storeu_si512(out + 64 * i, state[i]);
}

/* Where a group's states come from: counters through all the rounds, or a table of what two rounds make of a counter's last byte (below). */
struct source {
    enum { COUNTERS, TABLE, BORDER } kind;
    __m512i counters;
    const uint8_t *row;        /* of the group's first block */
    __m512i constant, next;    /* of the window, and of the one after it */
    uint64_t is_next;          /* half lanes of the group that belong to the next window */
};

INLINE void begin_group(const struct hpl_gcm_key *key, struct source *source, __m512i *state)
{
    if (source->kind == COUNTERS) {
        begin(key, &source->counters, state, WIDE);
        return;
    }
    UNROLLED for (int i = 0; i < WIDE; i++)
    {
        __m512i constant = source->constant;
        if (source->kind == BORDER)
            constant = _mm512_mask_mov_epi64(constant, (__mmask8)(source->is_next >> 8 * i), source->next);
        state[i] = _mm512_xor_si512(constant, load(source->row + 64 * i));
    }
    source->row += GROUP;
}

INLINE void crypt_group(const struct hpl_gcm_key *key, struct source *source, __m128i *acc, const uint8_t *hashed, const uint8_t *in, uint8_t *out)
{
    __m512i state[WIDE];
    begin_group(key, source, state);
    finish_group(key, state, source->kind == COUNTERS ? 1 : 3, acc, hashed, in, out);
}

/* Whole groups; hashed is the group of ciphertext before them, which is not folded yet (NULL: there is none). What was sealed is hashed one group later,
 * and the last group is left to the caller; what is opened is hashed before it is overwritten. */
INLINE void crypt_groups(const struct hpl_gcm_key *key, bool is_open, struct source *source, __m128i *acc, const uint8_t **hashed, const uint8_t *in,
                         uint8_t *out, size_t num_groups)
{
    if (is_open) {
        for (; num_groups; num_groups--, in += GROUP, out += GROUP)
            crypt_group(key, source, acc, in, in, out);
        return;
    }
    if (num_groups && !*hashed) {
        crypt_group(key, source, acc, NULL, in, out);
        *hashed = out;
        in += GROUP, out += GROUP, num_groups--;
    }
    for (; num_groups; num_groups--, in += GROUP, out += GROUP) {
        crypt_group(key, source, acc, *hashed, in, out);
        *hashed = out;
    }
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

/* --- looked-up rounds: between two counters that differ in their last byte alone, the first two rounds differ by what that byte makes of one column, and
 * the byte is public: 256 such differences are laid out once a message, and every later block begins at its third round. AddRoundKey and the linear part of a
 * round commute with the difference. Only for 96-bit nonces: of any other, the counter is secret. ------------------------------------------------------- */

enum { NUM_BYTES = 256, TABLE_LEN = 16 * (NUM_BYTES + WINDOW) }; /* the first entries again behind the last: a group may run over the border */
_Static_assert(TABLE_LEN == HPL_GCM_TABLE_LEN, "the room that callers give");

/* The counter's last byte reaches, in the first round, column 0 alone, together with nonce and key; the other columns are left out here and come with the
 * window's constant. */
INLINE void fill_table(const struct hpl_gcm_key *key, __m128i block, uint8_t *table)
{
    const __m512i column0 = _mm512_broadcast_i32x4(_mm_set_epi32(0, 0, 0, -1)), four = _mm512_broadcast_i32x4(_mm_set_epi32(4 << 24, 0, 0, 0));
    const __m512i k0 = spread(key->round_keys[0]), k1 = spread(key->round_keys[1]);
    __m512i blocks = _mm512_add_epi32(_mm512_broadcast_i32x4(block), _mm512_set_epi32(3 << 24, 0, 0, 0, 2 << 24, 0, 0, 0, 1 << 24, 0, 0, 0, 0, 0, 0, 0));
    for (size_t i = 0; i < TABLE_LEN; i += 64) {
        __m512i state = _mm512_and_si512(_mm512_aesenc_epi128(_mm512_xor_si512(blocks, k0), k1), column0);
        _mm512_store_si512(table + i, _mm512_aesenc_epi128(state, _mm512_setzero_si512()));
        blocks = _mm512_add_epi32(blocks, four);
    }
}

INLINE void wipe_table(uint8_t *table)
{
    for (size_t i = 0; i < TABLE_LEN; i += 64)
        _mm512_store_si512(table + i, _mm512_setzero_si512());
    __asm__ volatile("" ::"r"(table) : "memory"); /* the compiler must believe that somebody looks */
}

/* The block whose last byte is 0 in the window of a byte-swapped counter. */
INLINE __m128i window_start(__m128i counter)
{
    return swap128(_mm_and_si128(counter, _mm_set_epi32(-1, -1, -1, ~0xff)));
}

/* Two rounds of the window's first counter, less its entry. */
INLINE __m512i window_constant(const struct hpl_gcm_key *key, __m128i counter, const uint8_t *table)
{
    __m128i block = _mm_aesenc_si128(_mm_xor_si128(window_start(counter), load128(key->round_keys[0])), load128(key->round_keys[1]));
    block = _mm_aesenc_si128(block, load128(key->round_keys[2]));
    return _mm512_broadcast_i32x4(_mm_xor_si128(block, load128(table)));
}

INLINE __m128i add_blocks(__m128i counter, size_t num_blocks)
{
    return _mm_add_epi32(counter, _mm_cvtsi32_si128((int)(uint32_t)num_blocks));
}

/* Whole groups, window by window, and over the borders between them. */
INLINE void crypt_windows(const struct hpl_gcm_key *key, bool is_open, __m128i counter, __m128i *acc, const uint8_t **hashed, const uint8_t *in, uint8_t *out,
                          size_t num_groups, uint8_t *table)
{
    fill_table(key, window_start(counter), table);
    struct source source = {.next = window_constant(key, counter, table)};
    while (num_groups) {
        size_t at = (uint32_t)_mm_cvtsi128_si32(counter) % NUM_BYTES, n = (NUM_BYTES - at) / WINDOW < num_groups ? (NUM_BYTES - at) / WINDOW : num_groups;
        source = (struct source){.kind = TABLE, .row = table + 16 * at, .constant = source.next};
        crypt_groups(key, is_open, &source, acc, hashed, in, out, n);
        in += GROUP * n, out += GROUP * n, num_groups -= n;
        at += WINDOW * n;
        counter = add_blocks(counter, WINDOW * n);
        source.next = window_constant(key, add_blocks(counter, WINDOW - 1), table);
        if (num_groups == 0 || at == NUM_BYTES)
            continue;
        source.kind = BORDER;
        source.is_next = ~0ull << 2 * (NUM_BYTES - at);
        crypt_groups(key, is_open, &source, acc, hashed, in, out, 1);
        in += GROUP, out += GROUP, num_groups--;
        counter = add_blocks(counter, WINDOW);
    }
    wipe_table(table);
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
        __m512i row = times_x(powers);
        _mm512_storeu_si512(key->powers[4 * i], row);
        _mm512_storeu_si512(key->middles[4 * i], _mm512_xor_si512(row, _mm512_shuffle_epi32(row, 0x4e)));
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

/* Whole groups; table: NULL, or room to look rounds up. Counter is byte-swapped and moved on. Returns the bytes done. */
INLINE size_t crypt_bulk(const struct hpl_gcm_key *key, bool is_open, __m128i *counter, __m128i *acc, const uint8_t *in, uint8_t *out, size_t len, uint8_t *table)
{
    size_t num_groups = len / GROUP;
    const uint8_t *hashed = NULL;
    if (table) {
        crypt_windows(key, is_open, *counter, acc, &hashed, in, out, num_groups, table);
    } else {
        struct source source = {.kind = COUNTERS, .counters = counters_from(*counter)};
        crypt_groups(key, is_open, &source, acc, &hashed, in, out, num_groups);
    }
    if (hashed)
        *acc = hash_bytes(key, *acc, hashed, GROUP);
    *counter = add_blocks(*counter, WINDOW * num_groups);
    return GROUP * num_groups;
}

INLINE void crypt_blocks(const struct hpl_gcm_key *key, bool is_open, uint8_t counter_bytes[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks,
                         uint8_t *table)
{
    __m128i counter = swap128(load128(counter_bytes)), acc = swap128(load128(y));
    size_t len = 16 * num_blocks, done = crypt_bulk(key, is_open, &counter, &acc, in, out, len, table), rest = len - done;
    if (rest) {
        struct sum sum = no_sum();
        __m512i counters = counters_from(counter);
        crypt_rest(key, is_open, &counters, &sum, acc, powers_of(key, rest / 16), in + done, out + done, rest);
        acc = reduce(sum);
        counter = add_blocks(counter, rest / 16);
    }
    _mm_storeu_si128((__m128i *)(void *)counter_bytes, swap128(counter));
    _mm_storeu_si128((__m128i *)(void *)y, swap128(acc));
    clear_registers();
}

TARGET static void seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    crypt_blocks(key, false, counter, y, in, out, num_blocks, table);
}

TARGET static void open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    crypt_blocks(key, true, counter, y, in, out, num_blocks, table);
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

INLINE __m128i encrypt_j0(const struct hpl_gcm_key *key, __m128i nonce)
{
    return encrypt_block(key, swap128(_mm_or_si128(nonce, _mm_set_epi32(0, 0, 0, 1))));
}

INLINE void crypt_message(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *m)
{
    const __m128i nonce = load_nonce(m->nonce), e_j0 = encrypt_j0(key, nonce);
    __m128i acc = _mm_setzero_si128(), counter = _mm_or_si128(nonce, _mm_set_epi32(0, 0, 0, 2));
    size_t aad_len = m->aad_len, done = 0;
    if (aad_len >= GROUP || m->len >= GROUP || blocks_of(aad_len) + blocks_of(m->len) >= WINDOW) { /* all at once would not fit */
        acc = hash_bytes(key, acc, m->aad, aad_len);
        aad_len = 0;
        done = crypt_bulk(key, is_open, &counter, &acc, m->in, m->out, m->len, m->len >= LOOK_UP_FROM ? m->table : NULL);
    }
    __m512i counters = counters_from(counter);
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

/* A message that is sealed but for the hash of its last group, its rest and its tag. */
struct pending {
    const struct hpl_gcm_message *m; /* NULL: none */
    const uint8_t *hashed;
    __m128i acc, e_j0, counter;
};

INLINE void end_pending(const struct hpl_gcm_key *key, struct pending *pending)
{
    const struct hpl_gcm_message *m = pending->m;
    __m512i counters = counters_from(pending->counter);
    __m128i acc = end_message(key, false, &counters, pending->acc, 0, m->len / GROUP * GROUP, m);
    _mm_storeu_si128((__m128i *)(void *)m->tag, _mm_xor_si128(swap128(acc), pending->e_j0));
    pending->m = NULL;
}

/* The first group of a message is sealed while the last one of the message before is hashed: no product runs alone but the batch's last. */
INLINE void seal_next(const struct hpl_gcm_key *key, const struct hpl_gcm_message *m, struct pending *pending)
{
    const __m128i nonce = load_nonce(m->nonce), counter = _mm_or_si128(nonce, _mm_set_epi32(0, 0, 0, 2));
    struct source source = {.kind = COUNTERS, .counters = counters_from(counter)};
    struct pending own = {.m = m, .hashed = m->out, .e_j0 = encrypt_j0(key, nonce), .counter = add_blocks(counter, m->len / GROUP * WINDOW)};
    if (pending->m) {
        crypt_group(key, &source, &pending->acc, pending->hashed, m->in, m->out);
        end_pending(key, pending);
    } else {
        crypt_group(key, &source, &pending->acc, NULL, m->in, m->out);
    }
    own.acc = hash_bytes(key, _mm_setzero_si128(), m->aad, m->aad_len);
    crypt_groups(key, false, &source, &own.acc, &own.hashed, m->in + GROUP, m->out + GROUP, m->len / GROUP - 1);
    *pending = own;
}

TARGET static void seal_many(const struct hpl_gcm_key *key, const struct hpl_gcm_message *messages, size_t count)
{
    struct pending pending = {0};
    for (const struct hpl_gcm_message *m = messages; m < messages + count; m++)
        if (m->len >= GROUP && m->len < LOOK_UP_FROM)
            seal_next(key, m, &pending);
        else
            crypt_message(key, false, m);
    if (pending.m) {
        pending.acc = hash_bytes(key, pending.acc, pending.hashed, GROUP);
        end_pending(key, &pending);
    }
    clear_registers();
}

const struct hpl_gcm_kernel hpl_gcm_vaes_avx512 = {.name = "vaes-avx512", .needs = HPL_CPU_AESNI | HPL_CPU_VAES_AVX512, .set_key = set_key,
    .encrypt = encrypt, .ghash = ghash, .seal = seal, .open = open, .finish = finish, .message = message, .seal_many = seal_many, .look_up_from = LOOK_UP_FROM};
#endif
