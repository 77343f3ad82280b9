/* Certificates, configuration files and processes of the servers that are compared. */
#include "bench/servers.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "auth/sigv4.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"


#define ACCESS_KEY "bench"
#define READY_WITHIN_MS 30000u

/* --- files ------------------------------------------------------------------------------------------------------------------------------------------------ */

static enum hpl_status write_file(struct hpl_call *call, const char *dir, const char *name, const char *fmt, ...) HPL_PRINTF(4, 5);
static enum hpl_status write_file(struct hpl_call *call, const char *dir, const char *name, const char *fmt, ...)
{
    char path[256], text[2048];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    HPL_CHECK(len >= 0 && len < (int)sizeof text && snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path);
    return hpl_file_replace(call, path, hpl_bytes(text, (size_t)len), 0600);
}

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *at)
{
    (void)stat, (void)type, (void)at;
    return remove(path);
}

/* A certificate for 127.0.0.1 with its key, in PEM files. */
static bool make_certificate(const char *cert_path, const char *key_path, char identity[static 65])
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    uint8_t *public_key = NULL, digest[32];
    FILE *cert_file = fopen(cert_path, "we"), *key_file = fopen(key_path, "we");
    HPL_CHECK(key && cert);
    X509_EXTENSION *name = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "IP:127.0.0.1");
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)"bench", -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    bool is_good = X509_set_pubkey(cert, key) && X509_add_ext(cert, name, -1) && X509_sign(cert, key, EVP_sha256()) && cert_file && key_file &&
                   PEM_write_X509(cert_file, cert) && PEM_write_PrivateKey(key_file, key, NULL, NULL, 0, NULL, NULL);
    int len = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(cert), &public_key);
    hpl_sha256(digest, public_key, len > 0 ? (size_t)len : 0);
    hpl_hex_encode(identity, digest, sizeof digest);
    OPENSSL_free(public_key);
    X509_EXTENSION_free(name);
    X509_free(cert);
    EVP_PKEY_free(key);
    if (cert_file && fclose(cert_file) != 0)
        is_good = false;
    if (key_file && fclose(key_file) != 0)
        is_good = false;
    return is_good && len > 0;
}

enum hpl_status hpl_bench_place_init(struct hpl_call *call, struct hpl_bench_place *place)
{
    static const char secret[] = "a secret key that only this run has";
    char cert[160], key[160];
    *place = (struct hpl_bench_place){.dir = "/tmp/hardplate-bench-XXXXXX"};
    if (!mkdtemp(place->dir)) {
        place->dir[0] = '\0';
        return hpl_fail(call, HPL_IO, "cannot make a folder in /tmp");
    }
    snprintf(cert, sizeof cert, "%s/cert.pem", place->dir);
    snprintf(key, sizeof key, "%s/key.pem", place->dir);
    place->client = SSL_CTX_new(TLS_client_method());
    place->secret_key = hpl_secret_from(secret, sizeof secret - 1);
    for (size_t i = 0; i < place->secret_key->len; i++)
        place->secret_key->bytes[i] = secret[i] == ' ' ? '-' : (uint8_t)secret[i];
    if (!make_certificate(cert, key, place->identity) || !place->client || SSL_CTX_use_certificate_file(place->client, cert, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(place->client, key, SSL_FILETYPE_PEM) != 1)
        return hpl_fail(call, HPL_IO, "cannot make a certificate in %s", place->dir);
    return write_file(call, place->dir, "secret", "%.*s", (int)place->secret_key->len, (const char *)place->secret_key->bytes);
}

void hpl_bench_place_wipe(struct hpl_bench_place *place)
{
    SSL_CTX_free(place->client);
    hpl_secret_free(place->secret_key);
    if (place->dir[0])
        nftw(place->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    *place = (struct hpl_bench_place){0};
}

/* --- processes --------------------------------------------------------------------------------------------------------------------------------------------- */

static unsigned free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    HPL_CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&address, len) == 0 && getsockname(fd, (struct sockaddr *)&address, &len) == 0);
    close(fd);
    return ntohs(address.sin_port);
}

