/* Policies of keys. Pure but for the log line of a refusal; any thread. */
#include "kms/policy.h"

#include "base/log.h"

#define MAX_POLICY_BYTES 16384u
#define MAX_GRANTS 64u
#define MAX_LIST 256u

static const char *const operations[] = {[HPL_OP_GENERATE] = "GenerateDataKey", [HPL_OP_DECRYPT] = "Decrypt", [HPL_OP_REWRAP] = "Rewrap"};
static const char *const purposes[] = {[HPL_PURPOSE_OBJECT] = "object", [HPL_PURPOSE_BUCKET_KEY] = "bucket-key", [HPL_PURPOSE_API] = "api",
                                       [HPL_PURPOSE_CONFIGURATION] = "configuration", [HPL_PURPOSE_BACKUP] = "backup"};
static const char *const grantable_purposes[] = {"object", "api", "backup"};
static const char *const grant_members[] = {"principals", "operations", "purposes", "context"};

const char *hpl_purpose_name(uint8_t purpose)
{
    return purpose < HPL_COUNT(purposes) && purposes[purpose] ? purposes[purpose] : "unknown";
}

static bool is_one_of(const char *text, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(text, list[i]) == 0)
            return true;
    return false;
}

/* --- is it one ----------------------------------------------------------------------------------------------------------- */

/* A list of texts, each "*" or among words (NULL: any text that is not empty). */
static enum hpl_status check_list(struct hpl_call *call, const json_t *grant, const char *name, bool may_be_missing, const char *const *words, size_t num_words)
{
    const json_t *list = json_object_get(grant, name);
    size_t i;
    json_t *value;
    if (!list && may_be_missing)
        return HPL_OK;
    if (!json_is_array(list) || json_array_size(list) == 0 || json_array_size(list) > MAX_LIST)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' of a grant must be a list of 1 to %u strings", name, MAX_LIST);
    json_array_foreach((json_t *)list, i, value)
    {
        const char *text = json_string_value(value);
        if (!text || !*text)
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' of a grant must hold strings that are not empty", name);
        if (words && strcmp(text, "*") != 0 && !is_one_of(text, words, num_words))
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' of a grant has '%.40s', which is not known", name, text);
        if (!words && strncmp(text, "role:", 5) == 0 && strcmp(text, "role:admin") != 0 && strcmp(text, "role:objects") != 0)
            return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' of a grant has '%.40s'; roles are role:admin and role:objects", name, text);
    }
    return HPL_OK;
}

static enum hpl_status check_context(struct hpl_call *call, const json_t *grant)
{
    const json_t *context = json_object_get(grant, "context");
    const char *name;
    json_t *value;
    if (context && !json_is_object(context))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'context' of a grant must be an object of strings");
    json_object_foreach((json_t *)context, name, value)
        if (!*name || !json_is_string(value))
            return hpl_fail(call, HPL_INVALID_REQUEST, "'context' of a grant must be an object of strings; '%.60s' is none", name);
    return HPL_OK;
}

static enum hpl_status check_members(struct hpl_call *call, const json_t *object, const char *what, const char *const *members, size_t count)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
    {
        (void)value;
        if (!is_one_of(name, members, count))
            return hpl_fail(call, HPL_INVALID_REQUEST, "a %s has no member '%.60s'", what, name);
    }
    return HPL_OK;
}

static enum hpl_status check_grant(struct hpl_call *call, const json_t *grant)
{
    if (!json_is_object(grant))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'grants' of a policy must be a list of objects");
    HPL_TRY(check_members(call, grant, "grant", grant_members, HPL_COUNT(grant_members)));
    HPL_TRY(check_list(call, grant, "principals", false, NULL, 0));
    HPL_TRY(check_list(call, grant, "operations", false, operations, HPL_COUNT(operations)));
    HPL_TRY(check_list(call, grant, "purposes", true, grantable_purposes, HPL_COUNT(grantable_purposes)));
    return check_context(call, grant);
}

