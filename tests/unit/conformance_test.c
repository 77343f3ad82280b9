/* Does the prober behind `hardplate hsm conformance` find out what a token does, refuse liars, leave nothing behind and never send a refused PIN twice?
 * SoftHSM behind the shim; NSS and
 * Kryoptic as they are. */
#include "tests/contract/open_kryoptic.h"
#include "tests/contract/open_nss.h"
#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"

#include <dlfcn.h>
#include <sys/wait.h>

#include "backends/pkcs11/conformance/conformance.h"
#include "backends/pkcs11/cryptoki.h"
#include "base/codec.h"
#include "base/hash.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"

static struct shim *shim;
static struct softhsm hsm;
static char state_dir[192];

static struct hpl_p11_conformance asked_of(enum shim_iv iv)
{
    softhsm_init(&hsm, "hpl test");
    snprintf(state_dir, sizeof state_dir, "%s/conformance", hsm.dir);
    if (!shim) {
        void *module = dlopen(SHIM_MODULE, RTLD_NOW | RTLD_LOCAL);
        EXPECT(module != NULL);
        shim = dlsym(module, "hpl_shim");
    }
    EXPECT(shim != NULL);
    *shim = (struct shim){.iv = iv};
    hsm.option.module = SHIM_MODULE;
    return (struct hpl_p11_conformance){.token = hsm.option, .state_dir = state_dir};
}

static json_t *must_run(const struct hpl_p11_conformance *asked)
{
    struct hpl_call call = {0};
    json_t *report = NULL;
    enum hpl_status status = hpl_p11_conformance_run(&call, asked, &report);
    if (status != HPL_OK)
        fprintf(stderr, "\n    conformance: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
    return report;
}

static const json_t *at(const json_t *report, const char *step, const char *name)
{
    return json_object_get(json_object_get(json_object_get(report, "report"), step), name);
}

static const char *text_at(const json_t *report, const char *step, const char *name)
{
    const char *text = json_string_value(at(report, step, name));
    return text ? text : "";
}

static const json_t *row(const json_t *rows, const char *name, const char *value)
{
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)rows, i, one)
        if (strcmp(json_string_value(json_object_get(one, name)), value) == 0)
            return one;
    return NULL;
}

static bool says(const json_t *list, const char *words)
{
    size_t i;
    json_t *line;
    json_array_foreach((json_t *)list, i, line)
        if (strstr(json_string_value(line), words))
            return true;
    return false;
}

HPL_TEST(softhsm_is_found_usable_and_its_ways_are_named)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    asked.seconds = 1;
    asked.may_make_token_objects = true;
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    EXPECT(json_is_true(at(report, "verdict", "usable")));
    EXPECT_TEXT(text_at(report, "verdict", "would_use"), "aes-gcm");
    EXPECT_TEXT(text_at(report, "verdict", "how"), "caller");
    const json_t *no_iv = row(at(report, "aes_gcm", "iv_trials"), "trial", "no IV at all"), *tag = row(at(report, "aes_gcm", "refusals"), "changed", "the tag");
    EXPECT(strncmp(json_string_value(json_object_get(no_iv, "conclusion")), "DANGEROUS", 9) == 0);
    EXPECT_TEXT(json_string_value(json_object_get(tag, "code")), "CKR_GENERAL_ERROR");
    EXPECT(says(at(report, "verdict", "remarks"), "the canary tells them apart"));
    EXPECT_TEXT(text_at(report, "login", "the_same_pin_again"), "CKR_USER_ALREADY_LOGGED_IN");
    EXPECT_NUM(json_array_size(json_object_get(json_object_get(report, "report"), "load")), 4);
    EXPECT(json_is_true(at(report, "token_object", "works")));
    EXPECT_NUM(json_integer_value(json_object_get(at(report, "token_object", "found_afterwards"), "found")), 0);
    softhsm_wipe(&hsm);
}

