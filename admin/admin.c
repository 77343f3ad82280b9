/* What every admin route has in common. Jobs of the CONTROL pool, which may block; quick ones on an I/O thread, with call->must_not_wait. */
#include "admin/routes.h"

#include <stdlib.h>

#define MAX_BODY (1u << 20)
#define MAX_TAIL 1024
#define MAX_QUICK_BODY 8192

struct work {
    const struct hpl_admin_route *route;
    struct hpl_identity identity;
    char tail[MAX_TAIL];
};

/* Without a value the text is there already. */
static void answer_json(struct hpl_http_exchange *exchange, int http_status, const json_t *value, struct hpl_buf *text)
{
    hpl_http_status(exchange, http_status);
    hpl_http_add_header_bytes(exchange, "Cache-Control", hpl_bytes_str("no-store"));
    if (!value || hpl_json_put(text, value) == HPL_OK)
        hpl_http_send(exchange, "application/json", hpl_buf_bytes(text));
    else
        hpl_http_send_empty(exchange);
    hpl_buf_wipe(text);
}

void hpl_admin_fail(struct hpl_http_exchange *exchange, enum hpl_status status)
{
    const struct hpl_status_row *row = hpl_status_row(status);
    const char *detail = hpl_detail(hpl_http_call(exchange), status);
    json_t *HPL_JSON_AUTO value =
        json_pack("{s:s, s:s, s:s}", "code", row->kms_code, "message", detail, "description", row->text);
    if (row->kms_http == 401) /* RFC 9110 section 15.5.2 */
        hpl_http_add_header_bytes(exchange, "WWW-Authenticate", hpl_bytes_str("AWS4-HMAC-SHA256"));
    if (row->kms_http == 503)
        hpl_http_add_header(exchange, "Retry-After", "%u", hpl_http_call(exchange)->retry_after_s ? hpl_http_call(exchange)->retry_after_s : 1);
    answer_json(exchange, row->kms_http, value, &(struct hpl_buf){0});
}

bool hpl_admin_is_quick(const struct hpl_http_exchange *exchange)
{
    static const char route[] = "kms/generate-data-key";
    const struct hpl_http_request *http = hpl_http_request(exchange);
    const struct hpl_admin *admin = hpl_http_app(exchange);
    return http->path.len > sizeof route && memcmp(http->path.data + http->path.len - (sizeof route - 1), route, sizeof route - 1) == 0 &&
           http->content_length >= 0 && http->content_length <= MAX_QUICK_BODY && hpl_kms_is_quick(admin->kms);
}

static bool is_private(const struct hpl_http_request *http)
{
    return http->is_tls || http->is_loopback;
}

/* The path behind whichever prefix it came by. */
static struct hpl_bytes behind_prefix(struct hpl_bytes path)
{
    static const char *const prefixes[] = {HPL_ADMIN_PREFIX, HPL_ADMIN_ALIAS};
    for (size_t i = 0; i < HPL_COUNT(prefixes); i++) {
        size_t len = strlen(prefixes[i]);
        if (path.len >= len && memcmp(path.data, prefixes[i], len) == 0)
            return hpl_bytes(path.data + len, path.len - len);
    }
    return hpl_bytes(NULL, 0);
}

static enum hpl_status verify(struct hpl_admin *admin, struct hpl_http_exchange *exchange, struct hpl_identity *identity,
                              struct hpl_sigv4_payload *payload)
{
    const struct hpl_http_request *http = hpl_http_request(exchange);
    const struct hpl_sigv4_request signed_request = {
        .method = http->method, .path = http->path, .query = http->query, .headers = http->headers, .num_headers = http->num_headers};
    const struct hpl_sigv4_options options = {.services = "s3,kms", .region = admin->region, .require_hashed = true};
    HPL_TRY(hpl_sigv4_verify(hpl_http_call(exchange), admin->auth, &signed_request, &options, identity, payload));
    HPL_TRY(hpl_http_set_identity(exchange, identity->access_key));
    hpl_auth_set_caller(hpl_http_call(exchange), identity);
    return HPL_OK;
}

