/* GetObject and HeadObject: the manifest verifies before the first byte, each package before it leaves. */
#include "s3/internal.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/seal/batch.h"

#define PACKAGE_ON_DISK (HPL_PACKAGE_LEN + HPL_PACKAGE_OVERHEAD)

struct hpl_get {
    struct hpl_object object;
    struct hpl_manifest manifest;
    uint8_t (*files)[HPL_FILE_ID_LEN];
    size_t num_files;
    bool is_pinned;
    struct hpl_secret *data_key;    /* NULL: plain */
    struct hpl_sums_text sums;
    uint64_t at, end;               /* what is left of the answer, in the object */
    uint32_t part;                  /* the part that part_key and fd belong to */
    uint64_t part_start;            /* where it begins in the object */
    struct hpl_part_key *part_key;
    int fd;
    uint8_t *sealed;                /* packages as read */
    uint8_t *plain;                 /* an opened package of which a small cap took only a part */
    size_t plain_at, plain_len;
};

static void close_part(struct hpl_get *get)
{
    hpl_part_key_free(get->part_key);
    get->part_key = NULL;
    if (get->fd >= 0)
        close(get->fd);
    get->fd = -1;
}

void hpl_get_free(struct hpl_s3_request *request)
{
    struct hpl_get *get = request->get;
    if (!get)
        return;
    close_part(get);
    if (get->is_pinned)
        hpl_store_unpin(request->s3->store, get->object.instance);
    hpl_manifest_wipe(&get->manifest);
    hpl_object_wipe(&get->object);
    hpl_secret_free(get->data_key);
    free(get->files);
    free(get->sealed);
    if (get->plain)
        hpl_wipe(get->plain, HPL_PACKAGE_LEN);
    free(get->plain);
    free(get);
    request->get = NULL;
}

/* --- finding the object and trusting it ------------------------------------------------------------------------------------ */

static enum hpl_status find_key(struct hpl_s3_request *request)
{
    struct hpl_get *get = request->get;
    bool has_customer = request->sse.mode == HPL_MODE_SSE_C;
    if (get->manifest.mode == HPL_MODE_SSE_C && !has_customer)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "the object is encrypted with a customer key: send the same three headers as on its upload");
    if (get->manifest.mode != HPL_MODE_SSE_C && has_customer)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "the object is not encrypted with a customer key");
    if (has_customer) {
        get->data_key = hpl_secret_from(request->sse.customer_key->bytes, request->sse.customer_key->len);
        return get->data_key ? HPL_OK : hpl_fail(request->call, HPL_NO_MEMORY, "the secret region is full");
    }
    if (get->manifest.mode == HPL_MODE_PLAIN)
        return HPL_OK;
    enum hpl_status status = hpl_object_decrypt(request, hpl_buf_bytes(&get->object.envelope), &get->manifest, &get->data_key);
    return status == HPL_INVALID_CIPHERTEXT ? hpl_fail_over(request->call, HPL_INTEGRITY, "the object's envelope does not verify; it was changed or damaged") : status;
}

static enum hpl_status verify(struct hpl_s3_request *request)
{
    struct hpl_get *get = request->get;
    struct hpl_secret *HPL_SECRET_AUTO manifest_key = NULL;
    const struct hpl_manifest *manifest = &get->manifest;
    struct hpl_bytes encoded = {get->object.manifest.data + HPL_MANIFEST_MAC_LEN, get->object.manifest.len - HPL_MANIFEST_MAC_LEN};
    HPL_TRY(hpl_manifest_key_new(request->call, &manifest_key, get->data_key ? get->data_key : request->s3->options.root, manifest->instance));
    struct hpl_call quiet = {0};
    if (hpl_manifest_verify(&quiet, manifest_key, encoded, get->object.manifest.data) != HPL_OK)
        return manifest->mode == HPL_MODE_SSE_C ? hpl_fail(request->call, HPL_ACCESS_DENIED, "the customer key is not the one that the object was stored with")
                                                : hpl_fail(request->call, HPL_INTEGRITY, "the object's manifest does not verify; it was changed or damaged");
    if (!hpl_bytes_equal(manifest->bucket, hpl_bytes_str(request->bucket)) || !hpl_bytes_equal(manifest->key, hpl_bytes_str(request->key)) ||
        memcmp(manifest->instance, get->object.instance, sizeof manifest->instance) != 0 || manifest->size != get->object.size || manifest->num_parts != get->num_files)
        return hpl_fail(request->call, HPL_INTEGRITY, "the object's manifest is another object's");
    return HPL_OK;
}

