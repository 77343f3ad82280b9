/* Threads of a provider that was told to have some: for one very large message at a time. A guest's manners: started when first needed, no signals taken, none
 * used in a forked child, all ended with the provider. */
#ifndef HPL_ENGINE_PROVIDER_THREADS_H
#define HPL_ENGINE_PROVIDER_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hpl_gcm;
struct hpl_threads;

#define HPL_THREADS_MAX 256u

/* count threads in all, 2 to HPL_THREADS_MAX, the caller's own among them; none is started yet. NULL when there is no memory. */
struct hpl_threads *hpl_threads_new(unsigned count);
/* Ends the threads; no call may be under way. In a forked child: only forgets them. NULL is fine. */
void hpl_threads_free(struct hpl_threads *threads);

/* As hpl_gcm_update, over the threads if there are any, free and of this process, and the message is long enough; alone otherwise. Any thread. */
bool hpl_threads_update(struct hpl_threads *threads, struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t len);

#endif
