/* AES-256-GCM in the token (CKM_AES_GCM; SP 800-38D), the tier of choice. Any thread. Tokens differ in who makes the IV: most take
 * ours, some want zeroes and write theirs into pIv, some append theirs to the ciphertext. CKR_OK proves nothing: SoftHSM takes a zero
 * or missing IV and uses it as it is, which twice under one key would give the key away.
 * Wrapped: IV 12 to 16; ciphertext as long as the secret, then the tag, 16. */
#include "backends/pkcs11/mech.h"

#include <openssl/rand.h>

#define IV_LEN 12u
#define IV_MAX 16u
#define TAG_LEN 16u
#define ROOM (HPL_P11_SECRET_MAX + TAG_LEN + IV_MAX)

/* ulIvBits is missing from the text of v2.40 but not from its header; a struct without it would be misread by every module. */
_Static_assert(sizeof(CK_GCM_PARAMS) == 6 * sizeof(CK_ULONG), "CK_GCM_PARAMS has six words");

static CK_MECHANISM mechanism_of(struct hpl_p11_io *io, CK_GCM_PARAMS *params, uint8_t *iv, size_t iv_len)
{
    *params = (CK_GCM_PARAMS){.pIv = iv, .ulIvLen = iv_len, .ulIvBits = iv_len * 8, .pAAD = io->aad, .ulAADLen = sizeof io->aad,
                              .ulTagBits = TAG_LEN * 8};
    return (CK_MECHANISM){CKM_AES_GCM, params, sizeof *params};
}

/* One-shot, so that vendors' load balancing works. iv may be written by the token; *out_len holds the room. */
static CK_RV encrypt(struct hpl_p11_io *io, uint8_t *iv, size_t iv_len, struct hpl_bytes in, uint8_t *out, CK_ULONG *out_len)
{
    CK_GCM_PARAMS params;
    CK_MECHANISM mechanism = mechanism_of(io, &params, iv, iv_len);
    io->function = "C_EncryptInit";
    CK_RV rv = io->fn->C_EncryptInit(io->session, &mechanism, io->handles[HPL_P11_AES]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Encrypt";
    return io->fn->C_Encrypt(io->session, (CK_BYTE_PTR)in.data, in.len, out, out_len);
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++)
        any |= bytes[i];
    return any == 0;
}

static CK_RV seal(struct hpl_p11_io *io, enum hpl_p11_iv_mode mode, struct hpl_bytes in, struct hpl_wrapped *out)
{
    uint8_t given[IV_LEN] = {0}, room[ROOM];
    CK_ULONG len = sizeof room;
    if (mode == HPL_P11_IV_CALLER && RAND_bytes(given, sizeof given) != 1)
        return CKR_RANDOM_NO_RNG;
    memcpy(out->iv, given, sizeof given);
    CK_RV rv = mode == HPL_P11_IV_APPENDED ? encrypt(io, NULL, 0, in, room, &len) : encrypt(io, out->iv, sizeof given, in, room, &len);
    size_t sealed_len = in.len + TAG_LEN, iv_len = IV_LEN;
    if (rv != CKR_OK || len < sealed_len || len > sizeof room)
        return rv;
    if (mode == HPL_P11_IV_APPENDED) {
        iv_len = len - sealed_len;
        memcpy(out->iv, room + sealed_len, iv_len);
    } else if (len != sealed_len || (memcmp(out->iv, given, sizeof given) == 0) != (mode == HPL_P11_IV_CALLER))
        return rv;
    io->is_as_said = iv_len >= IV_LEN && iv_len <= IV_MAX && !is_zero(out->iv, iv_len);
    out->mechanism = HPL_MECH_P11_GCM;
    out->iv_len = (uint8_t)iv_len;
    out->ct_len = (uint16_t)sealed_len;
    memcpy(out->ct, room, sealed_len);
    return rv;
}

static CK_RV open(struct hpl_p11_io *io, const struct hpl_wrapped *wrapped, uint8_t *room, CK_ULONG *len)
{
    CK_GCM_PARAMS params;
    uint8_t iv[sizeof wrapped->iv];
    memcpy(iv, wrapped->iv, wrapped->iv_len);
    CK_MECHANISM mechanism = mechanism_of(io, &params, iv, wrapped->iv_len);
    io->function = "C_DecryptInit";
    CK_RV rv = io->fn->C_DecryptInit(io->session, &mechanism, io->handles[HPL_P11_AES]);
    if (rv != CKR_OK)
        return rv;
    io->function = "C_Decrypt";
    rv = io->fn->C_Decrypt(io->session, (CK_BYTE_PTR)wrapped->ct, wrapped->ct_len, room, len);
    io->is_proven = rv == CKR_OK;
    return rv == CKR_OK && *len + TAG_LEN != wrapped->ct_len ? CKR_FUNCTION_FAILED : rv;
}

const struct hpl_p11_tier hpl_p11_tier_gcm = {
    .mechanism = HPL_MECH_P11_GCM,
    .allowed = CKM_AES_GCM,
    .kinds = 1u << HPL_P11_AES,
    .variants = {HPL_P11_IV_RETURNED, HPL_P11_IV_APPENDED, HPL_P11_IV_CALLER},
    .canary = "hpl/canary",
    .seal = seal,
    .open = open,
};
