/* A provider that was told to have threads: the same bytes, threads only when needed, none left behind, none in a forked child. */
#include "tests/test.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/conf.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/provider.h>
#include <openssl/rand.h>

#include "engine/gcm/gcm.h"
#include "engine/provider/provider.h"

#define MIN ((size_t)HPL_GCM_SPLIT_MIN)
#define ROOM (3 * MIN)

static uint8_t key[32], iv[12], aad[50];

/* A library context by an openssl.cnf whose section for the module holds these lines; NULL when OpenSSL does not take it. */
static OSSL_LIB_CTX *configured(const char *lines)
{
    char path[] = "/tmp/hpl_provider_threads_XXXXXX";
    int fd = mkstemp(path);
    EXPECT(fd >= 0);
    FILE *file = fdopen(fd, "w");
    fprintf(file, "openssl_conf = init\n[init]\nproviders = provs\n[provs]\ndefault = on\nhardplate = ours\n[on]\nactivate = 1\n"
                  "[ours]\nmodule = " HPL_BINARY_DIR "/lib/ossl-modules/hardplate.so\n%s\nactivate = 1\n", lines);
    fclose(file);
    OSSL_LIB_CTX *libctx = OSSL_LIB_CTX_new();
    bool is_taken = OSSL_LIB_CTX_load_config(libctx, path) == 1 && OSSL_PROVIDER_available(libctx, "hardplate") == 1;
    unlink(path);
    ERR_clear_error();
    if (is_taken)
        return libctx;
    OSSL_LIB_CTX_free(libctx);
    return NULL;
}

static EVP_CIPHER_CTX *start(OSSL_LIB_CTX *libctx, const char *properties, int is_seal)
{
    EVP_CIPHER *cipher = EVP_CIPHER_fetch(libctx, "AES-256-GCM", properties);
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int n;
    EXPECT(cipher && EVP_CipherInit_ex(ctx, cipher, NULL, key, iv, is_seal) && EVP_CipherUpdate(ctx, NULL, &n, aad, sizeof aad));
    EVP_CIPHER_free(cipher);
    return ctx;
}

/* In one piece, but for the first bytes. */
static bool seal(OSSL_LIB_CTX *libctx, const char *properties, const uint8_t *in, uint8_t *out, size_t first, size_t len, uint8_t tag[16])
{
    EVP_CIPHER_CTX *ctx = start(libctx, properties, 1);
    int n;
    bool is_done = EVP_CipherUpdate(ctx, out, &n, in, (int)first) && EVP_CipherUpdate(ctx, out + first, &n, in + first, (int)(len - first)) &&
                   EVP_CipherFinal_ex(ctx, out + len, &n) && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, tag);
    EVP_CIPHER_CTX_free(ctx);
    return is_done;
}

static bool open_in_place(OSSL_LIB_CTX *libctx, uint8_t *text, size_t len, uint8_t tag[16])
{
    EVP_CIPHER_CTX *ctx = start(libctx, "provider=hardplate", 0);
    int n;
    bool is_right = EVP_CipherUpdate(ctx, text, &n, text, (int)len) && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, tag) &&
                    EVP_CipherFinal_ex(ctx, text + len, &n) > 0;
    EVP_CIPHER_CTX_free(ctx);
    return is_right;
}

struct texts {
    uint8_t *in, *want, *out;
    uint8_t want_tag[16];
    size_t len;
};

static struct texts new_texts(size_t len)
{
    struct texts t = {.in = malloc(ROOM), .want = malloc(ROOM), .out = malloc(ROOM), .len = len};
    EXPECT(RAND_bytes(key, sizeof key) && RAND_bytes(iv, sizeof iv) && RAND_bytes(aad, sizeof aad) && RAND_bytes(t.in, (int)len));
    EXPECT(seal(NULL, "provider=default", t.in, t.want, 0, len, t.want_tag));
    return t;
}

static void free_texts(struct texts *t)
{
    free(t->in);
    free(t->want);
    free(t->out);
}

static bool seals_rightly(OSSL_LIB_CTX *libctx, const struct texts *t, uint8_t *out, size_t first)
{
    uint8_t tag[16];
    return seal(libctx, "provider=hardplate", t->in, out, first, t->len, tag) && memcmp(out, t->want, t->len) == 0 && memcmp(tag, t->want_tag, 16) == 0;
}

static bool come_to(unsigned want)
{
    for (int i = 0; i < 4000 && hpl_test_num_threads(NULL) != want; i++)
        usleep(5000);
    return hpl_test_num_threads(NULL) == want;
}

