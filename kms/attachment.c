/* Attachments. Any thread; the maps under the attachment's lock, the keystore outside of it. */
#include "kms/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"

#define ROW_TYPE HPL_ATTACHMENT_ROW
#define LEAST_OPENING_SECONDS 10u
#define LIST_EVERY_NS 100000000u /* 0.1 s */
#define READ_AGAIN_NS 1000000000u /* 1 s */

static void hex_uid(char out[static 2 * HPL_KEY_UID_LEN + 1], const uint8_t uid[static HPL_KEY_UID_LEN])
{
    hpl_hex_encode(out, uid, HPL_KEY_UID_LEN);
}

/* --- which keys it has --------------------------------------------------------------------------------------------------- */

/* Under the lock. */
static void learn(struct hpl_attachment *attachment, const struct hpl_key_record *record)
{
    char uid[2 * HPL_KEY_UID_LEN + 1];
    size_t i;
    json_t *former;
    hex_uid(uid, record->uid);
    json_object_set_new(attachment->key_ids, uid, json_string(record->key_id));
    json_array_foreach(record->former_uids, i, former)
        json_object_set_new(attachment->key_ids, json_string_value(former), json_string(record->key_id));
}

static bool learn_row(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct hpl_attachment *attachment = arg;
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    (void)revision;
    bool is_damaged = status != HPL_OK || hpl_record_decode(NULL, content, &record) != HPL_OK;
    pthread_mutex_lock(&attachment->lock);
    if (is_damaged) /* harms only its own key */
        snprintf(attachment->damaged, sizeof attachment->damaged, "%s", key_id);
    else
        learn(attachment, &record);
    pthread_mutex_unlock(&attachment->lock);
    return true;
}

static enum hpl_status learn_all(struct hpl_call *call, struct hpl_attachment *attachment)
{
    attachment->listed_ns = hpl_clock_mono_ns();
    pthread_mutex_lock(&attachment->lock);
    attachment->damaged[0] = '\0';
    pthread_mutex_unlock(&attachment->lock);
    return attachment->keystore->ops->record_list(attachment->keystore, call, NULL, SIZE_MAX, learn_row, attachment);
}

static bool look_up(struct hpl_attachment *attachment, const char *uid, char key_id[static HPL_KEY_ID_MAX + 1])
{
    pthread_mutex_lock(&attachment->lock);
    const char *found = json_string_value(json_object_get(attachment->key_ids, uid));
    if (found)
        memcpy(key_id, found, strlen(found) + 1);
    pthread_mutex_unlock(&attachment->lock);
    return found != NULL;
}

/* Reads all records again, unless another caller began to after this one asked. One at a time and not more often than every LIST_EVERY_NS, so
 * that hostile envelopes cost a bounded number of listings. */
static enum hpl_status learn_again(struct hpl_call *call, struct hpl_attachment *attachment)
{
    uint64_t asked = hpl_clock_mono_ns();
    enum hpl_status status = HPL_OK;
    pthread_mutex_lock(&attachment->listing);
    if (attachment->listed_ns <= asked) {
        uint64_t now = hpl_clock_mono_ns(), next = attachment->listed_ns + LIST_EVERY_NS;
        const struct timespec pause = {.tv_nsec = next > now ? (long)(next - now) : 0};
        nanosleep(&pause, NULL);
        status = learn_all(call, attachment);
    }
    pthread_mutex_unlock(&attachment->listing);
    return status;
}

