/* Does the verifier accept what AWS published and what botocore signs, and refuse it with any one byte changed? */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "auth/sigv4.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/hash.h"
#include "base/json.h"

#define MAX_HEADERS 24
#define EXAMPLE_KEY "AKIAIOSFODNN7EXAMPLE"
#define EXAMPLE_SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
#define EXAMPLE_UNIX_S 1369353600 /* 20130524T000000Z */
#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static struct hpl_call call;
static struct hpl_catalog *catalog;
static struct hpl_auth *auth;
static struct hpl_secret *root;

static void add_credential(const char *access_key, const char *secret_key)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_from(secret_key, strlen(secret_key));
    EXPECT_OK(hpl_auth_put_credential(&call, auth, access_key, secret, HPL_ROLE_OBJECTS));
}

static void close_house(void)
{
    hpl_auth_close(auth);
    hpl_catalog_close(catalog);
    hpl_secret_free(root);
}

/* One catalog for all tests. */
static void open_house(void)
{
    char path[300];
    if (auth)
        return;
    root = hpl_secret_random(32);
    snprintf(path, sizeof path, "%s/catalog.db", hpl_test_dir());
    EXPECT_OK(hpl_catalog_open(&call, &catalog, path, root));
    EXPECT_OK(hpl_auth_open(&call, &auth, catalog));
    add_credential(EXAMPLE_KEY, EXAMPLE_SECRET);
    add_credential("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
    atexit(close_house);
}

static void be_at(int64_t unix_s)
{
    hpl_clock_shift_ms(unix_s * 1000 - hpl_clock_unix_ms());
}

/* --- a request that can be changed --------------------------------------------------------------------------------------- */

struct request {
    char *method, *path, *query;
    char *names[MAX_HEADERS], *values[MAX_HEADERS];
    size_t num_headers;
    struct hpl_sigv4_options options;
    uint8_t body_sha256[32];
    struct hpl_identity identity;
    struct hpl_sigv4_payload payload;
};

static void add_header(struct request *request, const char *name, const char *value)
{
    EXPECT(request->num_headers < MAX_HEADERS);
    request->names[request->num_headers] = strdup(name);
    request->values[request->num_headers++] = strdup(value);
}

static void wipe_request(struct request *request)
{
    free(request->method), free(request->path), free(request->query);
    for (size_t i = 0; i < request->num_headers; i++)
        free(request->names[i]), free(request->values[i]);
    hpl_sigv4_payload_wipe(&request->payload);
    *request = (struct request){0};
}

static struct hpl_bytes trimmed(const char *text)
{
    text += strspn(text, " \t");
    size_t len = strlen(text);
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\t'))
        len--;
    return hpl_bytes(text, len);
}

static enum hpl_status verify(struct request *request)
{
    struct hpl_sigv4_header headers[MAX_HEADERS];
    for (size_t i = 0; i < request->num_headers; i++)
        headers[i] = (struct hpl_sigv4_header){hpl_bytes_str(request->names[i]), trimmed(request->values[i])};
    const struct hpl_sigv4_request sent = {hpl_bytes_str(request->method), hpl_bytes_str(request->path), hpl_bytes_str(request->query),
                                           headers, request->num_headers};
    call = (struct hpl_call){0};
    hpl_sigv4_payload_wipe(&request->payload);
    enum hpl_status status = hpl_sigv4_verify(&call, auth, &sent, &request->options, &request->identity, &request->payload);
    EXPECT(status == HPL_OK || (!request->payload.signing_key && !request->payload.mode && !request->identity.access_key[0]));
    return status;
}

static char *header_of(struct request *request, const char *name)
{
    for (size_t i = 0; i < request->num_headers; i++)
        if (strcasecmp(request->names[i], name) == 0)
            return request->values[i];
    return NULL;
}

static void set_header(struct request *request, const char *name, const char *value)
{
    for (size_t i = 0; i < request->num_headers; i++)
        if (strcasecmp(request->names[i], name) == 0) {
            free(request->values[i]);
            request->values[i] = strdup(value);
            return;
        }
    add_header(request, name, value);
}

static void drop_header(struct request *request, const char *name)
{
    for (size_t i = 0; i < request->num_headers; i++)
        if (strcasecmp(request->names[i], name) == 0) {
            free(request->names[i]), free(request->values[i]);
            request->num_headers--;
            request->names[i] = request->names[request->num_headers];
            request->values[i] = request->values[request->num_headers];
            return;
        }
}

/* --- the vectors --------------------------------------------------------------------------------------------------------- */

static const char *text_of(const json_t *vector, const char *name)
{
    const char *text = json_string_value(json_object_get(vector, name));
    EXPECT(text != NULL);
    return text;
}

static struct request request_of(const json_t *vector)
{
    struct request request = {.method = strdup(text_of(vector, "method")), .path = strdup(text_of(vector, "path")),
                              .query = strdup(text_of(vector, "query"))};
    size_t i;
    json_t *pair;
    json_array_foreach(json_object_get(vector, "headers"), i, pair)
        add_header(&request, json_string_value(json_array_get(pair, 0)), json_string_value(json_array_get(pair, 1)));
    request.options = (struct hpl_sigv4_options){.services = "s3,kms,service", .region = "us-east-1", .allow_presigned = true};
    EXPECT(hpl_hex_decode(request.body_sha256, 32, text_of(vector, "body_sha256"), 64));
    be_at(json_integer_value(json_object_get(vector, "unix_s")));
    return request;
}

static void for_each_vector(void (*fn)(const json_t *vector, struct request *request))
{
    json_error_t error;
    json_t *vectors = json_load_file(HPL_SOURCE_DIR "/tests/vectors/sigv4.json", JSON_ALLOW_NUL, &error), *vector;
    size_t i;
    EXPECT(json_array_size(vectors) >= 140);
    open_house();
    json_array_foreach(vectors, i, vector) {
        struct request request = request_of(vector);
        request.options.body_sha256 = request.body_sha256;
        fn(vector, &request);
        wipe_request(&request);
    }
    json_decref(vectors);
}

/* The vector by that name; the body's hash is known from the header alone. */
static struct request vector_named(const char *name)
{
    json_error_t error;
    json_t *vectors = json_load_file(HPL_SOURCE_DIR "/tests/vectors/sigv4.json", JSON_ALLOW_NUL, &error), *vector;
    struct request request = {0};
    size_t i;
    open_house();
    json_array_foreach(vectors, i, vector)
        if (strcmp(text_of(vector, "name"), name) == 0)
            request = request_of(vector);
    json_decref(vectors);
    EXPECT(request.method != NULL);
    return request;
}

static void is_accepted(const json_t *vector, struct request *request)
{
    enum hpl_status status = verify(request);
    if (status != HPL_OK)
        fprintf(stderr, "\n    %s: %s (%s)\n", text_of(vector, "name"), hpl_status_row(status)->name, call.detail);
    EXPECT_OK(status);
    EXPECT_TEXT(request->identity.access_key, text_of(vector, "access_key"));
}

HPL_TEST(what_aws_published_and_botocore_signs_is_accepted)
{
    for_each_vector(is_accepted);
}

/* Every byte of a text with its lowest bit changed. */
static void refuses_each_byte(const json_t *vector, struct request *request, const char *what, char *text)
{
    for (size_t i = 0; text[i]; i++) {
        if (text[i] == 1)
            continue;
        text[i] ^= 1;
        enum hpl_status status = verify(request);
        if (status == HPL_OK)
            fprintf(stderr, "\n    %s: taken with another byte %zu of %s: %s\n", text_of(vector, "name"), i, what, text);
        EXPECT(hpl_status_row(status)->class == HPL_CLASS_A);
        text[i] ^= 1;
    }
}

static bool is_signed(struct request *request, const char *name)
{
    char lower[80];
    const char *authorization = header_of(request, "authorization"), *list = authorization ? strstr(authorization, "SignedHeaders=") : NULL;
    for (size_t i = 0; i <= strlen(name); i++)
        lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    const char *found = list ? strstr(list, lower) : NULL;
    return strcmp(lower, "authorization") == 0 || found || strcmp(lower, "host") == 0;
}

static void is_refused_when_changed(const json_t *vector, struct request *request)
{
    bool is_plain_path = !strstr(request->path, "//") && !strchr(request->path, '.');
    refuses_each_byte(vector, request, "the method", request->method);
    if (is_plain_path || strcmp(text_of(vector, "service"), "s3") == 0) /* others take dot segments away */
        refuses_each_byte(vector, request, "the path", request->path);
    refuses_each_byte(vector, request, "the query", request->query);
    for (size_t i = 0; i < request->num_headers; i++)
        if (is_signed(request, request->names[i]))
            refuses_each_byte(vector, request, request->names[i], request->values[i]);
    EXPECT_OK(verify(request));
}

HPL_TEST(one_changed_byte_anywhere_is_refused)
{
    for_each_vector(is_refused_when_changed);
}

/* S3 names what is wrong with a signed query and what is wrong with a signed header differently. */
static enum hpl_status malformed(const struct request *request)
{
    return strstr(request->query, "X-Amz-Signature=") ? HPL_AUTH_MALFORMED_QUERY : HPL_AUTH_MALFORMED;
}

static void is_refused_to_others(const json_t *vector, struct request *request)
{
    (void)vector;
    request->options.services = "other";
    EXPECT_STATUS(verify(request), malformed(request));
    request->options.services = "s3,kms,service";
    request->options.region = "eu-central-1";
    EXPECT_STATUS(verify(request), malformed(request));
    request->options.region = NULL;
    EXPECT_OK(verify(request));
}

HPL_TEST(another_service_or_region_is_refused_and_no_region_takes_any)
{
    for_each_vector(is_refused_to_others);
}

/* Our signer's Authorization over what botocore signed, header for header, must be botocore's own. */
static void is_signed_alike(const json_t *vector, struct request *request)
{
    struct hpl_sigv4_header headers[MAX_HEADERS];
    const char *authorization = header_of(request, "authorization");
    size_t count = 0;
    if (!authorization || !header_of(request, "x-amz-content-sha256") || !header_of(request, "x-amz-date"))
        return;
    for (size_t i = 0; i < request->num_headers; i++)
        if (strcasecmp(request->names[i], "authorization") != 0)
            headers[count++] = (struct hpl_sigv4_header){hpl_bytes_str(request->names[i]), trimmed(request->values[i])};
    const struct hpl_sigv4_request sent = {hpl_bytes_str(request->method), hpl_bytes_str(request->path), hpl_bytes_str(request->query), headers, count};
    const char *secret_key = text_of(vector, "secret_key");
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_from(secret_key, strlen(secret_key));
    struct hpl_buf made = {0};
    EXPECT_OK(hpl_sigv4_sign(&call, &sent, text_of(vector, "access_key"), secret, "us-east-1", text_of(vector, "service"), &made));
    EXPECT_TEXT(hpl_buf_text(&made), authorization);
    hpl_buf_wipe(&made);
}

HPL_TEST(our_signatures_are_botocores)
{
    for_each_vector(is_signed_alike);
}

/* --- chunks and trailers: the documentation's 65 KiB of 'a' --------------------------------------------------------------- */

static enum hpl_status chunk(struct request *request, size_t len, const char *signature)
{
    uint8_t sha256[32];
    char *data = malloc(len + 1);
    EXPECT(data != NULL);
    memset(data, 'a', len);
    hpl_sha256(sha256, data, len);
    free(data);
    return hpl_sigv4_check_chunk(&call, &request->payload, sha256, hpl_bytes_str(signature));
}

HPL_TEST(the_documented_chunks_are_accepted_in_their_order_only)
{
    static const char first[] = "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648";
    static const char second[] = "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497";
    static const char last[] = "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9";
    struct request request = vector_named("s3-chunked-seed");
    EXPECT_OK(verify(&request));
    EXPECT_NUM(request.payload.mode, HPL_PAYLOAD_CHUNKED_SIGNED);
    EXPECT_STATUS(chunk(&request, 1024, second), HPL_AUTH_BAD_SIGNATURE);
    EXPECT_STATUS(chunk(&request, 65535, first), HPL_AUTH_BAD_SIGNATURE);
    EXPECT_STATUS(chunk(&request, 65536, ""), HPL_AUTH_BAD_SIGNATURE);
    EXPECT_OK(chunk(&request, 65536, first));
    EXPECT_STATUS(chunk(&request, 65536, first), HPL_AUTH_BAD_SIGNATURE);
    EXPECT_OK(chunk(&request, 1024, second));
    EXPECT_OK(chunk(&request, 0, last));
    wipe_request(&request);
}

HPL_TEST(the_documented_trailer_is_accepted)
{
    static const char signature[] = "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435";
    static const char right[] = "x-amz-checksum-crc32c:sOO8/Q==\n", wrong[] = "x-amz-checksum-crc32c:sOO8/R==\n";
    struct request request = vector_named("s3-trailer-seed");
    uint8_t sha256[32];
    EXPECT_OK(verify(&request));
    EXPECT_NUM(request.payload.mode, HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER);
    EXPECT_OK(chunk(&request, 65536, "b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2"));
    EXPECT_OK(chunk(&request, 1024, "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7"));
    EXPECT_OK(chunk(&request, 0, "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"));
    hpl_sha256(sha256, wrong, strlen(wrong));
    EXPECT_STATUS(hpl_sigv4_check_trailer(&call, &request.payload, sha256, hpl_bytes_str(signature)), HPL_AUTH_BAD_SIGNATURE);
    hpl_sha256(sha256, right, strlen(right));
    EXPECT_OK(hpl_sigv4_check_trailer(&call, &request.payload, sha256, hpl_bytes_str(signature)));
    wipe_request(&request);
}

/* --- what must hold before any signature --------------------------------------------------------------------------------- */

HPL_TEST(an_unsigned_request_is_told_so)
{
    struct request request = vector_named("s3-get-object");
    drop_header(&request, "authorization");
    EXPECT_STATUS(verify(&request), HPL_AUTH_REQUIRED);
    wipe_request(&request);
}

HPL_TEST(an_unknown_access_key_is_told_from_a_bad_signature)
{
    struct request request = vector_named("s3-get-object");
    char *at = strstr(header_of(&request, "authorization"), EXAMPLE_KEY);
    at[0] = 'B';
    EXPECT_STATUS(verify(&request), HPL_AUTH_UNKNOWN_KEY);
    at[0] = 'A';
    at = header_of(&request, "authorization");
    at[strlen(at) - 1] ^= 1;
    EXPECT_STATUS(verify(&request), HPL_AUTH_BAD_SIGNATURE);
    wipe_request(&request);
}

HPL_TEST(a_request_signed_with_the_secret_of_before_is_refused)
{
    struct request request = vector_named("s3-get-object");
    EXPECT_OK(verify(&request));
    EXPECT_NUM(request.identity.role, HPL_ROLE_OBJECTS);
    add_credential(EXAMPLE_KEY, "another-secret-of-theirs");
    EXPECT_STATUS(verify(&request), HPL_AUTH_BAD_SIGNATURE);
    add_credential(EXAMPLE_KEY, EXAMPLE_SECRET);
    EXPECT_OK(verify(&request));
    wipe_request(&request);
}

static void answers_authorization(const char *value, enum hpl_status want)
{
    struct request request = vector_named("s3-get-object");
    set_header(&request, "authorization", value);
    EXPECT_STATUS(verify(&request), want);
    EXPECT(call.detail[0] != '\0');
    wipe_request(&request);
}

static void refuses_authorization(const char *value)
{
    answers_authorization(value, HPL_AUTH_MALFORMED);
}

#define CREDENTIAL "Credential=" EXAMPLE_KEY "/20130524/us-east-1/s3/aws4_request"
#define SIGNED "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date"
#define SIGNATURE "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"

HPL_TEST(a_malformed_authorization_is_refused)
{
    refuses_authorization("AWS " EXAMPLE_KEY ":frJIUN8DYpKDtOLCwo//yllqDzg=");
    refuses_authorization("Bearer abc");
    refuses_authorization("AWS4-HMAC-SHA256");
    struct request unsigned_request = vector_named("s3-get-object");
    set_header(&unsigned_request, "authorization", "");
    EXPECT_STATUS(verify(&unsigned_request), HPL_AUTH_REQUIRED);
    wipe_request(&unsigned_request);
    refuses_authorization("AWS4-HMAC-SHA256 ");
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", " SIGNED);
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 " SIGNED ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", " CREDENTIAL ", " SIGNED ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", " SIGNED ", " SIGNATURE ", Extra=1");
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", " SIGNED ", " SIGNATURE "0");
    refuses_authorization("AWS4-HMAC-SHA256 Credential=" EXAMPLE_KEY ", " SIGNED ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 Credential=" EXAMPLE_KEY "/20130524/us-east-1/aws4_request, " SIGNED ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 Credential=" EXAMPLE_KEY "/20130524/us-east-1/s3/aws4_request/x, " SIGNED ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 Credential=" EXAMPLE_KEY "/20130525/us-east-1/s3/aws4_request, " SIGNED ", " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=range;host;x-amz-content-sha256;x-amz-date, " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=host;host;range;x-amz-content-sha256;x-amz-date, " SIGNATURE);
    refuses_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=Host;range;x-amz-content-sha256;x-amz-date, " SIGNATURE);
    answers_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=host;none;range;x-amz-content-sha256;x-amz-date, " SIGNATURE, HPL_AUTH_BAD_SIGNATURE);
    answers_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=, " SIGNATURE, HPL_AUTH_UNSIGNED_HEADER);
}

