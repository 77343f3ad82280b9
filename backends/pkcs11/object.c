/* Key objects in the token: how they are named, made, found, believed and destroyed. Any thread. Handles are cached because a search
 * is linear in SoftHSM (0.2 s at 10,000 keys); a handle counts only in the epoch it was found in, since a number may be another key
 * after a restart. A search that finds nothing is never "deleted". */
#include "backends/pkcs11/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"

#define MAX_KEYS 262144u

/* --- names and the table ------------------------------------------------------------------------------------------------------ */

void hpl_p11_key_init(struct hpl_p11_key *key, const uint8_t id[static HPL_P11_ID_LEN], const char *label, CK_KEY_TYPE type)
{
    *key = (struct hpl_p11_key){.type = type};
    memcpy(key->id, id, HPL_P11_ID_LEN);
    snprintf(key->label, sizeof key->label, "%s", label);
    pthread_mutex_init(&key->lock, NULL);
}

static struct hpl_p11_key *add(struct hpl_p11_direct *direct, struct hpl_p11_key **bucket, const uint8_t id[static HPL_P11_ID_LEN],
                               const char *label)
{
    struct hpl_p11_key *key = direct->num_keys < MAX_KEYS ? malloc(sizeof *key) : NULL;
    if (!key)
        return NULL;
    hpl_p11_key_init(key, id, label, CKK_AES);
    key->next = *bucket;
    *bucket = key;
    direct->num_keys++;
    return key;
}

struct hpl_p11_key *hpl_p11_key_of(struct hpl_p11_direct *direct, const struct hpl_p11_ref *ref)
{
    uint8_t id[HPL_P11_ID_LEN];
    char label[HPL_P11_LABEL_MAX + 1];
    hpl_p11_ref_id(ref, id);
    uint32_t hash = ((uint32_t)ref->uid[0] << 8 | ref->uid[1]) + ref->version * 2654435761u;
    struct hpl_p11_key **bucket = &direct->keys[hash % HPL_P11_NUM_BUCKETS];
    pthread_mutex_lock(&direct->keys_lock);
    struct hpl_p11_key *key = *bucket;
    while (key && memcmp(key->id, id, sizeof id) != 0)
        key = key->next;
    if (!key) {
        hpl_p11_ref_label(ref, label);
        key = add(direct, bucket, id, label);
    }
    pthread_mutex_unlock(&direct->keys_lock);
    return key;
}

void hpl_p11_keys_free(struct hpl_p11_direct *direct)
{
    for (size_t i = 0; i < HPL_P11_NUM_BUCKETS; i++) {
        struct hpl_p11_key *key = direct->keys[i];
        while (key) {
            struct hpl_p11_key *next = key->next;
            pthread_mutex_destroy(&key->lock);
            free(key);
            key = next;
        }
        direct->keys[i] = NULL;
    }
}

static bool is_zero(const uint8_t *bytes, size_t len)
{
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++)
        any |= bytes[i];
    return any == 0;
}

/* --- finding ---------------------------------------------------------------------------------------------------------------------- */

enum hpl_status hpl_p11_find(struct hpl_p11_op *op, const struct hpl_p11_key *key, CK_OBJECT_HANDLE *handle, unsigned *count)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = key->type;
    CK_OBJECT_HANDLE found[2] = {0};
    CK_ULONG num = 0;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_ID, (void *)key->id, sizeof key->id}};
    *count = 0;
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsInit", op->fn->C_FindObjectsInit(op->handle, template, HPL_COUNT(template))));
    do { /* a token may give fewer at a time than it was asked for */
        HPL_TRY(hpl_p11_check(op, "C_FindObjects", op->fn->C_FindObjects(op->handle, found + *count, 2 - *count, &num)));
        *count += (unsigned)(num < 2 ? num : 2);
    } while (num > 0 && *count < 2);
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsFinal", op->fn->C_FindObjectsFinal(op->handle)));
    *handle = found[0];
    return HPL_OK;
}

/* The object is the one that was meant, and cannot leave the token. */
static enum hpl_status believe(struct hpl_p11_op *op, const struct hpl_p11_key *key, CK_OBJECT_HANDLE handle)
{
    CK_BBOOL is_sensitive = CK_FALSE, is_extractable = CK_TRUE;
    char label[256];
    CK_ATTRIBUTE template[] = {{CKA_SENSITIVE, &is_sensitive, sizeof is_sensitive},
                               {CKA_EXTRACTABLE, &is_extractable, sizeof is_extractable},
                               {CKA_LABEL, label, sizeof label}};
    HPL_TRY(hpl_p11_check(op, "C_GetAttributeValue", op->fn->C_GetAttributeValue(op->handle, handle, template, HPL_COUNT(template))));
    if (template[2].ulValueLen != strlen(key->label) || memcmp(label, key->label, strlen(key->label)) != 0)
        return hpl_fail(op->call, HPL_INTEGRITY, "the object with the ID of %s in token '%s' has another label", key->label, op->direct->token.facts.label);
    if (is_sensitive != CK_TRUE || is_extractable != CK_FALSE)
        return hpl_fail(op->call, HPL_INTEGRITY, "%s in token '%s' can leave the token (SENSITIVE=%u EXTRACTABLE=%u): it is not used", key->label,
                        op->direct->token.facts.label, is_sensitive, is_extractable);
    return HPL_OK;
}

