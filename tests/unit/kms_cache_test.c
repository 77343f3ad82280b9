/* Does the key service spare its backend without ever giving more than a caller is entitled to: caches asked after state, policy and context, flushed when a
 * key changes, bounded; bucket keys bound to their bucket; a breaker that opens and closes; a gate that decrypts pass when it is full of others? */
#include "tests/test.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "kms/breaker.h"
#include "kms/envelope.h"
#include "kms/kms.h"
#include "tests/unit/fake_keystore.h"

struct house {
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
    struct hpl_backend_env env;
    struct hpl_kms_options options;
    struct hpl_kms *kms;
    struct hpl_buf envelope;
};

typedef enum hpl_status body_fn(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer);

static enum hpl_status send(struct house *house, body_fn *fn, const char *text)
{
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &body, hpl_bytes_str(text), 65536, false));
    return fn(house->kms, &call, body, &answer);
}

static enum hpl_status start(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    return hpl_kms_start(house->kms, &call, false, &answer);
}

static enum hpl_status stop(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    return hpl_kms_stop(house->kms, &call, &answer);
}

static void create(struct house *house, const char *key_id)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_create_key(house->kms, &call, &(struct hpl_key_create){.key_id = key_id}, &metadata));
}

/* A service over the fake, with a key "k" and no retries. */
static void open_house(struct house *house)
{
    static const struct hpl_backend *const list[] = {&fake_backend, NULL};
    struct hpl_call call = {0};
    char path[128];
    *house = (struct house){.root = hpl_secret_random(32)};
    fake_forget();
    snprintf(path, sizeof path, "%s/catalog.db", hpl_test_dir());
    EXPECT_OK(hpl_catalog_open(&call, &house->catalog, path, house->root));
    house->env = (struct hpl_backend_env){.root = house->root, .catalog = house->catalog};
    house->options = (struct hpl_kms_options){.backends = list, .env = &house->env, .catalog = house->catalog};
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
    EXPECT_OK(send(house, hpl_kms_configure, "{\"backend_type\":\"fake\",\"default_key_id\":\"k\",\"retry_attempts\":0,\"queue\":8}"));
    EXPECT_OK(start(house));
    create(house, "k");
}

static void close_house(struct house *house)
{
    hpl_kms_close(house->kms);
    hpl_catalog_close(house->catalog);
    hpl_secret_free(house->root);
    hpl_buf_wipe(&house->envelope);
    fake_forget();
}

static enum hpl_status set_caching(struct house *house, const char *text)
{
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &body, hpl_bytes_str(text), 65536, false));
    return hpl_kms_set_caching(house->kms, &call, "k", body, &metadata);
}

static enum hpl_status set_enabled(struct house *house, bool is_enabled)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    return hpl_kms_set_enabled(house->kms, &call, "k", is_enabled, &metadata);
}

static enum hpl_status rotate(struct house *house)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    return hpl_kms_rotate(house->kms, &call, "k", &metadata);
}

#define PAIR(name_text, value_text) {{(const uint8_t *)(name_text), sizeof(name_text) - 1}, {(const uint8_t *)(value_text), sizeof(value_text) - 1}}
static const struct hpl_context_pair one_pairs[] = {PAIR("bucket", "b"), PAIR("key", "1")}, two_pairs[] = {PAIR("bucket", "b"), PAIR("key", "2")};
static const struct hpl_context_pair other_pairs[] = {PAIR("bucket", "c"), PAIR("key", "1")};
static const struct hpl_context one = {one_pairs, 2}, two = {two_pairs, 2}, other_bucket = {other_pairs, 2}, no_bucket = {one_pairs + 1, 1};

static enum hpl_status generate_under(struct house *house, enum hpl_purpose purpose, const struct hpl_context *context, struct hpl_secret **secret)
{
    struct hpl_call call = {0};
    hpl_buf_wipe(&house->envelope);
    return hpl_kms_generate(house->kms, &call, purpose, NULL, context, 32, secret, &house->envelope, NULL);
}

/* A data key for an object, its envelope in house->envelope. */
static void generate(struct house *house)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    EXPECT_OK(generate_under(house, HPL_PURPOSE_OBJECT, &one, &secret));
}

static enum hpl_status decrypt_under(struct house *house, const struct hpl_context *context, struct hpl_call *call, struct hpl_secret **secret)
{
    return hpl_kms_decrypt(house->kms, call, HPL_PURPOSE_OBJECT, hpl_buf_bytes(&house->envelope), context, secret, NULL);
}

static enum hpl_status decrypt(struct house *house)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {0};
    return decrypt_under(house, &one, &call, &secret);
}

static json_t *status_of(struct house *house)
{
    json_t *answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_status(house->kms, &call, &answer));
    return answer;
}

static long long number(struct house *house, const char *group, const char *name)
{
    json_t *HPL_JSON_AUTO answer = status_of(house);
    return json_integer_value(json_object_get(json_object_get(answer, group), name));
}

static const char *breaker_of(struct house *house)
{
    static char text[16];
    json_t *HPL_JSON_AUTO answer = status_of(house);
    snprintf(text, sizeof text, "%s", json_string_value(json_object_get(json_object_get(answer, "details"), "breaker")));
    return text;
}

static void sleep_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* --- the decrypt cache --------------------------------------------------------------------------------------------------- */

HPL_TEST(nothing_is_kept_unless_the_key_says_so)
{
    struct house house;
    open_house(&house);
    generate(&house);
    int before = fake.unwraps;
    for (int i = 0; i < 5; i++)
        EXPECT_OK(decrypt(&house));
    EXPECT_NUM(fake.unwraps - before, 5);
    EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 0);
    EXPECT_NUM(number(&house, "bucket_keys", "entry_count"), 0);
    close_house(&house);
}

