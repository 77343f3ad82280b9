/* Does the PKCS#11 backend keep what it promises over a real token (SoftHSM), when PINs are wrong, blobs hostile, tokens away? */
#include "tests/contract/open_softhsm.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/wait.h>
#include <p11-kit/p11-kit.h>

#include "backends/pkcs11/cryptoki.h"
#include "backends/pkcs11/device.h"
#include "base/codec.h"
#include "base/json.h"

#define SPY_MODULE "/usr/lib/x86_64-linux-gnu/pkcs11/pkcs11-spy.so"

/* The spy forgets 16 bytes of its own. */
__attribute__((visibility("default"))) const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:pkcs11-spy.so\n";
}

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

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

static json_int_t initialisations(struct hpl_keystore *keystore)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    return json_integer_value(json_object_get(facts, "initialisations"));
}

/* --- a door of the test's own to the token ---------------------------------------------------------------------------------------- */

struct door {
    CK_FUNCTION_LIST *fn;
    CK_SESSION_HANDLE session;
};

/* The process is logged in already, by the keystore that is open. */
static void door_open(struct door *door)
{
    CK_SLOT_ID slots[16];
    CK_ULONG num = HPL_COUNT(slots);
    door->fn = p11_kit_module_load(SOFTHSM_MODULE, 0);
    EXPECT(door->fn != NULL);
    EXPECT_NUM(p11_kit_module_initialize(door->fn), CKR_OK);
    EXPECT_NUM(door->fn->C_GetSlotList(CK_TRUE, slots, &num), CKR_OK);
    EXPECT_NUM(door->fn->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &door->session), CKR_OK);
}

static void door_close(struct door *door)
{
    door->fn->C_CloseSession(door->session);
    p11_kit_module_finalize(door->fn);
    p11_kit_module_release(door->fn);
}

static unsigned door_find(struct door *door, CK_ATTRIBUTE_TYPE type, const void *value, size_t len, CK_OBJECT_HANDLE *handle)
{
    CK_ATTRIBUTE template[] = {{type, (void *)value, len}};
    CK_OBJECT_HANDLE found[4];
    CK_ULONG num = 0;
    EXPECT_NUM(door->fn->C_FindObjectsInit(door->session, template, 1), CKR_OK);
    EXPECT_NUM(door->fn->C_FindObjects(door->session, found, 4, &num), CKR_OK);
    EXPECT_NUM(door->fn->C_FindObjectsFinal(door->session), CKR_OK);
    *handle = found[0];
    return (unsigned)num;
}

static void id_of(uint8_t id[static 20], const uint8_t uid[static 16])
{
    memcpy(id, uid, 16);
    memcpy(id + 16, "\0\0\0\1", 4);
}

/* --- the PIN --------------------------------------------------------------------------------------------------------------------------- */

static unsigned count_in_file(const char *path, const char *word)
{
    struct hpl_buf text = {0};
    struct hpl_call call = {0};
    unsigned count = 0;
    EXPECT_OK(hpl_file_read(&call, path, 100u << 20, &text));
    for (const char *at = hpl_buf_text(&text); (at = strstr(at, word)); at++)
        count++;
    hpl_buf_wipe(&text);
    return count;
}

HPL_TEST(a_wrong_pin_is_sent_once_over_three_starts)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    char log[192];
    softhsm_init(&hsm, "hpl test");
    if (access(SPY_MODULE, R_OK) != 0)
        hpl_test_skip("pkcs11-spy", "opensc is not installed");
    snprintf(log, sizeof log, "%s/spy.log", hsm.dir);
    setenv("PKCS11SPY", SOFTHSM_MODULE, 1);
    setenv("PKCS11SPY_OUTPUT", log, 1);
    hsm.option.module = SPY_MODULE;
    softhsm_write_pin(&hsm, "wrong-pin");
    for (int i = 0; i < 3; i++) {
        EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_PIN_REJECTED);
        EXPECT(!strstr(call.detail, "wrong-pin"));
    }
    EXPECT_NUM(count_in_file(log, "C_Login\n"), 1);
    softhsm_write_pin(&hsm, "user-pin-1");
    keystore = must_open(&hsm);
    EXPECT_NUM(count_in_file(log, "C_Login\n"), 2);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_pin_file_that_others_can_read_is_refused)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    softhsm_init(&hsm, "hpl test");
    EXPECT_NUM(chmod(hsm.pin_file, 0644), 0);
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    hsm.option.pin_source = "user-pin-1";
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(!strstr(call.detail, "user-pin-1"));
    softhsm_wipe(&hsm);
}

