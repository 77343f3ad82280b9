/* Does every kernel that this machine has compute what OpenSSL computes: every length, split, place, nonce and counter? */
#include "tests/test.h"

#include <stdio.h>
#include <sys/mman.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "engine/cpu/cpu.h"
#include "engine/gcm/gcm.h"

static void openssl_seal(const uint8_t *key, size_t key_len, const uint8_t *nonce, size_t nonce_len, const uint8_t *aad, size_t aad_len, const uint8_t *in,
                         size_t len, uint8_t *out, uint8_t tag[16])
{
    int n;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    const EVP_CIPHER *cipher = key_len == 16 ? EVP_aes_128_gcm() : key_len == 24 ? EVP_aes_192_gcm() : EVP_aes_256_gcm();
    EXPECT(EVP_EncryptInit_ex(ctx, cipher, NULL, NULL, NULL) && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_IVLEN, (int)nonce_len, NULL) &&
           EVP_EncryptInit_ex(ctx, NULL, NULL, key, nonce));
    EXPECT(!aad_len || EVP_EncryptUpdate(ctx, NULL, &n, aad, (int)aad_len));
    EXPECT(!len || EVP_EncryptUpdate(ctx, out, &n, in, (int)len));
    EXPECT(EVP_EncryptFinal_ex(ctx, out + len, &n) && EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, 16, tag));
    EVP_CIPHER_CTX_free(ctx);
}

struct message {
    uint8_t key[32], nonce[64], aad[1200], in[1200], want[1200], want_tag[16];
};

static struct message random_message(void)
{
    struct message m;
    EXPECT(RAND_bytes((uint8_t *)&m, sizeof m) == 1);
    return m;
}

#define FOR_EACH_KERNEL(kernel)                                                                                                   \
    size_t num_kernels_;                                                                                                           \
    const struct hpl_gcm_kernel *const *kernels_ = hpl_gcm_kernels(&num_kernels_);                                                  \
    for (const struct hpl_gcm_kernel *kernel; num_kernels_ && (kernel = *kernels_); kernels_++, num_kernels_--)

HPL_TEST(every_length_equals_openssl_apart_and_in_place)
{
    static const size_t key_lens[] = {16, 24, 32};
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t len = 0; len <= 1100; len++) {
            struct message m = random_message();
            struct hpl_gcm_key key;
            struct hpl_gcm gcm;
            uint8_t out[1200], tag[16];
            size_t key_len = key_lens[len % 3], aad_len = (len * 7) % 70;
            openssl_seal(m.key, key_len, m.nonce, 12, m.aad, aad_len, m.in, len, m.want, m.want_tag);
            hpl_gcm_set_key(&key, kernel, m.key, key_len);
            hpl_gcm_start(&gcm, &key, false, m.nonce, 12);
            EXPECT(hpl_gcm_aad(&gcm, m.aad, aad_len) && hpl_gcm_update(&gcm, m.in, out + len % 17, len));
            hpl_gcm_finish(&gcm, tag);
            EXPECT_BYTES(out + len % 17, m.want, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
            hpl_gcm_start(&gcm, &key, true, m.nonce, 12);
            EXPECT(hpl_gcm_aad(&gcm, m.aad, aad_len) && hpl_gcm_update(&gcm, m.want, m.want, len));
            hpl_gcm_finish(&gcm, tag);
            EXPECT_BYTES(m.want, m.in, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
        }
    }
}

HPL_TEST(a_message_at_once_equals_openssl_at_every_length_of_text_and_aad)
{
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t len = 0; len <= 1100; len++) {
            struct message m = random_message();
            struct hpl_gcm_key key;
            uint8_t out[1200], tag[16];
            size_t aad_len = len % 5 == 0 ? (len * 3) % 1100 : len % 70, key_len = 16 + 8 * (len % 3);
            struct hpl_gcm_message whole = {m.nonce, m.aad, m.in, aad_len, len, out, tag};
            memset(out, 0x5a, sizeof out);
            openssl_seal(m.key, key_len, m.nonce, 12, m.aad, aad_len, m.in, len, m.want, m.want_tag);
            hpl_gcm_set_key(&key, kernel, m.key, key_len);
            EXPECT(hpl_gcm_run(&key, false, &whole));
            EXPECT_BYTES(out, m.want, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
            EXPECT(out[len] == 0x5a); /* not a byte past the end */
            whole.in = out;
            EXPECT(hpl_gcm_run(&key, true, &whole));
            EXPECT_BYTES(out, m.in, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
        }
    }
}

