/* Does the vault backend read every spelling of its configuration, keep secrets and names where they belong, and check what a server answers? */
#include "backends/vault/internal.h"
#include <stdio.h>

#include "tests/contract/open_openbao.h"
#include "tests/test.h"

#include "backends/backends.h"
#include "base/codec.h"
#include "base/hash.h"
#include "kms/config.h"

static const struct hpl_vault_option options[] = {
    {.name = "main", .address = "https://vault.example.com:8200", .ca_file = "/etc/ca.pem", .token_file = "/run/token", .role_id = "role-of-file",
     .secret_id_file = "/run/secret-id", .role = "storage"},
    {.name = "ca-only", .ca_file = "/etc/other.pem"},
    {.name = "plain", .address = "http://10.0.0.5:8200", .allow_http = true},
};
static const struct hpl_backend_env env = {.state_dir = "/tmp", .vaults = options, .num_vaults = HPL_COUNT(options)};
static struct hpl_kms_options kms_options(void)
{
    return (struct hpl_kms_options){.backends = hpl_backends(), .env = &env};
}

static json_t *parse(const char *text)
{
    json_t *value = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(hpl_json_object(&call, &value, hpl_bytes_str(text), 65536, false));
    return value;
}

/* The settings of a body in any spelling, through the service's normal form. */
static enum hpl_status read_body(const char *text, struct hpl_call *call, struct hpl_vault_settings *out)
{
    const struct hpl_kms_options kms = kms_options();
    json_t *HPL_JSON_AUTO body = parse(text);
    json_t *HPL_JSON_AUTO normal = NULL;
    *out = (struct hpl_vault_settings){0};
    enum hpl_status status = hpl_kms_normalise(call, &kms, body, NULL, &normal);
    if (status == HPL_OK)
        EXPECT_TEXT(json_string_value(json_object_get(normal, "backend_type")), "vault");
    return status == HPL_OK ? hpl_vault_settings_read(call, normal, &env, out) : status;
}

static void expect_secret(const struct hpl_vault_settings *settings, const char *text)
{
    EXPECT(settings->secret != NULL);
    EXPECT_NUM(settings->secret->len, strlen(text));
    EXPECT_BYTES(settings->secret->bytes, text, strlen(text));
}

HPL_TEST(every_spelling_of_a_token_is_read)
{
    static const char *const bodies[] = {
        "{\"backend_type\":\"vault\",\"address\":\"https://vault.example.com\",\"auth_method\":{\"token\":\"s.XYZ\"}}",
        "{\"backend_type\":\"Vault\",\"address\":\"https://vault.example.com:443/\",\"auth_method\":{\"token\":{\"token\":\"s.XYZ\"}}}",
        "{\"backend_type\":\"VaultKV2\",\"address\":\"https://vault.example.com\",\"auth_method\":{\"Token\":{\"token\":\"s.XYZ\"}}}",
        "{\"backend_type\":\"vault-kv2\",\"address\":\"https://vault.example.com\",\"auth_method\":{\"Token\":{\"token\":\"s.XYZ\"}},\"namespace\":null}",
        "{\"backend_type\":\"vault_transit\",\"address\":\"https://vault.example.com\",\"auth_method\":{\"Token\":{\"token\":\"s.XYZ\"}},\"skip_tls_verify\":false}",
        "{\"kms_type\":\"vault\",\"vault_address\":\"https://vault.example.com\",\"vault_token\":\"s.XYZ\",\"vault_mount_path\":\"transit\",\"vault_timeout_seconds\":30}",
    };
    for (size_t i = 0; i < HPL_COUNT(bodies); i++) {
        struct hpl_call call = {0};
        struct hpl_vault_settings settings;
        EXPECT_OK(read_body(bodies[i], &call, &settings));
        EXPECT_NUM(settings.auth, HPL_VAULT_TOKEN);
        expect_secret(&settings, "s.XYZ");
        EXPECT_TEXT(settings.address, "https://vault.example.com:443");
        EXPECT_TEXT(settings.mount, "transit");
        EXPECT_TEXT(settings.kv_mount, "secret");
        EXPECT_TEXT(settings.prefix, "rustfs/kms/keys");
        EXPECT_TEXT(settings.space, "");
        EXPECT(!settings.skip_tls_verify);
        hpl_vault_settings_wipe(&settings);
    }
}

