/* The object store by itself: does it keep what it acknowledged, whoever else is at work? */
#include "tests/test.h"

#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <sqlite3.h>

#include "s3/store.h"

#define UPLOAD "000102030405060708090a0b0c0d0e0f"

static struct hpl_store *opened(const char *name, char path[static 400])
{
    struct hpl_store *store = NULL;
    snprintf(path, 400, "%s/%s", hpl_test_dir(), name);
    EXPECT_OK(hpl_store_open(NULL, &store, path));
    EXPECT_OK(hpl_store_create_bucket(NULL, store, "bucket"));
    return store;
}

static struct hpl_store_file written(struct hpl_store *store, const char *text)
{
    struct hpl_store_file file;
    EXPECT_OK(hpl_store_create_file(NULL, store, &file));
    EXPECT_OK(hpl_store_append(NULL, &file, text, strlen(text)));
    EXPECT_OK(hpl_store_finish_file(NULL, store, &file));
    return file;
}

static struct hpl_object object_of(const char *key, uint8_t instance)
{
    struct hpl_object object = {.bucket = "bucket", .size = 3, .modified_ms = 1, .instance = {instance}};
    snprintf(object.key, sizeof object.key, "%s", key);
    return object;
}

static enum hpl_status put(struct hpl_store *store, const char *key, uint8_t instance, const uint8_t file[static HPL_FILE_ID_LEN], const char *upload, bool must_be_new)
{
    const struct hpl_object object = object_of(key, instance);
    return hpl_store_put_object(NULL, store, &object, (const uint8_t (*)[HPL_FILE_ID_LEN])file, 1, upload, must_be_new);
}

static void create_upload(struct hpl_store *store)
{
    struct hpl_upload upload = {.id = UPLOAD, .bucket = "bucket", .key = "parts", .created_ms = 1};
    EXPECT_OK(hpl_store_create_upload(NULL, store, &upload));
}

static void put_part(struct hpl_store *store, uint32_t number, const struct hpl_store_file *file)
{
    struct hpl_upload_part part = {.number = number, .modified_ms = 1};
    memcpy(part.file, file->id, sizeof part.file);
    EXPECT_OK(hpl_store_put_part(NULL, store, UPLOAD, &part));
}

static size_t num_files(const char *path)
{
    size_t count = 0;
    for (unsigned i = 0; i < 256; i++) {
        char folder[500];
        snprintf(folder, sizeof folder, "%s/objects/%02x", path, i);
        DIR *dir = opendir(folder);
        EXPECT(dir != NULL);
        for (struct dirent *entry; (entry = readdir(dir));)
            count += entry->d_name[0] != '.';
        closedir(dir);
    }
    return count;
}

static bool can_open(struct hpl_store *store, const uint8_t id[static HPL_FILE_ID_LEN])
{
    int fd = -1;
    if (hpl_store_open_file(NULL, store, id, &fd) != HPL_OK)
        return false;
    close(fd);
    return true;
}

/* --- parts ----------------------------------------------------------------------------------------------------------------- */

HPL_TEST(a_part_that_was_replaced_after_it_was_listed_completes_nothing)
{
    char path[400];
    struct hpl_store *store = opened("replaced", path);
    struct hpl_upload upload;
    create_upload(store);
    struct hpl_store_file old = written(store, "old"), new = written(store, "new");
    put_part(store, 1, &old);
    put_part(store, 1, &new); /* between a completion's listing and its commit */
    EXPECT_STATUS(put(store, "parts", 1, old.id, UPLOAD, false), HPL_INVALID_PART);
    EXPECT_OK(hpl_store_get_upload(NULL, store, UPLOAD, "bucket", "parts", &upload));
    hpl_upload_wipe(&upload);
    EXPECT(can_open(store, new.id) && !can_open(store, old.id));
    EXPECT_OK(put(store, "parts", 1, new.id, UPLOAD, false));
    EXPECT(can_open(store, new.id));
    EXPECT_STATUS(put(store, "parts", 1, new.id, UPLOAD, false), HPL_NO_SUCH_UPLOAD);
    EXPECT(can_open(store, new.id));
    hpl_store_close(store);
}

