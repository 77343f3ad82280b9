/* The dev mode's folder. Start-up only, one thread: forkpty and setenv want that. */
#include "daemon/dev.h"

#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/rand.h>

#include "base/codec.h"
#include "base/file.h"

#define TOKEN_LABEL "hardplate-dev"
#define DEFAULT_KEY "hardplate-dev"
#define PIN_DIGITS 16u

static const char *const module_paths[] = {
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
};

static const char *find_module(void)
{
    for (size_t i = 0; i < HPL_COUNT(module_paths); i++)
        if (access(module_paths[i], R_OK) == 0)
            return module_paths[i];
    return NULL;
}

static enum hpl_status write_text(struct hpl_call *call, const char *path, unsigned mode, struct hpl_buf *text)
{
    enum hpl_status status = hpl_buf_check(text);
    if (status == HPL_OK)
        status = hpl_file_replace(call, path, hpl_buf_bytes(text), mode);
    hpl_buf_wipe(text);
    return status;
}

static enum hpl_status write_softhsm_conf(struct hpl_call *call, const char *dir, const char *path)
{
    struct hpl_buf text = {0};
    if (strpbrk(dir, "#\n"))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "SoftHSM's configuration cannot name a folder with # or a newline in its path: choose another");
    hpl_buf_printf(&text, "directories.tokendir = %s/token/tokens\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", dir);
    return write_text(call, path, 0600, &text);
}

static enum hpl_status make_pin_file(struct hpl_call *call, const char *path)
{
    uint8_t random[PIN_DIGITS];
    struct hpl_buf text = {0};
    if (RAND_priv_bytes(random, sizeof random) != 1)
        return hpl_fail(call, HPL_INTERNAL, "no random numbers");
    for (size_t i = 0; i < sizeof random; i++)
        hpl_buf_put_u8(&text, (uint8_t)('0' + random[i] % 10));
    hpl_wipe(random, sizeof random);
    return write_text(call, path, 0600, &text);
}

/* Waits for the tool's next prompt (it ends in ": ") on the terminal; false when the tool ended or 10 s passed. */
static bool wait_for_prompt(int terminal, struct hpl_buf *said)
{
    struct pollfd poll_for = {.fd = terminal, .events = POLLIN};
    size_t from = said->len;
    while (poll(&poll_for, 1, 10000) == 1) {
        char part[256];
        ssize_t n = read(terminal, part, sizeof part);
        if (n <= 0)
            return false;
        hpl_buf_put(said, part, (size_t)n);
        const char *text = hpl_buf_text(said);
        if (text && strstr(text + from, "PIN: "))
            return true;
    }
    return false;
}

static bool answer_prompt(int terminal, struct hpl_buf *said, const struct hpl_secret *pin)
{
    if (!wait_for_prompt(terminal, said))
        return false;
    return write(terminal, pin->bytes, pin->len) == (ssize_t)pin->len && write(terminal, "\n", 1) == 1;
}

/* softhsm2-util reads PINs from argv, where others can see them, or from a terminal: so it gets a terminal. */
static enum hpl_status init_token(struct hpl_call *call, const struct hpl_secret *so_pin, const struct hpl_secret *pin)
{
    int terminal;
    pid_t child = forkpty(&terminal, NULL, NULL, NULL);
    if (child < 0)
        return hpl_fail(call, HPL_IO, "cannot open a terminal for softhsm2-util: %s", strerror(errno));
    if (child == 0) {
        execlp("softhsm2-util", "softhsm2-util", "--init-token", "--free", "--label", TOKEN_LABEL, (char *)NULL);
        _exit(127);
    }
    struct hpl_buf said = {0};
    bool is_answered = answer_prompt(terminal, &said, so_pin) && answer_prompt(terminal, &said, so_pin) &&
                       answer_prompt(terminal, &said, pin) && answer_prompt(terminal, &said, pin);
    char rest[256];
    while (read(terminal, rest, sizeof rest) > 0) {
        /* Until the tool closes its terminal. */
    }
    int result = 0;
    waitpid(child, &result, 0);
    close(terminal);
    hpl_buf_wipe(&said);
    if (WIFEXITED(result) && WEXITSTATUS(result) == 127)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "softhsm2-util is missing: apt-get install softhsm2, or use --backend local");
    if (!is_answered || !WIFEXITED(result) || WEXITSTATUS(result) != 0)
        return hpl_fail(call, HPL_BACKEND, "softhsm2-util could not make a token (exit status %d): run it by hand with SOFTHSM2_CONF set to DIR/token/softhsm2.conf",
                        WIFEXITED(result) ? WEXITSTATUS(result) : -1);
    return HPL_OK;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type;
    return ftw->level ? remove(path) : 0;
}

/* Made once: the marker is written when softhsm2-util is done. What a start that died before it left is cleared away, since two tokens of
 * one label would both be refused. */