HPL_TEST(nothing_is_left_behind_and_nothing_forbidden_is_called)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    asked.may_make_token_objects = true;
    for (int i = 0; i < 2; i++) {
        json_t *HPL_JSON_AUTO report = must_run(&asked);
        EXPECT_NUM(json_integer_value(json_object_get(at(report, "find", "all_objects"), "found")), 1);
        EXPECT(!json_object_get(json_object_get(report, "report"), "load"));
    }
    EXPECT_NUM(shim->num_open, 0);
    EXPECT_NUM(shim->num_calls[SHIM_LOGOUT], 0);
    EXPECT_NUM(shim->num_calls[SHIM_CLOSE_ALL], 0);
    EXPECT_NUM(shim->num_logins, 4);
    softhsm_wipe(&hsm);
}

HPL_TEST(without_leave_no_key_lies_in_the_token)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    EXPECT(!json_object_get(json_object_get(report, "report"), "token_object"));
    softhsm_wipe(&hsm);
}

HPL_TEST(a_token_without_session_objects_is_asked_in_its_own_memory_if_allowed)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    shim->has_no_session_objects = 1;
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    EXPECT(!json_is_true(at(report, "verdict", "usable")));
    EXPECT(says(at(report, "verdict", "refused_because"), "--token-objects"));
    asked.may_make_token_objects = true;
    json_t *HPL_JSON_AUTO again = must_run(&asked);
    EXPECT(json_is_true(at(again, "throw_away_key", "lies_in_token")));
    EXPECT(at(again, "aes_gcm", "iv_trials") != NULL);
    EXPECT_NUM(json_integer_value(json_object_get(at(again, "find", "all_objects"), "found")), 1);
    softhsm_wipe(&hsm);
}

