/* The embedded form of the key service. Any thread of the host; starts none of its own. */
#include "hardplate/hardplate.h"

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "backends/backends.h"
#include "base/clock.h"
#include "base/file.h"
#include "catalog/catalog.h"
#include "kms/kms.h"

#define EXPORT __attribute__((visibility("default")))
#define MAX_PAIRS 64u
#define SWEEP_EVERY_NS 1000000000u

struct hardplate {
    char state_dir[PATH_MAX];
    int lock_fd;
    json_t *tokens_json;
    struct hpl_token_option *tokens;
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
    struct hpl_backend_env env;
    struct hpl_kms *kms;
    _Atomic uint64_t next_sweep_ns;
};

static int finish(const struct hpl_call *call, enum hpl_status status, char *error, size_t error_size)
{
    if (status != HPL_OK && error && error_size)
        snprintf(error, error_size, "%s", hpl_detail(call, status));
    return (int)status;
}

static enum hpl_status read_tokens(struct hpl_call *call, struct hardplate *handle, const char *text)
{
    size_t i;
    json_t *row;
    json_error_t where;
    handle->tokens_json = text ? json_loads(text, JSON_REJECT_DUPLICATES, &where) : json_array();
    if (!json_is_array(handle->tokens_json))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the tokens must be a JSON array of objects");
    handle->tokens = calloc(json_array_size(handle->tokens_json) + 1, sizeof *handle->tokens);
    if (!handle->tokens)
        return HPL_NO_MEMORY;
    json_array_foreach(handle->tokens_json, i, row)
    {
        struct hpl_token_option *token = &handle->tokens[i];
        HPL_TRY(hpl_json_str(call, row, "name", &token->name));
        HPL_TRY(hpl_json_str(call, row, "uri", &token->uri));
        HPL_TRY(hpl_json_str(call, row, "module", &token->module));
        HPL_TRY(hpl_json_str(call, row, "pin_source", &token->pin_source));
        if (!token->name || !token->uri || !token->pin_source)
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token %zu needs name, uri and pin_source", i);
    }
    handle->env.tokens = handle->tokens;
    handle->env.num_tokens = json_array_size(handle->tokens_json);
    return HPL_OK;
}

