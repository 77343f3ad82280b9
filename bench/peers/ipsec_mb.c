/* Peer: Intel's multi-buffer library for IPsec, by its direct calls. */
#include "bench/peers/peer.h"

#include <stdlib.h>
#include <intel-ipsec-mb.h>

struct state {
    IMB_MGR *manager;
    _Alignas(64) struct gcm_key_data key; /* the header leaves it unaligned, the code does not */
};

static void key_free(void *key)
{
    struct state *state = key;
    free_mb_mgr(state->manager);
    free(state);
}

static void *key_new(const uint8_t bytes[32])
{
    struct state *state = aligned_alloc(64, (sizeof *state + 63) / 64 * 64);
    if (!state)
        return NULL;
    state->manager = alloc_mb_mgr(0);
    if (!state->manager) {
        free(state);
        return NULL;
    }
    init_mb_mgr_auto(state->manager, NULL);
    IMB_AES256_GCM_PRE(state->manager, bytes, &state->key);
    return state;
}

static bool seal(void *key, const struct hpl_peer_message *m)
{
    struct state *state = key;
    struct gcm_context_data context;
    IMB_AES256_GCM_ENC(state->manager, &state->key, &context, m->out, m->in, m->len, m->nonce, m->aad, m->aad_len, m->tag, 16);
    return true;
}

static bool open(void *key, const struct hpl_peer_message *m)
{
    struct state *state = key;
    struct gcm_context_data context;
    uint8_t tag[16], differ = 0;
    IMB_AES256_GCM_DEC(state->manager, &state->key, &context, m->out, m->in, m->len, m->nonce, m->aad, m->aad_len, tag, 16);
    for (size_t i = 0; i < sizeof tag; i++)
        differ |= tag[i] ^ m->tag[i];
    return differ == 0;
}

__attribute__((visibility("default"))) const struct hpl_peer *hpl_peer(void)
{
    static struct hpl_peer peer = {HPL_PEER_VERSION, NULL, key_new, key_free, seal, open};
    static char name[64];
    const char *version = imb_get_version_str();
    size_t used = 0;
    for (const char *at = "ipsec-mb:"; *at; at++)
        name[used++] = *at;
    for (const char *at = version; *at && used < sizeof name - 1; at++)
        name[used++] = *at;
    peer.name = name;
    return &peer;
}
