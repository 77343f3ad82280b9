/* Our provider under EVP and under TLS, beside OpenSSL's own. */
#include "tests/test.h"

#include <string.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include "engine/provider/builtin.h"
#include "engine/provider/cipher.h"
#include "engine/provider/provider.h"

#define MAX_LEN 5000

struct message {
    const char *name;
    uint8_t key[32], iv[64], aad[100], in[MAX_LEN];
    size_t iv_len, aad_len, len;
};

static size_t below(size_t limit)
{
    uint32_t word;
    EXPECT(RAND_bytes((uint8_t *)&word, sizeof word) == 1);
    return word % limit;
}

static void make_message(struct message *message)
{
    static const char *const names[] = {"AES-128-GCM", "AES-192-GCM", "AES-256-GCM"};
    EXPECT(RAND_bytes((uint8_t *)message, sizeof *message) == 1);
    message->name = names[below(3)];
    message->iv_len = below(2) ? 12 : 1 + below(64);
    message->aad_len = below(below(2) ? 21 : 101);
    message->len = below(below(2) ? 601 : MAX_LEN + 1);
}

static EVP_CIPHER *fetch(OSSL_LIB_CTX *libctx, const char *name)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(libctx, name, NULL);
    EXPECT(cipher != NULL);
    return cipher;
}

static EVP_CIPHER_CTX *start(OSSL_LIB_CTX *libctx, const struct message *message, int is_seal)
{
    EVP_CIPHER *cipher = fetch(libctx, message->name);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int len;
    EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, NULL, NULL, is_seal), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, (int)message->iv_len, NULL), 1);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, message->key, message->iv, is_seal), 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, NULL, &len, message->aad, (int)message->aad_len), 1);
    EVP_CIPHER_free(cipher);
    return ctx;
}

/* The bytes from at on, in pieces of random length. */
static void feed(EVP_CIPHER_CTX *ctx, const uint8_t *in, uint8_t *out, size_t at, size_t len)
{
    int written;
    while (at < len) {
        size_t piece = 1 + below(len - at);
        EXPECT_NUM(EVP_CipherUpdate(ctx, out + at, &written, in + at, (int)piece), 1);
        EXPECT_NUM(written, piece);
        at += piece;
    }
}

static void end_seal(EVP_CIPHER_CTX *ctx, uint8_t tag[16])
{
    int written;
    EXPECT_NUM(EVP_CipherFinal_ex(ctx, NULL, &written), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, tag), 1);
    EVP_CIPHER_CTX_free(ctx);
}

static void seal(OSSL_LIB_CTX *libctx, const struct message *message, uint8_t *out, uint8_t tag[16])
{
    EVP_CIPHER_CTX *ctx = start(libctx, message, 1);
    feed(ctx, message->in, out, 0, message->len);
    end_seal(ctx, tag);
}

/* The tag comes after the data. */
static int open_all(OSSL_LIB_CTX *libctx, const struct message *message, const uint8_t *in, uint8_t *out, uint8_t *tag, size_t tag_len)
{
    EVP_CIPHER_CTX *ctx = start(libctx, message, 0);
    int written;
    feed(ctx, in, out, 0, message->len);
    EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, (int)tag_len, tag), 1);
    int is_right = EVP_CipherFinal_ex(ctx, NULL, &written);
    EVP_CIPHER_CTX_free(ctx);
    return is_right;
}

HPL_TEST(aes_gcm_comes_from_hardplate_and_the_rest_from_default)
{
    EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), "AES-256-GCM"), *other = fetch(hpl_provider_libctx(), "AES-256-CBC");
    EXPECT_TEXT(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(cipher)), "hardplate");
    EXPECT_TEXT(OSSL_PROVIDER_get0_name(EVP_CIPHER_get0_provider(other)), "default");
    EXPECT_NUM(EVP_CIPHER_is_a(cipher, "id-aes256-GCM"), 1);
    EXPECT_NUM(EVP_CIPHER_get_nid(cipher), NID_aes_256_gcm);
    EXPECT_NUM(EVP_CIPHER_get_mode(cipher), EVP_CIPH_GCM_MODE);
    EXPECT(EVP_CIPHER_get_flags(cipher) & EVP_CIPH_FLAG_AEAD_CIPHER && EVP_CIPHER_get_flags(cipher) & EVP_CIPH_CUSTOM_IV);
    EXPECT_NUM(OSSL_PROVIDER_self_test(EVP_CIPHER_get0_provider(cipher)), 1);
    EVP_CIPHER_free(cipher);
    EVP_CIPHER_free(other);
}

