/* Does the PKCS#11 backend find out how a token treats IVs, refuse liars, and get over any error code anywhere? SoftHSM behind a shim. */
#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "backends/pkcs11/cryptoki.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";
static struct shim *shim;

static void shim_init(struct softhsm *hsm, enum shim_iv iv)
{
    softhsm_init(hsm, "hpl test");
    if (!shim) {
        void *module = dlopen(SHIM_MODULE, RTLD_NOW | RTLD_LOCAL);
        EXPECT(module != NULL);
        shim = dlsym(module, "hpl_shim");
    }
    EXPECT(shim != NULL);
    *shim = (struct shim){.iv = iv};
    hsm->option.module = SHIM_MODULE;
}

static struct hpl_keystore *must_open(struct softhsm *hsm)
{
    struct hpl_call call;
    struct hpl_keystore *keystore = NULL;
    enum hpl_status status = softhsm_try_open(hsm, &call, &keystore);
    if (status != HPL_OK)
        fprintf(stderr, "\n    open: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
    return keystore;
}

static enum hpl_status try_wrap(struct hpl_keystore *keystore, const uint8_t *uid, struct hpl_wrapped *out)
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    hpl_call_init(&call, 5000);
    return keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, out);
}

static enum hpl_status try_unwrap(struct hpl_keystore *keystore, const uint8_t *uid, const struct hpl_wrapped *wrapped)
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    hpl_call_init(&call, 5000);
    return keystore->ops->unwrap(keystore, &call, uid, 1, aad, wrapped, &opened);
}

static void new_key(struct hpl_keystore *keystore, uint8_t uid[static HPL_KEY_UID_LEN])
{
    struct hpl_call call = {0};
    hpl_uuid_new(uid);
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
}

