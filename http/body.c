/* The layers of a request body, fed from the outside in. Runs in jobs. */
#include "http/body.h"

#include "http/head.h"

static bool is_aws_mode(enum hpl_payload_mode mode)
{
    return mode == HPL_PAYLOAD_CHUNKED_SIGNED || mode == HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER ||
           mode == HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER;
}

static enum hpl_status too_large(struct hpl_call *call, const struct hpl_body *body)
{
    return hpl_fail(call, HPL_TOO_LARGE, "the body is larger than %llu bytes", (unsigned long long)body->max);
}

enum hpl_status hpl_body_init(struct hpl_call *call, struct hpl_body *body, int64_t content_length, bool is_chunked,
                              int64_t decoded_length, struct hpl_sigv4_payload *payload, uint64_t max)
{
    *body = (struct hpl_body){.is_chunked = is_chunked, .max = max, .announced = content_length};
    body->raw_left = content_length > 0 ? (uint64_t)content_length : 0;
    if (payload) {
        body->payload = *payload;
        hpl_wipe(payload, sizeof *payload);
        body->is_aws = is_aws_mode(body->payload.mode);
        body->is_hashed = body->payload.mode == HPL_PAYLOAD_HASHED;
    }
    if (body->is_aws) {
        hpl_aws_chunked_init(&body->inner, &body->payload);
        body->announced = decoded_length;
        if (decoded_length < 0)
            return hpl_fail(call, HPL_LENGTH_REQUIRED, "aws-chunked needs x-amz-decoded-content-length");
    }
    if (body->announced >= 0 && (uint64_t)body->announced > max)
        return too_large(call, body);
    return body->is_hashed ? hpl_hash_init(&body->hash, "SHA256") : HPL_OK;
}

static enum hpl_status pass_on(struct hpl_call *call, struct hpl_body *body, struct hpl_bytes span, hpl_body_sink_fn *sink,
                               void *arg, bool *goes_on)
{
    body->decoded += span.len;
    if (body->is_aws && body->decoded > (uint64_t)body->announced)
        return hpl_fail(call, HPL_INCOMPLETE_BODY, "the body is longer than x-amz-decoded-content-length");
    if (body->decoded > body->max)
        return too_large(call, body);
    if (body->is_hashed)
        hpl_hash_update(&body->hash, span.data, span.len);
    *goes_on = sink(arg, span);
    return HPL_OK;
}

/* Bytes of the outer framing, into aws-chunked or straight on. */
static enum hpl_status feed_inner(struct hpl_call *call, struct hpl_body *body, struct hpl_bytes raw, hpl_body_sink_fn *sink,
                                  void *arg, bool *goes_on)
{
    if (!body->is_aws)
        return raw.len ? pass_on(call, body, raw, sink, arg, goes_on) : HPL_OK;
    while (*goes_on && raw.len) {
        struct hpl_bytes span = {0};
        if (body->is_inner_done)
            return hpl_fail(call, HPL_INVALID_REQUEST, "bytes follow the end of the aws-chunked payload");
        HPL_TRY(hpl_aws_chunked_next(call, &body->inner, &raw, &span, &body->is_inner_done));
        if (span.len)
            HPL_TRY(pass_on(call, body, span, sink, arg, goes_on));
    }
    return HPL_OK;
}

/* The next piece of the outer framing. */
static enum hpl_status next_raw(struct hpl_call *call, struct hpl_body *body, struct hpl_bytes *input, struct hpl_bytes *raw,
                                bool *is_end)
{
    if (!body->is_chunked) {
        size_t len = input->len < body->raw_left ? input->len : (size_t)body->raw_left;
        *raw = hpl_bytes(input->data, len);
        input->data += len;
        input->len -= len;
        body->raw_left -= len;
        *is_end = body->raw_left == 0;
        return HPL_OK;
    }
    enum hpl_chunked_event event;
    HPL_TRY(hpl_chunked_next(call, &body->outer, input, &event, raw));
    if (event == HPL_CHUNKED_CHUNK && !hpl_chunked_extension_is_valid(hpl_chunked_extension(&body->outer)))
        return hpl_fail(call, HPL_INVALID_REQUEST, "the chunked body is malformed: a chunk's extension is not valid");
    *is_end = event == HPL_CHUNKED_DONE;
    return HPL_OK;
}

static enum hpl_status prove(struct hpl_call *call, struct hpl_body *body)
{
    uint8_t sha256[32];
    if (body->is_aws && (!body->is_inner_done || body->decoded != (uint64_t)body->announced))
        return hpl_fail(call, HPL_INCOMPLETE_BODY, "the aws-chunked payload ends before x-amz-decoded-content-length bytes");
    if (body->is_hashed) {
        hpl_hash_final(&body->hash, sha256);
        if (!hpl_equal_secret(sha256, body->payload.sha256, sizeof sha256))
            return hpl_fail(call, HPL_SHA256_MISMATCH, "the body's SHA-256 is not the x-amz-content-sha256 that was sent");
    }
    body->is_done = true;
    return HPL_OK;
}

enum hpl_status hpl_body_feed(struct hpl_call *call, struct hpl_body *body, struct hpl_bytes *input, hpl_body_sink_fn *sink,
                              void *arg)
{
    bool goes_on = true, is_end = false;
    do {
        struct hpl_bytes raw = {0};
        HPL_TRY(next_raw(call, body, input, &raw, &is_end));
        HPL_TRY(feed_inner(call, body, raw, sink, arg, &goes_on));
    } while (goes_on && !is_end && input->len);
    return goes_on && is_end ? prove(call, body) : HPL_OK;
}

/* S3 compares the two lists both ways; so that nobody between can take a checksum off the end of a body, or put one there. */
enum hpl_status hpl_body_check_trailers(struct hpl_call *call, const struct hpl_body *body, struct hpl_bytes announced)
{
    const struct hpl_chunked *chunked = &body->inner.chunked;
    bool is_signed = body->payload.mode == HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER;
    size_t num_announced = is_signed; /* the signature of the others, which is never in the list */
    if (!is_signed && body->payload.mode != HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER)
        return HPL_OK;
    while (announced.len) {
        struct hpl_bytes name = hpl_http_next_word(&announced);
        if (name.len && hpl_chunked_count_trailers(chunked, name) != 1)
            return hpl_fail(call, HPL_MALFORMED_TRAILER, "x-amz-trailer names %.*s, which must come once, behind the body", (int)(name.len > 80 ? 80 : name.len),
                            (const char *)name.data);
        num_announced += name.len > 0;
    }
    return hpl_chunked_count_trailers(chunked, hpl_bytes(NULL, 0)) == num_announced ? HPL_OK : HPL_MALFORMED_TRAILER;
}

struct hpl_bytes hpl_body_trailer(const struct hpl_body *body, const char *name)
{
    struct hpl_bytes value = hpl_chunked_trailer(body->is_aws ? &body->inner.chunked : &body->outer, name);
    return value.data || !body->is_aws ? value : hpl_chunked_trailer(&body->outer, name);
}

void hpl_body_wipe(struct hpl_body *body)
{
    hpl_chunked_wipe(&body->outer);
    hpl_aws_chunked_wipe(&body->inner);
    hpl_hash_wipe(&body->hash);
    hpl_sigv4_payload_wipe(&body->payload);
    *body = (struct hpl_body){0};
}
