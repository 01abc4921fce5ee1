/* SPDX-License-Identifier: MIT */
/* The guest's page walk over memory, and the PDPTE registers of PAE paging. */
#include "shadowpt-sim/walk_core.h"

enum mmu_outcome mmu_walk(const struct mmu_mode *mode, const struct mmu_memory *memory,
                          uint64_t gva, uint32_t access, struct mmu_walk *walk)
{
    const struct walk_source source = { .memory = memory };

    return walk_core(mode, &source, gva, access, walk);
}

int mmu_load_pdptes(struct mmu_mode *mode, const struct mmu_memory *memory, uint64_t cr3)
{
    uint64_t pdpte[4];

    for (unsigned i = 0; i < 4; i++) {
        if (mmu_load(memory, (cr3 & 0xffffffe0u) + i * 8, 8, &pdpte[i]) != 0) {
            return -EFAULT;
        }
        if ((pdpte[i] & PTE_P) && (pdpte[i] & mode->reserved[0][3])) {
            return -EINVAL;
        }
    }
    memcpy(mode->pdpte, pdpte, sizeof(pdpte));
    return 0;
}

void mmu_walk_trace(const struct mmu_walk *walk, struct mmu_trace *trace)
{
    trace->count = 0;
    for (unsigned level = walk->top; level >= walk->level && level > 0; level--) {
        mmu_trace_add(trace, (struct mmu_ref){ .dimension = MMU_REF_GUEST,
                                               .level = (uint8_t)level,
                                               .for_level = 0,
                                               .address = walk->entry_gpa[level],
                                               .value = walk->entry[level] });
    }
}
