/* Who is asking: credentials kept in the catalog (secret keys sealed under the root secret, never hashed: SigV4 needs them),
 * identities, and what an identity may do. Any thread. */
#ifndef HPL_AUTH_AUTH_H
#define HPL_AUTH_AUTH_H

#include "base/secret.h"
#include "catalog/catalog.h"

#define HPL_ACCESS_KEY_MAX 128u

enum hpl_role { HPL_ROLE_OBJECTS, HPL_ROLE_ADMIN };

struct hpl_identity {
    char access_key[HPL_ACCESS_KEY_MAX + 1];
    enum hpl_role role;
};

struct hpl_auth;

/* From now on the call is made for this identity, which must live as long as the call is used. Any thread. */
void hpl_auth_set_caller(struct hpl_call *call, const struct hpl_identity *identity);

enum hpl_status hpl_auth_open(struct hpl_call *call, struct hpl_auth **out, struct hpl_catalog *catalog) HPL_MUST_USE;
void hpl_auth_close(struct hpl_auth *auth);

/* Adds or replaces a credential: access key of 3 to 128 of [A-Za-z0-9._-], secret of 8 to 128 printable bytes. */
enum hpl_status hpl_auth_put_credential(struct hpl_call *call, struct hpl_auth *auth, const char *access_key,
                                        const struct hpl_secret *secret_key, enum hpl_role role) HPL_MUST_USE;
/* Removes every credential whose access key is not among these; nobody signs with it any more. A failure may leave some of them. */
enum hpl_status hpl_auth_keep_only(struct hpl_call *call, struct hpl_auth *auth, const char *const *access_keys, size_t num_access_keys) HPL_MUST_USE;
/* HPL_AUTH_UNKNOWN_KEY; HPL_INTEGRITY for a row that was changed. *secret_key is the caller's to free. A change is seen at once in
 * this process, within five seconds in others. Reads the catalog (a few microseconds, no waiting on writers) when not remembered, where the call may wait. */
enum hpl_status hpl_auth_find(struct hpl_call *call, struct hpl_auth *auth, const char *access_key,
                              struct hpl_identity *identity, struct hpl_secret **secret_key) HPL_MUST_USE;

/* As hpl_auth_find, but gives the key that SigV4 signs with under a scope, "date/region/service/aws4_request", and remembers the last one of a credential.
 * HPL_AUTH_BAD_SIGNATURE when the scope has another shape. */
enum hpl_status hpl_auth_find_signing_key(struct hpl_call *call, struct hpl_auth *auth, const char *access_key, const char *scope,
                                          struct hpl_identity *identity, struct hpl_secret **key) HPL_MUST_USE;

/* Deny by default. Actions are "s3:…" and "kms:…"; HPL_ACCESS_DENIED names the action. Objects-only identities may do s3
 * actions, administrators everything. */
enum hpl_status hpl_auth_allows(struct hpl_call *call, const struct hpl_identity *identity, const char *action) HPL_MUST_USE;

#endif
