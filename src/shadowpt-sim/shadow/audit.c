/* SPDX-License-Identifier: MIT */
/* Audits: every invariant of the shadow MMU, checked the slow and plain way. */
#include "base/error.h"
#include "shadowpt-sim/shadow/internal.h"

#include <errno.h>
#include <inttypes.h>

#define BROKEN(error, ...)                                                               \
    error_set((error), UMBRA_ERROR_INTERNAL, EPROTO, "shadow audit: " __VA_ARGS__)

struct audit {
    struct shadow_mmu *mmu;
    struct umbra_error *error;
    uint64_t listed; /* entries met on lists */
};

static bool entry_live(const struct audit *audit, entry_ref ref)
{
    return ref_page(ref) < audit->mmu->pool.fresh &&
           audit->mmu->page[ref_page(ref)].live && (*entry_at(audit->mmu, ref) & PTE_P);
}

/* The list is well formed and its members are what its owner says: leaves of this frame,
 * or pointers to this page. */
static int audit_list(struct audit *audit, entry_ref head, uint32_t owner,
                      uint64_t address, unsigned level)
{
    const struct shadow_mmu *mmu = audit->mmu;
    bool want_leaf = !(owner & REF_OWNER_PAGE);
    uint32_t prev = owner;

    for (entry_ref ref = head; ref != REF_NONE; ref = mmu->link[ref].next) {
        const struct shadow_page *page = &mmu->page[ref_page(ref)];
        uint64_t entry;

        if (!entry_live(audit, ref)) {
            return BROKEN(audit->error, "entry %#x on a list is not present", ref);
        }
        entry = *entry_at(mmu, ref);
        if (mmu->link[ref].prev != prev) {
            return BROKEN(audit->error, "entry %#x has a wrong back link", ref);
        }
        if (entry_leaf(page, entry) != want_leaf ||
            ((entry & SHADOW_SWITCH) ? level != 1 : page->role.level != level)) {
            return BROKEN(audit->error, "entry %#x is on a list of another kind", ref);
        }
        if ((entry & PTE_ADDRESS_MASK &
             ~(((uint64_t)1 << shadow_shift(want_leaf ? level : 1)) - 1)) != address) {
            return BROKEN(audit->error, "entry %#x = %#" PRIx64 " is not for %#" PRIx64,
                          ref, entry, address);
        }
        prev = ref;
        audit->listed++;
    }
    return 0;
}

/* Reverse map, protection and region counts of one frame or run of frames. */
static int audit_node(struct audit *audit, uint32_t index)
{
    const struct shadow_mmu *mmu = audit->mmu;
    const struct frame_node *node = &mmu->frames.node[index];
    uint64_t gpa = node_gfn(node) << MMU_PAGE_SHIFT;
    const struct mmu_slot *slot = mmu_slots_find(mmu->config.slots, gpa);
    unsigned level = node_level(node);
    uint64_t span = (uint64_t)1 << shadow_shift(level);
    bool protected = level == 1 && frame_protected(mmu, node_gfn(node));
    int err;

    if (node->leaves == REF_NONE) {
        return 0;
    }
    if (slot == NULL || span > slot->size - (gpa - slot->gpa)) {
        return BROKEN(audit->error, "a leaf maps GPA %#" PRIx64 ", in no slot", gpa);
    }
    if (node->shadowed != 0) {
        return BROKEN(audit->error, "a large leaf covers a shadowed table near %#" PRIx64,
                      gpa);
    }
    err = audit_list(audit, node->leaves, REF_OWNER | index, mmu_slot_hpa(slot, gpa),
                     level);
    if (err != 0) {
        return err;
    }
    for (entry_ref ref = node->leaves; ref != REF_NONE; ref = mmu->link[ref].next) {
        if ((*entry_at(mmu, ref) & SHADOW_SWITCH) && !node->nested) {
            return BROKEN(audit->error,
                          "an entry switches to a table at GPA %#" PRIx64
                          " that is not nested",
                          gpa);
        }
        if ((*entry_at(mmu, ref) & PTE_W) && (protected || slot->readonly)) {
            return BROKEN(audit->error, "a writable leaf maps %s at GPA %#" PRIx64,
                          protected ? "a synced table" : "a read-only slot", gpa);
        }
    }
    return 0;
}

