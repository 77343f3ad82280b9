/* Text forms of bytes, ids and times. Pure functions. */
#include "base/codec.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

void hpl_hex_encode(char *out, const void *data, size_t len)
{
    const uint8_t *in = data;
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = "0123456789abcdef"[in[i] >> 4];
        out[2 * i + 1] = "0123456789abcdef"[in[i] & 15];
    }
    out[2 * len] = '\0';
}

bool hpl_hex_decode(void *out, size_t len, const char *text, size_t text_len)
{
    uint8_t *to = out;
    if (text_len != 2 * len)
        return false;
    for (size_t i = 0; i < len; i++) {
        int high = hex_value(text[2 * i]), low = hex_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        to[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static const char base64_alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void hpl_base64_put(struct hpl_buf *buf, const void *data, size_t len)
{
    const uint8_t *in = data;
    uint8_t *out = hpl_buf_extend(buf, (len + 2) / 3 * 4);
    if (!out)
        return;
    for (; len >= 3; len -= 3, in += 3, out += 4) {
        uint32_t group = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 8 | in[2];
        for (int i = 0; i < 4; i++)
            out[i] = (uint8_t)base64_alphabet[group >> (18 - 6 * i) & 63];
    }
    if (len) {
        uint32_t group = (uint32_t)in[0] << 16 | (len == 2 ? (uint32_t)in[1] << 8 : 0);
        out[0] = (uint8_t)base64_alphabet[group >> 18 & 63];
        out[1] = (uint8_t)base64_alphabet[group >> 12 & 63];
        out[2] = len == 2 ? (uint8_t)base64_alphabet[group >> 6 & 63] : '=';
        out[3] = '=';
    }
}

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The decoded length, or -1; writes nothing past it. */
static ssize_t base64_decode(uint8_t *out, const char *text, size_t text_len)
{
    uint8_t *start = out;
    if (text_len % 4)
        return -1;
    for (size_t i = 0; i < text_len; i += 4) {
        size_t pad = 0;
        if (i + 4 == text_len)
            pad = text[i + 3] == '=' ? (text[i + 2] == '=' ? 2 : 1) : 0;
        uint32_t group = 0;
        for (size_t j = 0; j < 4; j++) {
            int value = j >= 4 - pad ? 0 : base64_value(text[i + j]);
            if (value < 0)
                return -1;
            group = group << 6 | (uint32_t)value;
        }
        if ((pad == 1 && group & 0xff) || (pad == 2 && group & 0xffff))
            return -1;
        for (size_t j = 0; j < 3 - pad; j++)
            *out++ = (uint8_t)(group >> (16 - 8 * j));
    }
    return out - start;
}

bool hpl_base64_decode(struct hpl_buf *buf, const char *text, size_t text_len)
{
    size_t before = buf->len;
    uint8_t *out = hpl_buf_extend(buf, text_len / 4 * 3);
    ssize_t n = out ? base64_decode(out, text, text_len) : -1;
    buf->len = n < 0 ? before : before + (size_t)n;
    return n >= 0;
}

bool hpl_base64_decode_exact(void *out, size_t len, const char *text, size_t text_len)
{
    if (text_len != (len + 2) / 3 * 4)
        return false;
    struct hpl_buf buf = {0};
    bool ok = hpl_base64_decode(&buf, text, text_len) && buf.len == len;
    if (ok && len)
        memcpy(out, buf.data, len);
    hpl_buf_wipe(&buf);
    return ok;
}

void hpl_uri_put(struct hpl_buf *buf, struct hpl_bytes bytes, bool keep_slash)
{
    for (size_t i = 0; i < bytes.len; i++) {
        uint8_t c = bytes.data[i];
        bool plain = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                     c == '_' || c == '.' || c == '~' || (c == '/' && keep_slash);
        if (plain)
            hpl_buf_put_u8(buf, c);
        else {
            hpl_buf_put_u8(buf, '%');
            hpl_buf_put_u8(buf, (uint8_t)"0123456789ABCDEF"[c >> 4]);
            hpl_buf_put_u8(buf, (uint8_t)"0123456789ABCDEF"[c & 15]);
        }
    }
}

bool hpl_uri_decode(struct hpl_buf *buf, struct hpl_bytes bytes, bool plus_is_space)
{
    for (size_t i = 0; i < bytes.len; i++) {
        uint8_t c = bytes.data[i];
        if (c == '%') {
            uint8_t value;
            if (bytes.len - i < 3 || !hpl_hex_decode(&value, 1, (const char *)bytes.data + i + 1, 2))
                return false;
            hpl_buf_put_u8(buf, value);
            i += 2;
        } else
            hpl_buf_put_u8(buf, c == '+' && plus_is_space ? ' ' : c);
    }
    return !buf->is_failed;
}

bool hpl_utf8_is_valid(struct hpl_bytes bytes)
{
    for (size_t i = 0; i < bytes.len;) {
        uint8_t c = bytes.data[i++];
        if (c < 0x80)
            continue;
        size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : 1;
        if (c < 0xc2 || c > 0xf4 || bytes.len - i < more)
            return false;
        uint32_t point = c & (0x3fu >> more);
        for (size_t j = 0; j < more; j++, i++) {
            if ((bytes.data[i] & 0xc0) != 0x80)
                return false;
            point = point << 6 | (bytes.data[i] & 0x3fu);
        }
        if ((more == 2 && point < 0x800) || (more == 3 && point < 0x10000) || point > 0x10ffff ||
            (point >= 0xd800 && point <= 0xdfff))
            return false;
    }
    return true;
}

void hpl_uuid_new(uint8_t uuid[static 16])
{
    HPL_CHECK(RAND_bytes(uuid, 16) == 1);
    uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x40);
    uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80);
}

void hpl_uuid_text(char out[static 37], const uint8_t uuid[static 16])
{
    char hex[33];
    hpl_hex_encode(hex, uuid, 16);
    snprintf(out, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

void hpl_time_text(char out[static 40], int64_t unix_ms, enum hpl_time_form form)
{
    time_t seconds = (time_t)(unix_ms / 1000);
    unsigned ms = (unsigned)(unix_ms % 1000);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    unsigned year = (unsigned)(tm.tm_year + 1900) % 10000, month = (unsigned)tm.tm_mon % 12, day = (unsigned)tm.tm_mday % 100;
    unsigned hour = (unsigned)tm.tm_hour % 100, minute = (unsigned)tm.tm_min % 100, second = (unsigned)tm.tm_sec % 100;
    switch (form) {
    case HPL_TIME_ISO_US:
        snprintf(out, 40, "%04u-%02u-%02uT%02u:%02u:%02u.%03u000Z", year, month + 1, day, hour, minute, second, ms);
        break;
    case HPL_TIME_ISO_MS:
        snprintf(out, 40, "%04u-%02u-%02uT%02u:%02u:%02u.%03uZ", year, month + 1, day, hour, minute, second, ms);
        break;
    case HPL_TIME_ISO_S:
        snprintf(out, 40, "%04u-%02u-%02uT%02u:%02u:%02uZ", year, month + 1, day, hour, minute, second);
        break;
    case HPL_TIME_BASIC:
        snprintf(out, 40, "%04u%02u%02uT%02u%02u%02uZ", year, month + 1, day, hour, minute, second);
        break;
    case HPL_TIME_HTTP:
        snprintf(out, 40, "%s, %02u %s %04u %02u:%02u:%02u GMT", days[tm.tm_wday % 7], day, months[month], year, hour, minute, second);
        break;
    }
}

static bool digits(const char **text, int count, int *value)
{
    *value = 0;
    for (int i = 0; i < count; i++, (*text)++) {
        if (**text < '0' || **text > '9')
            return false;
        *value = *value * 10 + (**text - '0');
    }
    return true;
}

static bool literal(const char **text, const char *want)
{
    size_t n = strlen(want);
    if (strncmp(*text, want, n) != 0)
        return false;
    *text += n;
    return true;
}

static bool month_name(const char **text, int *month)
{
    for (int i = 0; i < 12; i++)
        if (literal(text, months[i])) {
            *month = i + 1;
            return true;
        }
    return false;
}

bool hpl_time_parse(int64_t *unix_ms, const char *text, enum hpl_time_form form)
{
    int year, month, day, hour, minute, second, ms = 0;
    const char *at = text;
    bool ok;
    if (form == HPL_TIME_HTTP) {
        ok = strlen(text) == 29 && (at += 5) && digits(&at, 2, &day) && literal(&at, " ") && month_name(&at, &month) &&
             literal(&at, " ") && digits(&at, 4, &year) && literal(&at, " ") && digits(&at, 2, &hour) &&
             literal(&at, ":") && digits(&at, 2, &minute) && literal(&at, ":") && digits(&at, 2, &second) &&
             literal(&at, " GMT");
    } else {
        const char *dash = form == HPL_TIME_BASIC ? "" : "-", *colon = form == HPL_TIME_BASIC ? "" : ":";
        ok = digits(&at, 4, &year) && literal(&at, dash) && digits(&at, 2, &month) && literal(&at, dash) &&
             digits(&at, 2, &day) && literal(&at, "T") && digits(&at, 2, &hour) && literal(&at, colon) &&
             digits(&at, 2, &minute) && literal(&at, colon) && digits(&at, 2, &second);
        if (ok && form != HPL_TIME_BASIC && *at == '.') {
            at++;
            ok = digits(&at, 3, &ms);
            while (*at >= '0' && *at <= '9')
                at++;
        }
        ok = ok && literal(&at, "Z");
    }
    if (!ok || *at || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60)
        return false;
    struct tm tm = {.tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_hour = hour, .tm_min = minute, .tm_sec = second};
    int64_t unix_s = (int64_t)timegm(&tm);
    if (tm.tm_mday != day && second < 60) /* timegm makes 1 March of 30 February; of a leap second it may */
        return false;
    *unix_ms = unix_s * 1000 + ms;
    return true;
}
