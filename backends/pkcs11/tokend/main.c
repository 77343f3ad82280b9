/* hardplate-tokend: holds one token for a hardplated, which starts it and speaks to it over descriptor 3. Gives up what it does not
 * need before it loads a vendor's module, and ends with the daemon. Standard error is the daemon's: one JSON line an event. */
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/pkcs11/conformance/conformance.h"
#include "backends/pkcs11/tokend/serve.h"
#include "base/json.h"
#include "base/log.h"

#define SOCKET_FD 3
#define SECRET_BYTES (2u << 20)

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char usage[] =
    "Usage: hardplate-tokend --folder DIR [--user NAME] (--lock|--may-swap)\n"
    "\n"
    "Holds a PKCS#11 token for hardplated, which starts it; it is of no use by hand (docs/pkcs11.md).\n"
    "\n"
    "  --folder DIR   where refused PINs are written down\n"
    "  --user NAME    become this user before the token's module is loaded\n"
    "  --lock         end when memory cannot be locked; --may-swap: go on\n"
    "  --version, --help\n"
    "\n"
    "hardplate hsm conformance runs it too, with --conformance before everything else: then it asks a token what it does, and ends.\n";

struct options {
    const char *folder, *user;
    bool can_swap;
};

/* -1: go on; otherwise the exit code. */
static int read_options(int argc, char **argv, struct options *options)
{
    static const struct option longs[] = {{"folder", required_argument, NULL, 'f'}, {"user", required_argument, NULL, 'u'},
                                          {"lock", no_argument, NULL, 'l'},         {"may-swap", no_argument, NULL, 's'},
                                          {"version", no_argument, NULL, 'V'},      {"help", no_argument, NULL, 'h'}, {0}};
    int option;
    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1)
        switch (option) {
        case 'f': options->folder = optarg; break;
        case 'u': options->user = optarg; break;
        case 'l': options->can_swap = false; break;
        case 's': options->can_swap = true; break;
        case 'V': puts("hardplate-tokend " HPL_VERSION); return EXIT_DONE;
        case 'h': fputs(usage, stdout); return EXIT_DONE;
        default: return EXIT_USAGE;
        }
    if (optind == argc && options->folder)
        return -1;
    fputs(usage, stderr);
    return EXIT_USAGE;
}

static enum hpl_status fail_errno(struct hpl_call *call, const char *what, const char *name)
{
    return hpl_fail(call, HPL_UNAVAILABLE, "%s %s: %s", what, name, strerror(errno));
}

/* The other end of the socket is the process that started us, and it is still there. */
static bool has_daemon(void)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(SOCKET_FD, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == getppid();
}

/* As root only: the folder is handed to the user, who could not reach it by its path. */
static enum hpl_status become(struct hpl_call *call, const char *name)
{
    const struct passwd *user = getpwnam(name);
    if (!user)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "there is no user '%s'", name);
    if (user->pw_uid == geteuid())
        return HPL_OK;
    if (chown(".", user->pw_uid, user->pw_gid) != 0 || initgroups(name, user->pw_gid) != 0 || setresgid(user->pw_gid, user->pw_gid, user->pw_gid) != 0 ||
        setresuid(user->pw_uid, user->pw_uid, user->pw_uid) != 0)
        return fail_errno(call, "cannot become user", name);
    return setuid(0) == 0 ? hpl_fail(call, HPL_INTERNAL, "user %s can become root again", name) : HPL_OK;
}

/* The signal of the parent's death and the dump flag are lost when the user changes, so they come after. */
static enum hpl_status give_up_rights(struct hpl_call *call, const struct options *options)
{
    const struct rlimit none = {0, 0};
    umask(077);
    if (chdir(options->folder) != 0)
        return fail_errno(call, "cannot enter", options->folder);
    if (setrlimit(RLIMIT_CORE, &none) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail_errno(call, "cannot give up", "rights");
    if (options->user)
        HPL_TRY(become(call, options->user));
    if (prctl(PR_SET_DUMPABLE, 0) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return fail_errno(call, "cannot give up", "rights");
    return has_daemon() ? HPL_OK : hpl_fail(call, HPL_UNAVAILABLE, "the daemon is gone");
}

/* What a terminal or a service manager sends to a whole group is the daemon's to answer: it ends us when it is done. */
static void ignore_signals(void)
{
    static const int ignored[] = {SIGPIPE, SIGTERM, SIGINT, SIGHUP, SIGQUIT};
    for (size_t i = 0; i < HPL_COUNT(ignored); i++)
        signal(ignored[i], SIG_IGN);
}

/* For the command line, which does not speak Cryptoki: no daemon, the caller's user, a report. */
static int probe(int argc, char **argv)
{
    const struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    prctl(PR_SET_DUMPABLE, 0);
    hpl_json_init();
    int code = hpl_p11_conformance_main(argc, argv);
    fflush(NULL);
    _exit(code); /* as below */
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--conformance") == 0)
        return probe(argc - 1, argv + 1);
    struct options options = {0};
    struct hpl_call call = {0};
    int code = read_options(argc, argv, &options);
    if (code >= 0)
        return code;
    if (!has_daemon()) {
        fputs("hardplate-tokend: is started by hardplated, not by hand (see docs/pkcs11.md)\n", stderr);
        return EXIT_USAGE;
    }
    ignore_signals();
    hpl_json_init();
    enum hpl_status status = give_up_rights(&call, &options);
    if (status == HPL_OK)
        status = hpl_secret_init(&call, SECRET_BYTES, options.can_swap ? HPL_SECRET_MAY_SWAP : HPL_SECRET_MUST_LOCK);
    if (status != HPL_OK) {
        hpl_log(HPL_LOG_ERROR, "tokend.not_started", HPL_S("why", hpl_detail(&call, status)));
        return EXIT_FAILED;
    }
    bool is_well = hpl_tokend_serve(SOCKET_FD, ".");
    _exit(is_well ? EXIT_DONE : EXIT_FAILED); /* some tokens' modules crash in their destructors at exit */
}
