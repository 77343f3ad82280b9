/* What is attached, what depends on it, and letting it go. Any thread; lists read the catalog, nothing is opened. */
#include "kms/internal.h"

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"

static bool is_hex_instance(const char *text, uint8_t instance[static 8])
{
    return strlen(text) == 16 && hpl_hex_decode(instance, 8, text, 16);
}

/* The open attachment of an instance with a reference, or NULL. Opens nothing. */
static struct hpl_attachment *find_open(struct hpl_kms *kms, const uint8_t instance[static 8], bool *is_active)
{
    struct hpl_attachment *attached[HPL_MAX_FORMER + 1], *found = NULL;
    size_t count = hpl_kms_acquire_all(kms, attached);
    *is_active = false;
    for (size_t i = 0; i < count; i++)
        if (!found && memcmp(attached[i]->keystore->instance, instance, 8) == 0) {
            found = attached[i];
            *is_active = hpl_kms_is_active(kms, instance);
        } else
            hpl_attachment_unref(attached[i]);
    return found;
}

/* --- the list ------------------------------------------------------------------------------------------------------------ */

struct gathered {
    json_t *rows; /* {"name", "row"}; a row that does not verify has none */
};

static bool gather(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct gathered *gathered = arg;
    json_t *row = NULL;
    (void)revision;
    if (status != HPL_OK || hpl_json_object(NULL, &row, content, 1u << 20, false) != HPL_OK)
        row = json_null();
    json_array_append_new(gathered->rows, json_pack("{s:s, s:o}", "name", name, "row", row));
    return true;
}

static json_t *date_json(const json_t *unix_ms)
{
    char text[40];
    if (!json_is_integer(unix_ms))
        return json_null();
    hpl_time_text(text, json_integer_value(unix_ms), HPL_TIME_ISO_US);
    return json_string(text);
}

static json_t *summary_of(struct hpl_kms *kms, const char *name, const json_t *row)
{
    json_t *HPL_JSON_AUTO config = NULL;
    struct hpl_kms_settings settings;
    struct hpl_call quiet = {0};
    if (!json_object_get(row, "config") || hpl_kms_unseal_json(&quiet, kms->options.catalog, name, json_object_get(row, "config"), &config) != HPL_OK ||
        hpl_kms_read_settings(&quiet, &kms->options, config, &settings) != HPL_OK)
        return json_null();
    json_t *summary = settings.backend->summary(config, kms->options.env);
    return summary ? summary : json_null();
}

static json_t *objects_json(struct hpl_kms *kms, const uint8_t instance[static 8])
{
    uint64_t count;
    return hpl_kms_count_objects(kms, &(struct hpl_census){.instance = instance}, &count) ? json_integer((json_int_t)count) : json_null();
}

static size_t num_keys(struct hpl_attachment *attachment)
{
    pthread_mutex_lock(&attachment->lock);
    size_t count = json_object_size(attachment->key_ids);
    pthread_mutex_unlock(&attachment->lock);
    return count;
}

/* What is known without counting: {"instance", "backend", "state", "open"}. */
static json_t *facts_of(const char *name, const json_t *row, const struct hpl_attachment *attachment, bool is_active)
{
    const char *state = !json_is_object(row) ? "damaged" : is_active ? "active" : json_object_get(row, "config") ? "former" : "detached";
    json_t *backend = json_object_get(row, "backend");
    return json_pack("{s:s, s:o, s:s, s:b}", "instance", name, "backend", backend ? json_incref(backend) : json_null(), "state", state, "open", attachment != NULL);
}

static json_t *entry_of(struct hpl_kms *kms, const char *name, const json_t *row)
{
    uint8_t instance[8];
    bool is_active;
    if (!is_hex_instance(name, instance))
        return json_pack("{s:s, s:s}", "instance", name, "state", "damaged");
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = find_open(kms, instance, &is_active);
    json_t *HPL_JSON_AUTO counted =
        json_pack("{s:O?, s:o, s:o, s:o, s:o, s:s, s:o}", "identity", json_object_get(row, "identity"), "attached_date",
                  date_json(json_object_get(row, "attached_ms")), "detached_date", date_json(json_object_get(row, "detached_ms")), "keys",
                  attachment ? json_integer((json_int_t)num_keys(attachment)) : json_null(), "objects", objects_json(kms, instance), "api_data_keys", "unknown",
                  "backend_summary", summary_of(kms, name, row));
    json_t *entry = facts_of(name, row, attachment, is_active);
    json_object_update(entry, counted);
    return entry;
}

