/* AES-GCM as OpenSSL calls it: a context for EVP over engine/gcm, with TLS 1.2 records. Contexts are ordinary memory, wiped when freed; a context belongs to
 * one thread at a time. States and refusals are those of OpenSSL's default provider. */
#include "engine/provider/cipher.h"

#include <stdlib.h>
#include <string.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/proverr.h>
#include <openssl/rand.h>

#include "engine/gcm/gcm.h"
#include "engine/provider/provider.h"
#include "engine/provider/threads.h"

#define TAG_LEN 16u
#define IV_LEN 12u
#define MAX_IV_LEN 128u
#define EXPLICIT_LEN ((size_t)EVP_GCM_TLS_EXPLICIT_IV_LEN)
#define FIXED_LEN ((size_t)EVP_GCM_TLS_FIXED_IV_LEN)
#define TLS_AAD_LEN ((size_t)EVP_AEAD_TLS1_AAD_LEN)
#define SHORT_LEN 1024u /* bytes of a message that may be run whole */

/* Since OpenSSL 3.5; an older one passes over them, and a newer one finds them in a module that was built on an older one. */
#ifndef OSSL_FUNC_CIPHER_PIPELINE_ENCRYPT_INIT
#define OSSL_FUNC_CIPHER_PIPELINE_ENCRYPT_INIT 15
#define OSSL_FUNC_CIPHER_PIPELINE_DECRYPT_INIT 16
#define OSSL_FUNC_CIPHER_PIPELINE_UPDATE 17
#define OSSL_FUNC_CIPHER_PIPELINE_FINAL 18
#define OSSL_CIPHER_PARAM_PIPELINE_AEAD_TAG "pipeline-tag"
#endif
#ifndef OSSL_CIPHER_PARAM_AEAD_IV_GENERATED /* since 3.4 */
#define OSSL_CIPHER_PARAM_AEAD_IV_GENERATED "iv-generated"
#endif

enum iv_state {
    IV_NONE,     /* none given */
    IV_GIVEN,    /* given; the message has not begun */
    IV_IN_USE,   /* the message has begun */
    IV_FINISHED  /* used up: another must come first */
};

struct cipher_ctx {
    struct hpl_gcm_key key;
    struct hpl_gcm gcm; /* its key is the one above */
    uint8_t key_bytes[32]; /* what that key was made of */
    struct hpl_threads *threads; /* the provider's, which outlives its contexts; NULL: none */
    uint8_t iv[MAX_IV_LEN];
    uint8_t tag[TAG_LEN];
    uint8_t whole[SHORT_LEN]; /* ciphertext that was taken for the whole message */
    uint8_t whole_tag[TAG_LEN];
    size_t whole_len;         /* 0: none was */
    uint8_t tls_aad[TLS_AAD_LEN];
    size_t key_len, iv_len;
    size_t tag_len;     /* 0: none */
    size_t tls_aad_len; /* 0: no record is under way */
    size_t tls_pad;
    enum iv_state iv_state;
    bool is_seal, has_key;
    bool is_tls;        /* the IV has a fixed part and a counter */
    bool is_iv_made;    /* the IV is random, of our own making */
    struct cipher_ctx **pipes; /* of a pipeline: one context a message; NULL: none */
    size_t num_pipes;
};

static int refuse(int reason)
{
    ERR_raise(ERR_LIB_PROV, reason);
    return 0;
}

static void *new_ctx(struct hpl_threads *threads, size_t key_len)
{
    struct cipher_ctx *ctx = aligned_alloc(_Alignof(struct cipher_ctx), sizeof *ctx);
    if (!ctx) {
        refuse(ERR_R_MALLOC_FAILURE);
        return NULL;
    }
    memset(ctx, 0, sizeof *ctx);
    ctx->threads = threads;
    ctx->key_len = key_len;
    ctx->iv_len = IV_LEN;
    return ctx;
}

static OSSL_FUNC_cipher_freectx_fn free_ctx;
static void free_ctx(void *vctx)
{
    struct cipher_ctx *ctx = vctx;
    if (!ctx)
        return;
    for (size_t i = 0; i < ctx->num_pipes; i++)
        free_ctx(ctx->pipes[i]);
    free(ctx->pipes);
    OPENSSL_cleanse(ctx, sizeof *ctx);
    free(ctx);
}

