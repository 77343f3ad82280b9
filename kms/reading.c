/* What a key says of itself, what needs it, and lists of keys. Any thread; blocks on the backend and the census. */
#include "kms/internal.h"

#include <stdio.h>

#include "base/clock.h"

#define DEFAULT_PAGE 100u
#define MAX_PAGE 1000u
#define FAR_PAGE 16u /* records asked for in one call of a backend far away: each is a request, and all have one deadline */
#define PATIENCE_NS 5000000000u /* for who only wants to know */

bool hpl_kms_count_objects(struct hpl_kms *kms, const struct hpl_census *what, uint64_t *count)
{
    struct hpl_call quiet = {0};
    pthread_mutex_lock(&kms->lock);
    hpl_census_fn census = kms->census;
    void *arg = kms->census_arg;
    pthread_mutex_unlock(&kms->lock);
    *count = 0;
    return census && census(arg, &quiet, what, count) == HPL_OK;
}

enum hpl_status hpl_kms_metadata(struct hpl_kms *kms, const struct hpl_key_record *record, json_t **out)
{
    uint64_t count;
    *out = hpl_record_metadata(record);
    if (!*out)
        return HPL_NO_MEMORY;
    if (hpl_kms_count_objects(kms, &(struct hpl_census){.uid = record->uid}, &count))
        json_object_set_new(*out, "objects", json_integer((json_int_t)count));
    return HPL_OK;
}

/* What a wrap of nothing says of the material: "Unavailable" where the keystore does not find it. */
static void put_availability(const struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record, json_t *metadata)
{
    static const uint8_t aad[HPL_WRAP_AAD_LEN] = "hpl-is-it-there";
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO nothing = hpl_secret_new(32);
    uint64_t patience = hpl_clock_mono_ns() + PATIENCE_NS;
    sub.deadline_ns = sub.deadline_ns < patience ? sub.deadline_ns : patience;
    if (!nothing || hpl_breaker_is_open(attachment->breaker) || (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED))
        return;
    if (hpl_wraps_take(&sub, attachment->wraps, record) != HPL_OK ||
        hpl_kms_wrap(&sub, attachment, record, aad, nothing, &wrapped) != HPL_KEY_UNAVAILABLE || hpl_breaker_is_open(attachment->breaker))
        return;
    json_object_set_new(metadata, "key_state", json_string("Unavailable"));
    json_object_set_new(metadata, "unavailable_reason", json_string(hpl_detail(&sub, HPL_KEY_UNAVAILABLE)));
}

static void put_wraps(struct hpl_attachment *attachment, const struct hpl_key_record *record, json_t *metadata)
{
    uint64_t count;
    struct hpl_call quiet = {0};
    int64_t most = hpl_record_rotation(record, "max_wraps");
    if (!most || hpl_wraps_count(&quiet, attachment->wraps, record, &count) != HPL_OK)
        return;
    json_object_set_new(metadata, "wraps", json_integer((json_int_t)count));
    if (record->state != HPL_STATE_ENABLED || count < (uint64_t)most)
        return;
    json_object_set_new(metadata, "rotation_due", json_true());
    json_object_set_new(metadata, "rotation_due_reason", json_string("wraps"));
}

enum hpl_status hpl_kms_describe_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(hpl_attachment_kept_record(call, attachment, key_id, false, &record, NULL));
    HPL_TRY(hpl_kms_metadata(kms, &record, metadata));
    put_wraps(attachment, &record, *metadata);
    put_availability(call, attachment, &record, *metadata);
    return HPL_OK;
}

/* --- what needs it --------------------------------------------------------------------------------------------------------- */

static void add_objects(json_t *references, uint32_t version, uint64_t count)
{
    char id[24], detail[96];
    snprintf(id, sizeof id, "version %u", version);
    snprintf(detail, sizeof detail, "%llu objects and uploads are sealed under it", (unsigned long long)count);
    json_array_append_new(references, json_pack("{s:s, s:s, s:s}", "kind", "objects", "id", id, "detail", detail));
}

/* What would be lost or broken without the key, as far as anybody counts. */
static json_t *impact_of(struct hpl_kms *kms, const struct hpl_key_record *record)
{
    json_t *references = json_array();
    char default_key[HPL_KEY_ID_MAX + 1];
    uint64_t total, count;
    bool is_counted = hpl_kms_count_objects(kms, &(struct hpl_census){.uid = record->uid}, &total);
    for (uint32_t version = 1; is_counted && total && version <= record->version; version++)
        if (hpl_kms_count_objects(kms, &(struct hpl_census){.uid = record->uid, .version = version}, &count) && count)
            add_objects(references, version, count);
    hpl_kms_default_key(kms, default_key);
    if (strcmp(default_key, record->key_id) == 0)
        json_array_append_new(references, json_pack("{s:s, s:s, s:s}", "kind", "configuration", "id", "default_key_id", "detail", "what names no key uses this one"));
    json_t *scanned = is_counted ? json_pack("[s, s]", "objects", "configuration") : json_pack("[s]", "configuration");
    json_t *not_scanned = is_counted ? json_pack("[s]", "data-keys-of-the-api") : json_pack("[s, s]", "objects", "data-keys-of-the-api");
    return json_pack("{s:s, s:o, s:{s:o, s:o}, s:s}", "key_id", record->key_id, "references", references, "coverage", "scanned", scanned, "not_scanned",
                     not_scanned, "completeness", "partial");
}

