/* What was learned of a token at first sight is pinned in the catalog (type "p11", name "mode/<token>") and never changes by itself:
 * a token that behaves in another way later is not used. Opening thread; blocks. */
#include "backends/pkcs11/store.h"
#include "backends/pkcs11/uri.h"

#include <stdio.h>

#include "base/codec.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"

#define ROW_TYPE "p11"
#define NAME_TYPE "p11token"
#define ROW_MAX 4096u
#define NAME_MAX_LEN 160u
#define MEMBER_DIGEST_LEN 16u
#define FORMAT 1

static json_t *names_of(uint32_t mechanisms)
{
    json_t *names = json_array();
    for (uint8_t i = 0; i < 32; i++)
        if (mechanisms & 1u << i)
            json_array_append_new(names, json_string(hpl_p11_mechanism_name(i)));
    return names;
}

/* expected: the row's revision, 0 for a new one. */
static enum hpl_status put_row(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, uint64_t expected,
                               const struct hpl_p11_pinned *pinned)
{
    const struct hpl_p11_facts *facts = &keystore->device->facts;
    const struct hpl_wrapped *canary = &pinned->canary;
    char iv[2 * sizeof canary->iv + 1], ct[2 * sizeof canary->ct + 1];
    struct hpl_buf text = {0};
    hpl_hex_encode(iv, canary->iv, canary->iv_len);
    hpl_hex_encode(ct, canary->ct, canary->ct_len);
    json_t *HPL_JSON_AUTO row = json_pack("{s:i s:s s:s s:s s:s s:s s:s s:o s:s s:s}", "format", FORMAT, "serial", facts->serial, "label",
                                          facts->label, "manufacturer", facts->manufacturer, "library", facts->library, "mechanism",
                                          hpl_p11_mechanism_name(pinned->mechanism), "iv_mode", hpl_p11_iv_mode_name(pinned->iv_mode), "opens",
                                          names_of(pinned->opens), "canary_iv", iv, "canary_ct", ct);
    HPL_TRY(hpl_json_put(&text, row));
    enum hpl_status status = hpl_catalog_put(call, keystore->env->catalog, ROW_TYPE, name, expected, hpl_buf_bytes(&text), NULL);
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status damaged(struct hpl_call *call)
{
    return hpl_fail(call, HPL_INTEGRITY, "the catalog's row about this token is damaged");
}

/* Rows from before there were several mechanisms say nothing of them. */
static enum hpl_status parse_mode(struct hpl_call *call, const json_t *row, struct hpl_p11_pinned *pinned)
{
    const char *mechanism = "aes-gcm", *mode = NULL;
    const json_t *opens = json_object_get(row, "opens");
    HPL_TRY(hpl_json_str(call, row, "mechanism", &mechanism));
    HPL_TRY(hpl_json_str(call, row, "iv_mode", &mode));
    pinned->mechanism = hpl_p11_mechanism_of(mechanism);
    pinned->opens = 1u << pinned->mechanism;
    for (size_t i = 0; i < json_array_size(opens); i++) {
        const char *name = json_string_value(json_array_get(opens, i));
        pinned->opens |= 1u << hpl_p11_mechanism_of(name ? name : "");
    }
    for (unsigned i = HPL_P11_IV_CALLER; mode && i < HPL_P11_NUM_IV_MODES; i++)
        if (strcmp(mode, hpl_p11_iv_mode_name((enum hpl_p11_iv_mode)i)) == 0)
            pinned->iv_mode = (enum hpl_p11_iv_mode)i;
    return pinned->mechanism && mode && !(pinned->opens & 1u) ? HPL_OK : damaged(call);
}

static enum hpl_status parse_row(struct hpl_call *call, const json_t *row, struct hpl_p11_pinned *pinned)
{
    const char *iv = NULL, *ct = NULL;
    struct hpl_wrapped *canary = &pinned->canary;
    *pinned = (struct hpl_p11_pinned){0};
    HPL_TRY(parse_mode(call, row, pinned));
    HPL_TRY(hpl_json_str(call, row, "canary_iv", &iv));
    HPL_TRY(hpl_json_str(call, row, "canary_ct", &ct));
    size_t iv_len = iv ? strlen(iv) / 2 : 0, ct_len = ct ? strlen(ct) / 2 : 0;
    if (iv_len > sizeof canary->iv || ct_len == 0 || ct_len > sizeof canary->ct || !iv ||
        !hpl_hex_decode(canary->iv, iv_len, iv, strlen(iv)) || !hpl_hex_decode(canary->ct, ct_len, ct, strlen(ct)))
        return damaged(call);
    canary->mechanism = pinned->mechanism;
    canary->iv_len = (uint8_t)iv_len;
    canary->ct_len = (uint16_t)ct_len;
    return HPL_OK;
}

/* What the token shows now is another mode than the pinned. Mixing two could repeat an IV, and a weaker one may be somebody's doing. */
static enum hpl_status accept_change(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, uint64_t revision,
                                     struct hpl_p11_pinned *pinned)
{
    struct hpl_p11_device *device = keystore->device;
    const struct hpl_p11_facts *facts = &device->facts;
    const char *now = hpl_p11_mechanism_name(facts->mechanism), *now_mode = hpl_p11_iv_mode_name(facts->iv_mode);
    const char *was = hpl_p11_mechanism_name(pinned->mechanism), *was_mode = hpl_p11_iv_mode_name(pinned->iv_mode);
    if (!keystore->option->accept_mode_change)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION,
                        "token '%s' now shows %s with IV mode '%s' where %s with '%s' was pinned at first use: undo the change of firmware, library or "
                        "policy, or say accept_mode_change: true for it in the local configuration file",
                        facts->label, now, now_mode, was, was_mode);
    if (facts->mechanism != pinned->mechanism)
        pinned->canary.ct_len = 0;
    pinned->mechanism = facts->mechanism;
    pinned->iv_mode = facts->iv_mode;
    HPL_TRY(device->ops->settle(device, call, true, pinned));
    HPL_TRY(put_row(keystore, call, name, revision, pinned));
    hpl_log(HPL_LOG_WARN, "pkcs11.mode_change_accepted", HPL_S("token", facts->label), HPL_S("was", was), HPL_S("was_iv_mode", was_mode),
            HPL_S("now", now), HPL_S("now_iv_mode", now_mode));
    return HPL_OK;
}

