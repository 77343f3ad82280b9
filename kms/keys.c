/* Keys: every change of a record is a compare-and-swap. Any thread; blocks on the backend. */
#include "kms/internal.h"

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"

#define DAY_MS (24ll * 3600 * 1000)
#define MAX_RACES 8

const char *hpl_kms_default_of(const struct hpl_kms_settings *settings)
{
    return settings->default_key_id[0] ? settings->default_key_id : HPL_KMS_FALLBACK_KEY;
}

void hpl_kms_log_key(const struct hpl_call *call, const char *event, const struct hpl_key_record *record)
{
    hpl_log(HPL_LOG_INFO, event, HPL_S("key_id", record->key_id), HPL_N("version", record->version), HPL_S("principal", hpl_principal_of(call)),
            HPL_S("request_id", call ? call->request_id : ""));
}

/* --- create -------------------------------------------------------------------------------------------------------------- */

/* Both spellings of the documents. */
static enum hpl_status check_create(struct hpl_call *call, const struct hpl_key_create *create)
{
    const char *usage = create->usage, *name = json_string_value(json_object_get(create->tags, "name"));
    if (usage && strcmp(usage, "ENCRYPT_DECRYPT") != 0 && strcmp(usage, "EncryptDecrypt") != 0)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the key usage '%.40s' is not served here: these keys encrypt and decrypt, ENCRYPT_DECRYPT", usage);
    if (create->description)
        HPL_TRY(hpl_key_check_description(call, create->description));
    if (create->key_id && name && strcmp(name, create->key_id) != 0)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the tag 'name' asks for another id than '%.80s'", create->key_id);
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

/* A new record may take over material that is there already, with its bound. */
static enum hpl_status bound_wraps(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record)
{
    uint64_t max_wraps;
    bool is_there;
    HPL_TRY(hpl_kms_ask_material(call, attachment, record->key_id, &is_there, &max_wraps));
    return hpl_record_bound_wraps(record, max_wraps);
}

/* A record in state creating: new, taken over from a creation that died, or in place of a destroyed key of the same id. */
static enum hpl_status claim_record(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_create *create, const char *key_id,
                                    struct hpl_key_record *record, uint64_t *revision)
{
    struct hpl_key_record HPL_RECORD_AUTO old = {0};
    struct hpl_call quiet = hpl_kms_attempt_of(call, &attachment->settings);
    char former[2 * HPL_KEY_UID_LEN + 1];
    *revision = 0;
    enum hpl_status status = hpl_attachment_kept_record(&quiet, attachment, key_id, false, &old, revision);
    if (status != HPL_NO_SUCH_KEY)
        HPL_TRY(hpl_kms_pass_on(call, &quiet, status));
    if (status == HPL_OK && old.state != HPL_STATE_CREATING && old.state != HPL_STATE_GONE)
        return hpl_fail(call, HPL_KEY_EXISTS, "a key '%.80s' exists", key_id);
    if (hpl_record_init(record, create, key_id) != HPL_OK)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the description, tags or creator are not valid UTF-8");
    /* An import has material of its own: under a uid of its own it replaces nobody's. */
    if (status == HPL_OK && old.state == HPL_STATE_CREATING && !old.is_imported && !record->is_imported)
        memcpy(record->uid, old.uid, sizeof record->uid);
    if (status == HPL_OK)
        json_array_extend(record->former_uids, old.former_uids);
    if (status == HPL_OK && old.state == HPL_STATE_GONE) {
        hpl_hex_encode(former, old.uid, sizeof old.uid);
        json_array_append_new(record->former_uids, json_string(former));
    }
    HPL_TRY(bound_wraps(call, attachment, record));
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
    HPL_TRY(hpl_wraps_take(call, attachment->wraps, record));
    HPL_TRY(try_key(call, attachment, record));
    record->state = HPL_STATE_ENABLED;
    HPL_TRY(hpl_attachment_put(call, attachment, record, revision));
    hpl_kms_log_key(call, "kms.key.created", record);
    return HPL_OK;
}

enum hpl_status hpl_kms_create_key(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_create *create, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(hpl_kms_make_key(call, attachment, create, &record));
    *metadata = hpl_record_metadata(&record);
    return *metadata ? HPL_OK : HPL_NO_MEMORY;
}

/* --- changing ------------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_kms_change_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, hpl_key_change_fn *change,
                                      const void *argument, struct hpl_key_record *record)
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
    HPL_TRY(hpl_kms_change_record(call, attachment, key_id, change, argument, &record));
    hpl_kms_forget_elsewhere(kms, attachment, key_id);
    hpl_kms_log_key(call, event, &record);
    return hpl_kms_metadata(kms, &record, metadata);
}

static enum hpl_status schedule(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *window_days)
{
    (void)attachment;
    if (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED)
        return record->state == HPL_STATE_PENDING ? hpl_fail(call, HPL_CONFLICT, "the key '%.80s' is pending deletion already", record->key_id)
                                                  : hpl_record_usable(call, record);
    record->was_disabled = record->state == HPL_STATE_DISABLED;
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
    record->state = record->was_disabled ? HPL_STATE_DISABLED : HPL_STATE_ENABLED;
    record->was_disabled = false;
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
enum hpl_status hpl_key_rotate(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *unused)
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
    return hpl_kms_change_key(kms, call, key_id, hpl_key_rotate, NULL, "kms.key.rotated", metadata);
}
