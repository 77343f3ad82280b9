/* The report as a page for people: verdict first, then what it rests on. Pure. */
#include "backends/pkcs11/conformance/conformance.h"

static const json_t *at(const json_t *object, const char *name)
{
    return json_object_get(object, name);
}

static const char *text_at(const json_t *object, const char *name)
{
    const char *text = json_string_value(at(object, name));
    return text ? text : "-";
}

static void put_list(struct hpl_buf *out, const char *head, const json_t *list)
{
    size_t i;
    json_t *row;
    if (json_array_size(list))
        hpl_buf_printf(out, "\n%s\n", head);
    json_array_foreach((json_t *)list, i, row)
        hpl_buf_printf(out, "  - %s\n", json_string_value(row));
}

/* "C_EncryptInit CKR_OK, C_Encrypt CKR_OK". */
static void put_calls(struct hpl_buf *out, const json_t *calls)
{
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)calls, i, row)
        hpl_buf_printf(out, "%s%s %s", i ? ", " : "", text_at(row, "function"), text_at(row, "code"));
    hpl_buf_put_str(out, "\n");
}

/* "IV mode caller"; RSA-OAEP's says its hash. */
static const char *how_text(char room[static 48], const char *mechanism, const char *how)
{
    snprintf(room, 48, "%s%s", strncmp(mechanism, "aes-", 4) == 0 ? "IV mode " : "", how);
    return room;
}

static void put_verdict(struct hpl_buf *out, const json_t *verdict, const json_t *negotiation)
{
    size_t i;
    json_t *row;
    char how[48];
    if (json_is_true(at(verdict, "usable")))
        hpl_buf_printf(out, "\nVerdict: hardplate would use this token, by %s, %s.\n", text_at(verdict, "would_use"),
                       how_text(how, text_at(verdict, "would_use"), text_at(verdict, "how")));
    else
        hpl_buf_put_str(out, "\nVerdict: hardplate would refuse this token.\n");
    put_list(out, "Refused because", at(verdict, "refused_because"));
    hpl_buf_put_str(out, "\nWays of wrapping, in the order of preference\n");
    json_array_foreach(at(negotiation, "tiers"), i, row)
        hpl_buf_printf(out, "  %-14s %-4s %s\n", text_at(row, "mechanism"), json_is_true(at(row, "usable")) ? "yes" : "no",
                       json_is_true(at(row, "usable")) ? how_text(how, text_at(row, "mechanism"), text_at(row, "how")) : text_at(row, "said"));
    put_list(out, "Good to know", at(verdict, "remarks"));
}

static void put_subject(struct hpl_buf *out, const json_t *report)
{
    const json_t *subject = at(report, "subject"), *library = at(subject, "library"), *token = at(subject, "token");
    size_t i;
    json_t *flag;
    hpl_buf_printf(out, "Token     %s, serial %s, %s %s, hardware %s, firmware %s\n", text_at(token, "label"), text_at(token, "serial"),
                   text_at(token, "manufacturer"), text_at(token, "model"), text_at(token, "hardware"), text_at(token, "firmware"));
    hpl_buf_printf(out, "Library   %s, %s, version %s, Cryptoki %s\n", text_at(library, "manufacturer"), text_at(library, "description"),
                   text_at(library, "version"), text_at(library, "cryptoki"));
    hpl_buf_put_str(out, "Flags    ");
    json_array_foreach(at(token, "flags"), i, flag)
        hpl_buf_printf(out, " %s", json_string_value(flag));
    hpl_buf_printf(out, "\nAsked     by hardplate %s at %s, %lld mechanisms listed\n", text_at(at(report, "made"), "hardplate"), text_at(at(report, "made"), "at"),
                   (long long)json_array_size(at(report, "mechanisms")));
}

static void put_gcm(struct hpl_buf *out, const json_t *gcm)
{
    size_t i;
    json_t *row;
    if (!gcm)
        return;
    hpl_buf_put_str(out, "\nAES-GCM: who makes the IV\n");
    json_array_foreach(at(gcm, "iv_trials"), i, row)
    {
        hpl_buf_printf(out, "  %s: %s\n      ", text_at(row, "trial"), text_at(row, "conclusion"));
        put_calls(out, at(row, "calls"));
    }
    if (at(gcm, "refusals"))
        hpl_buf_printf(out, "\nAES-GCM: what is said to a changed ciphertext\n  %-20s %-12s %-32s %s\n", "CHANGED", "BY", "CODE", "THE SESSION AFTERWARDS");
    json_array_foreach(at(gcm, "refusals"), i, row)
        hpl_buf_printf(out, "  %-20s %-12s %-32s %s\n", text_at(row, "changed"), text_at(row, "function"), text_at(row, "code"), text_at(row, "session_after"));
    json_array_foreach(at(gcm, "context_lengths"), i, row)
        hpl_buf_printf(out, "%s%lld bytes %s", i ? ", " : "  a context of ", (long long)json_integer_value(at(row, "bytes")), text_at(row, "code"));
    hpl_buf_put_str(out, "\n");
}

static void put_tier(struct hpl_buf *out, const char *name, const json_t *row)
{
    hpl_buf_printf(out, "  %-34s %-4s ", name, json_is_true(at(row, "works")) ? "yes" : "no");
    put_calls(out, at(row, "calls"));
}

