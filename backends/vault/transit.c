/* Key versions in the transit engine. Any thread; blocks on Vault. A data key crosses only as base64 in locked memory and in libcurl's own buffers,
 * which are wiped when they are given back. */
#include "backends/vault/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/codec.h"

#define MAX_PATH 640u
#define KEY_TYPE "aes256-gcm96"
#define NO_TYPE "never-made-by-encrypting" /* encrypt makes a missing key of this type: refused. An existing key ignores it */
#define NONCE_AND_TAG 28u
#define MAX_RACES 4u
#define MAX_BODY 2048u
#define MAX_ITEM 320u   /* of a batch: base64 of 64 bytes, of an AAD and of a salt, and their names */

static void key_path(char out[static MAX_PATH], const struct hpl_vault *vault, const char *verb, const char *name, const char *tail)
{
    snprintf(out, MAX_PATH, "%s/%s/%s%s", vault->settings.mount, verb, name, tail);
}

static enum hpl_status invalid(struct hpl_call *call)
{
    return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
}

/* --- a transit key -------------------------------------------------------------------------------------------------------- */

static enum hpl_status no_engine(struct hpl_call *call, const struct hpl_vault *vault)
{
    return hpl_fail(call, HPL_BACKEND, "no transit engine is mounted at '%.80s': vault secrets enable -path=%.80s transit, or set 'mount_path'", vault->settings.mount,
                    vault->settings.mount);
}

static enum hpl_status read_key(struct hpl_call *call, const char *name, const json_t *data, struct hpl_vault_facts *out)
{
    const char *type = json_string_value(json_object_get(data, "type"));
    int64_t number = 0;
    if (!type || strcmp(type, KEY_TYPE) != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the transit key '%.80s' is of type %.40s; keys here are " KEY_TYPE, name, type ? type : "unknown");
    if (json_is_true(json_object_get(data, "soft_deleted")))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the transit key '%.80s' is soft-deleted in Vault; have it restored", name);
    if (hpl_json_int(NULL, data, "latest_version", 1, UINT32_MAX, &number) != HPL_OK || !number)
        return hpl_fail(call, HPL_BACKEND, "Vault's answer about the transit key '%.80s' is not what it should be", name);
    *out = (struct hpl_vault_facts){.latest = (uint32_t)number, .is_derived = json_is_true(json_object_get(data, "derived"))};
    return HPL_OK;
}

enum hpl_status hpl_vault_transit_read(struct hpl_call *call, struct hpl_vault *vault, const char *name, struct hpl_vault_facts *out)
{
    char path[MAX_PATH];
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    *out = (struct hpl_vault_facts){0};
    key_path(path, vault, "keys", name, "");
    struct hpl_vault_request request = {.method = "GET", .path = path};
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, &answer));
    if (answer.code == 404)
        return hpl_vault_answer_says(&answer, "no handler for route") ? no_engine(call, vault) : HPL_OK;
    if (!hpl_vault_answer_is_ok(&answer))
        return hpl_vault_refused(call, vault->http, &request, &answer, "reading a transit key");
    HPL_TRY(hpl_vault_answer_json(call, &answer, &root));
    return read_key(call, name, json_object_get(root, "data"), out);
}

/* POST without an answer that matters. */
static enum hpl_status post(struct hpl_call *call, struct hpl_vault *vault, const char *name, const char *tail, const char *body, const char *what)
{
    char path[MAX_PATH];
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    key_path(path, vault, "keys", name, tail);
    struct hpl_vault_request request = {.method = "POST", .path = path, .body = hpl_bytes_str(body)};
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, &answer));
    if (hpl_vault_answer_is_ok(&answer))
        return HPL_OK;
    if (answer.code == 403 && !*tail)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault's policy does not let us make the transit key '%.60s'; have it made: vault write %.60s/keys/%.60s type=" KEY_TYPE, name,
                        vault->settings.mount, name);
    if (answer.code == 404 && hpl_vault_answer_says(&answer, "no handler for route"))
        return no_engine(call, vault);
    return hpl_vault_refused(call, vault->http, &request, &answer, what);
}

