/* The admin routes, a row each. Pure look-ups; any thread. */
#include "admin/routes.h"

#include <stdio.h>

#include "base/codec.h"

static const struct hpl_admin_route routes[] = {
    {"POST", "kms/configure", "kms:Configure", false, 200, hpl_admin_configure},
    {"POST", "kms/reconfigure", "kms:Configure", false, 200, hpl_admin_reconfigure},
    {"POST", "kms/start", "kms:ServiceControl", false, 200, hpl_admin_start},
    {"POST", "kms/stop", "kms:ServiceControl", false, 200, hpl_admin_stop},
    {"GET", "kms/status", "kms:ServiceControl", false, 200, hpl_admin_status},
    {"POST", "kms/status", "kms:ServiceControl", false, 200, hpl_admin_status},
    {"GET", "kms/service-status", "kms:ServiceControl", false, 200, hpl_admin_status},
    {"GET", "kms/config", "kms:Configure", false, 200, hpl_admin_config},
    {"POST", "kms/clear-cache", "kms:ClearCache", false, 204, hpl_admin_clear_cache},

    {"POST", "kms/keys", "kms:CreateKey", false, 200, hpl_admin_create_key},
    {"GET", "kms/keys", "kms:ListKeys", false, 200, hpl_admin_list_keys},
    {"DELETE", "kms/keys/delete", "kms:DeleteKey", false, 200, hpl_admin_delete_key},
    {"POST", "kms/keys/cancel-deletion", "kms:DeleteKey", false, 200, hpl_admin_cancel_deletion},
    {"POST", "kms/keys/enable", "kms:EnableKey", false, 200, hpl_admin_enable_key},
    {"POST", "kms/keys/disable", "kms:DisableKey", false, 200, hpl_admin_disable_key},
    {"POST", "kms/keys/rotate", "kms:RotateKey", false, 200, hpl_admin_rotate_key},
    {"GET", "kms/keys/policy", "kms:GetKeyPolicy", false, 200, hpl_admin_get_policy},
    {"PUT", "kms/keys/policy", "kms:PutKeyPolicy", false, 200, hpl_admin_put_policy},
    {"PUT", "kms/keys/caching", "kms:PutKeyCaching", false, 200, hpl_admin_put_caching},
    {"PUT", "kms/keys/rotation", "kms:RotateKey", false, 200, hpl_admin_put_rotation},
    {"POST", "kms/keys/update-description", "kms:UpdateKeyDescription", false, 200, hpl_admin_update_description},
    {"POST", "kms/keys/tag", "kms:TagResource", false, 200, hpl_admin_tag_key},
    {"POST", "kms/keys/untag", "kms:UntagResource", false, 200, hpl_admin_untag_key},
    {"GET", "kms/keys/import-parameters", "kms:ImportKey", true, 200, hpl_admin_import_parameters},
    {"POST", "kms/keys/import", "kms:ImportKey", true, 200, hpl_admin_import_key},
    {"GET", "kms/keys/*", "kms:DescribeKey", false, 200, hpl_admin_describe_key},

    {"POST", "kms/key/create", "kms:CreateKey", false, 200, hpl_admin_named_create},
    {"GET", "kms/key/status", "kms:DescribeKey", false, 200, hpl_admin_named_status},
    {"GET", "kms/key/list", "kms:ListKeys", false, 200, hpl_admin_named_list},
    {"PUT", "kms/key/enable", "kms:EnableKey", false, 200, hpl_admin_named_enable},
    {"PUT", "kms/key/disable", "kms:DisableKey", false, 200, hpl_admin_named_disable},
    {"POST", "kms/key/rotate", "kms:RotateKey", false, 200, hpl_admin_named_rotate},

    {"POST", "kms/create-key", "kms:CreateKey", false, 200, hpl_admin_create_key},
    {"GET", "kms/list-keys", "kms:ListKeys", false, 200, hpl_admin_list_keys},
    {"GET", "kms/describe-key", "kms:DescribeKey", false, 200, hpl_admin_describe_key_of_query},

    {"POST", "kms/generate-data-key", "kms:GenerateDataKey", true, 200, hpl_admin_generate},
    {"POST", "kms/generate-data-keys", "kms:GenerateDataKey", true, 200, hpl_admin_generate_many},
    {"POST", "kms/decrypt", "kms:Decrypt", true, 200, hpl_admin_decrypt},
    {"POST", "kms/rewrap", "kms:Rewrap", false, 200, hpl_admin_rewrap},
    {"POST", "kms/explain", "kms:Explain", false, 200, hpl_admin_explain},
    {"GET", "kms/backends", "kms:Configure", false, 200, hpl_admin_backends},
    {"POST", "kms/backends/detach", "kms:Configure", false, 200, hpl_admin_detach},
};

