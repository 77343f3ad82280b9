/* CKM_AES_GCM: what the token does with every way of giving an IV, how it refuses what was changed, what context it takes. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include <stdlib.h>
#include <openssl/rand.h>

#define TAG_LEN 16u

static const uint8_t known[HPL_PROBE_SECRET_LEN] = "a conformance probe's 32 bytes.";
static const uint8_t context[HPL_WRAP_AAD_LEN] = "a conformance probe's context..";

struct sealed {
    uint8_t iv[16], ct[HPL_PROBE_ROOM];
    size_t iv_len;
    CK_ULONG ct_len; /* with the tag */
};

struct gcm {
    CK_GCM_PARAMS params;
    CK_MECHANISM mechanism;
};

static void gcm_init(struct gcm *gcm, uint8_t *iv, size_t iv_len, const uint8_t *aad, size_t aad_len)
{
    gcm->params = (CK_GCM_PARAMS){.pIv = iv_len ? iv : NULL, .ulIvLen = iv_len, .ulIvBits = iv_len * 8, .pAAD = (CK_BYTE_PTR)aad,
                                  .ulAADLen = aad_len, .ulTagBits = TAG_LEN * 8};
    gcm->mechanism = (CK_MECHANISM){CKM_AES_GCM, &gcm->params, sizeof gcm->params};
}

static CK_RV encrypt(struct hpl_probe *probe, CK_SESSION_HANDLE session, struct gcm *gcm, const uint8_t *secret, struct sealed *out,
                     const char **function)
{
    out->ct_len = sizeof out->ct;
    *function = "C_EncryptInit";
    CK_RV rv = probe->fn->C_EncryptInit(session, &gcm->mechanism, probe->key);
    if (rv != CKR_OK)
        return rv;
    *function = "C_Encrypt";
    return probe->fn->C_Encrypt(session, (CK_BYTE_PTR)secret, HPL_PROBE_SECRET_LEN, out->ct, &out->ct_len);
}

static CK_RV decrypt(struct hpl_probe *probe, CK_SESSION_HANDLE session, const struct sealed *sealed, const uint8_t *aad, size_t aad_len,
                     size_t ct_len, uint8_t *out, CK_ULONG *out_len, const char **function)
{
    struct gcm gcm;
    uint8_t iv[16];
    memcpy(iv, sealed->iv, sizeof iv);
    gcm_init(&gcm, iv, sealed->iv_len, aad, aad_len);
    *function = "C_DecryptInit";
    CK_RV rv = probe->fn->C_DecryptInit(session, &gcm.mechanism, probe->key);
    if (rv != CKR_OK)
        return rv;
    *function = "C_Decrypt";
    return probe->fn->C_Decrypt(session, (CK_BYTE_PTR)sealed->ct, ct_len, out, out_len);
}

/* As the backend would use this token. */
static CK_RV seal(struct hpl_probe *probe, CK_SESSION_HANDLE session, struct sealed *out)
{
    struct gcm gcm;
    const char *function;
    *out = (struct sealed){.iv_len = probe->gcm_mode == HPL_P11_IV_APPENDED ? 0 : 12};
    if (probe->gcm_mode == HPL_P11_IV_CALLER && RAND_bytes(out->iv, 12) != 1)
        return CKR_RANDOM_NO_RNG;
    gcm_init(&gcm, out->iv, out->iv_len, context, sizeof context);
    CK_RV rv = encrypt(probe, session, &gcm, known, out, &function);
    size_t sealed_len = HPL_PROBE_SECRET_LEN + TAG_LEN;
    if (rv != CKR_OK || probe->gcm_mode != HPL_P11_IV_APPENDED)
        return rv;
    if (out->ct_len < sealed_len + 12 || out->ct_len > sealed_len + 16)
        return CKR_GENERAL_ERROR;
    out->iv_len = out->ct_len - sealed_len;
    memcpy(out->iv, out->ct + sealed_len, out->iv_len);
    out->ct_len = sealed_len;
    return rv;
}

/* --- the trials of IVs ------------------------------------------------------------------------------------------------------- */

struct plan {
    const char *name;
    size_t iv_len;
    bool is_random, is_without_bits;
};

static const struct plan plans[] = {
    {"an IV of 12 zero bytes", 12, false, false},
    {"no IV at all", 0, false, false},
    {"a random IV of 12 bytes", 12, true, false},
    {"a random IV of 12 bytes, ulIvBits 0", 12, true, true},
    {"a random IV of 16 bytes", 16, true, false},
};

