/* Row MACs, the head and sealed values. Pure; any thread. */
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

/* HMAC over what was put; wipes it. Every text begins with a word of its own, so that no MAC stands in for another kind. */
static void finish(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_binding *binding, struct hpl_buf *text)
{
    HPL_CHECK(!text->is_failed);
    hpl_hmac_sha256(out, binding->key->bytes, binding->key->len, text->data, text->len);
    hpl_buf_wipe(text);
}

static struct hpl_buf begin(const char *word, const struct hpl_catalog_binding *binding)
{
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, word);
    hpl_buf_put(&text, binding->deployment, sizeof binding->deployment);
    return text;
}

void hpl_catalog_root_check(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_binding *binding)
{
    struct hpl_buf text = begin("hpl-root-v1", binding);
    finish(out, binding, &text);
}

void hpl_catalog_row_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_binding *binding, const char *type,
                         const char *name, uint64_t revision, struct hpl_bytes content)
{
    struct hpl_buf text = begin("hpl-row-v1", binding);
    hpl_buf_put_lp16(&text, hpl_bytes_str(type));
    hpl_buf_put_lp16(&text, hpl_bytes_str(name));
    hpl_buf_put_u64(&text, revision);
    hpl_buf_put_lp32(&text, content);
    finish(out, binding, &text);
}

/* --- the head ------------------------------------------------------------------------------------------------------------ */

static void xor_into(uint8_t sum[static HPL_CATALOG_MAC_LEN], const uint8_t other[static HPL_CATALOG_MAC_LEN])
{
    for (size_t i = 0; i < HPL_CATALOG_MAC_LEN; i++)
        sum[i] ^= other[i];
}

void hpl_catalog_head_toggle(struct hpl_catalog_head *head, const struct hpl_catalog_binding *binding, const char *type,
                             const char *name, const uint8_t mac[static HPL_CATALOG_MAC_LEN])
{
    uint8_t element[HPL_CATALOG_MAC_LEN];
    struct hpl_buf text = begin("hpl-element-v1", binding);
    hpl_buf_put_lp16(&text, hpl_bytes_str(type));
    hpl_buf_put_lp16(&text, hpl_bytes_str(name));
    hpl_buf_put(&text, mac, HPL_CATALOG_MAC_LEN);
    finish(element, binding, &text);
    xor_into(head->sum, element);
    hpl_wipe(element, sizeof element);
}

static void toggle_mask(uint8_t sum[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_binding *binding,
                        const uint8_t nonce[static HPL_CATALOG_MAC_LEN])
{
    uint8_t mask[HPL_CATALOG_MAC_LEN];
    struct hpl_buf text = begin("hpl-mask-v1", binding);
    hpl_buf_put(&text, nonce, HPL_CATALOG_MAC_LEN);
    finish(mask, binding, &text);
    xor_into(sum, mask);
    hpl_wipe(mask, sizeof mask);
}

static void head_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_stored_head *stored,
                     const struct hpl_catalog_binding *binding)
{
    struct hpl_buf text = begin("hpl-head-v1", binding);
    hpl_buf_put_u64(&text, stored->generation);
    hpl_buf_put_u64(&text, stored->num_rows);
    hpl_buf_put(&text, stored->nonce, sizeof stored->nonce);
    hpl_buf_put(&text, stored->masked, sizeof stored->masked);
    finish(out, binding, &text);
}

