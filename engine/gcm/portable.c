/* AES-GCM for any machine, in constant time: the S-box is computed (inversion in GF(2^8) and an affine map, eight bytes to a word), and GHASH multiplies
 * bit by bit under masks. No table is indexed and no branch taken by a secret. Slow; for machines without AES instructions, and as the oracle of the rest. */
#include "engine/gcm/gcm.h"

#include <string.h>

#define ONES 0x0101010101010101ull
#define HIGH 0x8080808080808080ull
#define NUM_LANES 8 /* words in flight: four blocks, which also lets the compiler use wide registers */

struct lanes {
    uint64_t w[NUM_LANES];
};

/* Times x in GF(2^8), byte by byte. */
static inline uint64_t times_x(uint64_t a)
{
    uint64_t carry = (a & HIGH) >> 7;
    return (a & ~HIGH) << 1 ^ carry * 0x1b;
}

static struct lanes multiply(struct lanes a, struct lanes b)
{
    struct lanes r = {{0}};
    for (int bit = 0; bit < 8; bit++)
        for (int i = 0; i < NUM_LANES; i++) {
            r.w[i] ^= a.w[i] & ((b.w[i] >> bit & ONES) * 0xff);
            a.w[i] = times_x(a.w[i]);
        }
    return r;
}

/* FIPS 197 §5.1.1: x^254, then the affine map. */
static struct lanes sub_bytes(struct lanes x)
{
    struct lanes x2 = multiply(x, x), x3 = multiply(x2, x), x6 = multiply(x3, x3), x12 = multiply(x6, x6), x15 = multiply(x12, x3), t = x15;
    for (int i = 0; i < 4; i++)
        t = multiply(t, t);                            /* x^240 */
    t = multiply(multiply(t, x12), x2);                /* x^254 */
    for (int i = 0; i < NUM_LANES; i++) {
        uint64_t a = t.w[i], r = a ^ 0x63 * ONES;
        for (int k = 1; k <= 4; k++)                   /* rotations of each byte by 1 to 4 */
            r ^= (a & (0xff >> k) * ONES) << k ^ (a >> (8 - k) & (0xff >> (8 - k)) * ONES);
        t.w[i] = r;
    }
    return t;
}

static uint32_t sub_word(uint32_t word)
{
    struct lanes one = {{word}};
    return (uint32_t)sub_bytes(one).w[0];
}

static void shift_rows(uint8_t s[16])
{
    uint8_t t[16];
    for (int i = 0; i < 16; i++)
        t[i] = s[(i + 4 * (i % 4)) % 16];
    memcpy(s, t, 16);
}

/* Two columns to a word: FIPS 197 §5.1.3 as t ^ rotations of a and 2a within each column. */
static uint64_t mix_columns(uint64_t a)
{
    uint64_t b = times_x(a);
    uint64_t a1 = (a >> 8 & 0x00ffffff00ffffffull) | (a << 24 & 0xff000000ff000000ull);
    uint64_t a2 = (a >> 16 & 0x0000ffff0000ffffull) | (a << 16 & 0xffff0000ffff0000ull);
    uint64_t a3 = (a >> 24 & 0x000000ff000000ffull) | (a << 8 & 0xffffff00ffffff00ull);
    uint64_t b1 = (b >> 8 & 0x00ffffff00ffffffull) | (b << 24 & 0xff000000ff000000ull);
    return b ^ b1 ^ a1 ^ a2 ^ a3;
}

/* Four blocks at once. */
static void encrypt4(const struct hpl_gcm_key *key, uint8_t blocks[64])
{
    struct lanes s;
    uint64_t k[2];
    for (uint32_t round = 0; round <= key->rounds; round++) {
        memcpy(&s, blocks, sizeof s);
        if (round) {
            s = sub_bytes(s);
            memcpy(blocks, &s, sizeof s);
            for (int i = 0; i < 4; i++)
                shift_rows(blocks + 16 * i);
            memcpy(&s, blocks, sizeof s);
        }
        if (round && round < key->rounds)
            for (int i = 0; i < NUM_LANES; i++)
                s.w[i] = mix_columns(s.w[i]);
        memcpy(k, key->round_keys[round], sizeof k);
        for (int i = 0; i < NUM_LANES; i++)
            s.w[i] ^= k[i % 2];
        memcpy(blocks, &s, sizeof s);
    }
    hpl_gcm_wipe(&s, sizeof s);
}

static void encrypt(const struct hpl_gcm_key *key, const uint8_t in[16], uint8_t out[16])
{
    uint8_t blocks[64] = {0};
    memcpy(blocks, in, 16);
    encrypt4(key, blocks);
    memcpy(out, blocks, 16);
    hpl_gcm_wipe(blocks, sizeof blocks);
}

static uint64_t load_be64(const uint8_t *at)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | at[i];
    return v;
}

static void store_be64(uint8_t *at, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        at[i] = (uint8_t)(v >> (56 - 8 * i));
}

/* y = (y ^ block) · H (SP 800-38D §6.3), every bit of y as a mask. */
static void ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    uint64_t y1 = load_be64(y), y0 = load_be64(y + 8), h1 = load_be64(key->powers[0]), h0 = load_be64(key->powers[0] + 8);
    for (; num_blocks; num_blocks--, in += 16) {
        uint64_t x[2] = {y1 ^ load_be64(in), y0 ^ load_be64(in + 8)}, v1 = h1, v0 = h0;
        y1 = y0 = 0;
        for (int i = 0; i < 128; i++) {
            uint64_t mask = 0 - (x[i / 64] >> (63 - i % 64) & 1), carry = 0 - (v0 & 1);
            y1 ^= v1 & mask;
            y0 ^= v0 & mask;
            v0 = v0 >> 1 | v1 << 63;
            v1 = v1 >> 1 ^ (carry & 0xe100000000000000ull);
        }
    }
    store_be64(y, y1);
    store_be64(y + 8, y0);
}

static void set_key(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len)
{
    static const uint8_t zero[16];
    hpl_gcm_expand(key, bytes, key_len, sub_word);
    encrypt(key, zero, key->powers[0]);
}

static void next_counter(uint8_t counter[16])
{
    for (int i = 15; i >= 12 && ++counter[i] == 0; i--) {
        /* Carry. */
    }
}

static void crypt_blocks(const struct hpl_gcm_key *key, uint8_t counter[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    uint8_t stream[64];
    while (num_blocks) {
        size_t n = num_blocks < 4 ? num_blocks : 4;
        for (size_t i = 0; i < 4; i++) {
            memcpy(stream + 16 * i, counter, 16);
            if (i < n)
                next_counter(counter);
        }
        encrypt4(key, stream);
        for (size_t i = 0; i < 16 * n; i++)
            out[i] = in[i] ^ stream[i];
        in += 16 * n, out += 16 * n, num_blocks -= n;
    }
    hpl_gcm_wipe(stream, sizeof stream);
}

static void seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    crypt_blocks(key, counter, in, out, num_blocks);
    ghash(key, y, out, num_blocks);
}

static void open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    ghash(key, y, in, num_blocks);
    crypt_blocks(key, counter, in, out, num_blocks);
}

const struct hpl_gcm_kernel hpl_gcm_portable = {
    .name = "portable", .needs = 0, .set_key = set_key, .encrypt = encrypt, .ghash = ghash, .seal = seal, .open = open};
