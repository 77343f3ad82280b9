/* Our token: login, renewal before it ends, login again after a revocation. Any thread asks; one thread of the session's own renews. One login at
 * a time: who comes meanwhile waits for it and uses its token. */
#include "backends/vault/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/log.h"

#define S_NS 1000000000u
#define LOGIN_TIMEOUT_MS 15000u
#define CLOSE_TIMEOUT_MS 2000u
#define REFUSED_FOR_NS S_NS         /* a login that was refused is not repeated by every call */
#define MAX_AUTH_ANSWER 16384u
#define MAX_FILE 16384u
#define FIRST_RETRY_NS (S_NS / 2)
#define MOST_RETRY_NS (15ull * S_NS)

struct hpl_vault_session {
    const struct hpl_vault_settings *settings;
    struct hpl_vault_http *http;
    pthread_mutex_t logging_in; /* held over a login or renewal */
    pthread_mutex_t lock;       /* around all that follows; never held over a request */
    pthread_cond_t changed;
    struct hpl_secret *token;
    uint64_t generation;        /* counts tokens */
    bool is_renewable, is_closing;
    uint64_t ends_ns;           /* 0: it does not end */
    uint64_t next_ns;           /* when the keeper acts; 0: never */
    uint64_t num_logins, num_renewals, num_failures;
    struct { uint64_t until_ns; enum hpl_status status; char why[240]; } refused;
    pthread_t keeper;
    bool has_keeper;
};

/* --- what Vault answers --------------------------------------------------------------------------------------------------- */

static enum hpl_status send_as(struct hpl_call *call, struct hpl_vault_session *session, const char *method, const char *path, struct hpl_bytes body,
                               const struct hpl_secret *token, struct hpl_vault_answer *answer)
{
    const struct hpl_vault_request request = {.method = method, .path = path, .body = body, .token = token};
    answer->secret = hpl_secret_new(MAX_AUTH_ANSWER);
    if (!answer->secret)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    return hpl_vault_send(call, session->http, &request, answer);
}

enum hpl_status hpl_vault_read_lease(struct hpl_call *call, const struct hpl_vault_answer *answer, bool wants_token, struct hpl_vault_lease *out)
{
    json_t *HPL_JSON_AUTO root = NULL;
    const json_t *auth = NULL;
    const char *token = NULL;
    HPL_TRY(hpl_vault_answer_json(call, answer, &root));
    if (hpl_json_member(NULL, root, "auth", &auth) != HPL_OK || !auth || hpl_json_str(NULL, auth, "client_token", &token) != HPL_OK ||
        hpl_json_int(NULL, auth, "lease_duration", 0, INT32_MAX, &out->seconds) != HPL_OK || hpl_json_bool(NULL, auth, "renewable", &out->is_renewable) != HPL_OK)
        return hpl_fail(call, HPL_BACKEND, "Vault answered a login with something else than a token");
    if (!wants_token)
        return HPL_OK;
    if (!token || !*token || strpbrk(token, "\r\n"))
        return hpl_fail(call, HPL_BACKEND, "Vault answered a login without a token");
    out->token = hpl_secret_from(token, strlen(token));
    return out->token ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
}

/* How long a token that we were given lives. HPL_NOT_FOUND: Vault does not know it any more. */
static enum hpl_status look_up(struct hpl_call *call, struct hpl_vault_session *session, const struct hpl_secret *token, struct hpl_vault_lease *out)
{
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    json_t *HPL_JSON_AUTO root = NULL;
    const struct hpl_vault_request request = {.method = "GET", .path = "auth/token/lookup-self"};
    HPL_TRY(send_as(call, session, request.method, request.path, hpl_bytes(NULL, 0), token, &answer));
    if (answer.code == 403)
        return HPL_NOT_FOUND;
    if (!hpl_vault_answer_is_ok(&answer))
        return hpl_vault_refused(call, session->http, &request, &answer, "looking at our own token");
    HPL_TRY(hpl_vault_answer_json(call, &answer, &root));
    const json_t *data = json_object_get(root, "data");
    if (hpl_json_int(NULL, data, "ttl", 0, INT32_MAX, &out->seconds) != HPL_OK || hpl_json_bool(NULL, data, "renewable", &out->is_renewable) != HPL_OK)
        return hpl_fail(call, HPL_BACKEND, "Vault's answer about our own token is not what it should be");
    return HPL_OK;
}

