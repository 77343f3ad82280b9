/* Key objects in the token: how they are named, made, found, believed and destroyed. Any thread. Handles are cached because a search
 * is linear in SoftHSM (0.2 s at 10,000 keys); a handle counts only in the epoch it was found in, since a number may be another key
 * after a restart. A search that finds nothing is never "deleted". */
#include "backends/pkcs11/internal.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/hash.h"
#include "base/log.h"

#define MAX_KEYS 262144u

/* --- names and the table ------------------------------------------------------------------------------------------------------ */

void hpl_p11_key_init(struct hpl_p11_key *key, const uint8_t id[static HPL_P11_ID_LEN], const char *label)
{
    *key = (struct hpl_p11_key){0};
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
    hpl_p11_key_init(key, id, label);
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

/* The MAC key of a version has a name of its own, or two secret keys would answer to one ID. */
void hpl_p11_name_of(const struct hpl_p11_key *key, enum hpl_p11_kind kind, struct hpl_p11_name *out)
{
    uint8_t digest[HPL_SHA256_LEN];
    snprintf(out->label, sizeof out->label, "%s", key->label);
    memcpy(out->id, key->id, sizeof out->id);
    if (kind != HPL_P11_MAC || key->is_mac)
        return;
    snprintf(out->label, sizeof out->label, "hpl/mac/%.24s", key->label + strlen("hpl/"));
    memcpy(digest, out->id, sizeof out->id);
    digest[HPL_P11_ID_LEN] = HPL_P11_MAC;
    hpl_sha256(digest, digest, HPL_P11_ID_LEN + 1);
    memcpy(out->id, digest, sizeof out->id);
}

/* --- finding ---------------------------------------------------------------------------------------------------------------------- */

static CK_OBJECT_CLASS class_of(enum hpl_p11_kind kind)
{
    return kind == HPL_P11_PRIVATE ? CKO_PRIVATE_KEY : kind == HPL_P11_PUBLIC ? CKO_PUBLIC_KEY : CKO_SECRET_KEY;
}

/* The key type is not asked of MAC keys: tokens differ in what they make of one. */
enum hpl_status hpl_p11_find(struct hpl_p11_op *op, const struct hpl_p11_key *key, enum hpl_p11_kind kind, CK_OBJECT_HANDLE *handle,
                             unsigned *count)
{
    CK_OBJECT_CLASS class = class_of(kind);
    CK_KEY_TYPE type = kind == HPL_P11_AES ? CKK_AES : CKK_RSA;
    CK_OBJECT_HANDLE found[2] = {0};
    CK_ULONG num = 0;
    struct hpl_p11_name name;
    hpl_p11_name_of(key, kind, &name);
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_ID, name.id, sizeof name.id}, {CKA_KEY_TYPE, &type, sizeof type}};
    CK_ULONG num_attributes = kind == HPL_P11_MAC ? 2 : 3;
    *count = 0;
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsInit", op->fn->C_FindObjectsInit(op->handle, template, num_attributes)));
    do { /* a token may give fewer at a time than it was asked for */
        HPL_TRY(hpl_p11_check(op, "C_FindObjects", op->fn->C_FindObjects(op->handle, found + *count, 2 - *count, &num)));
        *count += (unsigned)(num < 2 ? num : 2);
    } while (num > 0 && *count < 2);
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsFinal", op->fn->C_FindObjectsFinal(op->handle)));
    *handle = found[0];
    return HPL_OK;
}

