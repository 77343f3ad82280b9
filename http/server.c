/* The server as a whole: options and their defaults, the listening socket, threads and pools, reload, stop, counters. Called by
 * the daemon's own thread. */
#include "http/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/ssl.h>

#include "base/clock.h"

static unsigned num_cores(void)
{
    long num = sysconf(_SC_NPROCESSORS_ONLN);
    return num > 0 ? (unsigned)num : 1;
}

static void set_default(unsigned *option, unsigned value)
{
    if (*option == 0)
        *option = value;
}

static void fill_defaults(struct hpl_http_options *options)
{
    unsigned cores = num_cores();
    set_default(&options->num_io_threads, cores);
    set_default(&options->num_jobs[HPL_HTTP_POOL_CONTROL], 4);
    set_default(&options->num_jobs[HPL_HTTP_POOL_BULK], cores * 2 < 8 ? 8 : cores * 2);
    set_default(&options->max_queued, 1024);
    set_default(&options->max_connections, HPL_HTTP_MAX_CONNECTIONS);
    set_default(&options->min_body_rate, 1024);
    set_default(&options->handshake_timeout_ms, 10000);
    set_default(&options->head_timeout_ms, 10000);
    set_default(&options->idle_timeout_ms, 60000);
    set_default(&options->write_timeout_ms, 30000);
    set_default(&options->request_timeout_ms, 30000);
    set_default(&options->stuck_ms, 600000);
}

static bool copy_text(const char **text)
{
    if (!*text)
        return true;
    *text = strdup(*text);
    return *text != NULL;
}

_Atomic unsigned *hpl_http_take_share(struct hpl_http_shares *shares, const char *name, unsigned most)
{
    uint32_t hash = shares->salt;
    for (const char *at = name; *at; at++)
        hash = (hash ^ (uint8_t)*at) * 16777619u;
    _Atomic unsigned *taken = &shares->taken[(hash ^ hash >> 15) % HPL_COUNT(shares->taken)];
    if (atomic_fetch_add(taken, 1) < most)
        return taken;
    atomic_fetch_sub(taken, 1);
    return NULL;
}

/* Zero descriptors and texts are made ours first, so that a half-made server can be freed. */
static struct hpl_http_server *new_server(const struct hpl_http_options *options)
{
    struct hpl_http_server *server = calloc(1, sizeof *server);
    if (!server)
        return NULL;
    server->listener.fd = server->spare_fd = -1;
    server->addresses.salt = server->credentials.salt = (uint32_t)hpl_clock_mono_ns();
    server->options = *options;
    fill_defaults(&server->options);
    pthread_mutex_init(&server->tls_lock, NULL);
    pthread_mutex_init(&server->blocks.lock, NULL);
    bool has_texts = copy_text(&server->options.listen);
    has_texts &= copy_text(&server->options.tls_cert);
    has_texts &= copy_text(&server->options.tls_key);
    server->routes = calloc(options->num_routes + 1, sizeof *server->routes);
    server->ios = calloc(server->options.num_io_threads, sizeof *server->ios);
    if (server->routes)
        memcpy(server->routes, options->routes, options->num_routes * sizeof *server->routes);
    for (unsigned i = 0; server->ios && i < server->options.num_io_threads; i++) {
        struct hpl_http_io *io = &server->ios[server->num_ios++];
        io->server = server;
        io->epoll_fd = io->event_fd = -1;
        pthread_mutex_init(&io->lock, NULL);
    }
    if (has_texts && server->routes && server->ios)
        return server;
    hpl_http_stop(server, 0);
    return NULL;
}

static enum hpl_status make_tls(struct hpl_call *call, const struct hpl_http_server *server, SSL_CTX **out)
{
    const struct hpl_http_options *options = &server->options;
    if (!options->tls_key)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "a TLS certificate needs its key beside it: set tls_key");
    return hpl_tls_context(call, out, options->tls_libctx, options->tls_cert, options->tls_key, options->allow_tls12);
}

static enum hpl_status start(struct hpl_call *call, struct hpl_http_server *server)
{
    static const char *const names[] = {"http-control", "http-bulk"};
    if (server->options.tls_cert) {
        signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
        HPL_TRY(make_tls(call, server, &server->tls));
    }
    HPL_TRY(hpl_http_listen(call, server->options.listen, server->options.inherited_fd, &server->listener));
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    for (unsigned i = 0; i < HPL_HTTP_NUM_POOLS; i++)
        HPL_TRY(hpl_pool_new(call, &server->pools[i], names[i], server->options.num_jobs[i], server->options.max_queued));
    for (unsigned i = server->num_ios; i-- > 0;) /* the acceptor last */
        HPL_TRY(hpl_http_io_start(call, &server->ios[i]));
    return HPL_OK;
}

