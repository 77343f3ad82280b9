/* What a crash left behind. At opening only, one thread. */
#include "s3/store/fs/fs.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/log.h"

static bool is_named(sqlite3_stmt *statement, const uint8_t id[static HPL_FILE_ID_LEN])
{
    sqlite3_reset(statement);
    sqlite3_bind_blob(statement, 1, id, HPL_FILE_ID_LEN, SQLITE_STATIC);
    return sqlite3_step(statement) != SQLITE_DONE; /* on an error it stays */
}

static size_t sweep_folder(DIR *dir, sqlite3_stmt *statement)
{
    size_t removed = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        uint8_t id[HPL_FILE_ID_LEN];
        if (hpl_hex_decode(id, sizeof id, entry->d_name, strlen(entry->d_name)) && !is_named(statement, id))
            removed += unlinkat(dirfd(dir), entry->d_name, 0) == 0;
    }
    return removed;
}

enum hpl_status hpl_fs_sweep(struct hpl_call *call, struct hpl_store *store)
{
    char path[HPL_STORE_PATH_MAX];
    sqlite3_stmt *statement;
    size_t removed = 0;
    int code = sqlite3_prepare_v2(store->db, "SELECT 1 FROM object_files WHERE file = ?1 UNION SELECT 1 FROM upload_parts WHERE file = ?1", -1, &statement, NULL);
    if (code != SQLITE_OK)
        return hpl_fs_db_error(call, store, code);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(path, sizeof path, "%s/objects/%02x", store->dir, i);
        DIR *dir;
        enum hpl_status status = hpl_fs_open_folder(call, path, &dir);
        if (status != HPL_OK) {
            sqlite3_finalize(statement);
            return status;
        }
        removed += sweep_folder(dir, statement);
        closedir(dir);
    }
    sqlite3_finalize(statement);
    if (removed)
        hpl_log(HPL_LOG_INFO, "store.swept", HPL_N("files", removed));
    return HPL_OK;
}
