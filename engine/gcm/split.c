/* One message cut into slices that several threads run at once. GHASH is linear, so each slice hashes from zero and the sums are joined by powers of the hash
 * key: y = sum of y_i * H^(blocks after slice i). No threads here: the caller's crew has them. */
#include "engine/gcm/gcm.h"

#include <string.h>

#define SLICE_BLOCKS (128u * 1024 / 16) /* measured: engine/work/README.md */
#define MAX_SLICES 256u

struct element {
    uint64_t high, low; /* the first byte is the highest; the top bit is the coefficient of x^0 (SP 800-38D §6.3) */
};

static uint64_t get_be64(const uint8_t *in)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | in[i];
    return value;
}

static struct element load(const uint8_t in[16])
{
    return (struct element){get_be64(in), get_be64(in + 8)};
}

static void store(uint8_t out[16], struct element x)
{
    for (int i = 0; i < 8; i++) {
        out[i] = (uint8_t)(x.high >> (56 - 8 * i));
        out[8 + i] = (uint8_t)(x.low >> (56 - 8 * i));
    }
}

static uint64_t mask_of(uint64_t bit)
{
    return 0 - (bit & 1);
}

/* Every bit costs the same: masks, no branch and no table. SP 800-38D §6.3, algorithm 1. */
static struct element multiply(struct element x, struct element y)
{
    struct element z = {0, 0};
    for (int i = 0; i < 128; i++) {
        uint64_t take = mask_of(i < 64 ? x.high >> (63 - i) : x.low >> (127 - i)), carry = mask_of(y.low);
        z.high ^= y.high & take;
        z.low ^= y.low & take;
        y.low = y.low >> 1 | y.high << 63;
        y.high = y.high >> 1 ^ (carry & 0xe100000000000000u);
    }
    return z;
}

void hpl_gcm_power(const struct hpl_gcm_key *key, uint64_t n, uint8_t power[16])
{
    static const uint8_t zero[16];
    uint8_t h[16];
    struct element square, product = {1ull << 63, 0}; /* 1 */
    key->kernel->encrypt(key, zero, h);
    square = load(h);
    for (; n; n >>= 1) { /* n is a length: public */
        if (n & 1)
            product = multiply(product, square);
        if (n > 1)
            square = multiply(square, square);
    }
    store(power, product);
    hpl_gcm_wipe(h, sizeof h);
    hpl_gcm_wipe(&square, sizeof square);
    hpl_gcm_wipe(&product, sizeof product);
}

void hpl_gcm_join(const uint8_t power[16], uint8_t y[16], const uint8_t y_after[16])
{
    store(y, multiply(load(y), load(power)));
    for (int i = 0; i < 16; i++)
        y[i] ^= y_after[i];
}

/* The low 32 bits, and no carry out of them (SP 800-38D §6.2). */
static void advance(uint8_t counter[16], uint64_t num_blocks)
{
    uint32_t low = (uint32_t)get_be64(counter + 8) + (uint32_t)num_blocks;
    for (int i = 0; i < 4; i++)
        counter[12 + i] = (uint8_t)(low >> (24 - 8 * i));
}

void hpl_gcm_slice(const struct hpl_gcm *gcm, uint64_t first_block, const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t y[16],
                   uint8_t *table)
{
    struct hpl_gcm slice = *gcm;
    slice.table = table;
    slice.len = 0;
    advance(slice.counter, first_block);
    memcpy(slice.y, y, 16);
    hpl_gcm_update(&slice, in, out, num_blocks * 16);
    memcpy(y, slice.y, 16);
    hpl_gcm_wipe(&slice, sizeof slice);
}

struct split {
    struct hpl_gcm *gcm;
    const uint8_t *in;
    uint8_t *out;
    size_t first_len, len;     /* of the first slice and of the others, in blocks */
    uint8_t y[MAX_SLICES][16]; /* each slice's own; the first goes on from the message's */
};

static void run_slice(void *arg, size_t index, uint8_t *table)
{
    struct split *split = arg;
    size_t at = index ? split->first_len + (index - 1) * split->len : 0;
    hpl_gcm_slice(split->gcm, at, split->in + 16 * at, split->out + 16 * at, index ? split->len : split->first_len, split->y[index], table);
}

/* The first slice is the one of another length, and starts from the y so far: so one power joins them all. */
static void run_slices(struct split *split, const struct hpl_gcm_crew *crew, size_t num_slices)
{
    struct hpl_gcm *gcm = split->gcm;
    uint8_t power[16];
    memset(split->y, 0, num_slices * 16);
    memcpy(split->y[0], gcm->y, 16);
    crew->run(crew->self, run_slice, split, num_slices);
    hpl_gcm_power(gcm->key, split->len, power);
    memcpy(gcm->y, split->y[0], 16);
    for (size_t i = 1; i < num_slices; i++)
        hpl_gcm_join(power, gcm->y, split->y[i]);
    hpl_gcm_wipe(power, sizeof power);
    hpl_gcm_wipe(split->y, num_slices * 16);
}

/* Whole blocks, where a block begins. */
static void update_blocks(struct hpl_gcm *gcm, const struct hpl_gcm_crew *crew, const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    size_t len = crew->slice_blocks ? crew->slice_blocks : SLICE_BLOCKS;
    if (len < num_blocks / MAX_SLICES + 1)
        len = num_blocks / MAX_SLICES + 1;
    size_t num_slices = (num_blocks + len - 1) / len;
    if (num_slices < 2) {
        hpl_gcm_update(gcm, in, out, num_blocks * 16);
        return;
    }
    struct split split = {.gcm = gcm, .in = in, .out = out, .first_len = num_blocks - (num_slices - 1) * len, .len = len};
    run_slices(&split, crew, num_slices);
    advance(gcm->counter, num_blocks);
    gcm->len += (uint64_t)num_blocks * 16;
}

bool hpl_gcm_update_split(struct hpl_gcm *gcm, const struct hpl_gcm_crew *crew, const uint8_t *in, uint8_t *out, size_t len)
{
    if (len > HPL_GCM_MAX_DATA - gcm->len)
        return false;
    hpl_gcm_update(gcm, in, out, 0); /* the AAD ends here */
    size_t head = (16 - gcm->num_partial) % 16;
    if (head > len)
        head = len;
    size_t blocks = (len - head) / 16 * 16;
    hpl_gcm_update(gcm, in, out, head);
    update_blocks(gcm, crew, in + head, out + head, blocks / 16);
    return hpl_gcm_update(gcm, in + head + blocks, out + head + blocks, len - head - blocks);
}