HPL_TEST(a_kept_key_is_asked_for_once_and_is_the_right_one)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60}"));
    EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &made));
    int before = fake.unwraps;
    for (int i = 0; i < 5; i++) {
        struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
        EXPECT_OK(decrypt_under(&house, &one, &call, &opened));
        EXPECT_BYTES(opened->bytes, made->bytes, 32);
    }
    EXPECT_NUM(fake.unwraps - before, 1);
    EXPECT_NUM(number(&house, "decrypt_cache", "hit_count"), 4);
    EXPECT_NUM(number(&house, "decrypt_cache", "miss_count"), 1);
    EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 1);
    close_house(&house);
}

HPL_TEST(a_kept_key_is_given_for_its_own_context_only)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60}"));
    generate(&house);
    EXPECT_OK(decrypt(&house));
    EXPECT_STATUS(decrypt_under(&house, &two, &call, &opened), HPL_INVALID_CIPHERTEXT);
    EXPECT_STATUS(decrypt_under(&house, NULL, &call, &opened), HPL_INVALID_CIPHERTEXT);
    EXPECT(!opened);
    EXPECT_STATUS(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_API, hpl_buf_bytes(&house.envelope), &one, &opened, NULL), HPL_INVALID_CIPHERTEXT);
    close_house(&house);
}

HPL_TEST(state_and_policy_are_asked_before_the_cache)
{
    struct house house;
    json_t *HPL_JSON_AUTO policy = json_pack("{s:[{s:[s], s:[s], s:[s]}]}", "grants", "principals", "somebody", "operations", "Decrypt", "purposes", "object");
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_call call = {0}, nobody = {.principal = "nobody", .role = "objects"};
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60,\"outage\":{\"cache_seconds\":60}}"));
    generate(&house);
    EXPECT_OK(decrypt(&house));
    EXPECT_OK(set_enabled(&house, false));
    EXPECT_STATUS(decrypt(&house), HPL_KEY_DISABLED);
    fake.is_down = true;
    EXPECT_STATUS(decrypt(&house), HPL_KEY_DISABLED);
    fake.is_down = false;
    EXPECT_OK(set_enabled(&house, true));
    EXPECT_OK(decrypt(&house));
    EXPECT_OK(hpl_kms_set_policy(house.kms, &call, "k", policy, &metadata));
    EXPECT_STATUS(decrypt_under(&house, &one, &nobody, &opened), HPL_ACCESS_DENIED);
    EXPECT(!opened);
    close_house(&house);
}

HPL_TEST(a_changed_key_a_cleared_cache_and_every_move_of_the_service_flush)
{
    struct house house;
    struct hpl_call call = {0};
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60}"));
    generate(&house);
    for (int round = 0; round < 6; round++) {
        EXPECT_OK(decrypt(&house));
        EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 1);
        switch (round) {
        case 0: EXPECT_OK(set_enabled(&house, false)); break;
        case 1: EXPECT_OK(rotate(&house)); break;
        case 2: EXPECT_OK(hpl_kms_clear_cache(house.kms, &call)); break;
        case 3: EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"cache_ttl_seconds\":77}")); break;
        case 4: EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":59}")); break;
        case 5: EXPECT_OK(stop(&house)); break;
        }
        EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 0);
        if (round == 0)
            EXPECT_OK(set_enabled(&house, true));
    }
    close_house(&house);
}

static void reconfigure_and_read(void *arg)
{
    EXPECT_OK(send(arg, hpl_kms_reconfigure, "{\"cache_ttl_seconds\":78}"));
    EXPECT_OK(decrypt(arg));
}

HPL_TEST(a_key_that_is_disabled_while_the_service_is_reconfigured_stays_disabled)
{
    struct house house;
    open_house(&house);
    generate(&house);
    fake.arg = &house;
    fake.before_put = reconfigure_and_read; /* the record comes into the successor's cache just before it changes */
    EXPECT_OK(set_enabled(&house, false));
    EXPECT(!fake.before_put);
    EXPECT_STATUS(decrypt(&house), HPL_KEY_DISABLED);
    close_house(&house);
}

static void disable(void *arg)
{
    EXPECT_OK(set_enabled(arg, false));
}

HPL_TEST(what_a_keystore_read_while_it_was_proven_is_read_again_once_it_is_active)
{
    struct house house;
    open_house(&house);
    generate(&house);
    fake.arg = &house;
    fake.before_wrap = disable;
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"place\":\"b\"}"));
    EXPECT(!fake.before_wrap);
    EXPECT_STATUS(decrypt(&house), HPL_KEY_DISABLED);
    close_house(&house);
}

static void reconfigure_and_generate(void *arg)
{
    EXPECT_OK(send(arg, hpl_kms_reconfigure, "{\"cache_ttl_seconds\":79}"));
    generate(arg);
}

HPL_TEST(a_key_that_rotates_by_itself_while_the_service_is_reconfigured_wraps_under_its_new_version)
{
    struct house house;
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    struct hpl_key_ref ref;
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    open_house(&house);
    EXPECT_OK(hpl_kms_set_rotation(house.kms, &call, "k", 0, 1, &metadata));
    generate(&house);
    fake.arg = &house;
    fake.before_put = reconfigure_and_generate;
    EXPECT_OK(hpl_kms_reap(house.kms, &call));
    EXPECT(!fake.before_put);
    EXPECT_OK(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_OBJECT, NULL, &one, 32, &secret, &house.envelope, &ref));
    EXPECT_NUM(ref.version, 2);
    close_house(&house);
}

/* Of the one keystore that there is, as its kept configuration has it. */
static void kept_place(struct house *house, char out[static 8])
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_backends(house->kms, &call, &answer));
    const json_t *all = json_object_get(answer, "backends");
    EXPECT_NUM(json_array_size(all), 1);
    const char *place = json_string_value(json_object_get(json_object_get(json_array_get(all, 0), "backend_summary"), "place"));
    snprintf(out, 8, "%s", place ? place : "");
}

