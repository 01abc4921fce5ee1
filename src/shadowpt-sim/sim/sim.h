/* SPDX-License-Identifier: MIT */
/* The simulation: one stream of events, a small guest OS with page tables of its own, and
 * six ways to translate its addresses, each with its own caches and costs. */
#ifndef SHADOWPT_SIM_SIM_SIM_H
#define SHADOWPT_SIM_SIM_SIM_H

#include "shadowpt-sim/nested/nested.h"
#include "shadowpt-sim/shadow/shadow.h"
#include "shadowpt-sim/sim/cost.h"

/* ---- Events -------------------------------------------------------------------------- */

enum sim_event_kind {
    SIM_ACCESS,  /* address; flags: MMU_WRITE or MMU_FETCH; the current process's */
    SIM_MAP,     /* [address, + pages): flags SIM_* */
    SIM_UNMAP,   /* [address, + pages) */
    SIM_PROTECT, /* [address, + pages): flags */
    SIM_FORK,    /* the current process gets the child @process */
    SIM_SWITCH,  /* to @process; it is made if there is none */
    SIM_EXIT,    /* @process ends; after the current one, process 0 runs */
    SIM_MARK,    /* what went before was preparation: all counters to zero */
};

#define SIM_READABLE   0x01u
#define SIM_WRITABLE   0x02u
#define SIM_EXECUTABLE 0x04u
#define SIM_LARGE      0x08u /* 2 MiB pages where they fit */
#define SIM_POPULATE   0x10u /* at once, not at first touch */

struct sim_event {
    uint64_t address;
    uint32_t pages;
    uint8_t kind, flags;
    uint16_t process;
};

#define SIM_PROCESSES 4096

/* ---- Where events come from ------------------------------------------------------------ */

struct sim_source {
    /* Up to @max events; 0 at the end, or -errno with @error filled. */
    int (*next)(struct sim_source *source, struct sim_event *events, unsigned max,
                struct umbra_error *error);
    void (*destroy)(struct sim_source *source); /* NULL: nothing to do */
    uint64_t expected;                          /* events in all, 0: not known */
    bool auto_map; /* pages that were never mapped are, at the first touch */
};

/* ---- Configurations --------------------------------------------------------------------- */

enum sim_kind {
    SIM_NATIVE,
    SIM_NESTED,
    SIM_SHADOW_WP,
    SIM_SHADOW_UNSYNC,
    SIM_SHADOW_VTLB,
    SIM_SHADOW_AGILE,
    SIM_KINDS,
};

const char *sim_kind_name(enum sim_kind kind);
/* "native", "nested", "shadow-wp" (or "wp"), ...; 0 or -EINVAL. */
int sim_kind_parse(const char *name, enum sim_kind *kind);

struct sim_config {
    struct cost_model cost;
    uint64_t ram;       /* the guest's, bytes; 0: 64 GiB (used only as touched) */
    uint8_t levels;     /* of the guest's tables, 4 or 5; 0: 4 */
    uint8_t host_shift; /* host pages: 12, 21, 30; 0: 21 */
    bool pcid;          /* the guest uses PCIDs */
    bool auto_map;
    uint32_t shadow_pages; /* at most; 0: 262144 (1 GiB) */
};

#define SIM_REFERENCES 40

struct sim_counters {
    uint64_t accesses, walks, references, skipped;
    uint64_t histogram[SIM_REFERENCES + 1]; /* references of a walk, caches considered */
    uint64_t guest_faults, segfaults, table_stores, cr3_loads, invlpgs;
    uint64_t nested_violations, refused;
    uint64_t cycles_access, cycles_walk, cycles_guest, cycles_exit;
};

struct sim_result {
    enum sim_kind kind;
    struct sim_counters count;
    struct tlb_stats tlb;
    struct shadow_stats shadow; /* shadow kinds */
    uint64_t exits;             /* of all causes */
    uint64_t guest_tables;      /* bytes, most at any time */
    uint64_t host_tables;       /* shadow or nested tables, bytes, most at any time */
    uint64_t cycles;
};

/* Cycles of the exits and of the work that @count (SHADOW_EVENTS of them) tells of; the exits
 * are added to *@exits. */
uint64_t sim_shadow_cycles(const struct cost_model *cost, const uint64_t *count,
                           uint64_t *exits);

struct sim_machine;

int sim_create(const struct sim_config *config, enum sim_kind kind,
               struct sim_machine **machine, struct umbra_error *error);
void sim_destroy(struct sim_machine *machine);

/* 0; -ENOSPC: the guest's memory or processes, or -ENOMEM: the host's, are used up. */
int sim_run(struct sim_machine *machine, const struct sim_event *events, unsigned count,
            struct umbra_error *error);
void sim_result(const struct sim_machine *machine, struct sim_result *result);

/* What every kind must agree on: a digest of the guest's tables of all processes and of
 * the faults it saw. A and D flags are left out: a TLB may set them at other times. */
uint64_t sim_digest(const struct sim_machine *machine);

/* What a nested machine walks now: the current process's registers, and its nested tables
 * (NULL for other kinds). Valid until the next sim_run(). */
const struct mmu_mode *sim_mode(const struct sim_machine *machine);
const struct nested_table *sim_nested(const struct sim_machine *machine);

/* Audit the shadow tables (0 for other kinds). */
int sim_audit(struct sim_machine *machine, struct umbra_error *error);

#endif