static CK_RV try_once(struct hpl_probe *probe, const struct plan *plan, struct sealed *out, bool *is_iv_kept, json_t *calls)
{
    struct gcm gcm;
    CK_SESSION_HANDLE session;
    uint8_t given[16] = {0};
    const char *function = "C_OpenSession";
    *out = (struct sealed){.iv_len = plan->iv_len};
    if (plan->is_random && RAND_bytes(given, (int)plan->iv_len) != 1)
        return CKR_RANDOM_NO_RNG;
    memcpy(out->iv, given, sizeof given);
    gcm_init(&gcm, out->iv, plan->iv_len, context, sizeof context);
    if (plan->is_without_bits)
        gcm.params.ulIvBits = 0;
    CK_RV rv = hpl_probe_open(probe, &session);
    if (rv == CKR_OK) {
        rv = encrypt(probe, session, &gcm, known, out, &function);
        hpl_probe_close(probe, session);
    }
    *is_iv_kept = memcmp(out->iv, given, sizeof given) == 0;
    return hpl_probe_note(calls, function, rv);
}

/* With the IV where it seems to be: in pIv, or behind the tag. */
static bool does_open(struct hpl_probe *probe, const struct sealed *sealed, bool is_behind, json_t *calls)
{
    struct sealed again = *sealed;
    CK_SESSION_HANDLE session;
    uint8_t out[HPL_PROBE_ROOM];
    CK_ULONG out_len = sizeof out;
    const char *function;
    size_t sealed_len = HPL_PROBE_SECRET_LEN + TAG_LEN;
    if (is_behind) {
        again.iv_len = sealed->ct_len - sealed_len <= 16 ? sealed->ct_len - sealed_len : 16;
        memcpy(again.iv, sealed->ct + sealed_len, again.iv_len);
        again.ct_len = sealed_len;
    }
    if (hpl_probe_open(probe, &session) != CKR_OK)
        return false;
    CK_RV rv = decrypt(probe, session, &again, context, sizeof context, again.ct_len, out, &out_len, &function);
    hpl_probe_note(calls, function, rv);
    hpl_probe_close(probe, session);
    return rv == CKR_OK && out_len == sizeof known && memcmp(out, known, sizeof known) == 0;
}

static const char *conclude(const struct plan *plan, const struct sealed two[2], const bool kept[2], bool is_behind, bool opens)
{
    bool same = memcmp(two[0].ct, two[1].ct, HPL_PROBE_SECRET_LEN + TAG_LEN) == 0;
    if (two[0].ct_len < HPL_PROBE_SECRET_LEN + TAG_LEN)
        return "too short an answer";
    if (!opens)
        return "what it sealed does not open";
    if (same)
        return "DANGEROUS: the same ciphertext twice, the IV was taken as it stood";
    if (is_behind)
        return "the token made the IV and put it behind the tag";
    if (!kept[0] && !kept[1])
        return "the token made the IV and wrote it into pIv";
    return plan->is_random ? "the caller's IV was used" : "not understood: the ciphertexts differ, the IVs do not";
}

static json_t *try_plan(struct hpl_probe *probe, const struct plan *plan)
{
    json_t *calls = json_array();
    struct sealed two[2];
    bool kept[2];
    CK_RV rv = try_once(probe, plan, &two[0], &kept[0], calls);
    if (rv == CKR_OK)
        rv = try_once(probe, plan, &two[1], &kept[1], calls);
    if (rv != CKR_OK)
        return json_pack("{s:s, s:o, s:s}", "trial", plan->name, "calls", calls, "conclusion", "refused");
    bool is_behind = two[0].ct_len > HPL_PROBE_SECRET_LEN + TAG_LEN;
    bool opens = two[0].ct_len >= HPL_PROBE_SECRET_LEN + TAG_LEN && does_open(probe, &two[0], is_behind, calls);
    return json_pack("{s:s, s:o, s:b, s:I, s:s}", "trial", plan->name, "calls", calls, "iv_buffer_changed", !kept[0], "extra_bytes",
                     (json_int_t)two[0].ct_len - (json_int_t)(HPL_PROBE_SECRET_LEN + TAG_LEN), "conclusion",
                     conclude(plan, two, kept, is_behind, opens));
}

/* --- what it says to what was changed ------------------------------------------------------------------------------------------ */

enum change { NOTHING, CONTEXT, TAG, IV, CIPHERTEXT };

static struct sealed changed(const struct sealed *sealed, enum change change)
{
    struct sealed copy = *sealed;
    copy.ct[sealed->ct_len - 1] ^= change == TAG;
    copy.ct[0] ^= change == CIPHERTEXT;
    copy.iv[0] ^= change == IV;
    return copy;
}

