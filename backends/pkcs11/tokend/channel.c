/* Frames in and out of a socket. Both processes; one thread at a time in each direction. Buffers nothing: secrets go from where they
 * lie to where they will lie. */
#include "backends/pkcs11/tokend/channel.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "base/clock.h"

/* False once until_ns has passed. */
static bool wait_for(int fd, short events, uint64_t until_ns)
{
    for (;;) {
        struct pollfd poll_for = {.fd = fd, .events = events};
        uint64_t now = hpl_clock_mono_ns(), left = until_ns > now ? until_ns - now : 0;
        const struct timespec timeout = {.tv_sec = (time_t)(left / 1000000000u), .tv_nsec = (long)(left % 1000000000u)};
        int n = ppoll(&poll_for, 1, until_ns ? &timeout : NULL, NULL);
        if (n > 0)
            return true;
        if (n == 0)
            return false;
        if (errno != EINTR && errno != EAGAIN)
            return true; /* the next read or write says what is wrong */
    }
}

bool hpl_tokend_wait(int fd, uint64_t until_ns)
{
    return wait_for(fd, POLLIN, until_ns);
}

/* Takes n bytes off the front. */
static void advance(struct msghdr *message, size_t n)
{
    while (message->msg_iovlen && n >= message->msg_iov->iov_len) {
        n -= message->msg_iov->iov_len;
        message->msg_iov++;
        message->msg_iovlen--;
    }
    if (message->msg_iovlen) {
        message->msg_iov->iov_base = (char *)message->msg_iov->iov_base + n;
        message->msg_iov->iov_len -= n;
    }
}

bool hpl_tokend_send(int fd, const struct hpl_tokend_header *header, struct hpl_bytes first, struct hpl_bytes second, uint64_t until_ns)
{
    uint8_t head[HPL_TOKEND_HEADER_LEN];
    hpl_tokend_put_header(header, head);
    struct iovec parts[] = {{head, sizeof head}, {(void *)first.data, first.len}, {(void *)second.data, second.len}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = HPL_COUNT(parts)};
    for (advance(&message, 0); message.msg_iovlen;) {
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            advance(&message, (size_t)n);
        else if (n < 0 && errno != EINTR && errno != EAGAIN)
            return false;
        else if (errno == EAGAIN && !wait_for(fd, POLLOUT, until_ns))
            return false;
    }
    return true;
}

bool hpl_tokend_receive(int fd, void *out, size_t len, uint64_t until_ns)
{
    int flags = until_ns ? MSG_DONTWAIT : MSG_WAITALL;
    for (size_t got = 0; got < len;) {
        ssize_t n = recv(fd, (char *)out + got, len - got, flags);
        if (n > 0)
            got += (size_t)n;
        else if (n == 0 || (errno != EINTR && errno != EAGAIN))
            return false;
        else if (errno == EAGAIN && !wait_for(fd, POLLIN, until_ns))
            return false;
    }
    return true;
}
