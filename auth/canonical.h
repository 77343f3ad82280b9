/* The canonical request and the string to sign of SigV4, once for verifying and for signing. Pure; any thread. */
#ifndef HPL_AUTH_CANONICAL_H
#define HPL_AUTH_CANONICAL_H

#include "auth/sigv4.h"

/* Which headers are signed: "host;x-amz-date;…", lower case, sorted. */
struct hpl_canonical {
    const struct hpl_sigv4_request *request;
    struct hpl_bytes signed_headers;
    struct hpl_bytes payload_hash;      /* as it stands in the canonical request */
    struct hpl_bytes ignored_parameter; /* left out of the query: X-Amz-Signature, when presigned; else empty */
    bool is_s3;                         /* the path is the key's; other services normalise it and encode it once more */
};

/* The SHA-256 of the canonical request. HPL_AUTH_MALFORMED: a path or query that is not percent-encoded right, too many
 * parameters. HPL_AUTH_BAD_SIGNATURE: a signed header was not sent, as when a presigned URL is used without its Content-Type. */
enum hpl_status hpl_canonical_hash(struct hpl_call *call, const struct hpl_canonical *canonical,
                                   uint8_t out[static 32]) HPL_MUST_USE;

/* HMAC chain over date, region, service; scope is "date/region/service/aws4_request". key gets 32 bytes. False when scope has
 * another shape. */
bool hpl_signing_key(uint8_t key[static 32], const struct hpl_secret *secret_key, const char *scope);

/* "AWS4-HMAC-SHA256\ntimestamp\nscope\nhex(hash)" under key, as 64 hex digits. */
void hpl_request_signature(char out[static 65], const uint8_t key[static 32], const char *timestamp, const char *scope,
                           const uint8_t hash[static 32]);

/* -1, 0, 1 by bytes, then length. */
int hpl_bytes_compare(struct hpl_bytes a, struct hpl_bytes b);

/* Equal but for ASCII case. */
bool hpl_bytes_is_name(struct hpl_bytes a, const char *name);

#endif
