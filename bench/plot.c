/* A plot as SVG, by hand: panels two in a row, a line for each implementation, a legend below. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define PANEL_W 460
#define PANEL_H 300
#define LEFT 60
#define TOP 60
#define GAP 70
#define LINE_H 18
#define MAX_NAMES 24

/* Told apart also by those who see few colours: every second line is dashed. */
static const char *const colours[] = {"#d7301f", "#08519c", "#238b45", "#6a51a3", "#cc4c02", "#016c59", "#ae017e", "#525252", "#807dba", "#41ab5d", "#2b8cbe", "#8c510a"};
#define NUM_COLOURS (sizeof colours / sizeof colours[0])

struct panel {
    const char *op;
    size_t size; /* 0: of all sizes */
};

struct plot {
    FILE *file;
    const struct hpl_bench_row *rows;
    size_t num_rows;
    struct panel panels[MAX_NAMES];
    const char *impls[MAX_NAMES];
    size_t num_panels, num_impls, columns, lines; /* lines: of panels */
    bool is_by_threads;
    double x_min, x_max, y_max;
};

static bool is_in(const struct plot *plot, const struct panel *panel, const struct hpl_bench_row *row)
{
    return strcmp(panel->op, row->op) == 0 && (!plot->is_by_threads || panel->size == row->size);
}

static void note_panel(struct plot *plot, const struct hpl_bench_row *row)
{
    for (size_t i = 0; i < plot->num_panels; i++)
        if (is_in(plot, &plot->panels[i], row))
            return;
    if (plot->num_panels < MAX_NAMES)
        plot->panels[plot->num_panels++] = (struct panel){row->op, plot->is_by_threads ? row->size : 0};
}

static void note_impl(struct plot *plot, const char *name)
{
    for (size_t i = 0; i < plot->num_impls; i++)
        if (strcmp(plot->impls[i], name) == 0)
            return;
    if (plot->num_impls < MAX_NAMES)
        plot->impls[plot->num_impls++] = name;
}

static double x_of(const struct plot *plot, const struct hpl_bench_row *row)
{
    return plot->is_by_threads ? row->threads : log2((double)row->size);
}

static void survey(struct plot *plot)
{
    for (size_t i = 0; i < plot->num_rows; i++)
        plot->is_by_threads |= plot->rows[i].threads != plot->rows[0].threads;
    plot->x_min = INFINITY;
    for (size_t i = 0; i < plot->num_rows; i++) {
        note_panel(plot, &plot->rows[i]);
        note_impl(plot, plot->rows[i].impl);
        plot->x_min = fmin(plot->x_min, x_of(plot, &plot->rows[i]));
        plot->x_max = fmax(plot->x_max, x_of(plot, &plot->rows[i]));
        plot->y_max = fmax(plot->y_max, plot->rows[i].gbps);
    }
    if (plot->x_max <= plot->x_min)
        plot->x_max = plot->x_min + 1;
    plot->columns = plot->num_panels > 1 ? 2 : 1;
    plot->lines = (plot->num_panels + 1) / 2;
}

static double px(const struct plot *plot, size_t panel, double x)
{
    return LEFT + (double)(panel % plot->columns) * (PANEL_W + GAP) + (x - plot->x_min) / (plot->x_max - plot->x_min) * PANEL_W;
}

static double py(const struct plot *plot, size_t panel, double y)
{
    return TOP + (double)(panel / plot->columns) * (PANEL_H + GAP) + PANEL_H * (1 - y / plot->y_max);
}

