/* Is a key nowhere once it was given back: not in memory, not in a core file, not in a child? The needle is kept masked, so that only what is hunted
 * can be found. */
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/secret.h"
#include "engine/aead.h"
#include "tests/sanitizer.h"

#define NEEDLE 24u
#define FOUND 42 /* an exit status that nobody else has */
#define MASK 0xa5u
#define WINDOW (1u << 20)

static const uint8_t pattern[NEEDLE] = {0x11, 0x9b, 0x42, 0xd3, 0x07, 0xee, 0x65, 0x38, 0xc4, 0x5a, 0x81, 0x2f,
                                        0xf0, 0x76, 0x1d, 0xa9, 0x33, 0xbe, 0x58, 0x04, 0xcf, 0x92, 0x6b, 0xe7};

static void unmask(uint8_t *out)
{
    for (size_t i = 0; i < NEEDLE; i++)
        ((volatile uint8_t *)out)[i] = pattern[i] ^ MASK;
}

static bool is_needle(const uint8_t *at)
{
    for (size_t i = 0; i < NEEDLE; i++)
        if ((at[i] ^ MASK) != pattern[i])
            return false;
    return true;
}

static size_t count_in(const uint8_t *window, size_t len)
{
    size_t count = 0;
    for (const uint8_t *at = window; len >= NEEDLE && (at = memchr(at, pattern[0] ^ MASK, (size_t)(window + len - NEEDLE + 1 - at))); at++)
        count += is_needle(at);
    return count;
}

/* From one file offset to another, in windows that overlap. */
static size_t count_between(int fd, uint8_t *window, uint64_t from, uint64_t to)
{
    size_t count = 0;
    while (from < to) {
        size_t want = to - from < WINDOW ? (size_t)(to - from) : WINDOW;
        ssize_t n = pread(fd, window, want, (off_t)from);
        if (n <= 0)
            break;
        count += count_in(window, (size_t)n);
        if ((size_t)n < want || from + (size_t)n == to)
            break;
        from += (size_t)n - NEEDLE + 1;
    }
    return count;
}

/* How often the needle lies in this process's memory. */
static size_t hunt(void)
{
    uint8_t *window = mmap(NULL, WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FILE *maps = fopen("/proc/self/maps", "re");
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    char line[600];
    size_t count = 0;
    EXPECT(window != MAP_FAILED && maps && fd >= 0);
    while (fgets(line, sizeof line, maps)) {
        unsigned long long from, to;
        char rights[8];
        if (sscanf(line, "%llx-%llx %4s", &from, &to, rights) != 3 || rights[0] != 'r' || strstr(line, "[v"))
            continue;
        unsigned long long own = (unsigned long long)(uintptr_t)window, own_end = own + WINDOW;
        if (from < own && own < to)
            count += count_between(fd, window, from, own);
        if (from < own_end && own_end < to)
            count += count_between(fd, window, own_end, to);
        if (to <= own || from >= own_end)
            count += count_between(fd, window, from, to);
    }
    fclose(maps);
    close(fd);
    munmap(window, WINDOW);
    return count;
}

/* Key bytes straight into secret memory. */
static struct hpl_secret *plant(void)
{
    struct hpl_secret *secret = hpl_secret_new(32);
    EXPECT(secret != NULL);
    unmask(secret->bytes);
    return secret;
}

HPL_TEST(a_key_that_was_given_back_is_nowhere)
{
    if (HAS_SANITIZER)
        return;
    uint8_t *open_ground = malloc(NEEDLE);
    EXPECT(open_ground != NULL);
    unmask(open_ground);
    EXPECT(hunt() >= 1); /* the hunter finds what is there to be found */
    hpl_wipe(open_ground, NEEDLE);
    struct hpl_secret *secret = plant();
    const uint8_t *bytes = secret->bytes;
    hpl_secret_free(secret);
    EXPECT(!is_needle(bytes)); /* the region is out of the hunter's reach where the kernel hides it */
    EXPECT_NUM(hunt(), 0);
    free(open_ground);
}

HPL_TEST(a_key_that_was_used_is_nowhere_after)
{
    if (HAS_SANITIZER)
        return;
    static uint8_t message[5000], tag[16];
    static const uint8_t nonce[12];
    struct hpl_call call = {0};
    struct hpl_aead_key *key;
    struct hpl_secret *secret = plant();
    EXPECT_OK(hpl_aead_key_new(&call, &key, secret->bytes, 32));
    hpl_secret_free(secret);
    hpl_aead_seal(key, nonce, hpl_bytes(NULL, 0), message, sizeof message, message, tag);
    hpl_aead_key_free(key);
    EXPECT_NUM(hunt(), 0);
}

/* What the region's map says of itself: lo locked, dd not dumped, wf wiped on fork, dc not copied on fork. */
HPL_TEST(the_region_is_undumped_not_inherited_and_between_guards)
{
    struct hpl_secret *secret = plant();
    FILE *maps = fopen("/proc/self/smaps", "re");
    char line[600], before[8] = "", after[8] = "", rights[8] = "";
    bool is_inside = false, is_found = false, has_after = false;
    EXPECT(maps != NULL);
    while (fgets(line, sizeof line, maps)) {
        unsigned long long from, to;
        char here[8];
        if (sscanf(line, "%llx-%llx %4s ", &from, &to, here) == 3 && strchr(line, '-') < strchr(line, ' ')) {
            if (is_found && !has_after) {
                memcpy(after, here, sizeof after);
                has_after = true;
            }
            is_inside = from <= (uintptr_t)secret->bytes && (uintptr_t)secret->bytes < to;
            if (is_inside) {
                memcpy(before, rights, sizeof before);
                is_found = true;
            }
            memcpy(rights, here, sizeof rights);
        } else if (is_inside && strncmp(line, "VmFlags:", 8) == 0) {
            EXPECT(strstr(line, " dd ") && (strstr(line, " wf ") || strstr(line, " dc ")));
            EXPECT(HAS_SANITIZER || !hpl_secret_is_locked() || strstr(line, " lo "));
        }
    }
    fclose(maps);
    EXPECT(is_found && has_after);
    EXPECT_TEXT(before, "---p");
    EXPECT_TEXT(after, "---p");
    hpl_secret_free(secret);
}

static int ends_by(void (*run)(struct hpl_secret *secret), struct hpl_secret *secret)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        (void)!freopen("/dev/null", "w", stderr);
        run(secret);
        _exit(0);
    }
    waitpid(child, &status, 0);
    return status;
}

