/* Envelopes: whatever is taken is exactly what encoding it again gives, and its AAD can be told; the rest is refused with one code. */
#include "kms/envelope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void read_bucket(struct hpl_bytes bytes)
{
    struct hpl_bucket_envelope outer;
    struct hpl_buf again = {0};
    if (hpl_bucket_envelope_decode(NULL, bytes, &outer) != HPL_OK)
        return;
    hpl_bucket_envelope_encode(&outer, &again);
    HPL_CHECK(hpl_bytes_equal(hpl_buf_bytes(&again), bytes));
    hpl_buf_wipe(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hpl_call call = {0};
    read_bucket(hpl_bytes(data, len));
    struct hpl_envelope envelope;
    struct hpl_buf again = {0};
    uint8_t aad[HPL_WRAP_AAD_LEN];
    enum hpl_status status = hpl_envelope_decode(&call, hpl_bytes(data, len), &envelope);
    HPL_CHECK(status == HPL_OK || status == HPL_INVALID_CIPHERTEXT);
    if (status != HPL_OK)
        return 0;
    hpl_envelope_encode(&envelope, &again);
    HPL_CHECK(hpl_bytes_equal(hpl_buf_bytes(&again), hpl_bytes(data, len)) && len <= HPL_ENVELOPE_MAX);
    /* A context made of the ciphertext: two texts of any bytes. */
    const struct hpl_context_pair pairs[] = {
        {hpl_bytes(envelope.wrapped.ct, envelope.wrapped.ct_len / 2u), hpl_bytes(envelope.wrapped.iv, envelope.wrapped.iv_len)},
        {hpl_bytes(envelope.wrapped.ct + envelope.wrapped.ct_len / 2u, envelope.wrapped.ct_len - envelope.wrapped.ct_len / 2u), hpl_bytes(NULL, 0)},
    };
    status = hpl_envelope_aad(&call, &envelope, &(struct hpl_context){pairs, HPL_COUNT(pairs)}, aad);
    HPL_CHECK(status == HPL_OK || status == HPL_INVALID_REQUEST);
    HPL_CHECK(hpl_envelope_aad(&call, &envelope, NULL, aad) == HPL_OK);
    hpl_buf_wipe(&again);
    return 0;
}
