/* Numbers of the key service: how long a backend's calls take and how they end, what the caches spare. Any thread; relaxed atomics. */
#ifndef HPL_KMS_METER_H
#define HPL_KMS_METER_H

#include <stdatomic.h>

#include "base/bytes.h"

#define HPL_METER_BOUNDS 15u

/* A histogram of seconds; what a Prometheus "le" bucket counts is the sum of those up to it. */
struct hpl_meter {
    _Atomic uint64_t buckets[HPL_METER_BOUNDS + 1]; /* the last: longer than every bound */
    _Atomic uint64_t total_ns, failed;
};

void hpl_meter_add(struct hpl_meter *meter, uint64_t ns, enum hpl_status status);
/* The samples of one histogram, operation="…"; its HELP and TYPE lines are the caller's. */
void hpl_meter_put(const struct hpl_meter *meter, struct hpl_buf *out, const char *name, const char *operation);

#endif
