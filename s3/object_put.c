/* PutObject and UploadPart: bytes pass the checksums, become packages, and go into a file that nothing names yet. What is acknowledged was
 * verified, synced and committed. */
#include "s3/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "engine/seal/batch.h"
#include "http/head.h"

#define SEALED_PIECE (HPL_S3_PIECE / HPL_PACKAGE_LEN * (HPL_PACKAGE_LEN + HPL_PACKAGE_OVERHEAD))

struct hpl_put {
    enum hpl_seal_mode mode;
    uint8_t instance[16];
    struct hpl_store_file file;
    struct hpl_manifest_part part;
    struct hpl_secret *data_key;       /* data or customer key; NULL: plain */
    struct hpl_part_key *part_key;
    struct hpl_checksums sums;
    struct hpl_object object;          /* PutObject */
    bool must_be_new;                  /* If-None-Match: * */
    json_t *context, *metadata;
    struct hpl_upload upload;          /* UploadPart */
    struct hpl_upload_state upload_state;
    uint8_t *piece, *sealed;           /* up to HPL_S3_PIECE waiting, and where it is sealed */
    size_t piece_len, piece_cap;
    uint32_t next_package;
    bool is_done;                      /* the store has taken the file over */
};

void hpl_put_free(struct hpl_s3_request *request)
{
    struct hpl_put *put = request->put;
    if (!put)
        return;
    if (!put->is_done)
        hpl_store_drop_file(request->s3->store, &put->file);
    hpl_secret_free(put->data_key);
    hpl_part_key_free(put->part_key);
    hpl_checksums_wipe(&put->sums);
    hpl_object_wipe(&put->object);
    hpl_upload_wipe(&put->upload);
    hpl_upload_state_wipe(&put->upload_state);
    json_decref(put->context);
    json_decref(put->metadata);
    if (put->piece)
        hpl_wipe(put->piece, put->piece_cap);
    free(put->piece);
    free(put->sealed);
    free(put);
    request->put = NULL;
}

/* --- checksums asked for --------------------------------------------------------------------------------------------------- */

/* What a header says of a checksum, by its word or its header's name. One that is not computed here must not look as if it had been. */
static enum hpl_status note_word(struct hpl_s3_request *request, const char *header_name, unsigned *wanted, enum hpl_checksum_kind *main)
{
    struct hpl_bytes word = hpl_http_header(request->http, header_name);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (hpl_http_is_word(word, hpl_checksum_name(kind)->word) || hpl_http_is_word(word, hpl_checksum_name(kind)->header)) {
            *wanted |= 1u << kind;
            *main = kind;
            return HPL_OK;
        }
    return word.len == 0 ? HPL_OK : hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "the checksum that %s names is not implemented", header_name);
}

enum hpl_status hpl_s3_wanted_sums(struct hpl_s3_request *request, unsigned *wanted, enum hpl_checksum_kind *main)
{
    *wanted = 0;
    *main = HPL_NUM_SUMS;
    HPL_TRY(note_word(request, "x-amz-checksum-algorithm", wanted, main));
    HPL_TRY(note_word(request, "x-amz-sdk-checksum-algorithm", wanted, main));
    HPL_TRY(note_word(request, "x-amz-trailer", wanted, main));
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (hpl_http_header(request->http, hpl_checksum_name(kind)->header).data) {
            *wanted |= 1u << kind;
            *main = kind;
        }
    if (hpl_http_header(request->http, "content-md5").data)
        *wanted |= 1u << HPL_SUM_MD5;
    return HPL_OK;
}

/* What the client sent, in a header or a trailer, against what came. */
static enum hpl_status check_sums(struct hpl_s3_request *request, const struct hpl_checksums *sums)
{
    for (int kind = 0; kind < HPL_NUM_SUMS; kind++) {
        const struct hpl_checksum_name *name = hpl_checksum_name(kind);
        struct hpl_bytes sent = hpl_http_header(request->http, name->header);
        uint8_t value[32];
        if (!sent.data)
            sent = hpl_http_trailer(request->exchange, name->header);
        if (!sent.data || !(sums->wanted & 1u << kind))
            continue;
        if (!hpl_base64_decode_exact(value, name->len, (const char *)sent.data, sent.len))
            return hpl_fail(request->call, HPL_INVALID_DIGEST, "the value of %s is not %zu bytes in Base64", name->header, name->len);
        if (memcmp(value, sums->value[kind], name->len) != 0)
            return hpl_fail(request->call, HPL_BAD_DIGEST, "%s does not match the body", name->header);
    }
    return HPL_OK;
}

