/* What the files below the seam share (device.h). Cryptoki's vocabulary ends here: see error.c for the translation. */
#ifndef HPL_BACKENDS_PKCS11_INTERNAL_H
#define HPL_BACKENDS_PKCS11_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "backends/pkcs11/cryptoki.h"
#include <p11-kit/uri.h>

#include "backends/pkcs11/mech.h"
#include "backends/pkcs11/uri.h"

#define HPL_P11_MAX_SESSIONS 64u
#define HPL_P11_IV_MAX 16u
#define HPL_P11_RECENT_IVS 64u
#define HPL_P11_NUM_BUCKETS 4096u

/* --- error.c: CK_RV, what it means, what it is to the caller -------------------------------------------------------------- */

enum hpl_p11_class {
    HPL_P11_NONE,      /* nothing went wrong in the token */
    HPL_P11_CALLER,    /* the ciphertext, when it comes from C_Decrypt */
    HPL_P11_SESSION,   /* the session is gone or busy: another one, once */
    HPL_P11_HANDLE,    /* the object handle is stale: find it again, once */
    HPL_P11_LOGIN,     /* not logged in: log in, once */
    HPL_P11_DEVICE,    /* token or module trouble, and every code not known here: the canary judges */
    HPL_P11_LOAD,      /* out of sessions or memory over there */
    HPL_P11_PIN,       /* latched, never retried */
    HPL_P11_CONFIG,    /* this token cannot do that */
    HPL_P11_AMBIGUOUS, /* C_Decrypt failed with a code that may mean the tag or the device: the canary judges */
    HPL_P11_MISMATCH,  /* a check blob did not open: the canary judges whether it was the token or the handle */
    HPL_P11_ABSENT     /* a search found nothing, which never means "deleted": the canary judges */
};

enum hpl_p11_class hpl_p11_classify(CK_RV rv);
const char *hpl_p11_rv_name(CK_RV rv); /* "CKR_PIN_LOCKED", or "an unknown code" */
/* Writes "<function> returned <name> (0x…)" and gives the status of the code's class. rv is not CKR_OK. */
enum hpl_status hpl_p11_fail(struct hpl_call *call, const char *function, CK_RV rv);

/* --- module.c: one loaded and initialised module a process, shared by its devices ----------------------------------------- */

struct hpl_p11_module;

/* path: absolute, or NULL for the modules that p11-kit is configured with. Loads and initialises on first use, unless another library
 * of this process did, which then finalizes it too; reserved, when not NULL, goes to C_Initialize as it is. */
enum hpl_status hpl_p11_module_ref(struct hpl_call *call, const char *path, const char *reserved, struct hpl_p11_module **out) HPL_MUST_USE;
void hpl_p11_module_unref(struct hpl_p11_module *module); /* the last one finalizes; no call may be in flight */
/* Every call into the module happens between enter and leave. Waits while the module is restarted, up to the call's deadline;
 * refuses in a forked child. *generation counts initialisations. */
enum hpl_status hpl_p11_module_enter(struct hpl_p11_module *module, struct hpl_call *call, uint64_t *generation) HPL_MUST_USE;
void hpl_p11_module_leave(struct hpl_p11_module *module);
/* Waits until nothing is in flight, finalizes, initialises: generation + 1. A no-op when the generation is not seen any more.
 * Never called between enter and leave. */
enum hpl_status hpl_p11_module_restart(struct hpl_p11_module *module, struct hpl_call *call, uint64_t seen) HPL_MUST_USE;
/* NULL-terminated; valid between enter and leave. */
CK_FUNCTION_LIST **hpl_p11_module_lists(struct hpl_p11_module *module);
/* Held while objects are made or destroyed: some modules race there (SoftHSM #573). */
pthread_mutex_t *hpl_p11_module_creation_lock(struct hpl_p11_module *module);
uint64_t hpl_p11_module_generation(struct hpl_p11_module *module);
/* The first generation whose sessions may be open still: the present one, or an earlier one where the module is not ours to finalize. */
uint64_t hpl_p11_module_open_since(struct hpl_p11_module *module);

