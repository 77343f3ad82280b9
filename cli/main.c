/* hardplate, the command line: finds the sub-command in one table and runs it. One thread. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <curl/curl.h>

#include "cli/commands.h"

#define CONTEXT_HELP "The encryption context must be given again, the same, to unwrap."
#define CONFIGURE_HELP "FILE holds the JSON of docs/admin-api.md, for example {\"backend_type\": \"local\"}; - reads standard input,\n" \
                       "so that a Vault credential in it needs no file."

static const struct hpl_command commands[] = {
    {.help = "The key service"},
    {"status", hpl_cli_status, NULL, false, "", "what the key service does and how it is", NULL},
    {"config", hpl_cli_config, NULL, false, "", "how it is set up, without secrets", NULL},
    {"configure", hpl_cli_configure, "kms/configure", false, "FILE|-", "set it up for the first time; start is another command", CONFIGURE_HELP},
    {"reconfigure", hpl_cli_configure, "kms/reconfigure", false, "FILE|-", "change the settings in FILE, keep the others; while it runs",
     CONFIGURE_HELP "\nA new backend is opened and proven first; when it fails, the present one stays. Former backends stay attached for unwrapping."},
    {"start", hpl_cli_service_act, "kms/start", false, "", "open the configured backend", NULL},
    {"stop", hpl_cli_service_act, "kms/stop", false, "", "close it; encrypted objects can't be read or written until start", NULL},
    {"clear-cache", hpl_cli_service_act, "kms/clear-cache", false, "", "forget cached key records, data keys and bucket keys", NULL},

    {.help = "Master keys"},
    {"keys create", hpl_cli_keys_create, NULL, false, "[--description TEXT] [--tag N=V]... [NAME]", "make one; without NAME its id is a UUID", NULL},
    {"keys import", hpl_cli_keys_import, NULL, false, "[--description TEXT] [--tag N=V]... NAME FILE", "make one of your own 32 bytes, where the daemon allows it",
     "FILE holds 32 bytes or 64 hex digits, mode 0600. They are encrypted to the daemon before they leave this program.\n"
     "An imported key does not rotate, and the copy in FILE is yours to keep safe or to destroy."},
    {"keys list", hpl_cli_keys_list, NULL, false, "[--status STATE]", "all of them, or those in one state", NULL},
    {"keys describe", hpl_cli_keys_describe, NULL, false, "[--impact] ID", "all about one; with --impact what depends on it", NULL},
    {"keys update", hpl_cli_keys_update, NULL, false, "--description TEXT ID", "describe it anew", NULL},
    {"keys tag", hpl_cli_keys_tag, NULL, false, "ID NAME=VALUE...", "add tags, or change them", NULL},
    {"keys untag", hpl_cli_keys_untag, NULL, false, "ID NAME...", "take tags away", NULL},
    {"keys enable", hpl_cli_keys_act, "kms/keys/enable", false, "ID", "let it be used again", NULL},
    {"keys disable", hpl_cli_keys_act, "kms/keys/disable", false, "ID", "refuse every use, reading what it sealed too", NULL},
    {"keys rotate", hpl_cli_keys_act, "kms/keys/rotate", false, "ID", "wrap under a new version from now on; older ones still unwrap", NULL},
    {"keys rotation", hpl_cli_keys_rotation, NULL, false, "[--days N] [--wraps N] | --off ID", "let it rotate by itself, by age or by number of wraps", NULL},
    {"keys caching", hpl_cli_keys_caching, NULL, false, "[--decrypt-seconds N] [--bucket-key] [--outage-seconds N] ... | --off ID", "let its data keys be kept for a while",
     "  --decrypt-seconds N  keep unwrapped data keys for 1 to 60 s, --decrypt-uses N (1 to 1000) times each\n"
     "  --bucket-key         one key of the backend's for many objects of a bucket: --bucket-minutes N (1 to 15), --bucket-objects N\n"
     "  --outage-seconds N   serve what is kept for so long while the backend is away; without it every use fails closed\n"
     "All of it is set anew each time: what is not said is off. A bucket key that leaks opens its objects, and rewrapping does not mend that."},
    {"keys policy get", hpl_cli_keys_policy_get, NULL, false, "ID", "who may use it, for what, with which context", NULL},
    {"keys policy set", hpl_cli_keys_policy_set, NULL, false, "ID FILE|-", "replace its policy",
     "FILE holds what 'keys policy get' prints: {\"grants\": [{\"principals\": [\"role:objects\"], \"operations\": [\"*\"]}]}; docs/admin-api.md, \"A key's policy\".\n"
     "Every use that no grant fits is refused, your own too; an administrator can always change the policy."},
    {"keys policy remove", hpl_cli_keys_policy_remove, NULL, false, "ID", "let the account's rules alone decide again", NULL},
    {"keys delete", hpl_cli_keys_delete, NULL, false, "[--days N | --now --confirm ID] ID", "destroy it in N days (7 to 30; 30 unless said)",
     "Refuses every use at once; until the day 'keys cancel-deletion' takes it back. Destroyed, what it sealed is lost.\n"
     "--now destroys it this moment, where the daemon's file has allow_immediate_deletion and no object needs it."},
    {"keys cancel-deletion", hpl_cli_keys_act, "kms/keys/cancel-deletion", false, "ID", "keep it after all", NULL},

    {.help = "Data keys"},
    {"data-key", hpl_cli_data_key, NULL, false, "[--key ID] [--spec AES_256|AES_128] [--count N] [--context N=V]...", "make new ones, in the clear and wrapped",
     CONTEXT_HELP},
    {"decrypt", hpl_cli_decrypt, NULL, false, "[--context N=V]... BLOB|-", "unwrap one", NULL},
    {"rewrap", hpl_cli_rewrap, NULL, false, "[--key ID] [--context N=V]... BLOB|-", "the same one under its key's current version, or another key",
     "Nothing of it is shown in the clear; BLOB goes on opening. The context must be the one that it was made with.\n"
     "A blob of a keystore that was active before comes under the key of the same id in the active one."},

    {.help = "Keystores"},
    {"backends", hpl_cli_backends, NULL, false, "", "every keystore that was attached, and what depends on it", NULL},
    {"backends detach", hpl_cli_backends_detach, NULL, false, "[--confirm-external] INSTANCE", "forget a former one",
     "Refused for the active one, and while objects need it. Data keys given out over the API cannot be counted: --confirm-external says\n"
     "that none is needed any more. Its keys stay where they are; configured again, it is attached again."},
    {"explain", hpl_cli_explain, NULL, false, "[--context N=V]... BLOB|-|s3://BUCKET/KEY", "where it comes from, whether it opens now, and if not why", NULL},

    {.help = "Files"},
    {"seal", hpl_cli_seal, NULL, true, "[--key ID|--key-file F] [--context N=V]... [--force] [-o OUT] FILE|-", "seal a file, to FILE.hpl unless said",
     CONTEXT_HELP "\n-o OUT says where to, - is standard output; --force replaces what is there. A key file needs no daemon."},
    {"open", hpl_cli_open, NULL, true, "[--key-file F] [--context N=V]... [--force] [-o OUT] FILE|-", "open a sealed file",
     "-o OUT says where to, - is standard output; --force replaces what is there."},

    {.help = "Tokens"},
    {"hsm conformance", hpl_cli_hsm_conformance, NULL, true, "[options] URI", "ask a token what it does, load it, write a report", NULL, true},
};

static const char exit_statuses[] = "Exit status: 0 done, 1 failed, 2 usage, 3 denied, 4 unavailable.";

static void print_help(void)
{
    puts("Usage: hardplate [--env FILE] [--json] COMMAND ...\n"
         "       hardplate COMMAND --help\n");
    for (size_t i = 0; i < HPL_COUNT(commands); i++)
        if (commands[i].run)
            printf("  %-20s %s\n", commands[i].name, commands[i].help);
        else
            printf("%s%s:\n", i ? "\n" : "", commands[i].help);
    puts("\n  --env FILE   endpoint and credentials from a file of NAME='value' lines (hardplated --dev DIR writes DIR/env);\n"
         "               otherwise HARDPLATE_ENDPOINT, HARDPLATE_ACCESS_KEY, HARDPLATE_SECRET_KEY, HARDPLATE_REGION, HARDPLATE_CA_FILE\n"
         "  --json       the daemon's answer as it came\n"
         "  --version, --help\n");
    puts(exit_statuses);
}

static void print_command_help(const struct hpl_command *command)
{
    printf("Usage: hardplate [--env FILE] [--json] %s%s%s\n\n%s: %s.\n", command->name, *command->arguments ? " " : "", command->arguments,
           command->name, command->help);
    if (command->more)
        printf("%s\n", command->more);
    printf("\n%s\n", exit_statuses);
}

static int usage_error(const char *fmt, const char *what)
{
    fprintf(stderr, "hardplate: ");
    fprintf(stderr, fmt, what);
    fprintf(stderr, "; see hardplate --help\n");
    return HPL_EXIT_USAGE;
}

/* How many of argv's words the name is made of; 0 when they differ. */
static int words_matched(const char *name, int argc, char **argv)
{
    for (int i = 0; i < argc; i++) {
        size_t len = strlen(argv[i]);
        if (len == 0 || strncmp(name, argv[i], len) != 0 || (name[len] != ' ' && name[len] != '\0'))
            return 0;
        if (name[len] == '\0')
            return i + 1;
        name += len + 1;
    }
    return 0;
}

