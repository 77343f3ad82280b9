/* The keeper of one worker: starts it, hands its answers to who waits, ends it when a call hangs in it, buries it and starts the next.
 * One thread a device; it never waits for a lock that is held across the token's work. */
#include "backends/pkcs11/tokend/remote.h"

#include <stdio.h>
#include <sys/socket.h>
#include <openssl/rand.h>

#include "backends/pkcs11/tokend/channel.h"
#include "base/clock.h"
#include "base/log.h"

#define WATCHDOG_MS 10000u
#define START_MS 60000u      /* loading, logging in and, for RSA-OAEP, a key pair to try may take an HSM a while */
#define MAKING_TIMES 6u      /* an HSM may be as much slower at making a key pair than at using a key */
#define TICK_MS 500u         /* how often the watchdog looks */
#define PATIENCE_MS 2500u    /* for a worker that closes the token by itself */
#define BACKOFF_MIN_MS 250u
#define BACKOFF_MAX_MS 1600u /* as of a token (run.c) */

static uint64_t watchdog_ns(const struct hpl_p11_remote *remote)
{
    return (remote->option->watchdog_ms ? remote->option->watchdog_ms : WATCHDOG_MS) * 1000000ull;
}

/* --- starting ------------------------------------------------------------------------------------------------------------------------- */

/* One request and its answer before others may send. */
static enum hpl_status exchange(struct hpl_p11_remote *remote, struct hpl_call *call, uint8_t op, struct hpl_bytes first, struct hpl_bytes second,
                                struct hpl_remote_answer *out)
{
    uint8_t head[HPL_TOKEND_HEADER_LEN];
    struct hpl_tokend_header header = {.len = (uint32_t)(first.len + second.len), .op = op, .deadline_ns = call->deadline_ns};
    int fd = remote->child.fd;
    if (!hpl_tokend_send(fd, &header, first, second, call->deadline_ns) || !hpl_tokend_receive(fd, head, sizeof head, call->deadline_ns))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "it ended before it had opened the token");
    if (!hpl_tokend_read_answer(head, &header) || header.op != op || header.id || header.len > sizeof out->body)
        return hpl_fail(call, HPL_BACKEND, "it answered what cannot be");
    if (!hpl_tokend_receive(fd, out->body, header.len, call->deadline_ns))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "it ended before it had opened the token");
    out->len = header.len;
    if (header.status != HPL_OK)
        hpl_tokend_read_detail(hpl_bytes(out->body, out->len), call);
    return header.status;
}

static enum hpl_status same_token(struct hpl_p11_remote *remote, struct hpl_call *call, const struct hpl_p11_facts *found)
{
    struct hpl_p11_facts *known = &remote->base.facts;
    if (!remote->has_facts)
        *known = *found;
    remote->has_facts = true;
    if (strcmp(known->id, found->id) != 0)
        return hpl_fail(call, HPL_INTEGRITY, "the token in place of '%s' is another one (serial %s, not %s)", known->label, found->serial, known->serial);
    if (known->mechanism != found->mechanism || known->iv_mode != found->iv_mode)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' now shows IV mode '%s', not '%s'", known->label,
                        hpl_p11_iv_mode_name(found->iv_mode), hpl_p11_iv_mode_name(known->iv_mode));
    return HPL_OK;
}

static enum hpl_status greet(struct hpl_p11_remote *remote, struct hpl_call *call)
{
    const struct hpl_p11_place *place = remote->place;
    struct hpl_remote_answer answer;
    struct hpl_p11_facts found;
    struct hpl_buf body = {0};
    hpl_tokend_put_hello(&body, place->option, place->latch_dir, place->known_id);
    enum hpl_status status = hpl_buf_check(&body);
    if (status == HPL_OK)
        status = exchange(remote, call, HPL_TOKEND_HELLO, hpl_buf_bytes(&body), hpl_bytes(place->latch_key->bytes, place->latch_key->len), &answer);
    hpl_buf_wipe(&body);
    HPL_TRY(status);
    if (!hpl_tokend_read_welcome(hpl_bytes(answer.body, answer.len), &found))
        return hpl_fail(call, HPL_BACKEND, "it answered what cannot be");
    return same_token(remote, call, &found);
}

