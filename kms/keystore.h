/* What a key backend must provide. A keystore is keys and their records: it wraps and unwraps data keys under key versions that
 * never leave it, and keeps one record a key under compare-and-swap. The record decides state, the keystore decides existence:
 * material it cannot find is HPL_KEY_UNAVAILABLE, never "deleted". Implementations are thread-safe; calls may block, up to
 * call->deadline_ns. Adding a backend is one folder and one line in backends/backends.c. */
#ifndef HPL_KMS_KEYSTORE_H
#define HPL_KMS_KEYSTORE_H

#include "base/json.h"
#include "base/secret.h"

#define HPL_KEY_UID_LEN 16u
#define HPL_KEY_ID_MAX 255u     /* text, UTF-8, no control bytes; never a path */
#define HPL_WRAP_AAD_LEN 32u

/* Mechanisms as they stand in envelopes; numbers are final. */
enum hpl_mechanism {
    HPL_MECH_LOCAL_GCM = 1,    /* AES-256-GCM under HKDF(key version; salt) */
    HPL_MECH_P11_GCM = 2,      /* CKM_AES_GCM in the token */
    HPL_MECH_P11_CBC_HMAC = 3, /* CKM_AES_CBC, then HMAC under a second token key */
    HPL_MECH_P11_OAEP_HMAC = 4,
    HPL_MECH_TRANSIT = 5       /* Vault transit encrypt with associated_data */
};

struct hpl_wrapped {
    uint8_t mechanism;
    uint8_t iv_len;
    uint16_t ct_len;
    uint8_t iv[64];  /* salt or IV */
    uint8_t ct[768];
};

#define HPL_WRAP_MANY_MAX 64u

struct hpl_catalog;
struct hpl_keystore; /* first member of every implementation */

typedef bool (*hpl_record_fn)(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content);

struct hpl_keystore_ops {
    size_t size;      /* sizeof(struct hpl_keystore_ops) as compiled, checked at the boundary */
    const char *name; /* "local", "pkcs11", "vault" */
    bool is_quick;    /* wrap computes and heeds call->must_not_wait: HPL_WOULD_WAIT where it had to read something first */

    void (*close)(struct hpl_keystore *keystore); /* no call may run or follow */

    /* A cheap proof that it works now (no key of the user's is touched). */
    enum hpl_status (*probe)(struct hpl_keystore *keystore, struct hpl_call *call);

    /* Makes the material of a key version, never extractable where the backend has such a thing. Idempotent for the same uid
     * and version (a crash in between may lead to a second call). */
    enum hpl_status (*create_version)(struct hpl_keystore *keystore, struct hpl_call *call,
                                      const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version);
    /* Destroys exactly that; HPL_OK when it is already gone. */
    enum hpl_status (*destroy_version)(struct hpl_keystore *keystore, struct hpl_call *call,
                                       const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version);

    /* What wrap will say in wrapped.mechanism (enum hpl_mechanism); fixed while it is open. unwrap takes it, and what the keystore wrapped in earlier where
     * it still can. */
    uint8_t (*mechanism)(struct hpl_keystore *keystore);

    /* secret: 16 to 64 bytes. HPL_KEY_UNAVAILABLE, HPL_BACKEND, HPL_TIMEOUT, HPL_PIN_REJECTED. Never two wraps under one key
     * and nonce. */
    enum hpl_status (*wrap)(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN],
                            uint32_t version, const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret,
                            struct hpl_wrapped *out);
    /* Wrong key, context or tag: HPL_INVALID_CIPHERTEXT, one text. Lengths and mechanism are checked before a token is asked. */
    enum hpl_status (*unwrap)(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN],
                              uint32_t version, const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped,
                              struct hpl_secret **out);

    /* The same for count secrets of one length under one key version and AAD in one call: all or none. NULL: they are wrapped one by one. */
    enum hpl_status (*wrap_many)(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                 const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_secret *const *secrets, struct hpl_wrapped *out, size_t count);

    /* Fills with random bytes of the backend's own generator, to be mixed with ours. NULL when it has none. */
    enum hpl_status (*random)(struct hpl_keystore *keystore, struct hpl_call *call, uint8_t *out, size_t len);

    /* Records, by key id. put: expected 0 means it must not exist, HPL_STALE otherwise. Content is the service's JSON, opaque
     * here and authenticated by the keystore: a changed record is HPL_INTEGRITY and harms only its own key. list: byte order,
     * after (NULL: from the first). */
    enum hpl_status (*record_get)(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id,
                                  struct hpl_buf *content, uint64_t *revision);
    enum hpl_status (*record_put)(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id,
                                  const uint8_t uid[static HPL_KEY_UID_LEN], uint64_t expected, struct hpl_bytes content,
                                  uint64_t *revision);
    enum hpl_status (*record_list)(struct hpl_keystore *keystore, struct hpl_call *call, const char *after, size_t limit,
                                   hpl_record_fn fn, void *arg);

    /* Facts for status: a new JSON object (the caller's): mechanism, token label, IV mode … no secrets. */
    json_t *(*describe)(struct hpl_keystore *keystore);

    /* Whether material that somebody else made waits under this key id, to be taken over by the first record_put for it, and how many wraps a version
     * of it may do (0: no bound). NULL: never. */
    enum hpl_status (*has_material)(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, bool *out, uint64_t *max_wraps);
    /* Takes material from outside (32 bytes) as a key version; HPL_CONFLICT where that is there. NULL: it takes none. */
    enum hpl_status (*import_version)(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                      const struct hpl_secret *material);
    /* Which key id this uid has or had, for a keystore that can tell without reading all records; HPL_NOT_FOUND. NULL: the records are read. */
    enum hpl_status (*key_id_of)(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN],
                                 char key_id[static HPL_KEY_ID_MAX + 1]);
    /* Keys here cannot be disabled (HPL_NOT_IMPLEMENTED); enabling one makes sure that it is there. */
    bool cannot_disable;
    /* Records are where the keys are, over the same line: a call for one that fails tells as much of the keystore as a wrap. */
    bool has_far_records;
};

