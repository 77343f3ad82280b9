/* The server over real sockets: order, bodies both ways, clients that misbehave or leave, deadlines, drain, TLS, idle memory. */
#include "tests/test.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/hash.h"
#include "base/log.h"
#include "http/http.h"

#define MIB (1u << 20)

static _Atomic int num_begun, num_sent, num_broken;

struct transfer {
    uint64_t len, at;
    uint32_t sum;
};

static uint32_t add_sum(uint32_t sum, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + data[i];
    return sum;
}

static struct transfer *new_transfer(struct hpl_http_exchange *exchange, uint64_t len)
{
    struct transfer *transfer = calloc(1, sizeof *transfer);
    HPL_CHECK(transfer);
    transfer->len = len;
    hpl_http_set_data(exchange, transfer);
    return transfer;
}

static void send_text(struct hpl_http_exchange *exchange, int status, const char *text)
{
    hpl_http_status(exchange, status);
    hpl_http_send(exchange, "text/plain", hpl_bytes_str(text));
}

static void begin_sum(struct hpl_http_exchange *exchange)
{
    struct hpl_sigv4_payload payload = {.mode = HPL_PAYLOAD_UNSIGNED};
    struct hpl_bytes sha256 = hpl_http_header(hpl_http_request(exchange), "x-amz-content-sha256");
    num_begun++;
    new_transfer(exchange, 0);
    if (sha256.len == 64) {
        payload.mode = HPL_PAYLOAD_HASHED;
        HPL_CHECK(hpl_hex_decode(payload.sha256, 32, (const char *)sha256.data, 64));
    } else if (sha256.len) {
        payload.mode = HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER;
    }
    hpl_http_expect_body(exchange, &payload, UINT64_C(1) << 32, false);
}

static void body_sum(struct hpl_http_exchange *exchange, const uint8_t *data, size_t len)
{
    struct transfer *transfer = hpl_http_data(exchange);
    transfer->sum = add_sum(transfer->sum, data, len);
    transfer->len += len;
}

static void end_sum(struct hpl_http_exchange *exchange)
{
    char text[100];
    const struct transfer *transfer = hpl_http_data(exchange);
    struct hpl_bytes trailer = hpl_http_trailer(exchange, "x-note");
    snprintf(text, sizeof text, "%llu %08x %.*s", (unsigned long long)transfer->len, transfer->sum, (int)trailer.len,
             trailer.data ? (const char *)trailer.data : "");
    send_text(exchange, 200, text);
}

static void finish(struct hpl_http_exchange *exchange, bool is_sent)
{
    free(hpl_http_data(exchange));
    if (is_sent)
        num_sent++;
    else
        num_broken++;
}

static void begin_whole(struct hpl_http_exchange *exchange)
{
    num_begun++;
    hpl_http_expect_body(exchange, NULL, 1000, true);
}

static void end_whole(struct hpl_http_exchange *exchange)
{
    hpl_http_status(exchange, 200);
    hpl_http_send(exchange, "text/plain", hpl_http_whole_body(exchange));
}

static void begin_stream(struct hpl_http_exchange *exchange)
{
    struct hpl_bytes query = hpl_http_request(exchange)->query;
    num_begun++;
    new_transfer(exchange, strtoull((const char *)query.data, NULL, 10));
    hpl_http_status(exchange, 200);
    hpl_http_stream(exchange, ((struct transfer *)hpl_http_data(exchange))->len, false);
}

static enum hpl_status produce_stream(struct hpl_http_exchange *exchange, uint8_t *to, size_t cap, size_t *len)
{
    struct transfer *transfer = hpl_http_data(exchange);
    if (strncmp((const char *)hpl_http_request(exchange)->path.data, "/break", 6) == 0 && transfer->at >= (transfer->len > 9 ? MIB : 0))
        return hpl_fail(hpl_http_call(exchange), HPL_INTEGRITY, "damaged");
    for (size_t i = 0; i < cap; i++)
        to[i] = (uint8_t)((transfer->at + i) * 7 >> 3);
    transfer->at += cap;
    *len = cap;
    return HPL_OK;
}

static void begin_refuse(struct hpl_http_exchange *exchange)
{
    num_begun++;
    send_text(exchange, 403, "no");
}

static void body_refuse(struct hpl_http_exchange *exchange, const uint8_t *data, size_t len)
{
    (void)data, (void)len;
    send_text(exchange, 409, "enough");
}

static void begin_slow(struct hpl_http_exchange *exchange)
{
    num_begun++;
    usleep(150000);
    send_text(exchange, 200, "slow");
}

static atomic_bool is_held;
static _Atomic int num_held;

/* Runs until it is let go. */
static void begin_held(struct hpl_http_exchange *exchange)
{
    num_begun++;
    num_held++;
    while (is_held)
        usleep(1000);
    num_held--;
    send_text(exchange, 200, "held");
}

static void begin_mute(struct hpl_http_exchange *exchange)
{
    (void)exchange;
    num_begun++;
}

static void begin_info(struct hpl_http_exchange *exchange)
{
    const struct hpl_http_request *request = hpl_http_request(exchange);
    char text[400];
    num_begun++;
    snprintf(text, sizeof text, "%.*s %.*s [%.*s] %s tls=%d loopback=%d", (int)request->method.len, request->method.data,
             (int)request->path.len, request->path.data, (int)request->query.len, request->query.data, request->peer,
             request->is_tls, request->is_loopback);
    hpl_http_add_header(exchange, "x-bad", "%s", "a\r\nb: c");
    hpl_http_add_header(exchange, "x-good", "%d", 7);
    send_text(exchange, 200, text);
}

/* Who ran begin and who end; the query says which of them has to wait. */
struct quick {
    char begin[16], end[16];
};

static bool has_to_wait(struct hpl_http_exchange *exchange, const char *where)
{
    return hpl_http_call(exchange)->must_not_wait && hpl_bytes_equal(hpl_http_request(exchange)->query, hpl_bytes_str(where));
}

static void begin_quick(struct hpl_http_exchange *exchange)
{
    if (has_to_wait(exchange, "begin")) {
        hpl_http_put_off(exchange);
        return;
    }
    struct quick *quick = calloc(1, sizeof *quick);
    num_begun++;
    pthread_getname_np(pthread_self(), quick->begin, sizeof quick->begin);
    hpl_http_set_data(exchange, quick);
    hpl_http_expect_body(exchange, NULL, 100000, true);
}

