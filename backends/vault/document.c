/* Documents in KV v2: JSON text with a MAC under the root secret, written under compare-and-swap. Any thread; blocks on Vault. */
#include "backends/vault/internal.h"

#include <stdio.h>

#include "base/codec.h"
#include "base/hash.h"

#define MAX_PATH 1024u

static void path_of(char out[static MAX_PATH], const struct hpl_vault *vault, const char *section, const char *kind, const char *name)
{
    const struct hpl_vault_settings *settings = &vault->settings;
    snprintf(out, MAX_PATH, "%s/%s%s%s/%s%s%s", settings->kv_mount, section, settings->prefix[0] ? "/" : "", settings->prefix, kind, *name ? "/" : "", name);
}

static void mac_of(const struct hpl_vault *vault, const struct hpl_vault_document *document, uint64_t revision, struct hpl_bytes content, uint8_t out[static 32])
{
    struct hpl_buf text = {0};
    hpl_buf_put_lp16(&text, hpl_bytes_str(document->kind));
    hpl_buf_put_lp16(&text, hpl_bytes_str(document->id));
    hpl_buf_put(&text, document->uid, sizeof document->uid);
    hpl_buf_put_u64(&text, revision);
    hpl_buf_put_lp32(&text, content);
    HPL_CHECK(hpl_buf_check(&text) == HPL_OK);
    hpl_hmac_sha256(out, vault->mac_key->bytes, vault->mac_key->len, text.data, text.len);
    hpl_buf_wipe(&text);
}

/* --- reading -------------------------------------------------------------------------------------------------------------- */

static enum hpl_status damaged(struct hpl_call *call, const char *path)
{
    return hpl_fail_over(call, HPL_INTEGRITY, "Vault's document '%.150s' was changed, moved or written under another root secret; bring it back from a snapshot", path);
}

enum hpl_status hpl_vault_document_read(struct hpl_call *call, const struct hpl_vault *vault, const char *path, const json_t *root, struct hpl_vault_document *out)
{
    const json_t *data = json_object_get(json_object_get(root, "data"), "data");
    const json_t *metadata = json_object_get(json_object_get(root, "data"), "metadata");
    const char *id = NULL, *uid = NULL, *mac = NULL;
    int64_t revision = 0;
    uint8_t right[32], found[32];
    if (!json_is_object(data) || hpl_json_int(NULL, metadata, "version", 1, INT64_MAX, &revision) != HPL_OK || !revision)
        return hpl_fail(call, HPL_BACKEND, "'%.60s' is not a KV engine of version 2: vault secrets enable -path=%.60s kv-v2", vault->settings.kv_mount, vault->settings.kv_mount);
    const json_t *content = json_object_get(data, "content");
    if (hpl_json_str(NULL, data, "id", &id) != HPL_OK || hpl_json_str(NULL, data, "uid", &uid) != HPL_OK || hpl_json_str(NULL, data, "mac", &mac) != HPL_OK ||
        !json_is_string(content) || !id || !uid || !mac || strlen(id) > HPL_KEY_ID_MAX || !hpl_hex_decode(out->uid, sizeof out->uid, uid, strlen(uid)) ||
        !hpl_base64_decode_exact(found, sizeof found, mac, strlen(mac)))
        return damaged(call, path);
    memcpy(out->id, id, strlen(id) + 1);
    hpl_buf_put(&out->content, json_string_value(content), json_string_length(content));
    out->revision = (uint64_t)revision;
    mac_of(vault, out, out->revision, hpl_buf_bytes(&out->content), right);
    return hpl_equal_secret(right, found, sizeof right) ? hpl_buf_check(&out->content) : damaged(call, path);
}

/* KV says 404 for what never was, for what was deleted, and for an engine that is not there. */
static enum hpl_status missing(struct hpl_call *call, const struct hpl_vault *vault, const struct hpl_vault_request *request, const struct hpl_vault_answer *answer)
{
    json_t *HPL_JSON_AUTO root = NULL;
    if (hpl_vault_answer_says(answer, "no handler for route"))
        return hpl_fail(call, HPL_BACKEND, "no KV engine is mounted at '%.60s': vault secrets enable -path=%.60s kv-v2, or set 'kv_mount'", vault->settings.kv_mount,
                        vault->settings.kv_mount);
    if (hpl_vault_answer_json(NULL, answer, &root) == HPL_OK && json_object_get(json_object_get(root, "data"), "metadata"))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the document '%.120s' was deleted in Vault; vault kv undelete brings it back", request->path);
    return HPL_NOT_FOUND;
}