enum hpl_status hpl_kms_impact(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **impact)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(hpl_attachment_kept_record(call, attachment, key_id, false, &record, NULL));
    *impact = impact_of(kms, &record);
    return *impact ? HPL_OK : HPL_NO_MEMORY;
}

/* --- lists ----------------------------------------------------------------------------------------------------------------- */

struct listing {
    json_t *keys;
    size_t limit, seen;
    const char *status; /* NULL: any */
    char last[HPL_KEY_ID_MAX + 1], scanned[HPL_KEY_ID_MAX + 1];
    bool is_truncated;
};

static json_t *list_row(const char *key_id, enum hpl_status status, struct hpl_bytes content)
{
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    if (status != HPL_OK || hpl_record_decode(NULL, content, &record) != HPL_OK)
        return json_pack("{s:s, s:n, s:s, s:s}", "key_id", key_id, "description", "status", "Damaged", "key_state", "Damaged");
    json_t *HPL_JSON_AUTO metadata = hpl_record_metadata(&record);
    return json_pack("{s:s, s:O, s:s, s:s, s:s, s:s, s:I, s:O, s:O, s:O, s:O, s:O, s:O}", "key_id", key_id, "description", record.description, "algorithm",
                     "AES-256", "usage", "ENCRYPT_DECRYPT", "status", hpl_record_listed_name(record.state), "key_state", hpl_record_state_name(record.state),
                     "version", (json_int_t)record.version, "tags", record.tags, "created_at", json_object_get(metadata, "creation_date"), "rotated_at",
                     json_object_get(metadata, "rotation_date"), "created_by", record.created_by, "rotation_due", json_object_get(metadata, "rotation_due"),
                     "rotation_due_reason", json_object_get(metadata, "rotation_due_reason"));
}

static bool add_row(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct listing *listing = arg;
    (void)revision;
    listing->seen++;
    memcpy(listing->scanned, key_id, strlen(key_id) + 1);
    json_t *HPL_JSON_AUTO row = list_row(key_id, status, content);
    if (!row || (listing->status && strcmp(listing->status, json_string_value(json_object_get(row, "status"))) != 0))
        return true;
    if (json_array_size(listing->keys) == listing->limit) {
        listing->is_truncated = true;
        return false;
    }
    json_array_append(listing->keys, row);
    memcpy(listing->last, key_id, strlen(key_id) + 1);
    return true;
}

/* The records that fail to verify, by their ids. */
static json_t *unreadable(const json_t *keys)
{
    json_t *ids = json_array();
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)keys, i, row)
        if (strcmp(json_string_value(json_object_get(row, "status")), "Damaged") == 0)
            json_array_append(ids, json_object_get(row, "key_id"));
    return ids;
}

enum hpl_status hpl_kms_list_keys(struct hpl_kms *kms, struct hpl_call *call, size_t limit, const char *marker, const char *status, json_t **answer)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    json_t *HPL_JSON_AUTO keys = json_array();
    struct listing listing = {.keys = keys, .limit = !limit ? DEFAULT_PAGE : limit > MAX_PAGE ? MAX_PAGE : limit};
    enum hpl_key_state state;
    if (status && !hpl_record_is_state_name(status, &state))
        return hpl_fail(call, HPL_INVALID_REQUEST, "no key state is named '%.40s'", status);
    listing.status = status ? hpl_record_listed_name(state) : NULL;
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    size_t page = status ? MAX_PAGE : listing.limit + 1;
    if (attachment->keystore->ops->has_far_records && page > FAR_PAGE)
        page = FAR_PAGE;
    do {
        listing.seen = 0;
        HPL_TRY(hpl_kms_list_records(call, attachment, listing.scanned[0] ? listing.scanned : marker, page, add_row, &listing));
    } while (listing.seen == page && !listing.is_truncated);
    *answer = json_pack("{s:O, s:b, s:s?, s:o}", "keys", keys, "truncated", listing.is_truncated, "next_marker", listing.is_truncated ? listing.last : NULL,
                        "unreadable_key_ids", unreadable(keys));
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}