HPL_TEST(every_spelling_of_an_approle_is_read)
{
    static const char *const bodies[] = {
        "{\"backend_type\":\"vault\",\"address\":\"https://v:8200\",\"auth_method\":{\"approle\":{\"role_id\":\"r\",\"secret_id\":\"s\"}}}",
        "{\"backend_type\":\"VaultTransit\",\"address\":\"https://v:8200\",\"auth_method\":{\"AppRole\":{\"role_id\":\"r\",\"secret_id\":\"s\",\"mount\":\"/approle/\"}}}",
        "{\"backend_type\":\"vault\",\"address\":\"https://v:8200\",\"auth_method\":{\"app_role\":{\"role_id\":\"r\",\"secret_id\":\"s\"}}}",
        "{\"kms_type\":\"vault\",\"vault_address\":\"https://v:8200\",\"vault_app_role_id\":\"r\",\"vault_app_role_secret_id\":\"s\",\"vault_token\":\"loses\"}",
    };
    for (size_t i = 0; i < HPL_COUNT(bodies); i++) {
        struct hpl_call call = {0};
        struct hpl_vault_settings settings;
        EXPECT_OK(read_body(bodies[i], &call, &settings));
        EXPECT_NUM(settings.auth, HPL_VAULT_APPROLE);
        EXPECT_TEXT(settings.role, "r");
        EXPECT_TEXT(settings.auth_mount, "approle");
        expect_secret(&settings, "s");
        hpl_vault_settings_wipe(&settings);
    }
}

HPL_TEST(files_are_the_local_file_s_alone_and_go_to_its_address_alone)
{
    struct hpl_call call = {0};
    struct hpl_vault_settings settings;
    static const struct { const char *body; enum hpl_vault_auth auth; const char *file, *role; } good[] = {
        {"{\"backend_type\":\"vault\",\"vault\":\"main\",\"auth_method\":{\"TokenFile\":{}}}", HPL_VAULT_TOKEN_FILE, "/run/token", ""},
        {"{\"backend_type\":\"vault\",\"vault\":\"main\",\"auth_method\":\"token_file\"}", HPL_VAULT_TOKEN_FILE, "/run/token", ""},
        {"{\"backend_type\":\"vault\",\"address\":\"https://vault.example.com:8200\",\"auth_method\":{\"TokenFile\":{\"path\":\"/run/token\"}}}", HPL_VAULT_TOKEN_FILE, "/run/token", ""},
        {"{\"backend_type\":\"vault\",\"vault\":\"main\",\"auth_method\":\"approle\"}", HPL_VAULT_APPROLE, "/run/secret-id", "role-of-file"},
        {"{\"backend_type\":\"vault\",\"vault\":\"main\",\"auth_method\":{\"Kubernetes\":{\"role\":\"mine\",\"mount\":\"k8s/a\"}}}", HPL_VAULT_KUBERNETES,
         "/var/run/secrets/kubernetes.io/serviceaccount/token", "mine"},
    };
    static const char *const bad[] = {
        "{\"backend_type\":\"vault\",\"vault\":\"main\",\"auth_method\":{\"TokenFile\":{\"path\":\"/etc/shadow\"}}}",
        "{\"backend_type\":\"vault\",\"vault\":\"main\",\"address\":\"https://evil:8200\",\"auth_method\":\"token_file\"}",
        "{\"backend_type\":\"vault\",\"address\":\"https://evil:8200\",\"auth_method\":{\"TokenFile\":{\"path\":\"/run/token\"}}}",
        "{\"backend_type\":\"vault\",\"address\":\"https://evil:8200\",\"auth_method\":{\"Kubernetes\":{\"role\":\"mine\"}}}",
        "{\"backend_type\":\"vault\",\"vault\":\"ca-only\",\"address\":\"https://evil:8200\",\"auth_method\":{\"Kubernetes\":{\"role\":\"mine\"}}}",
        "{\"backend_type\":\"vault\",\"vault\":\"nobody\",\"auth_method\":\"token_file\"}",
        "{\"backend_type\":\"vault\",\"vault\":\"main\",\"auth_method\":{\"AppRole\":{\"role_id\":\"r\",\"secret_id_file\":\"/etc/shadow\"}}}",
        "{\"backend_type\":\"vault\",\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"ca_file\":\"/tmp/mine.pem\"}",
    };
    for (size_t i = 0; i < HPL_COUNT(good); i++) {
        EXPECT_OK(read_body(good[i].body, &call, &settings));
        EXPECT_NUM(settings.auth, good[i].auth);
        EXPECT_TEXT(settings.secret_file, good[i].file);
        EXPECT_TEXT(settings.role, good[i].role);
        EXPECT_TEXT(settings.option->name, "main");
        EXPECT(settings.secret == NULL);
        hpl_vault_settings_wipe(&settings);
    }
    for (size_t i = 0; i < HPL_COUNT(bad); i++) {
        call = (struct hpl_call){0};
        EXPECT_STATUS(read_body(bad[i], &call, &settings), HPL_INVALID_CONFIGURATION);
        EXPECT(call.detail[0] != '\0');
    }
}

