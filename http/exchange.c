/* One request and its answer, seen from the handler: what begin, body, end, produce and finish may call, and the job that runs
 * them in order. Runs on a pool's threads, quick requests on the I/O thread; the exchange's job owns the connection while it runs. */
#include "http/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"

struct hpl_http_exchange *hpl_http_exchange_new(struct hpl_http_connection *connection)
{
    struct hpl_http_exchange *exchange = calloc(1, sizeof *exchange);
    if (!exchange)
        return NULL;
    exchange->connection = connection;
    exchange->job.run = hpl_http_exchange_run;
    return exchange;
}

void hpl_http_exchange_free(struct hpl_http_exchange *exchange)
{
    if (!exchange)
        return;
    if (exchange->has_body)
        hpl_body_wipe(&exchange->body);
    if (exchange->credential_count)
        atomic_fetch_sub(exchange->credential_count, 1);
    hpl_buf_wipe(&exchange->whole);
    hpl_buf_wipe(&exchange->headers);
    hpl_http_input_wipe(&exchange->connection->io->server->blocks, &exchange->head_in);
    free(exchange);
}

/* A front of ours, behind the Unix socket, says how its client came; from anybody else the header means nothing. */
static bool came_over_tls(const struct hpl_http_exchange *exchange)
{
    static const char name[] = "x-forwarded-proto";
    const struct hpl_http_connection *connection = exchange->connection;
    if (!connection->is_unix)
        return connection->link.ssl != NULL;
    return hpl_http_count_headers(&exchange->request, name) == 1 && hpl_http_is_word(hpl_http_header(&exchange->request, name), "https");
}

bool hpl_http_exchange_open(struct hpl_http_exchange *exchange)
{
    const struct hpl_http_connection *connection = exchange->connection;
    const struct hpl_http_server *server = connection->io->server;
    const struct hpl_http_head *head = &exchange->head;
    exchange->request = (struct hpl_http_request){
        .method = head->method, .target = head->target, .path = head->path, .query = head->query,
        .headers = head->headers, .num_headers = head->num_headers, .content_length = head->content_length,
        .is_chunked = head->is_chunked, .is_loopback = connection->is_loopback};
    exchange->request.is_tls = came_over_tls(exchange);
    memcpy(exchange->request.peer, connection->peer, sizeof connection->peer);
    exchange->started_ns = hpl_clock_mono_ns();
    exchange->phase = HPL_PHASE_BEGIN;
    hpl_call_init(&exchange->call, server->options.request_timeout_ms);
    for (size_t i = 0; i < server->options.num_routes && !exchange->route; i++) {
        struct hpl_bytes prefix = hpl_bytes_str(server->routes[i].prefix);
        if (head->path.len >= prefix.len && memcmp(head->path.data, prefix.data, prefix.len) == 0)
            exchange->route = &server->routes[i];
    }
    return exchange->route != NULL;
}

const struct hpl_http_request *hpl_http_request(const struct hpl_http_exchange *exchange) { return &exchange->request; }
struct hpl_call *hpl_http_call(struct hpl_http_exchange *exchange) { return &exchange->call; }
void *hpl_http_app(const struct hpl_http_exchange *exchange) { return exchange->route->app; }
void hpl_http_set_data(struct hpl_http_exchange *exchange, void *data) { exchange->data = data; }
void *hpl_http_data(const struct hpl_http_exchange *exchange) { return exchange->data; }

enum hpl_status hpl_http_set_identity(struct hpl_http_exchange *exchange, const char *access_key)
{
    struct hpl_http_server *server = exchange->connection->io->server;
    unsigned most = server->options.max_per_credential;
    size_t len = strnlen(access_key, HPL_ACCESS_KEY_MAX);
    memcpy(exchange->access_key, access_key, len);
    exchange->access_key[len] = '\0';
    if (most == 0 || exchange->credential_count) /* a quick request that was put off comes by again */
        return HPL_OK;
    exchange->credential_count = hpl_http_take_share(&server->credentials, exchange->access_key, most);
    return exchange->credential_count ? HPL_OK : hpl_fail(&exchange->call, HPL_SLOW_DOWN, "this credential has %u requests under way already", most);
}

struct hpl_bytes hpl_http_header(const struct hpl_http_request *request, const char *name)
{
    for (size_t i = 0; i < request->num_headers; i++)
        if (hpl_http_is_word(request->headers[i].name, name))
            return request->headers[i].value;
    return (struct hpl_bytes){0};
}

size_t hpl_http_count_headers(const struct hpl_http_request *request, const char *name)
{
    size_t count = 0;
    for (size_t i = 0; i < request->num_headers; i++)
        count += hpl_http_is_word(request->headers[i].name, name);
    return count;
}

static int64_t aws_decoded_length(const struct hpl_http_request *request)
{
    static const char name[] = "x-amz-decoded-content-length";
    return hpl_http_count_headers(request, name) == 1 ? hpl_http_parse_length(hpl_http_header(request, name)) : -1;
}

