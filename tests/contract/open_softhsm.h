/* A SoftHSM of this test program's own: a token folder, a token "hpl test", a PIN file, a catalog. Skips by name without softhsm2. */
#ifndef HPL_TESTS_CONTRACT_OPEN_SOFTHSM_H
#define HPL_TESTS_CONTRACT_OPEN_SOFTHSM_H

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/pkcs11/pkcs11.h"
#include "base/file.h"
#include "catalog/catalog.h"
#include "tests/contract/open_token.h"
#include "tests/test.h"

#define SOFTHSM_MODULE "/usr/lib/softhsm/libsofthsm2.so"

struct softhsm {
    char dir[128], tokens[160], pin_file[160], pin_source[176], state_dir[160];
    struct hpl_secret *root;
    struct hpl_token_option option;
    struct hpl_backend_env env;
};

static inline void softhsm_write_pin(const struct softhsm *hsm, const char *pin)
{
    struct hpl_call call = {0};
    EXPECT_OK(hpl_file_replace(&call, hsm->pin_file, hpl_bytes_str(pin), 0600));
}

static inline void softhsm_add_token(const char *label)
{
    char command[256];
    snprintf(command, sizeof command, "softhsm2-util --init-token --free --label '%s' --so-pin so-pin-1 --pin user-pin-1 >/dev/null 2>&1", label);
    EXPECT_NUM(system(command), 0);
}

static inline void softhsm_open_catalog(struct softhsm *hsm)
{
    char path[192];
    struct hpl_call call = {0};
    snprintf(path, sizeof path, "%s/catalog.db", hsm->state_dir);
    EXPECT_OK(hpl_catalog_open(&call, &hsm->env.catalog, path, hsm->root));
}

static inline bool softhsm_is_there(void)
{
    return access(SOFTHSM_MODULE, R_OK) == 0 && system("command -v softhsm2-util >/dev/null") == 0;
}

/* Makes the folder and one token; SoftHSM reads its configuration from the environment at each C_Initialize. */
static inline void softhsm_init(struct softhsm *hsm, const char *label)
{
    char conf[160], text[256];
    struct hpl_call call = {0};
    if (!softhsm_is_there())
        hpl_test_skip("SoftHSM", "softhsm2 is not installed");
    snprintf(hsm->dir, sizeof hsm->dir, "%s", hpl_test_dir());
    snprintf(hsm->tokens, sizeof hsm->tokens, "%s/tokens", hsm->dir);
    snprintf(hsm->state_dir, sizeof hsm->state_dir, "%s/state", hsm->dir);
    snprintf(hsm->pin_file, sizeof hsm->pin_file, "%s/pin", hsm->dir);
    snprintf(hsm->pin_source, sizeof hsm->pin_source, "file:%s", hsm->pin_file);
    snprintf(conf, sizeof conf, "%s/softhsm2.conf", hsm->dir);
    snprintf(text, sizeof text, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", hsm->tokens);
    EXPECT_OK(hpl_file_make_dir(&call, hsm->tokens));
    EXPECT_OK(hpl_file_make_dir(&call, hsm->state_dir));
    EXPECT_OK(hpl_file_replace(&call, conf, hpl_bytes_str(text), 0600));
    setenv("SOFTHSM2_CONF", conf, 1);
    softhsm_add_token(label);
    softhsm_write_pin(hsm, "user-pin-1\n");
    hsm->root = hpl_secret_random(32);
    hsm->option = (struct hpl_token_option){.name = "main", .uri = "pkcs11:token=hpl%20test", .module = SOFTHSM_MODULE, .pin_source = hsm->pin_source};
    hsm->env = (struct hpl_backend_env){.state_dir = hsm->state_dir, .tokens = &hsm->option, .num_tokens = 1, .root = hsm->root};
    softhsm_open_catalog(hsm);
}

static inline void softhsm_wipe(struct softhsm *hsm)
{
    hpl_catalog_close(hsm->env.catalog);
    hpl_secret_free(hsm->root);
    *hsm = (struct softhsm){0};
}

static inline enum hpl_status softhsm_try_open(struct softhsm *hsm, struct hpl_call *call, struct hpl_keystore **out)
{
    json_t *HPL_JSON_AUTO config = json_pack("{s:s s:s}", "backend_type", "pkcs11", "token", "main");
    hpl_call_init(call, 20000);
    return hpl_backend_pkcs11.open(call, config, &hsm->env, out);
}

/* The one token of this program; NULL, said once, where there is no SoftHSM. */
static inline struct softhsm *softhsm_shared(void)
{
    static struct softhsm hsm;
    static bool was_said;
    if (!softhsm_is_there())
        return soft_token_skip("SoftHSM", "softhsm2 is not installed", &was_said), NULL;
    if (!hsm.root)
        softhsm_init(&hsm, "hpl test");
    return &hsm;
}

static inline const struct hpl_backend_env *softhsm_env(void)
{
    const struct softhsm *hsm = softhsm_shared();
    return hsm ? &hsm->env : NULL;
}

#endif
