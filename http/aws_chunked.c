/* aws-chunked over the chunked decoder: takes the signature off each chunk's line, hashes its data, has auth/ check it. Pure. */
#include "http/aws_chunked.h"

#include "http/head.h"

#define TRAILER_SIGNATURE "x-amz-trailer-signature"

static bool is_signed(const struct hpl_aws_chunked *aws)
{
    return aws->payload->mode != HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER;
}

void hpl_aws_chunked_init(struct hpl_aws_chunked *aws, struct hpl_sigv4_payload *payload)
{
    *aws = (struct hpl_aws_chunked){.payload = payload, .chunked = {.takes_lf_trailers = true}}; /* minio-go ends them so, after S3's documents */
}

static bool is_signature(struct hpl_bytes text)
{
    for (size_t i = 0; i < text.len; i++)
        if (!strchr("0123456789abcdef", text.data[i]) || text.data[i] == '\0')
            return false;
    return text.len == 64;
}

static enum hpl_status begin_chunk(struct hpl_call *call, struct hpl_aws_chunked *aws)
{
    static const char prefix[] = ";chunk-signature=";
    struct hpl_bytes extension = hpl_chunked_extension(&aws->chunked);
    if (!is_signed(aws))
        return extension.len ? hpl_fail(call, HPL_INVALID_REQUEST, "an unsigned chunk carries an extension") : HPL_OK;
    size_t skip = sizeof prefix - 1;
    if (extension.len <= skip || memcmp(extension.data, prefix, skip) != 0 ||
        !is_signature(hpl_bytes(extension.data + skip, extension.len - skip)))
        return hpl_fail(call, HPL_INVALID_REQUEST, "a signed chunk needs ';chunk-signature=' and 64 hex digits");
    memcpy(aws->signature, extension.data + skip, 64);
    return hpl_hash_init(&aws->hash, "SHA256");
}

static enum hpl_status end_chunk(struct hpl_call *call, struct hpl_aws_chunked *aws)
{
    uint8_t sha256[32];
    if (!is_signed(aws))
        return HPL_OK;
    hpl_hash_final(&aws->hash, sha256);
    return hpl_sigv4_check_chunk(call, aws->payload, sha256, hpl_bytes(aws->signature, 64));
}

/* What the trailer's signature covers: every other trailer as "name:value\n", names in lower case. */
static void canonical_trailers(const struct hpl_aws_chunked *aws, struct hpl_buf *canonical)
{
    struct hpl_bytes rest = hpl_buf_bytes(&aws->chunked.trailers);
    while (rest.len) {
        const uint8_t *end = memchr(rest.data, '\n', rest.len);
        const uint8_t *colon = memchr(rest.data, ':', rest.len);
        size_t line_len = (size_t)(end - rest.data) + 1, name_len = (size_t)(colon - rest.data);
        if (!hpl_http_is_word(hpl_bytes(rest.data, name_len), TRAILER_SIGNATURE)) {
            size_t from = canonical->len;
            hpl_buf_put(canonical, rest.data, line_len);
            for (size_t i = from; !canonical->is_failed && i < from + name_len; i++)
                if (canonical->data[i] >= 'A' && canonical->data[i] <= 'Z')
                    canonical->data[i] |= 0x20;
        }
        rest = hpl_bytes(rest.data + line_len, rest.len - line_len);
    }
}

static enum hpl_status check_trailers(struct hpl_call *call, struct hpl_aws_chunked *aws)
{
    if (aws->payload->mode == HPL_PAYLOAD_CHUNKED_SIGNED && aws->chunked.trailers.len)
        return hpl_fail(call, HPL_INVALID_REQUEST, "trailers came, but x-amz-content-sha256 announced none");
    if (aws->payload->mode != HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER)
        return HPL_OK;
    struct hpl_bytes signature = hpl_chunked_trailer(&aws->chunked, TRAILER_SIGNATURE);
    if (!is_signature(signature))
        return hpl_fail(call, HPL_AUTH_BAD_SIGNATURE, "signed trailers need one " TRAILER_SIGNATURE " of 64 hex digits");
    struct hpl_buf canonical = {0};
    canonical_trailers(aws, &canonical);
    enum hpl_status status = hpl_buf_check(&canonical);
    if (status == HPL_OK) {
        uint8_t sha256[32];
        hpl_sha256(sha256, canonical.data, canonical.len);
        status = hpl_sigv4_check_trailer(call, aws->payload, sha256, signature);
    }
    hpl_buf_wipe(&canonical);
    return status;
}

enum hpl_status hpl_aws_chunked_next(struct hpl_call *call, struct hpl_aws_chunked *aws, struct hpl_bytes *input,
                                     struct hpl_bytes *span, bool *is_done)
{
    enum hpl_chunked_event event;
    *is_done = false;
    for (;;) {
        HPL_TRY(hpl_chunked_next(call, &aws->chunked, input, &event, span));
        switch (event) {
        case HPL_CHUNKED_CHUNK:
            HPL_TRY(begin_chunk(call, aws));
            break;
        case HPL_CHUNKED_DATA:
            if (is_signed(aws))
                hpl_hash_update(&aws->hash, span->data, span->len);
            return HPL_OK;
        case HPL_CHUNKED_END:
            HPL_TRY(end_chunk(call, aws));
            break;
        case HPL_CHUNKED_DONE:
            *is_done = true;
            return check_trailers(call, aws);
        default:
            return HPL_OK;
        }
    }
}

void hpl_aws_chunked_wipe(struct hpl_aws_chunked *aws)
{
    hpl_chunked_wipe(&aws->chunked);
    hpl_hash_wipe(&aws->hash);
    *aws = (struct hpl_aws_chunked){0};
}