HPL_TEST(a_configuration_that_was_not_proven_does_not_replace_the_kept_one)
{
    struct house house;
    char place[8];
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"place\":\"a\"}"));
    kept_place(&house, place);
    EXPECT_TEXT(place, "a");
    fake.is_keyless = true;
    EXPECT(send(&house, hpl_kms_reconfigure, "{\"place\":\"b\"}") != HPL_OK);
    kept_place(&house, place);
    EXPECT_TEXT(place, "a");
    close_house(&house);
}

static bool count_row(void *count, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    (void)name, (void)revision, (void)content;
    EXPECT_OK(status);
    ++*(int *)count;
    return true;
}

HPL_TEST(a_hundred_configurations_are_remembered_and_no_more)
{
    struct house house;
    struct hpl_call call = {0};
    char body[64];
    int rows = 0;
    open_house(&house);
    for (int i = 0; i < 110; i++) {
        snprintf(body, sizeof body, "{\"cache_ttl_seconds\":%d}", 100 + i);
        EXPECT_OK(send(&house, hpl_kms_reconfigure, body));
    }
    EXPECT_OK(hpl_catalog_list(&call, house.catalog, "kms", NULL, SIZE_MAX, count_row, &rows));
    EXPECT_NUM(rows, 101); /* and the one in use */
    close_house(&house);
}

HPL_TEST(a_kept_key_ends_after_its_uses_and_its_seconds)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60,\"decrypt_uses\":3}"));
    generate(&house);
    int before = fake.unwraps;
    for (int i = 0; i < 8; i++) /* asked, then three times kept, twice */
        EXPECT_OK(decrypt(&house));
    EXPECT_NUM(fake.unwraps - before, 2);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":1}"));
    EXPECT_OK(decrypt(&house));
    sleep_ms(1100);
    EXPECT_OK(hpl_kms_reap(house.kms, &(struct hpl_call){0}));
    EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 0);
    before = fake.unwraps;
    EXPECT_OK(decrypt(&house));
    EXPECT_NUM(fake.unwraps - before, 1);
    close_house(&house);
}

/* What is kept longer for an outage is not thereby used more often. */
HPL_TEST(an_outage_choice_adds_no_uses)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60,\"decrypt_uses\":3,\"outage\":{\"cache_seconds\":60}}"));
    generate(&house);
    int before = fake.unwraps;
    for (int i = 0; i < 8; i++)
        EXPECT_OK(decrypt(&house));
    EXPECT_NUM(fake.unwraps - before, 2);
    close_house(&house);
}

static void *decrypt_once(void *arg)
{
    (void)!decrypt(arg);
    return NULL;
}

/* It was opened by the rules of before. */
HPL_TEST(what_is_opened_while_the_cache_is_flushed_is_not_kept)
{
    struct house house;
    struct hpl_call call = {0};
    pthread_t thread;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60}"));
    generate(&house);
    fake.slow_us = 1000000;
    EXPECT_NUM(pthread_create(&thread, NULL, decrypt_once, &house), 0);
    while (fake.inside == 0)
        sleep_ms(1);
    EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    pthread_join(thread, NULL);
    EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 0);
    close_house(&house);
}

HPL_TEST(a_kept_key_past_its_time_is_wiped_by_a_sweep)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":3}"));
    generate(&house);
    size_t without = hpl_secret_in_use();
    EXPECT_OK(decrypt(&house));
    hpl_kms_sweep(house.kms);
    EXPECT(hpl_secret_in_use() > without);
    sleep_ms(3100);
    hpl_kms_sweep(house.kms);
    EXPECT_NUM(hpl_secret_in_use(), without);
    close_house(&house);
}

HPL_TEST(a_record_read_too_long_ago_permits_nothing)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":3}"));
    generate(&house);
    EXPECT_OK(decrypt(&house));
    int before = fake.reads;
    EXPECT_OK(decrypt(&house));
    EXPECT_NUM(fake.reads - before, 0);
    sleep_ms(3100);
    fake.is_unreadable = true;
    EXPECT_STATUS(decrypt(&house), HPL_BACKEND);
    close_house(&house);
}

HPL_TEST(the_cache_is_bounded)
{
    struct house house;
    size_t in_use = hpl_secret_in_use();
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60}"));
    for (int i = 0; i < 4200; i++) {
        generate(&house);
        EXPECT_OK(decrypt(&house));
    }
    EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 4096);
    EXPECT_NUM(number(&house, "decrypt_cache", "eviction_count"), 4200 - 4096);
    EXPECT(hpl_secret_in_use() - in_use < 640 * 1024);
    close_house(&house);
    EXPECT_NUM(hpl_secret_in_use(), in_use);
}

/* --- one call for many --------------------------------------------------------------------------------------------------- */

struct asker {
    struct house *house;
    enum hpl_status status;
    uint8_t key[32];
};

static void *ask(void *arg)
{
    struct asker *asker = arg;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    asker->status = decrypt_under(asker->house, &one, &call, &secret);
    if (secret)
        memcpy(asker->key, secret->bytes, 32);
    return NULL;
}

