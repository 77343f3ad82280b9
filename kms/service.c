/* The service's life. Lifecycle calls one at a time; the rest from any thread. */
#include "kms/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/lock.h"
#include "base/log.h"

#define ROW_TYPE "kms"
#define ROW_NAME "configuration"
#define HISTORY_MAX 100u /* rows */
#define OPEN_TIMEOUT_MS 60000u
#define REFUSED_FOR_NS 2000000000u
#define WAIT_TO_OPEN_NS 5000000000u

static const char *const state_names[] = {"NotConfigured", "Configured", "Running", "Error"};

/* --- what others take from it ------------------------------------------------------------------------------------------- */

enum hpl_status hpl_kms_ready(struct hpl_kms *kms, struct hpl_call *call)
{
    pthread_mutex_lock(&kms->lock);
    enum hpl_status status = kms->state == HPL_KMS_RUNNING ? HPL_OK : kms->state == HPL_KMS_NOT_CONFIGURED ? HPL_NOT_CONFIGURED : HPL_NOT_RUNNING;
    if (kms->state == HPL_KMS_ERROR)
        hpl_fail(call, status, "the KMS is not running: %s", kms->error);
    pthread_mutex_unlock(&kms->lock);
    return status;
}

enum hpl_status hpl_kms_acquire(struct hpl_kms *kms, struct hpl_call *call, struct hpl_attachment **out)
{
    HPL_TRY(hpl_kms_ready(kms, call));
    bool may_wait = !call || !call->must_not_wait;
    pthread_mutex_lock(&kms->lock);
    bool has_one = kms->active && (may_wait || kms->active->keystore->ops->is_quick);
    *out = has_one ? hpl_attachment_ref(kms->active) : NULL;
    pthread_mutex_unlock(&kms->lock);
    return has_one ? HPL_OK : may_wait ? HPL_NOT_RUNNING : HPL_WOULD_WAIT;
}

bool hpl_kms_is_quick(struct hpl_kms *kms)
{
    pthread_mutex_lock(&kms->lock);
    bool is_quick = kms->state == HPL_KMS_RUNNING && kms->active && kms->active->keystore->ops->is_quick;
    pthread_mutex_unlock(&kms->lock);
    return is_quick;
}

/* With a reference, or NULL. Under the lock. */
static struct hpl_attachment *find_attached(struct hpl_kms *kms, const uint8_t instance[static 8])
{
    if (kms->active && memcmp(kms->active->keystore->instance, instance, 8) == 0)
        return hpl_attachment_ref(kms->active);
    for (size_t i = 0; i < HPL_MAX_FORMER; i++)
        if (kms->former[i] && memcmp(kms->former[i]->keystore->instance, instance, 8) == 0)
            return hpl_attachment_ref(kms->former[i]);
    return NULL;
}

/* Takes the reference over; the oldest makes room. Under the lock; the one to let go is returned. */
static struct hpl_attachment *push_former(struct hpl_kms *kms, struct hpl_attachment *attachment)
{
    struct hpl_attachment *oldest = kms->former[HPL_MAX_FORMER - 1];
    memmove(kms->former + 1, kms->former, (HPL_MAX_FORMER - 1) * sizeof *kms->former);
    kms->former[0] = attachment;
    return oldest;
}

size_t hpl_kms_acquire_all(struct hpl_kms *kms, struct hpl_attachment *out[static HPL_MAX_FORMER + 1])
{
    size_t count = 0;
    pthread_mutex_lock(&kms->lock);
    if (kms->active)
        out[count++] = hpl_attachment_ref(kms->active);
    for (size_t i = 0; i < HPL_MAX_FORMER; i++)
        if (kms->former[i])
            out[count++] = hpl_attachment_ref(kms->former[i]);
    pthread_mutex_unlock(&kms->lock);
    return count;
}

bool hpl_kms_is_active(struct hpl_kms *kms, const uint8_t instance[static 8])
{
    pthread_mutex_lock(&kms->lock);
    bool is = kms->active && memcmp(kms->active->keystore->instance, instance, 8) == 0;
    pthread_mutex_unlock(&kms->lock);
    return is;
}

struct hpl_attachment *hpl_kms_take_former(struct hpl_kms *kms, const uint8_t instance[static 8])
{
    struct hpl_attachment *gone = NULL;
    pthread_mutex_lock(&kms->lock);
    for (size_t i = 0; i < HPL_MAX_FORMER; i++)
        if (kms->former[i] && memcmp(kms->former[i]->keystore->instance, instance, 8) == 0) {
            gone = kms->former[i];
            kms->former[i] = NULL;
        }
    pthread_mutex_unlock(&kms->lock);
    hpl_kms_shared_flush(&kms->shared);
    return gone;
}

