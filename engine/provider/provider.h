/* The provider's entry, under one name for the loadable module and for our own programs. */
#ifndef HPL_ENGINE_PROVIDER_PROVIDER_H
#define HPL_ENGINE_PROVIDER_PROVIDER_H

#include <openssl/core.h>

struct hpl_threads;

/* What every operation gets as its provider. Immutable. */
struct hpl_provider {
    struct hpl_threads *threads; /* NULL: none */
};

/* Threads for one large message, in providers made after this whose configuration has no "threads" of its own (more than HPL_THREADS_MAX: as many as that); 0 or 1, as at first:
 * none. Any thread. */
void hpl_provider_set_threads(unsigned count);

int hpl_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *from_core, const OSSL_DISPATCH **functions, void **provider);

#endif
