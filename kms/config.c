/* Configure bodies. Any thread; pure but for sealing. */
#include "kms/config.h"

#include <strings.h>

#include "base/codec.h"

#define MAX_CONFIG_BYTES 16384u

/* The older documents' names; those without a new name are taken apart below. */
static const struct { const char *old_name, *new_name; json_type type; } renamed[] = {
    {"kms_type", "backend_type", JSON_STRING},       {"vault_address", "address", JSON_STRING},
    {"vault_namespace", "namespace", JSON_STRING},   {"vault_mount_path", "mount_path", JSON_STRING},
    {"vault_timeout_seconds", "timeout_seconds", JSON_INTEGER},
};
static const char *const old_only[] = {"vault_token", "vault_app_role_id", "vault_app_role_secret_id"};
static const char *const common_fields[] = {"default_key_id", "enable_cache", "cache_ttl_seconds", "max_cached_keys", "timeout_seconds", "retry_attempts", "queue"};

static const struct hpl_backend *find_backend(const struct hpl_kms_options *options, const char *name)
{
    for (const struct hpl_backend *const *at = options->backends; *at; at++) {
        if (strcasecmp((*at)->name, name) == 0)
            return *at;
        for (const char *const *alias = (*at)->aliases; alias && *alias; alias++)
            if (strcasecmp(*alias, name) == 0)
                return *at;
    }
    return NULL;
}

static bool is_one_of(const char *name, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, list[i]) == 0)
            return true;
    return false;
}

static bool is_listed(const char *name, const char *const *list)
{
    while (list && *list && strcmp(name, *list) != 0)
        list++;
    return list && *list;
}

/* The new name of a member; a wrong type is refused by the name that was sent. */
static enum hpl_status new_name_of(struct hpl_call *call, const char *name, const json_t *value, const char **out)
{
    *out = name;
    for (size_t i = 0; i < HPL_COUNT(renamed); i++) {
        if (strcmp(name, renamed[i].old_name) != 0)
            continue;
        if (json_typeof(value) != renamed[i].type)
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be %s", name, renamed[i].type == JSON_STRING ? "a string" : "an integer");
        *out = renamed[i].new_name;
    }
    return HPL_OK;
}

static bool is_given(const char *text)
{
    return text && *text;
}

/* AppRole wins over a token when both are there; what is blank is not there. */
static enum hpl_status old_auth(struct hpl_call *call, const json_t *body, json_t *out)
{
    const char *token = NULL, *role = NULL, *secret = NULL;
    HPL_TRY(hpl_json_str(call, body, "vault_token", &token));
    HPL_TRY(hpl_json_str(call, body, "vault_app_role_id", &role));
    HPL_TRY(hpl_json_str(call, body, "vault_app_role_secret_id", &secret));
    bool is_approle = is_given(role) && is_given(secret);
    if (!is_approle && !is_given(token) && (is_given(role) || is_given(secret)))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'vault_app_role_id' and 'vault_app_role_secret_id' belong together");
    if (!is_approle && !token)
        return HPL_OK;
    json_t *HPL_JSON_AUTO method = is_approle ? json_pack("{s:{s:s, s:s}}", "approle", "role_id", role, "secret_id", secret) : json_pack("{s:s}", "token", token);
    if (json_object_get(out, "auth_method") && !json_equal(json_object_get(out, "auth_method"), method))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' and 'auth_method' say different things", is_approle ? "vault_app_role_id" : "vault_token");
    return json_object_set(out, "auth_method", method) == 0 ? HPL_OK : HPL_NO_MEMORY;
}

/* The body under its new names. */
static enum hpl_status rename_members(struct hpl_call *call, const json_t *body, json_t *out)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)body, name, value)
    {
        const char *new_name;
        if (json_is_null(value) || is_one_of(name, old_only, HPL_COUNT(old_only)))
            continue;
        HPL_TRY(new_name_of(call, name, value, &new_name));
        if (new_name != name && json_object_get(body, new_name) && !json_equal(json_object_get(body, new_name), value))
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' and '%s' say different things", name, new_name);
        if (json_object_set(out, new_name, value) != 0)
            return HPL_NO_MEMORY;
    }
    return old_auth(call, body, out);
}

