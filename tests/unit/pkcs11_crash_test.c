/* Does a daemon that dies between any two calls into the token while it makes or destroys a key leave something that the next one puts
 * right: the record decides the state, the token whether there is a key? Each step is a process of its own, killed by the shim before
 * its n'th call of a function. */
#include "tests/contract/open_softhsm.h"
#include "tests/shim/p11_shim.h"
#include "tests/unit/kms_house.h"

#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <p11-kit/p11-kit.h>

#include "backends/pkcs11/cryptoki.h"

#define SHIM_MODULE HPL_BINARY_DIR "/bin/p11_shim.so"
#define NOT_DONE 9 /* a step's exit status */

/* --- a step, in its own process --------------------------------------------------------------------------------------------------------- */

/* No test runs in a step, so nothing there may EXPECT. */
#define MUST(condition) ((condition) ? (void)0 : fail_step(#condition))
static void fail_step(const char *what)
{
    fprintf(stderr, "step: not so: %s\n", what);
    _exit(NOT_DONE);
}

static struct house house;
static struct hpl_token_option option;
static char pin_source[256];

static enum hpl_status none(void *arg, struct hpl_call *call, const struct hpl_census *what, uint64_t *count)
{
    (void)arg, (void)call, (void)what;
    *count = 0;
    return HPL_OK;
}

static void enter(const char *dir)
{
    static const uint8_t root[32] = "the root secret of this test.";
    struct hpl_call call = {0};
    house.dir = dir;
    house.root = hpl_secret_from(root, sizeof root);
    snprintf(house.path, sizeof house.path, "%s/house.db", dir);
    snprintf(pin_source, sizeof pin_source, "file:%s/pin", dir);
    option = (struct hpl_token_option){.name = "main", .uri = "pkcs11:token=hpl%20test", .module = SHIM_MODULE, .pin_source = pin_source};
    MUST(hpl_catalog_open(&call, &house.catalog, house.path, house.root) == HPL_OK);
    house.env = (struct hpl_backend_env){.state_dir = dir, .root = house.root, .catalog = house.catalog, .tokens = &option, .num_tokens = 1};
    house.options = (struct hpl_kms_options){.backends = hpl_backends(), .env = &house.env, .catalog = house.catalog, .allow_immediate_deletion = true};
    MUST(hpl_kms_open(&call, &house.kms, &house.options) == HPL_OK);
    hpl_kms_set_census(house.kms, none, NULL);
}

static void leave(void)
{
    hpl_kms_close(house.kms);
    hpl_catalog_close(house.catalog);
}

static bool begin(void)
{
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:s, s:s}", "backend_type", "pkcs11", "token", "main", "default_key_id", "default");
    struct hpl_call call = {0};
    enum hpl_status status = hpl_kms_begin(house.kms, &call, body);
    if (status != HPL_OK)
        fprintf(stderr, "begin: %s\n", hpl_detail(&call, status));
    return status == HPL_OK;
}

static bool works(const char *key_id)
{
    struct hpl_secret *HPL_SECRET_AUTO made = NULL;
    struct hpl_secret *HPL_SECRET_AUTO opened = NULL;
    const struct hpl_context context = {0};
    struct hpl_buf envelope = {0};
    struct hpl_call call = {0};
    enum hpl_status status = hpl_kms_generate(house.kms, &call, HPL_PURPOSE_API, key_id, &context, 32, &made, &envelope, NULL);
    if (status == HPL_OK)
        status = hpl_kms_decrypt(house.kms, &call, HPL_PURPOSE_API, hpl_buf_bytes(&envelope), &context, &opened, NULL);
    if (status != HPL_OK)
        fprintf(stderr, "%s: %s\n", key_id, hpl_detail(&call, status));
    hpl_buf_wipe(&envelope);
    return status == HPL_OK && memcmp(made->bytes, opened->bytes, 32) == 0;
}