/* The keystore itself knows. */
static enum hpl_status ask_key_id(struct hpl_call *call, struct hpl_attachment *attachment, const uint8_t uid[static HPL_KEY_UID_LEN], const char *hex,
                                  char key_id[static HPL_KEY_ID_MAX + 1])
{
    enum hpl_status status = hpl_kms_ask_key_id(call, attachment, uid, key_id);
    if (status == HPL_NOT_FOUND)
        return hpl_fail_over(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    if (status == HPL_OK) {
        pthread_mutex_lock(&attachment->lock);
        json_object_set_new(attachment->key_ids, hex, json_string(key_id));
        pthread_mutex_unlock(&attachment->lock);
    }
    return status;
}

enum hpl_status hpl_attachment_key_id(struct hpl_call *call, struct hpl_attachment *attachment, const uint8_t uid[static HPL_KEY_UID_LEN],
                                      char key_id[static HPL_KEY_ID_MAX + 1])
{
    char hex[2 * HPL_KEY_UID_LEN + 1], damaged[HPL_KEY_ID_MAX + 1];
    hex_uid(hex, uid);
    if (look_up(attachment, hex, key_id))
        return HPL_OK;
    if (attachment->keystore->ops->key_id_of)
        return ask_key_id(call, attachment, uid, hex, key_id);
    HPL_TRY(learn_again(call, attachment));
    if (look_up(attachment, hex, key_id))
        return HPL_OK;
    pthread_mutex_lock(&attachment->lock);
    memcpy(damaged, attachment->damaged, sizeof damaged);
    pthread_mutex_unlock(&attachment->lock);
    if (damaged[0])
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "no readable key record is the one that sealed this; '%.80s' is damaged, bring it back from a backup", damaged);
    return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
}

/* --- records ------------------------------------------------------------------------------------------------------------- */

/* Without a record cache too, where the key's outage choice needs the record later. */
static bool keeps_records(const struct hpl_attachment *attachment, const struct hpl_key_record *record)
{
    return attachment->settings.enable_cache || record->caching.outage_seconds;
}

void hpl_attachment_clear_cache(struct hpl_attachment *attachment)
{
    hpl_record_cache_clear(&attachment->records);
}

/* From the keystore, and into the cache. */
static enum hpl_status read_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record, uint64_t *revision)
{
    struct hpl_buf content = {0};
    uint64_t found = 0, began = hpl_clock_mono_ns(), epoch = hpl_record_cache_epoch(&attachment->records);
    enum hpl_status status = hpl_kms_read_record(call, attachment, key_id, &content, &found);
    if (status == HPL_OK)
        status = hpl_record_decode(call, hpl_buf_bytes(&content), record);
    if (status == HPL_OK) {
        pthread_mutex_lock(&attachment->lock);
        learn(attachment, record);
        pthread_mutex_unlock(&attachment->lock);
        if (keeps_records(attachment, record))
            hpl_record_cache_put(&attachment->records, hpl_buf_bytes(&content), found, began, epoch);
        if (revision)
            *revision = found;
    }
    hpl_buf_wipe(&content);
    return status == HPL_NOT_FOUND ? hpl_fail_over(call, HPL_NO_SUCH_KEY, "no key '%.80s'", key_id) : status;
}

static bool recall(struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record, uint64_t *revision)
{
    const struct hpl_kms_settings *settings = &attachment->settings;
    return settings->enable_cache &&
           hpl_record_cache_find(&attachment->records, key_id, (uint64_t)settings->cache_ttl_seconds * 1000000000u, record, revision);
}

/* One reading for all who need the same record now; the others take it from the cache. */
static enum hpl_status read_once(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record, uint64_t *revision)
{
    uint8_t key[HPL_LRU_KEY_LEN];
    struct hpl_flight *flight;
    struct hpl_secret *none = NULL;
    hpl_record_cache_key(key_id, key);
    if (!hpl_flight_begin(&attachment->reads, key, &flight)) {
        enum hpl_status status = hpl_flight_wait(&attachment->reads, flight, call, &none);
        if (status != HPL_OK && status != HPL_STALE)
            return status;
        return recall(attachment, key_id, record, revision) ? HPL_OK : read_record(call, attachment, key_id, record, revision);
    }
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    enum hpl_status status = read_record(&sub, attachment, key_id, record, revision);
    hpl_flight_end(&attachment->reads, flight, status, sub.detail, NULL);
    return hpl_kms_pass_on(call, &sub, status);
}

