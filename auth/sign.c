/* Signing a request. Any thread. */
#include "auth/canonical.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

static struct hpl_bytes header_of(const struct hpl_sigv4_request *request, const char *name)
{
    for (size_t i = 0; i < request->num_headers; i++)
        if (hpl_bytes_is_name(request->headers[i].name, name))
            return request->headers[i].value;
    return hpl_bytes(NULL, 0);
}

static int compare_names(const void *a, const void *b)
{
    return hpl_bytes_compare(hpl_buf_bytes(a), hpl_buf_bytes(b));
}

static void put_lower(struct hpl_buf *out, struct hpl_bytes text)
{
    for (size_t i = 0; i < text.len; i++)
        hpl_buf_put_u8(out, (uint8_t)tolower(text.data[i]));
}

/* All header names, lower case, sorted, each once, joined by ';'. */
static enum hpl_status put_signed_headers(const struct hpl_sigv4_request *request, struct hpl_buf *out)
{
    size_t count = request->num_headers;
    struct hpl_buf *names = calloc(count ? count : 1, sizeof *names);
    if (!names)
        return HPL_NO_MEMORY;
    for (size_t i = 0; i < count; i++)
        put_lower(&names[i], request->headers[i].name);
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < count; i++) {
        if (i && compare_names(&names[i], &names[i - 1]) == 0)
            continue;
        hpl_buf_put_str(out, i ? ";" : "");
        hpl_buf_put_bytes(out, hpl_buf_bytes(&names[i]));
    }
    for (size_t i = 0; i < count; i++)
        hpl_buf_wipe(&names[i]);
    free(names);
    return hpl_buf_check(out);
}

enum hpl_status hpl_sigv4_sign(struct hpl_call *call, const struct hpl_sigv4_request *request, const char *access_key,
                               const struct hpl_secret *secret_key, const char *region, const char *service,
                               struct hpl_buf *authorization)
{
    char scope[160], timestamp[17], signature[65];
    uint8_t hash[32], key[32];
    struct hpl_bytes date = header_of(request, "x-amz-date"), payload_hash = header_of(request, "x-amz-content-sha256");
    struct hpl_buf signed_headers = {0};
    if (!header_of(request, "host").len || !payload_hash.len)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "signing needs the headers host and x-amz-content-sha256");
    if (date.len != 16 ||
        snprintf(scope, sizeof scope, "%.8s/%s/%s/aws4_request", (const char *)date.data, region, service) >= (int)sizeof scope)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "signing needs x-amz-date and a short region and service");
    memcpy(timestamp, date.data, 16);
    timestamp[16] = '\0';
    enum hpl_status status = put_signed_headers(request, &signed_headers);
    const struct hpl_canonical canonical = {.request = request, .signed_headers = hpl_buf_bytes(&signed_headers),
                                            .payload_hash = payload_hash, .is_s3 = strcmp(service, "s3") == 0};
    if (status == HPL_OK)
        status = hpl_canonical_hash(call, &canonical, hash);
    if (status == HPL_OK && !hpl_signing_key(key, secret_key, scope))
        status = hpl_fail(call, HPL_INVALID_ARGUMENT, "the region or service has a '/'");
    if (status == HPL_OK) {
        hpl_request_signature(signature, key, timestamp, scope, hash);
        hpl_buf_printf(authorization, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%.*s, Signature=%s", access_key, scope,
                       (int)signed_headers.len, (const char *)signed_headers.data, signature);
        status = hpl_buf_check(authorization);
    }
    hpl_wipe(key, sizeof key);
    hpl_buf_wipe(&signed_headers);
    return status;
}
