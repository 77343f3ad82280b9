/* Opening and closing the house. The main thread only. */
#include "daemon/house.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "backends/backends.h"
#include "base/file.h"
#include "base/log.h"
#include "daemon/hardening.h"
#include "daemon/root.h"
#include "engine/aead.h"
#include "engine/provider/builtin.h"
#include "kms/config.h"

#define SECRET_KIB 2048u
#define DRAIN_SECONDS 30u

/* One daemon a state folder. */
static enum hpl_status lock_state(struct hpl_call *call, struct hpl_house *house)
{
    char path[PATH_MAX];
    HPL_TRY(hpl_file_make_dir(call, house->config->state_dir));
    HPL_TRY(hpl_file_own_dir(call, house->config->state_dir));
    snprintf(path, sizeof path, "%s/lock", house->config->state_dir);
    house->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (house->lock_fd < 0)
        return hpl_file_error(call, "cannot open", path);
    if (flock(house->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return HPL_OK;
    enum hpl_status status = errno != EWOULDBLOCK ? hpl_file_error(call, "cannot lock", path) : hpl_fail(call, HPL_CONFLICT, "%s is in use by another hardplated: stop that one, or name another folder", house->config->state_dir);
    hpl_house_unlock(house); /* it is not ours */
    return status;
}

enum hpl_status hpl_house_lock_memory(struct hpl_call *call, const struct hpl_config *config)
{
    size_t size = (size_t)(config->secret_kib ? config->secret_kib : SECRET_KIB) * 1024;
    return hpl_secret_init(call, size, config->allow_unlocked_memory ? HPL_SECRET_MAY_SWAP : HPL_SECRET_MUST_LOCK);
}

static enum hpl_status open_root(struct hpl_call *call, struct hpl_house *house)
{
    bool was_made;
    HPL_TRY(hpl_root_load(call, house->config, &house->root, &was_made));
    if (was_made)
        hpl_log(HPL_LOG_WARN, "root.made", HPL_S("folder", house->config->state_dir),
                HPL_S("advice", "root.key seals everything here: keep a copy elsewhere, or give root.file"));
    return HPL_OK;
}

static struct hpl_tokend_option tokend_of(const struct hpl_config_tokend *from)
{
    if (!from)
        return (struct hpl_tokend_option){0};
    return (struct hpl_tokend_option){.user = from->user, .watchdog_ms = from->watchdog_ms, .environment = (const char *const *)from->environment,
                                      .num_environment = from->num_environment};
}

#define MEMBER_NAME_LEN 80u

/* Named after their group: "main.1". They take its mechanism. */
static void add_members(const struct hpl_config_token *from, struct hpl_token_option *group, struct hpl_token_option *members, char *names)
{
    for (unsigned i = 0; i < from->num_members; i++) {
        const struct hpl_config_member *one = &from->members[i];
        char *name = names + (size_t)i * MEMBER_NAME_LEN;
        snprintf(name, MEMBER_NAME_LEN, "%.60s.%u", from->name, i + 1);
        members[i] = (struct hpl_token_option){.name = name, .uri = one->uri, .module = one->module, .pin_source = one->pin_source,
                                               .max_sessions = one->max_sessions, .init_reserved = one->init_reserved,
                                               .mechanism = from->mechanism, .iv_mode = from->iv_mode};
    }
    group->members = members;
    group->num_members = from->num_members;
}

/* One block: the tokens, their members, the members' names. */
static struct hpl_token_option *options_of(const struct hpl_config *config)
{
    size_t num_members = 0;
    for (unsigned i = 0; i < config->num_tokens; i++)
        num_members += config->tokens[i].num_members;
    struct hpl_token_option *options = calloc(1, (config->num_tokens + num_members + 1) * sizeof *options + num_members * MEMBER_NAME_LEN);
    HPL_CHECK(options);
    struct hpl_token_option *members = options + config->num_tokens + 1;
    char *names = (char *)(members + num_members);
    for (unsigned i = 0; i < config->num_tokens; i++) {
        const struct hpl_config_token *from = &config->tokens[i];
        options[i] = (struct hpl_token_option){.name = from->name, .uri = from->uri, .module = from->module, .pin_source = from->pin_source,
                                               .max_sessions = from->max_sessions, .init_reserved = from->init_reserved,
                                               .mechanism = from->mechanism, .iv_mode = from->iv_mode,
                                               .accept_mode_change = from->accept_mode_change, .replicas_required = from->replicas_required};
        add_members(from, &options[i], members, names);
        members += from->num_members;
        names += (size_t)from->num_members * MEMBER_NAME_LEN;
    }
    return options;
}

void hpl_house_env(const struct hpl_config *config, bool is_dev, struct hpl_token_option **tokens, struct hpl_tokend_option *tokend,
                   struct hpl_backend_env *env)
{
    bool is_inprocess = config->isolation && strcmp(config->isolation, "inprocess") == 0;
    *tokend = tokend_of(config->tokend);
    *tokens = options_of(config);
    struct hpl_vault_option *vaults = calloc(config->num_vaults + 1, sizeof *vaults);
    HPL_CHECK(vaults);
    for (unsigned i = 0; i < config->num_vaults; i++) {
        const struct hpl_config_vault *from = &config->vaults[i];
        vaults[i] = (struct hpl_vault_option){
            .name = from->name, .address = from->address, .ca_file = from->ca_file, .certificate = from->certificate, .key = from->key,
            .token_file = from->token_file, .role_id = from->role_id, .secret_id_file = from->secret_id_file, .role = from->role,
            .jwt_file = from->jwt_file, .auth_mount = from->auth_mount, .allow_http = from->allow_http};
    }
    *env = (struct hpl_backend_env){
        .state_dir = config->state_dir, .key_dir_roots = (const char *const *)config->key_dirs, .num_key_dir_roots = config->num_key_dirs,
        .vaults = vaults, .num_vaults = config->num_vaults, .tokens = *tokens, .num_tokens = config->num_tokens,
        .tokend = is_inprocess ? NULL : tokend, .is_dev = is_dev};
}

static enum hpl_status put_credentials(struct hpl_call *call, struct hpl_house *house)
{
    for (unsigned i = 0; i < house->config->num_credentials; i++) {
        const struct hpl_config_credential *from = &house->config->credentials[i];
        struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
        enum hpl_role role = strcmp(from->role, "admin") == 0 ? HPL_ROLE_ADMIN : HPL_ROLE_OBJECTS;
        HPL_TRY(hpl_file_read_secret(call, from->secret_file, 256, true, &secret));
        HPL_TRY(hpl_auth_put_credential(call, house->auth, from->access_key, secret, role));
    }
    return HPL_OK;
}

/* What the file lists no more is revoked. */
static enum hpl_status drop_credentials(struct hpl_call *call, struct hpl_house *house)
{
    const struct hpl_config *config = house->config;
    const char **listed = calloc(config->num_credentials + 1, sizeof *listed);
    if (!listed)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    for (unsigned i = 0; i < config->num_credentials; i++)
        listed[i] = config->credentials[i].access_key;
    enum hpl_status status = hpl_auth_keep_only(call, house->auth, listed, config->num_credentials);
    free(listed);
    return status;
}

/* The dev mode has credentials of its own and no file. */
static enum hpl_status open_catalog(struct hpl_call *call, struct hpl_house *house, bool is_dev)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/catalog.db", house->config->state_dir);
    HPL_TRY(hpl_catalog_open(call, &house->catalog, path, house->root));
    HPL_TRY(hpl_auth_open(call, &house->auth, house->catalog));
    HPL_TRY(put_credentials(call, house));
    return is_dev ? HPL_OK : drop_credentials(call, house);
}

enum hpl_status hpl_house_default_key(struct hpl_call *call, const char **key_id)
{
    *key_id = getenv("RUSTFS_KMS_DEFAULT_KEY_ID");
    if (*key_id && !**key_id)
        *key_id = NULL;
    if (*key_id && hpl_kms_check_key_id(NULL, *key_id) != HPL_OK)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the variable RUSTFS_KMS_DEFAULT_KEY_ID does not hold a key id: 1 to %u bytes of UTF-8 without control "
                                                         "characters or spaces at its ends", HPL_KEY_ID_MAX);
    return HPL_OK;
}