static void sums_text(const struct hpl_put *put, struct hpl_sums_text *out)
{
    uint8_t random[16];
    const uint8_t *etag = put->sums.value[HPL_SUM_MD5];
    *out = (struct hpl_sums_text){0};
    if (put->mode == HPL_MODE_SSE_KMS || put->mode == HPL_MODE_SSE_C) { /* tells nothing of the plaintext */
        HPL_CHECK(RAND_bytes(random, sizeof random) == 1);
        etag = random;
    }
    hpl_hex_encode(out->etag, etag, 16);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++) {
        struct hpl_buf text = {0};
        if (!(put->sums.wanted & 1u << kind))
            continue;
        hpl_base64_put(&text, put->sums.value[kind], hpl_checksum_name(kind)->len);
        snprintf(out->value[kind], sizeof out->value[kind], "%.*s", (int)text.len, (const char *)text.data);
        hpl_buf_wipe(&text);
    }
}

void hpl_s3_sums_answer(struct hpl_s3_request *request, const struct hpl_sums_text *sums)
{
    bool has_sum = false;
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (sums->value[kind][0]) {
            hpl_http_add_header(request->exchange, hpl_checksum_name(kind)->header, "%s", sums->value[kind]);
            has_sum = true;
        }
    if (has_sum)
        hpl_http_add_header(request->exchange, "x-amz-checksum-type", "%s", sums->is_composite ? "COMPOSITE" : "FULL_OBJECT");
}

/* --- the pipeline ---------------------------------------------------------------------------------------------------------- */

static enum hpl_status check_length(struct hpl_s3_request *request, int64_t *len)
{
    *len = hpl_http_decoded_length(request->exchange);
    if (*len < 0)
        return HPL_LENGTH_REQUIRED;
    return (uint64_t)*len > HPL_S3_MAX_PART ? HPL_TOO_LARGE : HPL_OK;
}

/* The part's own key out of the data key, and the buffers that its bytes are sealed in. */
static enum hpl_status open_seal(struct hpl_s3_request *request, int64_t len)
{
    struct hpl_put *put = request->put;
    const struct hpl_part_id id = {hpl_bytes_str(request->bucket), hpl_bytes_str(request->key), put->instance, put->part.number};
    if (RAND_bytes(put->part.salt, sizeof put->part.salt) != 1)
        return hpl_fail(request->call, HPL_INTERNAL, "no random numbers");
    HPL_TRY(hpl_part_key_new(request->call, &put->part_key, put->data_key, put->part.salt, &id));
    memcpy(put->part.commitment, hpl_part_key_commitment(put->part_key), sizeof put->part.commitment);
    put->piece_cap = (uint64_t)len < HPL_S3_PIECE ? (size_t)len : HPL_S3_PIECE;
    put->piece = malloc(put->piece_cap ? put->piece_cap : 1);
    put->sealed = malloc(SEALED_PIECE < hpl_sealed_len((uint64_t)len) + 1 ? SEALED_PIECE : hpl_sealed_len((uint64_t)len) + 1);
    return put->piece && put->sealed ? HPL_OK : hpl_fail(request->call, HPL_NO_MEMORY, "out of memory");
}

/* Buffers, checksums, keys of one part, and its file. */
static enum hpl_status open_pipeline(struct hpl_s3_request *request, uint32_t part_number, int64_t len)
{
    struct hpl_put *put = request->put;
    unsigned wanted;
    enum hpl_checksum_kind main;
    HPL_CHECK((put->mode == HPL_MODE_PLAIN) == !put->data_key); /* only what nobody asked to be encrypted goes into the file as it comes */
    HPL_TRY(hpl_s3_wanted_sums(request, &wanted, &main));
    if (put->mode == HPL_MODE_PLAIN || put->mode == HPL_MODE_SSE_S3)
        wanted |= 1u << HPL_SUM_MD5;
    if (put->upload_state.json) { /* the whole's checksum is made of the parts', whether the client sends them or not */
        bool is_composite;
        enum hpl_checksum_kind kind = hpl_upload_sum(&put->upload_state, &is_composite);
        wanted |= kind == HPL_NUM_SUMS ? 0 : 1u << kind;
    }
    HPL_TRY(hpl_checksums_init(&put->sums, wanted));
    put->part.number = part_number;
    if (put->data_key)
        HPL_TRY(open_seal(request, len));
    return hpl_store_create_file(request->call, request->s3->store, &put->file);
}

