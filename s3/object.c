/* What makes stored bytes an object: context, metadata, manifest and MAC, sealed ETag and checksums. */
#include "s3/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "engine/seal/fields.h"
#include "http/head.h"

#define MAX_USER_METADATA 2048u
#define USER_METADATA "x-amz-meta-"

/* --- pairs ----------------------------------------------------------------------------------------------------------------- */

static int compare_pairs(const void *a, const void *b)
{
    const struct hpl_pair *x = a, *y = b;
    size_t common = x->name.len < y->name.len ? x->name.len : y->name.len;
    int order = common ? memcmp(x->name.data, y->name.data, common) : 0;
    return order ? order : (x->name.len > y->name.len) - (x->name.len < y->name.len);
}

enum hpl_status hpl_object_pairs(const json_t *object, struct hpl_pair **pairs, uint32_t *num_pairs)
{
    const char *name;
    json_t *value;
    *num_pairs = 0;
    *pairs = calloc(json_object_size(object) + 1, sizeof **pairs);
    if (!*pairs)
        return HPL_NO_MEMORY;
    json_object_foreach((json_t *)object, name, value)
        (*pairs)[(*num_pairs)++] = (struct hpl_pair){hpl_bytes_str(name), hpl_bytes(json_string_value(value), json_string_length(value))};
    qsort(*pairs, *num_pairs, sizeof **pairs, compare_pairs);
    return HPL_OK;
}

const char *hpl_pair_text(const struct hpl_pair *pairs, uint32_t num_pairs, const char *name, char *out, size_t size)
{
    for (uint32_t i = 0; i < num_pairs; i++)
        if (hpl_bytes_equal(pairs[i].name, hpl_bytes_str(name)) && pairs[i].value.len < size) {
            if (pairs[i].value.len)
                memcpy(out, pairs[i].value.data, pairs[i].value.len);
            out[pairs[i].value.len] = '\0';
            return out;
        }
    return NULL;
}

enum hpl_status hpl_object_context(struct hpl_call *call, const json_t *context, const char *bucket, const char *key, json_t **out)
{
    json_t *whole = json_object();
    if (!whole || (context && json_object_update(whole, (json_t *)context) != 0) || json_object_set_new(whole, "bucket", json_string(bucket)) != 0 ||
        json_object_set_new(whole, "key", json_string(key)) != 0) {
        json_decref(whole);
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    }
    *out = whole;
    return HPL_OK;
}

