/* The way in: a device whose token is held by a worker process. */
#ifndef HPL_BACKENDS_PKCS11_TOKEND_TOKEND_H
#define HPL_BACKENDS_PKCS11_TOKEND_TOKEND_H

#include "backends/pkcs11/device.h"

/* Starts hardplate-tokend and has it open the token. place and option outlive the device. As hpl_p11_direct_open; besides
 * HPL_INVALID_CONFIGURATION when the program is not there or cannot be started. */
enum hpl_status hpl_p11_tokend_open(struct hpl_call *call, const struct hpl_p11_place *place, const struct hpl_tokend_option *option,
                                    struct hpl_p11_device **out) HPL_MUST_USE;
/* Whether the worker could be started, without starting it: the program, the user, the names of variables. */
enum hpl_status hpl_p11_tokend_check(struct hpl_call *call, const struct hpl_tokend_option *option) HPL_MUST_USE;

#endif
