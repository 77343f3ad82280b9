/* The prober's course: in through the backend's own module, token and PIN doors, one step after the other, and out. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"

#define REPORT_FORMAT 1

/* --- what the steps share ------------------------------------------------------------------------------------------------------ */

CK_RV hpl_probe_note(json_t *calls, const char *function, CK_RV rv)
{
    json_array_append_new(calls, json_pack("{s:s, s:o}", "function", function, "code", hpl_probe_code(rv)));
    return rv;
}

CK_RV hpl_probe_open(struct hpl_probe *probe, CK_SESSION_HANDLE *session)
{
    return probe->fn->C_OpenSession(probe->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, session);
}

void hpl_probe_close(struct hpl_probe *probe, CK_SESSION_HANDLE session)
{
    (void)probe->fn->C_CloseSession(session);
}

double hpl_probe_ms(uint64_t since_ns)
{
    return (double)((hpl_clock_mono_ns() - since_ns) / 1000u) / 1000.0;
}

void hpl_probe_put(struct hpl_probe *probe, const char *step, json_t *answer)
{
    json_object_set_new(probe->report, step, answer ? answer : json_null());
}

CK_RV hpl_probe_new_key(struct hpl_probe *probe, const CK_ATTRIBUTE *extra, CK_ULONG num_extra, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ULONG len = 32;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE, lies_in_token = probe->is_token_key;
    CK_ATTRIBUTE template[16] = {{CKA_CLASS, &class, sizeof class},        {CKA_KEY_TYPE, &type, sizeof type},
                                 {CKA_VALUE_LEN, &len, sizeof len},        {CKA_TOKEN, &lies_in_token, sizeof lies_in_token},
                                 {CKA_SENSITIVE, &yes, sizeof yes},        {CKA_EXTRACTABLE, &no, sizeof no},
                                 {CKA_ENCRYPT, &yes, sizeof yes},          {CKA_DECRYPT, &yes, sizeof yes},
                                 {CKA_LABEL, (void *)"hpl/probe", 9},              {CKA_ID, (void *)"hpl-probe", 9}};
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    HPL_CHECK(num_extra <= 6);
    for (CK_ULONG i = 0; i < num_extra; i++)
        template[10 + i] = extra[i];
    return probe->fn->C_GenerateKey(probe->anchor, &mechanism, template, 10 + num_extra, key);
}

void hpl_probe_drop_key(struct hpl_probe *probe, CK_OBJECT_HANDLE key)
{
    (void)probe->fn->C_DestroyObject(probe->anchor, key);
}

/* --- in ------------------------------------------------------------------------------------------------------------------------- */

/* Keys the digests of refused PINs; made at first use. */
static enum hpl_status latch_key(struct hpl_call *call, const char *dir, struct hpl_secret **out)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/latch.key", dir) >= (int)sizeof path)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the state folder's path is too long");
    if (access(path, F_OK) != 0) {
        struct hpl_secret *HPL_SECRET_AUTO fresh = hpl_secret_random(32);
        if (!fresh)
            return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
        HPL_TRY(hpl_file_replace(call, path, hpl_bytes(fresh->bytes, fresh->len), 0600));
    }
    return hpl_file_read_secret(call, path, 32, false, out);
}

static json_t *made_json(const struct hpl_p11_conformance *asked)
{
    char now[40];
    hpl_time_text(now, hpl_clock_unix_ms(), HPL_TIME_ISO_S);
    return json_pack("{s:s, s:s, s:s, s:s?, s:i, s:b, s:i}", "hardplate", HPL_VERSION, "at", now, "uri", asked->token.uri, "module", asked->token.module,
                     "seconds_of_load", (int)asked->seconds, "token_objects_allowed", asked->may_make_token_objects, "processors",
                     (int)sysconf(_SC_NPROCESSORS_ONLN));
}

static enum hpl_status make_key(struct hpl_probe *probe)
{
    json_t *calls = json_array();
    CK_RV rv = hpl_probe_note(calls, "C_GenerateKey of a session object", hpl_probe_new_key(probe, NULL, 0, &probe->key));
    if (rv != CKR_OK && probe->asked->may_make_token_objects) {
        probe->is_token_key = true;
        rv = hpl_probe_note(calls, "C_GenerateKey of a token object", hpl_probe_new_key(probe, NULL, 0, &probe->key));
    }
    probe->has_key = rv == CKR_OK;
    hpl_probe_put(probe, "throw_away_key", json_pack("{s:b, s:b, s:o}", "works", probe->has_key, "lies_in_token", probe->is_token_key, "calls", calls));
    return HPL_OK;
}

/* --- the course --------------------------------------------------------------------------------------------------------------------- */

struct step {
    const char *name;
    json_t *(*ask)(struct hpl_probe *probe);
    bool wants_key, wants_tier, wants_leave;
};

