/* aws-chunked in every mode, in either outer framing. The first byte chooses; the rest is fed whole and byte by byte. */
#include "http/body.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

struct seen {
    uint64_t num, sum;
    enum hpl_status status;
    bool is_done;
};

static bool sink(void *arg, struct hpl_bytes span)
{
    struct seen *seen = arg;
    for (size_t i = 0; i < span.len; i++)
        seen->sum = seen->sum * 31 + span.data[i];
    seen->num += span.len;
    return true;
}

static struct hpl_sigv4_payload make_payload(uint8_t choice)
{
    static const enum hpl_payload_mode modes[] = {HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER, HPL_PAYLOAD_CHUNKED_SIGNED,
                                                  HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER};
    struct hpl_sigv4_payload payload = {.mode = modes[choice % 3], .timestamp = "20130524T000000Z",
                                        .scope = "20130524/us-east-1/s3/aws4_request"};
    payload.signing_key = hpl_secret_new(32);
    HPL_CHECK(payload.signing_key);
    memset(payload.previous, '0', 64);
    return payload;
}

static void feed(struct seen *seen, uint8_t choice, struct hpl_bytes input, size_t step)
{
    struct hpl_sigv4_payload payload = make_payload(choice);
    struct hpl_body body;
    struct hpl_call call = {0};
    bool is_chunked = choice & 0x80;
    int64_t announced = choice >> 2 & 0x1f;
    seen->status = hpl_body_init(&call, &body, is_chunked ? -1 : (int64_t)input.len, is_chunked, announced, &payload, 4096);
    while (seen->status == HPL_OK && input.len && !body.is_done) {
        struct hpl_bytes part = hpl_bytes(input.data, step < input.len ? step : input.len);
        size_t part_len = part.len;
        seen->status = hpl_body_feed(&call, &body, &part, sink, seen);
        input = hpl_bytes(input.data + part_len - part.len, input.len - part_len + part.len);
    }
    seen->is_done = seen->status == HPL_OK && body.is_done;
    HPL_CHECK(!seen->is_done || seen->num == (uint64_t)announced);
    hpl_body_wipe(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct seen whole = {0}, slow = {0};
    if (len < 2)
        return 0;
    feed(&whole, data[0], hpl_bytes(data + 1, len - 1), len);
    feed(&slow, data[0], hpl_bytes(data + 1, len - 1), 1);
    HPL_CHECK(whole.status == slow.status && whole.is_done == slow.is_done);
    HPL_CHECK(!whole.is_done || (whole.num == slow.num && whole.sum == slow.sum));
    return 0;
}
