/* The output file. The signal handler only unlinks and dies of the signal again. */
#include "cli/output.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

static char to_unlink[PATH_MAX];
static volatile sig_atomic_t has_temporary;

static void unlink_and_die(int number)
{
    if (has_temporary)
        unlink(to_unlink);
    raise(number); /* SA_RESETHAND: it ends the process as soon as the handler returns */
}

static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU, SIGVTALRM, SIGPROF, SIGIO};

static void watch_signals(const char *temporary)
{
    struct sigaction action = {.sa_handler = unlink_and_die, .sa_flags = (int)SA_RESETHAND};
    signal(SIGXFSZ, SIG_IGN); /* the write fails instead, and says so */
    snprintf(to_unlink, sizeof to_unlink, "%s", temporary);
    has_temporary = 1;
    for (size_t i = 0; i < HPL_COUNT(numbers); i++) {
        struct sigaction before;
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

/* One that comes while there is a file and no handler yet waits for the handler. */
static int make_temporary(char *temporary)
{
    sigset_t held, before;
    sigemptyset(&held);
    for (size_t i = 0; i < HPL_COUNT(numbers); i++)
        sigaddset(&held, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &held, &before);
    int fd = mkostemp(temporary, O_CLOEXEC), error = errno;
    if (fd >= 0)
        watch_signals(temporary);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return fd;
}

static enum hpl_status there_already(struct hpl_call *call, const char *path)
{
    return hpl_fail(call, HPL_CONFLICT, "%s is there already: --force replaces it, -o names another file", path);
}

static enum hpl_status check_target(struct hpl_call *call, const char *path, bool may_replace)
{
    struct stat st;
    if (lstat(path, &st) != 0)
        return errno == ENOENT ? HPL_OK : hpl_file_error(call, "cannot look at", path);
    if (!S_ISREG(st.st_mode))
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "%s is not a regular file: give -o - and redirect", path);
    return may_replace ? HPL_OK : there_already(call, path);
}

enum hpl_status hpl_output_open(struct hpl_call *call, struct hpl_output *out, const char *path, bool may_replace, unsigned mode)
{
    *out = (struct hpl_output){.fd = STDOUT_FILENO, .path = path, .may_replace = may_replace};
    if (strcmp(path, "-") == 0)
        return HPL_OK;
    out->fd = -1;
    HPL_TRY(check_target(call, path, may_replace));
    if (snprintf(out->temporary, sizeof out->temporary, "%s.XXXXXX", path) >= (int)sizeof out->temporary)
        return hpl_fail(call, HPL_INVALID_ARGUMENT, "the path is too long: %.80s…", path);
    out->fd = make_temporary(out->temporary);
    if (out->fd < 0)
        return hpl_file_error(call, "cannot create a file beside", path);
    if (fchmod(out->fd, mode & 0777) == 0)
        return HPL_OK;
    enum hpl_status status = hpl_file_error(call, "cannot chmod", out->temporary);
    hpl_output_drop(out);
    return status;
}

/* Without a file of that name being replaced; by a hard link where the file system knows no such rename. */
static int rename_to_new(const char *from, const char *to)
{
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    return link(from, to) == 0 ? unlink(from) : -1;
}

static enum hpl_status name_it(struct hpl_call *call, const struct hpl_output *out)
{
    if ((out->may_replace ? rename(out->temporary, out->path) : rename_to_new(out->temporary, out->path)) == 0)
        return HPL_OK;
    return errno == EEXIST ? there_already(call, out->path) : hpl_file_error(call, "cannot name", out->path);
}

enum hpl_status hpl_output_finish(struct hpl_call *call, struct hpl_output *out)
{
    char folder[PATH_MAX];
    if (!out->temporary[0])
        return HPL_OK;
    enum hpl_status status = fsync(out->fd) == 0 ? HPL_OK : hpl_file_error(call, "cannot sync", out->temporary);
    int fd = out->fd;
    out->fd = -1;
    if (close(fd) != 0 && status == HPL_OK)
        status = hpl_file_error(call, "cannot close", out->temporary);
    if (status == HPL_OK)
        status = name_it(call, out);
    if (status != HPL_OK) {
        hpl_output_drop(out);
        return status;
    }
    has_temporary = 0;
    out->temporary[0] = '\0';
    snprintf(folder, sizeof folder, "%s", out->path);
    return hpl_file_sync_dir(call, dirname(folder));
}

void hpl_output_drop(struct hpl_output *out)
{
    if (!out->temporary[0])
        return;
    if (out->fd >= 0)
        close(out->fd);
    unlink(out->temporary);
    has_temporary = 0;
    *out = (struct hpl_output){.fd = -1};
}
