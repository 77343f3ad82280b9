/* ETags and checksums tell about the plaintext, so they are stored sealed: under a subkey of the root secret, so that a listing needs no
 * token, bound to the object's instance. Any thread. design: docs/formats.md. */
#ifndef HPL_ENGINE_SEAL_FIELDS_H
#define HPL_ENGINE_SEAL_FIELDS_H

#include "base/bytes.h"
#include "base/secret.h"

#define HPL_FIELDS_OVERHEAD 28u /* nonce 12, tag 16 */

/* The subkey: HKDF-SHA256(key; instance; "hpl-fields-v1"), 32 bytes in secret memory. HPL_NO_MEMORY when the secret region is full. */
enum hpl_status hpl_fields_key_new(struct hpl_call *call, struct hpl_secret **out, const struct hpl_secret *key,
                                   const uint8_t instance[static 16]) HPL_MUST_USE;

/* Appends nonce (random) | AES-256-GCM ciphertext | tag. label says which field it is ("etag", "part 7") and is authenticated:
 * a field opens only under its own. At most 2^32 fields under one key (SP 800-38D §8.3). */
enum hpl_status hpl_fields_seal(struct hpl_call *call, const struct hpl_secret *fields_key, struct hpl_bytes label,
                                struct hpl_bytes plain, struct hpl_buf *out) HPL_MUST_USE;

/* Appends the plaintext; HPL_INTEGRITY, and nothing appended, when it does not verify. */
enum hpl_status hpl_fields_open(struct hpl_call *call, const struct hpl_secret *fields_key, struct hpl_bytes label,
                                struct hpl_bytes sealed, struct hpl_buf *out) HPL_MUST_USE;

#endif
