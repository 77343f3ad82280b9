/* One large AES-GCM message over all workers: the same bytes and tag as engine/aead.h, sooner. SP 800-38D. */
#ifndef HPL_ENGINE_WORK_SPLIT_H
#define HPL_ENGINE_WORK_SPLIT_H

#include "engine/aead.h"
#include "engine/work/work.h"

/* As hpl_aead_seal. Below HPL_GCM_SPLIT_MIN bytes, with one worker, or with work NULL: on the calling thread. Any thread but a worker's own. */
void hpl_aead_seal_split(struct hpl_work *work, const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad, const uint8_t *in,
                         size_t len, uint8_t *out, uint8_t tag[static 16]);

/* As hpl_aead_open: HPL_INVALID_CIPHERTEXT, and out zeroed, when the tag is not right. Threads as above. */
enum hpl_status hpl_aead_open_split(struct hpl_work *work, const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad,
                                    const uint8_t *in, size_t len, uint8_t *out, const uint8_t tag[static 16]) HPL_MUST_USE;

#endif
