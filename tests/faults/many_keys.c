/* A token that holds many keys: how long does a start take, does wrapping get slower, is anything searched once a key was found? The
 * keys are made straight in SoftHSM, under the names that the backend gives.
 *   many_keys [COUNT]     (default 300; 10000 takes minutes to make. Exit 1 when the start takes over 5 s, the hot path searches, or
 *                          the median wrap takes half again the processor time that it takes with ten keys, thrice over) */
#include "tests/faults/faults.h"

#include <dlfcn.h>

#include "backends/pkcs11/device.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/json.h"

#define NUM_USED 20u      /* keys that wrap */
#define NUM_WRAPS 20000u
#define START_MS 5000u
#define MAX_AGAIN 2u      /* measurements more when one was slow, which may be the machine's doing */

static const uint8_t aad[HPL_WRAP_AAD_LEN] = "context";

/* --- making them ---------------------------------------------------------------------------------------------------------------------- */

static CK_FUNCTION_LIST *softhsm(void)
{
    CK_FUNCTION_LIST *fn = NULL;
    void *module = dlopen(SOFTHSM_MODULE, RTLD_NOW | RTLD_LOCAL);
    CK_RV (*get)(CK_FUNCTION_LIST_PTR_PTR) = module ? (CK_RV (*)(CK_FUNCTION_LIST_PTR_PTR))dlsym(module, "C_GetFunctionList") : NULL;
    EXPECT(get && get(&fn) == CKR_OK);
    return fn;
}

static void make_one(CK_FUNCTION_LIST *fn, CK_SESSION_HANDLE session, const struct hpl_p11_ref *ref)
{
    uint8_t id[HPL_P11_ID_LEN];
    char label[HPL_P11_LABEL_MAX + 1];
    CK_ULONG len = 32;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE;
    CK_OBJECT_HANDLE key;
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    hpl_p11_ref_id(ref, id);
    hpl_p11_ref_label(ref, label);
    CK_ATTRIBUTE template[] = {{CKA_VALUE_LEN, &len, sizeof len},   {CKA_TOKEN, &yes, sizeof yes},       {CKA_PRIVATE, &yes, sizeof yes},
                               {CKA_SENSITIVE, &yes, sizeof yes},   {CKA_EXTRACTABLE, &no, sizeof no},   {CKA_ENCRYPT, &yes, sizeof yes},
                               {CKA_DECRYPT, &yes, sizeof yes},     {CKA_LABEL, label, strlen(label)},   {CKA_ID, id, sizeof id}};
    EXPECT_NUM(fn->C_GenerateKey(session, &mechanism, template, HPL_COUNT(template), &key), CKR_OK);
}

/* While no keystore is open. The versions 1 to count of the one key. */
static void make_keys(const struct bench *bench, uint32_t first, uint32_t count)
{
    CK_FUNCTION_LIST *fn = softhsm();
    CK_C_INITIALIZE_ARGS args = {.flags = CKF_OS_LOCKING_OK};
    CK_SLOT_ID slots[8];
    CK_ULONG num = HPL_COUNT(slots);
    CK_SESSION_HANDLE session;
    struct hpl_p11_ref ref = {0};
    memcpy(ref.uid, bench->uid, sizeof ref.uid);
    EXPECT_NUM(fn->C_Initialize(&args), CKR_OK);
    EXPECT(fn->C_GetSlotList(CK_TRUE, slots, &num) == CKR_OK && num > 0);
    EXPECT_NUM(fn->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session), CKR_OK);
    EXPECT_NUM(fn->C_Login(session, CKU_USER, (CK_UTF8CHAR_PTR) "user-pin-1", 10), CKR_OK);
    for (ref.version = first; ref.version < first + count; ref.version++)
        make_one(fn, session, &ref);
    EXPECT_NUM(fn->C_Finalize(NULL), CKR_OK);
}

/* --- using them ------------------------------------------------------------------------------------------------------------------------- */

struct figures {
    unsigned start_ms, first_us, num_finds;
    double median_us, p99_us;
};

static void wrap(struct bench *bench, uint32_t version)
{
    struct hpl_call call;
    struct hpl_wrapped wrapped;
    hpl_call_init(&call, 20000);
    EXPECT_OK(bench->keystore->ops->wrap(bench->keystore, &call, bench->uid, version, aad, bench->secret, &wrapped));
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Of this thread: what others do on the machine is not counted. */
static uint64_t cpu_ns(void)
{
    struct timespec now;
    EXPECT_NUM(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now), 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct figures measure(struct bench *bench, uint32_t count)
{
    static uint64_t took_ns[NUM_WRAPS];
    struct figures figures = {0};
    struct hpl_call call;
    uint64_t start_ns = hpl_clock_mono_ns();
    uint32_t step = count / NUM_USED ? count / NUM_USED : 1;
    EXPECT_OK(softhsm_try_open(&bench->hsm, &call, &bench->keystore));
    figures.start_ms = (unsigned)((hpl_clock_mono_ns() - start_ns) / 1000000u);
    start_ns = hpl_clock_mono_ns();
    for (uint32_t i = 0; i < NUM_USED; i++)
        wrap(bench, 1 + i * step % count);
    figures.first_us = (unsigned)((hpl_clock_mono_ns() - start_ns) / 1000u / NUM_USED);
    unsigned num_finds = shim_get(bench->shim->num_finds);
    for (uint32_t i = 0; i < NUM_WRAPS; i++) {
        start_ns = cpu_ns();
        wrap(bench, 1 + i % NUM_USED * step % count);
        took_ns[i] = cpu_ns() - start_ns;
    }
    figures.num_finds = shim_get(bench->shim->num_finds) - num_finds;
    qsort(took_ns, NUM_WRAPS, sizeof *took_ns, compare);
    figures.median_us = (double)took_ns[NUM_WRAPS / 2] / 1000;
    figures.p99_us = (double)took_ns[NUM_WRAPS * 99 / 100] / 1000;
    bench->keystore->ops->close(bench->keystore);
    bench->keystore = NULL;
    printf("%6u keys: start %u ms; first wrap by a key %u us; then %.1f us median, %.1f us p99, %u searches in %u wraps\n", count, figures.start_ms,
           figures.first_us, figures.median_us, figures.p99_us, figures.num_finds, NUM_WRAPS);
    return figures;
}

static bool is_slow(const struct figures *many, const struct figures *few)
{
    return many->start_ms > START_MS || many->median_us > 1.5 * few->median_us + 20;
}

int main(int argc, char **argv)
{
    struct bench bench;
    uint32_t count = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 300;
    hpl_json_init();
    EXPECT(count > 10);
    if (!softhsm_is_there())
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    faults_bench_init(&bench, false);
    bench.keystore->ops->close(bench.keystore);
    bench.keystore = NULL;
    make_keys(&bench, 2, 9);
    struct figures few = measure(&bench, 10);
    make_keys(&bench, 11, count - 10);
    struct figures many = measure(&bench, count);
    for (unsigned again = 0; again < MAX_AGAIN && is_slow(&many, &few); again++)
        many = measure(&bench, count);
    bool holds = many.num_finds == 0 && few.num_finds == 0 && !is_slow(&many, &few);
    faults_bench_wipe(&bench);
    faults_remove_dirs();
    return holds ? 0 : 1;
}