HPL_TEST(each_way_of_giving_ivs_is_found_and_works)
{
    static const struct { enum shim_iv iv; const char *name; uint8_t iv_len; } cases[] = {
        {SHIM_AS_IS, "caller", 12}, {SHIM_APPENDS, "appended", 16}, {SHIM_APPENDS_12, "appended", 12}, {SHIM_RETURNS, "returned", 12},
        {SHIM_HIDES_GCM, "caller", 12}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct softhsm hsm;
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped;
        shim_init(&hsm, cases[i].iv);
        struct hpl_keystore *keystore = must_open(&hsm);
        json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
        EXPECT_TEXT(json_string_value(json_object_get(facts, "iv_mode")), cases[i].name);
        new_key(keystore, uid);
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
        EXPECT_NUM(wrapped.iv_len, cases[i].iv_len);
        EXPECT_OK(try_unwrap(keystore, uid, &wrapped));
        wrapped.ct[0] ^= 1;
        EXPECT_STATUS(try_unwrap(keystore, uid, &wrapped), HPL_INVALID_CIPHERTEXT);
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_token_that_lies_about_ivs_is_not_used)
{
    static const enum shim_iv liars[] = {SHIM_RETURNS_ONE, SHIM_RETURNS_ZERO, SHIM_RETURNS_GARBAGE, SHIM_APPENDS_GARBAGE, SHIM_IGNORES};
    for (size_t i = 0; i < HPL_COUNT(liars); i++) {
        struct softhsm hsm;
        struct hpl_call call;
        struct hpl_keystore *keystore = NULL;
        shim_init(&hsm, liars[i]);
        EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
        EXPECT(strstr(call.detail, "passed no trial") != NULL);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_token_that_opens_what_was_changed_is_not_used)
{
    static const enum shim_iv ways[] = {SHIM_NO_CONTEXT, SHIM_NO_TAG, SHIM_OPENS_CUT};
    for (size_t i = 0; i < HPL_COUNT(ways); i++) {
        struct softhsm hsm;
        struct hpl_call call;
        struct hpl_keystore *keystore = NULL;
        shim_init(&hsm, ways[i]);
        EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
        EXPECT(strstr(call.detail, "said CKR_OK to what was wrong") != NULL);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_token_that_changes_its_way_is_not_used)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore = NULL;
    shim_init(&hsm, SHIM_AS_IS);
    keystore = must_open(&hsm);
    keystore->ops->close(keystore);
    shim->iv = SHIM_RETURNS;
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    softhsm_wipe(&hsm);
}

HPL_TEST(an_iv_that_comes_twice_ends_wrapping_but_not_unwrapping)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good, wrapped;
    shim_init(&hsm, SHIM_RETURNS);
    hsm.option.max_sessions = 1;
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    shim->iv = SHIM_RETURNS_ONE;
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    EXPECT_STATUS(try_wrap(keystore, uid, &wrapped), HPL_INTEGRITY);
    EXPECT_NUM(wrapped.ct_len, 0);
    shim->iv = SHIM_RETURNS;
    EXPECT_STATUS(try_wrap(keystore, uid, &wrapped), HPL_INTEGRITY);
    EXPECT_OK(try_unwrap(keystore, uid, &good));
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    EXPECT(json_is_true(json_object_get(facts, "is_latched")));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

static bool tells_optional(struct hpl_keystore *keystore)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    EXPECT(json_is_false(json_object_get(facts, "is_latched")));
    EXPECT(json_is_array(json_object_get(facts, "optional_attributes")) || json_is_null(json_object_get(facts, "optional_attributes")));
    return json_is_array(json_object_get(facts, "optional_attributes"));
}

HPL_TEST(attributes_that_keys_are_made_with_are_told_once_one_was_made)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    EXPECT(tells_optional(keystore)); /* the canary was made */
    keystore->ops->close(keystore);
    keystore = must_open(&hsm);
    EXPECT(!tells_optional(keystore));
    new_key(keystore, uid);
    EXPECT(tells_optional(keystore));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(nothing_is_searched_on_the_hot_path)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    unsigned num_finds = shim->num_finds, num_open = shim->num_open;
    for (int i = 0; i < 500; i++) {
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
        EXPECT_OK(try_unwrap(keystore, uid, &wrapped));
    }
    EXPECT_NUM(shim->num_finds, num_finds);
    EXPECT_NUM(shim->num_open, num_open);
    EXPECT_NUM(shim->num_logins, 1);
    keystore->ops->close(keystore);
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

static const unsigned long codes[] = {
    CKR_SESSION_HANDLE_INVALID, CKR_SESSION_CLOSED, CKR_OPERATION_ACTIVE, CKR_OPERATION_NOT_INITIALIZED, CKR_OBJECT_HANDLE_INVALID,
    CKR_KEY_HANDLE_INVALID, CKR_USER_NOT_LOGGED_IN, CKR_DEVICE_ERROR, CKR_DEVICE_REMOVED, CKR_TOKEN_NOT_PRESENT, CKR_GENERAL_ERROR,
    CKR_FUNCTION_FAILED, CKR_DEVICE_MEMORY, CKR_HOST_MEMORY, CKR_MECHANISM_INVALID, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_ARGUMENTS_BAD,
    CKR_ENCRYPTED_DATA_INVALID, CKR_DATA_LEN_RANGE, 0x80000001ul, 0x7fffffful};

static bool is_allowed(enum shim_where where, unsigned long rv, enum hpl_status status)
{
    bool is_retried = rv == CKR_SESSION_HANDLE_INVALID || rv == CKR_SESSION_CLOSED || rv == CKR_OPERATION_ACTIVE ||
                      rv == CKR_OPERATION_NOT_INITIALIZED || rv == CKR_OBJECT_HANDLE_INVALID || rv == CKR_KEY_HANDLE_INVALID ||
                      rv == CKR_USER_NOT_LOGGED_IN;
    bool is_about_blob = where == SHIM_DECRYPT && (rv == CKR_GENERAL_ERROR || rv == CKR_FUNCTION_FAILED || rv == CKR_ENCRYPTED_DATA_INVALID ||
                                                   rv == CKR_DATA_LEN_RANGE);
    if (is_retried)
        return status == HPL_OK;
    return is_about_blob ? status == HPL_INVALID_CIPHERTEXT : status == HPL_KEY_UNAVAILABLE || status == (rv == CKR_MECHANISM_INVALID ? HPL_INTERNAL : HPL_BACKEND);
}

HPL_TEST(any_code_once_anywhere_is_got_over_and_leaks_no_session)
{
    static const enum shim_where places[] = {SHIM_ENCRYPT_INIT, SHIM_ENCRYPT, SHIM_DECRYPT_INIT, SHIM_DECRYPT};
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good, wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    for (size_t i = 0; i < HPL_COUNT(places); i++)
        for (size_t j = 0; j < HPL_COUNT(codes); j++) {
            shim->where = places[i];
            shim->rv = codes[j];
            shim->times = 1;
            enum hpl_status status = i < 2 ? try_wrap(keystore, uid, &wrapped) : try_unwrap(keystore, uid, &good);
            if (!is_allowed(places[i], codes[j], status))
                fprintf(stderr, "\n    place %zu code 0x%lx: %s\n", i, codes[j], hpl_status_row(status)->name);
            EXPECT(is_allowed(places[i], codes[j], status));
            EXPECT_NUM(shim->times, 0);
            EXPECT_OK(try_wrap(keystore, uid, &wrapped));
            EXPECT_OK(try_unwrap(keystore, uid, &good));
        }
    EXPECT_NUM(shim->num_initialised, 1);
    EXPECT(shim->num_open <= 5);
    keystore->ops->close(keystore);
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

HPL_TEST(what_a_token_cannot_do_is_not_asked_of_it_again)
{
    static const unsigned long cannot[] = {CKR_MECHANISM_INVALID, CKR_MECHANISM_PARAM_INVALID, CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_TYPE_INCONSISTENT,
                                          CKR_KEY_SIZE_RANGE, CKR_FUNCTION_NOT_SUPPORTED};
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    for (size_t i = 0; i < HPL_COUNT(cannot); i++) {
        unsigned before = shim->num_calls[SHIM_ENCRYPT_INIT];
        shim->rv = cannot[i];
        shim->times = 1;
        shim->where = SHIM_ENCRYPT_INIT;
        const struct hpl_status_row *row = hpl_status_row(try_wrap(keystore, uid, &wrapped));
        EXPECT_NUM(shim->num_calls[SHIM_ENCRYPT_INIT], before + 1);
        EXPECT_NUM(row->kms_http, 500);
        EXPECT(!row->can_retry); /* nor by the service */
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    }
    EXPECT_NUM(shim->num_initialised, 1);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_token_that_keeps_failing_is_initialised_again_and_works_after)
{
    static const enum shim_where places[] = {SHIM_DECRYPT, SHIM_ENCRYPT, SHIM_OPEN};
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good, wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    for (size_t i = 0; i < HPL_COUNT(places); i++) {
        *shim = (struct shim){.where = places[i], .rv = CKR_DEVICE_ERROR, .times = 1000000, .num_open = shim->num_open};
        bool is_bad = false;
        for (int n = 0; n < 5; n++) {
            enum hpl_status wrapping = try_wrap(keystore, uid, &wrapped), unwrapping = try_unwrap(keystore, uid, &good);
            EXPECT(wrapping == HPL_OK || wrapping == HPL_KEY_UNAVAILABLE);
            EXPECT(unwrapping == HPL_OK || unwrapping == HPL_KEY_UNAVAILABLE);
            is_bad |= wrapping != HPL_OK || unwrapping != HPL_OK;
        }
        EXPECT(is_bad || places[i] == SHIM_OPEN); /* open sessions need no new ones */
        shim->times = 0;
        bool is_back = false;
        for (int n = 0; n < 600 && !is_back; n++) {
            is_back = try_wrap(keystore, uid, &wrapped) == HPL_OK && try_unwrap(keystore, uid, &good) == HPL_OK;
            usleep(is_back ? 0 : 50000);
        }
        EXPECT(is_back);
    }
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_module_that_cannot_lock_is_refused_by_that_name)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore = NULL;
    shim_init(&hsm, SHIM_AS_IS);
    shim->rv = CKR_CANT_LOCK;
    shim->times = SHIM_ALWAYS;
    shim->where = SHIM_INITIALIZE;
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_KEY_UNAVAILABLE);
    EXPECT(strstr(call.detail, "CKR_CANT_LOCK") != NULL);
    softhsm_wipe(&hsm);
}

