/* A load of HTTP/1.1 requests on connections that are kept, over TCP or TLS, from one thread: the same for every server that is compared. Requests are
 * whole texts made beforehand, so that signing them is nobody's time. */
#ifndef HPL_BENCH_LOAD_H
#define HPL_BENCH_LOAD_H

#include <openssl/ssl.h>
#include <sys/types.h>

#include "base/bytes.h"
#include "bench/latency.h"

struct hpl_bench_target {
    unsigned port;                  /* on 127.0.0.1 */
    SSL_CTX *tls;                   /* NULL: plain */
    pid_t pid;                      /* of the server; its children count as its own */
    const struct hpl_buf *requests; /* sent in turn */
    size_t num_requests;
};

struct hpl_bench_load {
    unsigned num_connections;
    double seconds;
    double rate; /* requests a second, each due at its own time; 0: as fast as the answers come */
};

struct hpl_bench_outcome {
    uint64_t num_done, num_failed; /* failed: any status but 200, or a broken connection; not among those done */
    double seconds, server_cpu_s;
    struct hpl_bench_latency latency; /* with a rate: since the request was due and this thread could send it */
};

/* Opens the connections, warms up for a tenth of the time, then measures; outcome is added to. HPL_UNAVAILABLE where the server does not take connections, or
 * ends them. */
enum hpl_status hpl_bench_load_run(struct hpl_call *call, const struct hpl_bench_target *target, const struct hpl_bench_load *load,
                                   struct hpl_bench_outcome *outcome) HPL_MUST_USE;

/* One request on a connection of its own. Appends the body of the answer to body, NULL: not wanted. HPL_UNAVAILABLE where there was no answer. */
enum hpl_status hpl_bench_ask(struct hpl_call *call, const struct hpl_bench_target *target, struct hpl_bytes request, int *http_status,
                              struct hpl_buf *body) HPL_MUST_USE;

/* Seconds of processor time that a process and its children have used. */
double hpl_bench_cpu_of(pid_t pid);

#endif
