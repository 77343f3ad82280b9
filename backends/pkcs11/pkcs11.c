/* The PKCS#11 backend's two tables: what a configuration may say, and the keystore's operations. Any thread; calls block on the token. */
#include "backends/pkcs11/pkcs11.h"

#include <stdlib.h>

#include "backends/pkcs11/store.h"
#include "backends/pkcs11/group.h"
#include "backends/pkcs11/uri.h"
#include "base/file.h"
#include "base/hash.h"

#define MAX_WRAPS UINT64_C(3037000499)

/* --- configuration ---------------------------------------------------------------------------------------------------------------- */

/* From the network only names: modules, PINs and paths come from the local file, or an administrator's credential would run code. */
#define NUM_FROM_A_BODY 2
static const char *const fields[] = {"token", "uri", /* and what a body may not have: */ "pin", "user_pin", "so_pin", "pin_value", "pin_source", "pin_file",
                                     "pin_path", "module", "module_path", "module_name", "library", "library_path", "lib", "slot", "init_reserved",
                                     "state_dir", "config_file", "path", "token_dir", NULL};

static enum hpl_status refuse_local(struct hpl_call *call, const json_t *config)
{
    for (const char *const *field = fields + NUM_FROM_A_BODY; *field; field++)
        if (json_object_get(config, *field))
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' does not belong in a request: name a token of the local configuration file by 'token' or 'uri'", *field);
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
    unsigned num_matches = 0;
    if (hpl_p11_uri_check(call, text) != HPL_OK)
        return HPL_INVALID_REQUEST;
    for (size_t i = 0; i < env->num_tokens; i++)
        if (env->tokens[i].uri && hpl_p11_uri_matches(text, env->tokens[i].uri)) {
            *out = &env->tokens[i];
            num_matches++;
        }
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
    if (!named)
        return by_uri(call, env, uri, out);
    if (uri && hpl_p11_uri_check(call, uri) != HPL_OK)
        return HPL_INVALID_REQUEST;
    if (uri && !(named->uri && hpl_p11_uri_matches(uri, named->uri)))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'token' and 'uri' name different tokens");
    return HPL_OK;
}

static const char *const mechanisms[] = {"auto", "aes-gcm", "aes-cbc-hmac", "rsa-oaep", NULL};
static const char *const iv_modes[] = {"auto", "caller", "returned", "appended", NULL};

static bool is_one_of(const char *word, const char *const *words)
{
    while (word && *words && strcmp(word, *words) != 0)
        words++;
    return !word || *words;
}

static enum hpl_status validate_token(struct hpl_call *call, const struct hpl_token_option *option)
{
    if (!option->uri)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' has no uri in the local configuration file", option->name);
    HPL_TRY(hpl_p11_uri_check(call, option->uri));
    if (!option->pin_source)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' has no pin_source in the local configuration file", option->name);
    if (!is_one_of(option->mechanism, mechanisms))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s': mechanism is auto, aes-gcm, aes-cbc-hmac or rsa-oaep", option->name);
    if (!is_one_of(option->iv_mode, iv_modes))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s': iv_mode is auto, caller, returned or appended", option->name);
    return HPL_OK;
}

static enum hpl_status validate_members(struct hpl_call *call, const struct hpl_token_option *option)
{
    if (option->uri)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' has a uri and members: the members have the URIs", option->name);
    if (option->num_members > HPL_P11_MAX_MEMBERS)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s' has more than %u members", option->name, HPL_P11_MAX_MEMBERS);
    if (option->replicas_required > option->num_members)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "token '%s': replicas_required is more than it has members", option->name);
    for (size_t i = 0; i < option->num_members; i++)
        HPL_TRY(validate_token(call, &option->members[i]));
    return HPL_OK;
}

static enum hpl_status validate(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env)
{
    const struct hpl_token_option *option;
    HPL_TRY(refuse_local(call, config));
    HPL_TRY(pick(call, config, env, &option));
    if (option->num_members)
        return validate_members(call, option);
    return validate_token(call, option);
}

static json_t *summary(const json_t *config, const struct hpl_backend_env *env)
{
    struct hpl_call quiet = {0};
    const struct hpl_token_option *option;
    json_t *out = json_pack("{s:s}", "backend_type", "pkcs11");
    if (pick(&quiet, config, env, &option) != HPL_OK)
        return out;
    json_object_set_new(out, "token", json_string(option->name));
    char *uri = option->uri ? hpl_p11_uri_format(option->uri) : NULL;
    if (uri)
        json_object_set_new(out, "uri", json_string(uri));
    free(uri);
    return out;
}

/* --- operations --------------------------------------------------------------------------------------------------------------------- */

static struct hpl_p11_keystore *of(struct hpl_keystore *base)
{
    return (struct hpl_p11_keystore *)base;
}

