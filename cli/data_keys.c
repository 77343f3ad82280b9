/* Data keys by hand: made, unwrapped, rewrapped. Their bytes are printed, so they are for scripts and for trying things. One thread. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

static void show_data_key(const json_t *answer)
{
    hpl_cli_show_member("key", json_object_get(answer, "key_id"), 0);
    hpl_cli_show_member("plaintext key", json_object_get(answer, "plaintext_key"), 0);
    hpl_cli_show_member("ciphertext blob", json_object_get(answer, "ciphertext_blob"), 0);
}

/* A pair of lines for each, a blank line between two. */
static void show_data_keys(const json_t *answer)
{
    size_t i;
    json_t *one;
    hpl_cli_show_member("key", json_object_get(answer, "key_id"), 0);
    json_array_foreach(json_object_get(answer, "data_keys"), i, one)
    {
        puts("");
        show_data_key(one);
    }
}

enum hpl_exit hpl_cli_data_key(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"key", required_argument, NULL, 'k'}, {"spec", required_argument, NULL, 's'},
                                          {"context", required_argument, NULL, 'c'}, {"count", required_argument, NULL, 'n'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        switch (option) {
        case 'k': json_object_set_new(body, "key_id", json_string(optarg)); break;
        case 's': json_object_set_new(body, "key_spec", json_string(optarg)); break;
        case 'c':
            if (!hpl_cli_add_pair(body, "encryption_context", optarg))
                return hpl_cli_usage_error(client, "a context is written NAME=VALUE, each name once");
            break;
        case 'n':
            if (!hpl_cli_add_number(body, "count", optarg, 1, 64))
                return hpl_cli_usage_error(client, "--count takes a number from 1 to 64");
            break;
        default: return hpl_cli_usage_error(client, "an option is not understood");
        }
    if (optind < argc)
        return hpl_cli_usage_error(client, "only options are taken");
    bool is_many = json_object_get(body, "count") != NULL;
    return hpl_cli_ask_and_print(client, "POST", is_many ? "kms/generate-data-keys" : "kms/generate-data-key", "", body,
                                 is_many ? show_data_keys : show_data_key);
}

enum hpl_exit hpl_cli_decrypt(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"context", required_argument, NULL, 'c'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option != 'c' || !hpl_cli_add_pair(body, "encryption_context", optarg))
            return hpl_cli_usage_error(client, "a context is written NAME=VALUE, each name once");
    json_t *blob = optind + 1 == argc ? hpl_cli_read_blob(argv[optind]) : NULL;
    if (!blob)
        return hpl_cli_usage_error(client, "one blob is wanted, or - to read it from standard input");
    json_object_set_new(body, "ciphertext_blob", blob);
    return hpl_cli_ask_and_print(client, "POST", "kms/decrypt", "", body, show_data_key);
}

static void show_rewrapped(const json_t *answer)
{
    hpl_cli_show_member("key", json_object_get(answer, "key_id"), 0);
    hpl_cli_show_member("version", json_object_get(answer, "version"), 0);
    hpl_cli_show_member("ciphertext blob", json_object_get(answer, "ciphertext_b64"), 0);
}

enum hpl_exit hpl_cli_rewrap(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"context", required_argument, NULL, 'c'}, {"key", required_argument, NULL, 'k'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option == 'k')
            json_object_set_new(body, "key_id", json_string(optarg));
        else if (option != 'c' || !hpl_cli_add_pair(body, "context", optarg))
            return hpl_cli_usage_error(client, option == 'c' ? "a context is written NAME=VALUE, each name once" : "an option is not understood");
    json_t *blob = optind + 1 == argc ? hpl_cli_read_blob(argv[optind]) : NULL;
    if (!blob)
        return hpl_cli_usage_error(client, "one blob is wanted, or - to read it from standard input");
    json_object_set_new(body, "ciphertext_b64", blob);
    return hpl_cli_ask_and_print(client, "POST", "kms/rewrap", "", body, show_rewrapped);
}
