/* What both sides of the seam need, without Cryptoki: names of tokens, of key objects, of IV modes; a wait that ends. Any thread. */
#include "backends/pkcs11/device.h"

#include <stdio.h>

#include "base/codec.h"
#include "base/hash.h"
#include "base/lock.h"

#define GCM_IV_LEN 12u
#define BLOCK 16u
#define TAG_LEN 16u

/* What each mechanism's ciphertexts look like. */
static const struct shape {
    const char *name;
    uint8_t iv_min, iv_max;
    uint16_t ct_min, ct_max, ct_step;
} shapes[] = {
    [HPL_MECH_P11_GCM] = {"aes-gcm", GCM_IV_LEN, BLOCK, HPL_P11_SECRET_MIN + TAG_LEN, HPL_P11_SECRET_MAX + TAG_LEN, 1},
    [HPL_MECH_P11_CBC_HMAC] = {"aes-cbc-hmac", BLOCK, BLOCK, 2 * BLOCK + HPL_P11_MAC_LEN, HPL_P11_SECRET_MAX + BLOCK + HPL_P11_MAC_LEN, BLOCK},
    [HPL_MECH_P11_OAEP_HMAC] = {"rsa-oaep", BLOCK, BLOCK, HPL_P11_RSA_BITS / 8 + HPL_P11_MAC_LEN, HPL_P11_RSA_BITS / 8 + HPL_P11_MAC_LEN, 1},
};

const char *hpl_p11_mechanism_name(uint8_t mechanism)
{
    const char *name = mechanism < HPL_COUNT(shapes) ? shapes[mechanism].name : NULL;
    return name ? name : "unknown";
}

uint8_t hpl_p11_mechanism_of(const char *name)
{
    for (uint8_t i = 0; i < HPL_COUNT(shapes); i++)
        if (shapes[i].name && strcmp(shapes[i].name, name) == 0)
            return i;
    return 0;
}

const uint8_t hpl_p11_check_aad[HPL_WRAP_AAD_LEN] = "hardplate: the check of a key.";

const char *hpl_p11_iv_mode_name(enum hpl_p11_iv_mode mode)
{
    static const char *const names[HPL_P11_NUM_IV_MODES] = {"none", "caller", "returned", "appended", "sha256", "sha1"};
    return names[mode];
}

void hpl_p11_facts_identity(const struct hpl_p11_facts *facts, struct hpl_buf *out)
{
    const char *parts[] = {facts->manufacturer, facts->serial, facts->label};
    hpl_buf_put_str(out, "pkcs11");
    for (size_t i = 0; i < HPL_COUNT(parts); i++) {
        hpl_buf_put_str(out, i ? ";" : ":");
        hpl_uri_put(out, hpl_bytes_str(parts[i]), false);
    }
}

/* The serial for people, and a digest of the whole identity because serials repeat between makers (NSS's are all zero). */
void hpl_p11_facts_name(struct hpl_p11_facts *facts)
{
    struct hpl_buf identity = {0};
    uint8_t digest[HPL_SHA256_LEN];
    char hex[17];
    hpl_p11_facts_identity(facts, &identity);
    HPL_CHECK(hpl_buf_check(&identity) == HPL_OK);
    hpl_sha256(digest, identity.data, identity.len);
    hpl_buf_wipe(&identity);
    hpl_hex_encode(hex, digest, 8);
    size_t n = 0;
    for (const char *at = facts->serial; *at; at++)
        facts->id[n++] = (*at >= '0' && *at <= '9') || (*at >= 'A' && *at <= 'Z') || (*at >= 'a' && *at <= 'z') ? *at : '_';
    facts->id[n++] = '.';
    memcpy(facts->id + n, hex, sizeof hex);
}

void hpl_p11_ref_id(const struct hpl_p11_ref *ref, uint8_t id[static HPL_P11_ID_LEN])
{
    memcpy(id, ref->uid, HPL_KEY_UID_LEN);
    for (unsigned i = 0; i < 4; i++)
        id[HPL_KEY_UID_LEN + i] = (uint8_t)(ref->version >> (24 - 8 * i));
}

void hpl_p11_ref_of(const uint8_t id[static HPL_P11_ID_LEN], struct hpl_p11_ref *ref)
{
    *ref = (struct hpl_p11_ref){0};
    memcpy(ref->uid, id, HPL_KEY_UID_LEN);
    for (unsigned i = 0; i < 4; i++)
        ref->version = ref->version << 8 | id[HPL_KEY_UID_LEN + i];
}

void hpl_p11_ref_label(const struct hpl_p11_ref *ref, char label[static HPL_P11_LABEL_MAX + 1])
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";
    char text[14] = {0};
    for (unsigned i = 0; i < 13; i++) {
        unsigned bit = i * 5, pair = (unsigned)ref->uid[bit / 8] << 8 | ref->uid[bit / 8 + 1];
        text[i] = alphabet[pair >> (11 - bit % 8) & 31];
    }
    snprintf(label, HPL_P11_LABEL_MAX + 1, "hpl/%s/%u", text, ref->version);
}

/* An IV that is not 12 bytes long comes from a token that appends its own, now or before its mode was changed. */
static bool has_shape(const struct hpl_p11_facts *facts, const struct hpl_wrapped *wrapped)
{
    const struct shape *shape = &shapes[wrapped->mechanism];
    bool is_long = wrapped->mechanism == HPL_MECH_P11_GCM && wrapped->iv_len > GCM_IV_LEN;
    bool may_be_long = facts->iv_mode == HPL_P11_IV_APPENDED || facts->opens != 1u << HPL_MECH_P11_GCM;
    return wrapped->iv_len >= shape->iv_min && wrapped->iv_len <= shape->iv_max && wrapped->ct_len >= shape->ct_min &&
           wrapped->ct_len <= shape->ct_max && wrapped->ct_len % shape->ct_step == 0 && (!is_long || may_be_long);
}

enum hpl_status hpl_p11_lock(struct hpl_call *call, pthread_mutex_t *lock, const char *what)
{
    return hpl_lock_by(lock, call->deadline_ns) ? HPL_OK
                                                : hpl_fail(call, HPL_TIMEOUT, "the token had not answered another request for %s by the deadline", what);
}

/* One text for all that is wrong with a ciphertext: the status's own. */
enum hpl_status hpl_p11_screen(const struct hpl_p11_facts *facts, const struct hpl_wrapped *wrapped)
{
    bool is_known = wrapped->mechanism < HPL_COUNT(shapes) && facts->opens & 1u << wrapped->mechanism;
    return is_known && has_shape(facts, wrapped) ? HPL_OK : HPL_INVALID_CIPHERTEXT;
}
