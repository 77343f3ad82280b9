/* The local backend. Any thread; blocks on the disk. Changes take the folder's lock; reads see whole files, because they are replaced. */
#include "backends/local/local.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/local/key_file.h"
#include "backends/local/place.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"

#define MAX_FILE (8u << 20)
#define FILE_PERMISSIONS 0600
#define NUM_CACHED 64u
#define NAME_LEN 64u
/* How late a change made by another process is seen: a look costs as much as the rest of a wrap. A call that must not wait leaves the look to one of its kind
 * every 10 ms, since being done again elsewhere takes that one longest, and goes on with what was seen a little longer. */
#define LOOKED_FOR_NS 1000000u /* 1 ms */
#define LEFT_EVERY_NS 10000000u
#define LOOKED_FOR_QUICK_NS 20000000u

/* When a file was looked at, and how many files this process had changed by then. */
struct look {
    uint64_t at_ns, num_changes;
};
static _Atomic uint64_t num_changes; /* by all handles of this process */

/* Unsealed material of a version, as of a file's identity: a replaced file has another inode or time. */
struct cached {
    uint8_t uid[HPL_KEY_UID_LEN];
    uint32_t version;
    ino_t inode;
    struct timespec changed;
    struct look look;
    uint64_t left_ns; /* when a call that must not wait last left the look to another */
    struct hpl_secret *material;
};

struct local {
    struct hpl_keystore base;
    char dir[PATH_MAX];
    char identity[2 * HPL_LOCAL_IDENTITY_LEN + 1];
    struct hpl_secret *root;
    pthread_mutex_t lock;      /* around names, cache and, with lock_fd, changes in this process */
    pthread_mutex_t changing;
    int lock_fd;
    json_t *names;             /* uid in hex → file name */
    struct timespec listed;    /* the folder's time when names last held all that is in it; under lock */
    bool was_listed;           /* and still was when the present change began; under changing */
    struct cached cache[NUM_CACHED];
    size_t next;
};

static struct local *local_of(struct hpl_keystore *keystore)
{
    return (struct local *)keystore;
}

/* --- files --------------------------------------------------------------------------------------------------------------- */

static void file_name(const char *key_id, char name[static NAME_LEN + 5])
{
    uint8_t digest[32];
    hpl_sha256(digest, key_id, strlen(key_id));
    hpl_hex_encode(name, digest, sizeof digest);
    memcpy(name + NAME_LEN, ".key", 5);
}

static bool is_file_name(const char *name)
{
    return strlen(name) == NAME_LEN + 4 && strspn(name, "0123456789abcdef") == NAME_LEN && strcmp(name + NAME_LEN, ".key") == 0;
}

/* Material may come before its record: it waits in a file named by the uid until record_put moves it to the key id's. */
static void waiting_name(const uint8_t uid[static HPL_KEY_UID_LEN], char name[static NAME_LEN + 5])
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    hpl_hex_encode(hex, uid, HPL_KEY_UID_LEN);
    file_name(hex, name);
}

static bool is_in_its_place(const struct hpl_key_file *file, const char *name)
{
    char right[NAME_LEN + 5];
    if (file->revision)
        file_name(file->key_id, right);
    else
        waiting_name(file->uid, right);
    return strcmp(right, name) == 0;
}

static enum hpl_status read_file(struct hpl_call *call, const struct local *local, const char *name, struct hpl_key_file *out)
{
    char path[PATH_MAX + NAME_LEN + 8];
    struct hpl_buf bytes = {0};
    *out = (struct hpl_key_file){0};
    snprintf(path, sizeof path, "%s/%s", local->dir, name);
    enum hpl_status status = hpl_file_read(call, path, MAX_FILE, &bytes);
    if (status == HPL_OK)
        status = hpl_key_file_decode(call, hpl_buf_bytes(&bytes), local->root, out);
    if (status == HPL_OK && !is_in_its_place(out, name)) {
        hpl_key_file_wipe(out);
        status = HPL_INTEGRITY;
    }
    hpl_buf_wipe(&bytes);
    if (status != HPL_INTEGRITY)
        return status;
    return hpl_fail_over(call, HPL_INTEGRITY, "the key file %s is damaged, was changed or holds another key; bring it back from a backup", path);
}

