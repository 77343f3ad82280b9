/* The index. One connection under one mutex; every change is one transaction. */
#include "s3/store/fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS buckets (name TEXT PRIMARY KEY, created_ms INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS objects (bucket TEXT NOT NULL, key BLOB NOT NULL, instance BLOB NOT NULL, size INTEGER NOT NULL, modified_ms INTEGER NOT NULL,"
    " manifest BLOB NOT NULL, envelope BLOB NOT NULL, key_instance BLOB, key_uid BLOB, key_version INTEGER, key_id TEXT, PRIMARY KEY (bucket, key)) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS objects_by_key ON objects (key_uid, key_version) WHERE key_uid IS NOT NULL;"
    "CREATE INDEX IF NOT EXISTS objects_by_keystore ON objects (key_instance) WHERE key_uid IS NOT NULL;"
    "CREATE TABLE IF NOT EXISTS object_files (instance BLOB NOT NULL, place INTEGER NOT NULL, file BLOB NOT NULL, PRIMARY KEY (instance, place)) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX IF NOT EXISTS object_files_by_file ON object_files (file);"
    "CREATE TABLE IF NOT EXISTS uploads (id TEXT PRIMARY KEY, bucket TEXT NOT NULL, key BLOB NOT NULL, created_ms INTEGER NOT NULL, state BLOB NOT NULL,"
    " key_instance BLOB, key_uid BLOB, key_version INTEGER, key_id TEXT) WITHOUT ROWID;"
    "CREATE INDEX IF NOT EXISTS uploads_by_name ON uploads (bucket, key, id);"
    "CREATE TABLE IF NOT EXISTS upload_parts (upload TEXT NOT NULL, number INTEGER NOT NULL, file BLOB NOT NULL, modified_ms INTEGER NOT NULL, state BLOB NOT NULL,"
    " PRIMARY KEY (upload, number)) WITHOUT ROWID;"
    "CREATE UNIQUE INDEX IF NOT EXISTS upload_parts_by_file ON upload_parts (file);"
    "CREATE TABLE IF NOT EXISTS garbage (file BLOB PRIMARY KEY, instance BLOB) WITHOUT ROWID;"
    "CREATE TEMP TABLE taken (file BLOB PRIMARY KEY, is_gone INTEGER NOT NULL) WITHOUT ROWID;"; /* of the garbage, in memory: a crash only unlinks again */

enum hpl_status hpl_fs_db_error(struct hpl_call *call, const struct hpl_store *store, int code)
{
    int why = code & 0xff;
    if (why == SQLITE_FULL)
        return hpl_fail(call, HPL_NO_SPACE, "the disk of the data folder is full; nothing was stored");
    if (why == SQLITE_NOMEM)
        return HPL_NO_MEMORY;
    if (why == SQLITE_CORRUPT || why == SQLITE_NOTADB)
        return hpl_fail(call, HPL_INTEGRITY, "the object index is damaged: %s", sqlite3_errmsg(store->db));
    return hpl_fail(call, HPL_IO, "the object index failed: %s", sqlite3_errmsg(store->db));
}

/* --- small steps ----------------------------------------------------------------------------------------------------------- */

static enum hpl_status run(struct hpl_call *call, struct hpl_store *store, const char *sql)
{
    int code = sqlite3_exec(store->db, sql, NULL, NULL, NULL);
    return code == SQLITE_OK ? HPL_OK : hpl_fs_db_error(call, store, code);
}

static enum hpl_status prepare(struct hpl_call *call, struct hpl_store *store, sqlite3_stmt **out, const char *sql)
{
    int code = sqlite3_prepare_v2(store->db, sql, -1, out, NULL);
    return code == SQLITE_OK ? HPL_OK : hpl_fs_db_error(call, store, code);
}

static void bind_text(sqlite3_stmt *statement, int at, const char *text)
{
    sqlite3_bind_text(statement, at, text, -1, SQLITE_STATIC);
}

static void bind_bytes(sqlite3_stmt *statement, int at, const void *data, size_t len)
{
    sqlite3_bind_blob64(statement, at, len ? data : "", len, SQLITE_STATIC);
}

static void bind_key(sqlite3_stmt *statement, int at, const char *key)
{
    bind_bytes(statement, at, key, strlen(key));
}

static void bind_ref(sqlite3_stmt *statement, int at, bool has_ref, const struct hpl_key_ref *ref)
{
    if (!has_ref)
        return; /* NULL unless bound */
    bind_bytes(statement, at, ref->instance, sizeof ref->instance);
    bind_bytes(statement, at + 1, ref->uid, sizeof ref->uid);
    sqlite3_bind_int64(statement, at + 2, ref->version);
    bind_text(statement, at + 3, ref->key_id);
}

/* Runs a statement that gives no rows, and ends it. */
static enum hpl_status finish(struct hpl_call *call, struct hpl_store *store, sqlite3_stmt *statement)
{
    int code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? HPL_OK : hpl_fs_db_error(call, store, code);
}

static struct hpl_bytes column_bytes(sqlite3_stmt *statement, int column)
{
    const void *data = sqlite3_column_blob(statement, column);
    return hpl_bytes(data, (size_t)sqlite3_column_bytes(statement, column));
}