static OSSL_FUNC_cipher_dupctx_fn dup_ctx;
static void *dup_ctx(void *vctx)
{
    struct cipher_ctx *from = vctx, *ctx = new_ctx(from->threads, from->key_len);
    if (!ctx)
        return NULL;
    memcpy(ctx, from, sizeof *ctx);
    ctx->gcm.key = &ctx->key;
    ctx->num_pipes = 0;
    ctx->pipes = NULL;
    if (from->num_pipes && !(ctx->pipes = calloc(from->num_pipes, sizeof(struct cipher_ctx *)))) {
        free_ctx(ctx);
        return NULL;
    }
    for (; ctx->num_pipes < from->num_pipes; ctx->num_pipes++)
        if (!(ctx->pipes[ctx->num_pipes] = dup_ctx(from->pipes[ctx->num_pipes]))) {
            free_ctx(ctx);
            return NULL;
        }
    return ctx;
}

static void begin(struct cipher_ctx *ctx)
{
    hpl_gcm_start(&ctx->gcm, &ctx->key, !ctx->is_seal, ctx->iv, ctx->iv_len);
    ctx->iv_state = IV_IN_USE;
    ctx->whole_len = 0;
}

/* An IV of our own making, for a caller who seals without giving one: random, so at least 96 bits (SP 800-38D §8.2.2). */
static bool make_iv(struct cipher_ctx *ctx)
{
    if (!ctx->is_seal || ctx->iv_len < IV_LEN || RAND_bytes(ctx->iv, (int)ctx->iv_len) <= 0)
        return false;
    ctx->iv_state = IV_GIVEN;
    ctx->is_iv_made = true;
    return true;
}

/* True once a message is under way. */
static bool is_begun(struct cipher_ctx *ctx)
{
    if (!ctx->has_key)
        return refuse(PROV_R_NO_KEY_SET);
    if (ctx->iv_state == IV_FINISHED || (ctx->iv_state == IV_NONE && !make_iv(ctx)))
        return refuse(PROV_R_CIPHER_OPERATION_FAILED);
    if (ctx->iv_state == IV_GIVEN)
        begin(ctx);
    return true;
}

/* The last eight bytes of the IV are a counter. */
static void increment_iv(struct cipher_ctx *ctx)
{
    uint8_t *low = ctx->iv + ctx->iv_len - EXPLICIT_LEN;
    for (size_t i = EXPLICIT_LEN; i-- > 0 && ++low[i] == 0;) {
        /* Carry into the next byte. */
    }
}

static bool next_iv(struct cipher_ctx *ctx, uint8_t *out, size_t len)
{
    if (!ctx->is_tls || !ctx->has_key || ctx->iv_len < EXPLICIT_LEN)
        return false;
    begin(ctx);
    if (len == 0 || len > ctx->iv_len)
        len = ctx->iv_len;
    memcpy(out, ctx->iv + ctx->iv_len - len, len);
    increment_iv(ctx);
    return true;
}

static bool peer_iv(struct cipher_ctx *ctx, const uint8_t *in, size_t len)
{
    if (!ctx->is_tls || !ctx->has_key || ctx->is_seal || len > ctx->iv_len)
        return false;
    memcpy(ctx->iv + ctx->iv_len - len, in, len);
    begin(ctx);
    return true;
}

static bool set_fixed_iv(struct cipher_ctx *ctx, const uint8_t *fixed, size_t len)
{
    if (len == (size_t)-1) /* the whole of it, to go on where another context stopped */
        memcpy(ctx->iv, fixed, ctx->iv_len);
    else {
        if (len < FIXED_LEN || len > ctx->iv_len || ctx->iv_len - len < EXPLICIT_LEN)
            return false;
        memcpy(ctx->iv, fixed, len);
        if (ctx->is_seal && RAND_bytes(ctx->iv + len, (int)(ctx->iv_len - len)) <= 0)
            return false;
    }
    ctx->is_tls = true;
    ctx->iv_state = IV_GIVEN;
    return true;
}

/* The record's header, with the length of its payload alone in the last two bytes (RFC 5246 §6.2.3.3). */
static bool set_tls_aad(struct cipher_ctx *ctx, const uint8_t *aad, size_t aad_len)
{
    size_t extra = EXPLICIT_LEN + (ctx->is_seal ? 0 : TAG_LEN), len;
    if (aad_len != TLS_AAD_LEN)
        return false;
    len = (size_t)aad[TLS_AAD_LEN - 2] << 8 | aad[TLS_AAD_LEN - 1];
    if (len < extra)
        return false;
    len -= extra;
    memcpy(ctx->tls_aad, aad, TLS_AAD_LEN);
    ctx->tls_aad[TLS_AAD_LEN - 2] = (uint8_t)(len >> 8);
    ctx->tls_aad[TLS_AAD_LEN - 1] = (uint8_t)len;
    ctx->tls_aad_len = TLS_AAD_LEN;
    ctx->tls_pad = TAG_LEN;
    return true;
}

