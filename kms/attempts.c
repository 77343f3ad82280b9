/* Calls of a backend as the configuration wants them: through the gate in front of it, within a deadline, again where the failure may pass. Any
 * thread; blocks. */
#include "kms/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/retry.h"

#define PROBE_TIMEOUT_NS 5000000000u

struct hpl_call hpl_kms_attempt_of(const struct hpl_call *call, const struct hpl_kms_settings *settings)
{
    struct hpl_call attempt = {0};
    uint64_t deadline = hpl_clock_mono_ns() + (uint64_t)settings->timeout_seconds * 1000000000u;
    if (call)
        memcpy(attempt.request_id, call->request_id, sizeof attempt.request_id);
    attempt.must_not_wait = call && call->must_not_wait;
    attempt.deadline_ns = call && call->deadline_ns && call->deadline_ns < deadline ? call->deadline_ns : deadline;
    return attempt;
}

/* --- the gate ------------------------------------------------------------------------------------------------------------ */

/* Asks the backend itself, for everybody; the caller was told to by the breaker. */
static enum hpl_status probe(struct hpl_call *call, struct hpl_attachment *attachment)
{
    struct hpl_call sub = {.deadline_ns = hpl_clock_mono_ns() + PROBE_TIMEOUT_NS};
    enum hpl_status status = attachment->keystore->ops->probe(attachment->keystore, &sub);
    bool was_open = hpl_breaker_is_open(attachment->breaker);
    if (hpl_breaker_probed(attachment->breaker, status)) {
        hpl_kms_shared_lose(attachment->shared, attachment->keystore->instance);
        hpl_log(HPL_LOG_ERROR, "kms.breaker.opened", HPL_S("backend", attachment->backend->name), HPL_S("failure", hpl_detail(&sub, status)));
    } else if (was_open && status == HPL_OK)
        hpl_log(HPL_LOG_INFO, "kms.breaker.closed", HPL_S("backend", attachment->backend->name));
    if (status != HPL_OK && call)
        call->retry_after_s = 1;
    return status == HPL_OK ? HPL_OK : hpl_fail(call, HPL_KEY_UNAVAILABLE, "the key backend does not answer: %s", hpl_detail(&sub, status));
}

bool hpl_kms_is_lost(struct hpl_attachment *attachment)
{
    if (hpl_breaker_suspect(attachment->breaker))
        return probe(NULL, attachment) != HPL_OK;
    return hpl_breaker_is_open(attachment->breaker);
}

struct attempt {
    enum hpl_status (*run)(struct hpl_call *call, struct hpl_keystore *keystore, const void *work);
    const void *work;
    struct hpl_meter *meter; /* may be NULL */
    enum hpl_breaker_use use;
    bool is_once;            /* what it did before it failed would be done twice */
};

/* Runs it, and again up to retry_attempts times where its status says that a repetition may help. */
static enum hpl_status repeat(struct hpl_call *call, struct hpl_attachment *attachment, const struct attempt *attempt)
{
    const struct hpl_call first = hpl_kms_attempt_of(call, &attachment->settings); /* one deadline for all: a hanging backend costs it once */
    for (unsigned number = 1;; number++) {
        struct hpl_call sub = first;
        uint64_t began = hpl_clock_mono_ns();
        enum hpl_status status = attempt->run(&sub, attachment->keystore, attempt->work);
        if (attempt->meter)
            hpl_meter_add(attempt->meter, hpl_clock_mono_ns() - began, status);
        if (status == HPL_OK)
            return HPL_OK;
        if (attempt->is_once || !hpl_status_row(status)->can_retry || number > (unsigned)attachment->settings.retry_attempts || hpl_breaker_is_open(attachment->breaker) ||
            hpl_retry_wait(&sub, number, HPL_FIRST_WAIT_MS, HPL_MOST_WAIT_MS) != HPL_OK)
            return hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    }
}

