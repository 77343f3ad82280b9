/* S3's aws-chunked payload (the "Signature calculations: transferring payload in multiple chunks" pages): chunks that each prove
 * themselves by a signature chained to the one before, or unsigned chunks, with signed or unsigned trailers. Pure but for hashing. */
#ifndef HPL_HTTP_AWS_CHUNKED_H
#define HPL_HTTP_AWS_CHUNKED_H

#include "auth/sigv4.h"
#include "base/hash.h"
#include "http/chunked.h"

struct hpl_aws_chunked {
    struct hpl_chunked chunked;
    struct hpl_sigv4_payload *payload; /* the caller's; its mode is one of HPL_PAYLOAD_CHUNKED_* */
    struct hpl_hash hash;              /* of the present chunk */
    char signature[65];                /* of the present chunk, as sent */
};

void hpl_aws_chunked_init(struct hpl_aws_chunked *aws, struct hpl_sigv4_payload *payload);
/* Takes bytes off *input until there is data (*span) or the input is used up; *is_done once the last chunk and the trailers
 * were read and everything signed was right. Data is handed out before its chunk's signature has come: nothing may become
 * visible before is_done. HPL_INVALID_REQUEST, HPL_AUTH_BAD_SIGNATURE. */
enum hpl_status hpl_aws_chunked_next(struct hpl_call *call, struct hpl_aws_chunked *aws, struct hpl_bytes *input,
                                     struct hpl_bytes *span, bool *is_done) HPL_MUST_USE;
void hpl_aws_chunked_wipe(struct hpl_aws_chunked *aws);

#endif
