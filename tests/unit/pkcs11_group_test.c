/* Do several tokens that hold the same keys serve as one, when some are away, lack a key, or are no clones at all? Two SoftHSMs, the
 * second a copy of the first one's folder. */
#include "tests/contract/open_token.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/codec.h"
#include "base/json.h"

#define SOFTHSM_MODULE "/usr/lib/softhsm/libsofthsm2.so"
#define AT_MODULE HPL_BINARY_DIR "/bin/softhsm_at.so"

#define META_MAC_ID "772ff789f947b88de24f5b80bbb2f8e0846a0473" /* the first 20 bytes of SHA-256 of the label */

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

struct pair {
    struct soft_token token;
    struct { char dir[192], conf[224], module[224]; } at[2];
    struct hpl_token_option members[2];
};

static void run(const char *format, const char *a, const char *b)
{
    char command[1024];
    snprintf(command, sizeof command, format, a, b);
    EXPECT_NUM(system(command), 0);
}

static void place_init(struct pair *pair, unsigned i)
{
    char text[512], dir[192];
    struct hpl_call call = {0};
    int n = snprintf(dir, sizeof dir, "%s/%c", pair->token.dir, 'a' + (int)i);
    memcpy(pair->at[i].dir, dir, (size_t)n + 1);
    snprintf(pair->at[i].conf, sizeof pair->at[i].conf, "%s/conf", dir);
    snprintf(pair->at[i].module, sizeof pair->at[i].module, "%s/module.so", dir);
    snprintf(text, sizeof text, "directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n", dir);
    run("mkdir -p %s/tokens; cp " SOFTHSM_MODULE " %s/softhsm.so", pair->at[i].dir, pair->at[i].dir);
    run("cp '" AT_MODULE "' %s%s", pair->at[i].module, "");
    EXPECT_OK(hpl_file_replace(&call, pair->at[i].conf, hpl_bytes_str(text), 0600));
    pair->members[i] = (struct hpl_token_option){.name = i ? "main.2" : "main.1", .uri = "pkcs11:token=hpl%20test", .module = pair->at[i].module,
                                                 .pin_source = pair->token.pin_source, .init_reserved = pair->at[i].conf};
}

static void make_token(const struct pair *pair, unsigned i)
{
    run("SOFTHSM2_CONF=%s softhsm2-util --init-token --free --label 'hpl test' --so-pin so-pin-1 --pin user-pin-1 >/dev/null 2>&1%s", pair->at[i].conf, "");
}

static void pair_init(struct pair *pair)
{
    if (access(SOFTHSM_MODULE, R_OK) != 0 || system("command -v softhsm2-util >/dev/null") != 0)
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    memset(pair, 0, sizeof *pair);
    soft_token_init(&pair->token, NULL, "user-pin-1\n");
    place_init(pair, 0);
    place_init(pair, 1);
    make_token(pair, 0);
    pair->token.option.module = pair->token.option.pin_source = NULL;
    pair->token.option.members = pair->members;
    pair->token.option.num_members = 2;
}

static void pair_wipe(struct pair *pair)
{
    hpl_catalog_close(pair->token.env.catalog);
    hpl_secret_free(pair->token.root);
}

static void copy_over(const struct pair *pair)
{
    run("cp -r %s/tokens/. %s/tokens/", pair->at[0].dir, pair->at[1].dir);
}

static void hide(const struct pair *pair, unsigned i)
{
    run("mv %s/tokens %s/away", pair->at[i].dir, pair->at[i].dir);
}

static void show(const struct pair *pair, unsigned i)
{
    run("mv %s/away %s/tokens", pair->at[i].dir, pair->at[i].dir);
}

static bool is_up(struct hpl_keystore *keystore, unsigned i)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    return json_is_true(json_object_get(json_array_get(json_object_get(facts, "members"), i), "is_up"));
}

