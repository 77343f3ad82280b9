/* Requests into a device. The worker's threads take turns at the socket: who has read a request answers it. Each has a room of its own
 * in secret memory for what it reads; nothing of a request outlives its answer. */
#include "backends/pkcs11/tokend/serve.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/pkcs11/tokend/channel.h"
#include "base/log.h"

#define MAX_THREADS 66u
#define SPARE_THREADS 2u
#define CLOSE_SECONDS 2u /* for calls in the token to return once the daemon is gone */

struct server {
    int fd;
    struct hpl_p11_device *device;
    pthread_mutex_t read_lock, write_lock;
    bool is_over; /* under read_lock */
    _Atomic unsigned num_settled; /* orders what settling wrote before what other threads read: their requests come after its answer */
};

struct request {
    struct hpl_tokend_header header;
    struct hpl_bytes body;
    struct hpl_secret *room; /* holds it, or: */
    uint8_t *large;
};

struct answer {
    enum hpl_status status;
    struct hpl_buf body;
    struct hpl_secret *secret;
};

/* --- in and out ----------------------------------------------------------------------------------------------------------------------- */

static bool receive_body(struct server *server, struct request *request)
{
    uint32_t len = request->header.len;
    uint8_t *at = request->room->bytes;
    if (len > request->room->len)
        at = request->large = malloc(len);
    request->body = hpl_bytes(at, len);
    return at && hpl_tokend_receive(server->fd, at, len, 0);
}

/* False when the connection is over; then for every thread. The alarm ends the process when a call does not return. */
static bool next_request(struct server *server, struct request *request)
{
    uint8_t head[HPL_TOKEND_HEADER_LEN];
    request->large = NULL;
    pthread_mutex_lock(&server->read_lock);
    bool is_there = !server->is_over && hpl_tokend_receive(server->fd, head, sizeof head, 0) && hpl_tokend_read_request(head, &request->header) &&
                    receive_body(server, request);
    if (!is_there && !server->is_over)
        alarm(CLOSE_SECONDS);
    server->is_over = !is_there;
    pthread_mutex_unlock(&server->read_lock);
    return is_there;
}

static void forget(struct request *request)
{
    hpl_wipe(request->room->bytes, request->room->len);
    free(request->large);
    request->large = NULL;
}

/* What must outlive this process goes along with the first refusal. */
static uint8_t flags_of(struct server *server, enum hpl_status status)
{
    struct hpl_p11_stat stat = {0};
    if (status == HPL_INTEGRITY && server->device)
        server->device->ops->stat(server->device, &stat);
    return (uint8_t)((stat.is_latched ? HPL_TOKEND_LATCHED : 0) | (stat.has_failed ? HPL_TOKEND_FAILED : 0));
}

/* What cannot be sent is lost with the connection, which the next read shows. */
static void send_answer(struct server *server, const struct request *request, const struct hpl_call *call, const struct answer *answer)
{
    struct hpl_bytes body = answer->secret ? hpl_bytes(answer->secret->bytes, answer->secret->len) : hpl_buf_bytes(&answer->body);
    if (answer->status != HPL_OK)
        body = hpl_bytes_str(call->detail);
    const struct hpl_tokend_header header = {.len = (uint32_t)body.len, .id = request->header.id, .op = request->header.op,
                                             .status = (uint8_t)answer->status, .flags = flags_of(server, answer->status)};
    pthread_mutex_lock(&server->write_lock);
    bool is_sent = hpl_tokend_send(server->fd, &header, body, hpl_bytes(NULL, 0), 0);
    pthread_mutex_unlock(&server->write_lock);
    if (!is_sent)
        hpl_log(HPL_LOG_DEBUG, "tokend.answer_lost");
}

/* --- the operations ------------------------------------------------------------------------------------------------------------------- */

static enum hpl_status damaged(struct hpl_call *call)
{
    return hpl_fail(call, HPL_INVALID_ARGUMENT, "the request to the token's worker is damaged");
}

static enum hpl_status do_settle(struct server *server, struct hpl_call *call, struct hpl_bytes body, struct answer *answer)
{
    struct hpl_p11_pinned pinned;
    bool is_known;
    if (!hpl_tokend_read_settle(body, &is_known, &pinned))
        return damaged(call);
    HPL_TRY(server->device->ops->settle(server->device, call, is_known, &pinned));
    atomic_fetch_add_explicit(&server->num_settled, 1, memory_order_release);
    hpl_tokend_put_settle(&answer->body, true, &pinned);
    return hpl_buf_check(&answer->body);
}

