/* Row MACs and sealed values. Pure; any thread. */
#include "catalog/row_mac.h"

#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/hash.h"

#define SALT_LEN 32u
#define TAG_LEN 16u

struct hpl_secret *hpl_catalog_mac_key(const struct hpl_secret *root)
{
    struct hpl_secret *key = hpl_secret_new(HPL_SHA256_LEN);
    if (key)
        hpl_hkdf_sha256(key->bytes, key->len, hpl_bytes(root->bytes, root->len), hpl_bytes(NULL, 0), hpl_bytes_str("hpl-catalog-mac-v1"));
    return key;
}

void hpl_catalog_row_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_secret *key, const uint8_t deployment[static 16],
                         const char *type, const char *name, uint64_t revision, struct hpl_bytes content)
{
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, "hpl-row-v1");
    hpl_buf_put(&text, deployment, 16);
    hpl_buf_put_lp16(&text, hpl_bytes_str(type));
    hpl_buf_put_lp16(&text, hpl_bytes_str(name));
    hpl_buf_put_u64(&text, revision);
    hpl_buf_put_lp32(&text, content);
    HPL_CHECK(!text.is_failed);
    hpl_hmac_sha256(out, key->bytes, key->len, text.data, text.len);
    hpl_buf_wipe(&text);
}

void hpl_catalog_head_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_secret *key, const uint8_t deployment[static 16],
                          uint64_t generation, const uint8_t sum[static HPL_CATALOG_MAC_LEN])
{
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, "hpl-head-v1");
    hpl_buf_put(&text, deployment, 16);
    hpl_buf_put_u64(&text, generation);
    hpl_buf_put(&text, sum, HPL_CATALOG_MAC_LEN);
    HPL_CHECK(!text.is_failed);
    hpl_hmac_sha256(out, key->bytes, key->len, text.data, text.len);
    hpl_buf_wipe(&text);
}

/* AES-256-GCM under a key of this salt and label alone, so the nonce can be zero. tag is read when opening, written when sealing. */
static bool run_gcm(bool is_seal, const struct hpl_secret *root, const char *label, const uint8_t salt[static SALT_LEN], const uint8_t *in, size_t len,
                    uint8_t *out, uint8_t tag[static TAG_LEN])
{
    static const uint8_t nonce[12];
    uint8_t key[32];
    struct hpl_buf info = {0};
    int done = 0;
    hpl_buf_put_str(&info, "hpl-seal-v1");
    hpl_buf_put_str(&info, label);
    hpl_hkdf_sha256(key, sizeof key, hpl_bytes(root->bytes, root->len), hpl_bytes(salt, SALT_LEN), hpl_buf_bytes(&info));
    hpl_buf_wipe(&info);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool is_right = ctx && EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce, is_seal) &&
                    (is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag)) && EVP_CipherUpdate(ctx, out, &done, in, (int)len) &&
                    EVP_CipherFinal_ex(ctx, out + done, &done) && (!is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_LEN, tag));
    EVP_CIPHER_CTX_free(ctx);
    hpl_wipe(key, sizeof key);
    return is_right;
}

enum hpl_status hpl_catalog_seal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                       const struct hpl_secret *secret, struct hpl_buf *out)
{
    uint8_t salt[SALT_LEN], tag[TAG_LEN];
    if (RAND_bytes(salt, sizeof salt) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    hpl_buf_put(out, salt, sizeof salt);
    uint8_t *at = hpl_buf_extend(out, secret->len);
    if (!at)
        return HPL_NO_MEMORY;
    if (!run_gcm(true, root, label, salt, secret->bytes, secret->len, at, tag))
        return hpl_fail(call, HPL_INTERNAL, "sealing failed");
    hpl_buf_put(out, tag, sizeof tag);
    return hpl_buf_check(out);
}

enum hpl_status hpl_catalog_unseal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                         struct hpl_bytes sealed, struct hpl_secret **out)
{
    uint8_t tag[TAG_LEN];
    *out = NULL;
    if (sealed.len <= SALT_LEN + TAG_LEN || sealed.len - SALT_LEN - TAG_LEN > HPL_SECRET_MAX)
        return hpl_fail(call, HPL_INTEGRITY, "a sealed value has the wrong length");
    struct hpl_secret *secret = hpl_secret_new(sealed.len - SALT_LEN - TAG_LEN);
    if (!secret)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    memcpy(tag, sealed.data + sealed.len - TAG_LEN, TAG_LEN);
    if (!run_gcm(false, root, label, sealed.data, sealed.data + SALT_LEN, secret->len, secret->bytes, tag)) {
        hpl_secret_free(secret);
        return hpl_fail(call, HPL_INTEGRITY, "a sealed value does not verify: it was changed, or the root secret is another");
    }
    *out = secret;
    return HPL_OK;
}
