/* One request to Vault over kept-alive connections, and what its failure means. Any thread; blocks up to the call's deadline. Never logs a token and
 * never follows a redirect: a token goes to the configured address only. */
#include "backends/vault/internal.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <curl/curl.h>
#include <openssl/ssl.h>

#include "base/clock.h"
#include "base/secret.h"

#define MAX_CONNECTIONS 32u
#define MAX_ANSWER (32u << 20) /* a listing of some hundred thousand names */
#define CONNECT_TIMEOUT_MS 5000
#define MAX_SAID 100u

struct hpl_vault_http {
    const struct hpl_vault_settings *settings;
    pthread_mutex_t lock;     /* around the three that follow */
    pthread_cond_t freed;
    CURL *idle[MAX_CONNECTIONS];
    size_t num_idle, num_lent;
};

/* --- libcurl's memory: its buffers see tokens and data keys, so it is wiped when it is given back ------------------------ */

static void wiping_free(void *data)
{
    if (data)
        hpl_wipe(data, malloc_usable_size(data));
    free(data);
}

static void *wiping_realloc(void *data, size_t len)
{
    void *grown = malloc(len ? len : 1);
    if (grown && data) {
        size_t old = malloc_usable_size(data);
        memcpy(grown, data, old < len ? old : len);
        wiping_free(data);
    }
    return grown;
}

static void init_curl(void)
{
    HPL_CHECK(curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, wiping_free, wiping_realloc, strdup, calloc) == CURLE_OK);
}

/* --- connections --------------------------------------------------------------------------------------------------------- */

/* OpenSSL wipes what it decrypted once we have taken it: an answer has a data key in it. */
static CURLcode wipe_plaintext(CURL *curl, void *ctx, void *arg)
{
    (void)curl, (void)arg;
    SSL_CTX_set_options(ctx, SSL_OP_CLEANSE_PLAINTEXT);
    return CURLE_OK;
}

static void set_tls(CURL *curl, const struct hpl_vault_settings *settings)
{
    const struct hpl_vault_option *option = settings->option;
    curl_easy_setopt(curl, CURLOPT_SSL_CTX_FUNCTION, wipe_plaintext);
    curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, settings->skip_tls_verify ? 0L : 1L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, settings->skip_tls_verify ? 0L : 2L);
    if (option && option->ca_file) {
        curl_easy_setopt(curl, CURLOPT_CAINFO, option->ca_file);
        curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
    }
    if (option && option->certificate) {
        curl_easy_setopt(curl, CURLOPT_SSLCERT, option->certificate);
        curl_easy_setopt(curl, CURLOPT_SSLKEY, option->key);
    }
}

static CURL *new_handle(const struct hpl_vault_settings *settings)
{
    CURL *curl = curl_easy_init();
    if (!curl)
        return NULL;
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, strncmp(settings->address, "https:", 6) == 0 ? "https" : "http");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "hardplate/" HPL_VERSION);
    set_tls(curl, settings);
    return curl;
}

static uint64_t deadline_of(const struct hpl_call *call)
{
    return call && call->deadline_ns ? call->deadline_ns : hpl_clock_mono_ns() + HPL_VAULT_DEFAULT_TIMEOUT_NS;
}

static enum hpl_status borrow(struct hpl_call *call, struct hpl_vault_http *http, uint64_t deadline_ns, CURL **out)
{
    const struct timespec until = {(time_t)(deadline_ns / 1000000000u), (long)(deadline_ns % 1000000000u)};
    int waited = 0;
    pthread_mutex_lock(&http->lock);
    while (!http->num_idle && http->num_lent == MAX_CONNECTIONS && waited == 0)
        waited = pthread_cond_timedwait(&http->freed, &http->lock, &until);
    bool may_have = http->num_idle || http->num_lent < MAX_CONNECTIONS;
    *out = http->num_idle ? http->idle[--http->num_idle] : NULL;
    http->num_lent += may_have;
    pthread_mutex_unlock(&http->lock);
    if (!may_have)
        return hpl_fail(call, HPL_TIMEOUT, "all %u connections to Vault at %s were in use until the deadline", MAX_CONNECTIONS, http->settings->address);
    if (!*out)
        *out = new_handle(http->settings);
    return HPL_OK;
}

/* curl NULL: one that could not be made. */
static void give_back(struct hpl_vault_http *http, CURL *curl)
{
    pthread_mutex_lock(&http->lock);
    http->num_lent--;
    if (curl)
        http->idle[http->num_idle++] = curl; /* the last one used is the next: its connection is the warmest */
    pthread_cond_signal(&http->freed);
    pthread_mutex_unlock(&http->lock);
}

void hpl_vault_init_cond(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

enum hpl_status hpl_vault_http_open(struct hpl_call *call, const struct hpl_vault_settings *settings, struct hpl_vault_http **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init_curl);
    struct hpl_vault_http *http = calloc(1, sizeof *http);
    *out = http;
    if (!http)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    http->settings = settings;
    pthread_mutex_init(&http->lock, NULL);
    hpl_vault_init_cond(&http->freed);
    return HPL_OK;
}

