/* SigV4: what was signed is taken, and nothing else. Golden signatures from other clients are the scenarios' part. */
#include "tests/test.h"

#include <stdio.h>

#include "auth/sigv4.h"
#include "base/clock.h"
#include "base/codec.h"

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

static const struct hpl_sigv4_options s3 = {.services = "s3", .region = "us-east-1", .allow_presigned = true};

/* A catalog with the credential "someone", and a request signed by it. */
struct scene {
    struct hpl_secret *root, *secret;
    struct hpl_catalog *catalog;
    struct hpl_auth *auth;
    struct hpl_sigv4_header headers[5];
    struct hpl_sigv4_request request;
    char date[40];
    struct hpl_buf authorization;
    struct hpl_identity identity;
    struct hpl_sigv4_payload payload;
};

static void set_up(struct scene *scene)
{
    static int number;
    char path[512];
    *scene = (struct scene){.root = hpl_secret_random(32), .secret = hpl_secret_from("a-secret-of-someone", 19)};
    snprintf(path, sizeof path, "%s/catalog-%d", hpl_test_dir(), number++);
    EXPECT_OK(hpl_catalog_open(NULL, &scene->catalog, path, scene->root));
    EXPECT_OK(hpl_auth_open(NULL, &scene->auth, scene->catalog));
    EXPECT_OK(hpl_auth_put_credential(NULL, scene->auth, "someone", scene->secret, HPL_ROLE_OBJECTS));
}

static void sign_at(struct scene *scene, int64_t when_ms, const char *service)
{
    hpl_time_text(scene->date, when_ms, HPL_TIME_BASIC);
    scene->headers[0] = (struct hpl_sigv4_header){hpl_bytes_str("host"), hpl_bytes_str("127.0.0.1:9000")};
    scene->headers[1] = (struct hpl_sigv4_header){hpl_bytes_str("x-amz-date"), hpl_bytes_str(scene->date)};
    scene->headers[2] = (struct hpl_sigv4_header){hpl_bytes_str("x-amz-content-sha256"), hpl_bytes_str(EMPTY_SHA256)};
    scene->request = (struct hpl_sigv4_request){hpl_bytes_str("GET"), hpl_bytes_str("/bucket/a%20key"), hpl_bytes_str("versions&prefix=a"), scene->headers, 3};
    EXPECT_OK(hpl_sigv4_sign(NULL, &scene->request, "someone", scene->secret, "us-east-1", service, &scene->authorization));
    scene->headers[3] = (struct hpl_sigv4_header){hpl_bytes_str("Authorization"), hpl_buf_bytes(&scene->authorization)};
    scene->request.num_headers = 4;
}

static enum hpl_status verify(struct scene *scene)
{
    enum hpl_status status = hpl_sigv4_verify(NULL, scene->auth, &scene->request, &s3, &scene->identity, &scene->payload);
    hpl_sigv4_payload_wipe(&scene->payload);
    return status;
}

static void tear_down(struct scene *scene)
{
    hpl_buf_wipe(&scene->authorization);
    hpl_auth_close(scene->auth);
    hpl_catalog_close(scene->catalog);
    hpl_secret_free(scene->root);
    hpl_secret_free(scene->secret);
}

HPL_TEST(a_signed_request_is_taken_and_says_who)
{
    struct scene scene;
    set_up(&scene);
    sign_at(&scene, hpl_clock_unix_ms(), "s3");
    EXPECT_OK(verify(&scene));
    EXPECT_TEXT(scene.identity.access_key, "someone");
    EXPECT_NUM(scene.identity.role, HPL_ROLE_OBJECTS);
    tear_down(&scene);
}

HPL_TEST(every_changed_digit_of_the_signature_is_refused)
{
    struct scene scene;
    set_up(&scene);
    sign_at(&scene, hpl_clock_unix_ms(), "s3");
    for (size_t i = 1; i <= 64; i++) {
        uint8_t *digit = scene.authorization.data + scene.authorization.len - i, was = *digit;
        *digit = was == '0' ? '1' : '0';
        EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
        *digit = was;
    }
    EXPECT_OK(verify(&scene));
    tear_down(&scene);
}

HPL_TEST(everything_that_is_signed_is_bound)
{
    struct scene scene;
    set_up(&scene);
    sign_at(&scene, hpl_clock_unix_ms(), "s3");
    const struct hpl_sigv4_request good = scene.request;
    scene.request.method = hpl_bytes_str("PUT");
    EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
    scene.request = good;
    scene.request.path = hpl_bytes_str("/bucket/b%20key");
    EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
    scene.request = good;
    scene.request.query = hpl_bytes_str("versions&prefix=b");
    EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
    scene.request = good;
    scene.headers[0].value = hpl_bytes_str("elsewhere");
    EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
    scene.headers[0].value = hpl_bytes_str("127.0.0.1:9000");
    scene.headers[2].value = hpl_bytes_str("UNSIGNED-PAYLOAD");
    EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
    tear_down(&scene);
}

HPL_TEST(a_header_of_amazon_that_is_not_signed_is_refused)
{
    struct scene scene;
    set_up(&scene);
    sign_at(&scene, hpl_clock_unix_ms(), "s3");
    scene.headers[4] = (struct hpl_sigv4_header){hpl_bytes_str("X-Amz-Meta-Brought"), hpl_bytes_str("in")};
    scene.request.num_headers = 5;
    EXPECT_STATUS(verify(&scene), HPL_AUTH_MALFORMED);
    tear_down(&scene);
}

HPL_TEST(another_secret_another_name_and_no_signature_are_refused)
{
    struct scene scene;
    set_up(&scene);
    sign_at(&scene, hpl_clock_unix_ms(), "s3");
    struct hpl_secret *HPL_SECRET_AUTO other = hpl_secret_from("another-secret-of-them", 22);
    EXPECT_OK(hpl_auth_put_credential(NULL, scene.auth, "someone", other, HPL_ROLE_OBJECTS));
    EXPECT_STATUS(verify(&scene), HPL_AUTH_BAD_SIGNATURE);
    EXPECT_TEXT(scene.identity.access_key, "");
    memcpy(memmem(scene.authorization.data, scene.authorization.len, "someone", 7), "nobody1", 7);
    EXPECT_STATUS(verify(&scene), HPL_AUTH_UNKNOWN_KEY);
    scene.request.num_headers = 3;
    EXPECT_STATUS(verify(&scene), HPL_AUTH_REQUIRED);
    tear_down(&scene);
}

HPL_TEST(clocks_may_differ_by_a_quarter_of_an_hour)
{
    static const struct { int64_t minutes; enum hpl_status want; } cases[] = {{-14, HPL_OK}, {14, HPL_OK}, {-16, HPL_AUTH_SKEWED}, {16, HPL_AUTH_SKEWED}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct scene scene;
        set_up(&scene);
        sign_at(&scene, hpl_clock_unix_ms() + cases[i].minutes * 60000, "s3");
        EXPECT_STATUS(verify(&scene), cases[i].want);
        tear_down(&scene);
    }
}

HPL_TEST(a_signature_for_another_service_is_refused)
{
    struct scene scene;
    set_up(&scene);
    sign_at(&scene, hpl_clock_unix_ms(), "kms");
    EXPECT_STATUS(verify(&scene), HPL_AUTH_MALFORMED);
    tear_down(&scene);
}
