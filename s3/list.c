/* ListObjects, both versions. */
#include "s3/internal.h"

#include <stdio.h>
#include <stdlib.h>

struct listing {
    struct hpl_s3_request *request;
    const char *prefix, *delimiter, *marker;
    bool is_url, has_owner, is_truncated;
    int64_t max_keys, count;
    struct hpl_buf contents, prefixes;
    char last_prefix[HPL_OBJECT_KEY_MAX + 1]; /* the common prefix given last */
    char next[HPL_OBJECT_KEY_MAX + 2];        /* behind what was given last */
};

static void put_name(const struct listing *listing, struct hpl_buf *xml, const char *element, const char *text)
{
    struct hpl_buf encoded = {0};
    if (listing->is_url)
        hpl_uri_put(&encoded, hpl_bytes_str(text), true);
    hpl_xml_text(xml, element, listing->is_url ? hpl_buf_bytes(&encoded) : hpl_bytes_str(text));
    hpl_buf_wipe(&encoded);
}

static void etag_of(const struct listing *listing, const struct hpl_object *object, struct hpl_sums_text *sums)
{
    struct hpl_manifest manifest = {0};
    struct hpl_call quiet = {0};
    json_t *HPL_JSON_AUTO value = NULL;
    *sums = (struct hpl_sums_text){0};
    if (hpl_object_peek(&quiet, object, &manifest) == HPL_OK &&
        hpl_object_open_json(listing->request->s3, &quiet, manifest.instance, "object", manifest.sealed, &value) == HPL_OK)
        hpl_sums_read(value, sums);
    hpl_manifest_wipe(&manifest);
}

static void add_object(struct listing *listing, const struct hpl_object *object)
{
    struct hpl_sums_text sums;
    char time[40], quoted[96];
    struct hpl_buf *xml = &listing->contents;
    etag_of(listing, object, &sums);
    hpl_time_text(time, object->modified_ms, HPL_TIME_ISO_MS);
    snprintf(quoted, sizeof quoted, "\"%s\"", sums.etag);
    hpl_xml_open(xml, "Contents");
    put_name(listing, xml, "Key", object->key);
    hpl_xml_str(xml, "LastModified", time);
    hpl_xml_str(xml, "ETag", quoted);
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (sums.value[kind][0])
            hpl_xml_str(xml, "ChecksumAlgorithm", hpl_checksum_name(kind)->word);
    hpl_xml_int(xml, "Size", (int64_t)object->size);
    if (listing->has_owner)
        hpl_s3_put_owner(xml, "Owner");
    hpl_xml_str(xml, "StorageClass", "STANDARD");
    hpl_xml_close(xml, "Contents");
}

/* The common prefix that a key belongs to, in out; false when it stands for itself. */
static bool common_prefix(const struct listing *listing, const char *key, char out[static HPL_OBJECT_KEY_MAX + 1])
{
    const char *found = *listing->delimiter ? strstr(key + strlen(listing->prefix), listing->delimiter) : NULL;
    if (!found)
        return false;
    snprintf(out, HPL_OBJECT_KEY_MAX + 1, "%.*s", (int)((size_t)(found - key) + strlen(listing->delimiter)), key);
    return true;
}

/* 0xff is no byte of UTF-8, so this stands behind every key that starts with the prefix. */
static void behind(const char *prefix, char out[static HPL_OBJECT_KEY_MAX + 2])
{
    snprintf(out, HPL_OBJECT_KEY_MAX + 2, "%s\xff", prefix);
}

static bool take(void *arg, const struct hpl_object *object, char *skip_to)
{
    struct listing *listing = arg;
    char prefix[HPL_OBJECT_KEY_MAX + 1];
    bool is_group = common_prefix(listing, object->key, prefix);
    if (is_group && strcmp(prefix, listing->marker) <= 0 && strncmp(listing->marker, prefix, strlen(prefix)) == 0) {
        behind(prefix, skip_to); /* a version 1 marker that names the group itself */
        return true;
    }
    if (listing->count == listing->max_keys) {
        listing->is_truncated = true;
        return false;
    }
    listing->count++;
    if (is_group) {
        hpl_xml_open(&listing->prefixes, "CommonPrefixes");
        put_name(listing, &listing->prefixes, "Prefix", prefix);
        hpl_xml_close(&listing->prefixes, "CommonPrefixes");
        snprintf(listing->last_prefix, sizeof listing->last_prefix, "%s", prefix);
        behind(prefix, listing->next);
        behind(prefix, skip_to);
    } else {
        listing->last_prefix[0] = '\0';
        add_object(listing, object);
        snprintf(listing->next, sizeof listing->next, "%s", object->key);
    }
    return true;
}

static const char *or_empty(const char *text)
{
    return text ? text : "";
}

static enum hpl_status read_common(struct hpl_s3_request *request, struct listing *listing)
{
    const char *encoding = or_empty(hpl_s3_parameter(request, "encoding-type"));
    *listing = (struct listing){.request = request, .prefix = or_empty(hpl_s3_parameter(request, "prefix")),
                                .delimiter = or_empty(hpl_s3_parameter(request, "delimiter")), .marker = "", .is_url = strcmp(encoding, "url") == 0};
    if (*encoding && !listing->is_url)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "'encoding-type' must be url");
    if (strlen(listing->prefix) > HPL_OBJECT_KEY_MAX)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "'prefix' is longer than any key");
    HPL_TRY(hpl_s3_number(request, "max-keys", 0, HPL_S3_MAX_ASKED, HPL_S3_PAGE, &listing->max_keys));
    if (listing->max_keys > HPL_S3_PAGE)
        listing->max_keys = HPL_S3_PAGE;
    return HPL_OK;
}

