/* A keystore in memory that counts its calls and fails, lingers or loses its records when it is told to. Its handles share one place; the contract
 * suite runs over it too, so that what the key service is tested with keeps the same word as the real ones. */
#ifndef HPL_TESTS_UNIT_FAKE_KEYSTORE_H
#define HPL_TESTS_UNIT_FAKE_KEYSTORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "base/hash.h"
#include "kms/keystore.h"

#define FAKE_SALT 32u
#define FAKE_TAG 16u

/* The knobs and what was seen. */
static struct {
    _Atomic int wraps, unwraps, probes, reads;         /* calls so far */
    _Atomic int inside, most_inside;                   /* callers in wrap and unwrap now, and at most */
    _Atomic bool is_down, is_unreadable, is_keyless;   /* nothing works; records cannot be read; wraps and unwraps alone fail */
    _Atomic int slow_us;
    _Atomic int fails_with;                            /* wraps and unwraps do, with this status */
    _Atomic bool holds_reads;                          /* a record is not given before the caller's deadline, or ten seconds */
    _Atomic bool has_material;                         /* whatever is asked for waits to be taken over */
    _Atomic int max_wraps;                             /* which may wrap so often */
    _Atomic bool holds_wraps;                          /* they wait inside until it is taken back */
    _Atomic int wraps_left;                            /* so many wraps work, then they fail; 0: all work */
    void (*_Atomic before_put)(void *arg), (*_Atomic before_wrap)(void *arg); /* called once, before the next record is written, the next key wrapped */
    void *arg;
} fake;

struct fake_material {
    struct fake_material *next;
    uint8_t uid[HPL_KEY_UID_LEN];
    uint32_t version;
    uint8_t key[32];
};

struct fake_record {
    struct fake_record *next; /* in byte order */
    char key_id[HPL_KEY_ID_MAX + 1];
    uint64_t revision;
    struct hpl_buf content;
};

static struct {
    pthread_mutex_t lock;
    struct fake_material *materials;
    struct fake_record *records;
} fake_place = {.lock = PTHREAD_MUTEX_INITIALIZER};

static inline void fake_forget(void)
{
    for (struct fake_material *next, *at = fake_place.materials; at; at = next) {
        next = at->next;
        free(at);
    }
    for (struct fake_record *next, *at = fake_place.records; at; at = next) {
        next = at->next;
        hpl_buf_wipe(&at->content);
        free(at);
    }
    fake_place.materials = NULL;
    fake_place.records = NULL;
    memset(&fake, 0, sizeof fake);
}

static inline enum hpl_status fake_enter(struct hpl_call *call, bool is_key_call)
{
    int inside = atomic_fetch_add(&fake.inside, 1) + 1, most = atomic_load(&fake.most_inside);
    while (inside > most && !atomic_compare_exchange_weak(&fake.most_inside, &most, inside))
        ;
    const struct timespec pause = {fake.slow_us / 1000000, fake.slow_us % 1000000 * 1000};
    if (fake.slow_us)
        nanosleep(&pause, NULL);
    atomic_fetch_sub(&fake.inside, 1);
    if (is_key_call && fake.fails_with)
        return hpl_fail(call, (enum hpl_status)fake.fails_with, "the fake is told to fail so");
    return fake.is_down || (is_key_call && fake.is_keyless) ? hpl_fail(call, HPL_KEY_UNAVAILABLE, "the fake is told not to answer") : HPL_OK;
}

static inline void fake_meanwhile(void (*_Atomic *hook)(void *arg))
{
    void (*call)(void *arg) = atomic_exchange(hook, NULL);
    if (call)
        call(fake.arg);
}

/* Under the lock. */
static inline struct fake_material **fake_find(const uint8_t *uid, uint32_t version)
{
    struct fake_material **at = &fake_place.materials;
    while (*at && ((*at)->version != version || memcmp((*at)->uid, uid, HPL_KEY_UID_LEN) != 0))
        at = &(*at)->next;
    return at;
}

