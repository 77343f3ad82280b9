/* The YAML file by libcyaml under a strict schema. Start-up only, one thread. */
#include "daemon/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <cyaml/cyaml.h>

#define OPTIONAL_STRING(key, type, member)                                                         \
    CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, member, 0, CYAML_UNLIMITED)
#define NEEDED_STRING(key, type, member) CYAML_FIELD_STRING_PTR(key, CYAML_FLAG_POINTER, type, member, 1, CYAML_UNLIMITED)
#define OPTIONAL_INT_PTR(key, type, member) CYAML_FIELD_INT_PTR(key, CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, type, member)

static const cyaml_schema_field_t tls_fields[] = {
    NEEDED_STRING("certificate", struct hpl_config_tls, certificate),
    NEEDED_STRING("key", struct hpl_config_tls, key),
    OPTIONAL_STRING("min_version", struct hpl_config_tls, min_version),
    CYAML_FIELD_END,
};

#define OPTIONAL_UINT(member) CYAML_FIELD_UINT(#member, CYAML_FLAG_OPTIONAL, struct hpl_config_http, member)
static const cyaml_schema_field_t http_fields[] = {
    OPTIONAL_UINT(max_connections), OPTIONAL_UINT(max_per_address), OPTIONAL_UINT(max_per_credential), OPTIONAL_UINT(max_queued),
    OPTIONAL_UINT(min_body_rate),   OPTIONAL_UINT(handshake_seconds), OPTIONAL_UINT(head_seconds),     OPTIONAL_UINT(idle_seconds),
    OPTIONAL_UINT(write_seconds),   OPTIONAL_UINT(request_seconds),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t root_fields[] = {
    OPTIONAL_STRING("file", struct hpl_config_root, file),
    OPTIONAL_STRING("credential", struct hpl_config_root, credential),
    OPTIONAL_STRING("passphrase_file", struct hpl_config_root, passphrase_file),
    CYAML_FIELD_BOOL("require_external", CYAML_FLAG_OPTIONAL, struct hpl_config_root, require_external),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t member_fields[] = {
    NEEDED_STRING("uri", struct hpl_config_member, uri),
    OPTIONAL_STRING("module", struct hpl_config_member, module),
    NEEDED_STRING("pin_source", struct hpl_config_member, pin_source),
    CYAML_FIELD_UINT("max_sessions", CYAML_FLAG_OPTIONAL, struct hpl_config_member, max_sessions),
    OPTIONAL_STRING("init_reserved", struct hpl_config_member, init_reserved),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t member_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct hpl_config_member, member_fields),
};

static const cyaml_schema_field_t token_fields[] = {
    NEEDED_STRING("name", struct hpl_config_token, name),
    OPTIONAL_STRING("uri", struct hpl_config_token, uri),
    OPTIONAL_STRING("module", struct hpl_config_token, module),
    OPTIONAL_STRING("pin_source", struct hpl_config_token, pin_source),
    CYAML_FIELD_SEQUENCE_COUNT("members", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config_token, members, num_members, &member_schema, 1, 16),
    CYAML_FIELD_UINT("replicas_required", CYAML_FLAG_OPTIONAL, struct hpl_config_token, replicas_required),
    CYAML_FIELD_UINT("max_sessions", CYAML_FLAG_OPTIONAL, struct hpl_config_token, max_sessions),
    OPTIONAL_STRING("init_reserved", struct hpl_config_token, init_reserved),
    OPTIONAL_STRING("mechanism", struct hpl_config_token, mechanism),
    OPTIONAL_STRING("iv_mode", struct hpl_config_token, iv_mode),
    CYAML_FIELD_BOOL("accept_mode_change", CYAML_FLAG_OPTIONAL, struct hpl_config_token, accept_mode_change),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t vault_fields[] = {
    NEEDED_STRING("name", struct hpl_config_vault, name),
    OPTIONAL_STRING("address", struct hpl_config_vault, address),
    OPTIONAL_STRING("ca_file", struct hpl_config_vault, ca_file),
    OPTIONAL_STRING("certificate", struct hpl_config_vault, certificate),
    OPTIONAL_STRING("key", struct hpl_config_vault, key),
    OPTIONAL_STRING("token_file", struct hpl_config_vault, token_file),
    OPTIONAL_STRING("role_id", struct hpl_config_vault, role_id),
    OPTIONAL_STRING("secret_id_file", struct hpl_config_vault, secret_id_file),
    OPTIONAL_STRING("role", struct hpl_config_vault, role),
    OPTIONAL_STRING("jwt_file", struct hpl_config_vault, jwt_file),
    OPTIONAL_STRING("auth_mount", struct hpl_config_vault, auth_mount),
    CYAML_FIELD_BOOL("allow_http", CYAML_FLAG_OPTIONAL, struct hpl_config_vault, allow_http),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t variable_schema = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 1, 256),
};

static const cyaml_schema_field_t tokend_fields[] = {
    OPTIONAL_STRING("user", struct hpl_config_tokend, user),
    CYAML_FIELD_UINT("watchdog_ms", CYAML_FLAG_OPTIONAL, struct hpl_config_tokend, watchdog_ms),
    CYAML_FIELD_SEQUENCE_COUNT("environment", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config_tokend, environment, num_environment,
                               &variable_schema, 0, 32),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t kms_fields[] = {
    NEEDED_STRING("backend_type", struct hpl_config_kms, backend_type),
    OPTIONAL_STRING("key_dir", struct hpl_config_kms, key_dir),
    OPTIONAL_STRING("token", struct hpl_config_kms, token),
    OPTIONAL_STRING("uri", struct hpl_config_kms, uri),
    OPTIONAL_STRING("vault", struct hpl_config_kms, vault),
    OPTIONAL_STRING("address", struct hpl_config_kms, address),
    OPTIONAL_STRING("auth_method", struct hpl_config_kms, auth_method),
    OPTIONAL_STRING("namespace", struct hpl_config_kms, namespace_),
    OPTIONAL_STRING("mount_path", struct hpl_config_kms, mount_path),
    OPTIONAL_STRING("kv_mount", struct hpl_config_kms, kv_mount),
    OPTIONAL_STRING("key_path_prefix", struct hpl_config_kms, key_path_prefix),
    OPTIONAL_STRING("default_key_id", struct hpl_config_kms, default_key_id),
    OPTIONAL_INT_PTR("cache_ttl_seconds", struct hpl_config_kms, cache_ttl_seconds),
    OPTIONAL_INT_PTR("max_cached_keys", struct hpl_config_kms, max_cached_keys),
    OPTIONAL_INT_PTR("timeout_seconds", struct hpl_config_kms, timeout_seconds),
    OPTIONAL_INT_PTR("retry_attempts", struct hpl_config_kms, retry_attempts),
    OPTIONAL_INT_PTR("queue", struct hpl_config_kms, queue),
    CYAML_FIELD_BOOL_PTR("enable_cache", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config_kms, enable_cache),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t credential_fields[] = {
    NEEDED_STRING("access_key", struct hpl_config_credential, access_key),
    NEEDED_STRING("secret_file", struct hpl_config_credential, secret_file),
    NEEDED_STRING("role", struct hpl_config_credential, role),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t credential_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct hpl_config_credential, credential_fields),
};
static const cyaml_schema_value_t token_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct hpl_config_token, token_fields),
};
static const cyaml_schema_value_t vault_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct hpl_config_vault, vault_fields),
};
static const cyaml_schema_value_t folder_schema = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char *, 1, CYAML_UNLIMITED),
};

