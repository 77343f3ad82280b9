/* Which key versions lie in the token that nobody has a record of: left by a catalog that was lost or set back. They are told of and
 * never touched. Any thread; a look at every object of the token, so not for the hot path. */
#include "backends/pkcs11/internal.h"

#include <stdlib.h>

#include "base/clock.h"

#define AT_ONCE 64u
#define MOST_OBJECTS (1u << 20)
#define MOST_NS 5000000000u /* well below a worker's watchdog */

struct survey {
    struct hpl_bytes known;
    struct hpl_p11_orphans *out;
    uint64_t until_ns;
};

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, HPL_KEY_UID_LEN);
}

/* A key version of ours: the label is what its ID makes. */
static bool is_version(const uint8_t id[static HPL_P11_ID_LEN], const char *label, size_t len)
{
    struct hpl_p11_ref ref;
    char wanted[HPL_P11_LABEL_MAX + 1];
    hpl_p11_ref_of(id, &ref);
    hpl_p11_ref_label(&ref, wanted);
    return len == strlen(wanted) && memcmp(label, wanted, len) == 0;
}

static bool is_known(const struct survey *survey, const uint8_t id[static HPL_P11_ID_LEN])
{
    return survey->known.len && bsearch(id, survey->known.data, survey->known.len / HPL_KEY_UID_LEN, HPL_KEY_UID_LEN, compare);
}

static enum hpl_status check_time(struct hpl_p11_op *op, const struct survey *survey)
{
    if (hpl_clock_mono_ns() > survey->until_ns)
        return hpl_fail(op->call, HPL_TIMEOUT, "token '%s' is too slow to look through its objects", op->direct->token.facts.label);
    return HPL_OK;
}

static enum hpl_status look_at(struct hpl_p11_op *op, struct survey *survey, CK_OBJECT_HANDLE object)
{
    struct hpl_p11_orphans *out = survey->out;
    uint8_t id[64];
    char label[256];
    HPL_TRY(check_time(op, survey));
    CK_ATTRIBUTE template[] = {{CKA_ID, id, sizeof id}, {CKA_LABEL, label, sizeof label}};
    CK_RV rv = op->fn->C_GetAttributeValue(op->handle, object, template, HPL_COUNT(template));
    if (rv == CKR_BUFFER_TOO_SMALL || rv == CKR_ATTRIBUTE_TYPE_INVALID || rv == CKR_ATTRIBUTE_SENSITIVE || rv == CKR_OBJECT_HANDLE_INVALID)
        return HPL_OK; /* none of ours, or gone meanwhile */
    HPL_TRY(hpl_p11_check(op, "C_GetAttributeValue", rv));
    if (template[0].ulValueLen != HPL_P11_ID_LEN || !is_version(id, label, template[1].ulValueLen) || is_known(survey, id))
        return HPL_OK;
    if (out->count < HPL_P11_ORPHANS_SHOWN)
        memcpy(out->first[out->count], id, HPL_P11_ID_LEN);
    out->count++;
    return HPL_OK;
}

static enum hpl_status collect(struct hpl_p11_op *op, const struct survey *survey, CK_OBJECT_HANDLE **found, size_t *num_found)
{
    CK_ULONG num = 0;
    do {
        HPL_TRY(check_time(op, survey));
        if (*num_found >= MOST_OBJECTS)
            return hpl_fail(op->call, HPL_TOO_LARGE, "token '%s' shows more than %u objects", op->direct->token.facts.label, MOST_OBJECTS);
        CK_OBJECT_HANDLE *grown = reallocarray(*found, *num_found + AT_ONCE, sizeof *grown);
        if (!grown)
            return HPL_NO_MEMORY;
        *found = grown;
        HPL_TRY(hpl_p11_check(op, "C_FindObjects", op->fn->C_FindObjects(op->handle, grown + *num_found, AT_ONCE, &num)));
        *num_found += num < AT_ONCE ? num : AT_ONCE;
    } while (num > 0);
    return HPL_OK;
}

/* A search that we give up is ended, or the session stays busy with it; one that the token failed in ends with its session. */
static enum hpl_status find_all(struct hpl_p11_op *op, const struct survey *survey, CK_OBJECT_CLASS class, CK_OBJECT_HANDLE **found, size_t *num_found)
{
    CK_ATTRIBUTE template[] = {{CKA_CLASS, &class, sizeof class}};
    HPL_TRY(hpl_p11_check(op, "C_FindObjectsInit", op->fn->C_FindObjectsInit(op->handle, template, HPL_COUNT(template))));
    enum hpl_status status = collect(op, survey, found, num_found);
    if (op->class != HPL_P11_NONE)
        return status;
    CK_RV rv = op->fn->C_FindObjectsFinal(op->handle);
    if (rv != CKR_OK && status != HPL_OK)
        op->class = hpl_p11_classify(rv); /* the session goes; the first reason stays */
    return status != HPL_OK ? status : hpl_p11_check(op, "C_FindObjectsFinal", rv);
}

static enum hpl_status survey_class(struct hpl_p11_op *op, struct survey *survey, CK_OBJECT_CLASS class)
{
    CK_OBJECT_HANDLE *found = NULL;
    size_t num_found = 0;
    enum hpl_status status = find_all(op, survey, class, &found, &num_found);
    for (size_t i = 0; status == HPL_OK && i < num_found; i++)
        status = look_at(op, survey, found[i]);
    free(found);
    return status;
}

enum hpl_status hpl_p11_survey(struct hpl_p11_op *op, struct hpl_bytes known, struct hpl_p11_orphans *out)
{
    struct survey survey = {.known = known, .out = out, .until_ns = hpl_clock_mono_ns() + MOST_NS};
    *out = (struct hpl_p11_orphans){0};
    HPL_TRY(survey_class(op, &survey, CKO_SECRET_KEY));
    return survey_class(op, &survey, CKO_PRIVATE_KEY);
}
