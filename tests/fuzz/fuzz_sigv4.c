/* SigV4 heads: whatever a client writes into its Authorization, query, path and headers, the verifier answers an access error and
 * leaves nothing behind; and what our signer signs, it takes. */
#include "auth/sigv4.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"

#define ACCESS_KEY "AKIAIOSFODNN7EXAMPLE"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct hpl_auth *auth;
static struct hpl_secret *secret;
static size_t most_in_use; /* bytes of secrets, with all remembered that may be */

/* Open files live on without names. */
static void remove_files(const char *dir)
{
    static const char *const ends[] = {"", "-wal", "-shm"};
    char path[80];
    for (size_t i = 0; i < HPL_COUNT(ends); i++) {
        snprintf(path, sizeof path, "%s/catalog.db%s", dir, ends[i]);
        unlink(path);
    }
    rmdir(dir);
}

/* A catalog of its own with one credential, at the time of AWS's examples. */
static void open_house(void)
{
    char dir[] = "/tmp/fuzz-sigv4-XXXXXX", path[64];
    struct hpl_call call = {0};
    struct hpl_catalog *catalog;
    struct hpl_secret *root = hpl_secret_random(32);
    secret = hpl_secret_from("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", 40);
    HPL_CHECK(root && secret && mkdtemp(dir));
    snprintf(path, sizeof path, "%s/catalog.db", dir);
    HPL_CHECK(hpl_catalog_open(&call, &catalog, path, root) == HPL_OK);
    HPL_CHECK(hpl_auth_open(&call, &auth, catalog) == HPL_OK);
    HPL_CHECK(hpl_auth_put_credential(&call, auth, ACCESS_KEY, secret, HPL_ROLE_OBJECTS) == HPL_OK);
    hpl_clock_shift_ms(INT64_C(1369353600000) - hpl_clock_unix_ms());
    hpl_secret_free(root);
    remove_files(dir);
    struct hpl_identity identity;
    struct hpl_secret *found;
    HPL_CHECK(hpl_auth_find_signing_key(&call, auth, ACCESS_KEY, "20130524/us-east-1/s3/aws4_request", &identity, &found) == HPL_OK);
    hpl_secret_free(found);
    most_in_use = hpl_secret_in_use();
}

static enum hpl_status verify(const struct hpl_sigv4_request *request, const struct hpl_sigv4_options *options)
{
    struct hpl_call call = {0};
    struct hpl_identity identity;
    struct hpl_sigv4_payload payload;
    enum hpl_status status = hpl_sigv4_verify(&call, auth, request, options, &identity, &payload);
    HPL_CHECK(status == HPL_OK || (!payload.signing_key && !identity.access_key[0]));
    HPL_CHECK(status == HPL_OK || hpl_status_row(status)->class == HPL_CLASS_A);
    hpl_sigv4_payload_wipe(&payload);
    return status;
}

/* One line of the input. */
static struct hpl_bytes line(struct hpl_bytes *rest)
{
    const uint8_t *end = rest->len ? memchr(rest->data, '\n', rest->len) : NULL;
    struct hpl_bytes text = {rest->data, end ? (size_t)(end - rest->data) : rest->len};
    *rest = end ? hpl_bytes(end + 1, rest->len - text.len - 1) : hpl_bytes(NULL, 0);
    return text.data ? text : hpl_bytes("", 0);
}

/* The same path, query and header, signed by us: taken, unless an escape in them is broken. */
static void sign_and_verify(struct hpl_bytes path, struct hpl_bytes query, struct hpl_bytes value, const struct hpl_sigv4_options *options)
{
    struct hpl_call call = {0};
    struct hpl_buf authorization = {0};
    struct hpl_sigv4_header headers[] = {{hpl_bytes_str("Host"), hpl_bytes_str("h")}, {hpl_bytes_str("X-Amz-Date"), hpl_bytes_str("20130524T000000Z")},
                                         {hpl_bytes_str("x-amz-content-sha256"), hpl_bytes_str("UNSIGNED-PAYLOAD")},
                                         {hpl_bytes_str("x-amz-meta-a"), value}, {hpl_bytes_str("authorization"), {0}}};
    struct hpl_sigv4_request request = {hpl_bytes_str("PUT"), path, query, headers, 4};
    if (hpl_sigv4_sign(&call, &request, ACCESS_KEY, secret, "us-east-1", "s3", &authorization) == HPL_OK) {
        headers[4].value = hpl_buf_bytes(&authorization);
        request.num_headers = 5;
        enum hpl_status status = verify(&request, options);
        HPL_CHECK(status == HPL_OK || status == HPL_AUTH_MALFORMED); /* malformed: the query holds X-Amz-Signature or its like */
        HPL_CHECK(status == HPL_OK || memmem(query.data, query.len, "X-Amz-", 6));
    }
    hpl_buf_wipe(&authorization);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const struct hpl_sigv4_options options = {.services = "s3,kms", .region = "us-east-1", .allow_presigned = true};
    const struct hpl_sigv4_options strict = {.services = "s3,kms", .require_hashed = true};
    if (!auth)
        open_house();
    struct hpl_bytes rest = hpl_bytes(data, len);
    struct hpl_bytes path = line(&rest), query = line(&rest), authorization = line(&rest), hash = line(&rest), date = line(&rest), other = line(&rest);
    const struct hpl_sigv4_header headers[] = {
        {hpl_bytes_str("Host"), hpl_bytes_str("examplebucket.s3.amazonaws.com")}, {hpl_bytes_str("Range"), other},
        {hpl_bytes_str("x-amz-content-sha256"), hash}, {hpl_bytes_str("x-amz-date"), date}, {hpl_bytes_str("Authorization"), authorization}};
    struct hpl_sigv4_request request = {hpl_bytes_str("GET"), path, query, headers, authorization.len ? 5 : 2};
    (void)verify(&request, &options);
    (void)verify(&request, &strict);
    sign_and_verify(path, query, other, &options);
    HPL_CHECK(hpl_secret_in_use() <= most_in_use);
    return 0;
}
