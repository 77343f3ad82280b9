/* One case of the fault matrix: arm the shim, ask the keystore for everything it does, disarm, wait until all of it works again, check
 * what must hold. One thread, one keystore, one token. */
#include "tests/faults/faults.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/codec.h"

#define READY_MS 5000u
#define REQUEST_MS 5000u    /* the deadline of a request */
#define TOO_LONG_MS 6000u   /* no request may take longer than its deadline, on a loaded machine */
#define WHILE_MS 300u
#define LONG_MS 30000u
#define HANG_MS 13000u      /* longer than the watchdog waits */
#define RECONNECT_MS 700u
#define MAX_SESSIONS 4u

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

/* What is asked of the keystore in one round, and what came of it. */
struct round {
    struct bench *bench;
    const struct one_case *one; /* NULL: nothing may fail */
    char *why;
    bool is_ok;                 /* all of it worked */
    char last[200];             /* what did not work */
};

static uint64_t now_ms(void)
{
    return hpl_clock_mono_ns() / 1000000u;
}

/* The first thing that is wrong with a case is kept. */
static void HPL_PRINTF(2, 3) blame(char *why, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (!why[0])
        vsnprintf(why, 256, fmt, args);
    va_end(args);
}

/* --- the token -------------------------------------------------------------------------------------------------------------------------- */

