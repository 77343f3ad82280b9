/* The breaker. Any thread. A row of failures is not believed of the backend until its own probe, which touches no key of a user's, fails too: one key
 * whose material is gone does not keep the others from being used. */
#include "kms/breaker.h"

#include <openssl/rand.h>

#include "base/clock.h"

#define FAILURES 5u
#define FIRST_PAUSE_MS 250u
#define MOST_PAUSE_MS 4000u /* so that a backend which answers again is in use within five seconds */

void hpl_breaker_init(struct hpl_breaker *breaker)
{
    *breaker = (struct hpl_breaker){0};
    pthread_mutex_init(&breaker->lock, NULL);
}

void hpl_breaker_wipe(struct hpl_breaker *breaker)
{
    pthread_mutex_destroy(&breaker->lock);
}

bool hpl_breaker_is_outage(enum hpl_status status)
{
    return status == HPL_BACKEND || status == HPL_KEY_UNAVAILABLE || status == HPL_UNAVAILABLE || status == HPL_TIMEOUT;
}

/* Between half and whole of it, so that nodes do not come back together. */
static uint64_t pause_ns(unsigned openings)
{
    uint64_t whole_ms = FIRST_PAUSE_MS;
    uint32_t random = 0;
    for (unsigned i = 1; i < openings && whole_ms < MOST_PAUSE_MS; i++)
        whole_ms *= 2;
    HPL_CHECK(RAND_bytes((unsigned char *)&random, sizeof random) == 1);
    return whole_ms * 500000u + random % (whole_ms * 500000u + 1);
}

/* Under the lock. */
static enum hpl_status refuse(struct hpl_breaker *breaker, struct hpl_call *call, uint64_t now)
{
    uint64_t wait_ms = breaker->open_until_ns > now ? (breaker->open_until_ns - now) / 1000000u : 0;
    breaker->num_refused++;
    if (call)
        call->retry_after_s = (unsigned)(wait_ms / 1000 + 1);
    return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key backend does not answer; it is asked again in %u ms", (unsigned)wait_ms);
}

/* Under the lock. */
static enum hpl_status pass(struct hpl_breaker *breaker, struct hpl_call *call, bool *must_probe)
{
    if (breaker->state == HPL_BREAKER_CLOSED)
        return HPL_OK;
    uint64_t now = hpl_clock_mono_ns();
    if (breaker->is_probing || now < breaker->open_until_ns)
        return refuse(breaker, call, now);
    breaker->state = HPL_BREAKER_HALF_OPEN;
    breaker->is_probing = *must_probe = true;
    return HPL_OK;
}

static enum hpl_status find_room(struct hpl_breaker *breaker, struct hpl_call *call, unsigned limit, enum hpl_breaker_use use)
{
    unsigned for_wraps = limit - limit / 4;
    if (use == HPL_BREAKER_READING || (breaker->inside < limit && (use == HPL_BREAKER_DECRYPT || breaker->wrapping < for_wraps)))
        return HPL_OK;
    breaker->num_turned_away++;
    return hpl_fail(call, HPL_SLOW_DOWN, "%u calls wait for the key backend, as many as may", breaker->inside);
}

enum hpl_status hpl_breaker_enter(struct hpl_breaker *breaker, struct hpl_call *call, unsigned limit, enum hpl_breaker_use use, bool *must_probe)
{
    *must_probe = false;
    pthread_mutex_lock(&breaker->lock);
    enum hpl_status status = find_room(breaker, call, limit, use);
    if (status == HPL_OK)
        status = pass(breaker, call, must_probe);
    if (status == HPL_OK) {
        breaker->inside += use != HPL_BREAKER_READING;
        breaker->wrapping += use == HPL_BREAKER_WRAP;
    }
    pthread_mutex_unlock(&breaker->lock);
    return status;
}

bool hpl_breaker_leave(struct hpl_breaker *breaker, enum hpl_breaker_use use, enum hpl_status status)
{
    bool must_probe = false;
    pthread_mutex_lock(&breaker->lock);
    breaker->inside -= use != HPL_BREAKER_READING;
    breaker->wrapping -= use == HPL_BREAKER_WRAP;
    breaker->failures = hpl_breaker_is_outage(status) ? breaker->failures + 1 : use == HPL_BREAKER_READING ? breaker->failures : 0;
    if (breaker->failures >= FAILURES && breaker->state == HPL_BREAKER_CLOSED && !breaker->is_probing)
        breaker->is_probing = must_probe = true;
    pthread_mutex_unlock(&breaker->lock);
    return must_probe;
}

bool hpl_breaker_suspect(struct hpl_breaker *breaker)
{
    pthread_mutex_lock(&breaker->lock);
    bool must_probe = breaker->state == HPL_BREAKER_CLOSED && !breaker->is_probing;
    if (must_probe)
        breaker->is_probing = true;
    pthread_mutex_unlock(&breaker->lock);
    return must_probe;
}

bool hpl_breaker_probed(struct hpl_breaker *breaker, enum hpl_status status)
{
    pthread_mutex_lock(&breaker->lock);
    bool was_closed = breaker->state == HPL_BREAKER_CLOSED;
    breaker->is_probing = false;
    breaker->failures = 0;
    if (status == HPL_OK) {
        breaker->state = HPL_BREAKER_CLOSED;
        breaker->openings = 0;
    } else {
        breaker->state = HPL_BREAKER_OPEN;
        breaker->openings++;
        breaker->num_opened += was_closed;
        breaker->open_until_ns = hpl_clock_mono_ns() + pause_ns(breaker->openings);
    }
    pthread_mutex_unlock(&breaker->lock);
    return status != HPL_OK && was_closed;
}

bool hpl_breaker_is_open(struct hpl_breaker *breaker)
{
    pthread_mutex_lock(&breaker->lock);
    bool is_open = breaker->state != HPL_BREAKER_CLOSED;
    pthread_mutex_unlock(&breaker->lock);
    return is_open;
}

void hpl_breaker_describe(struct hpl_breaker *breaker, json_t *into)
{
    static const char *const names[] = {"closed", "open", "half-open"};
    pthread_mutex_lock(&breaker->lock);
    json_object_set_new(into, "breaker", json_string(names[breaker->state]));
    json_object_set_new(into, "breaker_opened", json_integer((json_int_t)breaker->num_opened));
    json_object_set_new(into, "refused_while_open", json_integer((json_int_t)breaker->num_refused));
    json_object_set_new(into, "refused_when_full", json_integer((json_int_t)breaker->num_turned_away));
    json_object_set_new(into, "callers_in_backend", json_integer(breaker->inside));
    pthread_mutex_unlock(&breaker->lock);
}
