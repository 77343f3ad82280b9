/* Are small documents read as they are, and everything else refused? Does what is written read back? */
#include "tests/test.h"

#include <stdio.h>

#include "s3/xml.h"

struct seen {
    char text[600];
    size_t len;
};

static enum hpl_status note(void *arg, struct hpl_call *call, const char *path, const char *text)
{
    struct seen *seen = arg;
    (void)call;
    seen->len += (size_t)snprintf(seen->text + seen->len, sizeof seen->text - seen->len, "[%s=%s]", path, text);
    return strcmp(text, "stop") == 0 ? HPL_TOO_LARGE : HPL_OK;
}

static enum hpl_status read_xml(const char *document, const char *root, struct seen *seen)
{
    struct hpl_call call = {0};
    *seen = (struct seen){0};
    return hpl_xml_read(&call, hpl_bytes_str(document), root, note, seen);
}

HPL_TEST(elements_come_with_their_paths_and_texts)
{
    struct seen seen;
    EXPECT_OK(read_xml("<?xml version='1.0'?><D xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Q>true</Q><O><K>a&amp;&#98;</K><V/></O></D>", "D", &seen));
    EXPECT_TEXT(seen.text, "[Q=true][O/K=a&b][O/V=][O=][=]");
    EXPECT_OK(read_xml("<p:D xmlns:p='x'><p:K><![CDATA[<k>]]></p:K></p:D>", "D", &seen));
    EXPECT_TEXT(seen.text, "[K=<k>][=]");
}

HPL_TEST(what_is_not_small_and_plain_is_refused)
{
    static const char *const documents[] = {
        "", "x", "<D>", "<D></E>", "<E></E>", "<D></D><D></D>", "<!DOCTYPE D><D/>", "<!DOCTYPE D [<!ENTITY e 'x'>]><D>&e;</D>", "<D>&e;</D>",
        "<D><b><c><d><e><f><g><h><i/></h></g></f></e></d></c></b></D>", "<D><b><c><d><e><f><g><h><i></i></h></g></f></e></d></c></b></D>", "<D>\xff</D>", "<D a=1/>",
    };
    struct seen seen;
    for (size_t i = 0; i < HPL_COUNT(documents); i++)
        EXPECT_STATUS(read_xml(documents[i], "D", &seen), HPL_MALFORMED_XML);
    EXPECT_OK(read_xml("<D><b><c><d><e><f><g><h/></g></f></e></d></c></b></D>", "D", &seen));
}

HPL_TEST(texts_and_names_are_bounded)
{
    static char document[10000];
    struct seen seen;
    snprintf(document, sizeof document, "<D>%04096d</D>", 0);
    EXPECT_OK(read_xml(document, "D", &seen));
    snprintf(document, sizeof document, "<D>%04097d</D>", 0);
    EXPECT_STATUS(read_xml(document, "D", &seen), HPL_MALFORMED_XML);
    snprintf(document, sizeof document, "<D><a%0300d/></D>", 0);
    EXPECT_STATUS(read_xml(document, "D", &seen), HPL_MALFORMED_XML);
}

HPL_TEST(a_refusal_by_the_reader_ends_it)
{
    struct seen seen;
    EXPECT_STATUS(read_xml("<D><a>stop</a><b>more</b></D>", "D", &seen), HPL_TOO_LARGE);
    EXPECT_TEXT(seen.text, "[a=stop]");
}

HPL_TEST(what_is_written_reads_back)
{
    struct hpl_buf out = {0};
    struct seen seen;
    hpl_xml_start(&out, "D");
    hpl_xml_str(&out, "K", "<a & \"b\">\r\n\t\xc3\xa9");
    hpl_xml_str(&out, "C", "\x01");
    hpl_xml_int(&out, "N", -5);
    hpl_xml_close(&out, "D");
    EXPECT_OK(read_xml(hpl_buf_text(&out), "D", &seen));
    EXPECT_TEXT(seen.text, "[K=<a & \"b\">\r\n\t\xc3\xa9][C=\xef\xbf\xbd][N=-5][=]");
    hpl_buf_wipe(&out);
}