HPL_TEST(both_providers_give_the_same_bytes_and_open_each_other)
{
    static struct message message;
    static uint8_t ours[MAX_LEN], theirs[MAX_LEN], opened[MAX_LEN];
    for (int round = 0; round < 600; round++) {
        uint8_t tag[16], their_tag[16];
        make_message(&message);
        seal(hpl_provider_libctx(), &message, ours, tag);
        seal(NULL, &message, theirs, their_tag);
        EXPECT_BYTES(ours, theirs, message.len);
        EXPECT_BYTES(tag, their_tag, 16);
        EXPECT_NUM(open_all(hpl_provider_libctx(), &message, theirs, opened, their_tag, 16), 1);
        EXPECT_BYTES(opened, message.in, message.len);
        EXPECT_NUM(open_all(NULL, &message, ours, opened, tag, 16), 1);
    }
}

HPL_TEST(a_wrong_tag_or_none_is_refused_and_a_short_right_one_is_not)
{
    static struct message message;
    static uint8_t sealed[MAX_LEN], opened[MAX_LEN];
    uint8_t tag[16];
    int len;
    make_message(&message);
    seal(hpl_provider_libctx(), &message, sealed, tag);
    EXPECT_NUM(open_all(hpl_provider_libctx(), &message, sealed, opened, tag, 12), 1);
    EVP_CIPHER_CTX *ctx = start(hpl_provider_libctx(), &message, 0);
    EXPECT(EVP_CipherFinal_ex(ctx, NULL, &len) <= 0);
    EVP_CIPHER_CTX_free(ctx);
    for (int bit = 0; bit < 128; bit++) {
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
        EXPECT(open_all(hpl_provider_libctx(), &message, sealed, opened, tag, 16) <= 0);
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

HPL_TEST(a_context_copied_in_mid_message_goes_on_alone)
{
    static struct message message;
    static uint8_t want[MAX_LEN], got[MAX_LEN];
    for (int round = 0; round < 50; round++) {
        uint8_t tag[16], copied_tag[16];
        make_message(&message);
        size_t half = below(message.len + 1);
        EVP_CIPHER_CTX *ctx = start(hpl_provider_libctx(), &message, 1), *copy = EVP_CIPHER_CTX_new();
        feed(ctx, message.in, got, 0, half);
        EXPECT_NUM(EVP_CIPHER_CTX_copy(copy, ctx), 1);
        feed(ctx, message.in, want, half, message.len);
        end_seal(ctx, tag);
        feed(copy, message.in, got, half, message.len);
        end_seal(copy, copied_tag);
        EXPECT_BYTES(copied_tag, tag, 16);
        EXPECT_BYTES(got + half, want + half, message.len - half);
        seal(NULL, &message, want, tag);
        EXPECT_BYTES(copied_tag, tag, 16);
    }
}

HPL_TEST(a_message_that_ended_takes_nothing_more_until_another_iv_comes)
{
    static struct message message;
    uint8_t byte = 0, iv[12];
    int len;
    make_message(&message);
    message.iv_len = 12;
    EVP_CIPHER_CTX *ctx = start(hpl_provider_libctx(), &message, 1);
    EXPECT_NUM(EVP_CIPHER_CTX_get_updated_iv(ctx, iv, sizeof iv), 1);
    EXPECT_BYTES(iv, message.iv, sizeof iv);
    EXPECT_NUM(EVP_CipherFinal_ex(ctx, NULL, &len), 1);
    EXPECT(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1) <= 0);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, NULL, message.iv, -1), 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1), 1);
    EVP_CIPHER_CTX_free(ctx);
}

HPL_TEST(a_message_begun_is_not_begun_again_under_its_key_and_iv)
{
    static struct message message;
    uint8_t byte = 0;
    int len;
    make_message(&message);
    message.iv_len = 12;
    EVP_CIPHER_CTX *ctx = start(hpl_provider_libctx(), &message, 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1), 1);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, message.key, NULL, 1), 1);
    EXPECT(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1) <= 0);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, message.key, message.iv, 1), 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1), 1);
    message.key[0] ^= 1;
    EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, message.key, NULL, 1), 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1), 1);
    EVP_CIPHER_CTX_free(ctx);
}

