/* The gate in front of one opened keystore: how many callers may wait in it at once, and none but a probe while it does not answer. Any thread;
 * a lock of its own, never held over a backend call. */
#ifndef HPL_KMS_BREAKER_H
#define HPL_KMS_BREAKER_H

#include <pthread.h>

#include "kms/keystore.h"

enum hpl_breaker_state { HPL_BREAKER_CLOSED, HPL_BREAKER_OPEN, HPL_BREAKER_HALF_OPEN };

struct hpl_breaker {
    pthread_mutex_t lock;
    enum hpl_breaker_state state;
    bool is_probing;              /* by one thread at a time */
    unsigned failures;            /* one after the other */
    unsigned openings;            /* one after the other: the pause grows with them */
    uint64_t open_until_ns;
    unsigned inside, wrapping;    /* callers in the backend now; how many of them are no decrypts */
    uint64_t num_opened, num_refused, num_turned_away; /* since it was made: openings, calls refused while open, calls refused because it was full */
};

void hpl_breaker_init(struct hpl_breaker *breaker);
void hpl_breaker_wipe(struct hpl_breaker *breaker);

/* Whether a failure tells of the backend and not of what was asked of it. */
bool hpl_breaker_is_outage(enum hpl_status status);

/* What a call is about. Reading what is known of a key takes no room, as it comes before a use that does; and its success says nothing of uses: records may be
 * read while keys cannot be used. */
enum hpl_breaker_use { HPL_BREAKER_WRAP, HPL_BREAKER_DECRYPT, HPL_BREAKER_READING };

/* Lets the caller in, who then leaves with what came of it. HPL_SLOW_DOWN when limit callers are inside; a quarter of them is kept for decrypts.
 * HPL_KEY_UNAVAILABLE while it is open, with call->retry_after_s. *must_probe: the pause is over, the caller is the one to probe first. */
enum hpl_status hpl_breaker_enter(struct hpl_breaker *breaker, struct hpl_call *call, unsigned limit, enum hpl_breaker_use use, bool *must_probe) HPL_MUST_USE;
/* True: so many failed in a row that the caller is to probe now whether it is the backend. */
bool hpl_breaker_leave(struct hpl_breaker *breaker, enum hpl_breaker_use use, enum hpl_status status) HPL_MUST_USE;

/* True: the caller is to probe now; false: it is known to be open, or somebody is about to find out. */
bool hpl_breaker_suspect(struct hpl_breaker *breaker);
/* What the probe said. True: it opened by this; what is cached of it is to be given up. */
bool hpl_breaker_probed(struct hpl_breaker *breaker, enum hpl_status status);

bool hpl_breaker_is_open(struct hpl_breaker *breaker);
/* "breaker", "breaker_opened", … : members for the status answer. */
void hpl_breaker_describe(struct hpl_breaker *breaker, json_t *into);

#endif
