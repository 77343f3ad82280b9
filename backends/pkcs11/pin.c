/* Logging in. A token counts wrong PINs and locks or zeroizes itself, so one refusal is enough: it is kept on disk as a keyed
 * digest of the PIN, and that PIN is never sent again, not after a restart either. The kept digest is keyed under the root secret: a
 * PIN is short and a plain hash of it would give it away. Any thread; one login at a time in the process. */
#include "backends/pkcs11/internal.h"

#include <errno.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <openssl/rand.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"

#define PIN_MAX 256u
#define SALT_LEN 16u
#define MAX_REFUSED 32u

/* The latch file: a salt, then one digest for each PIN that was refused since the last good login. */
struct latch {
    char path[PATH_MAX], shown[PATH_MAX]; /* shown: for people, where the process stands in the folder */
    char ready[PATH_MAX];                 /* what will be at path once the PIN is refused */
    uint8_t salt[SALT_LEN];
    uint8_t digests[MAX_REFUSED][HPL_SHA256_LEN];
    size_t num_digests;
};

static pthread_mutex_t login_lock = PTHREAD_MUTEX_INITIALIZER;
static bool is_latch_lost; /* a refusal could not be written down: no login at all until the daemon is restarted. Under login_lock. */

static enum hpl_status latch_read(struct hpl_call *call, const struct hpl_p11_login *login, struct latch *latch)
{
    struct hpl_buf content = {0};
    latch->num_digests = 0;
    const char *dir = login->place->latch_dir, *shown = login->place->latch_shown;
    int n = snprintf(latch->path, sizeof latch->path, "%s/%s.pin-refused", dir, login->token->facts.id);
    int m = snprintf(latch->shown, sizeof latch->shown, "%s/%s.pin-refused", shown ? shown : dir, login->token->facts.id);
    int k = snprintf(latch->ready, sizeof latch->ready, "%s/%s.pin-sent", dir, login->token->facts.id);
    if (n < 0 || (size_t)n >= sizeof latch->path || m < 0 || (size_t)m >= sizeof latch->shown || k < 0 || (size_t)k >= sizeof latch->ready)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the state folder's path is too long");
    if (access(latch->path, F_OK) != 0 && errno == ENOENT)
        return RAND_bytes(latch->salt, SALT_LEN) == 1 ? HPL_OK : hpl_fail(call, HPL_INTERNAL, "no random numbers");
    enum hpl_status status = hpl_file_read(call, latch->path, sizeof latch->salt + sizeof latch->digests, &content);
    struct hpl_reader reader = {.rest = hpl_buf_bytes(&content)};
    hpl_read_copy(&reader, latch->salt, SALT_LEN);
    for (; reader.rest.len >= HPL_SHA256_LEN; latch->num_digests++)
        hpl_read_copy(&reader, latch->digests[latch->num_digests], HPL_SHA256_LEN);
    if (status == HPL_OK && (!hpl_read_is_done(&reader) || latch->num_digests == 0))
        status = hpl_fail(call, HPL_PIN_REJECTED, "%s is damaged: make sure of the PIN, then remove it", latch->shown);
    hpl_buf_wipe(&content);
    return status;
}

static void digest_of(uint8_t out[static HPL_SHA256_LEN], const struct hpl_p11_login *login, const struct latch *latch, const struct hpl_secret *pin)
{
    uint8_t key[32];
    hpl_hkdf_sha256(key, sizeof key, hpl_bytes(login->place->latch_key->bytes, login->place->latch_key->len), hpl_bytes(latch->salt, SALT_LEN),
                    hpl_bytes_str("hpl-pkcs11-pin-refused-v2"));
    hpl_hmac_sha256(out, key, sizeof key, pin->bytes, pin->len);
    hpl_wipe(key, sizeof key);
}

static bool is_refused(const struct latch *latch, const uint8_t digest[static HPL_SHA256_LEN])
{
    for (size_t i = 0; i < latch->num_digests; i++)
        if (hpl_equal_secret(latch->digests[i], digest, HPL_SHA256_LEN))
            return true;
    return false;
}

