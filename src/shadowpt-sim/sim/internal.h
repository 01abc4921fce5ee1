/* SPDX-License-Identifier: MIT */
/* Inside the simulation: the machine (machine.c) and the guest OS on it (os.c). */
#ifndef SHADOWPT_SIM_SIM_INTERNAL_H
#define SHADOWPT_SIM_SIM_INTERNAL_H

#include "shadowpt-sim/sim/sim.h"

#define SIM_PCIDS 6 /* that the guest uses, as Linux does */

struct sim_area {
    uint64_t start, end;
    uint8_t flags; /* SIM_* */
};

struct sim_process {
    uint64_t root;         /* 0: there is no such process */
    struct sim_area *area; /* sorted, disjoint */
    unsigned areas, capacity;
};

/* Frames given back, newest last. */
struct sim_stack {
    uint32_t *frame;
    uint32_t count, capacity;
};

struct sim_os {
    struct sim_process process[SIM_PROCESSES];
    unsigned current;
    uint64_t direct_map;   /* GVA of GPA 0 in the kernel's map of all memory */
    unsigned kernel_index; /* of its entry in every root */
    uint64_t kernel_entry;
    uint16_t *refs;                      /* by frame: mappings of it */
    uint32_t fresh, large_fresh, frames; /* handed out below and above */
    uint32_t table_fresh;                /* the next of a block for tables */
    struct sim_stack free_pages, free_tables, free_large;
    uint16_t pcid_owner[SIM_PCIDS + 1]; /* process + 1 */
    uint64_t tables, tables_most;
};

/* Tables in host memory, and the addresses that entries have for them. */
struct sim_tables {
    const uint8_t *host;
    uint64_t base, size;
};

#define SIM_HINTS 4096 /* runs of 2 MiB */

struct sim_hint {
    uint64_t run;         /* (address >> 21) + 1 */
    const uint8_t *table; /* of level 1 */
};

struct sim_machine {
    enum sim_kind kind;
    struct sim_config config;
    struct tlb tlb;
    uint16_t pcid;
    const struct mmu_mode *check; /* the mode that TLB hits and walks are checked with */
    uint64_t root;                /* of the tables that the processor walks first */
    bool from_cr3;                /* agile: it is the guest's, and all is walked nested */
    struct sim_tables tables, nested_tables;
    struct sim_tables guest_tables; /* agile: by host address, where walks go on nested */
    struct sim_hint hint[SIM_HINTS], nested_hint[SIM_HINTS];
    uint64_t misses_before; /* at the last chunk of events */
    uint64_t since_tick;    /* events */
    struct mmu_mode mode;   /* native, nested */
    struct sim_ram ram;
    struct mmu_slots slots;
    struct nested_table nested;    /* agile: a view of the shadow MMU's own */
    struct table_pool shadow_pool; /* the memory that @shadow's tables are in */
    struct shadow_mmu *shadow;
    struct shadow_vcpu *vcpu;
    struct sim_counters count;
    uint64_t host_tables_most;
    struct sim_os os;
};

/* ---- The machine: machine.c, and its page walk: walk.c ---- */

enum access_end {
    ACCESS_DONE,
    ACCESS_FAULT, /* #PF in the guest */
    ACCESS_STORE, /* the hypervisor is to do the store, at *gpa */
    ACCESS_BAD,   /* the host is out of memory, or a bug */
};

enum access_end sim_cpu_walk(struct sim_machine *machine, uint64_t gva, uint32_t access,
                             uint64_t *gpa);

static inline uint32_t sim_access(const struct sim_event *event)
{
    return (event->flags & (MMU_WRITE | MMU_FETCH)) | MMU_USER;
}

/* So many events ahead of an access the host is asked for the entries it will need. */
#define SIM_FAR  16
#define SIM_NEAR 8

