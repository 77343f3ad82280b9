/* A part of the stored format from the command line, for checks against other programs: stdin to stdout, whole in memory.
 *   seal_tool secrets PART              prints package key, stream nonce and commitment in hex, a line each
 *   seal_tool seal PART                 plaintext in, packages out
 *   seal_tool open PART LEN             packages of a part of LEN bytes in, plaintext out
 * where PART is KEY SALT BUCKET OBJECT INSTANCE NUMBER, with KEY, SALT and INSTANCE in hex. One thread; a tool for tests, keys in argv. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/codec.h"
#include "base/file.h"
#include "engine/seal/derive.h"

#define MAX_INPUT ((size_t)1 << 30)
#define PART_ARGS 6

struct part {
    struct hpl_secret *key;
    uint8_t salt[HPL_PART_SALT_LEN], instance[16];
    struct hpl_part_id id;
};

static bool read_part(struct part *part, char **args)
{
    part->key = hpl_secret_new(HPL_DATA_KEY_LEN);
    part->id = (struct hpl_part_id){hpl_bytes_str(args[2]), hpl_bytes_str(args[3]), part->instance, (uint32_t)strtoul(args[5], NULL, 10)};
    return part->key && hpl_hex_decode(part->key->bytes, HPL_DATA_KEY_LEN, args[0], strlen(args[0])) &&
           hpl_hex_decode(part->salt, sizeof part->salt, args[1], strlen(args[1])) &&
           hpl_hex_decode(part->instance, sizeof part->instance, args[4], strlen(args[4]));
}

static void print_hex(const uint8_t *bytes, size_t len)
{
    char hex[2 * 32 + 1];
    hpl_hex_encode(hex, bytes, len);
    puts(hex);
}

static enum hpl_status print_secrets(struct hpl_call *call, const struct part *part)
{
    struct hpl_part_secrets secrets;
    HPL_TRY(hpl_part_derive(call, &secrets, part->key, part->salt, &part->id));
    print_hex(secrets.package_key, sizeof secrets.package_key);
    print_hex(secrets.nonce, sizeof secrets.nonce);
    print_hex(secrets.commitment, sizeof secrets.commitment);
    hpl_wipe(&secrets, sizeof secrets);
    return HPL_OK;
}

static enum hpl_status convert(struct hpl_call *call, const struct hpl_part_key *key, const char *part_len, struct hpl_bytes in, struct hpl_buf *out)
{
    size_t len = 0;
    uint8_t *at = hpl_buf_extend(out, (size_t)hpl_sealed_len(in.len));
    if (!at)
        return HPL_NO_MEMORY;
    if (part_len)
        HPL_TRY(hpl_packages_open(call, key, strtoull(part_len, NULL, 10), 0, in.data, in.len, at, &len));
    else if (in.len)
        len = hpl_packages_seal(key, 0, true, in.data, in.len, at);
    out->len = len;
    return HPL_OK;
}

static enum hpl_status run(struct hpl_call *call, const struct part *part, const char *part_len)
{
    struct hpl_buf in = {0}, out = {0};
    struct hpl_part_key *key = NULL;
    enum hpl_status status = hpl_part_key_new(call, &key, part->key, part->salt, &part->id);
    if (status == HPL_OK)
        status = hpl_file_read(call, "/dev/stdin", MAX_INPUT, &in);
    if (status == HPL_OK)
        status = convert(call, key, part_len, hpl_buf_bytes(&in), &out);
    if (status == HPL_OK)
        status = hpl_file_write_all(call, STDOUT_FILENO, out.data, out.len, "standard output");
    hpl_part_key_free(key);
    hpl_buf_wipe(&in);
    hpl_buf_wipe(&out);
    return status;
}

int main(int argc, char **argv)
{
    struct part part = {0};
    struct hpl_call call = {0};
    bool is_open = argc == 3 + PART_ARGS && strcmp(argv[1], "open") == 0;
    bool is_secrets = argc == 2 + PART_ARGS && strcmp(argv[1], "secrets") == 0;
    bool is_seal = argc == 2 + PART_ARGS && strcmp(argv[1], "seal") == 0;
    if (!(is_open || is_secrets || is_seal) || !read_part(&part, argv + 2)) {
        fputs("usage: seal_tool secrets|seal|open KEY SALT BUCKET OBJECT INSTANCE NUMBER [LEN]\n", stderr);
        return 2;
    }
    enum hpl_status status = is_secrets ? print_secrets(&call, &part) : run(&call, &part, is_open ? argv[2 + PART_ARGS] : NULL);
    if (status != HPL_OK)
        fprintf(stderr, "seal_tool: %s\n", hpl_detail(&call, status));
    hpl_secret_free(part.key);
    return status == HPL_OK ? 0 : 1;
}
