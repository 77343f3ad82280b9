/* A passphrase as the root secret. Start-up only, one thread; takes half a second and 128 MiB, once. */
#include "daemon/passphrase.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"

#define ROOT_LEN 32u
#define SALT_LEN 32u
#define CHECK_LEN 16u
#define LEAST_LEN 12u
#define MOST_LEN 1024u
#define LOG2_COST 17u /* 128 MiB */
#define BLOCK 8u
#define PARALLEL 1u
#define MOST_MEMORY (1100u << 20)

struct kdf {
    unsigned log2_cost, block, parallel;
    uint8_t salt[SALT_LEN];
    uint8_t check[CHECK_LEN]; /* of the root secret that the right passphrase gives */
};

static enum hpl_status read_passphrase(struct hpl_call *call, const char *path, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO text = NULL;
    HPL_TRY(hpl_file_read_secret(call, path, MOST_LEN + 1, true, &text));
    if (text->len < LEAST_LEN || text->len > MOST_LEN)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the passphrase in %s must have %u to %u bytes", path, LEAST_LEN, MOST_LEN);
    *out = text;
    text = NULL;
    return HPL_OK;
}

static enum hpl_status derive(struct hpl_call *call, const struct hpl_secret *passphrase, const struct kdf *kdf, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO root = hpl_secret_new(ROOT_LEN);
    if (!root)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    if (EVP_PBE_scrypt((const char *)passphrase->bytes, passphrase->len, kdf->salt, sizeof kdf->salt, UINT64_C(1) << kdf->log2_cost, kdf->block, kdf->parallel,
                       MOST_MEMORY, root->bytes, root->len) != 1)
        return hpl_fail(call, HPL_NO_MEMORY, "scrypt with the cost in root.kdf needs %llu MiB of memory", (1ull << kdf->log2_cost) * kdf->block * 128 >> 20);
    *out = root;
    root = NULL;
    return HPL_OK;
}

static void check_of(const struct hpl_secret *root, uint8_t check[static CHECK_LEN])
{
    hpl_hkdf_sha256(check, CHECK_LEN, hpl_bytes(root->bytes, root->len), hpl_bytes(NULL, 0), hpl_bytes_str("hpl-passphrase-check-v1"));
}

/* --- STATE/root.kdf: "scrypt <log2 N> <r> <p> <salt in hex> <check in hex>\n" ------------------------------------------------ */

static bool parse(const char *text, struct kdf *kdf)
{
    char salt[2 * SALT_LEN + 2], check[2 * CHECK_LEN + 2], end;
    return sscanf(text, "scrypt %2u %2u %2u %65s %33s%c", &kdf->log2_cost, &kdf->block, &kdf->parallel, salt, check, &end) == 6 && end == '\n' &&
           hpl_hex_decode(kdf->salt, SALT_LEN, salt, strlen(salt)) && hpl_hex_decode(kdf->check, CHECK_LEN, check, strlen(check)) && kdf->log2_cost >= 14 &&
           kdf->log2_cost <= 20 && kdf->block == BLOCK && kdf->parallel >= 1 && kdf->parallel <= 4;
}

static enum hpl_status read_kdf(struct hpl_call *call, const char *path, struct kdf *kdf)
{
    struct hpl_buf text = {0};
    enum hpl_status status = hpl_file_read(call, path, 512, &text);
    const char *line = status == HPL_OK ? hpl_buf_text(&text) : NULL;
    if (status == HPL_OK && (!line || !parse(line, kdf)))
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is damaged: bring it back from a backup; without its salt the passphrase opens nothing", path);
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status write_kdf(struct hpl_call *call, const char *path, const struct kdf *kdf)
{
    char salt[2 * SALT_LEN + 1], check[2 * CHECK_LEN + 1], line[256];
    hpl_hex_encode(salt, kdf->salt, SALT_LEN);
    hpl_hex_encode(check, kdf->check, CHECK_LEN);
    snprintf(line, sizeof line, "scrypt %u %u %u %s %s\n", kdf->log2_cost, kdf->block, kdf->parallel, salt, check);
    return hpl_file_replace(call, path, hpl_bytes_str(line), 0600);
}

/* --- the two ways ------------------------------------------------------------------------------------------------------------ */

static enum hpl_status make(struct hpl_call *call, const char *path, const struct hpl_secret *passphrase, struct hpl_secret **out)
{
    struct kdf kdf = {.log2_cost = LOG2_COST, .block = BLOCK, .parallel = PARALLEL};
    if (RAND_bytes(kdf.salt, sizeof kdf.salt) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    HPL_TRY(derive(call, passphrase, &kdf, out));
    check_of(*out, kdf.check);
    enum hpl_status status = write_kdf(call, path, &kdf);
    if (status != HPL_OK)
        hpl_secret_freep(out);
    return status;
}

static enum hpl_status load(struct hpl_call *call, const char *path, const char *from, const struct hpl_secret *passphrase, struct hpl_secret **out)
{
    struct kdf kdf;
    uint8_t check[CHECK_LEN];
    HPL_TRY(read_kdf(call, path, &kdf));
    HPL_TRY(derive(call, passphrase, &kdf, out));
    check_of(*out, check);
    if (hpl_equal_secret(check, kdf.check, sizeof check))
        return HPL_OK;
    hpl_secret_freep(out);
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the passphrase in %s is not the one that %s was made with", from, path);
}

static enum hpl_status open_root(struct hpl_call *call, const char *state_dir, const char *from, bool may_make, struct hpl_secret **out)
{
    char path[PATH_MAX], catalog[PATH_MAX];
    struct hpl_secret *HPL_SECRET_AUTO passphrase = NULL;
    *out = NULL;
    snprintf(path, sizeof path, "%s/root.kdf", state_dir);
    snprintf(catalog, sizeof catalog, "%s/catalog.db", state_dir);
    HPL_TRY(read_passphrase(call, from, &passphrase));
    if (access(path, F_OK) == 0)
        return load(call, path, from, passphrase, out);
    if (access(catalog, F_OK) == 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is missing but a catalog is there: bring the file back; the passphrase with a new salt opens nothing",
                        path);
    return may_make ? make(call, path, passphrase, out) : HPL_NOT_FOUND;
}

enum hpl_status hpl_passphrase_root(struct hpl_call *call, const char *state_dir, const char *path, struct hpl_secret **out)
{
    return open_root(call, state_dir, path, true, out);
}

enum hpl_status hpl_passphrase_check(struct hpl_call *call, const char *state_dir, const char *path, struct hpl_secret **out)
{
    return open_root(call, state_dir, path, false, out);
}
