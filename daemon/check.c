/* What is wrong with this machine or configuration. One thread, at the command line. */
#include "daemon/check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/backends.h"
#include "base/file.h"
#include "daemon/house.h"
#include "daemon/passphrase.h"
#include "daemon/root.h"
#include "engine/aead.h"
#include "engine/provider/builtin.h"
#include "http/listen.h"
#include "kms/config.h"

struct check {
    const struct hpl_config *config;
    bool is_dev;
    int failures;
    struct hpl_secret *root;
};

static void say(struct check *check, enum hpl_status status, const char *what, const struct hpl_call *call, const char *good)
{
    if (status == HPL_OK)
        printf("ok    %-14s %s\n", what, good);
    else {
        printf("FAIL  %-14s %s\n", what, hpl_detail(call, status));
        check->failures++;
    }
}

static void check_memory(struct check *check)
{
    struct hpl_call call = {0};
    enum hpl_status status = hpl_house_lock_memory(&call, check->config);
    struct hpl_work *work = NULL;
    if (status == HPL_OK)
        status = hpl_work_start(&call, &work, check->config->workers);
    hpl_work_stop(work);
    if (status == HPL_OK && !hpl_secret_is_locked())
        printf("warn  %-14s %s\n", "memory lock", "not locked, because allow_unlocked_memory says so: keys may reach swap");
    else
        say(check, status, "memory lock", &call, "memory for keys is locked");
}

static void check_kernel(struct check *check)
{
    char text[160];
    const char *kernel = hpl_aead_kernel();
    (void)check;
    if (strcmp(kernel, "portable") == 0)
        printf("warn  %-14s %s\n", "kernel", "portable: this processor (or HARDPLATE_CPU) offers no AES instructions; expect a fiftieth of the speed");
    else {
        snprintf(text, sizeof text, "AES-GCM runs on '%s', self-test passed", kernel);
        printf("ok    %-14s %s\n", "kernel", text);
    }
}

static enum hpl_status folder_is_ours(struct hpl_call *call, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        if (errno == ENOENT)
            return HPL_OK; /* made at the first start */
        return hpl_file_error(call, "cannot look at", path);
    }
    if (!S_ISDIR(st.st_mode))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is not a folder", path);
    if (access(path, R_OK | W_OK | X_OK) != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s cannot be written by this user: chown it", path);
    if (st.st_mode & 077)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is open to others: chmod 0700 it", path);
    return HPL_OK;
}

static void check_folders(struct check *check)
{
    char fallback[PATH_MAX];
    snprintf(fallback, sizeof fallback, "%s/data", check->config->state_dir);
    const char *data = check->config->data_dir ? check->config->data_dir : fallback;
    struct hpl_call call = {0}, data_call = {0};
    enum hpl_status state = folder_is_ours(&call, check->config->state_dir);
    if (state == HPL_OK)
        state = hpl_file_own_dir(&call, check->config->state_dir);
    say(check, state == HPL_NOT_FOUND ? HPL_OK : state, "state folder", &call, check->config->state_dir);
    say(check, folder_is_ours(&data_call, data), "data folder", &data_call, data);
}

static void check_passphrase(struct check *check)
{
    struct hpl_call call = {0};
    enum hpl_status status = hpl_passphrase_check(&call, check->config->state_dir, check->config->root->passphrase_file, &check->root);
    bool is_new = status == HPL_NOT_FOUND && !call.detail[0];
    say(check, is_new ? HPL_OK : status, "root secret", &call, is_new ? "from a passphrase; root.kdf will be made in the state folder" : "from a passphrase");
}

/* Reads what is there; makes nothing: where a start would, only that is said. */
static void check_root(struct check *check)
{
    char path[PATH_MAX], catalog[PATH_MAX];
    struct hpl_call call = {0};
    bool was_made;
    if (check->config->root && check->config->root->passphrase_file) {
        check_passphrase(check);
        return;
    }
    bool is_given = check->config->root && (check->config->root->file || check->config->root->credential || check->config->root->require_external);
    snprintf(path, sizeof path, "%s/root.key", check->config->state_dir);
    snprintf(catalog, sizeof catalog, "%s/catalog.db", check->config->state_dir);
    if (!is_given && access(path, F_OK) != 0 && access(catalog, F_OK) != 0) {
        printf("warn  %-14s %s\n", "root secret", "none given: one will be made in the state folder; root.file or root.credential keeps it elsewhere");
        return;
    }
    enum hpl_status status = hpl_root_load(&call, check->config, &check->root, &was_made);
    say(check, status, "root secret", &call, is_given ? "given from outside the state folder" : path);
}

