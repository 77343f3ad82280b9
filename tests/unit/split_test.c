/* Is a message over several threads the same message: text, tag, refusal, at every length around the cuts? */
#include "tests/test.h"

#include <stdlib.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "engine/gcm/gcm.h"
#include "engine/work/split.h"

#define MIN ((size_t)HPL_GCM_SPLIT_MIN)
#define ROOM (5 * MIN)

static void fill(uint8_t *out, size_t len)
{
    for (size_t at = 0; at < len; at += 1u << 20)
        EXPECT(RAND_bytes(out + at, (int)(len - at < 1u << 20 ? len - at : 1u << 20)) == 1);
}

static uint8_t *allocate(size_t len)
{
    uint8_t *bytes = malloc(len);
    EXPECT(bytes != NULL);
    fill(bytes, len);
    return bytes;
}

static void openssl_seal(const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, size_t aad_len, const uint8_t *in, size_t len, uint8_t *out,
                         uint8_t tag[16])
{
    int n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    EXPECT(EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce));
    EXPECT(!aad_len || EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_len));
    EXPECT(EVP_EncryptUpdate(ctx, out, &n, in, (int)len));
    EXPECT(EVP_EncryptFinal_ex(ctx, out + len, &n) && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, tag));
    EVP_CIPHER_CTX_free(ctx);
}

/* A crew of one that takes the slices from the last to the first: their order must not matter. */
static void run_backwards(void *self, hpl_gcm_slice_fn fn, void *arg, size_t count)
{
    static _Alignas(64) uint8_t table[HPL_GCM_TABLE_LEN];
    *(size_t *)self = count;
    while (count-- > 0)
        fn(arg, count, count % 2 ? table : NULL);
}

HPL_TEST(powers_of_the_hash_key_are_what_ghash_of_zeros_multiplies_by)
{
    static const uint8_t zeros[16 * 300];
    size_t count;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    for (size_t k = 0; k < count; k++) {
        struct hpl_gcm_key key;
        uint8_t bytes[32], y[16], power[16], want[16], joined[16];
        fill(bytes, sizeof bytes);
        hpl_gcm_set_key(&key, kernels[k], bytes, 32);
        for (size_t n = 0; n <= 300; n++) {
            fill(y, 16);
            memcpy(want, y, 16);
            memcpy(joined, y, 16);
            kernels[k]->ghash(&key, want, zeros, n);
            hpl_gcm_power(&key, n, power);
            hpl_gcm_join(power, joined, zeros);
            EXPECT_BYTES(joined, want, 16);
        }
    }
}

HPL_TEST(large_powers_obey_the_law_of_exponents)
{
    struct hpl_gcm_key key;
    uint8_t bytes[32], a[16], b[16], sum[16], zero[16] = {0};
    fill(bytes, sizeof bytes);
    hpl_gcm_set_key(&key, hpl_gcm_kernel(), bytes, 32);
    for (uint64_t n = 1; n < 1ull << 33; n = n * 5 + 3) {
        hpl_gcm_power(&key, n, a);
        hpl_gcm_power(&key, n / 3 + 1, b);
        hpl_gcm_power(&key, n + n / 3 + 1, sum);
        hpl_gcm_join(a, b, zero);
        EXPECT_BYTES(b, sum, 16);
    }
}

HPL_TEST(every_kernel_gives_the_same_in_slices_of_any_length_and_order)
{
    size_t count, num_slices;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    uint8_t *in = allocate(9000), *want = allocate(9000), *out = allocate(9000);
    for (size_t k = 0; k < count; k++) {
        for (size_t len = 0; len < 8900; len += 1 + len / 3) {
            for (size_t slice_blocks = 1; slice_blocks <= 150; slice_blocks = slice_blocks * 2 + 1) {
                const struct hpl_gcm_crew crew = {run_backwards, &num_slices, slice_blocks};
                uint8_t bytes[32], nonce[12], tag[16], want_tag[16];
                size_t aad_len = len % 40, before = len % 37 < len ? len % 37 : 0;
                struct hpl_gcm_key key;
                struct hpl_gcm gcm;
                fill(bytes, sizeof bytes);
                fill(nonce, sizeof nonce);
                openssl_seal(bytes, nonce, in, aad_len, in, len, want, want_tag);
                hpl_gcm_set_key(&key, kernels[k], bytes, 32);
                for (int is_open = 0; is_open < 2; is_open++) {
                    memcpy(out, is_open ? want : in, len);
                    hpl_gcm_start(&gcm, &key, is_open, nonce, 12);
                    EXPECT(hpl_gcm_aad(&gcm, in, aad_len) && hpl_gcm_update(&gcm, out, out, before) &&
                           hpl_gcm_update_split(&gcm, &crew, out + before, out + before, len - before));
                    hpl_gcm_finish(&gcm, tag);
                    EXPECT_BYTES(out, is_open ? in : want, len);
                    EXPECT_BYTES(tag, want_tag, 16);
                }
            }
        }
    }
    free(in);
    free(want);
    free(out);
}

