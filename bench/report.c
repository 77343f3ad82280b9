/* What was measured, told: a table as it comes, or one JSON object, and a plot. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/gcm/gcm.h"

void hpl_bench_cpu_name(char *out, size_t out_size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];
    snprintf(out, out_size, "unknown");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0)
            continue;
        snprintf(out, out_size, "%s", colon + 2);
        out[strcspn(out, "\n")] = '\0';
        break;
    }
    if (file)
        fclose(file);
}

void hpl_bench_report_init(struct hpl_bench_report *report, const struct hpl_bench_options *options, const char *command)
{
    *report = (struct hpl_bench_report){.options = options, .command = command, .wall = hpl_bench_aes_wall()};
    hpl_bench_cpu_name(report->cpu, sizeof report->cpu);
    if (options->is_json)
        return;
    printf("%s, kernel %s", report->cpu, hpl_gcm_kernel()->name);
    if (report->wall > 0)
        printf(", AESENC alone: %.2f cycles for 64 bytes", report->wall);
    printf("\n%-9s %9s %3s  %-32s %9s %12s %12s %7s\n", "op", "size", "thr", "implementation", "GB/s", "cycles/64 B", "ns/op", "ratio");
}

void hpl_bench_report_add(struct hpl_bench_report *report, const struct hpl_bench_row *rows, size_t num_rows)
{
    if (report->num_rows + num_rows > report->room) {
        report->room = 2 * report->room + num_rows;
        report->rows = realloc(report->rows, report->room * sizeof *rows);
        HPL_CHECK(report->rows);
    }
    memcpy(report->rows + report->num_rows, rows, num_rows * sizeof *rows);
    report->num_rows += num_rows;
    for (size_t i = 0; !report->options->is_json && i < num_rows; i++)
        printf("%-9s %9zu %3u  %-32s %9.3f %12.2f %12.1f %7.2f\n", rows[i].op, rows[i].size, rows[i].threads, rows[i].impl, rows[i].gbps, rows[i].cycles,
               rows[i].ns, rows[i].gbps / rows[num_rows - 1].gbps);
    fflush(stdout);
}

static double rounded(double value, double step)
{
    return round(value / step) * step;
}

static json_t *row_json(const struct hpl_bench_row *row)
{
    return json_pack("{s:s, s:s, s:I, s:i, s:f, s:f, s:f}", "op", row->op, "impl", row->impl, "size", (json_int_t)row->size, "threads", (int)row->threads,
                     "gbps", rounded(row->gbps, 1e-4), "cycles_per_64b", rounded(row->cycles, 1e-3), "ns_per_op", rounded(row->ns, 1e-2));
}

static bool print_json(const struct hpl_bench_report *report)
{
    HPL_JSON_AUTO json_t *rows = json_array();
    for (size_t i = 0; i < report->num_rows; i++)
        json_array_append_new(rows, row_json(&report->rows[i]));
    HPL_JSON_AUTO json_t *object = json_pack("{s:s, s:s, s:s, s:o, s:O}", "command", report->command, "cpu", report->cpu, "kernel", hpl_gcm_kernel()->name,
                                             "limit_cycles_per_64b", report->wall > 0 ? json_real(rounded(report->wall, 1e-3)) : json_null(), "rows", rows);
    return object && json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(8)) == 0 && putchar('\n') != EOF && fflush(stdout) == 0;
}

bool hpl_bench_report_end(struct hpl_bench_report *report)
{
    const struct hpl_bench_options *options = report->options;
    char title[192];
    snprintf(title, sizeof title, "hardplate-bench %s, %s", report->command, report->cpu);
    bool is_done = (!options->is_json || print_json(report)) && (!options->plot || hpl_bench_plot(options->plot, title, report->rows, report->num_rows));
    if (!is_done)
        perror("hardplate-bench: cannot write the report");
    free(report->rows);
    return is_done;
}
