/* Does a key do only what its record lets it: who may use it and for what, when it rotates, what it says of itself? */
#include "tests/unit/kms_house.h"

#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "backends/local/key_file.h"
#include "backends/local/local.h"
#include "base/clock.h"
#include "base/codec.h"
#include "kms/envelope.h"

static void open_running(struct house *house)
{
    open_house(house);
    EXPECT_OK(send(house, hpl_kms_configure, "{\"backend_type\":\"local\",\"default_key_id\":\"d\"}"));
    EXPECT_OK(start(house));
}

/* --- policy ---------------------------------------------------------------------------------------------------------------- */

static enum hpl_status put_policy(struct house *house, const char *key_id, const char *text)
{
    json_t *HPL_JSON_AUTO policy = json_loads(text, JSON_DECODE_ANY, NULL);
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {.principal = "nobody", .role = "admin"};
    EXPECT(policy != NULL);
    return hpl_kms_set_policy(house->kms, &call, key_id, policy, &metadata);
}

static const struct hpl_context_pair of_a[] = {{{(const uint8_t *)"tenant", 6}, {(const uint8_t *)"a", 1}}};
static const struct hpl_context_pair of_b[] = {{{(const uint8_t *)"tenant", 6}, {(const uint8_t *)"b", 1}}};
static const struct hpl_context tenant_a = {of_a, 1}, tenant_b = {of_b, 1};

static enum hpl_status generate_as(struct house *house, const char *principal, const char *role, enum hpl_purpose purpose, const struct hpl_context *context,
                                   struct hpl_buf *envelope)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {.principal = principal, .role = role};
    return hpl_kms_generate(house->kms, &call, purpose, "k", context, 32, &secret, envelope, NULL);
}

static enum hpl_status decrypt_as(struct house *house, const char *principal, const char *role, const struct hpl_context *context, const struct hpl_buf *envelope)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {.principal = principal, .role = role};
    return hpl_kms_decrypt(house->kms, &call, HPL_PURPOSE_API, hpl_buf_bytes(envelope), context, &secret, NULL);
}

HPL_TEST(a_policy_lets_in_whom_a_grant_fits_as_a_whole_and_nobody_else)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, "anyone", "objects", HPL_PURPOSE_API, NULL, &envelope)); /* none yet: the account's rules alone */
    hpl_buf_wipe(&envelope);
    EXPECT_OK(put_policy(&house, "k",
                         "{\"grants\":[{\"principals\":[\"app\"],\"operations\":[\"GenerateDataKey\",\"Decrypt\"],\"purposes\":[\"api\"],"
                         "\"context\":{\"tenant\":\"a\"}},{\"principals\":[\"role:objects\"],\"operations\":[\"GenerateDataKey\"],\"purposes\":[\"object\"]}]}"));
    EXPECT_OK(generate_as(&house, "app", "admin", HPL_PURPOSE_API, &tenant_a, &envelope));
    EXPECT_OK(decrypt_as(&house, "app", "admin", &tenant_a, &envelope));
    EXPECT_STATUS(decrypt_as(&house, "ops", "admin", &tenant_a, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "app", "admin", HPL_PURPOSE_API, &tenant_b, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "app", "admin", HPL_PURPOSE_API, NULL, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "app", "admin", HPL_PURPOSE_OBJECT, &tenant_a, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "ap", "admin", HPL_PURPOSE_API, &tenant_a, &envelope), HPL_ACCESS_DENIED);
    EXPECT_STATUS(generate_as(&house, "role:objects", "admin", HPL_PURPOSE_API, &tenant_a, &envelope), HPL_ACCESS_DENIED);
    struct hpl_buf other = {0};
    EXPECT_OK(generate_as(&house, "user", "objects", HPL_PURPOSE_OBJECT, NULL, &other));
    hpl_buf_wipe(&other);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, &tenant_a, &envelope)); /* the daemon's own work */
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(a_policy_without_grants_shuts_everybody_out_until_it_is_taken_away)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO policy = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, "ops", "admin", HPL_PURPOSE_API, NULL, &envelope));
    EXPECT_OK(put_policy(&house, "k", "{\"grants\":[]}"));
    close_house(&house, false);
    open_house(&house);
    EXPECT_STATUS(decrypt_as(&house, "ops", "admin", NULL, &envelope), HPL_ACCESS_DENIED);
    EXPECT_OK(hpl_kms_policy(house.kms, &call, "k", &policy));
    EXPECT(json_is_array(json_object_get(policy, "grants")));
    EXPECT_OK(put_policy(&house, "k", "null"));
    EXPECT_OK(decrypt_as(&house, "ops", "admin", NULL, &envelope));
    EXPECT_STATUS(put_policy(&house, "nobody's", "null"), HPL_NO_SUCH_KEY);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(what_is_not_a_policy_is_refused_whole)
{
    static const char *const wrong[] = {
        "[]", "5", "{}", "{\"grants\":{}}", "{\"grants\":[5]}", "{\"grants\":[{}]}", "{\"grants\":[],\"grant\":[]}",
        "{\"grants\":[{\"principals\":[],\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":\"*\",\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"role:root\"],\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"\"],\"operations\":[\"*\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"decrypt\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[5]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"*\"],\"purposes\":[\"configuration\"]}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"*\"],\"contxt\":{\"tenant\":\"a\"}}]}",
        "{\"grants\":[{\"principals\":[\"*\"],\"operations\":[\"*\"],\"context\":{\"tenant\":5}}]}",
    };
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    for (size_t i = 0; i < HPL_COUNT(wrong); i++)
        EXPECT_STATUS(put_policy(&house, "k", wrong[i]), HPL_INVALID_REQUEST);
    EXPECT_OK(generate_as(&house, "anyone", "objects", HPL_PURPOSE_API, NULL, &envelope));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

/* --- metadata -------------------------------------------------------------------------------------------------------------- */

static json_t *describe(struct house *house, const char *key_id)
{
    json_t *metadata = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_describe_key(house->kms, &call, key_id, &metadata));
    return metadata;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "(none)";
}

typedef enum hpl_status set_fn(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *value, json_t **metadata);

static enum hpl_status set_to(struct house *house, set_fn *fn, const char *key_id, const char *text)
{
    json_t *HPL_JSON_AUTO value = json_loads(text, JSON_DECODE_ANY, NULL);
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    return fn(house->kms, &call, key_id, value, &metadata);
}

