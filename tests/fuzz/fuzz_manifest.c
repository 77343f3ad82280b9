/* Whatever the manifest's reader accepts, the writer must write again byte for byte. */
#include "engine/seal/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hpl_manifest manifest;
    if (hpl_manifest_decode(NULL, hpl_bytes(data, len), &manifest) != HPL_OK)
        return 0;
    struct hpl_buf again = {0};
    HPL_CHECK(hpl_manifest_encode(NULL, &manifest, &again) == HPL_OK);
    HPL_CHECK(hpl_bytes_equal(hpl_buf_bytes(&again), hpl_bytes(data, len)));
    hpl_buf_wipe(&again);
    hpl_manifest_wipe(&manifest);
    return 0;
}