void hpl_kms_forget_elsewhere(struct hpl_kms *kms, const struct hpl_attachment *attachment, const char *key_id)
{
    struct hpl_attachment *attached[HPL_MAX_FORMER + 1];
    for (size_t i = hpl_kms_acquire_all(kms, attached); i > 0; i--) {
        struct hpl_attachment *other = attached[i - 1];
        if (other != attachment && memcmp(other->keystore->instance, attachment->keystore->instance, 8) == 0)
            hpl_record_cache_forget(&other->records, key_id);
        hpl_attachment_unref(other);
    }
}

/* It is attached already, or known not to open just now; HPL_OK without *out: it has to be opened. */
static enum hpl_status look_for(struct hpl_kms *kms, struct hpl_call *call, const uint8_t instance[static 8], struct hpl_attachment **out)
{
    enum hpl_status status = HPL_OK;
    pthread_mutex_lock(&kms->lock);
    *out = find_attached(kms, instance);
    if (!*out && hpl_clock_mono_ns() < kms->refused.until_ns && memcmp(kms->refused.instance, instance, 8) == 0)
        status = hpl_fail(call, kms->refused.status, "%s", kms->refused.why);
    pthread_mutex_unlock(&kms->lock);
    return status;
}

static void remember_refusal(struct hpl_kms *kms, const uint8_t instance[static 8], enum hpl_status status, const char *why)
{
    pthread_mutex_lock(&kms->lock);
    memcpy(kms->refused.instance, instance, 8);
    kms->refused.until_ns = hpl_clock_mono_ns() + REFUSED_FOR_NS;
    kms->refused.status = status;
    snprintf(kms->refused.why, sizeof kms->refused.why, "%s", why);
    pthread_mutex_unlock(&kms->lock);
}

/* Under opening. */
static enum hpl_status attach_again(struct hpl_kms *kms, struct hpl_call *call, const uint8_t instance[static 8], struct hpl_attachment **out)
{
    struct hpl_call sub;
    HPL_TRY(look_for(kms, call, instance, out));
    if (*out)
        return HPL_OK;
    hpl_call_init(&sub, OPEN_TIMEOUT_MS);
    if (call && call->deadline_ns)
        sub.deadline_ns = call->deadline_ns;
    enum hpl_status status = hpl_attachment_open_instance(&sub, &kms->options, instance, &kms->shared, out);
    if (status != HPL_OK) {
        if (status != HPL_INVALID_CIPHERTEXT) /* no such keystore: costs no opening */
            remember_refusal(kms, instance, status, hpl_detail(&sub, status));
        return hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    }
    pthread_mutex_lock(&kms->lock);
    struct hpl_attachment *again = find_attached(kms, instance);
    struct hpl_attachment *gone = again ? again : push_former(kms, hpl_attachment_ref(*out));
    pthread_mutex_unlock(&kms->lock);
    hpl_attachment_unref(gone);
    return HPL_OK;
}

enum hpl_status hpl_kms_acquire_instance(struct hpl_kms *kms, struct hpl_call *call, const uint8_t instance[static 8], struct hpl_attachment **out)
{
    HPL_TRY(look_for(kms, call, instance, out));
    if (*out)
        return HPL_OK;
    /* One opener at a time: opening logs into tokens. Who waits for it gives up soon, so that a dead former keystore does not take every thread. */
    if (!hpl_lock_by(&kms->opening, hpl_clock_mono_ns() + WAIT_TO_OPEN_NS))
        return hpl_fail(call, HPL_UNAVAILABLE, "a keystore that was active before is being opened; try again");
    enum hpl_status status = attach_again(kms, call, instance, out);
    pthread_mutex_unlock(&kms->opening);
    return status;
}

void hpl_kms_default_key(struct hpl_kms *kms, char key_id[static HPL_KEY_ID_MAX + 1])
{
    pthread_mutex_lock(&kms->lock);
    const char *name = hpl_kms_default_of(&kms->settings);
    memcpy(key_id, name, strlen(name) + 1);
    pthread_mutex_unlock(&kms->lock);
}

void hpl_kms_set_census(struct hpl_kms *kms, hpl_census_fn fn, void *arg)
{
    pthread_mutex_lock(&kms->lock);
    kms->census = fn;
    kms->census_arg = arg;
    pthread_mutex_unlock(&kms->lock);
}

