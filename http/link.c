/* Reading and writing a socket, plain or through OpenSSL, and what "try again" means for each. The connection's owner. */
#include "http/link.h"

#include <errno.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#define BULK_BUFFER (64u * 1024)

static int plain_result(struct hpl_link *link, uint32_t wants)
{
    link->wants = wants;
    return errno == EAGAIN || errno == EWOULDBLOCK ? HPL_LINK_AGAIN : HPL_LINK_BROKEN;
}

static int tls_result(struct hpl_link *link, int result)
{
    switch (SSL_get_error(link->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        link->wants = EPOLLIN;
        return HPL_LINK_AGAIN;
    case SSL_ERROR_WANT_WRITE:
        link->wants = EPOLLOUT;
        return HPL_LINK_AGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return HPL_LINK_EOF;
    default:
        ERR_clear_error();
        SSL_set_quiet_shutdown(link->ssl, 1);
        return HPL_LINK_BROKEN;
    }
}

int hpl_link_handshake(struct hpl_link *link)
{
    if (!link->ssl)
        return 1;
    ERR_clear_error();
    int result = SSL_accept(link->ssl);
    if (result == 1)
        return 1;
    result = tls_result(link, result);
    return result == HPL_LINK_AGAIN ? result : HPL_LINK_BROKEN;
}

static ssize_t tls_read(struct hpl_link *link, uint8_t *to, size_t len)
{
    size_t total = 0;
    while (total < len) { /* a record at a time */
        size_t n = 0;
        ERR_clear_error();
        int result = SSL_read_ex(link->ssl, to + total, len - total, &n);
        if (result != 1)
            return total ? (ssize_t)total : tls_result(link, result);
        total += n;
        if (!SSL_has_pending(link->ssl))
            break;
    }
    return (ssize_t)total;
}

bool hpl_link_has_more(const struct hpl_link *link)
{
    return link->ssl && SSL_has_pending(link->ssl);
}

ssize_t hpl_link_read(struct hpl_link *link, void *to, size_t len)
{
    if (link->ssl)
        return tls_read(link, to, len);
    ssize_t n;
    do
        n = recv(link->fd, to, len, 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? plain_result(link, EPOLLIN) : n;
}

static ssize_t tls_write(struct hpl_link *link, const uint8_t *from, size_t len)
{
    size_t n = 0;
    ERR_clear_error();
    int result = SSL_write_ex(link->ssl, from, len, &n);
    if (result == 1)
        return (ssize_t)n;
    result = tls_result(link, result);
    return result == HPL_LINK_AGAIN ? result : HPL_LINK_BROKEN;
}

ssize_t hpl_link_write(struct hpl_link *link, const void *from, size_t len, bool has_more)
{
    if (link->ssl)
        return tls_write(link, from, len);
    ssize_t n;
    do
        n = send(link->fd, from, len, MSG_NOSIGNAL | (has_more ? MSG_MORE : 0));
    while (n < 0 && errno == EINTR);
    return n < 0 ? plain_result(link, EPOLLOUT) : n;
}

void hpl_link_set_bulk(struct hpl_link *link, bool is_bulk)
{
    if (!link->ssl || link->is_bulk == is_bulk)
        return;
    link->is_bulk = is_bulk;
    SSL_set_default_read_buffer_len(link->ssl, is_bulk ? BULK_BUFFER : 0);
    if (is_bulk)
        SSL_clear_options(link->ssl, SSL_OP_CLEANSE_PLAINTEXT);
    else
        SSL_set_options(link->ssl, SSL_OP_CLEANSE_PLAINTEXT);
}

void hpl_link_end_writing(struct hpl_link *link)
{
    if (link->ssl) {
        ERR_clear_error();
        SSL_shutdown(link->ssl);
        ERR_clear_error();
    }
    shutdown(link->fd, SHUT_WR);
}

void hpl_link_close(struct hpl_link *link, bool reset)
{
    if (reset) {
        struct linger at_once = {.l_onoff = 1};
        setsockopt(link->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    } else if (link->ssl && SSL_is_init_finished(link->ssl)) {
        ERR_clear_error();
        SSL_shutdown(link->ssl);
    }
    ERR_clear_error();
    SSL_free(link->ssl);
    close(link->fd);
    *link = (struct hpl_link){.fd = -1};
}

bool hpl_link_start_tls(struct hpl_link *link, SSL_CTX *ctx)
{
    link->ssl = SSL_new(ctx);
    if (!link->ssl || !SSL_set_fd(link->ssl, link->fd))
        return false;
    SSL_set_accept_state(link->ssl);
    return true;
}
