/* The fault matrix: every case of cases.c, dealt out to child processes that each have a token of their own. A child that crashes or
 * hangs costs the case it was at. Prints a line for each case that did not hold, and how many did.
 *   fault_matrix [--all | --every N] [--worker] [--jobs N] [TEXT]     (TEXT: only cases with this in their name) */
#include "tests/faults/faults.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/json.h"

#define MAX_JOBS 32u
#define THIN 97u         /* without --all: every so many'th case */
#define HANG_MS 90000u   /* after which a child is killed */
#define MAX_RESTARTS 200u
#define MAX_AGAIN 2u     /* runs more of a case that was only late, which may be the machine's doing */

/* Of one child, in memory that the parent shares. */
struct job {
    pid_t pid;
    _Atomic size_t next;         /* the number in order of its next case, while one runs: of that */
    _Atomic uint64_t started_ms; /* of the case that runs; 0: none */
    _Atomic size_t num_cases, num_held, num_hit, num_again;
    _Atomic unsigned longest_ms, num_restarts;
    _Atomic size_t longest;      /* the case that took longest to be READY */
};

struct plan {
    size_t *cases, num_cases;
    unsigned num_jobs;
    bool is_worker;
    const char *text;
};

static uint64_t now_ms(void)
{
    return hpl_clock_mono_ns() / 1000000u;
}

static void tell(const struct one_case *one, const char *why)
{
    char name[128], line[512];
    faults_name(one, name);
    int n = snprintf(line, sizeof line, "NOT HELD  %s: %s\n", name, why);
    if (write(STDOUT_FILENO, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1) < 0)
        _Exit(3);
}

/* --- a child ------------------------------------------------------------------------------------------------------------------------ */

static void note(struct job *job, size_t index, bool has_held, unsigned ready_ms, unsigned num_hit)
{
    atomic_fetch_add(&job->num_cases, 1);
    atomic_fetch_add(&job->num_held, has_held);
    atomic_fetch_add(&job->num_hit, num_hit > 0);
    if (ready_ms >= atomic_load(&job->longest_ms)) {
        atomic_store(&job->longest_ms, ready_ms);
        atomic_store(&job->longest, index);
    }
}

/* The log goes to a file: what the backend says of thousands of faults is not for the terminal. */
static void hush(const struct bench *bench)
{
    char path[200];
    snprintf(path, sizeof path, "%s/log", bench->hsm.dir);
    int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file >= 0 && !getenv("HPL_FAULTS_LOG"))
        dup2(file, STDERR_FILENO);
}

_Noreturn static void live(const struct plan *plan, struct job *job)
{
    struct bench bench;
    hpl_json_init();
    faults_bench_init(&bench, plan->is_worker);
    hush(&bench);
    for (size_t i; (i = atomic_load(&job->next)) < plan->num_cases; atomic_store(&job->next, i + plan->num_jobs)) {
        char why[256];
        unsigned ready_ms = 0, num_hit = 0;
        struct one_case one = faults_case(plan->cases[i]);
        atomic_store(&job->started_ms, now_ms());
        faults_run(&bench, &one, why, &ready_ms, &num_hit);
        for (unsigned again = 0; again < MAX_AGAIN && strncmp(why, LATE, strlen(LATE)) == 0; again++) {
            atomic_store(&job->started_ms, now_ms());
            atomic_fetch_add(&job->num_again, 1);
            faults_run(&bench, &one, why, &ready_ms, &num_hit);
        }
        if (why[0])
            tell(&one, why);
        note(job, plan->cases[i], !why[0], ready_ms, num_hit);
        atomic_store(&job->started_ms, 0);
    }
    faults_bench_wipe(&bench);
    faults_remove_dirs();
    _Exit(0);
}

/* --- the parent ------------------------------------------------------------------------------------------------------------------------ */

static void start(const struct plan *plan, struct job *job)
{
    fflush(NULL);
    pid_t pid = fork();
    EXPECT(pid >= 0);
    if (pid == 0)
        live(plan, job);
    job->pid = pid;
}

