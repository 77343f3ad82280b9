/* Answers: status line and headers into the connection's output, and output into the socket. The connection's owner. */
#include "http/internal.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/codec.h"

static const char *reason_of(int status)
{
    static const struct { int status; const char *reason; } reasons[] = {
        {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"}, {206, "Partial Content"}, {304, "Not Modified"},
        {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"}, {405, "Method Not Allowed"},
        {408, "Request Timeout"}, {409, "Conflict"}, {411, "Length Required"}, {412, "Precondition Failed"},
        {413, "Content Too Large"}, {414, "URI Too Long"}, {416, "Range Not Satisfiable"}, {417, "Expectation Failed"},
        {431, "Request Header Fields Too Large"}, {500, "Internal Server Error"}, {501, "Not Implemented"},
        {503, "Service Unavailable"}, {505, "HTTP Version Not Supported"}, {507, "Insufficient Storage"},
    };
    for (size_t i = 0; i < HPL_COUNT(reasons); i++)
        if (reasons[i].status == status)
            return reasons[i].reason;
    return "Status";
}

/* The Date header's value: made once a second by each thread. */
static const char *date_now(void)
{
    static _Thread_local int64_t second = -1;
    static _Thread_local char date[40];
    int64_t now = hpl_clock_unix_ms();
    if (now / 1000 != second)
        hpl_time_text(date, now, HPL_TIME_HTTP);
    second = now / 1000;
    return date;
}

static void put_number(struct hpl_buf *text, uint64_t number)
{
    char digits[20];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    hpl_buf_put(text, digits + at, sizeof digits - at);
}

static void put_status_line(struct hpl_buf *text, int status)
{
    hpl_buf_put_str(text, "HTTP/1.1 ");
    put_number(text, (uint64_t)status);
    hpl_buf_put_str(text, " ");
    hpl_buf_put_str(text, reason_of(status));
    hpl_buf_put_str(text, "\r\nDate: ");
    hpl_buf_put_str(text, date_now());
    hpl_buf_put_str(text, "\r\nServer: hardplate\r\n");
}

void hpl_http_refusal(struct hpl_http_connection *connection, int status, const char *why)
{
    struct hpl_buf *text = &connection->out.text;
    connection->is_last = connection->needs_drain = true;
    put_status_line(text, status);
    hpl_buf_printf(text, "Content-Type: text/plain\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%s\n", strlen(why) + 1, why);
    atomic_fetch_add_explicit(&connection->io->refused, 1, memory_order_relaxed);
}

void hpl_http_status(struct hpl_http_exchange *exchange, int status)
{
    HPL_CHECK(!exchange->is_answered);
    exchange->status = status;
}

void hpl_http_add_header_bytes(struct hpl_http_exchange *exchange, const char *name, struct hpl_bytes value)
{
    HPL_CHECK(!exchange->is_answered);
    for (size_t i = 0; i < value.len; i++)
        if ((value.data[i] < 0x20 && value.data[i] != '\t') || value.data[i] == 0x7f)
            return;
    hpl_buf_put_str(&exchange->headers, name);
    hpl_buf_put_str(&exchange->headers, ": ");
    hpl_buf_put_bytes(&exchange->headers, value);
    hpl_buf_put_str(&exchange->headers, "\r\n");
}

void hpl_http_add_header(struct hpl_http_exchange *exchange, const char *name, const char *fmt, ...)
{
    struct hpl_buf value = {0};
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    uint8_t *at = len >= 0 ? hpl_buf_extend(&value, (size_t)len + 1) : NULL;
    if (at) {
        vsnprintf((char *)at, (size_t)len + 1, fmt, again);
        hpl_http_add_header_bytes(exchange, name, hpl_bytes(at, (size_t)len));
    } else {
        exchange->headers.is_failed = true;
    }
    va_end(again);
    hpl_buf_wipe(&value);
}

void hpl_http_put_method(struct hpl_buf *list, const char *method)
{
    const char *text = list->len ? hpl_buf_text(list) : NULL;
    if (!text || !strstr(text, method)) /* no method's name is a part of another's */
        hpl_buf_printf(list, "%s%s", text ? ", " : "", method);
}

/* The connection ends after this answer when anyone wants that, when the request was not read to its end, or when a client that waits for "100" hears
 * something else: some read the next answer on that connection wrongly. */
static void decide_last(struct hpl_http_exchange *exchange)
{
    struct hpl_http_connection *connection = exchange->connection;
    const struct hpl_http_head *head = &exchange->head;
    bool is_read = exchange->has_body ? exchange->body.is_done : !head->is_chunked && head->content_length <= 0;
    if (!is_read)
        connection->needs_drain = true;
    if (!is_read || !head->is_keep_alive || (head->expects_continue && !exchange->has_body) || atomic_load(&connection->io->server->is_stopping))
        connection->is_last = true;
}

/* Status line and headers; has_length: the status is one that has a body. */
static void put_head(struct hpl_http_exchange *exchange, uint64_t len, bool has_length)
{
    struct hpl_http_connection *connection = exchange->connection;
    struct hpl_buf *text = &connection->out.text;
    HPL_CHECK(exchange->status >= 200);
    decide_last(exchange);
    put_status_line(text, exchange->status);
    hpl_buf_put_str(text, "x-amz-request-id: ");
    hpl_buf_put_str(text, exchange->call.request_id);
    hpl_buf_put_str(text, "\r\n");
    hpl_buf_put_bytes(text, hpl_buf_bytes(&exchange->headers));
    if (has_length) {
        hpl_buf_put_str(text, "Content-Length: ");
        put_number(text, len);
        hpl_buf_put_str(text, "\r\n");
    }
    if (connection->is_last)
        hpl_buf_put_str(text, "Connection: close\r\n");
    else if (exchange->head.is_http10)
        hpl_buf_put_str(text, "Connection: keep-alive\r\n");
    hpl_buf_put_str(text, "\r\n");
    text->is_failed |= exchange->headers.is_failed;
}

static void answered(struct hpl_http_exchange *exchange)
{
    HPL_CHECK(!exchange->is_answered);
    exchange->is_answered = true;
    exchange->phase = HPL_PHASE_ANSWER;
}

static bool may_have_body(int status)
{
    return status != 204 && status != 304;
}

static bool is_head_request(const struct hpl_http_exchange *exchange)
{
    return hpl_bytes_equal(exchange->request.method, hpl_bytes_str("HEAD"));
}

void hpl_http_send(struct hpl_http_exchange *exchange, const char *content_type, struct hpl_bytes body)
{
    if (content_type)
        hpl_http_add_header_bytes(exchange, "Content-Type", hpl_bytes_str(content_type));
    bool has_body = may_have_body(exchange->status);
    answered(exchange);
    put_head(exchange, body.len, has_body);
    if (has_body && !is_head_request(exchange)) {
        hpl_buf_put_bytes(&exchange->connection->out.text, body);
        exchange->num_body = body.len;
    }
}

void hpl_http_send_empty(struct hpl_http_exchange *exchange)
{
    hpl_http_send(exchange, NULL, (struct hpl_bytes){0});
}

void hpl_http_stream(struct hpl_http_exchange *exchange, uint64_t len, bool head_only)
{
    bool has_body = may_have_body(exchange->status);
    answered(exchange);
    exchange->is_head_due = has_body && len && !head_only && !is_head_request(exchange);
    if (exchange->is_head_due)
        exchange->num_left = len;
    else
        put_head(exchange, len, has_body);
}

void hpl_http_put_due_head(struct hpl_http_exchange *exchange)
{
    if (exchange->is_head_due)
        put_head(exchange, exchange->num_left, true);
    exchange->is_head_due = false;
}

bool hpl_http_is_answered(const struct hpl_http_exchange *exchange)
{
    return exchange->is_answered;
}

/* One write; moves *at forward. */
static int write_some(struct hpl_http_connection *connection, const uint8_t *data, size_t len, size_t *at, bool has_more)
{
    while (*at < len) {
        ssize_t n = hpl_link_write(&connection->link, data + *at, len - *at, has_more);
        if (n <= 0)
            return n == HPL_LINK_AGAIN ? HPL_LINK_AGAIN : HPL_LINK_BROKEN;
        *at += (size_t)n;
        atomic_fetch_add_explicit(&connection->io->bytes_out, (uint64_t)n, memory_order_relaxed);
    }
    return 1;
}

int hpl_http_flush(struct hpl_http_connection *connection)
{
    struct hpl_http_output *out = &connection->out;
    if (out->text.is_failed)
        return HPL_LINK_BROKEN;
    bool has_more = out->block_at < out->block_len;
    int result = write_some(connection, out->text.data, out->text.len, &out->text_at, has_more);
    if (result != 1)
        return result;
    if (out->text.data)
        hpl_buf_wipe(&out->text);
    out->text_at = 0;
    return write_some(connection, out->block, out->block_len, &out->block_at, false);
}

void hpl_http_output_wipe(struct hpl_http_connection *connection)
{
    struct hpl_http_output *out = &connection->out;
    hpl_buf_wipe(&out->text);
    if (out->block)
        hpl_http_block_give(&connection->io->server->blocks, out->block, out->block_used);
    *out = (struct hpl_http_output){0};
}