/* On an event loop, where the backend only computes: no gate, and what fails is done again where it may wait. */
static enum hpl_status try_at_once(struct hpl_call *call, struct hpl_attachment *attachment, const struct attempt *attempt)
{
    struct hpl_call sub = hpl_kms_attempt_of(call, &attachment->settings);
    uint64_t began = hpl_clock_mono_ns();
    if (attempt->run(&sub, attachment->keystore, attempt->work) != HPL_OK)
        return HPL_WOULD_WAIT;
    if (attempt->meter)
        hpl_meter_add(attempt->meter, hpl_clock_mono_ns() - began, HPL_OK);
    return HPL_OK;
}

static enum hpl_status pass(struct hpl_call *call, struct hpl_attachment *attachment, const struct attempt *attempt)
{
    bool must_probe;
    if (call && call->must_not_wait)
        return try_at_once(call, attachment, attempt);
    HPL_TRY(hpl_breaker_enter(attachment->breaker, call, (unsigned)attachment->settings.queue, attempt->use, &must_probe));
    enum hpl_status status = must_probe ? probe(call, attachment) : HPL_OK;
    if (status == HPL_OK)
        status = repeat(call, attachment, attempt);
    if (hpl_breaker_leave(attachment->breaker, attempt->use, status) && probe(NULL, attachment) == HPL_OK)
        hpl_log(HPL_LOG_DEBUG, "kms.breaker.kept_closed", HPL_S("backend", attachment->backend->name));
    return status;
}

/* --- what is called ------------------------------------------------------------------------------------------------------ */

static enum hpl_status create_version(struct hpl_call *call, struct hpl_keystore *keystore, const void *work)
{
    const struct hpl_key_record *record = work;
    return keystore->ops->create_version(keystore, call, record->uid, record->version);
}

enum hpl_status hpl_kms_create_version(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record)
{
    return pass(call, attachment, &(struct attempt){.run = create_version, .work = record});
}

struct reading_work {
    const char *key_id;
    const uint8_t *uid;
    struct hpl_buf *content;
    char *found_id;
    bool *is_there;
    uint64_t *number; /* revision or bound */
};

static enum hpl_status read_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct reading_work *work = arg;
    work->content->len = 0;
    return keystore->ops->record_get(keystore, call, work->key_id, work->content, work->number);
}

static enum hpl_status ask_key_id_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct reading_work *work = arg;
    return keystore->ops->key_id_of(keystore, call, work->uid, work->found_id);
}

static enum hpl_status ask_material_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct reading_work *work = arg;
    return keystore->ops->has_material(keystore, call, work->key_id, work->is_there, work->number);
}

/* Records at home (a folder, the catalog) are read whatever the keys' backend does. */
static enum hpl_status run_reading(struct hpl_call *call, struct hpl_attachment *attachment, const struct attempt *attempt)
{
    return attachment->keystore->ops->has_far_records ? pass(call, attachment, attempt) : attempt->run(call, attachment->keystore, attempt->work);
}

enum hpl_status hpl_kms_read_record(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, struct hpl_buf *content, uint64_t *revision)
{
    const struct reading_work work = {.key_id = key_id, .content = content, .number = revision};
    return run_reading(call, attachment, &(struct attempt){.run = read_once, .work = &work, .use = HPL_BREAKER_READING});
}

enum hpl_status hpl_kms_ask_key_id(struct hpl_call *call, struct hpl_attachment *attachment, const uint8_t uid[static HPL_KEY_UID_LEN],
                                   char key_id[static HPL_KEY_ID_MAX + 1])
{
    const struct reading_work work = {.uid = uid, .found_id = key_id};
    return run_reading(call, attachment, &(struct attempt){.run = ask_key_id_once, .work = &work, .use = HPL_BREAKER_READING});
}