/* The next worker must find the token as the first one did. */
static enum hpl_status settle_again(struct hpl_p11_remote *remote, struct hpl_call *call)
{
    struct hpl_remote_answer answer;
    struct hpl_buf body = {0};
    hpl_tokend_put_settle(&body, true, &remote->pinned);
    enum hpl_status status = hpl_buf_check(&body);
    if (status == HPL_OK)
        status = exchange(remote, call, HPL_TOKEND_SETTLE, hpl_buf_bytes(&body), hpl_bytes(NULL, 0), &answer);
    hpl_buf_wipe(&body);
    return status;
}

static enum hpl_status start(struct hpl_p11_remote *remote, struct hpl_call *call)
{
    struct hpl_tokend_child child;
    hpl_call_init(call, START_MS);
    HPL_TRY(hpl_tokend_spawn(call, remote->option, remote->place->latch_dir, &child));
    pthread_mutex_lock(&remote->lock);
    remote->child = child;
    bool is_closing = remote->is_closing, is_settled = remote->is_settled;
    pthread_mutex_unlock(&remote->lock);
    if (is_closing)
        return HPL_UNAVAILABLE;
    HPL_TRY(greet(remote, call));
    return is_settled ? settle_again(remote, call) : HPL_OK;
}

/* --- answers -------------------------------------------------------------------------------------------------------------------------- */

/* The request that this answers; NULL when there is none. Nobody but us frees a slot that waits or is abandoned. */
static struct hpl_remote_slot *slot_of(struct hpl_p11_remote *remote, const struct hpl_tokend_header *header)
{
    struct hpl_remote_slot *slot = (header->id & 0xff) < HPL_REMOTE_MAX_IN_FLIGHT ? &remote->slots[header->id & 0xff] : NULL;
    pthread_mutex_lock(&remote->lock);
    bool is_asked = slot && slot->id == header->id && slot->op == header->op && (slot->use == HPL_REMOTE_WAITING || slot->use == HPL_REMOTE_ABANDONED);
    pthread_mutex_unlock(&remote->lock);
    return is_asked ? slot : NULL;
}

/* Key material goes straight into secret memory; where that is full, nowhere. */
static bool receive_body(struct hpl_p11_remote *remote, struct hpl_tokend_header *header, struct hpl_remote_answer *answer)
{
    uint64_t until_ns = hpl_clock_mono_ns() + watchdog_ns(remote);
    int fd = remote->child.fd;
    answer->secret = NULL;
    answer->len = 0;
    if (header->status != HPL_OK || !hpl_tokend_is_secret(header->op)) {
        answer->len = header->len;
        return header->len <= sizeof answer->body && hpl_tokend_receive(fd, answer->body, header->len, until_ns);
    }
    answer->secret = hpl_secret_new(header->len);
    if (answer->secret)
        return hpl_tokend_receive(fd, answer->secret->bytes, header->len, until_ns);
    uint8_t nowhere[HPL_TOKEND_ROOM];
    bool is_there = hpl_tokend_receive(fd, nowhere, header->len, until_ns);
    hpl_wipe(nowhere, sizeof nowhere);
    header->status = HPL_NO_MEMORY;
    return is_there;
}

static void hand_over(struct hpl_p11_remote *remote, struct hpl_remote_slot *slot, const struct hpl_tokend_header *header, struct hpl_remote_answer *answer)
{
    answer->status = header->status;
    pthread_mutex_lock(&remote->lock);
    remote->is_latched |= (header->flags & HPL_TOKEND_LATCHED) != 0;
    remote->has_failed |= (header->flags & HPL_TOKEND_FAILED) != 0;
    if (header->op != HPL_TOKEND_STAT) {
        remote->has_served |= header->status == HPL_OK;
        remote->was_pin_refused = header->status == HPL_PIN_REJECTED || (remote->was_pin_refused && header->status != HPL_OK);
    }
    if (slot->use == HPL_REMOTE_WAITING) {
        slot->answer = *answer;
        slot->use = HPL_REMOTE_ANSWERED;
        pthread_cond_signal(&slot->done);
    } else {
        hpl_secret_free(answer->secret);
        slot->use = HPL_REMOTE_FREE;
        pthread_cond_broadcast(&remote->changed);
    }
    pthread_mutex_unlock(&remote->lock);
}

