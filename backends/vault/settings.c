/* What a configure body and the local file say of a Vault. Any thread; touches nothing outside. */
#include "backends/vault/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <curl/curl.h>

#include "base/codec.h"

#define POD_JWT "/var/run/secrets/kubernetes.io/serviceaccount/token"
#define MAX_SECRET 4096u

#define NUM_FROM_A_BODY 8
const char *const hpl_vault_fields[] = {"vault", "address", "auth_method", "namespace", "mount_path", "kv_mount", "key_path_prefix", "skip_tls_verify",
                                        /* and what a body may not have: */ "ca_file", "ca_cert", "client_cert", "client_key", "certificate", "key",
                                        "token_file", "tls", NULL};

static const char *const auth_names[] = {"token", "approle", "kubernetes", "token_file"};

const char *hpl_vault_auth_name(enum hpl_vault_auth auth)
{
    return auth_names[auth];
}

/* "TokenFile", "token_file" and "token-file" are one word. */
static bool is_word(const char *text, const char *word)
{
    for (;; text++, word++) {
        while (*text == '_' || *text == '-')
            text++;
        while (*word == '_')
            word++;
        if (tolower((unsigned char)*text) != *word)
            return false;
        if (!*word)
            return true;
    }
}

/* --- the address --------------------------------------------------------------------------------------------------------- */

static bool is_loopback(const char *host)
{
    return strcasecmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
           (strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host));
}

struct url_parts {
    char *scheme, *host, *port, *path, *user, *query, *fragment;
};

static void free_parts(struct url_parts *parts)
{
    char **all[] = {&parts->scheme, &parts->host, &parts->port, &parts->path, &parts->user, &parts->query, &parts->fragment};
    for (size_t i = 0; i < HPL_COUNT(all); i++)
        curl_free(*all[i]);
}

/* What is not there stays NULL. */
static bool split_url(const char *text, struct url_parts *parts)
{
    CURLU *url = curl_url();
    bool is_right = url && curl_url_set(url, CURLUPART_URL, text, 0) == CURLUE_OK && curl_url_get(url, CURLUPART_SCHEME, &parts->scheme, 0) == CURLUE_OK &&
                    curl_url_get(url, CURLUPART_HOST, &parts->host, 0) == CURLUE_OK && curl_url_get(url, CURLUPART_PATH, &parts->path, 0) == CURLUE_OK &&
                    curl_url_get(url, CURLUPART_PORT, &parts->port, CURLU_DEFAULT_PORT) == CURLUE_OK;
    if (is_right) {
        (void)curl_url_get(url, CURLUPART_USER, &parts->user, 0);
        (void)curl_url_get(url, CURLUPART_QUERY, &parts->query, 0);
        (void)curl_url_get(url, CURLUPART_FRAGMENT, &parts->fragment, 0);
    }
    curl_url_cleanup(url);
    return is_right;
}

/* One form for equal addresses: the port always there, no slash at the end. */
static enum hpl_status read_address(struct hpl_call *call, const char *text, char out[static 2 * HPL_VAULT_TEXT], bool *is_plain)
{
    struct url_parts parts = {0};
    bool is_right = split_url(text, &parts) && (strcmp(parts.scheme, "https") == 0 || strcmp(parts.scheme, "http") == 0) && !parts.user &&
                    !parts.query && !parts.fragment;
    if (is_right) {
        size_t path_len = strlen(parts.path);
        while (path_len && parts.path[path_len - 1] == '/')
            path_len--;
        is_right = snprintf(out, 2 * HPL_VAULT_TEXT, "%s://%s:%s%.*s", parts.scheme, parts.host, parts.port, (int)path_len, parts.path) < (int)(2 * HPL_VAULT_TEXT);
        *is_plain = strcmp(parts.scheme, "http") == 0 && !is_loopback(parts.host);
    }
    free_parts(&parts);
    return is_right ? HPL_OK : hpl_fail(call, HPL_INVALID_REQUEST, "'address' must be like https://vault.example.com:8200, without user, query or fragment");
}

/* --- names --------------------------------------------------------------------------------------------------------------- */

static bool is_segment(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !strchr("_.-", text[i]))
            return false;
    return len > 0 && !(len == 1 && text[0] == '.') && !(len == 2 && strncmp(text, "..", 2) == 0);
}

/* A path of plain segments; slashes at both ends are dropped. */
static enum hpl_status read_path(struct hpl_call *call, const json_t *object, const char *name, const char *fallback, char out[static HPL_VAULT_TEXT])
{
    const char *text = fallback;
    HPL_TRY(hpl_json_str(call, object, name, &text));
    text += strspn(text, "/");
    size_t len = strlen(text);
    while (len && text[len - 1] == '/')
        len--;
    bool is_right = len < HPL_VAULT_TEXT;
    for (size_t at = 0; is_right && len && at <= len;) {
        size_t segment = 0;
        while (at + segment < len && text[at + segment] != '/')
            segment++;
        is_right = is_segment(text + at, segment);
        at += segment + 1;
    }
    if (!is_right || (!len && *fallback))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be a path of letters, digits, '_', '-' and '.', at most %u bytes", name, HPL_VAULT_TEXT - 1);
    memcpy(out, text, len);
    out[len] = '\0';
    return HPL_OK;
}

