/* What the files of s3/ share. Everything runs as jobs of the BULK pool, one at a time for each request, and may block. */
#ifndef HPL_S3_INTERNAL_H
#define HPL_S3_INTERNAL_H

#include "base/codec.h"
#include "engine/seal/manifest.h"
#include "s3/checksum.h"
#include "s3/s3.h"
#include "s3/store.h"
#include "s3/xml.h"

#define HPL_S3_MAX_PART (5ull << 30)   /* bytes in one request */
#define HPL_S3_MIN_PART (5ull << 20)   /* of every part but the last */
#define HPL_S3_MAX_PARAMETERS 64u
#define HPL_S3_MAX_NAME (11u + 2048u)  /* of a header that is kept: all of the user metadata may be one name */
#define HPL_S3_MAX_ASKED INT32_MAX       /* rows of a listing: more than a page may be asked for */
#define HPL_S3_PAGE 1000                 /* rows of a listing that are given at most */
#define HPL_S3_OWNER "hardplate"      /* of everything; there are no accounts */
#define HPL_S3_PIECE (16u * HPL_PACKAGE_LEN) /* 1 MiB of plaintext at a time */

struct hpl_s3 {
    struct hpl_s3_options options;
    struct hpl_store *store;
};

struct hpl_s3_parameter {
    char *name, *value; /* decoded; value "" where none was given */
};

/* Which encryption a request asks for. */
struct hpl_sse {
    enum hpl_seal_mode mode;
    char key_id[HPL_KEY_ID_MAX + 1];  /* SSE-KMS: as sent; "" none sent */
    struct hpl_secret *customer_key;  /* SSE-C */
    char customer_md5[25];            /* as sent, for the answer */
    json_t *context;                  /* client's encryption context, an object of strings; NULL none */
};

struct hpl_s3_operation;

/* One request on its way through. */
struct hpl_s3_request {
    struct hpl_s3 *s3;
    struct hpl_http_exchange *exchange;
    const struct hpl_http_request *http;
    struct hpl_call *call;
    const struct hpl_s3_operation *operation;
    struct hpl_identity identity;
    bool is_body_signed;                          /* the signature covers every byte of it */
    char bucket[HPL_BUCKET_MAX + 1];
    char key[HPL_OBJECT_KEY_MAX + 1];
    struct hpl_s3_parameter parameters[HPL_S3_MAX_PARAMETERS];
    size_t num_parameters;
    struct hpl_sse sse;
    struct hpl_put *put; /* object_put.c */
    struct hpl_get *get; /* object_get.c */
};

typedef enum hpl_status hpl_s3_begin_fn(struct hpl_s3_request *request);

/* A row of the table in s3.c. begin answers, or leaves it to the body and end. */
struct hpl_s3_operation {
    const char *method;
    int level;               /* 0 service, 1 bucket, 2 object */
    const char *parameter;   /* the sub-resource or parameter that picks it; NULL: none */
    const char *action;      /* "s3:…" */
    enum { HPL_BODY_NONE, HPL_BODY_WHOLE, HPL_BODY_STREAM } body;
    hpl_s3_begin_fn *begin;  /* may be NULL for HPL_BODY_WHOLE */
    hpl_s3_begin_fn *end;
};

/* --- request.c */
enum hpl_status hpl_s3_parse(struct hpl_s3_request *request) HPL_MUST_USE;
void hpl_s3_request_free(struct hpl_s3_request *request);
/* A query parameter's value, or NULL. */
const char *hpl_s3_parameter(const struct hpl_s3_request *request, const char *name);
/* A number from least to most; fallback where it is missing. HPL_INVALID_ARGUMENT by name. */
enum hpl_status hpl_s3_number(struct hpl_s3_request *request, const char *name, int64_t least, int64_t most, int64_t fallback, int64_t *out) HPL_MUST_USE;
/* A header as a NUL-ended copy in out; false when it is missing. HPL_INVALID_ARGUMENT when too long. */
enum hpl_status hpl_s3_header(struct hpl_s3_request *request, const char *name, char *out, size_t size, bool *is_there) HPL_MUST_USE;
/* Who owns, or initiated, anything here. */
void hpl_s3_put_owner(struct hpl_buf *xml, const char *element);
void hpl_s3_send_xml(struct hpl_s3_request *request, int status, struct hpl_buf *xml); /* wipes xml */
void hpl_s3_send_empty(struct hpl_s3_request *request, int status);

