/* The PKCS#11 backend's two tables: what a configuration may say, and the keystore's operations. Any thread; calls block on the token. */
#include "backends/pkcs11/internal.h"

#include <stdlib.h>

/* --- configuration ---------------------------------------------------------------------------------------------------------------- */

/* From the network only names: modules, PINs and paths come from the local file, or an administrator's credential would run code. */
static const char *const local_only[] = {"pin", "user_pin", "so_pin", "pin_value", "pin_source", "pin_file", "pin_path", "module", "module_path",
                                         "module_name", "library", "library_path", "lib", "slot", "init_reserved", "state_dir", "config_file",
                                         "path", "token_dir"};

static enum hpl_status refuse_local(struct hpl_call *call, const json_t *config)
{
    for (size_t i = 0; i < HPL_COUNT(local_only); i++)
        if (json_object_get(config, local_only[i]))
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' does not belong in a request: name a token of the local configuration file by 'token' or 'uri'",
                            local_only[i]);
    return HPL_OK;
}

static const struct hpl_token_option *by_name(const struct hpl_backend_env *env, const char *name)
{
    for (size_t i = 0; i < env->num_tokens; i++)
        if (strcmp(env->tokens[i].name, name) == 0)
            return &env->tokens[i];
    return NULL;
}

static enum hpl_status unknown_token(struct hpl_call *call, const struct hpl_backend_env *env, const char *what)
{
    struct hpl_buf names = {0};
    for (size_t i = 0; i < env->num_tokens; i++)
        hpl_buf_printf(&names, "%s%s", i ? ", " : "", env->tokens[i].name);
    const char *there = env->num_tokens ? hpl_buf_text(&names) : "none";
    enum hpl_status status = hpl_fail(call, HPL_INVALID_REQUEST, "%s is not one of the tokens of the local configuration file: %s", what, there ? there : "?");
    hpl_buf_wipe(&names);
    return status;
}

static enum hpl_status by_uri(struct hpl_call *call, const struct hpl_backend_env *env, const char *text, const struct hpl_token_option **out)
{
    P11KitUri *wanted, *uri;
    unsigned num_matches = 0;
    if (hpl_p11_uri_parse(call, text, &wanted) != HPL_OK)
        return HPL_INVALID_REQUEST;
    for (size_t i = 0; i < env->num_tokens; i++) {
        struct hpl_call quiet = {0};
        if (!env->tokens[i].uri || hpl_p11_uri_parse(&quiet, env->tokens[i].uri, &uri) != HPL_OK)
            continue;
        if (hpl_p11_uri_equal(wanted, uri)) {
            *out = &env->tokens[i];
            num_matches++;
        }
        p11_kit_uri_free(uri);
    }
    p11_kit_uri_free(wanted);
    return num_matches == 1 ? HPL_OK : unknown_token(call, env, "the uri (as exactly one match)");
}

static enum hpl_status pick(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, const struct hpl_token_option **out)
{
    const char *name = NULL, *uri = NULL;
    const struct hpl_token_option *named = NULL;
    HPL_TRY(hpl_json_str(call, config, "token", &name));
    HPL_TRY(hpl_json_str(call, config, "uri", &uri));
    if (!name && !uri)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the pkcs11 backend needs 'token' or 'uri'");
    if (name && !(named = by_name(env, name)))
        return unknown_token(call, env, "'token'");
    *out = named;
    if (uri)
        HPL_TRY(by_uri(call, env, uri, out));
    if (named && *out != named)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'token' and 'uri' name different tokens");
    return HPL_OK;
}

static enum hpl_status validate(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env)
{
    const struct hpl_token_option *option;
    P11KitUri *uri;
    HPL_TRY(refuse_local(call, config));
    HPL_TRY(pick(call, config, env, &option));
    if (!option->uri)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' has no uri in the local configuration file", option->name);
    HPL_TRY(hpl_p11_uri_parse(call, option->uri, &uri));
    p11_kit_uri_free(uri);
    if (!option->pin_source)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' has no pin_source in the local configuration file", option->name);
    return HPL_OK;
}

static json_t *summary(const json_t *config, const struct hpl_backend_env *env)
{
    struct hpl_call quiet = {0};
    const struct hpl_token_option *option;
    P11KitUri *uri = NULL;
    char *text = NULL;
    json_t *out = json_pack("{s:s}", "backend_type", "pkcs11");
    if (pick(&quiet, config, env, &option) != HPL_OK)
        return out;
    json_object_set_new(out, "token", json_string(option->name));
    if (option->uri && hpl_p11_uri_parse(&quiet, option->uri, &uri) == HPL_OK &&
        p11_kit_uri_format(uri, P11_KIT_URI_FOR_TOKEN | P11_KIT_URI_FOR_MODULE, &text) == P11_KIT_URI_OK)
        json_object_set_new(out, "uri", json_string(text));
    free(text);
    p11_kit_uri_free(uri);
    return out;
}