static bool says_why(struct hpl_keystore *keystore, unsigned i, const char *why)
{
    json_t *HPL_JSON_AUTO facts = keystore->ops->describe(keystore);
    const char *said = json_string_value(json_object_get(json_array_get(json_object_get(facts, "members"), i), "why"));
    return said && strstr(said, why);
}

static void wait_up(struct hpl_keystore *keystore, unsigned i, bool wanted)
{
    for (int tries = 0; tries < 600 && is_up(keystore, i) != wanted; tries++)
        usleep(50000);
    EXPECT(is_up(keystore, i) == wanted);
}

static void new_key(struct hpl_keystore *keystore, uint8_t uid[static HPL_KEY_UID_LEN])
{
    struct hpl_call call = {0};
    hpl_uuid_new(uid);
    enum hpl_status status = keystore->ops->create_version(keystore, &call, uid, 1);
    if (status != HPL_OK)
        fprintf(stderr, "\n    create: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
}

static enum hpl_status round_trip(struct hpl_keystore *keystore, const uint8_t *uid, struct hpl_call *call)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_wrapped wrapped;
    hpl_call_init(call, 20000);
    HPL_TRY(keystore->ops->wrap(keystore, call, uid, 1, aad, secret, &wrapped));
    HPL_TRY(keystore->ops->unwrap(keystore, call, uid, 1, aad, &wrapped, &opened));
    return opened->len == 32 && memcmp(opened->bytes, secret->bytes, 32) == 0 ? HPL_OK : HPL_INTERNAL;
}

/* --- ---------------------------------------------------------------------------------------------------------------------------------- */

struct load {
    struct hpl_keystore *keystore;
    const uint8_t *uid;
    _Atomic bool *is_over;
    unsigned num_good, num_bad;
    char first_bad[240];
};

static void *work(void *arg)
{
    struct load *load = arg;
    while (!atomic_load(load->is_over)) {
        struct hpl_call call;
        enum hpl_status status = round_trip(load->keystore, load->uid, &call);
        load->num_good += status == HPL_OK;
        if (status != HPL_OK && !load->num_bad++)
            snprintf(load->first_bad, sizeof load->first_bad, "%s", hpl_detail(&call, status));
    }
    return NULL;
}

static void goes_away_and_comes_back(const struct hpl_tokend_option *workers)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct load loads[4];
    pthread_t threads[HPL_COUNT(loads)];
    _Atomic bool is_over = false;
    pair_init(&pair);
    pair.token.env.tokend = workers;
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    EXPECT(!is_up(keystore, 1));
    copy_over(&pair);
    wait_up(keystore, 1, true);

    for (size_t i = 0; i < HPL_COUNT(loads); i++) {
        loads[i] = (struct load){.keystore = keystore, .uid = uid, .is_over = &is_over};
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, &loads[i]), 0);
    }
    usleep(300000);
    hide(&pair, 0);
    wait_up(keystore, 0, false);
    usleep(300000);
    show(&pair, 0);
    wait_up(keystore, 0, true);
    hide(&pair, 1); /* only the first is left: it is used again */
    wait_up(keystore, 1, false);
    usleep(300000);
    show(&pair, 1);
    wait_up(keystore, 1, true);
    atomic_store(&is_over, true);
    for (size_t i = 0; i < HPL_COUNT(loads); i++) {
        pthread_join(threads[i], NULL);
        EXPECT_TEXT(loads[i].first_bad, "");
        EXPECT_NUM(loads[i].num_bad, 0);
        EXPECT(loads[i].num_good > 0);
    }
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

HPL_TEST(a_token_that_goes_away_under_load_fails_no_request_and_is_used_again)
{
    goes_away_and_comes_back(NULL);
}

HPL_TEST(tokens_in_workers_of_their_own_go_away_and_come_back_too)
{
    static const struct hpl_tokend_option workers;
    goes_away_and_comes_back(&workers);
}

HPL_TEST(a_key_that_is_not_cloned_yet_works_from_the_token_that_has_it)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call;
    pair_init(&pair);
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    copy_over(&pair);
    wait_up(keystore, 1, true);
    new_key(keystore, uid);
    for (int i = 0; i < 50; i++)
        EXPECT_OK(round_trip(keystore, uid, &call));
    EXPECT(is_up(keystore, 0) && is_up(keystore, 1));
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

