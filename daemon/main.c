/* hardplated: keeps stored objects encrypted under master keys that never leave a token. The main thread opens the house, waits for signals,
 * closes it. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <systemd/sd-daemon.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/log.h"
#include "daemon/check.h"
#include "daemon/dev.h"
#include "daemon/hardening.h"
#include "daemon/house.h"
#include "http/listen.h"

#define REAP_EVERY_S 60
#define STALL_MS 10000u /* an I/O thread waits for nothing but its own sockets */

enum { EXIT_DONE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

static const char usage[] =
    "Usage: hardplated --config FILE [--check]\n"
    "       hardplated --dev DIR [--listen HOST:PORT] [--backend pkcs11|local|none]\n"
    "                  [--isolation inprocess|worker] [--check]\n"
    "\n"
    "Keeps S3 objects encrypted under master keys that stay in a token.\n"
    "\n"
    "  --config FILE      run from a YAML file (docs/configuration.md)\n"
    "  --dev DIR          run with everything in DIR: token, catalog, objects, credentials;\n"
    "                     writes DIR/env when ready (try: . DIR/env)\n"
    "  --listen ADDRESS   HOST:PORT; port 0 takes a free one (default 127.0.0.1:9000)\n"
    "  --backend NAME     with --dev: where master keys live at the first start (default pkcs11)\n"
    "  --isolation WHERE  with --dev: whether the token's module runs in the daemon (inprocess, default) or in\n"
    "                     a process of its own (worker, as with a configuration file)\n"
    "  --check            say what is wrong with this machine or configuration, and end\n"
    "  --version, --help\n";

struct options {
    const char *config, *dev, *listen, *backend, *isolation;
    bool is_check;
};

static int usage_error(const char *fmt, const char *what)
{
    fprintf(stderr, "hardplated: ");
    fprintf(stderr, fmt, what);
    fprintf(stderr, "; see hardplated --help\n");
    return EXIT_USAGE;
}

/* -1: go on; otherwise the exit code. */
static int read_options(int argc, char **argv, struct options *options)
{
    static const struct option longs[] = {
        {"config", required_argument, NULL, 'c'}, {"dev", required_argument, NULL, 'd'}, {"listen", required_argument, NULL, 'l'},
        {"backend", required_argument, NULL, 'b'}, {"isolation", required_argument, NULL, 'i'}, {"check", no_argument, NULL, 'k'}, {"version", no_argument, NULL, 'V'},
        {"help", no_argument, NULL, 'h'}, {0}};
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, "h", longs, NULL)) != -1)
        switch (option) {
        case 'c': options->config = optarg; break;
        case 'd': options->dev = optarg; break;
        case 'l': options->listen = optarg; break;
        case 'b': options->backend = optarg; break;
        case 'i': options->isolation = optarg; break;
        case 'k': options->is_check = true; break;
        case 'V': puts("hardplated " HPL_VERSION); return EXIT_DONE;
        case 'h': fputs(usage, stdout); return EXIT_DONE;
        default: return usage_error("'%s' is not understood", argv[optind - 1]);
        }
    if (optind < argc)
        return usage_error("'%s' is not understood", argv[optind]);
    if (!options->config == !options->dev)
        return usage_error("%s", "give either --config FILE or --dev DIR");
    if (options->backend && !options->dev)
        return usage_error("%s", "--backend goes with --dev");
    if (options->isolation && !options->dev)
        return usage_error("%s", "--isolation goes with --dev; with --config the file says it");
    if (options->dev && options->listen && strncmp(options->listen, HPL_HTTP_UNIX, strlen(HPL_HTTP_UNIX)) == 0)
        return usage_error("with --dev --listen takes HOST:PORT, not '%s': no client of DIR/env would reach it", options->listen);
    if (!options->isolation)
        options->isolation = "inprocess";
    if (strcmp(options->isolation, "inprocess") != 0 && strcmp(options->isolation, "worker") != 0)
        return usage_error("--isolation must be inprocess or worker, not '%s'", options->isolation);
    if (!options->backend)
        options->backend = "pkcs11";
    if (strcmp(options->backend, "pkcs11") != 0 && strcmp(options->backend, "local") != 0 && strcmp(options->backend, "none") != 0)
        return usage_error("--backend must be pkcs11, local or none, not '%s'", options->backend);
    return -1;
}

static int fail(const struct hpl_call *call, enum hpl_status status)
{
    fprintf(stderr, "hardplated: %s\n", hpl_detail(call, status));
    return EXIT_FAILED;
}

static void set_log_level(const char *name)
{
    static const char *const names[] = {"debug", "info", "warn", "error"};
    for (size_t i = 0; name && i < HPL_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0)
            hpl_log_set_level((enum hpl_log_level)i);
}