HPL_TEST(an_upload_leaves_only_the_parts_that_its_object_took)
{
    char path[400];
    struct hpl_store *store = opened("left-over", path);
    create_upload(store);
    struct hpl_store_file one = written(store, "one"), two = written(store, "two");
    put_part(store, 1, &one);
    put_part(store, 2, &two);
    EXPECT_OK(put(store, "parts", 1, two.id, UPLOAD, false));
    EXPECT(can_open(store, two.id) && !can_open(store, one.id));
    EXPECT_NUM(num_files(path), 1);
    hpl_store_close(store);
}

/* --- names ----------------------------------------------------------------------------------------------------------------- */

HPL_TEST(an_object_that_must_be_new_replaces_none)
{
    char path[400];
    struct hpl_store *store = opened("new", path);
    struct hpl_store_file first = written(store, "one"), second = written(store, "two");
    EXPECT_OK(put(store, "k", 1, first.id, NULL, true));
    EXPECT_STATUS(put(store, "k", 2, second.id, NULL, true), HPL_PRECONDITION_FAILED);
    EXPECT(can_open(store, first.id));
    create_upload(store);
    put_part(store, 1, &second);
    EXPECT_STATUS(put(store, "k", 3, second.id, UPLOAD, true), HPL_PRECONDITION_FAILED);
    EXPECT_OK(put(store, "other", 3, second.id, UPLOAD, true));
    hpl_store_close(store);
}

/* --- garbage --------------------------------------------------------------------------------------------------------------- */

HPL_TEST(what_was_replaced_stays_while_it_is_read_and_goes_then)
{
    char path[400];
    struct hpl_store *store = opened("pinned", path);
    struct hpl_object object;
    struct hpl_store_file old = written(store, "old"), new = written(store, "new");
    EXPECT_OK(put(store, "k", 1, old.id, NULL, false));
    EXPECT_OK(hpl_store_get_object(NULL, store, "bucket", "k", true, &object, NULL, NULL));
    EXPECT_OK(put(store, "k", 2, new.id, NULL, false));
    EXPECT(can_open(store, old.id));
    hpl_store_unpin(store, object.instance);
    EXPECT(!can_open(store, old.id) && can_open(store, new.id));
    hpl_object_wipe(&object);
    hpl_store_close(store);
}

HPL_TEST(what_was_deleted_is_gone_and_stays_so_when_opened_again)
{
    char path[400];
    struct hpl_store *store = opened("deleted", path);
    struct hpl_store_file kept = written(store, "kept");
    EXPECT_OK(put(store, "kept", 100, kept.id, NULL, false));
    for (uint8_t i = 1; i < 20; i++) {
        struct hpl_store_file file = written(store, "x");
        EXPECT_OK(put(store, "k", i, file.id, NULL, false));
    }
    EXPECT_NUM(num_files(path), 2);
    EXPECT_OK(hpl_store_delete_object(NULL, store, "bucket", "k"));
    EXPECT_NUM(num_files(path), 1);
    hpl_store_close(store);
    EXPECT_OK(hpl_store_open(NULL, &store, path));
    EXPECT(can_open(store, kept.id));
    EXPECT_NUM(num_files(path), 1);
    hpl_store_close(store);
}

HPL_TEST(a_second_store_in_the_folder_is_refused_and_takes_nothing)
{
    char path[400];
    struct hpl_store *store = opened("shared", path), *second = NULL;
    struct hpl_store_file unnamed = written(store, "synced, and not yet in the index");
    EXPECT_STATUS(hpl_store_open(NULL, &second, path), HPL_CONFLICT);
    EXPECT(second == NULL);
    EXPECT(can_open(store, unnamed.id));
    EXPECT_OK(put(store, "k", 1, unnamed.id, NULL, false));
    hpl_store_close(store);
    EXPECT_OK(hpl_store_open(NULL, &store, path));
    EXPECT(can_open(store, unnamed.id));
    hpl_store_close(store);
}

