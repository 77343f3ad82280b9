/* The Vault backend: opening, the probe, the table. Any thread; blocks on the network up to the call's deadline. */
#include "backends/vault/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/hash.h"
#include "base/log.h"

#define HEALTH "sys/health?standbyok=true&perfstandbyok=true"
#define NO_KEY "hpl-probe"

/* --- the probe ------------------------------------------------------------------------------------------------------------- */

/* What the node says of itself; its codes are those of sys/health alone. */
static enum hpl_status read_health(struct hpl_call *call, struct hpl_vault *vault, const struct hpl_vault_request *request, const struct hpl_vault_answer *answer)
{
    const char *address = vault->settings.address;
    json_t *HPL_JSON_AUTO root = NULL;
    switch (answer->code) {
    case 501: return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is not initialised: vault operator init", address);
    case 503: return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is sealed: vault operator unseal", address);
    case 472: return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is a disaster recovery secondary, which serves nothing; configure the primary", address);
    case 200: case 429: case 473: break;
    default: return hpl_vault_refused(call, vault->http, request, answer, "asking for its health");
    }
    HPL_TRY(hpl_vault_answer_json(call, answer, &root));
    pthread_mutex_lock(&vault->lock);
    snprintf(vault->node, sizeof vault->node, "%s", json_is_true(json_object_get(root, "standby")) ? "standby" : "active");
    pthread_mutex_unlock(&vault->lock);
    return HPL_OK;
}

static enum hpl_status check_health(struct hpl_call *call, struct hpl_vault *vault)
{
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    const struct hpl_vault_request request = {.method = "GET", .path = HEALTH, .is_outside_namespace = true};
    HPL_TRY(hpl_vault_send(call, vault->http, &request, &answer));
    return read_health(call, vault, &request, &answer);
}

/* A policy may keep us from names that are not ours: that says nothing against the engine. */
static enum hpl_status check_transit(struct hpl_call *call, struct hpl_vault *vault)
{
    char path[HPL_VAULT_TEXT + 32];
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    snprintf(path, sizeof path, "%s/keys/" NO_KEY, vault->settings.mount);
    struct hpl_vault_request request = {.method = "GET", .path = path};
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, &answer));
    if (answer.code == 404 && hpl_vault_answer_says(&answer, "no handler for route"))
        return hpl_fail(call, HPL_BACKEND, "no transit engine is mounted at '%.80s': vault secrets enable -path=%.80s transit, or set 'mount_path'", vault->settings.mount,
                        vault->settings.mount);
    if (hpl_vault_answer_is_ok(&answer) || answer.code == 404 || answer.code == 403)
        return HPL_OK;
    return hpl_vault_refused(call, vault->http, &request, &answer, "looking at the transit engine");
}

/* HPL_NOT_FOUND: nobody wrote one yet. */
static enum hpl_status read_identity(struct hpl_call *call, struct hpl_vault *vault)
{
    struct hpl_vault_document document = {.kind = "identity"};
    HPL_TRY(hpl_vault_document_get(call, vault, "", "", &document));
    hpl_hex_encode(vault->identity, document.uid, sizeof document.uid);
    hpl_vault_document_wipe(&document);
    return HPL_OK;
}

enum hpl_status hpl_vault_probe(struct hpl_keystore *keystore, struct hpl_call *call)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_document document = {.kind = "identity"};
    HPL_TRY(check_health(call, vault));
    enum hpl_status status = hpl_vault_document_get(call, vault, "", "", &document);
    hpl_vault_document_wipe(&document);
    if (status == HPL_NOT_FOUND)
        return hpl_fail(call, HPL_BACKEND, "the identity of this keystore is gone from Vault's '%.60s'; bring it back from a snapshot", vault->settings.kv_mount);
    HPL_TRY(status);
    return check_transit(call, vault);
}

/* --- opening and closing --------------------------------------------------------------------------------------------------- */

static enum hpl_status make_identity(struct hpl_call *call, struct hpl_vault *vault)
{
    struct hpl_vault_document document = {.kind = "identity"};
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    hpl_uuid_new(document.uid);
    hpl_buf_put_str(&document.content, "a place of hardplate's keys");
    enum hpl_status status = hpl_buf_check(&document.content);
    if (status == HPL_OK)
        status = hpl_vault_document_put(&sub, vault, "", &document, 0);
    hpl_vault_document_wipe(&document);
    return status == HPL_OK || status == HPL_STALE ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

static enum hpl_status know_identity(struct hpl_call *call, struct hpl_vault *vault)
{
    enum hpl_status status = read_identity(call, vault);
    if (status != HPL_NOT_FOUND)
        return status;
    HPL_TRY(make_identity(call, vault));
    status = read_identity(call, vault);
    return status == HPL_NOT_FOUND ? hpl_fail(call, HPL_BACKEND, "what was written to Vault's '%.60s' is not there", vault->settings.kv_mount) : status;
}

static void close_vault(struct hpl_keystore *keystore)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    hpl_vault_session_close(vault->session);
    hpl_vault_http_close(vault->http);
    hpl_vault_settings_wipe(&vault->settings);
    hpl_secret_free(vault->mac_key);
    json_decref(vault->places);
    pthread_mutex_destroy(&vault->lock);
    free(vault);
}

