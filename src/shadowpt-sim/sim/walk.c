/* SPDX-License-Identifier: MIT */
/* The simulated processor's page walk: through the caches that the model has, on the tables
 * as they stand in memory, counting each reference that is left. */
#include "shadowpt-sim/nested/entry.h"
#include "shadowpt-sim/sim/internal.h"

#define WALK_TRIES 64

/* One walk. What it cannot serve, a fault of any kind or an entry whose A or D is to be
 * set, is for the exact walk of the library; the references up to there count. */
struct hardware_walk {
    struct sim_machine *machine;
    const struct mmu_mode *mode;
    uint32_t access;
    unsigned references, skipped;
    bool mark; /* some A or D is to be set */
};

TLB_INLINE bool entry_read(struct hardware_walk *walk, const struct sim_tables *tables,
                           uint64_t address, uint64_t *entry)
{
    struct sim_machine *machine = walk->machine;
    uint64_t offset = address - tables->base;

    if (offset >= tables->size) {
        return false;
    }
    walk->references++;
    tlb_reference(&machine->tlb, address);
    *entry = __atomic_load_n((const uint64_t *)(const void *)(tables->host + offset),
                             __ATOMIC_RELAXED);
    return true;
}

static inline const struct mmu_translation *translation(const struct tlb_value *value)
{
    return (const struct mmu_translation *)(const void *)value;
}

/* Where the entries around an address are: only for prefetches, so it may be out of date. */
static inline void hint_note(struct sim_hint *hints, uint64_t address,
                             const struct sim_tables *tables, uint64_t table)
{
    hints[(address >> 21) % SIM_HINTS] =
        (struct sim_hint){ (address >> 21) + 1, tables->host + (table - tables->base) };
}

/* ---- The nested dimension ---------------------------------------------------------------- */

static inline bool nested_accessed(const struct nested_table *nested, uint64_t entry)
{
    return entry & (nested->config.kind == NESTED_EPT ? EPT_A : PTE_A);
}

static bool nested_leaf(const struct nested_table *nested, uint64_t entry, unsigned level,
                        struct tlb_nested *leaf)
{
    leaf->shift = 12 + 9 * (level - 1);
    leaf->page = entry & PTE_ADDRESS_MASK & ~(((uint64_t)1 << leaf->shift) - 1);
    leaf->dirty = entry & (nested->config.kind == NESTED_EPT ? EPT_D : PTE_D);
    leaf->saved++;
    return nested_accessed(nested, entry);
}

/* GPA to HPA for @wanted (NESTED_*). */
static bool nested_locate(struct hardware_walk *walk, uint64_t gpa, uint32_t wanted,
                          struct tlb_nested *leaf)
{
    struct sim_machine *machine = walk->machine;
    const struct nested_table *nested = &machine->nested;
    bool write = wanted & NESTED_WRITE, accessed = true;
    struct tlb_value table = { pool_hpa(&nested->pool, nested->root), 7 };
    unsigned level = nested->config.levels, known;

    if (tlb_nested_find(&machine->tlb, gpa, write, leaf)) {
        walk->skipped += leaf->saved;
        return (wanted & ~leaf->perms) == 0;
    }
    known = tlb_table_find(machine->tlb.npwc, gpa, 0, &table);
    if (known != 0) {
        walk->skipped += (unsigned)(table.word >> TLB_TABLE_SAVED);
        level = known - 1;
    }
    for (;; level--) {
        uint64_t entry,
            address = table.address + 8 * (gpa >> (12 + 9 * (level - 1)) & 511);
        bool is_leaf;

        if (level == 1) {
            hint_note(machine->nested_hint, gpa, &machine->nested_tables, table.address);
        }
        if (!entry_read(walk, &machine->nested_tables, address, &entry) ||
            !nested_present(nested, entry)) {
            return false;
        }
        is_leaf = nested_is_leaf(entry, level);
        if (nested_entry_broken(nested, entry, level, is_leaf)) {
            return false;
        }
        table.word &= ~(uint64_t)(NESTED_READ | NESTED_WRITE | NESTED_FETCH) |
                      nested_entry_perms(nested, entry);
        if (is_leaf) {
            leaf->perms = table.word & TLB_TABLE_PERMS;
            leaf->saved = (uint32_t)(table.word >> TLB_TABLE_SAVED);
            accessed &= nested_leaf(nested, entry, level, leaf);
            break;
        }
        accessed &= nested_accessed(nested, entry);
        table.address = entry & PTE_ADDRESS_MASK;
        table.word += (uint64_t)1 << TLB_TABLE_SAVED;
        if (accessed) {
            tlb_table_fill(machine->tlb.npwc, gpa, 0, level, table);
        }
    }
    if (accessed && (leaf->dirty || !write)) {
        tlb_nested_fill(&machine->tlb, gpa, leaf);
    } else {
        walk->mark = true;
    }
    return (wanted & ~leaf->perms) == 0;
}

