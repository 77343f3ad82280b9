/* What the prober's files share. */
#ifndef HPL_BACKENDS_PKCS11_CONFORMANCE_PROBE_H
#define HPL_BACKENDS_PKCS11_CONFORMANCE_PROBE_H

#include "backends/pkcs11/conformance/conformance.h"
#include "backends/pkcs11/internal.h"

#define HPL_PROBE_SECRET_LEN 32u
#define HPL_PROBE_ROOM 256u /* for anything that AES makes of it */

struct hpl_probe {
    const struct hpl_p11_conformance *asked;
    struct hpl_call *call;
    struct hpl_p11_token token;
    CK_FUNCTION_LIST *fn;
    CK_SLOT_ID slot;
    CK_SESSION_HANDLE anchor;     /* logged in; the throw-away keys live in it */
    CK_OBJECT_HANDLE key;         /* AES-256, throw-away */
    bool has_key, is_token_key;   /* is_token_key: the token has no session objects */
    enum hpl_p11_iv_mode gcm_mode; /* how the backend would use AES-GCM; HPL_P11_IV_NONE: not */
    const struct hpl_p11_tier *tier; /* what it would use, and how; NULL: nothing */
    enum hpl_p11_iv_mode mode;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS]; /* of the tier's, while the load runs */
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

/* backend.c: what the backend makes of it */
json_t *hpl_probe_negotiate(struct hpl_probe *probe);
/* Throw-away objects of probe->tier, as its trials make them. */
bool hpl_probe_make_objects(struct hpl_probe *probe);
void hpl_probe_drop_objects(struct hpl_probe *probe);

/* subject.c: who it is and how it logs in */
json_t *hpl_probe_subject(struct hpl_probe *probe);
json_t *hpl_probe_mechanisms(struct hpl_probe *probe);
json_t *hpl_probe_login(struct hpl_probe *probe);

/* gcm.c */
json_t *hpl_probe_gcm(struct hpl_probe *probe);

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
