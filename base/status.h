/* Results and their detail. What can fail returns enum hpl_status, which must be used; the detail a
 * person needs travels with the call, never with the thread, because requests change threads. */
#ifndef HPL_BASE_STATUS_H
#define HPL_BASE_STATUS_H

#include <stdbool.h>
#include "base/check.h"

enum hpl_status {
#define HPL_STATUS(name, class, khttp, kcode, shttp, scode, retry, text) HPL_##name,
#include "base/status.def"
#undef HPL_STATUS
    HPL_NUM_STATUSES
};

enum hpl_status_class {
    HPL_CLASS_O, HPL_CLASS_C, HPL_CLASS_A, HPL_CLASS_N, HPL_CLASS_S, HPL_CLASS_U, HPL_CLASS_I
};

struct hpl_status_row {
    const char *name;
    enum hpl_status_class class;
    int kms_http;
    const char *kms_code;
    int s3_http;
    const char *s3_code;
    bool can_retry;
    const char *text;
};

/* The row of a status; never NULL. Any thread. */
const struct hpl_status_row *hpl_status_row(enum hpl_status status);

/* One request, or one piece of background work, as it passes through the layers. The caller owns it;
 * one thread at a time. Zero-initialised it has no deadline and no detail. */
struct hpl_call {
    uint64_t deadline_ns;   /* hpl_clock_mono_ns() after which work is given up; 0: none */
    char request_id[17];    /* 16 hex digits, for logs and answers */
    const char *principal;  /* access key of who asks, the caller's storage; NULL: the daemon itself */
    const char *role;       /* "admin" or "objects", with principal */
    unsigned retry_after_s; /* when it is worth to ask again, with a failure that may pass; 0: not known */
    bool must_not_wait;     /* on an event loop: what would block returns HPL_WOULD_WAIT instead, and has changed nothing */
    char detail[240];       /* one sentence: what was wrong, where, what to do. Never a secret. */
};

/* Writes the detail (if call is not NULL and holds none yet: the first, deepest one wins) and returns
 * status, so that a failure is one line: return hpl_fail(call, HPL_NO_SUCH_KEY, "no key '%s'", id); */
enum hpl_status hpl_fail(struct hpl_call *call, enum hpl_status status, const char *fmt, ...)
    HPL_PRINTF(3, 4);

/* As hpl_fail, but replaces what is there: for a layer that knows better. */
enum hpl_status hpl_fail_over(struct hpl_call *call, enum hpl_status status, const char *fmt, ...)
    HPL_PRINTF(3, 4);

/* The detail, or the status's own text where there is none. */
const char *hpl_detail(const struct hpl_call *call, enum hpl_status status);

/* Starts a call: a fresh request id, a deadline timeout_ms from now (0: none). */
void hpl_call_init(struct hpl_call *call, uint64_t timeout_ms);

/* HPL_TIMEOUT once the deadline has passed, else HPL_OK. */
enum hpl_status hpl_call_check(struct hpl_call *call) HPL_MUST_USE;

/* Returns early from the calling function when the expression is not HPL_OK. */
#define HPL_TRY(expression)                                                                        \
    do {                                                                                           \
        enum hpl_status hpl_try_status_ = (expression);                                            \
        if (hpl_try_status_ != HPL_OK)                                                             \
            return hpl_try_status_;                                                                \
    } while (0)

#endif
