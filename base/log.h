/* Logs: one JSON line an event, on standard error. Any thread; a line is one write. Never a secret, a PIN,
 * a data key or a customer key: the caller passes names, ids, sizes and reasons only. */
#ifndef HPL_BASE_LOG_H
#define HPL_BASE_LOG_H

#include <stdbool.h>
#include "base/check.h"

enum hpl_log_level { HPL_LOG_DEBUG, HPL_LOG_INFO, HPL_LOG_WARN, HPL_LOG_ERROR, HPL_LOG_SILENT /* to be set only: for programs that tell people themselves */ };

struct hpl_log_field {
    const char *name;
    const char *text;  /* NULL: the number is meant */
    int64_t number;
};

void hpl_log_set_level(enum hpl_log_level level);
bool hpl_log_is_on(enum hpl_log_level level);
/* Fields end with the count; text may be any bytes, it is escaped. */
void hpl_log_fields(enum hpl_log_level level, const char *event, const struct hpl_log_field *fields, size_t num_fields);

static inline const char *hpl_log_text(const char *text)
{
    return text ? text : "";
}
#define HPL_S(field_name, field_text) {.name = (field_name), .text = hpl_log_text(field_text)}
#define HPL_N(field_name, field_number) {.name = (field_name), .number = (int64_t)(field_number)}
/* hpl_log(HPL_LOG_INFO, "kms.started", HPL_S("backend", "pkcs11"), HPL_N("keys", 3)); */
#define hpl_log(level, event, ...)                                                                 \
    do {                                                                                           \
        const struct hpl_log_field hpl_fields_[] = {{.name = NULL}, ##__VA_ARGS__};                \
        hpl_log_fields((level), (event), hpl_fields_ + 1, HPL_COUNT(hpl_fields_) - 1);             \
    } while (0)

#endif
