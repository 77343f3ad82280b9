/* RSA-OAEP and HMAC-SHA256 in the token, for tokens that do no symmetric encryption: the secret and a digest of what it is bound to
 * under the version's public key (RFC 8017 section 7.1), then the MAC over everything, verified before the token decrypts. Anybody
 * can encrypt to a public key, so without the MAC anybody could forge. Any thread.
 * Wrapped: salt 16, its first byte the hash (1 SHA-256, 2 SHA-1); ciphertext 384, then the MAC, 32. */
#include "backends/pkcs11/mech.h"

#include <openssl/rand.h>

#include "base/hash.h"

#define SALT_LEN 16u
#define MODULUS_LEN (HPL_P11_RSA_BITS / 8u)
#define DOMAIN "hpl-oaep-v1"

enum { SHA256 = 1, SHA1 = 2 };

/* CKR_OK, or CKR_ENCRYPTED_DATA_INVALID for a hash that is none. SHA-1 is safe inside OAEP, and all that some tokens have. */
static CK_RV params_of(uint8_t hash, CK_RSA_PKCS_OAEP_PARAMS *params)
{
    if (hash != SHA256 && hash != SHA1)
        return CKR_ENCRYPTED_DATA_INVALID;
    *params = (CK_RSA_PKCS_OAEP_PARAMS){.hashAlg = hash == SHA256 ? CKM_SHA256 : CKM_SHA_1,
                                        .mgf = hash == SHA256 ? CKG_MGF1_SHA256 : CKG_MGF1_SHA1,
                                        .source = CKZ_DATA_SPECIFIED};
    return CKR_OK;
}

/* SHA-256(salt ‖ AAD): binds the plaintext itself, not only the MAC beside it. */
static void binding_of(const struct hpl_p11_io *io, const uint8_t salt[static SALT_LEN], uint8_t out[static HPL_SHA256_LEN])
{
    uint8_t text[SALT_LEN + HPL_WRAP_AAD_LEN];
    memcpy(text, salt, SALT_LEN);
    memcpy(text + SALT_LEN, io->aad, HPL_WRAP_AAD_LEN);
    hpl_sha256(out, text, sizeof text);
}

static CK_RV encrypt(struct hpl_p11_io *io, struct hpl_bytes in, struct hpl_wrapped *out)
{
    CK_RSA_PKCS_OAEP_PARAMS params;
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_OAEP, &params, sizeof params};
    CK_ULONG len = MODULUS_LEN;
    CK_RV rv = params_of(out->iv[0], &params);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_EncryptInit";
    rv = io->fn->C_EncryptInit(io->session, &mechanism, io->handles[HPL_P11_PUBLIC]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Encrypt";
    rv = io->fn->C_Encrypt(io->session, (CK_BYTE_PTR)in.data, in.len, out->ct, &len);
    return rv == CKR_OK && len != MODULUS_LEN ? CKR_FUNCTION_FAILED : rv;
}

static CK_RV seal(struct hpl_p11_io *io, enum hpl_p11_iv_mode variant, struct hpl_bytes secret, struct hpl_wrapped *out)
{
    uint8_t plain[HPL_P11_SECRET_MAX + HPL_SHA256_LEN];
    if (RAND_bytes(out->iv, SALT_LEN) != 1)
        return CKR_RANDOM_NO_RNG;
    out->iv[0] = variant == HPL_P11_OAEP_SHA1 ? SHA1 : SHA256;
    memcpy(plain, secret.data, secret.len);
    binding_of(io, out->iv, plain + secret.len);
    CK_RV rv = encrypt(io, hpl_bytes(plain, secret.len + HPL_SHA256_LEN), out);
    hpl_wipe(plain, sizeof plain);
    if (rv != CKR_OK)
        return rv;
    io->is_as_said = true;
    out->mechanism = HPL_MECH_P11_OAEP_HMAC;
    out->iv_len = SALT_LEN;
    out->ct_len = MODULUS_LEN;
    return hpl_p11_tier_authenticate(io, DOMAIN, out);
}

static CK_RV decrypt(struct hpl_p11_io *io, const struct hpl_wrapped *wrapped, uint8_t *room, CK_ULONG *len)
{
    CK_RSA_PKCS_OAEP_PARAMS params;
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_OAEP, &params, sizeof params};
    CK_RV rv = params_of(wrapped->iv[0], &params);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_DecryptInit";
    rv = io->fn->C_DecryptInit(io->session, &mechanism, io->handles[HPL_P11_PRIVATE]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Decrypt";
    return io->fn->C_Decrypt(io->session, (CK_BYTE_PTR)wrapped->ct, MODULUS_LEN, room, len);
}

static CK_RV open(struct hpl_p11_io *io, const struct hpl_wrapped *wrapped, uint8_t *room, CK_ULONG *len)
{
    uint8_t binding[HPL_SHA256_LEN];
    io->function = "C_Decrypt";
    if (wrapped->iv_len != SALT_LEN || wrapped->ct_len != MODULUS_LEN + HPL_P11_MAC_LEN)
        return CKR_ENCRYPTED_DATA_LEN_RANGE;
    CK_RV rv = hpl_p11_tier_verify(io, DOMAIN, wrapped);
    if (rv == CKR_OK)
        rv = decrypt(io, wrapped, room, len);
    if (rv != CKR_OK)
        return rv;
    binding_of(io, wrapped->iv, binding);
    if (*len <= sizeof binding || *len > HPL_P11_SECRET_MAX + sizeof binding || !hpl_equal_secret(room + *len - sizeof binding, binding, sizeof binding))
        return CKR_FUNCTION_FAILED;
    *len -= sizeof binding;
    return CKR_OK;
}

const struct hpl_p11_tier hpl_p11_tier_oaep = {
    .mechanism = HPL_MECH_P11_OAEP_HMAC,
    .allowed = CKM_RSA_PKCS_OAEP,
    .kinds = 1u << HPL_P11_PRIVATE | 1u << HPL_P11_PUBLIC | 1u << HPL_P11_MAC,
    .variants = {HPL_P11_OAEP_SHA256, HPL_P11_OAEP_SHA1},
    .canary = "hpl/canary-oaep",
    .seal = seal,
    .open = open,
};