/* Under changing. */
static enum hpl_status write_file(struct hpl_call *call, const struct local *local, const char *name, const struct hpl_key_file *file)
{
    char path[PATH_MAX + NAME_LEN + 8];
    struct hpl_buf bytes = {0};
    snprintf(path, sizeof path, "%s/%s", local->dir, name);
    enum hpl_status status = hpl_key_file_encode(file, local->root, &bytes);
    if (status == HPL_OK)
        status = hpl_file_replace(call, path, hpl_buf_bytes(&bytes), FILE_PERMISSIONS);
    hpl_buf_wipe(&bytes);
    atomic_fetch_add(&num_changes, 1);
    return status;
}

static struct timespec time_of_folder(const struct local *local)
{
    struct stat st;
    return stat(local->dir, &st) == 0 ? st.st_mtim : (struct timespec){0};
}

static bool is_listed(struct local *local)
{
    const struct timespec now = time_of_folder(local);
    pthread_mutex_lock(&local->lock);
    bool is_same = now.tv_sec && local->listed.tv_sec == now.tv_sec && local->listed.tv_nsec == now.tv_nsec;
    pthread_mutex_unlock(&local->lock);
    return is_same;
}

static void note_listed(struct local *local, struct timespec when)
{
    pthread_mutex_lock(&local->lock);
    local->listed = when;
    pthread_mutex_unlock(&local->lock);
}

static enum hpl_status begin_change(struct hpl_call *call, struct local *local)
{
    pthread_mutex_lock(&local->changing);
    while (flock(local->lock_fd, LOCK_EX) != 0)
        if (errno != EINTR) {
            pthread_mutex_unlock(&local->changing);
            return hpl_fail(call, HPL_IO, "cannot lock the key folder %s: %s", local->dir, strerror(errno));
        }
    local->was_listed = is_listed(local);
    return HPL_OK;
}

/* What this process changes it knows; others that keep to the lock have changed nothing meanwhile. */
static void end_change(struct local *local)
{
    if (local->was_listed)
        note_listed(local, time_of_folder(local));
    flock(local->lock_fd, LOCK_UN);
    pthread_mutex_unlock(&local->changing);
}

/* What a crash left of a file that was to be replaced holds sealed material, of destroyed keys too. Under changing: nobody writes one now. */
static void sweep_leftovers(struct local *local)
{
    DIR *dir = opendir(local->dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        const char *dot = strrchr(entry->d_name, '.');
        char whole[NAME_LEN + 5] = "";
        if (dot && (size_t)(dot - entry->d_name) < sizeof whole && strlen(dot + 1) == 6)
            memcpy(whole, entry->d_name, (size_t)(dot - entry->d_name));
        if (is_file_name(whole) || strcmp(whole, ".identity") == 0)
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir)
        closedir(dir);
}

/* --- which file has which uid -------------------------------------------------------------------------------------------- */

static void learn(struct local *local, const uint8_t uid[static HPL_KEY_UID_LEN], const char *name)
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    hpl_hex_encode(hex, uid, HPL_KEY_UID_LEN);
    pthread_mutex_lock(&local->lock);
    json_object_set_new(local->names, hex, json_string(name));
    pthread_mutex_unlock(&local->lock);
}

static void forget_name(struct local *local, const uint8_t uid[static HPL_KEY_UID_LEN])
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    hpl_hex_encode(hex, uid, HPL_KEY_UID_LEN);
    pthread_mutex_lock(&local->lock);
    json_object_del(local->names, hex);
    pthread_mutex_unlock(&local->lock);
}

static bool recall_name(struct local *local, const uint8_t uid[static HPL_KEY_UID_LEN], char name[static NAME_LEN + 5])
{
    char hex[2 * HPL_KEY_UID_LEN + 1];
    hpl_hex_encode(hex, uid, HPL_KEY_UID_LEN);
    pthread_mutex_lock(&local->lock);
    const char *found = json_string_value(json_object_get(local->names, hex));
    if (found)
        memcpy(name, found, strlen(found) + 1);
    pthread_mutex_unlock(&local->lock);
    return found != NULL;
}

