/* Data keys. Any thread; blocks on the backend. */
#include "kms/opening.h"

#include "base/hash.h"
#include "base/log.h"
#include "base/retry.h"

#define MAX_RACES 8u

/* 32 bytes from the system and 32 of the backend's own generator, mixed, so that one bad generator does no harm. */
static enum hpl_status mix_secret(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_secret *out)
{
    struct hpl_secret *HPL_SECRET_AUTO mix = hpl_secret_random(64);
    if (!mix)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(hpl_kms_random(call, attachment, mix->bytes + 32, 32));
    hpl_hkdf_sha256(out->bytes, out->len, hpl_bytes(mix->bytes, mix->len), hpl_bytes(NULL, 0), hpl_bytes_str("hpl-data-key-v1"));
    return HPL_OK;
}

enum hpl_status hpl_kms_new_secret(struct hpl_call *call, struct hpl_attachment *attachment, size_t len, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO made = hpl_secret_random(len);
    if (!made)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (attachment->keystore->ops->random)
        HPL_TRY(mix_secret(call, attachment, made));
    *out = made;
    made = NULL;
    return HPL_OK;
}

enum hpl_status hpl_kms_start_envelope(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_purpose purpose, const struct hpl_key_record *record,
                                       const struct hpl_context *context, struct hpl_envelope *envelope, uint8_t aad[static HPL_WRAP_AAD_LEN])
{
    *envelope = (struct hpl_envelope){.purpose = (uint8_t)purpose, .version = record->version};
    memcpy(envelope->instance, attachment->keystore->instance, sizeof envelope->instance);
    memcpy(envelope->uid, record->uid, sizeof envelope->uid);
    /* The mechanism is under the AAD and the backend's to choose, so it is asked first. */
    envelope->wrapped.mechanism = attachment->keystore->ops->mechanism(attachment->keystore);
    return hpl_envelope_aad(call, envelope, context, aad);
}

enum hpl_status hpl_kms_seal_on(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_purpose purpose, const struct hpl_key_record *record,
                                const struct hpl_context *context, const struct hpl_secret *secret, struct hpl_buf *out)
{
    uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_envelope envelope;
    HPL_TRY(hpl_kms_start_envelope(call, attachment, purpose, record, context, &envelope, aad));
    uint8_t mechanism = envelope.wrapped.mechanism;
    HPL_TRY(hpl_wraps_take(call, attachment->wraps, record));
    HPL_TRY(hpl_kms_wrap(call, attachment, record, aad, secret, &envelope.wrapped));
    HPL_CHECK(envelope.wrapped.mechanism == mechanism);
    hpl_envelope_encode(&envelope, out);
    return hpl_buf_check(out);
}

enum hpl_status hpl_kms_generate_on(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_purpose purpose, const struct hpl_key_record *record,
                                    const struct hpl_context *context, size_t len, struct hpl_secret **secret, struct hpl_buf *out)
{
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    HPL_TRY(hpl_kms_new_secret(call, attachment, len, &made));
    HPL_TRY(hpl_kms_seal_on(call, attachment, purpose, record, context, made, out));
    *secret = made;
    made = NULL;
    return HPL_OK;
}

/* Which mechanisms a keystore opens is its own to say: a token may wrap in another one than it did. */
enum hpl_status hpl_kms_bind(struct hpl_call *call, const struct hpl_key_record *record, const struct hpl_envelope *envelope, const struct hpl_context *context,
                             uint8_t aad[static HPL_WRAP_AAD_LEN])
{
    if (envelope->version > record->version)
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    return hpl_envelope_aad(call, envelope, context, aad);
}

enum hpl_status hpl_kms_open_on(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                const struct hpl_envelope *envelope, const struct hpl_context *context, struct hpl_secret **secret)
{
    uint8_t aad[HPL_WRAP_AAD_LEN];
    HPL_TRY(hpl_kms_bind(call, record, envelope, context, aad));
    return hpl_kms_unwrap(call, attachment, record, envelope->version, aad, &envelope->wrapped, secret);
}

