/* Counting wraps: with random 96-bit IVs a key may do 2^32 of them (SP 800-38D section 8.3). Counters go to the catalog in blocks
 * before they are used (type "p11wraps", name the key's ID in hex, content the counter as u64), so that a crash can only lose wraps
 * to the safe side. Any thread. */
#include "backends/pkcs11/internal.h"

#include "base/codec.h"
#include "base/log.h"

#define ROW_TYPE "p11wraps"
#define BLOCK (UINT64_C(1) << 20)
#define WARN_AT (UINT64_C(1) << 31)
#define LIMIT (UINT64_C(1) << 32)
#define MAX_RACES 16u

static enum hpl_status read_row(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, uint64_t *counter, uint64_t *revision)
{
    struct hpl_buf content = {0};
    *counter = *revision = 0;
    enum hpl_status status = hpl_catalog_get(call, keystore->env->catalog, ROW_TYPE, name, &content, revision);
    struct hpl_reader reader = {.rest = hpl_buf_bytes(&content)};
    if (status == HPL_OK) {
        *counter = hpl_read_u64(&reader);
        if (!hpl_read_is_done(&reader))
            status = hpl_fail(call, HPL_INTEGRITY, "the wrap counter %s in the catalog is damaged", name);
    } else if (status == HPL_NOT_FOUND) {
        call->detail[0] = '\0';
        status = HPL_OK;
    }
    hpl_buf_wipe(&content);
    return status;
}

static enum hpl_status write_row(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *name, uint64_t counter, uint64_t *revision)
{
    uint8_t content[8];
    for (unsigned i = 0; i < 8; i++)
        content[i] = (uint8_t)(counter >> (56 - 8 * i));
    return hpl_catalog_put(call, keystore->env->catalog, ROW_TYPE, name, *revision, hpl_bytes(content, sizeof content), revision);
}

static enum hpl_status take_block(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_key *key, const char *name)
{
    uint64_t counter, revision;
    HPL_TRY(read_row(keystore, call, name, &counter, &revision));
    if (counter > LIMIT - BLOCK)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "%s has done the 2^32 wraps that one key may do: rotate the key", key->label);
    HPL_TRY(write_row(keystore, call, name, counter + BLOCK, &revision));
    key->reserved = counter + BLOCK;
    key->remaining = BLOCK;
    key->revision = revision;
    if (key->reserved > WARN_AT)
        hpl_log(HPL_LOG_WARN, "pkcs11.rotate_soon", HPL_S("key", key->label), HPL_N("wraps", counter), HPL_N("limit", LIMIT));
    return HPL_OK;
}

/* Other processes may take blocks of the same row; whoever lost reads again. */
static enum hpl_status refill(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_key *key)
{
    char name[2 * HPL_P11_ID_LEN + 1];
    enum hpl_status status = HPL_STALE;
    hpl_hex_encode(name, key->id, sizeof key->id);
    for (unsigned i = 0; status == HPL_STALE && i < MAX_RACES; i++) {
        call->detail[0] = '\0';
        status = take_block(keystore, call, key, name);
    }
    return status;
}

enum hpl_status hpl_p11_lease_take(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_key *key)
{
    pthread_mutex_lock(&key->lock);
    enum hpl_status status = key->remaining ? HPL_OK : refill(keystore, call, key);
    if (status == HPL_OK)
        key->remaining--;
    pthread_mutex_unlock(&key->lock);
    return status;
}

/* At a clean close the rest of a block goes back, if nobody took one since: restarts must not use a key up. */
void hpl_p11_lease_return(struct hpl_p11_keystore *keystore, struct hpl_p11_key *key)
{
    char name[2 * HPL_P11_ID_LEN + 1];
    struct hpl_call call = {0};
    if (!key->remaining)
        return;
    hpl_hex_encode(name, key->id, sizeof key->id);
    enum hpl_status status = write_row(keystore, &call, name, key->reserved - key->remaining, &key->revision);
    if (status != HPL_OK && status != HPL_STALE)
        hpl_log(HPL_LOG_WARN, "pkcs11.lease_not_returned", HPL_S("key", key->label), HPL_S("why", hpl_detail(&call, status)));
    key->remaining = 0;
}
