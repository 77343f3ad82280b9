/* What is set on a key once it is there: description, tags, policy, rotation. Any thread; blocks on the backend. */
#include "kms/internal.h"

#define MAX_DESCRIPTION 8192u
#define MAX_TAGS 50u
#define MAX_TAG_NAME 128u
#define MAX_TAG_VALUE 256u

/* A tombstone keeps what it has. */
static enum hpl_status check_alive(struct hpl_call *call, const struct hpl_key_record *record)
{
    return record->state == HPL_STATE_GONE ? hpl_record_usable(call, record) : HPL_OK;
}

/* Puts value (taken; NULL: memory is out) in place of a member. */
static enum hpl_status replace(json_t **member, json_t *value)
{
    if (!value)
        return HPL_NO_MEMORY;
    json_decref(*member);
    *member = value;
    return HPL_OK;
}

/* --- description and tags ------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_key_check_description(struct hpl_call *call, const char *description)
{
    if (strlen(description) > MAX_DESCRIPTION)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the description is longer than %u bytes", MAX_DESCRIPTION);
    return HPL_OK;
}

enum hpl_status hpl_key_check_tags(struct hpl_call *call, const json_t *tags)
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

static enum hpl_status set_description(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *text)
{
    (void)attachment;
    HPL_TRY(check_alive(call, record));
    return replace(&record->description, *(const char *)text ? json_string(text) : json_null());
}

enum hpl_status hpl_kms_set_description(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const char *description, json_t **metadata)
{
    HPL_TRY(hpl_key_check_description(call, description));
    return hpl_kms_change_key(kms, call, key_id, set_description, description, "kms.key.description", metadata);
}

static enum hpl_status check_no_name(struct hpl_call *call, const char *name)
{
    if (strcmp(name, "name") == 0)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the tag 'name' asked for the key's id when it was made and does not change");
    return HPL_OK;
}

static enum hpl_status add_tags(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *tags)
{
    (void)attachment;
    HPL_TRY(check_alive(call, record));
    json_t *HPL_JSON_AUTO all = json_deep_copy(record->tags);
    if (!all || json_object_update(all, (json_t *)tags) != 0)
        return HPL_NO_MEMORY;
    HPL_TRY(hpl_key_check_tags(call, all));
    return replace(&record->tags, json_incref(all));
}

enum hpl_status hpl_kms_tag(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *tags, json_t **metadata)
{
    const char *name;
    json_t *value;
    HPL_TRY(hpl_key_check_tags(call, tags));
    json_object_foreach((json_t *)tags, name, value)
        HPL_TRY(check_no_name(call, name));
    (void)value;
    return hpl_kms_change_key(kms, call, key_id, add_tags, tags, "kms.key.tagged", metadata);
}

static enum hpl_status remove_tags(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *names)
{
    size_t i;
    json_t *name;
    (void)attachment;
    HPL_TRY(check_alive(call, record));
    json_t *rest = json_deep_copy(record->tags);
    json_array_foreach((json_t *)names, i, name)
        json_object_del(rest, json_string_value(name));
    return replace(&record->tags, rest);
}

enum hpl_status hpl_kms_untag(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *names, json_t **metadata)
{
    size_t i;
    json_t *name;
    json_array_foreach((json_t *)names, i, name)
    {
        if (!json_is_string(name))
            return hpl_fail(call, HPL_INVALID_REQUEST, "the names of tags to take away must be strings");
        HPL_TRY(check_no_name(call, json_string_value(name)));
    }
    return hpl_kms_change_key(kms, call, key_id, remove_tags, names, "kms.key.untagged", metadata);
}

/* --- policy -------------------------------------------------------------------------------------------------------------- */

static enum hpl_status set_policy(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *policy)
{
    (void)attachment;
    HPL_TRY(check_alive(call, record));
    return replace(&record->policy, policy ? json_deep_copy(policy) : json_null());
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
    HPL_TRY(hpl_attachment_kept_record(call, attachment, key_id, false, &record, NULL));
    *policy = json_incref(record.policy);
    return HPL_OK;
}

/* --- rotation ------------------------------------------------------------------------------------------------------------ */

struct rotation {
    int64_t period_days, max_wraps;
};

/* What the backend's material can bear is nobody's to choose. */
static enum hpl_status bound_wraps(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, int64_t *max_wraps)
{
    uint64_t bound;
    bool is_there;
    HPL_TRY(hpl_kms_ask_material(call, attachment, key_id, &is_there, &bound));
    if (bound && (!*max_wraps || *max_wraps > (int64_t)bound))
        *max_wraps = (int64_t)bound;
    return HPL_OK;
}

static enum hpl_status set_rotation(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *argument)
{
    struct rotation rotation = *(const struct rotation *)argument;
    HPL_TRY(check_alive(call, record));
    if ((rotation.period_days || rotation.max_wraps) && record->is_imported)
        return hpl_fail(call, HPL_CONFLICT, "the material of '%.80s' was imported and does not rotate by itself", record->key_id);
    HPL_TRY(bound_wraps(call, attachment, record->key_id, &rotation.max_wraps));
    if (!rotation.period_days && !rotation.max_wraps)
        return replace(&record->rotation, json_null());
    return replace(&record->rotation, json_pack("{s:I, s:I}", "period_days", (json_int_t)rotation.period_days, "max_wraps", (json_int_t)rotation.max_wraps));
}

enum hpl_status hpl_kms_set_rotation(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, int64_t period_days, int64_t max_wraps, json_t **metadata)
{
    const struct rotation rotation = {period_days, max_wraps};
    if (period_days < 0 || period_days > HPL_ROTATION_MAX_DAYS)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'period_days' must be from 1 to %d, or 0 for no rotation by age", HPL_ROTATION_MAX_DAYS);
    if (max_wraps < 0 || max_wraps > HPL_ROTATION_MAX_WRAPS)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'max_wraps' must be from 1 to 2^32, or 0 for no rotation by wraps");
    return hpl_kms_change_key(kms, call, key_id, set_rotation, &rotation, "kms.key.rotation", metadata);
}