HPL_TEST(an_iv_too_short_to_count_in_is_not_counted_up)
{
    static struct message message;
    uint8_t iv[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, got[8];
    make_message(&message);
    for (int len = 4; len <= 8; len += 4) {
        EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), "AES-256-GCM");
        EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
        EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, NULL, NULL, 1), 1);
        EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, len, NULL), 1);
        EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, message.key, NULL, 1), 1);
        EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_IV_FIXED, -1, iv), 1);
        EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_IV_GEN, len, got) > 0, len == 8);
        EVP_CIPHER_CTX_free(ctx);
        EVP_CIPHER_free(cipher);
    }
}

/* Short, so that it may be run whole, and long. */
HPL_TEST(a_message_under_a_generated_iv_is_sealed_under_the_one_that_was_told)
{
    static const int lens[] = {1, 20, 1024, 1025};
    static struct message message;
    static uint8_t ours[MAX_LEN], theirs[MAX_LEN];
    uint8_t tag[16], want[16];
    int done;
    make_message(&message);
    message.iv_len = 12;
    message.aad_len = 5;
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), message.name);
        EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
        EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, message.key, NULL, 1), 1);
        EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_IV_FIXED, 4, message.iv), 1);
        EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_IV_GEN, 12, message.iv), 1);
        EXPECT_NUM(EVP_CipherUpdate(ctx, NULL, &done, message.aad, 5), 1);
        EXPECT_NUM(EVP_CipherUpdate(ctx, ours, &done, message.in, lens[i]), 1);
        end_seal(ctx, tag);
        EVP_CIPHER_free(cipher);
        message.len = (size_t)lens[i];
        seal(NULL, &message, theirs, want);
        EXPECT_BYTES(ours, theirs, message.len);
        EXPECT_BYTES(tag, want, 16);
    }
}

HPL_TEST(no_iv_of_less_than_96_bits_is_made_at_random)
{
    static struct message message;
    uint8_t byte = 0;
    int len;
    make_message(&message);
    for (int iv_len = 1; iv_len <= 16; iv_len++) {
        EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), message.name);
        EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
        EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, message.key, NULL, 1), 1);
        EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, iv_len, NULL), 1);
        EXPECT_NUM(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1) > 0, iv_len >= 12);
        EVP_CIPHER_CTX_free(ctx);
        EVP_CIPHER_free(cipher);
    }
}

/* OpenSSH's calls: the whole IV is given once, both ends generate it on, and one byte of it is asked for. */
static int crypt_packet(EVP_CIPHER_CTX *ctx, const uint8_t *in, uint8_t *out, int len, uint8_t tag[16], int is_seal)
{
    uint8_t last;
    if (EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_IV_GEN, 1, &last) != 1 || (!is_seal && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, 16, tag) != 1))
        return 0;
    if (EVP_Cipher(ctx, NULL, in, 4) < 0 || EVP_Cipher(ctx, out, in + 4, (unsigned)len) < 0 || EVP_Cipher(ctx, NULL, NULL, 0) < 0)
        return 0;
    return !is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, 16, tag) == 1;
}

static EVP_CIPHER_CTX *start_packets(OSSL_LIB_CTX *libctx, const struct message *message, int is_seal)
{
    EVP_CIPHER *cipher = fetch(libctx, "AES-256-GCM");
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    EXPECT_NUM(EVP_CipherInit(ctx, cipher, NULL, message->iv, is_seal), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_IV_FIXED, -1, (void *)message->iv), 1);
    EXPECT_NUM(EVP_CipherInit(ctx, NULL, message->key, NULL, -1), 1);
    EVP_CIPHER_free(cipher);
    return ctx;
}

