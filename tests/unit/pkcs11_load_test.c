/* Does the PKCS#11 backend hold while others pull at the token: re-initialised under load, logged out, forked, its sessions closed,
 * the clock moved? And does no IV ever come twice? SoftHSM behind the shim. */
#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "backends/pkcs11/cryptoki.h"
#include "base/clock.h"
#include "base/codec.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"
#define NUM_THREADS 8u
#define PATIENCE_MS 30000u

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

struct place {
    struct softhsm hsm;
    struct shim *shim;
    struct hpl_keystore *keystore;
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_wrapped good;
};

/* The shim is loaded once a process, so its state is the first test's file for all of them. */
static struct shim *shared_shim(const char *dir)
{
    static struct shim *shim;
    char path[200];
    if (!shim) {
        snprintf(path, sizeof path, "%s/shim", dir);
        int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        EXPECT(file >= 0 && ftruncate(file, sizeof *shim) == 0);
        shim = mmap(NULL, sizeof *shim, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        EXPECT(shim != MAP_FAILED);
        close(file);
        setenv("HPL_SHIM_STATE", path, 1);
    }
    memset(shim, 0, sizeof *shim);
    return shim;
}

static enum hpl_status try_wrap(struct place *place, struct hpl_wrapped *out)
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32);
    hpl_call_init(&call, 5000);
    return place->keystore->ops->wrap(place->keystore, &call, place->uid, 1, aad, secret, out);
}

static enum hpl_status try_unwrap(struct place *place)
{
    struct hpl_call call;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    hpl_call_init(&call, 5000);
    return place->keystore->ops->unwrap(place->keystore, &call, place->uid, 1, aad, &place->good, &opened);
}

static void place_make(struct place *place)
{
    softhsm_init(&place->hsm, "hpl test");
    place->shim = shared_shim(place->hsm.dir);
    place->hsm.option.module = SHIM_MODULE;
}

static void place_open(struct place *place)
{
    struct hpl_call call;
    EXPECT_OK(softhsm_try_open(&place->hsm, &call, &place->keystore));
    hpl_uuid_new(place->uid);
    EXPECT_OK(place->keystore->ops->create_version(place->keystore, &call, place->uid, 1));
    EXPECT_OK(try_wrap(place, &place->good));
}

static void place_init(struct place *place)
{
    place_make(place);
    place_open(place);
}

static void place_wipe(struct place *place)
{
    place->keystore->ops->close(place->keystore);
    EXPECT_NUM(place->shim->num_open, 0);
    softhsm_wipe(&place->hsm);
}

static bool is_back(struct place *place)
{
    struct hpl_wrapped wrapped;
    uint64_t until_ns = hpl_clock_mono_ns() + PATIENCE_MS * 1000000ull;
    while (try_wrap(place, &wrapped) != HPL_OK || try_unwrap(place) != HPL_OK) {
        if (hpl_clock_mono_ns() > until_ns)
            return false;
        usleep(2000);
    }
    return true;
}

/* --- load ---------------------------------------------------------------------------------------------------------------------------- */

struct load {
    struct place *place;
    _Atomic bool should_stop;
    _Atomic unsigned counts[HPL_NUM_STATUSES];
};

static void *work(void *arg)
{
    struct load *load = arg;
    struct hpl_wrapped wrapped;
    while (!atomic_load(&load->should_stop)) {
        atomic_fetch_add(&load->counts[try_wrap(load->place, &wrapped)], 1);
        atomic_fetch_add(&load->counts[try_unwrap(load->place)], 1);
    }
    return NULL;
}

static void start(struct load *load, pthread_t threads[static NUM_THREADS])
{
    for (size_t i = 0; i < NUM_THREADS; i++)
        EXPECT_NUM(pthread_create(&threads[i], NULL, work, load), 0);
}

