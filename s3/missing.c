/* What S3 has and this surface has not. A request for it is refused by name: it never succeeds by doing something else, or nothing. */
#include "s3/internal.h"

#include <strings.h>

#include "http/head.h"

/* Sub-resources that are served nowhere here. */
static const char *const sub_resources[] = {
    "abac", "accelerate", "acl", "analytics", "annotation", "attributes", "cors", "encryption", "intelligent-tiering", "inventory", "legal-hold", "lifecycle",
    "logging", "metadataAnnotationTable", "metadataConfiguration", "metadataInventoryTable", "metadataJournalTable", "metadataTable", "metrics", "notification",
    "object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "renameObject", "replication", "requestPayment", "restore", "retention",
    "select", "session", "tagging", "torrent", "versioning", "versions", "versionId", "website",
};

/* Headers that ask for more than an object and its encryption, and the values of them that ask for nothing. A name that ends in '-' stands for all that start so. */
static const struct { const char *name, *harmless[2]; } headers[] = {
    {"x-amz-acl", {"private", "bucket-owner-full-control"}},
    {"x-amz-bucket-object-lock-enabled", {"false"}},
    {"x-amz-copy-source", {NULL}},
    {"x-amz-grant-", {NULL}},
    {"x-amz-if-match-", {NULL}},
    {"x-amz-object-lock-", {NULL}},
    {"x-amz-storage-class", {"STANDARD"}},
    {"x-amz-tagging", {NULL}},
    {"x-amz-website-redirect-location", {NULL}},
    {"x-amz-write-offset-bytes", {NULL}},
};

static bool starts_with(struct hpl_bytes name, const char *prefix)
{
    size_t len = strlen(prefix);
    return name.len >= len && strncasecmp((const char *)name.data, prefix, len) == 0;
}

static bool is_missing_feature(const struct hpl_sigv4_header *header)
{
    for (size_t i = 0; i < HPL_COUNT(headers); i++) {
        const char *name = headers[i].name;
        bool is_it = name[strlen(name) - 1] == '-' ? starts_with(header->name, name) : hpl_http_is_word(header->name, name);
        if (!is_it)
            continue;
        bool is_harmless = header->value.len == 0;
        for (size_t j = 0; j < HPL_COUNT(headers[i].harmless) && headers[i].harmless[j]; j++)
            is_harmless = is_harmless || hpl_bytes_equal(header->value, hpl_bytes_str(headers[i].harmless[j]));
        return !is_harmless;
    }
    return false;
}

/* The SDKs know more checksums than these; one that nobody compares must not look as if it had been. */
static bool is_missing_checksum(struct hpl_bytes name)
{
    static const char *const others[] = {"x-amz-checksum-algorithm", "x-amz-checksum-mode", "x-amz-checksum-type"};
    if (!starts_with(name, "x-amz-checksum-"))
        return false;
    for (size_t i = 0; i < HPL_COUNT(others); i++)
        if (hpl_http_is_word(name, others[i]))
            return false;
    for (int kind = HPL_SUM_CRC32; kind < HPL_NUM_SUMS; kind++)
        if (hpl_http_is_word(name, hpl_checksum_name(kind)->header))
            return false;
    return true;
}

enum hpl_status hpl_s3_refuse_sub_resources(struct hpl_s3_request *request)
{
    for (size_t i = 0; i < HPL_COUNT(sub_resources); i++)
        if (hpl_s3_parameter(request, sub_resources[i]))
            return hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "the sub-resource '%s' is not implemented", sub_resources[i]);
    return HPL_OK;
}

/* Whose bucket the client means, where it says so. */
static enum hpl_status check_owner(struct hpl_s3_request *request, const struct hpl_sigv4_header *said)
{
    if (said->value.len == 0 || !hpl_http_is_word(said->name, "x-amz-expected-bucket-owner") || hpl_bytes_equal(said->value, hpl_bytes_str(HPL_S3_OWNER)))
        return HPL_OK;
    return hpl_fail(request->call, HPL_ACCESS_DENIED, "the bucket's owner is '" HPL_S3_OWNER "', not the one that x-amz-expected-bucket-owner names");
}

enum hpl_status hpl_s3_refuse_headers(struct hpl_s3_request *request)
{
    for (size_t i = 0; i < request->http->num_headers; i++) {
        const struct hpl_sigv4_header *header = &request->http->headers[i];
        if (is_missing_feature(header) || is_missing_checksum(header->name))
            return hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "what the header %.*s asks for is not implemented", (int)(header->name.len > 60 ? 60 : header->name.len),
                            (const char *)header->name.data);
        HPL_TRY(check_owner(request, header));
    }
    for (size_t i = 0; i < request->num_parameters; i++) { /* where a presigned request may carry them */
        const struct hpl_s3_parameter *parameter = &request->parameters[i];
        const struct hpl_sigv4_header said = {hpl_bytes_str(parameter->name), hpl_bytes_str(parameter->value)};
        if (is_missing_feature(&said))
            return hpl_fail(request->call, HPL_NOT_IMPLEMENTED, "what the parameter %.60s asks for is not implemented", parameter->name);
        HPL_TRY(check_owner(request, &said));
    }
    return HPL_OK;
}