static const cyaml_schema_field_t fields[] = {
    NEEDED_STRING("state_dir", struct hpl_config, state_dir),
    OPTIONAL_STRING("data_dir", struct hpl_config, data_dir),
    OPTIONAL_STRING("listen", struct hpl_config, listen),
    OPTIONAL_STRING("region", struct hpl_config, region),
    OPTIONAL_STRING("log_level", struct hpl_config, log_level),
    CYAML_FIELD_MAPPING_PTR("tls", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, tls, tls_fields),
    CYAML_FIELD_MAPPING_PTR("http", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, http, http_fields),
    CYAML_FIELD_MAPPING_PTR("root", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, root, root_fields),
    CYAML_FIELD_SEQUENCE_COUNT("key_dirs", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, key_dirs, num_key_dirs, &folder_schema, 0, 64),
    CYAML_FIELD_SEQUENCE_COUNT("tokens", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, tokens, num_tokens, &token_schema, 0, 64),
    CYAML_FIELD_SEQUENCE_COUNT("vaults", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, vaults, num_vaults, &vault_schema, 0, 64),
    OPTIONAL_STRING("isolation", struct hpl_config, isolation),
    CYAML_FIELD_MAPPING_PTR("tokend", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, tokend, tokend_fields),
    CYAML_FIELD_SEQUENCE_COUNT("credentials", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, credentials, num_credentials, &credential_schema, 0, 256),
    CYAML_FIELD_MAPPING_PTR("kms", CYAML_FLAG_POINTER | CYAML_FLAG_OPTIONAL, struct hpl_config, kms, kms_fields),
    CYAML_FIELD_BOOL("allow_unlocked_memory", CYAML_FLAG_OPTIONAL, struct hpl_config, allow_unlocked_memory),
    CYAML_FIELD_BOOL("allow_import", CYAML_FLAG_OPTIONAL, struct hpl_config, allow_import),
    CYAML_FIELD_BOOL("allow_immediate_deletion", CYAML_FLAG_OPTIONAL, struct hpl_config, allow_immediate_deletion),
    CYAML_FIELD_UINT("workers", CYAML_FLAG_OPTIONAL, struct hpl_config, workers),
    CYAML_FIELD_UINT("secret_kib", CYAML_FLAG_OPTIONAL, struct hpl_config, secret_kib),
    CYAML_FIELD_UINT("drain_seconds", CYAML_FLAG_OPTIONAL, struct hpl_config, drain_seconds),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct hpl_config, fields),
};

