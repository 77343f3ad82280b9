/* The templates that key objects are made with. Any thread, under the module's creation lock. SENSITIVE and not EXTRACTABLE always;
 * DESTROYABLE=0 never, since deletion must stay possible. */
#include "backends/pkcs11/internal.h"

#include <stdio.h>

#define MAX_ATTRIBUTES 24u
#define TRIAL "hpl/trial"

/* Good to have, tried and dropped one after the other by tokens that do not know them. */
enum { ONLY_ITS_MECHANISM = 1, NO_COPIES = 2 };

json_t *hpl_p11_optional_names(unsigned mask)
{
    if (!(mask & HPL_P11_OPTIONAL_IS_KNOWN))
        return json_null();
    json_t *names = json_array();
    if (mask & ONLY_ITS_MECHANISM)
        json_array_append_new(names, json_string("CKA_ALLOWED_MECHANISMS"));
    if (mask & NO_COPIES)
        json_array_append_new(names, json_string("CKA_COPYABLE=0"));
    return names;
}

/* What one generation is asked for. Attributes point into it. */
struct order {
    const struct hpl_p11_tier *tier; /* NULL: a MAC key that belongs to none */
    enum hpl_p11_kind kind;
    struct hpl_p11_name name;
    CK_KEY_TYPE type;
    CK_BBOOL is_token, yes, no;
    CK_OBJECT_CLASS class, public_class;
    CK_ULONG len, bits;
    CK_MECHANISM_TYPE allowed[1];
    CK_ATTRIBUTE attributes[MAX_ATTRIBUTES], public_attributes[MAX_ATTRIBUTES];
    CK_ULONG num, num_public;
};

static struct order order_of(const struct hpl_p11_tier *tier, enum hpl_p11_kind kind, bool is_token)
{
    return (struct order){.tier = tier, .kind = kind, .is_token = is_token, .yes = CK_TRUE, .no = CK_FALSE, .len = 32, .bits = HPL_P11_RSA_BITS,
                          .class = kind == HPL_P11_PRIVATE ? CKO_PRIVATE_KEY : CKO_SECRET_KEY, .public_class = CKO_PUBLIC_KEY,
                          .type = kind == HPL_P11_AES ? CKK_AES : kind == HPL_P11_PRIVATE ? CKK_RSA : CKK_GENERIC_SECRET,
                          .allowed = {tier ? tier->allowed : 0}};
}

static void add(struct order *order, CK_ATTRIBUTE_TYPE type, void *value, size_t len)
{
    order->attributes[order->num++] = (CK_ATTRIBUTE){type, value, len};
}

static void add_flag(struct order *order, CK_ATTRIBUTE_TYPE type, bool is_set)
{
    add(order, type, is_set ? &order->yes : &order->no, sizeof order->yes);
}

/* WRAP and UNWRAP stay off: with them a thief of the PIN could carry one key out under another. */
static void fill(struct order *order, unsigned optional)
{
    bool is_pair = order->kind == HPL_P11_PRIVATE, is_mac = order->kind == HPL_P11_MAC;
    order->num = 0;
    add(order, CKA_CLASS, &order->class, sizeof order->class);
    add(order, CKA_KEY_TYPE, &order->type, sizeof order->type);
    if (!is_pair) {
        add(order, CKA_VALUE_LEN, &order->len, sizeof order->len);
        add_flag(order, CKA_ENCRYPT, !is_mac);
        add_flag(order, CKA_VERIFY, is_mac);
        add_flag(order, CKA_WRAP, false);
    }
    add_flag(order, CKA_DECRYPT, !is_mac);
    add_flag(order, CKA_SIGN, is_mac);
    add_flag(order, CKA_UNWRAP, false);
    add_flag(order, CKA_DERIVE, false);
    add_flag(order, CKA_TOKEN, order->is_token);
    add_flag(order, CKA_PRIVATE, true);
    add_flag(order, CKA_SENSITIVE, true);
    add_flag(order, CKA_EXTRACTABLE, false);
    add(order, CKA_LABEL, order->name.label, strlen(order->name.label));
    add(order, CKA_ID, order->name.id, sizeof order->name.id);
    if (optional & ONLY_ITS_MECHANISM && !is_mac)
        add(order, CKA_ALLOWED_MECHANISMS, order->allowed, sizeof order->allowed);
    if (optional & NO_COPIES)
        add_flag(order, CKA_COPYABLE, false);
}