struct sim_burst {
    bool ahead;          /* in: SIM_FAR events behind the last may be looked at */
    enum access_end end; /* what the access behind those that were done ended with */
    uint64_t gpa;        /* ... for ACCESS_STORE */
};

/* Accesses in a row: how many of @events were done. The next one is not done, or ended
 * otherwise than in ACCESS_DONE. */
unsigned sim_cpu_burst(struct sim_machine *machine, const struct sim_event *events,
                       unsigned count, struct sim_burst *burst);

/* A walk for @gva is to come soon: let the host fetch the entry it will need. (Inlined by
 * force: GCC takes a function that only prefetches for one without effect.) */
TLB_INLINE void sim_cpu_prefetch(const struct sim_machine *machine, uint64_t gva)
{
    const struct sim_hint *hint = &machine->hint[(gva >> 21) % SIM_HINTS];

    if (hint->run == (gva >> 21) + 1) {
        __builtin_prefetch(hint->table + 8 * (gva >> 12 & 511));
    }
}

/* ... sooner: the nested tables' entry too, since the guest's is likely here by now. */
TLB_INLINE void sim_cpu_prefetch_nested(const struct sim_machine *machine, uint64_t gva)
{
    const struct sim_hint *hint = &machine->hint[(gva >> 21) % SIM_HINTS];
    uint64_t entry;

    if (hint->run != (gva >> 21) + 1) {
        return;
    }
    memcpy(&entry, hint->table + 8 * (gva >> 12 & 511), sizeof(entry));
    entry &= PTE_ADDRESS_MASK;
    hint = &machine->nested_hint[(entry >> 21) % SIM_HINTS];
    if (hint->run == (entry >> 21) + 1) {
        __builtin_prefetch(hint->table + 8 * (entry >> 12 & 511));
    }
}

static inline enum access_end sim_cpu_access(struct sim_machine *machine, uint64_t gva,
                                             uint32_t access, uint64_t *gpa)
{
    const struct mmu_translation *to = tlb_find(&machine->tlb, gva, machine->pcid);

    if (to != NULL) {
        if (mmu_translation_allows(machine->check, to, access)) {
            return ACCESS_DONE;
        }
        tlb_drop(&machine->tlb, gva, machine->pcid); /* as a processor does */
    }
    return sim_cpu_walk(machine, gva, access, gpa);
}

/* The guest's kernel stores @value at @gpa, through its map of all memory. */
int sim_cpu_store(struct sim_machine *machine, uint64_t gpa, uint64_t value);
int sim_cpu_load_cr3(struct sim_machine *machine, uint64_t root, uint16_t pcid,
                     bool flush);
void sim_cpu_invlpg(struct sim_machine *machine, uint64_t gva);
int sim_cpu_init(struct sim_machine *machine);
void sim_cpu_destroy(struct sim_machine *machine);
/* Paging on, with this root. */
int sim_cpu_start(struct sim_machine *machine, uint64_t root);

/* ---- The guest OS: -ENOSPC when its memory is used up, or what the machine says ---- */

int sim_os_boot(struct sim_machine *machine);
void sim_os_destroy(struct sim_os *os);
/* #PF. 0: try again; 1: the process may not do this. */
int sim_os_fault(struct sim_machine *machine, uint64_t gva, uint32_t access);
int sim_os_map(struct sim_machine *machine, const struct sim_event *event);
int sim_os_unmap(struct sim_machine *machine, const struct sim_event *event);
int sim_os_protect(struct sim_machine *machine, const struct sim_event *event);
int sim_os_fork(struct sim_machine *machine, unsigned child);
int sim_os_switch(struct sim_machine *machine, unsigned process);
int sim_os_exit(struct sim_machine *machine, unsigned process);

/* area.c: which addresses a process may use. */
struct sim_area *sim_area_find(const struct sim_process *process, uint64_t gva);
/* Take [start, end) out, and put it in with @flags unless these are negative. */
int sim_area_set(struct sim_process *process, uint64_t start, uint64_t end, int flags);

#endif