enum hpl_status hpl_http_start(struct hpl_call *call, struct hpl_http_server **out, const struct hpl_http_options *options)
{
    struct hpl_http_server *server = new_server(options);
    if (!server)
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for the HTTP server");
    enum hpl_status status = start(call, server);
    if (status != HPL_OK)
        hpl_http_stop(server, 0);
    else
        *out = server;
    return status;
}

const char *hpl_http_address(const struct hpl_http_server *server)
{
    return server->listener.address;
}

enum hpl_status hpl_http_reload_tls(struct hpl_call *call, struct hpl_http_server *server)
{
    SSL_CTX *fresh = NULL;
    if (!server->options.tls_cert)
        return hpl_fail(call, HPL_INVALID_REQUEST, "this listener has no TLS to reload");
    HPL_TRY(make_tls(call, server, &fresh));
    pthread_mutex_lock(&server->tls_lock);
    SSL_CTX *old = server->tls;
    server->tls = fresh;
    pthread_mutex_unlock(&server->tls_lock);
    SSL_CTX_free(old);
    return HPL_OK;
}

/* What a step of a request may take beyond its deadline before nobody believes in its end, in deadlines: a large file's sync can be slow. */
#define MANY_DEADLINES 10u

/* Not less than stuck_ms: some steps have time-outs of their own, an opening of a backend that hangs a minute, and wait for each other. */
static uint64_t longest_step_ns(const struct hpl_http_options *options)
{
    uint64_t many_ms = (uint64_t)options->request_timeout_ms * MANY_DEADLINES;
    return (many_ms > options->stuck_ms ? many_ms : options->stuck_ms) * UINT64_C(1000000);
}

bool hpl_http_is_alive(struct hpl_http_server *server, unsigned stall_ms)
{
    uint64_t now = hpl_clock_mono_ns(), longest_ns = longest_step_ns(&server->options);
    bool is_alive = true;
    for (unsigned i = 0; i < server->num_ios; i++)
        is_alive &= hpl_http_io_is_alive(&server->ios[i], stall_ms * UINT64_C(1000000));
    for (unsigned i = 0; i < HPL_HTTP_NUM_POOLS && now > longest_ns; i++)
        is_alive &= !hpl_pool_is_stuck(server->pools[i], now - longest_ns);
    return is_alive;
}

static void wake_all(struct hpl_http_server *server)
{
    for (unsigned i = 0; i < server->num_ios; i++)
        if (server->ios[i].is_started)
            hpl_http_io_wake(&server->ios[i]);
}

static void drain(struct hpl_http_server *server, unsigned drain_ms)
{
    uint64_t until_ns = hpl_clock_mono_ns() + drain_ms * UINT64_C(1000000);
    atomic_store(&server->is_stopping, true);
    wake_all(server);
    while (atomic_load(&server->num_open) && hpl_clock_mono_ns() < until_ns)
        usleep(2000);
    atomic_store(&server->is_ending, true);
    wake_all(server);
}

static void free_server(struct hpl_http_server *server)
{
    hpl_http_unlisten(&server->listener);
    if (server->spare_fd >= 0)
        close(server->spare_fd);
    for (unsigned i = 0; i < server->blocks.num_free; i++)
        free(server->blocks.free[i]);
    SSL_CTX_free(server->tls);
    free((char *)server->options.listen);
    free((char *)server->options.tls_cert);
    free((char *)server->options.tls_key);
    free(server->routes);
    free(server->ios);
    pthread_mutex_destroy(&server->tls_lock);
    pthread_mutex_destroy(&server->blocks.lock);
    free(server);
}

void hpl_http_stop(struct hpl_http_server *server, unsigned drain_ms)
{
    if (!server)
        return;
    drain(server, drain_ms);
    for (unsigned i = 0; i < server->num_ios; i++)
        hpl_http_io_stop(&server->ios[i]);
    for (unsigned i = 0; i < HPL_HTTP_NUM_POOLS; i++)
        hpl_pool_free(server->pools[i]);
    free_server(server);
}

void hpl_http_count(const struct hpl_http_server *server, struct hpl_http_counters *out)
{
    *out = (struct hpl_http_counters){.open_connections = atomic_load(&server->num_open)};
    for (unsigned i = 0; i < server->num_ios; i++) {
        const struct hpl_http_io *io = &server->ios[i];
        out->connections += atomic_load(&io->connections);
        out->requests += atomic_load(&io->requests);
        out->bytes_in += atomic_load(&io->bytes_in);
        out->bytes_out += atomic_load(&io->bytes_out);
        out->refused += atomic_load(&io->refused);
    }
}