/* Payload in place, tag behind it. */
static bool run_payload(struct cipher_ctx *ctx, uint8_t *payload, size_t len)
{
    uint8_t tag[TAG_LEN];
    if (!hpl_gcm_aad(&ctx->gcm, ctx->tls_aad, ctx->tls_aad_len) || !hpl_gcm_update(&ctx->gcm, payload, payload, len))
        return false;
    hpl_gcm_finish(&ctx->gcm, tag);
    if (ctx->is_seal) {
        memcpy(payload + len, tag, TAG_LEN);
        return true;
    }
    bool is_right = CRYPTO_memcmp(tag, payload + len, TAG_LEN) == 0;
    OPENSSL_cleanse(tag, sizeof tag);
    if (!is_right)
        OPENSSL_cleanse(payload, len);
    return is_right;
}

/* A TLS 1.2 record: explicit nonce, payload, tag. */
static bool run_record(struct cipher_ctx *ctx, uint8_t *out, size_t *out_len, const uint8_t *in, size_t len)
{
    size_t payload_len = len - EXPLICIT_LEN - TAG_LEN;
    bool is_done = ctx->has_key && out == in && len >= EXPLICIT_LEN + TAG_LEN &&
                   (ctx->is_seal ? next_iv(ctx, out, EXPLICIT_LEN) : peer_iv(ctx, in, EXPLICIT_LEN)) &&
                   run_payload(ctx, out + EXPLICIT_LEN, payload_len);
    *out_len = !is_done ? 0 : ctx->is_seal ? len : payload_len;
    ctx->iv_state = IV_FINISHED;
    ctx->tls_aad_len = 0;
    return is_done;
}

static int finish(struct cipher_ctx *ctx)
{
    uint8_t computed[TAG_LEN], *tag = ctx->is_seal ? ctx->tag : computed;
    if (!is_begun(ctx))
        return 0;
    if (!ctx->is_seal && ctx->tag_len == 0)
        return refuse(PROV_R_TAG_NOT_SET);
    if (ctx->whole_len)
        memcpy(tag, ctx->whole_tag, TAG_LEN);
    else
        hpl_gcm_finish(&ctx->gcm, tag);
    ctx->iv_state = IV_FINISHED;
    if (ctx->is_seal) {
        ctx->tag_len = TAG_LEN;
        return 1;
    }
    bool is_right = CRYPTO_memcmp(computed, ctx->tag, ctx->tag_len) == 0;
    OPENSSL_cleanse(computed, sizeof computed);
    return is_right;
}

/* Most short messages come in one piece. Where this can be one, text and tag are made at once, by the kernel's quickest way; is it? */
static bool run_whole(struct cipher_ctx *ctx, uint8_t *out, const uint8_t *in, size_t len)
{
    const struct hpl_gcm *gcm = &ctx->gcm;
    const uint8_t *nonce = ctx->is_tls ? gcm->j0 : ctx->iv; /* an IV with a counter has been counted on to the next; the other is 3 ns nearer */
    struct hpl_gcm_message message = {.nonce = nonce, .aad = gcm->partial, .aad_len = gcm->aad_len, .in = in, .len = len, .out = out, .tag = ctx->whole_tag};
    if (!out || len > SHORT_LEN || ctx->iv_len != IV_LEN || gcm->has_data || gcm->aad_len >= sizeof gcm->partial || ctx->whole_len || !ctx->key.kernel->message)
        return false;
    if (!ctx->is_seal)
        memcpy(ctx->whole, in, len);
    ctx->key.kernel->message(&ctx->key, !ctx->is_seal, &message);
    if (ctx->is_seal)
        memcpy(ctx->whole, out, len);
    ctx->whole_len = len;
    return true;
}

/* It was not the whole message: what came is taken in again, as a part. */
static void unmake_whole(struct cipher_ctx *ctx)
{
    uint8_t plain[SHORT_LEN];
    ctx->gcm.is_open = true;
    hpl_gcm_update(&ctx->gcm, ctx->whole, plain, ctx->whole_len);
    ctx->gcm.is_open = !ctx->is_seal;
    OPENSSL_cleanse(plain, sizeof plain);
    OPENSSL_cleanse(ctx->whole_tag, TAG_LEN);
    ctx->whole_len = 0;
}

