/* hardplate-bench gcm, provider: AES-256-GCM by each of our kernels, by our provider, by OpenSSL's and by the peers that are here, interleaved. */
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "bench/peers.h"
#include "engine/gcm/gcm.h"
#include "engine/provider/builtin.h"

#define MAX_IMPLS HPL_BENCH_MAX_TASKS
#define AAD_LEN 32
#define BATCH 16u
#define MAX_BATCH_SIZE 16384u /* of a message: a longer one gains nothing from a batch */
#define MAX_PORTABLE_SIZE (1u << 20) /* it takes a second for 64 MiB */

enum op { OP_SEAL, OP_OPEN, NUM_OPS };
static const char *const op_names[NUM_OPS] = {"seal", "open"};

/* What all implementations work on; in holds what the op of the moment wants. */
struct text {
    uint8_t nonce[12], aad[AAD_LEN], tag[16];
    size_t size;
    enum op op;
    uint8_t *in, *out; /* room for a batch, with 16 bytes more */
    uint8_t *want;     /* what the op of the moment gives by OpenSSL */
};

struct impl {
    char name[64];
    void (*run)(void *impl);
    size_t batch; /* messages a run; 0: one */
    struct text *text;
    struct hpl_gcm_key key;       /* a kernel's */
    EVP_CIPHER_CTX *ctx[NUM_OPS]; /* a provider's */
    const struct hpl_peer *peer;
    void *peer_key;
};

static const uint8_t key_bytes[32] = "not a secret: for the bench only";

/* A message sealed has a nonce of its own; one opened, the nonce it was sealed with. */
static void renew_nonce(struct text *text)
{
    uint64_t count;
    if (text->op == OP_OPEN)
        return;
    memcpy(&count, text->nonce, sizeof count);
    count++;
    memcpy(text->nonce, &count, sizeof count);
}

static void run_kernel(void *arg)
{
    struct impl *impl = arg;
    struct text *text = impl->text;
    uint8_t tag[16];
    const struct hpl_gcm_message m = {.nonce = text->nonce, .aad = text->aad, .in = text->in, .aad_len = AAD_LEN, .len = text->size, .out = text->out, .tag = tag};
    renew_nonce(text);
    HPL_CHECK(hpl_gcm_run(&impl->key, text->op == OP_OPEN, &m));
    if (text->op == OP_OPEN)
        HPL_CHECK(CRYPTO_memcmp(tag, text->tag, sizeof tag) == 0);
    else
        memcpy(text->tag, tag, sizeof tag);
}

/* One text to BATCH places: sealed under a nonce each, or opened again and again. */
static void run_batch(void *arg)
{
    struct impl *impl = arg;
    struct text *text = impl->text;
    struct hpl_gcm_message messages[BATCH];
    uint8_t nonces[BATCH][12], tags[BATCH][16];
    for (size_t i = 0; i < BATCH; i++) {
        renew_nonce(text);
        memcpy(nonces[i], text->nonce, sizeof nonces[i]);
        messages[i] = (struct hpl_gcm_message){.nonce = nonces[i], .aad = text->aad, .in = text->in, .aad_len = AAD_LEN, .len = text->size,
                                               .out = text->out + i * text->size, .tag = tags[i]};
    }
    HPL_CHECK(hpl_gcm_run_many(&impl->key, text->op == OP_OPEN, messages, BATCH));
    for (size_t i = 0; text->op == OP_OPEN && i < BATCH; i++)
        HPL_CHECK(CRYPTO_memcmp(tags[i], text->tag, sizeof text->tag) == 0);
    memcpy(text->tag, tags[BATCH - 1], sizeof text->tag);
}

static void run_evp(void *arg)
{
    struct impl *impl = arg;
    struct text *text = impl->text;
    EVP_CIPHER_CTX *ctx = impl->ctx[text->op];
    int len;
    renew_nonce(text);
    HPL_CHECK(EVP_CipherInit_ex2(ctx, NULL, NULL, text->nonce, -1, NULL) == 1);
    HPL_CHECK(EVP_CipherUpdate(ctx, NULL, &len, text->aad, AAD_LEN) == 1);
    HPL_CHECK(EVP_CipherUpdate(ctx, text->out, &len, text->in, (int)text->size) == 1);
    if (text->op == OP_OPEN)
        HPL_CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, text->tag) == 1);
    HPL_CHECK(EVP_CipherFinal_ex(ctx, text->out + text->size, &len) == 1);
    if (text->op == OP_SEAL)
        HPL_CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, text->tag) == 1);
}

