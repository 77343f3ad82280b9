/* hardplate, the command line: finds the sub-command in one table and runs it. One thread. */
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <curl/curl.h>

#include "cli/commands.h"

struct command {
    const char *first, *second; /* second: NULL for one-word commands */
    hpl_command_fn *run;
    bool is_local; /* may do without a daemon: its function sets up the client */
    const char *arguments, *help;
};

static const struct command commands[] = {
    {"status", NULL, hpl_cli_status, false, "", "what the key service does and how it is"},
    {"keys", "create", hpl_cli_keys_create, false, "[--name ID] [--description TEXT]", "make a master key"},
    {"keys", "list", hpl_cli_keys_list, false, "", "all master keys"},
    {"keys", "describe", hpl_cli_keys_describe, false, "ID", "one master key"},
    {"data-key", NULL, hpl_cli_data_key, false, "[--key ID] [--spec SPEC] [--context N=V]...", "a new data key, in the clear and wrapped"},
    {"decrypt", NULL, hpl_cli_decrypt, false, "[--context N=V]... BLOB|-", "unwrap a data key"},
    {"seal", NULL, hpl_cli_seal, true, "[--key ID|--key-file F] [--context N=V]... [-o OUT] FILE|-", "seal a file, to FILE.hpl unless said"},
    {"open", NULL, hpl_cli_open, true, "[--key-file F] [--context N=V]... [-o OUT] FILE|-", "open a sealed file"},
};

static void print_help(void)
{
    puts("Usage: hardplate [--env FILE] [--json] COMMAND ...\n");
    for (size_t i = 0; i < HPL_COUNT(commands); i++) {
        char left[96];
        snprintf(left, sizeof left, "%s%s%s %s", commands[i].first, commands[i].second ? " " : "", commands[i].second ? commands[i].second : "", commands[i].arguments);
        printf("  %-64s %s\n", left, commands[i].help);
    }
    puts("\n  --env FILE   endpoint and credentials from a file of NAME='value' lines (hardplated --dev DIR writes DIR/env);\n"
         "               otherwise HARDPLATE_ENDPOINT, HARDPLATE_ACCESS_KEY, HARDPLATE_SECRET_KEY, HARDPLATE_REGION, HARDPLATE_CA_FILE\n"
         "  --json       the daemon's answer as it came\n"
         "  -o OUT       where to; - is standard output. --force replaces a file that is there\n"
         "  --version, --help\n\n"
         "Exit status: 0 done, 1 failed, 2 usage, 3 denied, 4 unavailable.");
}

static int usage_error(const char *fmt, const char *what)
{
    fprintf(stderr, "hardplate: ");
    fprintf(stderr, fmt, what);
    fprintf(stderr, "; see hardplate --help\n");
    return HPL_EXIT_USAGE;
}

static const struct command *find_command(int argc, char **argv)
{
    for (size_t i = 0; i < HPL_COUNT(commands); i++)
        if (strcmp(argv[0], commands[i].first) == 0 &&
            (!commands[i].second || (argc > 1 && strcmp(argv[1], commands[i].second) == 0)))
            return &commands[i];
    return NULL;
}

static int run_command(const struct command *command, const char *env_file, bool is_json, int argc, char **argv)
{
    struct hpl_call call = {0};
    struct hpl_client client = {.env_file = env_file, .is_json = is_json};
    int words = command->second ? 1 : 0;
    enum hpl_status status = command->is_local ? HPL_OK : hpl_client_init(&call, &client, env_file);
    int code = HPL_EXIT_USAGE;
    if (status == HPL_OK)
        code = (int)command->run(&client, argc - words, argv + words);
    else
        fprintf(stderr, "hardplate: %s\n", hpl_detail(&call, status));
    hpl_client_wipe(&client);
    return code;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"env", required_argument, NULL, 'e'}, {"json", no_argument, NULL, 'j'},
                                          {"version", no_argument, NULL, 'V'}, {"help", no_argument, NULL, 'h'}, {0}};
    const struct rlimit no_core = {0, 0};
    const char *env_file = NULL;
    bool is_json = false;
    int option;
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_DUMPABLE, 0);
    hpl_json_init();
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+h", longs, NULL)) != -1)
        switch (option) {
        case 'e': env_file = optarg; break;
        case 'j': is_json = true; break;
        case 'V': puts("hardplate " HPL_VERSION); return HPL_EXIT_DONE;
        case 'h': print_help(); return HPL_EXIT_DONE;
        default: return usage_error("'%s' is not understood", argv[optind - 1]);
        }
    if (optind == argc)
        return usage_error("%s", "no command given");
    const struct command *command = find_command(argc - optind, argv + optind);
    if (!command)
        return usage_error("'%s' is not a command", argv[optind]);
    /* --json is also taken behind the command, where people write it. */
    int left = 0;
    for (int i = optind; i < argc; i++)
        if (strcmp(argv[i], "--json") == 0)
            is_json = true;
        else
            argv[optind + left++] = argv[i];
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int code = run_command(command, env_file, is_json, left, argv + optind);
    curl_global_cleanup();
    return code;
}
