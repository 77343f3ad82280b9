/* Does the key service keep its word: states, contexts, purposes, restarts, live switches, and a catalog that was tampered with? */
#include "tests/unit/kms_house.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sqlite3.h>

#include "backends/local/local.h"
#include "base/clock.h"
#include "kms/envelope.h"

static const char *status_of(struct house *house)
{
    static char text[32];
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_status(house->kms, &call, &answer));
    snprintf(text, sizeof text, "%s", json_string_value(json_object_get(answer, "status")));
    return text;
}

static const struct hpl_context_pair pairs[] = {{{(const uint8_t *)"bucket", 6}, {(const uint8_t *)"b", 1}}, {{(const uint8_t *)"key", 3}, {(const uint8_t *)"k", 1}}};
static const struct hpl_context_pair swapped[] = {{{(const uint8_t *)"key", 3}, {(const uint8_t *)"k", 1}}, {{(const uint8_t *)"bucket", 6}, {(const uint8_t *)"b", 1}}};
static const struct hpl_context context = {pairs, 2}, reordered = {swapped, 2}, shorter = {pairs, 1};

static enum hpl_status generate(struct house *house, const char *key_id, enum hpl_purpose purpose, struct hpl_buf *envelope)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {0};
    return hpl_kms_generate(house->kms, &call, purpose, key_id, &context, 32, &secret, envelope, NULL);
}

static enum hpl_status decrypt(struct house *house, enum hpl_purpose purpose, const struct hpl_buf *envelope, const struct hpl_context *with)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_call call = {0};
    return hpl_kms_decrypt(house->kms, &call, purpose, hpl_buf_bytes(envelope), with, &secret, NULL);
}

HPL_TEST(the_lifecycle_moves_as_documented_and_survives_restarts)
{
    struct house house = {0};
    open_house(&house);
    EXPECT_TEXT(status_of(&house), "NotConfigured");
    EXPECT_STATUS(start(&house), HPL_NOT_CONFIGURED);
    EXPECT_STATUS(stop(&house), HPL_NOT_CONFIGURED);
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"default_key_id\":\"d\"}"));
    EXPECT_TEXT(status_of(&house), "Configured");
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"default_key_id\":\"d\",\"backend_type\":\"Local\",\"ignored\":null}"));
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\"}"), HPL_CONFLICT);
    EXPECT_STATUS(create(&house, "k"), HPL_NOT_RUNNING);
    EXPECT_OK(start(&house));
    EXPECT_OK(start(&house));
    EXPECT_TEXT(status_of(&house), "Running");
    EXPECT_OK(create(&house, "k"));
    close_house(&house, false);
    open_house(&house);
    EXPECT_TEXT(status_of(&house), "Running");
    EXPECT_STATUS(create(&house, "k"), HPL_KEY_EXISTS);
    EXPECT_OK(stop(&house));
    close_house(&house, false);
    open_house(&house);
    EXPECT_TEXT(status_of(&house), "Configured");
    close_house(&house, true);
}

HPL_TEST(what_nobody_reads_is_no_part_of_the_configuration)
{
    struct house house = {0};
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"address\":5,\"auth_method\":{\"token\":\"t\"},\"colour\":\"red\"}"));
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\"}"));
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"colour\":[]}"));
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"retry_attempts\":1}"), HPL_CONFLICT);
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"backend_type\":\"vault\"}"), HPL_INVALID_CONFIGURATION); /* no address, no login */
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"file_permissions\":420}"), HPL_INVALID_REQUEST);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"file_permissions\":384}"));
    close_house(&house, true);
}

HPL_TEST(the_older_spelling_configures_too_and_vault_needs_a_login)
{
    struct house house = {0};
    open_house(&house);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"kms_type\":\"vault\",\"vault_address\":\"https://v\",\"vault_app_role_id\":\"r\"}"), HPL_INVALID_CONFIGURATION);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"kms_type\":\"floppy\"}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"cache_ttl_seconds\":\"x\"}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"cache_ttl_seconds\":0}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"key_dir\":\"/etc/keys\"}"), HPL_INVALID_REQUEST);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"key_dir\":\"relative\"}"), HPL_INVALID_REQUEST);
    EXPECT_TEXT(status_of(&house), "NotConfigured");
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"kms_type\":\"local\"}"));
    close_house(&house, true);
}

static void open_running(struct house *house)
{
    open_house(house);
    EXPECT_OK(send(house, hpl_kms_configure, "{\"backend_type\":\"local\",\"default_key_id\":\"d\"}"));
    EXPECT_OK(start(house));
}

