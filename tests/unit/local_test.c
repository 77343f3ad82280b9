/* Does the local backend keep its folder: private, in its place, one damaged file harming one key, and no other root secret let in? */
#include "tests/test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/local/local.h"
#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"

struct place {
    const char *dir;
    char keys[200];
    struct hpl_secret *root;
    struct hpl_backend_env env;
};

static struct place new_place(void)
{
    struct place place = {.dir = hpl_test_dir(), .root = hpl_secret_random(32)};
    snprintf(place.keys, sizeof place.keys, "%s/keys", place.dir);
    place.env = (struct hpl_backend_env){.state_dir = place.dir, .root = place.root};
    return place;
}

static enum hpl_status try_open(const struct hpl_backend_env *env, const char *key_dir, struct hpl_keystore **out)
{
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO config = key_dir ? json_pack("{s:s}", "key_dir", key_dir) : json_object();
    return hpl_backend_local.open(&call, config, env, out);
}

static struct hpl_keystore *open_place(const struct place *place)
{
    struct hpl_keystore *keystore = NULL;
    EXPECT_OK(try_open(&place->env, NULL, &keystore));
    return keystore;
}

static void make_key(struct hpl_keystore *keystore, const char *key_id, uint8_t uid[static HPL_KEY_UID_LEN])
{
    struct hpl_call call = {0};
    hpl_uuid_new(uid);
    EXPECT_OK(keystore->ops->record_put(keystore, &call, key_id, uid, 0, hpl_bytes_str("{}"), NULL));
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
}

static enum hpl_status use_key(struct hpl_keystore *keystore, const uint8_t *uid, struct hpl_call *call)
{
    static const uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    HPL_TRY(keystore->ops->wrap(keystore, call, uid, 1, aad, secret, &wrapped));
    return keystore->ops->unwrap(keystore, call, uid, 1, aad, &wrapped, &opened);
}

static void path_of(const struct place *place, const char *key_id, char out[static 300])
{
    uint8_t digest[32];
    char name[65];
    hpl_sha256(digest, key_id, strlen(key_id));
    hpl_hex_encode(name, digest, sizeof digest);
    snprintf(out, 300, "%s/%s.key", place->keys, name);
}

static void flip_byte(const char *path, size_t at)
{
    struct hpl_buf bytes = {0};
    struct hpl_call call = {0};
    EXPECT_OK(hpl_file_read(&call, path, 1u << 20, &bytes));
    bytes.data[at % bytes.len] ^= 1;
    EXPECT_OK(hpl_file_replace(&call, path, hpl_buf_bytes(&bytes), 0600));
    hpl_buf_wipe(&bytes);
}

static void copy_file(const char *from, const char *to)
{
    struct hpl_buf bytes = {0};
    struct hpl_call call = {0};
    EXPECT_OK(hpl_file_read(&call, from, 1u << 20, &bytes));
    EXPECT_OK(hpl_file_replace(&call, to, hpl_buf_bytes(&bytes), 0600));
    hpl_buf_wipe(&bytes);
}

struct seen {
    int whole, damaged;
    char name[80];
};

static bool see(void *arg, const char *key_id, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct seen *seen = arg;
    (void)revision, (void)content;
    seen->whole += status == HPL_OK;
    seen->damaged += status == HPL_INTEGRITY;
    if (status == HPL_INTEGRITY)
        snprintf(seen->name, sizeof seen->name, "%s", key_id);
    return true;
}

static struct seen list(struct hpl_keystore *keystore)
{
    struct seen seen = {0};
    struct hpl_call call = {0};
    EXPECT_OK(keystore->ops->record_list(keystore, &call, NULL, SIZE_MAX, see, &seen));
    return seen;
}

