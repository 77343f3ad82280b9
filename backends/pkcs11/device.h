/* The seam of this folder: what one token does. Above it (pkcs11.c, pinned.c, records.c, leases.c) the catalog is known and Cryptoki
 * is not; below it Cryptoki and not the catalog. Two implementations: direct.c, in this process, and tokend/, in a worker's. */
#ifndef HPL_BACKENDS_PKCS11_DEVICE_H
#define HPL_BACKENDS_PKCS11_DEVICE_H

#include <pthread.h>

#include "kms/keystore.h"

#define HPL_P11_ID_LEN 20u /* CKA_ID: uid, then the version big-endian */
#define HPL_P11_LABEL_MAX 32u
#define HPL_P11_MAC_LEN 32u
#define HPL_P11_SECRET_MIN 16u
#define HPL_P11_SECRET_MAX 64u

#define HPL_P11_RSA_BITS 3072u

/* How a mechanism is used: who makes the IV; for RSA-OAEP, where there is none, the hash. */
enum hpl_p11_iv_mode {
    HPL_P11_IV_NONE,
    HPL_P11_IV_CALLER,
    HPL_P11_IV_RETURNED,
    HPL_P11_IV_APPENDED,
    HPL_P11_OAEP_SHA256,
    HPL_P11_OAEP_SHA1,
    HPL_P11_NUM_IV_MODES
};
const char *hpl_p11_iv_mode_name(enum hpl_p11_iv_mode mode); /* "caller", "returned", "appended", "sha256", "sha1" */
const char *hpl_p11_mechanism_name(uint8_t mechanism);       /* "aes-gcm", "aes-cbc-hmac", "rsa-oaep"; "unknown" */
uint8_t hpl_p11_mechanism_of(const char *name);              /* 0: none of these */

/* Which token, and what it proved to do on a throw-away key. Fixed while the device is open: another token in its place is
 * HPL_INTEGRITY. Texts are trimmed, valid UTF-8 without control bytes. */
struct hpl_p11_facts {
    char label[33], serial[17], manufacturer[33], library[48];
    char id[40]; /* names the token in the catalog and in file names; made of the others by hpl_p11_facts_name */
    uint8_t mechanism; /* enum hpl_mechanism of new wraps */
    enum hpl_p11_iv_mode iv_mode;
    uint32_t opens; /* a bit, 1 << mechanism, for each that it unwraps: its own and those it was settled with before */
};

/* Gives facts->id. */
void hpl_p11_facts_name(struct hpl_p11_facts *facts);
/* "pkcs11:manufacturer;serial;label", escaped: equal for the same token only. */
void hpl_p11_facts_identity(const struct hpl_p11_facts *facts, struct hpl_buf *out);

#define HPL_P11_CHECK_LEN 32u
extern const uint8_t hpl_p11_check_aad[HPL_WRAP_AAD_LEN];

/* One key version. */
struct hpl_p11_ref {
    uint8_t uid[HPL_KEY_UID_LEN];
    uint32_t version;
    /* Zero bytes, HPL_P11_CHECK_LEN of them, wrapped under it with hpl_p11_check_aad when it was made. Wrap and unwrap open it once
     * after each search of the key; if it does not open the handle is another key, and the device gives up (has_failed). NULL:
     * nothing is proven. */
    const struct hpl_wrapped *check;
};
void hpl_p11_ref_id(const struct hpl_p11_ref *ref, uint8_t id[static HPL_P11_ID_LEN]);
void hpl_p11_ref_of(const uint8_t id[static HPL_P11_ID_LEN], struct hpl_p11_ref *ref); /* without a check blob */
/* hpl/<the first 65 bits of the uid in base32>/<version>: at most 28 characters. */
void hpl_p11_ref_label(const struct hpl_p11_ref *ref, char label[static HPL_P11_LABEL_MAX + 1]);

/* Takes a lock that is held while the token is asked, at the latest at the call's deadline: HPL_TIMEOUT, in words of what is waited for. */
enum hpl_status hpl_p11_lock(struct hpl_call *call, pthread_mutex_t *lock, const char *what) HPL_MUST_USE;

/* What is kept of a token from its first use on. */
struct hpl_p11_pinned {
    uint8_t mechanism;
    enum hpl_p11_iv_mode iv_mode;
    uint32_t opens;            /* as in the facts */
    struct hpl_wrapped canary; /* the canary's known answer; ct_len 0: of another mechanism, a new one is wanted */
};

#define HPL_P11_ORPHANS_SHOWN 16u
#define HPL_P11_KNOWN_MAX 65535u