HPL_TEST(with_two_replicas_required_nothing_is_wrapped_before_the_key_is_cloned)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call;
    pair_init(&pair);
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    copy_over(&pair);
    wait_up(keystore, 1, true);
    keystore->ops->close(keystore);
    pair.token.option.replicas_required = 2;
    keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    EXPECT_STATUS(round_trip(keystore, uid, &call), HPL_KEY_UNAVAILABLE);
    EXPECT(strstr(call.detail, "on 1 of the 2 tokens") != NULL);
    copy_over(&pair);
    EXPECT_OK(round_trip(keystore, uid, &call));
    hide(&pair, 1);
    EXPECT_OK(round_trip(keystore, uid, &call)); /* found on both once */
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

HPL_TEST(keys_are_made_on_the_first_token_and_destroyed_on_all)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN], other[HPL_KEY_UID_LEN];
    struct hpl_call call;
    pair_init(&pair);
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    copy_over(&pair);
    wait_up(keystore, 1, true);
    hide(&pair, 0);
    EXPECT_OK(round_trip(keystore, uid, &call));
    wait_up(keystore, 0, false);
    hpl_uuid_new(other);
    hpl_call_init(&call, 20000);
    EXPECT_STATUS(keystore->ops->create_version(keystore, &call, other, 1), HPL_KEY_UNAVAILABLE);
    EXPECT(strstr(call.detail, "main.1") != NULL);
    EXPECT_STATUS(keystore->ops->destroy_version(keystore, &call, uid, 1), HPL_KEY_UNAVAILABLE);
    EXPECT_OK(round_trip(keystore, uid, &call));
    show(&pair, 0);
    wait_up(keystore, 0, true);
    hpl_call_init(&call, 20000);
    EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
    EXPECT_STATUS(round_trip(keystore, uid, &call), HPL_KEY_UNAVAILABLE);
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

HPL_TEST(a_group_opens_while_one_of_its_tokens_is_away)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call;
    pair_init(&pair);
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    copy_over(&pair);
    wait_up(keystore, 1, true);
    keystore->ops->close(keystore);
    hide(&pair, 0);
    keystore = soft_open(&pair.token.env, "pair");
    EXPECT_OK(round_trip(keystore, uid, &call));
    show(&pair, 0);
    wait_up(keystore, 0, true);
    keystore->ops->close(keystore);
    hide(&pair, 0);
    hide(&pair, 1);
    EXPECT_STATUS(soft_try_open(&pair.token.env, &call, &keystore), HPL_KEY_UNAVAILABLE);
    pair_wipe(&pair);
}

HPL_TEST(a_token_that_is_no_clone_stays_out)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call;
    pair_init(&pair);
    make_token(&pair, 1);
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    EXPECT_OK(round_trip(keystore, uid, &call));
    EXPECT(!is_up(keystore, 1));
    EXPECT(says_why(keystore, 1, "hpl/canary is not seen"));
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

static void wait_why(struct hpl_keystore *keystore, unsigned i, const char *why)
{
    for (int tries = 0; tries < 600 && !says_why(keystore, i, why); tries++)
        usleep(50000);
    EXPECT(says_why(keystore, i, why));
    EXPECT(!is_up(keystore, i));
}