HPL_TEST(a_wrong_body_is_refused_by_name)
{
    static const struct { const char *rest, *name; } bad[] = {
        {"\"auth_method\":{\"token\":\"x\"}", "address"},
        {"\"address\":\"ftp://v\",\"auth_method\":{\"token\":\"x\"}", "address"},
        {"\"address\":\"https://user:pw@v\",\"auth_method\":{\"token\":\"x\"}", "address"},
        {"\"address\":\"https://v?x=1\",\"auth_method\":{\"token\":\"x\"}", "address"},
        {"\"address\":\"http://vault.example.com:8200\",\"auth_method\":{\"token\":\"x\"}", "plain HTTP"},
        {"\"address\":\"http://127.0.0.1.evil.com\",\"auth_method\":{\"token\":\"x\"}", "plain HTTP"},
        {"\"address\":7,\"auth_method\":{\"token\":\"x\"}", "address"},
        {"\"address\":\"https://v\"", "auth_method"},
        {"\"address\":\"https://v\",\"auth_method\":{}", "auth_method"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\",\"approle\":{}}", "auth_method"},
        {"\"address\":\"https://v\",\"auth_method\":{\"ldap\":{}}", "ldap"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\\ny\"}", "token"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"\"}", "token"},
        {"\"address\":\"https://v\",\"auth_method\":{\"approle\":{\"secret_id\":\"s\"}}", "role_id"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"mount_path\":\"../sys\"", "mount_path"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"mount_path\":\"a//b\"", "mount_path"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"kv_mount\":\"a?b\"", "kv_mount"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"key_path_prefix\":\"a/./b\"", "key_path_prefix"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"namespace\":\"a\\r\\nX-Evil: 1\"", "namespace"},
        {"\"address\":\"https://v\",\"auth_method\":{\"token\":\"x\"},\"skip_tls_verify\":\"yes\"", "skip_tls_verify"},
    };
    for (size_t i = 0; i < HPL_COUNT(bad); i++) {
        struct hpl_call call = {0};
        struct hpl_vault_settings settings;
        char body[512];
        snprintf(body, sizeof body, "{\"backend_type\":\"vault\",%s}", bad[i].rest);
        enum hpl_status status = read_body(body, &call, &settings);
        EXPECT(status == HPL_INVALID_REQUEST || status == HPL_INVALID_CONFIGURATION);
        if (!strstr(call.detail, bad[i].name))
            fprintf(stderr, "\n    %s: '%s' is not named\n", call.detail, bad[i].name);
        EXPECT(strstr(call.detail, bad[i].name) != NULL);
        EXPECT(!strstr(call.detail, "pw@"));
    }
}

HPL_TEST(plain_http_goes_to_this_machine_or_where_the_local_file_allows_it)
{
    static const char *const addresses[] = {"http://127.0.0.1:8200", "http://localhost:8200", "http://[::1]:8200", "http://10.0.0.5:8200"};
    for (size_t i = 0; i < HPL_COUNT(addresses); i++) {
        struct hpl_call call = {0};
        struct hpl_vault_settings settings;
        char body[200];
        snprintf(body, sizeof body, "{\"backend_type\":\"vault\",\"address\":\"%s\",\"auth_method\":{\"token\":\"x\"}}", addresses[i]);
        EXPECT_OK(read_body(body, &call, &settings));
        EXPECT_TEXT(settings.address, addresses[i]);
        hpl_vault_settings_wipe(&settings);
    }
}