HPL_TEST(a_damaged_key_file_is_named_and_harms_only_its_key)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    uint8_t bad[HPL_KEY_UID_LEN], good[HPL_KEY_UID_LEN];
    char path[300];
    struct hpl_buf content = {0};
    uint64_t revision;
    make_key(keystore, "bad", bad);
    make_key(keystore, "good", good);
    path_of(&place, "bad", path);
    for (size_t at = 0; at < 300; at += 7) {
        struct hpl_call call = {0};
        flip_byte(path, at);
        EXPECT_STATUS(keystore->ops->record_get(keystore, &call, "bad", &content, &revision), HPL_INTEGRITY);
        EXPECT(strstr(call.detail, path) != NULL);
        EXPECT_STATUS(use_key(keystore, bad, &(struct hpl_call){0}), HPL_INTEGRITY);
        EXPECT_STATUS(keystore->ops->record_put(keystore, &(struct hpl_call){0}, "bad", bad, 1, hpl_bytes_str("{}"), NULL), HPL_INTEGRITY);
        EXPECT_OK(use_key(keystore, good, &call));
        flip_byte(path, at);
    }
    flip_byte(path, 50);
    struct seen seen = list(keystore);
    EXPECT_NUM(seen.whole, 1);
    EXPECT_NUM(seen.damaged, 1);
    EXPECT_TEXT(seen.name, strrchr(path, '/') + 1);
    keystore->ops->close(keystore);
    keystore = open_place(&place); /* a damaged file does not keep the others from opening */
    EXPECT_OK(use_key(keystore, good, &(struct hpl_call){0}));
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(a_key_file_in_anothers_place_is_refused)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    uint8_t a[HPL_KEY_UID_LEN], b[HPL_KEY_UID_LEN];
    char from[300], to[300];
    struct hpl_buf content = {0};
    uint64_t revision;
    make_key(keystore, "a", a);
    make_key(keystore, "b", b);
    path_of(&place, "a", from);
    path_of(&place, "b", to);
    copy_file(from, to);
    EXPECT_STATUS(keystore->ops->record_get(keystore, &(struct hpl_call){0}, "b", &content, &revision), HPL_INTEGRITY);
    EXPECT_STATUS(use_key(keystore, b, &(struct hpl_call){0}), HPL_INTEGRITY);
    EXPECT_OK(use_key(keystore, a, &(struct hpl_call){0}));
    EXPECT_NUM(list(keystore).damaged, 1);
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(files_are_private_and_never_named_by_an_id)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    uint8_t uid[HPL_KEY_UID_LEN];
    char path[600];
    struct stat st;
    int count = 0;
    make_key(keystore, "../../escape", uid);
    make_key(keystore, "/etc/passwd", uid);
    EXPECT_NUM(stat(place.keys, &st), 0);
    EXPECT_NUM(st.st_mode & 07777, 0700);
    DIR *dir = opendir(place.keys);
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", place.keys, entry->d_name);
        EXPECT_NUM(lstat(path, &st), 0);
        EXPECT_NUM(st.st_mode & 07777, 0600);
        EXPECT(S_ISREG(st.st_mode) && !strstr(entry->d_name, "passwd") && !strstr(entry->d_name, "escape"));
        count++;
    }
    closedir(dir);
    EXPECT_NUM(count, 4); /* two keys, .lock, .identity */
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(a_folder_that_is_not_ours_alone_is_refused)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = NULL;
    EXPECT_NUM(mkdir(place.keys, 0755), 0);
    EXPECT_NUM(chmod(place.keys, 0755), 0);
    EXPECT_STATUS(try_open(&place.env, NULL, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT_NUM(chmod(place.keys, 0700), 0);
    if (geteuid() == 0) { /* who else could give it away */
        EXPECT_NUM(chown(place.keys, 65534, 65534), 0);
        EXPECT_STATUS(try_open(&place.env, NULL, &keystore), HPL_INVALID_CONFIGURATION);
        EXPECT_NUM(chown(place.keys, 0, 0), 0);
    }
    EXPECT_OK(try_open(&place.env, NULL, &keystore));
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(a_key_dir_outside_the_named_folders_is_refused_links_too)
{
    static const char *const wrong[] = {"keys", "", "/", "/etc/hardplate", "/tmp/..", "/proc/self/fd"};
    struct place place = new_place();
    const char *elsewhere = hpl_test_dir();
    char link_path[300], dotted[300], beside[300];
    struct hpl_keystore *keystore = NULL;
    for (size_t i = 0; i < HPL_COUNT(wrong); i++)
        EXPECT_STATUS(try_open(&place.env, wrong[i], &keystore), HPL_INVALID_REQUEST);
    snprintf(link_path, sizeof link_path, "%s/link", place.dir);
    snprintf(dotted, sizeof dotted, "%s/../%s", place.dir, strrchr(elsewhere, '/') + 1);
    snprintf(beside, sizeof beside, "%s-beside", place.dir);
    EXPECT_NUM(symlink(elsewhere, link_path), 0);
    EXPECT_STATUS(try_open(&place.env, link_path, &keystore), HPL_INVALID_REQUEST);
    EXPECT_STATUS(try_open(&place.env, dotted, &keystore), HPL_INVALID_REQUEST);
    EXPECT_STATUS(try_open(&place.env, beside, &keystore), HPL_INVALID_REQUEST);
    EXPECT_STATUS(try_open(&place.env, elsewhere, &keystore), HPL_INVALID_REQUEST);
    place.env.key_dir_roots = &elsewhere;
    place.env.num_key_dir_roots = 1;
    EXPECT_NUM(chmod(elsewhere, 0700), 0);
    EXPECT_OK(try_open(&place.env, elsewhere, &keystore));
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(the_state_folder_itself_is_no_key_dir)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = NULL;
    char spelled[220];
    snprintf(spelled, sizeof spelled, "%s/../%s/", place.dir, strrchr(place.dir, '/') + 1);
    EXPECT_STATUS(try_open(&place.env, place.dir, &keystore), HPL_INVALID_REQUEST);
    EXPECT_STATUS(try_open(&place.env, spelled, &keystore), HPL_INVALID_REQUEST);
    hpl_secret_free(place.root);
}

HPL_TEST(another_root_secret_is_refused_at_opening)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    struct hpl_secret *HPL_SECRET_AUTO other = hpl_secret_random(32);
    struct hpl_backend_env env = place.env;
    uint8_t uid[HPL_KEY_UID_LEN];
    make_key(keystore, "k", uid);
    keystore->ops->close(keystore);
    env.root = other;
    EXPECT_STATUS(try_open(&env, NULL, &keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(keystore == NULL);
    keystore = open_place(&place);
    EXPECT_OK(use_key(keystore, uid, &(struct hpl_call){0}));
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

static void identity_of(const struct hpl_backend_env *env, struct hpl_buf *out)
{
    struct hpl_keystore *keystore = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(try_open(env, NULL, &keystore));
    EXPECT_OK(hpl_backend_local.identity(&call, keystore, NULL, env, out));
    keystore->ops->close(keystore);
}

HPL_TEST(a_folder_keeps_its_identity_where_it_is_moved_to)
{
    struct place place = new_place(), other = new_place();
    struct hpl_buf before = {0}, after = {0}, fresh = {0};
    struct hpl_backend_env env = place.env;
    identity_of(&place.env, &before);
    identity_of(&other.env, &fresh);
    EXPECT(!hpl_bytes_equal(hpl_buf_bytes(&before), hpl_buf_bytes(&fresh)));
    const char *new_home = hpl_test_dir();
    char moved[300];
    snprintf(moved, sizeof moved, "%s/keys", new_home);
    EXPECT_NUM(rename(place.keys, moved), 0);
    env.state_dir = new_home;
    identity_of(&env, &after);
    EXPECT(hpl_bytes_equal(hpl_buf_bytes(&before), hpl_buf_bytes(&after)));
    hpl_buf_wipe(&before);
    hpl_buf_wipe(&after);
    hpl_buf_wipe(&fresh);
    hpl_secret_free(place.root);
    hpl_secret_free(other.root);
}

HPL_TEST(a_wrap_that_must_not_wait_reads_no_file)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    struct hpl_call quick = {.must_not_wait = true};
    uint8_t uid[HPL_KEY_UID_LEN];
    enum hpl_status status = HPL_WOULD_WAIT;
    make_key(keystore, "k", uid);
    EXPECT_STATUS(use_key(keystore, uid, &quick), HPL_WOULD_WAIT);
    for (int attempt = 0; attempt < 100 && status == HPL_WOULD_WAIT; attempt++) { /* good for a millisecond: a loaded machine needs several */
        EXPECT_OK(use_key(keystore, uid, &(struct hpl_call){0}));
        status = use_key(keystore, uid, &quick);
    }
    EXPECT_OK(status);
    usleep(30000);
    EXPECT_STATUS(use_key(keystore, uid, &quick), HPL_WOULD_WAIT);
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(material_that_is_there_is_not_replaced_by_an_import)
{
    struct place place = new_place();
    uint8_t uid[HPL_KEY_UID_LEN];
    static const uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_wrapped wrapped;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO given = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_keystore *keystore = open_place(&place);
    make_key(keystore, "k", uid);
    EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, given, &wrapped));
    EXPECT_STATUS(keystore->ops->import_version(keystore, &call, uid, 1, given), HPL_CONFLICT);
    EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &wrapped, &opened));
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(a_key_that_lost_its_place_to_another_touches_nothing_of_it)
{
    struct place place = new_place();
    uint8_t lost[HPL_KEY_UID_LEN], uid[HPL_KEY_UID_LEN];
    static const uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_wrapped wrapped;
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO given = hpl_secret_random(32), *HPL_SECRET_AUTO opened = NULL;
    struct hpl_keystore *keystore = open_place(&place);
    make_key(keystore, "k", lost);
    hpl_uuid_new(uid);
    EXPECT_OK(keystore->ops->record_put(keystore, &call, "k", uid, 1, hpl_bytes_str("{}"), NULL));
    EXPECT_OK(keystore->ops->import_version(keystore, &call, lost, 1, given)); /* to wait for a record of its own */
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
    EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, given, &wrapped));
    EXPECT_OK(keystore->ops->destroy_version(keystore, &call, lost, 1));
    EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &wrapped, &opened));
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(destroyed_material_is_gone_for_every_handle_and_from_the_folder)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place), *other = open_place(&place);
    uint8_t uid[HPL_KEY_UID_LEN], waiting[HPL_KEY_UID_LEN];
    char path[300], hex[33];
    struct stat before, after;
    make_key(keystore, "k", uid);
    path_of(&place, "k", path);
    EXPECT_NUM(stat(path, &before), 0);
    EXPECT_OK(use_key(keystore, uid, &(struct hpl_call){0}));
    EXPECT_OK(use_key(other, uid, &(struct hpl_call){0}));
    EXPECT_OK(keystore->ops->destroy_version(keystore, &(struct hpl_call){0}, uid, 1));
    EXPECT_STATUS(use_key(keystore, uid, &(struct hpl_call){0}), HPL_KEY_UNAVAILABLE);
    EXPECT_STATUS(use_key(other, uid, &(struct hpl_call){0}), HPL_KEY_UNAVAILABLE);
    EXPECT_NUM(stat(path, &after), 0);
    EXPECT(after.st_size < before.st_size);
    hpl_uuid_new(waiting); /* material that never got a record */
    EXPECT_OK(keystore->ops->create_version(keystore, &(struct hpl_call){0}, waiting, 1));
    hpl_hex_encode(hex, waiting, sizeof waiting);
    path_of(&place, hex, path);
    EXPECT_NUM(access(path, F_OK), 0);
    EXPECT_OK(keystore->ops->destroy_version(keystore, &(struct hpl_call){0}, waiting, 1));
    EXPECT_NUM(access(path, F_OK), -1);
    for (int i = 0; i < 2; i++) { /* its name is forgotten, by a handle that saw it go and by one that did not */
        struct hpl_keystore *first = i ? other : keystore, *second = i ? keystore : other;
        EXPECT_OK(first->ops->create_version(first, &(struct hpl_call){0}, waiting, 1));
        EXPECT_OK(use_key(second, waiting, &(struct hpl_call){0}));
        EXPECT_OK(first->ops->destroy_version(first, &(struct hpl_call){0}, waiting, 1));
        EXPECT_OK(second->ops->destroy_version(second, &(struct hpl_call){0}, waiting, 1));
        EXPECT_OK(second->ops->create_version(second, &(struct hpl_call){0}, waiting, 1));
        EXPECT_OK(second->ops->destroy_version(second, &(struct hpl_call){0}, waiting, 1));
    }
    keystore->ops->close(keystore);
    other->ops->close(other);
    hpl_secret_free(place.root);
}

