/* Opens the local backend in a folder of the test's own. */
#include "backends/local/local.h"
#include "kms/keystore.h"
#include "tests/test.h"

static struct hpl_keystore *open_local(void)
{
    static const char *dir;
    static struct hpl_secret *root;
    struct hpl_keystore *keystore = NULL;
    struct hpl_call call = {0};
    if (!dir) {
        dir = hpl_test_dir();
        root = hpl_secret_random(32);
    }
    const struct hpl_backend_env env = {.state_dir = dir, .root = root};
    json_t *HPL_JSON_AUTO config = json_object();
    EXPECT_OK(hpl_backend_local.open(&call, config, &env, &keystore));
    return keystore;
}