/* The row with the most words that are there. */
static const struct hpl_command *find_command(int argc, char **argv, int *num_words)
{
    const struct hpl_command *found = NULL;
    *num_words = 0;
    for (size_t i = 0; i < HPL_COUNT(commands); i++) {
        int matched = commands[i].run ? words_matched(commands[i].name, argc, argv) : 0;
        if (matched > *num_words) {
            *num_words = matched;
            found = &commands[i];
        }
    }
    return found;
}

/* What follows a first word that has sub-commands, as a help for who stopped there. */
static int not_a_command(char **argv)
{
    char list[512] = "";
    size_t len = strlen(argv[0]), used = 0;
    for (size_t i = 0; i < HPL_COUNT(commands); i++)
        if (commands[i].run && strncmp(commands[i].name, argv[0], len) == 0 && commands[i].name[len] == ' ' && used < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", commands[i].name + len + 1);
    if (!used)
        return usage_error("'%s' is not a command", argv[0]);
    fprintf(stderr, "hardplate: %s is followed by one of: %s\n", argv[0], list);
    return HPL_EXIT_USAGE;
}

static int run_command(const struct hpl_command *command, const char *env_file, bool is_json, int argc, char **argv)
{
    struct hpl_call call = {0};
    struct hpl_client client = {.command = command, .env_file = env_file, .is_json = is_json};
    enum hpl_status status = command->is_local ? HPL_OK : hpl_client_init(&call, &client, env_file);
    int code = HPL_EXIT_USAGE;
    if (status == HPL_OK)
        code = (int)command->run(&client, argc, argv);
    else
        fprintf(stderr, "hardplate: %s\n", hpl_detail(&call, status));
    hpl_client_wipe(&client);
    return code;
}

/* --json and --help are also taken behind the command, where people write them. Gives how many arguments are left. */
static int take_common(int argc, char **argv, bool *is_json, bool *is_help)
{
    int left = 0, i = 0;
    for (; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            *is_json = true;
        else if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            *is_help = true;
        else
            argv[left++] = argv[i];
    while (i < argc)
        argv[left++] = argv[i++];
    return left;
}

/* What was printed has to have arrived: a policy or a data key that did not is no success. */
static int flush_output(int code)
{
    if ((fflush(stdout) == 0 && !ferror(stdout)) || code != HPL_EXIT_DONE)
        return code;
    fprintf(stderr, "hardplate: cannot write standard output: %s\n", strerror(errno));
    return HPL_EXIT_FAILED;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"env", required_argument, NULL, 'e'}, {"json", no_argument, NULL, 'j'},
                                          {"version", no_argument, NULL, 'V'}, {"help", no_argument, NULL, 'h'}, {0}};
    const struct rlimit no_core = {0, 0};
    const char *env_file = NULL;
    bool is_json = false, is_help = false;
    int option, num_words = 0;
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_DUMPABLE, 0);
    hpl_json_init();
    opterr = 0;
    while ((option = getopt_long(argc, argv, "+h", longs, NULL)) != -1)
        switch (option) {
        case 'e': env_file = optarg; break;
        case 'j': is_json = true; break;
        case 'V': puts("hardplate " HPL_VERSION); return flush_output(HPL_EXIT_DONE);
        case 'h': print_help(); return flush_output(HPL_EXIT_DONE);
        default: return usage_error("'%s' is not understood", argv[optind - 1]);
        }
    if (optind == argc)
        return usage_error("%s", "no command given");
    argc = take_common(argc - optind, argv + optind, &is_json, &is_help);
    argv += optind;
    const struct hpl_command *command = find_command(argc, argv, &num_words);
    if (is_help && !command) {
        print_help();
        return flush_output(HPL_EXIT_DONE);
    }
    if (!command)
        return argc ? not_a_command(argv) : usage_error("%s", "no command given");
    if (is_help && command->has_own_help)
        argv[argc++] = (char *)"--help"; /* in the place it was taken from */
    else if (is_help) {
        print_command_help(command);
        return flush_output(HPL_EXIT_DONE);
    }
    curl_global_init(CURL_GLOBAL_DEFAULT);
    int code = run_command(command, env_file, is_json, argc - num_words + 1, argv + num_words - 1);
    curl_global_cleanup();
    return flush_output(code);
}
