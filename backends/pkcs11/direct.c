/* A device in this process: the operations of device.h, each one operation in the token (run.c). Any thread; blocks on the token. */
#include "backends/pkcs11/internal.h"

#include <stdlib.h>

static struct hpl_p11_direct *of(struct hpl_p11_device *device)
{
    return (struct hpl_p11_direct *)device;
}

struct job {
    struct hpl_p11_key *key;
    const struct hpl_wrapped *check;
    const uint8_t *aad;
    struct hpl_bytes in;
    const struct hpl_wrapped *wrapped;
    struct hpl_wrapped *wrapped_out;
    struct hpl_secret **secret_out;
    uint8_t *mac;
    struct hpl_p11_orphans *orphans;
};

static enum hpl_status run_on_key(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref, hpl_p11_op_fn fn, struct job *job)
{
    job->key = hpl_p11_key_of(of(device), ref);
    job->check = ref->check;
    return job->key ? hpl_p11_run(of(device), call, fn, job) : hpl_fail(call, HPL_NO_MEMORY, "too many key versions");
}

static enum hpl_status settle_device(struct hpl_p11_device *device, struct hpl_call *call, bool is_known, struct hpl_p11_pinned *pinned)
{
    struct hpl_p11_settle settle = {.is_known = is_known, .pinned = pinned};
    return hpl_p11_run(of(device), call, hpl_p11_settle_op, &settle);
}

static enum hpl_status probe(struct hpl_p11_device *device, struct hpl_call *call)
{
    return hpl_p11_run(of(device), call, hpl_p11_canary_op, NULL);
}

static enum hpl_status create_op(struct hpl_p11_op *op, void *job)
{
    return hpl_p11_create(op, ((struct job *)job)->key);
}

static enum hpl_status create(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    return run_on_key(device, call, ref, create_op, &(struct job){0});
}

static enum hpl_status destroy_op(struct hpl_p11_op *op, void *job)
{
    return hpl_p11_destroy(op, ((struct job *)job)->key);
}

static enum hpl_status destroy(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref)
{
    return run_on_key(device, call, ref, destroy_op, &(struct job){0});
}

static enum hpl_status wrap_op(struct hpl_p11_op *op, void *arg)
{
    struct job *job = arg;
    const struct hpl_p11_tier *tier = op->direct->tier;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    if (job->check && job->check->mechanism != tier->mechanism)
        return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "%s was made for %s, and token '%s' now wraps by %s: rotate the key", job->key->label,
                        hpl_p11_mechanism_name(job->check->mechanism), op->direct->token.facts.label, hpl_p11_mechanism_name(tier->mechanism));
    HPL_TRY(hpl_p11_handles(op, job->key, tier->kinds, job->check, handles));
    return hpl_p11_wrap(op, job->key, handles, job->aad, job->in, job->wrapped_out);
}

static enum hpl_status wrap(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                            const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *secret, struct hpl_wrapped *out)
{
    struct job job = {.aad = aad, .in = hpl_bytes(secret->bytes, secret->len), .wrapped_out = out};
    enum hpl_status status = run_on_key(device, call, ref, wrap_op, &job);
    if (status != HPL_OK) /* an attempt that failed may have left its IV */
        memset(out, 0, sizeof *out);
    return status;
}

static enum hpl_status unwrap_op(struct hpl_p11_op *op, void *arg)
{
    struct job *job = arg;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    HPL_TRY(hpl_p11_handles(op, job->key, hpl_p11_tier_of(job->wrapped->mechanism)->kinds, job->check, handles));
    return hpl_p11_unwrap(op, job->key, handles, job->aad, job->wrapped, job->secret_out);
}

static enum hpl_status unwrap(struct hpl_p11_device *device, struct hpl_call *call, const struct hpl_p11_ref *ref,
                              const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct job job = {.aad = aad, .wrapped = wrapped, .secret_out = out};
    *out = NULL;
    HPL_TRY(hpl_p11_screen(&device->facts, wrapped));
    return run_on_key(device, call, ref, unwrap_op, &job);
}

static enum hpl_status mac_op(struct hpl_p11_op *op, void *arg)
{
    struct job *job = arg;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS];
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    CK_ULONG len = HPL_P11_MAC_LEN;
    HPL_TRY(hpl_p11_handles(op, &op->direct->meta_mac, 1u << HPL_P11_MAC, NULL, handles));
    HPL_TRY(hpl_p11_check(op, "C_SignInit", op->fn->C_SignInit(op->handle, &mechanism, handles[HPL_P11_MAC])));
    HPL_TRY(hpl_p11_check(op, "C_Sign", op->fn->C_Sign(op->handle, (CK_BYTE_PTR)job->in.data, job->in.len, job->mac, &len)));
    return len == HPL_P11_MAC_LEN ? HPL_OK : hpl_fail(op->call, HPL_BACKEND, "C_Sign gave %lu bytes, not 32", (unsigned long)len);
}

