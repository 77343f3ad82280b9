/* Names: key ids as paths, uids as transit keys. Any thread; what is read from Vault is remembered, and written through. */
#include "backends/vault/internal.h"

#include <ctype.h>
#include <stdio.h>

#include "base/codec.h"
#include "base/hash.h"

#define LONGEST_PLAIN 120u
#define MOST_PLACES 50000u
#define OWN_PREFIX "hpl-"

/* --- records -------------------------------------------------------------------------------------------------------------- */

static bool is_plain(unsigned char byte)
{
    return isalnum(byte) || byte == '-' || byte == '_';
}

void hpl_vault_record_name(char out[static HPL_VAULT_NAME_MAX], const char *key_id)
{
    uint8_t digest[HPL_SHA256_LEN];
    size_t len = 0;
    for (const unsigned char *at = (const unsigned char *)key_id; *at && len <= LONGEST_PLAIN; at++)
        len += (size_t)snprintf(out + len, HPL_VAULT_NAME_MAX - len, is_plain(*at) ? "%c" : "~%02x", *at);
    if (len <= LONGEST_PLAIN)
        return;
    hpl_sha256(digest, key_id, strlen(key_id));
    memcpy(out, "~~", 2);
    hpl_hex_encode(out + 2, digest, sizeof digest);
}

bool hpl_vault_record_id(char key_id[static HPL_KEY_ID_MAX + 1], const char *name)
{
    char again[HPL_VAULT_NAME_MAX];
    const char *whole = name;
    size_t len = 0;
    for (; *name && len < HPL_KEY_ID_MAX; len++) {
        const char *at = name;
        if (*at != '~')
            key_id[len] = *name++;
        else if (hpl_hex_decode(&key_id[len], 1, at + 1, strnlen(at + 1, 2)) && key_id[len])
            name += 3;
        else
            return false;
    }
    key_id[len] = '\0';
    if (*name || !len)
        return false;
    hpl_vault_record_name(again, key_id);
    return strcmp(again, whole) == 0;
}

/* --- transit keys --------------------------------------------------------------------------------------------------------- */

/* Transit takes names of word characters, with '-' and '.' inside. */
bool hpl_vault_is_transit_name(const char *key_id)
{
    size_t len = strlen(key_id);
    bool is_own = strncmp(key_id, OWN_PREFIX, strlen(OWN_PREFIX)) == 0 && strspn(key_id + strlen(OWN_PREFIX), "0123456789abcdef") == 2 * HPL_KEY_UID_LEN;
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)key_id[i]) && key_id[i] != '_' && (!strchr(".-", key_id[i]) || i == 0 || i == len - 1))
            return false;
    return len > 0 && len <= LONGEST_PLAIN && !strstr(key_id, "..") && !is_own;
}

void hpl_vault_place_wipe(struct hpl_vault_place *place)
{
    json_decref(place->destroyed);
    *place = (struct hpl_vault_place){0};
}

static void hex_uid(char out[static 2 * HPL_KEY_UID_LEN + 1], const uint8_t uid[static HPL_KEY_UID_LEN])
{
    hpl_hex_encode(out, uid, HPL_KEY_UID_LEN);
}

static void own_place(const uint8_t uid[static HPL_KEY_UID_LEN], struct hpl_vault_place *out)
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    hex_uid(hex, uid);
    *out = (struct hpl_vault_place){.base = 1, .made = 1, .is_ours = true, .is_derived = true, .destroyed = json_array()};
    snprintf(out->name, sizeof out->name, OWN_PREFIX "%s", hex);
}

static json_t *place_json(const struct hpl_vault_place *place)
{
    return json_pack("{s:s, s:I, s:I, s:b, s:b, s:O, s:b, s:s}", "name", place->name, "base", (json_int_t)place->base, "made", (json_int_t)place->made, "ours", place->is_ours, "derived", place->is_derived, "destroyed", place->destroyed,
                     "gone", place->is_gone, "key_id", place->key_id);
}

static bool read_place(const json_t *json, uint64_t revision, struct hpl_vault_place *out)
{
    const char *name = json_string_value(json_object_get(json, "name")), *key_id = json_string_value(json_object_get(json, "key_id"));
    json_int_t base = json_integer_value(json_object_get(json, "base")), made = json_integer_value(json_object_get(json, "made"));
    json_t *destroyed = json_object_get(json, "destroyed");
    if (!name || strlen(name) > HPL_KEY_ID_MAX || base < 1 || base > UINT32_MAX || made < 0 || made > UINT32_MAX || !json_is_array(destroyed) || !key_id || strlen(key_id) > HPL_KEY_ID_MAX)
        return false;
    *out = (struct hpl_vault_place){.base = (uint32_t)base, .made = (uint32_t)made, .is_ours = json_is_true(json_object_get(json, "ours")), .destroyed = json_deep_copy(destroyed), .revision = revision};
    out->is_derived = json_is_true(json_object_get(json, "derived"));
    out->is_gone = json_is_true(json_object_get(json, "gone"));
    memcpy(out->name, name, strlen(name) + 1);
    memcpy(out->key_id, key_id, strlen(key_id) + 1);
    return out->destroyed != NULL;
}

