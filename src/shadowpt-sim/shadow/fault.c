/* SPDX-License-Identifier: MIT */
/* The page-fault handler: told apart by the guest's tables, answered by the shadow's. */
#include "shadowpt-sim/shadow/internal.h"

struct fault {
    struct shadow_mmu *mmu;
    struct shadow_vcpu *vcpu;
    struct shadow_result *result;
    const struct mmu_slot *slot;
    union shadow_role role; /* the registers' part */
    uint32_t access;
    unsigned leaf_level; /* the largest that the guest's leaf and the slot permit */
    struct mmu_walk walk;
};

static enum shadow_outcome fault_end(struct fault *fault, enum shadow_outcome outcome,
                                     enum shadow_event event)
{
    fault->result->outcome = outcome;
    fault->result->event = event;
    count(fault->mmu, event);
    return outcome;
}

/* The walk's own stores of A and D change tables that may be shadowed in another format
 * too, in which these bits mean something else. */
static void fault_marked(struct fault *fault)
{
    const struct mmu_mode *mode = &fault->vcpu->mode;
    uint32_t same = 1u << MMU_FORMAT_LEGACY;

    if (mode->format != MMU_FORMAT_LEGACY) {
        same = 1u << MMU_FORMAT_PAE | 1u << MMU_FORMAT_LONG;
    }
    if ((fault->mmu->formats & ~same) == 0) {
        return;
    }
    for (unsigned level = 1; level <= 5; level++) {
        if (fault->walk.changed >> level & 1) {
            shadow_table_written(fault->mmu, fault->walk.entry_gpa[level],
                                 mmu_entry_size(mode), same, false);
        }
    }
}

/* ---- The path to the leaf
 * --------------------------------------------------------------- */

/* Which shadow page of @level belongs on this path. */
static union shadow_role child_key(const struct fault *fault, unsigned level,
                                   uint64_t *gfn)
{
    const struct mmu_walk *walk = &fault->walk;
    union shadow_role role = fault->role;
    uint64_t span = (uint64_t)1 << shadow_shift(level + 1);

    role.level = level;
    if (!fault->mmu->policy->tracked) {
        role.vtlb = 1;
        *gfn = align_down(walk->gva, span) >> MMU_PAGE_SHIFT;
    } else if (level < walk->level || role.format == MMU_FORMAT_NONE) {
        /* Below the guest's large page: its parts, or all of physical memory. */
        role.direct = 1;
        role.access = walk->to.perms;
        *gfn = align_down(walk->gpa, span) >> MMU_PAGE_SHIFT;
    } else {
        role.access = level == walk->top ? MMU_PERM_ALL : walk->perms[level + 1];
        *gfn = walk->entry_gpa[level] >> MMU_PAGE_SHIFT;
        if (role.format == MMU_FORMAT_LEGACY) {
            role.quadrant = level == 2 ? (walk->gva >> 30) & 3 : (walk->gva >> 21) & 1;
        }
    }
    return role;
}

static uint32_t child_make(struct fault *fault, uint64_t gfn, union shadow_role role)
{
    struct shadow_mmu *mmu = fault->mmu;
    bool part = role.level < fault->walk.level;
    uint32_t child = POOL_NONE;

    if (!role.direct && !role.vtlb) {
        child = shadow_page_find(mmu, gfn, role);
    }
    if (child != POOL_NONE) {
        /* Flushes of this address space did not reach it so far. */
        if (mmu->page[child].unsync) {
            shadow_sync_page(mmu, child);
        }
        shadow_sync_below(mmu, child);
        return child;
    }
    child = shadow_page_make(mmu, gfn, role);
    if (role.level == 1 && !role.direct && agile_role(mmu, role)) {
        agile_prefill(mmu, child);
    }
    if (part && role.level == fault->walk.level - 1u) {
        count(mmu, SHADOW_SPLINTER);
    }
    return child;
}

/* The page that the pointer at @ref leads to, put there if it does not yet. */
static uint32_t child_link(struct fault *fault, entry_ref ref, unsigned level)
{
    struct shadow_mmu *mmu = fault->mmu;
    uint64_t entry = *entry_at(mmu, ref), gfn;
    union shadow_role role = child_key(fault, level, &gfn);
    uint32_t child;

    if (entry & PTE_P) {
        if (!entry_leaf(&mmu->page[ref_page(ref)], entry)) {
            child = pool_index(&mmu->pool, entry);
            if (mmu->page[child].gfn == gfn && mmu->page[child].role.word == role.word) {
                return child;
            }
        }
        entry_drop(mmu, ref);
        mmu->flush_needed = true;
        shadow_flush_due(mmu); /* the child may be free now, and used anew at once */
    }
    child = child_make(fault, gfn, role);
    entry_set_pointer(mmu, ref, child);
    return child;
}

