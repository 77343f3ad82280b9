/* The prober as a program. Its main thread. */
#include "backends/pkcs11/conformance/conformance.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/secret.h"

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_UNAVAILABLE = 4 };

static const char usage[] =
    "Usage: hardplate hsm conformance [options] URI\n"
    "\n"
    "Asks a token everything that hardplate depends on, on throw-away keys, then loads it for a while. Prints a page; --report writes all of\n"
    "it as JSON, to be sent to us: no PIN, no key, nothing secret is in it. Never changes a PIN, never initialises, never logs out.\n"
    "\n"
    "  URI                    which token: pkcs11:token=LABEL, and serial=NUMBER where labels repeat\n"
    "  --module PATH          the vendor's PKCS#11 module; otherwise those that p11-kit is configured with\n"
    "  --pin-source SOURCE    file:/PATH (0600, one line) or credential:NAME\n"
    "  --init-reserved TEXT   for C_Initialize, where the module wants it (NSS, YubiHSM)\n"
    "  --seconds N            of load by 1, 2, 4 and 8 threads, together (60; 0: none; at most 3600)\n"
    "  --token-objects        one key may lie in the token for a moment (label hpl/probe); without this it is asked for\n"
    "  --no-token-objects     session objects only\n"
    "  --report FILE          the whole report as JSON; - for standard output instead of the page\n"
    "  --step-timeout N       give up when the token does not answer one question in N seconds (300; the load has its own time on top)\n"
    "  --state DIR            where a refused PIN is remembered, so that it is not sent again (~/.local/state/hardplate)\n"
    "\n"
    "Exit status: 0 hardplate would use it, 1 it would refuse it or failed, 2 usage, 4 no such token, it did not let us in, or it hangs.\n";

struct options {
    struct hpl_p11_conformance asked;
    const char *report;
    int token_objects; /* 1 yes, 0 no, -1 ask */
    unsigned step_timeout;
    char state_dir[PATH_MAX];
};

static int usage_error(const char *what)
{
    fprintf(stderr, "hardplate: %s; see hardplate hsm conformance --help\n", what);
    return EXIT_USAGE;
}

static bool read_seconds(const char *text, unsigned long least, unsigned *seconds)
{
    char *end;
    errno = 0;
    unsigned long number = strtoul(text, &end, 10);
    *seconds = (unsigned)number;
    return !errno && end != text && !*end && number >= least && number <= 3600 && text[0] != '-';
}

/* -1: go on; otherwise the exit status. */
static int read_options(int argc, char **argv, struct options *options)
{
    static const struct option longs[] = {
        {"module", required_argument, NULL, 'm'}, {"pin-source", required_argument, NULL, 'p'}, {"init-reserved", required_argument, NULL, 'i'},
        {"seconds", required_argument, NULL, 's'}, {"token-objects", no_argument, NULL, 't'}, {"no-token-objects", no_argument, NULL, 'n'},
        {"step-timeout", required_argument, NULL, 'T'},
        {"report", required_argument, NULL, 'r'}, {"state", required_argument, NULL, 'S'}, {"help", no_argument, NULL, 'h'}, {0}};
    struct hpl_token_option *token = &options->asked.token;
    int option;
    opterr = 0;
    optind = 0;
    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1)
        switch (option) {
        case 'm': token->module = optarg; break;
        case 'p': token->pin_source = optarg; break;
        case 'i': token->init_reserved = optarg; break;
        case 's':
            if (!read_seconds(optarg, 0, &options->asked.seconds))
                return usage_error("--seconds takes a number from 0 to 3600");
            break;
        case 'T':
            if (!read_seconds(optarg, 1, &options->step_timeout))
                return usage_error("--step-timeout takes a number from 1 to 3600");
            break;
        case 't': options->token_objects = 1; break;
        case 'n': options->token_objects = 0; break;
        case 'r': options->report = optarg; break;
        case 'S': snprintf(options->state_dir, sizeof options->state_dir, "%s", optarg); break;
        case 'h': fputs(usage, stdout); return EXIT_DONE;
        default: return usage_error("an option is not understood");
        }
    if (optind + 1 != argc)
        return usage_error("one token URI is wanted");
    token->uri = argv[optind];
    return token->pin_source ? -1 : usage_error("--pin-source is wanted: file:/PATH or credential:NAME");
}