/* --- the local file's part ----------------------------------------------------------------------------------------------- */

static bool is_address_of(const struct hpl_vault_option *option, const char *address)
{
    char own[2 * HPL_VAULT_TEXT];
    bool is_plain;
    return option->address && read_address(NULL, option->address, own, &is_plain) == HPL_OK && strcmp(own, address) == 0;
}

static const struct hpl_vault_option *option_named(const struct hpl_backend_env *env, const char *name)
{
    for (size_t i = 0; i < env->num_vaults; i++)
        if (strcmp(env->vaults[i].name, name) == 0)
            return &env->vaults[i];
    return NULL;
}

static const struct hpl_vault_option *option_at(const struct hpl_backend_env *env, const char *address)
{
    for (size_t i = 0; i < env->num_vaults; i++)
        if (is_address_of(&env->vaults[i], address))
            return &env->vaults[i];
    return NULL;
}

static enum hpl_status read_place(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_vault_settings *out)
{
    const char *name = NULL, *address = NULL;
    bool is_plain;
    HPL_TRY(hpl_json_str(call, config, "vault", &name));
    HPL_TRY(hpl_json_str(call, config, "address", &address));
    if (name && !(out->option = option_named(env, name)))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "no vault is named '%.60s' in the local configuration file", name);
    if (!address && out->option)
        address = out->option->address;
    if (!address)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'address' is missing: https://host:port of Vault or OpenBao");
    HPL_TRY(read_address(call, address, out->address, &is_plain));
    if (!out->option)
        out->option = option_at(env, out->address);
    else if (out->option->address && !is_address_of(out->option, out->address))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'address' is not the one that the local configuration file gives the vault '%.60s'", name);
    if (is_plain && !env->is_dev && !(out->option && out->option->allow_http))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION,
                        "'address' is plain HTTP to another machine: tokens and data keys would travel in clear; use https, or allow_http in the local file");
    return HPL_OK;
}

/* --- who we are ---------------------------------------------------------------------------------------------------------- */

static enum hpl_status take_secret(struct hpl_call *call, struct hpl_vault_settings *out, const char *name, const char *text)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < len; i++)
        if (text[i] <= ' ' || text[i] > '~')
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' has a character that no such secret has", name);
    if (!len || len > MAX_SECRET)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must have 1 to %u characters", name, MAX_SECRET);
    out->secret = hpl_secret_from(text, len);
    return out->secret ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
}

/* A secret's file: the local one's alone, and only where that also says whom it may be sent to. */
static enum hpl_status take_file(struct hpl_call *call, struct hpl_vault_settings *out, const json_t *object, const char *member, const char *file)
{
    const char *asked = NULL;
    if (json_is_object(object))
        HPL_TRY(hpl_json_str(call, object, member, &asked));
    if (!file || !out->option || !out->option->address || (asked && *asked && strcmp(asked, file) != 0))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'%s' of 'auth_method' names a file: it belongs, with the 'address' it may be used at, under 'vaults' in the local configuration file",
                        member);
    if (strlen(file) >= sizeof out->secret_file)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'%s' is too long a path", member);
    memcpy(out->secret_file, file, strlen(file) + 1);
    return HPL_OK;
}

static enum hpl_status take_role(struct hpl_call *call, struct hpl_vault_settings *out, const json_t *object, const char *member, const char *fallback)
{
    const char *role = fallback;
    HPL_TRY(hpl_json_str(call, object, member, &role));
    if (!role || !*role)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'auth_method' has no '%s'", member);
    if (strlen(role) >= sizeof out->role || !hpl_utf8_is_valid(hpl_bytes_str(role)))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' is too long", member);
    memcpy(out->role, role, strlen(role) + 1);
    return HPL_OK;
}

static enum hpl_status take_mount(struct hpl_call *call, struct hpl_vault_settings *out, const json_t *object)
{
    const char *fallback = out->option && out->option->auth_mount ? out->option->auth_mount : hpl_vault_auth_name(out->auth);
    return read_path(call, object, "mount", fallback, out->auth_mount);
}

/* {"token": "s.x"} and {"Token": {"token": "s.x"}}. */
static enum hpl_status read_token(struct hpl_call *call, const json_t *value, struct hpl_vault_settings *out)
{
    const char *token = json_string_value(value);
    if (json_is_object(value))
        HPL_TRY(hpl_json_str(call, value, "token", &token));
    if (!token)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'auth_method' has no token");
    return take_secret(call, out, "token", token);
}

static enum hpl_status read_approle(struct hpl_call *call, const json_t *value, struct hpl_vault_settings *out)
{
    const char *secret_id = NULL;
    HPL_TRY(take_role(call, out, value, "role_id", out->option ? out->option->role_id : NULL));
    HPL_TRY(take_mount(call, out, value));
    HPL_TRY(hpl_json_str(call, value, "secret_id", &secret_id));
    if (secret_id && *secret_id)
        return take_secret(call, out, "secret_id", secret_id);
    return take_file(call, out, value, "secret_id_file", out->option ? out->option->secret_id_file : NULL);
}

