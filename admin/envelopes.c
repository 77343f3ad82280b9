/* Envelopes and where they come from: rewrap, explain, the keystores that are attached. Jobs; may block on a backend. */
#include "admin/routes.h"

#include "base/codec.h"
#include "s3/explain.h"

enum hpl_status hpl_admin_envelope(const struct hpl_admin_request *request, const char *name, struct hpl_buf *envelope)
{
    static const char *const names[] = {"ciphertext_blob", "ciphertext_b64", "CiphertextBlob", NULL};
    const char *text = NULL;
    HPL_TRY(hpl_admin_text(request, names, &text));
    if (!text)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' is missing", name);
    if (!hpl_base64_decode(envelope, text, strlen(text)))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' is not valid Base64", name);
    return HPL_OK;
}

static enum hpl_status rewrap(const struct hpl_admin_request *request, struct hpl_bytes envelope, struct hpl_buf *made, json_t **answer)
{
    struct hpl_admin_context context;
    struct hpl_key_ref ref;
    const char *key_id;
    HPL_TRY(hpl_admin_context(request, &context));
    HPL_TRY(hpl_admin_key_id_in_body(request, &key_id));
    HPL_TRY(hpl_kms_rewrap(request->admin->kms, request->call, envelope, &context.view, key_id, made, &ref));
    *answer = json_pack("{s:o, s:s, s:I}", "ciphertext_b64", hpl_admin_base64(made->data, made->len), "key_id", ref.key_id, "version", (json_int_t)ref.version);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_admin_rewrap(const struct hpl_admin_request *request, json_t **answer)
{
    struct hpl_buf envelope = {0}, made = {0};
    enum hpl_status status = hpl_admin_envelope(request, "ciphertext_b64", &envelope);
    if (status == HPL_OK)
        status = rewrap(request, hpl_buf_bytes(&envelope), &made, answer);
    hpl_buf_wipe(&envelope);
    hpl_buf_wipe(&made);
    return status;
}

static enum hpl_status explain_object(const struct hpl_admin_request *request, const char *bucket, json_t **answer)
{
    const char *key = NULL;
    HPL_TRY(hpl_json_str(request->call, request->body, "key", &key));
    if (!key)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'key' is missing beside 'bucket'");
    return hpl_s3_explain(request->admin->s3, request->call, bucket, key, answer);
}

enum hpl_status hpl_admin_explain(const struct hpl_admin_request *request, json_t **answer)
{
    const char *bucket = NULL;
    struct hpl_admin_context context;
    struct hpl_buf envelope = {0};
    HPL_TRY(hpl_json_str(request->call, request->body, "bucket", &bucket));
    if (bucket)
        return explain_object(request, bucket, answer);
    HPL_TRY(hpl_admin_context(request, &context));
    enum hpl_status status = hpl_admin_envelope(request, "ciphertext_blob", &envelope);
    if (status == HPL_OK)
        status = hpl_kms_explain(request->admin->kms, request->call, hpl_buf_bytes(&envelope), &context.view, answer);
    hpl_buf_wipe(&envelope);
    return status;
}

enum hpl_status hpl_admin_backends(const struct hpl_admin_request *request, json_t **answer)
{
    return hpl_kms_backends(request->admin->kms, request->call, answer);
}

enum hpl_status hpl_admin_detach(const struct hpl_admin_request *request, json_t **answer)
{
    const char *instance = NULL;
    bool is_confirmed = false;
    HPL_TRY(hpl_json_str(request->call, request->body, "instance", &instance));
    HPL_TRY(hpl_json_bool(request->call, request->body, "confirm_external", &is_confirmed));
    if (!instance)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'instance' is missing; GET kms/backends lists them");
    return hpl_kms_detach(request->admin->kms, request->call, instance, is_confirmed, answer);
}
