/* Does a token in a worker process serve as one in ours, and does whatever happens to that process stay there? SoftHSM, the shim in
 * front of it, and hardplate-tokend beside this program. */
#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "backends/pkcs11/cryptoki.h"
#include "backends/pkcs11/store.h"
#include "backends/pkcs11/tokend/channel.h"
#include "backends/pkcs11/tokend/spawn.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"
#define PATIENCE_MS 30000u

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

struct bench {
    struct softhsm hsm;
    struct hpl_tokend_option worker;
    struct hpl_keystore *keystore;
    struct shim *shim; /* shared with the worker; NULL without */
    uint8_t uid[HPL_KEY_UID_LEN];
};

static void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000}, NULL);
}

/* The shim's knobs in a file that the worker finds beside SoftHSM's configuration. */
static struct shim *share_shim(struct softhsm *hsm)
{
    char path[192];
    snprintf(path, sizeof path, "%s/softhsm2.conf.shim", hsm->dir);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && ftruncate(fd, sizeof(struct shim)) == 0);
    struct shim *shim = mmap(NULL, sizeof *shim, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    EXPECT(shim != MAP_FAILED);
    close(fd);
    hsm->option.module = SHIM_MODULE;
    return shim;
}

static void init(struct bench *bench, bool has_shim)
{
    *bench = (struct bench){0};
    softhsm_init(&bench->hsm, "hpl test");
    if (has_shim)
        bench->shim = share_shim(&bench->hsm);
    bench->hsm.env.tokend = &bench->worker;
}

/* Key pairs may be made: that takes a busy machine its time. */
static void open_worker(struct bench *bench)
{
    struct hpl_call call;
    json_t *HPL_JSON_AUTO config = json_pack("{s:s s:s}", "backend_type", "pkcs11", "token", "main");
    hpl_call_init(&call, 4 * PATIENCE_MS);
    enum hpl_status status = hpl_backend_pkcs11.open(&call, config, &bench->hsm.env, &bench->keystore);
    if (status != HPL_OK)
        fprintf(stderr, "\n    open: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
}

static void open_with_key(struct bench *bench)
{
    struct hpl_call call;
    open_worker(bench);
    hpl_call_init(&call, 4 * PATIENCE_MS);
    hpl_uuid_new(bench->uid);
    EXPECT_OK(bench->keystore->ops->create_version(bench->keystore, &call, bench->uid, 1));
}

static void wipe(struct bench *bench)
{
    if (bench->keystore)
        bench->keystore->ops->close(bench->keystore);
    if (bench->shim)
        munmap(bench->shim, sizeof *bench->shim);
    softhsm_wipe(&bench->hsm);
}

static enum hpl_status try_wrap(struct bench *bench, struct hpl_call *call, struct hpl_wrapped *out)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    return bench->keystore->ops->wrap(bench->keystore, call, bench->uid, 1, aad, secret, out);
}

static enum hpl_status round_trip(struct bench *bench, struct hpl_call *call)
{
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    struct hpl_wrapped wrapped;
    HPL_TRY(bench->keystore->ops->wrap(bench->keystore, call, bench->uid, 1, aad, secret, &wrapped));
    HPL_TRY(bench->keystore->ops->unwrap(bench->keystore, call, bench->uid, 1, aad, &wrapped, &back));
    return back->len == secret->len && memcmp(back->bytes, secret->bytes, back->len) == 0 ? HPL_OK : HPL_INTERNAL;
}

static enum hpl_status round_trip_in(struct bench *bench, unsigned ms)
{
    struct hpl_call call;
    hpl_call_init(&call, ms);
    return round_trip(bench, &call);
}

static json_int_t fact(struct bench *bench, const char *name)
{
    json_t *HPL_JSON_AUTO facts = bench->keystore->ops->describe(bench->keystore);
    return json_integer_value(json_object_get(facts, name));
}

static pid_t worker_of(struct bench *bench)
{
    return (pid_t)fact(bench, "worker_pid");
}

/* Gone, or a zombie that whoever adopted it has not buried. */
static bool is_gone(pid_t pid)
{
    char path[64], state = 'Z';
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%*d %*[^)]) %c", &state) != 1)
        state = 'Z';
    if (file)
        fclose(file);
    return state == 'Z' || state == 'X';
}

static bool wait_until_gone(pid_t pid)
{
    for (unsigned i = 0; i < PATIENCE_MS / 10; i++) {
        if (is_gone(pid))
            return true;
        sleep_ms(10);
    }
    return false;
}

/* How long until it works again. */
static uint64_t ms_until_ready(struct bench *bench)
{
    uint64_t from = hpl_clock_mono_ns();
    while (round_trip_in(bench, 2000) != HPL_OK && hpl_clock_mono_ns() - from < PATIENCE_MS * 1000000ull)
        sleep_ms(5);
    return (hpl_clock_mono_ns() - from) / 1000000;
}

static size_t num_in(const char *folder)
{
    size_t num = 0;
    DIR *dir = opendir(folder);
    EXPECT(dir != NULL);
    while (readdir(dir))
        num++;
    closedir(dir);
    return num;
}

/* --- the protocol --------------------------------------------------------------------------------------------------------------------- */

