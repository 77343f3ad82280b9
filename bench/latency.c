/* A histogram whose buckets grow with what they hold. */
#include "bench/latency.h"

#define SHIFT 7u /* log2 of HPL_BENCH_LATENCY_STEPS */

static uint32_t bucket_of(uint64_t ns)
{
    if (ns < HPL_BENCH_LATENCY_STEPS)
        return (uint32_t)ns;
    uint32_t doublings = 63u - (uint32_t)__builtin_clzll(ns) - SHIFT;
    uint32_t bucket = (doublings + 1) * HPL_BENCH_LATENCY_STEPS + (uint32_t)(ns >> doublings) - HPL_BENCH_LATENCY_STEPS;
    return bucket < HPL_BENCH_LATENCY_BUCKETS ? bucket : HPL_BENCH_LATENCY_BUCKETS - 1;
}

/* The most that a bucket holds. */
static double top_of(uint32_t bucket)
{
    if (bucket < HPL_BENCH_LATENCY_STEPS)
        return bucket;
    uint32_t doublings = bucket / HPL_BENCH_LATENCY_STEPS - 1;
    return (double)((uint64_t)(bucket % HPL_BENCH_LATENCY_STEPS + HPL_BENCH_LATENCY_STEPS + 1) << doublings);
}

void hpl_bench_latency_note(struct hpl_bench_latency *latency, uint64_t ns)
{
    latency->count++;
    latency->buckets[bucket_of(ns)]++;
}

void hpl_bench_latency_add(struct hpl_bench_latency *sum, const struct hpl_bench_latency *other)
{
    sum->count += other->count;
    for (uint32_t i = 0; i < HPL_BENCH_LATENCY_BUCKETS; i++)
        sum->buckets[i] += other->buckets[i];
}

double hpl_bench_latency_us(const struct hpl_bench_latency *latency, double share)
{
    double wanted = share * (double)latency->count;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HPL_BENCH_LATENCY_BUCKETS; i++)
        if ((seen += latency->buckets[i]) && (double)seen >= wanted)
            return top_of(i) / 1000;
    return 0;
}
