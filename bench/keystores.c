/* Keystores in this process: opening, keys, threads. */
#include "bench/keystores.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <openssl/rand.h>

#include "backends/backends.h"
#include "base/clock.h"
#include "base/file.h"
#include "catalog/catalog.h"

#define CALL_MS 60000u
#define MAX_USED 16u
#define HPL_BENCH_SLOW_MS "HPL_SLOW_TOKEN_MS"

/* --- opening ---------------------------------------------------------------------------------------------------------------------------------------------- */

static const struct hpl_backend *find_backend(const char *name)
{
    for (const struct hpl_backend *const *at = hpl_backends(); *at; at++)
        if (strcmp((*at)->name, name) == 0)
            return *at;
    return NULL;
}

/* The slow token stands before SoftHSM; it lies beside this program. */
static void slow_module(char *out, size_t out_size)
{
    char self[512];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(self, '/');
    snprintf(out, out_size, "%.*s/slow-token.so", slash ? (int)(slash - self) : 0, self);
}

static enum hpl_status prepare_token(struct hpl_call *call, const struct hpl_bench_keystore_options *options, struct hpl_bench_keystore *out)
{
    static const char *const names[] = {HPL_BENCH_SLOW_MS};
    static const struct hpl_tokend_option worker = {.environment = names, .num_environment = 1};
    static char slow[544];
    char text[16];
    HPL_TRY(hpl_bench_make_token(call, out->dir));
    snprintf(out->pin_source, sizeof out->pin_source, "file:%s/pin", out->dir);
    out->token = (struct hpl_token_option){.name = "main", .uri = "pkcs11:token=bench", .module = HPL_BENCH_SOFTHSM, .pin_source = out->pin_source,
                                           .max_sessions = options->sessions};
    if (strcmp(out->name, "tokend") == 0)
        out->env.tokend = &worker;
    if (options->latency_ms) {
        slow_module(slow, sizeof slow);
        snprintf(text, sizeof text, "%u", options->latency_ms);
        setenv(HPL_BENCH_SLOW_MS, text, 1);
        out->token.module = slow;
    }
    out->env.tokens = &out->token;
    out->env.num_tokens = 1;
    return HPL_OK;
}

static enum hpl_status make_key(struct hpl_call *call, struct hpl_bench_keystore *out, uint8_t uid[static HPL_KEY_UID_LEN])
{
    HPL_CHECK(RAND_bytes(uid, HPL_KEY_UID_LEN) == 1);
    hpl_call_init(call, CALL_MS);
    return out->keystore->ops->create_version(out->keystore, call, uid, 1);
}

static enum hpl_status make_used_keys(struct hpl_call *call, struct hpl_bench_keystore *out, size_t num_used)
{
    static const uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    out->uids = calloc(num_used, sizeof *out->uids);
    out->wrapped = calloc(num_used, sizeof *out->wrapped);
    HPL_CHECK(out->uids && out->wrapped && secret);
    for (; out->num_used < num_used; out->num_used++, out->num_keys++) {
        uint8_t *uid = out->uids[out->num_used];
        HPL_TRY(make_key(call, out, uid));
        HPL_TRY(out->keystore->ops->wrap(out->keystore, call, uid, 1, aad, secret, &out->wrapped[out->num_used]));
    }
    return HPL_OK;
}

/* Copies one key of SoftHSM's, file by file: it takes minutes to make thousands of its own, and to a search they are as many. */
static enum hpl_status copy_token_key(struct hpl_call *call, struct hpl_bench_keystore *out, size_t count)
{
    char pattern[256], command[1024];
    uint8_t uid[HPL_KEY_UID_LEN];
    HPL_TRY(make_key(call, out, uid));
    snprintf(pattern, sizeof pattern, "%s/tokens/*", out->dir);
    snprintf(command, sizeof command, "cd %s && key=$(ls -t *.object | grep -v token.object | head -1) && for i in $(seq 10000 %zu); do cp $key 00000000-0000-0000-0000-0000000$i.object; done",
             pattern, 10000 + count - 1);
    out->keystore->ops->close(out->keystore); /* SoftHSM reads the folder as it starts */
    out->keystore = NULL;
    out->num_keys += count + 1;
    return system(command) == 0 ? HPL_OK : hpl_fail(call, HPL_IO, "cannot copy a key of SoftHSM's in %s", pattern);
}

static enum hpl_status make_other_keys(struct hpl_call *call, const struct hpl_backend *backend, const json_t *config, struct hpl_bench_keystore *out, size_t num_keys)
{
    uint8_t uid[HPL_KEY_UID_LEN];
    if (strcmp(backend->name, "pkcs11") == 0 && num_keys > out->num_keys + 1) {
        HPL_TRY(copy_token_key(call, out, num_keys - out->num_keys - 1));
        HPL_TRY(backend->open(call, config, &out->env, &out->keystore));
    }
    for (; out->num_keys < num_keys; out->num_keys++)
        HPL_TRY(make_key(call, out, uid));
    return HPL_OK;
}