/* What is to be kept if this PIN is refused lies ready before it is sent: afterwards the disk may be full, and the PIN would be sent again by whoever
 * does not know, which may be a new process each minute. */
static enum hpl_status latch_prepare(struct hpl_call *call, struct latch *latch, const uint8_t digest[static HPL_SHA256_LEN])
{
    struct hpl_buf content = {0};
    struct hpl_call quiet = {0};
    hpl_buf_put(&content, latch->salt, SALT_LEN);
    hpl_buf_put(&content, latch->digests, latch->num_digests * HPL_SHA256_LEN);
    hpl_buf_put(&content, digest, HPL_SHA256_LEN);
    enum hpl_status status = hpl_buf_check(&content);
    if (status == HPL_OK)
        status = hpl_file_replace(&quiet, latch->ready, hpl_buf_bytes(&content), 0600);
    hpl_buf_wipe(&content);
    return status == HPL_OK ? HPL_OK : hpl_fail(call, HPL_KEY_UNAVAILABLE, "a refused PIN could not be written down, so it is not sent: %s", hpl_detail(&quiet, status));
}

static void latch_shut(struct latch *latch)
{
    struct hpl_call call = {0};
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", latch->path);
    enum hpl_status status = rename(latch->ready, latch->path) == 0 ? hpl_file_sync_dir(&call, dirname(folder)) : hpl_file_error(&call, "cannot rename", latch->ready);
    if (status != HPL_OK)
        hpl_log(HPL_LOG_ERROR, "pkcs11.pin_latch_lost", HPL_S("file", latch->shown), HPL_S("why", hpl_detail(&call, status)));
    is_latch_lost = status != HPL_OK;
}

/* Sends the PIN, and keeps that it was refused. */
static CK_RV log_in(const struct hpl_p11_login *login, CK_SESSION_HANDLE session, struct latch *latch, const struct hpl_secret *pin)
{
    CK_RV rv = login->token->fn->C_Login(session, CKU_USER, pin->bytes, pin->len);
    if (hpl_p11_classify(rv) == HPL_P11_PIN)
        latch_shut(latch);
    else
        unlink(latch->ready);
    return rv;
}

static enum hpl_status read_pin(struct hpl_call *call, const char *source, struct hpl_secret **pin)
{
    char path[PATH_MAX];
    if (source && strncmp(source, "file:/", 6) == 0)
        return hpl_file_read_secret(call, source + 5, PIN_MAX, true, pin);
    if (!source || strncmp(source, "credential:", 11) != 0 || !source[11] || strchr(source, '/'))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "pin_source must be file:/PATH or credential:NAME");
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    if (!folder)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "pin_source is %s but systemd gave no credentials: use LoadCredential=", source);
    if (snprintf(path, sizeof path, "%s/%s", folder, source + 11) >= (int)sizeof path)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "the credential's path is too long");
    return hpl_file_read_secret(call, path, PIN_MAX, true, pin);
}

/* What the token says of its PIN. A low count is let pass only when it was this program that lowered it and the PIN changed since. */
static enum hpl_status judge_flags(struct hpl_call *call, const struct hpl_p11_token *token, bool was_ours)
{
    CK_TOKEN_INFO info;
    CK_RV rv = token->fn->C_GetTokenInfo(token->slot, &info);
    if (rv != CKR_OK)
        return hpl_p11_fail(call, "C_GetTokenInfo", rv);
    if (info.flags & CKF_USER_PIN_LOCKED)
        return hpl_fail(call, HPL_PIN_REJECTED, "the PIN of token '%s' is locked: its security officer must set it anew", token->facts.label);
    if (info.flags & CKF_USER_PIN_FINAL_TRY)
        return hpl_fail(call, HPL_PIN_REJECTED, "token '%s' allows one last try of its PIN: log in once by hand with the right one", token->facts.label);
    if ((info.flags & CKF_USER_PIN_COUNT_LOW) && !was_ours)
        return hpl_fail(call, HPL_PIN_REJECTED, "token '%s' has seen wrong PINs: log in once by hand with the right one", token->facts.label);
    return HPL_OK;
}

