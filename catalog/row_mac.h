/* What authenticates a catalog row, and the sealing of small secrets. Pure; any thread. */
#ifndef HPL_CATALOG_ROW_MAC_H
#define HPL_CATALOG_ROW_MAC_H

#include "base/bytes.h"
#include "base/secret.h"

#define HPL_CATALOG_MAC_LEN 32u

/* The MAC key of a root secret. NULL when the secret region is full. */
struct hpl_secret *hpl_catalog_mac_key(const struct hpl_secret *root) HPL_MUST_USE;

void hpl_catalog_row_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_secret *key, const uint8_t deployment[static 16],
                         const char *type, const char *name, uint64_t revision, struct hpl_bytes content);
void hpl_catalog_head_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_secret *key, const uint8_t deployment[static 16],
                          uint64_t generation, const uint8_t sum[static HPL_CATALOG_MAC_LEN]);

enum hpl_status hpl_catalog_seal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                       const struct hpl_secret *secret, struct hpl_buf *out) HPL_MUST_USE;
enum hpl_status hpl_catalog_unseal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                         struct hpl_bytes sealed, struct hpl_secret **out) HPL_MUST_USE;

#endif
