/* Are credentials kept sealed, found, replaced and allowed what their role says, and nothing else? */
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sqlite3.h>

#include "auth/canonical.h"

struct house {
    char path[300];
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
    struct hpl_auth *auth;
};

static struct hpl_call call;

static void open_again(struct house *house)
{
    EXPECT_OK(hpl_catalog_open(&call, &house->catalog, house->path, house->root));
    EXPECT_OK(hpl_auth_open(&call, &house->auth, house->catalog));
}

static void close_files(struct house *house)
{
    hpl_auth_close(house->auth);
    hpl_catalog_close(house->catalog);
}

static struct house fresh(void)
{
    struct house house = {.root = hpl_secret_random(32)};
    call = (struct hpl_call){0};
    snprintf(house.path, sizeof house.path, "%s/catalog.db", hpl_test_dir());
    open_again(&house);
    return house;
}

static void leave(struct house *house)
{
    close_files(house);
    hpl_secret_free(house->root);
}

static enum hpl_status put(struct house *house, const char *access_key, const char *secret_key, enum hpl_role role)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_from(secret_key, strlen(secret_key));
    call = (struct hpl_call){0};
    return hpl_auth_put_credential(&call, house->auth, access_key, secret, role);
}

/* Found, with that secret key and role? */
static bool has(struct house *house, const char *access_key, const char *secret_key, enum hpl_role role)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_identity identity;
    EXPECT_OK(hpl_auth_find(&call, house->auth, access_key, &identity, &secret));
    EXPECT_TEXT(identity.access_key, access_key);
    return secret->len == strlen(secret_key) && memcmp(secret->bytes, secret_key, secret->len) == 0 && identity.role == role;
}

static enum hpl_status find(struct house *house, const char *access_key)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_identity identity;
    call = (struct hpl_call){0};
    return hpl_auth_find(&call, house->auth, access_key, &identity, &secret);
}

HPL_TEST(a_credential_is_found_now_and_after_a_restart)
{
    struct house house = fresh();
    EXPECT_OK(put(&house, "alice", "alice's-secret", HPL_ROLE_OBJECTS));
    EXPECT_OK(put(&house, "root.admin_1-x", "correct-horse-battery", HPL_ROLE_ADMIN));
    for (int i = 0; i < 2; i++) {
        EXPECT(has(&house, "alice", "alice's-secret", HPL_ROLE_OBJECTS));
        EXPECT(has(&house, "alice", "alice's-secret", HPL_ROLE_OBJECTS)); /* now from memory */
        EXPECT(has(&house, "root.admin_1-x", "correct-horse-battery", HPL_ROLE_ADMIN));
        EXPECT_STATUS(find(&house, "bob"), HPL_AUTH_UNKNOWN_KEY);
        EXPECT_STATUS(find(&house, "Alice"), HPL_AUTH_UNKNOWN_KEY);
        close_files(&house);
        open_again(&house);
    }
    leave(&house);
}

HPL_TEST(a_replaced_credential_is_the_new_one_at_once)
{
    struct house house = fresh();
    EXPECT_OK(put(&house, "alice", "first-secret", HPL_ROLE_OBJECTS));
    EXPECT(has(&house, "alice", "first-secret", HPL_ROLE_OBJECTS));
    EXPECT_OK(put(&house, "alice", "second-secret", HPL_ROLE_ADMIN));
    EXPECT(has(&house, "alice", "second-secret", HPL_ROLE_ADMIN));
    leave(&house);
}

/* Made anew from the secret, and what is given for it: the same, however often it was asked for before? */
static bool signs_with(struct house *house, const char *secret_key, const char *scope)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_from(secret_key, strlen(secret_key));
    struct hpl_identity identity = {0};
    uint8_t want[32];
    bool is_same = true;
    EXPECT(hpl_signing_key(want, secret, scope));
    for (int i = 0; i < 3; i++) {
        struct hpl_secret *HPL_SECRET_AUTO key = NULL;
        EXPECT_OK(hpl_auth_find_signing_key(&call, house->auth, "alice", scope, &identity, &key));
        EXPECT_TEXT(identity.access_key, "alice");
        is_same = is_same && key->len == 32 && memcmp(key->bytes, want, 32) == 0;
    }
    return is_same;
}

