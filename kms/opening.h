/* Opening an envelope whose use was permitted just now: from what the key's caching choice kept, or by the backend, once for all who ask the same at
 * the same time. Any thread; may block on the backend. */
#ifndef HPL_KMS_OPENING_H
#define HPL_KMS_OPENING_H

#include "kms/internal.h"

struct hpl_opening {
    struct hpl_attachment *attachment;
    const struct hpl_key_record *record; /* state and policy were asked for this very use */
    bool is_stale;                       /* the record could not be read again: only an outage cache may answer */
    const struct hpl_envelope *envelope;
    struct hpl_bytes wire;               /* the same as it stands */
    const struct hpl_context *context;
    struct hpl_secret_cache *cache;
    struct hpl_secret_term term;         /* what may be kept of the answer */
};

/* *secret is the caller's. */
enum hpl_status hpl_opening_run(struct hpl_call *call, const struct hpl_opening *opening, struct hpl_secret **secret) HPL_MUST_USE;

/* SHA-256(envelope ‖ AAD): under what an opened envelope is kept. */
void hpl_opening_key(struct hpl_bytes wire, const uint8_t aad[static HPL_WRAP_AAD_LEN], uint8_t out[static HPL_LRU_KEY_LEN]);

/* An object's key under its bucket's key: a new one (32 bytes; the context names the bucket), and one that was sealed so. */
bool hpl_bucket_key_is_wanted(const struct hpl_key_record *record, enum hpl_purpose purpose, const struct hpl_context *context, size_t len);
enum hpl_status hpl_bucket_key_generate(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                        const struct hpl_context *context, struct hpl_secret **secret, struct hpl_buf *out) HPL_MUST_USE;
/* Key and check of one object: HKDF-SHA256(bucket key; salt; "hpl-bucket-key-v1" ‖ hash of its context), 48 bytes. */
enum hpl_status hpl_bucket_key_derive(struct hpl_call *call, const struct hpl_secret *bucket_key, const uint8_t salt[static 32],
                                      const struct hpl_context *context, struct hpl_secret **key, uint8_t check[static 16]) HPL_MUST_USE;
/* opening: of the inner envelope, all but its context and term, which are set here; context: the object's whole one. */
enum hpl_status hpl_bucket_key_open(struct hpl_call *call, struct hpl_opening *opening, const struct hpl_bucket_envelope *envelope,
                                    const struct hpl_context *context, struct hpl_secret **secret) HPL_MUST_USE;

#endif
