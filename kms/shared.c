/* What attachments share. Any thread; init and wipe are the service's. */
#include "kms/shared.h"

void hpl_kms_shared_init(struct hpl_kms_shared *shared)
{
    *shared = (struct hpl_kms_shared){0};
    hpl_secret_cache_init(&shared->decrypts, HPL_DECRYPT_CACHE_MAX);
    hpl_secret_cache_init(&shared->buckets, HPL_BUCKET_CACHE_MAX);
    hpl_flights_init(&shared->flights);
    hpl_spread_init(&shared->spread);
}

void hpl_kms_shared_wipe(struct hpl_kms_shared *shared)
{
    hpl_secret_cache_wipe(&shared->decrypts);
    hpl_secret_cache_wipe(&shared->buckets);
    hpl_flights_wipe(&shared->flights);
    hpl_spread_wipe(&shared->spread);
}

void hpl_kms_shared_flush(struct hpl_kms_shared *shared)
{
    hpl_secret_cache_flush(&shared->decrypts);
    hpl_secret_cache_flush(&shared->buckets);
}

void hpl_kms_shared_flush_key(struct hpl_kms_shared *shared, const uint8_t uid[static HPL_KEY_UID_LEN])
{
    hpl_secret_cache_flush_key(&shared->decrypts, uid);
    hpl_secret_cache_flush_key(&shared->buckets, uid);
}

void hpl_kms_shared_lose(struct hpl_kms_shared *shared, const uint8_t instance[static 8])
{
    hpl_secret_cache_lose(&shared->decrypts, instance);
    hpl_secret_cache_lose(&shared->buckets, instance);
}

void hpl_kms_shared_sweep(struct hpl_kms_shared *shared)
{
    hpl_secret_cache_sweep(&shared->decrypts);
    hpl_secret_cache_sweep(&shared->buckets);
}
