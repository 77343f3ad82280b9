/* CompleteMultipartUpload: parts become an object, whose checksum is made of theirs and held against what the client says of the whole. */
#include "s3/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <openssl/rand.h>

#include "base/clock.h"

struct wanted_part {
    uint32_t number;
    char etag[80];
    char sums[HPL_NUM_SUMS][64];
};

struct completion {
    struct hpl_upload upload;
    struct hpl_upload_state state;
    struct hpl_kept_parts kept;
    struct wanted_part *wanted;
    size_t num_wanted;
    struct wanted_part current;
    struct hpl_manifest_part *parts;
    uint8_t (*files)[HPL_FILE_ID_LEN];
    const struct hpl_kept_part **chosen;
    struct hpl_object object;
    struct hpl_sums_text sums;
    bool must_be_new;
};

static void completion_wipe(struct completion *completion)
{
    hpl_upload_wipe(&completion->upload);
    hpl_upload_state_wipe(&completion->state);
    hpl_object_wipe(&completion->object);
    free(completion->kept.list);
    free(completion->wanted);
    free(completion->parts);
    free(completion->files);
    free(completion->chosen);
}

static enum hpl_status take_element(void *arg, struct hpl_call *call, const char *path, const char *text)
{
    struct completion *completion = arg;
    struct wanted_part *current = &completion->current;
    if (strcmp(path, "Part/PartNumber") == 0) {
        char *end;
        long number = strtol(text, &end, 10);
        if (*end || end == text || number < 1 || number > (long)HPL_MANIFEST_MAX_PARTS)
            return hpl_fail(call, HPL_INVALID_PART, "a part number must be from 1 to 10000");
        current->number = (uint32_t)number;
    } else if (strcmp(path, "Part/ETag") == 0) {
        size_t len = strlen(text);
        bool is_quoted = len >= 2 && text[0] == '"' && text[len - 1] == '"';
        snprintf(current->etag, sizeof current->etag, "%.*s", (int)(is_quoted ? len - 2 : len), text + is_quoted);
    } else if (strncmp(path, "Part/Checksum", 13) == 0) {
        int kind = HPL_SUM_CRC32;
        while (kind < HPL_NUM_SUMS && strcmp(path + 5, hpl_checksum_name(kind)->element) != 0)
            kind++;
        if (kind == HPL_NUM_SUMS)
            return hpl_fail(call, HPL_NOT_IMPLEMENTED, "the checksum '%.40s' is not implemented", path + 5);
        snprintf(current->sums[kind], sizeof current->sums[kind], "%s", text);
    } else if (strcmp(path, "Part") == 0) {
        if (!current->number || !current->etag[0] || completion->num_wanted == HPL_MANIFEST_MAX_PARTS)
            return HPL_MALFORMED_XML;
        struct wanted_part *grown = realloc(completion->wanted, (completion->num_wanted + 1) * sizeof *grown);
        if (!grown)
            return HPL_NO_MEMORY;
        completion->wanted = grown;
        completion->wanted[completion->num_wanted++] = *current;
        *current = (struct wanted_part){0};
    }
    return HPL_OK;
}

