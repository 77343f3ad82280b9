/* What was learned of a token at first sight is pinned in the catalog (type "p11", name "mode/<token>") and never changes by itself:
 * a token that behaves in another way later is not used. Opening thread; blocks. */
#include "backends/pkcs11/store.h"

#include "base/codec.h"
#include "base/json.h"
#include "base/log.h"

#define ROW_TYPE "p11"
#define ROW_MAX 4096u
#define FORMAT 1

static enum hpl_status put_row(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, const struct hpl_p11_pinned *pinned)
{
    const struct hpl_p11_facts *facts = &keystore->device->facts;
    const struct hpl_wrapped *canary = &pinned->canary;
    char iv[2 * sizeof canary->iv + 1], ct[2 * sizeof canary->ct + 1];
    struct hpl_buf text = {0};
    hpl_hex_encode(iv, canary->iv, canary->iv_len);
    hpl_hex_encode(ct, canary->ct, canary->ct_len);
    json_t *HPL_JSON_AUTO row = json_pack("{s:i s:s s:s s:s s:s s:s s:s s:s}", "format", FORMAT, "serial", facts->serial, "label", facts->label,
                                          "manufacturer", facts->manufacturer, "library", facts->library, "iv_mode",
                                          hpl_p11_iv_mode_name(pinned->iv_mode), "canary_iv", iv, "canary_ct", ct);
    HPL_TRY(hpl_json_put(&text, row));
    enum hpl_status status = hpl_catalog_put(call, keystore->env->catalog, ROW_TYPE, name, 0, hpl_buf_bytes(&text), NULL);
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status parse_row(struct hpl_call *call, const json_t *row, const char **mode, struct hpl_p11_pinned *pinned)
{
    const char *iv = NULL, *ct = NULL;
    HPL_TRY(hpl_json_str(call, row, "iv_mode", mode));
    HPL_TRY(hpl_json_str(call, row, "canary_iv", &iv));
    HPL_TRY(hpl_json_str(call, row, "canary_ct", &ct));
    struct hpl_wrapped *canary = &pinned->canary;
    size_t iv_len = iv ? strlen(iv) / 2 : 0, ct_len = ct ? strlen(ct) / 2 : 0;
    *pinned = (struct hpl_p11_pinned){.mechanism = HPL_MECH_P11_GCM};
    if (!*mode || iv_len > sizeof canary->iv || ct_len > sizeof canary->ct ||
        !hpl_hex_decode(canary->iv, iv_len, iv, strlen(iv)) || !hpl_hex_decode(canary->ct, ct_len, ct, strlen(ct)))
        return hpl_fail(call, HPL_INTEGRITY, "the catalog's row about this token is damaged");
    canary->mechanism = HPL_MECH_P11_GCM;
    canary->iv_len = (uint8_t)iv_len;
    canary->ct_len = (uint16_t)ct_len;
    return HPL_OK;
}

/* A known token must behave as it did. */
static enum hpl_status hold_against(struct hpl_p11_keystore *keystore, struct hpl_call *call, const json_t *row)
{
    struct hpl_p11_device *device = keystore->device;
    const char *mode = NULL, *found = hpl_p11_iv_mode_name(device->facts.iv_mode);
    struct hpl_p11_pinned pinned;
    HPL_TRY(parse_row(call, row, &mode, &pinned));
    if (strcmp(mode, found) != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION,
                        "token '%s' now shows IV mode '%s' where '%s' was pinned at first use: undo the change of firmware, library or policy",
                        device->facts.label, found, mode);
    pinned.iv_mode = device->facts.iv_mode;
    return device->ops->settle(device, call, true, &pinned);
}

static enum hpl_status take_in(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name)
{
    struct hpl_p11_device *device = keystore->device;
    struct hpl_p11_pinned pinned = {0};
    HPL_TRY(device->ops->settle(device, call, false, &pinned));
    HPL_TRY(put_row(keystore, call, name, &pinned));
    hpl_log(HPL_LOG_INFO, "pkcs11.token_taken_in", HPL_S("token", device->facts.label), HPL_S("serial", device->facts.serial),
            HPL_S("iv_mode", hpl_p11_iv_mode_name(pinned.iv_mode)));
    return HPL_OK;
}

enum hpl_status hpl_p11_pin_down(struct hpl_p11_keystore *keystore, struct hpl_call *call)
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
    return status == HPL_OK ? hold_against(keystore, call, row) : status;
}
