/* The servers that hardplate-bench kms compares: each started here, in a folder of the run's own, on a free port of this machine, ended with it.
 * One thread. */
#ifndef HPL_BENCH_SERVERS_H
#define HPL_BENCH_SERVERS_H

#include "base/secret.h"
#include "bench/load.h"

#define HPL_BENCH_SOFTHSM "/usr/lib/softhsm/libsofthsm2.so"
#define HPL_BENCH_BAO_TOKEN "bench-root-token"
#define HPL_BENCH_REQUESTS 64u /* different ones, sent in turn */

/* Where all of a run's files are: certificates, keys, tokens, state. */
struct hpl_bench_place {
    char dir[128];
    SSL_CTX *client; /* shows the certificate that the servers have too */
    char identity[65]; /* SHA-256 of its public key, as KES names clients */
    struct hpl_secret *secret_key; /* of hardplated's one credential */
};
enum hpl_status hpl_bench_place_init(struct hpl_call *call, struct hpl_bench_place *place) HPL_MUST_USE;
void hpl_bench_place_wipe(struct hpl_bench_place *place);

struct hpl_bench_server {
    char name[32], dir[160];
    pid_t pid;
    unsigned port;
    bool is_tls;
    SSL_CTX *tls;
};

/* Starts and waits until it answers. backend: "local", "softhsm" or "tokend" (the token in a worker process). */
enum hpl_status hpl_bench_start_hardplated(struct hpl_call *call, const struct hpl_bench_place *place, const char *backend, bool is_tls,
                                           struct hpl_bench_server *server) HPL_MUST_USE;
/* program: a path; the key "bench" is there after. */
enum hpl_status hpl_bench_start_openbao(struct hpl_call *call, const struct hpl_bench_place *place, const char *program, struct hpl_bench_server *server) HPL_MUST_USE;
enum hpl_status hpl_bench_start_kes(struct hpl_call *call, const struct hpl_bench_place *place, const char *program, struct hpl_bench_server *server) HPL_MUST_USE;
void hpl_bench_stop(struct hpl_bench_server *server);

/* Whole requests for a data key under "bench", each with a context of its own; batch: keys a request, 1 for the server's plain call. Signed
 * now, so good for 15 minutes. The caller wipes each. */
typedef enum hpl_status hpl_bench_make_fn(struct hpl_call *call, const struct hpl_bench_place *place, const struct hpl_bench_server *server, unsigned batch,
                                          unsigned number, struct hpl_buf *request);
hpl_bench_make_fn hpl_bench_hardplated_request, hpl_bench_openbao_request, hpl_bench_kes_request;

/* A signed admin request to hardplated; HPL_BACKEND, with the answer, where it is refused. */
enum hpl_status hpl_bench_admin(struct hpl_call *call, const struct hpl_bench_place *place, const struct hpl_bench_server *server, const char *path,
                                const char *body) HPL_MUST_USE;

/* A SoftHSM token "bench" in a folder that is there, and its PIN in DIR/pin; this process and those it starts find it (SOFTHSM2_CONF). HPL_UNAVAILABLE
 * without softhsm2. */
enum hpl_status hpl_bench_make_token(struct hpl_call *call, const char *dir) HPL_MUST_USE;

#endif
