/* Lifecycle routes: each is one call of the key service. Jobs; may block on a backend. */
#include "admin/routes.h"

#include <string.h>

/* Any text in it but the names of roles and mounts: a token, a secret id. */
static bool has_secret(const json_t *value)
{
    static const char *const open_names[] = {"role", "role_id", "mount", "path", "jwt_path", "secret_id_file"};
    const char *name;
    json_t *member;
    if (json_is_string(value))
        return json_string_length(value) > 0;
    json_object_foreach((json_t *)value, name, member)
    {
        bool is_open = false;
        for (size_t i = 0; i < HPL_COUNT(open_names); i++)
            is_open |= strcmp(name, open_names[i]) == 0;
        if (!is_open && has_secret(member))
            return true;
    }
    return false;
}

/* The credentials of a Vault are worth every key in it. */
static enum hpl_status check_private(const struct hpl_admin_request *request)
{
    const json_t *method = json_object_get(request->body, "auth_method");
    bool is_secret = has_secret(json_object_get(request->body, "vault_token")) || has_secret(json_object_get(request->body, "vault_app_role_secret_id")) ||
                     (json_is_object(method) && has_secret(method));
    if (is_secret && !request->is_private)
        return hpl_fail(request->call, HPL_INSECURE_TRANSPORT, "Vault's credentials are not taken over a plaintext connection; use TLS, and replace the ones just sent");
    return HPL_OK;
}

enum hpl_status hpl_admin_configure(const struct hpl_admin_request *request, json_t **answer)
{
    HPL_TRY(check_private(request));
    return hpl_kms_configure(request->admin->kms, request->call, request->body, answer);
}

enum hpl_status hpl_admin_reconfigure(const struct hpl_admin_request *request, json_t **answer)
{
    HPL_TRY(check_private(request));
    return hpl_kms_reconfigure(request->admin->kms, request->call, request->body, answer);
}

enum hpl_status hpl_admin_start(const struct hpl_admin_request *request, json_t **answer)
{
    bool is_forced = false;
    HPL_TRY(hpl_json_bool(request->call, request->body, "force", &is_forced));
    return hpl_kms_start(request->admin->kms, request->call, is_forced, answer);
}

enum hpl_status hpl_admin_stop(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_stop(request->admin->kms, request->call, answer);
}

enum hpl_status hpl_admin_status(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_status(request->admin->kms, request->call, answer);
}

enum hpl_status hpl_admin_config(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_config(request->admin->kms, request->call, answer);
}

enum hpl_status hpl_admin_clear_cache(const struct hpl_admin_request *request, json_t **answer)
{
    *answer = NULL;
    return hpl_kms_clear_cache(request->admin->kms, request->call);
}
