/* Frames as bytes. Any thread, both processes; no I/O. */
#include "backends/pkcs11/tokend/proto.h"

#include <stdlib.h>

#include "base/codec.h"

#define DETAIL_MAX (sizeof((struct hpl_call *)NULL)->detail - 1)
#define WRAPPED_MIN (1u + 1u + 2u)
#define WRAPPED_MAX (WRAPPED_MIN + 64u + 768u)
#define REF_MIN (HPL_KEY_UID_LEN + 4u + 1u)
#define REF_MAX (REF_MIN + WRAPPED_MAX)
#define AAD HPL_WRAP_AAD_LEN
#define SETTLE_MAX (1u + 2u + 4u + WRAPPED_MAX)
#define FACTS_MAX 256u
#define TEXT_MAX 1024u
#define ALL_MECHANISMS (1u << HPL_MECH_P11_GCM | 1u << HPL_MECH_P11_CBC_HMAC | 1u << HPL_MECH_P11_OAEP_HMAC)

/* What a body may be long. */
static const struct bounds {
    uint32_t min, max, answer_min, answer_max;
    bool is_secret;
} bounds[HPL_TOKEND_NUM_OPS] = {
    [HPL_TOKEND_HELLO] = {HPL_TOKEND_LATCH_KEY_LEN, HPL_TOKEND_ROOM, 1, FACTS_MAX, false},
    [HPL_TOKEND_SETTLE] = {1, SETTLE_MAX, 1, SETTLE_MAX, false},
    [HPL_TOKEND_PROBE] = {0, 0, 0, 0, false},
    [HPL_TOKEND_CREATE] = {REF_MIN, REF_MAX, 0, 0, false},
    [HPL_TOKEND_DESTROY] = {REF_MIN, REF_MAX, 0, 0, false},
    [HPL_TOKEND_WRAP] = {REF_MIN + AAD + HPL_P11_SECRET_MIN, REF_MAX + AAD + HPL_P11_SECRET_MAX, WRAPPED_MIN, WRAPPED_MAX, false},
    [HPL_TOKEND_UNWRAP] = {REF_MIN + AAD + WRAPPED_MIN, REF_MAX + AAD + WRAPPED_MAX, HPL_P11_SECRET_MIN, HPL_P11_SECRET_MAX, true},
    [HPL_TOKEND_MAC] = {0, HPL_TOKEND_MESSAGE_MAX, HPL_P11_MAC_LEN, HPL_P11_MAC_LEN, false},
    [HPL_TOKEND_RANDOM] = {4, 4, 1, HPL_TOKEND_ROOM, true},
    [HPL_TOKEND_STAT] = {0, 0, 21, 21, false},
    [HPL_TOKEND_SURVEY] = {0, HPL_P11_KNOWN_MAX * HPL_KEY_UID_LEN, 4, 4 + HPL_P11_ORPHANS_SHOWN * HPL_P11_ID_LEN, false},
};

/* --- headers ------------------------------------------------------------------------------------------------------------------------ */

static void put_number(uint8_t *out, uint64_t value, unsigned len)
{
    for (unsigned i = 0; i < len; i++)
        out[i] = (uint8_t)(value >> (8 * (len - 1 - i)));
}

void hpl_tokend_put_header(const struct hpl_tokend_header *header, uint8_t out[static HPL_TOKEND_HEADER_LEN])
{
    put_number(out, header->len, 4);
    put_number(out + 4, header->id, 4);
    out[8] = header->op;
    out[9] = header->status;
    out[10] = header->flags;
    memset(out + 11, 0, 5);
    put_number(out + 16, header->deadline_ns, 8);
}

static bool read_header(const uint8_t in[static HPL_TOKEND_HEADER_LEN], struct hpl_tokend_header *out)
{
    static const uint8_t zeroes[5];
    struct hpl_reader reader = {.rest = hpl_bytes(in, HPL_TOKEND_HEADER_LEN)};
    out->len = hpl_read_u32(&reader);
    out->id = hpl_read_u32(&reader);
    out->op = hpl_read_u8(&reader);
    out->status = hpl_read_u8(&reader);
    out->flags = hpl_read_u8(&reader);
    bool is_clean = memcmp(hpl_read_bytes(&reader, sizeof zeroes).data, zeroes, sizeof zeroes) == 0;
    out->deadline_ns = hpl_read_u64(&reader);
    return is_clean && out->op >= HPL_TOKEND_HELLO && out->op < HPL_TOKEND_NUM_OPS;
}