HPL_TEST(a_data_key_opens_under_its_context_and_purpose_only)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &envelope, &context));
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &envelope, &reordered));
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &shorter), HPL_INVALID_CIPHERTEXT);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, NULL), HPL_INVALID_CIPHERTEXT);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_OBJECT, &envelope, &context), HPL_INVALID_CIPHERTEXT);
    envelope.data[4] = HPL_PURPOSE_OBJECT; /* relabelled: the AAD holds the purpose */
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_OBJECT, &envelope, &context), HPL_INVALID_CIPHERTEXT);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(every_changed_byte_of_an_envelope_is_refused)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    for (size_t i = 0; i < envelope.len; i++)
        for (unsigned bit = 1; bit < 256; bit <<= 1) {
            if (i >= 14 && i < 30 && bit != 1)
                continue; /* an unknown uid costs a look at all records: one bit of each of its bytes is enough */
            envelope.data[i] ^= (uint8_t)bit;
            EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_INVALID_CIPHERTEXT);
            envelope.data[i] ^= (uint8_t)bit;
        }
    hpl_buf_put_u8(&envelope, 0);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_INVALID_CIPHERTEXT);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(disabled_pending_and_destroyed_keys_refuse_every_use)
{
    struct house house = {0};
    struct hpl_buf envelope = {0}, scratch = {0};
    struct hpl_call call = {0};
    json_t *metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &envelope));
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", false, &metadata));
    json_decref(metadata);
    EXPECT_STATUS(generate(&house, "k", HPL_PURPOSE_API, &scratch), HPL_KEY_DISABLED);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_DISABLED);
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", true, &metadata));
    json_decref(metadata);
    EXPECT_STATUS(hpl_kms_schedule_deletion(house.kms, &call, "k", 6, &metadata), HPL_INVALID_REQUEST);
    EXPECT_STATUS(hpl_kms_schedule_deletion(house.kms, &call, "k", 31, &metadata), HPL_INVALID_REQUEST);
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &metadata));
    json_decref(metadata);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_PENDING_DELETION);
    EXPECT_OK(hpl_kms_reap(house.kms, &call));
    EXPECT_OK(hpl_kms_cancel_deletion(house.kms, &call, "k", &metadata));
    json_decref(metadata);
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &envelope, &context));
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &metadata));
    json_decref(metadata);
    hpl_clock_shift_ms(8ll * 24 * 3600 * 1000);
    EXPECT_OK(hpl_kms_reap(house.kms, &call));
    hpl_clock_shift_ms(-8ll * 24 * 3600 * 1000);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_DESTROYED);
    EXPECT_STATUS(hpl_kms_cancel_deletion(house.kms, &call, "k", &metadata), HPL_CONFLICT);
    EXPECT_OK(create(&house, "k")); /* the name may be used again; the uid never is */
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_DESTROYED);
    hpl_buf_wipe(&envelope);
    hpl_buf_wipe(&scratch);
    close_house(&house, true);
}

HPL_TEST(cancelling_a_deletion_does_not_enable_what_was_disabled)
{
    struct house house = {0};
    struct hpl_call call = {0};
    struct hpl_buf scratch = {0};
    json_t *metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", false, &metadata));
    json_decref(metadata);
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &metadata));
    json_decref(metadata);
    EXPECT_OK(hpl_kms_cancel_deletion(house.kms, &call, "k", &metadata));
    EXPECT_TEXT(json_string_value(json_object_get(metadata, "key_state")), "Disabled");
    json_decref(metadata);
    EXPECT_STATUS(generate(&house, "k", HPL_PURPOSE_API, &scratch), HPL_KEY_DISABLED);
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "k", true, &metadata));
    json_decref(metadata);
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &scratch));
    hpl_buf_wipe(&scratch);
    close_house(&house, true);
}

HPL_TEST(a_rotated_key_opens_what_its_older_versions_sealed)
{
    struct house house = {0};
    struct hpl_buf first = {0}, second = {0};
    struct hpl_call call = {0};
    struct hpl_envelope envelope;
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_running(&house);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &first));
    EXPECT_OK(hpl_kms_rotate(house.kms, &call, "k", &metadata));
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &second));
    EXPECT_OK(hpl_envelope_decode(&call, hpl_buf_bytes(&second), &envelope));
    EXPECT_NUM(envelope.version, 2);
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &first, &context));
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &second, &context));
    hpl_buf_wipe(&first);
    hpl_buf_wipe(&second);
    close_house(&house, true);
}

struct worker {
    struct house *house;
    _Atomic bool *is_over;
    int failures, calls;
};