/* Runs argv with its words in DIR/log; it ends with this thread. */
static pid_t spawn(const char *dir, const char *const argv[])
{
    char path[192];
    snprintf(path, sizeof path, "%s/log", dir);
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600), null = open("/dev/null", O_RDONLY);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && dup2(null, 0) == 0 && dup2(log, 1) == 1 && dup2(log, 2) == 2)
        execvp(argv[0], (char *const *)argv);
    _exit(127);
}

static enum hpl_status run_program(struct hpl_call *call, const char *dir, const char *const argv[])
{
    int result = -1;
    pid_t pid = spawn(dir, argv);
    if (pid < 0 || waitpid(pid, &result, 0) != pid || result != 0)
        return hpl_fail(call, HPL_UNAVAILABLE, "%s failed", argv[0]);
    return HPL_OK;
}

static enum hpl_status prepare(struct hpl_call *call, const struct hpl_bench_place *place, const char *name, bool is_tls, struct hpl_bench_server *server)
{
    *server = (struct hpl_bench_server){.port = free_port(), .is_tls = is_tls, .tls = is_tls ? place->client : NULL};
    snprintf(server->name, sizeof server->name, "%s", name);
    HPL_CHECK(snprintf(server->dir, sizeof server->dir, "%s/%s-%u", place->dir, name, server->port) < (int)sizeof server->dir);
    return hpl_file_make_dir(call, server->dir);
}

static struct hpl_bench_target target_of(const struct hpl_bench_server *server)
{
    return (struct hpl_bench_target){.port = server->port, .tls = server->tls, .pid = server->pid};
}