static struct hpl_p11_ref ref_of(const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct hpl_p11_ref ref = {.version = version};
    memcpy(ref.uid, uid, sizeof ref.uid);
    return ref;
}

static enum hpl_status probe(struct hpl_keystore *base, struct hpl_call *call)
{
    struct hpl_p11_device *device = of(base)->device;
    return device->ops->probe(device, call);
}

static enum hpl_status create_version(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct hpl_p11_device *device = of(base)->device;
    struct hpl_p11_ref ref = ref_of(uid, version);
    struct hpl_wrapped check;
    HPL_TRY(device->ops->create(device, call, &ref));
    return hpl_p11_check_of(of(base), call, &ref, &check);
}

static enum hpl_status destroy_version(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version)
{
    struct hpl_p11_device *device = of(base)->device;
    struct hpl_p11_ref ref = ref_of(uid, version);
    HPL_TRY(device->ops->destroy(device, call, &ref));
    return hpl_p11_check_drop(of(base), call, &ref);
}

static uint8_t mechanism(struct hpl_keystore *base)
{
    return of(base)->device->facts.mechanism;
}

static enum hpl_status wrap(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    struct hpl_p11_device *device = of(base)->device;
    struct hpl_p11_ref ref = ref_of(uid, version);
    struct hpl_wrapped check;
    memset(out, 0, sizeof *out);
    if (secret->len < HPL_P11_SECRET_MIN || secret->len > HPL_P11_SECRET_MAX)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "a secret to wrap has 16 to 64 bytes, not %u", secret->len);
    HPL_TRY(hpl_p11_check_of(of(base), call, &ref, &check));
    HPL_TRY(hpl_p11_lease_take(of(base), call, &ref));
    return device->ops->wrap(device, call, &ref, aad, secret, out);
}

static enum hpl_status unwrap(struct hpl_keystore *base, struct hpl_call *call, const uint8_t uid[static HPL_KEY_UID_LEN], uint32_t version,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_p11_device *device = of(base)->device;
    struct hpl_p11_ref ref = ref_of(uid, version);
    struct hpl_wrapped check;
    *out = NULL;
    HPL_TRY(hpl_p11_screen(&device->facts, wrapped));
    HPL_TRY(hpl_p11_check_of(of(base), call, &ref, &check));
    return device->ops->unwrap(device, call, &ref, aad, wrapped, out);
}

/* Out of a block that is fetched whole, each byte given once and wiped. */
static enum hpl_status random_bytes(struct hpl_keystore *base, struct hpl_call *call, uint8_t *out, size_t len)
{
    struct hpl_p11_keystore *keystore = of(base);
    struct hpl_p11_device *device = keystore->device;
    struct hpl_secret *block = keystore->random_block;
    enum hpl_status status = HPL_OK;
    HPL_TRY(hpl_p11_lock(call, &keystore->random_lock, "random numbers"));
    while (len && status == HPL_OK) {
        if (!keystore->random_left && (status = device->ops->random(device, call, block)) == HPL_OK)
            keystore->random_left = block->len;
        size_t n = len < keystore->random_left ? len : keystore->random_left;
        uint8_t *from = block->bytes + block->len - keystore->random_left;
        memcpy(out, from, n);
        hpl_wipe(from, n);
        keystore->random_left -= n;
        out += n;
        len -= n;
    }
    pthread_mutex_unlock(&keystore->random_lock);
    return status;
}

/* No key waits in a token for its record. GCM's random IVs want a new version at 2^31.5 wraps; leases.c ends a version at 2^32. */
static enum hpl_status has_material(struct hpl_keystore *base, struct hpl_call *call, const char *key_id, bool *out, uint64_t *max_wraps)
{
    (void)call, (void)key_id;
    *out = false;
    *max_wraps = mechanism(base) == HPL_MECH_P11_GCM ? MAX_WRAPS : 0;
    return HPL_OK;
}

static json_t *describe(struct hpl_keystore *base)
{
    struct hpl_p11_keystore *keystore = of(base);
    struct hpl_p11_device *device = keystore->device;
    const struct hpl_p11_facts *facts = &device->facts;
    struct hpl_p11_stat stat;
    device->ops->stat(device, &stat);
    json_t *out = json_pack("{s:s s:s s:s s:s s:s s:s s:s s:i s:i s:I s:b s:b s:b s:s}", "mechanism", hpl_p11_mechanism_name(facts->mechanism), "iv_mode", hpl_p11_iv_mode_name(facts->iv_mode),
                            "token", keystore->option->name, "token_label", facts->label, "token_serial", facts->serial, "token_manufacturer",
                            facts->manufacturer, "library_version", facts->library, "sessions", (int)stat.num_sessions, "max_sessions",
                            (int)stat.max_sessions, "initialisations", (json_int_t)stat.initialisations, "is_connected", stat.is_connected,
                            "has_failed", stat.has_failed, "is_latched", stat.is_latched, "isolation", device->ops->isolation);
    json_object_set_new(out, "optional_attributes", hpl_p11_optional_names(stat.optional_attributes));
    json_object_set_new(out, "orphans", hpl_p11_orphans_json(keystore));
    if (device->ops->describe_members)
        json_object_set_new(out, "members", device->ops->describe_members(device));
    else if (keystore->env->tokend) {
        json_object_set_new(out, "worker_pid", stat.worker_pid ? json_integer(stat.worker_pid) : json_null());
        json_object_set_new(out, "worker_restarts", json_integer((json_int_t)stat.restarts));
    }
    return out;
}

