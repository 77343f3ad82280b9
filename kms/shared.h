/* What all attachments of one service share: kept plaintext keys, flights, numbers. It outlives every attachment. */
#ifndef HPL_KMS_SHARED_H
#define HPL_KMS_SHARED_H

#include "kms/flight.h"
#include "kms/meter.h"
#include "kms/secret_cache.h"
#include "kms/spread.h"

#define HPL_DECRYPT_CACHE_MAX 4096u /* entries of 128 bytes of locked memory each: 512 KiB of the 2 MiB that a daemon locks unless told otherwise */
#define HPL_BUCKET_CACHE_MAX 1024u  /* 128 KiB */

struct hpl_kms_shared {
    struct hpl_secret_cache decrypts, buckets;
    struct hpl_cache_counts records;
    struct hpl_flights flights;     /* unwraps */
    struct hpl_spread spread;       /* for batches */
    struct hpl_meter wraps, unwraps;
    _Atomic uint64_t joined;        /* decrypts that another one's call answered */
    _Atomic uint64_t outage_told_ns; /* when the log last said that a cache serves in an outage */
};

void hpl_kms_shared_init(struct hpl_kms_shared *shared);
void hpl_kms_shared_wipe(struct hpl_kms_shared *shared);
void hpl_kms_shared_flush(struct hpl_kms_shared *shared);
/* A key's record changed: nothing that came from it is kept. */
void hpl_kms_shared_flush_key(struct hpl_kms_shared *shared, const uint8_t uid[static HPL_KEY_UID_LEN]);
void hpl_kms_shared_lose(struct hpl_kms_shared *shared, const uint8_t instance[static 8]);
void hpl_kms_shared_sweep(struct hpl_kms_shared *shared);

#endif
