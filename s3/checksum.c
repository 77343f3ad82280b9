/* Checksums. CRC32 by zlib, hashes by OpenSSL; CRC32C (RFC 3720) and CRC64NVME (NVM Express) by slicing tables made once. */
#include "s3/checksum.h"

#include <pthread.h>
#include <zlib.h>

static const struct hpl_checksum_name names[HPL_NUM_SUMS] = {
    [HPL_SUM_MD5] = {"content-md5", "", "MD5", 16},
    [HPL_SUM_CRC32] = {"x-amz-checksum-crc32", "ChecksumCRC32", "CRC32", 4},
    [HPL_SUM_CRC32C] = {"x-amz-checksum-crc32c", "ChecksumCRC32C", "CRC32C", 4},
    [HPL_SUM_CRC64NVME] = {"x-amz-checksum-crc64nvme", "ChecksumCRC64NVME", "CRC64NVME", 8},
    [HPL_SUM_SHA1] = {"x-amz-checksum-sha1", "ChecksumSHA1", "SHA1", 20},
    [HPL_SUM_SHA256] = {"x-amz-checksum-sha256", "ChecksumSHA256", "SHA256", 32},
};

const struct hpl_checksum_name *hpl_checksum_name(enum hpl_checksum_kind kind)
{
    return &names[kind];
}

/* table[k][b]: the CRC of byte b followed by k zero bytes; reflected. CRC32C lives in the low 32 bits. */
static uint64_t crc32c_table[8][256], crc64_table[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fill(uint64_t table[8][256], uint64_t polynomial)
{
    for (unsigned b = 0; b < 256; b++) {
        uint64_t crc = b;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
        table[0][b] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (unsigned b = 0; b < 256; b++)
            table[k][b] = table[k - 1][b] >> 8 ^ table[0][table[k - 1][b] & 0xff];
}

static const uint64_t polynomials[HPL_NUM_SUMS] = { /* reflected */
    [HPL_SUM_CRC32] = 0xedb88320u, [HPL_SUM_CRC32C] = 0x82f63b78u, [HPL_SUM_CRC64NVME] = 0x9a6c9329ac4bc9b5ull,
};

static void fill_all(void)
{
    fill(crc32c_table, polynomials[HPL_SUM_CRC32C]);
    fill(crc64_table, polynomials[HPL_SUM_CRC64NVME]);
}

static uint64_t update_crc(const uint64_t table[8][256], uint64_t crc, const uint8_t *data, size_t len)
{
    for (; len >= 8; len -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8); /* little-endian: the only kind of machine the kernels know */
        word ^= crc;
        crc = 0;
        for (int k = 0; k < 8; k++)
            crc ^= table[7 - k][word >> (8 * k) & 0xff];
    }
    while (len--)
        crc = crc >> 8 ^ table[0][(crc ^ *data++) & 0xff];
    return crc;
}

enum hpl_status hpl_checksums_init(struct hpl_checksums *sums, unsigned wanted)
{
    pthread_once(&once, fill_all);
    *sums = (struct hpl_checksums){.wanted = wanted, .crc32c = UINT32_MAX, .crc64 = UINT64_MAX};
    if (wanted & 1u << HPL_SUM_MD5)
        HPL_TRY(hpl_hash_init(&sums->md5, "MD5"));
    if (wanted & 1u << HPL_SUM_SHA1)
        HPL_TRY(hpl_hash_init(&sums->sha1, "SHA1"));
    if (wanted & 1u << HPL_SUM_SHA256)
        HPL_TRY(hpl_hash_init(&sums->sha256, "SHA256"));
    return HPL_OK;
}

void hpl_checksums_update(struct hpl_checksums *sums, const uint8_t *data, size_t len)
{
    if (sums->md5.ctx)
        hpl_hash_update(&sums->md5, data, len);
    if (sums->sha1.ctx)
        hpl_hash_update(&sums->sha1, data, len);
    if (sums->sha256.ctx)
        hpl_hash_update(&sums->sha256, data, len);
    if (sums->wanted & 1u << HPL_SUM_CRC32)
        sums->crc32 = (uint32_t)crc32_z(sums->crc32, data, len);
    if (sums->wanted & 1u << HPL_SUM_CRC32C)
        sums->crc32c = (uint32_t)update_crc(crc32c_table, sums->crc32c, data, len);
    if (sums->wanted & 1u << HPL_SUM_CRC64NVME)
        sums->crc64 = update_crc(crc64_table, sums->crc64, data, len);
}

static void put_be(uint8_t *out, uint64_t value, int len)
{
    for (int i = 0; i < len; i++)
        out[i] = (uint8_t)(value >> (8 * (len - 1 - i)));
}

void hpl_checksums_final(struct hpl_checksums *sums)
{
    if (sums->md5.ctx)
        hpl_hash_final(&sums->md5, sums->value[HPL_SUM_MD5]);
    if (sums->sha1.ctx)
        hpl_hash_final(&sums->sha1, sums->value[HPL_SUM_SHA1]);
    if (sums->sha256.ctx)
        hpl_hash_final(&sums->sha256, sums->value[HPL_SUM_SHA256]);
    put_be(sums->value[HPL_SUM_CRC32], sums->crc32, 4);
    put_be(sums->value[HPL_SUM_CRC32C], sums->crc32c ^ UINT32_MAX, 4);
    put_be(sums->value[HPL_SUM_CRC64NVME], ~sums->crc64, 8);
}

/* --- the sum of two pieces from theirs ------------------------------------------------------------------------------------- */

/* a·b modulo the polynomial; reflected, so one is x^0 and its right neighbour x^1. */
static uint64_t multiply(uint64_t a, uint64_t b, uint64_t polynomial, uint64_t one)
{
    uint64_t product = 0;
    for (uint64_t bit = one; bit; bit >>= 1) {
        if (a & bit)
            product ^= b;
        b = b >> 1 ^ (b & 1 ? polynomial : 0);
    }
    return product;
}

static uint64_t get_be(const uint8_t *data, size_t len)
{
    uint64_t value = 0;
    for (size_t i = 0; i < len; i++)
        value = value << 8 | data[i];
    return value;
}

bool hpl_checksum_can_join(enum hpl_checksum_kind kind)
{
    return polynomials[kind] != 0;
}

/* A CRC is linear: that of A followed by n bytes is that of A times x^(8n), and B's own is added to it. */
void hpl_checksum_join(enum hpl_checksum_kind kind, uint8_t *sum, const uint8_t *next, uint64_t next_len)
{
    HPL_CHECK(hpl_checksum_can_join(kind));
    size_t len = names[kind].len;
    uint64_t polynomial = polynomials[kind], one = 1ull << (8 * len - 1), shift = one, power = one >> 8; /* x^8: a byte */
    for (; next_len; next_len >>= 1) {
        if (next_len & 1)
            shift = multiply(shift, power, polynomial, one);
        power = multiply(power, power, polynomial, one);
    }
    put_be(sum, multiply(get_be(sum, len), shift, polynomial, one) ^ get_be(next, len), (int)len);
}

void hpl_checksums_wipe(struct hpl_checksums *sums)
{
    hpl_hash_wipe(&sums->md5);
    hpl_hash_wipe(&sums->sha1);
    hpl_hash_wipe(&sums->sha256);
}
