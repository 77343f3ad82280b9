/* AES-256-GCM in the token (CKM_AES_GCM; SP 800-38D): who makes the IV, proven before it is believed, then wrap and unwrap. Any
 * thread. Tokens differ: most take ours, some want zeroes and write theirs into pIv, some append theirs to the ciphertext. CKR_OK
 * proves nothing: SoftHSM takes a zero or missing IV and uses it as it is, which twice under one key would give the key away. */
#include "backends/pkcs11/internal.h"

#include <openssl/rand.h>

#include "base/log.h"

#define IV_LEN 12u
#define ROOM (HPL_P11_SECRET_MAX + HPL_P11_TAG_LEN + HPL_P11_IV_MAX)

/* ulIvBits is missing from the text of v2.40 but not from its header; a struct without it would be misread by every module. */
_Static_assert(sizeof(CK_GCM_PARAMS) == 6 * sizeof(CK_ULONG), "CK_GCM_PARAMS has six words");

struct gcm {
    CK_FUNCTION_LIST *fn;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
    uint8_t aad[HPL_WRAP_AAD_LEN];
    const char *function; /* the one that failed */
};

static CK_MECHANISM mechanism_of(struct gcm *gcm, CK_GCM_PARAMS *params, uint8_t *iv, size_t iv_len)
{
    *params = (CK_GCM_PARAMS){.pIv = iv, .ulIvLen = iv_len, .ulIvBits = iv_len * 8, .pAAD = gcm->aad, .ulAADLen = sizeof gcm->aad,
                              .ulTagBits = HPL_P11_TAG_LEN * 8};
    return (CK_MECHANISM){CKM_AES_GCM, params, sizeof *params};
}

/* One-shot, so that vendors' load balancing works. iv may be written by the token; *out_len holds the room. */
static CK_RV encrypt(struct gcm *gcm, uint8_t *iv, size_t iv_len, struct hpl_bytes in, uint8_t *out, CK_ULONG *out_len)
{
    CK_GCM_PARAMS params;
    CK_MECHANISM mechanism = mechanism_of(gcm, &params, iv, iv_len);
    gcm->function = "C_EncryptInit";
    CK_RV rv = gcm->fn->C_EncryptInit(gcm->session, &mechanism, gcm->key);
    if (rv != CKR_OK)
        return rv;
    gcm->function = "C_Encrypt";
    return gcm->fn->C_Encrypt(gcm->session, (CK_BYTE_PTR)in.data, in.len, out, out_len);
}

static CK_RV decrypt(struct gcm *gcm, const uint8_t *iv, size_t iv_len, struct hpl_bytes in, uint8_t *out, CK_ULONG *out_len)
{
    CK_GCM_PARAMS params;
    uint8_t own_iv[HPL_P11_IV_MAX];
    memcpy(own_iv, iv, iv_len);
    CK_MECHANISM mechanism = mechanism_of(gcm, &params, own_iv, iv_len);
    gcm->function = "C_DecryptInit";
    CK_RV rv = gcm->fn->C_DecryptInit(gcm->session, &mechanism, gcm->key);
    if (rv != CKR_OK)
        return rv;
    gcm->function = "C_Decrypt";
    return gcm->fn->C_Decrypt(gcm->session, (CK_BYTE_PTR)in.data, in.len, out, out_len);
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++)
        any |= bytes[i];
    return any == 0;
}

/* One wrap in a mode: the IV and the ciphertext with its tag, wherever the token put them. *is_as_said: CKR_OK, and the token did
 * with the IV what the mode says. */
static CK_RV seal(struct gcm *gcm, enum hpl_p11_iv_mode mode, struct hpl_bytes in, struct hpl_wrapped *out, bool *is_as_said)
{
    uint8_t given[IV_LEN] = {0}, room[ROOM];
    CK_ULONG len = sizeof room;
    *is_as_said = false;
    if (mode == HPL_P11_IV_CALLER && RAND_bytes(given, sizeof given) != 1)
        return CKR_RANDOM_NO_RNG;
    memcpy(out->iv, given, sizeof given);
    CK_RV rv = mode == HPL_P11_IV_APPENDED ? encrypt(gcm, NULL, 0, in, room, &len) : encrypt(gcm, out->iv, sizeof given, in, room, &len);
    size_t sealed_len = in.len + HPL_P11_TAG_LEN, iv_len = IV_LEN;
    if (rv != CKR_OK || len < sealed_len || len > sizeof room)
        return rv;
    if (mode == HPL_P11_IV_APPENDED) {
        iv_len = len - sealed_len;
        memcpy(out->iv, room + sealed_len, iv_len);
    } else if (len != sealed_len || (memcmp(out->iv, given, sizeof given) == 0) != (mode == HPL_P11_IV_CALLER))
        return rv;
    *is_as_said = iv_len >= IV_LEN && !is_zero(out->iv, iv_len);
    out->mechanism = HPL_MECH_P11_GCM;
    out->iv_len = (uint8_t)iv_len;
    out->ct_len = (uint16_t)sealed_len;
    memcpy(out->ct, room, sealed_len);
    return rv;
}

