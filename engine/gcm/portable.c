/* AES-GCM for any machine, in constant time: AES bitsliced, eight blocks at once, with the S-box as arithmetic in GF(2^8); GHASH by integer products. No
 * table is indexed and no branch taken by a secret (integer multiplication is taken to be constant-time, as it is on every 64-bit processor we know).
 * For machines without AES instructions, and as the oracle of the rest. */
#include "engine/gcm/gcm.h"

#include <string.h>

enum { WIDE = 8 }; /* blocks at once */

/* One bit of every byte of four blocks in each half: bit 16·row + 4·column + block of FIPS 197's state. */
typedef uint64_t plane __attribute__((vector_size(16)));

/* Bit i of every byte is in b[i]. */
struct planes {
    plane b[8];
};

/* --- the S-box ------------------------------------------------------------------------------------------------------------ */

/* A product of 15 terms modulo x^8 + x^4 + x^3 + x + 1. */
static inline struct planes reduce(plane c[15])
{
    struct planes r;
    for (int i = 14; i >= 8; i--) {
        c[i - 4] ^= c[i];
        c[i - 5] ^= c[i];
        c[i - 7] ^= c[i];
        c[i - 8] ^= c[i];
    }
    memcpy(r.b, c, sizeof r.b);
    return r;
}

static inline struct planes multiply(struct planes x, struct planes y)
{
    plane c[15] = {{0}};
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++)
            c[i + j] ^= x.b[i] & y.b[j];
    return reduce(c);
}

static inline struct planes square(struct planes x)
{
    plane c[15] = {{0}};
    for (int i = 0; i < 8; i++)
        c[2 * i] = x.b[i];
    return reduce(c);
}

/* FIPS 197 §5.1.1: the inverse as x^254, then the affine map. */
static struct planes sub_bytes(struct planes x)
{
    struct planes x2 = square(x), x3 = multiply(x2, x), x12 = square(square(x3)), x15 = multiply(x12, x3);
    struct planes x240 = square(square(square(square(x15)))), x254 = multiply(multiply(x240, x12), x2), r;
    for (int i = 0; i < 8; i++) {
        r.b[i] = x254.b[i] ^ x254.b[(i + 4) % 8] ^ x254.b[(i + 5) % 8] ^ x254.b[(i + 6) % 8] ^ x254.b[(i + 7) % 8];
        if (0x63 >> i & 1)
            r.b[i] = ~r.b[i];
    }
    return r;
}

/* --- the other steps ------------------------------------------------------------------------------------------------------ */

/* Row r moves r columns: within its 16 bits, 4·r of them. */
static inline plane shift_row_bits(plane x)
{
    return (x & 0x000000000000ffffull) | (x >> 4 & 0x000000000fff0000ull) | (x << 12 & 0x00000000f0000000ull) | (x >> 8 & 0x000000ff00000000ull) |
           (x << 8 & 0x0000ff0000000000ull) | (x >> 12 & 0x000f000000000000ull) | (x << 4 & 0xfff0000000000000ull);
}

/* Every row becomes the one by rows below it. */
static inline plane rotate_rows(plane x, int by)
{
    return x >> 16 * by | x << (64 - 16 * by);
}

/* FIPS 197 §5.1.3: 2a0 + 3a1 + a2 + a3 = 2(a0 + a1) + a1 + (a2 + a3). */
static inline struct planes mix_columns(struct planes a)
{
    struct planes pair, r;
    for (int i = 0; i < 8; i++)
        pair.b[i] = a.b[i] ^ rotate_rows(a.b[i], 1);
    for (int i = 0; i < 8; i++) {
        r.b[i] = rotate_rows(a.b[i], 1) ^ rotate_rows(pair.b[i], 2) ^ pair.b[(i + 7) % 8];
        if (0x1a >> i & 1) /* the carry of 2x; x^8 is bit 0 by the wrap above */
            r.b[i] ^= pair.b[7];
    }
    return r;
}

/* --- bytes to planes and back --------------------------------------------------------------------------------------------- */

/* Eight bytes as an 8 by 8 matrix of bits, transposed. */
static inline uint64_t transpose(uint64_t x)
{
    uint64_t t = (x ^ x >> 7) & 0x00aa00aa00aa00aaull;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000cccc0000ccccull;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000f0f0f0f0ull;
    return x ^ t ^ t << 28;
}