/* --- data keys ------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_object_generate(struct hpl_s3_request *request, const json_t *context, struct hpl_secret **secret, struct hpl_buf *envelope, struct hpl_key_ref *ref)
{
    struct hpl_pair *pairs;
    uint32_t num_pairs;
    const char *key_id = request->sse.mode == HPL_MODE_SSE_KMS && request->sse.key_id[0] ? request->sse.key_id : NULL;
    HPL_TRY(hpl_object_pairs(context, &pairs, &num_pairs));
    _Static_assert(sizeof(struct hpl_pair) == sizeof(struct hpl_context_pair), "both are a name and a value");
    const struct hpl_context view = {(const struct hpl_context_pair *)pairs, num_pairs};
    enum hpl_status status = hpl_kms_generate(request->s3->options.kms, request->call, HPL_PURPOSE_OBJECT, key_id, &view, 32, secret, envelope, ref);
    free(pairs);
    return status;
}

enum hpl_status hpl_object_decrypt(struct hpl_s3_request *request, struct hpl_bytes envelope, const struct hpl_manifest *manifest, struct hpl_secret **secret)
{
    const struct hpl_context view = {(const struct hpl_context_pair *)manifest->context, manifest->num_context};
    return hpl_kms_decrypt(request->s3->options.kms, request->call, HPL_PURPOSE_OBJECT, envelope, &view, secret, NULL);
}

/* --- sealed JSON ----------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_object_seal_json(struct hpl_s3 *s3, struct hpl_call *call, const uint8_t instance[static 16], const char *label, const json_t *value, struct hpl_buf *out)
{
    struct hpl_buf text = {0};
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    enum hpl_status status = value ? hpl_json_put(&text, value) : HPL_NO_MEMORY;
    if (status == HPL_OK)
        status = hpl_fields_key_new(call, &key, s3->options.root, instance);
    if (status == HPL_OK)
        status = hpl_fields_seal(call, key, hpl_bytes_str(label), hpl_buf_bytes(&text), out);
    hpl_buf_wipe(&text);
    return status;
}

enum hpl_status hpl_object_open_json(struct hpl_s3 *s3, struct hpl_call *call, const uint8_t instance[static 16], const char *label, struct hpl_bytes sealed, json_t **out)
{
    struct hpl_buf text = {0};
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    enum hpl_status status = hpl_fields_key_new(call, &key, s3->options.root, instance);
    if (status == HPL_OK)
        status = hpl_fields_open(call, key, hpl_bytes_str(label), sealed, &text);
    if (status == HPL_OK)
        status = hpl_json_object(call, out, hpl_buf_bytes(&text), 1u << 20, false);
    hpl_buf_wipe(&text);
    return status;
}

json_t *hpl_sums_json(const struct hpl_sums_text *sums)
{
    json_t *value = json_pack("{s:s}", "etag", sums->etag);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (sums->value[kind][0])
            json_object_set_new(value, hpl_checksum_name(kind)->word, json_string(sums->value[kind]));
    if (sums->is_composite)
        json_object_set_new(value, "composite", json_true());
    return value;
}

void hpl_sums_read(const json_t *value, struct hpl_sums_text *sums)
{
    const char *etag = json_string_value(json_object_get(value, "etag"));
    *sums = (struct hpl_sums_text){.is_composite = json_is_true(json_object_get(value, "composite"))};
    snprintf(sums->etag, sizeof sums->etag, "%s", etag ? etag : "");
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++) {
        const char *text = json_string_value(json_object_get(value, hpl_checksum_name(kind)->word));
        snprintf(sums->value[kind], sizeof sums->value[kind], "%s", text ? text : "");
    }
}

/* --- manifest -------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_object_close(struct hpl_call *call, const struct hpl_manifest *manifest, const struct hpl_secret *manifest_key, struct hpl_buf *out)
{
    uint8_t *mac = hpl_buf_extend(out, HPL_MANIFEST_MAC_LEN);
    if (!mac)
        return HPL_NO_MEMORY;
    HPL_TRY(hpl_manifest_encode(call, manifest, out));
    hpl_manifest_mac(out->data, manifest_key, hpl_bytes(out->data + HPL_MANIFEST_MAC_LEN, out->len - HPL_MANIFEST_MAC_LEN));
    return HPL_OK;
}

enum hpl_status hpl_object_peek(struct hpl_call *call, const struct hpl_object *object, struct hpl_manifest *manifest)
{
    if (object->manifest.len < HPL_MANIFEST_MAC_LEN)
        return hpl_fail(call, HPL_INTEGRITY, "the object's manifest is damaged");
    return hpl_manifest_decode(call, hpl_bytes(object->manifest.data + HPL_MANIFEST_MAC_LEN, object->manifest.len - HPL_MANIFEST_MAC_LEN), manifest);
}

/* --- metadata -------------------------------------------------------------------------------------------------------------- */

static const char *const kept_headers[] = {"cache-control", "content-disposition", "content-encoding", "content-language", "content-type", "expires"};

static bool is_kept(const char *name)
{
    for (size_t i = 0; i < HPL_COUNT(kept_headers); i++)
        if (strcmp(name, kept_headers[i]) == 0)
            return true;
    return strncmp(name, USER_METADATA, strlen(USER_METADATA)) == 0;
}

/* One header more of the object's. Several of one name are one, with commas between. */
static enum hpl_status keep_header(struct hpl_s3_request *request, json_t *metadata, const char *name, struct hpl_bytes value)
{
    if (!hpl_utf8_is_valid(value))
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the header %.80s is not UTF-8", name);
    json_t *old = json_object_get(metadata, name);
    json_t *text = old ? json_sprintf("%s,%.*s", json_string_value(old), (int)value.len, (const char *)value.data) : json_stringn((const char *)value.data, value.len);
    return json_object_set_new(metadata, name, text) == 0 ? HPL_OK : HPL_NO_MEMORY;
}

