/* Back-off. Any thread that may sleep. */
#include "base/retry.h"

#include <time.h>
#include <openssl/rand.h>

#include "base/clock.h"

enum hpl_status hpl_retry_wait(struct hpl_call *call, unsigned attempt, unsigned first_ms, unsigned most_ms)
{
    uint64_t whole_ms = first_ms;
    uint32_t random = 0;
    for (unsigned i = 1; i < attempt && whole_ms < most_ms; i++)
        whole_ms *= 2;
    if (whole_ms > most_ms)
        whole_ms = most_ms;
    HPL_CHECK(RAND_bytes((unsigned char *)&random, sizeof random) == 1);
    uint64_t wait_ns = (whole_ms * 500000u) + random % (whole_ms * 500000u + 1);
    if (call && call->deadline_ns && hpl_clock_mono_ns() + wait_ns >= call->deadline_ns)
        return hpl_fail(call, HPL_TIMEOUT, "the deadline came before the next attempt");
    const struct timespec wait = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
    nanosleep(&wait, NULL);
    return HPL_OK;
}
