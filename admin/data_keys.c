/* Data-key routes. The plaintext key leaves the process only in these answers. Jobs; may block on a backend. */
#include "admin/routes.h"

#include <stdlib.h>

#include "base/codec.h"

#define MAX_KEYS 64

enum hpl_status hpl_admin_context(const struct hpl_admin_request *request, struct hpl_admin_context *context)
{
    static const char *const names[] = {"encryption_context", "context", "EncryptionContext", NULL};
    const json_t *object = NULL;
    const char *member, *name;
    json_t *value;
    context->view = (struct hpl_context){context->pairs, 0};
    HPL_TRY(hpl_admin_spelling(request, names, &member));
    if (member)
        HPL_TRY(hpl_json_member(request->call, request->body, member, &object));
    json_object_foreach((json_t *)object, name, value)
    {
        if (!json_is_string(value))
            return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' must hold strings only; '%.64s' is none", member, name);
        if (context->view.num_pairs == HPL_ADMIN_MAX_PAIRS)
            return hpl_fail(request->call, HPL_INVALID_REQUEST, "'%s' has more than %d pairs", member, HPL_ADMIN_MAX_PAIRS);
        context->pairs[context->view.num_pairs++] = (struct hpl_context_pair){
            hpl_bytes_str(name), hpl_bytes(json_string_value(value), json_string_length(value))};
    }
    return HPL_OK;
}

static enum hpl_status key_len_of(const struct hpl_admin_request *request, size_t *len)
{
    static const struct { const char *spec; size_t len; } specs[] = {{"AES_256", 32}, {"Aes256", 32}, {"AES_128", 16}, {"Aes128", 16}};
    static const char *const names[] = {"key_spec", "KeySpec", NULL};
    const char *spec = "AES_256";
    HPL_TRY(hpl_admin_text(request, names, &spec));
    for (size_t i = 0; i < HPL_COUNT(specs); i++)
        if (strcmp(spec, specs[i].spec) == 0) {
            *len = specs[i].len;
            return HPL_OK;
        }
    return hpl_fail(request->call, HPL_INVALID_REQUEST, "'key_spec' must be AES_256 or AES_128");
}

json_t *hpl_admin_base64(const void *data, size_t len)
{
    struct hpl_buf text = {0};
    hpl_base64_put(&text, data, len);
    json_t *value = text.is_failed ? NULL : json_stringn((const char *)text.data, text.len);
    hpl_buf_wipe(&text);
    return value;
}

static void put_base64(struct hpl_buf *text, const char *name, const void *data, size_t len)
{
    hpl_buf_put_str(text, name);
    hpl_base64_put(text, data, len);
    hpl_buf_put_u8(text, '"');
}

/* Appends one data key, {"ciphertext_blob","plaintext_key"}, with the id of its key between them unless key_id is NULL. As text, not by way of jansson: that
 * would take as long as wrapping it. */
static void put_key(struct hpl_buf *text, const struct hpl_data_key *key, const char *key_id)
{
    put_base64(text, "{\"ciphertext_blob\":\"", key->envelope.data, key->envelope.len);
    if (key_id) {
        hpl_buf_put_str(text, ",\"key_id\":");
        hpl_json_put_text(text, key_id);
    }
    put_base64(text, ",\"plaintext_key\":\"", key->secret->bytes, key->secret->len);
    hpl_buf_put_u8(text, '}');
}

struct asked {
    const char *key_id; /* NULL: the default key */
    struct hpl_admin_context context;
    size_t len;
};

static enum hpl_status read_asked(const struct hpl_admin_request *request, struct asked *asked)
{
    HPL_TRY(hpl_admin_key_id_in_body(request, &asked->key_id));
    HPL_TRY(key_len_of(request, &asked->len));
    return hpl_admin_context(request, &asked->context);
}

enum hpl_status hpl_admin_generate(const struct hpl_admin_request *request, json_t **answer)
{
    struct asked asked;
    struct hpl_data_key key = {0};
    struct hpl_key_ref ref;
    (void)answer;
    HPL_TRY(read_asked(request, &asked));
    enum hpl_status status = hpl_kms_generate(request->admin->kms, request->call, HPL_PURPOSE_API, asked.key_id, &asked.context.view, asked.len, &key.secret,
                                              &key.envelope, &ref);
    if (status == HPL_OK)
        put_key(request->text, &key, ref.key_id);
    hpl_data_keys_wipe(&key, 1);
    return status;
}

enum hpl_status hpl_admin_generate_many(const struct hpl_admin_request *request, json_t **answer)
{
    struct asked asked;
    struct hpl_data_key keys[MAX_KEYS];
    struct hpl_key_ref ref;
    int64_t count = 0;
    (void)answer;
    HPL_TRY(read_asked(request, &asked));
    HPL_TRY(hpl_json_int(request->call, request->body, "count", 1, MAX_KEYS, &count));
    if (count == 0)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "'count' is missing: a number from 1 to %d", MAX_KEYS);
    HPL_TRY(hpl_kms_generate_many(request->admin->kms, request->call, HPL_PURPOSE_API, asked.key_id, &asked.context.view, asked.len, keys, (size_t)count, &ref));
    for (int64_t i = 0; i < count; i++) {
        hpl_buf_put_str(request->text, i ? "," : "{\"data_keys\":[");
        put_key(request->text, &keys[i], NULL);
    }
    hpl_buf_put_str(request->text, "],\"key_id\":");
    hpl_json_put_text(request->text, ref.key_id);
    hpl_buf_put_u8(request->text, '}');
    hpl_data_keys_wipe(keys, (size_t)count);
    return HPL_OK;
}

enum hpl_status hpl_admin_decrypt(const struct hpl_admin_request *request, json_t **answer)
{
    struct hpl_admin_context context;
    struct hpl_buf envelope = {0};
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    struct hpl_key_ref ref;
    HPL_TRY(hpl_admin_context(request, &context));
    enum hpl_status status = hpl_admin_envelope(request, "ciphertext_blob", &envelope);
    if (status == HPL_OK)
        status = hpl_kms_decrypt(request->admin->kms, request->call, HPL_PURPOSE_API, hpl_buf_bytes(&envelope), &context.view, &secret, &ref);
    if (status == HPL_OK) {
        *answer = json_pack("{s:s, s:o}", "key_id", ref.key_id, "plaintext_key", hpl_admin_base64(secret->bytes, secret->len));
        status = *answer ? HPL_OK : HPL_NO_MEMORY;
    }
    hpl_buf_wipe(&envelope);
    return status;
}
