/* Request bodies: lengths, chunks, aws-chunked with AWS's published examples, damaged and cut everywhere. */
#include "tests/test.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "http/body.h"

struct sunk {
    struct hpl_buf data;
};

static bool sink(void *arg, struct hpl_bytes span)
{
    hpl_buf_put_bytes(&((struct sunk *)arg)->data, span);
    return true;
}

/* Feeds text cut at the given place (and again every step bytes), in buffers of their own. *rest: what was left over. */
static enum hpl_status feed(struct hpl_body *body, struct sunk *sunk, const void *text, size_t len, size_t cut, size_t step,
                            size_t *rest)
{
    struct hpl_call call = {0};
    const uint8_t *at = text;
    *rest = len;
    for (size_t next = cut ? cut : step; *rest && !body->is_done; next = step) {
        size_t n = next < *rest ? next : *rest;
        uint8_t *copy = malloc(n);
        HPL_CHECK(copy);
        memcpy(copy, at, n);
        struct hpl_bytes input = hpl_bytes(copy, n);
        enum hpl_status status = hpl_body_feed(&call, body, &input, sink, sunk);
        HPL_CHECK(status != HPL_OK || body->is_done || input.len == 0);
        free(copy);
        at += n - input.len;
        *rest -= n - input.len;
        if (status != HPL_OK)
            return status;
    }
    return body->is_done ? HPL_OK : HPL_INCOMPLETE_BODY;
}

static enum hpl_status feed_chunked(const char *text, size_t cut, size_t step, const char *want, const char *want_rest)
{
    struct hpl_body body;
    struct sunk sunk = {{0}};
    size_t rest;
    EXPECT_OK(hpl_body_init(NULL, &body, -1, true, -1, NULL, 1000000));
    enum hpl_status status = feed(&body, &sunk, text, strlen(text), cut, step, &rest);
    if (status == HPL_OK) {
        EXPECT(hpl_bytes_equal(hpl_buf_bytes(&sunk.data), hpl_bytes_str(want)));
        EXPECT_TEXT(text + strlen(text) - rest, want_rest);
    }
    hpl_buf_wipe(&sunk.data);
    hpl_body_wipe(&body);
    return status;
}

HPL_TEST(a_length_takes_its_bytes_and_leaves_the_rest)
{
    for (size_t step = 1; step < 12; step++) {
        struct hpl_body body;
        struct sunk sunk = {{0}};
        size_t rest;
        EXPECT_OK(hpl_body_init(NULL, &body, 5, false, -1, NULL, 5));
        EXPECT_OK(feed(&body, &sunk, "hello world", 11, 0, step, &rest));
        EXPECT_NUM(rest, 6);
        EXPECT(hpl_bytes_equal(hpl_buf_bytes(&sunk.data), hpl_bytes_str("hello")));
        hpl_buf_wipe(&sunk.data);
        hpl_body_wipe(&body);
    }
    struct hpl_body body;
    EXPECT_STATUS(hpl_body_init(NULL, &body, 6, false, -1, NULL, 5), HPL_TOO_LARGE);
    hpl_body_wipe(&body);
}

HPL_TEST(chunks_are_joined_however_they_are_cut)
{
    static const char text[] = "5\r\nhello\r\n00006;a=b;c;d=\"e;\\\"\"\r\n world\r\n0\r\nX-One: 1\r\nx-two:2\r\n\r\nGET /";
    for (size_t cut = 0; cut < sizeof text; cut++)
        EXPECT_OK(feed_chunked(text, cut, sizeof text, "hello world", "GET /"));
    EXPECT_STATUS(feed_chunked("5;a=\"\x01\"\r\nhello\r\n0\r\n\r\n", 0, 99, "", ""), HPL_INVALID_REQUEST);
    static const char good[] = "5\r\nhello\r\nA;x=\"y z\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n+";
    for (size_t step = 1; step < sizeof good; step++)
        EXPECT_OK(feed_chunked(good, 0, step, "hello0123456789", "+"));
    EXPECT_OK(feed_chunked("0\r\n\r\n", 0, 1, "", ""));
}

HPL_TEST(no_prefix_of_a_chunked_body_is_whole)
{
    static const char text[] = "5\r\nhello\r\n0\r\nT: v\r\n\r\n";
    for (size_t len = 1; len < sizeof text - 1; len++) {
        char part[sizeof text] = "";
        memcpy(part, text, len);
        EXPECT_STATUS(feed_chunked(part, 0, 99, "", ""), HPL_INCOMPLETE_BODY);
    }
}