/* --- operations --------------------------------------------------------------------------------------------------------------------- */

static struct hpl_p11_keystore *of(struct hpl_keystore *base)
{
    return (struct hpl_p11_keystore *)base;
}

struct job {
    struct hpl_p11_key *key;
    const uint8_t *aad;
    struct hpl_bytes secret;
    const struct hpl_wrapped *wrapped;
    struct hpl_wrapped *wrapped_out;
    struct hpl_secret **secret_out;
};

static enum hpl_status find_key(struct hpl_p11_keystore *keystore, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                                struct job *job)
{
    job->key = hpl_p11_key_of(keystore, uid, version);
    return job->key ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "too many key versions");
}

static enum hpl_status probe(struct hpl_keystore *base, struct hpl_call *call)
{
    return hpl_p11_run(of(base), call, hpl_p11_canary_op, NULL);
}

static enum hpl_status create_op(struct hpl_p11_op *op, void *arg)
{
    return hpl_p11_create(op, arg);
}

static enum hpl_status create_version(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct job job = {0};
    HPL_TRY(find_key(of(base), call, uid, version, &job));
    return hpl_p11_run(of(base), call, create_op, job.key);
}

static enum hpl_status destroy_op(struct hpl_p11_op *op, void *arg)
{
    return hpl_p11_destroy(op, arg);
}

static enum hpl_status destroy_version(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct job job = {0};
    HPL_TRY(find_key(of(base), call, uid, version, &job));
    return hpl_p11_run(of(base), call, destroy_op, job.key);
}

static uint8_t mechanism(struct hpl_keystore *base)
{
    (void)base;
    return HPL_MECH_P11_GCM;
}

static enum hpl_status wrap_op(struct hpl_p11_op *op, void *arg)
{
    struct job *job = arg;
    CK_OBJECT_HANDLE handle;
    HPL_TRY(hpl_p11_handle(op, job->key, &handle));
    HPL_TRY(hpl_p11_lease_take(op->keystore, op->call, job->key));
    return hpl_p11_gcm_wrap(op, handle, job->aad, job->secret, job->wrapped_out);
}

static enum hpl_status wrap(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    struct job job = {.aad = aad, .secret = hpl_bytes(secret->bytes, secret->len), .wrapped_out = out};
    memset(out, 0, sizeof *out);
    if (secret->len < 16 || secret->len > 64)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "a secret to wrap has 16 to 64 bytes, not %u", secret->len);
    HPL_TRY(find_key(of(base), call, uid, version, &job));
    return hpl_p11_run(of(base), call, wrap_op, &job);
}

static enum hpl_status unwrap_op(struct hpl_p11_op *op, void *arg)
{
    struct job *job = arg;
    CK_OBJECT_HANDLE handle;
    HPL_TRY(hpl_p11_handle(op, job->key, &handle));
    return hpl_p11_gcm_unwrap(op, handle, job->aad, job->wrapped, job->secret_out);
}

static enum hpl_status unwrap(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct job job = {.aad = aad, .wrapped = wrapped, .secret_out = out};
    *out = NULL;
    HPL_TRY(hpl_p11_gcm_screen(of(base), call, wrapped));
    HPL_TRY(find_key(of(base), call, uid, version, &job));
    return hpl_p11_run(of(base), call, unwrap_op, &job);
}

static enum hpl_status random_op(struct hpl_p11_op *op, void *arg)
{
    struct hpl_secret *block = arg;
    return hpl_p11_check(op, "C_GenerateRandom", op->fn->C_GenerateRandom(op->handle, block->bytes, block->len));
}

/* Out of a block that is fetched whole, each byte given once and wiped. */
static enum hpl_status random_bytes(struct hpl_keystore *base, struct hpl_call *call, uint8_t *out, size_t len)
{
    struct hpl_p11_keystore *keystore = of(base);
    enum hpl_status status = HPL_OK;
    pthread_mutex_lock(&keystore->random_lock);
    while (len && status == HPL_OK) {
        if (!keystore->random_left && (status = hpl_p11_run(keystore, call, random_op, keystore->random_block)) == HPL_OK)
            keystore->random_left = keystore->random_block->len;
        size_t n = len < keystore->random_left ? len : keystore->random_left;
        uint8_t *from = keystore->random_block->bytes + keystore->random_block->len - keystore->random_left;
        memcpy(out, from, n);
        hpl_wipe(from, n);
        keystore->random_left -= n;
        out += n;
        len -= n;
    }
    pthread_mutex_unlock(&keystore->random_lock);
    return status;
}