/* libcyaml says what was wrong through its log function: the first line names the cause, a later one the place. */
static void keep_reason(cyaml_log_t level, void *arg, const char *fmt, va_list args)
{
    struct hpl_buf *reason = arg;
    char line[200];
    if (level < CYAML_LOG_ERROR)
        return;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\n")] = '\0';
    if (reason->len)
        hpl_buf_put_str(reason, "; ");
    hpl_buf_put_str(reason, strncmp(line, "Load: ", 6) == 0 ? line + 6 : line);
}

static const cyaml_config_t base_config = {.mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR, .log_fn = keep_reason};

static enum hpl_status check_vaults(struct hpl_call *call, const char *path, const struct hpl_config *config)
{
    for (unsigned i = 0; i < config->num_vaults; i++) {
        const struct hpl_config_vault *vault = &config->vaults[i];
        const char *const files[] = {vault->ca_file, vault->certificate, vault->key, vault->token_file, vault->secret_id_file, vault->jwt_file};
        for (unsigned j = 0; j < i; j++)
            if (strcmp(vault->name, config->vaults[j].name) == 0)
                return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: two vaults are named '%.40s'", path, vault->name);
        if (!vault->certificate != !vault->key)
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: the vault '%.40s' needs certificate and key, or neither", path, vault->name);
        if (!vault->address && (vault->token_file || vault->secret_id_file || vault->role || vault->certificate))
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: the vault '%.40s' needs the address that its credentials may be sent to", path, vault->name);
        for (size_t j = 0; j < HPL_COUNT(files); j++)
            if (files[j] && files[j][0] != '/')
                return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: the vault '%.40s' names '%.60s', which is not an absolute path", path, vault->name, files[j]);
    }
    return HPL_OK;
}

static enum hpl_status check_http(struct hpl_call *call, const char *path, const struct hpl_config_http *http)
{
    if (!http)
        return HPL_OK;
    if (http->max_connections > 1000000 || http->min_body_rate > 1000000 || http->max_per_address > 1000000 || http->max_per_credential > 1000000 || http->max_queued > 1000000)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: http takes no limit over 1000000", path);
    if (http->handshake_seconds > 3600 || http->head_seconds > 3600 || http->idle_seconds > 3600 || http->write_seconds > 3600 || http->request_seconds > 3600)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: http takes no time over 3600 seconds", path);
    return HPL_OK;
}

