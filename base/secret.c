/* The secret region: power-of-two classes carved from one locked mapping. Any thread, one mutex; secrets are
 * made per request or per key, never per package. */
#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <openssl/rand.h>

#define MAGIC 0x48504c53u /* "HPLS" */
#define SMALLEST 128u
#define NUM_CLASSES 10u /* 128 B … 64 KiB */
#define LIVE 0x6c697665u

/* Each block: header (64 B), the secret, a canary of at least 16 bytes up to the block's end. */
struct block {
    struct hpl_secret secret;
    struct block *next; /* in the free list */
    uint32_t class;
    uint8_t pad[64 - sizeof(struct hpl_secret) - sizeof(void *) - sizeof(uint32_t)];
};
_Static_assert(sizeof(struct block) == 64, "the header keeps secrets 64-byte aligned");

static pthread_mutex_t lock = PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP; /* held for nanoseconds: spinning is cheaper than sleeping */
static uint8_t *region;
static size_t region_size, region_used, bytes_in_use;
static bool is_locked, must_lock;
static struct block *free_lists[NUM_CLASSES];
static uint8_t canary[16];

static _Atomic uint32_t *liveness; /* on a page of its own, which is zero in a child: MADV_WIPEONFORK */

void hpl_wipe(void *data, size_t len)
{
    explicit_bzero(data, len);
}

/* Memory that not even the kernel maps: locked, undumped, out of reach of /proc/PID/mem. False where there is none (Linux 5.14, secretmem.enable) or the limit
 * is too low. A child has no such memory at all. */
static bool map_hidden(uint8_t *at, size_t size)
{
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    if (fd < 0)
        return false;
    bool is_there = ftruncate(fd, (off_t)size) == 0 &&
                    mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED && madvise(at, size, MADV_DONTFORK) == 0;
    close(fd);
    if (!is_there) /* whatever was mapped gives way to the reservation again */
        HPL_CHECK(mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED);
    return is_there;
}

static bool map_liveness(size_t page)
{
    void *at = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || madvise(at, page, MADV_WIPEONFORK) != 0)
        return false;
    liveness = at;
    atomic_store(liveness, LIVE);
    return true;
}

/* Turns the reservation into memory for secrets. */
static enum hpl_status open_region(struct hpl_call *call, uint8_t *at, size_t size, enum hpl_secret_policy policy)
{
    struct rlimit limit = {0};
    is_locked = map_hidden(at, size);
    if (is_locked)
        return HPL_OK;
    if (mprotect(at, size, PROT_READ | PROT_WRITE) != 0)
        return hpl_fail(call, HPL_NO_MEMORY, "cannot open the secret region: %s", strerror(errno));
    is_locked = mlock(at, size) == 0;
    int why = errno;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (!is_locked && policy == HPL_SECRET_MUST_LOCK)
        return hpl_fail(call, HPL_UNAVAILABLE,
                        "cannot lock %zu KiB of memory for keys (%s; the limit is %llu KiB): raise it with "
                        "'ulimit -l 8192' or LimitMEMLOCK=8M",
                        size / 1024, strerror(why), (unsigned long long)limit.rlim_cur / 1024);
    madvise(at, size, MADV_DONTDUMP);
    madvise(at, size, MADV_WIPEONFORK);
    return HPL_OK;
}

static enum hpl_status map_region(struct hpl_call *call, size_t size, enum hpl_secret_policy policy)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size = (size + page - 1) / page * page;
    uint8_t *map = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        return hpl_fail(call, HPL_NO_MEMORY, "cannot map %zu bytes for secrets: %s", size, strerror(errno));
    enum hpl_status status = open_region(call, map + page, size, policy);
    if (status == HPL_OK && (!map_liveness(page) && policy == HPL_SECRET_MUST_LOCK))
        status = hpl_fail(call, HPL_UNAVAILABLE, "the kernel lacks MADV_WIPEONFORK (Linux 4.14 or newer is needed)");
    if (status == HPL_OK && RAND_bytes(canary, sizeof canary) != 1)
        status = hpl_fail(call, HPL_INTERNAL, "no random numbers for the secret region");
    if (status != HPL_OK) {
        munmap(map, size + 2 * page);
        return status;
    }
    region = map + page;
    region_size = size;
    return HPL_OK;
}

enum hpl_status hpl_secret_init(struct hpl_call *call, size_t size, enum hpl_secret_policy policy)
{
    pthread_mutex_lock(&lock);
    enum hpl_status status = region ? HPL_OK : map_region(call, size, policy);
    if (status == HPL_OK && policy == HPL_SECRET_MUST_LOCK && !is_locked)
        status = hpl_fail(call, HPL_UNAVAILABLE, "memory for keys is not locked, and they must be: raise the limit with 'ulimit -l 8192'");
    if (status == HPL_OK && policy == HPL_SECRET_MUST_LOCK)
        must_lock = true;
    pthread_mutex_unlock(&lock);
    return status;
}

bool hpl_secret_is_locked(void)
{
    return is_locked;
}

bool hpl_secret_must_lock(void)
{
    return must_lock;
}

size_t hpl_secret_in_use(void)
{
    pthread_mutex_lock(&lock);
    size_t n = bytes_in_use;
    pthread_mutex_unlock(&lock);
    return n;
}

static size_t class_size(uint32_t class)
{
    return (size_t)SMALLEST << class;
}

