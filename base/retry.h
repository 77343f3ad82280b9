/* Waiting between attempts: exponential back-off with jitter, within the call's deadline. */
#ifndef HPL_BASE_RETRY_H
#define HPL_BASE_RETRY_H

#include "base/status.h"

/* Sleeps before attempt number (1: the first retry): first_ms doubled each time up to most_ms, between half and whole of it at random. HPL_TIMEOUT
 * without sleeping when the deadline comes first. Blocks: never on an event loop. */
enum hpl_status hpl_retry_wait(struct hpl_call *call, unsigned attempt, unsigned first_ms, unsigned most_ms) HPL_MUST_USE;

#endif