/* ---- The guest's or the shadow's dimension ------------------------------------------------- */

TLB_INLINE uint64_t entry_perms(uint64_t entry)
{
    return (entry >> 1 & 3) | (~entry >> 63) << 2;
}

/* Bit @from of @entry as bit @to, which is higher. */
TLB_INLINE uint64_t bit_up(uint64_t entry, unsigned from, unsigned to)
{
    return entry << (to - from) & (uint64_t)1 << to;
}

TLB_INLINE struct tlb_value leaf_value(const struct mmu_mode *mode, uint64_t entry,
                                       unsigned level, uint64_t perms)
{
    unsigned shift = 12 + 9 * (level - 1);
    uint64_t word = shift | (perms & MMU_PERM_ALL) << TLB_PERMS;

    word |= bit_up(entry, 3, TLB_CACHE) | bit_up(entry, 4, TLB_CACHE + 1) |
            bit_up(entry, level == 1 ? 7 : 12, TLB_CACHE + 2) |
            bit_up(entry, 8, TLB_IS_GLOBAL) | bit_up(entry, 6, TLB_DIRTY);
    if (!(mode->cr4 & CR4_PGE)) {
        word &= ~((uint64_t)1 << TLB_IS_GLOBAL);
    }
    if (mode->pkeys) {
        word |= (entry >> PTE_PKEY_SHIFT & 15) << TLB_PKEY;
    }
    return (struct tlb_value){
        .address = entry & PTE_ADDRESS_MASK & (~(uint64_t)0 << shift),
        .word = word,
    };
}

/* Whether @to may be cached and serves the access. */
TLB_INLINE bool leaf_serves(struct hardware_walk *walk, uint64_t entry,
                            struct tlb_value to)
{
    const struct mmu_mode *mode = walk->mode;
    uint32_t access = walk->access & MMU_ACCESS_MASK;
    uint8_t perms = to.word >> TLB_PERMS & MMU_PERM_ALL;

    walk->mark |= !(entry & PTE_A) || ((access & MMU_WRITE) && !(entry & PTE_D));
    return !((mode->denied[access] >> perms) & 1) &&
           (!mode->pkeys ||
            !mmu_pkey_denied(mode, perms, to.word >> TLB_PKEY & 15, access));
}

/* The page that both dimensions map together: nested_translate() says the same. */
TLB_INLINE bool nested_page(struct hardware_walk *walk, uint64_t gpa,
                            struct tlb_value *to)
{
    uint32_t wanted = NESTED_READ;
    struct tlb_nested leaf;
    unsigned shift;
    uint64_t hpa;