/* A child ended before its time: the case it was at did not hold, the next one goes to a new child. */
static void bury(const struct plan *plan, struct job *job, int how)
{
    char why[64];
    size_t at = atomic_load(&job->next);
    job->pid = 0;
    if (WIFEXITED(how) && (WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == 77)) {
        if (WEXITSTATUS(how) == 77)
            exit(77);
        return;
    }
    if (at >= plan->num_cases)
        return;
    struct one_case one = faults_case(plan->cases[at]);
    snprintf(why, sizeof why, WIFSIGNALED(how) ? "the process died of signal %d" : "the process ended with status %d",
             WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    tell(&one, atomic_load(&job->started_ms) ? why : "the token could not be set up");
    note(job, plan->cases[at], false, 0, 1);
    atomic_store(&job->started_ms, 0);
    atomic_store(&job->next, at + plan->num_jobs);
    if (atomic_fetch_add(&job->num_restarts, 1) < MAX_RESTARTS)
        start(plan, job);
}

static void kill_hanging(struct job *job)
{
    uint64_t started_ms = atomic_load(&job->started_ms);
    if (job->pid && started_ms && now_ms() - started_ms > HANG_MS)
        kill(job->pid, SIGKILL);
}

static void run_all(const struct plan *plan, struct job *jobs)
{
    for (unsigned i = 0; i < plan->num_jobs; i++) {
        atomic_store(&jobs[i].next, i);
        start(plan, &jobs[i]);
    }
    for (unsigned num_alive = plan->num_jobs; num_alive;) {
        int how;
        pid_t pid = waitpid(-1, &how, WNOHANG);
        num_alive = 0;
        for (unsigned i = 0; i < plan->num_jobs; i++) {
            if (pid > 0 && jobs[i].pid == pid)
                bury(plan, &jobs[i], how);
            kill_hanging(&jobs[i]);
            num_alive += jobs[i].pid != 0;
        }
        if (pid <= 0)
            usleep(20000);
    }
}

static int report(const struct plan *plan, const struct job *jobs)
{
    size_t num_cases = 0, num_held = 0, num_hit = 0, num_again = 0, longest = 0;
    unsigned longest_ms = 0;
    char name[128];
    for (unsigned i = 0; i < plan->num_jobs; i++) {
        num_cases += jobs[i].num_cases;
        num_held += jobs[i].num_held;
        num_hit += jobs[i].num_hit;
        num_again += jobs[i].num_again;
        if (jobs[i].longest_ms >= longest_ms) {
            longest_ms = jobs[i].longest_ms;
            longest = jobs[i].longest;
        }
    }
    struct one_case one = faults_case(longest);
    faults_name(&one, name);
    printf("%zu cases, %zu held; the fault struck in %zu of them; %zu runs were made again because they were late\n", num_cases, num_held, num_hit, num_again);
    printf("longest until READY after the fault ended: %u ms (%s)\n", longest_ms, name);
    return num_cases == plan->num_cases && num_held == num_cases ? 0 : 1;
}

/* Calls that do not return, and crashes, can be outlived only by a worker. */
static bool is_chosen(const struct plan *plan, size_t index, size_t every)
{
    struct one_case one = faults_case(index);
    char name[128];
    faults_name(&one, name);
    if ((plan->text && !strstr(name, plan->text)) || ((one.when == HANGS || one.code->rv == SHIM_CRASH) && !plan->is_worker))
        return false;
    return every == 1 || index < faults_num_short();
}

static void choose(struct plan *plan, size_t every)
{
    plan->cases = calloc(faults_num_cases(), sizeof *plan->cases);
    EXPECT(plan->cases != NULL);
    for (size_t i = 0, n = 0; i < faults_num_cases(); i++)
        if (is_chosen(plan, i, every) && n++ % every == 0)
            plan->cases[plan->num_cases++] = i;
}

int main(int argc, char **argv)
{
    struct plan plan = {.num_jobs = 8};
    size_t every = THIN;
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--all") == 0)
            every = 1;
        else if (strcmp(argv[i], "--worker") == 0)
            plan.is_worker = true;
        else if (strcmp(argv[i], "--every") == 0 && i + 1 < argc)
            every = (size_t)strtoul(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--jobs") == 0 && i + 1 < argc)
            plan.num_jobs = (unsigned)strtoul(argv[++i], NULL, 10);
        else
            plan.text = argv[i];
    EXPECT(every > 0 && plan.num_jobs > 0 && plan.num_jobs <= MAX_JOBS);
    if (!softhsm_is_there())
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    choose(&plan, every);
    struct job *jobs = mmap(NULL, MAX_JOBS * sizeof *jobs, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    EXPECT(jobs != MAP_FAILED);
    run_all(&plan, jobs);
    int code = report(&plan, jobs);
    free(plan.cases);
    return code;
}