HPL_TEST(sources_never_change_pins_tokens_or_logins)
{
    static const char *const never[] = {"C_SetPIN", "C_InitToken", "C_InitPIN", "C_Logout", "CKU_SO", "C_CloseAllSessions"};
    const char *folder = HPL_SOURCE_DIR "/backends/pkcs11";
    unsigned num_files = 0;
    DIR *dir = opendir(folder);
    EXPECT(dir != NULL);
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[512];
        size_t len = strlen(entry->d_name);
        if (len < 3 || (strcmp(entry->d_name + len - 2, ".c") != 0 && strcmp(entry->d_name + len - 2, ".h") != 0))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        for (size_t i = 0; i < HPL_COUNT(never); i++)
            EXPECT_NUM(count_in_file(path, never[i]), 0);
        num_files++;
    }
    closedir(dir);
    EXPECT(num_files > 10);
}

/* --- hostile input ----------------------------------------------------------------------------------------------------------------------- */

HPL_TEST(two_thousand_tampered_blobs_are_the_callers_fault_and_restart_nothing)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    json_int_t before = initialisations(keystore);
    for (unsigned i = 0; i < 2000; i++) {
        struct hpl_wrapped changed = wrapped;
        changed.ct[i % changed.ct_len] ^= (uint8_t)(1 + i % 255);
        EXPECT_STATUS(try_unwrap(keystore, uid, &changed), HPL_INVALID_CIPHERTEXT);
    }
    EXPECT_OK(try_unwrap(keystore, uid, &wrapped));
    EXPECT_NUM(initialisations(keystore), before);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_request_can_only_name_a_token_of_the_file)
{
    struct hpl_token_option tokens[] = {{.name = "main", .uri = "pkcs11:token=hpl%20test;serial=01", .pin_source = "file:/x"},
                                        {.name = "other", .uri = "pkcs11:token=other", .pin_source = "file:/x"},
                                        {.name = "twin-1", .uri = "pkcs11:token=twin;serial=1", .pin_source = "file:/x"},
                                        {.name = "twin-2", .uri = "pkcs11:token=twin;serial=2", .pin_source = "file:/x"}};
    const struct hpl_backend_env env = {.tokens = tokens, .num_tokens = HPL_COUNT(tokens)};
    static const struct { const char *body; enum hpl_status want; } cases[] = {
        {"{\"token\":\"main\"}", HPL_OK},
        {"{\"uri\":\"pkcs11:serial=%30%31;token=hpl%20test\"}", HPL_OK},
        {"{\"uri\":\"pkcs11:token=other\",\"token\":\"other\"}", HPL_OK},
        {"{\"uri\":\"pkcs11:token=other\",\"token\":\"main\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:token=hpl%20test\"}", HPL_OK},
        {"{\"uri\":\"pkcs11:token=twin\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:serial=2\"}", HPL_OK},
        {"{\"uri\":\"pkcs11:token=twin\",\"token\":\"twin-2\"}", HPL_OK},
        {"{\"uri\":\"pkcs11:token=twin?pin-value=secret-7\",\"token\":\"twin-2\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:token=other;manufacturer=x\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:token=other?pin-value=secret-7\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:token=other?pin-source=file:/secret-7\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:token=other?pin=secret-7\"}", HPL_INVALID_REQUEST},
        {"{\"uri\":\"pkcs11:token=other?module-path=/tmp/evil.so\"}", HPL_INVALID_REQUEST},
        {"{\"token\":\"third\"}", HPL_INVALID_REQUEST},
        {"{\"token\":7}", HPL_INVALID_REQUEST},
        {"{}", HPL_INVALID_REQUEST},
        {"{\"token\":\"main\",\"pin\":\"secret-7\"}", HPL_INVALID_REQUEST},
        {"{\"token\":\"main\",\"module\":\"/tmp/evil.so\"}", HPL_INVALID_REQUEST},
        {"{\"token\":\"main\",\"pin_source\":\"file:/etc/shadow\"}", HPL_INVALID_REQUEST},
        {"{\"token\":\"main\",\"library_path\":\"/tmp/evil.so\"}", HPL_INVALID_REQUEST}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct hpl_call call = {0};
        json_t *HPL_JSON_AUTO config = json_loads(cases[i].body, 0, NULL);
        EXPECT_STATUS(hpl_backend_pkcs11.validate(&call, config, &env), cases[i].want);
        EXPECT(!strstr(call.detail, "secret-7"));
    }
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO config = json_pack("{s:s s:s}", "token", "main", "module", "/x");
    EXPECT_STATUS(hpl_backend_pkcs11.validate(&call, config, &env), HPL_INVALID_REQUEST);
    EXPECT(strstr(call.detail, "local configuration file") != NULL);
    struct hpl_token_option vague = {.name = "main", .uri = "pkcs11:manufacturer=SoftHSM%20project", .pin_source = "file:/x"};
    const struct hpl_backend_env loose = {.tokens = &vague, .num_tokens = 1};
    json_t *HPL_JSON_AUTO by_name = json_pack("{s:s}", "token", "main");
    EXPECT_STATUS(hpl_backend_pkcs11.validate(&call, by_name, &loose), HPL_INVALID_CONFIGURATION);
}