enum hpl_status hpl_catalog_head_close(struct hpl_call *call, const struct hpl_catalog_head *head,
                                       const struct hpl_catalog_binding *binding, struct hpl_catalog_stored_head *stored)
{
    *stored = (struct hpl_catalog_stored_head){.generation = head->generation, .num_rows = head->num_rows};
    if (RAND_bytes(stored->nonce, sizeof stored->nonce) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    memcpy(stored->masked, head->sum, sizeof stored->masked);
    toggle_mask(stored->masked, binding, stored->nonce);
    head_mac(stored->mac, stored, binding);
    return HPL_OK;
}

bool hpl_catalog_head_open(const struct hpl_catalog_stored_head *stored, const struct hpl_catalog_binding *binding,
                           struct hpl_catalog_head *head)
{
    uint8_t mac[HPL_CATALOG_MAC_LEN];
    head_mac(mac, stored, binding);
    if (!hpl_equal_secret(mac, stored->mac, sizeof mac))
        return false;
    *head = (struct hpl_catalog_head){.generation = stored->generation, .num_rows = stored->num_rows};
    memcpy(head->sum, stored->masked, sizeof head->sum);
    toggle_mask(head->sum, binding, stored->nonce);
    return true;
}

/* --- sealing ------------------------------------------------------------------------------------------------------------- */

static void sealing_key(uint8_t key[static 32], const struct hpl_secret *root, const char *label, const uint8_t salt[static SALT_LEN])
{
    struct hpl_buf info = {0};
    hpl_buf_put_str(&info, "hpl-seal-v1");
    hpl_buf_put_str(&info, label);
    HPL_CHECK(!info.is_failed);
    hpl_hkdf_sha256(key, 32, hpl_bytes(root->bytes, root->len), hpl_bytes(salt, SALT_LEN), hpl_buf_bytes(&info));
    hpl_buf_wipe(&info);
}

/* AES-256-GCM; the key is of this salt and label alone, so the nonce can be zero. tag is read when opening, written when sealing. */
static bool run_gcm(bool is_seal, const uint8_t key[static 32], const uint8_t *in, size_t len, uint8_t *out, uint8_t tag[static TAG_LEN])
{
    static const uint8_t nonce[12];
    int done = 0;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool is_right = ctx && EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce, is_seal);
    is_right = is_right && (is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, TAG_LEN, tag));
    is_right = is_right && EVP_CipherUpdate(ctx, out, &done, in, (int)len) && EVP_CipherFinal_ex(ctx, out + done, &done);
    is_right = is_right && (!is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, TAG_LEN, tag));
    EVP_CIPHER_CTX_free(ctx);
    return is_right;
}

enum hpl_status hpl_catalog_seal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                       const struct hpl_secret *secret, struct hpl_buf *out)
{
    uint8_t salt[SALT_LEN], tag[TAG_LEN], key[32];
    if (RAND_bytes(salt, sizeof salt) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    hpl_buf_put(out, salt, sizeof salt);
    uint8_t *at = hpl_buf_extend(out, secret->len);
    if (!at)
        return HPL_NO_MEMORY;
    sealing_key(key, root, label, salt);
    bool is_right = run_gcm(true, key, secret->bytes, secret->len, at, tag);
    hpl_wipe(key, sizeof key);
    if (!is_right)
        return hpl_fail(call, HPL_INTERNAL, "sealing failed");
    hpl_buf_put(out, tag, sizeof tag);
    return hpl_buf_check(out);
}

enum hpl_status hpl_catalog_unseal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                         struct hpl_bytes sealed, struct hpl_secret **out)
{
    uint8_t tag[TAG_LEN], key[32];
    *out = NULL;
    if (sealed.len <= SALT_LEN + TAG_LEN || sealed.len - SALT_LEN - TAG_LEN > HPL_SECRET_MAX)
        return hpl_fail(call, HPL_INTEGRITY, "a sealed value has the wrong length");
    struct hpl_secret *secret = hpl_secret_new(sealed.len - SALT_LEN - TAG_LEN);
    if (!secret)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    memcpy(tag, sealed.data + sealed.len - TAG_LEN, TAG_LEN);
    sealing_key(key, root, label, sealed.data);
    bool is_right = run_gcm(false, key, sealed.data + SALT_LEN, secret->len, secret->bytes, tag);
    hpl_wipe(key, sizeof key);
    if (!is_right) {
        hpl_secret_free(secret);
        return hpl_fail(call, HPL_INTEGRITY, "a sealed value does not verify: it was changed, or the root secret is another");
    }
    *out = secret;
    return HPL_OK;
}
