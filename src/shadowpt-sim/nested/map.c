/* SPDX-License-Identifier: MIT */
/* Building nested tables from slots: filling, protecting, unmapping, splitting. */
#include "shadowpt-sim/nested/entry.h"

#include <errno.h>

static void entry_set(uint64_t *entry, uint64_t value)
{
    __atomic_store_n(entry, value, __ATOMIC_RELEASE);
}

/* A leaf for NESTED_* @perms, 0 when they amount to nothing. */
static uint64_t leaf_make(const struct nested_table *table, uint64_t hpa, unsigned level,
                          uint32_t perms)
{
    uint64_t entry = hpa | (level > 1 ? PTE_PS : 0);

    if (!(perms & NESTED_READ)) {
        bool alone = table->config.kind == NESTED_EPT && table->config.execute_only;

        perms = alone ? perms & NESTED_FETCH : 0;
    }
    if ((perms & 7) == 0) {
        return 0;
    }
    if (table->config.kind == NESTED_EPT) {
        return entry | (perms & 7) | ((uint64_t)EPT_TYPE_WB << EPT_TYPE_SHIFT);
    }
    return entry | PTE_P | PTE_U | ((perms & NESTED_WRITE) ? PTE_W : 0) |
           ((perms & NESTED_FETCH) ? 0 : PTE_NX);
}

static uint64_t pointer_make(const struct nested_table *table, uint32_t index)
{
    uint64_t hpa = pool_hpa(&table->pool, index);

    if (table->config.kind == NESTED_EPT) {
        return hpa | EPT_R | EPT_W | EPT_X;
    }
    return hpa | PTE_P | PTE_W | PTE_U;
}

/* The bits of a leaf that survive when its permissions change. */
static uint64_t leaf_flags(const struct nested_table *table, uint64_t entry)
{
    return entry & (table->config.kind == NESTED_EPT ? EPT_A | EPT_D : PTE_A | PTE_D);
}

static uint32_t slot_perms(const struct mmu_slot *slot)
{
    return NESTED_READ | NESTED_FETCH | (slot->readonly ? 0 : NESTED_WRITE);
}

static uint64_t leaf_address(uint64_t entry, unsigned level)
{
    return entry & PTE_ADDRESS_MASK & ~(nested_span(level) - 1);
}

int nested_fill(struct nested_table *table, uint64_t gpa, uint32_t access)
{
    const struct mmu_slot *slot = mmu_slots_find(table->slots, gpa);
    uint32_t index = table->root;
    unsigned target, level;
    uint64_t *entry;

    if (slot == NULL || gpa >> (12 + 9 * table->config.levels) != 0) {
        return -ENOENT;
    }
    if (slot->readonly && (access & NESTED_WRITE)) {
        return -EACCES;
    }
    target = mmu_slot_level(slot, gpa, table->config.max_level);
    for (level = table->config.levels;; level--) {
        entry = &pool_page(&table->pool, index)[(gpa / nested_span(level)) & 511];
        if (nested_present(table, *entry) ? nested_is_leaf(*entry, level)
                                          : level <= target) {
            break;
        }
        if (!nested_present(table, *entry)) {
            uint32_t child = pool_alloc(&table->pool);

            if (child == POOL_NONE) {
                return -ENOSPC;
            }
            entry_set(entry, pointer_make(table, child));
        }
        index = pool_index(&table->pool, *entry);
    }
    entry_set(entry,
              leaf_make(table, mmu_slot_hpa(slot, align_down(gpa, nested_span(level))),
                        level, slot_perms(slot)) |
                  leaf_flags(table, *entry));
    return 0;
}

int nested_fill_all(struct nested_table *table)
{
    for (unsigned i = 0; i < table->slots->count; i++) {
        const struct mmu_slot *slot = &table->slots->slot[i];

        for (uint64_t offset = 0; offset < slot->size;) {
            uint64_t gpa = slot->gpa + offset;
            unsigned level = mmu_slot_level(slot, gpa, table->config.max_level);
            int err = nested_fill(table, gpa, NESTED_READ);

            if (err != 0) {
                return err;
            }
            offset += nested_span(level) - (gpa & (nested_span(level) - 1));
        }
    }
    return 0;
}

/* ---- Changing ranges --------------------------------------------------------------- */

enum range_kind {
    RANGE_PROTECT,
    RANGE_UNMAP,
};

struct range {
    enum range_kind kind;
    uint64_t start, last; /* inclusive, so that the end of the address space fits */
    uint32_t perms;
};

