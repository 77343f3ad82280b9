/* Does any branch or address depend on a secret? Keys, texts and hash states are marked undefined, and valgrind names every jump and every address that was made
 * of them. One thread.
 *   constant_time KERNEL    sets keys, seals, opens, splits and compares tags with that kernel
 *   constant_time broken    branches on a secret, so that the caller sees whether anybody looks */
#include <stdio.h>
#include <stdlib.h>
#include <valgrind/memcheck.h>

#include "base/bytes.h"
#include "engine/gcm/gcm.h"

#define LEN 3001u

static void hide(const void *data, size_t len)
{
    (void)VALGRIND_MAKE_MEM_UNDEFINED(data, len);
}

static void show(const void *data, size_t len)
{
    (void)VALGRIND_MAKE_MEM_DEFINED(data, len);
}

static void run_in_order(void *self, hpl_gcm_slice_fn fn, void *arg, size_t count)
{
    (void)self;
    for (size_t i = 0; i < count; i++)
        fn(arg, i, NULL);
}

/* In slices whose sums are joined by a power of the hash key. */
static void split(const struct hpl_gcm_key *key, const uint8_t *text, size_t nonce_len)
{
    static uint8_t out[LEN];
    const struct hpl_gcm_crew crew = {.run = run_in_order, .slice_blocks = 37};
    const uint8_t nonce[64] = {4};
    uint8_t tag[16];
    struct hpl_gcm gcm;
    hpl_gcm_start(&gcm, key, false, nonce, nonce_len);
    HPL_CHECK(hpl_gcm_update(&gcm, text, out, 5) && hpl_gcm_update_split(&gcm, &crew, text + 5, out + 5, LEN - 5));
    hpl_gcm_finish(&gcm, tag);
}

static void one_nonce(const struct hpl_gcm_key *key, const uint8_t *text, size_t nonce_len)
{
    static uint8_t out[LEN], back[LEN];
    uint8_t nonce[64] = {1}, aad[50] = {2}, tag[16], other[16];
    struct hpl_gcm gcm;
    hide(aad, sizeof aad);
    for (int is_open = 0; is_open < 2; is_open++) {
        hpl_gcm_start(&gcm, key, is_open, nonce, nonce_len);
        HPL_CHECK(hpl_gcm_aad(&gcm, aad, 7) && hpl_gcm_aad(&gcm, aad + 7, sizeof aad - 7));
        HPL_CHECK(hpl_gcm_update(&gcm, is_open ? out : text, is_open ? back : out, 100));
        HPL_CHECK(hpl_gcm_update(&gcm, (is_open ? out : text) + 100, (is_open ? back : out) + 100, LEN - 100));
        hpl_gcm_finish(&gcm, is_open ? other : tag);
    }
    bool is_same = hpl_equal_secret(tag, other, sizeof tag); /* what it says is public, how it came to it is not */
    show(&is_same, sizeof is_same);
    HPL_CHECK(is_same);
}

static void run(const struct hpl_gcm_kernel *kernel)
{
    static uint8_t text[LEN];
    hide(text, sizeof text);
    for (size_t key_len = 16; key_len <= 32; key_len += 8) {
        struct hpl_gcm_key key;
        uint8_t bytes[32] = {3}, out[700], tag[16];
        hide(bytes, sizeof bytes);
        hpl_gcm_set_key(&key, kernel, bytes, key_len);
        one_nonce(&key, text, 12);
        one_nonce(&key, text, 16); /* J0 is secret then */
        split(&key, text, 12);
        split(&key, text, 16);
        const struct hpl_gcm_message m = {(const uint8_t *)"twelve bytes", text, text, 33, sizeof out, out, tag, NULL};
        HPL_CHECK(hpl_gcm_run(&key, false, &m));
    }
}

int main(int argc, char **argv)
{
    size_t count;
    const struct hpl_gcm_kernel *const *kernels = hpl_gcm_kernels(&count);
    const char *asked = argc == 2 ? argv[1] : "";
    if (strcmp(asked, "broken") == 0) {
        uint8_t secret = 5;
        hide(&secret, 1);
        puts(*(volatile uint8_t *)&secret == 5 ? "five" : "another");
        return 0;
    }
    for (size_t i = 0; i < count; i++) {
        if (strcmp(asked, kernels[i]->name) == 0) {
            run(kernels[i]);
            return 0;
        }
    }
    return 1;
}
