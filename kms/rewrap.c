/* Sealing a data key again under another version, key or keystore. Any thread; blocks on the backends. */
#include "kms/internal.h"

#include "base/log.h"

void hpl_sealer_wipe(struct hpl_sealer *sealer)
{
    hpl_attachment_unref(sealer->attachment);
    hpl_record_wipe(&sealer->record);
    *sealer = (struct hpl_sealer){0};
}

enum hpl_status hpl_sealer_read(struct hpl_call *call, struct hpl_bytes envelope, struct hpl_sealer *sealer)
{
    struct hpl_bucket_envelope outer;
    sealer->is_bucket = hpl_envelope_is_bucket(envelope);
    if (sealer->is_bucket) {
        HPL_TRY(hpl_bucket_envelope_decode(call, envelope, &outer));
        envelope = outer.inner;
    }
    HPL_TRY(hpl_envelope_decode(call, envelope, &sealer->envelope));
    sealer->purpose = sealer->is_bucket ? HPL_PURPOSE_OBJECT : (enum hpl_purpose)sealer->envelope.purpose;
    return HPL_OK;
}

enum hpl_status hpl_kms_find_sealer(struct hpl_kms *kms, struct hpl_call *call, struct hpl_bytes envelope, struct hpl_sealer *sealer)
{
    bool is_stale;
    HPL_TRY(hpl_kms_ready(kms, call));
    HPL_TRY(hpl_sealer_read(call, envelope, sealer));
    HPL_TRY(hpl_kms_acquire_instance(kms, call, sealer->envelope.instance, &sealer->attachment));
    return hpl_kms_sealing_record(call, sealer->attachment, &sealer->envelope, &sealer->record, &is_stale);
}

/* The key to seal under, in the active keystore. */
static enum hpl_status find_target(struct hpl_call *call, const struct hpl_sealer *sealer, struct hpl_attachment *active, const char *key_id,
                                   struct hpl_key_record *record)
{
    if (key_id && hpl_kms_check_key_id(NULL, key_id) != HPL_OK)
        return hpl_fail(call, HPL_NO_SUCH_KEY, "no key '%.80s'", key_id);
    enum hpl_status status = hpl_attachment_record(call, active, key_id ? key_id : sealer->record.key_id, true, record, NULL);
    if (status == HPL_NO_SUCH_KEY && !key_id)
        return hpl_fail_over(call, HPL_NO_SUCH_KEY, "the active keystore has no key '%.80s' as the one that sealed this; make it, or name another with 'key_id'",
                             sealer->record.key_id);
    return status;
}

static void log_rewrap(const struct hpl_call *call, const struct hpl_sealer *sealer, const struct hpl_key_record *target)
{
    hpl_log(HPL_LOG_INFO, "kms.rewrap", HPL_S("from", sealer->record.key_id), HPL_N("from_version", sealer->envelope.version), HPL_S("key_id", target->key_id),
            HPL_N("version", target->version), HPL_S("principal", hpl_principal_of(call)), HPL_S("request_id", call ? call->request_id : ""));
}

enum hpl_status hpl_kms_rewrap(struct hpl_kms *kms, struct hpl_call *call, struct hpl_bytes envelope, const struct hpl_context *context, const char *key_id,
                               struct hpl_buf *out, struct hpl_key_ref *ref)
{
    struct hpl_sealer HPL_SEALER_AUTO sealer = {0};
    struct hpl_attachment *HPL_ATTACHMENT_AUTO active = NULL;
    struct hpl_key_record HPL_RECORD_AUTO target = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call own = call ? *call : (struct hpl_call){0}; /* the right to rewrap does not take the one to decrypt */
    own.principal = own.role = NULL;
    HPL_TRY(hpl_kms_find_sealer(kms, call, envelope, &sealer));
    HPL_TRY(hpl_key_may_be_used(call, &sealer.record, HPL_OP_REWRAP, sealer.purpose, context));
    HPL_TRY(hpl_kms_acquire(kms, call, &active));
    HPL_TRY(find_target(call, &sealer, active, key_id, &target));
    HPL_TRY(hpl_key_may_be_used(call, &target, HPL_OP_REWRAP, sealer.purpose, context));
    enum hpl_status status = hpl_kms_decrypt(kms, &own, sealer.purpose, envelope, context, &secret, NULL);
    if (status != HPL_OK)
        return hpl_fail(call, status, "%s", hpl_detail(&own, status));
    HPL_TRY(hpl_kms_seal_on(call, active, sealer.purpose, &target, context, secret, out));
    log_rewrap(call, &sealer, &target);
    hpl_kms_fill_ref(ref, active, &target, target.version);
    return HPL_OK;
}
