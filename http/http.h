/* The strict HTTP/1.1 core: what it refuses, its deadlines and why it is ours are in http/README.md. I/O threads parse and move
 * bytes and never block; what a handler does runs as a job on a bounded pool, one at a time for each exchange, so a handler may block
 * on disk, token or network and needs no locks for its exchange. Only what a route calls quick runs on the I/O thread, and must not wait. */
#ifndef HPL_HTTP_HTTP_H
#define HPL_HTTP_HTTP_H

#include "auth/sigv4.h"

struct hpl_http_request {
    struct hpl_bytes method;
    struct hpl_bytes target;        /* as sent, origin form */
    struct hpl_bytes path, query;   /* raw, split at the first '?'; query without it */
    const struct hpl_sigv4_header *headers;
    size_t num_headers;
    int64_t content_length;         /* -1: none given */
    bool is_chunked;                /* Transfer-Encoding: chunked */
    bool is_tls;                    /* came over our TLS, or over the Unix socket from a front that says so */
    bool is_loopback;               /* the peer's address is loopback */
    char peer[64];                  /* address, for the log */
};

/* The value of the first header of that name (any case), or a NULL view. */
struct hpl_bytes hpl_http_header(const struct hpl_http_request *request, const char *name);
size_t hpl_http_count_headers(const struct hpl_http_request *request, const char *name);

struct hpl_http_exchange; /* one request and its answer */

/* All run as jobs, or where the route says quick on the I/O thread with call->must_not_wait, in this order: begin; then body any number of times and end, if a body was asked for; produce any number of
 * times, if the answer streams; finish, always, exactly once, last. */
struct hpl_http_handler {
    const char *name;
    /* The head is there, no body byte was read. Authorise, then either answer or call hpl_http_expect_body. */
    void (*begin)(struct hpl_http_exchange *exchange);
    /* The next piece of the decoded body (aws-chunked and chunked removed), at most 1 MiB. May answer early: the rest is not
     * read and the connection ends after the answer. NULL when the handler only takes whole bodies. */
    void (*body)(struct hpl_http_exchange *exchange, const uint8_t *data, size_t len);
    /* The body is complete; its length, x-amz-content-sha256, chunk signatures and trailer signature were right. Must answer. */
    void (*end)(struct hpl_http_exchange *exchange);
    /* Writes up to cap (1 MiB) bytes of the answer's body, at least one, and says how many. A failure before anything was sent is
     * answered by the route's fail; one in the middle breaks the connection, which never looks like a clean end. */
    enum hpl_status (*produce)(struct hpl_http_exchange *exchange, uint8_t *to, size_t cap, size_t *len);
    /* Frees what hpl_http_data holds. is_sent: the whole answer was handed to the socket. Not called where begin never was. */
    void (*finish)(struct hpl_http_exchange *exchange, bool is_sent);
};

const struct hpl_http_request *hpl_http_request(const struct hpl_http_exchange *exchange);
/* Request id, detail, and a deadline of request_timeout_ms that starts anew with each job: a long transfer never runs into it. */
struct hpl_call *hpl_http_call(struct hpl_http_exchange *exchange);
void *hpl_http_app(const struct hpl_http_exchange *exchange);       /* the route's app pointer */
void hpl_http_set_data(struct hpl_http_exchange *exchange, void *data);
void *hpl_http_data(const struct hpl_http_exchange *exchange);
/* Once the signature was verified: for the access log, and counted until the answer is out. HPL_SLOW_DOWN past max_per_credential. */
enum hpl_status hpl_http_set_identity(struct hpl_http_exchange *exchange, const char *access_key) HPL_MUST_USE;

/* From begin only: read the body. payload (NULL: nothing to prove) is taken over and wiped by the core. Sends 100-continue if
 * asked for. At most max bytes decoded; past it the route's fail function answers HPL_TOO_LARGE. When whole, body is not
 * called; the bytes are in hpl_http_whole_body at end (wiped after). */
void hpl_http_expect_body(struct hpl_http_exchange *exchange, struct hpl_sigv4_payload *payload, uint64_t max, bool whole);
struct hpl_bytes hpl_http_whole_body(const struct hpl_http_exchange *exchange);
/* Decoded length announced: x-amz-decoded-content-length for aws-chunked, else Content-Length; -1 unknown. */
int64_t hpl_http_decoded_length(const struct hpl_http_exchange *exchange);
/* At end: a trailer's value (aws-chunked or chunked), or a NULL view. */
struct hpl_bytes hpl_http_trailer(const struct hpl_http_exchange *exchange, const char *name);

/* The answer: status, headers, then one of send, send_empty or stream. Once. x-amz-request-id, Date, Server, Connection and
 * Content-Length are the core's. */
