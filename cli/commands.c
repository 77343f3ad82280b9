/* The sub-commands. One thread. */
#include "cli/commands.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"

enum hpl_exit hpl_cli_usage_error(const char *what)
{
    fprintf(stderr, "hardplate: %s; see hardplate --help\n", what);
    return HPL_EXIT_USAGE;
}

/* As it came with --json; otherwise by show. Takes answer. */
static enum hpl_exit print(const struct hpl_client *client, json_t *answer, void (*show)(const json_t *answer))
{
    if (client->is_json) {
        struct hpl_buf text = {0};
        if (hpl_json_put(&text, answer) == HPL_OK)
            printf("%s\n", hpl_buf_text(&text));
        hpl_buf_wipe(&text);
    } else
        show(answer);
    json_decref(answer);
    return fflush(stdout) == 0 ? HPL_EXIT_DONE : HPL_EXIT_FAILED;
}

static const char *text_of(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "-";
}

static const char *yes_no(const json_t *object, const char *name)
{
    return json_is_true(json_object_get(object, name)) ? "yes" : "no";
}

static void show_status(const json_t *answer)
{
    const json_t *summary = json_object_get(answer, "config_summary"), *details = json_object_get(answer, "details");
    const char *name;
    json_t *value;
    printf("%-16s %s\n", "status", text_of(answer, "status"));
    printf("%-16s %s\n", "health", text_of(answer, "health"));
    printf("%-16s %s\n", "backend", text_of(answer, "backend_type"));
    printf("%-16s %s\n", "default key", text_of(summary, "default_key_id"));
    json_object_foreach((json_t *)details, name, value)
    {
        if (json_is_string(value))
            printf("%-16s %s\n", name, json_string_value(value));
        else if (json_is_integer(value))
            printf("%-16s %lld\n", name, (long long)json_integer_value(value));
    }
}

enum hpl_exit hpl_cli_status(const struct hpl_client *client, int argc, char **argv)
{
    json_t *answer = NULL;
    (void)argv;
    if (argc > 1)
        return hpl_cli_usage_error("status takes no arguments");
    enum hpl_exit code = hpl_client_ask(client, "GET", "kms/status", "", NULL, &answer);
    return code == HPL_EXIT_DONE ? print(client, answer, show_status) : code;
}

static void show_key(const json_t *answer)
{
    const json_t *metadata = json_object_get(answer, "key_metadata");
    printf("%-14s %s\n", "key", text_of(metadata, "key_id"));
    printf("%-14s %s\n", "description", text_of(metadata, "description"));
    printf("%-14s %s\n", "state", text_of(metadata, "key_state"));
    printf("%-14s %s\n", "enabled", yes_no(metadata, "enabled"));
    printf("%-14s %s\n", "usage", text_of(metadata, "key_usage"));
    printf("%-14s %s\n", "created", text_of(metadata, "creation_date"));
    if (json_is_string(json_object_get(metadata, "deletion_date")))
        printf("%-14s %s\n", "destroyed on", text_of(metadata, "deletion_date"));
}

enum hpl_exit hpl_cli_keys_create(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"name", required_argument, NULL, 'n'}, {"description", required_argument, NULL, 'd'}, {0}};
    json_t *HPL_JSON_AUTO body = json_pack("{s:s}", "KeyUsage", "ENCRYPT_DECRYPT");
    json_t *answer = NULL;
    int option;
    optind = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1)
        switch (option) {
        case 'n': json_object_set_new(body, "Tags", json_pack("{s:s}", "name", optarg)); break;
        case 'd': json_object_set_new(body, "Description", json_string(optarg)); break;
        default: return hpl_cli_usage_error("keys create takes [--name ID] [--description TEXT]");
        }
    if (optind < argc)
        return hpl_cli_usage_error("keys create takes [--name ID] [--description TEXT]");
    enum hpl_exit code = hpl_client_ask(client, "POST", "kms/keys", "", body, &answer);
    return code == HPL_EXIT_DONE ? print(client, answer, show_key) : code;
}

static void show_keys(const json_t *answer)
{
    size_t i;
    json_t *row;
    printf("%-40s %s\n", "KEY", "DESCRIPTION");
    json_array_foreach(json_object_get(answer, "keys"), i, row)
        printf("%-40s %s\n", text_of(row, "key_id"), text_of(row, "description"));
}