HPL_TEST(slices_agree_where_the_counter_wraps)
{
    size_t count, num_slices;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    uint8_t bytes[32], in[16 * 64 + 5], want[sizeof in], out[sizeof in], tag[16], want_tag[16];
    fill(bytes, sizeof bytes);
    fill(in, sizeof in);
    for (size_t k = 0; k < count; k++) {
        for (uint8_t before = 0; before < 64; before++) {
            const struct hpl_gcm_crew crew = {run_backwards, &num_slices, 7};
            struct hpl_gcm_key key;
            struct hpl_gcm whole, split;
            hpl_gcm_set_key(&key, kernels[k], bytes, 32);
            hpl_gcm_start(&whole, &key, false, bytes, 12);
            memset(whole.counter + 12, 0xff, 4);
            whole.counter[15] = (uint8_t)(0xff - before);
            split = whole;
            EXPECT(hpl_gcm_update(&whole, in, want, sizeof in) && hpl_gcm_update_split(&split, &crew, in, out, sizeof in));
            EXPECT_NUM(num_slices, 10);
            EXPECT_BYTES(split.counter, whole.counter, 16);
            hpl_gcm_finish(&whole, want_tag);
            hpl_gcm_finish(&split, tag);
            EXPECT_BYTES(out, want, sizeof in);
            EXPECT_BYTES(tag, want_tag, 16);
        }
    }
}

HPL_TEST(a_split_past_the_limit_is_refused_and_never_are_there_more_slices_than_places)
{
    size_t num_slices = 0;
    const struct hpl_gcm_crew crew = {run_backwards, &num_slices, 1};
    struct hpl_gcm_key key;
    struct hpl_gcm gcm;
    uint8_t bytes[32] = {0}, *text = allocate(16 * 1000);
    hpl_gcm_set_key(&key, hpl_gcm_kernel(), bytes, 32);
    hpl_gcm_start(&gcm, &key, false, bytes, 12);
    EXPECT(hpl_gcm_update_split(&gcm, &crew, text, text, 16 * 1000));
    EXPECT(num_slices > 100 && num_slices <= 256);
    gcm.len = HPL_GCM_MAX_DATA - 15;
    EXPECT(!hpl_gcm_update_split(&gcm, &crew, text, text, 16));
    EXPECT(hpl_gcm_update_split(&gcm, &crew, text, text, 15));
    free(text);
}

struct message {
    struct hpl_aead_key *key;
    uint8_t bytes[32], nonce[12], aad[100], tag[16], want_tag[16];
    uint8_t *in, *want, *out;
};

static struct message new_message(void)
{
    struct message m = {.in = allocate(ROOM + 64), .want = allocate(ROOM + 64), .out = allocate(ROOM + 64)};
    fill(m.bytes, sizeof m.bytes);
    fill(m.nonce, sizeof m.nonce);
    fill(m.aad, sizeof m.aad);
    EXPECT_OK(hpl_aead_key_new(NULL, &m.key, m.bytes, 32));
    return m;
}

static void free_message(struct message *m)
{
    hpl_aead_key_free(m->key);
    free(m->in);
    free(m->want);
    free(m->out);
}

/* Lengths below, at and above the threshold, and some that give odd numbers of slices with a short first one. */
static const size_t lens[] = {0, 1, 1000, MIN - 1, MIN, MIN + 1, MIN + 15, MIN + 16, MIN + 17, MIN + MIN / 4, 2 * MIN - 16, 3 * MIN + 4099, ROOM};