/* --- opening and closing -------------------------------------------------------------------------------------------------------------- */

static void close_keystore(struct hpl_keystore *base)
{
    struct hpl_p11_keystore *keystore = of(base);
    hpl_p11_leases_close(keystore);
    if (keystore->device)
        keystore->device->ops->close(keystore->device);
    hpl_secret_free(keystore->random_block);
    hpl_secret_free(keystore->latch_key);
    free(keystore->latch_dir);
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
    .has_material = has_material,
};

static struct hpl_p11_keystore *make(const struct hpl_token_option *option, const struct hpl_backend_env *env)
{
    struct hpl_p11_keystore *keystore = calloc(1, sizeof *keystore);
    if (!keystore)
        return NULL;
    keystore->base.ops = &ops;
    keystore->option = option;
    keystore->env = env;
    hpl_p11_leases_init(&keystore->leases);
    pthread_mutex_init(&keystore->random_lock, NULL);
    pthread_mutex_init(&keystore->digests_lock, NULL);
    keystore->random_block = hpl_secret_new(4096);
    keystore->latch_key = hpl_secret_new(32);
    keystore->digests = calloc(HPL_P11_NUM_DIGESTS, sizeof *keystore->digests);
    if (asprintf(&keystore->latch_dir, "%s/pkcs11", env->state_dir) < 0)
        keystore->latch_dir = NULL;
    if (keystore->random_block && keystore->latch_key && keystore->digests && keystore->latch_dir)
        return keystore;
    close_keystore(&keystore->base);
    return NULL;
}

/* The PIN latch is keyed by a subkey, so that a worker that logs in need not hold the root secret. */
static enum hpl_status open_device(struct hpl_p11_keystore *keystore, struct hpl_call *call)
{
    const struct hpl_secret *root = keystore->env->root;
    struct hpl_secret *latch_key = keystore->latch_key;
    hpl_hkdf_sha256(latch_key->bytes, latch_key->len, hpl_bytes(root->bytes, root->len), hpl_bytes(NULL, 0), hpl_bytes_str("hpl-pkcs11-latch-v1"));
    keystore->place = (struct hpl_p11_place){.option = keystore->option, .latch_dir = keystore->latch_dir, .latch_key = latch_key};
    HPL_TRY(hpl_file_make_dir(call, keystore->latch_dir));
    HPL_TRY(hpl_p11_recall(keystore, call));
    keystore->place.known_id = keystore->known_id[0] ? keystore->known_id : NULL;
    keystore->place.member_ids = (const char (*)[40])keystore->member_ids;
    keystore->place.met_member = hpl_p11_met_member;
    keystore->place.keeper = keystore;
    if (keystore->option->num_members)
        return hpl_p11_group_open(call, &keystore->place, keystore->env->tokend, &keystore->device);
    return hpl_p11_member_open(call, &keystore->place, keystore->env->tokend, &keystore->device);
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
    enum hpl_status status = open_device(keystore, call);
    if (status == HPL_OK)
        status = hpl_p11_pin_down(keystore, call);
    if (status == HPL_OK) {
        hpl_p11_orphans_look(keystore);
        *out = &keystore->base;
    } else
        close_keystore(&keystore->base);
    return status;
}

static enum hpl_status identity(struct hpl_call *call, struct hpl_keystore *base, const json_t *config, const struct hpl_backend_env *env,
                                struct hpl_buf *out)
{
    (void)call, (void)config, (void)env;
    hpl_p11_facts_identity(&of(base)->device->facts, out);
    return hpl_buf_check(out);
}

static const char *const alternatives[] = {"token", "uri", NULL};
static const char *const aliases[] = {"PKCS11", "Pkcs11", "hsm", NULL};

const struct hpl_backend hpl_backend_pkcs11 = {
    .name = "pkcs11",
    .aliases = aliases,
    .least_opening_seconds = 60, /* loading, logging in and, for RSA-OAEP, a key pair to try */
    .validate = validate,
    .fields = fields,
    .alternatives = alternatives,
    .identity = identity,
    .open = open_keystore,
    .summary = summary,
};