static bool is_destroyed(const struct hpl_vault_place *place, uint32_t version)
{
    size_t i;
    json_t *number;
    json_array_foreach(place->destroyed, i, number)
        if (json_integer_value(number) == (json_int_t)version)
            return true;
    return false;
}

static enum hpl_status gone(struct hpl_call *call, const struct hpl_vault *vault, const struct hpl_vault_place *place, uint32_t version)
{
    return hpl_fail(call, HPL_KEY_UNAVAILABLE, "version %" PRIu32 " of the transit key '%.80s' is not in Vault's '%.60s' (or below its min_decryption_version)", version + place->base - 1,
                    place->name, vault->settings.mount);
}

/* Vault may make versions by itself (auto_rotate_period), which nobody will ever ask to destroy: the highest that was asked for is written down. */
static enum hpl_status note_made(struct hpl_call *call, struct hpl_vault *vault, const uint8_t *uid, uint32_t version, struct hpl_vault_place *place)
{
    enum hpl_status status = HPL_OK;
    for (unsigned i = 0; version > place->made && i < MAX_RACES; i++) {
        place->made = version;
        status = hpl_vault_place_put(call, vault, uid, place);
        if (status != HPL_STALE)
            return status;
        hpl_vault_place_wipe(place);
        HPL_TRY(hpl_vault_place_get(call, vault, uid, false, place));
    }
    return version > place->made ? status : HPL_OK;
}

static bool are_all_destroyed(const struct hpl_vault_place *place, uint32_t last)
{
    for (uint32_t version = 1; version <= last; version++)
        if (!is_destroyed(place, version))
            return false;
    return true;
}

enum hpl_status hpl_vault_create_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    struct hpl_vault_facts facts;
    HPL_TRY(hpl_vault_place_get(call, vault, uid, true, &place));
    if (version > UINT32_MAX - place.base)
        return hpl_fail(call, HPL_INVALID_REQUEST, "no key has so many versions");
    if (place.is_gone)
        return gone(call, vault, &place, version);
    HPL_TRY(hpl_vault_transit_read(call, vault, place.name, &facts));
    if (!facts.latest && (version > 1 || !place.is_ours))
        return gone(call, vault, &place, version);
    if (!facts.latest)
        HPL_TRY(post(call, vault, place.name, "", "{\"type\":\"" KEY_TYPE "\",\"derived\":true}", "making a transit key"));
    for (uint32_t have = facts.latest ? facts.latest : 1; have < version + place.base - 1; have++)
        HPL_TRY(post(call, vault, place.name, "/rotate", "{}", "rotating a transit key"));
    HPL_TRY(note_made(call, vault, uid, version, &place));
    if (!place.revision)
        hpl_vault_place_remember(vault, uid, &place);
    return HPL_OK;
}

/* --- destroying ----------------------------------------------------------------------------------------------------------- */

static enum hpl_status delete_key(struct hpl_call *call, struct hpl_vault *vault, const char *name)
{
    char path[MAX_PATH];
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    HPL_TRY(post(call, vault, name, "/config", "{\"deletion_allowed\":true}", "allowing the deletion of a transit key"));
    key_path(path, vault, "keys", name, "");
    struct hpl_vault_request request = {.method = "DELETE", .path = path};
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, &answer));
    if (hpl_vault_answer_is_ok(&answer) || hpl_vault_answer_says(&answer, "not found"))
        return HPL_OK;
    return hpl_vault_refused(call, vault->http, &request, &answer, "deleting a transit key");
}

/* The transit key goes and the place stays, so that what it sealed is known to be destroyed. */
static enum hpl_status delete_place(struct hpl_call *call, struct hpl_vault *vault, const uint8_t *uid, struct hpl_vault_place *place)
{
    HPL_TRY(delete_key(call, vault, place->name));
    place->is_gone = true;
    return hpl_vault_place_put(call, vault, uid, place);
}

/* Transit deletes whole keys only: a version is written down as destroyed, and the key goes with the last of those that were made of it,
 * when we made it. */
