/* One key's record: what the service knows of a key. Kept by the keystore under compare-and-swap as JSON. */
#ifndef HPL_KMS_RECORD_H
#define HPL_KMS_RECORD_H

#include "kms/kms.h"

enum hpl_key_state { HPL_STATE_CREATING, HPL_STATE_ENABLED, HPL_STATE_DISABLED, HPL_STATE_PENDING, HPL_STATE_DESTROYING, HPL_STATE_GONE };

/* What may be kept in plaintext of a key's data keys, and for how long; zeros are the default: nothing. docs/caching.md. */
struct hpl_key_caching {
    uint32_t decrypt_seconds, decrypt_uses;  /* the decrypt cache: up to 60 s and 1,000 uses */
    uint32_t bucket_minutes, bucket_objects; /* bucket keys: up to 15 minutes and 2^20 objects */
    uint32_t outage_seconds;                 /* up to an hour, while the backend is not reachable */
};

struct hpl_key_record {
    uint8_t uid[HPL_KEY_UID_LEN];
    char key_id[HPL_KEY_ID_MAX + 1];
    enum hpl_key_state state;
    uint32_t version;          /* the one that wraps; all from 1 to it unwrap */
    int64_t created_ms, rotated_ms, deletion_ms; /* 0: none */
    json_t *description, *tags, *created_by;     /* owned; JSON null where there is none */
    json_t *former_uids;       /* owned: hex uids of destroyed keys that had this id */
    json_t *versions;          /* owned: when each version was made, from version 1 on, in ms; shorter, or 0, where nobody noted it */
    json_t *rotation;          /* owned: {"period_days", "max_wraps"}, 0 where it is no reason; JSON null: only when somebody asks */
    json_t *policy;            /* owned: who may use it (kms/policy.h); JSON null: the account's rules alone decide */
    bool is_imported;          /* its material came from outside */
    bool was_disabled;         /* before its deletion was scheduled: what cancelling that brings back */
    struct hpl_key_caching caching;
    struct hpl_record_holder *holder; /* whose the JSON in it is; NULL: its own */
};

/* A new record in state creating; takes nothing over. HPL_INVALID_REQUEST when a text of it is not UTF-8. */
enum hpl_status hpl_record_init(struct hpl_key_record *record, const struct hpl_key_create *create, const char *key_id) HPL_MUST_USE;
/* Rotation by wraps for a key that nobody gave a rotation, where its backend has a bound (0: none). */
enum hpl_status hpl_record_bound_wraps(struct hpl_key_record *record, uint64_t max_wraps) HPL_MUST_USE;
void hpl_record_wipe(struct hpl_key_record *record);
/* A record that many threads read at once, with one count for all of it: to share its JSON by jansson's counts, which are atomic too, would be a count up and
 * down for each member and every reader. hold takes the record over (NULL when memory is out, and then it is wiped); what share gives is wiped like any
 * other, and nothing in it is ever changed. */
struct hpl_record_holder;
struct hpl_record_holder *hpl_record_hold(struct hpl_key_record *record);
const struct hpl_key_record *hpl_record_held(const struct hpl_record_holder *holder);
void hpl_record_share(struct hpl_key_record *out, struct hpl_record_holder *holder);
void hpl_record_release(struct hpl_record_holder *holder); /* NULL is fine */

enum hpl_status hpl_record_encode(const struct hpl_key_record *record, struct hpl_buf *out) HPL_MUST_USE;
/* HPL_INTEGRITY on anything encode would not have written. */
enum hpl_status hpl_record_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_key_record *out) HPL_MUST_USE;

/* HPL_OK when the key may be used; else the status that its state means. */
enum hpl_status hpl_record_usable(struct hpl_call *call, const struct hpl_key_record *record) HPL_MUST_USE;

/* The next version, made now: counts it and notes its date. HPL_NO_MEMORY. */
enum hpl_status hpl_record_next_version(struct hpl_key_record *record, int64_t now_ms) HPL_MUST_USE;

/* A member of rotation; 0 where there is none. */
int64_t hpl_record_rotation(const struct hpl_key_record *record, const char *name);
/* When its age makes a rotation due; 0: never. */
int64_t hpl_record_rotation_ms(const struct hpl_key_record *record);

/* The state that a text names, as it is kept, shown or listed, in any case. False for none. */
bool hpl_record_is_state_name(const char *text, enum hpl_key_state *state);

/* The state as metadata shows it, "Enabled", and as lists do, "Active": the words of RustFS's clients. */
const char *hpl_record_state_name(enum hpl_key_state state);
const char *hpl_record_listed_name(enum hpl_key_state state);

/* key_metadata as the API shows it: a new object. */
json_t *hpl_record_metadata(const struct hpl_key_record *record);

/* The caching member, in the one shape that bodies, records and answers have; NULL object: the default. HPL_INVALID_REQUEST by name. */
enum hpl_status hpl_caching_read(struct hpl_call *call, const json_t *object, struct hpl_key_caching *out) HPL_MUST_USE;
/* A new object; NULL when memory is out. */
json_t *hpl_caching_json(const struct hpl_key_caching *caching);
/* A record that permits anything of this may not be older when it is used; 0: nothing is kept, so there is no bound but the record cache's own. */
uint64_t hpl_caching_bound_ns(const struct hpl_key_caching *caching);

static inline void hpl_record_wipep(struct hpl_key_record *record)
{
    hpl_record_wipe(record);
}
#define HPL_RECORD_AUTO HPL_CLEANUP(hpl_record_wipep)

#endif
