/* Peer: AWS-LC, by its EVP_AEAD calls. */
#include "bench/peers/peer.h"

#include <openssl/aead.h>
#include <openssl/base.h>

static void *key_new(const uint8_t bytes[32])
{
    return EVP_AEAD_CTX_new(EVP_aead_aes_256_gcm(), bytes, 32, 16);
}

static void key_free(void *key)
{
    EVP_AEAD_CTX_free(key);
}

static bool seal(void *key, const struct hpl_peer_message *m)
{
    size_t tag_len;
    return EVP_AEAD_CTX_seal_scatter(key, m->out, m->tag, &tag_len, 16, m->nonce, 12, m->in, m->len, NULL, 0, m->aad, m->aad_len) == 1;
}

static bool open(void *key, const struct hpl_peer_message *m)
{
    return EVP_AEAD_CTX_open_gather(key, m->out, m->nonce, 12, m->in, m->len, m->tag, 16, m->aad, m->aad_len) == 1;
}

const struct hpl_peer *hpl_peer_c(void);

const struct hpl_peer *hpl_peer_c(void)
{
    static const struct hpl_peer peer = {HPL_PEER_VERSION, "aws-lc:" AWSLC_VERSION_NUMBER_STRING, key_new, key_free, seal, open};
    return &peer;
}
