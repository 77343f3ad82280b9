/* Chunked bodies: the same bytes, verdict and rest whether they come whole or byte by byte. */
#include "http/body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct seen {
    struct hpl_buf bytes;
    enum hpl_status status;
    size_t rest;
    bool is_done;
};

static bool sink(void *arg, struct hpl_bytes span)
{
    hpl_buf_put_bytes(&((struct seen *)arg)->bytes, span);
    return true;
}

static void feed(struct seen *seen, struct hpl_bytes input, size_t step)
{
    struct hpl_body body;
    struct hpl_call call = {0};
    seen->status = hpl_body_init(&call, &body, -1, true, -1, NULL, 4096);
    while (seen->status == HPL_OK && input.len && !body.is_done) {
        struct hpl_bytes part = hpl_bytes(input.data, step < input.len ? step : input.len);
        size_t part_len = part.len;
        seen->status = hpl_body_feed(&call, &body, &part, sink, seen);
        HPL_CHECK(seen->status != HPL_OK || part.len == 0 || body.is_done);
        input = hpl_bytes(input.data + part_len - part.len, input.len - part_len + part.len);
    }
    seen->is_done = seen->status == HPL_OK && body.is_done;
    seen->rest = input.len;
    hpl_body_wipe(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct seen whole = {{0}}, slow = {{0}};
    feed(&whole, hpl_bytes(data, len), len + 1);
    feed(&slow, hpl_bytes(data, len), 1);
    HPL_CHECK(whole.status == slow.status && whole.is_done == slow.is_done);
    if (whole.is_done)
        HPL_CHECK(whole.rest == slow.rest && hpl_bytes_equal(hpl_buf_bytes(&whole.bytes), hpl_buf_bytes(&slow.bytes)));
    hpl_buf_wipe(&whole.bytes);
    hpl_buf_wipe(&slow.bytes);
    return 0;
}