HPL_TEST(a_remembered_signing_key_is_that_of_the_secret_and_scope_of_now)
{
    static const char *const scopes[] = {"20260101/us-east-1/s3/aws4_request", "20260102/us-east-1/s3/aws4_request", "20260101/us-east-1/kms/aws4_request"};
    struct house house = fresh();
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    struct hpl_identity identity;
    EXPECT_OK(put(&house, "alice", "first-secret-key", HPL_ROLE_ADMIN));
    for (int round = 0; round < 2; round++)
        for (size_t i = 0; i < HPL_COUNT(scopes); i++)
            EXPECT(signs_with(&house, "first-secret-key", scopes[i]));
    EXPECT_OK(put(&house, "alice", "other-secret-key", HPL_ROLE_ADMIN));
    EXPECT(signs_with(&house, "other-secret-key", scopes[0]));
    EXPECT_STATUS(hpl_auth_find_signing_key(&call, house.auth, "nobody", scopes[0], &identity, &key), HPL_AUTH_UNKNOWN_KEY);
    EXPECT_STATUS(hpl_auth_find_signing_key(&call, house.auth, "alice", "20260101/us-east-1", &identity, &key), HPL_AUTH_BAD_SIGNATURE);
    leave(&house);
}

HPL_TEST(names_and_secrets_outside_the_rules_are_refused)
{
    struct house house = fresh();
    char longest[131];
    memset(longest, 'k', sizeof longest);
    longest[129] = '\0';
    EXPECT_STATUS(put(&house, longest, "long-enough", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(put(&house, "long-key", longest, HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(find(&house, longest), HPL_AUTH_UNKNOWN_KEY);
    longest[128] = '\0';
    EXPECT_OK(put(&house, longest, longest, HPL_ROLE_OBJECTS));
    EXPECT(has(&house, longest, longest, HPL_ROLE_OBJECTS));
    EXPECT_STATUS(put(&house, "ab", "long-enough", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(put(&house, "a/b", "long-enough", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(put(&house, "a b", "long-enough", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(put(&house, "abc", "seven77", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(put(&house, "abc", "with space", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(put(&house, "abc", "new\nline-", HPL_ROLE_OBJECTS), HPL_INVALID_ARGUMENT);
    EXPECT_STATUS(find(&house, "abc"), HPL_AUTH_UNKNOWN_KEY);
    leave(&house);
}

HPL_TEST(only_the_kept_credentials_stay)
{
    struct house house = fresh();
    char name[20];
    for (unsigned i = 0; i < 150; i++) { /* more than one page of them */
        snprintf(name, sizeof name, "gone-%03u", i);
        EXPECT_OK(put(&house, name, "long-enough", HPL_ROLE_OBJECTS));
    }
    EXPECT_OK(put(&house, "alice", "alice's-secret", HPL_ROLE_OBJECTS));
    EXPECT_OK(put(&house, "zoe", "zoe's-secret", HPL_ROLE_ADMIN));
    EXPECT_OK(find(&house, "gone-000")); /* remembered from now on */
    const char *const kept[] = {"zoe", "alice", "nobody"};
    EXPECT_OK(hpl_auth_keep_only(&call, house.auth, kept, 3));
    for (int i = 0; i < 2; i++) {
        EXPECT(has(&house, "alice", "alice's-secret", HPL_ROLE_OBJECTS) && has(&house, "zoe", "zoe's-secret", HPL_ROLE_ADMIN));
        EXPECT_STATUS(find(&house, "gone-000"), HPL_AUTH_UNKNOWN_KEY);
        EXPECT_STATUS(find(&house, "gone-149"), HPL_AUTH_UNKNOWN_KEY);
        close_files(&house);
        open_again(&house);
    }
    leave(&house);
}

HPL_TEST(a_credential_to_be_removed_whose_row_was_changed_is_named)
{
    static const char *const changes[] = {"UPDATE rows SET content = x'00' WHERE name = 'gone'", "UPDATE rows SET revision = 0 WHERE name = 'gone'"};
    for (size_t i = 0; i < HPL_COUNT(changes); i++) {
        struct house house = fresh();
        sqlite3 *db;
        struct hpl_call own = {0};
        EXPECT_OK(put(&house, "gone", "long-enough", HPL_ROLE_OBJECTS));
        EXPECT_NUM(sqlite3_open(house.path, &db), SQLITE_OK);
        EXPECT_NUM(sqlite3_exec(db, changes[i], NULL, NULL, NULL), SQLITE_OK);
        EXPECT_NUM(sqlite3_close(db), SQLITE_OK);
        EXPECT_STATUS(hpl_auth_keep_only(&own, house.auth, NULL, 0), HPL_INTEGRITY);
        EXPECT(strstr(own.detail, "'gone'") != NULL);
        leave(&house);
    }
}

static bool file_holds(const char *path, const char *text)
{
    FILE *file = fopen(path, "r");
    char *data = calloc(1, 1 << 20);
    size_t len = file && data ? fread(data, 1, 1 << 20, file) : 0;
    bool is_there = len && memmem(data, len, text, strlen(text)) != NULL;
    free(data);
    if (file)
        fclose(file);
    return is_there;
}

HPL_TEST(no_secret_key_lies_in_the_file)
{
    struct house house = fresh();
    char wal[320];
    snprintf(wal, sizeof wal, "%s-wal", house.path);
    EXPECT_OK(put(&house, "findable-name", "never-in-the-file", HPL_ROLE_ADMIN));
    EXPECT(file_holds(wal, "findable-name"));
    EXPECT(!file_holds(wal, "never-in-the-file"));
    close_files(&house);
    EXPECT(file_holds(house.path, "findable-name"));
    EXPECT(!file_holds(house.path, "never-in-the-file"));
    open_again(&house);
    leave(&house);
}

HPL_TEST(a_change_by_another_process_is_seen_within_seconds)
{
    struct house house = fresh(), other = house;
    EXPECT_OK(put(&house, "alice", "first-secret", HPL_ROLE_ADMIN));
    EXPECT(has(&house, "alice", "first-secret", HPL_ROLE_ADMIN));
    open_again(&other);
    EXPECT_OK(put(&other, "alice", "second-secret", HPL_ROLE_OBJECTS));
    close_files(&other);
    for (int i = 0; i < 600 && has(&house, "alice", "first-secret", HPL_ROLE_ADMIN); i++)
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    EXPECT(has(&house, "alice", "second-secret", HPL_ROLE_OBJECTS));
    leave(&house);
}

HPL_TEST(a_changed_row_gives_nobody_anything)
{
    struct house house = fresh();
    sqlite3 *db;
    EXPECT_OK(put(&house, "alice", "alice-secret", HPL_ROLE_OBJECTS));
    EXPECT_OK(put(&house, "bob", "bob's-secret", HPL_ROLE_OBJECTS));
    close_files(&house);
    EXPECT_NUM(sqlite3_open(house.path, &db), SQLITE_OK);
    EXPECT_NUM(sqlite3_exec(db, "UPDATE rows SET content = replace(content, 'objects', 'admin') WHERE name = 'alice'", NULL, NULL, NULL), SQLITE_OK);
    EXPECT_NUM(sqlite3_changes(db), 1);
    sqlite3_close(db);
    open_again(&house);
    EXPECT_STATUS(find(&house, "alice"), HPL_INTEGRITY);
    EXPECT(has(&house, "bob", "bob's-secret", HPL_ROLE_OBJECTS));
    leave(&house);
}

/* A row that was written rightly but says what no credential says. */
static void is_damaged(const char *row)
{
    struct house house = fresh();
    EXPECT_OK(hpl_catalog_put(&call, house.catalog, "credential", "alice", 0, hpl_bytes_str(row), NULL));
    EXPECT_STATUS(find(&house, "alice"), HPL_INTEGRITY);
    leave(&house);
}

HPL_TEST(a_row_of_another_shape_is_damage)
{
    is_damaged("");
    is_damaged("[]");
    is_damaged("{}");
    is_damaged("{\"role\":\"owner\",\"secret\":\"AAAA\"}");
    is_damaged("{\"role\":1,\"secret\":\"AAAA\"}");
    is_damaged("{\"role\":\"admin\",\"secret\":\"***\"}");
    is_damaged("{\"role\":\"admin\",\"secret\":\"AAAA\"}");
}

HPL_TEST(a_sealed_secret_does_not_fit_another_name)
{
    struct house house = fresh();
    struct hpl_buf row = {0};
    uint64_t revision;
    EXPECT_OK(put(&house, "alice", "alice-secret", HPL_ROLE_ADMIN));
    EXPECT_OK(hpl_catalog_get(&call, house.catalog, "credential", "alice", &row, &revision));
    EXPECT_OK(hpl_catalog_put(&call, house.catalog, "credential", "mallory", 0, hpl_buf_bytes(&row), NULL));
    EXPECT_STATUS(find(&house, "mallory"), HPL_INTEGRITY);
    hpl_buf_wipe(&row);
    leave(&house);
}

HPL_TEST(roles_allow_what_they_say_and_the_refusal_names_the_action)
{
    const struct hpl_identity admin = {"root", HPL_ROLE_ADMIN}, user = {"alice", HPL_ROLE_OBJECTS}, odd = {"odd", (enum hpl_role)7};
    call = (struct hpl_call){0};
    EXPECT_OK(hpl_auth_allows(&call, &admin, "s3:GetObject"));
    EXPECT_OK(hpl_auth_allows(&call, &admin, "kms:DeleteKey"));
    EXPECT_OK(hpl_auth_allows(&call, &user, "s3:PutObject"));
    EXPECT_STATUS(hpl_auth_allows(&call, &user, "kms:Decrypt"), HPL_ACCESS_DENIED);
    EXPECT(strstr(call.detail, "kms:Decrypt") != NULL);
    EXPECT_STATUS(hpl_auth_allows(&call, &user, ""), HPL_ACCESS_DENIED);
    EXPECT_STATUS(hpl_auth_allows(&call, &user, "S3:GetObject"), HPL_ACCESS_DENIED);
    EXPECT_STATUS(hpl_auth_allows(&call, &odd, "s3:GetObject"), HPL_ACCESS_DENIED);
}

/* --- together ------------------------------------------------------------------------------------------------------------ */

static _Atomic bool should_stop;

static void *find_for_ever(void *arg)
{
    struct house *house = arg;
    while (!should_stop) {
        struct hpl_call own = {0};
        struct hpl_identity identity;
        struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
        HPL_CHECK(hpl_auth_find(&own, house->auth, "alice", &identity, &secret) == HPL_OK);
        HPL_CHECK(secret->len == 12 && memcmp(secret->bytes, "secret-", 7) == 0);
    }
    return NULL;
}

HPL_TEST(what_was_put_is_found_by_its_own_thread_while_others_read)
{
    struct house house = fresh();
    pthread_t threads[3];
    EXPECT_OK(put(&house, "alice", "secret-00000", HPL_ROLE_OBJECTS));
    should_stop = false;
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, find_for_ever, &house), 0);
    for (unsigned i = 0; i < 60; i++) {
        char text[24];
        snprintf(text, sizeof text, "secret-%05u", i);
        HPL_CHECK(put(&house, "alice", text, HPL_ROLE_OBJECTS) == HPL_OK);
        HPL_CHECK(has(&house, "alice", text, HPL_ROLE_OBJECTS));
    }
    should_stop = true;
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    leave(&house);
}

HPL_TEST(more_credentials_than_are_remembered_are_all_found)
{
    struct house house = fresh();
    size_t before = hpl_secret_in_use();
    char name[20], secret[30];
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "key-%d", i);
        snprintf(secret, sizeof secret, "secret-of-%d", i);
        EXPECT_OK(put(&house, name, secret, HPL_ROLE_OBJECTS));
        EXPECT(has(&house, name, secret, HPL_ROLE_OBJECTS));
    }
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "key-%d", i);
        snprintf(secret, sizeof secret, "secret-of-%d", i);
        EXPECT(has(&house, name, secret, HPL_ROLE_OBJECTS));
    }
    hpl_auth_close(house.auth);
    EXPECT_NUM(hpl_secret_in_use(), before);
    EXPECT_OK(hpl_auth_open(&call, &house.auth, house.catalog));
    leave(&house);
}
