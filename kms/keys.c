/* Keys: every change of a record is a compare-and-swap. Any thread; blocks on the backend. */
#include "kms/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"

#define DAY_MS (24ll * 3600 * 1000)
#define MAX_RACES 8
#define DEFAULT_PAGE 100u
#define PATIENCE_NS 5000000000u /* for who only wants to know */
#define MAX_PAGE 1000u

const char *hpl_kms_default_of(const struct hpl_kms_settings *settings)
{
    return settings->default_key_id[0] ? settings->default_key_id : HPL_KMS_FALLBACK_KEY;
}

/* The audit line of a key operation. */
static void log_key(const struct hpl_call *call, const char *event, const struct hpl_key_record *record)
{
    hpl_log(HPL_LOG_INFO, event, HPL_S("key_id", record->key_id), HPL_N("version", record->version), HPL_S("principal", hpl_principal_of(call)),
            HPL_S("request_id", call ? call->request_id : ""));
}

/* --- create -------------------------------------------------------------------------------------------------------------- */

/* Both spellings of the documents. */
static enum hpl_status check_create(struct hpl_call *call, const struct hpl_key_create *create)
{
    const char *usage = create->usage;
    if (usage && strcmp(usage, "ENCRYPT_DECRYPT") != 0 && strcmp(usage, "EncryptDecrypt") != 0)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the key usage '%.40s' is not served here; use ENCRYPT_DECRYPT", usage);
    if (create->description)
        HPL_TRY(hpl_key_check_description(call, create->description));
    return hpl_key_check_tags(call, create->tags);
}

/* A key is trusted once what it wrapped came back. */
static enum hpl_status try_key(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record)
{
    uint8_t aad[HPL_WRAP_AAD_LEN] = "hpl-new-key-check";
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO made = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    if (!made)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(hpl_kms_wrap(call, attachment, record, aad, made, &wrapped));
    HPL_TRY(hpl_kms_unwrap(call, attachment, record, record->version, aad, &wrapped, &opened));
    if (opened->len != made->len || !hpl_equal_secret(opened->bytes, made->bytes, made->len))
        return hpl_fail(call, HPL_INTEGRITY, "the new key unwrapped something else than it wrapped; it is not used");
    return HPL_OK;
}

/* A record in state creating: new, taken over from a creation that died, or in place of a destroyed key of the same id. */
static enum hpl_status claim_record(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_create *create, const char *key_id,
                                    struct hpl_key_record *record, uint64_t *revision)
{
    struct hpl_key_record HPL_RECORD_AUTO old = {0};
    struct hpl_call quiet = {0};
    char former[2 * HPL_KEY_UID_LEN + 1];
    *revision = 0;
    enum hpl_status status = hpl_attachment_kept_record(&quiet, attachment, key_id, false, &old, revision);
    if (status != HPL_OK && status != HPL_NO_SUCH_KEY)
        return hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
    if (status == HPL_OK && old.state != HPL_STATE_CREATING && old.state != HPL_STATE_GONE)
        return hpl_fail(call, HPL_KEY_EXISTS, "a key '%.80s' exists", key_id);
    if (hpl_record_init(record, create, key_id) != HPL_OK)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the description, tags or creator are not valid UTF-8");
    if (status == HPL_OK && old.state == HPL_STATE_CREATING && old.is_imported == record->is_imported)
        memcpy(record->uid, old.uid, sizeof record->uid);
    if (status == HPL_OK && old.state == HPL_STATE_GONE) {
        hpl_hex_encode(former, old.uid, sizeof old.uid);
        json_array_extend(record->former_uids, old.former_uids);
        json_array_append_new(record->former_uids, json_string(former));
    }
    status = hpl_attachment_put(call, attachment, record, *revision);
    *revision += 1;
    return status == HPL_STALE ? hpl_fail_over(call, HPL_KEY_EXISTS, "a key '%.80s' was made meanwhile", key_id) : status;
}

