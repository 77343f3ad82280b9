/* Envelopes and where they come from: rewrap. Jobs; may block on a backend. */
#include "admin/routes.h"

#include "base/codec.h"

/* The envelope that the body has under the first of two names. */
static enum hpl_status envelope_of(const struct hpl_admin_request *request, const char *name, const char *other, struct hpl_buf *envelope)
{
    const char *text = NULL;
    HPL_TRY(hpl_json_str(request->call, request->body, name, &text));
    if (!text)
        HPL_TRY(hpl_json_str(request->call, request->body, other, &text));
    if (!text)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' is missing", name);
    if (!hpl_base64_decode(envelope, text, strlen(text)))
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' is not valid Base64", name);
    return HPL_OK;
}

/* In either spelling. */
static enum hpl_status context_of(const struct hpl_admin_request *request, struct hpl_admin_context *context)
{
    return hpl_admin_context(request, json_object_get(request->body, "context") ? "context" : "encryption_context", context);
}

static enum hpl_status rewrap(const struct hpl_admin_request *request, struct hpl_bytes envelope, struct hpl_buf *made, json_t **answer)
{
    struct hpl_admin_context context;
    struct hpl_key_ref ref;
    const char *key_id = NULL;
    HPL_TRY(context_of(request, &context));
    HPL_TRY(hpl_json_str(request->call, request->body, "key_id", &key_id));
    HPL_TRY(hpl_kms_rewrap(request->admin->kms, request->call, envelope, &context.view, key_id, made, &ref));
    *answer = json_pack("{s:o, s:s, s:I}", "ciphertext_b64", hpl_admin_base64(made->data, made->len), "key_id", ref.key_id, "version", (json_int_t)ref.version);
    return *answer ? HPL_OK : HPL_NO_MEMORY;
}

enum hpl_status hpl_admin_rewrap(const struct hpl_admin_request *request, json_t **answer)
{
    struct hpl_buf envelope = {0}, made = {0};
    enum hpl_status status = envelope_of(request, "ciphertext_b64", "ciphertext_blob", &envelope);
    if (status == HPL_OK)
        status = rewrap(request, hpl_buf_bytes(&envelope), &made, answer);
    hpl_buf_wipe(&envelope);
    hpl_buf_wipe(&made);
    return status;
}
