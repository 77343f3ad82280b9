/* Small files. Any thread; blocking. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum hpl_status hpl_file_error(struct hpl_call *call, const char *what, const char *path)
{
    int why = errno;
    enum hpl_status status = why == ENOENT ? HPL_NOT_FOUND : why == ENOSPC || why == EDQUOT ? HPL_NO_SPACE : HPL_IO;
    return hpl_fail(call, status, "%s %s: %s", what, path, strerror(why));
}

enum hpl_status hpl_file_read(struct hpl_call *call, const char *path, size_t max, struct hpl_buf *buf)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0)
        return hpl_file_error(call, "cannot open", path);
    enum hpl_status status = HPL_OK;
    size_t total = 0;
    for (;;) {
        uint8_t *at = hpl_buf_extend(buf, 4096);
        if (!at) {
            status = HPL_NO_MEMORY;
            break;
        }
        ssize_t n = read(fd, at, 4096);
        buf->len -= 4096 - (size_t)(n > 0 ? n : 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            status = hpl_file_error(call, "cannot read", path);
        if (n <= 0)
            break;
        total += (size_t)n;
        if (total > max) {
            status = hpl_fail(call, HPL_TOO_LARGE, "%s is larger than %zu bytes", path, max);
            break;
        }
    }
    close(fd);
    return status;
}

enum hpl_status hpl_file_read_secret(struct hpl_call *call, const char *path, size_t max, bool strip_newline, struct hpl_secret **out)
{
    *out = NULL;
    HPL_CHECK(max < HPL_SECRET_MAX);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 && errno == ELOOP)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is a symbolic link: name the file itself", path);
    if (fd < 0)
        return hpl_file_error(call, "cannot open", path);
    struct stat st;
    enum hpl_status status = HPL_OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is not a regular file", path);
    else if ((st.st_mode & 077) != 0)
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s can be read by others: chmod 0400 it", path);
    else if (st.st_uid != geteuid() && st.st_uid != 0)
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s belongs to another user: chown it to the one who runs this", path);
    struct hpl_secret *whole = status == HPL_OK ? hpl_secret_new(max + 1) : NULL;
    if (status == HPL_OK && !whole)
        status = hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    size_t len = 0;
    while (status == HPL_OK && len <= max) {
        ssize_t n = read(fd, whole->bytes + len, max + 1 - len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            status = hpl_file_error(call, "cannot read", path);
        if (n <= 0)
            break;
        len += (size_t)n;
    }
    close(fd);
    if (status == HPL_OK && len > max)
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is larger than %zu bytes", path, max);
    if (status == HPL_OK && strip_newline && len && whole->bytes[len - 1] == '\n')
        len--;
    if (status == HPL_OK && len == 0)
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is empty", path);
    if (status == HPL_OK && !(*out = hpl_secret_from(whole->bytes, len)))
        status = hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    hpl_secret_free(whole);
    return status;
}

enum hpl_status hpl_file_write_all(struct hpl_call *call, int fd, const void *data, size_t len, const char *path)
{
    const uint8_t *at = data;
    while (len) {
        ssize_t n = write(fd, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hpl_file_error(call, "cannot write", path);
        at += n;
        len -= (size_t)n;
    }
    return HPL_OK;
}

enum hpl_status hpl_file_sync_dir(struct hpl_call *call, const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return hpl_file_error(call, "cannot open", path);
    enum hpl_status status = fsync(fd) == 0 ? HPL_OK : hpl_file_error(call, "cannot sync", path);
    close(fd);
    return status;
}

enum hpl_status hpl_file_replace(struct hpl_call *call, const char *path, struct hpl_bytes data, unsigned mode)
{
    char temporary[PATH_MAX], folder[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return hpl_fail(call, HPL_IO, "the path is too long: %.80s…", path);
    snprintf(folder, sizeof folder, "%s", path);
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return hpl_file_error(call, "cannot create a file beside", path);
    enum hpl_status status = fchmod(fd, mode) == 0 ? HPL_OK : hpl_file_error(call, "cannot chmod", temporary);
    if (status == HPL_OK)
        status = hpl_file_write_all(call, fd, data.data, data.len, temporary);
    if (status == HPL_OK && fsync(fd) != 0)
        status = hpl_file_error(call, "cannot sync", temporary);
    if (close(fd) != 0 && status == HPL_OK)
        status = hpl_file_error(call, "cannot close", temporary);
    if (status == HPL_OK && rename(temporary, path) != 0)
        status = hpl_file_error(call, "cannot replace", path);
    if (status != HPL_OK) {
        unlink(temporary);
        return status;
    }
    return hpl_file_sync_dir(call, dirname(folder));
}

enum hpl_status hpl_file_make_dir(struct hpl_call *call, const char *path)
{
    struct stat st;
    if (mkdir(path, 0700) == 0 || errno == EEXIST) {
        if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
            return HPL_OK;
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is not a folder", path);
    }
    return hpl_file_error(call, "cannot create the folder", path);
}

enum hpl_status hpl_file_own_dir(struct hpl_call *call, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return hpl_file_error(call, "cannot look at", path);
    if (!S_ISDIR(st.st_mode))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is not a folder", path);
    if (st.st_uid != geteuid() && st.st_uid != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s belongs to another user: chown it to the one who runs this", path);
    if (st.st_mode & (S_IWGRP | S_IWOTH))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s can be changed by others: chmod 0700 it", path);
    return HPL_OK;
}