/* Data, AAD where out is NULL, the end where in is NULL. */
static int run(struct cipher_ctx *ctx, uint8_t *out, size_t *out_len, const uint8_t *in, size_t len)
{
    if (ctx->tls_aad_len)
        return run_record(ctx, out, out_len, in, len);
    *out_len = 0;
    if (!in)
        return finish(ctx);
    if (!is_begun(ctx))
        return 0;
    *out_len = len;
    if (run_whole(ctx, out, in, len))
        return 1;
    if (ctx->whole_len)
        unmake_whole(ctx);
    *out_len = 0;
    if (!(out ? hpl_threads_update(ctx->threads, &ctx->gcm, in, out, len) : hpl_gcm_aad(&ctx->gcm, in, len)))
        return refuse(PROV_R_CIPHER_OPERATION_FAILED);
    *out_len = len;
    return 1;
}

static OSSL_FUNC_cipher_update_fn update;
static int update(void *vctx, unsigned char *out, size_t *out_len, size_t out_size, const unsigned char *in, size_t len)
{
    if (len == 0) {
        *out_len = 0;
        return 1;
    }
    if (out_size < len)
        return refuse(PROV_R_OUTPUT_BUFFER_TOO_SMALL);
    bool is_record = ((struct cipher_ctx *)vctx)->tls_aad_len != 0; /* TLS itself, which calls EVP_Cipher, has its own words for a wrong one */
    return run(vctx, out, out_len, in, len) || (is_record && refuse(PROV_R_CIPHER_OPERATION_FAILED));
}

static OSSL_FUNC_cipher_final_fn final;
static int final(void *vctx, unsigned char *out, size_t *out_len, size_t out_size)
{
    struct cipher_ctx *ctx = vctx;
    (void)out_size;
    int is_done = run(ctx, out, out_len, NULL, 0);
    *out_len = 0;
    return is_done;
}

static OSSL_FUNC_cipher_cipher_fn cipher;
static int cipher(void *vctx, unsigned char *out, size_t *out_len, size_t out_size, const unsigned char *in, size_t len)
{
    size_t written;
    if (out_size < len)
        return refuse(PROV_R_OUTPUT_BUFFER_TOO_SMALL);
    if (!run(vctx, out, &written, in, len))
        return 0;
    *out_len = len;
    return 1;
}

static OSSL_FUNC_cipher_gettable_params_fn gettable_params;
static const OSSL_PARAM *gettable_params(void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_uint(OSSL_CIPHER_PARAM_MODE, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_BLOCK_SIZE, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_AEAD, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_CUSTOM_IV, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_CTS, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_TLS1_MULTIBLOCK, NULL),
        OSSL_PARAM_int(OSSL_CIPHER_PARAM_HAS_RAND_KEY, NULL),
        OSSL_PARAM_END,
    };
    (void)provider;
    return table;
}

static bool put_size(OSSL_PARAM params[], const char *name, size_t value)
{
    OSSL_PARAM *param = OSSL_PARAM_locate(params, name);
    return !param || OSSL_PARAM_set_size_t(param, value) || refuse(PROV_R_FAILED_TO_SET_PARAMETER);
}

static bool put_int(OSSL_PARAM params[], const char *name, int value)
{
    OSSL_PARAM *param = OSSL_PARAM_locate(params, name);
    return !param || OSSL_PARAM_set_int(param, value) || refuse(PROV_R_FAILED_TO_SET_PARAMETER);
}

static int get_params(OSSL_PARAM params[], size_t key_len)
{
    return put_int(params, OSSL_CIPHER_PARAM_MODE, EVP_CIPH_GCM_MODE) && put_size(params, OSSL_CIPHER_PARAM_KEYLEN, key_len) &&
           put_size(params, OSSL_CIPHER_PARAM_IVLEN, IV_LEN) && put_size(params, OSSL_CIPHER_PARAM_BLOCK_SIZE, 1) &&
           put_int(params, OSSL_CIPHER_PARAM_AEAD, 1) && put_int(params, OSSL_CIPHER_PARAM_CUSTOM_IV, 1) &&
           put_int(params, OSSL_CIPHER_PARAM_CTS, 0) && put_int(params, OSSL_CIPHER_PARAM_TLS1_MULTIBLOCK, 0) &&
           put_int(params, OSSL_CIPHER_PARAM_HAS_RAND_KEY, 0);
}

