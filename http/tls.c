/* The TLS context: built at start and at each reload, shared by the connections made while it was the current one. */
#include "http/http.h"
#include "http/link.h"

#include <string.h>
#include <sys/stat.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

static enum hpl_status tls_error(struct hpl_call *call, const char *what, const char *path)
{
    unsigned long code = ERR_peek_last_error();
    const char *reason = ERR_reason_error_string(code);
    enum hpl_status status = hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s %s: %s", what, path,
                                      reason ? reason : code ? strerror((int)ERR_GET_REASON(code)) : "unknown reason");
    ERR_clear_error();
    return status;
}

/* HTTP/1.1 when the client offers it; a client that offers only others is told so. */
static int choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len, const unsigned char *in,
                           unsigned in_len, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1";
    (void)ssl, (void)arg;
    unsigned char *chosen = NULL;
    if (SSL_select_next_proto(&chosen, out_len, ours, sizeof ours - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static void set_options(SSL_CTX *ctx, bool allow_tls12)
{
    static const unsigned char session_context[] = "hardplate";
    SSL_CTX_set_min_proto_version(ctx, allow_tls12 ? TLS1_2_VERSION : TLS1_3_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_CLEANSE_PLAINTEXT);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_session_id_context(ctx, session_context, sizeof session_context - 1);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
}

/* A pipe would be waited for, and with it whoever reloads. What is not there at all OpenSSL says itself. */
static enum hpl_status check_file(struct hpl_call *call, const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) ? hpl_fail(call, HPL_INVALID_CONFIGURATION, "the TLS file %s is not a regular file", path) : HPL_OK;
}

static enum hpl_status load(struct hpl_call *call, SSL_CTX *ctx, const char *cert, const char *key)
{
    HPL_TRY(check_file(call, cert));
    HPL_TRY(check_file(call, key));
    /* TLS 1.2 only with forward secrecy and AEAD; TLS 1.3 has nothing else. */
    if (SSL_CTX_set_cipher_list(ctx, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1)
        return tls_error(call, "cannot choose cipher suites for", cert);
    if (SSL_CTX_use_certificate_chain_file(ctx, cert) != 1)
        return tls_error(call, "cannot read the TLS certificate", cert);
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        return tls_error(call, "cannot read the TLS key", key);
    if (SSL_CTX_check_private_key(ctx) != 1)
        return tls_error(call, "the TLS certificate does not belong to the key", key);
    return HPL_OK;
}

enum hpl_status hpl_tls_context(struct hpl_call *call, SSL_CTX **out, void *libctx, const char *cert, const char *key, bool allow_tls12)
{
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new_ex(libctx, NULL, TLS_server_method());
    if (!ctx)
        return tls_error(call, "cannot set up TLS for", cert);
    set_options(ctx, allow_tls12);
    enum hpl_status status = load(call, ctx, cert, key);
    if (status != HPL_OK)
        SSL_CTX_free(ctx);
    else
        *out = ctx;
    return status;
}

enum hpl_status hpl_http_check_tls(struct hpl_call *call, void *libctx, const char *cert, const char *key)
{
    SSL_CTX *ctx;
    HPL_TRY(hpl_tls_context(call, &ctx, libctx, cert, key, false));
    bool is_over = X509_cmp_current_time(X509_get0_notAfter(SSL_CTX_get0_certificate(ctx))) < 0;
    SSL_CTX_free(ctx);
    return is_over ? hpl_fail(call, HPL_INVALID_CONFIGURATION, "the certificate in %s has expired", cert) : HPL_OK;
}
