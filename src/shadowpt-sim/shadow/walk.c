/* SPDX-License-Identifier: MIT */
/* The processor's side: walks of the shadow tables, and of what they leave to nested ones. */
#include "shadowpt-sim/shadow/internal.h"
#include "shadowpt-sim/walk_core.h"

/* The processor sets A in a leaf it uses: see page_flooded(). */
static void shadow_mark_used(const struct table_pool *pool, const uint64_t *at)
{
    __atomic_fetch_or(&pool->base[at - pool->base], PTE_A, __ATOMIC_RELAXED);
}

/* ---- Nested parts ---------------------------------------------------------------------- */

/* Entries of the nested tables are what entries of direct pages are. */
static uint64_t nested_step(const struct table_pool *pool, const uint64_t **table,
                            uint64_t gpa, unsigned level)
{
    const uint64_t *at = &(*table)[(gpa >> shadow_shift(level)) & 511];
    uint64_t entry = __atomic_load_n(at, __ATOMIC_ACQUIRE);

    if ((entry & PTE_P) && level > 1 && !(entry & PTE_PS)) {
        *table = pool_table(pool, entry);
    }
    return entry;
}

/* GPA to HPA, as the processor does it. False: a nested page fault. */
static bool nested_find(const struct shadow_mmu *mmu, uint64_t gpa, bool write,
                        struct mmu_translation *to)
{
    unsigned level = mmu->config.nested_levels;
    const uint64_t *table;

    if (mmu->nested_root == POOL_NONE || gpa >> shadow_shift(level + 1) != 0) {
        return false;
    }
    table = pool_page(&mmu->pool, mmu->nested_root);
    for (;; level--) {
        uint64_t entry = nested_step(&mmu->pool, &table, gpa, level);

        if (!(entry & PTE_P)) {
            return false;
        }
        if (level == 1 || (entry & PTE_PS)) {
            shadow_leaf_translation(entry, level, to);
            return !write || (to->perms & MMU_PERM_W);
        }
    }
}

struct nested_part {
    const struct shadow_mmu *mmu;
    const struct walk_start *start;
};

/* An access to a guest table counts as a write (APM 15.25.5). The first one is known by its
 * HPA already. */
static enum mmu_outcome locate_entry(void *context, const struct mmu_walk *guest,
                                     unsigned level, bool write)
{
    const struct nested_part *part = context;
    struct mmu_translation to;

    (void)write;
    if (part->start != NULL && level == part->start->level) {
        return MMU_OK;
    }
    return nested_find(part->mmu, guest->entry_gpa[level], true, &to) ? MMU_OK
                                                                      : MMU_NESTED_FAULT;
}

/* The smaller page, what both permit; nested tables that forbid writes make it clean. */
uint64_t shadow_combine(const struct mmu_walk *walk, const struct mmu_translation *page,
                        struct mmu_translation *to)
{
    uint64_t hpa = page->page | (walk->gpa & (((uint64_t)1 << page->shift) - 1));

    *to = walk->to;
    to->shift = page->shift < to->shift ? page->shift : to->shift;
    to->page = align_down(hpa, (uint64_t)1 << to->shift);
    to->dirty = to->dirty && (page->perms & MMU_PERM_W);
    return hpa;
}

enum mmu_outcome shadow_walk_nested(const struct shadow_vcpu *vcpu,
                                    const struct walk_start *start, uint64_t gva,
                                    uint32_t access, struct mmu_walk *walk,
                                    struct mmu_translation *to)
{
    const struct shadow_mmu *mmu = vcpu->mmu;
    struct nested_part part = { mmu, start };
    const struct walk_source source = { mmu->config.memory, locate_entry, &part, start };
    enum mmu_outcome outcome = walk_core(&vcpu->hardware, &source, gva, access, walk);
    struct mmu_translation page;

    if (outcome != MMU_OK) {
        return outcome;
    }
    if (!nested_find(mmu, walk->gpa, access & MMU_WRITE, &page)) {
        return MMU_NESTED_FAULT;
    }
    (void)shadow_combine(walk, &page, to);
    return MMU_OK;
}