HPL_TEST(malformed_chunks_are_refused)
{
    static const char *const cases[] = {
        "0x5\r\nhello\r\n", "+5\r\nhello\r\n", "-5\r\n", " 5\r\nhello\r\n", "5 \r\nhello\r\n", "\r\n", "g\r\n", "5\nhello\r\n",
        "5\r\nhello\n0\r\n\r\n", "5\r\nhello!\r\n", "5\r\nhell\r\n0\r\n\r\n", "5\rhello", "5\r\nhello\r\n0\n\n",
        "FFFFFFFFFFFFFFFFF\r\n", "1000000000000000F\r\n", "5;\r\nhello\r\n", "5;=b\r\nhello\r\n", "5;a=\r\nhello\r\n",
        "5;a=\"b\r\nhello\r\n", "5;a b\r\nhello\r\n", "5;a=b=c\r\nhello\r\n", "5 ;a\r\nhello\r\n", "5,a\r\nhello\r\n",
        "0\r\nX : y\r\n\r\n", "0\r\n X: y\r\n\r\n", "0\r\nX\r\n\r\n", "0\r\nX: y\n\r\n", "0\r\nContent-Length: 5\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\nX: \x01\r\n\r\n",
    };
    for (size_t i = 0; i < HPL_COUNT(cases); i++)
        for (size_t step = 1; step < 100; step += 98) {
            enum hpl_status status = feed_chunked(cases[i], 0, step, "", "");
            if (status != HPL_INVALID_REQUEST)
                fprintf(stderr, "\n    %s\n", cases[i]);
            EXPECT_STATUS(status, HPL_INVALID_REQUEST);
        }
}

HPL_TEST(long_lines_and_many_trailers_are_refused)
{
    static char text[20000];
    memset(text, '0', 600);
    strcpy(text + 600, "5\r\nhello\r\n0\r\n\r\n");
    EXPECT_STATUS(feed_chunked(text, 0, 20000, "", ""), HPL_INVALID_REQUEST);
    char *at = stpcpy(text, "0\r\n");
    for (int i = 0; i < 900; i++)
        at = stpcpy(at, "name: value\r\n");
    strcpy(at, "\r\n");
    EXPECT_STATUS(feed_chunked(text, 0, 20000, "", ""), HPL_INVALID_REQUEST);
}

HPL_TEST(a_body_past_its_bound_is_refused)
{
    struct hpl_body body;
    struct sunk sunk = {{0}};
    size_t rest;
    EXPECT_OK(hpl_body_init(NULL, &body, -1, true, -1, NULL, 9));
    EXPECT_STATUS(feed(&body, &sunk, "5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n", 25, 0, 25, &rest), HPL_TOO_LARGE);
    hpl_buf_wipe(&sunk.data);
    hpl_body_wipe(&body);
}

static enum hpl_status feed_hashed(const char *hashed, const char *sent)
{
    struct hpl_sigv4_payload payload = {.mode = HPL_PAYLOAD_HASHED};
    struct hpl_body body;
    struct sunk sunk = {{0}};
    size_t rest;
    hpl_sha256(payload.sha256, hashed, strlen(hashed));
    EXPECT_OK(hpl_body_init(NULL, &body, (int64_t)strlen(sent), false, -1, &payload, 1000));
    enum hpl_status status = feed(&body, &sunk, sent, strlen(sent), 0, 2, &rest);
    if (!*sent) {
        struct hpl_bytes none = {0};
        status = hpl_body_feed(NULL, &body, &none, sink, &sunk);
    }
    hpl_buf_wipe(&sunk.data);
    hpl_body_wipe(&body);
    return status;
}

HPL_TEST(a_hashed_body_is_compared_at_its_end)
{
    EXPECT_OK(feed_hashed("hello", "hello"));
    EXPECT_OK(feed_hashed("", ""));
    EXPECT_STATUS(feed_hashed("hello", "hellO"), HPL_SHA256_MISMATCH);
    EXPECT_STATUS(feed_hashed("hello", ""), HPL_SHA256_MISMATCH);
}

/* The example credentials of AWS's documentation. */
static struct hpl_sigv4_payload example_payload(enum hpl_payload_mode mode, const char *seed)
{
    struct hpl_sigv4_payload payload = {.mode = mode, .timestamp = "20130524T000000Z",
                                        .scope = "20130524/us-east-1/s3/aws4_request"};
    static const char secret[] = "AWS4wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", *const steps[] = {"us-east-1", "s3", "aws4_request"};
    uint8_t key[32];
    hpl_hmac_sha256(key, secret, strlen(secret), "20130524", 8);
    for (size_t i = 0; i < HPL_COUNT(steps); i++)
        hpl_hmac_sha256(key, key, 32, steps[i], strlen(steps[i]));
    payload.signing_key = hpl_secret_from(key, sizeof key);
    HPL_CHECK(payload.signing_key);
    strcpy(payload.previous, seed);
    return payload;
}