static bool is_known(struct local *local, const uint8_t uid[static HPL_KEY_UID_LEN])
{
    char name[NAME_LEN + 5];
    return recall_name(local, uid, name);
}

typedef bool (*file_fn)(void *arg, const char *name, enum hpl_status status, const struct hpl_key_file *file);

static enum hpl_status each_file(struct hpl_call *call, struct local *local, file_fn fn, void *arg)
{
    DIR *dir = opendir(local->dir);
    if (!dir)
        return hpl_file_error(call, "cannot read the key folder", local->dir);
    bool is_more = true;
    for (struct dirent *entry; is_more && (entry = readdir(dir));) {
        struct hpl_key_file file;
        struct hpl_call quiet = {0};
        if (!is_file_name(entry->d_name))
            continue;
        enum hpl_status status = read_file(&quiet, local, entry->d_name, &file);
        if (status == HPL_OK && (file.revision || !is_known(local, file.uid)))
            learn(local, file.uid, entry->d_name); /* what a crash left waiting never hides the key's own file */
        is_more = fn(arg, entry->d_name, status, &file);
        hpl_key_file_wipe(&file);
    }
    closedir(dir);
    return HPL_OK;
}

static bool skip(void *arg, const char *name, enum hpl_status status, const struct hpl_key_file *file)
{
    (void)arg, (void)name, (void)status, (void)file;
    return true;
}

/* All names anew. */
static enum hpl_status list_folder(struct hpl_call *call, struct local *local)
{
    const struct timespec before = time_of_folder(local);
    HPL_TRY(each_file(call, local, skip, NULL));
    note_listed(local, before);
    return HPL_OK;
}

/* The name of the file with this uid: as known, else after reading the folder again where others changed it. */
static enum hpl_status name_of(struct hpl_call *call, struct local *local, const uint8_t uid[static HPL_KEY_UID_LEN], char name[static NAME_LEN + 5])
{
    if (recall_name(local, uid, name))
        return HPL_OK;
    if (!is_listed(local))
        HPL_TRY(list_folder(call, local));
    return recall_name(local, uid, name) ? HPL_OK : hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key folder %s has no file of this key", local->dir);
}

/* --- material ------------------------------------------------------------------------------------------------------------ */

static struct look look_now(void)
{
    return (struct look){hpl_clock_mono_ns(), atomic_load(&num_changes)};
}

static bool is_of(const struct cached *entry, const uint8_t *uid, uint32_t version)
{
    return entry->material && entry->version == version && memcmp(entry->uid, uid, HPL_KEY_UID_LEN) == 0;
}

/* Under the lock. */
static bool is_fresh(struct cached *entry, const struct look *look, bool must_not_wait)
{
    uint64_t age_ns = look->at_ns - entry->look.at_ns;
    if (entry->look.num_changes != look->num_changes || age_ns < LOOKED_FOR_NS || !must_not_wait)
        return entry->look.num_changes == look->num_changes && age_ns < LOOKED_FOR_NS;
    bool is_left = look->at_ns - (entry->left_ns > entry->look.at_ns ? entry->left_ns : entry->look.at_ns) < LEFT_EVERY_NS;
    if (!is_left)
        entry->left_ns = look->at_ns;
    return is_left && age_ns < LOOKED_FOR_QUICK_NS;
}

/* Of a file that was looked at just now. */
static struct hpl_secret *recall_fresh(struct local *local, const uint8_t *uid, uint32_t version, const struct look *look, bool must_not_wait)
{
    struct hpl_secret *found = NULL;
    pthread_mutex_lock(&local->lock);
    for (size_t i = 0; i < NUM_CACHED && !found; i++) {
        struct cached *entry = &local->cache[i];
        if (is_of(entry, uid, version) && is_fresh(entry, look, must_not_wait))
            found = hpl_secret_from(entry->material->bytes, entry->material->len);
    }
    pthread_mutex_unlock(&local->lock);
    return found;
}