static bool names_aws_chunked(struct hpl_bytes list)
{
    while (list.len)
        if (hpl_http_is_word(hpl_http_next_word(&list), "aws-chunked"))
            return true;
    return false;
}

/* Content-Encoding without "aws-chunked", which is how the body travelled, not how it is encoded: SDKs send it alone or behind the object's own. One that does
 * not have it is kept as it is. */
static enum hpl_status keep_encoding(struct hpl_s3_request *request, json_t *metadata, const char *name, struct hpl_bytes value)
{
    struct hpl_buf kept = {0};
    if (!names_aws_chunked(value))
        return keep_header(request, metadata, name, value);
    while (value.len) {
        struct hpl_bytes word = hpl_http_next_word(&value);
        if (word.len == 0 || hpl_http_is_word(word, "aws-chunked"))
            continue;
        hpl_buf_put_str(&kept, kept.len ? "," : "");
        hpl_buf_put_bytes(&kept, word);
    }
    enum hpl_status status = hpl_buf_check(&kept);
    if (status == HPL_OK && kept.len)
        status = keep_header(request, metadata, name, hpl_buf_bytes(&kept));
    hpl_buf_wipe(&kept);
    return status;
}

static enum hpl_status keep(struct hpl_s3_request *request, json_t *metadata, const struct hpl_sigv4_header *header, size_t *user_bytes)
{
    char name[HPL_S3_MAX_NAME + 1];
    if (header->name.len >= sizeof name)
        return HPL_METADATA_TOO_LARGE;
    for (size_t i = 0; i <= header->name.len; i++)
        name[i] = i < header->name.len ? (char)tolower(header->name.data[i]) : '\0';
    bool is_user = strncmp(name, USER_METADATA, strlen(USER_METADATA)) == 0;
    if (!is_kept(name) || (!is_user && header->value.len == 0))
        return HPL_OK;
    if (is_user)
        *user_bytes += header->name.len - strlen(USER_METADATA) + header->value.len;
    return (strcmp(name, "content-encoding") == 0 ? keep_encoding : keep_header)(request, metadata, name, header->value);
}

/* SDKs that presign put user metadata into the query, where it is as well signed as a header; but a query can hold what no header can. */
static enum hpl_status keep_parameter(struct hpl_s3_request *request, json_t *metadata, const struct hpl_s3_parameter *parameter, size_t *user_bytes)
{
    struct hpl_sigv4_header header;
    struct hpl_buf line = {0};
    hpl_buf_printf(&line, "%s:%s", parameter->name, parameter->value);
    enum hpl_status status = hpl_buf_check(&line);
    if (status == HPL_OK && !hpl_http_parse_field(hpl_buf_bytes(&line), &header))
        status = hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the parameter %.80s could not be sent as a header", parameter->name);
    if (status == HPL_OK)
        status = keep(request, metadata, &header, user_bytes);
    hpl_buf_wipe(&line);
    return status;
}

enum hpl_status hpl_object_metadata(struct hpl_s3_request *request, json_t **out)
{
    json_t *HPL_JSON_AUTO metadata = json_object();
    size_t user_bytes = 0;
    for (size_t i = 0; i < request->http->num_headers; i++)
        HPL_TRY(keep(request, metadata, &request->http->headers[i], &user_bytes));
    for (size_t i = 0; i < request->num_parameters; i++)
        if (strncasecmp(request->parameters[i].name, USER_METADATA, strlen(USER_METADATA)) == 0)
            HPL_TRY(keep_parameter(request, metadata, &request->parameters[i], &user_bytes));
    if (user_bytes > MAX_USER_METADATA)
        return HPL_METADATA_TOO_LARGE;
    *out = metadata;
    metadata = NULL;
    return HPL_OK;
}
