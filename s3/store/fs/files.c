/* Files of objects. Any thread; blocking. */
#include "s3/store/fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/rand.h>

#include "base/codec.h"
#include "base/file.h"

void hpl_fs_path(const struct hpl_store *store, const uint8_t id[static HPL_FILE_ID_LEN], bool is_tmp, char path[static HPL_STORE_PATH_MAX])
{
    char hex[2 * HPL_FILE_ID_LEN + 1];
    hpl_hex_encode(hex, id, HPL_FILE_ID_LEN);
    if (is_tmp)
        snprintf(path, HPL_STORE_PATH_MAX, "%s/tmp/%s", store->dir, hex);
    else
        snprintf(path, HPL_STORE_PATH_MAX, "%s/objects/%.2s/%s", store->dir, hex, hex);
}

enum hpl_status hpl_fs_open_folder(struct hpl_call *call, const char *path, DIR **dir)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (*dir)
        return HPL_OK;
    enum hpl_status status = hpl_file_error(call, "cannot read", path);
    if (fd >= 0)
        close(fd);
    return status;
}

static enum hpl_status empty_tmp(struct hpl_call *call, const char *path)
{
    DIR *dir;
    HPL_TRY(hpl_fs_open_folder(call, path, &dir));
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    return HPL_OK;
}

/* What lies in the store's folders and belongs to nothing is removed at a start: a link must not make another folder one of them. */
static enum hpl_status make_folder(struct hpl_call *call, const char *path)
{
    struct stat st;
    HPL_TRY(hpl_file_make_dir(call, path));
    if (lstat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is a symbolic link: put the folder itself there, or move the whole data folder with data_dir", path);
    return HPL_OK;
}

/* Another daemon's sweep would take what this one has written and not named yet, and its garbage what this one still reads. A name of its own: the folder may
 * be the state folder, whose "lock" this process holds already. */
static enum hpl_status lock_folder(struct hpl_call *call, struct hpl_store *store)
{
    char path[HPL_STORE_PATH_MAX];
    snprintf(path, sizeof path, "%s/objects.lock", store->dir);
    store->lock_fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (store->lock_fd < 0)
        return hpl_file_error(call, "cannot open", path);
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return HPL_OK;
    if (errno == EWOULDBLOCK)
        return hpl_fail(call, HPL_CONFLICT, "%s is in use by another hardplated: stop that one, or name another data folder", store->dir);
    return hpl_file_error(call, "cannot lock", path);
}

enum hpl_status hpl_fs_make_folders(struct hpl_call *call, struct hpl_store *store)
{
    char path[HPL_STORE_PATH_MAX];
    HPL_TRY(hpl_file_make_dir(call, store->dir));
    HPL_TRY(lock_folder(call, store));
    snprintf(path, sizeof path, "%s/objects", store->dir);
    HPL_TRY(make_folder(call, path));
    for (unsigned i = 0; i < 256; i++) {
        snprintf(path, sizeof path, "%s/objects/%02x", store->dir, i);
        HPL_TRY(make_folder(call, path));
    }
    snprintf(path, sizeof path, "%s/objects", store->dir);
    HPL_TRY(hpl_file_sync_dir(call, path));
    snprintf(path, sizeof path, "%s/tmp", store->dir);
    HPL_TRY(make_folder(call, path));
    return empty_tmp(call, path);
}

enum hpl_status hpl_store_create_file(struct hpl_call *call, struct hpl_store *store, struct hpl_store_file *file)
{
    char path[HPL_STORE_PATH_MAX];
    *file = (struct hpl_store_file){.fd = -1};
    if (RAND_bytes(file->id, sizeof file->id) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    hpl_fs_path(store, file->id, true, path);
    file->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return file->fd >= 0 ? HPL_OK : hpl_file_error(call, "cannot create a file in", store->dir);
}

enum hpl_status hpl_store_append(struct hpl_call *call, struct hpl_store_file *file, const void *data, size_t len)
{
    HPL_TRY(hpl_file_write_all(call, file->fd, data, len, "an object's file"));
    file->len += len;
    return HPL_OK;
}

enum hpl_status hpl_store_finish_file(struct hpl_call *call, struct hpl_store *store, struct hpl_store_file *file)
{
    char from[HPL_STORE_PATH_MAX], to[HPL_STORE_PATH_MAX];
    hpl_fs_path(store, file->id, true, from);
    hpl_fs_path(store, file->id, false, to);
    enum hpl_status status = fsync(file->fd) == 0 ? HPL_OK : hpl_file_error(call, "cannot sync", from);
    if (close(file->fd) != 0 && status == HPL_OK)
        status = hpl_file_error(call, "cannot close", from);
    file->fd = -1;
    if (status == HPL_OK && rename(from, to) != 0)
        status = hpl_file_error(call, "cannot move", from);
    if (status != HPL_OK) {
        unlink(from);
        return status;
    }
    *strrchr(to, '/') = '\0';
    return hpl_file_sync_dir(call, to);
}

void hpl_store_drop_file(struct hpl_store *store, struct hpl_store_file *file)
{
    static const uint8_t none[HPL_FILE_ID_LEN];
    char path[HPL_STORE_PATH_MAX];
    if (memcmp(file->id, none, sizeof none) == 0)
        return;
    if (file->fd >= 0)
        close(file->fd);
    hpl_fs_path(store, file->id, true, path);
    unlink(path);
    hpl_fs_path(store, file->id, false, path);
    unlink(path);
    *file = (struct hpl_store_file){.fd = -1};
}

enum hpl_status hpl_store_open_file(struct hpl_call *call, struct hpl_store *store, const uint8_t id[static HPL_FILE_ID_LEN], int *fd)
{
    char path[HPL_STORE_PATH_MAX];
    hpl_fs_path(store, id, false, path);
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0 && errno == ENOENT)
        return hpl_fail(call, HPL_INTEGRITY, "a file of this object is missing");
    if (*fd < 0 && errno != ELOOP && errno != ENXIO)
        return hpl_file_error(call, "cannot open", path);
    if (*fd >= 0 && fstat(*fd, &st) == 0 && S_ISREG(st.st_mode))
        return HPL_OK;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    return hpl_fail(call, HPL_INTEGRITY, "in place of a file of this object lies something else");
}