HPL_TEST(over_workers_the_message_is_what_openssl_makes_apart_unaligned_and_in_place)
{
    struct message m = new_message();
    struct hpl_work *work = NULL;
    EXPECT_OK(hpl_work_start(NULL, &work, 3));
    for (size_t i = 0; i < HPL_COUNT(lens); i++) {
        size_t len = lens[i], in_at = i % 3, out_at = i * 5 % 19;
        struct hpl_bytes aad = hpl_bytes(m.aad, i * 9 % 100);
        openssl_seal(m.bytes, m.nonce, aad.data, aad.len, m.in + in_at, len, m.want, m.want_tag);
        m.out[out_at + len] = 0x5a;
        hpl_aead_seal_split(work, m.key, m.nonce, aad, m.in + in_at, len, m.out + out_at, m.tag);
        EXPECT(m.out[out_at + len] == 0x5a);
        EXPECT_BYTES(m.out + out_at, m.want, len);
        EXPECT_BYTES(m.tag, m.want_tag, 16);
        EXPECT_OK(hpl_aead_open_split(work, m.key, m.nonce, aad, m.out + out_at, len, m.out + out_at, m.tag));
        EXPECT_BYTES(m.out + out_at, m.in + in_at, len);
        hpl_aead_seal_split(work, m.key, m.nonce, aad, m.out + out_at, len, m.out + out_at, m.tag);
        EXPECT_BYTES(m.out + out_at, m.want, len);
        EXPECT_BYTES(m.tag, m.want_tag, 16);
    }
    hpl_work_stop(work);
    free_message(&m);
}

HPL_TEST(no_workers_and_one_worker_give_the_same)
{
    struct message m = new_message();
    struct hpl_work *one = NULL;
    size_t len = MIN + 33;
    EXPECT_OK(hpl_work_start(NULL, &one, 1));
    openssl_seal(m.bytes, m.nonce, m.aad, 20, m.in, len, m.want, m.want_tag);
    for (int i = 0; i < 2; i++) {
        hpl_aead_seal_split(i ? one : NULL, m.key, m.nonce, hpl_bytes(m.aad, 20), m.in, len, m.out, m.tag);
        EXPECT_BYTES(m.out, m.want, len);
        EXPECT_BYTES(m.tag, m.want_tag, 16);
    }
    hpl_work_stop(one);
    free_message(&m);
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t sum = 0;
    for (size_t i = 0; i < len; i++)
        sum |= bytes[i];
    return sum == 0;
}

HPL_TEST(what_was_changed_in_any_slice_tag_or_aad_is_refused_and_the_output_zeroed)
{
    struct message m = new_message();
    struct hpl_work *work = NULL;
    size_t len = 2 * MIN + 77;
    EXPECT_OK(hpl_work_start(NULL, &work, 2));
    hpl_aead_seal_split(work, m.key, m.nonce, hpl_bytes(m.aad, 30), m.in, len, m.want, m.tag);
    for (size_t at = 0; at < len; at += MIN / 4 - 3) {
        m.want[at] ^= 0x10;
        EXPECT_STATUS(hpl_aead_open_split(work, m.key, m.nonce, hpl_bytes(m.aad, 30), m.want, len, m.out, m.tag), HPL_INVALID_CIPHERTEXT);
        EXPECT(is_zero(m.out, len));
        m.want[at] ^= 0x10;
    }
    m.tag[15] ^= 1;
    EXPECT_STATUS(hpl_aead_open_split(work, m.key, m.nonce, hpl_bytes(m.aad, 30), m.want, len, m.out, m.tag), HPL_INVALID_CIPHERTEXT);
    m.tag[15] ^= 1;
    EXPECT_STATUS(hpl_aead_open_split(work, m.key, m.nonce, hpl_bytes(m.aad, 29), m.want, len, m.out, m.tag), HPL_INVALID_CIPHERTEXT);
    EXPECT_OK(hpl_aead_open_split(work, m.key, m.nonce, hpl_bytes(m.aad, 30), m.want, len, m.out, m.tag));
    EXPECT_BYTES(m.out, m.in, len);
    EXPECT_STATUS(hpl_aead_open_split(work, m.key, m.nonce, hpl_bytes(m.aad, 29), m.want, len, m.want, m.tag), HPL_INVALID_CIPHERTEXT);
    EXPECT(is_zero(m.want, len));
    hpl_work_stop(work);
    free_message(&m);
}