HPL_TEST(every_split_of_data_and_aad_gives_the_same)
{
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t split = 0; split <= 300; split++) {
            struct message m = random_message();
            struct hpl_gcm_key key;
            struct hpl_gcm gcm;
            uint8_t out[300], tag[16];
            size_t aad_split = split % 50;
            openssl_seal(m.key, 32, m.nonce, 12, m.aad, 50, m.in, 300, m.want, m.want_tag);
            hpl_gcm_set_key(&key, kernel, m.key, 32);
            for (int is_open = 0; is_open < 2; is_open++) {
                const uint8_t *in = is_open ? m.want : m.in;
                hpl_gcm_start(&gcm, &key, is_open, m.nonce, 12);
                EXPECT(hpl_gcm_aad(&gcm, m.aad, aad_split) && hpl_gcm_aad(&gcm, m.aad + aad_split, 50 - aad_split));
                EXPECT(hpl_gcm_update(&gcm, in, out, split) && hpl_gcm_update(&gcm, in + split, out + split, (300 - split) / 2) &&
                       hpl_gcm_update(&gcm, in + split + (300 - split) / 2, out + split + (300 - split) / 2, 300 - split - (300 - split) / 2));
                hpl_gcm_finish(&gcm, tag);
                EXPECT_BYTES(out, is_open ? m.in : m.want, 300);
                EXPECT_BYTES(tag, m.want_tag, 16);
            }
        }
    }
}

HPL_TEST(other_nonce_lengths_equal_openssl)
{
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t nonce_len = 1; nonce_len <= 64; nonce_len++) {
            struct message m = random_message();
            struct hpl_gcm_key key;
            struct hpl_gcm gcm;
            uint8_t out[200], tag[16];
            openssl_seal(m.key, 32, m.nonce, nonce_len, m.aad, 20, m.in, 200, m.want, m.want_tag);
            hpl_gcm_set_key(&key, kernel, m.key, 32);
            hpl_gcm_start(&gcm, &key, false, m.nonce, nonce_len);
            EXPECT(hpl_gcm_aad(&gcm, m.aad, 20) && hpl_gcm_update(&gcm, m.in, out, 200));
            hpl_gcm_finish(&gcm, tag);
            EXPECT_BYTES(out, m.want, 200);
            EXPECT_BYTES(tag, m.want_tag, 16);
        }
    }
}

HPL_TEST(the_counter_wraps_at_32_bits_and_carries_no_further)
{
    FOR_EACH_KERNEL(kernel)
    {
        struct message m = random_message();
        struct hpl_gcm_key key, reference;
        uint8_t counter[16], slow_counter[16], y[16] = {0}, slow_y[16] = {0}, out[640], slow_out[640];
        hpl_gcm_set_key(&key, kernel, m.key, 32);
        hpl_gcm_set_key(&reference, &hpl_gcm_portable, m.key, 32);
        for (unsigned before = 0; before < 40; before++) {
            memcpy(counter, m.nonce, 12);
            counter[12] = counter[13] = counter[14] = 0xff;
            counter[15] = (uint8_t)(0xff - before);
            memcpy(slow_counter, counter, 16);
            kernel->seal(&key, counter, y, m.in, out, 40, NULL);
            hpl_gcm_portable.seal(&reference, slow_counter, slow_y, m.in, slow_out, 40, NULL);
            EXPECT_BYTES(out, slow_out, sizeof out);
            EXPECT_BYTES(y, slow_y, 16);
            EXPECT_BYTES(counter, slow_counter, 16);
            EXPECT_BYTES(counter, m.nonce, 12);
        }
    }
}

static _Alignas(64) uint8_t long_in[150000], long_out[150000], long_want[150000];

static void fill_long(void)
{
    RAND_bytes(long_in, sizeof long_in);
    memset(long_out, 0, sizeof long_out);
}