HPL_TEST(the_summary_shows_the_token_and_no_secret)
{
    struct hpl_token_option token = {.name = "main", .uri = "pkcs11:token=hpl%20test", .pin_source = "file:/secret-7"};
    const struct hpl_backend_env env = {.tokens = &token, .num_tokens = 1};
    json_t *HPL_JSON_AUTO config = json_pack("{s:s}", "token", "main");
    json_t *HPL_JSON_AUTO summary = hpl_backend_pkcs11.summary(config, &env);
    struct hpl_buf text = {0};
    EXPECT_OK(hpl_json_put(&text, summary));
    EXPECT_TEXT(hpl_buf_text(&text), "{\"backend_type\":\"pkcs11\",\"token\":\"main\",\"uri\":\"pkcs11:token=hpl%20test\"}");
    hpl_buf_wipe(&text);
}

/* --- which token -------------------------------------------------------------------------------------------------------------------------- */

HPL_TEST(two_tokens_of_one_label_are_refused_and_listed)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    softhsm_init(&hsm, "hpl test");
    softhsm_add_token("hpl test");
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "2 tokens match") && strstr(call.detail, "serial="));
    softhsm_wipe(&hsm);
}

HPL_TEST(a_missing_token_is_named_with_those_that_are_there)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    softhsm_init(&hsm, "something else");
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_KEY_UNAVAILABLE);
    EXPECT(strstr(call.detail, "something else") != NULL);
    hsm.option.module = "/nowhere/module.so";
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    softhsm_wipe(&hsm);
}

HPL_TEST(keys_are_found_again_when_slots_changed)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    struct hpl_buf one = {0}, two = {0};
    struct hpl_call call = {0};
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    EXPECT_OK(hpl_backend_pkcs11.identity(&call, keystore, NULL, &hsm.env, &one));
    keystore->ops->close(keystore);
    softhsm_add_token("a");
    softhsm_add_token("b");
    keystore = must_open(&hsm);
    EXPECT_OK(try_unwrap(keystore, uid, &wrapped));
    EXPECT_OK(hpl_backend_pkcs11.identity(&call, keystore, NULL, &hsm.env, &two));
    EXPECT(hpl_bytes_equal(hpl_buf_bytes(&one), hpl_buf_bytes(&two)));
    hpl_buf_wipe(&one);
    hpl_buf_wipe(&two);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

static char pinned[64];

static bool note_name(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    (void)arg, (void)revision, (void)status, (void)content;
    snprintf(pinned, sizeof pinned, "%s", name);
    return true;
}

HPL_TEST(another_iv_mode_than_the_pinned_is_refused)
{
    struct softhsm hsm;
    struct hpl_call call = {0};
    struct hpl_buf row = {0};
    uint64_t revision;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    keystore->ops->close(keystore);
    EXPECT_OK(hpl_catalog_list(&call, hsm.env.catalog, "p11", NULL, 10, note_name, NULL));
    EXPECT(strncmp(pinned, "mode/", 5) == 0);
    EXPECT_OK(hpl_catalog_get(&call, hsm.env.catalog, "p11", pinned, &row, &revision));
    char *at = strstr(hpl_buf_text(&row), "\"caller\"");
    EXPECT(at != NULL);
    memcpy(at, "\"return\"", 8);
    EXPECT_OK(hpl_catalog_put(&call, hsm.env.catalog, "p11", pinned, revision, hpl_buf_bytes(&row), NULL));
    hpl_buf_wipe(&row);
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "aes-gcm with IV mode 'caller' where aes-gcm with 'none' was pinned") != NULL);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_known_token_without_its_canary_is_not_taken_for_a_new_one)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct door door;
    CK_OBJECT_HANDLE canary;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    door_open(&door);
    EXPECT_NUM(door_find(&door, CKA_LABEL, "hpl/canary", 10, &canary), 1);
    EXPECT_NUM(door.fn->C_DestroyObject(door.session, canary), CKR_OK);
    door_close(&door);
    keystore->ops->close(keystore);
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_KEY_UNAVAILABLE);
    softhsm_wipe(&hsm);
}

/* --- keys ------------------------------------------------------------------------------------------------------------------------------------ */

