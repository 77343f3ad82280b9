/* Starting and ending the worker process. */
#ifndef HPL_BACKENDS_PKCS11_TOKEND_SPAWN_H
#define HPL_BACKENDS_PKCS11_TOKEND_SPAWN_H

#include <sys/types.h>

#include "backends/pkcs11/device.h"

struct hpl_tokend_child {
    pid_t pid; /* 0: none */
    int fd;    /* our end of the socket; -1: none */
};

/* Our end is non-inheritable. latch_dir becomes the worker's folder. The calling thread must live as long as the worker: the kernel ends the
 * worker with it. */
enum hpl_status hpl_tokend_spawn(struct hpl_call *call, const struct hpl_tokend_option *option, const char *latch_dir,
                                 struct hpl_tokend_child *out) HPL_MUST_USE;
/* Closes the socket, which a healthy worker takes for its end; kills what is not gone after patience_ms, and reaps. why gets how it
 * ended, for the log: "exit status 1", "signal 9". */
void hpl_tokend_reap(struct hpl_tokend_child *child, unsigned patience_ms, char why[static 32]);

#endif