HPL_TEST(packets_of_openssh_go_from_either_provider_to_the_other)
{
    static const int lens[] = {16, 32, 1024, 1040, 4096, 16};
    static struct message message;
    static uint8_t sealed[MAX_LEN], opened[MAX_LEN];
    uint8_t tag[16];
    make_message(&message);
    for (int is_ours = 0; is_ours < 2; is_ours++) {
        EVP_CIPHER_CTX *from = start_packets(is_ours ? hpl_provider_libctx() : NULL, &message, 1);
        EVP_CIPHER_CTX *to = start_packets(is_ours ? NULL : hpl_provider_libctx(), &message, 0);
        for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
            memcpy(sealed, message.in, 4);
            EXPECT_NUM(crypt_packet(from, message.in, sealed + 4, lens[i], tag, 1), 1);
            EXPECT_NUM(crypt_packet(to, sealed, opened, lens[i], tag, 0), 1);
            EXPECT_BYTES(opened, message.in + 4, (size_t)lens[i]);
        }
        EVP_CIPHER_CTX_free(from);
        EVP_CIPHER_CTX_free(to);
    }
}

static void has_all_of(const OSSL_PARAM *ours, const OSSL_PARAM *theirs)
{
    for (; theirs->key; theirs++)
        EXPECT(OSSL_PARAM_locate_const(ours, theirs->key) != NULL);
}

HPL_TEST(every_parameter_of_openssls_own_is_there)
{
    int cts = -1, multi_block = -1, rand_key = -1;
    OSSL_PARAM asked[] = {OSSL_PARAM_int(OSSL_CIPHER_PARAM_CTS, &cts), OSSL_PARAM_int(OSSL_CIPHER_PARAM_TLS1_MULTIBLOCK, &multi_block),
                          OSSL_PARAM_int(OSSL_CIPHER_PARAM_HAS_RAND_KEY, &rand_key), OSSL_PARAM_END};
    EVP_CIPHER *ours = fetch(hpl_provider_libctx(), "AES-256-GCM"), *theirs = fetch(NULL, "AES-256-GCM");
    has_all_of(EVP_CIPHER_gettable_params(ours), EVP_CIPHER_gettable_params(theirs));
    has_all_of(EVP_CIPHER_gettable_ctx_params(ours), EVP_CIPHER_gettable_ctx_params(theirs));
    has_all_of(EVP_CIPHER_settable_ctx_params(ours), EVP_CIPHER_settable_ctx_params(theirs));
    EXPECT_NUM(EVP_CIPHER_get_params(ours, asked), 1);
    EXPECT_NUM(cts | multi_block | rand_key, 0);
    EVP_CIPHER_free(ours);
    EVP_CIPHER_free(theirs);
}

HPL_TEST(whether_an_iv_was_made_is_told)
{
    static struct message message;
    uint8_t byte = 0;
    unsigned is_made = 9;
    OSSL_PARAM asked[] = {OSSL_PARAM_uint("iv-generated", &is_made), OSSL_PARAM_END};
    int len;
    make_message(&message);
    EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), message.name);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, message.key, NULL, 1), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_get_params(ctx, asked) && is_made == 0, 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, &byte, &len, &byte, 1), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_get_params(ctx, asked) && is_made == 1, 1);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, NULL, NULL, NULL, message.iv, 1), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_get_params(ctx, asked) && is_made == 0, 1);
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(cipher);
}

/* Why a call of EVP_CIPHER_CTX_ctrl is refused, by the provider of libctx. */
static int reason_of(OSSL_LIB_CTX *libctx, int is_seal, int control, int arg)
{
    static struct message message = {.name = "AES-256-GCM", .iv_len = 12};
    uint8_t bytes[64] = {0};
    EVP_CIPHER_CTX *ctx = start(libctx, &message, is_seal);
    ERR_clear_error();
    EXPECT(EVP_CIPHER_CTX_ctrl(ctx, control, arg, bytes) <= 0);
    int reason = ERR_GET_REASON(ERR_peek_last_error());
    EVP_CIPHER_CTX_free(ctx);
    return reason;
}

HPL_TEST(a_refusal_has_the_reason_that_openssls_own_gives)
{
    static const struct { int is_seal, control, arg; } refused[] = {
        {1, EVP_CTRL_AEAD_SET_TAG, 16},    {0, EVP_CTRL_AEAD_SET_TAG, 0},      {0, EVP_CTRL_AEAD_GET_TAG, 16},   {1, EVP_CTRL_AEAD_GET_TAG, 16},
        {1, EVP_CTRL_AEAD_SET_IVLEN, 129}, {1, EVP_CTRL_AEAD_TLS1_AAD, 12},    {0, EVP_CTRL_AEAD_TLS1_AAD, 13},  {1, EVP_CTRL_GCM_SET_IV_FIXED, 3},
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        int ours = reason_of(hpl_provider_libctx(), refused[i].is_seal, refused[i].control, refused[i].arg);
        EXPECT_NUM(ours, reason_of(NULL, refused[i].is_seal, refused[i].control, refused[i].arg));
    }
}

