/* Long runs of packages as pieces for the workers. The pieces share nothing but the key, which is immutable. */
#include "engine/seal/batch.h"

#include <stdatomic.h>

#define SEALED_PACKAGE_LEN (HPL_PACKAGE_LEN + HPL_PACKAGE_OVERHEAD)
#define PIECE_LEN ((size_t)HPL_BATCH_PIECE_PACKAGES * HPL_PACKAGE_LEN)
#define SEALED_PIECE_LEN ((size_t)HPL_BATCH_PIECE_PACKAGES * SEALED_PACKAGE_LEN)

struct seal_run {
    const struct hpl_part_key *key;
    uint32_t first;
    bool is_last;
    const uint8_t *in;
    size_t len;
    uint8_t *out;
};

struct open_run {
    const struct hpl_part_key *key;
    uint64_t part_len;
    uint32_t first;
    const uint8_t *in;
    size_t in_len;
    uint8_t *out;
    _Atomic(size_t) opened;    /* plaintext bytes of the pieces that verified */
    _Atomic(size_t) num_bad;
};

static bool is_worth_spreading(const struct hpl_work *work, size_t num_packages)
{
    return work && num_packages >= HPL_BATCH_MIN_PACKAGES && hpl_work_num_threads(work) > 1;
}

static void seal_piece(void *arg, size_t index, uint8_t *scratch)
{
    const struct seal_run *run = arg;
    (void)scratch;
    size_t from = index * PIECE_LEN, rest = run->len - from, n = rest < PIECE_LEN ? rest : PIECE_LEN;
    hpl_packages_seal(run->key, run->first + (uint32_t)index * HPL_BATCH_PIECE_PACKAGES, run->is_last && n == rest,
                      run->in + from, n, run->out + index * SEALED_PIECE_LEN);
}

size_t hpl_packages_seal_all(struct hpl_work *work, const struct hpl_part_key *key, uint32_t first, bool is_last,
                             const uint8_t *in, size_t len, uint8_t *out)
{
    if (!is_worth_spreading(work, len / HPL_PACKAGE_LEN))
        return hpl_packages_seal(key, first, is_last, in, len, out);
    HPL_CHECK(is_last || len % HPL_PACKAGE_LEN == 0);
    HPL_CHECK(hpl_num_packages(len) <= UINT32_MAX - first);
    struct seal_run run = {key, first, is_last, in, len, out};
    hpl_work_run(work, seal_piece, &run, (len + PIECE_LEN - 1) / PIECE_LEN);
    return (size_t)hpl_sealed_len(len);
}

static void open_piece(void *arg, size_t index, uint8_t *scratch)
{
    struct open_run *run = arg;
    (void)scratch;
    if (atomic_load_explicit(&run->num_bad, memory_order_relaxed))
        return;
    size_t from = index * SEALED_PIECE_LEN, rest = run->in_len - from, n = rest < SEALED_PIECE_LEN ? rest : SEALED_PIECE_LEN;
    size_t len = 0;
    enum hpl_status status = hpl_packages_open(NULL, run->key, run->part_len, run->first + (uint32_t)index * HPL_BATCH_PIECE_PACKAGES,
                                               run->in + from, n, run->out + index * PIECE_LEN, &len);
    atomic_fetch_add_explicit(status == HPL_OK ? &run->opened : &run->num_bad, status == HPL_OK ? len : 1, memory_order_relaxed);
}

/* The plaintext that in_len bytes of packages could hold: what the pieces may have written. */
static size_t most_plaintext(size_t in_len)
{
    size_t rest = in_len % SEALED_PACKAGE_LEN;
    return in_len / SEALED_PACKAGE_LEN * HPL_PACKAGE_LEN + (rest > HPL_PACKAGE_OVERHEAD ? rest - HPL_PACKAGE_OVERHEAD : 0);
}

enum hpl_status hpl_packages_open_all(struct hpl_call *call, struct hpl_work *work, const struct hpl_part_key *key, uint64_t part_len,
                                      uint32_t first, const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len)
{
    if (!is_worth_spreading(work, in_len / SEALED_PACKAGE_LEN))
        return hpl_packages_open(call, key, part_len, first, in, in_len, out, out_len);
    *out_len = 0;
    size_t num_packages = (in_len + SEALED_PACKAGE_LEN - 1) / SEALED_PACKAGE_LEN;
    if (num_packages > UINT32_MAX - first)
        return hpl_fail(call, HPL_INTEGRITY, "the part has no package %zu", num_packages + first);
    struct open_run run = {.key = key, .part_len = part_len, .first = first, .in = in, .in_len = in_len, .out = out};
    hpl_work_run(work, open_piece, &run, (in_len + SEALED_PIECE_LEN - 1) / SEALED_PIECE_LEN);
    if (run.num_bad) {
        hpl_wipe(out, most_plaintext(in_len));
        return hpl_fail(call, HPL_INTEGRITY, "packages %u to %zu of the part do not verify", first, first + num_packages - 1);
    }
    *out_len = run.opened;
    return HPL_OK;
}
