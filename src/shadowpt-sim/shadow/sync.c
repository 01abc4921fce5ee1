/* SPDX-License-Identifier: MIT */
/* Following the guest's changes: emulated writes, tables out of sync, and the policies.
 */
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>

/* ---- Out-of-sync leaf tables
 * ----------------------------------------------------------- */

void shadow_unsync_link(struct shadow_mmu *mmu, entry_ref parent)
{
    struct shadow_page *page = &mmu->page[ref_page(parent)];
    unsigned slot = ref_slot(parent);
    uint64_t bit = (uint64_t)1 << (slot % 64);

    if (page->unsync_below[slot / 64] & bit) {
        return;
    }
    page->unsync_below[slot / 64] |= bit;
    if (page->unsync_count++ != 0) {
        return; /* those above know already */
    }
    for (entry_ref ref = page->parents; ref != REF_NONE; ref = mmu->link[ref].next) {
        shadow_unsync_link(mmu, ref);
    }
}

void shadow_unsync_mark(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    if (page->unsync) {
        return;
    }
    page->unsync = true;
    for (entry_ref ref = page->parents; ref != REF_NONE; ref = mmu->link[ref].next) {
        shadow_unsync_link(mmu, ref);
    }
}

void shadow_sync_page(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    page->unsync = false;
    frame_protect(mmu, page->gfn);
    count(mmu, SHADOW_PAGE_SYNC);
    for (unsigned slot = 0; slot < 512 && page->present != 0; slot++) {
        entry_ref ref = ref_make(index, slot);
        uint64_t leaf = *entry_at(mmu, ref), gfn;

        if ((leaf & PTE_P) &&
            !shadow_leaf_fits(leaf, shadow_leaf_wanted(mmu, page, slot, &gfn),
                              page->role)) {
            entry_drop(mmu, ref);
            mmu->tlb_stale = true;
            count(mmu, SHADOW_ENTRY_SYNC);
        }
    }
}

void shadow_sync_frame(struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t node = frames_find(&mmu->frames, gfn, 1);

    if (node == NODE_NONE) {
        return;
    }
    for (uint32_t at = mmu->frames.node[node].pages; at != POOL_NONE;
         at = mmu->page[at].next) {
        if (mmu->page[at].unsync) {
            shadow_sync_page(mmu, at);
        }
    }
}

/* Levels only go down, so this ends even when the guest maps a table into itself. */
void shadow_sync_below(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    for (unsigned word = 0; word < 8; word++) {
        while (page->unsync_below[word] != 0) {
            unsigned slot =
                word * 64 + (unsigned)__builtin_ctzll(page->unsync_below[word]);
            uint32_t child =
                pool_index(&mmu->pool, *entry_at(mmu, ref_make(index, slot)));

            if (mmu->page[child].unsync) {
                shadow_sync_page(mmu, child);
            }
            shadow_sync_below(mmu, child);
            page->unsync_below[word] &= page->unsync_below[word] - 1;
            page->unsync_count--;
        }
    }
}

/* ---- Writes that the hypervisor does or sees
 * --------------------------------------------- */

static void written_slot(struct shadow_mmu *mmu, uint32_t index, unsigned slot)
{
    entry_ref ref = ref_make(index, slot);

    if (*entry_at(mmu, ref) & PTE_P) {
        entry_drop(mmu, ref);
        mmu->tlb_stale = true; /* the guest flushes when it wants the change seen */
    }
}

/* Entry @number of the guest's table changed. */
static void written_entry(struct shadow_mmu *mmu, uint32_t index, unsigned number)
{
    union shadow_role role = mmu->page[index].role;

    if (role.format != MMU_FORMAT_LEGACY) {
        written_slot(mmu, index, number);
    } else if (role.level == 1) {
        if (number / 512 == role.quadrant) {
            written_slot(mmu, index, number % 512);
        }
    } else if (number / 256 == role.quadrant) {
        written_slot(mmu, index, number % 256 * 2);
        written_slot(mmu, index, number % 256 * 2 + 1);
    }
}