static inline enum hpl_status fake_key(struct hpl_call *call, const uint8_t *uid, uint32_t version, uint8_t key[static 32])
{
    pthread_mutex_lock(&fake_place.lock);
    const struct fake_material *found = *fake_find(uid, version);
    if (found)
        memcpy(key, found->key, 32);
    pthread_mutex_unlock(&fake_place.lock);
    return found ? HPL_OK : hpl_fail(call, HPL_KEY_UNAVAILABLE, "the fake has no such material");
}

static inline enum hpl_status fake_create(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    (void)keystore;
    HPL_TRY(fake_enter(call, false));
    pthread_mutex_lock(&fake_place.lock);
    struct fake_material **at = fake_find(uid, version);
    if (!*at) {
        *at = calloc(1, sizeof **at);
        HPL_CHECK(*at);
        memcpy((*at)->uid, uid, HPL_KEY_UID_LEN);
        (*at)->version = version;
        HPL_CHECK(RAND_bytes((*at)->key, 32) == 1);
    }
    pthread_mutex_unlock(&fake_place.lock);
    return HPL_OK;
}

static inline enum hpl_status fake_destroy(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    (void)keystore;
    HPL_TRY(fake_enter(call, false));
    pthread_mutex_lock(&fake_place.lock);
    struct fake_material **at = fake_find(uid, version), *gone = *at;
    if (gone)
        *at = gone->next;
    free(gone);
    pthread_mutex_unlock(&fake_place.lock);
    return HPL_OK;
}

static inline uint8_t fake_mechanism(struct hpl_keystore *keystore)
{
    (void)keystore;
    return HPL_MECH_LOCAL_GCM;
}

/* A stream and a MAC from the same HKDF: enough to notice every changed byte; nobody's secrets depend on it. */
static inline void fake_crypt(const uint8_t key[static 32], const struct hpl_wrapped *wrapped, const uint8_t *aad, uint8_t *data, size_t len)
{
    uint8_t stream[64];
    hpl_hkdf_sha256(stream, len, hpl_bytes(key, 32), hpl_bytes(wrapped->iv, FAKE_SALT), hpl_bytes(aad, HPL_WRAP_AAD_LEN));
    for (size_t i = 0; i < len; i++)
        data[i] ^= stream[i];
}

static inline void fake_mac(const uint8_t key[static 32], const struct hpl_wrapped *wrapped, const uint8_t *aad, size_t len, uint8_t mac[static 32])
{
    uint8_t text[HPL_WRAP_AAD_LEN + FAKE_SALT + 64];
    memcpy(text, aad, HPL_WRAP_AAD_LEN);
    memcpy(text + HPL_WRAP_AAD_LEN, wrapped->iv, FAKE_SALT);
    memcpy(text + HPL_WRAP_AAD_LEN + FAKE_SALT, wrapped->ct, len);
    hpl_hmac_sha256(mac, key, 32, text, HPL_WRAP_AAD_LEN + FAKE_SALT + len);
}

static inline enum hpl_status fake_wrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                        const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    uint8_t key[32], mac[32];
    (void)keystore;
    fake_meanwhile(&fake.before_wrap);
    atomic_fetch_add(&fake.wraps, 1);
    while (fake.holds_wraps)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    HPL_TRY(fake_enter(call, true));
    if (fake.wraps_left && atomic_fetch_sub(&fake.wraps_left, 1) == 1)
        fake.is_keyless = true;
    HPL_TRY(fake_key(call, uid, version, key));
    *out = (struct hpl_wrapped){.mechanism = HPL_MECH_LOCAL_GCM, .iv_len = FAKE_SALT, .ct_len = (uint16_t)(secret->len + FAKE_TAG)};
    HPL_CHECK(RAND_bytes(out->iv, FAKE_SALT) == 1);
    memcpy(out->ct, secret->bytes, secret->len);
    fake_crypt(key, out, aad, out->ct, secret->len);
    fake_mac(key, out, aad, secret->len, mac);
    memcpy(out->ct + secret->len, mac, FAKE_TAG);
    return HPL_OK;
}

