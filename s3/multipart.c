/* Uploads in parts, all but their completion. The upload's id is its instance; what it needs to be completed without the key service or the customer — mode, context,
 * metadata, envelope, manifest key — is kept sealed under the root secret until it is completed or aborted. */
#include "s3/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <openssl/rand.h>

#include "base/clock.h"

void hpl_part_label(char out[static 64], const char *upload_id, uint32_t number)
{
    snprintf(out, 64, "part %.32s %u", upload_id, number);
}

static void upload_label(char out[static 64], const char *upload_id)
{
    snprintf(out, 64, "upload %.32s", upload_id);
}

void hpl_upload_state_wipe(struct hpl_upload_state *state)
{
    json_decref(state->json);
    hpl_secret_free(state->manifest_key);
    hpl_buf_wipe(&state->envelope);
    *state = (struct hpl_upload_state){0};
}

/* --- create ---------------------------------------------------------------------------------------------------------------- */

static json_t *base64_json(const void *data, size_t len)
{
    struct hpl_buf text = {0};
    hpl_base64_put(&text, data, len);
    json_t *value = json_stringn((const char *)text.data, text.len);
    hpl_buf_wipe(&text);
    return value;
}

struct creation {
    struct hpl_upload upload;
    uint8_t instance[16];
    json_t *context, *metadata;
    struct hpl_secret *data_key, *manifest_key;
    struct hpl_buf envelope;
};

static void creation_wipe(struct creation *creation)
{
    hpl_upload_wipe(&creation->upload);
    json_decref(creation->context);
    json_decref(creation->metadata);
    hpl_secret_free(creation->data_key);
    hpl_secret_free(creation->manifest_key);
    hpl_buf_wipe(&creation->envelope);
}

/* The checksum that the upload is created with: CRCs may be of the whole body or of the parts' sums, CRC64NVME of the whole only, hashes of the parts' only. */
static enum hpl_status read_checksum(struct hpl_s3_request *request, enum hpl_checksum_kind *kind, const char **type)
{
    unsigned wanted;
    struct hpl_bytes sent = hpl_http_header(request->http, "x-amz-checksum-type");
    HPL_TRY(hpl_s3_wanted_sums(request, &wanted, kind));
    *type = *kind == HPL_SUM_CRC64NVME ? "FULL_OBJECT" : "COMPOSITE";
    if (!sent.data)
        return HPL_OK;
    if (*kind == HPL_NUM_SUMS)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "x-amz-checksum-type needs x-amz-checksum-algorithm beside it");
    bool is_whole = hpl_bytes_equal(sent, hpl_bytes_str("FULL_OBJECT"));
    if (!is_whole && !hpl_bytes_equal(sent, hpl_bytes_str("COMPOSITE")))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "x-amz-checksum-type must be COMPOSITE or FULL_OBJECT");
    if (is_whole ? !hpl_checksum_can_join(*kind) : *kind == HPL_SUM_CRC64NVME)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "the %s checksum type cannot be used with %s", is_whole ? "FULL_OBJECT" : "COMPOSITE", hpl_checksum_name(*kind)->word);
    *type = is_whole ? "FULL_OBJECT" : "COMPOSITE";
    return HPL_OK;
}

static enum hpl_status seal_state(struct hpl_s3_request *request, struct creation *creation)
{
    char label[64];
    const char *type;
    enum hpl_checksum_kind main;
    const char *key_id = request->sse.key_id[0] ? request->sse.key_id : creation->upload.ref.key_id;
    HPL_TRY(read_checksum(request, &main, &type));
    json_t *HPL_JSON_AUTO state = json_pack("{s:i, s:O, s:O, s:o, s:o, s:s}", "mode", (int)request->sse.mode, "context", creation->context, "metadata",
                                            creation->metadata, "envelope", base64_json(creation->envelope.data, creation->envelope.len), "manifest_key",
                                            base64_json(creation->manifest_key->bytes, creation->manifest_key->len), "key_id", key_id);
    if (main != HPL_NUM_SUMS) {
        json_object_set_new(state, "checksum", json_string(hpl_checksum_name(main)->word));
        json_object_set_new(state, "checksum_type", json_string(type));
        hpl_http_add_header(request->exchange, "x-amz-checksum-algorithm", "%s", hpl_checksum_name(main)->word);
        hpl_http_add_header(request->exchange, "x-amz-checksum-type", "%s", type);
    }
    upload_label(label, creation->upload.id);
    return hpl_object_seal_json(request->s3, request->call, creation->instance, label, state, &creation->upload.state);
}