/* --- negotiation ------------------------------------------------------------------------------------------------------------------ */

struct trial {
    CK_FUNCTION_LIST *fn;
    CK_SLOT_ID slot;
    CK_OBJECT_HANDLE key;
};

static const uint8_t known[32] = "hardplate asks: who makes the IV";

/* Each step in a session of its own: a failure may leave one busy. */
static bool open_trial(const struct trial *trial, struct gcm *gcm)
{
    *gcm = (struct gcm){.fn = trial->fn, .key = trial->key, .aad = "the context of a trial, 32 bytes"};
    return trial->fn->C_OpenSession(trial->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &gcm->session) == CKR_OK;
}

static bool trial_seal(const struct trial *trial, enum hpl_p11_iv_mode mode, struct hpl_wrapped *out)
{
    struct gcm gcm;
    bool is_as_said = false;
    if (!open_trial(trial, &gcm))
        return false;
    CK_RV rv = seal(&gcm, mode, hpl_bytes(known, sizeof known), out, &is_as_said);
    trial->fn->C_CloseSession(gcm.session);
    return rv == CKR_OK && is_as_said;
}

enum outcome { OPENED, REFUSED, NEITHER };

static enum outcome trial_open(const struct trial *trial, const struct hpl_wrapped *wrapped, size_t ct_len, uint8_t flip_aad)
{
    struct gcm gcm;
    uint8_t out[ROOM];
    CK_ULONG len = sizeof out;
    if (!open_trial(trial, &gcm))
        return NEITHER;
    gcm.aad[0] ^= flip_aad;
    CK_RV rv = decrypt(&gcm, wrapped->iv, wrapped->iv_len, hpl_bytes(wrapped->ct, ct_len), out, &len);
    trial->fn->C_CloseSession(gcm.session);
    if (rv != CKR_OK)
        return REFUSED;
    return len == sizeof known && memcmp(out, known, sizeof known) == 0 ? OPENED : NEITHER;
}

/* Opens what it sealed, and nothing that was changed: tag, IV, context, any length that a forger might choose. */
static bool is_sound(const struct trial *trial, const struct hpl_wrapped *wrapped)
{
    static const uint16_t lengths[] = {0, 1, 12, 15, 16, 17, 27};
    struct hpl_wrapped changed = *wrapped;
    if (trial_open(trial, wrapped, wrapped->ct_len, 0) != OPENED || trial_open(trial, wrapped, wrapped->ct_len, 1) != REFUSED)
        return false;
    changed.ct[changed.ct_len - 1] ^= 1;
    if (trial_open(trial, &changed, changed.ct_len, 0) != REFUSED)
        return false;
    changed = *wrapped;
    changed.iv[0] ^= 1;
    if (trial_open(trial, &changed, changed.ct_len, 0) != REFUSED)
        return false;
    for (size_t i = 0; i < HPL_COUNT(lengths); i++)
        if (trial_open(trial, wrapped, lengths[i], 0) != REFUSED)
            return false;
    return true;
}

static bool can_use(const struct trial *trial, enum hpl_p11_iv_mode mode)
{
    struct hpl_wrapped one, two;
    if (!trial_seal(trial, mode, &one) || !trial_seal(trial, mode, &two))
        return false;
    bool do_differ = memcmp(one.iv, two.iv, IV_LEN) != 0 && memcmp(one.ct, two.ct, one.ct_len) != 0;
    return do_differ && is_sound(trial, &one) && is_sound(trial, &two);
}

static CK_RV trial_key(struct hpl_p11_op *op, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ULONG len = 32;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_VALUE_LEN, &len, sizeof len},
                               {CKA_TOKEN, &no, sizeof no},       {CKA_SENSITIVE, &yes, sizeof yes},  {CKA_EXTRACTABLE, &no, sizeof no},
                               {CKA_ENCRYPT, &yes, sizeof yes},   {CKA_DECRYPT, &yes, sizeof yes}};
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    return op->fn->C_GenerateKey(op->handle, &mechanism, template, HPL_COUNT(template), key);
}

enum hpl_status hpl_p11_negotiate(struct hpl_p11_op *op, enum hpl_p11_iv_mode *mode)
{
    static const enum hpl_p11_iv_mode order[] = {HPL_P11_IV_RETURNED, HPL_P11_IV_APPENDED, HPL_P11_IV_CALLER};
    struct trial trial = {.fn = op->fn, .slot = op->direct->token.slot};
    *mode = HPL_P11_IV_NONE;
    HPL_TRY(hpl_p11_check(op, "C_GenerateKey (a session key to try AES-GCM with)", trial_key(op, &trial.key)));
    for (size_t i = 0; i < HPL_COUNT(order) && *mode == HPL_P11_IV_NONE; i++)
        if (can_use(&trial, order[i]))
            *mode = order[i];
    HPL_TRY(hpl_p11_check(op, "C_DestroyObject", op->fn->C_DestroyObject(op->handle, trial.key)));
    if (*mode != HPL_P11_IV_NONE)
        return HPL_OK;
    return hpl_fail(op->call, HPL_INVALID_CONFIGURATION,
                    "token '%s' passed no trial of CKM_AES_GCM (IV given, returned or appended): it cannot be used", op->direct->token.facts.label);
}