static enum hpl_status read_kubernetes(struct hpl_call *call, const json_t *value, struct hpl_vault_settings *out)
{
    HPL_TRY(take_role(call, out, value, "role", out->option ? out->option->role : NULL));
    HPL_TRY(take_mount(call, out, value));
    return take_file(call, out, value, "jwt_path", out->option && out->option->jwt_file ? out->option->jwt_file : POD_JWT);
}

static enum hpl_status read_token_file(struct hpl_call *call, const json_t *value, struct hpl_vault_settings *out)
{
    return take_file(call, out, value, "path", out->option ? out->option->token_file : NULL);
}

static enum hpl_status (*const auth_readers[])(struct hpl_call *, const json_t *, struct hpl_vault_settings *) = {
    read_token, read_approle, read_kubernetes, read_token_file,
};

/* An object with one member, the method; a string where all else stands in the local file. */
static enum hpl_status read_auth(struct hpl_call *call, const json_t *config, struct hpl_vault_settings *out)
{
    const json_t *method = json_object_get(config, "auth_method");
    json_t *HPL_JSON_AUTO nothing = json_object();
    void *only = json_object_iter((json_t *)method);
    const char *name = json_is_string(method) ? json_string_value(method) : only ? json_object_iter_key(only) : NULL;
    const json_t *value = json_is_string(method) ? nothing : only ? json_object_iter_value(only) : NULL;
    if (!method || json_is_null(method))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'auth_method' is missing: token, approle, kubernetes or token_file");
    if (!name || (json_is_object(method) && json_object_size(method) != 1))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'auth_method' must be an object with one member: token, approle, kubernetes or token_file");
    for (size_t i = 0; i < HPL_COUNT(auth_names); i++) {
        if (!is_word(name, auth_names[i]))
            continue;
        out->auth = (enum hpl_vault_auth)i;
        if (!json_is_object(value) && !(i == HPL_VAULT_TOKEN && json_is_string(value)))
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' of 'auth_method' must be an object", auth_names[i]);
        return auth_readers[i](call, value, out);
    }
    return hpl_fail(call, HPL_INVALID_REQUEST, "'auth_method' '%.40s' is not known; use token, approle, kubernetes or token_file", name);
}

static enum hpl_status refuse_local_only(struct hpl_call *call, const json_t *config)
{
    for (const char *const *field = hpl_vault_fields + NUM_FROM_A_BODY; *field; field++)
        if (!json_is_null(json_object_get(config, *field)) && json_object_get(config, *field))
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'%s' belongs under 'vaults' in the local configuration file; a body picks it by 'vault' or by the address", *field);
    return HPL_OK;
}

enum hpl_status hpl_vault_settings_read(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_vault_settings *out)
{
    *out = (struct hpl_vault_settings){0};
    enum hpl_status status = refuse_local_only(call, config);
    if (status == HPL_OK)
        status = read_place(call, config, env, out);
    if (status == HPL_OK)
        status = read_path(call, config, "namespace", "", out->space);
    if (status == HPL_OK)
        status = read_path(call, config, "mount_path", "transit", out->mount);
    if (status == HPL_OK)
        status = read_path(call, config, "kv_mount", "secret", out->kv_mount);
    if (status == HPL_OK)
        status = read_path(call, config, "key_path_prefix", "rustfs/kms/keys", out->prefix);
    if (status == HPL_OK)
        status = hpl_json_bool(call, config, "skip_tls_verify", &out->skip_tls_verify);
    if (status == HPL_OK)
        status = read_auth(call, config, out);
    if (status != HPL_OK)
        hpl_vault_settings_wipe(out);
    return status;
}

void hpl_vault_settings_wipe(struct hpl_vault_settings *settings)
{
    hpl_secret_free(settings->secret);
    *settings = (struct hpl_vault_settings){0};
}

json_t *hpl_vault_summary(const json_t *config, const struct hpl_backend_env *env)
{
    struct hpl_vault_settings settings;
    if (hpl_vault_settings_read(NULL, config, env, &settings) != HPL_OK)
        return json_pack("{s:s}", "backend_type", "vault");
    json_t *out = json_pack("{s:s, s:s, s:s, s:s?, s:s, s:s, s:s, s:b, s:s?, s:b}", "backend_type", "vault", "address", settings.address,
                            "auth_method_type", hpl_vault_auth_name(settings.auth), "namespace", settings.space[0] ? settings.space : NULL, "mount_path",
                            settings.mount, "kv_mount", settings.kv_mount, "key_path_prefix", settings.prefix, "skip_tls_verify", settings.skip_tls_verify,
                            "vault", settings.option ? settings.option->name : NULL, "has_stored_credentials", settings.secret != NULL);
    hpl_vault_settings_wipe(&settings);
    return out;
}
