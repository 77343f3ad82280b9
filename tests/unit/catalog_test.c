/* The catalog: rows compare and swap, and what was changed, moved, taken away or rolled back behind its back is seen. */
#include "tests/test.h"

#include <stdio.h>
#include <sqlite3.h>

#include "catalog/catalog.h"

struct place {
    char path[512];
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
};

static void reopen(struct place *place)
{
    hpl_catalog_close(place->catalog);
    EXPECT_OK(hpl_catalog_open(NULL, &place->catalog, place->path, place->root));
}

static void make(struct place *place)
{
    static int number;
    *place = (struct place){.root = hpl_secret_random(32)};
    snprintf(place->path, sizeof place->path, "%s/catalog-%d", hpl_test_dir(), number++);
    reopen(place);
}

static void end(struct place *place)
{
    hpl_catalog_close(place->catalog);
    hpl_secret_free(place->root);
}

static enum hpl_status put(struct place *place, const char *name, uint64_t expected, const char *content)
{
    return hpl_catalog_put(NULL, place->catalog, "thing", name, expected, hpl_bytes_str(content), NULL);
}

static void expect_content(struct place *place, const char *name, const char *want, uint64_t want_revision)
{
    struct hpl_buf content = {0};
    uint64_t revision;
    EXPECT_OK(hpl_catalog_get(NULL, place->catalog, "thing", name, &content, &revision));
    EXPECT(hpl_bytes_equal(hpl_buf_bytes(&content), hpl_bytes_str(want)));
    EXPECT_NUM(revision, want_revision);
    hpl_buf_wipe(&content);
}

