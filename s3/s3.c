/* The S3 surface: finds the operation, checks signature and action, and answers errors. Jobs of the BULK pool. */
#include "s3/internal.h"

#include <stdlib.h>

#define MAX_XML (8u << 20) /* 10,000 parts with their checksums, or 1,000 keys of 1,024 bytes that XML writes as "&quot;" */

/* The first row that fits wins. */
static const struct hpl_s3_operation operations[] = {
    {"GET", 0, NULL, "s3:ListAllMyBuckets", HPL_BODY_NONE, hpl_s3_list_buckets, NULL},

    {"GET", 1, "location", "s3:GetBucketLocation", HPL_BODY_NONE, hpl_s3_location, NULL},
    {"GET", 1, "uploads", "s3:ListBucketMultipartUploads", HPL_BODY_NONE, hpl_s3_list_uploads, NULL},
    {"GET", 1, "list-type", "s3:ListBucket", HPL_BODY_NONE, hpl_s3_list_v2, NULL},
    {"GET", 1, NULL, "s3:ListBucket", HPL_BODY_NONE, hpl_s3_list_v1, NULL},
    {"HEAD", 1, NULL, "s3:ListBucket", HPL_BODY_NONE, hpl_s3_head_bucket, NULL},
    {"PUT", 1, NULL, "s3:CreateBucket", HPL_BODY_WHOLE, NULL, hpl_s3_create_bucket},
    {"DELETE", 1, NULL, "s3:DeleteBucket", HPL_BODY_NONE, hpl_s3_delete_bucket, NULL},
    {"POST", 1, "delete", "s3:DeleteObject", HPL_BODY_WHOLE, NULL, hpl_s3_delete_objects},

    {"GET", 2, "uploadId", "s3:ListMultipartUploadParts", HPL_BODY_NONE, hpl_s3_list_parts, NULL},
    {"PUT", 2, "uploadId", "s3:PutObject", HPL_BODY_STREAM, hpl_s3_part_begin, hpl_s3_part_end},
    {"POST", 2, "uploads", "s3:PutObject", HPL_BODY_WHOLE, NULL, hpl_s3_create_upload},
    {"POST", 2, "uploadId", "s3:PutObject", HPL_BODY_WHOLE, NULL, hpl_s3_complete_upload},
    {"DELETE", 2, "uploadId", "s3:AbortMultipartUpload", HPL_BODY_NONE, hpl_s3_abort_upload, NULL},
    {"GET", 2, NULL, "s3:GetObject", HPL_BODY_NONE, hpl_s3_get_begin, NULL},
    {"HEAD", 2, NULL, "s3:GetObject", HPL_BODY_NONE, hpl_s3_head_begin, NULL},
    {"PUT", 2, NULL, "s3:PutObject", HPL_BODY_STREAM, hpl_s3_put_begin, hpl_s3_put_end},
    {"DELETE", 2, NULL, "s3:DeleteObject", HPL_BODY_NONE, hpl_s3_delete_object, NULL},
};

/* Whether the parameter picks an operation at all; then it never goes with one that it does not pick. */
static bool is_foreign(const struct hpl_s3_request *request, const char *parameter)
{
    static const char *const picks[] = {"delete", "location", "uploadId", "uploads"};
    for (size_t i = 0; i < HPL_COUNT(picks); i++)
        if (hpl_s3_parameter(request, picks[i]) && (!parameter || strcmp(parameter, picks[i]) != 0))
            return true;
    return false;
}

/* But for the method. */
static bool fits(const struct hpl_s3_request *request, int level, const struct hpl_s3_operation *row)
{
    return row->level == level && (!row->parameter || hpl_s3_parameter(request, row->parameter));
}

static enum hpl_status not_allowed(struct hpl_s3_request *request, int level)
{
    struct hpl_buf methods = {0};
    for (size_t i = 0; i < HPL_COUNT(operations); i++)
        if (fits(request, level, &operations[i]) && !is_foreign(request, operations[i].parameter))
            hpl_http_put_method(&methods, operations[i].method);
    hpl_http_add_header_bytes(request->exchange, "Allow", hpl_buf_bytes(&methods));
    hpl_buf_wipe(&methods);
    return hpl_fail(request->call, HPL_METHOD_NOT_ALLOWED, "this method is not allowed with this path and these parameters");
}

static enum hpl_status find_operation(struct hpl_s3_request *request)
{
    int level = !request->bucket[0] ? 0 : !request->key[0] ? 1 : 2;
    HPL_TRY(hpl_s3_refuse_sub_resources(request));
    for (size_t i = 0; i < HPL_COUNT(operations); i++) {
        const struct hpl_s3_operation *row = &operations[i];
        if (fits(request, level, row) && hpl_bytes_equal(request->http->method, hpl_bytes_str(row->method))) {
            request->operation = row;
            return is_foreign(request, row->parameter) ? not_allowed(request, level) : HPL_OK;
        }
    }
    return hpl_bytes_equal(request->http->method, hpl_bytes_str("POST")) ? HPL_NOT_IMPLEMENTED : not_allowed(request, level);
}