static enum hpl_status open_object(struct hpl_s3_request *request)
{
    json_t *HPL_JSON_AUTO sums = NULL;
    HPL_TRY(hpl_sse_read_get(request));
    struct hpl_get *get = request->get = calloc(1, sizeof *get);
    if (!get)
        return hpl_fail(request->call, HPL_NO_MEMORY, "out of memory");
    get->fd = -1;
    get->part = UINT32_MAX;
    HPL_TRY(hpl_store_get_object(request->call, request->s3->store, request->bucket, request->key, true, &get->object, &get->files, &get->num_files));
    get->is_pinned = true;
    HPL_TRY(hpl_object_peek(request->call, &get->object, &get->manifest));
    HPL_TRY(find_key(request));
    HPL_TRY(verify(request));
    HPL_TRY(hpl_object_open_json(request->s3, request->call, get->manifest.instance, "object", get->manifest.sealed, &sums));
    hpl_sums_read(sums, &get->sums);
    return HPL_OK;
}

/* --- conditions and ranges ------------------------------------------------------------------------------------------------- */

/* Is the ETag in a list of quoted ones, or is the list "*"? */
static bool lists_etag(struct hpl_bytes list, const char *etag)
{
    char quoted[96];
    snprintf(quoted, sizeof quoted, "\"%s\"", etag);
    return hpl_bytes_equal(list, hpl_bytes_str("*")) || hpl_bytes_equal(list, hpl_bytes_str(etag)) || (list.len && memmem(list.data, list.len, quoted, strlen(quoted)));
}

static bool header_time(struct hpl_s3_request *request, const char *name, int64_t *unix_ms)
{
    char text[40];
    bool is_there;
    return hpl_s3_header(request, name, text, sizeof text, &is_there) == HPL_OK && is_there && hpl_time_parse(unix_ms, text, HPL_TIME_HTTP);
}

/* RFC 9110 §13.2.2, in its order. */
static enum hpl_status check_conditions(struct hpl_s3_request *request)
{
    const struct hpl_get *get = request->get;
    struct hpl_bytes match = hpl_http_header(request->http, "if-match"), none = hpl_http_header(request->http, "if-none-match");
    int64_t when, modified_s = get->object.modified_ms / 1000;
    if (match.data && !lists_etag(match, get->sums.etag))
        return HPL_PRECONDITION_FAILED;
    if (!match.data && header_time(request, "if-unmodified-since", &when) && modified_s > when / 1000)
        return HPL_PRECONDITION_FAILED;
    if (none.data && lists_etag(none, get->sums.etag))
        return HPL_NOT_MODIFIED;
    if (!none.data && header_time(request, "if-modified-since", &when) && modified_s <= when / 1000)
        return HPL_NOT_MODIFIED;
    return HPL_OK;
}

/* Digits; a number larger than any object stays as large as it can be. */
static bool read_number(const char **text, uint64_t *out)
{
    *out = 0;
    const char *start = *text;
    for (; isdigit((unsigned char)**text); (*text)++)
        *out = *out > (UINT64_MAX - 9) / 10 ? UINT64_MAX : *out * 10 + (uint64_t)(**text - '0');
    return *text > start;
}

/* If-Range names what the client has the rest of: this very object by its ETag or date, or the answer is the whole (RFC 9110 §13.1.5). */
static bool is_range_of_this(struct hpl_s3_request *request)
{
    char quoted[96];
    int64_t when;
    const struct hpl_get *get = request->get;
    struct hpl_bytes sent = hpl_http_header(request->http, "if-range");
    snprintf(quoted, sizeof quoted, "\"%s\"", get->sums.etag);
    return !sent.data || hpl_bytes_equal(sent, hpl_bytes_str(quoted)) ||
           (header_time(request, "if-range", &when) && when / 1000 == get->object.modified_ms / 1000);
}

/* One range of bytes (RFC 9110 §14.1.2). A header of another form or with several ranges is ignored, as S3 does. */
static enum hpl_status read_range(struct hpl_s3_request *request, bool *is_range)
{
    struct hpl_get *get = request->get;
    uint64_t size = get->object.size, first, last = 0;
    char header[80];
    const char *text = header + 6;
    *is_range = false;
    get->at = 0;
    get->end = size;
    if (hpl_s3_header(request, "range", header, sizeof header, is_range) != HPL_OK || !*is_range || strncmp(header, "bytes=", 6) != 0 || strchr(text, ',') ||
        !is_range_of_this(request)) {
        *is_range = false;
        request->call->detail[0] = '\0';
        return HPL_OK;
    }
    if (*text == '-') {
        text++;
        *is_range = read_number(&text, &last) && !*text;
        if (!*is_range)
            return HPL_OK;
        if (last == 0 || size == 0)
            return HPL_INVALID_RANGE;
        get->at = last < size ? size - last : 0;
        return HPL_OK;
    }
    bool has_first = read_number(&text, &first) && *text++ == '-', has_last = has_first && read_number(&text, &last);
    if (!has_first || *text || (has_last && last < first)) {
        *is_range = false;
        return HPL_OK;
    }
    if (first >= size)
        return HPL_INVALID_RANGE;
    get->at = first;
    get->end = has_last && last < size ? last + 1 : size;
    return HPL_OK;
}

