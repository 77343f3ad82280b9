/* Does every keystore keep the contract of kms/keystore.h? One suite, run over each backend in the table. */
#include "tests/contract/open_kryoptic.h"
#include "tests/contract/open_local.h"
#include "tests/contract/open_nss.h"
#include "tests/contract/open_openbao.h"
#include "tests/contract/open_softhsm.h"
#include "tests/contract/open_tokend.h"
#include "tests/unit/fake_keystore.h"

#include <pthread.h>
#include <stdio.h>
#include <openssl/rand.h>

#include "base/codec.h"

static struct hpl_keystore *open_token(const struct hpl_backend_env *(*env_of)(void), struct soft_view *view, const char *mechanism)
{
    const struct hpl_backend_env *env = env_of();
    if (!env)
        return NULL;
    if (!view->env.catalog)
        soft_view_init(view, env, mechanism);
    return soft_open(&view->env, mechanism);
}

#define TOKEN(name, env, mechanism)                                                                                                \
    static struct hpl_keystore *open_##name(void)                                                                                  \
    {                                                                                                                              \
        static struct soft_view view;                                                                                              \
        return open_token(env, &view, mechanism);                                                                                  \
    }
TOKEN(softhsm, softhsm_env, "auto")
TOKEN(softhsm_cbc, softhsm_env, "aes-cbc-hmac")
TOKEN(nss, nss_env, "auto")
TOKEN(nss_cbc, nss_env, "aes-cbc-hmac")
TOKEN(kryoptic, kryoptic_env, "auto")
TOKEN(kryoptic_cbc, kryoptic_env, "aes-cbc-hmac")

/* Opens another handle on the same place; the first call makes it. */
static const struct { const char *name; struct hpl_keystore *(*open)(void); } stores[] = {
    {"local", open_local},
    {"softhsm", open_softhsm},
    {"softhsm by cbc", open_softhsm_cbc},
    {"tokend", open_tokend},
    {"nss", open_nss},
    {"nss by cbc", open_nss_cbc},
    {"kryoptic", open_kryoptic},
    {"kryoptic by cbc", open_kryoptic_cbc},
    {"openbao", open_openbao},
    {"fake", open_fake},
};

#define FOR_EACH_STORE(keystore)                                                                                                   \
    for (size_t store_ = 0; store_ < HPL_COUNT(stores); store_++)                                                                  \
        for (struct hpl_keystore *keystore = stores[store_].open(); keystore; keystore->ops->close(keystore), keystore = NULL)

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context", other_aad[HPL_WRAP_AAD_LEN] = "Context";

static void new_key(struct hpl_keystore *keystore, uint8_t uid[static HPL_KEY_UID_LEN])
{
    struct hpl_call call = {0};
    hpl_uuid_new(uid);
    enum hpl_status status = keystore->ops->create_version(keystore, &call, uid, 1);
    if (status != HPL_OK)
        fprintf(stderr, "\n    %s: %s\n", keystore->ops->name, hpl_detail(&call, status));
    EXPECT_OK(status);
}

static enum hpl_status try_unwrap(struct hpl_keystore *keystore, const uint8_t *uid, uint32_t version, const uint8_t *with, const struct hpl_wrapped *wrapped)
{
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_call call = {0};
    return keystore->ops->unwrap(keystore, &call, uid, version, with, wrapped, &opened);
}

HPL_TEST(what_was_wrapped_comes_back_after_reopening)
{
    FOR_EACH_STORE(keystore)
    {
        static const size_t lens[] = {16, 24, 32, 48, 64};
        for (size_t i = 0; i < HPL_COUNT(lens); i++) {
            uint8_t uid[HPL_KEY_UID_LEN];
            struct hpl_wrapped wrapped;
            struct hpl_call call = {0};
            struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(lens[i]);
            struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
            new_key(keystore, uid);
            EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
            EXPECT_NUM(wrapped.mechanism, keystore->ops->mechanism(keystore));
            struct hpl_keystore *again = stores[store_].open();
            EXPECT_OK(again->ops->unwrap(again, &call, uid, 1, aad, &wrapped, &opened));
            again->ops->close(again);
            EXPECT_NUM(opened->len, lens[i]);
            EXPECT_BYTES(opened->bytes, secret->bytes, lens[i]);
        }
    }
}

HPL_TEST(no_two_wraps_of_one_secret_are_alike)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped[50];
        struct hpl_call call = {0};
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        new_key(keystore, uid);
        for (size_t i = 0; i < HPL_COUNT(wrapped); i++) {
            EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped[i]));
            for (size_t j = 0; j < i; j++) {
                EXPECT(!wrapped[i].iv_len || memcmp(wrapped[i].iv, wrapped[j].iv, wrapped[i].iv_len) != 0);
                EXPECT(memcmp(wrapped[i].ct, wrapped[j].ct, wrapped[i].ct_len) != 0);
            }
        }
    }
}