static inline enum hpl_status fake_unwrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                          const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    uint8_t key[32], mac[32];
    (void)keystore;
    *out = NULL;
    atomic_fetch_add(&fake.unwraps, 1);
    HPL_TRY(fake_enter(call, true));
    if (wrapped->mechanism != HPL_MECH_LOCAL_GCM || wrapped->iv_len != FAKE_SALT || wrapped->ct_len < 16 + FAKE_TAG || wrapped->ct_len > 64 + FAKE_TAG)
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    HPL_TRY(fake_key(call, uid, version, key));
    fake_mac(key, wrapped, aad, wrapped->ct_len - FAKE_TAG, mac);
    if (!hpl_equal_secret(mac, wrapped->ct + wrapped->ct_len - FAKE_TAG, FAKE_TAG))
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    *out = hpl_secret_from(wrapped->ct, wrapped->ct_len - FAKE_TAG);
    HPL_CHECK(*out);
    fake_crypt(key, wrapped, aad, (*out)->bytes, (*out)->len);
    return HPL_OK;
}

static inline enum hpl_status fake_probe(struct hpl_keystore *keystore, struct hpl_call *call)
{
    (void)keystore;
    atomic_fetch_add(&fake.probes, 1);
    return fake_enter(call, false);
}

/* Under the lock: where it is, or would be. */
static inline struct fake_record **fake_row(const char *key_id)
{
    struct fake_record **at = &fake_place.records;
    while (*at && strcmp((*at)->key_id, key_id) < 0)
        at = &(*at)->next;
    return at;
}

static inline enum hpl_status fake_hang(struct hpl_call *call)
{
    uint64_t until = hpl_clock_mono_ns() + 10000000000u;
    if (call && call->deadline_ns && call->deadline_ns < until)
        until = call->deadline_ns;
    while (fake.holds_reads && hpl_clock_mono_ns() < until)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    return hpl_fail(call, HPL_TIMEOUT, "the fake did not answer in time");
}

static inline enum hpl_status fake_get(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, struct hpl_buf *content, uint64_t *revision)
{
    (void)keystore;
    atomic_fetch_add(&fake.reads, 1);
    if (fake.holds_reads)
        return fake_hang(call);
    if (fake.is_unreadable)
        return hpl_fail(call, HPL_BACKEND, "the fake is told not to give its records");
    pthread_mutex_lock(&fake_place.lock);
    const struct fake_record *row = *fake_row(key_id);
    bool is_there = row && strcmp(row->key_id, key_id) == 0;
    if (is_there) {
        hpl_buf_put_bytes(content, hpl_buf_bytes(&row->content));
        *revision = row->revision;
    }
    pthread_mutex_unlock(&fake_place.lock);
    return is_there ? hpl_buf_check(content) : HPL_NOT_FOUND;
}

static inline enum hpl_status fake_put(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, const uint8_t uid[static HPL_KEY_UID_LEN],
                                       uint64_t expected, struct hpl_bytes content, uint64_t *revision)
{
    (void)keystore, (void)uid;
    fake_meanwhile(&fake.before_put);
    pthread_mutex_lock(&fake_place.lock);
    struct fake_record **at = fake_row(key_id), *row = *at && strcmp((*at)->key_id, key_id) == 0 ? *at : NULL;
    bool is_stale = (row ? row->revision : 0) != expected;
    if (!is_stale && !row) {
        row = calloc(1, sizeof *row);
        HPL_CHECK(row);
        memcpy(row->key_id, key_id, strlen(key_id) + 1);
        row->next = *at;
        *at = row;
    }
    if (!is_stale) {
        hpl_buf_wipe(&row->content);
        hpl_buf_put_bytes(&row->content, content);
        row->revision++;
    }
    if (!is_stale && revision)
        *revision = row->revision;
    pthread_mutex_unlock(&fake_place.lock);
    return is_stale ? hpl_fail(call, HPL_STALE, "the record changed meanwhile") : HPL_OK;
}

