/* The manifest's canonical form, big-endian, and its MAC. On the caller's thread. encode and decode ask the same function what is
 * wrong with a manifest, so that nothing can be read that could not have been written. */
#include "engine/seal/manifest.h"

#include <stdlib.h>

#include "base/hash.h"
#include "engine/seal/derive.h"

#define MAGIC 0x48504d31u /* "HPM1" */
#define FLAG_MULTIPART 0x01u
#define MAX_BUCKET 255u
#define MAX_KEY 1024u
#define MAX_PAIRS_LEN (64u * 1024) /* names and values of the context, and again of the metadata */
#define MAX_SEALED (1u << 20)
#define MAX_PART_LEN ((uint64_t)UINT32_MAX * HPL_PACKAGE_LEN)
#define PART_ENCODED_LEN (4u + 8 + HPL_PART_SALT_LEN + HPL_COMMITMENT_LEN)
#define PAIR_ENCODED_MIN 8u

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++)
        any |= bytes[i];
    return any == 0;
}

static bool comes_before(struct hpl_bytes a, struct hpl_bytes b)
{
    size_t common = a.len < b.len ? a.len : b.len;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    return order ? order < 0 : a.len < b.len;
}

static const char *wrong_with_pairs(const struct hpl_pair *pairs, uint32_t num_pairs)
{
    size_t total = 0;
    for (uint32_t i = 0; i < num_pairs; i++) {
        if (i > 0 && !comes_before(pairs[i - 1].name, pairs[i].name))
            return "names are not sorted or come twice";
        if (pairs[i].name.len > MAX_PAIRS_LEN || pairs[i].value.len > MAX_PAIRS_LEN)
            return "a name or value is longer than 64 KiB";
        total += pairs[i].name.len + pairs[i].value.len;
        if (total > MAX_PAIRS_LEN)
            return "names and values are longer than 64 KiB together";
    }
    return NULL;
}

static const char *wrong_with_parts(const struct hpl_manifest *manifest)
{
    uint64_t total = 0;
    uint32_t before = 0;
    if (manifest->num_parts > HPL_MANIFEST_MAX_PARTS)
        return "there are more than 10,000 parts";
    for (uint32_t i = 0; i < manifest->num_parts; i++) {
        const struct hpl_manifest_part *part = &manifest->parts[i];
        if (part->number <= before || part->number > HPL_MANIFEST_MAX_PARTS)
            return "part numbers are not ascending from 1 to 10,000";
        if (part->len > MAX_PART_LEN)
            return "a part is too long";
        if (manifest->mode == HPL_MODE_PLAIN && !(is_zero(part->salt, sizeof part->salt) && is_zero(part->commitment, sizeof part->commitment)))
            return "a part of a plain object has a salt or a commitment";
        if (manifest->mode != HPL_MODE_PLAIN && is_zero(part->commitment, sizeof part->commitment))
            return "a part of a sealed object has no commitment";
        before = part->number;
        total += part->len; /* 10,000 parts under 2^48 bytes: no overflow */
    }
    return total == manifest->size ? NULL : "the size is not the sum of the parts";
}

/* One sentence, or NULL when the manifest may be written down. */
static const char *wrong_with(const struct hpl_manifest *manifest)
{
    if ((unsigned)manifest->mode > HPL_MODE_SSE_C)
        return "the mode is not known";
    if (manifest->bucket.len == 0 || manifest->bucket.len > MAX_BUCKET)
        return "the bucket's name has not 1 to 255 bytes";
    if (manifest->key.len == 0 || manifest->key.len > MAX_KEY)
        return "the key has not 1 to 1024 bytes";
    if (manifest->modified_ms < 0)
        return "the time is before 1970";
    if (manifest->sealed.len > MAX_SEALED)
        return "the sealed fields are longer than 1 MiB";
    const char *wrong = wrong_with_parts(manifest);
    wrong = wrong ? wrong : wrong_with_pairs(manifest->context, manifest->num_context);
    return wrong ? wrong : wrong_with_pairs(manifest->metadata, manifest->num_metadata);
}

static void put_parts(struct hpl_buf *out, const struct hpl_manifest *manifest)
{
    hpl_buf_put_u32(out, manifest->num_parts);
    for (uint32_t i = 0; i < manifest->num_parts; i++) {
        const struct hpl_manifest_part *part = &manifest->parts[i];
        hpl_buf_put_u32(out, part->number);
        hpl_buf_put_u64(out, part->len);
        hpl_buf_put(out, part->salt, sizeof part->salt);
        hpl_buf_put(out, part->commitment, sizeof part->commitment);
    }
}

static void put_pairs(struct hpl_buf *out, const struct hpl_pair *pairs, uint32_t num_pairs)
{
    hpl_buf_put_u32(out, num_pairs);
    for (uint32_t i = 0; i < num_pairs; i++) {
        hpl_buf_put_lp32(out, pairs[i].name);
        hpl_buf_put_lp32(out, pairs[i].value);
    }
}

enum hpl_status hpl_manifest_encode(struct hpl_call *call, const struct hpl_manifest *manifest, struct hpl_buf *out)
{
    const char *wrong = wrong_with(manifest);
    if (wrong)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "the manifest cannot be written: %s", wrong);
    hpl_buf_put_u32(out, MAGIC);
    hpl_buf_put_u8(out, (uint8_t)manifest->mode);
    hpl_buf_put_u8(out, manifest->is_multipart ? FLAG_MULTIPART : 0);
    hpl_buf_put(out, manifest->instance, sizeof manifest->instance);
    hpl_buf_put_lp16(out, manifest->bucket);
    hpl_buf_put_lp16(out, manifest->key);
    hpl_buf_put_u64(out, (uint64_t)manifest->modified_ms);
    hpl_buf_put_u64(out, manifest->size);
    put_parts(out, manifest);
    put_pairs(out, manifest->context, manifest->num_context);
    put_pairs(out, manifest->metadata, manifest->num_metadata);
    hpl_buf_put_lp32(out, manifest->sealed);
    return hpl_buf_check(out);
}