/* A known token must behave as it did. */
static enum hpl_status hold_against(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, uint64_t revision, const json_t *row)
{
    struct hpl_p11_device *device = keystore->device;
    struct hpl_p11_pinned pinned;
    HPL_TRY(parse_row(call, row, &pinned));
    bool is_same = pinned.mechanism == device->facts.mechanism && pinned.iv_mode == device->facts.iv_mode;
    HPL_TRY(is_same ? device->ops->settle(device, call, true, &pinned) : accept_change(keystore, call, name, revision, &pinned));
    device->facts.opens |= pinned.opens;
    return HPL_OK;
}

static enum hpl_status take_in(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name)
{
    struct hpl_p11_device *device = keystore->device;
    struct hpl_p11_pinned pinned = {0};
    HPL_TRY(device->ops->settle(device, call, false, &pinned));
    HPL_TRY(put_row(keystore, call, name, 0, &pinned));
    hpl_log(HPL_LOG_INFO, "pkcs11.token_taken_in", HPL_S("token", device->facts.label), HPL_S("serial", device->facts.serial),
            HPL_S("mechanism", hpl_p11_mechanism_name(pinned.mechanism)), HPL_S("iv_mode", hpl_p11_iv_mode_name(pinned.iv_mode)));
    return HPL_OK;
}

/* --- which token a name is for ------------------------------------------------------------------------------------------------------- */