/* Which byte of four blocks is bit 8·group + i of a plane. */
static inline size_t place(int group, int i)
{
    int row = group / 2, column = 2 * (group % 2) + i / 4, block = i % 4;
    return (size_t)(16 * block + 4 * column + row);
}

static struct planes pack(const uint8_t blocks[16 * WIDE])
{
    struct planes r = {{{0}}};
    for (int half = 0; half < 2; half++)
        for (int group = 0; group < 8; group++) {
            uint64_t x = 0;
            for (int i = 0; i < 8; i++)
                x |= (uint64_t)blocks[64 * half + place(group, i)] << 8 * i;
            x = transpose(x);
            for (int i = 0; i < 8; i++)
                r.b[i][half] |= (x >> 8 * i & 0xff) << 8 * group;
        }
    return r;
}

static void unpack(uint8_t blocks[16 * WIDE], struct planes s)
{
    for (int half = 0; half < 2; half++)
        for (int group = 0; group < 8; group++) {
            uint64_t x = 0;
            for (int i = 0; i < 8; i++)
                x |= (s.b[i][half] >> 8 * group & 0xff) << 8 * i;
            x = transpose(x);
            for (int i = 0; i < 8; i++)
                blocks[64 * half + place(group, i)] = (uint8_t)(x >> 8 * i);
        }
}

/* --- AES ------------------------------------------------------------------------------------------------------------------ */

struct schedule {
    struct planes round[15];
    uint32_t rounds;
};

static void slice_keys(struct schedule *schedule, const struct hpl_gcm_key *key)
{
    uint8_t copies[16 * WIDE];
    schedule->rounds = key->rounds;
    for (uint32_t round = 0; round <= key->rounds; round++) {
        for (int i = 0; i < WIDE; i++)
            memcpy(copies + 16 * i, key->round_keys[round], 16);
        schedule->round[round] = pack(copies);
    }
    hpl_gcm_wipe(copies, sizeof copies);
}

static void add_key(struct planes *s, const struct planes *key)
{
    for (int i = 0; i < 8; i++)
        s->b[i] ^= key->b[i];
}

static void encrypt_wide(const struct schedule *schedule, uint8_t blocks[16 * WIDE])
{
    struct planes s = pack(blocks);
    add_key(&s, &schedule->round[0]);
    for (uint32_t round = 1; round <= schedule->rounds; round++) {
        s = sub_bytes(s);
        for (int i = 0; i < 8; i++)
            s.b[i] = shift_row_bits(s.b[i]);
        if (round < schedule->rounds)
            s = mix_columns(s);
        add_key(&s, &schedule->round[round]);
    }
    unpack(blocks, s);
    hpl_gcm_wipe(&s, sizeof s);
}

static void encrypt(const struct hpl_gcm_key *key, const uint8_t in[16], uint8_t out[16])
{
    struct schedule schedule;
    uint8_t blocks[16 * WIDE] = {0};
    slice_keys(&schedule, key);
    memcpy(blocks, in, 16);
    encrypt_wide(&schedule, blocks);
    memcpy(out, blocks, 16);
    hpl_gcm_wipe(blocks, sizeof blocks);
    hpl_gcm_wipe(&schedule, sizeof schedule);
}

/* The S-box on the four bytes of a word, which take the places of a block's first four. */
static uint32_t sub_word(uint32_t word)
{
    uint8_t blocks[16 * WIDE] = {0};
    memcpy(blocks, &word, sizeof word);
    unpack(blocks, sub_bytes(pack(blocks)));
    memcpy(&word, blocks, sizeof word);
    hpl_gcm_wipe(blocks, sizeof blocks);
    return word;
}

/* --- GHASH ---------------------------------------------------------------------------------------------------------------- */

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

static uint64_t reverse_bits(uint64_t x)
{
    x = (x >> 1 & 0x5555555555555555ull) | (x & 0x5555555555555555ull) << 1;
    x = (x >> 2 & 0x3333333333333333ull) | (x & 0x3333333333333333ull) << 2;
    x = (x >> 4 & 0x0f0f0f0f0f0f0f0full) | (x & 0x0f0f0f0f0f0f0f0full) << 4;
    return __builtin_bswap64(x);
}

/* The low half of a carry-less product. With every fourth bit alone, an integer product has room for its carries in the three bits between: sixteen
 * sums of at most sixteen, the only one that would not fit being past the end. */
