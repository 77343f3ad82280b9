/* Wrapping and unwrapping in the token by one of the tiers, and finding out which: each is tried on throw-away keys and believed only
 * when it opens what it sealed and refuses everything that was changed. Any thread. */
#include "backends/pkcs11/mech.h"
#include "backends/pkcs11/internal.h"

#include "base/log.h"

#define SPARE 32u  /* some modules want more room than comes out: the modulus's length, a block */
#define LEAST 12u  /* bytes that an IV and a ciphertext have at least */
#define ROOM 768u  /* no ciphertext is longer */

static const struct hpl_p11_tier *const tiers[] = {&hpl_p11_tier_gcm, &hpl_p11_tier_cbc, &hpl_p11_tier_oaep};

const struct hpl_p11_tier *hpl_p11_tier_of(uint8_t mechanism)
{
    for (size_t i = 0; i < HPL_COUNT(tiers); i++)
        if (tiers[i]->mechanism == mechanism)
            return tiers[i];
    return NULL;
}

unsigned hpl_p11_kinds_of(uint32_t mechanisms)
{
    unsigned kinds = 0;
    for (size_t i = 0; i < HPL_COUNT(tiers); i++)
        if (mechanisms & 1u << tiers[i]->mechanism)
            kinds |= tiers[i]->kinds;
    return kinds;
}

/* --- negotiation ------------------------------------------------------------------------------------------------------------------ */

struct trial {
    CK_FUNCTION_LIST *fn;
    CK_SLOT_ID slot;
    const struct hpl_p11_tier *tier;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    bool did_seal;  /* said CKR_OK at least once */
    CK_RV rv;       /* of the last attempt to seal, or what was trouble with the token */
    const char *function;
    bool is_in_trouble;
};

static const uint8_t known[32] = "hardplate asks: who makes the IV";

/* Codes that never mean "cannot do that". What else a token says of an IV that it does not want may be anything (NSS: CKR_HOST_MEMORY). */
static bool is_trouble(CK_RV rv)
{
    enum hpl_p11_class class = hpl_p11_classify(rv);
    return rv == CKR_DEVICE_ERROR || rv == CKR_DEVICE_REMOVED || rv == CKR_DEVICE_MEMORY || rv == CKR_TOKEN_NOT_PRESENT || rv == CKR_SESSION_COUNT ||
           class == HPL_P11_SESSION || class == HPL_P11_HANDLE || class == HPL_P11_LOGIN;
}

static void note(struct trial *trial, const char *function, CK_RV rv, bool is_in_trouble)
{
    if (trial->is_in_trouble)
        return;
    trial->rv = rv;
    trial->function = function;
    trial->is_in_trouble = is_in_trouble;
}

/* Each step in a session of its own: a failure may leave one busy. */
static bool open_trial(struct trial *trial, struct hpl_p11_io *io)
{
    *io = (struct hpl_p11_io){.fn = trial->fn, .id = "the ID of a trial..", .aad = "the context of a trial, 32 bytes"};
    memcpy(io->handles, trial->handles, sizeof io->handles);
    CK_RV rv = trial->fn->C_OpenSession(trial->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &io->session);
    if (rv != CKR_OK)
        note(trial, "C_OpenSession", rv, true);
    return rv == CKR_OK;
}

static bool trial_seal(struct trial *trial, enum hpl_p11_iv_mode variant, struct hpl_wrapped *out)
{
    struct hpl_p11_io io;
    if (!open_trial(trial, &io))
        return false;
    CK_RV rv = trial->tier->seal(&io, variant, hpl_bytes(known, sizeof known), out);
    trial->fn->C_CloseSession(io.session);
    trial->did_seal |= rv == CKR_OK;
    note(trial, io.function, rv, is_trouble(rv));
    return rv == CKR_OK && io.is_as_said;
}

enum outcome { OPENED, REFUSED, NEITHER };

static enum outcome trial_open(struct trial *trial, const struct hpl_wrapped *wrapped, uint8_t flip_aad)
{
    struct hpl_p11_io io;
    uint8_t out[ROOM];
    CK_ULONG len = sizeof out;
    if (!open_trial(trial, &io))
        return NEITHER;
    io.aad[0] ^= flip_aad;
    CK_RV rv = trial->tier->open(&io, wrapped, out, &len);
    trial->fn->C_CloseSession(io.session);
    if (is_trouble(rv))
        note(trial, io.function, rv, true);
    if (rv != CKR_OK)
        return REFUSED;
    return len == sizeof known && memcmp(out, known, sizeof known) == 0 ? OPENED : NEITHER;
}

static bool is_refused_when_changed(struct trial *trial, const struct hpl_wrapped *wrapped)
{
    struct hpl_wrapped tag = *wrapped, first = *wrapped, iv = *wrapped;
    tag.ct[tag.ct_len - 1] ^= 1;
    first.ct[0] ^= 1;
    iv.iv[iv.iv_len - 1] ^= 1;
    return trial_open(trial, wrapped, 1) == REFUSED && trial_open(trial, &tag, 0) == REFUSED && trial_open(trial, &first, 0) == REFUSED &&
           trial_open(trial, &iv, 0) == REFUSED;
}