/* Take A from the leaves; whether one had it although it was taken before. */
static bool page_age(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];
    uint64_t *entry = pool_page(&mmu->pool, index);
    bool used = false;

    for (unsigned slot = 0; slot < 512; slot++) {
        if ((entry[slot] & (PTE_P | PTE_A)) == (PTE_P | PTE_A)) {
            __atomic_fetch_and(&entry[slot], ~PTE_A, __ATOMIC_RELAXED);
            used = true;
        }
    }
    used |= !page->aged;
    page->aged = true;
    return used;
}

/* A table that is written again and again while nothing is translated through it is more
 * likely no table any more. Faults tell that one is in use, but a page table that is filled
 * has none: there, the processor is asked, by the A bits that it sets. (Without that, three
 * mprotect() calls among the pages of a table in heavy use cost its 512 leaves.) */
static bool page_flooded(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    if (mmu->config.flood_limit == UINT8_MAX || page->pins != 0 || page->unsync ||
        ++page->writes < mmu->config.flood_limit) {
        return false;
    }
    page->writes = 0;
    return page->role.level > 1 || !page_age(mmu, index);
}

void shadow_table_written(struct shadow_mmu *mmu, uint64_t gpa, unsigned size,
                          uint32_t skip_formats, bool flood)
{
    uint32_t node = frames_find(&mmu->frames, gpa >> MMU_PAGE_SHIFT, 1), next;
    unsigned offset = gpa & (MMU_PAGE_SIZE - 1);

    if (node == NODE_NONE) {
        return;
    }
    for (uint32_t at = mmu->frames.node[node].pages; at != POOL_NONE; at = next) {
        unsigned width = mmu->page[at].role.format == MMU_FORMAT_LEGACY ? 4 : 8;

        next = mmu->page[at].next;
        if (skip_formats >> mmu->page[at].role.format & 1) {
            continue;
        }
        if (flood && page_flooded(mmu, at)) {
            shadow_page_zap(mmu, at);
            count(mmu, SHADOW_PAGE_FLOOD);
            continue;
        }
        for (unsigned i = offset / width; i <= (offset + size - 1) / width; i++) {
            written_entry(mmu, at, i);
        }
    }
    if (flood && mmu->policy->written != NULL) {
        mmu->policy->written(mmu, gpa >> MMU_PAGE_SHIFT);
    }
}

void shadow_memory_changed(struct shadow_mmu *mmu, uint64_t gpa, uint64_t size)
{
    while (size > 0) {
        uint64_t room = MMU_PAGE_SIZE - (gpa & (MMU_PAGE_SIZE - 1));
        unsigned part = (unsigned)(size < room ? size : room);

        shadow_table_written(mmu, gpa, part, 0, true);
        gpa += part;
        size -= part;
    }
    shadow_flush_due(mmu);
}

int shadow_write(struct shadow_mmu *mmu, uint64_t gpa, unsigned size, uint64_t value)
{
    unsigned step = size;
    int err = 0;

    if (size == 0 || size > 8) {
        return -EINVAL;
    }
    if ((size & (size - 1)) != 0 || (gpa & (size - 1)) != 0) {
        step = 1;
    }
    for (unsigned done = 0; done < size && err == 0; done += step) {
        err = mmu_store(mmu->config.memory, gpa + done, step, value >> (8 * done));
    }
    shadow_memory_changed(mmu, gpa, size);
    return err;
}

/* ---- Policies
 * ------------------------------------------------------------------------------ */

static bool never_write(struct shadow_mmu *mmu, uint32_t node)
{
    (void)mmu;
    (void)node;
    return false;
}

/* Only if leaf tables alone shadow the frame: upper ones are always in step. */
static bool unsync_may_write(struct shadow_mmu *mmu, uint32_t node)
{
    uint32_t first = mmu->frames.node[node].pages;

    for (uint32_t at = first; at != POOL_NONE; at = mmu->page[at].next) {
        if (mmu->page[at].role.level != 1) {
            return false;
        }
    }
    for (uint32_t at = first; at != POOL_NONE; at = mmu->page[at].next) {
        shadow_unsync_mark(mmu, at);
    }
    return true;
}

