/* AES-GCM for our own data path: one call a message, the kernel picked once for this processor. This is the seam between what
 * stores objects and what computes: above it nobody knows kernels or EVP. SP 800-38D, 96-bit nonces, 128-bit tags. */
#ifndef HPL_ENGINE_AEAD_H
#define HPL_ENGINE_AEAD_H

#include "base/bytes.h"

#define HPL_AEAD_NONCE_LEN 12u
#define HPL_AEAD_TAG_LEN 16u

/* An expanded key, in secret memory. Immutable once made: any number of threads may use it at once. */
struct hpl_aead_key;

/* key_len 16, 24 or 32. HPL_NO_MEMORY when the secret region is full. */
enum hpl_status hpl_aead_key_new(struct hpl_call *call, struct hpl_aead_key **out, const uint8_t *key, size_t key_len) HPL_MUST_USE;
void hpl_aead_key_free(struct hpl_aead_key *key);

/* out may be in, or apart; len bytes, then the tag apart. Never fails. A nonce must never come twice under one key. */
void hpl_aead_seal(const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad,
                   const uint8_t *in, size_t len, uint8_t *out, uint8_t tag[static 16]);

/* HPL_INVALID_CIPHERTEXT, and out zeroed, when the tag is not right (compared in constant time). */
enum hpl_status hpl_aead_open(const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad,
                              const uint8_t *in, size_t len, uint8_t *out, const uint8_t tag[static 16]) HPL_MUST_USE;

/* For a thread that has locked memory of its own, HPL_GCM_TABLE_LEN bytes at a multiple of 64: its long messages are sealed and opened with that, until it
 * ends. Without it a thread takes as much from the secret region. */
void hpl_aead_lend_table(uint8_t *table);

/* The kernel in use ("aesni"), for status, log and metrics. */
const char *hpl_aead_kernel(void);

#endif
