/* A sealed file's header and trailer: what was written is read, under its key and context alone. */
#include "tests/test.h"

#include "engine/seal/file_header.h"

struct sample {
    struct hpl_secret *key;
    struct hpl_file_header header;
    struct hpl_buf bytes;
    struct hpl_file_keys keys;
};

static const struct hpl_bytes context = {(const uint8_t *)"context", 7};

static void make(struct sample *s, size_t envelope_len)
{
    static const uint8_t envelope[HPL_FILE_ENVELOPE_MAX + 1] = {7};
    *s = (struct sample){.key = hpl_secret_random(32)};
    s->header.source = envelope_len ? HPL_FILE_KEY_ENVELOPE : HPL_FILE_KEY_FILE;
    s->header.envelope = hpl_bytes(envelope, envelope_len);
    EXPECT_OK(hpl_file_header_new(NULL, &s->header, s->key, context, &s->bytes, &s->keys));
}

static void wipe(struct sample *s)
{
    hpl_file_keys_wipe(&s->keys);
    hpl_buf_wipe(&s->bytes);
    hpl_secret_free(s->key);
}

/* Decodes and verifies a copy that is exactly as long as it should be. */
static enum hpl_status read_copy(const struct sample *s, const uint8_t *data, size_t len, struct hpl_bytes under)
{
    struct hpl_file_header header;
    struct hpl_file_keys keys = {0};
    struct hpl_buf copy = {0};
    hpl_buf_put(&copy, data, len);
    enum hpl_status status = hpl_file_header_decode(NULL, hpl_buf_bytes(&copy), &header);
    if (status == HPL_OK)
        status = hpl_file_header_verify(NULL, &header, hpl_buf_bytes(&copy), s->key, under, &keys);
    hpl_file_keys_wipe(&keys);
    hpl_buf_wipe(&copy);
    return status;
}

HPL_TEST(what_was_written_is_read)
{
    static const size_t lens[] = {0, 1, 100, HPL_FILE_ENVELOPE_MAX};
    for (size_t i = 0; i < HPL_COUNT(lens); i++) {
        struct sample s;
        make(&s, lens[i]);
        EXPECT_NUM(hpl_file_header_len(s.bytes.data), s.bytes.len);
        EXPECT_OK(read_copy(&s, s.bytes.data, s.bytes.len, context));
        wipe(&s);
    }
}

HPL_TEST(another_key_context_or_bit_does_not_verify)
{
    struct sample s;
    make(&s, 9);
    EXPECT_STATUS(read_copy(&s, s.bytes.data, s.bytes.len, hpl_bytes_str("Context")), HPL_INTEGRITY);
    EXPECT_STATUS(read_copy(&s, s.bytes.data, s.bytes.len, hpl_bytes(NULL, 0)), HPL_INTEGRITY);
    for (size_t bit = 0; bit < 8 * s.bytes.len; bit++) {
        s.bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        EXPECT_STATUS(read_copy(&s, s.bytes.data, s.bytes.len, context), HPL_INTEGRITY);
        s.bytes.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    EXPECT_OK(read_copy(&s, s.bytes.data, s.bytes.len, context));
    s.key->bytes[0] ^= 1;
    EXPECT_STATUS(read_copy(&s, s.bytes.data, s.bytes.len, context), HPL_INTEGRITY);
    wipe(&s);
}

HPL_TEST(a_header_has_exactly_its_length)
{
    struct sample s;
    make(&s, 9);
    for (size_t len = 0; len < s.bytes.len; len++)
        EXPECT_STATUS(read_copy(&s, s.bytes.data, len, context), HPL_INTEGRITY);
    hpl_buf_put_u8(&s.bytes, 0);
    EXPECT_STATUS(read_copy(&s, s.bytes.data, s.bytes.len, context), HPL_INTEGRITY);
    wipe(&s);
}

HPL_TEST(an_envelope_goes_with_its_source)
{
    struct sample s = {.key = hpl_secret_random(32)};
    s.header.source = HPL_FILE_KEY_ENVELOPE;
    EXPECT_STATUS(hpl_file_header_new(NULL, &s.header, s.key, context, &s.bytes, &s.keys), HPL_INVALID_ARGUMENT);
    s.header.source = HPL_FILE_KEY_FILE;
    s.header.envelope = hpl_bytes_str("x");
    EXPECT_STATUS(hpl_file_header_new(NULL, &s.header, s.key, context, &s.bytes, &s.keys), HPL_INVALID_ARGUMENT);
    static const uint8_t starts[][HPL_FILE_START_LEN] = {{"HPF1\1\0\1"}, {"HPF1\2\0\0"}, {"HPF1\2\x10\1"}, {"HPF1\3\0\1"}, {"HPF1\0\0\0"}, {"HPF2\1\0\0"}};
    for (size_t i = 0; i < HPL_COUNT(starts); i++)
        EXPECT_NUM(hpl_file_header_len(starts[i]), 0);
    wipe(&s);
}

HPL_TEST(a_trailer_is_of_one_length_and_one_file)
{
    struct sample s, other;
    uint8_t one[32], again[32], longer[32], foreign[32];
    make(&s, 0);
    make(&other, 0);
    hpl_file_trailer(one, &s.keys, &s.header, 0);
    hpl_file_trailer(again, &s.keys, &s.header, 0);
    hpl_file_trailer(longer, &s.keys, &s.header, (uint64_t)1 << 32);
    hpl_file_trailer(foreign, &s.keys, &other.header, 0);
    EXPECT_BYTES(one, again, 32);
    EXPECT(memcmp(one, longer, 32) != 0 && memcmp(one, foreign, 32) != 0);
    wipe(&other);
    wipe(&s);
}
