/* What comes to a key from outside: imported material, and what is set on it once it is there: description, tags, policy, rotation, caching. Jobs; may block on a backend. */
#include "admin/routes.h"

#include "base/codec.h"

enum hpl_status hpl_admin_get_policy(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *policy = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_kms_policy(request->admin->kms, request->call, key_id, &policy));
    *answer = json_pack("{s:s, s:o}", "key_id", key_id, "policy", policy);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_admin_put_policy(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    const json_t *policy = json_object_get(request->body, "policy");
    HPL_TRY(hpl_admin_key_id(request, key_id));
    if (!policy)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'policy' is missing: an object with 'grants', or null for none");
    HPL_TRY(hpl_kms_set_policy(request->admin->kms, request->call, key_id, policy, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

enum hpl_status hpl_admin_update_description(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    const char *description = NULL;
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_admin_description(request, &description));
    if (!description)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'description' is missing; \"\" takes it away");
    HPL_TRY(hpl_kms_set_description(request->admin->kms, request->call, key_id, description, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

enum hpl_status hpl_admin_tag_key(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    const json_t *tags = NULL;
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_admin_tags(request, &tags));
    if (!tags)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'tags' must be an object of strings");
    HPL_TRY(hpl_kms_tag(request->admin->kms, request->call, key_id, tags, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

enum hpl_status hpl_admin_untag_key(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    const json_t *names = json_object_get(request->body, "tag_keys");
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    if (!json_is_array(names))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'tag_keys' must be a list of strings");
    HPL_TRY(hpl_kms_untag(request->admin->kms, request->call, key_id, names, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

enum hpl_status hpl_admin_put_rotation(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    int64_t period_days = 0, max_wraps = 0;
    bool is_enabled = true;
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_json_bool(request->call, request->body, "enabled", &is_enabled));
    HPL_TRY(hpl_json_int(request->call, request->body, "period_days", 1, HPL_ROTATION_MAX_DAYS, &period_days));
    HPL_TRY(hpl_json_int(request->call, request->body, "max_wraps", 1, HPL_ROTATION_MAX_WRAPS, &max_wraps));
    if (!is_enabled)
        period_days = max_wraps = 0;
    else if (!period_days && !max_wraps)
        period_days = 365;
    HPL_TRY(hpl_kms_set_rotation(request->admin->kms, request->call, key_id, period_days, max_wraps, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

/* The whole choice at once: what is not named goes back to its default. */
enum hpl_status hpl_admin_put_caching(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_kms_set_caching(request->admin->kms, request->call, key_id, request->body, &metadata));
    return hpl_admin_metadata(metadata, answer);
}

enum hpl_status hpl_admin_import_parameters(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_import_parameters(request->admin->kms, request->call, answer);
}

enum hpl_status hpl_admin_import_key(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    const char *text = NULL;
    struct hpl_buf encrypted = {0};
    json_t *metadata = NULL;
    struct hpl_key_create create = {.key_id = key_id, .created_by = request->access_key};
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_admin_description(request, &create.description));
    HPL_TRY(hpl_admin_tags(request, &create.tags));
    HPL_TRY(hpl_json_str(request->call, request->body, "encrypted_key_material", &text));
    if (!text)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'encrypted_key_material' is missing");
    enum hpl_status status = hpl_base64_decode(&encrypted, text, strlen(text))
                                 ? hpl_kms_import_key(request->admin->kms, request->call, &create, hpl_buf_bytes(&encrypted), &metadata)
                                 : hpl_fail(request->call, HPL_INVALID_REQUEST, "'encrypted_key_material' is not valid Base64");
    hpl_buf_wipe(&encrypted);
    return status == HPL_OK ? hpl_admin_metadata(metadata, answer) : status;
}
