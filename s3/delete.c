/* DeleteObject and DeleteObjects. */
#include "s3/internal.h"

#include <stdio.h>

#define MAX_DELETES 1000u

enum hpl_status hpl_s3_delete_object(struct hpl_s3_request *request)
{
    if (hpl_http_header(request->http, "if-match").data)
        return hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "If-Match on a deletion is not implemented");
    HPL_TRY(hpl_store_delete_object(request->call, request->s3->store, request->bucket, request->key));
    hpl_s3_send_empty(request, 204);
    return HPL_OK;
}

struct deletion {
    json_t *keys;
    bool is_quiet, has_key;
};

static enum hpl_status take_element(void *arg, struct hpl_call *call, const char *path, const char *text)
{
    struct deletion *deletion = arg;
    if (strcmp(path, "Quiet") == 0)
        deletion->is_quiet = strcmp(text, "true") == 0;
    else if (strcmp(path, "Object/Key") == 0) {
        if (deletion->has_key || !*text)
            return HPL_MALFORMED_XML;
        deletion->has_key = true;
        json_array_append_new(deletion->keys, json_string(text));
    } else if (strcmp(path, "Object/VersionId") == 0 && *text && strcmp(text, "null") != 0)
        return hpl_fail(call, HPL_NOT_IMPLEMENTED, "versions of objects are not implemented");
    else if (strcmp(path, "Object/ETag") == 0 || strcmp(path, "Object/LastModifiedTime") == 0 || strcmp(path, "Object/Size") == 0)
        return hpl_fail(call, HPL_NOT_IMPLEMENTED, "conditions on deletions are not implemented");
    else if (strcmp(path, "Object") == 0) {
        if (!deletion->has_key || json_array_size(deletion->keys) > MAX_DELETES)
            return HPL_MALFORMED_XML;
        deletion->has_key = false;
    }
    return HPL_OK;
}

static void delete_one(struct hpl_s3_request *request, const char *key, bool is_quiet, struct hpl_buf *xml)
{
    struct hpl_call call = {0};
    enum hpl_status status = strlen(key) > HPL_OBJECT_KEY_MAX ? HPL_KEY_TOO_LONG : hpl_store_delete_object(&call, request->s3->store, request->bucket, key);
    if (status == HPL_OK && is_quiet)
        return;
    hpl_xml_open(xml, status == HPL_OK ? "Deleted" : "Error");
    hpl_xml_str(xml, "Key", key);
    if (status != HPL_OK) {
        hpl_xml_str(xml, "Code", hpl_status_row(status)->s3_code);
        hpl_xml_str(xml, "Message", hpl_detail(&call, status));
    }
    hpl_xml_close(xml, status == HPL_OK ? "Deleted" : "Error");
}

/* The signature, Content-MD5 or one of the checksums must protect the list. */
static enum hpl_status check_protection(struct hpl_s3_request *request, struct hpl_bytes body)
{
    struct hpl_checksums sums;
    HPL_TRY(hpl_checksums_init(&sums, (1u << HPL_NUM_SUMS) - 1));
    hpl_checksums_update(&sums, body.data, body.len);
    hpl_checksums_final(&sums);
    for (int kind = 0; kind < HPL_NUM_SUMS; kind++) {
        const struct hpl_checksum_name *name = hpl_checksum_name(kind);
        struct hpl_bytes sent = hpl_http_header(request->http, name->header);
        uint8_t value[32];
        if (!sent.data)
            sent = hpl_http_trailer(request->exchange, name->header);
        if (!sent.data)
            continue;
        if (!hpl_base64_decode_exact(value, name->len, (const char *)sent.data, sent.len))
            return HPL_INVALID_DIGEST;
        return memcmp(value, sums.value[kind], name->len) == 0 ? HPL_OK : HPL_BAD_DIGEST;
    }
    return request->is_body_signed ? HPL_OK : hpl_fail(request->call, HPL_INVALID_REQUEST, "Content-MD5 or a checksum is needed, since the signature does not cover the body");
}

enum hpl_status hpl_s3_delete_objects(struct hpl_s3_request *request)
{
    struct hpl_bytes body = hpl_http_whole_body(request->exchange);
    json_t *HPL_JSON_AUTO keys = json_array();
    struct deletion deletion = {.keys = keys};
    struct hpl_buf xml = {0};
    size_t i;
    json_t *key;
    HPL_TRY(check_protection(request, body));
    HPL_TRY(hpl_xml_read(request->call, body, "Delete", take_element, &deletion));
    if (json_array_size(keys) == 0)
        return HPL_MALFORMED_XML;
    HPL_TRY(hpl_store_find_bucket(request->call, request->s3->store, request->bucket));
    hpl_xml_start(&xml, "DeleteResult");
    json_array_foreach(keys, i, key)
        delete_one(request, json_string_value(key), deletion.is_quiet, &xml);
    hpl_xml_close(&xml, "DeleteResult");
    hpl_s3_send_xml(request, 200, &xml);
    return HPL_OK;
}