/* The configure body and what has to be there for it. */
static enum hpl_status prepare(struct hpl_call *call, const struct hpl_bench_place *place, const char *backend, const struct hpl_bench_keystore_options *options,
                               struct hpl_bench_keystore *out, json_t **config)
{
    char address[64];
    if (strcmp(backend, "local") == 0)
        *config = json_pack("{s:s}", "backend_type", "local");
    else if (strcmp(backend, "pkcs11") == 0) {
        HPL_TRY(prepare_token(call, options, out));
        *config = json_pack("{s:s, s:s}", "backend_type", "pkcs11", "token", "main");
    } else {
        const char *program = getenv("HPL_BENCH_OPENBAO");
        if (!program || !*program)
            return hpl_fail(call, HPL_UNAVAILABLE, "HPL_BENCH_OPENBAO names no program");
        HPL_TRY(hpl_bench_start_openbao(call, place, program, &out->server));
        snprintf(address, sizeof address, "http://127.0.0.1:%u", out->server.port);
        *config = json_pack("{s:s, s:s, s:{s:s}, s:s}", "backend_type", "vault", "address", address, "auth_method", "token", HPL_BENCH_BAO_TOKEN, "kv_mount", "secret");
    }
    return HPL_OK;
}

enum hpl_status hpl_bench_keystore_open(struct hpl_call *call, const struct hpl_bench_place *place, const char *name,
                                        const struct hpl_bench_keystore_options *options, const struct hpl_secret *root, struct hpl_bench_keystore *out)
{
    char path[192];
    bool is_token = strcmp(name, "softhsm") == 0 || strcmp(name, "tokend") == 0;
    const struct hpl_backend *backend = find_backend(is_token ? "pkcs11" : strcmp(name, "openbao") == 0 ? "vault" : name);
    json_t *HPL_JSON_AUTO config = NULL;
    *out = (struct hpl_bench_keystore){0};
    HPL_CHECK(backend);
    snprintf(out->name, sizeof out->name, "%s", name);
    HPL_CHECK(snprintf(out->dir, sizeof out->dir, "%s/keystore-%s-%zu", place->dir, out->name, options->num_keys) < (int)sizeof out->dir);
    out->env = (struct hpl_backend_env){.state_dir = out->dir, .root = root};
    HPL_TRY(hpl_file_make_dir(call, out->dir));
    HPL_TRY(prepare(call, place, backend->name, options, out, &config));
    snprintf(path, sizeof path, "%s/catalog.db", out->dir);
    HPL_TRY(hpl_catalog_open(call, &out->catalog, path, root));
    out->env.catalog = out->catalog;
    HPL_TRY(backend->open(call, config, &out->env, &out->keystore));
    HPL_TRY(make_other_keys(call, backend, config, out, options->num_keys > MAX_USED ? options->num_keys - MAX_USED : 0));
    return make_used_keys(call, out, options->num_keys < MAX_USED ? options->num_keys : MAX_USED);
}

void hpl_bench_keystore_close(struct hpl_bench_keystore *keystore)
{
    if (keystore->keystore)
        keystore->keystore->ops->close(keystore->keystore);
    hpl_catalog_close(keystore->catalog);
    hpl_bench_stop(&keystore->server);
    free(keystore->uids);
    free(keystore->wrapped);
    *keystore = (struct hpl_bench_keystore){0};
}

/* --- running ----------------------------------------------------------------------------------------------------------------------------------------------- */

struct worker {
    struct hpl_bench_keystore *keystore;
    pthread_t thread;
    bool is_unwrap;
    size_t next;
    uint64_t until_ns;
    struct hpl_bench_wraps wraps;
};

static enum hpl_status do_one(const struct worker *worker, const struct hpl_secret *secret)
{
    static const uint8_t aad[HPL_WRAP_AAD_LEN];
    struct hpl_bench_keystore *keystore = worker->keystore;
    struct hpl_keystore *base = keystore->keystore;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    struct hpl_wrapped wrapped;
    struct hpl_call call;
    size_t key = worker->next % keystore->num_used;
    hpl_call_init(&call, CALL_MS);
    if (worker->is_unwrap)
        return base->ops->unwrap(base, &call, keystore->uids[key], 1, aad, &keystore->wrapped[key], &opened);
    return base->ops->wrap(base, &call, keystore->uids[key], 1, aad, secret, &wrapped);
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    HPL_CHECK(secret);
    for (uint64_t now = hpl_clock_mono_ns(); now < worker->until_ns;) {
        enum hpl_status status = do_one(worker, secret);
        uint64_t end = hpl_clock_mono_ns();
        worker->wraps.num_done += status == HPL_OK;
        worker->wraps.num_failed += status != HPL_OK;
        hpl_bench_latency_note(&worker->wraps.latency, end - now);
        worker->next += 7919; /* a prime: all keys in turn, and not one after the other */
        now = end;
    }
    return NULL;
}

void hpl_bench_keystore_run(struct hpl_bench_keystore *keystore, bool is_unwrap, unsigned num_threads, double seconds, struct hpl_bench_wraps *wraps)
{
    struct worker *workers = calloc(num_threads, sizeof *workers);
    HPL_CHECK(workers);
    uint64_t start_ns = hpl_clock_mono_ns();
    for (unsigned i = 0; i < num_threads; i++) {
        workers[i] = (struct worker){.keystore = keystore, .is_unwrap = is_unwrap, .next = i * 104729u, .until_ns = start_ns + (uint64_t)(seconds * 1e9)};
        HPL_CHECK(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0);
    }
    for (unsigned i = 0; i < num_threads; i++) {
        pthread_join(workers[i].thread, NULL);
        wraps->num_done += workers[i].wraps.num_done;
        wraps->num_failed += workers[i].wraps.num_failed;
        hpl_bench_latency_add(&wraps->latency, &workers[i].wraps.latency);
    }
    wraps->seconds += (double)(hpl_clock_mono_ns() - start_ns) / 1e9;
    free(workers);
}