static enum hpl_status open_kms(struct hpl_call *call, struct hpl_house *house, bool is_dev)
{
    const char *default_key_id;
    HPL_TRY(hpl_house_default_key(call, &default_key_id));
    hpl_house_env(house->config, is_dev, &house->tokens, &house->tokend, &house->env);
    house->env.root = house->root;
    house->env.catalog = house->catalog;
    const struct hpl_kms_options options = {.backends = hpl_backends(), .env = &house->env, .catalog = house->catalog,
                                            .default_key_id = default_key_id, .allow_immediate_deletion = house->config->allow_immediate_deletion, .allow_import = house->config->allow_import};
    return hpl_kms_open(call, &house->kms, &options);
}

static enum hpl_status open_s3(struct hpl_call *call, struct hpl_house *house)
{
    char fallback[PATH_MAX];
    snprintf(fallback, sizeof fallback, "%s/data", house->config->state_dir);
    const struct hpl_s3_options options = {
        .data_dir = house->config->data_dir ? house->config->data_dir : fallback, .region = house->config->region ? house->config->region : "us-east-1",
        .auth = house->auth, .kms = house->kms, .root = house->root, .work = house->work};
    HPL_TRY(hpl_s3_open(call, &house->s3, &options));
    hpl_kms_set_census(house->kms, hpl_s3_census, house->s3);
    return HPL_OK;
}

