/* SPDX-License-Identifier: MIT */
/* Results for people (tables, SVG) and for programs (JSON, CSV). */
#ifndef SHADOWPT_SIM_SIM_REPORT_H
#define SHADOWPT_SIM_SIM_REPORT_H

#include "shadowpt-sim/sim/sim.h"

#include <stdio.h>

void report_table(FILE *out, const struct sim_result *results, unsigned count);
/* report_json() without the closing brace, so that more members can follow. */
void report_json_begin(FILE *out, const struct sim_result *results, unsigned count);
void report_json(FILE *out, const struct sim_result *results, unsigned count);
void report_csv(FILE *out, const struct sim_result *results, unsigned count);

/* ---- The crossover curve ---- */

struct crossover_point {
    double updates;           /* table updates per TLB miss, as measured natively */
    double cycles[SIM_KINDS]; /* per access */
};

/* Updates per TLB miss at which @kind begins to cost more than nested paging, between the
 * points around it; 0: from the start, negative: nowhere on the curve. */
double crossover_find(const struct crossover_point *points, unsigned count,
                      enum sim_kind kind);

void crossover_table(FILE *out, const struct crossover_point *points, unsigned count);
void crossover_json(FILE *out, const struct crossover_point *points, unsigned count);
void crossover_csv(FILE *out, const struct crossover_point *points, unsigned count);
void crossover_svg(FILE *out, const struct crossover_point *points, unsigned count);

#endif
