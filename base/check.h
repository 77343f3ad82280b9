/* Invariants, attributes and cleanup: what every other file needs before its first line. */
#ifndef HPL_BASE_CHECK_H
#define HPL_BASE_CHECK_H

#include <stddef.h>
#include <stdint.h>

#define HPL_MUST_USE __attribute__((warn_unused_result))
#define HPL_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define HPL_CLEANUP(fn) __attribute__((cleanup(fn)))
#define HPL_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* An invariant of our own code, checked in release builds too: false ends the process with a line
 * that names the place. Never for input from outside. */
#define HPL_CHECK(condition)                                                                       \
    ((condition) ? (void)0 : hpl_check_failed(#condition, __FILE__, __LINE__))

_Noreturn void hpl_check_failed(const char *condition, const char *file, int line);

#endif