static OSSL_FUNC_cipher_gettable_ctx_params_fn gettable_ctx_params;
static const OSSL_PARAM *gettable_ctx_params(void *ctx, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_KEYLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TAGLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_IV, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_UPDATED_IV, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_AEAD_TLS1_AAD_PAD, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN, NULL, 0),
        OSSL_PARAM_uint(OSSL_CIPHER_PARAM_AEAD_IV_GENERATED, NULL),
        OSSL_PARAM_octet_ptr(OSSL_CIPHER_PARAM_PIPELINE_AEAD_TAG, NULL, 0),
        OSSL_PARAM_END,
    };
    (void)ctx;
    (void)provider;
    return table;
}

static bool put(int is_set)
{
    return is_set || refuse(PROV_R_FAILED_TO_SET_PARAMETER);
}

static bool get_iv(struct cipher_ctx *ctx, OSSL_PARAM *param)
{
    if (ctx->iv_len > param->data_size)
        return refuse(PROV_R_INVALID_IV_LENGTH);
    return put(ctx->iv_state != IV_NONE &&
               (OSSL_PARAM_set_octet_string(param, ctx->iv, ctx->iv_len) || OSSL_PARAM_set_octet_ptr(param, ctx->iv, ctx->iv_len)));
}

static bool get_tag(struct cipher_ctx *ctx, OSSL_PARAM *param)
{
    size_t len = param->data_size;
    if (len == 0 || len > TAG_LEN || !ctx->is_seal || ctx->tag_len == 0)
        return refuse(PROV_R_INVALID_TAG);
    return put(OSSL_PARAM_set_octet_string(param, ctx->tag, len));
}

static bool get_next_iv(struct cipher_ctx *ctx, OSSL_PARAM *param)
{
    return put(param->data_type == OSSL_PARAM_OCTET_STRING && param->data && next_iv(ctx, param->data, param->data_size));
}

/* The parameter's pointer leads to one pointer a pipe. */
static bool get_tags(struct cipher_ctx *ctx, const OSSL_PARAM *param)
{
    uint8_t *const *tags;
    size_t len;
    if (!OSSL_PARAM_get_octet_ptr(param, (const void **)&tags, &len) || !tags)
        return put(false);
    for (size_t i = 0; i < ctx->num_pipes; i++) {
        OSSL_PARAM tag = OSSL_PARAM_construct_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, tags[i], len);
        if (!get_tag(ctx->pipes[i], &tag))
            return false;
    }
    return true;
}

/* Without a call: comparing names by strcmp is a twentieth of a short message. */
static bool is_named(const char *name, const char *wanted)
{
    while (*wanted && *name == *wanted)
        name++, wanted++;
    return *name == *wanted;
}

/* What every message asks for comes first. */
static bool get_one(struct cipher_ctx *ctx, OSSL_PARAM *param)
{
    const char *name = param->key;
    if (is_named(name, OSSL_CIPHER_PARAM_IVLEN))
        return put(OSSL_PARAM_set_size_t(param, ctx->iv_len));
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TAG))
        return get_tag(ctx, param);
    if (is_named(name, OSSL_CIPHER_PARAM_KEYLEN))
        return put(OSSL_PARAM_set_size_t(param, ctx->key_len));
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TAGLEN))
        return put(OSSL_PARAM_set_size_t(param, ctx->tag_len ? ctx->tag_len : TAG_LEN));
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TLS1_AAD_PAD))
        return put(OSSL_PARAM_set_size_t(param, ctx->tls_pad));
    if (is_named(name, OSSL_CIPHER_PARAM_IV) || is_named(name, OSSL_CIPHER_PARAM_UPDATED_IV))
        return get_iv(ctx, param);
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TLS1_GET_IV_GEN))
        return get_next_iv(ctx, param);
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_IV_GENERATED))
        return put(OSSL_PARAM_set_uint(param, ctx->is_iv_made));
    if (is_named(name, OSSL_CIPHER_PARAM_PIPELINE_AEAD_TAG))
        return get_tags(ctx, param);
    return true;
}

static OSSL_FUNC_cipher_get_ctx_params_fn get_ctx_params;
static int get_ctx_params(void *ctx, OSSL_PARAM params[])
{
    for (OSSL_PARAM *param = params; param && param->key; param++)
        if (!get_one(ctx, param))
            return 0;
    return 1;
}

