/* Does a program that embeds libhardplate get data keys that only the same state, key and context unwrap? */
#include "tests/test.h"

#include <stdio.h>

#include "hardplate/hardplate.h"

static const uint8_t root[32] = {1, 2, 3};
static const struct hardplate_pair context[] = {{"tenant", "7"}, {"purpose", "test"}}, swapped[] = {{"purpose", "test"}, {"tenant", "7"}},
                                   other[] = {{"tenant", "8"}, {"purpose", "test"}}, doubled[] = {{"tenant", "7"}, {"tenant", "7"}};

static hardplate *open_in(const char *dir)
{
    char error[200] = "", json[300];
    hardplate *handle = NULL;
    snprintf(json, sizeof json, "{\"backend_type\": \"local\", \"default_key_id\": \"d\"}");
    int code = hardplate_open(&handle, dir, root, json, NULL, error, sizeof error);
    if (code != 0)
        fprintf(stderr, "%s\n", error);
    EXPECT_NUM(code, 0);
    return handle;
}

HPL_TEST(a_data_key_unwraps_under_its_context_and_after_opening_again)
{
    const char *dir = hpl_test_dir();
    uint8_t key[32], blob[2048], back[32], apart[16];
    size_t blob_len = sizeof blob, back_len = sizeof back;
    char error[200];
    hardplate *handle = open_in(dir);
    EXPECT_NUM(hardplate_generate_data_key(handle, NULL, context, 2, key, 32, blob, &blob_len, error, sizeof error), 0);
    EXPECT(!memmem(blob, blob_len, key, 32));
    EXPECT_NUM(hardplate_decrypt_data_key(handle, blob, blob_len, swapped, 2, back, &back_len, error, sizeof error), 0);
    EXPECT_NUM(back_len, 32);
    EXPECT_BYTES(back, key, 32);
    hardplate_close(handle);
    handle = open_in(dir);
    memset(back, 0, sizeof back);
    back_len = sizeof back;
    EXPECT_NUM(hardplate_decrypt_data_key(handle, blob, blob_len, context, 2, back, &back_len, error, sizeof error), 0);
    EXPECT_BYTES(back, key, 32);
    back_len = sizeof apart;
    EXPECT(hardplate_decrypt_data_key(handle, blob, blob_len, context, 2, apart, &back_len, error, sizeof error) != 0); /* too small for it */
    hardplate_close(handle);
}

HPL_TEST(another_context_or_any_changed_byte_is_refused)
{
    uint8_t key[16], blob[2048], back[32];
    size_t blob_len = sizeof blob, back_len;
    char error[200];
    hardplate *handle = open_in(hpl_test_dir());
    EXPECT_NUM(hardplate_generate_data_key(handle, NULL, context, 2, key, 16, blob, &blob_len, error, sizeof error), 0);
    const struct { const struct hardplate_pair *pairs; size_t num; } wrong[] = {{other, 2}, {context, 1}, {NULL, 0}, {doubled, 2}};
    for (size_t i = 0; i < HPL_COUNT(wrong); i++) {
        back_len = sizeof back;
        error[0] = '\0';
        EXPECT(hardplate_decrypt_data_key(handle, blob, blob_len, wrong[i].pairs, wrong[i].num, back, &back_len, error, sizeof error) > 0);
        EXPECT(error[0]);
    }
    for (size_t i = 0; i < blob_len; i++) {
        back_len = sizeof back;
        blob[i] ^= 1;
        EXPECT(hardplate_decrypt_data_key(handle, blob, blob_len, context, 2, back, &back_len, error, sizeof error) > 0);
        blob[i] ^= 1;
    }
    back_len = sizeof back;
    EXPECT_NUM(hardplate_decrypt_data_key(handle, blob, blob_len, context, 2, back, &back_len, error, sizeof error), 0);
    EXPECT_NUM(back_len, 16);
    hardplate_close(handle);
}

HPL_TEST(what_cannot_be_opened_says_why)
{
    char error[200] = "", tiny[8];
    hardplate *handle = (hardplate *)error;
    uint8_t key[32], blob[10];
    size_t blob_len = sizeof blob;
    EXPECT(hardplate_open(&handle, hpl_test_dir(), root, "{\"backend_type\": \"nothing\"}", NULL, error, sizeof error) > 0);
    EXPECT(!handle && strstr(error, "nothing"));
    EXPECT(hardplate_open(&handle, hpl_test_dir(), root, "{", NULL, tiny, sizeof tiny) > 0);
    EXPECT_NUM(strlen(tiny), sizeof tiny - 1);
    EXPECT(hardplate_open(&handle, "/nowhere/at/all", root, "{}", NULL, NULL, 0) > 0);
    hardplate_close(NULL);
    handle = open_in(hpl_test_dir());
    EXPECT(hardplate_generate_data_key(handle, NULL, NULL, 0, key, 32, blob, &blob_len, error, sizeof error) > 0); /* no room for the blob */
    EXPECT(hardplate_generate_data_key(handle, NULL, NULL, 0, key, 31, blob, &blob_len, error, sizeof error) > 0);
    hardplate_close(handle);
}
