/* Key objects: what the token lets be read and changed of them, what finding costs, and how a key that lies in it comes and goes. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include <stdlib.h>

#include "base/clock.h"

#define FIND_TIMES 9
#define MOST_OBJECTS 20000u

static CK_BBOOL yes = CK_TRUE, no = CK_FALSE;

/* --- attributes ---------------------------------------------------------------------------------------------------------------- */

static json_t *read_back(struct hpl_probe *probe, CK_ATTRIBUTE_TYPE type)
{
    CK_BBOOL value = CK_FALSE;
    CK_ATTRIBUTE attribute = {type, &value, sizeof value};
    CK_RV rv = probe->fn->C_GetAttributeValue(probe->anchor, probe->key, &attribute, 1);
    return rv == CKR_OK ? json_boolean(value) : hpl_probe_code(rv);
}

static json_t *change(struct hpl_probe *probe, CK_OBJECT_HANDLE key, CK_ATTRIBUTE_TYPE type, const void *value, CK_ULONG len)
{
    CK_ATTRIBUTE attribute = {type, (void *)value, len};
    return hpl_probe_code(probe->fn->C_SetAttributeValue(probe->anchor, key, &attribute, 1));
}

/* The bytes of a sensitive key must not come out; they are not kept if they do. */
static json_t *read_value(struct hpl_probe *probe)
{
    uint8_t bytes[64];
    CK_ATTRIBUTE attribute = {CKA_VALUE, bytes, sizeof bytes};
    json_t *code = hpl_probe_code(probe->fn->C_GetAttributeValue(probe->anchor, probe->key, &attribute, 1));
    hpl_wipe(bytes, sizeof bytes);
    return code;
}

static json_t *wrap_out(struct hpl_probe *probe)
{
    CK_ATTRIBUTE may_wrap = {CKA_WRAP, &yes, sizeof yes};
    CK_MECHANISM mechanism = {CKM_AES_KEY_WRAP, NULL, 0};
    CK_OBJECT_HANDLE wrapping;
    uint8_t bytes[HPL_PROBE_ROOM];
    CK_ULONG len = sizeof bytes;
    CK_RV rv = hpl_probe_new_key(probe, &may_wrap, 1, &wrapping);
    if (rv != CKR_OK)
        return hpl_probe_code(rv);
    json_t *code = hpl_probe_code(probe->fn->C_WrapKey(probe->anchor, &mechanism, wrapping, probe->key, bytes, &len));
    hpl_wipe(bytes, sizeof bytes);
    hpl_probe_drop_key(probe, wrapping);
    return code;
}

/* A key that is for AES-GCM alone: is it taken, and does it refuse AES-CBC? */
static json_t *allowed_mechanisms(struct hpl_probe *probe)
{
    CK_MECHANISM_TYPE gcm[] = {CKM_AES_GCM};
    CK_ATTRIBUTE extra = {CKA_ALLOWED_MECHANISMS, gcm, sizeof gcm};
    uint8_t iv[16] = {0};
    CK_MECHANISM cbc = {CKM_AES_CBC, iv, sizeof iv};
    CK_OBJECT_HANDLE key;
    CK_SESSION_HANDLE session;
    CK_RV rv = hpl_probe_new_key(probe, &extra, 1, &key);
    json_t *answer = json_pack("{s:o}", "C_GenerateKey", hpl_probe_code(rv));
    if (rv != CKR_OK)
        return answer;
    rv = hpl_probe_open(probe, &session);
    if (rv == CKR_OK) {
        rv = probe->fn->C_EncryptInit(session, &cbc, key);
        json_object_set_new(answer, "AES-CBC: C_EncryptInit", hpl_probe_code(rv));
        json_object_set_new(answer, "enforced", json_boolean(rv != CKR_OK));
        hpl_probe_close(probe, session);
    }
    hpl_probe_drop_key(probe, key);
    return answer;
}

