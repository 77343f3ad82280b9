/* The root secret from a passphrase: scrypt (RFC 7914), with salt, cost and a check kept in STATE/root.kdf. Start-up only, one thread. */
#ifndef HPL_DAEMON_PASSPHRASE_H
#define HPL_DAEMON_PASSPHRASE_H

#include "base/secret.h"

/* The root secret that the passphrase in path (12 to 1024 bytes, one trailing newline aside) gives. Without STATE/root.kdf that is made first, unless a
 * catalog is there: what a new salt gives could open nothing. HPL_INVALID_CONFIGURATION with the mend: the file, a wrong passphrase, a damaged root.kdf. */
enum hpl_status hpl_passphrase_root(struct hpl_call *call, const char *state_dir, const char *path, struct hpl_secret **out) HPL_MUST_USE;

/* The same, but changes nothing: HPL_NOT_FOUND when root.kdf would be made, after the passphrase was read. */
enum hpl_status hpl_passphrase_check(struct hpl_call *call, const char *state_dir, const char *path, struct hpl_secret **out) HPL_MUST_USE;

#endif