static void put_tiers(struct hpl_buf *out, const json_t *report)
{
    const json_t *oaep = at(report, "rsa_oaep");
    size_t i;
    json_t *row;
    char name[64];
    hpl_buf_put_str(out, "\nOther mechanisms\n");
    if (at(report, "aes_cbc"))
        put_tier(out, "AES-CBC", at(report, "aes_cbc"));
    json_array_foreach(at(report, "hmac_sha256"), i, row)
    {
        snprintf(name, sizeof name, "HMAC-SHA256, %s", text_at(row, "key_type"));
        put_tier(out, name, row);
    }
    snprintf(name, sizeof name, "RSA-3072 key pair, %.0f ms", json_number_value(at(oaep, "generate_ms")));
    hpl_buf_printf(out, "  %-34s      ", name);
    put_calls(out, at(oaep, "calls"));
    json_array_foreach(at(oaep, "hashes"), i, row)
    {
        snprintf(name, sizeof name, "RSA-OAEP, %s", text_at(row, "hash"));
        put_tier(out, name, row);
    }
}

/* A code, or yes and no for what was read. */
static const char *value_text(const json_t *value)
{
    return json_is_string(value) ? json_string_value(value) : json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-";
}

static void put_members(struct hpl_buf *out, const char *head, const json_t *object)
{
    const char *name;
    json_t *value;
    if (object)
        hpl_buf_printf(out, "\n%s\n", head);
    json_object_foreach((json_t *)object, name, value)
    {
        const char *inner;
        json_t *member;
        if (!json_is_object(value))
            hpl_buf_printf(out, "  %-44s %s\n", name, value_text(value));
        json_object_foreach(value, inner, member)
            hpl_buf_printf(out, "  %s: %-*s %s\n", name, (int)(strlen(name) < 40 ? 42 - strlen(name) : 2), inner, value_text(member));
    }
}

static void put_find(struct hpl_buf *out, const char *name, const json_t *row)
{
    hpl_buf_printf(out, "  %-24s %-8s %lld%s found in %.3f ms\n", name, text_at(row, "code"), (long long)json_integer_value(at(row, "found")),
                   json_is_true(at(row, "or_more")) ? " or more" : "", json_number_value(at(row, at(row, "ms") ? "ms" : "median_ms")));
}

static void put_limits(struct hpl_buf *out, const json_t *report)
{
    const json_t *find = at(report, "find"), *own = at(report, "token_object"), *sessions = at(report, "sessions"), *random = at(report, "random");
    hpl_buf_put_str(out, "\nObjects, sessions, random numbers\n");
    if (find) {
        put_find(out, "all objects", at(find, "all_objects"));
        put_find(out, "one by its ID", at(find, "one_by_id"));
        put_find(out, "one that is not there", at(find, "one_that_is_not_there"));
    }
    if (own) {
        hpl_buf_printf(out, "  a key in the token       made in %.1f ms, destroyed in %.1f ms: ", json_number_value(at(own, "generate_ms")),
                       json_number_value(at(own, "destroy_ms")));
        put_calls(out, at(own, "calls"));
    } else
        hpl_buf_put_str(out, "  a key in the token       not tried: it was not allowed\n");
    hpl_buf_printf(out, "  sessions                 %lld of %lld opened, then %s; %.3f ms each\n", (long long)json_integer_value(at(sessions, "opened")),
                   (long long)json_integer_value(at(sessions, "tried")), text_at(sessions, "last_code"), json_number_value(at(sessions, "ms_each")));
    hpl_buf_printf(out, "  C_GenerateRandom         %.0f times 32 bytes a second, %s\n", json_number_value(at(random, "32_bytes_a_second")),
                   text_at(random, "code"));
}

static void put_load(struct hpl_buf *out, const json_t *load, const char *mechanism)
{
    size_t i, j;
    json_t *row, *failure;
    if (!load)
        return;
    hpl_buf_printf(out, "\nLoad: wraps and unwraps of 32 bytes by %s\n  %7s  %9s %8s %8s   %9s %8s %8s   %s\n", mechanism, "THREADS", "WRAPS/s", "p50 us", "p99 us",
                   "UNWRAPS/s", "p50 us", "p99 us", "FAILURES");
    json_array_foreach((json_t *)load, i, row)
    {
        const json_t *wraps = at(row, "wraps"), *unwraps = at(row, "unwraps");
        long long failures = 0;
        json_array_foreach(at(row, "failures"), j, failure)
            failures += json_integer_value(at(failure, "times"));
        hpl_buf_printf(out, "  %7lld  %9.0f %8lld %8lld   %9.0f %8lld %8lld   %lld\n", (long long)json_integer_value(at(row, "threads")),
                       json_number_value(at(wraps, "a_second")), (long long)json_integer_value(at(wraps, "p50_us")),
                       (long long)json_integer_value(at(wraps, "p99_us")), json_number_value(at(unwraps, "a_second")),
                       (long long)json_integer_value(at(unwraps, "p50_us")), (long long)json_integer_value(at(unwraps, "p99_us")), failures);
    }
}

void hpl_p11_conformance_page(struct hpl_buf *out, const json_t *signed_report)
{
    const json_t *report = at(signed_report, "report");
    put_subject(out, report);
    put_verdict(out, at(report, "verdict"), at(report, "negotiation"));
    put_gcm(out, at(report, "aes_gcm"));
    put_tiers(out, report);
    put_members(out, "Login: what sessions see", at(report, "login"));
    put_members(out, "Attributes of a key, read back", at(at(report, "attributes"), "read"));
    put_members(out, "Attributes, changed", at(at(report, "attributes"), "changed"));
    json_t *HPL_JSON_AUTO rest = json_copy((json_t *)at(report, "attributes"));
    json_object_del(rest, "read");
    json_object_del(rest, "changed");
    put_members(out, "Ways out of the token", rest);
    put_limits(out, report);
    put_load(out, at(report, "load"), text_at(at(report, "verdict"), "would_use"));
    hpl_buf_printf(out, "\nReport SHA-256 %s\n", text_at(signed_report, "sha256"));
}
