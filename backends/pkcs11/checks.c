/* Check blobs: of each key version 32 zero bytes, wrapped when it was made (catalog type "p11check", name the key's ID in hex,
 * content mechanism u8, u8+IV, u16+ciphertext). The device opens it after each search of the key, which proves that the handle is
 * the key it was: a number may be another key after a restart, and a label alone proves nothing. Any thread; blocks. */
#include "backends/pkcs11/store.h"

#define ROW_TYPE "p11check"

static enum hpl_status parse(struct hpl_call *call, struct hpl_bytes content, struct hpl_wrapped *out)
{
    struct hpl_reader reader = {.rest = content};
    *out = (struct hpl_wrapped){.mechanism = hpl_read_u8(&reader)};
    out->iv_len = hpl_read_u8(&reader);
    if (out->iv_len <= sizeof out->iv)
        hpl_read_copy(&reader, out->iv, out->iv_len);
    struct hpl_bytes ct = hpl_read_lp16(&reader);
    if (!hpl_read_is_done(&reader) || out->iv_len > sizeof out->iv || ct.len > sizeof out->ct)
        return hpl_fail(call, HPL_INTEGRITY, "a check blob in the catalog is damaged");
    memcpy(out->ct, ct.data, ct.len);
    out->ct_len = (uint16_t)ct.len;
    return HPL_OK;
}

static enum hpl_status encode(const struct hpl_wrapped *check, struct hpl_buf *out)
{
    hpl_buf_put_u8(out, check->mechanism);
    hpl_buf_put_u8(out, check->iv_len);
    hpl_buf_put(out, check->iv, check->iv_len);
    hpl_buf_put_lp16(out, hpl_bytes(check->ct, check->ct_len));
    return hpl_buf_check(out);
}

/* Of a version that has none: just made, or from before there were check blobs. Whoever is second takes the first one's. */
static enum hpl_status make(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_p11_ref *ref, const char *name,
                            struct hpl_buf *out)
{
    struct hpl_secret *HPL_SECRET_AUTO zeroes = hpl_secret_new(HPL_P11_CHECK_LEN);
    struct hpl_p11_device *device = keystore->device;
    struct hpl_catalog *catalog = keystore->env->catalog;
    struct hpl_wrapped check;
    uint64_t revision;
    if (!zeroes)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(device->ops->wrap(device, call, ref, hpl_p11_check_aad, zeroes, &check));
    HPL_TRY(encode(&check, out));
    enum hpl_status status = hpl_catalog_put(call, catalog, ROW_TYPE, name, 0, hpl_buf_bytes(out), NULL);
    if (status != HPL_STALE)
        return status;
    call->detail[0] = '\0';
    hpl_buf_wipe(out);
    return hpl_catalog_get(call, catalog, ROW_TYPE, name, out, &revision);
}

/* Under the lease's lock. */
static enum hpl_status load(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_lease *lease)
{
    char name[2 * HPL_P11_ID_LEN + 1];
    struct hpl_buf content = {0};
    uint64_t revision;
    hpl_p11_lease_row(lease, name);
    enum hpl_status status = hpl_catalog_get(call, keystore->env->catalog, ROW_TYPE, name, &content, &revision);
    if (status == HPL_NOT_FOUND) {
        call->detail[0] = '\0';
        status = make(keystore, call, &lease->ref, name, &content);
    }
    if (status == HPL_OK)
        lease->check = content;
    else
        hpl_buf_wipe(&content);
    return status;
}

enum hpl_status hpl_p11_check_of(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_ref *ref, struct hpl_wrapped *check)
{
    struct hpl_p11_lease *lease = hpl_p11_lease_of(&keystore->leases, ref);
    if (!lease)
        return hpl_fail(call, HPL_NO_MEMORY, "too many key versions");
    HPL_TRY(hpl_p11_lock(call, &lease->lock, "this key version"));
    enum hpl_status status = lease->check.len ? HPL_OK : load(keystore, call, lease);
    if (status == HPL_OK)
        status = parse(call, hpl_buf_bytes(&lease->check), check);
    pthread_mutex_unlock(&lease->lock);
    ref->check = status == HPL_OK ? check : NULL;
    return status;
}

static enum hpl_status forget(struct hpl_call *call, struct hpl_p11_lease *lease)
{
    HPL_TRY(hpl_p11_lock(call, &lease->lock, "this key version"));
    hpl_buf_wipe(&lease->check);
    pthread_mutex_unlock(&lease->lock);
    return HPL_OK;
}

enum hpl_status hpl_p11_check_drop(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct hpl_catalog *catalog = keystore->env->catalog;
    struct hpl_p11_lease *lease = hpl_p11_lease_of(&keystore->leases, ref);
    char name[2 * HPL_P11_ID_LEN + 1];
    struct hpl_buf content = {0};
    uint64_t revision;
    if (!lease)
        return hpl_fail(call, HPL_NO_MEMORY, "too many key versions");
    HPL_TRY(forget(call, lease));
    hpl_p11_lease_row(lease, name);
    enum hpl_status status = hpl_catalog_get(call, catalog, ROW_TYPE, name, &content, &revision);
    hpl_buf_wipe(&content);
    if (status == HPL_OK)
        status = hpl_catalog_delete(call, catalog, ROW_TYPE, name, revision);
    if (status != HPL_NOT_FOUND && status != HPL_STALE)
        return status;
    call->detail[0] = '\0';
    return HPL_OK;
}