static int num_garbage(const char *path)
{
    char index[420];
    sqlite3 *db;
    sqlite3_stmt *statement = NULL;
    snprintf(index, sizeof index, "%s/index.db", path);
    EXPECT(sqlite3_open(index, &db) == SQLITE_OK && sqlite3_prepare_v2(db, "SELECT count(*) FROM garbage", -1, &statement, NULL) == SQLITE_OK);
    EXPECT(sqlite3_step(statement) == SQLITE_ROW);
    int count = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return count;
}

HPL_TEST(what_is_unlinked_leaves_the_index_with_the_next_change_or_after_the_next_opening)
{
    char path[400];
    struct hpl_store *store = opened("forgotten", path);
    struct hpl_store_file first = written(store, "one"), second = written(store, "two");
    EXPECT_OK(put(store, "k", 1, first.id, NULL, false));
    EXPECT_OK(put(store, "k", 2, second.id, NULL, false));
    EXPECT(!can_open(store, first.id));
    EXPECT_NUM(num_garbage(path), 1); /* no sync of its own */
    EXPECT_OK(hpl_store_delete_object(NULL, store, "bucket", "nothing"));
    EXPECT_NUM(num_garbage(path), 0);
    EXPECT_OK(hpl_store_delete_object(NULL, store, "bucket", "k"));
    hpl_store_close(store);
    EXPECT_OK(hpl_store_open(NULL, &store, path));
    EXPECT_OK(hpl_store_delete_object(NULL, store, "bucket", "nothing"));
    EXPECT_NUM(num_garbage(path), 0);
    EXPECT_NUM(num_files(path), 0);
    hpl_store_close(store);
}

static void *overwrite(void *arg)
{
    struct hpl_store *store = arg;
    static _Atomic uint8_t next = 1;
    for (int i = 0; i < 20; i++) {
        struct hpl_object object;
        struct hpl_store_file file = written(store, "x");
        uint8_t (*files)[HPL_FILE_ID_LEN];
        size_t count;
        EXPECT_OK(put(store, "k", next++, file.id, NULL, false));
        EXPECT_OK(hpl_store_get_object(NULL, store, "bucket", "k", true, &object, &files, &count));
        EXPECT(count == 1 && can_open(store, files[0]));
        hpl_store_unpin(store, object.instance);
        hpl_object_wipe(&object);
        free(files);
    }
    return NULL;
}