HPL_TEST(an_authorization_without_host_or_an_amz_header_is_told_so)
{
    answers_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=range;x-amz-content-sha256;x-amz-date, " SIGNATURE, HPL_AUTH_UNSIGNED_HEADER);
    answers_authorization("AWS4-HMAC-SHA256 " CREDENTIAL ", SignedHeaders=host;range;x-amz-date, " SIGNATURE, HPL_AUTH_UNSIGNED_HEADER);
}

HPL_TEST(the_parts_may_stand_in_any_order_with_or_without_spaces)
{
    struct request request = vector_named("s3-get-object");
    set_header(&request, "authorization", "AWS4-HMAC-SHA256 " SIGNATURE "," SIGNED "," CREDENTIAL);
    EXPECT_OK(verify(&request));
    set_header(&request, "authorization", "AWS4-HMAC-SHA256   " CREDENTIAL " ,  " SIGNED ",\t" SIGNATURE);
    EXPECT_OK(verify(&request));
    wipe_request(&request);
}

HPL_TEST(headers_that_decide_come_once_and_amz_headers_are_signed)
{
    static const char *const once[] = {"Authorization", "x-amz-date", "x-amz-content-sha256"};
    for (size_t i = 0; i < HPL_COUNT(once); i++) {
        struct request request = vector_named("s3-get-object");
        char *copy = strdup(header_of(&request, once[i]));
        add_header(&request, once[i], copy);
        EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
        free(copy);
        wipe_request(&request);
    }
    struct request request = vector_named("s3-get-object");
    add_header(&request, "User-Agent", "not signed, and need not be");
    EXPECT_OK(verify(&request));
    add_header(&request, "X-Amz-Acl", "public-read");
    EXPECT_STATUS(verify(&request), HPL_AUTH_UNSIGNED_HEADER);
    EXPECT(strstr(call.detail, "X-Amz-Acl") != NULL);
    wipe_request(&request);
    request = vector_named("s3-presigned");
    add_header(&request, "x-amz-acl", "public-read");
    EXPECT_STATUS(verify(&request), HPL_AUTH_UNSIGNED_HEADER);
    wipe_request(&request);
}

