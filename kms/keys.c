/* Keys: every change of a record is a compare-and-swap. Any thread; blocks on the backend. */
#include "kms/internal.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"

#define DAY_MS (24ll * 3600 * 1000)
#define MAX_RACES 8
#define MAX_DESCRIPTION 8192u
#define MAX_TAGS 50u
#define MAX_TAG_NAME 128u
#define MAX_TAG_VALUE 256u
#define DEFAULT_PAGE 100u
#define MAX_PAGE 1000u

const char *hpl_kms_default_of(const struct hpl_kms_settings *settings)
{
    return settings->default_key_id[0] ? settings->default_key_id : HPL_KMS_FALLBACK_KEY;
}

/* The audit line of a key operation. */
static void log_key(const struct hpl_call *call, const char *event, const struct hpl_key_record *record)
{
    hpl_log(HPL_LOG_INFO, event, HPL_S("key_id", record->key_id), HPL_N("version", record->version), HPL_S("request_id", call ? call->request_id : ""));
}

/* --- create -------------------------------------------------------------------------------------------------------------- */

static enum hpl_status check_tags(struct hpl_call *call, const json_t *tags)
{
    const char *name;
    json_t *value;
    if (tags && !json_is_object(tags))
        return hpl_fail(call, HPL_INVALID_REQUEST, "tags must be an object of strings");
    if (json_object_size(tags) > MAX_TAGS)
        return hpl_fail(call, HPL_INVALID_REQUEST, "a key has at most %u tags", MAX_TAGS);
    json_object_foreach((json_t *)tags, name, value)
    {
        if (!json_is_string(value))
            return hpl_fail(call, HPL_INVALID_REQUEST, "the tag '%.60s' must be a string", name);
        if (!*name || strlen(name) > MAX_TAG_NAME || json_string_length(value) > MAX_TAG_VALUE)
            return hpl_fail(call, HPL_INVALID_REQUEST, "a tag's name has 1 to %u bytes and its value at most %u", MAX_TAG_NAME, MAX_TAG_VALUE);
    }
    return HPL_OK;
}

/* Both spellings of the documents. */
static enum hpl_status check_create(struct hpl_call *call, const struct hpl_key_create *create)
{
    const char *usage = create->usage;
    if (usage && strcmp(usage, "ENCRYPT_DECRYPT") != 0 && strcmp(usage, "EncryptDecrypt") != 0)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the key usage '%.40s' is not served here; use ENCRYPT_DECRYPT", usage);
    if (create->description && strlen(create->description) > MAX_DESCRIPTION)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the description is longer than %u bytes", MAX_DESCRIPTION);
    return check_tags(call, create->tags);
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
    enum hpl_status status = hpl_attachment_record(&quiet, attachment, key_id, false, &old, revision);
    if (status != HPL_OK && status != HPL_NO_SUCH_KEY)
        return hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
    if (status == HPL_OK && old.state != HPL_STATE_CREATING && old.state != HPL_STATE_GONE)
        return hpl_fail(call, HPL_KEY_EXISTS, "a key '%.80s' exists", key_id);
    if (hpl_record_init(record, create, key_id) != HPL_OK)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the description, tags or creator are not valid UTF-8");
    if (status == HPL_OK && old.state == HPL_STATE_CREATING)
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
    HPL_TRY(hpl_kms_create_version(call, attachment, record));
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

/* How many objects need the key, by the object index; false when nobody counts. */
static bool count_objects(struct hpl_kms *kms, const struct hpl_key_record *record, uint64_t *count)
{
    struct hpl_call quiet = {0};
    pthread_mutex_lock(&kms->lock);
    hpl_census_fn census = kms->census;
    void *arg = kms->census_arg;
    pthread_mutex_unlock(&kms->lock);
    *count = 0;
    return census && census(arg, &quiet, record->uid, 0, count) == HPL_OK;
}

/* The same with "objects": what whoever deletes the key should know first. */
static enum hpl_status metadata_with_objects(struct hpl_kms *kms, const struct hpl_key_record *record, json_t **out)
{
    uint64_t count;
    HPL_TRY(metadata_of(record, out));
    if (count_objects(kms, record, &count))
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

enum hpl_status hpl_kms_describe_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &record, NULL));
    return metadata_with_objects(kms, &record, metadata);
}

struct listing {
    json_t *keys;
    size_t limit;
    char last[HPL_KEY_ID_MAX + 1];
    bool is_truncated;
};

static json_t *list_row(const char *key_id, enum hpl_status status, struct hpl_bytes content)
{
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    if (status != HPL_OK || hpl_record_decode(NULL, content, &record) != HPL_OK)
        return json_pack("{s:s, s:n, s:s}", "key_id", key_id, "description", "status", "Damaged");
    json_t *HPL_JSON_AUTO metadata = hpl_record_metadata(&record);
    return json_pack("{s:s, s:O, s:s, s:s, s:O, s:I, s:O, s:O, s:O}", "key_id", key_id, "description", record.description, "algorithm", "AES-256", "usage",
                     "ENCRYPT_DECRYPT", "status", json_object_get(metadata, "key_state"), "version", (json_int_t)record.version, "tags", record.tags,
                     "created_at", json_object_get(metadata, "creation_date"), "rotated_at", json_object_get(metadata, "rotation_date"));
}