enum hpl_status hpl_policy_check(struct hpl_call *call, const json_t *policy)
{
    static const char *const members[] = {"grants"};
    struct hpl_buf text = {.max = MAX_POLICY_BYTES};
    const json_t *grants = json_object_get(policy, "grants");
    size_t i;
    json_t *grant;
    if (!json_is_object(policy))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'policy' must be an object with 'grants', or null for none");
    enum hpl_status status = hpl_json_put(&text, policy);
    hpl_buf_wipe(&text);
    if (status != HPL_OK)
        return hpl_fail(call, HPL_INVALID_REQUEST, "a policy is at most %u bytes", MAX_POLICY_BYTES);
    HPL_TRY(check_members(call, policy, "policy", members, HPL_COUNT(members)));
    if (!json_is_array(grants) || json_array_size(grants) > MAX_GRANTS)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'grants' of a policy must be a list of at most %u", MAX_GRANTS);
    json_array_foreach((json_t *)grants, i, grant)
        HPL_TRY(check_grant(call, grant));
    return HPL_OK;
}

/* --- does it let them ---------------------------------------------------------------------------------------------------- */

static bool has_word(const json_t *grant, const char *name, const char *word)
{
    size_t i;
    json_t *value;
    json_array_foreach(json_object_get(grant, name), i, value)
    {
        const char *text = json_string_value(value);
        if (text && (strcmp(text, "*") == 0 || strcmp(text, word) == 0))
            return true;
    }
    return false;
}

static bool names_caller(const json_t *grant, const struct hpl_call *call)
{
    static const struct { const char *role, *word; } roles[] = {{"admin", "role:admin"}, {"objects", "role:objects"}};
    for (size_t i = 0; call->role && i < HPL_COUNT(roles); i++)
        if (strcmp(call->role, roles[i].role) == 0 && has_word(grant, "principals", roles[i].word))
            return true;
    return has_word(grant, "principals", call->principal);
}

static bool has_pair(const struct hpl_context *context, struct hpl_bytes name, struct hpl_bytes value)
{
    for (size_t i = 0; context && i < context->num_pairs; i++)
        if (hpl_bytes_equal(context->pairs[i].name, name))
            return hpl_bytes_equal(context->pairs[i].value, value);
    return false;
}

static bool fits_context(const json_t *grant, const struct hpl_context *context)
{
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(grant, "context"), name, value)
        if (!has_pair(context, hpl_bytes_str(name), hpl_bytes(json_string_value(value), json_string_length(value))))
            return false;
    return true;
}

enum hpl_status hpl_policy_allows(struct hpl_call *call, const struct hpl_key_record *record, enum hpl_key_operation operation, enum hpl_purpose purpose,
                                  const struct hpl_context *context)
{
    const char *purpose_name = hpl_purpose_name((uint8_t)purpose);
    size_t i;
    json_t *grant;
    if (!call || !call->principal || !json_is_object(record->policy))
        return HPL_OK;
    json_array_foreach(json_object_get(record->policy, "grants"), i, grant)
        if (names_caller(grant, call) && has_word(grant, "operations", operations[operation]) &&
            (!json_object_get(grant, "purposes") || has_word(grant, "purposes", purpose_name)) && fits_context(grant, context))
            return HPL_OK;
    hpl_log(HPL_LOG_INFO, "kms.denied", HPL_S("key_id", record->key_id), HPL_S("principal", call->principal), HPL_S("operation", operations[operation]),
            HPL_S("purpose", purpose_name), HPL_S("request_id", call->request_id));
    return hpl_fail(call, HPL_ACCESS_DENIED, "the policy of the key '%.80s' does not let '%.80s' do %s with this purpose (%s) and context", record->key_id,
                    call->principal, operations[operation], purpose_name);
}

enum hpl_status hpl_key_may_be_used(struct hpl_call *call, const struct hpl_key_record *record, enum hpl_key_operation operation, enum hpl_purpose purpose,
                                    const struct hpl_context *context)
{
    HPL_TRY(hpl_policy_allows(call, record, operation, purpose, context));
    return hpl_record_usable(call, record);
}
