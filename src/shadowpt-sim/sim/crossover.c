/* SPDX-License-Identifier: MIT */
/* The crossover curve: cost by table updates per TLB miss. */
#include "shadowpt-sim/sim/report.h"

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
#define RIGHT  160.0
#define TOP    44.0
#define BOTTOM 60.0

struct axes {
    double x0, x1, y0, y1; /* log10 of the ends */
};

/* Dashes let a curve be seen that another one covers: where no table is shared, unsync and vtlb
 * cost the same. */
static const struct {
    const char *color, *dashes;
} styles[SIM_KINDS] = {
    [SIM_NATIVE] = { "#666666", "none" },     [SIM_NESTED] = { "#0072b2", "none" },
    [SIM_SHADOW_WP] = { "#d55e00", "none" },  [SIM_SHADOW_UNSYNC] = { "#009e73", "none" },
    [SIM_SHADOW_VTLB] = { "#cc79a7", "5 5" }, [SIM_SHADOW_AGILE] = { "#000000", "9 4" },
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

/* The nth of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ...; the 0th is 1. */
static double step_of(int n)
{
    static const double steps[] = { 1, 2, 5 };
    int decade = (n < 0 ? n - 2 : n) / 3;

    return steps[n - 3 * decade] * pow(10, decade);
}

/* The last step that is not above @value. */
static int step_below(double value)
{
    int n = 3 * (int)floor(log10(value)) - 3;

    while (step_of(n + 1) <= value) {
        n++;
    }
    return n;
}

static void reach(double value, double *low, double *high)
{
    if (value > 0) {
        int below = step_below(value);
        double above = step_of(below) < value ? step_of(below + 1) : value;

        *low = fmin(*low, log10(step_of(below)));
        *high = fmax(*high, log10(above));
    }
}

static struct axes axes_of(const struct crossover_point *points, unsigned count)
{
    struct axes axes = { 99, -99, 99, -99 };

    for (unsigned i = 0; i < count; i++) {
        reach(points[i].updates, &axes.x0, &axes.x1);
        for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
            reach(points[i].cycles[kind], &axes.y0, &axes.y1);
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
    const double near = 1e-9; /* of rounding */

    for (int n = step_below(pow(10, axes->x0 + near));
         log10(step_of(n)) <= axes->x1 + near; n++) {
        double at = x_of(axes, step_of(n));

        fprintf(out, "<path class=\"%s\" d=\"M%.1f %.1fV%.1f\"/>\n",
                n % 3 == 0 ? "g" : "m", at, TOP, HEIGHT - BOTTOM);
        if (n % 3 == 0) {
            fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n",
                    at, HEIGHT - BOTTOM + 18, step_of(n));
        }
    }
    for (int n = step_below(pow(10, axes->y0 + near));
         log10(step_of(n)) <= axes->y1 + near; n++) {
        double at = y_of(axes, step_of(n));

        fprintf(out,
                "<path class=\"%s\" d=\"M%.1f %.1fH%.1f\"/>"
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                n % 3 == 0 ? "g" : "m", LEFT, at, WIDTH - RIGHT, LEFT - 8, at + 4,
                step_of(n));
    }
    fprintf(
        out,
        "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">page-table updates per TLB "
        "miss</text>\n<text x=\"%.1f\" y=\"24\">modelled cycles an access</text>\n",
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, LEFT);
}

static void svg_legend(FILE *out, unsigned kind, bool crosses)
{
    double x = WIDTH - RIGHT + 14, y = TOP + 16 + 20.0 * kind;

    fprintf(
        out,
        "<path class=\"l\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"M%.1f %.1fh28\"/>"
        "<text x=\"%.1f\" y=\"%.1f\">%s</text>\n",
        styles[kind].color, styles[kind].dashes, x, y - 4, x + 36, y,
        sim_kind_name((enum sim_kind)kind));
    if (crosses) {
        fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x + 14,
                y - 4, styles[kind].color);
    }
}

/* The curve, and a dot where it leaves nested behind. */
static void svg_curve(FILE *out, const struct axes *axes,
                      const struct crossover_point *points, unsigned count, unsigned kind)
{
    double crossing =
        kind > SIM_NESTED ? crossover_find(points, count, (enum sim_kind)kind) : -1;
    bool begun = false;

    fprintf(out, "<path class=\"l\" stroke=\"%s\" stroke-dasharray=\"%s\" d=\"",
            styles[kind].color, styles[kind].dashes);
    for (unsigned i = 0; i < count; i++) {
        if (points[i].updates > 0 && points[i].cycles[kind] > 0) {
            fprintf(out, "%c%.1f %.1f", begun ? 'L' : 'M', x_of(axes, points[i].updates),
                    y_of(axes, points[i].cycles[kind]));
            begun = true;
        }
    }
    fputs("\"/>\n", out);
    for (unsigned i = 1; i < count && crossing > 0; i++) {
        const struct crossover_point *a = &points[i - 1], *b = &points[i];

        if (a->updates <= crossing && crossing <= b->updates && b->updates > a->updates &&
            a->updates > 0) {
            double part = (crossing - a->updates) / (b->updates - a->updates);
            double y = a->cycles[SIM_NESTED] +
                       part * (b->cycles[SIM_NESTED] - a->cycles[SIM_NESTED]);

            fprintf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n",
                    x_of(axes, crossing), y_of(axes, y), styles[kind].color);
            break;
        }
    }
    svg_legend(out, kind, crossing > 0);
}

void crossover_svg(FILE *out, const struct crossover_point *points, unsigned count)
{
    struct axes axes = axes_of(points, count);

    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<style>.g{stroke:#bbb;fill:none}.m{stroke:#e8e8e8;fill:none}"
            ".l{fill:none;stroke-width:2}</style>\n"
            "<rect width=\"%g\" height=\"%g\" fill=\"white\"/>\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT);
    svg_axes(out, &axes);
    for (unsigned kind = 0; kind < SIM_KINDS; kind++) {
        svg_curve(out, &axes, points, count, kind);
    }
    fprintf(out,
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\">dots: nested costs</text>"
            "<text x=\"%.1f\" y=\"%.1f\" font-size=\"11\">less from there on</text>\n",
            WIDTH - RIGHT + 14, TOP + 28 + 20.0 * SIM_KINDS, WIDTH - RIGHT + 14,
            TOP + 42 + 20.0 * SIM_KINDS);
    fputs("</svg>\n", out);
}