static const struct hpl_kept_part *find_kept(const struct hpl_kept_parts *kept, uint32_t number)
{
    size_t low = 0, high = kept->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (kept->list[middle].part.number < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < kept->count && kept->list[low].part.number == number ? &kept->list[low] : NULL;
}

/* Every part named is there, as it was acknowledged, in ascending order, and large enough. */
static enum hpl_status choose_parts(struct hpl_s3_request *request, struct completion *completion)
{
    size_t count = completion->num_wanted;
    completion->parts = calloc(count, sizeof *completion->parts);
    completion->files = calloc(count, sizeof *completion->files);
    completion->chosen = calloc(count, sizeof *completion->chosen);
    if (!completion->parts || !completion->files || !completion->chosen)
        return hpl_fail(request->call, HPL_NO_MEMORY, "out of memory");
    for (size_t i = 1; i < count; i++)
        if (completion->wanted[i].number <= completion->wanted[i - 1].number)
            return HPL_INVALID_PART_ORDER;
    for (size_t i = 0; i < count; i++) {
        const struct wanted_part *wanted = &completion->wanted[i];
        const struct hpl_kept_part *kept = find_kept(&completion->kept, wanted->number);
        if (!kept || strcmp(kept->sums.etag, wanted->etag) != 0)
            return hpl_fail(request->call, HPL_INVALID_PART, "part %u is not there or its ETag differs", wanted->number);
        for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
            if (wanted->sums[kind][0] && strcmp(wanted->sums[kind], kept->sums.value[kind]) != 0)
                return hpl_fail(request->call, HPL_INVALID_PART, "part %u has another %s, or was uploaded without it", wanted->number, hpl_checksum_name(kind)->word);
        if (i + 1 < count && kept->part.len < HPL_S3_MIN_PART)
            return hpl_fail(request->call, HPL_PART_TOO_SMALL, "part %u is smaller than 5 MiB and not the last", wanted->number);
        completion->parts[i] = kept->part;
        completion->chosen[i] = kept;
        memcpy(completion->files[i], kept->file, HPL_FILE_ID_LEN);
        completion->object.size += kept->part.len;
    }
    return HPL_OK;
}

/* The checksum of the parts' checksums with their number behind it, or that of all their bytes, made of theirs. False when a part has none. */
static bool whole_sum(const struct completion *completion, enum hpl_checksum_kind kind, bool is_composite, char *out, size_t out_size)
{
    struct hpl_checksums sums;
    struct hpl_buf text = {0};
    size_t len = hpl_checksum_name(kind)->len;
    uint8_t value[32], joined[32] = {0}; /* the sum of no bytes */
    if (hpl_checksums_init(&sums, 1u << kind) != HPL_OK)
        return false;
    bool is_whole = true;
    for (size_t i = 0; i < completion->num_wanted && is_whole; i++) {
        const char *part = completion->chosen[i]->sums.value[kind];
        is_whole = hpl_base64_decode_exact(value, len, part, strlen(part));
        if (is_whole && is_composite)
            hpl_checksums_update(&sums, value, len);
        else if (is_whole)
            hpl_checksum_join(kind, joined, value, completion->chosen[i]->part.len);
    }
    hpl_checksums_final(&sums);
    hpl_base64_put(&text, is_composite ? sums.value[kind] : joined, len);
    if (is_composite)
        hpl_buf_printf(&text, "-%zu", completion->num_wanted);
    if (is_whole)
        snprintf(out, out_size, "%s", hpl_buf_text(&text));
    hpl_buf_wipe(&text);
    hpl_checksums_wipe(&sums);
    return is_whole;
}

static enum hpl_status make_sums(struct completion *completion)
{
    uint8_t etag[32];
    struct hpl_hash md5;
    bool is_random = completion->state.mode == HPL_MODE_SSE_KMS || completion->state.mode == HPL_MODE_SSE_C, is_composite;
    enum hpl_checksum_kind kind = hpl_upload_sum(&completion->state, &is_composite);
    HPL_TRY(hpl_hash_init(&md5, "MD5"));
    for (size_t i = 0; i < completion->num_wanted; i++) {
        uint8_t part[16];
        const char *hex = completion->chosen[i]->sums.etag;
        if (hpl_hex_decode(part, sizeof part, hex, strlen(hex)))
            hpl_hash_update(&md5, part, sizeof part);
    }
    hpl_hash_final(&md5, etag);
    HPL_CHECK(!is_random || RAND_bytes(etag, 16) == 1);
    char hex[33];
    hpl_hex_encode(hex, etag, 16);
    snprintf(completion->sums.etag, sizeof completion->sums.etag, "%s-%zu", hex, completion->num_wanted);
    if (kind != HPL_NUM_SUMS)
        completion->sums.is_composite = whole_sum(completion, kind, is_composite, completion->sums.value[kind], sizeof completion->sums.value[kind]) && is_composite;
    return HPL_OK;
}

/* Whether a checksum of the whole is one of the parts' checksums: by its form, as the completion says, or as the upload was created. */
static enum hpl_status read_type(struct hpl_s3_request *request, const struct completion *completion, enum hpl_checksum_kind kind, struct hpl_bytes sent, bool *is_composite)
{
    struct hpl_bytes type = hpl_http_header(request->http, "x-amz-checksum-type");
    bool is_created_composite, says_composite = hpl_bytes_equal(type, hpl_bytes_str("COMPOSITE"));
    bool is_created_so = hpl_upload_sum(&completion->state, &is_created_composite) == kind;
    if (type.data && !says_composite && !hpl_bytes_equal(type, hpl_bytes_str("FULL_OBJECT")))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "x-amz-checksum-type must be COMPOSITE or FULL_OBJECT");
    if (type.data && is_created_so && says_composite != is_created_composite)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "x-amz-checksum-type is not the one that this upload was created with");
    *is_composite = memchr(sent.data, '-', sent.len) || (type.data ? says_composite : is_created_so && is_created_composite);
    return HPL_OK;
}

