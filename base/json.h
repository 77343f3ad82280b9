/* Strict JSON over jansson: duplicate names refused, depth bounded by jansson, invalid UTF-8 and NUL refused,
 * trailing bytes refused, wrong types refused by name. Its allocator wipes what it frees, so that a secret
 * does not outlive its parsing. */
#ifndef HPL_BASE_JSON_H
#define HPL_BASE_JSON_H

#include <jansson.h>
#include "base/bytes.h"

/* Installs the wiping allocator. Once, before the first use of jansson and before threads. */
void hpl_json_init(void);

/* A JSON object of at most max bytes. HPL_INVALID_REQUEST with line and column otherwise.
 * The caller owns *out (json_decref). An empty text is an empty object when may_be_empty. */
enum hpl_status hpl_json_object(struct hpl_call *call, json_t **out, struct hpl_bytes text, size_t max, bool may_be_empty) HPL_MUST_USE;

/* Members by name. A missing or null member leaves *out as it was; the wrong type is HPL_INVALID_REQUEST with
 * the member's name. Returned texts live as long as the object. */
enum hpl_status hpl_json_str(struct hpl_call *call, const json_t *object, const char *name, const char **out) HPL_MUST_USE;
enum hpl_status hpl_json_int(struct hpl_call *call, const json_t *object, const char *name, int64_t least, int64_t most, int64_t *out) HPL_MUST_USE;
enum hpl_status hpl_json_bool(struct hpl_call *call, const json_t *object, const char *name, bool *out) HPL_MUST_USE;
enum hpl_status hpl_json_member(struct hpl_call *call, const json_t *object, const char *name, const json_t **out) HPL_MUST_USE;

/* Appends the compact text of value; sorted names, so that equal values give equal texts. */
enum hpl_status hpl_json_put(struct hpl_buf *buf, const json_t *value) HPL_MUST_USE;

/* Appends UTF-8 text as a JSON string with its quotes. */
void hpl_json_put_text(struct hpl_buf *buf, const char *text);

static inline void hpl_json_decrefp(json_t **value)
{
    json_decref(*value);
    *value = NULL;
}
#define HPL_JSON_AUTO HPL_CLEANUP(hpl_json_decrefp)

#endif