/* --- token.c: which token ------------------------------------------------------------------------------------------------ */

struct hpl_p11_token {
    CK_FUNCTION_LIST *fn;
    CK_SLOT_ID slot;
    CK_ULONG max_rw_sessions;
    struct hpl_p11_facts facts; /* the texts and the id; what it can do is asked later */
};

/* uri.c: see hpl_p11_uri_check; p11_kit_uri_free ends it. */
enum hpl_status hpl_p11_uri_parse(struct hpl_call *call, const char *text, P11KitUri **out) HPL_MUST_USE;
/* Exactly one match among the module's tokens. HPL_KEY_UNAVAILABLE when there is none, HPL_INVALID_CONFIGURATION when there are
 * several; both list what is there. Between enter and leave. */
enum hpl_status hpl_p11_token_find(struct hpl_call *call, struct hpl_p11_module *module, const char *uri,
                                   struct hpl_p11_token *out) HPL_MUST_USE;

/* --- pin.c: logging in, and never twice with a refused PIN ----------------------------------------------------------------- */

struct hpl_p11_login {
    const struct hpl_p11_token *token;
    const struct hpl_p11_place *place;
};
/* Logs the process in through session unless it already is. HPL_PIN_REJECTED when the token refused this PIN now or earlier. */
enum hpl_status hpl_p11_login(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session) HPL_MUST_USE;
/* For the prober: sends the PIN that was just taken once more, and gives the token's code. CKR_FUNCTION_CANCELED when that PIN may
 * not be sent. */
CK_RV hpl_p11_login_again(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session);

/* --- pool.c: sessions ------------------------------------------------------------------------------------------------------ */

struct hpl_p11_session {
    CK_SESSION_HANDLE handle;
    unsigned num_ivs;
    uint8_t ivs[HPL_P11_RECENT_IVS][HPL_P11_IV_MAX];
};

struct hpl_p11_pool {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    CK_FUNCTION_LIST *fn;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE anchor; /* keeps the login; never used for work */
    bool has_anchor;
    unsigned wanted, max, num_open, num_idle; /* max: fewer than wanted while the token has no more */
    uint64_t grow_at_ns;
    uint64_t generation; /* of the module that the sessions are of */
    struct hpl_p11_session *idle[HPL_P11_MAX_SESSIONS];
};

struct hpl_p11_op;

void hpl_p11_cond_init(pthread_cond_t *cond); /* timed waits go by hpl_clock_mono_ns() */
void hpl_p11_pool_init(struct hpl_p11_pool *pool);
/* Forgets its sessions, closes them first where they are of open_since or later, and opens the anchor. Nothing may be checked out. */
enum hpl_status hpl_p11_pool_open(struct hpl_p11_pool *pool, struct hpl_call *call, const struct hpl_p11_token *token,
                                  unsigned wanted, uint64_t generation, uint64_t open_since) HPL_MUST_USE;
void hpl_p11_pool_close(struct hpl_p11_pool *pool, bool is_alive); /* is_alive: the module may be called */
/* One session for one operation; waits up to the deadline, at most 2 s. */
enum hpl_status hpl_p11_checkout(struct hpl_p11_op *op) HPL_MUST_USE;
/* Gives it back; closes it when anything went wrong, since a started operation may still hold it. */
void hpl_p11_checkin(struct hpl_p11_op *op);

/* --- the device ------------------------------------------------------------------------------------------------------------- */

/* One key version and the handles found for its objects. A handle is good while its epoch is the device's. */
struct hpl_p11_key {
    struct hpl_p11_key *next;
    uint8_t id[HPL_P11_ID_LEN];
    char label[HPL_P11_LABEL_MAX + 1];
    bool is_mac; /* hpl/meta-mac: the MAC key itself carries the name */
    pthread_mutex_t lock;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    uint64_t epochs[HPL_P11_NUM_KINDS];
    bool is_proven; /* its check blob opened since the last of them was found */
};

