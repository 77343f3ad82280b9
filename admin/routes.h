/* The table of admin routes and what a route's function gets. Jobs, which may block; what is quick runs on an I/O thread, with call->must_not_wait. */
#ifndef HPL_ADMIN_ROUTES_H
#define HPL_ADMIN_ROUTES_H

#include "admin/admin.h"

/* One verified request: signature, action and JSON are already right. */
struct hpl_admin_request {
    struct hpl_admin *admin;
    struct hpl_call *call;
    const char *access_key;
    bool is_private;       /* by TLS, or within this machine */
    const json_t *body;    /* an object; empty where none was sent */
    struct hpl_bytes query; /* raw */
    const char *tail;      /* what stands for "*" in the path, decoded; "" without one */
    struct hpl_buf *text;  /* a route that is asked often writes its answer here as JSON text, and leaves *answer NULL; wiped after it was sent */
};

struct hpl_admin_route {
    const char *method;
    const char *path;   /* behind the prefix; a final "*" takes one decoded segment */
    const char *action; /* "kms:…" */
    bool gives_keys;    /* plaintext keys go through it: refused on a plaintext connection off loopback */
    int http_ok;        /* 200, or 204 for an empty answer */
    enum hpl_status (*run)(const struct hpl_admin_request *request, json_t **answer);
};

/* The route, or NULL with the methods that would fit appended to allowed. tail gets the "*" part decoded. */
const struct hpl_admin_route *hpl_admin_find_route(struct hpl_bytes method, struct hpl_bytes path, char *tail, size_t tail_size,
                                                   struct hpl_buf *allowed);

/* A query parameter's decoded value into value (size bytes with the NUL). HPL_NOT_FOUND when it is not there,
 * HPL_INVALID_REQUEST when it is malformed or too long. */
enum hpl_status hpl_admin_query(const struct hpl_admin_request *request, const char *name, char *value, size_t size) HPL_MUST_USE;

/* The one of these names (NULL-terminated) under which the body has a member, null aside; NULL where it has it under none. HPL_INVALID_REQUEST when two of them say different things. */
enum hpl_status hpl_admin_spelling(const struct hpl_admin_request *request, const char *const names[], const char **name) HPL_MUST_USE;
/* That member, of its type or refused by its name; without one *out stays as it was. Lives as long as the body. */
enum hpl_status hpl_admin_text(const struct hpl_admin_request *request, const char *const names[], const char **out) HPL_MUST_USE;
enum hpl_status hpl_admin_object(const struct hpl_admin_request *request, const char *const names[], const json_t **out) HPL_MUST_USE;

/* What the body says of a new key, or of one that is there: its "description" (or "Description") and its "tags" (or "Tags"). As above. */
enum hpl_status hpl_admin_description(const struct hpl_admin_request *request, const char **description) HPL_MUST_USE;
enum hpl_status hpl_admin_tags(const struct hpl_admin_request *request, const json_t **tags) HPL_MUST_USE;

/* The key that the body names, "key_id" (or "KeyId", "keyId"); NULL where it names none. HPL_INVALID_REQUEST for an empty or over-long one. */
enum hpl_status hpl_admin_key_id_in_body(const struct hpl_admin_request *request, const char **key_id) HPL_MUST_USE;
/* The key that a request is about: of the body, or a query parameter. HPL_INVALID_REQUEST when neither is there. */
enum hpl_status hpl_admin_key_id(const struct hpl_admin_request *request, char key_id[static HPL_KEY_ID_MAX + 1]) HPL_MUST_USE;
/* The answer of a key route, {"success", "message", "key_id", "key_metadata"}; takes metadata. */
enum hpl_status hpl_admin_metadata(json_t *metadata, json_t **answer) HPL_MUST_USE;

/* The encryption context of the body, under either document's name: views that are good as long as it lives; none where the member is missing. */
#define HPL_ADMIN_MAX_PAIRS 64
struct hpl_admin_context {
    struct hpl_context_pair pairs[HPL_ADMIN_MAX_PAIRS];
    struct hpl_context view;
};
enum hpl_status hpl_admin_context(const struct hpl_admin_request *request, struct hpl_admin_context *context) HPL_MUST_USE;
/* Appends the envelope that the body has as name, or under one of the others' names for it. HPL_INVALID_REQUEST when it is missing or no Base64. */
enum hpl_status hpl_admin_envelope(const struct hpl_admin_request *request, const char *name, struct hpl_buf *envelope) HPL_MUST_USE;
/* Base64 as a JSON string; NULL when memory is out. */
json_t *hpl_admin_base64(const void *data, size_t len);

typedef enum hpl_status hpl_admin_run_fn(const struct hpl_admin_request *request, json_t **answer);
hpl_admin_run_fn hpl_admin_configure, hpl_admin_reconfigure, hpl_admin_start, hpl_admin_stop, hpl_admin_status, hpl_admin_config,
    hpl_admin_clear_cache;
hpl_admin_run_fn hpl_admin_create_key, hpl_admin_list_keys, hpl_admin_describe_key, hpl_admin_delete_key, hpl_admin_cancel_deletion,
    hpl_admin_enable_key, hpl_admin_disable_key, hpl_admin_rotate_key, hpl_admin_describe_key_of_query, hpl_admin_get_policy, hpl_admin_put_policy, hpl_admin_put_caching,
    hpl_admin_update_description, hpl_admin_tag_key, hpl_admin_untag_key, hpl_admin_put_rotation, hpl_admin_import_parameters, hpl_admin_import_key;
hpl_admin_run_fn hpl_admin_named_create, hpl_admin_named_status, hpl_admin_named_list, hpl_admin_named_enable,
    hpl_admin_named_disable, hpl_admin_named_rotate;
hpl_admin_run_fn hpl_admin_generate, hpl_admin_generate_many, hpl_admin_decrypt;
hpl_admin_run_fn hpl_admin_rewrap, hpl_admin_explain, hpl_admin_backends, hpl_admin_detach;

#endif