/* The object is the one that was meant, and cannot leave the token. A public key may. */
static enum hpl_status believe(struct hpl_p11_op *op, const struct hpl_p11_key *key, enum hpl_p11_kind kind, CK_OBJECT_HANDLE handle)
{
    CK_BBOOL is_sensitive = CK_FALSE, is_extractable = CK_TRUE;
    char label[256];
    struct hpl_p11_name name;
    hpl_p11_name_of(key, kind, &name);
    CK_ATTRIBUTE template[] = {{CKA_LABEL, label, sizeof label},
                               {CKA_SENSITIVE, &is_sensitive, sizeof is_sensitive},
                               {CKA_EXTRACTABLE, &is_extractable, sizeof is_extractable}};
    CK_ULONG num = kind == HPL_P11_PUBLIC ? 1 : 3;
    HPL_TRY(hpl_p11_check(op, "C_GetAttributeValue", op->fn->C_GetAttributeValue(op->handle, handle, template, num)));
    if (template[0].ulValueLen != strlen(name.label) || memcmp(label, name.label, strlen(name.label)) != 0)
        return hpl_fail(op->call, HPL_INTEGRITY, "the object with the ID of %s in token '%s' has another label", name.label, op->direct->token.facts.label);
    if (num == 3 && (is_sensitive != CK_TRUE || is_extractable != CK_FALSE))
        return hpl_fail(op->call, HPL_INTEGRITY, "%s in token '%s' can leave the token (SENSITIVE=%u EXTRACTABLE=%u): it is not used", name.label,
                        op->direct->token.facts.label, is_sensitive, is_extractable);
    return HPL_OK;
}

static enum hpl_status many(struct hpl_p11_op *op, const struct hpl_p11_key *key, enum hpl_p11_kind kind)
{
    struct hpl_p11_name name;
    hpl_p11_name_of(key, kind, &name);
    return hpl_fail(op->call, HPL_INTEGRITY, "more than one object of token '%s' is %s: find out which is right and remove the other",
                    op->direct->token.facts.label, name.label);
}

static enum hpl_status none(struct hpl_p11_op *op, const struct hpl_p11_key *key, enum hpl_p11_kind kind)
{
    struct hpl_p11_name name;
    hpl_p11_name_of(key, kind, &name);
    op->class = HPL_P11_ABSENT;
    return hpl_fail(op->call, HPL_KEY_UNAVAILABLE, "%s is not seen in token '%s' now", name.label, op->direct->token.facts.label);
}

/* The handles are the key: what was wrapped under it when it was made opens. */
static enum hpl_status prove(struct hpl_p11_op *op, struct hpl_p11_key *key, const struct hpl_wrapped *check)
{
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    enum hpl_status status = hpl_p11_unwrap(op, key, key->handles, hpl_p11_check_aad, check, &back);
    bool did_open = status == HPL_OK && back->len == HPL_P11_CHECK_LEN && is_zero(back->bytes, back->len);
    if (did_open || (status != HPL_OK && op->class != HPL_P11_CALLER && op->class != HPL_P11_AMBIGUOUS))
        return status;
    op->class = HPL_P11_MISMATCH;
    return hpl_fail(op->call, HPL_INTEGRITY, "the check blob of %s does not open: token '%s' answers with another key", key->label,
                    op->direct->token.facts.label);
}

void hpl_p11_remember(struct hpl_p11_op *op, struct hpl_p11_key *key, enum hpl_p11_kind kind, CK_OBJECT_HANDLE handle)
{
    key->handles[kind] = handle;
    key->epochs[kind] = op->epoch;
    key->is_proven = false;
}

static enum hpl_status find_again(struct hpl_p11_op *op, struct hpl_p11_key *key, enum hpl_p11_kind kind)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    HPL_TRY(hpl_p11_find(op, key, kind, &handle, &count));
    if (count != 1)
        return count ? many(op, key, kind) : none(op, key, kind);
    HPL_TRY(believe(op, key, kind, handle));
    hpl_p11_remember(op, key, kind, handle);
    return HPL_OK;
}

/* Under the key's lock. */
static enum hpl_status find_all(struct hpl_p11_op *op, struct hpl_p11_key *key, unsigned kinds)
{
    for (unsigned kind = 0; kind < HPL_P11_NUM_KINDS; kind++)
        if (kinds & 1u << kind && (key->epochs[kind] != op->epoch || !op->epoch))
            HPL_TRY(find_again(op, key, kind));
    return HPL_OK;
}

