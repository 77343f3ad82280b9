/* Strict JSON. Any thread after hpl_json_init. */
#include "base/json.h"

#include <stdlib.h>
#include <inttypes.h>
#include <malloc.h>

#include "base/secret.h"

static void *wiping_malloc(size_t len)
{
    return malloc(len);
}

static void wiping_free(void *data)
{
    if (data)
        hpl_wipe(data, malloc_usable_size(data));
    free(data);
}

void hpl_json_init(void)
{
    json_set_alloc_funcs(wiping_malloc, wiping_free);
    json_object_seed(0);
}

enum hpl_status hpl_json_object(struct hpl_call *call, json_t **out, struct hpl_bytes text, size_t max, bool may_be_empty)
{
    *out = NULL;
    if (text.len > max)
        return hpl_fail(call, HPL_TOO_LARGE, "the JSON body is larger than %zu bytes", max);
    if (text.len == 0 && may_be_empty) {
        *out = json_object();
        return *out ? HPL_OK : HPL_NO_MEMORY;
    }
    json_error_t error;
    json_t *value = json_loadb((const char *)text.data, text.len, JSON_REJECT_DUPLICATES, &error);
    if (!value)
        return hpl_fail(call, HPL_INVALID_REQUEST, "invalid JSON at line %d, column %d", error.line, error.column);
    if (!json_is_object(value)) {
        json_decref(value);
        return hpl_fail(call, HPL_INVALID_REQUEST, "invalid JSON: an object is expected");
    }
    *out = value;
    return HPL_OK;
}

enum hpl_status hpl_json_str(struct hpl_call *call, const json_t *object, const char *name, const char **out)
{
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return HPL_OK;
    if (!json_is_string(value))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be a string", name);
    *out = json_string_value(value);
    return HPL_OK;
}

enum hpl_status hpl_json_int(struct hpl_call *call, const json_t *object, const char *name, int64_t least, int64_t most, int64_t *out)
{
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return HPL_OK;
    if (!json_is_integer(value))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be a whole number", name);
    int64_t number = json_integer_value(value);
    if (number < least || number > most)
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be from %" PRId64 " to %" PRId64, name, least, most);
    *out = number;
    return HPL_OK;
}

enum hpl_status hpl_json_bool(struct hpl_call *call, const json_t *object, const char *name, bool *out)
{
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return HPL_OK;
    if (!json_is_boolean(value))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be true or false", name);
    *out = json_is_true(value);
    return HPL_OK;
}

enum hpl_status hpl_json_member(struct hpl_call *call, const json_t *object, const char *name, const json_t **out)
{
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value))
        return HPL_OK;
    if (!json_is_object(value))
        return hpl_fail(call, HPL_INVALID_REQUEST, "'%s' must be an object", name);
    *out = value;
    return HPL_OK;
}

static int put_chunk(const char *chunk, size_t len, void *arg)
{
    hpl_buf_put(arg, chunk, len);
    return ((struct hpl_buf *)arg)->is_failed ? -1 : 0;
}

enum hpl_status hpl_json_put(struct hpl_buf *buf, const json_t *value)
{
    if (json_dump_callback(value, put_chunk, buf, JSON_COMPACT | JSON_SORT_KEYS) != 0)
        return HPL_NO_MEMORY;
    return HPL_OK;
}

void hpl_json_put_text(struct hpl_buf *buf, const char *text)
{
    hpl_buf_put_u8(buf, '"');
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        if (*at < 0x20) {
            hpl_buf_printf(buf, "\\u%04x", *at);
            continue;
        }
        if (*at == '"' || *at == '\\')
            hpl_buf_put_u8(buf, '\\');
        hpl_buf_put_u8(buf, *at);
    }
    hpl_buf_put_u8(buf, '"');
}
