/* SPDX-License-Identifier: MIT */
/* Agile paging: which of the guest's tables are walked nested, and for how long. */
#include "shadowpt-sim/shadow/internal.h"

#include <assert.h>

/* After so many intervals without an entry that switches to it a nested table is forgotten,
 * though its frame goes on changing: it is likely no table any more. */
#define IDLE_MAX 8

/* ---- What may be nested --------------------------------------------------------------- */

bool agile_role(const struct shadow_mmu *mmu, union shadow_role role)
{
    return mmu->config.policy == SHADOW_AGILE && role.format == MMU_FORMAT_LONG &&
           role.wp && role.nx;
}

bool agile_nested(const struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t node = frames_find(&mmu->frames, gfn, 1);

    return node != NODE_NONE && mmu->frames.node[node].nested;
}

/* The processor has to find it by the nested tables, and sets A and D in it. */
static bool frame_writable(const struct shadow_mmu *mmu, uint64_t gfn)
{
    const struct mmu_slot *slot = mmu_slots_find(mmu->config.slots, gfn << 12);

    return slot != NULL && !slot->readonly && gfn >> (9 * mmu->config.nested_levels) == 0;
}

/* Whether the frame's shadow pages may go. Roots in use may if their guests get nested parts.
 * Others of guests that do not would be made again at once, unless they are of no use any
 * more: so the guest's writes or a decree may drop these (@hard), a mere walk may not. */
static bool frame_yields(const struct shadow_mmu *mmu, uint64_t gfn, bool hard)
{
    uint32_t node = frames_find(&mmu->frames, gfn, 1), at = POOL_NONE;

    if (node != NODE_NONE) {
        at = mmu->frames.node[node].pages;
    }
    for (; at != POOL_NONE; at = mmu->page[at].next) {
        const struct shadow_page *page = &mmu->page[at];
        bool agile = agile_role(mmu, page->role), pinned = page->pins != 0;

        if (hard ? pinned && !agile : pinned || !agile) {
            return false;
        }
    }
    return true;
}

bool agile_may_nest(const struct shadow_mmu *mmu, uint64_t gfn)
{
    return frame_writable(mmu, gfn) && frame_yields(mmu, gfn, false);
}

/* ---- To nested, and back ---------------------------------------------------------------- */

void agile_nest(struct shadow_mmu *mmu, uint64_t gfn)
{
    struct frame_node *node = &mmu->frames.node[frames_get(&mmu->frames, gfn, 1)];
    uint32_t next;

    if (!node->nested) {
        node->nested = true;
        count(mmu, SHADOW_TABLE_NESTED);
    }
    for (uint32_t at = node->pages; at != POOL_NONE; at = next) {
        next = mmu->page[at].next;
        assert(mmu->page[at].pins == 0);
        shadow_page_zap(mmu, at);
    }
}

/* The same for a frame that may be a root: then the root goes first. */
static void nest_root(struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t index = frames_get(&mmu->frames, gfn, 1);

    mmu->frames.node[index].nested = true;
    if (shadow_roots_follow(mmu) == 0) {
        mmu->frames.node[index].nested = false;
        agile_nest(mmu, gfn);
        return;
    }
    mmu->frames.node[index].nested = false;
    frames_put(&mmu->frames, index);
}

void agile_unnest(struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t index = frames_find(&mmu->frames, gfn, 1);
    struct frame_node *node = &mmu->frames.node[index];
    entry_ref next;

    if (index == NODE_NONE || !node->nested) {
        return;
    }
    for (entry_ref ref = node->leaves; ref != REF_NONE; ref = next) {
        next = mmu->link[ref].next;
        if (*entry_at(mmu, ref) & SHADOW_SWITCH) {
            entry_drop(mmu, ref);
        }
    }
    mmu->flush_needed = true;
    node->nested = false;
    node->digest = 0;
    node->writes = node->idle = 0;
    frames_put(&mmu->frames, index);
    count(mmu, SHADOW_TABLE_BACK);
}

void agile_written(struct shadow_mmu *mmu, uint64_t gfn)
{
    uint32_t index = frames_find(&mmu->frames, gfn, 1);
    struct frame_node *node = &mmu->frames.node[index];

    if (index == NODE_NONE || node->pages == POOL_NONE) {
        return;
    }
    node->writes += node->writes < UINT8_MAX;
    if (node->writes >= mmu->config.agile_writes && frame_writable(mmu, gfn) &&
        frame_yields(mmu, gfn, true)) {
        nest_root(mmu, gfn);
    }
}