enum hpl_status hpl_kms_clear_cache(struct hpl_kms *kms, struct hpl_call *call)
{
    struct hpl_attachment *attached[HPL_MAX_FORMER + 1];
    HPL_TRY(hpl_kms_ready(kms, call));
    for (size_t i = hpl_kms_acquire_all(kms, attached); i > 0; i--) {
        hpl_attachment_clear_cache(attached[i - 1]);
        hpl_attachment_unref(attached[i - 1]);
    }
    hpl_kms_shared_flush(&kms->shared);
    return HPL_OK;
}

/* --- the kept configuration ---------------------------------------------------------------------------------------------- */

static void name_history(uint64_t revision, char out[static 48])
{
    snprintf(out, 48, "history/%020llu", (unsigned long long)revision);
}

/* The row of this revision, and the oldest goes: it holds credentials, and a loop of reconfigures must not fill the disk. */
static enum hpl_status keep_history(struct hpl_call *call, struct hpl_kms *kms, struct hpl_bytes content)
{
    char name[48];
    name_history(kms->config_revision, name);
    HPL_TRY(hpl_catalog_put(call, kms->options.catalog, ROW_TYPE, name, 0, content, NULL));
    if (kms->config_revision <= HISTORY_MAX)
        return HPL_OK;
    name_history(kms->config_revision - HISTORY_MAX, name);
    enum hpl_status status = hpl_catalog_delete(call, kms->options.catalog, ROW_TYPE, name, 1);
    return status == HPL_NOT_FOUND ? HPL_OK : status;
}

/* The configuration with its credentials, for as long as something is opened by it; NULL where there is none. Under changing. */
static enum hpl_status unseal_config(struct hpl_call *call, struct hpl_kms *kms, json_t **out)
{
    *out = NULL;
    if (kms->sealed)
        HPL_TRY(hpl_kms_unseal_json(call, kms->options.catalog, ROW_NAME, kms->sealed, out));
    if (*out) /* it may be of a time when such were kept */
        hpl_kms_drop_unknown(&kms->options, *out);
    return HPL_OK;
}

/* Writes configuration, whether it runs and on which instance, and a row of history. Under changing. */
static enum hpl_status persist(struct hpl_call *call, struct hpl_kms *kms, json_t *sealed, const char *instance, bool is_running)
{
    struct hpl_buf content = {0};
    json_t *HPL_JSON_AUTO row = json_pack("{s:O, s:b, s:s, s:I}", "config", sealed, "running", is_running, "instance", instance, "changed_ms",
                                          (json_int_t)hpl_clock_unix_ms());
    enum hpl_status status = row ? hpl_json_put(&content, row) : HPL_NO_MEMORY;
    if (status == HPL_OK)
        status = hpl_catalog_put(call, kms->options.catalog, ROW_TYPE, ROW_NAME, kms->config_revision, hpl_buf_bytes(&content), &kms->config_revision);
    if (status == HPL_OK) {
        struct hpl_call quiet = {0};
        enum hpl_status kept = keep_history(&quiet, kms, hpl_buf_bytes(&content));
        if (kept != HPL_OK) /* the configuration itself is written: this is no reason to say it was not */
            hpl_log(HPL_LOG_WARN, "kms.history", HPL_S("failure", hpl_detail(&quiet, kept)));
    }
    hpl_buf_wipe(&content);
    return status;
}

static enum hpl_status load(struct hpl_call *call, struct hpl_kms *kms, json_t **config, bool *was_running)
{
    struct hpl_buf content = {0};
    const char *instance = NULL;
    json_t *HPL_JSON_AUTO row = NULL;
    *was_running = false;
    enum hpl_status status = hpl_catalog_get(call, kms->options.catalog, ROW_TYPE, ROW_NAME, &content, &kms->config_revision);
    if (status == HPL_NOT_FOUND)
        return HPL_OK;
    if (status == HPL_OK)
        status = hpl_json_object(call, &row, hpl_buf_bytes(&content), 1u << 20, false);
    if (status == HPL_OK)
        status = hpl_json_bool(call, row, "running", was_running);
    if (status == HPL_OK)
        status = hpl_json_str(call, row, "instance", &instance);
    snprintf(kms->pinned, sizeof kms->pinned, "%s", instance ? instance : "");
    if (status == HPL_OK)
        status = hpl_kms_unseal_json(call, kms->options.catalog, ROW_NAME, json_object_get(row, "config"), config);
    if (status == HPL_OK)
        kms->sealed = json_incref(json_object_get(row, "config"));
    hpl_buf_wipe(&content);
    return status;
}

/* --- moves --------------------------------------------------------------------------------------------------------------- */

