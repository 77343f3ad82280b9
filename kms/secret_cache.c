/* Kept plaintext keys. Any thread; never blocks on a backend. */
#include "kms/secret_cache.h"

#include <stdlib.h>

#include "base/clock.h"

#define SWEEP_EVERY_NS 1000000000u

struct entry {
    struct hpl_lru_node node; /* first */
    uint8_t instance[8], uid[HPL_KEY_UID_LEN];
    struct hpl_secret *secret;
    uint64_t fresh_until_ns, outage_until_ns;
    uint32_t uses_left;
    size_t note_len;
    uint8_t note[];
};

void hpl_secret_cache_init(struct hpl_secret_cache *cache, size_t max_entries)
{
    *cache = (struct hpl_secret_cache){.max_entries = max_entries};
    pthread_mutex_init(&cache->lock, NULL);
}

void hpl_secret_cache_wipe(struct hpl_secret_cache *cache)
{
    hpl_secret_cache_flush(cache);
    hpl_lru_wipe(&cache->lru);
    pthread_mutex_destroy(&cache->lock);
}

/* Under the lock. */
static void drop(struct hpl_secret_cache *cache, struct entry *entry)
{
    hpl_lru_remove(&cache->lru, &entry->node);
    hpl_secret_free(entry->secret);
    free(entry);
}

static bool is_over(const struct entry *entry, uint64_t now)
{
    return (now >= entry->fresh_until_ns || !entry->uses_left) && now >= entry->outage_until_ns;
}

static bool is_fresh(const struct entry *entry, uint64_t now)
{
    return now < entry->fresh_until_ns && entry->uses_left > 0;
}

/* Under the lock. */
static struct entry *find(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN], uint64_t now)
{
    struct entry *entry = (struct entry *)hpl_lru_find(&cache->lru, key);
    if (!entry || !is_over(entry, now))
        return entry;
    drop(cache, entry);
    return NULL;
}

static struct hpl_secret *copy_of(struct hpl_secret_cache *cache, struct entry *entry)
{
    hpl_lru_touch(&cache->lru, &entry->node);
    return hpl_secret_from(entry->secret->bytes, entry->secret->len);
}

struct hpl_secret *hpl_secret_cache_find(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN], struct hpl_buf *note)
{
    struct hpl_secret *found = NULL;
    uint64_t now = hpl_clock_mono_ns();
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = find(cache, key, now);
    if (entry && is_fresh(entry, now) && (found = copy_of(cache, entry))) {
        entry->uses_left--;
        if (note)
            hpl_buf_put(note, entry->note, entry->note_len);
    }
    pthread_mutex_unlock(&cache->lock);
    atomic_fetch_add_explicit(found ? &cache->counts.hits : &cache->counts.misses, 1, memory_order_relaxed);
    return found;
}

struct hpl_secret *hpl_secret_cache_find_in_outage(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN])
{
    struct hpl_secret *found = NULL;
    uint64_t now = hpl_clock_mono_ns();
    pthread_mutex_lock(&cache->lock);
    struct entry *entry = find(cache, key, now);
    if (entry && now < entry->outage_until_ns)
        found = copy_of(cache, entry);
    pthread_mutex_unlock(&cache->lock);
    if (found)
        atomic_fetch_add_explicit(&cache->outage_hits, 1, memory_order_relaxed);
    return found;
}

uint64_t hpl_secret_cache_epoch(struct hpl_secret_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    uint64_t epoch = cache->epoch;
    pthread_mutex_unlock(&cache->lock);
    return epoch;
}

/* Under the lock. */
static void sweep(struct hpl_secret_cache *cache, uint64_t now)
{
    struct hpl_lru_node *newer;
    cache->swept_ns = now;
    for (struct hpl_lru_node *node = cache->lru.oldest; node; node = newer) {
        newer = node->newer;
        if (is_over((struct entry *)node, now))
            drop(cache, (struct entry *)node);
    }
}

void hpl_secret_cache_sweep(struct hpl_secret_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    sweep(cache, hpl_clock_mono_ns());
    pthread_mutex_unlock(&cache->lock);
}

static void free_entry(struct entry *entry)
{
    if (entry)
        hpl_secret_free(entry->secret);
    free(entry);
}