static enum hpl_status many(struct hpl_p11_op *op, const struct hpl_p11_key *key)
{
    return hpl_fail(op->call, HPL_INTEGRITY, "more than one object of token '%s' is %s: find out which is right and remove the other",
                    op->direct->token.facts.label, key->label);
}

static enum hpl_status none(struct hpl_p11_op *op, const struct hpl_p11_key *key)
{
    op->class = HPL_P11_ABSENT;
    return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "%s is not seen in token '%s' now", key->label, op->direct->token.facts.label);
}

/* The handle is the key: what was wrapped under it when it was made opens. */
static enum hpl_status prove(struct hpl_p11_op *op, const struct hpl_p11_key *key, CK_OBJECT_HANDLE handle, const struct hpl_wrapped *check)
{
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    enum hpl_status status = hpl_p11_gcm_unwrap(op, handle, hpl_p11_check_aad, check, &back);
    bool did_open = status == HPL_OK && back->len == HPL_P11_CHECK_LEN && is_zero(back->bytes, back->len);
    if (did_open || (status != HPL_OK && op->class != HPL_P11_CALLER && op->class != HPL_P11_AMBIGUOUS))
        return status;
    op->class = HPL_P11_MISMATCH;
    return hpl_fail(op->call, HPL_INTEGRITY, "the check blob of %s does not open: token '%s' answers with another key", key->label,
                    op->direct->token.facts.label);
}

static enum hpl_status find_again(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    HPL_TRY(hpl_p11_find(op, key, &handle, &count));
    if (count != 1)
        return count ? many(op, key) : none(op, key);
    HPL_TRY(believe(op, key, handle));
    key->handle = handle;
    key->epoch = op->epoch;
    key->is_proven = false;
    return HPL_OK;
}

enum hpl_status hpl_p11_handle(struct hpl_p11_op *op, struct hpl_p11_key *key, const struct hpl_wrapped *check, CK_OBJECT_HANDLE *handle)
{
    pthread_mutex_lock(&key->lock);
    enum hpl_status status = key->epoch == op->epoch && key->epoch ? HPL_OK : find_again(op, key);
    if (status == HPL_OK && check && !key->is_proven)
        key->is_proven = (status = prove(op, key, key->handle, check)) == HPL_OK;
    *handle = key->handle;
    pthread_mutex_unlock(&key->lock);
    return status;
}

/* --- making ------------------------------------------------------------------------------------------------------------------------- */

/* Good to have, tried and dropped one after the other by tokens that do not know them. DESTROYABLE=0 is never set: deletion must stay possible. */
enum { ONLY_GCM = 1, NO_COPIES = 2, ALL_OPTIONAL = 3 };

json_t *hpl_p11_optional_names(unsigned mask)
{
    json_t *names = json_array();
    if (mask & ONLY_GCM)
        json_array_append_new(names, json_string("CKA_ALLOWED_MECHANISMS=CKM_AES_GCM"));
    if (mask & NO_COPIES)
        json_array_append_new(names, json_string("CKA_COPYABLE=0"));
    return names;
}

/* WRAP and UNWRAP stay off: with them a thief of the PIN could carry one key out under another. */
static CK_RV generate(struct hpl_p11_op *op, const struct hpl_p11_key *key, unsigned optional, CK_OBJECT_HANDLE *handle)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = key->type;
    CK_ULONG len = 32;
    CK_BBOOL yes = CK_TRUE, no = CK_FALSE, does_crypt = type == CKK_AES, does_sign = type != CKK_AES;
    CK_MECHANISM_TYPE allowed[] = {CKM_AES_GCM};
    CK_ATTRIBUTE template[18] = {
        {CKA_CLASS, &class, sizeof class},   {CKA_KEY_TYPE, &type, sizeof type},
        {CKA_VALUE_LEN, &len, sizeof len},   {CKA_TOKEN, &yes, sizeof yes},
        {CKA_PRIVATE, &yes, sizeof yes},     {CKA_SENSITIVE, &yes, sizeof yes},
        {CKA_EXTRACTABLE, &no, sizeof no},   {CKA_ENCRYPT, &does_crypt, sizeof does_crypt},
        {CKA_DECRYPT, &does_crypt, sizeof does_crypt}, {CKA_SIGN, &does_sign, sizeof does_sign},
        {CKA_VERIFY, &does_sign, sizeof does_sign},    {CKA_WRAP, &no, sizeof no},
        {CKA_UNWRAP, &no, sizeof no},        {CKA_DERIVE, &no, sizeof no},
        {CKA_LABEL, (void *)key->label, strlen(key->label)}, {CKA_ID, (void *)key->id, sizeof key->id}};
    CK_ULONG num = 16;
    if (optional & ONLY_GCM && does_crypt)
        template[num++] = (CK_ATTRIBUTE){CKA_ALLOWED_MECHANISMS, allowed, sizeof allowed};
    if (optional & NO_COPIES)
        template[num++] = (CK_ATTRIBUTE){CKA_COPYABLE, &no, sizeof no};
    CK_MECHANISM mechanism = {does_crypt ? CKM_AES_KEY_GEN : CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    return op->fn->C_GenerateKey(op->handle, &mechanism, template, num, handle);
}