static enum hpl_status name_backend(struct hpl_call *call, const struct hpl_kms_options *options, json_t *config)
{
    const char *name = NULL;
    HPL_TRY(hpl_json_str(call, config, "backend_type", &name));
    if (!name)
        return HPL_OK;
    const struct hpl_backend *backend = find_backend(options, name);
    if (backend)
        return json_object_set_new(config, "backend_type", json_string(backend->name)) ? HPL_NO_MEMORY : HPL_OK;
    return hpl_fail(call, HPL_INVALID_REQUEST, "'backend_type' '%.40s' is not known; use local, pkcs11 or vault", name);
}

static bool is_blank(const json_t *value)
{
    const char *name;
    json_t *member;
    if (!json_is_object(value))
        return json_is_string(value) && json_string_length(value) == 0;
    json_object_foreach((json_t *)value, name, member)
        if (!is_blank(member))
            return false;
    return json_object_size(value) > 0;
}

/* A secret that is sent blank stays as it is. Secrets that stay are not sent to another place than the one they were given for. */
static enum hpl_status keep_secrets(struct hpl_call *call, const struct hpl_backend *backend, const json_t *base, json_t *over)
{
    for (const char *const *secret = backend->secret_fields; secret && *secret; secret++) {
        if (is_blank(json_object_get(over, *secret)))
            json_object_del(over, *secret);
        if (json_object_get(over, *secret) || !json_object_get(base, *secret))
            continue;
        for (const char *const *bound = backend->bound_fields; bound && *bound; bound++)
            if (json_object_get(over, *bound) && !json_equal(json_object_get(over, *bound), json_object_get(base, *bound)))
                return hpl_fail(call, HPL_INVALID_REQUEST, "a change of '%s' needs '%s' in the same body: what is stored is not sent to another place", *bound, *secret);
    }
    return HPL_OK;
}

/* The body says in another way what this member of the base says. */
static bool is_said_anew(const struct hpl_backend *backend, const char *name, const json_t *base, const json_t *over)
{
    if (!backend || !is_listed(name, backend->alternatives))
        return false;
    for (const char *const *other = backend->alternatives; *other; other++)
        if (json_object_get(over, *other) && !json_equal(json_object_get(over, *other), json_object_get(base, *other)))
            return true;
    return false;
}

void hpl_kms_drop_unknown(const struct hpl_kms_options *options, json_t *config)
{
    const char *type = json_string_value(json_object_get(config, "backend_type")), *name;
    const struct hpl_backend *backend = type ? find_backend(options, type) : NULL;
    json_t *value;
    void *next;
    json_object_foreach_safe(config, next, name, value)
    {
        (void)value;
        if (backend && strcmp(name, "backend_type") != 0 && !is_one_of(name, common_fields, HPL_COUNT(common_fields)) && !is_listed(name, backend->fields))
            json_object_del(config, name);
    }
}

enum hpl_status hpl_kms_normalise(struct hpl_call *call, const struct hpl_kms_options *options, const json_t *body, const json_t *base, json_t **out)
{
    json_t *HPL_JSON_AUTO over = json_object();
    json_t *HPL_JSON_AUTO whole = json_object();
    HPL_TRY(rename_members(call, body, over));
    HPL_TRY(name_backend(call, options, over));
    const char *new_backend = json_string_value(json_object_get(over, "backend_type"));
    const char *old_backend = json_string_value(json_object_get(base, "backend_type"));
    bool is_switch = new_backend && old_backend && strcmp(new_backend, old_backend) != 0;
    const struct hpl_backend *same = old_backend && !is_switch ? find_backend(options, old_backend) : NULL;
    if (same)
        HPL_TRY(keep_secrets(call, same, base, over));
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)base, name, value)
        if (is_switch ? is_one_of(name, common_fields, HPL_COUNT(common_fields)) : !is_said_anew(same, name, base, over))
            json_object_set(whole, name, value);
    if (json_object_update(whole, over) != 0)
        return HPL_NO_MEMORY;
    hpl_kms_drop_unknown(options, whole);
    *out = whole;
    whole = NULL;
    return HPL_OK;
}

static json_t *without_common(const json_t *config)
{
    json_t *rest = json_copy((json_t *)config);
    for (size_t i = 0; i < HPL_COUNT(common_fields); i++)
        json_object_del(rest, common_fields[i]);
    return rest;
}

bool hpl_kms_is_same_backend(const json_t *a, const json_t *b)
{
    json_t *HPL_JSON_AUTO left = without_common(a);
    json_t *HPL_JSON_AUTO right = without_common(b);
    return left && right && json_equal(left, right);
}