/* One that the cache has not got. */
static enum hpl_status fetch(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool is_cached, struct hpl_key_record *record,
                             uint64_t *revision)
{
    if (call && call->must_not_wait)
        return HPL_WOULD_WAIT;
    return is_cached ? read_once(call, attachment, key_id, record, revision) : read_record(call, attachment, key_id, record, revision);
}

enum hpl_status hpl_attachment_kept_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool may_be_cached,
                                           struct hpl_key_record *record, uint64_t *revision)
{
    bool is_cached = may_be_cached && attachment->settings.enable_cache;
    *record = (struct hpl_key_record){0};
    if (is_cached && recall(attachment, key_id, record, revision))
        return HPL_OK;
    return fetch(call, attachment, key_id, is_cached, record, revision);
}

enum hpl_status hpl_attachment_record_to_open(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record,
                                              bool *is_stale)
{
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    *record = (struct hpl_key_record){0};
    *is_stale = false;
    if (recall(attachment, key_id, record, NULL))
        return HPL_OK;
    if (hpl_clock_mono_ns() < atomic_load(&attachment->unreadable_until_ns) && (*is_stale = hpl_record_cache_find_stale(&attachment->records, key_id, record)))
        return HPL_OK;
    /* It had a record: what it lost is not taken over as something new. */
    enum hpl_status status = fetch(&sub, attachment, key_id, attachment->settings.enable_cache, record, NULL);
    if (!hpl_breaker_is_outage(status))
        return hpl_kms_pass_on(call, &sub, status);
    atomic_store(&attachment->unreadable_until_ns, hpl_clock_mono_ns() + READ_AGAIN_NS);
    *is_stale = hpl_record_cache_find_stale(&attachment->records, key_id, record);
    return *is_stale ? HPL_OK : hpl_kms_pass_on(call, &sub, status);
}

enum hpl_status hpl_attachment_put(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record, uint64_t expected)
{
    struct hpl_buf content = {0};
    uint64_t revision;
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    enum hpl_status status = hpl_record_encode(record, &content);
    if (status == HPL_OK)
        status = attachment->keystore->ops->record_put(attachment->keystore, &sub, record->key_id, record->uid, expected, hpl_buf_bytes(&content), &revision);
    if (status == HPL_OK) {
        pthread_mutex_lock(&attachment->lock);
        learn(attachment, record);
        pthread_mutex_unlock(&attachment->lock);
    }
    if (status == HPL_OK && keeps_records(attachment, record))
        hpl_record_cache_replace(&attachment->records, hpl_buf_bytes(&content), revision);
    else
        hpl_record_cache_forget(&attachment->records, record->key_id);
    hpl_kms_shared_flush_key(attachment->shared, record->uid);
    hpl_buf_wipe(&content);
    return hpl_kms_pass_on(call, &sub, status);
}

/* A key that somebody made in the backend itself gets its record when it is first asked for. */
static enum hpl_status take_over(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record, uint64_t *revision)
{
    const struct hpl_key_create create = {.key_id = key_id, .description = "made in the backend, taken over on first use", .created_by = "hardplate"};
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    bool is_there = false;
    uint64_t max_wraps = 0;
    HPL_TRY(hpl_kms_ask_material(call, attachment, key_id, &is_there, &max_wraps));
    if (!is_there || hpl_record_init(record, &create, key_id) != HPL_OK)
        return hpl_fail(call, HPL_NO_SUCH_KEY, "no key '%.80s'", key_id);
    record->state = HPL_STATE_ENABLED;
    HPL_TRY(hpl_record_bound_wraps(record, max_wraps));
    enum hpl_status status = hpl_attachment_put(&sub, attachment, record, 0);
    if (status == HPL_OK) {
        hpl_log(HPL_LOG_INFO, "kms.key.taken_over", HPL_S("key_id", key_id), HPL_S("request_id", sub.request_id));
        if (revision)
            *revision = 1;
        return HPL_OK;
    }
    hpl_record_wipe(record);
    if (status == HPL_STALE) /* another node was faster */
        return hpl_attachment_kept_record(call, attachment, key_id, false, record, revision);
    return hpl_kms_pass_on(call, &sub, status);
}