bool hpl_tokend_read_request(const uint8_t in[static HPL_TOKEND_HEADER_LEN], struct hpl_tokend_header *out)
{
    if (!read_header(in, out) || out->status || out->flags)
        return false;
    return out->len >= bounds[out->op].min && out->len <= bounds[out->op].max;
}

bool hpl_tokend_read_answer(const uint8_t in[static HPL_TOKEND_HEADER_LEN], struct hpl_tokend_header *out)
{
    if (!read_header(in, out) || out->status >= HPL_NUM_STATUSES || out->flags > (HPL_TOKEND_LATCHED | HPL_TOKEND_FAILED) || out->deadline_ns)
        return false;
    if (out->status != HPL_OK)
        return out->len <= DETAIL_MAX;
    return out->len >= bounds[out->op].answer_min && out->len <= bounds[out->op].answer_max;
}

bool hpl_tokend_is_secret(uint8_t op)
{
    return bounds[op].is_secret;
}

/* A member that is added has to come along in the greeting, or the worker would not know of it; accept_mode_change and what
 * makes a group of tokens stay above the seam. */
_Static_assert(sizeof(struct hpl_token_option) == 11 * sizeof(void *), "put the new member of struct hpl_token_option into the greeting");

/* --- HELLO -------------------------------------------------------------------------------------------------------------------------- */

void hpl_tokend_put_hello(struct hpl_buf *out, const struct hpl_token_option *option, const char *latch_shown, const char *known_id)
{
    const char *texts[] = {option->name, option->uri, option->module, option->pin_source, option->init_reserved, latch_shown,
                           option->mechanism, option->iv_mode, known_id};
    hpl_buf_put_u32(out, HPL_TOKEND_VERSION);
    for (size_t i = 0; i < HPL_COUNT(texts); i++)
        hpl_buf_put_lp16(out, hpl_bytes_str(texts[i] ? texts[i] : ""));
    hpl_buf_put_u32(out, option->max_sessions);
}

/* An empty text is one that is not there: *out stays NULL. */
static bool read_text(struct hpl_reader *reader, char **out)
{
    struct hpl_bytes text = hpl_read_lp16(reader);
    if (text.len > TEXT_MAX || (text.len && memchr(text.data, 0, text.len)))
        return false;
    *out = text.len ? hpl_strndup(text) : NULL;
    return *out || !text.len;
}

enum hpl_status hpl_tokend_read_hello(struct hpl_call *call, struct hpl_bytes body, struct hpl_tokend_hello *out)
{
    struct hpl_reader reader = {.rest = body};
    bool is_well = true;
    *out = (struct hpl_tokend_hello){0};
    if (hpl_read_u32(&reader) != HPL_TOKEND_VERSION)
        return hpl_fail(call, HPL_INVALID_CONFIGURATION, "hardplate-tokend is of another version than the daemon: install both anew");
    for (size_t i = 0; is_well && i < HPL_COUNT(out->texts); i++)
        is_well = read_text(&reader, &out->texts[i]);
    out->option = (struct hpl_token_option){.name = out->texts[0], .uri = out->texts[1], .module = out->texts[2], .pin_source = out->texts[3],
                                            .init_reserved = out->texts[4], .mechanism = out->texts[6], .iv_mode = out->texts[7],
                                            .max_sessions = hpl_read_u32(&reader)};
    out->latch_shown = out->texts[5];
    out->known_id = out->texts[8];
    struct hpl_bytes key = hpl_read_bytes(&reader, HPL_TOKEND_LATCH_KEY_LEN);
    if (is_well && hpl_read_is_done(&reader) && out->option.name && out->option.uri && out->option.pin_source && out->latch_shown)
        out->latch_key = hpl_secret_from(key.data, key.len);
    if (out->latch_key)
        return HPL_OK;
    hpl_tokend_hello_wipe(out);
    return hpl_fail(call, HPL_INVALID_ARGUMENT, "the greeting is damaged");
}