/* --- missing.c: HPL_NOT_IMPLEMENTED by name for what S3 has and this surface has not */
enum hpl_status hpl_s3_refuse_sub_resources(struct hpl_s3_request *request) HPL_MUST_USE;
/* Headers; also HPL_ACCESS_DENIED where the client expects another owner of the bucket. */
enum hpl_status hpl_s3_refuse_headers(struct hpl_s3_request *request) HPL_MUST_USE;

/* --- sse.c */
/* Reads the headers of a request that stores. HPL_INVALID_REQUEST and friends; nothing was stored. */
enum hpl_status hpl_sse_read(struct hpl_s3_request *request) HPL_MUST_USE;
/* Those of a read: the customer key's three, or none. */
enum hpl_status hpl_sse_read_get(struct hpl_s3_request *request) HPL_MUST_USE;
/* A copy of the customer key, which was read, as a data key. */
enum hpl_status hpl_sse_data_key(struct hpl_s3_request *request, struct hpl_secret **out) HPL_MUST_USE;
void hpl_sse_wipe(struct hpl_sse *sse);
/* The answer's headers for an object of this mode; key_id "": none. The envelope tells whether a bucket key is behind it. */
void hpl_sse_answer(struct hpl_s3_request *request, enum hpl_seal_mode mode, const char *key_id, struct hpl_bytes envelope);

/* --- object.c: what makes stored bytes an object */
struct hpl_sums_text {
    char etag[80];                                /* without quotes */
    char value[HPL_NUM_SUMS][64];                 /* base64, maybe with "-N"; "" none */
    bool is_composite;
};
/* The context of an object: client's pairs, bucket and key; sorted, unique. The pairs' bytes live in context and the request. */
enum hpl_status hpl_object_context(struct hpl_call *call, const json_t *context, const char *bucket, const char *key, json_t **out) HPL_MUST_USE;
/* Sorted pairs of an object of strings; free() *pairs, whose views live as long as object. */
enum hpl_status hpl_object_pairs(const json_t *object, struct hpl_pair **pairs, uint32_t *num_pairs) HPL_MUST_USE;
/* generate and decrypt with such a context. */
enum hpl_status hpl_object_generate(struct hpl_s3_request *request, const json_t *context, struct hpl_secret **secret, struct hpl_buf *envelope, struct hpl_key_ref *ref) HPL_MUST_USE;
enum hpl_status hpl_object_decrypt(struct hpl_s3_request *request, struct hpl_bytes envelope, const struct hpl_manifest *manifest, struct hpl_secret **secret) HPL_MUST_USE;
/* ETag and checksums, sealed under the root secret for this instance. label: "object", or one a part. */
enum hpl_status hpl_object_seal_json(struct hpl_s3 *s3, struct hpl_call *call, const uint8_t instance[static 16], const char *label, const json_t *value, struct hpl_buf *out) HPL_MUST_USE;
enum hpl_status hpl_object_open_json(struct hpl_s3 *s3, struct hpl_call *call, const uint8_t instance[static 16], const char *label, struct hpl_bytes sealed, json_t **out) HPL_MUST_USE;
json_t *hpl_sums_json(const struct hpl_sums_text *sums);
void hpl_sums_read(const json_t *value, struct hpl_sums_text *sums);
/* MAC ‖ canonical form, appended. */
enum hpl_status hpl_object_close(struct hpl_call *call, const struct hpl_manifest *manifest, const struct hpl_secret *manifest_key, struct hpl_buf *out) HPL_MUST_USE;
/* Unverified; for listings and for finding out which key verifies. hpl_manifest_wipe. */
enum hpl_status hpl_object_peek(struct hpl_call *call, const struct hpl_object *object, struct hpl_manifest *manifest) HPL_MUST_USE;
/* Metadata headers of a request as an object of strings, names in lower case. */
enum hpl_status hpl_object_metadata(struct hpl_s3_request *request, json_t **out) HPL_MUST_USE;
const char *hpl_pair_text(const struct hpl_pair *pairs, uint32_t num_pairs, const char *name, char *out, size_t size);
#define HPL_KEY_ID_NAME "x-amz-server-side-encryption-aws-kms-key-id"

