/* The authenticating half of the tiers whose encryption does not authenticate: encrypt, then HMAC-SHA256 under a second key of the
 * token. Any thread. */
#include "backends/pkcs11/mech.h"

#include "base/hash.h"

#define MESSAGE_MAX 1024u

/* What is authenticated. Everything of the envelope before the IV is in the AAD already. */
static size_t message_of(const struct hpl_p11_io *io, const char *domain, const struct hpl_wrapped *wrapped, size_t ct_len,
                         uint8_t message[static MESSAGE_MAX])
{
    uint8_t *at = message;
    size_t domain_len = strlen(domain);
    HPL_CHECK(domain_len + sizeof io->id + 1 + wrapped->iv_len + 2 + ct_len + sizeof io->aad <= MESSAGE_MAX);
    memcpy(at, domain, domain_len);
    at += domain_len;
    memcpy(at, io->id, sizeof io->id);
    at += sizeof io->id;
    *at++ = wrapped->iv_len;
    memcpy(at, wrapped->iv, wrapped->iv_len);
    at += wrapped->iv_len;
    *at++ = (uint8_t)(ct_len >> 8);
    *at++ = (uint8_t)ct_len;
    memcpy(at, wrapped->ct, ct_len);
    at += ct_len;
    memcpy(at, io->aad, sizeof io->aad);
    return (size_t)(at - message) + sizeof io->aad;
}

CK_RV hpl_p11_tier_mac(struct hpl_p11_io *io, const char *domain, const struct hpl_wrapped *wrapped, size_t ct_len,
                       uint8_t mac[static HPL_P11_MAC_LEN])
{
    uint8_t message[MESSAGE_MAX];
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    CK_ULONG len = HPL_P11_MAC_LEN;
    size_t message_len = message_of(io, domain, wrapped, ct_len, message);
    io->function = "C_SignInit";
    CK_RV rv = io->fn->C_SignInit(io->session, &mechanism, io->handles[HPL_P11_MAC]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Sign";
    rv = io->fn->C_Sign(io->session, message, message_len, mac, &len);
    return rv == CKR_OK && len != HPL_P11_MAC_LEN ? CKR_FUNCTION_FAILED : rv;
}

CK_RV hpl_p11_tier_authenticate(struct hpl_p11_io *io, const char *domain, struct hpl_wrapped *wrapped)
{
    CK_RV rv = hpl_p11_tier_mac(io, domain, wrapped, wrapped->ct_len, wrapped->ct + wrapped->ct_len);
    wrapped->ct_len = (uint16_t)(wrapped->ct_len + HPL_P11_MAC_LEN);
    return rv;
}

CK_RV hpl_p11_tier_verify(struct hpl_p11_io *io, const char *domain, const struct hpl_wrapped *wrapped)
{
    uint8_t mac[HPL_P11_MAC_LEN];
    size_t ct_len = wrapped->ct_len - HPL_P11_MAC_LEN;
    CK_RV rv = hpl_p11_tier_mac(io, domain, wrapped, ct_len, mac);
    if (rv != CKR_OK)
        return rv;
    io->is_proven = hpl_equal_secret(mac, wrapped->ct + ct_len, HPL_P11_MAC_LEN);
    io->function = "C_Decrypt";
    return io->is_proven ? CKR_OK : CKR_ENCRYPTED_DATA_INVALID;
}
