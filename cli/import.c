/* A master key made of material from outside: encrypted here to the daemon's wrapping key, so that it never travels in the clear. One thread. */
#include <stdio.h>
#include <string.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "base/codec.h"
#include "cli/commands.h"

#define ALGORITHM "RSAES_OAEP_SHA_256"

/* RSAES-OAEP (RFC 8017 section 7.1) with SHA-256 for label and MGF1. */
static enum hpl_status encrypt_to(struct hpl_call *call, EVP_PKEY *public_key, const struct hpl_secret *material, struct hpl_buf *out)
{
    uint8_t room[1024];
    size_t len = sizeof room;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new(public_key, NULL);
    bool is_well = ctx && EVP_PKEY_get_size(public_key) <= (int)sizeof room && EVP_PKEY_encrypt_init(ctx) == 1 &&
                   EVP_PKEY_CTX_set_rsa_padding(ctx, RSA_PKCS1_OAEP_PADDING) == 1 && EVP_PKEY_CTX_set_rsa_oaep_md(ctx, EVP_sha256()) == 1 &&
                   EVP_PKEY_CTX_set_rsa_mgf1_md(ctx, EVP_sha256()) == 1 && EVP_PKEY_encrypt(ctx, room, &len, material->bytes, material->len) == 1;
    EVP_PKEY_CTX_free(ctx);
    if (!is_well)
        return hpl_fail(call, HPL_INTERNAL, "the material cannot be encrypted to the daemon's wrapping key");
    hpl_base64_put(out, room, len);
    return hpl_buf_check(out);
}

/* With the wrapping key of the daemon's answer; anything but what this program knows how to use is refused. */
static enum hpl_status wrap_for(struct hpl_call *call, const json_t *parameters, const struct hpl_secret *material, struct hpl_buf *out)
{
    const char *text = json_string_value(json_object_get(parameters, "public_key")),
               *algorithm = json_string_value(json_object_get(parameters, "wrapping_algorithm"));
    struct hpl_buf der = {0};
    if (!text || !algorithm || strcmp(algorithm, ALGORITHM) != 0 || !hpl_base64_decode(&der, text, strlen(text)))
        return hpl_fail(call, HPL_INTEGRITY, "the daemon offers no wrapping key for " ALGORITHM);
    const unsigned char *at = der.data;
    EVP_PKEY *public_key = d2i_PUBKEY(NULL, &at, (long)der.len);
    bool is_right = public_key && EVP_PKEY_is_a(public_key, "RSA") && EVP_PKEY_get_bits(public_key) >= 3072;
    enum hpl_status status = is_right ? encrypt_to(call, public_key, material, out)
                                      : hpl_fail(call, HPL_INTEGRITY, "the daemon's wrapping key is not an RSA key of 3072 bits or more");
    EVP_PKEY_free(public_key);
    hpl_buf_wipe(&der);
    return status;
}

static enum hpl_exit import(const struct hpl_client *client, json_t *body, const char *path)
{
    struct hpl_call call = {0};
    struct hpl_secret *HPL_SECRET_AUTO material = NULL;
    struct hpl_buf encrypted = {0};
    json_t *HPL_JSON_AUTO parameters = NULL;
    enum hpl_status status = hpl_secret_init(&call, HPL_CLI_SECRETS_LEN, HPL_SECRET_MUST_LOCK);
    if (status == HPL_OK)
        status = hpl_cli_read_key_file(&call, path, &material);
    if (status != HPL_OK)
        return hpl_cli_failed(&call, status);
    enum hpl_exit code = hpl_client_ask(client, "GET", "kms/keys/import-parameters", "", NULL, &parameters);
    if (code != HPL_EXIT_DONE)
        return code;
    status = wrap_for(&call, parameters, material, &encrypted);
    if (status == HPL_OK)
        json_object_set_new(body, "encrypted_key_material", json_stringn((const char *)encrypted.data, encrypted.len));
    hpl_buf_wipe(&encrypted);
    return status == HPL_OK ? hpl_cli_ask_and_print(client, "POST", "kms/keys/import", "", body, hpl_cli_show_key) : hpl_cli_failed(&call, status);
}

enum hpl_exit hpl_cli_keys_import(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"description", required_argument, NULL, 'd'}, {"tag", required_argument, NULL, 't'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option == 'd')
            json_object_set_new(body, "description", json_string(optarg));
        else if (option != 't' || !hpl_cli_add_pair(body, "tags", optarg))
            return hpl_cli_usage_error(client, option == 't' ? "a tag is written NAME=VALUE, each name once" : "an option is not understood");
    if (optind + 2 != argc)
        return hpl_cli_usage_error(client, "the new key's id and a file with its 32 bytes are wanted");
    json_object_set_new(body, "key_id", json_string(argv[optind]));
    return import(client, body, argv[optind + 1]);
}
