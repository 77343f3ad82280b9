/* Many data keys at once: one look at the key for all; the wraps in one call where the backend takes many, else spread over it where it takes
 * its time. Any thread; blocks on the backend. */
#include "kms/opening.h"

#include "base/clock.h"
#include "base/log.h"

#define SLOW_NS 300000u /* a wrap that takes this long is waited for, not computed: others go on meanwhile */

struct batch {
    struct hpl_call *call;
    struct hpl_call origin;    /* what it was before any wrote to it */
    struct hpl_attachment *attachment;
    enum hpl_purpose purpose;
    const struct hpl_key_record *record;
    const struct hpl_context *context;
    size_t len;
    struct hpl_data_key *keys;
    _Atomic int failure;       /* enum hpl_status of the first one that failed */
    pthread_mutex_t lock;      /* around call's detail */
};

static void note_failure(struct batch *batch, enum hpl_status status, const struct hpl_call *sub)
{
    pthread_mutex_lock(&batch->lock);
    if (atomic_load(&batch->failure) == HPL_OK) {
        if (batch->call)
            batch->call->retry_after_s = sub->retry_after_s;
        atomic_store(&batch->failure, (int)hpl_fail(batch->call, status, "%s", hpl_detail(sub, status)));
    }
    pthread_mutex_unlock(&batch->lock);
}

static void make_one(void *arg, size_t index)
{
    struct batch *batch = arg;
    struct hpl_data_key *key = &batch->keys[index];
    struct hpl_call sub = batch->origin;
    if (atomic_load(&batch->failure) != HPL_OK)
        return;
    enum hpl_status status =
        hpl_bucket_key_is_wanted(batch->record, batch->purpose, batch->context, batch->len)
            ? hpl_bucket_key_generate(&sub, batch->attachment, batch->record, batch->context, &key->secret, &key->envelope)
            : hpl_kms_generate_on(&sub, batch->attachment, batch->purpose, batch->record, batch->context, batch->len, &key->secret, &key->envelope);
    if (status != HPL_OK)
        note_failure(batch, status, &sub);
}

/* In one call, where the backend takes many at once. */
static enum hpl_status make_at_once(struct batch *batch, size_t count)
{
    uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_envelope envelope;
    struct hpl_secret *secrets[HPL_WRAP_MANY_MAX];
    struct hpl_wrapped wrapped[HPL_WRAP_MANY_MAX];
    HPL_TRY(hpl_kms_start_envelope(batch->call, batch->attachment, batch->purpose, batch->record, batch->context, &envelope, aad));
    for (size_t i = 0; i < count; i++) {
        HPL_TRY(hpl_kms_new_secret(batch->call, batch->attachment, batch->len, &batch->keys[i].secret));
        HPL_TRY(hpl_wraps_take(batch->call, batch->attachment->wraps, batch->record));
        secrets[i] = batch->keys[i].secret;
    }
    HPL_TRY(hpl_kms_wrap_many(batch->call, batch->attachment, batch->record, aad, secrets, wrapped, count));
    for (size_t i = 0; i < count; i++) {
        HPL_CHECK(wrapped[i].mechanism == envelope.wrapped.mechanism);
        envelope.wrapped = wrapped[i];
        hpl_envelope_encode(&envelope, &batch->keys[i].envelope);
        HPL_TRY(hpl_buf_check(&batch->keys[i].envelope));
    }
    return HPL_OK;
}

static bool is_one_call(const struct batch *batch, size_t count)
{
    return count > 1 && count <= HPL_WRAP_MANY_MAX && batch->attachment->keystore->ops->wrap_many &&
           !hpl_bucket_key_is_wanted(batch->record, batch->purpose, batch->context, batch->len);
}

/* One by one; spread where a wrap takes its time. */
static enum hpl_status make_each(struct hpl_kms *kms, struct batch *batch, size_t count)
{
    uint64_t began = hpl_clock_mono_ns();
    pthread_mutex_init(&batch->lock, NULL);
    make_one(batch, 0);
    if (count > 1 && hpl_clock_mono_ns() - began >= SLOW_NS)
        hpl_spread_run(&kms->shared.spread, 1, count, (unsigned)batch->attachment->settings.queue / 4, make_one, batch); /* leaves room at the gate for others */
    else
        for (size_t i = 1; i < count; i++)
            make_one(batch, i);
    pthread_mutex_destroy(&batch->lock);
    return (enum hpl_status)atomic_load(&batch->failure);
}

void hpl_data_keys_wipe(struct hpl_data_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        hpl_secret_freep(&keys[i].secret);
        hpl_buf_wipe(&keys[i].envelope);
    }
}

enum hpl_status hpl_kms_generate_many(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, const char *key_id,
                                      const struct hpl_context *context, size_t len, struct hpl_data_key *keys, size_t count, struct hpl_key_ref *ref)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_CHECK(len == 16 || len == 32);
    memset(keys, 0, count * sizeof *keys);
    HPL_TRY(hpl_kms_find_wrapper(kms, call, purpose, key_id, context, &attachment, &record));
    struct batch batch = {.call = call, .attachment = attachment, .purpose = purpose, .record = &record, .context = context, .len = len, .keys = keys};
    if (call)
        batch.origin = *call;
    batch.origin.detail[0] = '\0';
    enum hpl_status status = is_one_call(&batch, count) ? make_at_once(&batch, count) : make_each(kms, &batch, count);
    if (status != HPL_OK)
        hpl_data_keys_wipe(keys, count);
    else
        hpl_kms_fill_ref(ref, attachment, &record, record.version);
    hpl_log(HPL_LOG_DEBUG, "kms.generate_many", HPL_S("key_id", record.key_id), HPL_N("version", record.version), HPL_N("purpose", purpose),
            HPL_N("count", count), HPL_S("request_id", call ? call->request_id : ""));
    return status;
}
