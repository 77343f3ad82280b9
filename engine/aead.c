/* AES-GCM for our own data path, by the best kernel directly: EVP's dispatch costs 75 ns a message and buys nothing here. Any thread. */
#include "engine/aead.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/log.h"
#include "base/secret.h"
#include "engine/aead_key.h"

/* A kernel that this processor should run but computes wrongly is a broken machine or a bug: said once, and done without. */
static void report_failed(void)
{
    size_t count;
    const struct hpl_gcm_kernel *const *failed = hpl_gcm_failed(&count);
    for (size_t i = 0; i < count; i++)
        hpl_log(HPL_LOG_ERROR, "engine.kernel_failed_self_test", HPL_S("kernel", failed[i]->name), HPL_S("in_use", hpl_gcm_kernel()->name));
}

static const struct hpl_gcm_kernel *kernel_in_use(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, report_failed);
    return hpl_gcm_kernel();
}

enum hpl_status hpl_aead_key_new(struct hpl_call *call, struct hpl_aead_key **out, const uint8_t *key, size_t key_len)
{
    HPL_CHECK(key_len == 16 || key_len == 24 || key_len == 32);
    struct hpl_secret *home = hpl_secret_new(sizeof(struct hpl_aead_key));
    *out = NULL;
    if (!home)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    *out = (struct hpl_aead_key *)(void *)home->bytes;
    (*out)->home = home;
    hpl_gcm_set_key(&(*out)->gcm, kernel_in_use(), key, key_len);
    return HPL_OK;
}

/* A thread's own room for looked-up rounds: lent to it, or in secret memory from its first long message to its end. Where there are MAX_TABLES of those, or the
 * region is full, the rounds lie on the stack, wiped by the kernel. */
#define MAX_TABLES 32u
static pthread_key_t table_key;
static _Atomic unsigned num_tables;
static _Thread_local struct hpl_secret *table_home;
static _Thread_local uint8_t *lent_table;

static void free_table(void *home)
{
    hpl_secret_free(home);
    atomic_fetch_sub(&num_tables, 1);
}

static void make_table_key(void)
{
    HPL_CHECK(pthread_key_create(&table_key, free_table) == 0);
}

static struct hpl_secret *new_table(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_table_key);
    struct hpl_secret *home = atomic_fetch_add(&num_tables, 1) < MAX_TABLES ? hpl_secret_new(HPL_GCM_TABLE_LEN) : NULL;
    if (home && pthread_setspecific(table_key, home) == 0)
        return home;
    free_table(home);
    return NULL;
}

static uint8_t *table_for(size_t len)
{
    size_t from = kernel_in_use()->look_up_from;
    if (!from || len < from)
        return NULL;
    if (lent_table)
        return lent_table;
    if (!table_home)
        table_home = new_table();
    return table_home ? table_home->bytes : NULL;
}

void hpl_aead_lend_table(uint8_t *table)
{
    lent_table = table;
}

void hpl_aead_key_free(struct hpl_aead_key *key)
{
    if (key)
        hpl_secret_free(key->home);
}

void hpl_aead_seal(const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad, const uint8_t *in, size_t len, uint8_t *out,
                   uint8_t tag[static 16])
{
    const struct hpl_gcm_message m = {nonce, aad.data, in, aad.len, len, out, tag, table_for(len)};
    HPL_CHECK(hpl_gcm_run(&key->gcm, false, &m));
}

enum hpl_status hpl_aead_open(const struct hpl_aead_key *key, const uint8_t nonce[static 12], struct hpl_bytes aad, const uint8_t *in, size_t len,
                              uint8_t *out, const uint8_t tag[static 16])
{
    uint8_t computed[HPL_AEAD_TAG_LEN];
    const struct hpl_gcm_message m = {nonce, aad.data, in, aad.len, len, out, computed, table_for(len)};
    HPL_CHECK(hpl_gcm_run(&key->gcm, true, &m));
    bool is_right = hpl_equal_secret(computed, tag, sizeof computed);
    hpl_wipe(computed, sizeof computed);
    if (is_right)
        return HPL_OK;
    if (len)
        hpl_wipe(out, len);
    return HPL_INVALID_CIPHERTEXT;
}

const char *hpl_aead_kernel(void)
{
    return kernel_in_use()->name;
}
