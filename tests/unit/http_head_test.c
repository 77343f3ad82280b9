/* The request head: what is taken, what is refused with which status, and that the way it is cut never matters. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "http/head.h"

#define H "Host: h\r\n"
#define END "\r\n\r\n"

static int parse(struct hpl_http_head *head, const char *text, size_t len)
{
    memset(head, 0, sizeof *head);
    return hpl_http_head_parse(head, (const uint8_t *)text, len);
}

/* Byte by byte, each time in a buffer of exactly that size, so that reading past it is found. */
static int parse_slowly(struct hpl_http_head *head, const char *text, size_t len)
{
    memset(head, 0, sizeof *head);
    for (size_t i = 1; i <= len; i++) {
        uint8_t *copy = malloc(i);
        HPL_CHECK(copy);
        memcpy(copy, text, i);
        int verdict = hpl_http_head_parse(head, copy, i);
        free(copy);
        if (verdict != HPL_HTTP_HEAD_MORE)
            return verdict;
    }
    return HPL_HTTP_HEAD_MORE;
}

static void expect_verdict(const char *text, size_t len, int want)
{
    struct hpl_http_head head;
    int got = parse(&head, text, len);
    if (got != want)
        fprintf(stderr, "\n    %.*s\n    %s\n", (int)(len < 300 ? len : 300), text, head.why ? head.why : "");
    EXPECT_NUM(got, want);
    EXPECT_NUM(parse_slowly(&head, text, len), want);
    EXPECT((want > 1) == (head.why != NULL));
}