static bool copy_text(char *out, size_t size, struct hpl_bytes bytes)
{
    if (bytes.len >= size)
        return false;
    if (bytes.len)
        memcpy(out, bytes.data, bytes.len);
    out[bytes.len] = '\0';
    return true;
}

static bool copy_exact(uint8_t *out, size_t len, struct hpl_bytes bytes)
{
    if (bytes.len == len)
        memcpy(out, bytes.data, len);
    return bytes.len == len;
}

static bool read_ref(sqlite3_stmt *statement, int column, bool *has_ref, struct hpl_key_ref *ref)
{
    *has_ref = sqlite3_column_type(statement, column + 1) != SQLITE_NULL;
    if (!*has_ref)
        return true;
    ref->version = (uint32_t)sqlite3_column_int64(statement, column + 2);
    return copy_exact(ref->instance, sizeof ref->instance, column_bytes(statement, column)) &&
           copy_exact(ref->uid, sizeof ref->uid, column_bytes(statement, column + 1)) &&
           copy_text(ref->key_id, sizeof ref->key_id, column_bytes(statement, column + 3));
}

static enum hpl_status damaged(struct hpl_call *call)
{
    return hpl_fail(call, HPL_INTEGRITY, "a row of the object index is damaged");
}

typedef enum hpl_status change_fn(struct hpl_call *call, struct hpl_store *store, const void *arg);

/* What of the garbage is unlinked by now leaves the index with the next change, which is synced anyway. */
static const char forget_garbage[] = "DELETE FROM garbage WHERE file IN (SELECT file FROM taken WHERE is_gone); DELETE FROM taken WHERE is_gone;";

static enum hpl_status in_transaction(struct hpl_call *call, struct hpl_store *store, change_fn *change, const void *arg)
{
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = run(call, store, "BEGIN IMMEDIATE");
    if (status == HPL_OK) {
        status = run(call, store, forget_garbage);
        if (status == HPL_OK)
            status = change(call, store, arg);
        if (status == HPL_OK)
            status = run(call, store, "COMMIT");
        if (status != HPL_OK)
            sqlite3_exec(store->db, "ROLLBACK", NULL, NULL, NULL);
    }
    pthread_mutex_unlock(&store->lock);
    if (status == HPL_OK)
        hpl_fs_collect_garbage(store);
    return status;
}

/* Does the query give a row? One text and one optional key bound. */
static enum hpl_status has_row(struct hpl_call *call, struct hpl_store *store, const char *sql, const char *text, bool *is_there)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, store, &statement, sql));
    bind_text(statement, 1, text);
    int code = sqlite3_step(statement);
    *is_there = code == SQLITE_ROW;
    sqlite3_finalize(statement);
    return code == SQLITE_ROW || code == SQLITE_DONE ? HPL_OK : hpl_fs_db_error(call, store, code);
}

/* Runs sql with one text bound. */
static enum hpl_status run_with(struct hpl_call *call, struct hpl_store *store, const char *sql, const char *text)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, store, &statement, sql));
    bind_text(statement, 1, text);
    return finish(call, store, statement);
}

/* --- garbage and pins ------------------------------------------------------------------------------------------------------ */

static bool is_pinned(const struct hpl_store *store, struct hpl_bytes instance)
{
    char hex[2 * HPL_INSTANCE_LEN + 1];
    if (instance.len != HPL_INSTANCE_LEN)
        return false;
    hpl_hex_encode(hex, instance.data, instance.len);
    return json_object_get(store->pins, hex) != NULL;
}

/* Files that wait to be unlinked: taken out of garbage, so that no other thread takes them too. */
struct taken {
    uint8_t (*files)[HPL_FILE_ID_LEN];
    size_t count, cap;
};

/* Under the lock. False when memory is out: what is left waits for the next time. */
static bool take(struct taken *taken, sqlite3_stmt *mark, const uint8_t id[static HPL_FILE_ID_LEN])
{
    if (taken->count == taken->cap) {
        size_t cap = taken->cap ? 2 * taken->cap : 16;
        void *grown = realloc(taken->files, cap * sizeof *taken->files);
        if (!grown)
            return false;
        taken->files = grown;
        taken->cap = cap;
    }
    sqlite3_reset(mark);
    bind_bytes(mark, 1, id, HPL_FILE_ID_LEN);
    if (sqlite3_step(mark) != SQLITE_DONE)
        return false;
    memcpy(taken->files[taken->count++], id, HPL_FILE_ID_LEN);
    return true;
}

/* Under the lock: what stands in garbage, is not pinned and nobody took. */
static void take_garbage(struct hpl_store *store, struct taken *taken)
{
    sqlite3_stmt *rows, *mark = NULL;
    uint8_t id[HPL_FILE_ID_LEN];
    bool has_room = true;
    store->has_waiting = false;
    if (prepare(NULL, store, &rows, "SELECT file, instance FROM garbage WHERE file NOT IN (SELECT file FROM taken)") != HPL_OK)
        return;
    while (has_room && sqlite3_step(rows) == SQLITE_ROW) {
        bool is_held = is_pinned(store, column_bytes(rows, 1));
        store->has_waiting |= is_held;
        if (is_held || !copy_exact(id, sizeof id, column_bytes(rows, 0)))
            continue;
        has_room = mark || prepare(NULL, store, &mark, "INSERT INTO taken (file, is_gone) VALUES (?, 0)") == HPL_OK;
        has_room = has_room && take(taken, mark, id);
    }
    store->has_waiting |= !has_room;
    sqlite3_finalize(mark);
    sqlite3_finalize(rows);
}

