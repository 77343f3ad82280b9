/* The same SoftHSM as open_softhsm.h, held by a worker process, with records of its own. */
#ifndef HPL_TESTS_CONTRACT_OPEN_TOKEND_H
#define HPL_TESTS_CONTRACT_OPEN_TOKEND_H

#include "tests/contract/open_softhsm.h"

/* A keystore uses the environment as long as it is open, so it is kept. */
static inline struct hpl_keystore *open_tokend(void)
{
    static const struct hpl_tokend_option worker;
    static struct softhsm hsm;
    struct hpl_call call = {0};
    struct hpl_keystore *keystore = NULL;
    const struct softhsm *shared = softhsm_shared();
    if (!shared)
        return NULL;
    if (!hsm.root) {
        hsm = *shared;
        snprintf(hsm.state_dir, sizeof hsm.state_dir, "%s/worker", hsm.dir);
        EXPECT_OK(hpl_file_make_dir(&call, hsm.state_dir));
        hsm.env.state_dir = hsm.state_dir;
        hsm.env.tokend = &worker;
        softhsm_open_catalog(&hsm);
    }
    enum hpl_status status = softhsm_try_open(&hsm, &call, &keystore);
    if (status != HPL_OK)
        fprintf(stderr, "\n    tokend: %s\n", hpl_detail(&call, status));
    EXPECT_OK(status);
    return keystore;
}

#endif
