/* Whatever the reader of a sealed file's header accepts has the length its first bytes say, and nothing is read past it; under a key that is not its own
 * it never verifies. */
#include "engine/seal/file_header.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hpl_file_header header;
    struct hpl_file_keys keys = {0};
    if (hpl_file_header_decode(NULL, hpl_bytes(data, len), &header) != HPL_OK)
        return 0;
    HPL_CHECK(hpl_file_header_len(data) == len);
    HPL_CHECK((header.source == HPL_FILE_KEY_FILE) == (header.envelope.len == 0));
    struct hpl_secret *HPL_SECRET_AUTO key = hpl_secret_random(32);
    HPL_CHECK(key);
    HPL_CHECK(hpl_file_header_verify(NULL, &header, hpl_bytes(data, len), key, hpl_bytes(NULL, 0), &keys) == HPL_INTEGRITY);
    return 0;
}
