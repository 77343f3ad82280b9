/* One call for many who ask the same at the same time: the first one makes it, the others wait and get copies of what came of it. Any thread. */
#ifndef HPL_KMS_FLIGHT_H
#define HPL_KMS_FLIGHT_H

#include <pthread.h>

#include "base/secret.h"

#define HPL_FLIGHT_KEY_LEN 32u

struct hpl_flight;

struct hpl_flights {
    pthread_mutex_t lock;
    struct hpl_flight *list; /* short: as many as calls run now */
};

void hpl_flights_init(struct hpl_flights *flights);
void hpl_flights_wipe(struct hpl_flights *flights); /* none may be left */

/* True: the caller makes the call, and ends the flight whatever comes of it. False: somebody makes it; wait. */
bool hpl_flight_begin(struct hpl_flights *flights, const uint8_t key[static HPL_FLIGHT_KEY_LEN], struct hpl_flight **out);
/* secret may be NULL: the status alone is the answer. The caller keeps its own. */
void hpl_flight_end(struct hpl_flights *flights, struct hpl_flight *flight, enum hpl_status status, const char *detail, const struct hpl_secret *secret);
/* What came of it: a secret of the caller's own where there is one, or the same failure. HPL_TIMEOUT at the call's deadline. HPL_STALE when the first
 * one's time ran out and ours has not: ask again. */
enum hpl_status hpl_flight_wait(struct hpl_flights *flights, struct hpl_flight *flight, struct hpl_call *call, struct hpl_secret **out) HPL_MUST_USE;

#endif
