/* What the files of backends/vault share. */
#ifndef HPL_BACKENDS_VAULT_INTERNAL_H
#define HPL_BACKENDS_VAULT_INTERNAL_H

#include <limits.h>
#include <pthread.h>

#include "backends/vault/vault.h"

#define HPL_VAULT_TEXT 256u
#define HPL_VAULT_SALT_LEN 32u
#define HPL_VAULT_MOST_PLAIN_WRAPS (1ull << 31) /* half of what random nonces under one key allow (SP 800-38D 8.3) */
#define HPL_VAULT_DEFAULT_TIMEOUT_NS 30000000000u /* for a call without a deadline */

/* --- settings.c --------------------------------------------------------------------------------------------------------- */

enum hpl_vault_auth { HPL_VAULT_TOKEN, HPL_VAULT_APPROLE, HPL_VAULT_KUBERNETES, HPL_VAULT_TOKEN_FILE };

struct hpl_vault_settings {
    char address[2 * HPL_VAULT_TEXT]; /* https://host:port, no slash at the end */
    char space[HPL_VAULT_TEXT];       /* the namespace; "": the root namespace */
    char mount[HPL_VAULT_TEXT], kv_mount[HPL_VAULT_TEXT], prefix[HPL_VAULT_TEXT]; /* no slash at either end */
    bool skip_tls_verify;
    enum hpl_vault_auth auth;
    char auth_mount[HPL_VAULT_TEXT];
    char role[HPL_VAULT_TEXT];        /* AppRole's role_id, or Kubernetes' role */
    struct hpl_secret *secret;        /* the token or secret_id of the body; NULL: it is in a file */
    char secret_file[PATH_MAX];
    const struct hpl_vault_option *option; /* of the local file; NULL: none */
};

/* The members of a configure body that are Vault's, those that it refuses too; NULL-terminated. */
extern const char *const hpl_vault_fields[];

/* The part of a configure body that is Vault's. HPL_INVALID_REQUEST or _CONFIGURATION by name. hpl_vault_settings_wipe ends it. */
enum hpl_status hpl_vault_settings_read(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env,
                                        struct hpl_vault_settings *out) HPL_MUST_USE;
void hpl_vault_settings_wipe(struct hpl_vault_settings *settings);
/* "token", "approle", "kubernetes", "token_file". */
const char *hpl_vault_auth_name(enum hpl_vault_auth auth);
/* backend_summary: what the body says, no secrets. */
json_t *hpl_vault_summary(const json_t *config, const struct hpl_backend_env *env);

/* --- http.c -------------------------------------------------------------------------------------------------------------- */

struct hpl_vault_http;

struct hpl_vault_request {
    const char *method;       /* "GET", "POST", "DELETE" */
    const char *path;         /* behind /v1/, escaped */
    struct hpl_bytes body;    /* JSON; stays the caller's */
    const struct hpl_secret *token; /* NULL: none is sent */
    bool is_outside_namespace;
};

/* A condition whose timed waits are by the clock of deadlines. */
void hpl_vault_init_cond(pthread_cond_t *cond);

/* Zero-initialise. With a secret set, the answer's body goes there and nowhere else, and what does not fit is a failure. */
struct hpl_vault_answer {
    long code;
    struct hpl_buf body;
    struct hpl_secret *secret;
    size_t secret_len;
};

enum hpl_status hpl_vault_http_open(struct hpl_call *call, const struct hpl_vault_settings *settings, struct hpl_vault_http **out) HPL_MUST_USE;
void hpl_vault_http_close(struct hpl_vault_http *http);
/* Any answer is HPL_OK, whatever its code. HPL_KEY_UNAVAILABLE (not reached), HPL_TIMEOUT, HPL_BACKEND (TLS, an answer too long). */
enum hpl_status hpl_vault_send(struct hpl_call *call, struct hpl_vault_http *http, const struct hpl_vault_request *request,
                               struct hpl_vault_answer *answer) HPL_MUST_USE;
void hpl_vault_answer_wipe(struct hpl_vault_answer *answer);

/* The JSON object of an answer; HPL_BACKEND when it is none. */
enum hpl_status hpl_vault_answer_json(struct hpl_call *call, const struct hpl_vault_answer *answer, json_t **out) HPL_MUST_USE;
/* Whether one of the answer's errors has this text in it. */
bool hpl_vault_answer_says(const struct hpl_vault_answer *answer, const char *text);
/* The status and the one sentence that an answer other than 2xx means; what: "wrapping under the transit key 'x'". Never HPL_OK. */
enum hpl_status hpl_vault_refused(struct hpl_call *call, const struct hpl_vault_http *http, const struct hpl_vault_request *request,
                                  const struct hpl_vault_answer *answer, const char *what) HPL_MUST_USE;