enum hpl_status hpl_attachment_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool may_be_cached,
                                      struct hpl_key_record *record, uint64_t *revision)
{
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    enum hpl_status status = hpl_attachment_kept_record(&sub, attachment, key_id, may_be_cached, record, revision);
    if (status == HPL_NO_SUCH_KEY && attachment->keystore->ops->has_material)
        return take_over(call, attachment, key_id, record, revision);
    return hpl_kms_pass_on(call, &sub, status);
}

/* --- opening and closing ------------------------------------------------------------------------------------------------- */

struct search {
    struct hpl_bytes identity;
    uint8_t instance[8];
    bool is_found;
};

static bool match_identity(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct search *search = arg;
    json_t *HPL_JSON_AUTO row = NULL;
    (void)revision;
    if (status != HPL_OK || hpl_json_object(NULL, &row, content, 1u << 20, false) != HPL_OK)
        return true;
    const char *identity = json_string_value(json_object_get(row, "identity"));
    if (!identity || !hpl_bytes_equal(hpl_bytes_str(identity), search->identity))
        return true;
    search->is_found = hpl_hex_decode(search->instance, sizeof search->instance, name, strlen(name));
    return !search->is_found;
}

/* The row of this attachment: with the configuration that opens it, sealed; written anew when that changed. */
static enum hpl_status keep(struct hpl_call *call, const struct hpl_kms_options *options, const struct search *search, const struct hpl_backend *backend,
                            const json_t *config)
{
    char name[17];
    struct hpl_buf old = {0}, content = {0};
    uint64_t revision = 0;
    json_t *sealed = NULL;
    json_t *HPL_JSON_AUTO old_row = NULL;
    json_t *HPL_JSON_AUTO old_config = NULL;
    hpl_hex_encode(name, search->instance, sizeof search->instance);
    enum hpl_status status = hpl_catalog_get(call, options->catalog, ROW_TYPE, name, &old, &revision);
    if (status == HPL_OK && hpl_json_object(NULL, &old_row, hpl_buf_bytes(&old), 1u << 20, false) == HPL_OK &&
        hpl_kms_unseal_json(NULL, options->catalog, name, json_object_get(old_row, "config"), &old_config) == HPL_OK && json_equal(old_config, config)) {
        hpl_buf_wipe(&old);
        return HPL_OK;
    }
    if (status == HPL_NOT_FOUND)
        status = HPL_OK;
    if (status == HPL_OK)
        status = hpl_kms_seal_json(call, options->catalog, name, config, &sealed);
    if (status == HPL_OK) {
        json_t *HPL_JSON_AUTO row = json_pack("{s:s, s:s%, s:o, s:I}", "backend", backend->name, "identity", (const char *)search->identity.data,
                                              search->identity.len, "config", sealed, "attached_ms", (json_int_t)hpl_clock_unix_ms());
        status = row ? hpl_json_put(&content, row) : HPL_NO_MEMORY;
    }
    if (status == HPL_OK)
        status = hpl_catalog_put(call, options->catalog, ROW_TYPE, name, revision, hpl_buf_bytes(&content), NULL);
    hpl_buf_wipe(&old);
    hpl_buf_wipe(&content);
    return status;
}

/* identity is the caller's; search looks into it. */
static enum hpl_status search_instance(struct hpl_call *call, const struct hpl_kms_options *options, const struct hpl_attachment *attachment, const json_t *config,
                                       struct hpl_buf *identity, struct search *search)
{
    HPL_TRY(attachment->backend->identity(call, attachment->keystore, config, options->env, identity));
    *search = (struct search){.identity = hpl_buf_bytes(identity)};
    return hpl_catalog_list(call, options->catalog, ROW_TYPE, NULL, SIZE_MAX, match_identity, search);
}

