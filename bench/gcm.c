/* hardplate-bench gcm: AES-256-GCM by each of our kernels, by our provider and by OpenSSL's, interleaved, so that all of them see the same machine. */
#include "bench/bench.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "base/clock.h"
#include "base/json.h"
#include "engine/gcm/gcm.h"
#include "engine/provider/builtin.h"

#define MAX_IMPLS 8
#define MAX_SIZES 32
#define MAX_SIZE (1u << 30)
#define NUM_SAMPLES 9
#define AAD_LEN 32

enum op { OP_SEAL, OP_OPEN, NUM_OPS };
static const char *const op_names[NUM_OPS] = {"seal", "open"};

struct options {
    bool is_json;
    double seconds; /* of measuring, a row */
    size_t sizes[MAX_SIZES], num_sizes;
};

struct text {
    uint8_t nonce[12], aad[AAD_LEN], tag[16];
    uint8_t *in, *out;
};

struct impl {
    char name[64];
    struct hpl_gcm_key key;      /* a kernel's */
    EVP_CIPHER_CTX *ctx[NUM_OPS]; /* a provider's; NULL: a kernel */
};

struct row {
    double ns, cycles, gbps;
};

static const uint8_t key_bytes[32] = "not a secret: for the bench only";

static void run_kernel(struct impl *impl, enum op op, struct text *text, size_t size)
{
    uint8_t tag[16];
    const struct hpl_gcm_message m = {text->nonce, text->aad, text->in, AAD_LEN, size, text->out, tag};
    HPL_CHECK(hpl_gcm_run(&impl->key, op == OP_OPEN, &m));
    if (op == OP_OPEN)
        HPL_CHECK(CRYPTO_memcmp(tag, text->tag, sizeof tag) == 0);
    else
        memcpy(text->tag, tag, sizeof tag);
}

static void run_evp(struct impl *impl, enum op op, struct text *text, size_t size)
{
    EVP_CIPHER_CTX *ctx = impl->ctx[op];
    int len;
    HPL_CHECK(EVP_CipherInit_ex(ctx, NULL, NULL, NULL, text->nonce, -1) == 1);
    HPL_CHECK(EVP_CipherUpdate(ctx, NULL, &len, text->aad, AAD_LEN) == 1);
    HPL_CHECK(EVP_CipherUpdate(ctx, text->out, &len, text->in, (int)size) == 1);
    if (op == OP_OPEN)
        HPL_CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, text->tag) == 1);
    HPL_CHECK(EVP_CipherFinal_ex(ctx, text->out + size, &len) == 1);
    if (op == OP_SEAL)
        HPL_CHECK(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, text->tag) == 1);
}

/* A message sealed has a nonce of its own; one opened, the nonce it was sealed with. */
static void run_once(struct impl *impl, enum op op, struct text *text, size_t size)
{
    uint64_t count;
    if (op == OP_SEAL) {
        memcpy(&count, text->nonce, sizeof count);
        count++;
        memcpy(text->nonce, &count, sizeof count);
    }
    (impl->ctx[op] ? run_evp : run_kernel)(impl, op, text, size);
}

static double time_runs(struct impl *impl, enum op op, struct text *text, size_t size, size_t count)
{
    uint64_t start = hpl_clock_mono_ns();
    for (size_t i = 0; i < count; i++)
        run_once(impl, op, text, size);
    return (double)(hpl_clock_mono_ns() - start);
}

/* How many runs last about ns; warms up on the way. */
static size_t count_for(struct impl *impl, enum op op, struct text *text, size_t size, double ns)
{
    size_t count = 1;
    for (;;) {
        double took = time_runs(impl, op, text, size, count);
        if (took >= ns / 8)
            return (size_t)fmax(1, (double)count * ns / took);
        count *= 2;
    }
}

/* text->in becomes ciphertext that opens. */
static void prepare_open(struct impl *impl, struct text *text, size_t size)
{
    run_once(impl, OP_SEAL, text, size);
    memcpy(text->in, text->out, size);
}

