/* Key files. Pure; any thread. */
#include "backends/local/key_file.h"

#include <pthread.h>
#include <stdlib.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/hash.h"

#define MAX_VERSIONS 10000u
#define MAC_LEN 32u

/* Once: EVP_aes_256_gcm() is fetched anew by every use. */
static EVP_CIPHER *gcm;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fetch(void)
{
    gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    HPL_CHECK(gcm);
}

static bool run_gcm(bool is_seal, const struct hpl_secret *key, const uint8_t *salt, struct hpl_bytes info, struct hpl_bytes aad, const uint8_t *in,
                    size_t len, uint8_t *out, uint8_t tag[static HPL_LOCAL_TAG_LEN])
{
    static const uint8_t nonce[12];
    uint8_t derived[32];
    int n = 0;
    hpl_hkdf_sha256(derived, sizeof derived, hpl_bytes(key->bytes, key->len), hpl_bytes(salt, HPL_LOCAL_SALT_LEN), info);
    pthread_once(&once, fetch);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    bool is_right = ctx && EVP_CipherInit_ex2(ctx, gcm, derived, nonce, is_seal, NULL) &&
                    (is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_SET_TAG, HPL_LOCAL_TAG_LEN, tag)) &&
                    (aad.len == 0 || EVP_CipherUpdate(ctx, NULL, &n, aad.data, (int)aad.len)) && EVP_CipherUpdate(ctx, out, &n, in, (int)len) &&
                    EVP_CipherFinal_ex(ctx, out + n, &n) && (!is_seal || EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, HPL_LOCAL_TAG_LEN, tag));
    EVP_CIPHER_CTX_free(ctx);
    hpl_wipe(derived, sizeof derived);
    return is_right;
}

bool hpl_local_seal(const struct hpl_secret *key, const uint8_t salt[static HPL_LOCAL_SALT_LEN], struct hpl_bytes info, struct hpl_bytes aad,
                    const uint8_t *in, size_t len, uint8_t *out)
{
    return run_gcm(true, key, salt, info, aad, in, len, out, out + len);
}

bool hpl_local_open(const struct hpl_secret *key, const uint8_t salt[static HPL_LOCAL_SALT_LEN], struct hpl_bytes info, struct hpl_bytes aad,
                    const uint8_t *in, size_t len, uint8_t *out)
{
    uint8_t tag[HPL_LOCAL_TAG_LEN];
    memcpy(tag, in + len, sizeof tag);
    if (run_gcm(false, key, salt, info, aad, in, len, out, tag))
        return true;
    hpl_wipe(out, len);
    return false;
}

void hpl_key_file_wipe(struct hpl_key_file *file)
{
    hpl_buf_wipe(&file->record);
    free(file->versions);
    *file = (struct hpl_key_file){0};
}

static void put_mac(const struct hpl_secret *root, struct hpl_bytes text, uint8_t mac[static MAC_LEN])
{
    uint8_t key[32];
    hpl_hkdf_sha256(key, sizeof key, hpl_bytes(root->bytes, root->len), hpl_bytes(NULL, 0), hpl_bytes_str("hpl-local-mac-v1"));
    hpl_hmac_sha256(mac, key, sizeof key, text.data, text.len);
    hpl_wipe(key, sizeof key);
}

enum hpl_status hpl_key_file_encode(const struct hpl_key_file *file, const struct hpl_secret *root, struct hpl_buf *out)
{
    uint8_t mac[MAC_LEN];
    hpl_buf_put_str(out, "HPLK1");
    hpl_buf_put_u64(out, file->revision);
    hpl_buf_put(out, file->uid, sizeof file->uid);
    hpl_buf_put_lp16(out, hpl_bytes_str(file->key_id));
    hpl_buf_put_lp32(out, hpl_buf_bytes(&file->record));
    hpl_buf_put_u16(out, file->num_versions);
    for (uint16_t i = 0; i < file->num_versions; i++) {
        hpl_buf_put_u32(out, file->versions[i].number);
        hpl_buf_put(out, file->versions[i].salt, sizeof file->versions[i].salt);
        hpl_buf_put(out, file->versions[i].sealed, sizeof file->versions[i].sealed);
    }
    HPL_TRY(hpl_buf_check(out));
    put_mac(root, hpl_buf_bytes(out), mac);
    hpl_buf_put(out, mac, sizeof mac);
    return hpl_buf_check(out);
}

static bool read_versions(struct hpl_reader *reader, struct hpl_key_file *out)
{
    out->num_versions = hpl_read_u16(reader);
    if (reader->is_failed || out->num_versions > MAX_VERSIONS || !(out->versions = calloc(out->num_versions + 1u, sizeof *out->versions)))
        return false;
    for (uint16_t i = 0; i < out->num_versions; i++) {
        out->versions[i].number = hpl_read_u32(reader);
        hpl_read_copy(reader, out->versions[i].salt, sizeof out->versions[i].salt);
        hpl_read_copy(reader, out->versions[i].sealed, sizeof out->versions[i].sealed);
    }
    return hpl_read_is_done(reader);
}

