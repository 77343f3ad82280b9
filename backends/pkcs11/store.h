/* What the files above the seam share (device.h): the keystore, which keeps in the catalog what a token cannot. */
#ifndef HPL_BACKENDS_PKCS11_STORE_H
#define HPL_BACKENDS_PKCS11_STORE_H

#include <pthread.h>

#include "backends/pkcs11/group.h"
#include "catalog/catalog.h"

#define HPL_P11_NUM_BUCKETS 4096u
#define HPL_P11_NUM_DIGESTS 4096u

/* What is remembered of one key version: the wraps it may still do before the catalog is asked again, its check blob. */
struct hpl_p11_lease {
    struct hpl_p11_lease *next;
    struct hpl_p11_ref ref;
    pthread_mutex_t lock;
    uint64_t remaining, reserved, revision; /* wraps left, counter and revision of the row in the catalog */
    struct hpl_buf check;                   /* its check blob as it stands in the catalog; empty: not read yet */
};

struct hpl_p11_leases {
    pthread_mutex_t lock;
    struct hpl_p11_lease *buckets[HPL_P11_NUM_BUCKETS];
    size_t num_leases;
};

struct hpl_p11_keystore {
    struct hpl_keystore base;
    const struct hpl_token_option *option;
    const struct hpl_backend_env *env;
    struct hpl_p11_place place;
    char *latch_dir;
    char known_id[40];                        /* which token answered to this name last time; "": any may */
    char member_ids[HPL_P11_MAX_MEMBERS][40]; /* the same of a group's members */
    struct hpl_secret *latch_key;
    struct hpl_p11_device *device;
    struct hpl_p11_leases leases;
    struct hpl_p11_orphans orphans;
    bool did_look; /* for them */

    pthread_mutex_t random_lock;
    struct hpl_secret *random_block;
    size_t random_left;

    pthread_mutex_t digests_lock;
    uint8_t (*digests)[32]; /* of records that verified */
};

/* pinned.c: which token answered to the option's name before, or which to its members' names, unless their URIs name one by serial. */
enum hpl_status hpl_p11_recall(struct hpl_p11_keystore *keystore, struct hpl_call *call) HPL_MUST_USE;
/* For struct hpl_p11_place. What goes wrong is logged: the member was met, and is as good as before. */
void hpl_p11_met_member(void *keystore, const struct hpl_token_option *member, const char *id);
/* Settles the device, new or known, by the catalog's row, and notes the token. */
enum hpl_status hpl_p11_pin_down(struct hpl_p11_keystore *keystore, struct hpl_call *call) HPL_MUST_USE;

/* orphans.c: looks for them once; what goes wrong is logged. */
void hpl_p11_orphans_look(struct hpl_p11_keystore *keystore);
/* {count, labels}, or null when the look failed. */
json_t *hpl_p11_orphans_json(const struct hpl_p11_keystore *keystore);

/* --- records.c ---------------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_p11_record_get(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, struct hpl_buf *content,
                                   uint64_t *revision) HPL_MUST_USE;
enum hpl_status hpl_p11_record_put(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id,
                                   const uint8_t uid[static HPL_KEY_UID_LEN], uint64_t expected, struct hpl_bytes content,
                                   uint64_t *revision) HPL_MUST_USE;
enum hpl_status hpl_p11_record_list(struct hpl_keystore *keystore, struct hpl_call *call, const char *after, size_t limit,
                                    hpl_record_fn fn, void *arg) HPL_MUST_USE;

/* --- leases.c ------------------------------------------------------------------------------------------------------------------------ */

void hpl_p11_leases_init(struct hpl_p11_leases *leases);
/* The entry of a key version, made at first use; NULL when memory is out. Lives as long as the keystore. */
struct hpl_p11_lease *hpl_p11_lease_of(struct hpl_p11_leases *leases, const struct hpl_p11_ref *ref);
/* The name of its rows in the catalog. */
void hpl_p11_lease_row(const struct hpl_p11_lease *lease, char name[static 2 * HPL_P11_ID_LEN + 1]);
/* Counts one wrap against SP 800-38D's 2^32 random IVs a key. */
enum hpl_status hpl_p11_lease_take(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_p11_ref *ref) HPL_MUST_USE;
/* At a clean close: what is left of the blocks goes back, and the table is freed. */
void hpl_p11_leases_close(struct hpl_p11_keystore *keystore);

/* --- checks.c ------------------------------------------------------------------------------------------------------------------------ */

/* Fills *check and points ref->check at it. A version without a check blob gets one. */
enum hpl_status hpl_p11_check_of(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_ref *ref,
                                 struct hpl_wrapped *check) HPL_MUST_USE;
/* Of a version whose key is destroyed. */
enum hpl_status hpl_p11_check_drop(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_p11_ref *ref) HPL_MUST_USE;

#endif
