/* Sealed fields of an object's record. On the caller's thread. */
#include "engine/seal/fields.h"

#include <openssl/rand.h>

#include "engine/aead.h"
#include "engine/seal/derive.h"

enum hpl_status hpl_fields_key_new(struct hpl_call *call, struct hpl_secret **out, const struct hpl_secret *key,
                                   const uint8_t instance[static 16])
{
    return hpl_object_subkey(call, out, key, instance, "hpl-fields-v1");
}

static void free_aead(struct hpl_aead_key **key)
{
    hpl_aead_key_free(*key);
}

enum hpl_status hpl_fields_seal(struct hpl_call *call, const struct hpl_secret *fields_key, struct hpl_bytes label,
                                struct hpl_bytes plain, struct hpl_buf *out)
{
    HPL_CLEANUP(free_aead) struct hpl_aead_key *aead = NULL;
    hpl_secret_check(fields_key);
    HPL_TRY(hpl_aead_key_new(call, &aead, fields_key->bytes, fields_key->len));
    uint8_t *at = hpl_buf_extend(out, plain.len + HPL_FIELDS_OVERHEAD);
    if (!at)
        return hpl_fail(call, hpl_buf_check(out), "no room for a sealed field of %zu bytes", plain.len);
    HPL_CHECK(RAND_bytes(at, HPL_AEAD_NONCE_LEN) == 1);
    uint8_t *text = at + HPL_AEAD_NONCE_LEN;
    hpl_aead_seal(aead, at, label, plain.data, plain.len, text, text + plain.len);
    return HPL_OK;
}

enum hpl_status hpl_fields_open(struct hpl_call *call, const struct hpl_secret *fields_key, struct hpl_bytes label,
                                struct hpl_bytes sealed, struct hpl_buf *out)
{
    HPL_CLEANUP(free_aead) struct hpl_aead_key *aead = NULL;
    hpl_secret_check(fields_key);
    if (sealed.len < HPL_FIELDS_OVERHEAD)
        return hpl_fail(call, HPL_INTEGRITY, "a sealed field of %zu bytes is too short", sealed.len);
    HPL_TRY(hpl_aead_key_new(call, &aead, fields_key->bytes, fields_key->len));
    size_t len = sealed.len - HPL_FIELDS_OVERHEAD;
    const uint8_t *text = sealed.data + HPL_AEAD_NONCE_LEN;
    uint8_t *at = hpl_buf_extend(out, len);
    if (!at)
        return hpl_fail(call, hpl_buf_check(out), "no room for a field of %zu bytes", len);
    if (hpl_aead_open(aead, sealed.data, label, text, len, at, text + len) == HPL_OK)
        return HPL_OK;
    out->len -= len;
    return hpl_fail(call, HPL_INTEGRITY, "a sealed field does not verify");
}
