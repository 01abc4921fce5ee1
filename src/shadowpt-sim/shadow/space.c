/* SPDX-License-Identifier: MIT */
/* Walking whole address spaces, and shadowing them. */
#include "shadowpt-sim/shadow/space.h"

#include <errno.h>

#include "shadowpt-sim/shadow/internal.h"

enum { PASSES = 4 };

/* ---- The walk --------------------------------------------------------------------------- */

struct walk {
    const struct mmu_mode *mode;
    const struct mmu_memory *memory;
    uint64_t limit;
    space_page_fn fn;
    void *context;
    struct space_stats *stats;
    bool stop;
};

static uint64_t walk_sign(const struct mmu_mode *mode, uint64_t gva)
{
    unsigned shift = mode->levels == 5 ? 64 - 57 : 64 - 48;

    return mode->format == MMU_FORMAT_LONG ? (uint64_t)((int64_t)(gva << shift) >> shift)
                                           : gva;
}

static void walk_page(struct walk *walk, uint64_t gva, uint64_t entry, unsigned level,
                      uint8_t perms)
{
    const struct mmu_mode *mode = walk->mode;
    unsigned shift = mmu_level_shift(mode, level);
    uint64_t mask = ((uint64_t)1 << shift) - 1;
    struct space_page page = {
        .gva = walk_sign(mode, gva),
        .accessed = entry & PTE_A,
        .to = {
            .page = entry & PTE_ADDRESS_MASK & ~mask,
            .shift = (uint8_t)shift,
            .perms = perms,
            .pkey = mode->pkeys ? (entry >> PTE_PKEY_SHIFT) & 15 : 0,
            .cache = (uint8_t)(((entry >> 3) & 3) |
                               (entry & (level == 1 ? PTE_PAT_4K : PTE_PAT_LARGE) ? 4 : 0)),
            .global = (entry & PTE_G) && (mode->cr4 & CR4_PGE),
            .dirty = entry & PTE_D,
        },
    };

    if (shift == 22 && mode->cpu.pse36) {
        page.to.page |= (entry & 0x1fe000u) << 19;
    }
    walk->stats->pages++;
    walk->stats->bytes += mask + 1;
    walk->stats->by_shift[shift]++;
    walk->stop |= walk->fn != NULL && !walk->fn(walk->context, &page);
}

static void walk_table(struct walk *walk, uint64_t table, uint64_t gva, unsigned level,
                       uint8_t perms);

static void walk_entry(struct walk *walk, uint64_t entry, uint64_t gva, unsigned level,
                       uint8_t perms)
{
    const struct mmu_mode *mode = walk->mode;
    bool large = (entry & PTE_PS) && ((mode->large_levels >> level) & 1);

    if (!(entry & PTE_P)) {
        return;
    }
    if (entry & mode->reserved[large][level]) {
        walk->stats->reserved++;
        return;
    }
    perms &= (uint8_t)(((entry >> 1) & 3) | MMU_PERM_X);
    if (mode->nx && (entry & PTE_NX)) {
        perms &= (uint8_t)~MMU_PERM_X;
    }
    if (large || level == 1) {
        walk_page(walk, gva, entry, level, perms);
    } else {
        walk_table(walk, entry & PTE_ADDRESS_MASK, gva, level - 1, perms);
    }
}

static void walk_table(struct walk *walk, uint64_t table, uint64_t gva, unsigned level,
                       uint8_t perms)
{
    unsigned size = mmu_entry_size(walk->mode), count = size == 4 ? 1024 : 512;
    unsigned shift = mmu_level_shift(walk->mode, level);

    walk->stats->tables[level]++;
    for (unsigned i = 0; i < count && !walk->stop; i++) {
        uint64_t entry;

        if (walk->stats->entries++ >= walk->limit) {
            walk->stats->truncated = walk->stop = true;
        } else if (mmu_load(walk->memory, table + (uint64_t)i * size, size, &entry) !=
                   0) {
            walk->stats->unbacked++;
            return; /* a table is in one page: there or not */
        } else {
            walk_entry(walk, entry, gva + ((uint64_t)i << shift), level, perms);
        }
    }
}

void space_walk(const struct mmu_mode *mode, const struct mmu_memory *memory,
                uint64_t limit, space_page_fn fn, void *context,
                struct space_stats *stats)
{
    struct walk walk = { mode, memory, limit, fn, context, stats, false };

