/* The map. Under its owner's lock. */
#include "kms/lru.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_BUCKETS 64u

/* FNV-1a over eight bytes at a time; keys are digests or ids that an administrator chose, so nobody else can aim at one bucket. */
static size_t bucket_of(const struct hpl_lru *lru, const uint8_t key[static HPL_LRU_KEY_LEN])
{
    uint64_t hash = 0xcbf29ce484222325u, part;
    for (size_t i = 0; i < HPL_LRU_KEY_LEN; i += sizeof part) {
        memcpy(&part, key + i, sizeof part);
        hash = (hash ^ part) * 0x100000001b3u;
    }
    return (size_t)(hash ^ hash >> 32) & (lru->num_buckets - 1);
}

struct hpl_lru_node *hpl_lru_find(const struct hpl_lru *lru, const uint8_t key[static HPL_LRU_KEY_LEN])
{
    if (!lru->count)
        return NULL;
    struct hpl_lru_node *node = lru->buckets[bucket_of(lru, key)];
    while (node && memcmp(node->key, key, HPL_LRU_KEY_LEN) != 0)
        node = node->chain;
    return node;
}

static void put_in_order(struct hpl_lru *lru, struct hpl_lru_node *node)
{
    node->older = lru->newest;
    node->newer = NULL;
    if (lru->newest)
        lru->newest->newer = node;
    else
        lru->oldest = node;
    lru->newest = node;
}

static void take_from_order(struct hpl_lru *lru, struct hpl_lru_node *node)
{
    if (node->older)
        node->older->newer = node->newer;
    else
        lru->oldest = node->newer;
    if (node->newer)
        node->newer->older = node->older;
    else
        lru->newest = node->older;
}

void hpl_lru_touch(struct hpl_lru *lru, struct hpl_lru_node *node)
{
    if (lru->newest == node)
        return;
    take_from_order(lru, node);
    put_in_order(lru, node);
}

static void put_in_bucket(struct hpl_lru *lru, struct hpl_lru_node *node)
{
    struct hpl_lru_node **bucket = &lru->buckets[bucket_of(lru, node->key)];
    node->chain = *bucket;
    *bucket = node;
}

static bool grow(struct hpl_lru *lru)
{
    size_t wanted = lru->num_buckets ? 2 * lru->num_buckets : FIRST_BUCKETS;
    struct hpl_lru_node **buckets = calloc(wanted, sizeof(struct hpl_lru_node *));
    if (!buckets)
        return lru->num_buckets > 0; /* longer chains do no harm */
    free(lru->buckets);
    lru->buckets = buckets;
    lru->num_buckets = wanted;
    for (struct hpl_lru_node *node = lru->oldest; node; node = node->newer)
        put_in_bucket(lru, node);
    return true;
}

bool hpl_lru_add(struct hpl_lru *lru, struct hpl_lru_node *node)
{
    if (lru->count >= lru->num_buckets && !grow(lru))
        return false;
    put_in_bucket(lru, node);
    put_in_order(lru, node);
    lru->count++;
    return true;
}

void hpl_lru_remove(struct hpl_lru *lru, struct hpl_lru_node *node)
{
    struct hpl_lru_node **at = &lru->buckets[bucket_of(lru, node->key)];
    while (*at != node)
        at = &(*at)->chain;
    *at = node->chain;
    take_from_order(lru, node);
    lru->count--;
}

void hpl_lru_wipe(struct hpl_lru *lru)
{
    HPL_CHECK(lru->count == 0);
    free(lru->buckets);
    *lru = (struct hpl_lru){0};
}
