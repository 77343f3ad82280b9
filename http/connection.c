/* A connection's life as a small table of states. Every function here runs on the connection's I/O thread while that thread owns
 * it, never blocks, and ends by waiting in epoll, by giving the connection to a job, or by closing it. */
#include "http/internal.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"

#define FIRST_HEAD 4096u
#define FIRST_BODY 65536u
#define DRAIN_BYTES (8u << 20)
#define DRAIN_MS 5000u
#define NS_PER_MS UINT64_C(1000000)
#define MAX_QUICK 16u                      /* requests that one connection may have answered before others have their turn */

enum step { STEP_ON, STEP_WAIT }; /* on: the state has changed; wait: armed, given away or closed */

static void read_peer(struct hpl_http_connection *connection)
{
    struct sockaddr_storage address;
    socklen_t len = sizeof address;
    char text[INET6_ADDRSTRLEN] = "?";
    if (getpeername(connection->link.fd, (struct sockaddr *)&address, &len) != 0)
        return;
    if (address.ss_family == AF_INET) {
        const struct in_addr *v4 = &((struct sockaddr_in *)&address)->sin_addr;
        inet_ntop(AF_INET, v4, text, sizeof text);
        connection->is_loopback = ntohl(v4->s_addr) >> 24 == 127;
    } else if (address.ss_family == AF_INET6) {
        const struct in6_addr *v6 = &((struct sockaddr_in6 *)&address)->sin6_addr;
        inet_ntop(AF_INET6, v6, text, sizeof text);
        connection->is_loopback = IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
    } else if (address.ss_family == AF_UNIX) {
        snprintf(text, sizeof text, "unix");
        connection->is_unix = true;
    }
    snprintf(connection->peer, sizeof connection->peer, "%s", text);
}

/* False when its address has too many connections already. */
static bool count_address(struct hpl_http_connection *connection)
{
    struct hpl_http_server *server = connection->io->server;
    if (server->options.max_per_address == 0 || connection->is_loopback || connection->is_unix)
        return true;
    connection->address_count = hpl_http_take_share(&server->addresses, connection->peer, server->options.max_per_address);
    return connection->address_count != NULL;
}

struct hpl_http_connection *hpl_http_connection_new(struct hpl_http_io *io, int fd)
{
    struct hpl_http_connection *connection = calloc(1, sizeof *connection);
    if (!connection)
        return NULL;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connection->io = io;
    connection->link.fd = fd;
    connection->state = HPL_STATE_HANDSHAKE;
    connection->since_ns = hpl_clock_mono_ns();
    read_peer(connection);
    if (count_address(connection))
        return connection;
    free(connection);
    return NULL;
}

static void close_connection(struct hpl_http_connection *connection, bool reset)
{
    struct hpl_http_io *io = connection->io;
    hpl_timers_clear(&io->timers, &connection->timer);
    if (connection->next)
        connection->next->previous = connection->previous;
    if (connection->previous)
        connection->previous->next = connection->next;
    else
        io->all = connection->next;
    if (connection->is_registered) /* closing is not enough while a child that has not run its program yet holds the socket too */
        epoll_ctl(io->epoll_fd, EPOLL_CTL_DEL, connection->link.fd, NULL);
    hpl_link_close(&connection->link, reset);
    hpl_http_input_wipe(&io->server->blocks, &connection->in);
    hpl_http_output_wipe(connection);
    hpl_http_exchange_free(connection->exchange);
    if (connection->address_count)
        atomic_fetch_sub(connection->address_count, 1);
    free(connection);
    atomic_fetch_sub(&io->server->num_open, 1);
}

static enum step closed(struct hpl_http_connection *connection)
{
    close_connection(connection, false);
    return STEP_WAIT;
}

static uint64_t after_ms(uint64_t from_ns, unsigned ms)
{
    return from_ns + ms * NS_PER_MS;
}

static struct hpl_pool *hand_over(struct hpl_http_connection *connection)
{
    hpl_timers_clear(&connection->io->timers, &connection->timer);
    connection->state = HPL_STATE_JOB;
    connection->given_ns = hpl_clock_mono_ns();
    return connection->io->server->pools[connection->exchange->route->pool];
}