/* All that was answered is OK or "not now". */
static void stop(struct load *load, pthread_t threads[static NUM_THREADS])
{
    atomic_store(&load->should_stop, true);
    for (size_t i = 0; i < NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    EXPECT(load->counts[HPL_OK] > 0);
    for (unsigned status = 0; status < HPL_NUM_STATUSES; status++)
        if (status != HPL_OK && status != HPL_KEY_UNAVAILABLE && status != HPL_TIMEOUT) {
            if (load->counts[status])
                fprintf(stderr, "\n    %u times %s\n", load->counts[status], hpl_status_row(status)->name);
            EXPECT_NUM(load->counts[status], 0);
        }
}

static unsigned num_restarts(void)
{
    const char *text = getenv("HPL_TEST_RESTARTS");
    return text ? (unsigned)strtoul(text, NULL, 10) : 100;
}

HPL_TEST(a_hundred_restarts_under_load_cost_no_handle_and_no_session)
{
    struct place place = {0};
    struct load load = {.place = &place};
    pthread_t threads[NUM_THREADS];
    place_init(&place);
    start(&load, threads);
    for (unsigned i = 0; i < num_restarts(); i++) {
        unsigned before = shim_get(place.shim->num_initialised);
        shim_set(place.shim->is_dead, 1);
        for (unsigned n = 0; n < PATIENCE_MS && shim_get(place.shim->num_initialised) == before; n++)
            usleep(1000);
        EXPECT(shim_get(place.shim->num_initialised) > before);
        EXPECT(is_back(&place));
    }
    stop(&load, threads);
    EXPECT_NUM(place.shim->num_stale_sessions, 0);
    EXPECT_NUM(place.shim->num_stale_objects, 0);
    EXPECT_NUM(place.shim->num_tainted, 0);
    EXPECT(place.shim->num_open <= 5);
    place_wipe(&place);
}

/* --- somebody else in the process -------------------------------------------------------------------------------------------------------- */

/* SoftHSM itself, as another library of this process would have it. */
static CK_FUNCTION_LIST *other_user(void)
{
    CK_FUNCTION_LIST *fn = NULL;
    void *module = dlopen(SOFTHSM_MODULE, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = module ? (CK_RV (*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(module, "C_GetFunctionList") : NULL;
    EXPECT(get && get(&fn) == CKR_OK);
    return fn;
}

static CK_SLOT_ID first_slot(CK_FUNCTION_LIST *fn)
{
    CK_SLOT_ID slots[8];
    CK_ULONG num = HPL_COUNT(slots);
    EXPECT_NUM(fn->C_GetSlotList(CK_TRUE, slots, &num), CKR_OK);
    EXPECT(num > 0);
    return slots[0];
}

/* Not under load: SoftHSM itself crashes when sessions are closed in another thread's call. */
HPL_TEST(a_logout_or_closed_sessions_by_somebody_else_are_got_over)
{
    struct place place = {0};
    CK_SESSION_HANDLE session;
    place_init(&place);
    CK_FUNCTION_LIST *fn = other_user();
    for (int i = 0; i < 6; i++) {
        if (i % 2)
            EXPECT_NUM(fn->C_CloseAllSessions(first_slot(fn)), CKR_OK);
        else {
            EXPECT_NUM(fn->C_OpenSession(first_slot(fn), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session), CKR_OK);
            EXPECT_NUM(fn->C_Logout(session), CKR_OK);
        }
        for (int n = 0; n < 3; n++) {
            enum hpl_status status = try_unwrap(&place);
            EXPECT(status == HPL_OK || status == HPL_KEY_UNAVAILABLE);
        }
        EXPECT(is_back(&place));
    }
    EXPECT_NUM(place.shim->num_stale_objects, 0);
    place_wipe(&place);
}

/* Not even when the token is in trouble: they may be in the middle of a call, and their sessions are theirs. */
HPL_TEST(a_module_that_somebody_else_initialised_is_theirs_to_finalize)
{
    struct place place = {0};
    CK_SESSION_HANDLE session;
    CK_SESSION_INFO info;
    place_make(&place);
    CK_FUNCTION_LIST *fn = other_user();
    EXPECT_NUM(fn->C_Initialize(NULL), CKR_OK);
    EXPECT_NUM(fn->C_OpenSession(first_slot(fn), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session), CKR_OK);
    place_open(&place);
    place.shim->rv = CKR_DEVICE_ERROR;
    place.shim->times = SHIM_ALWAYS;
    shim_set(place.shim->where, SHIM_DECRYPT);
    for (int i = 0; i < 20; i++, usleep(50000))
        EXPECT(try_unwrap(&place) != HPL_OK);
    EXPECT(place.shim->num_initialised > 1);
    shim_set(place.shim->where, SHIM_NOWHERE);
    EXPECT(is_back(&place));
    EXPECT_NUM(fn->C_GetSessionInfo(session, &info), CKR_OK);
    place_wipe(&place);
    EXPECT_NUM(fn->C_GetSessionInfo(session, &info), CKR_OK);
    EXPECT_NUM(fn->C_Finalize(NULL), CKR_OK);
}

HPL_TEST(one_module_under_two_names_is_one_module)
{
    struct softhsm hsm;
    struct hpl_call call;
    struct hpl_keystore *keystores[2];
    char link[160];
    softhsm_init(&hsm, "hpl test");
    snprintf(link, sizeof link, "%s/link.so", hsm.dir);
    EXPECT_NUM(symlink(SOFTHSM_MODULE, link), 0);
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystores[0]));
    hsm.option.module = link;
    EXPECT_OK(softhsm_try_open(&hsm, &call, &keystores[1]));
    keystores[0]->ops->close(keystores[0]);
    EXPECT_OK(keystores[1]->ops->probe(keystores[1], &call));
    keystores[1]->ops->close(keystores[1]);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_forked_child_reaches_no_token)
{
    struct place place = {0};
    int how = 0;
    place_init(&place);
    pid_t child = fork();
    EXPECT(child >= 0);
    if (child == 0) {
        struct hpl_call call = {0};
        _exit(place.keystore->ops->probe(place.keystore, &call) == HPL_BACKEND && strstr(call.detail, "forked child") ? 0 : 1);
    }
    EXPECT_NUM(waitpid(child, &how, 0), child);
    EXPECT_NUM(how, 0);
    EXPECT_NUM(place.shim->num_foreign, 0);
    EXPECT_OK(try_unwrap(&place));
    place_wipe(&place);
}

HPL_TEST(the_wall_clock_may_jump_by_a_day_either_way)
{
    static const int64_t day_ms = 24 * 3600 * 1000;
    struct place place = {0};
    struct hpl_wrapped wrapped;
    place_init(&place);
    unsigned num_logins = place.shim->num_logins;
    const int64_t jumps[] = {day_ms, -2 * day_ms, day_ms};
    for (size_t i = 0; i < HPL_COUNT(jumps); i++) {
        hpl_clock_shift_ms(jumps[i]);
        EXPECT_OK(try_wrap(&place, &wrapped));
        EXPECT_OK(try_unwrap(&place));
    }
    EXPECT_NUM(place.shim->num_logins, num_logins);
    EXPECT_NUM(place.shim->num_initialised, 1);
    place_wipe(&place);
}

/* --- IVs ------------------------------------------------------------------------------------------------------------------------------------- */

struct ivs {
    struct place *place;
    uint8_t (*ivs)[12];
    size_t num;
};

static void *collect(void *arg)
{
    struct ivs *ivs = arg;
    struct hpl_wrapped wrapped;
    for (size_t i = 0; i < ivs->num && try_wrap(ivs->place, &wrapped) == HPL_OK && wrapped.iv_len == 12; i++)
        memcpy(ivs->ivs[i], wrapped.iv, 12);
    return NULL;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, 12);
}

HPL_TEST(no_iv_comes_twice_from_eight_threads)
{
    static const uint8_t zero[12];
    size_t each = (getenv("HPL_TEST_LONG") ? 1u << 20 : 1u << 15) / NUM_THREADS;
    uint8_t(*all)[12] = calloc(each * NUM_THREADS, sizeof *all);
    struct place place = {0};
    struct ivs ivs[NUM_THREADS];
    pthread_t threads[NUM_THREADS];
    EXPECT(all != NULL);
    place_init(&place);
    for (size_t i = 0; i < NUM_THREADS; i++) {
        ivs[i] = (struct ivs){.place = &place, .ivs = all + i * each, .num = each};
        EXPECT_NUM(pthread_create(&threads[i], NULL, collect, &ivs[i]), 0);
    }
    for (size_t i = 0; i < NUM_THREADS; i++)
        pthread_join(threads[i], NULL);
    qsort(all, each * NUM_THREADS, sizeof *all, compare);
    EXPECT(compare(all[0], zero) != 0);
    for (size_t i = 1; i < each * NUM_THREADS; i++)
        EXPECT(compare(all[i - 1], all[i]) != 0);
    free(all);
    place_wipe(&place);
}
