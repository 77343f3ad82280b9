/* Keystores in this process, as the key service would open them, and threads that wrap and unwrap under their keys. */
#ifndef HPL_BENCH_KEYSTORES_H
#define HPL_BENCH_KEYSTORES_H

#include "bench/latency.h"
#include "bench/servers.h"
#include "kms/keystore.h"

struct hpl_bench_keystore {
    char name[32], dir[160];
    struct hpl_keystore *keystore;
    struct hpl_catalog *catalog;
    struct hpl_token_option token;
    struct hpl_backend_env env;
    char pin_source[192];
    struct hpl_bench_server server; /* that it talks to, where there is one */
    size_t num_keys, num_used; /* held; wrapped under in turn */
    uint8_t (*uids)[HPL_KEY_UID_LEN];
    struct hpl_wrapped *wrapped; /* a data key under each */
};

struct hpl_bench_keystore_options {
    size_t num_keys;     /* that it holds; the first 16 are used */
    unsigned sessions;   /* of a token */
    unsigned latency_ms; /* that a token takes for each call with a key; 0: as it is */
};

/* name: "local", "softhsm", "tokend" (SoftHSM in a worker process) or "openbao" (HPL_BENCH_OPENBAO). HPL_UNAVAILABLE where this machine has no such thing. Close it, opened or not. */
enum hpl_status hpl_bench_keystore_open(struct hpl_call *call, const struct hpl_bench_place *place, const char *name,
                                        const struct hpl_bench_keystore_options *options, const struct hpl_secret *root, struct hpl_bench_keystore *out) HPL_MUST_USE;
void hpl_bench_keystore_close(struct hpl_bench_keystore *keystore);

struct hpl_bench_wraps {
    uint64_t num_done, num_failed;
    double seconds;
    struct hpl_bench_latency latency;
};
/* num_threads wrap (or unwrap) one data key after the other, under all keys in turn, for so many seconds; wraps is added to. */
void hpl_bench_keystore_run(struct hpl_bench_keystore *keystore, bool is_unwrap, unsigned num_threads, double seconds, struct hpl_bench_wraps *wraps);

#endif
