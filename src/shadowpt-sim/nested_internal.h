/* SPDX-License-Identifier: MIT */
/* Between nested.c, which walks, and nested_map.c, which builds. */
#ifndef SHADOWPT_SIM_NESTED_INTERNAL_H
#define SHADOWPT_SIM_NESTED_INTERNAL_H

#include "shadowpt-sim/nested.h"

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

#endif