struct hpl_keystore {
    const struct hpl_keystore_ops *ops;
    uint8_t instance[8]; /* which attachment this is; set by the service after open, part of every envelope */
};

/* What a backend gets from the local configuration file; JSON from the network only picks among it by name. */
struct hpl_token_option {
    const char *name;       /* "main": what "token" in a configure body names */
    const char *uri;        /* RFC 7512, exactly one match */
    const char *module;     /* absolute path, or NULL: p11-kit's configured modules */
    const char *pin_source; /* "file:/path" or "credential:NAME" */
    unsigned max_sessions;  /* 0: default */
    const char *init_reserved; /* for C_Initialize, where a module wants it (NSS, YubiHSM); NULL: nothing */
    const char *mechanism;     /* "aes-gcm", "aes-cbc-hmac", "rsa-oaep"; NULL or "auto": the first of them that the token proves */
    const char *iv_mode;       /* of aes-gcm: "caller", "returned", "appended"; NULL or "auto": the first that is proven */
    /* Instead of a uri: tokens that hold the same keys, cloned from the first, which makes them. A key version is wrapped under when it
     * is found on replicas_required of them (0: 1). */
    const struct hpl_token_option *members;
    size_t num_members;
    unsigned replicas_required;
    bool accept_mode_change;   /* the token may show another mechanism or IV mode than was pinned, and wraps in the new one from then on */
};

/* A Vault or OpenBao server as the local file names it. Files are read again at every login. Credentials from files go to its own address only. */
struct hpl_vault_option {
    const char *name;            /* what "vault" in a configure body names; without it the option of the same address counts */
    const char *address;         /* https://host:port; NULL: any (then only the certificates below apply) */
    const char *ca_file;         /* PEM: who may sign the server's certificate, in place of the system's */
    const char *certificate, *key; /* PEM: the client certificate; both or none */
    const char *token_file;
    const char *role_id, *secret_id_file; /* AppRole */
    const char *role, *jwt_file; /* Kubernetes; NULL jwt_file: where a pod has it */
    const char *auth_mount;      /* NULL: "approle", "kubernetes" */
    bool allow_http;             /* plain HTTP to another machine, in so many words */
};

/* A worker process for PKCS#11 modules, so that a vendor's code runs outside the daemon. */
struct hpl_tokend_option {
    const char *program;            /* absolute path; NULL: hardplate-tokend beside this program */
    const char *user;               /* the worker becomes that user; NULL: it stays ours */
    unsigned watchdog_ms;           /* a call that takes longer ends the worker; 0: 10000 */
    const char *const *environment; /* names of variables that it inherits besides the known vendors' */
    size_t num_environment;
};

struct hpl_backend_env {
    const char *state_dir;
    const char *const *key_dir_roots; /* folders under which key_dir may lie; the state folder always may */
    size_t num_key_dir_roots;
    const struct hpl_token_option *tokens;
    size_t num_tokens;
    const struct hpl_vault_option *vaults;
    size_t num_vaults;
    const struct hpl_secret *root;    /* the root secret */
    struct hpl_catalog *catalog;      /* for backends that cannot keep records themselves */
    bool is_dev;
    const struct hpl_tokend_option *tokend; /* NULL: PKCS#11 modules run in this process */
};

/* One line in the list of backends. config is the merged configure body. */
struct hpl_backend {
    const char *name;           /* "local" */
    const char *const *aliases; /* other spellings of backend_type, NULL-terminated; may be NULL */
    /* Checks the fields by name without touching anything outside. HPL_INVALID_REQUEST or _CONFIGURATION. */
    enum hpl_status (*validate)(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env);
    /* A text that is the same for the same place of keys (folder, token serial, address and mount): equal identity, equal
     * instance. Asked after open. */
    enum hpl_status (*identity)(struct hpl_call *call, struct hpl_keystore *keystore, const json_t *config,
                                const struct hpl_backend_env *env, struct hpl_buf *out);
    enum hpl_status (*open)(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env,
                            struct hpl_keystore **out);
    unsigned least_opening_seconds; /* what open may take where all is well; 0: 10 */
    /* backend_summary of the status answer: a new object, no secrets. */
    json_t *(*summary)(const json_t *config, const struct hpl_backend_env *env);
    /* Names of the top-level members that it reads, those that it refuses too: a body's others are no part of the configuration. NULL-terminated; may be NULL. */
    const char *const *fields;
    /* Names of top-level members that say the same thing in different ways: a reconfigure that changes it in one way forgets what was said in the others.
     * NULL-terminated; may be NULL. */
    const char *const *alternatives;
    /* Names of top-level members that hold secrets: persisted sealed, never shown; NULL-terminated; may be NULL. */
    const char *const *secret_fields;
    /* Names of top-level members that say where those secrets are sent: a reconfigure that changes one must bring the secrets itself.
     * NULL-terminated; may be NULL. */
    const char *const *bound_fields;
};

#endif
