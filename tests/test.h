/* Tests as sentences: HPL_TEST(unwrap_refuses_a_blob_of_another_key) { ... } registers itself with CUnit; test.c has main. */
#ifndef HPL_TESTS_TEST_H
#define HPL_TESTS_TEST_H

#include <CUnit/CUnit.h>
#include "base/bytes.h"

void hpl_test_add(const char *name, void (*run)(void));

#define HPL_TEST(name)                                                                             \
    static void name(void);                                                                        \
    __attribute__((constructor)) static void add_##name(void) { hpl_test_add(#name, name); }       \
    static void name(void)

/* Stops the test when false; the values of both sides are printed when numbers differ. */
#define EXPECT(condition) CU_ASSERT_FATAL(condition)
#define EXPECT_OK(expression) hpl_test_status((expression), HPL_OK, #expression, __FILE__, __LINE__)
#define EXPECT_STATUS(expression, want) hpl_test_status((expression), (want), #expression, __FILE__, __LINE__)
#define EXPECT_NUM(got, want) hpl_test_num((long long)(got), (long long)(want), #got, __FILE__, __LINE__)
#define EXPECT_TEXT(got, want) hpl_test_text((got), (want), #got, __FILE__, __LINE__)
#define EXPECT_BYTES(got, want, len) EXPECT(memcmp((got), (want), (len)) == 0)

void hpl_test_status(enum hpl_status got, enum hpl_status want, const char *what, const char *file, int line);
void hpl_test_num(long long got, long long want, const char *what, const char *file, int line);
void hpl_test_text(const char *got, const char *want, const char *what, const char *file, int line);

/* Ends the program as skipped, by name: exit status 77, or a failure when CI=true. */
_Noreturn void hpl_test_skip(const char *what, const char *why);

/* This process's threads whose names begin so; NULL: all of them. One that was joined may linger in /proc while it ends, and is not counted. */
unsigned hpl_test_num_threads(const char *prefix);

/* A fresh private folder, removed with its content when the program ends well. The text lives for ever. */
const char *hpl_test_dir(void);

#endif