/* --- what a token says of itself -------------------------------------------------------------------------------------------------- */

HPL_TEST(a_pin_counter_that_is_low_is_never_lowered_further)
{
    static const unsigned long flags[] = {CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_LOCKED};
    for (size_t i = 0; i < HPL_COUNT(flags); i++) {
        struct softhsm hsm;
        struct hpl_call call;
        struct hpl_keystore *keystore = NULL;
        shim_init(&hsm, SHIM_AS_IS);
        shim->token_flags = flags[i];
        EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_PIN_REJECTED);
        EXPECT_NUM(shim->num_logins, 0);
        shim->token_flags = 0;
        keystore = must_open(&hsm);
        EXPECT_NUM(shim->num_logins, 1);
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_login_that_was_somebody_elses_clears_no_refused_pin)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore = NULL;
    shim_init(&hsm, SHIM_AS_IS);
    softhsm_write_pin(&hsm, "wrong-pin-1\n");
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_PIN_REJECTED);
    EXPECT_NUM(shim->num_logins, 1);
    softhsm_write_pin(&hsm, "wrong-pin-2\n"); /* another library of the process logs in at that moment */
    shim->rv = CKR_USER_ALREADY_LOGGED_IN;
    shim->times = SHIM_ALWAYS;
    shim->where = SHIM_LOGIN;
    EXPECT(softhsm_try_open(&hsm, &call, &keystore) != HPL_OK);
    shim->where = SHIM_NOWHERE;
    unsigned num_logins = shim->num_logins;
    softhsm_write_pin(&hsm, "wrong-pin-1\n");
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_PIN_REJECTED);
    EXPECT_NUM(shim->num_logins, num_logins);
    softhsm_write_pin(&hsm, "user-pin-1\n"); /* it is known still who made the token's count low */
    keystore = must_open(&hsm);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

static enum hpl_status wait_until_unwrapped(struct hpl_keystore *keystore, const uint8_t *uid, const struct hpl_wrapped *good)
{
    enum hpl_status status = HPL_KEY_UNAVAILABLE;
    for (int i = 0; i < 600 && status != HPL_OK; i++, usleep(50000))
        status = try_unwrap(keystore, uid, good);
    return status;
}

HPL_TEST(a_pin_is_not_sent_while_its_refusal_could_not_be_written_down)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct rlimit before;
    struct hpl_keystore *keystore = NULL;
    shim_init(&hsm, SHIM_AS_IS);
    softhsm_write_pin(&hsm, "wrong-pin-1\n");
    signal(SIGXFSZ, SIG_IGN);
    EXPECT_NUM(getrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_NUM(setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max}), 0); /* as a full disk */
    enum hpl_status status = softhsm_try_open(&hsm, &call, &keystore);
    EXPECT_NUM(setrlimit(RLIMIT_FSIZE, &before), 0);
    EXPECT_STATUS(status, HPL_KEY_UNAVAILABLE);
    EXPECT(strstr(call.detail, "could not be written down") != NULL);
    EXPECT_NUM(shim->num_logins, 0);
    for (int i = 0; i < 3; i++)
        EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_PIN_REJECTED);
    EXPECT_NUM(shim->num_logins, 1);
    softhsm_write_pin(&hsm, "user-pin-1\n");
    keystore = must_open(&hsm);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* Two are left for the anchor, and for trials and the canary. */