/* Takes sealed and summary. */
static void set_config(struct hpl_kms *kms, json_t *sealed, json_t *summary, const struct hpl_kms_settings *settings)
{
    pthread_mutex_lock(&kms->lock);
    json_t *old = kms->sealed, *old_summary = kms->summary;
    kms->sealed = sealed;
    kms->summary = summary;
    kms->settings = *settings;
    if (kms->state == HPL_KMS_NOT_CONFIGURED)
        kms->state = HPL_KMS_CONFIGURED;
    pthread_mutex_unlock(&kms->lock);
    json_decref(old);
    json_decref(old_summary);
}

/* Writes it down, then it is the service's. Under changing. */
static enum hpl_status keep_config(struct hpl_call *call, struct hpl_kms *kms, const json_t *config, const struct hpl_kms_settings *settings,
                                   const char *instance, bool is_running)
{
    json_t *HPL_JSON_AUTO sealed = NULL;
    HPL_TRY(hpl_kms_seal_json(call, kms->options.catalog, ROW_NAME, config, &sealed));
    HPL_TRY(persist(call, kms, sealed, instance, is_running));
    set_config(kms, json_incref(sealed), settings->backend->summary(config, kms->options.env), settings);
    return HPL_OK;
}

static bool is_same_instance(const struct hpl_attachment *former, const struct hpl_attachment *active)
{
    return former && memcmp(former->keystore->instance, active->keystore->instance, 8) == 0;
}

/* The pointer moves; whoever uses the old one goes on with it; it stays attached for decryption. NULL: nothing is active any more. */
static void set_active(struct hpl_kms *kms, struct hpl_attachment *attachment, enum hpl_kms_state state)
{
    struct hpl_attachment *gone[HPL_MAX_FORMER + 1] = {0};
    pthread_mutex_lock(&kms->lock);
    struct hpl_attachment *old = kms->active;
    kms->active = attachment;
    kms->state = state;
    kms->error[0] = '\0';
    kms->refused.until_ns = 0;
    for (size_t i = 0; i < HPL_MAX_FORMER; i++)
        if (!attachment || is_same_instance(kms->former[i], attachment)) {
            gone[i + 1] = kms->former[i];
            kms->former[i] = NULL;
        }
    gone[0] = !attachment || !old || is_same_instance(old, attachment) ? old : push_former(kms, old);
    pthread_mutex_unlock(&kms->lock);
    for (size_t i = 0; i < HPL_COUNT(gone); i++)
        hpl_attachment_unref(gone[i]);
    if (attachment) /* what it read before others could tell it of a change */
        hpl_attachment_clear_cache(attachment);
    hpl_kms_shared_flush(&kms->shared);
}

static void set_error(struct hpl_kms *kms, const char *why)
{
    pthread_mutex_lock(&kms->lock);
    kms->state = HPL_KMS_ERROR;
    snprintf(kms->error, sizeof kms->error, "%s", why);
    pthread_mutex_unlock(&kms->lock);
}

static void name_instance(const struct hpl_attachment *attachment, char out[static 17])
{
    hpl_hex_encode(out, attachment->keystore->instance, sizeof attachment->keystore->instance);
}

/* A key folder that is not mounted, or a Vault that was emptied, looks like a new keystore: what it gives keys to would be lost when the right one is back. */
static enum hpl_status check_pinned(struct hpl_call *call, const struct hpl_attachment *attachment, const char *pinned)
{
    char instance[17];
    name_instance(attachment, instance);
    if (!*pinned || strcmp(pinned, instance) == 0)
        return HPL_OK;
    return hpl_fail(call, HPL_KEY_UNAVAILABLE, "another keystore is at this place than the one used until now (instance %s): bring that back, or POST "
                                               "/kms/reconfigure to begin with this one", pinned);
}

/* pinned: the instance that it must be; "" for any. */
static enum hpl_status open_and_prove(struct hpl_call *call, struct hpl_kms *kms, const json_t *config, const struct hpl_kms_settings *settings,
                                      const char *pinned, struct hpl_attachment **out)
{
    struct hpl_call sub;
    uint64_t opening_ms = (uint64_t)hpl_attachment_opening_seconds(settings) * 1000;
    hpl_call_init(&sub, opening_ms > OPEN_TIMEOUT_MS ? opening_ms : OPEN_TIMEOUT_MS);
    enum hpl_status status = hpl_attachment_open(&sub, &kms->options, config, settings, &kms->shared, out);
    if (status == HPL_OK)
        status = check_pinned(&sub, *out, pinned);
    if (status == HPL_OK)
        status = hpl_kms_prove(&sub, *out, NULL);
    if (status == HPL_OK)
        status = hpl_attachment_keep(&sub, &kms->options, *out, config);
    if (status == HPL_OK)
        return HPL_OK;
    hpl_attachment_unref(*out);
    *out = NULL;
    /* Whatever keeps it from being reached, this request failed on the backend (500 by the documents), not on a service to come back to (503). */
    enum hpl_status told = hpl_status_row(status)->class == HPL_CLASS_U ? HPL_BACKEND : status;
    return hpl_fail(call, told, "the %s backend cannot be used: %s", settings->backend->name, hpl_detail(&sub, status));
}