/* A zero block sealed under the message's key, in a context that may have another key already. */
static void seal_block(EVP_CIPHER_CTX *ctx, const EVP_CIPHER *cipher, const struct message *message, uint8_t block[16])
{
    int len;
    memset(block, 0, 16);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, message->key, message->iv, 1), 1);
    EXPECT_NUM(EVP_CipherUpdate(ctx, block, &len, block, 16), 1);
    EXPECT_NUM(EVP_CipherFinal_ex(ctx, NULL, &len), 1);
}

HPL_TEST(another_key_in_the_same_context_counts_whichever_byte_of_it_changed)
{
    static const char *const names[] = {"AES-128-GCM", "AES-192-GCM", "AES-256-GCM"};
    static struct message message;
    uint8_t ours[16], theirs[16];
    make_message(&message);
    for (size_t i = 0; i < 3; i++) {
        EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), names[i]), *other = fetch(NULL, names[i]);
        EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new(), *fresh;
        for (size_t changed = 0; changed < 16 + 8 * i; changed++)
            for (int times = 0; times < 2; times++) { /* the second time it is the same key again */
                message.key[changed] ^= times ? 0 : 1u << changed % 8;
                seal_block(ctx, changed ? NULL : cipher, &message, ours);
                seal_block(fresh = EVP_CIPHER_CTX_new(), other, &message, theirs);
                EXPECT_BYTES(ours, theirs, 16);
                EVP_CIPHER_CTX_free(fresh);
            }
        EVP_CIPHER_CTX_free(ctx);
        EVP_CIPHER_free(cipher);
        EVP_CIPHER_free(other);
    }
}

#define NUM_PIPES 5

/* The provider's functions for many messages at once, as OpenSSL 3.5 finds them. An older one does not call them, so this test does. */
struct pipeline {
    void *(*new_ctx)(void *provider);
    void (*free_ctx)(void *ctx);
    void *(*dup_ctx)(void *ctx);
    int (*init[2])(void *ctx, const unsigned char *key, size_t key_len, size_t count, const unsigned char **iv, size_t iv_len, const OSSL_PARAM *params);
    int (*update)(void *ctx, size_t count, unsigned char **out, size_t *out_len, const size_t *out_size, const unsigned char **in, const size_t *len);
    int (*final)(void *ctx, size_t count, unsigned char **out, size_t *out_len, const size_t *out_size);
    int (*get)(void *ctx, OSSL_PARAM *params);
    int (*set)(void *ctx, const OSSL_PARAM *params);
};

static void find_pipeline(struct pipeline *found, const OSSL_DISPATCH *functions)
{
    static const struct {
        int id;
        size_t at;
    } wanted[] = {
        {OSSL_FUNC_CIPHER_NEWCTX, offsetof(struct pipeline, new_ctx)},
        {OSSL_FUNC_CIPHER_FREECTX, offsetof(struct pipeline, free_ctx)},
        {OSSL_FUNC_CIPHER_DUPCTX, offsetof(struct pipeline, dup_ctx)},
        {OSSL_FUNC_CIPHER_GET_CTX_PARAMS, offsetof(struct pipeline, get)},
        {OSSL_FUNC_CIPHER_SET_CTX_PARAMS, offsetof(struct pipeline, set)},
        {15, offsetof(struct pipeline, init[1])}, /* from here on OpenSSL 3.5 has names */
        {16, offsetof(struct pipeline, init[0])},
        {17, offsetof(struct pipeline, update)},
        {18, offsetof(struct pipeline, final)},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        const OSSL_DISPATCH *function = functions;
        while (function->function_id && function->function_id != wanted[i].id)
            function++;
        EXPECT_NUM(function->function_id, wanted[i].id);
        memcpy((char *)found + wanted[i].at, &function->function, sizeof function->function);
    }
}

