/* seal and open: a file, or a pipe, under a data key of the daemon's or a key file's, in the form of docs/formats.md, "Sealed files". The command's
 * thread drives the stream and the workers. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/output.h"
#include "cli/stream.h"
#include "engine/seal/batch.h"
#include "engine/seal/file_header.h"

#define KEY_LEN 32u
#define SUFFIX ".hpl"
/* 1 MiB: six such buffers, keys and the workers of a hundred cores stay below the 8 MiB that a user may lock. Chunks of 2 and 4 MiB were within a tenth (1 GiB in tmpfs, two
 * cores): the kernel's copying decides, not the turning over. */
#define CHUNK_PACKAGES 16u
#define SEALED_PACKAGE_LEN (HPL_PACKAGE_LEN + HPL_PACKAGE_OVERHEAD)

struct job {
    const struct hpl_client *client;
    const char *key_id, *key_file, *in_path, *out_path;
    const char *in_name;     /* in_path as messages call it */
    bool is_seal, is_forced;
    json_t *body;            /* of the question for the daemon; holds the context */
    struct hpl_buf context;  /* in canonical form */
    int in;
    struct stat in_stat;
    struct hpl_output out;
    struct hpl_buf header_bytes, envelope;
    struct hpl_file_header header;
    struct hpl_secret *data_key;
    struct hpl_file_keys keys;
    struct hpl_work *work;
    uint64_t num_packages, len; /* what went through so far */
    char default_out[4096];
};