static enum hpl_status set_description(struct house *house, const char *key_id, const char *text)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    return hpl_kms_set_description(house->kms, &call, key_id, text, &metadata);
}

HPL_TEST(description_and_tags_change_and_last)
{
    struct house house = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(set_description(&house, "k", "of the ledger"));
    EXPECT_OK(set_to(&house, hpl_kms_tag, "k", "{\"owner\":\"a\",\"env\":\"prod\"}"));
    EXPECT_OK(set_to(&house, hpl_kms_tag, "k", "{\"owner\":\"b\"}"));
    EXPECT_OK(set_to(&house, hpl_kms_untag, "k", "[\"env\",\"never there\"]"));
    close_house(&house, false);
    open_house(&house);
    json_t *HPL_JSON_AUTO metadata = describe(&house, "k");
    EXPECT_TEXT(text_of(metadata, "description"), "of the ledger");
    EXPECT_TEXT(text_of(json_object_get(metadata, "tags"), "owner"), "b");
    EXPECT_NUM(json_object_size(json_object_get(metadata, "tags")), 1);
    EXPECT_OK(set_description(&house, "k", ""));
    json_t *HPL_JSON_AUTO without = describe(&house, "k");
    EXPECT(json_is_null(json_object_get(without, "description")));
    EXPECT_STATUS(set_to(&house, hpl_kms_tag, "k", "{\"name\":\"other\"}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(set_to(&house, hpl_kms_untag, "k", "[\"name\"]"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(set_to(&house, hpl_kms_untag, "k", "[5]"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(set_to(&house, hpl_kms_tag, "k", "{\"a\":5}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(set_to(&house, hpl_kms_tag, "nobody's", "{\"a\":\"b\"}"), HPL_NO_SUCH_KEY);
    close_house(&house, true);
}

HPL_TEST(tags_added_one_by_one_stay_within_the_bound)
{
    struct house house = {0};
    char tag[32];
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    for (int i = 0; i < 50; i++) {
        snprintf(tag, sizeof tag, "{\"t%d\":\"\"}", i);
        EXPECT_OK(set_to(&house, hpl_kms_tag, "k", tag));
    }
    EXPECT_STATUS(set_to(&house, hpl_kms_tag, "k", "{\"one more\":\"\"}"), HPL_INVALID_REQUEST);
    close_house(&house, true);
}

static size_t num_listed(struct house *house, size_t limit, const char *marker, const char *status, char next[static HPL_KEY_ID_MAX + 1])
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_list_keys(house->kms, &call, limit, marker, status, &answer));
    snprintf(next, HPL_KEY_ID_MAX + 1, "%s", text_of(answer, "next_marker"));
    return json_array_size(json_object_get(answer, "keys"));
}

HPL_TEST(a_list_holds_the_keys_of_one_state_by_page)
{
    struct house house = {0};
    struct hpl_call call = {0};
    char key_id[16], next[HPL_KEY_ID_MAX + 1];
    json_t *answer = NULL;
    open_running(&house);
    for (int i = 0; i < 9; i++) {
        json_t *HPL_JSON_AUTO metadata = NULL;
        snprintf(key_id, sizeof key_id, "k%d", i);
        EXPECT_OK(create(&house, key_id));
        if (i % 3 == 0)
            EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, key_id, false, &metadata));
    }
    EXPECT_NUM(num_listed(&house, 100, NULL, "Active", next), 6);
    EXPECT_NUM(num_listed(&house, 2, NULL, "disabled", next), 2);
    EXPECT_TEXT(next, "k3");
    EXPECT_NUM(num_listed(&house, 2, "k3", "Disabled", next), 1);
    EXPECT_TEXT(next, "(none)");
    EXPECT_NUM(num_listed(&house, 100, NULL, "PendingDeletion", next), 0);
    EXPECT_STATUS(hpl_kms_list_keys(house.kms, &call, 0, NULL, "asleep", &answer), HPL_INVALID_REQUEST);
    close_house(&house, true);
}

/* --- rotation -------------------------------------------------------------------------------------------------------------- */

static enum hpl_status set_rotation(struct house *house, const char *key_id, int64_t days, int64_t wraps)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    return hpl_kms_set_rotation(house->kms, &call, key_id, days, wraps, &metadata);
}

static long long version_of(struct house *house, const char *key_id)
{
    json_t *HPL_JSON_AUTO metadata = describe(house, key_id);
    return json_integer_value(json_object_get(metadata, "current_version"));
}

static void *reap(void *kms)
{
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_reap(kms, &call));
    return NULL;
}

#define DAYS(n) ((n) * 24ll * 3600 * 1000)

HPL_TEST(a_key_rotates_by_its_age_once_whoever_asks)
{
    struct house house = {0};
    pthread_t threads[4];
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(create(&house, "never"));
    EXPECT_OK(set_rotation(&house, "k", 30, 0));
    hpl_clock_shift_ms(DAYS(29));
    reap(house.kms);
    EXPECT_NUM(version_of(&house, "k"), 1);
    hpl_clock_shift_ms(DAYS(2));
    json_t *HPL_JSON_AUTO due = describe(&house, "k");
    EXPECT_TEXT(text_of(due, "rotation_due_reason"), "never_rotated");
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, reap, house.kms), 0);
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    EXPECT_NUM(version_of(&house, "k"), 2);
    EXPECT_NUM(version_of(&house, "never"), 1);
    json_t *HPL_JSON_AUTO done = describe(&house, "k");
    EXPECT(json_is_false(json_object_get(done, "rotation_due")));
    const json_t *versions = json_object_get(done, "versions");
    EXPECT_NUM(json_array_size(versions), 2);
    EXPECT(strcmp(text_of(json_array_get(versions, 0), "creation_date"), text_of(json_array_get(versions, 1), "creation_date")) < 0);
    hpl_clock_shift_ms(DAYS(31));
    json_t *HPL_JSON_AUTO again = describe(&house, "k");
    EXPECT_TEXT(text_of(again, "rotation_due_reason"), "age");
    EXPECT_OK(set_rotation(&house, "k", 0, 0));
    reap(house.kms);
    EXPECT_NUM(version_of(&house, "k"), 2);
    hpl_clock_shift_ms(-DAYS(62));
    close_house(&house, true);
}