/* Blocks from a counter on, with rounds looked up and without: text, hash and counter must be the same. */
static void compare_look_up(const struct hpl_gcm_key *key, bool is_open, uint32_t from, size_t num_blocks)
{
    static _Alignas(64) uint8_t table[HPL_GCM_TABLE_LEN];
    uint8_t counters[2][16] = {{0}}, y[2][16] = {{1}, {1}};
    for (int i = 0; i < 2; i++) {
        memcpy(counters[i], "nonce of 12b", 12);
        for (int j = 0; j < 4; j++)
            counters[i][12 + j] = (uint8_t)(from >> (24 - 8 * j));
        memset(table, 0xee, sizeof table);
        (is_open ? key->kernel->open : key->kernel->seal)(key, counters[i], y[i], long_in, i ? long_want : long_out, num_blocks, i ? NULL : table);
        for (size_t j = 0; i == 0 && num_blocks >= 32 && j < sizeof table; j++)
            EXPECT_NUM(table[j], 0); /* key material, wiped */
    }
    EXPECT_BYTES(long_out, long_want, 16 * num_blocks);
    EXPECT_BYTES(y[0], y[1], 16);
    EXPECT_BYTES(counters[0], counters[1], 16);
}

HPL_TEST(looked_up_rounds_are_the_plain_ones_from_any_counter)
{
    FOR_EACH_KERNEL(kernel)
    {
        if (!kernel->look_up_from)
            continue;
        fill_long();
        for (size_t key_len = 16; key_len <= 32; key_len += 8) {
            struct hpl_gcm_key key;
            hpl_gcm_set_key(&key, kernel, long_in, key_len);
            for (uint32_t from = 0; from < 260; from++)
                compare_look_up(&key, from % 2, from, 290 + from % 40);
            for (uint32_t before = 0; before < 300; before += 7)
                compare_look_up(&key, before % 2, 0u - before, 700);
            compare_look_up(&key, false, 0x00fffff0, 9000);
            compare_look_up(&key, true, 0x0000ff01, 9001);
            for (size_t num_blocks = 0; num_blocks < 100; num_blocks++)
                compare_look_up(&key, num_blocks % 2, 200, num_blocks);
        }
    }
}

HPL_TEST(long_messages_equal_openssl_around_every_threshold)
{
    static const size_t around[] = {4096, 8192, 12288, 16384, 65536, 131072};
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t i = 0; i < 9 * HPL_COUNT(around); i++) {
            struct message m = random_message();
            struct hpl_gcm_key key;
            uint8_t tag[16];
            size_t len = around[i / 9] + i % 9 * 8 - 32, offset = i % 3 * 5, key_len = 16 + 8 * (i % 3);
            fill_long();
            openssl_seal(m.key, key_len, m.nonce, 12, m.aad, 33, long_in + offset, len, long_want, m.want_tag);
            hpl_gcm_set_key(&key, kernel, m.key, key_len);
            struct hpl_gcm_message whole = {m.nonce, m.aad, long_in + offset, 33, len, long_out, tag, NULL};
            EXPECT(hpl_gcm_run(&key, false, &whole));
            EXPECT_BYTES(long_out, long_want, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
            whole.in = long_out;
            EXPECT(hpl_gcm_run(&key, true, &whole));
            EXPECT_BYTES(long_out, long_in + offset, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
            struct hpl_gcm gcm; /* and in pieces */
            size_t split = len / 3 + i;
            hpl_gcm_start(&gcm, &key, false, m.nonce, 12);
            EXPECT(hpl_gcm_aad(&gcm, m.aad, 33) && hpl_gcm_update(&gcm, long_in + offset, long_out, split) &&
                   hpl_gcm_update(&gcm, long_in + offset + split, long_out + split, len - split));
            hpl_gcm_finish(&gcm, tag);
            EXPECT_BYTES(long_out, long_want, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
        }
    }
}

HPL_TEST(many_messages_at_once_are_each_what_they_are_alone)
{
    enum { COUNT = 24 };
    static const size_t lens[] = {0, 1, 16, 100, 511, 512, 513, 1024, 1040, 1500, 2048, 4096, 4097, 8192, 12287, 12288, 20000};
    static uint8_t text[COUNT][20000], out[COUNT][20000], want[20000];
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t round = 0; round < 40; round++) {
            struct message m = random_message();
            struct hpl_gcm_message many[COUNT];
            struct hpl_gcm_key key;
            uint8_t tags[COUNT][16], tag[16];
            size_t count = round % (COUNT + 1), key_len = 16 + 8 * (round % 3);
            RAND_bytes(text[0], sizeof text);
            hpl_gcm_set_key(&key, kernel, m.key, key_len);
            for (size_t i = 0; i < count; i++) {
                size_t len = round < 20 ? lens[(i * 7 + round) % HPL_COUNT(lens)] : 512 + (i * 511 + round * 97) % 8000;
                many[i] = (struct hpl_gcm_message){m.in + 12 * i, m.aad, text[i], (i * 37 + round) % 600, len, i % 2 ? out[i] : text[i], tags[i], NULL};
            }
            static uint8_t before[COUNT][20000];
            memcpy(before, text, sizeof before);
            EXPECT(hpl_gcm_run_many(&key, false, many, count));
            for (size_t i = 0; i < count; i++) {
                openssl_seal(m.key, key_len, many[i].nonce, 12, many[i].aad, many[i].aad_len, before[i], many[i].len, want, tag);
                EXPECT_BYTES(many[i].out, want, many[i].len);
                EXPECT_BYTES(tags[i], tag, 16);
                many[i].in = many[i].out;
            }
            uint8_t sealed[COUNT][16];
            memcpy(sealed, tags, sizeof sealed);
            memset(tags, 0, sizeof tags);
            EXPECT(hpl_gcm_run_many(&key, true, many, count));
            for (size_t i = 0; i < count; i++) {
                EXPECT_BYTES(many[i].out, before[i], many[i].len);
                EXPECT_BYTES(tags[i], sealed[i], 16);
            }
        }
    }
}

