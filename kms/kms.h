/* The key service: lifecycle (configure, start, stop, reconfigure live), keys and their states, data keys. Never sees an
 * object's bytes. Thread-safe; calls block on backends, so never on an event loop. */
#ifndef HPL_KMS_KMS_H
#define HPL_KMS_KMS_H

#include "auth/auth.h"
#include "kms/keystore.h"

/* Purposes as they stand in envelopes; each path opens only its own. */
enum hpl_purpose {
    HPL_PURPOSE_OBJECT = 1,
    HPL_PURPOSE_BUCKET_KEY = 2,
    HPL_PURPOSE_API = 3,
    HPL_PURPOSE_CONFIGURATION = 4,
    HPL_PURPOSE_BACKUP = 5
};

struct hpl_context_pair {
    struct hpl_bytes name, value; /* UTF-8 */
};
struct hpl_context {
    const struct hpl_context_pair *pairs; /* any order; names unique */
    size_t num_pairs;
};

/* Which key version sealed something: what the object index counts by. */
struct hpl_key_ref {
    uint8_t instance[8];
    uint8_t uid[HPL_KEY_UID_LEN];
    uint32_t version;
    char key_id[HPL_KEY_ID_MAX + 1];
};

struct hpl_kms;

struct hpl_kms_options {
    const struct hpl_backend *const *backends; /* NULL-terminated, lives as long as the service */
    const struct hpl_backend_env *env;         /* the same */
    struct hpl_catalog *catalog;
    const char *default_key_id;    /* where a configuration names none; NULL: "rustfs-default-key" */
    bool allow_immediate_deletion; /* hpl_kms_destroy_key may be asked */
    bool allow_import;             /* hpl_kms_import_key may be asked */
};

/* Loads the persisted configuration; starts the service again when it was running before (a failure to is logged and shown in
 * status as Error, not returned; it is tried again in the background or by start). */
enum hpl_status hpl_kms_open(struct hpl_call *call, struct hpl_kms **out, const struct hpl_kms_options *options) HPL_MUST_USE;
void hpl_kms_close(struct hpl_kms *kms);

/* How many objects and uploads need what; answered by the object index. */
struct hpl_census {
    const uint8_t *instance; /* 8 bytes: of this keystore; NULL: of any */
    const uint8_t *uid;      /* HPL_KEY_UID_LEN bytes: of this key; NULL: of any */
    uint32_t version;        /* 0: of any */
};
typedef enum hpl_status (*hpl_census_fn)(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count);
void hpl_kms_set_census(struct hpl_kms *kms, hpl_census_fn fn, void *arg);

/* What a configuration file asks for at the first start: configures and starts in one move. A service that is configured stays as it is; when
 * the backend cannot be used nothing is kept, so that the next start tries again. */
enum hpl_status hpl_kms_begin(struct hpl_kms *kms, struct hpl_call *call, const json_t *body) HPL_MUST_USE;

/* Lifecycle. Bodies and answers are those of docs/admin-api.md; *answer is the caller's to decref. */
enum hpl_status hpl_kms_configure(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer) HPL_MUST_USE;
enum hpl_status hpl_kms_reconfigure(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer) HPL_MUST_USE;
/* is_forced: the backend of a service that runs is opened and proven anew; running calls finish on the old opening, which goes on where that fails. */
enum hpl_status hpl_kms_start(struct hpl_kms *kms, struct hpl_call *call, bool is_forced, json_t **answer) HPL_MUST_USE;
enum hpl_status hpl_kms_stop(struct hpl_kms *kms, struct hpl_call *call, json_t **answer) HPL_MUST_USE;
enum hpl_status hpl_kms_status(struct hpl_kms *kms, struct hpl_call *call, json_t **answer) HPL_MUST_USE;
enum hpl_status hpl_kms_config(struct hpl_kms *kms, struct hpl_call *call, json_t **answer) HPL_MUST_USE;
enum hpl_status hpl_kms_clear_cache(struct hpl_kms *kms, struct hpl_call *call) HPL_MUST_USE;

/* Keys. create: key_id NULL makes a UUID; HPL_KEY_EXISTS. tags (may be NULL) is a flat object of strings. Answers are
 * key_metadata objects. */
struct hpl_key_create {
    const char *key_id, *description, *usage; /* usage NULL or ENCRYPT_DECRYPT */
    const json_t *tags;
    const char *created_by;
    const struct hpl_secret *material; /* to be imported, 32 bytes; NULL: the backend makes it */
};
enum hpl_status hpl_kms_create_key(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_create *create,
                                   json_t **metadata) HPL_MUST_USE;