static const struct step steps[] = {
    {"negotiation", hpl_probe_negotiate, false, false, false},
    {"aes_gcm", hpl_probe_gcm, true, false, false},         {"aes_cbc", hpl_probe_cbc, true, false, false},
    {"hmac_sha256", hpl_probe_hmac, false, false, false},   {"rsa_oaep", hpl_probe_oaep, false, false, false},
    {"attributes", hpl_probe_attributes, true, false, false}, {"find", hpl_probe_find, true, false, false},
    {"token_object", hpl_probe_token_object, false, false, true}, {"sessions", hpl_probe_sessions, false, false, false},
    {"random", hpl_probe_random, false, false, false},      {"load", hpl_probe_load, false, true, false},
};

static void ask_all(struct hpl_probe *probe)
{
    const struct hpl_p11_conformance *asked = probe->asked;
    for (size_t i = 0; i < HPL_COUNT(steps); i++) {
        bool can_ask = (!steps[i].wants_key || probe->has_key) && (!steps[i].wants_tier || probe->tier) &&
                       (!steps[i].wants_leave || asked->may_make_token_objects) && (steps[i].ask != hpl_probe_load || asked->seconds);
        if (can_ask && asked->progress)
            asked->progress(steps[i].name);
        if (can_ask)
            hpl_probe_put(probe, steps[i].name, steps[i].ask(probe));
    }
}

static enum hpl_status probe_token(struct hpl_probe *probe, const struct hpl_p11_login *login)
{
    CK_RV rv = hpl_probe_open(probe, &probe->anchor);
    if (rv != CKR_OK)
        return hpl_p11_fail(probe->call, "C_OpenSession", rv);
    enum hpl_status status = hpl_p11_login(probe->call, login, probe->anchor);
    if (status == HPL_OK) {
        hpl_probe_put(probe, "subject", hpl_probe_subject(probe));
        hpl_probe_put(probe, "mechanisms", hpl_probe_mechanisms(probe));
        json_t *answer = hpl_probe_login(probe);
        json_object_set_new(answer, "the_same_pin_again", hpl_probe_code(hpl_p11_login_again(probe->call, login, probe->anchor)));
        hpl_probe_put(probe, "login", answer);
        status = make_key(probe);
    }
    if (status == HPL_OK) {
        ask_all(probe);
        if (probe->has_key)
            hpl_probe_drop_key(probe, probe->key);
        hpl_probe_put(probe, "verdict", hpl_probe_verdict(probe->report));
    }
    hpl_probe_close(probe, probe->anchor);
    return status;
}

static enum hpl_status sign_off(struct hpl_call *call, const json_t *inner, json_t **report)
{
    struct hpl_buf text = {0};
    uint8_t digest[HPL_SHA256_LEN];
    char hex[2 * HPL_SHA256_LEN + 1];
    enum hpl_status status = hpl_json_put(&text, inner);
    if (status == HPL_OK) {
        hpl_sha256(digest, text.data, text.len);
        hpl_hex_encode(hex, digest, sizeof digest);
        *report = json_pack("{s:O, s:s}", "report", inner, "sha256", hex);
        status = *report ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "no memory for the report");
    }
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status run_in_module(struct hpl_probe *probe, struct hpl_p11_module *module, const struct hpl_p11_place *place)
{
    uint64_t generation;
    struct hpl_p11_login login = {.token = &probe->token, .place = place};
    HPL_TRY(hpl_p11_module_enter(module, probe->call, &generation));
    enum hpl_status status = hpl_p11_token_find(probe->call, module, probe->asked->token.uri, &probe->token);
    if (status == HPL_OK) {
        probe->fn = probe->token.fn;
        probe->slot = probe->token.slot;
        status = probe_token(probe, &login);
    }
    hpl_p11_module_leave(module);
    return status;
}

enum hpl_status hpl_p11_conformance_run(struct hpl_call *call, const struct hpl_p11_conformance *asked, json_t **report)
{
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    struct hpl_p11_module *module = NULL;
    json_t *HPL_JSON_AUTO inner = json_pack("{s:i, s:o}", "format", REPORT_FORMAT, "made", made_json(asked));
    struct hpl_probe probe = {.asked = asked, .call = call, .report = inner};
    *report = NULL;
    HPL_TRY(hpl_file_make_dir(call, asked->state_dir));
    HPL_TRY(latch_key(call, asked->state_dir, &key));
    const struct hpl_p11_place place = {.option = &asked->token, .latch_dir = asked->state_dir, .latch_key = key};
    HPL_TRY(hpl_p11_module_ref(call, asked->token.module, asked->token.init_reserved, &module));
    enum hpl_status status = run_in_module(&probe, module, &place);
    hpl_p11_module_unref(module);
    return status == HPL_OK ? sign_off(call, inner, report) : status;
}