HPL_TEST(many_wrapped_at_once_are_as_if_one_by_one)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN], nobody[HPL_KEY_UID_LEN];
        static struct hpl_wrapped wrapped[HPL_WRAP_MANY_MAX];
        struct hpl_secret *secrets[HPL_WRAP_MANY_MAX];
        struct hpl_call call = {0};
        if (!keystore->ops->wrap_many)
            continue;
        new_key(keystore, uid);
        hpl_uuid_new(nobody);
        for (size_t i = 0; i < HPL_WRAP_MANY_MAX; i++)
            secrets[i] = hpl_secret_random(64);
        EXPECT_OK(keystore->ops->wrap_many(keystore, &call, uid, 1, aad, secrets, wrapped, HPL_WRAP_MANY_MAX));
        for (size_t i = 0; i < HPL_WRAP_MANY_MAX; i++) {
            struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
            EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &wrapped[i], &opened));
            EXPECT_NUM(opened->len, secrets[i]->len);
            EXPECT_BYTES(opened->bytes, secrets[i]->bytes, opened->len);
            EXPECT_STATUS(try_unwrap(keystore, uid, 1, other_aad, &wrapped[i]), HPL_INVALID_CIPHERTEXT);
        }
        EXPECT_OK(keystore->ops->wrap_many(keystore, &call, uid, 1, aad, secrets, wrapped, 1));
        EXPECT_OK(try_unwrap(keystore, uid, 1, aad, &wrapped[0]));
        EXPECT_STATUS(keystore->ops->wrap_many(keystore, &call, nobody, 1, aad, secrets, wrapped, 2), HPL_KEY_UNAVAILABLE);
        for (size_t i = 0; i < HPL_WRAP_MANY_MAX; i++)
            hpl_secret_free(secrets[i]);
    }
}

HPL_TEST(unwrap_refuses_another_key_version_or_context)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN], other[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped;
        struct hpl_call call = {0};
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        new_key(keystore, uid);
        new_key(keystore, other);
        EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 2));
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        EXPECT_STATUS(try_unwrap(keystore, uid, 1, other_aad, &wrapped), HPL_INVALID_CIPHERTEXT);
        EXPECT_STATUS(try_unwrap(keystore, other, 1, aad, &wrapped), HPL_INVALID_CIPHERTEXT);
        EXPECT_STATUS(try_unwrap(keystore, uid, 2, aad, &wrapped), HPL_INVALID_CIPHERTEXT);
        EXPECT_OK(try_unwrap(keystore, uid, 1, aad, &wrapped));
    }
}

HPL_TEST(unwrap_refuses_every_changed_byte_and_length)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped, changed;
        struct hpl_call call = {0};
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        new_key(keystore, uid);
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        for (size_t i = 0; i < wrapped.ct_len; i++) {
            changed = wrapped;
            changed.ct[i] ^= 0x40;
            EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &changed), HPL_INVALID_CIPHERTEXT);
        }
        for (size_t i = 0; i < wrapped.iv_len; i++) {
            changed = wrapped;
            changed.iv[i] ^= 1;
            EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &changed), HPL_INVALID_CIPHERTEXT);
        }
        for (uint16_t len = 0; len <= sizeof changed.ct; len++) {
            changed = wrapped;
            changed.ct_len = len;
            if (len != wrapped.ct_len)
                EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &changed), HPL_INVALID_CIPHERTEXT);
        }
        for (uint8_t len = 0; len <= sizeof changed.iv; len++) {
            changed = wrapped;
            changed.iv_len = len;
            if (len != wrapped.iv_len)
                EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &changed), HPL_INVALID_CIPHERTEXT);
        }
        for (unsigned number = 0; number < 256; number++) {
            changed = wrapped;
            changed.mechanism = (uint8_t)number;
            if (number != wrapped.mechanism)
                EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &changed), HPL_INVALID_CIPHERTEXT);
        }
        EXPECT_OK(try_unwrap(keystore, uid, 1, aad, &wrapped));
        EXPECT_OK(keystore->ops->probe(keystore, &call));
    }
}

HPL_TEST(creating_a_version_again_keeps_its_material)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped;
        struct hpl_call call = {0};
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        new_key(keystore, uid);
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
        EXPECT_OK(try_unwrap(keystore, uid, 1, aad, &wrapped));
    }
}