static enum hpl_status mac(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes message, uint8_t out[static HPL_P11_MAC_LEN])
{
    struct job job = {.in = message, .mac = out};
    return hpl_p11_run(of(device), call, mac_op, &job);
}

static enum hpl_status random_op(struct hpl_p11_op *op, void *arg)
{
    struct hpl_secret *out = arg;
    return hpl_p11_check(op, "C_GenerateRandom", op->fn->C_GenerateRandom(op->handle, out->bytes, out->len));
}

static enum hpl_status random_bytes(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_secret *out)
{
    return hpl_p11_run(of(device), call, random_op, out);
}

static enum hpl_status survey_op(struct hpl_p11_op *op, void *arg)
{
    struct job *job = arg;
    return hpl_p11_survey(op, job->in, job->orphans);
}

static enum hpl_status survey(struct hpl_p11_device *device, struct hpl_call *call, struct hpl_bytes known, struct hpl_p11_orphans *out)
{
    struct job job = {.in = known, .orphans = out};
    return hpl_p11_run(of(device), call, survey_op, &job);
}

static void stat_device(struct hpl_p11_device *device, struct hpl_p11_stat *out)
{
    struct hpl_p11_direct *direct = of(device);
    pthread_mutex_lock(&direct->pool.lock);
    *out = (struct hpl_p11_stat){.num_sessions = direct->pool.num_open, .max_sessions = direct->pool.max};
    pthread_mutex_unlock(&direct->pool.lock);
    out->initialisations = hpl_p11_module_generation(direct->module);
    out->is_connected = atomic_load(&direct->generation) == out->initialisations && atomic_load(&direct->suspect) != out->initialisations;
    out->has_failed = atomic_load(&direct->has_failed);
    out->is_latched = atomic_load(&direct->is_latched);
    out->optional_attributes = atomic_load(&direct->optional_attributes);
}

/* --- opening and closing ------------------------------------------------------------------------------------------------------------ */

static void close_device(struct hpl_p11_device *device)
{
    struct hpl_p11_direct *direct = of(device);
    struct hpl_call call = {0};
    uint64_t generation;
    bool can_enter = direct->module && hpl_p11_module_enter(direct->module, &call, &generation) == HPL_OK;
    hpl_p11_pool_close(&direct->pool, can_enter && direct->pool.generation >= hpl_p11_module_open_since(direct->module));
    if (can_enter)
        hpl_p11_module_leave(direct->module);
    hpl_p11_module_unref(direct->module);
    hpl_p11_keys_free(direct);
    free(direct);
}

static const struct hpl_p11_device_ops ops = {
    .isolation = "inprocess",
    .close = close_device,
    .settle = settle_device,
    .probe = probe,
    .create = create,
    .destroy = destroy,
    .wrap = wrap,
    .unwrap = unwrap,
    .mac = mac,
    .random = random_bytes,
    .survey = survey,
    .stat = stat_device,
};

static struct hpl_p11_direct *make(const struct hpl_p11_place *place)
{
    struct hpl_p11_direct *direct = calloc(1, sizeof *direct);
    if (!direct)
        return NULL;
    direct->base.ops = &ops;
    direct->place = place;
    direct->optional_attributes = HPL_P11_OPTIONAL_ALL;
    direct->tries_in_token = true;
    hpl_p11_pool_init(&direct->pool);
    hpl_p11_canary_init(direct);
    pthread_mutex_init(&direct->connect_lock, NULL);
    hpl_p11_cond_init(&direct->connect_done);
    pthread_mutex_init(&direct->keys_lock, NULL);
    return direct;
}

static enum hpl_status negotiate_op(struct hpl_p11_op *op, void *unused)
{
    (void)unused;
    return hpl_p11_negotiate(op);
}

enum hpl_status hpl_p11_direct_open(struct hpl_call *call, const struct hpl_p11_place *place, struct hpl_p11_device **out)
{
    *out = NULL;
    struct hpl_p11_direct *direct = make(place);
    if (!direct)
        return HPL_NO_MEMORY;
    enum hpl_status status = hpl_p11_module_ref(call, place->option->module, place->option->init_reserved, &direct->module);
    if (status == HPL_OK)
        status = hpl_p11_run(direct, call, negotiate_op, NULL);
    if (status != HPL_OK) {
        close_device(&direct->base);
        return status;
    }
    direct->base.facts = direct->token.facts;
    direct->base.facts.mechanism = direct->tier->mechanism;
    direct->base.facts.iv_mode = direct->iv_mode;
    direct->base.facts.opens = 1u << direct->tier->mechanism;
    *out = &direct->base;
    return HPL_OK;
}
