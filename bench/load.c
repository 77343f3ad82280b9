/* The load: one thread, epoll, and answers read no further than their length. */
#include "bench/load.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"

#define ROOM (256u * 1024)
#define MAX_CONNECTIONS 256u
#define ANSWER_WITHIN_S 30

struct connection {
    int fd;
    SSL *ssl;
    bool is_busy;
    struct hpl_bytes out; /* what is left to send */
    uint8_t *in;
    size_t in_len;
    uint64_t since_ns, free_ns; /* when the request began; when the connection was last free to take one */
};

struct run {
    const struct hpl_bench_target *target;
    struct hpl_bench_outcome *outcome;
    struct connection connections[MAX_CONNECTIONS];
    unsigned num_connections;
    int epoll_fd;
    size_t next_request;
    double rate;
    uint64_t due_ns, end_ns;
    bool is_counting;
};

/* --- one connection --------------------------------------------------------------------------------------------------------------------------------- */

static void close_connection(struct connection *connection)
{
    SSL_free(connection->ssl);
    if (connection->fd >= 0)
        close(connection->fd);
    free(connection->in);
    *connection = (struct connection){.fd = -1};
}

/* Blocking, up to ANSWER_WITHIN_S. */
static enum hpl_status open_connection(struct hpl_call *call, const struct hpl_bench_target *target, struct connection *connection)
{
    const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)target->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const struct timeval within = {.tv_sec = ANSWER_WITHIN_S};
    int on = 1;
    *connection = (struct connection){.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), .in = malloc(ROOM)};
    HPL_CHECK(connection->fd >= 0 && connection->in);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(connection->fd, SOL_SOCKET, SO_RCVTIMEO, &within, sizeof within);
    bool is_open = connect(connection->fd, (const struct sockaddr *)&address, sizeof address) == 0;
    if (is_open && target->tls) {
        connection->ssl = SSL_new(target->tls);
        is_open = connection->ssl && SSL_set_fd(connection->ssl, connection->fd) && SSL_connect(connection->ssl) == 1;
    }
    if (is_open)
        return HPL_OK;
    close_connection(connection);
    return hpl_fail(call, HPL_UNAVAILABLE, "cannot connect to port %u of this machine", target->port);
}

/* 0: would block; below: broken. */
static ssize_t outcome_of(const struct connection *connection, int result)
{
    if (!connection->ssl)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    int error = SSL_get_error(connection->ssl, result);
    return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static bool send_rest(struct connection *connection)
{
    while (connection->out.len) {
        ssize_t n = connection->ssl ? SSL_write(connection->ssl, connection->out.data, (int)connection->out.len)
                                    : send(connection->fd, connection->out.data, connection->out.len, MSG_NOSIGNAL);
        if (n <= 0)
            return outcome_of(connection, (int)n) == 0;
        connection->out = hpl_bytes(connection->out.data + n, connection->out.len - (size_t)n);
    }
    return true;
}

static bool read_more(struct connection *connection)
{
    size_t room = ROOM - 1 - connection->in_len;
    uint8_t *to = connection->in + connection->in_len;
    ssize_t n = !room ? -1 : connection->ssl ? SSL_read(connection->ssl, to, (int)room) : recv(connection->fd, to, room, 0);
    if (n == 0 && !connection->ssl)
        return false;
    if (n <= 0)
        return room && outcome_of(connection, (int)n) == 0;
    connection->in_len += (size_t)n;
    connection->in[connection->in_len] = '\0';
    return true;
}

/* Where the body begins; 0 while the answer is not whole. Chunked bodies end in their last chunk: no JSON looks like that. */
static size_t whole_answer(const struct connection *connection)
{
    const char *text = (const char *)connection->in;
    const char *end = connection->in_len ? strstr(text, "\r\n\r\n") : NULL;
    if (!end)
        return 0;
    size_t body_at = (size_t)(end - text) + 4, body_len = connection->in_len - body_at;
    for (const char *line = text; line < end; line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, "content-length:", 15) == 0)
            return body_len >= strtoull(line + 15, NULL, 10) ? body_at : 0;
        if (strncasecmp(line, "transfer-encoding:", 18) == 0)
            return body_len >= 5 && memcmp(text + connection->in_len - 5, "0\r\n\r\n", 5) == 0 ? body_at : 0;
    }
    return strncmp(text + 9, "204", 3) == 0 ? body_at : 0;
}