HPL_TEST(a_key_cannot_be_read_or_wrapped_out_of_the_token)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN], id[20], value[64];
    struct door door;
    CK_OBJECT_HANDLE key;
    CK_BBOOL is_sensitive = 0, is_extractable = 1, does_wrap = 1;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    id_of(id, uid);
    door_open(&door);
    EXPECT_NUM(door_find(&door, CKA_ID, id, sizeof id, &key), 1);
    CK_ATTRIBUTE secret = {CKA_VALUE, value, sizeof value};
    EXPECT_NUM(door.fn->C_GetAttributeValue(door.session, key, &secret, 1), CKR_ATTRIBUTE_SENSITIVE);
    CK_ATTRIBUTE facts[] = {{CKA_SENSITIVE, &is_sensitive, 1}, {CKA_EXTRACTABLE, &is_extractable, 1}, {CKA_WRAP, &does_wrap, 1}};
    EXPECT_NUM(door.fn->C_GetAttributeValue(door.session, key, facts, 3), CKR_OK);
    EXPECT(is_sensitive && !is_extractable && !does_wrap);
    door_close(&door);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_key_that_could_leave_the_token_is_not_used)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN], id[20];
    struct door door;
    struct hpl_wrapped wrapped;
    struct hpl_call call = {0};
    CK_OBJECT_HANDLE key;
    CK_ULONG len = 32;
    CK_BBOOL yes = CK_TRUE;
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    hpl_uuid_new(uid);
    id_of(id, uid);
    CK_ATTRIBUTE loose[] = {{CKA_VALUE_LEN, &len, sizeof len}, {CKA_TOKEN, &yes, 1}, {CKA_ENCRYPT, &yes, 1}, {CKA_EXTRACTABLE, &yes, 1},
                            {CKA_ID, id, sizeof id}, {CKA_LABEL, (char *)"hpl/x", 5}};
    door_open(&door);
    EXPECT_NUM(door.fn->C_GenerateKey(door.session, &mechanism, loose, HPL_COUNT(loose), &key), CKR_OK);
    EXPECT_STATUS(try_wrap(keystore, uid, &wrapped), HPL_INTEGRITY);
    EXPECT_STATUS(keystore->ops->create_version(keystore, &call, uid, 1), HPL_INTEGRITY);
    EXPECT_NUM(door.fn->C_GenerateKey(door.session, &mechanism, loose, HPL_COUNT(loose), &key), CKR_OK);
    EXPECT_STATUS(try_wrap(keystore, uid, &wrapped), HPL_INTEGRITY);
    EXPECT_STATUS(keystore->ops->destroy_version(keystore, &call, uid, 1), HPL_INTEGRITY);
    EXPECT_NUM(door_find(&door, CKA_ID, id, sizeof id, &key), 2);
    door_close(&door);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* An AES key as ours is made, but for what is said. */
static void door_make(struct door *door, const uint8_t uid[static HPL_KEY_UID_LEN], const char *named, CK_BBOOL is_sensitive, CK_BBOOL is_extractable)
{
    struct hpl_p11_ref ref = {.version = 1};
    uint8_t id[20];
    char label[HPL_P11_LABEL_MAX + 1];
    CK_OBJECT_HANDLE key;
    CK_ULONG len = 32;
    CK_BBOOL yes = CK_TRUE;
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    memcpy(ref.uid, uid, sizeof ref.uid);
    hpl_p11_ref_label(&ref, label);
    if (named)
        snprintf(label, sizeof label, "%s", named);
    id_of(id, uid);
    CK_ATTRIBUTE template[] = {{CKA_VALUE_LEN, &len, sizeof len}, {CKA_TOKEN, &yes, 1}, {CKA_PRIVATE, &yes, 1}, {CKA_ENCRYPT, &yes, 1}, {CKA_DECRYPT, &yes, 1},
                               {CKA_SENSITIVE, &is_sensitive, 1}, {CKA_EXTRACTABLE, &is_extractable, 1}, {CKA_ID, id, sizeof id},
                               {CKA_LABEL, label, strlen(label)}};
    EXPECT_NUM(door->fn->C_GenerateKey(door->session, &mechanism, template, HPL_COUNT(template), &key), CKR_OK);
}

HPL_TEST(a_key_of_the_right_id_that_could_leave_the_token_or_has_another_name_is_not_used)
{
    static const struct { const char *label; CK_BBOOL is_sensitive, is_extractable; const char *why; } cases[] = {
        {NULL, CK_FALSE, CK_FALSE, "can leave the token"}, {NULL, CK_TRUE, CK_TRUE, "can leave the token"}, {"hpl/other", CK_TRUE, CK_FALSE, "has another label"}};
    struct softhsm hsm;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        uint8_t uid[HPL_KEY_UID_LEN], id[20];
        struct door door;
        struct hpl_wrapped wrapped;
        struct hpl_call call = {0};
        CK_OBJECT_HANDLE key;
        hpl_uuid_new(uid);
        id_of(id, uid);
        door_open(&door);
        door_make(&door, uid, cases[i].label, cases[i].is_sensitive, cases[i].is_extractable);
        EXPECT_STATUS(try_wrap(keystore, uid, &wrapped), HPL_INTEGRITY);
        EXPECT_STATUS(keystore->ops->create_version(keystore, &call, uid, 1), HPL_INTEGRITY);
        EXPECT(strstr(call.detail, cases[i].why) != NULL);
        EXPECT_STATUS(keystore->ops->destroy_version(keystore, &call, uid, 1), HPL_INTEGRITY);
        EXPECT_NUM(door_find(&door, CKA_ID, id, sizeof id, &key), 1);
        door_close(&door);
    }
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(two_keys_of_one_name_are_neither_used_nor_destroyed)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN], id[20];
    struct door door;
    struct hpl_wrapped wrapped;
    CK_OBJECT_HANDLE key;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    hpl_uuid_new(uid);
    id_of(id, uid);
    door_open(&door);
    for (int i = 0; i < 2; i++)
        door_make(&door, uid, NULL, CK_TRUE, CK_FALSE);
    struct hpl_call wrapping, creating = {0}, destroying = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    hpl_call_init(&wrapping, 5000);
    EXPECT_STATUS(keystore->ops->wrap(keystore, &wrapping, uid, 1, aad, secret, &wrapped), HPL_INTEGRITY);
    EXPECT_STATUS(keystore->ops->create_version(keystore, &creating, uid, 1), HPL_INTEGRITY);
    EXPECT_STATUS(keystore->ops->destroy_version(keystore, &destroying, uid, 1), HPL_INTEGRITY);
    EXPECT(strstr(wrapping.detail, "more than one") && strstr(creating.detail, "more than one") && strstr(destroying.detail, "more than one"));
    EXPECT_NUM(door_find(&door, CKA_ID, id, sizeof id, &key), 2);
    door_close(&door);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