static void measure(struct impl *impls, size_t num_impls, enum op op, size_t size, struct text *text, double seconds, struct row *rows)
{
    double ns[MAX_IMPLS][NUM_SAMPLES], cycles[MAX_IMPLS][NUM_SAMPLES];
    size_t counts[MAX_IMPLS];
    if (op == OP_OPEN)
        prepare_open(&impls[0], text, size);
    for (size_t i = 0; i < num_impls; i++)
        counts[i] = count_for(&impls[i], op, text, size, seconds * 1e9 / NUM_SAMPLES);
    for (size_t sample = 0; sample < NUM_SAMPLES; sample++)
        for (size_t i = 0; i < num_impls; i++) {
            double before = hpl_bench_ghz();
            ns[i][sample] = time_runs(&impls[i], op, text, size, counts[i]) / (double)counts[i];
            cycles[i][sample] = ns[i][sample] * (before + hpl_bench_ghz()) / 2 * 64 / (double)size;
        }
    for (size_t i = 0; i < num_impls; i++) {
        rows[i].ns = hpl_bench_median(ns[i], NUM_SAMPLES);
        rows[i].cycles = hpl_bench_median(cycles[i], NUM_SAMPLES);
        rows[i].gbps = (double)size / rows[i].ns;
    }
}

static bool add_evp(struct impl *impl, OSSL_LIB_CTX *libctx)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(libctx, "AES-256-GCM", NULL);
    bool is_done = cipher != NULL;
    for (int op = 0; is_done && op < NUM_OPS; op++) {
        impl->ctx[op] = EVP_CIPHER_CTX_new();
        is_done = impl->ctx[op] && EVP_CipherInit_ex(impl->ctx[op], cipher, NULL, key_bytes, NULL, op == OP_SEAL) == 1;
    }
    EVP_CIPHER_free(cipher);
    return is_done;
}

/* Kernels best first, then our provider, OpenSSL's last: the one the others are compared with. Returns how many, 0 on failure. */
static size_t make_impls(struct impl impls[MAX_IMPLS])
{
    size_t count;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    OSSL_LIB_CTX *libctx = hpl_provider_libctx();
    HPL_CHECK(count + 2 <= MAX_IMPLS);
    for (size_t i = 0; i < count; i++) {
        snprintf(impls[i].name, sizeof impls[i].name, "hardplate:%s", kernels[i]->name);
        hpl_gcm_set_key(&impls[i].key, kernels[i], key_bytes, sizeof key_bytes);
    }
    snprintf(impls[count].name, sizeof impls[count].name, "hardplate-provider:%s", kernels[0]->name);
    snprintf(impls[count + 1].name, sizeof impls[count + 1].name, "openssl-default:%s", OpenSSL_version(OPENSSL_VERSION_STRING));
    return libctx && add_evp(&impls[count], libctx) && add_evp(&impls[count + 1], NULL) ? count + 2 : 0;
}

static void free_impls(struct impl *impls)
{
    for (size_t i = 0; i < MAX_IMPLS; i++)
        for (int op = 0; op < NUM_OPS; op++)
            EVP_CIPHER_CTX_free(impls[i].ctx[op]);
}

/* What the system calls the processor. */
static void read_cpu_name(char *out, size_t out_size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(out, out_size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0)
            continue;
        snprintf(out, out_size, "%s", colon + 2);
        out[strcspn(out, "\n")] = '\0';
        break;
    }
    if (file)
        fclose(file);
}

static double rounded(double value, double step)
{
    return round(value / step) * step;
}

static void put_row(json_t *rows, enum op op, const char *impl, size_t size, const struct row *row)
{
    json_array_append_new(rows, json_pack("{s:s, s:s, s:I, s:i, s:f, s:f, s:f}", "op", op_names[op], "impl", impl, "size", (json_int_t)size, "threads", 1,
                                          "gbps", rounded(row->gbps, 1e-4), "cycles_per_64b", rounded(row->cycles, 1e-3), "ns_per_op", rounded(row->ns, 1e-2)));
}

static void print_rows(const struct impl *impls, size_t num_impls, enum op op, size_t size, const struct row *rows)
{
    for (size_t i = 0; i < num_impls; i++)
        printf("%-5s %9zu  %-28s %9.3f %12.2f %12.1f %7.2f\n", op_names[op], size, impls[i].name, rows[i].gbps, rows[i].cycles, rows[i].ns,
               rows[num_impls - 1].ns / rows[i].ns);
}

static void print_head(const char *cpu, double wall)
{
    printf("%s, kernel %s", cpu, hpl_gcm_kernel()->name);
    if (wall > 0)
        printf(", AESENC alone: %.2f cycles for 64 bytes", wall);
    printf("\n%-5s %9s  %-28s %9s %12s %12s %7s\n", "op", "size", "implementation", "GB/s", "cycles/64 B", "ns/op", "ratio");
}

