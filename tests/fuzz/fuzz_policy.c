/* Policies of keys: what is taken can be asked for anybody and never lets in a caller that no principal of it fits. */
#include "base/log.h"
#include "kms/policy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Whether the text stands among the principals of any grant. */
static bool is_named(const json_t *policy, const char *text)
{
    size_t i, j;
    json_t *grant, *principal;
    json_array_foreach(json_object_get(policy, "grants"), i, grant)
        json_array_foreach(json_object_get(grant, "principals"), j, principal)
            if (strcmp(json_string_value(principal), text) == 0)
                return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const char caller[] = "caller-of-the-fuzzer";
    json_t *HPL_JSON_AUTO policy = NULL;
    struct hpl_call call = {.principal = caller, .role = "objects"};
    hpl_log_set_level(HPL_LOG_ERROR);
    const struct hpl_context_pair pair = {hpl_bytes_str("a"), hpl_bytes_str("b")};
    if (hpl_json_object(NULL, &policy, hpl_bytes(data, len), 65536, false) != HPL_OK || hpl_policy_check(NULL, policy) != HPL_OK)
        return 0;
    const struct hpl_key_record record = {.key_id = "k", .policy = policy};
    for (int operation = HPL_OP_GENERATE; operation <= HPL_OP_REWRAP; operation++) {
        enum hpl_status status = hpl_policy_allows(&call, &record, (enum hpl_key_operation)operation, HPL_PURPOSE_API, &(struct hpl_context){&pair, 1});
        HPL_CHECK(status == HPL_OK || status == HPL_ACCESS_DENIED);
        HPL_CHECK(status != HPL_OK || is_named(policy, "*") || is_named(policy, caller) || is_named(policy, "role:objects"));
    }
    return 0;
}
