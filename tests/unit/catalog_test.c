/* Does the catalog keep what it says, refuse what it did not write, and lose nothing it acknowledged? */
#include "tests/test.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <sqlite3.h>

#include "catalog/catalog.h"

struct place {
    char path[300];
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
};

static struct hpl_call call;

static void open_again(struct place *place)
{
    EXPECT_OK(hpl_catalog_open(&call, &place->catalog, place->path, place->root));
}

static void close_catalog(struct place *place)
{
    hpl_catalog_close(place->catalog);
    place->catalog = NULL;
}

static void new_path(struct place *place)
{
    static const char *dir;
    static unsigned number;
    dir = dir ? dir : hpl_test_dir();
    snprintf(place->path, sizeof place->path, "%s/%u.db", dir, number++);
}

static struct place fresh(void)
{
    struct place place = {.root = hpl_secret_random(32)};
    call = (struct hpl_call){0};
    new_path(&place);
    EXPECT(place.root != NULL);
    open_again(&place);
    return place;
}

static void leave(struct place *place)
{
    close_catalog(place);
    hpl_secret_free(place->root);
}

static enum hpl_status put(struct place *place, const char *type, const char *name, uint64_t expected, const char *content)
{
    call = (struct hpl_call){0};
    return hpl_catalog_put(&call, place->catalog, type, name, expected, hpl_bytes_str(content), NULL);
}

static enum hpl_status get(struct place *place, const char *type, const char *name, char content[static 200], uint64_t *revision)
{
    struct hpl_buf buf = {0};
    call = (struct hpl_call){0};
    enum hpl_status status = hpl_catalog_get(&call, place->catalog, type, name, &buf, revision);
    snprintf(content, 200, "%.*s", (int)buf.len, buf.len ? (const char *)buf.data : "");
    hpl_buf_wipe(&buf);
    return status;
}

/* What somebody who may write the file can do to it. */
static void tamper(const struct place *place, const char *sql, int changes)
{
    sqlite3 *db;
    char *why = NULL;
    EXPECT_NUM(sqlite3_open(place->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &why) != SQLITE_OK)
        fprintf(stderr, "%s: %s\n", sql, why);
    EXPECT(why == NULL);
    EXPECT_NUM(sqlite3_changes(db), changes);
    sqlite3_close(db);
}

static enum hpl_status try_open(struct place *place)
{
    call = (struct hpl_call){0};
    return hpl_catalog_open(&call, &place->catalog, place->path, place->root);
}

static void expect_detail(const char *part)
{
    if (!strstr(call.detail, part))
        fprintf(stderr, "\n    detail '%s' does not tell '%s'\n", call.detail, part);
    EXPECT(strstr(call.detail, part) != NULL);
}

/* --- compare-and-swap ---------------------------------------------------------------------------------------------------- */

HPL_TEST(a_row_comes_back_with_its_revision)
{
    struct place place = fresh();
    char content[200];
    uint64_t revision = 0;
    EXPECT_STATUS(get(&place, "key", "a", content, &revision), HPL_NOT_FOUND);
    EXPECT_OK(hpl_catalog_put(&call, place.catalog, "key", "a", 0, hpl_bytes_str("one"), &revision));
    EXPECT_NUM(revision, 1);
    EXPECT_OK(hpl_catalog_put(&call, place.catalog, "key", "a", 1, hpl_bytes_str("two"), &revision));
    EXPECT_NUM(revision, 2);
    EXPECT_OK(get(&place, "key", "a", content, &revision));
    EXPECT_TEXT(content, "two");
    EXPECT_NUM(revision, 2);
    EXPECT_OK(put(&place, "key", "empty", 0, ""));
    EXPECT_OK(get(&place, "key", "empty", content, &revision));
    EXPECT_TEXT(content, "");
    leave(&place);
}