void hpl_http_status(struct hpl_http_exchange *exchange, int status);
void hpl_http_add_header(struct hpl_http_exchange *exchange, const char *name, const char *fmt, ...) HPL_PRINTF(3, 4);
/* A value with control bytes is dropped, never sent. */
void hpl_http_add_header_bytes(struct hpl_http_exchange *exchange, const char *name, struct hpl_bytes value);
/* A method more in the list that an Allow header tells, which every 405 carries (RFC 9110 section 15.5.6); one that is in it stays as it is. */
void hpl_http_put_method(struct hpl_buf *list, const char *method);
void hpl_http_send(struct hpl_http_exchange *exchange, const char *content_type, struct hpl_bytes body); /* copied; wiped after */
void hpl_http_send_empty(struct hpl_http_exchange *exchange);
/* Content-Length len, then produce until len bytes were given; the head goes out with the first of them. head_only sends the length without a
 * body. */
void hpl_http_stream(struct hpl_http_exchange *exchange, uint64_t len, bool head_only);
bool hpl_http_is_answered(const struct hpl_http_exchange *exchange);

/* From begin or end of a quick request that turned out to need waiting (HPL_WOULD_WAIT): the same function is called once more, as a job. */
void hpl_http_put_off(struct hpl_http_exchange *exchange);

/* One row a surface; the first whose prefix matches the raw path wins, so order from long to short. */
enum hpl_http_pool { HPL_HTTP_POOL_CONTROL, HPL_HTTP_POOL_BULK, HPL_HTTP_NUM_POOLS };
struct hpl_http_route {
    const char *prefix;
    const struct hpl_http_handler *handler;
    void *app;
    enum hpl_http_pool pool;
    /* Answers a failure of the core itself (bad signature of the body, too large, time-out, full pool) in the surface's form.
     * May run on an I/O thread, before begin: it must not block. */
    void (*fail)(struct hpl_http_exchange *exchange, enum hpl_status status);
    /* Whether this request, of which the head is there, is answered in microseconds by what is in memory: then its functions run on the I/O thread itself,
     * with call->must_not_wait, since handing it over would cost more than the answer. NULL: none is. Runs on an I/O thread. */
    bool (*is_quick)(const struct hpl_http_exchange *exchange);
};

#define HPL_HTTP_MAX_CONNECTIONS 4096u

struct hpl_http_options {
    const char *listen;             /* HOST:PORT, port 0: a free one; or unix:PATH */
    int inherited_fd;               /* a listening socket to take in its place; 0: none */
    const char *tls_cert, *tls_key; /* PEM files; NULL: plaintext */
    bool allow_tls12;               /* else TLS 1.3 alone */
    void *tls_libctx;               /* OSSL_LIB_CTX whose algorithms carry TLS; NULL: OpenSSL's default */
    unsigned num_io_threads;        /* 0: one a core */
    unsigned num_jobs[HPL_HTTP_NUM_POOLS]; /* threads a pool; 0: default */
    unsigned max_queued;            /* requests waiting for a pool before it is full; 0: 1024 */
    unsigned max_connections;       /* 0: HPL_HTTP_MAX_CONNECTIONS */
    unsigned max_per_address;       /* connections of one peer address, loopback aside; 0: no such limit (a proxy in front) */
    unsigned max_per_credential;    /* requests of one access key under way at once; 0: no such limit */
    unsigned min_body_rate;         /* bytes a second that a body brings on the whole, after a grace of write_timeout_ms; 0: 1024 */
    unsigned handshake_timeout_ms, head_timeout_ms, idle_timeout_ms, write_timeout_ms, request_timeout_ms; /* 0: 10 s, 10 s, 60 s, 30 s, 30 s */
    unsigned stuck_ms;              /* what one step of a request takes at least, and ten times request_timeout_ms, before hpl_http_is_alive calls it stuck; 0: 600 s */
    const struct hpl_http_route *routes;
    size_t num_routes;
};

struct hpl_http_server;
/* Binds and serves. HPL_INVALID_CONFIGURATION with the mend when the port is taken or the certificate cannot be read. */
enum hpl_status hpl_http_start(struct hpl_call *call, struct hpl_http_server **out, const struct hpl_http_options *options) HPL_MUST_USE;
/* Reads a certificate and its key as a start does. HPL_INVALID_CONFIGURATION with the mend, also for a certificate that has expired. */
enum hpl_status hpl_http_check_tls(struct hpl_call *call, void *libctx, const char *cert, const char *key) HPL_MUST_USE;
/* "127.0.0.1:9000" as bound; lives as long as the server. */
const char *hpl_http_address(const struct hpl_http_server *server);
/* Reads the certificate again; the old one stays on failure. */
enum hpl_status hpl_http_reload_tls(struct hpl_call *call, struct hpl_http_server *server) HPL_MUST_USE;
/* Does every thread get on? Each I/O thread went round its loop since this was last asked, or was asked less than stall_ms ago; no step of a request has run for
 * stuck_ms and ten times request_timeout_ms. For a watchdog, now and then; one thread at a time. */
bool hpl_http_is_alive(struct hpl_http_server *server, unsigned stall_ms) HPL_MUST_USE;
/* No new connections, Connection: close on answers, waits up to drain_ms for what runs, then ends and frees. */
void hpl_http_stop(struct hpl_http_server *server, unsigned drain_ms);

struct hpl_http_counters {
    uint64_t connections, requests, bytes_in, bytes_out, refused, open_connections;
};
void hpl_http_count(const struct hpl_http_server *server, struct hpl_http_counters *out);

#endif