static enum hpl_status answer_with(struct hpl_kms *kms, const char *message, json_t **answer)
{
    pthread_mutex_lock(&kms->lock);
    *answer = json_pack("{s:b, s:s, s:s}", "success", 1, "message", message, "status", state_names[kms->state]);
    pthread_mutex_unlock(&kms->lock);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

static enum hpl_status configure(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer)
{
    json_t *HPL_JSON_AUTO present = NULL;
    json_t *HPL_JSON_AUTO config = NULL;
    struct hpl_kms_settings settings;
    HPL_TRY(unseal_config(call, kms, &present));
    HPL_TRY(hpl_kms_normalise(call, &kms->options, body, NULL, &config));
    HPL_TRY(hpl_kms_read_settings(call, &kms->options, config, &settings));
    if (present && json_equal(present, config))
        return answer_with(kms, "KMS configured already, as asked", answer);
    if (present)
        return hpl_fail(call, HPL_CONFLICT, "the KMS is configured already; POST /kms/reconfigure changes it");
    HPL_TRY(keep_config(call, kms, config, &settings, "", false));
    hpl_log(HPL_LOG_INFO, "kms.configured", HPL_S("backend", settings.backend->name), HPL_S("default_key_id", hpl_kms_default_of(&settings)));
    return answer_with(kms, "KMS configured successfully", answer);
}

enum hpl_status hpl_kms_configure(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer)
{
    pthread_mutex_lock(&kms->changing);
    enum hpl_status status = configure(kms, call, body, answer);
    pthread_mutex_unlock(&kms->changing);
    return status;
}

static bool is_running(struct hpl_kms *kms)
{
    return hpl_kms_ready(kms, &(struct hpl_call){0}) == HPL_OK;
}

/* Whether it runs or would if its backend let it. */
static bool is_meant_to_run(struct hpl_kms *kms)
{
    pthread_mutex_lock(&kms->lock);
    bool is = kms->state == HPL_KMS_RUNNING || kms->state == HPL_KMS_ERROR;
    pthread_mutex_unlock(&kms->lock);
    return is;
}

/* A default key that is there must be one that may be used. */
static enum hpl_status prove_default(struct hpl_call *call, struct hpl_attachment *attachment)
{
    enum hpl_status refusal = HPL_OK;
    HPL_TRY(hpl_kms_prove(call, attachment, &refusal));
    if (refusal != HPL_OK)
        return hpl_fail(call, refusal, "the default key '%.80s' may not be used: %s", hpl_kms_default_of(&attachment->settings), hpl_status_row(refusal)->text);
    return HPL_OK;
}

/* What is to be active under the new configuration: another opening of a backend, proven, or the open one when only knobs and the default key change.
 * Under changing. */
static enum hpl_status successor(struct hpl_call *call, struct hpl_kms *kms, const json_t *present, const json_t *config, const struct hpl_kms_settings *settings,
                                 struct hpl_attachment **out)
{
    bool is_new_default = strcmp(hpl_kms_default_of(settings), hpl_kms_default_of(&kms->settings)) != 0;
    enum hpl_status status = HPL_OK;
    if (!kms->active || !hpl_kms_is_same_backend(present, config))
        status = open_and_prove(call, kms, config, settings, "", out);
    else if (!(*out = hpl_attachment_retune(kms->active, settings)))
        status = hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    if (status == HPL_OK && is_new_default)
        status = prove_default(call, *out);
    if (status != HPL_OK) {
        hpl_attachment_unref(*out);
        *out = NULL;
    }
    return status;
}

/* Keeps the configuration and makes attachment active (taken; NULL: the service does not run). A failure leaves all as it was. Under changing. */
static enum hpl_status adopt(struct hpl_call *call, struct hpl_kms *kms, const json_t *config, const struct hpl_kms_settings *settings,
                             struct hpl_attachment *attachment)
{
    char instance[17] = "";
    if (attachment)
        name_instance(attachment, instance);
    enum hpl_status status = keep_config(call, kms, config, settings, instance, attachment != NULL);
    if (status != HPL_OK) {
        hpl_attachment_unref(attachment);
        return status;
    }
    memcpy(kms->pinned, instance, sizeof instance);
    if (attachment)
        set_active(kms, attachment, HPL_KMS_RUNNING);
    return HPL_OK;
}

static enum hpl_status reconfigure(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer)
{
    json_t *HPL_JSON_AUTO present = NULL;
    json_t *HPL_JSON_AUTO config = NULL;
    struct hpl_kms_settings settings;
    struct hpl_attachment *attachment = NULL;
    bool runs = is_meant_to_run(kms);
    HPL_TRY(unseal_config(call, kms, &present));
    HPL_TRY(hpl_kms_normalise(call, &kms->options, body, present, &config));
    HPL_TRY(hpl_kms_read_settings(call, &kms->options, config, &settings));
    if (present && json_equal(present, config) && (runs ? is_running(kms) : !kms->pinned[0]))
        return answer_with(kms, "KMS reconfigured successfully; nothing changed", answer);
    if (runs)
        HPL_TRY(successor(call, kms, present, config, &settings, &attachment));
    HPL_TRY(adopt(call, kms, config, &settings, attachment));
    hpl_log(HPL_LOG_INFO, "kms.reconfigured", HPL_S("backend", settings.backend->name), HPL_S("default_key_id", hpl_kms_default_of(&settings)));
    return answer_with(kms, "KMS reconfigured successfully", answer);
}

enum hpl_status hpl_kms_reconfigure(struct hpl_kms *kms, struct hpl_call *call, const json_t *body, json_t **answer)
{
    pthread_mutex_lock(&kms->changing);
    enum hpl_status status = reconfigure(kms, call, body, answer);
    pthread_mutex_unlock(&kms->changing);
    return status;
}

/* Under changing. */
static enum hpl_status begin(struct hpl_kms *kms, struct hpl_call *call, const json_t *body)
{
    json_t *HPL_JSON_AUTO config = NULL;
    struct hpl_kms_settings settings;
    struct hpl_attachment *attachment = NULL;
    if (kms->sealed)
        return HPL_OK;
    HPL_TRY(hpl_kms_normalise(call, &kms->options, body, NULL, &config));
    HPL_TRY(hpl_kms_read_settings(call, &kms->options, config, &settings));
    HPL_TRY(open_and_prove(call, kms, config, &settings, "", &attachment));
    HPL_TRY(adopt(call, kms, config, &settings, attachment));
    hpl_log(HPL_LOG_INFO, "kms.started", HPL_S("backend", settings.backend->name), HPL_S("default_key_id", hpl_kms_default_of(&settings)));
    return HPL_OK;
}

enum hpl_status hpl_kms_begin(struct hpl_kms *kms, struct hpl_call *call, const json_t *body)
{
    pthread_mutex_lock(&kms->changing);
    enum hpl_status status = begin(kms, call, body);
    pthread_mutex_unlock(&kms->changing);
    return status;
}

/* Under changing. */
static enum hpl_status start(struct hpl_kms *kms, struct hpl_call *call)
{
    json_t *HPL_JSON_AUTO config = NULL;
    struct hpl_attachment *attachment = NULL;
    struct hpl_kms_settings settings;
    if (!kms->sealed)
        return HPL_NOT_CONFIGURED;
    HPL_TRY(unseal_config(call, kms, &config));
    HPL_TRY(hpl_kms_read_settings(call, &kms->options, config, &settings));
    HPL_TRY(open_and_prove(call, kms, config, &settings, kms->pinned, &attachment));
    name_instance(attachment, kms->pinned);
    set_active(kms, attachment, HPL_KMS_RUNNING);
    hpl_log(HPL_LOG_INFO, "kms.started", HPL_S("backend", settings.backend->name));
    return HPL_OK;
}

enum hpl_status hpl_kms_start(struct hpl_kms *kms, struct hpl_call *call, bool is_forced, json_t **answer)
{
    pthread_mutex_lock(&kms->changing);
    bool runs = is_running(kms);
    enum hpl_status status = runs && !is_forced ? HPL_OK : start(kms, call);
    if (status == HPL_OK && !runs && (status = persist(call, kms, kms->sealed, kms->pinned, true)) != HPL_OK)
        set_active(kms, NULL, HPL_KMS_CONFIGURED); /* what a restart would forget did not happen */
    pthread_mutex_unlock(&kms->changing);
    HPL_TRY(status);
    return answer_with(kms, !runs ? "KMS service started successfully" : is_forced ? "KMS service restarted successfully" : "KMS service already running", answer);
}

enum hpl_status hpl_kms_stop(struct hpl_kms *kms, struct hpl_call *call, json_t **answer)
{
    pthread_mutex_lock(&kms->changing);
    enum hpl_status status = kms->sealed ? persist(call, kms, kms->sealed, kms->pinned, false) : HPL_NOT_CONFIGURED;
    if (status == HPL_OK) {
        set_active(kms, NULL, HPL_KMS_CONFIGURED);
        hpl_log(HPL_LOG_INFO, "kms.stopped");
    }
    pthread_mutex_unlock(&kms->changing);
    return status == HPL_OK ? answer_with(kms, "KMS service stopped successfully", answer) : status;
}

/* A start that failed when the daemon came up is tried again; every minute, by the daemon's clock. */
void hpl_kms_revive(struct hpl_kms *kms)
{
    struct hpl_call call = {0};
    pthread_mutex_lock(&kms->changing);
    if (is_meant_to_run(kms) && !is_running(kms)) {
        enum hpl_status status = start(kms, &call);
        if (status != HPL_OK)
            set_error(kms, hpl_detail(&call, status));
    }
    pthread_mutex_unlock(&kms->changing);
}

/* --- what it says of itself ---------------------------------------------------------------------------------------------- */

static json_t *default_key_json(const struct hpl_kms_settings *settings)
{
    return settings->default_key_id[0] ? json_string(settings->default_key_id) : json_null();
}

static json_t *summary_of(json_t *backend, const struct hpl_kms_settings *settings)
{
    return json_pack("{s:s, s:o, s:I, s:I, s:b, s:I, s:I, s:{s:I, s:I, s:b}, s:O?}", "backend_type", settings->backend->name, "default_key_id",
                     default_key_json(settings), "timeout_seconds", (json_int_t)settings->timeout_seconds, "retry_attempts",
                     (json_int_t)settings->retry_attempts, "enable_cache", settings->enable_cache, "max_cached_keys", (json_int_t)settings->max_cached_keys,
                     "cache_ttl_seconds", (json_int_t)settings->cache_ttl_seconds, "cache_summary", "max_keys", (json_int_t)settings->max_cached_keys,
                     "ttl_seconds", (json_int_t)settings->cache_ttl_seconds, "enable_metrics", 1, "backend_summary", backend);
}

/* What the keys of this keystore can do. */
static json_t *capabilities_of(const struct hpl_attachment *attachment, const struct hpl_kms_options *options)
{
    const struct hpl_keystore_ops *ops = attachment->keystore->ops;
    return json_pack("{s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "generate_data_key", 1, "decrypt", 1, "rewrap", 1, "rotate", 1, "versioning", 1,
                     "enable_disable", !ops->cannot_disable, "schedule_deletion", 1, "immediate_deletion", options->allow_immediate_deletion,
                     "update_key_metadata", 1, "import", options->allow_import && ops->import_version);
}

/* Health from a real round trip; no call holds the lock meanwhile. Degraded: reachable, but the default key does not serve. */
static void examine(struct hpl_attachment *attachment, json_t *answer)
{
    struct hpl_call call;
    struct hpl_keystore *keystore = attachment->keystore;
    enum hpl_status refusal = HPL_OK;
    json_t *details = keystore->ops->describe(keystore);
    hpl_call_init(&call, (uint64_t)attachment->settings.timeout_seconds * 1000);
    enum hpl_status status = hpl_kms_prove(&call, attachment, &refusal);
    bool is_reachable = status == HPL_OK || keystore->ops->probe(keystore, &(struct hpl_call){.deadline_ns = call.deadline_ns}) == HPL_OK;
    if (!details)
        details = json_object();
    if (status != HPL_OK)
        json_object_set_new(details, "error", json_string(hpl_detail(&call, status)));
    else if (refusal != HPL_OK)
        json_object_set_new(details, "default_key", json_string(hpl_status_row(refusal)->text));
    bool is_ok = status == HPL_OK && refusal == HPL_OK;
    json_object_set_new(answer, "healthy", json_boolean(status == HPL_OK));
    json_object_set_new(answer, "health", json_string(is_ok ? "OK" : is_reachable ? "Degraded" : "Failed"));
    json_object_set_new(answer, "backend_status", json_string(is_ok ? "healthy" : is_reachable ? "unhealthy" : "error"));
    json_object_set_new(answer, "details", details);
}

enum hpl_status hpl_kms_status(struct hpl_kms *kms, struct hpl_call *call, json_t **answer)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    json_t *HPL_JSON_AUTO summary = NULL;
    (void)call;
    pthread_mutex_lock(&kms->lock);
    struct hpl_kms_settings settings = kms->settings;
    bool is_configured = kms->sealed != NULL;
    summary = json_incref(kms->summary);
    attachment = kms->active ? hpl_attachment_ref(kms->active) : NULL;
    *answer = json_pack("{s:s, s:b, s:s}", "status", state_names[kms->state], "healthy", 0, "health", "Failed");
    if (*answer)
        json_object_set_new(*answer, "details", kms->error[0] ? json_pack("{s:s}", "error", kms->error) : json_object());
    pthread_mutex_unlock(&kms->lock);
    if (!*answer)
        return HPL_NO_MEMORY;
    const char *backend = is_configured && settings.backend ? settings.backend->name : NULL;
    json_object_set_new(*answer, "backend_type", backend ? json_string(backend) : json_null());
    json_object_set_new(*answer, "backend", backend ? json_string(backend) : json_null());
    json_object_set_new(*answer, "config_summary", backend ? summary_of(summary, &settings) : json_null());
    json_object_set_new(*answer, "default_key_id", backend ? default_key_json(&settings) : json_null());
    json_object_set_new(*answer, "cache_enabled", backend ? json_boolean(settings.enable_cache) : json_null());
    json_object_set_new(*answer, "backend_status", json_null());
    json_object_set_new(*answer, "capabilities", attachment ? capabilities_of(attachment, &kms->options) : json_null());
    if (attachment)
        examine(attachment, *answer);
    hpl_kms_add_numbers(kms, attachment, *answer);
    return HPL_OK;
}

