/* Do the tiers below AES-GCM wrap as safely, is the right one found, and does none take another's place unasked? SoftHSM, NSS and
 * Kryoptic, each as far as it is to be had. */
#include "tests/contract/open_kryoptic.h"
#include "tests/contract/open_nss.h"
#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"

#include <dlfcn.h>

#include "backends/pkcs11/cryptoki.h"
#include "base/codec.h"
#include "base/json.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context", other_aad[HPL_WRAP_AAD_LEN] = "Context";

static const struct { const char *name; const struct hpl_backend_env *(*env)(void); } tokens[] = {
    {"softhsm", softhsm_env}, {"nss", nss_env}, {"kryoptic", kryoptic_env}};

static void new_key(struct hpl_keystore *keystore, uint8_t uid[static HPL_KEY_UID_LEN])
{
    struct hpl_call call = {0};
    hpl_uuid_new(uid);
    enum hpl_status status = keystore->ops->create_version(keystore, &call, uid, 1);
    if (status != HPL_OK)
        fprintf(stderr, "\n    create: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
}

static enum hpl_status try_wrap(struct hpl_keystore *keystore, const uint8_t *uid, uint32_t version, struct hpl_wrapped *out, struct hpl_call *call)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    hpl_call_init(call, 20000);
    return keystore->ops->wrap(keystore, call, uid, version, aad, secret, out);
}

static enum hpl_status try_unwrap(struct hpl_keystore *keystore, const uint8_t *uid, const uint8_t *with, const struct hpl_wrapped *wrapped)
{
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_call call;
    hpl_call_init(&call, 20000);
    return keystore->ops->unwrap(keystore, &call, uid, 1, with, wrapped, &opened);
}

static void expect_fact(struct hpl_keystore *keystore, const char *name, const char *value)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    EXPECT_TEXT(json_string_value(json_object_get(facts, name)), value);
}

/* Every seventh byte, the borders between the parts, the MAC's ends. */
static void refuses_changes(struct hpl_keystore *keystore, const uint8_t *uid, const struct hpl_wrapped *wrapped)
{
    for (size_t i = 0; i < wrapped->ct_len; i += i + 8 < wrapped->ct_len ? 7 : 1) {
        struct hpl_wrapped changed = *wrapped;
        changed.ct[i] ^= 0x20;
        EXPECT_STATUS(try_unwrap(keystore, uid, aad, &changed), HPL_INVALID_CIPHERTEXT);
    }
    for (size_t i = 0; i < wrapped->iv_len; i++) {
        struct hpl_wrapped changed = *wrapped;
        changed.iv[i] ^= 3;
        EXPECT_STATUS(try_unwrap(keystore, uid, aad, &changed), HPL_INVALID_CIPHERTEXT);
    }
    for (uint16_t len = 0; len < wrapped->ct_len; len++) {
        struct hpl_wrapped changed = *wrapped;
        changed.ct_len = len;
        EXPECT_STATUS(try_unwrap(keystore, uid, aad, &changed), HPL_INVALID_CIPHERTEXT);
    }
    EXPECT_STATUS(try_unwrap(keystore, uid, other_aad, wrapped), HPL_INVALID_CIPHERTEXT);
}

static void wraps_soundly(struct hpl_keystore *keystore)
{
    static const size_t lens[] = {16, 17, 31, 32, 33, 48, 64};
    uint8_t uid[HPL_KEY_UID_LEN], other[HPL_KEY_UID_LEN];
    new_key(keystore, uid);
    new_key(keystore, other);
    for (size_t i = 0; i < HPL_COUNT(lens); i++) {
        struct hpl_wrapped wrapped, again;
        struct hpl_call call = {0};
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(lens[i]);
        struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &again));
        EXPECT(memcmp(wrapped.iv, again.iv, wrapped.iv_len) != 0 && memcmp(wrapped.ct, again.ct, 16) != 0);
        EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &wrapped, &opened));
        EXPECT_NUM(opened->len, lens[i]);
        EXPECT_BYTES(opened->bytes, secret->bytes, lens[i]);
        EXPECT_STATUS(try_unwrap(keystore, other, aad, &wrapped), HPL_INVALID_CIPHERTEXT);
        if (lens[i] == 32)
            refuses_changes(keystore, uid, &wrapped);
    }
    struct hpl_call call = {0};
    EXPECT_OK(keystore->ops->probe(keystore, &call));
    EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
    EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
}