static enum hpl_status do_wrap(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes body, struct answer *answer)
{
    struct hpl_reader reader = {.rest = body};
    struct hpl_wrapped wrapped, check;
    struct hpl_p11_ref ref;
    hpl_tokend_read_ref(&reader, &ref, &check);
    struct hpl_bytes aad = hpl_read_bytes(&reader, HPL_WRAP_AAD_LEN);
    if (reader.is_failed || reader.rest.len < HPL_P11_SECRET_MIN || reader.rest.len > HPL_P11_SECRET_MAX)
        return damaged(call);
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_from(reader.rest.data, reader.rest.len);
    if (!secret)
        return hpl_fail(call, HPL_NO_MEMORY, "the worker's secret region is full");
    HPL_TRY(device->ops->wrap(device, call, &ref, aad.data, secret, &wrapped));
    hpl_tokend_put_wrapped(&answer->body, &wrapped);
    return hpl_buf_check(&answer->body);
}

static enum hpl_status do_unwrap(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes body, struct answer *answer)
{
    struct hpl_reader reader = {.rest = body};
    struct hpl_wrapped wrapped, check;
    struct hpl_p11_ref ref;
    hpl_tokend_read_ref(&reader, &ref, &check);
    struct hpl_bytes aad = hpl_read_bytes(&reader, HPL_WRAP_AAD_LEN);
    hpl_tokend_read_wrapped(&reader, &wrapped);
    return hpl_read_is_done(&reader) ? device->ops->unwrap(device, call, &ref, aad.data, &wrapped, &answer->secret) : damaged(call);
}

static enum hpl_status do_mac(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes body, struct answer *answer)
{
    uint8_t mac[HPL_P11_MAC_LEN];
    HPL_TRY(device->ops->mac(device, call, body, mac));
    hpl_buf_put(&answer->body, mac, sizeof mac);
    return hpl_buf_check(&answer->body);
}

static enum hpl_status do_random(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes body, struct answer *answer)
{
    struct hpl_reader reader = {.rest = body};
    uint32_t len = hpl_read_u32(&reader);
    if (len == 0 || len > HPL_TOKEND_ROOM)
        return damaged(call);
    answer->secret = hpl_secret_new(len);
    return answer->secret ? device->ops->random(device, call, answer->secret) : hpl_fail(call, HPL_NO_MEMORY, "the worker's secret region is full");
}

static enum hpl_status do_stat(struct hpl_p11_device *device, struct answer *answer)
{
    struct hpl_p11_stat stat;
    device->ops->stat(device, &stat);
    hpl_tokend_put_stat(&answer->body, &stat);
    return hpl_buf_check(&answer->body);
}

static enum hpl_status do_key(struct hpl_p11_device *device, struct hpl_call *call, uint8_t op, struct hpl_bytes body)
{
    struct hpl_reader reader = {.rest = body};
    struct hpl_wrapped check;
    struct hpl_p11_ref ref;
    hpl_tokend_read_ref(&reader, &ref, &check);
    if (!hpl_read_is_done(&reader))
        return damaged(call);
    return op == HPL_TOKEND_CREATE ? device->ops->create(device, call, &ref) : device->ops->destroy(device, call, &ref);
}

static enum hpl_status do_survey(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes body, struct answer *answer)
{
    struct hpl_p11_orphans orphans;
    if (body.len % HPL_KEY_UID_LEN)
        return damaged(call);
    HPL_TRY(device->ops->survey(device, call, body, &orphans));
    hpl_tokend_put_orphans(&answer->body, &orphans);
    return hpl_buf_check(&answer->body);
}

