/* Log lines. Any thread; one write(2) a line, so lines never mix. */
#include "base/log.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/codec.h"

static _Atomic int least = HPL_LOG_INFO;
static const char *const level_names[] = {"debug", "info", "warn", "error"};

void hpl_log_set_level(enum hpl_log_level level)
{
    atomic_store(&least, (int)level);
}

bool hpl_log_is_on(enum hpl_log_level level)
{
    return (int)level >= atomic_load_explicit(&least, memory_order_relaxed);
}

static void put_escaped(struct hpl_buf *line, const char *text)
{
    hpl_buf_put_u8(line, '"');
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at == '"' || *at == '\\')
            hpl_buf_put_u8(line, '\\');
        if (*at < 0x20 || *at >= 0x7f)
            hpl_buf_printf(line, "\\u%04x", *at);
        else
            hpl_buf_put_u8(line, *at);
    }
    hpl_buf_put_u8(line, '"');
}

void hpl_log_fields(enum hpl_log_level level, const char *event, const struct hpl_log_field *fields, size_t num_fields)
{
    if (!hpl_log_is_on(level))
        return;
    char time[40];
    struct hpl_buf line = {0};
    hpl_time_text(time, hpl_clock_unix_ms(), HPL_TIME_ISO_MS);
    hpl_buf_printf(&line, "{\"time\":\"%s\",\"level\":\"%s\",\"event\":", time, level_names[level]);
    put_escaped(&line, event);
    for (size_t i = 0; i < num_fields; i++) {
        hpl_buf_put_u8(&line, ',');
        put_escaped(&line, fields[i].name);
        hpl_buf_put_u8(&line, ':');
        if (fields[i].text)
            put_escaped(&line, fields[i].text);
        else
            hpl_buf_printf(&line, "%" PRId64, fields[i].number);
    }
    hpl_buf_put_str(&line, "}\n");
    if (!line.is_failed && write(STDERR_FILENO, line.data, line.len) < 0) {
        /* Nowhere left to say it. */
    }
    hpl_buf_wipe(&line);
}
