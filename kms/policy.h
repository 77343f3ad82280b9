/* Who may use a key, for what and with which context: a list of grants in the key's record. Pure but for the log; any thread.
 *   {"grants": [{"principals": ["ops", "role:objects", "*"], "operations": ["GenerateDataKey", "Decrypt", "Rewrap", "*"],
 *                "purposes": ["object", "api"], "context": {"tenant": "a"}}]}
 * A key without a policy is used as the account's own rules say; with one, every use needs a grant that fits it as a whole. A policy only narrows: it
 * lets nobody in whom the account's rules keep out. Changing it takes the right to, not a grant. */
#ifndef HPL_KMS_POLICY_H
#define HPL_KMS_POLICY_H

#include "kms/record.h"

enum hpl_key_operation { HPL_OP_GENERATE, HPL_OP_DECRYPT, HPL_OP_REWRAP };

/* Whether this is a policy. An unknown member is refused too: a mistyped condition would let in more than was meant. HPL_INVALID_REQUEST by name. */
enum hpl_status hpl_policy_check(struct hpl_call *call, const json_t *policy) HPL_MUST_USE;

/* HPL_OK when the key's policy lets call's principal do this, or the daemon itself asks; HPL_ACCESS_DENIED names operation and key. */
enum hpl_status hpl_policy_allows(struct hpl_call *call, const struct hpl_key_record *record, enum hpl_key_operation operation, enum hpl_purpose purpose,
                                  const struct hpl_context *context) HPL_MUST_USE;

/* The policy, then the state: HPL_OK when call's principal may use the key so now. What every use asks before a backend or a cache of keys is. */
enum hpl_status hpl_key_may_be_used(struct hpl_call *call, const struct hpl_key_record *record, enum hpl_key_operation operation, enum hpl_purpose purpose,
                                    const struct hpl_context *context) HPL_MUST_USE;

/* "object", "api" …; the name that policies and explanations use. */
const char *hpl_purpose_name(uint8_t purpose);

#endif
