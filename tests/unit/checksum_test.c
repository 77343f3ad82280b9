/* Is a body's checksum the same in one piece and joined of pieces? */
#include "tests/test.h"

#include <stdlib.h>
#include <openssl/rand.h>

#include "s3/checksum.h"

static void sum_of(enum hpl_checksum_kind kind, const uint8_t *data, size_t len, uint8_t out[static 32])
{
    struct hpl_checksums sums;
    EXPECT_OK(hpl_checksums_init(&sums, 1u << kind));
    hpl_checksums_update(&sums, data, len);
    hpl_checksums_final(&sums);
    memcpy(out, sums.value[kind], 32);
    hpl_checksums_wipe(&sums);
}

HPL_TEST(checksums_are_those_of_the_crc_catalogue)
{
    static const struct { enum hpl_checksum_kind kind; uint8_t value[8]; } known[] = {
        {HPL_SUM_CRC32, {0xcb, 0xf4, 0x39, 0x26}},
        {HPL_SUM_CRC32C, {0xe3, 0x06, 0x92, 0x83}},
        {HPL_SUM_CRC64NVME, {0xae, 0x8b, 0x14, 0x86, 0x0a, 0x79, 0x98, 0x88}},
    };
    for (size_t i = 0; i < HPL_COUNT(known); i++) {
        uint8_t value[32];
        sum_of(known[i].kind, (const uint8_t *)"123456789", 9, value);
        EXPECT_BYTES(value, known[i].value, hpl_checksum_name(known[i].kind)->len);
    }
}

HPL_TEST(pieces_join_to_the_checksum_of_the_whole)
{
    enum { LEN = 70000 };
    uint8_t *data = malloc(LEN);
    EXPECT(RAND_bytes(data, LEN) == 1);
    static const size_t cuts[] = {0, 1, 7, 8, 9, 255, 65535, 65536, LEN - 1, LEN};
    for (int kind = 0; kind < HPL_NUM_SUMS; kind++) {
        if (!hpl_checksum_can_join(kind))
            continue;
        uint8_t whole[32], left[32], right[32];
        sum_of(kind, data, LEN, whole);
        for (size_t i = 0; i < HPL_COUNT(cuts); i++) {
            sum_of(kind, data, cuts[i], left);
            sum_of(kind, data + cuts[i], LEN - cuts[i], right);
            hpl_checksum_join(kind, left, right, LEN - cuts[i]);
            EXPECT_BYTES(left, whole, hpl_checksum_name(kind)->len);
        }
    }
    free(data);
}

HPL_TEST(only_crcs_join)
{
    EXPECT(hpl_checksum_can_join(HPL_SUM_CRC32) && hpl_checksum_can_join(HPL_SUM_CRC32C) && hpl_checksum_can_join(HPL_SUM_CRC64NVME));
    EXPECT(!hpl_checksum_can_join(HPL_SUM_MD5) && !hpl_checksum_can_join(HPL_SUM_SHA1) && !hpl_checksum_can_join(HPL_SUM_SHA256));
}