HPL_TEST(a_header_out_of_bounds_is_no_frame)
{
    static const struct hpl_tokend_header good = {.len = 100 + 32, .id = 7, .op = HPL_TOKEND_WRAP, .deadline_ns = 5};
    struct hpl_tokend_header bad[] = {good, good, good, good, good, good}, out;
    uint8_t bytes[HPL_TOKEND_HEADER_LEN];
    hpl_tokend_put_header(&good, bytes);
    EXPECT(hpl_tokend_read_request(bytes, &out));
    EXPECT(out.len == good.len && out.id == good.id && out.op == good.op && out.deadline_ns == good.deadline_ns);
    for (size_t i = 11; i < 16; i++) { /* bytes that mean nothing */
        bytes[i] ^= 1;
        EXPECT(!hpl_tokend_read_request(bytes, &out));
        bytes[i] ^= 1;
    }
    bad[0].op = 0;
    bad[1].op = HPL_TOKEND_NUM_OPS;
    bad[2].len = 16;
    bad[3].len = UINT32_MAX;
    bad[4].status = 1;
    bad[5].flags = 1;
    for (size_t i = 0; i < HPL_COUNT(bad); i++) {
        hpl_tokend_put_header(&bad[i], bytes);
        EXPECT(!hpl_tokend_read_request(bytes, &out));
    }
}

HPL_TEST(an_answer_out_of_bounds_is_no_frame)
{
    static const struct hpl_tokend_header good = {.len = 32, .id = 7, .op = HPL_TOKEND_UNWRAP};
    struct hpl_tokend_header bad[] = {good, good, good, good, good}, out;
    uint8_t bytes[HPL_TOKEND_HEADER_LEN];
    hpl_tokend_put_header(&good, bytes);
    EXPECT(hpl_tokend_read_answer(bytes, &out));
    bad[0].len = 65;
    bad[1].status = HPL_NUM_STATUSES;
    bad[2].flags = 4;
    bad[3].deadline_ns = 1;
    bad[4].status = HPL_BACKEND;
    bad[4].len = 240;
    for (size_t i = 0; i < HPL_COUNT(bad); i++) {
        hpl_tokend_put_header(&bad[i], bytes);
        EXPECT(!hpl_tokend_read_answer(bytes, &out));
    }
}

HPL_TEST(what_is_said_of_a_token_is_taken_only_when_clean)
{
    struct hpl_p11_facts facts = {.label = "hpl test", .serial = "01", .manufacturer = "SoftHSM project", .library = "SoftHSM 2.6",
                                  .mechanism = HPL_MECH_P11_GCM, .iv_mode = HPL_P11_IV_CALLER}, out;
    struct hpl_buf body = {0};
    hpl_p11_facts_name(&facts);
    hpl_tokend_put_welcome(&body, &facts);
    EXPECT(hpl_tokend_read_welcome(hpl_buf_bytes(&body), &out));
    EXPECT_TEXT(out.id, facts.id);
    EXPECT_TEXT(out.library, facts.library);
    for (size_t i = 0; i < body.len; i++) /* cut anywhere it is none */
        EXPECT(!hpl_tokend_read_welcome(hpl_bytes(body.data, i), &out));
    body.data[2] = '\n'; /* in the label */
    EXPECT(!hpl_tokend_read_welcome(hpl_buf_bytes(&body), &out));
    body.data[2] = 0xff;
    EXPECT(!hpl_tokend_read_welcome(hpl_buf_bytes(&body), &out));
    hpl_buf_wipe(&body);
}

HPL_TEST(a_greeting_comes_through_whole_or_not_at_all)
{
    const struct hpl_token_option option = {.name = "main", .uri = "pkcs11:token=x", .pin_source = "file:/x", .max_sessions = 3, .init_reserved = "a b",
                                            .iv_mode = "caller"};
    const uint8_t key[HPL_TOKEND_LATCH_KEY_LEN] = {1, 2, 3};
    struct hpl_tokend_hello hello;
    struct hpl_call call = {0};
    struct hpl_buf body = {0};
    hpl_tokend_put_hello(&body, &option, "/state/pkcs11", "1234.abcd");
    hpl_buf_put(&body, key, sizeof key);
    EXPECT_OK(hpl_tokend_read_hello(&call, hpl_buf_bytes(&body), &hello));
    EXPECT_TEXT(hello.option.name, "main");
    EXPECT_TEXT(hello.option.uri, option.uri);
    EXPECT_TEXT(hello.option.init_reserved, "a b");
    EXPECT_TEXT(hello.option.iv_mode, "caller");
    EXPECT_TEXT(hello.latch_shown, "/state/pkcs11");
    EXPECT_TEXT(hello.known_id, "1234.abcd");
    EXPECT(hello.option.module == NULL && hello.option.max_sessions == 3);
    EXPECT_BYTES(hello.latch_key->bytes, key, sizeof key);
    hpl_tokend_hello_wipe(&hello);
    for (size_t i = 0; i < body.len; i++)
        EXPECT(hpl_tokend_read_hello(&call, hpl_bytes(body.data, i), &hello) != HPL_OK);
    hpl_buf_wipe(&body);
}