HPL_TEST(every_way_of_giving_ivs_is_recognised)
{
    static const struct { enum shim_iv iv; const char *mode; } cases[] = {
        {SHIM_RETURNS, "returned"}, {SHIM_APPENDS, "appended"}, {SHIM_APPENDS_12, "appended"}, {SHIM_HIDES_GCM, "caller"}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct hpl_p11_conformance asked = asked_of(cases[i].iv);
        asked.seconds = 1;
        json_t *HPL_JSON_AUTO report = must_run(&asked);
        EXPECT_TEXT(text_at(report, "verdict", "how"), cases[i].mode);
        EXPECT(json_is_true(at(report, "verdict", "usable")));
        EXPECT(!says(at(report, "verdict", "remarks"), "the session answers")); /* SoftHSM's is good for the next */
        const json_t *first = json_array_get(json_object_get(json_object_get(report, "report"), "load"), 0);
        EXPECT_NUM(json_integer_value(json_object_get(first, "repeated_ivs")), 0);
        EXPECT_NUM(json_array_size(json_object_get(first, "failures")), 0);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_search_that_was_cut_off_is_told_as_one)
{
    for (unsigned finds_no_end = 0; finds_no_end <= 1; finds_no_end++) {
        struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
        struct hpl_buf page = {0};
        shim->finds_no_end = finds_no_end;
        json_t *HPL_JSON_AUTO report = must_run(&asked);
        hpl_p11_conformance_page(&page, report);
        EXPECT((strstr(hpl_buf_text(&page), "20000 or more found") != NULL) == finds_no_end);
        hpl_buf_wipe(&page);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(liars_about_ivs_are_refused)
{
    static const enum shim_iv liars[] = {SHIM_RETURNS_ONE, SHIM_IGNORES, SHIM_RETURNS_ZERO, SHIM_RETURNS_GARBAGE, SHIM_APPENDS_GARBAGE};
    for (size_t i = 0; i < HPL_COUNT(liars); i++) {
        struct hpl_p11_conformance asked = asked_of(liars[i]);
        json_t *HPL_JSON_AUTO report = must_run(&asked);
        const json_t *gcm = row(at(report, "negotiation", "tiers"), "mechanism", "aes-gcm");
        EXPECT(json_is_false(json_object_get(gcm, "usable")));
        EXPECT(json_is_false(at(report, "verdict", "usable")));
        EXPECT(says(at(report, "verdict", "refused_because"), "said CKR_OK to what was wrong"));
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_token_without_aes_gcm_is_loaded_by_what_it_can_do)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_NO_GCM);
    asked.seconds = 1;
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    EXPECT(json_is_true(at(report, "verdict", "usable")));
    EXPECT_TEXT(text_at(report, "verdict", "would_use"), "aes-cbc-hmac");
    const json_t *first = json_array_get(json_object_get(json_object_get(report, "report"), "load"), 0);
    EXPECT(json_real_value(json_object_get(json_object_get(first, "wraps"), "a_second")) > 0);
    EXPECT_NUM(json_integer_value(json_object_get(first, "wrong_plaintexts")), 0);
    EXPECT_NUM(json_array_size(json_object_get(first, "failures")), 0);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_refused_pin_is_sent_once_whatever_the_number_of_runs)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    softhsm_write_pin(&hsm, "0000\n");
    for (int i = 0; i < 5; i++) {
        struct hpl_call call = {0};
        json_t *HPL_JSON_AUTO report = NULL;
        EXPECT_STATUS(hpl_p11_conformance_run(&call, &asked, &report), HPL_PIN_REJECTED);
        EXPECT(report == NULL);
    }
    EXPECT_NUM(shim->num_logins, 1);
    softhsm_write_pin(&hsm, "user-pin-1\n");
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    EXPECT(json_is_true(at(report, "verdict", "usable")));
    softhsm_wipe(&hsm);
}

HPL_TEST(failures_under_load_are_counted_by_name)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    asked.seconds = 1;
    shim->rv = CKR_DEVICE_ERROR;
    shim->times = SHIM_ALWAYS;
    shim->skip = 200; /* past the trials */
    shim->every = 50;
    shim->where = SHIM_ENCRYPT;
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    const json_t *first = json_array_get(json_object_get(json_object_get(report, "report"), "load"), 0);
    const json_t *failure = json_array_get(json_object_get(first, "failures"), 0);
    EXPECT_TEXT(json_string_value(json_object_get(failure, "function")), "C_Encrypt");
    EXPECT_TEXT(json_string_value(json_object_get(failure, "code")), "CKR_DEVICE_ERROR");
    EXPECT(json_integer_value(json_object_get(failure, "times")) > 0);
    EXPECT(says(at(report, "verdict", "remarks"), "calls failed under 1 threads"));
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

HPL_TEST(few_sessions_are_told_and_borne)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    asked.seconds = 1;
    shim->session_limit = 4;
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    EXPECT_NUM(json_integer_value(at(report, "sessions", "opened")), 3);
    EXPECT_TEXT(text_at(report, "sessions", "last_code"), "CKR_SESSION_COUNT");
    EXPECT(says(at(report, "verdict", "remarks"), "gives 3 sessions beside the first"));
    const json_t *last = json_array_get(json_object_get(json_object_get(report, "report"), "load"), 3);
    const json_t *failure = json_array_get(json_object_get(last, "failures"), 0);
    EXPECT_TEXT(json_string_value(json_object_get(failure, "function")), "C_OpenSession");
    EXPECT(json_is_true(at(report, "verdict", "usable")));
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

/* The program itself, with the shim's knobs in a file beside SoftHSM's configuration. */
HPL_TEST(a_token_that_hangs_ends_the_program_in_time)
{
    struct shim knobs = {.where = SHIM_ENCRYPT_INIT, .times = SHIM_ALWAYS, .delay_ms = 60000};
    char path[256], command[2048];
    struct hpl_call call = {0};
    (void)asked_of(SHIM_AS_IS);
    snprintf(path, sizeof path, "%s.shim", getenv("SOFTHSM2_CONF"));
    EXPECT_OK(hpl_file_replace(&call, path, hpl_bytes(&knobs, sizeof knobs), 0600));
    snprintf(command, sizeof command,
             "'%s/bin/hardplate-tokend' --conformance --module '%s' --pin-source %s --seconds 0 --step-timeout 5 --state %s/hangs pkcs11:token=hpl%%20test"
             " >%s/said 2>&1 </dev/null",
             HPL_BINARY_DIR, SHIM_MODULE, hsm.pin_source, hsm.dir, hsm.dir);
    int code = system(command);
    EXPECT_NUM(WIFEXITED(code) ? WEXITSTATUS(code) : -1, 4);
    struct hpl_buf said = {0};
    snprintf(path, sizeof path, "%s/said", hsm.dir);
    EXPECT_OK(hpl_file_read(&call, path, 4096, &said));
    EXPECT(strstr(hpl_buf_text(&said), "did not answer in time when asked about negotiation") != NULL);
    hpl_buf_wipe(&said);
    softhsm_wipe(&hsm);
}

HPL_TEST(the_report_carries_its_own_digest_and_no_pin)
{
    struct hpl_p11_conformance asked = asked_of(SHIM_AS_IS);
    json_t *HPL_JSON_AUTO report = must_run(&asked);
    struct hpl_buf text = {0}, page = {0};
    uint8_t digest[32];
    char hex[65];
    EXPECT_OK(hpl_json_put(&text, json_object_get(report, "report")));
    hpl_sha256(digest, text.data, text.len);
    hpl_hex_encode(hex, digest, sizeof digest);
    EXPECT_TEXT(json_string_value(json_object_get(report, "sha256")), hex);
    hpl_p11_conformance_page(&page, report);
    EXPECT(strstr(hpl_buf_text(&page), hex) != NULL);
    EXPECT(strstr(hpl_buf_text(&page), "hardplate would use this token, by aes-gcm") != NULL);
    EXPECT(strstr(hpl_buf_text(&page), "user-pin-1") == NULL && strstr(hpl_buf_text(&text), "user-pin-1") == NULL);
    hpl_buf_wipe(&text);
    hpl_buf_wipe(&page);
    softhsm_wipe(&hsm);
}

static json_t *ask_soft_token(struct soft_token *token)
{
    static char folder[192];
    snprintf(folder, sizeof folder, "%s/conformance", token->dir);
    const struct hpl_p11_conformance asked = {.token = token->option, .state_dir = folder, .seconds = 1, .may_make_token_objects = true};
    return must_run(&asked);
}

HPL_TEST(nss_is_found_usable_and_its_way_out_is_named)
{
    static struct soft_token token;
    static bool was_said;
    if (!nss_module() || system("command -v certutil >/dev/null") != 0) {
        soft_token_skip("NSS", "libnss3 or libnss3-tools is not installed", &was_said);
        return;
    }
    nss_init(&token);
    json_t *HPL_JSON_AUTO report = ask_soft_token(&token);
    EXPECT_TEXT(text_at(report, "verdict", "would_use"), "aes-gcm");
    EXPECT(says(at(report, "verdict", "remarks"), "C_WrapKey carried out a key"));
    EXPECT(says(at(report, "verdict", "remarks"), "CKA_ALLOWED_MECHANISMS is taken but not enforced"));
    EXPECT(says(at(report, "verdict", "remarks"), "CKR_ENCRYPTED_DATA_INVALID"));
}

HPL_TEST(kryoptic_is_found_usable)
{
    static struct soft_token token;
    if (!kryoptic_is_there())
        return;
    kryoptic_init(&token, NULL);
    json_t *HPL_JSON_AUTO report = ask_soft_token(&token);
    EXPECT_TEXT(text_at(report, "verdict", "would_use"), "aes-gcm");
    EXPECT(!says(at(report, "verdict", "remarks"), "C_WrapKey carried out"));
}

HPL_TEST(kryoptic_without_aes_gcm_is_used_by_aes_cbc)
{
    static struct soft_token token;
    if (!kryoptic_is_there())
        return;
    kryoptic_init(&token, "\"CKM_AES_GCM\"");
    json_t *HPL_JSON_AUTO report = ask_soft_token(&token);
    EXPECT_TEXT(text_at(report, "verdict", "would_use"), "aes-cbc-hmac");
}