struct side_by_side {
    struct message messages[NUM_PIPES];
    uint8_t out[NUM_PIPES][MAX_LEN], tags[NUM_PIPES][16];
    const unsigned char *iv[NUM_PIPES], *aad[NUM_PIPES], *in[NUM_PIPES];
    unsigned char *to[NUM_PIPES], *tag[NUM_PIPES];
    size_t aad_len[NUM_PIPES], len[NUM_PIPES], written[NUM_PIPES];
};

/* Messages of one key, and pointers to all of them. */
static void lay_out(struct side_by_side *all, const char *name)
{
    for (size_t i = 0; i < NUM_PIPES; i++) {
        struct message *message = &all->messages[i];
        make_message(message);
        message->name = name;
        message->iv_len = 12;
        memcpy(message->key, all->messages[0].key, sizeof message->key);
        all->iv[i] = message->iv, all->aad[i] = message->aad, all->in[i] = message->in;
        all->to[i] = all->out[i], all->tag[i] = all->tags[i];
        all->aad_len[i] = message->aad_len, all->len[i] = message->len;
    }
}

/* A part of each message; the pointers move on. */
static void update_by(const struct pipeline *pipeline, void *ctx, struct side_by_side *all, bool is_rest)
{
    size_t part[NUM_PIPES];
    for (size_t i = 0; i < NUM_PIPES; i++)
        part[i] = is_rest ? all->len[i] : below(all->len[i] + 1);
    EXPECT_NUM(pipeline->update(ctx, NUM_PIPES, all->to, all->written, part, all->in, part), 1);
    for (size_t i = 0; i < NUM_PIPES; i++) {
        EXPECT_NUM(all->written[i], part[i]);
        all->to[i] += part[i], all->in[i] += part[i], all->len[i] -= part[i];
    }
}

/* Runs all but the end. Half-way the context is copied, and the copy goes on. */
static void *run_side_by_side(const struct pipeline *pipeline, struct side_by_side *all, size_t key_len, int is_seal)
{
    static struct hpl_provider provider;
    void *ctx = pipeline->new_ctx(&provider), *copy;
    EXPECT(pipeline->init[is_seal](ctx, all->messages[0].key, key_len, NUM_PIPES, all->iv, 12, NULL) == 1);
    EXPECT(pipeline->update(ctx, NUM_PIPES + 1, all->to, all->written, all->len, all->in, all->len) == 0);
    EXPECT_NUM(pipeline->update(ctx, NUM_PIPES, NULL, all->written, NULL, all->aad, all->aad_len), 1);
    update_by(pipeline, ctx, all, false);
    copy = pipeline->dup_ctx(ctx);
    pipeline->free_ctx(ctx);
    update_by(pipeline, copy, all, true);
    return copy;
}

HPL_TEST(messages_side_by_side_are_sealed_as_each_alone)
{
    static struct side_by_side all;
    static uint8_t want[NUM_PIPES][MAX_LEN];
    for (size_t key = 0; key < 3; key++) {
        void *tags = all.tag;
        uint8_t want_tag[NUM_PIPES][16];
        OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_ptr("pipeline-tag", &tags, 16), OSSL_PARAM_construct_end()};
        struct pipeline pipeline;
        find_pipeline(&pipeline, hpl_provider_ciphers[key].implementation);
        lay_out(&all, (const char *[]){"AES-128-GCM", "AES-192-GCM", "AES-256-GCM"}[key]);
        for (size_t i = 0; i < NUM_PIPES; i++)
            seal(NULL, &all.messages[i], want[i], want_tag[i]);

        void *ctx = run_side_by_side(&pipeline, &all, 16 + 8 * key, 1);
        EXPECT_NUM(pipeline.final(ctx, NUM_PIPES, all.to, all.written, all.len), 1);
        EXPECT_NUM(pipeline.get(ctx, params), 1);
        for (size_t i = 0; i < NUM_PIPES; i++) {
            EXPECT_BYTES(all.out[i], want[i], all.messages[i].len);
            EXPECT_BYTES(all.tags[i], want_tag[i], 16);
        }
        pipeline.free_ctx(ctx);
    }
}