static struct shim *share_shim(const struct softhsm *hsm)
{
    char path[256];
    snprintf(path, sizeof path, "%s/softhsm2.conf.shim", hsm->dir);
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(file >= 0);
    EXPECT_NUM(ftruncate(file, sizeof(struct shim)), 0);
    struct shim *shim = mmap(NULL, sizeof *shim, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    EXPECT(shim != MAP_FAILED);
    close(file);
    return shim;
}

static enum hpl_status open_it(struct bench *bench, struct hpl_call *call)
{
    return softhsm_try_open(&bench->hsm, call, &bench->keystore);
}

static void close_it(struct bench *bench)
{
    if (bench->keystore)
        bench->keystore->ops->close(bench->keystore);
    bench->keystore = NULL;
}

void faults_bench_init(struct bench *bench, bool is_worker)
{
    static const struct hpl_tokend_option worker;
    struct hpl_call call;
    *bench = (struct bench){.version = 2};
    softhsm_init(&bench->hsm, "hpl test");
    bench->shim = share_shim(&bench->hsm);
    bench->hsm.option.module = SHIM_MODULE;
    bench->hsm.option.max_sessions = MAX_SESSIONS;
    bench->hsm.option.mechanism = "aes-gcm"; /* or a fault in making AES keys would lead to RSA keys, seconds each */
    bench->is_worker = is_worker;
    bench->hsm.env.tokend = is_worker ? &worker : NULL;
    EXPECT_OK(open_it(bench, &call));
    hpl_uuid_new(bench->uid);
    EXPECT_OK(bench->keystore->ops->create_version(bench->keystore, &call, bench->uid, 1));
    bench->secret = hpl_secret_random(32);
    EXPECT_OK(bench->keystore->ops->wrap(bench->keystore, &call, bench->uid, 1, aad, bench->secret, &bench->good));
}

void faults_bench_wipe(struct bench *bench)
{
    close_it(bench);
    hpl_secret_free(bench->secret);
    softhsm_wipe(&bench->hsm);
    munmap(bench->shim, sizeof *bench->shim);
}

/* What an operator does who has made sure of the PIN. */
static void unlatch(const struct bench *bench)
{
    char path[512];
    snprintf(path, sizeof path, "%s/pkcs11", bench->hsm.state_dir);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));) {
        snprintf(path, sizeof path, "%s/pkcs11/%.200s", bench->hsm.state_dir, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (dir)
        closedir(dir);
}

/* --- one request --------------------------------------------------------------------------------------------------------------------------- */

/* Judges one request by its status and its time. */
static bool judge(struct round *round, const char *what, enum hpl_status status, const struct hpl_call *call, uint64_t start_ms)
{
    bool is_unwrap = strcmp(what, "unwrap") == 0;
    uint64_t took_ms = now_ms() - start_ms;
    if (round->one && status == HPL_TIMEOUT && round->one->when != HANGS)
        blame(round->why, LATE "%s answered TIMEOUT after %llu ms", what, (unsigned long long)took_ms);
    else if (round->one && !faults_may_see(round->one, is_unwrap, status))
        blame(round->why, "%s answered %s: %.120s", what, hpl_status_row(status)->name, hpl_detail(call, status));
    if (took_ms > TOO_LONG_MS)
        blame(round->why, LATE "%s took %llu ms", what, (unsigned long long)took_ms);
    round->is_ok &= status == HPL_OK;
    if (status != HPL_OK)
        snprintf(round->last, sizeof round->last, "%s: %s: %.150s", what, hpl_status_row(status)->name, hpl_detail(call, status));
    return status == HPL_OK;
}

static bool is_zero(const void *bytes, size_t len)
{
    const uint8_t *byte = bytes;
    while (len && *byte++ == 0)
        len--;
    return len == 0;
}

static bool ends_workers(const struct one_case *one)
{
    return one->when == HANGS || one->code->rv == SHIM_CRASH;
}

static void ask_wrap(struct round *round)
{
    struct bench *bench = round->bench;
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    unsigned num_before = shim_get(bench->shim->num_calls[SHIM_ENCRYPT_INIT]);
    uint64_t start_ms = now_ms();
    hpl_call_init(&call, REQUEST_MS);
    memset(&wrapped, 0xa5, sizeof wrapped);
    enum hpl_status status = bench->keystore->ops->wrap(bench->keystore, &call, bench->uid, 1, aad, bench->secret, &wrapped);
    unsigned num_runs = shim_get(bench->shim->num_calls[SHIM_ENCRYPT_INIT]) - num_before;
    if (num_runs > 2 && !(round->one && ends_workers(round->one))) /* a new worker also tries out who makes the IV */
        blame(round->why, "one wrap was sent %u times", num_runs);
    if (!judge(round, "wrap", status, &call, start_ms) && !is_zero(&wrapped, sizeof wrapped))
        blame(round->why, "a wrap that answered %s left something behind", hpl_status_row(status)->name);
    if (status == HPL_OK && !round->one) {
        hpl_call_init(&call, REQUEST_MS);
        status = bench->keystore->ops->unwrap(bench->keystore, &call, bench->uid, 1, aad, &wrapped, &back);
        round->is_ok &= status == HPL_OK && memcmp(back->bytes, bench->secret->bytes, bench->secret->len) == 0;
    }
}

static void ask_unwrap(struct round *round)
{
    struct bench *bench = round->bench;
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    uint64_t start_ms = now_ms();
    hpl_call_init(&call, REQUEST_MS);
    enum hpl_status status = bench->keystore->ops->unwrap(bench->keystore, &call, bench->uid, 1, aad, &bench->good, &back);
    if (!judge(round, "unwrap", status, &call, start_ms) && back)
        blame(round->why, "an unwrap that answered %s gave a secret", hpl_status_row(status)->name);
    if (status == HPL_OK && (!back || back->len != bench->secret->len || memcmp(back->bytes, bench->secret->bytes, back->len) != 0))
        blame(round->why, "an unwrap that answered OK gave another secret");
}

static void ask_random(struct round *round)
{
    struct bench *bench = round->bench;
    struct hpl_call call;
    uint8_t bytes[4096];
    uint64_t start_ms = now_ms();
    hpl_call_init(&call, REQUEST_MS);
    judge(round, "random", bench->keystore->ops->random(bench->keystore, &call, bytes, sizeof bytes), &call, start_ms);
}

static void ask_record(struct round *round)
{
    struct bench *bench = round->bench;
    struct hpl_call call;
    struct hpl_buf content = {0};
    uint64_t start_ms = now_ms(), revision = 0;
    char name[32];
    snprintf(name, sizeof name, "record-%u", bench->num_records++);
    hpl_call_init(&call, REQUEST_MS);
    enum hpl_status status = bench->keystore->ops->record_put(bench->keystore, &call, name, bench->uid, 0, hpl_bytes_str("{}"), &revision);
    if (!judge(round, "record_put", status, &call, start_ms))
        return;
    hpl_call_init(&call, REQUEST_MS);
    status = bench->keystore->ops->record_get(bench->keystore, &call, name, &content, &revision);
    judge(round, "record_get", status, &call, now_ms());
    if (status == HPL_OK && (content.len != 2 || revision != 1))
        blame(round->why, "a record reads differently than it was written");
    hpl_buf_wipe(&content);
}

/* A key version made, used, destroyed; the destruction is repeated after the fault when it failed. */
static void ask_version(struct round *round, uint32_t version)
{
    struct bench *bench = round->bench;
    struct hpl_call call;
    uint64_t start_ms = now_ms();
    hpl_call_init(&call, REQUEST_MS);
    judge(round, "create", bench->keystore->ops->create_version(bench->keystore, &call, bench->uid, version), &call, start_ms);
    start_ms = now_ms();
    hpl_call_init(&call, REQUEST_MS);
    judge(round, "destroy", bench->keystore->ops->destroy_version(bench->keystore, &call, bench->uid, version), &call, start_ms);
}

/* Does a function matter to anything but wrapping and unwrapping? Keys and records are slow to make. */
static bool is_about_more(const struct one_case *one)
{
    return one->where != SHIM_ENCRYPT_INIT && one->where != SHIM_ENCRYPT && one->where != SHIM_DECRYPT_INIT && one->where != SHIM_DECRYPT;
}

static void ask_all(struct round *round, const struct one_case *one)
{
    ask_wrap(round);
    ask_unwrap(round);
    if (one->where == SHIM_SIGN_INIT || one->where == SHIM_SIGN)
        ask_record(round);
    else if (one->where == SHIM_RANDOM)
        ask_random(round);
    else if (is_about_more(one))
        ask_version(round, round->bench->version);
    ask_wrap(round);
    ask_unwrap(round);
}

/* --- the case -------------------------------------------------------------------------------------------------------------------------------- */

static void arm(struct shim *shim, const struct one_case *one)
{
    memset(shim->num_calls, 0, sizeof shim->num_calls);
    shim->num_injected = shim->num_logins = shim->num_stale_objects = shim->num_stale_sessions = shim->num_tainted = 0;
    shim->num_most_open = 0;
    shim->rv = one->code->rv;
    shim->is_after = one->is_after;
    shim->times = one->when == FIRST || one->when == THIRD ? 1 : SHIM_ALWAYS;
    shim->skip = one->when == THIRD ? 2 : one->when == EVERY_SEVENTH ? 6 : 0;
    shim->delay_ms = one->when == HANGS ? HANG_MS : 0;
    shim->every = one->when == EVERY_SEVENTH ? 7 : 0;
    shim_set(shim->where, one->where);
}

/* The sessions that are open now are lost, so that requests have to open others. */
static void lose_sessions(struct bench *bench, const struct one_case *one)
{
    if (one->where == SHIM_OPEN || one->where == SHIM_CLOSE)
        shim_set(bench->shim->loses_sessions, 1);
}

static unsigned lasts_ms(const struct one_case *one)
{
    return one->when == FOR_A_WHILE ? WHILE_MS : one->when == FOR_LONG ? LONG_MS : one->when == HANGS ? HANG_MS : 0;
}

static void run_work(struct round *round, const struct one_case *one)
{
    uint64_t until_ms = now_ms() + lasts_ms(one);
    bool was_always_ok = true;
    unsigned num_rounds = one->when == EVERY_SEVENTH ? 3 : 1;
    lose_sessions(round->bench, one);
    do {
        round->is_ok = true;
        ask_all(round, one);
        was_always_ok &= round->is_ok;
        num_rounds -= num_rounds > 0;
        usleep(lasts_ms(one) ? 20000 : 0);
    } while (num_rounds || now_ms() < until_ms);
    bool is_retried = one->code->family == SESSION || one->code->family == HANDLE || one->code->family == LOGIN;
    bool is_hot = one->where >= SHIM_ENCRYPT_INIT && one->where <= SHIM_SIGN;
    if (one->when == FIRST && is_retried && is_hot && !was_always_ok)
        blame(round->why, "one failure that a second try mends was shown to the caller");
    if (lasts_ms(one) && is_hot && was_always_ok)
        blame(round->why, "the fault lasted and nobody saw it");
}

static void run_reconnect(struct round *round, const struct one_case *one)
{
    uint64_t until_ms = now_ms() + (one->when == FOR_LONG ? LONG_MS : RECONNECT_MS);
    shim_set(round->bench->shim->is_dead, 1);
    while (now_ms() < until_ms) {
        ask_wrap(round);
        ask_unwrap(round);
        usleep(25000);
    }
}

/* While it opens, a token may also fail its trials. */
static void run_open(struct round *round, const struct one_case *one)
{
    struct hpl_call call;
    unsigned num_tries = one->when == FIRST ? 1 : 2;
    close_it(round->bench);
    if (!round->bench->is_worker && shim_get(round->bench->shim->num_open)) /* a worker that was ended takes its sessions along */
        blame(round->why, "%u sessions are open after the keystore was closed", round->bench->shim->num_open);
    while (num_tries-- && !round->bench->keystore) {
        enum hpl_status status = open_it(round->bench, &call);
        if (status != HPL_INVALID_CONFIGURATION && !faults_may_see(one, false, status))
            blame(round->why, "opening answered %s: %.140s", hpl_status_row(status)->name, hpl_detail(&call, status));
        if (status != HPL_OK && !round->bench->is_worker && shim_get(round->bench->shim->num_open))
            blame(round->why, "%u sessions are open after opening failed with %s", round->bench->shim->num_open, hpl_status_row(status)->name);
    }
    if (round->bench->keystore)
        ask_all(round, one);
}

/* Until everything works again; how long it took. */
static unsigned wait_ready(struct bench *bench, const struct one_case *one, char *why)
{
    struct hpl_call call;
    char last[200] = "it does not open";
    uint64_t start_ms = now_ms();
    struct one_case all = {.where = one->where == SHIM_SIGN || one->where == SHIM_SIGN_INIT || one->where == SHIM_RANDOM ? one->where : SHIM_GENERATE};
    while (now_ms() - start_ms < READY_MS) {
        char ignored[256] = "-";
        struct round round = {.bench = bench, .why = ignored, .is_ok = true};
        if (!bench->keystore) {
            enum hpl_status status = open_it(bench, &call);
            snprintf(last, sizeof last, "opening: %.180s", hpl_detail(&call, status));
        }
        if (bench->keystore) {
            ask_all(&round, is_about_more(one) ? &all : one);
            unsigned took_ms = (unsigned)(now_ms() - start_ms);
            if (round.is_ok && took_ms > READY_MS)
                blame(why, LATE "READY only after %u ms", took_ms);
            if (round.is_ok)
                return took_ms;
            snprintf(last, sizeof last, "%s", round.last);
        }
        usleep(10000);
    }
    blame(why, LATE "not READY after %u ms: %s", READY_MS, last);
    return READY_MS;
}

static void check_shim(const struct bench *bench, const struct one_case *one, unsigned num_logins, char *why)
{
    const struct shim *shim = bench->shim;
    if (shim->num_stale_sessions || shim->num_stale_objects)
        blame(why, "%u session and %u object handles of an earlier initialisation were used", shim->num_stale_sessions, shim->num_stale_objects);
    if (shim->num_tainted)
        blame(why, "%u operations in sessions that an error may have left busy", shim->num_tainted);
    unsigned most = bench->is_worker ? MAX_SESSIONS + 1 : 2; /* the anchor, and one for the one thread that asks; a worker has more */
    if (shim_get(shim->num_open) > most)
        blame(why, "%u sessions are open", shim->num_open);
    if (one->where == SHIM_LOGIN && one->code->family == PIN && shim->num_injected && num_logins != (one->when == THIRD ? 3u : 1u) &&
        one->when != EVERY_SEVENTH)
        blame(why, "C_Login was called %u times though the PIN was refused", num_logins);
    if (shim->num_foreign)
        blame(why, "%u calls of another process", shim->num_foreign);
}

void faults_run(struct bench *bench, const struct one_case *one, char why[static 256], unsigned *ready_ms, unsigned *num_hit)
{
    struct round round = {.bench = bench, .one = one, .why = why, .is_ok = true};
    why[0] = '\0';
    if (!bench->keystore)
        wait_ready(bench, one, why);
    if (why[0])
        return;
    arm(bench->shim, one);
    if (one->stage == WORK)
        run_work(&round, one);
    else if (one->stage == RECONNECT)
        run_reconnect(&round, one);
    else
        run_open(&round, one);
    shim_set(bench->shim->where, SHIM_NOWHERE);
    shim_set(bench->shim->loses_sessions, 0);
    unsigned num_logins = bench->shim->num_logins;
    *num_hit = bench->shim->num_injected;
    if (one->where == SHIM_LOGIN && one->code->family == PIN) {
        unlatch(bench);
        if (bench->is_worker) /* whose supervisor starts no other until it is opened anew */
            close_it(bench);
    }
    *ready_ms = wait_ready(bench, one, why);
    check_shim(bench, one, num_logins, why);
    if (!why[0])
        return;
    bench->version++; /* the next case starts from a key version and a keystore of its own */
    close_it(bench);
    if (!bench->is_worker && shim_get(bench->shim->num_open))
        blame(why, "%u sessions are open after the keystore was closed", bench->shim->num_open);
}
