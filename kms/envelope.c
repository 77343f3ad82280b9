/* Envelopes. Pure; any thread. */
#include "kms/envelope.h"

#include <stdlib.h>

#include "base/codec.h"
#include "base/hash.h"

#define MAX_CONTEXT_BYTES 65536u
#define MAX_PAIRS 1024u
#define USUAL_TEXT 500u
#define FEW_PAIRS 16u /* more of them go to the heap */
#define BUCKET_MAGIC "HPLB1"
#define BUCKET_MAGIC_LEN 5u

static void put_header(const struct hpl_envelope *envelope, struct hpl_buf *out)
{
    hpl_buf_put(out, "HPL1", 4);
    hpl_buf_put_u8(out, envelope->purpose);
    hpl_buf_put_u8(out, envelope->wrapped.mechanism);
    hpl_buf_put(out, envelope->instance, sizeof envelope->instance);
    hpl_buf_put(out, envelope->uid, sizeof envelope->uid);
    hpl_buf_put_u32(out, envelope->version);
}

void hpl_envelope_encode(const struct hpl_envelope *envelope, struct hpl_buf *out)
{
    put_header(envelope, out);
    hpl_buf_put_u8(out, envelope->wrapped.iv_len);
    hpl_buf_put(out, envelope->wrapped.iv, envelope->wrapped.iv_len);
    hpl_buf_put_lp16(out, hpl_bytes(envelope->wrapped.ct, envelope->wrapped.ct_len));
}

enum hpl_status hpl_envelope_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_envelope *out)
{
    struct hpl_reader reader = {bytes, false};
    struct hpl_wrapped *wrapped = &out->wrapped;
    *out = (struct hpl_envelope){0};
    bool is_ours = hpl_bytes_equal(hpl_read_bytes(&reader, 4), hpl_bytes_str("HPL1"));
    out->purpose = hpl_read_u8(&reader);
    wrapped->mechanism = hpl_read_u8(&reader);
    hpl_read_copy(&reader, out->instance, sizeof out->instance);
    hpl_read_copy(&reader, out->uid, sizeof out->uid);
    out->version = hpl_read_u32(&reader);
    struct hpl_bytes iv = hpl_read_bytes(&reader, hpl_read_u8(&reader));
    struct hpl_bytes ct = hpl_read_lp16(&reader);
    if (!is_ours || !hpl_read_is_done(&reader) || iv.len > sizeof wrapped->iv || ct.len > sizeof wrapped->ct || ct.len == 0 ||
        out->purpose < HPL_PURPOSE_OBJECT || out->purpose > HPL_PURPOSE_BACKUP || out->version == 0) {
        *out = (struct hpl_envelope){0};
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    }
    wrapped->iv_len = (uint8_t)iv.len;
    wrapped->ct_len = (uint16_t)ct.len;
    if (iv.len)
        memcpy(wrapped->iv, iv.data, iv.len);
    memcpy(wrapped->ct, ct.data, ct.len);
    return HPL_OK;
}

static int compare_pairs(const void *a, const void *b)
{
    const struct hpl_context_pair *x = a, *y = b;
    size_t common = x->name.len < y->name.len ? x->name.len : y->name.len;
    int order = common ? memcmp(x->name.data, y->name.data, common) : 0;
    return order ? order : (x->name.len > y->name.len) - (x->name.len < y->name.len);
}

static enum hpl_status check_pairs(struct hpl_call *call, const struct hpl_context *context)
{
    size_t total = 0;
    if (context->num_pairs > MAX_PAIRS)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the encryption context has more than %u pairs", MAX_PAIRS);
    for (size_t i = 0; i < context->num_pairs; i++) {
        const struct hpl_context_pair *pair = &context->pairs[i];
        total += pair->name.len + pair->value.len;
        if (pair->name.len == 0 || pair->name.len > UINT16_MAX || !hpl_utf8_is_valid(pair->name) || !hpl_utf8_is_valid(pair->value))
            return hpl_fail(call, HPL_INVALID_REQUEST, "the encryption context has an empty, over-long or non-UTF-8 name or value");
    }
    return total <= MAX_CONTEXT_BYTES ? HPL_OK : hpl_fail(call, HPL_INVALID_REQUEST, "the encryption context is larger than %u bytes", MAX_CONTEXT_BYTES);
}