/* ---- Walks --------------------------------------------------------------------------------- */

/* Where the walk of the shadow tables ends. False: the address is not canonical. */
static bool shadow_end(const struct shadow_vcpu *vcpu, uint64_t gva, const uint64_t **at,
                       uint64_t *entry, unsigned *level)
{
    const struct mmu_mode *hardware = &vcpu->hardware;
    const uint64_t *table = vcpu->root_table;

    if (hardware->format != MMU_FORMAT_LONG) {
        gva = (uint32_t)gva;
    } else if (!mmu_canonical(hardware, gva)) {
        return false;
    }
    for (*level = vcpu->root_level;; --*level) {
        *at = &table[(gva >> shadow_shift(*level)) & 511];
        *entry = __atomic_load_n(*at, __ATOMIC_ACQUIRE);
        if (!(*entry & PTE_P) || *level == 1 || (*entry & PTE_PS)) {
            return true;
        }
        table = pool_table(vcpu->pool, *entry);
    }
}

static struct walk_start switch_start(const struct shadow_vcpu *vcpu, uint64_t entry,
                                      unsigned level)
{
    return (struct walk_start){
        .table = mmu_slots_gpa(vcpu->mmu->config.slots, entry & PTE_ADDRESS_MASK),
        .level = level - 1,
        .perms = (uint32_t)((entry >> 1) & 3) | ((entry & PTE_NX) ? 0 : MMU_PERM_X),
    };
}

bool shadow_translate(const struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                      struct mmu_translation *to)
{
    struct mmu_walk walk;
    const uint64_t *at;
    uint64_t entry;
    unsigned level;

    if (vcpu->nested) {
        return shadow_walk_nested(vcpu, NULL, gva, access, &walk, to) == MMU_OK;
    }
    if (!shadow_end(vcpu, gva, &at, &entry, &level) || !(entry & PTE_P)) {
        return false;
    }
    if (entry & SHADOW_SWITCH) {
        struct walk_start start = switch_start(vcpu, entry, level);

        return shadow_walk_nested(vcpu, &start, gva, access, &walk, to) == MMU_OK;
    }
    /* Pointers permit everything: the leaf alone decides. */
    shadow_leaf_translation(entry, level, to);
    if (!mmu_translation_allows(&vcpu->hardware, to, access)) {
        return false;
    }
    if (!(entry & PTE_A)) {
        shadow_mark_used(vcpu->pool, at);
    }
    return true;
}

bool shadow_delivers(const struct shadow_vcpu *vcpu, uint64_t gva, uint32_t access,
                     uint32_t *error_code)
{
    struct walk_start start, *from = NULL;
    struct mmu_translation to;
    struct mmu_walk walk;
    const uint64_t *at;
    uint64_t entry;
    unsigned level;

    if (!vcpu->nested) {
        if (!shadow_end(vcpu, gva, &at, &entry, &level) ||
            (entry & (PTE_P | SHADOW_SWITCH)) != (PTE_P | SHADOW_SWITCH)) {
            return false;
        }
        start = switch_start(vcpu, entry, level);
        from = &start;
    }
    if (shadow_walk_nested(vcpu, from, gva, access, &walk, &to) != MMU_FAULT) {
        return false;
    }
    *error_code = walk.error_code;
    return true;
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
    if (shadow_delivers(vcpu, gva, access, &result->error_code)) {
        result->outcome = SHADOW_FAULT;
        result->event = SHADOW_EVENTS;
        return SHADOW_FAULT;
    }
    return shadow_fault(vcpu, gva, access, result);
}

/* ---- References ------------------------------------------------------------------------------ */

static void trace_add(const struct shadow_vcpu *vcpu, enum mmu_dimension dimension,
                      unsigned level, unsigned for_level, const uint64_t *at,
                      struct mmu_trace *trace)
{
    uint64_t offset = (uint64_t)(at - vcpu->pool->base) * sizeof(*at);