static enum hpl_status authorise(struct hpl_s3_request *request, struct hpl_sigv4_payload *payload)
{
    const struct hpl_http_request *http = request->http;
    const struct hpl_sigv4_request signed_request = {
        .method = http->method, .path = http->path, .query = http->query, .headers = http->headers, .num_headers = http->num_headers};
    const struct hpl_sigv4_options options = {.services = "s3", .region = request->s3->options.region, .allow_presigned = true};
    HPL_TRY(hpl_sigv4_verify(request->call, request->s3->options.auth, &signed_request, &options, &request->identity, payload));
    request->is_body_signed = payload->mode != HPL_PAYLOAD_UNSIGNED && payload->mode != HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER;
    HPL_TRY(hpl_http_set_identity(request->exchange, request->identity.access_key));
    hpl_auth_set_caller(request->call, &request->identity);
    HPL_TRY(hpl_s3_parse(request));
    HPL_TRY(find_operation(request));
    HPL_TRY(hpl_auth_allows(request->call, &request->identity, request->operation->action));
    return hpl_s3_refuse_headers(request);
}

static enum hpl_status start(struct hpl_s3_request *request, struct hpl_sigv4_payload *payload)
{
    HPL_TRY(authorise(request, payload));
    const struct hpl_s3_operation *operation = request->operation;
    if (operation->begin)
        HPL_TRY(operation->begin(request));
    if (operation->body != HPL_BODY_NONE && !hpl_http_is_answered(request->exchange))
        hpl_http_expect_body(request->exchange, payload, operation->body == HPL_BODY_WHOLE ? MAX_XML : HPL_S3_MAX_PART, operation->body == HPL_BODY_WHOLE);
    return HPL_OK;
}

static void begin(struct hpl_http_exchange *exchange)
{
    struct hpl_sigv4_payload payload = {0};
    struct hpl_s3_request *request = calloc(1, sizeof *request);
    enum hpl_status status = request ? HPL_OK : HPL_NO_MEMORY;
    hpl_http_set_data(exchange, request);
    if (request) {
        *request = (struct hpl_s3_request){.s3 = hpl_http_app(exchange), .exchange = exchange, .http = hpl_http_request(exchange), .call = hpl_http_call(exchange)};
        status = start(request, &payload);
    }
    if (status != HPL_OK)
        hpl_s3_fail(exchange, status);
    hpl_sigv4_payload_wipe(&payload);
}

static void body(struct hpl_http_exchange *exchange, const uint8_t *data, size_t len)
{
    struct hpl_s3_request *request = hpl_http_data(exchange);
    enum hpl_status status = hpl_s3_put_body(request, data, len);
    if (status != HPL_OK)
        hpl_s3_fail(exchange, status);
}

static void end(struct hpl_http_exchange *exchange)
{
    struct hpl_s3_request *request = hpl_http_data(exchange);
    enum hpl_status status = request->operation->end(request);
    if (status != HPL_OK)
        hpl_s3_fail(exchange, status);
}

static enum hpl_status produce(struct hpl_http_exchange *exchange, uint8_t *to, size_t cap, size_t *len)
{
    return hpl_s3_get_produce(hpl_http_data(exchange), to, cap, len);
}

static void finish(struct hpl_http_exchange *exchange, bool is_sent)
{
    (void)is_sent;
    hpl_s3_request_free(hpl_http_data(exchange));
}

const struct hpl_http_handler hpl_s3_handler = {.name = "s3", .begin = begin, .body = body, .end = end, .produce = produce, .finish = finish};

void hpl_s3_fail(struct hpl_http_exchange *exchange, enum hpl_status status)
{
    const struct hpl_status_row *row = hpl_status_row(status);
    const struct hpl_http_request *http = hpl_http_request(exchange);
    struct hpl_call *call = hpl_http_call(exchange);
    struct hpl_buf xml = {0};
    hpl_http_status(exchange, row->s3_http);
    if (row->s3_http == 304 || row->s3_http == 204) {
        hpl_http_send_empty(exchange);
        return;
    }
    if (row->s3_http == 503)
        hpl_http_add_header(exchange, "Retry-After", "1");
    hpl_buf_put_str(&xml, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>");
    hpl_xml_str(&xml, "Code", row->s3_code);
    hpl_xml_str(&xml, "Message", hpl_detail(call, status));
    hpl_xml_text(&xml, "Resource", http->path);
    hpl_xml_str(&xml, "RequestId", call->request_id);
    hpl_xml_close(&xml, "Error");
    hpl_http_send(exchange, "application/xml", hpl_buf_bytes(&xml));
    hpl_buf_wipe(&xml);
}

enum hpl_status hpl_s3_open(struct hpl_call *call, struct hpl_s3 **out, const struct hpl_s3_options *options)
{
    struct hpl_s3 *s3 = calloc(1, sizeof *s3);
    *out = NULL;
    if (!s3)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    s3->options = *options;
    enum hpl_status status = hpl_store_open(call, &s3->store, options->data_dir);
    if (status == HPL_OK)
        *out = s3;
    else
        free(s3);
    return status;
}

void hpl_s3_close(struct hpl_s3 *s3)
{
    if (!s3)
        return;
    hpl_store_close(s3->store);
    free(s3);
}

enum hpl_status hpl_s3_census(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    return hpl_store_census(call, ((struct hpl_s3 *)arg)->store, what, count);
}
