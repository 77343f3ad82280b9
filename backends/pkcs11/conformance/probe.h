/* What the prober's files share. */
#ifndef HPL_BACKENDS_PKCS11_CONFORMANCE_PROBE_H
#define HPL_BACKENDS_PKCS11_CONFORMANCE_PROBE_H

#include "backends/pkcs11/conformance/conformance.h"
#include "backends/pkcs11/internal.h"

#define HPL_PROBE_SECRET_LEN 32u
#define HPL_PROBE_ROOM 256u /* for anything sealed here, but RSA */

struct hpl_probe {
    const struct hpl_p11_conformance *asked;
    struct hpl_call *call;
    struct hpl_p11_token token;
    CK_FUNCTION_LIST *fn;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE anchor;     /* logged in; the throw-away keys live in it */
    CK_OBJECT_HANDLE key;         /* AES-256, throw-away */
    bool has_key, is_token_key;   /* is_token_key: the token has no session objects */
    enum hpl_p11_iv_mode iv_mode; /* what the backend's own negotiation chose; HPL_P11_IV_NONE: nothing */
    json_t *report;
};

/* names.c */
json_t *hpl_probe_code(CK_RV rv); /* "CKR_OK", or "CKR_0x…" */
json_t *hpl_probe_mechanism(CK_MECHANISM_TYPE type);
json_t *hpl_probe_mechanism_flags(CK_FLAGS flags); /* a list, without "CKF_" */
json_t *hpl_probe_token_flags(CK_FLAGS flags);

/* run.c */
/* {"function": …, "code": …} at the end of the list calls; gives rv back. */
CK_RV hpl_probe_note(json_t *calls, const char *function, CK_RV rv);
CK_RV hpl_probe_open(struct hpl_probe *probe, CK_SESSION_HANDLE *session);
void hpl_probe_close(struct hpl_probe *probe, CK_SESSION_HANDLE session);
double hpl_probe_ms(uint64_t since_ns);
/* Puts the names' answers of one step into the report. */
void hpl_probe_put(struct hpl_probe *probe, const char *step, json_t *answer);
/* A throw-away AES-256 key with extra attributes; a session object unless the token has none. */
CK_RV hpl_probe_new_key(struct hpl_probe *probe, const CK_ATTRIBUTE *extra, CK_ULONG num_extra, CK_OBJECT_HANDLE *key);
void hpl_probe_drop_key(struct hpl_probe *probe, CK_OBJECT_HANDLE key);

/* subject.c: who it is and how it logs in */
json_t *hpl_probe_subject(struct hpl_probe *probe);
json_t *hpl_probe_mechanisms(struct hpl_probe *probe);
json_t *hpl_probe_login(struct hpl_probe *probe);

/* gcm.c */
struct hpl_probe_sealed {
    uint8_t iv[16], ct[HPL_PROBE_ROOM];
    size_t iv_len;
    CK_ULONG ct_len; /* with the tag */
};
json_t *hpl_probe_gcm(struct hpl_probe *probe);
/* One wrap and one unwrap in a mode, in a given session. The function that failed goes to *function. */
CK_RV hpl_probe_gcm_seal(struct hpl_probe *probe, CK_SESSION_HANDLE session, enum hpl_p11_iv_mode mode, const uint8_t *secret,
                         struct hpl_probe_sealed *out, const char **function);
CK_RV hpl_probe_gcm_open(struct hpl_probe *probe, CK_SESSION_HANDLE session, const struct hpl_probe_sealed *sealed, uint8_t *out, CK_ULONG *out_len,
                         const char **function);

/* tiers.c: what serves where AES-GCM does not */
json_t *hpl_probe_cbc(struct hpl_probe *probe);
json_t *hpl_probe_hmac(struct hpl_probe *probe);
json_t *hpl_probe_oaep(struct hpl_probe *probe);

/* objects.c */
json_t *hpl_probe_attributes(struct hpl_probe *probe);
json_t *hpl_probe_find(struct hpl_probe *probe);
json_t *hpl_probe_token_object(struct hpl_probe *probe);

/* limits.c */
json_t *hpl_probe_sessions(struct hpl_probe *probe);
json_t *hpl_probe_random(struct hpl_probe *probe);

/* load.c */
json_t *hpl_probe_load(struct hpl_probe *probe);

/* verdict.c: from the report alone */
json_t *hpl_probe_verdict(const json_t *report);

#endif
