/* A device held by a worker process: each operation one request and one answer. Callers' threads; an operation blocks until its
 * answer, its deadline or the worker's death. What the supervisor's thread does is in supervisor.c. */
#include "backends/pkcs11/tokend/remote.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/pkcs11/tokend/channel.h"
#include "backends/pkcs11/tokend/tokend.h"
#include "base/clock.h"

#define RETURN_MS 250u /* how long a call waits for a worker that is started again */
#define SLOT_MS 2000u  /* how long for one of the requests in flight to end */
#define STAT_MS 200u

static struct hpl_p11_remote *of(struct hpl_p11_device *device)
{
    return (struct hpl_p11_remote *)device;
}

/* --- a request in flight -------------------------------------------------------------------------------------------------------------- */

static uint64_t until(const struct hpl_call *call, uint64_t most_ms)
{
    uint64_t most = hpl_clock_mono_ns() + most_ms * 1000000u;
    return call->deadline_ns && call->deadline_ns < most ? call->deadline_ns : most;
}

/* False once until_ns (0: never) has passed. Under the lock. */
static bool wait_on(struct hpl_p11_remote *remote, pthread_cond_t *cond, uint64_t until_ns)
{
    const struct timespec at = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    if (!until_ns)
        return pthread_cond_wait(cond, &remote->lock) == 0;
    return pthread_cond_timedwait(cond, &remote->lock, &at) != ETIMEDOUT;
}

static enum hpl_status not_up(struct hpl_p11_remote *remote, struct hpl_call *call)
{
    enum hpl_status status = remote->state == HPL_REMOTE_REFUSED ? remote->why : HPL_KEY_UNAVAILABLE;
    return hpl_fail(call, status, "the token's worker process is not there: %s", remote->detail[0] ? remote->detail : "it is being started");
}

/* A pause that is longer than a call would wait is not waited for. */
static enum hpl_status wait_until_up(struct hpl_p11_remote *remote, struct hpl_call *call)
{
    uint64_t until_ns = until(call, RETURN_MS);
    while (remote->state != HPL_REMOTE_UP)
        if (remote->state == HPL_REMOTE_REFUSED || remote->is_closing || remote->next_start_ns > until_ns || !wait_on(remote, &remote->changed, until_ns))
            return not_up(remote, call);
    return HPL_OK;
}

static struct hpl_remote_slot *find_free(struct hpl_p11_remote *remote)
{
    for (size_t i = 0; i < HPL_REMOTE_MAX_IN_FLIGHT; i++)
        if (remote->slots[i].use == HPL_REMOTE_FREE) {
            remote->slots[i].id = remote->next_id++ << 8 | (uint32_t)i;
            return &remote->slots[i];
        }
    return NULL;
}

/* What one worker found out holds for those that follow. */
static enum hpl_status check_integrity(struct hpl_p11_remote *remote, struct hpl_call *call, uint8_t op)
{
    const char *label = remote->base.facts.label;
    if (remote->has_failed && op != HPL_TOKEND_STAT)
        return hpl_fail(call, HPL_INTEGRITY, "token '%s' answered with another key than was asked for: it is not used until it is put right and opened anew", label);
    if (remote->is_latched && op == HPL_TOKEND_WRAP)
        return hpl_fail(call, HPL_INTEGRITY, "an IV of token '%s' came twice: no more wraps until it is replaced", label);
    return HPL_OK;
}

static enum hpl_status claim(struct hpl_p11_remote *remote, struct hpl_call *call, uint8_t op, struct hpl_remote_slot **out)
{
    uint64_t until_ns = until(call, SLOT_MS);
    struct hpl_remote_slot *slot;
    HPL_TRY(check_integrity(remote, call, op));
    HPL_TRY(wait_until_up(remote, call));
    while (!(slot = find_free(remote))) {
        if (!wait_on(remote, &remote->changed, until_ns))
            return hpl_fail(call, HPL_TIMEOUT, "all %u requests that the token's worker may be asked at once are busy", HPL_REMOTE_MAX_IN_FLIGHT);
        HPL_TRY(wait_until_up(remote, call));
    }
    slot->use = HPL_REMOTE_WAITING;
    slot->op = op;
    slot->sent_ns = hpl_clock_mono_ns();
    *out = slot;
    return HPL_OK;
}

struct request {
    uint8_t op;
    struct hpl_bytes first, second;
};

/* A worker that died meanwhile has answered already: the supervisor did it for it. A part that went out ruins the connection, so what
 * cannot be sent in time ends the worker. */
