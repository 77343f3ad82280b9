/* Asks the program of other stored formats: a line each way. */
#include "bench/formats.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

/* pipes: its input, its output; each reading end first. */
static bool spawn(pid_t *pid, const char *path, int pipes[2][2])
{
    char *const argv[] = {(char *)path, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipes[0][0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, pipes[1][1], STDOUT_FILENO);
    int failed = posix_spawn(pid, path, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipes[0][0]);
    close(pipes[1][1]);
    return failed == 0;
}

static void read_names(struct hpl_bench_formats *formats)
{
    char line[512], *rest = NULL;
    if (!fgets(line, sizeof line, formats->from))
        return;
    for (char *name = strtok_r(line, " \n", &rest); name && formats->count < HPL_BENCH_MAX_FORMATS; name = strtok_r(NULL, " \n", &rest))
        snprintf(formats->names[formats->count++], sizeof formats->names[0], "%s", name);
}

void hpl_bench_formats_start(struct hpl_bench_formats *formats)
{
    const char *path = getenv("HPL_BENCH_STORED");
    int pipes[2][2];
    *formats = (struct hpl_bench_formats){0};
    if (!path || !*path)
        return;
    HPL_CHECK(pipe2(pipes[0], O_CLOEXEC) == 0 && pipe2(pipes[1], O_CLOEXEC) == 0);
    bool is_running = spawn(&formats->pid, path, pipes);
    formats->to = fdopen(pipes[0][1], "w");
    formats->from = fdopen(pipes[1][0], "r");
    HPL_CHECK(formats->to && formats->from);
    if (is_running)
        read_names(formats);
    else
        formats->pid = 0;
    if (formats->count == 0)
        fprintf(stderr, "hardplate-bench: other formats left out: %s does not run\n", path);
}

double hpl_bench_formats_time(struct hpl_bench_formats *formats, size_t format, const char *op, size_t size, size_t count)
{
    char line[64];
    fprintf(formats->to, "%s %s %zu %zu\n", formats->names[format], op, size, count);
    HPL_CHECK(fflush(formats->to) == 0 && fgets(line, sizeof line, formats->from));
    return strtod(line, NULL);
}

void hpl_bench_formats_stop(struct hpl_bench_formats *formats)
{
    if (formats->to)
        fclose(formats->to);
    if (formats->from)
        fclose(formats->from);
    if (formats->pid)
        waitpid(formats->pid, NULL, 0);
}