HPL_TEST(a_write_on_another_revision_changes_nothing)
{
    struct place place = fresh();
    char content[200];
    uint64_t revision;
    EXPECT_STATUS(put(&place, "key", "a", 1, "never"), HPL_STALE);
    EXPECT_OK(put(&place, "key", "a", 0, "one"));
    EXPECT_STATUS(put(&place, "key", "a", 0, "again"), HPL_STALE);
    EXPECT_STATUS(put(&place, "key", "a", 2, "ahead"), HPL_STALE);
    EXPECT_STATUS(put(&place, "key", "a", UINT64_MAX, "wrapped"), HPL_STALE);
    EXPECT_STATUS(hpl_catalog_delete(&call, place.catalog, "key", "a", 2), HPL_STALE);
    EXPECT_STATUS(hpl_catalog_delete(&call, place.catalog, "key", "b", 1), HPL_STALE);
    EXPECT_OK(get(&place, "key", "a", content, &revision));
    EXPECT_TEXT(content, "one");
    EXPECT_NUM(revision, 1);
    EXPECT_OK(hpl_catalog_delete(&call, place.catalog, "key", "a", 1));
    EXPECT_STATUS(get(&place, "key", "a", content, &revision), HPL_NOT_FOUND);
    close_catalog(&place);
    open_again(&place);
    leave(&place);
}