static OSSL_FUNC_cipher_settable_ctx_params_fn settable_ctx_params;
static const OSSL_PARAM *settable_ctx_params(void *ctx, void *provider)
{
    static const OSSL_PARAM table[] = {
        OSSL_PARAM_size_t(OSSL_CIPHER_PARAM_IVLEN, NULL),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TAG, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_AAD, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_IV_FIXED, NULL, 0),
        OSSL_PARAM_octet_string(OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV, NULL, 0),
        OSSL_PARAM_octet_ptr(OSSL_CIPHER_PARAM_PIPELINE_AEAD_TAG, NULL, 0),
        OSSL_PARAM_END,
    };
    (void)ctx;
    (void)provider;
    return table;
}

static bool set_tag(struct cipher_ctx *ctx, const uint8_t *tag, size_t len)
{
    if (ctx->is_seal || len == 0 || len > TAG_LEN)
        return false;
    memcpy(ctx->tag, tag, len);
    ctx->tag_len = len;
    return true;
}

static bool set_tags(struct cipher_ctx *ctx, const OSSL_PARAM *param)
{
    const uint8_t *const *tags;
    size_t len;
    if (!OSSL_PARAM_get_octet_ptr(param, (const void **)&tags, &len) || !tags)
        return refuse(PROV_R_FAILED_TO_GET_PARAMETER);
    for (size_t i = 0; i < ctx->num_pipes; i++)
        if (!set_tag(ctx->pipes[i], tags[i], len))
            return refuse(PROV_R_INVALID_TAG);
    return true;
}

/* An IV that was there is of another length: it no longer counts. */
static bool set_iv_len(struct cipher_ctx *ctx, const OSSL_PARAM *param)
{
    size_t len;
    if (!OSSL_PARAM_get_size_t(param, &len))
        return refuse(PROV_R_FAILED_TO_GET_PARAMETER);
    if (len == 0 || len > MAX_IV_LEN)
        return refuse(PROV_R_INVALID_IV_LENGTH);
    if (len != ctx->iv_len && ctx->iv_state != IV_NONE)
        ctx->iv_state = IV_FINISHED;
    ctx->iv_len = len;
    return true;
}

/* reason: why set refuses. */
static bool set_octets(struct cipher_ctx *ctx, const OSSL_PARAM *param, bool (*set)(struct cipher_ctx *ctx, const uint8_t *in, size_t len), int reason)
{
    if (param->data_type != OSSL_PARAM_OCTET_STRING || !param->data)
        return refuse(PROV_R_FAILED_TO_GET_PARAMETER);
    return set(ctx, param->data, param->data_size) || refuse(reason);
}

static bool set_one(struct cipher_ctx *ctx, const OSSL_PARAM *param)
{
    const char *name = param->key;
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TAG))
        return set_octets(ctx, param, set_tag, PROV_R_INVALID_TAG);
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TLS1_AAD))
        return set_octets(ctx, param, set_tls_aad, PROV_R_INVALID_AAD);
    if (is_named(name, OSSL_CIPHER_PARAM_IVLEN))
        return set_iv_len(ctx, param);
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TLS1_IV_FIXED))
        return set_octets(ctx, param, set_fixed_iv, PROV_R_FAILED_TO_GET_PARAMETER);
    if (is_named(name, OSSL_CIPHER_PARAM_AEAD_TLS1_SET_IV_INV))
        return set_octets(ctx, param, peer_iv, PROV_R_FAILED_TO_GET_PARAMETER);
    if (is_named(name, OSSL_CIPHER_PARAM_PIPELINE_AEAD_TAG))
        return set_tags(ctx, param);
    return true;
}

static OSSL_FUNC_cipher_set_ctx_params_fn set_ctx_params;
static int set_ctx_params(void *ctx, const OSSL_PARAM params[])
{
    for (const OSSL_PARAM *param = params; param && param->key; param++)
        if (!set_one(ctx, param))
            return 0;
    return 1;
}

/* By words and in constant time: CRYPTO_memcmp goes by bytes, a tenth of a short message. */
static bool is_same_key(const struct cipher_ctx *ctx, const uint8_t *bytes)
{
    uint64_t differing = 0, a, b;
    for (size_t i = 0; i < ctx->key_len; i += 8) {
        memcpy(&a, bytes + i, 8);
        memcpy(&b, ctx->key_bytes + i, 8);
        differing |= a ^ b;
    }
    return differing == 0;
}

