/* Master keys: made, shown, and led through their states. One thread. */
#include <stdio.h>
#include <string.h>

#include "base/codec.h"
#include "cli/commands.h"

static void show_versions(const json_t *versions)
{
    size_t i;
    json_t *version;
    json_array_foreach((json_t *)versions, i, version)
        printf("%-20s %lld, made %s\n", i ? "" : "versions", (long long)json_integer_value(json_object_get(version, "version")),
               hpl_cli_text(version, "creation_date"));
}

/* "every 90 days or 1000 wraps, next 2026-…". */
static void show_rotation(const json_t *metadata)
{
    long long days = json_integer_value(json_object_get(metadata, "rotation_period_days")),
              wraps = json_integer_value(json_object_get(metadata, "rotation_max_wraps"));
    if (!json_is_true(json_object_get(metadata, "rotation_enabled")))
        return;
    printf("%-20s every", "rotates by itself");
    if (days)
        printf(" %lld days", days);
    if (wraps)
        printf("%s %lld wraps", days ? " or" : "", wraps);
    if (json_is_string(json_object_get(metadata, "next_rotation_date")))
        printf(", next %s", hpl_cli_text(metadata, "next_rotation_date"));
    puts(json_is_true(json_object_get(metadata, "rotation_due")) ? ", due now" : "");
}

/* Only where something is kept. */
static void show_caching(const json_t *caching)
{
    bool is_on = json_integer_value(json_object_get(caching, "decrypt_seconds")) || json_is_true(json_object_get(caching, "bucket_key")) ||
                 json_is_object(json_object_get(caching, "outage"));
    if (is_on)
        hpl_cli_show_member("caching", caching, 0);
}

/* A line for each thing that depends on the key, and what could not be looked at. */
static void show_impact(const json_t *impact)
{
    size_t i;
    json_t *row;
    if (!impact)
        return;
    json_array_foreach(json_object_get(impact, "references"), i, row)
        printf("%-20s %s %s: %s\n", "needed by", hpl_cli_text(row, "kind"), hpl_cli_text(row, "id"), hpl_cli_text(row, "detail"));
    json_array_foreach(json_object_get(json_object_get(impact, "coverage"), "not_scanned"), i, row)
        printf("%-20s %s\n", "not counted", json_string_value(row));
}

/* What every key has on a line of its own first, then whatever else the daemon says of it. */
void hpl_cli_show_key(const json_t *answer)
{
    static const char *const first[][2] = {{"key_id", "key"}, {"description", "description"}, {"key_state", "state"},
                                           {"unavailable_reason", "why"}, {"deletion_date", "destroyed on"}, {"tags", "tags"},
                                           {"objects", "objects that need it"}, {"has_policy", "has a policy"}};
    static const char *const unsaid[] = {"enabled", "key_manager", "key_usage", "current_version", "creation_date", "rotation_date", "versions",
                                         "rotation_enabled", "rotation_due", "rotation_due_reason", "rotation_period_days", "rotation_max_wraps",
                                         "next_rotation_date", "caching"};
    const json_t *metadata = json_object_get(answer, "key_metadata");
    json_t *HPL_JSON_AUTO rest = json_copy((json_t *)metadata);
    for (size_t i = 0; i < HPL_COUNT(first); i++) {
        hpl_cli_show_member(first[i][1], json_object_get(metadata, first[i][0]), 0);
        json_object_del(rest, first[i][0]);
    }
    for (size_t i = 0; i < HPL_COUNT(unsaid); i++)
        json_object_del(rest, unsaid[i]);
    show_versions(json_object_get(metadata, "versions"));
    show_rotation(metadata);
    show_caching(json_object_get(metadata, "caching"));
    hpl_cli_show_object(rest);
    show_impact(json_object_get(answer, "impact"));
}

enum hpl_exit hpl_cli_keys_create(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"name", required_argument, NULL, 'n'}, {"description", required_argument, NULL, 'd'},
                                          {"tag", required_argument, NULL, 't'}, {0}};
    json_t *HPL_JSON_AUTO body = json_pack("{s:s}", "KeyUsage", "ENCRYPT_DECRYPT");
    const char *name = NULL;
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option == 'n')
            name = optarg;
        else if (option == 'd')
            json_object_set_new(body, "Description", json_string(optarg));
        else if (option != 't' || !hpl_cli_add_pair(body, "Tags", optarg))
            return hpl_cli_usage_error(client, option == 't' ? "a tag is written NAME=VALUE, each name once" : "an option is not understood");
    if (optind + 1 == argc && !name)
        name = argv[optind++];
    if (optind < argc)
        return hpl_cli_usage_error(client, "one name at most");
    if (name && !json_object_get(body, "Tags"))
        json_object_set_new(body, "Tags", json_object());
    if (name)
        json_object_set_new(json_object_get(body, "Tags"), "name", json_string(name));
    return hpl_cli_ask_and_print(client, "POST", "kms/keys", "", body, hpl_cli_show_key);
}

static void show_keys(const json_t *answer)
{
    size_t i;
    json_t *row;
    printf("%-36s  %-16s  %7s  %s\n", "KEY", "STATE", "VERSION", "DESCRIPTION");
    json_array_foreach(json_object_get(answer, "keys"), i, row)
        printf("%-36s  %-16s  %7lld  %s\n", hpl_cli_text(row, "key_id"), hpl_cli_text(row, "key_state"),
               (long long)json_integer_value(json_object_get(row, "version")), hpl_cli_text(row, "description"));
}