HPL_TEST(a_name_that_is_too_long_is_refused)
{
    struct place place = fresh();
    char name[1026], content[200];
    uint64_t revision;
    memset(name, 'n', sizeof name);
    name[1025] = '\0';
    EXPECT_STATUS(put(&place, "key", name, 0, "x"), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(get(&place, "key", name, content, &revision), HPL_NOT_FOUND);
    EXPECT_OK(put(&place, "key", name + 1, 0, "x"));
    EXPECT_OK(get(&place, "key", name + 1, content, &revision));
    leave(&place);
}

struct names {
    char text[200];
    unsigned num_bad, most;
};

static bool note(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct names *names = arg;
    (void)revision;
    size_t len = strlen(names->text);
    snprintf(names->text + len, sizeof names->text - len, "%s=%.*s ", name, (int)content.len, content.len ? (const char *)content.data : "");
    names->num_bad += status != HPL_OK;
    return !names->most || --names->most > 0;
}

HPL_TEST(a_listing_is_in_byte_order_after_a_name_up_to_a_limit)
{
    struct place place = fresh();
    struct names names = {0};
    EXPECT_OK(put(&place, "key", "b", 0, "2"));
    EXPECT_OK(put(&place, "key", "a", 0, "1"));
    EXPECT_OK(put(&place, "key", "\xc3\xa9", 0, "5"));
    EXPECT_OK(put(&place, "key", "Z", 0, "0"));
    EXPECT_OK(put(&place, "other", "c", 0, "x"));
    EXPECT_OK(hpl_catalog_list(&call, place.catalog, "key", NULL, 100, note, &names));
    EXPECT_TEXT(names.text, "Z=0 a=1 b=2 \xc3\xa9=5 ");
    names = (struct names){0};
    EXPECT_OK(hpl_catalog_list(&call, place.catalog, "key", "a", 1, note, &names));
    EXPECT_TEXT(names.text, "b=2 ");
    names = (struct names){.most = 2};
    EXPECT_OK(hpl_catalog_list(&call, place.catalog, "key", NULL, SIZE_MAX, note, &names));
    EXPECT_TEXT(names.text, "Z=0 a=1 ");
    leave(&place);
}

/* --- the file ------------------------------------------------------------------------------------------------------------ */

HPL_TEST(the_file_is_for_its_owner_alone_and_keeps_its_deployment)
{
    mode_t before = umask(0);
    struct place place = fresh();
    struct stat st;
    uint8_t deployment[16], zero[16] = {0};
    char wal[320];
    umask(before);
    memcpy(deployment, hpl_catalog_deployment(place.catalog), sizeof deployment);
    EXPECT(memcmp(deployment, zero, sizeof zero) != 0);
    EXPECT_OK(put(&place, "key", "a", 0, "one"));
    snprintf(wal, sizeof wal, "%s-wal", place.path);
    EXPECT_NUM(stat(place.path, &st), 0);
    EXPECT_NUM(st.st_mode & 0777, 0600);
    EXPECT_NUM(stat(wal, &st), 0);
    EXPECT_NUM(st.st_mode & 0777, 0600);
    close_catalog(&place);
    EXPECT_NUM(chmod(place.path, 0644), 0);
    open_again(&place);
    EXPECT_NUM(stat(place.path, &st), 0);
    EXPECT_NUM(st.st_mode & 0777, 0600);
    EXPECT_BYTES(hpl_catalog_deployment(place.catalog), deployment, 16);
    leave(&place);
}

/* The files as a process that ends without closing leaves them. */
static void copy_as_killed(struct place *place)
{
    char command[1400], path[300];
    snprintf(path, sizeof path, "%.290s.killed", place->path);
    snprintf(command, sizeof command, "cp %s %s && cp %s-wal %s-wal", place->path, path, place->path, path);
    EXPECT_NUM(system(command), 0);
    close_catalog(place);
    memcpy(place->path, path, sizeof path);
}

HPL_TEST(what_was_acknowledged_outlives_a_killed_process)
{
    struct place place = fresh();
    char content[200];
    uint64_t revision;
    EXPECT_OK(put(&place, "key", "a", 0, "one"));
    copy_as_killed(&place);
    open_again(&place);
    EXPECT_OK(get(&place, "key", "a", content, &revision));
    EXPECT_TEXT(content, "one");
    leave(&place);
}

HPL_TEST(another_root_secret_does_not_fit)
{
    struct place place = fresh();
    struct hpl_secret *right = place.root, *wrong = hpl_secret_random(32);
    EXPECT_OK(put(&place, "key", "a", 0, "one"));
    close_catalog(&place);
    place.root = wrong;
    EXPECT_STATUS(try_open(&place), HPL_INVALID_CONFIGURATION);
    expect_detail("the root secret does not fit");
    EXPECT(place.catalog == NULL);
    place.root = right;
    open_again(&place);
    hpl_secret_free(wrong);
    leave(&place);
}

HPL_TEST(a_file_that_is_no_catalog_is_refused)
{
    struct place place = fresh();
    close_catalog(&place);
    FILE *file = fopen(place.path, "w");
    EXPECT(file != NULL);
    for (int i = 0; i < 2000; i++)
        fputs("not a catalog\n", file);
    fclose(file);
    EXPECT_STATUS(try_open(&place), HPL_INTEGRITY);
    EXPECT_NUM(unlink(place.path), 0);
    EXPECT_NUM(mkdir(place.path, 0700), 0);
    EXPECT_STATUS(try_open(&place), HPL_INVALID_CONFIGURATION);
    leave(&place);
}

/* --- whoever may write the file ------------------------------------------------------------------------------------------ */

static struct place three_rows(void)
{
    struct place place = fresh();
    EXPECT_OK(put(&place, "key", "a", 0, "first"));
    EXPECT_OK(put(&place, "key", "a", 1, "second"));
    EXPECT_OK(put(&place, "key", "b", 0, "beside"));
    EXPECT_OK(put(&place, "credential", "root", 0, "admin"));
    return place;
}

static void refuses_to_open(const char *sql, int changes, const char *names)
{
    struct place place = three_rows();
    close_catalog(&place);
    tamper(&place, sql, changes);
    EXPECT_STATUS(try_open(&place), HPL_INTEGRITY);
    expect_detail(names);
    leave(&place);
}

HPL_TEST(a_row_taken_away_brought_in_renamed_or_marked_is_found_at_open)
{
    refuses_to_open("DELETE FROM rows WHERE name = 'b'", 1, "1 of the catalog's 3 rows");
    refuses_to_open("DELETE FROM rows", 3, "3 of the catalog's 3 rows");
    refuses_to_open("INSERT INTO rows SELECT type, 'c', revision, content, mac FROM rows WHERE name = 'b'", 1, "key 'c'");
    refuses_to_open("UPDATE rows SET name = 'c' WHERE name = 'b'", 1, "key 'c'");
    refuses_to_open("UPDATE rows SET name = CAST(x'6200' AS TEXT) WHERE name = 'b'", 1, "key '?'");
    refuses_to_open("UPDATE rows SET type = 'policy' WHERE name = 'b'", 1, "policy 'b'");
    refuses_to_open("UPDATE rows SET mac = zeroblob(32) WHERE name = 'b'", 1, "key 'b'");
    refuses_to_open("UPDATE rows SET mac = x'00' WHERE name = 'b'", 1, "key 'b'");
    refuses_to_open("UPDATE rows SET mac = x'' WHERE name = 'b'", 1, "key 'b'");
    refuses_to_open("UPDATE rows SET (content, mac) = (SELECT content, mac FROM rows WHERE name = 'a') WHERE name = 'b'", 1, "key 'b'");
    refuses_to_open("UPDATE rows SET mac = (SELECT mac FROM rows WHERE name = 'a') WHERE name = 'b'", 1, "key 'b'");
}

HPL_TEST(a_changed_head_is_found_at_open)
{
    refuses_to_open("DELETE FROM head", 1, "head was taken away");
    refuses_to_open("UPDATE head SET generation = generation - 1", 1, "head does not verify");
    refuses_to_open("UPDATE head SET num_rows = num_rows + 1", 1, "head does not verify");
    refuses_to_open("UPDATE head SET nonce = zeroblob(32)", 1, "head does not verify");
    refuses_to_open("UPDATE head SET masked = zeroblob(32)", 1, "head does not verify");
    refuses_to_open("UPDATE head SET mac = zeroblob(32)", 1, "head does not verify");
    refuses_to_open("UPDATE head SET mac = x'00'", 1, "head does not verify");
    refuses_to_open("UPDATE deployment SET id = x'00'", 1, "deployment id is damaged");
    refuses_to_open("DELETE FROM deployment", 1, "does not verify");
}

HPL_TEST(another_deployment_id_makes_the_root_unfit)
{
    struct place place = three_rows();
    close_catalog(&place);
    tamper(&place, "UPDATE deployment SET id = zeroblob(16)", 1);
    EXPECT_STATUS(try_open(&place), HPL_INVALID_CONFIGURATION);
    leave(&place);
}

static void save_row_a(const struct place *place)
{
    tamper(place, "CREATE TABLE old AS SELECT * FROM rows WHERE name = 'a'", 0);
}

HPL_TEST(a_row_rolled_back_alone_is_found_at_open)
{
    struct place place = three_rows();
    close_catalog(&place);
    save_row_a(&place);
    open_again(&place);
    EXPECT_OK(put(&place, "key", "a", 2, "disabled"));
    close_catalog(&place);
    tamper(&place, "INSERT OR REPLACE INTO rows SELECT * FROM old", 1);
    EXPECT_STATUS(try_open(&place), HPL_INTEGRITY);
    expect_detail("rolled back or exchanged");
    leave(&place);
}

HPL_TEST(a_deleted_row_brought_back_is_found_at_open)
{
    struct place place = three_rows();
    close_catalog(&place);
    save_row_a(&place);
    open_again(&place);
    EXPECT_OK(hpl_catalog_delete(&call, place.catalog, "key", "a", 2));
    close_catalog(&place);
    tamper(&place, "INSERT INTO rows SELECT * FROM old", 1);
    EXPECT_STATUS(try_open(&place), HPL_INTEGRITY);
    expect_detail("1 rows were brought into the catalog of 2");
    leave(&place);
}

/* A row whose name and MAC still stand harms only itself; one that was rolled back under our feet is found at the next open. */
static void harms_itself_alone(const char *sql)
{
    struct place place = three_rows();
    struct names names = {0};
    char content[200];
    uint64_t revision;
    close_catalog(&place);
    tamper(&place, sql, 1);
    open_again(&place);
    EXPECT_STATUS(get(&place, "key", "b", content, &revision), HPL_INTEGRITY);
    expect_detail("key 'b'");
    EXPECT_TEXT(content, "");
    EXPECT_OK(get(&place, "key", "a", content, &revision));
    EXPECT_STATUS(put(&place, "key", "b", 1, "over"), HPL_INTEGRITY);
    EXPECT_OK(put(&place, "key", "a", 2, "third"));
    EXPECT_OK(hpl_catalog_list(&call, place.catalog, "key", NULL, 10, note, &names));
    EXPECT_TEXT(names.text, "a=third b= ");
    EXPECT_NUM(names.num_bad, 1);
    leave(&place);
}

HPL_TEST(a_row_with_other_content_or_revision_harms_only_itself)
{
    harms_itself_alone("UPDATE rows SET content = x'62657369646500' WHERE name = 'b'");
    harms_itself_alone("UPDATE rows SET content = 'besidE' WHERE name = 'b'");
    harms_itself_alone("UPDATE rows SET revision = 2 WHERE name = 'b'");
}

HPL_TEST(a_write_upon_a_rolled_back_row_does_not_heal_the_head)
{
    struct place place = three_rows();
    close_catalog(&place);
    save_row_a(&place);
    open_again(&place);
    EXPECT_OK(put(&place, "key", "a", 2, "disabled"));
    tamper(&place, "INSERT OR REPLACE INTO rows SELECT * FROM old", 1);
    EXPECT_OK(put(&place, "key", "a", 2, "written upon the old one"));
    close_catalog(&place);
    EXPECT_STATUS(try_open(&place), HPL_INTEGRITY);
    leave(&place);
}

HPL_TEST(a_trigger_in_the_file_is_not_run)
{
    struct place place = three_rows();
    char content[200];
    uint64_t revision;
    close_catalog(&place);
    tamper(&place, "CREATE TRIGGER evil AFTER INSERT ON rows BEGIN DELETE FROM rows WHERE name = 'b'; END", 0);
    open_again(&place);
    EXPECT_OK(put(&place, "key", "c", 0, "x"));
    EXPECT_OK(get(&place, "key", "b", content, &revision));
    leave(&place);
}

/* --- more than one ------------------------------------------------------------------------------------------------------- */

#define NUM_RACES 60

struct racer {
    struct hpl_catalog *catalog;
    unsigned num_stale;
};

static void *race(void *arg)
{
    struct racer *racer = arg;
    for (unsigned i = 0; i < NUM_RACES;) {
        struct hpl_call own = {0};
        struct hpl_buf content = {0};
        uint64_t revision = 0;
        char next[24];
        enum hpl_status status = hpl_catalog_get(&own, racer->catalog, "counter", "n", &content, &revision);
        HPL_CHECK(status == HPL_OK || status == HPL_NOT_FOUND);
        snprintf(next, sizeof next, "%d", status == HPL_OK ? atoi(hpl_buf_text(&content)) + 1 : 1);
        hpl_buf_wipe(&content);
        status = hpl_catalog_put(&own, racer->catalog, "counter", "n", revision, hpl_bytes_str(next), NULL);
        HPL_CHECK(status == HPL_OK || status == HPL_STALE);
        racer->num_stale += status == HPL_STALE;
        i += status == HPL_OK;
    }
    return NULL;
}

HPL_TEST(no_update_is_lost_between_threads_and_connections)
{
    struct place place = fresh();
    struct hpl_catalog *other;
    char content[200];
    uint64_t revision;
    EXPECT_OK(hpl_catalog_open(&call, &other, place.path, place.root));
    struct racer racers[4] = {{place.catalog}, {place.catalog}, {other}, {other}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    EXPECT_OK(get(&place, "counter", "n", content, &revision));
    EXPECT_NUM(atoi(content), 4 * NUM_RACES);
    EXPECT_NUM(revision, 4 * NUM_RACES);
    hpl_catalog_close(other);
    close_catalog(&place);
    open_again(&place);
    leave(&place);
}

struct opener {
    const struct place *place;
    struct hpl_catalog *catalog;
    enum hpl_status status;
};

static void *open_one(void *arg)
{
    struct opener *opener = arg;
    struct hpl_call own = {0};
    opener->status = hpl_catalog_open(&own, &opener->catalog, opener->place->path, opener->place->root);
    return NULL;
}

HPL_TEST(several_that_make_the_same_catalog_at_once_agree)
{
    for (int round = 0; round < 5; round++) {
        struct place place = {.root = hpl_secret_random(32)};
        struct opener openers[4];
        pthread_t threads[4];
        new_path(&place);
        for (int i = 0; i < 4; i++) {
            openers[i] = (struct opener){.place = &place};
            EXPECT_NUM(pthread_create(&threads[i], NULL, open_one, &openers[i]), 0);
        }
        for (int i = 0; i < 4; i++)
            pthread_join(threads[i], NULL);
        for (int i = 0; i < 4; i++) {
            EXPECT_OK(openers[i].status);
            EXPECT_BYTES(hpl_catalog_deployment(openers[i].catalog), hpl_catalog_deployment(openers[0].catalog), 16);
        }
        for (int i = 0; i < 4; i++)
            hpl_catalog_close(openers[i].catalog);
        hpl_secret_free(place.root);
    }
}

/* --- a full disk --------------------------------------------------------------------------------------------------------- */

/* SQLite's own files with another write in front; it has one method table for databases and one for their logs. */
struct shim {
    sqlite3_io_methods methods;
    const sqlite3_io_methods *real;
};

static bool is_disk_full;
static struct shim shims[4];
static int (*real_open)(sqlite3_vfs *, const char *, sqlite3_file *, int, int *);

static int write_or_full(sqlite3_file *file, const void *data, int len, sqlite3_int64 at)
{
    const struct shim *shim = (const struct shim *)file->pMethods;
    return is_disk_full ? SQLITE_FULL : shim->real->xWrite(file, data, len, at);
}

static int open_with_full(sqlite3_vfs *vfs, const char *path, sqlite3_file *file, int flags, int *out)
{
    int code = real_open(vfs, path, file, flags, out);
    for (size_t i = 0; code == SQLITE_OK && file->pMethods && i < HPL_COUNT(shims); i++) {
        if (shims[i].real && shims[i].real != file->pMethods)
            continue;
        shims[i] = (struct shim){*file->pMethods, file->pMethods};
        shims[i].methods.xWrite = write_or_full;
        file->pMethods = &shims[i].methods;
        break;
    }
    return code;
}

HPL_TEST(a_full_disk_changes_nothing_and_says_so)
{
    static sqlite3_vfs vfs;
    sqlite3_vfs *usual = sqlite3_vfs_find(NULL);
    char content[200];
    uint64_t revision;
    vfs = *usual;
    vfs.zName = "full";
    real_open = usual->xOpen;
    vfs.xOpen = open_with_full;
    EXPECT_NUM(sqlite3_vfs_register(&vfs, 1), SQLITE_OK);
    struct place place = fresh();
    EXPECT_OK(put(&place, "key", "a", 0, "one"));
    is_disk_full = true;
    EXPECT_STATUS(put(&place, "key", "a", 1, "two"), HPL_NO_SPACE);
    EXPECT_OK(get(&place, "key", "a", content, &revision));
    EXPECT_TEXT(content, "one");
    is_disk_full = false;
    EXPECT_OK(put(&place, "key", "a", 1, "two"));
    close_catalog(&place);
    sqlite3_vfs_register(usual, 1);
    sqlite3_vfs_unregister(&vfs);
    open_again(&place);
    EXPECT_OK(get(&place, "key", "a", content, &revision));
    EXPECT_TEXT(content, "two");
    leave(&place);
}

/* --- sealing ------------------------------------------------------------------------------------------------------------- */

HPL_TEST(a_sealed_secret_opens_under_its_label_and_root_alone)
{
    struct place place = fresh(), other = fresh();
    struct hpl_secret *secret = hpl_secret_from("a small secret", 14), *opened = NULL;
    struct hpl_buf sealed = {0}, again = {0};
    EXPECT_OK(hpl_catalog_seal(&call, place.catalog, "one", secret, &sealed));
    EXPECT_OK(hpl_catalog_seal(&call, place.catalog, "one", secret, &again));
    EXPECT(!hpl_bytes_equal(hpl_buf_bytes(&sealed), hpl_buf_bytes(&again)));
    EXPECT_OK(hpl_catalog_unseal(&call, place.catalog, "one", hpl_buf_bytes(&sealed), &opened));
    EXPECT_NUM(opened->len, 14);
    EXPECT_BYTES(opened->bytes, "a small secret", 14);
    hpl_secret_free(opened);
    EXPECT_STATUS(hpl_catalog_unseal(&call, place.catalog, "two", hpl_buf_bytes(&sealed), &opened), HPL_INTEGRITY);
    EXPECT(opened == NULL);
    EXPECT_STATUS(hpl_catalog_unseal(&call, other.catalog, "one", hpl_buf_bytes(&sealed), &opened), HPL_INTEGRITY);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[i] ^= 1;
        EXPECT_STATUS(hpl_catalog_unseal(&call, place.catalog, "one", hpl_buf_bytes(&sealed), &opened), HPL_INTEGRITY);
        sealed.data[i] ^= 1;
        EXPECT_STATUS(hpl_catalog_unseal(&call, place.catalog, "one", hpl_bytes(sealed.data, i), &opened), HPL_INTEGRITY);
    }
    hpl_secret_free(secret);
    hpl_buf_wipe(&sealed);
    hpl_buf_wipe(&again);
    leave(&place);
    leave(&other);
}

HPL_TEST(no_secret_is_left_behind)
{
    size_t before = hpl_secret_in_use();
    struct place place = three_rows();
    leave(&place);
    EXPECT_NUM(hpl_secret_in_use(), before);
}
