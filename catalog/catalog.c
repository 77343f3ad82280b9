/* The catalog on SQLite. One connection under one mutex: rows are small and few; other processes are kept apart by SQLite's own locks. */
#include "catalog/catalog.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include <sqlite3.h>
#include <openssl/rand.h>

#include "base/file.h"
#include "catalog/row_mac.h"

struct hpl_catalog {
    pthread_mutex_t lock;
    sqlite3 *db;
    struct hpl_secret *root, *mac_key;
    uint8_t deployment[16];
};

/* SQLite's codes end here. */
static enum hpl_status db_error(struct hpl_call *call, const struct hpl_catalog *catalog, int code)
{
    int why = code & 0xff;
    if (why == SQLITE_FULL)
        return hpl_fail(call, HPL_NO_SPACE, "the disk of the catalog is full; nothing was changed");
    if (why == SQLITE_BUSY || why == SQLITE_LOCKED)
        return hpl_fail(call, HPL_UNAVAILABLE, "the catalog is held by another process");
    if (why == SQLITE_NOMEM)
        return HPL_NO_MEMORY;
    if (why == SQLITE_CORRUPT || why == SQLITE_NOTADB)
        return hpl_fail(call, HPL_INTEGRITY, "the catalog file is damaged: %s", sqlite3_errmsg(catalog->db));
    return hpl_fail(call, HPL_IO, "the catalog failed: %s", sqlite3_errmsg(catalog->db));
}

static enum hpl_status run(struct hpl_call *call, struct hpl_catalog *catalog, const char *sql)
{
    int code = sqlite3_exec(catalog->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? HPL_OK : db_error(call, catalog, code);
}

static enum hpl_status prepare(struct hpl_call *call, struct hpl_catalog *catalog, sqlite3_stmt **out, const char *sql)
{
    int code = sqlite3_prepare_v2(catalog->db, sql, -1, out, NULL);
    return code == SQLITE_OK ? HPL_OK : db_error(call, catalog, code);
}

static void bind_row(sqlite3_stmt *statement, const char *type, const char *name)
{
    sqlite3_bind_text(statement, 1, type, -1, SQLITE_STATIC);
    sqlite3_bind_text(statement, 2, name, -1, SQLITE_STATIC);
}

static struct hpl_bytes blob_column(sqlite3_stmt *statement, int column)
{
    const void *data = sqlite3_column_blob(statement, column);
    return hpl_bytes(data, (size_t)sqlite3_column_bytes(statement, column));
}

/* --- rows and the head --------------------------------------------------------------------------------------------------- */

struct head {
    uint64_t generation;
    uint8_t sum[HPL_CATALOG_MAC_LEN];
};

static void add_to_sum(struct head *head, const uint8_t mac[static HPL_CATALOG_MAC_LEN])
{
    for (size_t i = 0; i < HPL_CATALOG_MAC_LEN; i++)
        head->sum[i] ^= mac[i];
}

static enum hpl_status read_head(struct hpl_call *call, struct hpl_catalog *catalog, struct head *head)
{
    sqlite3_stmt *statement;
    uint8_t mac[HPL_CATALOG_MAC_LEN];
    HPL_TRY(prepare(call, catalog, &statement, "SELECT generation, sum, mac FROM head"));
    int code = sqlite3_step(statement);
    struct hpl_bytes sum = {0}, stored = {0};
    if (code == SQLITE_ROW) {
        head->generation = (uint64_t)sqlite3_column_int64(statement, 0);
        sum = blob_column(statement, 1);
        stored = blob_column(statement, 2);
    }
    enum hpl_status status = HPL_OK;
    if (code != SQLITE_ROW && code != SQLITE_DONE)
        status = db_error(call, catalog, code);
    else if (sum.len != sizeof head->sum || stored.len != sizeof mac)
        status = hpl_fail(call, HPL_INTEGRITY, "the catalog's head is missing or damaged");
    else {
        memcpy(head->sum, sum.data, sizeof head->sum);
        hpl_catalog_head_mac(mac, catalog->mac_key, catalog->deployment, head->generation, head->sum);
        if (!hpl_equal_secret(mac, stored.data, sizeof mac))
            status = hpl_fail(call, HPL_INTEGRITY, "the catalog's head does not verify: it was changed, or the root secret is another");
    }
    sqlite3_finalize(statement);
    return status;
}

static enum hpl_status write_head(struct hpl_call *call, struct hpl_catalog *catalog, const struct head *head)
{
    sqlite3_stmt *statement;
    uint8_t mac[HPL_CATALOG_MAC_LEN];
    hpl_catalog_head_mac(mac, catalog->mac_key, catalog->deployment, head->generation, head->sum);
    HPL_TRY(prepare(call, catalog, &statement, "INSERT OR REPLACE INTO head (id, generation, sum, mac) VALUES (1, ?, ?, ?)"));
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)head->generation);
    sqlite3_bind_blob(statement, 2, head->sum, sizeof head->sum, SQLITE_STATIC);
    sqlite3_bind_blob(statement, 3, mac, sizeof mac, SQLITE_STATIC);
    int code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? HPL_OK : db_error(call, catalog, code);
}