static inline enum hpl_status fake_list(struct hpl_keystore *keystore, struct hpl_call *call, const char *after, size_t limit, hpl_record_fn fn, void *arg)
{
    (void)keystore, (void)call;
    bool is_more = true;
    pthread_mutex_lock(&fake_place.lock);
    for (struct fake_record *row = fake_place.records; row && limit && is_more; row = row->next)
        if (!after || strcmp(row->key_id, after) > 0) {
            is_more = fn(arg, row->key_id, row->revision, HPL_OK, hpl_buf_bytes(&row->content));
            limit--;
        }
    pthread_mutex_unlock(&fake_place.lock);
    return HPL_OK;
}

/* As a record does whose own history somebody purged: the material stays. */
static inline void fake_lose_record(const char *key_id)
{
    pthread_mutex_lock(&fake_place.lock);
    struct fake_record **at = fake_row(key_id), *gone = *at;
    HPL_CHECK(gone && strcmp(gone->key_id, key_id) == 0);
    *at = gone->next;
    hpl_buf_wipe(&gone->content);
    free(gone);
    pthread_mutex_unlock(&fake_place.lock);
}

static inline bool fake_has_record(const char *key_id)
{
    pthread_mutex_lock(&fake_place.lock);
    const struct fake_record *row = *fake_row(key_id);
    bool is_there = row && strcmp(row->key_id, key_id) == 0;
    pthread_mutex_unlock(&fake_place.lock);
    return is_there;
}

static inline enum hpl_status fake_has_material(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, bool *out, uint64_t *max_wraps)
{
    (void)keystore, (void)call, (void)key_id;
    *out = fake.has_material;
    *max_wraps = fake.has_material ? (uint64_t)fake.max_wraps : 0;
    return HPL_OK;
}

static inline json_t *fake_describe(struct hpl_keystore *keystore)
{
    (void)keystore;
    return json_pack("{s:s}", "mechanism", "fake");
}

static inline void fake_close(struct hpl_keystore *keystore)
{
    free(keystore);
}

static const struct hpl_keystore_ops fake_ops = {
    .size = sizeof(struct hpl_keystore_ops), .name = "fake", .close = fake_close, .probe = fake_probe, .create_version = fake_create,
    .destroy_version = fake_destroy, .mechanism = fake_mechanism, .wrap = fake_wrap, .unwrap = fake_unwrap, .record_get = fake_get,
    .record_put = fake_put, .record_list = fake_list, .describe = fake_describe, .has_material = fake_has_material,
    .has_far_records = true,
};

static inline struct hpl_keystore *open_fake(void)
{
    struct hpl_keystore *keystore = calloc(1, sizeof *keystore);
    HPL_CHECK(keystore);
    keystore->ops = &fake_ops;
    return keystore;
}

/* As a backend of the key service. */
static inline enum hpl_status fake_validate(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env)
{
    (void)call, (void)config, (void)env;
    return HPL_OK;
}

static inline enum hpl_status fake_identity(struct hpl_call *call, struct hpl_keystore *keystore, const json_t *config, const struct hpl_backend_env *env,
                                            struct hpl_buf *out)
{
    (void)call, (void)keystore, (void)config, (void)env;
    hpl_buf_put_str(out, "fake");
    return hpl_buf_check(out);
}

static inline enum hpl_status fake_open(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    (void)call, (void)config, (void)env;
    *out = open_fake();
    return HPL_OK;
}

static inline json_t *fake_summary(const json_t *config, const struct hpl_backend_env *env)
{
    const json_t *place = json_object_get(config, "place");
    (void)env;
    return place ? json_pack("{s:O}", "place", place) : json_object();
}

static const char *const fake_fields[] = {"place", "auth", NULL};

static const struct hpl_backend fake_backend __attribute__((unused)) = {
    .name = "fake", .validate = fake_validate, .identity = fake_identity, .open = fake_open, .summary = fake_summary, .fields = fake_fields,
};

#endif