/* A synced level-1 page says no more than the guest's table does now. */
static int audit_leaf_table(struct audit *audit, uint32_t index)
{
    struct shadow_mmu *mmu = audit->mmu;
    const struct shadow_page *page = &mmu->page[index];

    for (unsigned slot = 0; slot < 512; slot++) {
        uint64_t leaf = pool_page(&mmu->pool, index)[slot], wanted, gfn;

        if (!(leaf & PTE_P)) {
            continue;
        }
        wanted = shadow_leaf_wanted(mmu, page, slot, &gfn);
        if (!shadow_leaf_fits(leaf, wanted, page->role)) {
            return BROKEN(audit->error,
                          "leaf %#" PRIx64 " of the table at GFN %#" PRIx64
                          " exceeds %#" PRIx64,
                          leaf, page->gfn, wanted);
        }
    }
    return 0;
}

/* A switch leads to the guest's table, with the rights that are left there. */
static int audit_switch(struct audit *audit, const struct shadow_page *page,
                        uint64_t entry, uint64_t guest, uint32_t perms)
{
    const struct shadow_mmu *mmu = audit->mmu;
    uint64_t table = guest & PTE_ADDRESS_MASK;
    const struct mmu_slot *memslot = mmu_slots_find(mmu->config.slots, table);
    uint32_t left = (uint32_t)((entry >> 1) & 3) | ((entry & PTE_NX) ? 0 : MMU_PERM_X);

    if (!(guest & PTE_P) || !(guest & PTE_A) || left != perms || memslot == NULL ||
        !agile_role(mmu, page->role) ||
        (entry & PTE_ADDRESS_MASK) != mmu_slot_hpa(memslot, table)) {
        return BROKEN(audit->error, "a switch %#" PRIx64 " is not for %#" PRIx64, entry,
                      guest);
    }
    return 0;
}

/* A pointer or large leaf of a synced upper page belongs to the guest's entry as it is.
 */
static int audit_upper_entry(struct audit *audit, const struct shadow_page *page,
                             unsigned slot, uint64_t entry)
{
    struct shadow_mmu *mmu = audit->mmu;
    const struct mmu_mode *mode = shadow_role_mode(mmu, page->role);
    unsigned size, level = page->role.level;
    uint64_t gpa = shadow_guest_entry(page, slot, &size), guest;
    uint32_t perms;
    bool large;

    if (mmu_load(mmu->config.memory, gpa, size, &guest) != 0 || !(guest & PTE_P)) {
        return BROKEN(audit->error, "an entry shadows nothing at GPA %#" PRIx64, gpa);
    }
    large = (guest & PTE_PS) &&
            (level == 3 ? mmu->cpu.gbpages : level == 2 && page->role.pse);
    if (guest & mode->reserved[large][level]) {
        return BROKEN(audit->error, "an entry shadows reserved bits at GPA %#" PRIx64,
                      gpa);
    }
    perms =
        (uint32_t)((guest >> 1) & 3) | ((mode->nx && (guest & PTE_NX)) ? 0 : MMU_PERM_X);
    perms &= page->role.access;
    if (entry & SHADOW_SWITCH) {
        return audit_switch(audit, page, entry, large ? 0 : guest, perms);
    }
    if (entry_leaf(page, entry)) {
        bool may_write = (perms & MMU_PERM_W) || !page->role.wp;

        if (!large || ((entry & PTE_U) && !(perms & MMU_PERM_U)) ||
            (!(entry & PTE_NX) && !(perms & MMU_PERM_X)) ||
            ((entry & PTE_W) && (!may_write || !(guest & PTE_D)))) {
            return BROKEN(audit->error, "large leaf %#" PRIx64 " exceeds %#" PRIx64,
                          entry, guest);
        }
    } else {
        const struct shadow_page *child = &mmu->page[pool_index(&mmu->pool, entry)];

        if (child->role.direct != large || (child->role.access & ~perms) != 0 ||
            (!large && child->gfn != (guest & PTE_ADDRESS_MASK) >> MMU_PAGE_SHIFT)) {
            return BROKEN(audit->error, "a pointer for %#" PRIx64 " leads elsewhere",
                          guest);
        }
    }
    return 0;
}

