/* Configure bodies: both spellings of the documents in, one normal form out; and how the configuration is kept. */
#ifndef HPL_KMS_CONFIG_H
#define HPL_KMS_CONFIG_H

#include "kms/kms.h"

#define HPL_KMS_FALLBACK_KEY "rustfs-default-key"

/* The fields that every backend has. */
struct hpl_kms_settings {
    const struct hpl_backend *backend;
    char default_key_id[HPL_KEY_ID_MAX + 1]; /* "" : none configured */
    bool enable_cache;
    int64_t cache_ttl_seconds, max_cached_keys, timeout_seconds, retry_attempts;
    int64_t queue; /* callers in the backend at once; whoever comes then is refused */
};

/* What neither the service nor the backend reads is ignored: two bodies that differ in it are the same configuration. Takes it out of config. */
void hpl_kms_drop_unknown(const struct hpl_kms_options *options, json_t *config);

/* The normal form of a body: new names, lower-case backend name, null members and those that nobody reads dropped. Laid over base (may be NULL), whose
 * backend's own fields are dropped when the backend changes. HPL_INVALID_REQUEST by name. *out is the caller's. */
enum hpl_status hpl_kms_normalise(struct hpl_call *call, const struct hpl_kms_options *options, const json_t *body, const json_t *base,
                                  json_t **out) HPL_MUST_USE;

/* Whether two normal forms name the same backend in the same way: they differ in the common fields at most. */
bool hpl_kms_is_same_backend(const json_t *a, const json_t *b);

/* Checks a normal form as a whole, without touching anything outside. */
enum hpl_status hpl_kms_read_settings(struct hpl_call *call, const struct hpl_kms_options *options, const json_t *config,
                                      struct hpl_kms_settings *out) HPL_MUST_USE;

/* 1 to 255 bytes of UTF-8 without control characters, not starting or ending in a space. */
enum hpl_status hpl_kms_check_key_id(struct hpl_call *call, const char *key_id) HPL_MUST_USE;

/* {"sealed": base64} ↔ a JSON value, sealed under the root secret for label. *out is the caller's. */
enum hpl_status hpl_kms_seal_json(struct hpl_call *call, struct hpl_catalog *catalog, const char *label, const json_t *value, json_t **out) HPL_MUST_USE;
enum hpl_status hpl_kms_unseal_json(struct hpl_call *call, struct hpl_catalog *catalog, const char *label, const json_t *sealed, json_t **out) HPL_MUST_USE;

#endif