static uint64_t product_low(uint64_t x, uint64_t y)
{
    const uint64_t every_fourth = 0x1111111111111111ull;
    uint64_t r = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t sum = 0;
        for (int j = 0; j < 4; j++)
            sum ^= (x & every_fourth << j) * (y & every_fourth << ((i - j) & 3));
        r |= sum & every_fourth << i;
    }
    return r;
}

/* A factor of 128 bits, its halves' sum for Karatsuba's method, and all three reversed: the high half of a product is the low half of the reversed
 * factors' product, reversed. */
struct factor {
    uint64_t part[3], reversed[3]; /* low, high, low ^ high */
};

static struct factor factor_of(uint64_t high, uint64_t low)
{
    struct factor f = {{low, high, low ^ high}, {0}};
    f.reversed[0] = reverse_bits(low);
    f.reversed[1] = reverse_bits(high);
    f.reversed[2] = f.reversed[0] ^ f.reversed[1];
    return f;
}

/* y · h modulo x^128 + x^7 + x^2 + x + 1, bits in the order of SP 800-38D §6.3: the first is the highest here, which makes a product one bit short. */
static void multiply_by_h(uint64_t y[2], const struct factor *h)
{
    struct factor f = factor_of(y[0], y[1]);
    uint64_t low[3], high[3];
    for (int i = 0; i < 3; i++) {
        low[i] = product_low(f.part[i], h->part[i]);
        high[i] = reverse_bits(product_low(f.reversed[i], h->reversed[i])) >> 1;
    }
    uint64_t v0 = low[0], v1 = high[0] ^ low[0] ^ low[1] ^ low[2], v2 = low[1] ^ high[0] ^ high[1] ^ high[2], v3 = high[1];
    v3 = v3 << 1 | v2 >> 63;
    v2 = v2 << 1 | v1 >> 63;
    v1 = v1 << 1 | v0 >> 63;
    v0 <<= 1;
    v2 ^= v0 ^ v0 >> 1 ^ v0 >> 2 ^ v0 >> 7;
    v1 ^= v0 << 63 ^ v0 << 62 ^ v0 << 57;
    y[0] = v3 ^ v1 ^ v1 >> 1 ^ v1 >> 2 ^ v1 >> 7;
    y[1] = v2 ^ v1 << 63 ^ v1 << 62 ^ v1 << 57;
}

static void ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    struct factor h = factor_of(load_be64(key->powers[0]), load_be64(key->powers[0] + 8));
    uint64_t acc[2] = {load_be64(y), load_be64(y + 8)};
    for (; num_blocks; num_blocks--, in += 16) {
        acc[0] ^= load_be64(in);
        acc[1] ^= load_be64(in + 8);
        multiply_by_h(acc, &h);
    }
    store_be64(y, acc[0]);
    store_be64(y + 8, acc[1]);
    hpl_gcm_wipe(&h, sizeof h);
}

/* --- the kernel ----------------------------------------------------------------------------------------------------------- */

static void set_key(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len)
{
    static const uint8_t zero[16];
    hpl_gcm_expand(key, bytes, key_len, sub_word);
    encrypt(key, zero, key->powers[0]);
}

static void crypt_blocks(const struct hpl_gcm_key *key, uint8_t counter[16], const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    struct schedule schedule;
    uint8_t stream[16 * WIDE];
    slice_keys(&schedule, key);
    while (num_blocks) {
        size_t n = num_blocks < WIDE ? num_blocks : WIDE;
        for (size_t i = 0; i < WIDE; i++) {
            memcpy(stream + 16 * i, counter, 16);
            if (i < n)
                hpl_gcm_increment(counter);
        }
        encrypt_wide(&schedule, stream);
        for (size_t i = 0; i < 16 * n; i++)
            out[i] = in[i] ^ stream[i];
        in += 16 * n, out += 16 * n, num_blocks -= n;
    }
    hpl_gcm_wipe(stream, sizeof stream);
    hpl_gcm_wipe(&schedule, sizeof schedule);
}

static void seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    (void)table;
    crypt_blocks(key, counter, in, out, num_blocks);
    ghash(key, y, out, num_blocks);
}

static void open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    (void)table;
    ghash(key, y, in, num_blocks);
    crypt_blocks(key, counter, in, out, num_blocks);
}

const struct hpl_gcm_kernel hpl_gcm_portable = {
    .name = "portable", .needs = 0, .set_key = set_key, .encrypt = encrypt, .ghash = ghash, .seal = seal, .open = open};
