/* Who the token is, what it lists, how it logs in. One thread. */
#include "backends/pkcs11/conformance/probe.h"

#include <stdlib.h>

static json_t *field(const unsigned char *text, size_t len)
{
    while (len && (text[len - 1] == ' ' || text[len - 1] == '\0'))
        len--;
    json_t *value = json_stringn((const char *)text, len);
    return value ? value : json_string("(not UTF-8)");
}

static json_t *version(CK_VERSION v)
{
    return json_sprintf("%u.%u", v.major, v.minor);
}

static json_t *amount(CK_ULONG number)
{
    return number == CK_UNAVAILABLE_INFORMATION ? json_string("not said") : json_integer((json_int_t)number);
}

static json_t *token_json(const CK_TOKEN_INFO *info)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "label", field(info->label, sizeof info->label), "manufacturer",
                     field(info->manufacturerID, sizeof info->manufacturerID), "model", field(info->model, sizeof info->model), "serial",
                     field(info->serialNumber, sizeof info->serialNumber), "flags", hpl_probe_token_flags(info->flags), "max_sessions",
                     amount(info->ulMaxSessionCount), "max_rw_sessions", amount(info->ulMaxRwSessionCount), "free_private_memory",
                     amount(info->ulFreePrivateMemory), "max_pin_len", amount(info->ulMaxPinLen), "hardware", version(info->hardwareVersion), "firmware",
                     version(info->firmwareVersion));
}

json_t *hpl_probe_subject(struct hpl_probe *probe)
{
    CK_INFO library;
    CK_SLOT_INFO slot;
    CK_TOKEN_INFO token;
    CK_RV rv = probe->fn->C_GetInfo(&library);
    if (rv == CKR_OK)
        rv = probe->fn->C_GetSlotInfo(probe->slot, &slot);
    if (rv == CKR_OK)
        rv = probe->fn->C_GetTokenInfo(probe->slot, &token);
    if (rv != CKR_OK)
        return json_pack("{s:o}", "code", hpl_probe_code(rv));
    json_t *lib = json_pack("{s:o, s:o, s:o, s:o}", "manufacturer", field(library.manufacturerID, sizeof library.manufacturerID), "description",
                            field(library.libraryDescription, sizeof library.libraryDescription), "version", version(library.libraryVersion), "cryptoki",
                            version(library.cryptokiVersion));
    return json_pack("{s:o, s:{s:o, s:o, s:o}, s:o}", "library", lib, "slot", "description", field(slot.slotDescription, sizeof slot.slotDescription),
                     "hardware", version(slot.hardwareVersion), "firmware", version(slot.firmwareVersion), "token", token_json(&token));
}

static json_t *mechanism_json(struct hpl_probe *probe, CK_MECHANISM_TYPE type)
{
    CK_MECHANISM_INFO info;
    CK_RV rv = probe->fn->C_GetMechanismInfo(probe->slot, type, &info);
    if (rv != CKR_OK)
        return json_pack("{s:o, s:o}", "name", hpl_probe_mechanism(type), "code", hpl_probe_code(rv));
    return json_pack("{s:o, s:o, s:o, s:o}", "name", hpl_probe_mechanism(type), "min_key_size", amount(info.ulMinKeySize), "max_key_size",
                     amount(info.ulMaxKeySize), "flags", hpl_probe_mechanism_flags(info.flags));
}

json_t *hpl_probe_mechanisms(struct hpl_probe *probe)
{
    CK_ULONG num = 0, num_told;
    json_t *rows = json_array();
    if (probe->fn->C_GetMechanismList(probe->slot, NULL, &num) != CKR_OK || num == 0 || num > 4096)
        return rows;
    CK_MECHANISM_TYPE *types = calloc(num, sizeof *types);
    num_told = num;
    if (types && probe->fn->C_GetMechanismList(probe->slot, types, &num_told) == CKR_OK)
        for (CK_ULONG i = 0; i < num_told && i < num; i++)
            json_array_append_new(rows, mechanism_json(probe, types[i]));
    free(types);
    return rows;
}

static const char *state_of(struct hpl_probe *probe, CK_SESSION_HANDLE session)
{
    static const char *const states[] = {"RO_PUBLIC", "RO_USER", "RW_PUBLIC", "RW_USER", "RW_SO"};
    CK_SESSION_INFO info;
    if (probe->fn->C_GetSessionInfo(session, &info) != CKR_OK || info.state >= HPL_COUNT(states))
        return "unknown";
    return states[info.state];
}

/* The login was done already, through the latch; here is what other sessions see of it. */
json_t *hpl_probe_login(struct hpl_probe *probe)
{
    CK_SESSION_HANDLE second, read_only;
    json_t *answer = json_pack("{s:s}", "session_that_logged_in", state_of(probe, probe->anchor));
    CK_RV rv = hpl_probe_open(probe, &second);
    json_object_set_new(answer, "a_second_session", rv == CKR_OK ? json_string(state_of(probe, second)) : hpl_probe_code(rv));
    if (rv == CKR_OK)
        hpl_probe_close(probe, second);
    rv = probe->fn->C_OpenSession(probe->slot, CKF_SERIAL_SESSION, NULL, NULL, &read_only);
    json_object_set_new(answer, "a_read_only_session", rv == CKR_OK ? json_string(state_of(probe, read_only)) : hpl_probe_code(rv));
    if (rv == CKR_OK)
        hpl_probe_close(probe, read_only);
    return answer;
}