HPL_TEST(a_key_rotates_by_its_wraps_and_the_count_survives_a_restart)
{
    struct house house = {0};
    struct hpl_buf envelope = {0}, first = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(set_rotation(&house, "k", 0, 32));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &first));
    for (int i = 0; i < 20; i++) {
        EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
        hpl_buf_wipe(&envelope);
    }
    reap(house.kms);
    EXPECT_NUM(version_of(&house, "k"), 1);
    close_house(&house, false);
    open_house(&house);
    for (int i = 0; i < 12; i++) {
        EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
        hpl_buf_wipe(&envelope);
    }
    json_t *HPL_JSON_AUTO due = describe(&house, "k");
    EXPECT_TEXT(text_of(due, "rotation_due_reason"), "wraps");
    reap(house.kms);
    EXPECT_NUM(version_of(&house, "k"), 2);
    reap(house.kms);
    EXPECT_NUM(version_of(&house, "k"), 2); /* the new version begins at nothing */
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &first));
    EXPECT_STATUS(set_rotation(&house, "k", -1, 0), HPL_INVALID_REQUEST);
    EXPECT_STATUS(set_rotation(&house, "k", 3651, 0), HPL_INVALID_REQUEST);
    EXPECT_STATUS(set_rotation(&house, "k", 0, (1ll << 32) + 1), HPL_INVALID_REQUEST);
    hpl_buf_wipe(&first);
    close_house(&house, true);
}

static void wrap_times(struct house *house, int count)
{
    struct hpl_buf envelope = {0};
    for (int i = 0; i < count; i++) {
        EXPECT_OK(generate_as(house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
        hpl_buf_wipe(&envelope);
    }
}

HPL_TEST(wraps_under_an_older_version_do_not_reset_the_count_of_the_present_one)
{
    struct house house = {0}, other;
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(set_rotation(&house, "k", 0, 32));
    other = house;
    EXPECT_OK(hpl_kms_open(&call, &other.kms, &other.options));
    wrap_times(&other, 1); /* it knows version 1 for some minutes now */
    EXPECT_OK(hpl_kms_rotate(house.kms, &call, "k", &metadata));
    wrap_times(&house, 20);
    wrap_times(&other, 5);
    wrap_times(&house, 12);
    reap(house.kms);
    EXPECT_NUM(version_of(&house, "k"), 3);
    hpl_kms_close(other.kms);
    close_house(&house, true);
}

HPL_TEST(a_disabled_key_does_not_rotate)
{
    struct house house = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(set_rotation(&house, "k", 1, 1));
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", false, &metadata));
    hpl_clock_shift_ms(DAYS(10));
    reap(house.kms);
    hpl_clock_shift_ms(-DAYS(10));
    EXPECT_NUM(version_of(&house, "k"), 1);
    close_house(&house, true);
}

/* --- destroying at once, and what is not there ------------------------------------------------------------------------------ */

static _Atomic uint64_t num_objects;

static enum hpl_status count_objects(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    (void)arg, (void)call, (void)what;
    *count = num_objects;
    return HPL_OK;
}

static enum hpl_status destroy(struct house *house, const char *key_id)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    return hpl_kms_destroy_key(house->kms, &call, key_id, &metadata);
}

static void open_willing(struct house *house)
{
    struct hpl_call call = {0};
    open_running(house);
    hpl_kms_close(house->kms);
    house->options.allow_immediate_deletion = true;
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
}

HPL_TEST(a_key_is_destroyed_at_once_only_where_that_is_allowed_and_nothing_needs_it)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_STATUS(destroy(&house, "k"), HPL_INVALID_REQUEST);
    close_house(&house, true);
    house = (struct house){0};
    open_willing(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(create(&house, "d"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
    EXPECT_STATUS(destroy(&house, "k"), HPL_KEY_IN_USE); /* nobody counts */
    hpl_kms_set_census(house.kms, count_objects, NULL);
    num_objects = 2;
    EXPECT_STATUS(destroy(&house, "k"), HPL_KEY_IN_USE);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &envelope));
    num_objects = 0;
    EXPECT_STATUS(destroy(&house, "d"), HPL_KEY_IN_USE); /* the default key */
    EXPECT_OK(destroy(&house, "k"));
    EXPECT_STATUS(decrypt_as(&house, NULL, NULL, NULL, &envelope), HPL_KEY_DESTROYED);
    EXPECT_STATUS(destroy(&house, "k"), HPL_KEY_DESTROYED);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

/* Says none at first and two from the second question on: an object that was stored meanwhile. */
static enum hpl_status count_late(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    (void)arg, (void)call, (void)what;
    *count = num_objects++ ? 2 : 0;
    return HPL_OK;
}

HPL_TEST(an_object_stored_while_its_key_was_to_go_keeps_the_key)
{
    struct house house = {0};
    open_willing(&house);
    EXPECT_OK(create(&house, "k"));
    num_objects = 0;
    hpl_kms_set_census(house.kms, count_late, NULL);
    EXPECT_STATUS(destroy(&house, "k"), HPL_KEY_IN_USE);
    json_t *HPL_JSON_AUTO metadata = describe(&house, "k");
    EXPECT_TEXT(text_of(metadata, "key_state"), "Enabled");
    EXPECT(json_is_null(json_object_get(metadata, "deletion_date")));
    close_house(&house, true);
}

/* The same, and in between the minute is over. */
static enum hpl_status count_late_and_reap(void *kms, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    if (num_objects == 1)
        reap(kms);
    return count_late(NULL, call, what, count);
}

HPL_TEST(a_key_that_is_closed_for_its_last_count_is_not_destroyed_before_it)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_willing(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
    num_objects = 0;
    hpl_kms_set_census(house.kms, count_late_and_reap, house.kms);
    EXPECT_STATUS(destroy(&house, "k"), HPL_KEY_IN_USE);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &envelope));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

static void *destroy_k(void *house)
{
    EXPECT_STATUS(destroy(house, "k"), HPL_KEY_IN_USE);
    return NULL;
}

HPL_TEST(a_key_is_not_destroyed_while_an_object_under_it_becomes_visible)
{
    struct house house = {0};
    struct hpl_call call = {0};
    struct hpl_buf envelope = {0};
    struct hpl_key_ref ref;
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    pthread_t thread;
    open_willing(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_OBJECT, "k", NULL, 32, &secret, &envelope, &ref));
    hpl_kms_set_census(house.kms, count_objects, NULL);
    num_objects = 0;
    EXPECT_OK(hpl_kms_begin_store(house.kms, &call, &ref));
    EXPECT_NUM(pthread_create(&thread, NULL, destroy_k, &house), 0);
    usleep(200000); /* time to count too early */
    num_objects = 1;
    hpl_kms_end_store(house.kms);
    pthread_join(thread, NULL);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(impact_names_what_needs_a_key)
{
    struct house house = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO none = NULL;
    json_t *HPL_JSON_AUTO some = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "d"));
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(hpl_kms_impact(house.kms, &call, "k", &none));
    EXPECT_NUM(json_array_size(json_object_get(none, "references")), 0);
    EXPECT_NUM(json_array_size(json_object_get(json_object_get(none, "coverage"), "not_scanned")), 2);
    num_objects = 7;
    hpl_kms_set_census(house.kms, count_objects, NULL);
    EXPECT_OK(hpl_kms_impact(house.kms, &call, "d", &some));
    EXPECT_NUM(json_array_size(json_object_get(some, "references")), 2);
    EXPECT_TEXT(text_of(json_array_get(json_object_get(some, "references"), 1), "id"), "default_key_id");
    EXPECT_TEXT(text_of(some, "completeness"), "partial");
    close_house(&house, true);
}

