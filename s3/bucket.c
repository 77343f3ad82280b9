/* Buckets. */
#include "s3/internal.h"

#include <stdio.h>

struct buckets {
    const char *prefix, *after; /* after: the continuation token, the name that the page before ended with */
    int64_t max, count;
    char last[HPL_BUCKET_MAX + 1];
    bool is_truncated;
    struct hpl_buf rows;
};

static void add_bucket(void *arg, const char *name, int64_t created_ms)
{
    struct buckets *buckets = arg;
    char time[40];
    if (strncmp(name, buckets->prefix, strlen(buckets->prefix)) != 0 || strcmp(name, buckets->after) <= 0)
        return;
    if (buckets->count == buckets->max) {
        buckets->is_truncated = true;
        return;
    }
    buckets->count++;
    snprintf(buckets->last, sizeof buckets->last, "%s", name);
    hpl_time_text(time, created_ms, HPL_TIME_ISO_MS);
    hpl_xml_open(&buckets->rows, "Bucket");
    hpl_xml_str(&buckets->rows, "Name", name);
    hpl_xml_str(&buckets->rows, "CreationDate", time);
    hpl_xml_close(&buckets->rows, "Bucket");
}

static void send_buckets(struct hpl_s3_request *request, const struct buckets *buckets)
{
    struct hpl_buf xml = {0};
    hpl_xml_start(&xml, "ListAllMyBucketsResult");
    hpl_s3_put_owner(&xml, "Owner");
    hpl_xml_open(&xml, "Buckets");
    hpl_buf_put_bytes(&xml, hpl_buf_bytes(&buckets->rows));
    xml.is_failed = xml.is_failed || buckets->rows.is_failed;
    hpl_xml_close(&xml, "Buckets");
    if (*buckets->prefix)
        hpl_xml_str(&xml, "Prefix", buckets->prefix);
    if (buckets->is_truncated)
        hpl_xml_str(&xml, "ContinuationToken", buckets->last);
    hpl_xml_close(&xml, "ListAllMyBucketsResult");
    hpl_s3_send_xml(request, 200, &xml);
}

enum hpl_status hpl_s3_list_buckets(struct hpl_s3_request *request)
{
    const char *prefix = hpl_s3_parameter(request, "prefix"), *after = hpl_s3_parameter(request, "continuation-token"), *region = hpl_s3_parameter(request, "bucket-region");
    struct buckets buckets = {.prefix = prefix ? prefix : "", .after = after ? after : ""};
    enum hpl_status status = HPL_OK;
    HPL_TRY(hpl_s3_number(request, "max-buckets", 1, 10000, INT64_MAX, &buckets.max));
    if (!region || !*region || strcmp(region, request->s3->options.region) == 0) /* all are in one */
        status = hpl_store_list_buckets(request->call, request->s3->store, add_bucket, &buckets);
    if (status == HPL_OK)
        send_buckets(request, &buckets);
    hpl_buf_wipe(&buckets.rows);
    return status;
}

/* Forms that S3 gives to names of its own; such a name could not be taken to S3. */
static bool is_kept_by_s3(const char *name)
{
    static const char *const starts[] = {"xn--", "sthree-", "amzn-s3-demo-"}, *const ends[] = {"-s3alias", "--ol-s3", "--x-s3", "--table-s3", ".mrap"};
    for (size_t i = 0; i < HPL_COUNT(starts); i++)
        if (strncmp(name, starts[i], strlen(starts[i])) == 0)
            return true;
    for (size_t i = 0; i < HPL_COUNT(ends); i++)
        if (strlen(name) > strlen(ends[i]) && strcmp(name + strlen(name) - strlen(ends[i]), ends[i]) == 0)
            return true;
    return false;
}

static enum hpl_status take_configuration(void *arg, struct hpl_call *call, const char *path, const char *text)
{
    const char *region = ((const struct hpl_s3_request *)arg)->s3->options.region;
    if (!*path) /* the whole: white space, or nothing */
        return HPL_OK;
    if (strcmp(path, "LocationConstraint") != 0)
        return hpl_fail(call, HPL_NOT_IMPLEMENTED, "'%.60s' of a bucket's configuration is not implemented", path);
    if (*text && strcmp(text, region) != 0)
        return hpl_fail(call, HPL_ILLEGAL_LOCATION, "the location '%.40s' is not this service's region, '%s'", text, region);
    return HPL_OK;
}

enum hpl_status hpl_s3_create_bucket(struct hpl_s3_request *request)
{
    struct hpl_bytes body = hpl_http_whole_body(request->exchange);
    if (is_kept_by_s3(request->bucket))
        return hpl_fail(request->call, HPL_INVALID_BUCKET_NAME, "S3 keeps bucket names of this form for itself");
    if (body.len)
        HPL_TRY(hpl_xml_read(request->call, body, "CreateBucketConfiguration", take_configuration, request));
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
