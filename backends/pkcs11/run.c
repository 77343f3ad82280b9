/* One operation in the token: connected, in a session of its own, retried at most once, and what a failure means for the rest. Any
 * thread; blocks. The states: connected (generation is the module's), suspect (a canary failed in this generation). The next call
 * then restarts the module and connects anew, with a growing pause between attempts. Nothing here ever logs out. */
#include "backends/pkcs11/internal.h"

#include <errno.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "base/log.h"

#define BACKOFF_MIN_MS 250u
/* With a fifth more it stays below the least pause of the service's breaker, whose probes must not be turned away: a token that is
 * back is READY within five seconds. */
#define BACKOFF_MAX_MS 1600u
#define CONNECT_MS 10000u

enum hpl_status hpl_p11_check(struct hpl_p11_op *op, const char *function, CK_RV rv)
{
    if (rv == CKR_OK)
        return HPL_OK;
    if (op->class == HPL_P11_NONE)
        op->class = hpl_p11_classify(rv);
    return hpl_p11_fail(op->call, function, rv);
}

/* --- connecting ------------------------------------------------------------------------------------------------------------------ */

static bool is_connected(const struct hpl_p11_direct *direct, uint64_t generation)
{
    return atomic_load(&direct->generation) == generation && atomic_load(&direct->suspect) != generation;
}

/* The next attempt comes after 250 ms, doubled each time up to 1.6 s, give or take a fifth. */
static void note_attempt(struct hpl_p11_direct *direct, bool is_well)
{
    uint8_t jitter = 0;
    uint64_t pause_ms = BACKOFF_MIN_MS << (direct->failures < 8 ? direct->failures : 8);
    pause_ms = pause_ms < BACKOFF_MAX_MS ? pause_ms : BACKOFF_MAX_MS;
    if (RAND_bytes(&jitter, 1) != 1)
        jitter = 128;
    pause_ms = pause_ms * (820u + 360u * jitter / 255u) / 1000u;
    direct->failures = is_well ? 0 : direct->failures + 1;
    direct->next_attempt_ns = is_well ? 0 : hpl_clock_mono_ns() + pause_ms * 1000000u;
}

static enum hpl_status same_token(struct hpl_p11_direct *direct, struct hpl_call *call, const struct hpl_p11_token *found)
{
    struct hpl_p11_token *known = &direct->token;
    const char *only = direct->place->known_id;
    if (only && strcmp(only, found->facts.id) != 0)
        return hpl_fail(call, HPL_INTEGRITY, "the token '%s' with serial %s is not the one that was used so far: put that back, or name this one by serial= in the URI of '%s'",
                        found->facts.label, found->facts.serial, direct->place->option->name);
    if (!known->facts.id[0])
        *known = *found;
    if (strcmp(known->facts.id, found->facts.id) != 0)
        return hpl_fail(call, HPL_INTEGRITY, "the token in place of '%s' is another one (serial %s, not %s)", known->facts.label, found->facts.serial, known->facts.serial);
    known->fn = found->fn; /* the slot's number may be another now */
    known->slot = found->slot;
    known->max_rw_sessions = found->max_rw_sessions;
    return HPL_OK;
}

/* In a module that was just entered, with no other operation of this device in flight. */
static enum hpl_status attach(struct hpl_p11_direct *direct, struct hpl_call *call, uint64_t generation)
{
    struct hpl_p11_token found;
    struct hpl_p11_login login = {.token = &direct->token, .place = direct->place};
    HPL_TRY(hpl_p11_token_find(call, direct->module, direct->place->option->uri, &found));
    HPL_TRY(same_token(direct, call, &found));
    HPL_TRY(hpl_p11_pool_open(&direct->pool, call, &direct->token, direct->place->option->max_sessions, generation,
                              hpl_p11_module_open_since(direct->module)));
    atomic_fetch_add(&direct->epoch, 1);
    return hpl_p11_login(call, &login, direct->pool.anchor);
}

/* After the first time the canary has to sing before anybody else may come in. */
static enum hpl_status prove(struct hpl_p11_direct *direct, struct hpl_call *call, uint64_t generation)
{
    struct hpl_p11_op op = {.direct = direct, .call = call, .generation = generation, .epoch = atomic_load(&direct->epoch)};
    if (!direct->is_settled)
        return HPL_OK;
    enum hpl_status status = hpl_p11_checkout(&op);
    if (status == HPL_OK)
        status = hpl_p11_canary_op(&op, NULL);
    hpl_p11_checkin(&op);
    return status;
}