static enum hpl_status run(struct hpl_s3_request *request, struct listing *listing, const char *after)
{
    if (strlen(after) > HPL_OBJECT_KEY_MAX + 1)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the place to go on from is longer than any key");
    if (listing->max_keys == 0)
        return hpl_store_find_bucket(request->call, request->s3->store, request->bucket);
    return hpl_store_list_objects(request->call, request->s3->store, request->bucket, listing->prefix, *after ? after : NULL, take, listing);
}

static void put_common(const struct hpl_s3_request *request, const struct listing *listing, struct hpl_buf *xml)
{
    hpl_xml_start(xml, "ListBucketResult");
    hpl_xml_str(xml, "Name", request->bucket);
    put_name(listing, xml, "Prefix", listing->prefix);
    if (*listing->delimiter)
        put_name(listing, xml, "Delimiter", listing->delimiter);
    hpl_xml_int(xml, "MaxKeys", listing->max_keys);
    if (listing->is_url)
        hpl_xml_str(xml, "EncodingType", "url");
    hpl_xml_str(xml, "IsTruncated", listing->is_truncated ? "true" : "false");
}

static void finish(struct hpl_s3_request *request, struct listing *listing, struct hpl_buf *xml)
{
    hpl_buf_put_bytes(xml, hpl_buf_bytes(&listing->contents));
    hpl_buf_put_bytes(xml, hpl_buf_bytes(&listing->prefixes));
    xml->is_failed = xml->is_failed || listing->contents.is_failed || listing->prefixes.is_failed;
    hpl_xml_close(xml, "ListBucketResult");
    hpl_s3_send_xml(request, 200, xml);
}

static void wipe(struct listing *listing)
{
    hpl_buf_wipe(&listing->contents);
    hpl_buf_wipe(&listing->prefixes);
}

enum hpl_status hpl_s3_list_v1(struct hpl_s3_request *request)
{
    struct listing listing;
    struct hpl_buf xml = {0};
    HPL_TRY(read_common(request, &listing));
    listing.has_owner = true;
    listing.marker = or_empty(hpl_s3_parameter(request, "marker"));
    enum hpl_status status = run(request, &listing, listing.marker);
    if (status == HPL_OK) {
        put_common(request, &listing, &xml);
        put_name(&listing, &xml, "Marker", listing.marker);
        if (listing.is_truncated)
            put_name(&listing, &xml, "NextMarker", listing.last_prefix[0] ? listing.last_prefix : listing.next);
        finish(request, &listing, &xml);
    }
    wipe(&listing);
    return status;
}

/* A token is the Base64 of what to go on behind. */
static enum hpl_status read_token(struct hpl_s3_request *request, const char *token, char after[static HPL_OBJECT_KEY_MAX + 2])
{
    struct hpl_buf decoded = {.max = HPL_OBJECT_KEY_MAX + 1};
    bool is_right = hpl_base64_decode(&decoded, token, strlen(token)) && decoded.len && !memchr(decoded.data, '\0', decoded.len);
    snprintf(after, HPL_OBJECT_KEY_MAX + 2, "%.*s", (int)(is_right ? decoded.len : 0), decoded.data ? (const char *)decoded.data : "");
    hpl_buf_wipe(&decoded);
    return is_right ? HPL_OK : hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the continuation token is not one of this service");
}

enum hpl_status hpl_s3_list_v2(struct hpl_s3_request *request)
{
    struct listing listing;
    struct hpl_buf xml = {0}, token = {0};
    char after[HPL_OBJECT_KEY_MAX + 2];
    const char *sent = hpl_s3_parameter(request, "continuation-token"), *start_after = or_empty(hpl_s3_parameter(request, "start-after"));
    HPL_TRY(read_common(request, &listing));
    if (strcmp(or_empty(hpl_s3_parameter(request, "list-type")), "2") != 0)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "'list-type' must be 2");
    listing.has_owner = strcmp(or_empty(hpl_s3_parameter(request, "fetch-owner")), "true") == 0;
    bool has_token = sent && *sent; /* an empty one is the beginning */
    if (has_token)
        HPL_TRY(read_token(request, sent, after));
    enum hpl_status status = run(request, &listing, has_token ? after : start_after);
    if (status == HPL_OK) {
        put_common(request, &listing, &xml);
        hpl_xml_int(&xml, "KeyCount", listing.count);
        if (sent)
            hpl_xml_str(&xml, "ContinuationToken", sent);
        if (*start_after)
            put_name(&listing, &xml, "StartAfter", start_after);
        if (listing.is_truncated) {
            hpl_base64_put(&token, listing.next, strlen(listing.next));
            hpl_xml_text(&xml, "NextContinuationToken", hpl_buf_bytes(&token));
        }
        finish(request, &listing, &xml);
    }
    hpl_buf_wipe(&token);
    wipe(&listing);
    return status;
}