static void nothing_to_flush(struct shadow_mmu *mmu, uint32_t root)
{
    (void)mmu;
    (void)root;
}

static void nothing_to_invalidate(struct shadow_mmu *mmu, uint32_t root, uint64_t gva)
{
    (void)mmu;
    (void)root;
    (void)gva;
}

static void unsync_invlpg(struct shadow_mmu *mmu, uint32_t root, uint64_t gva)
{
    for (uint32_t index = root;;) {
        const struct shadow_page *page = &mmu->page[index];
        entry_ref ref = ref_make(index, (gva >> shadow_shift(page->role.level)) & 511);
        uint64_t entry = *entry_at(mmu, ref);

        if (!(entry & PTE_P)) {
            return;
        }
        if (entry_leaf(page, entry)) {
            if (page->unsync) {
                entry_drop(mmu, ref);
                mmu->tlb_stale = true;
            }
            return;
        }
        index = pool_index(&mmu->pool, entry);
    }
}

/* The processor flushes itself by the very instruction, and nobody else has these pages.
 */
static void vtlb_flush_root(struct shadow_mmu *mmu, uint32_t root)
{
    bool before = mmu->flush_needed;

    shadow_page_empty(mmu, root);
    mmu->flush_needed = before;
    mmu->tlb_stale = true;
}

static void vtlb_drop(struct shadow_mmu *mmu, entry_ref ref)
{
    if (*entry_at(mmu, ref) & PTE_P) {
        entry_drop(mmu, ref);
        mmu->tlb_stale = true;
    }
}

/* INVLPG drops the whole page that holds @gva (SDM 4.10.4.1), however many leaves it
 * takes: a 4 MiB page is two leaves, a splintered large page a whole shadow page below
 * its entry. */
static void vtlb_invlpg(struct shadow_mmu *mmu, uint32_t root, uint64_t gva)
{
    for (uint32_t index = root;;) {
        const struct shadow_page *page = &mmu->page[index];
        unsigned slot = (gva >> shadow_shift(page->role.level)) & 511;
        entry_ref ref = ref_make(index, slot), twin = ref_make(index, slot ^ 1);
        bool twins = page->role.format == MMU_FORMAT_LEGACY && page->role.level == 2;
        uint64_t entry = *entry_at(mmu, ref);

        if (twins && (*entry_at(mmu, twin) & PTE_P) &&
            (entry_leaf(page, *entry_at(mmu, twin)) ||
             mmu->page[pool_index(&mmu->pool, *entry_at(mmu, twin))].splinter)) {
            vtlb_drop(mmu, twin);
        }
        if (!(entry & PTE_P)) {
            return;
        }
        if (entry_leaf(page, entry) ||
            mmu->page[pool_index(&mmu->pool, entry)].splinter) {
            vtlb_drop(mmu, ref);
            return;
        }
        index = pool_index(&mmu->pool, entry);
    }
}

const struct shadow_policy_ops shadow_policy_ops[SHADOW_POLICIES] = {
    [SHADOW_WP] = {
        .name = "wp",
        .tracked = true,
        .may_write = never_write,
        .flush_root = nothing_to_flush,
        .invlpg = nothing_to_invalidate,
        .room = SHADOW_ROOM,
    },
    [SHADOW_UNSYNC] = {
        .name = "unsync",
        .tracked = true,
        .may_write = unsync_may_write,
        .flush_root = shadow_sync_below,
        .invlpg = unsync_invlpg,
        .room = SHADOW_ROOM,
    },
    [SHADOW_VTLB] = {
        .name = "vtlb",
        .tracked = false,
        .may_write = never_write,
        .flush_root = vtlb_flush_root,
        .invlpg = vtlb_invlpg,
        .room = SHADOW_ROOM,
    },
    [SHADOW_AGILE] = {
        .name = "agile",
        .tracked = true,
        .may_write = never_write,
        .written = agile_written,
        .flush_root = nothing_to_flush,
        .invlpg = nothing_to_invalidate,
        .room = SHADOW_ROOM_AGILE,
    },
};