static bool is_in_state(const char *key_id, const char *state)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    enum hpl_status status = hpl_kms_describe_key(house.kms, &call, key_id, &metadata);
    if (status == HPL_KEY_DESTROYED)
        return strcmp(state, "Destroyed") == 0;
    return status == HPL_OK && strcmp(json_string_value(json_object_get(metadata, "key_state")), state) == 0;
}

static enum hpl_status destroy(const char *key_id)
{
    json_t *HPL_JSON_AUTO metadata = NULL;
    struct hpl_call call = {0};
    enum hpl_status status = hpl_kms_destroy_key(house.kms, &call, key_id, &metadata);
    if (status != HPL_OK && status != HPL_KEY_DESTROYED)
        fprintf(stderr, "destroy %s: %s\n", key_id, hpl_detail(&call, status));
    return status;
}

/* "FUNCTION SKIP": the process dies before the SKIP+1st call. */
static void arm(const char *fault)
{
    unsigned where, skip;
    if (!fault || sscanf(fault, "%u %u", &where, &skip) != 2)
        return;
    struct shim *shim = dlsym(dlopen(SHIM_MODULE, RTLD_NOW | RTLD_LOCAL), "hpl_shim");
    signal(SIGSEGV, SIG_DFL); /* sanitizers would make an exit of it */
    shim->rv = SHIM_CRASH;
    shim->times = 1;
    shim->skip = skip;
    shim_set(shim->where, where);
}

/* Objects of key versions that the token shows. */
static int count_objects(void)
{
    CK_FUNCTION_LIST *fn = p11_kit_module_load(SOFTHSM_MODULE, 0);
    CK_SLOT_ID slots[8];
    CK_ULONG num = HPL_COUNT(slots), num_found;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE found[200];
    int count = 0;
    MUST(fn && p11_kit_module_initialize(fn) == CKR_OK && fn->C_GetSlotList(CK_TRUE, slots, &num) == CKR_OK);
    MUST(fn->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session) == CKR_OK);
    MUST(fn->C_Login(session, CKU_USER, (CK_UTF8CHAR_PTR) "user-pin-1", 10) == CKR_OK);
    MUST(fn->C_FindObjectsInit(session, NULL, 0) == CKR_OK);
    MUST(fn->C_FindObjects(session, found, HPL_COUNT(found), &num_found) == CKR_OK);
    fn->C_FindObjectsFinal(session);
    for (CK_ULONG i = 0; i < num_found; i++) {
        char label[64] = "";
        CK_ATTRIBUTE template = {CKA_LABEL, label, sizeof label - 1};
        if (fn->C_GetAttributeValue(session, found[i], &template, 1) == CKR_OK)
            count += strncmp(label, "hpl/", 4) == 0 && strcmp(label, "hpl/canary") != 0 && strcmp(label, "hpl/meta-mac") != 0;
    }
    return count;
}

static int step(const char *what, const char *key_id, const char *fault)
{
    bool is_done = true;
    if (strcmp(what, "count") == 0)
        return count_objects();
    enter(getenv("HPL_CRASH_DIR"));
    if (strcmp(what, "begin") == 0)
        is_done = begin() && works(NULL);
    arm(fault);
    if (strcmp(what, "create") == 0)
        is_done = create(&house, key_id) == HPL_OK;
    if (strcmp(what, "mend") == 0) {
        enum hpl_status status = create(&house, key_id);
        is_done = (status == HPL_OK || status == HPL_KEY_EXISTS) && works(key_id) && works(NULL);
    }
    if (strcmp(what, "destroy") == 0)
        is_done = destroy(key_id) == HPL_OK;
    if (strcmp(what, "bury") == 0) {
        struct hpl_call call = {0};
        is_done = hpl_kms_reap(house.kms, &call) == HPL_OK && (is_in_state(key_id, "Destroyed") || destroy(key_id) == HPL_OK) &&
                  is_in_state(key_id, "Destroyed") && works(NULL);
    }
    leave();
    return is_done ? 0 : NOT_DONE;
}