/* --- a worker that is none ------------------------------------------------------------------------------------------------------------- */

static enum hpl_status open_with_program(struct bench *bench, const char *script, struct hpl_call *call)
{
    char path[192], text[256];
    snprintf(path, sizeof path, "%s/worker", bench->hsm.dir);
    snprintf(text, sizeof text, "#!/bin/sh\n%s\n", script);
    EXPECT_OK(hpl_file_replace(&(struct hpl_call){0}, path, hpl_bytes_str(text), 0700));
    bench->worker.program = path;
    enum hpl_status status = softhsm_try_open(&bench->hsm, call, &bench->keystore);
    bench->worker.program = NULL;
    return status;
}

HPL_TEST(a_program_that_is_no_worker_is_told_from_one)
{
    static const struct { const char *script; enum hpl_status status; const char *text; } cases[] = {
        {"exit 3", HPL_KEY_UNAVAILABLE, "ended"},
        {"head -c 200 /dev/zero >&3; sleep 60", HPL_BACKEND, "cannot be"},
        {"head -c 200 /dev/urandom | tr '\\000' '\\001' >&3; sleep 60", HPL_BACKEND, "cannot be"},
        {"head -c 10 /dev/zero >&3", HPL_KEY_UNAVAILABLE, "ended"},
    };
    struct bench bench;
    init(&bench, false);
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct hpl_call call;
        EXPECT_STATUS(open_with_program(&bench, cases[i].script, &call), cases[i].status);
        EXPECT(strstr(call.detail, cases[i].text) != NULL);
        EXPECT(bench.keystore == NULL);
    }
    wipe(&bench);
}

HPL_TEST(a_worker_that_cannot_be_started_says_what_to_mend)
{
    static const char *const loaders[] = {"LD_PRELOAD"};
    struct bench bench;
    struct hpl_call call;
    init(&bench, false);
    bench.worker.program = "/nowhere/hardplate-tokend";
    EXPECT_STATUS(softhsm_try_open(&bench.hsm, &call, &bench.keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "/nowhere/hardplate-tokend") != NULL);
    bench.worker = (struct hpl_tokend_option){.user = "no-such-user-here"};
    EXPECT_STATUS(softhsm_try_open(&bench.hsm, &call, &bench.keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "no-such-user-here") != NULL);
    bench.worker = (struct hpl_tokend_option){.environment = loaders, .num_environment = 1};
    EXPECT_STATUS(softhsm_try_open(&bench.hsm, &call, &bench.keystore), HPL_INVALID_CONFIGURATION);
    EXPECT(strstr(call.detail, "LD_PRELOAD") != NULL);
    wipe(&bench);
}

/* We play the daemon. */
static void send_to_a_worker(struct bench *bench, const void *bytes, size_t len)
{
    struct hpl_tokend_child child;
    struct hpl_call call = {0};
    char why[32];
    uint8_t any;
    EXPECT_OK(hpl_tokend_spawn(&call, &bench->worker, bench->hsm.state_dir, &child));
    EXPECT(write(child.fd, bytes, len) == (ssize_t)len);
    EXPECT(!hpl_tokend_receive(child.fd, &any, 1, hpl_clock_mono_ns() + PATIENCE_MS * 1000000ull)); /* it hangs up without a word */
    hpl_tokend_reap(&child, PATIENCE_MS, why);
    EXPECT_TEXT(why, "exit status 1");
}

HPL_TEST(a_worker_that_is_not_greeted_ends)
{
    const struct hpl_tokend_header early = {.op = HPL_TOKEND_STAT}, large = {.op = HPL_TOKEND_HELLO, .len = HPL_TOKEND_ROOM + 1};
    uint8_t frame[HPL_TOKEND_HEADER_LEN];
    struct bench bench;
    init(&bench, false);
    send_to_a_worker(&bench, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
    hpl_tokend_put_header(&early, frame);
    send_to_a_worker(&bench, frame, sizeof frame);
    hpl_tokend_put_header(&large, frame);
    send_to_a_worker(&bench, frame, sizeof frame);
    wipe(&bench);
}

HPL_TEST(a_worker_cannot_be_started_by_hand)
{
    EXPECT_NUM(WEXITSTATUS(system("'" HPL_BINARY_DIR "/bin/hardplate-tokend' --folder /tmp --may-swap 2>/dev/null </dev/null 3</dev/null")), 2);
    EXPECT_NUM(WEXITSTATUS(system("'" HPL_BINARY_DIR "/bin/hardplate-tokend' --frobnicate 2>/dev/null")), 2);
    EXPECT_NUM(WEXITSTATUS(system("'" HPL_BINARY_DIR "/bin/hardplate-tokend' --version >/dev/null")), 0);
}

/* --- what the worker may do ------------------------------------------------------------------------------------------------------------- */

static bool status_says(pid_t pid, const char *wanted)
{
    char path[64], line[256];
    bool does = false;
    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    FILE *file = fopen(path, "re");
    EXPECT(file != NULL);
    while (fgets(line, sizeof line, file))
        does = does || strncmp(line, wanted, strlen(wanted)) == 0;
    fclose(file);
    return does;
}

static size_t read_proc(pid_t pid, const char *name, char *out, size_t size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, out, size - 1);
    if (fd >= 0)
        close(fd);
    out[n > 0 ? n : 0] = '\0';
    return n > 0 ? (size_t)n : 0;
}