static bool print_json(const char *cpu, double wall, json_t *rows)
{
    json_t *object = json_pack("{s:s, s:s, s:o, s:O}", "cpu", cpu, "kernel", hpl_gcm_kernel()->name, "limit_cycles_per_64b",
                               wall > 0 ? json_real(rounded(wall, 1e-3)) : json_null(), "rows", rows);
    bool is_done = object && json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(8)) == 0 && putchar('\n') != EOF;
    json_decref(object);
    return is_done;
}

static bool run_all(const struct options *options, struct impl *impls, size_t num_impls, struct text *text)
{
    HPL_JSON_AUTO json_t *all = json_array();
    struct row rows[MAX_IMPLS];
    char cpu[128];
    double wall = hpl_bench_aes_wall();
    read_cpu_name(cpu, sizeof cpu);
    if (!options->is_json)
        print_head(cpu, wall);
    for (size_t s = 0; s < options->num_sizes; s++)
        for (enum op op = 0; op < NUM_OPS; op++) {
            measure(impls, num_impls, op, options->sizes[s], text, options->seconds, rows);
            for (size_t i = 0; i < num_impls; i++)
                put_row(all, op, impls[i].name, options->sizes[s], &rows[i]);
            if (!options->is_json)
                print_rows(impls, num_impls, op, options->sizes[s], rows);
            fflush(stdout);
        }
    return !options->is_json || print_json(cpu, wall, all);
}

static bool allocate(struct text *text, const struct options *options)
{
    size_t most = 64;
    for (size_t i = 0; i < options->num_sizes; i++)
        most = options->sizes[i] > most ? options->sizes[i] : most;
    most = (most + 16 + 63) / 64 * 64;
    text->in = aligned_alloc(64, most);
    text->out = aligned_alloc(64, most);
    if (!text->in || !text->out)
        return false;
    memset(text->in, 0x5a, most);
    memset(text->out, 0, most);
    return true;
}

static int run(const struct options *options)
{
    static struct impl impls[MAX_IMPLS];
    struct text text = {.aad = "header of the message, as AAD"};
    size_t num_impls = make_impls(impls);
    int status = 1;
    if (num_impls == 0)
        fprintf(stderr, "hardplate-bench: OpenSSL has no AES-256-GCM for us\n");
    else if (!allocate(&text, options))
        fprintf(stderr, "hardplate-bench: not enough memory for messages of these sizes\n");
    else
        status = run_all(options, impls, num_impls, &text) ? 0 : 1;
    free_impls(impls);
    free(text.in);
    free(text.out);
    return status;
}

static void print_usage(FILE *to)
{
    fprintf(to, "usage: hardplate-bench gcm [--json] [--seconds S] [--sizes BYTES,...]\n"
                "  --json       one JSON object instead of the table\n"
                "  --seconds S  of measuring, for each row (0.1)\n"
                "  --sizes ...  of messages, in bytes (16,256,1024,4096,8192,16384,65536,1048576)\n");
}

static bool parse_sizes(struct options *options, const char *text)
{
    char *end;
    options->num_sizes = 0;
    do {
        errno = 0;
        unsigned long long size = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
        if (size == 0 || size > MAX_SIZE || errno || options->num_sizes == MAX_SIZES)
            return false;
        options->sizes[options->num_sizes++] = (size_t)size;
        text = end + 1;
    } while (*end == ',');
    return *end == '\0';
}

static bool parse_seconds(struct options *options, const char *text)
{
    char *end;
    options->seconds = strtod(text, &end);
    return end != text && *end == '\0' && options->seconds > 0 && options->seconds <= 3600;
}

/* -1: go on; else the exit status. */
static int parse(struct options *options, int argc, char **argv)
{
    static const struct option table[] = {
        {"json", no_argument, NULL, 'j'},
        {"seconds", required_argument, NULL, 's'},
        {"sizes", required_argument, NULL, 'z'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    bool is_right = parse_sizes(options, "16,256,1024,4096,8192,16384,65536,1048576");
    for (int option; is_right && (option = getopt_long(argc, argv, "", table, NULL)) != -1;)
        switch (option) {
        case 'j': options->is_json = true; break;
        case 's': is_right = parse_seconds(options, optarg); break;
        case 'z': is_right = parse_sizes(options, optarg); break;
        case 'h': print_usage(stdout); return 0;
        default: is_right = false;
        }
    if (is_right && optind == argc)
        return -1;
    print_usage(stderr);
    return HPL_BENCH_USAGE;
}

int hpl_bench_gcm(int argc, char **argv)
{
    struct options options = {.seconds = 0.1};
    int status = parse(&options, argc, argv);
    return status >= 0 ? status : run(&options);
}