/* --- login ---------------------------------------------------------------------------------------------------------------- */

/* The secret of the settings, or as its file has it now. A pod's JWT is a world-readable link by Kubernetes' own making. */
static enum hpl_status read_secret(struct hpl_call *call, const struct hpl_vault_settings *settings, struct hpl_secret **out)
{
    struct hpl_buf text = {0};
    if (settings->secret) {
        *out = hpl_secret_from(settings->secret->bytes, settings->secret->len);
        return *out ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    }
    if (settings->auth != HPL_VAULT_KUBERNETES)
        return hpl_file_read_secret(call, settings->secret_file, MAX_FILE, true, out);
    enum hpl_status status = hpl_file_read(call, settings->secret_file, MAX_FILE, &text);
    while (text.len && (text.data[text.len - 1] == '\n' || text.data[text.len - 1] == '\r'))
        text.len--;
    if (status == HPL_OK && !text.len)
        status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s is empty", settings->secret_file);
    if (status == HPL_OK && !(*out = hpl_secret_from(text.data, text.len)))
        status = hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    hpl_buf_wipe(&text);
    return status;
}

static enum hpl_status login_body(struct hpl_call *call, const struct hpl_vault_settings *settings, const struct hpl_secret *secret, struct hpl_buf *out)
{
    bool is_approle = settings->auth == HPL_VAULT_APPROLE;
    json_t *HPL_JSON_AUTO body = json_pack("{s:s, s:s%}", is_approle ? "role_id" : "role", settings->role, is_approle ? "secret_id" : "jwt",
                                           (const char *)secret->bytes, (size_t)secret->len);
    return body && hpl_json_put(out, body) == HPL_OK ? HPL_OK : hpl_fail(call, HPL_INVALID_CONFIGURATION, "the login's role or secret is not valid UTF-8");
}

static enum hpl_status login_refused(struct hpl_call *call, struct hpl_vault_session *session, const struct hpl_vault_request *request,
                                     const struct hpl_vault_answer *answer)
{
    const struct hpl_vault_settings *settings = session->settings;
    const char *needed = settings->auth == HPL_VAULT_APPROLE ? "role_id and secret_id" : "role and service account";
    if (answer->code == 400)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s refused the %s login at 'auth/%s'; give a valid %s", settings->address, hpl_vault_auth_name(settings->auth),
                        settings->auth_mount, needed);
    if (answer->code == 403) /* Vault tells nobody without a token which methods it has */
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "Vault at %s refused the %s login at 'auth/%s'; have the method enabled there, or give a valid %s", settings->address,
                        hpl_vault_auth_name(settings->auth), settings->auth_mount, needed);
    return hpl_vault_refused(call, session->http, request, answer, "logging in");
}

/* AppRole and Kubernetes: a new token for the secret. */
static enum hpl_status exchange(struct hpl_call *call, struct hpl_vault_session *session, const struct hpl_secret *secret, struct hpl_vault_lease *out)
{
    char path[HPL_VAULT_TEXT + 16];
    struct hpl_buf body = {0};
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    snprintf(path, sizeof path, "auth/%s/login", session->settings->auth_mount);
    const struct hpl_vault_request request = {.method = "POST", .path = path};
    enum hpl_status status = login_body(call, session->settings, secret, &body);
    if (status == HPL_OK)
        status = send_as(call, session, request.method, path, hpl_buf_bytes(&body), NULL, &answer);
    hpl_buf_wipe(&body);
    HPL_TRY(status);
    return hpl_vault_answer_is_ok(&answer) ? hpl_vault_read_lease(call, &answer, true, out) : login_refused(call, session, &request, &answer);
}

static enum hpl_status obtain(struct hpl_call *call, struct hpl_vault_session *session, struct hpl_vault_lease *out)
{
    const struct hpl_vault_settings *settings = session->settings;
    struct hpl_secret *HPL_SECRET_AUTO secret = NULL;
    HPL_TRY(read_secret(call, settings, &secret));
    if (settings->auth == HPL_VAULT_APPROLE || settings->auth == HPL_VAULT_KUBERNETES)
        return exchange(call, session, secret, out);
    enum hpl_status status = look_up(call, session, secret, out);
    if (status == HPL_NOT_FOUND)
        return hpl_fail_over(call, HPL_KEY_UNAVAILABLE, "Vault at %s does not accept our token: it ended or was revoked; %s", settings->address,
                             settings->secret ? "give a new one by reconfigure" : "have a new one written to its file");
    out->token = status == HPL_OK ? secret : NULL;
    if (status == HPL_OK)
        secret = NULL;
    return status;
}

