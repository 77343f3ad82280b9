/* Decoded key records of one attachment: what a use of a key costs when its record was read just now is a look-up, no JSON and no backend.
 * Any thread; a lock of its own, never held over a backend call. */
#ifndef HPL_KMS_RECORD_CACHE_H
#define HPL_KMS_RECORD_CACHE_H

#include <pthread.h>
#include <stdatomic.h>

#include "kms/lru.h"
#include "kms/record.h"

/* Counts outlive the cache: a reconfiguration begins an empty cache, and goes on counting. */
struct hpl_cache_counts {
    _Atomic uint64_t hits, misses, evictions;
};

struct hpl_record_cache {
    pthread_mutex_t lock;
    struct hpl_lru lru;
    size_t max_entries;
    uint64_t epoch; /* moves with every change of a record: a read that began before one is not kept */
    struct hpl_cache_counts *counts;
};

void hpl_record_cache_init(struct hpl_record_cache *cache, size_t max_entries, struct hpl_cache_counts *counts);
void hpl_record_cache_wipe(struct hpl_record_cache *cache);

/* A copy of the record and its revision (may be NULL) when it was read not longer ago than max_age_ns and is enabled: a refusal is worth a look at
 * the record itself. A key that keeps plaintext needs a record not older than its own bound (hpl_caching_bound_ns). */
bool hpl_record_cache_find(struct hpl_record_cache *cache, const char *key_id, uint64_t max_age_ns, struct hpl_key_record *record, uint64_t *revision);
/* The same while the keystore cannot be read, within what the key's outage choice allows. Only what is cached may be opened under it. */
bool hpl_record_cache_find_stale(struct hpl_record_cache *cache, const char *key_id, struct hpl_key_record *record);

/* Asked before a record is read, handed back with what was read. */
uint64_t hpl_record_cache_epoch(struct hpl_record_cache *cache);
/* Keeps what was read at read_ns (hpl_clock_mono_ns before the read began), unless a record changed since epoch. */
void hpl_record_cache_put(struct hpl_record_cache *cache, struct hpl_bytes content, uint64_t revision, uint64_t read_ns, uint64_t epoch);
/* Keeps what was written. */
void hpl_record_cache_replace(struct hpl_record_cache *cache, struct hpl_bytes content, uint64_t revision);
void hpl_record_cache_forget(struct hpl_record_cache *cache, const char *key_id);
void hpl_record_cache_clear(struct hpl_record_cache *cache);
size_t hpl_record_cache_count(struct hpl_record_cache *cache);

/* What stands for a key id in maps: itself when it is short, its digest otherwise. */
void hpl_record_cache_key(const char *key_id, uint8_t out[static HPL_LRU_KEY_LEN]);

#endif