static void end_quick(struct hpl_http_exchange *exchange)
{
    char text[80];
    struct quick *quick = hpl_http_data(exchange);
    pthread_getname_np(pthread_self(), quick->end, sizeof quick->end);
    if (has_to_wait(exchange, "end")) {
        hpl_http_put_off(exchange);
        return;
    }
    snprintf(text, sizeof text, "%.8s %.8s %zu", quick->begin, quick->end, hpl_http_whole_body(exchange).len);
    send_text(exchange, 200, text);
}

static bool is_quick(const struct hpl_http_exchange *exchange)
{
    return !hpl_bytes_equal(hpl_http_request(exchange)->query, hpl_bytes_str("never"));
}

static void fail(struct hpl_http_exchange *exchange, enum hpl_status status)
{
    hpl_http_status(exchange, hpl_status_row(status)->s3_http);
    hpl_http_send(exchange, "text/plain", hpl_bytes_str(hpl_status_row(status)->s3_code));
}

static void begin_mine(struct hpl_http_exchange *exchange)
{
    char who[20];
    struct hpl_bytes header = hpl_http_header(hpl_http_request(exchange), "x-who");
    snprintf(who, sizeof who, "%.*s", (int)header.len, (const char *)header.data);
    enum hpl_status status = hpl_http_set_identity(exchange, who);
    if (status == HPL_OK) {
        begin_whole(exchange);
        return;
    }
    num_begun++;
    fail(exchange, status);
}

static const struct hpl_http_handler
    sum = {"sum", begin_sum, body_sum, end_sum, NULL, finish}, whole = {"whole", begin_whole, NULL, end_whole, NULL, finish},
    mine = {"mine", begin_mine, NULL, end_whole, NULL, finish}, stream = {"stream", begin_stream, NULL, NULL, produce_stream, finish},
    refuse = {"refuse", begin_refuse, NULL, NULL, NULL, finish}, slow = {"slow", begin_slow, NULL, NULL, NULL, finish},
    held = {"held", begin_held, NULL, NULL, NULL, finish},
    early = {"early", begin_sum, body_refuse, end_sum, NULL, finish}, info = {"info", begin_info, NULL, NULL, NULL, finish},
    mute = {"mute", begin_mute, NULL, NULL, NULL, finish}, quick = {"quick", begin_quick, NULL, end_quick, NULL, finish};

static const struct hpl_http_route routes[] = {
    {"/sum", &sum, NULL, HPL_HTTP_POOL_BULK, fail},      {"/whole", &whole, NULL, HPL_HTTP_POOL_CONTROL, fail},
    {"/stream", &stream, NULL, HPL_HTTP_POOL_BULK, fail}, {"/break", &stream, NULL, HPL_HTTP_POOL_BULK, fail},
    {"/refuse", &refuse, NULL, HPL_HTTP_POOL_BULK, fail}, {"/early", &early, NULL, HPL_HTTP_POOL_BULK, fail},
    {"/slow", &slow, NULL, HPL_HTTP_POOL_CONTROL, fail},  {"/info", &info, NULL, HPL_HTTP_POOL_CONTROL, fail},
    {"/mine", &mine, NULL, HPL_HTTP_POOL_CONTROL, fail},
    {"/held", &held, NULL, HPL_HTTP_POOL_CONTROL, fail},  {"/stuck", &held, NULL, HPL_HTTP_POOL_CONTROL, fail, is_quick},
    {"/mute", &mute, NULL, HPL_HTTP_POOL_CONTROL, NULL},  {"/quick", &quick, NULL, HPL_HTTP_POOL_CONTROL, fail, is_quick},
};

static struct hpl_http_server *start(struct hpl_http_options options)
{
    struct hpl_http_server *server = NULL;
    struct hpl_call call = {0};
    hpl_log_set_level(HPL_LOG_WARN);
    num_begun = num_sent = num_broken = 0;
    options.listen = "127.0.0.1:0";
    options.routes = routes;
    options.num_routes = HPL_COUNT(routes);
    options.num_io_threads = 2;
    EXPECT_OK(hpl_http_start(&call, &server, &options));
    return server;
}

static void stop(struct hpl_http_server *server)
{
    hpl_http_stop(server, 1000);
    EXPECT_NUM(num_sent + num_broken, num_begun);
}

static int dial(const struct hpl_http_server *server)
{
    const char *address = hpl_http_address(server);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 20};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    EXPECT(connect(fd, (struct sockaddr *)&to, sizeof to) == 0);
    return fd;
}

static bool put(int fd, const void *data, size_t len)
{
    for (const uint8_t *at = data; len;) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL);
        if (n <= 0)
            return false;
        at += n;
        len -= (size_t)n;
    }
    return true;
}

static void say(int fd, const char *text)
{
    EXPECT(put(fd, text, strlen(text)));
}

/* Reads until the peer closes; the text is valid until the next call. *errno_out: 0 for a clean end. */
static const char *hear(int fd, int *error)
{
    static char text[65536];
    size_t len = 0;
    ssize_t n;
    while ((n = recv(fd, text + len, sizeof text - 1 - len, 0)) > 0)
        len += (size_t)n;
    if (error)
        *error = n < 0 ? errno : 0;
    text[len] = '\0';
    close(fd);
    return text;
}

/* Reads one answer: its head and Content-Length bytes. */
static const char *hear_one(int fd)
{
    static char text[65536];
    size_t len = 0;
    char *end;
    text[0] = '\0';
    while (!(end = strstr(text, "\r\n\r\n")) && recv(fd, text + len, 1, 0) == 1)
        text[++len] = '\0';
    EXPECT(end != NULL);
    const char *length = strstr(text, "Content-Length: ");
    for (size_t left = length ? strtoul(length + 16, NULL, 10) : 0; left; left--) {
        EXPECT(recv(fd, text + len, 1, 0) == 1);
        text[++len] = '\0';
    }
    return text;
}

/* For what another thread does: until the count is that, or so long that it never will be. */
static bool comes_to(const _Atomic int *count, int want)
{
    for (int i = 0; i < 30000 && *count != want; i++)
        usleep(1000);
    return *count == want;
}

static bool has_open(const struct hpl_http_server *server, uint64_t want)
{
    struct hpl_http_counters counters;
    for (int i = 0; i < 30000; i++, usleep(1000)) {
        hpl_http_count(server, &counters);
        if (counters.open_connections == want)
            return true;
    }
    return false;
}

static bool has(const char *text, const char *part)
{
    if (strstr(text, part))
        return true;
    fprintf(stderr, "\n    no '%s' in:\n%s\n", part, text);
    return false;
}