static enum hpl_status find_instance(struct hpl_call *call, const struct hpl_kms_options *options, struct hpl_attachment *attachment, const json_t *config)
{
    struct hpl_buf identity = {0};
    struct search search = {0};
    enum hpl_status status = search_instance(call, options, attachment, config, &identity, &search);
    if (status == HPL_OK && !search.is_found && RAND_bytes(search.instance, sizeof search.instance) != 1)
        status = hpl_fail(call, HPL_INTERNAL, "no random numbers");
    memcpy(attachment->keystore->instance, search.instance, sizeof search.instance);
    hpl_buf_wipe(&identity);
    return status;
}

enum hpl_status hpl_attachment_keep(struct hpl_call *call, const struct hpl_kms_options *options, const struct hpl_attachment *attachment, const json_t *config)
{
    struct hpl_buf identity = {0};
    struct search search = {0};
    const uint8_t *instance = attachment->keystore->instance;
    enum hpl_status status = search_instance(call, options, attachment, config, &identity, &search);
    if (status == HPL_OK && search.is_found && memcmp(search.instance, instance, sizeof search.instance) != 0)
        status = hpl_fail(call, HPL_STALE, "another node attached this keystore meanwhile; try again");
    memcpy(search.instance, instance, sizeof search.instance);
    if (status == HPL_OK)
        status = keep(call, options, &search, attachment->backend, config);
    hpl_buf_wipe(&identity);
    return status;
}

static struct hpl_attachment *new_attachment(const struct hpl_kms_settings *settings, struct hpl_kms_shared *shared)
{
    struct hpl_attachment *attachment = calloc(1, sizeof *attachment);
    if (!attachment)
        return NULL;
    attachment->backend = settings->backend;
    attachment->settings = *settings;
    attachment->refs = 1;
    attachment->key_ids = json_object();
    attachment->shared = shared;
    hpl_record_cache_init(&attachment->records, (size_t)settings->max_cached_keys, &shared->records);
    hpl_flights_init(&attachment->reads);
    pthread_mutex_init(&attachment->lock, NULL);
    pthread_mutex_init(&attachment->making, NULL);
    pthread_mutex_init(&attachment->listing, NULL);
    return attachment;
}

struct hpl_attachment *hpl_attachment_retune(struct hpl_attachment *attachment, const struct hpl_kms_settings *settings)
{
    struct hpl_attachment *tuned = new_attachment(settings, attachment->shared);
    if (!tuned)
        return NULL;
    tuned->keystore = attachment->keystore;
    tuned->wraps = attachment->wraps;
    tuned->breaker = attachment->breaker;
    tuned->owner = hpl_attachment_ref(attachment->owner ? attachment->owner : attachment);
    pthread_mutex_lock(&attachment->lock);
    json_decref(tuned->key_ids);
    tuned->key_ids = json_deep_copy(attachment->key_ids);
    pthread_mutex_unlock(&attachment->lock);
    return tuned;
}

int64_t hpl_attachment_opening_seconds(const struct hpl_kms_settings *settings)
{
    int64_t least = settings->backend->least_opening_seconds ? settings->backend->least_opening_seconds : LEAST_OPENING_SECONDS;
    return settings->timeout_seconds < least ? least : settings->timeout_seconds;
}

static struct hpl_call opening_of(const struct hpl_call *call, const struct hpl_kms_settings *settings)
{
    struct hpl_kms_settings patient = *settings;
    patient.timeout_seconds = hpl_attachment_opening_seconds(settings);
    return hpl_kms_attempt_of(call, &patient);
}

