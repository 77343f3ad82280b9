/* Records. Pure; any thread. */
#include "kms/record.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <strings.h>

#include "base/clock.h"
#include "base/codec.h"

#define DAY_MS (24ll * 3600 * 1000)

/* As kept, as metadata shows it ("key_state"), and as lists do ("status"). */
static const struct { const char *kept, *shown, *listed; } states[] = {
    [HPL_STATE_CREATING] = {"creating", "Creating", "Creating"},
    [HPL_STATE_ENABLED] = {"enabled", "Enabled", "Active"},
    [HPL_STATE_DISABLED] = {"disabled", "Disabled", "Disabled"},
    [HPL_STATE_PENDING] = {"pending_deletion", "PendingDeletion", "PendingDeletion"},
    [HPL_STATE_DESTROYING] = {"destroying", "PendingDeletion", "PendingDeletion"},
    [HPL_STATE_GONE] = {"destroyed", "Destroyed", "Deleted"},
};

enum hpl_status hpl_record_init(struct hpl_key_record *record, const struct hpl_key_create *create, const char *key_id)
{
    *record = (struct hpl_key_record){.state = HPL_STATE_CREATING, .version = 1, .created_ms = hpl_clock_unix_ms(), .is_imported = create->material != NULL};
    hpl_uuid_new(record->uid);
    memcpy(record->key_id, key_id, strlen(key_id) + 1);
    record->description = create->description ? json_string(create->description) : json_null();
    record->created_by = create->created_by ? json_string(create->created_by) : json_null();
    record->tags = create->tags ? json_deep_copy(create->tags) : json_object();
    record->former_uids = json_array();
    record->policy = json_null();
    record->rotation = json_null();
    record->versions = json_pack("[I]", (json_int_t)record->created_ms);
    return record->description && record->created_by && record->tags && record->former_uids && record->versions ? HPL_OK : HPL_INVALID_REQUEST;
}

/* The members that are JSON. */
static const size_t owned[] = {
    offsetof(struct hpl_key_record, description), offsetof(struct hpl_key_record, tags),     offsetof(struct hpl_key_record, created_by),
    offsetof(struct hpl_key_record, former_uids), offsetof(struct hpl_key_record, versions), offsetof(struct hpl_key_record, rotation),
    offsetof(struct hpl_key_record, policy),
};

static json_t *owned_at(const struct hpl_key_record *record, size_t offset)
{
    json_t *value;
    memcpy(&value, (const char *)record + offset, sizeof value);
    return value;
}

enum hpl_status hpl_record_bound_wraps(struct hpl_key_record *record, uint64_t max_wraps)
{
    if (!max_wraps || json_is_object(record->rotation))
        return HPL_OK;
    json_t *rotation = json_pack("{s:i, s:I}", "period_days", 0, "max_wraps", (json_int_t)max_wraps);
    if (!rotation)
        return HPL_NO_MEMORY;
    json_decref(record->rotation);
    record->rotation = rotation;
    return HPL_OK;
}

void hpl_record_wipe(struct hpl_key_record *record)
{
    for (size_t i = 0; i < HPL_COUNT(owned) && !record->holder; i++)
        json_decref(owned_at(record, owned[i]));
    hpl_record_release(record->holder);
    *record = (struct hpl_key_record){0};
}

struct hpl_record_holder {
    _Atomic unsigned refs;
    struct hpl_key_record record;
};

struct hpl_record_holder *hpl_record_hold(struct hpl_key_record *record)
{
    struct hpl_record_holder *holder = calloc(1, sizeof *holder);
    if (!holder) {
        hpl_record_wipe(record);
        return NULL;
    }
    HPL_CHECK(!record->holder);
    atomic_init(&holder->refs, 1);
    holder->record = *record;
    *record = (struct hpl_key_record){0};
    return holder;
}

const struct hpl_key_record *hpl_record_held(const struct hpl_record_holder *holder)
{
    return &holder->record;
}

void hpl_record_share(struct hpl_key_record *out, struct hpl_record_holder *holder)
{
    atomic_fetch_add(&holder->refs, 1);
    *out = holder->record;
    out->holder = holder;
}

void hpl_record_release(struct hpl_record_holder *holder)
{
    if (!holder || atomic_fetch_sub(&holder->refs, 1) != 1)
        return;
    hpl_record_wipe(&holder->record);
    free(holder);
}

/* Members that most keys have not got are written only where they are. */
static bool put_optional(json_t *value, const char *name, json_t *member)
{
    return json_is_null(member) || json_object_set(value, name, member) == 0;
}

