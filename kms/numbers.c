/* The service's numbers, in its status answer and as metrics. Any thread. */
#include "kms/internal.h"

#include <inttypes.h>

static uint64_t load(const _Atomic uint64_t *number)
{
    return atomic_load_explicit(number, memory_order_relaxed);
}

/* In the documents' words. */
static json_t *stats_json(const struct hpl_cache_counts *counts, size_t entries)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "hit_count", (json_int_t)load(&counts->hits), "miss_count", (json_int_t)load(&counts->misses), "entry_count",
                     (json_int_t)entries, "eviction_count", (json_int_t)load(&counts->evictions));
}

static json_t *secrets_json(struct hpl_secret_cache *cache)
{
    json_t *stats = stats_json(&cache->counts, hpl_secret_cache_count(cache));
    json_object_set_new(stats, "max_entries", json_integer((json_int_t)cache->max_entries));
    json_object_set_new(stats, "served_in_outage", json_integer((json_int_t)load(&cache->outage_hits)));
    return stats;
}

void hpl_kms_add_numbers(struct hpl_kms *kms, struct hpl_attachment *attachment, json_t *answer)
{
    struct hpl_kms_shared *shared = &kms->shared;
    json_object_set_new(answer, "cache_stats", stats_json(&shared->records, attachment ? hpl_record_cache_count(&attachment->records) : 0));
    json_object_set_new(answer, "decrypt_cache", secrets_json(&shared->decrypts));
    json_object_set_new(answer, "bucket_keys", secrets_json(&shared->buckets));
    if (attachment)
        hpl_breaker_describe(attachment->breaker, json_object_get(answer, "details"));
}

/* --- metrics ------------------------------------------------------------------------------------------------------------- */

static void put_family(struct hpl_buf *out, const char *name, const char *type, const char *help)
{
    hpl_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

struct cache_numbers {
    const char *name;
    const struct hpl_cache_counts *counts;
    size_t entries;
};

static void put_caches(struct hpl_buf *out, const struct cache_numbers *caches, size_t count)
{
    put_family(out, "hardplate_kms_cache_hits_total", "counter", "Look-ups that a cache answered.");
    for (size_t i = 0; i < count; i++)
        hpl_buf_printf(out, "hardplate_kms_cache_hits_total{cache=\"%s\"} %" PRIu64 "\n", caches[i].name, load(&caches[i].counts->hits));
    put_family(out, "hardplate_kms_cache_misses_total", "counter", "Look-ups that it did not.");
    for (size_t i = 0; i < count; i++)
        hpl_buf_printf(out, "hardplate_kms_cache_misses_total{cache=\"%s\"} %" PRIu64 "\n", caches[i].name, load(&caches[i].counts->misses));
    put_family(out, "hardplate_kms_cache_evictions_total", "counter", "Entries that made room for others.");
    for (size_t i = 0; i < count; i++)
        hpl_buf_printf(out, "hardplate_kms_cache_evictions_total{cache=\"%s\"} %" PRIu64 "\n", caches[i].name, load(&caches[i].counts->evictions));
    put_family(out, "hardplate_kms_cache_entries", "gauge", "Entries now.");
    for (size_t i = 0; i < count; i++)
        hpl_buf_printf(out, "hardplate_kms_cache_entries{cache=\"%s\"} %zu\n", caches[i].name, caches[i].entries);
}

static void put_backend(struct hpl_buf *out, const struct hpl_kms_shared *shared)
{
    const char *seconds = "hardplate_kms_backend_seconds";
    put_family(out, seconds, "histogram", "Calls to key backends: how long each took, failed ones too.");
    hpl_meter_put(&shared->wraps, out, seconds, "generate");
    hpl_meter_put(&shared->unwraps, out, seconds, "decrypt");
    put_family(out, "hardplate_kms_backend_failures_total", "counter", "Calls to key backends that failed.");
    hpl_buf_printf(out, "hardplate_kms_backend_failures_total{operation=\"generate\"} %" PRIu64 "\n", load(&shared->wraps.failed));
    hpl_buf_printf(out, "hardplate_kms_backend_failures_total{operation=\"decrypt\"} %" PRIu64 "\n", load(&shared->unwraps.failed));
    put_family(out, "hardplate_kms_joined_total", "counter", "Decrypts answered by another one's backend call.");
    hpl_buf_printf(out, "hardplate_kms_joined_total %" PRIu64 "\n", load(&shared->joined));
    put_family(out, "hardplate_kms_served_in_outage_total", "counter", "Decrypts from kept plaintext while the backend did not answer.");
    hpl_buf_printf(out, "hardplate_kms_served_in_outage_total %" PRIu64 "\n", load(&shared->decrypts.outage_hits) + load(&shared->buckets.outage_hits));
}

static void put_breaker(struct hpl_buf *out, struct hpl_attachment *attachment)
{
    json_t *HPL_JSON_AUTO facts = json_object();
    hpl_breaker_describe(attachment->breaker, facts);
    put_family(out, "hardplate_kms_breaker_open", "gauge", "1 while the active backend does not answer.");
    hpl_buf_printf(out, "hardplate_kms_breaker_open %d\n", hpl_breaker_is_open(attachment->breaker));
    put_family(out, "hardplate_kms_refused_total", "counter", "Calls that were not let through to the active backend.");
    hpl_buf_printf(out, "hardplate_kms_refused_total{reason=\"open\"} %lld\nhardplate_kms_refused_total{reason=\"full\"} %lld\n",
                   (long long)json_integer_value(json_object_get(facts, "refused_while_open")),
                   (long long)json_integer_value(json_object_get(facts, "refused_when_full")));
}

void hpl_kms_put_metrics(struct hpl_kms *kms, struct hpl_buf *out)
{
    struct hpl_attachment *HPL_ATTACHMENT_AUTO attachment = NULL;
    struct hpl_kms_shared *shared = &kms->shared;
    bool is_running = hpl_kms_acquire(kms, NULL, &attachment) == HPL_OK;
    const struct cache_numbers caches[] = {
        {"records", &shared->records, is_running ? hpl_record_cache_count(&attachment->records) : 0},
        {"decrypts", &shared->decrypts.counts, hpl_secret_cache_count(&shared->decrypts)},
        {"bucket_keys", &shared->buckets.counts, hpl_secret_cache_count(&shared->buckets)},
    };
    put_caches(out, caches, HPL_COUNT(caches));
    put_backend(out, shared);
    if (is_running)
        put_breaker(out, attachment);
}

bool hpl_kms_is_bucket_key(struct hpl_bytes envelope)
{
    return hpl_envelope_is_bucket(envelope);
}