enum hpl_status hpl_vault_destroy_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    struct hpl_vault_facts facts;
    HPL_TRY(hpl_vault_place_get(call, vault, uid, false, &place));
    if (place.is_gone)
        return HPL_OK;
    HPL_TRY(hpl_vault_transit_read(call, vault, place.name, &facts));
    uint32_t count = facts.latest >= place.base ? facts.latest - place.base + 1 : 0;
    if (version < 1 || version > count)
        return HPL_OK;
    if (!is_destroyed(&place, version)) {
        json_array_append_new(place.destroyed, json_integer(version));
        HPL_TRY(hpl_vault_place_put(call, vault, uid, &place));
    }
    bool is_last = place.is_ours && are_all_destroyed(&place, place.made ? place.made : count);
    return is_last ? delete_place(call, vault, uid, &place) : HPL_OK;
}

/* --- wrap ------------------------------------------------------------------------------------------------------------------ */

static enum hpl_status ready(struct hpl_call *call, struct hpl_vault *vault, const uint8_t *uid, uint32_t version, struct hpl_vault_place *place)
{
    HPL_TRY(hpl_vault_place_get(call, vault, uid, true, place));
    if (version < 1 || version > UINT32_MAX - place->base || place->is_gone || is_destroyed(place, version))
        return gone(call, vault, place, version);
    return HPL_OK;
}

/* Base64 of bytes into locked memory; out has room for it and a NUL. */
static void put_base64(char *out, const uint8_t *bytes, size_t len)
{
    HPL_CHECK(EVP_EncodeBlock((unsigned char *)out, bytes, (int)len) == (int)((len + 2) / 3 * 4));
}

/* Sends body to MOUNT/verb/NAME. The answer comes back in locked memory. */
static enum hpl_status ask_transit(struct hpl_call *call, struct hpl_vault *vault, const char *verb, const char *name, const struct hpl_secret *body,
                                   struct hpl_vault_answer *answer, json_t **root)
{
    char path[MAX_PATH];
    key_path(path, vault, verb, name, "");
    struct hpl_vault_request request = {.method = "POST", .path = path, .body = hpl_bytes(body->bytes, strlen((const char *)body->bytes))};
    answer->secret = hpl_secret_new(body->len > MAX_BODY ? body->len : MAX_BODY);
    if (!answer->secret)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(hpl_vault_ask(call, vault->session, &request, answer));
    if (answer->code == 400 || (answer->code == 403 && *verb == 'e'))
        return HPL_OK; /* the caller knows what its question was */
    if (answer->code == 404 && hpl_vault_answer_says(answer, "no handler for route"))
        return no_engine(call, vault);
    if (!hpl_vault_answer_is_ok(answer))
        return hpl_vault_refused(call, vault->http, &request, answer, "using a transit key");
    return hpl_vault_answer_json(call, answer, root);
}

enum hpl_status hpl_vault_read_wrapped(struct hpl_call *call, const json_t *data, uint32_t version, size_t secret_len, struct hpl_wrapped *out)
{
    char prefix[32];
    struct hpl_buf bytes = {.max = sizeof out->ct};
    const char *text = json_string_value(json_object_get(data, "ciphertext"));
    size_t prefix_len = (size_t)snprintf(prefix, sizeof prefix, "vault:v%" PRIu32 ":", version);
    bool is_right = text && strncmp(text, prefix, prefix_len) == 0 && hpl_base64_decode(&bytes, text + prefix_len, strlen(text) - prefix_len) &&
                    bytes.len == secret_len + NONCE_AND_TAG && hpl_buf_check(&bytes) == HPL_OK;
    if (is_right) {
        out->mechanism = HPL_MECH_TRANSIT;
        out->ct_len = (uint16_t)bytes.len;
        memcpy(out->ct, bytes.data, bytes.len);
    }
    hpl_buf_wipe(&bytes);
    return is_right ? HPL_OK : hpl_fail(call, HPL_BACKEND, "Vault's ciphertext is not one of this key version and this length");
}

