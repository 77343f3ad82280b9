/* The chunked decoder: lines are collected whole and then parsed, data is passed on as views. Pure; runs in jobs. */
#include "http/chunked.h"

#include <strings.h>

#include "http/head.h"

enum { SIZE_LINE, DATA, DATA_END, AFTER_LAST, TRAILER_LINE, DONE };

static enum hpl_status refuse(struct hpl_call *call, const char *why)
{
    return hpl_fail(call, HPL_INVALID_REQUEST, "the chunked body is malformed: %s", why);
}

static bool ends_in(const struct hpl_buf *line, char c)
{
    return line->len && line->data[line->len - 1] == c;
}

/* Collects one line up to CR LF, or LF CR LF where that is taken. *is_whole tells whether it ended within the input. */
static enum hpl_status read_line(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input, size_t max,
                                 bool *is_whole)
{
    struct hpl_buf *line = &chunked->line;
    bool may_have_lf = chunked->takes_lf_trailers && chunked->state == TRAILER_LINE;
    *is_whole = false;
    while (input->len && !*is_whole) {
        uint8_t c = input->data[0];
        bool after_cr = ends_in(line, '\r'), is_first_lf = may_have_lf && c == '\n' && line->len && !after_cr;
        input->data++, input->len--;
        if ((after_cr != (c == '\n') && !is_first_lf) || (ends_in(line, '\n') && c != '\r'))
            return refuse(call, "a line does not end with CR LF");
        if ((c < 0x20 && c != '\r' && c != '\n' && c != '\t') || c == 0x7f)
            return refuse(call, "a control byte stands in a line");
        if (c == '\n' && after_cr) {
            line->len--;
            line->len -= ends_in(line, '\n');
            *is_whole = true;
        } else if (line->len > max) {
            return refuse(call, "a line is too long");
        } else {
            hpl_buf_put_u8(line, c);
        }
    }
    return hpl_buf_check(line);
}

static int hex_digit(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
        return (c | 0x20) - 'a' + 10;
    return -1;
}

static enum hpl_status parse_size(struct hpl_call *call, struct hpl_chunked *chunked)
{
    struct hpl_bytes line = hpl_buf_bytes(&chunked->line);
    uint64_t size = 0;
    size_t at = 0;
    for (; at < line.len && hex_digit(line.data[at]) >= 0; at++) {
        if (size >> 56)
            return refuse(call, "a chunk size is too large");
        size = size << 4 | (uint64_t)hex_digit(line.data[at]);
    }
    if (at == 0 || (at < line.len && line.data[at] != ';'))
        return refuse(call, "a chunk size is not plain hexadecimal");
    chunked->left = size;
    chunked->extension = at;
    return HPL_OK;
}

struct hpl_bytes hpl_chunked_extension(const struct hpl_chunked *chunked)
{
    return hpl_bytes(chunked->line.data + chunked->extension, chunked->line.len - chunked->extension);
}

/* Steps over a quoted string; 0 when it does not end. */
static size_t quoted_len(struct hpl_bytes text)
{
    for (size_t i = 1; i < text.len; i++) {
        if (text.data[i] == '\\')
            i++;
        else if (text.data[i] == '"')
            return i + 1;
    }
    return 0;
}

static size_t token_len(struct hpl_bytes text)
{
    size_t len = 0;
    while (len < text.len && hpl_http_is_token(hpl_bytes(text.data + len, 1)))
        len++;
    return len;
}

static struct hpl_bytes skip(struct hpl_bytes text, size_t len)
{
    return hpl_bytes(text.data + len, text.len - len);
}

bool hpl_chunked_extension_is_valid(struct hpl_bytes rest)
{
    while (rest.len) {
        size_t name = rest.data[0] == ';' ? token_len(skip(rest, 1)) : 0;
        if (name == 0)
            return false;
        rest = skip(rest, 1 + name);
        if (rest.len == 0 || rest.data[0] != '=')
            continue;
        rest = skip(rest, 1);
        size_t value = rest.len && rest.data[0] == '"' ? quoted_len(rest) : token_len(rest);
        if (value == 0)
            return false;
        rest = skip(rest, value);
    }
    return true;
}

static enum hpl_status keep_trailer(struct hpl_call *call, struct hpl_chunked *chunked)
{
    static const char *const framing[] = {"content-length", "transfer-encoding", "host", "content-encoding", "trailer"};
    struct hpl_sigv4_header field;
    if (!hpl_http_parse_field(hpl_buf_bytes(&chunked->line), &field))
        return refuse(call, "a trailer line is malformed");
    for (size_t i = 0; i < HPL_COUNT(framing); i++)
        if (hpl_http_is_word(field.name, framing[i]))
            return refuse(call, "a trailer may not change the framing");
    hpl_buf_put_bytes(&chunked->trailers, field.name);
    hpl_buf_put_u8(&chunked->trailers, ':');
    hpl_buf_put_bytes(&chunked->trailers, field.value);
    hpl_buf_put_u8(&chunked->trailers, '\n');
    if (chunked->trailers.len > HPL_HTTP_MAX_TRAILERS)
        return refuse(call, "the trailers are larger than 8 KiB");
    return hpl_buf_check(&chunked->trailers);
}