/* In the order of names, none of them twice. */
static enum hpl_status sort_pairs(struct hpl_call *call, struct hpl_context_pair *pairs, size_t count)
{
    qsort(pairs, count, sizeof *pairs, compare_pairs);
    for (size_t i = 1; i < count; i++)
        if (hpl_bytes_equal(pairs[i - 1].name, pairs[i].name))
            return hpl_fail(call, HPL_INVALID_REQUEST, "the encryption context has '%.*s' twice", (int)(pairs[i].name.len > 60 ? 60 : pairs[i].name.len),
                            (const char *)pairs[i].name.data);
    return HPL_OK;
}

static void put_pairs(const struct hpl_context_pair *pairs, size_t count, struct hpl_buf *text)
{
    hpl_buf_put_u16(text, (uint16_t)count);
    for (size_t i = 0; i < count; i++) {
        hpl_buf_put_lp16(text, pairs[i].name);
        hpl_buf_put_lp32(text, pairs[i].value);
    }
}

/* Appends the context's canonical form. */
static enum hpl_status put_context(struct hpl_call *call, const struct hpl_context *context, struct hpl_buf *text)
{
    struct hpl_context_pair few[FEW_PAIRS], *pairs = few;
    size_t count = context ? context->num_pairs : 0;
    if (context)
        HPL_TRY(check_pairs(call, context));
    if (count > FEW_PAIRS && !(pairs = calloc(count, sizeof *pairs)))
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    if (count)
        memcpy(pairs, context->pairs, count * sizeof *pairs);
    enum hpl_status status = sort_pairs(call, pairs, count);
    if (status == HPL_OK)
        put_pairs(pairs, count, text);
    if (pairs != few)
        free(pairs);
    return status == HPL_OK ? hpl_buf_check(text) : status;
}

/* The hash of what is in text and the context behind it; wipes text. */
static enum hpl_status hash_with_context(struct hpl_call *call, struct hpl_buf *text, const struct hpl_context *context, uint8_t out[static HPL_WRAP_AAD_LEN])
{
    enum hpl_status status = put_context(call, context, text);
    if (status == HPL_OK)
        hpl_sha256(out, text->data, text->len);
    hpl_buf_wipe(text);
    return status;
}

/* Room for most contexts at once. */
static void start_text(struct hpl_buf *text)
{
    hpl_buf_extend(text, USUAL_TEXT);
    text->len = 0;
}

enum hpl_status hpl_envelope_aad(struct hpl_call *call, const struct hpl_envelope *envelope, const struct hpl_context *context,
                                 uint8_t aad[static HPL_WRAP_AAD_LEN])
{
    struct hpl_buf text = {0};
    start_text(&text);
    hpl_buf_put_str(&text, "hpl-aad-v1");
    put_header(envelope, &text);
    return hash_with_context(call, &text, context, aad);
}

enum hpl_status hpl_context_hash(struct hpl_call *call, const struct hpl_context *context, uint8_t out[static HPL_WRAP_AAD_LEN])
{
    struct hpl_buf text = {0};
    start_text(&text);
    hpl_buf_put_str(&text, "hpl-context-v1");
    return hash_with_context(call, &text, context, out);
}

/* --- objects under a bucket key ------------------------------------------------------------------------------------------ */

bool hpl_envelope_is_bucket(struct hpl_bytes bytes)
{
    return bytes.len >= BUCKET_MAGIC_LEN && memcmp(bytes.data, BUCKET_MAGIC, BUCKET_MAGIC_LEN) == 0;
}

void hpl_bucket_envelope_encode(const struct hpl_bucket_envelope *envelope, struct hpl_buf *out)
{
    hpl_buf_put(out, BUCKET_MAGIC, BUCKET_MAGIC_LEN);
    hpl_buf_put(out, envelope->salt, sizeof envelope->salt);
    hpl_buf_put(out, envelope->check, sizeof envelope->check);
    hpl_buf_put_lp16(out, envelope->inner);
}

enum hpl_status hpl_bucket_envelope_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_bucket_envelope *out)
{
    struct hpl_reader reader = {bytes, false};
    bool is_ours = hpl_envelope_is_bucket(bytes);
    hpl_read_bytes(&reader, BUCKET_MAGIC_LEN);
    hpl_read_copy(&reader, out->salt, sizeof out->salt);
    hpl_read_copy(&reader, out->check, sizeof out->check);
    out->inner = hpl_read_lp16(&reader);
    if (is_ours && hpl_read_is_done(&reader))
        return HPL_OK;
    *out = (struct hpl_bucket_envelope){0};
    return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
}
