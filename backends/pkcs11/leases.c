/* Counting wraps: with random 96-bit IVs a key may do 2^32 of them (SP 800-38D section 8.3). Counters go to the catalog in blocks
 * before they are used (type "p11wraps", name the key's ID in hex, content the counter as u64), so that a crash can only lose wraps
 * to the safe side. Counted above the seam, before the device is asked: a second attempt inside it gives out one ciphertext only.
 * Any thread. */
#include "backends/pkcs11/store.h"

#include <stdlib.h>

#include "base/codec.h"
#include "base/log.h"

#define ROW_TYPE "p11wraps"
#define BLOCK (UINT64_C(1) << 20)
#define WARN_AT (UINT64_C(1) << 31)
#define LIMIT (UINT64_C(1) << 32)
#define MAX_RACES 16u
#define MAX_LEASES 262144u

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

static enum hpl_status take_block(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_lease *lease, const char *name)
{
    uint64_t counter, revision;
    char label[HPL_P11_LABEL_MAX + 1];
    hpl_p11_ref_label(&lease->ref, label);
    HPL_TRY(read_row(keystore, call, name, &counter, &revision));
    if (counter > LIMIT - BLOCK)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "%s has done the 2^32 wraps that one key may do: rotate the key", label);
    HPL_TRY(write_row(keystore, call, name, counter + BLOCK, &revision));
    lease->reserved = counter + BLOCK;
    lease->remaining = BLOCK;
    lease->revision = revision;
    if (lease->reserved > WARN_AT)
        hpl_log(HPL_LOG_WARN, "pkcs11.rotate_soon", HPL_S("key", label), HPL_N("wraps", counter), HPL_N("limit", LIMIT));
    return HPL_OK;
}

void hpl_p11_lease_row(const struct hpl_p11_lease *lease, char name[static 2 * HPL_P11_ID_LEN + 1])
{
    uint8_t id[HPL_P11_ID_LEN];
    hpl_p11_ref_id(&lease->ref, id);
    hpl_hex_encode(name, id, sizeof id);
}

/* Other processes may take blocks of the same row; whoever lost reads again. */
static enum hpl_status refill(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct hpl_p11_lease *lease)
{
    char name[2 * HPL_P11_ID_LEN + 1];
    enum hpl_status status = HPL_STALE;
    hpl_p11_lease_row(lease, name);
    for (unsigned i = 0; status == HPL_STALE && i < MAX_RACES; i++) {
        call->detail[0] = '\0';
        status = take_block(keystore, call, lease, name);
    }
    return status;
}

/* --- the table ---------------------------------------------------------------------------------------------------------------------- */

void hpl_p11_leases_init(struct hpl_p11_leases *leases)
{
    pthread_mutex_init(&leases->lock, NULL);
}

static bool is_of(const struct hpl_p11_lease *lease, const struct hpl_p11_ref *ref)
{
    return lease->ref.version == ref->version && memcmp(lease->ref.uid, ref->uid, sizeof ref->uid) == 0;
}

static struct hpl_p11_lease *add(struct hpl_p11_leases *leases, struct hpl_p11_lease **bucket, const struct hpl_p11_ref *ref)
{
    struct hpl_p11_lease *lease = leases->num_leases < MAX_LEASES ? calloc(1, sizeof *lease) : NULL;
    if (!lease)
        return NULL;
    lease->ref = *ref;
    lease->ref.check = NULL;
    pthread_mutex_init(&lease->lock, NULL);
    lease->next = *bucket;
    *bucket = lease;
    leases->num_leases++;
    return lease;
}

struct hpl_p11_lease *hpl_p11_lease_of(struct hpl_p11_leases *leases, const struct hpl_p11_ref *ref)
{
    uint32_t hash = ((uint32_t)ref->uid[0] << 8 | ref->uid[1]) + ref->version * 2654435761u;
    struct hpl_p11_lease **bucket = &leases->buckets[hash % HPL_P11_NUM_BUCKETS];
    pthread_mutex_lock(&leases->lock);
    struct hpl_p11_lease *lease = *bucket;
    while (lease && !is_of(lease, ref))
        lease = lease->next;
    if (!lease)
        lease = add(leases, bucket, ref);
    pthread_mutex_unlock(&leases->lock);
    return lease;
}

enum hpl_status hpl_p11_lease_take(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    struct hpl_p11_lease *lease = hpl_p11_lease_of(&keystore->leases, ref);
    if (!lease)
        return hpl_fail(call, HPL_NO_MEMORY, "too many key versions");
    HPL_TRY(hpl_p11_lock(call, &lease->lock, "this key version"));
    enum hpl_status status = lease->remaining ? HPL_OK : refill(keystore, call, lease);
    if (status == HPL_OK)
        lease->remaining--;
    pthread_mutex_unlock(&lease->lock);
    return status;
}

/* The rest of a block goes back, if nobody took one since: restarts must not use a key up. */
static void give_back(struct hpl_p11_keystore *keystore, struct hpl_p11_lease *lease)
{
    char name[2 * HPL_P11_ID_LEN + 1];
    struct hpl_call call = {0};
    if (!lease->remaining)
        return;
    hpl_p11_lease_row(lease, name);
    enum hpl_status status = write_row(keystore, &call, name, lease->reserved - lease->remaining, &lease->revision);
    if (status != HPL_OK && status != HPL_STALE)
        hpl_log(HPL_LOG_WARN, "pkcs11.lease_not_returned", HPL_S("key", name), HPL_S("why", hpl_detail(&call, status)));
}

void hpl_p11_leases_close(struct hpl_p11_keystore *keystore)
{
    for (size_t i = 0; i < HPL_P11_NUM_BUCKETS; i++)
        for (struct hpl_p11_lease *lease = keystore->leases.buckets[i], *next; lease; lease = next) {
            next = lease->next;
            give_back(keystore, lease);
            hpl_buf_wipe(&lease->check);
            pthread_mutex_destroy(&lease->lock);
            free(lease);
        }
    pthread_mutex_destroy(&keystore->leases.lock);
}