/* Around the catalog, as someone with the file would. */
static void attack(struct place *place, const char *sql)
{
    sqlite3 *db;
    hpl_catalog_close(place->catalog);
    place->catalog = NULL;
    EXPECT_NUM(sqlite3_open(place->path, &db), SQLITE_OK);
    EXPECT_NUM(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    EXPECT_NUM(sqlite3_close(db), SQLITE_OK);
}

static enum hpl_status read_after(struct place *place, const char *sql, const char *name)
{
    struct hpl_buf content = {0};
    uint64_t revision;
    attack(place, sql);
    enum hpl_status status = hpl_catalog_open(NULL, &place->catalog, place->path, place->root);
    if (status == HPL_OK)
        status = hpl_catalog_get(NULL, place->catalog, "thing", name, &content, &revision);
    hpl_buf_wipe(&content);
    return status;
}

HPL_TEST(a_row_is_read_as_it_was_put_and_outlives_a_restart)
{
    struct place place;
    make(&place);
    EXPECT_OK(put(&place, "one", 0, "first"));
    expect_content(&place, "one", "first", 1);
    EXPECT_OK(put(&place, "one", 1, ""));
    reopen(&place);
    expect_content(&place, "one", "", 2);
    end(&place);
}

HPL_TEST(a_stale_writer_is_refused_and_changes_nothing)
{
    struct place place;
    make(&place);
    EXPECT_STATUS(put(&place, "one", 7, "x"), HPL_STALE);
    EXPECT_OK(put(&place, "one", 0, "first"));
    EXPECT_STATUS(put(&place, "one", 0, "again"), HPL_STALE);
    EXPECT_OK(put(&place, "one", 1, "second"));
    EXPECT_STATUS(put(&place, "one", 1, "late"), HPL_STALE);
    EXPECT_STATUS(hpl_catalog_delete(NULL, place.catalog, "thing", "one", 1), HPL_STALE);
    expect_content(&place, "one", "second", 2);
    EXPECT_OK(hpl_catalog_delete(NULL, place.catalog, "thing", "one", 2));
    EXPECT_STATUS(hpl_catalog_get(NULL, place.catalog, "thing", "one", NULL, &(uint64_t){0}), HPL_NOT_FOUND);
    end(&place);
}

HPL_TEST(every_changed_column_of_a_row_is_seen)
{
    static const char *const attacks[] = {
        "UPDATE rows SET content = x'00' WHERE name = 'one'",
        "UPDATE rows SET revision = revision + 1 WHERE name = 'one'",
        "UPDATE rows SET mac = zeroblob(32) WHERE name = 'one'",
        "UPDATE rows SET mac = x'' WHERE name = 'one'",
        "UPDATE rows SET content = (SELECT content FROM rows WHERE name = 'two'), mac = (SELECT mac FROM rows WHERE name = 'two') WHERE name = 'one'",
    };
    for (size_t i = 0; i < HPL_COUNT(attacks); i++) {
        struct place place;
        make(&place);
        EXPECT_OK(put(&place, "one", 0, "first"));
        EXPECT_OK(put(&place, "two", 0, "second"));
        EXPECT_STATUS(read_after(&place, attacks[i], "one"), HPL_INTEGRITY);
        end(&place);
    }
}

HPL_TEST(a_row_under_another_name_is_seen)
{
    struct place place;
    make(&place);
    EXPECT_OK(put(&place, "one", 0, "first"));
    EXPECT_STATUS(read_after(&place, "UPDATE rows SET name = 'other' WHERE name = 'one'", "other"), HPL_INTEGRITY);
    end(&place);
}

HPL_TEST(rows_taken_away_or_rolled_back_alone_keep_the_catalog_shut)
{
    static const char *const attacks[] = {
        "DELETE FROM rows WHERE name = 'one'",
        "REPLACE INTO rows SELECT * FROM old",
        "UPDATE head SET generation = generation + 1",
        "UPDATE head SET sum = zeroblob(32)",
        "DELETE FROM head",
    };
    for (size_t i = 0; i < HPL_COUNT(attacks); i++) {
        struct place place;
        make(&place);
        EXPECT_OK(put(&place, "one", 0, "first"));
        attack(&place, "CREATE TABLE old AS SELECT * FROM rows");
        reopen(&place);
        EXPECT_OK(put(&place, "one", 1, "second"));
        EXPECT_OK(put(&place, "two", 0, "third"));
        attack(&place, attacks[i]);
        EXPECT_STATUS(hpl_catalog_open(NULL, &place.catalog, place.path, place.root), HPL_INTEGRITY);
        end(&place);
    }
}

HPL_TEST(another_root_secret_does_not_open_the_catalog)
{
    struct place place;
    make(&place);
    EXPECT_OK(put(&place, "one", 0, "first"));
    hpl_catalog_close(place.catalog);
    hpl_secret_free(place.root);
    place.root = hpl_secret_random(32);
    EXPECT_STATUS(hpl_catalog_open(NULL, &place.catalog, place.path, place.root), HPL_INTEGRITY);
    end(&place);
}

HPL_TEST(a_sealed_value_opens_under_its_label_alone)
{
    struct place place;
    make(&place);
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(40);
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_secret *HPL_SECRET_AUTO wrong = NULL;
    struct hpl_buf sealed = {0};
    EXPECT_OK(hpl_catalog_seal(NULL, place.catalog, "a", secret, &sealed));
    EXPECT_OK(hpl_catalog_unseal(NULL, place.catalog, "a", hpl_buf_bytes(&sealed), &opened));
    EXPECT(opened->len == 40 && memcmp(opened->bytes, secret->bytes, 40) == 0);
    EXPECT_STATUS(hpl_catalog_unseal(NULL, place.catalog, "b", hpl_buf_bytes(&sealed), &wrong), HPL_INTEGRITY);
    for (size_t i = 0; i < sealed.len; i++) {
        sealed.data[i] ^= 1;
        EXPECT_STATUS(hpl_catalog_unseal(NULL, place.catalog, "a", hpl_buf_bytes(&sealed), &wrong), HPL_INTEGRITY);
        sealed.data[i] ^= 1;
    }
    hpl_buf_wipe(&sealed);
    end(&place);
}
