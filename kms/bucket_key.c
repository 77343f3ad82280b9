/* Bucket keys: one wrap of the backend for many objects of a bucket, minutes long. Every object still has a key of its own, derived under a random salt
 * and its whole context. Any thread; may block on the backend. */
#include "kms/opening.h"

#include <openssl/rand.h>

#include "base/hash.h"

#define KEY_LEN 32u
#define MINUTE_NS 60000000000ull
#define INFO "hpl-bucket-key-v1"

static const struct hpl_context_pair *bucket_of(const struct hpl_context *context)
{
    for (size_t i = 0; context && i < context->num_pairs; i++)
        if (hpl_bytes_equal(context->pairs[i].name, hpl_bytes_str("bucket")))
            return &context->pairs[i];
    return NULL;
}

bool hpl_bucket_key_is_wanted(const struct hpl_key_record *record, enum hpl_purpose purpose, const struct hpl_context *context, size_t len)
{
    return record->caching.bucket_minutes && purpose == HPL_PURPOSE_OBJECT && len == KEY_LEN && bucket_of(context);
}

enum hpl_status hpl_bucket_key_derive(struct hpl_call *call, const struct hpl_secret *bucket_key, const uint8_t salt[static 32],
                                      const struct hpl_context *context, struct hpl_secret **key, uint8_t check[static 16])
{
    uint8_t info[sizeof INFO - 1 + HPL_WRAP_AAD_LEN];
    struct hpl_secret *HPL_SECRET_AUTO both = NULL;
    memcpy(info, INFO, sizeof INFO - 1);
    HPL_TRY(hpl_context_hash(call, context, info + sizeof INFO - 1));
    both = hpl_secret_new(KEY_LEN + 16);
    if (!both || !(*key = hpl_secret_new(KEY_LEN)))
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    hpl_hkdf_sha256(both->bytes, both->len, hpl_bytes(bucket_key->bytes, bucket_key->len), hpl_bytes(salt, 32), hpl_bytes(info, sizeof info));
    memcpy((*key)->bytes, both->bytes, KEY_LEN);
    memcpy(check, both->bytes + KEY_LEN, 16);
    return HPL_OK;
}

/* --- making -------------------------------------------------------------------------------------------------------------- */

struct making {
    struct hpl_attachment *attachment;
    const struct hpl_key_record *record;
    struct hpl_context bucket; /* the bucket alone */
    uint8_t key[HPL_LRU_KEY_LEN];
};

/* Under what the bucket key in use is kept: keystore, key, version and bucket. */
static void name_in_use(struct making *making)
{
    struct hpl_hash hash;
    uint8_t version[4];
    const struct hpl_key_record *record = making->record;
    const struct hpl_bytes bucket = making->bucket.pairs[0].value;
    for (size_t i = 0; i < 4; i++)
        version[i] = (uint8_t)(record->version >> (24 - 8 * i));
    HPL_CHECK(hpl_hash_init(&hash, "SHA256") == HPL_OK);
    hpl_hash_update(&hash, "hpl-bucket-key-in-use", sizeof "hpl-bucket-key-in-use");
    hpl_hash_update(&hash, making->attachment->keystore->instance, 8);
    hpl_hash_update(&hash, record->uid, sizeof record->uid);
    hpl_hash_update(&hash, version, sizeof version);
    hpl_hash_update(&hash, bucket.data, bucket.len);
    hpl_hash_final(&hash, making->key);
}

/* For who reads it back here, soon. */
static enum hpl_status keep_for_opening(struct hpl_call *call, const struct making *making, const struct hpl_secret *bucket_key, struct hpl_bytes wire,
                                        const struct hpl_secret_term *term, uint64_t epoch)
{
    struct hpl_envelope envelope;
    uint8_t aad[HPL_WRAP_AAD_LEN], key[HPL_LRU_KEY_LEN];
    struct hpl_secret_term opening = *term;
    HPL_TRY(hpl_envelope_decode(call, wire, &envelope));
    HPL_TRY(hpl_envelope_aad(call, &envelope, &making->bucket, aad));
    hpl_opening_key(wire, aad, key);
    opening.uses = UINT32_MAX;
    opening.note = hpl_bytes(NULL, 0);
    opening.outage_ns = making->record->caching.outage_seconds * 1000000000ull;
    hpl_secret_cache_put(&making->attachment->shared->buckets, key, bucket_key, &opening, epoch);
    return HPL_OK;
}