/* Opens what it sealed, and nothing that was changed: tag, IV, context, any length that a forger might choose. */
static bool is_sound(struct trial *trial, const struct hpl_wrapped *wrapped)
{
    const uint16_t lengths[] = {0, 1, 12, 15, 16, 17, 27, (uint16_t)(wrapped->ct_len - 1)};
    struct hpl_wrapped cut = *wrapped;
    bool does_open = trial_open(trial, wrapped, 0) == OPENED || trial_open(trial, wrapped, 0) == OPENED; /* once may be a moment's fault */
    if (!does_open || !is_refused_when_changed(trial, wrapped))
        return false;
    for (size_t i = 0; i < HPL_COUNT(lengths); i++) {
        cut.ct_len = lengths[i];
        if (trial_open(trial, &cut, 0) != REFUSED)
            return false;
    }
    return true;
}

/* A second time when it says neither yes nor "cannot do that": once may be a moment's fault. */
static bool does_seal(struct trial *trial, enum hpl_p11_iv_mode variant, struct hpl_wrapped *out)
{
    bool is_well = trial_seal(trial, variant, out);
    if (is_well || trial->is_in_trouble || trial->rv == CKR_OK || hpl_p11_classify(trial->rv) == HPL_P11_CONFIG)
        return is_well;
    return trial_seal(trial, variant, out);
}

static bool can_use(struct trial *trial, enum hpl_p11_iv_mode variant)
{
    struct hpl_wrapped one = {0}, two = {0};
    if (!does_seal(trial, variant, &one) || !does_seal(trial, variant, &two))
        return false;
    bool do_differ = memcmp(one.iv, two.iv, LEAST) != 0 && memcmp(one.ct, two.ct, LEAST) != 0;
    return do_differ && is_sound(trial, &one) && is_sound(trial, &two);
}

/* The local file may say which; NULL and "auto" leave it open. */
static bool is_wanted(const char *wanted, const char *name)
{
    return !wanted || strcmp(wanted, "auto") == 0 || strcmp(wanted, name) == 0;
}

static bool is_variant_wanted(const struct hpl_token_option *option, const struct hpl_p11_tier *tier, enum hpl_p11_iv_mode variant)
{
    return tier != &hpl_p11_tier_gcm || is_wanted(option->iv_mode, hpl_p11_iv_mode_name(variant));
}

/* "Cannot do that" leads to the next tier; trouble with the token must not, or a moment's fault would pin a lesser one. */
static enum hpl_status judge_trial(struct hpl_p11_op *op, const struct trial *trial)
{
    enum hpl_p11_class class = hpl_p11_classify(trial->rv);
    if (!trial->is_in_trouble && (class == HPL_P11_NONE || class == HPL_P11_CONFIG || class == HPL_P11_CALLER))
        return HPL_OK;
    op->class = class;
    return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "the trial of %s on token '%s' ended with %s of %s: if it cannot do that, name its mechanism in the local configuration file",
                    hpl_p11_mechanism_name(trial->tier->mechanism), op->direct->token.facts.label, hpl_p11_rv_name(trial->rv), trial->function);
}

/* *is_liar: it sealed, and in no way that can be believed. */
static enum hpl_status try_tier(struct hpl_p11_op *op, const struct hpl_p11_tier *tier, enum hpl_p11_iv_mode *found, bool *is_liar)
{
    struct trial trial = {.fn = op->fn, .slot = op->direct->token.slot, .tier = tier};
    bool was_made = false;
    *found = HPL_P11_IV_NONE;
    HPL_TRY(hpl_p11_make_trial(op, tier, trial.handles, &was_made));
    for (const enum hpl_p11_iv_mode *variant = tier->variants; was_made && *variant != HPL_P11_IV_NONE && *found == HPL_P11_IV_NONE && !trial.is_in_trouble; variant++)
        if (is_variant_wanted(op->direct->place->option, tier, *variant) && can_use(&trial, *variant))
            *found = *variant;
    *is_liar = *found == HPL_P11_IV_NONE && trial.did_seal;
    if (was_made)
        HPL_TRY(hpl_p11_destroy_trial(op, trial.handles));
    return (*found == HPL_P11_IV_NONE || trial.is_in_trouble) && was_made ? judge_trial(op, &trial) : HPL_OK;
}