static int status_of(const struct connection *connection)
{
    return (int)strtol((const char *)connection->in + sizeof "HTTP/1.1", NULL, 10);
}

enum hpl_status hpl_bench_ask(struct hpl_call *call, const struct hpl_bench_target *target, struct hpl_bytes request, int *http_status,
                              struct hpl_buf *body)
{
    struct connection connection;
    size_t body_at = 0;
    HPL_TRY(open_connection(call, target, &connection));
    connection.out = request;
    bool is_good = send_rest(&connection) && connection.out.len == 0;
    while (is_good && !(body_at = whole_answer(&connection))) {
        size_t had = connection.in_len;
        is_good = read_more(&connection) && connection.in_len > had;
    }
    if (is_good) {
        *http_status = status_of(&connection);
        if (body)
            hpl_buf_put(body, connection.in + body_at, connection.in_len - body_at);
    }
    close_connection(&connection);
    return is_good ? HPL_OK : hpl_fail(call, HPL_UNAVAILABLE, "no answer on port %u of this machine", target->port);
}

/* --- many --------------------------------------------------------------------------------------------------------------------------------------------- */

static bool begin_request(struct run *run, struct connection *connection, uint64_t since_ns)
{
    const struct hpl_buf *request = &run->target->requests[run->next_request++ % run->target->num_requests];
    connection->is_busy = true;
    connection->since_ns = since_ns;
    connection->in_len = 0;
    connection->out = hpl_buf_bytes(request);
    return send_rest(connection);
}

/* The one that is free for the longest; NULL: none. */
static struct connection *free_connection(struct run *run)
{
    struct connection *found = NULL;
    for (unsigned i = 0; i < run->num_connections; i++)
        if (!run->connections[i].is_busy && (!found || run->connections[i].free_ns < found->free_ns))
            found = &run->connections[i];
    return found;
}

/* Gives what is due to connections that are free. What found none free when it was due waited for the server, and its time runs; where one was free, it was
 * this thread that was late. */
static bool begin_due(struct run *run, uint64_t now)
{
    struct connection *connection;
    while (run->due_ns <= now && (connection = free_connection(run))) {
        if (!begin_request(run, connection, connection->free_ns > run->due_ns ? run->due_ns : now))
            return false;
        run->due_ns += (uint64_t)(1e9 / run->rate);
    }
    return true;
}

static bool end_request(struct run *run, struct connection *connection)
{
    uint64_t now = hpl_clock_mono_ns();
    connection->is_busy = false;
    connection->free_ns = now;
    if (run->is_counting && now <= run->end_ns) {
        bool is_good = status_of(connection) == 200;
        run->outcome->num_done += is_good;
        run->outcome->num_failed += !is_good;
        if (is_good)
            hpl_bench_latency_note(&run->outcome->latency, now - connection->since_ns);
    }
    if (now >= run->end_ns)
        return true;
    return run->rate > 0 ? begin_due(run, now) : begin_request(run, connection, now);
}

static bool serve(struct run *run, struct connection *connection)
{
    if (!send_rest(connection))
        return false;
    for (size_t had = SIZE_MAX; connection->is_busy && connection->in_len != had;) { /* TLS may hold more than epoll knows of */
        had = connection->in_len;
        if (!read_more(connection))
            return false;
        if (whole_answer(connection))
            return end_request(run, connection);
    }
    return true;
}

static unsigned num_busy(const struct run *run)
{
    unsigned count = 0;
    for (unsigned i = 0; i < run->num_connections; i++)
        count += run->connections[i].is_busy;
    return count;
}

