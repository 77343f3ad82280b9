/* XML: reading small documents by expat, writing with one escape function. Pure; any thread. */
#ifndef HPL_S3_XML_H
#define HPL_S3_XML_H

#include "base/bytes.h"

/* Called at each element's end with its path below the root ("Object/Key"; "" for the root) and, for an element without children, its text. */
typedef enum hpl_status (*hpl_xml_fn)(void *arg, struct hpl_call *call, const char *path, const char *text);

/* HPL_MALFORMED_XML: not well-formed, a DOCTYPE, deeper than 8, another root, or a text over 4 KiB. root_name may be NULL: any. */
enum hpl_status hpl_xml_read(struct hpl_call *call, struct hpl_bytes document, const char *root_name, hpl_xml_fn fn, void *arg) HPL_MUST_USE;

/* <?xml …?> and the root's start with S3's namespace. */
void hpl_xml_start(struct hpl_buf *out, const char *root_name);
void hpl_xml_open(struct hpl_buf *out, const char *name);
void hpl_xml_close(struct hpl_buf *out, const char *name);
/* <name>escaped text</name>; characters that XML cannot hold become U+FFFD. */
void hpl_xml_text(struct hpl_buf *out, const char *name, struct hpl_bytes text);
void hpl_xml_str(struct hpl_buf *out, const char *name, const char *text);
void hpl_xml_int(struct hpl_buf *out, const char *name, int64_t value);

#endif