static enum hpl_status make_token(struct hpl_call *call, const char *dir)
{
    char path[PATH_MAX];
    struct hpl_secret *HPL_SECRET_AUTO pin = NULL;
    struct hpl_secret *HPL_SECRET_AUTO so_pin = NULL;
    snprintf(path, sizeof path, "%s/token/tokens", dir);
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) != 0)
        return hpl_file_error(call, "cannot clear", path);
    snprintf(path, sizeof path, "%s/token/so-pin", dir);
    HPL_TRY(make_pin_file(call, path));
    HPL_TRY(hpl_file_read_secret(call, path, 64, true, &so_pin));
    snprintf(path, sizeof path, "%s/token/pin", dir);
    HPL_TRY(make_pin_file(call, path));
    HPL_TRY(hpl_file_read_secret(call, path, 64, true, &pin));
    HPL_TRY(init_token(call, so_pin, pin));
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, "The token in this folder was made by hardplated --dev.\n");
    snprintf(path, sizeof path, "%s/token/ready", dir);
    return write_text(call, path, 0600, &text);
}

static enum hpl_status prepare_token(struct hpl_call *call, const char *dir)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/token", dir);
    HPL_TRY(hpl_file_make_dir(call, path));
    snprintf(path, sizeof path, "%s/token/tokens", dir);
    HPL_TRY(hpl_file_make_dir(call, path));
    snprintf(path, sizeof path, "%s/token/softhsm2.conf", dir);
    HPL_TRY(write_softhsm_conf(call, dir, path));
    if (setenv("SOFTHSM2_CONF", path, 1) != 0)
        return HPL_NO_MEMORY;
    snprintf(path, sizeof path, "%s/token/ready", dir);
    return access(path, F_OK) == 0 ? HPL_OK : make_token(call, dir);
}

static char *text_of(const char *fmt, ...) HPL_PRINTF(1, 2);
static char *text_of(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, fmt);
    HPL_CHECK(vasprintf(&text, fmt, args) >= 0);
    va_end(args);
    return text;
}

/* Allocated as libcyaml would have, so that hpl_config_free frees it. */
static struct hpl_config *dev_config(const struct hpl_dev *dev, const char *module)
{
    struct hpl_config *config = calloc(1, sizeof *config);
    HPL_CHECK(config);
    config->state_dir = text_of("%s", dev->dir);
    config->data_dir = text_of("%s/data", dev->dir);
    config->listen = text_of("%s", dev->listen);
    config->region = text_of("us-east-1");
    config->isolation = text_of("%s", dev->isolation);
    config->drain_seconds = 10;
    if (module) {
        config->tokens = calloc(1, sizeof *config->tokens);
        HPL_CHECK(config->tokens);
        config->num_tokens = 1;
        config->tokens[0] = (struct hpl_config_token){.name = text_of("dev"), .uri = text_of("pkcs11:token=" TOKEN_LABEL),
                                                      .module = text_of("%s", module), .pin_source = text_of("file:%s/token/pin", dev->dir)};
    }
    return config;
}

enum hpl_status hpl_dev_prepare(struct hpl_call *call, const struct hpl_dev *dev, struct hpl_config **out)
{
    const char *module = find_module();
    HPL_TRY(hpl_file_make_dir(call, dev->dir));
    HPL_TRY(hpl_file_own_dir(call, dev->dir));
    if (!module && strcmp(dev->backend, "pkcs11") == 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "SoftHSM is not installed: apt-get install softhsm2, or use --backend local");
    if (module)
        HPL_TRY(prepare_token(call, dev->dir));
    *out = dev_config(dev, module);
    return HPL_OK;
}

json_t *hpl_dev_kms_json(const struct hpl_dev *dev)
{
    if (strcmp(dev->backend, "pkcs11") == 0)
        return json_pack("{s:s, s:s, s:s}", "backend_type", "pkcs11", "token", "dev", "default_key_id", DEFAULT_KEY);
    if (strcmp(dev->backend, "local") == 0)
        return json_pack("{s:s, s:o, s:s}", "backend_type", "local", "key_dir", json_sprintf("%s/keys", dev->dir), "default_key_id", DEFAULT_KEY);
    return NULL;
}

/* name='value' with the shell's only special case inside single quotes taken care of. */
static void put_line(struct hpl_buf *text, const char *name, struct hpl_bytes value)
{
    hpl_buf_printf(text, "%s='", name);
    for (size_t i = 0; i < value.len; i++)
        if (value.data[i] == '\'')
            hpl_buf_put_str(text, "'\\''");
        else
            hpl_buf_put_u8(text, value.data[i]);
    hpl_buf_put_str(text, "'\n");
}

