/* One large message over the workers: engine/gcm cuts and joins, the workers run the slices. The caller waits; never call it from a worker. */
#include "engine/work/split.h"

#include "base/secret.h"
#include "engine/aead_key.h"

_Static_assert(HPL_GCM_TABLE_LEN <= HPL_WORK_SCRATCH, "a worker's locked buffer is its table");

static void run_over_workers(void *self, hpl_gcm_slice_fn fn, void *arg, size_t count)
{
    hpl_work_run(self, fn, arg, count);
}

static bool is_worth_it(const struct hpl_work *work, size_t len)
{
    return work && len >= HPL_GCM_SPLIT_MIN && hpl_work_num_threads(work) > 1;
}

static void run(struct hpl_work *work, const struct hpl_aead_key *key, bool is_open, const struct hpl_gcm_message *m)
{
    const struct hpl_gcm_crew crew = {.run = run_over_workers, .self = work};
    struct hpl_gcm gcm;
    hpl_gcm_start(&gcm, &key->gcm, is_open, m->nonce, HPL_AEAD_NONCE_LEN);
    HPL_CHECK(hpl_gcm_aad(&gcm, m->aad, m->aad_len));
    HPL_CHECK(hpl_gcm_update_split(&gcm, &crew, m->in, m->out, m->len));
    hpl_gcm_finish(&gcm, m->tag);
    hpl_wipe(&gcm, sizeof gcm);
}

void hpl_aead_seal_split(struct hpl_work *work, const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad, const uint8_t *in,
                         size_t len, uint8_t *out, uint8_t tag[static 16])
{
    const struct hpl_gcm_message m = {nonce, aad.data, in, aad.len, len, out, tag, NULL};
    if (is_worth_it(work, len))
        run(work, key, false, &m);
    else
        hpl_aead_seal(key, nonce, aad, in, len, out, tag);
}

enum hpl_status hpl_aead_open_split(struct hpl_work *work, const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad,
                                    const uint8_t *in, size_t len, uint8_t *out, const uint8_t tag[static 16])
{
    uint8_t computed[HPL_AEAD_TAG_LEN];
    const struct hpl_gcm_message m = {nonce, aad.data, in, aad.len, len, out, computed, NULL};
    if (!is_worth_it(work, len))
        return hpl_aead_open(key, nonce, aad, in, len, out, tag);
    run(work, key, true, &m);
    bool is_right = hpl_equal_secret(computed, tag, sizeof computed);
    hpl_wipe(computed, sizeof computed);
    if (is_right)
        return HPL_OK;
    hpl_wipe(out, len);
    return HPL_INVALID_CIPHERTEXT;
}
