/* Importing key material: an RSA key of ours for an hour, and what was encrypted to it. Any thread; blocks on the backend. The private half is OpenSSL's
 * in ordinary memory and goes with its hour; the material itself is in secret memory from the first byte. */
#include "kms/internal.h"

#include <stdlib.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "base/clock.h"
#include "base/codec.h"

#define RSA_BITS 3072u
#define RSA_BYTES (RSA_BITS / 8)
#define MATERIAL_LEN 32u
#define LIFE_MS (60 * 60 * 1000)
#define LEAST_LEFT_MS (LIFE_MS / 2)

struct wrapping_key {
    EVP_PKEY *key;    /* NULL: none */
    int64_t until_ms; /* by the wall clock, as it is told */
};

/* Two, as somebody may hold the former one still; it ends before the newest is replaced. */
struct hpl_importer {
    pthread_mutex_t lock;
    struct wrapping_key newest, former;
};

struct hpl_importer *hpl_importer_new(void)
{
    struct hpl_importer *importer = calloc(1, sizeof *importer);
    if (importer)
        pthread_mutex_init(&importer->lock, NULL);
    return importer;
}

void hpl_importer_free(struct hpl_importer *importer)
{
    if (!importer)
        return;
    EVP_PKEY_free(importer->newest.key);
    EVP_PKEY_free(importer->former.key);
    pthread_mutex_destroy(&importer->lock);
    free(importer);
}

static enum hpl_status check_allowed(struct hpl_kms *kms, struct hpl_call *call)
{
    if (!kms->options.allow_import)
        return hpl_fail(call, HPL_ACCESS_DENIED, "importing keys takes allow_import: true in the daemon's configuration file");
    return HPL_OK;
}

static enum hpl_status check_backend(struct hpl_call *call, const struct hpl_attachment *attachment)
{
    if (!attachment->keystore->ops->import_version)
        return hpl_fail(call, HPL_NOT_IMPLEMENTED, "the %s backend takes no key material from outside", attachment->keystore->ops->name);
    return HPL_OK;
}

enum hpl_status hpl_kms_import_version(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                       const struct hpl_secret *material)
{
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    HPL_TRY(check_backend(call, attachment));
    enum hpl_status status = attachment->keystore->ops->import_version(attachment->keystore, &sub, record->uid, record->version, material);
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

/* --- the wrapping key ---------------------------------------------------------------------------------------------------- */

/* Also when the clock was set back, so that none lives longer than was told. Under the lock. */
static void end_in_time(struct wrapping_key *key, int64_t now_ms)
{
    if (key->until_ms > now_ms && key->until_ms - now_ms <= LIFE_MS)
        return;
    EVP_PKEY_free(key->key);
    *key = (struct wrapping_key){0};
}

/* Under the lock. */
static void end_outdated(struct hpl_importer *importer)
{
    int64_t now_ms = hpl_clock_unix_ms();
    end_in_time(&importer->newest, now_ms);
    end_in_time(&importer->former, now_ms);
}

void hpl_importer_sweep(struct hpl_importer *importer)
{
    pthread_mutex_lock(&importer->lock);
    end_outdated(importer);
    pthread_mutex_unlock(&importer->lock);
}

/* A new one unless the newest has half its hour left. Under the lock. */
static enum hpl_status renew(struct hpl_call *call, struct hpl_importer *importer)
{
    int64_t now_ms = hpl_clock_unix_ms();
    end_outdated(importer);
    if (importer->newest.key && importer->newest.until_ms - now_ms >= LEAST_LEFT_MS)
        return HPL_OK;
    EVP_PKEY *made = EVP_RSA_gen(RSA_BITS);
    if (!made)
        return hpl_fail(call, HPL_INTERNAL, "no RSA key could be made");
    EVP_PKEY_free(importer->former.key);
    importer->former = importer->newest;
    importer->newest = (struct wrapping_key){.key = made, .until_ms = now_ms + LIFE_MS};
    return HPL_OK;
}

/* Under the lock. */
static json_t *parameters_of(const struct wrapping_key *newest)
{
    char until[40];
    unsigned char *der = NULL;
    struct hpl_buf text = {0};
    int len = i2d_PUBKEY(newest->key, &der);
    if (len > 0)
        hpl_base64_put(&text, der, (size_t)len);
    OPENSSL_free(der);
    hpl_time_text(until, newest->until_ms, HPL_TIME_ISO_US);
    json_t *answer = len > 0 && !text.is_failed
                         ? json_pack("{s:s%, s:s, s:s, s:s}", "public_key", (const char *)text.data, text.len,
                                     "wrapping_key_spec", "RSA_3072", "wrapping_algorithm", "RSAES_OAEP_SHA_256", "parameters_valid_to", until)
                         : NULL;
    hpl_buf_wipe(&text);
    return answer;
}

enum hpl_status hpl_kms_import_parameters(struct hpl_kms *kms, struct hpl_call *call, json_t **answer)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    HPL_TRY(check_allowed(kms, call));
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(check_backend(call, attachment));
    pthread_mutex_lock(&kms->importer->lock);
    enum hpl_status status = renew(call, kms->importer);
    if (status == HPL_OK && !(*answer = parameters_of(&kms->importer->newest)))
        status = HPL_NO_MEMORY;
    pthread_mutex_unlock(&kms->importer->lock);
    return status;
}