static void send_request(struct hpl_p11_remote *remote, const struct hpl_call *call, uint64_t connection, uint32_t id, const struct request *request)
{
    const struct hpl_tokend_header header = {.len = (uint32_t)(request->first.len + request->second.len), .id = id, .op = request->op,
                                             .deadline_ns = call->deadline_ns};
    pthread_mutex_lock(&remote->send_lock);
    if (remote->connection == connection && !hpl_tokend_send(remote->child.fd, &header, request->first, request->second, call->deadline_ns))
        shutdown(remote->child.fd, SHUT_RDWR);
    pthread_mutex_unlock(&remote->send_lock);
}

/* Under the lock. Once the deadline has passed the slot stays taken until the answer comes, or the worker's end. */
static enum hpl_status collect(struct hpl_p11_remote *remote, struct hpl_call *call, struct hpl_remote_slot *slot, struct hpl_remote_answer *out)
{
    while (slot->use == HPL_REMOTE_WAITING)
        if (!wait_on(remote, &slot->done, call->deadline_ns) && slot->use == HPL_REMOTE_WAITING) {
            slot->use = HPL_REMOTE_ABANDONED;
            return hpl_fail(call, HPL_TIMEOUT, "the token did not answer in time");
        }
    out->status = slot->answer.status;
    out->secret = slot->answer.secret;
    out->len = slot->answer.len;
    memcpy(out->body, slot->answer.body, slot->answer.len);
    slot->answer.secret = NULL;
    slot->use = HPL_REMOTE_FREE;
    pthread_cond_broadcast(&remote->changed);
    return HPL_OK;
}

/* HPL_OK: the worker did it, and what it gave is in *out. */
static enum hpl_status ask(struct hpl_p11_remote *remote, struct hpl_call *call, const struct request *request, struct hpl_remote_answer *out)
{
    struct hpl_remote_slot *slot = NULL;
    out->secret = NULL;
    if (remote->owner != getpid())
        return hpl_fail(call, HPL_BACKEND, "a token's worker process cannot be used by a forked child: open the backend there anew");
    HPL_TRY(hpl_call_check(call));
    pthread_mutex_lock(&remote->lock);
    enum hpl_status status = claim(remote, call, request->op, &slot);
    uint64_t connection = remote->connection;
    uint32_t id = slot ? slot->id : 0;
    pthread_mutex_unlock(&remote->lock);
    HPL_TRY(status);
    send_request(remote, call, connection, id, request);
    pthread_mutex_lock(&remote->lock);
    status = collect(remote, call, slot, out);
    pthread_mutex_unlock(&remote->lock);
    HPL_TRY(status);
    if (out->status != HPL_OK)
        hpl_tokend_read_detail(hpl_bytes(out->body, out->len), call);
    return out->status;
}

static enum hpl_status garbled(struct hpl_call *call)
{
    return hpl_fail(call, HPL_BACKEND, "the token's worker process answered what cannot be");
}

/* --- the operations --------------------------------------------------------------------------------------------------------------------- */

/* A worker that died just after it settled would be followed by one that does not know: then the caller opens anew. */
static enum hpl_status keep_pinned(struct hpl_p11_remote *remote, struct hpl_call *call, const struct hpl_p11_pinned *pinned, uint64_t connection)
{
    pthread_mutex_lock(&remote->lock);
    bool is_same = remote->connection == connection;
    if (is_same) {
        remote->pinned = *pinned;
        remote->base.facts.opens |= pinned->opens;
        remote->is_settled = true;
    }
    pthread_mutex_unlock(&remote->lock);
    return is_same ? HPL_OK : hpl_fail(call, HPL_KEY_UNAVAILABLE, "the token's worker process died while the token was opened");
}

static enum hpl_status settle(struct hpl_p11_device *device, struct hpl_call *call, bool is_known, struct hpl_p11_pinned *pinned)
{
    struct hpl_p11_remote *remote = of(device);
    struct hpl_buf body = {0};
    struct hpl_remote_answer answer;
    pthread_mutex_lock(&remote->lock);
    uint64_t connection = remote->connection;
    pthread_mutex_unlock(&remote->lock);
    hpl_tokend_put_settle(&body, is_known, pinned);
    enum hpl_status status = hpl_buf_check(&body);
    if (status == HPL_OK)
        status = ask(remote, call, &(struct request){HPL_TOKEND_SETTLE, hpl_buf_bytes(&body), {0}}, &answer);
    hpl_buf_wipe(&body);
    HPL_TRY(status);
    if (!hpl_tokend_read_settle(hpl_bytes(answer.body, answer.len), &is_known, pinned) || !is_known)
        return garbled(call);
    return keep_pinned(remote, call, pinned, connection);
}

static enum hpl_status probe(struct hpl_p11_device *device, struct hpl_call *call)
{
    struct hpl_remote_answer answer;
    return ask(of(device), call, &(struct request){.op = HPL_TOKEND_PROBE}, &answer);
}