/* hpl_file_replace names what it writes so until it is whole. */
HPL_TEST(what_a_crash_left_of_a_key_file_is_gone_with_the_key_or_at_the_next_start)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_call call = {0};
    char path[300], left[320], other[320];
    make_key(keystore, "k", uid);
    path_of(&place, "k", path);
    snprintf(left, sizeof left, "%s.aB3xYz", path);
    snprintf(other, sizeof other, "%s/notes.aB3xYz", place.keys);
    copy_file(path, left);
    copy_file(path, other);
    EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
    EXPECT(access(left, F_OK) != 0);
    copy_file(path, left);
    keystore->ops->close(keystore);
    keystore = open_place(&place);
    EXPECT(access(left, F_OK) != 0);
    EXPECT(access(path, F_OK) == 0 && access(other, F_OK) == 0); /* nothing else */
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(what_a_crash_left_waiting_never_hides_the_keys_own_file)
{
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    struct hpl_call call = {0};
    uint8_t uid[HPL_KEY_UID_LEN];
    char waiting[300], saved[300], hex[33];
    hpl_uuid_new(uid);
    hpl_hex_encode(hex, uid, sizeof uid);
    path_of(&place, hex, waiting);
    snprintf(saved, sizeof saved, "%s/saved", place.dir);
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
    copy_file(waiting, saved);
    EXPECT_OK(keystore->ops->record_put(keystore, &call, "k", uid, 0, hpl_bytes_str("{}"), NULL));
    EXPECT_NUM(access(waiting, F_OK), -1);
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 2));
    copy_file(saved, waiting); /* as if the crash came before its removal */
    keystore->ops->close(keystore);
    keystore = open_place(&place);
    static const uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 2, aad, secret, &wrapped));
    EXPECT_NUM(list(keystore).whole, 1);
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