HPL_TEST(a_session_token_is_refused)
{
    struct request request = vector_named("s3-get-object");
    add_header(&request, "x-amz-security-token", "abc");
    EXPECT_STATUS(verify(&request), HPL_AUTH_TOKEN_INVALID);
    wipe_request(&request);
    request = vector_named("s3-presigned");
    char *query = request.query;
    EXPECT(asprintf(&request.query, "X-Amz-Security-Token=abc&%s", query) > 0);
    free(query);
    EXPECT_STATUS(verify(&request), HPL_AUTH_TOKEN_INVALID);
    wipe_request(&request);
}

HPL_TEST(a_request_is_good_for_15_minutes_either_way)
{
    struct request request = vector_named("s3-get-object");
    be_at(EXAMPLE_UNIX_S + 14 * 60);
    EXPECT_OK(verify(&request));
    be_at(EXAMPLE_UNIX_S - 14 * 60);
    EXPECT_OK(verify(&request));
    be_at(EXAMPLE_UNIX_S + 15 * 60 + 10);
    EXPECT_STATUS(verify(&request), HPL_AUTH_SKEWED);
    be_at(EXAMPLE_UNIX_S - 15 * 60 - 10);
    EXPECT_STATUS(verify(&request), HPL_AUTH_SKEWED);
    wipe_request(&request);
}

