/* What makes parts an object, in one canonical form, and its MAC under a subkey of the data or customer key (of the root
 * secret for a plain object), verified before the first byte of any read. */
#ifndef HPL_ENGINE_SEAL_MANIFEST_H
#define HPL_ENGINE_SEAL_MANIFEST_H

#include "engine/seal/package.h"

#define HPL_MANIFEST_MAC_LEN 32u
#define HPL_MANIFEST_MAX_PARTS 10000u

enum hpl_seal_mode { HPL_MODE_PLAIN = 0, HPL_MODE_SSE_S3 = 1, HPL_MODE_SSE_KMS = 2, HPL_MODE_SSE_C = 3 };

struct hpl_manifest_part {
    uint32_t number;                        /* ascending */
    uint64_t len;                           /* plaintext bytes */
    uint8_t salt[HPL_PART_SALT_LEN];        /* zero in a plain object */
    uint8_t commitment[HPL_COMMITMENT_LEN]; /* zero in a plain object */
};

struct hpl_pair {
    struct hpl_bytes name, value;
};

struct hpl_manifest {
    enum hpl_seal_mode mode;
    uint8_t instance[16];
    struct hpl_bytes bucket, key;
    int64_t modified_ms;
    uint64_t size;                      /* sum of the parts */
    bool is_multipart;                  /* was uploaded in parts, so its ETag has a "-N" */
    struct hpl_manifest_part *parts;    /* num_parts of them, owned after decode */
    uint32_t num_parts;
    struct hpl_pair *context;           /* the whole encryption context, sorted by name, names unique */
    uint32_t num_context;
    struct hpl_pair *metadata;          /* content-type and the like, x-amz-meta-*; sorted by name, names unique */
    uint32_t num_metadata;
    struct hpl_bytes sealed;            /* ETag and checksums, sealed by the caller; opaque here */
};

/* Appends the canonical form. Sorts nothing: HPL_INVALID_ARGUMENT when pairs or parts are out of order or doubled,
 * or when size is not the sum of the parts. */
enum hpl_status hpl_manifest_encode(struct hpl_call *call, const struct hpl_manifest *manifest, struct hpl_buf *out) HPL_MUST_USE;

/* Strict: HPL_INTEGRITY on anything that encode would not have written. Views point into bytes, arrays are the
 * manifest's own until hpl_manifest_wipe. */
enum hpl_status hpl_manifest_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_manifest *out) HPL_MUST_USE;
void hpl_manifest_wipe(struct hpl_manifest *manifest);

/* The MAC subkey: HKDF of the data or customer key, bound to the instance. HPL_NO_MEMORY when the secret region is full. */
enum hpl_status hpl_manifest_key_new(struct hpl_call *call, struct hpl_secret **out, const struct hpl_secret *key,
                                     const uint8_t instance[static 16]) HPL_MUST_USE;

/* HMAC-SHA256 over the canonical form. */
void hpl_manifest_mac(uint8_t out[static HPL_MANIFEST_MAC_LEN], const struct hpl_secret *manifest_key, struct hpl_bytes encoded);

/* Constant time; HPL_INTEGRITY when it differs. */
enum hpl_status hpl_manifest_verify(struct hpl_call *call, const struct hpl_secret *manifest_key, struct hpl_bytes encoded,
                                    const uint8_t mac[static HPL_MANIFEST_MAC_LEN]) HPL_MUST_USE;

#endif