HPL_TEST(a_request_is_answered_with_the_headers_that_are_due)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    say(fd, "GET /info/a%20b?x=1&y HTTP/1.1\r\nHost: h\r\n\r\n");
    const char *answer = hear_one(fd);
    EXPECT(has(answer, "HTTP/1.1 200 OK\r\n") && has(answer, "\r\nDate: ") && has(answer, "\r\nx-amz-request-id: "));
    EXPECT(has(answer, "GET /info/a%20b [x=1&y] 127.0.0.1 tls=0 loopback=1") && has(answer, "x-good: 7\r\n"));
    EXPECT(!strstr(answer, "x-bad") && !strstr(answer, "Connection:"));
    say(fd, "HEAD /info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    answer = hear(fd, NULL);
    EXPECT(has(answer, "Connection: close\r\n") && has(answer, "\r\n\r\n"));
    EXPECT_TEXT(strstr(answer, "\r\n\r\n"), "\r\n\r\n");
    stop(server);
    EXPECT_NUM(num_sent, 2);
}

HPL_TEST(a_handler_without_an_answer_costs_only_its_own_request)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    say(fd, "GET /mute HTTP/1.1\r\nHost: h\r\n\r\n");
    const char *answer = hear_one(fd);
    EXPECT(has(answer, "HTTP/1.1 500 ") && has(answer, "the mute handler gave no answer"));
    say(fd, "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(has(hear_one(fd), "200 OK"));
    close(fd);
    stop(server);
}

HPL_TEST(pipelined_requests_are_answered_in_order)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    char all[8192] = "";
    for (int i = 0; i < 20; i++)
        sprintf(all + strlen(all),
                i % 2 ? "GET /info/%d HTTP/1.1\r\nHost: h\r\n\r\n"
                      : "POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n%03d",
                i);
    say(fd, all);
    for (int i = 0; i < 20; i++) {
        char want[40];
        snprintf(want, sizeof want, i % 2 ? "GET /info/%d [" : "\r\n\r\n%03d", i);
        EXPECT(has(hear_one(fd), want));
    }
    close(fd);
    stop(server);
}

HPL_TEST(a_quick_request_stays_on_the_io_thread_until_it_has_to_wait)
{
    static const struct { const char *query, *want; } rows[] = {
        {"", "http-io- http-io- 5"}, {"?never", "http-con http-con 5"}, {"?begin", "http-con http-con 5"}, {"?end", "http-io- http-con 5"}};
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    for (int is_split = 0; is_split < 2; is_split++)
        for (size_t i = 0; i < HPL_COUNT(rows); i++) {
            char text[200];
            snprintf(text, sizeof text, "POST /quick%s HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n%s", rows[i].query, is_split ? "he" : "hello");
            say(fd, text);
            if (is_split) {
                usleep(50000);
                say(fd, "llo");
            }
            EXPECT(has(hear_one(fd), rows[i].want));
        }
    close(fd);
    stop(server);
    EXPECT_NUM(num_broken, 0);
}

/* Others have their turn after some, so both kinds of threads have run. */
HPL_TEST(quick_requests_in_a_row_are_answered_in_order)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server), num_on_jobs = 0;
    struct hpl_buf all = {0};
    for (int i = 1; i <= 300; i++)
        hpl_buf_printf(&all, "POST /quick%s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%0*d", i % 40 ? "" : "?end", i, i, i);
    EXPECT(put(fd, all.data, all.len));
    for (int i = 1; i <= 300; i++) {
        char want[16];
        snprintf(want, sizeof want, " %d", i);
        const char *answer = hear_one(fd);
        EXPECT(has(answer, want));
        num_on_jobs += strstr(answer, "http-con http-con") != NULL;
    }
    EXPECT(num_on_jobs > 0 && num_on_jobs < 100);
    hpl_buf_wipe(&all);
    close(fd);
    stop(server);
    EXPECT_NUM(num_sent, 300);
}

HPL_TEST(a_quick_request_that_breaks_off_lets_the_handler_finish)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.write_timeout_ms = 200});
    int left = dial(server), stalled = dial(server);
    say(left, "POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
    say(stalled, "POST /quick HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe");
    EXPECT(comes_to(&num_begun, 2));
    close(left);
    EXPECT(has(hear(stalled, NULL), "RequestTimeout"));
    stop(server);
    EXPECT_NUM(num_begun, 2);
}

HPL_TEST(a_request_that_comes_byte_by_byte_is_answered_the_same)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    const char *text = "POST /whole HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-A: b\r\n\r\n"
                       "GET /info/next HTTP/1.1\r\nHost: h\r\n\r\n";
    for (; *text; text++) {
        EXPECT(put(fd, text, 1));
        usleep(200);
    }
    EXPECT(has(hear_one(fd), "\r\n\r\nabcde"));
    EXPECT(has(hear_one(fd), "GET /info/next"));
    close(fd);
    stop(server);
}

HPL_TEST(continue_is_sent_only_when_a_body_is_wanted_and_none_has_come)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    EXPECT_TEXT(hear_one(fd), "HTTP/1.1 100 Continue\r\n\r\n");
    say(fd, "hi");
    EXPECT(has(hear_one(fd), "HTTP/1.1 200 OK"));
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    EXPECT(has(hear_one(fd), "HTTP/1.1 200 OK"));
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n");
    EXPECT_TEXT(hear_one(fd), "HTTP/1.1 100 Continue\r\n\r\n");
    EXPECT(has(hear_one(fd), "\r\n\r\n0 00000000"));
    say(fd, "PUT /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    EXPECT(has(hear(fd, NULL), "HTTP/1.1 403 "));
    stop(server);
}

HPL_TEST(http_1_0_closes_unless_it_asks_to_stay)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    say(fd, "GET /info HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    EXPECT(has(hear_one(fd), "Connection: keep-alive\r\n"));
    say(fd, "GET /info HTTP/1.0\r\n\r\n");
    EXPECT(has(hear(fd, NULL), "Connection: close\r\n"));
    stop(server);
}

HPL_TEST(what_is_not_understood_is_refused_and_the_connection_ends)
{
    static const struct { const char *text, *status; } cases[] = {
        {"GET /info HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
        {"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 404 "},
        {"BREW /info HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 501 "},
        {"GET /info HTTP/1.1\nHost: h\n\n", "HTTP/1.1 400 "},
        {"POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400 "},
        {"POST /whole HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\n", "HTTP/1.1 400 "},
        {"POST /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 1001\r\n\r\n", "HTTP/1.1 400 Bad Request"},
    };
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        int fd = dial(server);
        say(fd, cases[i].text);
        const char *answer = hear(fd, NULL);
        EXPECT(has(answer, cases[i].status) && has(answer, "Connection: close\r\n"));
    }
    stop(server);
}

