/* The request head: one pass that finds its end and refuses stray bytes as they come, one pass that takes it apart. Pure. */
#include "http/head.h"

#include <stdlib.h>
#include <strings.h>

static int refuse(struct hpl_http_head *head, int status, const char *why)
{
    head->why = why;
    return status;
}

static bool is_token_byte(uint8_t c)
{
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'))
        return true;
    return c && c < 0x80 && strchr("!#$%&'*+-.^_`|~", c);
}

bool hpl_http_is_token(struct hpl_bytes bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        if (!is_token_byte(bytes.data[i]))
            return false;
    return bytes.len > 0;
}

bool hpl_http_is_word(struct hpl_bytes bytes, const char *word)
{
    return bytes.len == strlen(word) && strncasecmp((const char *)bytes.data, word, bytes.len) == 0;
}

int64_t hpl_http_parse_length(struct hpl_bytes digits)
{
    int64_t value = 0;
    if (digits.len == 0)
        return -1;
    for (size_t i = 0; i < digits.len; i++) {
        int digit = digits.data[i] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, digit, &value))
            return -1;
    }
    return value;
}

static struct hpl_bytes trim(struct hpl_bytes text)
{
    while (text.len && (text.data[0] == ' ' || text.data[0] == '\t'))
        text.data++, text.len--;
    while (text.len && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t'))
        text.len--;
    return text;
}

/* The next item of a list between separators, taken off *rest. */
static struct hpl_bytes cut(struct hpl_bytes *rest, char separator)
{
    const uint8_t *at = rest->len ? memchr(rest->data, separator, rest->len) : NULL;
    struct hpl_bytes item = *rest;
    if (!at) {
        rest->len = 0;
        return item;
    }
    item.len = (size_t)(at - rest->data);
    rest->data += item.len + 1;
    rest->len -= item.len + 1;
    return item;
}

struct hpl_bytes hpl_http_next_word(struct hpl_bytes *list)
{
    return trim(cut(list, ','));
}

bool hpl_http_parse_field(struct hpl_bytes line, struct hpl_sigv4_header *field)
{
    const uint8_t *colon = line.len ? memchr(line.data, ':', line.len) : NULL;
    if (!colon)
        return false;
    field->name = hpl_bytes(line.data, (size_t)(colon - line.data));
    field->value = trim(hpl_bytes(colon + 1, line.len - field->name.len - 1));
    for (size_t i = 0; i < field->value.len; i++) {
        uint8_t c = field->value.data[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return hpl_http_is_token(field->name);
}

/* Finds the empty line. Every line ends with CR LF; neither stands alone; no other control byte but a tab. */
static int scan(struct hpl_http_head *head, const uint8_t *data, size_t len)
{
    for (; head->scanned < len; head->scanned++) {
        size_t at = head->scanned;
        uint8_t c = data[at];
        bool after_cr = at > head->line_start && data[at - 1] == '\r';
        if (at >= HPL_HTTP_MAX_HEAD)
            return refuse(head, 431, "the head is larger than 32 KiB");
        if (after_cr != (c == '\n'))
            return refuse(head, 400, "a line of the head does not end with CR LF");
        if ((c < 0x20 && c != '\r' && c != '\n' && c != '\t') || c == 0x7f)
            return refuse(head, 400, "the head holds a control byte");
        if (head->num_lines == 0 && at > HPL_HTTP_MAX_TARGET + 32)
            return refuse(head, 414, "the request target is longer than 8 KiB");
        if (c != '\n')
            continue;
        if (at == head->line_start + 1 && head->num_lines == 0)
            return refuse(head, 400, "the request begins with an empty line");
        if (at == head->line_start + 1) {
            head->len = at + 1;
            return HPL_HTTP_HEAD_WHOLE;
        }
        head->line_start = at + 1;
        if (++head->num_lines > HPL_HTTP_MAX_HEADERS + 1)
            return refuse(head, 431, "the head has more than 100 headers");
    }
    return HPL_HTTP_HEAD_MORE;
}

static bool is_known_method(struct hpl_bytes method)
{
    static const char *const known[] = {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"};
    for (size_t i = 0; i < HPL_COUNT(known); i++)
        if (hpl_bytes_equal(method, hpl_bytes_str(known[i])))
            return true;
    return false;
}

static bool is_name(struct hpl_bytes text, const char *marks)
{
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        bool is_alnum = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
        if (!is_alnum && !(c && c < 0x80 && strchr(marks, c)))
            return false;
    }
    return text.len > 0;
}

/* A name, or an address in brackets; then maybe a colon and a port (RFC 9110 section 7.2). */
static bool is_host(struct hpl_bytes value)
{
    struct hpl_bytes name = value;
    while (name.len && name.data[name.len - 1] >= '0' && name.data[name.len - 1] <= '9')
        name.len--;
    if (name.len && name.data[name.len - 1] == ':')
        name.len--;
    else
        name = value;
    if (name.len > 2 && name.data[0] == '[' && name.data[name.len - 1] == ']')
        return is_name(hpl_bytes(name.data + 1, name.len - 2), "-._~%:");
    return is_name(name, "-._~%");
}

/* "http://host/path" means what "/path" means to that host: RFC 9112 section 3.2.2 has every server take it. */
static bool take_authority(struct hpl_http_head *head, struct hpl_bytes *target)
{
    struct hpl_bytes rest = *target, scheme = cut(&rest, ':');
    if (!(hpl_http_is_word(scheme, "http") || hpl_http_is_word(scheme, "https")) || rest.len < 2 || memcmp(rest.data, "//", 2) != 0)
        return false;
    rest = hpl_bytes(rest.data + 2, rest.len - 2);
    head->authority = hpl_bytes(rest.data, 0);
    while (head->authority.len < rest.len && !strchr("/?", rest.data[head->authority.len]))
        head->authority.len++;
    *target = hpl_bytes(rest.data + head->authority.len, rest.len - head->authority.len);
    return is_host(head->authority);
}

static int parse_target(struct hpl_http_head *head)
{
    struct hpl_bytes rest = head->target;
    if (rest.len > HPL_HTTP_MAX_TARGET)
        return refuse(head, 414, "the request target is longer than 8 KiB");
    for (size_t i = 0; i < rest.len; i++)
        if (rest.data[i] <= 0x20 || rest.data[i] >= 0x7f || rest.data[i] == '#')
            return refuse(head, 400, "the request target holds a byte that must be percent-encoded");
    if (rest.len == 0 || (rest.data[0] != '/' && !take_authority(head, &rest)))
        return refuse(head, 400, "the request target is neither an absolute path nor an http URL");
    head->path = cut(&rest, '?');
    head->query = rest;
    if (head->path.len == 0) /* "http://host" */
        head->path = hpl_bytes_str("/");
    return HPL_HTTP_HEAD_WHOLE;
}

/* METHOD SP target SP HTTP/1.x */
static int parse_request_line(struct hpl_http_head *head, struct hpl_bytes line)
{
    head->method = cut(&line, ' ');
    head->target = cut(&line, ' ');
    if (!hpl_http_is_token(head->method))
        return refuse(head, 400, "the request line is malformed");
    int verdict = parse_target(head);
    if (verdict != HPL_HTTP_HEAD_WHOLE)
        return verdict;
    if (line.len != 8 || memcmp(line.data, "HTTP/", 5) != 0 || line.data[6] != '.')
        return refuse(head, 400, "the request line is malformed");
    if (line.data[5] != '1' || (line.data[7] != '0' && line.data[7] != '1'))
        return refuse(head, 505, "only HTTP/1.1 and HTTP/1.0 are spoken here");
    head->is_http10 = line.data[7] == '0';
    head->is_keep_alive = !head->is_http10;
    if (!is_known_method(head->method))
        return refuse(head, 501, "this method is not implemented");
    return HPL_HTTP_HEAD_WHOLE;
}

static void note_connection(struct hpl_http_head *head, struct hpl_bytes list, bool *is_close)
{
    while (list.len) {
        struct hpl_bytes word = hpl_http_next_word(&list);
        if (hpl_http_is_word(word, "close"))
            *is_close = true;
        else if (hpl_http_is_word(word, "keep-alive"))
            head->is_keep_alive = true;
    }
}

struct framing {
    unsigned num_hosts, num_lengths, num_encodings;
    bool is_close;
};

/* White space around a value may be tabs (RFC 9110 section 5.5), but others read past those or stop at them: not where a body's end is said. */
static bool is_doubtful(struct hpl_bytes line, struct hpl_bytes name)
{
    return (hpl_http_is_word(name, "content-length") || hpl_http_is_word(name, "transfer-encoding")) && memchr(line.data, '\t', line.len);
}

static bool is_same_host(struct hpl_bytes a, struct hpl_bytes b)
{
    return a.len == b.len && strncasecmp((const char *)a.data, (const char *)b.data, a.len) == 0;
}

/* The headers that decide where this request ends and who it is for. */
static int note_field(struct hpl_http_head *head, struct framing *seen, const struct hpl_sigv4_header *field)
{
    if (hpl_http_is_word(field->name, "host")) {
        seen->num_hosts++;
        if (!is_host(field->value))
            return refuse(head, 400, "the Host header is malformed");
        if (head->authority.len && !is_same_host(head->authority, field->value))
            return refuse(head, 400, "the Host header and the request target name different hosts");
    } else if (hpl_http_is_word(field->name, "content-length")) {
        seen->num_lengths++;
        head->content_length = hpl_http_parse_length(field->value);
        if (head->content_length < 0)
            return refuse(head, 400, "the Content-Length is not a plain decimal number");
    } else if (hpl_http_is_word(field->name, "transfer-encoding")) {
        seen->num_encodings++;
        head->is_chunked = hpl_http_is_word(field->value, "chunked");
        if (!head->is_chunked)
            return refuse(head, 501, "the only Transfer-Encoding known here is chunked");
    } else if (hpl_http_is_word(field->name, "connection")) {
        note_connection(head, field->value, &seen->is_close);
    } else if (hpl_http_is_word(field->name, "expect") && !head->is_http10) {
        head->expects_continue = hpl_http_is_word(field->value, "100-continue");
        if (!head->expects_continue && field->value.len)
            return refuse(head, 417, "the only expectation met here is 100-continue");
    }
    return HPL_HTTP_HEAD_WHOLE;
}

static int check_framing(struct hpl_http_head *head, const struct framing *seen)
{
    if (seen->num_hosts > 1 || (seen->num_hosts == 0 && !head->is_http10))
        return refuse(head, 400, "the request needs exactly one Host header");
    if (seen->num_lengths > 1)
        return refuse(head, 400, "Content-Length is given twice");
    if (seen->num_encodings > 1)
        return refuse(head, 400, "Transfer-Encoding is given twice");
    if (seen->num_encodings && (seen->num_lengths || head->is_http10))
        return refuse(head, 400, "Transfer-Encoding may not come with Content-Length or HTTP/1.0");
    if (seen->is_close)
        head->is_keep_alive = false;
    return HPL_HTTP_HEAD_WHOLE;
}

static int parse_fields(struct hpl_http_head *head, const uint8_t *at, const uint8_t *end)
{
    struct framing seen = {0};
    head->content_length = -1;
    while (at < end) {
        const uint8_t *cr = memchr(at, '\r', (size_t)(end - at));
        struct hpl_sigv4_header *field = &head->headers[head->num_headers];
        if (*at == ' ' || *at == '\t')
            return refuse(head, 400, "a header is folded over two lines");
        struct hpl_bytes line = hpl_bytes(at, (size_t)(cr - at));
        if (!hpl_http_parse_field(line, field))
            return refuse(head, 400, "a header line is malformed");
        if (is_doubtful(line, field->name))
            return refuse(head, 400, "there is a tab in a header that says where the body ends");
        head->num_headers++;
        int verdict = note_field(head, &seen, field);
        if (verdict != HPL_HTTP_HEAD_WHOLE)
            return verdict;
        at = cr + 2;
    }
    return check_framing(head, &seen);
}

int hpl_http_head_parse(struct hpl_http_head *head, const uint8_t *data, size_t len)
{
    int verdict = scan(head, data, len);
    if (verdict != HPL_HTTP_HEAD_WHOLE)
        return verdict;
    const uint8_t *cr = memchr(data, '\r', head->len);
    verdict = parse_request_line(head, hpl_bytes(data, (size_t)(cr - data)));
    if (verdict != HPL_HTTP_HEAD_WHOLE)
        return verdict;
    return parse_fields(head, cr + 2, data + head->len - 2);
}