static void check_credentials(struct check *check)
{
    for (unsigned i = 0; i < check->config->num_credentials; i++) {
        const struct hpl_config_credential *from = &check->config->credentials[i];
        struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
        struct hpl_call call = {0};
        char what[64];
        snprintf(what, sizeof what, "key %.40s", from->access_key);
        say(check, hpl_file_read_secret(&call, from->secret_file, 256, true, &secret), what, &call, from->role);
    }
}

static void check_port(struct check *check)
{
    struct hpl_call call = {0};
    const char *listen_on = check->config->listen ? check->config->listen : "127.0.0.1:9000";
    struct hpl_http_listener listener;
    enum hpl_status status = hpl_http_listen(&call, listen_on, 0, &listener);
    hpl_http_unlisten(&listener);
    say(check, status, "listener", &call, listen_on);
}

static void check_tls(struct check *check)
{
    struct hpl_call call = {0};
    if (!check->config->tls) {
        printf("warn  %-14s %s\n", "TLS", "none: SSE-C and data keys are refused except from this machine; set tls.certificate and tls.key");
        return;
    }
    enum hpl_status status = hpl_http_check_tls(&call, hpl_provider_libctx(), check->config->tls->certificate, check->config->tls->key);
    say(check, status, "TLS", &call, check->config->tls->certificate);
}

static const struct hpl_backend *find_backend(const char *name)
{
    for (const struct hpl_backend *const *at = hpl_backends(); *at; at++)
        if (strcmp((*at)->name, name) == 0)
            return *at;
    return NULL;
}

/* Opens the token as the daemon would — module, URI, PIN, IV mode — on a catalog that is thrown away. A refused PIN is written down in the state folder as
 * the daemon does it, keyed under the root secret, so that neither sends it again. */
static enum hpl_status open_token(struct check *check, const char *name, struct hpl_call *call, json_t **facts)
{
    char dir[] = "/tmp/hardplate-check-XXXXXX", path[PATH_MAX];
    struct hpl_token_option *tokens;
    struct hpl_tokend_option tokend;
    struct hpl_backend_env env;
    const struct hpl_backend *backend = find_backend("pkcs11");
    struct hpl_secret *HPL_SECRET_AUTO fresh = hpl_secret_random(32);
    const struct hpl_secret *root = check->root ? check->root : fresh;
    struct hpl_keystore *keystore = NULL;
    if (!root || !backend || !mkdtemp(dir))
        return hpl_fail(call, HPL_INTERNAL, "cannot prepare a trial in /tmp: %s", strerror(errno));
    hpl_house_env(check->config, check->is_dev, &tokens, &tokend, &env);
    env.root = root;
    snprintf(path, sizeof path, "%s/catalog.db", dir);
    enum hpl_status status = hpl_catalog_open(call, &env.catalog, path, root);
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:s}", "backend_type", "pkcs11", "token", name);
    if (status == HPL_OK)
        status = backend->open(call, body, &env, &keystore);
    if (keystore) {
        *facts = keystore->ops->describe(keystore);
        keystore->ops->close(keystore);
    }
    hpl_catalog_close(env.catalog);
    const char *const leftovers[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < HPL_COUNT(leftovers); i++) {
        snprintf(path, sizeof path, "%s/catalog.db%s", dir, leftovers[i]);
        unlink(path);
    }
    rmdir(dir);
    free(tokens);
    free((void *)env.vaults);
    return status;
}

/* What modules and the worker write to standard error meanwhile is not for people. -1: it was left alone. */
static int quieten(void)
{
    int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3), nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (saved >= 0 && nowhere >= 0)
        dup2(nowhere, STDERR_FILENO);
    if (nowhere >= 0)
        close(nowhere);
    return saved;
}

static void speak_again(int saved)
{
    if (saved >= 0) {
        dup2(saved, STDERR_FILENO);
        close(saved);
    }
}

/* A refused PIN has to be remembered, so a place and the root secret are needed before one is sent. The dev mode's PINs are the daemon's own. */
static enum hpl_status may_send_pins(struct check *check, struct hpl_call *call)
{
    if (!check->root && !check->is_dev)
        return hpl_fail(call, HPL_NOT_FOUND, "not asked: to remember a refused PIN the root secret is wanted; give root.file, or start hardplated once");
    if (access(check->config->state_dir, F_OK) == 0)
        return HPL_OK;
    return hpl_file_make_dir(call, check->config->state_dir);
}