static enum hpl_status lock_state(struct hpl_call *call, struct hardplate *handle)
{
    char path[PATH_MAX + 8];
    HPL_TRY(hpl_file_make_dir(call, handle->state_dir));
    HPL_TRY(hpl_file_own_dir(call, handle->state_dir));
    snprintf(path, sizeof path, "%s/lock", handle->state_dir);
    handle->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (handle->lock_fd < 0)
        return hpl_file_error(call, "cannot open", path);
    if (flock(handle->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return hpl_fail(call, HPL_CONFLICT, "%s is in use by another process", handle->state_dir);
    return HPL_OK;
}

static enum hpl_status open_kms(struct hpl_call *call, struct hardplate *handle, const char *kms_json)
{
    char path[PATH_MAX + 16];
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO configured = NULL;
    json_t *HPL_JSON_AUTO started = NULL;
    HPL_TRY(hpl_json_object(call, &body, hpl_bytes_str(kms_json), 1u << 20, false));
    snprintf(path, sizeof path, "%s/catalog.db", handle->state_dir);
    HPL_TRY(hpl_catalog_open(call, &handle->catalog, path, handle->root));
    handle->env.state_dir = handle->state_dir;
    handle->env.root = handle->root;
    handle->env.catalog = handle->catalog;
    const struct hpl_kms_options options = {.backends = hpl_backends(), .env = &handle->env, .catalog = handle->catalog};
    HPL_TRY(hpl_kms_open(call, &handle->kms, &options));
    HPL_TRY(hpl_kms_configure(handle->kms, call, body, &configured));
    return hpl_kms_start(handle->kms, call, false, &started);
}

EXPORT int hardplate_open(hardplate **out, const char *state_dir, const uint8_t root[32], const char *kms_json, const char *tokens_json,
                          char *error, size_t error_size)
{
    struct hpl_call call = {0};
    struct hardplate *handle = calloc(1, sizeof *handle);
    *out = NULL;
    if (!handle)
        return finish(&call, HPL_NO_MEMORY, error, error_size);
    handle->lock_fd = -1;
    handle->root = hpl_secret_from(root, 32);
    enum hpl_status status = handle->root ? HPL_OK : HPL_NO_MEMORY;
    if (status == HPL_OK && snprintf(handle->state_dir, sizeof handle->state_dir, "%s", state_dir) >= PATH_MAX)
        status = hpl_fail(&call, HPL_INVALID_ARGUMENT, "the state folder's path is too long");
    if (status == HPL_OK)
        status = read_tokens(&call, handle, tokens_json);
    if (status == HPL_OK)
        status = lock_state(&call, handle);
    if (status == HPL_OK)
        status = open_kms(&call, handle, kms_json);
    if (status == HPL_OK)
        *out = handle;
    else
        hardplate_close(handle);
    return finish(&call, status, error, error_size);
}

EXPORT void hardplate_close(hardplate *handle)
{
    if (!handle)
        return;
    hpl_kms_close(handle->kms);
    hpl_catalog_close(handle->catalog);
    hpl_secret_free(handle->root);
    free(handle->tokens);
    json_decref(handle->tokens_json);
    if (handle->lock_fd >= 0)
        close(handle->lock_fd);
    free(handle);
}

EXPORT int hardplate_memory_is_locked(void)
{
    return hpl_secret_is_locked();
}

/* No thread of ours does it: whoever calls, wipes what is past its time. */
static void sweep(hardplate *handle)
{
    uint64_t now = hpl_clock_mono_ns(), due = atomic_load_explicit(&handle->next_sweep_ns, memory_order_relaxed);
    if (now >= due && atomic_compare_exchange_strong(&handle->next_sweep_ns, &due, now + SWEEP_EVERY_NS))
        hpl_kms_sweep(handle->kms);
}

static enum hpl_status fill_context(struct hpl_call *call, struct hpl_context_pair pairs[static MAX_PAIRS], struct hpl_context *context,
                                    const struct hardplate_pair *given, size_t num_pairs)
{
    if (num_pairs > MAX_PAIRS)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "the encryption context has more than %u pairs", MAX_PAIRS);
    for (size_t i = 0; i < num_pairs; i++)
        pairs[i] = (struct hpl_context_pair){hpl_bytes_str(given[i].name), hpl_bytes_str(given[i].value)};
    *context = (struct hpl_context){pairs, num_pairs};
    return HPL_OK;
}

EXPORT int hardplate_generate_data_key(hardplate *handle, const char *key_id, const struct hardplate_pair *context, size_t num_pairs,
                                       uint8_t *key, size_t key_len, uint8_t *blob, size_t *blob_len, char *error, size_t error_size)
{
    struct hpl_call call = {0};
    struct hpl_context_pair pairs[MAX_PAIRS];
    struct hpl_context view;
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_buf envelope = {0};
    sweep(handle);
    enum hpl_status status = fill_context(&call, pairs, &view, context, num_pairs);
    if (status == HPL_OK && key_len != 16 && key_len != 32)
        status = hpl_fail(&call, HPL_INVALID_ARGUMENT, "a data key has 16 or 32 bytes");
    if (status == HPL_OK)
        status = hpl_kms_generate(handle->kms, &call, HPL_PURPOSE_API, key_id, &view, key_len, &secret, &envelope, NULL);
    if (status == HPL_OK && envelope.len > *blob_len)
        status = hpl_fail(&call, HPL_TOO_LARGE, "the blob needs %zu bytes", envelope.len);
    if (status == HPL_OK) {
        memcpy(key, secret->bytes, key_len);
        memcpy(blob, envelope.data, envelope.len);
        *blob_len = envelope.len;
    }
    hpl_buf_wipe(&envelope);
    return finish(&call, status, error, error_size);
}

EXPORT int hardplate_decrypt_data_key(hardplate *handle, const uint8_t *blob, size_t blob_len, const struct hardplate_pair *context,
                                      size_t num_pairs, uint8_t *key, size_t *key_len, char *error, size_t error_size)
{
    struct hpl_call call = {0};
    struct hpl_context_pair pairs[MAX_PAIRS];
    struct hpl_context view;
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    sweep(handle);
    enum hpl_status status = fill_context(&call, pairs, &view, context, num_pairs);
    if (status == HPL_OK)
        status = hpl_kms_decrypt(handle->kms, &call, HPL_PURPOSE_API, hpl_bytes(blob, blob_len), &view, &secret, NULL);
    if (status == HPL_OK && secret->len > *key_len)
        status = hpl_fail(&call, HPL_TOO_LARGE, "the key has %u bytes", secret->len);
    if (status == HPL_OK) {
        memcpy(key, secret->bytes, secret->len);
        *key_len = secret->len;
    }
    return finish(&call, status, error, error_size);
}
