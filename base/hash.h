/* Hashes and key derivation by OpenSSL, fetched once. Any thread. */
#ifndef HPL_BASE_HASH_H
#define HPL_BASE_HASH_H

#include "base/bytes.h"

#define HPL_SHA256_LEN 32u

void hpl_sha256(uint8_t out[static 32], const void *data, size_t len);
/* HMAC-SHA256 (RFC 2104). */
void hpl_hmac_sha256(uint8_t out[static 32], const void *key, size_t key_len, const void *data, size_t len);
/* HKDF-SHA256 (RFC 5869), out_len at most 255*32. */
void hpl_hkdf_sha256(void *out, size_t out_len, struct hpl_bytes key, struct hpl_bytes salt, struct hpl_bytes info);

/* A running hash: "SHA256", "SHA1" or "MD5". */
struct hpl_hash {
    void *ctx;
};
enum hpl_status hpl_hash_init(struct hpl_hash *hash, const char *name) HPL_MUST_USE;
void hpl_hash_update(struct hpl_hash *hash, const void *data, size_t len);
/* Writes the digest (at most 32 bytes), ends the hash, returns its length. */
size_t hpl_hash_final(struct hpl_hash *hash, uint8_t out[static 32]);
void hpl_hash_wipe(struct hpl_hash *hash);

#endif