    if (walk->access & MMU_FETCH) {
        wanted = NESTED_FETCH;
    } else if (walk->access & MMU_WRITE) {
        wanted = NESTED_WRITE;
    }
    if (!nested_locate(walk, gpa, wanted, &leaf)) {
        return false;
    }
    hpa = leaf.page + (gpa & (((uint64_t)1 << leaf.shift) - 1));
    shift = leaf.shift < tlb_shift(*to) ? leaf.shift : tlb_shift(*to);
    to->address = align_down(hpa, (uint64_t)1 << shift);
    to->word = (to->word & ~(uint64_t)0xff) | shift;
    if (!(leaf.perms & NESTED_FETCH)) {
        to->word &= ~((uint64_t)MMU_PERM_X << TLB_PERMS);
    }
    if (!leaf.dirty || !(leaf.perms & NESTED_WRITE)) {
        to->word &= ~((uint64_t)1 << TLB_DIRTY);
    }
    return true;
}

/* A table of the guest's, whose GPA is in @table: to its HPA. */
static bool table_locate(struct hardware_walk *walk, struct tlb_value *table)
{
    struct tlb_nested leaf;

    /* A/D flags are on: an access to a guest table counts as a write (SDM 29.3.3.2). */
    if (!nested_locate(walk, table->address, NESTED_READ | NESTED_WRITE, &leaf)) {
        return false;
    }
    table->address = leaf.page + (table->address & (((uint64_t)1 << leaf.shift) - 1));
    table->word += (uint64_t)leaf.saved << TLB_TABLE_SAVED;
    return true;
}

/* How walks go: in one dimension, in two, or in one that may go over to two. */
enum walk_kind {
    WALK_ONE,
    WALK_TWO,
    WALK_AGILE,
};

/* Which tables an address leads to, where walks go over from the shadow's to the guest's. */
TLB_INLINE bool guest_table(const struct sim_machine *machine, uint64_t address)
{
    return address - machine->guest_tables.base < machine->guest_tables.size;
}

/* Fill @to. False: the library has to look. */
TLB_INLINE bool hardware_walk(struct hardware_walk *walk, enum walk_kind kind,
                              uint64_t gva, struct tlb_value *to)
{
    struct sim_machine *machine = walk->machine;
    const struct sim_tables *tables = &machine->tables;
    const struct mmu_mode *mode = walk->mode;
    struct tlb_value table = { machine->root, MMU_PERM_ALL };
    unsigned level = mode->levels, known, fill = 0;
    bool two = kind == WALK_TWO || (kind == WALK_AGILE && machine->from_cr3);
    bool located; /* @table is where the table is in the host */
    uint64_t entry;

    if (!mmu_canonical(mode, gva)) {
        return false;
    }
    known = tlb_table_find(machine->tlb.pwc, gva, machine->pcid, &table);
    located = known != 0;
    if (known != 0) {
        machine->tlb.stats.pwc_hits++;
        walk->skipped += (unsigned)(table.word >> TLB_TABLE_SAVED);
        level = known - 1;
        two |= kind == WALK_AGILE && guest_table(machine, table.address);
    } else {
        machine->tlb.stats.pwc_misses++;
    }
    if (kind == WALK_AGILE && two) {
        tables = &machine->guest_tables;
    }
    for (;; level--) {
        unsigned index = gva >> (12 + 9 * (level - 1)) & 511;
        bool large;

        if (two && !located && !table_locate(walk, &table)) {
            return false;
        }
        located = false;
        if (fill != 0) {
            tlb_table_fill(machine->tlb.pwc, gva, machine->pcid, fill, table);
        }
        if (level == 1) {
            hint_note(machine->hint, gva, tables, table.address);
        }
        if (!entry_read(walk, tables, table.address + 8 * index, &entry) ||
            !(entry & PTE_P)) {
            return false;
        }
        large = (entry & PTE_PS) && ((mode->large_levels >> level) & 1);
        if (kind == WALK_AGILE && !two && (entry & SHADOW_SWITCH)) {
            two = located = true;
            tables = &machine->guest_tables;
        } else if (entry & mode->reserved[large][level]) {
            return false;
        } else if (large || level == 1) {
            table.word &= ~(uint64_t)MMU_PERM_ALL | entry_perms(entry);
            break;
        }
        table.word &= ~(uint64_t)MMU_PERM_ALL | entry_perms(entry);
        walk->mark |= !(entry & PTE_A);
        fill = (entry & PTE_A) ? level : 0;
        table.address = entry & PTE_ADDRESS_MASK;
        table.word += (uint64_t)1 << TLB_TABLE_SAVED;
    }
    *to = leaf_value(mode, entry, level, table.word);
    if (!leaf_serves(walk, entry, *to)) {
        return false;
    }
    return !two ||
           nested_page(walk, to->address | (gva & (((uint64_t)1 << tlb_shift(*to)) - 1)),
                       to);
}