HPL_TEST(with_two_threads_every_length_and_first_piece_is_what_openssl_makes)
{
    static const size_t lens[] = {100, MIN - 1, MIN, MIN + 1, MIN + 17, MIN + MIN / 3, 2 * MIN + 5};
    OSSL_LIB_CTX *libctx = configured("threads = 2");
    EXPECT(libctx != NULL);
    for (size_t i = 0; i < HPL_COUNT(lens); i++) {
        struct texts t = new_texts(lens[i]);
        for (size_t first = 0; first <= 48; first += 1 + first)
            EXPECT(seals_rightly(libctx, &t, t.out + i % 3, first));
        memcpy(t.out, t.want, t.len);
        EXPECT(open_in_place(libctx, t.out, t.len, t.want_tag));
        EXPECT_BYTES(t.out, t.in, t.len);
        memcpy(t.out, t.want, t.len);
        t.out[t.len / 2] ^= 1;
        EXPECT(!open_in_place(libctx, t.out, t.len, t.want_tag));
        free_texts(&t);
    }
    OSSL_LIB_CTX_free(libctx);
}

HPL_TEST(threads_start_with_the_first_large_message_and_end_with_the_provider)
{
    unsigned before = hpl_test_num_threads(NULL);
    struct texts small = new_texts(5000), large = new_texts(MIN);
    EXPECT(seal(NULL, "provider=default", small.in, small.want, 0, small.len, small.want_tag)); /* under the key that both have now */
    for (int round = 0; round < 5; round++) {
        OSSL_LIB_CTX *libctx = configured("threads = 4");
        EXPECT(libctx && seals_rightly(libctx, &small, small.out, 0));
        EXPECT_NUM(hpl_test_num_threads(NULL), before);
        EXPECT(seals_rightly(libctx, &large, large.out, 0));
        EXPECT_NUM(hpl_test_num_threads(NULL), before + 3);
        OSSL_LIB_CTX_free(libctx);
        EXPECT_NUM(hpl_test_num_threads(NULL), before);
    }
    free_texts(&small);
    free_texts(&large);
}

HPL_TEST(without_the_line_or_with_one_thread_there_are_none)
{
    static const char *const lines[] = {"", "threads = 0", "threads = 1"};
    struct texts t = new_texts(2 * MIN);
    unsigned before = hpl_test_num_threads(NULL);
    for (size_t i = 0; i < HPL_COUNT(lines); i++) {
        OSSL_LIB_CTX *libctx = configured(lines[i]);
        EXPECT(libctx && seals_rightly(libctx, &t, t.out, 0));
        EXPECT_NUM(hpl_test_num_threads(NULL), before);
        OSSL_LIB_CTX_free(libctx);
    }
    free_texts(&t);
}

HPL_TEST(a_number_of_threads_that_is_none_is_refused)
{
    static const char *const lines[] = {"threads = two", "threads = -1", "threads = 257", "threads = 2x", "threads = 99999999999999999999"};
    for (size_t i = 0; i < HPL_COUNT(lines); i++)
        EXPECT(configured(lines[i]) == NULL);
    OSSL_LIB_CTX *libctx = configured("threads = 256");
    EXPECT(libctx != NULL);
    OSSL_LIB_CTX_free(libctx);
}

/* In a child: the same bytes, with no thread more (ThreadSanitizer may have one there), and the provider can be ended there. */
static int child(OSSL_LIB_CTX *libctx, const struct texts *t)
{
    unsigned before = hpl_test_num_threads(NULL);
    bool is_right = seals_rightly(libctx, t, t->out, 3) && hpl_test_num_threads(NULL) == before;
    OSSL_LIB_CTX_free(libctx);
    return is_right ? 0 : 1;
}

