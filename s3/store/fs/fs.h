/* What the files of the fs store share. */
#ifndef HPL_S3_STORE_FS_FS_H
#define HPL_S3_STORE_FS_FS_H

#include <dirent.h>
#include <limits.h>
#include <pthread.h>
#include <sqlite3.h>

#include "s3/store.h"

#define HPL_STORE_PATH_MAX (PATH_MAX + 64)

struct hpl_store {
    char dir[PATH_MAX];
    int lock_fd;
    pthread_mutex_t lock; /* around all below */
    sqlite3 *db;
    json_t *pins;         /* instance in hex → number of readers */
    bool has_waiting;     /* garbage that a reader, or want of memory, kept back */
};

/* objects/<2 hex>/<32 hex>, or tmp/<32 hex> while it is written. */
void hpl_fs_path(const struct hpl_store *store, const uint8_t id[static HPL_FILE_ID_LEN], bool is_tmp, char path[static HPL_STORE_PATH_MAX]);

/* Folders, the lock that keeps a second daemon out, and tmp emptied. HPL_CONFLICT; HPL_INVALID_CONFIGURATION where one below the data folder is a link. */
enum hpl_status hpl_fs_make_folders(struct hpl_call *call, struct hpl_store *store) HPL_MUST_USE;
/* A folder of the store to be read, never through a link in its place; closedir. *dir is NULL after a failure. */
enum hpl_status hpl_fs_open_folder(struct hpl_call *call, const char *path, DIR **dir) HPL_MUST_USE;

/* SQLite's codes end here. */
enum hpl_status hpl_fs_db_error(struct hpl_call *call, const struct hpl_store *store, int code);

/* Unlinks what stands in garbage and is not pinned. Takes the lock, but not while it unlinks; the rows go with the next change: ids are never used again, so a
 * crash before that only repeats the unlinking. */
void hpl_fs_collect_garbage(struct hpl_store *store);

/* Removes files in objects/ that no row names. */
enum hpl_status hpl_fs_sweep(struct hpl_call *call, struct hpl_store *store) HPL_MUST_USE;

#endif
