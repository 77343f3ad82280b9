/* The envelope: a wrapped data key with everything needed to find the key that opens it. The only definition; docs/formats-envelope.md has it
 * in words. Pure; any thread. */
#ifndef HPL_KMS_ENVELOPE_H
#define HPL_KMS_ENVELOPE_H

#include "kms/kms.h"

struct hpl_envelope {
    uint8_t purpose;                 /* enum hpl_purpose */
    uint8_t instance[8];             /* which keystore */
    uint8_t uid[HPL_KEY_UID_LEN];
    uint32_t version;
    struct hpl_wrapped wrapped;      /* mechanism, salt or IV, ciphertext */
};

#define HPL_ENVELOPE_MAX 1024u

/* Appends: "HPL1", purpose u8, mechanism u8, instance 8, uid 16, version u32, IV u8+n, ciphertext u16+n; big-endian. */
void hpl_envelope_encode(const struct hpl_envelope *envelope, struct hpl_buf *out);

/* Exactly one envelope and nothing behind it. HPL_INVALID_CIPHERTEXT otherwise. */
enum hpl_status hpl_envelope_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_envelope *out) HPL_MUST_USE;

/* SHA-256("hpl-aad-v1" ‖ every field before the IV ‖ count u16 ‖ pairs sorted by name, each u16+name u32+value).
 * HPL_INVALID_REQUEST: a name is empty or doubled, not UTF-8, or the context is too large. */
enum hpl_status hpl_envelope_aad(struct hpl_call *call, const struct hpl_envelope *envelope, const struct hpl_context *context,
                                 uint8_t aad[static HPL_WRAP_AAD_LEN]) HPL_MUST_USE;

/* The other form, of an object's key that a bucket key gave: "HPLB1", salt 32, check 16, u16+n the bucket key's own envelope (purpose bucket key, bound
 * to the bucket alone). The key is derived, never sealed itself: HKDF-SHA256(bucket key; salt; "hpl-bucket-key-v1" ‖ hash of the whole context) gives 32
 * bytes of key and 16 of check, so that a wrong context is told here. */
struct hpl_bucket_envelope {
    uint8_t salt[32], check[16];
    struct hpl_bytes inner; /* a view into what was decoded */
};

bool hpl_envelope_is_bucket(struct hpl_bytes bytes);
void hpl_bucket_envelope_encode(const struct hpl_bucket_envelope *envelope, struct hpl_buf *out);
/* The inner envelope is not looked at. HPL_INVALID_CIPHERTEXT. */
enum hpl_status hpl_bucket_envelope_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_bucket_envelope *out) HPL_MUST_USE;

/* SHA-256("hpl-context-v1" ‖ count u16 ‖ pairs as above): a context whatever seals under it. */
enum hpl_status hpl_context_hash(struct hpl_call *call, const struct hpl_context *context, uint8_t out[static HPL_WRAP_AAD_LEN]) HPL_MUST_USE;

#endif