/* Under the lock. */
static void mark_gone(struct hpl_store *store, const struct taken *taken)
{
    sqlite3_stmt *mark;
    if (prepare(NULL, store, &mark, "UPDATE taken SET is_gone = 1 WHERE file = ?") != HPL_OK)
        return;
    for (size_t i = 0; i < taken->count; i++) {
        sqlite3_reset(mark);
        bind_bytes(mark, 1, taken->files[i], HPL_FILE_ID_LEN);
        sqlite3_step(mark);
    }
    sqlite3_finalize(mark);
}

void hpl_fs_collect_garbage(struct hpl_store *store)
{
    struct taken taken = {0};
    char path[HPL_STORE_PATH_MAX];
    pthread_mutex_lock(&store->lock);
    take_garbage(store, &taken);
    pthread_mutex_unlock(&store->lock);
    if (taken.count == 0)
        return;
    for (size_t i = 0; i < taken.count; i++) {
        hpl_fs_path(store, taken.files[i], false, path);
        unlink(path);
    }
    pthread_mutex_lock(&store->lock);
    mark_gone(store, &taken);
    pthread_mutex_unlock(&store->lock);
    free(taken.files);
}

/* Under the lock. */
static void pin_instance(struct hpl_store *store, const uint8_t instance[static HPL_INSTANCE_LEN], int by)
{
    char hex[2 * HPL_INSTANCE_LEN + 1];
    hpl_hex_encode(hex, instance, HPL_INSTANCE_LEN);
    json_int_t count = json_integer_value(json_object_get(store->pins, hex)) + by;
    if (count > 0)
        json_object_set_new(store->pins, hex, json_integer(count));
    else
        json_object_del(store->pins, hex);
}

void hpl_store_unpin(struct hpl_store *store, const uint8_t instance[static HPL_INSTANCE_LEN])
{
    pthread_mutex_lock(&store->lock);
    pin_instance(store, instance, -1);
    bool has_waiting = store->has_waiting;
    pthread_mutex_unlock(&store->lock);
    if (has_waiting)
        hpl_fs_collect_garbage(store);
}

/* --- opening --------------------------------------------------------------------------------------------------------------- */