HPL_TEST(a_date_that_is_none_is_refused)
{
    static const char *const bad[] = {"", "20130524", "20130524T000000", "2013-05-24T00:00:00Z", "20130524T000000Z ", "20131324T000000Z", "99999999T999999Z"};
    for (size_t i = 0; i < HPL_COUNT(bad); i++) {
        struct request request = vector_named("s3-get-object");
        set_header(&request, "x-amz-date", bad[i]);
        EXPECT_STATUS(verify(&request), i == 4 ? HPL_OK : HPL_AUTH_UNDATED); /* the space is trimmed */
        wipe_request(&request);
    }
    struct request request = vector_named("s3-get-object");
    drop_header(&request, "x-amz-date");
    EXPECT_STATUS(verify(&request), HPL_AUTH_UNDATED);
    wipe_request(&request);
}

/* --- the presigned form -------------------------------------------------------------------------------------------------- */

HPL_TEST(a_presigned_request_lives_as_long_as_it_says)
{
    struct request request = vector_named("s3-presigned"); /* 86400 s */
    EXPECT_OK(verify(&request));
    EXPECT_NUM(request.payload.mode, HPL_PAYLOAD_UNSIGNED);
    be_at(EXAMPLE_UNIX_S + 86400 - 10);
    EXPECT_OK(verify(&request));
    be_at(EXAMPLE_UNIX_S + 86400 + 10);
    EXPECT_STATUS(verify(&request), HPL_AUTH_EXPIRED);
    be_at(EXAMPLE_UNIX_S - 15 * 60 - 10);
    EXPECT_STATUS(verify(&request), HPL_AUTH_SKEWED);
    wipe_request(&request);
}

