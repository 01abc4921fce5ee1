/* SPDX-License-Identifier: MIT */
/* The page-fault handler: told apart by the guest's tables, answered by the shadow's. */
#include "shadowpt-sim/shadow_internal.h"

struct fault {
    struct shadow_mmu *mmu;
    struct shadow_vcpu *vcpu;
    struct shadow_result *result;
    const struct mmu_slot *slot;
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
    union shadow_role role = fault->vcpu->role;
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

static void leaf_translation(uint64_t leaf, unsigned level, struct mmu_translation *to)
{
    to->shift = (uint8_t)shadow_shift(level);
    to->page = leaf & PTE_ADDRESS_MASK & ~(((uint64_t)1 << to->shift) - 1);
    to->perms = (uint8_t)(((leaf >> 1) & 3) | ((leaf & PTE_NX) ? 0 : MMU_PERM_X));
    to->pkey = (leaf >> PTE_PKEY_SHIFT) & 15;
    to->cache = (uint8_t)(((leaf >> 3) & 3) |
                          ((leaf & (level == 1 ? PTE_PAT_4K : PTE_PAT_LARGE)) ? 4 : 0));
    to->global = leaf & PTE_G;
    to->dirty = leaf & PTE_W; /* a writable shadow leaf has D set from the start */
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

/* Put the leaf where it belongs and see whether it serves the access. */
static enum shadow_outcome leaf_install(struct fault *fault, entry_ref ref,
                                        unsigned level)
{
    struct shadow_mmu *mmu = fault->mmu;
    union shadow_role role = fault->vcpu->role;
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
            if (write) {
                return fault_end(fault, SHADOW_TABLE_WRITE, SHADOW_EXIT_TABLE_WRITE);
            }
        }
    }
    leaf_store(fault, ref, leaf);
    leaf_translation(leaf, level, &fault->result->to);
    fault->result->hpa = fault->result->to.page | (gpa & (span - 1));
    if (!mmu_translation_allows(&fault->vcpu->hardware, &fault->result->to,
                                fault->access)) {
        return fault_end(fault, SHADOW_EMULATE, SHADOW_EXIT_EMULATE);
    }
    return fault_end(fault, SHADOW_OK,
                     unsync ? SHADOW_EXIT_UNSYNC : leaf_event(old, leaf, flipped));
}

/* ---- The handler
 * ------------------------------------------------------------------------- */

static enum shadow_outcome fault_fill(struct fault *fault)
{
    struct shadow_mmu *mmu = fault->mmu;
    struct shadow_vcpu *vcpu = fault->vcpu;
    uint32_t index = vcpu->root[vcpu->current].page;

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

/* ---- The processor's side
 * ------------------------------------------------------------------ */

/* The processor sets A in a leaf it uses: see page_flooded(). */
static void shadow_mark_used(const struct table_pool *pool, const uint64_t *at)
{
    __atomic_fetch_or(&pool->base[at - pool->base], PTE_A, __ATOMIC_RELAXED);
}

bool shadow_translate(const struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                      struct mmu_translation *to)
{
    const struct mmu_mode *hardware = &vcpu->hardware;
    const uint64_t *table = vcpu->root_table;
    const uint64_t *at;
    uint64_t entry;
    unsigned level;

    if (hardware->format != MMU_FORMAT_LONG) {
        gva = (uint32_t)gva;
    } else if (!mmu_canonical(hardware, gva)) {
        return false;
    }
    for (level = vcpu->root_level;; level--) {
        at = &table[(gva >> shadow_shift(level)) & 511];
        entry = __atomic_load_n(at, __ATOMIC_ACQUIRE);
        if (!(entry & PTE_P)) {
            return false;
        }
        if (level == 1 || (entry & PTE_PS)) {
            break;
        }
        table = pool_table(vcpu->pool, entry);
    }
    /* Pointers permit everything: the leaf alone decides. */
    leaf_translation(entry, level, to);
    if (!mmu_translation_allows(hardware, to, access)) {
        return false;
    }
    if (!(entry & PTE_A)) {
        shadow_mark_used(vcpu->pool, at);
    }
    return true;
}

void shadow_trace(const struct shadow_vcpu *vcpu, uint64_t gva, struct mmu_trace *trace)
{
    const uint64_t *table = vcpu->root_table;

    trace->count = 0;
    if (vcpu->hardware.format != MMU_FORMAT_LONG) {
        gva = (uint32_t)gva;
    } else if (!mmu_canonical(&vcpu->hardware, gva)) {
        return;
    }
    for (unsigned level = vcpu->root_level; level > 0; level--) {
        const uint64_t *entry = &table[(gva >> shadow_shift(level)) & 511];
        uint64_t offset = (uint64_t)(entry - vcpu->pool->base) * sizeof(*entry);

        /* The PDPTEs of 32-bit formats are registers: no reference. */
        if (vcpu->hardware.format == MMU_FORMAT_LONG || level < 3) {
            mmu_trace_add(trace, (struct mmu_ref){ .dimension = MMU_REF_SHADOW,
                                                   .level = (uint8_t)level,
                                                   .address = vcpu->pool->hpa + offset,
                                                   .value = *entry });
        }
        if (!(*entry & PTE_P) || (*entry & PTE_PS) || level == 1) {
            return;
        }
        table = pool_table(vcpu->pool, *entry);
    }
}

enum shadow_outcome shadow_access(struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                                  struct shadow_result *result)
{
    if (shadow_translate(vcpu, gva, access, &result->to)) {
        result->outcome = SHADOW_OK;
        result->event = SHADOW_EVENTS;
        result->hpa = result->to.page | (gva & (((uint64_t)1 << result->to.shift) - 1));
        return SHADOW_OK;
    }
    return shadow_fault(vcpu, gva, access, result);
}