/* Vault's reasons for 400 that are about the key and not about what was asked with it. */
static bool is_about_the_key(const struct hpl_vault_answer *answer)
{
    static const char *const reasons[] = {"key not found", "unknown key type", "version", "soft deleted", "soft-deleted"};
    for (size_t i = 0; i < HPL_COUNT(reasons); i++)
        if (hpl_vault_answer_says(answer, reasons[i]))
            return true;
    return false;
}

/* What stands in every question: the AAD, and the salt that makes a derived key one of this wrap alone. */
struct binding {
    char aad[HPL_WRAP_AAD_LEN * 2], salt[HPL_VAULT_SALT_LEN * 2], context[HPL_VAULT_SALT_LEN * 2 + 16];
};

static void bind(struct binding *binding, const uint8_t *aad, const uint8_t *salt, size_t salt_len)
{
    put_base64(binding->aad, aad, HPL_WRAP_AAD_LEN);
    binding->context[0] = '\0';
    if (!salt_len)
        return;
    put_base64(binding->salt, salt, salt_len);
    snprintf(binding->context, sizeof binding->context, ",\"context\":\"%s\"", binding->salt);
}

/* Appends {"plaintext", "associated_data", "context", "key_version"} without its last brace; out and what follows are locked memory. */
static size_t put_item(char *out, size_t size, const struct hpl_secret *secret, struct hpl_secret *text, const struct binding *binding, uint32_t version)
{
    put_base64((char *)text->bytes, secret->bytes, secret->len);
    return (size_t)snprintf(out, size, "{\"plaintext\":\"%s\",\"associated_data\":\"%s\"%s,\"key_version\":%" PRIu32, (const char *)text->bytes, binding->aad,
                            binding->context, version);
}

static bool new_salt(const struct hpl_vault_place *place, struct hpl_wrapped *out)
{
    *out = (struct hpl_wrapped){.iv_len = place->is_derived ? HPL_VAULT_SALT_LEN : 0};
    return RAND_bytes(out->iv, out->iv_len) == 1;
}

/* One secret: the item itself; many: {"batch_input": [items]}. salts: as new_salt made them. */
static struct hpl_secret *wrap_body(struct hpl_secret *const *secrets, const struct hpl_wrapped *salts, size_t count, const uint8_t *aad, uint32_t version, bool is_batch)
{
    struct binding binding;
    struct hpl_secret *HPL_SECRET_AUTO text = hpl_secret_new(128);
    struct hpl_secret *body = hpl_secret_new(MAX_ITEM * (count + 1));
    if (!text || !body) {
        hpl_secret_free(body);
        return NULL;
    }
    char *at = (char *)body->bytes, *end = at + body->len;
    for (size_t i = 0; i < count; i++) {
        if (is_batch)
            at += snprintf(at, (size_t)(end - at), "%s", i ? "}," : "{\"batch_input\":[");
        bind(&binding, aad, salts[i].iv, salts[i].iv_len);
        at += put_item(at, (size_t)(end - at), secrets[i], text, &binding, version);
    }
    snprintf(at, (size_t)(end - at), "%s,\"type\":\"" NO_TYPE "\"}", is_batch ? "}]" : "");
    return body;
}

/* A policy without "create" answers 403 for a key that is not there: that is told as what it is. */
static enum hpl_status wrap_refused(struct hpl_call *call, struct hpl_vault *vault, const struct hpl_vault_place *place, uint32_t version,
                                    const struct hpl_vault_answer *answer)
{
    char path[MAX_PATH];
    struct hpl_call quiet = {.deadline_ns = call ? call->deadline_ns : 0};
    struct hpl_vault_facts facts;
    if (is_about_the_key(answer) || (answer->code == 403 && hpl_vault_transit_read(&quiet, vault, place->name, &facts) == HPL_OK && !facts.latest))
        return gone(call, vault, place, version);
    key_path(path, vault, "encrypt", place->name, "");
    const struct hpl_vault_request request = {.method = "POST", .path = path};
    return hpl_vault_refused(call, vault->http, &request, answer, "wrapping a data key");
}