json_t *hpl_kms_keystore_json(struct hpl_kms *kms, const uint8_t instance[static 8])
{
    char name[17];
    bool is_active;
    uint64_t revision;
    struct hpl_call quiet = {0};
    struct hpl_buf content = {0};
    json_t *HPL_JSON_AUTO row = NULL;
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = find_open(kms, instance, &is_active);
    hpl_hex_encode(name, instance, 8);
    enum hpl_status status = hpl_catalog_get(&quiet, kms->options.catalog, HPL_ATTACHMENT_ROW, name, &content, &revision);
    if (status == HPL_OK)
        status = hpl_json_object(&quiet, &row, hpl_buf_bytes(&content), 1u << 20, false);
    hpl_buf_wipe(&content);
    if (status == HPL_NOT_FOUND)
        return json_pack("{s:s, s:n, s:s, s:b}", "instance", name, "backend", "state", "unknown", "open", 0);
    return facts_of(name, row, attachment, is_active);
}

json_t *hpl_kms_closed_keystores(struct hpl_kms *kms)
{
    json_t *HPL_JSON_AUTO rows = json_array();
    json_t *names = json_array();
    struct hpl_call quiet = {0};
    size_t i;
    json_t *at;
    enum hpl_status status = hpl_catalog_list(&quiet, kms->options.catalog, HPL_ATTACHMENT_ROW, NULL, SIZE_MAX, gather, &(struct gathered){rows});
    if (status != HPL_OK)
        hpl_log(HPL_LOG_WARN, "kms.keystores", HPL_S("failure", hpl_detail(&quiet, status)));
    json_array_foreach(rows, i, at)
    {
        uint8_t instance[8];
        bool is_active;
        json_t *name = json_object_get(at, "name");
        if (!json_object_get(json_object_get(at, "row"), "config") || !is_hex_instance(json_string_value(name), instance))
            continue;
        struct hpl_attachment *HPL_ATTACHMENT_AUTO open = find_open(kms, instance, &is_active);
        if (!open)
            json_array_append(names, name);
    }
    return names;
}