static enum hpl_status attach_in(struct hpl_p11_direct *direct, struct hpl_call *call)
{
    uint64_t generation;
    HPL_TRY(hpl_p11_module_enter(direct->module, call, &generation));
    enum hpl_status status = attach(direct, call, generation);
    if (status == HPL_OK)
        status = prove(direct, call, generation);
    if (status == HPL_OK)
        atomic_store(&direct->generation, generation);
    else {
        atomic_store(&direct->generation, 0);
        if (status != HPL_PIN_REJECTED) /* which no restart mends */
            atomic_store(&direct->suspect, generation);
    }
    hpl_p11_module_leave(direct->module);
    return status;
}

/* A module restarted by another device only needs attaching; a suspect one a restart of its own. */
static enum hpl_status reconnect(struct hpl_p11_direct *direct, struct hpl_call *call)
{
    uint64_t generation = hpl_p11_module_generation(direct->module), now = hpl_clock_mono_ns();
    if (is_connected(direct, generation))
        return HPL_OK;
    if (now < direct->next_attempt_ns)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the token is away; it is tried again in %u ms", (unsigned)((direct->next_attempt_ns - now) / 1000000u));
    enum hpl_status status = HPL_OK;
    if (atomic_load(&direct->suspect) == generation)
        status = hpl_p11_module_restart(direct->module, call, generation);
    if (status != HPL_OK)
        atomic_store(&direct->suspect, hpl_p11_module_generation(direct->module));
    if (status == HPL_OK)
        status = attach_in(direct, call);
    note_attempt(direct, status == HPL_OK);
    hpl_log(status == HPL_OK ? HPL_LOG_INFO : HPL_LOG_ERROR, status == HPL_OK ? "pkcs11.connected" : "pkcs11.not_connected",
            HPL_S("token", direct->place->option->name), HPL_S("why", status == HPL_OK ? "" : hpl_detail(call, status)));
    return status;
}

/* Takes the right to connect; false once the deadline has passed. Under connect_lock. */
static bool claim(struct hpl_p11_direct *direct, uint64_t deadline_ns)
{
    uint64_t until_ns = hpl_clock_mono_ns() + CONNECT_MS * 1000000ull;
    if (deadline_ns && deadline_ns < until_ns)
        until_ns = deadline_ns;
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    while (direct->is_connecting)
        if (pthread_cond_timedwait(&direct->connect_done, &direct->connect_lock, &until) == ETIMEDOUT)
            return false;
    return direct->is_connecting = true;
}

enum hpl_status hpl_p11_connect(struct hpl_p11_direct *direct, struct hpl_call *call)
{
    pthread_mutex_lock(&direct->connect_lock);
    bool is_ours = claim(direct, call->deadline_ns);
    pthread_mutex_unlock(&direct->connect_lock);
    if (!is_ours)
        return hpl_fail(call, HPL_TIMEOUT, "the token is being connected again");
    enum hpl_status status = reconnect(direct, call);
    pthread_mutex_lock(&direct->connect_lock);
    direct->is_connecting = false;
    pthread_cond_broadcast(&direct->connect_done);
    pthread_mutex_unlock(&direct->connect_lock);
    return status;
}

/* --- running --------------------------------------------------------------------------------------------------------------------- */

static enum hpl_status enter(struct hpl_p11_op *op)
{
    struct hpl_p11_direct *direct = op->direct;
    HPL_TRY(hpl_call_check(op->call));
    if (atomic_load(&direct->has_failed))
        return hpl_fail(op->call, HPL_INTEGRITY, "token '%s' answered with another key than was asked for: it is not used until it is put right and opened anew",
                        direct->token.facts.label);
    for (unsigned attempt = 0; attempt < 4; attempt++) {
        HPL_TRY(hpl_p11_module_enter(direct->module, op->call, &op->generation));
        if (is_connected(direct, op->generation))
            return HPL_OK;
        hpl_p11_module_leave(direct->module);
        HPL_TRY(hpl_p11_connect(direct, op->call));
    }
    return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "the token comes and goes");
}