static enum hpl_status check(struct hpl_call *call, const char *path, const struct hpl_config *config)
{
    static const char *const levels[] = {"debug", "info", "warn", "error"};
    bool is_level = !config->log_level;
    for (size_t i = 0; i < HPL_COUNT(levels); i++)
        is_level = is_level || strcmp(config->log_level, levels[i]) == 0;
    if (!is_level)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: log_level must be debug, info, warn or error", path);
    if (config->isolation && strcmp(config->isolation, "worker") != 0 && strcmp(config->isolation, "inprocess") != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: isolation must be worker or inprocess", path);
    if (config->tokend && config->tokend->watchdog_ms && config->tokend->watchdog_ms < 1000)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: tokend.watchdog_ms must be 1000 at least", path);
    if (config->tls && config->tls->min_version && strcmp(config->tls->min_version, "1.2") != 0 && strcmp(config->tls->min_version, "1.3") != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: tls.min_version must be 1.2 or 1.3", path);
    if (config->state_dir[0] != '/')
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: state_dir must be an absolute path", path);
    if (config->root && !!config->root->file + !!config->root->credential + !!config->root->passphrase_file > 1)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: root takes one of file, credential and passphrase_file", path);
    for (unsigned i = 0; i < config->num_tokens; i++) {
        const struct hpl_config_token *token = &config->tokens[i];
        if (!token->num_members == !(token->uri && token->pin_source) || (token->num_members && (token->uri || token->pin_source)))
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: token '%.40s' needs uri and pin_source, or members instead of both", path, token->name);
        for (unsigned j = 0; j < i; j++)
            if (strcmp(config->tokens[i].name, config->tokens[j].name) == 0)
                return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: two tokens are named '%.40s'", path, config->tokens[i].name);
    }
    HPL_TRY(check_http(call, path, config->http));
    HPL_TRY(check_vaults(call, path, config));
    for (unsigned i = 0; i < config->num_credentials; i++)
        if (strcmp(config->credentials[i].role, "admin") != 0 && strcmp(config->credentials[i].role, "objects") != 0)
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: the role of '%.40s' must be admin or objects", path, config->credentials[i].access_key);
    return HPL_OK;
}

enum hpl_status hpl_config_load(struct hpl_call *call, const char *path, struct hpl_config **out)
{
    struct hpl_buf reason = {0};
    cyaml_config_t config = base_config;
    config.log_ctx = &reason;
    *out = NULL;
    cyaml_err_t error = cyaml_load_file(path, &config, &schema, (cyaml_data_t **)out, NULL);
    enum hpl_status status = HPL_OK;
    if (error != CYAML_OK) {
        const char *why = reason.len ? hpl_buf_text(&reason) : cyaml_strerror(error);
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: %s (see docs/configuration.md)", path, why ? why : "");
    } else if (!*out) /* what an empty document gives */
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is empty (see docs/configuration.md)", path);
    else
        status = check(call, path, *out);
    hpl_buf_wipe(&reason);
    if (status != HPL_OK) {
        hpl_config_free(*out);
        *out = NULL;
    }
    return status;
}

void hpl_config_free(struct hpl_config *config)
{
    cyaml_config_t quiet = {.mem_fn = cyaml_mem};
    if (config)
        cyaml_free(&quiet, &schema, config, 0);
}

static void set_text(json_t *object, const char *name, const char *value)
{
    if (value)
        json_object_set_new(object, name, json_string(value));
}

static void set_number(json_t *object, const char *name, const int64_t *value)
{
    if (value)
        json_object_set_new(object, name, json_integer(*value));
}

json_t *hpl_config_kms_json(const struct hpl_config_kms *kms)
{
    json_t *body = kms ? json_object() : NULL;
    if (!body)
        return NULL;
    set_text(body, "backend_type", kms->backend_type);
    set_text(body, "key_dir", kms->key_dir);
    set_text(body, "token", kms->token);
    set_text(body, "uri", kms->uri);
    set_text(body, "vault", kms->vault);
    set_text(body, "address", kms->address);
    set_text(body, "auth_method", kms->auth_method);
    set_text(body, "namespace", kms->namespace_);
    set_text(body, "mount_path", kms->mount_path);
    set_text(body, "kv_mount", kms->kv_mount);
    set_text(body, "key_path_prefix", kms->key_path_prefix);
    set_text(body, "default_key_id", kms->default_key_id);
    set_number(body, "cache_ttl_seconds", kms->cache_ttl_seconds);
    set_number(body, "max_cached_keys", kms->max_cached_keys);
    set_number(body, "timeout_seconds", kms->timeout_seconds);
    set_number(body, "retry_attempts", kms->retry_attempts);
    set_number(body, "queue", kms->queue);
    if (kms->enable_cache)
        json_object_set_new(body, "enable_cache", json_boolean(*kms->enable_cache));
    return body;
}
