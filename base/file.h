/* Small files, whole: read with a bound, replace atomically and durably. Blocking; never on an event loop. */
#ifndef HPL_BASE_FILE_H
#define HPL_BASE_FILE_H

#include "base/bytes.h"
#include "base/secret.h"

/* errno as a status with a detail "<what> <path>: <reason>": ENOENT NOT_FOUND, ENOSPC/EDQUOT NO_SPACE, else IO. */
enum hpl_status hpl_file_error(struct hpl_call *call, const char *what, const char *path);

/* Appends the whole file to buf; HPL_TOO_LARGE past max. */
enum hpl_status hpl_file_read(struct hpl_call *call, const char *path, size_t max, struct hpl_buf *buf) HPL_MUST_USE;

/* A secret kept in a file (a PIN, a root key): a regular file, not a symlink, owned by us or root, no rights for group or
 * others; one trailing newline is stripped when strip_newline. HPL_INVALID_CONFIGURATION with the mend otherwise. */
enum hpl_status hpl_file_read_secret(struct hpl_call *call, const char *path, size_t max, bool strip_newline, struct hpl_secret **out) HPL_MUST_USE;

/* Replaces path by data: temporary file beside it, fsync, rename, fsync of the folder. On failure the old file stays. */
enum hpl_status hpl_file_replace(struct hpl_call *call, const char *path, struct hpl_bytes data, unsigned mode) HPL_MUST_USE;

/* fsync of a folder, so that a rename or unlink in it lasts. */
enum hpl_status hpl_file_sync_dir(struct hpl_call *call, const char *path) HPL_MUST_USE;

/* The folder with mode 0700, made if it is not there (its parent must be). HPL_INVALID_CONFIGURATION if it is something else. */
enum hpl_status hpl_file_make_dir(struct hpl_call *call, const char *path) HPL_MUST_USE;

/* A folder whose entries nobody but us and root can exchange: ours or root's, not to be written by group or others; who could would put a root
 * secret, a catalog or a script of his own in place of ours. HPL_NOT_FOUND, or HPL_INVALID_CONFIGURATION with the mend. */
enum hpl_status hpl_file_own_dir(struct hpl_call *call, const char *path) HPL_MUST_USE;

/* All of len bytes, or a status. Retries short writes and EINTR. */
enum hpl_status hpl_file_write_all(struct hpl_call *call, int fd, const void *data, size_t len, const char *path) HPL_MUST_USE;

#endif
