/* Configure bodies: any JSON ends in a normal form that is its own normal form and settings within their bounds, or in a refusal that says why. */
#include "backends/backends.h"
#include "kms/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check_settings(const struct hpl_kms_settings *settings)
{
    HPL_CHECK(settings->backend && strlen(settings->default_key_id) <= HPL_KEY_ID_MAX);
    HPL_CHECK(settings->timeout_seconds >= 1 && settings->timeout_seconds <= 600 && settings->retry_attempts >= 0 && settings->retry_attempts <= 10);
    HPL_CHECK(settings->cache_ttl_seconds >= 1 && settings->cache_ttl_seconds <= 86400 && settings->max_cached_keys >= 1);
}

static void check_body(const struct hpl_kms_options *options, const json_t *body, const json_t *base)
{
    struct hpl_call call = {0};
    struct hpl_kms_settings settings;
    json_t *HPL_JSON_AUTO normal = NULL;
    json_t *HPL_JSON_AUTO again = NULL;
    enum hpl_status status = hpl_kms_normalise(&call, options, body, base, &normal);
    HPL_CHECK((status == HPL_OK) == (normal != NULL) && (status == HPL_OK || call.detail[0]));
    if (!normal)
        return;
    HPL_CHECK(hpl_kms_normalise(&call, options, normal, NULL, &again) == HPL_OK && json_equal(normal, again));
    HPL_CHECK(hpl_kms_is_same_backend(normal, again));
    if (hpl_kms_read_settings(&call, options, normal, &settings) == HPL_OK)
        check_settings(&settings);
    else
        HPL_CHECK(call.detail[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static const struct hpl_token_option token = {.name = "main", .uri = "pkcs11:token=main"};
    static const struct hpl_vault_option vault = {.name = "main", .address = "https://vault:8200", .token_file = "/run/token", .role_id = "r", .secret_id_file = "/run/secret"};
    static struct hpl_backend_env env = {.state_dir = "/tmp", .tokens = &token, .num_tokens = 1, .vaults = &vault, .num_vaults = 1};
    const struct hpl_kms_options options = {.backends = hpl_backends(), .env = &env};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO base = json_pack("{s:s, s:s, s:i}", "backend_type", "local", "key_dir", "/tmp/keys", "cache_ttl_seconds", 60);
    json_t *HPL_JSON_AUTO vault_base = json_pack("{s:s, s:s, s:{s:s}}", "backend_type", "vault", "address", "https://v", "auth_method", "token", "s.x");
    if (hpl_json_object(&call, &body, hpl_bytes(data, len), 65536, true) != HPL_OK)
        return 0;
    check_body(&options, body, NULL);
    check_body(&options, body, base);
    check_body(&options, body, vault_base);
    return 0;
}
