/* Credentials and what they allow. Any thread; one mutex around the cache of unsealed secrets, never held over the catalog. */
#include "auth/canonical.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define ROW_TYPE "credential"
#define NUM_CACHED 256u
#define HPL_AUTH_SCOPE_MAX 159u
#define CACHED_FOR_NS UINT64_C(5000000000) /* how late a change made by another process is seen */

struct cached {
    struct hpl_identity identity;
    struct hpl_secret *secret_key; /* NULL: free */
    uint64_t until_ns;
    char scope[HPL_AUTH_SCOPE_MAX + 1];
    struct hpl_secret *signing_key; /* under that scope; NULL: none was asked for yet */
};

struct hpl_auth {
    struct hpl_catalog *catalog;
    pthread_mutex_t lock;
    struct cached cache[NUM_CACHED];
    size_t next;          /* where the cache is overwritten next */
    uint64_t num_changes; /* by this process: what was read before one is not remembered after it */
};

enum hpl_status hpl_auth_open(struct hpl_call *call, struct hpl_auth **out, struct hpl_catalog *catalog)
{
    *out = calloc(1, sizeof **out);
    if (!*out)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    (*out)->catalog = catalog;
    pthread_mutex_init(&(*out)->lock, NULL);
    return HPL_OK;
}

static void empty_entry(struct cached *entry)
{
    hpl_secret_free(entry->secret_key);
    hpl_secret_free(entry->signing_key);
    *entry = (struct cached){0};
}

void hpl_auth_close(struct hpl_auth *auth)
{
    if (!auth)
        return;
    for (size_t i = 0; i < NUM_CACHED; i++)
        empty_entry(&auth->cache[i]);
    pthread_mutex_destroy(&auth->lock);
    free(auth);
}

/* --- the cache ----------------------------------------------------------------------------------------------------------- */

static struct cached *find_cached(struct hpl_auth *auth, const char *access_key)
{
    for (size_t i = 0; i < NUM_CACHED; i++)
        if (auth->cache[i].secret_key && strcmp(auth->cache[i].identity.access_key, access_key) == 0)
            return &auth->cache[i];
    return NULL;
}

static void forget(struct hpl_auth *auth, const char *access_key)
{
    pthread_mutex_lock(&auth->lock);
    struct cached *entry = find_cached(auth, access_key);
    if (entry)
        empty_entry(entry);
    auth->num_changes++;
    pthread_mutex_unlock(&auth->lock);
}

static uint64_t changes_so_far(struct hpl_auth *auth)
{
    pthread_mutex_lock(&auth->lock);
    uint64_t count = auth->num_changes;
    pthread_mutex_unlock(&auth->lock);
    return count;
}

/* What was read when there had been so many changes; a full secret region only means that nothing is remembered. */
static void remember(struct hpl_auth *auth, const struct hpl_identity *identity, const struct hpl_secret *secret_key, uint64_t changes)
{
    pthread_mutex_lock(&auth->lock);
    if (auth->num_changes == changes) {
        struct cached *entry = find_cached(auth, identity->access_key);
        if (!entry)
            entry = &auth->cache[auth->next++ % NUM_CACHED];
        empty_entry(entry);
        *entry = (struct cached){.identity = *identity, .secret_key = hpl_secret_from(secret_key->bytes, secret_key->len),
                                 .until_ns = hpl_clock_mono_ns() + CACHED_FOR_NS};
    }
    pthread_mutex_unlock(&auth->lock);
}

static bool recall(struct hpl_auth *auth, const char *access_key, struct hpl_identity *identity, struct hpl_secret **secret_key)
{
    pthread_mutex_lock(&auth->lock);
    struct cached *entry = find_cached(auth, access_key);
    if (entry && entry->until_ns < hpl_clock_mono_ns())
        empty_entry(entry);
    else if (entry) {
        *identity = entry->identity;
        *secret_key = hpl_secret_from(entry->secret_key->bytes, entry->secret_key->len);
    }
    pthread_mutex_unlock(&auth->lock);
    return *secret_key != NULL;
}

static bool recall_signing_key(struct hpl_auth *auth, const char *access_key, const char *scope, struct hpl_identity *identity, struct hpl_secret **key)
{
    pthread_mutex_lock(&auth->lock);
    const struct cached *entry = find_cached(auth, access_key);
    if (entry && entry->signing_key && entry->until_ns >= hpl_clock_mono_ns() && strcmp(entry->scope, scope) == 0) {
        *identity = entry->identity;
        *key = hpl_secret_from(entry->signing_key->bytes, entry->signing_key->len);
    }
    pthread_mutex_unlock(&auth->lock);
    return *key != NULL;
}