enum hpl_status hpl_house_open(struct hpl_call *call, struct hpl_house *house, const struct hpl_config *config, bool is_dev)
{
    *house = (struct hpl_house){.config = config, .lock_fd = -1};
    HPL_TRY(hpl_house_lock_memory(call, config));
    HPL_TRY(lock_state(call, house));
    HPL_TRY(open_root(call, house));
    HPL_TRY(open_catalog(call, house, is_dev));
    HPL_TRY(hpl_work_start(call, &house->work, config->workers));
    HPL_TRY(open_kms(call, house, is_dev));
    return open_s3(call, house);
}

/* Idle clients must not take the descriptors that objects' files need. */
static unsigned count_connections(unsigned wanted)
{
    unsigned most = wanted ? wanted : HPL_HTTP_MAX_CONNECTIONS, fitting = hpl_make_room(most);
    if (fitting < most)
        hpl_log(HPL_LOG_WARN, "http.fewer_connections", HPL_N("max_connections", fitting), HPL_S("advice", "the limit of open files allows no more: LimitNOFILE=, ulimit -Hn"));
    return fitting;
}

enum hpl_status hpl_house_serve(struct hpl_call *call, struct hpl_house *house, int inherited_fd)
{
    const struct hpl_config *config = house->config;
    house->admin = (struct hpl_admin){.auth = house->auth, .kms = house->kms, .s3 = house->s3, .kernel = hpl_aead_kernel(), .server = &house->server};
    const struct hpl_http_route routes[] = {
        {HPL_ADMIN_PREFIX, &hpl_admin_handler, &house->admin, HPL_HTTP_POOL_CONTROL, hpl_admin_fail, hpl_admin_is_quick},
        {HPL_ADMIN_ALIAS, &hpl_admin_handler, &house->admin, HPL_HTTP_POOL_CONTROL, hpl_admin_fail, hpl_admin_is_quick},
        {"/hardplate/", &hpl_health_handler, &house->admin, HPL_HTTP_POOL_CONTROL, hpl_admin_fail},
        {"/", &hpl_s3_handler, house->s3, HPL_HTTP_POOL_BULK, hpl_s3_fail},
    };
    static const struct hpl_config_http defaults;
    const struct hpl_config_http *http = config->http ? config->http : &defaults;
    const struct hpl_http_options options = {
        .max_connections = count_connections(http->max_connections), .max_per_address = http->max_per_address, .max_per_credential = http->max_per_credential,
        .max_queued = http->max_queued, .min_body_rate = http->min_body_rate,
        .handshake_timeout_ms = http->handshake_seconds * 1000, .head_timeout_ms = http->head_seconds * 1000, .idle_timeout_ms = http->idle_seconds * 1000,
        .write_timeout_ms = http->write_seconds * 1000, .request_timeout_ms = http->request_seconds * 1000,
        .listen = config->listen ? config->listen : "127.0.0.1:9000", .inherited_fd = inherited_fd, .tls_cert = config->tls ? config->tls->certificate : NULL,
        .tls_key = config->tls ? config->tls->key : NULL, .allow_tls12 = config->tls && config->tls->min_version && strcmp(config->tls->min_version, "1.2") == 0,
        .tls_libctx = config->tls ? hpl_provider_libctx() : NULL,
        .routes = routes, .num_routes = HPL_COUNT(routes)};
    return hpl_http_start(call, &house->server, &options);
}

void hpl_house_close(struct hpl_house *house)
{
    unsigned drain = house->config->drain_seconds ? house->config->drain_seconds : DRAIN_SECONDS;
    if (house->server)
        hpl_http_stop(house->server, drain * 1000);
    house->server = NULL;
    if (house->kms)
        hpl_kms_set_census(house->kms, NULL, NULL);
    hpl_s3_close(house->s3);
    hpl_kms_close(house->kms);
    hpl_work_stop(house->work);
    hpl_auth_close(house->auth);
    hpl_catalog_close(house->catalog);
    hpl_secret_free(house->root);
    free(house->tokens);
    free((void *)house->env.vaults);
}

void hpl_house_unlock(struct hpl_house *house)
{
    if (house->lock_fd >= 0)
        close(house->lock_fd);
    house->lock_fd = -1;
}