/* A row as it lies there: columns revision, content, mac at the given place. */
static enum hpl_status check_row(struct hpl_call *call, struct hpl_catalog *catalog, sqlite3_stmt *statement, int column, const char *type,
                                 const char *name, uint64_t *revision, struct hpl_bytes *content, uint8_t mac[static HPL_CATALOG_MAC_LEN])
{
    *revision = (uint64_t)sqlite3_column_int64(statement, column);
    *content = blob_column(statement, column + 1);
    struct hpl_bytes stored = blob_column(statement, column + 2);
    hpl_catalog_row_mac(mac, catalog->mac_key, catalog->deployment, type, name, *revision, *content);
    if (stored.len == HPL_CATALOG_MAC_LEN && hpl_equal_secret(mac, stored.data, HPL_CATALOG_MAC_LEN))
        return HPL_OK;
    return hpl_fail(call, HPL_INTEGRITY, "the catalog row %s '%.80s' does not verify: it was changed", type, name);
}

/* Every row against its MAC and all of them against the head. A row that does not verify by itself is left for whoever reads it. */
static enum hpl_status verify_all(struct hpl_call *call, struct hpl_catalog *catalog)
{
    sqlite3_stmt *statement;
    struct head head, found = {0};
    int code;
    HPL_TRY(read_head(call, catalog, &head));
    HPL_TRY(prepare(call, catalog, &statement, "SELECT type, name, mac FROM rows"));
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct hpl_bytes mac = blob_column(statement, 2);
        if (mac.len == HPL_CATALOG_MAC_LEN)
            add_to_sum(&found, mac.data);
    }
    sqlite3_finalize(statement);
    if (code != SQLITE_DONE)
        return db_error(call, catalog, code);
    if (!hpl_equal_secret(found.sum, head.sum, sizeof head.sum))
        return hpl_fail(call, HPL_INTEGRITY, "a catalog row was taken away, brought in or rolled back: restore the whole catalog from one backup");
    return HPL_OK;
}