/* NULL, or why the worker must end. */
static const char *take_answer(struct hpl_p11_remote *remote)
{
    uint8_t head[HPL_TOKEND_HEADER_LEN];
    struct hpl_tokend_header header;
    struct hpl_remote_answer answer;
    if (!hpl_tokend_receive(remote->child.fd, head, sizeof head, hpl_clock_mono_ns() + watchdog_ns(remote)))
        return "it ended";
    struct hpl_remote_slot *slot = hpl_tokend_read_answer(head, &header) ? slot_of(remote, &header) : NULL;
    if (!slot)
        return "it answered what nobody asked";
    if (!receive_body(remote, &header, &answer)) {
        hpl_secret_free(answer.secret);
        return "it ended in the middle of an answer";
    }
    hand_over(remote, slot, &header, &answer);
    return NULL;
}

static bool is_late(const struct hpl_remote_slot *slot, uint64_t now, uint64_t limit)
{
    if (slot->use != HPL_REMOTE_WAITING && slot->use != HPL_REMOTE_ABANDONED)
        return false;
    if (slot->op == HPL_TOKEND_CREATE || slot->op == HPL_TOKEND_SETTLE)
        limit *= MAKING_TIMES;
    return now > slot->sent_ns && now - slot->sent_ns > limit;
}

static bool is_stuck(struct hpl_p11_remote *remote)
{
    uint64_t now = hpl_clock_mono_ns(), limit = watchdog_ns(remote);
    bool is_any_late = false;
    pthread_mutex_lock(&remote->lock);
    for (size_t i = 0; i < HPL_REMOTE_MAX_IN_FLIGHT; i++)
        is_any_late |= is_late(&remote->slots[i], now, limit);
    pthread_mutex_unlock(&remote->lock);
    return is_any_late;
}

/* Until the worker has to end; says why. */
static const char *serve(struct hpl_p11_remote *remote)
{
    uint64_t next_look = 0, tick = TICK_MS * 1000000ull;
    if (tick > watchdog_ns(remote) / 4)
        tick = watchdog_ns(remote) / 4;
    for (;;) {
        if (hpl_tokend_wait(remote->child.fd, hpl_clock_mono_ns() + tick)) {
            const char *why = take_answer(remote);
            if (why)
                return why;
        }
        if (hpl_clock_mono_ns() < next_look)
            continue;
        next_look = hpl_clock_mono_ns() + tick;
        if (is_stuck(remote))
            return "a call did not return from the token's module in time";
    }
}

/* --- life and death ------------------------------------------------------------------------------------------------------------------- */

/* Answers for a worker that cannot any more. Under both locks. */
static void answer_for_the_dead(struct hpl_p11_remote *remote)
{
    static const char text[] = "the token's worker process ended during the call";
    for (size_t i = 0; i < HPL_REMOTE_MAX_IN_FLIGHT; i++) {
        struct hpl_remote_slot *slot = &remote->slots[i];
        if (slot->use == HPL_REMOTE_WAITING) {
            slot->answer.status = HPL_KEY_UNAVAILABLE;
            slot->answer.secret = NULL;
            slot->answer.len = sizeof text - 1;
            memcpy(slot->answer.body, text, sizeof text - 1);
            slot->use = HPL_REMOTE_ANSWERED;
            pthread_cond_signal(&slot->done);
        } else if (slot->use == HPL_REMOTE_ABANDONED)
            slot->use = HPL_REMOTE_FREE;
    }
}

