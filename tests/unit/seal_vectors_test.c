/* Our code against tests/vectors/seal, which an independent implementation wrote: every derived value, every stored byte. */
#include "tests/test.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/seal/derive.h"
#include "engine/seal/fields.h"
#include "engine/seal/manifest.h"

#define VECTORS HPL_SOURCE_DIR "/tests/vectors/seal"

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = NULL;
    EXPECT_OK(hpl_json_str(NULL, object, name, &text));
    EXPECT(text != NULL);
    return text;
}

static struct hpl_buf hex_of(const json_t *object, const char *name)
{
    const char *text = text_of(object, name);
    struct hpl_buf out = {0};
    uint8_t *at = hpl_buf_extend(&out, strlen(text) / 2);
    EXPECT(at && hpl_hex_decode(at, strlen(text) / 2, text, strlen(text)));
    return out;
}

static void expect_hex(const json_t *object, const char *name, const void *got, size_t len)
{
    struct hpl_buf want = hex_of(object, name);
    EXPECT_NUM(len, want.len);
    if (len)
        EXPECT_BYTES(got, want.data, len);
    hpl_buf_wipe(&want);
}

static struct hpl_secret *secret_of(const json_t *object, const char *name)
{
    struct hpl_buf bytes = hex_of(object, name);
    struct hpl_secret *secret = hpl_secret_from(bytes.data, bytes.len);
    EXPECT(secret != NULL);
    hpl_buf_wipe(&bytes);
    return secret;
}

static int64_t int_of(const json_t *object, const char *name)
{
    int64_t value = -1;
    EXPECT_OK(hpl_json_int(NULL, object, name, 0, INT64_MAX, &value));
    return value;
}

/* One vector, parsed. */
struct vector {
    json_t *json;
    struct hpl_secret *key;
    struct hpl_manifest manifest;
};

static void check_part(const struct vector *v, const json_t *want, struct hpl_manifest_part *part)
{
    struct hpl_buf salt = hex_of(want, "salt");
    struct hpl_part_id id = {v->manifest.bucket, v->manifest.key, v->manifest.instance, (uint32_t)int_of(want, "number")};
    struct hpl_part_secrets secrets;
    EXPECT_OK(hpl_part_derive(NULL, &secrets, v->key, salt.data, &id));
    expect_hex(want, "package_key", secrets.package_key, sizeof secrets.package_key);
    expect_hex(want, "commitment", secrets.commitment, sizeof secrets.commitment);
    expect_hex(want, "nonce", secrets.nonce, sizeof secrets.nonce);
    memcpy(part->salt, salt.data, sizeof part->salt);
    memcpy(part->commitment, secrets.commitment, sizeof part->commitment);
    hpl_buf_wipe(&salt);
}

static void check_stored(const struct vector *v, const json_t *want, const struct hpl_manifest_part *part)
{
    struct hpl_part_id id = {v->manifest.bucket, v->manifest.key, v->manifest.instance, part->number};
    struct hpl_part_key *key = NULL;
    size_t len = (size_t)part->len, opened = 0;
    uint8_t *plain = malloc(len + 1), *stored = malloc((size_t)hpl_sealed_len(len) + 1), *again = malloc(len + 1);
    for (size_t i = 0; i < len; i++)
        plain[i] = (uint8_t)(7 * i + part->number);
    EXPECT_OK(hpl_part_key_new(NULL, &key, v->key, part->salt, &id));
    EXPECT_BYTES(hpl_part_key_commitment(key), part->commitment, HPL_COMMITMENT_LEN);
    size_t stored_len = len ? hpl_packages_seal(key, 0, true, plain, len, stored) : 0;
    expect_hex(want, "stored", stored, stored_len);
    EXPECT_OK(hpl_packages_open(NULL, key, len, 0, stored, stored_len, again, &opened));
    EXPECT(opened == len && memcmp(again, plain, len) == 0);
    hpl_part_key_free(key);
    free(plain);
    free(stored);
    free(again);
}

static void check_parts(struct vector *v)
{
    const json_t *parts = json_object_get(v->json, "parts");
    v->manifest.num_parts = (uint32_t)json_array_size(parts);
    v->manifest.parts = calloc(v->manifest.num_parts, sizeof *v->manifest.parts);
    for (uint32_t i = 0; i < v->manifest.num_parts; i++) {
        const json_t *want = json_array_get(parts, i);
        struct hpl_manifest_part *part = &v->manifest.parts[i];
        part->number = (uint32_t)int_of(want, "number");
        part->len = (uint64_t)int_of(want, "len");
        if (v->manifest.mode == HPL_MODE_PLAIN)
            continue;
        check_part(v, want, part);
        check_stored(v, want, part);
    }
}

