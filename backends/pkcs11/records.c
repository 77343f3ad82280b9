/* Key records: tokens cannot keep them (NSS refuses data objects, SoftHSM cannot change one), so they lie in the catalog, each with
 * an HMAC by a key in the token over name, uid, revision and content. Whoever holds the catalog and the root secret still cannot
 * enable or un-delete a key. Row: uid (16), MAC (32), content. What verified once is remembered by digest. Any thread; blocks. */
#include "backends/pkcs11/store.h"

#include <stdlib.h>

#include "base/hash.h"

#define MAC_LEN HPL_P11_MAC_LEN
#define HEAD_LEN (HPL_KEY_UID_LEN + MAC_LEN)

struct record {
    const char *key_id;
    const uint8_t *uid;
    uint64_t revision;
    struct hpl_bytes content;
};

static void type_of(const struct hpl_p11_keystore *keystore, char type[static 64])
{
    strcpy(type, "p11key/");
    strcat(type, keystore->device->facts.id);
}

/* What is authenticated. */
static enum hpl_status canonical(const struct hpl_p11_keystore *keystore, const struct record *record, struct hpl_buf *out)
{
    hpl_buf_put_str(out, "hpl-p11-record-v1");
    hpl_buf_put_lp16(out, hpl_bytes_str(keystore->device->facts.id));
    hpl_buf_put_lp16(out, hpl_bytes_str(record->key_id));
    hpl_buf_put(out, record->uid, HPL_KEY_UID_LEN);
    hpl_buf_put_u64(out, record->revision);
    hpl_buf_put_lp32(out, record->content);
    return hpl_buf_check(out);
}

static enum hpl_status mac_of(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct record *record, uint8_t mac[static MAC_LEN],
                              uint8_t digest[static HPL_SHA256_LEN])
{
    struct hpl_buf message = {0};
    enum hpl_status status = canonical(keystore, record, &message);
    if (status == HPL_OK)
        status = keystore->device->ops->mac(keystore->device, call, hpl_buf_bytes(&message), mac);
    if (status == HPL_OK) {
        hpl_buf_put(&message, mac, MAC_LEN);
        status = hpl_buf_check(&message);
        hpl_sha256(digest, message.data, message.len);
    }
    hpl_buf_wipe(&message);
    return status;
}

/* --- what verified before --------------------------------------------------------------------------------------------------------- */

static uint8_t *slot_of(struct hpl_p11_keystore *keystore, const uint8_t digest[static HPL_SHA256_LEN])
{
    return keystore->digests[((unsigned)digest[0] << 8 | digest[1]) % HPL_P11_NUM_DIGESTS];
}

static bool did_verify(struct hpl_p11_keystore *keystore, const uint8_t digest[static HPL_SHA256_LEN])
{
    pthread_mutex_lock(&keystore->digests_lock);
    bool did = memcmp(slot_of(keystore, digest), digest, HPL_SHA256_LEN) == 0;
    pthread_mutex_unlock(&keystore->digests_lock);
    return did;
}

static void remember(struct hpl_p11_keystore *keystore, const uint8_t digest[static HPL_SHA256_LEN])
{
    pthread_mutex_lock(&keystore->digests_lock);
    memcpy(slot_of(keystore, digest), digest, HPL_SHA256_LEN);
    pthread_mutex_unlock(&keystore->digests_lock);
}

static enum hpl_status digest_as_stored(struct hpl_p11_keystore *keystore, const struct record *record, const uint8_t stored[static MAC_LEN],
                                        uint8_t digest[static HPL_SHA256_LEN])
{
    struct hpl_buf message = {0};
    HPL_TRY(canonical(keystore, record, &message));
    hpl_buf_put(&message, stored, MAC_LEN);
    enum hpl_status status = hpl_buf_check(&message);
    if (status == HPL_OK)
        hpl_sha256(digest, message.data, message.len);
    hpl_buf_wipe(&message);
    return status;
}

/* HPL_INTEGRITY when row is not what the token signed; on success *content is a view into it. */
static enum hpl_status verify(struct hpl_p11_keystore *keystore, struct hpl_call *call, const char *key_id, uint64_t revision, struct hpl_bytes row,
                              struct hpl_bytes *content)
{
    uint8_t mac[MAC_LEN], digest[HPL_SHA256_LEN], verified[HPL_SHA256_LEN];
    if (row.len < HEAD_LEN)
        return hpl_fail(call, HPL_INTEGRITY, "the record of key '%s' is damaged", key_id);
    struct record record = {.key_id = key_id, .uid = row.data, .revision = revision,
                            .content = hpl_bytes(row.data + HEAD_LEN, row.len - HEAD_LEN)};
    const uint8_t *stored = row.data + HPL_KEY_UID_LEN;
    HPL_TRY(digest_as_stored(keystore, &record, stored, digest));
    *content = record.content;
    if (did_verify(keystore, digest))
        return HPL_OK;
    HPL_TRY(mac_of(keystore, call, &record, mac, verified));
    if (!hpl_equal_secret(mac, stored, MAC_LEN))
        return hpl_fail(call, HPL_INTEGRITY, "the record of key '%s' is not what token '%s' signed: it was changed", key_id, keystore->device->facts.label);
    remember(keystore, digest);
    return HPL_OK;
}