static struct hpl_keystore_ops forgetful_ops;

static enum hpl_status forget(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    (void)keystore, (void)uid, (void)version, (void)aad, (void)secret, (void)out;
    return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the token does not find the key");
}

static enum hpl_status forgetful_open(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    HPL_TRY(hpl_backend_local.open(call, config, env, out));
    forgetful_ops = *(*out)->ops;
    forgetful_ops.wrap = forget;
    (*out)->ops = &forgetful_ops;
    return HPL_OK;
}

HPL_TEST(a_key_whose_material_is_not_found_is_unavailable_and_never_deleted)
{
    static struct hpl_backend forgetful;
    static const struct hpl_backend *const list[] = {&forgetful, NULL};
    struct house house = {0};
    struct hpl_call call = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    hpl_kms_close(house.kms);
    forgetful = hpl_backend_local;
    forgetful.open = forgetful_open;
    house.options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    json_t *HPL_JSON_AUTO metadata = describe(&house, "k");
    EXPECT_TEXT(text_of(metadata, "key_state"), "Unavailable");
    EXPECT_TEXT(text_of(metadata, "unavailable_reason"), "the token does not find the key");
    close_house(&house, false);
    open_house(&house);
    json_t *HPL_JSON_AUTO again = describe(&house, "k");
    EXPECT_TEXT(text_of(again, "key_state"), "Enabled");
    close_house(&house, true);
}

static uint8_t another_mechanism(struct hpl_keystore *keystore)
{
    (void)keystore;
    return HPL_MECH_P11_GCM;
}

static enum hpl_status changed_open(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    HPL_TRY(hpl_backend_local.open(call, config, env, out));
    forgetful_ops = *(*out)->ops;
    forgetful_ops.mechanism = another_mechanism;
    forgetful_ops.wrap = forget;
    (*out)->ops = &forgetful_ops;
    return HPL_OK;
}

HPL_TEST(a_keystore_that_wraps_in_another_mechanism_now_opens_what_it_wrapped_before)
{
    static struct hpl_backend changed;
    static const struct hpl_backend *const list[] = {&changed, NULL};
    struct house house = {0};
    struct hpl_call call = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
    hpl_kms_close(house.kms);
    changed = hpl_backend_local;
    changed.open = changed_open;
    house.options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &envelope));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

/* --- rewrap ------------------------------------------------------------------------------------------------------------------ */

static enum hpl_status rewrap_as(struct house *house, const char *principal, const struct hpl_buf *envelope, const struct hpl_context *context, const char *key_id,
                                 struct hpl_buf *out, struct hpl_key_ref *ref)
{
    struct hpl_call call = {.principal = principal, .role = principal ? "admin" : NULL};
    return hpl_kms_rewrap(house->kms, &call, hpl_buf_bytes(envelope), context, key_id, out, ref);
}

/* Whether both envelopes hold the same data key under this context. */
static bool are_same(struct house *house, const struct hpl_buf *a, const struct hpl_buf *b, enum hpl_purpose purpose, const struct hpl_context *context)
{
    struct hpl_secret *HPL_SECRET_AUTO left = NULL;
    struct hpl_secret *HPL_SECRET_AUTO right = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_decrypt(house->kms, &call, purpose, hpl_buf_bytes(a), context, &left, NULL));
    EXPECT_OK(hpl_kms_decrypt(house->kms, &call, purpose, hpl_buf_bytes(b), context, &right, NULL));
    return left->len == right->len && hpl_equal_secret(left->bytes, right->bytes, left->len);
}