static bool has_variable(const char *environment, size_t len, const char *name)
{
    for (const char *at = environment; at < environment + len; at += strlen(at) + 1)
        if (strncmp(at, name, strlen(name)) == 0 && at[strlen(name)] == '=')
            return true;
    return false;
}

HPL_TEST(a_worker_has_no_more_than_it_needs)
{
    static const char *const more[] = {"HPL_TEST_WANTED"};
    struct bench bench;
    char text[65536];
    init(&bench, false);
    setenv("HPL_TEST_WANTED", "1", 1);
    setenv("HPL_TEST_SECRET", "1", 1);
    bench.worker = (struct hpl_tokend_option){.environment = more, .num_environment = 1};
    open_worker(&bench);
    pid_t pid = worker_of(&bench);
    EXPECT(status_says(pid, "NoNewPrivs:\t1"));
    read_proc(pid, "limits", text, sizeof text);
    const char *cores = strstr(text, "Max core file size");
    EXPECT(cores != NULL && strspn(cores + strlen("Max core file size"), " 0") > 10); /* 0 0 */
    size_t len = read_proc(pid, "environ", text, sizeof text);
    if (geteuid() == 0) { /* it is not dumpable, so that nobody else may look */
        EXPECT(has_variable(text, len, "SOFTHSM2_CONF") && has_variable(text, len, "HPL_TEST_WANTED"));
        EXPECT(!has_variable(text, len, "HPL_TEST_SECRET") && !has_variable(text, len, "HOME"));
    } else
        EXPECT_NUM(len, 0);
    EXPECT_OK(kill(pid, SIGTERM) == 0 && kill(pid, SIGINT) == 0 ? HPL_OK : HPL_INTERNAL); /* these are the daemon's to answer */
    sleep_ms(50);
    EXPECT_NUM(worker_of(&bench), pid);
    wipe(&bench);
    EXPECT(wait_until_gone(pid));
}

static void give_to(const char *path, const struct passwd *user)
{
    char command[400];
    snprintf(command, sizeof command, "chown -R %ld:%ld '%s'", (long)user->pw_uid, (long)user->pw_gid, path);
    EXPECT_NUM(system(command), 0);
}

HPL_TEST(a_worker_becomes_another_user)
{
    const struct passwd *user = getpwnam("nobody");
    struct bench bench;
    char wanted[64], conf[192];
    if (geteuid() != 0 || !user)
        return; /* only root can give up being root */
    init(&bench, false);
    snprintf(conf, sizeof conf, "%s/softhsm2.conf", bench.hsm.dir);
    EXPECT(chmod(bench.hsm.dir, 0711) == 0); /* the state folder stays closed to it */
    give_to(bench.hsm.tokens, user);
    give_to(bench.hsm.pin_file, user);
    give_to(conf, user);
    bench.worker.user = "nobody";
    open_with_key(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    snprintf(wanted, sizeof wanted, "Uid:\t%ld\t%ld\t%ld\t%ld", (long)user->pw_uid, (long)user->pw_uid, (long)user->pw_uid, (long)user->pw_uid);
    EXPECT(status_says(worker_of(&bench), wanted));
    EXPECT(status_says(worker_of(&bench), "CapEff:\t0000000000000000"));
    wipe(&bench);
}

/* --- what happens to it stays there ------------------------------------------------------------------------------------------------------ */

struct load {
    struct bench *bench;
    _Atomic bool is_over;
    _Atomic unsigned num_well, num_unavailable, num_wrong;
};

static void *work(void *arg)
{
    struct load *load = arg;
    while (!atomic_load(&load->is_over)) {
        enum hpl_status status = round_trip_in(load->bench, PATIENCE_MS);
        if (status == HPL_OK)
            atomic_fetch_add(&load->num_well, 1);
        else if (status == HPL_KEY_UNAVAILABLE)
            atomic_fetch_add(&load->num_unavailable, 1);
        else {
            fprintf(stderr, "\n    a call under load gave %s\n", hpl_status_row(status)->name);
            atomic_fetch_add(&load->num_wrong, 1);
        }
    }
    return NULL;
}

static void start_load(struct load *load, struct bench *bench, pthread_t *threads, size_t num)
{
    *load = (struct load){.bench = bench};
    for (size_t i = 0; i < num; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, load), 0);
}

static void end_load(struct load *load, pthread_t *threads, size_t num)
{
    atomic_store(&load->is_over, true);
    for (size_t i = 0; i < num; i++)
        pthread_join(threads[i], NULL);
}