/* ---- The leaf
 * ---------------------------------------------------------------------------- */

static bool leaf_fits_here(const struct fault *fault, unsigned level)
{
    const struct frame_index *frames = &fault->mmu->frames;
    uint32_t node;

    if (level > fault->leaf_level) {
        return false;
    }
    node = level == 1 ? NODE_NONE : frames_find(frames, fault->walk.gpa >> 12, level);
    return node == NODE_NONE || frames->node[node].shadowed == 0;
}

static void leaf_store(struct fault *fault, entry_ref ref, uint64_t leaf)
{
    struct shadow_mmu *mmu = fault->mmu;
    uint64_t old = *entry_at(mmu, ref);
    const struct shadow_page *page = &mmu->page[ref_page(ref)];

    if (old & PTE_P) {
        bool same = entry_leaf(page, old) && ((old ^ leaf) & PTE_ADDRESS_MASK) == 0;
        uint64_t gained = PTE_W | PTE_D | PTE_A | SHADOW_GUEST_DIRTY;

        if (same) {
            if (old != leaf) {
                entry_store(entry_at(mmu, ref), leaf);
                count(mmu, SHADOW_ENTRY_SET);
                mmu->flush_needed |=
                    ((old ^ leaf) & ~gained) != 0 || (old & ~leaf & gained);
            }
            return;
        }
        entry_drop(mmu, ref);
        mmu->flush_needed = true;
    }
    entry_set_leaf(mmu, ref, leaf, fault->walk.gpa >> MMU_PAGE_SHIFT);
}

/* What this exit was for, by what was there before. */
static enum shadow_event leaf_event(uint64_t old, uint64_t leaf, bool flipped)
{
    bool same = (old & PTE_P) && ((old ^ leaf) & PTE_ADDRESS_MASK) == 0;

    if (flipped || (same && !(old & PTE_U) && (leaf & PTE_U))) {
        return SHADOW_EXIT_WP_CLEAR;
    }
    if (same && !(old & SHADOW_GUEST_DIRTY) && (leaf & SHADOW_GUEST_DIRTY)) {
        return SHADOW_EXIT_DIRTY;
    }
    return SHADOW_EXIT_HIDDEN_FILL;
}

/* Put the leaf where it belongs. *@event: what for; SHADOW_EXIT_TABLE_WRITE: it may not be
 * written, so the write is the hypervisor's to do. */
static uint64_t leaf_put(struct fault *fault, entry_ref ref, unsigned level,
                         enum shadow_event *event)
{
    struct shadow_mmu *mmu = fault->mmu;
    union shadow_role role = fault->role;
    uint64_t span = (uint64_t)1 << shadow_shift(level), gpa = fault->walk.gpa;
    uint64_t hpa = mmu_slot_hpa(fault->slot, align_down(gpa, span));
    uint64_t old = *entry_at(mmu, ref);
    uint64_t leaf =
        shadow_leaf(&fault->walk.to, role, level, hpa, !fault->slot->readonly);
    bool write = fault->access & MMU_WRITE, flipped = false, unsync = false;

    if (write && !(leaf & PTE_W) && role.flip_nowp) {
        leaf = shadow_leaf_flip(leaf, role);
        flipped = true;
    }
    if (level == 1 && (leaf & PTE_W) && frame_protected(mmu, gpa >> MMU_PAGE_SHIFT)) {
        uint32_t node = frames_find(&mmu->frames, gpa >> MMU_PAGE_SHIFT, 1);

        unsync = write && mmu->policy->may_write(mmu, node);
        if (!unsync) {
            leaf &= ~(PTE_W | PTE_D);
            leaf_store(fault, ref, leaf);
            *event = SHADOW_EXIT_TABLE_WRITE;
            if (write) {
                return leaf;
            }
        }
    }
    leaf_store(fault, ref, leaf);
    *event = unsync ? SHADOW_EXIT_UNSYNC : leaf_event(old, leaf, flipped);
    return leaf;
}

/* ... and see whether it serves the access. */
static enum shadow_outcome leaf_install(struct fault *fault, entry_ref ref,
                                        unsigned level)
{
    uint64_t span = (uint64_t)1 << shadow_shift(level);
    enum shadow_event event;
    uint64_t leaf = leaf_put(fault, ref, level, &event);

    if (event == SHADOW_EXIT_TABLE_WRITE) {
        return fault_end(fault, SHADOW_TABLE_WRITE, event);
    }
    shadow_leaf_translation(leaf, level, &fault->result->to);
    fault->result->hpa = fault->result->to.page | (fault->walk.gpa & (span - 1));
    if (!mmu_translation_allows(&fault->vcpu->hardware, &fault->result->to,
                                fault->access)) {
        return fault_end(fault, SHADOW_EMULATE, SHADOW_EXIT_EMULATE);
    }
    return fault_end(fault, SHADOW_OK, event);
}

