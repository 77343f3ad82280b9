/* Verifying SigV4: the head in header or query form, then chunks and trailer. Any thread. */
#include "auth/canonical.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/clock.h"
#include "base/codec.h"
#include "base/hash.h"

#define MAX_SKEW_MS (15 * 60 * 1000)
#define MAX_EXPIRES_S 604800

/* What a signed head says about itself, from either form. Texts are NUL-ended copies; views point into the request. */
struct claim {
    bool is_presigned;
    char access_key[HPL_ACCESS_KEY_MAX + 1];
    char scope[160];            /* date/region/service/aws4_request */
    char timestamp[17];
    struct hpl_buf signed_headers;
    char signature[65];
    int64_t expires_s;          /* presigned only */
    bool has_token, is_s3;
    char payload_hash[65];      /* as it stands in the canonical request: hex or a word */
};

static enum hpl_status malformed(struct hpl_call *call, const char *why)
{
    return hpl_fail(call, HPL_AUTH_MALFORMED, "%s", why);
}

/* The one header of that name; two are an error. */
static enum hpl_status one_header(struct hpl_call *call, const struct hpl_sigv4_request *request, const char *name,
                                  struct hpl_bytes *value)
{
    size_t found = 0;
    for (size_t i = 0; i < request->num_headers; i++)
        if (hpl_bytes_is_name(request->headers[i].name, name)) {
            *value = request->headers[i].value;
            found++;
        }
    return found <= 1 ? HPL_OK : hpl_fail(call, HPL_AUTH_MALFORMED, "the header %s was sent twice", name);
}

static bool copy_text(char *out, size_t size, struct hpl_bytes bytes)
{
    if (bytes.len >= size || (bytes.len && memchr(bytes.data, '\0', bytes.len)))
        return false;
    if (bytes.len)
        memcpy(out, bytes.data, bytes.len);
    out[bytes.len] = '\0';
    return true;
}

/* "ACCESS/date/region/service/aws4_request"; the access key itself may not hold a slash. */
static enum hpl_status read_credential(struct hpl_call *call, struct hpl_bytes credential, struct claim *claim)
{
    const uint8_t *slash = credential.len ? memchr(credential.data, '/', credential.len) : NULL;
    size_t len = slash ? (size_t)(slash - credential.data) : 0;
    if (!slash || !copy_text(claim->access_key, sizeof claim->access_key, hpl_bytes(credential.data, len)) ||
        !copy_text(claim->scope, sizeof claim->scope, hpl_bytes(slash + 1, credential.len - len - 1)))
        return malformed(call, "the Credential must be ACCESS_KEY/DATE/REGION/SERVICE/aws4_request");
    return HPL_OK;
}

static bool is_hex64(struct hpl_bytes text)
{
    uint8_t scratch[32];
    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] >= 'A' && text.data[i] <= 'F')
            return false;
    return hpl_hex_decode(scratch, sizeof scratch, (const char *)text.data, text.len);
}

static enum hpl_status read_signature(struct hpl_call *call, struct hpl_bytes signature, struct claim *claim)
{
    if (!is_hex64(signature))
        return malformed(call, "the Signature must be 64 lower-case hex digits");
    copy_text(claim->signature, sizeof claim->signature, signature);
    return HPL_OK;
}

/* --- the Authorization header -------------------------------------------------------------------------------------------- */

static struct hpl_bytes trim(struct hpl_bytes text)
{
    while (text.len && (*text.data == ' ' || *text.data == '\t'))
        text = hpl_bytes(text.data + 1, text.len - 1);
    while (text.len && (text.data[text.len - 1] == ' ' || text.data[text.len - 1] == '\t'))
        text.len--;
    return text;
}

static bool strip(struct hpl_bytes *text, const char *prefix)
{
    size_t len = strlen(prefix);
    if (text->len < len || memcmp(text->data, prefix, len) != 0)
        return false;
    *text = hpl_bytes(text->data + len, text->len - len);
    return true;
}