static void expect_flags(struct door *door, CK_OBJECT_HANDLE key, const CK_ATTRIBUTE_TYPE *types, size_t num, CK_BBOOL wanted)
{
    for (size_t i = 0; i < num; i++) {
        CK_BBOOL is = !wanted;
        CK_ATTRIBUTE attribute = {types[i], &is, sizeof is};
        EXPECT_NUM(door->fn->C_GetAttributeValue(door->session, key, &attribute, 1), CKR_OK);
        if (is != wanted)
            fprintf(stderr, "\n    attribute 0x%lx\n", types[i]);
        EXPECT_NUM(is, wanted);
    }
}

HPL_TEST(a_key_may_do_nothing_but_its_own_work)
{
    static const CK_ATTRIBUTE_TYPE never[] = {CKA_EXTRACTABLE, CKA_WRAP, CKA_UNWRAP, CKA_DERIVE}, always[] = {CKA_TOKEN, CKA_PRIVATE, CKA_SENSITIVE},
                                   cipher[] = {CKA_ENCRYPT, CKA_DECRYPT}, mac[] = {CKA_SIGN, CKA_VERIFY}, copies[] = {CKA_COPYABLE};
    static const struct { const char *label; bool is_mac; } keys[] = {{"hpl/canary", false}, {"hpl/meta-mac", true}, {NULL, false}};
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN], id[20];
    struct door door;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    id_of(id, uid);
    door_open(&door);
    for (size_t i = 0; i < HPL_COUNT(keys); i++) {
        const char *label = keys[i].label;
        CK_OBJECT_HANDLE key;
        CK_ULONG len = 0;
        CK_MECHANISM_TYPE allowed[4];
        CK_ATTRIBUTE size = {CKA_VALUE_LEN, &len, sizeof len}, mechanisms = {CKA_ALLOWED_MECHANISMS, allowed, sizeof allowed};
        EXPECT_NUM(label ? door_find(&door, CKA_LABEL, label, strlen(label), &key) : door_find(&door, CKA_ID, id, sizeof id, &key), 1);
        expect_flags(&door, key, never, HPL_COUNT(never), CK_FALSE);
        expect_flags(&door, key, always, HPL_COUNT(always), CK_TRUE);
        expect_flags(&door, key, cipher, HPL_COUNT(cipher), !keys[i].is_mac);
        expect_flags(&door, key, mac, HPL_COUNT(mac), keys[i].is_mac);
        expect_flags(&door, key, copies, HPL_COUNT(copies), CK_FALSE);
        EXPECT_NUM(door.fn->C_GetAttributeValue(door.session, key, &size, 1), CKR_OK);
        EXPECT_NUM(len, 32);
        if (keys[i].is_mac)
            continue;
        EXPECT_NUM(door.fn->C_GetAttributeValue(door.session, key, &mechanisms, 1), CKR_OK);
        EXPECT(mechanisms.ulValueLen == sizeof *allowed && allowed[0] == CKM_AES_GCM);
    }
    door_close(&door);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

struct creator {
    struct hpl_keystore *keystore;
    const uint8_t *uid;
    enum hpl_status status;
};

static void *create_one(void *arg)
{
    struct creator *creator = arg;
    struct hpl_call call;
    hpl_call_init(&call, 20000);
    creator->status = creator->keystore->ops->create_version(creator->keystore, &call, creator->uid, 1);
    return NULL;
}

