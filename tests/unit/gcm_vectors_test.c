/* Does every kernel give the published answers: NIST's CAVP files (HPL_CAVP_DIR) and Wycheproof's aes_gcm_test.json (HPL_WYCHEPROOF_DIR)?
 * scripts/part fetches both; what is not given is skipped by name. */
#include "tests/test.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/json.h"
#include "engine/gcm/gcm.h"

/* One question: bytes as hex texts, and whether the tag is right. */
enum field { KEY, NONCE, AAD, PLAIN, SEALED, TAG, NUM_FIELDS };

struct question {
    struct hpl_buf fields[NUM_FIELDS];
    bool is_valid;
    const char *where;
    int number;
};

static void set_field(struct question *q, enum field field, const char *hex, size_t digits)
{
    hpl_buf_wipe(&q->fields[field]);
    uint8_t *at = hpl_buf_extend(&q->fields[field], digits / 2 + 1);
    EXPECT(digits % 2 == 0 && at && hpl_hex_decode(at, digits / 2, hex, digits));
    q->fields[field].len = digits / 2;
}

static void wipe(struct question *q)
{
    for (int i = 0; i < NUM_FIELDS; i++)
        hpl_buf_wipe(&q->fields[i]);
}

static bool run(const struct hpl_gcm_key *key, const struct question *q, bool is_open, enum field from, uint8_t *out)
{
    const struct hpl_buf *f = q->fields;
    struct hpl_gcm gcm;
    uint8_t tag[16];
    hpl_gcm_start(&gcm, key, is_open, f[NONCE].data, f[NONCE].len);
    EXPECT(hpl_gcm_aad(&gcm, f[AAD].data, f[AAD].len) && hpl_gcm_update(&gcm, f[from].data, out, f[from].len));
    hpl_gcm_finish(&gcm, tag);
    return memcmp(tag, f[TAG].data, f[TAG].len) == 0;
}

static void answer(const struct hpl_gcm_kernel *kernel, const struct question *q)
{
    static uint8_t out[65536];
    const struct hpl_buf *f = q->fields;
    struct hpl_gcm_key key;
    EXPECT(f[SEALED].len <= sizeof out);
    hpl_gcm_set_key(&key, kernel, f[KEY].data, f[KEY].len);
    bool is_right = run(&key, q, true, SEALED, out) && (!q->is_valid || memcmp(out, f[PLAIN].data, f[PLAIN].len) == 0);
    if (q->is_valid && is_right)
        is_right = run(&key, q, false, PLAIN, out) && memcmp(out, f[SEALED].data, f[SEALED].len) == 0;
    if (is_right != q->is_valid)
        fprintf(stderr, "\n    %s: %s question %d\n", kernel->name, q->where, q->number);
    EXPECT(is_right == q->is_valid);
}

static void answer_all(const struct question *q)
{
    size_t count;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    for (size_t i = 0; i < count; i++)
        answer(kernels[i], q);
}

/* "Name = hex" into a field. */
static void read_line(struct question *q, const char *line)
{
    static const struct { const char *name; enum field field; } names[] = {
        {"Key", KEY}, {"IV", NONCE}, {"AAD", AAD}, {"PT", PLAIN}, {"CT", SEALED}, {"Tag", TAG}};
    const char *value = strchr(line, '=');
    for (size_t i = 0; value && i < HPL_COUNT(names); i++)
        if (strncmp(line, names[i].name, strlen(names[i].name)) == 0 && line[strlen(names[i].name)] == ' ') {
            value += strspn(value, "= ");
            set_field(q, names[i].field, value, strspn(value, "0123456789abcdefABCDEF"));
        }
}

/* One .rsp file; returns how many questions it asked. */
static int ask_cavp(const char *dir, const char *name)
{
    char path[4096], line[20000];
    struct question q = {.where = name};
    int asked = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "r");
    if (!file)
        fprintf(stderr, "\n    no %s\n", path);
    EXPECT(file != NULL);
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "Count = ", 8) == 0) {
            q.number = atoi(line + 8);
            q.is_valid = true;
        }
        q.is_valid = q.is_valid && strncmp(line, "FAIL", 4) != 0;
        read_line(&q, line);
        if (isspace((unsigned char)line[0]) && q.number >= 0 && q.fields[KEY].len) { /* an empty line ends a question */
            answer_all(&q);
            wipe(&q);
            asked++;
        }
    }
    fclose(file);
    return asked;
}

static const char *given(const char *variable, const char *what)
{
    const char *dir = getenv(variable);
    if (!dir || !*dir)
        hpl_test_skip(what, "its folder is not given; see scripts/part");
    return dir;
}

HPL_TEST(the_cavp_files_are_answered)
{
    static const char *const files[] = {"gcmEncryptExtIV128.rsp", "gcmEncryptExtIV192.rsp", "gcmEncryptExtIV256.rsp",
                                        "gcmDecrypt128.rsp",      "gcmDecrypt192.rsp",      "gcmDecrypt256.rsp"};
    const char *dir = given("HPL_CAVP_DIR", "HPL_CAVP_DIR (NIST CAVP, AES-GCM)");
    given("HPL_WYCHEPROOF_DIR", "HPL_WYCHEPROOF_DIR (Wycheproof, AES-GCM)"); /* a skip ends the program: not after a failure */
    for (size_t i = 0; i < HPL_COUNT(files); i++)
        EXPECT_NUM(ask_cavp(dir, files[i]), 7875);
}

static void set_json(struct question *q, enum field field, const json_t *test, const char *name)
{
    const char *hex = json_string_value(json_object_get(test, name));
    EXPECT(hex != NULL);
    set_field(q, field, hex, strlen(hex));
}

static void ask_wycheproof(const json_t *test)
{
    static const char *const names[] = {[KEY] = "key", [NONCE] = "iv", [AAD] = "aad", [PLAIN] = "msg", [SEALED] = "ct", [TAG] = "tag"};
    struct question q = {.where = "Wycheproof", .number = (int)json_integer_value(json_object_get(test, "tcId"))};
    q.is_valid = strcmp(json_string_value(json_object_get(test, "result")), "invalid") != 0;
    for (int i = 0; i < NUM_FIELDS; i++)
        set_json(&q, (enum field)i, test, names[i]);
    if (q.fields[NONCE].len) /* an empty nonce is refused above this interface, which takes at least one byte */
        answer_all(&q);
    wipe(&q);
}

HPL_TEST(wycheproofs_questions_are_answered)
{
    char path[4096];
    size_t i, k;
    const json_t *group, *test;
    int asked = 0;
    snprintf(path, sizeof path, "%s/aes_gcm_test.json", given("HPL_WYCHEPROOF_DIR", "HPL_WYCHEPROOF_DIR (Wycheproof, AES-GCM)"));
    json_t HPL_JSON_AUTO *root = json_load_file(path, 0, NULL);
    EXPECT(root != NULL);
    json_array_foreach(json_object_get(root, "testGroups"), i, group)
        json_array_foreach(json_object_get(group, "tests"), k, test)
        {
            ask_wycheproof(test);
            asked++;
        }
    EXPECT_NUM(asked, json_integer_value(json_object_get(root, "numberOfTests")));
    EXPECT(asked > 200);
}