HPL_TEST(a_worker_killed_50_times_under_load_costs_only_its_calls)
{
    enum { NUM_KILLS = 50, NUM_THREADS = 4 };
    struct bench bench;
    struct load load;
    pthread_t threads[NUM_THREADS];
    uint64_t longest_ms = 0;
    init(&bench, false);
    open_with_key(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    size_t secrets = hpl_secret_in_use(), num_fds = num_in("/proc/self/fd"), num_threads = hpl_test_num_threads(NULL);
    start_load(&load, &bench, threads, NUM_THREADS);
    for (unsigned i = 0; i < NUM_KILLS; i++) {
        pid_t pid = worker_of(&bench);
        EXPECT(pid > 0 && kill(pid, SIGKILL) == 0);
        EXPECT(wait_until_gone(pid));
        uint64_t ms = ms_until_ready(&bench);
        longest_ms = ms > longest_ms ? ms : longest_ms;
    }
    end_load(&load, threads, NUM_THREADS);
    printf("(%u calls well, %u unavailable, ready again within %u ms) ", load.num_well, load.num_unavailable, (unsigned)longest_ms);
    EXPECT_NUM(load.num_wrong, 0);
    EXPECT(load.num_well > 0 && longest_ms < 10000); /* a second on a machine that does nothing else */
    EXPECT_NUM(fact(&bench, "worker_restarts"), NUM_KILLS);
    EXPECT_NUM(hpl_secret_in_use(), secrets);
    EXPECT_NUM(num_in("/proc/self/fd"), num_fds);
    EXPECT_NUM(hpl_test_num_threads(NULL), num_threads);
    wipe(&bench);
}

HPL_TEST(a_call_that_hangs_is_answered_in_time_and_ends_the_worker)
{
    struct bench bench;
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    init(&bench, true);
    bench.worker.watchdog_ms = 5000;
    open_with_key(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    pid_t pid = worker_of(&bench);
    bench.shim->delay_ms = 120000;
    bench.shim->times = 1;
    shim_set(bench.shim->where, SHIM_ENCRYPT);
    hpl_call_init(&call, 300);
    uint64_t from = hpl_clock_mono_ns();
    EXPECT_STATUS(try_wrap(&bench, &call, &wrapped), HPL_TIMEOUT);
    uint64_t ms = (hpl_clock_mono_ns() - from) / 1000000;
    EXPECT(ms >= 250 && ms < 4500);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS)); /* others go on meanwhile */
    EXPECT_NUM(worker_of(&bench), pid);
    EXPECT(wait_until_gone(pid)); /* the watchdog */
    shim_set(bench.shim->where, SHIM_NOWHERE);
    ms_until_ready(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    EXPECT(worker_of(&bench) != pid);
    wipe(&bench);
}

static void *hang(void *arg)
{
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    hpl_call_init(&call, 2500);
    (void)!try_wrap(arg, &call, &wrapped);
    return NULL;
}

static bool is_connected(struct bench *bench)
{
    json_t *HPL_JSON_AUTO facts = bench->keystore->ops->describe(bench->keystore);
    return json_is_true(json_object_get(facts, "is_connected"));
}

HPL_TEST(a_worker_that_is_busy_is_not_taken_for_a_dead_one)
{
    struct bench bench;
    pthread_t threads[16];
    init(&bench, true);
    bench.hsm.option.max_sessions = 2;
    open_with_key(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    bench.shim->delay_ms = 2000;
    bench.shim->times = SHIM_ALWAYS;
    shim_set(bench.shim->where, SHIM_ENCRYPT);
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, hang, &bench), 0);
    sleep_ms(300);
    EXPECT(is_connected(&bench));
    EXPECT(kill(worker_of(&bench), SIGSTOP) == 0);
    EXPECT(is_connected(&bench)); /* as it was told last */
    EXPECT(kill(worker_of(&bench), SIGKILL) == 0);
    sleep_ms(100);
    shim_set(bench.shim->where, SHIM_NOWHERE);
    for (size_t i = 0; i < HPL_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    wipe(&bench);
}

HPL_TEST(a_blob_of_another_mechanism_than_the_one_in_use_is_not_taken_from_a_worker)
{
    struct bench bench;
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    init(&bench, false);
    open_with_key(&bench);
    struct hpl_p11_facts *facts = &((struct hpl_p11_keystore *)bench.keystore)->device->facts;
    facts->opens |= 1u << HPL_MECH_P11_CBC_HMAC; /* as after a change that was accepted: both open, and one is in use */
    facts->mechanism = HPL_MECH_P11_CBC_HMAC;
    hpl_call_init(&call, PATIENCE_MS);
    EXPECT_STATUS(try_wrap(&bench, &call, &wrapped), HPL_BACKEND);
    EXPECT_NUM(wrapped.ct_len, 0);
    facts->mechanism = HPL_MECH_P11_GCM;
    EXPECT_OK(try_wrap(&bench, &call, &wrapped));
    wipe(&bench);
}

HPL_TEST(a_call_without_a_deadline_is_ended_by_the_watchdog)
{
    struct bench bench;
    struct hpl_call call = {0};
    struct hpl_wrapped wrapped;
    init(&bench, true);
    bench.worker.watchdog_ms = 1000;
    open_with_key(&bench);
    bench.shim->delay_ms = 120000;
    bench.shim->times = SHIM_ALWAYS;
    shim_set(bench.shim->where, SHIM_ENCRYPT);
    EXPECT_STATUS(try_wrap(&bench, &call, &wrapped), HPL_KEY_UNAVAILABLE);
    shim_set(bench.shim->where, SHIM_NOWHERE);
    ms_until_ready(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    wipe(&bench);
}

HPL_TEST(a_worker_that_keeps_dying_is_started_ever_more_rarely)
{
    struct bench bench;
    init(&bench, true);
    open_with_key(&bench);
    pid_t pid = worker_of(&bench);
    bench.shim->rv = CKR_DEVICE_ERROR;
    bench.shim->times = SHIM_ALWAYS;
    shim_set(bench.shim->where, SHIM_INITIALIZE);
    unsigned before = shim_get(bench.shim->num_calls[SHIM_INITIALIZE]);
    EXPECT(kill(pid, SIGKILL) == 0);
    sleep_ms(3000);
    unsigned num = shim_get(bench.shim->num_calls[SHIM_INITIALIZE]) - before;
    EXPECT(num >= 1 && num <= 12); /* at once, then after 0.25, 0.5, 1, 2 s; a start may try twice */
    EXPECT_STATUS(round_trip_in(&bench, 2000), HPL_KEY_UNAVAILABLE);
    EXPECT_NUM(fact(&bench, "worker_pid") == pid, 0);
    shim_set(bench.shim->where, SHIM_NOWHERE);
    EXPECT(ms_until_ready(&bench) < PATIENCE_MS);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    wipe(&bench);
}

HPL_TEST(many_calls_at_once_get_their_own_answers)
{
    enum { NUM_THREADS = 48 };
    struct bench bench;
    struct load load;
    pthread_t threads[NUM_THREADS];
    init(&bench, false);
    open_with_key(&bench);
    start_load(&load, &bench, threads, NUM_THREADS);
    for (unsigned i = 0; i < PATIENCE_MS / 10 && load.num_well < 20 * NUM_THREADS; i++)
        sleep_ms(10);
    end_load(&load, threads, NUM_THREADS);
    EXPECT(load.num_well >= 20 * NUM_THREADS);
    EXPECT_NUM(load.num_wrong + load.num_unavailable, 0);
    wipe(&bench);
}

HPL_TEST(a_refused_pin_is_sent_once_whoever_dies)
{
    struct bench bench;
    struct hpl_call call;
    init(&bench, true);
    softhsm_write_pin(&bench.hsm, "wrong-pin-1\n");
    for (unsigned i = 0; i < 3; i++)
        EXPECT_STATUS(softhsm_try_open(&bench.hsm, &call, &bench.keystore), HPL_PIN_REJECTED);
    EXPECT_NUM(shim_get(bench.shim->num_logins), 1);
    EXPECT(strstr(call.detail, bench.hsm.state_dir) != NULL); /* the latch, by the name that the operator knows */
    softhsm_write_pin(&bench.hsm, "user-pin-1\n");
    open_with_key(&bench);
    EXPECT_NUM(shim_get(bench.shim->num_logins), 2);
    softhsm_write_pin(&bench.hsm, "wrong-pin-2\n");
    EXPECT(kill(worker_of(&bench), SIGKILL) == 0);
    enum hpl_status status;
    for (unsigned i = 0; (status = round_trip_in(&bench, 1000)) == HPL_KEY_UNAVAILABLE && i < 100; i++)
        sleep_ms(50);
    EXPECT_STATUS(status, HPL_PIN_REJECTED);
    EXPECT_NUM(shim_get(bench.shim->num_logins), 3);
    softhsm_write_pin(&bench.hsm, "wrong-pin-3\n");
    sleep_ms(1200);
    EXPECT_STATUS(round_trip_in(&bench, 1000), HPL_PIN_REJECTED);
    EXPECT_NUM(shim_get(bench.shim->num_logins), 3); /* no worker is started any more */
    EXPECT_NUM(fact(&bench, "worker_pid"), 0);
    wipe(&bench);
}

HPL_TEST(another_token_in_its_place_is_not_used_by_the_next_worker)
{
    struct bench bench;
    char away[192];
    init(&bench, false);
    open_with_key(&bench);
    snprintf(away, sizeof away, "%s/away", bench.hsm.dir);
    EXPECT(rename(bench.hsm.tokens, away) == 0);
    EXPECT_OK(hpl_file_make_dir(&(struct hpl_call){0}, bench.hsm.tokens));
    softhsm_add_token("hpl test");
    EXPECT(kill(worker_of(&bench), SIGKILL) == 0);
    struct hpl_call call;
    uint64_t until_ns = hpl_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    do { /* until the first worker that meets it said so */
        sleep_ms(20);
        hpl_call_init(&call, 1000);
        EXPECT_STATUS(round_trip(&bench, &call), HPL_KEY_UNAVAILABLE);
    } while (!strstr(call.detail, "another one") && hpl_clock_mono_ns() < until_ns);
    EXPECT(strstr(call.detail, "another one") != NULL);
    char other[192];
    snprintf(other, sizeof other, "%s/other", bench.hsm.dir);
    EXPECT(rename(bench.hsm.tokens, other) == 0 && rename(away, bench.hsm.tokens) == 0);
    ms_until_ready(&bench);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    wipe(&bench);
}

HPL_TEST(each_way_of_wrapping_works_through_the_worker)
{
    static const struct { const char *name; uint8_t mechanism; } cases[] = {
        {"aes-gcm", HPL_MECH_P11_GCM}, {"aes-cbc-hmac", HPL_MECH_P11_CBC_HMAC}, {"rsa-oaep", HPL_MECH_P11_OAEP_HMAC}};
    for (size_t i = 0; i < HPL_COUNT(cases); i++) {
        struct bench bench;
        init(&bench, false);
        bench.hsm.option.mechanism = cases[i].name;
        open_with_key(&bench);
        EXPECT_NUM(bench.keystore->ops->mechanism(bench.keystore), cases[i].mechanism);
        EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
        EXPECT(kill(worker_of(&bench), SIGKILL) == 0);
        ms_until_ready(&bench);
        EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
        wipe(&bench);
    }
}

HPL_TEST(a_repeated_iv_ends_wrapping_for_the_workers_that_follow_too)
{
    struct bench bench;
    struct hpl_call call;
    struct hpl_wrapped before, wrapped;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    init(&bench, true);
    bench.shim->iv = SHIM_RETURNS;
    open_with_key(&bench);
    hpl_call_init(&call, PATIENCE_MS);
    EXPECT_OK(try_wrap(&bench, &call, &before));
    shim_set(bench.shim->iv, SHIM_RETURNS_ONE);
    enum hpl_status status = HPL_OK;
    for (unsigned i = 0; i < 20 && status == HPL_OK; i++)
        status = try_wrap(&bench, &call, &wrapped);
    EXPECT_STATUS(status, HPL_INTEGRITY);
    shim_set(bench.shim->iv, SHIM_RETURNS);
    EXPECT(kill(worker_of(&bench), SIGKILL) == 0);
    do
        status = bench.keystore->ops->unwrap(bench.keystore, &call, bench.uid, 1, aad, &before, &back);
    while (status == HPL_KEY_UNAVAILABLE);
    EXPECT_OK(status);
    EXPECT_STATUS(try_wrap(&bench, &call, &wrapped), HPL_INTEGRITY);
    wipe(&bench);
}

HPL_TEST(a_forked_child_cannot_use_the_worker)
{
    struct bench bench;
    init(&bench, false);
    open_with_key(&bench);
    pid_t child = fork();
    if (child == 0) {
        struct hpl_call call = {0};
        enum hpl_status status = bench.keystore->ops->probe(bench.keystore, &call);
        bench.keystore->ops->probe(bench.keystore, &call);
        _exit(status == HPL_BACKEND && strstr(call.detail, "forked") ? 0 : 1);
    }
    int result = -1;
    EXPECT(waitpid(child, &result, 0) == child);
    EXPECT_NUM(result, 0);
    EXPECT_OK(round_trip_in(&bench, PATIENCE_MS));
    wipe(&bench);
}

/* --- this program as somebody else -------------------------------------------------------------------------------------------------------- */

/* Runs itself with a role; the role's program ends in _exit. What it prints comes back through *out. */
static pid_t play(const char *role, const struct softhsm *hsm, int *out)
{
    int ends[2];
    EXPECT(pipe2(ends, O_CLOEXEC) == 0);
    pid_t child = fork();
    if (child == 0) {
        setenv("HPL_TOKEND_ROLE", role, 1);
        setenv("HPL_TOKEND_DIR", hsm->dir, 1);
        dup2(ends[1], STDOUT_FILENO);
        execl("/proc/self/exe", "tokend_test", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    *out = ends[0];
    return child;
}

/* A daemon of the same token with a catalog of its own: opens it, tells the worker's number, does nothing more. */
static void be_a_daemon(const char *dir)
{
    struct bench bench = {0};
    snprintf(bench.hsm.state_dir, sizeof bench.hsm.state_dir, "%s/daemon", dir);
    snprintf(bench.hsm.pin_source, sizeof bench.hsm.pin_source, "file:%s/pin", dir);
    HPL_CHECK(hpl_file_make_dir(&(struct hpl_call){0}, bench.hsm.state_dir) == HPL_OK);
    bench.hsm.root = hpl_secret_random(32);
    bench.hsm.option = (struct hpl_token_option){.name = "main", .uri = "pkcs11:token=hpl%20test", .module = SOFTHSM_MODULE,
                                                 .pin_source = bench.hsm.pin_source};
    bench.hsm.env = (struct hpl_backend_env){.state_dir = bench.hsm.state_dir, .tokens = &bench.hsm.option, .num_tokens = 1, .root = bench.hsm.root,
                                             .tokend = &bench.worker};
    char path[192];
    struct hpl_call call = {0};
    snprintf(path, sizeof path, "%s/catalog.db", bench.hsm.state_dir);
    HPL_CHECK(hpl_catalog_open(&call, &bench.hsm.env.catalog, path, bench.hsm.root) == HPL_OK);
    HPL_CHECK(softhsm_try_open(&bench.hsm, &call, &bench.keystore) == HPL_OK);
    printf("%ld\n", (long)worker_of(&bench));
    fflush(stdout);
    for (;;)
        pause();
}

/* Makes a token "hunted" whose PIN nobody else has seen. */
static void be_an_officer(const char *dir)
{
    uint8_t random[12];
    char pin[2 * sizeof random + 1], path[192], command[256];
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(sizeof random);
    hpl_hex_encode(pin, secret->bytes, sizeof random);
    snprintf(path, sizeof path, "%s/pin", dir);
    snprintf(command, sizeof command, "softhsm2-util --init-token --free --label hunted --so-pin so-pin-1 --pin %s >/dev/null 2>&1", pin);
    HPL_CHECK(hpl_file_replace(&(struct hpl_call){0}, path, hpl_bytes_str(pin), 0600) == HPL_OK);
    _exit(system(command) == 0 ? 0 : 1);
}

__attribute__((constructor)) static void play_a_role(void)
{
    const char *role = getenv("HPL_TOKEND_ROLE"), *dir = getenv("HPL_TOKEND_DIR");
    if (!role || !dir)
        return;
    hpl_json_init();
    if (strcmp(role, "daemon") == 0)
        be_a_daemon(dir);
    be_an_officer(dir);
}

HPL_TEST(a_daemon_that_is_killed_takes_its_worker_along)
{
    struct bench bench;
    char text[32];
    int out;
    init(&bench, false);
    pid_t daemon_pid = play("daemon", &bench.hsm, &out);
    ssize_t n = read(out, text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    pid_t worker = (pid_t)strtol(text, NULL, 10);
    EXPECT(worker > 1 && !is_gone(worker));
    EXPECT(kill(daemon_pid, SIGKILL) == 0 && waitpid(daemon_pid, NULL, 0) == daemon_pid);
    EXPECT(wait_until_gone(worker));
    close(out);
    wipe(&bench);
}

#define MASK 0x5au
#define SHADOW (1ull << 32) /* what is larger is a sanitizer's bookkeeping */

static bool is_prey(const uint8_t *at, const uint8_t *masked, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((at[i] ^ MASK) != masked[i])
            return false;
    return true;
}

static size_t count_in(const uint8_t *window, size_t len, const uint8_t *masked, size_t prey_len)
{
    size_t count = 0;
    for (size_t i = 0; i + prey_len <= len; i++)
        count += is_prey(window + i, masked, prey_len);
    return count;
}

/* How often what is masked lies unmasked in this process's memory. Reads a page at a time and the end of the one before. */
static size_t hunt(const uint8_t *masked, size_t len)
{
    enum { PAGE = 4096 };
    static uint8_t window[2 * PAGE];
    FILE *maps = fopen("/proc/self/maps", "re");
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    char line[600];
    size_t count = 0;
    EXPECT(maps && fd >= 0);
    while (fgets(line, sizeof line, maps)) {
        unsigned long long from, to;
        char rights[8];
        if (sscanf(line, "%llx-%llx %4s", &from, &to, rights) != 3 || rights[0] != 'r' || strstr(line, "[v") || to - from > SHADOW)
            continue;
        for (unsigned long long at = from; at < to; at += PAGE) {
            size_t want = at + 2 * PAGE <= to ? PAGE + len - 1 : (size_t)(to - at < PAGE ? to - at : PAGE);
            ssize_t n = pread(fd, window, want, (off_t)at);
            if (n > 0 && !((uintptr_t)window + sizeof window > at && (uintptr_t)window < at + want))
                count += count_in(window, (size_t)n, masked, len);
        }
    }
    fclose(maps);
    close(fd);
    hpl_wipe(window, sizeof window);
    return count;
}

static void mask(const struct hpl_secret *secret, uint8_t *out)
{
    for (uint32_t i = 0; i < secret->len; i++)
        out[i] = secret->bytes[i] ^ MASK;
}

HPL_TEST(neither_the_pin_nor_a_data_key_stays_in_the_daemon)
{
    struct bench bench;
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    uint8_t pin_masked[64], key_masked[32];
    int out, result = -1;
    init(&bench, false);
    pid_t officer = play("officer", &bench.hsm, &out);
    EXPECT(waitpid(officer, &result, 0) == officer && result == 0);
    close(out);
    bench.hsm.option.uri = "pkcs11:token=hunted";
    open_with_key(&bench);
    struct hpl_secret *pin = NULL, *back = NULL, *key = hpl_secret_random(32);
    hpl_call_init(&call, PATIENCE_MS);
    EXPECT_OK(bench.keystore->ops->wrap(bench.keystore, &call, bench.uid, 1, aad, key, &wrapped));
    EXPECT_OK(bench.keystore->ops->unwrap(bench.keystore, &call, bench.uid, 1, aad, &wrapped, &back));
    EXPECT_BYTES(back->bytes, key->bytes, key->len);
    EXPECT_OK(hpl_file_read_secret(&call, bench.hsm.pin_file, 64, true, &pin));
    size_t pin_len = pin->len;
    mask(pin, pin_masked);
    mask(key, key_masked);
    uint8_t *bait = malloc(32);
    memcpy(bait, key->bytes, 32);
    EXPECT(hunt(key_masked, 32) >= 1); /* the hunter finds what is there */
    hpl_wipe(bait, 32);
    free(bait);
    hpl_secret_free(pin);
    hpl_secret_free(key);
    hpl_secret_free(back);
    EXPECT_NUM(hunt(pin_masked, pin_len), 0);
    EXPECT_NUM(hunt(key_masked, 32), 0);
    wipe(&bench);
}
