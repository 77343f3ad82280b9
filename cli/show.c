/* How answers are shown to people: a name and its value on a line. One thread. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

#define NAME_WIDTH 20

/* A terminal obeys C0, DEL and C1 (in UTF-8: c2 80 to c2 9f), and a newline makes a row of its own. */
void hpl_cli_put_plain(struct hpl_buf *out, const char *text)
{
    for (const uint8_t *at = (const uint8_t *)text; *at; at++)
        if (*at < 0x20 || *at == 0x7f)
            hpl_buf_printf(out, "\\u%04x", *at);
        else if (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0)
            hpl_buf_printf(out, "\\u%04x", *++at);
        else
            hpl_buf_put_u8(out, *at);
}

static json_t *plain_text(const char *text)
{
    struct hpl_buf plain = {0};
    hpl_cli_put_plain(&plain, text);
    json_t *copy = plain.is_failed ? NULL : json_stringn((const char *)plain.data, plain.len);
    hpl_buf_wipe(&plain);
    return copy;
}

/* A copy whose names and texts are all plain. */
static json_t *plain_copy(const json_t *value)
{
    const char *name;
    size_t i;
    json_t *member, *copy;
    if (json_is_string(value))
        return plain_text(json_string_value(value));
    if (json_is_array(value)) {
        copy = json_array();
        json_array_foreach((json_t *)value, i, member)
            json_array_append_new(copy, plain_copy(member));
        return copy;
    }
    if (!json_is_object(value))
        return json_incref((json_t *)value);
    copy = json_object();
    json_object_foreach((json_t *)value, name, member)
    {
        json_t *HPL_JSON_AUTO plain_name = plain_text(name);
        json_object_set_new(copy, json_string_value(plain_name), plain_copy(member));
    }
    return copy;
}

enum hpl_exit hpl_cli_print(const struct hpl_client *client, json_t *answer, hpl_show_fn *show)
{
    if (client->is_json) {
        struct hpl_buf text = {0};
        if (hpl_json_put(&text, answer) == HPL_OK)
            printf("%s\n", hpl_buf_text(&text));
        hpl_buf_wipe(&text);
    } else {
        json_t *HPL_JSON_AUTO plain = plain_copy(answer);
        show(plain);
    }
    json_decref(answer);
    return HPL_EXIT_DONE;
}

enum hpl_exit hpl_cli_ask_and_print(const struct hpl_client *client, const char *method, const char *path, const char *query, const json_t *body,
                                    hpl_show_fn *show)
{
    json_t *answer = NULL;
    enum hpl_exit code = hpl_client_ask(client, method, path, query, body, &answer);
    return code == HPL_EXIT_DONE ? hpl_cli_print(client, answer, show) : code;
}

const char *hpl_cli_text(const json_t *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text ? text : "-";
}

static void print_line(const char *name, const json_t *value, int indent)
{
    printf("%*s%-*s ", indent, "", NAME_WIDTH - indent, name);
    if (json_is_string(value))
        printf("%s\n", json_string_value(value));
    else if (json_is_integer(value))
        printf("%lld\n", (long long)json_integer_value(value));
    else if (json_is_real(value))
        printf("%g\n", json_real_value(value));
    else
        printf("%s\n", json_is_true(value) ? "yes" : "no");
}

/* A list of texts on one line; other lists a member at a time, numbered from one. */
static void show_array(const char *name, const json_t *array, int indent)
{
    bool is_plain = true;
    size_t i;
    json_t *value;
    json_array_foreach((json_t *)array, i, value)
        is_plain = is_plain && json_is_string(value);
    printf("%*s", indent, "");
    if (is_plain)
        printf("%-*s", NAME_WIDTH - indent, name);
    else
        printf("%s", name);
    json_array_foreach((json_t *)array, i, value)
        if (is_plain)
            printf(" %s", json_string_value(value));
    printf("%s\n", json_array_size(array) ? "" : " none");
    json_array_foreach((json_t *)array, i, value)
    {
        char number[24];
        snprintf(number, sizeof number, "%zu", i + 1);
        if (!is_plain)
            hpl_cli_show_member(number, value, indent + 2);
    }
}

void hpl_cli_show_member(const char *name, const json_t *value, int indent)
{
    const char *inner;
    json_t *member;
    if (!value || json_is_null(value))
        return;
    char plain[64]; /* the daemon's names with blanks, as a person says them */
    snprintf(plain, sizeof plain, "%s", name);
    for (char *at = plain; (at = strchr(at, '_'));)
        *at = ' ';
    if (json_is_array(value))
        show_array(plain, value, indent);
    else if (!json_is_object(value))
        print_line(plain, value, indent);
    else {
        printf("%*s%s\n", indent, "", plain);
        json_object_foreach((json_t *)value, inner, member)
            hpl_cli_show_member(inner, member, indent + 2);
    }
}

void hpl_cli_show_object(const json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value)
        hpl_cli_show_member(name, value, 0);
}