static enum hpl_status flush(struct hpl_s3_request *request, bool is_last)
{
    struct hpl_put *put = request->put;
    if (put->piece_len == 0)
        return HPL_OK;
    size_t len = hpl_packages_seal_all(request->s3->options.work, put->part_key, put->next_package, is_last, put->piece, put->piece_len, put->sealed);
    put->next_package += hpl_num_packages(put->piece_len);
    put->piece_len = 0;
    return hpl_store_append(request->call, &put->file, put->sealed, len);
}

enum hpl_status hpl_s3_put_body(struct hpl_s3_request *request, const uint8_t *data, size_t len)
{
    struct hpl_put *put = request->put;
    hpl_checksums_update(&put->sums, data, len);
    put->part.len += len;
    if (!put->part_key)
        return hpl_store_append(request->call, &put->file, data, len);
    while (len) {
        if (put->piece_len == put->piece_cap) /* full, and more is there: so it is not the last */
            HPL_TRY(flush(request, false));
        size_t n = put->piece_cap - put->piece_len < len ? put->piece_cap - put->piece_len : len;
        HPL_CHECK(n > 0);
        memcpy(put->piece + put->piece_len, data, n);
        put->piece_len += n;
        data += n;
        len -= n;
    }
    return HPL_OK;
}

/* The body was right: the rest is sealed, checksums compared, the file made to last. */
static enum hpl_status close_pipeline(struct hpl_s3_request *request, struct hpl_sums_text *text)
{
    struct hpl_put *put = request->put;
    hpl_checksums_final(&put->sums);
    HPL_TRY(check_sums(request, &put->sums));
    if (put->part_key)
        HPL_TRY(flush(request, true));
    sums_text(put, text);
    return hpl_store_finish_file(request->call, request->s3->store, &put->file);
}

static enum hpl_status new_put(struct hpl_s3_request *request)
{
    request->put = calloc(1, sizeof *request->put);
    if (!request->put)
        return hpl_fail(request->call, HPL_NO_MEMORY, "out of memory");
    request->put->file.fd = -1;
    return HPL_OK;
}

/* --- PutObject ------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_s3_write_conditions(struct hpl_s3_request *request, bool *must_be_new)
{
    struct hpl_bytes none = hpl_http_header(request->http, "if-none-match");
    *must_be_new = none.data != NULL;
    if (hpl_http_header(request->http, "if-match").data)
        return hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "If-Match on a write is not implemented");
    if (none.data && !hpl_bytes_equal(none, hpl_bytes_str("*")))
        return hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "If-None-Match on a write takes * only");
    return HPL_OK;
}

/* Spares the body where the answer is known before it; the store decides when the object is put. */
static enum hpl_status check_is_new(struct hpl_s3_request *request)
{
    struct hpl_object old;
    enum hpl_status status = hpl_store_get_object(request->call, request->s3->store, request->bucket, request->key, false, &old, NULL, NULL);
    hpl_object_wipe(&old);
    return status == HPL_NO_SUCH_OBJECT ? HPL_OK : status == HPL_OK ? HPL_PRECONDITION_FAILED : status;
}

enum hpl_status hpl_s3_put_begin(struct hpl_s3_request *request)
{
    int64_t len;
    if (hpl_s3_parameter(request, "partNumber"))
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "a part needs the 'uploadId' that it belongs to");
    HPL_TRY(check_length(request, &len));
    HPL_TRY(hpl_sse_read(request));
    HPL_TRY(hpl_store_find_bucket(request->call, request->s3->store, request->bucket));
    HPL_TRY(new_put(request));
    struct hpl_put *put = request->put;
    put->mode = request->sse.mode;
    HPL_TRY(hpl_s3_write_conditions(request, &put->must_be_new));
    if (put->must_be_new)
        HPL_TRY(check_is_new(request));
    if (RAND_bytes(put->instance, sizeof put->instance) != 1)
        return hpl_fail(request->call, HPL_INTERNAL, "no random numbers");
    HPL_TRY(hpl_object_metadata(request, &put->metadata));
    HPL_TRY(hpl_object_context(request->call, request->sse.context, request->bucket, request->key, &put->context));
    if (put->mode == HPL_MODE_SSE_C)
        HPL_TRY(hpl_sse_data_key(request, &put->data_key));
    else if (put->mode != HPL_MODE_PLAIN)
        HPL_TRY(hpl_object_generate(request, put->context, &put->data_key, &put->object.envelope, &put->object.ref));
    put->object.has_ref = put->object.envelope.len > 0;
    if (put->object.has_ref)
        json_object_set_new(put->metadata, HPL_KEY_ID_NAME, json_string(request->sse.key_id[0] ? request->sse.key_id : put->object.ref.key_id));
    return open_pipeline(request, 1, len);
}