enum hpl_status hpl_kms_ask_material(struct hpl_call *call, struct hpl_attachment *attachment, const char *key_id, bool *is_there, uint64_t *max_wraps)
{
    const struct reading_work work = {.key_id = key_id, .is_there = is_there, .number = max_wraps};
    *is_there = false;
    *max_wraps = 0;
    if (!attachment->keystore->ops->has_material)
        return HPL_OK;
    return run_reading(call, attachment, &(struct attempt){.run = ask_material_once, .work = &work, .use = HPL_BREAKER_READING});
}

struct list_work {
    const char *after;
    size_t limit;
    hpl_record_fn fn;
    void *arg;
};

static enum hpl_status list_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct list_work *work = arg;
    return keystore->ops->record_list(keystore, call, work->after, work->limit, work->fn, work->arg);
}

enum hpl_status hpl_kms_list_records(struct hpl_call *call, struct hpl_attachment *attachment, const char *after, size_t limit, hpl_record_fn fn, void *arg)
{
    const struct list_work work = {.after = after, .limit = limit, .fn = fn, .arg = arg};
    return run_reading(call, attachment, &(struct attempt){.run = list_once, .work = &work, .use = HPL_BREAKER_READING, .is_once = true});
}

struct random_work {
    uint8_t *out;
    size_t len;
};

static enum hpl_status random_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct random_work *work = arg;
    return keystore->ops->random(keystore, call, work->out, work->len);
}

enum hpl_status hpl_kms_random(struct hpl_call *call, struct hpl_attachment *attachment, uint8_t *out, size_t len)
{
    const struct random_work work = {out, len};
    return pass(call, attachment, &(struct attempt){.run = random_once, .work = &work});
}

struct wrap_work {
    const uint8_t *uid;
    uint32_t version;
    const uint8_t *aad;
    const struct hpl_secret *plain; /* to wrap */
    struct hpl_wrapped *wrapped;
    struct hpl_secret **opened;
};

static enum hpl_status wrap_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct wrap_work *work = arg;
    return keystore->ops->wrap(keystore, call, work->uid, work->version, work->aad, work->plain, work->wrapped);
}

static enum hpl_status unwrap_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct wrap_work *work = arg;
    return keystore->ops->unwrap(keystore, call, work->uid, work->version, work->aad, work->wrapped, work->opened);
}

enum hpl_status hpl_kms_wrap(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                             const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_secret *plain, struct hpl_wrapped *wrapped)
{
    const struct wrap_work work = {.uid = record->uid, .version = record->version, .aad = aad, .plain = plain, .wrapped = wrapped};
    return pass(call, attachment, &(struct attempt){.run = wrap_once, .work = &work, .meter = &attachment->shared->wraps});
}

struct many_work {
    const struct hpl_key_record *record;
    const uint8_t *aad;
    struct hpl_secret *const *plain;
    struct hpl_wrapped *wrapped;
    size_t count;
};

static enum hpl_status wrap_many_once(struct hpl_call *call, struct hpl_keystore *keystore, const void *arg)
{
    const struct many_work *work = arg;
    return keystore->ops->wrap_many(keystore, call, work->record->uid, work->record->version, work->aad, work->plain, work->wrapped, work->count);
}

enum hpl_status hpl_kms_wrap_many(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record,
                                  const uint8_t aad[static HPL_WRAP_AAD_LEN], struct hpl_secret *const *plain, struct hpl_wrapped *wrapped, size_t count)
{
    const struct many_work work = {.record = record, .aad = aad, .plain = plain, .wrapped = wrapped, .count = count};
    return pass(call, attachment, &(struct attempt){.run = wrap_many_once, .work = &work, .meter = &attachment->shared->wraps});
}

enum hpl_status hpl_kms_unwrap(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record, uint32_t version,
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_wrapped copy = *wrapped;
    const struct wrap_work work = {.uid = record->uid, .version = version, .aad = aad, .wrapped = &copy, .opened = out};
    return pass(call, attachment, &(struct attempt){.run = unwrap_once, .work = &work, .meter = &attachment->shared->unwraps, .use = HPL_BREAKER_DECRYPT});
}
