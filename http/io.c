/* An I/O thread: epoll, an inbox of connections from jobs and from the acceptor, deadlines. The first one also accepts. */
#include "http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

#define MAX_EVENTS 64
#define ACCEPTS_A_WAKE 64
#define NS_PER_MS UINT64_C(1000000)

bool hpl_http_io_arm(struct hpl_http_connection *connection, uint64_t deadline_ns)
{
    struct hpl_http_io *io = connection->io;
    struct epoll_event event = {.events = connection->link.wants | EPOLLONESHOT, .data.ptr = connection};
    int operation = connection->is_registered ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(io->epoll_fd, operation, connection->link.fd, &event) != 0)
        return false;
    connection->is_registered = true;
    hpl_timers_set(&io->timers, &connection->timer, deadline_ns);
    return true;
}

void hpl_http_io_wake(struct hpl_http_io *io)
{
    uint64_t one = 1;
    if (write(io->event_fd, &one, sizeof one) < 0) {
        /* The counter is full: the thread is being woken already. */
    }
}

bool hpl_http_io_is_alive(struct hpl_http_io *io, uint64_t stall_ns)
{
    uint64_t num_rounds = atomic_load_explicit(&io->num_rounds, memory_order_relaxed), now = hpl_clock_mono_ns();
    if (num_rounds != io->seen_rounds || io->seen_ns == 0) {
        io->seen_rounds = num_rounds;
        io->seen_ns = now;
    }
    hpl_http_io_wake(io);
    return now - io->seen_ns <= stall_ns;
}

void hpl_http_io_post(struct hpl_http_connection *connection)
{
    struct hpl_http_io *io = connection->io;
    pthread_mutex_lock(&io->lock);
    bool was_empty = !io->inbox;
    connection->inbox_next = io->inbox;
    io->inbox = connection;
    if (was_empty)
        hpl_http_io_wake(io);
    pthread_mutex_unlock(&io->lock);
}

/* In the order of posting. */
static void read_inbox(struct hpl_http_io *io)
{
    struct hpl_http_connection *first = NULL;
    pthread_mutex_lock(&io->lock);
    while (io->inbox) {
        struct hpl_http_connection *connection = io->inbox;
        io->inbox = connection->inbox_next;
        connection->inbox_next = first;
        first = connection;
    }
    pthread_mutex_unlock(&io->lock);
    while (first) {
        struct hpl_http_connection *connection = first;
        first = connection->inbox_next;
        hpl_http_connection_enter(connection);
    }
}

/* Says so in plaintext, where that costs nothing, and closes. */
static void shed(struct hpl_http_server *server, int fd)
{
    static const char answer[] = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    if (!server->options.tls_cert && send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        /* It will see the close. */
    }
    close(fd);
    atomic_fetch_add_explicit(&server->ios[0].refused, 1, memory_order_relaxed);
}

/* No descriptor is left: the spare one is given up to take the connection and turn it away, rather than spin on it. */
static bool shed_for_want_of_descriptors(struct hpl_http_server *server)
{
    close(server->spare_fd);
    int fd = accept4(server->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0)
        shed(server, fd);
    server->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd >= 0;
}

static void take_connection(struct hpl_http_server *server, int fd)
{
    struct hpl_http_io *io = &server->ios[server->next_io++ % server->num_ios];
    bool has_room = atomic_fetch_add(&server->num_open, 1) < server->options.max_connections;
    struct hpl_http_connection *connection = has_room ? hpl_http_connection_new(io, fd) : NULL;
    if (!connection) {
        atomic_fetch_sub(&server->num_open, 1);
        shed(server, fd);
        return;
    }
    atomic_fetch_add_explicit(&io->connections, 1, memory_order_relaxed);
    hpl_http_io_post(connection);
}