/* Where a finished job leaves the connection. */
static void resume(struct hpl_http_connection *connection)
{
    struct hpl_http_exchange *exchange = connection->exchange;
    uint64_t now = hpl_clock_mono_ns();
    if (exchange->phase == HPL_PHASE_BODY && !exchange->is_reading) {
        exchange->is_reading = true;
        hpl_link_set_bulk(&connection->link, !exchange->is_whole);
        connection->since_ns = now;
        connection->num_read = 0;
    } else {
        connection->since_ns += now - connection->given_ns;
    }
    connection->state = exchange->phase == HPL_PHASE_BODY     ? HPL_STATE_BODY
                        : exchange->phase == HPL_PHASE_ANSWER ? HPL_STATE_WRITE
                                                              : HPL_STATE_OVER;
}

static enum step run_here(struct hpl_http_connection *connection)
{
    hand_over(connection); /* to itself */
    if (!hpl_http_exchange_run_here(connection->exchange))
        return STEP_WAIT;
    resume(connection);
    return STEP_ON;
}

/* Gives the connection to a job of the exchange's pool, or does at once what is quick. */
static enum step give_to_job(struct hpl_http_connection *connection)
{
    struct hpl_job *job = &connection->exchange->job;
    if (connection->exchange->is_quick)
        return run_here(connection);
    hpl_pool_submit(hand_over(connection), job);
    return STEP_WAIT;
}

static enum step finish_broken(struct hpl_http_connection *connection)
{
    connection->exchange->phase = HPL_PHASE_DEAD;
    connection->exchange->is_quick = false;
    return give_to_job(connection);
}

static enum step answer_failure(struct hpl_http_connection *connection, enum hpl_status failure)
{
    connection->exchange->failure = failure;
    connection->exchange->is_quick = false;
    return give_to_job(connection);
}

/* Its handler began, and has to be told the end. */
static bool is_under_way(const struct hpl_http_connection *connection)
{
    const struct hpl_http_exchange *exchange = connection->exchange;
    return exchange && exchange->is_begun && exchange->phase != HPL_PHASE_OVER;
}

static enum step break_off(struct hpl_http_connection *connection)
{
    return is_under_way(connection) ? finish_broken(connection) : closed(connection);
}

static enum step wait_until(struct hpl_http_connection *connection, uint64_t deadline_ns)
{
    return hpl_http_io_arm(connection, deadline_ns) ? STEP_WAIT : break_off(connection);
}

static enum step step_handshake(struct hpl_http_connection *connection)
{
    struct hpl_http_server *server = connection->io->server;
    if (!connection->link.ssl && server->options.tls_cert) {
        pthread_mutex_lock(&server->tls_lock);
        bool is_ready = hpl_link_start_tls(&connection->link, server->tls);
        pthread_mutex_unlock(&server->tls_lock);
        if (!is_ready)
            return closed(connection);
    }
    int result = hpl_link_handshake(&connection->link);
    if (result == HPL_LINK_AGAIN)
        return wait_until(connection, after_ms(connection->since_ns, server->options.handshake_timeout_ms));
    if (result != 1)
        return closed(connection);
    connection->state = HPL_STATE_HEAD;
    return STEP_ON;
}

static enum step refuse(struct hpl_http_connection *connection, int status, const char *why)
{
    hpl_log(HPL_LOG_INFO, "http.refused", HPL_N("status", status), HPL_S("why", why), HPL_S("peer", connection->peer));
    hpl_http_exchange_free(connection->exchange);
    connection->exchange = NULL;
    hpl_http_refusal(connection, status, why);
    connection->state = HPL_STATE_WRITE;
    return STEP_ON;
}