/* Keys whose material comes from outside. parameters: {public_key (DER in Base64), wrapping_key_spec, wrapping_algorithm,
 * parameters_valid_to}, of an RSA-3072 key that lives in memory for an hour at most. import: a new key (create->key_id must be there) whose 32 bytes come
 * encrypted to that key with OAEP (SHA-256, MGF1 with SHA-256). HPL_ACCESS_DENIED where the options do not allow it, HPL_NOT_IMPLEMENTED where the backend
 * cannot, HPL_INVALID_CIPHERTEXT, HPL_KEY_EXISTS. */
enum hpl_status hpl_kms_import_parameters(struct hpl_kms *kms, struct hpl_call *call, json_t **answer) HPL_MUST_USE;
enum hpl_status hpl_kms_import_key(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_create *create, struct hpl_bytes encrypted,
                                   json_t **metadata) HPL_MUST_USE;
/* The state "Unavailable": the keystore does not find the material (it is asked, by a wrap of nothing). */
enum hpl_status hpl_kms_describe_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata) HPL_MUST_USE;
/* {keys:[{key_id,description,…}], truncated, next_marker, unreadable_key_ids}; limit 0: 100, at most 1000. status: only keys in this state (NULL: all);
 * HPL_INVALID_REQUEST when it names none. */
enum hpl_status hpl_kms_list_keys(struct hpl_kms *kms, struct hpl_call *call, size_t limit, const char *marker, const char *status,
                                  json_t **answer) HPL_MUST_USE;
/* Window of 7 to 30 days (0: 30). */
enum hpl_status hpl_kms_schedule_deletion(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, int64_t window_days,
                                          json_t **metadata) HPL_MUST_USE;
enum hpl_status hpl_kms_cancel_deletion(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata) HPL_MUST_USE;
enum hpl_status hpl_kms_set_enabled(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, bool is_enabled,
                                    json_t **metadata) HPL_MUST_USE;
enum hpl_status hpl_kms_rotate(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata) HPL_MUST_USE;
/* "" takes the description away. */
enum hpl_status hpl_kms_set_description(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const char *description, json_t **metadata) HPL_MUST_USE;
/* tags: an object of strings, laid over what is there; untag: an array of names. The tag "name" is the key's id and stays. */
enum hpl_status hpl_kms_tag(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *tags, json_t **metadata) HPL_MUST_USE;
enum hpl_status hpl_kms_untag(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *names, json_t **metadata) HPL_MUST_USE;
/* Rotation by itself, within a minute of being due: period_days after the last one, max_wraps under one version (0: no reason); both 0 ends it. */
#define HPL_ROTATION_MAX_DAYS 3650
#define HPL_ROTATION_MAX_WRAPS (INT64_C(1) << 32)
enum hpl_status hpl_kms_set_rotation(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, int64_t period_days, int64_t max_wraps,
                                     json_t **metadata) HPL_MUST_USE;
/* Who may use the key: a policy as kms/policy.h describes it, or NULL or JSON null for none. HPL_INVALID_REQUEST by name. */
enum hpl_status hpl_kms_set_policy(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *policy, json_t **metadata) HPL_MUST_USE;
/* *policy is the caller's; JSON null where the key has none. */
enum hpl_status hpl_kms_policy(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **policy) HPL_MUST_USE;
/* Destroys the key at once. HPL_KEY_IN_USE while anything that is counted needs it; HPL_INVALID_REQUEST where the options do not allow it. */
enum hpl_status hpl_kms_destroy_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **metadata) HPL_MUST_USE;
/* What needs the key: {key_id, references: [{kind, id, detail}], coverage: {scanned, not_scanned}, completeness}. */
enum hpl_status hpl_kms_impact(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, json_t **impact) HPL_MUST_USE;
/* What may be kept in plaintext of the key's data keys: the members of docs/caching.md in body; those that are not there go back to their defaults. */
enum hpl_status hpl_kms_set_caching(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, const json_t *body, json_t **metadata) HPL_MUST_USE;
/* Wipes keys that are kept in memory and past their time; asks no backend. reap begins with it. */
void hpl_kms_sweep(struct hpl_kms *kms);
/* Destroys what is past its date and rotates what is due; called every minute by the daemon. */
enum hpl_status hpl_kms_reap(struct hpl_kms *kms, struct hpl_call *call) HPL_MUST_USE;

/* Data keys. key_id NULL: the default key, made on first use ("rustfs-default-key" when none is configured). len 16 or 32.
 * Appends the envelope; *secret is the caller's; ref may be NULL. */