HPL_TEST(the_summary_shows_the_place_and_no_secret)
{
    json_t *HPL_JSON_AUTO config = parse("{\"backend_type\":\"vault\",\"address\":\"https://vault.example.com:8200\",\"auth_method\":{\"token\":\"s.XYZ\"}}");
    json_t *HPL_JSON_AUTO summary = hpl_vault_summary(config, &env);
    struct hpl_buf text = {0};
    EXPECT_OK(hpl_json_put(&text, summary));
    EXPECT_TEXT(json_string_value(json_object_get(summary, "address")), "https://vault.example.com:8200");
    EXPECT_TEXT(json_string_value(json_object_get(summary, "auth_method_type")), "token");
    EXPECT(json_is_null(json_object_get(summary, "namespace")));
    EXPECT(json_is_true(json_object_get(summary, "has_stored_credentials")));
    EXPECT(strstr(hpl_buf_text(&text), "s.XYZ") == NULL);
    hpl_buf_wipe(&text);
}

/* --- reconfigure ---------------------------------------------------------------------------------------------------------- */

static enum hpl_status merge(const char *body_text, struct hpl_call *call, json_t **out)
{
    const struct hpl_kms_options kms = kms_options();
    json_t *HPL_JSON_AUTO base = parse("{\"backend_type\":\"vault\",\"address\":\"https://v:8200\",\"auth_method\":{\"token\":\"s.XYZ\"},\"mount_path\":\"transit\"}");
    json_t *HPL_JSON_AUTO body = parse(body_text);
    return hpl_kms_normalise(call, &kms, body, base, out);
}

HPL_TEST(stored_secrets_are_not_sent_to_another_place)
{
    static const char *const refused[] = {
        "{\"address\":\"https://evil:8200\"}", "{\"backend_type\":\"vault\",\"namespace\":\"other\"}", "{\"skip_tls_verify\":true}", "{\"vault\":\"ca-only\"}",
        "{\"address\":\"https://evil:8200\",\"auth_method\":{\"Token\":{\"token\":\"\"}}}", "{\"vault_address\":\"https://evil:8200\"}",
    };
    static const char *const taken[] = {
        "{\"address\":\"https://new:8200\",\"auth_method\":{\"token\":\"new\"}}", "{\"address\":\"https://v:8200\"}", "{\"cache_ttl_seconds\":60}", "{\"auth_method\":{\"token\":\"new\"}}",
    };
    for (size_t i = 0; i < HPL_COUNT(refused); i++) {
        json_t *HPL_JSON_AUTO whole = NULL;
        struct hpl_call call = {0};
        EXPECT_STATUS(merge(refused[i], &call, &whole), HPL_INVALID_REQUEST);
        EXPECT(strstr(call.detail, "auth_method") != NULL);
    }
    for (size_t i = 0; i < HPL_COUNT(taken); i++) {
        json_t *HPL_JSON_AUTO whole = NULL;
        struct hpl_call call = {0};
        EXPECT_OK(merge(taken[i], &call, &whole));
    }
}

