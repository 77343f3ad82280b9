/* What serves where AES-GCM does not: AES-CBC with an HMAC beside it, RSA-OAEP. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include <openssl/rand.h>

#include "base/clock.h"

#define BLOCKS_LEN 48u

static uint8_t known[BLOCKS_LEN] = "three blocks that a conformance probe encrypts.";
static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

/* --- AES-CBC ------------------------------------------------------------------------------------------------------------------- */

static CK_RV cbc(struct hpl_probe *probe, json_t *calls, bool is_encrypt, uint8_t iv[static 16], const uint8_t *in, CK_ULONG in_len, uint8_t *out,
                 CK_ULONG *out_len)
{
    CK_MECHANISM mechanism = {CKM_AES_CBC, iv, 16};
    CK_SESSION_HANDLE session;
    CK_FUNCTION_LIST *fn = probe->fn;
    CK_RV rv = hpl_probe_open(probe, &session);
    if (rv != CKR_OK)
        return hpl_probe_note(calls, "C_OpenSession", rv);
    rv = hpl_probe_note(calls, is_encrypt ? "C_EncryptInit" : "C_DecryptInit",
                        is_encrypt ? fn->C_EncryptInit(session, &mechanism, probe->key) : fn->C_DecryptInit(session, &mechanism, probe->key));
    if (rv == CKR_OK)
        rv = hpl_probe_note(calls, is_encrypt ? "C_Encrypt" : "C_Decrypt",
                            is_encrypt ? fn->C_Encrypt(session, (CK_BYTE_PTR)in, in_len, out, out_len)
                                       : fn->C_Decrypt(session, (CK_BYTE_PTR)in, in_len, out, out_len));
    hpl_probe_close(probe, session);
    return rv;
}

json_t *hpl_probe_cbc(struct hpl_probe *probe)
{
    json_t *calls = json_array(), *uneven = json_array();
    uint8_t iv[16], ct[BLOCKS_LEN + 16] = {0}, back[BLOCKS_LEN + 16] = {0};
    CK_ULONG ct_len = sizeof ct, back_len = sizeof back, unused_len = sizeof back;
    bool holds = RAND_bytes(iv, sizeof iv) == 1 && cbc(probe, calls, true, iv, known, sizeof known, ct, &ct_len) == CKR_OK &&
                 ct_len == sizeof known && memcmp(ct, known, sizeof known) != 0 && cbc(probe, calls, false, iv, ct, ct_len, back, &back_len) == CKR_OK &&
                 back_len == sizeof known && memcmp(back, known, sizeof known) == 0;
    if (holds)
        (void)cbc(probe, uneven, false, iv, ct, ct_len - 1, back, &unused_len);
    return json_pack("{s:b, s:o, s:o}", "works", holds, "calls", calls, "cut_to_an_uneven_length", uneven);
}

/* --- HMAC-SHA256 ----------------------------------------------------------------------------------------------------------------- */

struct hmac_type {
    const char *name;
    CK_KEY_TYPE type;
    CK_MECHANISM_TYPE generate;
};

static CK_RV hmac_key(struct hpl_probe *probe, const struct hmac_type *type, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE key_type = type->type;
    CK_ULONG len = 32;
    CK_BBOOL lies_in_token = probe->is_token_key;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class},        {CKA_KEY_TYPE, &key_type, sizeof key_type},
                               {CKA_VALUE_LEN, &len, sizeof len},        {CKA_TOKEN, &lies_in_token, sizeof lies_in_token},
                               {CKA_SENSITIVE, &yes, sizeof yes},        {CKA_EXTRACTABLE, &no, sizeof no},
                               {CKA_SIGN, &yes, sizeof yes},             {CKA_VERIFY, &yes, sizeof yes},
                               {CKA_LABEL, (void *)"hpl/probe", 9}};
    CK_MECHANISM mechanism = {type->generate, NULL, 0};
    return probe->fn->C_GenerateKey(probe->anchor, &mechanism, template, HPL_COUNT(template), key);
}

