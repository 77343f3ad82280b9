/* The frames between the daemon and hardplate-tokend. Nothing here does I/O; what comes in is believed only as far as it is checked
 * here. Any thread. The layout is in README.md. */
#ifndef HPL_BACKENDS_PKCS11_TOKEND_PROTO_H
#define HPL_BACKENDS_PKCS11_TOKEND_PROTO_H

#include "backends/pkcs11/device.h"
#include "base/bytes.h"

#define HPL_TOKEND_VERSION 2u
#define HPL_TOKEND_HEADER_LEN 24u
#define HPL_TOKEND_ROOM 8192u         /* every body fits but a MAC's message and a survey's uids */
#define HPL_TOKEND_MESSAGE_MAX (1u << 20)
#define HPL_TOKEND_LATCH_KEY_LEN 32u
/* Flags of an answer. */
#define HPL_TOKEND_LATCHED 1u /* an IV came twice: no more wraps */
#define HPL_TOKEND_FAILED 2u  /* a key was not the key it should be: nothing more */

enum hpl_tokend_op {
    HPL_TOKEND_HELLO = 1, HPL_TOKEND_SETTLE, HPL_TOKEND_PROBE, HPL_TOKEND_CREATE, HPL_TOKEND_DESTROY, HPL_TOKEND_WRAP,
    HPL_TOKEND_UNWRAP, HPL_TOKEND_MAC, HPL_TOKEND_RANDOM, HPL_TOKEND_STAT, HPL_TOKEND_SURVEY, HPL_TOKEND_NUM_OPS
};

struct hpl_tokend_header {
    uint32_t len, id;
    uint8_t op, status, flags;
    uint64_t deadline_ns;
};

void hpl_tokend_put_header(const struct hpl_tokend_header *header, uint8_t out[static HPL_TOKEND_HEADER_LEN]);
/* False when it is none: an unknown operation or status, a length out of that operation's bounds, bits that mean nothing. */
bool hpl_tokend_read_request(const uint8_t in[static HPL_TOKEND_HEADER_LEN], struct hpl_tokend_header *out) HPL_MUST_USE;
bool hpl_tokend_read_answer(const uint8_t in[static HPL_TOKEND_HEADER_LEN], struct hpl_tokend_header *out) HPL_MUST_USE;
/* Whether the body of a good answer is key material, and goes into secret memory. */
bool hpl_tokend_is_secret(uint8_t op);

/* HELLO's request. The texts are malloc'd; hpl_tokend_hello_wipe ends it. */
struct hpl_tokend_hello {
    struct hpl_token_option option;
    char *texts[9]; /* owned: what option's members and the next two point to */
    const char *latch_shown, *known_id;
    struct hpl_secret *latch_key;
};
/* All but the key, which follows as it is. */
void hpl_tokend_put_hello(struct hpl_buf *out, const struct hpl_token_option *option, const char *latch_shown, const char *known_id);
enum hpl_status hpl_tokend_read_hello(struct hpl_call *call, struct hpl_bytes body, struct hpl_tokend_hello *out) HPL_MUST_USE;
void hpl_tokend_hello_wipe(struct hpl_tokend_hello *hello);

void hpl_tokend_put_welcome(struct hpl_buf *out, const struct hpl_p11_facts *facts);
/* Gives the id too. False when a text is not clean or a number unknown. */
bool hpl_tokend_read_welcome(struct hpl_bytes body, struct hpl_p11_facts *out) HPL_MUST_USE;

void hpl_tokend_put_settle(struct hpl_buf *out, bool is_known, const struct hpl_p11_pinned *pinned);
bool hpl_tokend_read_settle(struct hpl_bytes body, bool *is_known, struct hpl_p11_pinned *out) HPL_MUST_USE;

/* WRAP's, UNWRAP's, CREATE's and DESTROY's key version, with its check blob if there is one; it stands first in the body. */
void hpl_tokend_put_ref(struct hpl_buf *out, const struct hpl_p11_ref *ref);
/* *check is what ref->check points to, if anything. */
void hpl_tokend_read_ref(struct hpl_reader *reader, struct hpl_p11_ref *ref, struct hpl_wrapped *check);
void hpl_tokend_put_wrapped(struct hpl_buf *out, const struct hpl_wrapped *wrapped);
/* Lengths too long mark the reader failed. */
void hpl_tokend_read_wrapped(struct hpl_reader *reader, struct hpl_wrapped *out);

void hpl_tokend_put_stat(struct hpl_buf *out, const struct hpl_p11_stat *stat);
bool hpl_tokend_read_stat(struct hpl_bytes body, struct hpl_p11_stat *out) HPL_MUST_USE;

void hpl_tokend_put_orphans(struct hpl_buf *out, const struct hpl_p11_orphans *orphans);
bool hpl_tokend_read_orphans(struct hpl_bytes body, struct hpl_p11_orphans *out) HPL_MUST_USE;

/* A sentence from the other side as our detail: what is no clean text is left out. */
void hpl_tokend_read_detail(struct hpl_bytes body, struct hpl_call *call);

#endif