static enum hpl_status next_size(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input,
                                 enum hpl_chunked_event *event)
{
    bool is_whole = false;
    HPL_TRY(read_line(call, chunked, input, HPL_HTTP_MAX_CHUNK_LINE, &is_whole));
    if (!is_whole)
        return HPL_OK;
    HPL_TRY(parse_size(call, chunked));
    chunked->state = chunked->left ? DATA : AFTER_LAST;
    *event = HPL_CHUNKED_CHUNK;
    return HPL_OK;
}

static enum hpl_status next_data(struct hpl_chunked *chunked, struct hpl_bytes *input, enum hpl_chunked_event *event,
                                 struct hpl_bytes *span)
{
    size_t len = input->len < chunked->left ? input->len : (size_t)chunked->left;
    if (len == 0)
        return HPL_OK;
    *span = hpl_bytes(input->data, len);
    *input = skip(*input, len);
    chunked->left -= len;
    chunked->line.len = 0;
    if (chunked->left == 0)
        chunked->state = DATA_END;
    *event = HPL_CHUNKED_DATA;
    return HPL_OK;
}

static enum hpl_status next_data_end(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input,
                                     enum hpl_chunked_event *event)
{
    bool is_whole = false;
    HPL_TRY(read_line(call, chunked, input, 0, &is_whole));
    if (!is_whole)
        return HPL_OK;
    if (chunked->line.len)
        return refuse(call, "a chunk is longer than its size");
    chunked->state = SIZE_LINE;
    *event = HPL_CHUNKED_END;
    return HPL_OK;
}

static enum hpl_status next_trailer(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input,
                                    enum hpl_chunked_event *event)
{
    bool is_whole = false;
    HPL_TRY(read_line(call, chunked, input, HPL_HTTP_MAX_TRAILERS, &is_whole));
    if (!is_whole)
        return HPL_OK;
    if (chunked->line.len == 0) {
        chunked->state = DONE;
        *event = HPL_CHUNKED_DONE;
        return HPL_OK;
    }
    HPL_TRY(keep_trailer(call, chunked));
    chunked->line.len = 0;
    return HPL_OK;
}

static enum hpl_status step(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input,
                            enum hpl_chunked_event *event, struct hpl_bytes *span)
{
    switch (chunked->state) {
    case SIZE_LINE:
        return next_size(call, chunked, input, event);
    case DATA:
        return next_data(chunked, input, event, span);
    case DATA_END:
        return next_data_end(call, chunked, input, event);
    case AFTER_LAST:
        chunked->line.len = 0;
        chunked->state = TRAILER_LINE;
        *event = HPL_CHUNKED_END;
        return HPL_OK;
    case TRAILER_LINE:
        return next_trailer(call, chunked, input, event);
    default:
        *event = HPL_CHUNKED_DONE;
        return HPL_OK;
    }
}

enum hpl_status hpl_chunked_next(struct hpl_call *call, struct hpl_chunked *chunked, struct hpl_bytes *input,
                                 enum hpl_chunked_event *event, struct hpl_bytes *span)
{
    *span = (struct hpl_bytes){0};
    *event = HPL_CHUNKED_MORE;
    do
        HPL_TRY(step(call, chunked, input, event, span));
    while (*event == HPL_CHUNKED_MORE && input->len);
    return HPL_OK;
}

/* The next line of the kept trailers, taken off *rest. */
static struct hpl_sigv4_header next_kept(struct hpl_bytes *rest)
{
    const uint8_t *end = memchr(rest->data, '\n', rest->len);
    struct hpl_bytes line = hpl_bytes(rest->data, (size_t)(end - rest->data));
    struct hpl_sigv4_header field;
    *rest = skip(*rest, line.len + 1);
    HPL_CHECK(hpl_http_parse_field(line, &field));
    return field;
}

struct hpl_bytes hpl_chunked_trailer(const struct hpl_chunked *chunked, const char *name)
{
    struct hpl_bytes rest = hpl_buf_bytes(&chunked->trailers);
    while (rest.len) {
        const struct hpl_sigv4_header field = next_kept(&rest);
        if (hpl_http_is_word(field.name, name))
            return field.value;
    }
    return (struct hpl_bytes){0};
}

size_t hpl_chunked_count_trailers(const struct hpl_chunked *chunked, struct hpl_bytes name)
{
    struct hpl_bytes rest = hpl_buf_bytes(&chunked->trailers);
    size_t count = 0;
    while (rest.len) {
        const struct hpl_bytes other = next_kept(&rest).name;
        count += name.len == 0 || (other.len == name.len && strncasecmp((const char *)other.data, (const char *)name.data, name.len) == 0);
    }
    return count;
}

void hpl_chunked_wipe(struct hpl_chunked *chunked)
{
    hpl_buf_wipe(&chunked->line);
    hpl_buf_wipe(&chunked->trailers);
    *chunked = (struct hpl_chunked){0};
}