static CK_RV sign(struct hpl_probe *probe, json_t *calls, CK_OBJECT_HANDLE key, const uint8_t *in, CK_ULONG in_len, uint8_t mac[static 64], CK_ULONG *len)
{
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    CK_SESSION_HANDLE session;
    CK_RV rv = hpl_probe_open(probe, &session);
    *len = 64;
    if (rv != CKR_OK)
        return hpl_probe_note(calls, "C_OpenSession", rv);
    rv = hpl_probe_note(calls, "C_SignInit", probe->fn->C_SignInit(session, &mechanism, key));
    if (rv == CKR_OK)
        rv = hpl_probe_note(calls, "C_Sign", probe->fn->C_Sign(session, (CK_BYTE_PTR)in, in_len, mac, len));
    hpl_probe_close(probe, session);
    return rv;
}

/* The same for the same, something else for something else. */
static json_t *try_hmac(struct hpl_probe *probe, const struct hmac_type *type)
{
    json_t *calls = json_array();
    CK_OBJECT_HANDLE key;
    uint8_t mac[3][64] = {{0}};
    CK_ULONG len[3] = {0};
    bool holds = false;
    if (hpl_probe_note(calls, "C_GenerateKey", hmac_key(probe, type, &key)) == CKR_OK) {
        holds = sign(probe, calls, key, known, sizeof known, mac[0], &len[0]) == CKR_OK &&
                sign(probe, calls, key, known, sizeof known, mac[1], &len[1]) == CKR_OK &&
                sign(probe, calls, key, known, sizeof known - 1, mac[2], &len[2]) == CKR_OK;
        holds = holds && len[0] == 32 && len[1] == 32 && memcmp(mac[0], mac[1], 32) == 0 && memcmp(mac[0], mac[2], 32) != 0;
        hpl_probe_drop_key(probe, key);
    }
    return json_pack("{s:s, s:b, s:o}", "key_type", type->name, "works", holds, "calls", calls);
}

json_t *hpl_probe_hmac(struct hpl_probe *probe)
{
    static const struct hmac_type types[] = {{"CKK_GENERIC_SECRET", CKK_GENERIC_SECRET, CKM_GENERIC_SECRET_KEY_GEN},
                                             {"CKK_SHA256_HMAC", CKK_SHA256_HMAC, CKM_GENERIC_SECRET_KEY_GEN},
                                             {"CKK_AES", CKK_AES, CKM_AES_KEY_GEN}};
    json_t *rows = json_array();
    for (size_t i = 0; i < HPL_COUNT(types); i++)
        json_array_append_new(rows, try_hmac(probe, &types[i]));
    return rows;
}

/* --- RSA-OAEP ---------------------------------------------------------------------------------------------------------------------- */

struct rsa {
    CK_OBJECT_HANDLE public, private;
};

static CK_RV rsa_pair(struct hpl_probe *probe, struct rsa *pair)
{
    CK_ULONG bits = 3072;
    uint8_t exponent[] = {1, 0, 1};
    CK_BBOOL lies_in_token = probe->is_token_key;
    CK_ATTRIBUTE public[] = {{CKA_TOKEN, &no, sizeof no}, {CKA_ENCRYPT, &yes, sizeof yes}, {CKA_MODULUS_BITS, &bits, sizeof bits},
                             {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent}, {CKA_LABEL, (void *)"hpl/probe", 9}};
    CK_ATTRIBUTE private[] = {{CKA_TOKEN, &no, sizeof no}, {CKA_PRIVATE, &yes, sizeof yes}, {CKA_SENSITIVE, &yes, sizeof yes},
                              {CKA_EXTRACTABLE, &no, sizeof no}, {CKA_DECRYPT, &yes, sizeof yes}, {CKA_LABEL, (void *)"hpl/probe", 9}};
    public[0] = private[0] = (CK_ATTRIBUTE){CKA_TOKEN, &lies_in_token, sizeof lies_in_token};
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0};
    return probe->fn->C_GenerateKeyPair(probe->anchor, &mechanism, public, HPL_COUNT(public), private, HPL_COUNT(private), &pair->public, &pair->private);
}

