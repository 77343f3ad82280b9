/* The canary: a key of ours in the token whose answer we know. It tells a dead token from a hostile ciphertext where the error codes
 * do not (SoftHSM says CKR_GENERAL_ERROR for both), and a known token from another in its place. What was learned of a token at first
 * sight is pinned in the catalog (type "p11", name "mode/<token>"), and never changes by itself. Any thread. */
#include "backends/pkcs11/internal.h"

#include "base/clock.h"
#include "base/codec.h"
#include "base/hash.h"
#include "base/log.h"

#define FRESH_NS 200000000u
#define TIMEOUT_MS 3000u
#define ROW_TYPE "p11"
#define ROW_MAX 4096u

static const uint8_t song[32] = "hardplate's canary sings: alive.";
static const uint8_t song_aad[HPL_WRAP_AAD_LEN] = "hardplate canary context, 32 b.";

static void init_fixed(struct hpl_p11_key *key, const char *label, CK_KEY_TYPE type)
{
    uint8_t digest[HPL_SHA256_LEN];
    hpl_sha256(digest, label, strlen(label));
    hpl_p11_key_init(key, digest, label, type);
}

void hpl_p11_canary_init(struct hpl_p11_keystore *keystore)
{
    init_fixed(&keystore->canary, "hpl/canary", CKK_AES);
    init_fixed(&keystore->meta_mac, "hpl/meta-mac", CKK_GENERIC_SECRET);
    pthread_mutex_init(&keystore->canary_lock, NULL);
}

/* --- asking it ------------------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_p11_canary_op(struct hpl_p11_op *op, void *unused)
{
    struct hpl_p11_keystore *keystore = op->keystore;
    struct hpl_secret *HPL_SECRET_AUTO heard = NULL;
    CK_OBJECT_HANDLE handle;
    (void)unused;
    HPL_TRY(hpl_p11_handle(op, &keystore->canary, &handle));
    HPL_TRY(hpl_p11_gcm_unwrap(op, handle, song_aad, &keystore->canary_answer, &heard));
    if (heard->len != sizeof song || memcmp(heard->bytes, song, sizeof song) != 0)
        return hpl_fail(op->call, HPL_INTEGRITY, "the canary of token '%s' sings another song", keystore->token.label);
    return HPL_OK;
}

/* One attempt, without connecting: this runs while a connection is in doubt. False too when the generation is another by now. */
static bool ask(struct hpl_p11_keystore *keystore, uint64_t generation)
{
    struct hpl_call call;
    hpl_call_init(&call, TIMEOUT_MS);
    struct hpl_p11_op op = {.keystore = keystore, .call = &call, .epoch = atomic_load(&keystore->epoch)};
    if (hpl_p11_module_enter(keystore->module, &call, &op.generation) != HPL_OK)
        return false;
    enum hpl_status status = HPL_KEY_UNAVAILABLE;
    if (op.generation == generation && atomic_load(&keystore->generation) == generation)
        status = hpl_p11_checkout(&op);
    if (status == HPL_OK)
        status = hpl_p11_canary_op(&op, NULL);
    if (op.class == HPL_P11_HANDLE)
        atomic_compare_exchange_strong(&keystore->epoch, &op.epoch, op.epoch + 1);
    hpl_p11_checkin(&op);
    hpl_p11_module_leave(keystore->module);
    return status == HPL_OK;
}

/* A hostile ciphertext costs at most five canaries a second, whatever their number. */
bool hpl_p11_canary_is_well(struct hpl_p11_keystore *keystore, uint64_t generation)
{
    pthread_mutex_lock(&keystore->canary_lock);
    if (hpl_clock_mono_ns() - keystore->canary_at_ns >= FRESH_NS) {
        keystore->canary_was_well = ask(keystore, generation) || ask(keystore, generation);
        keystore->canary_at_ns = hpl_clock_mono_ns();
    }
    bool is_well = keystore->canary_was_well;
    pthread_mutex_unlock(&keystore->canary_lock);
    return is_well;
}

/* --- what is pinned ---------------------------------------------------------------------------------------------------------------- */