/* The check blob may be of an earlier tier than the operation; then its own objects are needed for it. */
static enum hpl_status check_key(struct hpl_p11_op *op, struct hpl_p11_key *key, const struct hpl_wrapped *check)
{
    const struct hpl_p11_tier *tier = hpl_p11_tier_of(check->mechanism);
    if (!tier)
        return hpl_fail(op->call, HPL_INTEGRITY, "the check blob of %s in the catalog is of an unknown mechanism", key->label);
    HPL_TRY(find_all(op, key, tier->kinds));
    HPL_TRY(prove(op, key, check));
    key->is_proven = true;
    return HPL_OK;
}

enum hpl_status hpl_p11_handles(struct hpl_p11_op *op, struct hpl_p11_key *key, unsigned kinds, const struct hpl_wrapped *check,
                                CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    HPL_TRY(hpl_p11_lock(op->call, &key->lock, "this key"));
    enum hpl_status status = find_all(op, key, kinds);
    if (status == HPL_OK && check && !key->is_proven)
        status = check_key(op, key, check);
    memcpy(handles, key->handles, sizeof key->handles);
    pthread_mutex_unlock(&key->lock);
    return status;
}

/* --- making and destroying ------------------------------------------------------------------------------------------------------------ */

static enum hpl_p11_kind main_kind(const struct hpl_p11_tier *tier)
{
    return tier->kinds & 1u << HPL_P11_AES ? HPL_P11_AES : HPL_P11_PRIVATE;
}

/* "Not there" is believed only of a token that shows its canary. */
static enum hpl_status must_show_canary(struct hpl_p11_op *op)
{
    struct hpl_p11_direct *direct = op->direct;
    CK_OBJECT_HANDLE handle;
    unsigned count;
    enum hpl_p11_kind kind = main_kind(direct->tier);
    HPL_TRY(hpl_p11_find(op, &direct->canary, kind, &handle, &count));
    return count == 1 ? HPL_OK : count ? many(op, &direct->canary, kind) : none(op, &direct->canary, kind);
}

/* A round trip under the new key finds policies that its attributes do not show. One more random IV is nothing to the bound. */
static enum hpl_status try_out(struct hpl_p11_op *op, const struct hpl_p11_key *key)
{
    static const uint8_t aad[HPL_WRAP_AAD_LEN], zeroes[32];
    struct hpl_wrapped wrapped;
    struct hpl_secret *HPL_SECRET_AUTO back = NULL;
    HPL_TRY(hpl_p11_wrap(op, key, key->handles, aad, hpl_bytes(zeroes, sizeof zeroes), &wrapped));
    HPL_TRY(hpl_p11_unwrap(op, key, key->handles, aad, &wrapped, &back));
    if (back->len != sizeof zeroes || memcmp(back->bytes, zeroes, sizeof zeroes) != 0)
        return hpl_fail(op->call, HPL_BACKEND, "token '%s' does not give back what it wrapped", op->direct->token.facts.label);
    return HPL_OK;
}

/* What failed its trial goes again, or it would be taken for the key later. */
static void undo(struct hpl_p11_op *op, struct hpl_p11_key *key, unsigned made)
{
    for (unsigned kind = 0; kind < HPL_P11_NUM_KINDS; kind++) {
        if (!(made & 1u << kind))
            continue;
        key->epochs[kind] = 0;
        if (op->fn->C_DestroyObject(op->handle, key->handles[kind]) != CKR_OK)
            hpl_log(HPL_LOG_WARN, "pkcs11.left_behind", HPL_S("label", key->label), HPL_S("token", op->direct->token.facts.label));
    }
}