static void fill_public(struct order *order)
{
    static CK_BYTE exponent[] = {1, 0, 1};
    const CK_ATTRIBUTE attributes[] = {
        {CKA_CLASS, &order->public_class, sizeof order->public_class}, {CKA_KEY_TYPE, &order->type, sizeof order->type},
        {CKA_MODULUS_BITS, &order->bits, sizeof order->bits},          {CKA_PUBLIC_EXPONENT, exponent, sizeof exponent},
        {CKA_TOKEN, &order->is_token, sizeof order->is_token},         {CKA_ENCRYPT, &order->yes, sizeof order->yes},
        {CKA_VERIFY, &order->no, sizeof order->no},                    {CKA_WRAP, &order->no, sizeof order->no},
        {CKA_LABEL, order->name.label, strlen(order->name.label)},     {CKA_ID, order->name.id, sizeof order->name.id}};
    memcpy(order->public_attributes, attributes, sizeof attributes);
    order->num_public = HPL_COUNT(attributes);
}

static CK_RV generate(struct hpl_p11_op *op, struct order *order, unsigned optional, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    CK_MECHANISM mechanism = {order->type == CKK_AES ? CKM_AES_KEY_GEN : CKM_GENERIC_SECRET_KEY_GEN, NULL, 0};
    CK_MECHANISM pair = {CKM_RSA_PKCS_KEY_PAIR_GEN, NULL, 0};
    fill(order, optional);
    if (order->kind != HPL_P11_PRIVATE)
        return op->fn->C_GenerateKey(op->handle, &mechanism, order->attributes, order->num, &handles[order->kind]);
    fill_public(order);
    return op->fn->C_GenerateKeyPair(op->handle, &pair, order->public_attributes, order->num_public, order->attributes, order->num,
                                     &handles[HPL_P11_PUBLIC], &handles[HPL_P11_PRIVATE]);
}

static bool is_about_attributes(CK_RV rv)
{
    return rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_VALUE_INVALID || rv == CKR_TEMPLATE_INCONSISTENT || rv == CKR_ATTRIBUTE_READ_ONLY;
}

/* The template was not to the token's taste and nothing was made, which a search has to show: a second object of the same name would
 * make the key useless. NSS says CKR_GENERAL_ERROR for an attribute that its database has no column for. */
static bool was_refused(struct hpl_p11_op *op, const struct hpl_p11_key *key, const struct order *order, CK_RV rv)
{
    CK_OBJECT_HANDLE handle;
    unsigned count;
    return (is_about_attributes(rv) || rv == CKR_GENERAL_ERROR) && hpl_p11_find(op, key, order->kind, &handle, &count) == HPL_OK && count == 0;
}

/* key: where the object is looked for when the answer leaves open whether it was made; NULL for throw-away objects. */
static CK_RV generate_best(struct hpl_p11_op *op, const struct hpl_p11_key *key, struct order *order,
                           CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    CK_RV rv = CKR_OK;
    for (int optional = key ? (int)(op->direct->optional_attributes & HPL_P11_OPTIONAL_ALL) : 0; optional >= 0; optional--) {
        rv = generate(op, order, (unsigned)optional, handles);
        if (rv == CKR_OK && key)
            op->direct->optional_attributes = (unsigned)optional | HPL_P11_OPTIONAL_IS_KNOWN;
        if (rv == CKR_OK || !key || !was_refused(op, key, order, rv))
            break;
    }
    return rv;
}

/* A key that C_SignInit does not take is none; the session is left with the operation begun, so its result is fetched. */
static CK_RV try_mac(struct hpl_p11_op *op, CK_OBJECT_HANDLE handle)
{
    CK_MECHANISM mechanism = {CKM_SHA256_HMAC, NULL, 0};
    CK_BYTE message[1] = {0}, mac[HPL_P11_MAC_LEN];
    CK_ULONG len = sizeof mac;
    CK_RV rv = op->fn->C_SignInit(op->handle, &mechanism, handle);
    if (rv == CKR_OK)
        rv = op->fn->C_Sign(op->handle, message, sizeof message, mac, &len);
    return rv == CKR_OK && len != sizeof mac ? CKR_KEY_TYPE_INCONSISTENT : rv;
}

/* Tokens differ in which type of key does HMAC. */
static CK_RV generate_mac(struct hpl_p11_op *op, const struct hpl_p11_key *key, struct order *order, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    static const CK_KEY_TYPE types[] = {CKK_GENERIC_SECRET, CKK_SHA256_HMAC, CKK_AES};
    CK_RV rv = CKR_KEY_TYPE_INCONSISTENT;
    for (size_t i = 0; i < HPL_COUNT(types); i++) {
        order->type = types[i];
        rv = generate_best(op, key, order, handles);
        if (rv == CKR_OK && (rv = try_mac(op, handles[HPL_P11_MAC])) != CKR_OK)
            op->fn->C_DestroyObject(op->handle, handles[HPL_P11_MAC]);
        if (rv == CKR_OK || hpl_p11_classify(rv) != HPL_P11_CONFIG)
            break;
    }
    return rv;
}