enum hpl_status hpl_kms_prove(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_status *refusal)
{
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_buf bytes = {0};
    struct hpl_envelope envelope;
    struct hpl_call quiet = {0};
    enum hpl_status status = hpl_attachment_record(&quiet, attachment, hpl_kms_default_of(&attachment->settings), true, &record, NULL);
    enum hpl_status usable = status == HPL_OK && record.state != HPL_STATE_CREATING ? hpl_record_usable(&quiet, &record) : HPL_OK;
    if (refusal)
        *refusal = status == HPL_INTEGRITY ? status : usable;
    if (status == HPL_NO_SUCH_KEY || status == HPL_INTEGRITY || (status == HPL_OK && record.state != HPL_STATE_ENABLED))
        return attachment->keystore->ops->probe(attachment->keystore, call);
    if (status != HPL_OK)
        return hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
    status = hpl_kms_generate_on(call, attachment, HPL_PURPOSE_CONFIGURATION, &record, NULL, 32, &made, &bytes);
    if (status == HPL_OK)
        status = hpl_envelope_decode(call, hpl_buf_bytes(&bytes), &envelope);
    if (status == HPL_OK)
        status = hpl_kms_open_on(call, attachment, &record, &envelope, NULL, &opened);
    if (status == HPL_OK && (opened->len != made->len || !hpl_equal_secret(opened->bytes, made->bytes, made->len)))
        status = hpl_fail(call, HPL_INTEGRITY, "the key backend unwrapped something else than it wrapped");
    hpl_buf_wipe(&bytes);
    return status;
}

static void log_use(const struct hpl_call *call, const char *event, const struct hpl_key_record *record, uint32_t version, enum hpl_purpose purpose)
{
    hpl_log(HPL_LOG_DEBUG, event, HPL_S("key_id", record->key_id), HPL_N("version", version), HPL_N("purpose", purpose),
            HPL_S("request_id", call ? call->request_id : ""));
}

void hpl_kms_fill_ref(struct hpl_key_ref *ref, const struct hpl_attachment *attachment, const struct hpl_key_record *record, uint32_t version)
{
    if (!ref)
        return;
    *ref = (struct hpl_key_ref){.version = version};
    memcpy(ref->instance, attachment->keystore->instance, sizeof ref->instance);
    memcpy(ref->uid, record->uid, sizeof ref->uid);
    memcpy(ref->key_id, record->key_id, sizeof ref->key_id);
}

/* HPL_NO_SUCH_KEY also while it is still being made. */
static enum hpl_status find_default(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool may_be_cached,
                                    struct hpl_key_record *record)
{
    struct hpl_call quiet = hpl_kms_attempt_of(call, &attachment->settings);
    enum hpl_status status = hpl_attachment_record(&quiet, attachment, key_id, may_be_cached, record, NULL);
    if (status == HPL_OK && record->state == HPL_STATE_CREATING) {
        hpl_record_wipe(record);
        return HPL_NO_SUCH_KEY;
    }
    return status == HPL_NO_SUCH_KEY ? status : hpl_kms_pass_on(call, &quiet, status);
}

/* Makes the default key, once in this process; another node that is making it too is waited for. */
static enum hpl_status make_default(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record)
{
    const struct hpl_key_create create = {.key_id = key_id, .description = "default key, made on first use", .created_by = "hardplate"};
    for (unsigned attempt = 1;; attempt++) {
        struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
        enum hpl_status status = find_default(&sub, attachment, key_id, false, record);
        if (status == HPL_NO_SUCH_KEY)
            status = hpl_kms_make_key(&sub, attachment, &create, record);
        if (status == HPL_OK)
            return HPL_OK;
        hpl_record_wipe(record);
        if ((status != HPL_KEY_EXISTS && status != HPL_STALE) || attempt == MAX_RACES || hpl_retry_wait(&sub, attempt, HPL_FIRST_WAIT_MS, HPL_MOST_WAIT_MS) != HPL_OK)
            return hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    }
}

/* The record of the key to wrap under; the default key is made when it is not there yet. */
static enum hpl_status key_to_use(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record)
{
    if (key_id && *key_id) {
        if (hpl_kms_check_key_id(NULL, key_id) != HPL_OK)
            return hpl_fail(call, HPL_NO_SUCH_KEY, "no key '%.80s'", key_id);
        return hpl_attachment_record(call, attachment, key_id, true, record, NULL);
    }
    const char *fallback = hpl_kms_default_of(&attachment->settings);
    enum hpl_status status = find_default(call, attachment, fallback, true, record);
    if (status != HPL_NO_SUCH_KEY)
        return status;
    pthread_mutex_lock(&attachment->making);
    status = make_default(call, attachment, fallback, record);
    pthread_mutex_unlock(&attachment->making);
    return status;
}

enum hpl_status hpl_kms_find_wrapper(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, const char *key_id, const struct hpl_context *context,
                                     struct hpl_attachment **attachment, struct hpl_key_record *record)
{
    HPL_TRY(hpl_kms_acquire(kms, call, attachment));
    HPL_TRY(key_to_use(call, *attachment, key_id, record));
    return hpl_key_may_be_used(call, record, HPL_OP_GENERATE, purpose, context);
}

