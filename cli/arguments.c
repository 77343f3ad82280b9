/* What commands read: options, pairs, numbers, blobs, files. One thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/codec.h"
#include "base/file.h"
#include "cli/commands.h"

#define KEY_LEN 32u
#define MAX_BODY (1u << 20)

enum hpl_exit hpl_cli_usage_error(const struct hpl_client *client, const char *what)
{
    fprintf(stderr, "hardplate: %s; usage: hardplate %s%s%s\n", what, client->command->name, *client->command->arguments ? " " : "",
            client->command->arguments);
    return HPL_EXIT_USAGE;
}

enum hpl_exit hpl_cli_failed(const struct hpl_call *call, enum hpl_status status)
{
    fprintf(stderr, "hardplate: %s\n", hpl_detail(call, status));
    return HPL_EXIT_FAILED;
}

int hpl_cli_option(int argc, char **argv, const struct option *longs, bool *started)
{
    if (!*started)
        optind = 0;
    *started = true;
    opterr = 0;
    return getopt_long(argc, argv, "", longs, NULL);
}

bool hpl_cli_add_pair(json_t *body, const char *member, const char *pair)
{
    const char *equals = strchr(pair, '=');
    if (!equals || equals == pair)
        return false;
    json_t *object = json_object_get(body, member);
    if (!object) {
        object = json_object();
        json_object_set_new(body, member, object);
    }
    char *name = strndup(pair, (size_t)(equals - pair));
    bool is_set = name && !json_object_get(object, name) && json_object_set_new(object, name, json_string(equals + 1)) == 0;
    free(name);
    return is_set;
}

bool hpl_cli_add_number(json_t *body, const char *member, const char *text, long long least, long long most)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (errno || end == text || *end || number < least || number > most)
        return false;
    return json_object_set_new(body, member, json_integer(number)) == 0;
}

json_t *hpl_cli_read_blob(const char *given)
{
    char line[65536];
    if (strcmp(given, "-") != 0)
        return json_string(given);
    if (!fgets(line, sizeof line, stdin))
        return NULL;
    line[strcspn(line, "\r\n")] = '\0';
    return json_string(line);
}

static enum hpl_status read_stdin(struct hpl_call *call, struct hpl_buf *text)
{
    size_t got;
    text->max = MAX_BODY;
    do {
        uint8_t *at = hpl_buf_extend(text, 4096);
        if (!at)
            return hpl_fail(call, HPL_TOO_LARGE, "standard input is larger than 1 MiB");
        got = fread(at, 1, 4096, stdin);
        text->len -= 4096 - got;
    } while (got == 4096);
    return ferror(stdin) ? hpl_fail(call, HPL_IO, "cannot read standard input: %s", strerror(errno)) : HPL_OK;
}

enum hpl_exit hpl_cli_read_object(const char *path, json_t **object)
{
    struct hpl_call call = {0};
    struct hpl_buf text = {0};
    bool is_stdin = strcmp(path, "-") == 0;
    enum hpl_status status = is_stdin ? read_stdin(&call, &text) : hpl_file_read(&call, path, MAX_BODY, &text);
    if (status == HPL_OK && (status = hpl_json_object(&call, object, hpl_buf_bytes(&text), MAX_BODY, false)) != HPL_OK) {
        struct hpl_call inner = call;
        hpl_fail_over(&call, status, "%.80s: %.140s", is_stdin ? "standard input" : path, hpl_detail(&inner, status));
    }
    hpl_buf_wipe(&text);
    return status == HPL_OK ? HPL_EXIT_DONE : hpl_cli_failed(&call, status);
}

enum hpl_status hpl_cli_read_key_file(struct hpl_call *call, const char *path, struct hpl_secret **out)
{
    struct hpl_secret *HPL_SECRET_AUTO whole = NULL, *HPL_SECRET_AUTO key = hpl_secret_new(KEY_LEN);
    *out = NULL;
    HPL_TRY(hpl_file_read_secret(call, path, 2 * KEY_LEN + 1, false, &whole));
    size_t len = whole->len;
    if (!key)
        return hpl_fail(call, HPL_NO_MEMORY, "the secret memory is full");
    if (len == 2 * KEY_LEN + 1 && whole->bytes[len - 1] == '\n')
        len--;
    if (len == KEY_LEN)
        memcpy(key->bytes, whole->bytes, KEY_LEN);
    else if (len != 2 * KEY_LEN || !hpl_hex_decode(key->bytes, KEY_LEN, (const char *)whole->bytes, len))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%s must hold 32 bytes or 64 hex digits: head -c 32 /dev/urandom makes a key", path);
    *out = key;
    key = NULL;
    return HPL_OK;
}
