/* Where objects lie: bytes in files, everything else in an index, both changed together or not at all. What it keeps of an object's keys and
 * contents is opaque to it. Blocking; any thread. */
#ifndef HPL_S3_STORE_H
#define HPL_S3_STORE_H

#include "kms/kms.h"

#define HPL_FILE_ID_LEN 16u
#define HPL_INSTANCE_LEN 16u
#define HPL_BUCKET_MAX 63u
#define HPL_OBJECT_KEY_MAX 1024u
#define HPL_UPLOAD_ID_LEN 32u /* hex digits */

struct hpl_store;

/* Opens or creates data_dir (0700). Clears what a crash left: half-written files, files that nothing names. HPL_CONFLICT while another store has it open. */
enum hpl_status hpl_store_open(struct hpl_call *call, struct hpl_store **out, const char *data_dir) HPL_MUST_USE;
void hpl_store_close(struct hpl_store *store);

/* --- buckets */
enum hpl_status hpl_store_create_bucket(struct hpl_call *call, struct hpl_store *store, const char *name) HPL_MUST_USE; /* HPL_BUCKET_EXISTS */
enum hpl_status hpl_store_find_bucket(struct hpl_call *call, struct hpl_store *store, const char *name) HPL_MUST_USE;   /* HPL_NO_SUCH_BUCKET */
enum hpl_status hpl_store_delete_bucket(struct hpl_call *call, struct hpl_store *store, const char *name) HPL_MUST_USE; /* HPL_BUCKET_NOT_EMPTY */
typedef void (*hpl_bucket_fn)(void *arg, const char *name, int64_t created_ms);
enum hpl_status hpl_store_list_buckets(struct hpl_call *call, struct hpl_store *store, hpl_bucket_fn fn, void *arg) HPL_MUST_USE;

/* --- files: written apart, invisible until an object or an upload part names them */
struct hpl_store_file {
    int fd;
    uint8_t id[HPL_FILE_ID_LEN];
    uint64_t len;
};
enum hpl_status hpl_store_create_file(struct hpl_call *call, struct hpl_store *store, struct hpl_store_file *file) HPL_MUST_USE;
enum hpl_status hpl_store_append(struct hpl_call *call, struct hpl_store_file *file, const void *data, size_t len) HPL_MUST_USE;
/* Makes it last and closes it. HPL_NO_SPACE, HPL_IO. */
enum hpl_status hpl_store_finish_file(struct hpl_call *call, struct hpl_store *store, struct hpl_store_file *file) HPL_MUST_USE;
/* Throws it away, whether finished or not; for one that nothing names. A zero file (fd -1, len 0) is fine. */
void hpl_store_drop_file(struct hpl_store *store, struct hpl_store_file *file);
/* An open descriptor for reading, the caller's to close. HPL_INTEGRITY where no regular file of its own lies there: a link or a pipe is not followed. */
enum hpl_status hpl_store_open_file(struct hpl_call *call, struct hpl_store *store, const uint8_t id[static HPL_FILE_ID_LEN], int *fd) HPL_MUST_USE;

/* --- objects */
struct hpl_object {
    char bucket[HPL_BUCKET_MAX + 1];
    char key[HPL_OBJECT_KEY_MAX + 1];
    uint8_t instance[HPL_INSTANCE_LEN];
    uint64_t size;
    int64_t modified_ms;
    struct hpl_buf manifest;   /* with its MAC: opaque here */
    struct hpl_buf envelope;   /* empty: no key service is needed */
    bool has_ref;
    struct hpl_key_ref ref;    /* for the census */
};
void hpl_object_wipe(struct hpl_object *object);

/* Puts the object in place of what had its name, with its files (one a part, in order of part numbers); files are taken over only on success. Durable when it returns.
 * upload (may be NULL): the upload that this completes; it is removed in the same step, with its parts that files does not name;
 * HPL_INVALID_PART when one of files is not its part any more. must_be_new: HPL_PRECONDITION_FAILED where the name is taken. With any failure nothing is changed. */