static void fork_and_ask(OSSL_LIB_CTX *libctx, const struct texts *t)
{
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(child(libctx, t));
    EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

HPL_TEST(a_child_forked_before_use_starts_none_and_the_parent_still_can)
{
    struct texts t = new_texts(MIN + 100);
    OSSL_LIB_CTX *libctx = configured("threads = 3");
    unsigned before = hpl_test_num_threads(NULL);
    EXPECT(libctx != NULL);
    fork_and_ask(libctx, &t);
    EXPECT(seals_rightly(libctx, &t, t.out, 0));
    EXPECT_NUM(hpl_test_num_threads(NULL), before + 2);
    OSSL_LIB_CTX_free(libctx);
    free_texts(&t);
}

HPL_TEST(a_child_forked_after_use_works_alone_and_the_parent_goes_on)
{
    struct texts t = new_texts(MIN + 100);
    OSSL_LIB_CTX *libctx = configured("threads = 3");
    unsigned before = hpl_test_num_threads(NULL);
    EXPECT(libctx && seals_rightly(libctx, &t, t.out, 0));
    for (int i = 0; i < 5; i++) {
        fork_and_ask(libctx, &t);
        EXPECT(seals_rightly(libctx, &t, t.out, 5));
        EXPECT_NUM(hpl_test_num_threads(NULL), before + 2);
    }
    OSSL_LIB_CTX_free(libctx);
    free_texts(&t);
}

static atomic_bool is_over;

/* Keeps the threads in the middle of something. Only updates: a fork must not find OpenSSL's own locks taken. */
static void *update_without_end(void *arg)
{
    uint8_t *text = calloc(1, MIN);
    int n;
    while (text && !atomic_load(&is_over))
        EVP_CipherUpdate(arg, text, &n, text, (int)MIN);
    free(text);
    return NULL;
}

/* In a child that cannot hang for ever. */
static int finish_in_child(EVP_CIPHER_CTX *ctx, const struct texts *t)
{
    int n;
    alarm(60);
    return EVP_CipherUpdate(ctx, t->out, &n, t->in, (int)t->len) && memcmp(t->out, t->want, t->len) == 0 ? 0 : 1;
}

HPL_TEST(a_child_forked_while_the_threads_are_at_work_does_not_wait_for_them)
{
    struct texts t = new_texts(2 * MIN);
    pthread_t busy;
    int status;
    OSSL_LIB_CTX *libctx = configured("threads = 2");
    EVP_CIPHER_CTX *ctx = start(libctx, "provider=hardplate", 1), *other = start(libctx, "provider=hardplate", 1);
    unsigned before = hpl_test_num_threads(NULL);
    atomic_store(&is_over, false);
    EXPECT_NUM(pthread_create(&busy, NULL, update_without_end, other), 0);
    EXPECT(come_to(before + 2)); /* itself, and the provider's */
    for (int i = 0; i < 30; i++) {
        usleep(1000);
        pid_t pid = fork();
        if (pid == 0)
            _exit(finish_in_child(ctx, &t));
        EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    atomic_store(&is_over, true);
    pthread_join(busy, NULL);
    EVP_CIPHER_CTX_free(ctx);
    EVP_CIPHER_CTX_free(other);
    OSSL_LIB_CTX_free(libctx);
    free_texts(&t);
}

struct caller {
    pthread_t thread;
    OSSL_LIB_CTX *libctx;
    const struct texts *texts;
    bool is_right;
};

static void *call_often(void *arg)
{
    struct caller *caller = arg;
    uint8_t *out = malloc(ROOM);
    caller->is_right = out != NULL;
    for (size_t i = 0; i < 20 && caller->is_right; i++)
        caller->is_right = seals_rightly(caller->libctx, caller->texts, out, i);
    free(out);
    return NULL;
}

HPL_TEST(callers_at_once_all_get_their_own)
{
    struct texts t = new_texts(MIN + 4000);
    struct caller callers[4];
    OSSL_LIB_CTX *libctx = configured("threads = 2");
    EXPECT(libctx != NULL);
    for (size_t i = 0; i < HPL_COUNT(callers); i++) {
        callers[i] = (struct caller){.libctx = libctx, .texts = &t};
        EXPECT_NUM(pthread_create(&callers[i].thread, NULL, call_often, &callers[i]), 0);
    }
    for (size_t i = 0; i < HPL_COUNT(callers); i++) {
        pthread_join(callers[i].thread, NULL);
        EXPECT(callers[i].is_right);
    }
    OSSL_LIB_CTX_free(libctx);
    free_texts(&t);
}

HPL_TEST(a_context_copied_in_mid_message_has_the_threads_too)
{
    struct texts t = new_texts(2 * MIN);
    OSSL_LIB_CTX *libctx = configured("threads = 2");
    EVP_CIPHER_CTX *ctx = start(libctx, "provider=hardplate", 1), *copy = EVP_CIPHER_CTX_new();
    uint8_t tag[16];
    int n;
    EXPECT(EVP_CipherUpdate(ctx, t.out, &n, t.in, 1001) && EVP_CIPHER_CTX_copy(copy, ctx));
    EVP_CIPHER_CTX_free(ctx);
    EXPECT(EVP_CipherUpdate(copy, t.out + 1001, &n, t.in + 1001, (int)t.len - 1001) && EVP_CipherFinal_ex(copy, t.out, &n) &&
           EVP_CIPHER_CTX_ctrl(copy, EVP_CTRL_AEAD_GET_TAG, 16, tag));
    EVP_CIPHER_CTX_free(copy);
    EXPECT_BYTES(t.out, t.want, t.len);
    EXPECT_BYTES(tag, t.want_tag, 16);
    OSSL_LIB_CTX_free(libctx);
    free_texts(&t);
}

HPL_TEST(the_built_in_provider_has_the_threads_that_the_program_set)
{
    struct texts t = new_texts(MIN);
    unsigned before = hpl_test_num_threads(NULL);
    OSSL_LIB_CTX *libctx = OSSL_LIB_CTX_new();
    hpl_provider_set_threads(3);
    EXPECT_NUM(OSSL_PROVIDER_add_builtin(libctx, "hardplate", hpl_provider_init), 1);
    OSSL_PROVIDER *provider = OSSL_PROVIDER_load(libctx, "hardplate");
    hpl_provider_set_threads(0);
    EXPECT(provider && seals_rightly(libctx, &t, t.out, 0));
    EXPECT_NUM(hpl_test_num_threads(NULL), before + 2);
    OSSL_PROVIDER_unload(provider);
    OSSL_LIB_CTX_free(libctx);
    EXPECT_NUM(hpl_test_num_threads(NULL), before);
    free_texts(&t);
}