static json_t *describe(struct hpl_keystore *base)
{
    struct hpl_p11_keystore *keystore = of(base);
    pthread_mutex_lock(&keystore->pool.lock);
    int num_open = (int)keystore->pool.num_open, max = (int)keystore->pool.max;
    pthread_mutex_unlock(&keystore->pool.lock);
    uint64_t generation = hpl_p11_module_generation(keystore->module);
    bool is_connected = atomic_load(&keystore->generation) == generation && atomic_load(&keystore->suspect) != generation;
    json_t *facts = json_pack("{s:s s:s s:s s:s s:s s:s s:s s:i s:i s:I s:b}", "mechanism", "aes-gcm", "iv_mode",
                              hpl_p11_iv_mode_name(keystore->iv_mode), "token", keystore->option->name, "token_label", keystore->token.label,
                              "token_serial", keystore->token.serial, "token_manufacturer", keystore->token.manufacturer, "library_version",
                              keystore->token.library, "sessions", num_open, "max_sessions", max, "initialisations", (json_int_t)generation,
                              "is_connected", is_connected);
    json_object_set_new(facts, "optional_attributes", hpl_p11_optional_names(keystore->optional_attributes));
    return facts;
}

/* --- opening and closing -------------------------------------------------------------------------------------------------------------- */

static void close_keystore(struct hpl_keystore *base)
{
    struct hpl_p11_keystore *keystore = of(base);
    struct hpl_call call = {0};
    uint64_t generation;
    for (size_t i = 0; i < HPL_P11_NUM_BUCKETS; i++)
        for (struct hpl_p11_key *key = keystore->keys[i]; key; key = key->next)
            hpl_p11_lease_return(keystore, key);
    bool can_enter = keystore->module && hpl_p11_module_enter(keystore->module, &call, &generation) == HPL_OK;
    hpl_p11_pool_close(&keystore->pool, can_enter && generation == atomic_load(&keystore->generation));
    if (can_enter)
        hpl_p11_module_leave(keystore->module);
    hpl_p11_module_unref(keystore->module);
    hpl_p11_keys_free(keystore);
    hpl_secret_free(keystore->random_block);
    free(keystore->digests);
    free(keystore);
}

static const struct hpl_keystore_ops ops = {
    .size = sizeof ops,
    .name = "pkcs11",
    .close = close_keystore,
    .probe = probe,
    .create_version = create_version,
    .destroy_version = destroy_version,
    .mechanism = mechanism,
    .wrap = wrap,
    .unwrap = unwrap,
    .random = random_bytes,
    .record_get = hpl_p11_record_get,
    .record_put = hpl_p11_record_put,
    .record_list = hpl_p11_record_list,
    .describe = describe,
};

static struct hpl_p11_keystore *make(const struct hpl_token_option *option, const struct hpl_backend_env *env)
{
    struct hpl_p11_keystore *keystore = calloc(1, sizeof *keystore);
    if (!keystore)
        return NULL;
    keystore->base.ops = &ops;
    keystore->option = option;
    keystore->env = env;
    keystore->optional_attributes = 3;
    hpl_p11_pool_init(&keystore->pool);
    hpl_p11_canary_init(keystore);
    pthread_mutex_init(&keystore->connect_lock, NULL);
    hpl_p11_cond_init(&keystore->connect_done);
    pthread_mutex_init(&keystore->keys_lock, NULL);
    pthread_mutex_init(&keystore->random_lock, NULL);
    pthread_mutex_init(&keystore->digests_lock, NULL);
    keystore->random_block = hpl_secret_new(4096);
    keystore->digests = calloc(HPL_P11_NUM_DIGESTS, sizeof *keystore->digests);
    if (keystore->random_block && keystore->digests)
        return keystore;
    close_keystore(&keystore->base);
    return NULL;
}

static enum hpl_status open_keystore(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, struct hpl_keystore **out)
{
    const struct hpl_token_option *option;
    *out = NULL;
    HPL_TRY(validate(call, config, env));
    HPL_TRY(pick(call, config, env, &option));
    HPL_CHECK(env->catalog && env->root && env->state_dir);
    struct hpl_p11_keystore *keystore = make(option, env);
    if (!keystore)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory, or the secret region is full");
    enum hpl_status status = hpl_p11_module_ref(call, option->module, option->init_reserved, &keystore->module);
    if (status == HPL_OK)
        status = hpl_p11_run(keystore, call, hpl_p11_pin_down, NULL);
    if (status == HPL_OK)
        *out = &keystore->base;
    else
        close_keystore(&keystore->base);
    return status;
}

static enum hpl_status identity(struct hpl_call *call, struct hpl_keystore *base, const json_t *config, const struct hpl_backend_env *env,
                                struct hpl_buf *out)
{
    (void)call, (void)config, (void)env;
    hpl_p11_token_identity(&of(base)->token, out);
    return hpl_buf_check(out);
}

static const char *const aliases[] = {"PKCS11", "Pkcs11", "hsm", NULL};

const struct hpl_backend hpl_backend_pkcs11 = {
    .name = "pkcs11",
    .aliases = aliases,
    .validate = validate,
    .identity = identity,
    .open = open_keystore,
    .summary = summary,
};