/* ?partNumber=N: that part of an upload in parts, as its range; the whole of another object is its part 1. */
static enum hpl_status read_part_number(struct hpl_s3_request *request, bool *is_part)
{
    struct hpl_get *get = request->get;
    int64_t number;
    uint64_t start = 0;
    *is_part = false;
    HPL_TRY(hpl_s3_number(request, "partNumber", 1, HPL_MANIFEST_MAX_PARTS, 0, &number));
    if (number == 0)
        return HPL_OK;
    if (hpl_http_header(request->http, "range").data)
        return hpl_fail(request->call, HPL_INVALID_REQUEST, "give a range or a part number, not both");
    for (uint32_t i = 0; i < get->manifest.num_parts; start += get->manifest.parts[i++].len)
        if (get->manifest.parts[i].number == (uint32_t)number) {
            get->at = start;
            get->end = start + get->manifest.parts[i].len;
            *is_part = get->end > get->at; /* nothing is no range */
            return HPL_OK;
        }
    return HPL_INVALID_PART_NUMBER;
}

/* --- the answer ------------------------------------------------------------------------------------------------------------ */

static const struct { const char *parameter, *header; } overrides[] = {
    {"response-content-type", "content-type"}, {"response-content-language", "content-language"}, {"response-expires", "expires"},
    {"response-cache-control", "cache-control"}, {"response-content-disposition", "content-disposition"}, {"response-content-encoding", "content-encoding"}};

/* What the request wants the answer to say instead of what the object says; NULL: nothing. */
static const char *override_of(const struct hpl_s3_request *request, const char *header)
{
    for (size_t i = 0; i < HPL_COUNT(overrides); i++)
        if (strcmp(header, overrides[i].header) == 0)
            return hpl_s3_parameter(request, overrides[i].parameter);
    return NULL;
}

/* One of the object's headers, or the request's instead; false where there is none. */
static bool answer_header(struct hpl_s3_request *request, const char *name)
{
    const struct hpl_manifest *manifest = &request->get->manifest;
    const char *instead = override_of(request, name);
    if (instead)
        hpl_http_add_header_bytes(request->exchange, name, hpl_bytes_str(instead));
    for (uint32_t i = 0; !instead && i < manifest->num_metadata; i++)
        if (hpl_bytes_equal(manifest->metadata[i].name, hpl_bytes_str(name))) {
            hpl_http_add_header_bytes(request->exchange, name, manifest->metadata[i].value);
            return true;
        }
    return instead != NULL;
}

static void answer_metadata(struct hpl_s3_request *request)
{
    const struct hpl_manifest *manifest = &request->get->manifest;
    for (size_t i = 0; i < HPL_COUNT(overrides); i++)
        if (!answer_header(request, overrides[i].header) && strcmp(overrides[i].header, "content-type") == 0)
            hpl_http_add_header(request->exchange, "Content-Type", "binary/octet-stream");
    for (uint32_t i = 0; i < manifest->num_metadata; i++) {
        char name[HPL_S3_MAX_NAME + 1];
        snprintf(name, sizeof name, "%.*s", (int)manifest->metadata[i].name.len, (const char *)manifest->metadata[i].name.data);
        if (strncmp(name, "x-amz-meta-", 11) == 0)
            hpl_http_add_header_bytes(request->exchange, name, manifest->metadata[i].value);
    }
}

/* What tells this object from an earlier one. */
static void answer_validators(struct hpl_s3_request *request)
{
    char time[40];
    hpl_time_text(time, request->get->object.modified_ms, HPL_TIME_HTTP);
    hpl_http_add_header(request->exchange, "Last-Modified", "%s", time);
    hpl_http_add_header(request->exchange, "ETag", "\"%s\"", request->get->sums.etag);
}