/* Every page, joined, so that --json too shows all. */
enum hpl_exit hpl_cli_keys_list(const struct hpl_client *client, int argc, char **argv)
{
    json_t *HPL_JSON_AUTO all = json_array();
    struct hpl_buf query = {0};
    enum hpl_exit code = HPL_EXIT_DONE;
    (void)argv;
    if (argc > 1)
        return hpl_cli_usage_error("keys list takes no arguments");
    hpl_buf_put_str(&query, "limit=1000");
    for (bool is_more = true; is_more && code == HPL_EXIT_DONE;) {
        json_t *HPL_JSON_AUTO page = NULL;
        code = hpl_client_ask(client, "GET", "kms/keys", hpl_buf_text(&query), NULL, &page);
        json_array_extend(all, json_object_get(page, "keys"));
        const char *next = json_string_value(json_object_get(page, "next_marker"));
        is_more = next != NULL;
        query.len = 0;
        hpl_buf_put_str(&query, "limit=1000&marker=");
        if (next)
            hpl_uri_put(&query, hpl_bytes_str(next), false);
    }
    hpl_buf_wipe(&query);
    return code == HPL_EXIT_DONE ? print(client, json_pack("{s:O}", "keys", all), show_keys) : code;
}

enum hpl_exit hpl_cli_keys_describe(const struct hpl_client *client, int argc, char **argv)
{
    json_t *answer = NULL;
    struct hpl_buf path = {0};
    if (argc != 2)
        return hpl_cli_usage_error("keys describe takes one key id");
    hpl_buf_put_str(&path, "kms/keys/");
    hpl_uri_put(&path, hpl_bytes_str(argv[1]), false);
    enum hpl_exit code = hpl_client_ask(client, "GET", hpl_buf_text(&path), "", NULL, &answer);
    hpl_buf_wipe(&path);
    return code == HPL_EXIT_DONE ? print(client, answer, show_key) : code;
}

bool hpl_cli_add_context(json_t *body, const char *pair)
{
    const char *equals = strchr(pair, '=');
    json_t *context = json_object_get(body, "encryption_context");
    if (!equals || equals == pair)
        return false;
    if (!context) {
        context = json_object();
        json_object_set_new(body, "encryption_context", context);
    }
    char *name = strndup(pair, (size_t)(equals - pair));
    bool is_set = name && !json_object_get(context, name) && json_object_set_new(context, name, json_string(equals + 1)) == 0;
    free(name);
    return is_set;
}

static void show_data_key(const json_t *answer)
{
    printf("%-16s %s\n", "key", text_of(answer, "key_id"));
    printf("%-16s %s\n", "plaintext key", text_of(answer, "plaintext_key"));
    if (json_object_get(answer, "ciphertext_blob"))
        printf("%-16s %s\n", "ciphertext blob", text_of(answer, "ciphertext_blob"));
}

enum hpl_exit hpl_cli_data_key(const struct hpl_client *client, int argc, char **argv)
{
    static const char wanted[] = "data-key takes [--key ID] [--spec AES_256|AES_128] [--context NAME=VALUE]...";
    static const struct option longs[] = {{"key", required_argument, NULL, 'k'}, {"spec", required_argument, NULL, 's'},
                                          {"context", required_argument, NULL, 'c'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    json_t *answer = NULL;
    int option;
    optind = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (option == 'k')
            json_object_set_new(body, "key_id", json_string(optarg));
        else if (option == 's')
            json_object_set_new(body, "key_spec", json_string(optarg));
        else if (option != 'c' || !hpl_cli_add_context(body, optarg))
            return hpl_cli_usage_error(wanted);
    if (optind < argc)
        return hpl_cli_usage_error(wanted);
    enum hpl_exit code = hpl_client_ask(client, "POST", "kms/generate-data-key", "", body, &answer);
    return code == HPL_EXIT_DONE ? print(client, answer, show_data_key) : code;
}

/* The blob as given, or the first line of standard input for "-". */
static json_t *read_blob(const char *given)
{
    char line[8192];
    if (strcmp(given, "-") != 0)
        return json_string(given);
    if (!fgets(line, sizeof line, stdin))
        return NULL;
    line[strcspn(line, "\r\n")] = '\0';
    return json_string(line);
}

enum hpl_exit hpl_cli_decrypt(const struct hpl_client *client, int argc, char **argv)
{
    static const char wanted[] = "decrypt takes [--context NAME=VALUE]... BLOB, or - to read it from standard input";
    static const struct option longs[] = {{"context", required_argument, NULL, 'c'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    json_t *answer = NULL;
    int option;
    optind = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (option != 'c' || !hpl_cli_add_context(body, optarg))
            return hpl_cli_usage_error(wanted);
    json_t *blob = optind + 1 == argc ? read_blob(argv[optind]) : NULL;
    if (!blob)
        return hpl_cli_usage_error(wanted);
    json_object_set_new(body, "ciphertext_blob", blob);
    enum hpl_exit code = hpl_client_ask(client, "POST", "kms/decrypt", "", body, &answer);
    return code == HPL_EXIT_DONE ? print(client, answer, show_data_key) : code;
}