HPL_TEST(a_pool_is_as_large_as_the_token_lets_it_be)
{
    static const struct { unsigned told, wanted, most; } cases[] = {{0, 16, 16}, {10, 16, 8}, {18, 16, 16}, {10, 4, 4}, {4, 16, 2}, {3, 16, 1}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct softhsm hsm;
        shim_init(&hsm, SHIM_AS_IS);
        hsm.option.max_sessions = cases[i].wanted;
        shim->told_sessions = shim->session_limit = cases[i].told;
        struct hpl_keystore *keystore = must_open(&hsm);
        json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
        EXPECT_NUM(json_integer_value(json_object_get(facts, "max_sessions")), cases[i].most);
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_token_whose_objects_have_no_end_is_used_without_being_looked_through)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    shim->finds_no_end = 1;
    struct rusage before, after;
    EXPECT_NUM(getrusage(RUSAGE_SELF, &before), 0);
    struct hpl_keystore *keystore = must_open(&hsm);
    EXPECT_NUM(getrusage(RUSAGE_SELF, &after), 0);
    EXPECT(after.ru_maxrss - before.ru_maxrss < 1024 * 1024); /* of KiB */
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    EXPECT(json_is_null(json_object_get(facts, "orphans")));
    EXPECT_NUM(shim->num_calls[SHIM_FIND_FINAL], shim->num_calls[SHIM_FIND]);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(slots_that_a_module_only_says_to_have_are_not_looked_at)
{
    struct softhsm hsm;
    shim_init(&hsm, SHIM_AS_IS);
    shim->num_more_slots = 5000;
    struct hpl_keystore *keystore = must_open(&hsm);
    EXPECT(shim->num_calls[SHIM_GET_TOKEN_INFO] < 100);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* The call's own failure and one canary's are a moment's trouble; a second canary's is the token's. */
HPL_TEST(a_canary_that_is_silent_once_is_asked_again)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    EXPECT_OK(try_unwrap(keystore, uid, &good));
    for (unsigned times = 2; times <= 3; times++) {
        usleep(250000); /* no verdict is kept so long */
        shim->rv = CKR_DEVICE_ERROR;
        shim->times = times;
        shim_set(shim->where, SHIM_DECRYPT);
        EXPECT_STATUS(try_unwrap(keystore, uid, &good), HPL_KEY_UNAVAILABLE);
        EXPECT_NUM(shim->times, 0);
        EXPECT_OK(wait_until_unwrapped(keystore, uid, &good));
        EXPECT_NUM(shim->num_initialised, times - 1);
    }
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_token_that_stays_away_is_tried_ever_more_rarely)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    shim->rv = CKR_DEVICE_ERROR;
    shim->times = SHIM_ALWAYS;
    shim_set(shim->where, SHIM_OPEN);
    shim_set(shim->is_dead, 1);
    unsigned before = shim->num_initialised;
    for (uint64_t until_ns = hpl_clock_mono_ns() + 1500000000u; hpl_clock_mono_ns() < until_ns; usleep(1000))
        EXPECT(try_unwrap(keystore, uid, &good) != HPL_OK);
    EXPECT(shim->num_initialised - before <= 5); /* at 0, 0.25, 0.75 and 1.75 s, a fifth less at most */
    shim_set(shim->where, SHIM_NOWHERE);
    EXPECT_OK(wait_until_unwrapped(keystore, uid, &good));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(another_token_in_the_place_of_ours_is_not_used)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    shim->has_other_serial = 1;
    shim->is_dead = 1;
    EXPECT(try_unwrap(keystore, uid, &good) != HPL_OK); /* the module is started again, and another token answers */
    unsigned num_logins = shim->num_logins;
    for (int i = 0; i < 10; i++) {
        EXPECT(try_unwrap(keystore, uid, &good) != HPL_OK);
        usleep(50000);
    }
    EXPECT_NUM(shim->num_logins, num_logins);
    EXPECT(shim->num_initialised >= 2);
    shim->has_other_serial = 0;
    EXPECT_OK(wait_until_unwrapped(keystore, uid, &good));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_restart_that_fails_half_way_is_done_again)
{
    static const struct { enum shim_where where; unsigned is_after; } faults[] = {
        {SHIM_FINALIZE, 0}, {SHIM_FINALIZE, 1}, {SHIM_INITIALIZE, 0}, {SHIM_INITIALIZE, 1}};
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    for (size_t i = 0; i < HPL_COUNT(faults); i++) {
        shim->rv = CKR_GENERAL_ERROR;
        shim->times = 2;
        shim->is_after = faults[i].is_after;
        shim->where = faults[i].where;
        shim->is_dead = 1;
        EXPECT(try_unwrap(keystore, uid, &good) != HPL_OK);
        EXPECT_OK(wait_until_unwrapped(keystore, uid, &good));
    }
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_key_that_was_made_though_the_answer_was_no_is_not_made_twice)
{
    struct softhsm hsm;
    struct hpl_call call = {0};
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    hpl_uuid_new(uid);
    shim->rv = CKR_ATTRIBUTE_VALUE_INVALID;
    shim->times = 1;
    shim->is_after = 1;
    shim->where = SHIM_GENERATE;
    EXPECT_STATUS(keystore->ops->create_version(keystore, &call, uid, 1), HPL_INTERNAL);
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_pin_that_is_refused_later_is_sent_once_and_costs_no_session)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    shim->num_logins = 0;
    shim->rv = CKR_PIN_INCORRECT;
    shim->times = SHIM_ALWAYS;
    shim->where = SHIM_LOGIN;
    shim->is_dead = 1;
    for (int i = 0; i < 20; i++, usleep(100000)) {
        enum hpl_status status = try_wrap(keystore, uid, &wrapped);
        EXPECT(status == HPL_KEY_UNAVAILABLE || status == HPL_PIN_REJECTED);
    }
    EXPECT_NUM(shim->num_logins, 1);
    EXPECT(shim->num_open <= 1);
    keystore->ops->close(keystore);
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

struct crowd {
    struct hpl_keystore *keystore;
    const uint8_t *uid;
    unsigned num_bad;
};

static void *crowd_work(void *arg)
{
    struct crowd *crowd = arg;
    struct hpl_wrapped wrapped;
    for (int i = 0; i < 50; i++)
        crowd->num_bad += try_wrap(crowd->keystore, crowd->uid, &wrapped) != HPL_OK || try_unwrap(crowd->keystore, crowd->uid, &wrapped) != HPL_OK;
    return NULL;
}

