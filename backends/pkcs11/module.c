/* Vendor modules through p11-kit: loaded once a process and for its life (unloading runs vendors' destructors, which crash too),
 * initialised while a device uses them, shared by all of those. Any thread. A module is never finalized while a call is inside it
 * (SoftHSM 2.6.1 then crashes, 3 of 3), and never touched in a forked child, where a parent's session would still answer CKR_OK. */
#include "backends/pkcs11/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>
#include <p11-kit/p11-kit.h>

#include "base/clock.h"
#include "base/log.h"

#define DRAIN_MS 5000u
#define ENTER_MS 10000u

struct hpl_p11_module {
    struct hpl_p11_module *next;
    char *path;     /* NULL: p11-kit's configured modules */
    char *reserved; /* what C_Initialize is given in pReserved, for modules that want it (NSS, YubiHSM); else NULL */
    unsigned num_refs;
    pid_t owner;
    pthread_mutex_t lock, creation_lock;
    pthread_cond_t changed;
    unsigned in_flight;
    bool is_restarting, is_initialised;
    bool owes_finalize; /* C_Finalize failed, so the module may still be as it was */
    bool is_foreign;    /* another library of this process initialised it: theirs to finalize, with sessions in use */
    uint64_t generation, open_since; /* sessions of this generation and those after it were not ended by a C_Finalize */
    CK_FUNCTION_LIST **lists; /* NULL-terminated; what p11-kit gave */
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct hpl_p11_module *registry;
static CK_FUNCTION_LIST *no_lists[] = {NULL};

static const char *name_of(const struct hpl_p11_module *module)
{
    return module->path ? module->path : "p11-kit's configured modules";
}

/* --- loading and initialising --------------------------------------------------------------------------------------------------- */

static enum hpl_status load(struct hpl_call *call, struct hpl_p11_module *module)
{
    if (!module->path) {
        module->lists = p11_kit_modules_load(NULL, 0);
        return module->lists ? HPL_OK : hpl_fail(call, HPL_BACKEND, "p11-kit cannot load its modules: %s", p11_kit_message());
    }
    module->lists = calloc(2, sizeof *module->lists);
    if (!module->lists)
        return HPL_NO_MEMORY;
    module->lists[0] = p11_kit_module_load(module->path, P11_KIT_MODULE_UNMANAGED);
    if (module->lists[0])
        return HPL_OK;
    const char *why = p11_kit_message();
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the PKCS#11 module %s cannot be loaded: %s", module->path, why ? why : "see p11-kit's log");
}

static void release(struct hpl_p11_module *module)
{
    if (!module->lists)
        return;
    if (!module->path)
        p11_kit_modules_release(module->lists);
    else {
        if (module->lists[0])
            p11_kit_module_release(module->lists[0]);
        free(module->lists);
    }
    module->lists = NULL;
}

/* One module by its path is not left to p11-kit's managed layer, which passes no pReserved on, and which after a C_Finalize that failed
 * takes the module for initialised by somebody else and never finalizes it again. NSS's struct has one word more than Cryptoki's, with
 * the parameters where pReserved is. */
static CK_RV initialise_one(struct hpl_p11_module *module)
{
    struct {
        CK_C_INITIALIZE_ARGS args;
        void *one_more;
    } wide = {.args = {.flags = CKF_OS_LOCKING_OK, .pReserved = module->reserved}};
    CK_FUNCTION_LIST *fn = module->lists[0];
    CK_RV rv = CKR_OK;
    if (module->owes_finalize) {
        rv = fn->C_Finalize(NULL);
        module->owes_finalize = rv != CKR_OK && rv != CKR_CRYPTOKI_NOT_INITIALIZED;
    }
    rv = fn->C_Initialize(&wide);
    module->is_foreign = rv == CKR_CRYPTOKI_ALREADY_INITIALIZED && !module->owes_finalize;
    if (rv == CKR_CRYPTOKI_ALREADY_INITIALIZED)
        return module->is_foreign ? CKR_OK : rv;
    module->owes_finalize = rv != CKR_OK; /* it may have got half way */
    return rv;
}

static CK_RV finalize_one(struct hpl_p11_module *module)
{
    if (module->is_foreign)
        return CKR_OK;
    CK_RV rv = module->lists[0]->C_Finalize(NULL);
    module->owes_finalize = rv != CKR_OK && rv != CKR_CRYPTOKI_NOT_INITIALIZED;
    return rv;
}

/* p11-kit gives CKF_OS_LOCKING_OK, and takes a configured module that fails out of its list, so that list is loaded anew each time. */
static enum hpl_status initialise(struct hpl_call *call, struct hpl_p11_module *module)
{
    if (!module->lists)
        HPL_TRY(load(call, module));
    CK_RV rv = module->path ? initialise_one(module) : p11_kit_modules_initialize(module->lists, NULL);
    if (rv != CKR_OK)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "%s: C_Initialize returned %s (0x%lx)", name_of(module), hpl_p11_rv_name(rv), rv);
    module->is_initialised = true;
    return HPL_OK;
}