HPL_TEST(a_rewrapped_envelope_holds_the_same_key_under_the_current_version)
{
    struct house house = {0};
    struct hpl_buf old = {0}, new = {0}, wrong = {0};
    struct hpl_key_ref ref;
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(create(&house, "other"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_OBJECT, &tenant_a, &old));
    EXPECT_OK(hpl_kms_rotate(house.kms, &call, "k", &metadata));
    EXPECT_OK(rewrap_as(&house, NULL, &old, &tenant_a, NULL, &new, &ref));
    EXPECT_NUM(ref.version, 2);
    EXPECT(are_same(&house, &old, &new, HPL_PURPOSE_OBJECT, &tenant_a));
    EXPECT_STATUS(decrypt_as(&house, NULL, NULL, &tenant_a, &new), HPL_INVALID_CIPHERTEXT); /* an object's still, not the API's */
    EXPECT_STATUS(rewrap_as(&house, NULL, &old, &tenant_b, NULL, &wrong, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_STATUS(rewrap_as(&house, NULL, &old, NULL, NULL, &wrong, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_NUM(wrong.len, 0);
    hpl_buf_wipe(&new);
    EXPECT_OK(rewrap_as(&house, NULL, &old, &tenant_a, "other", &new, &ref));
    EXPECT_TEXT(ref.key_id, "other");
    EXPECT(are_same(&house, &old, &new, HPL_PURPOSE_OBJECT, &tenant_a));
    EXPECT_STATUS(rewrap_as(&house, NULL, &old, &tenant_a, "nobody's", &wrong, NULL), HPL_NO_SUCH_KEY);
    old.data[old.len - 1] ^= 1;
    EXPECT_STATUS(rewrap_as(&house, NULL, &old, &tenant_a, NULL, &wrong, NULL), HPL_INVALID_CIPHERTEXT);
    hpl_buf_wipe(&old);
    hpl_buf_wipe(&new);
    close_house(&house, true);
}

HPL_TEST(rewrapping_takes_a_grant_on_both_keys_and_none_to_decrypt)
{
    struct house house = {0};
    struct hpl_buf old = {0}, new = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(create(&house, "other"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &old));
    EXPECT_OK(put_policy(&house, "k", "{\"grants\":[{\"principals\":[\"mover\"],\"operations\":[\"Rewrap\"],\"context\":{\"tenant\":\"a\"}}]}"));
    EXPECT_OK(rewrap_as(&house, "mover", &old, &tenant_a, NULL, &new, NULL));
    EXPECT_STATUS(decrypt_as(&house, "mover", "admin", &tenant_a, &new), HPL_ACCESS_DENIED);
    hpl_buf_wipe(&new);
    EXPECT_STATUS(rewrap_as(&house, "other", &old, &tenant_a, NULL, &new, NULL), HPL_ACCESS_DENIED);
    EXPECT_OK(put_policy(&house, "other", "{\"grants\":[]}"));
    EXPECT_STATUS(rewrap_as(&house, "mover", &old, &tenant_a, "other", &new, NULL), HPL_ACCESS_DENIED);
    EXPECT_NUM(new.len, 0);
    hpl_buf_wipe(&old);
    close_house(&house, true);
}

/* Two keystores: folders of the local backend. */
static enum hpl_status use_folder(struct house *house, const char *name)
{
    char body[400];
    snprintf(body, sizeof body, "{\"backend_type\":\"local\",\"key_dir\":\"%s/%s\"}", house->dir, name);
    return send(house, hpl_kms_reconfigure, body);
}

HPL_TEST(an_envelope_of_a_former_keystore_is_rewrapped_into_the_active_one)
{
    struct house house = {0};
    struct hpl_buf old = {0}, new = {0};
    struct hpl_key_ref ref;
    struct hpl_envelope was, is;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &old));
    EXPECT_OK(use_folder(&house, "second"));
    EXPECT_STATUS(rewrap_as(&house, NULL, &old, &tenant_a, NULL, &new, NULL), HPL_NO_SUCH_KEY);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(rewrap_as(&house, NULL, &old, &tenant_a, NULL, &new, &ref));
    EXPECT_OK(hpl_envelope_decode(NULL, hpl_buf_bytes(&old), &was));
    EXPECT_OK(hpl_envelope_decode(NULL, hpl_buf_bytes(&new), &is));
    EXPECT(memcmp(was.instance, is.instance, sizeof was.instance) != 0);
    EXPECT_BYTES(is.instance, ref.instance, sizeof is.instance);
    EXPECT(are_same(&house, &old, &new, HPL_PURPOSE_API, &tenant_a));
    hpl_buf_wipe(&old);
    hpl_buf_wipe(&new);
    close_house(&house, true);
}

HPL_TEST(a_deletion_in_a_former_keystore_is_carried_out_after_a_restart)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &metadata));
    EXPECT_OK(use_folder(&house, "second"));
    close_house(&house, false);
    open_house(&house);
    hpl_clock_shift_ms(DAYS(8));
    reap(house.kms);
    hpl_clock_shift_ms(-DAYS(8));
    EXPECT_STATUS(decrypt_as(&house, NULL, NULL, NULL, &envelope), HPL_KEY_DESTROYED);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

/* --- what is attached, and why something does not open --------------------------------------------------------------------- */

static json_t *backends(struct house *house);

static void move_folder(const struct house *house, const char *from, const char *to)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s/%s' && mv '%s/%s' '%s/%s'", house->dir, to, house->dir, from, house->dir, to);
    EXPECT_NUM(system(command), 0);
}

HPL_TEST(an_empty_place_does_not_stand_in_for_the_keystore_that_was_there)
{
    struct house house = {0};
    struct hpl_call call = {0};
    struct hpl_buf envelope = {0}, another = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
    close_house(&house, false);
    move_folder(&house, "keys", "away");
    open_house(&house);
    EXPECT_STATUS(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &another), HPL_NOT_RUNNING);
    EXPECT(start(&house) != HPL_OK);
    json_t *HPL_JSON_AUTO listed = backends(&house);
    EXPECT_NUM(json_array_size(listed), 1); /* what was refused is not attached */
    move_folder(&house, "away", "keys");
    EXPECT_OK(hpl_kms_reap(house.kms, &call)); /* it comes back by itself */
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &envelope));
    close_house(&house, false);
    move_folder(&house, "keys", "away");
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"backend_type\":\"local\"}")); /* on purpose */
    EXPECT_OK(create(&house, "k"));
    EXPECT_STATUS(decrypt_as(&house, NULL, NULL, NULL, &envelope), HPL_KEY_UNAVAILABLE);
    close_house(&house, false);
    open_house(&house);
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &another));
    hpl_buf_wipe(&envelope);
    hpl_buf_wipe(&another);
    close_house(&house, true);
}

static json_t *backends(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_backends(house->kms, &call, &answer));
    return json_incref(json_object_get(answer, "backends"));
}

/* The instance of the only keystore in this state. */
static void instance_of(struct house *house, const char *state, char out[static 17])
{
    json_t *HPL_JSON_AUTO all = backends(house);
    size_t i, num_found = 0;
    json_t *entry;
    json_array_foreach(all, i, entry)
        if (strcmp(text_of(entry, "state"), state) == 0) {
            snprintf(out, 17, "%s", text_of(entry, "instance"));
            num_found++;
        }
    EXPECT_NUM(num_found, 1);
}

static enum hpl_status detach(struct house *house, const char *instance, bool is_confirmed)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    return hpl_kms_detach(house->kms, &call, instance, is_confirmed, &answer);
}

