/* How long many operations took: counts in buckets of one per cent and less, so that a million cost no memory. One thread each; merged after. */
#ifndef HPL_BENCH_LATENCY_H
#define HPL_BENCH_LATENCY_H

#include <stdint.h>

#define HPL_BENCH_LATENCY_STEPS 128u /* to a doubling */
#define HPL_BENCH_LATENCY_BUCKETS (40u * HPL_BENCH_LATENCY_STEPS)

struct hpl_bench_latency {
    uint64_t count;
    uint64_t buckets[HPL_BENCH_LATENCY_BUCKETS];
};

void hpl_bench_latency_note(struct hpl_bench_latency *latency, uint64_t ns);
void hpl_bench_latency_add(struct hpl_bench_latency *sum, const struct hpl_bench_latency *other);
/* Microseconds that a share of the operations, 0 to 1, did not exceed; 0 where there were none. */
double hpl_bench_latency_us(const struct hpl_bench_latency *latency, double share);

#endif
