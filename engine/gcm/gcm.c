/* A message over any kernel. Pure; one thread a message. */
#include "engine/gcm/gcm.h"

#include <stddef.h>
#include <string.h>
#include <openssl/crypto.h>

#define MAX_AAD ((1ull << 61) - 1)

void hpl_gcm_wipe(void *data, size_t len)
{
    OPENSSL_cleanse(data, len);
}

static void put_be64(uint8_t out[8], uint64_t value)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    value = __builtin_bswap64(value);
#endif
    memcpy(out, &value, 8);
}

void hpl_gcm_expand(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len, uint32_t (*sub_word)(uint32_t word))
{
    uint32_t *words = (uint32_t *)(void *)key->round_keys; /* little-endian words, as they lie */
    size_t nk = key_len / 4, total;
    uint32_t rcon = 1;
    key->rounds = (uint32_t)nk + 6;
    total = 4 * (key->rounds + 1);
    memcpy(words, bytes, key_len);
    for (size_t i = nk; i < total; i++) {
        uint32_t word = words[i - 1];
        if (i % nk == 0) {
            word = sub_word(word >> 8 | word << 24) ^ rcon;
            rcon = rcon << 1 ^ (rcon & 0x80 ? 0x11b : 0);
        } else if (nk > 6 && i % nk == 4)
            word = sub_word(word);
        words[i] = words[i - nk] ^ word;
    }
}

void hpl_gcm_set_key(struct hpl_gcm_key *key, const struct hpl_gcm_kernel *kernel, const uint8_t *bytes, size_t key_len)
{
    key->kernel = kernel;
    kernel->set_key(key, bytes, key_len);
}

/* J0 from a nonce that is not 96 bits long (SP 800-38D §7.1, step 2). */
static void hash_nonce(const struct hpl_gcm_key *key, uint8_t j0[16], const uint8_t *nonce, size_t nonce_len)
{
    uint8_t block[16] = {0};
    memset(j0, 0, 16);
    key->kernel->ghash(key, j0, nonce, nonce_len / 16);
    if (nonce_len % 16) {
        memcpy(block, nonce + nonce_len / 16 * 16, nonce_len % 16);
        key->kernel->ghash(key, j0, block, 1);
        memset(block, 0, sizeof block);
    }
    put_be64(block + 8, (uint64_t)nonce_len * 8);
    key->kernel->ghash(key, j0, block, 1);
}

void hpl_gcm_start(struct hpl_gcm *gcm, const struct hpl_gcm_key *key, bool is_open, const uint8_t *nonce, size_t nonce_len)
{
    gcm->key = key;
    gcm->is_open = is_open;
    gcm->has_data = false;
    gcm->table = NULL;
    gcm->aad_len = gcm->len = 0;
    gcm->num_partial = 0;
    memset(gcm->y, 0, sizeof gcm->y);
    gcm->is_counter_public = nonce_len == 12;
    if (nonce_len == 12) { /* by pieces, twice: reading back what was just written in pieces would wait */
        memcpy(gcm->j0, nonce, 12);
        memcpy(gcm->j0 + 12, "\0\0\0\1", 4);
        memcpy(gcm->counter, nonce, 12);
        memcpy(gcm->counter + 12, "\0\0\0\2", 4);
    } else {
        hash_nonce(key, gcm->j0, nonce, nonce_len);
        memcpy(gcm->counter, gcm->j0, 16);
        hpl_gcm_increment(gcm->counter);
    }
}

/* Pads the AAD's last block and turns to the data. */
static void close_aad(struct hpl_gcm *gcm)
{
    if (gcm->num_partial) {
        memset(gcm->partial + gcm->num_partial, 0, 16 - gcm->num_partial);
        gcm->key->kernel->ghash(gcm->key, gcm->y, gcm->partial, 1);
        gcm->num_partial = 0;
    }
    gcm->has_data = true;
}

bool hpl_gcm_aad(struct hpl_gcm *gcm, const uint8_t *aad, size_t len)
{
    if (gcm->has_data || len > MAX_AAD - gcm->aad_len)
        return false;
    gcm->aad_len += len;
    while (len && gcm->num_partial) {
        gcm->partial[gcm->num_partial++] = *aad++;
        len--;
        if (gcm->num_partial == 16) {
            gcm->key->kernel->ghash(gcm->key, gcm->y, gcm->partial, 1);
            gcm->num_partial = 0;
        }
    }
    if (len >= 16)
        gcm->key->kernel->ghash(gcm->key, gcm->y, aad, len / 16);
    if (len % 16)
        memcpy(gcm->partial, aad + len / 16 * 16, len % 16);
    if (len)
        gcm->num_partial = (unsigned)(len % 16);
    return true;
}

/* Bytes of a block whose keystream is there already; returns how many. */
static size_t use_partial(struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t len)
{
    size_t n = 16 - gcm->num_partial < len ? 16 - gcm->num_partial : len;
    for (size_t i = 0; i < n; i++) {
        uint8_t from = in[i];
        out[i] = from ^ gcm->partial[gcm->num_partial];
        gcm->folded[gcm->num_partial++] = gcm->is_open ? from : out[i];
    }
    if (gcm->num_partial == 16) {
        gcm->key->kernel->ghash(gcm->key, gcm->y, gcm->folded, 1);
        gcm->num_partial = 0;
    }
    return n;
}

