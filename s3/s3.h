/* The S3 surface: buckets and objects with server-side encryption. */
#ifndef HPL_S3_S3_H
#define HPL_S3_S3_H

#include "engine/work/work.h"
#include "http/http.h"
#include "kms/kms.h"

struct hpl_s3;

/* All outlive the surface. */
struct hpl_s3_options {
    const char *data_dir, *region;
    struct hpl_auth *auth;
    struct hpl_kms *kms;
    const struct hpl_secret *root; /* 32 bytes */
    struct hpl_work *work;
};

enum hpl_status hpl_s3_open(struct hpl_call *call, struct hpl_s3 **out, const struct hpl_s3_options *options) HPL_MUST_USE;
void hpl_s3_close(struct hpl_s3 *s3);

/* Register for "/", pool BULK. App: struct hpl_s3. */
extern const struct hpl_http_handler hpl_s3_handler;
/* The XML error form, also for failures of the HTTP core on these routes. */
void hpl_s3_fail(struct hpl_http_exchange *exchange, enum hpl_status status);

/* Objects and uploads that need a key: a hpl_census_fn; arg is the struct hpl_s3. */
enum hpl_status hpl_s3_census(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count);

#endif
