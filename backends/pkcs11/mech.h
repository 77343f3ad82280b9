/* A mechanism tier: one way of wrapping a secret inside a token. Tables of functions; state is the operation's. Any thread, one
 * operation a session. Each tier is proven on throw-away keys before it is believed (mech.c). */
#ifndef HPL_BACKENDS_PKCS11_MECH_H
#define HPL_BACKENDS_PKCS11_MECH_H

#include "backends/pkcs11/cryptoki.h"
#include "backends/pkcs11/device.h"

/* The objects that a key version may consist of. */
enum hpl_p11_kind { HPL_P11_AES, HPL_P11_MAC, HPL_P11_PRIVATE, HPL_P11_PUBLIC, HPL_P11_NUM_KINDS };

/* One operation of a tier: set up by the caller, told about by the tier. */
struct hpl_p11_io {
    CK_FUNCTION_LIST *fn;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS]; /* those that the tier needs */
    uint8_t id[HPL_P11_ID_LEN];                  /* of the key version; bound where the tier makes the MAC itself */
    uint8_t aad[HPL_WRAP_AAD_LEN];
    const char *function; /* the last one called */
    bool is_as_said;      /* after seal: the token did with the IV what the variant says */
    bool is_proven;       /* after open: the MAC or the tag was right, so what failed after it was not the ciphertext */
};

struct hpl_p11_tier {
    uint8_t mechanism;            /* enum hpl_mechanism */
    CK_MECHANISM_TYPE allowed;    /* CKA_ALLOWED_MECHANISMS of its main key */
    unsigned kinds;               /* a bit for each of hpl_p11_kind */
    enum hpl_p11_iv_mode variants[4]; /* in the order of trial, HPL_P11_IV_NONE at the end */
    const char *canary;           /* the label of its canary */
    /* secret: HPL_P11_SECRET_MIN to _MAX bytes. CKR_OK with is_as_said fills all of out. */
    CK_RV (*seal)(struct hpl_p11_io *io, enum hpl_p11_iv_mode variant, struct hpl_bytes secret, struct hpl_wrapped *out);
    /* *len holds the room, and is not believed of a module that says more or less than can be. What our own MAC refuses is CKR_ENCRYPTED_DATA_INVALID of "C_Decrypt". */
    CK_RV (*open)(struct hpl_p11_io *io, const struct hpl_wrapped *wrapped, uint8_t *room, CK_ULONG *len);
};

extern const struct hpl_p11_tier hpl_p11_tier_gcm, hpl_p11_tier_cbc, hpl_p11_tier_oaep;
/* NULL for a mechanism that is none of this folder's. */
const struct hpl_p11_tier *hpl_p11_tier_of(uint8_t mechanism);
/* The kinds of all mechanisms in a mask of them. */
unsigned hpl_p11_kinds_of(uint32_t mechanisms);

/* HMAC-SHA256 by the version's MAC key over domain ‖ id ‖ u8+IV ‖ u16+ciphertext ‖ AAD. */
CK_RV hpl_p11_tier_mac(struct hpl_p11_io *io, const char *domain, const struct hpl_wrapped *wrapped, size_t ct_len,
                       uint8_t mac[static HPL_P11_MAC_LEN]);
/* Appends the MAC to wrapped->ct. */
CK_RV hpl_p11_tier_authenticate(struct hpl_p11_io *io, const char *domain, struct hpl_wrapped *wrapped);
/* The MAC at the end of wrapped->ct is the token's; compared here and in constant time, since the errors of C_Verify differ. */
CK_RV hpl_p11_tier_verify(struct hpl_p11_io *io, const char *domain, const struct hpl_wrapped *wrapped);

#endif