/* A token's name in the local file; a member's is its group's and a digest of its module and URI, as its place in the list changes when others go. */
static void name_of(const struct hpl_p11_keystore *keystore, const struct hpl_token_option *option, char name[static NAME_MAX_LEN])
{
    uint8_t digest[32];
    char hex[2 * MEMBER_DIGEST_LEN + 1];
    struct hpl_buf what = {0};
    if (option == keystore->option) {
        snprintf(name, NAME_MAX_LEN, "%s", option->name);
        return;
    }
    hpl_buf_printf(&what, "%s\n%s", option->module ? option->module : "", option->uri);
    hpl_sha256(digest, what.data, what.len);
    hpl_hex_encode(hex, digest, MEMBER_DIGEST_LEN);
    snprintf(name, NAME_MAX_LEN, "%.100s/%s", keystore->option->name, hex);
    hpl_buf_wipe(&what);
}

static enum hpl_status read_noted(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, char id[static 40], uint64_t *revision)
{
    struct hpl_buf text = {0};
    *revision = 0;
    enum hpl_status status = hpl_catalog_get(call, keystore->env->catalog, NAME_TYPE, name, &text, revision);
    if (status == HPL_OK && text.len < 40)
        memcpy(id, text.data, text.len);
    else if (status == HPL_OK)
        status = damaged(call);
    hpl_buf_wipe(&text);
    if (status != HPL_NOT_FOUND)
        return status;
    call->detail[0] = '\0';
    return HPL_OK;
}

static enum hpl_status recall(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_token_option *option, char id[static 40])
{
    char name[NAME_MAX_LEN];
    uint64_t revision;
    if (!option->uri || hpl_p11_uri_has_serial(option->uri))
        return HPL_OK;
    name_of(keystore, option, name);
    return read_noted(keystore, call, name, id, &revision);
}

enum hpl_status hpl_p11_recall(struct hpl_p11_keystore *keystore, struct hpl_call *call)
{
    const struct hpl_token_option *option = keystore->option;
    for (size_t i = 0; i < option->num_members; i++)
        HPL_TRY(recall(keystore, call, &option->members[i], keystore->member_ids[i]));
    return recall(keystore, call, option, keystore->known_id);
}

/* Whoever was faster saw the same token, or was refused it. */
static enum hpl_status note_token(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_token_option *option, const char *id)
{
    char name[NAME_MAX_LEN], noted[40] = "";
    uint64_t revision;
    name_of(keystore, option, name);
    HPL_TRY(read_noted(keystore, call, name, noted, &revision));
    if (strcmp(noted, id) == 0)
        return HPL_OK;
    enum hpl_status status = hpl_catalog_put(call, keystore->env->catalog, NAME_TYPE, name, revision, hpl_bytes_str(id), NULL);
    return status == HPL_STALE ? HPL_OK : status;
}

void hpl_p11_met_member(void *keystore, const struct hpl_token_option *member, const char *id)
{
    struct hpl_call call = {0};
    enum hpl_status status = note_token(keystore, &call, member, id);
    if (status != HPL_OK)
        hpl_log(HPL_LOG_WARN, "pkcs11.member_not_noted", HPL_S("token", member->name), HPL_S("why", hpl_detail(&call, status)));
}

static enum hpl_status pin_mode(struct hpl_p11_keystore *keystore, struct hpl_call *call)
{
    char name[64] = "mode/";
    struct hpl_buf text = {0};
    uint64_t revision;
    json_t *HPL_JSON_AUTO row = NULL;
    strcat(name, keystore->device->facts.id);
    enum hpl_status status = hpl_catalog_get(call, keystore->env->catalog, ROW_TYPE, name, &text, &revision);
    if (status == HPL_NOT_FOUND) {
        call->detail[0] = '\0';
        return take_in(keystore, call, name);
    }
    if (status == HPL_OK)
        status = hpl_json_object(call, &row, hpl_buf_bytes(&text), ROW_MAX, false);
    hpl_buf_wipe(&text);
    return status == HPL_OK ? hold_against(keystore, call, name, revision, row) : status;
}

enum hpl_status hpl_p11_pin_down(struct hpl_p11_keystore *keystore, struct hpl_call *call)
{
    HPL_TRY(pin_mode(keystore, call));
    return note_token(keystore, call, keystore->option, keystore->device->facts.id);
}
