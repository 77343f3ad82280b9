/* Which token: RFC 7512 URIs matched against what the module shows, one match or none at all. Any thread. */
#include "backends/pkcs11/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"
#include "base/hash.h"

#define URI_TYPE (P11_KIT_URI_FOR_TOKEN | P11_KIT_URI_FOR_MODULE)

static bool has_pin(P11KitUri *uri, const char *text)
{
    return p11_kit_uri_get_pin_value(uri) || p11_kit_uri_get_pin_source(uri) || strstr(text, "pin=") || strstr(text, "pinfile=");
}

static enum hpl_status judge_uri(struct hpl_call *call, P11KitUri *uri, const char *text)
{
    const CK_TOKEN_INFO *info = p11_kit_uri_get_token_info(uri);
    if (has_pin(uri, text))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "a token URI must not carry a PIN or its place: use pin_source in the local configuration file");
    if (p11_kit_uri_get_module_path(uri) || p11_kit_uri_get_module_name(uri))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "a token URI must not name a module: use module in the local configuration file");
    if (p11_kit_uri_any_unrecognized(uri))
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "a token URI may say token, serial, manufacturer, model and library-… and nothing else");
    if (!info->label[0] && !info->serialNumber[0])
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "a token URI must say token= or serial=");
    return HPL_OK;
}

enum hpl_status hpl_p11_uri_parse(struct hpl_call *call, const char *text, P11KitUri **out)
{
    P11KitUri *uri = p11_kit_uri_new();
    *out = NULL;
    if (!uri)
        return HPL_NO_MEMORY;
    int code = p11_kit_uri_parse(text, URI_TYPE, uri);
    enum hpl_status status = code == P11_KIT_URI_OK
                                 ? judge_uri(call, uri, text)
                                 : hpl_fail(call, HPL_INVALID_CONFIGURATION, "the token URI is not valid (RFC 7512): %s", p11_kit_uri_message(code));
    if (status == HPL_OK)
        *out = uri;
    else
        p11_kit_uri_free(uri);
    return status;
}

/* Each says at least what the other says. */
bool hpl_p11_uri_equal(P11KitUri *a, P11KitUri *b)
{
    return p11_kit_uri_match_token_info(a, p11_kit_uri_get_token_info(b)) && p11_kit_uri_match_token_info(b, p11_kit_uri_get_token_info(a)) &&
           p11_kit_uri_match_module_info(a, p11_kit_uri_get_module_info(b)) && p11_kit_uri_match_module_info(b, p11_kit_uri_get_module_info(a));
}

/* A blank-padded field of Cryptoki as a text; what is not UTF-8 or printable becomes '?'. */
static void trim(char *out, const unsigned char *field, size_t len)
{
    while (len && (field[len - 1] == ' ' || field[len - 1] == '\0'))
        len--;
    bool is_utf8 = hpl_utf8_is_valid(hpl_bytes(field, len));
    for (size_t i = 0; i < len; i++)
        out[i] = field[i] < 0x20 || field[i] == 0x7f || (field[i] > 0x7f && !is_utf8) ? '?' : (char)field[i];
    out[len] = '\0';
}

void hpl_p11_token_identity(const struct hpl_p11_token *token, struct hpl_buf *out)
{
    const char *parts[] = {token->manufacturer, token->serial, token->label};
    hpl_buf_put_str(out, "pkcs11");
    for (size_t i = 0; i < HPL_COUNT(parts); i++) {
        hpl_buf_put_str(out, i ? ";" : ":");
        hpl_uri_put(out, hpl_bytes_str(parts[i]), false);
    }
}

