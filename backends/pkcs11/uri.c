/* Token URIs (RFC 7512): what one may say. Any thread. */
#include "backends/pkcs11/internal.h"

#include <stdlib.h>

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

enum hpl_status hpl_p11_uri_check(struct hpl_call *call, const char *text)
{
    P11KitUri *uri;
    HPL_TRY(hpl_p11_uri_parse(call, text, &uri));
    p11_kit_uri_free(uri);
    return HPL_OK;
}

bool hpl_p11_uri_matches(const char *text, const char *of_token)
{
    struct hpl_call quiet = {0};
    P11KitUri *asked = NULL, *token = NULL;
    bool does = hpl_p11_uri_parse(&quiet, text, &asked) == HPL_OK && hpl_p11_uri_parse(&quiet, of_token, &token) == HPL_OK &&
                p11_kit_uri_match_token_info(asked, p11_kit_uri_get_token_info(token)) &&
                p11_kit_uri_match_module_info(asked, p11_kit_uri_get_module_info(token));
    p11_kit_uri_free(asked);
    p11_kit_uri_free(token);
    return does;
}

bool hpl_p11_uri_has_serial(const char *text)
{
    struct hpl_call quiet = {0};
    P11KitUri *uri = NULL;
    bool has = hpl_p11_uri_parse(&quiet, text, &uri) == HPL_OK && p11_kit_uri_get_token_info(uri)->serialNumber[0];
    p11_kit_uri_free(uri);
    return has;
}

char *hpl_p11_uri_format(const char *text)
{
    struct hpl_call quiet = {0};
    P11KitUri *uri = NULL;
    char *out = NULL;
    if (hpl_p11_uri_parse(&quiet, text, &uri) == HPL_OK && p11_kit_uri_format(uri, URI_TYPE, &out) != P11_KIT_URI_OK)
        out = NULL;
    p11_kit_uri_free(uri);
    return out;
}
