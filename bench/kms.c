/* hardplate-bench kms: wraps and unwraps by keystore, and with --http data keys a second beside OpenBao and KES. */
#include "bench/kms.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

static void print_usage(FILE *to)
{
    fprintf(to, "usage: hardplate-bench kms [--http | --reconfigure] [OPTION]...\n"
                "  --http            data keys over HTTP, hardplated beside OpenBao (HPL_BENCH_OPENBAO) and KES (HPL_BENCH_KES), each the path of\n"
                "                    its program; without it wraps and unwraps of keystores (openbao: likewise)\n"
                "  --reconfigure     data keys over HTTP while the backend is switched to and fro, beside the same load undisturbed\n"
                "  --json            one JSON object instead of the table\n"
                "  --quick           whether it runs, not how fast\n"
                "  --seconds S       of measuring, for each row (5)\n"
                "  --threads N,...   that wrap at once (1,4,16)\n"
                "  --keys N          that the keystore holds (1); 16 of them, or all, are wrapped under in turn\n"
                "  --sessions N      of the token (16)\n"
                "  --latency-ms MS   that the token takes longer for every call with a key (0)\n"
                "  --connections N   of the HTTP load (16)\n"
                "  --only NAME,...   of local, softhsm, tokend, openbao, kes\n");
}

static bool parse_number(unsigned *out, const char *text, unsigned least, unsigned most, char terminator, const char **rest)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || end == text || *text == '-' || value < least || value > most || (*end && *end != terminator))
        return false;
    *out = (unsigned)value;
    if (rest)
        *rest = *end ? end + 1 : NULL;
    return true;
}

static bool parse_threads(struct hpl_bench_kms_options *options, const char *text)
{
    options->num_threads = 0;
    while (text && options->num_threads < HPL_BENCH_MAX_THREADS)
        if (!parse_number(&options->threads[options->num_threads++], text, 1, 64, ',', &text))
            return false;
    return !text;
}

static bool parse_seconds(double *seconds, const char *text)
{
    char *end;
    *seconds = strtod(text, &end);
    return end != text && *end == '\0' && *seconds > 0 && *seconds <= 600;
}

/* A name that is none would be a run of nothing. */
static bool are_known(const char *only)
{
    static const char *const names[] = {"local", "softhsm", "tokend", "openbao", "kes"};
    for (size_t len; *only; only += len + (only[len] == ',')) {
        bool is_known = false;
        len = strcspn(only, ",");
        for (size_t i = 0; i < HPL_COUNT(names); i++)
            is_known = is_known || (strlen(names[i]) == len && strncmp(only, names[i], len) == 0);
        if (!is_known)
            return false;
    }
    return true;
}

static bool be_quick(struct hpl_bench_kms_options *options)
{
    options->is_quick = true;
    options->seconds = 0.2;
    options->rounds = 2;
    return parse_threads(options, "1,2");
}

/* -1: go on; else the exit status. */
static int parse(struct hpl_bench_kms_options *options, int argc, char **argv)
{
    static const struct option table[] = {
        {"json", no_argument, NULL, 'j'},           {"quick", no_argument, NULL, 'q'},          {"http", no_argument, NULL, 'H'},
        {"reconfigure", no_argument, NULL, 'r'},    {"seconds", required_argument, NULL, 's'},  {"threads", required_argument, NULL, 't'},
        {"keys", required_argument, NULL, 'k'},     {"sessions", required_argument, NULL, 'S'}, {"latency-ms", required_argument, NULL, 'l'},
        {"connections", required_argument, NULL, 'c'}, {"only", required_argument, NULL, 'o'},  {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    unsigned keys = 1;
    const char *given_seconds = NULL, *given_threads = NULL; /* they count wherever --quick stands */
    *options = (struct hpl_bench_kms_options){.seconds = 5, .rounds = 5, .connections = 16, .keystore = {.sessions = 16}};
    bool is_right = parse_threads(options, "1,4,16");
    for (int option; is_right && (option = getopt_long(argc, argv, "", table, NULL)) != -1;)
        switch (option) {
        case 'j': options->is_json = true; break;
        case 'q': is_right = be_quick(options); break;
        case 'H': options->is_http = true; break;
        case 'r': options->is_reconfigure = true; break;
        case 's': given_seconds = optarg; break;
        case 't': given_threads = optarg; break;
        case 'k': is_right = parse_number(&keys, optarg, 1, 1000000, '\0', NULL); break;
        case 'S': is_right = parse_number(&options->keystore.sessions, optarg, 1, 256, '\0', NULL); break;
        case 'l': is_right = parse_number(&options->keystore.latency_ms, optarg, 0, 10000, '\0', NULL); break;
        case 'c': is_right = parse_number(&options->connections, optarg, 1, 256, '\0', NULL); break;
        case 'o': options->only = optarg; is_right = *optarg && are_known(optarg); break;
        case 'h': print_usage(stdout); return 0;
        default: is_right = false;
        }
    options->keystore.num_keys = keys;
    is_right = is_right && (!given_seconds || parse_seconds(&options->seconds, given_seconds)) && (!given_threads || parse_threads(options, given_threads));
    if (is_right && optind == argc && !(options->is_http && options->is_reconfigure))
        return -1;
    print_usage(stderr);
    return HPL_BENCH_USAGE;
}

bool hpl_bench_kms_wants(const struct hpl_bench_kms_options *options, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = options->only; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, len) == 0 && (at[len] == ',' || at[len] == '\0'))
            return true;
    return !options->only;
}

double hpl_bench_rounded(double value, int decimals)
{
    double step = pow(10, -decimals);
    return round(value / step) * step;
}

static bool measure(const struct hpl_bench_kms_options *options, json_t *rows)
{
    struct hpl_bench_place place;
    struct hpl_call call = {0};
    enum hpl_status status = hpl_bench_place_init(&call, &place);
    if (status != HPL_OK)
        fprintf(stderr, "hardplate-bench: %s\n", hpl_detail(&call, status));
    bool is_good = status == HPL_OK && (options->is_http          ? hpl_bench_kms_http(options, &place, rows)
                                        : options->is_reconfigure ? hpl_bench_kms_reconfigure(options, &place, rows)
                                                                  : hpl_bench_kms_wraps(options, &place, rows));
    hpl_bench_place_wipe(&place);
    return is_good;
}

int hpl_bench_kms(int argc, char **argv)
{
    struct hpl_bench_kms_options options;
    char cpu[128];
    int exit_status = parse(&options, argc, argv);
    if (exit_status >= 0)
        return exit_status;
    signal(SIGPIPE, SIG_IGN);
    hpl_bench_cpu_name(cpu, sizeof cpu);
    HPL_JSON_AUTO json_t *rows = json_array();
    bool is_good = measure(&options, rows);
    HPL_JSON_AUTO json_t *object = json_pack("{s:s, s:s, s:O}", "command", "kms", "cpu", cpu, "rows", rows);
    if (options.is_json && (json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(10)) != 0 || putchar('\n') == EOF))
        is_good = false;
    return is_good && fflush(stdout) == 0 ? 0 : 1;
}
