/* Which keystores there are, what depends on them, and where one envelope or object stands. One thread. */
#include <stdio.h>
#include <string.h>

#include "cli/commands.h"

/* A number, or "?" for what is not known. */
static const char *number_text(char room[static 24], const json_t *value)
{
    if (!json_is_integer(value))
        return "?";
    snprintf(room, 24, "%lld", (long long)json_integer_value(value));
    return room;
}

static void show_backends(const json_t *answer)
{
    char keys[24], objects[24];
    size_t i;
    json_t *row;
    printf("%-18s %-9s %-9s %-5s %8s %10s  %s\n", "INSTANCE", "BACKEND", "STATE", "OPEN", "KEYS", "OBJECTS", "PLACE");
    json_array_foreach(json_object_get(answer, "backends"), i, row)
        printf("%-18s %-9s %-9s %-5s %8s %10s  %s\n", hpl_cli_text(row, "instance"), hpl_cli_text(row, "backend"), hpl_cli_text(row, "state"),
               json_is_true(json_object_get(row, "open")) ? "yes" : "no", number_text(keys, json_object_get(row, "keys")),
               number_text(objects, json_object_get(row, "objects")), hpl_cli_text(row, "identity"));
    puts("\nOBJECTS counts objects and uploads that need the keystore. Data keys given out over the API are not counted.");
}

enum hpl_exit hpl_cli_backends(const struct hpl_client *client, int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return hpl_cli_usage_error(client, "no arguments are taken");
    return hpl_cli_ask_and_print(client, "GET", "kms/backends", "", NULL, show_backends);
}

static void show_detached(const json_t *answer)
{
    printf("%s is detached: what it sealed does not open until it is configured again; its keys stay where they are\n", hpl_cli_text(answer, "instance"));
}

enum hpl_exit hpl_cli_backends_detach(const struct hpl_client *client, int argc, char **argv)
{
    static const struct option longs[] = {{"confirm-external", no_argument, NULL, 'c'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option == 'c')
            json_object_set_new(body, "confirm_external", json_true());
        else
            return hpl_cli_usage_error(client, "an option is not understood");
    if (optind + 1 != argc)
        return hpl_cli_usage_error(client, "one instance is wanted; 'hardplate backends' lists them");
    json_object_set_new(body, "instance", json_string(argv[optind]));
    return hpl_cli_ask_and_print(client, "POST", "kms/backends/detach", "", body, show_detached);
}

/* --- one envelope -------------------------------------------------------------------------------------------------------------- */

static void show_keystore(const json_t *keystore)
{
    printf("%-20s %s, %s, %s (instance %s)\n", "keystore", hpl_cli_text(keystore, "backend"), hpl_cli_text(keystore, "state"),
           json_is_true(json_object_get(keystore, "open")) ? "open" : "not open", hpl_cli_text(keystore, "instance"));
}

static void show_envelope(const json_t *envelope)
{
    static const char *const plain[] = {"key_id", "key_state", "version", "current_version", "mechanism", "purpose", "bucket_key", "key_uid"};
    if (json_is_true(json_object_get(envelope, "opens")))
        printf("%-20s yes\n", "opens");
    else
        printf("%-20s no: %s: %s\n", "opens", hpl_cli_text(envelope, "code"), hpl_cli_text(envelope, "why"));
    if (json_is_object(json_object_get(envelope, "keystore")))
        show_keystore(json_object_get(envelope, "keystore"));
    for (size_t i = 0; i < HPL_COUNT(plain); i++)
        hpl_cli_show_member(plain[i], json_object_get(envelope, plain[i]), 0);
}

static void show_explanation(const json_t *answer)
{
    const json_t *envelope = json_object_get(answer, "envelope");
    if (!json_object_get(answer, "bucket")) {
        show_envelope(answer);
        return;
    }
    printf("%-20s s3://%s/%s\n", "object", hpl_cli_text(answer, "bucket"), hpl_cli_text(answer, "key"));
    hpl_cli_show_member("encryption", json_object_get(answer, "mode"), 0);
    hpl_cli_show_member("size", json_object_get(answer, "size"), 0);
    if (json_is_object(envelope))
        show_envelope(envelope);
    else
        printf("%-20s no key of the key service\n", "needs");
}

/* s3://BUCKET/KEY into the body; false when it is not of that form. */
static bool put_object(json_t *body, const char *uri)
{
    const char *bucket = uri + strlen("s3://"), *slash = strchr(bucket, '/');
    if (!slash || slash == bucket || !slash[1])
        return false;
    json_object_set_new(body, "bucket", json_stringn(bucket, (size_t)(slash - bucket)));
    return json_object_set_new(body, "key", json_string(slash + 1)) == 0;
}

enum hpl_exit hpl_cli_explain(const struct hpl_client *client, int argc, char **argv)
{
    static const char wanted[] = "one blob, - to read it from standard input, or s3://BUCKET/KEY is wanted";
    static const struct option longs[] = {{"context", required_argument, NULL, 'c'}, {0}};
    json_t *HPL_JSON_AUTO body = json_object();
    bool started = false;
    for (int option; (option = hpl_cli_option(argc, argv, longs, &started)) != -1;)
        if (option != 'c' || !hpl_cli_add_pair(body, "encryption_context", optarg))
            return hpl_cli_usage_error(client, "a context is written NAME=VALUE, each name once");
    if (optind + 1 != argc)
        return hpl_cli_usage_error(client, wanted);
    if (strncmp(argv[optind], "s3://", 5) == 0) {
        if (!put_object(body, argv[optind]))
            return hpl_cli_usage_error(client, wanted);
        return hpl_cli_ask_and_print(client, "POST", "kms/explain", "", body, show_explanation);
    }
    json_t *blob = hpl_cli_read_blob(argv[optind]);
    if (!blob)
        return hpl_cli_usage_error(client, wanted);
    json_object_set_new(body, "ciphertext_blob", blob);
    return hpl_cli_ask_and_print(client, "POST", "kms/explain", "", body, show_explanation);
}