enum hpl_status hpl_vault_document_get(struct hpl_call *call, struct hpl_vault *vault, const char *name, const char *id, struct hpl_vault_document *out)
{
    char path[MAX_PATH];
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    path_of(path, vault, "data", out->kind, name);
    struct hpl_vault_request request = {.method = "GET", .path = path};
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, &answer));
    if (answer.code == 404)
        return missing(call, vault, &request, &answer);
    if (!hpl_vault_answer_is_ok(&answer))
        return hpl_vault_refused(call, vault->http, &request, &answer, "reading a key record");
    HPL_TRY(hpl_vault_answer_json(call, &answer, &root));
    enum hpl_status status = hpl_vault_document_read(call, vault, path, root, out);
    if (status == HPL_OK && id && strcmp(id, out->id) != 0)
        status = damaged(call, path);
    if (status != HPL_OK)
        hpl_vault_document_wipe(out);
    return status;
}

/* --- writing -------------------------------------------------------------------------------------------------------------- */

static enum hpl_status body_of(const struct hpl_vault *vault, const struct hpl_vault_document *document, uint64_t expected, struct hpl_buf *out)
{
    uint8_t mac[32];
    char uid[2 * HPL_KEY_UID_LEN + 1];
    struct hpl_buf base64 = {0};
    struct hpl_bytes content = hpl_buf_bytes(&document->content);
    mac_of(vault, document, expected + 1, content, mac);
    hpl_hex_encode(uid, document->uid, sizeof document->uid);
    hpl_base64_put(&base64, mac, sizeof mac);
    json_t *HPL_JSON_AUTO body = json_pack("{s:{s:I}, s:{s:s, s:s, s:s%, s:s%}}", "options", "cas", (json_int_t)expected, "data", "id", document->id, "uid", uid,
                                           "content", content.len ? (const char *)content.data : "", content.len, "mac", (const char *)base64.data, base64.len);
    hpl_buf_wipe(&base64);
    return body ? hpl_json_put(out, body) : HPL_INTERNAL;
}

enum hpl_status hpl_vault_document_put(struct hpl_call *call, struct hpl_vault *vault, const char *name, const struct hpl_vault_document *document, uint64_t expected)
{
    char path[MAX_PATH];
    struct hpl_buf body = {0};
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    int64_t version = 0;
    path_of(path, vault, "data", document->kind, name);
    enum hpl_status status = body_of(vault, document, expected, &body);
    struct hpl_vault_request request = {.method = "POST", .path = path, .body = hpl_buf_bytes(&body)};
    if (status == HPL_OK)
        status = hpl_vault_ask(call, vault->session, &request, &answer);
    hpl_buf_wipe(&body);
    HPL_TRY(status);
    if (answer.code == 400 && hpl_vault_answer_says(&answer, "check-and-set"))
        return hpl_fail(call, HPL_STALE, "Vault's document '%.120s' changed meanwhile", path);
    if (answer.code == 404)
        return missing(call, vault, &request, &answer);
    if (!hpl_vault_answer_is_ok(&answer))
        return hpl_vault_refused(call, vault->http, &request, &answer, "writing a key record");
    if (answer.code != 204)
        HPL_TRY(hpl_vault_answer_json(call, &answer, &root));
    if (hpl_json_int(NULL, json_object_get(root, "data"), "version", 1, INT64_MAX, &version) != HPL_OK || (uint64_t)version != expected + 1)
        return hpl_fail(call, HPL_BACKEND, "'%.60s' did not write as a KV engine of version 2 does: vault secrets enable -path=%.60s kv-v2", vault->settings.kv_mount,
                        vault->settings.kv_mount);
    return HPL_OK;
}

enum hpl_status hpl_vault_document_names(struct hpl_call *call, struct hpl_vault *vault, const char *kind, json_t **out)
{
    char folder[MAX_PATH], path[MAX_PATH + 16];
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    path_of(folder, vault, "metadata", kind, "");
    snprintf(path, sizeof path, "%s/?list=true", folder);
    struct hpl_vault_request request = {.method = "GET", .path = path};
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, &answer));
    *out = NULL;
    if (answer.code == 404) {
        enum hpl_status status = missing(call, vault, &request, &answer);
        *out = status == HPL_NOT_FOUND ? json_array() : NULL;
        return *out ? HPL_OK : status;
    }
    if (!hpl_vault_answer_is_ok(&answer))
        return hpl_vault_refused(call, vault->http, &request, &answer, "listing the key records");
    HPL_TRY(hpl_vault_answer_json(call, &answer, &root));
    json_t *keys = json_object_get(json_object_get(root, "data"), "keys");
    if (!json_is_array(keys))
        return hpl_fail(call, HPL_BACKEND, "Vault's listing of key records is not what it should be");
    *out = json_incref(keys);
    return HPL_OK;
}

void hpl_vault_document_wipe(struct hpl_vault_document *document)
{
    hpl_buf_wipe(&document->content);
    *document = (struct hpl_vault_document){.kind = document->kind};
}