static void *keep_generating(void *arg)
{
    struct worker *worker = arg;
    while (!atomic_load(worker->is_over) || worker->calls == 0) {
        struct hpl_buf envelope = {0};
        enum hpl_status status = generate(worker->house, NULL, HPL_PURPOSE_API, &envelope);
        if (status == HPL_OK)
            status = decrypt(worker->house, HPL_PURPOSE_API, &envelope, &context);
        if (status != HPL_OK)
            fprintf(stderr, "\n    %s\n", hpl_status_row(status)->name);
        worker->failures += status != HPL_OK;
        worker->calls++;
        hpl_buf_wipe(&envelope);
    }
    return NULL;
}

HPL_TEST(reconfigure_switches_under_load_without_one_failure)
{
    struct house house = {0};
    struct hpl_buf before = {0};
    _Atomic bool is_over = false;
    struct worker workers[4];
    pthread_t threads[HPL_COUNT(workers)];
    char body[256];
    int refused = 0;
    open_running(&house);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &before));
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        workers[i] = (struct worker){&house, &is_over, 0, 0};
        EXPECT_NUM(pthread_create(&threads[i], NULL, keep_generating, &workers[i]), 0);
    }
    for (int i = 0; i < 10; i++) {
        snprintf(body, sizeof body, "{\"key_dir\":\"%s/keys%d\",\"timeout_seconds\":%d}", house.dir, i % 3, 20 + i);
        refused += send(&house, hpl_kms_reconfigure, body) != HPL_OK;
    }
    atomic_store(&is_over, true);
    for (size_t i = 0; i < HPL_COUNT(workers); i++)
        pthread_join(threads[i], NULL);
    EXPECT_NUM(refused, 0);
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"key_dir\":\"/proc/nothing\"}"), HPL_INVALID_REQUEST);
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        EXPECT_NUM(workers[i].failures, 0);
        EXPECT(workers[i].calls > 0);
    }
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &before, &context));
    close_house(&house, false);
    open_house(&house);
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &before, &context)); /* the former keystore is attached again when it is needed */
    hpl_buf_wipe(&before);
    close_house(&house, true);
}

HPL_TEST(a_tampered_catalog_fails_closed)
{
    struct house house = {0};
    struct hpl_call call = {0};
    sqlite3 *db;
    open_running(&house);
    close_house(&house, false);
    EXPECT_NUM(sqlite3_open(house.path, &db), SQLITE_OK);
    EXPECT_NUM(sqlite3_exec(db, "UPDATE rows SET content = replace(content, '\"running\":true', '\"running\":null') WHERE type = 'kms' AND name = 'configuration'", NULL, NULL, NULL), SQLITE_OK);
    EXPECT(sqlite3_changes(db) == 1);
    sqlite3_close(db);
    EXPECT_OK(hpl_catalog_open(&call, &house.catalog, house.path, house.root));
    house.options.catalog = house.env.catalog = house.catalog;
    EXPECT_STATUS(hpl_kms_open(&call, &house.kms, &house.options), HPL_INTEGRITY);
    hpl_catalog_close(house.catalog);
    hpl_secret_free(house.root);
}

/* --- a backend that fails when it is told to: the local one with its entries counted and broken ------------------------- */

static struct hpl_keystore_ops flaky_ops;
static _Atomic int num_opens, num_reads, failing_wraps, failing_unwraps, failing_creations, failing_destructions, failing_opens;
static _Atomic uint64_t opening_deadline_ns;

static bool take(_Atomic int *count)
{
    return atomic_load(count) > 0 && atomic_fetch_sub(count, 1) > 0;
}

static const struct hpl_keystore_ops *real;

static enum hpl_status flaky_wrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                  const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    return take(&failing_wraps) ? hpl_fail(call, HPL_BACKEND, "the token stumbled") : real->wrap(keystore, call, uid, version, aad, secret, out);
}

static enum hpl_status flaky_unwrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                    const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    if (!take(&failing_unwraps))
        return real->unwrap(keystore, call, uid, version, aad, wrapped, out);
    *out = hpl_secret_random(32);
    return HPL_OK; /* a lie, to be found out */
}

static enum hpl_status flaky_create(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    return take(&failing_creations) ? hpl_fail(call, HPL_BACKEND, "the token is full") : real->create_version(keystore, call, uid, version);
}

static enum hpl_status flaky_destroy(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    return take(&failing_destructions) ? hpl_fail(call, HPL_BACKEND, "the token is gone") : real->destroy_version(keystore, call, uid, version);
}

