/* Which token: a URI matched against what the module shows, one match or none at all. Any thread. */
#include "backends/pkcs11/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/codec.h"

/* A blank-padded field of Cryptoki as a text; what is not UTF-8 or printable becomes '?'. */
static void trim(char *out, const unsigned char *field, size_t len)
{
    while (len && (field[len - 1] == ' ' || field[len - 1] == '\0'))
        len--;
    bool is_utf8 = hpl_utf8_is_valid(hpl_bytes(field, len));
    for (size_t i = 0; i < len; i++) {
        bool is_control = field[i] < 0x20 || field[i] == 0x7f || (field[i] >= 0x80 && field[i] < 0xa0 && i && field[i - 1] == 0xc2); /* U+0080 to U+009F too */
        out[i] = is_control || (field[i] > 0x7f && !is_utf8) ? '?' : (char)field[i];
        if (is_control && field[i] >= 0x80)
            out[i - 1] = '?';
    }
    out[len] = '\0';
}

static void fill(struct hpl_p11_token *token, CK_FUNCTION_LIST *fn, CK_SLOT_ID slot, const CK_INFO *module, const CK_TOKEN_INFO *info)
{
    char maker[33];
    *token = (struct hpl_p11_token){.fn = fn, .slot = slot, .max_rw_sessions = info->ulMaxRwSessionCount};
    trim(token->facts.label, info->label, sizeof info->label);
    trim(token->facts.serial, info->serialNumber, sizeof info->serialNumber);
    trim(token->facts.manufacturer, info->manufacturerID, sizeof info->manufacturerID);
    trim(maker, module->manufacturerID, sizeof module->manufacturerID);
    snprintf(token->facts.library, sizeof token->facts.library, "%s %u.%u", maker, module->libraryVersion.major, module->libraryVersion.minor);
    hpl_p11_facts_name(&token->facts);
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
    if (search->num_matches++ == 0)
        fill(search->token, fn, slot, module, &info);
    return HPL_OK;
}

static enum hpl_status look_through(struct search *search, CK_FUNCTION_LIST *fn)
{
    CK_INFO module;
    CK_ULONG num_slots = 0, num_told;
    if (fn->C_GetInfo(&module) != CKR_OK || fn->C_GetSlotList(CK_TRUE, NULL, &num_slots) != CKR_OK || num_slots == 0)
        return HPL_OK;
    CK_SLOT_ID *slots = calloc(num_slots, sizeof *slots);
    if (!slots)
        return HPL_NO_MEMORY;
    enum hpl_status status = HPL_OK;
    num_told = num_slots;
    if (fn->C_GetSlotList(CK_TRUE, slots, &num_told) == CKR_OK)
        for (CK_ULONG i = 0; status == HPL_OK && i < num_told && i < num_slots; i++)
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