static enum hpl_status open_index(struct hpl_call *call, struct hpl_store *store)
{
    char path[HPL_STORE_PATH_MAX];
    snprintf(path, sizeof path, "%s/index.db", store->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == ELOOP)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is a symbolic link: put the object index itself there", path);
    if (fd < 0)
        return hpl_file_error(call, "cannot open the object index", path);
    close(fd);
    int code = sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_FULLMUTEX, NULL);
    if (code != SQLITE_OK)
        return hpl_fs_db_error(call, store, code);
    sqlite3_busy_timeout(store->db, 10000);
    HPL_TRY(run(call, store, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;"));
    HPL_TRY(run(call, store, schema));
    hpl_fs_collect_garbage(store);
    return hpl_fs_sweep(call, store);
}

enum hpl_status hpl_store_open(struct hpl_call *call, struct hpl_store **out, const char *data_dir)
{
    struct hpl_store *store = calloc(1, sizeof *store);
    *out = NULL;
    if (!store)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    store->lock_fd = -1;
    pthread_mutex_init(&store->lock, NULL);
    store->pins = json_object();
    enum hpl_status status = snprintf(store->dir, sizeof store->dir, "%s", data_dir) < PATH_MAX - 64
                                 ? HPL_OK : hpl_fail(call, HPL_INVALID_CONFIGURATION, "the data folder's path is too long");
    if (status == HPL_OK)
        status = hpl_fs_make_folders(call, store);
    if (status == HPL_OK)
        status = open_index(call, store);
    if (status == HPL_OK)
        *out = store;
    else
        hpl_store_close(store);
    return status;
}

void hpl_store_close(struct hpl_store *store)
{
    if (!store)
        return;
    sqlite3_close(store->db);
    if (store->lock_fd >= 0)
        close(store->lock_fd);
    json_decref(store->pins);
    pthread_mutex_destroy(&store->lock);
    free(store);
}

/* --- buckets --------------------------------------------------------------------------------------------------------------- */

static enum hpl_status need_bucket(struct hpl_call *call, struct hpl_store *store, const char *name)
{
    bool is_there;
    HPL_TRY(has_row(call, store, "SELECT 1 FROM buckets WHERE name = ?", name, &is_there));
    return is_there ? HPL_OK : HPL_NO_SUCH_BUCKET;
}

static enum hpl_status create_bucket(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    sqlite3_stmt *statement;
    if (need_bucket(call, store, arg) == HPL_OK)
        return HPL_BUCKET_EXISTS;
    HPL_TRY(prepare(call, store, &statement, "INSERT INTO buckets (name, created_ms) VALUES (?, ?)"));
    bind_text(statement, 1, arg);
    sqlite3_bind_int64(statement, 2, hpl_clock_unix_ms());
    return finish(call, store, statement);
}

enum hpl_status hpl_store_create_bucket(struct hpl_call *call, struct hpl_store *store, const char *name)
{
    return in_transaction(call, store, create_bucket, name);
}

static enum hpl_status delete_bucket(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    bool has_object, has_upload;
    HPL_TRY(need_bucket(call, store, arg));
    HPL_TRY(has_row(call, store, "SELECT 1 FROM objects WHERE bucket = ? LIMIT 1", arg, &has_object));
    HPL_TRY(has_row(call, store, "SELECT 1 FROM uploads WHERE bucket = ? LIMIT 1", arg, &has_upload));
    if (has_object || has_upload)
        return hpl_fail(call, HPL_BUCKET_NOT_EMPTY, has_object ? "the bucket is not empty" : "the bucket has uploads in parts that are neither completed nor aborted");
    return run_with(call, store, "DELETE FROM buckets WHERE name = ?", arg);
}

enum hpl_status hpl_store_delete_bucket(struct hpl_call *call, struct hpl_store *store, const char *name)
{
    return in_transaction(call, store, delete_bucket, name);
}

enum hpl_status hpl_store_find_bucket(struct hpl_call *call, struct hpl_store *store, const char *name)
{
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = need_bucket(call, store, name);
    pthread_mutex_unlock(&store->lock);
    return status;
}

enum hpl_status hpl_store_list_buckets(struct hpl_call *call, struct hpl_store *store, hpl_bucket_fn fn, void *arg)
{
    sqlite3_stmt *statement;
    int code = SQLITE_DONE;
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = prepare(call, store, &statement, "SELECT name, created_ms FROM buckets ORDER BY name");
    if (status == HPL_OK) {
        while ((code = sqlite3_step(statement)) == SQLITE_ROW)
            fn(arg, (const char *)sqlite3_column_text(statement, 0), sqlite3_column_int64(statement, 1));
        if (code != SQLITE_DONE)
            status = hpl_fs_db_error(call, store, code);
        sqlite3_finalize(statement);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* --- objects --------------------------------------------------------------------------------------------------------------- */

void hpl_object_wipe(struct hpl_object *object)
{
    hpl_buf_wipe(&object->manifest);
    hpl_buf_wipe(&object->envelope);
    *object = (struct hpl_object){0};
}

#define OBJECT_COLUMNS "bucket, key, instance, size, modified_ms, manifest, envelope, key_instance, key_uid, key_version, key_id"

static enum hpl_status read_object(struct hpl_call *call, sqlite3_stmt *statement, struct hpl_object *object)
{
    *object = (struct hpl_object){.size = (uint64_t)sqlite3_column_int64(statement, 3), .modified_ms = sqlite3_column_int64(statement, 4)};
    if (!copy_text(object->bucket, sizeof object->bucket, column_bytes(statement, 0)) || !copy_text(object->key, sizeof object->key, column_bytes(statement, 1)) ||
        !copy_exact(object->instance, sizeof object->instance, column_bytes(statement, 2)) || !read_ref(statement, 7, &object->has_ref, &object->ref))
        return damaged(call);
    hpl_buf_put_bytes(&object->manifest, column_bytes(statement, 5));
    hpl_buf_put_bytes(&object->envelope, column_bytes(statement, 6));
    HPL_TRY(hpl_buf_check(&object->manifest));
    return hpl_buf_check(&object->envelope);
}

/* The object's files become garbage, and its row goes. */
static enum hpl_status remove_object(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *key)
{
    static const char *const steps[] = {
        "INSERT OR IGNORE INTO garbage (file, instance) SELECT f.file, f.instance FROM object_files f JOIN objects o ON o.instance = f.instance WHERE o.bucket = ? AND o.key = ?",
        "DELETE FROM object_files WHERE instance IN (SELECT instance FROM objects WHERE bucket = ? AND key = ?)",
        "DELETE FROM objects WHERE bucket = ? AND key = ?",
    };
    for (size_t i = 0; i < HPL_COUNT(steps); i++) {
        sqlite3_stmt *statement;
        HPL_TRY(prepare(call, store, &statement, steps[i]));
        bind_text(statement, 1, bucket);
        bind_key(statement, 2, key);
        HPL_TRY(finish(call, store, statement));
    }
    return HPL_OK;
}

static enum hpl_status insert_object(struct hpl_call *call, struct hpl_store *store, const struct hpl_object *object)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, store, &statement, "INSERT INTO objects (" OBJECT_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    bind_text(statement, 1, object->bucket);
    bind_key(statement, 2, object->key);
    bind_bytes(statement, 3, object->instance, sizeof object->instance);
    sqlite3_bind_int64(statement, 4, (sqlite3_int64)object->size);
    sqlite3_bind_int64(statement, 5, object->modified_ms);
    bind_bytes(statement, 6, object->manifest.data, object->manifest.len);
    bind_bytes(statement, 7, object->envelope.data, object->envelope.len);
    bind_ref(statement, 8, object->has_ref, &object->ref);
    return finish(call, store, statement);
}

static enum hpl_status insert_file(struct hpl_call *call, struct hpl_store *store, const struct hpl_object *object, size_t place, const uint8_t *file)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, store, &statement, "INSERT INTO object_files (instance, place, file) VALUES (?, ?, ?)"));
    bind_bytes(statement, 1, object->instance, sizeof object->instance);
    sqlite3_bind_int64(statement, 2, (sqlite3_int64)place);
    bind_bytes(statement, 3, file, HPL_FILE_ID_LEN);
    return finish(call, store, statement);
}