HPL_TEST(a_body_must_be_what_its_hash_says)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    char hex[65], text[400];
    uint8_t digest[32];
    hpl_sha256(digest, "hello", 5);
    hpl_hex_encode(hex, digest, 32);
    const char *fmt = "PUT /sum HTTP/1.1\r\nHost: h\r\nx-amz-content-sha256: %s\r\nContent-Length: 5\r\n\r\n%s";
    int fd = dial(server);
    snprintf(text, sizeof text, fmt, hex, "hello");
    say(fd, text);
    EXPECT(has(hear_one(fd), "HTTP/1.1 200 OK"));
    snprintf(text, sizeof text, fmt, hex, "hellO");
    say(fd, text);
    EXPECT(has(hear_one(fd), "XAmzContentSHA256Mismatch"));
    close(fd);
    stop(server);
}

HPL_TEST(aws_chunked_with_a_trailer_works_in_either_framing)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    const char *head = "PUT /sum HTTP/1.1\r\nHost: h\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\n"
                       "Content-Encoding: aws-chunked\r\nx-amz-trailer: x-note\r\n";
    const char *body = "5\r\nhello\r\n0\r\nx-note:yes\r\n\r\n";
    char text[600];
    int fd = dial(server);
    snprintf(text, sizeof text, "%sx-amz-decoded-content-length: 5\r\nContent-Length: %zu\r\n\r\n%s", head, strlen(body), body);
    say(fd, text);
    EXPECT(has(hear_one(fd), "\r\n\r\n5 05e918d2 yes"));
    snprintf(text, sizeof text,
             "%sx-amz-decoded-content-length: 5\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n%.7s\r\n%zx\r\n%s\r\n0\r\n\r\n", head, body,
             strlen(body) - 7, body + 7);
    say(fd, text);
    EXPECT(has(hear_one(fd), "\r\n\r\n5 05e918d2 yes"));
    snprintf(text, sizeof text, "%sContent-Length: %zu\r\n\r\n%s", head, strlen(body), body);
    say(fd, text);
    EXPECT(has(hear(fd, NULL), "MissingContentLength"));
    fd = dial(server);
    snprintf(text, sizeof text, "%sx-amz-decoded-content-length: 6\r\nContent-Length: %zu\r\n\r\n%s", head, strlen(body), body);
    say(fd, text);
    EXPECT(has(hear(fd, NULL), "IncompleteBody"));
    stop(server);
}

/* The answer to a body of "hello" with these trailers, of which x-amz-trailer names those. */
static const char *send_trailers(struct hpl_http_server *server, const char *announced, const char *trailers)
{
    char text[600];
    int fd = dial(server);
    snprintf(text, sizeof text,
             "PUT /sum HTTP/1.1\r\nHost: h\r\nx-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nx-amz-trailer: %s\r\n"
             "x-amz-decoded-content-length: 5\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n5\r\nhello\r\n0\r\n%s\r\n",
             announced, strlen(trailers) + 15, trailers);
    say(fd, text);
    return hear(fd, NULL);
}

HPL_TEST(the_trailers_that_come_are_those_that_were_announced)
{
    static const char note[] = "x-note:yes\r\n", both[] = "X-Other: 1\r\nx-note:yes\r\n";
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    EXPECT(has(send_trailers(server, "x-note", note), "\r\n\r\n5 05e918d2 yes"));
    EXPECT(has(send_trailers(server, " X-Note\t, x-other", both), "\r\n\r\n5 05e918d2 yes"));
    EXPECT(has(send_trailers(server, "x-note,,", note), "\r\n\r\n5 05e918d2 yes"));
    EXPECT(has(send_trailers(server, "", ""), "\r\n\r\n5 05e918d2"));
    EXPECT(has(send_trailers(server, "x-note", ""), "MalformedTrailerError"));
    EXPECT(has(send_trailers(server, "x-note, x-other", note), "MalformedTrailerError"));
    EXPECT(has(send_trailers(server, "x-note", both), "MalformedTrailerError"));
    EXPECT(has(send_trailers(server, "", note), "MalformedTrailerError"));
    EXPECT(has(send_trailers(server, "x-note", "x-note:no\r\nx-note:yes\r\n"), "MalformedTrailerError"));
    EXPECT(has(send_trailers(server, "x-note, x-note", note), "MalformedTrailerError"));
    stop(server);
}

static void *upload(void *arg)
{
    static uint8_t pattern[MIB];
    for (int i = 0; i < 40; i++)
        if (!put(*(int *)arg, pattern, 777777))
            break;
    return NULL;
}

HPL_TEST(big_bodies_stream_in)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    char want[40];
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nContent-Length: 31111080\r\n\r\n");
    upload(&fd);
    snprintf(want, sizeof want, "\r\n\r\n31111080 00000000");
    EXPECT(has(hear_one(fd), want));
    close(fd);
    stop(server);
}

HPL_TEST(big_answers_stream_out_in_full)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    uint64_t want = 20 * MIB + 12345, got = 0;
    char text[100];
    uint8_t buf[65536];
    int fd = dial(server), byte;
    snprintf(text, sizeof text, "GET /stream?%llu HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", (unsigned long long)want);
    say(fd, text);
    for (byte = 0; byte < 4;) {
        EXPECT(recv(fd, buf, 1, 0) == 1);
        byte = buf[0] == "\r\n\r\n"[byte] ? byte + 1 : buf[0] == '\r';
    }
    for (ssize_t n; (n = recv(fd, buf, sizeof buf, 0)) > 0; got += (uint64_t)n)
        for (ssize_t i = 0; i < n; i++)
            EXPECT(buf[i] == (uint8_t)((got + (uint64_t)i) * 7 >> 3));
    EXPECT_NUM(got, want);
    close(fd);
    stop(server);
}

HPL_TEST(a_failure_in_the_middle_of_an_answer_resets_the_connection)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    uint8_t buf[65536];
    ssize_t n;
    int fd = dial(server);
    say(fd, "GET /break?3145728 HTTP/1.1\r\nHost: h\r\n\r\n");
    while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
        continue;
    EXPECT(n < 0 && errno == ECONNRESET);
    close(fd);
    stop(server);
    EXPECT_NUM(num_broken, 1);
}