/* What C_Decrypt says, and what the same session says to the next encryption, with the IV as this token wants it. */
static json_t *ask_refusal(struct hpl_probe *probe, const char *name, const struct sealed *sealed, enum change change, size_t ct_len)
{
    struct sealed copy = changed(sealed, change), next;
    CK_SESSION_HANDLE session;
    uint8_t aad[sizeof context], out[HPL_PROBE_ROOM];
    CK_ULONG out_len = sizeof out;
    const char *function = "C_OpenSession";
    memcpy(aad, context, sizeof aad);
    aad[0] ^= change == CONTEXT;
    CK_RV rv = hpl_probe_open(probe, &session), after = rv;
    if (rv == CKR_OK) {
        rv = decrypt(probe, session, &copy, aad, sizeof aad, ct_len, out, &out_len, &function);
        after = seal(probe, session, &next);
        hpl_probe_close(probe, session);
    }
    bool was_refused = rv != CKR_OK;
    json_t *row = json_pack("{s:s, s:s, s:o, s:b, s:o}", "changed", name, "function", function, "code", hpl_probe_code(rv), "refused", was_refused,
                            "session_after", hpl_probe_code(after));
    hpl_wipe(out, sizeof out);
    return row;
}

static json_t *ask_refusals(struct hpl_probe *probe, const struct sealed *sealed)
{
    static const size_t lengths[] = {0, 1, 12, 15, 16, 17, 27};
    json_t *rows = json_array();
    json_array_append_new(rows, ask_refusal(probe, "nothing", sealed, NOTHING, sealed->ct_len));
    json_array_append_new(rows, ask_refusal(probe, "the context", sealed, CONTEXT, sealed->ct_len));
    json_array_append_new(rows, ask_refusal(probe, "the tag", sealed, TAG, sealed->ct_len));
    json_array_append_new(rows, ask_refusal(probe, "the IV", sealed, IV, sealed->ct_len));
    json_array_append_new(rows, ask_refusal(probe, "the ciphertext", sealed, CIPHERTEXT, sealed->ct_len));
    for (size_t i = 0; i < HPL_COUNT(lengths); i++) {
        char name[48];
        snprintf(name, sizeof name, "cut to %zu bytes", lengths[i]);
        json_array_append_new(rows, ask_refusal(probe, name, sealed, NOTHING, lengths[i]));
    }
    return rows;
}

static json_t *ask_contexts(struct hpl_probe *probe)
{
    static const size_t lengths[] = {0, 1, 32, 4096, 65536};
    json_t *rows = json_array();
    uint8_t *aad = calloc(1, 65536);
    for (size_t i = 0; aad && i < HPL_COUNT(lengths); i++) {
        struct gcm gcm;
        struct sealed sealed = {.iv_len = 12};
        CK_SESSION_HANDLE session;
        const char *function = "C_OpenSession";
        CK_RV rv = hpl_probe_open(probe, &session);
        if (rv == CKR_OK) {
            if (probe->gcm_mode == HPL_P11_IV_CALLER && RAND_bytes(sealed.iv, 12) != 1)
                rv = CKR_RANDOM_NO_RNG;
            gcm_init(&gcm, sealed.iv, probe->gcm_mode == HPL_P11_IV_APPENDED ? 0 : 12, aad, lengths[i]);
            rv = rv == CKR_OK ? encrypt(probe, session, &gcm, known, &sealed, &function) : rv;
            hpl_probe_close(probe, session);
        }
        json_array_append_new(rows, json_pack("{s:I, s:s, s:o}", "bytes", (json_int_t)lengths[i], "function", function, "code", hpl_probe_code(rv)));
    }
    free(aad);
    return rows;
}

json_t *hpl_probe_gcm(struct hpl_probe *probe)
{
    json_t *trials = json_array();
    struct sealed sealed;
    CK_SESSION_HANDLE session;
    for (size_t i = 0; i < HPL_COUNT(plans); i++)
        json_array_append_new(trials, try_plan(probe, &plans[i]));
    json_t *answer = json_pack("{s:o}", "iv_trials", trials);
    if (probe->gcm_mode == HPL_P11_IV_NONE || hpl_probe_open(probe, &session) != CKR_OK)
        return answer;
    CK_RV rv = seal(probe, session, &sealed);
    hpl_probe_close(probe, session);
    if (rv != CKR_OK)
        return answer;
    json_object_set_new(answer, "refusals", ask_refusals(probe, &sealed));
    json_object_set_new(answer, "context_lengths", ask_contexts(probe));
    return answer;
}
