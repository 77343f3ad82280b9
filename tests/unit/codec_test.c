/* Do bytes, ids and times keep their value through their text forms, and is every other text refused? */
#include "tests/test.h"

#include "base/codec.h"

HPL_TEST(hex_takes_exactly_its_digits)
{
    uint8_t out[4];
    char text[9];
    hpl_hex_encode(text, "\x00\x9f\xA0\xff", 4);
    EXPECT_TEXT(text, "009fa0ff");
    EXPECT(hpl_hex_decode(out, 4, "009FA0ff", 8));
    EXPECT_BYTES(out, "\x00\x9f\xa0\xff", 4);
    EXPECT(!hpl_hex_decode(out, 4, "009fa0f", 7));
    EXPECT(!hpl_hex_decode(out, 4, "009fa0ff0", 9));
    EXPECT(!hpl_hex_decode(out, 4, "009fa0fg", 8));
    EXPECT(!hpl_hex_decode(out, 4, "009fa0f\0", 8));
}

HPL_TEST(base64_is_that_of_rfc_4648_and_nothing_else)
{
    static const struct { const char *plain, *text; } pairs[] = {
        {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};
    static const char *const wrong[] = {"Z", "Zg", "Zg=", "Zg===", "Zh==", "Zm9=", "Zm9v ", "Zm9v\n", "Zm-v", "Zm_v", "=Zm9", "Zm=v", "Zg==Zg==", "Zm9vY"};
    for (size_t i = 0; i < HPL_COUNT(pairs); i++) {
        struct hpl_buf text = {0}, plain = {0};
        hpl_base64_put(&text, pairs[i].plain, strlen(pairs[i].plain));
        EXPECT_TEXT(hpl_buf_text(&text), pairs[i].text);
        EXPECT(hpl_base64_decode(&plain, pairs[i].text, strlen(pairs[i].text)));
        EXPECT_TEXT(hpl_buf_text(&plain), pairs[i].plain);
        hpl_buf_wipe(&text);
        hpl_buf_wipe(&plain);
    }
    for (size_t i = 0; i < HPL_COUNT(wrong); i++) {
        struct hpl_buf plain = {0};
        EXPECT(!hpl_base64_decode(&plain, wrong[i], strlen(wrong[i])));
        EXPECT_NUM(plain.len, 0);
        hpl_buf_wipe(&plain);
    }
    uint8_t exact[3];
    EXPECT(hpl_base64_decode_exact(exact, 3, "Zm9v", 4));
    EXPECT(!hpl_base64_decode_exact(exact, 3, "Zm8=", 4));
    EXPECT(!hpl_base64_decode_exact(exact, 3, "Zm9vYg==", 8));
}

HPL_TEST(percent_encoding_is_what_sigv4_signs)
{
    struct hpl_buf out = {0};
    hpl_uri_put(&out, hpl_bytes_str("/a b+c~d_e-f.g%\xc3\xa9"), true);
    EXPECT_TEXT(hpl_buf_text(&out), "/a%20b%2Bc~d_e-f.g%25%C3%A9");
    out.len = 0;
    hpl_uri_put(&out, hpl_bytes_str("/"), false);
    EXPECT_TEXT(hpl_buf_text(&out), "%2F");
    out.len = 0;
    EXPECT(hpl_uri_decode(&out, hpl_bytes_str("a%2fb+c"), false));
    EXPECT_TEXT(hpl_buf_text(&out), "a/b+c");
    out.len = 0;
    EXPECT(hpl_uri_decode(&out, hpl_bytes_str("a+b"), true));
    EXPECT_TEXT(hpl_buf_text(&out), "a b");
    static const char *const wrong[] = {"%", "%2", "%2g", "a%", "%%20"};
    for (size_t i = 0; i < HPL_COUNT(wrong); i++)
        EXPECT(!hpl_uri_decode(&out, hpl_bytes_str(wrong[i]), false));
    hpl_buf_wipe(&out);
}

HPL_TEST(utf8_is_the_shortest_form_without_surrogates)
{
    static const char *const right[] = {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\xf4\x8f\xbf\xbf"};
    static const char *const wrong[] = {"\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf0\x8f\xbf\xbf", "\xff", "a\xc3z"};
    for (size_t i = 0; i < HPL_COUNT(right); i++)
        EXPECT(hpl_utf8_is_valid(hpl_bytes_str(right[i])));
    for (size_t i = 0; i < HPL_COUNT(wrong); i++)
        EXPECT(!hpl_utf8_is_valid(hpl_bytes_str(wrong[i])));
}

HPL_TEST(times_keep_their_value_in_every_form)
{
    static const struct { enum hpl_time_form form; const char *text; int64_t unit_ms; } forms[] = {
        {HPL_TIME_ISO_MS, "2024-02-29T07:10:42.012Z", 1}, {HPL_TIME_ISO_S, "2024-02-29T07:10:42Z", 1000},
        {HPL_TIME_BASIC, "20240229T071042Z", 1000}, {HPL_TIME_HTTP, "Thu, 29 Feb 2024 07:10:42 GMT", 1000}};
    static const char *const wrong[] = {"", "20240230T071042Z", "20240229T241042Z", "20240229T071042", "20240229T071042Z ", "2024-02-29T07:10:42Z", "20241329T071042Z"};
    const int64_t when = INT64_C(1709190642012);
    for (size_t i = 0; i < HPL_COUNT(forms); i++) {
        char text[40];
        int64_t back = 0;
        hpl_time_text(text, when, forms[i].form);
        EXPECT_TEXT(text, forms[i].text);
        EXPECT(hpl_time_parse(&back, text, forms[i].form));
        EXPECT_NUM(back, when / forms[i].unit_ms * forms[i].unit_ms);
    }
    for (size_t i = 0; i < HPL_COUNT(wrong); i++) {
        int64_t back;
        EXPECT(!hpl_time_parse(&back, wrong[i], HPL_TIME_BASIC));
    }
}

HPL_TEST(uuids_are_of_version_4_and_differ)
{
    uint8_t one[16], two[16];
    char text[37];
    hpl_uuid_new(one);
    hpl_uuid_new(two);
    EXPECT(memcmp(one, two, 16) != 0);
    hpl_uuid_text(text, one);
    EXPECT_NUM(strlen(text), 36);
    EXPECT(text[14] == '4' && strchr("89ab", text[19]));
}

HPL_TEST(a_buffer_past_its_bound_fails_for_good)
{
    struct hpl_buf buf = {.max = 4};
    hpl_buf_put(&buf, "abcd", 4);
    EXPECT_OK(hpl_buf_check(&buf));
    hpl_buf_put_u8(&buf, 'e');
    EXPECT_STATUS(hpl_buf_check(&buf), HPL_TOO_LARGE);
    buf.max = 100;
    hpl_buf_put_u8(&buf, 'e');
    EXPECT_STATUS(hpl_buf_check(&buf), HPL_TOO_LARGE);
    hpl_buf_wipe(&buf);
}

HPL_TEST(a_reader_never_passes_the_end)
{
    struct hpl_reader reader = {.rest = hpl_bytes("\x00\x02hi\x00\x09x", 7)};
    struct hpl_bytes view = hpl_read_lp16(&reader);
    EXPECT(hpl_bytes_equal(view, hpl_bytes_str("hi")));
    view = hpl_read_lp16(&reader);
    EXPECT(reader.is_failed && view.len == 0 && !hpl_read_is_done(&reader));
    EXPECT_NUM(hpl_read_u8(&reader), 0);
}
