/* One signed admin request to a daemon, by libcurl. One thread. */
#ifndef HPL_CLI_CLIENT_H
#define HPL_CLI_CLIENT_H

#include "base/json.h"
#include "base/secret.h"

/* Exit codes of the command line. */
enum hpl_exit { HPL_EXIT_DONE = 0, HPL_EXIT_FAILED = 1, HPL_EXIT_USAGE = 2, HPL_EXIT_DENIED = 3, HPL_EXIT_UNAVAILABLE = 4 };

struct hpl_command;

/* Memory for keys and credentials; small, so that it can be locked within usual limits. */
#define HPL_CLI_SECRETS_LEN (256u << 10)

struct hpl_client {
    const struct hpl_command *command; /* the one that runs */
    char *endpoint, *region, *access_key, *ca_file;
    struct hpl_secret *secret_key;
    const char *env_file; /* as given with --env; NULL: none */
    bool is_json;         /* print answers as they came */
};

/* From the environment (HARDPLATE_ENDPOINT, _REGION, _ACCESS_KEY, _SECRET_KEY, _CA_FILE) and, when env_file is given, from its NAME='value' lines,
 * which win. The secret's place in the environment is wiped. HPL_INVALID_CONFIGURATION names what is missing. */
enum hpl_status hpl_client_init(struct hpl_call *call, struct hpl_client *client, const char *env_file) HPL_MUST_USE;
void hpl_client_wipe(struct hpl_client *client);

/* Sends body (NULL: none) to path behind the admin prefix, with query ("" for none). On an HTTP success *answer is the JSON object. Otherwise prints one line on
 * standard error and returns the exit code that fits. */
enum hpl_exit hpl_client_ask(const struct hpl_client *client, const char *method, const char *path, const char *query, const json_t *body,
                             json_t **answer);

#endif
