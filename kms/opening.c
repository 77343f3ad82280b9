/* Openings. Any thread; may block on the backend. */
#include "kms/opening.h"

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"

#define TELL_EVERY_NS 1000000000u

void hpl_opening_key(struct hpl_bytes wire, const uint8_t aad[static HPL_WRAP_AAD_LEN], uint8_t out[static HPL_LRU_KEY_LEN])
{
    uint8_t text[HPL_ENVELOPE_MAX + HPL_WRAP_AAD_LEN];
    HPL_CHECK(wire.len <= HPL_ENVELOPE_MAX);
    memcpy(text, wire.data, wire.len);
    memcpy(text + wire.len, aad, HPL_WRAP_AAD_LEN);
    hpl_sha256(out, text, wire.len + HPL_WRAP_AAD_LEN);
}

/* The backend's answer, kept as the term says; nobody else asks the backend the same meanwhile. */
static enum hpl_status unwrap_for_all(struct hpl_call *call, const struct hpl_opening *opening, const uint8_t *aad, const uint8_t *key,
                                      struct hpl_flight *flight, struct hpl_secret **secret)
{
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    struct hpl_attachment *attachment = opening->attachment;
    uint64_t epoch = hpl_secret_cache_epoch(opening->cache);
    sub.detail[0] = '\0';
    enum hpl_status status = hpl_kms_unwrap(&sub, attachment, opening->record, opening->envelope->version, aad, &opening->envelope->wrapped, secret);
    if (status == HPL_OK)
        hpl_secret_cache_put(opening->cache, key, *secret, &opening->term, epoch);
    hpl_flight_end(&attachment->shared->flights, flight, status, hpl_detail(&sub, status), status == HPL_OK ? *secret : NULL);
    if (status != HPL_OK && call)
        call->retry_after_s = sub.retry_after_s;
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}

static enum hpl_status unwrap(struct hpl_call *call, const struct hpl_opening *opening, const uint8_t *aad, const uint8_t *key, struct hpl_secret **secret)
{
    struct hpl_kms_shared *shared = opening->attachment->shared;
    if (call && call->must_not_wait)
        return HPL_WOULD_WAIT;
    for (;;) {
        struct hpl_flight *flight;
        if (hpl_flight_begin(&shared->flights, key, &flight))
            return unwrap_for_all(call, opening, aad, key, flight, secret);
        enum hpl_status status = hpl_flight_wait(&shared->flights, flight, call, secret);
        if (status == HPL_STALE)
            continue;
        atomic_fetch_add_explicit(&shared->joined, 1, memory_order_relaxed);
        return status;
    }
}

/* What the key's outage choice kept, said aloud; failure when there is none. */
static enum hpl_status serve_in_outage(struct hpl_call *call, const struct hpl_opening *opening, const uint8_t *key, enum hpl_status failure,
                                       struct hpl_secret **secret)
{
    struct hpl_kms_shared *shared = opening->attachment->shared;
    *secret = opening->term.outage_ns ? hpl_secret_cache_find_in_outage(opening->cache, key) : NULL;
    if (!*secret)
        return hpl_fail(call, failure, "the key backend does not answer, and no plaintext of this is kept");
    uint64_t now = hpl_clock_mono_ns(), told = atomic_load(&shared->outage_told_ns);
    if (now - told >= TELL_EVERY_NS && atomic_compare_exchange_strong(&shared->outage_told_ns, &told, now))
        hpl_log(HPL_LOG_WARN, "kms.outage.served_from_cache", HPL_S("key_id", opening->record->key_id),
                HPL_N("served", atomic_load(&shared->decrypts.outage_hits) + atomic_load(&shared->buckets.outage_hits)));
    return HPL_OK;
}

enum hpl_status hpl_opening_run(struct hpl_call *call, const struct hpl_opening *opening, struct hpl_secret **secret)
{
    uint8_t aad[HPL_WRAP_AAD_LEN], key[HPL_LRU_KEY_LEN];
    struct hpl_call sub = call ? *call : (struct hpl_call){0};
    HPL_TRY(hpl_kms_bind(call, opening->record, opening->envelope, opening->context, aad));
    hpl_opening_key(opening->wire, aad, key);
    if (opening->is_stale)
        return serve_in_outage(call, opening, key, HPL_KEY_UNAVAILABLE, secret);
    if (opening->term.fresh_ns && (*secret = hpl_secret_cache_find(opening->cache, key, NULL)))
        return HPL_OK;
    enum hpl_status status = unwrap(&sub, opening, aad, key, secret);
    if (opening->term.outage_ns && hpl_breaker_is_outage(status) && hpl_kms_is_lost(opening->attachment) &&
        serve_in_outage(NULL, opening, key, status, secret) == HPL_OK)
        return HPL_OK;
    if (status != HPL_OK && call)
        call->retry_after_s = sub.retry_after_s;
    return status == HPL_OK ? HPL_OK : hpl_fail(call, status, "%s", hpl_detail(&sub, status));
}
