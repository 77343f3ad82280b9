/* The one root secret. */
#ifndef HPL_DAEMON_ROOT_H
#define HPL_DAEMON_ROOT_H

#include "base/secret.h"
#include "daemon/config.h"

/* 32 bytes from the configured file, systemd credential or passphrase, else from STATE/root.key, which is made when neither it nor a catalog
 * is there (and require_external does not forbid it). *was_made tells. The caller frees *out. */
enum hpl_status hpl_root_load(struct hpl_call *call, const struct hpl_config *config, struct hpl_secret **out, bool *was_made) HPL_MUST_USE;

#endif