void hpl_tokend_hello_wipe(struct hpl_tokend_hello *hello)
{
    for (size_t i = 0; i < HPL_COUNT(hello->texts); i++)
        free(hello->texts[i]);
    hpl_secret_free(hello->latch_key);
    *hello = (struct hpl_tokend_hello){0};
}

static bool is_clean(struct hpl_bytes text)
{
    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] < 0x20 || text.data[i] == 0x7f)
            return false;
    return hpl_utf8_is_valid(text);
}

static bool read_fact(struct hpl_reader *reader, char *out, size_t size)
{
    struct hpl_bytes text = hpl_read_lp16(reader);
    if (reader->is_failed || text.len >= size || !is_clean(text))
        return false;
    memcpy(out, text.data, text.len);
    out[text.len] = '\0';
    return true;
}

void hpl_tokend_put_welcome(struct hpl_buf *out, const struct hpl_p11_facts *facts)
{
    const char *texts[] = {facts->label, facts->serial, facts->manufacturer, facts->library};
    for (size_t i = 0; i < HPL_COUNT(texts); i++)
        hpl_buf_put_lp16(out, hpl_bytes_str(texts[i]));
    hpl_buf_put_u8(out, facts->mechanism);
    hpl_buf_put_u8(out, (uint8_t)facts->iv_mode);
}

static bool are_known(uint8_t mechanism, uint8_t iv_mode)
{
    return mechanism >= HPL_MECH_P11_GCM && mechanism <= HPL_MECH_P11_OAEP_HMAC && iv_mode < HPL_P11_NUM_IV_MODES;
}

bool hpl_tokend_read_welcome(struct hpl_bytes body, struct hpl_p11_facts *out)
{
    struct hpl_reader reader = {.rest = body};
    *out = (struct hpl_p11_facts){0};
    bool is_well = read_fact(&reader, out->label, sizeof out->label) && read_fact(&reader, out->serial, sizeof out->serial) &&
                   read_fact(&reader, out->manufacturer, sizeof out->manufacturer) && read_fact(&reader, out->library, sizeof out->library);
    out->mechanism = hpl_read_u8(&reader);
    out->iv_mode = hpl_read_u8(&reader);
    if (!is_well || !hpl_read_is_done(&reader) || !are_known(out->mechanism, (uint8_t)out->iv_mode))
        return false;
    out->opens = 1u << out->mechanism;
    hpl_p11_facts_name(out);
    return true;
}

/* --- the rest ----------------------------------------------------------------------------------------------------------------------- */

void hpl_tokend_put_wrapped(struct hpl_buf *out, const struct hpl_wrapped *wrapped)
{
    hpl_buf_put_u8(out, wrapped->mechanism);
    hpl_buf_put_u8(out, wrapped->iv_len);
    hpl_buf_put(out, wrapped->iv, wrapped->iv_len);
    hpl_buf_put_lp16(out, hpl_bytes(wrapped->ct, wrapped->ct_len));
}

void hpl_tokend_read_wrapped(struct hpl_reader *reader, struct hpl_wrapped *out)
{
    *out = (struct hpl_wrapped){.mechanism = hpl_read_u8(reader)};
    uint8_t iv_len = hpl_read_u8(reader);
    struct hpl_bytes iv = hpl_read_bytes(reader, iv_len), ct = hpl_read_lp16(reader);
    if (iv_len > sizeof out->iv || ct.len > sizeof out->ct)
        reader->is_failed = true;
    if (reader->is_failed)
        return;
    out->iv_len = iv_len;
    memcpy(out->iv, iv.data, iv.len);
    out->ct_len = (uint16_t)ct.len;
    memcpy(out->ct, ct.data, ct.len);
}

void hpl_tokend_put_ref(struct hpl_buf *out, const struct hpl_p11_ref *ref)
{
    hpl_buf_put(out, ref->uid, sizeof ref->uid);
    hpl_buf_put_u32(out, ref->version);
    hpl_buf_put_u8(out, ref->check != NULL);
    if (ref->check)
        hpl_tokend_put_wrapped(out, ref->check);
}