enum hpl_status hpl_kms_generate(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, const char *key_id,
                                 const struct hpl_context *context, size_t len, struct hpl_secret **secret,
                                 struct hpl_buf *envelope, struct hpl_key_ref *ref) HPL_MUST_USE;
/* The same, count of them, all or none: state and policy are asked once. A failure leaves nothing in keys; the caller wipes them after success. */
struct hpl_data_key {
    struct hpl_secret *secret;
    struct hpl_buf envelope;
};
enum hpl_status hpl_kms_generate_many(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, const char *key_id,
                                      const struct hpl_context *context, size_t len, struct hpl_data_key *keys, size_t count,
                                      struct hpl_key_ref *ref) HPL_MUST_USE;
void hpl_data_keys_wipe(struct hpl_data_key *keys, size_t count);
/* Disabled, pending and destroyed keys refuse; HPL_INVALID_CIPHERTEXT for anything forged or of another purpose or context. */
enum hpl_status hpl_kms_decrypt(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, struct hpl_bytes envelope,
                                const struct hpl_context *context, struct hpl_secret **secret, struct hpl_key_ref *ref) HPL_MUST_USE;
/* Whether an object's envelope is one under a bucket key. */
bool hpl_kms_is_bucket_key(struct hpl_bytes envelope);
/* Appends the service's numbers as Prometheus text. */
void hpl_kms_put_metrics(struct hpl_kms *kms, struct hpl_buf *out);
/* One envelope again, its purpose and context kept: under the current version of its key, or of key_id (may be NULL). An envelope of a keystore that
 * was active before comes under the key of the same id in the active one. The plaintext stays inside. Policies: Rewrap on both keys. Appends the new
 * envelope; the old one goes on opening. ref (may be NULL) is of the new one. HPL_NO_SUCH_KEY when the active keystore has no such key. */
enum hpl_status hpl_kms_rewrap(struct hpl_kms *kms, struct hpl_call *call, struct hpl_bytes envelope, const struct hpl_context *context, const char *key_id,
                               struct hpl_buf *out, struct hpl_key_ref *ref) HPL_MUST_USE;
/* Where an envelope comes from and whether it opens now for who asks, as an object: purpose, mechanism, keystore, key, version, state, opens, why. The
 * plaintext is thrown away. HPL_INVALID_CIPHERTEXT when it is no envelope at all. context may be NULL: none. */
enum hpl_status hpl_kms_explain(struct hpl_kms *kms, struct hpl_call *call, struct hpl_bytes envelope, const struct hpl_context *context,
                                json_t **answer) HPL_MUST_USE;
/* Every keystore that was ever attached, with what depends on it: {"backends": [{instance, backend, state, open, keys, objects, …}]}. */
enum hpl_status hpl_kms_backends(struct hpl_kms *kms, struct hpl_call *call, json_t **answer) HPL_MUST_USE;
/* Whether what was sealed under ref a while ago may be stored now: HPL_KEY_UNAVAILABLE when its keystore was detached meanwhile, and what its state means
 * when the key is to be destroyed or was; HPL_OK where that cannot be told now. Asked right before something becomes visible that the census then counts:
 * until hpl_kms_end_store nobody takes the last count before a destruction or a detachment. After a failure there is nothing to end. Quickly: others wait. */
enum hpl_status hpl_kms_begin_store(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_ref *ref) HPL_MUST_USE;
void hpl_kms_end_store(struct hpl_kms *kms);
/* Forgets how to open a keystore that was active before (its keys stay where they are; configuring it again attaches it again). instance: 16 hex digits.
 * HPL_NOT_FOUND where none was ever attached, HPL_CONFLICT for the active one, HPL_KEY_IN_USE while objects depend on it, and for the data keys that
 * nobody can count unless may_lose_external. */
enum hpl_status hpl_kms_detach(struct hpl_kms *kms, struct hpl_call *call, const char *instance, bool may_lose_external, json_t **answer) HPL_MUST_USE;
/* The id of the default key (what GetBucketEncryption and SSE-S3 answers show); the fallback name when none is configured. */
void hpl_kms_default_key(struct hpl_kms *kms, char key_id[static HPL_KEY_ID_MAX + 1]);
/* HPL_OK, HPL_NOT_CONFIGURED or HPL_NOT_RUNNING: a cheap early refusal. */
enum hpl_status hpl_kms_ready(struct hpl_kms *kms, struct hpl_call *call) HPL_MUST_USE;
/* Whether hpl_kms_generate is worth trying with call->must_not_wait: the active keystore wraps by computing alone. */
bool hpl_kms_is_quick(struct hpl_kms *kms);

#endif