    mmu_trace_add(trace, (struct mmu_ref){ .dimension = (uint8_t)dimension,
                                           .level = (uint8_t)level,
                                           .for_level = (uint8_t)for_level,
                                           .address = vcpu->pool->hpa + offset,
                                           .value = *at });
}

/* False: it ends here, in a nested page fault. */
static bool trace_nested(const struct shadow_vcpu *vcpu, uint64_t gpa, unsigned for_level,
                         struct mmu_trace *trace, uint64_t *hpa)
{
    const struct shadow_mmu *mmu = vcpu->mmu;
    unsigned level = mmu->config.nested_levels;
    const uint64_t *table;

    if (mmu->nested_root == POOL_NONE || gpa >> shadow_shift(level + 1) != 0) {
        return false;
    }
    table = pool_page(&mmu->pool, mmu->nested_root);
    for (;; level--) {
        const uint64_t *at = &table[(gpa >> shadow_shift(level)) & 511];
        uint64_t entry = nested_step(&mmu->pool, &table, gpa, level);
        struct mmu_translation to;

        trace_add(vcpu, MMU_REF_NESTED, level, for_level, at, trace);
        if (!(entry & PTE_P)) {
            return false;
        }
        if (level == 1 || (entry & PTE_PS)) {
            shadow_leaf_translation(entry, level, &to);
            *hpa = to.page | (gpa & (((uint64_t)1 << to.shift) - 1));
            return true;
        }
    }
}

/* The guest's entries from @level on; @hpa: of the first table, 0: it is to be located. */
static void trace_guest(const struct shadow_vcpu *vcpu, uint64_t gva, uint64_t table,
                        uint64_t hpa, unsigned level, struct mmu_trace *trace)
{
    const struct mmu_mode *mode = &vcpu->hardware;

    for (;; level--) {
        uint64_t offset = 8 * (gva >> shadow_shift(level) & 511), entry, page;
        bool large;

        if (hpa != 0) {
            hpa += offset;
        } else if (!trace_nested(vcpu, table + offset, level, trace, &hpa)) {
            return;
        }
        if (mmu_load(vcpu->mmu->config.memory, table + offset, 8, &entry) != 0) {
            return;
        }
        mmu_trace_add(trace, (struct mmu_ref){ .dimension = MMU_REF_GUEST,
                                               .level = (uint8_t)level,
                                               .address = hpa,
                                               .value = entry });
        large = (entry & PTE_PS) && ((mode->large_levels >> level) & 1);
        if (!(entry & PTE_P) || (entry & mode->reserved[large][level])) {
            return;
        }
        if (large || level == 1) {
            uint64_t inside = ((uint64_t)1 << shadow_shift(level)) - 1;

            page = (entry & PTE_ADDRESS_MASK & ~inside) | (gva & inside);
            (void)trace_nested(vcpu, page, 0, trace, &hpa);
            return;
        }
        table = entry & PTE_ADDRESS_MASK;
        hpa = 0;
    }
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
    if (vcpu->nested) {
        trace_guest(vcpu, gva, vcpu->mode.cr3 & PTE_ADDRESS_MASK, 0, vcpu->root_level,
                    trace);
        return;
    }
    for (unsigned level = vcpu->root_level; level > 0; level--) {
        const uint64_t *entry = &table[(gva >> shadow_shift(level)) & 511];

        /* The PDPTEs of 32-bit formats are registers: no reference. */
        if (vcpu->hardware.format == MMU_FORMAT_LONG || level < 3) {
            trace_add(vcpu, MMU_REF_SHADOW, level, 0, entry, trace);
        }
        if ((*entry & PTE_P) && (*entry & SHADOW_SWITCH)) {
            struct walk_start start = switch_start(vcpu, *entry, level);

            trace_guest(vcpu, gva, start.table, *entry & PTE_ADDRESS_MASK, start.level,
                        trace);
            return;
        }
        if (!(*entry & PTE_P) || (*entry & PTE_PS) || level == 1) {
            return;
        }
        table = pool_table(vcpu->pool, *entry);
    }
}

bool shadow_vcpu_nested(const struct shadow_vcpu *vcpu)
{
    return vcpu->nested;
}
