/* Packages from outside: the input is damage done to a sealed part. Only the part as it was sealed may open, and what is refused
 * leaves no plaintext. Input: package count and length, then edits (offset, xor) and a cut. */
#include <stdlib.h>

#include "engine/seal/package.h"

#define MAX_PLAIN (2u * HPL_PACKAGE_LEN + 500)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static const struct hpl_part_key *part_key(void)
{
    static struct hpl_part_key *key;
    static const uint8_t zero[32];
    if (!key) {
        struct hpl_secret *HPL_SECRET_AUTO data_key = hpl_secret_from(zero, sizeof zero);
        struct hpl_part_id id = {hpl_bytes_str("bucket"), hpl_bytes_str("key"), zero, 1};
        HPL_CHECK(data_key && hpl_part_key_new(NULL, &key, data_key, zero, &id) == HPL_OK);
    }
    return key;
}

/* True when an edit changed a byte. */
static bool damage(struct hpl_reader *edits, uint8_t *stored, size_t stored_len, const uint8_t *original)
{
    while (edits->rest.len >= 4) {
        size_t at = (size_t)hpl_read_u8(edits) << 16 | hpl_read_u16(edits);
        stored[at % stored_len] ^= hpl_read_u8(edits);
    }
    return memcmp(stored, original, stored_len) != 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static uint8_t plain[MAX_PLAIN], sealed[MAX_PLAIN + 3 * HPL_PACKAGE_OVERHEAD], opened[MAX_PLAIN];
    struct hpl_reader reader = {.rest = hpl_bytes(data, len)};
    size_t plain_len = 1 + ((size_t)hpl_read_u8(&reader) << 16 | hpl_read_u16(&reader)) % MAX_PLAIN, opened_len;
    size_t cut = hpl_read_u8(&reader);
    memset(plain, 0xa5, sizeof plain);
    memset(opened, 0, sizeof opened);
    size_t sealed_len = hpl_packages_seal(part_key(), 0, true, plain, plain_len, sealed);
    uint8_t *stored = malloc(sealed_len);
    HPL_CHECK(stored);
    memcpy(stored, sealed, sealed_len);
    size_t kept = sealed_len - cut % sealed_len;
    bool is_damaged = damage(&reader, stored, sealed_len, sealed) || kept != sealed_len;
    if (kept != sealed_len) { /* exactly as long as it is, so that a sanitizer sees a read past its end */
        stored = realloc(stored, kept);
        HPL_CHECK(stored);
    }
    enum hpl_status status = hpl_packages_open(NULL, part_key(), plain_len, 0, stored, kept, opened, &opened_len);
    /* A whole prefix of packages is a run of the part and opens; anything else that differs does not. */
    if (status == HPL_OK)
        HPL_CHECK(memcmp(stored, sealed, kept) == 0 && memcmp(opened, plain, opened_len) == 0);
    else
        HPL_CHECK(is_damaged && opened_len == 0 && !memchr(opened, 0xa5, sizeof opened));
    free(stored);
    return 0;
}