HPL_TEST(material_that_is_not_there_is_unavailable_never_deleted)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN], nobody[HPL_KEY_UID_LEN];
        uint64_t revision;
        struct hpl_wrapped wrapped;
        struct hpl_call call = {0};
        char key_id[40];
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        hpl_uuid_new(nobody);
        hpl_uuid_text(key_id, nobody);
        new_key(keystore, uid);
        EXPECT_OK(keystore->ops->record_put(keystore, &call, key_id, uid, 0, hpl_bytes_str("{}"), &revision));
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        EXPECT_STATUS(try_unwrap(keystore, nobody, 1, aad, &wrapped), HPL_KEY_UNAVAILABLE);
        EXPECT_STATUS(keystore->ops->wrap(keystore, &call, nobody, 1, aad, secret, &wrapped), HPL_KEY_UNAVAILABLE);
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
        EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &wrapped), HPL_KEY_UNAVAILABLE);
        EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
        EXPECT_OK(keystore->ops->destroy_version(keystore, &call, nobody, 1));
    }
}

HPL_TEST(records_change_by_compare_and_swap_between_two_handles)
{
    FOR_EACH_STORE(keystore)
    {
        struct hpl_keystore *again = stores[store_].open();
        uint8_t uid[HPL_KEY_UID_LEN];
        uint64_t revision = 0;
        char key_id[40];
        struct hpl_call call = {0};
        struct hpl_buf content = {0};
        new_key(keystore, uid);
        hpl_uuid_text(key_id, uid);
        EXPECT_STATUS(keystore->ops->record_get(keystore, &call, key_id, &content, &revision), HPL_NOT_FOUND);
        EXPECT_STATUS(keystore->ops->record_put(keystore, &call, key_id, uid, 1, hpl_bytes_str("ghost"), &revision), HPL_STALE);
        EXPECT_OK(keystore->ops->record_put(keystore, &call, key_id, uid, 0, hpl_bytes_str("one"), &revision));
        EXPECT_STATUS(again->ops->record_put(again, &call, key_id, uid, 0, hpl_bytes_str("again"), &revision), HPL_STALE);
        EXPECT_OK(again->ops->record_put(again, &call, key_id, uid, revision, hpl_bytes_str("two"), &revision));
        EXPECT_STATUS(keystore->ops->record_put(keystore, &call, key_id, uid, revision - 1, hpl_bytes_str("late"), &revision), HPL_STALE);
        EXPECT_OK(keystore->ops->record_get(keystore, &call, key_id, &content, &revision));
        EXPECT_TEXT(hpl_buf_text(&content), "two");
        hpl_buf_wipe(&content);
        again->ops->close(again);
    }
}

HPL_TEST(material_that_never_got_a_record_can_be_destroyed)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t uid[HPL_KEY_UID_LEN];
        struct hpl_wrapped wrapped;
        struct hpl_call call = {0};
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        new_key(keystore, uid);
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
        EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
        struct hpl_keystore *again = stores[store_].open();
        EXPECT_STATUS(try_unwrap(keystore, uid, 1, aad, &wrapped), HPL_KEY_UNAVAILABLE);
        EXPECT_STATUS(try_unwrap(again, uid, 1, aad, &wrapped), HPL_KEY_UNAVAILABLE);
        again->ops->close(again);
    }
}

struct racer {
    struct hpl_keystore *keystore;
    const uint8_t *uid;
    const char *key_id;
    int wins, failures;
};

static void *race_on(void *arg)
{
    struct racer *racer = arg;
    for (int i = 0; i < 40; i++) {
        struct hpl_call call = {0};
        struct hpl_buf content = {0};
        uint64_t revision = 0;
        enum hpl_status status = racer->keystore->ops->record_get(racer->keystore, &call, racer->key_id, &content, &revision);
        hpl_buf_wipe(&content);
        if (status == HPL_OK)
            status = racer->keystore->ops->record_put(racer->keystore, &call, racer->key_id, racer->uid, revision, hpl_bytes_str("{}"), NULL);
        racer->wins += status == HPL_OK;
        racer->failures += status != HPL_OK && status != HPL_STALE;
    }
    return NULL;
}