static enum hpl_status flaky_record_get(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, struct hpl_buf *content, uint64_t *revision)
{
    atomic_fetch_add(&num_reads, 1);
    return real->record_get(keystore, call, key_id, content, revision);
}

static enum hpl_status flaky_open(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    atomic_fetch_add(&num_opens, 1);
    opening_deadline_ns = call->deadline_ns;
    if (take(&failing_opens))
        return hpl_fail(call, HPL_BACKEND, "the token is not there");
    HPL_TRY(hpl_backend_local.open(call, config, env, out));
    real = (*out)->ops;
    flaky_ops = *real;
    flaky_ops.wrap = flaky_wrap;
    flaky_ops.unwrap = flaky_unwrap;
    flaky_ops.create_version = flaky_create;
    flaky_ops.destroy_version = flaky_destroy;
    flaky_ops.record_get = flaky_record_get;
    (*out)->ops = &flaky_ops;
    return HPL_OK;
}

static struct hpl_backend flaky;

static void open_flaky(struct house *house, bool is_first)
{
    static const struct hpl_backend *const list[] = {&flaky, NULL};
    struct hpl_call call = {0};
    flaky = hpl_backend_local;
    flaky.open = flaky_open;
    num_opens = num_reads = 0;
    open_house(house);
    hpl_kms_close(house->kms);
    house->options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
    if (is_first) {
        EXPECT_OK(send(house, hpl_kms_configure, "{\"backend_type\":\"local\",\"default_key_id\":\"d\",\"retry_attempts\":2}"));
        EXPECT_OK(start(house));
    }
}

static json_t *member_of_status(struct house *house, const char *name)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_status(house->kms, &call, &answer));
    return json_incref(json_object_get(answer, name));
}

static const char *health_of(struct house *house)
{
    static char text[32];
    json_t *HPL_JSON_AUTO health = member_of_status(house, "health");
    snprintf(text, sizeof text, "%s", json_string_value(health));
    return text;
}

HPL_TEST(a_stored_configuration_with_what_nobody_reads_any_more_is_the_same_without_it)
{
    static const char *const more[] = {"key_dir", "file_permissions", "colour", NULL};
    static struct hpl_backend older;
    static const struct hpl_backend *const list[] = {&older, NULL};
    struct house house = {0};
    struct hpl_call call = {0};
    older = hpl_backend_local;
    older.fields = more;
    open_house(&house);
    hpl_kms_close(house.kms);
    house.options.backends = list;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"colour\":\"red\"}"));
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"colour\":\"blue\"}"), HPL_CONFLICT);
    close_house(&house, false);
    open_house(&house);
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\",\"colour\":\"red\"}"));
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\"}"));
    close_house(&house, true);
}

HPL_TEST(a_backend_may_ask_for_more_time_to_open_than_its_calls_have)
{
    static const struct { unsigned least; const char *timeout; uint64_t wanted_s; } cases[] = {{0, "1", 10}, {45, "1", 45}, {45, "50", 50}, {0, "300", 300}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct house house = {0};
        char body[100];
        open_flaky(&house, false);
        flaky.least_opening_seconds = cases[i].least;
        snprintf(body, sizeof body, "{\"backend_type\":\"local\",\"timeout_seconds\":%s}", cases[i].timeout);
        uint64_t from_ns = hpl_clock_mono_ns(), wanted_ns = cases[i].wanted_s * 1000000000u;
        EXPECT_OK(send(&house, hpl_kms_configure, body));
        EXPECT_OK(start(&house));
        EXPECT(opening_deadline_ns >= from_ns + wanted_ns && opening_deadline_ns <= hpl_clock_mono_ns() + wanted_ns);
        close_house(&house, true);
    }
}

HPL_TEST(only_knobs_change_without_opening_the_backend_again)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_flaky(&house, true);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_NUM(num_opens, 1);
    for (int i = 0; i < 3; i++)
        EXPECT_OK(send(&house, hpl_kms_reconfigure, i % 2 ? "{\"cache_ttl_seconds\":60}" : "{\"cache_ttl_seconds\":61,\"default_key_id\":\"e\",\"enable_cache\":false}"));
    EXPECT_NUM(num_opens, 1);
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &envelope, &context));
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_STATUS(create(&house, "e"), HPL_KEY_EXISTS);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(a_backend_that_fails_its_proof_leaves_the_old_one_running)
{
    struct house house = {0};
    struct hpl_buf envelope = {0}, later = {0};
    char body[256];
    open_flaky(&house, true);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    snprintf(body, sizeof body, "{\"key_dir\":\"%s/other\"}", house.dir);
    failing_opens = 1;
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, body), HPL_BACKEND);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, body));
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &later));
    snprintf(body, sizeof body, "{\"key_dir\":\"%s/keys\"}", house.dir); /* the key "d" is there: a real round trip under it */
    failing_unwraps = 1;
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, body), HPL_INTEGRITY);
    EXPECT_TEXT(status_of(&house), "Running");
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &envelope, &context));
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &later, &context));
    hpl_buf_wipe(&envelope);
    hpl_buf_wipe(&later);
    close_house(&house, true);
}