static void check_alive(void)
{
    HPL_CHECK(region && (!liveness || atomic_load_explicit(liveness, memory_order_relaxed) == LIVE));
}

static struct block *take_block(uint32_t class)
{
    struct block *block = free_lists[class];
    if (block) {
        free_lists[class] = block->next;
        return block;
    }
    if (region_size - region_used >= class_size(class)) {
        block = (struct block *)(region + region_used);
        region_used += class_size(class);
        return block;
    }
    /* Split a larger free block into blocks of this class. */
    for (uint32_t larger = class + 1; larger < NUM_CLASSES; larger++) {
        if (!free_lists[larger])
            continue;
        uint8_t *at = (uint8_t *)free_lists[larger];
        free_lists[larger] = free_lists[larger]->next;
        for (size_t offset = class_size(class); offset < class_size(larger); offset += class_size(class)) {
            struct block *piece = (struct block *)(at + offset);
            piece->next = free_lists[class];
            free_lists[class] = piece;
        }
        return (struct block *)at;
    }
    return NULL;
}

struct hpl_secret *hpl_secret_new(size_t len)
{
    HPL_CHECK(len > 0 && len <= HPL_SECRET_MAX);
    uint32_t class = 0;
    while (class_size(class) < sizeof(struct block) + len + sizeof canary)
        class++;
    HPL_CHECK(class < NUM_CLASSES);
    pthread_mutex_lock(&lock);
    if (!region && map_region(NULL, 1u << 20, HPL_SECRET_MAY_SWAP) != HPL_OK) {
        pthread_mutex_unlock(&lock);
        return NULL;
    }
    check_alive();
    struct block *block = take_block(class);
    if (block)
        bytes_in_use += class_size(class);
    pthread_mutex_unlock(&lock);
    if (!block)
        return NULL;
    memset(block, 0, sizeof *block + len);
    block->class = class;
    block->secret = (struct hpl_secret){MAGIC, (uint32_t)len, (uint8_t *)(block + 1)};
    memcpy(block->secret.bytes + len, canary, sizeof canary);
    return &block->secret;
}

struct hpl_secret *hpl_secret_from(const void *bytes, size_t len)
{
    struct hpl_secret *secret = hpl_secret_new(len);
    if (secret)
        memcpy(secret->bytes, bytes, len);
    return secret;
}


void hpl_secret_check(const struct hpl_secret *secret)
{
    check_alive();
    HPL_CHECK(secret->magic == MAGIC);
    HPL_CHECK(memcmp(secret->bytes + secret->len, canary, sizeof canary) == 0);
}

void hpl_secret_free(struct hpl_secret *secret)
{
    if (!secret)
        return;
    hpl_secret_check(secret);
    struct block *block = (struct block *)secret;
    uint32_t class = block->class;
    hpl_wipe(block, sizeof *block + secret->len);
    pthread_mutex_lock(&lock);
    block->next = free_lists[class];
    free_lists[class] = block;
    bytes_in_use -= class_size(class);
    pthread_mutex_unlock(&lock);
}

/* --- random bytes -------------------------------------------------------------------------------------------------------- */

#define STOCK_LEN 928u /* what a block of 1 KiB holds */

/* A call of the generator takes as long as all else that a data key needs, and as long for 900 bytes as for 32: so each thread keeps some. */
struct stock {
    struct hpl_secret *bytes; /* NULL: not yet */
    size_t num_left;
};
static _Thread_local struct stock stock;
static pthread_key_t stock_key; /* only for its destructor */
static pthread_once_t stock_once = PTHREAD_ONCE_INIT;

static void note_stock(size_t len)
{
    pthread_mutex_lock(&lock);
    bytes_in_use += len;
    pthread_mutex_unlock(&lock);
}

static void end_stock(void *bytes)
{
    note_stock(class_size(((struct block *)bytes)->class));
    hpl_secret_free(bytes);
    stock = (struct stock){0};
}

static void make_stock_key(void)
{
    HPL_CHECK(pthread_key_create(&stock_key, end_stock) == 0);
}

/* The stock is the threads' and no secret that was handed out: it is not counted as in use. */
static bool open_stock(void)
{
    if (stock.bytes)
        return true;
    pthread_once(&stock_once, make_stock_key);
    struct hpl_secret *bytes = hpl_secret_new(STOCK_LEN);
    if (!bytes)
        return false;
    note_stock(-class_size(((struct block *)bytes)->class));
    if (pthread_setspecific(stock_key, bytes) != 0) {
        end_stock(bytes);
        return false;
    }
    stock.bytes = bytes;
    return true;
}

bool hpl_random(void *out, size_t len)
{
    if (len > STOCK_LEN / 8 || !open_stock())
        return RAND_priv_bytes(out, (int)len) == 1;
    hpl_secret_check(stock.bytes); /* a child of fork has no share in it */
    if (stock.num_left < len) {
        if (RAND_priv_bytes(stock.bytes->bytes, STOCK_LEN) != 1)
            return false;
        stock.num_left = STOCK_LEN;
    }
    uint8_t *from = stock.bytes->bytes + STOCK_LEN - stock.num_left;
    memcpy(out, from, len);
    hpl_wipe(from, len);
    stock.num_left -= len;
    return true;
}

struct hpl_secret *hpl_secret_random(size_t len)
{
    struct hpl_secret *secret = hpl_secret_new(len);
    if (secret && !hpl_random(secret->bytes, len)) {
        hpl_secret_free(secret);
        return NULL;
    }
    return secret;
}