bool shadow_switch_table(struct shadow_mmu *mmu, uint64_t gpa, bool nested)
{
    uint64_t gfn = gpa >> MMU_PAGE_SHIFT;

    if (mmu->config.policy != SHADOW_AGILE) {
        return !nested;
    }
    if (!nested) {
        agile_unnest(mmu, gfn);
        (void)shadow_roots_follow(mmu);
    } else if (!agile_nested(mmu, gfn)) {
        if (!frame_writable(mmu, gfn) || !frame_yields(mmu, gfn, true) ||
            shadow_make_room(mmu) != 0) {
            return false;
        }
        nest_root(mmu, gfn);
    }
    shadow_flush_due(mmu);
    return agile_nested(mmu, gfn) == nested;
}

/* A table that is shadowed (again) was quiet: what its A bits say is in use gets its entries
 * at once, not one by one in hidden faults. */
void agile_prefill(struct shadow_mmu *mmu, uint32_t index)
{
    struct shadow_page *page = &mmu->page[index];

    if (frames_reserve(&mmu->frames, 512 + SHADOW_NODES) != 0) {
        return;
    }
    for (unsigned slot = 0; slot < 512; slot++) {
        uint64_t gfn, leaf = shadow_leaf_wanted(mmu, page, slot, &gfn);

        if (leaf == 0) {
            continue;
        }
        if (frame_protected(mmu, gfn)) {
            leaf &= ~(PTE_W | PTE_D);
        }
        entry_set_leaf(mmu, ref_make(index, slot), leaf, gfn);
        count(mmu, SHADOW_ENTRY_PREFILL);
    }
}

/* ---- Intervals ----------------------------------------------------------------------------- */

/* A and D are the processor's to set, so they do not count. 0 is kept for "none". */
static uint32_t table_digest(const struct shadow_mmu *mmu, uint64_t gfn)
{
    uint64_t digest = 1, entry;

    for (unsigned i = 0; i < 512; i++) {
        if (mmu_load(mmu->config.memory, (gfn << MMU_PAGE_SHIFT) + 8 * i, 8, &entry) !=
            0) {
            entry = 0;
        }
        digest = (digest ^ (entry & ~(PTE_A | PTE_D))) * 0x9e3779b97f4a7c15ull;
        digest ^= digest >> 32;
    }
    return (uint32_t)digest | 1;
}

static bool switched_to(const struct shadow_mmu *mmu, const struct frame_node *node)
{
    for (entry_ref ref = node->leaves; ref != REF_NONE; ref = mmu->link[ref].next) {
        if (*entry_at(mmu, ref) & SHADOW_SWITCH) {
            return true;
        }
    }
    return false;
}

/* Dirty flags of the nested tables would not tell: a processor with A and D flags there
 * writes the tables that it walks, or counts as doing so (SDM 29.3.3.2, APM 15.25.5). */
static void tick_nested(struct shadow_mmu *mmu, struct frame_node *node)
{
    uint64_t gfn = node_gfn(node);
    uint32_t digest = table_digest(mmu, gfn);
    bool changed = digest != node->digest;

    count(mmu, SHADOW_TABLE_COMPARE);
    node->digest = digest;
    node->idle = switched_to(mmu, node) ? 0 : node->idle + 1;
    if (!changed || node->idle == IDLE_MAX) {
        agile_unnest(mmu, gfn);
    }
}

void shadow_tick(struct shadow_mmu *mmu)
{
    if (mmu->config.policy != SHADOW_AGILE) {
        return;
    }
    for (uint32_t i = 0; i < mmu->frames.fresh; i++) {
        struct frame_node *node = &mmu->frames.node[i];

        node->writes = 0;
        if (node->key != UINT64_MAX && node->nested) {
            tick_nested(mmu, node);
        }
    }
    (void)shadow_roots_follow(mmu);
    shadow_flush_due(mmu);
}

void agile_reset(struct shadow_mmu *mmu)
{
    for (uint32_t i = 0; i < mmu->frames.fresh; i++) {
        const struct frame_node *node = &mmu->frames.node[i];

        if (node->key != UINT64_MAX && node->nested) {
            agile_unnest(mmu, node_gfn(node));
        }
    }
    if (mmu->nested_root != POOL_NONE) {
        shadow_page_unpin(mmu, mmu->nested_root);
        mmu->nested_root = POOL_NONE;
    }
}

uint64_t shadow_nested_root(const struct shadow_mmu *mmu)
{
    return mmu->nested_root != POOL_NONE ? pool_hpa(&mmu->pool, mmu->nested_root) : 0;
}