static json_t *explain_as(struct house *house, const char *principal, const struct hpl_buf *envelope, const struct hpl_context *context)
{
    json_t *answer = NULL;
    struct hpl_call call = {.principal = principal, .role = "admin"};
    EXPECT_OK(hpl_kms_explain(house->kms, &call, hpl_buf_bytes(envelope), context, &answer));
    return answer;
}

HPL_TEST(a_keystore_is_let_go_only_when_nothing_depends_on_it_and_comes_back)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    char first[17], active[17];
    open_running(&house);
    hpl_kms_set_census(house.kms, count_objects, NULL);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, NULL, &envelope));
    instance_of(&house, "active", active);
    EXPECT_STATUS(detach(&house, active, true), HPL_CONFLICT);
    EXPECT_OK(use_folder(&house, "second"));
    instance_of(&house, "former", first);
    EXPECT_TEXT(first, active);
    num_objects = 3;
    EXPECT_STATUS(detach(&house, first, true), HPL_KEY_IN_USE);
    num_objects = 0;
    EXPECT_STATUS(detach(&house, first, false), HPL_KEY_IN_USE); /* data keys of the API cannot be counted */
    EXPECT_STATUS(detach(&house, "0123456789abcdef", true), HPL_NOT_FOUND);
    EXPECT_STATUS(detach(&house, "../../etc/passwd", true), HPL_INVALID_REQUEST);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &envelope));
    EXPECT_OK(detach(&house, first, true));
    EXPECT_STATUS(detach(&house, first, true), HPL_CONFLICT);
    EXPECT_STATUS(decrypt_as(&house, NULL, NULL, NULL, &envelope), HPL_KEY_UNAVAILABLE);
    json_t *HPL_JSON_AUTO why = explain_as(&house, NULL, &envelope, NULL);
    EXPECT(strstr(text_of(why, "why"), "detached") != NULL);
    close_house(&house, false);
    open_house(&house);
    EXPECT_STATUS(decrypt_as(&house, NULL, NULL, NULL, &envelope), HPL_KEY_UNAVAILABLE);
    EXPECT_OK(use_folder(&house, "keys"));
    EXPECT_OK(decrypt_as(&house, NULL, NULL, NULL, &envelope));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

static enum hpl_status may_store(struct house *house, const struct hpl_key_ref *ref)
{
    struct hpl_call call = {0};
    enum hpl_status status = hpl_kms_begin_store(house->kms, &call, ref);
    if (status == HPL_OK)
        hpl_kms_end_store(house->kms);
    return status;
}

HPL_TEST(what_a_running_upload_sealed_is_not_stored_once_its_key_or_keystore_goes)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_key_ref ref;
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO disabled = NULL;
    json_t *HPL_JSON_AUTO scheduled = NULL;
    json_t *HPL_JSON_AUTO cancelled = NULL;
    open_willing(&house);
    hpl_kms_set_census(house.kms, count_objects, NULL);
    num_objects = 0;
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(hpl_kms_generate(house.kms, &call, HPL_PURPOSE_OBJECT, "k", NULL, 32, &secret, &envelope, &ref));
    EXPECT_OK(may_store(&house, &ref));
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", false, &disabled));
    EXPECT_OK(may_store(&house, &ref)); /* readable again once it is enabled */
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &scheduled));
    EXPECT_STATUS(may_store(&house, &ref), HPL_KEY_PENDING_DELETION);
    EXPECT_OK(hpl_kms_cancel_deletion(house.kms, &call, "k", &cancelled));
    EXPECT_OK(use_folder(&house, "second"));
    EXPECT_OK(may_store(&house, &ref));
    char first[17];
    instance_of(&house, "former", first);
    EXPECT_OK(detach(&house, first, true));
    EXPECT_STATUS(may_store(&house, &ref), HPL_KEY_UNAVAILABLE);
    EXPECT_OK(use_folder(&house, "keys"));
    EXPECT_OK(may_store(&house, &ref));
    EXPECT_OK(destroy(&house, "k"));
    EXPECT_STATUS(may_store(&house, &ref), HPL_KEY_DESTROYED);
    EXPECT_OK(create(&house, "k"));
    EXPECT_STATUS(may_store(&house, &ref), HPL_KEY_DESTROYED);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(an_envelope_is_explained_without_being_given_away)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    json_t *answer = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &envelope));
    json_t *HPL_JSON_AUTO good = explain_as(&house, "ops", &envelope, &tenant_a);
    EXPECT(json_is_true(json_object_get(good, "opens")));
    EXPECT_TEXT(text_of(good, "key_id"), "k");
    EXPECT_TEXT(text_of(good, "purpose"), "api");
    EXPECT_TEXT(text_of(good, "mechanism"), "local-aes-gcm");
    EXPECT_TEXT(text_of(json_object_get(good, "keystore"), "state"), "active");
    EXPECT_TEXT(text_of(json_object_get(good, "keystore"), "backend"), "local");
    json_t *HPL_JSON_AUTO wrong = explain_as(&house, "ops", &envelope, &tenant_b);
    EXPECT(json_is_false(json_object_get(wrong, "opens")));
    EXPECT_TEXT(text_of(wrong, "code"), "InvalidCiphertext");
    EXPECT_OK(put_policy(&house, "k", "{\"grants\":[]}"));
    json_t *HPL_JSON_AUTO denied = explain_as(&house, "ops", &envelope, &tenant_a);
    EXPECT_TEXT(text_of(denied, "code"), "AccessDenied");
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", false, &metadata));
    json_t *HPL_JSON_AUTO disabled = explain_as(&house, NULL, &envelope, &tenant_a);
    EXPECT_TEXT(text_of(disabled, "key_state"), "Disabled");
    EXPECT_TEXT(text_of(disabled, "code"), "KeyDisabled");
    envelope.data[8] ^= 1; /* an instance that never was here */
    json_t *HPL_JSON_AUTO foreign = explain_as(&house, NULL, &envelope, &tenant_a);
    EXPECT_TEXT(text_of(json_object_get(foreign, "keystore"), "state"), "unknown");
    EXPECT_STATUS(hpl_kms_explain(house.kms, &call, hpl_bytes_str("no envelope"), NULL, &answer), HPL_INVALID_CIPHERTEXT);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