/* The 65 KiB object of both examples. */
static void put_example(struct hpl_buf *text, const char *const signatures[3])
{
    hpl_buf_printf(text, "10000;chunk-signature=%s\r\n", signatures[0]);
    memset(hpl_buf_extend(text, 65536), 'a', 65536);
    hpl_buf_printf(text, "\r\n400;chunk-signature=%s\r\n", signatures[1]);
    memset(hpl_buf_extend(text, 1024), 'a', 1024);
    hpl_buf_printf(text, "\r\n0;chunk-signature=%s\r\n", signatures[2]);
}

static void put_signed_example(struct hpl_buf *text)
{
    put_example(text, (const char *const[]){"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
                                            "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
                                            "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"});
    hpl_buf_put_str(text, "\r\n");
}

static void put_trailer_example(struct hpl_buf *text, const char *line_end)
{
    put_example(text, (const char *const[]){"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
                                            "1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
                                            "2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992"});
    hpl_buf_printf(text, "x-amz-checksum-crc32c:sOO8/Q==%sx-amz-trailer-signature:"
                         "d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n", line_end);
}

static enum hpl_status feed_example(bool has_trailer, const struct hpl_buf *text, size_t cut, size_t step)
{
    struct hpl_sigv4_payload payload =
        has_trailer ? example_payload(HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER, "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e")
                    : example_payload(HPL_PAYLOAD_CHUNKED_SIGNED, "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9");
    struct hpl_body body;
    struct sunk sunk = {{0}};
    size_t rest;
    EXPECT_OK(hpl_body_init(NULL, &body, (int64_t)text->len, false, 66560, &payload, 1000000));
    EXPECT(payload.signing_key == NULL);
    enum hpl_status status = feed(&body, &sunk, text->data, text->len, cut, step, &rest);
    if (status == HPL_OK) {
        EXPECT_NUM(sunk.data.len, 66560);
        struct hpl_bytes trailer = hpl_body_trailer(&body, "X-Amz-Checksum-CRC32C");
        EXPECT(has_trailer ? hpl_bytes_equal(trailer, hpl_bytes_str("sOO8/Q==")) : trailer.data == NULL);
    }
    hpl_buf_wipe(&sunk.data);
    hpl_body_wipe(&body);
    return status;
}

HPL_TEST(the_published_signed_chunks_verify_however_they_are_cut)
{
    for (int has_trailer = 0; has_trailer < 3; has_trailer++) {
        struct hpl_buf text = {0};
        if (has_trailer)
            put_trailer_example(&text, has_trailer == 1 ? "\r\n" : "\n\r\n"); /* as the SDKs end the line, and as minio-go does */
        else
            put_signed_example(&text);
        EXPECT(has_trailer || text.len == 66824);
        EXPECT_OK(feed_example(has_trailer, &text, 0, 1));
        for (size_t cut = 0; cut < text.len; cut += cut < 100 || cut + 1400 > text.len ? 1 : 997)
            EXPECT_OK(feed_example(has_trailer, &text, cut, text.len));
        hpl_buf_wipe(&text);
    }
    EXPECT_NUM(hpl_secret_in_use(), 0);
}

HPL_TEST(damaged_signed_chunks_are_refused_wherever_the_damage_is)
{
    for (int has_trailer = 0; has_trailer < 3; has_trailer++) {
        struct hpl_buf text = {0};
        if (has_trailer)
            put_trailer_example(&text, has_trailer == 1 ? "\r\n" : "\n\r\n");
        else
            put_signed_example(&text);
        for (size_t at = 0; at < text.len; at += at < 100 || at + 1400 > text.len ? 1 : 4999) {
            text.data[at] ^= 1;
            EXPECT(feed_example(has_trailer, &text, 0, text.len) != HPL_OK);
            text.data[at] ^= 1;
        }
        hpl_buf_wipe(&text);
    }
}

static enum hpl_status feed_unsigned(const char *text, int64_t decoded_length, bool has_outer, size_t cut)
{
    struct hpl_sigv4_payload payload = {.mode = HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER};
    struct hpl_body body;
    struct sunk sunk = {{0}};
    size_t rest;
    EXPECT_OK(hpl_body_init(NULL, &body, has_outer ? -1 : (int64_t)strlen(text), has_outer, decoded_length, &payload, 1000000));
    enum hpl_status status = feed(&body, &sunk, text, strlen(text), cut, 10000, &rest);
    if (status == HPL_OK)
        EXPECT(hpl_bytes_equal(hpl_buf_bytes(&sunk.data), hpl_bytes_str("hello world")));
    hpl_buf_wipe(&sunk.data);
    hpl_body_wipe(&body);
    return status;
}