static struct hpl_secret *recall_material(struct local *local, const uint8_t *uid, uint32_t version, const struct stat *st, const struct look *look)
{
    struct hpl_secret *found = NULL;
    pthread_mutex_lock(&local->lock);
    for (size_t i = 0; i < NUM_CACHED && !found; i++) {
        struct cached *entry = &local->cache[i];
        if (is_of(entry, uid, version) && entry->inode == st->st_ino && entry->changed.tv_sec == st->st_mtim.tv_sec && entry->changed.tv_nsec == st->st_mtim.tv_nsec) {
            found = hpl_secret_from(entry->material->bytes, entry->material->len);
            entry->look = *look;
        }
    }
    pthread_mutex_unlock(&local->lock);
    return found;
}

static void remember_material(struct local *local, const uint8_t *uid, uint32_t version, const struct stat *st, const struct look *look, const struct hpl_secret *material)
{
    pthread_mutex_lock(&local->lock);
    struct cached *entry = &local->cache[local->next++ % NUM_CACHED];
    hpl_secret_free(entry->material);
    *entry = (struct cached){.version = version, .inode = st->st_ino, .changed = st->st_mtim, .look = *look, .material = hpl_secret_from(material->bytes, material->len)};
    memcpy(entry->uid, uid, sizeof entry->uid);
    pthread_mutex_unlock(&local->lock);
}

static void forget_material(struct local *local, const uint8_t *uid, uint32_t version)
{
    pthread_mutex_lock(&local->lock);
    for (size_t i = 0; i < NUM_CACHED; i++) {
        struct cached *entry = &local->cache[i];
        if (is_of(entry, uid, version)) {
            hpl_secret_free(entry->material);
            *entry = (struct cached){0};
        }
    }
    pthread_mutex_unlock(&local->lock);
}

static enum hpl_status material_of(struct hpl_call *call, struct local *local, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version, struct hpl_secret **out)
{
    char name[NAME_LEN + 5], path[PATH_MAX + NAME_LEN + 8];
    struct stat st;
    struct hpl_key_file file;
    const struct look look = look_now();
    bool must_not_wait = call && call->must_not_wait;
    if ((*out = recall_fresh(local, uid, version, &look, must_not_wait)))
        return HPL_OK;
    if (must_not_wait)
        return HPL_WOULD_WAIT;
    HPL_TRY(name_of(call, local, uid, name));
    snprintf(path, sizeof path, "%s/%s", local->dir, name);
    if (stat(path, &st) != 0)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key file %s cannot be read: %s", path, strerror(errno));
    if ((*out = recall_material(local, uid, version, &st, &look)))
        return HPL_OK;
    enum hpl_status status = read_file(call, local, name, &file);
    if (status == HPL_OK && memcmp(file.uid, uid, HPL_KEY_UID_LEN) != 0)
        status = hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key file %s holds another key now", path);
    if (status == HPL_OK)
        status = hpl_key_file_material(call, &file, local->root, version, out);
    if (status == HPL_OK)
        remember_material(local, uid, version, &st, &look, *out);
    hpl_key_file_wipe(&file);
    return status;
}

/* --- the entries --------------------------------------------------------------------------------------------------------- */

static void close_store(struct hpl_keystore *keystore)
{
    struct local *local = local_of(keystore);
    for (size_t i = 0; i < NUM_CACHED; i++)
        hpl_secret_free(local->cache[i].material);
    json_decref(local->names);
    hpl_secret_free(local->root);
    if (local->lock_fd >= 0)
        close(local->lock_fd);
    pthread_mutex_destroy(&local->lock);
    pthread_mutex_destroy(&local->changing);
    free(local);
}

/* Seals, opens and uses material of the probe's own, without writing it down. */
static enum hpl_status round_trip(struct hpl_call *call, const struct local *local)
{
    static const uint8_t song[32] = "a key of the probe's own, in use";
    uint8_t sealed[sizeof song + HPL_LOCAL_TAG_LEN], opened[sizeof song], salt[HPL_LOCAL_SALT_LEN] = "the probe's salt";
    struct hpl_key_file file = {.uid = "probe"};
    struct hpl_secret *HPL_SECRET_AUTO material = NULL;
    enum hpl_status status = hpl_key_file_add(call, &file, local->root, 1);
    if (status == HPL_OK)
        status = hpl_key_file_material(call, &file, local->root, 1, &material);
    if (status == HPL_OK && !(hpl_local_seal(material, salt, hpl_bytes_str("probe"), hpl_bytes(NULL, 0), song, sizeof song, sealed) &&
                              hpl_local_open(material, salt, hpl_bytes_str("probe"), hpl_bytes(NULL, 0), sealed, sizeof song, opened) &&
                              memcmp(opened, song, sizeof song) == 0))
        status = hpl_fail(call, HPL_BACKEND, "a wrap and unwrap of the probe's own did not come back");
    hpl_key_file_wipe(&file);
    return status;
}