/* The buffer that holds the head becomes the exchange's; what came behind the head moves to a buffer of its own. */
static bool keep_head(struct hpl_http_connection *connection)
{
    struct hpl_http_input *in = &connection->in;
    struct hpl_http_exchange *exchange = connection->exchange;
    exchange->head_in = *in;
    *in = (struct hpl_http_input){0};
    size_t head_end = exchange->head_in.start + exchange->head.len, rest_len = exchange->head_in.end - head_end;
    if (rest_len == 0)
        return true;
    if (!hpl_http_input_reserve(&connection->io->server->blocks, in, rest_len))
        return false;
    memcpy(in->data, exchange->head_in.data + head_end, rest_len);
    in->end = in->used = rest_len;
    return true;
}

static bool is_quick(struct hpl_http_connection *connection)
{
    struct hpl_http_exchange *exchange = connection->exchange;
    exchange->is_quick = connection->num_quick < MAX_QUICK && exchange->route->is_quick && exchange->route->is_quick(exchange);
    connection->num_quick += exchange->is_quick;
    return exchange->is_quick;
}

/* A whole head: a request begins. */
static enum step open_exchange(struct hpl_http_connection *connection)
{
    struct hpl_http_exchange *exchange = connection->exchange;
    struct hpl_http_io *io = connection->io;
    if (!keep_head(connection))
        return refuse(connection, 503, "out of memory");
    atomic_fetch_add_explicit(&io->requests, 1, memory_order_relaxed);
    if (!hpl_http_exchange_open(exchange))
        return refuse(connection, 404, "nothing is served under this path");
    if (is_quick(connection))
        return run_here(connection);
    if (hpl_pool_try_submit(hand_over(connection), &exchange->job))
        return STEP_WAIT;
    atomic_fetch_add_explicit(&io->refused, 1, memory_order_relaxed);
    exchange->failure = HPL_SLOW_DOWN;
    hpl_http_exchange_fail(exchange);
    connection->state = HPL_STATE_WRITE;
    return STEP_ON;
}

/* Reads what the socket has into room for want bytes; 1 when that is full, else a result of hpl_link_read. */
static ssize_t fill(struct hpl_http_connection *connection, size_t want)
{
    struct hpl_http_input *in = &connection->in;
    if (!hpl_http_input_reserve(&connection->io->server->blocks, in, want))
        return HPL_LINK_BROKEN;
    for (bool is_empty = false; hpl_http_input_len(in) < want && !is_empty;) {
        size_t room = want - hpl_http_input_len(in);
        ssize_t n = hpl_http_input_read(in, &connection->link, room);
        if (n <= 0)
            return n;
        connection->num_read += (uint64_t)n;
        atomic_fetch_add_explicit(&connection->io->bytes_in, (uint64_t)n, memory_order_relaxed);
        is_empty = (size_t)n < room && !hpl_link_has_more(&connection->link);
    }
    if (hpl_http_input_len(in) >= want)
        return 1;
    connection->link.wants = EPOLLIN; /* what it gave was all: it need not be asked to say so */
    return HPL_LINK_AGAIN;
}

/* WHOLE or a refusal changes the state; false: more bytes are needed. */
static bool parse_head(struct hpl_http_connection *connection, enum step *step)
{
    const struct hpl_http_input *in = &connection->in;
    if (!connection->exchange && !(connection->exchange = hpl_http_exchange_new(connection))) {
        *step = refuse(connection, 503, "out of memory");
        return true;
    }
    struct hpl_http_head *head = &connection->exchange->head;
    int verdict = hpl_http_head_parse(head, in->data + in->start, hpl_http_input_len(in));
    if (verdict == HPL_HTTP_HEAD_MORE)
        return false;
    *step = verdict == HPL_HTTP_HEAD_WHOLE ? open_exchange(connection) : refuse(connection, verdict, head->why);
    return true;
}

/* Nothing of a next request has come: holds no buffer while it waits. */
static enum step wait_idle(struct hpl_http_connection *connection)
{
    struct hpl_http_server *server = connection->io->server;
    hpl_http_input_wipe(&server->blocks, &connection->in);
    if (atomic_load(&server->is_stopping))
        return closed(connection);
    return wait_until(connection, after_ms(hpl_clock_mono_ns(), server->options.idle_timeout_ms));
}