static json_t *no_copies(struct hpl_probe *probe)
{
    CK_ATTRIBUTE extra = {CKA_COPYABLE, &no, sizeof no};
    CK_OBJECT_HANDLE key, copy;
    CK_RV rv = hpl_probe_new_key(probe, &extra, 1, &key);
    json_t *answer = json_pack("{s:o}", "C_GenerateKey", hpl_probe_code(rv));
    if (rv != CKR_OK)
        return answer;
    CK_ATTRIBUTE label = {CKA_LABEL, (void *)"hpl/probe-copy", 14};
    rv = probe->fn->C_CopyObject(probe->anchor, key, &label, 1, &copy);
    json_object_set_new(answer, "C_CopyObject", hpl_probe_code(rv));
    if (rv == CKR_OK)
        hpl_probe_drop_key(probe, copy);
    hpl_probe_drop_key(probe, key);
    return answer;
}

json_t *hpl_probe_attributes(struct hpl_probe *probe)
{
    json_t *read = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "CKA_SENSITIVE", read_back(probe, CKA_SENSITIVE), "CKA_EXTRACTABLE",
                             read_back(probe, CKA_EXTRACTABLE), "CKA_ALWAYS_SENSITIVE", read_back(probe, CKA_ALWAYS_SENSITIVE),
                             "CKA_NEVER_EXTRACTABLE", read_back(probe, CKA_NEVER_EXTRACTABLE), "CKA_LOCAL", read_back(probe, CKA_LOCAL),
                             "CKA_VALUE", read_value(probe));
    json_t *wrapped = wrap_out(probe), *allowed = allowed_mechanisms(probe), *copies = no_copies(probe);
    CK_OBJECT_HANDLE key;
    json_t *set = json_object();
    if (hpl_probe_new_key(probe, NULL, 0, &key) == CKR_OK) {
        json_object_set_new(set, "CKA_LABEL", change(probe, key, CKA_LABEL, "hpl/probe-2", 11));
        json_object_set_new(set, "CKA_ID", change(probe, key, CKA_ID, "hpl-probe-2", 11));
        json_object_set_new(set, "CKA_EXTRACTABLE to true", change(probe, key, CKA_EXTRACTABLE, &yes, sizeof yes));
        json_object_set_new(set, "CKA_SENSITIVE to false", change(probe, key, CKA_SENSITIVE, &no, sizeof no));
        json_object_set_new(set, "CKA_ENCRYPT to false", change(probe, key, CKA_ENCRYPT, &no, sizeof no));
        hpl_probe_drop_key(probe, key);
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "read", read, "changed", set, "C_WrapKey of a non-extractable key", wrapped,
                     "CKA_ALLOWED_MECHANISMS", allowed, "CKA_COPYABLE false", copies);
}

/* --- finding -------------------------------------------------------------------------------------------------------------------- */

static CK_RV find(struct hpl_probe *probe, CK_ATTRIBUTE *template, CK_ULONG num, CK_ULONG most, CK_ULONG *count)
{
    CK_OBJECT_HANDLE found[64];
    CK_ULONG got = 0;
    *count = 0;
    CK_RV rv = probe->fn->C_FindObjectsInit(probe->anchor, template, num);
    if (rv != CKR_OK)
        return rv;
    do {
        CK_ULONG want = most - *count < HPL_COUNT(found) ? most - *count : HPL_COUNT(found);
        rv = probe->fn->C_FindObjects(probe->anchor, found, want, &got);
        *count += rv == CKR_OK ? got : 0;
    } while (rv == CKR_OK && got > 0 && *count < most);
    CK_RV end = probe->fn->C_FindObjectsFinal(probe->anchor);
    return rv == CKR_OK ? end : rv;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Class, type and ID, as the backend does; the middle one of nine. */
static json_t *find_by_id(struct hpl_probe *probe, const char *id)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type}, {CKA_ID, (void *)id, strlen(id)}};
    double ms[FIND_TIMES];
    CK_ULONG count = 0;
    CK_RV rv = CKR_OK;
    for (int i = 0; i < FIND_TIMES && rv == CKR_OK; i++) {
        uint64_t since_ns = hpl_clock_mono_ns();
        rv = find(probe, template, HPL_COUNT(template), 2, &count);
        ms[i] = hpl_probe_ms(since_ns);
    }
    if (rv != CKR_OK)
        return json_pack("{s:o}", "code", hpl_probe_code(rv));
    qsort(ms, FIND_TIMES, sizeof *ms, by_size);
    return json_pack("{s:o, s:I, s:f}", "code", hpl_probe_code(rv), "found", (json_int_t)count, "median_ms", ms[FIND_TIMES / 2]);
}