static enum hpl_status send(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session, struct latch *latch,
                            const uint8_t digest[static HPL_SHA256_LEN], const struct hpl_secret *pin)
{
    HPL_TRY(latch_prepare(call, latch, digest));
    CK_RV rv = log_in(login, session, latch, pin);
    if (rv == CKR_OK && latch->num_digests)
        unlink(latch->path);
    if (rv == CKR_OK || rv == CKR_USER_ALREADY_LOGGED_IN) /* which says nothing of this PIN */
        return HPL_OK;
    if (hpl_p11_classify(rv) != HPL_P11_PIN)
        return hpl_p11_fail(call, "C_Login", rv);
    hpl_log(HPL_LOG_ERROR, "pkcs11.pin_refused", HPL_S("token", login->token->facts.label), HPL_S("code", hpl_p11_rv_name(rv)));
    return hpl_fail(call, HPL_PIN_REJECTED, "token '%s' refused the PIN (%s): it is not sent again until %s has another one",
                    login->token->facts.label, hpl_p11_rv_name(rv), login->place->option->pin_source);
}

static enum hpl_status try_pin(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session)
{
    struct hpl_secret *HPL_SECRET_AUTO pin = NULL;
    struct latch latch;
    uint8_t digest[HPL_SHA256_LEN];
    if (is_latch_lost)
        return hpl_fail(call, HPL_PIN_REJECTED, "a refused PIN could not be written down under %s: correct it and restart",
                        login->place->latch_shown ? login->place->latch_shown : login->place->latch_dir);
    HPL_TRY(read_pin(call, login->place->option->pin_source, &pin));
    HPL_TRY(latch_read(call, login, &latch));
    digest_of(digest, login, &latch, pin);
    if (is_refused(&latch, digest))
        return hpl_fail(call, HPL_PIN_REJECTED, "token '%s' refused this PIN before: correct %s; if the token was what was wrong, remove %s",
                        login->token->facts.label, login->place->option->pin_source, latch.shown);
    if (latch.num_digests == MAX_REFUSED)
        return hpl_fail(call, HPL_PIN_REJECTED, "token '%s' refused %u PINs: log in once by hand, then remove %s", login->token->facts.label,
                        MAX_REFUSED, latch.shown);
    HPL_TRY(judge_flags(call, login->token, latch.num_digests > 0));
    return send(call, login, session, &latch, digest, pin);
}

enum hpl_status hpl_p11_login(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session)
{
    CK_SESSION_INFO info;
    HPL_TRY(hpl_p11_lock(call, &login_lock, "a login"));
    CK_RV rv = login->token->fn->C_GetSessionInfo(session, &info);
    enum hpl_status status = rv != CKR_OK                           ? hpl_p11_fail(call, "C_GetSessionInfo", rv)
                             : info.state == CKS_RW_USER_FUNCTIONS ? HPL_OK
                                                                   : try_pin(call, login, session);
    pthread_mutex_unlock(&login_lock);
    return status;
}

static CK_RV send_again(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session)
{
    struct hpl_secret *HPL_SECRET_AUTO pin = NULL;
    struct latch latch;
    uint8_t digest[HPL_SHA256_LEN];
    if (is_latch_lost || read_pin(call, login->place->option->pin_source, &pin) != HPL_OK || latch_read(call, login, &latch) != HPL_OK ||
        latch.num_digests > 0)
        return CKR_FUNCTION_CANCELED;
    digest_of(digest, login, &latch, pin);
    return latch_prepare(call, &latch, digest) == HPL_OK ? log_in(login, session, &latch, pin) : CKR_FUNCTION_CANCELED;
}

CK_RV hpl_p11_login_again(struct hpl_call *call, const struct hpl_p11_login *login, CK_SESSION_HANDLE session)
{
    pthread_mutex_lock(&login_lock);
    CK_RV rv = send_again(call, login, session);
    pthread_mutex_unlock(&login_lock);
    return rv;
}