static void ask_at_once(struct house *house, struct asker *askers, size_t count)
{
    pthread_t threads[16];
    for (size_t i = 0; i < count; i++) {
        askers[i] = (struct asker){.house = house};
        EXPECT_NUM(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
    }
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

HPL_TEST(equal_decrypts_at_one_time_are_one_call_and_each_has_its_own_key)
{
    struct house house;
    struct asker askers[6];
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    open_house(&house);
    EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &made));
    fake.slow_us = 300000;
    int before = fake.unwraps;
    ask_at_once(&house, askers, HPL_COUNT(askers));
    EXPECT(fake.unwraps - before < (int)HPL_COUNT(askers));
    for (size_t i = 0; i < HPL_COUNT(askers); i++) {
        EXPECT_OK(askers[i].status);
        EXPECT_BYTES(askers[i].key, made->bytes, 32);
    }
    fake.is_keyless = true;
    ask_at_once(&house, askers, HPL_COUNT(askers));
    for (size_t i = 0; i < HPL_COUNT(askers); i++)
        EXPECT_STATUS(askers[i].status, HPL_KEY_UNAVAILABLE);
    close_house(&house);
}

HPL_TEST(many_threads_through_every_cache_get_right_keys)
{
    struct house house;
    struct asker askers[8];
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":1,\"decrypt_uses\":2,\"bucket_key\":true,\"bucket_key_objects\":3}"));
    for (int round = 0; round < 20; round++) {
        hpl_secret_freep(&made);
        EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &made));
        ask_at_once(&house, askers, HPL_COUNT(askers));
        for (size_t i = 0; i < HPL_COUNT(askers); i++) {
            EXPECT_OK(askers[i].status);
            EXPECT_BYTES(askers[i].key, made->bytes, 32);
        }
        if (round % 5 == 4)
            EXPECT_OK(rotate(&house));
    }
    close_house(&house);
}

/* --- bucket keys --------------------------------------------------------------------------------------------------------- */

HPL_TEST(a_bucket_key_serves_many_objects_each_with_its_own_key)
{
    struct house house;
    uint8_t keys[50][32];
    struct hpl_call call = {0};
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    int wraps = fake.wraps, unwraps = fake.unwraps;
    for (int i = 0; i < 50; i++) {
        struct hpl_secret *HPL_SECRET_AUTO made = NULL;
        struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
        EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &made));
        EXPECT(hpl_kms_is_bucket_key(hpl_buf_bytes(&house.envelope)));
        EXPECT_OK(decrypt_under(&house, &one, &call, &opened));
        EXPECT_BYTES(opened->bytes, made->bytes, 32);
        memcpy(keys[i], made->bytes, 32);
        for (int j = 0; j < i; j++)
            EXPECT(memcmp(keys[i], keys[j], 32) != 0);
    }
    EXPECT_NUM(fake.wraps - wraps, 1);
    EXPECT_NUM(fake.unwraps - unwraps, 0);
    EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    EXPECT_OK(decrypt(&house));
    EXPECT_OK(decrypt(&house));
    EXPECT_NUM(fake.unwraps - unwraps, 1);
    close_house(&house);
}

HPL_TEST(a_bucket_key_is_of_its_bucket_and_an_object_key_of_its_whole_context)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    generate(&house);
    for (int round = 0; round < 2; round++) { /* with the bucket key kept, and without */
        EXPECT_STATUS(decrypt_under(&house, &two, &call, &opened), HPL_INVALID_CIPHERTEXT);
        EXPECT_STATUS(decrypt_under(&house, &other_bucket, &call, &opened), HPL_INVALID_CIPHERTEXT);
        EXPECT_STATUS(decrypt_under(&house, &no_bucket, &call, &opened), HPL_INVALID_CIPHERTEXT);
        EXPECT_STATUS(decrypt_under(&house, NULL, &call, &opened), HPL_INVALID_CIPHERTEXT);
        EXPECT(!opened);
        EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    }
    EXPECT_OK(decrypt(&house));
    close_house(&house);
}

HPL_TEST(each_bucket_has_a_key_of_its_own)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    int before = fake.wraps;
    generate(&house);
    EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &other_bucket, &made));
    EXPECT_NUM(fake.wraps - before, 2);
    EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    EXPECT_OK(decrypt_under(&house, &other_bucket, &call, &opened));
    EXPECT_BYTES(opened->bytes, made->bytes, 32);
    close_house(&house);
}

HPL_TEST(every_changed_byte_of_a_bucket_envelope_is_refused)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    generate(&house);
    for (size_t i = 0; i < house.envelope.len; i++) {
        house.envelope.data[i] ^= 0x10;
        enum hpl_status status = decrypt(&house);
        EXPECT(status == HPL_INVALID_CIPHERTEXT || status == HPL_KEY_UNAVAILABLE);
        house.envelope.data[i] ^= 0x10;
    }
    for (size_t len = house.envelope.len; len > 0; len--) {
        house.envelope.len--;
        EXPECT_STATUS(decrypt(&house), HPL_INVALID_CIPHERTEXT);
    }
    close_house(&house);
}

HPL_TEST(a_bucket_key_itself_opens_for_nobody_and_other_purposes_get_none)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_bucket_envelope outer;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_secret *HPL_SECRET_AUTO api = NULL;
    const struct hpl_context bucket = {one_pairs, 1};
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    generate(&house);
    EXPECT_OK(hpl_bucket_envelope_decode(&call, hpl_buf_bytes(&house.envelope), &outer));
    EXPECT_STATUS(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_OBJECT, outer.inner, &bucket, &opened, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_STATUS(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_API, outer.inner, &bucket, &opened, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_STATUS(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_API, hpl_buf_bytes(&house.envelope), &one, &opened, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_OK(generate_under(&house, HPL_PURPOSE_API, &one, &api));
    EXPECT(!hpl_kms_is_bucket_key(hpl_buf_bytes(&house.envelope)));
    EXPECT(!opened);
    close_house(&house);
}

HPL_TEST(a_bucket_key_ends_after_its_objects_and_with_its_keys_version)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_key_ref ref;
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true,\"bucket_key_objects\":4}"));
    int before = fake.wraps;
    for (int i = 0; i < 12; i++)
        generate(&house);
    EXPECT_NUM(fake.wraps - before, 3);
    EXPECT_OK(rotate(&house));
    hpl_buf_wipe(&house.envelope);
    EXPECT_OK(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_OBJECT, NULL, &one, 32, &made, &house.envelope, &ref));
    EXPECT_NUM(ref.version, 2);
    EXPECT_TEXT(ref.key_id, "k");
    EXPECT_OK(set_enabled(&house, false));
    EXPECT_STATUS(decrypt(&house), HPL_KEY_DISABLED);
    EXPECT_NUM(number(&house, "bucket_keys", "entry_count"), 0);
    close_house(&house);
}