/* --- what was encrypted to it -------------------------------------------------------------------------------------------- */

/* RSAES-OAEP (RFC 8017 section 7.1), SHA-256 for label and MGF1. out has RSA_BYTES of room. */
static bool decrypt_oaep(EVP_PKEY *key, struct hpl_bytes encrypted, uint8_t *out, size_t *len)
{
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(key, NULL);
    bool is_right = ctx && EVP_PKEY_decrypt_init(ctx) == 1 && EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 &&
                    EVP_PKEY_CTX_set_rsa_oaep_md(ctx, EVP_sha256()) == 1 && EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, EVP_sha256()) == 1 &&
                    EVP_PKEY_decrypt(ctx, out, len, encrypted.data, encrypted.len) == 1;
    EVP_PKEY_CTX_free(ctx);
    return is_right;
}

static bool decrypt_material(const struct wrapping_key *key, struct hpl_bytes encrypted, struct hpl_secret *room)
{
    size_t len = RSA_BYTES;
    return key->key && encrypted.len == RSA_BYTES && decrypt_oaep(key->key, encrypted, room->bytes, &len) && len == MATERIAL_LEN;
}

static enum hpl_status open_material(struct hpl_call *call, struct hpl_importer *importer, struct hpl_bytes encrypted, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO room = hpl_secret_new(RSA_BYTES);
    if (!room)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    pthread_mutex_lock(&importer->lock);
    end_outdated(importer);
    bool is_right = decrypt_material(&importer->newest, encrypted, room) || decrypt_material(&importer->former, encrypted, room);
    pthread_mutex_unlock(&importer->lock);
    if (!is_right)
        return hpl_fail(call, HPL_INVALID_CIPHERTEXT, "this is not %u bytes encrypted with RSAES_OAEP_SHA_256 to a wrapping key that is valid now; ask "
                                                      "import-parameters again", MATERIAL_LEN);
    *out = hpl_secret_from(room->bytes, MATERIAL_LEN);
    return *out ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
}

enum hpl_status hpl_kms_import_key(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_create *create, struct hpl_bytes encrypted, json_t **metadata)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_secret *HPL_SECRET_AUTO material = NULL;
    struct hpl_key_create whole = *create;
    HPL_TRY(check_allowed(kms, call));
    HPL_TRY(hpl_kms_acquire(kms, call, &attachment));
    HPL_TRY(check_backend(call, attachment)); /* before anything is opened */
    HPL_TRY(open_material(call, kms->importer, encrypted, &material));
    whole.material = material;
    return hpl_kms_create_key(kms, call, &whole, metadata);
}