HPL_TEST(a_token_that_wraps_in_another_way_than_the_others_stays_out)
{
    struct pair pair;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call;
    pair_init(&pair);
    pair.members[1].mechanism = "aes-cbc-hmac";
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    copy_over(&pair);
    wait_why(keystore, 1, "shows aes-cbc-hmac");
    EXPECT_OK(round_trip(keystore, uid, &call));
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

/* It would find every record changed. */
HPL_TEST(a_token_with_another_key_for_records_than_the_others_stays_out)
{
#define TOOL "SOFTHSM2_CONF=%s pkcs11-tool --module " SOFTHSM_MODULE " --login --pin user-pin-1 "
    struct pair pair;
    pair_init(&pair);
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    keystore->ops->close(keystore);
    copy_over(&pair);
    run(TOOL "--delete-object --type secrkey --label hpl/meta-mac >/dev/null 2>&1%s", pair.at[1].conf, "");
    run(TOOL "--keygen --key-type GENERIC:32 --sensitive --label hpl/meta-mac --id %s >/dev/null 2>&1", pair.at[1].conf, META_MAC_ID);
    keystore = soft_open(&pair.token.env, "pair");
    wait_why(keystore, 1, "has another hpl/meta-mac");
    EXPECT(is_up(keystore, 0));
    keystore->ops->close(keystore);
    pair_wipe(&pair);
#undef TOOL
}

/* A refusal would be told as one of the PIN: what is told is that the token is another, so none was sent. */
HPL_TEST(another_token_of_a_member_s_name_gets_no_pin)
{
    static const struct hpl_tokend_option workers;
    for (unsigned has_workers = 0; has_workers <= 1; has_workers++) {
        struct pair pair;
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_call call;
        pair_init(&pair);
        pair.token.env.tokend = has_workers ? &workers : NULL;
        struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
        new_key(keystore, uid);
        copy_over(&pair);
        wait_up(keystore, 1, true);
        keystore->ops->close(keystore);
        hide(&pair, 1);
        run("mkdir %s/tokens; SOFTHSM2_CONF=%s softhsm2-util --init-token --free --label 'hpl test' --so-pin so-pin-1 --pin another-pin >/dev/null 2>&1",
            pair.at[1].dir, pair.at[1].conf);
        keystore = soft_open(&pair.token.env, "pair");
        EXPECT_OK(round_trip(keystore, uid, &call));
        EXPECT(!is_up(keystore, 1));
        EXPECT(says_why(keystore, 1, "is not the one that was used so far"));
        EXPECT(says_why(keystore, 1, "serial="));
        keystore->ops->close(keystore);
        pair_wipe(&pair);
    }
}

HPL_TEST(what_was_wrapped_before_an_accepted_change_opens_in_workers_too)
{
    static const struct hpl_tokend_option workers;
    struct pair pair;
    struct hpl_call call;
    struct hpl_wrapped before;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32), *HPL_SECRET_AUTO opened = NULL;
    uint8_t uid[HPL_KEY_UID_LEN];
    pair_init(&pair);
    pair.token.env.tokend = &workers;
    struct hpl_keystore *keystore = soft_open(&pair.token.env, "pair");
    new_key(keystore, uid);
    hpl_call_init(&call, 20000);
    EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &before));
    keystore->ops->close(keystore);
    pair.members[0].mechanism = pair.members[1].mechanism = "aes-cbc-hmac";
    pair.token.option.accept_mode_change = true;
    keystore = soft_open(&pair.token.env, "pair");
    hpl_call_init(&call, 20000);
    EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &before, &opened));
    keystore->ops->close(keystore);
    pair_wipe(&pair);
}

HPL_TEST(a_group_is_described_in_the_local_file_or_not_at_all)
{
    struct pair pair;
    struct hpl_call call;
    struct hpl_keystore *keystore;
    pair_init(&pair);
    pair.token.option.replicas_required = 3;
    EXPECT_STATUS(soft_try_open(&pair.token.env, &call, &keystore), HPL_INVALID_CONFIGURATION);
    pair.token.option.replicas_required = 1;
    pair.token.option.uri = "pkcs11:token=hpl%20test";
    EXPECT_STATUS(soft_try_open(&pair.token.env, &call, &keystore), HPL_INVALID_CONFIGURATION);
    pair.token.option.uri = NULL;
    pair.members[1].uri = NULL;
    EXPECT_STATUS(soft_try_open(&pair.token.env, &call, &keystore), HPL_INVALID_CONFIGURATION);
    pair_wipe(&pair);
}