static inline bool hpl_vault_answer_is_ok(const struct hpl_vault_answer *answer)
{
    return answer->code >= 200 && answer->code < 300;
}

static inline void hpl_vault_answer_wipep(struct hpl_vault_answer *answer)
{
    hpl_vault_answer_wipe(answer);
}
#define HPL_VAULT_ANSWER_AUTO HPL_CLEANUP(hpl_vault_answer_wipep)

/* --- session.c ----------------------------------------------------------------------------------------------------------- */

struct hpl_vault_session;

/* What a login, a renewal or a look at the token says. */
struct hpl_vault_lease {
    struct hpl_secret *token; /* the caller's; NULL: the one we have */
    int64_t seconds;          /* 0: it does not end */
    bool is_renewable;
};

/* {"auth": {"client_token", "lease_duration", "renewable"}} of an answer. HPL_BACKEND. */
enum hpl_status hpl_vault_read_lease(struct hpl_call *call, const struct hpl_vault_answer *answer, bool wants_token, struct hpl_vault_lease *out) HPL_MUST_USE;

/* Logs in, and keeps the token alive on a thread of its own until it is closed. settings and http stay the caller's. */
enum hpl_status hpl_vault_session_open(struct hpl_call *call, const struct hpl_vault_settings *settings, struct hpl_vault_http *http,
                                       struct hpl_vault_session **out) HPL_MUST_USE;
void hpl_vault_session_close(struct hpl_vault_session *session);
/* As hpl_vault_send, with our token; once more with a new one when that was refused. */
enum hpl_status hpl_vault_ask(struct hpl_call *call, struct hpl_vault_session *session, struct hpl_vault_request *request,
                              struct hpl_vault_answer *answer) HPL_MUST_USE;
/* Adds what status shows of the token: how we are, until when, how often we logged in and renewed it. */
void hpl_vault_session_describe(struct hpl_vault_session *session, json_t *out);

/* --- the store ----------------------------------------------------------------------------------------------------------- */

struct hpl_vault {
    struct hpl_keystore base; /* first */
    struct hpl_vault_settings settings;
    struct hpl_vault_http *http;
    struct hpl_vault_session *session;
    struct hpl_secret *mac_key;
    char identity[33];
    pthread_mutex_t lock;     /* around the two that follow */
    json_t *places;           /* uid in hex → its place, as kept in KV */
    char node[32];            /* what the last probe saw: "active", "standby" */
};

static inline struct hpl_vault *hpl_vault_of(struct hpl_keystore *keystore)
{
    return (struct hpl_vault *)keystore;
}

/* Health, the KV engine by the identity document, the transit engine. */
enum hpl_status hpl_vault_probe(struct hpl_keystore *keystore, struct hpl_call *call) HPL_MUST_USE;

/* --- document.c ---------------------------------------------------------------------------------------------------------- */

/* One document: content is UTF-8 text. The MAC covers all of it and the KV version. */
struct hpl_vault_document {
    const char *kind;             /* "record", "uid", "identity" */
    char id[HPL_KEY_ID_MAX + 1];  /* the key id, the uid in hex, "" */
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_buf content;
    uint64_t revision; /* the KV version */
};

/* out->kind is set by the caller. HPL_NOT_FOUND, HPL_INTEGRITY (also when it is another id's than the one asked for), HPL_KEY_UNAVAILABLE (deleted in
 * Vault, not by us). hpl_vault_document_wipe ends it. */
enum hpl_status hpl_vault_document_get(struct hpl_call *call, struct hpl_vault *vault, const char *name, const char *id,
                                       struct hpl_vault_document *out) HPL_MUST_USE;
/* The document in Vault's answer, verified; path for the detail. HPL_INTEGRITY, HPL_BACKEND. */
enum hpl_status hpl_vault_document_read(struct hpl_call *call, const struct hpl_vault *vault, const char *path, const json_t *root,
                                        struct hpl_vault_document *out) HPL_MUST_USE;
/* Writes it as revision expected + 1. HPL_STALE. */
enum hpl_status hpl_vault_document_put(struct hpl_call *call, struct hpl_vault *vault, const char *name, const struct hpl_vault_document *document,
                                       uint64_t expected) HPL_MUST_USE;
/* The names of a kind: a JSON array of strings, the caller's, in no order. */
enum hpl_status hpl_vault_document_names(struct hpl_call *call, struct hpl_vault *vault, const char *kind, json_t **out) HPL_MUST_USE;
void hpl_vault_document_wipe(struct hpl_vault_document *document);

/* --- names.c ------------------------------------------------------------------------------------------------------------- */

#define HPL_VAULT_NAME_MAX 128u