/* The serial for people, and a digest of the whole identity because serials repeat between makers (NSS's are all zero). */
static enum hpl_status name_token(struct hpl_p11_token *token)
{
    struct hpl_buf identity = {0};
    uint8_t digest[HPL_SHA256_LEN];
    char hex[17];
    hpl_p11_token_identity(token, &identity);
    HPL_TRY(hpl_buf_check(&identity));
    hpl_sha256(digest, identity.data, identity.len);
    hpl_buf_wipe(&identity);
    hpl_hex_encode(hex, digest, 8);
    size_t n = 0;
    for (const char *at = token->serial; *at; at++)
        token->id[n++] = (*at >= '0' && *at <= '9') || (*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z') ? *at : '_';
    token->id[n++] = '.';
    memcpy(token->id + n, hex, sizeof hex);
    return HPL_OK;
}

static enum hpl_status fill(struct hpl_p11_token *token, CK_FUNCTION_LIST *fn, CK_SLOT_ID slot, const CK_INFO *module, const CK_TOKEN_INFO *info)
{
    char maker[33];
    *token = (struct hpl_p11_token){.fn = fn, .slot = slot, .max_rw_sessions = info->ulMaxRwSessionCount};
    trim(token->label, info->label, sizeof info->label);
    trim(token->serial, info->serialNumber, sizeof info->serialNumber);
    trim(token->manufacturer, info->manufacturerID, sizeof info->manufacturerID);
    trim(maker, module->manufacturerID, sizeof module->manufacturerID);
    snprintf(token->library, sizeof token->library, "%s %u.%u", maker, module->libraryVersion.major, module->libraryVersion.minor);
    return name_token(token);
}

struct search {
    struct hpl_p11_module *module;
    P11KitUri *uri;
    unsigned num_matches;
    struct hpl_p11_token *token;
    struct hpl_buf there; /* what to show when it goes wrong */
};

static enum hpl_status look_at(struct search *search, CK_FUNCTION_LIST *fn, CK_SLOT_ID slot, CK_INFO *module)
{
    CK_TOKEN_INFO info;
    char label[33], serial[17];
    if (fn->C_GetTokenInfo(slot, &info) != CKR_OK || !(info.flags & CKF_TOKEN_INITIALIZED))
        return HPL_OK;
    trim(label, info.label, sizeof info.label);
    trim(serial, info.serialNumber, sizeof info.serialNumber);
    hpl_buf_printf(&search->there, "%stoken=%s;serial=%s", search->there.len ? ", " : "", label, serial);
    if (!p11_kit_uri_match_module_info(search->uri, module) || !p11_kit_uri_match_token_info(search->uri, &info))
        return HPL_OK;
    return search->num_matches++ ? HPL_OK : fill(search->token, fn, slot, module, &info);
}

static enum hpl_status look_through(struct search *search, CK_FUNCTION_LIST *fn)
{
    CK_INFO module;
    CK_ULONG num_slots = 0;
    if (fn->C_GetInfo(&module) != CKR_OK || fn->C_GetSlotList(CK_TRUE, NULL, &num_slots) != CKR_OK || num_slots == 0)
        return HPL_OK;
    CK_SLOT_ID *slots = calloc(num_slots, sizeof *slots);
    if (!slots)
        return HPL_NO_MEMORY;
    enum hpl_status status = HPL_OK;
    if (fn->C_GetSlotList(CK_TRUE, slots, &num_slots) == CKR_OK)
        for (CK_ULONG i = 0; status == HPL_OK && i < num_slots; i++)
            status = look_at(search, fn, slots[i], &module);
    free(slots);
    return status;
}

static enum hpl_status verdict(struct hpl_call *call, struct search *search, const char *uri)
{
    const char *there = hpl_buf_text(&search->there);
    if (search->num_matches == 0 && search->there.len)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "no token matches %s; there is: %s; correct the URI, or attach that token", uri, there);
    if (search->num_matches == 0)
        return hpl_fail(call, HPL_KEY_UNAVAILABLE, "no token matches %s, the module sees none at all: attach or initialise it, or correct the module's settings", uri);
    if (search->num_matches > 1)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "%u tokens match %s: add serial= to the URI; there is: %s", search->num_matches, uri, there);
    return HPL_OK;
}

enum hpl_status hpl_p11_token_find(struct hpl_call *call, struct hpl_p11_module *module, const char *uri, struct hpl_p11_token *out)
{
    struct search search = {.module = module, .token = out};
    HPL_TRY(hpl_p11_uri_parse(call, uri, &search.uri));
    enum hpl_status status = HPL_OK;
    for (CK_FUNCTION_LIST **fn = hpl_p11_module_lists(module); status == HPL_OK && *fn; fn++)
        status = look_through(&search, *fn);
    if (status == HPL_OK)
        status = verdict(call, &search, uri);
    p11_kit_uri_free(search.uri);
    hpl_buf_wipe(&search.there);
    return status;
}
