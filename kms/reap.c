/* What happens to keys when its time comes: destruction, rotation by itself; and destruction at once. Any thread; blocks on the backends. */
#include "kms/internal.h"

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"

#define LOOK_EVERY_NS 3600000000000u
#define OPEN_TIMEOUT_MS 10000u
#define REAP_TIMEOUT_MS 10000u
#define CLOSED_FOR_MS (7 * 24 * 3600 * 1000ll)

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

static enum hpl_status destroy_version(struct hpl_call *call, struct hpl_attachment *attachment, const uint8_t *uid, uint32_t version)
{
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    return hpl_kms_pass_on(call, &sub, attachment->keystore->ops->destroy_version(attachment->keystore, &sub, uid, version));
}

static enum hpl_status finish_destroying(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *unused)
{
    (void)unused;
    if (record->state != HPL_STATE_DESTROYING)
        return hpl_fail(call, HPL_STALE, "the key '%.80s' changed while it was destroyed", record->key_id);
    /* The newest first, and one more: what a rotation that died before its record was written made. */
    for (uint32_t version = record->version == UINT32_MAX ? record->version : record->version + 1; version >= 1; version--)
        HPL_TRY(destroy_version(call, attachment, record->uid, version));
    record->state = HPL_STATE_GONE;
    int64_t now = hpl_clock_unix_ms();
    if (record->deletion_ms > now) /* at once, before the date of close_key */
        record->deletion_ms = now;
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
    enum hpl_status status = hpl_kms_change_record(call, attachment, key_id, start_destroying, &now, &record);
    if (status == HPL_STALE)
        return HPL_OK;
    HPL_TRY(status);
    say_what_is_lost(kms, &record);
    HPL_TRY(hpl_kms_change_record(call, attachment, key_id, finish_destroying, NULL, &record));
    hpl_kms_log_key(call, "kms.key.destroyed", &record);
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
    return hpl_key_rotate(call, attachment, record, NULL);
}

static enum hpl_status rotate_one(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, int64_t now)
{
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    enum hpl_status status = hpl_kms_change_record(&sub, attachment, key_id, rotate_if_due, &now, &record);
    if (status == HPL_OK) {
        hpl_kms_forget_elsewhere(kms, attachment, key_id);
        hpl_kms_log_key(call, "kms.key.rotated_by_itself", &record);
    } else if (status != HPL_STALE)
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
            if ((status = rotate_one(kms, call, attachment, json_string_value(key_id), due.now)) != HPL_OK && first == HPL_OK)
                first = status;
    return first;
}

/* True: it is open now, and will be reaped with the others. */
static bool reap_closed(struct hpl_kms *kms, const char *name)
{
    uint8_t instance[8];
    struct hpl_call opening, reaping;
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    if (!hpl_hex_decode(instance, sizeof instance, name, strlen(name)))
        return false;
    hpl_call_init(&opening, OPEN_TIMEOUT_MS);
    enum hpl_status opened = hpl_kms_acquire_instance(kms, &opening, instance, &attachment);
    hpl_call_init(&reaping, REAP_TIMEOUT_MS);
    enum hpl_status status = opened == HPL_OK ? reap_attachment(kms, &reaping, attachment, false) : opened;
    if (status != HPL_OK)
        hpl_log(HPL_LOG_WARN, "kms.former_not_reaped", HPL_S("instance", name), HPL_S("failure", hpl_detail(opened == HPL_OK ? &reaping : &opening, status)));
    return opened == HPL_OK;
}

/* Keystores that nobody needed since the start have keys that are due too. One a reaping, as each may take its time-out, and once an hour all, as opening one
 * logs in to its backend. */
static void reap_one_closed(struct hpl_kms *kms)
{
    if (hpl_clock_mono_ns() < kms->look_again_ns)
        return;
    json_t *HPL_JSON_AUTO names = hpl_kms_closed_keystores(kms);
    const char *name = json_string_value(json_array_get(names, kms->next_look));
    if (name && !reap_closed(kms, name))
        kms->next_look++;
    if (name)
        return;
    kms->next_look = 0;
    kms->look_again_ns = hpl_clock_mono_ns() + LOOK_EVERY_NS;
}

void hpl_kms_sweep(struct hpl_kms *kms)
{
    hpl_kms_shared_sweep(&kms->shared);
    hpl_importer_sweep(kms->importer);
}

enum hpl_status hpl_kms_reap(struct hpl_kms *kms, struct hpl_call *call)
{
    struct hpl_attachment *attached[HPL_MAX_FORMER + 1];
    hpl_kms_sweep(kms); /* first: what follows may wait for a backend */
    hpl_kms_revive(kms);
    enum hpl_status first = hpl_kms_ready(kms, call);
    size_t count = first == HPL_OK ? hpl_kms_acquire_all(kms, attached) : 0;
    for (size_t i = 0; i < count; i++) {
        enum hpl_status status = reap_attachment(kms, call, attached[i], i == 0);
        if (first == HPL_OK)
            first = status;
        hpl_attachment_unref(attached[i]);
    }
    if (count)
        reap_one_closed(kms);
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

/* From here on every use is refused, so that the count that follows is the last word. Its date lies ahead: if we die before that count, the key
 * waits for an administrator, and whoever destroys what is due does not take it. */
static enum hpl_status close_key(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *until)
{
    (void)attachment;
    if (record->state != HPL_STATE_ENABLED && record->state != HPL_STATE_DISABLED && record->state != HPL_STATE_PENDING)
        return hpl_record_usable(call, record);
    if (record->state != HPL_STATE_PENDING)
        record->was_disabled = record->state == HPL_STATE_DISABLED;
    record->state = HPL_STATE_PENDING;
    record->deletion_ms = *(const int64_t *)until;
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
    record->was_disabled = old->was_disabled;
    record->deletion_ms = old->deletion_ms;
    return HPL_OK;
}

static enum hpl_status destroy_now(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id)
{
    struct hpl_key_record HPL_RECORD_AUTO before = {0};
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    const int64_t until = hpl_clock_unix_ms() + CLOSED_FOR_MS;
    HPL_TRY(hpl_attachment_record(call, attachment, key_id, false, &before, NULL));
    HPL_TRY(check_unneeded(kms, call, &before));
    HPL_TRY(hpl_kms_change_record(call, attachment, key_id, close_key, &until, &record));
    hpl_kms_forget_elsewhere(kms, attachment, key_id);
    hpl_kms_let_stores_finish(kms);
    enum hpl_status status = check_unneeded(kms, call, &record);
    if (status != HPL_OK) {
        struct hpl_call quiet = {0};
        enum hpl_status back = hpl_kms_change_record(&quiet, attachment, key_id, reopen_key, &before, &record);
        if (back != HPL_OK)
            hpl_log(HPL_LOG_ERROR, "kms.key.not_reopened", HPL_S("key_id", key_id), HPL_S("failure", hpl_detail(&quiet, back)));
        return status;
    }
    return destroy_one(kms, call, attachment, key_id, until);
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
    if (record.state != HPL_STATE_GONE)
        return hpl_fail(call, HPL_CONFLICT, "the key '%.80s' was changed by others while it was to be destroyed; look at it again", key_id);
    *metadata = hpl_record_metadata(&record);
    return *metadata ? HPL_OK : HPL_NO_MEMORY;
}