HPL_TEST(a_passing_failure_is_tried_again_and_a_lasting_one_is_told)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_flaky(&house, true);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    failing_wraps = 2;
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    failing_wraps = 3;
    EXPECT_STATUS(generate(&house, NULL, HPL_PURPOSE_API, &envelope), HPL_BACKEND);
    EXPECT_NUM(failing_wraps, 0);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(a_start_that_failed_is_shown_and_tried_again)
{
    struct house house = {0};
    struct hpl_call call = {0};
    open_flaky(&house, true);
    close_house(&house, false);
    failing_opens = 3;
    open_flaky(&house, false); /* opened by the daemon: fails, but the daemon goes on */
    EXPECT_TEXT(status_of(&house), "Error");
    EXPECT_STATUS(create(&house, "k"), HPL_NOT_RUNNING);
    EXPECT_STATUS(hpl_kms_reap(house.kms, &call), HPL_NOT_RUNNING);
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"timeout_seconds\":9}"), HPL_BACKEND);
    EXPECT_TEXT(status_of(&house), "Error");
    EXPECT_OK(hpl_kms_reap(house.kms, &call));
    EXPECT_TEXT(status_of(&house), "Running");
    EXPECT_OK(create(&house, "k"));
    close_house(&house, false);
    failing_opens = 1;
    open_flaky(&house, false);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"timeout_seconds\":9}")); /* mends it, and it still starts by itself after this */
    EXPECT_TEXT(status_of(&house), "Running");
    close_house(&house, false);
    open_flaky(&house, false);
    EXPECT_TEXT(status_of(&house), "Running");
    failing_opens = 1;
    EXPECT_OK(stop(&house));
    EXPECT_STATUS(hpl_kms_reap(house.kms, &call), HPL_NOT_RUNNING); /* stopped is not failed: nobody starts it */
    EXPECT_TEXT(status_of(&house), "Configured");
    failing_opens = 0;
    close_house(&house, true);
}

HPL_TEST(a_configuration_of_a_backend_that_is_not_built_in_is_an_error_not_the_end)
{
    static const struct hpl_backend *const none[] = {NULL};
    struct house house = {0};
    struct hpl_call call = {0};
    open_running(&house);
    hpl_kms_close(house.kms);
    house.options.backends = none;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT_TEXT(status_of(&house), "Error");
    close_house(&house, true);
}

HPL_TEST(a_stopped_service_stays_stopped_when_its_configuration_is_not_valid_any_more)
{
    static const struct hpl_backend *const none[] = {NULL};
    struct house house = {0};
    struct hpl_call call = {0};
    open_running(&house);
    EXPECT_OK(stop(&house));
    hpl_kms_close(house.kms);
    house.options.backends = none;
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT_TEXT(status_of(&house), "Configured");
    hpl_kms_close(house.kms);
    house.options.backends = hpl_backends();
    EXPECT_OK(hpl_kms_open(&call, &house.kms, &house.options));
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"timeout_seconds\":9}"));
    EXPECT_TEXT(status_of(&house), "Configured");
    EXPECT_OK(start(&house));
    close_house(&house, true);
}