static enum hpl_status log_in_again(struct hpl_p11_op *op)
{
    struct hpl_p11_direct *direct = op->direct;
    struct hpl_p11_login login = {.token = &direct->token, .place = direct->place};
    op->call->detail[0] = '\0';
    HPL_TRY(enter(op));
    enum hpl_status status = hpl_p11_login(op->call, &login, direct->pool.anchor);
    hpl_p11_module_leave(direct->module);
    return status;
}

/* A trouble of an earlier generation says nothing of this one. */
static void suspect(struct hpl_p11_op *op, enum hpl_status status)
{
    struct hpl_p11_direct *direct = op->direct;
    uint64_t was = atomic_load(&direct->suspect);
    if (was < op->generation && atomic_compare_exchange_strong(&direct->suspect, &was, op->generation))
        hpl_log(HPL_LOG_ERROR, "pkcs11.suspect", HPL_S("token", direct->place->option->name), HPL_S("why", hpl_detail(op->call, status)));
}

/* Asks the canary whether it was the token. */
static bool was_the_token(struct hpl_p11_op *op, enum hpl_status *status)
{
    struct hpl_call asking = {.deadline_ns = op->call->deadline_ns};
    enum hpl_status verdict = hpl_p11_canary_verdict(op->direct, &asking, op->generation);
    if (verdict == HPL_OK)
        return false;
    if (verdict == HPL_KEY_UNAVAILABLE)
        suspect(op, *status);
    *status = hpl_fail(op->call, verdict, "the token does not answer its canary");
    return true;
}

static void judge(struct hpl_p11_op *op, enum hpl_status *status)
{
    if (was_the_token(op, status))
        return;
    if (op->class == HPL_P11_MISMATCH) {
        atomic_store(&op->direct->has_failed, true);
        hpl_log(HPL_LOG_ERROR, "pkcs11.failed_integrity", HPL_S("token", op->direct->place->option->name), HPL_S("why", hpl_detail(op->call, *status)));
    } else if (op->class == HPL_P11_AMBIGUOUS) {
        op->call->detail[0] = '\0';
        *status = HPL_INVALID_CIPHERTEXT;
    }
}

/* True when another run may help; before is what the run before this one met. */
static bool recover(struct hpl_p11_op *op, enum hpl_p11_class before, enum hpl_status *status)
{
    bool is_first = before == HPL_P11_NONE;
    uint64_t epoch = op->epoch;
    switch (op->class) {
    case HPL_P11_SESSION:
        if (is_first)
            return true;
        break;
    case HPL_P11_HANDLE:
        atomic_compare_exchange_strong(&op->direct->epoch, &epoch, epoch + 1);
        if (is_first)
            return true;
        break;
    case HPL_P11_LOGIN:
        atomic_compare_exchange_strong(&op->direct->epoch, &epoch, epoch + 1);
        if (is_first && (*status = log_in_again(op)) == HPL_OK)
            return true;
        if (*status == HPL_PIN_REJECTED)
            return false;
        break; /* the session that keeps the login may be gone too */
    case HPL_P11_MISMATCH: /* once may be a moment's fault; a wrong key is wrong twice running */
        if (before != HPL_P11_MISMATCH)
            return true;
        break;
    case HPL_P11_DEVICE:
    case HPL_P11_AMBIGUOUS:
    case HPL_P11_ABSENT:
        break;
    default:
        return false;
    }
    judge(op, status);
    return false;
}

enum hpl_status hpl_p11_run(struct hpl_p11_direct *direct, struct hpl_call *call, hpl_p11_op_fn fn, void *arg)
{
    for (enum hpl_p11_class before = HPL_P11_NONE;;) {
        struct hpl_p11_op op = {.direct = direct, .call = call};
        HPL_TRY(enter(&op));
        op.epoch = atomic_load(&direct->epoch);
        enum hpl_status status = hpl_p11_checkout(&op);
        if (status == HPL_OK)
            status = fn(&op, arg);
        hpl_p11_checkin(&op);
        hpl_p11_module_leave(direct->module);
        if (status == HPL_OK || op.class == HPL_P11_NONE || !recover(&op, before, &status))
            return status;
        before = op.class;
        call->detail[0] = '\0';
    }
}
