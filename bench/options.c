/* The options that every sub-command of hardplate-bench has. */
#include "bench/bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_SIZE (1u << 30)

static void print_usage(FILE *to, const char *command, const char *sizes)
{
    fprintf(to, "usage: hardplate-bench %s [--json] [--quick] [--seconds S] [--sizes BYTES,...] [--plot FILE.svg]\n"
                "  --json       one JSON object instead of the table\n"
                "  --quick      few sizes and little time: whether it runs, not how fast\n"
                "  --seconds S  of measuring, for each row (0.1)\n"
                "  --sizes ...  of messages, in bytes (%s)\n"
                "  --plot FILE  throughput by size, as SVG\n", command, sizes);
}

static bool parse_sizes(struct hpl_bench_options *options, const char *text)
{
    char *end;
    options->num_sizes = 0;
    do {
        errno = 0;
        unsigned long long size = *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
        if (size == 0 || size > MAX_SIZE || errno || options->num_sizes == HPL_BENCH_MAX_SIZES)
            return false;
        options->sizes[options->num_sizes++] = (size_t)size;
        text = end + 1;
    } while (*end == ',');
    return *end == '\0';
}

static bool parse_seconds(struct hpl_bench_options *options, const char *text)
{
    char *end;
    options->seconds = strtod(text, &end);
    return end != text && *end == '\0' && options->seconds > 0 && options->seconds <= 3600;
}

static bool be_quick(struct hpl_bench_options *options, const char *sizes)
{
    options->seconds = 0.001;
    options->num_samples = 3;
    return parse_sizes(options, sizes);
}

int hpl_bench_parse(struct hpl_bench_options *options, int argc, char **argv, const char *sizes, const char *quick_sizes)
{
    static const struct option table[] = {
        {"json", no_argument, NULL, 'j'},
        {"quick", no_argument, NULL, 'q'},
        {"seconds", required_argument, NULL, 's'},
        {"sizes", required_argument, NULL, 'z'},
        {"plot", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    const char *given_sizes = NULL, *given_seconds = NULL; /* they count wherever --quick stands */
    *options = (struct hpl_bench_options){.seconds = 0.1, .num_samples = HPL_BENCH_MAX_SAMPLES};
    bool is_right = parse_sizes(options, sizes);
    for (int option; is_right && (option = getopt_long(argc, argv, "", table, NULL)) != -1;)
        switch (option) {
        case 'j': options->is_json = true; break;
        case 'q': is_right = be_quick(options, quick_sizes); break;
        case 's': given_seconds = optarg; break;
        case 'z': given_sizes = optarg; break;
        case 'p': options->plot = optarg; break;
        case 'h': print_usage(stdout, argv[0], sizes); return 0;
        default: is_right = false;
        }
    is_right = is_right && (!given_sizes || parse_sizes(options, given_sizes)) && (!given_seconds || parse_seconds(options, given_seconds));
    if (is_right && optind == argc)
        return -1;
    print_usage(stderr, argv[0], sizes);
    return HPL_BENCH_USAGE;
}

size_t hpl_bench_max_size(const struct hpl_bench_options *options)
{
    size_t most = 1;
    for (size_t i = 0; i < options->num_sizes; i++)
        most = options->sizes[i] > most ? options->sizes[i] : most;
    return most;
}