HPL_TEST(a_key_whose_making_died_is_not_used_and_is_finished_by_making_it_again)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_flaky(&house, true);
    failing_creations = 2; /* a passing failure: tried again */
    EXPECT_OK(create(&house, "first"));
    failing_creations = 3;
    EXPECT_STATUS(create(&house, "k"), HPL_BACKEND);
    EXPECT_STATUS(generate(&house, "k", HPL_PURPOSE_API, &envelope), HPL_KEY_UNAVAILABLE);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &envelope));
    failing_creations = 3;
    EXPECT_STATUS(generate(&house, NULL, HPL_PURPOSE_API, &envelope), HPL_BACKEND); /* the default key: finished by its next use */
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(what_a_destroyed_key_sealed_is_known_after_its_successor_took_two_attempts)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_flaky(&house, true);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &envelope));
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 0, &metadata));
    hpl_clock_shift_ms(31ll * 24 * 3600 * 1000);
    EXPECT_OK(hpl_kms_reap(house.kms, &call));
    hpl_clock_shift_ms(-31ll * 24 * 3600 * 1000);
    failing_creations = 3;
    EXPECT_STATUS(create(&house, "k"), HPL_BACKEND);
    EXPECT_OK(create(&house, "k"));
    close_house(&house, false);
    open_flaky(&house, false);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_DESTROYED);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(a_destruction_that_died_is_finished_and_cannot_be_cancelled)
{
    struct house house = {0};
    struct hpl_call call = {0};
    struct hpl_buf envelope = {0};
    json_t *metadata = NULL;
    open_flaky(&house, true);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(generate(&house, "k", HPL_PURPOSE_API, &envelope));
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 0, &metadata));
    json_decref(metadata);
    hpl_clock_shift_ms(31ll * 24 * 3600 * 1000);
    failing_destructions = 1;
    EXPECT_STATUS(hpl_kms_reap(house.kms, &call), HPL_BACKEND);
    EXPECT_STATUS(hpl_kms_cancel_deletion(house.kms, &(struct hpl_call){0}, "k", &metadata), HPL_CONFLICT);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_PENDING_DELETION);
    EXPECT_OK(hpl_kms_reap(house.kms, &(struct hpl_call){0}));
    hpl_clock_shift_ms(-31ll * 24 * 3600 * 1000);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_DESTROYED);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(the_record_cache_spares_reads_until_it_is_cleared_or_off)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    open_flaky(&house, true);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    int before = num_reads;
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_NUM(num_reads - before, 0);
    EXPECT_OK(hpl_kms_clear_cache(house.kms, &call));
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_NUM(num_reads - before, 1);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"enable_cache\":false}"));
    before = num_reads;
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_NUM(num_reads - before, 2);
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(health_tells_a_default_key_that_does_not_serve)
{
    struct house house = {0};
    struct hpl_call call = {0};
    json_t *metadata = NULL;
    open_flaky(&house, true);
    EXPECT_TEXT(health_of(&house), "OK"); /* no key yet: available all the same */
    EXPECT_OK(create(&house, "d"));
    EXPECT_TEXT(health_of(&house), "OK");
    EXPECT_OK(hpl_kms_set_enabled(house.kms, &call, "d", false, &metadata));
    json_decref(metadata);
    EXPECT_TEXT(health_of(&house), "Degraded");
    EXPECT_OK(create(&house, "e"));
    EXPECT_OK(send(&house, hpl_kms_reconfigure, "{\"default_key_id\":\"e\"}"));
    EXPECT_TEXT(health_of(&house), "OK");
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"default_key_id\":\"d\"}"), HPL_KEY_DISABLED);
    failing_unwraps = 1;
    EXPECT_TEXT(health_of(&house), "Degraded");
    EXPECT_OK(stop(&house));
    EXPECT_TEXT(health_of(&house), "Failed");
    close_house(&house, true);
}

HPL_TEST(status_has_the_documented_shape)
{
    static const char *const names[] = {"backend_type", "default_key_id", "timeout_seconds", "retry_attempts", "enable_cache", "cache_summary", "backend_summary"};
    struct house house = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO answer = NULL;
    open_running(&house);
    EXPECT_OK(hpl_kms_status(house.kms, &call, &answer));
    EXPECT_TEXT(json_string_value(json_object_get(answer, "backend_type")), "local");
    EXPECT_TEXT(json_string_value(json_object_get(answer, "backend")), "local");
    EXPECT(json_is_true(json_object_get(answer, "healthy")));
    const json_t *summary = json_object_get(answer, "config_summary");
    for (size_t i = 0; i < HPL_COUNT(names); i++)
        EXPECT(json_object_get(summary, names[i]) != NULL);
    EXPECT_NUM(json_integer_value(json_object_get(json_object_get(summary, "cache_summary"), "ttl_seconds")), 300);
    EXPECT(json_object_get(json_object_get(answer, "details"), "mechanism") != NULL);
    close_house(&house, true);
}

static void expect_refused(struct house *house, const char *text, const char *name)
{
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &body, hpl_bytes_str(text), 65536, false));
    EXPECT_STATUS(hpl_kms_configure(house->kms, &call, body, &answer), HPL_INVALID_REQUEST);
    EXPECT(strstr(call.detail, name) != NULL);
}

