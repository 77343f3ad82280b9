/* Text forms of bytes, ids and times: hex, base64 (RFC 4648), percent-encoding (RFC 3986 as SigV4 wants
 * it), UUIDs (RFC 9562 version 4), UTC times. Any thread; nothing is kept. */
#ifndef HPL_BASE_CODEC_H
#define HPL_BASE_CODEC_H

#include "base/bytes.h"

/* Lower-case hex, 2*len digits and a NUL. */
void hpl_hex_encode(char *out, const void *data, size_t len);
/* Exactly 2*len hex digits of either case; false on anything else. out is undefined then. */
bool hpl_hex_decode(void *out, size_t len, const char *text, size_t text_len);

/* Standard base64 with padding, appended. */
void hpl_base64_put(struct hpl_buf *buf, const void *data, size_t len);
/* Strict: standard alphabet, padding required, no white space, no stray bits. Appends to buf; false and
 * nothing appended on anything else. */
bool hpl_base64_decode(struct hpl_buf *buf, const char *text, size_t text_len);
/* As above into exactly len bytes. */
bool hpl_base64_decode_exact(void *out, size_t len, const char *text, size_t text_len);

/* Percent-encodes everything but unreserved characters; '/' is kept when keep_slash. */
void hpl_uri_put(struct hpl_buf *buf, struct hpl_bytes bytes, bool keep_slash);
/* Decodes %XX ('+' becomes a space when plus_is_space). False on a malformed escape. Appends. */
bool hpl_uri_decode(struct hpl_buf *buf, struct hpl_bytes bytes, bool plus_is_space);

bool hpl_utf8_is_valid(struct hpl_bytes bytes);

/* 36 characters and a NUL; random. */
void hpl_uuid_new(uint8_t uuid[static 16]);
void hpl_uuid_text(char out[static 37], const uint8_t uuid[static 16]);

/* Milliseconds since 1970 UTC in the forms that the protocols want. */
enum hpl_time_form {
    HPL_TIME_ISO_US,   /* 2024-09-18T07:10:42.012000Z */
    HPL_TIME_ISO_MS,   /* 2024-09-18T07:10:42.012Z */
    HPL_TIME_ISO_S,    /* 2024-09-18T07:10:42Z */
    HPL_TIME_BASIC,    /* 20240918T071042Z */
    HPL_TIME_HTTP      /* Wed, 18 Sep 2024 07:10:42 GMT */
};
void hpl_time_text(char out[static 40], int64_t unix_ms, enum hpl_time_form form);
/* Reads HPL_TIME_BASIC, HPL_TIME_HTTP or HPL_TIME_ISO_*; false on anything else. */
bool hpl_time_parse(int64_t *unix_ms, const char *text, enum hpl_time_form form);

#endif
