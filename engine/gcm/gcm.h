/* AES-GCM (SP 800-38D) over kernels of one instruction set each. No allocation, no locks, no I/O; a key is immutable once set and may be used by any number
 * of threads, a message belongs to one. */
#ifndef HPL_ENGINE_GCM_GCM_H
#define HPL_ENGINE_GCM_GCM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hpl_gcm_kernel;

#define HPL_GCM_MAX_DATA ((1ull << 36) - 32) /* bytes of a message, SP 800-38D §5.2.1.1 */
#define HPL_GCM_SPLIT_MIN (2u << 20)         /* from here on two threads are quicker than one; measured: engine/work/README.md */
#define HPL_GCM_NUM_POWERS 44 /* 32, and room to read past them */
#define HPL_GCM_TABLE_LEN 4608u

/* An expanded key. 64-byte aligned storage is the caller's; wipe it after. */
struct hpl_gcm_key {
    _Alignas(64) uint8_t round_keys[15][16];
    uint8_t powers[HPL_GCM_NUM_POWERS][16]; /* of the hash key, in the kernel's own form */
    uint8_t middles[32][16];                /* the sums of their halves, where the kernel saves a product by them */
    const struct hpl_gcm_kernel *kernel;
    uint32_t rounds;        /* 10, 12, 14 */
};

/* A whole message at once, with a 96-bit nonce. out may be in, or apart. */
struct hpl_gcm_message {
    const uint8_t *nonce, *aad, *in;
    size_t aad_len, len;
    uint8_t *out, *tag; /* tag: 16 bytes, always written, never read */
    uint8_t *table;     /* HPL_GCM_TABLE_LEN bytes, 64-byte aligned, for a kernel that looks rounds up, wiped by it. NULL: on the stack */
};

struct hpl_gcm_kernel {
    const char *name; /* "aesni": the same word in logs, options and bench columns */
    uint32_t needs;   /* CPU bits */
    /* Fills round_keys, rounds and powers. key_len 16, 24, 32. */
    void (*set_key)(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len);
    /* One block through the cipher. */
    void (*encrypt)(const struct hpl_gcm_key *key, const uint8_t in[16], uint8_t out[16]);
    /* Folds whole blocks into y. */
    void (*ghash)(const struct hpl_gcm_key *key, uint8_t y[16], const uint8_t *in, size_t num_blocks);
    /* Whole blocks in counter mode, out may be in; counter is moved on; the ciphertext is folded into y. table as in a message; NULL: no round is looked
     * up, since the counter is secret or the kernel has none. */
    void (*seal)(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table);
    void (*open)(const struct hpl_gcm_key *key, uint8_t counter[16], uint8_t y[16], const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t *table);
    /* Messages sealed into each other, quicker than one after the other; NULL where that gains nothing. Each as for message. */
    void (*seal_many)(const struct hpl_gcm_key *key, const struct hpl_gcm_message *messages, size_t count);
    /* Bytes at once from which on looked-up rounds pay; 0: it looks none up. */
    size_t look_up_from;
    /* Folds num_blocks into y and masks it with the cipher of j0: the tag. NULL: encrypt and ghash are as quick. */
    void (*finish)(const struct hpl_gcm_key *key, const uint8_t j0[16], const uint8_t y[16], const uint8_t *in, size_t num_blocks, uint8_t tag[16]);
    /* The message, quicker than piece by piece for a short one; NULL where the above is all there is. */
    void (*message)(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *message);
};

/* The kernels that this machine has and that passed their known answers, best first; never empty. Any thread. */
const struct hpl_gcm_kernel *const *hpl_gcm_kernels(size_t *count);
/* The best. */
const struct hpl_gcm_kernel *hpl_gcm_kernel(void);
/* Those that this machine has but that failed their known answers, and are left out: for logs and status. Any thread. */
const struct hpl_gcm_kernel *const *hpl_gcm_failed(size_t *count);
/* Orders the rows of a NULL-terminated table whose needs are all in has into out (room for all of them): first those that prefers has too, each group in
 * the table's order. Returns how many. Pure. */
size_t hpl_gcm_rank(const struct hpl_gcm_kernel *const *table, uint32_t has, uint32_t prefers, const struct hpl_gcm_kernel **out);
/* Does the kernel give the known answers, and the same in bulk and block by block, sealing and opening? */
bool hpl_gcm_passes(const struct hpl_gcm_kernel *kernel);