HPL_TEST(status_says_what_the_keys_can_do)
{
    struct house house = {0};
    open_house(&house);
    json_t *HPL_JSON_AUTO before = member_of_status(&house, "capabilities");
    EXPECT(json_is_null(before));
    EXPECT_OK(send(&house, hpl_kms_configure, "{\"backend_type\":\"local\"}"));
    EXPECT_OK(start(&house));
    json_t *HPL_JSON_AUTO running = member_of_status(&house, "capabilities");
    EXPECT(json_is_true(json_object_get(running, "enable_disable")));
    EXPECT(json_is_false(json_object_get(running, "import"))); /* the options do not allow it */
    EXPECT(json_is_false(json_object_get(running, "immediate_deletion")));
    close_house(&house, true);
}

HPL_TEST(a_wrong_type_is_refused_by_the_name_that_was_sent)
{
    struct house house = {0};
    open_house(&house);
    expect_refused(&house, "{\"kms_type\":5}", "kms_type");
    expect_refused(&house, "{\"backend_type\":true}", "backend_type");
    expect_refused(&house, "{\"kms_type\":\"local\",\"vault_timeout_seconds\":\"30\"}", "vault_timeout_seconds");
    expect_refused(&house, "{\"kms_type\":\"local\",\"vault_token\":7}", "vault_token");
    expect_refused(&house, "{\"backend_type\":\"local\",\"enable_cache\":\"yes\"}", "enable_cache");
    expect_refused(&house, "{\"backend_type\":\"local\",\"retry_attempts\":11}", "retry_attempts");
    expect_refused(&house, "{\"backend_type\":\"local\",\"timeout_seconds\":0}", "timeout_seconds");
    expect_refused(&house, "{\"backend_type\":\"local\",\"default_key_id\":\" x\"}", "key id");
    expect_refused(&house, "{\"backend_type\":\"local\",\"key_dir\":{}}", "key_dir");
    expect_refused(&house, "{\"backend_type\":\"local\",\"kms_type\":\"vault\"}", "kms_type");
    close_house(&house, true);
}

HPL_TEST(what_a_key_is_created_with_is_checked)
{
    static const char *const bad_ids[] = {"", " a", "a ", "a\nb", "\xff", "\xc2\x85", "\x7f"};
    static const char *const good_ids[] = {"../../etc/passwd", "a b", "schl\xc3\xbcssel", "/"};
    struct house house = {0};
    char long_id[HPL_KEY_ID_MAX + 2];
    json_t *metadata = NULL;
    open_running(&house);
    for (size_t i = 0; i < HPL_COUNT(bad_ids); i++)
        EXPECT_STATUS(create(&house, bad_ids[i]), HPL_INVALID_REQUEST);
    for (size_t i = 0; i < HPL_COUNT(good_ids); i++)
        EXPECT_OK(create(&house, good_ids[i]));
    memset(long_id, 'x', sizeof long_id);
    long_id[sizeof long_id - 1] = '\0';
    EXPECT_STATUS(create(&house, long_id), HPL_INVALID_REQUEST);
    json_t *HPL_JSON_AUTO nested = json_pack("{s:{s:s}}", "owner", "a", "b");
    json_t *HPL_JSON_AUTO flat = json_pack("{s:s}", "owner", "security");
    const struct hpl_key_create wrong_tags = {.key_id = "t", .tags = nested}, wrong_usage = {.key_id = "t", .usage = "SIGN_VERIFY"};
    const struct hpl_key_create right = {.usage = "EncryptDecrypt", .tags = flat, .description = "project"};
    EXPECT_STATUS(hpl_kms_create_key(house.kms, &(struct hpl_call){0}, &wrong_tags, &metadata), HPL_INVALID_REQUEST);
    EXPECT_STATUS(hpl_kms_create_key(house.kms, &(struct hpl_call){0}, &wrong_usage, &metadata), HPL_INVALID_REQUEST);
    EXPECT_OK(hpl_kms_create_key(house.kms, &(struct hpl_call){0}, &right, &metadata));
    EXPECT_NUM(json_string_length(json_object_get(metadata, "key_id")), 36);
    EXPECT_TEXT(json_string_value(json_object_get(metadata, "key_usage")), "ENCRYPT_DECRYPT");
    EXPECT_TEXT(json_string_value(json_object_get(json_object_get(metadata, "tags"), "owner")), "security");
    json_decref(metadata);
    close_house(&house, true);
}