static enum hpl_status perform(struct server *server, struct hpl_call *call, const struct request *request, struct answer *answer)
{
    struct hpl_p11_device *device = server->device;
    HPL_TRY(hpl_call_check(call));
    if (atomic_load_explicit(&server->num_settled, memory_order_acquire) == 0 && request->header.op != HPL_TOKEND_SETTLE && request->header.op != HPL_TOKEND_STAT)
        return hpl_fail(call, HPL_CONFLICT, "the token's worker was not told what to expect of the token");
    switch (request->header.op) {
    case HPL_TOKEND_SETTLE: return do_settle(server, call, request->body, answer);
    case HPL_TOKEND_PROBE: return device->ops->probe(device, call);
    case HPL_TOKEND_CREATE:
    case HPL_TOKEND_DESTROY: return do_key(device, call, request->header.op, request->body);
    case HPL_TOKEND_WRAP: return do_wrap(device, call, request->body, answer);
    case HPL_TOKEND_UNWRAP: return do_unwrap(device, call, request->body, answer);
    case HPL_TOKEND_MAC: return do_mac(device, call, request->body, answer);
    case HPL_TOKEND_RANDOM: return do_random(device, call, request->body, answer);
    case HPL_TOKEND_STAT: return do_stat(device, answer);
    case HPL_TOKEND_SURVEY: return do_survey(device, call, request->body, answer);
    default: return damaged(call); /* a second HELLO */
    }
}

static void *work(void *arg)
{
    struct server *server = arg;
    struct request request = {.room = hpl_secret_new(HPL_TOKEND_ROOM)};
    HPL_CHECK(request.room);
    while (next_request(server, &request)) {
        struct hpl_call call = {.deadline_ns = request.header.deadline_ns};
        struct answer answer = {0};
        answer.status = perform(server, &call, &request, &answer);
        send_answer(server, &request, &call, &answer);
        hpl_buf_wipe(&answer.body);
        hpl_secret_free(answer.secret);
        forget(&request);
    }
    forget(&request);
    hpl_secret_free(request.room);
    return NULL;
}

/* --- the connection's life -------------------------------------------------------------------------------------------------------------- */

static void work_with_threads(struct server *server)
{
    pthread_t threads[MAX_THREADS];
    struct hpl_p11_stat stat;
    unsigned num = 0;
    server->device->ops->stat(server->device, &stat);
    unsigned wanted = stat.max_sessions + SPARE_THREADS < MAX_THREADS ? stat.max_sessions + SPARE_THREADS : MAX_THREADS;
    while (num < wanted && pthread_create(&threads[num], NULL, work, server) == 0)
        num++;
    HPL_CHECK(num > 0);
    while (num)
        pthread_join(threads[--num], NULL);
}

static enum hpl_status open_device(struct server *server, struct hpl_call *call, const struct hpl_p11_place *place, struct answer *answer)
{
    HPL_TRY(hpl_p11_direct_open(call, place, &server->device));
    hpl_tokend_put_welcome(&answer->body, &server->device->facts);
    return hpl_buf_check(&answer->body);
}

/* What the greeting told, for as long as the device is open. */
struct guest {
    struct hpl_tokend_hello hello;
    struct hpl_p11_place place;
};

static bool greet(struct server *server, const char *latch_dir, struct guest *guest)
{
    struct hpl_secret *HPL_SECRET_AUTO room = hpl_secret_new(HPL_TOKEND_ROOM);
    struct request request = {.room = room};
    struct answer answer = {0};
    HPL_CHECK(room);
    if (!next_request(server, &request) || request.header.op != HPL_TOKEND_HELLO) {
        forget(&request);
        return false;
    }
    struct hpl_call call = {.deadline_ns = request.header.deadline_ns};
    answer.status = hpl_tokend_read_hello(&call, request.body, &guest->hello);
    guest->place = (struct hpl_p11_place){.option = &guest->hello.option, .latch_dir = latch_dir, .latch_shown = guest->hello.latch_shown,
                                          .latch_key = guest->hello.latch_key, .known_id = guest->hello.known_id};
    if (answer.status == HPL_OK)
        answer.status = open_device(server, &call, &guest->place, &answer);
    send_answer(server, &request, &call, &answer);
    hpl_buf_wipe(&answer.body);
    forget(&request);
    return answer.status == HPL_OK;
}

bool hpl_tokend_serve(int fd, const char *latch_dir)
{
    struct server server = {.fd = fd, .read_lock = PTHREAD_MUTEX_INITIALIZER, .write_lock = PTHREAD_MUTEX_INITIALIZER};
    struct guest guest = {0};
    bool is_well = greet(&server, latch_dir, &guest);
    if (is_well)
        work_with_threads(&server);
    if (server.device)
        server.device->ops->close(server.device);
    hpl_tokend_hello_wipe(&guest.hello);
    return is_well;
}