/* For the operations that name a key version: the body that stands before a secret or a ciphertext. */
static enum hpl_status ask_of_key(struct hpl_p11_device *device, struct hpl_call *call, uint8_t op, const struct hpl_p11_ref *ref, struct hpl_buf *body,
                                  struct hpl_bytes second, struct hpl_remote_answer *answer)
{
    struct hpl_buf whole = {0};
    hpl_tokend_put_ref(&whole, ref);
    hpl_buf_put(&whole, body->data, body->len);
    enum hpl_status status = hpl_buf_check(body);
    if (status == HPL_OK)
        status = hpl_buf_check(&whole);
    if (status == HPL_OK)
        status = ask(of(device), call, &(struct request){op, hpl_buf_bytes(&whole), second}, answer);
    hpl_buf_wipe(&whole);
    hpl_buf_wipe(body);
    return status;
}

static enum hpl_status create(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct hpl_remote_answer answer;
    return ask_of_key(device, call, HPL_TOKEND_CREATE, ref, &(struct hpl_buf){0}, hpl_bytes(NULL, 0), &answer);
}

static enum hpl_status destroy(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct hpl_remote_answer answer;
    return ask_of_key(device, call, HPL_TOKEND_DESTROY, ref, &(struct hpl_buf){0}, hpl_bytes(NULL, 0), &answer);
}

static enum hpl_status wrap(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    struct hpl_remote_answer answer;
    struct hpl_buf body = {0};
    memset(out, 0, sizeof *out);
    hpl_buf_put(&body, aad, HPL_WRAP_AAD_LEN);
    HPL_TRY(ask_of_key(device, call, HPL_TOKEND_WRAP, ref, &body, hpl_bytes(secret->bytes, secret->len), &answer));
    struct hpl_reader reader = {.rest = hpl_bytes(answer.body, answer.len)};
    hpl_tokend_read_wrapped(&reader, out);
    if (hpl_read_is_done(&reader) && out->mechanism == device->facts.mechanism && hpl_p11_screen(&device->facts, out) == HPL_OK)
        return HPL_OK;
    memset(out, 0, sizeof *out);
    return garbled(call);
}

static enum hpl_status unwrap(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_remote_answer answer;
    struct hpl_buf body = {0};
    *out = NULL;
    HPL_TRY(hpl_p11_screen(&device->facts, wrapped));
    hpl_buf_put(&body, aad, HPL_WRAP_AAD_LEN);
    hpl_tokend_put_wrapped(&body, wrapped);
    HPL_TRY(ask_of_key(device, call, HPL_TOKEND_UNWRAP, ref, &body, hpl_bytes(NULL, 0), &answer));
    *out = answer.secret;
    return HPL_OK;
}

static enum hpl_status mac(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes message, uint8_t out[static HPL_P11_MAC_LEN])
{
    struct hpl_remote_answer answer;
    if (message.len > HPL_TOKEND_MESSAGE_MAX)
        return hpl_fail(call, HPL_TOO_LARGE, "a record of %zu bytes cannot be authenticated by the token", message.len);
    HPL_TRY(ask(of(device), call, &(struct request){HPL_TOKEND_MAC, message, {0}}, &answer));
    memcpy(out, answer.body, HPL_P11_MAC_LEN);
    return HPL_OK;
}

static enum hpl_status random_bytes(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_secret *out)
{
    struct hpl_remote_answer answer;
    const uint8_t len[] = {(uint8_t)(out->len >> 24), (uint8_t)(out->len >> 16), (uint8_t)(out->len >> 8), (uint8_t)out->len};
    HPL_CHECK(out->len <= HPL_TOKEND_ROOM);
    HPL_TRY(ask(of(device), call, &(struct request){HPL_TOKEND_RANDOM, hpl_bytes(len, sizeof len), {0}}, &answer));
    struct hpl_secret *HPL_SECRET_AUTO got = answer.secret;
    if (got->len != out->len)
        return garbled(call);
    memcpy(out->bytes, got->bytes, got->len);
    return HPL_OK;
}

static enum hpl_status survey(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes known, struct hpl_p11_orphans *out)
{
    struct hpl_remote_answer answer;
    HPL_CHECK(known.len <= HPL_P11_KNOWN_MAX * HPL_KEY_UID_LEN);
    HPL_TRY(ask(of(device), call, &(struct request){HPL_TOKEND_SURVEY, known, {0}}, &answer));
    return hpl_tokend_read_orphans(hpl_bytes(answer.body, answer.len), out) ? HPL_OK : hpl_fail(call, HPL_BACKEND, "the token's worker answered what cannot be");
}