static bool add_row(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct listing *listing = arg;
    (void)revision;
    if (json_array_size(listing->keys) == listing->limit) {
        listing->is_truncated = true;
        return false;
    }
    json_array_append_new(listing->keys, list_row(key_id, status, content));
    memcpy(listing->last, key_id, strlen(key_id) + 1);
    return true;
}

enum hpl_status hpl_kms_list_keys(struct hpl_kms *kms, struct hpl_call *call, size_t limit, const char *marker, json_t **answer)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    json_t *HPL_JSON_AUTO keys = json_array();
    struct listing listing = {.keys = keys, .limit = !limit ? DEFAULT_PAGE : limit > MAX_PAGE ? MAX_PAGE : limit};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(attachment->keystore->ops->record_list(attachment->keystore, call, marker, listing.limit + 1, add_row, &listing));
    *answer = json_pack("{s:O, s:b, s:s?}", "keys", keys, "truncated", listing.is_truncated, "next_marker", listing.is_truncated ? listing.last : NULL);
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
    (void)attachment;
    if (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED)
        return hpl_record_usable(call, record);
    record->state = *(const bool *)is_enabled ? HPL_STATE_ENABLED : HPL_STATE_DISABLED;
    return HPL_OK;
}

enum hpl_status hpl_kms_set_enabled(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, bool is_enabled, json_t **metadata)
{
    return hpl_kms_change_key(kms, call, key_id, set_enabled, &is_enabled, is_enabled ? "kms.key.enabled" : "kms.key.disabled", metadata);
}

/* The material first, then the record: a crash between leaves material that the next rotation finds and uses. */
static enum hpl_status rotate(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *unused)
{
    (void)unused;
    HPL_TRY(hpl_record_usable(call, record));
    record->version++;
    record->rotated_ms = hpl_clock_unix_ms();
    HPL_TRY(hpl_kms_create_version(call, attachment, record));
    return try_key(call, attachment, record);
}

enum hpl_status hpl_kms_rotate(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata)
{
    return hpl_kms_change_key(kms, call, key_id, rotate, NULL, "kms.key.rotated", metadata);
}

static enum hpl_status set_policy(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *policy)
{
    (void)attachment;
    if (record->state == HPL_STATE_GONE)
        return hpl_record_usable(call, record);
    json_decref(record->policy);
    record->policy = policy ? json_deep_copy(policy) : json_null();
    return record->policy ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_kms_set_policy(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *policy, json_t **metadata)
{
    if (json_is_null(policy))
        policy = NULL;
    if (policy)
        HPL_TRY(hpl_policy_check(call, policy));
    return hpl_kms_change_key(kms, call, key_id, set_policy, policy, "kms.key.policy", metadata);
}

enum hpl_status hpl_kms_policy(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **policy)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &record, NULL));
    *policy = json_incref(record.policy);
    return HPL_OK;
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
    json_t *key_ids;
    int64_t now;
};

static bool collect_due(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct due *due = arg;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    (void)revision;
    if (status == HPL_OK && hpl_record_decode(NULL, content, &record) == HPL_OK &&
        (record.state == HPL_STATE_DESTROYING || (record.state == HPL_STATE_PENDING && record.deletion_ms <= due->now)))
        json_array_append_new(due->key_ids, json_string(key_id));
    return true;
}

static void say_what_is_lost(struct hpl_kms *kms, const struct hpl_key_record *record)
{
    uint64_t count;
    if (count_objects(kms, record, &count) && count)
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

static enum hpl_status reap_attachment(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment *attachment)
{
    json_t *HPL_JSON_AUTO key_ids = json_array();
    struct due due = {.key_ids = key_ids, .now = hpl_clock_unix_ms()};
    size_t i;
    json_t *key_id;
    enum hpl_status first = HPL_OK;
    HPL_TRY(attachment->keystore->ops->record_list(attachment->keystore, call, NULL, SIZE_MAX, collect_due, &due));
    json_array_foreach(key_ids, i, key_id)
    {
        enum hpl_status status = destroy_one(kms, call, attachment, json_string_value(key_id), due.now);
        if (first == HPL_OK)
            first = status;
    }
    return first;
}

enum hpl_status hpl_kms_reap(struct hpl_kms *kms, struct hpl_call *call)
{
    struct hpl_attachment *attached[HPL_MAX_FORMER + 1];
    hpl_kms_revive(kms);
    enum hpl_status first = hpl_kms_ready(kms, call);
    size_t count = first == HPL_OK ? hpl_kms_acquire_all(kms, attached) : 0;
    for (size_t i = 0; i < count; i++) {
        enum hpl_status status = reap_attachment(kms, call, attached[i]);
        if (first == HPL_OK)
            first = status;
        hpl_attachment_unref(attached[i]);
    }
    return first;
}
