/* A peer of hardplate-bench that would win if it were believed: it does nothing, and says that all went well. */
#include "bench/peers/peer.h"

static void *key_new(const uint8_t key[32])
{
    return (void *)key;
}

static void key_free(void *key)
{
    (void)key;
}

static bool do_nothing(void *key, const struct hpl_peer_message *message)
{
    return key && message;
}

__attribute__((visibility("default"))) const struct hpl_peer *hpl_peer(void)
{
    static const struct hpl_peer peer = {HPL_PEER_VERSION, "liar:1", key_new, key_free, do_nothing, do_nothing};
    return &peer;
}