static enum hpl_status create(struct hpl_s3_request *request, struct creation *creation)
{
    struct hpl_upload *upload = &creation->upload;
    HPL_TRY(hpl_sse_read(request));
    HPL_TRY(hpl_store_find_bucket(request->call, request->s3->store, request->bucket));
    if (RAND_bytes(creation->instance, sizeof creation->instance) != 1)
        return hpl_fail(request->call, HPL_INTERNAL, "no random numbers");
    hpl_hex_encode(upload->id, creation->instance, sizeof creation->instance);
    memcpy(upload->bucket, request->bucket, sizeof upload->bucket);
    memcpy(upload->key, request->key, sizeof upload->key);
    upload->created_ms = hpl_clock_unix_ms();
    HPL_TRY(hpl_object_metadata(request, &creation->metadata));
    HPL_TRY(hpl_object_context(request->call, request->sse.context, request->bucket, request->key, &creation->context));
    if (request->sse.mode == HPL_MODE_SSE_C)
        HPL_TRY(hpl_sse_data_key(request, &creation->data_key));
    else if (request->sse.mode != HPL_MODE_PLAIN) {
        HPL_TRY(hpl_object_generate(request, creation->context, &creation->data_key, &creation->envelope, &upload->ref));
        upload->has_ref = true;
        json_object_set_new(creation->metadata, HPL_KEY_ID_NAME, json_string(request->sse.key_id[0] ? request->sse.key_id : upload->ref.key_id));
    }
    HPL_TRY(hpl_manifest_key_new(request->call, &creation->manifest_key, creation->data_key ? creation->data_key : request->s3->options.root, creation->instance));
    HPL_TRY(seal_state(request, creation));
    return hpl_store_create_upload(request->call, request->s3->store, upload);
}

enum hpl_status hpl_s3_create_upload(struct hpl_s3_request *request)
{
    struct creation creation = {0};
    struct hpl_buf xml = {0};
    enum hpl_status status = create(request, &creation);
    if (status == HPL_OK) {
        hpl_xml_start(&xml, "InitiateMultipartUploadResult");
        hpl_xml_str(&xml, "Bucket", request->bucket);
        hpl_xml_str(&xml, "Key", request->key);
        hpl_xml_str(&xml, "UploadId", creation.upload.id);
        hpl_xml_close(&xml, "InitiateMultipartUploadResult");
        hpl_sse_answer(request, request->sse.mode, request->sse.key_id[0] ? request->sse.key_id : creation.upload.ref.key_id,
                       hpl_buf_bytes(&creation.envelope));
        hpl_s3_send_xml(request, 200, &xml);
    }
    creation_wipe(&creation);
    return status;
}