enum hpl_status hpl_kms_generate(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, const char *key_id,
                                 const struct hpl_context *context, size_t len, struct hpl_secret **secret, struct hpl_buf *envelope, struct hpl_key_ref *ref)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    *secret = NULL;
    HPL_CHECK(len == 16 || len == 32);
    HPL_TRY(hpl_kms_find_wrapper(kms, call, purpose, key_id, context, &attachment, &record));
    if (hpl_bucket_key_is_wanted(&record, purpose, context, len))
        HPL_TRY(hpl_bucket_key_generate(call, attachment, &record, context, secret, envelope));
    else
        HPL_TRY(hpl_kms_generate_on(call, attachment, purpose, &record, context, len, secret, envelope));
    hpl_kms_fill_ref(ref, attachment, &record, record.version);
    log_use(call, "kms.generate", &record, record.version, purpose);
    return HPL_OK;
}

/* Either form of an envelope, taken apart. */
struct sealed {
    bool is_bucket;
    struct hpl_bucket_envelope outer; /* where it is */
    struct hpl_envelope envelope;
    struct hpl_bytes wire;            /* the envelope's */
};

static enum hpl_status read_sealed(struct hpl_call *call, enum hpl_purpose purpose, struct hpl_bytes bytes, struct sealed *out)
{
    unsigned wanted = purpose;
    out->is_bucket = hpl_envelope_is_bucket(bytes);
    out->wire = bytes;
    if (out->is_bucket) {
        HPL_TRY(hpl_bucket_envelope_decode(call, bytes, &out->outer));
        out->wire = out->outer.inner;
        wanted = purpose == HPL_PURPOSE_OBJECT ? HPL_PURPOSE_BUCKET_KEY : 0; /* this form is for objects alone */
    }
    HPL_TRY(hpl_envelope_decode(call, out->wire, &out->envelope));
    if (out->envelope.purpose != wanted)
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    return HPL_OK;
}

enum hpl_status hpl_kms_sealing_record(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_envelope *envelope,
                                       struct hpl_key_record *record, bool *is_stale)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    HPL_TRY(hpl_attachment_key_id(call, attachment, envelope->uid, key_id));
    enum hpl_status status = hpl_attachment_record_to_open(call, attachment, key_id, record, is_stale);
    if (status == HPL_NO_SUCH_KEY) /* it was there: what a keystore does not find is unavailable, never deleted */
        return hpl_fail_over(call, HPL_KEY_UNAVAILABLE, "the record of the key '%.80s' that sealed this is not in the keystore now", key_id);
    HPL_TRY(status);
    if (memcmp(record->uid, envelope->uid, sizeof record->uid) != 0)
        return hpl_fail(call, HPL_KEY_DESTROYED, "the key '%.80s' that sealed this was destroyed; another one has its id now", key_id);
    return HPL_OK;
}

/* What the key's caching choice lets us keep of what is opened under it. */
static struct hpl_secret_term term_of(const struct hpl_attachment *attachment, const struct hpl_key_record *record)
{
    return (struct hpl_secret_term){.instance = attachment->keystore->instance, .uid = record->uid, .fresh_ns = record->caching.decrypt_seconds * 1000000000ull,
                                    .outage_ns = record->caching.outage_seconds * 1000000000ull, .uses = record->caching.decrypt_uses};
}

enum hpl_status hpl_kms_decrypt(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, struct hpl_bytes bytes,
                                const struct hpl_context *context, struct hpl_secret **secret, struct hpl_key_ref *ref)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    struct sealed sealed;
    struct hpl_opening opening = {.record = &record, .envelope = &sealed.envelope, .context = context, .cache = &kms->shared.decrypts};
    *secret = NULL;
    HPL_TRY(hpl_kms_ready(kms, call));
    HPL_TRY(read_sealed(call, purpose, bytes, &sealed));
    HPL_TRY(hpl_kms_acquire_instance(kms, call, sealed.envelope.instance, &attachment));
    HPL_TRY(hpl_kms_sealing_record(call, attachment, &sealed.envelope, &record, &opening.is_stale));
    HPL_TRY(hpl_key_may_be_used(call, &record, HPL_OP_DECRYPT, purpose, context));
    opening.attachment = attachment;
    opening.wire = sealed.wire;
    opening.term = term_of(attachment, &record);
    if (sealed.is_bucket)
        HPL_TRY(hpl_bucket_key_open(call, &opening, &sealed.outer, context, secret));
    else
        HPL_TRY(hpl_opening_run(call, &opening, secret));
    hpl_kms_fill_ref(ref, attachment, &record, sealed.envelope.version);
    log_use(call, "kms.decrypt", &record, sealed.envelope.version, purpose);
    return HPL_OK;
}
