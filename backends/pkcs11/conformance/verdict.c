/* What the answers mean for this program: which tier it would use, what it would refuse and why, what its operator should know. Pure. */
#include "backends/pkcs11/conformance/probe.h"

static const json_t *at(const json_t *object, const char *name)
{
    return json_object_get(object, name);
}

static const char *text_at(const json_t *object, const char *name)
{
    const char *text = json_string_value(at(object, name));
    return text ? text : "";
}

static bool is_ok(const json_t *code)
{
    return json_is_string(code) && strcmp(json_string_value(code), "CKR_OK") == 0;
}

static void say(json_t *list, const char *fmt, ...) HPL_PRINTF(2, 3);
static void say(json_t *list, const char *fmt, ...)
{
    struct hpl_buf text = {0};
    char room[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(room, sizeof room, fmt, args);
    va_end(args);
    hpl_buf_put_str(&text, room);
    json_array_append_new(list, json_stringn((const char *)text.data, text.len));
    hpl_buf_wipe(&text);
}

/* The first row of a list that works, and the text it is known by. */
static const char *first_working(const json_t *rows, const char *name)
{
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)rows, i, row)
        if (json_is_true(at(row, "works")))
            return text_at(row, name);
    return NULL;
}

static const json_t *refusal(const json_t *report, const char *changed)
{
    size_t i;
    json_t *row;
    json_array_foreach(at(at(report, "aes_gcm"), "refusals"), i, row)
        if (strcmp(text_at(row, "changed"), changed) == 0)
            return row;
    return NULL;
}

/* --- what must not be ------------------------------------------------------------------------------------------------------------ */

static void judge_keys(const json_t *report, json_t *refused)
{
    const json_t *read = at(at(report, "attributes"), "read"), *changed = at(at(report, "attributes"), "changed");
    if (!at(report, "attributes"))
        return;
    if (is_ok(at(read, "CKA_VALUE")))
        say(refused, "the bytes of a sensitive key can be read (CKA_VALUE): keys in this token are not protected");
    if (!json_is_true(at(read, "CKA_SENSITIVE")) || !json_is_false(at(read, "CKA_EXTRACTABLE")))
        say(refused, "a key made SENSITIVE and not EXTRACTABLE does not read back so: such keys are not used");
    if (is_ok(at(changed, "CKA_EXTRACTABLE to true")) || is_ok(at(changed, "CKA_SENSITIVE to false")))
        say(refused, "SENSITIVE or EXTRACTABLE of a key can be turned back: whoever has the PIN can take keys out");
}

static void judge_ivs(const json_t *report, json_t *refused, json_t *remarks)
{
    size_t i;
    json_t *row;
    json_array_foreach(at(at(report, "aes_gcm"), "iv_trials"), i, row)
        if (strncmp(text_at(row, "conclusion"), "DANGEROUS", 9) == 0)
            say(remarks, "%s is answered with CKR_OK and used as it stands; software that lets this token make the IV would reuse nonces", text_at(row, "trial"));
    json_array_foreach(at(at(report, "aes_gcm"), "refusals"), i, row)
        if (strcmp(text_at(row, "changed"), "nothing") != 0 && !json_is_true(at(row, "refused")))
            say(refused, "AES-GCM opened although %s was changed: this is no authenticated encryption", text_at(row, "changed"));
    json_array_foreach(at(report, "load"), i, row) {
        if (json_integer_value(at(row, "repeated_ivs")) > 0)
            say(refused, "IVs came twice under %lld threads: its generator is broken", (long long)json_integer_value(at(row, "threads")));
        if (json_integer_value(at(row, "wrong_plaintexts")) > 0)
            say(refused, "what was unwrapped under %lld threads was not what was wrapped", (long long)json_integer_value(at(row, "threads")));
    }
    if (json_is_true(at(at(report, "random"), "repeated_itself")))
        say(refused, "C_GenerateRandom gave the same 32 bytes twice in a row");
}

/* --- what its operator should know ------------------------------------------------------------------------------------------------ */