HPL_TEST(what_a_bucket_key_sealed_opens_after_it_is_switched_off)
{
    struct house house;
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    generate(&house);
    EXPECT_OK(set_caching(&house, "{}"));
    EXPECT_OK(decrypt(&house));
    EXPECT_NUM(number(&house, "bucket_keys", "entry_count"), 0);
    EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &made));
    EXPECT(!hpl_kms_is_bucket_key(hpl_buf_bytes(&house.envelope)));
    close_house(&house);
}

HPL_TEST(a_rewrapped_object_keeps_its_key_in_an_envelope_of_its_own)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_buf again = {0};
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"bucket_key\":true}"));
    EXPECT_OK(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &made));
    EXPECT_OK(rotate(&house));
    EXPECT_STATUS(hpl_kms_rewrap(house.kms, &call, hpl_buf_bytes(&house.envelope), &two, NULL, &again, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_OK(hpl_kms_rewrap(house.kms, &call, hpl_buf_bytes(&house.envelope), &one, NULL, &again, NULL));
    EXPECT(!hpl_kms_is_bucket_key(hpl_buf_bytes(&again)));
    EXPECT_OK(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_OBJECT, hpl_buf_bytes(&again), &one, &opened, NULL));
    EXPECT_BYTES(opened->bytes, made->bytes, 32);
    EXPECT_OK(decrypt(&house)); /* the old one too */
    hpl_buf_wipe(&again);
    close_house(&house);
}

/* --- the breaker --------------------------------------------------------------------------------------------------------- */

static void break_it(struct house *house)
{
    fake.is_down = true;
    for (int i = 0; i < 5; i++)
        EXPECT_STATUS(decrypt(house), HPL_KEY_UNAVAILABLE);
}

HPL_TEST(a_backend_that_does_not_answer_is_left_alone_and_used_again_when_it_does)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    open_house(&house);
    generate(&house);
    EXPECT_TEXT(breaker_of(&house), "closed");
    break_it(&house);
    int before = fake.unwraps, probes;
    do { /* again where a pause was over meanwhile: it is 125 ms at first */
        probes = fake.probes;
        EXPECT_STATUS(decrypt_under(&house, &one, &call, &secret), HPL_KEY_UNAVAILABLE);
    } while (fake.probes != probes);
    EXPECT(call.retry_after_s >= 1 && call.retry_after_s <= 5);
    EXPECT_NUM(fake.unwraps - before, 0);
    EXPECT_TEXT(breaker_of(&house), "open");
    sleep_ms(300); /* past the first pause: one probe, no key of a user's */
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT_NUM(fake.unwraps - before, 0);
    fake.is_down = false;
    for (int i = 0; i < 300 && decrypt(&house) != HPL_OK; i++)
        sleep_ms(100);
    EXPECT_OK(decrypt(&house));
    EXPECT_TEXT(breaker_of(&house), "closed");
    EXPECT_NUM(number(&house, "details", "breaker_opened"), 1);
    EXPECT(number(&house, "details", "refused_while_open") > 0);
    close_house(&house);
}

HPL_TEST(one_key_that_fails_does_not_open_the_breaker)
{
    struct house house;
    open_house(&house);
    generate(&house);
    fake.is_keyless = true; /* the probe goes on working */
    int before = fake.unwraps;
    for (int i = 0; i < 12; i++)
        EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT_NUM(fake.unwraps - before, 12);
    fake.is_keyless = false;
    EXPECT_TEXT(breaker_of(&house), "closed");
    EXPECT_OK(decrypt(&house));
    close_house(&house);
}

HPL_TEST(a_wrong_context_is_no_failure_of_the_backend)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    open_house(&house);
    generate(&house);
    int probes = fake.probes;
    for (int i = 0; i < 20; i++)
        EXPECT_STATUS(decrypt_under(&house, &two, &call, &opened), HPL_INVALID_CIPHERTEXT);
    EXPECT_NUM(fake.probes - probes, 0);
    close_house(&house);
}

HPL_TEST(only_what_may_pass_is_tried_again)
{
    static const enum hpl_status once[] = {HPL_INVALID_CIPHERTEXT, HPL_PIN_REJECTED, HPL_INTEGRITY, HPL_INVALID_CONFIGURATION, HPL_INTERNAL};
    struct house house;
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"retry_attempts\":2}"));
    generate(&house);
    for (size_t i = 0; i < HPL_COUNT(once); i++) {
        int before = fake.unwraps;
        fake.fails_with = once[i];
        EXPECT_STATUS(decrypt(&house), once[i]);
        EXPECT_NUM(fake.unwraps - before, 1);
    }
    int before = fake.unwraps;
    fake.fails_with = HPL_KEY_UNAVAILABLE;
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT_NUM(fake.unwraps - before, 3);
    close_house(&house);
}

HPL_TEST(all_attempts_together_have_the_time_of_one)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"retry_attempts\":10,\"timeout_seconds\":1}"));
    generate(&house);
    int before = fake.unwraps;
    fake.fails_with = HPL_KEY_UNAVAILABLE;
    fake.slow_us = 700000;
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT(fake.unwraps - before <= 2);
    close_house(&house);
}