/* ---- Parts that are walked nested
 * ------------------------------------------------------------- */

/* Whether the tables from @level down can be: not where the processor may not write them,
 * nor where one is also a table of the shadowed part. */
static bool nested_possible(const struct fault *fault, unsigned level)
{
    const struct mmu_walk *walk = &fault->walk;

    for (unsigned low = walk->level; low <= level; low++) {
        uint64_t gfn = walk->entry_gpa[low] >> MMU_PAGE_SHIFT;

        if (!agile_may_nest(fault->mmu, gfn)) {
            return false;
        }
        for (unsigned high = level + 1; high <= walk->top; high++) {
            if (walk->entry_gpa[high] >> MMU_PAGE_SHIFT == gfn) {
                return false;
            }
        }
    }
    return fault->walk.gpa >> shadow_shift(fault->mmu->config.nested_levels + 1u) == 0;
}

/* Let the nested tables map @gpa: *page. False: a write to it is the hypervisor's to do. */
static bool nested_map(const struct fault *fault, uint64_t gpa, bool write,
                       struct mmu_translation *page)
{
    struct shadow_mmu *mmu = fault->mmu;
    struct mmu_mode mode = { .cpu = mmu->cpu };
    struct fault map = { .mmu = mmu, .access = write ? MMU_WRITE : 0 };
    uint32_t index = mmu->nested_root;
    enum shadow_event event;
    unsigned level;
    entry_ref ref;

    mmu_mode_update(&mode); /* no paging: GPA to HPA */
    map.role = shadow_role_of(&mode);
    map.walk.gva = map.walk.gpa = gpa;
    map.walk.to = (struct mmu_translation){ .perms = MMU_PERM_ALL, .dirty = true };
    map.slot = mmu_slots_find(mmu->config.slots, gpa);
    map.leaf_level = mmu_slot_level(map.slot, gpa, mmu->config.max_level);
    for (level = mmu->config.nested_levels;; level--) {
        ref = ref_make(index, (gpa >> shadow_shift(level)) & 511);
        mmu->page[index].used = true;
        if (leaf_fits_here(&map, level)) {
            break;
        }
        index = child_link(&map, ref, level - 1);
    }
    shadow_leaf_translation(leaf_put(&map, ref, level, &event), level, page);
    return !write || event != SHADOW_EXIT_TABLE_WRITE;
}

static void nested_root_make(struct shadow_mmu *mmu)
{
    union shadow_role role = { .direct = 1, .wp = 1, .access = MMU_PERM_ALL };

    if (mmu->nested_root == POOL_NONE) {
        role.level = mmu->config.nested_levels;
        mmu->nested_root = shadow_page_make(mmu, 0, role);
        mmu->page[mmu->nested_root].pins++;
    }
}

/* All that the processor needs for the rest of this walk, from the table of @top on. */
static enum shadow_outcome nested_install(struct fault *fault, unsigned top)
{
    struct shadow_mmu *mmu = fault->mmu;
    const struct mmu_walk *walk = &fault->walk;
    struct mmu_translation page;

    nested_root_make(mmu);
    for (unsigned level = walk->level; level <= top; level++) {
        agile_nest(mmu, walk->entry_gpa[level] >> MMU_PAGE_SHIFT);
    }
    for (unsigned level = walk->level; level <= top; level++) {
        (void)nested_map(fault, walk->entry_gpa[level], true, &page);
    }
    if (!nested_map(fault, walk->gpa, fault->access & MMU_WRITE, &page)) {
        return fault_end(fault, SHADOW_TABLE_WRITE, SHADOW_EXIT_TABLE_WRITE);
    }
    fault->result->hpa = shadow_combine(walk, &page, &fault->result->to);
    return fault_end(fault, SHADOW_OK, SHADOW_EXIT_NESTED);
}

/* The next table is walked nested: the entry at @ref switches. */
static enum shadow_outcome switch_install(struct fault *fault, entry_ref ref,
                                          unsigned level)
{
    struct shadow_mmu *mmu = fault->mmu;
    uint64_t table = align_down(fault->walk.entry_gpa[level - 1], MMU_PAGE_SIZE);
    uint32_t perms = fault->walk.perms[level];
    uint64_t old, entry = PTE_P | PTE_A | PTE_PS | SHADOW_SWITCH;

    entry |= mmu_slot_hpa(mmu_slots_find(mmu->config.slots, table), table);
    entry |= ((perms & MMU_PERM_W) ? PTE_W : 0) | ((perms & MMU_PERM_U) ? PTE_U : 0) |
             ((perms & MMU_PERM_X) ? 0 : PTE_NX);
    old = *entry_at(mmu, ref);
    if (old != entry) {
        if (old & PTE_P) {
            entry_drop(mmu, ref);
            mmu->flush_needed = true;
        }
        entry_set_leaf(mmu, ref, entry, table >> MMU_PAGE_SHIFT);
    }
    return nested_install(fault, level - 1);
}

