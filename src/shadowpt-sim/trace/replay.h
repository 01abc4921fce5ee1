/* SPDX-License-Identifier: MIT */
/*
 * Logs of page tables through the MMUs: what changed between two stops becomes stores of the
 * guest's kernel to its tables, CR3 loads, flushes as a kernel must make them, and accesses
 * where only accessed or dirty flags were set.
 */
#ifndef SHADOWPT_SIM_TRACE_REPLAY_H
#define SHADOWPT_SIM_TRACE_REPLAY_H

#include "shadowpt-sim/sim/sim.h"
#include "shadowpt-sim/trace/ptlog.h"

struct replay;

struct replay_config {
    struct cost_model cost;
    uint8_t host_shift;    /* host pages: 12, 21, 30; 0: 21 */
    uint32_t shadow_pages; /* at most; 0: 262144 */
};

/* What a log says, whatever translates. */
struct replay_counters {
    uint64_t stops, changes; /* changed entries */
    uint64_t stores;         /* that the guest's kernel makes */
    uint64_t unseen;         /* of these, with paging off or through no known mapping */
    uint64_t accesses;       /* that set flags */
    uint64_t full_flushes, cr3_loads, invlpgs, mode_changes;
    uint64_t refused; /* stops at which a CPU's registers were impossible */
};

/* @kind: native, nested, or one of shadow paging's. */
int replay_create(const struct ptlog_meta *meta, const struct replay_config *config,
                  enum sim_kind kind, struct replay **replay, struct umbra_error *error);
/* The next stop of the log. -ENOMEM. */
int replay_stop(struct replay *replay, const struct ptlog_stop *stop,
                struct umbra_error *error);
void replay_destroy(struct replay *replay);

void replay_result(const struct replay *replay, struct sim_result *result);
const struct replay_counters *replay_counters(const struct replay *replay);

/* After a stop: do the guest's tables hold what the log says, accessed and dirty flags
 * apart? -EPROTO. */
int replay_compare(const struct replay *replay, struct page_image *image,
                   struct umbra_error *error);
/* Audit the shadow tables (0 for other kinds). */
int replay_audit(struct replay *replay, struct umbra_error *error);

#endif
