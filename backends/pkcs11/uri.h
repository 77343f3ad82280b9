/* RFC 7512 token URIs as texts, for those who know no Cryptoki. Any thread. */
#ifndef HPL_BACKENDS_PKCS11_URI_H
#define HPL_BACKENDS_PKCS11_URI_H

#include "base/status.h"

/* A URI that names a token and nothing else; a PIN or a path in it is refused without being repeated. */
enum hpl_status hpl_p11_uri_check(struct hpl_call *call, const char *text) HPL_MUST_USE;
/* Whatever text says, of_token says too (RFC 7512 section 2.5: what a URI leaves open fits anything); false too when one is no URI. */
bool hpl_p11_uri_matches(const char *text, const char *of_token);
/* It names one token by its serial number. */
bool hpl_p11_uri_has_serial(const char *text);
/* In p11-kit's canonical spelling, malloc'd; NULL when it is no URI. */
char *hpl_p11_uri_format(const char *text);

#endif