/* A liar in one tier is trusted with no other, unless the local file names that. */
enum hpl_status hpl_p11_negotiate(struct hpl_p11_op *op)
{
    struct hpl_p11_direct *direct = op->direct;
    const struct hpl_token_option *option = direct->place->option;
    enum hpl_p11_iv_mode found = HPL_P11_IV_NONE;
    bool is_liar = false;
    for (size_t i = 0; i < HPL_COUNT(tiers) && found == HPL_P11_IV_NONE && !is_liar; i++) {
        if (!is_wanted(option->mechanism, hpl_p11_mechanism_name(tiers[i]->mechanism)))
            continue;
        HPL_TRY(try_tier(op, tiers[i], &found, &is_liar));
        direct->tier = tiers[i];
    }
    direct->iv_mode = found;
    if (found != HPL_P11_IV_NONE)
        return HPL_OK;
    return hpl_fail(op->call, HPL_INVALID_CONFIGURATION,
                    "token '%s' passed no trial of mechanism %s%s: it cannot be used as the local configuration file says", direct->token.facts.label,
                    option->mechanism ? option->mechanism : "auto (aes-gcm, aes-cbc-hmac, rsa-oaep)",
                    is_liar ? ", and said CKR_OK to what was wrong" : "");
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

static struct hpl_p11_io io_of(struct hpl_p11_op *op, const struct hpl_p11_key *key, const CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS],
                               const uint8_t aad[static HPL_WRAP_AAD_LEN])
{
    struct hpl_p11_io io = {.fn = op->fn, .session = op->handle};
    memcpy(io.handles, handles, sizeof io.handles);
    memcpy(io.id, key->id, sizeof io.id);
    memcpy(io.aad, aad, sizeof io.aad);
    return io;
}

enum hpl_status hpl_p11_wrap(struct hpl_p11_op *op, const struct hpl_p11_key *key, const CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS],
                             const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_bytes secret, struct hpl_wrapped *out)
{
    struct hpl_p11_direct *direct = op->direct;
    struct hpl_p11_io io = io_of(op, key, handles, aad);
    const char *label = direct->token.facts.label;
    HPL_CHECK(secret.len >= HPL_P11_SECRET_MIN && secret.len <= HPL_P11_SECRET_MAX);
    memset(out, 0, sizeof *out);
    if (atomic_load(&direct->is_latched))
        return hpl_fail(op->call, HPL_INTEGRITY, "an IV of token '%s' came twice: no more wraps until it is replaced", label);
    CK_RV rv = direct->tier->seal(&io, direct->iv_mode, secret, out);
    bool is_well = rv == CKR_OK && io.is_as_said && is_new_iv(op->session, out);
    if (is_well)
        return HPL_OK;
    memset(out, 0, sizeof *out);
    HPL_TRY(hpl_p11_check(op, io.function, rv));
    atomic_store(&direct->is_latched, true);
    hpl_log(HPL_LOG_ERROR, "pkcs11.iv_repeated", HPL_S("token", label), HPL_S("iv_mode", hpl_p11_iv_mode_name(direct->iv_mode)));
    return hpl_fail(op->call, HPL_INTEGRITY, "token '%s' gave an IV that is not fresh: no more wraps until it is replaced", label);
}

/* What a failed C_Decrypt means: some tokens name the ciphertext, some only say GENERAL_ERROR (SoftHSM) or FUNCTION_FAILED (nShield).
 * After a MAC or a tag that was right it is never the ciphertext. */
static enum hpl_status judge_open(struct hpl_p11_op *op, const struct hpl_p11_io *io, CK_RV rv)
{
    bool was_decrypt = strcmp(io->function, "C_Decrypt") == 0 && !io->is_proven;
    enum hpl_status status = hpl_p11_check(op, io->function, rv);
    if (was_decrypt && op->class == HPL_P11_CALLER) {
        op->call->detail[0] = '\0';
        return HPL_INVALID_CIPHERTEXT;
    }
    if (was_decrypt && (rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED))
        op->class = HPL_P11_AMBIGUOUS;
    return status;
}

enum hpl_status hpl_p11_unwrap(struct hpl_p11_op *op, const struct hpl_p11_key *key, const CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS],
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO room = hpl_secret_new(wrapped->ct_len + SPARE);
    const struct hpl_p11_tier *tier = hpl_p11_tier_of(wrapped->mechanism);
    struct hpl_p11_io io = io_of(op, key, handles, aad);
    CK_ULONG len = wrapped->ct_len + SPARE;
    *out = NULL;
    if (!room || !tier)
        return room ? HPL_INVALID_CIPHERTEXT : hpl_fail(op->call, HPL_NO_MEMORY, "the secret region is full");
    CK_RV rv = tier->open(&io, wrapped, room->bytes, &len);
    if (rv != CKR_OK)
        return judge_open(op, &io, rv);
    if (len < HPL_P11_SECRET_MIN || len > HPL_P11_SECRET_MAX)
        return hpl_fail(op->call, HPL_BACKEND, "C_Decrypt gave %lu bytes, which no secret has", (unsigned long)len);
    *out = hpl_secret_from(room->bytes, len);
    return *out ? HPL_OK : hpl_fail(op->call, HPL_NO_MEMORY, "the secret region is full");
}
