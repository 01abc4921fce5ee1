/* SPDX-License-Identifier: MIT */
/* What the parts of a replay share; others see replay.h. */
#ifndef SHADOWPT_SIM_TRACE_REPLAY_INTERNAL_H
#define SHADOWPT_SIM_TRACE_REPLAY_INTERNAL_H

#include "shadowpt-sim/trace/replay.h"

/* Beyond, Linux flushes all (tlb_single_page_flush_ceiling). */
enum { REPLAY_INVLPGS = 33 };

struct replay_cpu {
    struct mmu_mode mode;
    struct shadow_vcpu *vcpu; /* shadow kinds */
    bool runs;                /* its registers are possible, and 64-bit paging is on */
    unsigned invlpgs;         /* due at this stop */
    bool flush;               /* ... all of it is */
    uint64_t invlpg[REPLAY_INVLPGS];
};

struct replay {
    enum sim_kind kind;
    struct ptlog_meta meta;
    struct replay_config config;
    struct sim_ram ram;
    struct mmu_slots slots;
    struct nested_table nested;
    struct shadow_mmu *shadow;
    struct replay_cpu cpu[PTLOG_CPUS];
    uint64_t alias;    /* GVA - GPA where the kernel maps memory for itself */
    unsigned searches; /* for it, at this stop, in vain */
    bool no_memory;
    struct replay_counters log;
    struct sim_counters count;
    uint64_t guest_tables, host_tables; /* most */
};

enum replay_ending {
    REPLAY_DONE,  /* the processor did it */
    REPLAY_STORE, /* the hypervisor is to store, at the GPA */
    REPLAY_NOT,   /* it faulted, or went to a device */
};

/* An access as @cpu's processor makes it; @gpa: where, if it ends in REPLAY_STORE. */
enum replay_ending replay_access(struct replay *replay, const struct replay_cpu *cpu,
                                 uint64_t gva, uint32_t access, uint64_t *gpa);

/* The guest's kernel on CPU @index stores @value at @gpa: through its own mapping of it, if
 * there is one. */
void replay_store(struct replay *replay, unsigned index, uint64_t gpa, uint64_t value);

#endif