/* What the worker says, or, when it does not answer at once, what it said last: a busy one is as connected as it was. */
static void stat_device(struct hpl_p11_device *device, struct hpl_p11_stat *out)
{
    struct hpl_p11_remote *remote = of(device);
    struct hpl_remote_answer answer;
    struct hpl_call call;
    hpl_call_init(&call, STAT_MS);
    bool is_told = ask(remote, &call, &(struct request){.op = HPL_TOKEND_STAT}, &answer) == HPL_OK &&
                   hpl_tokend_read_stat(hpl_bytes(answer.body, answer.len), out);
    pthread_mutex_lock(&remote->lock);
    if (is_told)
        remote->last_stat = *out;
    *out = remote->last_stat;
    out->is_connected &= remote->state == HPL_REMOTE_UP;
    out->is_latched |= remote->is_latched;
    out->has_failed |= remote->has_failed;
    out->worker_pid = remote->child.pid;
    out->restarts = remote->restarts;
    pthread_mutex_unlock(&remote->lock);
}

/* --- opening and closing ------------------------------------------------------------------------------------------------------------------ */

static void destroy_remote(struct hpl_p11_remote *remote)
{
    for (size_t i = 0; i < HPL_REMOTE_MAX_IN_FLIGHT; i++)
        pthread_cond_destroy(&remote->slots[i].done);
    pthread_cond_destroy(&remote->changed);
    pthread_mutex_destroy(&remote->lock);
    pthread_mutex_destroy(&remote->send_lock);
    free(remote);
}

/* In a forked child nothing is touched: the thread, the socket and the worker are the parent's. */
static void close_device(struct hpl_p11_device *device)
{
    struct hpl_p11_remote *remote = of(device);
    if (remote->owner != getpid())
        return;
    pthread_mutex_lock(&remote->lock);
    remote->is_closing = true;
    if (remote->child.fd >= 0)
        shutdown(remote->child.fd, SHUT_RDWR);
    pthread_cond_broadcast(&remote->changed);
    pthread_mutex_unlock(&remote->lock);
    pthread_join(remote->supervisor, NULL);
    destroy_remote(remote);
}

static const struct hpl_p11_device_ops ops = {
    .isolation = "worker",
    .close = close_device,
    .settle = settle,
    .probe = probe,
    .create = create,
    .destroy = destroy,
    .wrap = wrap,
    .unwrap = unwrap,
    .mac = mac,
    .random = random_bytes,
    .survey = survey,
    .stat = stat_device,
};

static void init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attributes);
    pthread_condattr_destroy(&attributes);
}

static struct hpl_p11_remote *make(const struct hpl_p11_place *place, const struct hpl_tokend_option *option)
{
    struct hpl_p11_remote *remote = calloc(1, sizeof *remote);
    if (!remote)
        return NULL;
    remote->base.ops = &ops;
    remote->place = place;
    remote->option = option;
    remote->owner = getpid();
    remote->child.fd = -1;
    pthread_mutex_init(&remote->send_lock, NULL);
    pthread_mutex_init(&remote->lock, NULL);
    init_cond(&remote->changed);
    for (size_t i = 0; i < HPL_REMOTE_MAX_IN_FLIGHT; i++)
        init_cond(&remote->slots[i].done);
    return remote;
}

/* How the first start went. */
static enum hpl_status wait_for_start(struct hpl_p11_remote *remote, struct hpl_call *call)
{
    enum hpl_status status = HPL_OK;
    pthread_mutex_lock(&remote->lock);
    while (status == HPL_OK && remote->state == HPL_REMOTE_STARTING)
        if (!wait_on(remote, &remote->changed, call->deadline_ns))
            status = hpl_fail(call, HPL_TIMEOUT, "the token's worker process did not open the token in time");
    if (status == HPL_OK && remote->state != HPL_REMOTE_UP)
        status = hpl_fail(call, remote->why, "%s", remote->detail);
    pthread_mutex_unlock(&remote->lock);
    return status;
}

enum hpl_status hpl_p11_tokend_open(struct hpl_call *call, const struct hpl_p11_place *place, const struct hpl_tokend_option *option,
                                    struct hpl_p11_device **out)
{
    *out = NULL;
    HPL_TRY(hpl_p11_tokend_check(call, option));
    struct hpl_p11_remote *remote = make(place, option);
    if (!remote)
        return HPL_NO_MEMORY;
    int error = pthread_create(&remote->supervisor, NULL, hpl_remote_supervise, remote);
    if (error) {
        destroy_remote(remote);
        return hpl_fail(call, HPL_UNAVAILABLE, "no thread to look after the token's worker process: %s", strerror(error));
    }
    enum hpl_status status = wait_for_start(remote, call);
    if (status == HPL_OK)
        *out = &remote->base;
    else
        close_device(&remote->base);
    return status;
}
