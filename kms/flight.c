/* Flights. Any thread that may block. */
#include "kms/flight.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

#define LONGEST_WAIT_NS 60000000000u /* of a caller without a deadline */

struct hpl_flight {
    uint8_t key[HPL_FLIGHT_KEY_LEN];
    struct hpl_flight *next;
    unsigned num_waiting;
    bool is_done;
    enum hpl_status status;
    char detail[240];
    struct hpl_secret *secret;
    pthread_cond_t done;
};

void hpl_flights_init(struct hpl_flights *flights)
{
    *flights = (struct hpl_flights){0};
    pthread_mutex_init(&flights->lock, NULL);
}

void hpl_flights_wipe(struct hpl_flights *flights)
{
    HPL_CHECK(!flights->list);
    pthread_mutex_destroy(&flights->lock);
}

static struct hpl_flight *new_flight(const uint8_t key[static HPL_FLIGHT_KEY_LEN])
{
    struct hpl_flight *flight = calloc(1, sizeof *flight);
    pthread_condattr_t monotonic;
    if (!flight)
        return NULL;
    memcpy(flight->key, key, HPL_FLIGHT_KEY_LEN);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&flight->done, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return flight;
}

static void free_flight(struct hpl_flight *flight)
{
    hpl_secret_free(flight->secret);
    pthread_cond_destroy(&flight->done);
    free(flight);
}

bool hpl_flight_begin(struct hpl_flights *flights, const uint8_t key[static HPL_FLIGHT_KEY_LEN], struct hpl_flight **out)
{
    pthread_mutex_lock(&flights->lock);
    struct hpl_flight *flight = flights->list;
    while (flight && memcmp(flight->key, key, HPL_FLIGHT_KEY_LEN) != 0)
        flight = flight->next;
    bool is_first = !flight;
    if (!is_first)
        flight->num_waiting++;
    else if ((flight = new_flight(key))) { /* without memory it flies alone */
        flight->next = flights->list;
        flights->list = flight;
    }
    pthread_mutex_unlock(&flights->lock);
    *out = flight;
    return is_first;
}

static void take_out(struct hpl_flights *flights, const struct hpl_flight *flight)
{
    struct hpl_flight **at = &flights->list;
    while (*at != flight)
        at = &(*at)->next;
    *at = flight->next;
}

void hpl_flight_end(struct hpl_flights *flights, struct hpl_flight *flight, enum hpl_status status, const char *detail, const struct hpl_secret *secret)
{
    if (!flight)
        return;
    pthread_mutex_lock(&flights->lock);
    take_out(flights, flight);
    bool is_awaited = flight->num_waiting > 0;
    if (is_awaited) {
        flight->secret = secret ? hpl_secret_from(secret->bytes, secret->len) : NULL;
        flight->status = secret && !flight->secret ? HPL_NO_MEMORY : status;
        snprintf(flight->detail, sizeof flight->detail, "%s", detail ? detail : "");
        flight->is_done = true;
        pthread_cond_broadcast(&flight->done);
    }
    pthread_mutex_unlock(&flights->lock);
    if (!is_awaited)
        free_flight(flight);
}

/* Under the lock. */
static enum hpl_status land(const struct hpl_flight *flight, struct hpl_call *call, struct hpl_secret **out)
{
    if (!flight->is_done)
        return hpl_fail(call, HPL_TIMEOUT, "the deadline passed while another call for the same was awaited");
    if (flight->status == HPL_TIMEOUT && (!call || !call->deadline_ns || hpl_clock_mono_ns() < call->deadline_ns))
        return HPL_STALE;
    if (flight->status != HPL_OK)
        return hpl_fail(call, flight->status, "%s", flight->detail);
    if (flight->secret && !(*out = hpl_secret_from(flight->secret->bytes, flight->secret->len)))
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    return HPL_OK;
}

enum hpl_status hpl_flight_wait(struct hpl_flights *flights, struct hpl_flight *flight, struct hpl_call *call, struct hpl_secret **out)
{
    uint64_t until_ns = call && call->deadline_ns ? call->deadline_ns : hpl_clock_mono_ns() + LONGEST_WAIT_NS;
    const struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    pthread_mutex_lock(&flights->lock);
    while (!flight->is_done && pthread_cond_timedwait(&flight->done, &flights->lock, &until) == 0)
        ;
    enum hpl_status status = land(flight, call, out);
    bool is_last = --flight->num_waiting == 0 && flight->is_done;
    pthread_mutex_unlock(&flights->lock);
    if (is_last)
        free_flight(flight);
    return status;
}
