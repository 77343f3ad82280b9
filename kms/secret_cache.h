/* Plaintext data keys and bucket keys that a key's caching choice lets us keep: in locked memory, bounded in number, time and uses, wiped when
 * their key changes. Whoever looks here has checked state, policy and context of the request before. Any thread. */
#ifndef HPL_KMS_SECRET_CACHE_H
#define HPL_KMS_SECRET_CACHE_H

#include "kms/record_cache.h"

/* What an entry stands for and for how long: fresh, it is as good as the backend's answer; after that, and only while the backend cannot be reached,
 * it may still serve until outage_ns. Both from now; 0: not at all. */
struct hpl_secret_term {
    const uint8_t *instance, *uid;  /* 8 and 16 bytes: the keystore and key that it came from */
    uint64_t fresh_ns, outage_ns;
    uint32_t uses;                  /* while fresh */
    struct hpl_bytes note;          /* kept beside it: a bucket key's envelope; may be empty */
};

struct hpl_secret_cache {
    pthread_mutex_t lock;
    struct hpl_lru lru;
    size_t max_entries;
    uint64_t epoch;   /* moves with every flush */
    uint64_t swept_ns;
    struct hpl_cache_counts counts;
    _Atomic uint64_t outage_hits;
};

void hpl_secret_cache_init(struct hpl_secret_cache *cache, size_t max_entries);
void hpl_secret_cache_wipe(struct hpl_secret_cache *cache);

/* A copy, the caller's, of what is fresh; one use less is left. NULL when there is none. note (may be NULL) gets what is kept beside it. */
struct hpl_secret *hpl_secret_cache_find(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN], struct hpl_buf *note);
/* The same of what may serve in an outage. */
struct hpl_secret *hpl_secret_cache_find_in_outage(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN]);

/* Asked before the backend is, handed back with what it gave: nothing is kept across a flush. */
uint64_t hpl_secret_cache_epoch(struct hpl_secret_cache *cache);
/* Keeps a copy; the one used longest ago makes room. Silently not when memory is out. */
void hpl_secret_cache_put(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN], const struct hpl_secret *secret,
                          const struct hpl_secret_term *term, uint64_t epoch);

void hpl_secret_cache_flush(struct hpl_secret_cache *cache);
/* What came from this key. */
void hpl_secret_cache_flush_key(struct hpl_secret_cache *cache, const uint8_t uid[static HPL_KEY_UID_LEN]);
/* The keystore is lost: nothing of it is fresh any more, and only what an outage choice keeps stays. */
void hpl_secret_cache_lose(struct hpl_secret_cache *cache, const uint8_t instance[static 8]);
/* Wipes what is over. Every minute; a put does it too, once a second. */
void hpl_secret_cache_sweep(struct hpl_secret_cache *cache);
size_t hpl_secret_cache_count(struct hpl_secret_cache *cache);

#endif