/* --- imported keys ----------------------------------------------------------------------------------------------------------- */

static void open_importing(struct house *house)
{
    struct hpl_call call = {0};
    open_running(house);
    hpl_kms_close(house->kms);
    house->options.allow_import = true;
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
}

/* The wrapping key that the service offers now. */
static EVP_PKEY *wrapping_key(struct house *house)
{
    json_t *HPL_JSON_AUTO parameters = NULL;
    struct hpl_call call = {0};
    struct hpl_buf der = {0};
    EXPECT_OK(hpl_kms_import_parameters(house->kms, &call, &parameters));
    const char *text = text_of(parameters, "public_key");
    EXPECT(hpl_base64_decode(&der, text, strlen(text)));
    const unsigned char *at = der.data;
    EVP_PKEY *key = d2i_PUBKEY(NULL, &at, (long)der.len);
    EXPECT(key != NULL && EVP_PKEY_get_bits(key) == 3072);
    hpl_buf_wipe(&der);
    return key;
}

static void encrypt_to(EVP_PKEY *key, const EVP_MD *md, const uint8_t *material, size_t len, uint8_t out[static 384])
{
    size_t out_len = 384;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
    EXPECT(ctx && EVP_PKEY_encrypt_init(ctx) == 1 && EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
           EVP_PKEY_CTX_set_rsa_oaep_md(ctx, md) == 1 && EVP_PKEY_encrypt(ctx, out, &out_len, material, len) == 1 && out_len == 384);
    EVP_PKEY_CTX_free(ctx);
}

static enum hpl_status import(struct house *house, const char *key_id, const uint8_t *encrypted, size_t len)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    const struct hpl_key_create wanted = {.key_id = key_id};
    return hpl_kms_import_key(house->kms, &call, &wanted, hpl_bytes(encrypted, len), &metadata);
}

HPL_TEST(an_imported_key_wraps_under_the_material_that_was_sent)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    uint8_t material[32] = "the customer's own thirty-two b", encrypted[384];
    open_importing(&house);
    EVP_PKEY *key = wrapping_key(&house);
    encrypt_to(key, EVP_sha256(), material, sizeof material, encrypted);
    EXPECT_OK(import(&house, "k", encrypted, sizeof encrypted));
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_KEY_EXISTS);
    json_t *HPL_JSON_AUTO metadata = describe(&house, "k");
    EXPECT_TEXT(text_of(metadata, "origin"), "EXTERNAL");
    EXPECT_TEXT(text_of(metadata, "key_state"), "Enabled");
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &envelope));
    json_t *rotated = NULL;
    EXPECT_STATUS(hpl_kms_rotate(house.kms, &call, "k", &rotated), HPL_CONFLICT);
    EXPECT_STATUS(set_rotation(&house, "k", 30, 0), HPL_CONFLICT);
    close_house(&house, false);
    open_house(&house);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, &tenant_a, &envelope));
    /* The wrap is what docs/formats-envelope.md says of the material that was sent: opened here without the service. */
    struct hpl_envelope parsed;
    uint8_t aad[HPL_WRAP_AAD_LEN], plain[64];
    struct hpl_secret *HPL_SECRET_AUTO own = hpl_secret_from(material, sizeof material);
    EXPECT_OK(hpl_envelope_decode(&call, hpl_buf_bytes(&envelope), &parsed));
    EXPECT_OK(hpl_envelope_aad(&call, &parsed, &tenant_a, aad));
    EXPECT(hpl_local_open(own, parsed.wrapped.iv, hpl_bytes_str("hpl-local-wrap-v1"), hpl_bytes(aad, sizeof aad), parsed.wrapped.ct,
                          parsed.wrapped.ct_len - HPL_LOCAL_TAG_LEN, plain));
    hpl_buf_wipe(&envelope);
    EVP_PKEY_free(key);
    close_house(&house, true);
}

HPL_TEST(what_is_not_material_for_the_present_wrapping_key_is_one_error)
{
    struct house house = {0};
    uint8_t material[33] = "material", encrypted[384];
    json_t *answer = NULL;
    struct hpl_call call = {0};
    open_running(&house);
    EXPECT_STATUS(hpl_kms_import_parameters(house.kms, &call, &answer), HPL_ACCESS_DENIED);
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_ACCESS_DENIED);
    close_house(&house, true);
    house = (struct house){0};
    open_importing(&house);
    EVP_PKEY *key = wrapping_key(&house);
    encrypt_to(key, EVP_sha256(), material, 31, encrypted);
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_INVALID_CIPHERTEXT);
    encrypt_to(key, EVP_sha256(), material, 33, encrypted);
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_INVALID_CIPHERTEXT);
    encrypt_to(key, EVP_sha1(), material, 32, encrypted);
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_INVALID_CIPHERTEXT);
    encrypt_to(key, EVP_sha256(), material, 32, encrypted);
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted - 1), HPL_INVALID_CIPHERTEXT);
    hpl_clock_shift_ms(61ll * 60 * 1000);
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_INVALID_CIPHERTEXT);
    EVP_PKEY *next = wrapping_key(&house);
    EXPECT(EVP_PKEY_eq(key, next) == 0);
    hpl_clock_shift_ms(-61ll * 60 * 1000);
    EXPECT_STATUS(create(&house, "k"), HPL_OK); /* nothing was left of them */
    EVP_PKEY_free(key);
    EVP_PKEY_free(next);
    close_house(&house, true);
}

HPL_TEST(a_wrapping_key_is_good_until_the_time_that_was_told)
{
    struct house house = {0};
    uint8_t material[32] = "the customer's own thirty-two b", encrypted[384];
    open_importing(&house);
    EVP_PKEY *key = wrapping_key(&house);
    encrypt_to(key, EVP_sha256(), material, sizeof material, encrypted);
    hpl_clock_shift_ms(40ll * 60 * 1000);
    EVP_PKEY *next = wrapping_key(&house); /* somebody else asks, and gets one with more time left */
    EXPECT(EVP_PKEY_eq(key, next) == 0);
    EXPECT_OK(import(&house, "by-the-first", encrypted, sizeof encrypted));
    hpl_clock_shift_ms(21ll * 60 * 1000);
    EXPECT_STATUS(import(&house, "too-late", encrypted, sizeof encrypted), HPL_INVALID_CIPHERTEXT);
    encrypt_to(next, EVP_sha256(), material, sizeof material, encrypted);
    EXPECT_OK(import(&house, "by-the-second", encrypted, sizeof encrypted));
    hpl_clock_shift_ms(-61ll * 60 * 1000);
    EVP_PKEY_free(key);
    EVP_PKEY_free(next);
    close_house(&house, true);
}