HPL_TEST(an_empty_authorization_is_none_beside_a_presigned_query)
{
    struct request request = vector_named("s3-presigned");
    add_header(&request, "authorization", "");
    EXPECT_OK(verify(&request));
    set_header(&request, "authorization", "AWS4-HMAC-SHA256 " CREDENTIAL ", " SIGNED ", " SIGNATURE);
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    wipe_request(&request);
}

static void replace(char **text, const char *from, const char *to)
{
    char *at = strstr(*text, from), *made;
    EXPECT(at != NULL);
    EXPECT(asprintf(&made, "%.*s%s%s", (int)(at - *text), *text, to, at + strlen(from)) >= 0);
    free(*text);
    *text = made;
}

static void refuses_presigned(const char *from, const char *to)
{
    struct request request = vector_named("s3-presigned");
    replace(&request.query, from, to);
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED_QUERY);
    wipe_request(&request);
}

HPL_TEST(a_malformed_presigned_query_is_refused)
{
    refuses_presigned("Expires=86400", "Expires=0");
    refuses_presigned("Expires=86400", "Expires=604801");
    refuses_presigned("Expires=86400", "Expires=-1");
    refuses_presigned("Expires=86400", "Expires=");
    refuses_presigned("Expires=86400", "Expires=1x");
    refuses_presigned("Expires=86400", "Expires=86400&X-Amz-Expires=86400");
    refuses_presigned("&X-Amz-Expires=86400", "");
    refuses_presigned("&X-Amz-SignedHeaders=host", "");
    refuses_presigned("SignedHeaders=host", "SignedHeaders=Host");
    refuses_presigned("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1");
    refuses_presigned("X-Amz-Algorithm=AWS4-HMAC-SHA256&", "");
    refuses_presigned("X-Amz-Date=20130524T000000Z", "X-Amz-Date=20130524");
    refuses_presigned("X-Amz-Date=20130524T000000Z", "X-Amz-Date=%zz");
    refuses_presigned("&X-Amz-Signature=", "&X-Amz-Signature=00&X-Amz-Signature=");
    struct request request = vector_named("s3-presigned");
    replace(&request.query, "SignedHeaders=host", "SignedHeaders=date");
    EXPECT_STATUS(verify(&request), HPL_AUTH_UNSIGNED_HEADER);
    wipe_request(&request);
}