/* 250 ms after the second failure in a row, doubled each time up to 1.6 s, give or take a fifth; none after a worker that worked. */
static uint64_t pause_ms(struct hpl_p11_remote *remote)
{
    uint8_t jitter = 0;
    remote->failures = remote->has_served ? 0 : remote->failures + 1;
    if (remote->failures == 0)
        return 0;
    uint64_t pause = BACKOFF_MIN_MS << (remote->failures < 9 ? remote->failures - 1 : 8);
    if (RAND_bytes(&jitter, 1) != 1)
        jitter = 128;
    return (pause < BACKOFF_MAX_MS ? pause : BACKOFF_MAX_MS) * (820u + 360u * jitter / 255u) / 1000u;
}

/* After this no worker is there and nobody waits for one. A refused PIN stands until the backend is opened anew: the next worker would
 * only be refused again, or refuse itself by the latch. */
static void bury(struct hpl_p11_remote *remote, enum hpl_status status, const char *why, unsigned patience_ms)
{
    char end[32];
    if (remote->child.fd >= 0)
        shutdown(remote->child.fd, SHUT_RDWR); /* a sender that waits for room lets go of its lock */
    pthread_mutex_lock(&remote->send_lock);
    pthread_mutex_lock(&remote->lock);
    bool was_first = remote->state == HPL_REMOTE_STARTING, is_pin = status == HPL_PIN_REJECTED || remote->was_pin_refused;
    struct hpl_tokend_child child = remote->child;
    remote->child = (struct hpl_tokend_child){.fd = -1};
    remote->connection++;
    remote->why = is_pin ? HPL_PIN_REJECTED : status;
    snprintf(remote->detail, sizeof remote->detail, "%s", why);
    answer_for_the_dead(remote);
    remote->state = was_first || is_pin ? HPL_REMOTE_REFUSED : HPL_REMOTE_AWAY;
    remote->next_start_ns = hpl_clock_mono_ns() + pause_ms(remote) * 1000000u;
    remote->has_served = false;
    bool is_closing = remote->is_closing;
    pthread_cond_broadcast(&remote->changed);
    pthread_mutex_unlock(&remote->lock);
    pthread_mutex_unlock(&remote->send_lock);
    hpl_tokend_reap(&child, is_closing ? PATIENCE_MS : patience_ms, end);
    if (!is_closing)
        hpl_log(HPL_LOG_ERROR, "pkcs11.worker_lost", HPL_S("token", remote->place->option->name), HPL_S("why", why), HPL_S("end", end));
}

/* False when the device is closed. */
static bool wait_for_turn(struct hpl_p11_remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    while (!remote->is_closing && (remote->state == HPL_REMOTE_REFUSED || hpl_clock_mono_ns() < remote->next_start_ns)) {
        uint64_t until_ns = remote->next_start_ns;
        const struct timespec at = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
        if (remote->state == HPL_REMOTE_REFUSED)
            pthread_cond_wait(&remote->changed, &remote->lock);
        else
            pthread_cond_timedwait(&remote->changed, &remote->lock, &at);
    }
    bool is_closing = remote->is_closing;
    pthread_mutex_unlock(&remote->lock);
    return !is_closing;
}

static void announce(struct hpl_p11_remote *remote)
{
    pthread_mutex_lock(&remote->lock);
    remote->restarts += remote->state == HPL_REMOTE_AWAY;
    remote->state = HPL_REMOTE_UP;
    remote->last_stat.is_connected = true;
    remote->detail[0] = '\0';
    remote->next_start_ns = 0;
    long pid = (long)remote->child.pid;
    pthread_cond_broadcast(&remote->changed);
    pthread_mutex_unlock(&remote->lock);
    hpl_log(HPL_LOG_INFO, "pkcs11.worker_started", HPL_S("token", remote->place->option->name), HPL_N("pid", pid));
}

void *hpl_remote_supervise(void *arg)
{
    struct hpl_p11_remote *remote = arg;
    while (wait_for_turn(remote)) {
        struct hpl_call call;
        enum hpl_status status = start(remote, &call);
        if (status != HPL_OK) {
            bury(remote, status, hpl_detail(&call, status), 0);
            continue;
        }
        announce(remote);
        bury(remote, HPL_KEY_UNAVAILABLE, serve(remote), 0);
    }
    return NULL;
}