static CK_RV generate_kind(struct hpl_p11_op *op, const struct hpl_p11_key *key, struct order *order, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    return order->kind == HPL_P11_MAC ? generate_mac(op, key, order, handles) : generate_best(op, key, order, handles);
}

enum hpl_status hpl_p11_make(struct hpl_p11_op *op, struct hpl_p11_key *key, enum hpl_p11_kind kind, unsigned *made)
{
    struct order order = order_of(key->is_mac ? NULL : op->direct->tier, kind, true);
    CK_OBJECT_HANDLE handles[HPL_P11_NUM_KINDS] = {0};
    hpl_p11_name_of(key, kind, &order.name);
    HPL_TRY(hpl_p11_check(op, kind == HPL_P11_PRIVATE ? "C_GenerateKeyPair" : "C_GenerateKey", generate_kind(op, key, &order, handles)));
    *made |= 1u << kind;
    hpl_p11_remember(op, key, kind, handles[kind]);
    if (kind == HPL_P11_PRIVATE) {
        *made |= 1u << HPL_P11_PUBLIC;
        hpl_p11_remember(op, key, HPL_P11_PUBLIC, handles[HPL_P11_PUBLIC]);
    }
    return HPL_OK;
}

/* --- throw-away objects ------------------------------------------------------------------------------------------------------------------ */

static CK_RV generate_all(struct hpl_p11_op *op, const struct hpl_p11_tier *tier, bool is_token, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    static const enum hpl_p11_kind kinds[] = {HPL_P11_AES, HPL_P11_PRIVATE, HPL_P11_MAC};
    CK_RV rv = CKR_OK;
    for (size_t i = 0; rv == CKR_OK && i < HPL_COUNT(kinds); i++) {
        struct order order = order_of(tier, kinds[i], is_token);
        snprintf(order.name.label, sizeof order.name.label, "%s", is_token ? TRIAL : "a trial");
        order.name.id[0] = (uint8_t)kinds[i];
        if (tier->kinds & 1u << kinds[i])
            rv = generate_kind(op, NULL, &order, handles);
    }
    return rv;
}

/* What a crash left of an earlier trial with token objects; nothing else is called so. */
static enum hpl_status sweep(struct hpl_p11_op *op)
{
    CK_OBJECT_HANDLE found[16];
    CK_ULONG num = 0;
    char label[] = TRIAL;
    CK_ATTRIBUTE template[] = {{CKA_LABEL, label, sizeof label - 1}};
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsInit", op->fn->C_FindObjectsInit(op->handle, template, HPL_COUNT(template))));
    HPL_TRY(hpl_p11_check(op, "C_FindObjects", op->fn->C_FindObjects(op->handle, found, HPL_COUNT(found), &num)));
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsFinal", op->fn->C_FindObjectsFinal(op->handle)));
    for (CK_ULONG i = 0; i < num; i++)
        HPL_TRY(hpl_p11_check(op, "C_DestroyObject", op->fn->C_DestroyObject(op->handle, found[i])));
    return HPL_OK;
}

enum hpl_status hpl_p11_destroy_trial(struct hpl_p11_op *op, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS])
{
    enum hpl_status status = HPL_OK;
    for (unsigned kind = 0; kind < HPL_P11_NUM_KINDS; kind++)
        if (handles[kind] != CK_INVALID_HANDLE && status == HPL_OK)
            status = hpl_p11_check(op, "C_DestroyObject", op->fn->C_DestroyObject(op->handle, handles[kind]));
    memset(handles, 0, HPL_P11_NUM_KINDS * sizeof *handles);
    return status;
}

/* Session objects; on the token where there are none (YubiHSM 2). What the token cannot make is a tier it cannot do; what is wrong
 * with the token itself is an error. */
enum hpl_status hpl_p11_make_trial(struct hpl_p11_op *op, const struct hpl_p11_tier *tier, CK_OBJECT_HANDLE handles[static HPL_P11_NUM_KINDS],
                                   bool *was_made)
{
    CK_RV rv = generate_all(op, tier, false, handles);
    if (hpl_p11_classify(rv) == HPL_P11_CONFIG && op->direct->tries_in_token) {
        HPL_TRY(hpl_p11_destroy_trial(op, handles));
        HPL_TRY(sweep(op));
        rv = generate_all(op, tier, true, handles);
    }
    *was_made = rv == CKR_OK;
    if (!*was_made)
        HPL_TRY(hpl_p11_destroy_trial(op, handles));
    bool is_odd = !*was_made && hpl_p11_classify(rv) != HPL_P11_CONFIG;
    return is_odd ? hpl_p11_check(op, "C_GenerateKey (a throw-away key)", rv) : HPL_OK;
}