HPL_TEST(every_alignment_gives_the_same)
{
    static const size_t lens[] = {17, 100, 600, 1300, 13000};
    FOR_EACH_KERNEL(kernel)
    {
        for (size_t i = 0; i < 64 * HPL_COUNT(lens); i++) {
            struct message m = random_message();
            struct hpl_gcm_key key;
            uint8_t tag[16];
            size_t len = lens[i / 64], from = i % 64, to = (i * 5 + 3) % 64, aad = i % 61;
            fill_long();
            openssl_seal(m.key, 32, m.nonce + i % 16, 12, m.aad + aad, 77, long_in + from, len, long_want, m.want_tag);
            hpl_gcm_set_key(&key, kernel, m.key, 32);
            struct hpl_gcm_message whole = {m.nonce + i % 16, m.aad + aad, long_in + from, 77, len, long_out + to, tag, NULL};
            EXPECT(hpl_gcm_run(&key, false, &whole));
            EXPECT_BYTES(long_out + to, long_want, len);
            EXPECT_BYTES(tag, m.want_tag, 16);
            whole.in = long_out + to, whole.out = long_want + from;
            EXPECT(hpl_gcm_run(&key, true, &whole));
            EXPECT_BYTES(long_want + from, long_in + from, len);
        }
    }
}

#if defined(__x86_64__)
/* Calls fn(a, b, c) with known values in the registers that a callee keeps (System V ABI §3.2.1); 0 when all are as they were and the direction flag is clear. */
uint64_t call_and_compare(void *fn, const void *a, uint64_t b, const void *c);
__asm__(".text\n.type call_and_compare, @function\ncall_and_compare:\n"
        "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n sub $8, %rsp\n"
        "mov %rdi, %rax\n mov %rsi, %rdi\n mov %rdx, %rsi\n mov %rcx, %rdx\n"
        "mov $0x11111111, %ebx\n mov $0x22222222, %ebp\n mov $0x33333333, %r12d\n mov $0x44444444, %r13d\n mov $0x55555555, %r14d\n mov $0x66666666, %r15d\n"
        "call *%rax\n"
        "xor $0x11111111, %rbx\n xor $0x22222222, %rbp\n xor $0x33333333, %r12\n xor $0x44444444, %r13\n xor $0x55555555, %r14\n xor $0x66666666, %r15\n"
        "pushf\n pop %rax\n and $0x400, %rax\n"
        "or %rbx, %rax\n or %rbp, %rax\n or %r12, %rax\n or %r13, %rax\n or %r14, %rax\n or %r15, %rax\n"
        "add $8, %rsp\n pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n ret\n"
        ".size call_and_compare, . - call_and_compare\n");

static void spoil(void)
{
    __asm__ volatile("inc %%r14" ::: "memory"); /* and does not say so */
}