struct hpl_p11_direct {
    struct hpl_p11_device base;
    const struct hpl_p11_place *place;
    struct hpl_p11_module *module;
    struct hpl_p11_token token;
    struct hpl_p11_pool pool;

    pthread_mutex_t connect_lock;      /* one thread connects; the rest wait for its result */
    pthread_cond_t connect_done;
    bool is_connecting;
    _Atomic uint64_t generation;       /* of the module when last connected */
    _Atomic uint64_t suspect;          /* the generation that a canary failed in */
    _Atomic uint64_t epoch;            /* of object handles */
    unsigned failures;
    uint64_t next_attempt_ns;
    _Atomic bool is_latched;           /* an IV came twice: no more wraps */
    _Atomic bool has_failed;           /* a check blob did not open under its key: nothing more at all */

    bool tries_in_token;               /* trials may make throw-away token objects where there are no session objects */
    const struct hpl_p11_tier *tier;   /* of new wraps */
    enum hpl_p11_iv_mode iv_mode;
    bool is_settled;                   /* the canary's answer is known */
    _Atomic unsigned optional_attributes; /* which of make.c's the token takes */
    struct hpl_p11_key canary, meta_mac;
    struct hpl_wrapped canary_answer;
    pthread_mutex_t canary_lock;
    uint64_t canary_at_ns, canary_generation; /* of the verdict below */
    bool canary_was_well;

    pthread_mutex_t keys_lock;
    struct hpl_p11_key *keys[HPL_P11_NUM_BUCKETS];
    size_t num_keys;
};

/* --- run.c: one operation in the token, with its one retry ------------------------------------------------------------------ */

struct hpl_p11_op {
    struct hpl_p11_direct *direct;
    struct hpl_call *call;
    CK_FUNCTION_LIST *fn;
    struct hpl_p11_session *session;
    CK_SESSION_HANDLE handle; /* of the session */
    enum hpl_p11_class class; /* of the first thing that went wrong */
    uint64_t generation, epoch;
};
typedef enum hpl_status (*hpl_p11_op_fn)(struct hpl_p11_op *op, void *arg);

/* Runs fn with a session of its own; connects before if needed. What went wrong decides whether it runs a second time, so fn must
 * bear that. */
enum hpl_status hpl_p11_run(struct hpl_p11_direct *direct, struct hpl_call *call, hpl_p11_op_fn fn, void *arg) HPL_MUST_USE;
/* HPL_OK for CKR_OK; else notes the class in op and fails. */
enum hpl_status hpl_p11_check(struct hpl_p11_op *op, const char *function, CK_RV rv) HPL_MUST_USE;
/* Finds the token, opens the anchor, logs in, asks the canary. Restarts the module first when it is suspect. */
enum hpl_status hpl_p11_connect(struct hpl_p11_direct *direct, struct hpl_call *call) HPL_MUST_USE;

/* --- mech.c: wrapping and unwrapping, by whichever tier (mech.h) --------------------------------------------------------------- */

/* Sets the device's tier and IV mode: the first, in the order of trial, that the local file allows and the token proves. */
enum hpl_status hpl_p11_negotiate(struct hpl_p11_op *op) HPL_MUST_USE;
/* By the device's tier, under the objects of handles. *out is zero on failure. */
enum hpl_status hpl_p11_wrap(struct hpl_p11_op *op, const struct hpl_p11_key *key, const CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS],
                             const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_bytes secret, struct hpl_wrapped *out) HPL_MUST_USE;
/* By the tier that wrapped names. */
enum hpl_status hpl_p11_unwrap(struct hpl_p11_op *op, const struct hpl_p11_key *key, const CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS],
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped,
                               struct hpl_secret **out) HPL_MUST_USE;

/* --- object.c: key objects ------------------------------------------------------------------------------------------------------ */

struct hpl_p11_name {
    char label[HPL_P11_LABEL_MAX + 1];
    uint8_t id[HPL_P11_ID_LEN];
};

