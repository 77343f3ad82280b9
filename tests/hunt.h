/* Looks for bytes in this process's own memory. What is looked for is given masked (each byte xor HPL_HUNT_MASK), so that only the hunted is found. */
#ifndef HPL_TESTS_HUNT_H
#define HPL_TESTS_HUNT_H

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/test.h"

#define HPL_HUNT_MASK 0xa5u
#define HPL_HUNT_WINDOW (1u << 20)

static inline bool hpl_hunt_is(const uint8_t *at, const uint8_t *masked, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((at[i] ^ HPL_HUNT_MASK) != masked[i])
            return false;
    return true;
}

/* From one address to another, in windows that overlap. */
static inline size_t hpl_hunt_between(int fd, uint8_t *window, uint64_t from, uint64_t to, const uint8_t *masked, size_t len)
{
    size_t count = 0;
    while (from + len <= to) {
        size_t want = to - from < HPL_HUNT_WINDOW ? (size_t)(to - from) : HPL_HUNT_WINDOW;
        ssize_t n = pread(fd, window, want, (off_t)from);
        if (n < (ssize_t)len)
            break;
        for (const uint8_t *at = window; (at = memchr(at, masked[0] ^ HPL_HUNT_MASK, (size_t)(window + n - (ssize_t)len + 1 - at))); at++)
            count += hpl_hunt_is(at, masked, len);
        from += (size_t)n - len + 1;
    }
    return count;
}

/* How often it lies in this process's memory. */
static inline size_t hpl_hunt(const uint8_t *masked, size_t len)
{
    uint8_t *window = mmap(NULL, HPL_HUNT_WINDOW, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FILE *maps = fopen("/proc/self/maps", "re");
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    char line[600];
    size_t count = 0;
    EXPECT(window != MAP_FAILED && maps && fd >= 0);
    uint64_t own = (uint64_t)(uintptr_t)window, own_end = own + HPL_HUNT_WINDOW;
    while (fgets(line, sizeof line, maps)) {
        unsigned long long from, to;
        char rights[8];
        if (sscanf(line, "%llx-%llx %4s", &from, &to, rights) != 3 || rights[0] != 'r' || strstr(line, "[v"))
            continue;
        count += hpl_hunt_between(fd, window, from, to < own || from >= own_end ? to : own, masked, len);
        if (from < own_end && own_end < to)
            count += hpl_hunt_between(fd, window, own_end, to, masked, len);
    }
    fclose(maps);
    close(fd);
    munmap(window, HPL_HUNT_WINDOW);
    return count;
}

#endif
