/* Where an object's encryption comes from. Any thread; blocks on the store and the key service. */
#include "s3/explain.h"

#include "s3/internal.h"

static const char *const mode_names[] = {[HPL_MODE_PLAIN] = "none", [HPL_MODE_SSE_S3] = "SSE-S3", [HPL_MODE_SSE_KMS] = "SSE-KMS", [HPL_MODE_SSE_C] = "SSE-C"};

static enum hpl_status explain(struct hpl_s3 *s3, struct hpl_call *call, const struct hpl_object *object, json_t **answer)
{
    struct hpl_manifest manifest = {0};
    json_t *envelope = NULL;
    enum hpl_status status = hpl_object_peek(call, object, &manifest);
    const struct hpl_context context = {(const struct hpl_context_pair *)manifest.context, manifest.num_context};
    if (status == HPL_OK && object->envelope.len)
        status = hpl_kms_explain(s3->options.kms, call, hpl_buf_bytes(&object->envelope), &context, &envelope);
    if (status == HPL_OK) {
        *answer = json_pack("{s:s, s:s, s:s, s:I, s:o}", "bucket", object->bucket, "key", object->key, "mode", mode_names[manifest.mode], "size",
                            (json_int_t)object->size, "envelope", envelope ? envelope : json_null());
        status = *answer ? HPL_OK : HPL_NO_MEMORY;
    }
    hpl_manifest_wipe(&manifest);
    return status;
}

enum hpl_status hpl_s3_explain(struct hpl_s3 *s3, struct hpl_call *call, const char *bucket, const char *key, json_t **answer)
{
    struct hpl_object object = {0};
    if (strlen(bucket) > HPL_BUCKET_MAX || strlen(key) > HPL_OBJECT_KEY_MAX)
        return hpl_fail(call, HPL_NO_SUCH_OBJECT, "no object has so long a name");
    enum hpl_status status = hpl_store_get_object(call, s3->store, bucket, key, false, &object, NULL, NULL);
    if (status == HPL_OK)
        status = explain(s3, call, &object, answer);
    hpl_object_wipe(&object);
    return status;
}
