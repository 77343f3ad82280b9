/* The root secret's sources. Start-up only, one thread. */
#include "daemon/root.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "daemon/passphrase.h"

#define ROOT_LEN 32u

/* 32 raw bytes, or 64 hex digits with or without a newline. */
static enum hpl_status read_root(struct hpl_call *call, const char *path, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO text = NULL;
    HPL_TRY(hpl_file_read_secret(call, path, 2 * ROOT_LEN + 1, false, &text));
    size_t len = text->len;
    if (len == ROOT_LEN) {
        *out = hpl_secret_from(text->bytes, ROOT_LEN);
        return *out ? HPL_OK : HPL_NO_MEMORY;
    }
    if (len == 2 * ROOT_LEN + 1 && text->bytes[len - 1] == '\n')
        len--;
    *out = hpl_secret_new(ROOT_LEN);
    if (!*out)
        return HPL_NO_MEMORY;
    if (hpl_hex_decode((*out)->bytes, ROOT_LEN, (const char *)text->bytes, len))
        return HPL_OK;
    hpl_secret_free(*out);
    *out = NULL;
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s must hold 32 bytes or 64 hex digits (openssl rand -hex 32)", path);
}

static enum hpl_status make_root(struct hpl_call *call, const char *path, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO made = hpl_secret_random(ROOT_LEN);
    if (!made)
        return HPL_NO_MEMORY;
    HPL_TRY(hpl_file_replace(call, path, hpl_bytes(made->bytes, ROOT_LEN), 0600));
    *out = made;
    made = NULL;
    return HPL_OK;
}

static enum hpl_status credential_path(struct hpl_call *call, const char *name, char path[static PATH_MAX])
{
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    if (!folder || strchr(name, '/') || snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the systemd credential '%.60s' is not there: add LoadCredential= to the unit", name);
    return HPL_OK;
}

enum hpl_status hpl_root_load(struct hpl_call *call, const struct hpl_config *config, struct hpl_secret **out, bool *was_made)
{
    char path[PATH_MAX], catalog[PATH_MAX];
    *was_made = false;
    if (config->root && config->root->credential) {
        HPL_TRY(credential_path(call, config->root->credential, path));
        return read_root(call, path, out);
    }
    if (config->root && config->root->file)
        return read_root(call, config->root->file, out);
    if (config->root && config->root->passphrase_file)
        return hpl_passphrase_root(call, config->state_dir, config->root->passphrase_file, out);
    if (config->root && config->root->require_external)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "root.require_external is set, but none of root.file, root.credential and root.passphrase_file is given");
    snprintf(path, sizeof path, "%s/root.key", config->state_dir);
    snprintf(catalog, sizeof catalog, "%s/catalog.db", config->state_dir);
    if (access(path, F_OK) == 0)
        return read_root(call, path, out);
    if (access(catalog, F_OK) == 0)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is missing but a catalog is there: bring the root secret back; a new one could open nothing", path);
    *was_made = true;
    return make_root(call, path, out);
}
