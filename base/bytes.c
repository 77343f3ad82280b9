/* Buffers and readers. No thread of its own; a buffer belongs to one thread at a time. */
#include "base/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <openssl/crypto.h>

#include "base/secret.h"

static bool grow(struct hpl_buf *buf, size_t more)
{
    if (buf->is_failed)
        return false;
    if (more > SIZE_MAX / 4 - buf->len || (buf->max && buf->len + more > buf->max)) {
        buf->is_failed = true;
        return false;
    }
    if (buf->len + more + 1 <= buf->cap)
        return true;
    size_t cap = buf->cap ? buf->cap : 128;
    while (cap < buf->len + more + 1)
        cap *= 2;
    /* Not realloc: the old copy may hold what must be wiped. */
    uint8_t *data = malloc(cap);
    if (!data) {
        buf->is_failed = true;
        return false;
    }
    if (buf->len)
        memcpy(data, buf->data, buf->len);
    if (buf->data) {
        hpl_wipe(buf->data, buf->len);
        free(buf->data);
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}

uint8_t *hpl_buf_extend(struct hpl_buf *buf, size_t len)
{
    if (!grow(buf, len))
        return NULL;
    uint8_t *at = buf->data + buf->len;
    buf->len += len;
    return at;
}

void hpl_buf_put(struct hpl_buf *buf, const void *data, size_t len)
{
    uint8_t *at = hpl_buf_extend(buf, len);
    if (at && len)
        memcpy(at, data, len);
}

void hpl_buf_put_bytes(struct hpl_buf *buf, struct hpl_bytes bytes)
{
    hpl_buf_put(buf, bytes.data, bytes.len);
}

void hpl_buf_put_str(struct hpl_buf *buf, const char *text)
{
    hpl_buf_put(buf, text, strlen(text));
}

static void put_be(struct hpl_buf *buf, uint64_t value, size_t len)
{
    uint8_t *at = hpl_buf_extend(buf, len);
    for (size_t i = 0; at && i < len; i++)
        at[i] = (uint8_t)(value >> (8 * (len - 1 - i)));
}

void hpl_buf_put_u8(struct hpl_buf *buf, uint8_t value)
{
    if (buf->len + 1 < buf->cap && !buf->is_failed && !buf->max) /* texts are made of many */
        buf->data[buf->len++] = value;
    else
        put_be(buf, value, 1);
}

void hpl_buf_put_u16(struct hpl_buf *buf, uint16_t value) { put_be(buf, value, 2); }
void hpl_buf_put_u32(struct hpl_buf *buf, uint32_t value) { put_be(buf, value, 4); }
void hpl_buf_put_u64(struct hpl_buf *buf, uint64_t value) { put_be(buf, value, 8); }

void hpl_buf_put_lp16(struct hpl_buf *buf, struct hpl_bytes bytes)
{
    if (bytes.len > UINT16_MAX) {
        buf->is_failed = true;
        return;
    }
    hpl_buf_put_u16(buf, (uint16_t)bytes.len);
    hpl_buf_put_bytes(buf, bytes);
}

void hpl_buf_put_lp32(struct hpl_buf *buf, struct hpl_bytes bytes)
{
    if (bytes.len > UINT32_MAX) {
        buf->is_failed = true;
        return;
    }
    hpl_buf_put_u32(buf, (uint32_t)bytes.len);
    hpl_buf_put_bytes(buf, bytes);
}

void hpl_buf_printf(struct hpl_buf *buf, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0)
        buf->is_failed = true;
    else if (grow(buf, (size_t)n)) {
        vsnprintf((char *)buf->data + buf->len, (size_t)n + 1, fmt, again);
        buf->len += (size_t)n;
    }
    va_end(again);
}

char *hpl_buf_text(struct hpl_buf *buf)
{
    if (!grow(buf, 0))
        return NULL;
    buf->data[buf->len] = '\0';
    return (char *)buf->data;
}

enum hpl_status hpl_buf_check(const struct hpl_buf *buf)
{
    if (!buf->is_failed)
        return HPL_OK;
    return buf->max ? HPL_TOO_LARGE : HPL_NO_MEMORY;
}

void hpl_buf_wipe(struct hpl_buf *buf)
{
    if (!buf)
        return;
    if (buf->data)
        hpl_wipe(buf->data, buf->cap);
    free(buf->data);
    *buf = (struct hpl_buf){0};
}

struct hpl_bytes hpl_read_bytes(struct hpl_reader *reader, size_t len)
{
    if (reader->is_failed || len > reader->rest.len) {
        reader->is_failed = true;
        return (struct hpl_bytes){0};
    }
    struct hpl_bytes taken = {reader->rest.data, len};
    if (len) {
        reader->rest.data += len;
        reader->rest.len -= len;
    }
    return taken;
}

static uint64_t read_be(struct hpl_reader *reader, size_t len)
{
    struct hpl_bytes taken = hpl_read_bytes(reader, len);
    uint64_t value = 0;
    for (size_t i = 0; i < taken.len; i++)
        value = value << 8 | taken.data[i];
    return value;
}

uint8_t hpl_read_u8(struct hpl_reader *reader) { return (uint8_t)read_be(reader, 1); }
uint16_t hpl_read_u16(struct hpl_reader *reader) { return (uint16_t)read_be(reader, 2); }
uint32_t hpl_read_u32(struct hpl_reader *reader) { return (uint32_t)read_be(reader, 4); }
uint64_t hpl_read_u64(struct hpl_reader *reader) { return read_be(reader, 8); }
struct hpl_bytes hpl_read_lp16(struct hpl_reader *reader) { return hpl_read_bytes(reader, hpl_read_u16(reader)); }
struct hpl_bytes hpl_read_lp32(struct hpl_reader *reader) { return hpl_read_bytes(reader, hpl_read_u32(reader)); }

void hpl_read_copy(struct hpl_reader *reader, void *out, size_t len)
{
    struct hpl_bytes taken = hpl_read_bytes(reader, len);
    memset(out, 0, len);
    if (taken.len)
        memcpy(out, taken.data, taken.len);
}

bool hpl_read_is_done(const struct hpl_reader *reader)
{
    return !reader->is_failed && reader->rest.len == 0;
}

char *hpl_strndup(struct hpl_bytes bytes)
{
    char *text = malloc(bytes.len + 1);
    if (!text)
        return NULL;
    if (bytes.len)
        memcpy(text, bytes.data, bytes.len);
    text[bytes.len] = '\0';
    return text;
}

bool hpl_equal_secret(const void *a, const void *b, size_t len)
{
    return CRYPTO_memcmp(a, b, len) == 0;
}