static int audit_tracked(struct audit *audit, uint32_t index)
{
    struct shadow_mmu *mmu = audit->mmu;
    const struct shadow_page *page = &mmu->page[index];

    if (page->role.level == 1) {
        return page->unsync ? 0 : audit_leaf_table(audit, index);
    }
    for (unsigned slot = 0; slot < 512; slot++) {
        uint64_t entry = pool_page(&mmu->pool, index)[slot];
        int err = (entry & PTE_P) ? audit_upper_entry(audit, page, slot, entry) : 0;

        if (err != 0) {
            return err;
        }
    }
    return 0;
}

/* The leaves of a direct page permit no more than its role says. */
static int audit_direct(struct audit *audit, uint32_t index)
{
    const struct shadow_mmu *mmu = audit->mmu;
    const struct shadow_page *page = &mmu->page[index];

    for (unsigned slot = 0; slot < 512; slot++) {
        uint64_t entry = pool_page(&mmu->pool, index)[slot];

        if (!(entry & PTE_P) || !entry_leaf(page, entry)) {
            continue;
        }
        if (((entry & PTE_U) && !(page->role.access & MMU_PERM_U)) ||
            (!(entry & PTE_NX) && !(page->role.access & MMU_PERM_X)) ||
            ((entry & PTE_W) && page->role.wp && !(page->role.access & MMU_PERM_W))) {
            return BROKEN(audit->error, "direct leaf %#" PRIx64 " exceeds its role",
                          entry);
        }
    }
    return 0;
}

/* An unsync page is found from every root above it. */
static int audit_unsync(struct audit *audit, uint32_t index)
{
    const struct shadow_mmu *mmu = audit->mmu;
    const struct shadow_page *page = &mmu->page[index];
    unsigned bits = 0;

    for (unsigned i = 0; i < 8; i++) {
        bits += (unsigned)__builtin_popcountll(page->unsync_below[i]);
    }
    if (bits != page->unsync_count) {
        return BROKEN(audit->error, "page %u counts its unsync children wrongly", index);
    }
    if (page->unsync && (mmu->config.policy != SHADOW_UNSYNC || page->role.level != 1 ||
                         !page_tracked(page))) {
        return BROKEN(audit->error, "page %u must not be unsync", index);
    }
    if (!page->unsync && bits == 0) {
        return 0;
    }
    for (entry_ref ref = page->parents; ref != REF_NONE; ref = mmu->link[ref].next) {
        const struct shadow_page *parent = &mmu->page[ref_page(ref)];
        unsigned slot = ref_slot(ref);

        if (!(parent->unsync_below[slot / 64] >> (slot % 64) & 1)) {
            return BROKEN(audit->error, "page %u hides an unsync page", ref_page(ref));
        }
    }
    return 0;
}

static int audit_page(struct audit *audit, uint32_t index, uint64_t *present)
{
    struct shadow_mmu *mmu = audit->mmu;
    const struct shadow_page *page = &mmu->page[index];
    const uint64_t *entries = pool_page(&mmu->pool, index);
    unsigned here = 0;
    int err;

    for (unsigned slot = 0; slot < 512; slot++) {
        here += entries[slot] & PTE_P;
    }
    if (here != page->present) {
        return BROKEN(audit->error, "page %u counts %u entries, has %u", index,
                      page->present, here);
    }
    *present += here;
    if (page->parents != REF_NONE) {
        unsigned above = mmu->page[ref_page(page->parents)].role.level;

        err = audit_list(audit, page->parents, REF_OWNER | REF_OWNER_PAGE | index,
                         pool_hpa(&mmu->pool, index), page->role.level + 1u);
        if (err != 0 || above != page->role.level + 1u) {
            return err;
        }
    }
    err = audit_unsync(audit, index);
    if (err == 0 && page_tracked(page)) {
        err = audit_tracked(audit, index);
    } else if (err == 0 && page->role.direct) {
        err = audit_direct(audit, index);
    }
    return err;
}