    memset(stats, 0, sizeof(*stats));
    switch (mode->format) {
    case MMU_FORMAT_LONG:
        walk_table(&walk, mode->cr3 & PTE_ADDRESS_MASK, 0, mode->levels, MMU_PERM_ALL);
        break;
    case MMU_FORMAT_PAE:
        for (unsigned i = 0; i < 4 && !walk.stop; i++) {
            if (mode->pdpte[i] & PTE_P) {
                walk_table(&walk, mode->pdpte[i] & PTE_ADDRESS_MASK, (uint64_t)i << 30, 2,
                           MMU_PERM_ALL);
            }
        }
        break;
    case MMU_FORMAT_LEGACY:
        walk_table(&walk, mode->cr3 & 0xfffff000u, 0, 2, MMU_PERM_ALL);
        break;
    default:
        break;
    }
}

/* ---- Shadow tables ---------------------------------------------------------------------- */

void shadow_census(const struct shadow_mmu *mmu, struct shadow_census *census)
{
    for (uint32_t i = 0; i < mmu->pool.fresh; i++) {
        const struct shadow_page *page = &mmu->page[i];
        const uint64_t *entries = pool_page(&mmu->pool, i);

        if (!page->live) {
            continue;
        }
        census->pages[page->role.level]++;
        census->bytes += MMU_PAGE_SIZE;
        for (unsigned slot = 0; slot < 512; slot++) {
            if ((entries[slot] & PTE_P) && !(entries[slot] & SHADOW_SWITCH) &&
                entry_leaf(page, entries[slot])) {
                census->leaves[page->role.level]++;
                census->splintered += page->role.direct || page->splinter;
                census->writable += (entries[slot] & PTE_W) != 0;
            }
        }
    }
}

struct touch {
    struct shadow_vcpu *vcpu;
    struct shadow_census *census;
    uint64_t fills;
    bool first, failed;
};

/* Touch all of one guest page, part by part where it is splintered. */
static bool touch_page(void *context, const struct space_page *page)
{
    struct touch *touch = context;
    uint64_t size = (uint64_t)1 << page->to.shift, step;
    uint32_t access = MMU_AC | ((page->to.perms & MMU_PERM_U) ? MMU_USER : 0);

    if (page->to.dirty && (page->to.perms & MMU_PERM_W)) {
        access |= MMU_WRITE;
    }
    for (uint64_t at = 0; at < size && !touch->failed; at += step) {
        struct shadow_result result = { .outcome = SHADOW_OK };
        struct mmu_translation to;

        step = MMU_PAGE_SIZE;
        if (shadow_translate(touch->vcpu, page->gva + at, access, &to)) {
            step = (uint64_t)1 << to.shift;
            continue;
        }
        switch (shadow_fault(touch->vcpu, page->gva + at, access, &result)) {
        case SHADOW_OK:
            touch->fills++;
            step = (uint64_t)1 << result.to.shift;
            break;
        case SHADOW_TABLE_WRITE:
        case SHADOW_EMULATE:
            touch->census->emulated += touch->first;
            /* Its reads still have an entry. */
            if (shadow_access(touch->vcpu, page->gva + at, access & ~MMU_WRITE,
                              &result) == SHADOW_NO_MEMORY) {
                touch->failed = true;
            }
            break;
        case SHADOW_NO_MEMORY:
            touch->failed = true;
            break;
        default:
            touch->census->refused += touch->first;
            step = page->to.shift > 21 ? (uint64_t)1 << 21 : size;
            break;
        }
        step -= (page->gva + at) & (step - 1);
    }
    return !touch->failed;
}

int space_touch(struct shadow_vcpu *vcpu, const struct mmu_memory *memory, uint64_t limit,
                struct shadow_census *census)
{
    struct touch touch = { .vcpu = vcpu, .census = census, .first = true };
    struct mmu_mode mode = *shadow_vcpu_mode(vcpu);
    struct space_stats stats;

    /* A new table takes large leaves over its frame away, so go on until all stay. */
    for (unsigned pass = 0; pass < PASSES; pass++) {
        uint64_t before = touch.fills;

        space_walk(&mode, memory, limit, touch_page, &touch, &stats);
        touch.first = false;
        if (touch.failed) {
            return -ENOMEM;
        }
        if (touch.fills == before) {
            break;
        }
    }
    census->faults += touch.fills;
    return 0;
}
