/* Calls of a backend as the configuration wants them: within a deadline, again where the failure may pass. Any thread; blocks. */
#include "kms/internal.h"

#include "base/clock.h"
#include "base/retry.h"

struct hpl_call hpl_kms_attempt_of(const struct hpl_call *call, const struct hpl_kms_settings *settings)
{
    struct hpl_call attempt = {0};
    uint64_t deadline = hpl_clock_mono_ns() + (uint64_t)settings->timeout_seconds * 1000000000u;
    if (call)
        memcpy(attempt.request_id, call->request_id, sizeof attempt.request_id);
    attempt.deadline_ns = call && call->deadline_ns && call->deadline_ns < deadline ? call->deadline_ns : deadline;
    return attempt;
}

typedef enum hpl_status attempt_fn(struct hpl_call *call, struct hpl_keystore *keystore, const void *work);

/* Calls fn, and again up to retry_attempts times where its status says that a repetition may help. */
static enum hpl_status repeat(struct hpl_call *call, struct hpl_attachment *attachment, attempt_fn *fn, const void *work)
{
    const struct hpl_call first = hpl_kms_attempt_of(call, &attachment->settings); /* one deadline for all: a hanging backend costs it once */
    for (unsigned attempt = 1;; attempt++) {
        struct hpl_call sub = first;
        enum hpl_status status = fn(&sub, attachment->keystore, work);
        if (status == HPL_OK)
            return HPL_OK;
        if (!hpl_status_row(status)->can_retry || attempt > (unsigned)attachment->settings.retry_attempts ||
            hpl_retry_wait(&sub, attempt, HPL_FIRST_WAIT_MS, HPL_MOST_WAIT_MS) != HPL_OK)
            return hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    }
}

static enum hpl_status create_version(struct hpl_call *call, struct hpl_keystore *keystore, const void *work)
{
    const struct hpl_key_record *record = work;
    return keystore->ops->create_version(keystore, call, record->uid, record->version);
}

enum hpl_status hpl_kms_create_version(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record)
{
    return repeat(call, attachment, create_version, record);
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
    return repeat(call, attachment, wrap_once, &work);
}

enum hpl_status hpl_kms_unwrap(struct hpl_call *call, struct hpl_attachment *attachment, const struct hpl_key_record *record, uint32_t version,
                               const uint8_t aad[static HPL_WRAP_AAD_LEN], const struct hpl_wrapped *wrapped, struct hpl_secret **out)
{
    struct hpl_wrapped copy = *wrapped;
    const struct wrap_work work = {.uid = record->uid, .version = version, .aad = aad, .wrapped = &copy, .opened = out};
    return repeat(call, attachment, unwrap_once, &work);
}
