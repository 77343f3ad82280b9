/* Key records in KV v2, by key id. Any thread; blocks on Vault. The KV version is the revision, and under the MAC. */
#include "backends/vault/internal.h"

#include <stdlib.h>

enum hpl_status hpl_vault_record_get(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, struct hpl_buf *content, uint64_t *revision)
{
    char name[HPL_VAULT_NAME_MAX];
    struct hpl_vault_document document = {.kind = "record"};
    hpl_vault_record_name(name, key_id);
    HPL_TRY(hpl_vault_document_get(call, hpl_vault_of(keystore), name, key_id, &document));
    hpl_buf_put_bytes(content, hpl_buf_bytes(&document.content));
    *revision = document.revision;
    hpl_vault_document_wipe(&document);
    return hpl_buf_check(content);
}

/* The place of the uid is settled before its record names it. */
enum hpl_status hpl_vault_record_put(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, const uint8_t uid[static HPL_KEY_UID_LEN],
                                     uint64_t expected, struct hpl_bytes content, uint64_t *revision)
{
    char name[HPL_VAULT_NAME_MAX];
    struct hpl_vault *vault = hpl_vault_of(keystore);
    struct hpl_vault_document document = {.kind = "record"};
    hpl_vault_record_name(name, key_id);
    HPL_TRY(hpl_vault_place_choose(call, vault, uid, key_id, expected == 0));
    memcpy(document.id, key_id, strlen(key_id) + 1);
    memcpy(document.uid, uid, sizeof document.uid);
    hpl_buf_put_bytes(&document.content, content);
    enum hpl_status status = hpl_buf_check(&document.content);
    if (status == HPL_OK)
        status = hpl_vault_document_put(call, vault, name, &document, expected);
    hpl_vault_document_wipe(&document);
    if (status == HPL_OK && revision)
        *revision = expected + 1;
    return status;
}

/* --- listing -------------------------------------------------------------------------------------------------------------- */

struct row {
    char key_id[HPL_KEY_ID_MAX + 1];
    const char *name;          /* in the listing; lives as long as it */
    enum hpl_status status;    /* of a record that had to be read for its id */
};

static int compare_rows(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->key_id, ((const struct row *)b)->key_id);
}

/* A digest tells no id: the record does. One that cannot be read goes by its name. */
static void name_row(struct hpl_call *call, struct hpl_vault *vault, struct row *row)
{
    struct hpl_vault_document document = {.kind = "record"};
    struct hpl_call quiet = {.deadline_ns = call ? call->deadline_ns : 0};
    if (hpl_vault_record_id(row->key_id, row->name))
        return;
    row->status = hpl_vault_document_get(&quiet, vault, row->name, NULL, &document);
    const char *key_id = row->status == HPL_OK ? document.id : row->name;
    memcpy(row->key_id, key_id, strlen(key_id) + 1);
    hpl_vault_document_wipe(&document);
}

static struct row *make_rows(struct hpl_call *call, struct hpl_vault *vault, const json_t *names, size_t *count)
{
    size_t i;
    json_t *name;
    struct row *rows = calloc(json_array_size(names) + 1, sizeof *rows);
    *count = 0;
    if (!rows)
        return NULL;
    json_array_foreach((json_t *)names, i, name)
    {
        const char *text = json_string_value(name);
        size_t len = text ? strlen(text) : 0;
        if (!len || len >= HPL_VAULT_NAME_MAX || text[len - 1] == '/') /* not one of ours */
            continue;
        rows[*count].name = text;
        name_row(call, vault, &rows[(*count)++]);
    }
    qsort(rows, *count, sizeof *rows, compare_rows);
    return rows;
}

/* Gives one record; false ends the listing. */
static bool give_row(struct hpl_call *call, struct hpl_vault *vault, const struct row *row, hpl_record_fn fn, void *arg, enum hpl_status *status, size_t *given)
{
    struct hpl_vault_document document = {.kind = "record"};
    struct hpl_call sub = {.deadline_ns = call ? call->deadline_ns : 0};
    enum hpl_status found = row->status == HPL_OK ? hpl_vault_document_get(&sub, vault, row->name, row->key_id, &document) : row->status;
    if (found == HPL_NOT_FOUND)
        return true; /* gone since the names were read */
    bool is_its_own = found == HPL_OK || found == HPL_INTEGRITY || found == HPL_KEY_UNAVAILABLE;
    if (!is_its_own || (found == HPL_KEY_UNAVAILABLE && hpl_vault_probe(&vault->base, &sub) != HPL_OK)) {
        *status = hpl_fail(call, found, "%s", hpl_detail(&sub, found));
        return false;
    }
    bool is_more = fn(arg, row->key_id, document.revision, found, hpl_buf_bytes(&document.content));
    *given += 1;
    hpl_vault_document_wipe(&document);
    return is_more;
}

enum hpl_status hpl_vault_record_list(struct hpl_keystore *keystore, struct hpl_call *call, const char *after, size_t limit, hpl_record_fn fn, void *arg)
{
    struct hpl_vault *vault = hpl_vault_of(keystore);
    json_t *HPL_JSON_AUTO names = NULL;
    size_t count, given = 0;
    enum hpl_status status = HPL_OK;
    HPL_TRY(hpl_vault_document_names(call, vault, "record", &names));
    struct row *rows = make_rows(call, vault, names, &count);
    if (!rows)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    bool is_more = true;
    for (size_t i = 0; i < count && given < limit && is_more; i++)
        if (!after || strcmp(rows[i].key_id, after) > 0)
            is_more = give_row(call, vault, &rows[i], fn, arg, &status, &given);
    free(rows);
    return status;
}