/* --- reading it again ------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_upload_open(struct hpl_s3_request *request, const struct hpl_upload *upload, struct hpl_upload_state *state)
{
    char label[64];
    struct hpl_buf key = {0};
    *state = (struct hpl_upload_state){0};
    if (!hpl_hex_decode(state->instance, sizeof state->instance, upload->id, strlen(upload->id)))
        return HPL_NO_SUCH_UPLOAD;
    upload_label(label, upload->id);
    HPL_TRY(hpl_object_open_json(request->s3, request->call, state->instance, label, hpl_buf_bytes(&upload->state), &state->json));
    const json_t *context = json_object_get(state->json, "context");
    const char *bucket = json_string_value(json_object_get(context, "bucket")), *name = json_string_value(json_object_get(context, "key"));
    const char *envelope = json_string_value(json_object_get(state->json, "envelope")), *key_text = json_string_value(json_object_get(state->json, "manifest_key"));
    state->mode = (enum hpl_seal_mode)json_integer_value(json_object_get(state->json, "mode"));
    bool is_right = bucket && name && strcmp(bucket, upload->bucket) == 0 && strcmp(name, upload->key) == 0 && envelope &&
                    hpl_base64_decode(&state->envelope, envelope, strlen(envelope)) && key_text && hpl_base64_decode(&key, key_text, strlen(key_text)) && key.len == 32 &&
                    state->mode <= HPL_MODE_SSE_C;
    if (is_right)
        state->manifest_key = hpl_secret_from(key.data, key.len);
    hpl_buf_wipe(&key);
    if (!is_right)
        return hpl_fail(request->call, HPL_INTEGRITY, "the upload's record is damaged or another upload's");
    return state->manifest_key ? HPL_OK : hpl_fail(request->call, HPL_NO_MEMORY, "the secret region is full");
}

enum hpl_checksum_kind hpl_upload_sum(const struct hpl_upload_state *state, bool *is_composite)
{
    const char *word = json_string_value(json_object_get(state->json, "checksum")), *type = json_string_value(json_object_get(state->json, "checksum_type"));
    *is_composite = !type || strcmp(type, "COMPOSITE") == 0;
    for (int kind = HPL_SUM_CRC32; word && kind < HPL_NUM_SUMS; kind++)
        if (strcmp(word, hpl_checksum_name(kind)->word) == 0)
            return kind;
    return HPL_NUM_SUMS;
}

static bool read_hex(const json_t *state, const char *name, uint8_t *out, size_t len)
{
    const char *hex = json_string_value(json_object_get(state, name));
    return hex && hpl_hex_decode(out, len, hex, strlen(hex));
}

static bool keep_part(void *arg, const struct hpl_upload_part *part)
{
    struct hpl_kept_parts *parts = arg;
    char label[64];
    json_t *HPL_JSON_AUTO state = NULL;
    if (parts->count == parts->max) {
        parts->is_truncated = true;
        return false;
    }
    if (parts->count == parts->cap) {
        parts->cap = parts->cap ? 2 * parts->cap : 16;
        struct hpl_kept_part *grown = realloc(parts->list, parts->cap * sizeof *grown);
        if (!grown) {
            parts->status = HPL_NO_MEMORY;
            return false;
        }
        parts->list = grown;
    }
    struct hpl_kept_part *kept = &parts->list[parts->count];
    *kept = (struct hpl_kept_part){.modified_ms = part->modified_ms};
    hpl_part_label(label, parts->upload_id, part->number);
    parts->status = hpl_object_open_json(parts->request->s3, parts->request->call, parts->instance, label, hpl_buf_bytes(&part->state), &state);
    if (parts->status != HPL_OK)
        return false;
    kept->part.number = part->number;
    kept->part.len = (uint64_t)json_integer_value(json_object_get(state, "len"));
    hpl_sums_read(state, &kept->sums);
    if (!read_hex(state, "salt", kept->part.salt, sizeof kept->part.salt) || !read_hex(state, "commitment", kept->part.commitment, sizeof kept->part.commitment) ||
        !read_hex(state, "file", kept->file, sizeof kept->file) || memcmp(kept->file, part->file, sizeof kept->file) != 0) {
        parts->status = hpl_fail(parts->request->call, HPL_INTEGRITY, "the record of part %u is damaged", part->number);
        return false;
    }
    parts->count++;
    return true;
}

enum hpl_status hpl_upload_load_parts(struct hpl_kept_parts *parts, uint32_t after)
{
    enum hpl_status status = hpl_store_list_parts(parts->request->call, parts->request->s3->store, parts->upload_id, after, keep_part, parts);
    return status == HPL_OK ? parts->status : status;
}

enum hpl_status hpl_upload_check_sse(struct hpl_s3_request *request, const struct hpl_upload_state *state)
{
    const struct hpl_sse *sse = &request->sse;
    const char *key_id = json_string_value(json_object_get(state->json, "key_id"));
    if (sse->mode == HPL_MODE_PLAIN)
        return HPL_OK;
    if (sse->mode == HPL_MODE_SSE_C && state->mode != HPL_MODE_SSE_C)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "this upload was created without a customer key");
    if (sse->mode != state->mode || (sse->key_id[0] && strcmp(sse->key_id, key_id ? key_id : "") != 0))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "this upload was created with another encryption, or with none");
    return HPL_OK;
}

/* --- abort ----------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_s3_abort_upload(struct hpl_s3_request *request)
{
    struct hpl_upload upload;
    const char *id = hpl_s3_parameter(request, "uploadId");
    enum hpl_status status = hpl_store_get_upload(request->call, request->s3->store, id, request->bucket, request->key, &upload);
    if (status == HPL_OK)
        status = hpl_store_abort_upload(request->call, request->s3->store, upload.id);
    hpl_upload_wipe(&upload);
    if (status == HPL_OK)
        hpl_s3_send_empty(request, 204);
    return status;
}

/* --- listings -------------------------------------------------------------------------------------------------------------- */

