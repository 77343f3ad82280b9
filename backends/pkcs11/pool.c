/* Sessions of one device on its token: an anchor that keeps the login, and a bounded number that work. Any thread. An operation
 * that failed after it was started may leave its session busy for ever (CKR_OPERATION_ACTIVE), so such a session is closed. */
#include "backends/pkcs11/internal.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"

#define WAIT_MS 2000u
#define GROW_MS 2000u /* after which a token that was out of sessions is asked for more again */

void hpl_p11_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

void hpl_p11_pool_init(struct hpl_p11_pool *pool)
{
    pthread_mutex_init(&pool->lock, NULL);
    hpl_p11_cond_init(&pool->changed);
}

/* SoftHSM gains nothing from many; a network HSM likes 16 to 30. Two are left: the anchor, and one for trials and the canary. */
static unsigned size_of(const struct hpl_p11_token *token, unsigned wanted)
{
    CK_ULONG limit = token->max_rw_sessions;
    unsigned size = wanted ? wanted : strncmp(token->facts.manufacturer, "SoftHSM", 7) == 0 ? 4 : 16;
    if (limit != CK_UNAVAILABLE_INFORMATION && limit != CK_EFFECTIVELY_INFINITE && size + 2 > limit)
        size = limit > 3 ? (unsigned)limit - 2 : 1;
    return size < HPL_P11_MAX_SESSIONS ? size : HPL_P11_MAX_SESSIONS;
}

static void forget(struct hpl_p11_pool *pool)
{
    while (pool->num_idle)
        free(pool->idle[--pool->num_idle]);
    pool->num_open = 0;
    pool->has_anchor = false;
}

static void close_all(struct hpl_p11_pool *pool)
{
    for (unsigned i = 0; i < pool->num_idle; i++)
        pool->fn->C_CloseSession(pool->idle[i]->handle);
    if (pool->has_anchor)
        pool->fn->C_CloseSession(pool->anchor);
}

/* The lock is not held over the token: status takes it. Nobody else is here, for who connects is alone and nothing is checked out. */
enum hpl_status hpl_p11_pool_open(struct hpl_p11_pool *pool, struct hpl_call *call, const struct hpl_p11_token *token, unsigned wanted, uint64_t generation,
                                  uint64_t open_since)
{
    CK_SESSION_HANDLE anchor = 0;
    if (pool->generation >= open_since)
        close_all(pool);
    CK_RV rv = token->fn->C_OpenSession(token->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &anchor);
    pthread_mutex_lock(&pool->lock);
    forget(pool);
    pool->generation = generation;
    pool->fn = token->fn;
    pool->slot = token->slot;
    pool->max = pool->wanted = size_of(token, wanted);
    pool->anchor = anchor;
    pool->has_anchor = rv == CKR_OK;
    pthread_mutex_unlock(&pool->lock);
    return rv == CKR_OK ? HPL_OK : hpl_p11_fail(call, "C_OpenSession", rv);
}

void hpl_p11_pool_close(struct hpl_p11_pool *pool, bool is_alive)
{
    if (is_alive)
        close_all(pool);
    forget(pool);
    pthread_cond_destroy(&pool->changed);
    pthread_mutex_destroy(&pool->lock);
}

/* An idle session, or NULL with the right to open one (num_open counts it already). Under the lock. */
static enum hpl_status reserve(struct hpl_p11_pool *pool, struct hpl_call *call, struct hpl_p11_session **out)
{
    uint64_t now = hpl_clock_mono_ns(), until_ns = now + WAIT_MS * 1000000u;
    if (now >= pool->grow_at_ns)
        pool->max = pool->wanted;
    if (call->deadline_ns && call->deadline_ns < until_ns)
        until_ns = call->deadline_ns;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    while (pool->num_idle == 0 && pool->num_open >= pool->max)
        if (pthread_cond_timedwait(&pool->changed, &pool->lock, &until) == ETIMEDOUT)
            return hpl_fail(call, HPL_TIMEOUT, "all %u sessions of the token are busy", pool->max);
    *out = pool->num_idle ? pool->idle[--pool->num_idle] : NULL;
    pool->num_open += !*out;
    return HPL_OK;
}

static void give_up(struct hpl_p11_pool *pool)
{
    pool->num_open--;
    pthread_cond_signal(&pool->changed);
}

/* Opens the reserved session. A token that is out of sessions makes the pool smaller for a while, as long as some are open. */
static enum hpl_status open_one(struct hpl_p11_op *op, struct hpl_p11_pool *pool, bool *is_full)
{
    struct hpl_p11_session *session = calloc(1, sizeof *session);
    CK_RV rv = session ? pool->fn->C_OpenSession(pool->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session->handle) : CKR_HOST_MEMORY;
    if (rv == CKR_OK) {
        op->session = session;
        return HPL_OK;
    }
    free(session);
    pthread_mutex_lock(&pool->lock);
    give_up(pool);
    *is_full = hpl_p11_classify(rv) == HPL_P11_LOAD && pool->num_open > 0;
    if (*is_full) {
        pool->max = pool->num_open;
        pool->grow_at_ns = hpl_clock_mono_ns() + GROW_MS * 1000000u;
    }
    pthread_mutex_unlock(&pool->lock);
    return *is_full ? HPL_OK : hpl_p11_check(op, "C_OpenSession", rv);
}

enum hpl_status hpl_p11_checkout(struct hpl_p11_op *op)
{
    struct hpl_p11_pool *pool = &op->direct->pool;
    bool is_full = false;
    do {
        pthread_mutex_lock(&pool->lock);
        enum hpl_status status = reserve(pool, op->call, &op->session);
        pthread_mutex_unlock(&pool->lock);
        HPL_TRY(status);
        if (!op->session)
            HPL_TRY(open_one(op, pool, &is_full));
    } while (!op->session);
    op->fn = pool->fn;
    op->handle = op->session->handle;
    return HPL_OK;
}

/* A token that lost one session often lost them all; a second try must not meet another of those. */
static void drop_idle(struct hpl_p11_pool *pool)
{
    struct hpl_p11_session *dropped[HPL_P11_MAX_SESSIONS];
    pthread_mutex_lock(&pool->lock);
    unsigned num = pool->num_idle;
    memcpy(dropped, pool->idle, num * sizeof *dropped);
    pool->num_idle = 0;
    pthread_mutex_unlock(&pool->lock);
    for (unsigned i = 0; i < num; i++) {
        pool->fn->C_CloseSession(dropped[i]->handle);
        free(dropped[i]);
    }
    pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < num; i++)
        give_up(pool);
    pthread_mutex_unlock(&pool->lock);
}

void hpl_p11_checkin(struct hpl_p11_op *op)
{
    struct hpl_p11_pool *pool = &op->direct->pool;
    if (!op->session)
        return;
    bool is_clean = op->class == HPL_P11_NONE || op->class == HPL_P11_ABSENT;
    if (!is_clean) {
        pool->fn->C_CloseSession(op->handle);
        free(op->session);
    }
    pthread_mutex_lock(&pool->lock);
    if (is_clean) {
        pool->idle[pool->num_idle++] = op->session;
        pthread_cond_signal(&pool->changed);
    } else
        give_up(pool);
    pthread_mutex_unlock(&pool->lock);
    if (op->class == HPL_P11_SESSION)
        drop_idle(pool);
    op->session = NULL;
}
