/* A listening socket: of a host and port, of a path, or inherited from systemd. Start and end of the server only, one thread. */
#ifndef HPL_HTTP_LISTEN_H
#define HPL_HTTP_LISTEN_H

#include "base/status.h"

#define HPL_HTTP_UNIX "unix:"

struct hpl_http_listener {
    int fd;            /* -1: none */
    char address[128]; /* as bound: "127.0.0.1:9000", "[::1]:9000", "unix:/run/hardplate/http.sock" */
    bool is_unix;
    bool is_own;       /* bound here: its path goes when it is closed */
};

/* where: HOST:PORT (port 0: a free one), [V6]:PORT, or unix:PATH. A path's socket is for its owner and, at once after, its group; one that a dead process left is replaced.
 * inherited: a listening socket to take in place of all that, or 0. HPL_INVALID_CONFIGURATION with the mend. */
enum hpl_status hpl_http_listen(struct hpl_call *call, const char *where, int inherited, struct hpl_http_listener *out) HPL_MUST_USE;
void hpl_http_unlisten(struct hpl_http_listener *listener);

#endif