enum hpl_status hpl_kms_config(struct hpl_kms *kms, struct hpl_call *call, json_t **answer)
{
    pthread_mutex_lock(&kms->lock);
    bool is_configured = kms->sealed != NULL && kms->settings.backend;
    struct hpl_kms_settings settings = kms->settings;
    pthread_mutex_unlock(&kms->lock);
    if (!is_configured)
        return hpl_fail(call, HPL_NOT_FOUND, "the KMS is not configured; POST /kms/configure first");
    *answer = json_pack("{s:s, s:b, s:I, s:I, s:o}", "backend", settings.backend->name, "cache_enabled", settings.enable_cache, "cache_max_keys",
                        (json_int_t)settings.max_cached_keys, "cache_ttl_seconds", (json_int_t)settings.cache_ttl_seconds, "default_key_id",
                        default_key_json(&settings));
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

/* --- opening and closing ------------------------------------------------------------------------------------------------- */

/* Many who store do not keep one who counts waiting for ever. */
static void init_storing(pthread_rwlock_t *lock)
{
    pthread_rwlockattr_t writer_first;
    pthread_rwlockattr_init(&writer_first);
    pthread_rwlockattr_setkind_np(&writer_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(lock, &writer_first);
    pthread_rwlockattr_destroy(&writer_first);
}

enum hpl_status hpl_kms_open(struct hpl_call *call, struct hpl_kms **out, const struct hpl_kms_options *options)
{
    struct hpl_kms *kms = calloc(1, sizeof *kms);
    struct hpl_call start_call = {0};
    json_t *HPL_JSON_AUTO config = NULL;
    bool was_running = false;
    *out = NULL;
    if (!kms)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    kms->options = *options;
    pthread_mutex_init(&kms->changing, NULL);
    pthread_mutex_init(&kms->opening, NULL);
    init_storing(&kms->storing);
    pthread_mutex_init(&kms->lock, NULL);
    hpl_kms_shared_init(&kms->shared);
    kms->importer = hpl_importer_new();
    enum hpl_status status = kms->importer ? load(call, kms, &config, &was_running) : HPL_NO_MEMORY;
    if (status != HPL_OK) {
        hpl_kms_close(kms);
        return status;
    }
    *out = kms;
    if (!config)
        return HPL_OK;
    kms->state = HPL_KMS_CONFIGURED;
    status = hpl_kms_read_settings(&start_call, &kms->options, config, &kms->settings);
    kms->summary = kms->settings.backend ? kms->settings.backend->summary(config, kms->options.env) : NULL;
    if (status == HPL_OK && was_running)
        status = start(kms, &start_call);
    if (status != HPL_OK && was_running)
        set_error(kms, hpl_detail(&start_call, status));
    if (status != HPL_OK)
        hpl_log(HPL_LOG_ERROR, "kms.start", HPL_S("failure", hpl_detail(&start_call, status)));
    return HPL_OK;
}

void hpl_kms_close(struct hpl_kms *kms)
{
    if (!kms)
        return;
    set_active(kms, NULL, HPL_KMS_CONFIGURED);
    hpl_kms_shared_wipe(&kms->shared);
    hpl_importer_free(kms->importer);
    json_decref(kms->sealed);
    json_decref(kms->summary);
    pthread_mutex_destroy(&kms->changing);
    pthread_mutex_destroy(&kms->opening);
    pthread_rwlock_destroy(&kms->storing);
    pthread_mutex_destroy(&kms->lock);
    free(kms);
}
