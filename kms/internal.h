/* What the files of kms/ share of the service itself. */
#ifndef HPL_KMS_INTERNAL_H
#define HPL_KMS_INTERNAL_H

#include "kms/attachment.h"
#include "kms/envelope.h"
#include "kms/policy.h"

#define HPL_MAX_FORMER 16u
#define HPL_FIRST_WAIT_MS 20u
#define HPL_MOST_WAIT_MS 1000u

enum hpl_kms_state { HPL_KMS_NOT_CONFIGURED, HPL_KMS_CONFIGURED, HPL_KMS_RUNNING, HPL_KMS_ERROR };

struct hpl_kms {
    struct hpl_kms_options options;
    pthread_mutex_t changing;    /* one lifecycle change at a time; may be held for long */
    pthread_rwlock_t storing;    /* read: something sealed becomes visible. Written: who counts what is visible lets those finish first */
    pthread_mutex_t opening;     /* one former keystore is opened at a time; may be held for long */
    pthread_mutex_t lock;        /* around what follows; never held over a backend or catalog call */
    enum hpl_kms_state state;
    char error[240];             /* why state is ERROR */
    json_t *sealed;              /* the normal form of the configuration, sealed: it holds credentials. NULL: not configured */
    json_t *summary;             /* what the backend shows of it; NULL: nothing */
    uint64_t config_revision;    /* of the catalog row */
    char pinned[17];             /* the instance that this configuration opened, in hex: a start takes no other; "" for any. Under changing */
    struct hpl_kms_settings settings;
    struct hpl_attachment *active;
    struct hpl_attachment *former[HPL_MAX_FORMER]; /* opened for decryption */
    struct {                     /* the former keystore that could not be opened just now: not tried by every read that needs it */
        uint8_t instance[8];
        uint64_t until_ns;
        enum hpl_status status;
        char why[240];
    } refused;
    struct hpl_kms_shared shared; /* has locks of its own */
    struct hpl_importer *importer; /* has a lock of its own */
    uint64_t look_again_ns;       /* when the former keystores that are not open are looked at again; this and the next are the reaper's */
    size_t next_look;             /* the one that this time's turn is at */
    hpl_census_fn census;
    void *census_arg;
};

/* The active attachment with a reference, or HPL_NOT_CONFIGURED, HPL_NOT_RUNNING (with the error where there is one). */
enum hpl_status hpl_kms_acquire(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment **out) HPL_MUST_USE;
/* References to all that are attached now, the active one first; returns how many. */
size_t hpl_kms_acquire_all(struct hpl_kms *kms, struct hpl_attachment *out[static HPL_MAX_FORMER + 1]);
/* The attachment of an instance with a reference, opened again when it is needed. */
enum hpl_status hpl_kms_acquire_instance(struct hpl_kms *kms, struct hpl_call *call, const uint8_t instance[static 8], struct hpl_attachment **out) HPL_MUST_USE;

/* A key was changed through attachment: what took its place meanwhile over the same keystore forgets the record that it may have read before. */
void hpl_kms_forget_elsewhere(struct hpl_kms *kms, const struct hpl_attachment *attachment, const char *key_id);

/* Whether the service runs on this keystore. */
bool hpl_kms_is_active(struct hpl_kms *kms, const uint8_t instance[static 8]);
/* Lets go of a keystore that is open because it was active before, and flushes what came from it; who uses it now may go on. The reference is the
 * caller's; NULL when it was not open. */
struct hpl_attachment *hpl_kms_take_former(struct hpl_kms *kms, const uint8_t instance[static 8]) HPL_MUST_USE;

/* The instances, in hex, that can be opened and are not: a new array, empty where the catalog does not tell. */
json_t *hpl_kms_closed_keystores(struct hpl_kms *kms);
/* {"instance", "backend", "state": "active" | "former" | "detached" | "damaged" | "unknown", "open"}: a new object. Opens nothing. */
json_t *hpl_kms_keystore_json(struct hpl_kms *kms, const uint8_t instance[static 8]);

/* Who asks, for the log: "hardplate" is the daemon itself. */
static inline const char *hpl_principal_of(const struct hpl_call *call)
{
    return call && call->principal ? call->principal : "hardplate";
}

/* Waits for what is being stored now (hpl_kms_begin_store): what comes later sees what was changed before this. */
void hpl_kms_let_stores_finish(struct hpl_kms *kms);
/* Asks the census; false when nobody can count. */
bool hpl_kms_count_objects(struct hpl_kms *kms, const struct hpl_census *what, uint64_t *count);

/* Tries a start that failed at the daemon's start again. */
void hpl_kms_revive(struct hpl_kms *kms);

/* A sub-call for the backend: the deadline that the configuration gives a backend within the caller's own, and a detail that a later success leaves
 * behind. */