HPL_TEST(what_is_refused_is_refused_with_its_status)
{
    static const struct { int status; const char *text; } cases[] = {
        /* the request line */
        {400, "GET  / HTTP/1.1\r\n" H "\r\n"},
        {400, "GET / HTTP/1.1 \r\n" H "\r\n"},
        {400, "GET /\r\n" H "\r\n"},
        {400, "GET / HTTP/1\r\n" H "\r\n"},
        {400, "GET / http/1.1\r\n" H "\r\n"},
        {400, " GET / HTTP/1.1\r\n" H "\r\n"},
        {400, "\r\nGET / HTTP/1.1\r\n" H "\r\n"},
        {400, "GET\t/\tHTTP/1.1\r\n" H "\r\n"},
        {400, "G(T / HTTP/1.1\r\n" H "\r\n"},
        {505, "GET / HTTP/2.0\r\n" H "\r\n"},
        {505, "GET / HTTP/1.2\r\n" H "\r\n"},
        {505, "GET / HTTP/0.9\r\n" H "\r\n"},
        {501, "BREW / HTTP/1.1\r\n" H "\r\n"},
        {501, "get / HTTP/1.1\r\n" H "\r\n"},
        {501, "CONNECT / HTTP/1.1\r\n" H "\r\n"},
        {501, "TRACE / HTTP/1.1\r\n" H "\r\n"},
        /* the target */
        {400, "GET http://other/ HTTP/1.1\r\n" H "\r\n"},
        {400, "GET http:/h/ HTTP/1.1\r\n" H "\r\n"},
        {400, "GET http:h/ HTTP/1.1\r\n" H "\r\n"},
        {400, "GET http:///x HTTP/1.1\r\n" H "\r\n"},
        {400, "GET http://u@h/ HTTP/1.1\r\n" H "\r\n"},
        {400, "GET ftp://h/ HTTP/1.1\r\n" H "\r\n"},
        {400, "GET h:80 HTTP/1.1\r\n" H "\r\n"},
        {400, "OPTIONS * HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /a#b HTTP/1.1\r\n" H "\r\n"},
        {400, "GET /\xc3\xa4 HTTP/1.1\r\n" H "\r\n"},
        {400, "GET  HTTP/1.1\r\n" H "\r\n"},
        /* lines */
        {400, "GET / HTTP/1.1\n" H "\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: h\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: h\r\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X: a\x01\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X: a\x7f\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X: a\r\n b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X: a\r\n\tb\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n X: a\r\n" H "\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X : a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X\t: a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H ": a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X\xff: a\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H "X@: a\r\n\r\n"},
        /* Host */
        {400, "GET / HTTP/1.1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\n" H H "\r\n"},
        {400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: :80\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: h:x\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: h:80:80\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: [::1]80\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: []\r\n\r\n"},
        {400, "GET / HTTP/1.0\r\n" H H "\r\n"},
        /* framing */
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 1, 1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: +1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: -1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 0x1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 1 1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length:\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 9223372036854775808\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 99999999999999999999\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\ncontent-length: 1\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "PUT / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n"},
        {501, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: identity\r\n\r\n"},
        {501, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: gzip, chunked\r\n\r\n"},
        {501, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked, chunked\r\n\r\n"},
        {501, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: xchunked\r\n\r\n"},
        {501, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: \"chunked\"\r\n\r\n"},
        {501, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding:\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding:\tchunked\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Transfer-Encoding: chunked\t\r\n\r\n"},
        {400, "PUT / HTTP/1.1\r\n" H "Content-Length: \t1\r\n\r\n"},
        {417, "PUT / HTTP/1.1\r\n" H "Expect: a-pony\r\n\r\n"},
    };
    for (size_t i = 0; i < HPL_COUNT(cases); i++)
        expect_verdict(cases[i].text, strlen(cases[i].text), cases[i].status);
    static const char nul[] = "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n";
    expect_verdict(nul, sizeof nul - 1, 400);
    static const char nul_name[] = "GET / HTTP/1.1\r\nHost: h\r\nX\0: a\r\n\r\n";
    expect_verdict(nul_name, sizeof nul_name - 1, 400);
    static const char nul_target[] = "GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n";
    expect_verdict(nul_target, sizeof nul_target - 1, 400);
}

HPL_TEST(a_plain_head_is_taken_apart)
{
    static const char text[] = "PUT /b/a%20b?x=1&y?z HTTP/1.1\r\nhOST: [::1]:9000\r\nX-Empty:\r\nX-Meta: \t a  b \t \r\n"
                               "CONTENT-length: 9223372036854775807\r\nExpect: 100-Continue\r\nx-obs: \xc3\xa4\r\n\r\nrest";
    struct hpl_http_head head;
    EXPECT_NUM(parse(&head, text, sizeof text - 1), HPL_HTTP_HEAD_WHOLE);
    EXPECT_NUM(head.len, sizeof text - 1 - 4);
    EXPECT(hpl_bytes_equal(head.method, hpl_bytes_str("PUT")));
    EXPECT(hpl_bytes_equal(head.target, hpl_bytes_str("/b/a%20b?x=1&y?z")));
    EXPECT(hpl_bytes_equal(head.path, hpl_bytes_str("/b/a%20b")));
    EXPECT(hpl_bytes_equal(head.query, hpl_bytes_str("x=1&y?z")));
    EXPECT_NUM(head.num_headers, 6);
    EXPECT(hpl_bytes_equal(head.headers[0].name, hpl_bytes_str("hOST")));
    EXPECT_NUM(head.headers[1].value.len, 0);
    EXPECT(hpl_bytes_equal(head.headers[2].value, hpl_bytes_str("a  b")));
    EXPECT(hpl_bytes_equal(head.headers[5].value, hpl_bytes_str("\xc3\xa4")));
    EXPECT_NUM(head.content_length, INT64_MAX);
    EXPECT(head.expects_continue && head.is_keep_alive && !head.is_chunked && !head.is_http10);
}

HPL_TEST(an_empty_expectation_is_none)
{
    static const char text[] = "PUT / HTTP/1.1\r\n" H "Expect:\r\n\r\n";
    struct hpl_http_head head;
    EXPECT_NUM(parse(&head, text, sizeof text - 1), HPL_HTTP_HEAD_WHOLE);
    EXPECT(!head.expects_continue);
}

HPL_TEST(a_target_in_absolute_form_is_that_of_its_path)
{
    static const struct { const char *text, *path, *query; } cases[] = {
        {"GET http://h/b/k?x=1 HTTP/1.1\r\n" H "\r\n", "/b/k", "x=1"},
        {"GET HTTPS://H HTTP/1.1\r\n" H "\r\n", "/", ""},
        {"GET http://h?a/b HTTP/1.1\r\n" H "\r\n", "/", "a/b"},
        {"GET http://[::1]:9000// HTTP/1.1\r\nHost: [::1]:9000\r\n\r\n", "//", ""},
        {"GET http://h:1/ HTTP/1.0\r\n\r\n", "/", ""},
    };
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct hpl_http_head head;
        expect_verdict(cases[i].text, strlen(cases[i].text), HPL_HTTP_HEAD_WHOLE);
        EXPECT_NUM(parse(&head, cases[i].text, strlen(cases[i].text)), HPL_HTTP_HEAD_WHOLE);
        EXPECT(hpl_bytes_equal(head.path, hpl_bytes_str(cases[i].path)));
        EXPECT(hpl_bytes_equal(head.query, hpl_bytes_str(cases[i].query)));
    }
}

HPL_TEST(a_host_is_a_name_or_an_address_and_maybe_a_port)
{
    static const char *const hosts[] = {"h", "h:", "h:9000", "a_b.c-d~", "127.0.0.1:1", "1234", "[::1]", "[fe80::1%25eth0]:9000"};
    for (size_t i = 0; i < HPL_COUNT(hosts); i++) {
        char text[100];
        expect_verdict(text, (size_t)snprintf(text, sizeof text, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", hosts[i]), HPL_HTTP_HEAD_WHOLE);
    }
}

HPL_TEST(keep_alive_follows_version_and_connection)
{
    static const struct { bool is_keep_alive; const char *text; } cases[] = {
        {true, "GET / HTTP/1.1\r\n" H "\r\n"},
        {false, "GET / HTTP/1.1\r\n" H "Connection: close\r\n\r\n"},
        {false, "GET / HTTP/1.1\r\n" H "Connection: keep-alive, Close\r\n\r\n"},
        {false, "GET / HTTP/1.1\r\n" H "Connection: close\r\nConnection: keep-alive\r\n\r\n"},
        {true, "GET / HTTP/1.1\r\n" H "Connection: te,,upgrade\r\n\r\n"},
        {false, "GET / HTTP/1.0\r\n\r\n"},
        {true, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"},
    };
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct hpl_http_head head;
        EXPECT_NUM(parse(&head, cases[i].text, strlen(cases[i].text)), HPL_HTTP_HEAD_WHOLE);
        EXPECT_NUM(head.is_keep_alive, cases[i].is_keep_alive);
    }
}

HPL_TEST(no_prefix_of_a_good_head_is_whole_or_refused)
{
    static const char text[] = "POST /a?b HTTP/1.1\r\n" H "Transfer-Encoding: Chunked\r\nX: y\r\n\r\n";
    struct hpl_http_head head;
    for (size_t len = 0; len < sizeof text - 1; len++)
        EXPECT_NUM(parse(&head, text, len), HPL_HTTP_HEAD_MORE);
    EXPECT_NUM(parse(&head, text, sizeof text - 1), HPL_HTTP_HEAD_WHOLE);
    EXPECT(head.is_chunked);
    EXPECT_NUM(parse_slowly(&head, text, sizeof text - 1), HPL_HTTP_HEAD_WHOLE);
}

static char *repeat(char *to, const char *text, size_t times)
{
    for (; times; times--)
        to = stpcpy(to, text);
    return to;
}

HPL_TEST(limits_hold_to_the_byte)
{
    static char text[80000];
    for (int over = 0; over < 2; over++) {
        strcpy(repeat(stpcpy(text, "GET /"), "a", HPL_HTTP_MAX_TARGET - 1 + (size_t)over), " HTTP/1.1\r\n" H "\r\n");
        expect_verdict(text, strlen(text), over ? 414 : HPL_HTTP_HEAD_WHOLE);
        strcpy(repeat(stpcpy(text, "GET / HTTP/1.1\r\n" H), "X: y\r\n", 99 + (size_t)over), "\r\n");
        expect_verdict(text, strlen(text), over ? 431 : HPL_HTTP_HEAD_WHOLE);
        char *at = stpcpy(text, "GET / HTTP/1.1\r\n" H "X: ");
        strcpy(repeat(at, "a", HPL_HTTP_MAX_HEAD - (size_t)(at - text) - 4 + (size_t)over), END);
        EXPECT_NUM(strlen(text), HPL_HTTP_MAX_HEAD + (size_t)over);
        struct hpl_http_head head;
        EXPECT_NUM(parse(&head, text, strlen(text)), over ? 431 : HPL_HTTP_HEAD_WHOLE);
    }
    repeat(text, "a", 70000);
    expect_verdict(text, 20000, 414);
    repeat(stpcpy(text, "GET / HTTP/1.1\r\nX: "), "a", 70000);
    struct hpl_http_head head;
    EXPECT_NUM(parse(&head, text, 70000), 431);
}

HPL_TEST(random_bytes_get_one_verdict_however_they_are_cut)
{
    static const char base[] = "PUT /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\nConnection: close\r\nX-Y: z\r\n\r\n";
    static const char odd[] = "\r\n\t :/\0\x7f\xff?,;chunked0+-";
    uint64_t state = 88172645463325252u;
    for (int round = 0; round < 20000; round++) {
        char text[sizeof base];
        struct hpl_http_head whole, cut;
        memcpy(text, base, sizeof base);
        for (int i = 0; i < 3; i++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            text[state % (sizeof base - 1)] = odd[(state >> 32) % (sizeof odd - 1)];
        }
        size_t len = sizeof base - 1, half = (state >> 16) % len;
        int verdict = parse(&whole, text, len), first = parse(&cut, text, half);
        if (first == HPL_HTTP_HEAD_MORE)
            first = hpl_http_head_parse(&cut, (uint8_t *)text, len);
        EXPECT(first == verdict && whole.len == cut.len && whole.num_headers == cut.num_headers && whole.why == cut.why);
    }
}