/* Finds or makes each object; *made: those that were made. A pair is made at once, so half of one was tampered with. */
static enum hpl_status complete(struct hpl_p11_op *op, struct hpl_p11_key *key, unsigned kinds, unsigned *made)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    for (unsigned kind = 0; kind < HPL_P11_NUM_KINDS; kind++) {
        if (!(kinds & 1u << kind) || *made & 1u << kind)
            continue;
        HPL_TRY(hpl_p11_find(op, key, kind, &handle, &count));
        if (count > 1 || (count == 0 && kind == HPL_P11_PUBLIC))
            return count ? many(op, key, kind) : none(op, key, kind);
        if (count == 0) {
            if (key != &op->direct->canary)
                HPL_TRY(must_show_canary(op));
            HPL_TRY(hpl_p11_make(op, key, kind, made));
            continue;
        }
        HPL_TRY(believe(op, key, kind, handle));
        hpl_p11_remember(op, key, kind, handle);
    }
    return HPL_OK;
}

static enum hpl_status create_locked(struct hpl_p11_op *op, struct hpl_p11_key *key, unsigned kinds)
{
    unsigned made = 0;
    enum hpl_status status = complete(op, key, kinds, &made);
    for (unsigned kind = 0; status == HPL_OK && kind < HPL_P11_NUM_KINDS; kind++)
        if (made & 1u << kind)
            status = believe(op, key, kind, key->handles[kind]);
    if (status == HPL_OK && made && !key->is_mac)
        status = try_out(op, key);
    if (status != HPL_OK)
        undo(op, key, made);
    return status;
}

static enum hpl_status lock_both(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    pthread_mutex_t *creation_lock = hpl_p11_module_creation_lock(op->direct->module);
    HPL_TRY(hpl_p11_lock(op->call, creation_lock, "an object to be made or destroyed"));
    enum hpl_status status = hpl_p11_lock(op->call, &key->lock, "this key");
    if (status != HPL_OK)
        pthread_mutex_unlock(creation_lock);
    return status;
}

static void unlock_both(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    pthread_mutex_unlock(&key->lock);
    pthread_mutex_unlock(hpl_p11_module_creation_lock(op->direct->module));
}

enum hpl_status hpl_p11_create(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    HPL_TRY(lock_both(op, key));
    enum hpl_status status = create_locked(op, key, key->is_mac ? 1u << HPL_P11_MAC : op->direct->tier->kinds);
    unlock_both(op, key);
    return status;
}

static enum hpl_status destroy_one(struct hpl_p11_op *op, struct hpl_p11_key *key, enum hpl_p11_kind kind, bool *was_there)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    HPL_TRY(hpl_p11_find(op, key, kind, &handle, &count));
    if (count == 0)
        return HPL_OK;
    if (count > 1)
        return many(op, key, kind);
    *was_there = true;
    HPL_TRY(believe(op, key, kind, handle));
    HPL_TRY(hpl_p11_check(op, "C_DestroyObject", op->fn->C_DestroyObject(op->handle, handle)));
    HPL_TRY(hpl_p11_find(op, key, kind, &handle, &count));
    return count == 0 ? HPL_OK : hpl_fail(op->call, HPL_BACKEND, "token '%s' still shows %s after C_DestroyObject", op->direct->token.facts.label, key->label);
}

/* Whatever tier the version was made in: what decrypts goes first. */
static enum hpl_status destroy_all(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    static const enum hpl_p11_kind order[] = {HPL_P11_AES, HPL_P11_PRIVATE, HPL_P11_PUBLIC, HPL_P11_MAC};
    unsigned kinds = hpl_p11_kinds_of(op->direct->base.facts.opens);
    bool was_there = false;
    for (size_t i = 0; i < HPL_COUNT(order); i++) {
        key->epochs[order[i]] = 0;
        if (kinds & 1u << order[i])
            HPL_TRY(destroy_one(op, key, order[i], &was_there));
    }
    return was_there ? HPL_OK : must_show_canary(op);
}

enum hpl_status hpl_p11_destroy(struct hpl_p11_op *op, struct hpl_p11_key *key)
{
    HPL_TRY(lock_both(op, key));
    enum hpl_status status = destroy_all(op, key);
    unlock_both(op, key);
    return status;
}