static enum hpl_status probe(struct hpl_keystore *keystore, struct hpl_call *call)
{
    struct local *local = local_of(keystore);
    if (access(local->dir, R_OK | W_OK | X_OK) != 0)
        return hpl_fail(call, HPL_BACKEND, "the key folder %s cannot be used: %s", local->dir, strerror(errno));
    return round_trip(call, local);
}

/* A file that went, or got another name or another key, is looked for anew next time. */
static enum hpl_status read_named(struct hpl_call *call, struct local *local, const uint8_t *uid, char name[static NAME_LEN + 5], struct hpl_key_file *file)
{
    HPL_TRY(name_of(call, local, uid, name));
    enum hpl_status status = read_file(call, local, name, file);
    if (status == HPL_OK && memcmp(file->uid, uid, HPL_KEY_UID_LEN) != 0) {
        hpl_key_file_wipe(file);
        status = HPL_NOT_FOUND;
    }
    if (status == HPL_NOT_FOUND)
        forget_name(local, uid);
    return status;
}

/* The file that has this uid, or an empty one that waits for its record. Under changing. */
static enum hpl_status file_of(struct hpl_call *call, struct local *local, const uint8_t *uid, char name[static NAME_LEN + 5], struct hpl_key_file *file)
{
    struct hpl_call sub = {0};
    *file = (struct hpl_key_file){0};
    enum hpl_status status = read_named(&sub, local, uid, name, file);
    if (status == HPL_NOT_FOUND)
        status = read_named(&sub, local, uid, name, file);
    if (status != HPL_KEY_UNAVAILABLE && status != HPL_NOT_FOUND)
        return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    waiting_name(uid, name);
    memcpy(file->uid, uid, sizeof file->uid);
    return HPL_OK;
}

static bool has_version(const struct hpl_key_file *file, uint32_t version)
{
    for (size_t i = 0; i < file->num_versions; i++)
        if (file->versions[i].number == version)
            return true;
    return false;
}

/* given: NULL makes new material where the version is not there yet. Under changing. */
static enum hpl_status add_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t *uid, uint32_t version, const struct hpl_secret *given)
{
    struct local *local = local_of(keystore);
    char name[NAME_LEN + 5];
    struct hpl_key_file file;
    enum hpl_status status = file_of(call, local, uid, name, &file);
    if (status == HPL_OK && given && has_version(&file, version))
        status = hpl_fail(call, HPL_CONFLICT, "version %u of this key has its material", version);
    else if (status == HPL_OK && given)
        status = hpl_key_file_add_given(call, &file, local->root, version, given);
    else if (status == HPL_OK)
        status = hpl_key_file_add(call, &file, local->root, version);
    if (status == HPL_OK)
        status = write_file(call, local, name, &file);
    if (status == HPL_OK)
        learn(local, uid, name);
    hpl_key_file_wipe(&file);
    return status;
}

/* A file without a record goes with its last version. */
static enum hpl_status remove_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t *uid, uint32_t version)
{
    struct local *local = local_of(keystore);
    char name[NAME_LEN + 5], path[PATH_MAX + NAME_LEN + 8];
    struct hpl_key_file file;
    enum hpl_status status = file_of(call, local, uid, name, &file);
    forget_material(local, uid, version);
    sweep_leftovers(local);
    if (status == HPL_OK) {
        hpl_key_file_remove(&file, version);
        if (file.revision || file.num_versions)
            status = write_file(call, local, name, &file);
        else {
            snprintf(path, sizeof path, "%s/%s", local->dir, name);
            status = unlink(path) == 0 || errno == ENOENT ? hpl_file_sync_dir(call, local->dir) : hpl_file_error(call, "cannot remove", path);
            atomic_fetch_add(&num_changes, 1);
        }
    }
    hpl_key_file_wipe(&file);
    return status;
}