/* --- the token in use ------------------------------------------------------------------------------------------------------ */

/* Two thirds of the lease are used, the last third is for trying again. */
static void set_lease(struct hpl_vault_session *session, const struct hpl_vault_lease *lease)
{
    uint64_t now = hpl_clock_mono_ns(), whole = (uint64_t)lease->seconds * S_NS;
    session->is_renewable = lease->is_renewable;
    session->ends_ns = lease->seconds ? now + whole : 0;
    session->next_ns = lease->seconds ? now + whole / 3 * 2 : 0;
    pthread_cond_broadcast(&session->changed);
}

static void adopt(struct hpl_vault_session *session, struct hpl_vault_lease *lease)
{
    pthread_mutex_lock(&session->lock);
    struct hpl_secret *old = session->token;
    session->token = lease->token;
    lease->token = NULL;
    session->generation++;
    session->num_logins++;
    session->refused.until_ns = 0;
    set_lease(session, lease);
    pthread_mutex_unlock(&session->lock);
    hpl_secret_free(old);
}

static void remember_refusal(struct hpl_vault_session *session, const struct hpl_call *call, enum hpl_status status)
{
    pthread_mutex_lock(&session->lock);
    session->num_failures++;
    session->refused.until_ns = hpl_clock_mono_ns() + REFUSED_FOR_NS;
    session->refused.status = status;
    snprintf(session->refused.why, sizeof session->refused.why, "%s", hpl_detail(call, status));
    pthread_mutex_unlock(&session->lock);
}

static enum hpl_status recent_refusal(struct hpl_call *call, struct hpl_vault_session *session)
{
    enum hpl_status status = HPL_OK;
    pthread_mutex_lock(&session->lock);
    if (hpl_clock_mono_ns() < session->refused.until_ns)
        status = hpl_fail(call, session->refused.status, "%s", session->refused.why);
    pthread_mutex_unlock(&session->lock);
    return status;
}

/* Under logging_in. */
static enum hpl_status login(struct hpl_call *call, struct hpl_vault_session *session)
{
    struct hpl_vault_lease lease = {0};
    struct hpl_call sub;
    hpl_call_init(&sub, LOGIN_TIMEOUT_MS);
    if (call && call->deadline_ns && call->deadline_ns < sub.deadline_ns)
        sub.deadline_ns = call->deadline_ns;
    HPL_TRY(recent_refusal(call, session));
    enum hpl_status status = obtain(&sub, session, &lease);
    if (status != HPL_OK) {
        remember_refusal(session, &sub, status);
        hpl_log(HPL_LOG_WARN, "vault.login", HPL_S("address", session->settings->address), HPL_S("failure", hpl_detail(&sub, status)));
        return hpl_fail(call, status, "%s", hpl_detail(&sub, status));
    }
    adopt(session, &lease);
    hpl_log(HPL_LOG_INFO, "vault.login", HPL_S("address", session->settings->address), HPL_S("method", hpl_vault_auth_name(session->settings->auth)),
            HPL_N("lease_seconds", lease.seconds));
    return HPL_OK;
}

/* A copy, and which one it is. */
static enum hpl_status copy_token(struct hpl_call *call, struct hpl_vault_session *session, struct hpl_secret **out, uint64_t *generation)
{
    pthread_mutex_lock(&session->lock);
    *out = session->token ? hpl_secret_from(session->token->bytes, session->token->len) : NULL;
    *generation = session->generation;
    bool is_there = session->token != NULL;
    pthread_mutex_unlock(&session->lock);
    return *out || !is_there ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
}

static enum hpl_status lock_login(struct hpl_call *call, struct hpl_vault_session *session)
{
    uint64_t deadline_ns = call && call->deadline_ns ? call->deadline_ns : hpl_clock_mono_ns() + HPL_VAULT_DEFAULT_TIMEOUT_NS;
    return hpl_lock_by(&session->logging_in, deadline_ns) ? HPL_OK : hpl_fail(call, HPL_TIMEOUT, "a login at Vault was still running at the deadline");
}

