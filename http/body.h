/* A request body's layers, outermost first: its framing (Content-Length or chunked), aws-chunked within it, and what the bytes
 * must prove (length, SHA-256, chunk signatures). Pure but for hashing; runs in jobs. */
#ifndef HPL_HTTP_BODY_H
#define HPL_HTTP_BODY_H

#include "http/aws_chunked.h"

struct hpl_body {
    bool is_chunked, is_aws, is_hashed;
    uint64_t raw_left;          /* framed by Content-Length: bytes still to come */
    uint64_t max;               /* decoded bytes allowed */
    int64_t announced;          /* decoded length announced; -1: unknown */
    uint64_t decoded;           /* decoded so far */
    bool is_done;               /* everything was read and proven */
    bool is_inner_done;         /* aws-chunked has ended; only the outer framing may follow */
    struct hpl_chunked outer;
    struct hpl_aws_chunked inner;
    struct hpl_hash hash;
    struct hpl_sigv4_payload payload;
};

/* Takes a span of decoded bytes; false stops the feeding. */
typedef bool hpl_body_sink_fn(void *arg, struct hpl_bytes span);

/* content_length -1 and not chunked: an empty body. payload (may be NULL) is taken over and left empty. decoded_length is
 * x-amz-decoded-content-length, -1 when not given. HPL_LENGTH_REQUIRED, HPL_TOO_LARGE. Wiped also after a failure. */
enum hpl_status hpl_body_init(struct hpl_call *call, struct hpl_body *body, int64_t content_length, bool is_chunked,
                              int64_t decoded_length, struct hpl_sigv4_payload *payload, uint64_t max) HPL_MUST_USE;
/* Decodes from *input, leaving what belongs to the next request. Everything is taken unless the body is done or the sink says
 * stop. HPL_INVALID_REQUEST, HPL_TOO_LARGE, HPL_INCOMPLETE_BODY, HPL_SHA256_MISMATCH, HPL_AUTH_BAD_SIGNATURE. */
enum hpl_status hpl_body_feed(struct hpl_call *call, struct hpl_body *body, struct hpl_bytes *input, hpl_body_sink_fn *sink,
                              void *arg) HPL_MUST_USE;
/* Of a whole body: do the trailers of an aws-chunked payload that has such stand in announced, the value of x-amz-trailer, each once,
 * and none beside them? Otherwise what was to prove the body would be missing. HPL_MALFORMED_TRAILER. */
enum hpl_status hpl_body_check_trailers(struct hpl_call *call, const struct hpl_body *body, struct hpl_bytes announced) HPL_MUST_USE;
/* A trailer of either layer. */
struct hpl_bytes hpl_body_trailer(const struct hpl_body *body, const char *name);
void hpl_body_wipe(struct hpl_body *body);

#endif