enum hpl_status hpl_kms_check_key_id(struct hpl_call *call, const char *key_id)
{
    size_t len = strlen(key_id);
    bool is_right = len >= 1 && len <= HPL_KEY_ID_MAX && hpl_utf8_is_valid(hpl_bytes(key_id, len)) && key_id[0] != ' ' && key_id[len - 1] != ' ';
    for (size_t i = 0; is_right && i < len; i++) {
        unsigned char here = (unsigned char)key_id[i], next = (unsigned char)key_id[i + 1];
        is_right = here >= 0x20 && here != 0x7f && !(here == 0xc2 && next < 0xa0); /* U+0080 to U+009F are control characters too */
    }
    return is_right ? HPL_OK : hpl_fail(call, HPL_INVALID_REQUEST, "a key id has 1 to %u bytes of UTF-8 without control characters or spaces at its ends", HPL_KEY_ID_MAX);
}

enum hpl_status hpl_kms_read_settings(struct hpl_call *call, const struct hpl_kms_options *options, const json_t *config, struct hpl_kms_settings *out)
{
    const char *name = NULL, *default_key = options->default_key_id;
    struct hpl_buf text = {.max = MAX_CONFIG_BYTES};
    *out = (struct hpl_kms_settings){.enable_cache = true, .cache_ttl_seconds = 300, .max_cached_keys = 1000, .timeout_seconds = 30, .retry_attempts = 3, .queue = 64};
    enum hpl_status status = hpl_json_put(&text, config);
    hpl_buf_wipe(&text);
    if (status != HPL_OK)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the configuration is larger than %u bytes", MAX_CONFIG_BYTES);
    HPL_TRY(hpl_json_str(call, config, "backend_type", &name));
    if (!name)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'backend_type' is missing: local, pkcs11 or vault");
    out->backend = find_backend(options, name);
    if (!out->backend)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the backend '%.40s' is not part of this build", name);
    HPL_TRY(hpl_json_str(call, config, "default_key_id", &default_key));
    if (default_key) {
        HPL_TRY(hpl_kms_check_key_id(call, default_key));
        memcpy(out->default_key_id, default_key, strlen(default_key) + 1);
    }
    HPL_TRY(hpl_json_bool(call, config, "enable_cache", &out->enable_cache));
    HPL_TRY(hpl_json_int(call, config, "cache_ttl_seconds", 1, 86400, &out->cache_ttl_seconds));
    HPL_TRY(hpl_json_int(call, config, "max_cached_keys", 1, 1000000, &out->max_cached_keys));
    HPL_TRY(hpl_json_int(call, config, "timeout_seconds", 1, 600, &out->timeout_seconds));
    HPL_TRY(hpl_json_int(call, config, "retry_attempts", 0, 10, &out->retry_attempts));
    HPL_TRY(hpl_json_int(call, config, "queue", 4, 4096, &out->queue));
    return out->backend->validate(call, config, options->env);
}

enum hpl_status hpl_kms_seal_json(struct hpl_call *call, struct hpl_catalog *catalog, const char *label, const json_t *value, json_t **out)
{
    struct hpl_buf text = {0}, sealed = {0}, base64 = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    enum hpl_status status = hpl_json_put(&text, value);
    if (status == HPL_OK && !(secret = hpl_secret_from(text.data, text.len)))
        status = hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (status == HPL_OK)
        status = hpl_catalog_seal(call, catalog, label, secret, &sealed);
    if (status == HPL_OK) {
        hpl_base64_put(&base64, sealed.data, sealed.len);
        *out = json_pack("{s:s%}", "sealed", (const char *)base64.data, base64.len);
        status = *out ? HPL_OK : HPL_NO_MEMORY;
    }
    hpl_buf_wipe(&text);
    hpl_buf_wipe(&sealed);
    hpl_buf_wipe(&base64);
    return status;
}

enum hpl_status hpl_kms_unseal_json(struct hpl_call *call, struct hpl_catalog *catalog, const char *label, const json_t *sealed, json_t **out)
{
    struct hpl_buf bytes = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    const char *base64 = json_string_value(json_object_get(sealed, "sealed"));
    enum hpl_status status = base64 && hpl_base64_decode(&bytes, base64, strlen(base64)) ? HPL_OK
                             : hpl_fail(call, HPL_INTEGRITY, "the kept configuration '%s' is damaged", label);
    if (status == HPL_OK)
        status = hpl_catalog_unseal(call, catalog, label, hpl_buf_bytes(&bytes), &secret);
    if (status == HPL_OK)
        status = hpl_json_object(call, out, hpl_bytes(secret->bytes, secret->len), HPL_SECRET_MAX, false);
    hpl_buf_wipe(&bytes);
    return status;
}