static void answer_head(struct hpl_s3_request *request, bool is_partial)
{
    const struct hpl_get *get = request->get;
    char key_id[HPL_KEY_ID_MAX + 1] = "";
    struct hpl_bytes mode = hpl_http_header(request->http, "x-amz-checksum-mode");
    hpl_http_status(request->exchange, is_partial ? 206 : 200);
    answer_validators(request);
    hpl_http_add_header(request->exchange, "Accept-Ranges", "bytes");
    if (is_partial)
        hpl_http_add_header(request->exchange, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)get->at, (unsigned long long)get->end - 1, (unsigned long long)get->object.size);
    if (hpl_s3_parameter(request, "partNumber") && get->manifest.is_multipart)
        hpl_http_add_header(request->exchange, "x-amz-mp-parts-count", "%u", get->manifest.num_parts);
    if (!is_partial && mode.len == 7 && strncasecmp((const char *)mode.data, "ENABLED", 7) == 0)
        hpl_s3_sums_answer(request, &get->sums);
    hpl_pair_text(get->manifest.metadata, get->manifest.num_metadata, HPL_KEY_ID_NAME, key_id, sizeof key_id);
    hpl_sse_answer(request, get->manifest.mode, key_id, hpl_buf_bytes(&get->object.envelope));
    answer_metadata(request);
}

/* With what a cache needs to keep its copy (RFC 9110 §15.4.5). */
static enum hpl_status not_modified(struct hpl_s3_request *request)
{
    hpl_http_status(request->exchange, 304);
    answer_validators(request);
    answer_header(request, "cache-control");
    answer_header(request, "expires");
    hpl_http_send_empty(request->exchange);
    return HPL_OK;
}

static enum hpl_status answer(struct hpl_s3_request *request, bool head_only)
{
    bool is_range, is_part;
    HPL_TRY(open_object(request));
    enum hpl_status status = check_conditions(request);
    if (status == HPL_NOT_MODIFIED)
        return not_modified(request);
    HPL_TRY(status);
    status = read_range(request, &is_range);
    if (status == HPL_INVALID_RANGE)
        hpl_http_add_header(request->exchange, "Content-Range", "bytes */%llu", (unsigned long long)request->get->object.size);
    HPL_TRY(status);
    HPL_TRY(read_part_number(request, &is_part));
    struct hpl_get *get = request->get;
    uint64_t len = get->end - get->at;
    if (!head_only && len && get->data_key && !(get->sealed = malloc(HPL_S3_PIECE / HPL_PACKAGE_LEN * PACKAGE_ON_DISK)))
        return hpl_fail(request->call, HPL_NO_MEMORY, "out of memory");
    answer_head(request, is_range || is_part);
    if (len == 0 && !head_only)
        hpl_http_send_empty(request->exchange);
    else
        hpl_http_stream(request->exchange, len, head_only);
    return HPL_OK;
}

enum hpl_status hpl_s3_get_begin(struct hpl_s3_request *request)
{
    return answer(request, false);
}

enum hpl_status hpl_s3_head_begin(struct hpl_s3_request *request)
{
    return answer(request, true);
}

/* --- the bytes ------------------------------------------------------------------------------------------------------------- */

/* The part's file, which must be as long as its manifest says: what is missing or left over is refused before a byte leaves. */
static enum hpl_status open_file(struct hpl_s3_request *request, const uint8_t id[static HPL_FILE_ID_LEN], uint64_t len)
{
    struct stat st;
    HPL_TRY(hpl_store_open_file(request->call, request->s3->store, id, &request->get->fd));
    if (fstat(request->get->fd, &st) != 0)
        return hpl_fail(request->call, HPL_IO, "an object's file cannot be read: %s", strerror(errno));
    if ((uint64_t)st.st_size != len)
        return hpl_fail(request->call, HPL_INTEGRITY, "an object's file is not as long as its manifest says");
    return HPL_OK;
}

/* Goes to the part that holds at; its key is bound to the place and its commitment must be the manifest's. */
static enum hpl_status go_to_part(struct hpl_s3_request *request)
{
    struct hpl_get *get = request->get;
    uint64_t start = 0;
    uint32_t i = 0;
    while (i < get->manifest.num_parts && get->at >= start + get->manifest.parts[i].len)
        start += get->manifest.parts[i++].len;
    HPL_CHECK(i < get->manifest.num_parts);
    if (i == get->part)
        return HPL_OK;
    close_part(get);
    get->plain_at = get->plain_len = 0;
    get->part = i;
    get->part_start = start;
    HPL_TRY(open_file(request, get->files[i], get->data_key ? hpl_sealed_len(get->manifest.parts[i].len) : get->manifest.parts[i].len));
    if (!get->data_key)
        return HPL_OK;
    const struct hpl_manifest_part *part = &get->manifest.parts[i];
    const struct hpl_part_id id = {get->manifest.bucket, get->manifest.key, get->manifest.instance, part->number};
    HPL_TRY(hpl_part_key_new(request->call, &get->part_key, get->data_key, part->salt, &id));
    if (!hpl_equal_secret(hpl_part_key_commitment(get->part_key), part->commitment, sizeof part->commitment))
        return hpl_fail(request->call, HPL_INTEGRITY, "a part's key commitment does not verify");
    return HPL_OK;
}