HPL_TEST(sixteen_creations_at_once_make_one_object_a_version)
{
    struct softhsm hsm;
    uint8_t uids[2][HPL_KEY_UID_LEN], id[20];
    struct creator creators[16];
    pthread_t threads[16];
    struct door door;
    CK_OBJECT_HANDLE key;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystores[] = {must_open(&hsm), must_open(&hsm)};
    hpl_uuid_new(uids[0]);
    hpl_uuid_new(uids[1]);
    for (unsigned i = 0; i < 16; i++) {
        creators[i] = (struct creator){.keystore = keystores[i / 2 % 2], .uid = uids[i % 2]};
        EXPECT_NUM(pthread_create(&threads[i], NULL, create_one, &creators[i]), 0);
    }
    for (unsigned i = 0; i < 16; i++) {
        pthread_join(threads[i], NULL);
        EXPECT_STATUS(creators[i].status, HPL_OK);
    }
    door_open(&door);
    for (unsigned i = 0; i < 2; i++) {
        id_of(id, uids[i]);
        EXPECT_NUM(door_find(&door, CKA_ID, id, sizeof id, &key), 1);
    }
    door_close(&door);
    keystores[0]->ops->close(keystores[0]);
    keystores[1]->ops->close(keystores[1]);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_forked_child_is_turned_away)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    int how = 0;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        struct hpl_call call = {0};
        _exit(keystore->ops->probe(keystore, &call) == HPL_BACKEND ? 0 : 1);
    }
    EXPECT_NUM(waitpid(child, &how, 0), child);
    EXPECT_NUM(how, 0);
    EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* --- a token that comes and goes -------------------------------------------------------------------------------------------------------------- */

struct load {
    struct hpl_keystore *keystore;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good; /* wrapped before anything happens to the token */
    _Atomic bool *should_stop;
    _Atomic unsigned counts[HPL_NUM_STATUSES];
};

static void *work(void *arg)
{
    struct load *load = arg;
    struct hpl_wrapped wrapped;
    do {
        load->counts[try_wrap(load->keystore, load->uid, &wrapped)]++;
        load->counts[try_unwrap(load->keystore, load->uid, &load->good)]++;
    } while (!*load->should_stop);
    return NULL;
}

/* Until each of them saw that, or never will. */
static void wait_for_all(const struct load *loads, size_t count, enum hpl_status status)
{
    for (size_t i = 0; i < count; i++)
        for (int n = 0; n < 6000 && !loads[i].counts[status]; n++)
            usleep(5000);
}

static void token_path(const struct softhsm *hsm, char path[static 320])
{
    DIR *dir = opendir(hsm->tokens);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            snprintf(path, 320, "%s/%.100s", hsm->tokens, entry->d_name);
    closedir(dir);
}

HPL_TEST(a_token_taken_away_under_load_is_unavailable_and_works_when_it_is_back)
{
    struct softhsm hsm;
    struct load loads[6];
    pthread_t threads[HPL_COUNT(loads)];
    _Atomic bool should_stop = false;
    char here[320], away[320];
    struct hpl_wrapped wrapped;
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystores[] = {must_open(&hsm), must_open(&hsm)};
    for (size_t i = 0; i < HPL_COUNT(loads); i++) {
        loads[i] = (struct load){.keystore = keystores[i % 2], .should_stop = &should_stop};
        new_key(loads[i].keystore, loads[i].uid);
        EXPECT_OK(try_wrap(loads[i].keystore, loads[i].uid, &loads[i].good));
    }
    for (size_t i = 0; i < HPL_COUNT(loads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, &loads[i]), 0);
    token_path(&hsm, here);
    snprintf(away, sizeof away, "%s/away", hsm.dir);
    json_int_t before = initialisations(keystores[0]);
    wait_for_all(loads, HPL_COUNT(loads), HPL_OK);
    EXPECT_NUM(rename(here, away), 0);
    wait_for_all(loads, HPL_COUNT(loads), HPL_KEY_UNAVAILABLE);
    usleep(500000); /* and some attempts to bring it back fail */
    EXPECT_NUM(rename(away, here), 0);
    bool is_back = false;
    for (int i = 0; i < 300 && !is_back; i++) {
        usleep(100000);
        is_back = try_wrap(keystores[0], loads[0].uid, &wrapped) == HPL_OK && try_wrap(keystores[1], loads[1].uid, &wrapped) == HPL_OK;
    }
    should_stop = true;
    for (size_t i = 0; i < HPL_COUNT(loads); i++) {
        pthread_join(threads[i], NULL);
        for (unsigned status = 0; status < HPL_NUM_STATUSES; status++)
            if (status != HPL_OK && status != HPL_KEY_UNAVAILABLE && status != HPL_BACKEND && status != HPL_TIMEOUT) {
                if (loads[i].counts[status])
                    fprintf(stderr, "\n    %u times %s\n", loads[i].counts[status], hpl_status_row(status)->name);
                EXPECT_NUM(loads[i].counts[status], 0);
            }
        EXPECT(loads[i].counts[HPL_OK] > 0 && loads[i].counts[HPL_KEY_UNAVAILABLE] > 0);
        EXPECT_OK(try_wrap(loads[i].keystore, loads[i].uid, &wrapped));
    }
    EXPECT(is_back);
    EXPECT(initialisations(keystores[0]) > before);
    keystores[0]->ops->close(keystores[0]);
    keystores[1]->ops->close(keystores[1]);
    softhsm_wipe(&hsm);
}

