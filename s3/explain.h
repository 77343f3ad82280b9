/* What the admin surface may ask the S3 surface about one object. Blocking; any thread. */
#ifndef HPL_S3_EXPLAIN_H
#define HPL_S3_EXPLAIN_H

#include "base/json.h"

struct hpl_s3;

/* Where an object's encryption comes from and whether its data key opens now: {"bucket", "key", "mode", "size", "envelope": what hpl_kms_explain says,
 * or null where no key service is needed}. *answer is the caller's. HPL_NO_SUCH_OBJECT, HPL_NO_SUCH_BUCKET. The manifest is not verified for this. */
enum hpl_status hpl_s3_explain(struct hpl_s3 *s3, struct hpl_call *call, const char *bucket, const char *key, json_t **answer) HPL_MUST_USE;

#endif