/* The folder and the two above it. */
static enum hpl_status state_folder(struct hpl_call *call, char dir[static PATH_MAX])
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (dir[0])
        return HPL_OK;
    if (!state && !home)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "HOME is not set: say --state DIR");
    int len = state ? snprintf(dir, PATH_MAX - 16, "%s", state) : snprintf(dir, PATH_MAX - 16, "%s/.local/state", home);
    if (len >= PATH_MAX - 16)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the home folder's path is too long: say --state DIR");
    for (char *at = strchr(dir + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        (void)mkdir(dir, 0700); /* what could not be made shows below */
        *at = '/';
    }
    (void)mkdir(dir, 0700);
    strcat(dir, "/hardplate");
    return HPL_OK;
}

/* Only a person at a terminal can be asked. */
static bool ask_leave(void)
{
    char line[16] = "";
    if (!isatty(STDIN_FILENO))
        return false;
    fputs("May one AES key lie in the token for a moment? It is labelled hpl/probe and destroyed again. [y/N] ", stderr);
    return fgets(line, sizeof line, stdin) && (line[0] == 'y' || line[0] == 'Y');
}

/* --- a module that does not return ------------------------------------------------------------------------------------------------ */

static const char *volatile step_now = "itself";
static unsigned step_seconds;
static bool is_progress_shown;

/* A call inside a vendor's module cannot be interrupted, so the program ends. Only what is allowed in a signal's handler. */
static void give_up(int number)
{
    static const char before[] = "hardplate: the token did not answer in time when asked about ", after[] = "; see --step-timeout\n";
    (void)number;
    ssize_t unused = write(STDERR_FILENO, before, sizeof before - 1);
    unused = write(STDERR_FILENO, step_now, strlen(step_now));
    unused = write(STDERR_FILENO, after, sizeof after - 1);
    (void)unused;
    _exit(EXIT_UNAVAILABLE);
}

static void next_step(const char *step)
{
    step_now = step;
    alarm(step_seconds);
    if (is_progress_shown)
        fprintf(stderr, "hardplate: asking about %s\n", step);
}

/* The load's own seconds are on top of every step: it is the last one. */
static void watch(const struct options *options)
{
    step_seconds = options->step_timeout + options->asked.seconds;
    is_progress_shown = isatty(STDERR_FILENO);
    signal(SIGALRM, give_up);
    alarm(step_seconds);
}

static enum hpl_status put_out(struct hpl_call *call, const char *path, const json_t *report)
{
    struct hpl_buf page = {0}, text = {0};
    enum hpl_status status = hpl_json_put(&text, report);
    hpl_buf_put_str(&text, "\n");
    if (status == HPL_OK && path && strcmp(path, "-") != 0)
        status = hpl_file_replace(call, path, hpl_buf_bytes(&text), 0644);
    if (path && strcmp(path, "-") == 0)
        fwrite(text.data, 1, text.len, stdout);
    else {
        hpl_p11_conformance_page(&page, report);
        fwrite(page.data, 1, page.len, stdout);
    }
    hpl_buf_wipe(&page);
    hpl_buf_wipe(&text);
    return status == HPL_OK && fflush(stdout) != 0 ? hpl_fail(call, HPL_IO, "cannot write to standard output") : status;
}

static int exit_for(enum hpl_status status)
{
    return status == HPL_KEY_UNAVAILABLE || status == HPL_PIN_REJECTED || status == HPL_TIMEOUT ? EXIT_UNAVAILABLE : EXIT_FAILED;
}

int hpl_p11_conformance_main(int argc, char **argv)
{
    struct options options = {.asked.seconds = 60, .token_objects = -1, .step_timeout = 300};
    struct hpl_call call = {0};
    json_t *HPL_JSON_AUTO report = NULL;
    hpl_log_set_level(HPL_LOG_SILENT);
    int code = read_options(argc, argv, &options);
    if (code >= 0)
        return code;
    options.asked.may_make_token_objects = options.token_objects < 0 ? ask_leave() : options.token_objects;
    options.asked.progress = next_step;
    watch(&options);
    enum hpl_status status = state_folder(&call, options.state_dir);
    options.asked.state_dir = options.state_dir;
    if (status == HPL_OK)
        status = hpl_p11_conformance_run(&call, &options.asked, &report);
    alarm(0);
    if (status == HPL_OK)
        status = put_out(&call, options.report, report);
    if (status != HPL_OK) {
        fprintf(stderr, "hardplate: %s\n", hpl_detail(&call, status));
        return exit_for(status);
    }
    return json_is_true(json_object_get(json_object_get(json_object_get(report, "report"), "verdict"), "usable")) ? EXIT_DONE : EXIT_FAILED;
}