/* This token was refused with 403: HPL_OK when there is another to try, HPL_ACCESS_DENIED when it is alive and the policy said no. */
static enum hpl_status replace_token(struct hpl_call *call, struct hpl_vault_session *session, const struct hpl_secret *token, uint64_t generation)
{
    struct hpl_secret *HPL_SECRET_AUTO newest = NULL;
    uint64_t now_generation;
    struct hpl_vault_lease lease = {0};
    HPL_TRY(lock_login(call, session));
    enum hpl_status status = copy_token(call, session, &newest, &now_generation);
    if (status == HPL_OK && now_generation == generation) {
        status = look_up(call, session, token, &lease);
        if (status == HPL_OK)
            status = HPL_ACCESS_DENIED;
        else if (status == HPL_NOT_FOUND)
            status = login(call, session);
    }
    pthread_mutex_unlock(&session->logging_in);
    return status;
}

enum hpl_status hpl_vault_ask(struct hpl_call *call, struct hpl_vault_session *session, struct hpl_vault_request *request, struct hpl_vault_answer *answer)
{
    for (int attempt = 0;; attempt++) {
        struct hpl_secret *HPL_SECRET_AUTO token = NULL;
        uint64_t generation;
        HPL_TRY(copy_token(call, session, &token, &generation));
        request->token = token;
        enum hpl_status status = hpl_vault_send(call, session->http, request, answer);
        request->token = NULL;
        if (status != HPL_OK || answer->code != 403 || attempt)
            return status;
        status = replace_token(call, session, token, generation);
        if (status == HPL_ACCESS_DENIED)
            return HPL_OK; /* the caller tells what 403 means */
        HPL_TRY(status);
        answer->body.len = 0;
        answer->secret_len = 0;
    }
}

/* --- the keeper ------------------------------------------------------------------------------------------------------------ */

static enum hpl_status renew(struct hpl_call *call, struct hpl_vault_session *session, const struct hpl_secret *token)
{
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    struct hpl_vault_lease lease = {0};
    const struct hpl_vault_request request = {.method = "POST", .path = "auth/token/renew-self"};
    HPL_TRY(send_as(call, session, request.method, request.path, hpl_bytes_str("{}"), token, &answer));
    if (!hpl_vault_answer_is_ok(&answer))
        return hpl_vault_refused(call, session->http, &request, &answer, "renewing our token");
    HPL_TRY(hpl_vault_read_lease(call, &answer, false, &lease));
    pthread_mutex_lock(&session->lock);
    bool is_capped = session->ends_ns && lease.seconds && hpl_clock_mono_ns() + (uint64_t)lease.seconds * S_NS <= session->ends_ns + S_NS;
    session->num_renewals++;
    set_lease(session, &lease);
    pthread_mutex_unlock(&session->lock);
    /* Its greatest life is near: renewing gives no more time. */
    return is_capped ? HPL_STALE : HPL_OK;
}

static bool can_login_anew(const struct hpl_vault_settings *settings)
{
    return settings->auth != HPL_VAULT_TOKEN;
}

/* Before the token ends: renewed where that gives time, else a new one where we can have one. Under logging_in. */
static enum hpl_status refresh(struct hpl_call *call, struct hpl_vault_session *session)
{
    struct hpl_secret *HPL_SECRET_AUTO token = NULL;
    uint64_t generation;
    HPL_TRY(copy_token(call, session, &token, &generation));
    pthread_mutex_lock(&session->lock);
    bool is_renewable = session->is_renewable && token;
    pthread_mutex_unlock(&session->lock);
    struct hpl_call quiet = {.deadline_ns = call->deadline_ns};
    enum hpl_status status = is_renewable ? renew(&quiet, session, token) : HPL_STALE;
    if (status == HPL_OK)
        return HPL_OK;
    if (can_login_anew(session->settings))
        return login(call, session);
    return status == HPL_STALE ? hpl_fail(call, HPL_KEY_UNAVAILABLE, "the token given cannot be renewed any more; give a new one by reconfigure before it ends")
                               : hpl_fail(call, status, "%s", hpl_detail(&quiet, status));
}

/* Waits until there is something to do; false when closing. */
static bool wait_for_work(struct hpl_vault_session *session)
{
    pthread_mutex_lock(&session->lock);
    while (!session->is_closing && (!session->next_ns || hpl_clock_mono_ns() < session->next_ns)) {
        const struct timespec until = {(time_t)(session->next_ns / S_NS), (long)(session->next_ns % S_NS)};
        if (session->next_ns)
            pthread_cond_timedwait(&session->changed, &session->lock, &until);
        else
            pthread_cond_wait(&session->changed, &session->lock);
    }
    bool is_closing = session->is_closing;
    pthread_mutex_unlock(&session->lock);
    return !is_closing;
}