enum hpl_status hpl_kms_backends(struct hpl_kms *kms, struct hpl_call *call, json_t **answer)
{
    json_t *HPL_JSON_AUTO rows = json_array();
    json_t *HPL_JSON_AUTO entries = json_array();
    struct gathered gathered = {rows};
    size_t i;
    json_t *at;
    HPL_TRY(hpl_catalog_list(call, kms->options.catalog, HPL_ATTACHMENT_ROW, NULL, SIZE_MAX, gather, &gathered));
    json_array_foreach(rows, i, at)
        json_array_append_new(entries, entry_of(kms, json_string_value(json_object_get(at, "name")), json_object_get(at, "row")));
    *answer = json_pack("{s:O}", "backends", entries);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

static bool is_detached(struct hpl_kms *kms, const uint8_t instance[static 8])
{
    json_t *HPL_JSON_AUTO facts = hpl_kms_keystore_json(kms, instance);
    const char *state = json_string_value(json_object_get(facts, "state"));
    return state && strcmp(state, "detached") == 0;
}

/* Whether what was sealed under ref a while ago may be stored now; HPL_OK where that cannot be told. */
static enum hpl_status may_store(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_ref *ref)
{
    bool is_active;
    struct hpl_call quiet = {.deadline_ns = call ? call->deadline_ns : 0};
    struct hpl_key_record HPL_RECORD_AUTO record = {0};
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = find_open(kms, ref->instance, &is_active);
    if (!attachment && is_detached(kms, ref->instance))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the keystore under this was detached meanwhile; send it again");
    enum hpl_status status = attachment ? hpl_attachment_kept_record(&quiet, attachment, ref->key_id, true, &record, NULL) : HPL_OK;
    if (status == HPL_SLOW_DOWN) /* who destroys may have got through */
        return hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
    if (!attachment || status != HPL_OK)
        return HPL_OK; /* nothing here destroys what it cannot read */
    if (memcmp(record.uid, ref->uid, sizeof record.uid) != 0)
        return hpl_fail(call, HPL_KEY_DESTROYED, "the key '%.80s' was destroyed meanwhile; send it again", ref->key_id);
    return record.state == HPL_STATE_DISABLED ? HPL_OK : hpl_record_usable(call, &record);
}

enum hpl_status hpl_kms_begin_store(struct hpl_kms *kms, struct hpl_call *call, const struct hpl_key_ref *ref)
{
    pthread_rwlock_rdlock(&kms->storing);
    enum hpl_status status = may_store(kms, call, ref);
    if (status != HPL_OK)
        pthread_rwlock_unlock(&kms->storing);
    return status;
}

void hpl_kms_end_store(struct hpl_kms *kms)
{
    pthread_rwlock_unlock(&kms->storing);
}

void hpl_kms_let_stores_finish(struct hpl_kms *kms)
{
    pthread_rwlock_wrlock(&kms->storing);
    pthread_rwlock_unlock(&kms->storing);
}

/* --- letting go ---------------------------------------------------------------------------------------------------------- */

static enum hpl_status check_unneeded(struct hpl_kms *kms, struct hpl_call *call, const uint8_t instance[static 8], bool may_lose_external)
{
    uint64_t count;
    if (hpl_kms_is_active(kms, instance))
        return hpl_fail(call, HPL_CONFLICT, "this keystore is the active one; reconfigure to another first");
    if (!hpl_kms_count_objects(kms, &(struct hpl_census){.instance = instance}, &count))
        return hpl_fail(call, HPL_KEY_IN_USE, "nobody can count the objects that depend on this keystore now; try again");
    if (count)
        return hpl_fail(call, HPL_KEY_IN_USE, "%llu objects and uploads depend on this keystore; rewrap or delete them first", (unsigned long long)count);
    if (!may_lose_external)
        return hpl_fail(call, HPL_KEY_IN_USE, "0 objects depend on this keystore, but data keys that the API gave out under it cannot be counted; confirm with "
                                              "'confirm_external' that none is needed");
    return HPL_OK;
}

/* The row that says how it is opened. */
static enum hpl_status find_config(struct hpl_kms *kms, struct hpl_call *call, const char *name, json_t **row, uint64_t *revision)
{
    struct hpl_buf content = {0};
    enum hpl_status status = hpl_catalog_get(call, kms->options.catalog, HPL_ATTACHMENT_ROW, name, &content, revision);
    if (status == HPL_NOT_FOUND)
        status = hpl_fail_over(call, HPL_NOT_FOUND, "no keystore of the instance %s was ever attached", name);
    if (status == HPL_OK)
        status = hpl_json_object(call, row, hpl_buf_bytes(&content), 1u << 20, false);
    if (status == HPL_OK && !json_object_get(*row, "config"))
        status = hpl_fail(call, HPL_CONFLICT, "this keystore was detached already");
    hpl_buf_wipe(&content);
    return status;
}

static enum hpl_status forget_config(struct hpl_kms *kms, struct hpl_call *call, const char *name, json_t *row, uint64_t revision)
{
    struct hpl_buf content = {0};
    json_object_del(row, "config");
    json_object_set_new(row, "detached_ms", json_integer(hpl_clock_unix_ms()));
    enum hpl_status status = hpl_json_put(&content, row);
    if (status == HPL_OK)
        status = hpl_catalog_put(call, kms->options.catalog, HPL_ATTACHMENT_ROW, name, revision, hpl_buf_bytes(&content), NULL);
    hpl_buf_wipe(&content);
    return status;
}

/* Under changing and opening: nobody opens it meanwhile. */
static enum hpl_status detach(struct hpl_kms *kms, struct hpl_call *call, const char *asked, bool may_lose_external, json_t **answer)
{
    uint8_t instance[8];
    char name[2 * sizeof instance + 1];
    uint64_t revision;
    json_t *HPL_JSON_AUTO row = NULL;
    HPL_TRY(hpl_kms_ready(kms, call)); /* which one is active is known only then */
    if (!is_hex_instance(asked, instance))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'instance' must be 16 hex digits; GET kms/backends lists them");
    hpl_hex_encode(name, instance, sizeof instance);
    HPL_TRY(find_config(kms, call, name, &row, &revision));
    pthread_rwlock_wrlock(&kms->storing); /* what is stored after this count finds it detached */
    enum hpl_status status = check_unneeded(kms, call, instance, may_lose_external);
    if (status == HPL_OK)
        status = forget_config(kms, call, name, row, revision);
    struct hpl_attachment *gone = status == HPL_OK ? hpl_kms_take_former(kms, instance) : NULL;
    pthread_rwlock_unlock(&kms->storing);
    hpl_attachment_unref(gone); /* it may take a while to close */
    HPL_TRY(status);
    hpl_log(HPL_LOG_WARN, "kms.detached", HPL_S("backend", json_string_value(json_object_get(row, "backend"))), HPL_S("instance", name),
            HPL_S("principal", hpl_principal_of(call)), HPL_S("request_id", call ? call->request_id : ""));
    *answer = json_pack("{s:b, s:s, s:s}", "success", 1, "message", "detached; configuring this keystore again attaches it again", "instance", name);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_kms_detach(struct hpl_kms *kms, struct hpl_call *call, const char *instance, bool may_lose_external, json_t **answer)
{
    pthread_mutex_lock(&kms->changing);
    pthread_mutex_lock(&kms->opening);
    enum hpl_status status = detach(kms, call, instance, may_lose_external, answer);
    pthread_mutex_unlock(&kms->opening);
    pthread_mutex_unlock(&kms->changing);
    return status;
}
