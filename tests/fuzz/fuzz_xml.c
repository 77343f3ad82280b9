/* XML bodies: any bytes are read within bounds or refused; every path and text is a NUL-ended text of at most 4 KiB. */
#include "s3/xml.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static enum hpl_status look(void *arg, struct hpl_call *call, const char *path, const char *text)
{
    size_t *count = arg;
    (void)call;
    HPL_CHECK(strlen(path) < 256 && strlen(text) <= 4096);
    return ++*count > 1000 ? HPL_TOO_LARGE : HPL_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hpl_call call = {0};
    size_t count = 0;
    enum hpl_status status = hpl_xml_read(&call, hpl_bytes(data, len), "Delete", look, &count);
    HPL_CHECK(status == HPL_OK || status == HPL_MALFORMED_XML || status == HPL_TOO_LARGE);
    struct hpl_buf out = {0};
    hpl_xml_text(&out, "Key", hpl_bytes(data, len));
    hpl_buf_wipe(&out);
    return 0;
}