static enum hpl_status read_authorization(struct hpl_call *call, struct hpl_bytes value, struct claim *claim)
{
    unsigned seen = 0;
    if (!strip(&value, "AWS4-HMAC-SHA256 "))
        return malformed(call, "the Authorization must start with AWS4-HMAC-SHA256");
    while (value.len) {
        const uint8_t *comma = memchr(value.data, ',', value.len);
        struct hpl_bytes part = trim(hpl_bytes(value.data, comma ? (size_t)(comma - value.data) : value.len));
        value = comma ? hpl_bytes(comma + 1, value.len - (size_t)(comma + 1 - value.data)) : hpl_bytes(NULL, 0);
        if (strip(&part, "Credential=") && !(seen & 1)) {
            seen |= 1;
            HPL_TRY(read_credential(call, part, claim));
        } else if (strip(&part, "SignedHeaders=") && !(seen & 2)) {
            seen |= 2;
            hpl_buf_put_bytes(&claim->signed_headers, part);
        } else if (strip(&part, "Signature=") && !(seen & 4)) {
            seen |= 4;
            HPL_TRY(read_signature(call, part, claim));
        } else
            return malformed(call, "the Authorization has a part that is unknown or doubled");
    }
    return seen == 7 ? HPL_OK : malformed(call, "the Authorization needs Credential, SignedHeaders and Signature");
}

/* The Date header as a SigV4 timestamp: RFC 9110's form with GMT (or -0000 or +0000, as some clients write it), or the basic form. */
static bool date_to_timestamp(struct hpl_bytes date, char timestamp[static 17])
{
    char text[40], basic[40];
    int64_t when;
    if (!copy_text(text, sizeof text, date))
        return false;
    size_t len = strlen(text);
    if (len == 31 && (strcmp(text + 25, " -0000") == 0 || strcmp(text + 25, " +0000") == 0))
        memcpy(text + 25, " GMT", 5);
    if (!hpl_time_parse(&when, text, HPL_TIME_HTTP) && !hpl_time_parse(&when, text, HPL_TIME_BASIC))
        return false;
    hpl_time_text(basic, when, HPL_TIME_BASIC);
    return copy_text(timestamp, 17, hpl_bytes_str(basic));
}

static enum hpl_status read_date(struct hpl_call *call, const struct hpl_sigv4_request *request, struct claim *claim)
{
    struct hpl_bytes amz = {0}, date = {0};
    int64_t when;
    HPL_TRY(one_header(call, request, "x-amz-date", &amz));
    HPL_TRY(one_header(call, request, "date", &date));
    if (amz.data) {
        bool is_right = copy_text(claim->timestamp, sizeof claim->timestamp, amz) &&
                        hpl_time_parse(&when, claim->timestamp, HPL_TIME_BASIC);
        return is_right ? HPL_OK : hpl_fail(call, HPL_AUTH_UNDATED, "x-amz-date must look like 20240918T071042Z");
    }
    if (!date.data)
        return hpl_fail(call, HPL_AUTH_UNDATED, "the request has neither x-amz-date nor Date");
    return date_to_timestamp(date, claim->timestamp) ? HPL_OK : hpl_fail(call, HPL_AUTH_UNDATED, "the Date header is not a date");
}

/* --- the query form ------------------------------------------------------------------------------------------------------ */

/* The decoded value of a query parameter into out; *count says how often it came. */
static enum hpl_status query_value(struct hpl_call *call, struct hpl_bytes query, const char *name, struct hpl_buf *out,
                                   size_t *count)
{
    *count = 0;
    while (query.len) {
        const uint8_t *end = memchr(query.data, '&', query.len);
        struct hpl_bytes pair = {query.data, end ? (size_t)(end - query.data) : query.len};
        query = end ? hpl_bytes(end + 1, query.len - pair.len - 1) : hpl_bytes(NULL, 0);
        const uint8_t *equals = pair.len ? memchr(pair.data, '=', pair.len) : NULL;
        size_t name_len = equals ? (size_t)(equals - pair.data) : pair.len;
        if (!hpl_bytes_equal(hpl_bytes(pair.data, name_len), hpl_bytes_str(name)))
            continue;
        struct hpl_bytes value = equals ? hpl_bytes(equals + 1, pair.len - name_len - 1) : hpl_bytes(NULL, 0);
        if ((*count)++ || !hpl_uri_decode(out, value, true))
            return hpl_fail(call, HPL_AUTH_MALFORMED, "the query parameter %s is doubled or malformed", name);
    }
    return HPL_OK;
}