static enum step step_head(struct hpl_http_connection *connection)
{
    struct hpl_http_input *in = &connection->in;
    for (;;) {
        size_t had = hpl_http_input_len(in);
        enum step step;
        if (had && parse_head(connection, &step))
            return step;
        if (connection->is_answered && had == 0 && !hpl_link_has_more(&connection->link)) {
            connection->is_answered = false;
            connection->link.wants = EPOLLIN; /* a client that waits for its answer has sent nothing yet */
            return wait_idle(connection);
        }
        ssize_t n = fill(connection, had < FIRST_HEAD ? FIRST_HEAD : had + HPL_HTTP_MAX_HEAD / 2);
        if (had == 0 && hpl_http_input_len(in))
            connection->since_ns = hpl_clock_mono_ns();
        if (hpl_http_input_len(in) > had)
            continue;
        if (n != HPL_LINK_AGAIN)
            return closed(connection);
        if (had == 0)
            return wait_idle(connection);
        return wait_until(connection, after_ms(connection->since_ns, connection->io->server->options.head_timeout_ms));
    }
}

/* A body may pause, but on the whole it brings min_body_rate; only time spent waiting for the client counts. */
static uint64_t body_deadline(const struct hpl_http_connection *connection)
{
    const struct hpl_http_options *options = &connection->io->server->options;
    uint64_t by_rate = after_ms(connection->since_ns, options->write_timeout_ms) +
                       connection->num_read * (1000 * NS_PER_MS / options->min_body_rate);
    uint64_t by_pause = after_ms(hpl_clock_mono_ns(), options->idle_timeout_ms);
    return by_rate < by_pause ? by_rate : by_pause;
}

/* Reads up to 1 MiB of the body. Room grows with what comes, so that an announced length alone costs nothing. */
static ssize_t fill_body(struct hpl_http_connection *connection)
{
    const struct hpl_body *body = &connection->exchange->body;
    size_t most = body->is_chunked || body->raw_left > HPL_HTTP_BLOCK ? HPL_HTTP_BLOCK : (size_t)body->raw_left;
    size_t room = connection->in.cap > FIRST_BODY ? connection->in.cap : FIRST_BODY;
    for (;; room *= 4) {
        ssize_t n = fill(connection, room < most ? room : most);
        if (n != 1 || room >= most)
            return n;
    }
}

static enum step step_body(struct hpl_http_connection *connection)
{
    const struct hpl_body *body = &connection->exchange->body;
    int flushed = hpl_http_flush(connection); /* 100 Continue */
    if (flushed == HPL_LINK_BROKEN)
        return finish_broken(connection);
    if (flushed == HPL_LINK_AGAIN)
        return wait_until(connection, body_deadline(connection));
    ssize_t n = fill_body(connection);
    if (n == 1 || (body->is_chunked && hpl_http_input_len(&connection->in)))
        return give_to_job(connection);
    if (n == HPL_LINK_AGAIN)
        return wait_until(connection, body_deadline(connection));
    return n == HPL_LINK_EOF ? answer_failure(connection, HPL_INCOMPLETE_BODY) : finish_broken(connection);
}

static enum step start_drain(struct hpl_http_connection *connection)
{
    hpl_link_end_writing(&connection->link);
    connection->state = HPL_STATE_DRAIN;
    connection->since_ns = hpl_clock_mono_ns();
    connection->num_read = 0;
    return STEP_ON;
}

static enum step step_write(struct hpl_http_connection *connection)
{
    struct hpl_http_exchange *exchange = connection->exchange;
    int flushed = hpl_http_flush(connection);
    if (flushed == HPL_LINK_AGAIN)
        return wait_until(connection, after_ms(hpl_clock_mono_ns(), connection->io->server->options.write_timeout_ms));
    if (!exchange)
        return flushed == 1 ? start_drain(connection) : closed(connection);
    if (exchange->is_begun)
        return flushed == 1 ? give_to_job(connection) : finish_broken(connection);
    hand_over(connection); /* to itself: the pool was full, no handler will run, so this thread may end it */
    hpl_http_exchange_run(&exchange->job);
    return STEP_WAIT;
}