HPL_TEST(an_open_breaker_gives_up_what_was_kept)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":60}"));
    generate(&house);
    EXPECT_OK(decrypt(&house));
    fake.is_down = true;
    EXPECT_OK(decrypt(&house)); /* nobody knows yet */
    struct hpl_buf kept = house.envelope;
    house.envelope = (struct hpl_buf){0};
    for (int i = 0; i < 5; i++) {
        struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
        EXPECT_STATUS(generate_under(&house, HPL_PURPOSE_OBJECT, &one, &secret), HPL_KEY_UNAVAILABLE);
    }
    hpl_buf_wipe(&house.envelope);
    house.envelope = kept;
    EXPECT_NUM(number(&house, "decrypt_cache", "entry_count"), 0);
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    close_house(&house);
}

HPL_TEST(records_that_cannot_be_read_open_the_breaker_too)
{
    struct house house;
    open_house(&house);
    generate(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"enable_cache\":false}"));
    fake.is_unreadable = fake.is_down = true;
    for (int i = 0; i < 5; i++)
        EXPECT_STATUS(decrypt(&house), HPL_BACKEND);
    EXPECT_TEXT(breaker_of(&house), "open");
    int before = fake.reads;
    for (int i = 0; i < 3; i++)
        EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT_NUM(fake.reads - before, 0);
    fake.is_unreadable = fake.is_down = false;
    for (int i = 0; i < 300 && decrypt(&house) != HPL_OK; i++)
        sleep_ms(100);
    EXPECT_OK(decrypt(&house));
    EXPECT_TEXT(breaker_of(&house), "closed");
    close_house(&house);
}

HPL_TEST(a_record_is_waited_for_no_longer_than_the_configuration_says)
{
    struct house house;
    open_house(&house);
    generate(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"enable_cache\":false,\"timeout_seconds\":1}"));
    fake.holds_reads = true;
    uint64_t began = hpl_clock_mono_ns();
    EXPECT_STATUS(decrypt(&house), HPL_TIMEOUT);
    EXPECT(hpl_clock_mono_ns() - began < 9000000000u); /* the fake holds it for ten seconds */
    fake.holds_reads = false;
    EXPECT_OK(decrypt(&house));
    close_house(&house);
}

HPL_TEST(keys_that_are_not_there_are_no_failure_of_the_backend)
{
    struct house house;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    open_house(&house);
    int probes = fake.probes;
    for (int i = 0; i < 20; i++)
        EXPECT_STATUS(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_API, "none", NULL, 32, &secret, &house.envelope, NULL), HPL_NO_SUCH_KEY);
    EXPECT_NUM(fake.probes - probes, 0);
    close_house(&house);
}

/* --- the outage choice --------------------------------------------------------------------------------------------------- */

HPL_TEST(an_outage_choice_serves_what_was_opened_before_and_nothing_else)
{
    struct house house;
    struct hpl_buf other = {0};
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"outage\":{\"cache_seconds\":60}}"));
    generate(&house);
    other = house.envelope;
    house.envelope = (struct hpl_buf){0};
    generate(&house);
    EXPECT_OK(decrypt(&house));
    fake.is_down = true;
    for (int i = 0; i < 3; i++)
        EXPECT_OK(decrypt(&house));
    EXPECT_TEXT(breaker_of(&house), "open");
    EXPECT_NUM(number(&house, "decrypt_cache", "served_in_outage"), 3);
    EXPECT_STATUS(decrypt_under(&house, &two, &call, &secret), HPL_KEY_UNAVAILABLE);
    EXPECT_STATUS(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_OBJECT, hpl_buf_bytes(&other), &one, &secret, NULL), HPL_KEY_UNAVAILABLE);
    EXPECT(!secret);
    fake.is_unreadable = true; /* the records too: what was read a moment ago still permits it */
    EXPECT_OK(decrypt(&house));
    hpl_buf_wipe(&other);
    close_house(&house);
}

HPL_TEST(a_key_that_the_backend_lost_is_not_served_as_an_outage)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"outage\":{\"cache_seconds\":60}}"));
    generate(&house);
    EXPECT_OK(decrypt(&house));
    fake.is_keyless = true;
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT_TEXT(breaker_of(&house), "closed");
    close_house(&house);
}

HPL_TEST(an_outage_cache_ends_with_its_seconds_and_its_record)
{
    struct house house;
    open_house(&house);
    EXPECT_OK(set_caching(&house, "{\"outage\":{\"cache_seconds\":3}}"));
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"enable_cache\":false}"));
    generate(&house);
    EXPECT_OK(decrypt(&house));
    fake.is_down = fake.is_unreadable = true;
    EXPECT_OK(decrypt(&house));
    sleep_ms(3100);
    EXPECT(decrypt(&house) != HPL_OK);
    fake.is_unreadable = false;
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    close_house(&house);
}

/* --- an end ---------------------------------------------------------------------------------------------------------------- */

static enum hpl_status count_none(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    (void)arg, (void)call, (void)what;
    *count = 0;
    return HPL_OK;
}

/* A rotation makes the material first: one that died before it wrote the record left a version that no record names. */
HPL_TEST(what_a_rotation_that_died_left_goes_with_its_key)
{
    struct house house;
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    uint8_t uid[HPL_KEY_UID_LEN], material[32];
    open_house(&house);
    hpl_kms_close(house.kms);
    house.options.allow_immediate_deletion = true;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    hpl_kms_set_census(house.kms, count_none, NULL);
    EXPECT_OK(fake_place.materials ? HPL_OK : HPL_NOT_FOUND);
    memcpy(uid, fake_place.materials->uid, sizeof uid);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"default_key_id\":\"other\"}"));
    EXPECT_OK(fake_create(NULL, &call, uid, 2));
    EXPECT_OK(hpl_kms_destroy_key(house.kms, &call, "k", &metadata));
    for (uint32_t version = 1; version <= 2; version++)
        EXPECT_STATUS(fake_key(&call, uid, version, material), HPL_KEY_UNAVAILABLE);
    close_house(&house);
}