HPL_TEST(a_request_is_presigned_only_where_that_is_allowed_and_never_signed_twice)
{
    struct request request = vector_named("s3-presigned");
    request.options.allow_presigned = false;
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED_QUERY);
    request.options.allow_presigned = true;
    add_header(&request, "Authorization", "AWS4-HMAC-SHA256 " CREDENTIAL ", " SIGNED ", " SIGNATURE);
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    wipe_request(&request);
}

/* --- the body's hash ----------------------------------------------------------------------------------------------------- */

HPL_TEST(the_payload_mode_is_what_the_head_signed)
{
    static const struct { const char *name; enum hpl_payload_mode mode; } want[] = {
        {"s3-get-object", HPL_PAYLOAD_HASHED}, {"payload-UNSIGNED-PAYLOAD", HPL_PAYLOAD_UNSIGNED},
        {"s3-chunked-seed", HPL_PAYLOAD_CHUNKED_SIGNED}, {"s3-trailer-seed", HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER},
        {"payload-STREAMING-UNSIGNED-PAYLOAD-TRAILER", HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER}};
    for (size_t i = 0; i < HPL_COUNT(want); i++) {
        struct request request = vector_named(want[i].name);
        EXPECT_OK(verify(&request));
        EXPECT_NUM(request.payload.mode, want[i].mode);
        EXPECT((request.payload.signing_key != NULL) ==
               (want[i].mode == HPL_PAYLOAD_CHUNKED_SIGNED || want[i].mode == HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER));
        request.options.require_hashed = true;
        EXPECT_STATUS(verify(&request), want[i].mode == HPL_PAYLOAD_HASHED ? HPL_OK : HPL_AUTH_MALFORMED);
        wipe_request(&request);
    }
}

