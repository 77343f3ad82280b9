/* Is the envelope what docs/formats-envelope.md says, read strictly, and bound to everything before the salt and to the whole context? The vectors in
 * tests/vectors/envelope.json are read here and by tests/interop/read_envelope.py, which shares no code with us. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/json.h"
#include "kms/envelope.h"
#include "kms/opening.h"

static struct hpl_envelope sample(void)
{
    struct hpl_envelope envelope = {.purpose = HPL_PURPOSE_OBJECT, .version = 7, .wrapped = {.mechanism = HPL_MECH_LOCAL_GCM, .iv_len = 32, .ct_len = 48}};
    for (size_t i = 0; i < sizeof envelope.instance; i++)
        envelope.instance[i] = (uint8_t)(0xa0 + i);
    for (size_t i = 0; i < sizeof envelope.uid; i++)
        envelope.uid[i] = (uint8_t)i;
    memset(envelope.wrapped.iv, 0x55, 32);
    memset(envelope.wrapped.ct, 0x66, 48);
    return envelope;
}

static enum hpl_status decode(const void *data, size_t len, struct hpl_envelope *out)
{
    struct hpl_call call = {0};
    uint8_t *copy = malloc(len + 1); /* of exactly this length, for the sanitizer */
    if (len)
        memcpy(copy, data, len);
    enum hpl_status status = hpl_envelope_decode(&call, hpl_bytes(copy, len), out);
    free(copy);
    return status;
}

