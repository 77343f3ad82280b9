/* NSS's softokn as a token: a key database of this test program's own, made by certutil. Skips by name without libnss3 and
 * libnss3-tools. */
#ifndef HPL_TESTS_CONTRACT_OPEN_NSS_H
#define HPL_TESTS_CONTRACT_OPEN_NSS_H

#include "tests/contract/open_token.h"

static inline const char *nss_module(void)
{
    static const char *const paths[] = {"/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
                                        "/usr/lib/libsoftokn3.so"};
    for (size_t i = 0; i < HPL_COUNT(paths); i++)
        if (access(paths[i], R_OK) == 0)
            return paths[i];
    return NULL;
}

/* NSS reads where its database is from what C_Initialize is given. */
static inline void nss_init(struct soft_token *token)
{
    char command[512];
    soft_token_init(token, "pkcs11:token=NSS%20Certificate%20DB", "user-pin-1\n");
    snprintf(token->module, sizeof token->module, "%s", nss_module());
    snprintf(token->reserved, sizeof token->reserved,
             "configdir='sql:%s' certPrefix='' keyPrefix='' secmod='secmod.db' flags=noModDB", token->tokens);
    token->option.init_reserved = token->reserved;
    snprintf(command, sizeof command, "certutil -N -d sql:%s -f %s", token->tokens, token->pin_file);
    EXPECT_NUM(system(command), 0);
}

/* The one NSS token of this program; NULL, said once, where there is none. */
static inline const struct hpl_backend_env *nss_env(void)
{
    static struct soft_token token;
    static bool was_said;
    if (!nss_module() || system("command -v certutil >/dev/null") != 0)
        return soft_token_skip("NSS", "libnss3 or libnss3-tools is not installed", &was_said), NULL;
    if (!token.root)
        nss_init(&token);
    return &token.env;
}

#endif