HPL_TEST(a_hash_of_another_shape_is_refused)
{
    static const char *const bad[] = {"", "e3b0c442", "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855", "unsigned-payload",
                                      "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", EMPTY_SHA256 "0"};
    for (size_t i = 0; i < HPL_COUNT(bad); i++) {
        struct request request = vector_named("s3-get-object");
        set_header(&request, "x-amz-content-sha256", bad[i]);
        EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
        wipe_request(&request);
    }
}

HPL_TEST(a_hash_that_was_signed_but_not_sent_is_taken_from_the_body)
{
    struct request request = vector_named("kms-post");
    request.options.require_hashed = true;
    add_header(&request, "Content-Length", "13");
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    EXPECT(strstr(call.detail, "x-amz-content-sha256 is missing") != NULL);
    request.options.body_sha256 = request.body_sha256;
    EXPECT_OK(verify(&request));
    EXPECT_NUM(request.payload.mode, HPL_PAYLOAD_HASHED);
    EXPECT_BYTES(request.payload.sha256, request.body_sha256, 32);
    request.body_sha256[0] ^= 1;
    EXPECT_STATUS(verify(&request), HPL_AUTH_BAD_SIGNATURE);
    wipe_request(&request);
}

HPL_TEST(a_head_without_a_body_needs_no_hash_where_a_hash_is_required)
{
    struct request request = vector_named("kms-admin-get");
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    request.options.require_hashed = true;
    EXPECT_OK(verify(&request));
    EXPECT_NUM(request.payload.mode, HPL_PAYLOAD_HASHED);
    EXPECT_BYTES(request.payload.sha256, request.body_sha256, 32);
    add_header(&request, "Content-Length", "0");
    EXPECT_OK(verify(&request));
    set_header(&request, "Content-Length", "1");
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    drop_header(&request, "Content-Length");
    add_header(&request, "Transfer-Encoding", "chunked");
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    wipe_request(&request);
}

