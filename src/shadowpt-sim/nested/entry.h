/* SPDX-License-Identifier: MIT */
/* Between nested.c, which walks, and map.c, which builds. */
#ifndef SHADOWPT_SIM_NESTED_ENTRY_H
#define SHADOWPT_SIM_NESTED_ENTRY_H

#include "shadowpt-sim/nested/nested.h"

#define EPT_RWX (EPT_R | EPT_W | EPT_X)

static inline uint64_t nested_span(unsigned level)
{
    return (uint64_t)1 << (MMU_PAGE_SHIFT + 9 * (level - 1));
}

static inline bool nested_present(const struct nested_table *table, uint64_t entry)
{
    return (entry &
            (table->config.kind == NESTED_EPT ? (EPT_R | EPT_W | EPT_X) : PTE_P)) != 0;
}

/* PTE_PS and EPT_PS are the same bit. */
static inline bool nested_is_leaf(uint64_t entry, unsigned level)
{
    return level == 1 || (level <= 3 && (entry & PTE_PS));
}

/* What one entry permits, as NESTED_READ | NESTED_WRITE | NESTED_FETCH. */
static inline uint32_t nested_entry_perms(const struct nested_table *table,
                                          uint64_t entry)
{
    if (table->config.kind == NESTED_EPT) {
        return (uint32_t)(entry & EPT_RWX);
    }
    if ((entry & (PTE_P | PTE_U)) !=
        (PTE_P | PTE_U)) { /* nested accesses are user accesses */
        return 0;
    }
    return NESTED_READ | ((entry & PTE_W) ? NESTED_WRITE : 0) |
           ((entry & PTE_NX) ? 0 : NESTED_FETCH);
}

/* Whether it is a misconfiguration, or has reserved bits set. */
static inline bool nested_entry_broken(const struct nested_table *table, uint64_t entry,
                                       unsigned level, bool leaf)
{
    bool large = leaf && level > 1;
    unsigned type = (entry >> EPT_TYPE_SHIFT) & 7;

    if (entry & table->reserved[level == 1 ? 0 : large][level]) {
        return true;
    }
    if (table->config.kind == NESTED_NPT) {
        return false;
    }
    if ((entry & (EPT_R | EPT_W)) == EPT_W ||
        (!table->config.execute_only && (entry & EPT_RWX) == EPT_X)) {
        return true;
    }
    return leaf && (type == 2 || type == 3 || type == 7);
}

#endif