/* ---- The handler
 * ------------------------------------------------------------------------- */

/* Whether the table of @level on this path is nested, and can be. If not, it is shadowed. */
static bool goes_nested(const struct fault *fault, unsigned level)
{
    uint64_t gfn = fault->walk.entry_gpa[level] >> MMU_PAGE_SHIFT;

    if (level < fault->walk.level || !agile_role(fault->mmu, fault->role) ||
        !agile_nested(fault->mmu, gfn)) {
        return false;
    }
    if (nested_possible(fault, level)) {
        return true;
    }
    agile_unnest(fault->mmu, gfn);
    return false;
}

static enum shadow_outcome fault_fill(struct fault *fault)
{
    struct shadow_mmu *mmu = fault->mmu;
    struct shadow_vcpu *vcpu = fault->vcpu;
    uint32_t index;

    if (vcpu->nested) {
        if (goes_nested(fault, fault->walk.top)) {
            return nested_install(fault, fault->walk.top);
        }
        if (shadow_roots_follow(mmu) != 0) {
            fault->result->outcome = SHADOW_NO_MEMORY;
            return SHADOW_NO_MEMORY;
        }
    }
    index = vcpu->root[vcpu->current].page;
    for (unsigned level = vcpu->root_level;; level--) {
        unsigned slot = (fault->walk.gva >> shadow_shift(level)) & 511;
        entry_ref ref = ref_make(index, slot);

        mmu->page[index].used = true;
        mmu->page[index].writes = 0;
        if (level + 1 == fault->walk.level) {
            mmu->page[index].splinter = true;
        }
        if (leaf_fits_here(fault, level)) {
            return leaf_install(fault, ref, level);
        }
        if (goes_nested(fault, level - 1)) {
            return switch_install(fault, ref, level);
        }
        index = child_link(fault, ref, level - 1);
    }
}

static enum shadow_outcome fault_reflect(struct fault *fault, enum mmu_outcome outcome)
{
    fault->result->error_code = fault->walk.error_code;
    switch (outcome) {
    case MMU_FAULT:
        return fault_end(fault, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
    case MMU_NONCANONICAL:
        return fault_end(fault, SHADOW_NONCANONICAL, SHADOW_EXIT_TRUE_FAULT);
    default:
        fault->result->gpa = fault->walk.entry_gpa[fault->walk.level];
        return fault_end(fault, SHADOW_UNBACKED, SHADOW_EXIT_TRUE_FAULT);
    }
}

static enum shadow_outcome fault_handle(struct fault *fault, uint64_t gva)
{
    struct shadow_mmu *mmu = fault->mmu;
    const struct mmu_mode *mode = &fault->vcpu->mode;
    enum mmu_outcome outcome;
    unsigned level;

    outcome =
        mmu_walk(mode, mmu->config.memory, gva, fault->access & ~MMU_PROBE, &fault->walk);
    if (outcome != MMU_OK) {
        return fault_reflect(fault, outcome);
    }
    fault_marked(fault);
    fault->result->gpa = fault->walk.gpa;
    fault->slot = mmu_slots_find(mmu->config.slots, fault->walk.gpa);
    if (fault->slot == NULL || (fault->slot->readonly && (fault->access & MMU_WRITE))) {
        return fault_end(fault, SHADOW_MMIO, SHADOW_EXIT_MMIO);
    }
    level = mode->format == MMU_FORMAT_NONE ? 2 : fault->walk.level;
    if (level > mmu->config.max_level) {
        level = mmu->config.max_level;
    }
    fault->leaf_level = mmu_slot_level(fault->slot, fault->walk.gpa, level);
    return fault_fill(fault);
}

enum shadow_outcome shadow_fault(struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                                 struct shadow_result *result)
{
    struct fault fault = {
        .mmu = vcpu->mmu,
        .vcpu = vcpu,
        .result = result,
        .role = vcpu->role,
        .access = access,
    };
    enum shadow_outcome outcome;

    memset(result, 0, sizeof(*result));
    result->event = SHADOW_EVENTS;
    if (shadow_make_room(vcpu->mmu) != 0) {
        result->outcome = SHADOW_NO_MEMORY;
        return SHADOW_NO_MEMORY;
    }
    outcome = fault_handle(&fault, gva);
    shadow_flush_due(vcpu->mmu);
    return outcome;
}