HPL_TEST(keys_list_by_page_in_order)
{
    static const char *const ids[] = {"c", "a", "e", "b", "d"};
    struct house house = {0};
    struct hpl_call call = {0};
    char seen[32] = "", marker[HPL_KEY_ID_MAX + 1] = "";
    bool is_truncated = true;
    open_running(&house);
    for (size_t i = 0; i < HPL_COUNT(ids); i++)
        EXPECT_OK(create(&house, ids[i]));
    for (int pages = 0; is_truncated; pages++) {
        json_t *HPL_JSON_AUTO answer = NULL;
        size_t i;
        json_t *key;
        EXPECT(pages < 3);
        EXPECT_OK(hpl_kms_list_keys(house.kms, &call, 2, *marker ? marker : NULL, NULL, &answer));
        json_array_foreach(json_object_get(answer, "keys"), i, key)
            strcat(seen, json_string_value(json_object_get(key, "key_id")));
        is_truncated = json_is_true(json_object_get(answer, "truncated"));
        snprintf(marker, sizeof marker, "%s", is_truncated ? json_string_value(json_object_get(answer, "next_marker")) : "");
    }
    EXPECT_TEXT(seen, "abcde");
    close_house(&house, true);
}

static enum hpl_status count_three(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    (void)arg, (void)call, (void)what;
    *count = 3;
    return HPL_OK;
}

HPL_TEST(a_key_that_objects_need_says_so_when_its_deletion_is_scheduled)
{
    struct house house = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO metadata = NULL;
    open_running(&house);
    hpl_kms_set_census(house.kms, count_three, NULL);
    EXPECT_OK(create(&house, "k"));
    EXPECT_OK(hpl_kms_schedule_deletion(house.kms, &call, "k", 7, &metadata));
    EXPECT_NUM(json_integer_value(json_object_get(metadata, "objects")), 3);
    EXPECT_TEXT(json_string_value(json_object_get(metadata, "key_state")), "PendingDeletion");
    close_house(&house, true);
}

HPL_TEST(many_first_uses_make_one_default_key)
{
    struct house house = {0};
    _Atomic bool is_over = true; /* one call each */
    struct worker workers[8];
    pthread_t threads[HPL_COUNT(workers)];
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO answer = NULL;
    open_running(&house);
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        workers[i] = (struct worker){&house, &is_over, 0, 0};
        EXPECT_NUM(pthread_create(&threads[i], NULL, keep_generating, &workers[i]), 0);
    }
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        pthread_join(threads[i], NULL);
        EXPECT_NUM(workers[i].failures, 0);
    }
    EXPECT_OK(hpl_kms_list_keys(house.kms, &call, 10, NULL, NULL, &answer));
    EXPECT_NUM(json_array_size(json_object_get(answer, "keys")), 1);
    close_house(&house, true);
}

static bool count_rows(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    (void)revision;
    EXPECT_OK(status);
    EXPECT(!memmem(content.data, content.len, "key_dir", 7)); /* sealed: no field of it in the clear */
    *(int *)arg += strncmp(name, "history/", 8) == 0;
    return true;
}

HPL_TEST(the_configuration_keeps_its_history_sealed)
{
    struct house house = {0};
    struct hpl_call call = {0};
    char body[256];
    int rows = 0;
    open_running(&house);
    snprintf(body, sizeof body, "{\"key_dir\":\"%s/second\"}", house.dir);
    EXPECT_OK(send(&house, hpl_kms_reconfigure, body));
    EXPECT_OK(hpl_catalog_list(&call, house.catalog, "kms", NULL, SIZE_MAX, count_rows, &rows));
    EXPECT_NUM(rows, 3); /* configured, started, reconfigured */
    close_house(&house, true);
}

HPL_TEST(an_envelope_of_a_damaged_key_says_that_and_not_that_it_is_forged)
{
    struct house house = {0};
    struct hpl_buf envelope = {0};
    char command[300];
    open_running(&house);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    close_house(&house, false);
    snprintf(command, sizeof command, "for f in %s/keys/*.key; do printf x | dd of=$f bs=1 seek=40 conv=notrunc 2>/dev/null; done", house.dir);
    EXPECT_NUM(system(command), 0);
    open_house(&house);
    EXPECT_STATUS(decrypt(&house, HPL_PURPOSE_API, &envelope, &context), HPL_KEY_UNAVAILABLE);
    EXPECT_STATUS(generate(&house, NULL, HPL_PURPOSE_API, &envelope), HPL_INTEGRITY);
    EXPECT_TEXT(health_of(&house), "Degraded");
    EXPECT_OK(create(&house, "other")); /* harms its own key alone */
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
}

HPL_TEST(secrets_do_not_leak)
{
    size_t before = hpl_secret_in_use();
    struct house house = {0};
    struct hpl_buf envelope = {0};
    open_running(&house);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &envelope));
    EXPECT_OK(decrypt(&house, HPL_PURPOSE_API, &envelope, &context));
    hpl_buf_wipe(&envelope);
    close_house(&house, true);
    EXPECT_NUM(hpl_secret_in_use(), before);
}