void hpl_gcm_set_key(struct hpl_gcm_key *key, const struct hpl_gcm_kernel *kernel, const uint8_t *bytes, size_t key_len);

/* One message: start, aad any number of times, update any number of times, finish. */
struct hpl_gcm {
    const struct hpl_gcm_key *key;
    uint8_t counter[16], y[16], j0[16];
    uint8_t partial[16];    /* keystream of a block begun; while AAD comes: its unfinished block */
    uint8_t folded[32];     /* ciphertext of that block, to be folded; at the end, the lengths behind it */
    uint8_t *table;         /* as in a message; NULL at the start */
    uint64_t aad_len, len;
    unsigned num_partial;   /* bytes used of it */
    bool is_open, has_data;
    bool is_counter_public; /* 96-bit nonce: a table may be indexed by its last byte */
};

/* nonce_len at least 1; 12 is the common one. */
void hpl_gcm_start(struct hpl_gcm *gcm, const struct hpl_gcm_key *key, bool is_open, const uint8_t *nonce, size_t nonce_len);
/* False past 2^61 - 1 bytes, or once data came. */
bool hpl_gcm_aad(struct hpl_gcm *gcm, const uint8_t *aad, size_t len);
/* out may be in, or apart. False past 2^36 - 32 bytes in all, with nothing written. */
bool hpl_gcm_update(struct hpl_gcm *gcm, const uint8_t *in, uint8_t *out, size_t len);
/* The whole tag. The message must be started again before further use. */
void hpl_gcm_finish(struct hpl_gcm *gcm, uint8_t tag[16]);
/* Start to finish at once. The caller compares the tag when opening. False past the limits of the above, with nothing written. */
bool hpl_gcm_run(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *message);
/* count messages under one key, as if each were run alone; their nonces must differ, their texts not overlap. False, with nothing written, when any of them is
 * past the limits. */
bool hpl_gcm_run_many(const struct hpl_gcm_key *key, bool is_open, const struct hpl_gcm_message *messages, size_t count);
void hpl_gcm_wipe(void *data, size_t len);

/* Slice index of a message; table as in a message, this thread's own. */
typedef void (*hpl_gcm_slice_fn)(void *arg, size_t index, uint8_t *table);

/* Threads that the caller has. run calls fn(arg, i, table) once for every i below count, on any threads, and returns when all are done. */
struct hpl_gcm_crew {
    void (*run)(void *self, hpl_gcm_slice_fn fn, void *arg, size_t count);
    void *self;
    size_t slice_blocks; /* blocks a slice, unless that makes too many slices; 0: what was measured to be good */
};

/* As hpl_gcm_update, the whole blocks cut into slices for the crew; at most one slice: no crew. */
bool hpl_gcm_update_split(struct hpl_gcm *gcm, const struct hpl_gcm_crew *crew, const uint8_t *in, uint8_t *out, size_t len);
/* Whole blocks of a message that stands where a block begins, its AAD ended, from first_block blocks further on; y goes on from what it holds (zero: the
 * slice's own sum). The message itself is only read: any number of threads at once. */
void hpl_gcm_slice(const struct hpl_gcm *gcm, uint64_t first_block, const uint8_t *in, uint8_t *out, size_t num_blocks, uint8_t y[16],
                   uint8_t *table);
/* H^n for the key's hash key H, in O(log n) multiplications of constant time; n is public. */
void hpl_gcm_power(const struct hpl_gcm_key *key, uint64_t n, uint8_t power[16]);
/* y * power + y_after: with power = H^n, y joined to the sum of the n blocks behind it. Constant time. */
void hpl_gcm_join(const uint8_t power[16], uint8_t y[16], const uint8_t y_after[16]);

extern const struct hpl_gcm_kernel hpl_gcm_portable, hpl_gcm_aesni, hpl_gcm_vaes_avx2, hpl_gcm_vaes_avx512;

/* The last 32 bits count, the upper 96 stay (SP 800-38D §6.2). Without a branch: of a nonce that is not 96 bits long the counter is secret. */
static inline void hpl_gcm_increment(uint8_t counter[16])
{
    uint32_t carry = 1;
    for (int i = 15; i >= 12; i--) {
        carry += counter[i];
        counter[i] = (uint8_t)carry;
        carry >>= 8;
    }
}

/* Key expansion (FIPS 197 §5.2) over a kernel's own S-box on four bytes. */
void hpl_gcm_expand(struct hpl_gcm_key *key, const uint8_t *bytes, size_t key_len, uint32_t (*sub_word)(uint32_t word));

#endif
