/* The catalog on SQLite: one connection that reads and one that writes, each under its mutex, so that a read never waits for a
 * sync; other processes are kept apart by SQLite's own locks. Blocking; any thread but an event loop's. Never logs content. */
#include "catalog/catalog.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sqlite3.h>
#include <openssl/rand.h>

#include "base/file.h"
#include "base/log.h"
#include "base/retry.h"
#include "catalog/row_mac.h"

#define BUSY_MS 10000
#define MAX_SET_UPS 8u

enum statement {
    READ_DEPLOYMENT, MAKE_DEPLOYMENT, READ_HEAD, WRITE_HEAD, GET_ROW, PUT_ROW, DELETE_ROW, LIST_TYPE, LIST_ALL,
    BEGIN, COMMIT, ROLLBACK, NUM_STATEMENTS
};

static const char *const texts[NUM_STATEMENTS] = {
    [READ_DEPLOYMENT] = "SELECT id, root_check FROM deployment",
    [MAKE_DEPLOYMENT] = "INSERT INTO deployment (one, id, root_check) VALUES (1, ?, ?)",
    [READ_HEAD] = "SELECT generation, num_rows, nonce, masked, mac FROM head",
    [WRITE_HEAD] = "INSERT OR REPLACE INTO head (one, generation, num_rows, nonce, masked, mac) VALUES (1, ?, ?, ?, ?, ?)",
    [GET_ROW] = "SELECT revision, content, mac FROM rows WHERE type = ? AND name = ?",
    [PUT_ROW] = "INSERT OR REPLACE INTO rows (type, name, revision, content, mac) VALUES (?, ?, ?, ?, ?)",
    [DELETE_ROW] = "DELETE FROM rows WHERE type = ? AND name = ?",
    [LIST_TYPE] = "SELECT revision, content, mac, name FROM rows WHERE type = ?1 AND (?2 IS NULL OR name > ?2) ORDER BY name LIMIT ?3",
    [LIST_ALL] = "SELECT revision, content, mac, name, type FROM rows",
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS deployment (one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL, root_check BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS head (one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, num_rows INTEGER NOT NULL,"
    " nonce BLOB NOT NULL, masked BLOB NOT NULL, mac BLOB NOT NULL);"
    "CREATE TABLE IF NOT EXISTS rows (type TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, content BLOB NOT NULL,"
    " mac BLOB NOT NULL, PRIMARY KEY (type, name)) WITHOUT ROWID;";

struct connection {
    pthread_mutex_t lock;
    sqlite3 *db;
    sqlite3_stmt *statements[NUM_STATEMENTS]; /* made when first used */
};

struct hpl_catalog {
    struct connection reader, writer;
    struct hpl_secret *root, *mac_key;
    struct hpl_catalog_binding binding;
};

/* --- SQLite: the one door ------------------------------------------------------------------------------------------------ */

/* SQLite's codes end here. */
static enum hpl_status db_error(struct hpl_call *call, sqlite3 *db, int code)
{
    switch (code & 0xff) {
    case SQLITE_FULL:
        return hpl_fail(call, HPL_NO_SPACE, "the disk of the catalog is full; nothing was changed");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return hpl_fail(call, HPL_UNAVAILABLE, "the catalog is held by another process");
    case SQLITE_NOMEM:
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return hpl_fail(call, HPL_INTEGRITY, "the catalog file is damaged (%s): restore it from a backup", sqlite3_errmsg(db));
    default:
        return hpl_fail(call, HPL_IO, "the catalog failed: %s", sqlite3_errmsg(db));
    }
}

static enum hpl_status prepare(struct hpl_call *call, struct connection *connection, enum statement which, sqlite3_stmt **out)
{
    if (!connection->statements[which]) {
        int code = sqlite3_prepare_v3(connection->db, texts[which], -1, SQLITE_PREPARE_PERSISTENT, &connection->statements[which], NULL);
        if (code != SQLITE_OK)
            return db_error(call, connection->db, code);
    }
    *out = connection->statements[which];
    return HPL_OK;
}

/* Ends a use of a statement; its views die here. */
static void rest(sqlite3_stmt **statement)
{
    if (*statement) {
        sqlite3_reset(*statement);
        sqlite3_clear_bindings(*statement);
    }
}
#define STATEMENT sqlite3_stmt *HPL_CLEANUP(rest)

/* A step that gives no row. */
static enum hpl_status finish(struct hpl_call *call, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    return code == SQLITE_DONE ? HPL_OK : db_error(call, sqlite3_db_handle(statement), code);
}

/* A step that gives a row or HPL_NOT_FOUND. */
static enum hpl_status step(struct hpl_call *call, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    return code == SQLITE_ROW ? HPL_OK : code == SQLITE_DONE ? HPL_NOT_FOUND : db_error(call, sqlite3_db_handle(statement), code);
}

static enum hpl_status run(struct hpl_call *call, struct connection *connection, enum statement which)
{
    STATEMENT statement = NULL;
    HPL_TRY(prepare(call, connection, which, &statement));
    return finish(call, statement);
}

static enum hpl_status run_text(struct hpl_call *call, struct connection *connection, const char *sql)
{
    int code = sqlite3_exec(connection->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? HPL_OK : db_error(call, connection->db, code);
}

static void roll_back(struct connection *connection)
{
    if (!sqlite3_get_autocommit(connection->db))
        sqlite3_exec(connection->db, texts[ROLLBACK], NULL, NULL, NULL);
}

static void bind_text(sqlite3_stmt *statement, int at, const char *text)
{
    if (text)
        sqlite3_bind_text(statement, at, text, -1, SQLITE_STATIC);
}

static void bind_blob(sqlite3_stmt *statement, int at, struct hpl_bytes bytes)
{
    sqlite3_bind_blob64(statement, at, bytes.len ? (const void *)bytes.data : "", bytes.len, SQLITE_STATIC);
}

static struct hpl_bytes blob_column(sqlite3_stmt *statement, int at)
{
    const void *data = sqlite3_column_blob(statement, at);
    return hpl_bytes(data, (size_t)sqlite3_column_bytes(statement, at));
}

static bool copy_column(sqlite3_stmt *statement, int at, void *out, size_t len)
{
    struct hpl_bytes bytes = blob_column(statement, at);
    if (bytes.len != len)
        return false;
    memcpy(out, bytes.data, len);
    return true;
}

/* A type or a name; NULL for one that we never wrote: a NUL inside would hide a row behind another's name. */
static const char *name_column(sqlite3_stmt *statement, int at)
{
    const char *text = (const char *)sqlite3_column_text(statement, at);
    size_t len = (size_t)sqlite3_column_bytes(statement, at);
    return text && strlen(text) == len && len <= HPL_CATALOG_NAME_MAX ? text : NULL;
}

/* --- the head ------------------------------------------------------------------------------------------------------------ */

static enum hpl_status read_head(struct hpl_call *call, struct hpl_catalog *catalog, struct hpl_catalog_head *head)
{
    STATEMENT statement = NULL;
    struct hpl_catalog_stored_head stored;
    HPL_TRY(prepare(call, &catalog->writer, READ_HEAD, &statement));
    enum hpl_status status = step(call, statement);
    if (status == HPL_NOT_FOUND)
        return hpl_fail(call, HPL_INTEGRITY, "the catalog's head was taken away: restore the whole catalog from one backup");
    HPL_TRY(status);
    stored.generation = (uint64_t)sqlite3_column_int64(statement, 0);
    stored.num_rows = (uint64_t)sqlite3_column_int64(statement, 1);
    bool is_right = copy_column(statement, 2, stored.nonce, sizeof stored.nonce) &&
                    copy_column(statement, 3, stored.masked, sizeof stored.masked) &&
                    copy_column(statement, 4, stored.mac, sizeof stored.mac) && hpl_catalog_head_open(&stored, &catalog->binding, head);
    return is_right ? HPL_OK : hpl_fail(call, HPL_INTEGRITY, "the catalog's head does not verify: it was changed");
}

static enum hpl_status write_head(struct hpl_call *call, struct hpl_catalog *catalog, const struct hpl_catalog_head *head)
{
    STATEMENT statement = NULL;
    struct hpl_catalog_stored_head stored;
    HPL_TRY(hpl_catalog_head_close(call, head, &catalog->binding, &stored));
    HPL_TRY(prepare(call, &catalog->writer, WRITE_HEAD, &statement));
    sqlite3_bind_int64(statement, 1, (sqlite3_int64)stored.generation);
    sqlite3_bind_int64(statement, 2, (sqlite3_int64)stored.num_rows);
    bind_blob(statement, 3, hpl_bytes(stored.nonce, sizeof stored.nonce));
    bind_blob(statement, 4, hpl_bytes(stored.masked, sizeof stored.masked));
    bind_blob(statement, 5, hpl_bytes(stored.mac, sizeof stored.mac));
    return finish(call, statement);
}

/* --- rows ---------------------------------------------------------------------------------------------------------------- */

/* A row as it lies there, its first columns revision, content and mac. content is a view until the statement rests. */
struct row {
    uint64_t revision;
    struct hpl_bytes content;
    uint8_t mac[HPL_CATALOG_MAC_LEN];
};

static enum hpl_status check_row(struct hpl_call *call, const struct hpl_catalog *catalog, sqlite3_stmt *statement, const char *type,
                                 const char *name, struct row *row)
{
    uint8_t stored[HPL_CATALOG_MAC_LEN];
    row->revision = (uint64_t)sqlite3_column_int64(statement, 0);
    row->content = blob_column(statement, 1);
    hpl_catalog_row_mac(row->mac, &catalog->binding, type, name, row->revision, row->content);
    if (copy_column(statement, 2, stored, sizeof stored) && hpl_equal_secret(row->mac, stored, sizeof stored))
        return HPL_OK;
    return hpl_fail(call, HPL_INTEGRITY, "the catalog row %.40s '%.80s' does not verify: it was changed", type, name);
}

static enum hpl_status find_row(struct hpl_call *call, const struct hpl_catalog *catalog, sqlite3_stmt *statement, const char *type,
                                const char *name, struct row *row)
{
    bind_text(statement, 1, type);
    bind_text(statement, 2, name);
    HPL_TRY(step(call, statement));
    return check_row(call, catalog, statement, type, name, row);
}

/* --- verifying the whole ------------------------------------------------------------------------------------------------- */

struct survey {
    struct hpl_catalog_head found;
    uint64_t num_bad;
    char first_bad[160];
};

/* The head vouches for each row's name and MAC, the MAC for what the row holds: a row with other content is found here, but
 * harms only itself, when it is read. */
static void survey_row(const struct hpl_catalog *catalog, sqlite3_stmt *statement, struct survey *survey)
{
    uint8_t stored[HPL_CATALOG_MAC_LEN];
    struct row row;
    struct hpl_call quiet = {0};
    const char *name = name_column(statement, 3), *type = name_column(statement, 4);
    survey->found.num_rows++;
    if (type && name && copy_column(statement, 2, stored, sizeof stored))
        hpl_catalog_head_toggle(&survey->found, &catalog->binding, type, name, stored);
    if (type && name && check_row(&quiet, catalog, statement, type, name, &row) == HPL_OK)
        return;
    if (survey->num_bad++ == 0)
        snprintf(survey->first_bad, sizeof survey->first_bad, "%.40s '%.80s'", type ? type : "?", name ? name : "?");
    hpl_log(HPL_LOG_ERROR, "catalog.row_does_not_verify", HPL_S("type", type ? type : "?"), HPL_S("name", name ? name : "?"));
}

static enum hpl_status survey_mismatch(struct hpl_call *call, const struct hpl_catalog_head *head, const struct survey *survey)
{
    static const char mend[] = "restore the whole catalog from one backup";
    uint64_t want = head->num_rows, got = survey->found.num_rows;
    if (survey->num_bad)
        return hpl_fail(call, HPL_INTEGRITY, "the catalog row %s does not verify: it was changed, renamed or brought in; %s", survey->first_bad, mend);
    if (got < want)
        return hpl_fail(call, HPL_INTEGRITY, "%" PRIu64 " of the catalog's %" PRIu64 " rows were taken away; %s", want - got, want, mend);
    if (got > want)
        return hpl_fail(call, HPL_INTEGRITY, "%" PRIu64 " rows were brought into the catalog of %" PRIu64 "; %s", got - want, want, mend);
    return hpl_fail(call, HPL_INTEGRITY, "a row of the catalog was rolled back or exchanged; %s", mend);
}

/* Every row against the head, within a transaction. */
static enum hpl_status verify_all(struct hpl_call *call, struct hpl_catalog *catalog)
{
    STATEMENT statement = NULL;
    struct hpl_catalog_head head;
    struct survey survey = {0};
    enum hpl_status status;
    HPL_TRY(read_head(call, catalog, &head));
    HPL_TRY(prepare(call, &catalog->writer, LIST_ALL, &statement));
    while ((status = step(call, statement)) == HPL_OK)
        survey_row(catalog, statement, &survey);
    if (status != HPL_NOT_FOUND)
        return status;
    bool is_whole = survey.found.num_rows == head.num_rows && hpl_equal_secret(survey.found.sum, head.sum, sizeof head.sum);
    return is_whole ? HPL_OK : survey_mismatch(call, &head, &survey);
}

/* --- opening ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status make_deployment(struct hpl_call *call, struct hpl_catalog *catalog)
{
    STATEMENT statement = NULL;
    uint8_t check[HPL_CATALOG_MAC_LEN];
    const struct hpl_catalog_head empty = {0};
    if (RAND_bytes(catalog->binding.deployment, sizeof catalog->binding.deployment) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    hpl_catalog_root_check(check, &catalog->binding);
    HPL_TRY(prepare(call, &catalog->writer, MAKE_DEPLOYMENT, &statement));
    bind_blob(statement, 1, hpl_bytes(catalog->binding.deployment, sizeof catalog->binding.deployment));
    bind_blob(statement, 2, hpl_bytes(check, sizeof check));
    HPL_TRY(finish(call, statement));
    return write_head(call, catalog, &empty);
}

/* HPL_NOT_FOUND in a new file. */
static enum hpl_status read_deployment(struct hpl_call *call, struct hpl_catalog *catalog)
{
    STATEMENT statement = NULL;
    uint8_t check[HPL_CATALOG_MAC_LEN], stored[HPL_CATALOG_MAC_LEN];
    HPL_TRY(prepare(call, &catalog->writer, READ_DEPLOYMENT, &statement));
    HPL_TRY(step(call, statement));
    bool is_right = copy_column(statement, 0, catalog->binding.deployment, sizeof catalog->binding.deployment) &&
                    copy_column(statement, 1, stored, sizeof stored);
    if (!is_right)
        return hpl_fail(call, HPL_INTEGRITY, "the catalog's deployment id is damaged: restore the whole catalog from one backup");
    hpl_catalog_root_check(check, &catalog->binding);
    if (!hpl_equal_secret(check, stored, sizeof check))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the root secret does not fit this catalog: give the one that it was made with");
    return HPL_OK;
}

static enum hpl_status set_up_within(struct hpl_call *call, struct hpl_catalog *catalog)
{
    HPL_TRY(run_text(call, &catalog->writer, schema));
    enum hpl_status status = read_deployment(call, catalog);
    if (status == HPL_NOT_FOUND)
        status = make_deployment(call, catalog);
    HPL_TRY(status);
    return verify_all(call, catalog);
}

static enum hpl_status set_up(struct hpl_call *call, struct hpl_catalog *catalog)
{
    HPL_TRY(run_text(call, &catalog->writer, "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"));
    HPL_TRY(run(call, &catalog->writer, BEGIN));
    enum hpl_status status = set_up_within(call, catalog);
    if (status == HPL_OK)
        status = run(call, &catalog->writer, COMMIT);
    if (status != HPL_OK)
        roll_back(&catalog->writer);
    return status;
}

/* A file is in the hands of whoever may write the disk: nothing that stands in its schema is run. */
static enum hpl_status connect_to(struct hpl_call *call, struct connection *connection, const char *path)
{
    int code = sqlite3_open_v2(path, &connection->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (code != SQLITE_OK)
        return db_error(call, connection->db, code);
    sqlite3_busy_timeout(connection->db, BUSY_MS);
    sqlite3_extended_result_codes(connection->db, 1);
    sqlite3_db_config(connection->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    sqlite3_db_config(connection->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    sqlite3_db_config(connection->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    return run_text(call, connection, "PRAGMA cell_size_check = ON");
}

static void disconnect(struct connection *connection)
{
    for (size_t i = 0; i < NUM_STATEMENTS; i++)
        sqlite3_finalize(connection->statements[i]);
    sqlite3_close(connection->db);
    pthread_mutex_destroy(&connection->lock);
}

/* SQLite would make the file with the umask's rights. One that is there is not opened here: closing it would drop the locks
 * that another connection of this process holds on it. */
static enum hpl_status make_file(struct hpl_call *call, const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0)
        return close(fd) == 0 ? HPL_OK : hpl_file_error(call, "cannot make the catalog", path);
    struct stat st;
    if (errno != EEXIST || lstat(path, &st) != 0)
        return hpl_file_error(call, "cannot open the catalog", path);
    if (!S_ISREG(st.st_mode))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the catalog %s is not a regular file", path);
    if ((st.st_mode & 077) && chmod(path, 0600) != 0)
        return hpl_file_error(call, "cannot take the rights of others from the catalog", path);
    return HPL_OK;
}

static enum hpl_status open_with(struct hpl_call *call, struct hpl_catalog *catalog, const char *path, const struct hpl_secret *root)
{
    catalog->root = hpl_secret_from(root->bytes, root->len);
    catalog->binding.key = catalog->mac_key = hpl_catalog_mac_key(root);
    if (!catalog->root || !catalog->mac_key)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    HPL_TRY(make_file(call, path));
    HPL_TRY(connect_to(call, &catalog->writer, path));
    /* Two that turn a new file to WAL at once can refuse each other without waiting. */
    struct hpl_call attempt = {0};
    enum hpl_status status = set_up(&attempt, catalog);
    for (unsigned i = 1; status == HPL_UNAVAILABLE && i < MAX_SET_UPS; i++) {
        HPL_TRY(hpl_retry_wait(call, i, 5, 200));
        attempt = (struct hpl_call){0};
        status = set_up(&attempt, catalog);
    }
    if (status != HPL_OK)
        return hpl_fail(call, status, "%s", hpl_detail(&attempt, status));
    HPL_TRY(connect_to(call, &catalog->reader, path));
    return run_text(call, &catalog->reader, "PRAGMA query_only = ON");
}

enum hpl_status hpl_catalog_open(struct hpl_call *call, struct hpl_catalog **out, const char *path, const struct hpl_secret *root)
{
    *out = NULL;
    struct hpl_catalog *catalog = calloc(1, sizeof *catalog);
    if (!catalog)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    pthread_mutex_init(&catalog->reader.lock, NULL);
    pthread_mutex_init(&catalog->writer.lock, NULL);
    enum hpl_status status = open_with(call, catalog, path, root);
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
    disconnect(&catalog->reader);
    disconnect(&catalog->writer);
    hpl_secret_free(catalog->root);
    hpl_secret_free(catalog->mac_key);
    free(catalog);
}

const uint8_t *hpl_catalog_deployment(const struct hpl_catalog *catalog)
{
    return catalog->binding.deployment;
}

/* --- reading ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status get_locked(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                  struct hpl_buf *content, uint64_t *revision)
{
    STATEMENT statement = NULL;
    struct row row;
    HPL_TRY(prepare(call, &catalog->reader, GET_ROW, &statement));
    HPL_TRY(find_row(call, catalog, statement, type, name, &row));
    hpl_buf_put_bytes(content, row.content);
    HPL_TRY(hpl_buf_check(content));
    *revision = row.revision;
    return HPL_OK;
}

enum hpl_status hpl_catalog_get(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                struct hpl_buf *content, uint64_t *revision)
{
    if (strlen(name) > HPL_CATALOG_NAME_MAX)
        return HPL_NOT_FOUND;
    pthread_mutex_lock(&catalog->reader.lock);
    enum hpl_status status = get_locked(call, catalog, type, name, content, revision);
    pthread_mutex_unlock(&catalog->reader.lock);
    return status;
}

/* One row to the callback; false to stop. */
static bool give_row(const struct hpl_catalog *catalog, sqlite3_stmt *statement, const char *type, hpl_catalog_row_fn fn, void *arg)
{
    struct row row = {0};
    struct hpl_call quiet = {0};
    const char *name = name_column(statement, 3);
    enum hpl_status verdict = name ? check_row(&quiet, catalog, statement, type, name, &row) : HPL_INTEGRITY;
    return fn(arg, name ? name : "", row.revision, verdict, verdict == HPL_OK ? row.content : hpl_bytes(NULL, 0));
}

static enum hpl_status list_locked(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *after, size_t limit,
                                   hpl_catalog_row_fn fn, void *arg)
{
    STATEMENT statement = NULL;
    enum hpl_status status;
    HPL_TRY(prepare(call, &catalog->reader, LIST_TYPE, &statement));
    bind_text(statement, 1, type);
    bind_text(statement, 2, after);
    sqlite3_bind_int64(statement, 3, limit > INT32_MAX ? INT32_MAX : (sqlite3_int64)limit);
    while ((status = step(call, statement)) == HPL_OK)
        if (!give_row(catalog, statement, type, fn, arg))
            return HPL_OK;
    return status == HPL_NOT_FOUND ? HPL_OK : status;
}

enum hpl_status hpl_catalog_list(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *after, size_t limit,
                                 hpl_catalog_row_fn fn, void *arg)
{
    pthread_mutex_lock(&catalog->reader.lock);
    enum hpl_status status = list_locked(call, catalog, type, after, limit, fn, arg);
    pthread_mutex_unlock(&catalog->reader.lock);
    return status;
}

/* --- writing ------------------------------------------------------------------------------------------------------------- */

struct change {
    const char *type, *name;
    uint64_t expected;
    const struct hpl_bytes *content; /* NULL: delete */
};

static enum hpl_status put_row(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change,
                               const uint8_t mac[static HPL_CATALOG_MAC_LEN])
{
    STATEMENT statement = NULL;
    HPL_TRY(prepare(call, &catalog->writer, PUT_ROW, &statement));
    bind_text(statement, 1, change->type);
    bind_text(statement, 2, change->name);
    sqlite3_bind_int64(statement, 3, (sqlite3_int64)(change->expected + 1));
    bind_blob(statement, 4, *change->content);
    bind_blob(statement, 5, hpl_bytes(mac, HPL_CATALOG_MAC_LEN));
    return finish(call, statement);
}

static enum hpl_status delete_row(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change)
{
    STATEMENT statement = NULL;
    HPL_TRY(prepare(call, &catalog->writer, DELETE_ROW, &statement));
    bind_text(statement, 1, change->type);
    bind_text(statement, 2, change->name);
    return finish(call, statement);
}

/* The compare of compare-and-swap; takes the row that is there out of the head. */
static enum hpl_status take_old(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change, struct hpl_catalog_head *head)
{
    STATEMENT statement = NULL;
    struct row row = {0};
    HPL_TRY(prepare(call, &catalog->writer, GET_ROW, &statement));
    enum hpl_status status = find_row(call, catalog, statement, change->type, change->name, &row);
    if (status != HPL_OK && status != HPL_NOT_FOUND)
        return status;
    if (row.revision != change->expected)
        return hpl_fail(call, HPL_STALE, "the catalog row %.40s '%.80s' was changed meanwhile", change->type, change->name);
    if (status == HPL_NOT_FOUND)
        return HPL_OK;
    hpl_catalog_head_toggle(head, &catalog->binding, change->type, change->name, row.mac);
    head->num_rows--;
    return HPL_OK;
}

/* Within a transaction: compares, writes the row and moves the head along. */
static enum hpl_status apply(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change)
{
    struct hpl_catalog_head head;
    uint8_t mac[HPL_CATALOG_MAC_LEN];
    HPL_TRY(read_head(call, catalog, &head));
    HPL_TRY(take_old(call, catalog, change, &head));
    if (change->content) {
        hpl_catalog_row_mac(mac, &catalog->binding, change->type, change->name, change->expected + 1, *change->content);
        HPL_TRY(put_row(call, catalog, change, mac));
        hpl_catalog_head_toggle(&head, &catalog->binding, change->type, change->name, mac);
        head.num_rows++;
    } else
        HPL_TRY(delete_row(call, catalog, change));
    head.generation++;
    return write_head(call, catalog, &head);
}

static enum hpl_status change_row(struct hpl_call *call, struct hpl_catalog *catalog, const struct change *change)
{
    if (strlen(change->type) > HPL_CATALOG_NAME_MAX || strlen(change->name) > HPL_CATALOG_NAME_MAX)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "a name in the catalog has at most %u bytes", HPL_CATALOG_NAME_MAX);
    pthread_mutex_lock(&catalog->writer.lock);
    enum hpl_status status = run(call, &catalog->writer, BEGIN);
    if (status == HPL_OK)
        status = apply(call, catalog, change);
    if (status == HPL_OK)
        status = run(call, &catalog->writer, COMMIT);
    if (status != HPL_OK)
        roll_back(&catalog->writer);
    pthread_mutex_unlock(&catalog->writer.lock);
    return status;
}

enum hpl_status hpl_catalog_put(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name, uint64_t expected,
                                struct hpl_bytes content, uint64_t *revision)
{
    const struct change change = {type, name, expected, &content};
    if (expected >= INT64_MAX)
        return hpl_fail(call, HPL_STALE, "the catalog row %.40s '%.80s' has no such revision", type, name);
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

/* --- sealing ------------------------------------------------------------------------------------------------------------- */

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
