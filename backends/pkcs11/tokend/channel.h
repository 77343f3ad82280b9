/* Whole frames over a Unix stream socket. Blocking, within a time; no SIGPIPE. */
#ifndef HPL_BACKENDS_PKCS11_TOKEND_CHANNEL_H
#define HPL_BACKENDS_PKCS11_TOKEND_CHANNEL_H

#include "backends/pkcs11/tokend/proto.h"

/* All three, one after the other, or false: the peer is gone, or until_ns (monotonic; 0: none) has passed. After false the
 * connection is of no use, for a part may have gone out. One thread at a time. */
bool hpl_tokend_send(int fd, const struct hpl_tokend_header *header, struct hpl_bytes first, struct hpl_bytes second, uint64_t until_ns) HPL_MUST_USE;
/* Exactly len bytes, or false as above. */
bool hpl_tokend_receive(int fd, void *out, size_t len, uint64_t until_ns) HPL_MUST_USE;
/* True when something can be read, or the peer is gone; false after until_ns. */
bool hpl_tokend_wait(int fd, uint64_t until_ns) HPL_MUST_USE;

#endif
