/* A part in memory, plain and sealed, for what measures the stored format. One thread. */
#ifndef HPL_BENCH_STORED_H
#define HPL_BENCH_STORED_H

#include "engine/seal/package.h"

struct hpl_bench_stored {
    struct hpl_part_key *key;
    size_t len, sealed_len;
    uint8_t *plain, *sealed, *out; /* out: room for either */
};

/* HPL_NO_MEMORY when there is not enough. */
enum hpl_status hpl_bench_stored_init(struct hpl_call *call, struct hpl_bench_stored *stored, size_t most) HPL_MUST_USE;
/* Makes the part one of len bytes, at most those of init. */
void hpl_bench_stored_set(struct hpl_bench_stored *stored, size_t len);
void hpl_bench_stored_wipe(struct hpl_bench_stored *stored);

#endif