void hpl_tokend_read_ref(struct hpl_reader *reader, struct hpl_p11_ref *ref, struct hpl_wrapped *check)
{
    *ref = (struct hpl_p11_ref){0};
    hpl_read_copy(reader, ref->uid, sizeof ref->uid);
    ref->version = hpl_read_u32(reader);
    uint8_t has_check = hpl_read_u8(reader);
    reader->is_failed |= has_check > 1;
    if (has_check != 1)
        return;
    hpl_tokend_read_wrapped(reader, check);
    ref->check = check;
}

void hpl_tokend_put_settle(struct hpl_buf *out, bool is_known, const struct hpl_p11_pinned *pinned)
{
    hpl_buf_put_u8(out, is_known);
    if (!is_known)
        return;
    hpl_buf_put_u8(out, pinned->mechanism);
    hpl_buf_put_u8(out, (uint8_t)pinned->iv_mode);
    hpl_buf_put_u32(out, pinned->opens);
    hpl_tokend_put_wrapped(out, &pinned->canary);
}

bool hpl_tokend_read_settle(struct hpl_bytes body, bool *is_known, struct hpl_p11_pinned *out)
{
    struct hpl_reader reader = {.rest = body};
    *out = (struct hpl_p11_pinned){0};
    uint8_t known = hpl_read_u8(&reader);
    *is_known = known == 1;
    if (known == 0)
        return hpl_read_is_done(&reader);
    out->mechanism = hpl_read_u8(&reader);
    out->iv_mode = hpl_read_u8(&reader);
    out->opens = hpl_read_u32(&reader);
    hpl_tokend_read_wrapped(&reader, &out->canary);
    return known == 1 && hpl_read_is_done(&reader) && are_known(out->mechanism, (uint8_t)out->iv_mode) && (out->opens & ~ALL_MECHANISMS) == 0;
}

void hpl_tokend_put_stat(struct hpl_buf *out, const struct hpl_p11_stat *stat)
{
    hpl_buf_put_u32(out, stat->num_sessions);
    hpl_buf_put_u32(out, stat->max_sessions);
    hpl_buf_put_u32(out, stat->optional_attributes);
    hpl_buf_put_u64(out, stat->initialisations);
    hpl_buf_put_u8(out, (uint8_t)(stat->is_connected | stat->is_latched << 1 | stat->has_failed << 2));
}

bool hpl_tokend_read_stat(struct hpl_bytes body, struct hpl_p11_stat *out)
{
    struct hpl_reader reader = {.rest = body};
    *out = (struct hpl_p11_stat){.num_sessions = hpl_read_u32(&reader)};
    out->max_sessions = hpl_read_u32(&reader);
    out->optional_attributes = hpl_read_u32(&reader);
    out->initialisations = hpl_read_u64(&reader);
    uint8_t flags = hpl_read_u8(&reader);
    out->is_connected = flags & 1;
    out->is_latched = flags & 2;
    out->has_failed = flags & 4;
    return hpl_read_is_done(&reader) && flags < 8;
}

static uint32_t num_shown(uint32_t count)
{
    return count < HPL_P11_ORPHANS_SHOWN ? count : HPL_P11_ORPHANS_SHOWN;
}

void hpl_tokend_put_orphans(struct hpl_buf *out, const struct hpl_p11_orphans *orphans)
{
    hpl_buf_put_u32(out, orphans->count);
    hpl_buf_put(out, orphans->first, num_shown(orphans->count) * HPL_P11_ID_LEN);
}

bool hpl_tokend_read_orphans(struct hpl_bytes body, struct hpl_p11_orphans *out)
{
    struct hpl_reader reader = {.rest = body};
    *out = (struct hpl_p11_orphans){.count = hpl_read_u32(&reader)};
    hpl_read_copy(&reader, out->first, num_shown(out->count) * HPL_P11_ID_LEN);
    return hpl_read_is_done(&reader);
}

void hpl_tokend_read_detail(struct hpl_bytes body, struct hpl_call *call)
{
    if (!call || call->detail[0] || body.len > DETAIL_MAX || !is_clean(body))
        return;
    memcpy(call->detail, body.data, body.len);
    call->detail[body.len] = '\0';
}