/* Until end_ns, then until all is answered. */
static bool go_on(struct run *run)
{
    struct epoll_event events[MAX_CONNECTIONS];
    for (uint64_t now = hpl_clock_mono_ns(); now < run->end_ns || num_busy(run); now = hpl_clock_mono_ns()) {
        if (run->rate > 0 && now < run->end_ns && !begin_due(run, now))
            return false;
        bool is_pacing = run->rate > 0 && now < run->end_ns && num_busy(run) < run->num_connections;
        uint64_t wait_ns = is_pacing ? (run->due_ns > now ? run->due_ns - now : 0) : ANSWER_WITHIN_S * UINT64_C(1000000000);
        const struct timespec wait = {(time_t)(wait_ns / 1000000000), (long)(wait_ns % 1000000000)};
        int count = epoll_pwait2(run->epoll_fd, events, MAX_CONNECTIONS, &wait, NULL);
        if (count == 0 && !is_pacing)
            return false;
        for (int i = 0; i < count; i++)
            if (!serve(run, events[i].data.ptr))
                return false;
    }
    return true;
}

static bool run_for(struct run *run, double seconds, double rate)
{
    uint64_t now = hpl_clock_mono_ns();
    run->rate = rate;
    run->due_ns = now;
    run->end_ns = now + (uint64_t)(seconds * 1e9);
    for (unsigned i = 0; rate <= 0 && i < run->num_connections; i++)
        if (!begin_request(run, &run->connections[i], now))
            return false;
    return go_on(run);
}

static enum hpl_status open_all(struct hpl_call *call, struct run *run, unsigned count)
{
    for (; run->num_connections < count; run->num_connections++) {
        struct connection *connection = &run->connections[run->num_connections];
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = connection};
        HPL_TRY(open_connection(call, run->target, connection));
        HPL_CHECK(fcntl(connection->fd, F_SETFL, O_NONBLOCK) == 0 && epoll_ctl(run->epoll_fd, EPOLL_CTL_ADD, connection->fd, &event) == 0);
    }
    return HPL_OK;
}

static bool measure(struct run *run, const struct hpl_bench_load *load)
{
    if (!run_for(run, load->seconds / 10, load->rate))
        return false;
    uint64_t start_ns = hpl_clock_mono_ns();
    double cpu_s = hpl_bench_cpu_of(run->target->pid);
    run->is_counting = true;
    bool is_good = run_for(run, load->seconds, load->rate);
    run->outcome->server_cpu_s += hpl_bench_cpu_of(run->target->pid) - cpu_s;
    run->outcome->seconds += (double)((is_good ? run->end_ns : hpl_clock_mono_ns()) - start_ns) / 1e9;
    return is_good;
}

enum hpl_status hpl_bench_load_run(struct hpl_call *call, const struct hpl_bench_target *target, const struct hpl_bench_load *load,
                                   struct hpl_bench_outcome *outcome)
{
    struct run *run = calloc(1, sizeof *run);
    HPL_CHECK(run && load->num_connections <= MAX_CONNECTIONS);
    *run = (struct run){.target = target, .outcome = outcome, .epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    HPL_CHECK(run->epoll_fd >= 0);
    enum hpl_status status = open_all(call, run, load->num_connections);
    if (status == HPL_OK && !measure(run, load)) {
        outcome->num_failed++;
        status = hpl_fail(call, HPL_UNAVAILABLE, "the server on port %u ended a connection or did not answer", target->port);
    }
    for (unsigned i = 0; i < run->num_connections; i++)
        close_connection(&run->connections[i]);
    close(run->epoll_fd);
    free(run);
    return status;
}

/* --- processor time ----------------------------------------------------------------------------------------------------------------------------------- */

/* False where there is no such process. */
static bool read_stat(const char *pid, pid_t *parent, double *seconds)
{
    char path[64], text[1024];
    unsigned long user, system;
    snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
    FILE *file = fopen(path, "re");
    const char *behind_name = file && fgets(text, sizeof text, file) ? strrchr(text, ')') : NULL;
    if (file)
        fclose(file);
    if (!behind_name || sscanf(behind_name, ") %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", parent, &user, &system) != 3)
        return false;
    *seconds = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    return true;
}

double hpl_bench_cpu_of(pid_t pid)
{
    DIR *processes = opendir("/proc");
    double sum = 0;
    for (struct dirent *entry; processes && (entry = readdir(processes));) {
        pid_t parent;
        double seconds;
        if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && read_stat(entry->d_name, &parent, &seconds) && (parent == pid || atol(entry->d_name) == pid))
            sum += seconds;
    }
    if (processes)
        closedir(processes);
    return sum;
}