HPL_TEST(a_failure_before_the_first_byte_of_an_answer_is_answered)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    for (int i = 0; i < 2; i++) { /* and the connection goes on */
        say(fd, "GET /break?9 HTTP/1.1\r\nHost: h\r\n\r\n");
        const char *answer = hear_one(fd);
        EXPECT(!has(answer, "HTTP/1.1 200") && has(answer, "\r\n\r\nInternalError"));
    }
    close(fd);
    stop(server);
    EXPECT_NUM(num_broken, 0);
}

HPL_TEST(an_early_answer_reaches_a_client_that_is_still_sending)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    static const char *const paths[] = {"/refuse", "/early"}, *const answers[] = {"HTTP/1.1 403 ", "HTTP/1.1 409 "};
    static uint8_t junk[3 * MIB];
    for (int i = 0; i < 2; i++) {
        char text[100];
        int error, fd = dial(server);
        snprintf(text, sizeof text, "PUT %s HTTP/1.1\r\nHost: h\r\nContent-Length: 9000000\r\n\r\n", paths[i]);
        say(fd, text);
        EXPECT(put(fd, junk, sizeof junk));
        shutdown(fd, SHUT_WR);
        const char *answer = hear(fd, &error);
        EXPECT(has(answer, answers[i]) && has(answer, "Connection: close"));
        EXPECT_NUM(error, 0);
    }
    stop(server);
}

HPL_TEST(a_client_that_leaves_lets_the_handler_finish)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    struct linger at_once = {.l_onoff = 1};
    int fd = dial(server);
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    EXPECT(comes_to(&num_begun, 1));
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
    fd = dial(server);
    say(fd, "GET /stream?100000000 HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(comes_to(&num_begun, 2));
    close(fd);
    fd = dial(server);
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    shutdown(fd, SHUT_WR);
    EXPECT(has(hear(fd, NULL), "IncompleteBody"));
    stop(server);
    EXPECT_NUM(num_broken, 2);
    EXPECT_NUM(num_sent, 1);
}

static bool is_readable(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLIN};
    return poll(&one, 1, 0) == 1;
}

HPL_TEST(a_head_that_drips_in_meets_the_deadline_of_a_whole_one)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.head_timeout_ms = 200});
    int fd = dial(server), num_dripped = 0;
    say(fd, "GET /");
    while (num_dripped < 1000 && !is_readable(fd) && put(fd, "x", 1)) { /* 30 s of it */
        num_dripped++;
        usleep(30000);
    }
    EXPECT(num_dripped < 1000);
    EXPECT(has(hear(fd, NULL), "HTTP/1.1 408 "));
    stop(server);
}

HPL_TEST(slow_clients_meet_their_deadlines)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.idle_timeout_ms = 200});
    int fd = dial(server);
    EXPECT_TEXT(hear(fd, NULL), "");
    stop(server);
    server = start((struct hpl_http_options){.write_timeout_ms = 300});
    fd = dial(server);
    say(fd, "PUT /sum HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    EXPECT(has(hear(fd, NULL), "RequestTimeout"));
    int stalled = dial(server);
    say(stalled, "GET /stream?100000000 HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(comes_to(&num_broken, 1));
    close(stalled);
    stop(server);
}

HPL_TEST(a_body_may_be_as_slow_as_the_options_say)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.write_timeout_ms = 100, .min_body_rate = 1});
    int fd = dial(server);
    say(fd, "PUT /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 102\r\n\r\n");
    for (int i = 0; i < 100; i++) /* each byte is good for a second */
        say(fd, "x");
    usleep(500000);
    say(fd, "ok");
    EXPECT(has(hear_one(fd), "xok"));
    close(fd);
    stop(server);
}