/* The daemon's answers as one: all keys, all that cannot be read. */
static void join(json_t *all, json_t *page)
{
    static const char *const lists[] = {"keys", "unreadable_key_ids"};
    bool is_first = json_object_size(all) == 0;
    for (size_t i = 0; !is_first && i < HPL_COUNT(lists); i++)
        json_array_extend(json_object_get(all, lists[i]), json_object_get(page, lists[i]));
    json_object_update_missing(all, page);
    json_object_set_new(all, "truncated", json_false());
    json_object_set_new(all, "next_marker", json_null());
}

/* Every page, joined, so that --json too shows all. */
static enum hpl_exit all_pages(const struct hpl_client *client, const char *filter, json_t *all)
{
    struct hpl_buf query = {0};
    enum hpl_exit code = HPL_EXIT_DONE;
    hpl_buf_printf(&query, "limit=1000%s", filter);
    for (bool is_more = true; is_more && code == HPL_EXIT_DONE;) {
        json_t *HPL_JSON_AUTO page = NULL;
        code = hpl_client_ask(client, "GET", "kms/keys", hpl_buf_text(&query), NULL, &page);
        join(all, page);
        const char *next = json_string_value(json_object_get(page, "next_marker"));
        is_more = next != NULL;
        query.len = 0;
        hpl_buf_printf(&query, "limit=1000%s&marker=", filter);
        if (next)
            hpl_uri_put(&query, hpl_bytes_str(next), false);
    }
    hpl_buf_wipe(&query);
    return code;
}

enum hpl_exit hpl_cli_keys_list(const struct hpl_client *client, int argc, char **argv)
{
    json_t *HPL_JSON_AUTO all = json_object();
    static const struct option longs[] = {{"status", required_argument, NULL, 's'}, {0}};
    struct hpl_buf filter = {0};
    bool started = false;
    hpl_buf_put_str(&filter, "");
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;) {
        if (option != 's')
            return hpl_cli_usage_error(client, "--status takes Enabled, Disabled, PendingDeletion or Destroyed");
        hpl_buf_put_str(&filter, "&status=");
        hpl_uri_put(&filter, hpl_bytes_str(optarg), false);
    }
    if (optind < argc)
        return hpl_cli_usage_error(client, "only options are taken");
    enum hpl_exit code = all_pages(client, filter.len ? hpl_buf_text(&filter) : "", all);
    hpl_buf_wipe(&filter);
    return code == HPL_EXIT_DONE ? hpl_cli_print(client, json_incref(all), show_keys) : code;
}

enum hpl_exit hpl_cli_keys_describe(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"impact", no_argument, NULL, 'i'}, {0}};
    struct hpl_buf path = {0};
    const char *query = "";
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1; query = "impact=true")
        if (option != 'i')
            return hpl_cli_usage_error(client, "an option is not understood");
    if (optind + 1 != argc || !*argv[optind])
        return hpl_cli_usage_error(client, "one key id is wanted");
    hpl_buf_put_str(&path, "kms/keys/");
    hpl_uri_put(&path, hpl_bytes_str(argv[optind]), false);
    enum hpl_exit code = hpl_cli_ask_and_print(client, "GET", hpl_buf_text(&path), query, NULL, hpl_cli_show_key);
    hpl_buf_wipe(&path);
    return code;
}

enum hpl_exit hpl_cli_keys_act(const struct hpl_client *client, int argc, char **argv)
{
    if (argc != 2)
        return hpl_cli_usage_error(client, "one key id is wanted");
    json_t *HPL_JSON_AUTO body = json_pack("{s:s}", "key_id", argv[1]);
    return hpl_cli_ask_and_print(client, "POST", client->command->route, "", body, hpl_cli_show_key);
}

static void show_deletion(const json_t *answer)
{
    hpl_cli_show_key(answer);
    printf("\nEvery use of it is refused from now on. Until that day 'hardplate keys cancel-deletion %s' takes it back.\n", hpl_cli_text(answer, "key_id"));
}

static void show_destruction(const json_t *answer)
{
    hpl_cli_show_key(answer);
    printf("\nDestroyed: what it sealed is lost.\n");
}

/* The id a second time, since nothing takes this back. */
static bool is_confirmed(json_t *body, const char *key_id, const char *confirmed)
{
    json_object_set_new(body, "force_immediate", json_true());
    json_object_set_new(body, "confirm_key_id", json_string(key_id));
    return confirmed && strcmp(key_id, confirmed) == 0;
}

enum hpl_exit hpl_cli_keys_delete(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"days", required_argument, NULL, 'd'}, {"now", no_argument, NULL, 'n'},
                                          {"confirm", required_argument, NULL, 'c'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    const char *confirmed = NULL;
    bool started = false, is_now = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option == 'n')
            is_now = true;
        else if (option == 'c')
            confirmed = optarg;
        else if (option != 'd' || !hpl_cli_add_number(body, "pending_window_in_days", optarg, 7, 30))
            return hpl_cli_usage_error(client, option == 'd' ? "--days takes a number from 7 to 30" : "an option is not understood");
    if (optind + 1 != argc)
        return hpl_cli_usage_error(client, "one key id is wanted");
    if (is_now ? json_object_size(body) > 0 : confirmed != NULL)
        return hpl_cli_usage_error(client, is_now ? "--now and --days exclude each other" : "--confirm goes with --now");
    if (is_now && !is_confirmed(body, argv[optind], confirmed))
        return hpl_cli_usage_error(client, "--now cannot be taken back: give the same id with --confirm too");
    json_object_set_new(body, "key_id", json_string(argv[optind]));
    return hpl_cli_ask_and_print(client, "DELETE", "kms/keys/delete", "", body, is_now ? show_destruction : show_deletion);
}