static enum hpl_status need_upload(struct hpl_call *call, struct hpl_store *store, const char *id)
{
    bool is_there;
    HPL_TRY(has_row(call, store, "SELECT 1 FROM uploads WHERE id = ?", id, &is_there));
    return is_there ? HPL_OK : HPL_NO_SUCH_UPLOAD;
}

/* What is left of an upload: its parts that no object took are garbage. */
static enum hpl_status end_upload(struct hpl_call *call, struct hpl_store *store, const char *id)
{
    HPL_TRY(need_upload(call, store, id));
    HPL_TRY(run_with(call, store, "INSERT OR IGNORE INTO garbage (file) SELECT file FROM upload_parts WHERE upload = ? AND file NOT IN (SELECT file FROM object_files)", id));
    HPL_TRY(run_with(call, store, "DELETE FROM upload_parts WHERE upload = ?", id));
    return run_with(call, store, "DELETE FROM uploads WHERE id = ?", id);
}

struct put {
    const struct hpl_object *object;
    const uint8_t (*files)[HPL_FILE_ID_LEN];
    size_t num_files;
    const char *upload;
    bool must_be_new;
};

/* The files are still the upload's parts: one that was replaced after they were listed is garbage by now. */
static enum hpl_status check_parts(struct hpl_call *call, struct hpl_store *store, const struct put *put)
{
    sqlite3_stmt *statement;
    int code = SQLITE_ROW;
    HPL_TRY(need_upload(call, store, put->upload));
    HPL_TRY(prepare(call, store, &statement, "SELECT 1 FROM upload_parts WHERE upload = ? AND file = ?"));
    for (size_t i = 0; i < put->num_files && code == SQLITE_ROW; i++) {
        sqlite3_reset(statement);
        bind_text(statement, 1, put->upload);
        bind_bytes(statement, 2, put->files[i], HPL_FILE_ID_LEN);
        code = sqlite3_step(statement);
    }
    sqlite3_finalize(statement);
    if (code == SQLITE_DONE)
        return hpl_fail(call, HPL_INVALID_PART, "a part was replaced meanwhile");
    return code == SQLITE_ROW ? HPL_OK : hpl_fs_db_error(call, store, code);
}

static enum hpl_status check_is_new(struct hpl_call *call, struct hpl_store *store, const struct hpl_object *object)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, store, &statement, "SELECT 1 FROM objects WHERE bucket = ? AND key = ?"));
    bind_text(statement, 1, object->bucket);
    bind_key(statement, 2, object->key);
    int code = sqlite3_step(statement);
    sqlite3_finalize(statement);
    return code == SQLITE_DONE ? HPL_OK : code == SQLITE_ROW ? HPL_PRECONDITION_FAILED : hpl_fs_db_error(call, store, code);
}

static enum hpl_status put_object(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    const struct put *put = arg;
    HPL_TRY(need_bucket(call, store, put->object->bucket));
    if (put->upload)
        HPL_TRY(check_parts(call, store, put));
    if (put->must_be_new)
        HPL_TRY(check_is_new(call, store, put->object));
    HPL_TRY(remove_object(call, store, put->object->bucket, put->object->key));
    HPL_TRY(insert_object(call, store, put->object));
    for (size_t i = 0; i < put->num_files; i++)
        HPL_TRY(insert_file(call, store, put->object, i, put->files[i]));
    return put->upload ? end_upload(call, store, put->upload) : HPL_OK;
}

enum hpl_status hpl_store_put_object(struct hpl_call *call, struct hpl_store *store, const struct hpl_object *object, const uint8_t (*files)[HPL_FILE_ID_LEN],
                                     size_t num_files, const char *upload, bool must_be_new)
{
    const struct put put = {object, files, num_files, upload, must_be_new};
    return in_transaction(call, store, put_object, &put);
}

static enum hpl_status read_files(struct hpl_call *call, struct hpl_store *store, const uint8_t *instance, uint8_t (**files)[HPL_FILE_ID_LEN], size_t *num_files)
{
    sqlite3_stmt *statement;
    size_t cap = 0;
    int code;
    enum hpl_status status = HPL_OK;
    *files = NULL;
    *num_files = 0;
    HPL_TRY(prepare(call, store, &statement, "SELECT file FROM object_files WHERE instance = ? ORDER BY place"));
    bind_bytes(statement, 1, instance, HPL_INSTANCE_LEN);
    while (status == HPL_OK && (code = sqlite3_step(statement)) != SQLITE_DONE) {
        if (code != SQLITE_ROW) {
            status = hpl_fs_db_error(call, store, code);
            break;
        }
        if (*num_files == cap) {
            cap = cap ? 2 * cap : 4;
            void *grown = realloc(*files, cap * sizeof **files);
            if (!grown) {
                status = HPL_NO_MEMORY;
                break;
            }
            *files = grown;
        }
        if (!copy_exact((*files)[(*num_files)++], HPL_FILE_ID_LEN, column_bytes(statement, 0)))
            status = damaged(call);
    }
    sqlite3_finalize(statement);
    return status;
}