static void look_for_it(struct hpl_secret *secret)
{
    _exit(is_needle(secret->bytes) ? FOUND : 0);
}

static void check_it(struct hpl_secret *secret)
{
    hpl_secret_check(secret);
}

HPL_TEST(a_child_has_no_key_and_cannot_take_zeroes_for_one)
{
    struct hpl_secret *secret = plant();
    int status = ends_by(check_it, secret);
    EXPECT(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    uint8_t *bytes = secret->bytes; /* the header is wiped there too */
    struct hpl_secret apart = {.bytes = bytes};
    status = ends_by(look_for_it, &apart);
    EXPECT(!WIFEXITED(status) || WEXITSTATUS(status) != FOUND); /* zeroes there, or no such memory */
    EXPECT(is_needle(secret->bytes));
    hpl_secret_free(secret);
}

static void overrun(struct hpl_secret *secret)
{
    (void)secret;
    struct hpl_secret *own = hpl_secret_new(40);
    if (own) {
        ((volatile uint8_t *)own->bytes)[40] ^= 1;
        hpl_secret_free(own);
    }
}

static void pass_over_the_end(struct hpl_secret *secret)
{
    volatile uint8_t *at = secret->bytes;
    for (;;)
        (void)*at++;
}

HPL_TEST(an_overrun_ends_the_process)
{
    struct hpl_secret *secret = plant();
    int status = ends_by(overrun, secret);
    EXPECT(!WIFEXITED(status) || WEXITSTATUS(status) != 0);
    if (!HAS_SANITIZER) {
        status = ends_by(pass_over_the_end, secret);
        EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    }
    hpl_secret_free(secret);
}

HPL_TEST(a_full_region_says_no_and_gives_back_what_it_gave)
{
    static struct hpl_secret *all[10000];
    size_t before = hpl_secret_in_use(), count = 0;
    while (count < HPL_COUNT(all) && (all[count] = hpl_secret_new(1000)))
        count++;
    EXPECT(count > 100 && count < HPL_COUNT(all));
    for (size_t i = 0; i < count; i++)
        hpl_secret_free(all[i]);
    EXPECT_NUM(hpl_secret_in_use(), before);
    struct hpl_secret *again = hpl_secret_new(100);
    EXPECT(again != NULL);
    for (size_t i = 0; i < 100; i++)
        EXPECT_NUM(again->bytes[i], 0);
    hpl_secret_free(again);
}

static volatile char marker[] = "a marker that a core file of this process holds";

/* The process that dumps its core: HPL_TEST_VICTIM names its folder. Runs before main. */
__attribute__((constructor)) static void victim(void)
{
    const char *dir = getenv("HPL_TEST_VICTIM");
    const struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    if (!dir)
        return;
    marker[0] = 'A';
    struct hpl_secret *secret = hpl_secret_new(32);
    if (secret && chdir(dir) == 0 && setrlimit(RLIMIT_CORE, &all) == 0 && prctl(PR_SET_DUMPABLE, 1) == 0) {
        unmask(secret->bytes);
        abort();
    }
    _exit(1);
}

static bool holds(const char *path, bool (*has)(const uint8_t *at), size_t len)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    uint8_t *map = size > 0 ? mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    bool is_there = false;
    EXPECT(map != MAP_FAILED);
    for (size_t at = 0; !is_there && at + len <= (size_t)size; at++)
        is_there = has(map + at);
    munmap(map, (size_t)size);
    close(fd);
    return is_there;
}

static bool is_marker(const uint8_t *at)
{
    return memcmp(at, "A marker that a core file", 25) == 0;
}

HPL_TEST(a_core_file_holds_no_key)
{
    char path[300], pattern_text[100] = "";
    const char *dir = hpl_test_dir();
    struct rlimit limit;
    FILE *core_pattern = fopen("/proc/sys/kernel/core_pattern", "re");
    if (core_pattern) {
        (void)!fgets(pattern_text, sizeof pattern_text, core_pattern);
        fclose(core_pattern);
    }
    getrlimit(RLIMIT_CORE, &limit);
    if (HAS_SANITIZER || strcmp(pattern_text, "core\n") != 0 || limit.rlim_max != RLIM_INFINITY) {
        printf("\n    SKIP: core files go elsewhere here (%s)\n", pattern_text);
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        setenv("HPL_TEST_VICTIM", dir, 1);
        execl("/proc/self/exe", "victim", (char *)NULL);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    snprintf(path, sizeof path, "%s/core", dir);
    if (access(path, R_OK) != 0)
        snprintf(path, sizeof path, "%s/core.%d", dir, (int)child);
    EXPECT(holds(path, is_marker, 25));
    EXPECT(!holds(path, is_needle, NEEDLE));
}