static void check_tokens(struct check *check)
{
    struct hpl_call leave = {0};
    enum hpl_status may_send = check->config->num_tokens ? may_send_pins(check, &leave) : HPL_OK;
    if (may_send == HPL_NOT_FOUND)
        printf("warn  %-14s %s\n", "tokens", leave.detail);
    else if (may_send != HPL_OK)
        say(check, may_send, "tokens", &leave, "");
    if (may_send != HPL_OK)
        return;
    for (unsigned i = 0; i < check->config->num_tokens; i++) {
        struct hpl_call call = {0};
        json_t *HPL_JSON_AUTO facts = NULL;
        char what[64], good[200];
        const char *name = check->config->tokens[i].name;
        int said = quieten();
        enum hpl_status status = open_token(check, name, &call, &facts);
        speak_again(said);
        const char *iv_mode = json_string_value(json_object_get(facts, "iv_mode"));
        const char *mechanism = json_string_value(json_object_get(facts, "mechanism"));
        snprintf(what, sizeof what, "token %.40s", name);
        const char *isolation = json_string_value(json_object_get(facts, "isolation"));
        bool is_worker = isolation && strcmp(isolation, "worker") == 0;
        snprintf(good, sizeof good, "PIN accepted; %s, IV mode '%s' proven on a throw-away key%s", mechanism ? mechanism : "?", iv_mode ? iv_mode : "?",
                 is_worker ? ", in a worker process" : "");
        say(check, status, what, &call, good);
    }
    if (check->config->num_tokens == 0)
        printf("warn  %-14s %s\n", "tokens", "none configured: only the local and vault backends can be used");
}

/* The files are there; whether the server takes them is the key service's to say. */
static void check_vaults(struct check *check)
{
    for (unsigned i = 0; i < check->config->num_vaults; i++) {
        const struct hpl_config_vault *vault = &check->config->vaults[i];
        const char *const files[] = {vault->ca_file, vault->certificate, vault->key, vault->token_file, vault->secret_id_file, vault->jwt_file};
        struct hpl_call call = {0};
        enum hpl_status status = HPL_OK;
        char what[64];
        for (size_t j = 0; j < HPL_COUNT(files) && status == HPL_OK; j++)
            if (files[j] && access(files[j], R_OK) != 0)
                status = hpl_file_error(&call, "cannot read", files[j]);
        snprintf(what, sizeof what, "vault %.40s", vault->name);
        say(check, status, what, &call, "its files can be read");
    }
}

/* The section as a first start reads it; its backend is not opened. */
static void check_kms(struct check *check)
{
    struct hpl_token_option *tokens;
    struct hpl_tokend_option tokend;
    struct hpl_backend_env env;
    struct hpl_kms_options options = {.backends = hpl_backends(), .env = &env};
    struct hpl_call call = {0};
    struct hpl_kms_settings settings;
    json_t *HPL_JSON_AUTO body = hpl_config_kms_json(check->config->kms);
    json_t *HPL_JSON_AUTO whole = NULL;
    hpl_house_env(check->config, check->is_dev, &tokens, &tokend, &env);
    enum hpl_status status = hpl_house_default_key(&call, &options.default_key_id);
    if (status == HPL_OK && body)
        status = hpl_kms_normalise(&call, &options, body, NULL, &whole);
    if (status == HPL_OK && body)
        status = hpl_kms_read_settings(&call, &options, whole, &settings);
    if (body || status != HPL_OK)
        say(check, status, "kms", &call, status == HPL_OK ? settings.backend->name : "");
    free(tokens);
    free((void *)env.vaults);
}

int hpl_check_run(const struct hpl_config *config, bool is_dev)
{
    struct check check = {.config = config, .is_dev = is_dev};
    check_memory(&check);
    if (check.failures)
        return check.failures; /* what follows reads secrets */
    check_kernel(&check);
    check_folders(&check);
    check_root(&check);
    check_credentials(&check);
    check_tokens(&check);
    check_vaults(&check);
    check_kms(&check);
    check_tls(&check);
    check_port(&check);
    hpl_secret_free(check.root);
    printf(check.failures ? "%d of these must be mended before hardplated can run\n" : "nothing stands in the way\n", check.failures);
    return check.failures;
}