static bool has_parameter(struct hpl_bytes query, const char *name)
{
    struct hpl_buf value = {0};
    size_t count;
    enum hpl_status status = query_value(NULL, query, name, &value, &count);
    hpl_buf_wipe(&value);
    return status != HPL_OK || count > 0;
}

static enum hpl_status need_parameter(struct hpl_call *call, struct hpl_bytes query, const char *name, struct hpl_buf *value)
{
    size_t count;
    value->len = 0;
    HPL_TRY(query_value(call, query, name, value, &count));
    return count == 1 ? hpl_buf_check(value) : hpl_fail(call, HPL_AUTH_MALFORMED, "the query parameter %s is missing", name);
}

static enum hpl_status read_query(struct hpl_call *call, const struct hpl_sigv4_request *request, struct claim *claim)
{
    struct hpl_buf value = {0};
    int64_t when;
    char *end;
    enum hpl_status status = need_parameter(call, request->query, "X-Amz-Algorithm", &value);
    if (status == HPL_OK && !hpl_bytes_equal(hpl_buf_bytes(&value), hpl_bytes_str("AWS4-HMAC-SHA256")))
        status = malformed(call, "X-Amz-Algorithm must be AWS4-HMAC-SHA256");
    if (status == HPL_OK)
        status = need_parameter(call, request->query, "X-Amz-Credential", &value);
    if (status == HPL_OK)
        status = read_credential(call, hpl_buf_bytes(&value), claim);
    if (status == HPL_OK)
        status = need_parameter(call, request->query, "X-Amz-Date", &value);
    if (status == HPL_OK && (!copy_text(claim->timestamp, sizeof claim->timestamp, hpl_buf_bytes(&value)) ||
                             !hpl_time_parse(&when, claim->timestamp, HPL_TIME_BASIC)))
        status = malformed(call, "X-Amz-Date must look like 20240918T071042Z");
    if (status == HPL_OK)
        status = need_parameter(call, request->query, "X-Amz-Expires", &value);
    if (status == HPL_OK) {
        const char *text = hpl_buf_text(&value);
        claim->expires_s = value.len && value.len <= 6 && isdigit((unsigned char)*text) ? strtoll(text, &end, 10) : 0;
        if (claim->expires_s < 1 || claim->expires_s > MAX_EXPIRES_S || *end)
            status = malformed(call, "X-Amz-Expires must be a number from 1 to 604800");
    }
    if (status == HPL_OK)
        status = need_parameter(call, request->query, "X-Amz-SignedHeaders", &claim->signed_headers);
    if (status == HPL_OK)
        status = need_parameter(call, request->query, "X-Amz-Signature", &value);
    if (status == HPL_OK)
        status = read_signature(call, hpl_buf_bytes(&value), claim);
    hpl_buf_wipe(&value);
    claim->has_token = has_parameter(request->query, "X-Amz-Security-Token");
    return status;
}

/* --- what the claim must hold before a signature is computed ------------------------------------------------------------- */

static bool list_has(struct hpl_bytes list, struct hpl_bytes name)
{
    while (list.len) {
        const uint8_t *end = memchr(list.data, ';', list.len);
        struct hpl_bytes entry = {list.data, end ? (size_t)(end - list.data) : list.len};
        list = end ? hpl_bytes(end + 1, list.len - entry.len - 1) : hpl_bytes(NULL, 0);
        if (entry.len == name.len && strncasecmp((const char *)entry.data, (const char *)name.data, name.len) == 0)
            return true;
    }
    return false;
}