static enum hpl_status start(struct hpl_call *call, struct hpl_bench_server *server, const char *const argv[])
{
    const struct hpl_bytes hello = hpl_bytes_str("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    uint64_t until_ns = hpl_clock_mono_ns() + READY_WITHIN_MS * UINT64_C(1000000);
    int http_status, result;
    server->pid = spawn(server->dir, argv);
    const struct hpl_bench_target target = target_of(server);
    struct hpl_call quiet = {0};
    while (hpl_clock_mono_ns() < until_ns) {
        if (waitpid(server->pid, &result, WNOHANG) != 0) {
            server->pid = 0; /* it ended, and its number may be another's soon */
            break;
        }
        if (hpl_bench_ask(&quiet, &target, hello, &http_status, NULL) == HPL_OK)
            return HPL_OK;
        usleep(20000);
    }
    return hpl_fail(call, HPL_UNAVAILABLE, "%s did not start; %s/log", argv[0], server->dir);
}

void hpl_bench_stop(struct hpl_bench_server *server)
{
    if (server->pid > 0) {
        kill(server->pid, SIGTERM);
        waitpid(server->pid, NULL, 0);
    }
    server->pid = 0;
}

/* A plain request for setting up; more than one header is taken as it is, each with its CRLF. */
static void put_request(struct hpl_buf *out, const char *method, const char *path, const char *headers, struct hpl_bytes body)
{
    hpl_buf_printf(out, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", method, path, headers, body.len);
    hpl_buf_put_bytes(out, body);
}

/* Sends request and wipes it. */
static enum hpl_status expect_good(struct hpl_call *call, const struct hpl_bench_server *server, struct hpl_buf *request)
{
    struct hpl_buf answer = {0};
    const struct hpl_bench_target target = target_of(server);
    int http_status = 0;
    enum hpl_status status = hpl_bench_ask(call, &target, hpl_buf_bytes(request), &http_status, &answer);
    if (status == HPL_OK && http_status / 100 != 2)
        status = hpl_fail(call, HPL_BACKEND, "%s answers %d: %.*s", server->name, http_status, (int)(answer.len < 120 ? answer.len : 120), (const char *)answer.data);
    hpl_buf_wipe(&answer);
    hpl_buf_wipe(request);
    return status;
}

/* What binds the data key: base64 of "bucket=bench,object=NUMBER". */
static void put_context(struct hpl_buf *out, unsigned number)
{
    char text[64];
    int len = snprintf(text, sizeof text, "bucket=bench,object=object-%04u", number);
    hpl_base64_put(out, text, (size_t)len);
}

/* --- hardplated ---------------------------------------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_bench_make_token(struct hpl_call *call, const char *dir)
{
    char conf[192], tokens[192];
    const char *const argv[] = {"softhsm2-util", "--init-token", "--free", "--label", "bench", "--so-pin", "so-pin-of-bench", "--pin", "pin-of-bench", NULL};
    if (access(HPL_BENCH_SOFTHSM, R_OK) != 0)
        return hpl_fail(call, HPL_UNAVAILABLE, "there is no %s: install softhsm2", HPL_BENCH_SOFTHSM);
    snprintf(tokens, sizeof tokens, "%s/tokens", dir);
    snprintf(conf, sizeof conf, "%s/softhsm2.conf", dir);
    HPL_TRY(hpl_file_make_dir(call, tokens));
    HPL_TRY(write_file(call, dir, "softhsm2.conf", "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens));
    HPL_TRY(write_file(call, dir, "pin", "pin-of-bench"));
    setenv("SOFTHSM2_CONF", conf, 1);
    return run_program(call, dir, argv);
}

static void find_hardplated(char *out, size_t out_size)
{
    char self[512];
    ssize_t len = readlink("/proc/self/exe", self, sizeof self - 1);
    self[len > 0 ? len : 0] = '\0';
    char *slash = strrchr(self, '/');
    snprintf(out, out_size, "%.*s/hardplated", slash ? (int)(slash - self) : 0, self);
}

enum hpl_status hpl_bench_start_hardplated(struct hpl_call *call, const struct hpl_bench_place *place, const char *backend, bool is_tls,
                                           struct hpl_bench_server *server)
{
    char program[544], tls[400] = "", config[224];
    bool is_token = strcmp(backend, "local") != 0;
    HPL_TRY(prepare(call, place, backend, is_tls, server));
    struct hpl_call quiet = {0};
    enum hpl_status token = hpl_bench_make_token(&quiet, server->dir);
    if (is_token && token != HPL_OK)
        return hpl_fail(call, token, "%s", hpl_detail(&quiet, token));
    if (is_tls)
        snprintf(tls, sizeof tls, "tls:\n  certificate: %s/cert.pem\n  key: %s/key.pem\n", place->dir, place->dir);
    HPL_TRY(write_file(call, server->dir, "config.yaml", "state_dir: %s/state\nlisten: 127.0.0.1:%u\nlog_level: warn\nisolation: %s\n%scredentials:\n  - access_key: " ACCESS_KEY
                       "\n    secret_file: %s/secret\n    role: admin\ntokens:\n  - name: main\n    uri: 'pkcs11:token=bench'\n    module: " HPL_BENCH_SOFTHSM "\n"
                       "    pin_source: file:%s/pin\n    max_sessions: 16\nkms:\n  backend_type: %s\n%s  default_key_id: bench\n", server->dir, server->port,
                       strcmp(backend, "tokend") == 0 ? "worker" : "inprocess", tls,
                       place->dir, server->dir, is_token ? "pkcs11" : "local", is_token ? "  token: main\n" : ""));
    snprintf(config, sizeof config, "%s/config.yaml", server->dir);
    find_hardplated(program, sizeof program);
    const char *const argv[] = {program, "--config", config, NULL};
    HPL_TRY(start(call, server, argv));
    return hpl_bench_admin(call, place, server, "kms/generate-data-key", "{}"); /* makes the key "bench" */
}

/* The request of an admin route, signed. */
static enum hpl_status put_signed(struct hpl_call *call, const struct hpl_bench_place *place, const char *route, struct hpl_bytes body, struct hpl_buf *out)
{
    char path[128], date[40], hash[65], headers[768];
    uint8_t sha256[32];
    struct hpl_buf authorization = {0};
    snprintf(path, sizeof path, "/rustfs/admin/v3/%s", route);
    hpl_time_text(date, hpl_clock_unix_ms(), HPL_TIME_BASIC);
    hpl_sha256(sha256, body.data, body.len);
    hpl_hex_encode(hash, sha256, sizeof sha256);
    const struct hpl_sigv4_header signed_headers[] = {
        {hpl_bytes_str("host"), hpl_bytes_str("127.0.0.1")}, {hpl_bytes_str("x-amz-content-sha256"), hpl_bytes_str(hash)}, {hpl_bytes_str("x-amz-date"), hpl_bytes_str(date)}};
    const struct hpl_sigv4_request request = {.method = hpl_bytes_str("POST"), .path = hpl_bytes_str(path), .headers = signed_headers,
                                              .num_headers = HPL_COUNT(signed_headers)};
    enum hpl_status status = hpl_sigv4_sign(call, &request, ACCESS_KEY, place->secret_key, "us-east-1", "s3", &authorization);
    if (status == HPL_OK) {
        snprintf(headers, sizeof headers, "x-amz-date: %s\r\nx-amz-content-sha256: %s\r\nAuthorization: %.*s\r\n", date, hash, (int)authorization.len,
                 (const char *)authorization.data);
        put_request(out, "POST", path, headers, body);
    }
    hpl_buf_wipe(&authorization);
    return status;
}

enum hpl_status hpl_bench_admin(struct hpl_call *call, const struct hpl_bench_place *place, const struct hpl_bench_server *server, const char *path,
                                const char *body)
{
    struct hpl_buf request = {0};
    HPL_TRY(put_signed(call, place, path, hpl_bytes_str(body), &request));
    return expect_good(call, server, &request);
}

enum hpl_status hpl_bench_hardplated_request(struct hpl_call *call, const struct hpl_bench_place *place, const struct hpl_bench_server *server, unsigned batch,
                                             unsigned number, struct hpl_buf *request)
{
    char body[256], count[32] = "";
    (void)server;
    if (batch > 1)
        snprintf(count, sizeof count, "\"count\":%u,", batch);
    snprintf(body, sizeof body, "{\"key_id\":\"bench\",\"key_spec\":\"AES_256\",%s\"encryption_context\":{\"bucket\":\"bench\",\"object\":\"object-%04u\"}}", count, number);
    return put_signed(call, place, batch > 1 ? "kms/generate-data-keys" : "kms/generate-data-key", hpl_bytes_str(body), request);
}

/* --- OpenBao ------------------------------------------------------------------------------------------------------------------------------------------------- */

static enum hpl_status ask_openbao(struct hpl_call *call, const struct hpl_bench_server *server, const char *path, const char *body)
{
    struct hpl_buf request = {0};
    put_request(&request, "POST", path, "X-Vault-Token: " HPL_BENCH_BAO_TOKEN "\r\n", hpl_bytes_str(body));
    return expect_good(call, server, &request);
}

enum hpl_status hpl_bench_start_openbao(struct hpl_call *call, const struct hpl_bench_place *place, const char *program, struct hpl_bench_server *server)
{
    char listen[64];
    HPL_TRY(prepare(call, place, "openbao", false, server));
    snprintf(listen, sizeof listen, "-dev-listen-address=127.0.0.1:%u", server->port);
    const char *const argv[] = {program, "server", "-dev", "-dev-no-store-token", "-dev-root-token-id=" HPL_BENCH_BAO_TOKEN, listen, NULL};
    HPL_TRY(start(call, server, argv));
    for (int attempt = 0; attempt < 100; attempt++) { /* the port is there before the mounts are */
        struct hpl_call quiet = {0};
        if (ask_openbao(&quiet, server, "/v1/sys/mounts/transit", "{\"type\":\"transit\"}") == HPL_OK)
            return ask_openbao(call, server, "/v1/transit/keys/bench", "{}");
        usleep(50000);
    }
    return hpl_fail(call, HPL_UNAVAILABLE, "OpenBao did not mount transit; %s/log", server->dir);
}

/* One data key: 32 random bytes, made here as its clients make them, with the context bound. */
static void put_bao_item(struct hpl_buf *body, unsigned number)
{
    uint8_t key[32];
    HPL_CHECK(RAND_bytes(key, sizeof key) == 1);
    hpl_buf_put_str(body, "{\"plaintext\":\"");
    hpl_base64_put(body, key, sizeof key);
    hpl_buf_put_str(body, "\",\"associated_data\":\"");
    put_context(body, number);
    hpl_buf_put_str(body, "\"}");
}

enum hpl_status hpl_bench_openbao_request(struct hpl_call *call, const struct hpl_bench_place *place, const struct hpl_bench_server *server, unsigned batch,
                                          unsigned number, struct hpl_buf *request)
{
    struct hpl_buf body = {0};
    (void)call, (void)place, (void)server;
    hpl_buf_put_str(&body, batch > 1 ? "{\"batch_input\":[" : "");
    for (unsigned i = 0; i < batch; i++) {
        hpl_buf_put_str(&body, i ? "," : "");
        put_bao_item(&body, number);
    }
    hpl_buf_put_str(&body, batch > 1 ? "]}" : "");
    put_request(request, "POST", "/v1/transit/encrypt/bench", "X-Vault-Token: " HPL_BENCH_BAO_TOKEN "\r\n", hpl_buf_bytes(&body));
    hpl_buf_wipe(&body);
    return hpl_buf_check(request);
}

/* --- KES ------------------------------------------------------------------------------------------------------------------------------------------------------ */

enum hpl_status hpl_bench_start_kes(struct hpl_call *call, const struct hpl_bench_place *place, const char *program, struct hpl_bench_server *server)
{
    char config[224];
    struct hpl_buf request = {0};
    HPL_TRY(prepare(call, place, "kes", true, server));
    HPL_TRY(write_file(call, server->dir, "config.yaml", "address: 127.0.0.1:%u\nadmin:\n  identity: disabled\ntls:\n  cert: %s/cert.pem\n  key: %s/key.pem\n"
                       "policy:\n  bench:\n    allow: [/v1/key/create/*, /v1/key/generate/*]\n    identities: [%s]\nkeystore:\n  fs:\n    path: %s/keys\n",
                       server->port, place->dir, place->dir, place->identity, server->dir));
    snprintf(config, sizeof config, "%s/config.yaml", server->dir);
    const char *const argv[] = {program, "server", "--config", config, "--auth", "off", NULL};
    HPL_TRY(start(call, server, argv));
    put_request(&request, "POST", "/v1/key/create/bench", "", hpl_bytes(NULL, 0));
    return expect_good(call, server, &request);
}

enum hpl_status hpl_bench_kes_request(struct hpl_call *call, const struct hpl_bench_place *place, const struct hpl_bench_server *server, unsigned batch,
                                      unsigned number, struct hpl_buf *request)
{
    struct hpl_buf body = {0};
    (void)call, (void)place, (void)server, (void)batch;
    hpl_buf_put_str(&body, "{\"context\":\"");
    put_context(&body, number);
    hpl_buf_put_str(&body, "\"}");
    put_request(request, "POST", "/v1/key/generate/bench", "", hpl_buf_bytes(&body));
    hpl_buf_wipe(&body);
    return hpl_buf_check(request);
}