/* A program that gives the same key before every message has it expanded once. */
static void set_key(struct cipher_ctx *ctx, const uint8_t *bytes)
{
    if (ctx->has_key && is_same_key(ctx, bytes))
        return;
    memcpy(ctx->key_bytes, bytes, ctx->key_len);
    hpl_gcm_set_key(&ctx->key, hpl_gcm_kernel(), bytes, ctx->key_len);
    ctx->has_key = true;
}

static int init(struct cipher_ctx *ctx, bool is_seal, const uint8_t *key, size_t key_len, const uint8_t *iv, size_t iv_len, const OSSL_PARAM params[])
{
    if (key && key_len != ctx->key_len)
        return refuse(PROV_R_INVALID_KEY_LENGTH);
    if (iv && (iv_len == 0 || iv_len > MAX_IV_LEN))
        return refuse(PROV_R_INVALID_IV_LENGTH);
    if (ctx->iv_state == IV_IN_USE && is_seal != ctx->is_seal) /* a message cut short never turns round */
        ctx->iv_state = IV_FINISHED;
    else if (ctx->iv_state == IV_IN_USE && key) /* its IV may serve another key, and the same one to open */
        ctx->iv_state = is_seal && is_same_key(ctx, key) ? IV_FINISHED : IV_GIVEN;
    ctx->is_seal = is_seal;
    if (iv) {
        memcpy(ctx->iv, iv, iv_len);
        ctx->iv_len = iv_len;
        ctx->iv_state = IV_GIVEN;
        ctx->is_iv_made = false;
    }
    if (key)
        set_key(ctx, key);
    return set_ctx_params(ctx, params);
}

static OSSL_FUNC_cipher_encrypt_init_fn encrypt_init;
static int encrypt_init(void *ctx, const unsigned char *key, size_t key_len, const unsigned char *iv, size_t iv_len, const OSSL_PARAM params[])
{
    return init(ctx, true, key, key_len, iv, iv_len, params);
}

static OSSL_FUNC_cipher_decrypt_init_fn decrypt_init;
static int decrypt_init(void *ctx, const unsigned char *key, size_t key_len, const unsigned char *iv, size_t iv_len, const OSSL_PARAM params[])
{
    return init(ctx, false, key, key_len, iv, iv_len, params);
}

/* --- pipelines: one call for many messages under one key ------------------------------------------------------------------- */

/* As many as that; those that stay keep their key. */
static bool set_num_pipes(struct cipher_ctx *ctx, size_t count)
{
    while (ctx->num_pipes > count)
        free_ctx(ctx->pipes[--ctx->num_pipes]);
    if (ctx->num_pipes == count)
        return true;
    struct cipher_ctx **pipes = realloc(ctx->pipes, count * sizeof *pipes);
    if (!pipes)
        return refuse(ERR_R_MALLOC_FAILURE);
    ctx->pipes = pipes;
    for (; ctx->num_pipes < count; ctx->num_pipes++)
        if (!(pipes[ctx->num_pipes] = new_ctx(ctx->threads, ctx->key_len)))
            return false;
    return true;
}

static int init_pipes(struct cipher_ctx *ctx, bool is_seal, const uint8_t *key, size_t key_len, size_t count, const uint8_t **iv, size_t iv_len,
                      const OSSL_PARAM params[])
{
    if (!set_num_pipes(ctx, count))
        return 0;
    for (size_t i = 0; i < count; i++)
        if (!init(ctx->pipes[i], is_seal, key, key_len, iv ? iv[i] : NULL, iv_len, NULL))
            return 0;
    return set_ctx_params(ctx, params);
}

static int encrypt_init_pipes(void *ctx, const unsigned char *key, size_t key_len, size_t count, const unsigned char **iv, size_t iv_len,
                              const OSSL_PARAM params[])
{
    return init_pipes(ctx, true, key, key_len, count, iv, iv_len, params);
}

static int decrypt_init_pipes(void *ctx, const unsigned char *key, size_t key_len, size_t count, const unsigned char **iv, size_t iv_len,
                              const OSSL_PARAM params[])
{
    return init_pipes(ctx, false, key, key_len, count, iv, iv_len, params);
}