HPL_TEST(a_token_with_four_sessions_serves_sixteen_threads)
{
    struct softhsm hsm;
    struct crowd crowds[16];
    pthread_t threads[HPL_COUNT(crowds)];
    uint8_t uid[HPL_KEY_UID_LEN];
    shim_init(&hsm, SHIM_AS_IS);
    hsm.option.max_sessions = 16;
    shim->session_limit = 4;
    shim->latency_us = 500; /* so that they meet */
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    for (size_t i = 0; i < HPL_COUNT(crowds); i++) {
        crowds[i] = (struct crowd){.keystore = keystore, .uid = uid};
        EXPECT_NUM(pthread_create(&threads[i], NULL, crowd_work, &crowds[i]), 0);
    }
    for (size_t i = 0; i < HPL_COUNT(crowds); i++) {
        pthread_join(threads[i], NULL);
        EXPECT_NUM(crowds[i].num_bad, 0);
    }
    EXPECT_NUM(shim->num_most_open, 4);
    shim->session_limit = 0; /* there are more again: after a while they are used */
    usleep(2100000);
    for (size_t i = 0; i < HPL_COUNT(crowds); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, crowd_work, &crowds[i]), 0);
    for (size_t i = 0; i < HPL_COUNT(crowds); i++)
        pthread_join(threads[i], NULL);
    EXPECT(shim->num_most_open > 4);
    EXPECT_NUM(shim->num_initialised, 1);
    keystore->ops->close(keystore);
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

/* A handle that is another key after a restart: the check blob is what tells, and no ciphertext is let out. */
HPL_TEST(sessions_that_are_all_lost_at_once_cost_no_request)
{
    struct softhsm hsm;
    struct crowd crowds[4];
    pthread_t threads[HPL_COUNT(crowds)];
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    shim->latency_us = 500;
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    for (size_t i = 0; i < HPL_COUNT(crowds); i++) {
        crowds[i] = (struct crowd){.keystore = keystore, .uid = uid};
        EXPECT_NUM(pthread_create(&threads[i], NULL, crowd_work, &crowds[i]), 0);
    }
    for (size_t i = 0; i < HPL_COUNT(crowds); i++)
        pthread_join(threads[i], NULL);
    EXPECT(shim->num_open > 3); /* the anchor and several that are idle now */
    shim_set(shim->loses_sessions, 1);
    for (int i = 0; i < 10; i++)
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    EXPECT_NUM(shim->num_initialised, 1);
    keystore->ops->close(keystore);
    EXPECT_NUM(shim->num_open, 0);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_token_that_answers_with_another_key_is_caught_and_not_used_again)
{
    struct softhsm hsm;
    uint8_t one[HPL_KEY_UID_LEN], two[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped, none = {0}, out;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, one);
    new_key(keystore, two);
    EXPECT_OK(try_wrap(keystore, one, &wrapped));
    EXPECT_OK(try_wrap(keystore, two, &out));

    shim->mixes_keys = 1;
    struct hpl_keystore *again = must_open(&hsm);
    EXPECT_STATUS(try_wrap(again, one, &out), HPL_INTEGRITY);
    EXPECT_BYTES(&out, &none, sizeof out);
    shim->mixes_keys = 0;
    EXPECT_STATUS(try_unwrap(again, one, &wrapped), HPL_INTEGRITY);
    EXPECT_STATUS(try_wrap(again, two, &out), HPL_INTEGRITY);
    json_t *HPL_JSON_AUTO facts = again->ops->describe(again);
    EXPECT(json_is_true(json_object_get(facts, "has_failed")));
    again->ops->close(again);

    again = must_open(&hsm);
    EXPECT_OK(try_unwrap(again, one, &wrapped));
    again->ops->close(again);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

struct hostile {
    struct hpl_keystore *keystore;
    const uint8_t *uid;
    const struct hpl_wrapped *bad;
    _Atomic unsigned num_asked, num_opened;
    _Atomic bool is_over;
};

static void *hostile_work(void *arg)
{
    struct hostile *hostile = arg;
    for (; !hostile->is_over; usleep(1000)) {
        hostile->num_opened += try_unwrap(hostile->keystore, hostile->uid, hostile->bad) == HPL_OK;
        hostile->num_asked++;
    }
    return NULL;
}

/* Until it was reached, or never will be. */
static void wait_for(const _Atomic unsigned *count, unsigned wanted)
{
    for (int i = 0; i < 30000 && *count < wanted; i++)
        usleep(1000);
}

/* The verdict counts for 200 ms, whatever the number of those who ask for it. */
HPL_TEST(bad_blobs_cost_five_canaries_a_second_at_most)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped bad;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &bad));
    bad.ct[0] ^= 1;
    unsigned before = shim->num_calls[SHIM_DECRYPT], num = 300;
    uint64_t from_ns = hpl_clock_mono_ns();
    for (unsigned i = 0; i < num; i++)
        EXPECT_STATUS(try_unwrap(keystore, uid, &bad), HPL_INVALID_CIPHERTEXT);
    EXPECT(shim->num_calls[SHIM_DECRYPT] - before - num <= 1 + (hpl_clock_mono_ns() - from_ns) / 200000000u);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* SoftHSM tells a bad tag as it tells trouble of its own, so each bad blob asks for the canary's verdict. */
HPL_TEST(bad_blobs_after_one_real_trouble_start_no_module_again)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good, bad;
    pthread_t threads[8];
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    bad = good;
    bad.ct[0] ^= 1;
    shim_set(shim->is_dead, 1);
    EXPECT_STATUS(try_unwrap(keystore, uid, &bad), HPL_KEY_UNAVAILABLE);
    EXPECT_STATUS(try_unwrap(keystore, uid, &bad), HPL_INVALID_CIPHERTEXT);
    EXPECT_OK(try_unwrap(keystore, uid, &good));
    EXPECT_NUM(shim->num_initialised, 2);

    struct hostile hostile = {.keystore = keystore, .uid = uid, .bad = &bad};
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, hostile_work, &hostile), 0);
    wait_for(&hostile.num_asked, 300);
    shim_set(shim->is_dead, 1);
    wait_for(&hostile.num_asked, hostile.num_asked + 1200);
    hostile.is_over = true;
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    EXPECT_NUM(hostile.num_opened, 0);
    EXPECT_NUM(shim->num_initialised, 3);
    EXPECT_OK(try_unwrap(keystore, uid, &good));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