enum hpl_status hpl_kms_make_key(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_create *create, struct hpl_key_record *record)
{
    char made_id[37];
    uint8_t uuid[16];
    uint64_t revision;
    const char *key_id = create->key_id;
    if (!key_id) {
        hpl_uuid_new(uuid);
        hpl_uuid_text(made_id, uuid);
        key_id = made_id;
    }
    HPL_TRY(hpl_kms_check_key_id(call, key_id));
    HPL_TRY(check_create(call, create));
    HPL_TRY(claim_record(call, attachment, create, key_id, record, &revision));
    HPL_TRY(create->material ? hpl_kms_import_version(call, attachment, record, create->material) : hpl_kms_create_version(call, attachment, record));
    HPL_TRY(try_key(call, attachment, record));
    record->state = HPL_STATE_ENABLED;
    HPL_TRY(hpl_attachment_put(call, attachment, record, revision));
    log_key(call, "kms.key.created", record);
    return HPL_OK;
}

static enum hpl_status metadata_of(const struct hpl_key_record *record, json_t **out)
{
    *out = hpl_record_metadata(record);
    return *out ? HPL_OK : HPL_NO_MEMORY;
}

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

/* The same with "objects": what whoever deletes the key should know first. */
static enum hpl_status metadata_with_objects(struct hpl_kms *kms, const struct hpl_key_record *record, json_t **out)
{
    uint64_t count;
    HPL_TRY(metadata_of(record, out));
    if (hpl_kms_count_objects(kms, &(struct hpl_census){.uid = record->uid}, &count))
        json_object_set_new(*out, "objects", json_integer((json_int_t)count));
    return HPL_OK;
}

enum hpl_status hpl_kms_create_key(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_create *create, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(hpl_kms_make_key(call, attachment, create, &record));
    return metadata_of(&record, metadata);
}

/* --- reading ------------------------------------------------------------------------------------------------------------- */

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
    if (attachment->keystore->ops->wrap(attachment->keystore, &sub, record->uid, record->version, aad, nothing, &wrapped) != HPL_KEY_UNAVAILABLE)
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
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &record, NULL));
    HPL_TRY(metadata_with_objects(kms, &record, metadata));
    put_wraps(attachment, &record, *metadata);
    put_availability(call, attachment, &record, *metadata);
    return HPL_OK;
}

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
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &record, NULL));
    *impact = impact_of(kms, &record);
    return *impact ? HPL_OK : HPL_NO_MEMORY;
}

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
        return json_pack("{s:s, s:n, s:s}", "key_id", key_id, "description", "status", "Damaged");
    json_t *HPL_JSON_AUTO metadata = hpl_record_metadata(&record);
    return json_pack("{s:s, s:O, s:s, s:s, s:O, s:I, s:O, s:O, s:O, s:O, s:O, s:O}", "key_id", key_id, "description", record.description, "algorithm",
                     "AES-256", "usage", "ENCRYPT_DECRYPT", "status", json_object_get(metadata, "key_state"), "version", (json_int_t)record.version, "tags",
                     record.tags, "created_at", json_object_get(metadata, "creation_date"), "rotated_at", json_object_get(metadata, "rotation_date"),
                     "created_by", record.created_by, "rotation_due", json_object_get(metadata, "rotation_due"), "rotation_due_reason",
                     json_object_get(metadata, "rotation_due_reason"));
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
    size_t page = status ? MAX_PAGE : listing.limit + 1;
    enum hpl_key_state state;
    if (status && !hpl_record_is_state_name(status, &state))
        return hpl_fail(call, HPL_INVALID_REQUEST, "no key state is named '%.40s'", status);
    listing.status = status ? hpl_record_state_name(state) : NULL;
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    do {
        listing.seen = 0;
        HPL_TRY(attachment->keystore->ops->record_list(attachment->keystore, call, listing.scanned[0] ? listing.scanned : marker, page, add_row, &listing));
    } while (listing.seen == page && !listing.is_truncated);
    *answer = json_pack("{s:O, s:b, s:s?, s:o}", "keys", keys, "truncated", listing.is_truncated, "next_marker", listing.is_truncated ? listing.last : NULL,
                        "unreadable_key_ids", unreadable(keys));
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

/* --- changing ------------------------------------------------------------------------------------------------------------ */

/* Reads, changes and writes the record, again when somebody else was faster. */
static enum hpl_status change_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, hpl_key_change_fn *change, const void *argument,
                                     struct hpl_key_record *record)
{
    for (int race = 0; race < MAX_RACES; race++) {
        uint64_t revision;
        struct hpl_call sub = call ? *call : (struct hpl_call){0};
        hpl_record_wipe(record);
        HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, record, &revision));
        HPL_TRY(change(call, attachment, record, argument));
        enum hpl_status status = hpl_attachment_put(&sub, attachment, record, revision);
        if (status != HPL_STALE)
            return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    }
    return hpl_fail(call, HPL_STALE, "the key '%.80s' is changed by others all the time; try again", key_id);
}

