/* The caching member of a key's record: what an administrator lets the service keep of the key's data keys. Any thread. */
#include "kms/internal.h"

#define MAX_DECRYPT_SECONDS 60
#define MAX_DECRYPT_USES 1000
#define MAX_BUCKET_MINUTES 15
#define MAX_BUCKET_OBJECTS (1 << 20)
#define MAX_OUTAGE_SECONDS 3600
#define BUCKET_MINUTES 5  /* unless said otherwise */
#define RECORD_SECONDS 60 /* how old a record may be that lets a bucket key or an outage cache be used */

static enum hpl_status read_number(struct hpl_call *call, const json_t *object, const char *name, int64_t least, int64_t most, uint32_t *out)
{
    int64_t number = *out;
    HPL_TRY(hpl_json_int(call, object, name, least, most, &number));
    *out = (uint32_t)number;
    return HPL_OK;
}

static enum hpl_status read_outage(struct hpl_call *call, const json_t *object, uint32_t *seconds)
{
    const json_t *outage = json_object_get(object, "outage");
    if (json_is_object(outage) && json_object_get(outage, "cache_seconds"))
        return read_number(call, outage, "cache_seconds", 1, MAX_OUTAGE_SECONDS, seconds);
    if (!outage || json_is_null(outage) || (json_is_string(outage) && strcmp(json_string_value(outage), "fail_closed") == 0))
        return HPL_OK;
    return hpl_fail(call, HPL_INVALID_REQUEST, "'outage' must be \"fail_closed\" or {\"cache_seconds\": 1 to %d}", MAX_OUTAGE_SECONDS);
}

static enum hpl_status read_bucket_key(struct hpl_call *call, const json_t *object, struct hpl_key_caching *caching)
{
    bool is_on = false;
    HPL_TRY(hpl_json_bool(call, object, "bucket_key", &is_on));
    caching->bucket_minutes = BUCKET_MINUTES;
    caching->bucket_objects = MAX_BUCKET_OBJECTS;
    HPL_TRY(read_number(call, object, "bucket_key_minutes", 1, MAX_BUCKET_MINUTES, &caching->bucket_minutes));
    HPL_TRY(read_number(call, object, "bucket_key_objects", 1, MAX_BUCKET_OBJECTS, &caching->bucket_objects));
    if (!is_on)
        caching->bucket_minutes = caching->bucket_objects = 0;
    return HPL_OK;
}

enum hpl_status hpl_caching_read(struct hpl_call *call, const json_t *object, struct hpl_key_caching *out)
{
    struct hpl_key_caching caching = {.decrypt_uses = MAX_DECRYPT_USES};
    *out = (struct hpl_key_caching){0};
    if (!object)
        return HPL_OK;
    HPL_TRY(read_number(call, object, "decrypt_seconds", 0, MAX_DECRYPT_SECONDS, &caching.decrypt_seconds));
    HPL_TRY(read_number(call, object, "decrypt_uses", 1, MAX_DECRYPT_USES, &caching.decrypt_uses));
    HPL_TRY(read_bucket_key(call, object, &caching));
    HPL_TRY(read_outage(call, object, &caching.outage_seconds));
    if (!caching.decrypt_seconds)
        caching.decrypt_uses = 0;
    *out = caching;
    return HPL_OK;
}

json_t *hpl_caching_json(const struct hpl_key_caching *caching)
{
    json_t *outage = caching->outage_seconds ? json_pack("{s:I}", "cache_seconds", (json_int_t)caching->outage_seconds) : json_string("fail_closed");
    json_t *value = json_pack("{s:I, s:b, s:o}", "decrypt_seconds", (json_int_t)caching->decrypt_seconds, "bucket_key", caching->bucket_minutes > 0, "outage", outage);
    if (value && caching->decrypt_seconds)
        json_object_set_new(value, "decrypt_uses", json_integer(caching->decrypt_uses));
    if (value && caching->bucket_minutes) {
        json_object_set_new(value, "bucket_key_minutes", json_integer(caching->bucket_minutes));
        json_object_set_new(value, "bucket_key_objects", json_integer(caching->bucket_objects));
    }
    return value;
}

uint64_t hpl_caching_bound_ns(const struct hpl_key_caching *caching)
{
    if (!caching->decrypt_seconds && !caching->bucket_minutes && !caching->outage_seconds)
        return 0;
    return (caching->decrypt_seconds ? caching->decrypt_seconds : RECORD_SECONDS) * 1000000000ull;
}

static enum hpl_status set_caching(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *caching)
{
    (void)attachment;
    if (record->state == HPL_STATE_GONE)
        return hpl_record_usable(call, record);
    record->caching = *(const struct hpl_key_caching *)caching;
    return HPL_OK;
}

enum hpl_status hpl_kms_set_caching(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *body, json_t **metadata)
{
    struct hpl_key_caching caching;
    HPL_TRY(hpl_caching_read(call, body, &caching));
    return hpl_kms_change_key(kms, call, key_id, set_caching, &caching, "kms.key.caching", metadata);
}
