/* Lifecycle routes: each is one call of the key service. Jobs; may block on a backend. */
#include "admin/routes.h"

enum hpl_status hpl_admin_configure(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_configure(request->admin->kms, request->call, request->body, answer);
}

enum hpl_status hpl_admin_reconfigure(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_reconfigure(request->admin->kms, request->call, request->body, answer);
}

enum hpl_status hpl_admin_start(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_start(request->admin->kms, request->call, answer);
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
