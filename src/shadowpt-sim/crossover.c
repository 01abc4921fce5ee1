/* SPDX-License-Identifier: MIT */
/* The crossover curve: cost by table updates per TLB miss. */
#include "shadowpt-sim/report.h"

#include <math.h>

double crossover_find(const struct crossover_point *points, unsigned count,
                      enum sim_kind kind)
{
    for (unsigned i = 0; i < count; i++) {
        double now = points[i].cycles[kind] - points[i].cycles[SIM_NESTED], before, part;

        if (now <= 0) {
            continue;
        }
        if (i == 0) {
            return 0;
        }
        before = points[i - 1].cycles[SIM_NESTED] - points[i - 1].cycles[kind];
        part = before / (before + now);
        return points[i - 1].updates + part * (points[i].updates - points[i - 1].updates);
    }
    return -1;
}

static void print_crossing(FILE *out, const struct crossover_point *points,
                           unsigned count, unsigned kind)
{
    double at = crossover_find(points, count, (enum sim_kind)kind);

    if (at == 0) {
        fprintf(out, "%s costs more than nested from the first point on\n",
                sim_kind_name((enum sim_kind)kind));
    } else if (at < 0) {
        fprintf(out, "%s costs less than nested everywhere here\n",
                sim_kind_name((enum sim_kind)kind));
    } else {
        fprintf(out, "%s costs more than nested from %.4f updates per TLB miss on\n",
                sim_kind_name((enum sim_kind)kind), at);
    }
}

void crossover_table(FILE *out, const struct crossover_point *points, unsigned count)
{
    fprintf(out, "%16s", "updates/miss");
    for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
        fprintf(out, " %14s", sim_kind_name((enum sim_kind)kind));
    }
    fputs("   (cycles an access)\n", out);
    for (unsigned i = 0; i < count; i++) {
        fprintf(out, "%16.5f", points[i].updates);
        for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
            fprintf(out, " %14.2f", points[i].cycles[kind]);
        }
        fputc('\n', out);
    }
    for (unsigned kind = SIM_SHADOW_WP; kind < SIM_KINDS; kind++) {
        print_crossing(out, points, count, kind);
    }
}

void crossover_csv(FILE *out, const struct crossover_point *points, unsigned count)
{
    fputs("updates_per_miss", out);
    for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
        fprintf(out, ",%s", sim_kind_name((enum sim_kind)kind));
    }
    fputc('\n', out);
    for (unsigned i = 0; i < count; i++) {
        fprintf(out, "%.6f", points[i].updates);
        for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
            fprintf(out, ",%.4f", points[i].cycles[kind]);
        }
        fputc('\n', out);
    }
}

void crossover_json(FILE *out, const struct crossover_point *points, unsigned count)
{
    fputs("{\"points\": [", out);
    for (unsigned i = 0; i < count; i++) {
        fprintf(out, "%s\n  {\"updates_per_miss\": %.6f", i > 0 ? "," : "",
                points[i].updates);
        for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
            fprintf(out, ", \"%s\": %.4f", sim_kind_name((enum sim_kind)kind),
                    points[i].cycles[kind]);
        }
        fputc('}', out);
    }
    fputs("\n], \"crossover\": {", out);
    for (unsigned kind = SIM_SHADOW_WP; kind < SIM_KINDS; kind++) {
        double at = crossover_find(points, count, (enum sim_kind)kind);

        fprintf(out, "%s\"%s\": ", kind > SIM_SHADOW_WP ? ", " : "",
                sim_kind_name((enum sim_kind)kind));
        fprintf(out, at < 0 ? "null" : "%.6f", at);
    }
    fputs("}}\n", out);
}

/* ---- SVG, both axes logarithmic -------------------------------------------------------------- */

#define WIDTH  760.0
#define HEIGHT 460.0
#define LEFT   70.0
#define RIGHT  150.0
#define TOP    40.0
#define BOTTOM 60.0

struct axes {
    double x0, x1, y0, y1; /* log10 of the ends */
};

static double x_of(const struct axes *axes, double value)
{
    return LEFT +
           (log10(value) - axes->x0) / (axes->x1 - axes->x0) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct axes *axes, double value)
{
    return HEIGHT - BOTTOM -
           (log10(value) - axes->y0) / (axes->y1 - axes->y0) * (HEIGHT - TOP - BOTTOM);
}

static struct axes axes_of(const struct crossover_point *points, unsigned count)
{
    struct axes axes = { 99, -99, 99, -99 };

    for (unsigned i = 0; i < count; i++) {
        if (points[i].updates > 0) {
            axes.x0 = fmin(axes.x0, floor(log10(points[i].updates)));
            axes.x1 = fmax(axes.x1, ceil(log10(points[i].updates)));
        }
        for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
            if (points[i].cycles[kind] > 0) {
                axes.y0 = fmin(axes.y0, floor(log10(points[i].cycles[kind])));
                axes.y1 = fmax(axes.y1, ceil(log10(points[i].cycles[kind])));
            }
        }
    }
    if (axes.x1 <= axes.x0) {
        axes.x1 = axes.x0 + 1;
    }
    if (axes.y1 <= axes.y0) {
        axes.y1 = axes.y0 + 1;
    }
    return axes;
}

static void svg_axes(FILE *out, const struct axes *axes)
{
    for (double x = axes->x0; x <= axes->x1; x++) {
        double at = x_of(axes, pow(10, x));

        fprintf(out,
                "<path class=\"g\" d=\"M%.1f %.1fV%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                "text-anchor=\"middle\">%g</text>\n",
                at, TOP, HEIGHT - BOTTOM, at, HEIGHT - BOTTOM + 18, pow(10, x));
    }
    for (double y = axes->y0; y <= axes->y1; y++) {
        double at = y_of(axes, pow(10, y));

        fprintf(out,
                "<path class=\"g\" d=\"M%.1f %.1fH%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                "text-anchor=\"end\">%g</text>\n",
                LEFT, at, WIDTH - RIGHT, LEFT - 8, at + 4, pow(10, y));
    }
    fprintf(
        out,
        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">page-table updates per TLB "
        "miss</text>\n<text x=\"%.1f\" y=\"22\">modelled cycles an access</text>\n",
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, LEFT);
}

void crossover_svg(FILE *out, const struct crossover_point *points, unsigned count)
{
    static const char *const color[SIM_KINDS] = { "#666666", "#0072b2", "#d55e00",
                                                  "#009e73", "#cc79a7", "#000000" };
    struct axes axes = axes_of(points, count);

    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<style>.g{stroke:#ddd;fill:none}.l{fill:none;stroke-width:2}</style>\n"
            "<rect width=\"%g\" height=\"%g\" fill=\"white\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    svg_axes(out, &axes);
    for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
        bool begun = false;

        fprintf(out, "<path class=\"l\" stroke=\"%s\" d=\"", color[kind]);
        for (unsigned i = 0; i < count; i++) {
            if (points[i].updates > 0 && points[i].cycles[kind] > 0) {
                fprintf(out, "%c%.1f %.1f", begun ? 'L' : 'M',
                        x_of(&axes, points[i].updates),
                        y_of(&axes, points[i].cycles[kind]));
                begun = true;
            }
        }
        fprintf(out, "\"/>\n<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n",
                WIDTH - RIGHT + 12, TOP + 16 + 18.0 * kind, color[kind],
                sim_kind_name((enum sim_kind)kind));
    }
    fputs("</svg>\n", out);
}