enum hpl_status hpl_kms_change_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, hpl_key_change_fn *change, const void *argument,
                                   const char *event, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(change_record(call, attachment, key_id, change, argument, &record));
    log_key(call, event, &record);
    return metadata_with_objects(kms, &record, metadata);
}

static enum hpl_status schedule(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *window_days)
{
    (void)attachment;
    if (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED)
        return record->state == HPL_STATE_PENDING ? hpl_fail(call, HPL_CONFLICT, "the key '%.80s' is pending deletion already", record->key_id)
                                                  : hpl_record_usable(call, record);
    record->state = HPL_STATE_PENDING;
    record->deletion_ms = hpl_clock_unix_ms() + *(const int64_t *)window_days * DAY_MS;
    return HPL_OK;
}

enum hpl_status hpl_kms_schedule_deletion(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, int64_t window_days, json_t **metadata)
{
    if (window_days == 0)
        window_days = 30;
    if (window_days < 7 || window_days > 30)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'pending_window_in_days' must be from 7 to 30");
    return hpl_kms_change_key(kms, call, key_id, schedule, &window_days, "kms.key.deletion_scheduled", metadata);
}

static enum hpl_status cancel(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *unused)
{
    (void)attachment, (void)unused;
    if (record->state != HPL_STATE_PENDING)
        return hpl_fail(call, HPL_CONFLICT, "the key '%.80s' is not pending deletion", record->key_id);
    record->state = HPL_STATE_ENABLED;
    record->deletion_ms = 0;
    return HPL_OK;
}

enum hpl_status hpl_kms_cancel_deletion(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata)
{
    return hpl_kms_change_key(kms, call, key_id, cancel, NULL, "kms.key.deletion_cancelled", metadata);
}

static enum hpl_status set_enabled(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *is_enabled)
{
    bool cannot_disable = attachment->keystore->ops->cannot_disable;
    if (cannot_disable && !*(const bool *)is_enabled)
        return hpl_fail(call, HPL_NOT_IMPLEMENTED, "the %s backend cannot disable a key; restrict it by the backend's policy, rotate it, or schedule its deletion",
                        attachment->keystore->ops->name);
    if (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED)
        return hpl_record_usable(call, record);
    if (cannot_disable)
        HPL_TRY(hpl_kms_create_version(call, attachment, record));
    record->state = *(const bool *)is_enabled ? HPL_STATE_ENABLED : HPL_STATE_DISABLED;
    return HPL_OK;
}