static void accept_some(struct hpl_http_server *server)
{
    for (int i = 0; i < ACCEPTS_A_WAKE && !atomic_load(&server->is_stopping); i++) {
        int fd = accept4(server->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            take_connection(server, fd);
        else if ((errno != EMFILE && errno != ENFILE) || !shed_for_want_of_descriptors(server))
            return;
    }
}

static int wait_ms(const struct hpl_http_io *io)
{
    const struct hpl_timer *first = hpl_timers_first(&io->timers);
    uint64_t now = hpl_clock_mono_ns();
    if (atomic_load(&io->server->is_ending))
        return 10; /* until the last connection of all threads is closed */
    if (!first)
        return -1;
    return first->at_ns <= now ? 0 : (int)((first->at_ns - now) / NS_PER_MS + 1);
}

static void expire(struct hpl_http_io *io)
{
    uint64_t now = hpl_clock_mono_ns();
    struct hpl_timer *first;
    while ((first = hpl_timers_first(&io->timers)) && first->at_ns <= now) {
        hpl_timers_clear(&io->timers, first);
        hpl_http_connection_expire(
            (struct hpl_http_connection *)((char *)first - offsetof(struct hpl_http_connection, timer)));
    }
}

static void wind_up(struct hpl_http_io *io)
{
    struct hpl_http_server *server = io->server;
    if (io == &server->ios[0])
        hpl_http_unlisten(&server->listener);
    for (struct hpl_http_connection *next, *connection = io->all; connection; connection = next) {
        next = connection->next;
        hpl_http_connection_wind_up(connection);
    }
}

static void handle(struct hpl_http_io *io, void *source)
{
    uint64_t count;
    if (source == io) {
        if (read(io->event_fd, &count, sizeof count) < 0) {
            /* Somebody's wake-up was seen before. */
        }
    } else if (source == io->server) {
        accept_some(io->server);
    } else {
        hpl_http_connection_wake(source);
    }
}

static void *run(void *arg)
{
    struct hpl_http_io *io = arg;
    struct hpl_http_server *server = io->server;
    struct epoll_event events[MAX_EVENTS];
    while (!atomic_load(&server->is_ending) || atomic_load(&server->num_open)) {
        atomic_fetch_add_explicit(&io->num_rounds, 1, memory_order_relaxed);
        int num = epoll_wait(io->epoll_fd, events, MAX_EVENTS, wait_ms(io));
        for (int i = 0; i < num; i++)
            handle(io, events[i].data.ptr);
        read_inbox(io);
        expire(io);
        if (atomic_load(&server->is_stopping))
            wind_up(io);
    }
    return NULL;
}

static bool watch(struct hpl_http_io *io, int fd, void *source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = source};
    return epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

enum hpl_status hpl_http_io_start(struct hpl_call *call, struct hpl_http_io *io)
{
    struct hpl_http_server *server = io->server;
    bool accepts = io == &server->ios[0];
    char name[16];
    if (!hpl_timers_init(&io->timers, server->options.max_connections))
        return hpl_fail(call, HPL_NO_MEMORY, "no memory for %u connections' deadlines", server->options.max_connections);
    if ((io->epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0 || (io->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0 ||
        !watch(io, io->event_fd, io) || (accepts && !watch(io, server->listener.fd, server)))
        return hpl_fail(call, HPL_UNAVAILABLE, "cannot set up epoll: %s", strerror(errno));
    int error = pthread_create(&io->thread, NULL, run, io);
    if (error)
        return hpl_fail(call, HPL_UNAVAILABLE, "cannot start an I/O thread: %s", strerror(error));
    io->is_started = true;
    snprintf(name, sizeof name, "http-io-%u", (unsigned)(io - server->ios));
    pthread_setname_np(io->thread, name);
    return HPL_OK;
}

void hpl_http_io_stop(struct hpl_http_io *io)
{
    if (io->is_started)
        pthread_join(io->thread, NULL);
    if (io->epoll_fd >= 0)
        close(io->epoll_fd);
    if (io->event_fd >= 0)
        close(io->event_fd);
    hpl_timers_wipe(&io->timers);
    pthread_mutex_destroy(&io->lock);
}