HPL_TEST(handles_that_race_for_a_record_lose_no_change)
{
    FOR_EACH_STORE(keystore)
    {
        struct racer racers[3];
        pthread_t threads[HPL_COUNT(racers)];
        uint8_t uid[HPL_KEY_UID_LEN];
        char key_id[37];
        uint64_t first = 0, last = 0;
        uint64_t wins = 0;
        struct hpl_call call = {0};
        struct hpl_buf content = {0};
        new_key(keystore, uid);
        hpl_uuid_text(key_id, uid);
        EXPECT_OK(keystore->ops->record_put(keystore, &call, key_id, uid, 0, hpl_bytes_str("{}"), &first));
        for (size_t i = 0; i < HPL_COUNT(racers); i++) {
            racers[i] = (struct racer){stores[store_].open(), uid, key_id, 0, 0};
            EXPECT_NUM(pthread_create(&threads[i], NULL, race_on, &racers[i]), 0);
        }
        for (size_t i = 0; i < HPL_COUNT(racers); i++) {
            pthread_join(threads[i], NULL);
            EXPECT_NUM(racers[i].failures, 0);
            wins += (uint64_t)racers[i].wins;
            racers[i].keystore->ops->close(racers[i].keystore);
        }
        EXPECT_OK(keystore->ops->record_get(keystore, &call, key_id, &content, &last));
        EXPECT(wins > 0);
        EXPECT_NUM(last - first, wins);
        hpl_buf_wipe(&content);
    }
}

struct names {
    char text[512];
};

static bool add_name(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct names *names = arg;
    (void)revision, (void)content;
    if (strncmp(key_id, "zz-", 3) == 0)
        strcat(strcat(names->text, key_id), status == HPL_OK ? " " : "! ");
    return true;
}

HPL_TEST(records_list_in_byte_order_and_by_page)
{
    FOR_EACH_STORE(keystore)
    {
        static const char *const ids[] = {"zz-b", "zz-../../etc", "zz-a/b", "zz-\xc3\xbc", "zz-a"};
        struct names all = {""}, page = {""};
        struct hpl_call call = {0};
        for (size_t i = 0; i < HPL_COUNT(ids); i++) {
            uint8_t uid[HPL_KEY_UID_LEN];
            new_key(keystore, uid);
            EXPECT_OK(keystore->ops->record_put(keystore, &call, ids[i], uid, 0, hpl_bytes_str("{}"), NULL));
        }
        EXPECT_OK(keystore->ops->record_list(keystore, &call, NULL, SIZE_MAX, add_name, &all));
        EXPECT_TEXT(all.text, "zz-../../etc zz-a zz-a/b zz-b zz-\xc3\xbc ");
        EXPECT_OK(keystore->ops->record_list(keystore, &call, "zz-a", 2, add_name, &page));
        EXPECT_TEXT(page.text, "zz-a/b zz-b ");
    }
}

struct hammer {
    struct hpl_keystore *keystore;
    uint8_t uid[HPL_KEY_UID_LEN];
    int failures;
};

static void *hammer_on(void *arg)
{
    struct hammer *hammer = arg;
    for (int i = 0; i < 50; i++) {
        struct hpl_wrapped wrapped;
        struct hpl_call call;
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
        hpl_call_init(&call, 30000);
        if (hammer->keystore->ops->wrap(hammer->keystore, &call, hammer->uid, 1, aad, secret, &wrapped) != HPL_OK ||
            hammer->keystore->ops->unwrap(hammer->keystore, &call, hammer->uid, 1, aad, &wrapped, &opened) != HPL_OK ||
            memcmp(opened->bytes, secret->bytes, 32) != 0)
            hammer->failures++;
    }
    return NULL;
}

HPL_TEST(many_threads_wrap_and_unwrap_at_once)
{
    FOR_EACH_STORE(keystore)
    {
        struct hammer hammers[8];
        pthread_t threads[HPL_COUNT(hammers)];
        for (size_t i = 0; i < HPL_COUNT(hammers); i++) {
            hammers[i] = (struct hammer){.keystore = keystore};
            new_key(keystore, hammers[i].uid);
        }
        for (size_t i = 0; i < HPL_COUNT(hammers); i++)
            EXPECT_NUM(pthread_create(&threads[i], NULL, hammer_on, &hammers[i]), 0);
        for (size_t i = 0; i < HPL_COUNT(hammers); i++) {
            pthread_join(threads[i], NULL);
            EXPECT_NUM(hammers[i].failures, 0);
        }
    }
}

HPL_TEST(the_random_generator_gives_different_bytes)
{
    FOR_EACH_STORE(keystore)
    {
        uint8_t one[64] = {0}, two[64] = {0};
        struct hpl_call call = {0};
        if (!keystore->ops->random)
            continue;
        EXPECT_OK(keystore->ops->random(keystore, &call, one, sizeof one));
        EXPECT_OK(keystore->ops->random(keystore, &call, two, sizeof two));
        EXPECT(memcmp(one, two, sizeof one) != 0);
    }
}
