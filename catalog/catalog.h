/* The catalog: everything that decides who may do what and which key is which — key records, configuration, credentials, jobs —
 * as authenticated rows changed only by compare-and-swap. Never object listings. SQLite (WAL) underneath; blocking, so never on
 * an event loop; any thread. */
#ifndef HPL_CATALOG_CATALOG_H
#define HPL_CATALOG_CATALOG_H

#include "base/bytes.h"
#include "base/secret.h"

struct hpl_catalog;

/* Opens or creates the catalog file (0600). Every row carries HMAC-SHA256 under an HKDF subkey of the root secret over type,
 * name, deployment, revision and content; the set of rows has a MACed head, so that a row taken away or rolled back alone is
 * found at open. HPL_INTEGRITY names the row, or how many. HPL_INVALID_CONFIGURATION: the root secret is not the one that the
 * catalog was made with. HPL_UNAVAILABLE: another process held it for ten seconds. */
enum hpl_status hpl_catalog_open(struct hpl_call *call, struct hpl_catalog **out, const char *path,
                                 const struct hpl_secret *root) HPL_MUST_USE;
void hpl_catalog_close(struct hpl_catalog *catalog);

/* 16 random bytes made at creation: which deployment this is. */
const uint8_t *hpl_catalog_deployment(const struct hpl_catalog *catalog);

/* Appends the row's content to *content and gives its revision (1 and up). HPL_NOT_FOUND, HPL_INTEGRITY. */
enum hpl_status hpl_catalog_get(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                struct hpl_buf *content, uint64_t *revision) HPL_MUST_USE;

/* Writes the row if its revision still is expected (0: it must not exist). HPL_STALE when not, HPL_NO_SPACE when the disk is full,
 * HPL_INVALID_ARGUMENT for a name over 1024 bytes, with nothing changed. Durable when it returns. *revision (may be NULL) gets
 * the new one, expected + 1. */
enum hpl_status hpl_catalog_put(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                uint64_t expected, struct hpl_bytes content, uint64_t *revision) HPL_MUST_USE;
enum hpl_status hpl_catalog_delete(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *name,
                                   uint64_t expected) HPL_MUST_USE;

/* Rows of a type in byte order of their names, after (NULL: from the first), at most limit. Each row verified; the callback
 * returns false to stop and must not call the catalog. A row that does not verify is given with HPL_INTEGRITY and no content, so
 * that it harms only itself. */
typedef bool (*hpl_catalog_row_fn)(void *arg, const char *name, uint64_t revision, enum hpl_status status,
                                   struct hpl_bytes content);
enum hpl_status hpl_catalog_list(struct hpl_call *call, struct hpl_catalog *catalog, const char *type, const char *after,
                                 size_t limit, hpl_catalog_row_fn fn, void *arg) HPL_MUST_USE;

/* Seals a small secret for a row's content: AES-256-GCM under a subkey of the root secret and a fresh salt, bound to label.
 * Appends salt, ciphertext and tag. Unseal takes exactly what seal made; HPL_INTEGRITY otherwise. */
enum hpl_status hpl_catalog_seal(struct hpl_call *call, struct hpl_catalog *catalog, const char *label,
                                 const struct hpl_secret *secret, struct hpl_buf *out) HPL_MUST_USE;
enum hpl_status hpl_catalog_unseal(struct hpl_call *call, struct hpl_catalog *catalog, const char *label,
                                   struct hpl_bytes sealed, struct hpl_secret **out) HPL_MUST_USE;

#endif