/* Reads and forgets, so that closing does not reset the connection before the client has read its answer. */
static enum step step_drain(struct hpl_http_connection *connection)
{
    uint8_t junk[16384];
    while (connection->num_read < DRAIN_BYTES) {
        ssize_t n = hpl_link_read(&connection->link, junk, sizeof junk);
        if (n == HPL_LINK_AGAIN)
            return wait_until(connection, after_ms(connection->since_ns, DRAIN_MS));
        if (n <= 0)
            break;
        connection->num_read += (uint64_t)n;
    }
    return closed(connection);
}

static enum step step_over(struct hpl_http_connection *connection)
{
    const struct hpl_http_exchange *exchange = connection->exchange;
    if (!exchange->is_sent) {
        close_connection(connection, true);
        return STEP_WAIT;
    }
    if (connection->is_last)
        return connection->needs_drain || hpl_http_input_len(&connection->in) ? start_drain(connection) : closed(connection);
    hpl_http_exchange_free(connection->exchange);
    connection->exchange = NULL;
    hpl_http_output_wipe(connection);
    hpl_link_set_bulk(&connection->link, false);
    connection->since_ns = hpl_clock_mono_ns();
    connection->state = HPL_STATE_HEAD;
    connection->is_answered = true;
    return STEP_ON;
}

/* Reading comes before waiting in every state: TLS may hold bytes that epoll does not know of. */
static void advance(struct hpl_http_connection *connection)
{
    static enum step (*const steps[])(struct hpl_http_connection *) = {
        [HPL_STATE_HANDSHAKE] = step_handshake, [HPL_STATE_HEAD] = step_head,   [HPL_STATE_BODY] = step_body,
        [HPL_STATE_WRITE] = step_write,         [HPL_STATE_DRAIN] = step_drain, [HPL_STATE_OVER] = step_over,
    };
    while (steps[connection->state](connection) == STEP_ON)
        continue;
}

static void adopt(struct hpl_http_connection *connection)
{
    struct hpl_http_io *io = connection->io;
    connection->next = io->all;
    if (io->all)
        io->all->previous = connection;
    io->all = connection;
}

void hpl_http_connection_enter(struct hpl_http_connection *connection)
{
    connection->num_quick = 0;
    if (connection->state == HPL_STATE_HANDSHAKE)
        adopt(connection);
    else
        resume(connection);
    if (atomic_load(&connection->io->server->is_ending) && connection->state != HPL_STATE_OVER)
        hpl_http_connection_wind_up(connection);
    else
        advance(connection);
}

/* Armed before its deadline passed, the socket may wake a connection that a job has by now: that reads first when it is back. */
void hpl_http_connection_wake(struct hpl_http_connection *connection)
{
    if (connection->state == HPL_STATE_JOB)
        return;
    connection->num_quick = 0;
    advance(connection);
}

void hpl_http_connection_expire(struct hpl_http_connection *connection)
{
    switch (connection->state) {
    case HPL_STATE_HEAD:
        if (hpl_http_input_len(&connection->in) == 0) {
            closed(connection);
            break;
        }
        refuse(connection, 408, "the head did not come in time");
        advance(connection);
        break;
    case HPL_STATE_BODY:
        answer_failure(connection, HPL_REQUEST_TIMEOUT);
        break;
    case HPL_STATE_WRITE:
        if (is_under_way(connection))
            finish_broken(connection);
        else
            close_connection(connection, true);
        break;
    default:
        closed(connection);
    }
}

void hpl_http_connection_wind_up(struct hpl_http_connection *connection)
{
    bool is_idle = connection->state == HPL_STATE_HANDSHAKE ||
                   (connection->state == HPL_STATE_HEAD && hpl_http_input_len(&connection->in) == 0);
    if (connection->state == HPL_STATE_JOB || (!is_idle && !atomic_load(&connection->io->server->is_ending)))
        return;
    break_off(connection);
}