static void remember(struct hpl_vault *vault, const char *hex, const struct hpl_vault_place *place)
{
    json_t *json = place ? place_json(place) : NULL;
    if (json)
        json_object_set_new(json, "revision", json_integer((json_int_t)place->revision));
    pthread_mutex_lock(&vault->lock);
    if (json_object_size(vault->places) >= MOST_PLACES)
        json_object_clear(vault->places);
    if (json)
        json_object_set_new(vault->places, hex, json);
    else
        json_object_del(vault->places, hex);
    pthread_mutex_unlock(&vault->lock);
}

static bool recall(struct hpl_vault *vault, const char *hex, struct hpl_vault_place *out)
{
    pthread_mutex_lock(&vault->lock);
    const json_t *json = json_object_get(vault->places, hex);
    bool is_there = json && read_place(json, (uint64_t)json_integer_value(json_object_get(json, "revision")), out);
    pthread_mutex_unlock(&vault->lock);
    return is_there;
}

enum hpl_status hpl_vault_place_get(struct hpl_call *call, struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], bool may_be_cached,
                                    struct hpl_vault_place *out)
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    struct hpl_vault_document document = {.kind = "uid"};
    json_t *HPL_JSON_AUTO json = NULL;
    hex_uid(hex, uid);
    if (may_be_cached && recall(vault, hex, out))
        return HPL_OK;
    enum hpl_status status = hpl_vault_document_get(call, vault, hex, hex, &document);
    if (status == HPL_NOT_FOUND) {
        own_place(uid, out);
        return HPL_OK;
    }
    if (status == HPL_OK && (hpl_json_object(NULL, &json, hpl_buf_bytes(&document.content), 1u << 20, false) != HPL_OK || !read_place(json, document.revision, out)))
        status = hpl_fail(call, HPL_INTEGRITY, "Vault's document of the uid %s is not one of this program", hex);
    if (status == HPL_OK)
        remember(vault, hex, out);
    hpl_vault_document_wipe(&document);
    return status;
}

enum hpl_status hpl_vault_place_put(struct hpl_call *call, struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], struct hpl_vault_place *place)
{
    struct hpl_vault_document document = {.kind = "uid"};
    json_t *HPL_JSON_AUTO json = place_json(place);
    hex_uid(document.id, uid);
    memcpy(document.uid, uid, sizeof document.uid);
    enum hpl_status status = json ? hpl_json_put(&document.content, json) : HPL_NO_MEMORY;
    if (status == HPL_OK)
        status = hpl_vault_document_put(call, vault, document.id, &document, place->revision);
    if (status == HPL_OK)
        place->revision++;
    remember(vault, document.id, status == HPL_OK ? place : NULL);
    hpl_vault_document_wipe(&document);
    return status;
}

void hpl_vault_place_remember(struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], const struct hpl_vault_place *place)
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    hex_uid(hex, uid);
    remember(vault, hex, place);
}

/* The place for a uid that has none: the transit key of its key id where that is there to be taken over or where none is in the way of making it;
 * its own, hpl-<uid>, where that was made before its record or the name is another's. */
static enum hpl_status choose(struct hpl_call *call, struct hpl_vault *vault, const char *key_id, bool may_take_over, struct hpl_vault_place *place)
{
    struct hpl_vault_facts named, own;
    if (!hpl_vault_is_transit_name(key_id))
        return HPL_OK;
    HPL_TRY(hpl_vault_transit_read(call, vault, key_id, &named));
    if (named.latest && !may_take_over)
        return HPL_OK; /* a destroyed key of the same id left it */
    if (!named.latest)
        HPL_TRY(hpl_vault_transit_read(call, vault, place->name, &own));
    if (!named.latest && own.latest)
        return HPL_OK;
    memcpy(place->name, key_id, strlen(key_id) + 1);
    place->is_ours = !named.latest;
    place->is_derived = named.latest ? named.is_derived : true;
    place->base = named.latest ? named.latest : 1;
    return HPL_OK;
}

enum hpl_status hpl_vault_place_choose(struct hpl_call *call, struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], const char *key_id,
                                       bool may_take_over)
{
    struct hpl_vault_place HPL_VAULT_PLACE_AUTO place = {0};
    HPL_TRY(hpl_vault_place_get(call, vault, uid, true, &place));
    if (place.revision)
        return HPL_OK;
    memcpy(place.key_id, key_id, strlen(key_id) + 1);
    HPL_TRY(choose(call, vault, key_id, may_take_over, &place));
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    enum hpl_status status = hpl_vault_place_put(&sub, vault, uid, &place);
    if (status == HPL_STALE) /* another node was faster: its choice counts */
        return HPL_OK;
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}
