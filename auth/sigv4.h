/* AWS Signature Version 4 (the "AWS Signature Version 4 for API requests" reference): verify for both surfaces, sign for the
 * command line. Header and presigned-query forms, all payload modes of S3. Pure but for the credential look-up. Any thread. */
#ifndef HPL_AUTH_SIGV4_H
#define HPL_AUTH_SIGV4_H

#include "auth/auth.h"

struct hpl_sigv4_header {
    struct hpl_bytes name, value; /* name in any case; value without surrounding white space */
};

/* A request as it came: path and query raw (still percent-encoded), query without the '?'. */
struct hpl_sigv4_request {
    struct hpl_bytes method, path, query;
    const struct hpl_sigv4_header *headers;
    size_t num_headers;
};

enum hpl_payload_mode {
    HPL_PAYLOAD_HASHED,                  /* x-amz-content-sha256: 64 hex digits of the body */
    HPL_PAYLOAD_UNSIGNED,                /* UNSIGNED-PAYLOAD */
    HPL_PAYLOAD_CHUNKED_SIGNED,          /* STREAMING-AWS4-HMAC-SHA256-PAYLOAD */
    HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER,  /* STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER */
    HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER /* STREAMING-UNSIGNED-PAYLOAD-TRAILER */
};

/* What the body must prove. signing_key is owned: hpl_sigv4_payload_wipe. */
struct hpl_sigv4_payload {
    enum hpl_payload_mode mode;
    uint8_t sha256[32];              /* HASHED */
    struct hpl_secret *signing_key;  /* CHUNKED_SIGNED*: 32 bytes */
    char previous[65];               /* the seed, then each chunk's signature, lower-case hex */
    char timestamp[17];              /* 20240918T071042Z */
    char scope[160];                 /* date/region/service/aws4_request */
};
void hpl_sigv4_payload_wipe(struct hpl_sigv4_payload *payload);

struct hpl_sigv4_options {
    const char *services;   /* comma-separated, e.g. "s3" or "s3,kms" */
    const char *region;     /* NULL: any */
    bool allow_presigned;   /* query form; never for admin and KMS routes */
    bool require_hashed;    /* admin and KMS routes: the payload must be HASHED (signed) */
    const uint8_t *body_sha256; /* NULL, or the whole body's SHA-256 (32 bytes): stands in for x-amz-content-sha256 where a client
                                 * signs the body's hash without sending it, as AWS's own do for services other than s3 */
};

/* Verifies the head. No signature at all: HPL_AUTH_REQUIRED. Others: HPL_AUTH_MALFORMED (of a query: _MALFORMED_QUERY), _UNKNOWN_KEY,
 * _BAD_SIGNATURE, _SKEWED (15 minutes either way), _EXPIRED (presigned). Host and every x-amz-* header present must be signed, else
 * HPL_AUTH_UNSIGNED_HEADER; one Authorization, one date (none or a wrong one: HPL_AUTH_UNDATED). Where x-amz-content-sha256 is missing: presigned means UNSIGNED-PAYLOAD; then body_sha256; then, with require_hashed and
 * a head that announces no body, the hash of the empty body; anything else is HPL_AUTH_MALFORMED with the mend.
 * A '+' in the query counts as a space: whoever reads parameters must read it so too. A session token: HPL_AUTH_TOKEN_INVALID.
 * On failure payload is zero. */
enum hpl_status hpl_sigv4_verify(struct hpl_call *call, struct hpl_auth *auth, const struct hpl_sigv4_request *request,
                                 const struct hpl_sigv4_options *options, struct hpl_identity *identity,
                                 struct hpl_sigv4_payload *payload) HPL_MUST_USE;

/* CHUNKED_SIGNED*: verifies one chunk's signature over the SHA-256 of its data and steps forward; the trailer's over the
 * SHA-256 of its canonical lines. HPL_AUTH_BAD_SIGNATURE. */
enum hpl_status hpl_sigv4_check_chunk(struct hpl_call *call, struct hpl_sigv4_payload *payload,
                                      const uint8_t sha256[static 32], struct hpl_bytes signature) HPL_MUST_USE;
enum hpl_status hpl_sigv4_check_trailer(struct hpl_call *call, struct hpl_sigv4_payload *payload,
                                        const uint8_t sha256[static 32], struct hpl_bytes signature) HPL_MUST_USE;

/* Signs: appends the Authorization header's value. The request's headers must already hold host, x-amz-date and
 * x-amz-content-sha256; all of them are signed. */
enum hpl_status hpl_sigv4_sign(struct hpl_call *call, const struct hpl_sigv4_request *request, const char *access_key,
                               const struct hpl_secret *secret_key, const char *region, const char *service,
                               struct hpl_buf *authorization) HPL_MUST_USE;

#endif
