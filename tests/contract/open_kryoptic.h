/* Kryoptic as a token: a database of this test program's own, made by pkcs11-tool. HPL_KRYOPTIC_DIR is the folder that
 * `scripts/part kryoptic` prints; where the part cannot be had HPL_NO_KRYOPTIC says why, and it is skipped by name. */
#ifndef HPL_TESTS_CONTRACT_OPEN_KRYOPTIC_H
#define HPL_TESTS_CONTRACT_OPEN_KRYOPTIC_H

#include "tests/contract/open_token.h"

/* mechanisms: what it shall not show, as Kryoptic's configuration writes it ("\"CKM_AES_GCM\""); NULL: nothing held back. */
static inline void kryoptic_init(struct soft_token *token, const char *hidden)
{
    char conf[160], text[512], command[2048];
    struct hpl_call call = {0};
    soft_token_init(token, "pkcs11:token=hpl%20kryoptic", "user-pin-1\n");
    snprintf(token->module, sizeof token->module, "%s/kryoptic.so", getenv("HPL_KRYOPTIC_DIR"));
    snprintf(conf, sizeof conf, "%s/token.conf", token->dir);
    int n = snprintf(text, sizeof text, "[[slots]]\nslot = 1\ndbtype = \"sqlite\"\ndbargs = \"%s/token.sql\"\n", token->tokens);
    if (hidden)
        snprintf(text + n, sizeof text - (size_t)n, "mechanisms = [\"DENY\", %s]\n", hidden);
    EXPECT_OK(hpl_file_replace(&call, conf, hpl_bytes_str(text), 0600));
    setenv("KRYOPTIC_CONF", conf, 1);
    snprintf(command, sizeof command,
             "(pkcs11-tool --module '%s' --init-token --label 'hpl kryoptic' --so-pin so-pin-12 && "
             "pkcs11-tool --module '%s' --login --login-type so --so-pin so-pin-12 --init-pin --pin user-pin-1) >/dev/null 2>&1",
             token->module, token->module);
    EXPECT_NUM(system(command), 0);
}

static inline bool kryoptic_is_there(void)
{
    static bool was_said;
    const char *why = getenv("HPL_NO_KRYOPTIC");
    if (getenv("HPL_KRYOPTIC_DIR"))
        return true;
    if (!why)
        return soft_token_skip("Kryoptic", "its folder is not given; see scripts/part", &was_said);
    if (!was_said)
        printf("SKIP Kryoptic: %s\n", why);
    was_said = true;
    return false;
}

/* The one Kryoptic token of this program; NULL, said once, where there is none. */
static inline const struct hpl_backend_env *kryoptic_env(void)
{
    static struct soft_token token;
    if (!kryoptic_is_there())
        return NULL;
    if (!token.root)
        kryoptic_init(&token, NULL);
    return &token.env;
}

#endif