/* --- opening ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status read_deployment(struct hpl_call *call, struct hpl_catalog *catalog, bool *is_there)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, catalog, &statement, "SELECT id FROM deployment"));
    int code = sqlite3_step(statement);
    struct hpl_bytes id = code == SQLITE_ROW ? blob_column(statement, 0) : hpl_bytes(NULL, 0);
    *is_there = id.len == sizeof catalog->deployment;
    if (*is_there)
        memcpy(catalog->deployment, id.data, id.len);
    sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? HPL_OK : db_error(call, catalog, code);
}

static enum hpl_status make_deployment(struct hpl_call *call, struct hpl_catalog *catalog)
{
    sqlite3_stmt *statement;
    const struct head empty = {0};
    if (RAND_bytes(catalog->deployment, sizeof catalog->deployment) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    HPL_TRY(prepare(call, catalog, &statement, "INSERT INTO deployment (id) VALUES (?)"));
    sqlite3_bind_blob(statement, 1, catalog->deployment, sizeof catalog->deployment, SQLITE_STATIC);
    int code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    if (code != SQLITE_DONE)
        return db_error(call, catalog, code);
    return write_head(call, catalog, &empty);
}

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS deployment (id BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), generation INTEGER NOT NULL, sum BLOB NOT NULL, mac BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS rows (type TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, content BLOB NOT NULL, mac BLOB NOT NULL,"
    " PRIMARY KEY (type, name)) WITHOUT ROWID;";

static enum hpl_status set_up(struct hpl_call *call, struct hpl_catalog *catalog)
{
    bool is_there = false;
    HPL_TRY(run(call, catalog, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"));
    HPL_TRY(run(call, catalog, "BEGIN IMMEDIATE"));
    enum hpl_status status = run(call, catalog, schema);
    if (status == HPL_OK)
        status = read_deployment(call, catalog, &is_there);
    if (status == HPL_OK && !is_there)
        status = make_deployment(call, catalog);
    if (status == HPL_OK)
        status = verify_all(call, catalog);
    if (status == HPL_OK)
        return run(call, catalog, "COMMIT");
    sqlite3_exec(catalog->db, "ROLLBACK", NULL, NULL, NULL);
    return status;
}

enum hpl_status hpl_catalog_open(struct hpl_call *call, struct hpl_catalog **out, const char *path, const struct hpl_secret *root)
{
    *out = NULL;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600); /* SQLite would make it with the umask's rights */
    if (fd < 0)
        return hpl_file_error(call, "cannot open the catalog", path);
    close(fd);
    struct hpl_catalog *catalog = calloc(1, sizeof *catalog);
    if (!catalog)
        return HPL_NO_MEMORY;
    pthread_mutex_init(&catalog->lock, NULL);
    catalog->mac_key = hpl_catalog_mac_key(root);
    catalog->root = hpl_secret_from(root->bytes, root->len);
    enum hpl_status status = catalog->root && catalog->mac_key ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (status == HPL_OK) {
        int code = sqlite3_open_v2(path, &catalog->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL);
        if (code != SQLITE_OK)
            status = db_error(call, catalog, code);
    }
    if (status == HPL_OK) {
        sqlite3_busy_timeout(catalog->db, 10000);
        status = set_up(call, catalog);
    }
    if (status == HPL_OK)
        *out = catalog;
    else
        hpl_catalog_close(catalog);
    return status;
}

void hpl_catalog_close(struct hpl_catalog *catalog)
{
    if (!catalog)
        return;
    sqlite3_close(catalog->db);
    hpl_secret_free(catalog->root);
    hpl_secret_free(catalog->mac_key);
    pthread_mutex_destroy(&catalog->lock);
    free(catalog);
}

const uint8_t *hpl_catalog_deployment(const struct hpl_catalog *catalog)
{
    return catalog->deployment;
}

/* --- reading ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status get_locked(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                  struct hpl_buf *content, uint64_t *revision, uint8_t mac[static HPL_CATALOG_MAC_LEN])
{
    sqlite3_stmt *statement;
    struct hpl_bytes bytes;
    HPL_TRY(prepare(call, catalog, &statement, "SELECT revision, content, mac FROM rows WHERE type = ? AND name = ?"));
    bind_row(statement, type, name);
    int code = sqlite3_step(statement);
    enum hpl_status status = code == SQLITE_ROW ? check_row(call, catalog, statement, 0, type, name, revision, &bytes, mac)
                             : code == SQLITE_DONE ? HPL_NOT_FOUND
                                                   : db_error(call, catalog, code);
    if (status == HPL_OK && content) {
        hpl_buf_put_bytes(content, bytes);
        status = hpl_buf_check(content);
    }
    sqlite3_finalize(statement);
    return status;
}

enum hpl_status hpl_catalog_get(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                struct hpl_buf *content, uint64_t *revision)
{
    uint8_t mac[HPL_CATALOG_MAC_LEN];
    pthread_mutex_lock(&catalog->lock);
    enum hpl_status status = get_locked(call, catalog, type, name, content, revision, mac);
    pthread_mutex_unlock(&catalog->lock);
    return status;
}

enum hpl_status hpl_catalog_list(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *after, size_t limit,
                                 hpl_catalog_row_fn fn, void *arg)
{
    sqlite3_stmt *statement;
    int code = SQLITE_DONE;
    bool is_more = true;
    pthread_mutex_lock(&catalog->lock);
    enum hpl_status status = prepare(call, catalog, &statement,
                                     "SELECT name, revision, content, mac FROM rows WHERE type = ?1 AND (?2 IS NULL OR name > ?2) ORDER BY name LIMIT ?3");
    if (status == HPL_OK) {
        bind_row(statement, type, after);
        sqlite3_bind_int64(statement, 3, limit > INT32_MAX ? INT32_MAX : (sqlite3_int64)limit);
        while (is_more && (code = sqlite3_step(statement)) == SQLITE_ROW) {
            uint64_t revision;
            struct hpl_bytes content;
            uint8_t mac[HPL_CATALOG_MAC_LEN];
            struct hpl_call quiet = {0};
            const char *name = (const char *)sqlite3_column_text(statement, 0);
            enum hpl_status verdict = check_row(&quiet, catalog, statement, 1, type, name ? name : "", &revision, &content, mac);
            is_more = fn(arg, name ? name : "", revision, verdict, verdict == HPL_OK ? content : hpl_bytes(NULL, 0));
        }
        if (is_more && code != SQLITE_DONE)
            status = db_error(call, catalog, code);
        sqlite3_finalize(statement);
    }
    pthread_mutex_unlock(&catalog->lock);
    return status;
}

/* --- writing ------------------------------------------------------------------------------------------------------------- */