HPL_TEST(registers_that_a_callee_keeps_are_kept)
{
    uint32_t before = 0, after = 0;
    EXPECT(call_and_compare((void *)spoil, NULL, 0, NULL) != 0);
    fill_long();
    FOR_EACH_KERNEL(kernel)
    {
        static const size_t lens[] = {0, 16, 300, 1000, 5000, 20000};
        for (size_t i = 0; i < HPL_COUNT(lens); i++) {
            struct hpl_gcm_key key;
            uint8_t tag[16];
            hpl_gcm_set_key(&key, kernel, long_in, 32);
            const struct hpl_gcm_message m = {long_in, long_in, long_in, 20, lens[i], long_out, tag, NULL};
            __asm__ volatile("stmxcsr %0" : "=m"(before));
            EXPECT_NUM(call_and_compare((void *)hpl_gcm_run, &key, 0, &m), 0);
            EXPECT_NUM(call_and_compare((void *)hpl_gcm_run, &key, 1, &m), 0);
            __asm__ volatile("stmxcsr %0" : "=m"(after));
            EXPECT_NUM(after, before);
        }
    }
}
#endif

static size_t num_with_table, num_without;

static void watched_seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    *(table ? &num_with_table : &num_without) += 1;
    hpl_gcm_portable.seal(key, counter, y, in, out, num_blocks, NULL);
}

HPL_TEST(a_table_is_never_indexed_by_the_counter_of_another_nonce_than_96_bits)
{
    struct hpl_gcm_kernel watched = hpl_gcm_portable;
    struct hpl_gcm_key key;
    struct hpl_gcm gcm;
    uint8_t tag[16];
    watched.seal = watched_seal;
    watched.look_up_from = 1024;
    fill_long();
    hpl_gcm_set_key(&key, &watched, long_in, 32);
    for (size_t nonce_len = 1; nonce_len <= 20; nonce_len++) {
        num_with_table = num_without = 0;
        hpl_gcm_start(&gcm, &key, false, long_in, nonce_len);
        EXPECT(hpl_gcm_update(&gcm, long_in, long_out, 1024) && hpl_gcm_update(&gcm, long_in, long_out, 1008));
        hpl_gcm_finish(&gcm, tag);
        EXPECT_NUM(num_with_table, nonce_len == 12 ? 1 : 0);
        EXPECT_NUM(num_without, nonce_len == 12 ? 1 : 2);
    }
}

/* A page to use between two that must not be touched. */
static uint8_t *guarded_page(void)
{
    uint8_t *pages = mmap(NULL, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_READ | PROT_WRITE) == 0);
    return pages + 4096;
}

HPL_TEST(nothing_outside_key_text_aad_nonce_and_tag_is_touched)
{
    uint8_t *in = guarded_page(), *out = guarded_page(), *aad = guarded_page(), *nonce = guarded_page() + 4096 - 12, *tag = guarded_page() + 4096 - 16;
    struct hpl_gcm_key *key = (struct hpl_gcm_key *)(void *)(guarded_page() + 4096 - sizeof *key);
    FOR_EACH_KERNEL(kernel)
    {
        hpl_gcm_set_key(key, kernel, in, 32);
        for (size_t len = 0; len <= 1100; len++) {
            size_t aad_len = len % 70;
            struct hpl_gcm_message at_end = {nonce, aad + 4096 - aad_len, in + 4096 - len, aad_len, len, out + 4096 - len, tag};
            struct hpl_gcm_message at_start = {nonce, aad, in, aad_len, len, out, tag};
            EXPECT(hpl_gcm_run(key, false, &at_end) && hpl_gcm_run(key, true, &at_end) && hpl_gcm_run(key, false, &at_start));
        }
    }
    munmap(in - 4096, 3 * 4096);
    munmap(out - 4096, 3 * 4096);
    munmap(aad - 4096, 3 * 4096);
    munmap(nonce - 2 * 4096 + 12, 3 * 4096);
    munmap(tag - 2 * 4096 + 16, 3 * 4096);
    munmap((uint8_t *)key - 2 * 4096 + sizeof *key, 3 * 4096);
}

HPL_TEST(limits_are_refused)
{
    struct hpl_gcm_key key;
    struct hpl_gcm gcm;
    uint8_t bytes[32] = {0};
    hpl_gcm_set_key(&key, hpl_gcm_kernel(), bytes, 32);
    hpl_gcm_start(&gcm, &key, false, bytes, 12);
    EXPECT(hpl_gcm_update(&gcm, bytes, bytes, 16));
    EXPECT(!hpl_gcm_aad(&gcm, bytes, 1));
    gcm.len = (1ull << 36) - 32;
    EXPECT(!hpl_gcm_update(&gcm, bytes, bytes, 1));
}