struct hpl_call hpl_kms_attempt_of(const struct hpl_call *call, const struct hpl_kms_settings *settings);
/* What became of a sub-call, told to its caller. */
static inline enum hpl_status hpl_kms_pass_on(struct hpl_call *call, const struct hpl_call *sub, enum hpl_status status)
{
    if (status != HPL_OK && call)
        call->retry_after_s = sub->retry_after_s;
    return status == HPL_OK ? HPL_OK : hpl_fail_over(call, status, "%s", hpl_detail(sub, status));
}
/* The backend's calls within that deadline, again up to retry_attempts times where the failure may pass. */
enum hpl_status hpl_kms_create_version(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record) HPL_MUST_USE;
enum hpl_status hpl_kms_wrap(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                             const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *plain, struct hpl_wrapped *wrapped) HPL_MUST_USE;
/* Where the keystore has wrap_many. */
enum hpl_status hpl_kms_wrap_many(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                  const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_secret *const *plain, struct hpl_wrapped *wrapped,
                                  size_t count) HPL_MUST_USE;
enum hpl_status hpl_kms_unwrap(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record, uint32_t version,
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out) HPL_MUST_USE;

/* Fills it from the backend's own generator; only where it has one. */
enum hpl_status hpl_kms_random(struct hpl_call *call, struct hpl_attachment *attachment, uint8_t *out, size_t len) HPL_MUST_USE;
/* record_get, key_id_of and has_material; in front of a keystore whose records are as far as its keys through the gate, as readings. *max_wraps is 0 where there is
 * no has_material. */
enum hpl_status hpl_kms_read_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_buf *content,
                                    uint64_t *revision) HPL_MUST_USE;
enum hpl_status hpl_kms_ask_key_id(struct hpl_call *call, struct hpl_attachment *attachment, const uint8_t uid[static HPL_KEY_UID_LEN],
                                   char key_id[static HPL_KEY_ID_MAX + 1]) HPL_MUST_USE;
enum hpl_status hpl_kms_ask_material(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool *is_there, uint64_t *max_wraps) HPL_MUST_USE;
/* record_list, through the same gate and not tried again: fn has seen what came. Records that are far take a call each: ask for few at a time. */
enum hpl_status hpl_kms_list_records(struct hpl_call *call, struct hpl_attachment *attachment, const char *after, size_t limit, hpl_record_fn fn,
                                     void *arg) HPL_MUST_USE;
/* Whether the backend cannot be reached: as the breaker has it, or by a probe now. */
bool hpl_kms_is_lost(struct hpl_attachment *attachment);

/* Makes a key on this attachment. */
enum hpl_status hpl_kms_make_key(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_create *create, struct hpl_key_record *record) HPL_MUST_USE;

/* Imports the material as the record's version; HPL_NOT_IMPLEMENTED where the backend takes none. */
enum hpl_status hpl_kms_import_version(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                       const struct hpl_secret *material) HPL_MUST_USE;
/* NULL when memory is out. */
struct hpl_importer *hpl_importer_new(void);
void hpl_importer_free(struct hpl_importer *importer);
/* Ends what is past its hour. */
void hpl_importer_sweep(struct hpl_importer *importer);

enum hpl_status hpl_key_check_description(struct hpl_call *call, const char *description) HPL_MUST_USE;
enum hpl_status hpl_key_check_tags(struct hpl_call *call, const json_t *tags) HPL_MUST_USE;

/* Changes a record that was just read, with everything that belongs to the change; argument is what the caller gave. It may be asked again. */
typedef enum hpl_status hpl_key_change_fn(struct hpl_call *call, struct hpl_attachment *attachment, struct hpl_key_record *record, const void *argument);
/* Reads, changes and writes a key's record, again when somebody else was faster; logs event and answers the metadata. */
enum hpl_status hpl_kms_change_key(struct hpl_kms *kms, struct hpl_call *call, const char *key_id, hpl_key_change_fn *change, const void *argument,
                                   const char *event, json_t **metadata) HPL_MUST_USE;

/* What an envelope of this key is bound to; HPL_INVALID_CIPHERTEXT when it cannot be one of it. */
enum hpl_status hpl_kms_bind(struct hpl_call *call, const struct hpl_key_record *record, const struct hpl_envelope *envelope, const struct hpl_context *context,
                             uint8_t aad[static HPL_WRAP_AAD_LEN]) HPL_MUST_USE;

