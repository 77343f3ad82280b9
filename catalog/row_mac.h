/* What authenticates the catalog: rows, the head over all of them, and the sealing of small secrets. Pure; any thread.
 * The canonical bytes are written down in README.md. */
#ifndef HPL_CATALOG_ROW_MAC_H
#define HPL_CATALOG_ROW_MAC_H

#include "base/bytes.h"
#include "base/secret.h"

#define HPL_CATALOG_MAC_LEN 32u
#define HPL_CATALOG_DEPLOYMENT_LEN 16u
#define HPL_CATALOG_NAME_MAX 1024u /* bytes of a type or a name */

/* One catalog's MAC key and what every MAC is bound to. key is borrowed. */
struct hpl_catalog_binding {
    const struct hpl_secret *key;
    uint8_t deployment[HPL_CATALOG_DEPLOYMENT_LEN];
};

/* The head: how many writes there were, how many rows there are, and the xor of their elements. */
struct hpl_catalog_head {
    uint64_t generation, num_rows;
    uint8_t sum[HPL_CATALOG_MAC_LEN];
};

/* The head as it lies in the file: the sum under a mask of its own, so that watching it tells nothing about elements. */
struct hpl_catalog_stored_head {
    uint64_t generation, num_rows;
    uint8_t nonce[HPL_CATALOG_MAC_LEN], masked[HPL_CATALOG_MAC_LEN], mac[HPL_CATALOG_MAC_LEN];
};

/* The MAC key of a root secret. NULL when the secret region is full. */
struct hpl_secret *hpl_catalog_mac_key(const struct hpl_secret *root) HPL_MUST_USE;

/* Tells whether a root secret is the one a deployment was made with, without telling anything about it. */
void hpl_catalog_root_check(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_binding *binding);

/* type and name have at most HPL_CATALOG_NAME_MAX bytes. */
void hpl_catalog_row_mac(uint8_t out[static HPL_CATALOG_MAC_LEN], const struct hpl_catalog_binding *binding, const char *type,
                         const char *name, uint64_t revision, struct hpl_bytes content);

/* Brings a row with this MAC into the sum, or takes it out again: both are the same xor. Does not touch num_rows. */
void hpl_catalog_head_toggle(struct hpl_catalog_head *head, const struct hpl_catalog_binding *binding, const char *type,
                             const char *name, const uint8_t mac[static HPL_CATALOG_MAC_LEN]);

/* HPL_INTERNAL without random numbers. */
enum hpl_status hpl_catalog_head_close(struct hpl_call *call, const struct hpl_catalog_head *head,
                                       const struct hpl_catalog_binding *binding,
                                       struct hpl_catalog_stored_head *stored) HPL_MUST_USE;
/* False when the stored head was changed. */
bool hpl_catalog_head_open(const struct hpl_catalog_stored_head *stored, const struct hpl_catalog_binding *binding,
                           struct hpl_catalog_head *head) HPL_MUST_USE;

enum hpl_status hpl_catalog_seal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                       const struct hpl_secret *secret, struct hpl_buf *out) HPL_MUST_USE;
enum hpl_status hpl_catalog_unseal_under(struct hpl_call *call, const struct hpl_secret *root, const char *label,
                                         struct hpl_bytes sealed, struct hpl_secret **out) HPL_MUST_USE;

#endif
