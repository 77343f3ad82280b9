/* Hashes by OpenSSL's EVP in the default library context. Any thread. */
#include "base/hash.h"

#include <pthread.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/secret.h"

static EVP_MD *sha256, *sha1, *md5;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fetch(void)
{
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    sha1 = EVP_MD_fetch(NULL, "SHA1", NULL);
    md5 = EVP_MD_fetch(NULL, "MD5", NULL);
    HPL_CHECK(sha256);
}

void hpl_sha256(uint8_t out[static 32], const void *data, size_t len)
{
    pthread_once(&once, fetch);
    HPL_CHECK(EVP_Digest(data, len, out, NULL, sha256, NULL) == 1);
}

void hpl_hmac_sha256(uint8_t out[static 32], const void *key, size_t key_len, const void *data, size_t len)
{
    /* Two hashes by hand over EVP: HMAC() fetches its algorithms anew on every call in OpenSSL 3. */
    uint8_t pad[64] = {0}, inner[32];
    pthread_once(&once, fetch);
    if (key_len > sizeof pad)
        hpl_sha256(pad, key, key_len);
    else if (key_len)
        memcpy(pad, key, key_len);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    HPL_CHECK(ctx);
    for (size_t i = 0; i < sizeof pad; i++)
        pad[i] ^= 0x36;
    HPL_CHECK(EVP_DigestInit_ex2(ctx, sha256, NULL) && EVP_DigestUpdate(ctx, pad, sizeof pad) &&
              EVP_DigestUpdate(ctx, data, len) && EVP_DigestFinal_ex(ctx, inner, NULL));
    for (size_t i = 0; i < sizeof pad; i++)
        pad[i] ^= 0x36 ^ 0x5c;
    HPL_CHECK(EVP_DigestInit_ex2(ctx, sha256, NULL) && EVP_DigestUpdate(ctx, pad, sizeof pad) &&
              EVP_DigestUpdate(ctx, inner, sizeof inner) && EVP_DigestFinal_ex(ctx, out, NULL));
    EVP_MD_CTX_free(ctx);
    hpl_wipe(pad, sizeof pad);
    hpl_wipe(inner, sizeof inner);
}

void hpl_hkdf_sha256(void *out, size_t out_len, struct hpl_bytes key, struct hpl_bytes salt, struct hpl_bytes info)
{
    uint8_t prk[32], block[32];
    HPL_CHECK(out_len <= 255 * 32);
    hpl_hmac_sha256(prk, salt.data, salt.len, key.data, key.len);
    struct hpl_buf text = {0};
    uint8_t *to = out;
    for (uint8_t counter = 1; out_len; counter++) {
        text.len = 0;
        if (counter > 1)
            hpl_buf_put(&text, block, sizeof block);
        hpl_buf_put_bytes(&text, info);
        hpl_buf_put_u8(&text, counter);
        HPL_CHECK(!text.is_failed);
        hpl_hmac_sha256(block, prk, sizeof prk, text.data, text.len);
        size_t n = out_len < sizeof block ? out_len : sizeof block;
        memcpy(to, block, n);
        to += n;
        out_len -= n;
    }
    hpl_buf_wipe(&text);
    hpl_wipe(prk, sizeof prk);
    hpl_wipe(block, sizeof block);
}

enum hpl_status hpl_hash_init(struct hpl_hash *hash, const char *name)
{
    pthread_once(&once, fetch);
    const EVP_MD *md = strcmp(name, "SHA256") == 0 ? sha256 : strcmp(name, "SHA1") == 0 ? sha1 : md5;
    hash->ctx = NULL;
    if (!md)
        return HPL_INTERNAL;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (!ctx || !EVP_DigestInit_ex2(ctx, md, NULL)) {
        EVP_MD_CTX_free(ctx);
        return HPL_NO_MEMORY;
    }
    hash->ctx = ctx;
    return HPL_OK;
}

void hpl_hash_update(struct hpl_hash *hash, const void *data, size_t len)
{
    HPL_CHECK(EVP_DigestUpdate(hash->ctx, data, len) == 1);
}

size_t hpl_hash_final(struct hpl_hash *hash, uint8_t out[static 32])
{
    unsigned len = 0;
    HPL_CHECK(EVP_DigestFinal_ex(hash->ctx, out, &len) == 1);
    hpl_hash_wipe(hash);
    return len;
}

void hpl_hash_wipe(struct hpl_hash *hash)
{
    if (!hash)
        return;
    EVP_MD_CTX_free(hash->ctx);
    hash->ctx = NULL;
}