struct flood {
    struct hpl_keystore *keystore;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped bad;
    _Atomic bool should_stop;
    _Atomic unsigned counts[HPL_NUM_STATUSES]; /* of the bad ones */
};

static void *wrap_on(void *arg)
{
    struct flood *flood = arg;
    struct hpl_wrapped wrapped;
    while (!atomic_load(&flood->should_stop))
        (void)!try_wrap(flood->keystore, flood->uid, &wrapped);
    return NULL;
}

static void *unwrap_bad_ones(void *arg)
{
    struct flood *flood = arg;
    while (!atomic_load(&flood->should_stop))
        atomic_fetch_add(&flood->counts[try_unwrap(flood->keystore, flood->uid, &flood->bad)], 1);
    return NULL;
}

/* Which others may wait for. */
HPL_TEST(the_canary_takes_no_session_of_the_pool)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped bad;
    shim_init(&hsm, SHIM_AS_IS);
    hsm.option.max_sessions = 1;
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &bad));
    EXPECT_NUM(shim->num_open, 2);
    unsigned num_decrypts = shim->num_calls[SHIM_DECRYPT];
    bad.ct[0] ^= 1;
    EXPECT_STATUS(try_unwrap(keystore, uid, &bad), HPL_INVALID_CIPHERTEXT);
    EXPECT_NUM(shim->num_calls[SHIM_DECRYPT], num_decrypts + 2); /* the canary was asked */
    EXPECT_NUM(shim->num_open, 1);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* The canary would have to wait for them; who won that race was chance. */
HPL_TEST(bad_blobs_at_a_slow_token_with_all_its_sessions_busy_start_no_module_again)
{
    struct softhsm hsm;
    struct flood flood = {0};
    pthread_t threads[40];
    shim_init(&hsm, SHIM_AS_IS);
    hsm.option.max_sessions = 2;
    flood.keystore = must_open(&hsm);
    new_key(flood.keystore, flood.uid);
    EXPECT_OK(try_wrap(flood.keystore, flood.uid, &flood.bad));
    flood.bad.ct[0] ^= 1;
    shim_set(shim->latency_us, 250000);
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, i % 2 ? wrap_on : unwrap_bad_ones, &flood), 0);
    sleep(8);
    atomic_store(&flood.should_stop, true);
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    EXPECT(flood.counts[HPL_INVALID_CIPHERTEXT] > 0);
    EXPECT_NUM(flood.counts[HPL_KEY_UNAVAILABLE], 0);
    EXPECT_NUM(shim->num_initialised, 1);
    flood.keystore->ops->close(flood.keystore);
    softhsm_wipe(&hsm);
}

