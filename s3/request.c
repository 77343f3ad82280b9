/* A request's names and parameters, decoded and checked once. */
#include "s3/internal.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

static bool is_bucket_name(const char *name)
{
    size_t len = strlen(name);
    if (len < 3 || len > HPL_BUCKET_MAX || !isalnum((unsigned char)name[0]) || !isalnum((unsigned char)name[len - 1]) || strstr(name, ".."))
        return false;
    if (strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789.-") != len || strstr(name, ".-") || strstr(name, "-."))
        return false;
    return strspn(name, "0123456789.") != len || !strchr(name, '.'); /* nothing that looks like an address */
}

static bool is_reserved(const char *name)
{
    return strcmp(name, "rustfs") == 0 || strcmp(name, "minio") == 0 || strcmp(name, "hardplate") == 0;
}

/* "/bucket/key" decoded. Both may be missing. */
static enum hpl_status parse_path(struct hpl_s3_request *request, struct hpl_bytes path)
{
    struct hpl_buf decoded = {0};
    if (!hpl_uri_decode(&decoded, hpl_bytes(path.data + 1, path.len - 1), false) || (decoded.len && memchr(decoded.data, '\0', decoded.len)) ||
        !hpl_utf8_is_valid(hpl_buf_bytes(&decoded))) {
        hpl_buf_wipe(&decoded);
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the path is not percent-encoded UTF-8");
    }
    char *text = hpl_buf_text(&decoded), *slash = text ? strchr(text, '/') : NULL;
    enum hpl_status status = text ? HPL_OK : HPL_NO_MEMORY;
    if (slash)
        *slash++ = '\0';
    if (status == HPL_OK && (*text || slash) && (!is_bucket_name(text) || is_reserved(text)))
        status = hpl_fail(request->call, HPL_INVALID_BUCKET_NAME, is_reserved(text) ? "this bucket name is reserved" : "the bucket name is not valid");
    if (status == HPL_OK && *text)
        memcpy(request->bucket, text, strlen(text) + 1);
    if (status == HPL_OK && slash && strlen(slash) > HPL_OBJECT_KEY_MAX)
        status = HPL_KEY_TOO_LONG;
    if (status == HPL_OK && slash)
        memcpy(request->key, slash, strlen(slash) + 1);
    hpl_buf_wipe(&decoded);
    return status;
}

static char *decode_text(struct hpl_bytes raw)
{
    struct hpl_buf decoded = {0};
    char *text = NULL;
    if (hpl_uri_decode(&decoded, raw, true) && !(decoded.len && memchr(decoded.data, '\0', decoded.len)) && hpl_utf8_is_valid(hpl_buf_bytes(&decoded)))
        text = hpl_strndup(hpl_buf_bytes(&decoded));
    hpl_buf_wipe(&decoded);
    return text;
}

static enum hpl_status parse_query(struct hpl_s3_request *request, struct hpl_bytes query)
{
    while (query.len) {
        const uint8_t *end = memchr(query.data, '&', query.len);
        struct hpl_bytes pair = {query.data, end ? (size_t)(end - query.data) : query.len};
        query = end ? hpl_bytes(end + 1, query.len - pair.len - 1) : hpl_bytes(NULL, 0);
        if (pair.len == 0)
            continue;
        if (request->num_parameters == HPL_S3_MAX_PARAMETERS)
            return hpl_fail(request->call, HPL_INVALID_REQUEST, "the query has more than %u parameters", HPL_S3_MAX_PARAMETERS);
        const uint8_t *equals = memchr(pair.data, '=', pair.len);
        size_t name_len = equals ? (size_t)(equals - pair.data) : pair.len;
        struct hpl_s3_parameter *parameter = &request->parameters[request->num_parameters++];
        parameter->name = decode_text(hpl_bytes(pair.data, name_len));
        parameter->value = decode_text(equals ? hpl_bytes(equals + 1, pair.len - name_len - 1) : hpl_bytes("", 0));
        if (!parameter->name || !parameter->value)
            return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the query is not percent-encoded UTF-8");
    }
    return HPL_OK;
}

enum hpl_status hpl_s3_parse(struct hpl_s3_request *request)
{
    HPL_TRY(parse_query(request, request->http->query));
    return parse_path(request, request->http->path);
}

void hpl_s3_request_free(struct hpl_s3_request *request)
{
    if (!request)
        return;
    hpl_put_free(request);
    hpl_get_free(request);
    hpl_sse_wipe(&request->sse);
    for (size_t i = 0; i < request->num_parameters; i++) {
        free(request->parameters[i].name);
        free(request->parameters[i].value);
    }
    free(request);
}

const char *hpl_s3_parameter(const struct hpl_s3_request *request, const char *name)
{
    for (size_t i = 0; i < request->num_parameters; i++)
        if (request->parameters[i].name && strcmp(request->parameters[i].name, name) == 0)
            return request->parameters[i].value;
    return NULL;
}

enum hpl_status hpl_s3_number(struct hpl_s3_request *request, const char *name, int64_t least, int64_t most, int64_t fallback, int64_t *out)
{
    const char *text = hpl_s3_parameter(request, name);
    char *end;
    *out = fallback;
    if (!text || !*text)
        return HPL_OK;
    *out = strtoll(text, &end, 10);
    if (*end || !isdigit((unsigned char)*text) || strlen(text) > 12 || *out < least || *out > most)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "'%s' must be a number from %lld to %lld", name, (long long)least, (long long)most);
    return HPL_OK;
}

enum hpl_status hpl_s3_header(struct hpl_s3_request *request, const char *name, char *out, size_t size, bool *is_there)
{
    struct hpl_bytes value = hpl_http_header(request->http, name);
    *is_there = value.data != NULL;
    out[0] = '\0';
    if (value.len >= size || hpl_http_count_headers(request->http, name) > 1)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the header %s is too long or was sent twice", name);
    if (value.len)
        memcpy(out, value.data, value.len);
    out[value.len] = '\0';
    return HPL_OK;
}

void hpl_s3_put_owner(struct hpl_buf *xml, const char *element)
{
    hpl_xml_open(xml, element);
    hpl_xml_str(xml, "ID", HPL_S3_OWNER);
    hpl_xml_str(xml, "DisplayName", HPL_S3_OWNER);
    hpl_xml_close(xml, element);
}

void hpl_s3_send_xml(struct hpl_s3_request *request, int status, struct hpl_buf *xml)
{
    if (hpl_buf_check(xml) == HPL_OK) {
        hpl_http_status(request->exchange, status);
        hpl_http_send(request->exchange, "application/xml", hpl_buf_bytes(xml));
    } else
        hpl_s3_fail(request->exchange, HPL_NO_MEMORY);
    hpl_buf_wipe(xml);
}

void hpl_s3_send_empty(struct hpl_s3_request *request, int status)
{
    hpl_http_status(request->exchange, status);
    hpl_http_send_empty(request->exchange);
}