HPL_TEST(half_an_older_login_is_refused_and_a_blank_one_is_none)
{
    static const struct { const char *body, *method; } taken[] = {
        {"{\"vault_token\":\"new\",\"vault_app_role_id\":\"\",\"vault_app_role_secret_id\":\"\"}", "{\"token\":\"new\"}"},
        {"{\"vault_token\":\"new\",\"vault_app_role_id\":\"r\"}", "{\"token\":\"new\"}"},
        {"{\"vault_token\":\"new\",\"vault_app_role_id\":\"r\",\"vault_app_role_secret_id\":\"s\"}", "{\"approle\":{\"role_id\":\"r\",\"secret_id\":\"s\"}}"},
        {"{\"vault_token\":\"\",\"vault_app_role_id\":\"\"}", "{\"token\":\"s.XYZ\"}"},
        {"{\"vault_token\":\"new\",\"auth_method\":{\"token\":\"new\"}}", "{\"token\":\"new\"}"},
    };
    static const char *const refused[] = {"{\"vault_app_role_secret_id\":\"s\"}", "{\"vault_app_role_id\":\"r\",\"vault_token\":\"\"}",
                                          "{\"vault_token\":\"new\",\"auth_method\":{\"token\":\"another\"}}"};
    for (size_t i = 0; i < HPL_COUNT(taken); i++) {
        json_t *HPL_JSON_AUTO whole = NULL;
        json_t *HPL_JSON_AUTO method = parse(taken[i].method);
        struct hpl_call call = {0};
        EXPECT_OK(merge(taken[i].body, &call, &whole));
        EXPECT(json_equal(json_object_get(whole, "auth_method"), method));
    }
    for (size_t i = 0; i < HPL_COUNT(refused); i++) {
        json_t *HPL_JSON_AUTO whole = NULL;
        struct hpl_call call = {0};
        EXPECT(merge(refused[i], &call, &whole) != HPL_OK);
        EXPECT(strstr(call.detail, "vault_") && !strstr(call.detail, "another"));
    }
}

HPL_TEST(a_blank_token_keeps_the_stored_one)
{
    json_t *HPL_JSON_AUTO whole = NULL;
    struct hpl_call call = {0};
    EXPECT_OK(merge("{\"backend_type\":\"VaultTransit\",\"address\":\"https://v:8200\",\"auth_method\":{\"Token\":{\"token\":\"\"}},\"timeout_seconds\":20}", &call, &whole));
    EXPECT_TEXT(json_string_value(json_object_get(json_object_get(whole, "auth_method"), "token")), "s.XYZ");
}

/* --- names ---------------------------------------------------------------------------------------------------------------- */

static void expect_name(const char *key_id, const char *name)
{
    char made[HPL_VAULT_NAME_MAX], back[HPL_KEY_ID_MAX + 1];
    hpl_vault_record_name(made, key_id);
    EXPECT_TEXT(made, name);
    EXPECT(hpl_vault_record_id(back, made));
    EXPECT_TEXT(back, key_id);
}

HPL_TEST(a_key_id_becomes_one_segment_and_comes_back)
{
    expect_name("app-default_1", "app-default_1");
    expect_name("../../etc", "~2e~2e~2f~2e~2e~2fetc");
    expect_name(".", "~2e");
    expect_name("~41", "~7e41");
    expect_name("a b?c#d%e", "a~20b~3fc~23d~25e");
    expect_name("\xc3\xbc", "~c3~bc");
}

HPL_TEST(a_long_key_id_becomes_a_digest_and_no_two_ids_share_a_name)
{
    char one[HPL_KEY_ID_MAX + 1], two[HPL_KEY_ID_MAX + 1], name_one[HPL_VAULT_NAME_MAX], name_two[HPL_VAULT_NAME_MAX], back[HPL_KEY_ID_MAX + 1];
    memset(one, 'x', HPL_KEY_ID_MAX);
    one[HPL_KEY_ID_MAX] = '\0';
    memcpy(two, one, sizeof two);
    two[HPL_KEY_ID_MAX - 1] = 'y';
    hpl_vault_record_name(name_one, one);
    hpl_vault_record_name(name_two, two);
    EXPECT(strcmp(name_one, name_two) != 0);
    EXPECT_NUM(strlen(name_one), 66);
    EXPECT(!hpl_vault_record_id(back, name_one));
    for (size_t len = 1; len <= HPL_KEY_ID_MAX; len++) {
        memset(one, '/', len);
        one[len] = '\0';
        hpl_vault_record_name(name_one, one);
        EXPECT(strlen(name_one) < HPL_VAULT_NAME_MAX);
        EXPECT(strchr(name_one, '/') == NULL);
        EXPECT(hpl_vault_record_id(back, name_one) == (len <= 40));
    }
}