static void each_token_wraps_by(const char *mechanism, uint8_t number)
{
    for (size_t i = 0; i < HPL_COUNT(tokens); i++) {
        const struct hpl_backend_env *env = tokens[i].env();
        struct soft_view view;
        if (!env)
            continue;
        soft_view_init(&view, env, mechanism);
        struct hpl_keystore *keystore = soft_open(&view.env, tokens[i].name);
        expect_fact(keystore, "mechanism", mechanism);
        EXPECT_NUM(keystore->ops->mechanism(keystore), number);
        wraps_soundly(keystore);
        keystore->ops->close(keystore);
        soft_view_wipe(&view);
    }
}

HPL_TEST(each_token_wraps_by_cbc_and_hmac)
{
    each_token_wraps_by("aes-cbc-hmac", HPL_MECH_P11_CBC_HMAC);
}

HPL_TEST(each_token_wraps_by_oaep_and_hmac)
{
    each_token_wraps_by("rsa-oaep", HPL_MECH_P11_OAEP_HMAC);
}

HPL_TEST(oaep_takes_the_better_hash_that_the_token_has)
{
    static const char *const hashes[] = {"sha1", "sha256", "sha256"};
    for (size_t i = 0; i < HPL_COUNT(tokens); i++) {
        const struct hpl_backend_env *env = tokens[i].env();
        struct soft_view view;
        if (!env)
            continue;
        soft_view_init(&view, env, "rsa-oaep");
        struct hpl_keystore *keystore = soft_open(&view.env, tokens[i].name);
        expect_fact(keystore, "iv_mode", hashes[i]);
        keystore->ops->close(keystore);
        soft_view_wipe(&view);
    }
}

/* --- SoftHSM behind the shim, as tokens that can do less ------------------------------------------------------------------------------ */

static struct shim *shim_init(struct softhsm *hsm, enum shim_iv iv)
{
    softhsm_init(hsm, "hpl test");
    void *module = dlopen(SHIM_MODULE, RTLD_NOW | RTLD_LOCAL);
    EXPECT(module != NULL);
    struct shim *shim = dlsym(module, "hpl_shim");
    EXPECT(shim != NULL);
    *shim = (struct shim){.iv = iv};
    hsm->option.module = SHIM_MODULE;
    return shim;
}

HPL_TEST(a_token_without_gcm_falls_to_cbc_on_its_own)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    struct hpl_wrapped wrapped;
    uint8_t uid[HPL_KEY_UID_LEN];
    shim_init(&hsm, SHIM_NO_GCM);
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    expect_fact(keystore, "mechanism", "aes-cbc-hmac");
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, 1, &wrapped, &call));
    EXPECT_NUM(wrapped.mechanism, HPL_MECH_P11_CBC_HMAC);
    EXPECT_OK(try_unwrap(keystore, uid, aad, &wrapped));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

/* Two members that are one token: as alike as clones can be. */
HPL_TEST(clones_that_make_ivs_themselves_are_a_group_on_the_operators_word_alone)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    shim_init(&hsm, SHIM_RETURNS);
    struct hpl_token_option members[2] = {hsm.option, hsm.option};
    const struct hpl_token_option whole = {.name = hsm.option.name, .members = members, .num_members = 2};
    members[0].name = "main.1";
    members[1].name = "main.2";
    hsm.option = whole;
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "makes AES-GCM's IVs itself") != NULL);
    members[0].iv_mode = members[1].iv_mode = "returned";
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    keystore->ops->close(keystore);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_moments_fault_does_not_pin_a_lesser_tier)
{
    static const unsigned long codes[] = {CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, CKR_DEVICE_MEMORY, CKR_SESSION_COUNT};
    for (size_t i = 0; i < HPL_COUNT(codes); i++) {
        struct softhsm hsm;
        struct hpl_call call;
        struct hpl_keystore *keystore = NULL;
        struct shim *shim = shim_init(&hsm, SHIM_AS_IS);
        shim->rv = codes[i];
        shim->times = 5;
        shim_set(shim->where, SHIM_ENCRYPT);
        if (softhsm_try_open(&hsm, &call, &keystore) == HPL_OK) {
            expect_fact(keystore, "mechanism", "aes-gcm");
            keystore->ops->close(keystore);
        }
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(what_the_local_file_names_is_used_or_nothing)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    struct shim *shim = shim_init(&hsm, SHIM_NO_GCM);
    hsm.option.mechanism = "aes-gcm";
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "passed no trial of mechanism aes-gcm") != NULL);
    hsm.option.mechanism = "aes-ecb";
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    shim->iv = SHIM_AS_IS;
    hsm.option.mechanism = "aes-gcm";
    hsm.option.iv_mode = "returned";
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_token_without_session_objects_is_tried_with_token_objects_that_go_again)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    struct hpl_wrapped wrapped;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct shim *shim = shim_init(&hsm, SHIM_NO_GCM);
    shim->has_no_session_objects = 1;
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    unsigned before = shim->num_calls[SHIM_DESTROY];
    EXPECT(before >= 3);
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, 1, &wrapped, &call));
    keystore->ops->close(keystore);
    char command[512];
    snprintf(command, sizeof command, "pkcs11-tool --module %s --login --pin user-pin-1 --list-objects 2>/dev/null | grep -c hpl/trial >%s/count", SOFTHSM_MODULE,
             hsm.dir);
    EXPECT(system(command) != 0);
    softhsm_wipe(&hsm);
}

