/* The sub-commands. Each gets what follows its name and prints its answer. One thread. */
#ifndef HPL_CLI_COMMANDS_H
#define HPL_CLI_COMMANDS_H

#include "cli/client.h"

typedef enum hpl_exit hpl_command_fn(const struct hpl_client *client, int argc, char **argv);
hpl_command_fn hpl_cli_status, hpl_cli_keys_create, hpl_cli_keys_list, hpl_cli_keys_describe, hpl_cli_data_key, hpl_cli_decrypt;

#endif
