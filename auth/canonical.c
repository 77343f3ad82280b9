/* Canonical requests (AWS Signature Version 4, "Create a signed AWS API request"). Pure; any thread. */
#include "auth/canonical.h"

#include <stdlib.h>
#include <strings.h>

#include "base/codec.h"
#include "base/hash.h"

#define MAX_PARAMETERS 256u

int hpl_bytes_compare(struct hpl_bytes a, struct hpl_bytes b)
{
    size_t common = a.len < b.len ? a.len : b.len;
    int order = common ? memcmp(a.data, b.data, common) : 0;
    return order ? order : (a.len > b.len) - (a.len < b.len);
}

bool hpl_bytes_is_name(struct hpl_bytes a, const char *name)
{
    return a.len == strlen(name) && strncasecmp((const char *)a.data, name, a.len) == 0;
}

static struct hpl_bytes next_part(struct hpl_bytes *rest, char separator)
{
    const uint8_t *end = rest->len ? memchr(rest->data, separator, rest->len) : NULL;
    struct hpl_bytes part = {rest->data, end ? (size_t)(end - rest->data) : rest->len};
    *rest = end ? hpl_bytes(end + 1, rest->len - part.len - 1) : hpl_bytes(NULL, 0);
    return part;
}

/* --- the path ------------------------------------------------------------------------------------------------------------ */

/* S3: decoded and encoded again, so that every spelling of the same key is one; nothing else is touched. */
static bool put_s3_path(struct hpl_buf *out, struct hpl_bytes path)
{
    struct hpl_buf decoded = {0};
    bool is_right = hpl_uri_decode(&decoded, path, false);
    hpl_uri_put(out, hpl_buf_bytes(&decoded), true);
    hpl_buf_wipe(&decoded);
    return is_right;
}

static void drop_last_segment(struct hpl_buf *path)
{
    while (path->len > 1 && path->data[--path->len] != '/')
        ;
}

/* Other services: "." and "" segments away, ".." with the one before it (RFC 3986, 5.2.4), then encoded as it was sent. */
static bool put_plain_path(struct hpl_buf *out, struct hpl_bytes path)
{
    struct hpl_buf plain = {0};
    bool ends_in_slash = path.len && path.data[path.len - 1] == '/';
    while (path.len) {
        struct hpl_bytes segment = next_part(&path, '/');
        if (hpl_bytes_equal(segment, hpl_bytes_str("..")))
            drop_last_segment(&plain);
        else if (segment.len && !hpl_bytes_equal(segment, hpl_bytes_str("."))) {
            hpl_buf_put_str(&plain, plain.len == 1 ? "" : "/");
            hpl_buf_put_bytes(&plain, segment);
        }
    }
    hpl_buf_put_str(&plain, plain.len == 0 || (ends_in_slash && plain.len > 1) ? "/" : "");
    hpl_uri_put(out, hpl_buf_bytes(&plain), true);
    bool is_right = !plain.is_failed;
    hpl_buf_wipe(&plain);
    return is_right;
}

static bool put_path(struct hpl_buf *out, struct hpl_bytes path, bool is_s3)
{
    if (path.len == 0)
        path = hpl_bytes_str("/");
    if (path.data[0] != '/')
        return false;
    return is_s3 ? put_s3_path(out, path) : put_plain_path(out, path);
}

/* --- the query ----------------------------------------------------------------------------------------------------------- */

struct parameter {
    struct hpl_buf name, value; /* encoded */
};

static int compare_parameters(const void *a, const void *b)
{
    const struct parameter *x = a, *y = b;
    int order = hpl_bytes_compare(hpl_buf_bytes(&x->name), hpl_buf_bytes(&y->name));
    return order ? order : hpl_bytes_compare(hpl_buf_bytes(&x->value), hpl_buf_bytes(&y->value));
}

/* '+' is a space, as it is for whoever reads the parameters afterwards: what is signed and what is meant must be one. */
static bool normalise(struct hpl_buf *out, struct hpl_bytes raw)
{
    struct hpl_buf decoded = {0};
    bool is_right = hpl_uri_decode(&decoded, raw, true);
    hpl_uri_put(out, hpl_buf_bytes(&decoded), false);
    hpl_buf_wipe(&decoded);
    return is_right && !out->is_failed;
}

/* How many came; MAX_PARAMETERS + 1 when something was wrong with them. */
static size_t split_query(struct parameter parameters[static MAX_PARAMETERS], struct hpl_bytes query, struct hpl_bytes ignored)
{
    size_t count = 0;
    while (query.len) {
        struct hpl_bytes value = next_part(&query, '&');
        if (value.len == 0)
            continue;
        struct hpl_bytes name = next_part(&value, '=');
        if (ignored.len && hpl_bytes_equal(name, ignored))
            continue;
        if (count == MAX_PARAMETERS || !normalise(&parameters[count].name, name) || !normalise(&parameters[count].value, value))
            return MAX_PARAMETERS + 1;
        count++;
    }
    return count;
}