struct change {
    const char *type, *name;
    uint64_t expected;
    const struct hpl_bytes *content; /* NULL: delete */
};

static enum hpl_status write_row(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change,
                                 const uint8_t mac[static HPL_CATALOG_MAC_LEN])
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, catalog, &statement,
                    change->content ? "INSERT OR REPLACE INTO rows (type, name, revision, content, mac) VALUES (?, ?, ?, ?, ?)"
                                    : "DELETE FROM rows WHERE type = ? AND name = ?"));
    bind_row(statement, change->type, change->name);
    if (change->content) {
        sqlite3_bind_int64(statement, 3, (sqlite3_int64)(change->expected + 1));
        sqlite3_bind_blob64(statement, 4, change->content->len ? (const void *)change->content->data : "", change->content->len, SQLITE_STATIC);
        sqlite3_bind_blob(statement, 5, mac, HPL_CATALOG_MAC_LEN, SQLITE_STATIC);
    }
    int code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? HPL_OK : db_error(call, catalog, code);
}

/* Within a transaction: compares, writes the row and moves the head along. */
static enum hpl_status apply(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change)
{
    struct head head;
    uint64_t revision = 0;
    uint8_t old_mac[HPL_CATALOG_MAC_LEN], mac[HPL_CATALOG_MAC_LEN] = {0};
    HPL_TRY(read_head(call, catalog, &head));
    enum hpl_status status = get_locked(call, catalog, change->type, change->name, NULL, &revision, old_mac);
    if (status != HPL_OK && status != HPL_NOT_FOUND)
        return status;
    if (revision != change->expected)
        return hpl_fail(call, HPL_STALE, "the catalog row %s '%.80s' was changed meanwhile", change->type, change->name);
    if (status == HPL_OK)
        add_to_sum(&head, old_mac);
    if (change->content) {
        hpl_catalog_row_mac(mac, catalog->mac_key, catalog->deployment, change->type, change->name, change->expected + 1, *change->content);
        add_to_sum(&head, mac);
    }
    HPL_TRY(write_row(call, catalog, change, mac));
    head.generation++;
    return write_head(call, catalog, &head);
}

static enum hpl_status change_row(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change)
{
    pthread_mutex_lock(&catalog->lock);
    enum hpl_status status = run(call, catalog, "BEGIN IMMEDIATE");
    if (status == HPL_OK) {
        status = apply(call, catalog, change);
        if (status == HPL_OK)
            status = run(call, catalog, "COMMIT");
        if (status != HPL_OK)
            sqlite3_exec(catalog->db, "ROLLBACK", NULL, NULL, NULL);
    }
    pthread_mutex_unlock(&catalog->lock);
    return status;
}

enum hpl_status hpl_catalog_put(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name, uint64_t expected,
                                struct hpl_bytes content, uint64_t *revision)
{
    const struct change change = {type, name, expected, &content};
    HPL_TRY(change_row(call, catalog, &change));
    if (revision)
        *revision = expected + 1;
    return HPL_OK;
}

enum hpl_status hpl_catalog_delete(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name, uint64_t expected)
{
    const struct change change = {type, name, expected, NULL};
    HPL_CHECK(expected > 0);
    return change_row(call, catalog, &change);
}

enum hpl_status hpl_catalog_seal(struct hpl_call *call, struct hpl_catalog *catalog, const char *label, const struct hpl_secret *secret,
                                 struct hpl_buf *out)
{
    return hpl_catalog_seal_under(call, catalog->root, label, secret, out);
}

enum hpl_status hpl_catalog_unseal(struct hpl_call *call, struct hpl_catalog *catalog, const char *label, struct hpl_bytes sealed,
                                   struct hpl_secret **out)
{
    return hpl_catalog_unseal_under(call, catalog->root, label, sealed, out);
}
