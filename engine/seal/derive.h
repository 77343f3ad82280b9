/* The secrets of one part, derived from a data or customer key. Apart from package.h because they are bytes here: for package.c,
 * for the vectors and for the tools that prove the format against other programs. Any thread. */
#ifndef HPL_ENGINE_SEAL_DERIVE_H
#define HPL_ENGINE_SEAL_DERIVE_H

#include "engine/aead.h"
#include "engine/seal/package.h"

#define HPL_DATA_KEY_LEN 32u

/* In the order HKDF gives them; the commitment is a whole HMAC output. */
struct hpl_part_secrets {
    uint8_t package_key[32];
    uint8_t commitment[HPL_COMMITMENT_LEN];
    uint8_t nonce[HPL_AEAD_NONCE_LEN]; /* of the stream; top bit clear */
};

/* HKDF-SHA256 (RFC 5869) with info = "hpl-part-v1" | lp16 bucket | lp32 key | instance (16) | u32 part number, big-endian.
 * The caller keeps out in secret memory or wipes it. HPL_INVALID_ARGUMENT when the data key is not 32 bytes or the id cannot be
 * written down; out is untouched then. */
enum hpl_status hpl_part_derive(struct hpl_call *call, struct hpl_part_secrets *out, const struct hpl_secret *key,
                                const uint8_t salt[static HPL_PART_SALT_LEN], const struct hpl_part_id *id) HPL_MUST_USE;

/* A 32-byte subkey in secret memory: HKDF-SHA256(key; salt = instance; info = label), label without its NUL. For what belongs to
 * the whole object. HPL_INVALID_ARGUMENT when the key is not 32 bytes, HPL_NO_MEMORY when the secret region is full. */
enum hpl_status hpl_object_subkey(struct hpl_call *call, struct hpl_secret **out, const struct hpl_secret *key,
                                  const uint8_t instance[static 16], const char *label) HPL_MUST_USE;

#endif
