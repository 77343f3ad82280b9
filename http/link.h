/* One socket, with or without TLS on it, nonblocking. Used by whoever owns the connection at the moment: its I/O thread or one
 * job. OpenSSL's SSL is spoken in link.c and tls.c and nowhere else. */
#ifndef HPL_HTTP_LINK_H
#define HPL_HTTP_LINK_H

#include <sys/types.h>
#include <openssl/types.h>
#include "base/status.h"

struct hpl_link {
    int fd;
    SSL *ssl;           /* NULL: plaintext */
    uint32_t wants;     /* after HPL_LINK_AGAIN: EPOLLIN or EPOLLOUT */
    bool is_bulk;
};

/* Results besides a number of bytes. */
enum { HPL_LINK_EOF = 0, HPL_LINK_AGAIN = -1, HPL_LINK_BROKEN = -2 };

/* 1 when done, HPL_LINK_AGAIN or HPL_LINK_BROKEN. */
int hpl_link_handshake(struct hpl_link *link);
ssize_t hpl_link_read(struct hpl_link *link, void *to, size_t len);
/* Whether bytes were read from the socket that epoll does not know of. */
bool hpl_link_has_more(const struct hpl_link *link);
/* has_more: further bytes follow at once, so that the kernel may join them. */
ssize_t hpl_link_write(struct hpl_link *link, const void *from, size_t len, bool has_more);
/* Nothing more will be written; reading goes on. */
void hpl_link_end_writing(struct hpl_link *link);
/* What is read from now on is an object's bytes, or no longer: OpenSSL then reads more at a time and does not wipe its buffers after each record, as it does
 * for heads and whole bodies, which have keys in them. An OpenSSL that settles both when a connection begins goes on wiping, and reads less at a time. */
void hpl_link_set_bulk(struct hpl_link *link, bool is_bulk);
/* Closes the socket; reset: as a broken connection, so that the peer cannot take what it has for the whole. */
void hpl_link_close(struct hpl_link *link, bool reset);

/* TLS on an accepted socket; false when memory is out. */
bool hpl_link_start_tls(struct hpl_link *link, SSL_CTX *ctx);

/* A server context from PEM files: TLS 1.3, and 1.2 where it is allowed, no renegotiation, HTTP/1.1 by ALPN. libctx (NULL: OpenSSL's default) says
 * whose algorithms run. HPL_INVALID_CONFIGURATION with the mend. The caller's to SSL_CTX_free. */
enum hpl_status hpl_tls_context(struct hpl_call *call, SSL_CTX **out, void *libctx, const char *cert, const char *key, bool allow_tls12) HPL_MUST_USE;

#endif
