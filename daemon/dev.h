/* --dev DIR: a whole deployment in one folder, for trying out and for tests. */
#ifndef HPL_DAEMON_DEV_H
#define HPL_DAEMON_DEV_H

#include "base/secret.h"
#include "daemon/config.h"

struct hpl_dev {
    const char *dir;     /* absolute */
    const char *backend; /* "pkcs11", "local" or "none" */
    const char *listen;  /* as given; the port may be 0 */
    const char *isolation; /* "inprocess" or "worker" */
};

/* Makes DIR, a SoftHSM token in it (once; its PINs are random and never in argv), points SOFTHSM2_CONF at it, and fills a configuration that
 * uses all that. Without softhsm2 only --backend pkcs11 fails, with the mend. */
enum hpl_status hpl_dev_prepare(struct hpl_call *call, const struct hpl_dev *dev, struct hpl_config **out) HPL_MUST_USE;

/* The first start's configure body for this backend (the caller's), or NULL for "none". */
json_t *hpl_dev_kms_json(const struct hpl_dev *dev);

/* Takes DIR/pid away, which says that a daemon answers here; at a start also the DIR/env of the one before. The lock of DIR is the caller's. */
void hpl_dev_retract(const struct hpl_dev *dev, bool is_start);

struct hpl_dev_credential {
    char access_key[129];
    struct hpl_secret *secret_key;
};

/* Writes DIR/env (0600), DIR/restart and, last, DIR/pid once the address is known. program is the daemon's own path. */
enum hpl_status hpl_dev_publish(struct hpl_call *call, const struct hpl_dev *dev, const struct hpl_config *config, const char *program,
                                const char *address, const struct hpl_dev_credential *admin, const struct hpl_dev_credential *user) HPL_MUST_USE;

#endif