/* Also where the moment is met by the run that mends another failure. */
HPL_TEST(a_check_blob_that_fails_for_a_moment_takes_nothing_down)
{
    static const struct {
        unsigned long rv, then_rv;
        unsigned times;
    } moments[] = {{CKR_FUNCTION_FAILED, CKR_OK, 1}, {CKR_GENERAL_ERROR, CKR_OK, 1}, {CKR_SESSION_HANDLE_INVALID, CKR_FUNCTION_FAILED, 2}};
    for (size_t i = 0; i < HPL_COUNT(moments); i++) {
        struct softhsm hsm;
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped;
        shim_init(&hsm, SHIM_AS_IS);
        struct hpl_keystore *keystore = must_open(&hsm);
        new_key(keystore, uid);
        keystore->ops->close(keystore);
        keystore = must_open(&hsm);
        shim->rv = moments[i].rv;
        shim->then_rv = moments[i].then_rv;
        shim->times = moments[i].times;
        shim->where = SHIM_DECRYPT;
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
        EXPECT_NUM(shim->times, 0);
        json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
        EXPECT(json_is_false(json_object_get(facts, "has_failed")));
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(a_login_that_is_lost_with_the_session_that_kept_it_comes_back)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    shim_set(shim->has_lost_anchor, 1);
    EXPECT(try_unwrap(keystore, uid, &good) != HPL_OK);
    EXPECT_OK(wait_until_unwrapped(keystore, uid, &good));
    EXPECT_NUM(shim->num_initialised, 2);
    EXPECT_NUM(shim->num_logins, 2);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* --- who waits, and how long ------------------------------------------------------------------------------------------------------------ */

struct waiter {
    struct hpl_keystore *keystore;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped blob;
    unsigned timeout_ms; /* 0: 20 s */
    enum hpl_status status;
};

static void *fetch_random(void *arg)
{
    struct waiter *waiter = arg;
    struct hpl_call call;
    uint8_t bytes[32];
    hpl_call_init(&call, 20000);
    waiter->status = waiter->keystore->ops->random(waiter->keystore, &call, bytes, sizeof bytes);
    return NULL;
}

static void *make_key(void *arg)
{
    struct waiter *waiter = arg;
    struct hpl_call call;
    hpl_call_init(&call, waiter->timeout_ms ? waiter->timeout_ms : 20000);
    waiter->status = waiter->keystore->ops->create_version(waiter->keystore, &call, waiter->uid, 1);
    return NULL;
}

static void *open_blob(void *arg)
{
    struct waiter *waiter = arg;
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    hpl_call_init(&call, waiter->timeout_ms ? waiter->timeout_ms : 20000);
    waiter->status = waiter->keystore->ops->unwrap(waiter->keystore, &call, waiter->uid, 1, aad, &waiter->blob, &opened);
    return NULL;
}

#define HANG_MS 4500u

static void hang_in(struct shim *what, enum shim_where where, unsigned skip)
{
    what->rv = CKR_OK;
    what->delay_ms = HANG_MS;
    what->times = 1;
    what->skip = skip;
    shim_set(what->where, where);
}

static void wait_for_the_fault(const struct shim *what)
{
    for (unsigned i = 0; i < 2000 && !shim_get(what->num_injected); i++)
        usleep(5000);
    EXPECT_NUM(shim_get(what->num_injected), 1);
}

static uint64_t ms_since(uint64_t from_ns)
{
    return (hpl_clock_mono_ns() - from_ns) / 1000000u;
}

HPL_TEST(who_waits_for_random_numbers_of_a_token_that_hangs_waits_no_longer_than_it_may)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct waiter waiter;
    pthread_t thread;
    uint8_t bytes[32];
    shim_init(&hsm, SHIM_AS_IS);
    waiter.keystore = must_open(&hsm);
    hang_in(shim, SHIM_RANDOM, 0);
    EXPECT_NUM(pthread_create(&thread, NULL, fetch_random, &waiter), 0);
    wait_for_the_fault(shim);
    uint64_t from_ns = hpl_clock_mono_ns();
    hpl_call_init(&call, 200);
    EXPECT_STATUS(waiter.keystore->ops->random(waiter.keystore, &call, bytes, sizeof bytes), HPL_TIMEOUT);
    EXPECT(ms_since(from_ns) < HANG_MS - 1000);
    pthread_join(thread, NULL);
    EXPECT_OK(waiter.status);
    hpl_call_init(&call, 5000);
    EXPECT_OK(waiter.keystore->ops->random(waiter.keystore, &call, bytes, sizeof bytes));
    waiter.keystore->ops->close(waiter.keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(who_waits_for_a_key_s_first_check_blob_waits_no_longer_than_it_may)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct waiter waiter;
    pthread_t thread;
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    shim_init(&hsm, SHIM_AS_IS);
    waiter.keystore = must_open(&hsm);
    hpl_uuid_new(waiter.uid);
    hang_in(shim, SHIM_ENCRYPT, 1); /* the first is the new key's trial */
    EXPECT_NUM(pthread_create(&thread, NULL, make_key, &waiter), 0);
    wait_for_the_fault(shim);
    uint64_t from_ns = hpl_clock_mono_ns();
    hpl_call_init(&call, 200);
    EXPECT_STATUS(waiter.keystore->ops->wrap(waiter.keystore, &call, waiter.uid, 1, aad, secret, &wrapped), HPL_TIMEOUT);
    EXPECT(ms_since(from_ns) < HANG_MS - 1000);
    pthread_join(thread, NULL);
    EXPECT_OK(waiter.status);
    EXPECT_OK(try_wrap(waiter.keystore, waiter.uid, &wrapped));
    waiter.keystore->ops->close(waiter.keystore);
    softhsm_wipe(&hsm);
}

/* One call hangs in the token, for a search of its key, a key that it makes, the canary that it waits for; another of its kind comes. */
HPL_TEST(who_comes_after_a_call_that_hangs_waits_no_longer_than_it_may)
{
    static const struct {
        enum shim_where where;
        unsigned skip;
        void *(*ask)(void *);
        bool is_bad;
    } cases[] = {{SHIM_FIND, 0, open_blob, false}, {SHIM_GENERATE, 0, make_key, false}, {SHIM_DECRYPT, 1, open_blob, true}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct softhsm hsm;
        struct waiter first = {0}, second = {.timeout_ms = 200};
        pthread_t thread;
        shim_init(&hsm, SHIM_AS_IS);
        struct hpl_keystore *keystore = must_open(&hsm);
        new_key(keystore, first.uid);
        EXPECT_OK(try_wrap(keystore, first.uid, &first.blob));
        if (!cases[i].is_bad) { /* a keystore that has not searched it yet */
            keystore->ops->close(keystore);
            keystore = must_open(&hsm);
        }
        if (cases[i].ask == make_key)
            hpl_uuid_new(first.uid);
        first.blob.ct[0] ^= cases[i].is_bad;
        first.keystore = second.keystore = keystore;
        second.blob = first.blob;
        memcpy(second.uid, first.uid, sizeof second.uid);
        hang_in(shim, cases[i].where, cases[i].skip);
        EXPECT_NUM(pthread_create(&thread, NULL, cases[i].ask, &first), 0);
        wait_for_the_fault(shim);
        uint64_t from_ns = hpl_clock_mono_ns();
        cases[i].ask(&second);
        EXPECT_STATUS(second.status, HPL_TIMEOUT);
        EXPECT(ms_since(from_ns) < HANG_MS - 1000);
        pthread_join(thread, NULL);
        EXPECT_STATUS(first.status, cases[i].is_bad ? HPL_INVALID_CIPHERTEXT : HPL_OK);
        EXPECT_NUM(shim->num_initialised, 1 + !cases[i].is_bad);
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

struct unwrapper {
    struct hpl_keystore *keystore;
    const uint8_t *uid;
    const struct hpl_wrapped *good;
    _Atomic bool is_over;
};

static void *unwrap_once(void *arg)
{
    struct unwrapper *unwrapper = arg;
    (void)!try_unwrap(unwrapper->keystore, unwrapper->uid, unwrapper->good);
    atomic_store(&unwrapper->is_over, true);
    return NULL;
}

HPL_TEST(status_does_not_wait_while_the_token_is_connected_again)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
    pthread_t thread;
    uint64_t longest_ms = 0;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &good));
    shim_set(shim->is_dead, 1);
    EXPECT(try_unwrap(keystore, uid, &good) != HPL_OK); /* the next one connects */
    struct unwrapper unwrapper = {keystore, uid, &good, false};
    hang_in(shim, SHIM_OPEN, 0);
    EXPECT_NUM(pthread_create(&thread, NULL, unwrap_once, &unwrapper), 0);
    while (!atomic_load(&unwrapper.is_over)) {
        uint64_t from_ns = hpl_clock_mono_ns();
        json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
        EXPECT(facts != NULL);
        longest_ms = ms_since(from_ns) > longest_ms ? ms_since(from_ns) : longest_ms;
        usleep(20000);
    }
    pthread_join(thread, NULL);
    EXPECT_NUM(shim->num_injected, 1);
    EXPECT(longest_ms < HANG_MS - 1000);
    EXPECT_OK(wait_until_unwrapped(keystore, uid, &good));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_check_blob_is_opened_once_after_each_search)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    shim_init(&hsm, SHIM_AS_IS);
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    keystore->ops->close(keystore);
    keystore = must_open(&hsm);
    unsigned before = shim->num_calls[SHIM_DECRYPT];
    for (int i = 0; i < 10; i++)
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    EXPECT_NUM(shim->num_calls[SHIM_DECRYPT] - before, 1);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* --- first sight ----------------------------------------------------------------------------------------------------------------------- */

/* As if this catalog saw the token for the first time. */
static void forget_token(struct softhsm *hsm, unsigned number)
{
    struct hpl_call call = {0};
    hpl_catalog_close(hsm->env.catalog);
    snprintf(hsm->state_dir, sizeof hsm->state_dir, "%s/state-%u", hsm->dir, number);
    EXPECT_OK(hpl_file_make_dir(&call, hsm->state_dir));
    softhsm_open_catalog(hsm);
}

static bool is_right_mode(struct hpl_keystore *keystore, const char *want)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    const char *mechanism = json_string_value(json_object_get(facts, "mechanism")), *iv_mode = json_string_value(json_object_get(facts, "iv_mode"));
    return mechanism && strcmp(mechanism, "aes-gcm") == 0 && iv_mode && strcmp(iv_mode, want) == 0;
}

