/* DARE 2.0 packages: header | ciphertext | tag. Any thread, on the caller's; no plaintext is left behind that did not verify.
 *
 * header  0 version 0x20 | 1 suite 0x00 (AES-256-GCM) | 2 plaintext length - 1, u16 little-endian | 4 stream nonce (12)
 * The nonce's top bit is set in the last package only. What GCM gets is the header's nonce with the package's number xored into its
 * last four bytes, little-endian; its associated data is the header's first four bytes. */
#include "engine/seal/package.h"

#include "engine/aead.h"
#include "engine/seal/derive.h"

#define MAGIC 0x48504c50u /* "HPLP" */
#define HEADER_LEN 16u
#define AAD_LEN 4u
#define VERSION 0x20u
#define SUITE_AES_256_GCM 0x00u
#define FINAL_BIT 0x80u
#define MAX_PART_LEN ((uint64_t)UINT32_MAX * HPL_PACKAGE_LEN)

struct hpl_part_key {
    uint32_t magic;
    struct hpl_secret *home; /* the secret this struct lies in */
    struct hpl_aead_key *aead;
    struct hpl_part_secrets secrets; /* the package key is wiped once expanded */
};

/* One package of a part: its number, its plaintext's length, whether it is the last. */
struct package {
    uint32_t number;
    uint32_t len;
    bool is_final;
};

enum hpl_status hpl_part_key_new(struct hpl_call *call, struct hpl_part_key **out, const struct hpl_secret *key,
                                 const uint8_t salt[static HPL_PART_SALT_LEN], const struct hpl_part_id *id)
{
    struct hpl_secret *HPL_SECRET_AUTO home = hpl_secret_new(sizeof(struct hpl_part_key));
    if (!home)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret memory is full; raise its size or lower what runs at once");
    struct hpl_part_key *made = (struct hpl_part_key *)home->bytes;
    HPL_TRY(hpl_part_derive(call, &made->secrets, key, salt, id));
    HPL_TRY(hpl_aead_key_new(call, &made->aead, made->secrets.package_key, sizeof made->secrets.package_key));
    hpl_wipe(made->secrets.package_key, sizeof made->secrets.package_key);
    made->magic = MAGIC;
    made->home = home;
    home = NULL;
    *out = made;
    return HPL_OK;
}

void hpl_part_key_free(struct hpl_part_key *key)
{
    if (!key)
        return;
    HPL_CHECK(key->magic == MAGIC);
    hpl_aead_key_free(key->aead);
    hpl_secret_free(key->home);
}

const uint8_t *hpl_part_key_commitment(const struct hpl_part_key *key)
{
    HPL_CHECK(key->magic == MAGIC);
    return key->secrets.commitment;
}

uint32_t hpl_num_packages(uint64_t part_len)
{
    HPL_CHECK(part_len <= MAX_PART_LEN);
    return (uint32_t)((part_len + HPL_PACKAGE_LEN - 1) / HPL_PACKAGE_LEN);
}

uint64_t hpl_sealed_len(uint64_t part_len)
{
    return part_len + (uint64_t)hpl_num_packages(part_len) * HPL_PACKAGE_OVERHEAD;
}

static void write_header(uint8_t header[static HEADER_LEN], const struct hpl_part_key *key, const struct package *package)
{
    header[0] = VERSION;
    header[1] = SUITE_AES_256_GCM;
    header[2] = (uint8_t)(package->len - 1);
    header[3] = (uint8_t)((package->len - 1) >> 8);
    memcpy(header + AAD_LEN, key->secrets.nonce, HPL_AEAD_NONCE_LEN);
    if (package->is_final)
        header[AAD_LEN] |= FINAL_BIT;
}

/* The nonce that GCM gets: the header's, with the number xored into its tail. */
static void package_nonce(uint8_t nonce[static HPL_AEAD_NONCE_LEN], const uint8_t header[static HEADER_LEN], uint32_t number)
{
    memcpy(nonce, header + AAD_LEN, HPL_AEAD_NONCE_LEN);
    for (unsigned i = 0; i < 4; i++)
        nonce[8 + i] ^= (uint8_t)(number >> (8 * i));
}