TLB_INLINE bool walk_model(struct sim_machine *machine, enum walk_kind kind, uint64_t gva,
                           uint32_t access)
{
    struct hardware_walk walk = { machine, machine->check, access, 0, 0, false };
    struct sim_counters *count = &machine->count;
    struct tlb_value to;
    bool served = hardware_walk(&walk, kind, gva, &to) && !walk.mark;

    count->skipped += walk.skipped;
    count->histogram[walk.references < SIM_REFERENCES ? walk.references
                                                      : SIM_REFERENCES]++;
    if (served) {
        tlb_insert_value(&machine->tlb, gva, machine->pcid, (tlb_shift(to) - 12) / 9, to);
    }
    return served;
}

/* ---- Three kinds of machine ------------------------------------------------------------------ */

/* Each: what the library does where the walk above was not enough, and the walk again. With
 * @walked the first walk was made already. */

static enum access_end walk_native(struct sim_machine *machine, uint64_t gva,
                                   uint32_t access, bool walked)
{
    struct mmu_walk walk;
    enum mmu_outcome outcome;

    if (!walked && walk_model(machine, WALK_ONE, gva, access)) {
        return ACCESS_DONE;
    }
    outcome = mmu_walk(&machine->mode, &machine->ram.memory, gva, access, &walk);
    if (outcome == MMU_OK) {
        tlb_insert(&machine->tlb, gva, machine->pcid, &walk.to);
        return ACCESS_DONE;
    }
    return outcome == MMU_FAULT || outcome == MMU_NONCANONICAL ? ACCESS_FAULT
                                                               : ACCESS_BAD;
}

static enum access_end walk_nested(struct sim_machine *machine, uint64_t gva,
                                   uint32_t access, bool walked)
{
    for (unsigned i = 0; i < WALK_TRIES; i++, walked = false) {
        struct nested_walk walk = { .trace = NULL };
        enum mmu_outcome outcome;

        if (!walked && walk_model(machine, WALK_TWO, gva, access)) {
            return ACCESS_DONE;
        }
        outcome = nested_translate(&machine->nested, &machine->mode, gva, access, &walk);
        if (outcome == MMU_OK) {
            tlb_insert(&machine->tlb, gva, machine->pcid, &walk.to);
            return ACCESS_DONE;
        }
        if (outcome == MMU_FAULT || outcome == MMU_NONCANONICAL) {
            return ACCESS_FAULT;
        }
        if (outcome != MMU_NESTED_FAULT ||
            nested_fill(&machine->nested, walk.fault.gpa, NESTED_WRITE) != 0) {
            return ACCESS_BAD;
        }
        machine->count.nested_violations++;
    }
    return ACCESS_BAD;
}

static enum access_end walk_shadow(struct sim_machine *machine, uint64_t gva,
                                   uint32_t access, bool walked, uint64_t *gpa)
{
    for (unsigned i = 0; i < WALK_TRIES; i++, walked = false) {
        struct mmu_translation to;
        struct shadow_result result;

        if (!walked && (machine->kind == SIM_SHADOW_AGILE
                            ? walk_model(machine, WALK_AGILE, gva, access)
                            : walk_model(machine, WALK_ONE, gva, access))) {
            return ACCESS_DONE;
        }
        if (shadow_translate(machine->vcpu, gva, access, &to)) { /* A was to be set */
            tlb_insert(&machine->tlb, gva, machine->pcid, &to);
            return ACCESS_DONE;
        }
        if (shadow_delivers(machine->vcpu, gva, access, &result.error_code)) {
            return ACCESS_FAULT;
        }
        switch (shadow_fault(machine->vcpu, gva, access, &result)) {
        case SHADOW_OK:
            break;
        case SHADOW_FAULT:
        case SHADOW_NONCANONICAL:
            return ACCESS_FAULT;
        case SHADOW_TABLE_WRITE:
        case SHADOW_EMULATE:
            *gpa = result.gpa;
            return ACCESS_STORE;
        default:
            return ACCESS_BAD;
        }
    }
    return ACCESS_BAD;
}