void hpl_vault_http_close(struct hpl_vault_http *http)
{
    if (!http)
        return;
    HPL_CHECK(http->num_lent == 0);
    for (size_t i = 0; i < http->num_idle; i++)
        curl_easy_cleanup(http->idle[i]);
    pthread_mutex_destroy(&http->lock);
    pthread_cond_destroy(&http->freed);
    free(http);
}

/* --- a request ----------------------------------------------------------------------------------------------------------- */

static size_t take_bytes(char *data, size_t size, size_t count, void *arg)
{
    struct hpl_vault_answer *answer = arg;
    size_t len = size * count;
    if (!answer->secret) {
        hpl_buf_put(&answer->body, data, len);
        return answer->body.is_failed ? 0 : len;
    }
    if (len > answer->secret->len - answer->secret_len)
        return 0;
    memcpy(answer->secret->bytes + answer->secret_len, data, len);
    answer->secret_len += len;
    return len;
}

static bool add_header(struct curl_slist **headers, const char *line)
{
    struct curl_slist *grown = curl_slist_append(*headers, line);
    if (grown)
        *headers = grown;
    return grown != NULL;
}

static bool add_token(struct curl_slist **headers, const struct hpl_secret *token)
{
    static const char name[] = "X-Vault-Token: ";
    struct hpl_secret *HPL_SECRET_AUTO line = hpl_secret_new(sizeof name + token->len);
    if (!line)
        return false;
    memcpy(line->bytes, name, sizeof name - 1);
    memcpy(line->bytes + sizeof name - 1, token->bytes, token->len);
    return add_header(headers, (const char *)line->bytes);
}

static bool make_headers(const struct hpl_vault_http *http, const struct hpl_vault_request *request, struct curl_slist **out)
{
    char line[HPL_VAULT_TEXT + 32];
    bool is_right = add_header(out, "X-Vault-Request: true") && add_header(out, "Content-Type: application/json") && add_header(out, "Expect:");
    snprintf(line, sizeof line, "X-Vault-Namespace: %s", http->settings->space);
    if (http->settings->space[0] && !request->is_outside_namespace)
        is_right = is_right && add_header(out, line);
    return is_right && (!request->token || add_token(out, request->token));
}

static void set_request(CURL *curl, const struct hpl_vault_request *request, struct hpl_vault_answer *answer, uint64_t left_ms)
{
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, NULL);
    if (strcmp(request->method, "POST") == 0) {
        curl_easy_setopt(curl, CURLOPT_POST, 1L);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)request->body.len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body.len ? (const char *)request->body.data : "");
    } else {
        curl_easy_setopt(curl, CURLOPT_HTTPGET, 1L);
        if (strcmp(request->method, "GET") != 0)
            curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
    }
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)left_ms);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)(left_ms < CONNECT_TIMEOUT_MS ? left_ms : CONNECT_TIMEOUT_MS));
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_bytes);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, answer);
}

/* libcurl's codes, translated here and nowhere else. */
static enum hpl_status unreached(struct hpl_call *call, const struct hpl_vault_http *http, CURLcode code, const char *why)
{
    const char *address = http->settings->address, *reason = why[0] ? why : curl_easy_strerror(code);
    switch (code) {
    case CURLE_OPERATION_TIMEDOUT:
        return hpl_fail(call, HPL_TIMEOUT, "Vault at %s did not answer in time", address);
    case CURLE_COULDNT_RESOLVE_HOST:
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "the host of Vault's address %s has no address; check 'address' and DNS", address);
    case CURLE_PEER_FAILED_VERIFICATION:
        return hpl_fail(call, HPL_BACKEND, "the certificate of Vault at %s is not trusted (%.80s); name its CA as ca_file under 'vaults'", address, reason);
    case CURLE_SSL_CACERT_BADFILE: case CURLE_SSL_CERTPROBLEM:
        return hpl_fail(call, HPL_BACKEND, "a TLS file for Vault at %s cannot be used (%.100s); check ca_file, certificate and key", address, reason);
    case CURLE_SSL_CONNECT_ERROR:
        return hpl_fail(call, HPL_BACKEND, "no TLS with Vault at %s (%.100s)", address, reason);
    case CURLE_WRITE_ERROR:
        return hpl_fail(call, HPL_BACKEND, "Vault at %s answered more than is taken here", address);
    case CURLE_OUT_OF_MEMORY:
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    default:
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s cannot be reached: %.120s", address, reason);
    }
}

static enum hpl_status perform(struct hpl_call *call, struct hpl_vault_http *http, CURL *curl, const struct hpl_vault_request *request,
                               struct hpl_vault_answer *answer, uint64_t left_ms)
{
    char url[2 * HPL_VAULT_TEXT + 1024], why[CURL_ERROR_SIZE] = "";
    struct curl_slist *headers = NULL;
    int len = snprintf(url, sizeof url, "%s/v1/%s", http->settings->address, request->path);
    if (len < 0 || (size_t)len >= sizeof url)
        return hpl_fail(call, HPL_INVALID_REQUEST, "the path in Vault is too long");
    if (!make_headers(http, request, &headers)) {
        curl_slist_free_all(headers);
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    }
    answer->body.max = MAX_ANSWER;
    set_request(curl, request, answer, left_ms);
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->code);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, NULL);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, NULL);
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, NULL);
    curl_slist_free_all(headers);
    return code == CURLE_OK ? HPL_OK : unreached(call, http, code, why);
}