/* One checksum of the whole that the client sends. MinIO's clients send a composite one without the number of parts behind it. */
static enum hpl_status check_sum(struct hpl_s3_request *request, const struct completion *completion, enum hpl_checksum_kind kind, struct hpl_bytes sent)
{
    char text[64];
    bool is_composite = false;
    const char *header = hpl_checksum_name(kind)->header;
    HPL_TRY(read_type(request, completion, kind, sent, &is_composite));
    if ((!is_composite && !hpl_checksum_can_join(kind)) || !whole_sum(completion, kind, is_composite, text, sizeof text))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "%s cannot be checked: the parts were uploaded without that checksum, or of another type", header);
    bool is_right = hpl_bytes_equal(sent, hpl_bytes_str(text)) || (is_composite && hpl_bytes_equal(sent, hpl_bytes(text, strcspn(text, "-"))));
    return is_right ? HPL_OK : hpl_fail(request->call, HPL_BAD_DIGEST, "%s does not match the parts", header);
}

/* What the client says of the whole: its checksums and its size. */
static enum hpl_status check_whole(struct hpl_s3_request *request, const struct completion *completion)
{
    struct hpl_bytes size = hpl_http_header(request->http, "x-amz-mp-object-size");
    char text[64];
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++) {
        struct hpl_bytes sent = hpl_http_header(request->http, hpl_checksum_name(kind)->header);
        if (sent.data)
            HPL_TRY(check_sum(request, completion, kind, sent));
    }
    snprintf(text, sizeof text, "%llu", (unsigned long long)completion->object.size);
    if (size.data && !hpl_bytes_equal(size, hpl_bytes_str(text)))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "x-amz-mp-object-size is not the size of the parts, %s bytes", text);
    return HPL_OK;
}

static enum hpl_status build_object(struct hpl_s3_request *request, struct completion *completion)
{
    struct hpl_object *object = &completion->object;
    struct hpl_buf sealed = {0};
    json_t *HPL_JSON_AUTO sums = hpl_sums_json(&completion->sums);
    struct hpl_manifest manifest = {.mode = completion->state.mode, .bucket = hpl_bytes_str(request->bucket), .key = hpl_bytes_str(request->key),
                                    .modified_ms = hpl_clock_unix_ms(), .size = object->size, .is_multipart = true, .parts = completion->parts,
                                    .num_parts = (uint32_t)completion->num_wanted};
    memcpy(manifest.instance, completion->state.instance, sizeof manifest.instance);
    enum hpl_status status = hpl_object_pairs(json_object_get(completion->state.json, "context"), &manifest.context, &manifest.num_context);
    if (status == HPL_OK)
        status = hpl_object_pairs(json_object_get(completion->state.json, "metadata"), &manifest.metadata, &manifest.num_metadata);
    if (status == HPL_OK)
        status = hpl_object_seal_json(request->s3, request->call, manifest.instance, "object", sums, &sealed);
    manifest.sealed = hpl_buf_bytes(&sealed);
    if (status == HPL_OK)
        status = hpl_object_close(request->call, &manifest, completion->state.manifest_key, &object->manifest);
    hpl_buf_put_bytes(&object->envelope, hpl_buf_bytes(&completion->state.envelope));
    object->modified_ms = manifest.modified_ms;
    object->has_ref = completion->upload.has_ref;
    object->ref = completion->upload.ref;
    memcpy(object->bucket, request->bucket, sizeof object->bucket);
    memcpy(object->key, request->key, sizeof object->key);
    memcpy(object->instance, manifest.instance, sizeof object->instance);
    free(manifest.context);
    free(manifest.metadata);
    hpl_buf_wipe(&sealed);
    return status;
}