static void put_part(struct hpl_buf *xml, const struct hpl_kept_part *kept)
{
    char time[40], quoted[96];
    hpl_time_text(time, kept->modified_ms, HPL_TIME_ISO_MS);
    snprintf(quoted, sizeof quoted, "\"%s\"", kept->sums.etag);
    hpl_xml_open(xml, "Part");
    hpl_xml_int(xml, "PartNumber", kept->part.number);
    hpl_xml_str(xml, "LastModified", time);
    hpl_xml_str(xml, "ETag", quoted);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (kept->sums.value[kind][0])
            hpl_xml_str(xml, hpl_checksum_name(kind)->element, kept->sums.value[kind]);
    hpl_xml_int(xml, "Size", (int64_t)kept->part.len);
    hpl_xml_close(xml, "Part");
}

static void send_parts(struct hpl_s3_request *request, const struct hpl_kept_parts *parts, int64_t after, int64_t max)
{
    struct hpl_buf xml = {0};
    hpl_xml_start(&xml, "ListPartsResult");
    hpl_xml_str(&xml, "Bucket", request->bucket);
    hpl_xml_str(&xml, "Key", request->key);
    hpl_xml_str(&xml, "UploadId", parts->upload_id);
    hpl_s3_put_owner(&xml, "Initiator");
    hpl_s3_put_owner(&xml, "Owner");
    hpl_xml_str(&xml, "StorageClass", "STANDARD");
    hpl_xml_int(&xml, "PartNumberMarker", after);
    if (parts->is_truncated)
        hpl_xml_int(&xml, "NextPartNumberMarker", parts->list[parts->count - 1].part.number);
    hpl_xml_int(&xml, "MaxParts", max);
    hpl_xml_str(&xml, "IsTruncated", parts->is_truncated ? "true" : "false");
    for (size_t i = 0; i < parts->count; i++)
        put_part(&xml, &parts->list[i]);
    hpl_xml_close(&xml, "ListPartsResult");
    hpl_s3_send_xml(request, 200, &xml);
}

enum hpl_status hpl_s3_list_parts(struct hpl_s3_request *request)
{
    struct hpl_upload upload = {0};
    struct hpl_upload_state state = {0};
    int64_t max, after;
    HPL_TRY(hpl_s3_number(request, "max-parts", 1, HPL_S3_MAX_ASKED, HPL_S3_PAGE, &max));
    HPL_TRY(hpl_s3_number(request, "part-number-marker", 0, HPL_MANIFEST_MAX_PARTS, 0, &after));
    if (max > HPL_S3_PAGE)
        max = HPL_S3_PAGE;
    enum hpl_status status = hpl_store_get_upload(request->call, request->s3->store, hpl_s3_parameter(request, "uploadId"), request->bucket, request->key, &upload);
    if (status == HPL_OK)
        status = hpl_upload_open(request, &upload, &state);
    struct hpl_kept_parts parts = {.request = request, .upload_id = upload.id, .instance = state.instance, .max = (size_t)max};
    if (status == HPL_OK)
        status = hpl_upload_load_parts(&parts, (uint32_t)after);
    if (status == HPL_OK)
        send_parts(request, &parts, after, max);
    free(parts.list);
    hpl_upload_state_wipe(&state);
    hpl_upload_wipe(&upload);
    return status;
}

struct uploads {
    struct hpl_buf rows, prefixes;
    const char *prefix, *delimiter;
    int64_t count, max;
    bool is_truncated, is_url;
    char last_prefix[HPL_OBJECT_KEY_MAX + 1];
    char next_key[HPL_OBJECT_KEY_MAX + 1], next_id[HPL_UPLOAD_ID_LEN + 1];
};

static void put_key(const struct uploads *uploads, struct hpl_buf *xml, const char *element, const char *text)
{
    struct hpl_buf encoded = {0};
    if (uploads->is_url)
        hpl_uri_put(&encoded, hpl_bytes_str(text), true);
    hpl_xml_text(xml, element, uploads->is_url ? hpl_buf_bytes(&encoded) : hpl_bytes_str(text));
    hpl_buf_wipe(&encoded);
}

/* How much of a key is the common prefix that it belongs to; 0 when it stands for itself. */
static size_t common_prefix(const struct uploads *uploads, const char *key)
{
    size_t prefix_len = strlen(uploads->prefix);
    const char *found = *uploads->delimiter && strncmp(key, uploads->prefix, prefix_len) == 0 ? strstr(key + prefix_len, uploads->delimiter) : NULL;
    return found ? (size_t)(found - key) + strlen(uploads->delimiter) : 0;
}