static void run_peer(void *arg)
{
    struct impl *impl = arg;
    struct text *text = impl->text;
    const struct hpl_peer_message m = {text->nonce, text->aad, text->in, AAD_LEN, text->size, text->out, text->tag};
    renew_nonce(text);
    HPL_CHECK((text->op == OP_OPEN ? impl->peer->open : impl->peer->seal)(impl->peer_key, &m));
}

static struct impl *add(struct impl *impls, size_t *count, void (*run)(void *impl), const char *whose, const char *what)
{
    struct impl *impl = &impls[(*count)++];
    HPL_CHECK(*count <= MAX_IMPLS);
    impl->run = run;
    snprintf(impl->name, sizeof impl->name, "%s:%s", whose, what);
    return impl;
}

static bool add_evp(struct impl *impls, size_t *count, OSSL_LIB_CTX *libctx, const char *whose, const char *what)
{
    struct impl *impl = add(impls, count, run_evp, whose, what);
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(libctx, "AES-256-GCM", NULL);
    bool is_done = cipher != NULL;
    for (int op = 0; is_done && op < NUM_OPS; op++) {
        impl->ctx[op] = EVP_CIPHER_CTX_new();
        is_done = impl->ctx[op] && EVP_CipherInit_ex2(impl->ctx[op], cipher, key_bytes, NULL, op == OP_SEAL, NULL) == 1;
    }
    EVP_CIPHER_free(cipher);
    return is_done;
}

/* Best first, and the best once more in batches. */
static void add_kernels(struct impl *impls, size_t *count)
{
    size_t num_kernels;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&num_kernels);
    for (size_t i = 0; i < num_kernels; i++)
        hpl_gcm_set_key(&add(impls, count, run_kernel, "hardplate", kernels[i]->name)->key, kernels[i], key_bytes, sizeof key_bytes);
    struct impl *batch = add(impls, count, run_batch, "hardplate-batch", kernels[0]->name);
    batch->batch = BATCH;
    hpl_gcm_set_key(&batch->key, kernels[0], key_bytes, sizeof key_bytes);
}

static void add_peers(struct impl *impls, size_t *count)
{
    const struct hpl_peer *peers[HPL_BENCH_MAX_PEERS];
    size_t num_peers = hpl_bench_load_peers(peers);
    for (size_t i = 0; i < num_peers; i++) {
        struct impl *impl = &impls[*count];
        impl->peer_key = peers[i]->key_new(key_bytes);
        if (!impl->peer_key)
            continue;
        impl->peer = peers[i];
        impl->run = run_peer;
        snprintf(impl->name, sizeof impl->name, "%s", peers[i]->name);
        (*count)++;
    }
}

/* OpenSSL's default provider is last: the one the others are compared with. */
static bool add_providers(struct impl *impls, size_t *count)
{
    OSSL_LIB_CTX *libctx = hpl_provider_libctx();
    return libctx && add_evp(impls, count, libctx, "hardplate-provider", hpl_gcm_kernel()->name) &&
           add_evp(impls, count, NULL, "openssl-default", OpenSSL_version(OPENSSL_VERSION_STRING));
}

static void free_impls(struct impl *impls)
{
    for (size_t i = 0; i < MAX_IMPLS; i++) {
        for (int op = 0; op < NUM_OPS; op++)
            EVP_CIPHER_CTX_free(impls[i].ctx[op]);
        if (impls[i].peer_key)
            impls[i].peer->key_free(impls[i].peer_key);
        hpl_gcm_wipe(&impls[i].key, sizeof impls[i].key);
    }
}

/* text->in becomes ciphertext that opens: sealed by the first implementation, opened by all. */
static void prepare(struct text *text, struct impl *first, enum op op, size_t size)
{
    text->size = size;
    text->op = OP_SEAL;
    if (op == OP_OPEN) {
        first->run(first);
        memcpy(text->in, text->out, size);
    }
    text->op = op;
}

static bool runs(const struct impl *impl, const struct text *text)
{
    bool is_slow = impl->key.kernel == &hpl_gcm_portable && text->size > MAX_PORTABLE_SIZE;
    return !is_slow && !(impl->batch && text->size > MAX_BATCH_SIZE);
}