/* Without out it is each message's AAD. */
static int update_pipes(void *vctx, size_t count, unsigned char **out, size_t *out_len, const size_t *out_size, const unsigned char **in, const size_t *len)
{
    struct cipher_ctx *ctx = vctx;
    if (count != ctx->num_pipes)
        return refuse(PROV_R_CIPHER_OPERATION_FAILED);
    for (size_t i = 0; i < count; i++)
        if (!update(ctx->pipes[i], out ? out[i] : NULL, &out_len[i], out ? out_size[i] : len[i], in[i], len[i]))
            return 0;
    return 1;
}

/* Every message ends, even where another's tag is wrong. */
static int final_pipes(void *vctx, size_t count, unsigned char **out, size_t *out_len, const size_t *out_size)
{
    struct cipher_ctx *ctx = vctx;
    int is_right = 1;
    (void)out;
    (void)out_size;
    if (count != ctx->num_pipes)
        return refuse(PROV_R_CIPHER_OPERATION_FAILED);
    for (size_t i = 0; i < count; i++)
        is_right &= final(ctx->pipes[i], NULL, &out_len[i], 0);
    return is_right;
}

#define FUNCTION(id, function) {id, (void (*)(void))(function)}
#define CIPHER(bits)                                                                               \
    static OSSL_FUNC_cipher_newctx_fn new_##bits;                                                  \
    static void *new_##bits(void *provider)                                                        \
    {                                                                                              \
        return new_ctx(((struct hpl_provider *)provider)->threads, bits / 8);                      \
    }                                                                                              \
    static OSSL_FUNC_cipher_get_params_fn get_params_##bits;                                       \
    static int get_params_##bits(OSSL_PARAM params[])                                              \
    {                                                                                              \
        return get_params(params, bits / 8);                                                       \
    }                                                                                              \
    static const OSSL_DISPATCH functions_##bits[] = {                                              \
        FUNCTION(OSSL_FUNC_CIPHER_NEWCTX, new_##bits),                                             \
        FUNCTION(OSSL_FUNC_CIPHER_FREECTX, free_ctx),                                              \
        FUNCTION(OSSL_FUNC_CIPHER_DUPCTX, dup_ctx),                                                \
        FUNCTION(OSSL_FUNC_CIPHER_ENCRYPT_INIT, encrypt_init),                                     \
        FUNCTION(OSSL_FUNC_CIPHER_DECRYPT_INIT, decrypt_init),                                     \
        FUNCTION(OSSL_FUNC_CIPHER_UPDATE, update),                                                 \
        FUNCTION(OSSL_FUNC_CIPHER_FINAL, final),                                                   \
        FUNCTION(OSSL_FUNC_CIPHER_CIPHER, cipher),                                                 \
        FUNCTION(OSSL_FUNC_CIPHER_PIPELINE_ENCRYPT_INIT, encrypt_init_pipes),                      \
        FUNCTION(OSSL_FUNC_CIPHER_PIPELINE_DECRYPT_INIT, decrypt_init_pipes),                      \
        FUNCTION(OSSL_FUNC_CIPHER_PIPELINE_UPDATE, update_pipes),                                  \
        FUNCTION(OSSL_FUNC_CIPHER_PIPELINE_FINAL, final_pipes),                                    \
        FUNCTION(OSSL_FUNC_CIPHER_GET_PARAMS, get_params_##bits),                                  \
        FUNCTION(OSSL_FUNC_CIPHER_GETTABLE_PARAMS, gettable_params),                               \
        FUNCTION(OSSL_FUNC_CIPHER_GET_CTX_PARAMS, get_ctx_params),                                 \
        FUNCTION(OSSL_FUNC_CIPHER_GETTABLE_CTX_PARAMS, gettable_ctx_params),                       \
        FUNCTION(OSSL_FUNC_CIPHER_SET_CTX_PARAMS, set_ctx_params),                                 \
        FUNCTION(OSSL_FUNC_CIPHER_SETTABLE_CTX_PARAMS, settable_ctx_params),                       \
        {0, NULL}}

CIPHER(128);
CIPHER(192);
CIPHER(256);

const OSSL_ALGORITHM hpl_provider_ciphers[] = {
    {"AES-128-GCM:id-aes128-GCM:2.16.840.1.101.3.4.1.6", "provider=hardplate", functions_128, "AES-128-GCM"},
    {"AES-192-GCM:id-aes192-GCM:2.16.840.1.101.3.4.1.26", "provider=hardplate", functions_192, "AES-192-GCM"},
    {"AES-256-GCM:id-aes256-GCM:2.16.840.1.101.3.4.1.46", "provider=hardplate", functions_256, "AES-256-GCM"},
    {NULL, NULL, NULL, NULL},
};