static bool add_upload(void *arg, const struct hpl_upload *upload)
{
    struct uploads *uploads = arg;
    char time[40];
    size_t group_len = common_prefix(uploads, upload->key);
    if (group_len && strlen(uploads->last_prefix) == group_len && strncmp(uploads->last_prefix, upload->key, group_len) == 0)
        return true;
    if (uploads->count == uploads->max) {
        uploads->is_truncated = true;
        return false;
    }
    uploads->count++;
    snprintf(uploads->next_key, sizeof uploads->next_key, "%s", upload->key);
    snprintf(uploads->next_id, sizeof uploads->next_id, "%s", upload->id);
    if (group_len) {
        snprintf(uploads->last_prefix, sizeof uploads->last_prefix, "%.*s", (int)group_len, upload->key);
        hpl_xml_open(&uploads->prefixes, "CommonPrefixes");
        put_key(uploads, &uploads->prefixes, "Prefix", uploads->last_prefix);
        hpl_xml_close(&uploads->prefixes, "CommonPrefixes");
        return true;
    }
    hpl_time_text(time, upload->created_ms, HPL_TIME_ISO_MS);
    hpl_xml_open(&uploads->rows, "Upload");
    put_key(uploads, &uploads->rows, "Key", upload->key);
    hpl_xml_str(&uploads->rows, "UploadId", upload->id);
    hpl_s3_put_owner(&uploads->rows, "Initiator");
    hpl_s3_put_owner(&uploads->rows, "Owner");
    hpl_xml_str(&uploads->rows, "StorageClass", "STANDARD");
    hpl_xml_str(&uploads->rows, "Initiated", time);
    hpl_xml_close(&uploads->rows, "Upload");
    return true;
}

enum hpl_status hpl_s3_list_uploads(struct hpl_s3_request *request)
{
    const char *prefix = hpl_s3_parameter(request, "prefix"), *delimiter = hpl_s3_parameter(request, "delimiter"), *encoding = hpl_s3_parameter(request, "encoding-type");
    const char *key_marker = hpl_s3_parameter(request, "key-marker"), *id_marker = hpl_s3_parameter(request, "upload-id-marker");
    struct uploads uploads = {.prefix = prefix ? prefix : "", .delimiter = delimiter ? delimiter : "", .is_url = encoding && strcmp(encoding, "url") == 0};
    struct hpl_buf xml = {0};
    HPL_TRY(hpl_s3_number(request, "max-uploads", 1, HPL_S3_MAX_ASKED, HPL_S3_PAGE, &uploads.max));
    if (uploads.max > HPL_S3_PAGE)
        uploads.max = HPL_S3_PAGE;
    if (key_marker) /* its group was given on the page before */
        snprintf(uploads.last_prefix, sizeof uploads.last_prefix, "%.*s", (int)common_prefix(&uploads, key_marker), key_marker);
    enum hpl_status status = hpl_store_list_uploads(request->call, request->s3->store, request->bucket, uploads.prefix, key_marker ? key_marker : "",
                                                    id_marker ? id_marker : key_marker && *key_marker ? "~" : "", add_upload, &uploads);
    if (status == HPL_OK) {
        hpl_xml_start(&xml, "ListMultipartUploadsResult");
        hpl_xml_str(&xml, "Bucket", request->bucket);
        put_key(&uploads, &xml, "Prefix", uploads.prefix);
        if (*uploads.delimiter)
            put_key(&uploads, &xml, "Delimiter", uploads.delimiter);
        put_key(&uploads, &xml, "KeyMarker", key_marker ? key_marker : "");
        hpl_xml_str(&xml, "UploadIdMarker", id_marker ? id_marker : "");
        if (uploads.is_truncated) {
            put_key(&uploads, &xml, "NextKeyMarker", uploads.next_key);
            hpl_xml_str(&xml, "NextUploadIdMarker", uploads.next_id);
        }
        hpl_xml_int(&xml, "MaxUploads", uploads.max);
        hpl_xml_str(&xml, "IsTruncated", uploads.is_truncated ? "true" : "false");
        hpl_buf_put_bytes(&xml, hpl_buf_bytes(&uploads.rows));
        hpl_buf_put_bytes(&xml, hpl_buf_bytes(&uploads.prefixes));
        hpl_xml_close(&xml, "ListMultipartUploadsResult");
        hpl_s3_send_xml(request, 200, &xml);
    }
    hpl_buf_wipe(&uploads.rows);
    hpl_buf_wipe(&uploads.prefixes);
    return status;
}
