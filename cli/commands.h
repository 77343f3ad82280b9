/* The sub-commands. Each gets what follows its name and prints its answer. One thread. */
#ifndef HPL_CLI_COMMANDS_H
#define HPL_CLI_COMMANDS_H

#include "cli/client.h"

typedef enum hpl_exit hpl_command_fn(const struct hpl_client *client, int argc, char **argv);
hpl_command_fn hpl_cli_status, hpl_cli_keys_create, hpl_cli_keys_list, hpl_cli_keys_describe, hpl_cli_data_key, hpl_cli_decrypt;
hpl_command_fn hpl_cli_seal, hpl_cli_open; /* these set up the client themselves, when they need the daemon */

/* One line on standard error, and HPL_EXIT_USAGE. */
enum hpl_exit hpl_cli_usage_error(const char *what);
/* name=value into the body's encryption_context; false when it is not of that form, not UTF-8, or comes twice. */
bool hpl_cli_add_context(json_t *body, const char *pair);

#endif