static enum hpl_status put_row(struct hpl_p11_op *op, const char *name)
{
    const struct hpl_p11_keystore *keystore = op->keystore;
    const struct hpl_wrapped *answer = &keystore->canary_answer;
    char iv[2 * sizeof answer->iv + 1], ct[2 * sizeof answer->ct + 1];
    struct hpl_buf text = {0};
    hpl_hex_encode(iv, answer->iv, answer->iv_len);
    hpl_hex_encode(ct, answer->ct, answer->ct_len);
    json_t *HPL_JSON_AUTO row = json_pack("{s:i s:s s:s s:s s:s s:s s:s s:s}", "format", 1, "serial", keystore->token.serial, "label",
                                          keystore->token.label, "manufacturer", keystore->token.manufacturer, "library",
                                          keystore->token.library, "iv_mode", hpl_p11_iv_mode_name(keystore->iv_mode), "canary_iv", iv,
                                          "canary_ct", ct);
    HPL_TRY(hpl_json_put(&text, row));
    enum hpl_status status = hpl_catalog_put(op->call, keystore->env->catalog, ROW_TYPE, name, 0, hpl_buf_bytes(&text), NULL);
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status parse_row(struct hpl_call *call, const json_t *row, const char **mode, struct hpl_wrapped *answer)
{
    const char *iv = NULL, *ct = NULL;
    HPL_TRY(hpl_json_str(call, row, "iv_mode", mode));
    HPL_TRY(hpl_json_str(call, row, "canary_iv", &iv));
    HPL_TRY(hpl_json_str(call, row, "canary_ct", &ct));
    size_t iv_len = iv ? strlen(iv) / 2 : 0, ct_len = ct ? strlen(ct) / 2 : 0;
    *answer = (struct hpl_wrapped){.mechanism = HPL_MECH_P11_GCM, .iv_len = (uint8_t)iv_len, .ct_len = (uint16_t)ct_len};
    if (!*mode || iv_len > HPL_P11_IV_MAX || ct_len != sizeof song + HPL_P11_TAG_LEN || !hpl_hex_decode(answer->iv, iv_len, iv, strlen(iv)) ||
        !hpl_hex_decode(answer->ct, ct_len, ct, strlen(ct)))
        return hpl_fail(call, HPL_INTEGRITY, "the catalog's row about this token is damaged");
    return HPL_OK;
}

/* A known token: it must behave as it did, and hold the keys it held. */
static enum hpl_status hold_against(struct hpl_p11_op *op, const json_t *row, enum hpl_p11_iv_mode found)
{
    struct hpl_p11_keystore *keystore = op->keystore;
    const char *pinned = NULL;
    CK_OBJECT_HANDLE handle;
    HPL_TRY(parse_row(op->call, row, &pinned, &keystore->canary_answer));
    if (strcmp(pinned, hpl_p11_iv_mode_name(found)) != 0)
        return hpl_fail(op->call, HPL_INVALID_CONFIGURATION,
                        "token '%s' now shows IV mode '%s' where '%s' was pinned at first use: undo the change of firmware, library or policy",
                        keystore->token.label, hpl_p11_iv_mode_name(found), pinned);
    keystore->iv_mode = found;
    HPL_TRY(hpl_p11_canary_op(op, NULL));
    return hpl_p11_handle(op, &keystore->meta_mac, &handle);
}

/* A token that this catalog does not know: it gets our two keys unless another catalog gave them already. */
static enum hpl_status take_in(struct hpl_p11_op *op, const char *name, enum hpl_p11_iv_mode found)
{
    struct hpl_p11_keystore *keystore = op->keystore;
    CK_OBJECT_HANDLE handle;
    keystore->iv_mode = found;
    HPL_TRY(hpl_p11_create(op, &keystore->canary));
    HPL_TRY(hpl_p11_create(op, &keystore->meta_mac));
    HPL_TRY(hpl_p11_handle(op, &keystore->canary, &handle));
    HPL_TRY(hpl_p11_gcm_wrap(op, handle, song_aad, hpl_bytes(song, sizeof song), &keystore->canary_answer));
    HPL_TRY(hpl_p11_canary_op(op, NULL));
    HPL_TRY(put_row(op, name));
    hpl_log(HPL_LOG_INFO, "pkcs11.token_taken_in", HPL_S("token", keystore->token.label), HPL_S("serial", keystore->token.serial),
            HPL_S("iv_mode", hpl_p11_iv_mode_name(found)));
    return HPL_OK;
}

enum hpl_status hpl_p11_pin_down(struct hpl_p11_op *op, void *unused)
{
    struct hpl_catalog *catalog = op->keystore->env->catalog;
    enum hpl_p11_iv_mode found;
    char name[64] = "mode/";
    struct hpl_buf text = {0};
    uint64_t revision;
    (void)unused;
    HPL_TRY(hpl_p11_negotiate(op, &found));
    strcat(name, op->keystore->token.id);
    enum hpl_status status = hpl_catalog_get(op->call, catalog, ROW_TYPE, name, &text, &revision);
    if (status == HPL_NOT_FOUND) {
        op->call->detail[0] = '\0';
        return take_in(op, name, found);
    }
    json_t *HPL_JSON_AUTO row = NULL;
    if (status == HPL_OK)
        status = hpl_json_object(op->call, &row, hpl_buf_bytes(&text), ROW_MAX, false);
    hpl_buf_wipe(&text);
    return status == HPL_OK ? hold_against(op, row, found) : status;
}