static enum hpl_status build_object(struct hpl_s3_request *request, const struct hpl_sums_text *text)
{
    struct hpl_put *put = request->put;
    struct hpl_buf sealed = {0};
    struct hpl_secret *HPL_SECRET_AUTO manifest_key = NULL;
    json_t *HPL_JSON_AUTO sums = hpl_sums_json(text);
    struct hpl_manifest manifest = {.mode = put->mode, .bucket = hpl_bytes_str(request->bucket), .key = hpl_bytes_str(request->key),
                                    .modified_ms = hpl_clock_unix_ms(), .size = put->part.len, .parts = &put->part, .num_parts = 1};
    memcpy(manifest.instance, put->instance, sizeof manifest.instance);
    enum hpl_status status = hpl_object_pairs(put->context, &manifest.context, &manifest.num_context);
    if (status == HPL_OK)
        status = hpl_object_pairs(put->metadata, &manifest.metadata, &manifest.num_metadata);
    if (status == HPL_OK)
        status = hpl_object_seal_json(request->s3, request->call, put->instance, "object", sums, &sealed);
    if (status == HPL_OK)
        status = hpl_manifest_key_new(request->call, &manifest_key, put->data_key ? put->data_key : request->s3->options.root, put->instance);
    manifest.sealed = hpl_buf_bytes(&sealed);
    if (status == HPL_OK)
        status = hpl_object_close(request->call, &manifest, manifest_key, &put->object.manifest);
    put->object.size = put->part.len;
    put->object.modified_ms = manifest.modified_ms;
    memcpy(put->object.bucket, request->bucket, sizeof put->object.bucket);
    memcpy(put->object.key, request->key, sizeof put->object.key);
    memcpy(put->object.instance, put->instance, sizeof put->object.instance);
    free(manifest.context);
    free(manifest.metadata);
    hpl_buf_wipe(&sealed);
    return status;
}

static enum hpl_status make_visible(struct hpl_s3_request *request)
{
    struct hpl_put *put = request->put;
    struct hpl_kms *kms = request->s3->options.kms;
    if (put->object.has_ref)
        HPL_TRY(hpl_kms_begin_store(kms, request->call, &put->object.ref));
    enum hpl_status status =
        hpl_store_put_object(request->call, request->s3->store, &put->object, (const uint8_t (*)[HPL_FILE_ID_LEN])&put->file.id, 1, NULL, put->must_be_new);
    if (put->object.has_ref)
        hpl_kms_end_store(kms);
    put->is_done = status == HPL_OK;
    return status;
}

enum hpl_status hpl_s3_put_end(struct hpl_s3_request *request)
{
    struct hpl_put *put = request->put;
    struct hpl_sums_text text;
    char key_id[HPL_KEY_ID_MAX + 1] = "";
    HPL_TRY(close_pipeline(request, &text));
    HPL_TRY(build_object(request, &text));
    HPL_TRY(make_visible(request));
    hpl_http_status(request->exchange, 200);
    hpl_http_add_header(request->exchange, "ETag", "\"%s\"", text.etag);
    hpl_s3_sums_answer(request, &text);
    if (put->object.has_ref)
        snprintf(key_id, sizeof key_id, "%s", request->sse.key_id[0] ? request->sse.key_id : put->object.ref.key_id);
    hpl_sse_answer(request, put->mode, key_id, hpl_buf_bytes(&put->object.envelope));
    hpl_http_send_empty(request->exchange);
    return HPL_OK;
}

/* --- UploadPart ------------------------------------------------------------------------------------------------------------ */