static enum hpl_status make(struct hpl_call *call, const struct making *making, struct hpl_secret **bucket_key, struct hpl_buf *wire)
{
    const struct hpl_key_caching *caching = &making->record->caching;
    struct hpl_secret_cache *cache = &making->attachment->shared->buckets;
    uint64_t epoch = hpl_secret_cache_epoch(cache);
    struct hpl_secret_term term = {.instance = making->attachment->keystore->instance, .uid = making->record->uid,
                                   .fresh_ns = caching->bucket_minutes * MINUTE_NS, .uses = caching->bucket_objects - 1};
    HPL_TRY(hpl_kms_generate_on(call, making->attachment, HPL_PURPOSE_BUCKET_KEY, making->record, &making->bucket, KEY_LEN, bucket_key, wire));
    term.note = hpl_buf_bytes(wire);
    if (term.uses)
        hpl_secret_cache_put(cache, making->key, *bucket_key, &term, epoch);
    return keep_for_opening(call, making, *bucket_key, hpl_buf_bytes(wire), &term, epoch);
}

/* One is made for all who need it now; who comes too late for its last object makes another. */
static enum hpl_status take_or_make(struct hpl_call *call, const struct making *making, struct hpl_secret **bucket_key, struct hpl_buf *wire)
{
    struct hpl_kms_shared *shared = making->attachment->shared;
    struct hpl_flight *flight;
    struct hpl_secret *none = NULL;
    if ((*bucket_key = hpl_secret_cache_find(&shared->buckets, making->key, wire)))
        return HPL_OK;
    if (call && call->must_not_wait)
        return HPL_WOULD_WAIT;
    if (!hpl_flight_begin(&shared->flights, making->key, &flight)) {
        enum hpl_status status = hpl_flight_wait(&shared->flights, flight, call, &none);
        if (status != HPL_OK && status != HPL_STALE)
            return status;
        *bucket_key = hpl_secret_cache_find(&shared->buckets, making->key, wire);
        return *bucket_key ? HPL_OK : make(call, making, bucket_key, wire);
    }
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    enum hpl_status status = make(&sub, making, bucket_key, wire);
    hpl_flight_end(&shared->flights, flight, status, hpl_detail(&sub, status), NULL);
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

enum hpl_status hpl_bucket_key_generate(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                        const struct hpl_context *context, struct hpl_secret **secret, struct hpl_buf *out)
{
    struct making making = {.attachment = attachment, .record = record, .bucket = {bucket_of(context), 1}};
    struct hpl_bucket_envelope envelope;
    struct hpl_secret *HPL_SECRET_AUTO bucket_key = NULL;
    struct hpl_buf wire = {0};
    name_in_use(&making);
    enum hpl_status status = take_or_make(call, &making, &bucket_key, &wire);
    if (status == HPL_OK && RAND_bytes(envelope.salt, sizeof envelope.salt) != 1)
        status = hpl_fail(call, HPL_INTERNAL, "no random numbers");
    if (status == HPL_OK)
        status = hpl_bucket_key_derive(call, bucket_key, envelope.salt, context, secret, envelope.check);
    if (status == HPL_OK) {
        envelope.inner = hpl_buf_bytes(&wire);
        hpl_bucket_envelope_encode(&envelope, out);
        status = hpl_buf_check(out);
    }
    if (status != HPL_OK)
        hpl_secret_freep(secret);
    hpl_buf_wipe(&wire);
    return status;
}

/* --- opening ------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_bucket_key_open(struct hpl_call *call, struct hpl_opening *opening, const struct hpl_bucket_envelope *envelope,
                                    const struct hpl_context *context, struct hpl_secret **secret)
{
    const struct hpl_key_caching *caching = &opening->record->caching;
    const struct hpl_context bucket = {bucket_of(context), bucket_of(context) ? 1 : 0};
    struct hpl_secret *HPL_SECRET_AUTO bucket_key = NULL;
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    uint8_t check[16];
    opening->context = &bucket;
    opening->cache = &opening->attachment->shared->buckets;
    if (caching->bucket_minutes) {
        opening->term.fresh_ns = caching->bucket_minutes * MINUTE_NS;
        opening->term.uses = UINT32_MAX;
    }
    HPL_TRY(hpl_opening_run(call, opening, &bucket_key));
    HPL_TRY(hpl_bucket_key_derive(call, bucket_key, envelope->salt, context, &key, check));
    if (!hpl_equal_secret(check, envelope->check, sizeof check))
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    *secret = key;
    key = NULL;
    return HPL_OK;
}
