/* The daemon's configuration, from the YAML file or from --dev. Documented in docs/configuration.md. */
#ifndef HPL_DAEMON_CONFIG_H
#define HPL_DAEMON_CONFIG_H

#include "base/json.h"
#include "base/status.h"

struct hpl_config_tls {
    char *certificate, *key; /* PEM files */
    char *min_version;       /* "1.2" or "1.3", as without it */
};

struct hpl_config_root {
    char *file;            /* 32 bytes, or 64 hex digits; NULL: STATE/root.key, made when it is not there */
    char *credential;      /* a systemd credential's name, in place of file */
    char *passphrase_file; /* in place of both: the secret comes from a passphrase, with STATE/root.kdf */
    bool require_external; /* refuse to make one */
};

/* One of several tokens that hold the same keys. */
struct hpl_config_member {
    char *uri, *module, *pin_source, *init_reserved;
    unsigned max_sessions;
};

struct hpl_config_token {
    struct hpl_config_member *members; /* in place of uri, module and pin_source */
    unsigned num_members, replicas_required;
    char *name, *uri, *module, *pin_source, *init_reserved, *mechanism, *iv_mode;
    unsigned max_sessions;
    bool accept_mode_change;
};

/* What struct hpl_vault_option says. */
struct hpl_config_vault {
    char *name, *address, *ca_file, *certificate, *key, *token_file, *role_id, *secret_id_file, *role, *jwt_file, *auth_mount;
    bool allow_http;
};

/* The worker process of PKCS#11 tokens; struct hpl_tokend_option. */
struct hpl_config_tokend {
    char *user;
    unsigned watchdog_ms;
    char **environment;
    unsigned num_environment;
};

/* A credential that the file provides; written to the catalog at every start, where those that it lists no more are removed. */
struct hpl_config_credential {
    char *access_key, *secret_file, *role; /* role: "admin" or "objects" */
};

/* The admin JSON's field names; what stands here applies until a reconfigure over the API is persisted. */
struct hpl_config_kms {
    char *backend_type, *key_dir, *token, *uri, *default_key_id;
    char *vault, *address, *auth_method, *namespace_, *mount_path, *kv_mount, *key_path_prefix;
    int64_t *cache_ttl_seconds, *max_cached_keys, *timeout_seconds, *retry_attempts, *queue;
    bool *enable_cache;
};

/* Limits of the HTTP server; 0 or left out: its defaults (http/http.h). */
struct hpl_config_http {
    unsigned max_connections, max_per_address, max_per_credential, max_queued;
    unsigned min_body_rate, handshake_seconds, head_seconds, idle_seconds, write_seconds, request_seconds;
};

struct hpl_config {
    char *state_dir, *data_dir, *listen, *region, *log_level;
    struct hpl_config_tls *tls;
    struct hpl_config_http *http;
    struct hpl_config_root *root;
    char **key_dirs;
    unsigned num_key_dirs;
    struct hpl_config_token *tokens;
    unsigned num_tokens;
    struct hpl_config_vault *vaults;
    unsigned num_vaults;
    char *isolation; /* "worker" (the default) or "inprocess" */
    struct hpl_config_tokend *tokend;
    struct hpl_config_credential *credentials;
    unsigned num_credentials;
    struct hpl_config_kms *kms;
    bool allow_unlocked_memory;
    bool allow_import;             /* keys may be imported over the admin API */
    bool allow_immediate_deletion; /* keys may be destroyed without the 7 to 30 days */
    unsigned workers;            /* 0: one a core */
    unsigned secret_kib;         /* locked memory for keys; 0: 2048 */
    unsigned drain_seconds;      /* 0: 30 */
};

/* Reads and checks the file. HPL_INVALID_CONFIGURATION with the file, the line and the mend. hpl_config_free ends it. */
enum hpl_status hpl_config_load(struct hpl_call *call, const char *path, struct hpl_config **out) HPL_MUST_USE;
void hpl_config_free(struct hpl_config *config);

/* The kms block as a configure body (the caller's), or NULL where the file has none. */
json_t *hpl_config_kms_json(const struct hpl_config_kms *kms);

#endif