HPL_TEST(what_comes_after_a_deadline_wakes_no_connection_that_a_job_has)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.write_timeout_ms = 300, .num_jobs = {1, 1}});
    int late = dial(server), busy[6];
    say(late, "PUT /whole HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    EXPECT(comes_to(&num_begun, 1));
    for (size_t i = 0; i < HPL_COUNT(busy); i++) {
        busy[i] = dial(server);
        say(busy[i], "GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    }
    usleep(400000); /* the deadline has passed, and its answer waits for the one thread of the pool */
    say(late, "d");
    for (size_t i = 0; i < HPL_COUNT(busy); i++)
        EXPECT(has(hear(busy[i], NULL), "200 OK"));
    EXPECT(has(hear(late, NULL), "RequestTimeout"));
    stop(server);
}

HPL_TEST(a_request_that_ended_does_not_end_again_when_the_server_stops_under_its_drain)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    say(fd, "PUT /early HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nabc");
    EXPECT(has(hear_one(fd), "HTTP/1.1 409 "));
    EXPECT(comes_to(&num_sent, 1));
    stop(server); /* and the rest of the body is still waited for */
    close(fd);
}

static int dial_unix(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    EXPECT_NUM(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

HPL_TEST(a_front_is_believed_about_tls_over_the_unix_socket_alone)
{
    char path[100], where[110];
    struct stat st;
    struct hpl_call call = {0};
    struct hpl_http_server *server = start((struct hpl_http_options){0}), *behind = NULL, *second = NULL;
    snprintf(path, sizeof path, "%s/http.sock", hpl_test_dir());
    snprintf(where, sizeof where, "unix:%s", path);
    const struct hpl_http_options options = {.listen = where, .routes = routes, .num_routes = HPL_COUNT(routes), .max_per_address = 1};
    EXPECT_OK(hpl_http_start(&call, &behind, &options));
    EXPECT_TEXT(hpl_http_address(behind), where);
    EXPECT(stat(path, &st) == 0 && (st.st_mode & 07777) == 0660);
    static const struct {
        const char *headers, *is_tls;
    } rows[] = {{"X-Forwarded-Proto: https\r\n", "unix tls=1 loopback=0"}, {"", "unix tls=0 loopback=0"}, {"X-Forwarded-Proto: http\r\n", "unix tls=0 loopback=0"},
                {"X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", "unix tls=0 loopback=0"}};
    for (size_t i = 0; i < HPL_COUNT(rows); i++) {
        char text[200];
        int fd = dial_unix(path);
        snprintf(text, sizeof text, "GET /info HTTP/1.1\r\nHost: h\r\n%s\r\n", rows[i].headers);
        say(fd, text);
        EXPECT(has(hear_one(fd), rows[i].is_tls));
        close(fd);
    }
    int fd = dial(server);
    say(fd, "GET /info HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n\r\n");
    EXPECT(has(hear_one(fd), "tls=0 loopback=1"));
    close(fd);
    EXPECT_STATUS(hpl_http_start(&call, &second, &options), HPL_INVALID_CONFIGURATION); /* somebody listens there */
    hpl_http_stop(behind, 1000);
    EXPECT(stat(path, &st) != 0);
    stop(server);
}

HPL_TEST(a_socket_that_a_dead_process_left_is_replaced_and_a_file_is_not)
{
    char path[100], where[110];
    struct hpl_call call = {0};
    struct hpl_http_server *server = NULL;
    struct sockaddr_un left = {.sun_family = AF_UNIX};
    snprintf(path, sizeof path, "%s/left.sock", hpl_test_dir());
    snprintf(where, sizeof where, "unix:%s", path);
    snprintf(left.sun_path, sizeof left.sun_path, "%s", path);
    const struct hpl_http_options options = {.listen = where, .routes = routes, .num_routes = HPL_COUNT(routes)};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    EXPECT_NUM(bind(fd, (struct sockaddr *)&left, sizeof left), 0);
    close(fd);
    EXPECT_OK(hpl_http_start(&call, &server, &options));
    hpl_http_stop(server, 1000);
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    EXPECT(fd >= 0 && close(fd) == 0);
    EXPECT_STATUS(hpl_http_start(&call, &server, &options), HPL_INVALID_CONFIGURATION);
    EXPECT_NUM(unlink(path), 0);
}

HPL_TEST(a_socket_that_is_handed_over_is_served_and_left_alone)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct hpl_call call = {0};
    struct hpl_http_server *server = NULL;
    int given = socket(AF_INET, SOCK_STREAM, 0);
    struct hpl_http_options options = {.listen = "127.0.0.1:1", .inherited_fd = given, .routes = routes, .num_routes = HPL_COUNT(routes)};
    EXPECT_STATUS(hpl_http_start(&call, &server, &options), HPL_INVALID_CONFIGURATION); /* it does not listen yet */
    given = options.inherited_fd = socket(AF_INET, SOCK_STREAM, 0);
    EXPECT(bind(given, (struct sockaddr *)&any, sizeof any) == 0 && listen(given, 10) == 0);
    EXPECT_OK(hpl_http_start(&call, &server, &options));
    int fd = dial(server);
    say(fd, "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(has(hear_one(fd), "tls=0 loopback=1"));
    close(fd);
    hpl_http_stop(server, 1000);
}

static int num_readable(const int *fds, int count)
{
    int num = 0;
    for (int i = 0; i < count; i++)
        num += is_readable(fds[i]);
    return num;
}

HPL_TEST(a_full_pool_answers_slow_down)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.num_jobs = {1, 1}, .max_queued = 1});
    int fds[4], num_served = 0, num_refused = 0;
    is_held = true;
    for (int i = 0; i < 4; i++) {
        fds[i] = dial(server);
        say(fds[i], "GET /held HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        EXPECT(comes_to(&num_held, 1)); /* the first runs; of the others one has a place to wait */
    }
    for (int i = 0; i < 30000 && num_readable(fds, 4) < 2; i++)
        usleep(1000);
    is_held = false;
    for (int i = 0; i < 4; i++) {
        const char *answer = hear(fds[i], NULL);
        num_served += strstr(answer, "200 OK") != NULL;
        num_refused += strstr(answer, "SlowDown") != NULL;
    }
    EXPECT_NUM(num_served, 2);
    EXPECT_NUM(num_refused, 2);
    stop(server);
}

HPL_TEST(connections_past_the_limit_are_turned_away)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.max_connections = 2});
    int first = dial(server), second = dial(server); /* taken in this order */
    EXPECT(has(hear(dial(server), NULL), "HTTP/1.1 503 "));
    close(first);
    EXPECT(has_open(server, 1));
    int third = dial(server);
    say(third, "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(has(hear_one(third), "200 OK"));
    close(second);
    close(third);
    stop(server);
}

/* An address of this machine that is not loopback; false when it has none. */
static bool find_address(char text[static INET_ADDRSTRLEN])
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(9), .sin_addr.s_addr = htonl(0xc0000201)}, own;
    socklen_t len = sizeof own;
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    bool is_found = connect(fd, (struct sockaddr *)&any, sizeof any) == 0 && getsockname(fd, (struct sockaddr *)&own, &len) == 0;
    close(fd);
    return is_found && inet_ntop(AF_INET, &own.sin_addr, text, INET_ADDRSTRLEN);
}

HPL_TEST(one_address_takes_no_more_than_its_share)
{
    char own[INET_ADDRSTRLEN], listen[40];
    struct hpl_http_server *server = NULL;
    struct hpl_call call = {0};
    if (!find_address(own))
        return; /* a machine without a network has no such clients */
    snprintf(listen, sizeof listen, "%s:0", own);
    struct hpl_http_options options = {.listen = listen, .routes = routes, .num_routes = HPL_COUNT(routes), .max_per_address = 2};
    num_begun = num_sent = num_broken = 0;
    EXPECT_OK(hpl_http_start(&call, &server, &options));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(strrchr(hpl_http_address(server), ':') + 1))};
    inet_pton(AF_INET, own, &to.sin_addr);
    for (int round = 0; round < 3; round++) {
        int fds[3];
        for (int i = 0; i < 3; i++) {
            fds[i] = socket(AF_INET, SOCK_STREAM, 0);
            EXPECT(connect(fds[i], (struct sockaddr *)&to, sizeof to) == 0);
        }
        EXPECT(has(hear(fds[2], NULL), "HTTP/1.1 503 "));
        for (int i = 0; i < 2; i++) {
            say(fds[i], "GET /info HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            EXPECT(has(hear(fds[i], NULL), "loopback=0"));
        }
        EXPECT(has_open(server, 0));
    }
    stop(server);
}

static bool comes_alive(struct hpl_http_server *server, unsigned stall_ms, bool want)
{
    for (int i = 0; i < 30000; i++, usleep(1000))
        if (hpl_http_is_alive(server, stall_ms) == want)
            return true;
    return false;
}