HPL_TEST(a_wrapping_key_ends_with_its_hour_although_nobody_asks)
{
    struct house house = {0};
    uint8_t material[32] = "the customer's own thirty-two b", encrypted[384];
    open_importing(&house);
    EVP_PKEY *key = wrapping_key(&house);
    encrypt_to(key, EVP_sha256(), material, sizeof material, encrypted);
    hpl_clock_shift_ms(61ll * 60 * 1000);
    reap(house.kms);
    hpl_clock_shift_ms(-61ll * 60 * 1000); /* it would be good again if it were there */
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_INVALID_CIPHERTEXT);
    EVP_PKEY_free(key);
    close_house(&house, true);
}

static struct hpl_keystore_ops raced_ops;
static enum hpl_status (*real_import)(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                      const struct hpl_secret *material);
static void (*before_import)(void);
static bool import_dies;

static enum hpl_status raced_import(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                    const struct hpl_secret *material)
{
    void (*other)(void) = before_import;
    before_import = NULL;
    if (other)
        other();
    HPL_TRY(real_import(keystore, call, uid, version, material));
    return import_dies ? hpl_fail(call, HPL_BACKEND, "told to die with the material written") : HPL_OK;
}

static enum hpl_status raced_open(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    HPL_TRY(hpl_backend_local.open(call, config, env, out));
    raced_ops = *(*out)->ops;
    real_import = raced_ops.import_version;
    raced_ops.import_version = raced_import;
    (*out)->ops = &raced_ops;
    return HPL_OK;
}

static struct {
    struct house house;
    uint8_t encrypted[384];
    struct hpl_buf envelope;
} faster;

static void import_faster(void)
{
    EXPECT_OK(import(&faster.house, "k", faster.encrypted, sizeof faster.encrypted));
    EXPECT_OK(generate_as(&faster.house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &faster.envelope));
}

static void open_raced(struct house *house)
{
    static struct hpl_backend raced;
    static const struct hpl_backend *const list[] = {&raced, NULL};
    struct hpl_call call = {0};
    raced = hpl_backend_local;
    raced.open = raced_open;
    open_importing(house);
    hpl_kms_close(house->kms);
    house->options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
}

HPL_TEST(an_import_that_died_is_followed_by_one_with_other_material)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    uint8_t first[32] = "what died had thirty-two bytes..", second[32] = "the other's own thirty-two bytes", encrypted[384];
    open_raced(&house);
    EVP_PKEY *key = wrapping_key(&house);
    encrypt_to(key, EVP_sha256(), first, sizeof first, encrypted);
    import_dies = true;
    EXPECT_STATUS(import(&house, "k", encrypted, sizeof encrypted), HPL_BACKEND);
    import_dies = false;
    encrypt_to(key, EVP_sha256(), second, sizeof second, encrypted);
    EXPECT_OK(import(&house, "k", encrypted, sizeof encrypted));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &envelope));
    EXPECT_OK(decrypt_as(&house, NULL, NULL, &tenant_a, &envelope));
    hpl_buf_wipe(&envelope);
    EVP_PKEY_free(key);
    close_house(&house, true);
}

HPL_TEST(an_import_that_was_overtaken_leaves_the_material_of_the_faster_one)
{
    struct house *house = &faster.house;
    uint8_t first[32] = "the first one's thirty-two bytes", second[32] = "the other's own thirty-two bytes", encrypted[384];
    open_raced(house);
    EVP_PKEY *key = wrapping_key(house);
    encrypt_to(key, EVP_sha256(), first, sizeof first, encrypted);
    encrypt_to(key, EVP_sha256(), second, sizeof second, faster.encrypted);
    before_import = import_faster;
    EXPECT(import(house, "k", encrypted, sizeof encrypted) != HPL_OK);
    EXPECT(!before_import);
    EXPECT_OK(decrypt_as(house, NULL, NULL, &tenant_a, &faster.envelope));
    hpl_buf_wipe(&faster.envelope);
    EVP_PKEY_free(key);
    close_house(house, true);
}

/* --- a disk that takes nothing more --------------------------------------------------------------------------------------- */

HPL_TEST(what_the_disk_does_not_take_changes_no_key)
{
    struct house house = {0};
    struct rlimit before;
    struct hpl_buf envelope = {0}, again = {0};
    json_t *metadata = NULL;
    struct hpl_call call = {0};
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &envelope));
    EXPECT_NUM(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*usual)(int) = signal(SIGXFSZ, SIG_IGN);
    EXPECT_NUM(setrlimit(RLIMIT_FSIZE, &(struct rlimit){.rlim_cur = 16, .rlim_max = before.rlim_max}), 0);
    EXPECT(create(&house, "new") != HPL_OK);
    EXPECT(hpl_kms_rotate(house.kms, &call, "k", &metadata) != HPL_OK);
    EXPECT(hpl_kms_set_enabled(house.kms, &call, "k", false, &metadata) != HPL_OK);
    EXPECT(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &metadata) != HPL_OK);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, &tenant_a, &envelope));
    EXPECT_OK(generate_as(&house, NULL, NULL, HPL_PURPOSE_API, &tenant_a, &again));
    EXPECT_NUM(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, usual);
    close_house(&house, false);
    open_house(&house);
    json_t *HPL_JSON_AUTO kept = describe(&house, "k");
    EXPECT_TEXT(json_string_value(json_object_get(kept, "key_state")), "Enabled");
    EXPECT_NUM(json_integer_value(json_object_get(kept, "current_version")), 1);
    EXPECT_STATUS(hpl_kms_describe_key(house.kms, &call, "new", &metadata), HPL_NO_SUCH_KEY);
    EXPECT_OK(decrypt_as(&house, NULL, NULL, &tenant_a, &again));
    EXPECT_OK(create(&house, "new"));
    hpl_buf_wipe(&envelope);
    hpl_buf_wipe(&again);
    close_house(&house, true);
}
