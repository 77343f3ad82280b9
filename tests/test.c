/* main of every unit test program: runs the registered tests under CUnit, then says how many passed. */
#include "tests/test.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <CUnit/Basic.h>

#include "base/json.h"

#define MAX_TESTS 400
static struct { const char *name; void (*run)(void); } tests[MAX_TESTS];
static size_t num_tests;
static char dirs[64][64];
static size_t num_dirs;

void hpl_test_add(const char *name, void (*run)(void))
{
    HPL_CHECK(num_tests < MAX_TESTS);
    tests[num_tests].name = name;
    tests[num_tests++].run = run;
}

static void stop_if(bool failed, const char *what, const char *file, int line)
{
    CU_assertImplementation(!failed, (unsigned)line, what, file, "", CU_TRUE);
}

void hpl_test_status(enum hpl_status got, enum hpl_status want, const char *what, const char *file, int line)
{
    if (got != want)
        fprintf(stderr, "\n    %s:%d: %s is %s, not %s\n", file, line, what, hpl_status_row(got)->name, hpl_status_row(want)->name);
    stop_if(got != want, what, file, line);
}

void hpl_test_num(long long got, long long want, const char *what, const char *file, int line)
{
    if (got != want)
        fprintf(stderr, "\n    %s:%d: %s is %lld, not %lld\n", file, line, what, got, want);
    stop_if(got != want, what, file, line);
}

void hpl_test_text(const char *got, const char *want, const char *what, const char *file, int line)
{
    bool differ = !got || strcmp(got, want) != 0;
    if (differ)
        fprintf(stderr, "\n    %s:%d: %s is '%s', not '%s'\n", file, line, what, got ? got : "(null)", want);
    stop_if(differ, what, file, line);
}

void hpl_test_skip(const char *what, const char *why)
{
    const char *ci = getenv("CI");
    bool must = ci && strcmp(ci, "true") == 0;
    printf("%s %s: %s\n", must ? "FAILED (CI needs it)" : "SKIP", what, why);
    exit(must ? 1 : 77);
}

#define PF_EXITING 4u /* in the kernel's flags of a task that ends */

static bool lives(const char *tid, const char *prefix)
{
    char path[300], line[600] = "";
    unsigned flags = PF_EXITING;
    snprintf(path, sizeof path, "/proc/self/task/%s/stat", tid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    const char *name = fgets(line, sizeof line, file) ? strchr(line, '(') : NULL, *end = strrchr(line, ')');
    fclose(file);
    return name && end && sscanf(end, ") %*c %*d %*d %*d %*d %*d %u", &flags) == 1 && !(flags & PF_EXITING) && strncmp(name + 1, prefix, strlen(prefix)) == 0;
}

unsigned hpl_test_num_threads(const char *prefix)
{
    DIR *dir = opendir("/proc/self/task");
    unsigned count = 0;
    HPL_CHECK(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        count += entry->d_name[0] != '.' && lives(entry->d_name, prefix ? prefix : "");
    closedir(dir);
    return count;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

const char *hpl_test_dir(void)
{
    const char *base = getenv("TMPDIR");
    HPL_CHECK(num_dirs < HPL_COUNT(dirs));
    char *dir = dirs[num_dirs++];
    snprintf(dir, sizeof dirs[0], "%s/hplXXXXXX", base && strlen(base) < 40 ? base : "/tmp");
    HPL_CHECK(mkdtemp(dir));
    return dir;
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : NULL;
    hpl_json_init();
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite(program_invocation_short_name, NULL, NULL);
    for (size_t i = 0; i < num_tests; i++)
        if (!only || strstr(tests[i].name, only))
            CU_add_test(suite, tests[i].name, tests[i].run);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failed = CU_get_number_of_failures();
    CU_cleanup_registry();
    for (size_t i = 0; !failed && i < num_dirs; i++)
        nftw(dirs[i], remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return failed ? 1 : 0;
}