/* True when path fits pattern; the part under a final "*" is one non-empty segment, decoded into tail. */
static bool path_fits(const char *pattern, struct hpl_bytes path, char *tail, size_t tail_size)
{
    size_t len = strlen(pattern);
    tail[0] = '\0';
    if (pattern[len - 1] != '*')
        return hpl_bytes_equal(path, hpl_bytes_str(pattern));
    if (path.len <= len - 1 || memcmp(path.data, pattern, len - 1) != 0 ||
        memchr(path.data + len - 1, '/', path.len - (len - 1)))
        return false;
    struct hpl_buf decoded = {.max = tail_size - 1};
    bool fits = hpl_uri_decode(&decoded, hpl_bytes(path.data + len - 1, path.len - (len - 1)), false) &&
                !memchr(decoded.data, '\0', decoded.len);
    if (fits)
        snprintf(tail, tail_size, "%s", hpl_buf_text(&decoded));
    hpl_buf_wipe(&decoded);
    return fits;
}

const struct hpl_admin_route *hpl_admin_find_route(struct hpl_bytes method, struct hpl_bytes path, char *tail, size_t tail_size,
                                                   struct hpl_buf *allowed)
{
    for (size_t i = 0; i < HPL_COUNT(routes); i++) {
        if (!path_fits(routes[i].path, path, tail, tail_size))
            continue;
        if (hpl_bytes_equal(method, hpl_bytes_str(routes[i].method)))
            return &routes[i];
        hpl_http_put_method(allowed, routes[i].method);
    }
    return NULL;
}

enum hpl_status hpl_admin_query(const struct hpl_admin_request *request, const char *name, char *value, size_t size)
{
    struct hpl_bytes rest = request->query;
    while (rest.len) {
        const uint8_t *end = memchr(rest.data, '&', rest.len);
        struct hpl_bytes pair = {rest.data, end ? (size_t)(end - rest.data) : rest.len};
        rest = end ? hpl_bytes(end + 1, rest.len - pair.len - 1) : hpl_bytes(NULL, 0);
        const uint8_t *equals = pair.len ? memchr(pair.data, '=', pair.len) : NULL;
        size_t name_len = equals ? (size_t)(equals - pair.data) : pair.len;
        if (!hpl_bytes_equal(hpl_bytes(pair.data, name_len), hpl_bytes_str(name)))
            continue;
        struct hpl_bytes raw = equals ? hpl_bytes(equals + 1, pair.len - name_len - 1) : hpl_bytes(NULL, 0);
        struct hpl_buf decoded = {.max = size - 1};
        bool is_right = hpl_uri_decode(&decoded, raw, true) && !(decoded.len && memchr(decoded.data, '\0', decoded.len));
        if (is_right)
            snprintf(value, size, "%s", hpl_buf_text(&decoded));
        hpl_buf_wipe(&decoded);
        return is_right ? HPL_OK : hpl_fail(request->call, HPL_INVALID_REQUEST, "the query parameter '%s' is malformed or too long", name);
    }
    return HPL_NOT_FOUND;
}

enum hpl_status hpl_admin_spelling(const struct hpl_admin_request *request, const char *const names[], const char **name)
{
    const json_t *found = NULL;
    *name = NULL;
    for (size_t i = 0; names[i]; i++) {
        const json_t *value = json_object_get(request->body, names[i]);
        if (!value || json_is_null(value))
            continue;
        if (found && !json_equal(found, value))
            return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' and '%s' say different things", *name, names[i]);
        found = value;
        *name = names[i];
    }
    return HPL_OK;
}

enum hpl_status hpl_admin_text(const struct hpl_admin_request *request, const char *const names[], const char **out)
{
    const char *name;
    HPL_TRY(hpl_admin_spelling(request, names, &name));
    return name ? hpl_json_str(request->call, request->body, name, out) : HPL_OK;
}

enum hpl_status hpl_admin_object(const struct hpl_admin_request *request, const char *const names[], const json_t **out)
{
    const char *name;
    HPL_TRY(hpl_admin_spelling(request, names, &name));
    return name ? hpl_json_member(request->call, request->body, name, out) : HPL_OK;
}
