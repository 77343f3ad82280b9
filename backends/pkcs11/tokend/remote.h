/* What remote.c (the callers' side) and supervisor.c (the worker's keeper) share of one device. */
#ifndef HPL_BACKENDS_PKCS11_TOKEND_REMOTE_H
#define HPL_BACKENDS_PKCS11_TOKEND_REMOTE_H

#include <pthread.h>

#include "backends/pkcs11/tokend/proto.h"
#include "backends/pkcs11/tokend/spawn.h"

#define HPL_REMOTE_MAX_IN_FLIGHT 128u
#define HPL_REMOTE_ANSWER_MAX 1024u

enum hpl_remote_state {
    HPL_REMOTE_STARTING, /* for the first time */
    HPL_REMOTE_UP,       /* requests may go out */
    HPL_REMOTE_AWAY,     /* the worker died and is started again */
    HPL_REMOTE_REFUSED   /* it is not started again: why, detail */
};

struct hpl_remote_answer {
    enum hpl_status status;
    struct hpl_secret *secret; /* of operations that give one */
    size_t len;
    uint8_t body[HPL_REMOTE_ANSWER_MAX];
};

enum hpl_remote_use { HPL_REMOTE_FREE, HPL_REMOTE_WAITING, HPL_REMOTE_ANSWERED, HPL_REMOTE_ABANDONED };

/* One request in flight. Whoever waits for it and the supervisor change it under the remote's lock. */
struct hpl_remote_slot {
    enum hpl_remote_use use;
    uint32_t id; /* the slot's number in the low byte, so that a late answer finds another id */
    uint8_t op;
    uint64_t sent_ns;
    pthread_cond_t done;
    struct hpl_remote_answer answer;
};

struct hpl_p11_remote {
    struct hpl_p11_device base;
    const struct hpl_p11_place *place;
    const struct hpl_tokend_option *option;
    pid_t owner;
    pthread_t supervisor;

    pthread_mutex_t send_lock; /* one frame at a time; taken before lock */
    pthread_mutex_t lock;      /* all below */
    pthread_cond_t changed;    /* state, is_closing, a slot became free */
    enum hpl_remote_state state;
    bool is_closing;
    enum hpl_status why; /* not up: the reason */
    char detail[240];
    struct hpl_tokend_child child;
    uint64_t connection; /* counts workers; changed under both locks */
    uint64_t restarts, next_start_ns;
    unsigned failures;
    bool has_served;      /* this worker answered a call well */
    bool was_pin_refused; /* the last thing it said of the PIN */
    bool has_facts, is_settled;
    bool is_latched, has_failed; /* as in struct hpl_p11_stat; they outlive a worker */
    struct hpl_p11_pinned pinned;
    struct hpl_p11_stat last_stat;
    uint32_t next_id;
    struct hpl_remote_slot slots[HPL_REMOTE_MAX_IN_FLIGHT];
};

/* The supervisor's thread, until is_closing. */
void *hpl_remote_supervise(void *remote);

#endif
