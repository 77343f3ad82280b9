/* hardplate-bench: what this machine does, by sub-command. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "bench/bench.h"

struct command {
    const char *name, *text;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
    {"gcm", "AES-256-GCM: our kernels, our provider, OpenSSL's, peers", hpl_bench_gcm},
    {"provider", "AES-256-GCM through EVP: our provider, OpenSSL's", hpl_bench_provider},
    {"seal", "the stored format on one core, beside others", hpl_bench_seal},
    {"workers", "the stored format and one message, by number of threads", hpl_bench_workers},
    {"hash", "the checksums of S3", hpl_bench_hash},
    {"kms", "wraps and unwraps; data keys over HTTP, beside other servers", hpl_bench_kms},
};

static void print_usage(FILE *to)
{
    fprintf(to, "usage: hardplate-bench COMMAND [OPTION]...\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(to, "  %-8s %s\n", commands[i].name, commands[i].text);
    fprintf(to, "hardplate-bench COMMAND --help tells its options.\n");
}

/* A table that did not arrive is no success. */
static int flush_output(int exit_status)
{
    if ((fflush(stdout) == 0 && !ferror(stdout)) || exit_status)
        return exit_status;
    perror("hardplate-bench: cannot write standard output");
    return 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--help") == 0) {
        print_usage(stdout);
        return flush_output(0);
    }
    hpl_json_init();
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return flush_output(commands[i].run(argc - 1, argv + 1));
    if (argc > 1)
        fprintf(stderr, "hardplate-bench: no command '%s'\n", argv[1]);
    print_usage(stderr);
    return HPL_BENCH_USAGE;
}