static void finalize(struct hpl_p11_module *module)
{
    if (module->is_initialised) {
        CK_RV rv = module->path ? finalize_one(module) : p11_kit_modules_finalize(module->lists);
        if (rv != CKR_OK)
            hpl_log(HPL_LOG_WARN, "pkcs11.finalize_failed", HPL_S("module", name_of(module)), HPL_S("code", hpl_p11_rv_name(rv)));
    }
    module->is_initialised = false;
    if (!module->path)
        release(module);
}

/* --- the registry ------------------------------------------------------------------------------------------------------------------ */

static bool is_same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : !a && !b;
}

static struct hpl_p11_module *find(const char *path)
{
    for (struct hpl_p11_module *module = registry; module; module = module->next)
        if (module->owner == getpid() && is_same(module->path, path))
            return module;
    return NULL;
}

static void destroy(struct hpl_p11_module *module)
{
    release(module);
    pthread_cond_destroy(&module->changed);
    pthread_mutex_destroy(&module->lock);
    pthread_mutex_destroy(&module->creation_lock);
    free(module->path);
    free(module->reserved);
    free(module);
}

static struct hpl_p11_module *make(const char *path, const char *reserved)
{
    struct hpl_p11_module *module = calloc(1, sizeof *module);
    if (!module)
        return NULL;
    module->path = path ? strdup(path) : NULL;
    module->reserved = reserved ? strdup(reserved) : NULL;
    if ((path && !module->path) || (reserved && !module->reserved)) {
        free(module->path);
        free(module->reserved);
        free(module);
        return NULL;
    }
    hpl_p11_cond_init(&module->changed);
    pthread_mutex_init(&module->lock, NULL);
    pthread_mutex_init(&module->creation_lock, NULL);
    module->owner = getpid();
    return module;
}

/* Under the registry's lock: a module of this process, loaded, not yet initialised when new. */
static enum hpl_status find_or_load(struct hpl_call *call, const char *path, const char *reserved, struct hpl_p11_module **out)
{
    struct hpl_p11_module *module = find(path);
    if (module && !is_same(module->reserved, reserved))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is in use with another init_reserved: all its tokens must say the same", name_of(module));
    if ((*out = module))
        return HPL_OK;
    module = make(path, reserved);
    enum hpl_status status = module ? load(call, module) : HPL_NO_MEMORY;
    if (status != HPL_OK) {
        if (module)
            destroy(module);
        return status;
    }
    module->next = registry;
    registry = module;
    *out = module;
    return HPL_OK;
}

/* Under the lock. */
static void count_generation(struct hpl_p11_module *module, bool was_foreign)
{
    module->generation++;
    if (!was_foreign || !module->is_foreign)
        module->open_since = module->generation;
}

static enum hpl_status first_use(struct hpl_call *call, struct hpl_p11_module *module)
{
    pthread_mutex_lock(&module->lock);
    enum hpl_status status = initialise(call, module);
    count_generation(module, false);
    pthread_mutex_unlock(&module->lock);
    return status;
}

enum hpl_status hpl_p11_module_ref(struct hpl_call *call, const char *path, const char *reserved, struct hpl_p11_module **out)
{
    char real[PATH_MAX];
    *out = NULL;
    if (reserved && !path)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "init_reserved needs module: p11-kit's own configuration has x-init-reserved for that");
    if (path && path[0] != '/')
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the PKCS#11 module '%.100s' is not an absolute path", path);
    if (path && realpath(path, real)) /* one library, however it is spelled, is one module */
        path = real;
    pthread_mutex_lock(&registry_lock);
    struct hpl_p11_module *module = NULL;
    enum hpl_status status = find_or_load(call, path, reserved, &module);
    if (status == HPL_OK && module->num_refs == 0)
        status = first_use(call, module);
    if (status == HPL_OK) {
        module->num_refs++;
        *out = module;
    }
    pthread_mutex_unlock(&registry_lock);
    return status;
}