/* The key id as one segment of a path: letters, digits, '-' and '_' as they are, other bytes as ~ and two hex digits; an id that would be longer
 * than 120 bytes as "~~" and its SHA-256. No two ids share a name, and none is "." or "..". */
void hpl_vault_record_name(char out[static HPL_VAULT_NAME_MAX], const char *key_id);
/* The other way; false for a digest and for what no key id has. */
bool hpl_vault_record_id(char key_id[static HPL_KEY_ID_MAX + 1], const char *name);
/* Whether a key id may serve as the transit key's name. */
bool hpl_vault_is_transit_name(const char *key_id);

/* Where a uid's material is. */
struct hpl_vault_place {
    char name[HPL_KEY_ID_MAX + 1]; /* the transit key */
    uint32_t base;                 /* our version v is its version v + base - 1 */
    bool is_ours;                  /* we made it, so we may delete it */
    bool is_derived;               /* each wrap has a key of its own, derived from a salt: no bound on their number */
    uint32_t made;                 /* the highest of our versions that was asked for; 0: not known (a document from before it was kept) */
    json_t *destroyed;             /* owned: array of our versions */
    bool is_gone;                  /* all were, and the transit key was deleted: a key of that name is another one */
    char key_id[HPL_KEY_ID_MAX + 1]; /* whose record named it first; "": none did yet */
    uint64_t revision;             /* of the document; 0: there is none */
};

void hpl_vault_place_wipe(struct hpl_vault_place *place);
static inline void hpl_vault_place_wipep(struct hpl_vault_place *place)
{
    hpl_vault_place_wipe(place);
}
#define HPL_VAULT_PLACE_AUTO HPL_CLEANUP(hpl_vault_place_wipep)

/* From memory where may_be_cached, else from KV. A uid without a document has its own transit key, hpl-<uid>. */
enum hpl_status hpl_vault_place_get(struct hpl_call *call, struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], bool may_be_cached,
                                    struct hpl_vault_place *out) HPL_MUST_USE;
enum hpl_status hpl_vault_place_put(struct hpl_call *call, struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN],
                                    struct hpl_vault_place *place) HPL_MUST_USE;
/* Keeps in memory that a uid without a document has its own transit key. */
void hpl_vault_place_remember(struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], const struct hpl_vault_place *place);
/* At the first record of a uid: gives it a transit key named as the key id where that can be (one that is there is taken over, from its latest
 * version on, where it may be), else hpl-<uid>. Does nothing when it has one. */
enum hpl_status hpl_vault_place_choose(struct hpl_call *call, struct hpl_vault *vault, const uint8_t uid[static HPL_KEY_UID_LEN], const char *key_id,
                                       bool may_take_over) HPL_MUST_USE;

/* --- transit.c ----------------------------------------------------------------------------------------------------------- */

struct hpl_vault_facts {
    uint32_t latest; /* version; 0: there is no such key */
    bool is_derived;
};

/* The facts of a transit key. HPL_INVALID_CONFIGURATION for a key of a type that cannot serve. */
enum hpl_status hpl_vault_transit_read(struct hpl_call *call, struct hpl_vault *vault, const char *name, struct hpl_vault_facts *out) HPL_MUST_USE;
enum hpl_status hpl_vault_create_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN],
                                         uint32_t version) HPL_MUST_USE;
enum hpl_status hpl_vault_destroy_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN],
                                          uint32_t version) HPL_MUST_USE;
enum hpl_status hpl_vault_wrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out) HPL_MUST_USE;
enum hpl_status hpl_vault_unwrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                 const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out) HPL_MUST_USE;
enum hpl_status hpl_vault_wrap_many(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                    const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_secret *const *secrets, struct hpl_wrapped *out, size_t count) HPL_MUST_USE;
/* Puts the ciphertext in what encrypt answered for one secret, checked to be of this version, beside the salt in out. HPL_BACKEND. */
enum hpl_status hpl_vault_read_wrapped(struct hpl_call *call, const json_t *data, uint32_t version, size_t secret_len, struct hpl_wrapped *out) HPL_MUST_USE;

/* --- records.c ----------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_vault_record_get(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, struct hpl_buf *content,
                                     uint64_t *revision) HPL_MUST_USE;
enum hpl_status hpl_vault_record_put(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id,
                                     const uint8_t uid[static HPL_KEY_UID_LEN], uint64_t expected, struct hpl_bytes content,
                                     uint64_t *revision) HPL_MUST_USE;
enum hpl_status hpl_vault_record_list(struct hpl_keystore *keystore, struct hpl_call *call, const char *after, size_t limit, hpl_record_fn fn,
                                      void *arg) HPL_MUST_USE;

#endif