static enum access_end walk_any(struct sim_machine *machine, uint64_t gva,
                                uint32_t access, bool walked, uint64_t *gpa)
{
    switch (machine->kind) {
    case SIM_NATIVE:
        return walk_native(machine, gva, access, walked);
    case SIM_NESTED:
        return walk_nested(machine, gva, access, walked);
    default:
        return walk_shadow(machine, gva, access, walked, gpa);
    }
}

enum access_end sim_cpu_walk(struct sim_machine *machine, uint64_t gva, uint32_t access,
                             uint64_t *gpa)
{
    return walk_any(machine, gva, access, false, gpa);
}

/* ---- Many accesses ---------------------------------------------------------------------------- */

static inline bool entry_is_large(const struct sim_machine *machine, uint64_t address)
{
    uint64_t offset = address - machine->tables.base;

    return offset < machine->tables.size && (machine->tables.host[offset] & PTE_PS);
}

/* From the entry of level 2 to the table it leads to. False: it is no such entry. */
TLB_INLINE bool walk_to_table(struct hardware_walk *walk, bool two, uint64_t gva,
                              uint64_t entry, struct tlb_value *table)
{
    struct sim_machine *machine = walk->machine;
    uint64_t index = tlb_index(gva, 1);

    if ((entry & (PTE_P | PTE_PS | PTE_A)) != (PTE_P | PTE_A) ||
        (entry & walk->mode->reserved[0][2])) {
        return false;
    }
    table->address = entry & PTE_ADDRESS_MASK;
    table->word &= ~(uint64_t)MMU_PERM_ALL | entry_perms(entry);
    table->word += (uint64_t)1 << TLB_TABLE_SAVED;
    if (two && !table_locate(walk, table)) {
        return false;
    }
    *tlb_set_insert(&machine->tlb.pwc[0], index,
                    index << 16 | TLB_VALID | machine->pcid) = *table;
    return true;
}

/* The rest of a walk whose page table is known. */
TLB_INLINE bool walk_page(struct hardware_walk *walk, bool two, uint64_t gva,
                          struct tlb_value table, struct tlb_value *to)
{
    struct sim_machine *machine = walk->machine;
    uint64_t entry;

    hint_note(machine->hint, gva, &machine->tables, table.address);
    if (!entry_read(walk, &machine->tables,
                    table.address + 8 * (gva >> MMU_PAGE_SHIFT & 511), &entry) ||
        !(entry & PTE_P) || (entry & walk->mode->reserved[0][1])) {
        return false;
    }
    *to = leaf_value(walk->mode, entry, 1, table.word & entry_perms(entry));
    return leaf_serves(walk, entry, *to) &&
           (!two || nested_page(walk, to->address | (gva & (MMU_PAGE_SIZE - 1)), to)) &&
           !walk->mark;
}

/* The most common walks: a paging-structure cache has the page table or its directory.
 * False: neither, and nothing happened; else *@served: the translation is in the TLB. */
