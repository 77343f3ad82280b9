/* What another implementation of AES-256-GCM must offer to stand beside ours: a shared object that exports hpl_peer. The bench loads it by dlopen with local
 * symbols, and never links it, so that several libraries with the same symbols live in one process. */
#ifndef HPL_BENCH_PEERS_PEER_H
#define HPL_BENCH_PEERS_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HPL_PEER_VERSION 1u

/* One message: a 96-bit nonce, out apart from in, a whole tag apart from both. */
struct hpl_peer_message {
    const uint8_t *nonce, *aad, *in;
    size_t aad_len, len;
    uint8_t *out, *tag; /* tag: 16 bytes, written by seal, read by open */
};

/* Everything is called from one thread at a time. */
struct hpl_peer {
    uint32_t version;                      /* HPL_PEER_VERSION */
    const char *name;                      /* its own name and version: "ipsec-mb:1.3.0" */
    void *(*key_new)(const uint8_t key[32]); /* NULL: it does not run on this processor */
    void (*key_free)(void *key);
    /* The library's quickest documented way for one message under a key that is ready. False: failed, or the tag is wrong. */
    bool (*seal)(void *key, const struct hpl_peer_message *message);
    bool (*open)(void *key, const struct hpl_peer_message *message);
};

/* What the shared object exports. NULL: not on this processor. */
const struct hpl_peer *hpl_peer(void);

#endif