/* --- spellings ----------------------------------------------------------------------------------------------------------- */

HPL_TEST(other_spellings_of_the_same_request_are_the_same)
{
    struct request request = vector_named("s3-put-object");
    replace(&request.path, "%24", "$");
    EXPECT_OK(verify(&request));
    wipe_request(&request);
    request = vector_named("s3-list");
    replace(&request.query, "max-keys=2&prefix=J", "prefix=%4A&&max-keys=2&");
    EXPECT_OK(verify(&request));
    wipe_request(&request);
    request = vector_named("s3-get-lifecycle");
    replace(&request.query, "lifecycle", "lifecycle=");
    EXPECT_OK(verify(&request));
    wipe_request(&request);
    request = vector_named("query-8"); /* prefix=%2B%20%25 */
    replace(&request.query, "%20", "+");
    EXPECT_OK(verify(&request));
    replace(&request.query, "%2B", "+"); /* a space to whoever reads it: not what was signed */
    EXPECT_STATUS(verify(&request), HPL_AUTH_BAD_SIGNATURE);
    wipe_request(&request);
}

HPL_TEST(a_broken_escape_is_refused)
{
    struct request request = vector_named("s3-put-object");
    replace(&request.path, "%24", "%2");
    EXPECT(hpl_status_row(verify(&request))->class == HPL_CLASS_A);
    replace(&request.path, "%2", "%");
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    wipe_request(&request);
    request = vector_named("s3-list");
    replace(&request.query, "prefix=J", "prefix=%J");
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    wipe_request(&request);
}

HPL_TEST(too_many_parameters_are_refused)
{
    struct request request = vector_named("s3-list");
    struct hpl_buf query = {0};
    for (int i = 0; i < 300; i++)
        hpl_buf_put_str(&query, "a&");
    free(request.query);
    request.query = strdup(hpl_buf_text(&query));
    EXPECT_STATUS(verify(&request), HPL_AUTH_MALFORMED);
    hpl_buf_wipe(&query);
    wipe_request(&request);
}

HPL_TEST(signing_needs_host_date_and_hash)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_from("secret key", 10);
    struct hpl_buf out = {0};
    const struct hpl_sigv4_header headers[] = {{hpl_bytes_str("host"), hpl_bytes_str("h")},
                                               {hpl_bytes_str("x-amz-date"), hpl_bytes_str("20130524T000000Z")},
                                               {hpl_bytes_str("x-amz-content-sha256"), hpl_bytes_str(EMPTY_SHA256)}};
    for (size_t i = 0; i < 3; i++) {
        struct hpl_sigv4_header two[] = {headers[(i + 1) % 3], headers[(i + 2) % 3]};
        const struct hpl_sigv4_request request = {hpl_bytes_str("GET"), hpl_bytes_str("/"), hpl_bytes_str(""), two, 2};
        EXPECT_STATUS(hpl_sigv4_sign(&call, &request, "AKID", secret, "r", "s3", &out), HPL_INVALID_ARGUMENT);
    }
    const struct hpl_sigv4_request request = {hpl_bytes_str("GET"), hpl_bytes_str("/"), hpl_bytes_str(""), headers, 3};
    EXPECT_STATUS(hpl_sigv4_sign(&call, &request, "AKID", secret, "r/x", "s3", &out), HPL_INVALID_ARGUMENT);
    EXPECT_NUM(out.len, 0);
}