static bool read_all(struct hpl_bytes bytes, struct hpl_key_file *out)
{
    struct hpl_reader reader = {bytes, false};
    bool is_ours = hpl_bytes_equal(hpl_read_bytes(&reader, 5), hpl_bytes_str("HPLK1"));
    out->revision = hpl_read_u64(&reader);
    hpl_read_copy(&reader, out->uid, sizeof out->uid);
    struct hpl_bytes key_id = hpl_read_lp16(&reader), record = hpl_read_lp32(&reader);
    if (!is_ours || reader.is_failed || key_id.len > HPL_KEY_ID_MAX)
        return false;
    if (key_id.len)
        memcpy(out->key_id, key_id.data, key_id.len);
    hpl_buf_put_bytes(&out->record, record);
    return read_versions(&reader, out) && !out->record.is_failed;
}

enum hpl_status hpl_key_file_decode(struct hpl_call *call, struct hpl_bytes bytes, const struct hpl_secret *root, struct hpl_key_file *out)
{
    uint8_t mac[MAC_LEN];
    *out = (struct hpl_key_file){0};
    if (bytes.len > MAC_LEN) {
        struct hpl_bytes text = {bytes.data, bytes.len - MAC_LEN};
        put_mac(root, text, mac);
        if (hpl_equal_secret(mac, bytes.data + text.len, MAC_LEN) && read_all(text, out))
            return HPL_OK;
    }
    hpl_key_file_wipe(out);
    return hpl_fail(call, HPL_INTEGRITY, "the key file does not verify: it was changed or damaged, or the root secret is another");
}

static struct hpl_local_version *find(const struct hpl_key_file *file, uint32_t number)
{
    for (uint16_t i = 0; i < file->num_versions; i++)
        if (file->versions[i].number == number)
            return &file->versions[i];
    return NULL;
}

static enum hpl_status version_info(struct hpl_call *call, struct hpl_buf *info, const struct hpl_key_file *file, uint32_t number)
{
    hpl_buf_put_str(info, "hpl-local-key-v1");
    hpl_buf_put(info, file->uid, sizeof file->uid);
    hpl_buf_put_u32(info, number);
    if (hpl_buf_check(info) == HPL_OK)
        return HPL_OK;
    hpl_buf_wipe(info);
    return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
}

enum hpl_status hpl_key_file_add_given(struct hpl_call *call, struct hpl_key_file *file, const struct hpl_secret *root, uint32_t number,
                                       const struct hpl_secret *material)
{
    struct hpl_buf info = {0};
    HPL_CHECK(material->len == HPL_LOCAL_KEY_LEN && !find(file, number));
    if (file->num_versions == MAX_VERSIONS)
        return hpl_fail(call, HPL_CONFLICT, "the key has %u versions; make a new key", MAX_VERSIONS);
    struct hpl_local_version *grown = realloc(file->versions, (file->num_versions + 1u) * sizeof *grown);
    if (!grown)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    file->versions = grown;
    struct hpl_local_version *version = &grown[file->num_versions];
    version->number = number;
    HPL_TRY(version_info(call, &info, file, number));
    bool is_done = RAND_bytes(version->salt, sizeof version->salt) == 1 &&
                   hpl_local_seal(root, version->salt, hpl_buf_bytes(&info), hpl_bytes(NULL, 0), material->bytes, material->len, version->sealed);
    hpl_buf_wipe(&info);
    if (!is_done)
        return hpl_fail(call, HPL_INTERNAL, "sealing new key material failed");
    file->num_versions++;
    return HPL_OK;
}

enum hpl_status hpl_key_file_add(struct hpl_call *call, struct hpl_key_file *file, const struct hpl_secret *root, uint32_t number)
{
    if (find(file, number))
        return HPL_OK;
    struct hpl_secret *HPL_SECRET_AUTO material = hpl_secret_random(HPL_LOCAL_KEY_LEN);
    if (!material)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    return hpl_key_file_add_given(call, file, root, number, material);
}

enum hpl_status hpl_key_file_material(struct hpl_call *call, const struct hpl_key_file *file, const struct hpl_secret *root, uint32_t number,
                                      struct hpl_secret **out)
{
    struct hpl_buf info = {0};
    const struct hpl_local_version *version = find(file, number);
    *out = NULL;
    if (!version)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key folder has no material of version %u of this key", number);
    HPL_TRY(version_info(call, &info, file, number));
    *out = hpl_secret_new(HPL_LOCAL_KEY_LEN);
    if (!*out) {
        hpl_buf_wipe(&info);
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    }
    bool is_open = hpl_local_open(root, version->salt, hpl_buf_bytes(&info), hpl_bytes(NULL, 0), version->sealed, HPL_LOCAL_KEY_LEN, (*out)->bytes);
    hpl_buf_wipe(&info);
    if (is_open)
        return HPL_OK;
    hpl_secret_free(*out);
    *out = NULL;
    return hpl_fail(call, HPL_INTEGRITY, "the material of version %u of this key does not open", number);
}

void hpl_key_file_remove(struct hpl_key_file *file, uint32_t number)
{
    struct hpl_local_version *version = find(file, number);
    if (!version)
        return;
    *version = file->versions[file->num_versions - 1];
    hpl_wipe(&file->versions[--file->num_versions], sizeof *version);
}