/* Before main: a process that is a step runs no tests. SoftHSM's destructors crash now and then, so they do not run. */
__attribute__((constructor)) static void be_a_step(void)
{
    const char *what = getenv("HPL_CRASH_STEP");
    if (!what)
        return;
    hpl_json_init();
    _exit(step(what, getenv("HPL_CRASH_KEY"), getenv("HPL_CRASH_FAULT")));
}

/* --- the parent, which never touches the token ---------------------------------------------------------------------------------------------- */

/* The exit status; -1 when the process died. */
static int run(const struct softhsm *hsm, const char *what, const char *key_id, const char *fault)
{
    int status;
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0) {
        setenv("HPL_CRASH_STEP", what, 1);
        setenv("HPL_CRASH_DIR", hsm->dir, 1);
        setenv("HPL_CRASH_KEY", key_id, 1);
        if (fault)
            setenv("HPL_CRASH_FAULT", fault, 1);
        execl("/proc/self/exe", "step", (char *)NULL);
        _exit(99);
    }
    while (waitpid(pid, &status, 0) < 0)
        EXPECT(errno == EINTR);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void house_init(struct softhsm *hsm)
{
    softhsm_init(hsm, "hpl test");
    EXPECT_NUM(run(hsm, "begin", "", NULL), 0);
}

/* What a key goes through in the token. */
static const enum shim_where places[] = {SHIM_FIND, SHIM_GENERATE, SHIM_GET_ATTRIBUTES, SHIM_ENCRYPT, SHIM_DECRYPT, SHIM_SIGN, SHIM_DESTROY};

HPL_TEST(a_creation_that_dies_anywhere_is_mended_by_the_next_one)
{
    struct softhsm hsm;
    int num_keys, num_deaths = 0;
    house_init(&hsm);
    num_keys = run(&hsm, "count", "", NULL);
    EXPECT_NUM(num_keys, 1);
    for (size_t i = 0; i < HPL_COUNT(places); i++)
        for (unsigned skip = 0, died = 1; died; skip++) {
            char key_id[40], fault[40];
            snprintf(key_id, sizeof key_id, "k-%zu-%u", i, skip);
            snprintf(fault, sizeof fault, "%u %u", (unsigned)places[i], skip);
            int created = run(&hsm, "create", key_id, fault);
            died = created == -1;
            num_deaths += (int)died;
            EXPECT(died || created == 0);
            EXPECT_NUM(run(&hsm, "mend", key_id, NULL), 0);
            EXPECT_NUM(run(&hsm, "count", "", NULL), ++num_keys); /* one object: neither two nor none */
        }
    EXPECT(num_deaths >= 10);
    softhsm_wipe(&hsm);
}

HPL_TEST(a_destruction_that_dies_anywhere_is_finished_by_the_next_one)
{
    struct softhsm hsm;
    int num_deaths = 0;
    house_init(&hsm);
    for (size_t i = 0; i < HPL_COUNT(places); i++)
        for (unsigned skip = 0, died = 1; died; skip++) {
            char key_id[40], fault[40];
            snprintf(key_id, sizeof key_id, "k-%zu-%u", i, skip);
            snprintf(fault, sizeof fault, "%u %u", (unsigned)places[i], skip);
            EXPECT_NUM(run(&hsm, "create", key_id, NULL), 0);
            int destroyed = run(&hsm, "destroy", key_id, fault);
            died = destroyed == -1;
            num_deaths += (int)died;
            EXPECT(died || destroyed == 0);
            EXPECT_NUM(run(&hsm, "bury", key_id, NULL), 0);
            EXPECT_NUM(run(&hsm, "count", "", NULL), 1); /* the default key's only */
        }
    EXPECT(num_deaths >= 5);
    softhsm_wipe(&hsm);
}
