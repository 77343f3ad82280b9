/* The key service as a whole: what it does, how it is set up, started and stopped. One thread. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

static void show_status(const json_t *answer)
{
    const char *status = hpl_cli_text(answer, "status");
    hpl_cli_show_member("status", json_object_get(answer, "status"), 0);
    hpl_cli_show_member("health", json_object_get(answer, "health"), 0);
    hpl_cli_show_member("backend", json_object_get(answer, "backend_type"), 0);
    hpl_cli_show_member("default key", json_object_get(json_object_get(answer, "config_summary"), "default_key_id"), 0);
    hpl_cli_show_object(json_object_get(answer, "details"));
    if (strcmp(status, "NotConfigured") == 0)
        puts("\nhardplate configure FILE sets it up, hardplate start starts it.");
    else if (strcmp(status, "Configured") == 0)
        puts("\nhardplate start starts it.");
}

static enum hpl_exit ask_plainly(const struct hpl_client *client, int argc, const char *method, const char *path, hpl_show_fn *show)
{
    if (argc > 1)
        return hpl_cli_usage_error(client, "no arguments are taken");
    return hpl_cli_ask_and_print(client, method, path, "", NULL, show);
}

enum hpl_exit hpl_cli_status(const struct hpl_client *client, int argc, char **argv)
{
    (void)argv;
    return ask_plainly(client, argc, "GET", "kms/status", show_status);
}

enum hpl_exit hpl_cli_config(const struct hpl_client *client, int argc, char **argv)
{
    (void)argv;
    return ask_plainly(client, argc, "GET", "kms/config", hpl_cli_show_object);
}

/* "Running: the KMS was started"; an answer without content was done all the same. */
static void show_outcome(const json_t *answer)
{
    const char *status = json_string_value(json_object_get(answer, "status")), *message = json_string_value(json_object_get(answer, "message"));
    printf("%s%s%s\n", status ? status : "", status && message ? ": " : "", message ? message : status ? "" : "done");
}

enum hpl_exit hpl_cli_service_act(const struct hpl_client *client, int argc, char **argv)
{
    (void)argv;
    return ask_plainly(client, argc, "POST", client->command->route, show_outcome);
}

enum hpl_exit hpl_cli_configure(const struct hpl_client *client, int argc, char **argv)
{
    json_t *HPL_JSON_AUTO body = NULL;
    if (argc != 2)
        return hpl_cli_usage_error(client, "one JSON file is wanted, or - for standard input");
    enum hpl_exit code = hpl_cli_read_object(argv[1], &body);
    return code == HPL_EXIT_DONE ? hpl_cli_ask_and_print(client, "POST", client->command->route, "", body, show_outcome) : code;
}
