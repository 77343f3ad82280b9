/* A differential with http-parser, which is lenient: every request that we take whole, it takes too, framed alike. Pipelined ones follow each other. What keeps a
 * connection is not compared: http-parser believes trailers, and loses its place in lists. */
#include <stdio.h>
#include <stdlib.h>
#include <http_parser.h>

#include "http/body.h"
#include "http/head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* One request, as one of the two sees it. */
struct seen {
    struct hpl_buf target, body;
    bool is_keep_alive, is_whole;
    size_t len; /* from its first byte to its last */
};

static void wipe(struct seen *seen)
{
    hpl_buf_wipe(&seen->target);
    hpl_buf_wipe(&seen->body);
}

/* --- ours ---------------------------------------------------------------------------------------------------------------------- */

static bool take(void *arg, struct hpl_bytes span)
{
    hpl_buf_put_bytes(&((struct seen *)arg)->body, span);
    return true;
}

static bool read_body(const struct hpl_http_head *head, struct seen *seen, struct hpl_bytes *rest)
{
    struct hpl_body body;
    struct hpl_call call = {0};
    enum hpl_status status = hpl_body_init(&call, &body, head->content_length, head->is_chunked, -1, NULL, UINT32_MAX);
    if (status == HPL_OK && !body.is_done)
        status = hpl_body_feed(&call, &body, rest, take, seen);
    bool is_done = status == HPL_OK && body.is_done;
    hpl_body_wipe(&body);
    return is_done;
}

/* http-parser 2.9 takes a header whose name only begins so for the whole word, and wants "chunked" in it. */
static bool is_misread(const struct hpl_http_head *head)
{
    static const char word[] = "transfer-encoding";
    for (size_t i = 0; i < head->num_headers; i++) {
        struct hpl_bytes name = head->headers[i].name;
        if (name.len > sizeof word - 1 && hpl_http_is_word(hpl_bytes(name.data, sizeof word - 1), word))
            return true;
    }
    return false;
}

static void ask_ours(struct hpl_bytes input, struct seen *seen)
{
    static struct hpl_http_head head;
    head = (struct hpl_http_head){0};
    if (hpl_http_head_parse(&head, input.data, input.len) != HPL_HTTP_HEAD_WHOLE || is_misread(&head))
        return;
    struct hpl_bytes rest = hpl_bytes(input.data + head.len, input.len - head.len);
    hpl_buf_put_bytes(&seen->target, head.target);
    seen->is_keep_alive = head.is_keep_alive;
    seen->is_whole = head.is_chunked || head.content_length > 0 ? read_body(&head, seen, &rest) : true;
    seen->len = input.len - rest.len;
}

/* --- http-parser --------------------------------------------------------------------------------------------------------------- */

static int on_url(http_parser *parser, const char *at, size_t len)
{
    hpl_buf_put_bytes(&((struct seen *)parser->data)->target, hpl_bytes(at, len));
    return 0;
}

static int on_body(http_parser *parser, const char *at, size_t len)
{
    hpl_buf_put_bytes(&((struct seen *)parser->data)->body, hpl_bytes(at, len));
    return 0;
}

/* Upgrades are not for us: the request goes on. */
static int on_headers_complete(http_parser *parser)
{
    parser->upgrade = 0;
    return 0;
}

static int on_message_complete(http_parser *parser)
{
    struct seen *seen = parser->data;
    seen->is_whole = true;
    http_parser_pause(parser, 1);
    return 0;
}

static const char *ask_oracle(struct hpl_bytes input, struct seen *seen)
{
    static const http_parser_settings settings = {
        .on_url = on_url, .on_body = on_body, .on_headers_complete = on_headers_complete, .on_message_complete = on_message_complete};
    http_parser parser = {.data = seen};
    http_parser_init(&parser, HTTP_REQUEST);
    seen->len = http_parser_execute(&parser, &settings, (const char *)input.data, input.len);
    return http_errno_description(HTTP_PARSER_ERRNO(&parser));
}

/* ------------------------------------------------------------------------------------------------------------------------------- */

static void tell(const char *who, const struct seen *seen)
{
    fprintf(stderr, "%s: whole %d, %zu bytes, target '%.*s', body of %zu bytes\n", who, seen->is_whole, seen->len,
            (int)seen->target.len, (const char *)seen->target.data, seen->body.len);
}

static void compare(const struct seen *ours, const struct seen *theirs, const char *why)
{
    if (theirs->is_whole && ours->len == theirs->len &&
        hpl_bytes_equal(hpl_buf_bytes(&ours->target), hpl_buf_bytes(&theirs->target)) && hpl_bytes_equal(hpl_buf_bytes(&ours->body), hpl_buf_bytes(&theirs->body)))
        return;
    tell("ours", ours);
    tell(why, theirs);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hpl_bytes input = hpl_bytes(data, len);
    for (bool goes_on = true; goes_on && input.len;) {
        struct seen ours = {{0}}, theirs = {{0}};
        ask_ours(input, &ours);
        if ((goes_on = ours.is_whole)) {
            const char *why = ask_oracle(input, &theirs);
            compare(&ours, &theirs, why);
            goes_on = ours.is_keep_alive;
        }
        input = hpl_bytes(input.data + ours.len, input.len - ours.len);
        wipe(&ours);
        wipe(&theirs);
    }
    return 0;
}
