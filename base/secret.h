/* Secret memory: one region, mapped once, hidden from the kernel too where it can be (memfd_secret), otherwise locked
 * and left out of core dumps; gone in a forked child; with guard pages at both ends and a canary behind every secret. Key bytes live here, in an expanded key that
 * lives here, or in a token; nowhere else. */
#ifndef HPL_BASE_SECRET_H
#define HPL_BASE_SECRET_H

#include "base/status.h"

#define HPL_SECRET_MAX 32768u

/* A secret of fixed length. bytes is 64-byte aligned. Reading and writing are the owner's to order. */
struct hpl_secret {
    uint32_t magic;
    uint32_t len;
    uint8_t *bytes;
};

enum hpl_secret_policy {
    HPL_SECRET_MUST_LOCK,  /* fail when the region cannot be locked (the daemon) */
    HPL_SECRET_MAY_SWAP    /* go on, hpl_secret_is_locked() tells (a guest in another's process, tools) */
};

/* Maps the region; size is rounded up to pages. Called once, before threads; a second call only checks the policy.
 * Without it the first hpl_secret_new maps 1 MiB under HPL_SECRET_MAY_SWAP.
 * HPL_UNAVAILABLE with a detail that names RLIMIT_MEMLOCK when locking is refused. */
enum hpl_status hpl_secret_init(struct hpl_call *call, size_t size, enum hpl_secret_policy policy) HPL_MUST_USE;
bool hpl_secret_is_locked(void);
bool hpl_secret_must_lock(void); /* this process was told HPL_SECRET_MUST_LOCK: other memory for what keys tell keeps to it too */
size_t hpl_secret_in_use(void); /* bytes handed out, for metrics and leak tests */

/* A zeroed secret of len bytes (1 to HPL_SECRET_MAX); NULL when the region is full. Any thread. */
struct hpl_secret *hpl_secret_new(size_t len) HPL_MUST_USE;
/* A copy of len bytes; the caller still has to wipe its own. NULL when the region is full. */
struct hpl_secret *hpl_secret_from(const void *bytes, size_t len) HPL_MUST_USE;
struct hpl_secret *hpl_secret_random(size_t len) HPL_MUST_USE;
/* Random bytes for salts, nonces and keys, by OpenSSL's private generator (SP 800-90A): small amounts out of a stock of the thread's own in secret memory,
 * each byte given once and wiped there. False where there are none. Ends the process in a child of fork. Any thread. */
bool hpl_random(void *out, size_t len) HPL_MUST_USE;
/* Wipes and gives back. NULL is fine. A broken canary ends the process. */
void hpl_secret_free(struct hpl_secret *secret);
/* Ends the process when this is not a live secret of this process (freed, overrun, or inherited by fork). */
void hpl_secret_check(const struct hpl_secret *secret);

static inline void hpl_secret_freep(struct hpl_secret **secret)
{
    hpl_secret_free(*secret);
    *secret = NULL;
}
/* struct hpl_secret *HPL_SECRET_AUTO key = NULL; wiped on every path. */
#define HPL_SECRET_AUTO HPL_CLEANUP(hpl_secret_freep)

/* Wipes caller's storage; the compiler cannot remove it. */
void hpl_wipe(void *data, size_t len);

#endif
