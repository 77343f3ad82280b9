/* Whether a sanitizer looks on: its shadow is terabytes of maps, it keeps what was freed, writes no core files and lets no memory be locked. */
#ifndef HPL_TESTS_SANITIZER_H
#define HPL_TESTS_SANITIZER_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_SANITIZER 1
#elif defined(__has_feature)
#define HAS_SANITIZER (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define HAS_SANITIZER 0
#endif

#endif
