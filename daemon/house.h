/* The whole house: everything the daemon runs, opened in one order and closed in the reverse. */
#ifndef HPL_DAEMON_HOUSE_H
#define HPL_DAEMON_HOUSE_H

#include "admin/admin.h"
#include "daemon/config.h"
#include "engine/work/work.h"
#include "s3/s3.h"

struct hpl_house {
    const struct hpl_config *config;
    int lock_fd;
    struct hpl_secret *root;
    struct hpl_catalog *catalog;
    struct hpl_auth *auth;
    struct hpl_work *work;
    struct hpl_token_option *tokens;
    struct hpl_tokend_option tokend;
    struct hpl_backend_env env;
    struct hpl_kms *kms;
    struct hpl_s3 *s3;
    struct hpl_admin admin;
    struct hpl_http_server *server;
};

/* Opens everything but the listener: lock on the state folder, secret memory, root secret, catalog, credentials, workers, KMS, S3. On failure
 * hpl_house_close still has to be called. config outlives the house. is_dev is told to the backends. */
enum hpl_status hpl_house_open(struct hpl_call *call, struct hpl_house *house, const struct hpl_config *config, bool is_dev) HPL_MUST_USE;

/* Binds and serves; inherited_fd: on the socket that systemd listens on already, or 0. */
enum hpl_status hpl_house_serve(struct hpl_call *call, struct hpl_house *house, int inherited_fd) HPL_MUST_USE;

/* Stops taking requests, waits for what runs, closes all but the lock on the state folder. A half-open house is fine. */
void hpl_house_close(struct hpl_house *house);
/* The last of all: from now on another daemon may have the state folder. */
void hpl_house_unlock(struct hpl_house *house);

/* Secret memory as configured: HPL_UNAVAILABLE with the mend when it cannot be locked. */
enum hpl_status hpl_house_lock_memory(struct hpl_call *call, const struct hpl_config *config) HPL_MUST_USE;

/* The default key by the older document's variable RUSTFS_KMS_DEFAULT_KEY_ID; NULL where it is not set. HPL_INVALID_CONFIGURATION. */
enum hpl_status hpl_house_default_key(struct hpl_call *call, const char **key_id) HPL_MUST_USE;

/* What backends get from the configuration. tokens and env->vaults are the caller's to free, tokend is what env may point
 * to; views live as long as config. */
void hpl_house_env(const struct hpl_config *config, bool is_dev, struct hpl_token_option **tokens, struct hpl_tokend_option *tokend,
                   struct hpl_backend_env *env);

#endif
