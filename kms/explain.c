/* What an envelope is and whether it opens now, for people who ask why. Any thread; blocks on the backend. No secrets in answers. */
#include "kms/internal.h"

#include "base/codec.h"

static const char *mechanism_name(uint8_t mechanism)
{
    static const char *const names[] = {[HPL_MECH_LOCAL_GCM] = "local-aes-gcm", [HPL_MECH_P11_GCM] = "aes-gcm", [HPL_MECH_P11_CBC_HMAC] = "aes-cbc-hmac",
                                        [HPL_MECH_P11_OAEP_HMAC] = "rsa-oaep-hmac", [HPL_MECH_TRANSIT] = "transit"};
    return mechanism < HPL_COUNT(names) && names[mechanism] ? names[mechanism] : "unknown";
}

/* From the bytes alone. */
static json_t *facts_of(const struct hpl_sealer *sealer)
{
    char uid[2 * HPL_KEY_UID_LEN + 1];
    const struct hpl_envelope *envelope = &sealer->envelope;
    hpl_hex_encode(uid, envelope->uid, sizeof envelope->uid);
    return json_pack("{s:s, s:b, s:s, s:s, s:I, s:n, s:n, s:n}", "purpose", hpl_purpose_name((uint8_t)sealer->purpose), "bucket_key", sealer->is_bucket,
                     "mechanism", mechanism_name(envelope->wrapped.mechanism), "key_uid", uid, "version", (json_int_t)envelope->version, "key_id", "key_state",
                     "current_version");
}

static void put_key(const struct hpl_key_record *record, json_t *answer)
{
    json_object_set_new(answer, "key_id", json_string(record->key_id));
    json_object_set_new(answer, "key_state", json_string(hpl_record_state_name(record->state)));
    json_object_set_new(answer, "current_version", json_integer(record->version));
}

static void put_verdict(const struct hpl_call *call, enum hpl_status status, json_t *answer)
{
    json_object_set_new(answer, "opens", json_boolean(status == HPL_OK));
    json_object_set_new(answer, "code", json_string(hpl_status_row(status)->kms_code));
    json_object_set_new(answer, "why", status == HPL_OK ? json_null() : json_string(hpl_detail(call, status)));
    if (status == HPL_KEY_UNAVAILABLE && json_is_string(json_object_get(answer, "key_state")))
        json_object_set_new(answer, "key_state", json_string("Unavailable"));
}

enum hpl_status hpl_kms_explain(struct hpl_kms *kms, struct hpl_call *call, struct hpl_bytes bytes, const struct hpl_context *context, json_t **answer)
{
    struct hpl_sealer HPL_SEALER_AUTO sealer = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    HPL_TRY(hpl_sealer_read(call, bytes, &sealer));
    *answer = facts_of(&sealer);
    if (!*answer)
        return HPL_NO_MEMORY;
    enum hpl_status status = hpl_kms_find_sealer(kms, &sub, bytes, &sealer);
    if (sealer.record.key_id[0])
        put_key(&sealer.record, *answer);
    if (status == HPL_OK)
        status = hpl_kms_decrypt(kms, &sub, sealer.purpose, bytes, context, &secret, NULL);
    json_object_set_new(*answer, "keystore", hpl_kms_keystore_json(kms, sealer.envelope.instance));
    put_verdict(&sub, status, *answer);
    return HPL_OK;
}