enum hpl_status hpl_attachment_open(struct hpl_call *call, const struct hpl_kms_options *options, const json_t *config,
                                    const struct hpl_kms_settings *settings, struct hpl_kms_shared *shared, struct hpl_attachment **out)
{
    struct hpl_attachment *attachment = new_attachment(settings, shared);
    *out = NULL;
    if (!attachment)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    hpl_breaker_init(&attachment->own_breaker);
    attachment->breaker = &attachment->own_breaker;
    attachment->wraps = hpl_wraps_new(options->catalog);
    struct hpl_call opening = opening_of(call, settings);
    enum hpl_status status = attachment->wraps ? settings->backend->open(&opening, config, options->env, &attachment->keystore) : HPL_NO_MEMORY;
    status = hpl_kms_pass_on(call, &opening, status);
    if (status == HPL_OK) {
        HPL_CHECK(attachment->keystore->ops->size == sizeof(struct hpl_keystore_ops));
        status = attachment->keystore->ops->probe(attachment->keystore, call);
    }
    if (status == HPL_OK)
        status = find_instance(call, options, attachment, config);
    if (status == HPL_OK)
        status = attachment->keystore->ops->key_id_of ? HPL_OK : learn_all(call, attachment);
    if (status == HPL_OK)
        *out = attachment;
    else
        hpl_attachment_unref(attachment);
    return status;
}

enum hpl_status hpl_attachment_open_instance(struct hpl_call *call, const struct hpl_kms_options *options, const uint8_t instance[static 8],
                                             struct hpl_kms_shared *shared, struct hpl_attachment **out)
{
    char name[17];
    struct hpl_buf content = {0};
    uint64_t revision;
    json_t *HPL_JSON_AUTO row = NULL;
    json_t *HPL_JSON_AUTO config = NULL;
    struct hpl_kms_settings settings;
    *out = NULL;
    hpl_hex_encode(name, instance, 8);
    enum hpl_status status = hpl_catalog_get(call, options->catalog, ROW_TYPE, name, &content, &revision);
    if (status == HPL_NOT_FOUND)
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    if (status == HPL_OK)
        status = hpl_json_object(call, &row, hpl_buf_bytes(&content), 1u << 20, false);
    if (status == HPL_OK && !json_object_get(row, "config"))
        status = hpl_fail(call, HPL_KEY_UNAVAILABLE, "the keystore that sealed this (%.20s, instance %s) was detached; configure it again to open this",
                          json_string_value(json_object_get(row, "backend")), name);
    if (status == HPL_OK)
        status = hpl_kms_unseal_json(call, options->catalog, name, json_object_get(row, "config"), &config);
    if (status == HPL_OK)
        status = hpl_kms_read_settings(call, options, config, &settings);
    if (status == HPL_OK)
        status = hpl_attachment_open(call, options, config, &settings, shared, out);
    hpl_buf_wipe(&content);
    if (*out && memcmp((*out)->keystore->instance, instance, 8) != 0) {
        hpl_attachment_unref(*out);
        *out = NULL;
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the keystore that sealed this is not at its place any more; bring it back");
    }
    return status;
}

struct hpl_attachment *hpl_attachment_ref(struct hpl_attachment *attachment)
{
    atomic_fetch_add(&attachment->refs, 1);
    return attachment;
}

void hpl_attachment_unref(struct hpl_attachment *attachment)
{
    if (!attachment || atomic_fetch_sub(&attachment->refs, 1) != 1)
        return;
    if (attachment->keystore && !attachment->owner)
        attachment->keystore->ops->close(attachment->keystore);
    if (!attachment->owner) {
        hpl_wraps_free(attachment->wraps);
        hpl_breaker_wipe(&attachment->own_breaker);
    }
    hpl_attachment_unref(attachment->owner);
    hpl_record_cache_wipe(&attachment->records);
    hpl_flights_wipe(&attachment->reads);
    json_decref(attachment->key_ids);
    pthread_mutex_destroy(&attachment->lock);
    pthread_mutex_destroy(&attachment->making);
    pthread_mutex_destroy(&attachment->listing);
    free(attachment);
}
