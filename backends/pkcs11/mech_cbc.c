/* AES-256-CBC and HMAC-SHA256 in the token, for tokens without GCM (YubiHSM 2, smart cards): a fresh random IV of ours (SP 800-38A
 * appendix C), padding as PKCS#7, and the MAC over everything, verified before the token decrypts anything. Any thread.
 * Wrapped: IV 16; ciphertext 32 to 80, then the MAC, 32. */
#include "backends/pkcs11/mech.h"

#include <openssl/rand.h>

#include "base/hash.h"

#define BLOCK 16u
#define PADDED_MAX (HPL_P11_SECRET_MAX + BLOCK)
#define DOMAIN "hpl-cbc-v1"

static CK_RV encrypt(struct hpl_p11_io *io, uint8_t iv[static BLOCK], uint8_t *in, size_t len, uint8_t *out)
{
    CK_MECHANISM mechanism = {CKM_AES_CBC, iv, BLOCK};
    CK_ULONG out_len = PADDED_MAX;
    io->function = "C_EncryptInit";
    CK_RV rv = io->fn->C_EncryptInit(io->session, &mechanism, io->handles[HPL_P11_AES]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Encrypt";
    rv = io->fn->C_Encrypt(io->session, in, len, out, &out_len);
    return rv == CKR_OK && out_len != len ? CKR_FUNCTION_FAILED : rv;
}

static CK_RV seal(struct hpl_p11_io *io, enum hpl_p11_iv_mode variant, struct hpl_bytes secret, struct hpl_wrapped *out)
{
    uint8_t padded[PADDED_MAX], given[BLOCK];
    size_t pad = BLOCK - secret.len % BLOCK;
    (void)variant;
    if (RAND_bytes(given, sizeof given) != 1)
        return CKR_RANDOM_NO_RNG;
    memcpy(padded, secret.data, secret.len);
    memset(padded + secret.len, (int)pad, pad);
    memcpy(out->iv, given, sizeof given);
    CK_RV rv = encrypt(io, out->iv, padded, secret.len + pad, out->ct);
    hpl_wipe(padded, sizeof padded);
    if (rv != CKR_OK)
        return rv;
    io->is_as_said = memcmp(out->iv, given, sizeof given) == 0;
    out->mechanism = HPL_MECH_P11_CBC_HMAC;
    out->iv_len = BLOCK;
    out->ct_len = (uint16_t)(secret.len + pad);
    return hpl_p11_tier_authenticate(io, DOMAIN, out);
}

/* After the MAC: what is not padded as it should be was never sealed by us. */
static CK_RV unpad(const uint8_t *room, CK_ULONG *len)
{
    uint8_t pad = *len ? room[*len - 1] : 0;
    bool is_well = pad >= 1 && pad <= BLOCK && *len > pad;
    for (unsigned i = 1; is_well && i <= pad; i++)
        is_well = room[*len - i] == pad;
    if (is_well)
        *len -= pad;
    return is_well ? CKR_OK : CKR_FUNCTION_FAILED;
}

static CK_RV open(struct hpl_p11_io *io, const struct hpl_wrapped *wrapped, uint8_t *room, CK_ULONG *len)
{
    uint8_t iv[BLOCK];
    CK_MECHANISM mechanism = {CKM_AES_CBC, iv, BLOCK};
    io->function = "C_Decrypt";
    if (wrapped->iv_len != BLOCK || wrapped->ct_len < 2 * BLOCK + HPL_P11_MAC_LEN || wrapped->ct_len % BLOCK != 0)
        return CKR_ENCRYPTED_DATA_LEN_RANGE;
    CK_RV rv = hpl_p11_tier_verify(io, DOMAIN, wrapped);
    if (rv != CKR_OK)
        return rv;
    memcpy(iv, wrapped->iv, BLOCK);
    io->function = "C_DecryptInit";
    rv = io->fn->C_DecryptInit(io->session, &mechanism, io->handles[HPL_P11_AES]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Decrypt";
    rv = io->fn->C_Decrypt(io->session, (CK_BYTE_PTR)wrapped->ct, wrapped->ct_len - HPL_P11_MAC_LEN, room, len);
    if (rv != CKR_OK)
        return rv;
    return *len + HPL_P11_MAC_LEN == wrapped->ct_len ? unpad(room, len) : CKR_FUNCTION_FAILED;
}

const struct hpl_p11_tier hpl_p11_tier_cbc = {
    .mechanism = HPL_MECH_P11_CBC_HMAC,
    .allowed = CKM_AES_CBC,
    .kinds = 1u << HPL_P11_AES | 1u << HPL_P11_MAC,
    .variants = {HPL_P11_IV_CALLER},
    .canary = "hpl/canary-cbc",
    .seal = seal,
    .open = open,
};
