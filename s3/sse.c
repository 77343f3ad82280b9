/* Which encryption a request asks for. */
#include "s3/internal.h"

#include <stdlib.h>
#include <strings.h>

#define PREFIX "x-amz-server-side-encryption"
#define CUSTOMER PREFIX "-customer-"
#define MAX_CONTEXT 8192u

void hpl_sse_wipe(struct hpl_sse *sse)
{
    hpl_secret_free(sse->customer_key);
    json_decref(sse->context);
    *sse = (struct hpl_sse){0};
}

static enum hpl_status read_customer_key(struct hpl_s3_request *request, const char *base64, const char md5[static 25])
{
    uint8_t digest[32], sent[16];
    struct hpl_hash hash;
    struct hpl_sse *sse = &request->sse;
    sse->customer_key = hpl_secret_new(32);
    if (!sse->customer_key)
        return hpl_fail(request->call, HPL_NO_MEMORY, "the secret region is full");
    if (!hpl_base64_decode_exact(sse->customer_key->bytes, 32, base64, strlen(base64)))
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the customer key must be 32 bytes in Base64");
    if (!hpl_base64_decode_exact(sent, sizeof sent, md5, strlen(md5)))
        return hpl_fail(request->call, HPL_SSEC_KEY_MISMATCH, "the customer key's MD5 must be 16 bytes in Base64");
    HPL_TRY(hpl_hash_init(&hash, "MD5"));
    hpl_hash_update(&hash, sse->customer_key->bytes, 32);
    hpl_hash_final(&hash, digest);
    bool is_right = hpl_equal_secret(digest, sent, sizeof sent);
    hpl_wipe(digest, sizeof digest);
    if (!is_right)
        return HPL_SSEC_KEY_MISMATCH;
    memcpy(sse->customer_md5, md5, sizeof sse->customer_md5);
    sse->mode = HPL_MODE_SSE_C;
    return HPL_OK;
}

enum hpl_status hpl_sse_data_key(struct hpl_s3_request *request, struct hpl_secret **out)
{
    *out = hpl_secret_from(request->sse.customer_key->bytes, request->sse.customer_key->len);
    return *out ? HPL_OK : hpl_fail(request->call, HPL_NO_MEMORY, "the secret region is full");
}

static enum hpl_status read_customer(struct hpl_s3_request *request)
{
    char algorithm[16], key[64], md5[25];
    bool has_algorithm, has_key, has_md5;
    HPL_TRY(hpl_s3_header(request, CUSTOMER "algorithm", algorithm, sizeof algorithm, &has_algorithm));
    HPL_TRY(hpl_s3_header(request, CUSTOMER "key-MD5", md5, sizeof md5, &has_md5));
    HPL_TRY(hpl_s3_header(request, CUSTOMER "key", key, sizeof key, &has_key)); /* last: it is wiped below, on every path from here */
    if (!has_algorithm && !has_key && !has_md5)
        return HPL_OK;
    enum hpl_status status = HPL_OK;
    if (!request->http->is_tls && !request->http->is_loopback)
        status = hpl_fail(request->call, HPL_INSECURE_TRANSPORT, "a customer key must not be sent over a plaintext connection; use TLS");
    else if (!has_algorithm || !has_key || !has_md5)
        status = hpl_fail(request->call, HPL_INVALID_REQUEST, "SSE-C needs the headers " CUSTOMER "algorithm, -key and -key-MD5 together");
    else if (strcmp(algorithm, "AES256") != 0)
        status = hpl_fail(request->call, HPL_INVALID_ENCRYPTION_ALGORITHM, "the customer algorithm must be AES256");
    else
        status = read_customer_key(request, key, md5);
    hpl_wipe(key, sizeof key);
    return status;
}

enum hpl_status hpl_sse_read_get(struct hpl_s3_request *request)
{
    if (hpl_http_header(request->http, PREFIX).data)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the header " PREFIX " is not for reads");
    return read_customer(request);
}

