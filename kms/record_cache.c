/* Decoded records. Any thread. */
#include "kms/record_cache.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/hash.h"

struct entry {
    struct hpl_lru_node node; /* first */
    struct hpl_record_holder *holder;
    uint64_t revision, read_ns;
};

void hpl_record_cache_init(struct hpl_record_cache *cache, size_t max_entries, struct hpl_cache_counts *counts)
{
    *cache = (struct hpl_record_cache){.max_entries = max_entries, .counts = counts};
    pthread_mutex_init(&cache->lock, NULL);
}

static void free_entry(struct entry *entry)
{
    if (entry)
        hpl_record_release(entry->holder);
    free(entry);
}

/* Under the lock. */
static void drop(struct hpl_record_cache *cache, struct hpl_lru_node *node)
{
    struct entry *entry = (struct entry *)node;
    hpl_lru_remove(&cache->lru, node);
    free_entry(entry);
}

void hpl_record_cache_clear(struct hpl_record_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    cache->epoch++;
    while (cache->lru.oldest)
        drop(cache, cache->lru.oldest);
    pthread_mutex_unlock(&cache->lock);
}

void hpl_record_cache_wipe(struct hpl_record_cache *cache)
{
    hpl_record_cache_clear(cache);
    hpl_lru_wipe(&cache->lru);
    pthread_mutex_destroy(&cache->lock);
}

void hpl_record_cache_key(const char *key_id, uint8_t out[static HPL_LRU_KEY_LEN])
{
    size_t len = strlen(key_id);
    memset(out, 0, HPL_LRU_KEY_LEN);
    if (len < HPL_LRU_KEY_LEN)
        memcpy(out + 1, key_id, len);
    else
        hpl_sha256(out, key_id, len);
    out[0] = len < HPL_LRU_KEY_LEN ? (uint8_t)len : 0xff;
}

/* Under the lock; NULL when it is too old or not enabled. */
static const struct entry *find_young(struct hpl_record_cache *cache, const char *key_id, uint64_t max_age_ns)
{
    uint8_t key[HPL_LRU_KEY_LEN];
    hpl_record_cache_key(key_id, key);
    struct entry *entry = (struct entry *)hpl_lru_find(&cache->lru, key);
    if (!entry || hpl_record_held(entry->holder)->state != HPL_STATE_ENABLED || hpl_clock_mono_ns() - entry->read_ns > max_age_ns)
        return NULL;
    hpl_lru_touch(&cache->lru, &entry->node);
    return entry;
}

bool hpl_record_cache_find(struct hpl_record_cache *cache, const char *key_id, uint64_t max_age_ns, struct hpl_key_record *record, uint64_t *revision)
{
    pthread_mutex_lock(&cache->lock);
    const struct entry *entry = find_young(cache, key_id, max_age_ns);
    uint64_t bound_ns = entry ? hpl_caching_bound_ns(&hpl_record_held(entry->holder)->caching) : 0;
    if (bound_ns && bound_ns < max_age_ns)
        entry = find_young(cache, key_id, bound_ns);
    if (entry) {
        hpl_record_share(record, entry->holder);
        if (revision)
            *revision = entry->revision;
    }
    pthread_mutex_unlock(&cache->lock);
    atomic_fetch_add_explicit(entry ? &cache->counts->hits : &cache->counts->misses, 1, memory_order_relaxed);
    return entry != NULL;
}

bool hpl_record_cache_find_stale(struct hpl_record_cache *cache, const char *key_id, struct hpl_key_record *record)
{
    pthread_mutex_lock(&cache->lock);
    const struct entry *entry = find_young(cache, key_id, UINT64_MAX);
    uint64_t outage_ns = entry ? hpl_record_held(entry->holder)->caching.outage_seconds * 1000000000ull : 0;
    entry = outage_ns ? find_young(cache, key_id, outage_ns) : NULL;
    if (entry)
        hpl_record_share(record, entry->holder);
    pthread_mutex_unlock(&cache->lock);
    return entry != NULL;
}

uint64_t hpl_record_cache_epoch(struct hpl_record_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    uint64_t epoch = cache->epoch;
    pthread_mutex_unlock(&cache->lock);
    return epoch;
}

/* Takes the entry. What is kept of a later revision stays. Under the lock. */
static void keep(struct hpl_record_cache *cache, struct entry *entry)
{
    struct entry *old = (struct entry *)hpl_lru_find(&cache->lru, entry->node.key);
    if (old && old->revision > entry->revision) {
        free_entry(entry);
        return;
    }
    if (old)
        drop(cache, &old->node);
    while (cache->lru.count >= cache->max_entries) {
        drop(cache, cache->lru.oldest);
        atomic_fetch_add_explicit(&cache->counts->evictions, 1, memory_order_relaxed);
    }
    if (!hpl_lru_add(&cache->lru, &entry->node))
        free_entry(entry);
}

/* Of JSON of its own, so that nobody changes a cached record through a copy. NULL when memory is out. */
static struct entry *new_entry(struct hpl_bytes content, uint64_t revision, uint64_t read_ns)
{
    struct hpl_key_record record;
    struct entry *entry = calloc(1, sizeof *entry);
    if (!entry || hpl_record_decode(NULL, content, &record) != HPL_OK || !(entry->holder = hpl_record_hold(&record))) {
        free(entry);
        return NULL;
    }
    hpl_record_cache_key(hpl_record_held(entry->holder)->key_id, entry->node.key);
    entry->revision = revision;
    entry->read_ns = read_ns;
    return entry;
}

void hpl_record_cache_put(struct hpl_record_cache *cache, struct hpl_bytes content, uint64_t revision, uint64_t read_ns, uint64_t epoch)
{
    struct entry *entry = new_entry(content, revision, read_ns);
    pthread_mutex_lock(&cache->lock);
    if (entry && cache->epoch == epoch) {
        keep(cache, entry);
        entry = NULL;
    }
    pthread_mutex_unlock(&cache->lock);
    free_entry(entry);
}

void hpl_record_cache_replace(struct hpl_record_cache *cache, struct hpl_bytes content, uint64_t revision)
{
    struct entry *entry = new_entry(content, revision, hpl_clock_mono_ns());
    if (!entry) { /* out of memory: nothing kept is better than the record as it was */
        hpl_record_cache_clear(cache);
        return;
    }
    pthread_mutex_lock(&cache->lock);
    cache->epoch++;
    keep(cache, entry);
    pthread_mutex_unlock(&cache->lock);
}

void hpl_record_cache_forget(struct hpl_record_cache *cache, const char *key_id)
{
    uint8_t key[HPL_LRU_KEY_LEN];
    hpl_record_cache_key(key_id, key);
    pthread_mutex_lock(&cache->lock);
    cache->epoch++;
    struct hpl_lru_node *node = hpl_lru_find(&cache->lru, key);
    if (node)
        drop(cache, node);
    pthread_mutex_unlock(&cache->lock);
}

size_t hpl_record_cache_count(struct hpl_record_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    size_t count = cache->lru.count;
    pthread_mutex_unlock(&cache->lock);
    return count;
}
