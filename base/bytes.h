/* Views of bytes, a growing buffer, and a reader that cannot run past the end. Big-endian throughout. */
#ifndef HPL_BASE_BYTES_H
#define HPL_BASE_BYTES_H

#include <string.h>
#include "base/status.h"

/* A view; owns nothing. */
struct hpl_bytes {
    const uint8_t *data;
    size_t len;
};

static inline struct hpl_bytes hpl_bytes(const void *data, size_t len)
{
    return (struct hpl_bytes){data, len};
}

static inline struct hpl_bytes hpl_bytes_str(const char *text)
{
    return (struct hpl_bytes){(const uint8_t *)text, strlen(text)};
}

static inline bool hpl_bytes_equal(struct hpl_bytes a, struct hpl_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* A growing buffer. Zero is empty. A failed allocation or a size past max (0: none) makes it failed for
 * good and further puts do nothing, so a row of puts needs one check at the end. Wipe ends it. */
struct hpl_buf {
    uint8_t *data;
    size_t len, cap, max;
    bool is_failed;
};

void hpl_buf_put(struct hpl_buf *buf, const void *data, size_t len);
void hpl_buf_put_bytes(struct hpl_buf *buf, struct hpl_bytes bytes);
void hpl_buf_put_str(struct hpl_buf *buf, const char *text);
void hpl_buf_put_u8(struct hpl_buf *buf, uint8_t value);
void hpl_buf_put_u16(struct hpl_buf *buf, uint16_t value);
void hpl_buf_put_u32(struct hpl_buf *buf, uint32_t value);
void hpl_buf_put_u64(struct hpl_buf *buf, uint64_t value);
void hpl_buf_put_lp16(struct hpl_buf *buf, struct hpl_bytes bytes); /* u16 length, then the bytes */
void hpl_buf_put_lp32(struct hpl_buf *buf, struct hpl_bytes bytes); /* u32 length, then the bytes */
void hpl_buf_printf(struct hpl_buf *buf, const char *fmt, ...) HPL_PRINTF(2, 3);
/* len more bytes to be written by the caller; NULL when failed. */
uint8_t *hpl_buf_extend(struct hpl_buf *buf, size_t len);
/* The text with a NUL behind it (not counted in len); NULL when failed. */
char *hpl_buf_text(struct hpl_buf *buf);
/* HPL_NO_MEMORY when any put failed, or HPL_TOO_LARGE when max was passed. */
enum hpl_status hpl_buf_check(const struct hpl_buf *buf) HPL_MUST_USE;
/* Wipes the content, frees it and leaves the zero state. */
void hpl_buf_wipe(struct hpl_buf *buf);
static inline struct hpl_bytes hpl_buf_bytes(const struct hpl_buf *buf)
{
    return (struct hpl_bytes){buf->data, buf->len};
}

/* Reads a view from front to back. A read past the end returns zeroes and marks it failed for good. */
struct hpl_reader {
    struct hpl_bytes rest;
    bool is_failed;
};

uint8_t hpl_read_u8(struct hpl_reader *reader);
uint16_t hpl_read_u16(struct hpl_reader *reader);
uint32_t hpl_read_u32(struct hpl_reader *reader);
uint64_t hpl_read_u64(struct hpl_reader *reader);
struct hpl_bytes hpl_read_bytes(struct hpl_reader *reader, size_t len); /* a view into the input */
struct hpl_bytes hpl_read_lp16(struct hpl_reader *reader);
struct hpl_bytes hpl_read_lp32(struct hpl_reader *reader);
void hpl_read_copy(struct hpl_reader *reader, void *out, size_t len);
/* True when nothing failed and nothing is left. */
bool hpl_read_is_done(const struct hpl_reader *reader);

/* malloc'd copy with a NUL behind it; NULL when memory is out. free() it. */
char *hpl_strndup(struct hpl_bytes bytes);

/* Equal in time that depends on len only. */
bool hpl_equal_secret(const void *a, const void *b, size_t len);

#endif
