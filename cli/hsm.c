/* Asking a token itself: what speaks Cryptoki is another program, beside this one, so that a vendor's module never runs here. One thread. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"

#define PROGRAM "hardplate-tokend"

/* PROGRAM in the folder of this program. */
static bool find_program(char path[static PATH_MAX])
{
    ssize_t len = readlink("/proc/self/exe", path, PATH_MAX - sizeof PROGRAM - 1);
    if (len <= 0)
        return false;
    path[len] = '\0';
    char *slash = strrchr(path, '/');
    if (!slash)
        return false;
    strcpy(slash + 1, PROGRAM);
    return access(path, X_OK) == 0;
}

/* Ends this process's life as this program; comes back only when that fails. */
enum hpl_exit hpl_cli_hsm_conformance(const struct hpl_client *client, int argc, char **argv)
{
    static const char *const secrets[] = {"HARDPLATE_SECRET_KEY", "HARDPLATE_USER_SECRET_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"};
    char path[PATH_MAX], *arguments[64] = {(char *)PROGRAM, (char *)"--conformance"};
    size_t num = 2;
    if (!find_program(path)) {
        fprintf(stderr, "hardplate: %s is not beside this program; install it, it comes with hardplated\n", PROGRAM);
        return HPL_EXIT_FAILED;
    }
    if ((size_t)argc + 5 > HPL_COUNT(arguments))
        return hpl_cli_usage_error(client, "too many arguments");
    if (client->is_json) {
        arguments[num++] = (char *)"--report";
        arguments[num++] = (char *)"-";
    }
    for (int i = 1; i < argc; i++)
        arguments[num++] = argv[i];
    for (size_t i = 0; i < HPL_COUNT(secrets); i++) /* a vendor's module has no use for them */
        unsetenv(secrets[i]);
    execv(path, arguments);
    fprintf(stderr, "hardplate: cannot run %s: %s\n", path, strerror(errno));
    return HPL_EXIT_FAILED;
}
