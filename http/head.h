/* The request head, parsed whole or refused (RFC 9112 §2–6, stricter where it leaves room). Pure; any thread. */
#ifndef HPL_HTTP_HEAD_H
#define HPL_HTTP_HEAD_H

#include "auth/sigv4.h"

#define HPL_HTTP_MAX_HEAD 32768u
#define HPL_HTTP_MAX_TARGET 8192u
#define HPL_HTTP_MAX_HEADERS 100u

/* Zero-initialised before the first call. Views point into the input of the last call. */
struct hpl_http_head {
    struct hpl_bytes method, target, path, query;
    struct hpl_bytes authority; /* of a target in absolute form; empty in the usual one */
    struct hpl_sigv4_header headers[HPL_HTTP_MAX_HEADERS];
    size_t num_headers;
    int64_t content_length;   /* -1: none given */
    bool is_chunked, is_http10, is_keep_alive, expects_continue;
    size_t len;               /* bytes of the whole head, the empty line included */
    const char *why;          /* a refusal's reason, in one sentence */
    size_t scanned, line_start, num_lines; /* how far the search for the empty line has come */
};

enum { HPL_HTTP_HEAD_MORE = 0, HPL_HTTP_HEAD_WHOLE = 1 }; /* anything else: the status of the refusal */

/* Looks at the len bytes that have come so far, the same ones as before and more behind them. HPL_HTTP_HEAD_MORE when the empty
 * line is not there yet, HPL_HTTP_HEAD_WHOLE with everything filled in, or the HTTP status of a refusal with head->why. The
 * verdict depends on the bytes alone, never on how they were cut into calls. */
int hpl_http_head_parse(struct hpl_http_head *head, const uint8_t *data, size_t len);

/* "Name: value" without its line end, strict: token name, no white space before the colon, no control bytes. */
bool hpl_http_parse_field(struct hpl_bytes line, struct hpl_sigv4_header *field);
/* The same name or word in any case of ASCII letters. */
bool hpl_http_is_word(struct hpl_bytes bytes, const char *word);
/* The next member of a comma-separated list (RFC 9110 section 5.6.1), taken off *list, without the white space around it; may be empty. */
struct hpl_bytes hpl_http_next_word(struct hpl_bytes *list);
/* Decimal digits only, up to INT64_MAX; -1 on anything else. */
int64_t hpl_http_parse_length(struct hpl_bytes digits);
bool hpl_http_is_token(struct hpl_bytes bytes);

#endif
