/* Histograms. Any thread. */
#include "kms/meter.h"

#include <inttypes.h>

static const struct { uint64_t ns; const char *text; } bounds[HPL_METER_BOUNDS] = {
    {20000, "0.00002"},   {50000, "0.00005"},    {100000, "0.0001"},    {250000, "0.00025"},  {500000, "0.0005"},
    {1000000, "0.001"},   {2500000, "0.0025"},   {5000000, "0.005"},    {10000000, "0.01"},   {25000000, "0.025"},
    {100000000, "0.1"},   {500000000, "0.5"},    {1000000000, "1"},     {5000000000, "5"},    {30000000000, "30"},
};

void hpl_meter_add(struct hpl_meter *meter, uint64_t ns, enum hpl_status status)
{
    size_t i = 0;
    while (i < HPL_METER_BOUNDS && ns > bounds[i].ns)
        i++;
    atomic_fetch_add_explicit(&meter->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&meter->total_ns, ns, memory_order_relaxed);
    if (status != HPL_OK)
        atomic_fetch_add_explicit(&meter->failed, 1, memory_order_relaxed);
}

void hpl_meter_put(const struct hpl_meter *meter, struct hpl_buf *out, const char *name, const char *operation)
{
    uint64_t count = 0;
    for (size_t i = 0; i <= HPL_METER_BOUNDS; i++) {
        count += atomic_load_explicit(&meter->buckets[i], memory_order_relaxed);
        hpl_buf_printf(out, "%s_bucket{operation=\"%s\",le=\"%s\"} %" PRIu64 "\n", name, operation, i < HPL_METER_BOUNDS ? bounds[i].text : "+Inf", count);
    }
    hpl_buf_printf(out, "%s_sum{operation=\"%s\"} %.9f\n", name, operation, (double)atomic_load_explicit(&meter->total_ns, memory_order_relaxed) / 1e9);
    hpl_buf_printf(out, "%s_count{operation=\"%s\"} %" PRIu64 "\n", name, operation, count);
}
