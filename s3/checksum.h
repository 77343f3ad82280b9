/* Checksums of a body as it passes: what S3 clients send in headers and trailers. One thread a set. */
#ifndef HPL_S3_CHECKSUM_H
#define HPL_S3_CHECKSUM_H

#include "base/bytes.h"
#include "base/hash.h"

enum hpl_checksum_kind { HPL_SUM_MD5, HPL_SUM_CRC32, HPL_SUM_CRC32C, HPL_SUM_CRC64NVME, HPL_SUM_SHA1, HPL_SUM_SHA256, HPL_NUM_SUMS };

struct hpl_checksum_name {
    const char *header;  /* "x-amz-checksum-crc32" */
    const char *element; /* "ChecksumCRC32" */
    const char *word;    /* "CRC32" */
    size_t len;
};
const struct hpl_checksum_name *hpl_checksum_name(enum hpl_checksum_kind kind);

/* Which are computed: bits of 1 << kind. */
struct hpl_checksums {
    unsigned wanted;
    uint32_t crc32, crc32c;
    uint64_t crc64;
    struct hpl_hash md5, sha1, sha256;
    uint8_t value[HPL_NUM_SUMS][32]; /* after final */
};

enum hpl_status hpl_checksums_init(struct hpl_checksums *sums, unsigned wanted) HPL_MUST_USE;
void hpl_checksums_update(struct hpl_checksums *sums, const uint8_t *data, size_t len);
void hpl_checksums_final(struct hpl_checksums *sums);
/* CRC kinds only: sum, of some bytes, becomes that of these bytes and next_len more whose own sum is next. Values as they are sent: big-endian. */
bool hpl_checksum_can_join(enum hpl_checksum_kind kind);
void hpl_checksum_join(enum hpl_checksum_kind kind, uint8_t *sum, const uint8_t *next, uint64_t next_len);
void hpl_checksums_wipe(struct hpl_checksums *sums);

#endif