HPL_TEST(the_ranking_puts_what_is_preferred_before_what_is_only_there)
{
    const struct hpl_gcm_kernel wide = {.name = "wide", .needs = HPL_CPU_AESNI | HPL_CPU_VAES_AVX512}, narrow = {.name = "narrow", .needs = HPL_CPU_AESNI},
                                any = {.name = "any"};
    const struct hpl_gcm_kernel *const table[] = {&wide, &narrow, &any, NULL}, *out[3];
    uint32_t both = HPL_CPU_AESNI | HPL_CPU_VAES_AVX512;
    EXPECT_NUM(hpl_gcm_rank(table, both, both, out), 3);
    EXPECT(out[0] == &wide && out[1] == &narrow && out[2] == &any);
    EXPECT_NUM(hpl_gcm_rank(table, both, HPL_CPU_AESNI, out), 3);
    EXPECT(out[0] == &narrow && out[1] == &any && out[2] == &wide);
    EXPECT_NUM(hpl_gcm_rank(table, HPL_CPU_AESNI | HPL_CPU_VAES_AVX2, both, out), 2);
    EXPECT(out[0] == &narrow && out[1] == &any);
    EXPECT_NUM(hpl_gcm_rank(table, HPL_CPU_VAES_AVX512, HPL_CPU_VAES_AVX512, out), 1);
    EXPECT(out[0] == &any);
    EXPECT_NUM(hpl_gcm_rank(table, 0, 0, out), 1);
}

HPL_TEST(the_environment_only_removes)
{
    EXPECT_NUM(hpl_cpu_masked(7, NULL), 7);
    EXPECT_NUM(hpl_cpu_masked(7, "-vaes-avx512"), 3);
    EXPECT_NUM(hpl_cpu_masked(7, "-avx512"), 3);
    EXPECT_NUM(hpl_cpu_masked(7, "-vaes"), 1);
    EXPECT_NUM(hpl_cpu_masked(7, "-vaes-avx512,-vaes-avx2"), 1);
    EXPECT_NUM(hpl_cpu_masked(7, "-vaes-avx512, -vaes-avx2"), 1);
    EXPECT_NUM(hpl_cpu_masked(7, " -vaes-avx512 -vaes-avx2 "), 1);
    EXPECT_NUM(hpl_cpu_masked(7, "-aesni"), 0);
    EXPECT_NUM(hpl_cpu_masked(7, "-,,-x,"), 7);
    EXPECT_NUM(hpl_cpu_masked(1, "vaes-avx512,+vaes-avx2,nonsense"), 1);
}

HPL_TEST(parts_that_lower_their_clock_prefer_256_bits)
{
    EXPECT_NUM(hpl_cpu_preferred(7, "GenuineIntel", 6, 0x6a), 3); /* Ice Lake server */
    EXPECT_NUM(hpl_cpu_preferred(7, "GenuineIntel", 6, 0x8f), 7); /* Sapphire Rapids */
    EXPECT_NUM(hpl_cpu_preferred(7, "AuthenticAMD", 25, 0x11), 7);
    EXPECT_NUM(hpl_cpu_preferred(1, "GenuineIntel", 6, 0x6a), 1);
    EXPECT((hpl_cpu_prefers() & ~hpl_cpu_has()) == 0);
}

static void wrong_ghash(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks)
{
    hpl_gcm_portable.ghash(key, y, in, num_blocks);
    y[15] ^= num_blocks > 0;
}

static void wrong_seal(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    hpl_gcm_portable.seal(key, counter, y, in, out, num_blocks, table);
    if (num_blocks > 32)
        out[16 * 32] ^= 1;
}

static void wrong_open(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table)
{
    hpl_gcm_portable.open(key, counter, y, in, out, num_blocks, table);
    if (num_blocks > 32)
        out[16 * 32] ^= 1;
}

HPL_TEST(a_kernel_that_computes_wrongly_is_not_trusted)
{
    struct hpl_gcm_kernel broken = hpl_gcm_portable;
    EXPECT(hpl_gcm_passes(&broken));
    broken.ghash = wrong_ghash;
    EXPECT(!hpl_gcm_passes(&broken));
    broken = hpl_gcm_portable;
    broken.seal = wrong_seal;
    EXPECT(!hpl_gcm_passes(&broken));
    broken = hpl_gcm_portable;
    broken.open = wrong_open;
    EXPECT(!hpl_gcm_passes(&broken));
    size_t count;
    hpl_gcm_failed(&count);
    EXPECT_NUM(count, 0);
}