static void put_text_line(struct hpl_buf *text, const char *name, const char *fmt, ...) HPL_PRINTF(3, 4);
static void put_text_line(struct hpl_buf *text, const char *name, const char *fmt, ...)
{
    char value[PATH_MAX + 200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(value, sizeof value, fmt, args);
    va_end(args);
    put_line(text, name, hpl_bytes_str(value));
}

/* A script that stops the daemon of this folder and starts it again on the same port, and waits until it answers. */
static enum hpl_status write_restart(struct hpl_call *call, const struct hpl_dev *dev, const char *program, const char *address)
{
    char path[PATH_MAX];
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, "#!/bin/sh\n# Stops and starts the hardplated of this folder on the same port. For tests.\numask 077\n");
    put_line(&text, "dir", hpl_bytes_str(dev->dir));
    put_line(&text, "program", hpl_bytes_str(program));
    put_line(&text, "address", hpl_bytes_str(address));
    put_line(&text, "backend", hpl_bytes_str(dev->backend));
    put_line(&text, "isolation", hpl_bytes_str(dev->isolation));
    hpl_buf_put_str(&text,
        "pid=$(cat \"$dir/pid\" 2>/dev/null)\n"
        "if [ -n \"$pid\" ] && [ \"$(cat \"/proc/$pid/comm\" 2>/dev/null)\" = hardplated ] && kill -TERM \"$pid\" 2>/dev/null; then\n"
        "  n=0\n"
        "  while kill -0 \"$pid\" 2>/dev/null && ! grep -q '^State:.Z' \"/proc/$pid/status\" 2>/dev/null; do\n"
        "    n=$((n + 1)); [ $n -lt 300 ] || kill -KILL \"$pid\" 2>/dev/null; sleep 0.1\n"
        "  done\n"
        "fi\n"
        "rm -f \"$dir/pid\"\n"
        "setsid \"$program\" --dev \"$dir\" --listen \"$address\" --backend \"$backend\" --isolation \"$isolation\" >>\"$dir/daemon.log\" 2>&1 </dev/null &\n"
        "n=0\n"
        "until [ -s \"$dir/pid\" ]; do\n"
        "  n=$((n + 1)); [ $n -lt 300 ] || { echo \"hardplated did not come back; see $dir/daemon.log\" >&2; exit 1; }; sleep 0.1\n"
        "done\n");
    snprintf(path, sizeof path, "%s/restart", dev->dir);
    return write_text(call, path, 0700, &text);
}

void hpl_dev_retract(const struct hpl_dev *dev, bool is_start)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/pid", dev->dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/env", dev->dir);
    if (is_start)
        unlink(path);
}

static enum hpl_status write_pid(struct hpl_call *call, const struct hpl_dev *dev)
{
    char path[PATH_MAX];
    struct hpl_buf text = {0};
    hpl_buf_printf(&text, "%ld\n", (long)getpid());
    snprintf(path, sizeof path, "%s/pid", dev->dir);
    return write_text(call, path, 0600, &text);
}

enum hpl_status hpl_dev_publish(struct hpl_call *call, const struct hpl_dev *dev, const struct hpl_config *config, const char *program,
                                const char *address, const struct hpl_dev_credential *admin, const struct hpl_dev_credential *user)
{
    char path[PATH_MAX];
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, "# Made by hardplated --dev; source it: . \"DIR/env\"\n");
    put_text_line(&text, "HARDPLATE_ENDPOINT", "http://%s", address);
    put_text_line(&text, "HARDPLATE_REGION", "%s", config->region);
    put_text_line(&text, "HARDPLATE_ACCESS_KEY", "%s", admin->access_key);
    put_line(&text, "HARDPLATE_SECRET_KEY", hpl_bytes(admin->secret_key->bytes, admin->secret_key->len));
    put_text_line(&text, "HARDPLATE_USER_ACCESS_KEY", "%s", user->access_key);
    put_line(&text, "HARDPLATE_USER_SECRET_KEY", hpl_bytes(user->secret_key->bytes, user->secret_key->len));
    put_text_line(&text, "HARDPLATE_DATA_DIR", "%s", config->data_dir);
    put_text_line(&text, "HARDPLATE_KEY_DIR", "%s/keys", dev->dir);
    put_text_line(&text, "HARDPLATE_PKCS11_CONFIG", "{\"backend_type\":\"pkcs11\",\"token\":\"dev\",\"default_key_id\":\"%s\"}", DEFAULT_KEY);
    put_text_line(&text, "HARDPLATE_RESTART", "%s/restart", dev->dir);
    hpl_buf_put_str(&text, "export HARDPLATE_ENDPOINT HARDPLATE_REGION HARDPLATE_ACCESS_KEY HARDPLATE_SECRET_KEY HARDPLATE_USER_ACCESS_KEY "
                           "HARDPLATE_USER_SECRET_KEY HARDPLATE_DATA_DIR HARDPLATE_KEY_DIR HARDPLATE_PKCS11_CONFIG HARDPLATE_RESTART\n");
    snprintf(path, sizeof path, "%s/env", dev->dir);
    HPL_TRY(write_text(call, path, 0600, &text));
    HPL_TRY(write_restart(call, dev, program, address));
    return write_pid(call, dev);
}