HPL_TEST(one_session_serves_many_threads)
{
    struct softhsm hsm;
    struct load loads[8];
    pthread_t threads[HPL_COUNT(loads)];
    _Atomic bool should_stop = false;
    softhsm_init(&hsm, "hpl test");
    hsm.option.max_sessions = 1;
    struct hpl_keystore *keystore = must_open(&hsm);
    for (size_t i = 0; i < HPL_COUNT(loads); i++) {
        loads[i] = (struct load){.keystore = keystore, .should_stop = &should_stop};
        new_key(keystore, loads[i].uid);
        EXPECT_OK(try_wrap(keystore, loads[i].uid, &loads[i].good));
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, &loads[i]), 0);
    }
    wait_for_all(loads, HPL_COUNT(loads), HPL_OK);
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    EXPECT_NUM(json_integer_value(json_object_get(facts, "sessions")), 1);
    should_stop = true;
    for (size_t i = 0; i < HPL_COUNT(loads); i++) {
        pthread_join(threads[i], NULL);
        for (unsigned status = 0; status < HPL_NUM_STATUSES; status++)
            EXPECT_NUM(status != HPL_OK && loads[i].counts[status], 0);
        EXPECT(loads[i].counts[HPL_OK] > 0);
    }
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(modules_of_p11_kits_configuration_work_too)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped wrapped;
    softhsm_init(&hsm, "hpl test");
    if (access("/usr/share/p11-kit/modules/softhsm2.module", R_OK) != 0)
        hpl_test_skip("p11-kit's configuration", "it does not name SoftHSM here");
    hsm.option.module = NULL;
    for (int i = 0; i < 2; i++) {
        struct hpl_keystore *keystore = must_open(&hsm);
        new_key(keystore, uid);
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
        EXPECT_OK(try_unwrap(keystore, uid, &wrapped));
        keystore->ops->close(keystore);
    }
    softhsm_wipe(&hsm);
}

/* --- records and counters ---------------------------------------------------------------------------------------------------------------------- */

static bool count_bad(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    unsigned *counts = arg;
    (void)key_id, (void)revision, (void)content;
    counts[status == HPL_OK ? 0 : status == HPL_INTEGRITY ? 1 : 2]++;
    return true;
}