/* Key versions in the token whose key nobody has a record of. */
struct hpl_p11_orphans {
    uint32_t count;
    uint8_t first[HPL_P11_ORPHANS_SHOWN][HPL_P11_ID_LEN];
};

struct hpl_p11_stat {
    uint32_t num_sessions, max_sessions;
    uint32_t optional_attributes; /* a mask for hpl_p11_optional_names */
    uint64_t initialisations;
    bool is_connected;
    bool is_latched;    /* an IV came twice: no more wraps */
    bool has_failed;    /* HPL_INTEGRITY from now on: a key was not the key it should be */
    int64_t worker_pid; /* 0: in this process, or no worker now */
    uint64_t restarts;  /* of the worker */
};

struct hpl_p11_device;

/* All but close and stat block on the token up to call->deadline_ns and come from any thread. A token that is away is
 * HPL_KEY_UNAVAILABLE; a refused PIN HPL_PIN_REJECTED. */
struct hpl_p11_device_ops {
    const char *isolation; /* "inprocess", "worker" */
    void (*close)(struct hpl_p11_device *device); /* no call may run or follow */
    /* Once, after open and before everything below. A known token (is_known) must have the keys and the canary that pinned tells
     * of, else HPL_INTEGRITY or HPL_KEY_UNAVAILABLE; an unknown one gets them, and *pinned is filled. A known one whose mechanism
     * changed must have the MAC key and gets a canary. pinned->opens is added to the facts'. */
    enum hpl_status (*settle)(struct hpl_p11_device *device, struct hpl_call *call, bool is_known, struct hpl_p11_pinned *pinned);
    /* The canary sings. */
    enum hpl_status (*probe)(struct hpl_p11_device *device, struct hpl_call *call);
    /* As in kms/keystore.h. */
    enum hpl_status (*create)(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref);
    enum hpl_status (*destroy)(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref);
    /* secret: HPL_P11_SECRET_MIN to _MAX bytes. The caller counts the wrap before (leases.c). *out is zero on failure. */
    enum hpl_status (*wrap)(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out);
    enum hpl_status (*unwrap)(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out);
    /* HMAC-SHA256 by hpl/meta-mac. */
    enum hpl_status (*mac)(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes message,
                           uint8_t mac[static HPL_P11_MAC_LEN]);
    /* Fills the secret from the token's generator. */
    enum hpl_status (*random)(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_secret *out);
    /* Looks at every object of the token. known: uids (16 bytes each, HPL_P11_KNOWN_MAX at most) in byte order. HPL_TIMEOUT when that
     * would take more than some seconds. */
    enum hpl_status (*survey)(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes known, struct hpl_p11_orphans *out);
    /* Does not wait for the token. */
    void (*stat)(struct hpl_p11_device *device, struct hpl_p11_stat *out);
    /* Of a group (group.h): a new JSON array, one object a member. NULL: there are none. */
    json_t *(*describe_members)(struct hpl_p11_device *device);
};

struct hpl_p11_device { /* first member of every implementation */
    const struct hpl_p11_device_ops *ops;
    struct hpl_p11_facts facts; /* from open on */
};

/* What a device needs; everything outlives it. */
struct hpl_p11_place {
    const struct hpl_token_option *option;
    const char *known_id;               /* facts->id of the one token that may answer to the URI, asked before its PIN is sent; NULL: any */
    const char (*member_ids)[40];       /* of a group: a known_id for each member, "": any; else NULL */
    /* Of a group: a member proved to hold its keys, and id is what it is from now on. Any thread. */
    void (*met_member)(void *keeper, const struct hpl_token_option *member, const char *id);
    void *keeper;
    const char *latch_dir;              /* a folder, 0700, where refused PINs are written down */
    const char *latch_shown;            /* how messages call it; NULL: latch_dir */
    const struct hpl_secret *latch_key; /* keys their digests */
};

/* Loads the module, finds the one token, logs in, tries what it can do. */
enum hpl_status hpl_p11_direct_open(struct hpl_call *call, const struct hpl_p11_place *place, struct hpl_p11_device **out) HPL_MUST_USE;

/* Which of make.c's the token takes is known once a key was made since it was opened; until then the mask says what will be tried. */
#define HPL_P11_OPTIONAL_ALL 3u
#define HPL_P11_OPTIONAL_IS_KNOWN 4u
/* A JSON array of the optional attributes that keys are made with; null while that is not known. */
json_t *hpl_p11_optional_names(unsigned mask);

/* Lengths and mechanism of what is to be unwrapped, before a token is asked: HPL_OK or HPL_INVALID_CIPHERTEXT. */
enum hpl_status hpl_p11_screen(const struct hpl_p11_facts *facts, const struct hpl_wrapped *wrapped) HPL_MUST_USE;

#endif