/* Plain JSON, or JSON in Base64 as the SDKs send it. */
static enum hpl_status read_context(struct hpl_s3_request *request)
{
    char text[MAX_CONTEXT];
    bool is_there;
    struct hpl_buf decoded = {0};
    const char *name;
    json_t *value;
    HPL_TRY(hpl_s3_header(request, PREFIX "-context", text, sizeof text, &is_there));
    if (!is_there || !text[0])
        return HPL_OK;
    if (text[0] == '{')
        hpl_buf_put_str(&decoded, text);
    else if (!hpl_base64_decode(&decoded, text, strlen(text))) {
        hpl_buf_wipe(&decoded);
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the encryption context must be JSON, plain or in Base64");
    }
    enum hpl_status status = hpl_json_object(request->call, &request->sse.context, hpl_buf_bytes(&decoded), MAX_CONTEXT, false);
    hpl_buf_wipe(&decoded);
    HPL_TRY(status == HPL_INVALID_REQUEST ? HPL_INVALID_ARGUMENT : status);
    json_object_foreach(request->sse.context, name, value)
        if (!json_is_string(value) || !*name)
            return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "the encryption context must hold strings only");
    return HPL_OK;
}

static enum hpl_status read_managed(struct hpl_s3_request *request, const char *algorithm)
{
    struct hpl_sse *sse = &request->sse;
    bool has_key_id;
    HPL_TRY(hpl_s3_header(request, HPL_KEY_ID_NAME, sse->key_id, sizeof sse->key_id, &has_key_id));
    if (strcmp(algorithm, "AES256") == 0)
        sse->mode = HPL_MODE_SSE_S3;
    else if (strcmp(algorithm, "aws:kms") == 0 || strcmp(algorithm, "aws:kms:dsse") == 0)
        sse->mode = HPL_MODE_SSE_KMS;
    else
        return HPL_INVALID_ENCRYPTION_ALGORITHM;
    if (sse->mode == HPL_MODE_SSE_S3 && has_key_id && sse->key_id[0])
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "a KMS key id goes with aws:kms, not with AES256");
    return read_context(request);
}

/* A presigned URL may carry such a parameter. S3 wants a header; passed over, it would store in the clear what was to be sealed. */
static enum hpl_status refuse_parameters(struct hpl_s3_request *request)
{
    for (size_t i = 0; i < request->num_parameters; i++)
        if (strncasecmp(request->parameters[i].name, PREFIX, sizeof PREFIX - 1) == 0)
            return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "%.80s must be a header of the request, not a parameter of its query", request->parameters[i].name);
    return HPL_OK;
}

enum hpl_status hpl_sse_read(struct hpl_s3_request *request)
{
    char algorithm[64];
    bool is_managed;
    HPL_TRY(refuse_parameters(request));
    HPL_TRY(hpl_s3_header(request, PREFIX, algorithm, sizeof algorithm, &is_managed));
    HPL_TRY(read_customer(request));
    if (is_managed && request->sse.mode == HPL_MODE_SSE_C)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "a request asks for one kind of server-side encryption, not for two");
    if (is_managed)
        return read_managed(request, algorithm);
    if (hpl_http_header(request->http, HPL_KEY_ID_NAME).data || hpl_http_header(request->http, PREFIX "-context").data)
        return hpl_fail(request->call, HPL_INVALID_ARGUMENT, "a KMS key id or encryption context needs " PREFIX ": aws:kms");
    return HPL_OK;
}

void hpl_sse_answer(struct hpl_s3_request *request, enum hpl_seal_mode mode, const char *key_id, struct hpl_bytes envelope)
{
    struct hpl_http_exchange *exchange = request->exchange;
    if (mode == HPL_MODE_SSE_C) {
        hpl_http_add_header(exchange, CUSTOMER "algorithm", "AES256");
        hpl_http_add_header(exchange, CUSTOMER "key-MD5", "%s", request->sse.customer_md5);
    } else if (mode != HPL_MODE_PLAIN) {
        hpl_http_add_header(exchange, PREFIX, "%s", mode == HPL_MODE_SSE_S3 ? "AES256" : "aws:kms");
        if (key_id[0])
            hpl_http_add_header(exchange, HPL_KEY_ID_NAME, "%s", key_id);
        if (hpl_kms_is_bucket_key(envelope))
            hpl_http_add_header(exchange, PREFIX "-bucket-key-enabled", "true");
    }
}