/* The catalog's own MAC is made with the root secret; here the attacker holds that too. */
HPL_TEST(a_record_changed_or_replayed_by_a_holder_of_the_root_is_refused)
{
    struct softhsm hsm;
    struct hpl_call call = {0};
    struct hpl_buf row = {0}, content = {0};
    uint64_t revision, first;
    unsigned counts[3] = {0};
    char type[80];
    uint8_t uid[HPL_KEY_UID_LEN];
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    EXPECT_OK(hpl_catalog_list(&call, hsm.env.catalog, "p11", NULL, 10, note_name, NULL));
    snprintf(type, sizeof type, "p11key/%s", pinned + strlen("mode/"));
    hpl_uuid_new(uid);
    EXPECT_OK(keystore->ops->record_put(keystore, &call, "victim", uid, 0, hpl_bytes_str("{\"state\":\"Enabled\"}"), &first));
    EXPECT_OK(keystore->ops->record_put(keystore, &call, "bystander", uid, 0, hpl_bytes_str("{}"), NULL));
    EXPECT_OK(hpl_catalog_get(&call, hsm.env.catalog, type, "victim", &row, &revision));
    EXPECT_OK(keystore->ops->record_put(keystore, &call, "victim", uid, first, hpl_bytes_str("{\"state\":\"Disabled\"}"), &revision));
    EXPECT_OK(hpl_catalog_put(&call, hsm.env.catalog, type, "victim", revision, hpl_buf_bytes(&row), &revision)); /* the old one again */
    EXPECT_STATUS(keystore->ops->record_get(keystore, &call, "victim", &content, &revision), HPL_INTEGRITY);
    row.data[row.len - 3] ^= 1;
    EXPECT_OK(hpl_catalog_put(&call, hsm.env.catalog, type, "victim", revision, hpl_buf_bytes(&row), &revision));
    EXPECT_STATUS(keystore->ops->record_get(keystore, &call, "victim", &content, &revision), HPL_INTEGRITY);
    EXPECT_OK(hpl_catalog_put(&call, hsm.env.catalog, type, "victim", revision, hpl_bytes_str("short"), &revision));
    EXPECT_STATUS(keystore->ops->record_get(keystore, &call, "victim", &content, &revision), HPL_INTEGRITY);
    EXPECT_OK(keystore->ops->record_get(keystore, &call, "bystander", &content, &revision));
    EXPECT_OK(keystore->ops->record_list(keystore, &call, NULL, 100, count_bad, counts));
    EXPECT_NUM(counts[0], 1);
    EXPECT_NUM(counts[1], 1);
    EXPECT_NUM(counts[2], 0);
    hpl_buf_wipe(&row);
    hpl_buf_wipe(&content);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

static uint64_t wraps_of(struct softhsm *hsm, const uint8_t *uid, uint64_t *revision)
{
    uint8_t id[20];
    char name[41];
    struct hpl_call call = {0};
    struct hpl_buf row = {0};
    id_of(id, uid);
    hpl_hex_encode(name, id, sizeof id);
    EXPECT_OK(hpl_catalog_get(&call, hsm->env.catalog, "p11wraps", name, &row, revision));
    struct hpl_reader reader = {.rest = hpl_buf_bytes(&row)};
    uint64_t count = hpl_read_u64(&reader);
    hpl_buf_wipe(&row);
    return count;
}

HPL_TEST(wraps_are_counted_and_end_at_two_to_the_thirty_two)
{
    struct softhsm hsm;
    uint8_t uid[HPL_KEY_UID_LEN], id[20];
    char name[41];
    uint64_t revision;
    struct hpl_wrapped wrapped;
    struct hpl_call call = {0};
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    new_key(keystore, uid);
    id_of(id, uid);
    hpl_hex_encode(name, id, sizeof id);
    for (int i = 0; i < 3; i++)
        EXPECT_OK(try_wrap(keystore, uid, &wrapped));
    EXPECT_NUM(wraps_of(&hsm, uid, &revision), 1 << 20);
    keystore->ops->close(keystore);
    EXPECT_NUM(wraps_of(&hsm, uid, &revision), 3);
    EXPECT_OK(hpl_catalog_put(&call, hsm.env.catalog, "p11wraps", name, revision, hpl_bytes("\0\0\0\0\xff\xf0\0\1", 8), NULL));
    keystore = must_open(&hsm);
    EXPECT_STATUS(try_wrap(keystore, uid, &wrapped), HPL_KEY_UNAVAILABLE);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(random_bytes_come_in_any_length_and_never_twice)
{
    struct softhsm hsm;
    uint8_t one[10000] = {0};
    struct hpl_call call = {0};
    softhsm_init(&hsm, "hpl test");
    struct hpl_keystore *keystore = must_open(&hsm);
    EXPECT_OK(keystore->ops->random(keystore, &call, one, sizeof one));
    for (size_t i = 0; i + 16 <= sizeof one; i += 16)
        for (size_t j = 0; j < i; j += 16)
            EXPECT(memcmp(one + i, one + j, 16) != 0);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

static json_int_t num_orphans(struct hpl_keystore *keystore, const char *label)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    const json_t *orphans = json_object_get(facts, "orphans");
    if (label)
        EXPECT_TEXT(json_string_value(json_array_get(json_object_get(orphans, "labels"), 0)), label);
    return json_is_object(orphans) ? json_integer_value(json_object_get(orphans, "count")) : -1;
}

static void expect_orphan_told(const struct hpl_tokend_option *worker)
{
    struct softhsm hsm;
    struct hpl_call call = {0};
    struct hpl_wrapped wrapped;
    uint8_t known[HPL_KEY_UID_LEN], stray[HPL_KEY_UID_LEN] = {0};
    softhsm_init(&hsm, "hpl test");
    hsm.env.tokend = worker;
    struct hpl_keystore *keystore = must_open(&hsm);
    EXPECT_NUM(num_orphans(keystore, NULL), 0);
    for (int i = 0; i < 5; i++) {
        char key_id[37];
        new_key(keystore, known);
        hpl_uuid_text(key_id, known);
        EXPECT_OK(keystore->ops->record_put(keystore, &call, key_id, known, 0, hpl_bytes_str("{}"), NULL));
    }
    EXPECT_OK(keystore->ops->create_version(keystore, &call, stray, 7));
    EXPECT_OK(try_wrap(keystore, known, &wrapped));
    keystore->ops->close(keystore);
    keystore = must_open(&hsm);
    EXPECT_NUM(num_orphans(keystore, "hpl/aaaaaaaaaaaaa/7"), 1);
    EXPECT_OK(try_unwrap(keystore, known, &wrapped));
    EXPECT_OK(keystore->ops->destroy_version(keystore, &call, stray, 7)); /* it was left where it was */
    keystore->ops->close(keystore);
    keystore = must_open(&hsm);
    EXPECT_NUM(num_orphans(keystore, NULL), 0);
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(keys_that_no_record_names_are_told_of_and_left_alone)
{
    static const struct hpl_tokend_option worker;
    expect_orphan_told(NULL);
    expect_orphan_told(&worker);
}