static size_t make_tasks(struct hpl_bench_task *tasks, struct impl *impls, size_t num_impls, const struct text *text)
{
    size_t count = 0;
    for (size_t i = 0; i < num_impls; i++) {
        if (!runs(&impls[i], text))
            continue;
        struct hpl_bench_task *task = &tasks[count++];
        *task = (struct hpl_bench_task){.threads = 1, .num_ops = impls[i].batch ? (double)impls[i].batch : 1, .run = impls[i].run, .arg = &impls[i]};
        memcpy(task->impl, impls[i].name, sizeof task->impl);
    }
    return count;
}

/* What is quick and wrong is not measured: every implementation gives OpenSSL's text and tag first. */
static bool agree(struct impl *impls, size_t num_impls, struct text *text)
{
    uint8_t nonce[12], want_tag[16];
    bool is_right = true;
    memcpy(nonce, text->nonce, sizeof nonce);
    for (size_t i = num_impls; is_right && i-- > 0;) {
        if (!runs(&impls[i], text))
            continue;
        memcpy(text->nonce, nonce, sizeof nonce);
        memset(text->out, 0, text->size);
        impls[i].run(&impls[i]); /* checks the tag itself when it opens */
        if (i == num_impls - 1) {
            memcpy(text->want, text->out, text->size);
            memcpy(want_tag, text->tag, sizeof want_tag);
        }
        is_right = memcmp(text->out, text->want, text->size) == 0 && (impls[i].batch || memcmp(text->tag, want_tag, sizeof want_tag) == 0);
        if (!is_right)
            fprintf(stderr, "hardplate-bench: %s does not %s %zu bytes as OpenSSL does\n", impls[i].name, op_names[text->op], text->size);
    }
    return is_right;
}

static bool measure_all(const struct hpl_bench_options *options, const char *command, struct impl *impls, size_t num_impls, struct text *text)
{
    struct hpl_bench_report report;
    struct hpl_bench_task tasks[MAX_IMPLS];
    struct hpl_bench_row rows[MAX_IMPLS];
    hpl_bench_report_init(&report, options, command);
    for (size_t s = 0; s < options->num_sizes; s++)
        for (enum op op = 0; op < NUM_OPS; op++) {
            prepare(text, &impls[0], op, options->sizes[s]);
            if (!agree(impls, num_impls, text))
                return false;
            size_t num_tasks = make_tasks(tasks, impls, num_impls, text);
            hpl_bench_measure(options, tasks, num_tasks, op_names[op], text->size, rows);
            hpl_bench_report_add(&report, rows, num_tasks);
        }
    return hpl_bench_report_end(&report);
}

static bool allocate(struct text *text, const struct hpl_bench_options *options)
{
    size_t most = hpl_bench_max_size(options);
    if (most < MAX_BATCH_SIZE * BATCH)
        most = MAX_BATCH_SIZE * BATCH;
    most = (most + 16 + 63) / 64 * 64;
    text->in = aligned_alloc(64, most);
    text->out = aligned_alloc(64, most);
    text->want = aligned_alloc(64, most);
    if (!text->in || !text->out || !text->want)
        return false;
    memset(text->in, 0x5a, most);
    memset(text->out, 0, most);
    return true;
}

static int run(const struct hpl_bench_options *options, const char *command, bool is_evp_only)
{
    static struct impl impls[MAX_IMPLS];
    struct text text = {.aad = "header of the message, as AAD"};
    size_t count = 0;
    int status = 1;
    if (!is_evp_only) {
        add_kernels(impls, &count);
        add_peers(impls, &count);
    }
    if (!add_providers(impls, &count))
        fprintf(stderr, "hardplate-bench: OpenSSL has no AES-256-GCM for us\n");
    else if (!allocate(&text, options))
        fprintf(stderr, "hardplate-bench: not enough memory for messages of these sizes\n");
    else {
        for (size_t i = 0; i < count; i++)
            impls[i].text = &text;
        status = measure_all(options, command, impls, count, &text) ? 0 : 1;
    }
    free_impls(impls);
    free(text.in);
    free(text.out);
    free(text.want);
    return status;
}

int hpl_bench_gcm(int argc, char **argv)
{
    struct hpl_bench_options options;
    int status = hpl_bench_parse(&options, argc, argv, "16,64,256,1024,4096,8192,16384,65536,1048576,67108864", "16,4096");
    return status >= 0 ? status : run(&options, "gcm", false);
}

int hpl_bench_provider(int argc, char **argv)
{
    struct hpl_bench_options options;
    int status = hpl_bench_parse(&options, argc, argv, "16,64,256,1024,4096,8192,16384", "16,4096");
    return status >= 0 ? status : run(&options, "provider", true);
}
