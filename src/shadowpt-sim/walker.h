/* SPDX-License-Identifier: MIT */
/* The guest's own page walk: GVA to GPA, as the processor does it on tables in memory. */
#ifndef SHADOWPT_SIM_WALKER_H
#define SHADOWPT_SIM_WALKER_H

#include "shadowpt-sim/memory.h"
#include "shadowpt-sim/paging.h"

enum mmu_outcome {
    MMU_OK,
    MMU_FAULT,        /* #PF with walk.error_code, CR2 = GVA */
    MMU_NONCANONICAL, /* #GP(0), or #SS(0) for a stack access */
    MMU_UNBACKED,     /* the entry at walk.entry_gpa[walk.level] is not in memory */
    MMU_NESTED_FAULT, /* two-dimensional walks only: EPT violation, misconfiguration, #NPF
                       */
};

/* Indexes are levels: 1 for a page table, up to 5 for a PML5; [0] is unused. */
struct mmu_walk {
    uint8_t outcome; /* enum mmu_outcome */
    uint8_t top;     /* first level read from memory: levels, but 2 for PAE (0: none) */
    uint8_t level;   /* last level read: the leaf after MMU_OK */
    uint8_t changed; /* bit n: this walk set A or D in the entry of level n */
    uint32_t error_code;
    uint64_t gva;              /* 32 bits of it outside 64-bit formats */
    uint64_t gpa;              /* after MMU_OK */
    struct mmu_translation to; /* after MMU_OK */
    uint8_t perms[6];          /* what the entries down to this level permit together */
    uint64_t entry[6], entry_gpa[6]; /* PAE: entry[3] is the PDPTE register */
};

/* Translate @gva for @access (MMU_* flags). A walk that ends in MMU_OK sets A in every
 * entry and, for a write, D in the leaf, each by compare-and-swap; it starts over when an
 * entry changed under it. A walk that ends otherwise changes nothing (SDM 4.8 leaves open
 * whether it sets A; KVM and we do not). A/D stores into ROM are dropped as on a bus. */
enum mmu_outcome mmu_walk(const struct mmu_mode *mode, const struct mmu_memory *memory,
                          uint64_t gva, uint32_t access, struct mmu_walk *walk);

/* MOV to CR3 in PAE format: read the four PDPTEs at @cr3 into mode->pdpte (SDM 4.4.1).
 * 0; -EINVAL for #GP(0), a present one has reserved bits; -EFAULT when not in memory.
 * On failure @mode is as before. */
int mmu_load_pdptes(struct mmu_mode *mode, const struct mmu_memory *memory, uint64_t cr3);

/* ---- References, for TLB, page-walk-cache and cost models ------------------------- */

enum mmu_dimension {
    MMU_REF_GUEST,  /* an entry of the guest's tables */
    MMU_REF_NESTED, /* an entry of the nested tables */
    MMU_REF_SHADOW, /* an entry of the shadow tables */
};

/* One read of a table entry. */
struct mmu_ref {
    uint8_t dimension; /* enum mmu_dimension */
    uint8_t level;     /* of this entry in its own tables */
    uint8_t
        for_level; /* NESTED: the guest level whose entry is being located, 0: the page */
    uint64_t address; /* where the entry is: GPA for native walks, else HPA */
    uint64_t value;
};

#define MMU_TRACE_MAX 40 /* 5 x 5 levels: 35 */

struct mmu_trace {
    unsigned count;
    struct mmu_ref ref[MMU_TRACE_MAX];
};

static inline void mmu_trace_add(struct mmu_trace *trace, struct mmu_ref ref)
{
    if (trace->count < MMU_TRACE_MAX) {
        trace->ref[trace->count++] = ref;
    }
}

/* The references of a finished native walk, in order. */
void mmu_walk_trace(const struct mmu_walk *walk, struct mmu_trace *trace);

#endif
