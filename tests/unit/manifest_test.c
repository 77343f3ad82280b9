/* The manifest: what was written is read, and only that; its MAC and the sealed fields. */
#include "tests/test.h"

#include <stdlib.h>

#include "engine/seal/fields.h"
#include "engine/seal/manifest.h"

#define HEAD_LEN 22u /* magic, mode, flags, instance */

static const uint8_t instance[16] = {0xaa, 1}, other_instance[16] = {0xaa, 2};

/* A manifest on the stack of the test that made it. */
struct sample {
    struct hpl_manifest_part parts[3];
    struct hpl_pair context[2], metadata[3];
    struct hpl_manifest manifest;
};

static struct hpl_pair pair(const char *name, const char *value)
{
    return (struct hpl_pair){hpl_bytes_str(name), hpl_bytes_str(value)};
}

static void fill(struct sample *s)
{
    *s = (struct sample){
        .parts = {{1, 100, {1}, {2}}, {2, 0, {3}, {4}}, {10000, 5, {5}, {6}}},
        .context = {pair("aws:s3:arn", "arn:aws:s3:::b/k"), pair("department", "radiology")},
        .metadata = {pair("content-type", "text/plain"), pair("x-amz-meta-a", ""), pair("x-amz-meta-ab", "\xc3\xa9")},
    };
    s->manifest = (struct hpl_manifest){
        .mode = HPL_MODE_SSE_KMS, .bucket = hpl_bytes_str("bucket"), .key = hpl_bytes_str("a/key"), .modified_ms = 1721722800123,
        .size = 105, .is_multipart = true, .parts = s->parts, .num_parts = 3, .context = s->context, .num_context = 2,
        .metadata = s->metadata, .num_metadata = 3, .sealed = hpl_bytes_str("sealed fields"),
    };
    memcpy(s->manifest.instance, instance, sizeof instance);
}

static struct hpl_buf encoded(const struct hpl_manifest *manifest)
{
    struct hpl_buf out = {0};
    EXPECT_OK(hpl_manifest_encode(NULL, manifest, &out));
    return out;
}

/* Decodes a copy that is exactly as long as it should be, so that a sanitizer sees a read past its end. */
static enum hpl_status decode_copy(const uint8_t *data, size_t len, struct hpl_buf *again)
{
    struct hpl_manifest manifest;
    uint8_t *copy = malloc(len ? len : 1);
    memcpy(copy, data, len);
    enum hpl_status status = hpl_manifest_decode(NULL, hpl_bytes(copy, len), &manifest);
    if (status == HPL_OK && again)
        EXPECT_OK(hpl_manifest_encode(NULL, &manifest, again));
    EXPECT(status == HPL_OK || (!manifest.parts && !manifest.context && !manifest.metadata));
    hpl_manifest_wipe(&manifest);
    free(copy);
    return status;
}

static void expect_unwritable(const struct hpl_manifest *manifest)
{
    struct hpl_buf out = {0};
    struct hpl_call call = {0};
    EXPECT_STATUS(hpl_manifest_encode(&call, manifest, &out), HPL_INVALID_ARGUMENT);
    EXPECT(out.len == 0 && call.detail[0]);
}

