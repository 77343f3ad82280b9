/* Opened keystores. One is active; those that were active before stay attached for decryption and are opened when an envelope names them. An
 * attachment is counted: whoever acquired it may use it although it is replaced meanwhile; the last one to leave closes it. */
#ifndef HPL_KMS_ATTACHMENT_H
#define HPL_KMS_ATTACHMENT_H

#include <pthread.h>
#include <stdatomic.h>

#include "kms/breaker.h"
#include "kms/config.h"
#include "kms/shared.h"
#include "kms/wraps.h"

/* The catalog's rows of what was ever attached, by instance in hex: {"backend", "identity", "config" (sealed), "attached_ms"}; without "config" and with
 * "detached_ms" once it was detached. */
#define HPL_ATTACHMENT_ROW "attachment"

struct hpl_attachment {
    struct hpl_keystore *keystore;
    const struct hpl_backend *backend;
    struct hpl_kms_settings settings; /* never change; hpl_attachment_retune makes another */
    struct hpl_attachment *owner;     /* holds the keystore that this one uses with other settings; NULL: its own */
    struct hpl_wraps *wraps;          /* the owner's, where there is one */
    _Atomic unsigned refs;
    pthread_mutex_t making;           /* held while the default key is made */
    pthread_mutex_t lock;             /* around key_ids and damaged */
    struct hpl_kms_shared *shared;    /* the service's */
    struct hpl_breaker *breaker;      /* of the keystore: the owner's, where there is one */
    struct hpl_breaker own_breaker;   /* unless there is an owner */
    struct hpl_record_cache records;
    struct hpl_flights reads;         /* of records */
    _Atomic uint64_t unreadable_until_ns; /* records could not be read just now: who may do without does not try */
    json_t *key_ids;                  /* uid in hex → key id */
    pthread_mutex_t listing;          /* held while all records are read again */
    uint64_t listed_ns;               /* when that last began; under listing */
    char damaged[HPL_KEY_ID_MAX + 1]; /* a record that did not verify then, "" for none; under lock */
};

/* How long opening may take: as long as any call to the backend; but not less than a login and what is asked first take where every answer does come. */
int64_t hpl_attachment_opening_seconds(const struct hpl_kms_settings *settings);

/* Opens the backend, finds its instance in the catalog or chooses one, proves it with its probe and reads which keys it has. Writes nothing down. One
 * reference is the caller's. */
enum hpl_status hpl_attachment_open(struct hpl_call *call, const struct hpl_kms_options *options, const json_t *config,
                                    const struct hpl_kms_settings *settings, struct hpl_kms_shared *shared, struct hpl_attachment **out) HPL_MUST_USE;
/* Writes the instance down (type "attachment") with its sealed configuration, by which it is opened again later: only of one that is proven, because it
 * replaces the configuration that served until now. HPL_STALE when another node attached the same keystore meanwhile. */
enum hpl_status hpl_attachment_keep(struct hpl_call *call, const struct hpl_kms_options *options, const struct hpl_attachment *attachment,
                                    const json_t *config) HPL_MUST_USE;
/* Opens one that was attached before. HPL_INVALID_CIPHERTEXT when no attachment has this instance, HPL_KEY_UNAVAILABLE when it was detached. */
enum hpl_status hpl_attachment_open_instance(struct hpl_call *call, const struct hpl_kms_options *options, const uint8_t instance[static 8],
                                             struct hpl_kms_shared *shared, struct hpl_attachment **out) HPL_MUST_USE;
/* The same keystore, still open, with other settings. One reference is the caller's; NULL when memory is out. */
struct hpl_attachment *hpl_attachment_retune(struct hpl_attachment *attachment, const struct hpl_kms_settings *settings);
struct hpl_attachment *hpl_attachment_ref(struct hpl_attachment *attachment);
void hpl_attachment_unref(struct hpl_attachment *attachment); /* NULL is fine */

/* A key's record, from the cache where settings allow; one that has none but waits in the backend (has_material) gets it. HPL_NO_SUCH_KEY. revision
 * may be NULL. */
enum hpl_status hpl_attachment_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool may_be_cached,
                                      struct hpl_key_record *record, uint64_t *revision) HPL_MUST_USE;
/* The same without taking anything over. */
enum hpl_status hpl_attachment_kept_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool may_be_cached,
                                           struct hpl_key_record *record, uint64_t *revision) HPL_MUST_USE;
/* The record that a decrypt needs. While the keystore cannot be read, the key's outage choice may let the one that is cached do: *is_stale, and only
 * cached plaintext may be opened under it. */
enum hpl_status hpl_attachment_record_to_open(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_key_record *record,
                                              bool *is_stale) HPL_MUST_USE;
/* Writes it if its revision still is expected; keeps the maps true and gives up what was cached of the key. */
enum hpl_status hpl_attachment_put(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record, uint64_t expected) HPL_MUST_USE;
/* Which key id has this uid now or had it. None, also after reading all records again: HPL_INVALID_CIPHERTEXT, or HPL_KEY_UNAVAILABLE when a damaged
 * record may be the one. */
enum hpl_status hpl_attachment_key_id(struct hpl_call *call, struct hpl_attachment *attachment, const uint8_t uid[static HPL_KEY_UID_LEN],
                                      char key_id[static HPL_KEY_ID_MAX + 1]) HPL_MUST_USE;
void hpl_attachment_clear_cache(struct hpl_attachment *attachment);

static inline void hpl_attachment_unrefp(struct hpl_attachment **attachment)
{
    hpl_attachment_unref(*attachment);
}
#define HPL_ATTACHMENT_AUTO HPL_CLEANUP(hpl_attachment_unrefp)

#endif