/* The dev folder as an absolute path: it is made here, since realpath wants it there. */
static enum hpl_status dev_folder(struct hpl_call *call, const char *dir, char absolute[static PATH_MAX])
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return hpl_fail(call, HPL_IO, "cannot create the folder %s: %s", dir, strerror(errno));
    if (!realpath(dir, absolute))
        return hpl_fail(call, HPL_IO, "cannot find %s: %s", dir, strerror(errno));
    return HPL_OK;
}

static enum hpl_status load_config(struct hpl_call *call, const struct options *options, struct hpl_dev *dev, char folder[static PATH_MAX],
                                   struct hpl_config **config)
{
    if (options->config) {
        HPL_TRY(hpl_config_load(call, options->config, config));
        if (options->listen) {
            free((*config)->listen);
            (*config)->listen = strdup(options->listen);
        }
        return HPL_OK;
    }
    HPL_TRY(dev_folder(call, options->dev, folder));
    HPL_TRY(hpl_house_lock_memory(call, &(struct hpl_config){0})); /* before the token's PINs */
    *dev = (struct hpl_dev){.dir = folder, .backend = options->backend, .listen = options->listen ? options->listen : "127.0.0.1:9000",
                            .isolation = options->isolation};
    return hpl_dev_prepare(call, dev, config);
}

/* 40 characters of base64 from 30 random bytes. */
static enum hpl_status new_secret_key(struct hpl_call *call, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO random = hpl_secret_random(30);
    struct hpl_buf text = {0};
    if (random)
        hpl_base64_put(&text, random->bytes, random->len);
    *out = text.len ? hpl_secret_from(text.data, text.len) : NULL;
    hpl_buf_wipe(&text);
    return *out ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
}

/* Fixed names, so that they are the same at every start; the secrets are random and made once. */
static enum hpl_status dev_credential(struct hpl_call *call, struct hpl_house *house, enum hpl_role role, struct hpl_dev_credential *out)
{
    const char *fixed = role == HPL_ROLE_ADMIN ? "hardplate-admin" : "hardplate-user";
    struct hpl_identity identity;
    struct hpl_call quiet = {0};
    snprintf(out->access_key, sizeof out->access_key, "%s", fixed);
    enum hpl_status status = hpl_auth_find(&quiet, house->auth, fixed, &identity, &out->secret_key);
    if (status != HPL_AUTH_UNKNOWN_KEY)
        return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
    HPL_TRY(new_secret_key(call, &out->secret_key));
    return hpl_auth_put_credential(call, house->auth, fixed, out->secret_key, role);
}

static enum hpl_status publish_dev(struct hpl_call *call, struct hpl_house *house, const struct hpl_dev *dev)
{
    struct hpl_dev_credential admin = {0}, user = {0};
    char program[PATH_MAX];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    program[len < 0 ? 0 : len] = '\0';
    enum hpl_status status = dev_credential(call, house, HPL_ROLE_ADMIN, &admin);
    if (status == HPL_OK)
        status = dev_credential(call, house, HPL_ROLE_OBJECTS, &user);
    if (status == HPL_OK)
        status = hpl_dev_publish(call, dev, house->config, program, hpl_http_address(house->server), &admin, &user);
    hpl_secret_free(admin.secret_key);
    hpl_secret_free(user.secret_key);
    return status;
}

static void reap(struct hpl_house *house)
{
    struct hpl_call call;
    hpl_call_init(&call, 30000);
    enum hpl_status status = hpl_kms_reap(house->kms, &call);
    if (status != HPL_OK && status != HPL_NOT_CONFIGURED && status != HPL_NOT_RUNNING)
        hpl_log(HPL_LOG_WARN, "kms.reap", HPL_S("failure", hpl_detail(&call, status)));
}

static void reload_tls(struct hpl_house *house)
{
    struct hpl_call call = {0};
    enum hpl_status status = house->config->tls ? hpl_http_reload_tls(&call, house->server) : HPL_OK;
    if (status == HPL_OK)
        hpl_log(HPL_LOG_INFO, "tls.reloaded");
    else
        hpl_log(HPL_LOG_ERROR, "tls.reload", HPL_S("failure", hpl_detail(&call, status)));
}

/* The watchdog hears from all threads or not at all. */
static void tell_watchdog(struct hpl_house *house, bool *was_alive)
{
    bool is_alive = hpl_http_is_alive(house->server, STALL_MS);
    if (is_alive)
        sd_notify(0, "WATCHDOG=1");
    else if (*was_alive)
        hpl_log(HPL_LOG_ERROR, "daemon.stalled", HPL_S("advice", "a thread does not get on: systemd restarts this daemon where the unit has WatchdogSec="));
    *was_alive = is_alive;
}

