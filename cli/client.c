/* The signed client. One thread. */
#include "cli/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <curl/curl.h>

#include "auth/sigv4.h"
#include "base/clock.h"
#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"

#define PREFIX "/rustfs/admin/v3/"
#define MAX_ANSWER (16u << 20)

static char *copy_text(struct hpl_bytes bytes)
{
    char *text = hpl_strndup(bytes);
    HPL_CHECK(text);
    return text;
}

/* The value of NAME='value' or NAME=value on its own line, single quotes undone. False when it is not there. */
static bool env_line(struct hpl_bytes file, const char *name, struct hpl_buf *value)
{
    size_t name_len = strlen(name);
    while (file.len) {
        const uint8_t *end = memchr(file.data, '\n', file.len);
        struct hpl_bytes line = {file.data, end ? (size_t)(end - file.data) : file.len};
        file = end ? hpl_bytes(end + 1, file.len - line.len - 1) : hpl_bytes(NULL, 0);
        if (line.len <= name_len || memcmp(line.data, name, name_len) != 0 || line.data[name_len] != '=')
            continue;
        for (size_t i = name_len + 1; i < line.len; i++)
            if (line.data[i] == '\\' && i + 1 < line.len)
                hpl_buf_put_u8(value, line.data[++i]);
            else if (line.data[i] != '\'')
                hpl_buf_put_u8(value, line.data[i]);
        return true;
    }
    return false;
}

/* From the file, else from the environment; NULL when neither has it. */
static char *setting(struct hpl_bytes file, const char *name)
{
    struct hpl_buf value = {0};
    char *text = NULL;
    if (env_line(file, name, &value))
        text = copy_text(hpl_buf_bytes(&value));
    else if (getenv(name))
        text = copy_text(hpl_bytes_str(getenv(name)));
    hpl_buf_wipe(&value);
    return text;
}

enum hpl_status hpl_client_init(struct hpl_call *call, struct hpl_client *client, const char *env_file)
{
    struct hpl_buf file = {0};
    HPL_TRY(hpl_secret_init(call, HPL_CLI_SECRETS_LEN, HPL_SECRET_MAY_SWAP)); /* who needs more asks for it when it has to */
    enum hpl_status status = env_file ? hpl_file_read(call, env_file, 65536, &file) : HPL_OK;
    if (status == HPL_OK) {
        client->endpoint = setting(hpl_buf_bytes(&file), "HARDPLATE_ENDPOINT");
        client->region = setting(hpl_buf_bytes(&file), "HARDPLATE_REGION");
        client->access_key = setting(hpl_buf_bytes(&file), "HARDPLATE_ACCESS_KEY");
        client->ca_file = setting(hpl_buf_bytes(&file), "HARDPLATE_CA_FILE");
        char *secret = setting(hpl_buf_bytes(&file), "HARDPLATE_SECRET_KEY");
        if (secret && *secret)
            client->secret_key = hpl_secret_from(secret, strlen(secret));
        if (secret)
            hpl_wipe(secret, strlen(secret));
        free(secret);
        char *in_environment = getenv("HARDPLATE_SECRET_KEY");
        if (in_environment)
            hpl_wipe(in_environment, strlen(in_environment));
    }
    hpl_buf_wipe(&file);
    HPL_TRY(status);
    if (!client->endpoint || !client->access_key || !client->secret_key)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION,
                        "set HARDPLATE_ENDPOINT, HARDPLATE_ACCESS_KEY and HARDPLATE_SECRET_KEY, or give --env FILE (hardplated --dev DIR writes DIR/env)");
    if (!client->region)
        client->region = copy_text(hpl_bytes_str("us-east-1"));
    return HPL_OK;
}

void hpl_client_wipe(struct hpl_client *client)
{
    free(client->endpoint);
    free(client->region);
    free(client->access_key);
    free(client->ca_file);
    hpl_secret_free(client->secret_key);
    *client = (struct hpl_client){0};
}