static void crypt_blocks(struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    const struct hpl_gcm_kernel *kernel = gcm->key->kernel;
    (gcm->is_open ? kernel->open : kernel->seal)(gcm->key, gcm->counter, gcm->y, in, out, num_blocks, table);
}

/* Apart, so that a short piece does not carry the table on its stack. */
__attribute__((noinline)) static void crypt_with_table(struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t num_blocks)
{
    _Alignas(64) uint8_t table[HPL_GCM_TABLE_LEN];
    crypt_blocks(gcm, in, out, num_blocks, table);
}

bool hpl_gcm_update(struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t len)
{
    const struct hpl_gcm_kernel *kernel = gcm->key->kernel;
    if (len > HPL_GCM_MAX_DATA - gcm->len)
        return false;
    if (!gcm->has_data)
        close_aad(gcm);
    gcm->len += len;
    if (gcm->num_partial) {
        size_t n = use_partial(gcm, in, out, len);
        in += n, out += n, len -= n;
    }
    if (len >= 16) {
        bool is_looked_up = kernel->look_up_from && len >= kernel->look_up_from && gcm->is_counter_public;
        if (is_looked_up && !gcm->table)
            crypt_with_table(gcm, in, out, len / 16);
        else
            crypt_blocks(gcm, in, out, len / 16, is_looked_up ? gcm->table : NULL);
        in += len / 16 * 16, out += len / 16 * 16, len %= 16;
    }
    if (len) {
        kernel->encrypt(gcm->key, gcm->counter, gcm->partial);
        hpl_gcm_increment(gcm->counter);
        use_partial(gcm, in, out, len);
    }
    return true;
}

static void finish_apart(const struct hpl_gcm_key *key, const uint8_t j0[16], uint8_t y[16], const uint8_t *in, size_t num_blocks, uint8_t tag[16])
{
    uint8_t mask[16];
    key->kernel->encrypt(key, j0, mask);
    key->kernel->ghash(key, y, in, num_blocks);
    for (int i = 0; i < 16; i++)
        tag[i] = y[i] ^ mask[i];
    hpl_gcm_wipe(mask, sizeof mask);
}

void hpl_gcm_finish(struct hpl_gcm *gcm, uint8_t tag[16])
{
    const struct hpl_gcm_key *key = gcm->key;
    size_t used = 0;
    if (!gcm->has_data)
        close_aad(gcm);
    if (gcm->num_partial) {
        memset(gcm->folded + gcm->num_partial, 0, 16 - gcm->num_partial);
        used = 16;
    }
    put_be64(gcm->folded + used, gcm->aad_len * 8);
    put_be64(gcm->folded + used + 8, gcm->len * 8);
    if (key->kernel->finish)
        key->kernel->finish(key, gcm->j0, gcm->y, gcm->folded, used / 16 + 1, tag);
    else
        finish_apart(key, gcm->j0, gcm->y, gcm->folded, used / 16 + 1, tag);
    hpl_gcm_wipe(gcm->counter, offsetof(struct hpl_gcm, folded) - offsetof(struct hpl_gcm, counter)); /* all that a nonce or the keystream was in */
    gcm->num_partial = 0;
}

__attribute__((noinline)) static void message_with_table(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *m)
{
    _Alignas(64) uint8_t table[HPL_GCM_TABLE_LEN];
    struct hpl_gcm_message with_table = *m;
    if (!m->table)
        with_table.table = table;
    key->kernel->message(key, is_open, &with_table);
}

bool hpl_gcm_run(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *m)
{
    struct hpl_gcm gcm;
    if (m->len > HPL_GCM_MAX_DATA || m->aad_len > MAX_AAD)
        return false;
    if (key->kernel->message) {
        if (key->kernel->look_up_from && m->len >= key->kernel->look_up_from)
            message_with_table(key, is_open, m);
        else
            key->kernel->message(key, is_open, m);
        return true;
    }
    hpl_gcm_start(&gcm, key, is_open, m->nonce, 12);
    hpl_gcm_aad(&gcm, m->aad, m->aad_len);
    hpl_gcm_update(&gcm, m->in, m->out, m->len);
    hpl_gcm_finish(&gcm, m->tag);
    return true;
}

bool hpl_gcm_run_many(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *messages, size_t count)
{
    const struct hpl_gcm_kernel *kernel = key->kernel;
    bool is_many = kernel->seal_many && !is_open;
    for (size_t i = 0; i < count; i++) {
        if (messages[i].len > HPL_GCM_MAX_DATA || messages[i].aad_len > MAX_AAD)
            return false;
        is_many = is_many && (!kernel->look_up_from || messages[i].len < kernel->look_up_from); /* long ones gain more by themselves */
    }
    if (is_many)
        kernel->seal_many(key, messages, count);
    for (size_t i = 0; !is_many && i < count; i++)
        hpl_gcm_run(key, is_open, &messages[i]);
    return true;
}
