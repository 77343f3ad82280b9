/* Credentials and what they allow. Any thread; one mutex around the cache of unsealed secrets. */
#include "auth/auth.h"

#include <pthread.h>
#include <stdlib.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define ROW_TYPE "credential"
#define NUM_CACHED 256u

struct cached {
    char access_key[HPL_ACCESS_KEY_MAX + 1];
    enum hpl_role role;
    struct hpl_secret *secret_key;
};

struct hpl_auth {
    struct hpl_catalog *catalog;
    pthread_mutex_t lock;
    struct cached cache[NUM_CACHED];
    size_t next; /* where the cache is overwritten next */
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

void hpl_auth_close(struct hpl_auth *auth)
{
    if (!auth)
        return;
    for (size_t i = 0; i < NUM_CACHED; i++)
        hpl_secret_free(auth->cache[i].secret_key);
    pthread_mutex_destroy(&auth->lock);
    free(auth);
}

/* --- the cache ----------------------------------------------------------------------------------------------------------- */

static struct cached *find_cached(struct hpl_auth *auth, const char *access_key)
{
    for (size_t i = 0; i < NUM_CACHED; i++)
        if (auth->cache[i].secret_key && strcmp(auth->cache[i].access_key, access_key) == 0)
            return &auth->cache[i];
    return NULL;
}

static void forget(struct hpl_auth *auth, const char *access_key)
{
    pthread_mutex_lock(&auth->lock);
    struct cached *entry = find_cached(auth, access_key);
    if (entry) {
        hpl_secret_free(entry->secret_key);
        *entry = (struct cached){0};
    }
    pthread_mutex_unlock(&auth->lock);
}

static void remember(struct hpl_auth *auth, const struct hpl_identity *identity, const struct hpl_secret *secret_key)
{
    pthread_mutex_lock(&auth->lock);
    struct cached *entry = find_cached(auth, identity->access_key);
    if (!entry)
        entry = &auth->cache[auth->next++ % NUM_CACHED];
    hpl_secret_free(entry->secret_key);
    *entry = (struct cached){.role = identity->role, .secret_key = hpl_secret_from(secret_key->bytes, secret_key->len)};
    memcpy(entry->access_key, identity->access_key, sizeof entry->access_key);
    pthread_mutex_unlock(&auth->lock);
}

static bool recall(struct hpl_auth *auth, const char *access_key, struct hpl_identity *identity, struct hpl_secret **secret_key)
{
    pthread_mutex_lock(&auth->lock);
    const struct cached *entry = find_cached(auth, access_key);
    if (entry) {
        *identity = (struct hpl_identity){.role = entry->role};
        memcpy(identity->access_key, entry->access_key, sizeof identity->access_key);
        *secret_key = hpl_secret_from(entry->secret_key->bytes, entry->secret_key->len);
    }
    pthread_mutex_unlock(&auth->lock);
    return entry && *secret_key;
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

static enum hpl_status encode_row(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, const struct hpl_secret *secret_key,
                                  enum hpl_role role, struct hpl_buf *row)
{
    struct hpl_buf sealed = {0}, text = {0};
    enum hpl_status status = hpl_catalog_seal(call, auth->catalog, access_key, secret_key, &sealed);
    if (status == HPL_OK) {
        hpl_base64_put(&text, sealed.data, sealed.len);
        json_t *HPL_JSON_AUTO value = json_pack("{s:s, s:I, s:s%}", "role", role == HPL_ROLE_ADMIN ? "admin" : "objects", "created_ms",
                                                (json_int_t)hpl_clock_unix_ms(), "secret", (const char *)text.data, text.len);
        status = value ? hpl_json_put(row, value) : HPL_NO_MEMORY;
    }
    hpl_buf_wipe(&sealed);
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status decode_row(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, struct hpl_bytes row,
                                  enum hpl_role *role, struct hpl_secret **secret_key)
{
    json_t *HPL_JSON_AUTO value = NULL;
    const char *role_text = NULL, *secret_text = NULL;
    struct hpl_buf sealed = {0};
    HPL_TRY(hpl_json_object(call, &value, row, 65536, false));
    HPL_TRY(hpl_json_str(call, value, "role", &role_text));
    HPL_TRY(hpl_json_str(call, value, "secret", &secret_text));
    if (!role_text || !secret_text || !hpl_base64_decode(&sealed, secret_text, strlen(secret_text)))
        return hpl_fail(call, HPL_INTEGRITY, "the credential '%s' in the catalog is damaged", access_key);
    *role = strcmp(role_text, "admin") == 0 ? HPL_ROLE_ADMIN : HPL_ROLE_OBJECTS;
    enum hpl_status status = hpl_catalog_unseal(call, auth->catalog, access_key, hpl_buf_bytes(&sealed), secret_key);
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
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "the secret key of '%s' must have 8 to 128 printable characters without spaces", access_key);
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

/* count characters of a 64-letter alphabet. */
static void random_text(char *out, size_t count, const char *alphabet)
{
    HPL_CHECK(RAND_priv_bytes((unsigned char *)out, (int)count) == 1);
    for (size_t i = 0; i < count; i++)
        out[i] = alphabet[(uint8_t)out[i] % 64];
}

enum hpl_status hpl_auth_new_credential(struct hpl_call *call, struct hpl_auth *auth, enum hpl_role role,
                                        char access_key[static HPL_ACCESS_KEY_MAX + 1], struct hpl_secret **secret_key)
{
    *secret_key = hpl_secret_new(40);
    if (!*secret_key)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    random_text(access_key, 20, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567ABCDEFGHIJKLMNOPQRSTUVWXYZ234567");
    access_key[20] = '\0';
    random_text((char *)(*secret_key)->bytes, 40, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
    enum hpl_status status = hpl_auth_put_credential(call, auth, access_key, *secret_key, role);
    if (status != HPL_OK) {
        hpl_secret_free(*secret_key);
        *secret_key = NULL;
    }
    return status;
}

enum hpl_status hpl_auth_find(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, struct hpl_identity *identity,
                              struct hpl_secret **secret_key)
{
    struct hpl_buf row = {0};
    uint64_t revision;
    *secret_key = NULL;
    if (!is_access_key(access_key))
        return HPL_AUTH_UNKNOWN_KEY;
    if (recall(auth, access_key, identity, secret_key))
        return HPL_OK;
    enum hpl_status status = hpl_catalog_get(call, auth->catalog, ROW_TYPE, access_key, &row, &revision);
    *identity = (struct hpl_identity){0};
    memcpy(identity->access_key, access_key, strlen(access_key) + 1);
    if (status == HPL_OK)
        status = decode_row(call, auth, access_key, hpl_buf_bytes(&row), &identity->role, secret_key);
    if (status == HPL_OK)
        remember(auth, identity, *secret_key);
    hpl_buf_wipe(&row);
    return status == HPL_NOT_FOUND ? HPL_AUTH_UNKNOWN_KEY : status;
}

enum hpl_status hpl_auth_allows(struct hpl_call *call, const struct hpl_identity *identity, const char *action)
{
    if (identity->role == HPL_ROLE_ADMIN || (identity->role == HPL_ROLE_OBJECTS && strncmp(action, "s3:", 3) == 0))
        return HPL_OK;
    return hpl_fail(call, HPL_ACCESS_DENIED, "'%s' may not %s", identity->access_key, action);
}