/* A fresh data key of len bytes, mixed with the backend's own random bytes where it has them. */
enum hpl_status hpl_kms_new_secret(struct hpl_call *call, struct hpl_attachment *attachment, size_t len, struct hpl_secret **out) HPL_MUST_USE;
/* What an envelope says before anything is wrapped, and the AAD that binds it. */
enum hpl_status hpl_kms_start_envelope(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_purpose purpose, const struct hpl_key_record *record,
                                       const struct hpl_context *context, struct hpl_envelope *envelope, uint8_t aad[static HPL_WRAP_AAD_LEN]) HPL_MUST_USE;
/* Appends the envelope of a secret (16 to 64 bytes) under the record's version. */
enum hpl_status hpl_kms_seal_on(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_purpose purpose, const struct hpl_key_record *record,
                                const struct hpl_context *context, const struct hpl_secret *secret, struct hpl_buf *envelope) HPL_MUST_USE;
/* The same on an attachment, without log and answer. */
enum hpl_status hpl_kms_change_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, hpl_key_change_fn *change,
                                      const void *argument, struct hpl_key_record *record) HPL_MUST_USE;
/* A change: the next version, made and tried. */
hpl_key_change_fn hpl_key_rotate;
/* The audit line of a key operation. */
void hpl_kms_log_key(const struct hpl_call *call, const char *event, const struct hpl_key_record *record);
/* key_metadata with "objects": what whoever deletes the key should know first. */
enum hpl_status hpl_kms_metadata(struct hpl_kms *kms, const struct hpl_key_record *record, json_t **out) HPL_MUST_USE;

/* generate and decrypt on a given attachment, past every cache; health and reconfigure use them too. */
enum hpl_status hpl_kms_generate_on(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_purpose purpose, const struct hpl_key_record *record,
                                    const struct hpl_context *context, size_t len, struct hpl_secret **secret, struct hpl_buf *envelope) HPL_MUST_USE;
enum hpl_status hpl_kms_open_on(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                const struct hpl_envelope *envelope, const struct hpl_context *context, struct hpl_secret **secret) HPL_MUST_USE;

/* A real round trip: of a data key under the default key, or the backend's own (its probe) while that key is not there, may not be used or has
 * a damaged record: that harms this key alone. Why a default key that is there does not serve is in *refusal, HPL_OK otherwise; refusal may be NULL. */
enum hpl_status hpl_kms_prove(struct hpl_call *call, struct hpl_attachment *attachment, enum hpl_status *refusal) HPL_MUST_USE;

/* The active attachment and the record of the key to wrap under (key_id NULL: the default key, made when it is not there yet), once call's principal may. */
enum hpl_status hpl_kms_find_wrapper(struct hpl_kms *kms, struct hpl_call *call, enum hpl_purpose purpose, const char *key_id, const struct hpl_context *context,
                                     struct hpl_attachment **attachment, struct hpl_key_record *record) HPL_MUST_USE;

/* cache_stats, decrypt_cache, bucket_keys and the breaker, for the status answer. */
void hpl_kms_add_numbers(struct hpl_kms *kms, struct hpl_attachment *attachment, json_t *answer);

/* ref may be NULL. */
void hpl_kms_fill_ref(struct hpl_key_ref *ref, const struct hpl_attachment *attachment, const struct hpl_key_record *record, uint32_t version);

/* The record of the key that sealed it. *is_stale as hpl_attachment_record_to_open has it. HPL_INVALID_CIPHERTEXT, HPL_KEY_UNAVAILABLE,
 * HPL_KEY_DESTROYED. */
enum hpl_status hpl_kms_sealing_record(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_envelope *envelope,
                                       struct hpl_key_record *record, bool *is_stale) HPL_MUST_USE;

/* The key that sealed an envelope, of either form: its attachment with a reference, its record and the purpose that its path has. Nothing is opened; the policy is not
 * asked. HPL_INVALID_CIPHERTEXT, HPL_KEY_UNAVAILABLE, HPL_KEY_DESTROYED. */
struct hpl_sealer {
    struct hpl_attachment *attachment;
    struct hpl_key_record record;
    struct hpl_envelope envelope;  /* the bucket key's where there is one */
    enum hpl_purpose purpose;
    bool is_bucket;
};
/* The envelope, purpose and is_bucket, from the bytes alone. */
enum hpl_status hpl_sealer_read(struct hpl_call *call, struct hpl_bytes envelope, struct hpl_sealer *sealer) HPL_MUST_USE;
enum hpl_status hpl_kms_find_sealer(struct hpl_kms *kms, struct hpl_call *call, struct hpl_bytes envelope, struct hpl_sealer *sealer) HPL_MUST_USE;
void hpl_sealer_wipe(struct hpl_sealer *sealer);
#define HPL_SEALER_AUTO HPL_CLEANUP(hpl_sealer_wipe)

/* The id in use as the default key for these settings. */
const char *hpl_kms_default_of(const struct hpl_kms_settings *settings);

#endif