/* Lower case, sorted, no doubles, host among them, and every x-amz-* header that was sent. */
static enum hpl_status check_signed_headers(struct hpl_call *call, const struct hpl_sigv4_request *request,
                                            const struct claim *claim)
{
    struct hpl_bytes list = hpl_buf_bytes(&claim->signed_headers), rest = list, previous = {0};
    while (rest.len) {
        const uint8_t *end = memchr(rest.data, ';', rest.len);
        struct hpl_bytes name = {rest.data, end ? (size_t)(end - rest.data) : rest.len};
        rest = end ? hpl_bytes(end + 1, rest.len - name.len - 1) : hpl_bytes(NULL, 0);
        for (size_t i = 0; i < name.len; i++)
            if (name.data[i] >= 'A' && name.data[i] <= 'Z')
                return malformed(call, "SignedHeaders must be lower case");
        if (name.len == 0 || (previous.data && hpl_bytes_compare(previous, name) >= 0))
            return malformed(call, "SignedHeaders must be sorted and without doubles");
        previous = name;
    }
    if (!list_has(list, hpl_bytes_str("host")))
        return hpl_fail(call, HPL_AUTH_UNSIGNED_HEADER, "the host header must be signed");
    for (size_t i = 0; i < request->num_headers; i++) {
        struct hpl_bytes name = request->headers[i].name;
        if (name.len > 6 && strncasecmp((const char *)name.data, "x-amz-", 6) == 0 && !list_has(list, name))
            return hpl_fail(call, HPL_AUTH_UNSIGNED_HEADER, "the header %.*s was sent but is not signed", (int)(name.len > 60 ? 60 : name.len),
                            (const char *)name.data);
    }
    return HPL_OK;
}

static bool is_in_list(const char *list, struct hpl_bytes word)
{
    struct hpl_bytes rest = hpl_bytes_str(list);
    while (rest.len) {
        const uint8_t *end = memchr(rest.data, ',', rest.len);
        struct hpl_bytes entry = {rest.data, end ? (size_t)(end - rest.data) : rest.len};
        rest = end ? hpl_bytes(end + 1, rest.len - entry.len - 1) : hpl_bytes(NULL, 0);
        if (hpl_bytes_equal(entry, word))
            return true;
    }
    return false;
}

static enum hpl_status check_scope(struct hpl_call *call, struct claim *claim, const struct hpl_sigv4_options *options)
{
    struct hpl_bytes parts[4], rest = hpl_bytes_str(claim->scope);
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *end = i < 3 && rest.len ? memchr(rest.data, '/', rest.len) : NULL;
        if (i < 3 && !end)
            return malformed(call, "the Credential's scope must be DATE/REGION/SERVICE/aws4_request");
        parts[i] = hpl_bytes(rest.data, end ? (size_t)(end - rest.data) : rest.len);
        rest = end ? hpl_bytes(end + 1, rest.len - parts[i].len - 1) : hpl_bytes(NULL, 0);
    }
    if (!hpl_bytes_equal(parts[0], hpl_bytes(claim->timestamp, 8)))
        return malformed(call, "the date of the scope is not that of the request");
    if (parts[1].len == 0 || (options->region && !hpl_bytes_equal(parts[1], hpl_bytes_str(options->region))))
        return hpl_fail(call, HPL_AUTH_MALFORMED, "the region '%.*s' is wrong; expecting '%s'", (int)(parts[1].len > 40 ? 40 : parts[1].len),
                        (const char *)parts[1].data, options->region ? options->region : "any");
    if (!is_in_list(options->services, parts[2]))
        return hpl_fail(call, HPL_AUTH_MALFORMED, "the service of the scope must be one of: %s", options->services);
    if (!hpl_bytes_equal(parts[3], hpl_bytes_str("aws4_request")))
        return malformed(call, "the Credential's scope must end in aws4_request");
    claim->is_s3 = hpl_bytes_equal(parts[2], hpl_bytes_str("s3"));
    return HPL_OK;
}

static enum hpl_status check_time(struct hpl_call *call, const struct claim *claim)
{
    int64_t when = 0, now = hpl_clock_unix_ms();
    if (!hpl_time_parse(&when, claim->timestamp, HPL_TIME_BASIC))
        return malformed(call, "the request's date is not a date");
    if (claim->is_presigned) {
        if (now > when + claim->expires_s * 1000)
            return HPL_AUTH_EXPIRED;
        return when > now + MAX_SKEW_MS ? HPL_AUTH_SKEWED : HPL_OK;
    }
    return when > now + MAX_SKEW_MS || when < now - MAX_SKEW_MS ? HPL_AUTH_SKEWED : HPL_OK;
}