HPL_TEST(names_that_no_key_id_has_are_not_read_as_one)
{
    static const char *const names[] = {"", "~", "~4", "~zz", "~41", "a.b", "~00", "~2E", "a/b", "sub/"};
    char key_id[HPL_KEY_ID_MAX + 1];
    for (size_t i = 0; i < HPL_COUNT(names); i++)
        EXPECT(!hpl_vault_record_id(key_id, names[i]));
}

HPL_TEST(only_word_characters_name_a_transit_key)
{
    static const char *const good[] = {"rustfs-master", "a", "A.b_c-9", "_x", "hpl-probe2", "hpl-0123"};
    static const char *const bad[] = {"", "-a", "a-", ".a", "a.", "a..b", "a/b", "\xc3\xbc", "a b", "hpl-0123456789abcdef0123456789abcdef"};
    for (size_t i = 0; i < HPL_COUNT(good); i++)
        EXPECT(hpl_vault_is_transit_name(good[i]));
    for (size_t i = 0; i < HPL_COUNT(bad); i++)
        EXPECT(!hpl_vault_is_transit_name(bad[i]));
}

/* --- answers -------------------------------------------------------------------------------------------------------------- */

HPL_TEST(a_ciphertext_of_another_version_or_length_is_not_taken)
{
    static const char raw[] = "vault:v3:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    struct hpl_wrapped wrapped;
    struct hpl_call call = {0};
    char text[300];
    snprintf(text, sizeof text, "{\"ciphertext\":\"%s\"}", raw);
    json_t *HPL_JSON_AUTO answer = parse(text);
    EXPECT_OK(hpl_vault_read_wrapped(&call, answer, 3, 31, &wrapped));
    EXPECT_NUM(wrapped.ct_len, 59);
    EXPECT_STATUS(hpl_vault_read_wrapped(&call, answer, 2, 31, &wrapped), HPL_BACKEND);
    EXPECT_STATUS(hpl_vault_read_wrapped(&call, answer, 3, 32, &wrapped), HPL_BACKEND);
    json_t *HPL_JSON_AUTO other = parse("{\"ciphertext\":\"vault:v3:A A=\"}");
    EXPECT_STATUS(hpl_vault_read_wrapped(&call, other, 3, 32, &wrapped), HPL_BACKEND);
    json_t *HPL_JSON_AUTO none = parse("{\"ciphertext\":[]}");
    EXPECT_STATUS(hpl_vault_read_wrapped(&call, none, 3, 32, &wrapped), HPL_BACKEND);
}

/* --- documents ------------------------------------------------------------------------------------------------------------ */

static struct hpl_vault document_vault(void)
{
    struct hpl_vault vault = {.settings = {.kv_mount = "secret", .prefix = "p"}};
    vault.mac_key = hpl_secret_new(32);
    EXPECT(vault.mac_key != NULL);
    memset(vault.mac_key->bytes, 7, 32);
    return vault;
}

/* What KV answers for the record of key "app" at version 3, its MAC made as backends/vault/README.md says; one member may differ from what was sealed. */
static json_t *document_answer(const struct hpl_vault *vault, const char *id, const char *content, int version)
{
    static const char kind[] = "record", sealed_id[] = "app", sealed_content[] = "{\"state\":\"pending\"}";
    uint8_t mac[32], uid[HPL_KEY_UID_LEN] = {1, 2, 3};
    char hex[2 * HPL_KEY_UID_LEN + 1];
    struct hpl_buf text = {0}, base64 = {0};
    hpl_buf_put_lp16(&text, hpl_bytes_str(kind));
    hpl_buf_put_lp16(&text, hpl_bytes_str(sealed_id));
    hpl_buf_put(&text, uid, sizeof uid);
    hpl_buf_put_u64(&text, 3);
    hpl_buf_put_lp32(&text, hpl_bytes_str(sealed_content));
    hpl_hmac_sha256(mac, vault->mac_key->bytes, vault->mac_key->len, text.data, text.len);
    hpl_hex_encode(hex, uid, sizeof uid);
    hpl_base64_put(&base64, mac, sizeof mac);
    json_t *answer = json_pack("{s:{s:{s:s, s:s, s:s, s:s%}, s:{s:i}}}", "data", "data", "id", id ? id : sealed_id, "uid", hex, "content",
                               content ? content : sealed_content, "mac", (const char *)base64.data, base64.len, "metadata", "version", version);
    hpl_buf_wipe(&text);
    hpl_buf_wipe(&base64);
    return answer;
}

