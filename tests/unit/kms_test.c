/* Does the key service keep its word: states, contexts, purposes, restarts, live switches, and a catalog that was tampered with? */
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sqlite3.h>

#include "backends/backends.h"
#include "base/clock.h"
#include "kms/envelope.h"
#include "kms/kms.h"

struct house {
    const char *dir;
    char path[128];
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
    struct hpl_backend_env env;
    struct hpl_kms_options options;
    struct hpl_kms *kms;
};

static void open_house(struct house *house)
{
    struct hpl_call call = {0};
    if (!house->dir) {
        house->dir = hpl_test_dir();
        house->root = hpl_secret_random(32);
        snprintf(house->path, sizeof house->path, "%s/catalog.db", house->dir);
    }
    EXPECT_OK(hpl_catalog_open(&call, &house->catalog, house->path, house->root));
    house->env = (struct hpl_backend_env){.state_dir = house->dir, .root = house->root, .catalog = house->catalog};
    house->options = (struct hpl_kms_options){.backends = hpl_backends(), .env = &house->env, .catalog = house->catalog};
    EXPECT_OK(hpl_kms_open(&call, &house->kms, &house->options));
}

static void close_house(struct house *house, bool is_last)
{
    hpl_kms_close(house->kms);
    hpl_catalog_close(house->catalog);
    if (is_last)
        hpl_secret_free(house->root);
}

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
    return hpl_kms_start(house->kms, &call, &answer);
}

static enum hpl_status stop(struct house *house)
{
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    return hpl_kms_stop(house->kms, &call, &answer);
}

static const char *status_of(struct house *house)
{
    static char text[32];
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_kms_status(house->kms, &call, &answer));
    snprintf(text, sizeof text, "%s", json_string_value(json_object_get(answer, "status")));
    return text;
}

static enum hpl_status create(struct house *house, const char *key_id)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    const struct hpl_key_create wanted = {.key_id = key_id};
    return hpl_kms_create_key(house->kms, &call, &wanted, &metadata);
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

HPL_TEST(the_older_spelling_configures_too_and_vault_is_refused_plainly)
{
    struct house house = {0};
    open_house(&house);
    EXPECT_STATUS(send(&house, hpl_kms_configure, "{\"kms_type\":\"vault\",\"vault_address\":\"https://v\",\"vault_token\":\"t\"}"), HPL_NOT_IMPLEMENTED);
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
    open_running(&house);
    EXPECT_OK(generate(&house, NULL, HPL_PURPOSE_API, &before));
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        workers[i] = (struct worker){&house, &is_over, 0, 0};
        EXPECT_NUM(pthread_create(&threads[i], NULL, keep_generating, &workers[i]), 0);
    }
    for (int i = 0; i < 10; i++) {
        snprintf(body, sizeof body, "{\"key_dir\":\"%s/keys%d\",\"timeout_seconds\":%d}", house.dir, i % 3, 20 + i);
        EXPECT_OK(send(&house, hpl_kms_reconfigure, body));
    }
    EXPECT_STATUS(send(&house, hpl_kms_reconfigure, "{\"key_dir\":\"/proc/nothing\"}"), HPL_INVALID_REQUEST);
    atomic_store(&is_over, true);
    for (size_t i = 0; i < HPL_COUNT(workers); i++) {
        pthread_join(threads[i], NULL);
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
