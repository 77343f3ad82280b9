/* The worker's side of the connection. */
#ifndef HPL_BACKENDS_PKCS11_TOKEND_SERVE_H
#define HPL_BACKENDS_PKCS11_TOKEND_SERVE_H

#include "backends/pkcs11/device.h"

/* Waits for the greeting, opens the token in this process, answers requests with a thread a session (and two more) until the socket
 * ends, closes the token. fd: a Unix stream socket; latch_dir: where refused PINs are written down. True when the end was in order. */
bool hpl_tokend_serve(int fd, const char *latch_dir);

#endif