static enum hpl_status read_document(const struct hpl_vault *vault, const char *kind, json_t *answer)
{
    struct hpl_call call = {0};
    struct hpl_vault_document document = {.kind = kind};
    enum hpl_status status = hpl_vault_document_read(&call, vault, "secret/data/p/record/app", answer, &document);
    hpl_vault_document_wipe(&document);
    json_decref(answer);
    return status;
}

HPL_TEST(a_document_is_taken_whole_or_not_at_all)
{
    struct hpl_vault vault = document_vault();
    EXPECT_OK(read_document(&vault, "record", document_answer(&vault, NULL, NULL, 3)));
    EXPECT_STATUS(read_document(&vault, "record", document_answer(&vault, "other", NULL, 3)), HPL_INTEGRITY);
    EXPECT_STATUS(read_document(&vault, "record", document_answer(&vault, NULL, "{\"state\":\"enabled\"}", 3)), HPL_INTEGRITY);
    EXPECT_STATUS(read_document(&vault, "record", document_answer(&vault, NULL, NULL, 4)), HPL_INTEGRITY); /* an old one written again */
    EXPECT_STATUS(read_document(&vault, "uid", document_answer(&vault, NULL, NULL, 3)), HPL_INTEGRITY);
    json_t *answer = document_answer(&vault, NULL, NULL, 3);
    vault.mac_key->bytes[0] ^= 1; /* another root secret */
    EXPECT_STATUS(read_document(&vault, "record", answer), HPL_INTEGRITY);
    EXPECT_STATUS(read_document(&vault, "record", parse("{\"data\":{\"data\":{\"x\":1},\"metadata\":{\"version\":1}}}")), HPL_INTEGRITY);
    EXPECT_STATUS(read_document(&vault, "record", parse("{\"data\":{\"data\":{\"x\":1}}}")), HPL_BACKEND); /* KV of version 1 */
    hpl_secret_free(vault.mac_key);
}

/* --- destroying, in a real OpenBao -------------------------------------------------------------------------------------------- */

static int ask_bao(const char *verb, const uint8_t uid[static HPL_KEY_UID_LEN], const char *tail)
{
    char hex[2 * HPL_KEY_UID_LEN + 1], arguments[128];
    hpl_hex_encode(hex, uid, HPL_KEY_UID_LEN);
    snprintf(arguments, sizeof arguments, "%s transit/keys/hpl-%s%s", verb, hex, tail);
    return openbao_run(arguments);
}

HPL_TEST(a_key_that_vault_rotated_by_itself_goes_with_the_last_version_that_was_made_of_it)
{
    struct hpl_call call = {0};
    uint8_t uid[HPL_KEY_UID_LEN];
    struct hpl_keystore *keystore = open_openbao();
    if (!keystore)
        return;
    for (uint32_t made = 1; made <= 2; made++) {
        struct hpl_wrapped wrapped;
        struct hpl_secret *HPL_SECRET_AUTO secret = hpl_secret_random(32), *HPL_SECRET_AUTO opened = NULL;
        static const uint8_t aad[HPL_WRAP_AAD_LEN];
        hpl_uuid_new(uid);
        for (uint32_t version = 1; version <= made; version++)
            EXPECT_OK(keystore->ops->create_version(keystore, &call, uid, version));
        EXPECT_OK(keystore->ops->wrap(keystore, &call, uid, 1, aad, secret, &wrapped));
        for (int i = 0; i < 3; i++) /* as its auto_rotate_period does */
            EXPECT_NUM(ask_bao("write -f", uid, "/rotate"), 0);
        for (uint32_t version = made + 1; version > 1; version--)
            EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, version));
        EXPECT_OK(keystore->ops->unwrap(keystore, &call, uid, 1, aad, &wrapped, &opened));
        EXPECT_NUM(ask_bao("read", uid, ""), 0);
        EXPECT_OK(keystore->ops->destroy_version(keystore, &call, uid, 1));
        EXPECT(ask_bao("read", uid, "") != 0);
    }
    keystore->ops->close(keystore);
}
