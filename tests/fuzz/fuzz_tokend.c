/* Frames between the daemon and hardplate-tokend: a byte that says which side reads, a header, a body. What is taken is within bounds
 * and comes out the same when it is written again; the rest is refused. */
#include "backends/pkcs11/tokend/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void expect_same(struct hpl_buf *again, struct hpl_bytes body)
{
    HPL_CHECK(hpl_buf_check(again) == HPL_OK && hpl_bytes_equal(hpl_buf_bytes(again), body));
    hpl_buf_wipe(again);
}

static void read_hello(struct hpl_bytes body)
{
    struct hpl_call call = {0};
    struct hpl_tokend_hello hello;
    struct hpl_buf again = {0};
    if (hpl_tokend_read_hello(&call, body, &hello) != HPL_OK)
        return;
    hpl_tokend_put_hello(&again, &hello.option, hello.latch_shown, hello.known_id);
    hpl_buf_put(&again, hello.latch_key->bytes, hello.latch_key->len);
    expect_same(&again, body);
    hpl_tokend_hello_wipe(&hello);
}

static void read_welcome(struct hpl_bytes body)
{
    struct hpl_p11_facts facts;
    struct hpl_buf again = {0};
    if (!hpl_tokend_read_welcome(body, &facts))
        return;
    HPL_CHECK(strlen(facts.id) < sizeof facts.id && facts.iv_mode < HPL_P11_NUM_IV_MODES);
    hpl_tokend_put_welcome(&again, &facts);
    expect_same(&again, body);
}

static void read_settle(struct hpl_bytes body)
{
    struct hpl_p11_pinned pinned;
    struct hpl_buf again = {0};
    bool is_known;
    if (!hpl_tokend_read_settle(body, &is_known, &pinned))
        return;
    hpl_tokend_put_settle(&again, is_known, &pinned);
    expect_same(&again, body);
}

static void read_key(struct hpl_bytes body)
{
    struct hpl_reader reader = {.rest = body};
    struct hpl_wrapped check, wrapped;
    struct hpl_p11_ref ref;
    struct hpl_buf again = {0};
    hpl_tokend_read_ref(&reader, &ref, &check);
    hpl_tokend_read_wrapped(&reader, &wrapped);
    if (!hpl_read_is_done(&reader))
        return;
    HPL_CHECK(wrapped.iv_len <= sizeof wrapped.iv && wrapped.ct_len <= sizeof wrapped.ct);
    hpl_tokend_put_ref(&again, &ref);
    hpl_tokend_put_wrapped(&again, &wrapped);
    expect_same(&again, body);
}

static void read_stat(struct hpl_bytes body)
{
    struct hpl_p11_stat stat;
    struct hpl_buf again = {0};
    if (!hpl_tokend_read_stat(body, &stat))
        return;
    hpl_tokend_put_stat(&again, &stat);
    expect_same(&again, body);
}

static void read_orphans(struct hpl_bytes body)
{
    struct hpl_p11_orphans orphans;
    struct hpl_buf again = {0};
    if (!hpl_tokend_read_orphans(body, &orphans))
        return;
    hpl_tokend_put_orphans(&again, &orphans);
    expect_same(&again, body);
}

static void read_detail(struct hpl_bytes body)
{
    struct hpl_call call = {0};
    hpl_tokend_read_detail(body, &call);
    HPL_CHECK(memchr(call.detail, '\0', sizeof call.detail));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct hpl_tokend_header header;
    uint8_t again[HPL_TOKEND_HEADER_LEN];
    if (len < 1 + HPL_TOKEND_HEADER_LEN)
        return 0;
    struct hpl_bytes body = hpl_bytes(data + 1 + HPL_TOKEND_HEADER_LEN, len - 1 - HPL_TOKEND_HEADER_LEN);
    bool is_frame = data[0] & 1 ? hpl_tokend_read_request(data + 1, &header) : hpl_tokend_read_answer(data + 1, &header);
    if (is_frame) {
        HPL_CHECK(header.op < HPL_TOKEND_NUM_OPS && header.len <= HPL_TOKEND_MESSAGE_MAX);
        hpl_tokend_put_header(&header, again);
        HPL_CHECK(memcmp(again, data + 1, sizeof again) == 0);
    }
    read_hello(body);
    read_welcome(body);
    read_settle(body);
    read_key(body);
    read_stat(body);
    read_orphans(body);
    read_detail(body);
    return 0;
}