/* Only beside the secret key that it was made of, and no longer than that. */
static void remember_signing_key(struct hpl_auth *auth, const char *access_key, const char *scope, const struct hpl_secret *secret_key, const struct hpl_secret *key)
{
    pthread_mutex_lock(&auth->lock);
    struct cached *entry = find_cached(auth, access_key);
    if (entry && strlen(scope) <= HPL_AUTH_SCOPE_MAX && entry->secret_key->len == secret_key->len &&
        hpl_equal_secret(entry->secret_key->bytes, secret_key->bytes, secret_key->len)) {
        hpl_secret_free(entry->signing_key);
        entry->signing_key = hpl_secret_from(key->bytes, key->len);
        memcpy(entry->scope, scope, strlen(scope) + 1);
    }
    pthread_mutex_unlock(&auth->lock);
}

/* --- rows ---------------------------------------------------------------------------------------------------------------- */

static bool is_access_key(const char *text)
{
    size_t len = strlen(text);
    return len >= 3 && len <= HPL_ACCESS_KEY_MAX &&
           strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == len;
}

static bool is_secret_key(const struct hpl_secret *secret)
{
    for (size_t i = 0; i < secret->len; i++)
        if (secret->bytes[i] < 0x21 || secret->bytes[i] > 0x7e)
            return false;
    return secret->len >= 8 && secret->len <= 128;
}

/* Sealed secrets of other rooms have labels of their own. */
static void label_of(char label[static HPL_ACCESS_KEY_MAX + 16], const char *access_key)
{
    snprintf(label, HPL_ACCESS_KEY_MAX + 16, ROW_TYPE "/%s", access_key);
}

static const char *const role_names[] = {[HPL_ROLE_OBJECTS] = "objects", [HPL_ROLE_ADMIN] = "admin"};

static enum hpl_status encode_row(struct hpl_call *call, struct hpl_auth *auth, const char *access_key,
                                  const struct hpl_secret *secret_key, enum hpl_role role, struct hpl_buf *row)
{
    char label[HPL_ACCESS_KEY_MAX + 16];
    struct hpl_buf sealed = {0}, text = {0};
    label_of(label, access_key);
    enum hpl_status status = hpl_catalog_seal(call, auth->catalog, label, secret_key, &sealed);
    if (status == HPL_OK) {
        hpl_base64_put(&text, sealed.data, sealed.len);
        json_t *HPL_JSON_AUTO value = json_pack("{s:s, s:I, s:s%}", "role", role_names[role], "created_ms",
                                                (json_int_t)hpl_clock_unix_ms(), "secret", (const char *)text.data, text.len);
        status = value ? hpl_json_put(row, value) : hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    }
    hpl_buf_wipe(&sealed);
    hpl_buf_wipe(&text);
    return status;
}

/* False for a row that encode_row did not make. */
static bool read_row(struct hpl_bytes row, enum hpl_role *role, struct hpl_buf *sealed)
{
    json_t *HPL_JSON_AUTO value = NULL;
    const char *role_text = NULL, *secret_text = NULL;
    if (hpl_json_object(NULL, &value, row, 65536, false) != HPL_OK || hpl_json_str(NULL, value, "role", &role_text) != HPL_OK ||
        hpl_json_str(NULL, value, "secret", &secret_text) != HPL_OK || !role_text || !secret_text)
        return false;
    for (size_t i = 0; i < HPL_COUNT(role_names); i++)
        if (strcmp(role_text, role_names[i]) == 0) {
            *role = (enum hpl_role)i;
            return hpl_base64_decode(sealed, secret_text, strlen(secret_text));
        }
    return false;
}

static enum hpl_status decode_row(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, struct hpl_bytes row,
                                  enum hpl_role *role, struct hpl_secret **secret_key)
{
    char label[HPL_ACCESS_KEY_MAX + 16];
    struct hpl_buf sealed = {0};
    label_of(label, access_key);
    enum hpl_status status = read_row(row, role, &sealed)
                                 ? hpl_catalog_unseal(call, auth->catalog, label, hpl_buf_bytes(&sealed), secret_key)
                                 : hpl_fail(call, HPL_INTEGRITY, "the credential '%s' in the catalog is damaged", access_key);
    hpl_buf_wipe(&sealed);
    return status;
}

enum hpl_status hpl_auth_put_credential(struct hpl_call *call, struct hpl_auth *auth, const char *access_key,
                                        const struct hpl_secret *secret_key, enum hpl_role role)
{
    struct hpl_buf row = {0}, old = {0};
    uint64_t revision = 0;
    if (!is_access_key(access_key))
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "an access key has 3 to 128 of A-Z a-z 0-9 . _ -");
    if (!is_secret_key(secret_key))
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "the secret key of '%s' must have 8 to 128 printable characters without spaces",
                        access_key);
    enum hpl_status status = hpl_catalog_get(call, auth->catalog, ROW_TYPE, access_key, &old, &revision);
    if (status == HPL_OK || status == HPL_NOT_FOUND)
        status = encode_row(call, auth, access_key, secret_key, role, &row);
    if (status == HPL_OK)
        status = hpl_catalog_put(call, auth->catalog, ROW_TYPE, access_key, revision, hpl_buf_bytes(&row), NULL);
    forget(auth, access_key);
    hpl_buf_wipe(&row);
    hpl_buf_wipe(&old);
    return status;
}

