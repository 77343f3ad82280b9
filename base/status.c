/* The status table and the call's detail. Any thread. */
#include "base/status.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <openssl/rand.h>

#include "base/clock.h"
#include "base/codec.h"

static const struct hpl_status_row table[HPL_NUM_STATUSES] = {
#define HPL_STATUS(name, class, khttp, kcode, shttp, scode, retry, text)                           \
    [HPL_##name] = {#name, HPL_CLASS_##class, khttp, kcode, shttp, scode, retry, text},
#include "base/status.def"
#undef HPL_STATUS
};

const struct hpl_status_row *hpl_status_row(enum hpl_status status)
{
    if ((unsigned)status >= HPL_NUM_STATUSES)
        status = HPL_INTERNAL;
    return &table[status];
}

/* How long the character at text is; 0: there is none of UTF-8. */
static size_t character_len(const char *text)
{
    size_t left = strnlen(text, 4);
    for (size_t len = 1; len <= left; len++)
        if (hpl_utf8_is_valid(hpl_bytes(text, len)))
            return len;
    return 0;
}

/* Whoever cut a text may have cut a character, and JSON and XML take none that is broken. */
static void drop_broken(char *text)
{
    char *to = text;
    while (*text) {
        size_t len = character_len(text);
        memmove(to, text, len);
        to += len;
        text += len ? len : 1;
    }
    *to = '\0';
}

static void put_detail(struct hpl_call *call, const char *fmt, va_list args)
{
    vsnprintf(call->detail, sizeof call->detail, fmt, args);
    drop_broken(call->detail);
}

enum hpl_status hpl_fail(struct hpl_call *call, enum hpl_status status, const char *fmt, ...)
{
    if (call && call->detail[0] == '\0') {
        va_list args;
        va_start(args, fmt);
        put_detail(call, fmt, args);
        va_end(args);
    }
    return status;
}

enum hpl_status hpl_fail_over(struct hpl_call *call, enum hpl_status status, const char *fmt, ...)
{
    if (call) {
        va_list args;
        va_start(args, fmt);
        put_detail(call, fmt, args);
        va_end(args);
    }
    return status;
}

const char *hpl_detail(const struct hpl_call *call, enum hpl_status status)
{
    return call && call->detail[0] ? call->detail : hpl_status_row(status)->text;
}

/* Where the ids of this process begin. */
static uint64_t first_id;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose_first_id(void)
{
    if (RAND_bytes((unsigned char *)&first_id, sizeof first_id) != 1)
        first_id = (uint64_t)hpl_clock_unix_ms();
}

/* Each once in 2^64, and no two alike to the eye (the finaliser of SplitMix64, a bijection); names a request, keeps no secret. */
static uint64_t next_id(void)
{
    static _Atomic uint64_t count;
    pthread_once(&once, choose_first_id);
    uint64_t id = first_id + UINT64_C(0x9e3779b97f4a7c15) * atomic_fetch_add_explicit(&count, 1, memory_order_relaxed);
    id = (id ^ (id >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    id = (id ^ (id >> 27)) * UINT64_C(0x94d049bb133111eb);
    return id ^ (id >> 31);
}

void hpl_call_init(struct hpl_call *call, uint64_t timeout_ms)
{
    *call = (struct hpl_call){0};
    const uint64_t id = next_id();
    hpl_hex_encode(call->request_id, &id, sizeof id);
    if (timeout_ms)
        call->deadline_ns = hpl_clock_mono_ns() + timeout_ms * 1000000u;
}

enum hpl_status hpl_call_check(struct hpl_call *call)
{
    if (call && call->deadline_ns && hpl_clock_mono_ns() >= call->deadline_ns)
        return hpl_fail(call, HPL_TIMEOUT, "the deadline passed");
    return HPL_OK;
}

void hpl_check_failed(const char *condition, const char *file, int line)
{
    char text[256];
    int n = snprintf(text, sizeof text, "hardplate: invariant '%s' broken at %s:%d\n", condition, file, line);
    if (n > 0 && write(STDERR_FILENO, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1) < 0)
        abort();
    abort();
}
