/* Health and metrics: unsigned, no secrets, no names of keys or buckets. Jobs of the CONTROL pool. */
#include "admin/admin.h"

#include <inttypes.h>

#include "base/secret.h"

static void send_text(struct hpl_http_exchange *exchange, int status, struct hpl_buf *text)
{
    hpl_http_status(exchange, status);
    hpl_http_add_header(exchange, "Cache-Control", "no-store");
    hpl_http_send(exchange, "text/plain; charset=utf-8", hpl_buf_bytes(text));
    hpl_buf_wipe(text);
}

static void live(struct hpl_http_exchange *exchange)
{
    struct hpl_buf text = {0};
    hpl_buf_put_str(&text, "live\n");
    send_text(exchange, 200, &text);
}

/* Ready: the object surface answers, and a KMS that is configured also runs. */
static void ready(struct hpl_http_exchange *exchange)
{
    const struct hpl_admin *admin = hpl_http_app(exchange);
    struct hpl_call call = {0};
    struct hpl_buf text = {0};
    enum hpl_status status = hpl_kms_ready(admin->kms, &call);
    hpl_buf_printf(&text, "%s: kms %s\n", status == HPL_OK || status == HPL_NOT_CONFIGURED ? "ready" : "not ready", hpl_status_row(status)->kms_code);
    send_text(exchange, status == HPL_OK || status == HPL_NOT_CONFIGURED ? 200 : 503, &text);
}

static void put_metric(struct hpl_buf *text, const char *name, const char *type, const char *help, uint64_t value)
{
    hpl_buf_printf(text, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", name, help, name, type, name, value);
}

static void metrics(struct hpl_http_exchange *exchange)
{
    const struct hpl_admin *admin = hpl_http_app(exchange);
    struct hpl_http_counters n = {0};
    struct hpl_call call = {0};
    struct hpl_buf text = {0};
    if (*admin->server)
        hpl_http_count(*admin->server, &n);
    hpl_buf_printf(&text, "# HELP hardplate_info What runs.\n# TYPE hardplate_info gauge\nhardplate_info{version=\"%s\",kernel=\"%s\"} 1\n", HPL_VERSION, admin->kernel);
    put_metric(&text, "hardplate_kms_running", "gauge", "1 while the key service runs.", hpl_kms_ready(admin->kms, &call) == HPL_OK);
    put_metric(&text, "hardplate_http_requests_total", "counter", "Requests answered.", n.requests);
    put_metric(&text, "hardplate_http_refused_total", "counter", "Requests refused by the HTTP core.", n.refused);
    put_metric(&text, "hardplate_http_connections_total", "counter", "Connections taken.", n.connections);
    put_metric(&text, "hardplate_http_open_connections", "gauge", "Connections open now.", n.open_connections);
    put_metric(&text, "hardplate_http_received_bytes_total", "counter", "Bytes received.", n.bytes_in);
    put_metric(&text, "hardplate_http_sent_bytes_total", "counter", "Bytes sent.", n.bytes_out);
    put_metric(&text, "hardplate_secret_bytes", "gauge", "Locked memory in use by secrets.", hpl_secret_in_use());
    hpl_kms_put_metrics(admin->kms, &text);
    send_text(exchange, 200, &text);
}

static const struct { const char *path; void (*run)(struct hpl_http_exchange *exchange); } pages[] = {
    {"/hardplate/health/live", live},
    {"/hardplate/health/ready", ready},
    {"/hardplate/metrics", metrics},
};

static void begin(struct hpl_http_exchange *exchange)
{
    const struct hpl_http_request *http = hpl_http_request(exchange);
    bool is_read = hpl_bytes_equal(http->method, hpl_bytes_str("GET")) || hpl_bytes_equal(http->method, hpl_bytes_str("HEAD"));
    for (size_t i = 0; i < HPL_COUNT(pages); i++)
        if (hpl_bytes_equal(http->path, hpl_bytes_str(pages[i].path))) {
            if (is_read) {
                pages[i].run(exchange);
                return;
            }
            hpl_http_add_header_bytes(exchange, "Allow", hpl_bytes_str("GET, HEAD"));
            hpl_admin_fail(exchange, HPL_METHOD_NOT_ALLOWED);
            return;
        }
    hpl_admin_fail(exchange, HPL_NOT_FOUND);
}

static void finish(struct hpl_http_exchange *exchange, bool is_sent)
{
    (void)exchange, (void)is_sent;
}

const struct hpl_http_handler hpl_health_handler = {.name = "health", .begin = begin, .finish = finish};