void hpl_p11_key_init(struct hpl_p11_key *key, const uint8_t id[static HPL_P11_ID_LEN], const char *label);
/* The device's entry for a key version, made at first use; NULL when memory is out. Lives as long as the device. */
struct hpl_p11_key *hpl_p11_key_of(struct hpl_p11_direct *direct, const struct hpl_p11_ref *ref);
void hpl_p11_keys_free(struct hpl_p11_direct *direct);
/* What an object of the key is called in the token. */
void hpl_p11_name_of(const struct hpl_p11_key *key, enum hpl_p11_kind kind, struct hpl_p11_name *out);
/* How many objects answer to it: 0, 1, or 2 for more than one. */
enum hpl_status hpl_p11_find(struct hpl_p11_op *op, const struct hpl_p11_key *key, enum hpl_p11_kind kind, CK_OBJECT_HANDLE *handle,
                             unsigned *count) HPL_MUST_USE;
/* Its handles for the kinds, a bit each: from the cache, or found, checked and cached. check: see struct hpl_p11_ref; may be NULL. */
enum hpl_status hpl_p11_handles(struct hpl_p11_op *op, struct hpl_p11_key *key, unsigned kinds, const struct hpl_wrapped *check,
                                CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS]) HPL_MUST_USE;
/* A handle of this epoch. Under the key's lock. */
void hpl_p11_remember(struct hpl_p11_op *op, struct hpl_p11_key *key, enum hpl_p11_kind kind, CK_OBJECT_HANDLE handle);
/* Makes the objects that the device's tier needs, those that are not there; under the creation lock. */
enum hpl_status hpl_p11_create(struct hpl_p11_op *op, struct hpl_p11_key *key) HPL_MUST_USE;
enum hpl_status hpl_p11_destroy(struct hpl_p11_op *op, struct hpl_p11_key *key) HPL_MUST_USE;

/* --- make.c: templates ------------------------------------------------------------------------------------------------------------ */

/* Makes one object (both of a pair) on the token, remembers its handle and sets its bit in *made. */
enum hpl_status hpl_p11_make(struct hpl_p11_op *op, struct hpl_p11_key *key, enum hpl_p11_kind kind, unsigned *made) HPL_MUST_USE;
/* Throw-away objects for a trial of the tier. *was_made false: the token makes no such objects. */
enum hpl_status hpl_p11_make_trial(struct hpl_p11_op *op, const struct hpl_p11_tier *tier,
                                   CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS], bool *was_made) HPL_MUST_USE;
enum hpl_status hpl_p11_destroy_trial(struct hpl_p11_op *op, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS]) HPL_MUST_USE;

/* --- survey.c: see device.h -------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_p11_survey(struct hpl_p11_op *op, struct hpl_bytes known, struct hpl_p11_orphans *out) HPL_MUST_USE;

/* --- canary.c: does the token still work, and is it still the same ------------------------------------------------------------------ */

void hpl_p11_canary_init(struct hpl_p11_direct *direct);
/* Makes canary and MAC key in a new token, or holds a known one against what is pinned of it. */
struct hpl_p11_settle {
    bool is_known;
    struct hpl_p11_pinned *pinned;
};
enum hpl_status hpl_p11_settle_op(struct hpl_p11_op *op, void *settle) HPL_MUST_USE;
/* Decrypts the canary's known answer. */
enum hpl_status hpl_p11_canary_op(struct hpl_p11_op *op, void *unused) HPL_MUST_USE;
/* HPL_OK: it sings in this generation, or did less than 200 ms ago. HPL_KEY_UNAVAILABLE: it is silent, or that generation is past, which
 * nobody asks then. One thread at a time asks the token: HPL_TIMEOUT for who could not wait for its answer. Outside enter and leave. */
enum hpl_status hpl_p11_canary_verdict(struct hpl_p11_direct *direct, struct hpl_call *call, uint64_t generation) HPL_MUST_USE;

#endif