enum hpl_status hpl_vault_send(struct hpl_call *call, struct hpl_vault_http *http, const struct hpl_vault_request *request, struct hpl_vault_answer *answer)
{
    CURL *curl = NULL;
    uint64_t deadline_ns = deadline_of(call);
    HPL_TRY(hpl_call_check(call));
    HPL_TRY(borrow(call, http, deadline_ns, &curl));
    uint64_t now_ns = hpl_clock_mono_ns();
    uint64_t left_ms = deadline_ns > now_ns ? (deadline_ns - now_ns) / 1000000u + 1 : 1;
    enum hpl_status status = curl ? perform(call, http, curl, request, answer, left_ms) : hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    give_back(http, curl);
    return status;
}

void hpl_vault_answer_wipe(struct hpl_vault_answer *answer)
{
    hpl_buf_wipe(&answer->body);
    hpl_secret_free(answer->secret);
    *answer = (struct hpl_vault_answer){0};
}

/* --- what an answer says ------------------------------------------------------------------------------------------------- */

static struct hpl_bytes answer_bytes(const struct hpl_vault_answer *answer)
{
    return answer->secret ? hpl_bytes(answer->secret->bytes, answer->secret_len) : hpl_buf_bytes(&answer->body);
}

enum hpl_status hpl_vault_answer_json(struct hpl_call *call, const struct hpl_vault_answer *answer, json_t **out)
{
    if (hpl_json_object(NULL, out, answer_bytes(answer), MAX_ANSWER, false) != HPL_OK)
        return hpl_fail(call, HPL_BACKEND, "Vault answered %ld with something that is not a JSON object", answer->code);
    return HPL_OK;
}

static json_t *errors_of(const struct hpl_vault_answer *answer)
{
    json_t *HPL_JSON_AUTO root = NULL;
    return hpl_vault_answer_json(NULL, answer, &root) == HPL_OK ? json_incref(json_object_get(root, "errors")) : NULL;
}

bool hpl_vault_answer_says(const struct hpl_vault_answer *answer, const char *text)
{
    json_t *HPL_JSON_AUTO errors = errors_of(answer);
    size_t i;
    json_t *error;
    json_array_foreach(errors, i, error)
        if (json_is_string(error) && strstr(json_string_value(error), text))
            return true;
    return false;
}

/* The first error, printable and short. */
static void said(const struct hpl_vault_answer *answer, char out[static MAX_SAID])
{
    json_t *HPL_JSON_AUTO errors = errors_of(answer);
    const char *text = json_string_value(json_array_get(errors, 0));
    snprintf(out, MAX_SAID, "%s", text ? text : "nothing more");
    for (char *at = out; *at; at++)
        if (*at < ' ' || *at > '~')
            *at = ' ';
}

static enum hpl_status refused_404(struct hpl_call *call, const struct hpl_vault_request *request, const struct hpl_vault_answer *answer, const char *what)
{
    const char *slash = strchr(request->path, '/');
    int len = slash ? (int)(slash - request->path) : (int)strlen(request->path);
    if (hpl_vault_answer_says(answer, "no handler for route"))
        return hpl_fail(call, HPL_BACKEND, "%s: Vault has nothing mounted at the path of '%.*s'; have the engine or auth method enabled there (docs/vault.md)", what, len, request->path);
    return hpl_fail(call, HPL_KEY_UNAVAILABLE, "%s: Vault does not find '%.100s'", what, request->path);
}

enum hpl_status hpl_vault_refused(struct hpl_call *call, const struct hpl_vault_http *http, const struct hpl_vault_request *request,
                                  const struct hpl_vault_answer *answer, const char *what)
{
    const char *address = http->settings->address;
    char text[MAX_SAID];
    said(answer, text);
    if (answer->code == 403)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "%s: Vault's policy does not allow %s on '%.80s'; docs/vault.md has the policy that is needed", what,
                        strcmp(request->method, "POST") == 0 ? "update" : strcmp(request->method, "GET") == 0 ? "read" : "delete", request->path);
    if (answer->code == 404)
        return refused_404(call, request, answer, what);
    if (answer->code == 429)
        return hpl_fail(call, HPL_SLOW_DOWN, "%s: Vault at %s limits the rate of requests", what, address);
    if (answer->code >= 300 && answer->code < 400)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is a standby that sends us elsewhere, and redirects are not followed; configure the active node or a load balancer", address);
    if (answer->code == 503 && hpl_vault_answer_says(answer, "sealed"))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is sealed; have it unsealed", address);
    if (hpl_vault_answer_says(answer, "not active"))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is a standby without an active node", address);
    if (hpl_vault_answer_says(answer, "not initialized"))
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s is not initialised", address);
    return hpl_fail(call, HPL_BACKEND, "%s: Vault answered %ld: %s", what, answer->code, text);
}
