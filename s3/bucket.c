/* Buckets. */
#include "s3/internal.h"

static void add_bucket(void *arg, const char *name, int64_t created_ms)
{
    struct hpl_buf *xml = arg;
    char time[40];
    hpl_time_text(time, created_ms, HPL_TIME_ISO_MS);
    hpl_xml_open(xml, "Bucket");
    hpl_xml_str(xml, "Name", name);
    hpl_xml_str(xml, "CreationDate", time);
    hpl_xml_close(xml, "Bucket");
}

enum hpl_status hpl_s3_list_buckets(struct hpl_s3_request *request)
{
    struct hpl_buf xml = {0};
    hpl_xml_start(&xml, "ListAllMyBucketsResult");
    hpl_xml_open(&xml, "Owner");
    hpl_xml_str(&xml, "ID", HPL_S3_OWNER);
    hpl_xml_str(&xml, "DisplayName", HPL_S3_OWNER);
    hpl_xml_close(&xml, "Owner");
    hpl_xml_open(&xml, "Buckets");
    enum hpl_status status = hpl_store_list_buckets(request->call, request->s3->store, add_bucket, &xml);
    hpl_xml_close(&xml, "Buckets");
    hpl_xml_close(&xml, "ListAllMyBucketsResult");
    if (status == HPL_OK)
        hpl_s3_send_xml(request, 200, &xml);
    hpl_buf_wipe(&xml);
    return status;
}

static enum hpl_status any_element(void *arg, struct hpl_call *call, const char *path, const char *text)
{
    (void)arg, (void)call, (void)path, (void)text;
    return HPL_OK; /* a location constraint is taken; there is one place */
}

enum hpl_status hpl_s3_create_bucket(struct hpl_s3_request *request)
{
    struct hpl_bytes body = hpl_http_whole_body(request->exchange);
    if (body.len)
        HPL_TRY(hpl_xml_read(request->call, body, "CreateBucketConfiguration", any_element, NULL));
    HPL_TRY(hpl_store_create_bucket(request->call, request->s3->store, request->bucket));
    hpl_http_status(request->exchange, 200);
    hpl_http_add_header(request->exchange, "Location", "/%s", request->bucket);
    hpl_http_send_empty(request->exchange);
    return HPL_OK;
}

enum hpl_status hpl_s3_head_bucket(struct hpl_s3_request *request)
{
    HPL_TRY(hpl_store_find_bucket(request->call, request->s3->store, request->bucket));
    hpl_http_status(request->exchange, 200);
    hpl_http_add_header(request->exchange, "x-amz-bucket-region", "%s", request->s3->options.region);
    hpl_http_send_empty(request->exchange);
    return HPL_OK;
}

enum hpl_status hpl_s3_delete_bucket(struct hpl_s3_request *request)
{
    HPL_TRY(hpl_store_delete_bucket(request->call, request->s3->store, request->bucket));
    hpl_s3_send_empty(request, 204);
    return HPL_OK;
}

enum hpl_status hpl_s3_location(struct hpl_s3_request *request)
{
    struct hpl_buf xml = {0};
    const char *region = request->s3->options.region;
    HPL_TRY(hpl_store_find_bucket(request->call, request->s3->store, request->bucket));
    hpl_xml_start(&xml, "LocationConstraint");
    if (strcmp(region, "us-east-1") != 0) /* S3 gives an empty one there */
        hpl_buf_put_str(&xml, region);
    hpl_xml_close(&xml, "LocationConstraint");
    hpl_s3_send_xml(request, 200, &xml);
    return HPL_OK;
}