/* --- the interface ------------------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_p11_record_get(struct hpl_keystore *base, struct hpl_call *call, const char *key_id, struct hpl_buf *content, uint64_t *revision)
{
    struct hpl_p11_keystore *keystore = (struct hpl_p11_keystore *)base;
    struct hpl_buf row = {0};
    struct hpl_bytes inner;
    char type[64];
    type_of(keystore, type);
    enum hpl_status status = hpl_catalog_get(call, keystore->env->catalog, type, key_id, &row, revision);
    if (status == HPL_OK)
        status = verify(keystore, call, key_id, *revision, hpl_buf_bytes(&row), &inner);
    if (status == HPL_OK) {
        hpl_buf_put_bytes(content, inner);
        status = hpl_buf_check(content);
    }
    hpl_buf_wipe(&row);
    return status;
}

enum hpl_status hpl_p11_record_put(struct hpl_keystore *base, struct hpl_call *call, const char *key_id, const uint8_t uid[static HPL_KEY_UID_LEN],
                                   uint64_t expected, struct hpl_bytes content, uint64_t *revision)
{
    struct hpl_p11_keystore *keystore = (struct hpl_p11_keystore *)base;
    struct record record = {.key_id = key_id, .uid = uid, .revision = expected + 1, .content = content}; /* catalog.h: the next revision */
    uint8_t mac[MAC_LEN], digest[HPL_SHA256_LEN];
    struct hpl_buf row = {0};
    uint64_t written = 0;
    char type[64];
    type_of(keystore, type);
    HPL_TRY(mac_of(keystore, call, &record, mac, digest));
    hpl_buf_put(&row, uid, HPL_KEY_UID_LEN);
    hpl_buf_put(&row, mac, MAC_LEN);
    hpl_buf_put_bytes(&row, content);
    enum hpl_status status = hpl_buf_check(&row);
    if (status == HPL_OK)
        status = hpl_catalog_put(call, keystore->env->catalog, type, key_id, expected, hpl_buf_bytes(&row), &written);
    hpl_buf_wipe(&row);
    HPL_TRY(status);
    HPL_CHECK(written == record.revision);
    remember(keystore, digest);
    if (revision)
        *revision = written;
    return HPL_OK;
}

/* Rows are copied first: no HSM call while the catalog holds a statement open. */
struct row {
    char *key_id;
    uint64_t revision;
    enum hpl_status status;
    struct hpl_buf content;
};

struct rows {
    struct row *rows;
    size_t num_rows, cap;
    bool is_out_of_memory;
};

static bool collect(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct rows *all = arg;
    if (all->num_rows == all->cap) {
        size_t cap = all->cap ? 2 * all->cap : 32;
        struct row *grown = reallocarray(all->rows, cap, sizeof *grown);
        if (!grown)
            return !(all->is_out_of_memory = true);
        all->rows = grown;
        all->cap = cap;
    }
    struct row *row = &all->rows[all->num_rows++];
    *row = (struct row){.key_id = strdup(name), .revision = revision, .status = status};
    hpl_buf_put_bytes(&row->content, content);
    all->is_out_of_memory = !row->key_id || hpl_buf_check(&row->content) != HPL_OK;
    return !all->is_out_of_memory;
}

/* A record that does not verify is shown as such; a token that does not answer ends the list. */
static enum hpl_status hand_over(struct hpl_p11_keystore *keystore, struct hpl_call *call, const struct rows *all, hpl_record_fn fn, void *arg)
{
    for (size_t i = 0; i < all->num_rows; i++) {
        const struct row *row = &all->rows[i];
        struct hpl_bytes content = {0};
        struct hpl_call quiet = {.deadline_ns = call->deadline_ns};
        enum hpl_status status = row->status;
        if (status == HPL_OK)
            status = verify(keystore, &quiet, row->key_id, row->revision, hpl_buf_bytes(&row->content), &content);
        if (status != HPL_OK && status != HPL_INTEGRITY)
            return hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
        if (!fn(arg, row->key_id, row->revision, status, status == HPL_OK ? content : hpl_bytes(NULL, 0)))
            break;
    }
    return HPL_OK;
}

enum hpl_status hpl_p11_record_list(struct hpl_keystore *base, struct hpl_call *call, const char *after, size_t limit, hpl_record_fn fn, void *arg)
{
    struct hpl_p11_keystore *keystore = (struct hpl_p11_keystore *)base;
    struct rows all = {0};
    char type[64];
    type_of(keystore, type);
    enum hpl_status status = hpl_catalog_list(call, keystore->env->catalog, type, after, limit, collect, &all);
    if (status == HPL_OK && all.is_out_of_memory)
        status = HPL_NO_MEMORY;
    if (status == HPL_OK)
        status = hand_over(keystore, call, &all, fn, arg);
    for (size_t i = 0; i < all.num_rows; i++) {
        free(all.rows[i].key_id);
        hpl_buf_wipe(&all.rows[i].content);
    }
    free(all.rows);
    return status;
}