static bool put_query(struct hpl_buf *out, struct hpl_bytes query, struct hpl_bytes ignored)
{
    if (query.len == 0)
        return true;
    struct parameter *parameters = calloc(MAX_PARAMETERS, sizeof *parameters);
    size_t count = parameters ? split_query(parameters, query, ignored) : MAX_PARAMETERS + 1;
    bool is_right = count <= MAX_PARAMETERS;
    if (is_right)
        qsort(parameters, count, sizeof *parameters, compare_parameters);
    for (size_t i = 0; is_right && i < count; i++) {
        hpl_buf_put_str(out, i ? "&" : "");
        hpl_buf_put_bytes(out, hpl_buf_bytes(&parameters[i].name));
        hpl_buf_put_str(out, "=");
        hpl_buf_put_bytes(out, hpl_buf_bytes(&parameters[i].value));
    }
    for (size_t i = 0; parameters && i < MAX_PARAMETERS; i++) {
        hpl_buf_wipe(&parameters[i].name);
        hpl_buf_wipe(&parameters[i].value);
    }
    free(parameters);
    return is_right;
}

/* --- the headers --------------------------------------------------------------------------------------------------------- */

/* The value trimmed, runs of spaces folded to one. */
static void put_header_value(struct hpl_buf *out, struct hpl_bytes value)
{
    bool was_space = true;
    size_t start = out->len;
    for (size_t i = 0; i < value.len; i++) {
        bool is_space = value.data[i] == ' ' || value.data[i] == '\t';
        if (!is_space || !was_space)
            hpl_buf_put_u8(out, is_space ? ' ' : value.data[i]);
        was_space = is_space;
    }
    if (!out->is_failed && out->len > start && out->data[out->len - 1] == ' ')
        out->len--;
}

/* "name:value,value\n" for each signed header; false when one of them is not there. */
static bool put_headers(struct hpl_buf *out, const struct hpl_canonical *canonical)
{
    struct hpl_bytes rest = canonical->signed_headers;
    while (rest.len) {
        struct hpl_bytes name = next_part(&rest, ';');
        size_t found = 0;
        hpl_buf_put_bytes(out, name);
        hpl_buf_put_u8(out, ':');
        for (size_t i = 0; i < canonical->request->num_headers; i++) {
            const struct hpl_sigv4_header *header = &canonical->request->headers[i];
            if (header->name.len != name.len || strncasecmp((const char *)header->name.data, (const char *)name.data, name.len) != 0)
                continue;
            if (found++)
                hpl_buf_put_u8(out, ',');
            put_header_value(out, header->value);
        }
        hpl_buf_put_u8(out, '\n');
        if (!found)
            return false;
    }
    return true;
}

/* --- the whole ----------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_canonical_hash(struct hpl_call *call, const struct hpl_canonical *canonical, uint8_t out[static 32])
{
    struct hpl_buf text = {0};
    enum hpl_status status = HPL_OK;
    hpl_buf_put_bytes(&text, canonical->request->method);
    hpl_buf_put_u8(&text, '\n');
    if (!put_path(&text, canonical->request->path, canonical->is_s3))
        status = hpl_fail(call, HPL_AUTH_MALFORMED, "the path is not percent-encoded right");
    hpl_buf_put_u8(&text, '\n');
    if (status == HPL_OK && !put_query(&text, canonical->request->query, canonical->ignored_parameter))
        status = hpl_fail(call, HPL_AUTH_MALFORMED, "the query is not percent-encoded right or has more than %u parameters",
                          MAX_PARAMETERS);
    hpl_buf_put_u8(&text, '\n');
    if (status == HPL_OK && !put_headers(&text, canonical))
        status = hpl_fail(call, HPL_AUTH_BAD_SIGNATURE, "SignedHeaders names a header that was not sent");
    hpl_buf_put_u8(&text, '\n');
    hpl_buf_put_bytes(&text, canonical->signed_headers);
    hpl_buf_put_u8(&text, '\n');
    hpl_buf_put_bytes(&text, canonical->payload_hash);
    if (status == HPL_OK)
        status = hpl_buf_check(&text);
    if (status == HPL_OK)
        hpl_sha256(out, text.data, text.len);
    hpl_buf_wipe(&text);
    return status;
}

bool hpl_signing_key(uint8_t key[static 32], const struct hpl_secret *secret_key, const char *scope)
{
    uint8_t first[4 + 128];
    struct hpl_bytes rest = hpl_bytes_str(scope);
    if (secret_key->len > 128)
        return false;
    memcpy(first, "AWS4", 4);
    memcpy(first + 4, secret_key->bytes, secret_key->len);
    struct hpl_bytes date = next_part(&rest, '/'), region = next_part(&rest, '/'), service = next_part(&rest, '/');
    hpl_hmac_sha256(key, first, 4 + secret_key->len, date.data, date.len);
    hpl_hmac_sha256(key, key, 32, region.data, region.len);
    hpl_hmac_sha256(key, key, 32, service.data, service.len);
    hpl_hmac_sha256(key, key, 32, "aws4_request", 12);
    hpl_wipe(first, sizeof first);
    return hpl_bytes_equal(rest, hpl_bytes_str("aws4_request"));
}

void hpl_request_signature(char out[static 65], const uint8_t key[static 32], const char *timestamp, const char *scope,
                           const uint8_t hash[static 32])
{
    char hex[65];
    uint8_t mac[32];
    struct hpl_buf text = {0};
    hpl_hex_encode(hex, hash, 32);
    const char *const lines[] = {"AWS4-HMAC-SHA256\n", timestamp, "\n", scope, "\n", hex};
    for (size_t i = 0; i < HPL_COUNT(lines); i++)
        hpl_buf_put_str(&text, lines[i]);
    HPL_CHECK(!text.is_failed);
    hpl_hmac_sha256(mac, key, 32, text.data, text.len);
    hpl_hex_encode(out, mac, sizeof mac);
    hpl_buf_wipe(&text);
}