json_t *hpl_probe_find(struct hpl_probe *probe)
{
    CK_ULONG count;
    uint64_t since_ns = hpl_clock_mono_ns();
    CK_RV rv = find(probe, NULL, 0, MOST_OBJECTS, &count);
    double all_ms = hpl_probe_ms(since_ns);
    return json_pack("{s:{s:o, s:I, s:b, s:f}, s:o, s:o}", "all_objects", "code", hpl_probe_code(rv), "found", (json_int_t)count, "or_more", count >= MOST_OBJECTS, "ms", all_ms,
                     "one_by_id", find_by_id(probe, "hpl-probe"), "one_that_is_not_there", find_by_id(probe, "hpl-nobody"));
}

/* --- a key that lies in the token --------------------------------------------------------------------------------------------------- */

static CK_RV generate_in_token(struct hpl_probe *probe, bool has_options, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_AES;
    CK_ULONG len = 32;
    CK_MECHANISM_TYPE gcm[] = {CKM_AES_GCM};
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}, {CKA_KEY_TYPE, &type, sizeof type},  {CKA_VALUE_LEN, &len, sizeof len},
                               {CKA_TOKEN, &yes, sizeof yes},     {CKA_PRIVATE, &yes, sizeof yes},     {CKA_SENSITIVE, &yes, sizeof yes},
                               {CKA_EXTRACTABLE, &no, sizeof no}, {CKA_ENCRYPT, &yes, sizeof yes},     {CKA_DECRYPT, &yes, sizeof yes},
                               {CKA_SIGN, &no, sizeof no},        {CKA_VERIFY, &no, sizeof no},        {CKA_WRAP, &no, sizeof no},
                               {CKA_UNWRAP, &no, sizeof no},      {CKA_DERIVE, &no, sizeof no},        {CKA_LABEL, (void *)"hpl/probe", 9},
                               {CKA_ID, (void *)"hpl-probe-token", 15},   {CKA_ALLOWED_MECHANISMS, gcm, sizeof gcm}, {CKA_COPYABLE, &no, sizeof no}};
    CK_MECHANISM mechanism = {CKM_AES_KEY_GEN, NULL, 0};
    return probe->fn->C_GenerateKey(probe->anchor, &mechanism, template, HPL_COUNT(template) - (has_options ? 0 : 2), key);
}

json_t *hpl_probe_token_object(struct hpl_probe *probe)
{
    json_t *calls = json_array();
    CK_OBJECT_HANDLE key;
    bool has_options = true;
    uint64_t since_ns = hpl_clock_mono_ns();
    CK_RV rv = hpl_probe_note(calls, "C_GenerateKey", generate_in_token(probe, true, &key));
    if (rv != CKR_OK) {
        has_options = false;
        since_ns = hpl_clock_mono_ns();
        rv = hpl_probe_note(calls, "C_GenerateKey without optional attributes", generate_in_token(probe, false, &key));
    }
    double generate_ms = hpl_probe_ms(since_ns);
    json_t *answer = json_pack("{s:b, s:o, s:b, s:f}", "works", rv == CKR_OK, "calls", calls, "takes_optional_attributes", has_options, "generate_ms",
                               generate_ms);
    if (rv != CKR_OK)
        return answer;
    json_object_set_new(answer, "found_by_id", find_by_id(probe, "hpl-probe-token"));
    since_ns = hpl_clock_mono_ns();
    hpl_probe_note(calls, "C_DestroyObject", probe->fn->C_DestroyObject(probe->anchor, key));
    json_object_set_new(answer, "destroy_ms", json_real(hpl_probe_ms(since_ns)));
    json_object_set_new(answer, "found_afterwards", find_by_id(probe, "hpl-probe-token"));
    return answer;
}