#define NUM_PROCESSES 3
#define CHANGES 25

/* What each process does: every change of the record, and every version, is its own. */
static void race_as_process(const struct place *place, uint32_t number)
{
    struct hpl_keystore *keystore = open_place(place);
    for (uint32_t done = 0; done < CHANGES;) {
        struct hpl_call call = {0};
        struct hpl_buf content = {0};
        uint64_t revision;
        uint8_t uid[HPL_KEY_UID_LEN] = "the raced key's";
        EXPECT_OK(keystore->ops->record_get(keystore, &call, "raced", &content, &revision));
        hpl_buf_wipe(&content);
        enum hpl_status status = keystore->ops->record_put(keystore, &call, "raced", uid, revision, hpl_bytes_str("{}"), NULL);
        EXPECT(status == HPL_OK || status == HPL_STALE);
        if (status == HPL_OK)
            EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 2 + number * CHANGES + done++));
    }
    keystore->ops->close(keystore);
}

/* This program again, for this test alone: a forked child has no secrets. */
static pid_t start_process(const struct place *place, uint32_t number)
{
    char root[65], text[4];
    hpl_hex_encode(root, place->root->bytes, place->root->len);
    snprintf(text, sizeof text, "%u", number);
    pid_t child = fork();
    if (child == 0) {
        setenv("HPL_RACE_DIR", place->dir, 1);
        setenv("HPL_RACE_ROOT", root, 1);
        setenv("HPL_RACE_NUMBER", text, 1);
        if (!freopen("/dev/null", "w", stdout))
            _exit(2);
        execl("/proc/self/exe", "local_test", "processes_that_change", (char *)NULL);
        _exit(2);
    }
    return child;
}

