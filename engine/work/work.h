/* Per-core workers: one pinned thread a core, each with its own locked, page-aligned buffer, fed through a ring, asleep when idle. That buffer is where its
 * long messages' looked-up rounds lie (engine/aead.h), and those of its slices of one. Work comes in batches; small work is better done where it arrives. */
#ifndef HPL_ENGINE_WORK_H
#define HPL_ENGINE_WORK_H

#include "base/status.h"

struct hpl_work;

/* Piece index of a batch; scratch is the worker's own locked buffer of HPL_WORK_SCRATCH bytes. */
#define HPL_WORK_SCRATCH 8192u
typedef void (*hpl_work_fn)(void *arg, size_t index, uint8_t *scratch);

/* Starts num_threads workers (0: one for each CPU this process may run on, by affinity and cgroup quota). HPL_UNAVAILABLE when a thread does not start, or
 * their buffers cannot be locked in a process that must (base/secret.h). */
enum hpl_status hpl_work_start(struct hpl_call *call, struct hpl_work **out, unsigned num_threads) HPL_MUST_USE;
/* Waits for what runs, ends the threads, unmaps. NULL is fine. */
void hpl_work_stop(struct hpl_work *work);
unsigned hpl_work_num_threads(const struct hpl_work *work);

/* Runs fn(arg, i, scratch) for every i below count, over the workers, and returns when all are done. When the rings are full the
 * caller waits (back-pressure). Any thread but a worker's own. */
void hpl_work_run(struct hpl_work *work, hpl_work_fn fn, void *arg, size_t count);

#endif