TLB_INLINE bool walk_quick(struct sim_machine *machine, bool two, uint64_t gva,
                           uint32_t access, bool *served)
{
    struct tlb *tlb = &machine->tlb;
    struct hardware_walk walk = { machine, machine->check, access, 0, 0, false };
    uint64_t index = tlb_index(gva, 1), key = index << 16 | TLB_VALID | machine->pcid;
    const struct tlb_value *known = tlb_set_lookup(&tlb->pwc[0], index, key, key);
    struct tlb_value table, to;
    uint64_t entry;

    if (known != NULL) {
        table = *known;
        machine->count.skipped += table.word >> TLB_TABLE_SAVED;
        *served = walk_page(&walk, two, gva, table, &to);
    } else {
        key = (index >> 9) << 16 | TLB_VALID | machine->pcid;
        known = tlb_set_lookup(&tlb->pwc[1], index >> 9, key, key);
        if (known == NULL) {
            return false;
        }
        table = *known;
        if (entry_is_large(machine, table.address + 8 * (index & 511))) {
            return false; /* for the whole walk */
        }
        machine->count.skipped += table.word >> TLB_TABLE_SAVED;
        *served = entry_read(&walk, &machine->tables, table.address + 8 * (index & 511),
                             &entry) &&
                  walk_to_table(&walk, two, gva, entry, &table) &&
                  walk_page(&walk, two, gva, table, &to);
    }
    tlb->stats.pwc_hits++;
    machine->count.skipped += walk.skipped;
    machine->count
        .histogram[walk.references < SIM_REFERENCES ? walk.references : SIM_REFERENCES]++;
    if (*served) {
        tlb_insert_small(tlb, gva, machine->pcid, to);
    }
    return true;
}

/* An access that neither TLB serves. */
TLB_INLINE enum access_end miss(struct sim_machine *machine, bool two, uint64_t gva,
                                uint32_t access, uint64_t *gpa)
{
    bool served;

    machine->tlb.stats.misses++;
    if (machine->kind == SIM_SHADOW_AGILE ||
        !walk_quick(machine, two, gva, access, &served)) {
        return walk_any(machine, gva, access, false, gpa);
    }
    return served ? ACCESS_DONE : walk_any(machine, gva, access, true, gpa);
}

/* sim_cpu_access() for accesses in a row, as far as they are ordinary. */
TLB_INLINE unsigned burst(struct sim_machine *machine, bool two,
                          const struct sim_event *events, unsigned count,
                          struct sim_burst *burst)
{
    struct tlb *tlb = &machine->tlb;
    uint16_t pcid = machine->pcid;
    unsigned i;

    for (i = 0; i < count && events[i].kind == SIM_ACCESS; i++) {
        uint64_t gva = events[i].address, index = tlb_index(gva, 0);
        uint64_t key = tlb_key(gva, 0, pcid), global = tlb_key(gva, 0, TLB_GLOBAL);
        uint32_t access = sim_access(&events[i]);
        const struct tlb_value *value = tlb_set_lookup(&tlb->l1[0], index, key, global);

        if (burst->ahead) {
            sim_cpu_prefetch(machine, events[i + SIM_FAR].address);
        }
        if (two && burst->ahead) {
            sim_cpu_prefetch_nested(machine, events[i + SIM_NEAR].address);
        }
        if (value != NULL) {
            if (!mmu_translation_allows(machine->check, translation(value), access)) {
                break;
            }
            tlb->stats.l1_hits++;
            continue;
        }
        if (tlb->any_large[gva >> 63]) {
            break;
        }
        value = tlb_set_lookup(&tlb->l2, index, key, global);
        if (value != NULL) {
            if (!mmu_translation_allows(machine->check, translation(value), access)) {
                break;
            }
            tlb->stats.l2_hits++;
            key = translation(value)->global ? global : key;
            *tlb_set_insert(&tlb->l1[0], index, key) = *value;
            continue;
        }
        burst->end = miss(machine, two, gva, access, &burst->gpa);
        if (burst->end != ACCESS_DONE) {
            break;
        }
    }
    return i;
}

unsigned sim_cpu_burst(struct sim_machine *machine, const struct sim_event *events,
                       unsigned count, struct sim_burst *state)
{
    state->end = ACCESS_DONE;
    if (!machine->tlb.plain) {
        return 0;
    }
    return machine->kind == SIM_NESTED ? burst(machine, true, events, count, state)
                                       : burst(machine, false, events, count, state);
}