/* Until SIGTERM or SIGINT. SIGHUP reads the certificate again. */
static void wait_for_end(struct hpl_house *house, const sigset_t *signals)
{
    uint64_t next_reap = hpl_clock_mono_ns();
    bool is_alive = true;
    for (;;) {
        const struct timespec second = {.tv_sec = 1};
        int got = sigtimedwait(signals, NULL, &second);
        if (got == SIGTERM || got == SIGINT)
            return;
        if (got == SIGHUP)
            reload_tls(house);
        tell_watchdog(house, &is_alive);
        if (hpl_clock_mono_ns() >= next_reap) {
            next_reap = hpl_clock_mono_ns() + REAP_EVERY_S * 1000000000ull;
            reap(house);
        }
    }
}

/* The KMS as the file or the dev mode wants it at the first start; later the persisted configuration wins. */
static enum hpl_status first_configure(struct hpl_call *call, struct hpl_house *house, const struct hpl_dev *dev)
{
    json_t *HPL_JSON_AUTO body = dev->dir ? hpl_dev_kms_json(dev) : hpl_config_kms_json(house->config->kms);
    return body ? hpl_kms_begin(house->kms, call, body) : HPL_OK;
}

/* The socket that systemd listens on for us, 0 for none, -1 when there is not just one. Before there are threads: it takes the variables away. */
static int given_socket(void)
{
    int num_given = sd_listen_fds(1);
    if (num_given == 0)
        return 0;
    if (num_given == 1)
        return SD_LISTEN_FDS_START;
    fprintf(stderr, "hardplated: systemd handed over %d sockets, and one is taken: give the socket unit one ListenStream=\n", num_given);
    return -1;
}

static int run(struct hpl_house *house, const struct hpl_config *config, const struct hpl_dev *dev, int inherited_fd, const sigset_t *signals)
{
    struct hpl_call call = {0};
    enum hpl_status status = hpl_house_open(&call, house, config, dev->dir != NULL);
    if (status == HPL_OK && dev->dir)
        hpl_dev_retract(dev, true);
    if (status == HPL_OK)
        status = first_configure(&call, house, dev);
    if (status == HPL_OK)
        status = hpl_house_serve(&call, house, inherited_fd);
    if (status == HPL_OK && dev->dir)
        status = publish_dev(&call, house, dev);
    if (status != HPL_OK)
        return fail(&call, status);
    const char *address = hpl_http_address(house->server);
    printf("hardplated listens on %s%s\n", strncmp(address, HPL_HTTP_UNIX, strlen(HPL_HTTP_UNIX)) == 0 ? "" : config->tls ? "https://" : "http://", address);
    if (dev->dir)
        printf("credentials and settings: . %s/env\n", dev->dir);
    fflush(stdout);
    hpl_log(HPL_LOG_INFO, "daemon.ready", HPL_S("address", hpl_http_address(house->server)), HPL_S("kernel", house->admin.kernel),
            HPL_S("version", HPL_VERSION));
    sd_notify(0, "READY=1");
    wait_for_end(house, signals);
    sd_notify(0, "STOPPING=1");
    hpl_log(HPL_LOG_INFO, "daemon.stopping");
    return EXIT_DONE;
}

int main(int argc, char **argv)
{
    struct options options = {0};
    int code = read_options(argc, argv, &options);
    if (code >= 0)
        return code;
    hpl_harden();
    hpl_json_init();
    int inherited_fd = given_socket();
    if (inherited_fd < 0)
        return EXIT_FAILED;
    signal(SIGPIPE, SIG_IGN);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);

    struct hpl_call call = {0};
    struct hpl_dev dev = {0};
    struct hpl_config *config = NULL;
    char folder[PATH_MAX];
    enum hpl_status status = load_config(&call, &options, &dev, folder, &config);
    if (status != HPL_OK)
        return fail(&call, status);
    set_log_level(config->log_level);
    if (options.is_check) {
        hpl_log_set_level(HPL_LOG_SILENT); /* its lines say the same, for people */
        code = hpl_check_run(config, dev.dir != NULL) ? EXIT_FAILED : EXIT_DONE;
        hpl_config_free(config);
        return code;
    }
    sigprocmask(SIG_BLOCK, &signals, NULL);
    struct hpl_house house;
    code = run(&house, config, &dev, inherited_fd, &signals);
    hpl_house_close(&house);
    if (dev.dir && house.lock_fd >= 0)
        hpl_dev_retract(&dev, false);
    hpl_house_unlock(&house);
    hpl_config_free(config);
    fflush(stdout);
    _exit(code); /* some tokens' modules crash in their destructors at exit */
}