HPL_TEST(one_wrong_tag_side_by_side_is_refused)
{
    static struct side_by_side all;
    struct pipeline pipeline;
    void *tags = all.tag;
    OSSL_PARAM params[] = {OSSL_PARAM_construct_octet_ptr("pipeline-tag", &tags, 16), OSSL_PARAM_construct_end()};
    find_pipeline(&pipeline, hpl_provider_ciphers[2].implementation);
    for (size_t wrong = 0; wrong <= NUM_PIPES; wrong++) { /* the last time none is */
        static uint8_t sealed[NUM_PIPES][MAX_LEN];
        lay_out(&all, "AES-256-GCM");
        for (size_t i = 0; i < NUM_PIPES; i++) {
            seal(NULL, &all.messages[i], sealed[i], all.tags[i]);
            all.in[i] = sealed[i];
        }
        if (wrong < NUM_PIPES)
            all.tags[wrong][15] ^= 1;
        void *ctx = run_side_by_side(&pipeline, &all, 32, 0);
        EXPECT_NUM(pipeline.set(ctx, params), 1);
        EXPECT_NUM(pipeline.final(ctx, NUM_PIPES, all.to, all.written, all.len), wrong == NUM_PIPES);
        for (size_t i = 0; i < NUM_PIPES; i++)
            EXPECT_BYTES(all.out[i], all.messages[i].in, all.messages[i].len);
        pipeline.free_ctx(ctx);
    }
}

HPL_TEST(the_module_loads_into_a_fresh_context)
{
    OSSL_LIB_CTX *libctx = OSSL_LIB_CTX_new();
    const char *version = NULL;
    OSSL_PARAM params[] = {OSSL_PARAM_utf8_ptr(OSSL_PROV_PARAM_VERSION, &version, 0), OSSL_PARAM_END};
    EXPECT_NUM(OSSL_PROVIDER_set_default_search_path(libctx, HPL_BINARY_DIR "/lib/ossl-modules"), 1);
    OSSL_PROVIDER *provider = OSSL_PROVIDER_load(libctx, "hardplate");
    EXPECT(provider != NULL);
    EXPECT_NUM(OSSL_PROVIDER_get_params(provider, params), 1);
    EXPECT_TEXT(version, HPL_VERSION);
    static struct message message;
    static uint8_t ours[MAX_LEN], theirs[MAX_LEN];
    uint8_t tag[16], their_tag[16];
    make_message(&message);
    seal(libctx, &message, ours, tag);
    seal(NULL, &message, theirs, their_tag);
    EXPECT_BYTES(tag, their_tag, 16);
    OSSL_PROVIDER_unload(provider);
    OSSL_LIB_CTX_free(libctx);
}

static X509 *self_signed(EVP_PKEY *key)
{
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const uint8_t *)"localhost", -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    X509_set_pubkey(cert, key);
    EXPECT(X509_sign(cert, key, EVP_sha256()) > 0);
    return cert;
}

static SSL *endpoint(OSSL_LIB_CTX *libctx, int version, bool is_server)
{
    SSL_CTX *ctx = SSL_CTX_new_ex(libctx, NULL, is_server ? TLS_server_method() : TLS_client_method());
    EXPECT(ctx != NULL);
    EXPECT_NUM(SSL_CTX_set_min_proto_version(ctx, version), 1);
    EXPECT_NUM(SSL_CTX_set_max_proto_version(ctx, version), 1);
    EXPECT_NUM(SSL_CTX_set_cipher_list(ctx, "ECDHE-RSA-AES256-GCM-SHA384"), 1);
    EXPECT_NUM(SSL_CTX_set_ciphersuites(ctx, "TLS_AES_256_GCM_SHA384"), 1);
    if (is_server) {
        EVP_PKEY *key = EVP_PKEY_Q_keygen(libctx, NULL, "RSA", (size_t)2048);
        X509 *cert = self_signed(key);
        EXPECT_NUM(SSL_CTX_use_certificate(ctx, cert), 1);
        EXPECT_NUM(SSL_CTX_use_PrivateKey(ctx, key), 1);
        X509_free(cert);
        EVP_PKEY_free(key);
    }
    SSL *ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    is_server ? SSL_set_accept_state(ssl) : SSL_set_connect_state(ssl);
    return ssl;
}