static void plan_retry(struct hpl_vault_session *session, const struct hpl_call *call, enum hpl_status status, unsigned failures)
{
    uint64_t wait = FIRST_RETRY_NS << (failures < 5 ? failures : 5);
    hpl_log(HPL_LOG_WARN, "vault.renewal", HPL_S("address", session->settings->address), HPL_S("failure", hpl_detail(call, status)));
    pthread_mutex_lock(&session->lock);
    session->num_failures++;
    session->next_ns = hpl_clock_mono_ns() + (wait < MOST_RETRY_NS ? wait : MOST_RETRY_NS);
    pthread_mutex_unlock(&session->lock);
}

static void *keep(void *arg)
{
    struct hpl_vault_session *session = arg;
    unsigned failures = 0;
    while (wait_for_work(session)) {
        struct hpl_call call;
        hpl_call_init(&call, LOGIN_TIMEOUT_MS);
        pthread_mutex_lock(&session->logging_in);
        enum hpl_status status = refresh(&call, session);
        pthread_mutex_unlock(&session->logging_in);
        if (status == HPL_OK)
            failures = 0;
        else
            plan_retry(session, &call, status, failures++);
    }
    return NULL;
}

/* --- opening and closing ---------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_vault_session_open(struct hpl_call *call, const struct hpl_vault_settings *settings, struct hpl_vault_http *http,
                                       struct hpl_vault_session **out)
{
    struct hpl_vault_session *session = calloc(1, sizeof *session);
    *out = session;
    if (!session)
        return hpl_fail(call, HPL_NO_MEMORY, "out of memory");
    session->settings = settings;
    session->http = http;
    pthread_mutex_init(&session->logging_in, NULL);
    pthread_mutex_init(&session->lock, NULL);
    hpl_vault_init_cond(&session->changed);
    HPL_TRY(login(call, session));
    session->has_keeper = pthread_create(&session->keeper, NULL, keep, session) == 0;
    return session->has_keeper ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "no thread for the renewal of Vault's token");
}

/* A token that we were lent is given back; one that we were given stays. */
static void revoke(struct hpl_vault_session *session)
{
    struct hpl_vault_answer HPL_VAULT_ANSWER_AUTO answer = {0};
    struct hpl_call call;
    hpl_call_init(&call, CLOSE_TIMEOUT_MS);
    if (session->token && (session->settings->auth == HPL_VAULT_APPROLE || session->settings->auth == HPL_VAULT_KUBERNETES) &&
        send_as(&call, session, "POST", "auth/token/revoke-self", hpl_bytes_str("{}"), session->token, &answer) != HPL_OK)
        hpl_log(HPL_LOG_DEBUG, "vault.revoke", HPL_S("failure", call.detail));
}

void hpl_vault_session_close(struct hpl_vault_session *session)
{
    if (!session)
        return;
    pthread_mutex_lock(&session->lock);
    session->is_closing = true;
    pthread_cond_broadcast(&session->changed);
    pthread_mutex_unlock(&session->lock);
    if (session->has_keeper)
        pthread_join(session->keeper, NULL);
    revoke(session);
    hpl_secret_free(session->token);
    pthread_mutex_destroy(&session->logging_in);
    pthread_mutex_destroy(&session->lock);
    pthread_cond_destroy(&session->changed);
    free(session);
}

void hpl_vault_session_describe(struct hpl_vault_session *session, json_t *out)
{
    pthread_mutex_lock(&session->lock);
    uint64_t now = hpl_clock_mono_ns();
    json_object_set_new(out, "auth_method_type", json_string(hpl_vault_auth_name(session->settings->auth)));
    json_object_set_new(out, "token_ends_in_seconds",
                        !session->ends_ns ? json_null() : json_integer(session->ends_ns > now ? (json_int_t)((session->ends_ns - now) / S_NS) : 0));
    json_object_set_new(out, "logins", json_integer((json_int_t)session->num_logins));
    json_object_set_new(out, "renewals", json_integer((json_int_t)session->num_renewals));
    json_object_set_new(out, "login_failures", json_integer((json_int_t)session->num_failures));
    pthread_mutex_unlock(&session->lock);
}
