/* Counting wraps. Any thread; one refills at a time. */
#include "kms/wraps.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"

#define ROW_TYPE "wraps"
#define MAX_BLOCK 65536
#define MAX_RACES 16

struct hpl_wraps {
    struct hpl_catalog *catalog;
    pthread_mutex_t lock;
    json_t *left; /* "uid in hex/version" → how many of the block are left */
};

struct row {
    uint32_t version;
    uint64_t count, revision;
    bool is_ahead; /* it counts a later version already */
};

struct hpl_wraps *hpl_wraps_new(struct hpl_catalog *catalog)
{
    struct hpl_wraps *wraps = calloc(1, sizeof *wraps);
    if (!wraps || !(wraps->left = json_object())) {
        free(wraps);
        return NULL;
    }
    wraps->catalog = catalog;
    pthread_mutex_init(&wraps->lock, NULL);
    return wraps;
}

void hpl_wraps_free(struct hpl_wraps *wraps)
{
    if (!wraps)
        return;
    json_decref(wraps->left);
    pthread_mutex_destroy(&wraps->lock);
    free(wraps);
}

/* A row that is not there, or of an older version, counts nothing. */
static enum hpl_status read_row(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record, struct row *row)
{
    char name[2 * HPL_KEY_UID_LEN + 1];
    struct hpl_buf content = {0};
    struct hpl_call quiet = {0};
    *row = (struct row){.version = record->version};
    hpl_hex_encode(name, record->uid, sizeof record->uid);
    enum hpl_status status = hpl_catalog_get(&quiet, wraps->catalog, ROW_TYPE, name, &content, &row->revision);
    struct hpl_reader reader = {.rest = hpl_buf_bytes(&content)};
    uint32_t version = hpl_read_u32(&reader);
    uint64_t count = hpl_read_u64(&reader);
    if (status == HPL_OK && hpl_read_is_done(&reader))
        row->count = version == record->version ? count : 0, row->is_ahead = version > record->version;
    else if (status == HPL_OK)
        status = hpl_fail(&quiet, HPL_INTEGRITY, "the wrap counter of '%.80s' in the catalog is damaged", record->key_id);
    hpl_buf_wipe(&content);
    return status == HPL_OK || status == HPL_NOT_FOUND ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
}

static enum hpl_status write_row(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record, const struct row *row)
{
    char name[2 * HPL_KEY_UID_LEN + 1];
    struct hpl_buf content = {0};
    hpl_hex_encode(name, record->uid, sizeof record->uid);
    hpl_buf_put_u32(&content, row->version);
    hpl_buf_put_u64(&content, row->count);
    enum hpl_status status = hpl_buf_check(&content);
    if (status == HPL_OK)
        status = hpl_catalog_put(call, wraps->catalog, ROW_TYPE, name, row->revision, hpl_buf_bytes(&content), NULL);
    hpl_buf_wipe(&content);
    return status;
}

/* A sixteenth of what the version may do: a restart costs no more than that. */
static int64_t block_of(const struct hpl_key_record *record)
{
    int64_t block = hpl_record_rotation(record, "max_wraps") / 16;
    return block < 1 ? 1 : block > MAX_BLOCK ? MAX_BLOCK : block;
}

/* Other processes count in the same row; whoever lost reads again. Under the lock. */
static enum hpl_status take_block(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record, int64_t block)
{
    struct hpl_call sub = {0};
    enum hpl_status status = HPL_STALE;
    for (int race = 0; status == HPL_STALE && race < MAX_RACES; race++) {
        struct row row;
        sub.detail[0] = '\0';
        HPL_TRY(read_row(call, wraps, record, &row));
        if (row.is_ahead) /* who wraps under a version that was rotated just now does not reset the count of its successor */
            return HPL_OK;
        row.count += (uint64_t)block;
        status = write_row(&sub, wraps, record, &row);
    }
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

enum hpl_status hpl_wraps_take(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record)
{
    char name[2 * HPL_KEY_UID_LEN + 12];
    enum hpl_status status = HPL_OK;
    if (!hpl_record_rotation(record, "max_wraps"))
        return HPL_OK;
    if (call && call->must_not_wait)
        return HPL_WOULD_WAIT;
    hpl_hex_encode(name, record->uid, sizeof record->uid);
    snprintf(name + 2 * HPL_KEY_UID_LEN, 12, "/%u", record->version);
    pthread_mutex_lock(&wraps->lock);
    json_t *left = json_object_get(wraps->left, name);
    int64_t number = json_integer_value(left);
    if (number == 0 && (status = take_block(call, wraps, record, block_of(record))) == HPL_OK)
        number = block_of(record);
    if (status == HPL_OK && (left ? json_integer_set(left, number - 1) : json_object_set_new(wraps->left, name, json_integer(number - 1))) != 0)
        status = HPL_NO_MEMORY;
    pthread_mutex_unlock(&wraps->lock);
    return status;
}

enum hpl_status hpl_wraps_count(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record, uint64_t *count)
{
    struct row row = {0};
    enum hpl_status status = read_row(call, wraps, record, &row);
    *count = row.count;
    return status;
}