static enum hpl_status get_object(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *key, struct hpl_object *object)
{
    sqlite3_stmt *statement;
    HPL_TRY(prepare(call, store, &statement, "SELECT " OBJECT_COLUMNS " FROM objects WHERE bucket = ? AND key = ?"));
    bind_text(statement, 1, bucket);
    bind_key(statement, 2, key);
    int code = sqlite3_step(statement);
    enum hpl_status status = code == SQLITE_ROW ? read_object(call, statement, object) : code == SQLITE_DONE ? HPL_NO_SUCH_OBJECT : hpl_fs_db_error(call, store, code);
    sqlite3_finalize(statement);
    return status == HPL_NO_SUCH_OBJECT && need_bucket(call, store, bucket) == HPL_NO_SUCH_BUCKET ? HPL_NO_SUCH_BUCKET : status;
}

enum hpl_status hpl_store_get_object(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *key, bool pin, struct hpl_object *object,
                                     uint8_t (**files)[HPL_FILE_ID_LEN], size_t *num_files)
{
    *object = (struct hpl_object){0};
    if (files)
        *files = NULL;
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = get_object(call, store, bucket, key, object);
    if (status == HPL_OK && files)
        status = read_files(call, store, object->instance, files, num_files);
    if (status == HPL_OK && pin)
        pin_instance(store, object->instance, 1);
    pthread_mutex_unlock(&store->lock);
    if (status != HPL_OK) {
        hpl_object_wipe(object);
        if (files) {
            free(*files);
            *files = NULL;
        }
    }
    return status;
}

struct name {
    const char *bucket, *key;
};

static enum hpl_status delete_object(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    const struct name *name = arg;
    HPL_TRY(need_bucket(call, store, name->bucket));
    return remove_object(call, store, name->bucket, name->key);
}

enum hpl_status hpl_store_delete_object(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *key)
{
    const struct name name = {bucket, key};
    return in_transaction(call, store, delete_object, &name);
}

#define LIST_PAGE 128u
#define LIST_PAGE_START 8u          /* and 1 after each skip, which makes the rest of a page useless */
#define LIST_PAGE_BYTES (4u << 20)  /* of manifests, past which a page ends early */

/* Rows on their way to a callback, which is called without the lock. */
struct object_page {
    struct hpl_object rows[LIST_PAGE];
    size_t count;
    bool is_last;
    enum hpl_status end; /* what the row behind them is; told when a listing gets there */
};

