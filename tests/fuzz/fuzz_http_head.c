/* The head parser: one verdict however the input is cut, and nothing but what was sent in what it hands out. */
#include "http/head.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct hpl_http_head whole, cut;

static void check_within(struct hpl_bytes part, const uint8_t *data, size_t len)
{
    HPL_CHECK(part.len == 0 || (part.data >= data && part.data + part.len <= data + len));
    for (size_t i = 0; i < part.len; i++)
        HPL_CHECK(part.data[i] != '\r' && part.data[i] != '\n' && part.data[i] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2)
        return 0;
    size_t at = (size_t)(data[0] << 8 | data[1]) % len;
    data += 2, len -= 2;
    whole = cut = (struct hpl_http_head){0};
    int verdict = hpl_http_head_parse(&whole, data, len);
    int again = hpl_http_head_parse(&cut, data, at < len ? at : len);
    if (again == HPL_HTTP_HEAD_MORE)
        again = hpl_http_head_parse(&cut, data, len);
    HPL_CHECK(verdict == again && whole.len == cut.len && whole.content_length == cut.content_length);
    if (verdict != HPL_HTTP_HEAD_WHOLE)
        return 0;
    HPL_CHECK(whole.len <= len && whole.num_headers <= HPL_HTTP_MAX_HEADERS && !(whole.is_chunked && whole.content_length >= 0));
    check_within(whole.target, data, whole.len);
    for (size_t i = 0; i < whole.num_headers; i++) {
        check_within(whole.headers[i].name, data, whole.len);
        check_within(whole.headers[i].value, data, whole.len);
    }
    return 0;
}