static void seal_one(const struct hpl_part_key *key, const struct package *package, const uint8_t *in, uint8_t *out)
{
    uint8_t nonce[HPL_AEAD_NONCE_LEN];
    write_header(out, key, package);
    package_nonce(nonce, out, package->number);
    hpl_aead_seal(key->aead, nonce, hpl_bytes(out, AAD_LEN), in, package->len, out + HEADER_LEN, out + HEADER_LEN + package->len);
}

/* in holds package->len + 32 bytes; false when it is not the one expected or does not verify. */
static bool open_one(const struct hpl_part_key *key, const struct package *package, const uint8_t *in, uint8_t *out)
{
    uint8_t header[HEADER_LEN], nonce[HPL_AEAD_NONCE_LEN];
    write_header(header, key, package);
    if (memcmp(in, header, HEADER_LEN) != 0)
        return false;
    package_nonce(nonce, header, package->number);
    return hpl_aead_open(key->aead, nonce, hpl_bytes(header, AAD_LEN), in + HEADER_LEN, package->len, out,
                         in + HEADER_LEN + package->len) == HPL_OK;
}

size_t hpl_packages_seal(const struct hpl_part_key *key, uint32_t first, bool is_last, const uint8_t *in, size_t len, uint8_t *out)
{
    HPL_CHECK(key->magic == MAGIC);
    HPL_CHECK(is_last ? len > 0 : len % HPL_PACKAGE_LEN == 0);
    HPL_CHECK(hpl_num_packages(len) <= UINT32_MAX - first);
    uint8_t *to = out;
    for (uint32_t number = first; len > 0; number++) {
        uint32_t n = len < HPL_PACKAGE_LEN ? (uint32_t)len : HPL_PACKAGE_LEN;
        struct package package = {number, n, is_last && n == len};
        seal_one(key, &package, in, to);
        to += n + HPL_PACKAGE_OVERHEAD;
        in += n;
        len -= n;
    }
    return (size_t)(to - out);
}

/* Package number of a part of part_len bytes; false when the part has no such package. */
static bool package_of_part(struct package *package, uint64_t part_len, uint64_t number)
{
    uint32_t num_packages = hpl_num_packages(part_len);
    if (number >= num_packages)
        return false;
    bool is_final = number + 1 == num_packages;
    uint64_t len = is_final ? part_len - number * HPL_PACKAGE_LEN : HPL_PACKAGE_LEN;
    *package = (struct package){(uint32_t)number, (uint32_t)len, is_final};
    return true;
}

enum hpl_status hpl_packages_open(struct hpl_call *call, const struct hpl_part_key *key, uint64_t part_len, uint32_t first,
                                  const uint8_t *in, size_t in_len, uint8_t *out, size_t *out_len)
{
    HPL_CHECK(key->magic == MAGIC);
    *out_len = 0;
    if (part_len > MAX_PART_LEN || (in_len == 0) != (part_len == 0))
        return hpl_fail(call, HPL_INTEGRITY, "a part of %llu bytes does not have %zu bytes stored",
                        (unsigned long long)part_len, in_len);
    size_t done = 0;
    for (uint64_t number = first; in_len > 0; number++) {
        struct package package;
        bool fits = package_of_part(&package, part_len, number) && in_len >= package.len + HPL_PACKAGE_OVERHEAD;
        if (!fits || !open_one(key, &package, in, out + done)) {
            hpl_wipe(out, done);
            return hpl_fail(call, HPL_INTEGRITY, "package %llu of the part does not verify", (unsigned long long)number);
        }
        done += package.len;
        in += package.len + HPL_PACKAGE_OVERHEAD;
        in_len -= package.len + HPL_PACKAGE_OVERHEAD;
    }
    *out_len = done;
    return HPL_OK;
}