HPL_TEST(a_thread_that_does_not_get_on_is_noticed)
{
    static const struct { const char *request; unsigned stall_ms; } cases[] = {
        {"GET /stuck HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 50},   /* an I/O thread */
        {"GET /held HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 60000}, /* a pool's, past ten times 10 ms */
    };
    struct hpl_http_server *server = start((struct hpl_http_options){.request_timeout_ms = 10, .stuck_ms = 100});
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        EXPECT(hpl_http_is_alive(server, 60000));
        is_held = true;
        int fd = dial(server);
        say(fd, cases[i].request);
        EXPECT(comes_to(&num_held, 1));
        EXPECT(comes_alive(server, cases[i].stall_ms, false));
        is_held = false;
        EXPECT(has(hear(fd, NULL), "\r\n\r\nheld"));
        EXPECT(comes_alive(server, cases[i].stall_ms, true));
    }
    stop(server);
}

HPL_TEST(a_job_may_outlast_a_short_deadline_many_times)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.request_timeout_ms = 1});
    is_held = true;
    int fd = dial(server);
    say(fd, "GET /held HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    EXPECT(comes_to(&num_held, 1));
    usleep(200000); /* two hundred times 1 ms */
    EXPECT(hpl_http_is_alive(server, 60000));
    is_held = false;
    EXPECT(has(hear(fd, NULL), "\r\n\r\nheld"));
    stop(server);
}

/* Is one of these served? Two names have one share by chance, once in 4096. */
static bool is_another_served(struct hpl_http_server *server)
{
    static const char *const names[] = {"two", "three", "four", "five", "six", "seven", "eight", "nine"};
    bool is_served = false;
    for (size_t i = 0; i < HPL_COUNT(names) && !is_served; i++) {
        char request[160];
        snprintf(request, sizeof request, "PUT /mine HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\nx-who: %s\r\n\r\nok", names[i]);
        int fd = dial(server);
        say(fd, request);
        is_served = has(hear(fd, NULL), "\r\n\r\nok");
    }
    return is_served;
}

HPL_TEST(one_credential_takes_no_more_than_its_share)
{
    static const char ones[] = "PUT /mine HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\nx-who: one\r\n\r\n";
    struct hpl_http_server *server = start((struct hpl_http_options){.max_per_credential = 2});
    for (int round = 0; round < 3; round++) {
        int fds[3];
        for (int i = 0; i < 2; i++) {
            fds[i] = dial(server);
            say(fds[i], ones);
            EXPECT(has(hear_one(fds[i]), "HTTP/1.1 100 Continue"));
        }
        fds[2] = dial(server);
        say(fds[2], ones);
        EXPECT(has(hear(fds[2], NULL), "SlowDown"));
        EXPECT(is_another_served(server));
        say(fds[0], "ok");
        EXPECT(has(hear_one(fds[0]), "\r\n\r\nok"));
        for (int i = 0; i < 2; i++) /* in the middle, or idle: neither holds a share on */
            close(fds[i]);
        EXPECT(has_open(server, 0));
    }
    stop(server);
}

HPL_TEST(running_out_of_descriptors_sheds_and_recovers)
{
    struct rlimit old, tight;
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int fd = dial(server);
    say(fd, "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(has(hear_one(fd), "200 OK"));
    getrlimit(RLIMIT_NOFILE, &old);
    tight = old;
    tight.rlim_cur = (rlim_t)dup(0) + 1; /* the next descriptor is the last */
    close((int)tight.rlim_cur - 1);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to;
    socklen_t len = sizeof to;
    getpeername(fd, (struct sockaddr *)&to, &len);
    setrlimit(RLIMIT_NOFILE, &tight);
    EXPECT(connect(client, (struct sockaddr *)&to, len) == 0);
    EXPECT(has(hear(client, NULL), "HTTP/1.1 503 "));
    setrlimit(RLIMIT_NOFILE, &old);
    say(fd, "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(has(hear_one(fd), "200 OK"));
    close(fd);
    stop(server);
}

#define PATIENCE_MS 60000u

static void *stop_it(void *server)
{
    hpl_http_stop(server, PATIENCE_MS);
    return NULL;
}

HPL_TEST(stopping_lets_what_runs_end_and_takes_no_more)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int busy = dial(server), idle = dial(server);
    pthread_t stopper;
    is_held = true;
    say(busy, "GET /held HTTP/1.1\r\nHost: h\r\n\r\n");
    EXPECT(comes_to(&num_held, 1) && has_open(server, 2));
    uint64_t began = hpl_clock_mono_ns();
    pthread_create(&stopper, NULL, stop_it, server);
    EXPECT_TEXT(hear(idle, NULL), "");
    is_held = false;
    const char *answer = hear(busy, NULL);
    EXPECT(has(answer, "200 OK") && has(answer, "Connection: close\r\n"));
    pthread_join(stopper, NULL);
    EXPECT((hpl_clock_mono_ns() - began) / 1000000 < PATIENCE_MS);
}

HPL_TEST(a_stop_without_patience_ends_stalled_transfers)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    int reader = dial(server), writer = dial(server);
    say(reader, "GET /stream?100000000 HTTP/1.1\r\nHost: h\r\n\r\n");
    say(writer, "PUT /sum HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
    EXPECT(comes_to(&num_begun, 2));
    hpl_http_stop(server, 50);
    EXPECT_NUM(num_broken, 2);
    close(reader);
    close(writer);
}

HPL_TEST(a_taken_port_and_a_bad_address_say_what_to_do)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0}), *second = NULL;
    struct hpl_call call = {0};
    struct hpl_http_options options = {.listen = hpl_http_address(server), .routes = routes, .num_routes = 1};
    EXPECT_STATUS(hpl_http_start(&call, &second, &options), HPL_INVALID_CONFIGURATION);
    EXPECT(has(call.detail, "choose another address"));
    options.listen = "9000";
    EXPECT_STATUS(hpl_http_start(&call, &second, &options), HPL_INVALID_CONFIGURATION);
    stop(server);
}

/* A self-made certificate in PEM files. */
static void make_certificate(const char *cert_path, const char *key_path, const char *name)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    EXPECT(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *file = fopen(cert_path, "w");
    PEM_write_X509(file, cert);
    fclose(file);
    file = fopen(key_path, "w");
    PEM_write_PrivateKey(file, key, NULL, NULL, 0, NULL, NULL);
    fclose(file);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static SSL *dial_tls(const struct hpl_http_server *server, int max_version)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(ctx, max_version);
    SSL_CTX_set_alpn_protos(ctx, (const unsigned char *)"\x02h2\x08http/1.1", 12);
    SSL *ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    SSL_set_fd(ssl, dial(server));
    if (SSL_connect(ssl) != 1) {
        close(SSL_get_fd(ssl));
        SSL_free(ssl);
        return NULL;
    }
    return ssl;
}

