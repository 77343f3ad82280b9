/* The status table and the call's detail. Any thread. */
#include "base/status.h"

#include <stdarg.h>
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

static void put_detail(struct hpl_call *call, const char *fmt, va_list args)
{
    vsnprintf(call->detail, sizeof call->detail, fmt, args);
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

void hpl_call_init(struct hpl_call *call, uint64_t timeout_ms)
{
    uint8_t id[8];
    *call = (struct hpl_call){0};
    if (RAND_bytes(id, sizeof id) != 1)
        memset(id, 0, sizeof id);
    hpl_hex_encode(call->request_id, id, sizeof id);
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