static CK_RV oaep(struct hpl_probe *probe, json_t *calls, CK_RSA_PKCS_OAEP_PARAMS *params, bool is_encrypt, CK_OBJECT_HANDLE key, const uint8_t *in,
                  CK_ULONG in_len, uint8_t *out, CK_ULONG *out_len)
{
    CK_MECHANISM mechanism = {CKM_RSA_PKCS_OAEP, params, sizeof *params};
    CK_FUNCTION_LIST *fn = probe->fn;
    CK_SESSION_HANDLE session;
    CK_RV rv = hpl_probe_open(probe, &session);
    if (rv != CKR_OK)
        return hpl_probe_note(calls, "C_OpenSession", rv);
    rv = hpl_probe_note(calls, is_encrypt ? "C_EncryptInit" : "C_DecryptInit",
                        is_encrypt ? fn->C_EncryptInit(session, &mechanism, key) : fn->C_DecryptInit(session, &mechanism, key));
    if (rv == CKR_OK)
        rv = hpl_probe_note(calls, is_encrypt ? "C_Encrypt" : "C_Decrypt",
                            is_encrypt ? fn->C_Encrypt(session, (CK_BYTE_PTR)in, in_len, out, out_len)
                                       : fn->C_Decrypt(session, (CK_BYTE_PTR)in, in_len, out, out_len));
    hpl_probe_close(probe, session);
    return rv;
}

/* 64 bytes, as the backend would: a data key and the digest of its context. */
static json_t *try_oaep(struct hpl_probe *probe, const struct rsa *pair, const char *name, CK_MECHANISM_TYPE hash, CK_ULONG mgf)
{
    json_t *calls = json_array();
    CK_RSA_PKCS_OAEP_PARAMS params = {.hashAlg = hash, .mgf = mgf, .source = CKZ_DATA_SPECIFIED};
    uint8_t in[64] = "a data key and the digest of its context, sixty-four bytes long", ct[1024], back[1024];
    CK_ULONG ct_len = sizeof ct, back_len = sizeof back;
    bool holds = oaep(probe, calls, &params, true, pair->public, in, sizeof in, ct, &ct_len) == CKR_OK &&
                 oaep(probe, calls, &params, false, pair->private, ct, ct_len, back, &back_len) == CKR_OK && back_len == sizeof in &&
                 memcmp(back, in, sizeof in) == 0;
    json_t *row = json_pack("{s:s, s:b, s:o}", "hash", name, "works", holds, "calls", calls);
    if (holds) {
        json_t *refusal = json_array();
        ct[ct_len - 1] ^= 1;
        back_len = sizeof back;
        (void)oaep(probe, refusal, &params, false, pair->private, ct, ct_len, back, &back_len);
        json_object_set_new(row, "changed_ciphertext", refusal);
    }
    return row;
}

json_t *hpl_probe_oaep(struct hpl_probe *probe)
{
    json_t *calls = json_array(), *rows = json_array();
    struct rsa pair;
    uint64_t since_ns = hpl_clock_mono_ns();
    CK_RV rv = hpl_probe_note(calls, "C_GenerateKeyPair", rsa_pair(probe, &pair));
    json_t *answer = json_pack("{s:i, s:o, s:f, s:o}", "bits", 3072, "calls", calls, "generate_ms", hpl_probe_ms(since_ns), "hashes", rows);
    if (rv != CKR_OK)
        return answer;
    json_array_append_new(rows, try_oaep(probe, &pair, "SHA-256", CKM_SHA256, CKG_MGF1_SHA256));
    json_array_append_new(rows, try_oaep(probe, &pair, "SHA-1", CKM_SHA_1, CKG_MGF1_SHA1));
    hpl_probe_drop_key(probe, pair.public);
    hpl_probe_drop_key(probe, pair.private);
    return answer;
}