HPL_TEST(unsigned_aws_chunks_work_alone_and_within_chunked)
{
    static const char text[] = "6\r\nhello \r\n5\r\nworld\r\n0\r\nx-amz-checksum-crc32:DUoRhQ==\r\n\r\n";
    for (size_t cut = 0; cut < sizeof text - 1; cut++)
        EXPECT_OK(feed_unsigned(text, 11, false, cut));
    char wrapped[200];
    snprintf(wrapped, sizeof wrapped, "1\r\n6\r\n%zx\r\n%s\r\n0\r\n\r\n", strlen(text) - 1, text + 1);
    for (size_t cut = 0; cut < strlen(wrapped); cut++)
        EXPECT_OK(feed_unsigned(wrapped, 11, true, cut));
    EXPECT_STATUS(feed_unsigned(text, 10, false, 0), HPL_INCOMPLETE_BODY);
    EXPECT_STATUS(feed_unsigned(text, 12, false, 0), HPL_INCOMPLETE_BODY);
    EXPECT_STATUS(feed_unsigned("b\r\nhello world\r\n0\r\n\r\nmore", 11, false, 0), HPL_INVALID_REQUEST);
    EXPECT_STATUS(feed_unsigned("b\r\nhello world\r\n", 11, false, 0), HPL_INCOMPLETE_BODY);
    EXPECT_STATUS(feed_unsigned("b;chunk-signature=0\r\nhello world\r\n0\r\n\r\n", 11, false, 0), HPL_INVALID_REQUEST);
    struct hpl_sigv4_payload payload = {.mode = HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER};
    struct hpl_body body;
    EXPECT_STATUS(hpl_body_init(NULL, &body, 10, false, -1, &payload, 1000), HPL_LENGTH_REQUIRED);
    hpl_body_wipe(&body);
}

HPL_TEST(only_a_trailers_line_may_end_in_lf_cr_lf_and_only_within_a_framed_body)
{
    static const char *const wrong[] = {"0\r\n\n\r\n\r\n", "0\r\na:b\n\n\r\n\r\n", "0\r\na:b\nc:d\r\n\r\n", "0\r\na:b\n \r\n\r\n", "0\r\na:b\r\n\n\r\n", "0\n\r\n\r\n",
                                        "0\r\na:b\n\r\r\n\r\n"};
    char text[100];
    EXPECT_OK(feed_unsigned("b\r\nhello world\r\n0\r\na:b\n\r\n\r\n", 11, false, 0));
    EXPECT_OK(feed_unsigned("b\r\nhello world\r\n0\r\na:b\n\r\nc:d\r\n\r\n", 11, false, 0));
    EXPECT_STATUS(feed_unsigned("b\r\nhello world\r\n0\r\na:b\n\r\n", 11, false, 0), HPL_INCOMPLETE_BODY);
    for (size_t i = 0; i < HPL_COUNT(wrong); i++) {
        snprintf(text, sizeof text, "b\r\nhello world\r\n%s", wrong[i]);
        for (size_t cut = 0; cut < strlen(text); cut++)
            EXPECT_STATUS(feed_unsigned(text, 11, false, cut), HPL_INVALID_REQUEST);
    }
    EXPECT_STATUS(feed_unsigned("15\r\nb\r\nhello world\r\n0\r\n\r\n\r\n0\r\na:b\n\r\n\r\n", 11, true, 0), HPL_INVALID_REQUEST); /* the outer trailers */
    EXPECT_OK(feed_unsigned("15\r\nb\r\nhello world\r\n0\r\n\r\n\r\n0\r\na:b\r\n\r\n", 11, true, 0));
}

HPL_TEST(signed_chunks_need_their_signatures)
{
    static const char *const cases[] = {
        "5\r\nhello\r\n0\r\n\r\n", "5;chunk-signature=12\r\nhello\r\n",
        "5;chunk-signature=0055627C9E194CB4542BAE2AA5492E3C1575BBB81B612B7D234B86A503EF5497\r\nhello\r\n",
        "5;x=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\nhello\r\n",
    };
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct hpl_buf text = {0};
        hpl_buf_put_str(&text, cases[i]);
        EXPECT_STATUS(feed_example(false, &text, 0, text.len), HPL_INVALID_REQUEST);
        hpl_buf_wipe(&text);
    }
    /* Signed trailers without their signature, and trailers where none were announced. */
    struct hpl_buf text = {0};
    put_signed_example(&text);
    EXPECT_STATUS(feed_example(true, &text, 0, text.len), HPL_AUTH_BAD_SIGNATURE);
    text.len -= 2;
    hpl_buf_put_str(&text, "x-amz-checksum-crc32c:sOO8/Q==\r\n\r\n");
    EXPECT_STATUS(feed_example(false, &text, 0, text.len), HPL_INVALID_REQUEST);
    hpl_buf_wipe(&text);
}