static size_t take_answer(char *data, size_t size, size_t count, void *arg)
{
    hpl_buf_put(arg, data, size * count);
    return ((struct hpl_buf *)arg)->is_failed ? 0 : size * count;
}

struct asked {
    struct hpl_buf body, answer, authorization, host, url;
    struct curl_slist *headers;
    char date[40], sha256[65];
};

static void asked_wipe(struct asked *asked)
{
    hpl_buf_wipe(&asked->body);
    hpl_buf_wipe(&asked->answer);
    hpl_buf_wipe(&asked->authorization);
    hpl_buf_wipe(&asked->host);
    hpl_buf_wipe(&asked->url);
    curl_slist_free_all(asked->headers);
}

static void add_header(struct asked *asked, const char *fmt, const char *value)
{
    struct hpl_buf line = {0};
    hpl_buf_printf(&line, fmt, value);
    asked->headers = curl_slist_append(asked->headers, hpl_buf_text(&line));
    hpl_buf_wipe(&line);
}

static enum hpl_status sign(struct hpl_call *call, const struct hpl_client *client, struct asked *asked, const char *method, const char *path,
                            const char *query)
{
    uint8_t digest[32];
    struct hpl_buf whole_path = {0};
    hpl_sha256(digest, asked->body.data, asked->body.len);
    hpl_hex_encode(asked->sha256, digest, sizeof digest);
    hpl_time_text(asked->date, hpl_clock_unix_ms(), HPL_TIME_BASIC);
    hpl_buf_printf(&whole_path, PREFIX "%s", path);
    const struct hpl_sigv4_header headers[] = {
        {hpl_bytes_str("host"), hpl_buf_bytes(&asked->host)},
        {hpl_bytes_str("x-amz-content-sha256"), hpl_bytes_str(asked->sha256)},
        {hpl_bytes_str("x-amz-date"), hpl_bytes_str(asked->date)},
    };
    const struct hpl_sigv4_request request = {.method = hpl_bytes_str(method), .path = hpl_buf_bytes(&whole_path), .query = hpl_bytes_str(query),
                                              .headers = headers, .num_headers = HPL_COUNT(headers)};
    enum hpl_status status = hpl_sigv4_sign(call, &request, client->access_key, client->secret_key, client->region, "s3", &asked->authorization);
    hpl_buf_wipe(&whole_path);
    return status;
}

/* Host as curl will send it: what stands between the scheme and the path, without a default port. */
static enum hpl_status host_of(struct hpl_call *call, const char *endpoint, struct hpl_buf *host)
{
    const char *at = strstr(endpoint, "://");
    bool is_tls = strncmp(endpoint, "https://", 8) == 0;
    if (!at || (!is_tls && strncmp(endpoint, "http://", 7) != 0))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the endpoint '%.80s' must start with http:// or https://", endpoint);
    at += 3;
    size_t len = strcspn(at, "/");
    const char *port = is_tls ? ":443" : ":80";
    if (len > strlen(port) && strncmp(at + len - strlen(port), port, strlen(port)) == 0)
        len -= strlen(port);
    hpl_buf_put(host, at, len);
    return HPL_OK;
}

static enum hpl_exit exit_for(long http_status)
{
    if (http_status == 401 || http_status == 403)
        return HPL_EXIT_DENIED;
    return http_status == 503 ? HPL_EXIT_UNAVAILABLE : HPL_EXIT_FAILED;
}

/* The command that mends it, where there is one: what the daemon says names its routes. */
static const char *mend_for(const char *code)
{
    static const char *const mends[][2] = {{"NotConfigured", "hardplate configure FILE, then hardplate start"}, {"NotRunning", "hardplate start"},
                                           {"KeyDisabled", "hardplate keys enable ID"}, {"KeyPendingDeletion", "hardplate keys cancel-deletion ID"}};
    for (size_t i = 0; i < HPL_COUNT(mends); i++)
        if (strcmp(code, mends[i][0]) == 0)
            return mends[i][1];
    return NULL;
}

