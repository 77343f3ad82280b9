/* What tests/test.h promises, for programs without CUnit: a broken expectation ends the program. One thread. */
#include "tests/test.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/faults/faults.h"

static char dirs[32][64];
static size_t num_dirs;

static void end_if(bool is_broken, const char *file, int line, const char *what)
{
    if (!is_broken)
        return;
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    fflush(NULL);
    _Exit(3);
}

CU_BOOL CU_assertImplementation(CU_BOOL is_true, unsigned line, const char *what, const char *file, const char *function, CU_BOOL is_fatal)
{
    (void)function, (void)is_fatal;
    end_if(!is_true, file, (int)line, what);
    return CU_TRUE;
}

void hpl_test_status(enum hpl_status got, enum hpl_status want, const char *what, const char *file, int line)
{
    if (got != want)
        fprintf(stderr, "%s is %s, not %s\n", what, hpl_status_row(got)->name, hpl_status_row(want)->name);
    end_if(got != want, file, line, what);
}

void hpl_test_num(long long got, long long want, const char *what, const char *file, int line)
{
    if (got != want)
        fprintf(stderr, "%s is %lld, not %lld\n", what, got, want);
    end_if(got != want, file, line, what);
}

void hpl_test_text(const char *got, const char *want, const char *what, const char *file, int line)
{
    end_if(!got || strcmp(got, want) != 0, file, line, what);
}

void hpl_test_skip(const char *what, const char *why)
{
    const char *ci = getenv("CI");
    bool must = ci && strcmp(ci, "true") == 0;
    printf("%s %s: %s\n", must ? "FAILED (CI needs it)" : "SKIP", what, why);
    fflush(NULL);
    _Exit(must ? 1 : 77);
}

const char *hpl_test_dir(void)
{
    const char *base = getenv("TMPDIR") ? getenv("TMPDIR") : access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp"; /* no disk is measured here */
    EXPECT(num_dirs < HPL_COUNT(dirs));
    char *dir = dirs[num_dirs++];
    snprintf(dir, sizeof dirs[0], "%s/hplXXXXXX", strlen(base) < 40 ? base : "/tmp");
    EXPECT(mkdtemp(dir) != NULL);
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

void faults_remove_dirs(void)
{
    while (num_dirs)
        nftw(dirs[--num_dirs], remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