enum hpl_status hpl_record_encode(const struct hpl_key_record *record, struct hpl_buf *out)
{
    char uid[2 * HPL_KEY_UID_LEN + 1];
    hpl_hex_encode(uid, record->uid, sizeof record->uid);
    json_t *HPL_JSON_AUTO value = json_pack(
        "{s:i, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:O, s:O, s:O, s:O}", "format", 1, "uid", uid, "key_id", record->key_id, "state",
        states[record->state].kept, "version", (json_int_t)record->version, "created_ms", (json_int_t)record->created_ms, "rotated_ms",
        (json_int_t)record->rotated_ms, "deletion_ms", (json_int_t)record->deletion_ms, "description", record->description, "tags", record->tags,
        "created_by", record->created_by, "former_uids", record->former_uids);
    if (!value || !put_optional(value, "policy", record->policy) || !put_optional(value, "rotation", record->rotation) ||
        !put_optional(value, "versions", record->versions))
        return HPL_NO_MEMORY;
    if (record->is_imported && json_object_set_new(value, "imported", json_true()) != 0)
        return HPL_NO_MEMORY;
    if (record->was_disabled && json_object_set_new(value, "was_disabled", json_true()) != 0)
        return HPL_NO_MEMORY;
    if (hpl_caching_bound_ns(&record->caching) && json_object_set_new(value, "caching", hpl_caching_json(&record->caching)) != 0)
        return HPL_NO_MEMORY;
    return hpl_json_put(out, value);
}

static bool read_state(const char *text, enum hpl_key_state *state)
{
    for (size_t i = 0; text && i < HPL_COUNT(states); i++)
        if (strcmp(text, states[i].kept) == 0) {
            *state = (enum hpl_key_state)i;
            return true;
        }
    return false;
}

static json_t *take(const json_t *value, const char *name)
{
    json_t *member = json_object_get(value, name);
    return member ? json_incref(member) : json_null();
}

enum hpl_status hpl_record_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_key_record *out)
{
    json_t *HPL_JSON_AUTO value = NULL;
    const char *uid = NULL, *key_id = NULL, *state = NULL;
    int64_t format = 0, version = 0;
    struct hpl_call quiet = {0};
    *out = (struct hpl_key_record){0};
    bool is_right = hpl_json_object(&quiet, &value, bytes, 1u << 20, false) == HPL_OK &&
                    hpl_json_int(&quiet, value, "format", 1, 1, &format) == HPL_OK && format == 1 &&
                    hpl_json_str(&quiet, value, "uid", &uid) == HPL_OK && hpl_json_str(&quiet, value, "key_id", &key_id) == HPL_OK &&
                    hpl_json_str(&quiet, value, "state", &state) == HPL_OK && hpl_json_int(&quiet, value, "version", 1, UINT32_MAX, &version) == HPL_OK &&
                    hpl_json_int(&quiet, value, "created_ms", 0, INT64_MAX, &out->created_ms) == HPL_OK &&
                    hpl_json_int(&quiet, value, "rotated_ms", 0, INT64_MAX, &out->rotated_ms) == HPL_OK &&
                    hpl_json_int(&quiet, value, "deletion_ms", 0, INT64_MAX, &out->deletion_ms) == HPL_OK &&
                    hpl_caching_read(&quiet, json_object_get(value, "caching"), &out->caching) == HPL_OK;
    const json_t *policy = json_object_get(value, "policy");
    is_right = is_right && (!policy || json_is_object(policy)) && uid && key_id && version && strlen(key_id) <= HPL_KEY_ID_MAX && read_state(state, &out->state) &&
               hpl_hex_decode(out->uid, sizeof out->uid, uid, strlen(uid));
    if (!is_right) {
        *out = (struct hpl_key_record){0};
        return hpl_fail(call, HPL_INTEGRITY, "a key record is damaged");
    }
    out->version = (uint32_t)version;
    memcpy(out->key_id, key_id, strlen(key_id) + 1);
    out->description = take(value, "description");
    out->tags = take(value, "tags");
    out->created_by = take(value, "created_by");
    out->former_uids = take(value, "former_uids");
    out->policy = take(value, "policy");
    out->is_imported = json_is_true(json_object_get(value, "imported"));
    out->was_disabled = json_is_true(json_object_get(value, "was_disabled"));
    out->rotation = take(value, "rotation");
    out->versions = take(value, "versions");
    return HPL_OK;
}

enum hpl_status hpl_record_usable(struct hpl_call *call, const struct hpl_key_record *record)
{
    switch (record->state) {
    case HPL_STATE_ENABLED: return HPL_OK;
    case HPL_STATE_DISABLED: return hpl_fail(call, HPL_KEY_DISABLED, "the key '%.80s' is disabled", record->key_id);
    case HPL_STATE_PENDING:
    case HPL_STATE_DESTROYING: return hpl_fail(call, HPL_KEY_PENDING_DELETION, "the key '%.80s' is pending deletion; cancel that to use it", record->key_id);
    case HPL_STATE_GONE: return hpl_fail(call, HPL_KEY_DESTROYED, "the key '%.80s' was destroyed; what it sealed cannot be opened", record->key_id);
    case HPL_STATE_CREATING: break;
    }
    return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key '%.80s' is still being made; create it again to finish that", record->key_id);
}

