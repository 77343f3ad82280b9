/* The stored form of one part of an object: a DARE 2.0 stream (64 KiB packages, each sealed on its own, the published
 * format of minio/sio) under keys bound to the object, the part and the attempt. design: docs/formats.md. */
#ifndef HPL_ENGINE_SEAL_PACKAGE_H
#define HPL_ENGINE_SEAL_PACKAGE_H

#include "base/bytes.h"
#include "base/secret.h"

#define HPL_PACKAGE_LEN 65536u     /* plaintext bytes of every package but the last */
#define HPL_PACKAGE_OVERHEAD 32u   /* header 16, tag 16 */
#define HPL_PART_SALT_LEN 32u
#define HPL_COMMITMENT_LEN 32u

/* What a part is bound to. Views; the caller keeps them alive during the call. */
struct hpl_part_id {
    struct hpl_bytes bucket, key;
    const uint8_t *instance;  /* 16 random bytes of this version of the object */
    uint32_t part_number;     /* 1 to 10,000 */
};

/* HKDF-SHA256(data or customer key; salt; version, bucket, key, instance, part number) gives the package key, the
 * stream nonce (top bit clear) and the commitment. Lives in secret memory; immutable; any thread. */
struct hpl_part_key;

enum hpl_status hpl_part_key_new(struct hpl_call *call, struct hpl_part_key **out, const struct hpl_secret *key,
                                 const uint8_t salt[static HPL_PART_SALT_LEN], const struct hpl_part_id *id) HPL_MUST_USE;
void hpl_part_key_free(struct hpl_part_key *key);
const uint8_t *hpl_part_key_commitment(const struct hpl_part_key *key); /* 32 bytes, as long as the key lives */

/* Bytes on disk for part_len bytes of plaintext; 0 for 0. At most 2^32 packages. */
uint64_t hpl_sealed_len(uint64_t part_len);
uint32_t hpl_num_packages(uint64_t part_len);

/* Seals len bytes as packages first, first+1, …; all full but, when is_last, the last one (len > 0). Writes
 * len + 32 * packages bytes to out, which must not overlap in. Returns what was written. */
size_t hpl_packages_seal(const struct hpl_part_key *key, uint32_t first, bool is_last, const uint8_t *in, size_t len, uint8_t *out);

/* Opens whole packages, the first of them number first of a part of part_len bytes of plaintext. in_len must be
 * exactly the packages it covers (the last may be short only if it is the part's last). Header version, cipher,
 * length, nonce and final bit must be exactly the expected ones. Writes the plaintext to out and its length to
 * *out_len; on failure HPL_INTEGRITY and out holds nothing of it. */
enum hpl_status hpl_packages_open(struct hpl_call *call, const struct hpl_part_key *key, uint64_t part_len, uint32_t first,
                                  const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len) HPL_MUST_USE;

#endif