/* Replace a large leaf by a table of smaller ones that say the same. */
static int leaf_split(struct nested_table *table, uint64_t *entry, unsigned level)
{
    uint32_t child = pool_alloc(&table->pool);
    uint64_t old = *entry, flags = old & ~PTE_ADDRESS_MASK;
    uint64_t *page;

    if (child == POOL_NONE) {
        return -ENOSPC;
    }
    page = pool_page(&table->pool, child);
    if (level == 2) {
        flags &= ~PTE_PS;
    }
    for (unsigned i = 0; i < 512; i++) {
        page[i] = (leaf_address(old, level) + i * nested_span(level - 1)) | flags;
    }
    entry_set(entry, pointer_make(table, child));
    return 0;
}

static void leaf_change(struct nested_table *table, uint64_t *entry, unsigned level,
                        uint64_t base, const struct range *range)
{
    const struct mmu_slot *slot = mmu_slots_find(table->slots, base);
    uint32_t perms = range->perms;
    uint64_t leaf;

    if (range->kind == RANGE_UNMAP || slot == NULL) {
        entry_set(entry, 0);
        return;
    }
    leaf = leaf_make(table, leaf_address(*entry, level), level, perms & slot_perms(slot));
    entry_set(entry, leaf != 0 ? leaf | leaf_flags(table, *entry) : 0);
}

static bool page_empty(const uint64_t *page)
{
    for (unsigned i = 0; i < 512; i++) {
        if (page[i] != 0) {
            return false;
        }
    }
    return true;
}

/* @base: the GPA of the first byte that page @index spans. */
static int range_apply(struct nested_table *table, uint32_t index, unsigned level,
                       uint64_t base, const struct range *range)
{
    uint64_t span = nested_span(level);
    int err = 0;

    for (unsigned i = 0; i < 512; i++) {
        uint64_t *entry = &pool_page(&table->pool, index)[i];
        uint64_t first = base + i * span, last = first + span - 1;
        bool inside = first >= range->start && last <= range->last;
        uint32_t child;

        if (!nested_present(table, *entry) || last < range->start ||
            first > range->last) {
            continue;
        }
        if (nested_is_leaf(*entry, level)) {
            if (!inside && leaf_split(table, entry, level) != 0) {
                if (range->kind != RANGE_UNMAP) {
                    err = -ENOSPC;
                    continue;
                }
                inside = true; /* dropping too much is safe: it comes back by a fault */
            }
            if (inside) {
                leaf_change(table, entry, level, first, range);
                continue;
            }
        }
        child = pool_index(&table->pool, *entry);
        if (range_apply(table, child, level - 1, first, range) != 0) {
            err = -ENOSPC;
        }
        if (page_empty(pool_page(&table->pool, child))) {
            entry_set(entry, 0);
            pool_free(&table->pool, child);
        }
    }
    return err;
}

static int range_run(struct nested_table *table, uint64_t gpa, uint64_t size,
                     const struct range *range)
{
    if (((gpa | size) & (MMU_PAGE_SIZE - 1)) != 0 || size == 0 ||
        gpa + (size - 1) < gpa) {
        return -EINVAL;
    }
    return range_apply(table, table->root, table->config.levels, 0, range);
}

int nested_protect(struct nested_table *table, uint64_t gpa, uint64_t size,
                   uint32_t perms)
{
    const struct range range = { RANGE_PROTECT, gpa, gpa + (size - 1), perms };

    return range_run(table, gpa, size, &range);
}

int nested_unmap(struct nested_table *table, uint64_t gpa, uint64_t size)
{
    const struct range range = { RANGE_UNMAP, gpa, gpa + (size - 1), 0 };

    return range_run(table, gpa, size, &range);
}

uint64_t *nested_entry(const struct nested_table *table, uint64_t gpa, unsigned level)
{
    uint32_t index = table->root;

    for (unsigned at = table->config.levels;; at--) {
        uint64_t *entry = &pool_page(&table->pool, index)[(gpa / nested_span(at)) & 511];

        if (at == level) {
            return entry;
        }
        if (!nested_present(table, *entry) || nested_is_leaf(*entry, at)) {
            return NULL;
        }
        index = pool_index(&table->pool, *entry);
    }
}

bool nested_clear_dirty(struct nested_table *table, uint64_t gpa)
{
    uint64_t dirty = table->config.kind == NESTED_EPT ? EPT_D : PTE_D;

    for (unsigned level = 1; level <= 3; level++) {
        uint64_t *entry = nested_entry(table, gpa, level);

        if (entry != NULL && nested_present(table, *entry) &&
            nested_is_leaf(*entry, level)) {
            return __atomic_fetch_and(entry, ~dirty, __ATOMIC_RELAXED) & dirty;
        }
    }
    return false;
}