/* --- the gate ------------------------------------------------------------------------------------------------------------ */

struct storm {
    struct house *house;
    _Atomic int refused, done;
};

static void *wrap_on(void *arg)
{
    struct storm *storm = arg;
    struct hpl_call call = {0};
    struct hpl_buf envelope = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    enum hpl_status status = hpl_kms_generate(storm->house->kms, &call, HPL_PURPOSE_OBJECT, NULL, &one, 32, &secret, &envelope, NULL);
    atomic_fetch_add(status == HPL_SLOW_DOWN ? &storm->refused : &storm->done, 1);
    hpl_buf_wipe(&envelope);
    return NULL;
}

HPL_TEST(a_storm_of_generates_is_refused_at_once_and_decrypts_go_on)
{
    struct house house;
    pthread_t threads[12];
    open_house(&house);
    struct storm storm = {.house = &house};
    generate(&house);
    fake.holds_wraps = true;
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, wrap_on, &storm), 0);
    for (int i = 0; i < 2000 && storm.refused < 6; i++)
        sleep_ms(10);
    EXPECT_NUM(storm.refused, 6); /* eight may wait, two of the places are for decrypts */
    EXPECT_OK(decrypt(&house));
    fake.holds_wraps = false;
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    EXPECT_NUM(storm.done, 6);
    EXPECT_NUM(number(&house, "details", "refused_when_full"), 6);
    close_house(&house);
}

/* --- batches ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status generate_many(struct house *house, struct hpl_data_key *keys, size_t count)
{
    struct hpl_call call = {0};
    struct hpl_key_ref ref;
    return hpl_kms_generate_many(house->kms, &call, HPL_PURPOSE_OBJECT, NULL, &one, 32, keys, count, &ref);
}

HPL_TEST(a_batch_gives_as_many_keys_as_asked_all_different_and_each_opens)
{
    static const unsigned slow_us[] = {0, 2000}; /* on one thread, and spread */
    struct house house;
    struct hpl_data_key keys[64];
    open_house(&house);
    for (size_t round = 0; round < HPL_COUNT(slow_us); round++) {
        fake.slow_us = (int)slow_us[round];
        int reads = fake.reads;
        EXPECT_OK(generate_many(&house, keys, HPL_COUNT(keys)));
        EXPECT_NUM(fake.reads - reads, 0);
        fake.slow_us = 0;
        for (size_t i = 0; i < HPL_COUNT(keys); i++) {
            struct hpl_call call = {0};
            struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
            EXPECT_OK(hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_OBJECT, hpl_buf_bytes(&keys[i].envelope), &one, &opened, NULL));
            EXPECT_BYTES(opened->bytes, keys[i].secret->bytes, 32);
            for (size_t j = 0; j < i; j++)
                EXPECT(memcmp(keys[i].secret->bytes, keys[j].secret->bytes, 32) != 0);
        }
        hpl_data_keys_wipe(keys, HPL_COUNT(keys));
    }
    close_house(&house);
}

HPL_TEST(a_batch_over_a_slow_backend_waits_for_several_at_once)
{
    struct house house;
    struct hpl_data_key keys[32];
    open_house(&house);
    fake.slow_us = 20000;
    fake.most_inside = 0;
    EXPECT_OK(generate_many(&house, keys, HPL_COUNT(keys)));
    EXPECT(fake.most_inside >= 2 && fake.most_inside <= 3); /* a queue of 8: two help */
    hpl_data_keys_wipe(keys, HPL_COUNT(keys));
    close_house(&house);
}

HPL_TEST(a_batch_is_all_or_none)
{
    size_t in_use = hpl_secret_in_use();
    struct house house;
    struct hpl_data_key keys[16];
    open_house(&house);
    fake.slow_us = 1000;
    fake.wraps_left = 9;
    EXPECT_STATUS(generate_many(&house, keys, HPL_COUNT(keys)), HPL_KEY_UNAVAILABLE);
    for (size_t i = 0; i < HPL_COUNT(keys); i++)
        EXPECT(!keys[i].secret && !keys[i].envelope.data);
    EXPECT_OK(set_enabled(&house, false));
    EXPECT_STATUS(generate_many(&house, keys, HPL_COUNT(keys)), HPL_KEY_DISABLED);
    close_house(&house);
    EXPECT_NUM(hpl_secret_in_use(), in_use);
}

/* --- the settings -------------------------------------------------------------------------------------------------------- */

HPL_TEST(caching_choices_are_checked_by_name_and_shown)
{
    static const char *const wrong[] = {"{\"decrypt_seconds\":61}", "{\"decrypt_seconds\":-1}", "{\"decrypt_seconds\":\"9\"}", "{\"decrypt_uses\":1001}",
                                        "{\"bucket_key\":1}", "{\"bucket_key_minutes\":16}", "{\"bucket_key_objects\":1048577}", "{\"outage\":\"open\"}",
                                        "{\"outage\":{\"cache_seconds\":3601}}", "{\"outage\":{}}", "{\"outage\":60}"};
    struct house house;
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_house(&house);
    for (size_t i = 0; i < HPL_COUNT(wrong); i++)
        EXPECT_STATUS(set_caching(&house, wrong[i]), HPL_INVALID_REQUEST);
    EXPECT_OK(set_caching(&house, "{\"decrypt_seconds\":9,\"bucket_key\":true,\"outage\":{\"cache_seconds\":3600}}"));
    EXPECT_OK(hpl_kms_describe_key(house.kms, &call, "k", &metadata));
    const json_t *caching = json_object_get(metadata, "caching");
    EXPECT_NUM(json_integer_value(json_object_get(caching, "decrypt_seconds")), 9);
    EXPECT_NUM(json_integer_value(json_object_get(caching, "decrypt_uses")), 1000);
    EXPECT_NUM(json_integer_value(json_object_get(caching, "bucket_key_minutes")), 5);
    EXPECT_NUM(json_integer_value(json_object_get(json_object_get(caching, "outage"), "cache_seconds")), 3600);
    EXPECT_OK(set_caching(&house, "{}"));
    json_decref(metadata);
    EXPECT_OK(hpl_kms_describe_key(house.kms, &call, "k", &metadata));
    EXPECT_TEXT(json_string_value(json_object_get(json_object_get(metadata, "caching"), "outage")), "fail_closed");
    close_house(&house);
}

