/* Looks, when a keystore is opened, for key versions in the token that no record of its catalog names: of a catalog that was lost or
 * set back, or of another deployment on the same token. They are logged and shown in status, and never destroyed: the catalog may be
 * what is wrong. A creation writes its record first, so none under way is taken for one. Opening thread; blocks. */
#include "backends/pkcs11/store.h"

#include <stdlib.h>

#include "base/log.h"

#define LOOK_MS 30000u

struct uids {
    struct hpl_buf list;
    size_t num;
};

/* Every row begins with the key's uid; one that does not verify still has it, or is none of ours. */
static bool add_uid(void *arg, const char *name, uint64_t revision, enum hpl_status status, struct hpl_bytes content)
{
    struct uids *uids = arg;
    (void)name, (void)revision;
    if (status == HPL_OK && content.len >= HPL_KEY_UID_LEN) {
        hpl_buf_put(&uids->list, content.data, HPL_KEY_UID_LEN);
        uids->num++;
    }
    return uids->num < HPL_P11_KNOWN_MAX;
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, HPL_KEY_UID_LEN);
}

static enum hpl_status look(struct hpl_p11_keystore *keystore, struct hpl_call *call, struct uids *uids)
{
    char type[64] = "p11key/";
    struct hpl_p11_device *device = keystore->device;
    strcat(type, device->facts.id);
    HPL_TRY(hpl_catalog_list(call, keystore->env->catalog, type, NULL, SIZE_MAX, add_uid, uids));
    HPL_TRY(hpl_buf_check(&uids->list));
    if (uids->num >= HPL_P11_KNOWN_MAX)
        return hpl_fail(call, HPL_TOO_LARGE, "there are too many keys to look for those that nobody knows");
    if (uids->num)
        qsort(uids->list.data, uids->num, HPL_KEY_UID_LEN, compare);
    return device->ops->survey(device, call, hpl_buf_bytes(&uids->list), &keystore->orphans);
}

static void label_of(const uint8_t id[static HPL_P11_ID_LEN], char label[static HPL_P11_LABEL_MAX + 1])
{
    struct hpl_p11_ref ref;
    hpl_p11_ref_of(id, &ref);
    hpl_p11_ref_label(&ref, label);
}

void hpl_p11_orphans_look(struct hpl_p11_keystore *keystore)
{
    struct hpl_call call;
    struct uids uids = {0};
    char label[HPL_P11_LABEL_MAX + 1];
    hpl_call_init(&call, LOOK_MS);
    enum hpl_status status = look(keystore, &call, &uids);
    keystore->did_look = status == HPL_OK;
    if (status != HPL_OK)
        hpl_log(HPL_LOG_WARN, "pkcs11.not_looked_through", HPL_S("token", keystore->option->name), HPL_S("why", hpl_detail(&call, status)));
    for (uint32_t i = 0; i < keystore->orphans.count && i < HPL_P11_ORPHANS_SHOWN; i++) {
        label_of(keystore->orphans.first[i], label);
        hpl_log(HPL_LOG_WARN, "pkcs11.orphan", HPL_S("token", keystore->option->name), HPL_S("label", label));
    }
    hpl_buf_wipe(&uids.list);
}

json_t *hpl_p11_orphans_json(const struct hpl_p11_keystore *keystore)
{
    char label[HPL_P11_LABEL_MAX + 1];
    if (!keystore->did_look)
        return json_null();
    json_t *labels = json_array();
    for (uint32_t i = 0; i < keystore->orphans.count && i < HPL_P11_ORPHANS_SHOWN; i++) {
        label_of(keystore->orphans.first[i], label);
        json_array_append_new(labels, json_string(label));
    }
    return json_pack("{s:i s:o}", "count", (int)keystore->orphans.count, "labels", labels);
}