static void hang_up_tls(SSL *ssl)
{
    SSL_shutdown(ssl);
    close(SSL_get_fd(ssl));
    SSL_free(ssl);
}

static const char *peer_name(SSL *ssl)
{
    static char name[64];
    X509 *cert = SSL_get1_peer_certificate(ssl);
    X509_NAME_get_text_by_NID(X509_get_subject_name(cert), NID_commonName, name, sizeof name);
    X509_free(cert);
    return name;
}

/* Sends a PUT of len bytes and a GET of the same length, and checks both. */
static void tls_round_trip(const struct hpl_http_server *server, int max_version)
{
    static uint8_t buf[MIB];
    char text[200];
    SSL *ssl = dial_tls(server, max_version);
    const unsigned char *protocol;
    unsigned protocol_len;
    EXPECT(ssl != NULL);
    SSL_get0_alpn_selected(ssl, &protocol, &protocol_len);
    EXPECT(protocol_len == 8 && memcmp(protocol, "http/1.1", 8) == 0);
    snprintf(text, sizeof text, "PUT /sum HTTP/1.1\r\nHost: h\r\nContent-Length: %u\r\n\r\n", 5 * MIB);
    memset(buf, 0, sizeof buf);
    EXPECT(SSL_write(ssl, text, (int)strlen(text)) > 0);
    for (int i = 0; i < 5; i++)
        EXPECT(SSL_write(ssl, buf, sizeof buf) == sizeof buf);
    int n = 0;
    while (!strstr((char *)buf, "5242880 00000000") && n < 4000) {
        int got = SSL_read(ssl, buf + n, (int)(4096 - n));
        EXPECT(got > 0);
        n += got;
    }
    snprintf(text, sizeof text, "GET /stream?%u HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 5 * MIB);
    EXPECT(SSL_write(ssl, text, (int)strlen(text)) > 0);
    size_t total = 0;
    while ((n = SSL_read(ssl, buf, sizeof buf)) > 0)
        total += (size_t)n;
    EXPECT(total > 5 * MIB && total < 5 * MIB + 1000);
    EXPECT_NUM(SSL_get_error(ssl, n), SSL_ERROR_ZERO_RETURN);
    hang_up_tls(ssl);
}

HPL_TEST(tls_carries_both_ways_and_reloads_its_certificate)
{
    char cert[100], key[100];
    const char *dir = hpl_test_dir();
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    make_certificate(cert, key, "first");
    struct hpl_http_server *server = start((struct hpl_http_options){.tls_cert = cert, .tls_key = key, .allow_tls12 = true});
    tls_round_trip(server, TLS1_3_VERSION);
    tls_round_trip(server, TLS1_2_VERSION);
    EXPECT(dial_tls(server, TLS1_1_VERSION) == NULL);
    stop(server);
    server = start((struct hpl_http_options){.tls_cert = cert, .tls_key = key, .handshake_timeout_ms = 200, .head_timeout_ms = 600000});
    EXPECT(dial_tls(server, TLS1_2_VERSION) == NULL);
    int error, silent = dial(server);
    EXPECT_TEXT(hear(silent, &error), "");
    EXPECT_NUM(error, 0);
    stop(server);
    server = start((struct hpl_http_options){.tls_cert = cert, .tls_key = key});
    ERR_clear_error();
    SSL *old = dial_tls(server, TLS1_3_VERSION);
    EXPECT_TEXT(peer_name(old), "first");
    make_certificate(cert, key, "second");
    struct hpl_call call = {0};
    EXPECT_OK(hpl_http_reload_tls(&call, server));
    SSL *fresh = dial_tls(server, TLS1_3_VERSION);
    EXPECT_TEXT(peer_name(fresh), "second");
    unlink(key);
    EXPECT_STATUS(hpl_http_reload_tls(&call, server), HPL_INVALID_CONFIGURATION);
    EXPECT(has(call.detail, key));
    EXPECT_NUM(mkfifo(key, 0600), 0); /* nobody will ever write to it */
    EXPECT_STATUS(hpl_http_reload_tls(&call, server), HPL_INVALID_CONFIGURATION);
    SSL *after = dial_tls(server, TLS1_3_VERSION);
    EXPECT_TEXT(peer_name(after), "second");
    hang_up_tls(old);
    hang_up_tls(fresh);
    hang_up_tls(after);
    int plain = dial(server); /* no TLS at all */
    say(plain, "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    hear(plain, NULL);
    stop(server);
}

HPL_TEST(an_idle_connection_costs_little_memory)
{
    struct hpl_http_server *server = start((struct hpl_http_options){0});
    enum { NUM = 200 };
    int fds[NUM];
    for (int i = 0; i < NUM; i++) {
        fds[i] = dial(server);
        if (i == 20) {
            EXPECT(has_open(server, i + 1));
            malloc_trim(0);
        }
    }
    EXPECT(has_open(server, NUM));
    size_t before = mallinfo2().uordblks;
    for (int i = 0; i < NUM; i++)
        say(fds[i], "GET /info HTTP/1.1\r\nHost: h\r\n\r\n");
    for (int i = 0; i < NUM; i++)
        hear_one(fds[i]);
    for (int i = 0; i < 30000 && mallinfo2().uordblks >= before + NUM * 1024; i++) /* the last of them are at the end of their answers */
        usleep(1000);
    EXPECT(mallinfo2().uordblks < before + NUM * 1024);
    for (int i = 0; i < NUM; i++)
        close(fds[i]);
    stop(server);
}

HPL_TEST(many_clients_at_once_all_get_their_own_answers)
{
    struct hpl_http_server *server = start((struct hpl_http_options){.num_jobs = {2, 2}});
    enum { NUM = 64 };
    int fds[NUM];
    for (int i = 0; i < NUM; i++)
        fds[i] = dial(server);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < NUM; i++) {
            char text[80];
            snprintf(text, sizeof text, "GET /info/%d/%d HTTP/1.1\r\nHost: h\r\n\r\n", i, round);
            say(fds[i], text);
        }
        for (int i = 0; i < NUM; i++) {
            char want[40];
            snprintf(want, sizeof want, "GET /info/%d/%d [", i, round);
            EXPECT(has(hear_one(fds[i]), want));
        }
    }
    struct hpl_http_counters counters;
    hpl_http_count(server, &counters);
    EXPECT_NUM(counters.requests, NUM * 10);
    EXPECT_NUM(counters.connections, NUM);
    for (int i = 0; i < NUM; i++)
        close(fds[i]);
    stop(server);
}