/* What it writes is right; what it says of the length may be anything, beyond all memory too. */
HPL_TEST(a_module_that_lies_about_the_length_it_gave_is_not_believed)
{
    static const char *const mechanisms[] = {"aes-gcm", "aes-cbc-hmac", "rsa-oaep"};
    static const unsigned long told[] = {16, 1ul << 40, ~0ul};
    for (size_t i = 0; i < HPL_COUNT(mechanisms); i++) {
        struct softhsm hsm;
        struct hpl_call call;
        struct hpl_keystore *keystore;
        struct hpl_wrapped wrapped;
        uint8_t uid[HPL_KEY_UID_LEN];
        struct shim *shim = shim_init(&hsm, SHIM_AS_IS);
        hsm.option.mechanism = mechanisms[i];
        EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
        new_key(keystore, uid);
        EXPECT_OK(try_wrap(keystore, uid, 1, &wrapped, &call));
        for (size_t n = 0; n < HPL_COUNT(told); n++) {
            shim_set(shim->told_len, told[n]);
            EXPECT_STATUS(try_unwrap(keystore, uid, aad, &wrapped), HPL_KEY_UNAVAILABLE);
            shim_set(shim->told_len, 0);
            enum hpl_status status = HPL_KEY_UNAVAILABLE;
            for (unsigned tries = 0; tries < 200 && status != HPL_OK; tries++, usleep(50000))
                status = try_unwrap(keystore, uid, aad, &wrapped);
            EXPECT_OK(status);
        }
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

/* --- the mode is pinned ------------------------------------------------------------------------------------------------------------------ */

HPL_TEST(keys_of_gcm_tell_the_service_how_many_wraps_a_version_may_do)
{
    static const struct { const char *mechanism; uint64_t most; } cases[] = {{"aes-gcm", 3037000499u}, {"aes-cbc-hmac", 0}}; /* 2^31.5 */
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct softhsm hsm;
        struct hpl_call call;
        struct hpl_keystore *keystore;
        bool is_there = true;
        uint64_t most = 1;
        shim_init(&hsm, SHIM_AS_IS);
        hsm.option.mechanism = cases[i].mechanism;
        EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
        EXPECT(keystore->ops->has_material != NULL);
        EXPECT_OK(keystore->ops->has_material(keystore, &call, "any", &is_there, &most));
        EXPECT(!is_there);
        EXPECT_NUM(most, cases[i].most);
        keystore->ops->close(keystore);
        softhsm_wipe(&hsm);
    }
}

HPL_TEST(another_mechanism_than_the_pinned_is_refused_until_it_is_accepted)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    struct hpl_wrapped old, new;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct shim *shim = shim_init(&hsm, SHIM_AS_IS);
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    new_key(keystore, uid);
    EXPECT_OK(try_wrap(keystore, uid, 1, &old, &call));
    keystore->ops->close(keystore);

    shim->iv = SHIM_NO_GCM; /* a firmware that lost it */
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "accept_mode_change: true") != NULL);

    shim->iv = SHIM_AS_IS; /* or an operator who wants another */
    hsm.option.mechanism = "aes-cbc-hmac";
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    hsm.option.accept_mode_change = true;
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    EXPECT_OK(try_unwrap(keystore, uid, aad, &old));
    EXPECT_STATUS(try_wrap(keystore, uid, 1, &new, &call), HPL_KEY_UNAVAILABLE);
    EXPECT(strstr(call.detail, "rotate the key") != NULL);
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 2));
    EXPECT_OK(try_wrap(keystore, uid, 2, &new, &call));
    EXPECT_NUM(new.mechanism, HPL_MECH_P11_CBC_HMAC);
    keystore->ops->close(keystore);

    hsm.option.accept_mode_change = false; /* now pinned */
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystore));
    EXPECT_OK(try_unwrap(keystore, uid, aad, &old));
    keystore->ops->close(keystore);
    hsm.option.mechanism = NULL;
    EXPECT_STATUS(softhsm_try_open(&hsm, &call, &keystore), HPL_INVALID_CONFIGURATION);
    softhsm_wipe(&hsm);
}