static enum hpl_status no_route(struct hpl_http_exchange *exchange, const struct hpl_buf *allowed)
{
    const struct hpl_bytes method = hpl_http_request(exchange)->method;
    struct hpl_call *call = hpl_http_call(exchange);
    if (allowed->len == 0)
        return hpl_fail(call, HPL_NOT_FOUND, "no such admin route; docs/admin-api.md lists them");
    hpl_http_add_header_bytes(exchange, "Allow", hpl_buf_bytes(allowed));
    return hpl_fail(call, HPL_METHOD_NOT_ALLOWED, "this route does not take %.*s", (int)method.len, (const char *)method.data);
}

static enum hpl_status authorise(struct hpl_admin *admin, struct hpl_http_exchange *exchange, struct work *work,
                                 struct hpl_sigv4_payload *payload)
{
    const struct hpl_http_request *http = hpl_http_request(exchange);
    struct hpl_call *call = hpl_http_call(exchange);
    struct hpl_buf allowed = {0};
    HPL_TRY(verify(admin, exchange, &work->identity, payload));
    work->route = hpl_admin_find_route(http->method, behind_prefix(http->path), work->tail, sizeof work->tail, &allowed);
    enum hpl_status status = hpl_auth_allows(call, &work->identity, work->route ? work->route->action : "kms:Unknown");
    if (status == HPL_OK && !work->route)
        status = no_route(exchange, &allowed);
    hpl_buf_wipe(&allowed);
    HPL_TRY(status);
    if (work->route->gives_keys && !is_private(http))
        return hpl_fail(call, HPL_INSECURE_TRANSPORT, "data keys are not sent over a plaintext connection; use TLS");
    return HPL_OK;
}

static void put_off_begin(struct hpl_http_exchange *exchange)
{
    free(hpl_http_data(exchange));
    hpl_http_set_data(exchange, NULL);
    hpl_http_put_off(exchange);
}

static void begin(struct hpl_http_exchange *exchange)
{
    struct hpl_sigv4_payload payload = {0};
    struct work *work = calloc(1, sizeof *work);
    hpl_http_set_data(exchange, work);
    enum hpl_status status = work ? authorise(hpl_http_app(exchange), exchange, work, &payload) : HPL_NO_MEMORY;
    if (status == HPL_OK)
        hpl_http_expect_body(exchange, &payload, MAX_BODY, true);
    else if (status == HPL_WOULD_WAIT)
        put_off_begin(exchange);
    else
        hpl_admin_fail(exchange, status);
    hpl_sigv4_payload_wipe(&payload);
}

static void end(struct hpl_http_exchange *exchange)
{
    const struct work *work = hpl_http_data(exchange);
    struct hpl_call *call = hpl_http_call(exchange);
    json_t *HPL_JSON_AUTO body = NULL;
    json_t *HPL_JSON_AUTO answer = NULL;
    struct hpl_buf text = {0};
    enum hpl_status status = hpl_json_object(call, &body, hpl_http_whole_body(exchange), MAX_BODY, true);
    if (status == HPL_OK) {
        const struct hpl_admin_request request = {
            .admin = hpl_http_app(exchange), .call = call, .access_key = work->identity.access_key, .is_private = is_private(hpl_http_request(exchange)),
            .body = body, .query = hpl_http_request(exchange)->query, .tail = work->tail, .text = &text};
        status = work->route->run(&request, &answer);
        if (status == HPL_OK)
            status = hpl_buf_check(&text);
    }
    if (status == HPL_WOULD_WAIT)
        hpl_http_put_off(exchange);
    else if (status != HPL_OK)
        hpl_admin_fail(exchange, status);
    else if (work->route->http_ok == 204) {
        hpl_http_status(exchange, 204);
        hpl_http_send_empty(exchange);
    } else
        answer_json(exchange, work->route->http_ok, answer, &text);
    hpl_buf_wipe(&text);
}

static void finish(struct hpl_http_exchange *exchange, bool is_sent)
{
    (void)is_sent;
    free(hpl_http_data(exchange));
}

const struct hpl_http_handler hpl_admin_handler = {.name = "admin", .begin = begin, .end = end, .finish = finish};
