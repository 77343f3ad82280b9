/* Header and trailer of a sealed file. Pure but for the secret region and random numbers; never logs, never keeps a key. */
#include "engine/seal/file_header.h"

#include <openssl/rand.h>

#include "base/hash.h"
#include "engine/seal/manifest.h"

#define MAGIC 0x48504631u /* "HPF1" */
#define AFTER_ENVELOPE (16u + HPL_PART_SALT_LEN + HPL_COMMITMENT_LEN + HPL_FILE_MAC_LEN)

static const char trailer_label[] = "hpl-file-end-v1";

void hpl_file_keys_wipe(struct hpl_file_keys *keys)
{
    hpl_part_key_free(keys->part);
    hpl_secret_free(keys->mac);
    *keys = (struct hpl_file_keys){0};
}

/* An envelope exactly where the data key comes from one. */
static bool is_possible(uint8_t source, size_t envelope_len)
{
    if (source == HPL_FILE_KEY_FILE)
        return envelope_len == 0;
    return source == HPL_FILE_KEY_ENVELOPE && envelope_len > 0 && envelope_len <= HPL_FILE_ENVELOPE_MAX;
}

size_t hpl_file_header_len(const uint8_t start[static HPL_FILE_START_LEN])
{
    struct hpl_reader reader = {.rest = {start, HPL_FILE_START_LEN}};
    uint32_t magic = hpl_read_u32(&reader);
    uint8_t source = hpl_read_u8(&reader);
    size_t envelope_len = hpl_read_u16(&reader);
    return magic == MAGIC && is_possible(source, envelope_len) ? HPL_FILE_START_LEN + envelope_len + AFTER_ENVELOPE : 0;
}

enum hpl_status hpl_file_header_decode(struct hpl_call *call, struct hpl_bytes bytes, struct hpl_file_header *out)
{
    struct hpl_reader reader = {.rest = bytes};
    struct hpl_file_header header = {0};
    uint32_t magic = hpl_read_u32(&reader);
    uint8_t source = hpl_read_u8(&reader);
    header.source = (enum hpl_file_key_source)source;
    header.envelope = hpl_read_lp16(&reader);
    hpl_read_copy(&reader, header.instance, sizeof header.instance);
    hpl_read_copy(&reader, header.salt, sizeof header.salt);
    hpl_read_copy(&reader, header.commitment, sizeof header.commitment);
    hpl_read_copy(&reader, header.mac, sizeof header.mac);
    if (!hpl_read_is_done(&reader) || magic != MAGIC || !is_possible(source, header.envelope.len))
        return hpl_fail(call, HPL_INTEGRITY, "the header is damaged");
    *out = header;
    return HPL_OK;
}

/* No object has an empty bucket name, so no object's part key is ever a file's. */
static enum hpl_status derive(struct hpl_call *call, const struct hpl_file_header *header, const struct hpl_secret *data_key,
                              struct hpl_bytes context, struct hpl_file_keys *keys)
{
    const struct hpl_part_id id = {.key = context, .instance = header->instance, .part_number = 1};
    struct hpl_file_keys made = {0};
    enum hpl_status status = hpl_part_key_new(call, &made.part, data_key, header->salt, &id);
    if (status == HPL_OK)
        status = hpl_manifest_key_new(call, &made.mac, data_key, header->instance);
    if (status == HPL_OK)
        *keys = made;
    else
        hpl_file_keys_wipe(&made);
    return status;
}

enum hpl_status hpl_file_header_new(struct hpl_call *call, struct hpl_file_header *header, const struct hpl_secret *data_key,
                                    struct hpl_bytes context, struct hpl_buf *out, struct hpl_file_keys *keys)
{
    size_t from = out->len;
    if (!is_possible((uint8_t)header->source, header->envelope.len))
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "an envelope of %zu bytes does not fit a sealed file's header", header->envelope.len);
    HPL_CHECK(RAND_bytes(header->instance, sizeof header->instance) == 1);
    HPL_CHECK(RAND_bytes(header->salt, sizeof header->salt) == 1);
    HPL_TRY(derive(call, header, data_key, context, keys));
    memcpy(header->commitment, hpl_part_key_commitment(keys->part), sizeof header->commitment);
    hpl_buf_put_u32(out, MAGIC);
    hpl_buf_put_u8(out, (uint8_t)header->source);
    hpl_buf_put_lp16(out, header->envelope);
    hpl_buf_put(out, header->instance, sizeof header->instance);
    hpl_buf_put(out, header->salt, sizeof header->salt);
    hpl_buf_put(out, header->commitment, sizeof header->commitment);
    if (!out->is_failed)
        hpl_manifest_mac(header->mac, keys->mac, hpl_bytes(out->data + from, out->len - from));
    hpl_buf_put(out, header->mac, sizeof header->mac);
    enum hpl_status status = hpl_buf_check(out);
    if (status != HPL_OK)
        hpl_file_keys_wipe(keys);
    return status;
}

enum hpl_status hpl_file_header_verify(struct hpl_call *call, const struct hpl_file_header *header, struct hpl_bytes bytes,
                                       const struct hpl_secret *data_key, struct hpl_bytes context, struct hpl_file_keys *keys)
{
    struct hpl_file_keys made = {0};
    HPL_TRY(derive(call, header, data_key, context, &made));
    HPL_CHECK(bytes.len > HPL_FILE_MAC_LEN);
    struct hpl_bytes before_mac = hpl_bytes(bytes.data, bytes.len - HPL_FILE_MAC_LEN);
    bool is_right = hpl_manifest_verify(NULL, made.mac, before_mac, header->mac) == HPL_OK;
    is_right &= hpl_equal_secret(hpl_part_key_commitment(made.part), header->commitment, sizeof header->commitment);
    if (!is_right) {
        hpl_file_keys_wipe(&made);
        return hpl_fail(call, HPL_INTEGRITY, "the key or the context is not the one it was sealed with, or its header is damaged");
    }
    *keys = made;
    return HPL_OK;
}

void hpl_file_trailer(uint8_t out[static HPL_FILE_TRAILER_LEN], const struct hpl_file_keys *keys, const struct hpl_file_header *header, uint64_t len)
{
    uint8_t end[sizeof trailer_label - 1 + HPL_FILE_MAC_LEN + 8], *at = end + sizeof trailer_label - 1;
    memcpy(end, trailer_label, sizeof trailer_label - 1);
    memcpy(at, header->mac, HPL_FILE_MAC_LEN);
    for (unsigned i = 0; i < 8; i++)
        at[HPL_FILE_MAC_LEN + i] = (uint8_t)(len >> (56 - 8 * i));
    hpl_secret_check(keys->mac);
    hpl_hmac_sha256(out, keys->mac->bytes, keys->mac->len, end, sizeof end);
}