/* --- object_put.c */
hpl_s3_begin_fn hpl_s3_put_begin, hpl_s3_put_end, hpl_s3_part_begin, hpl_s3_part_end;
enum hpl_status hpl_s3_put_body(struct hpl_s3_request *request, const uint8_t *data, size_t len) HPL_MUST_USE;
void hpl_put_free(struct hpl_s3_request *request);
/* Which checksums the request sends or asks for, as bits; the one that it names most plainly in *main (HPL_NUM_SUMS: none). */
enum hpl_status hpl_s3_wanted_sums(struct hpl_s3_request *request, unsigned *wanted, enum hpl_checksum_kind *main) HPL_MUST_USE;
/* If-None-Match: * of a write; any other condition is HPL_NOT_IMPLEMENTED. */
enum hpl_status hpl_s3_write_conditions(struct hpl_s3_request *request, bool *must_be_new) HPL_MUST_USE;
void hpl_s3_sums_answer(struct hpl_s3_request *request, const struct hpl_sums_text *sums);

/* --- object_get.c */
hpl_s3_begin_fn hpl_s3_get_begin, hpl_s3_head_begin;
enum hpl_status hpl_s3_get_produce(struct hpl_s3_request *request, uint8_t *to, size_t cap, size_t *len) HPL_MUST_USE;
void hpl_get_free(struct hpl_s3_request *request);

/* --- the others */
hpl_s3_begin_fn hpl_s3_list_buckets, hpl_s3_create_bucket, hpl_s3_head_bucket, hpl_s3_delete_bucket, hpl_s3_location;
hpl_s3_begin_fn hpl_s3_delete_object, hpl_s3_delete_objects;
hpl_s3_begin_fn hpl_s3_list_v1, hpl_s3_list_v2;
hpl_s3_begin_fn hpl_s3_create_upload, hpl_s3_complete_upload, hpl_s3_abort_upload, hpl_s3_list_parts, hpl_s3_list_uploads;

/* --- multipart.c: what an upload keeps sealed until it ends */
struct hpl_upload_state {
    json_t *json;                     /* as kept: mode, instance, context, metadata, sums … */
    uint8_t instance[16];
    enum hpl_seal_mode mode;
    struct hpl_secret *manifest_key;
    struct hpl_buf envelope;
};
enum hpl_status hpl_upload_open(struct hpl_s3_request *request, const struct hpl_upload *upload, struct hpl_upload_state *state) HPL_MUST_USE;
/* A part or a completion may say again how the upload is encrypted, but nothing else: HPL_INVALID_REQUEST. After hpl_sse_read. */
enum hpl_status hpl_upload_check_sse(struct hpl_s3_request *request, const struct hpl_upload_state *state) HPL_MUST_USE;
void hpl_upload_state_wipe(struct hpl_upload_state *state);
/* Which checksum the parts and the whole have, HPL_NUM_SUMS for none, and whether the whole's is made of the parts' checksums or of their bytes. */
enum hpl_checksum_kind hpl_upload_sum(const struct hpl_upload_state *state, bool *is_composite);

/* A part as it was acknowledged. */
struct hpl_kept_part {
    struct hpl_manifest_part part;
    uint8_t file[HPL_FILE_ID_LEN];
    int64_t modified_ms;
    struct hpl_sums_text sums;
};
struct hpl_kept_parts {
    struct hpl_s3_request *request;
    const char *upload_id;
    const uint8_t *instance;
    struct hpl_kept_part *list; /* ascending; the caller's to free */
    size_t count, cap, max;
    bool is_truncated;
    enum hpl_status status;
};
/* Those with numbers above after, up to max. */
enum hpl_status hpl_upload_load_parts(struct hpl_kept_parts *parts, uint32_t after) HPL_MUST_USE;

/* The label that a part's state is sealed under. */
void hpl_part_label(char out[static 64], const char *upload_id, uint32_t number);

#endif
