/* RFC 7512 token URIs as texts, for those who know no Cryptoki. Any thread. */
#ifndef HPL_BACKENDS_PKCS11_URI_H
#define HPL_BACKENDS_PKCS11_URI_H

#include "base/status.h"

/* A URI that names a token and nothing else; a PIN or a path in it is refused without being repeated. */
enum hpl_status hpl_p11_uri_check(struct hpl_call *call, const char *text) HPL_MUST_USE;
/* Each says what the other says; false too when one is no URI. */
bool hpl_p11_uri_equal(const char *a, const char *b);
/* It names one token by its serial number. */
bool hpl_p11_uri_has_serial(const char *text);
/* In p11-kit's canonical spelling, malloc'd; NULL when it is no URI. */
char *hpl_p11_uri_format(const char *text);

#endif