HPL_TEST(processes_that_change_one_folder_lose_no_change)
{
    const char *dir = getenv("HPL_RACE_DIR");
    if (dir) {
        struct place place = {.dir = dir, .root = hpl_secret_new(32)};
        EXPECT(hpl_hex_decode(place.root->bytes, 32, getenv("HPL_RACE_ROOT"), 64));
        place.env = (struct hpl_backend_env){.state_dir = dir, .root = place.root};
        race_as_process(&place, (uint32_t)atoi(getenv("HPL_RACE_NUMBER")));
        hpl_secret_free(place.root);
        return;
    }
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    struct hpl_call call = {0};
    struct hpl_buf content = {0};
    uint8_t uid[HPL_KEY_UID_LEN] = "the raced key's";
    uint64_t revision;
    pid_t children[NUM_PROCESSES];
    EXPECT_OK(keystore->ops->record_put(keystore, &call, "raced", uid, 0, hpl_bytes_str("{}"), NULL));
    EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, 1));
    for (uint32_t i = 0; i < NUM_PROCESSES; i++)
        children[i] = start_process(&place, i);
    for (size_t i = 0; i < NUM_PROCESSES; i++) {
        int ended;
        EXPECT_NUM(waitpid(children[i], &ended, 0), children[i]);
        EXPECT_NUM(ended, 0);
    }
    EXPECT_OK(keystore->ops->record_get(keystore, &call, "raced", &content, &revision));
    EXPECT_NUM(revision, 1 + NUM_PROCESSES * CHANGES);
    for (uint32_t version = 1; version <= 1 + NUM_PROCESSES * CHANGES; version++) {
        static const uint8_t aad[HPL_WRAP_AAD_LEN];
        struct hpl_wrapped wrapped;
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, version, aad, secret, &wrapped));
    }
    hpl_buf_wipe(&content);
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
}

HPL_TEST(secrets_do_not_leak)
{
    size_t before = hpl_secret_in_use();
    struct place place = new_place();
    struct hpl_keystore *keystore = open_place(&place);
    uint8_t uid[HPL_KEY_UID_LEN];
    make_key(keystore, "k", uid);
    EXPECT_OK(keystore->ops->probe(keystore, &(struct hpl_call){0}));
    for (int i = 0; i < 200; i++) {
        EXPECT_OK(keystore->ops->create_version(keystore, &(struct hpl_call){0}, uid, (uint32_t)i + 2));
        EXPECT_OK(use_key(keystore, uid, &(struct hpl_call){0}));
    }
    keystore->ops->close(keystore);
    hpl_secret_free(place.root);
    EXPECT_NUM(hpl_secret_in_use(), before);
}