/* One call of many fails while the token is tried out; opened again it must be what it is, or a lesser mechanism was pinned. */
static void fail_nth(struct softhsm *hsm, enum shim_where where, unsigned long rv, unsigned nth, const char *iv_mode)
{
    struct hpl_call call;
    struct hpl_keystore *keystore = NULL;
    static unsigned number;
    forget_token(hsm, number++);
    shim->rv = rv;
    shim->skip = nth;
    shim->times = 1;
    shim->where = where;
    enum hpl_status status = softhsm_try_open(hsm, &call, &keystore);
    shim->where = SHIM_NOWHERE;
    if (status != HPL_OK && status != HPL_KEY_UNAVAILABLE && status != HPL_BACKEND && status != HPL_INTERNAL)
        fprintf(stderr, "\n    function %d, call %u, code 0x%lx: %s: %s\n", where, nth, rv, hpl_status_row(status)->name, hpl_detail(&call, status));
    EXPECT(status == HPL_OK || status == HPL_KEY_UNAVAILABLE || status == HPL_BACKEND || status == HPL_INTERNAL);
    if (status == HPL_OK)
        keystore->ops->close(keystore);
    keystore = must_open(hsm);
    if (!is_right_mode(keystore, iv_mode))
        fprintf(stderr, "\n    function %d, call %u, code 0x%lx pinned another mode\n", where, nth, rv);
    EXPECT(is_right_mode(keystore, iv_mode));
    keystore->ops->close(keystore);
}

HPL_TEST(a_moments_fault_at_first_sight_pins_no_lesser_mechanism)
{
    static const struct { enum shim_where where; unsigned num_calls; } places[] = {
        {SHIM_OPEN, 60}, {SHIM_GENERATE, 4}, {SHIM_ENCRYPT_INIT, 12}, {SHIM_ENCRYPT, 12}, {SHIM_DECRYPT_INIT, 12}, {SHIM_DECRYPT, 12}, {SHIM_DESTROY, 2}};
    static const unsigned long rvs[] = {CKR_DEVICE_ERROR, CKR_HOST_MEMORY};
    struct softhsm hsm;
    shim_init(&hsm, SHIM_AS_IS);
    for (size_t i = 0; i < HPL_COUNT(places); i++)
        for (unsigned nth = 0; nth < places[i].num_calls; nth++)
            fail_nth(&hsm, places[i].where, rvs[nth % 2], nth, "caller");
    shim->iv = SHIM_RETURNS; /* whose trial of CKM_AES_GCM has another way to fall back to */
    for (unsigned nth = 0; nth < 16; nth++)
        fail_nth(&hsm, nth / 2 % 2 ? SHIM_ENCRYPT : SHIM_ENCRYPT_INIT, rvs[nth % 2], nth / 4, "returned");
    softhsm_wipe(&hsm);
}

HPL_TEST(another_token_of_the_same_name_gets_no_pin_after_a_restart_either)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    char uri[96], serial[32];
    shim_init(&hsm, SHIM_AS_IS);
    keystore = must_open(&hsm);
    keystore->ops->close(keystore);
    *shim = (struct shim){.has_other_serial = 1};
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INTEGRITY);
    EXPECT(strstr(call.detail, "serial=") != NULL);
    EXPECT_NUM(shim->num_logins, 0);

    const char *at = strstr(call.detail, "with serial "); /* its owner means it: the local file names it */
    EXPECT(at && sscanf(at, "with serial %31s", serial) == 1);
    snprintf(uri, sizeof uri, "pkcs11:token=hpl%%20test;serial=%s", serial);
    hsm.option.uri = uri;
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    keystore->ops->close(keystore);
    hsm.option.uri = "pkcs11:token=hpl%20test";
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    keystore->ops->close(keystore);
    *shim = (struct shim){0};
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INTEGRITY);
    EXPECT_NUM(shim->num_logins, 0);
    softhsm_wipe(&hsm);
}
