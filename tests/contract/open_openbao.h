/* An OpenBao of this test program's own: a dev server on a free port, by TLS, with transit and KV v2, killed when the program ends. HPL_OPENBAO_DIR names the
 * folder of the part (scripts/part openbao); without it, skipped by name. */
#ifndef HPL_TESTS_CONTRACT_OPEN_OPENBAO_H
#define HPL_TESTS_CONTRACT_OPEN_OPENBAO_H

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "backends/vault/vault.h"
#include "tests/test.h"

struct openbao {
    pid_t pid;
    const char *dir;
    char address[40], program[512], ca_file[256];
    struct hpl_secret *root;
    struct hpl_vault_option option;
    struct hpl_backend_env env;
};

static struct openbao the_openbao;

static inline void openbao_stop(void)
{
    if (the_openbao.pid > 0) {
        kill(the_openbao.pid, SIGKILL);
        waitpid(the_openbao.pid, NULL, 0);
    }
    the_openbao.pid = 0;
}

static inline int openbao_free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    EXPECT(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && getsockname(fd, (struct sockaddr *)&at, &len) == 0);
    close(fd);
    return ntohs(at.sin_port);
}

/* bao ARGUMENTS as its root; the exit status. */
static inline int openbao_run(const char *arguments)
{
    char command[1536];
    snprintf(command, sizeof command, "HOME='%s' BAO_ADDR=%s BAO_CACERT='%s' BAO_TOKEN=root '%s' %s >/dev/null 2>&1", the_openbao.dir, the_openbao.address,
             the_openbao.ca_file, the_openbao.program, arguments);
    return system(command);
}

static inline void openbao_spawn(int port)
{
    char listen[40], certs[280];
    snprintf(listen, sizeof listen, "-dev-listen-address=127.0.0.1:%d", port);
    snprintf(certs, sizeof certs, "-dev-tls-cert-dir=%s", the_openbao.dir);
    the_openbao.pid = fork();
    EXPECT(the_openbao.pid >= 0);
    if (the_openbao.pid == 0) {
        int null = open("/dev/null", O_RDWR);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setenv("HOME", the_openbao.dir, 1);
        if (null < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0)
            _exit(127);
        execl(the_openbao.program, "bao", "server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token", "-dev-tls", certs, listen, (char *)NULL);
        _exit(127);
    }
    atexit(openbao_stop);
}

static inline void openbao_start(const char *dir)
{
    const struct timespec pause = {.tv_nsec = 100000000};
    int port = openbao_free_port(), tries = 300;
    the_openbao.dir = hpl_test_dir();
    snprintf(the_openbao.program, sizeof the_openbao.program, "%s/bao", dir);
    snprintf(the_openbao.address, sizeof the_openbao.address, "https://127.0.0.1:%d", port);
    snprintf(the_openbao.ca_file, sizeof the_openbao.ca_file, "%s/vault-ca.pem", the_openbao.dir);
    openbao_spawn(port);
    while (openbao_run("status") != 0 && --tries > 0)
        nanosleep(&pause, NULL);
    EXPECT(tries > 0);
    EXPECT_NUM(openbao_run("secrets enable transit"), 0);
    openbao_run("secrets enable -path=secret kv-v2"); /* a dev server has it already */
    the_openbao.root = hpl_secret_random(32);
    the_openbao.option = (struct hpl_vault_option){.name = "test", .address = the_openbao.address, .ca_file = the_openbao.ca_file};
    the_openbao.env = (struct hpl_backend_env){.state_dir = the_openbao.dir, .root = the_openbao.root, .vaults = &the_openbao.option, .num_vaults = 1};
}

static inline enum hpl_status openbao_try_open(struct hpl_call *call, const char *prefix, struct hpl_keystore **out)
{
    json_t *HPL_JSON_AUTO config = json_pack("{s:s, s:s, s:{s:s}, s:s}", "backend_type", "vault", "address", the_openbao.address, "auth_method", "token", "root",
                                             "key_path_prefix", prefix);
    hpl_call_init(call, 30000);
    return hpl_backend_vault.open(call, config, &the_openbao.env, out);
}

/* For the contract suite: another handle on the one server of this program; NULL, said once, where there is no part. */
static inline struct hpl_keystore *open_openbao(void)
{
    static bool was_said;
    struct hpl_call call;
    struct hpl_keystore *keystore = NULL;
    const char *dir = getenv("HPL_OPENBAO_DIR"), *ci = getenv("CI");
    if (!dir || !*dir) {
        if (ci && strcmp(ci, "true") == 0)
            hpl_test_skip("OpenBao", "HPL_OPENBAO_DIR is not set (scripts/part openbao)");
        if (!was_said)
            printf("SKIP OpenBao: HPL_OPENBAO_DIR is not set (scripts/part openbao)\n");
        was_said = true;
        return NULL;
    }
    if (!the_openbao.pid)
        openbao_start(dir);
    enum hpl_status status = openbao_try_open(&call, "rustfs/kms/keys", &keystore);
    if (status != HPL_OK)
        fprintf(stderr, "\n    openbao: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
    return keystore;
}

#endif
