/* Key routes, in both styles: JSON bodies under kms/keys, and ?keyName= under kms/key. Jobs; may block on a backend. */
#include "admin/routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum hpl_status hpl_admin_metadata(json_t *metadata, json_t **answer)
{
    const char *key_id = json_string_value(json_object_get(metadata, "key_id"));
    json_t *deletion_date = json_object_get(metadata, "deletion_date");
    *answer = json_pack("{s:b, s:s, s:s, s:O}", "success", 1, "message", "done", "key_id", key_id ? key_id : "", "key_metadata", metadata);
    if (*answer && deletion_date && json_is_string(deletion_date))
        json_object_set(*answer, "deletion_date", deletion_date);
    json_decref(metadata);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

static enum hpl_status key_id_in_query(const struct hpl_admin_request *request, char key_id[static HPL_KEY_ID_MAX + 1])
{
    static const char *const names[] = {"key_id", "keyId", "key-id", "key", "keyName"};
    enum hpl_status status = HPL_NOT_FOUND;
    for (size_t i = 0; status == HPL_NOT_FOUND && i < HPL_COUNT(names); i++)
        status = hpl_admin_query(request, names[i], key_id, HPL_KEY_ID_MAX + 1);
    if (status == HPL_NOT_FOUND || (status == HPL_OK && !key_id[0]))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'key_id' is missing");
    return status;
}

enum hpl_status hpl_admin_key_id_in_body(const struct hpl_admin_request *request, const char **key_id)
{
    static const char *const names[] = {"key_id", "KeyId", "keyId", NULL};
    *key_id = NULL;
    HPL_TRY(hpl_admin_text(request, names, key_id));
    if (*key_id && (!**key_id || strlen(*key_id) > HPL_KEY_ID_MAX))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'key_id' must have 1 to %u bytes", HPL_KEY_ID_MAX);
    return HPL_OK;
}

enum hpl_status hpl_admin_key_id(const struct hpl_admin_request *request, char key_id[static HPL_KEY_ID_MAX + 1])
{
    const char *text;
    HPL_TRY(hpl_admin_key_id_in_body(request, &text));
    if (!text)
        return key_id_in_query(request, key_id);
    memcpy(key_id, text, strlen(text) + 1);
    return HPL_OK;
}

enum hpl_status hpl_admin_description(const struct hpl_admin_request *request, const char **description)
{
    static const char *const names[] = {"Description", "description", NULL};
    return hpl_admin_text(request, names, description);
}

enum hpl_status hpl_admin_tags(const struct hpl_admin_request *request, const json_t **tags)
{
    static const char *const names[] = {"Tags", "tags", NULL};
    return hpl_admin_object(request, names, tags);
}

/* An optional query parameter: "" where it is missing. */
static enum hpl_status option_of(const struct hpl_admin_request *request, const char *name, char *value, size_t size)
{
    value[0] = '\0';
    enum hpl_status status = hpl_admin_query(request, name, value, size);
    return status == HPL_NOT_FOUND ? HPL_OK : status;
}

enum hpl_status hpl_admin_create_key(const struct hpl_admin_request *request, json_t **answer)
{
    static const char *const usages[] = {"KeyUsage", "key_usage", NULL};
    const char *name = NULL;
    const json_t *tags = NULL;
    char in_query[HPL_KEY_ID_MAX + 1];
    struct hpl_key_create create = {.created_by = request->access_key};
    HPL_TRY(hpl_admin_text(request, usages, &create.usage));
    HPL_TRY(hpl_admin_description(request, &create.description));
    HPL_TRY(hpl_admin_tags(request, &tags));
    if (tags) /* the tag "name" asks for an id */
        HPL_TRY(hpl_json_str(request->call, tags, "name", &name));
    HPL_TRY(option_of(request, "key-id", in_query, sizeof in_query));
    create.key_id = in_query[0] ? in_query : name;
    create.tags = tags;
    json_t *metadata = NULL;
    HPL_TRY(hpl_kms_create_key(request->admin->kms, request->call, &create, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

static enum hpl_status limit_of(const struct hpl_admin_request *request, size_t *limit)
{
    char text[32], *end;
    HPL_TRY(option_of(request, "limit", text, sizeof text));
    long number = text[0] ? strtol(text, &end, 10) : 100;
    if ((text[0] && *end) || number < 1 || number > 1000)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'limit' must be a number from 1 to 1000");
    *limit = (size_t)number;
    return HPL_OK;
}

/* Every key here encrypts and decrypts: a list of another usage is empty. */
static enum hpl_status is_usage_listed(const struct hpl_admin_request *request, bool *is_listed)
{
    static const char *const others[] = {"SIGN_VERIFY", "SignVerify", "GENERATE_VERIFY_MAC", "GenerateVerifyMac"};
    char usage[32];
    HPL_TRY(option_of(request, "usage", usage, sizeof usage));
    *is_listed = !usage[0] || strcmp(usage, "ENCRYPT_DECRYPT") == 0 || strcmp(usage, "EncryptDecrypt") == 0;
    for (size_t i = 0; i < HPL_COUNT(others); i++)
        if (strcmp(usage, others[i]) == 0)
            return HPL_OK;
    return *is_listed ? HPL_OK : hpl_fail(request->call, HPL_INVALID_REQUEST, "no key usage is named '%s'", usage);
}

enum hpl_status hpl_admin_list_keys(const struct hpl_admin_request *request, json_t **answer)
{
    char marker[HPL_KEY_ID_MAX + 1], state[32];
    size_t limit;
    bool is_listed;
    HPL_TRY(limit_of(request, &limit));
    HPL_TRY(option_of(request, "marker", marker, sizeof marker));
    HPL_TRY(option_of(request, "status", state, sizeof state));
    HPL_TRY(is_usage_listed(request, &is_listed));
    HPL_TRY(hpl_kms_list_keys(request->admin->kms, request->call, limit, marker[0] ? marker : NULL, state[0] ? state : NULL, answer));
    if (!is_listed) {
        json_array_clear(json_object_get(*answer, "keys"));
        json_object_set_new(*answer, "truncated", json_false());
        json_object_set_new(*answer, "next_marker", json_null());
    }
    json_object_set_new(*answer, "success", json_true());
    json_object_set_new(*answer, "message", json_string("done"));
    return HPL_OK;
}

static enum hpl_status add_impact(const struct hpl_admin_request *request, const char *key_id, json_t *answer)
{
    json_t *impact = NULL;
    HPL_TRY(hpl_kms_impact(request->admin->kms, request->call, key_id, &impact));
    return json_object_set_new(answer, "impact", impact) == 0 ? HPL_OK : HPL_NO_MEMORY;
}

static enum hpl_status describe(const struct hpl_admin_request *request, const char *key_id, json_t **answer)
{
    char impact[8];
    json_t *metadata = NULL;
    HPL_TRY(option_of(request, "impact", impact, sizeof impact));
    HPL_TRY(hpl_kms_describe_key(request->admin->kms, request->call, key_id, &metadata));
    HPL_TRY(hpl_admin_metadata(metadata, answer));
    return strcmp(impact, "true") == 0 ? add_impact(request, key_id, *answer) : HPL_OK;
}

enum hpl_status hpl_admin_describe_key(const struct hpl_admin_request *request, json_t **answer)
{
    return describe(request, request->tail, answer);
}

enum hpl_status hpl_admin_describe_key_of_query(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    HPL_TRY(hpl_admin_key_id(request, key_id));
    return describe(request, key_id, answer);
}

/* Days until then: of the body, or of the query; 0 where neither says. */
static enum hpl_status window_of(const struct hpl_admin_request *request, int64_t *window)
{
    static const char *const names[] = {"pending_window_in_days", "PendingWindowInDays", NULL};
    const char *name;
    char text[16], *end;
    *window = 0;
    HPL_TRY(hpl_admin_spelling(request, names, &name));
    if (name)
        return hpl_json_int(request->call, request->body, name, 7, 30, window);
    HPL_TRY(option_of(request, "pending_window_in_days", text, sizeof text));
    if (!text[0])
        return HPL_OK;
    *window = strtol(text, &end, 10);
    return *end || *window < 7 || *window > 30 ? hpl_fail(request->call, HPL_INVALID_REQUEST, "'pending_window_in_days' must be from 7 to 30") : HPL_OK;
}

enum hpl_status hpl_admin_delete_key(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    const char *confirmed = NULL;
    int64_t window;
    bool is_immediate = false;
    json_t *HPL_JSON_AUTO impact = NULL;
    json_t *metadata = NULL;
    struct hpl_kms *kms = request->admin->kms;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(window_of(request, &window));
    HPL_TRY(hpl_json_bool(request->call, request->body, "force_immediate", &is_immediate));
    HPL_TRY(hpl_json_str(request->call, request->body, "confirm_key_id", &confirmed));
    if (confirmed && strcmp(confirmed, key_id) != 0)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'confirm_key_id' is not 'key_id'");
    HPL_TRY(hpl_kms_impact(kms, request->call, key_id, &impact));
    HPL_TRY(is_immediate ? hpl_kms_destroy_key(kms, request->call, key_id, &metadata)
                         : hpl_kms_schedule_deletion(kms, request->call, key_id, window, &metadata));
    HPL_TRY(hpl_admin_metadata(metadata, answer));
    return json_object_set(*answer, "impact", impact) == 0 ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_admin_cancel_deletion(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_kms_cancel_deletion(request->admin->kms, request->call, key_id, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

static enum hpl_status set_enabled(const struct hpl_admin_request *request, bool is_enabled, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_kms_set_enabled(request->admin->kms, request->call, key_id, is_enabled, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

enum hpl_status hpl_admin_enable_key(const struct hpl_admin_request *request, json_t **answer)
{
    return set_enabled(request, true, answer);
}

enum hpl_status hpl_admin_disable_key(const struct hpl_admin_request *request, json_t **answer)
{
    return set_enabled(request, false, answer);
}

enum hpl_status hpl_admin_rotate_key(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_kms_rotate(request->admin->kms, request->call, key_id, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

/* --- the ?keyName= style ------------------------------------------------------------------------------------------------- */

static enum hpl_status key_name_of(const struct hpl_admin_request *request, char name[static HPL_KEY_ID_MAX + 1])
{
    enum hpl_status status = hpl_admin_query(request, "keyName", name, HPL_KEY_ID_MAX + 1);
    if (status == HPL_NOT_FOUND || (status == HPL_OK && !name[0]))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "the query parameter 'keyName' is missing");
    return status;
}

static const char *old_status(const char *state)
{
    return !state || strcmp(state, "Enabled") == 0 ? "Active" : strcmp(state, "Destroyed") == 0 ? "Deleted" : state;
}

static json_t *old_row(const json_t *metadata)
{
    const char *algorithm = json_string_value(json_object_get(metadata, "algorithm"));
    return json_pack("{s:O, s:O, s:s, s:O?, s:s}", "key_id", json_object_get(metadata, "key_id"), "key_name",
                     json_object_get(metadata, "key_id"), "status", old_status(json_string_value(json_object_get(metadata, "key_state"))), "created_at",
                     json_object_get(metadata, "creation_date"), "algorithm", algorithm ? algorithm : "AES-256");
}

/* The same from a row of the list. */
static json_t *old_row_of_list(const json_t *row)
{
    return json_pack("{s:O, s:O, s:O, s:O?, s:s}", "key_id", json_object_get(row, "key_id"), "key_name", json_object_get(row, "key_id"), "status",
                     json_object_get(row, "status"), "created_at", json_object_get(row, "created_at"), "algorithm", "AES-256");
}

static enum hpl_status old_answer(json_t *metadata, json_t **answer)
{
    *answer = old_row(metadata);
    json_decref(metadata);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_admin_named_create(const struct hpl_admin_request *request, json_t **answer)
{
    char name[HPL_KEY_ID_MAX + 1], algorithm[32];
    json_t *metadata = NULL;
    HPL_TRY(key_name_of(request, name));
    enum hpl_status status = hpl_admin_query(request, "algorithm", algorithm, sizeof algorithm);
    if (status == HPL_OK && strcmp(algorithm, "AES-256") != 0)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'algorithm' must be AES-256: master keys here are 256-bit AES keys");
    if (status != HPL_OK && status != HPL_NOT_FOUND)
        return status;
    const struct hpl_key_create create = {.key_id = name, .created_by = request->access_key};
    HPL_TRY(hpl_kms_create_key(request->admin->kms, request->call, &create, &metadata));
    return old_answer(metadata, answer);
}

enum hpl_status hpl_admin_named_status(const struct hpl_admin_request *request, json_t **answer)
{
    char name[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(key_name_of(request, name));
    HPL_TRY(hpl_kms_describe_key(request->admin->kms, request->call, name, &metadata));
    return old_answer(metadata, answer);
}

enum hpl_status hpl_admin_named_list(const struct hpl_admin_request *request, json_t **answer)
{
    json_t *HPL_JSON_AUTO all = json_array();
    char marker[HPL_KEY_ID_MAX + 1] = "";
    for (bool is_more = true; is_more;) {
        json_t *HPL_JSON_AUTO page = NULL;
        HPL_TRY(hpl_kms_list_keys(request->admin->kms, request->call, 1000, marker[0] ? marker : NULL, NULL, &page));
        size_t i;
        json_t *row;
        json_array_foreach(json_object_get(page, "keys"), i, row)
            json_array_append_new(all, old_row_of_list(row));
        const char *next = json_string_value(json_object_get(page, "next_marker"));
        is_more = next != NULL;
        snprintf(marker, sizeof marker, "%s", next ? next : "");
    }
    *answer = json_pack("{s:O}", "keys", all);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

static enum hpl_status named_set_enabled(const struct hpl_admin_request *request, bool is_enabled, json_t **answer)
{
    char name[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(key_name_of(request, name));
    HPL_TRY(hpl_kms_set_enabled(request->admin->kms, request->call, name, is_enabled, &metadata));
    return old_answer(metadata, answer);
}

enum hpl_status hpl_admin_named_enable(const struct hpl_admin_request *request, json_t **answer)
{
    return named_set_enabled(request, true, answer);
}

enum hpl_status hpl_admin_named_disable(const struct hpl_admin_request *request, json_t **answer)
{
    return named_set_enabled(request, false, answer);
}

enum hpl_status hpl_admin_named_rotate(const struct hpl_admin_request *request, json_t **answer)
{
    char name[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(key_name_of(request, name));
    HPL_TRY(hpl_kms_rotate(request->admin->kms, request->call, name, &metadata));
    return old_answer(metadata, answer);
}