int64_t hpl_http_decoded_length(const struct hpl_http_exchange *exchange)
{
    static const char streaming[] = "STREAMING-";
    struct hpl_bytes sha256 = hpl_http_header(&exchange->request, "x-amz-content-sha256");
    if (sha256.len >= sizeof streaming - 1 && memcmp(sha256.data, streaming, sizeof streaming - 1) == 0)
        return aws_decoded_length(&exchange->request);
    return exchange->request.content_length;
}

void hpl_http_expect_body(struct hpl_http_exchange *exchange, struct hpl_sigv4_payload *payload, uint64_t max, bool whole)
{
    const struct hpl_http_request *request = &exchange->request;
    HPL_CHECK(exchange->phase == HPL_PHASE_BEGIN && !exchange->has_body && !exchange->is_answered);
    HPL_CHECK(whole || exchange->route->handler->body);
    exchange->has_body = true;
    exchange->is_whole = whole;
    exchange->failure = hpl_body_init(&exchange->call, &exchange->body, request->content_length, request->is_chunked,
                                      aws_decoded_length(request), payload, max);
}

struct hpl_bytes hpl_http_whole_body(const struct hpl_http_exchange *exchange)
{
    return hpl_buf_bytes(&exchange->whole);
}

struct hpl_bytes hpl_http_trailer(const struct hpl_http_exchange *exchange, const char *name)
{
    return hpl_body_trailer(&exchange->body, name);
}

void hpl_http_exchange_fail(struct hpl_http_exchange *exchange)
{
    enum hpl_status failure = exchange->failure;
    exchange->failure = HPL_OK;
    hpl_buf_wipe(&exchange->headers);
    if (exchange->route->fail)
        exchange->route->fail(exchange, failure);
    if (!exchange->is_answered) {
        hpl_http_status(exchange, hpl_status_row(failure)->kms_http);
        hpl_http_send(exchange, "text/plain", hpl_bytes_str(hpl_detail(&exchange->call, failure)));
    }
}

static bool take_span(void *arg, struct hpl_bytes span)
{
    struct hpl_http_exchange *exchange = arg;
    if (exchange->is_whole)
        hpl_buf_put_bytes(&exchange->whole, span);
    else
        exchange->route->handler->body(exchange, span.data, span.len);
    return !exchange->is_answered;
}

/* A handler that neither answered nor asked for more is a fault of ours, but no reason to take the daemon down. */
static void must_answer(struct hpl_http_exchange *exchange)
{
    if (!exchange->is_answered && !exchange->is_put_off && exchange->failure == HPL_OK)
        exchange->failure = hpl_fail(&exchange->call, HPL_INTERNAL, "the %s handler gave no answer", exchange->route->handler->name);
}

static void run_begin(struct hpl_http_exchange *exchange)
{
    exchange->is_begun = true;
    exchange->route->handler->begin(exchange);
    if (!exchange->has_body)
        must_answer(exchange);
    if (exchange->is_answered || exchange->is_put_off || exchange->failure != HPL_OK)
        return;
    exchange->phase = HPL_PHASE_BODY;
    if (exchange->head.expects_continue && exchange->connection->in.start == exchange->connection->in.end)
        hpl_buf_put_str(&exchange->connection->out.text, "HTTP/1.1 100 Continue\r\n\r\n");
}

static void run_body(struct hpl_http_exchange *exchange)
{
    struct hpl_http_input *in = &exchange->connection->in;
    struct hpl_bytes input = hpl_bytes(in->data + in->start, in->end - in->start);
    exchange->failure = hpl_body_feed(&exchange->call, &exchange->body, &input, take_span, exchange);
    in->start = in->end - input.len;
    if (exchange->failure == HPL_OK && exchange->body.is_done)
        exchange->failure = hpl_body_check_trailers(&exchange->call, &exchange->body, hpl_http_header(&exchange->request, "x-amz-trailer"));
    if (exchange->failure == HPL_OK)
        exchange->failure = hpl_buf_check(&exchange->whole);
    if (exchange->failure == HPL_OK && !exchange->is_answered && exchange->body.is_done)
        exchange->phase = HPL_PHASE_END;
}

static void run_end(struct hpl_http_exchange *exchange)
{
    exchange->route->handler->end(exchange);
    must_answer(exchange);
}

/* Fills the block with the next bytes of the answer. */
static enum hpl_status produce(struct hpl_http_exchange *exchange)
{
    struct hpl_http_output *out = &exchange->connection->out;
    if (!out->block && !(out->block = hpl_http_block_take(&exchange->connection->io->server->blocks)))
        return hpl_fail(&exchange->call, HPL_NO_MEMORY, "out of memory");
    size_t cap = exchange->num_left < HPL_HTTP_BLOCK ? (size_t)exchange->num_left : HPL_HTTP_BLOCK, len = 0;
    HPL_TRY(exchange->route->handler->produce(exchange, out->block, cap, &len));
    HPL_CHECK(len > 0 && len <= cap);
    hpl_http_put_due_head(exchange);
    out->block_at = 0;
    out->block_len = len;
    out->block_used = len > out->block_used ? len : out->block_used;
    exchange->num_left -= len;
    exchange->num_body += len;
    return HPL_OK;
}

