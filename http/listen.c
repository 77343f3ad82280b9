/* Sockets that connections come to. One thread. */
#include "http/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* 0 to 65535: getaddrinfo would take 65536 more for the same. */
static bool is_port(const char *text)
{
    size_t len = strspn(text, "0123456789");
    return len > 0 && len <= 5 && text[len] == '\0' && strtoul(text, NULL, 10) <= UINT16_MAX;
}

/* "HOST:PORT" or "[V6]:PORT" taken apart in place; false when it is neither. */
static bool split(char *text, char **host, char **port)
{
    char *colon = strrchr(text, ':');
    if (!colon || !is_port(colon + 1))
        return false;
    *colon = '\0';
    *port = colon + 1;
    *host = text;
    size_t len = strlen(text);
    if (text[0] == '[' && len > 2 && text[len - 1] == ']') {
        text[len - 1] = '\0';
        *host = text + 1;
    }
    return **host != '\0';
}

static enum hpl_status bind_to(struct hpl_call *call, const char *where, struct hpl_http_listener *out, int family, const struct sockaddr *address, socklen_t len)
{
    int on = 1;
    out->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (out->fd < 0)
        return hpl_fail(call, HPL_UNAVAILABLE, "cannot open a socket: %s", strerror(errno));
    if (family != AF_UNIX)
        setsockopt(out->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(out->fd, address, len) == 0) {
        out->is_own = true;
        if (listen(out->fd, SOMAXCONN) == 0)
            return HPL_OK;
    }
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "cannot listen on %s: %s; choose another address or stop what uses it", where, strerror(errno));
}

static enum hpl_status listen_inet(struct hpl_call *call, const char *where, struct hpl_http_listener *out)
{
    char text[256], *host = NULL, *port = NULL;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found = NULL;
    snprintf(text, sizeof text, "%s", where);
    if (!split(text, &host, &port))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'%s' is not HOST:PORT, with a port of 0 to 65535, or " HPL_HTTP_UNIX "PATH", where);
    int error = getaddrinfo(host, port, &hints, &found);
    if (error)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "cannot listen on %s: %s", where, gai_strerror(error));
    enum hpl_status status = bind_to(call, where, out, found->ai_family, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return status;
}

/* A socket at the path that nobody listens on. */
static bool is_left_behind(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool is_dead = fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED;
    if (fd >= 0)
        close(fd);
    return is_dead;
}

static enum hpl_status listen_unix(struct hpl_call *call, const char *where, struct hpl_http_listener *out)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = where + strlen(HPL_HTTP_UNIX);
    if (path[0] != '/' || strlen(path) >= sizeof address.sun_path)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "'%s' must be an absolute path of less than %zu bytes", where, sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (is_left_behind(&address))
        unlink(path);
    out->is_unix = true;
    snprintf(out->address, sizeof out->address, "%s", where);
    HPL_TRY(bind_to(call, where, out, AF_UNIX, (const struct sockaddr *)&address, sizeof address));
    if (chmod(path, 0660) != 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "cannot let the group of %s in: %s", path, strerror(errno));
    return HPL_OK;
}

static enum hpl_status take_over(struct hpl_call *call, int fd, struct hpl_http_listener *out)
{
    int is_listening = 0, flags = fcntl(fd, F_GETFL);
    socklen_t len = sizeof is_listening;
    if (flags < 0 || getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &len) != 0 || !is_listening)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the descriptor that was handed over is no listening socket: use ListenStream= in the socket unit");
    out->fd = fd;
    fcntl(fd, F_SETFL, flags | O_NONBLOCK);
    return HPL_OK;
}

static void note_address(struct hpl_http_listener *listener)
{
    struct sockaddr_storage bound = {0};
    socklen_t len = sizeof bound;
    char host[80] = "", port[16] = "";
    if (getsockname(listener->fd, (struct sockaddr *)&bound, &len) != 0)
        return;
    if (bound.ss_family == AF_UNIX) {
        listener->is_unix = true;
        snprintf(listener->address, sizeof listener->address, HPL_HTTP_UNIX "%.108s", ((struct sockaddr_un *)&bound)->sun_path);
        return;
    }
    getnameinfo((struct sockaddr *)&bound, len, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    snprintf(listener->address, sizeof listener->address, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

enum hpl_status hpl_http_listen(struct hpl_call *call, const char *where, int inherited, struct hpl_http_listener *out)
{
    *out = (struct hpl_http_listener){.fd = -1};
    enum hpl_status status = inherited > 0                                                      ? take_over(call, inherited, out)
                             : strncmp(where, HPL_HTTP_UNIX, strlen(HPL_HTTP_UNIX)) == 0 ? listen_unix(call, where, out)
                                                                                                : listen_inet(call, where, out);
    if (status == HPL_OK)
        note_address(out);
    else
        hpl_http_unlisten(out);
    return status;
}

void hpl_http_unlisten(struct hpl_http_listener *listener)
{
    if (listener->fd < 0)
        return;
    if (listener->is_unix && listener->is_own)
        unlink(listener->address + strlen(HPL_HTTP_UNIX));
    close(listener->fd);
    listener->fd = -1;
}
