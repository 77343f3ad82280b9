/* Peer: the OpenSSL that this file is linked with statically, by EVP with a context kept for each direction. */
#include "bench/peers/peer.h"

#include <stdlib.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

struct state {
    EVP_CIPHER_CTX *seal, *open;
};

static void key_free(void *key)
{
    struct state *state = key;
    EVP_CIPHER_CTX_free(state->seal);
    EVP_CIPHER_CTX_free(state->open);
    free(state);
}

static bool start(struct state *state, const uint8_t *bytes)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    bool is_done = cipher && (state->seal = EVP_CIPHER_CTX_new()) && (state->open = EVP_CIPHER_CTX_new()) &&
                   EVP_CipherInit_ex2(state->seal, cipher, bytes, NULL, 1, NULL) == 1 && EVP_CipherInit_ex2(state->open, cipher, bytes, NULL, 0, NULL) == 1;
    EVP_CIPHER_free(cipher);
    return is_done;
}

static void *key_new(const uint8_t bytes[32])
{
    struct state *state = calloc(1, sizeof *state);
    if (state && !start(state, bytes)) {
        key_free(state);
        state = NULL;
    }
    return state;
}

static bool update(EVP_CIPHER_CTX *ctx, const struct hpl_peer_message *m)
{
    int len;
    return EVP_CipherInit_ex2(ctx, NULL, NULL, m->nonce, -1, NULL) == 1 && EVP_CipherUpdate(ctx, NULL, &len, m->aad, (int)m->aad_len) == 1 &&
           EVP_CipherUpdate(ctx, m->out, &len, m->in, (int)m->len) == 1;
}

static bool seal(void *key, const struct hpl_peer_message *m)
{
    EVP_CIPHER_CTX *ctx = ((struct state *)key)->seal;
    int len;
    return update(ctx, m) && EVP_CipherFinal_ex(ctx, m->out + m->len, &len) == 1 && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, m->tag) == 1;
}

static bool open(void *key, const struct hpl_peer_message *m)
{
    EVP_CIPHER_CTX *ctx = ((struct state *)key)->open;
    int len;
    return update(ctx, m) && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, m->tag) == 1 && EVP_CipherFinal_ex(ctx, m->out + m->len, &len) == 1;
}

const struct hpl_peer *hpl_peer_c(void);

const struct hpl_peer *hpl_peer_c(void)
{
    static const struct hpl_peer peer = {HPL_PEER_VERSION, "openssl:" OPENSSL_VERSION_STR, key_new, key_free, seal, open};
    return &peer;
}
