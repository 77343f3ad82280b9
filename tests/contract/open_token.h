/* What the soft tokens of the contract suite share: a folder each, a PIN file, a catalog, and being skipped by name where a part is
 * not to be had, which is a failure with CI=true. */
#ifndef HPL_TESTS_CONTRACT_OPEN_TOKEN_H
#define HPL_TESTS_CONTRACT_OPEN_TOKEN_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/pkcs11/pkcs11.h"
#include "base/file.h"
#include "catalog/catalog.h"
#include "tests/test.h"

struct soft_token {
    char dir[128], tokens[160], pin_file[160], pin_source[176], state_dir[160];
    char module[512], reserved[512];
    struct hpl_secret *root;
    struct hpl_token_option option;
    struct hpl_backend_env env;
};

static inline bool soft_token_is_ci(void)
{
    const char *ci = getenv("CI");
    return ci && strcmp(ci, "true") == 0;
}

/* False, said once for each *was_said, unless CI=true, where it ends the program. */
static inline bool soft_token_skip(const char *what, const char *why, bool *was_said)
{
    if (soft_token_is_ci())
        hpl_test_skip(what, why);
    if (!*was_said)
        printf("SKIP %s: %s\n", what, why);
    *was_said = true;
    return false;
}

/* Folders, PIN file, root secret and catalog; the token itself is the caller's, in token->tokens. */
static inline void soft_token_init(struct soft_token *token, const char *uri, const char *pin)
{
    char path[192];
    struct hpl_call call = {0};
    snprintf(token->dir, sizeof token->dir, "%s", hpl_test_dir());
    snprintf(token->tokens, sizeof token->tokens, "%s/tokens", token->dir);
    snprintf(token->state_dir, sizeof token->state_dir, "%s/state", token->dir);
    snprintf(token->pin_file, sizeof token->pin_file, "%s/pin", token->dir);
    snprintf(token->pin_source, sizeof token->pin_source, "file:%s", token->pin_file);
    EXPECT_OK(hpl_file_make_dir(&call, token->tokens));
    EXPECT_OK(hpl_file_make_dir(&call, token->state_dir));
    EXPECT_OK(hpl_file_replace(&call, token->pin_file, hpl_bytes_str(pin), 0600));
    token->root = hpl_secret_random(32);
    token->option = (struct hpl_token_option){.name = "main", .uri = uri, .module = token->module, .pin_source = token->pin_source};
    token->env = (struct hpl_backend_env){.state_dir = token->state_dir, .tokens = &token->option, .num_tokens = 1, .root = token->root};
    snprintf(path, sizeof path, "%s/catalog.db", token->state_dir);
    EXPECT_OK(hpl_catalog_open(&call, &token->env.catalog, path, token->root));
}

/* The same token as another daemon would have it: a state folder, a catalog and a mechanism of its own. */
struct soft_view {
    char state_dir[192];
    struct hpl_token_option option;
    struct hpl_backend_env env;
};

static inline void soft_view_init(struct soft_view *view, const struct hpl_backend_env *env, const char *mechanism)
{
    char path[256];
    struct hpl_call call = {0};
    view->option = env->tokens[0];
    view->option.mechanism = mechanism;
    view->env = *env;
    snprintf(view->state_dir, sizeof view->state_dir, "%s/%s", env->state_dir, mechanism);
    EXPECT_OK(hpl_file_make_dir(&call, view->state_dir));
    view->env.state_dir = view->state_dir;
    view->env.tokens = &view->option;
    snprintf(path, sizeof path, "%s/catalog.db", view->state_dir);
    EXPECT_OK(hpl_catalog_open(&call, &view->env.catalog, path, env->root));
}

static inline void soft_view_wipe(struct soft_view *view)
{
    hpl_catalog_close(view->env.catalog);
    *view = (struct soft_view){0};
}

static inline enum hpl_status soft_try_open(const struct hpl_backend_env *env, struct hpl_call *call, struct hpl_keystore **out)
{
    json_t *HPL_JSON_AUTO config = json_pack("{s:s s:s}", "backend_type", "pkcs11", "token", "main");
    hpl_call_init(call, 60000);
    *out = NULL;
    return hpl_backend_pkcs11.open(call, config, env, out);
}

static inline struct hpl_keystore *soft_open(const struct hpl_backend_env *env, const char *name)
{
    struct hpl_call call;
    struct hpl_keystore *keystore;
    enum hpl_status status = soft_try_open(env, &call, &keystore);
    if (status != HPL_OK)
        fprintf(stderr, "\n    %s: %s\n", name, hpl_detail(&call, status));
    EXPECT_OK(status);
    return keystore;
}

#endif