static void put_text(const struct plot *plot, double x, double y, const char *anchor, const char *text)
{
    fprintf(plot->file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    for (; *text; text++)
        *text == '<' || *text == '&' ? fprintf(plot->file, "&#%d;", *text) : fputc(*text, plot->file);
    fprintf(plot->file, "</text>\n");
}

/* 1, 2 or 5 times a power of ten, for some five lines. */
static double step_for(double most)
{
    double raw = most / 5, power = pow(10, floor(log10(raw)));
    return power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
}

static void put_size(char *out, size_t out_size, double log_size)
{
    double size = exp2(log_size);
    const char *unit = size >= 1048576 ? " MiB" : size >= 1024 ? " KiB" : " B";
    snprintf(out, out_size, "%.0f%s", size / (size >= 1048576 ? 1048576 : size >= 1024 ? 1024 : 1), unit);
}

static void put_grid(const struct plot *plot, size_t panel, double left)
{
    char label[32];
    for (double y = 0, step = step_for(plot->y_max); y <= plot->y_max; y += step) {
        fprintf(plot->file, "<path d=\"M%.1f %.1fh%d\" stroke=\"#ddd\"/>\n", left, py(plot, panel, y), PANEL_W);
        snprintf(label, sizeof label, "%g", y);
        put_text(plot, left - 6, py(plot, panel, y) + 4, "end", label);
    }
}

static void put_axes(const struct plot *plot, size_t panel)
{
    const struct panel *what = &plot->panels[panel];
    double left = px(plot, panel, plot->x_min), step = fmax(1, ceil((plot->x_max - plot->x_min) / 8));
    char label[96] = "";
    put_grid(plot, panel, left);
    for (double x = plot->x_min; x <= plot->x_max; x += step) {
        snprintf(label, sizeof label, "%.0f", x);
        if (!plot->is_by_threads)
            put_size(label, sizeof label, x);
        put_text(plot, px(plot, panel, x), py(plot, panel, 0) + 18, "middle", label);
    }
    char size[32] = "";
    if (what->size)
        put_size(size, sizeof size, log2((double)what->size));
    snprintf(label, sizeof label, "%s%s%s, GB/s by %s", what->op, *size ? " " : "", size, plot->is_by_threads ? "threads" : "size");
    put_text(plot, left, py(plot, panel, plot->y_max) - 12, "start", label);
}

static void put_style(const struct plot *plot, size_t impl)
{
    fprintf(plot->file, "fill=\"none\" stroke=\"%s\" stroke-width=\"%s\"%s", colours[impl % NUM_COLOURS], strncmp(plot->impls[impl], "hardplate", 9) ? "1.3" : "2.6",
            impl % 2 ? " stroke-dasharray=\"6 3\"" : "");
}

static void put_line(const struct plot *plot, size_t panel, size_t impl)
{
    char command = 'M';
    fprintf(plot->file, "<path ");
    put_style(plot, impl);
    fprintf(plot->file, " d=\"");
    for (size_t i = 0; i < plot->num_rows; i++) {
        const struct hpl_bench_row *row = &plot->rows[i];
        if (!is_in(plot, &plot->panels[panel], row) || strcmp(row->impl, plot->impls[impl]) != 0)
            continue;
        fprintf(plot->file, "%c%.1f %.1f", command, px(plot, panel, x_of(plot, row)), py(plot, panel, row->gbps));
        command = 'L';
    }
    /* A stroke of no length with round ends: one point alone is seen too. */
    fprintf(plot->file, "%s\" stroke-linecap=\"round\"/>\n", command == 'L' ? "h0" : "M0 0");
}

static void put_legend(const struct plot *plot, size_t impl)
{
    double x = LEFT + (double)(impl % plot->columns) * (PANEL_W + GAP);
    double y = TOP + (double)plot->lines * (PANEL_H + GAP) + (double)(impl / plot->columns) * LINE_H;
    fprintf(plot->file, "<path ");
    put_style(plot, impl);
    fprintf(plot->file, " d=\"M%.1f %.1fh36\"/>\n", x, y - 4);
    put_text(plot, x + 44, y, "start", plot->impls[impl]);
}

static void put_all(const struct plot *plot, const char *title)
{
    size_t width = LEFT + plot->columns * (PANEL_W + GAP);
    size_t height = TOP + plot->lines * (PANEL_H + GAP) + (plot->num_impls + plot->columns - 1) / plot->columns * LINE_H;
    fprintf(plot->file, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%zu\" height=\"%zu\" font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n", width, height);
    put_text(plot, LEFT, 24, "start", title);
    for (size_t panel = 0; panel < plot->num_panels; panel++) {
        put_axes(plot, panel);
        for (size_t impl = 0; impl < plot->num_impls; impl++)
            put_line(plot, panel, impl);
    }
    for (size_t impl = 0; impl < plot->num_impls; impl++)
        put_legend(plot, impl);
    fprintf(plot->file, "</svg>\n");
}

bool hpl_bench_plot(const char *path, const char *title, const struct hpl_bench_row *rows, size_t num_rows)
{
    struct plot plot = {.file = fopen(path, "we"), .rows = rows, .num_rows = num_rows};
    if (!plot.file)
        return false;
    survey(&plot);
    put_all(&plot, title);
    bool is_done = !ferror(plot.file);
    return fclose(plot.file) == 0 && is_done;
}
