/* hpl_packages_seal and hpl_packages_open for long runs, spread over the workers. Any thread but a worker's own; the caller
 * waits. */
#ifndef HPL_ENGINE_SEAL_BATCH_H
#define HPL_ENGINE_SEAL_BATCH_H

#include "engine/seal/package.h"
#include "engine/work/work.h"

/* Runs of fewer packages are done where they arrive. Handing a batch to sleeping workers costs 26 µs on the mean, a package 17 µs (two
 * cores, AES-NI): at 8 packages two workers win by a fifth, at 4 they would not. */
#define HPL_BATCH_MIN_PACKAGES 8u
/* Packages a piece: 256 KiB, which stays in a core's cache and makes claiming a piece cost nothing beside it. */
#define HPL_BATCH_PIECE_PACKAGES 4u

/* As hpl_packages_seal. work may be NULL. */
size_t hpl_packages_seal_all(struct hpl_work *work, const struct hpl_part_key *key, uint32_t first, bool is_last,
                             const uint8_t *in, size_t len, uint8_t *out);

/* As hpl_packages_open; on failure nothing of the whole run is left in out, which has room for in_len less
 * 32 bytes a package. work may be NULL. */
enum hpl_status hpl_packages_open_all(struct hpl_call *call, struct hpl_work *work, const struct hpl_part_key *key, uint64_t part_len,
                                      uint32_t first, const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len) HPL_MUST_USE;

#endif