static void remark_codes(const json_t *report, json_t *remarks)
{
    const json_t *tag = refusal(report, "the tag");
    const char *code = text_at(tag, "code"), *after = text_at(tag, "session_after");
    if (!tag)
        return;
    if (strcmp(code, "CKR_ENCRYPTED_DATA_INVALID") == 0 || strcmp(code, "CKR_ENCRYPTED_DATA_LEN_RANGE") == 0)
        say(remarks, "a damaged ciphertext is named as such (%s)", code);
    else
        say(remarks, "a damaged ciphertext answers %s, which a dead token could say too: the canary tells them apart", code);
    if (*after && strcmp(after, "CKR_OK") != 0)
        say(remarks, "after a refusal the session answers %s: it has to be closed, which hardplate always does", after);
}

static void remark_objects(const json_t *report, json_t *remarks)
{
    const json_t *attributes = at(report, "attributes"), *find = at(at(report, "find"), "one_by_id");
    if (is_ok(at(attributes, "C_WrapKey of a non-extractable key")))
        say(remarks, "C_WrapKey carried out a key that is not extractable: whoever has the PIN can take keys out of this token");
    if (json_is_false(at(at(attributes, "CKA_ALLOWED_MECHANISMS"), "enforced")))
        say(remarks, "CKA_ALLOWED_MECHANISMS is taken but not enforced");
    if (json_real_value(at(find, "median_ms")) > 5)
        say(remarks, "finding one key takes %.1f ms: handles are kept, so this costs only after a reconnect", json_real_value(at(find, "median_ms")));
    if (json_is_true(at(at(report, "throw_away_key"), "lies_in_token")))
        say(remarks, "there are no session objects: trials at each start make and destroy a key in the token");
}

static void remark_load(const json_t *report, json_t *remarks)
{
    size_t i;
    json_t *row;
    double best = 0, alone = 0;
    json_array_foreach(at(report, "load"), i, row)
    {
        double rate = json_number_value(at(at(row, "wraps"), "a_second"));
        alone = i == 0 ? rate : alone;
        best = rate > best ? rate : best;
        if (json_array_size(at(row, "failures")))
            say(remarks, "calls failed under %lld threads: see load", (long long)json_integer_value(at(row, "threads")));
    }
    if (alone > 0)
        say(remarks, "at best %.0f wraps a second, %.1f times those of one thread", best, best / alone);
    if (json_integer_value(at(at(report, "sessions"), "opened")) < (json_int_t)HPL_P11_MAX_SESSIONS)
        say(remarks, "gives %lld sessions beside the first: set max_sessions below that, shared by all that use the token",
            (long long)json_integer_value(at(at(report, "sessions"), "opened")));
}

json_t *hpl_probe_verdict(const json_t *report)
{
    json_t *refused = json_array(), *remarks = json_array();
    const json_t *choice = at(at(report, "negotiation"), "choice");
    bool has_choice = json_is_true(at(choice, "usable"));
    judge_keys(report, refused);
    judge_ivs(report, refused, remarks);
    if (!has_choice)
        say(refused, "%s", text_at(choice, "said"));
    if (!first_working(at(report, "hmac_sha256"), "key_type"))
        say(refused, "no HMAC-SHA256 key works: the records of the keys could not be authenticated");
    if (!json_is_true(at(at(report, "throw_away_key"), "works")))
        say(refused, "no throw-away key could be made, so little was asked; with --token-objects one that lies in the token for a moment will do");
    if (at(report, "token_object") && !json_is_true(at(at(report, "token_object"), "works")))
        say(refused, "no AES key could be made in the token: master keys would have to be made by hand");
    remark_codes(report, remarks);
    remark_objects(report, remarks);
    remark_load(report, remarks);
    bool is_usable = json_array_size(refused) == 0;
    return json_pack("{s:b, s:s?, s:s?, s:o, s:o}", "usable", is_usable, "would_use", is_usable ? text_at(choice, "mechanism") : NULL, "how",
                     is_usable ? text_at(choice, "how") : NULL, "refused_because", refused, "remarks", remarks);
}