HPL_TEST(the_record_cache_counts_and_forgets_the_oldest)
{
    struct house house;
    char key_id[16];
    struct hpl_call call = {0};
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"max_cached_keys\":4}"));
    for (int i = 0; i < 6; i++) {
        struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
        snprintf(key_id, sizeof key_id, "key-%d", i);
        create(&house, key_id);
        hpl_buf_wipe(&house.envelope);
        EXPECT_OK(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_API, key_id, NULL, 32, &secret, &house.envelope, NULL));
    }
    EXPECT(number(&house, "cache_stats", "eviction_count") >= 2);
    EXPECT_NUM(number(&house, "cache_stats", "entry_count"), 4);
    EXPECT(number(&house, "cache_stats", "hit_count") >= 6);
    close_house(&house);
}

HPL_TEST(a_record_that_a_decrypt_does_not_find_in_the_cache_is_one_miss)
{
    struct house house;
    struct hpl_call call = {0};
    open_house(&house);
    generate(&house);
    long long before = number(&house, "cache_stats", "miss_count");
    EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    EXPECT_OK(decrypt(&house));
    EXPECT_NUM(number(&house, "cache_stats", "miss_count") - before, 1);
    close_house(&house);
}

/* --- material that is there already --------------------------------------------------------------------------------------- */

HPL_TEST(a_decrypt_writes_no_new_record_over_one_that_was_lost)
{
    struct house house;
    struct hpl_call call = {0};
    json_t *answer = NULL;
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"default_key_id\":\"d\"}"));
    hpl_buf_wipe(&house.envelope);
    struct hpl_key_ref ref;
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    EXPECT_OK(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_OBJECT, "k", &one, 32, &secret, &house.envelope, &ref));
    fake_lose_record("k");
    fake.has_material = true;
    EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    EXPECT_STATUS(decrypt(&house), HPL_KEY_UNAVAILABLE);
    EXPECT_OK(hpl_kms_begin_store(house.kms, &call, &ref)); /* nothing here destroys what it cannot read */
    hpl_kms_end_store(house.kms);
    EXPECT_STATUS(hpl_kms_impact(house.kms, &call, "k", &answer), HPL_NO_SUCH_KEY);
    EXPECT_STATUS(hpl_kms_policy(house.kms, &call, "k", &answer), HPL_NO_SUCH_KEY);
    EXPECT_STATUS(hpl_kms_describe_key(house.kms, &call, "k", &answer), HPL_NO_SUCH_KEY);
    EXPECT(!fake_has_record("k"));
    close_house(&house);
}

static long long most_wraps(struct house *house, int64_t days, int64_t wraps)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_set_rotation(house->kms, &call, "t", days, wraps, &metadata));
    return json_integer_value(json_object_get(metadata, "rotation_max_wraps"));
}

HPL_TEST(a_rotation_that_is_set_keeps_the_bound_of_the_backend)
{
    struct house house;
    open_house(&house);
    fake.has_material = true;
    fake.max_wraps = 1000;
    create(&house, "t");
    EXPECT_NUM(most_wraps(&house, 365, 0), 1000);
    EXPECT_NUM(most_wraps(&house, 0, 0), 1000);
    EXPECT_NUM(most_wraps(&house, 0, 1001), 1000);
    EXPECT_NUM(most_wraps(&house, 0, 999), 999);
    fake.max_wraps = 0;
    EXPECT_NUM(most_wraps(&house, 365, 0), 0);
    close_house(&house);
}

HPL_TEST(every_wrap_of_a_bound_key_is_counted)
{
    struct house house;
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    open_house(&house);
    fake.has_material = true;
    fake.max_wraps = 16; /* counted one by one */
    create(&house, "t"); /* tried once */
    EXPECT_OK(hpl_kms_describe_key(house.kms, &call, "t", &metadata));
    EXPECT_NUM(json_integer_value(json_object_get(metadata, "wraps")), 1);
    json_decref(metadata);
    EXPECT_OK(hpl_kms_describe_key(house.kms, &call, "t", &metadata)); /* as was the look at it before this */
    EXPECT_NUM(json_integer_value(json_object_get(metadata, "wraps")), 2);
    close_house(&house);
}

HPL_TEST(metrics_are_prometheus_text)
{
    struct house house;
    struct hpl_buf text = {0};
    open_house(&house);
    generate(&house);
    EXPECT_OK(decrypt(&house));
    hpl_kms_put_metrics(house.kms, &text);
    const char *shown = hpl_buf_text(&text);
    EXPECT(strstr(shown, "hardplate_kms_cache_hits_total{cache=\"decrypts\"} 0\n") != NULL);
    EXPECT(strstr(shown, "hardplate_kms_backend_seconds_bucket{operation=\"decrypt\",le=\"+Inf\"}") != NULL);
    EXPECT(strstr(shown, "hardplate_kms_breaker_open 0\n") != NULL);
    EXPECT(!strstr(shown, "{cache=\"decrypts\"} 0\n# HELP hardplate_kms_cache_hits"));
    hpl_buf_wipe(&text);
    close_house(&house);
}
