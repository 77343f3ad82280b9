/* The admin surface: KMS lifecycle, keys and data keys over signed JSON, and the unsigned health and metrics routes. */
#ifndef HPL_ADMIN_ADMIN_H
#define HPL_ADMIN_ADMIN_H

#include "auth/auth.h"
#include "http/http.h"
#include "kms/kms.h"

struct hpl_s3;

/* What the handlers need; the daemon fills it and it outlives the server. */
struct hpl_admin {
    struct hpl_auth *auth;
    struct hpl_kms *kms;
    struct hpl_s3 *s3;              /* to explain objects */
    const char *region;             /* NULL: any region in the signature is taken */
    const char *kernel;             /* the AES-GCM kernel in use, for metrics */
    struct hpl_http_server **server; /* set once the server runs, for metrics */
};

/* Register for HPL_ADMIN_PREFIX and its alias, pool CONTROL. App: struct hpl_admin. */
#define HPL_ADMIN_PREFIX "/rustfs/admin/v3/"
#define HPL_ADMIN_ALIAS "/minio/admin/v3/"
extern const struct hpl_http_handler hpl_admin_handler;

/* Register for "/hardplate/", pool CONTROL. App: struct hpl_admin. */
extern const struct hpl_http_handler hpl_health_handler;

/* A single data key of a keystore that computes (http.h, is_quick). */
bool hpl_admin_is_quick(const struct hpl_http_exchange *exchange);

/* The JSON error form: {"code","message","description"}; also for failures of the HTTP core on these routes. */
void hpl_admin_fail(struct hpl_http_exchange *exchange, enum hpl_status status);

#endif
