/* Key derivation of the stored format. Pure but for the secret region; never logs, never keeps a key. */
#include "engine/seal/derive.h"

#include "base/hash.h"

static const char part_label[] = "hpl-part-v1";

_Static_assert(sizeof(struct hpl_part_secrets) == 32 + 32 + 12, "HKDF writes the struct in one go");

static enum hpl_status check_key(struct hpl_call *call, const struct hpl_secret *key)
{
    hpl_secret_check(key);
    if (key->len != HPL_DATA_KEY_LEN)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "a data or customer key has 32 bytes, not %u", (unsigned)key->len);
    return HPL_OK;
}

static void put_part_info(struct hpl_buf *info, const struct hpl_part_id *id)
{
    hpl_buf_put_str(info, part_label);
    hpl_buf_put_lp16(info, id->bucket);
    hpl_buf_put_lp32(info, id->key);
    hpl_buf_put(info, id->instance, 16);
    hpl_buf_put_u32(info, id->part_number);
}

enum hpl_status hpl_part_derive(struct hpl_call *call, struct hpl_part_secrets *out, const struct hpl_secret *key,
                                const uint8_t salt[static HPL_PART_SALT_LEN], const struct hpl_part_id *id)
{
    HPL_TRY(check_key(call, key));
    if (id->part_number == 0 || id->bucket.len > UINT16_MAX)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "parts are numbered from 1 and a bucket's name is under 64 KiB");
    struct hpl_buf info = {0};
    put_part_info(&info, id);
    if (info.is_failed) {
        hpl_buf_wipe(&info);
        return hpl_fail(call, HPL_NO_MEMORY, "no memory to derive a part's key");
    }
    hpl_hkdf_sha256(out, sizeof *out, hpl_bytes(key->bytes, key->len), hpl_bytes(salt, HPL_PART_SALT_LEN), hpl_buf_bytes(&info));
    out->nonce[0] &= 0x7f;
    hpl_buf_wipe(&info);
    return HPL_OK;
}

enum hpl_status hpl_object_subkey(struct hpl_call *call, struct hpl_secret **out, const struct hpl_secret *key,
                                  const uint8_t instance[static 16], const char *label)
{
    HPL_TRY(check_key(call, key));
    struct hpl_secret *subkey = hpl_secret_new(32);
    if (!subkey)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret memory is full; raise its size or lower what runs at once");
    hpl_hkdf_sha256(subkey->bytes, subkey->len, hpl_bytes(key->bytes, key->len), hpl_bytes(instance, 16), hpl_bytes_str(label));
    *out = subkey;
    return HPL_OK;
}