static enum hpl_exit read_answer(struct asked *asked, long http_status, json_t **answer)
{
    struct hpl_call call = {0};
    json_t *value = NULL;
    enum hpl_status status = hpl_json_object(&call, &value, hpl_buf_bytes(&asked->answer), MAX_ANSWER, true);
    if (http_status >= 200 && http_status < 300 && status == HPL_OK) {
        *answer = value;
        return HPL_EXIT_DONE;
    }
    const char *message = json_string_value(json_object_get(value, "message")), *code = json_string_value(json_object_get(value, "code"));
    const char *mend = message && code ? mend_for(code) : NULL;
    struct hpl_buf line = {0};
    if (message) {
        hpl_cli_put_plain(&line, code ? code : "refused");
        hpl_buf_put_str(&line, ": ");
        hpl_cli_put_plain(&line, message);
        fprintf(stderr, "hardplate: %s%s%s%s\n", hpl_buf_text(&line), mend ? " (" : "", mend ? mend : "", mend ? ")" : "");
    } else
        fprintf(stderr, "hardplate: the endpoint answered HTTP %ld and no JSON: is it a hardplated?\n", http_status);
    hpl_buf_wipe(&line);
    json_decref(value);
    return exit_for(http_status);
}

static enum hpl_exit perform(const struct hpl_client *client, struct asked *asked, const char *method, json_t **answer)
{
    char why[CURL_ERROR_SIZE] = "";
    long http_status = 0;
    CURL *curl = curl_easy_init();
    HPL_CHECK(curl);
    curl_easy_setopt(curl, CURLOPT_URL, hpl_buf_text(&asked->url));
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, asked->headers);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT, 120L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_answer);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &asked->answer);
    if (strncmp(client->endpoint, "http://", 7) == 0) /* what a proxy of the environment's would see: credentials of backends, data keys */
        curl_easy_setopt(curl, CURLOPT_PROXY, "");
    if (client->ca_file)
        curl_easy_setopt(curl, CURLOPT_CAINFO, client->ca_file);
    if (strcmp(method, "GET") != 0) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)asked->body.len);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, asked->body.len ? (const char *)asked->body.data : "");
    }
    CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &http_status);
    curl_easy_cleanup(curl);
    if (code == CURLE_OK)
        return read_answer(asked, http_status, answer);
    fprintf(stderr, "hardplate: %s: %s; is hardplated running there? HARDPLATE_ENDPOINT or --env FILE names another\n", client->endpoint,
            why[0] ? why : curl_easy_strerror(code));
    return HPL_EXIT_UNAVAILABLE;
}

enum hpl_exit hpl_client_ask(const struct hpl_client *client, const char *method, const char *path, const char *query, const json_t *body,
                             json_t **answer)
{
    struct hpl_call call = {0};
    struct asked asked = {.answer = {.max = MAX_ANSWER}};
    enum hpl_exit code = HPL_EXIT_FAILED;
    enum hpl_status status = body ? hpl_json_put(&asked.body, body) : HPL_OK;
    if (status == HPL_OK)
        status = host_of(&call, client->endpoint, &asked.host);
    if (status == HPL_OK)
        status = sign(&call, client, &asked, method, path, query);
    if (status == HPL_OK) {
        hpl_buf_printf(&asked.url, "%.*s" PREFIX "%s%s%s", (int)(strstr(client->endpoint, "://") + 3 + strcspn(strstr(client->endpoint, "://") + 3, "/") - client->endpoint),
                       client->endpoint, path, *query ? "?" : "", query);
        add_header(&asked, "Host: %s", hpl_buf_text(&asked.host));
        add_header(&asked, "x-amz-date: %s", asked.date);
        add_header(&asked, "x-amz-content-sha256: %s", asked.sha256);
        add_header(&asked, "Authorization: %s", hpl_buf_text(&asked.authorization));
        add_header(&asked, "Content-Type: %s", "application/json");
        add_header(&asked, "Expect:%s", "");
        code = perform(client, &asked, method, answer);
    } else
        fprintf(stderr, "hardplate: %s\n", hpl_detail(&call, status));
    asked_wipe(&asked);
    return code;
}