enum hpl_status hpl_kms_set_enabled(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, bool is_enabled, json_t **metadata)
{
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    enum hpl_status status = hpl_kms_change_key(kms, &sub, key_id, set_enabled, &is_enabled, is_enabled ? "kms.key.enabled" : "kms.key.disabled", metadata);
    if (status == HPL_NO_SUCH_KEY && is_enabled && hpl_kms_acquire(kms, call, &attachment) == HPL_OK && attachment->keystore->ops->cannot_disable)
        return hpl_kms_create_key(kms, call, &(struct hpl_key_create){.key_id = key_id}, metadata); /* enabling there makes sure that it is there */
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

/* The material first, then the record: a crash between leaves material that the next rotation finds and uses. */
static enum hpl_status rotate(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *unused)
{
    (void)unused;
    HPL_TRY(hpl_record_usable(call, record));
    if (record->is_imported)
        return hpl_fail(call, HPL_CONFLICT, "the material of '%.80s' was imported: import a new key and rewrap to it", record->key_id);
    HPL_TRY(hpl_record_next_version(record, hpl_clock_unix_ms()));
    HPL_TRY(hpl_kms_create_version(call, attachment, record));
    return try_key(call, attachment, record);
}

enum hpl_status hpl_kms_rotate(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata)
{
    return hpl_kms_change_key(kms, call, key_id, rotate, NULL, "kms.key.rotated", metadata);
}

/* --- destroying ---------------------------------------------------------------------------------------------------------- */

static enum hpl_status start_destroying(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *now)
{
    (void)attachment;
    if (record->state == HPL_STATE_DESTROYING)
        return HPL_OK; /* a run before this one died in the middle */
    if (record->state != HPL_STATE_PENDING || record->deletion_ms > *(const int64_t *)now)
        return hpl_fail(call, HPL_STALE, "the key '%.80s' is not due any more", record->key_id);
    record->state = HPL_STATE_DESTROYING;
    return HPL_OK;
}

static enum hpl_status finish_destroying(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *unused)
{
    (void)unused;
    if (record->state != HPL_STATE_DESTROYING)
        return hpl_fail(call, HPL_STALE, "the key '%.80s' changed while it was destroyed", record->key_id);
    /* The newest first, and one more: what a rotation that died before its record was written made. */
    for (uint32_t version = record->version == UINT32_MAX ? record->version : record->version + 1; version >= 1; version--)
        HPL_TRY(attachment->keystore->ops->destroy_version(attachment->keystore, call, record->uid, version));
    record->state = HPL_STATE_GONE;
    return HPL_OK;
}

struct due {
    json_t *to_destroy, *to_rotate; /* key ids */
    int64_t now;
};

/* Whether to look closer: by wraps only the counter knows. */
static bool may_rotate(const struct hpl_key_record *record, int64_t now)
{
    int64_t at = hpl_record_rotation_ms(record);
    return record->state == HPL_STATE_ENABLED && ((at && at <= now) || hpl_record_rotation(record, "max_wraps"));
}

static bool collect_due(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct due *due = arg;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    (void)revision;
    if (status != HPL_OK || hpl_record_decode(NULL, content, &record) != HPL_OK)
        return true;
    if (record.state == HPL_STATE_DESTROYING || (record.state == HPL_STATE_PENDING && record.deletion_ms <= due->now))
        json_array_append_new(due->to_destroy, json_string(key_id));
    else if (may_rotate(&record, due->now))
        json_array_append_new(due->to_rotate, json_string(key_id));
    return true;
}

static void say_what_is_lost(struct hpl_kms *kms, const struct hpl_key_record *record)
{
    uint64_t count;
    if (hpl_kms_count_objects(kms, &(struct hpl_census){.uid = record->uid}, &count) && count)
        hpl_log(HPL_LOG_WARN, "kms.key.destroying_in_use", HPL_S("key_id", record->key_id), HPL_N("objects", count));
}

static enum hpl_status destroy_one(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, int64_t now)
{
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    enum hpl_status status = change_record(call, attachment, key_id, start_destroying, &now, &record);
    if (status == HPL_STALE)
        return HPL_OK;
    HPL_TRY(status);
    say_what_is_lost(kms, &record);
    HPL_TRY(change_record(call, attachment, key_id, finish_destroying, NULL, &record));
    log_key(call, "kms.key.destroyed", &record);
    return HPL_OK;
}

/* HPL_STALE when it is not due, or not any more: another node was faster. */
static enum hpl_status rotate_if_due(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *now)
{
    int64_t at = hpl_record_rotation_ms(record), most = hpl_record_rotation(record, "max_wraps");
    uint64_t count = 0;
    if (record->state != HPL_STATE_ENABLED)
        return HPL_STALE;
    if (most)
        HPL_TRY(hpl_wraps_count(call, attachment->wraps, record, &count));
    if (!(at && at <= *(const int64_t *)now) && !(most && count >= (uint64_t)most))
        return HPL_STALE;
    return rotate(call, attachment, record, NULL);
}

static enum hpl_status rotate_one(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, int64_t now)
{
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    enum hpl_status status = change_record(&sub, attachment, key_id, rotate_if_due, &now, &record);
    if (status == HPL_OK)
        log_key(call, "kms.key.rotated_by_itself", &record);
    else if (status != HPL_STALE)
        hpl_log(HPL_LOG_WARN, "kms.key.rotation_failed", HPL_S("key_id", key_id), HPL_S("failure", hpl_detail(&sub, status)));
    return status == HPL_STALE ? HPL_OK : status;
}

/* A keystore that was active before wraps nothing: only the active one's keys rotate. */
static enum hpl_status reap_attachment(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment *attachment, bool is_active)
{
    json_t *HPL_JSON_AUTO to_destroy = json_array();
    json_t *HPL_JSON_AUTO to_rotate = json_array();
    struct due due = {.to_destroy = to_destroy, .to_rotate = to_rotate, .now = hpl_clock_unix_ms()};
    size_t i;
    json_t *key_id;
    enum hpl_status first = HPL_OK, status;
    HPL_TRY(attachment->keystore->ops->record_list(attachment->keystore, call, NULL, SIZE_MAX, collect_due, &due));
    json_array_foreach(to_destroy, i, key_id)
        if ((status = destroy_one(kms, call, attachment, json_string_value(key_id), due.now)) != HPL_OK && first == HPL_OK)
            first = status;
    if (is_active)
        json_array_foreach(to_rotate, i, key_id)
            if ((status = rotate_one(call, attachment, json_string_value(key_id), due.now)) != HPL_OK && first == HPL_OK)
                first = status;
    return first;
}

enum hpl_status hpl_kms_reap(struct hpl_kms *kms, struct hpl_call *call)
{
    struct hpl_attachment *attached[HPL_MAX_FORMER + 1];
    hpl_kms_revive(kms);
    hpl_kms_shared_sweep(&kms->shared);
    enum hpl_status first = hpl_kms_ready(kms, call);
    size_t count = first == HPL_OK ? hpl_kms_acquire_all(kms, attached) : 0;
    for (size_t i = 0; i < count; i++) {
        enum hpl_status status = reap_attachment(kms, call, attached[i], i == 0);
        if (first == HPL_OK)
            first = status;
        hpl_attachment_unref(attached[i]);
    }
    return first;
}

/* --- destroying at once -------------------------------------------------------------------------------------------------- */

/* Nothing that anybody counts may need it. */
static enum hpl_status check_unneeded(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_record *record)
{
    char default_key[HPL_KEY_ID_MAX + 1];
    uint64_t count;
    hpl_kms_default_key(kms, default_key);
    if (strcmp(default_key, record->key_id) == 0)
        return hpl_fail(call, HPL_KEY_IN_USE, "the key '%.80s' is the default key; name another one first", record->key_id);
    if (!hpl_kms_count_objects(kms, &(struct hpl_census){.uid = record->uid}, &count))
        return hpl_fail(call, HPL_KEY_IN_USE, "nobody can count what needs the key '%.80s' now; schedule its deletion instead", record->key_id);
    if (count)
        return hpl_fail(call, HPL_KEY_IN_USE, "%llu objects need the key '%.80s'; rewrap or delete them first", (unsigned long long)count, record->key_id);
    return HPL_OK;
}

/* From here on every use is refused, so that the count that follows is the last word. */
static enum hpl_status close_key(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *now)
{
    (void)attachment;
    if (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED && record->state != HPL_STATE_PENDING)
        return hpl_record_usable(call, record);
    record->state = HPL_STATE_PENDING;
    record->deletion_ms = *(const int64_t *)now;
    return HPL_OK;
}

/* What the key was before close_key closed it. */
static enum hpl_status reopen_key(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *before)
{
    const struct hpl_key_record *old = before;
    (void)call, (void)attachment;
    if (record->state != HPL_STATE_PENDING)
        return HPL_STALE;
    record->state = old->state;
    record->deletion_ms = old->deletion_ms;
    return HPL_OK;
}

static enum hpl_status destroy_now(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id)
{
    struct hpl_key_record HPL_RECORD_AUTO before = {0};
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    int64_t now = hpl_clock_unix_ms();
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &before, NULL));
    HPL_TRY(check_unneeded(kms, call, &before));
    HPL_TRY(change_record(call, attachment, key_id, close_key, &now, &record));
    enum hpl_status status = check_unneeded(kms, call, &record);
    if (status != HPL_OK) {
        struct hpl_call quiet = {0};
        enum hpl_status back = change_record(&quiet, attachment, key_id, reopen_key, &before, &record);
        if (back != HPL_OK)
            hpl_log(HPL_LOG_ERROR, "kms.key.not_reopened", HPL_S("key_id", key_id), HPL_S("failure", hpl_detail(&quiet, back)));
        return status;
    }
    return destroy_one(kms, call, attachment, key_id, now);
}

enum hpl_status hpl_kms_destroy_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    if (!kms->options.allow_immediate_deletion)
        return hpl_fail(call, HPL_INVALID_REQUEST, "a key is destroyed 7 to 30 days after it is scheduled; 'force_immediate' takes allow_immediate_deletion in "
                                                   "the daemon's configuration file");
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(destroy_now(kms, call, attachment, key_id));
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &record, NULL));
    return metadata_of(&record, metadata);
}
