/* What is set on a key once it is there: its policy. Jobs; may block on a backend. */
#include "admin/routes.h"

enum hpl_status hpl_admin_get_policy(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *policy = NULL;
    HPL_TRY(hpl_admin_key_id(request, key_id));
    HPL_TRY(hpl_kms_policy(request->admin->kms, request->call, key_id, &policy));
    *answer = json_pack("{s:s, s:o}", "key_id", key_id, "policy", policy);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_admin_put_policy(const struct hpl_admin_request *request, json_t **answer)
{
    char key_id[HPL_KEY_ID_MAX + 1];
    json_t *metadata = NULL;
    const json_t *policy = json_object_get(request->body, "policy");
    HPL_TRY(hpl_admin_key_id(request, key_id));
    if (!policy)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'policy' is missing: an object with 'grants', or null for none");
    HPL_TRY(hpl_kms_set_policy(request->admin->kms, request->call, key_id, policy, &metadata));
    return hpl_admin_metadata(metadata, answer);
}