/* The vectors' objects list their members in the manifest's order. */
static struct hpl_pair *pairs_of(json_t *object, uint32_t *num_pairs)
{
    struct hpl_pair *pairs = calloc(json_object_size(object) + 1, sizeof *pairs);
    const char *name;
    json_t *value;
    json_object_foreach(object, name, value)
        pairs[(*num_pairs)++] = (struct hpl_pair){hpl_bytes_str(name), hpl_bytes_str(json_string_value(value))};
    return pairs;
}

static void check_fields(const struct vector *v)
{
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    size_t i;
    json_t *field;
    EXPECT_OK(hpl_fields_key_new(NULL, &key, v->key, v->manifest.instance));
    expect_hex(v->json, "fields_key", key->bytes, key->len);
    json_array_foreach(json_object_get(v->json, "fields"), i, field)
    {
        struct hpl_buf sealed = hex_of(field, "sealed"), plain = {0};
        EXPECT_OK(hpl_fields_open(NULL, key, hpl_bytes_str(text_of(field, "label")), hpl_buf_bytes(&sealed), &plain));
        EXPECT(hpl_bytes_equal(hpl_buf_bytes(&plain), hpl_bytes_str(text_of(field, "plain"))));
        hpl_buf_wipe(&sealed);
        hpl_buf_wipe(&plain);
    }
    EXPECT(i > 0);
}

static void check_manifest(const struct vector *v)
{
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    struct hpl_buf bytes = {0}, mac = hex_of(v->json, "mac");
    struct hpl_manifest read;
    EXPECT_OK(hpl_manifest_encode(NULL, &v->manifest, &bytes));
    expect_hex(v->json, "manifest", bytes.data, bytes.len);
    EXPECT_OK(hpl_manifest_key_new(NULL, &key, v->key, v->manifest.instance));
    expect_hex(v->json, "manifest_key", key->bytes, key->len);
    EXPECT_OK(hpl_manifest_verify(NULL, key, hpl_buf_bytes(&bytes), mac.data));
    EXPECT_OK(hpl_manifest_decode(NULL, hpl_buf_bytes(&bytes), &read));
    EXPECT_NUM(read.num_parts, v->manifest.num_parts);
    hpl_manifest_wipe(&read);
    hpl_buf_wipe(&bytes);
    hpl_buf_wipe(&mac);
}

static void check_vector(json_t *json)
{
    struct vector v = {.json = json, .key = secret_of(json, "key")};
    struct hpl_buf instance = hex_of(json, "instance"), sealed = hex_of(json, "sealed");
    v.manifest = (struct hpl_manifest){
        .mode = (enum hpl_seal_mode)int_of(json, "mode"), .bucket = hpl_bytes_str(text_of(json, "bucket")),
        .key = hpl_bytes_str(text_of(json, "object")), .modified_ms = int_of(json, "modified_ms"),
        .size = (uint64_t)int_of(json, "size"), .sealed = hpl_buf_bytes(&sealed),
    };
    EXPECT_OK(hpl_json_bool(NULL, json, "is_multipart", &v.manifest.is_multipart));
    memcpy(v.manifest.instance, instance.data, sizeof v.manifest.instance);
    v.manifest.context = pairs_of(json_object_get(json, "context"), &v.manifest.num_context);
    v.manifest.metadata = pairs_of(json_object_get(json, "metadata"), &v.manifest.num_metadata);
    check_parts(&v);
    check_manifest(&v);
    check_fields(&v);
    hpl_manifest_wipe(&v.manifest);
    hpl_secret_free(v.key);
    hpl_buf_wipe(&instance);
    hpl_buf_wipe(&sealed);
}

static int is_json(const struct dirent *entry)
{
    const char *dot = strrchr(entry->d_name, '.');
    return dot && strcmp(dot, ".json") == 0;
}

HPL_TEST(our_code_gives_every_byte_of_the_vectors)
{
    struct dirent **entries = NULL;
    int num_vectors = scandir(VECTORS, &entries, is_json, alphasort);
    EXPECT(num_vectors >= 5);
    for (int i = 0; i < num_vectors; i++) {
        char path[sizeof VECTORS + 300];
        struct hpl_buf text = {0};
        json_t *json = NULL;
        snprintf(path, sizeof path, VECTORS "/%s", entries[i]->d_name);
        EXPECT_OK(hpl_file_read(NULL, path, 1u << 20, &text));
        EXPECT_OK(hpl_json_object(NULL, &json, hpl_buf_bytes(&text), 1u << 20, false));
        check_vector(json);
        json_decref(json);
        hpl_buf_wipe(&text);
        free(entries[i]);
    }
    free(entries);
}
