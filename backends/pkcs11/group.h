/* Several tokens that hold the same keys as one device (device.h): calls go to one that works, and to the next when it does not. */
#ifndef HPL_BACKENDS_PKCS11_GROUP_H
#define HPL_BACKENDS_PKCS11_GROUP_H

#include "backends/pkcs11/device.h"

#define HPL_P11_MAX_MEMBERS 16u

/* Opens every member of place->option that can be opened, one at least; the others are tried again as long as the group is open.
 * tokend NULL: modules run in this process. place and tokend outlive the device. */
enum hpl_status hpl_p11_group_open(struct hpl_call *call, const struct hpl_p11_place *place, const struct hpl_tokend_option *tokend,
                                   struct hpl_p11_device **out) HPL_MUST_USE;

/* One token, in this process or in a worker's. */
enum hpl_status hpl_p11_member_open(struct hpl_call *call, const struct hpl_p11_place *place, const struct hpl_tokend_option *tokend,
                                    struct hpl_p11_device **out) HPL_MUST_USE;

#endif