#define PAGE 64u

struct page {
    const char *const *kept;
    size_t num_kept, count;
    char last[HPL_ACCESS_KEY_MAX + 1];
    struct {
        char access_key[HPL_ACCESS_KEY_MAX + 1];
        uint64_t revision;
        bool is_kept, is_damaged;
    } rows[PAGE];
};

static bool is_among(const char *name, const char *const *names, size_t num_names)
{
    for (size_t i = 0; i < num_names; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

static bool note_row(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct page *page = arg;
    (void)content;
    snprintf(page->last, sizeof page->last, "%s", name);
    snprintf(page->rows[page->count].access_key, sizeof page->last, "%s", name);
    page->rows[page->count].revision = revision;
    page->rows[page->count].is_kept = is_among(name, page->kept, page->num_kept);
    page->rows[page->count].is_damaged = status != HPL_OK || revision == 0;
    page->count++;
    return true;
}

enum hpl_status hpl_auth_keep_only(struct hpl_call *call, struct hpl_auth *auth, const char *const *access_keys, size_t num_access_keys)
{
    struct page page = {.kept = access_keys, .num_kept = num_access_keys};
    do {
        page.count = 0;
        HPL_TRY(hpl_catalog_list(call, auth->catalog, ROW_TYPE, page.last[0] ? page.last : NULL, PAGE, note_row, &page));
        for (size_t i = 0; i < page.count; i++) {
            if (page.rows[i].is_kept)
                continue;
            if (page.rows[i].is_damaged) /* left alone, it might be put right again behind our back, and sign */
                return hpl_fail(call, HPL_INTEGRITY, "the credential '%.40s' is to be removed, but its row was changed: restore the catalog from one backup", page.rows[i].access_key);
            HPL_TRY(hpl_catalog_delete(call, auth->catalog, ROW_TYPE, page.rows[i].access_key, page.rows[i].revision));
            forget(auth, page.rows[i].access_key);
        }
    } while (page.count == PAGE);
    return HPL_OK;
}

static enum hpl_status load(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, struct hpl_identity *identity,
                            struct hpl_secret **secret_key)
{
    struct hpl_buf row = {0};
    uint64_t revision;
    *identity = (struct hpl_identity){0};
    memcpy(identity->access_key, access_key, strlen(access_key) + 1);
    enum hpl_status status = hpl_catalog_get(call, auth->catalog, ROW_TYPE, access_key, &row, &revision);
    if (status == HPL_OK)
        status = decode_row(call, auth, access_key, hpl_buf_bytes(&row), &identity->role, secret_key);
    hpl_buf_wipe(&row);
    return status == HPL_NOT_FOUND ? HPL_AUTH_UNKNOWN_KEY : status;
}

enum hpl_status hpl_auth_find(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, struct hpl_identity *identity,
                              struct hpl_secret **secret_key)
{
    *secret_key = NULL;
    if (!is_access_key(access_key))
        return HPL_AUTH_UNKNOWN_KEY;
    if (recall(auth, access_key, identity, secret_key))
        return HPL_OK;
    if (call && call->must_not_wait)
        return HPL_WOULD_WAIT;
    uint64_t changes = changes_so_far(auth);
    HPL_TRY(load(call, auth, access_key, identity, secret_key));
    remember(auth, identity, *secret_key, changes);
    return HPL_OK;
}

enum hpl_status hpl_auth_find_signing_key(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, const char *scope,
                                          struct hpl_identity *identity, struct hpl_secret **key)
{
    struct hpl_secret *HPL_SECRET_AUTO secret_key = NULL;
    *key = NULL;
    if (recall_signing_key(auth, access_key, scope, identity, key))
        return HPL_OK;
    HPL_TRY(hpl_auth_find(call, auth, access_key, identity, &secret_key));
    struct hpl_secret *made = hpl_secret_new(32);
    if (!made)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (!hpl_signing_key(made->bytes, secret_key, scope)) {
        hpl_secret_free(made);
        return HPL_AUTH_BAD_SIGNATURE;
    }
    remember_signing_key(auth, access_key, scope, secret_key, made);
    *key = made;
    return HPL_OK;
}

enum hpl_status hpl_auth_allows(struct hpl_call *call, const struct hpl_identity *identity, const char *action)
{
    if (identity->role == HPL_ROLE_ADMIN || (identity->role == HPL_ROLE_OBJECTS && strncmp(action, "s3:", 3) == 0))
        return HPL_OK;
    return hpl_fail(call, HPL_ACCESS_DENIED, "'%s' may not %s", identity->access_key, action);
}

void hpl_auth_set_caller(struct hpl_call *call, const struct hpl_identity *identity)
{
    call->principal = identity->access_key;
    call->role = identity->role == HPL_ROLE_ADMIN ? "admin" : "objects";
}
