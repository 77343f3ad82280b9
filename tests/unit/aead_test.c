/* Does the seam above the kernels give AES-GCM, refuse what is not right, and leave nothing behind? */
#include "tests/test.h"

#include <pthread.h>
#include <stdlib.h>
#include <openssl/rand.h>

#include "base/secret.h"
#include "engine/aead.h"

static struct hpl_aead_key *new_key(size_t len)
{
    static const uint8_t bytes[32] = {1, 2, 3};
    struct hpl_aead_key *key = NULL;
    EXPECT_OK(hpl_aead_key_new(NULL, &key, bytes, len));
    return key;
}

HPL_TEST(sealing_gives_the_specifications_answer)
{
    /* McGrew and Viega's test case 14: a zero AES-256 key, nonce and block. */
    static const uint8_t zero[32], want[16] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e, 0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18};
    static const uint8_t want_tag[16] = {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0, 0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
    struct hpl_aead_key *key;
    uint8_t out[16], tag[16];
    EXPECT_OK(hpl_aead_key_new(NULL, &key, zero, 32));
    hpl_aead_seal(key, zero, hpl_bytes(NULL, 0), zero, 16, out, tag);
    EXPECT_BYTES(out, want, 16);
    EXPECT_BYTES(tag, want_tag, 16);
    hpl_aead_key_free(key);
}

HPL_TEST(what_was_sealed_opens_in_place_and_apart_at_every_key_length)
{
    static uint8_t plain[70000], sealed[70000], opened[70000];
    static const size_t lens[] = {0, 1, 15, 16, 17, 255, 4096, 65536, 69999};
    uint8_t nonce[12] = {9}, tag[16];
    RAND_bytes(plain, sizeof plain);
    for (size_t key_len = 16; key_len <= 32; key_len += 8)
        for (size_t i = 0; i < HPL_COUNT(lens); i++) {
            struct hpl_aead_key *key = new_key(key_len);
            hpl_aead_seal(key, nonce, hpl_bytes_str("context"), plain, lens[i], sealed, tag);
            EXPECT_OK(hpl_aead_open(key, nonce, hpl_bytes_str("context"), sealed, lens[i], opened, tag));
            EXPECT_BYTES(opened, plain, lens[i]);
            EXPECT_OK(hpl_aead_open(key, nonce, hpl_bytes_str("context"), sealed, lens[i], sealed, tag));
            EXPECT_BYTES(sealed, plain, lens[i]);
            hpl_aead_key_free(key);
        }
}

/* Opening must fail, and leave zeroes. */
static void expect_refused(const struct hpl_aead_key *key, const uint8_t *nonce, const char *aad, const uint8_t *in, size_t len, const uint8_t *tag)
{
    static const uint8_t zero[100];
    uint8_t out[100];
    memset(out, 0xaa, sizeof out);
    EXPECT_STATUS(hpl_aead_open(key, nonce, hpl_bytes_str(aad), in, len, out, tag), HPL_INVALID_CIPHERTEXT);
    EXPECT_BYTES(out, zero, len);
}

HPL_TEST(any_changed_bit_is_refused_and_the_output_zeroed)
{
    struct hpl_aead_key *key = new_key(32), *other = new_key(16);
    uint8_t plain[100] = {5}, sealed[100], nonce[12] = {0}, tag[16];
    hpl_aead_seal(key, nonce, hpl_bytes_str("context"), plain, 100, sealed, tag);
    for (size_t bit = 0; bit < 8 * sizeof tag; bit++) {
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_refused(key, nonce, "context", sealed, 100, tag);
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < 8 * sizeof sealed; bit++) {
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_refused(key, nonce, "context", sealed, 100, tag);
        sealed[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t bit = 0; bit < 8 * sizeof nonce; bit++) {
        nonce[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_refused(key, nonce, "context", sealed, 100, tag);
        nonce[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    expect_refused(key, nonce, "contexT", sealed, 100, tag);
    expect_refused(key, nonce, "context ", sealed, 100, tag);
    expect_refused(key, nonce, "", sealed, 100, tag);
    expect_refused(key, nonce, "context", sealed, 99, tag);
    expect_refused(other, nonce, "context", sealed, 100, tag);
    EXPECT_OK(hpl_aead_open(key, nonce, hpl_bytes_str("context"), sealed, 100, sealed, tag));
    hpl_aead_key_free(key);
    hpl_aead_key_free(other);
}

HPL_TEST(keys_live_in_secret_memory_and_give_it_back)
{
    size_t before = hpl_secret_in_use();
    struct hpl_aead_key *key = new_key(32);
    EXPECT(hpl_secret_in_use() > before);
    hpl_aead_key_free(key);
    hpl_aead_key_free(NULL);
    EXPECT_NUM(hpl_secret_in_use(), before);
}

#define MANY_THREADS 48u
#define MOST_FOR_TABLES (32u * 8192u)

struct crowd {
    struct hpl_aead_key *key;
    pthread_barrier_t sealed, looked;
};

static void *seal_and_stay(void *arg)
{
    static const uint8_t nonce[12];
    struct crowd *crowd = arg;
    uint8_t *bytes = calloc(1, 65536), tag[16];
    hpl_aead_seal(crowd->key, nonce, (struct hpl_bytes){0}, bytes, 65536, bytes, tag);
    pthread_barrier_wait(&crowd->sealed);
    pthread_barrier_wait(&crowd->looked);
    free(bytes);
    return NULL;
}

HPL_TEST(however_many_threads_seal_long_messages_the_secret_region_does_not_fill)
{
    struct crowd crowd = {.key = new_key(32)};
    pthread_t threads[MANY_THREADS];
    size_t before = hpl_secret_in_use();
    pthread_barrier_init(&crowd.sealed, NULL, MANY_THREADS + 1);
    pthread_barrier_init(&crowd.looked, NULL, MANY_THREADS + 1);
    for (size_t i = 0; i < MANY_THREADS; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, seal_and_stay, &crowd), 0);
    pthread_barrier_wait(&crowd.sealed);
    EXPECT(hpl_secret_in_use() - before <= MOST_FOR_TABLES);
    pthread_barrier_wait(&crowd.looked);
    for (size_t i = 0; i < MANY_THREADS; i++)
        pthread_join(threads[i], NULL);
    EXPECT_NUM(hpl_secret_in_use(), before);
    pthread_barrier_destroy(&crowd.sealed);
    pthread_barrier_destroy(&crowd.looked);
    hpl_aead_key_free(crowd.key);
}

HPL_TEST(a_full_secret_region_is_an_error_not_a_crash)
{
    static struct hpl_aead_key *keys[4096];
    size_t count = 0;
    struct hpl_call call = {0};
    while (count < HPL_COUNT(keys) && hpl_aead_key_new(&call, &keys[count], (const uint8_t[32]){0}, 32) == HPL_OK)
        count++;
    EXPECT(count > 0 && count < HPL_COUNT(keys));
    EXPECT(keys[count] == NULL && call.detail[0]);
    while (count)
        hpl_aead_key_free(keys[--count]);
}