static enum hpl_exit failed(const struct hpl_call *call, enum hpl_status status)
{
    fprintf(stderr, "hardplate: %s\n", hpl_detail(call, status));
    return HPL_EXIT_FAILED;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The context's pairs, sorted by the bytes of their names, each lp32 name and lp32 value. */
static enum hpl_status put_context(struct hpl_buf *out, const json_t *context)
{
    size_t num_names = 0;
    const char *name;
    json_t *value;
    const char **names = calloc(json_object_size(context) + 1, sizeof *names);
    if (!names)
        return HPL_NO_MEMORY;
    json_object_foreach((json_t *)context, name, value)
        names[num_names++] = name;
    qsort(names, num_names, sizeof *names, by_bytes);
    for (size_t i = 0; i < num_names; i++) {
        hpl_buf_put_lp32(out, hpl_bytes_str(names[i]));
        hpl_buf_put_lp32(out, hpl_bytes_str(json_string_value(json_object_get(context, names[i]))));
    }
    free(names);
    return hpl_buf_check(out);
}

static bool is_pipe(const char *path)
{
    return strcmp(path, "-") == 0;
}

/* FILE.hpl for seal; FILE without .hpl for open; standard output for standard input. False when that names nothing. */
static bool pick_output(struct job *job)
{
    size_t len = strlen(job->in_path);
    if (job->out_path)
        return true;
    job->out_path = job->default_out;
    if (is_pipe(job->in_path))
        return snprintf(job->default_out, sizeof job->default_out, "-") > 0;
    if (job->is_seal)
        return snprintf(job->default_out, sizeof job->default_out, "%s" SUFFIX, job->in_path) < (int)sizeof job->default_out;
    if (len <= strlen(SUFFIX) || len >= sizeof job->default_out || strcmp(job->in_path + len - strlen(SUFFIX), SUFFIX) != 0 ||
        job->in_path[len - strlen(SUFFIX) - 1] == '/')
        return false;
    snprintf(job->default_out, sizeof job->default_out, "%.*s", (int)(len - strlen(SUFFIX)), job->in_path);
    return true;
}

/* NULL when all is well, else what is wrong. */
static const char *read_options(struct job *job, int argc, char **argv)
{
    static const struct option longs[] = {{"key", required_argument, NULL, 'k'},     {"key-file", required_argument, NULL, 'f'},
                                          {"context", required_argument, NULL, 'c'}, {"output", required_argument, NULL, 'o'},
                                          {"force", no_argument, NULL, 'F'},         {0}};
    static const char wanted[] = "one FILE is wanted, or - for standard input";
    int option;
    optind = 0;
    while ((option = getopt_long(argc, argv, "o:", longs, NULL)) != -1)
        switch (option) {
        case 'k': job->key_id = optarg; break;
        case 'f': job->key_file = optarg; break;
        case 'o': job->out_path = optarg; break;
        case 'F': job->is_forced = true; break;
        case 'c':
            if (hpl_cli_add_pair(job->body, "encryption_context", optarg))
                break;
            return "a context is written NAME=VALUE, each name once";
        default: return "an option is not understood";
        }
    if (job->key_id && (job->key_file || !job->is_seal))
        return job->is_seal ? "--key and --key-file exclude each other" : "open finds the key by itself: --key is not taken";
    if (optind + 1 != argc || !*argv[optind] || (job->out_path && !*job->out_path))
        return wanted;
    job->in_path = argv[optind];
    job->in_name = is_pipe(job->in_path) ? "standard input" : job->in_path;
    if (!pick_output(job))
        return "the output has no name yet: give -o OUT, or a FILE that ends in " SUFFIX " to open";
    if (job->is_seal && is_pipe(job->out_path) && isatty(STDOUT_FILENO))
        return "sealed bytes are not for a terminal: redirect standard output or give -o OUT";
    return NULL;
}

/* From the daemon's answer; the envelope only when sealing, since opening brought its own. */
static enum hpl_status take_key(struct hpl_call *call, struct job *job, const json_t *answer)
{
    const char *key = json_string_value(json_object_get(answer, "plaintext_key")), *blob = json_string_value(json_object_get(answer, "ciphertext_blob"));
    job->data_key = hpl_secret_new(KEY_LEN);
    if (!job->data_key)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret memory is full");
    if (!key || !hpl_base64_decode_exact(job->data_key->bytes, KEY_LEN, key, strlen(key)))
        return hpl_fail(call, HPL_INTEGRITY, "the daemon did not answer with a data key of 32 bytes");
    if (job->is_seal && (!blob || !hpl_base64_decode(&job->envelope, blob, strlen(blob))))
        return hpl_fail(call, HPL_INTEGRITY, "the daemon did not answer with a wrapped data key");
    return HPL_OK;
}

static enum hpl_exit ask_daemon(struct job *job, const char *route)
{
    struct hpl_call call = {0};
    struct hpl_client client = {0};
    json_t *HPL_JSON_AUTO answer = NULL;
    enum hpl_exit code = HPL_EXIT_USAGE;
    enum hpl_status status = hpl_client_init(&call, &client, job->client->env_file);
    if (status == HPL_OK)
        code = hpl_client_ask(&client, "POST", route, "", job->body, &answer);
    else
        fprintf(stderr, "hardplate: %s\n", hpl_detail(&call, status));
    hpl_client_wipe(&client);
    if (code != HPL_EXIT_DONE)
        return code;
    status = take_key(&call, job, answer);
    return status == HPL_OK ? HPL_EXIT_DONE : failed(&call, status);
}

static enum hpl_exit new_key(struct job *job)
{
    struct hpl_call call = {0};
    if (job->key_file) {
        enum hpl_status status = hpl_cli_read_key_file(&call, job->key_file, &job->data_key);
        return status == HPL_OK ? HPL_EXIT_DONE : failed(&call, status);
    }
    json_object_set_new(job->body, "key_spec", json_string("AES_256"));
    if (job->key_id)
        json_object_set_new(job->body, "key_id", json_string(job->key_id));
    return ask_daemon(job, "kms/generate-data-key");
}

static enum hpl_exit key_of_header(struct job *job)
{
    struct hpl_call call = {0};
    struct hpl_buf blob = {0};
    bool is_key_file = job->header.source == HPL_FILE_KEY_FILE;
    if (is_key_file != (job->key_file != NULL)) {
        fprintf(stderr, is_key_file ? "hardplate: %s was sealed under a key file: give --key-file FILE\n"
                                    : "hardplate: %s was sealed under a key of the daemon's: leave out --key-file\n", job->in_name);
        return HPL_EXIT_USAGE;
    }
    if (is_key_file) {
        enum hpl_status status = hpl_cli_read_key_file(&call, job->key_file, &job->data_key);
        return status == HPL_OK ? HPL_EXIT_DONE : failed(&call, status);
    }
    hpl_base64_put(&blob, job->header.envelope.data, job->header.envelope.len);
    json_object_set_new(job->body, "ciphertext_blob", blob.is_failed ? NULL : json_stringn((const char *)blob.data, blob.len));
    hpl_buf_wipe(&blob);
    return ask_daemon(job, "kms/decrypt");
}

static enum hpl_status open_input(struct hpl_call *call, struct job *job)
{
    job->in = is_pipe(job->in_path) ? STDIN_FILENO : open(job->in_path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (job->in < 0 || fstat(job->in, &job->in_stat) != 0)
        return hpl_file_error(call, "cannot open", job->in_name);
    if (S_ISDIR(job->in_stat.st_mode))
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "%s is a folder: tar it into %s -", job->in_name, job->is_seal ? "hardplate seal" : "hardplate open");
    posix_fadvise(job->in, 0, 0, POSIX_FADV_SEQUENTIAL);
    return HPL_OK;
}

/* len more bytes of the input, appended. */
static enum hpl_status read_exactly(struct hpl_call *call, const struct job *job, struct hpl_buf *buf, size_t len)
{
    uint8_t *at = hpl_buf_extend(buf, len);
    if (!at)
        return HPL_NO_MEMORY;
    while (len) {
        ssize_t n = read(job->in, at, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hpl_file_error(call, "cannot read", job->in_name);
        if (n == 0)
            return hpl_fail(call, HPL_INTEGRITY, "%s is not a file that hardplate seal wrote, or it was cut short", job->in_name);
        at += n;
        len -= (size_t)n;
    }
    return HPL_OK;
}

static enum hpl_status read_header(struct hpl_call *call, struct job *job)
{
    HPL_TRY(read_exactly(call, job, &job->header_bytes, HPL_FILE_START_LEN));
    size_t len = hpl_file_header_len(job->header_bytes.data);
    if (!len)
        return hpl_fail(call, HPL_INTEGRITY, "%s is not a file that hardplate seal wrote", job->in_name);
    HPL_TRY(read_exactly(call, job, &job->header_bytes, len - HPL_FILE_START_LEN));
    return hpl_file_header_decode(call, hpl_buf_bytes(&job->header_bytes), &job->header);
}

static enum hpl_status count(struct hpl_call *call, struct job *job, size_t num_packages)
{
    if (job->num_packages + num_packages >= UINT32_MAX)
        return hpl_fail(call, HPL_TOO_LARGE, "%s is larger than the 256 TiB that a sealed file holds", job->in_name);
    job->num_packages += num_packages;
    return HPL_OK;
}

static enum hpl_status seal_chunk(struct hpl_call *call, void *arg, const uint8_t *in, size_t in_len, bool is_last, uint8_t *out, size_t *out_len)
{
    struct job *job = arg;
    uint32_t first = (uint32_t)job->num_packages;
    HPL_TRY(count(call, job, hpl_num_packages(in_len)));
    *out_len = in_len ? hpl_packages_seal_all(job->work, job->keys.part, first, is_last, in, in_len, out) : 0;
    job->len += in_len;
    if (is_last) {
        hpl_file_trailer(out + *out_len, &job->keys, &job->header, job->len);
        *out_len += HPL_FILE_TRAILER_LEN;
    }
    return HPL_OK;
}

static enum hpl_status damaged(struct hpl_call *call, const struct job *job)
{
    return hpl_fail(call, HPL_INTEGRITY, "%s is damaged or was cut short behind its first %llu bytes of content: take another copy", job->in_name,
                    (unsigned long long)job->len);
}

/* A chunk that is not the last holds whole packages, none of them final; the last is followed by the trailer. */
static enum hpl_status open_chunk(struct hpl_call *call, void *arg, const uint8_t *in, size_t in_len, bool is_last, uint8_t *out, size_t *out_len)
{
    struct job *job = arg;
    uint32_t first = (uint32_t)job->num_packages;
    uint8_t trailer[HPL_FILE_TRAILER_LEN];
    if (is_last && in_len < sizeof trailer)
        return damaged(call, job);
    size_t sealed_len = is_last ? in_len - sizeof trailer : in_len, rest = sealed_len % SEALED_PACKAGE_LEN;
    if (rest && rest <= HPL_PACKAGE_OVERHEAD)
        return damaged(call, job);
    HPL_TRY(count(call, job, sealed_len / SEALED_PACKAGE_LEN + (rest != 0)));
    uint64_t len = job->len + sealed_len / SEALED_PACKAGE_LEN * HPL_PACKAGE_LEN + (rest ? rest - HPL_PACKAGE_OVERHEAD : 0);
    uint64_t part_len = is_last ? len : len + 1; /* one more byte: none of these is the part's last package */
    *out_len = 0;
    if (sealed_len && hpl_packages_open_all(NULL, job->work, job->keys.part, part_len, first, in, sealed_len, out, out_len) != HPL_OK)
        return damaged(call, job);
    if (is_last) {
        hpl_file_trailer(trailer, &job->keys, &job->header, len);
        if (!hpl_equal_secret(trailer, in + sealed_len, sizeof trailer))
            return damaged(call, job);
    }
    job->len = len;
    return HPL_OK;
}

static const char *out_name(const struct job *job)
{
    return is_pipe(job->out_path) ? "standard output" : job->out_path;
}

static enum hpl_status run_stream(struct hpl_call *call, struct job *job)
{
    size_t plain_len = CHUNK_PACKAGES * (size_t)HPL_PACKAGE_LEN, sealed_len = CHUNK_PACKAGES * (size_t)SEALED_PACKAGE_LEN;
    const struct hpl_stream stream = {
        .in = job->in, .out = job->out.fd, .in_name = job->in_name, .out_name = out_name(job),
        .chunk_len = job->is_seal ? plain_len : sealed_len,
        .ahead_len = job->is_seal ? 1 : HPL_FILE_TRAILER_LEN + 1,
        .out_max = job->is_seal ? sealed_len + HPL_FILE_TRAILER_LEN : plain_len,
        .turn = job->is_seal ? seal_chunk : open_chunk, .arg = job,
        .doing = isatty(STDERR_FILENO) ? (job->is_seal ? "sealing" : "opening") : NULL,
        .total_len = S_ISREG(job->in_stat.st_mode) ? (uint64_t)job->in_stat.st_size : 0,
    };
    HPL_TRY(hpl_work_start(call, &job->work, 0));
    return hpl_stream_run(call, &stream);
}

/* The input's permissions; for a pipe the owner's alone. */
static enum hpl_status open_output(struct hpl_call *call, struct job *job)
{
    return hpl_output_open(call, &job->out, job->out_path, job->is_forced, S_ISREG(job->in_stat.st_mode) ? job->in_stat.st_mode : 0600);
}

static enum hpl_status write_sealed(struct hpl_call *call, struct job *job)
{
    job->header.source = job->key_file ? HPL_FILE_KEY_FILE : HPL_FILE_KEY_ENVELOPE;
    job->header.envelope = hpl_buf_bytes(&job->envelope);
    HPL_TRY(hpl_file_header_new(call, &job->header, job->data_key, hpl_buf_bytes(&job->context), &job->header_bytes, &job->keys));
    HPL_TRY(open_output(call, job));
    HPL_TRY(hpl_file_write_all(call, job->out.fd, job->header_bytes.data, job->header_bytes.len, out_name(job)));
    HPL_TRY(run_stream(call, job));
    return hpl_output_finish(call, &job->out);
}

static enum hpl_status write_opened(struct hpl_call *call, struct job *job)
{
    if (hpl_file_header_verify(NULL, &job->header, hpl_buf_bytes(&job->header_bytes), job->data_key, hpl_buf_bytes(&job->context), &job->keys) != HPL_OK)
        return hpl_fail(call, HPL_INTEGRITY, "the key or the context is not the one that %s was sealed with, or its header is damaged", job->in_name);
    HPL_TRY(open_output(call, job));
    HPL_TRY(run_stream(call, job));
    return hpl_output_finish(call, &job->out);
}

static enum hpl_status prepare(struct hpl_call *call, struct job *job)
{
    HPL_TRY(hpl_secret_init(call, HPL_CLI_SECRETS_LEN, HPL_SECRET_MUST_LOCK));
    HPL_TRY(put_context(&job->context, json_object_get(job->body, "encryption_context")));
    HPL_TRY(open_input(call, job));
    return job->is_seal ? HPL_OK : read_header(call, job);
}

static enum hpl_exit run_job(struct job *job)
{
    struct hpl_call call = {0};
    enum hpl_status status = prepare(&call, job);
    if (status != HPL_OK)
        return failed(&call, status);
    enum hpl_exit code = job->is_seal ? new_key(job) : key_of_header(job);
    if (code != HPL_EXIT_DONE)
        return code;
    status = job->is_seal ? write_sealed(&call, job) : write_opened(&call, job);
    return status == HPL_OK ? HPL_EXIT_DONE : failed(&call, status);
}

static void wipe_job(struct job *job)
{
    hpl_output_drop(&job->out);
    hpl_work_stop(job->work);
    hpl_file_keys_wipe(&job->keys);
    hpl_secret_free(job->data_key);
    hpl_buf_wipe(&job->header_bytes);
    hpl_buf_wipe(&job->envelope);
    hpl_buf_wipe(&job->context);
    json_decref(job->body);
    if (job->in > STDIN_FILENO)
        close(job->in);
}

static enum hpl_exit seal_or_open(const struct hpl_client *client, bool is_seal, int argc, char **argv)
{
    struct job job = {.client = client, .is_seal = is_seal, .body = json_object(), .in = -1, .out.fd = -1};
    hpl_log_set_level(HPL_LOG_ERROR);
    const char *wrong = read_options(&job, argc, argv);
    enum hpl_exit code = wrong ? hpl_cli_usage_error(client, wrong) : run_job(&job);
    wipe_job(&job);
    return code;
}

enum hpl_exit hpl_cli_seal(const struct hpl_client *client, int argc, char **argv)
{
    return seal_or_open(client, true, argc, argv);
}

enum hpl_exit hpl_cli_open(const struct hpl_client *client, int argc, char **argv)
{
    return seal_or_open(client, false, argc, argv);
}