/* --- the payload --------------------------------------------------------------------------------------------------------- */

static const struct { const char *text; enum hpl_payload_mode mode; } payload_modes[] = {
    {"UNSIGNED-PAYLOAD", HPL_PAYLOAD_UNSIGNED},
    {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", HPL_PAYLOAD_CHUNKED_SIGNED},
    {"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER},
    {"STREAMING-UNSIGNED-PAYLOAD-TRAILER", HPL_PAYLOAD_CHUNKED_UNSIGNED_TRAILER},
};

static bool announces_no_body(const struct hpl_sigv4_request *request)
{
    for (size_t i = 0; i < request->num_headers; i++) {
        const struct hpl_sigv4_header *header = &request->headers[i];
        if (hpl_bytes_is_name(header->name, "transfer-encoding"))
            return false;
        if (hpl_bytes_is_name(header->name, "content-length") && !hpl_bytes_equal(header->value, hpl_bytes_str("0")))
            return false;
    }
    return true;
}

/* The presigned form may carry it as a parameter. */
static enum hpl_status read_presigned_hash(struct hpl_call *call, const struct hpl_sigv4_request *request, struct claim *claim)
{
    struct hpl_buf value = {0};
    size_t count = 0;
    enum hpl_status status = query_value(call, request->query, "X-Amz-Content-Sha256", &value, &count);
    struct hpl_bytes hash = count ? hpl_buf_bytes(&value) : hpl_bytes_str("UNSIGNED-PAYLOAD");
    if (status == HPL_OK && !copy_text(claim->payload_hash, sizeof claim->payload_hash, hash))
        status = malformed(call, "X-Amz-Content-Sha256 is too long");
    hpl_buf_wipe(&value);
    return status;
}

/* What the client signed as the body's hash: sent, or known from elsewhere. */
static enum hpl_status read_payload_hash(struct hpl_call *call, const struct hpl_sigv4_request *request,
                                         const struct hpl_sigv4_options *options, struct claim *claim)
{
    uint8_t empty[32];
    struct hpl_bytes sent = {0};
    HPL_TRY(one_header(call, request, "x-amz-content-sha256", &sent));
    if (sent.data)
        return copy_text(claim->payload_hash, sizeof claim->payload_hash, sent) ? HPL_OK : malformed(call, "x-amz-content-sha256 is too long");
    if (claim->is_presigned)
        return read_presigned_hash(call, request, claim);
    bool is_empty = options->require_hashed && announces_no_body(request);
    if (!options->body_sha256 && !is_empty)
        return malformed(call, "x-amz-content-sha256 is missing: send the SHA-256 of the body in hex, and sign it");
    hpl_sha256(empty, "", 0);
    hpl_hex_encode(claim->payload_hash, options->body_sha256 ? options->body_sha256 : empty, 32);
    return HPL_OK;
}

static enum hpl_status read_payload_mode(struct hpl_call *call, const struct claim *claim, const struct hpl_sigv4_options *options,
                                         struct hpl_sigv4_payload *payload)
{
    struct hpl_bytes hash = hpl_bytes_str(claim->payload_hash);
    payload->mode = HPL_PAYLOAD_HASHED;
    for (size_t i = 0; i < HPL_COUNT(payload_modes); i++)
        if (strcmp(claim->payload_hash, payload_modes[i].text) == 0)
            payload->mode = payload_modes[i].mode;
    if (options->require_hashed && payload->mode != HPL_PAYLOAD_HASHED)
        return malformed(call, "this route needs the body's SHA-256 in x-amz-content-sha256, signed");
    if (payload->mode == HPL_PAYLOAD_HASHED && (!is_hex64(hash) || !hpl_hex_decode(payload->sha256, 32, claim->payload_hash, hash.len)))
        return malformed(call, "x-amz-content-sha256 must be 64 lower-case hex digits or one of the UNSIGNED and STREAMING words");
    return HPL_OK;
}

void hpl_sigv4_payload_wipe(struct hpl_sigv4_payload *payload)
{
    if (!payload)
        return;
    hpl_secret_free(payload->signing_key);
    *payload = (struct hpl_sigv4_payload){0};
}

static enum hpl_status keep_chunk_state(struct hpl_call *call, const struct claim *claim, const uint8_t key[static 32],
                                        struct hpl_sigv4_payload *payload)
{
    if (payload->mode != HPL_PAYLOAD_CHUNKED_SIGNED && payload->mode != HPL_PAYLOAD_CHUNKED_SIGNED_TRAILER)
        return HPL_OK;
    payload->signing_key = hpl_secret_from(key, 32);
    memcpy(payload->previous, claim->signature, sizeof payload->previous);
    memcpy(payload->timestamp, claim->timestamp, sizeof payload->timestamp);
    memcpy(payload->scope, claim->scope, sizeof payload->scope);
    return payload->signing_key ? HPL_OK : hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
}

/* --- the whole ----------------------------------------------------------------------------------------------------------- */

/* An unknown access key is checked against a fixed secret, so that it takes the same work as a known one. */
static enum hpl_status find_key(struct hpl_call *call, struct hpl_auth *auth, const struct claim *claim, struct hpl_identity *identity,
                                struct hpl_secret **key, bool *is_known)
{
    enum hpl_status status = hpl_auth_find_signing_key(call, auth, claim->access_key, claim->scope, identity, key);
    *is_known = status == HPL_OK;
    if (status != HPL_AUTH_UNKNOWN_KEY)
        return status;
    struct hpl_secret *HPL_SECRET_AUTO nobodys = hpl_secret_from("nobody's secret key, of usual length, no", 40);
    *key = nobodys ? hpl_secret_new(32) : NULL;
    if (!*key)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret region is full");
    return hpl_signing_key((*key)->bytes, nobodys, claim->scope) ? HPL_OK : HPL_AUTH_BAD_SIGNATURE;
}

static enum hpl_status check_signature(struct hpl_call *call, struct hpl_auth *auth, const struct hpl_sigv4_request *request,
                                       const struct claim *claim, struct hpl_identity *identity, struct hpl_sigv4_payload *payload)
{
    struct hpl_secret *HPL_SECRET_AUTO key = NULL;
    bool is_known;
    char want[65];
    uint8_t hash[32];
    const struct hpl_canonical canonical = {.request = request, .signed_headers = hpl_buf_bytes(&claim->signed_headers),
                                            .payload_hash = hpl_bytes_str(claim->payload_hash), .is_s3 = claim->is_s3,
                                            .ignored_parameter = hpl_bytes_str(claim->is_presigned ? "X-Amz-Signature" : "")};
    HPL_TRY(find_key(call, auth, claim, identity, &key, &is_known));
    HPL_TRY(hpl_canonical_hash(call, &canonical, hash));
    hpl_request_signature(want, key->bytes, claim->timestamp, claim->scope, hash);
    bool is_right = hpl_equal_secret(want, claim->signature, 64);
    enum hpl_status status = !is_known ? HPL_AUTH_UNKNOWN_KEY
                             : !is_right ? HPL_AUTH_BAD_SIGNATURE
                                         : keep_chunk_state(call, claim, key->bytes, payload);
    hpl_wipe(want, sizeof want);
    return status;
}

static enum hpl_status read_claim(struct hpl_call *call, const struct hpl_sigv4_request *request,
                                  const struct hpl_sigv4_options *options, struct claim *claim)
{
    struct hpl_bytes authorization = {0}, token = {0};
    HPL_TRY(one_header(call, request, "authorization", &authorization));
    HPL_TRY(one_header(call, request, "x-amz-security-token", &token));
    bool has_query = has_parameter(request->query, "X-Amz-Signature") || has_parameter(request->query, "X-Amz-Algorithm");
    if (authorization.len && has_query)
        return malformed(call, "the request is signed in its header and in its query: only one is allowed");
    if (!authorization.len && !has_query)
        return HPL_AUTH_REQUIRED;
    claim->is_presigned = has_query;
    if (has_query && !options->allow_presigned)
        return malformed(call, "presigned requests are not taken here");
    if (has_query)
        HPL_TRY(read_query(call, request, claim));
    else {
        HPL_TRY(read_authorization(call, authorization, claim));
        HPL_TRY(read_date(call, request, claim));
    }
    if (token.data || claim->has_token)
        return HPL_AUTH_TOKEN_INVALID;
    return hpl_buf_check(&claim->signed_headers);
}

static enum hpl_status verify(struct hpl_call *call, struct hpl_auth *auth, const struct hpl_sigv4_request *request,
                              const struct hpl_sigv4_options *options, struct claim *claim, struct hpl_identity *identity, struct hpl_sigv4_payload *payload)
{
    HPL_TRY(read_claim(call, request, options, claim));
    HPL_TRY(check_scope(call, claim, options));
    HPL_TRY(check_signed_headers(call, request, claim));
    HPL_TRY(read_payload_hash(call, request, options, claim));
    HPL_TRY(read_payload_mode(call, claim, options, payload));
    HPL_TRY(check_signature(call, auth, request, claim, identity, payload));
    return check_time(call, claim);
}

enum hpl_status hpl_sigv4_verify(struct hpl_call *call, struct hpl_auth *auth, const struct hpl_sigv4_request *request,
                                 const struct hpl_sigv4_options *options, struct hpl_identity *identity, struct hpl_sigv4_payload *payload)
{
    struct claim claim = {0};
    *payload = (struct hpl_sigv4_payload){0};
    enum hpl_status status = verify(call, auth, request, options, &claim, identity, payload);
    if (status == HPL_AUTH_MALFORMED && claim.is_presigned) /* S3 has a name for each form */
        status = HPL_AUTH_MALFORMED_QUERY;
    hpl_buf_wipe(&claim.signed_headers);
    if (status != HPL_OK) {
        hpl_sigv4_payload_wipe(payload);
        *identity = (struct hpl_identity){0};
    }
    return status;
}

/* --- chunks and trailer -------------------------------------------------------------------------------------------------- */

/* Compares with what text to sign gives, then steps forward. */
static enum hpl_status check_step(struct hpl_call *call, struct hpl_sigv4_payload *payload, const char *what, const char *middle,
                                  const uint8_t sha256[static 32], struct hpl_bytes signature)
{
    struct hpl_buf text = {0};
    uint8_t mac[32];
    char want[65], hex[65];
    HPL_CHECK(payload->signing_key);
    hpl_hex_encode(hex, sha256, 32);
    hpl_buf_printf(&text, "%s\n%s\n%s\n%s\n%s%s", what, payload->timestamp, payload->scope, payload->previous, middle, hex);
    HPL_TRY(hpl_buf_check(&text));
    hpl_hmac_sha256(mac, payload->signing_key->bytes, payload->signing_key->len, text.data, text.len);
    hpl_hex_encode(want, mac, sizeof mac);
    hpl_buf_wipe(&text);
    bool is_right = signature.len == 64 && hpl_equal_secret(want, signature.data, 64);
    if (!is_right)
        return hpl_fail(call, HPL_AUTH_BAD_SIGNATURE, "the signature of a chunk or trailer of the body does not match");
    memcpy(payload->previous, want, sizeof want);
    return HPL_OK;
}

enum hpl_status hpl_sigv4_check_chunk(struct hpl_call *call, struct hpl_sigv4_payload *payload, const uint8_t sha256[static 32],
                                      struct hpl_bytes signature)
{
    static const char empty_hash[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n";
    return check_step(call, payload, "AWS4-HMAC-SHA256-PAYLOAD", empty_hash, sha256, signature);
}

enum hpl_status hpl_sigv4_check_trailer(struct hpl_call *call, struct hpl_sigv4_payload *payload, const uint8_t sha256[static 32],
                                        struct hpl_bytes signature)
{
    return check_step(call, payload, "AWS4-HMAC-SHA256-TRAILER", "", sha256, signature);
}