enum hpl_status hpl_store_put_object(struct hpl_call *call, struct hpl_store *store, const struct hpl_object *object, const uint8_t (*files)[HPL_FILE_ID_LEN],
                                     size_t num_files, const char *upload, bool must_be_new) HPL_MUST_USE;
/* HPL_NO_SUCH_OBJECT, HPL_NO_SUCH_BUCKET. files (may be NULL) gets malloc'd ids in order. When pin, the files stay until hpl_store_unpin, whatever happens to the name. */
enum hpl_status hpl_store_get_object(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *key, bool pin, struct hpl_object *object,
                                     uint8_t (**files)[HPL_FILE_ID_LEN], size_t *num_files) HPL_MUST_USE;
void hpl_store_unpin(struct hpl_store *store, const uint8_t instance[static HPL_INSTANCE_LEN]);
/* HPL_OK also when it is not there. HPL_NO_SUCH_BUCKET. */
enum hpl_status hpl_store_delete_object(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *key) HPL_MUST_USE;
/* Objects of the bucket with keys of the prefix, after (NULL: from the first), in byte order; fn returns false to stop, and may ask to go on behind a key by
 * writing it to skip_to (HPL_OBJECT_KEY_MAX + 2 bytes; "" otherwise). Rows are read page by page and fn is called between pages: it may take its time, ask the
 * store, and change what is behind. So are parts. */
typedef bool (*hpl_object_fn)(void *arg, const struct hpl_object *object, char *skip_to);
enum hpl_status hpl_store_list_objects(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *prefix, const char *after, hpl_object_fn fn,
                                       void *arg) HPL_MUST_USE;
enum hpl_status hpl_store_census(struct hpl_call *call, struct hpl_store *store, const struct hpl_census *what, uint64_t *count) HPL_MUST_USE;

/* --- uploads in parts */
struct hpl_upload {
    char id[HPL_UPLOAD_ID_LEN + 1];
    char bucket[HPL_BUCKET_MAX + 1];
    char key[HPL_OBJECT_KEY_MAX + 1];
    int64_t created_ms;
    struct hpl_buf state;      /* opaque */
    bool has_ref;
    struct hpl_key_ref ref;
};
void hpl_upload_wipe(struct hpl_upload *upload);
struct hpl_upload_part {
    uint32_t number;
    uint8_t file[HPL_FILE_ID_LEN];
    int64_t modified_ms;
    struct hpl_buf state;      /* opaque */
};
enum hpl_status hpl_store_create_upload(struct hpl_call *call, struct hpl_store *store, const struct hpl_upload *upload) HPL_MUST_USE;
/* HPL_NO_SUCH_UPLOAD, also when bucket and key are not the upload's. */
enum hpl_status hpl_store_get_upload(struct hpl_call *call, struct hpl_store *store, const char *id, const char *bucket, const char *key,
                                     struct hpl_upload *upload) HPL_MUST_USE;
enum hpl_status hpl_store_abort_upload(struct hpl_call *call, struct hpl_store *store, const char *id) HPL_MUST_USE;
/* In place of a part of the same number; the file is taken over on success. HPL_NO_SUCH_UPLOAD when it ended meanwhile. */
enum hpl_status hpl_store_put_part(struct hpl_call *call, struct hpl_store *store, const char *id, const struct hpl_upload_part *part) HPL_MUST_USE;
typedef bool (*hpl_part_fn)(void *arg, const struct hpl_upload_part *part);
enum hpl_status hpl_store_list_parts(struct hpl_call *call, struct hpl_store *store, const char *id, uint32_t after, hpl_part_fn fn, void *arg) HPL_MUST_USE;
typedef bool (*hpl_upload_fn)(void *arg, const struct hpl_upload *upload);
/* By key, then id, after (key_marker, id_marker). */
enum hpl_status hpl_store_list_uploads(struct hpl_call *call, struct hpl_store *store, const char *bucket, const char *prefix, const char *key_marker,
                                       const char *id_marker, hpl_upload_fn fn, void *arg) HPL_MUST_USE;

#endif
