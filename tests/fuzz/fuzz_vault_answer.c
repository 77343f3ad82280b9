/* What a Vault may answer: any bytes under any code end in a status with a sentence, in a document that our MAC covers, or in a token and a ciphertext
 * that are well-formed; never in a crash. The first byte picks the code. */
#include "backends/vault/internal.h"

#include <ctype.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct hpl_vault vault = {.settings = {.address = "https://vault.example.com:8200", .mount = "transit", .kv_mount = "secret", .prefix = "p"}};

static void open_vault(void)
{
    struct hpl_call call = {0};
    if (vault.http)
        return;
    HPL_CHECK(hpl_vault_http_open(&call, &vault.settings, &vault.http) == HPL_OK);
    vault.mac_key = hpl_secret_new(32); /* a key of zeroes: the corpus may hold documents that verify */
    HPL_CHECK(vault.mac_key);
}

static void check_refusal(const struct hpl_vault_answer *answer)
{
    static const struct hpl_vault_request request = {.method = "POST", .path = "transit/encrypt/key"};
    struct hpl_call call = {0};
    HPL_CHECK(hpl_vault_refused(&call, vault.http, &request, answer, "wrapping") != HPL_OK && call.detail[0]);
    for (const char *at = call.detail; *at; at++)
        HPL_CHECK(isprint((unsigned char)*at));
}

static void check_lease(const struct hpl_vault_answer *answer)
{
    struct hpl_call call = {0};
    struct hpl_vault_lease lease = {0};
    if (hpl_vault_read_lease(&call, answer, true, &lease) == HPL_OK)
        HPL_CHECK(lease.token && lease.seconds >= 0 && !memchr(lease.token->bytes, '\n', lease.token->len));
    else
        HPL_CHECK(!lease.token && call.detail[0]);
    hpl_secret_free(lease.token);
}

static void check_values(const json_t *root)
{
    struct hpl_call call = {0};
    struct hpl_wrapped wrapped = {0};
    struct hpl_vault_document document = {.kind = "record"};
    if (hpl_vault_read_wrapped(&call, json_object_get(root, "data"), 1, 32, &wrapped) == HPL_OK)
        HPL_CHECK(wrapped.mechanism == HPL_MECH_TRANSIT && wrapped.ct_len == 60 && wrapped.iv_len == 0);
    call = (struct hpl_call){0};
    if (hpl_vault_document_read(&call, &vault, "secret/data/p/record/x", root, &document) == HPL_OK)
        HPL_CHECK(document.revision && strlen(document.id) <= HPL_KEY_ID_MAX);
    else
        HPL_CHECK(call.detail[0]);
    hpl_vault_document_wipe(&document);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const long codes[] = {200, 204, 301, 307, 400, 403, 404, 412, 429, 472, 500, 501, 502, 503};
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    if (!len)
        return 0;
    open_vault();
    answer.code = codes[data[0] % HPL_COUNT(codes)];
    hpl_buf_put(&answer.body, data + 1, len - 1);
    check_refusal(&answer);
    check_lease(&answer);
    if (hpl_vault_answer_json(NULL, &answer, &root) == HPL_OK)
        check_values(root);
    return 0;
}
