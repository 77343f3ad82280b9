/* How often each version of a key wrapped, for keys that rotate by wraps. Counted in memory; a block at a time is written to the catalog before it is
 * used (type "wraps", name the uid in hex, content version u32 and count u64), so that a crash or another process can only count too many. */
#ifndef HPL_KMS_WRAPS_H
#define HPL_KMS_WRAPS_H

#include "kms/record.h"

struct hpl_wraps;

/* NULL when memory is out. Any thread for all of these. */
struct hpl_wraps *hpl_wraps_new(struct hpl_catalog *catalog);
void hpl_wraps_free(struct hpl_wraps *wraps);

/* One more wrap under the record's version; nothing for a key that does not rotate by wraps. Blocks on the catalog once a block. */
enum hpl_status hpl_wraps_take(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record) HPL_MUST_USE;

/* How many are counted under the record's version, blocks that are begun included. */
enum hpl_status hpl_wraps_count(struct hpl_call *call, struct hpl_wraps *wraps, const struct hpl_key_record *record, uint64_t *count) HPL_MUST_USE;

#endif