enum hpl_status hpl_vault_wrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    HPL_CHECK(secret->len >= 16 && secret->len <= 64);
    HPL_TRY(ready(call, vault, uid, version, &place));
    uint32_t transit_version = version + place.base - 1;
    if (!new_salt(&place, out))
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    struct hpl_secret *one = (struct hpl_secret *)secret;
    struct hpl_secret *HPL_SECRET_AUTO body = wrap_body(&one, out, 1, aad, transit_version, false);
    if (!body)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(ask_transit(call, vault, "encrypt", place.name, body, &answer, &root));
    if (root)
        return hpl_vault_read_wrapped(call, json_object_get(root, "data"), transit_version, secret->len, out);
    return wrap_refused(call, vault, &place, version, &answer);
}

enum hpl_status hpl_vault_wrap_many(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                    const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_secret *const *secrets, struct hpl_wrapped *out, size_t count)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    HPL_CHECK(count >= 1 && count <= HPL_WRAP_MANY_MAX);
    HPL_TRY(ready(call, vault, uid, version, &place));
    uint32_t transit_version = version + place.base - 1;
    for (size_t i = 0; i < count; i++)
        if (!new_salt(&place, &out[i]))
            return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    struct hpl_secret *HPL_SECRET_AUTO body = wrap_body(secrets, out, count, aad, transit_version, true);
    if (!body)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(ask_transit(call, vault, "encrypt", place.name, body, &answer, &root));
    if (!root)
        return wrap_refused(call, vault, &place, version, &answer);
    const json_t *results = json_object_get(json_object_get(root, "data"), "batch_results");
    if (json_array_size(results) != count)
        return hpl_fail(call, HPL_BACKEND, "Vault answered a batch of %zu with %zu results", count, json_array_size(results));
    for (size_t i = 0; i < count; i++)
        HPL_TRY(hpl_vault_read_wrapped(call, json_array_get(results, i), transit_version, secrets[i]->len, &out[i]));
    return HPL_OK;
}

/* --- unwrap ---------------------------------------------------------------------------------------------------------------- */

static struct hpl_secret *unwrap_body(const struct hpl_wrapped *wrapped, const uint8_t *aad, uint32_t version)
{
    char ct64[160];
    struct binding binding;
    struct hpl_secret *body = hpl_secret_new(512);
    if (!body)
        return NULL;
    bind(&binding, aad, wrapped->iv, wrapped->iv_len);
    put_base64(ct64, wrapped->ct, wrapped->ct_len);
    snprintf((char *)body->bytes, body->len, "{\"ciphertext\":\"vault:v%" PRIu32 ":%s\",\"associated_data\":\"%s\"%s}", version, ct64, binding.aad, binding.context);
    return body;
}

static enum hpl_status read_opened(struct hpl_call *call, const json_t *root, size_t len, struct hpl_secret **out)
{
    const json_t *text = json_object_get(json_object_get(root, "data"), "plaintext");
    struct hpl_secret *opened = hpl_secret_new(len);
    if (!opened)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (json_is_string(text) && hpl_base64_decode_exact(opened->bytes, len, json_string_value(text), json_string_length(text))) {
        *out = opened;
        return HPL_OK;
    }
    hpl_secret_free(opened);
    return hpl_fail(call, HPL_BACKEND, "Vault's plaintext is not of the length that was wrapped");
}

enum hpl_status hpl_vault_unwrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                 const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    *out = NULL;
    if (wrapped->mechanism != HPL_MECH_TRANSIT || (wrapped->iv_len && wrapped->iv_len != HPL_VAULT_SALT_LEN) || wrapped->ct_len < 16 + NONCE_AND_TAG || wrapped->ct_len > 64 + NONCE_AND_TAG)
        return invalid(call);
    HPL_TRY(ready(call, vault, uid, version, &place));
    if (place.is_derived != (wrapped->iv_len != 0))
        return invalid(call);
    struct hpl_secret *HPL_SECRET_AUTO body = unwrap_body(wrapped, aad, version + place.base - 1);
    if (!body)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(ask_transit(call, vault, "decrypt", place.name, body, &answer, &root));
    if (root)
        return read_opened(call, root, wrapped->ct_len - NONCE_AND_TAG, out);
    return is_about_the_key(&answer) ? gone(call, vault, &place, version) : invalid(call);
}