/* Round and round until all of len bytes came out of the other end. */
static void pass_data(SSL *from, SSL *to, size_t len)
{
    static uint8_t in[100000], out[100000];
    size_t sent = 0, read = 0, n;
    EXPECT(RAND_bytes(in, (int)len) == 1);
    while (read < len) {
        size_t piece = 1 + below(len - sent + 1);
        if (sent < len && SSL_write_ex(from, in + sent, piece < len - sent ? piece : len - sent, &n) == 1)
            sent += n;
        if (SSL_read_ex(to, out + read, len - read, &n) == 1)
            read += n;
        else
            EXPECT_NUM(SSL_get_error(to, 0), SSL_ERROR_WANT_READ);
    }
    EXPECT_BYTES(out, in, len);
}

static void converse(int version, OSSL_LIB_CTX *server_libctx, OSSL_LIB_CTX *client_libctx)
{
    SSL *server = endpoint(server_libctx, version, true), *client = endpoint(client_libctx, version, false);
    BIO *one, *other;
    EXPECT_NUM(BIO_new_bio_pair(&one, 1 << 18, &other, 1 << 18), 1);
    SSL_set_bio(server, one, one);
    SSL_set_bio(client, other, other);
    for (int turn = 0; turn < 20 && !(SSL_is_init_finished(server) && SSL_is_init_finished(client)); turn++) {
        SSL_do_handshake(client);
        SSL_do_handshake(server);
    }
    EXPECT(SSL_is_init_finished(server) && SSL_is_init_finished(client));
    EXPECT_TEXT(SSL_get_cipher_name(client), version == TLS1_2_VERSION ? "ECDHE-RSA-AES256-GCM-SHA384" : "TLS_AES_256_GCM_SHA384");
    for (int round = 0; round < 20; round++) {
        pass_data(client, server, 1 + below(100000));
        pass_data(server, client, 1 + below(100000));
    }
    SSL_free(server);
    SSL_free(client);
}

HPL_TEST(tls_1_3_speaks_with_openssl_both_ways)
{
    converse(TLS1_3_VERSION, hpl_provider_libctx(), NULL);
    converse(TLS1_3_VERSION, NULL, hpl_provider_libctx());
}

HPL_TEST(tls_1_2_speaks_with_openssl_both_ways)
{
    converse(TLS1_2_VERSION, hpl_provider_libctx(), NULL);
    converse(TLS1_2_VERSION, NULL, hpl_provider_libctx());
}

/* A TLS 1.2 record in place, as libssl asks for it: fixed part of the nonce, header, then explicit nonce, payload and tag in one buffer. */
static int run_record(int is_seal, uint8_t *record, int len)
{
    static const uint8_t key[32] = {1}, fixed[4] = {2};
    uint8_t header[13] = {0, 0, 0, 0, 0, 0, 0, 0, 23, 3, 3, 0, 0};
    EVP_CIPHER *cipher = fetch(hpl_provider_libctx(), "AES-256-GCM");
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    header[12] = (uint8_t)(is_seal ? len - 16 : len);
    EXPECT_NUM(EVP_CipherInit_ex(ctx, cipher, NULL, key, NULL, is_seal), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_IV_FIXED, sizeof fixed, (void *)fixed), 1);
    EXPECT_NUM(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_TLS1_AAD, sizeof header, header), 16);
    int done = EVP_Cipher(ctx, record, record, (unsigned)len);
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_free(cipher);
    return done;
}

HPL_TEST(a_changed_tls_1_2_record_is_refused_and_leaves_nothing)
{
    enum { PAYLOAD = 40, RECORD = 8 + PAYLOAD + 16 };
    uint8_t sealed[RECORD], record[RECORD];
    memset(sealed, 'x', sizeof sealed);
    EXPECT(run_record(1, sealed, RECORD) > 0);
    memcpy(record, sealed, RECORD);
    EXPECT(run_record(0, record, RECORD) > 0);
    for (int i = 0; i < PAYLOAD; i++)
        EXPECT_NUM(record[8 + i], 'x');
    for (int at = 0; at < RECORD; at++) {
        memcpy(record, sealed, RECORD);
        record[at] ^= 1;
        EXPECT(run_record(0, record, RECORD) <= 0);
        for (int i = 0; i < PAYLOAD; i++)
            EXPECT_NUM(record[8 + i], 0);
    }
}