HPL_TEST(writers_and_readers_of_one_name_never_miss_a_file_and_leave_one)
{
    char path[400];
    pthread_t threads[4];
    struct hpl_store *store = opened("many", path);
    for (size_t i = 0; i < 4; i++)
        EXPECT(pthread_create(&threads[i], NULL, overwrite, store) == 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    EXPECT_NUM(num_files(path), 1);
    hpl_store_close(store);
}

/* --- listings -------------------------------------------------------------------------------------------------------------- */

struct seen {
    struct hpl_store *store;
    size_t count;
    bool was_held; /* the store let nobody in while the callback ran */
};

static void *look(void *arg)
{
    EXPECT_OK(hpl_store_find_bucket(NULL, arg, "bucket"));
    return NULL;
}

/* Another thread asks the store; when it has to wait for this one, it is let go on afterwards. */
static void ask_meanwhile(struct seen *seen)
{
    static pthread_t thread;
    struct timespec until;
    if (seen->count++ || seen->was_held)
        return;
    EXPECT(pthread_create(&thread, NULL, look, seen->store) == 0);
    clock_gettime(CLOCK_REALTIME, &until); /* ThreadSanitizer does not know pthread_clockjoin_np */
    until.tv_sec += 60;
    seen->was_held = pthread_timedjoin_np(thread, NULL, &until) != 0;
    if (seen->was_held)
        pthread_detach(thread);
}

static bool see_object(void *arg, const struct hpl_object *object, char *skip_to)
{
    struct seen *seen = arg;
    ask_meanwhile(seen);
    if (strncmp(object->key, "group/", 6) == 0)
        snprintf(skip_to, HPL_OBJECT_KEY_MAX + 2, "group/\xff");
    return true;
}

static bool see_part(void *arg, const struct hpl_upload_part *part)
{
    struct seen *seen = arg;
    ask_meanwhile(seen);
    return part->number == seen->count;
}

HPL_TEST(a_listing_gives_every_object_once_and_holds_nobody_up)
{
    char path[400], key[40];
    struct hpl_store *store = opened("listed", path);
    for (unsigned i = 0; i < 300; i++) {
        struct hpl_object object = object_of("", 1);
        object.instance[1] = (uint8_t)i;
        object.instance[2] = (uint8_t)(i >> 8);
        snprintf(key, sizeof key, i % 2 ? "group/%u" : "k/%04u", i);
        snprintf(object.key, sizeof object.key, "%s", key);
        EXPECT_OK(hpl_store_put_object(NULL, store, &object, NULL, 0, NULL, false));
    }
    struct seen seen = {.store = store};
    EXPECT_OK(hpl_store_list_objects(NULL, store, "bucket", "", NULL, see_object, &seen));
    EXPECT_NUM(seen.count, 150 + 1);
    EXPECT(!seen.was_held);
    seen = (struct seen){.store = store};
    EXPECT_OK(hpl_store_list_objects(NULL, store, "bucket", "k/01", "k/0150", see_object, &seen));
    EXPECT_NUM(seen.count, 24);
    hpl_store_close(store);
}

static bool see_two(void *arg, const struct hpl_object *object, char *skip_to)
{
    (void)object, (void)skip_to;
    return ++*(unsigned *)arg < 2;
}

static bool see_all(void *arg, const struct hpl_object *object, char *skip_to)
{
    (void)object, (void)skip_to;
    ++*(unsigned *)arg;
    return true;
}

HPL_TEST(a_damaged_row_harms_only_listings_that_get_to_it)
{
    char path[400], index[420];
    unsigned count = 0;
    sqlite3 *db;
    struct hpl_store *store = opened("damaged", path);
    for (uint8_t i = 1; i <= 4; i++) {
        struct hpl_object object = object_of((const char[]){(char)('a' + i), '\0'}, i);
        EXPECT_OK(hpl_store_put_object(NULL, store, &object, NULL, 0, NULL, false));
    }
    snprintf(index, sizeof index, "%s/index.db", path);
    EXPECT_NUM(sqlite3_open(index, &db), SQLITE_OK);
    EXPECT_NUM(sqlite3_exec(db, "UPDATE objects SET instance = x'00' WHERE CAST(key AS TEXT) = 'd'", NULL, NULL, NULL), SQLITE_OK);
    EXPECT_NUM(sqlite3_close(db), SQLITE_OK);
    EXPECT_OK(hpl_store_list_objects(NULL, store, "bucket", "", NULL, see_two, &count));
    EXPECT_NUM(count, 2);
    EXPECT_STATUS(hpl_store_list_objects(NULL, store, "bucket", "", NULL, see_all, &count), HPL_INTEGRITY);
    EXPECT_NUM(count, 4);
    EXPECT_OK(hpl_store_list_objects(NULL, store, "bucket", "", "d", see_all, &count));
    EXPECT_NUM(count, 5);
    hpl_store_close(store);
}

HPL_TEST(a_listing_of_parts_gives_each_in_order_and_holds_nobody_up)
{
    char path[400];
    struct hpl_store *store = opened("parts", path);
    create_upload(store);
    for (uint32_t i = 1; i <= 300; i++) {
        struct hpl_store_file file = {.id = {1, (uint8_t)i, (uint8_t)(i >> 8)}};
        put_part(store, i, &file);
    }
    struct seen seen = {.store = store};
    EXPECT_OK(hpl_store_list_parts(NULL, store, UPLOAD, 0, see_part, &seen));
    EXPECT_NUM(seen.count, 300);
    EXPECT(!seen.was_held);
    hpl_store_close(store);
}