static enum hpl_status read_exact(struct hpl_s3_request *request, int fd, uint8_t *to, size_t len, uint64_t offset)
{
    while (len) {
        ssize_t n = pread(fd, to, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return hpl_fail(request->call, HPL_IO, "an object's file cannot be read: %s", strerror(errno));
        if (n == 0)
            return hpl_fail(request->call, HPL_INTEGRITY, "an object's file is shorter than its manifest says");
        to += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return HPL_OK;
}

/* Packages first to last of the part, opened to out. */
static enum hpl_status open_packages(struct hpl_s3_request *request, uint64_t first, uint64_t last, uint8_t *out, size_t *out_len)
{
    const struct hpl_get *get = request->get;
    uint64_t part_len = get->manifest.parts[get->part].len;
    uint64_t plain_end = (last + 1) * HPL_PACKAGE_LEN < part_len ? (last + 1) * HPL_PACKAGE_LEN : part_len;
    size_t sealed_len = (size_t)(plain_end - first * HPL_PACKAGE_LEN + (last - first + 1) * HPL_PACKAGE_OVERHEAD);
    HPL_TRY(read_exact(request, get->fd, get->sealed, sealed_len, first * PACKAGE_ON_DISK));
    return hpl_packages_open_all(request->call, request->s3->options.work, get->part_key, part_len, (uint32_t)first, get->sealed, sealed_len, out, out_len);
}

/* From the one package that is kept: for a cap that holds no whole one. */
static enum hpl_status few_bytes(struct hpl_s3_request *request, uint64_t in_part, uint64_t wanted, uint8_t *to, size_t cap, size_t *len)
{
    struct hpl_get *get = request->get;
    if (!get->plain && !(get->plain = malloc(HPL_PACKAGE_LEN)))
        return hpl_fail(request->call, HPL_NO_MEMORY, "out of memory");
    if (get->plain_at == get->plain_len) {
        HPL_TRY(open_packages(request, in_part / HPL_PACKAGE_LEN, in_part / HPL_PACKAGE_LEN, get->plain, &get->plain_len));
        get->plain_at = in_part % HPL_PACKAGE_LEN;
    }
    *len = get->plain_len - get->plain_at;
    *len = *len < wanted ? *len : (size_t)wanted;
    *len = *len < cap ? *len : cap;
    memcpy(to, get->plain + get->plain_at, *len);
    get->plain_at += *len;
    return HPL_OK;
}

/* As many bytes as one piece gives, from at on, within the part. */
static enum hpl_status next_bytes(struct hpl_s3_request *request, uint8_t *to, size_t cap, size_t *len)
{
    struct hpl_get *get = request->get;
    HPL_TRY(go_to_part(request));
    uint64_t in_part = get->at - get->part_start, part_len = get->manifest.parts[get->part].len;
    uint64_t wanted = get->end - get->at < part_len - in_part ? get->end - get->at : part_len - in_part;
    if (!get->data_key) {
        *len = wanted < cap ? (size_t)wanted : cap;
        return read_exact(request, get->fd, to, *len, in_part);
    }
    uint64_t first = in_part / HPL_PACKAGE_LEN, last = (in_part + wanted - 1) / HPL_PACKAGE_LEN, most = cap / HPL_PACKAGE_LEN;
    size_t skip = (size_t)(in_part - first * HPL_PACKAGE_LEN), opened;
    if (most == 0 || get->plain_at < get->plain_len)
        return few_bytes(request, in_part, wanted, to, cap, len);
    if (most > HPL_S3_PIECE / HPL_PACKAGE_LEN)
        most = HPL_S3_PIECE / HPL_PACKAGE_LEN;
    if (last - first >= most)
        last = first + most - 1;
    HPL_TRY(open_packages(request, first, last, to, &opened));
    *len = opened - skip < wanted ? opened - skip : (size_t)wanted;
    if (skip)
        memmove(to, to + skip, *len);
    return HPL_OK;
}

enum hpl_status hpl_s3_get_produce(struct hpl_s3_request *request, uint8_t *to, size_t cap, size_t *len)
{
    HPL_TRY(next_bytes(request, to, cap, len));
    request->get->at += *len;
    return HPL_OK;
}