static struct entry *new_entry(const uint8_t key[static HPL_LRU_KEY_LEN], const struct hpl_secret *secret, const struct hpl_secret_term *term, uint64_t now)
{
    struct entry *entry = calloc(1, sizeof *entry + term->note.len);
    if (!entry || !(entry->secret = hpl_secret_from(secret->bytes, secret->len))) {
        free(entry);
        return NULL;
    }
    memcpy(entry->node.key, key, sizeof entry->node.key);
    memcpy(entry->instance, term->instance, sizeof entry->instance);
    memcpy(entry->uid, term->uid, sizeof entry->uid);
    entry->fresh_until_ns = term->fresh_ns ? now + term->fresh_ns : 0;
    entry->outage_until_ns = term->outage_ns ? now + term->outage_ns : 0;
    entry->uses_left = term->uses;
    entry->note_len = term->note.len;
    if (term->note.len)
        memcpy(entry->note, term->note.data, term->note.len);
    return entry;
}

/* Takes the entry. Under the lock. */
static void keep(struct hpl_secret_cache *cache, struct entry *entry)
{
    struct hpl_lru_node *old = hpl_lru_find(&cache->lru, entry->node.key);
    if (old)
        drop(cache, (struct entry *)old);
    while (cache->lru.count >= cache->max_entries) {
        drop(cache, (struct entry *)cache->lru.oldest);
        atomic_fetch_add_explicit(&cache->counts.evictions, 1, memory_order_relaxed);
    }
    if (!hpl_lru_add(&cache->lru, &entry->node))
        free_entry(entry);
}

void hpl_secret_cache_put(struct hpl_secret_cache *cache, const uint8_t key[static HPL_LRU_KEY_LEN], const struct hpl_secret *secret,
                          const struct hpl_secret_term *term, uint64_t epoch)
{
    uint64_t now = hpl_clock_mono_ns();
    struct entry *entry = term->fresh_ns || term->outage_ns ? new_entry(key, secret, term, now) : NULL;
    if (!entry)
        return;
    pthread_mutex_lock(&cache->lock);
    if (now - cache->swept_ns >= SWEEP_EVERY_NS)
        sweep(cache, now);
    if (cache->epoch == epoch) {
        keep(cache, entry);
        entry = NULL;
    }
    pthread_mutex_unlock(&cache->lock);
    free_entry(entry);
}

typedef bool match_fn(const struct entry *entry, const void *what);

static void flush_if(struct hpl_secret_cache *cache, match_fn *match, const void *what)
{
    struct hpl_lru_node *newer;
    pthread_mutex_lock(&cache->lock);
    cache->epoch++;
    for (struct hpl_lru_node *node = cache->lru.oldest; node; node = newer) {
        newer = node->newer;
        if (match((struct entry *)node, what))
            drop(cache, (struct entry *)node);
    }
    pthread_mutex_unlock(&cache->lock);
}

static bool is_any(const struct entry *entry, const void *what)
{
    (void)entry, (void)what;
    return true;
}

void hpl_secret_cache_flush(struct hpl_secret_cache *cache)
{
    flush_if(cache, is_any, NULL);
}

static bool is_of_key(const struct entry *entry, const void *uid)
{
    return memcmp(entry->uid, uid, sizeof entry->uid) == 0;
}

void hpl_secret_cache_flush_key(struct hpl_secret_cache *cache, const uint8_t uid[static HPL_KEY_UID_LEN])
{
    flush_if(cache, is_of_key, uid);
}

static bool is_lost(const struct entry *entry, const void *instance)
{
    return memcmp(entry->instance, instance, sizeof entry->instance) == 0 && !entry->outage_until_ns;
}

void hpl_secret_cache_lose(struct hpl_secret_cache *cache, const uint8_t instance[static 8])
{
    flush_if(cache, is_lost, instance);
    pthread_mutex_lock(&cache->lock);
    for (struct hpl_lru_node *node = cache->lru.oldest; node; node = node->newer)
        if (memcmp(((struct entry *)node)->instance, instance, 8) == 0)
            ((struct entry *)node)->fresh_until_ns = 0;
    pthread_mutex_unlock(&cache->lock);
}

size_t hpl_secret_cache_count(struct hpl_secret_cache *cache)
{
    pthread_mutex_lock(&cache->lock);
    size_t count = cache->lru.count;
    pthread_mutex_unlock(&cache->lock);
    return count;
}