HPL_TEST(what_is_encoded_is_decoded_again)
{
    struct hpl_envelope envelope = sample(), back;
    struct hpl_buf bytes = {0};
    hpl_envelope_encode(&envelope, &bytes);
    EXPECT_NUM(bytes.len, 34 + 1 + 32 + 2 + 48);
    EXPECT_OK(decode(bytes.data, bytes.len, &back));
    EXPECT(memcmp(&envelope, &back, sizeof back) == 0);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(the_longest_envelope_fits_its_bound)
{
    struct hpl_envelope envelope = sample(), back;
    struct hpl_buf bytes = {0};
    envelope.wrapped.iv_len = sizeof envelope.wrapped.iv;
    envelope.wrapped.ct_len = sizeof envelope.wrapped.ct;
    hpl_envelope_encode(&envelope, &bytes);
    EXPECT(bytes.len <= HPL_ENVELOPE_MAX);
    EXPECT_OK(decode(bytes.data, bytes.len, &back));
    hpl_buf_wipe(&bytes);
}

HPL_TEST(every_cut_and_every_tail_is_refused)
{
    struct hpl_envelope envelope = sample(), back;
    struct hpl_buf bytes = {0};
    hpl_envelope_encode(&envelope, &bytes);
    for (size_t len = 0; len < bytes.len; len++)
        EXPECT_STATUS(decode(bytes.data, len, &back), HPL_INVALID_CIPHERTEXT);
    hpl_buf_put_u8(&bytes, 0);
    EXPECT_STATUS(decode(bytes.data, bytes.len, &back), HPL_INVALID_CIPHERTEXT);
    hpl_buf_wipe(&bytes);
}

HPL_TEST(fields_out_of_their_bounds_are_refused)
{
    static const struct { size_t at; uint8_t value; } wrong[] = {{0, 'h'}, {3, '2'}, {4, 0}, {4, 6}, {4, 255}, {34, 65}, {34, 255}, {67, 3}, {68, 0}};
    struct hpl_envelope envelope = sample(), back;
    struct hpl_buf bytes = {0};
    hpl_envelope_encode(&envelope, &bytes);
    for (size_t i = 0; i < HPL_COUNT(wrong); i++) {
        uint8_t right = bytes.data[wrong[i].at];
        bytes.data[wrong[i].at] = wrong[i].value;
        EXPECT_STATUS(decode(bytes.data, bytes.len, &back), HPL_INVALID_CIPHERTEXT);
        bytes.data[wrong[i].at] = right;
    }
    memset(bytes.data + 30, 0, 4); /* version 0 */
    EXPECT_STATUS(decode(bytes.data, bytes.len, &back), HPL_INVALID_CIPHERTEXT);
    hpl_buf_wipe(&bytes);
}

static enum hpl_status aad_of(const struct hpl_envelope *envelope, const struct hpl_context_pair *pairs, size_t num_pairs, uint8_t aad[static 32])
{
    struct hpl_call call = {0};
    return hpl_envelope_aad(&call, envelope, &(struct hpl_context){pairs, num_pairs}, aad);
}

#define PAIR(name_text, value_text) {{(const uint8_t *)(name_text), sizeof(name_text) - 1}, {(const uint8_t *)(value_text), sizeof(value_text) - 1}}

HPL_TEST(the_aad_moves_with_every_field_before_the_salt_and_not_after)
{
    struct hpl_envelope envelope = sample();
    uint8_t base[32], other[32];
    EXPECT_OK(aad_of(&envelope, NULL, 0, base));
    struct hpl_envelope changed[5] = {envelope, envelope, envelope, envelope, envelope};
    changed[0].purpose = HPL_PURPOSE_API;
    changed[1].wrapped.mechanism = HPL_MECH_P11_GCM;
    changed[2].instance[7] ^= 1;
    changed[3].uid[15] ^= 1;
    changed[4].version++;
    for (size_t i = 0; i < HPL_COUNT(changed); i++) {
        EXPECT_OK(aad_of(&changed[i], NULL, 0, other));
        EXPECT(memcmp(base, other, 32) != 0);
    }
    envelope.wrapped.iv[0] ^= 1;
    envelope.wrapped.ct_len--;
    EXPECT_OK(aad_of(&envelope, NULL, 0, other));
    EXPECT_BYTES(base, other, 32);
}

HPL_TEST(the_context_counts_whole_and_in_any_order)
{
    static const struct hpl_context_pair one[] = {PAIR("bucket", "b"), PAIR("key", "k")}, turned[] = {PAIR("key", "k"), PAIR("bucket", "b")};
    static const struct hpl_context_pair moved[] = {PAIR("bucket", "bk"), PAIR("key", "")}, swapped[] = {PAIR("bucket", "k"), PAIR("key", "b")};
    static const struct hpl_context_pair joined[] = {PAIR("bucketb", ""), PAIR("key", "k")};
    struct hpl_envelope envelope = sample();
    uint8_t base[32], other[32];
    EXPECT_OK(aad_of(&envelope, one, 2, base));
    EXPECT_OK(aad_of(&envelope, turned, 2, other));
    EXPECT_BYTES(base, other, 32);
    const struct { const struct hpl_context_pair *pairs; size_t count; } others[] = {{one, 1}, {one, 0}, {moved, 2}, {swapped, 2}, {joined, 2}};
    for (size_t i = 0; i < HPL_COUNT(others); i++) {
        EXPECT_OK(aad_of(&envelope, others[i].pairs, others[i].count, other));
        EXPECT(memcmp(base, other, 32) != 0);
    }
}

HPL_TEST(a_context_that_cannot_be_told_apart_is_refused)
{
    static const struct hpl_context_pair doubled[] = {PAIR("a", "1"), PAIR("b", "2"), PAIR("a", "1")}, empty[] = {PAIR("", "1")};
    static const struct hpl_context_pair no_utf8[] = {PAIR("a", "\xff")}, no_utf8_name[] = {PAIR("\xc0\x80", "1")};
    static uint8_t long_text[65537];
    const struct hpl_context_pair too_long[] = {{{(const uint8_t *)"a", 1}, {long_text, sizeof long_text}}};
    struct hpl_envelope envelope = sample();
    uint8_t aad[32];
    memset(long_text, 'x', sizeof long_text);
    EXPECT_STATUS(aad_of(&envelope, doubled, 3, aad), HPL_INVALID_REQUEST);
    EXPECT_STATUS(aad_of(&envelope, empty, 1, aad), HPL_INVALID_REQUEST);
    EXPECT_STATUS(aad_of(&envelope, no_utf8, 1, aad), HPL_INVALID_REQUEST);
    EXPECT_STATUS(aad_of(&envelope, no_utf8_name, 1, aad), HPL_INVALID_REQUEST);
    EXPECT_STATUS(aad_of(&envelope, too_long, 1, aad), HPL_INVALID_REQUEST);
}

/* --- the vectors --------------------------------------------------------------------------------------------------------- */

static void expect_hex(const json_t *vector, const char *name, const void *got, size_t len)
{
    struct hpl_buf hex = {0};
    char *text = (char *)hpl_buf_extend(&hex, 2 * len + 1);
    hpl_hex_encode(text, got, len);
    EXPECT_TEXT(text, json_string_value(json_object_get(vector, name)));
    hpl_buf_wipe(&hex);
}

static void check_refused(const json_t *vector, const struct hpl_buf *bytes)
{
    struct hpl_envelope envelope;
    EXPECT_TEXT(json_string_value(json_object_get(vector, "error")), "InvalidCiphertext");
    EXPECT_STATUS(decode(bytes->data, bytes->len, &envelope), HPL_INVALID_CIPHERTEXT);
}

static void check_vector(const json_t *vector)
{
    struct hpl_buf bytes = {0};
    struct hpl_envelope envelope;
    struct hpl_context_pair pairs[8];
    size_t count = 0;
    uint8_t aad[32];
    const char *name, *hex = json_string_value(json_object_get(vector, "envelope"));
    json_t *value;
    EXPECT(hpl_hex_decode(hpl_buf_extend(&bytes, strlen(hex) / 2), strlen(hex) / 2, hex, strlen(hex)));
    if (json_object_get(vector, "error")) {
        check_refused(vector, &bytes);
        hpl_buf_wipe(&bytes);
        return;
    }
    EXPECT_OK(decode(bytes.data, bytes.len, &envelope));
    EXPECT_NUM(envelope.purpose, json_integer_value(json_object_get(vector, "purpose")));
    EXPECT_NUM(envelope.wrapped.mechanism, json_integer_value(json_object_get(vector, "mechanism")));
    EXPECT_NUM(envelope.version, json_integer_value(json_object_get(vector, "version")));
    expect_hex(vector, "instance", envelope.instance, sizeof envelope.instance);
    expect_hex(vector, "uid", envelope.uid, sizeof envelope.uid);
    expect_hex(vector, "iv", envelope.wrapped.iv, envelope.wrapped.iv_len);
    expect_hex(vector, "ciphertext", envelope.wrapped.ct, envelope.wrapped.ct_len);
    json_object_foreach(json_object_get(vector, "context"), name, value)
        pairs[count++] = (struct hpl_context_pair){hpl_bytes_str(name), hpl_bytes_str(json_string_value(value))};
    EXPECT_OK(aad_of(&envelope, pairs, count, aad));
    expect_hex(vector, "aad", aad, sizeof aad);
    hpl_buf_wipe(&bytes);
}

static enum hpl_status open_bucket(const json_t *vector, const struct hpl_buf *bytes, const struct hpl_context *context, struct hpl_bucket_envelope *outer,
                                   struct hpl_secret **key)
{
    struct hpl_call call = {0};
    struct hpl_envelope inner;
    uint8_t check[16];
    struct hpl_secret *HPL_SECRET_AUTO bucket_key = hpl_secret_new(32);
    const char *hex = json_string_value(json_object_get(vector, "bucket_key"));
    EXPECT(hpl_hex_decode(bucket_key->bytes, 32, hex, strlen(hex)));
    HPL_TRY(hpl_bucket_envelope_decode(&call, hpl_buf_bytes(bytes), outer));
    HPL_TRY(hpl_envelope_decode(&call, outer->inner, &inner));
    if (inner.purpose != HPL_PURPOSE_BUCKET_KEY)
        return HPL_INVALID_CIPHERTEXT;
    HPL_TRY(hpl_bucket_key_derive(&call, bucket_key, outer->salt, context, key, check));
    return hpl_equal_secret(check, outer->check, sizeof check) ? HPL_OK : HPL_INVALID_CIPHERTEXT;
}

static void check_bucket_vector(const json_t *vector)
{
    struct hpl_buf bytes = {0}, again = {0};
    struct hpl_bucket_envelope outer;
    struct hpl_context_pair pairs[8];
    struct hpl_context context = {pairs, 0};
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    const char *name, *hex = json_string_value(json_object_get(vector, "envelope"));
    json_t *value;
    EXPECT(hpl_hex_decode(hpl_buf_extend(&bytes, strlen(hex) / 2), strlen(hex) / 2, hex, strlen(hex)));
    json_object_foreach(json_object_get(vector, "context"), name, value)
        pairs[context.num_pairs++] = (struct hpl_context_pair){hpl_bytes_str(name), hpl_bytes_str(json_string_value(value))};
    enum hpl_status status = open_bucket(vector, &bytes, &context, &outer, &key);
    EXPECT_STATUS(status, json_object_get(vector, "error") ? HPL_INVALID_CIPHERTEXT : HPL_OK);
    if (status == HPL_OK) {
        expect_hex(vector, "salt", outer.salt, sizeof outer.salt);
        expect_hex(vector, "check", outer.check, sizeof outer.check);
        expect_hex(vector, "inner", outer.inner.data, outer.inner.len);
        expect_hex(vector, "key", key->bytes, key->len);
        hpl_bucket_envelope_encode(&outer, &again);
        EXPECT(hpl_bytes_equal(hpl_buf_bytes(&again), hpl_buf_bytes(&bytes)));
    }
    hpl_buf_wipe(&bytes);
    hpl_buf_wipe(&again);
}

HPL_TEST(the_vectors_are_read_as_they_say)
{
    struct hpl_buf text = {0};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO file = NULL;
    size_t i;
    json_t *vector;
    EXPECT_OK(hpl_file_read(&call, HPL_SOURCE_DIR "/tests/vectors/envelope.json", 1u << 20, &text));
    EXPECT_OK(hpl_json_object(&call, &file, hpl_buf_bytes(&text), 1u << 20, false));
    EXPECT(json_array_size(json_object_get(file, "vectors")) >= 6);
    json_array_foreach(json_object_get(file, "vectors"), i, vector)
        check_vector(vector);
    EXPECT(json_array_size(json_object_get(file, "bucket_vectors")) >= 6);
    json_array_foreach(json_object_get(file, "bucket_vectors"), i, vector)
        check_bucket_vector(vector);
    hpl_buf_wipe(&text);
}

HPL_TEST(an_independent_reader_agrees_with_every_vector)
{
    EXPECT_NUM(system("python3 '" HPL_SOURCE_DIR "/tests/interop/read_envelope.py' '" HPL_SOURCE_DIR "/tests/vectors/envelope.json' > /dev/null"), 0);
}
