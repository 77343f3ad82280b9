/* The sub-commands. Each gets what follows its name and prints its answer. One thread. */
#ifndef HPL_CLI_COMMANDS_H
#define HPL_CLI_COMMANDS_H

#include <getopt.h>

#include "cli/client.h"

/* argv[0] is the command's last word; it may be permuted. */
typedef enum hpl_exit hpl_command_fn(const struct hpl_client *client, int argc, char **argv);

/* One row of main.c's table. A row without run is a heading of the help. */
struct hpl_command {
    const char *name; /* its words, a blank between them: "keys policy get" */
    hpl_command_fn *run;
    const char *route; /* behind the admin prefix, for functions that serve several commands */
    bool is_local;     /* may do without a daemon: its function sets up the client */
    const char *arguments, *help;
    const char *more;  /* lines that its own --help adds; NULL: none */
    bool has_own_help; /* --help is left to its function */
};

/* service.c */
hpl_command_fn hpl_cli_status, hpl_cli_config, hpl_cli_configure, hpl_cli_service_act;
/* keys.c */
hpl_command_fn hpl_cli_keys_create, hpl_cli_keys_list, hpl_cli_keys_describe, hpl_cli_keys_act, hpl_cli_keys_delete;
/* key_settings.c */
hpl_command_fn hpl_cli_keys_update, hpl_cli_keys_tag, hpl_cli_keys_untag, hpl_cli_keys_rotation, hpl_cli_keys_caching, hpl_cli_keys_policy_get, hpl_cli_keys_policy_set,
    hpl_cli_keys_policy_remove;
/* import.c */
hpl_command_fn hpl_cli_keys_import;
/* data_keys.c */
hpl_command_fn hpl_cli_data_key, hpl_cli_decrypt, hpl_cli_rewrap;
/* keystores.c */
hpl_command_fn hpl_cli_backends, hpl_cli_backends_detach, hpl_cli_explain;
/* files.c; these set up the client themselves, when they need the daemon */
hpl_command_fn hpl_cli_seal, hpl_cli_open;
/* hsm.c; needs no daemon */
hpl_command_fn hpl_cli_hsm_conformance;

/* --- what they share: arguments.c, show.c --------------------------------------------------------------------------------- */

/* One line on standard error: what is wrong and how the command is written. HPL_EXIT_USAGE. */
enum hpl_exit hpl_cli_usage_error(const struct hpl_client *client, const char *what);
/* One line on standard error. HPL_EXIT_FAILED. */
enum hpl_exit hpl_cli_failed(const struct hpl_call *call, enum hpl_status status);

/* The next option of longs ('?': none of them, or its value is missing; -1: no more), wherever among the arguments it stands. The first call of a
 * command has *started false. optind is where the rest begins after -1. */
int hpl_cli_option(int argc, char **argv, const struct option *longs, bool *started);
/* name=value into the member of body (an object, made when it is not there); false when it is not of that form, not UTF-8, or comes twice. */
bool hpl_cli_add_pair(json_t *body, const char *member, const char *pair);
/* A whole number from least to most into the member of body; false when it is none. */
bool hpl_cli_add_number(json_t *body, const char *member, const char *text, long long least, long long most);
/* The blob as given, or the first line of standard input for "-"; NULL when there is none. */
json_t *hpl_cli_read_blob(const char *given);
/* A key kept in a file: 32 bytes as they are, or 64 hex digits and perhaps a newline; readable by nobody else. */
enum hpl_status hpl_cli_read_key_file(struct hpl_call *call, const char *path, struct hpl_secret **out) HPL_MUST_USE;
/* The JSON object of a file, or of standard input for "-". Says itself what is wrong. */
enum hpl_exit hpl_cli_read_object(const char *path, json_t **object);

typedef void hpl_show_fn(const json_t *answer);
/* Appends text with every control character as \u and four hex digits: what others wrote does not steer a terminal, nor pass for a line of ours. */
void hpl_cli_put_plain(struct hpl_buf *out, const char *text);
/* The answer as it came with --json; otherwise by show, its texts plain. Takes answer. */
enum hpl_exit hpl_cli_print(const struct hpl_client *client, json_t *answer, hpl_show_fn *show);
/* Asks, and prints the answer by show. */
enum hpl_exit hpl_cli_ask_and_print(const struct hpl_client *client, const char *method, const char *path, const char *query, const json_t *body,
                                    hpl_show_fn *show);
const char *hpl_cli_text(const json_t *object, const char *name); /* "-" when it has no such text */
/* "name   value", unless value is missing or null; objects and arrays as indented lines below their name. */
void hpl_cli_show_member(const char *name, const json_t *value, int indent);
/* Every member so. */
void hpl_cli_show_object(const json_t *object);
hpl_show_fn hpl_cli_show_key; /* an answer with key_metadata */

#endif