static bool is_about_attributes(CK_RV rv)
{
    return rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_VALUE_INVALID || rv == CKR_TEMPLATE_INCONSISTENT || rv == CKR_ATTRIBUTE_READ_ONLY;
}

/* The template was not to the token's taste and nothing was made, which a search has to show: a second object of the same name would
 * make the key useless. NSS says CKR_GENERAL_ERROR for an attribute that its database has no column for. */
static bool was_refused(struct hpl_p11_op *op, const struct hpl_p11_key *key, CK_RV rv)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    return (is_about_attributes(rv) || rv == CKR_GENERAL_ERROR) && hpl_p11_find(op, key, &handle, &count) == HPL_OK && count == 0;
}

static enum hpl_status generate_best(struct hpl_p11_op *op, const struct hpl_p11_key *key, CK_OBJECT_HANDLE *handle)
{
    CK_RV rv = CKR_OK;
    for (int optional = (int)op->direct->optional_attributes; optional >= 0; optional--) {
        rv = generate(op, key, (unsigned)optional, handle);
        if (rv == CKR_OK)
            op->direct->optional_attributes = (unsigned)optional;
        if (rv == CKR_OK || !was_refused(op, key, rv))
            break;
    }
    return hpl_p11_check(op, "C_GenerateKey", rv);
}

/* A round trip under the new key finds policies that its attributes do not show. One more random IV is nothing to the bound. */
static enum hpl_status try_out(struct hpl_p11_op *op, CK_OBJECT_HANDLE handle)
{
    static const uint8_t aad[HPL_WRAP_AAD_LEN], zeroes[32];
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    HPL_TRY(hpl_p11_gcm_wrap(op, handle, aad, hpl_bytes(zeroes, sizeof zeroes), &wrapped));
    HPL_TRY(hpl_p11_gcm_unwrap(op, handle, aad, &wrapped, &back));
    if (back->len != sizeof zeroes || memcmp(back->bytes, zeroes, sizeof zeroes) != 0)
        return hpl_fail(op->call, HPL_BACKEND, "token '%s' does not give back what it wrapped", op->direct->token.facts.label);
    return HPL_OK;
}

/* "Not there" is believed only of a token that shows its canary; the canary itself is made in new tokens only (canary.c). */
static enum hpl_status make(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    if (key != &op->direct->canary) {
        HPL_TRY(hpl_p11_find(op, &op->direct->canary, &handle, &count));
        if (count != 1)
            return count ? many(op, &op->direct->canary) : none(op, &op->direct->canary);
    }
    HPL_TRY(generate_best(op, key, &handle));
    enum hpl_status status = believe(op, key, handle);
    if (status == HPL_OK && key->type == CKK_AES)
        status = try_out(op, handle);
    if (status != HPL_OK && op->fn->C_DestroyObject(op->handle, handle) != CKR_OK)
        hpl_log(HPL_LOG_WARN, "pkcs11.left_behind", HPL_S("label", key->label), HPL_S("token", op->direct->token.facts.label));
    return status;
}

static enum hpl_status create_locked(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    HPL_TRY(hpl_p11_find(op, key, &handle, &count));
    if (count == 0)
        return make(op, key);
    return count == 1 ? believe(op, key, handle) : many(op, key);
}

enum hpl_status hpl_p11_create(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    pthread_mutex_t *lock = hpl_p11_module_creation_lock(op->direct->module);
    pthread_mutex_lock(lock);
    enum hpl_status status = create_locked(op, key);
    pthread_mutex_unlock(lock);
    return status;
}

/* --- destroying ------------------------------------------------------------------------------------------------------------------------ */

static enum hpl_status destroy_locked(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    HPL_TRY(hpl_p11_find(op, key, &handle, &count));
    if (count > 1)
        return many(op, key);
    if (count == 0) {
        HPL_TRY(hpl_p11_find(op, &op->direct->canary, &handle, &count));
        return count == 1 ? HPL_OK : none(op, key);
    }
    HPL_TRY(believe(op, key, handle));
    HPL_TRY(hpl_p11_check(op, "C_DestroyObject", op->fn->C_DestroyObject(op->handle, handle)));
    HPL_TRY(hpl_p11_find(op, key, &handle, &count));
    return count == 0 ? HPL_OK : hpl_fail(op->call, HPL_BACKEND, "token '%s' still shows %s after C_DestroyObject", op->direct->token.facts.label, key->label);
}

enum hpl_status hpl_p11_destroy(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    pthread_mutex_t *lock = hpl_p11_module_creation_lock(op->direct->module);
    pthread_mutex_lock(lock);
    pthread_mutex_lock(&key->lock);
    key->epoch = 0;
    enum hpl_status status = destroy_locked(op, key);
    pthread_mutex_unlock(&key->lock);
    pthread_mutex_unlock(lock);
    return status;
}
