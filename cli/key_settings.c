/* What is set on a master key once it is there: description, tags, rotation, policy. One thread. */
#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "cli/commands.h"

enum hpl_exit hpl_cli_keys_update(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"description", required_argument, NULL, 'd'}, {0}};
    const char *description = NULL;
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        description = option == 'd' ? optarg : NULL;
    if (optind + 1 != argc || !description)
        return hpl_cli_usage_error(client, "one key id and --description are wanted");
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:s}", "key_id", argv[optind], "description", description);
    return hpl_cli_ask_and_print(client, "POST", "kms/keys/update-description", "", body, hpl_cli_show_key);
}

enum hpl_exit hpl_cli_keys_tag(const struct hpl_client *client, int argc, char **argv)
{
    if (argc < 3)
        return hpl_cli_usage_error(client, "one key id and at least one NAME=VALUE are wanted");
    json_t *HPL_JSON_AUTO body = json_pack("{s:s}", "key_id", argv[1]);
    for (int i = 2; i < argc; i++)
        if (!hpl_cli_add_pair(body, "tags", argv[i]))
            return hpl_cli_usage_error(client, "a tag is written NAME=VALUE, each name once");
    return hpl_cli_ask_and_print(client, "POST", "kms/keys/tag", "", body, hpl_cli_show_key);
}

enum hpl_exit hpl_cli_keys_untag(const struct hpl_client *client, int argc, char **argv)
{
    if (argc < 3)
        return hpl_cli_usage_error(client, "one key id and at least one tag's name are wanted");
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:[]}", "key_id", argv[1], "tag_keys");
    for (int i = 2; i < argc; i++)
        json_array_append_new(json_object_get(body, "tag_keys"), json_string(argv[i]));
    return hpl_cli_ask_and_print(client, "POST", "kms/keys/untag", "", body, hpl_cli_show_key);
}

enum hpl_exit hpl_cli_keys_rotation(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"days", required_argument, NULL, 'd'}, {"wraps", required_argument, NULL, 'w'}, {"off", no_argument, NULL, 'o'}, {0}};
    json_t *HPL_JSON_AUTO body = json_pack("{s:b}", "enabled", 1);
    bool started = false, is_right = true;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        switch (option) {
        case 'd': is_right = is_right && hpl_cli_add_number(body, "period_days", optarg, 1, 3650); break;
        case 'w': is_right = is_right && hpl_cli_add_number(body, "max_wraps", optarg, 1, 1ll << 32); break;
        case 'o': json_object_set_new(body, "enabled", json_false()); break;
        default: is_right = false;
        }
    bool is_off = json_is_false(json_object_get(body, "enabled"));
    if (!is_right || optind + 1 != argc || is_off == (json_object_size(body) > 1))
        return hpl_cli_usage_error(client, "one key id and --days (1 to 3650), --wraps (1 to 4294967296) or both are wanted, or --off alone");
    json_object_set_new(body, "key_id", json_string(argv[optind]));
    return hpl_cli_ask_and_print(client, "PUT", "kms/keys/rotation", "", body, hpl_cli_show_key);
}

/* The whole of it each time: what is not said is off. */
enum hpl_exit hpl_cli_keys_caching(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"decrypt-seconds", required_argument, NULL, 's'}, {"decrypt-uses", required_argument, NULL, 'u'},
                                          {"bucket-key", no_argument, NULL, 'b'},            {"bucket-minutes", required_argument, NULL, 'm'},
                                          {"bucket-objects", required_argument, NULL, 'o'},  {"outage-seconds", required_argument, NULL, 'x'},
                                          {"off", no_argument, NULL, 'f'},                   {0}};
    json_t *HPL_JSON_AUTO body = json_object(), *HPL_JSON_AUTO outage = json_object();
    bool started = false, is_right = true, is_off = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        switch (option) {
        case 's': is_right = is_right && hpl_cli_add_number(body, "decrypt_seconds", optarg, 0, 60); break;
        case 'u': is_right = is_right && hpl_cli_add_number(body, "decrypt_uses", optarg, 1, 1000); break;
        case 'b': json_object_set_new(body, "bucket_key", json_true()); break;
        case 'm': is_right = is_right && hpl_cli_add_number(body, "bucket_key_minutes", optarg, 1, 15); break;
        case 'o': is_right = is_right && hpl_cli_add_number(body, "bucket_key_objects", optarg, 1, 1 << 20); break;
        case 'x': is_right = is_right && hpl_cli_add_number(outage, "cache_seconds", optarg, 1, 3600); break;
        case 'f': is_off = true; break;
        default: is_right = false;
        }
    if (json_object_size(outage))
        json_object_set(body, "outage", outage);
    if (!is_right || optind + 1 != argc || is_off == (json_object_size(body) > 0))
        return hpl_cli_usage_error(client, "one key id and what to cache are wanted, or --off alone");
    json_object_set_new(body, "key_id", json_string(argv[optind]));
    return hpl_cli_ask_and_print(client, "PUT", "kms/keys/caching", "", body, hpl_cli_show_key);
}

/* --- policy -------------------------------------------------------------------------------------------------------------------- */

/* As 'keys policy set' reads it. */
static void show_policy(const json_t *answer)
{
    const json_t *policy = json_object_get(answer, "policy");
    if (json_is_object(policy) && json_dumpf(policy, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII) == 0)
        puts("");
    else
        puts("none: whoever the account's rules let in may use the key");
}

enum hpl_exit hpl_cli_keys_policy_get(const struct hpl_client *client, int argc, char **argv)
{
    struct hpl_buf query = {0};
    if (argc != 2)
        return hpl_cli_usage_error(client, "one key id is wanted");
    hpl_buf_put_str(&query, "key_id=");
    hpl_uri_put(&query, hpl_bytes_str(argv[1]), false);
    json_t *answer = NULL;
    enum hpl_exit code = hpl_client_ask(client, "GET", "kms/keys/policy", hpl_buf_text(&query), NULL, &answer);
    hpl_buf_wipe(&query);
    if (code != HPL_EXIT_DONE)
        return code;
    if (client->is_json)
        return hpl_cli_print(client, answer, NULL);
    show_policy(answer); /* JSON escapes by itself, and must come back as it went */
    json_decref(answer);
    return HPL_EXIT_DONE;
}

enum hpl_exit hpl_cli_keys_policy_set(const struct hpl_client *client, int argc, char **argv)
{
    json_t *policy = NULL;
    if (argc != 3)
        return hpl_cli_usage_error(client, "one key id and one JSON file are wanted, or - for standard input");
    enum hpl_exit code = hpl_cli_read_object(argv[2], &policy);
    if (code != HPL_EXIT_DONE)
        return code;
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:o}", "key_id", argv[1], "policy", policy);
    return hpl_cli_ask_and_print(client, "PUT", "kms/keys/policy", "", body, hpl_cli_show_key);
}

enum hpl_exit hpl_cli_keys_policy_remove(const struct hpl_client *client, int argc, char **argv)
{
    if (argc != 2)
        return hpl_cli_usage_error(client, "one key id is wanted");
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:n}", "key_id", argv[1], "policy");
    return hpl_cli_ask_and_print(client, "PUT", "kms/keys/policy", "", body, hpl_cli_show_key);
}
