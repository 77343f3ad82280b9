/* The worker as a process: the program beside ours, an environment of known names only, four descriptors. Supervisor's thread; check
 * on any thread. posix_spawn, for the daemon has many threads. */
#include "backends/pkcs11/tokend/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backends/pkcs11/tokend/tokend.h"
#include "base/clock.h"

#define PROGRAM "hardplate-tokend"
#define SOCKET_FD 3
#define MAX_VARIABLES 64u

extern char **environ;

/* Where vendors' modules look for their settings; a trailing * stands for any rest. Nothing that tells the loader what to load. */
static const char *const known_variables[] = {
    "SOFTHSM2_CONF", "ChrystokiConfigurationPath", "CKNFAST_*", "NFAST_*", "YUBIHSM_PKCS11_CONF", "CS_PKCS11_R2_CFG", "CS_PKCS11_R3_CFG",
    "KRYOPTIC_CONF", "PKCS11SPY", "PKCS11SPY_OUTPUT", "CREDENTIALS_DIRECTORY", "LANG", "LC_ALL", "TZ", "PATH",
};

/* --- what it is given ----------------------------------------------------------------------------------------------------------------- */

static bool is_called(const char *variable, size_t name_len, const char *pattern)
{
    size_t len = strlen(pattern);
    if (len && pattern[len - 1] == '*')
        return name_len >= len - 1 && strncmp(variable, pattern, len - 1) == 0;
    return name_len == len && strncmp(variable, pattern, len) == 0;
}

static bool is_passed(const char *variable, const struct hpl_tokend_option *option)
{
    size_t name_len = strcspn(variable, "=");
    for (size_t i = 0; i < HPL_COUNT(known_variables); i++)
        if (is_called(variable, name_len, known_variables[i]))
            return true;
    for (size_t i = 0; i < option->num_environment; i++)
        if (is_called(variable, name_len, option->environment[i]))
            return true;
    return false;
}

static void pick_variables(const struct hpl_tokend_option *option, char *out[static MAX_VARIABLES + 1])
{
    size_t num = 0;
    for (char **variable = environ; *variable && num < MAX_VARIABLES; variable++)
        if (is_passed(*variable, option))
            out[num++] = *variable;
    out[num] = NULL;
}

static enum hpl_status find_program(struct hpl_call *call, const struct hpl_tokend_option *option, char path[static PATH_MAX])
{
    char own[PATH_MAX];
    if (option->program)
        snprintf(path, PATH_MAX, "%s", option->program);
    else {
        ssize_t len = readlink("/proc/self/exe", own, sizeof own - 1);
        own[len < 0 ? 0 : len] = '\0';
        char *slash = strrchr(own, '/');
        if (!slash || (size_t)(slash - own) + sizeof "/" PROGRAM > sizeof own)
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the folder of this program cannot be found (/proc/self/exe)");
        strcpy(slash + 1, PROGRAM);
        strcpy(path, own);
    }
    if (access(path, X_OK) == 0)
        return HPL_OK;
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s: %s: install it beside the daemon, or set isolation to inprocess", path, strerror(errno));
}

static enum hpl_status check_user(struct hpl_call *call, const char *name)
{
    char room[4096];
    struct passwd user, *found = NULL;
    if (getpwnam_r(name, &user, room, sizeof room, &found) != 0 || !found)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "tokend.user: there is no user '%.60s' (useradd --system --no-create-home %.60s)", name, name);
    if (geteuid() != 0 && user.pw_uid != geteuid())
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "tokend.user: only a daemon that runs as root can start its worker as '%.60s'", name);
    return HPL_OK;
}

enum hpl_status hpl_p11_tokend_check(struct hpl_call *call, const struct hpl_tokend_option *option)
{
    char path[PATH_MAX];
    HPL_TRY(find_program(call, option, path));
    for (size_t i = 0; i < option->num_environment; i++)
        if (strncmp(option->environment[i], "LD_", 3) == 0 || strchr(option->environment[i], '='))
            return hpl_fail(call, HPL_INVALID_CONFIGURATION, "tokend.environment: '%.60s' is not passed on: names only, and none of the loader's",
                            option->environment[i]);
    return option->user ? check_user(call, option->user) : HPL_OK;
}

/* --- starting ------------------------------------------------------------------------------------------------------------------------- */

/* A process group of its own: what a terminal sends the daemon is not for the worker, who ends when the daemon is done with it. */
static int start(const char *path, char **arguments, char **variables, int fd, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, fd, SOCKET_FD);
    posix_spawn_file_actions_addclosefrom_np(&actions, SOCKET_FD + 1);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    int error = posix_spawn(pid, path, &actions, &attributes, arguments, variables);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

enum hpl_status hpl_tokend_spawn(struct hpl_call *call, const struct hpl_tokend_option *option, const char *latch_dir, struct hpl_tokend_child *out)
{
    char path[PATH_MAX];
    char *variables[MAX_VARIABLES + 1];
    const char *arguments[] = {PROGRAM, "--folder", latch_dir, hpl_secret_is_locked() ? "--lock" : "--may-swap", option->user ? "--user" : NULL,
                               option->user, NULL};
    int pair[2];
    *out = (struct hpl_tokend_child){.fd = -1};
    HPL_TRY(hpl_p11_tokend_check(call, option));
    HPL_TRY(find_program(call, option, path));
    pick_variables(option, variables);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return hpl_fail(call, HPL_UNAVAILABLE, "no socket for hardplate-tokend: %s", strerror(errno));
    int error = start(path, (char **)arguments, variables, pair[1], &out->pid);
    close(pair[1]);
    if (error) {
        close(pair[0]);
        out->pid = 0;
        return hpl_fail(call, HPL_UNAVAILABLE, "%s cannot be started: %s", path, strerror(error));
    }
    out->fd = pair[0];
    return HPL_OK;
}

/* --- ending --------------------------------------------------------------------------------------------------------------------------- */

static bool has_ended(pid_t pid, int *result, int flags)
{
    pid_t got;
    do
        got = waitpid(pid, result, flags);
    while (got < 0 && errno == EINTR);
    return got != 0;
}

void hpl_tokend_reap(struct hpl_tokend_child *child, unsigned patience_ms, char why[static 32])
{
    const struct timespec moment = {.tv_nsec = 2000000};
    uint64_t until_ns = hpl_clock_mono_ns() + patience_ms * 1000000ull;
    int result = 0;
    if (child->fd >= 0)
        close(child->fd);
    child->fd = -1;
    why[0] = '\0';
    if (!child->pid)
        return;
    bool is_gone = has_ended(child->pid, &result, WNOHANG);
    while (!is_gone && hpl_clock_mono_ns() < until_ns) {
        nanosleep(&moment, NULL);
        is_gone = has_ended(child->pid, &result, WNOHANG);
    }
    if (!is_gone) {
        kill(child->pid, SIGKILL);
        has_ended(child->pid, &result, 0);
    }
    child->pid = 0;
    if (WIFSIGNALED(result))
        snprintf(why, 32, "signal %d", WTERMSIG(result));
    else
        snprintf(why, 32, "exit status %d", WEXITSTATUS(result));
}