HPL_TEST(what_was_written_is_read_back)
{
    struct sample s;
    fill(&s);
    struct hpl_buf bytes = encoded(&s.manifest);
    struct hpl_manifest got;
    EXPECT_OK(hpl_manifest_decode(NULL, hpl_buf_bytes(&bytes), &got));
    EXPECT(got.mode == HPL_MODE_SSE_KMS && got.is_multipart && got.size == 105 && got.modified_ms == 1721722800123);
    EXPECT_BYTES(got.instance, instance, 16);
    EXPECT(hpl_bytes_equal(got.bucket, hpl_bytes_str("bucket")) && hpl_bytes_equal(got.key, hpl_bytes_str("a/key")));
    EXPECT_NUM(got.num_parts, 3);
    EXPECT(got.parts[2].number == 10000 && got.parts[2].len == 5 && got.parts[2].salt[0] == 5 && got.parts[2].commitment[0] == 6);
    EXPECT(got.num_context == 2 && hpl_bytes_equal(got.context[1].value, hpl_bytes_str("radiology")));
    EXPECT(got.num_metadata == 3 && got.metadata[1].value.len == 0);
    EXPECT(hpl_bytes_equal(got.sealed, hpl_bytes_str("sealed fields")));
    hpl_manifest_wipe(&got);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(an_empty_plain_object_has_a_manifest)
{
    struct hpl_manifest manifest = {.bucket = hpl_bytes_str("b"), .key = hpl_bytes_str("k")};
    struct hpl_buf bytes = encoded(&manifest), again = {0};
    EXPECT_NUM(bytes.len, HEAD_LEN + 3 + 3 + 16 + 4 + 4 + 4 + 4);
    EXPECT_OK(decode_copy(bytes.data, bytes.len, &again));
    EXPECT(hpl_bytes_equal(hpl_buf_bytes(&bytes), hpl_buf_bytes(&again)));
    hpl_buf_wipe(&bytes);
    hpl_buf_wipe(&again);
}

HPL_TEST(truncated_at_every_byte_it_is_refused)
{
    struct sample s;
    fill(&s);
    struct hpl_buf bytes = encoded(&s.manifest);
    for (size_t len = 0; len < bytes.len; len++)
        EXPECT_STATUS(decode_copy(bytes.data, len, NULL), HPL_INTEGRITY);
    hpl_buf_put_u8(&bytes, 0);
    EXPECT_STATUS(decode_copy(bytes.data, bytes.len, NULL), HPL_INTEGRITY);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(a_flipped_bit_is_refused_or_is_another_canonical_manifest)
{
    struct sample s;
    fill(&s);
    struct hpl_buf bytes = encoded(&s.manifest);
    size_t num_refused = 0;
    for (size_t bit = 0; bit < bytes.len * 8; bit++) {
        struct hpl_buf again = {0};
        bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (decode_copy(bytes.data, bytes.len, &again) != HPL_OK)
            num_refused++;
        else
            EXPECT(hpl_bytes_equal(hpl_buf_bytes(&bytes), hpl_buf_bytes(&again)));
        bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        hpl_buf_wipe(&again);
    }
    EXPECT(num_refused > 500);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(counts_larger_than_the_input_allocate_nothing)
{
    struct hpl_manifest manifest = {.bucket = hpl_bytes_str("b"), .key = hpl_bytes_str("k")};
    struct hpl_buf bytes = encoded(&manifest);
    for (size_t count_at = bytes.len - 16; count_at < bytes.len; count_at += 4) {
        memset(bytes.data + count_at, 0xff, 4);
        EXPECT_STATUS(decode_copy(bytes.data, bytes.len, NULL), HPL_INTEGRITY);
        memset(bytes.data + count_at, 0, 4);
    }
    EXPECT_OK(decode_copy(bytes.data, bytes.len, NULL));
    hpl_buf_wipe(&bytes);
}

HPL_TEST(parts_out_of_order_or_doubled_cannot_be_written)
{
    struct sample s;
    for (int i = 0; i < 4; i++) {
        static const uint32_t numbers[][3] = {{2, 1, 3}, {1, 1, 2}, {0, 1, 2}, {1, 2, 10001}};
        fill(&s);
        for (int j = 0; j < 3; j++)
            s.parts[j].number = numbers[i][j];
        expect_unwritable(&s.manifest);
    }
}

HPL_TEST(the_size_is_the_sum_of_the_parts)
{
    struct sample s;
    fill(&s);
    s.manifest.size++;
    expect_unwritable(&s.manifest);
    fill(&s);
    s.parts[0].len = UINT64_MAX - 4;
    s.manifest.size = 0;
    expect_unwritable(&s.manifest);
}

HPL_TEST(ten_thousand_parts_are_the_most)
{
    struct hpl_manifest_part *parts = calloc(HPL_MANIFEST_MAX_PARTS + 1, sizeof *parts);
    struct hpl_manifest manifest = {.bucket = hpl_bytes_str("b"), .key = hpl_bytes_str("k"), .parts = parts};
    for (uint32_t i = 0; i <= HPL_MANIFEST_MAX_PARTS; i++)
        parts[i] = (struct hpl_manifest_part){.number = i + 1, .len = 5u << 20};
    manifest.num_parts = HPL_MANIFEST_MAX_PARTS;
    manifest.size = (uint64_t)HPL_MANIFEST_MAX_PARTS * (5u << 20);
    struct hpl_buf bytes = encoded(&manifest);
    EXPECT_OK(decode_copy(bytes.data, bytes.len, NULL));
    manifest.num_parts++;
    manifest.size += 5u << 20;
    expect_unwritable(&manifest);
    hpl_buf_wipe(&bytes);
    free(parts);
}

HPL_TEST(names_out_of_order_or_doubled_cannot_be_written)
{
    struct sample s;
    fill(&s);
    s.context[0] = pair("x", "1");
    expect_unwritable(&s.manifest);
    fill(&s);
    s.metadata[2] = pair("x-amz-meta-a", "again");
    expect_unwritable(&s.manifest);
    fill(&s);
    s.metadata[0] = pair("x-amz-meta-aa", "");
    expect_unwritable(&s.manifest);
}

HPL_TEST(bounds_are_kept)
{
    struct sample s;
    char *big = calloc(1, (1u << 20) + 2);
    fill(&s);
    s.metadata[2].value = hpl_bytes(big, 64 * 1024 - 12 - 10 - 12 - 13);
    struct hpl_buf bytes = encoded(&s.manifest);
    EXPECT_OK(decode_copy(bytes.data, bytes.len, NULL));
    hpl_buf_wipe(&bytes);
    s.metadata[2].value.len++;
    expect_unwritable(&s.manifest);
    fill(&s);
    s.manifest.key = hpl_bytes(big, 1025);
    expect_unwritable(&s.manifest);
    s.manifest.key.len = 0;
    expect_unwritable(&s.manifest);
    fill(&s);
    s.manifest.bucket = hpl_bytes(big, 256);
    expect_unwritable(&s.manifest);
    fill(&s);
    s.manifest.sealed = hpl_bytes(big, (1u << 20) + 1);
    expect_unwritable(&s.manifest);
    fill(&s);
    s.manifest.modified_ms = -1;
    expect_unwritable(&s.manifest);
    fill(&s);
    s.manifest.mode = (enum hpl_seal_mode)4;
    expect_unwritable(&s.manifest);
    free(big);
}

HPL_TEST(a_plain_object_has_neither_salt_nor_commitment)
{
    struct sample s;
    fill(&s);
    struct hpl_buf bytes = encoded(&s.manifest);
    bytes.data[4] = HPL_MODE_PLAIN;
    EXPECT_STATUS(decode_copy(bytes.data, bytes.len, NULL), HPL_INTEGRITY);
    s.manifest.mode = HPL_MODE_PLAIN;
    expect_unwritable(&s.manifest);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(a_sealed_object_has_a_commitment_in_every_part)
{
    struct sample s;
    fill(&s);
    s.manifest.mode = HPL_MODE_PLAIN;
    memset(s.parts, 0, sizeof s.parts);
    s.parts[0].number = 1;
    s.parts[0].len = s.manifest.size;
    s.manifest.num_parts = 1;
    struct hpl_buf bytes = encoded(&s.manifest);
    bytes.data[4] = HPL_MODE_SSE_C;
    EXPECT_STATUS(decode_copy(bytes.data, bytes.len, NULL), HPL_INTEGRITY);
    s.manifest.mode = HPL_MODE_SSE_C;
    expect_unwritable(&s.manifest);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(a_buffer_too_small_is_said)
{
    struct sample s;
    fill(&s);
    struct hpl_buf out = {.max = 50};
    EXPECT_STATUS(hpl_manifest_encode(NULL, &s.manifest, &out), HPL_TOO_LARGE);
    hpl_buf_wipe(&out);
}

HPL_TEST(the_mac_is_of_these_bytes_this_key_and_this_instance)
{
    struct hpl_secret *HPL_SECRET_AUTO key = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO mac_key = NULL;
    struct hpl_secret *HPL_SECRET_AUTO other = NULL;
    EXPECT_OK(hpl_manifest_key_new(NULL, &mac_key, key, instance));
    EXPECT_OK(hpl_manifest_key_new(NULL, &other, key, other_instance));
    struct hpl_bytes text = hpl_bytes_str("HPM1 and so on");
    uint8_t mac[32];
    hpl_manifest_mac(mac, mac_key, text);
    EXPECT_OK(hpl_manifest_verify(NULL, mac_key, text, mac));
    EXPECT_STATUS(hpl_manifest_verify(NULL, other, text, mac), HPL_INTEGRITY);
    EXPECT_STATUS(hpl_manifest_verify(NULL, mac_key, hpl_bytes_str("HPM1 and so om"), mac), HPL_INTEGRITY);
    for (int bit = 0; bit < 256; bit++) {
        mac[bit / 8] ^= (uint8_t)(1u << bit % 8);
        EXPECT_STATUS(hpl_manifest_verify(NULL, mac_key, text, mac), HPL_INTEGRITY);
        mac[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

HPL_TEST(a_sealed_field_opens_under_its_own_label_and_key_only)
{
    struct hpl_secret *HPL_SECRET_AUTO key = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO fields_key = NULL;
    struct hpl_secret *HPL_SECRET_AUTO other = NULL;
    struct hpl_buf sealed = {0}, plain = {0};
    struct hpl_bytes etag = hpl_bytes_str("d41d8cd98f00b204e9800998ecf8427e"), label = hpl_bytes_str("etag");
    EXPECT_OK(hpl_fields_key_new(NULL, &fields_key, key, instance));
    EXPECT_OK(hpl_fields_key_new(NULL, &other, key, other_instance));
    EXPECT_OK(hpl_fields_seal(NULL, fields_key, label, etag, &sealed));
    EXPECT_NUM(sealed.len, etag.len + HPL_FIELDS_OVERHEAD);
    EXPECT_OK(hpl_fields_open(NULL, fields_key, label, hpl_buf_bytes(&sealed), &plain));
    EXPECT(hpl_bytes_equal(hpl_buf_bytes(&plain), etag));
    EXPECT_STATUS(hpl_fields_open(NULL, other, label, hpl_buf_bytes(&sealed), &plain), HPL_INTEGRITY);
    EXPECT_STATUS(hpl_fields_open(NULL, fields_key, hpl_bytes_str("part 1"), hpl_buf_bytes(&sealed), &plain), HPL_INTEGRITY);
    for (size_t len = 0; len < sealed.len; len++)
        EXPECT_STATUS(hpl_fields_open(NULL, fields_key, label, hpl_bytes(sealed.data, len), &plain), HPL_INTEGRITY);
    EXPECT_NUM(plain.len, etag.len);
    hpl_buf_wipe(&sealed);
    hpl_buf_wipe(&plain);
}

HPL_TEST(the_same_field_sealed_twice_differs)
{
    struct hpl_secret *HPL_SECRET_AUTO key = hpl_secret_random(32);
    struct hpl_buf one = {0}, two = {0};
    EXPECT_OK(hpl_fields_seal(NULL, key, hpl_bytes_str("etag"), hpl_bytes_str(""), &one));
    EXPECT_OK(hpl_fields_seal(NULL, key, hpl_bytes_str("etag"), hpl_bytes_str(""), &two));
    EXPECT(one.len == 28 && two.len == 28 && memcmp(one.data, two.data, 28) != 0);
    hpl_buf_wipe(&one);
    hpl_buf_wipe(&two);
}
