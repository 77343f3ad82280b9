/* XML. Pure; any thread. */
#include "s3/xml.h"

#include <inttypes.h>
#include <stdio.h>
#include <expat.h>

#define MAX_DEPTH 8
#define MAX_TEXT 4096u
#define MAX_PATH 256u

struct reading {
    XML_Parser parser;
    struct hpl_call *call;
    const char *root_name;
    hpl_xml_fn fn;
    void *arg;
    int depth;
    char path[MAX_PATH];
    bool has_children[MAX_DEPTH + 1];
    struct hpl_buf text;
    enum hpl_status status;
};

static void stop(struct reading *reading, enum hpl_status status)
{
    if (reading->status == HPL_OK)
        reading->status = status;
    XML_StopParser(reading->parser, XML_FALSE);
}

static void XMLCALL start_element(void *arg, const XML_Char *name, const XML_Char **attributes)
{
    struct reading *reading = arg;
    const char *colon = strrchr(name, ':');
    const char *local = colon ? colon + 1 : name;
    (void)attributes;
    size_t len = strlen(reading->path);
    if (++reading->depth > MAX_DEPTH || (reading->depth == 1 && reading->root_name && strcmp(local, reading->root_name) != 0) ||
        len + strlen(local) + 2 > sizeof reading->path) {
        stop(reading, HPL_MALFORMED_XML);
        return;
    }
    if (reading->depth > 1)
        snprintf(reading->path + len, sizeof reading->path - len, "%s%s", len ? "/" : "", local);
    reading->has_children[reading->depth - 1] = true;
    reading->has_children[reading->depth] = false;
    reading->text.len = 0;
}

static void XMLCALL end_element(void *arg, const XML_Char *name)
{
    struct reading *reading = arg;
    (void)name;
    if (reading->status != HPL_OK) /* expat ends an empty element whose start has stopped it */
        return;
    const char *text = reading->has_children[reading->depth] ? "" : hpl_buf_text(&reading->text);
    enum hpl_status status = text ? reading->fn(reading->arg, reading->call, reading->path, text) : HPL_MALFORMED_XML;
    if (status != HPL_OK)
        stop(reading, status);
    char *slash = strrchr(reading->path, '/');
    *(slash ? slash : reading->path) = '\0';
    reading->depth--;
    reading->text.len = 0;
}

static void XMLCALL take_text(void *arg, const XML_Char *text, int len)
{
    struct reading *reading = arg;
    hpl_buf_put(&reading->text, text, (size_t)len);
    if (reading->text.is_failed)
        stop(reading, HPL_MALFORMED_XML);
}

static void XMLCALL refuse_doctype(void *arg, const XML_Char *name, const XML_Char *system, const XML_Char *public, int has_subset)
{
    (void)name, (void)system, (void)public, (void)has_subset;
    stop(arg, HPL_MALFORMED_XML);
}

enum hpl_status hpl_xml_read(struct hpl_call *call, struct hpl_bytes document, const char *root_name, hpl_xml_fn fn, void *arg)
{
    struct reading reading = {.call = call, .root_name = root_name, .fn = fn, .arg = arg, .text = {.max = MAX_TEXT}};
    reading.parser = XML_ParserCreate(NULL);
    if (!reading.parser || document.len > INT32_MAX)
        return HPL_NO_MEMORY;
    XML_SetUserData(reading.parser, &reading);
    XML_SetElementHandler(reading.parser, start_element, end_element);
    XML_SetCharacterDataHandler(reading.parser, take_text);
    XML_SetStartDoctypeDeclHandler(reading.parser, refuse_doctype);
    enum XML_Status result = XML_Parse(reading.parser, (const char *)document.data, (int)document.len, XML_TRUE);
    XML_ParserFree(reading.parser);
    hpl_buf_wipe(&reading.text);
    if (reading.status != HPL_OK)
        return reading.status;
    return result == XML_STATUS_OK ? HPL_OK : HPL_MALFORMED_XML;
}

void hpl_xml_open(struct hpl_buf *out, const char *name) { hpl_buf_printf(out, "<%s>", name); }
void hpl_xml_close(struct hpl_buf *out, const char *name) { hpl_buf_printf(out, "</%s>", name); }

void hpl_xml_start(struct hpl_buf *out, const char *root_name)
{
    hpl_buf_printf(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<%s xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">", root_name);
}

/* What UTF-8 may hold and XML 1.0 may not, not even as a reference: most control characters, U+FFFE and U+FFFF. */
static bool is_no_character(struct hpl_bytes text, size_t i)
{
    const uint8_t *at = text.data + i;
    return (*at < 0x20 && *at != '\n' && *at != '\t') || (text.len - i >= 3 && at[0] == 0xef && at[1] == 0xbf && at[2] >= 0xbe);
}

void hpl_xml_text(struct hpl_buf *out, const char *name, struct hpl_bytes text)
{
    hpl_xml_open(out, name);
    for (size_t i = 0; i < text.len; i++)
        switch (text.data[i]) {
        case '<': hpl_buf_put_str(out, "&lt;"); break;
        case '>': hpl_buf_put_str(out, "&gt;"); break;
        case '&': hpl_buf_put_str(out, "&amp;"); break;
        case '"': hpl_buf_put_str(out, "&quot;"); break;
        case '\r': hpl_buf_put_str(out, "&#13;"); break;
        default:
            if (is_no_character(text, i)) {
                hpl_buf_put_str(out, "\xef\xbf\xbd");
                i += text.data[i] == 0xef ? 2 : 0;
            } else
                hpl_buf_put_u8(out, text.data[i]);
        }
    hpl_xml_close(out, name);
}

void hpl_xml_str(struct hpl_buf *out, const char *name, const char *text)
{
    hpl_xml_text(out, name, hpl_bytes_str(text));
}

void hpl_xml_int(struct hpl_buf *out, const char *name, int64_t value)
{
    hpl_buf_printf(out, "<%s>%" PRId64 "</%s>", name, value, name);
}