static json_t *time_json(int64_t unix_ms)
{
    char text[40];
    if (!unix_ms)
        return json_null();
    hpl_time_text(text, unix_ms, HPL_TIME_ISO_US);
    return json_string(text);
}

enum hpl_status hpl_record_next_version(struct hpl_key_record *record, int64_t now_ms)
{
    json_t *versions = json_array(); /* a new one: copies of the record may share the old */
    bool is_right = versions != NULL;
    for (uint32_t i = 0; is_right && i < record->version; i++) {
        int64_t made = i ? json_integer_value(json_array_get(record->versions, i)) : record->created_ms;
        is_right = json_array_append_new(versions, json_integer(made)) == 0;
    }
    if (!is_right || json_array_append_new(versions, json_integer(now_ms)) != 0) {
        json_decref(versions);
        return HPL_NO_MEMORY;
    }
    json_decref(record->versions);
    record->versions = versions;
    record->version++;
    record->rotated_ms = now_ms;
    return HPL_OK;
}

int64_t hpl_record_rotation(const struct hpl_key_record *record, const char *name)
{
    return json_integer_value(json_object_get(record->rotation, name));
}

int64_t hpl_record_rotation_ms(const struct hpl_key_record *record)
{
    int64_t days = hpl_record_rotation(record, "period_days");
    return days ? (record->rotated_ms ? record->rotated_ms : record->created_ms) + days * DAY_MS : 0;
}

bool hpl_record_is_state_name(const char *text, enum hpl_key_state *state)
{
    for (size_t i = 0; i < HPL_COUNT(states); i++)
        if (strcasecmp(text, states[i].kept) == 0 || strcasecmp(text, states[i].shown) == 0 || strcasecmp(text, states[i].listed) == 0) {
            *state = (enum hpl_key_state)i;
            return true;
        }
    return false;
}

const char *hpl_record_state_name(enum hpl_key_state state)
{
    return states[state].shown;
}

const char *hpl_record_listed_name(enum hpl_key_state state)
{
    return states[state].listed;
}

static json_t *versions_json(const struct hpl_key_record *record)
{
    json_t *list = json_array();
    for (uint32_t version = 1; version <= record->version; version++) {
        int64_t made = version == 1 ? record->created_ms : json_integer_value(json_array_get(record->versions, version - 1));
        if (version == record->version && version > 1)
            made = record->rotated_ms;
        json_array_append_new(list, json_pack("{s:I, s:o}", "version", (json_int_t)version, "creation_date", time_json(made)));
    }
    return list;
}

/* By its age; by its wraps only who counts them knows. */
static void put_rotation(const struct hpl_key_record *record, json_t *metadata)
{
    int64_t next = hpl_record_rotation_ms(record);
    bool is_due = record->state == HPL_STATE_ENABLED && next && next <= hpl_clock_unix_ms();
    json_object_set_new(metadata, "rotation_enabled", json_boolean(json_is_object(record->rotation)));
    json_object_set_new(metadata, "rotation_due", json_boolean(is_due));
    json_object_set_new(metadata, "rotation_due_reason", is_due ? json_string(record->rotated_ms ? "age" : "never_rotated") : json_null());
    if (!json_is_object(record->rotation))
        return;
    json_object_set_new(metadata, "rotation_period_days", json_integer(hpl_record_rotation(record, "period_days")));
    json_object_set_new(metadata, "rotation_max_wraps", json_integer(hpl_record_rotation(record, "max_wraps")));
    json_object_set_new(metadata, "next_rotation_date", time_json(next));
}

json_t *hpl_record_metadata(const struct hpl_key_record *record)
{
    json_t *metadata =
        json_pack("{s:s, s:O, s:b, s:s, s:s, s:s, s:o, s:o, s:o, s:s, s:s, s:O, s:I, s:O, s:o, s:b}", "key_id", record->key_id, "description",
                  record->description, "enabled", record->state == HPL_STATE_ENABLED, "key_state", states[record->state].shown, "key_usage",
                  "ENCRYPT_DECRYPT", "algorithm", "AES-256", "creation_date", time_json(record->created_ms), "rotation_date",
                  time_json(record->rotated_ms), "deletion_date", time_json(record->deletion_ms), "origin", record->is_imported ? "EXTERNAL" : "HARDPLATE_KMS",
                  "key_manager", "HARDPLATE", "tags", record->tags, "current_version", (json_int_t)record->version, "created_by", record->created_by,
                  "versions", versions_json(record), "has_policy", json_is_object(record->policy));
    if (metadata) {
        put_rotation(record, metadata);
        json_object_set_new(metadata, "caching", hpl_caching_json(&record->caching));
    }
    return metadata;
}
