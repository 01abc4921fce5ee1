/* SPDX-License-Identifier: MIT */
/* The walk itself, compiled three times: over memory directly, through nested tables, and
 * for what agile paging leaves to nested tables. */
#ifndef SHADOWPT_SIM_WALK_CORE_H
#define SHADOWPT_SIM_WALK_CORE_H

#include "shadowpt-sim/walker.h"

#include <errno.h>

/* Where entries come from. A function that returns MMU_OK, MMU_UNBACKED or
 * MMU_NESTED_FAULT before each access to the entry at walk->entry_gpa[level]; NULL: no
 * nested tables. */
struct walk_source {
    const struct mmu_memory *memory;
    enum mmu_outcome (*locate)(void *context, const struct mmu_walk *walk, unsigned level,
                               bool write);
    void *context;
    const struct walk_start *start; /* NULL: at CR3 */
};

/* The rest of a walk in the 64-bit format: the table it goes on with. */
struct walk_start {
    uint64_t table; /* GPA */
    unsigned level;
    uint32_t perms; /* what the entries above permit */
};

#define WALK_INLINE static inline __attribute__((always_inline))

WALK_INLINE enum mmu_outcome walk_fault(const struct mmu_mode *mode, uint32_t access,
                                        uint32_t error_code, struct mmu_walk *walk)
{
    if (access & MMU_WRITE) {
        error_code |= PF_W;
    }
    if ((access & MMU_USER) && !(access & MMU_IMPLICIT)) {
        error_code |= PF_U;
    }
    if (access & MMU_FETCH) {
        error_code |= mode->fetch_error;
    }
    walk->error_code = error_code;
    return MMU_FAULT;
}

WALK_INLINE enum mmu_outcome walk_load(const struct walk_source *source, unsigned level,
                                       unsigned size, struct mmu_walk *walk)
{
    if (source->locate != NULL) {
        enum mmu_outcome outcome = source->locate(source->context, walk, level, false);

        if (outcome != MMU_OK) {
            return outcome;
        }
    }
    if (mmu_load(source->memory, walk->entry_gpa[level], size, &walk->entry[level]) !=
        0) {
        return MMU_UNBACKED;
    }
    return MMU_OK;
}

/* Where the walk begins: level and table, or a fault for an absent PDPTE. */
WALK_INLINE enum mmu_outcome walk_begin(const struct mmu_mode *mode,
                                        const struct walk_source *source, uint32_t access,
                                        struct mmu_walk *walk, uint64_t *table)
{
    if (source->start != NULL) {
        walk->top = (uint8_t)source->start->level;
        walk->level = walk->top;
        *table = source->start->table;
        return MMU_OK;
    }
    if (mode->format == MMU_FORMAT_LONG) {
        walk->top = mode->levels;
        walk->level = mode->levels;
        *table = mode->cr3 & PTE_ADDRESS_MASK;
        return MMU_OK;
    }
    walk->top = 2;
    walk->level = 2;
    *table = mode->cr3 & 0xfffff000u;
    if (mode->format == MMU_FORMAT_PAE) {
        uint64_t pdpte = mode->pdpte[(walk->gva >> 30) & 3];

        walk->entry[3] = pdpte;
        walk->perms[3] = MMU_PERM_ALL;
        walk->level = 3;
        if (!(pdpte & PTE_P)) {
            return walk_fault(mode, access, 0, walk);
        }
        walk->level = 2;
        *table = pdpte & PTE_ADDRESS_MASK;
    }
    return MMU_OK;
}

/* Down to a leaf. Leaves walk->level there and walk->perms filled in. */
WALK_INLINE enum mmu_outcome walk_down(const struct mmu_mode *mode,
                                       const struct walk_source *source, uint32_t access,
                                       uint64_t table, struct mmu_walk *walk)
{
    bool legacy = mode->format == MMU_FORMAT_LEGACY;
    unsigned size = legacy ? 4 : 8, bits = legacy ? 10 : 9;
    uint32_t perms = source->start != NULL ? source->start->perms : MMU_PERM_ALL;

    for (unsigned level = walk->level;; level--) {
        unsigned shift = MMU_PAGE_SHIFT + bits * (level - 1);
        uint64_t index = (walk->gva >> shift) & ((1u << bits) - 1);
        enum mmu_outcome outcome;
        uint64_t entry;
        bool large;

        walk->level = (uint8_t)level;
        walk->entry_gpa[level] = table + index * size;
        outcome = walk_load(source, level, size, walk);
        if (outcome != MMU_OK) {
            return outcome;
        }
        entry = walk->entry[level];
        if (!(entry & PTE_P)) {
            return walk_fault(mode, access, 0, walk);
        }
        large = (entry & PTE_PS) && ((mode->large_levels >> level) & 1);
        if (entry & mode->reserved[large][level]) {
            return walk_fault(mode, access, PF_P | PF_RSVD, walk);
        }
        perms &= (uint32_t)((entry >> 1) & 3) | MMU_PERM_X;
        if (mode->nx && (entry & PTE_NX)) {
            perms &= ~MMU_PERM_X;
        }
        walk->perms[level] = (uint8_t)perms;
        if (large || level == 1) {
            return MMU_OK;
        }
        table = entry & PTE_ADDRESS_MASK;
    }
}

