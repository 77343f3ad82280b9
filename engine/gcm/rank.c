/* Which kernels there are, which of them are trusted, which is best. Any thread. */
#include "engine/gcm/gcm.h"

#include <pthread.h>
#include <string.h>

#include "engine/cpu/cpu.h"

/* Best first. */
static const struct hpl_gcm_kernel *const table[] = {
#if defined(__x86_64__)
    &hpl_gcm_vaes_avx512,
    &hpl_gcm_vaes_avx2,
    &hpl_gcm_aesni,
#endif
    &hpl_gcm_portable,
    NULL,
};

size_t hpl_gcm_rank(const struct hpl_gcm_kernel *const *rows, uint32_t has, uint32_t prefers, const struct hpl_gcm_kernel **out)
{
    size_t count = 0;
    for (int is_second = 0; is_second < 2; is_second++)
        for (const struct hpl_gcm_kernel *const *at = rows; *at; at++) {
            bool is_preferred = !((*at)->needs & ~prefers);
            if (!((*at)->needs & ~has) && is_preferred == !is_second)
                out[count++] = *at;
        }
    return count;
}

/* Known answers: the specification's test case 16 (AES-256, 60 bytes, 20 bytes of AAD), and a long message against its split self, so that the bulk
 * paths are run too. */
static const uint8_t kat_key[32] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08,
                                    0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
static const uint8_t kat_nonce[12] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
static const uint8_t kat_aad[20] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
static const uint8_t kat_plain[60] = {0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7, 0xa9, 0x53,
                                      0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95, 0x95, 0x68, 0x09, 0x53,
                                      0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
static const uint8_t kat_tag[16] = {0x76, 0xfc, 0x6e, 0xce, 0x0f, 0x4e, 0x17, 0x68, 0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};

static bool passes_known_answer(const struct hpl_gcm_key *key)
{
    uint8_t out[60], tag[16];
    struct hpl_gcm_message m = {kat_nonce, kat_aad, kat_plain, sizeof kat_aad, sizeof out, out, tag};
    struct hpl_gcm gcm;
    hpl_gcm_start(&gcm, key, false, kat_nonce, sizeof kat_nonce);
    hpl_gcm_aad(&gcm, kat_aad, sizeof kat_aad);
    hpl_gcm_update(&gcm, kat_plain, out, sizeof out);
    hpl_gcm_finish(&gcm, tag);
    if (memcmp(tag, kat_tag, sizeof tag) != 0)
        return false;
    hpl_gcm_run(key, false, &m);
    if (memcmp(tag, kat_tag, sizeof tag) != 0)
        return false;
    m.in = out;
    hpl_gcm_run(key, true, &m);
    return memcmp(tag, kat_tag, sizeof tag) == 0 && memcmp(out, kat_plain, sizeof out) == 0;
}

/* 1,500 bytes at once, streamed and in pieces of 16: the bulk paths against the single-block path. */
static bool passes_bulk(const struct hpl_gcm_key *key)
{
    uint8_t in[1500], whole[1500], pieces[1500], tag[16], again[16];
    struct hpl_gcm_message m = {kat_nonce, kat_aad, in, sizeof kat_aad, sizeof in, whole, tag};
    struct hpl_gcm gcm;
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i * 7);
    hpl_gcm_run(key, false, &m);
    hpl_gcm_start(&gcm, key, false, kat_nonce, sizeof kat_nonce);
    hpl_gcm_aad(&gcm, kat_aad, sizeof kat_aad);
    for (size_t at = 0; at < sizeof in; at += 16)
        hpl_gcm_update(&gcm, in + at, pieces + at, sizeof in - at < 16 ? sizeof in - at : 16);
    hpl_gcm_finish(&gcm, again);
    if (memcmp(whole, pieces, sizeof whole) != 0 || memcmp(tag, again, sizeof tag) != 0)
        return false;
    hpl_gcm_start(&gcm, key, true, kat_nonce, sizeof kat_nonce);
    hpl_gcm_aad(&gcm, kat_aad, sizeof kat_aad);
    hpl_gcm_update(&gcm, whole, whole, sizeof whole);
    hpl_gcm_finish(&gcm, again);
    return memcmp(whole, in, sizeof in) == 0 && memcmp(tag, again, sizeof tag) == 0;
}

bool hpl_gcm_passes(const struct hpl_gcm_kernel *kernel)
{
    struct hpl_gcm_key key;
    hpl_gcm_set_key(&key, kernel, kat_key, sizeof kat_key);
    return passes_known_answer(&key) && passes_bulk(&key);
}

static const struct hpl_gcm_kernel *trusted[sizeof table / sizeof table[0]], *failed[sizeof table / sizeof table[0]];
static size_t num_trusted, num_failed;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void choose(void)
{
    const struct hpl_gcm_kernel *ranked[sizeof table / sizeof table[0]];
    size_t count = hpl_gcm_rank(table, hpl_cpu_has(), hpl_cpu_prefers(), ranked);
    for (size_t i = 0; i < count; i++)
        if (hpl_gcm_passes(ranked[i]))
            trusted[num_trusted++] = ranked[i];
        else
            failed[num_failed++] = ranked[i];
    if (!num_trusted)
        __builtin_trap(); /* even the portable one failed: this machine computes wrongly */
}

const struct hpl_gcm_kernel *const *hpl_gcm_kernels(size_t *count)
{
    pthread_once(&once, choose);
    *count = num_trusted;
    return trusted;
}

const struct hpl_gcm_kernel *const *hpl_gcm_failed(size_t *count)
{
    pthread_once(&once, choose);
    *count = num_failed;
    return failed;
}

const struct hpl_gcm_kernel *hpl_gcm_kernel(void)
{
    pthread_once(&once, choose);
    return trusted[0];
}