static enum hpl_status connect_vault(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_vault *vault)
{
    HPL_TRY(hpl_vault_settings_read(call, config, env, &vault->settings));
    vault->mac_key = hpl_secret_new(32);
    if (!vault->mac_key || !vault->places)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    hpl_hkdf_sha256(vault->mac_key->bytes, 32, hpl_bytes(env->root->bytes, env->root->len), hpl_bytes(NULL, 0), hpl_bytes_str("hpl-vault-mac-v1"));
    if (vault->settings.skip_tls_verify)
        hpl_log(HPL_LOG_WARN, "vault.tls_not_verified", HPL_S("address", vault->settings.address),
                HPL_S("advice", "anybody on the way can read tokens and data keys; name the CA as ca_file under 'vaults' in place of skip_tls_verify"));
    HPL_TRY(hpl_vault_http_open(call, &vault->settings, &vault->http));
    HPL_TRY(check_health(call, vault));
    HPL_TRY(hpl_vault_session_open(call, &vault->settings, vault->http, &vault->session));
    HPL_TRY(know_identity(call, vault));
    return check_transit(call, vault);
}

static enum hpl_status validate(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env)
{
    struct hpl_vault_settings settings;
    HPL_TRY(hpl_vault_settings_read(call, config, env, &settings));
    hpl_vault_settings_wipe(&settings);
    return HPL_OK;
}

/* The documents' own identity and the transit engine that they speak of: the address may change, as it does after a restored snapshot. */
static enum hpl_status identity(struct hpl_call *call, struct hpl_keystore *keystore, const json_t *config, const struct hpl_backend_env *env, struct hpl_buf *out)
{
    (void)call, (void)config, (void)env;
    hpl_buf_printf(out, "vault:%s:%s", hpl_vault_of(keystore)->identity, hpl_vault_of(keystore)->settings.mount);
    return hpl_buf_check(out);
}

/* --- the table ------------------------------------------------------------------------------------------------------------- */

static uint8_t mechanism(struct hpl_keystore *keystore)
{
    (void)keystore;
    return HPL_MECH_TRANSIT;
}

static enum hpl_status has_material(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, bool *out, uint64_t *max_wraps)
{
    struct hpl_vault_facts facts = {0};
    *out = false;
    *max_wraps = 0;
    if (hpl_vault_is_transit_name(key_id))
        HPL_TRY(hpl_vault_transit_read(call, hpl_vault_of(keystore), key_id, &facts));
    *out = facts.latest > 0;
    *max_wraps = facts.latest && !facts.is_derived ? HPL_VAULT_MOST_PLAIN_WRAPS : 0;
    return HPL_OK;
}

static enum hpl_status key_id_of(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], char key_id[static HPL_KEY_ID_MAX + 1])
{
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    HPL_TRY(hpl_vault_place_get(call, hpl_vault_of(keystore), uid, true, &place));
    memcpy(key_id, place.key_id, sizeof place.key_id);
    return key_id[0] ? HPL_OK : HPL_NOT_FOUND;
}

static json_t *describe(struct hpl_keystore *keystore)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    const struct hpl_vault_settings *settings = &vault->settings;
    json_t *out = json_pack("{s:s, s:s, s:s?, s:s, s:s, s:s, s:s, s:b}", "engine_type", "transit", "mount_path", settings->mount, "namespace",
                            settings->space[0] ? settings->space : NULL, "address", settings->address, "kv_mount", settings->kv_mount, "key_path_prefix", settings->prefix,
                            "mechanism", "transit aes256-gcm96 with associated data", "tls_verified",
                            strncmp(settings->address, "https:", 6) == 0 && !settings->skip_tls_verify);
    if (!out)
        return NULL;
    pthread_mutex_lock(&vault->lock);
    json_object_set_new(out, "node", json_string(vault->node));
    pthread_mutex_unlock(&vault->lock);
    hpl_vault_session_describe(vault->session, out);
    return out;
}

static const struct hpl_keystore_ops ops = {
    .size = sizeof(struct hpl_keystore_ops), .name = "vault", .close = close_vault, .probe = hpl_vault_probe, .create_version = hpl_vault_create_version,
    .destroy_version = hpl_vault_destroy_version, .mechanism = mechanism, .wrap = hpl_vault_wrap, .wrap_many = hpl_vault_wrap_many, .unwrap = hpl_vault_unwrap,
    .record_get = hpl_vault_record_get, .record_put = hpl_vault_record_put, .record_list = hpl_vault_record_list, .describe = describe,
    .has_material = has_material, .key_id_of = key_id_of, .cannot_disable = true, .has_far_records = true,
};

static enum hpl_status open_vault(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    struct hpl_vault *vault = calloc(1, sizeof *vault);
    *out = NULL;
    if (!vault)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    vault->base.ops = &ops;
    vault->places = json_object();
    pthread_mutex_init(&vault->lock, NULL);
    enum hpl_status status = connect_vault(call, config, env, vault);
    if (status == HPL_OK)
        *out = &vault->base;
    else
        close_vault(&vault->base);
    return status;
}

static const char *const aliases[] = {"vault-kv2", "vault_kv2", "VaultKV2", "vault-transit", "vault_transit", "VaultTransit", "openbao", NULL};
static const char *const secret_fields[] = {"auth_method", NULL};
static const char *const bound_fields[] = {"vault", "address", "namespace", "skip_tls_verify", NULL};

const struct hpl_backend hpl_backend_vault = {
    .name = "vault", .aliases = aliases, .validate = validate, .identity = identity, .open = open_vault, .summary = hpl_vault_summary,
    .fields = hpl_vault_fields, .secret_fields = secret_fields, .bound_fields = bound_fields,
};