static enum hpl_status read_page(struct hpl_call *call, struct hpl_store *store, sqlite3_stmt *statement, size_t max, struct object_page *page)
{
    size_t bytes = 0;
    int code = SQLITE_DONE;
    page->is_last = false;
    page->end = HPL_OK;
    while (page->count < max && bytes < LIST_PAGE_BYTES && (code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct hpl_object *row = &page->rows[page->count];
        page->end = read_object(call, statement, row);
        if (page->end != HPL_OK) {
            hpl_object_wipe(row);
            return HPL_OK;
        }
        bytes += row->manifest.len;
        page->count++;
    }
    page->is_last = code == SQLITE_DONE;
    return code == SQLITE_DONE || code == SQLITE_ROW ? HPL_OK : hpl_fs_db_error(call, store, code);
}

/* Up to max rows from after on. */
static enum hpl_status load_page(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *after, bool is_first, size_t max, struct object_page *page)
{
    sqlite3_stmt *statement;
    page->count = 0;
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = prepare(call, store, &statement, is_first ? "SELECT " OBJECT_COLUMNS " FROM objects WHERE bucket = ? AND key >= ? ORDER BY key"
                                                                       : "SELECT " OBJECT_COLUMNS " FROM objects WHERE bucket = ? AND key > ? ORDER BY key");
    if (status == HPL_OK) {
        bind_text(statement, 1, bucket);
        bind_key(statement, 2, after);
        status = read_page(call, store, statement, max, page);
        sqlite3_finalize(statement);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* Gives the rows to fn; where to go on from is written to after. False when it is enough; *has_skipped when the rest of the page is to be passed over. */
static bool give_page(const struct object_page *page, const char *prefix, hpl_object_fn fn, void *arg, char after[static HPL_OBJECT_KEY_MAX + 2], bool *has_skipped)
{
    char skip_to[HPL_OBJECT_KEY_MAX + 2];
    *has_skipped = false;
    for (size_t i = 0; i < page->count && !*has_skipped; i++) {
        const struct hpl_object *object = &page->rows[i];
        skip_to[0] = '\0';
        if (strncmp(object->key, prefix, strlen(prefix)) != 0 || !fn(arg, object, skip_to))
            return false;
        *has_skipped = skip_to[0] != '\0';
        snprintf(after, HPL_OBJECT_KEY_MAX + 2, "%s", *has_skipped ? skip_to : object->key);
    }
    return *has_skipped || !page->is_last;
}

static void page_wipe(struct object_page *page)
{
    for (size_t i = 0; i < page->count; i++)
        hpl_object_wipe(&page->rows[i]);
}

enum hpl_status hpl_store_list_objects(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *prefix, const char *after, hpl_object_fn fn, void *arg)
{
    char from[HPL_OBJECT_KEY_MAX + 2];
    bool is_more = true, has_skipped = false, is_first = !after || strcmp(after, prefix) < 0;
    HPL_TRY(hpl_store_find_bucket(call, store, bucket));
    struct object_page *page = malloc(sizeof *page);
    if (!page)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    snprintf(from, sizeof from, "%s", is_first ? prefix : after);
    enum hpl_status status = HPL_OK;
    for (size_t max = LIST_PAGE_START; status == HPL_OK && is_more; is_first = false) {
        status = load_page(call, store, bucket, from, is_first, max, page);
        is_more = status == HPL_OK && give_page(page, prefix, fn, arg, from, &has_skipped);
        page_wipe(page);
        if (is_more && !has_skipped && page->end != HPL_OK)
            status = page->end;
        max = has_skipped ? 1 : max < LIST_PAGE ? 2 * max : LIST_PAGE;
    }
    free(page);
    return status;
}

#define COUNT(where) "SELECT (SELECT count(*) FROM objects WHERE key_uid IS NOT NULL" where ") + (SELECT count(*) FROM uploads WHERE key_uid IS NOT NULL" where ")"

/* One text a question, so that each finds its index. */
static const char *census_text(const struct hpl_census *what)
{
    static const char *const texts[2][2] = {
        {COUNT(""), COUNT(" AND key_uid = ?2 AND (?3 = 0 OR key_version = ?3)")},
        {COUNT(" AND key_instance = ?1"), COUNT(" AND key_instance = ?1 AND key_uid = ?2 AND (?3 = 0 OR key_version = ?3)")},
    };
    return texts[what->instance != NULL][what->uid != NULL];
}

enum hpl_status hpl_store_census(struct hpl_call *call, struct hpl_store *store, const struct hpl_census *what, uint64_t *count)
{
    sqlite3_stmt *statement;
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = prepare(call, store, &statement, census_text(what));
    if (status == HPL_OK) {
        if (what->instance)
            bind_bytes(statement, 1, what->instance, 8);
        if (what->uid) {
            bind_bytes(statement, 2, what->uid, HPL_KEY_UID_LEN);
            sqlite3_bind_int64(statement, 3, what->version);
        }
        int code = sqlite3_step(statement);
        *count = code == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(statement, 0) : 0;
        if (code != SQLITE_ROW)
            status = hpl_fs_db_error(call, store, code);
        sqlite3_finalize(statement);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

/* --- uploads --------------------------------------------------------------------------------------------------------------- */

void hpl_upload_wipe(struct hpl_upload *upload)
{
    hpl_buf_wipe(&upload->state);
    *upload = (struct hpl_upload){0};
}

#define UPLOAD_COLUMNS "id, bucket, key, created_ms, state, key_instance, key_uid, key_version, key_id"

static enum hpl_status read_upload(struct hpl_call *call, sqlite3_stmt *statement, struct hpl_upload *upload)
{
    *upload = (struct hpl_upload){.created_ms = sqlite3_column_int64(statement, 3)};
    if (!copy_text(upload->id, sizeof upload->id, column_bytes(statement, 0)) || !copy_text(upload->bucket, sizeof upload->bucket, column_bytes(statement, 1)) ||
        !copy_text(upload->key, sizeof upload->key, column_bytes(statement, 2)) || !read_ref(statement, 5, &upload->has_ref, &upload->ref))
        return damaged(call);
    hpl_buf_put_bytes(&upload->state, column_bytes(statement, 4));
    return hpl_buf_check(&upload->state);
}

static enum hpl_status create_upload(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    const struct hpl_upload *upload = arg;
    sqlite3_stmt *statement;
    HPL_TRY(need_bucket(call, store, upload->bucket));
    HPL_TRY(prepare(call, store, &statement, "INSERT INTO uploads (" UPLOAD_COLUMNS ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"));
    bind_text(statement, 1, upload->id);
    bind_text(statement, 2, upload->bucket);
    bind_key(statement, 3, upload->key);
    sqlite3_bind_int64(statement, 4, upload->created_ms);
    bind_bytes(statement, 5, upload->state.data, upload->state.len);
    bind_ref(statement, 6, upload->has_ref, &upload->ref);
    return finish(call, store, statement);
}

enum hpl_status hpl_store_create_upload(struct hpl_call *call, struct hpl_store *store, const struct hpl_upload *upload)
{
    return in_transaction(call, store, create_upload, upload);
}

enum hpl_status hpl_store_get_upload(struct hpl_call *call, struct hpl_store *store, const char *id, const char *bucket, const char *key, struct hpl_upload *upload)
{
    sqlite3_stmt *statement;
    *upload = (struct hpl_upload){0};
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = prepare(call, store, &statement, "SELECT " UPLOAD_COLUMNS " FROM uploads WHERE id = ? AND bucket = ? AND key = ?");
    if (status == HPL_OK) {
        bind_text(statement, 1, id);
        bind_text(statement, 2, bucket);
        bind_key(statement, 3, key);
        int code = sqlite3_step(statement);
        status = code == SQLITE_ROW ? read_upload(call, statement, upload) : code == SQLITE_DONE ? HPL_NO_SUCH_UPLOAD : hpl_fs_db_error(call, store, code);
        sqlite3_finalize(statement);
    }
    if (status == HPL_NO_SUCH_UPLOAD && need_bucket(call, store, bucket) == HPL_NO_SUCH_BUCKET)
        status = HPL_NO_SUCH_BUCKET;
    pthread_mutex_unlock(&store->lock);
    return status;
}

static enum hpl_status abort_upload(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    return end_upload(call, store, arg);
}

enum hpl_status hpl_store_abort_upload(struct hpl_call *call, struct hpl_store *store, const char *id)
{
    return in_transaction(call, store, abort_upload, id);
}

struct put_part {
    const char *id;
    const struct hpl_upload_part *part;
};

static enum hpl_status put_part(struct hpl_call *call, struct hpl_store *store, const void *arg)
{
    const struct put_part *put = arg;
    sqlite3_stmt *statement;
    HPL_TRY(need_upload(call, store, put->id));
    HPL_TRY(prepare(call, store, &statement, "INSERT OR IGNORE INTO garbage (file) SELECT file FROM upload_parts WHERE upload = ? AND number = ?"));
    bind_text(statement, 1, put->id);
    sqlite3_bind_int64(statement, 2, put->part->number);
    HPL_TRY(finish(call, store, statement));
    HPL_TRY(prepare(call, store, &statement, "INSERT OR REPLACE INTO upload_parts (upload, number, file, modified_ms, state) VALUES (?, ?, ?, ?, ?)"));
    bind_text(statement, 1, put->id);
    sqlite3_bind_int64(statement, 2, put->part->number);
    bind_bytes(statement, 3, put->part->file, HPL_FILE_ID_LEN);
    sqlite3_bind_int64(statement, 4, put->part->modified_ms);
    bind_bytes(statement, 5, put->part->state.data, put->part->state.len);
    return finish(call, store, statement);
}

enum hpl_status hpl_store_put_part(struct hpl_call *call, struct hpl_store *store, const char *id, const struct hpl_upload_part *part)
{
    const struct put_part put = {id, part};
    return in_transaction(call, store, put_part, &put);
}

#define PART_PAGE 128u

struct part_page {
    struct hpl_upload_part rows[PART_PAGE];
    size_t count;
};

static enum hpl_status read_parts(struct hpl_call *call, struct hpl_store *store, sqlite3_stmt *statement, struct part_page *page)
{
    int code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        struct hpl_upload_part *part = &page->rows[page->count++];
        *part = (struct hpl_upload_part){.number = (uint32_t)sqlite3_column_int64(statement, 0), .modified_ms = sqlite3_column_int64(statement, 2)};
        if (!copy_exact(part->file, sizeof part->file, column_bytes(statement, 1)))
            return damaged(call);
        hpl_buf_put_bytes(&part->state, column_bytes(statement, 3));
        HPL_TRY(hpl_buf_check(&part->state));
    }
    return code == SQLITE_DONE ? HPL_OK : hpl_fs_db_error(call, store, code);
}

static enum hpl_status load_parts(struct hpl_call *call, struct hpl_store *store, const char *id, uint32_t after, struct part_page *page)
{
    sqlite3_stmt *statement;
    page->count = 0;
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = prepare(call, store, &statement, "SELECT number, file, modified_ms, state FROM upload_parts WHERE upload = ? AND number > ? ORDER BY number LIMIT ?");
    if (status == HPL_OK) {
        bind_text(statement, 1, id);
        sqlite3_bind_int64(statement, 2, after);
        sqlite3_bind_int64(statement, 3, PART_PAGE);
        status = read_parts(call, store, statement, page);
        sqlite3_finalize(statement);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}

enum hpl_status hpl_store_list_parts(struct hpl_call *call, struct hpl_store *store, const char *id, uint32_t after, hpl_part_fn fn, void *arg)
{
    struct part_page page = {.count = PART_PAGE};
    enum hpl_status status = HPL_OK;
    bool is_more = true;
    while (status == HPL_OK && is_more && page.count == PART_PAGE) {
        status = load_parts(call, store, id, after, &page);
        for (size_t i = 0; i < page.count; i++) {
            after = page.rows[i].number;
            is_more = status == HPL_OK && is_more && fn(arg, &page.rows[i]);
            hpl_buf_wipe(&page.rows[i].state);
        }
    }
    return status;
}

enum hpl_status hpl_store_list_uploads(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *prefix, const char *key_marker, const char *id_marker,
                                       hpl_upload_fn fn, void *arg)
{
    sqlite3_stmt *statement;
    int code = SQLITE_DONE;
    bool is_more = true;
    size_t prefix_len = strlen(prefix);
    pthread_mutex_lock(&store->lock);
    enum hpl_status status = need_bucket(call, store, bucket);
    if (status == HPL_OK)
        status = prepare(call, store, &statement, "SELECT " UPLOAD_COLUMNS " FROM uploads WHERE bucket = ? AND key >= ? AND (key > ?3 OR (key = ?3 AND id > ?4)) ORDER BY key, id");
    if (status == HPL_OK) {
        bind_text(statement, 1, bucket);
        bind_key(statement, 2, prefix);
        bind_key(statement, 3, key_marker);
        bind_text(statement, 4, id_marker);
        while (status == HPL_OK && is_more && (code = sqlite3_step(statement)) == SQLITE_ROW) {
            struct hpl_upload upload;
            status = read_upload(call, statement, &upload);
            is_more = status == HPL_OK && strncmp(upload.key, prefix, prefix_len) == 0 && fn(arg, &upload);
            hpl_upload_wipe(&upload);
        }
        if (status == HPL_OK && is_more && code != SQLITE_DONE)
            status = hpl_fs_db_error(call, store, code);
        sqlite3_finalize(statement);
    }
    pthread_mutex_unlock(&store->lock);
    return status;
}