/* The key that the upload's parts are sealed under: from the customer or the key service; checked against the upload's own. */
static enum hpl_status upload_data_key(struct hpl_s3_request *request)
{
    struct hpl_put *put = request->put;
    struct hpl_secret *HPL_SECRET_AUTO manifest_key = NULL;
    struct hpl_manifest manifest = {0};
    if (put->mode == HPL_MODE_PLAIN)
        return HPL_OK;
    if (put->mode == HPL_MODE_SSE_C) {
        HPL_TRY(hpl_sse_data_key(request, &put->data_key));
    } else {
        HPL_TRY(hpl_object_pairs(json_object_get(put->upload_state.json, "context"), &manifest.context, &manifest.num_context));
        enum hpl_status status = hpl_object_decrypt(request, hpl_buf_bytes(&put->upload_state.envelope), &manifest, &put->data_key);
        free(manifest.context);
        HPL_TRY(status);
    }
    HPL_TRY(hpl_manifest_key_new(request->call, &manifest_key, put->data_key, put->instance));
    if (!hpl_equal_secret(manifest_key->bytes, put->upload_state.manifest_key->bytes, manifest_key->len))
        return put->mode == HPL_MODE_SSE_C ? hpl_fail(request->call, HPL_ACCESS_DENIED, "the customer key is not the one that this upload was created with")
                                           : hpl_fail(request->call, HPL_INTEGRITY, "the upload's key does not fit its record");
    return HPL_OK;
}

enum hpl_status hpl_s3_part_begin(struct hpl_s3_request *request)
{
    int64_t len, number;
    const char *id = hpl_s3_parameter(request, "uploadId");
    HPL_TRY(check_length(request, &len));
    HPL_TRY(hpl_s3_number(request, "partNumber", 1, HPL_MANIFEST_MAX_PARTS, 0, &number));
    if (number == 0)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "'partNumber' must be a number from 1 to 10000");
    HPL_TRY(hpl_sse_read(request));
    HPL_TRY(new_put(request));
    struct hpl_put *put = request->put;
    HPL_TRY(hpl_store_get_upload(request->call, request->s3->store, id, request->bucket, request->key, &put->upload));
    HPL_TRY(hpl_upload_open(request, &put->upload, &put->upload_state));
    put->mode = put->upload_state.mode;
    memcpy(put->instance, put->upload_state.instance, sizeof put->instance);
    HPL_TRY(hpl_upload_check_sse(request, &put->upload_state));
    if (put->mode == HPL_MODE_SSE_C && request->sse.mode != HPL_MODE_SSE_C)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "this upload was created with a customer key: send it with every part");
    HPL_TRY(upload_data_key(request));
    return open_pipeline(request, (uint32_t)number, len);
}

static json_t *hex_json(const uint8_t *data, size_t len)
{
    char hex[2 * 32 + 1];
    hpl_hex_encode(hex, data, len);
    return json_string(hex);
}

static enum hpl_status part_state(struct hpl_s3_request *request, const struct hpl_sums_text *text, struct hpl_buf *out)
{
    const struct hpl_put *put = request->put;
    char label[64];
    json_t *HPL_JSON_AUTO state = hpl_sums_json(text);
    json_object_set_new(state, "len", json_integer((json_int_t)put->part.len));
    json_object_set_new(state, "salt", hex_json(put->part.salt, sizeof put->part.salt));
    json_object_set_new(state, "commitment", hex_json(put->part.commitment, sizeof put->part.commitment));
    json_object_set_new(state, "file", hex_json(put->file.id, sizeof put->file.id));
    hpl_part_label(label, put->upload.id, put->part.number);
    return hpl_object_seal_json(request->s3, request->call, put->instance, label, state, out);
}

enum hpl_status hpl_s3_part_end(struct hpl_s3_request *request)
{
    struct hpl_put *put = request->put;
    struct hpl_sums_text text;
    const char *key_id = json_string_value(json_object_get(put->upload_state.json, "key_id"));
    struct hpl_upload_part part = {.number = put->part.number, .modified_ms = hpl_clock_unix_ms()};
    HPL_TRY(close_pipeline(request, &text));
    memcpy(part.file, put->file.id, sizeof part.file);
    enum hpl_status status = part_state(request, &text, &part.state);
    if (status == HPL_OK)
        status = hpl_store_put_part(request->call, request->s3->store, put->upload.id, &part);
    hpl_buf_wipe(&part.state);
    HPL_TRY(status);
    put->is_done = true;
    hpl_http_status(request->exchange, 200);
    hpl_http_add_header(request->exchange, "ETag", "\"%s\"", text.etag);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (text.value[kind][0])
            hpl_http_add_header(request->exchange, hpl_checksum_name(kind)->header, "%s", text.value[kind]);
    hpl_sse_answer(request, put->mode, key_id ? key_id : "", hpl_buf_bytes(&put->upload_state.envelope));
    hpl_http_send_empty(request->exchange);
    return HPL_OK;
}