WALK_INLINE void walk_leaf(const struct mmu_mode *mode, struct mmu_walk *walk)
{
    unsigned level = walk->level, shift = mmu_level_shift(mode, level);
    uint64_t entry = walk->entry[level], mask = ((uint64_t)1 << shift) - 1;
    struct mmu_translation *to = &walk->to;

    to->page = entry & PTE_ADDRESS_MASK & ~mask;
    if (shift == 22 && mode->cpu.pse36) { /* bits 20:13 are address bits 39:32 */
        to->page |= (entry & 0x1fe000u) << 19;
    }
    to->shift = (uint8_t)shift;
    to->perms = walk->perms[level];
    to->pkey = mode->pkeys ? (entry >> PTE_PKEY_SHIFT) & 15 : 0;
    to->cache = (entry >> 3) & 3;
    if (entry & (level == 1 ? PTE_PAT_4K : PTE_PAT_LARGE)) {
        to->cache |= 4;
    }
    to->global = (entry & PTE_G) && (mode->cr4 & CR4_PGE);
    to->dirty = entry & PTE_D;
    walk->gpa = to->page | (walk->gva & mask);
}

/* Set A from the top down, and D in the leaf. MMU_NESTED_FAULT when nested tables forbid
 * the store; -1 when an entry changed meanwhile: walk again. */
WALK_INLINE int walk_mark(const struct mmu_mode *mode, const struct walk_source *source,
                          uint32_t access, struct mmu_walk *walk)
{
    for (unsigned level = walk->top; level >= walk->level; level--) {
        uint64_t old = walk->entry[level], new = old | PTE_A;
        int err;

        if (level == walk->level && (access & MMU_WRITE)) {
            new |= PTE_D;
        }
        if (new == old) {
            continue;
        }
        if (source->locate != NULL) {
            enum mmu_outcome outcome = source->locate(source->context, walk, level, true);

            if (outcome != MMU_OK) {
                return (int)outcome;
            }
        }
        err = mmu_cmpxchg(source->memory, walk->entry_gpa[level], mmu_entry_size(mode),
                          old, new);
        if (err == -EAGAIN) {
            return -1;
        }
        walk->entry[level] = new;
        walk->changed |= (uint8_t)(err == 0) << level;
    }
    walk->to.dirty = walk->entry[walk->level] & PTE_D;
    return MMU_OK;
}

WALK_INLINE enum mmu_outcome walk_unpaged(uint64_t gva, struct mmu_walk *walk)
{
    walk->top = 0;
    walk->level = 0;
    walk->gpa = gva;
    walk->to = (struct mmu_translation){
        .page = align_down(gva, MMU_PAGE_SIZE),
        .shift = MMU_PAGE_SHIFT,
        .perms = MMU_PERM_ALL,
        .dirty = true,
    };
    return MMU_OK;
}

WALK_INLINE enum mmu_outcome walk_run(const struct mmu_mode *mode,
                                      const struct walk_source *source, uint32_t access,
                                      struct mmu_walk *walk)
{
    bool denied, key;
    enum mmu_outcome outcome;
    uint64_t table;
    int marked;

    do {
        outcome = walk_begin(mode, source, access, walk, &table);
        if (outcome != MMU_OK) {
            return outcome;
        }
        outcome = walk_down(mode, source, access, table, walk);
        if (outcome != MMU_OK) {
            return outcome;
        }
        walk_leaf(mode, walk);
        denied = (mode->denied[access & MMU_ACCESS_MASK] >> walk->to.perms) & 1;
        /* PF_PK tells of the key whatever else forbids the access (SDM 4.7). */
        key = mmu_pkey_denied(mode, walk->to.perms, walk->to.pkey, access);
        if (denied || key) {
            return walk_fault(mode, access, PF_P | (key ? PF_PK : 0), walk);
        }
        if (access & MMU_PROBE) {
            return MMU_OK;
        }
        marked = walk_mark(mode, source, access, walk);
    } while (marked < 0);
    return (enum mmu_outcome)marked;
}

WALK_INLINE enum mmu_outcome walk_core(const struct mmu_mode *mode,
                                       const struct walk_source *source, uint64_t gva,
                                       uint32_t access, struct mmu_walk *walk)
{
    walk->changed = 0;
    walk->error_code = 0;
    walk->top = 0;
    walk->level = 0;
    walk->gva = mode->format == MMU_FORMAT_LONG ? gva : (uint32_t)gva;
    if (mode->format == MMU_FORMAT_NONE) {
        walk->outcome = walk_unpaged(walk->gva, walk);
    } else if (!mmu_canonical(mode, gva)) {
        walk->outcome = MMU_NONCANONICAL;
    } else {
        walk->outcome = (uint8_t)walk_run(mode, source, access, walk);
    }
    return (enum mmu_outcome)walk->outcome;
}

#endif