static enum hpl_status change_versions(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t *uid, uint32_t version, bool is_add)
{
    HPL_TRY(begin_change(call, local_of(keystore)));
    enum hpl_status status = is_add ? add_version(keystore, call, uid, version, NULL) : remove_version(keystore, call, uid, version);
    end_change(local_of(keystore));
    return status;
}

static enum hpl_status import_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                      const struct hpl_secret *material)
{
    if (material->len != HPL_LOCAL_KEY_LEN)
        return hpl_fail(call, HPL_INVALID_REQUEST, "imported material must have %u bytes", HPL_LOCAL_KEY_LEN);
    HPL_TRY(begin_change(call, local_of(keystore)));
    enum hpl_status status = add_version(keystore, call, uid, version, material);
    end_change(local_of(keystore));
    return status;
}

static enum hpl_status create_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    return change_versions(keystore, call, uid, version, true);
}

static enum hpl_status destroy_version(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    return change_versions(keystore, call, uid, version, false);
}

static uint8_t mechanism(struct hpl_keystore *keystore)
{
    (void)keystore;
    return HPL_MECH_LOCAL_GCM;
}

static enum hpl_status wrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    struct hpl_secret *HPL_SECRET_AUTO material = NULL;
    HPL_CHECK(secret->len >= 16 && secret->len <= 64);
    HPL_TRY(material_of(call, local_of(keystore), uid, version, &material));
    *out = (struct hpl_wrapped){.mechanism = HPL_MECH_LOCAL_GCM, .iv_len = HPL_LOCAL_SALT_LEN, .ct_len = (uint16_t)(secret->len + HPL_LOCAL_TAG_LEN)};
    if (!hpl_random(out->iv, HPL_LOCAL_SALT_LEN) || !hpl_local_seal(material, out->iv, hpl_bytes_str("hpl-local-wrap-v1"), hpl_bytes(aad, HPL_WRAP_AAD_LEN),
                                                                       secret->bytes, secret->len, out->ct))
        return hpl_fail(call, HPL_INTERNAL, "wrapping failed");
    return HPL_OK;
}

static enum hpl_status unwrap(struct hpl_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO material = NULL;
    *out = NULL;
    if (wrapped->mechanism != HPL_MECH_LOCAL_GCM || wrapped->iv_len != HPL_LOCAL_SALT_LEN || wrapped->ct_len < 16 + HPL_LOCAL_TAG_LEN ||
        wrapped->ct_len > 64 + HPL_LOCAL_TAG_LEN)
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
    HPL_TRY(material_of(call, local_of(keystore), uid, version, &material));
    struct hpl_secret *opened = hpl_secret_new(wrapped->ct_len - HPL_LOCAL_TAG_LEN);
    if (!opened)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (hpl_local_open(material, wrapped->iv, hpl_bytes_str("hpl-local-wrap-v1"), hpl_bytes(aad, HPL_WRAP_AAD_LEN), wrapped->ct, opened->len, opened->bytes)) {
        *out = opened;
        return HPL_OK;
    }
    hpl_secret_free(opened);
    return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "%s", hpl_status_row(HPL_INVALID_CIPHERTEXT)->text);
}