void hpl_p11_module_unref(struct hpl_p11_module *module)
{
    if (!module || module->owner != getpid())
        return;
    pthread_mutex_lock(&registry_lock);
    if (--module->num_refs == 0) {
        HPL_CHECK(module->in_flight == 0);
        finalize(module);
    }
    pthread_mutex_unlock(&registry_lock);
}

/* --- in and out --------------------------------------------------------------------------------------------------------------------- */

/* False once until_ns has passed. Under the lock. */
static bool wait_until(struct hpl_p11_module *module, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000u), .tv_nsec = (long)(until_ns % 1000000000u)};
    return pthread_cond_timedwait(&module->changed, &module->lock, &until) != ETIMEDOUT;
}

static uint64_t until(const struct hpl_call *call, uint64_t most_ms)
{
    uint64_t most = hpl_clock_mono_ns() + most_ms * 1000000u;
    return call && call->deadline_ns && call->deadline_ns < most ? call->deadline_ns : most;
}

enum hpl_status hpl_p11_module_enter(struct hpl_p11_module *module, struct hpl_call *call, uint64_t *generation)
{
    if (module->owner != getpid())
        return hpl_fail(call, HPL_BACKEND, "a PKCS#11 module cannot be used in a forked child: open the backend there anew");
    uint64_t until_ns = until(call, ENTER_MS);
    bool is_late = false;
    pthread_mutex_lock(&module->lock);
    while (module->is_restarting && !is_late)
        is_late = !wait_until(module, until_ns);
    if (!is_late) {
        module->in_flight++;
        *generation = module->generation;
    }
    pthread_mutex_unlock(&module->lock);
    return is_late ? hpl_fail(call, HPL_TIMEOUT, "%s is being initialised again", name_of(module)) : HPL_OK;
}

void hpl_p11_module_leave(struct hpl_p11_module *module)
{
    pthread_mutex_lock(&module->lock);
    HPL_CHECK(module->in_flight > 0);
    if (--module->in_flight == 0)
        pthread_cond_broadcast(&module->changed);
    pthread_mutex_unlock(&module->lock);
}

/* Takes the right to restart. False when somebody else restarted or restarts. Under the lock. */
static bool claim(struct hpl_p11_module *module, uint64_t seen)
{
    uint64_t until_ns = until(NULL, ENTER_MS);
    while (module->is_restarting)
        if (!wait_until(module, until_ns))
            return false;
    if (module->generation != seen)
        return false;
    module->is_restarting = true;
    return true;
}

static bool drain(struct hpl_p11_module *module)
{
    uint64_t until_ns = until(NULL, DRAIN_MS);
    while (module->in_flight > 0)
        if (!wait_until(module, until_ns))
            return module->in_flight == 0;
    return true;
}

enum hpl_status hpl_p11_module_restart(struct hpl_p11_module *module, struct hpl_call *call, uint64_t seen)
{
    enum hpl_status status = HPL_OK;
    if (module->owner != getpid())
        return hpl_fail(call, HPL_BACKEND, "a PKCS#11 module cannot be used in a forked child: open the backend there anew");
    pthread_mutex_lock(&module->lock);
    if (claim(module, seen)) {
        bool is_drained = drain(module), was_foreign = module->is_foreign;
        pthread_mutex_unlock(&module->lock);
        if (is_drained) {
            finalize(module);
            status = initialise(call, module);
        } else
            status = hpl_fail(call, HPL_KEY_UNAVAILABLE, "a call into %s does not return, so it cannot be initialised again", name_of(module));
        pthread_mutex_lock(&module->lock);
        if (is_drained)
            count_generation(module, was_foreign);
        module->is_restarting = false;
        pthread_cond_broadcast(&module->changed);
    }
    pthread_mutex_unlock(&module->lock);
    return status;
}

CK_FUNCTION_LIST **hpl_p11_module_lists(struct hpl_p11_module *module)
{
    return module->is_initialised ? module->lists : no_lists;
}

pthread_mutex_t *hpl_p11_module_creation_lock(struct hpl_p11_module *module)
{
    return &module->creation_lock;
}

uint64_t hpl_p11_module_open_since(struct hpl_p11_module *module)
{
    pthread_mutex_lock(&module->lock);
    uint64_t open_since = module->open_since;
    pthread_mutex_unlock(&module->lock);
    return open_since;
}

uint64_t hpl_p11_module_generation(struct hpl_p11_module *module)
{
    pthread_mutex_lock(&module->lock);
    uint64_t generation = module->generation;
    pthread_mutex_unlock(&module->lock);
    return generation;
}