/* A tracked page can be found by its frame, once; regions count the frames below. */
static int audit_index(struct audit *audit)
{
    const struct shadow_mmu *mmu = audit->mmu;
    uint64_t tracked = 0, found = 0, shadowed = 0, regions[4] = { 0 };

    for (uint32_t i = 0; i < mmu->pool.fresh; i++) {
        tracked += mmu->page[i].live && page_tracked(&mmu->page[i]);
    }
    for (uint32_t i = 0; i < mmu->frames.fresh; i++) {
        const struct frame_node *node = &mmu->frames.node[i];

        if (node->key == UINT64_MAX) {
            continue;
        }
        if (node_level(node) > 1) {
            regions[node_level(node)] += node->shadowed;
            continue;
        }
        shadowed += node->pages != POOL_NONE;
        if (node->nested && node->pages != POOL_NONE) {
            return BROKEN(audit->error, "a table is nested and shadowed");
        }
        for (uint32_t at = node->pages; at != POOL_NONE; at = mmu->page[at].next) {
            if (!mmu->page[at].live || mmu->page[at].gfn != node_gfn(node)) {
                return BROKEN(audit->error, "page %u is filed under a wrong frame", at);
            }
            found++;
        }
    }
    if (tracked != found || regions[2] != shadowed || regions[3] != shadowed) {
        return BROKEN(audit->error, "the frame index has lost count of shadowed tables");
    }
    return 0;
}

int shadow_audit(struct shadow_mmu *mmu, struct umbra_error *error)
{
    struct audit audit = { .mmu = mmu, .error = error };
    uint64_t present = 0, live = 0;
    int err = 0;

    for (uint32_t i = 0; i < mmu->frames.fresh && err == 0; i++) {
        if (mmu->frames.node[i].key != UINT64_MAX) {
            err = audit_node(&audit, i);
        }
    }
    for (uint32_t i = 0; i < mmu->pool.fresh && err == 0; i++) {
        if (mmu->page[i].live) {
            live++;
            err = audit_page(&audit, i, &present);
        }
    }
    if (err != 0) {
        return err;
    }
    if (live != mmu->live || live != mmu->pool.in_use) {
        return BROKEN(error, "%" PRIu64 " pages are live, %u in use", live,
                      mmu->pool.in_use);
    }
    if (present != audit.listed) { /* with no entry on two lists: a bijection */
        return BROKEN(error, "%" PRIu64 " entries are present, %" PRIu64 " on lists",
                      present, audit.listed);
    }
    return audit_index(&audit);
}

/* Whether an unsync page can be reached from a page. */
static bool unsync_reachable(const struct shadow_mmu *mmu, uint32_t index)
{
    const struct shadow_page *page = &mmu->page[index];
    const uint64_t *entries = pool_page(&mmu->pool, index);

    if (page->unsync) {
        return true;
    }
    for (unsigned slot = 0; slot < 512 && page->role.level > 1; slot++) {
        if ((entries[slot] & PTE_P) && !entry_leaf(page, entries[slot]) &&
            unsync_reachable(mmu, pool_index(&mmu->pool, entries[slot]))) {
            return true;
        }
    }
    return false;
}

int shadow_audit_synced(const struct shadow_vcpu *vcpu, struct umbra_error *error)
{
    if (unsync_reachable(vcpu->mmu, vcpu->root[vcpu->current].page)) {
        return BROKEN(error, "an unsync page is reachable after the root was synced");
    }
    return 0;
}