static enum hpl_status record_get(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, struct hpl_buf *content, uint64_t *revision)
{
    struct local *local = local_of(keystore);
    char name[NAME_LEN + 5];
    struct hpl_key_file file;
    struct hpl_call sub = {0};
    file_name(key_id, name);
    enum hpl_status status = read_file(&sub, local, name, &file);
    if (status == HPL_OK && file.revision) {
        learn(local, file.uid, name);
        hpl_buf_put_bytes(content, hpl_buf_bytes(&file.record));
        *revision = file.revision;
        status = hpl_buf_check(content);
    } else if (status == HPL_OK)
        status = HPL_NOT_FOUND;
    hpl_key_file_wipe(&file);
    return status == HPL_OK || status == HPL_NOT_FOUND ? status : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

/* Takes the versions that wait for this record's uid. Under changing. */
static enum hpl_status fetch_waiting(struct hpl_call *call, struct local *local, const uint8_t *uid, struct hpl_key_file *file, char waiting[static NAME_LEN + 5])
{
    struct hpl_key_file other;
    struct hpl_call quiet = {0};
    waiting_name(uid, waiting);
    enum hpl_status status = read_file(&quiet, local, waiting, &other);
    if (status == HPL_OK && memcmp(other.uid, uid, HPL_KEY_UID_LEN) == 0 && !other.revision) {
        file->versions = other.versions;
        file->num_versions = other.num_versions;
        other.versions = NULL;
    } else
        waiting[0] = '\0';
    hpl_key_file_wipe(&other);
    return status == HPL_OK || status == HPL_NOT_FOUND ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
}

static enum hpl_status put_locked(struct hpl_call *call, struct local *local, const char *key_id, const uint8_t *uid, uint64_t expected, struct hpl_bytes content)
{
    char name[NAME_LEN + 5], waiting[NAME_LEN + 5] = "", path[PATH_MAX + NAME_LEN + 8];
    struct hpl_key_file file;
    struct hpl_call quiet = {0};
    file_name(key_id, name);
    enum hpl_status status = read_file(&quiet, local, name, &file);
    if (status != HPL_OK && status != HPL_NOT_FOUND)
        return hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
    if (file.revision != expected) {
        hpl_key_file_wipe(&file);
        return hpl_fail(call, HPL_STALE, "the record of the key '%.80s' changed meanwhile", key_id);
    }
    if (memcmp(file.uid, uid, HPL_KEY_UID_LEN) != 0) { /* the first record of this uid here: another key's material does not stay */
        free(file.versions);
        file.versions = NULL;
        file.num_versions = 0;
    }
    status = file.num_versions ? HPL_OK : fetch_waiting(call, local, uid, &file, waiting);
    if (status == HPL_OK) {
        memcpy(file.uid, uid, sizeof file.uid);
        memcpy(file.key_id, key_id, strlen(key_id) + 1);
        file.revision = expected + 1;
        file.record.len = 0;
        hpl_buf_put_bytes(&file.record, content);
        status = write_file(call, local, name, &file);
    }
    if (status == HPL_OK) {
        learn(local, uid, name);
        snprintf(path, sizeof path, "%s/%s", local->dir, waiting);
        if (waiting[0])
            unlink(path);
    }
    hpl_key_file_wipe(&file);
    return status;
}

static enum hpl_status record_put(struct hpl_keystore *keystore, struct hpl_call *call, const char *key_id, const uint8_t uid[static HPL_KEY_UID_LEN],
                                  uint64_t expected, struct hpl_bytes content, uint64_t *revision)
{
    struct local *local = local_of(keystore);
    HPL_TRY(begin_change(call, local));
    enum hpl_status status = put_locked(call, local, key_id, uid, expected, content);
    end_change(local);
    if (status == HPL_OK && revision)
        *revision = expected + 1;
    return status;
}

struct row {
    char key_id[HPL_KEY_ID_MAX + 1];
    uint64_t revision;
    enum hpl_status status;
    struct hpl_buf content;
};

struct rows {
    struct row *list;
    size_t count, cap;
    bool is_failed;
};

static bool collect(void *arg, const char *name, enum hpl_status status, const struct hpl_key_file *file)
{
    struct rows *rows = arg;
    if (status == HPL_OK && !file->revision)
        return true; /* material that waits for its record */
    if (rows->count == rows->cap) {
        size_t cap = rows->cap ? 2 * rows->cap : 64;
        struct row *grown = realloc(rows->list, cap * sizeof *grown);
        if (!grown) {
            rows->is_failed = true;
            return false;
        }
        rows->list = grown;
        rows->cap = cap;
    }
    struct row *row = &rows->list[rows->count++];
    *row = (struct row){.status = status, .revision = file->revision};
    snprintf(row->key_id, sizeof row->key_id, "%s", status == HPL_OK ? file->key_id : name);
    if (status == HPL_OK)
        hpl_buf_put_bytes(&row->content, hpl_buf_bytes(&file->record));
    return true;
}

static int compare_rows(const void *a, const void *b)
{
    return strcmp(((const struct row *)a)->key_id, ((const struct row *)b)->key_id);
}

static enum hpl_status record_list(struct hpl_keystore *keystore, struct hpl_call *call, const char *after, size_t limit, hpl_record_fn fn, void *arg)
{
    struct rows rows = {0};
    enum hpl_status status = each_file(call, local_of(keystore), collect, &rows);
    if (rows.is_failed)
        status = HPL_NO_MEMORY;
    if (rows.count)
        qsort(rows.list, rows.count, sizeof *rows.list, compare_rows);
    size_t given = 0;
    bool is_more = status == HPL_OK;
    for (size_t i = 0; i < rows.count; i++) {
        struct row *row = &rows.list[i];
        if (is_more && given < limit && (!after || strcmp(row->key_id, after) > 0)) {
            is_more = fn(arg, row->key_id, row->revision, row->status, hpl_buf_bytes(&row->content));
            given++;
        }
        hpl_buf_wipe(&row->content);
    }
    free(rows.list);
    return status;
}

static json_t *describe(struct hpl_keystore *keystore)
{
    return json_pack("{s:s, s:s, s:s}", "engine_type", "local", "mechanism", "aes-256-gcm, a key per wrap", "key_dir", local_of(keystore)->dir);
}

static const struct hpl_keystore_ops ops = {
    .size = sizeof(struct hpl_keystore_ops), .name = "local", .is_quick = true, .close = close_store, .probe = probe, .create_version = create_version,
    .destroy_version = destroy_version, .mechanism = mechanism, .wrap = wrap, .unwrap = unwrap, .record_get = record_get,
    .record_put = record_put, .record_list = record_list, .describe = describe, .import_version = import_version,
};

/* --- opening ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status validate(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env)
{
    char dir[PATH_MAX];
    int64_t permissions = FILE_PERMISSIONS;
    HPL_TRY(hpl_json_int(call, config, "file_permissions", 0, 07777, &permissions));
    if (permissions != FILE_PERMISSIONS)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'file_permissions' must be %d (0600): key files are the daemon's alone", FILE_PERMISSIONS);
    return hpl_local_place(call, config, env, dir);
}

static enum hpl_status open_folder(struct hpl_call *call, struct local *local)
{
    char path[PATH_MAX + 8];
    HPL_TRY(hpl_local_own(call, local->dir));
    snprintf(path, sizeof path, "%s/.lock", local->dir);
    local->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (local->lock_fd < 0)
        return hpl_file_error(call, "cannot open", path);
    HPL_TRY(begin_change(call, local));
    sweep_leftovers(local);
    enum hpl_status status = hpl_local_identity(call, local->dir, local->root, local->identity);
    end_change(local);
    return status;
}

static enum hpl_status open_store(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    struct local *local = calloc(1, sizeof *local);
    *out = NULL;
    if (!local)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    local->base.ops = &ops;
    local->lock_fd = -1;
    local->names = json_object();
    local->root = hpl_secret_from(env->root->bytes, env->root->len);
    local->lock = (pthread_mutex_t)PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP; /* held for nanoseconds by every wrap */
    pthread_mutex_init(&local->changing, NULL);
    enum hpl_status status = local->root ? hpl_local_place(call, config, env, local->dir) : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (status == HPL_OK)
        status = open_folder(call, local);
    if (status == HPL_OK)
        status = list_folder(call, local);
    if (status == HPL_OK)
        *out = &local->base;
    else
        close_store(&local->base);
    return status;
}

static enum hpl_status identity(struct hpl_call *call, struct hpl_keystore *keystore, const json_t *config, const struct hpl_backend_env *env, struct hpl_buf *out)
{
    (void)call, (void)config, (void)env;
    hpl_buf_printf(out, "local:%s", local_of(keystore)->identity);
    return hpl_buf_check(out);
}

static json_t *summary(const json_t *config, const struct hpl_backend_env *env)
{
    char dir[PATH_MAX];
    if (hpl_local_place(NULL, config, env, dir) != HPL_OK)
        dir[0] = '\0';
    return json_pack("{s:s, s:s}", "backend_type", "local", "key_dir", dir);
}

static const char *const aliases[] = {"file", NULL};
static const char *const fields[] = {"key_dir", "file_permissions", NULL};

const struct hpl_backend hpl_backend_local = {
    .name = "local", .aliases = aliases, .validate = validate, .identity = identity, .open = open_store, .summary = summary,
    .fields = fields,
};