/* A completion need not carry the customer key; one that does must carry the right one. */
static enum hpl_status check_sse(struct hpl_s3_request *request, const struct completion *completion)
{
    struct hpl_secret *HPL_SECRET_AUTO manifest_key = NULL;
    HPL_TRY(hpl_sse_read(request));
    HPL_TRY(hpl_upload_check_sse(request, &completion->state));
    if (request->sse.mode != HPL_MODE_SSE_C)
        return HPL_OK;
    HPL_TRY(hpl_manifest_key_new(request->call, &manifest_key, request->sse.customer_key, completion->state.instance));
    return hpl_equal_secret(manifest_key->bytes, completion->state.manifest_key->bytes, manifest_key->len)
               ? HPL_OK : hpl_fail(request->call, HPL_ACCESS_DENIED, "the customer key is not the one that this upload was created with");
}

static enum hpl_status complete(struct hpl_s3_request *request, struct completion *completion)
{
    const char *id = hpl_s3_parameter(request, "uploadId");
    HPL_TRY(hpl_s3_write_conditions(request, &completion->must_be_new));
    HPL_TRY(hpl_store_get_upload(request->call, request->s3->store, id, request->bucket, request->key, &completion->upload));
    HPL_TRY(hpl_upload_open(request, &completion->upload, &completion->state));
    HPL_TRY(check_sse(request, completion));
    HPL_TRY(hpl_xml_read(request->call, hpl_http_whole_body(request->exchange), "CompleteMultipartUpload", take_element, completion));
    if (completion->num_wanted == 0)
        return HPL_MALFORMED_XML;
    completion->kept = (struct hpl_kept_parts){.request = request, .upload_id = completion->upload.id, .instance = completion->state.instance, .max = HPL_MANIFEST_MAX_PARTS};
    HPL_TRY(hpl_upload_load_parts(&completion->kept, 0));
    HPL_TRY(choose_parts(request, completion));
    HPL_TRY(check_whole(request, completion));
    HPL_TRY(make_sums(completion));
    HPL_TRY(build_object(request, completion));
    return hpl_store_put_object(request->call, request->s3->store, &completion->object, (const uint8_t (*)[HPL_FILE_ID_LEN])completion->files, completion->num_wanted, completion->upload.id,
                                completion->must_be_new);
}

/* Where the object is now, as the client sees this service. */
static void put_location(struct hpl_s3_request *request, struct hpl_buf *xml)
{
    struct hpl_buf location = {0};
    struct hpl_bytes host = hpl_http_header(request->http, "host");
    if (host.len)
        hpl_buf_printf(&location, "%s://%.*s", request->http->is_tls ? "https" : "http", (int)host.len, (const char *)host.data);
    hpl_buf_put_bytes(&location, request->http->path);
    hpl_xml_text(xml, "Location", hpl_buf_bytes(&location));
    xml->is_failed = xml->is_failed || location.is_failed;
    hpl_buf_wipe(&location);
}

static void answer_completion(struct hpl_s3_request *request, const struct completion *completion)
{
    struct hpl_buf xml = {0};
    char quoted[96];
    const char *key_id = json_string_value(json_object_get(completion->state.json, "key_id"));
    snprintf(quoted, sizeof quoted, "\"%s\"", completion->sums.etag);
    hpl_xml_start(&xml, "CompleteMultipartUploadResult");
    put_location(request, &xml);
    hpl_xml_str(&xml, "Bucket", request->bucket);
    hpl_xml_str(&xml, "Key", request->key);
    hpl_xml_str(&xml, "ETag", quoted);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (completion->sums.value[kind][0]) {
            hpl_xml_str(&xml, hpl_checksum_name(kind)->element, completion->sums.value[kind]);
            hpl_xml_str(&xml, "ChecksumType", completion->sums.is_composite ? "COMPOSITE" : "FULL_OBJECT");
        }
    hpl_xml_close(&xml, "CompleteMultipartUploadResult");
    if (completion->state.mode != HPL_MODE_SSE_C || request->sse.mode == HPL_MODE_SSE_C)
        hpl_sse_answer(request, completion->state.mode, key_id ? key_id : "", hpl_buf_bytes(&completion->state.envelope));
    hpl_s3_send_xml(request, 200, &xml);
}

enum hpl_status hpl_s3_complete_upload(struct hpl_s3_request *request)
{
    struct completion completion = {0};
    enum hpl_status status = complete(request, &completion);
    if (status == HPL_OK)
        answer_completion(request, &completion);
    completion_wipe(&completion);
    return status;
}