/* Before anything was sent another answer takes the place of the stream; later only a broken connection tells the truth. */
static void break_off(struct hpl_http_exchange *exchange, enum hpl_status status)
{
    if (!exchange->is_head_due) {
        hpl_log(HPL_LOG_ERROR, "http.broken_off", HPL_S("request_id", exchange->call.request_id), HPL_S("failure", hpl_detail(&exchange->call, status)));
        exchange->phase = HPL_PHASE_DEAD;
        return;
    }
    exchange->is_answered = exchange->is_head_due = false;
    exchange->num_left = 0;
    exchange->failure = status;
    hpl_http_exchange_fail(exchange);
}

/* Hands out what there is; at most one block a job, so that connections take turns. True when there is more at once. */
static bool run_answer(struct hpl_http_exchange *exchange)
{
    struct hpl_http_output *out = &exchange->connection->out;
    enum hpl_status produced = exchange->num_left && out->block_at == out->block_len ? produce(exchange) : HPL_OK;
    if (produced != HPL_OK)
        break_off(exchange, produced);
    if (exchange->phase == HPL_PHASE_DEAD)
        return false;
    int result = hpl_http_flush(exchange->connection);
    if (result == HPL_LINK_BROKEN)
        exchange->phase = HPL_PHASE_DEAD;
    if (result != 1)
        return false;
    exchange->is_sent = exchange->num_left == 0;
    return !exchange->is_sent;
}

static void log_request(const struct hpl_http_exchange *exchange)
{
    char method[16], path[1025];
    const struct hpl_http_request *request = &exchange->request;
    if (!hpl_log_is_on(HPL_LOG_INFO))
        return;
    snprintf(method, sizeof method, "%.*s", (int)request->method.len, (const char *)request->method.data);
    snprintf(path, sizeof path, "%.*s", (int)request->path.len, (const char *)request->path.data);
    hpl_log(HPL_LOG_INFO, "http.request", HPL_S("method", method), HPL_S("path", path), HPL_N("status", exchange->status),
            HPL_N("bytes", exchange->num_body), HPL_N("ms", (hpl_clock_mono_ns() - exchange->started_ns) / 1000000),
            HPL_S("request_id", exchange->call.request_id), HPL_S("access_key", exchange->access_key),
            HPL_S("peer", request->peer), HPL_S("end", exchange->is_sent ? "sent" : "broken"));
}

static void run_finish(struct hpl_http_exchange *exchange)
{
    if (exchange->is_begun && exchange->route->handler->finish)
        exchange->route->handler->finish(exchange, exchange->is_sent);
    exchange->phase = HPL_PHASE_OVER;
    log_request(exchange);
}

/* The next step: all that can be done with what is there. True when there is more to hand out at once. */
static bool run_step(struct hpl_http_exchange *exchange)
{
    const struct hpl_http_server *server = exchange->connection->io->server;
    bool has_more = false;
    exchange->call.deadline_ns = hpl_clock_mono_ns() + server->options.request_timeout_ms * UINT64_C(1000000);
    if (exchange->phase == HPL_PHASE_BEGIN && exchange->failure == HPL_OK)
        run_begin(exchange);
    if (exchange->phase == HPL_PHASE_BODY && exchange->failure == HPL_OK)
        run_body(exchange);
    if (exchange->phase == HPL_PHASE_END && exchange->failure == HPL_OK)
        run_end(exchange);
    if (exchange->failure != HPL_OK)
        hpl_http_exchange_fail(exchange);
    if (exchange->phase == HPL_PHASE_ANSWER)
        has_more = run_answer(exchange);
    if (exchange->phase == HPL_PHASE_DEAD || exchange->is_sent)
        run_finish(exchange);
    return has_more;
}

static void submit(struct hpl_http_exchange *exchange)
{
    hpl_pool_submit(exchange->connection->io->server->pools[exchange->route->pool], &exchange->job);
}

void hpl_http_exchange_run(struct hpl_job *job)
{
    struct hpl_http_exchange *exchange = (struct hpl_http_exchange *)job;
    if (run_step(exchange))
        submit(exchange);
    else
        hpl_http_io_post(exchange->connection);
}

bool hpl_http_exchange_run_here(struct hpl_http_exchange *exchange)
{
    exchange->call.must_not_wait = true;
    bool has_more = run_step(exchange);
    exchange->call.must_not_wait = false;
    if (!has_more && !exchange->is_put_off)
        return true;
    exchange->is_quick = exchange->is_put_off = false;
    exchange->call.detail[0] = '\0';
    submit(exchange);
    return false;
}

void hpl_http_put_off(struct hpl_http_exchange *exchange)
{
    HPL_CHECK(exchange->is_quick && !exchange->is_answered);
    exchange->is_put_off = true;
}
