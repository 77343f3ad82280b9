/* Is JSON from outside taken only when it is plain, and does its text leave memory with it? */
#include "tests/test.h"

#include "base/codec.h"
#include "base/json.h"

static enum hpl_status parse(const char *text, json_t **out)
{
    struct hpl_call call = {0};
    *out = NULL;
    return hpl_json_object(&call, out, hpl_bytes_str(text), 1000, false);
}

HPL_TEST(an_object_and_nothing_else_is_taken)
{
    static const char *const wrong[] = {
        "", "[]", "1", "null", "{", "{}x", "{} {}", "{\"a\":1,\"a\":2}", "{\"a\":\"\\u0000\"}", "{\"a\":\"\xff\"}", "{a:1}", "{\"a\":01}", "{\"a\":1,}", "{\"a\":NaN}",
        "\xef\xbb\xbf{}"};
    json_t *object;
    for (size_t i = 0; i < HPL_COUNT(wrong); i++) {
        EXPECT_STATUS(parse(wrong[i], &object), HPL_INVALID_REQUEST);
        EXPECT(!object);
    }
    EXPECT_OK(parse(" {\"a\": {\"b\": [1, \"x\"]}}\n", &object));
    json_decref(object);
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &object, hpl_bytes_str(""), 1000, true));
    EXPECT_NUM(json_object_size(object), 0);
    json_decref(object);
    EXPECT(hpl_json_object(&call, &object, hpl_bytes_str("{\"a\": 1}"), 7, false) != HPL_OK);
}

HPL_TEST(deep_nesting_is_refused_without_a_crash)
{
    static char text[1 << 20];
    struct hpl_call call = {0};
    json_t *object = NULL;
    memcpy(text, "{\"a\":", 5);
    memset(text + 5, '[', sizeof text - 6);
    EXPECT_STATUS(hpl_json_object(&call, &object, hpl_bytes(text, sizeof text - 1), sizeof text, false), HPL_INVALID_REQUEST);
}

HPL_TEST(a_wrong_type_is_refused_by_name)
{
    struct hpl_call call = {0};
    json_t *object;
    const char *text = "before";
    int64_t number = 7;
    bool flag = true;
    EXPECT_OK(parse("{\"text\": 5, \"number\": \"5\", \"real\": 5.0, \"flag\": 0, \"null\": null, \"big\": 31}", &object));
    EXPECT_STATUS(hpl_json_str(&call, object, "text", &text), HPL_INVALID_REQUEST);
    EXPECT(strstr(call.detail, "'text'") != NULL);
    EXPECT_STATUS(hpl_json_int(&call, object, "number", 0, 9, &number), HPL_INVALID_REQUEST);
    EXPECT_STATUS(hpl_json_int(&call, object, "real", 0, 9, &number), HPL_INVALID_REQUEST);
    EXPECT_STATUS(hpl_json_int(&call, object, "big", 7, 30, &number), HPL_INVALID_REQUEST);
    EXPECT_STATUS(hpl_json_bool(&call, object, "flag", &flag), HPL_INVALID_REQUEST);
    EXPECT_OK(hpl_json_str(&call, object, "null", &text));
    EXPECT_OK(hpl_json_int(&call, object, "missing", 0, 9, &number));
    EXPECT_TEXT(text, "before");
    EXPECT_NUM(number, 7);
    json_decref(object);
}

HPL_TEST(equal_values_have_equal_texts)
{
    json_t *one, *two;
    struct hpl_buf first = {0}, second = {0};
    EXPECT_OK(parse("{\"b\": 1, \"a\": [true, {\"d\": 1, \"c\": null}]}", &one));
    EXPECT_OK(parse("{\"a\": [true, {\"c\": null, \"d\": 1}], \"b\": 1}", &two));
    EXPECT_OK(hpl_json_put(&first, one));
    EXPECT_OK(hpl_json_put(&second, two));
    EXPECT_TEXT(hpl_buf_text(&first), hpl_buf_text(&second));
    EXPECT_TEXT(hpl_buf_text(&first), "{\"a\":[true,{\"c\":null,\"d\":1}],\"b\":1}");
    json_decref(one);
    json_decref(two);
    hpl_buf_wipe(&first);
    hpl_buf_wipe(&second);
}

HPL_TEST(a_text_put_as_a_json_string_reads_back_the_same)
{
    static const char *const texts[] = {"", "plain", "a\"b\\c/", "line\nfeed\ttab\x01\x1f", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x91"};
    for (size_t i = 0; i < HPL_COUNT(texts); i++) {
        struct hpl_buf text = {0};
        json_t *object = NULL;
        const char *found = NULL;
        hpl_buf_put_str(&text, "{\"t\":");
        hpl_json_put_text(&text, texts[i]);
        hpl_buf_put_u8(&text, '}');
        EXPECT_OK(parse(hpl_buf_text(&text), &object));
        EXPECT_OK(hpl_json_str(NULL, object, "t", &found));
        EXPECT_TEXT(found, texts[i]);
        json_decref(object);
        hpl_buf_wipe(&text);
    }
}

HPL_TEST(a_detail_is_text_wherever_its_parts_were_cut)
{
    static const char many[] = "x\xc3\xa9\xc3\xa9\xf0\x9f\x98\x80\xf0\x9f\x98\x80";
    char longest[400];
    memset(longest, 'y', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    for (int cut = 0; cut < (int)sizeof many; cut++) {
        struct hpl_call call = {0}, end = {0};
        EXPECT_STATUS(hpl_fail(&call, HPL_NO_SUCH_KEY, "no key '%.*s'", cut, many), HPL_NO_SUCH_KEY);
        EXPECT(hpl_utf8_is_valid(hpl_bytes_str(call.detail)));
        EXPECT(call.detail[strlen(call.detail) - 1] == '\'');
        EXPECT_STATUS(hpl_fail(&end, HPL_NO_SUCH_KEY, "%.*s%s", (int)sizeof end.detail - 1 - cut, longest, many), HPL_NO_SUCH_KEY);
        EXPECT(hpl_utf8_is_valid(hpl_bytes_str(end.detail)));
        EXPECT(strlen(end.detail) > sizeof end.detail - 5);
    }
}