/* --- wrap and unwrap ------------------------------------------------------------------------------------------------------------------ */

/* An IV that came before in this session ends all wrapping: the generator, ours or the token's, is broken. */
static bool is_new_iv(struct hpl_p11_session *session, const struct hpl_wrapped *wrapped)
{
    uint8_t iv[HPL_P11_IV_MAX] = {0};
    unsigned num = session->num_ivs < HPL_P11_RECENT_IVS ? session->num_ivs : HPL_P11_RECENT_IVS;
    memcpy(iv, wrapped->iv, wrapped->iv_len);
    for (unsigned i = 0; i < num; i++)
        if (memcmp(session->ivs[i], iv, sizeof iv) == 0)
            return false;
    memcpy(session->ivs[session->num_ivs++ % HPL_P11_RECENT_IVS], iv, sizeof iv);
    return true;
}

static struct gcm gcm_of(struct hpl_p11_op *op, CK_OBJECT_HANDLE key, const uint8_t aad[static HPL_WRAP_AAD_LEN])
{
    struct gcm gcm = {.fn = op->fn, .session = op->handle, .key = key};
    memcpy(gcm.aad, aad, sizeof gcm.aad);
    return gcm;
}

enum hpl_status hpl_p11_gcm_wrap(struct hpl_p11_op *op, CK_OBJECT_HANDLE key, const uint8_t aad[static HPL_WRAP_AAD_LEN],
                                 struct hpl_bytes secret, struct hpl_wrapped *out)
{
    struct hpl_p11_direct *direct = op->direct;
    struct gcm gcm = gcm_of(op, key, aad);
    bool is_as_said = false;
    HPL_CHECK(secret.len >= HPL_P11_SECRET_MIN && secret.len <= HPL_P11_SECRET_MAX);
    if (atomic_load(&direct->is_latched))
        return hpl_fail(op->call, HPL_INTEGRITY, "an IV of token '%s' came twice: no more wraps until it is replaced", direct->token.facts.label);
    CK_RV rv = seal(&gcm, direct->iv_mode, secret, out, &is_as_said);
    HPL_TRY(hpl_p11_check(op, gcm.function, rv));
    if (is_as_said && is_new_iv(op->session, out))
        return HPL_OK;
    memset(out, 0, sizeof *out);
    atomic_store(&direct->is_latched, true);
    hpl_log(HPL_LOG_ERROR, "pkcs11.iv_repeated", HPL_S("token", direct->token.facts.label), HPL_S("iv_mode", hpl_p11_iv_mode_name(direct->iv_mode)));
    return hpl_fail(op->call, HPL_INTEGRITY, "token '%s' gave an IV that is not fresh: no more wraps until it is replaced", direct->token.facts.label);
}

/* What a failed C_Decrypt means: some tokens name the ciphertext, some only say GENERAL_ERROR (SoftHSM) or FUNCTION_FAILED (nShield). */
static enum hpl_status judge_open(struct hpl_p11_op *op, const struct gcm *gcm, CK_RV rv)
{
    bool was_decrypt = strcmp(gcm->function, "C_Decrypt") == 0;
    enum hpl_status status = hpl_p11_check(op, gcm->function, rv);
    if (was_decrypt && op->class == HPL_P11_CALLER) {
        op->call->detail[0] = '\0';
        return HPL_INVALID_CIPHERTEXT;
    }
    if (was_decrypt && (rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED))
        op->class = HPL_P11_AMBIGUOUS;
    return status;
}

enum hpl_status hpl_p11_gcm_unwrap(struct hpl_p11_op *op, CK_OBJECT_HANDLE key, const uint8_t aad[static HPL_WRAP_AAD_LEN],
                                   const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO room = hpl_secret_new(ROOM);
    struct gcm gcm = gcm_of(op, key, aad);
    CK_ULONG len = ROOM;
    *out = NULL;
    if (!room)
        return hpl_fail(op->call, HPL_NO_MEMORY, "the secret region is full");
    CK_RV rv = decrypt(&gcm, wrapped->iv, wrapped->iv_len, hpl_bytes(wrapped->ct, wrapped->ct_len), room->bytes, &len);
    if (rv != CKR_OK)
        return judge_open(op, &gcm, rv);
    if (len != wrapped->ct_len - HPL_P11_TAG_LEN)
        return hpl_fail(op->call, HPL_BACKEND, "C_Decrypt gave %lu bytes of %u", (unsigned long)len, wrapped->ct_len - HPL_P11_TAG_LEN);
    *out = hpl_secret_from(room->bytes, len);
    return *out ? HPL_OK : hpl_fail(op->call, HPL_NO_MEMORY, "the secret region is full");
}