/* *items for a count from outside: zeroed, and never more than the rest of the input could fill. *count stays 0 on failure. */
static enum hpl_status read_array(struct hpl_reader *reader, void **items, uint32_t *count, size_t item_size, size_t encoded_min)
{
    uint32_t announced = hpl_read_u32(reader);
    if (announced > reader->rest.len / encoded_min)
        reader->is_failed = true;
    if (reader->is_failed || announced == 0)
        return HPL_OK;
    *items = calloc(announced, item_size);
    if (!*items)
        return HPL_NO_MEMORY;
    *count = announced;
    return HPL_OK;
}

static enum hpl_status read_parts(struct hpl_reader *reader, struct hpl_manifest *out)
{
    void *items = NULL;
    HPL_TRY(read_array(reader, &items, &out->num_parts, sizeof *out->parts, PART_ENCODED_LEN));
    out->parts = items;
    for (uint32_t i = 0; i < out->num_parts; i++) {
        struct hpl_manifest_part *part = &out->parts[i];
        part->number = hpl_read_u32(reader);
        part->len = hpl_read_u64(reader);
        hpl_read_copy(reader, part->salt, sizeof part->salt);
        hpl_read_copy(reader, part->commitment, sizeof part->commitment);
    }
    return HPL_OK;
}

static enum hpl_status read_pairs(struct hpl_reader *reader, struct hpl_pair **pairs, uint32_t *num_pairs)
{
    void *items = NULL;
    HPL_TRY(read_array(reader, &items, num_pairs, sizeof **pairs, PAIR_ENCODED_MIN));
    *pairs = items;
    for (uint32_t i = 0; i < *num_pairs; i++) {
        (*pairs)[i].name = hpl_read_lp32(reader);
        (*pairs)[i].value = hpl_read_lp32(reader);
    }
    return HPL_OK;
}

static void read_head(struct hpl_reader *reader, struct hpl_manifest *out)
{
    uint32_t magic = hpl_read_u32(reader);
    out->mode = (enum hpl_seal_mode)hpl_read_u8(reader);
    uint8_t flags = hpl_read_u8(reader);
    hpl_read_copy(reader, out->instance, sizeof out->instance);
    out->bucket = hpl_read_lp16(reader);
    out->key = hpl_read_lp16(reader);
    out->modified_ms = (int64_t)hpl_read_u64(reader);
    out->size = hpl_read_u64(reader);
    out->is_multipart = flags & FLAG_MULTIPART;
    if (magic != MAGIC || (flags & ~FLAG_MULTIPART) != 0)
        reader->is_failed = true;
}

/* HPL_OK with reader failed when the bytes do not have the form. */
static enum hpl_status read_all(struct hpl_reader *reader, struct hpl_manifest *out)
{
    read_head(reader, out);
    HPL_TRY(read_parts(reader, out));
    HPL_TRY(read_pairs(reader, &out->context, &out->num_context));
    HPL_TRY(read_pairs(reader, &out->metadata, &out->num_metadata));
    out->sealed = hpl_read_lp32(reader);
    return HPL_OK;
}

enum hpl_status hpl_manifest_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_manifest *out)
{
    struct hpl_reader reader = {.rest = bytes};
    *out = (struct hpl_manifest){0};
    enum hpl_status status = read_all(&reader, out);
    if (status != HPL_OK) {
        hpl_manifest_wipe(out);
        return hpl_fail(call, status, "no memory for a manifest of %zu bytes", bytes.len);
    }
    const char *wrong = hpl_read_is_done(&reader) ? wrong_with(out) : "it does not have the form";
    if (wrong) {
        hpl_manifest_wipe(out);
        return hpl_fail(call, HPL_INTEGRITY, "the manifest is damaged: %s", wrong);
    }
    return HPL_OK;
}

void hpl_manifest_wipe(struct hpl_manifest *manifest)
{
    if (!manifest)
        return;
    free(manifest->parts);
    free(manifest->context);
    free(manifest->metadata);
    *manifest = (struct hpl_manifest){0};
}

enum hpl_status hpl_manifest_key_new(struct hpl_call *call, struct hpl_secret **out, const struct hpl_secret *key,
                                     const uint8_t instance[static 16])
{
    return hpl_object_subkey(call, out, key, instance, "hpl-manifest-v1");
}

void hpl_manifest_mac(uint8_t out[static HPL_MANIFEST_MAC_LEN], const struct hpl_secret *manifest_key, struct hpl_bytes encoded)
{
    hpl_secret_check(manifest_key);
    hpl_hmac_sha256(out, manifest_key->bytes, manifest_key->len, encoded.data, encoded.len);
}

enum hpl_status hpl_manifest_verify(struct hpl_call *call, const struct hpl_secret *manifest_key, struct hpl_bytes encoded,
                                    const uint8_t mac[static HPL_MANIFEST_MAC_LEN])
{
    uint8_t right[HPL_MANIFEST_MAC_LEN];
    hpl_manifest_mac(right, manifest_key, encoded);
    bool is_right = hpl_equal_secret(right, mac, sizeof right);
    hpl_wipe(right, sizeof right);
    return is_right ? HPL_OK : hpl_fail(call, HPL_INTEGRITY, "the manifest's MAC does not verify");
}
