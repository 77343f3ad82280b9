/* A map of bounded size that forgets what was used longest ago. Nodes are members of their owner's entries; the owner holds a lock around
 * every call and keeps what a node stands for. */
#ifndef HPL_KMS_LRU_H
#define HPL_KMS_LRU_H

#include <stdbool.h>
#include "base/check.h"

#define HPL_LRU_KEY_LEN 32u

struct hpl_lru_node {
    uint8_t key[HPL_LRU_KEY_LEN];
    struct hpl_lru_node *chain;         /* the next one of its bucket */
    struct hpl_lru_node *older, *newer;
};

struct hpl_lru {
    struct hpl_lru_node **buckets;      /* a power of two of them, grown with the count; NULL while empty */
    size_t num_buckets, count;
    struct hpl_lru_node *oldest, *newest;
};

/* The node with this key, or NULL. It is as it was in the order of use. */
struct hpl_lru_node *hpl_lru_find(const struct hpl_lru *lru, const uint8_t key[static HPL_LRU_KEY_LEN]);
/* It was used just now. */
void hpl_lru_touch(struct hpl_lru *lru, struct hpl_lru_node *node);
/* Takes a node in whose key is not there yet; false when memory is out. */
bool hpl_lru_add(struct hpl_lru *lru, struct hpl_lru_node *node) HPL_MUST_USE;
/* Takes it out; the owner frees it. */
void hpl_lru_remove(struct hpl_lru *lru, struct hpl_lru_node *node);
/* Gives back the buckets of a map that is empty. */
void hpl_lru_wipe(struct hpl_lru *lru);

#endif
