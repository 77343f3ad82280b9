/* The key folder. Any thread; blocks on the disk. */
#include "backends/local/place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/rand.h>

#include "base/codec.h"
#include "base/file.h"
#include "base/hash.h"

#define LABEL "hpl-local-identity-v1"
#define ID_DIGITS (2 * HPL_LOCAL_IDENTITY_LEN)
#define MAC_LEN 32u

static bool is_below(const char *path, const char *root)
{
    char real[PATH_MAX];
    size_t len;
    if (!root || !realpath(root, real))
        return false;
    len = strlen(real);
    return strncmp(path, real, len) == 0 && (path[len] == '/' || path[len] == '\0' || len == 1);
}

static bool may_be_used(const char *path, const struct hpl_backend_env *env)
{
    bool may = is_below(path, env->state_dir);
    for (size_t i = 0; !may && i < env->num_key_dir_roots; i++)
        may = is_below(path, env->key_dir_roots[i]);
    return may;
}

static bool is_same(const char *path, const char *folder)
{
    char real[PATH_MAX];
    return folder && realpath(folder, real) && strcmp(path, real) == 0;
}

enum hpl_status hpl_local_place(struct hpl_call *call, const json_t *config, const struct hpl_backend_env *env, char out[static PATH_MAX])
{
    const char *given = NULL;
    char fallback[PATH_MAX], path[PATH_MAX], real[PATH_MAX];
    snprintf(fallback, sizeof fallback, "%s/keys", env->state_dir);
    HPL_TRY(hpl_json_str(call, config, "key_dir", &given));
    snprintf(path, sizeof path, "%s", given ? given : fallback);
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
    char *slash = strrchr(path, '/');
    if (path[0] != '/' || len < 2 || len >= PATH_MAX - 100 || strcmp(slash, "/..") == 0 || strcmp(slash, "/.") == 0)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'key_dir' must be an absolute path of a folder");
    if (!given && access(env->state_dir, F_OK) != 0 && errno == ENOENT) { /* before the first start, which makes it */
        memcpy(out, path, len + 1);
        return HPL_OK;
    }
    if (!realpath(path, out)) { /* not there yet: its parent decides */
        *slash = '\0';
        if (!realpath(slash == path ? "/" : path, real) || snprintf(out, PATH_MAX, "%s/%s", strcmp(real, "/") ? real : "", slash + 1) >= PATH_MAX)
            return hpl_fail(call, HPL_INVALID_REQUEST, "the folder above 'key_dir' is not there: %s", strerror(errno));
    }
    if (is_same(out, env->state_dir))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'key_dir' must not be the state folder itself, where the root secret may lie: name a folder in it");
    if (may_be_used(out, env))
        return HPL_OK;
    return hpl_fail(call, HPL_INVALID_REQUEST, "'key_dir' must lie under the state folder or one that key_dirs in the local configuration file names");
}

enum hpl_status hpl_local_own(struct hpl_call *call, const char *dir)
{
    struct stat st;
    HPL_TRY(hpl_file_make_dir(call, dir));
    if (lstat(dir, &st) != 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 077))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the key folder %s must be ours alone: chown it to the daemon's user and chmod 0700 it", dir);
    return HPL_OK;
}

/* "<id in hex> <MAC in hex>" of the id's digits. */
static void put_text(const struct hpl_secret *root, const char id[static ID_DIGITS], struct hpl_buf *out)
{
    uint8_t key[32], mac[MAC_LEN];
    char digits[2 * MAC_LEN + 1];
    hpl_hkdf_sha256(key, sizeof key, hpl_bytes(root->bytes, root->len), hpl_bytes(NULL, 0), hpl_bytes_str(LABEL));
    hpl_hmac_sha256(mac, key, sizeof key, id, ID_DIGITS);
    hpl_wipe(key, sizeof key);
    hpl_hex_encode(digits, mac, sizeof mac);
    hpl_buf_printf(out, "%.*s %s\n", (int)ID_DIGITS, id, digits);
}

static enum hpl_status make_identity(struct hpl_call *call, const char *path, const struct hpl_secret *root)
{
    uint8_t id[HPL_LOCAL_IDENTITY_LEN];
    char digits[ID_DIGITS + 1];
    struct hpl_buf text = {0};
    HPL_CHECK(RAND_bytes(id, sizeof id) == 1);
    hpl_hex_encode(digits, id, sizeof id);
    put_text(root, digits, &text);
    enum hpl_status status = hpl_buf_check(&text);
    if (status == HPL_OK)
        status = hpl_file_replace(call, path, hpl_buf_bytes(&text), 0600);
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status read_identity(struct hpl_call *call, const char *path, const struct hpl_secret *root, char identity[static ID_DIGITS + 1])
{
    struct hpl_buf kept = {0}, right = {0};
    enum hpl_status status = hpl_file_read(call, path, 1024, &kept);
    bool is_right = status == HPL_OK && kept.len > ID_DIGITS;
    if (is_right)
        put_text(root, (const char *)kept.data, &right);
    is_right = is_right && right.len == kept.len && hpl_equal_secret(right.data, kept.data, kept.len);
    if (is_right) {
        memcpy(identity, kept.data, ID_DIGITS);
        identity[ID_DIGITS] = '\0';
    }
    hpl_buf_wipe(&kept);
    hpl_buf_wipe(&right);
    if (status != HPL_OK || is_right)
        return status;
    return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s does not verify: the folder was made under another root secret, or the file was changed", path);
}

enum hpl_status hpl_local_identity(struct hpl_call *call, const char *dir, const struct hpl_secret *root,
                                   char identity[static 2 * HPL_LOCAL_IDENTITY_LEN + 1])
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/.identity", dir);
    if (access(path, F_OK) != 0 && errno == ENOENT)
        HPL_TRY(make_identity(call, path, root));
    return read_identity(call, path, root, identity);
}
