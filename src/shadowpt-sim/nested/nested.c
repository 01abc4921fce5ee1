/* SPDX-License-Identifier: MIT */
/* EPT and NPT: the walk from GPA to HPA, and the walk of guest tables through it. */
#include "shadowpt-sim/nested/entry.h"
#include "shadowpt-sim/walk_core.h"

/* EXITINFO1: at the final guest-physical address, or at a guest page-table entry. */
#define NPF_FINAL ((uint64_t)1 << 32)
#define NPF_TABLE ((uint64_t)1 << 33)
/* Exit qualification: there is a linear address; the access was not to a guest table. */
#define QUAL_LINEAR 0x80u
#define QUAL_FINAL  0x100u

static void reserved_ept(struct nested_table *table, uint64_t high)
{
    for (unsigned level = 1; level <= 5; level++) {
        table->reserved[0][level] = high | (level > 1 ? 0x78 : 0);
        table->reserved[1][level] = high;
    }
    table->reserved[0][4] |= EPT_PS;
    table->reserved[0][5] |= EPT_PS;
    table->reserved[1][4] |= EPT_PS;
    table->reserved[1][5] |= EPT_PS;
    table->reserved[1][2] |= 0x1ff000;
    table->reserved[1][3] |= 0x3ffff000;
}

static void reserved_npt(struct nested_table *table, uint64_t high)
{
    for (unsigned level = 1; level <= 5; level++) {
        table->reserved[0][level] = table->reserved[1][level] = high;
    }
    for (unsigned level = 4; level <= 5; level++) {
        table->reserved[0][level] |= PTE_PS | PTE_G;
        table->reserved[1][level] |= PTE_PS | PTE_G;
    }
    table->reserved[1][2] |= 0x1fe000;
    table->reserved[1][3] |= 0x3fffe000;
}

int nested_init(struct nested_table *table, const struct nested_config *config,
                const struct mmu_slots *slots, const struct mmu_memory *memory)
{
    uint32_t pages = config->pool_pages != 0 ? config->pool_pages : 65536;
    uint64_t high;
    int err;

    memset(table, 0, sizeof(*table));
    if (config->levels < 4 || config->levels > 5 || config->max_level < 1 ||
        config->max_level > 3 || config->maxphyaddr < 32 || config->maxphyaddr > 52) {
        return -EINVAL;
    }
    table->config = *config;
    if (config->kind == NESTED_NPT) {
        table->config.ad = true;
    }
    table->slots = slots;
    table->memory = memory;
    high = PTE_ADDRESS_MASK & ~(((uint64_t)1 << config->maxphyaddr) - 1);
    if (config->kind == NESTED_EPT) {
        reserved_ept(table, high);
    } else {
        reserved_npt(table, high);
    }
    err = pool_init(&table->pool, pages, NULL, config->pool_hpa);
    if (err == 0) {
        table->root = pool_alloc(&table->pool);
    }
    return err;
}

void nested_destroy(struct nested_table *table)
{
    if (table != NULL) {
        pool_destroy(&table->pool);
    }
}

/* The exit's description. @perms: what the path up to here permits. */
static uint64_t fault_info(const struct nested_table *table, uint32_t access,
                           uint32_t perms, uint64_t entry, bool broken)
{
    uint64_t info;

    if (table->config.kind == NESTED_EPT) {
        return (access & 7) | ((uint64_t)perms << 3) | QUAL_LINEAR |
               ((access & NESTED_TABLE) ? 0 : QUAL_FINAL);
    }
    info = PF_U | ((entry & PTE_P) ? PF_P : 0) | (broken ? PF_RSVD : 0);
    info |= (access & NESTED_WRITE) ? PF_W : 0;
    info |= (access & NESTED_FETCH) ? PF_ID : 0;
    return info | ((access & NESTED_TABLE) ? NPF_TABLE : NPF_FINAL);
}

static enum nested_outcome walk_ends(const struct nested_table *table, uint32_t access,
                                     uint32_t perms, uint64_t entry,
                                     struct nested_fault *fault)
{
    fault->info =
        fault_info(table, access, perms, entry, fault->outcome == NESTED_MISCONFIG);
    if (table->config.kind == NESTED_NPT) {
        fault->outcome = NESTED_VIOLATION;
    }
    return (enum nested_outcome)fault->outcome;
}

/* With A/D flags the processor's accesses to guest tables count as writes (SDM 29.3.3.2);
 * under NPT they always do (APM 15.25.5). */
static inline uint32_t effective_access(const struct nested_table *table, uint32_t access)
{
    if ((access & NESTED_TABLE) && table->config.ad) {
        return access | NESTED_WRITE;
    }
    return access;
}

static void mark_path(const struct nested_table *table, uint64_t *const path[6],
                      unsigned leaf_level, uint32_t access)
{
    bool ept = table->config.kind == NESTED_EPT;
    uint64_t accessed = ept ? EPT_A : PTE_A, dirty = ept ? EPT_D : PTE_D;

    for (unsigned level = table->config.levels; level >= leaf_level; level--) {
        uint64_t bits = accessed;

        if (level == leaf_level && (access & NESTED_WRITE)) {
            bits |= dirty;
        }
        if ((*path[level] & bits) != bits) {
            __atomic_fetch_or(path[level], bits, __ATOMIC_RELAXED);
        }
    }
}

enum nested_outcome nested_walk(const struct nested_table *table, uint64_t gpa,
                                uint32_t access, struct nested_leaf *leaf,
                                struct nested_fault *fault)
{
    uint64_t *page = pool_page(&table->pool, table->root), *path[6];
    unsigned level = table->config.levels;
    uint32_t perms = 7, wanted = effective_access(table, access);
    uint64_t entry;

    *fault = (struct nested_fault){ .gpa = gpa, .outcome = NESTED_VIOLATION };
    if (gpa >> (12 + 9 * level) != 0) { /* wider than the tables: no translation */
        fault->level = (uint8_t)level;
        return walk_ends(table, wanted, 0, 0, fault);
    }
    for (;; level--) {
        bool is_leaf;

        path[level] = &page[(gpa >> (12 + 9 * (level - 1))) & 511];
        entry = __atomic_load_n(path[level], __ATOMIC_RELAXED);
        fault->level = (uint8_t)level;
        if (!nested_present(table, entry)) {
            return walk_ends(table, wanted, 0, entry, fault);
        }
        is_leaf = nested_is_leaf(entry, level);
        if (nested_entry_broken(table, entry, level, is_leaf)) {
            fault->outcome = NESTED_MISCONFIG;
            return walk_ends(table, wanted, perms, entry, fault);
        }
        perms &= nested_entry_perms(table, entry);
        if (is_leaf) {
            break;
        }
        page = pool_table(&table->pool, entry);
    }
    if ((wanted & 7 & ~perms) != 0) {
        return walk_ends(table, wanted, perms, entry, fault);
    }
    if (table->config.ad) {
        mark_path(table, path, level, wanted);
        entry = *path[level];
    }
    leaf->shift = (uint8_t)(12 + 9 * (level - 1));
    leaf->page = entry & PTE_ADDRESS_MASK & ~(((uint64_t)1 << leaf->shift) - 1);
    leaf->perms = (uint8_t)perms;
    leaf->dirty =
        !table->config.ad || (entry & (table->config.kind == NESTED_EPT ? EPT_D : PTE_D));
    fault->outcome = NESTED_OK;
    return NESTED_OK;
}

void nested_trace(const struct nested_table *table, uint64_t gpa, uint8_t for_level,
                  struct mmu_trace *trace)
{
    uint32_t index = table->root;

    for (unsigned level = table->config.levels; level > 0; level--) {
        unsigned slot = (gpa >> (12 + 9 * (level - 1))) & 511;
        uint64_t entry = pool_page(&table->pool, index)[slot];

        mmu_trace_add(
            trace, (struct mmu_ref){ .dimension = MMU_REF_NESTED,
                                     .level = (uint8_t)level,
                                     .for_level = for_level,
                                     .address = pool_hpa(&table->pool, index) + slot * 8,
                                     .value = entry });
        if (!nested_present(table, entry) || nested_is_leaf(entry, level)) {
            return;
        }
        index = pool_index(&table->pool, entry);
    }
}

/* ---- Two dimensions --------------------------------------------------------------- */

struct nested_context {
    const struct nested_table *table;
    struct nested_walk *walk;
};

static enum mmu_outcome locate_entry(void *context, const struct mmu_walk *guest,
                                     unsigned level, bool write)
{
    const struct nested_context *c = context;
    struct mmu_trace *trace = c->walk->trace;
    uint64_t gpa = guest->entry_gpa[level];
    struct nested_leaf leaf;

    if (trace != NULL && !write) {
        nested_trace(c->table, gpa, (uint8_t)level, trace);
    }
    if (nested_walk(c->table, gpa, NESTED_TABLE | (write ? NESTED_WRITE : NESTED_READ),
                    &leaf, &c->walk->fault) != NESTED_OK) {
        return MMU_NESTED_FAULT;
    }
    if (trace != NULL && !write) {
        uint64_t offset = gpa & (((uint64_t)1 << leaf.shift) - 1);

        mmu_trace_add(trace, (struct mmu_ref){ .dimension = MMU_REF_GUEST,
                                               .level = (uint8_t)level,
                                               .address = leaf.page + offset });
    }
    return MMU_OK;
}

/* The guest's entries are known only after each was located: put them in now. */
static void trace_values(struct mmu_trace *trace, const struct mmu_walk *guest)
{
    for (unsigned i = 0; i < trace->count; i++) {
        if (trace->ref[i].dimension == MMU_REF_GUEST) {
            trace->ref[i].value = guest->entry[trace->ref[i].level];
        }
    }
}

/* One translation that a TLB can hold: the smaller page, what both dimensions permit. A
 * page the nested tables forbid to write counts as clean, which even CR0.WP = 0 does not
 * override. */
static void combine(struct nested_walk *walk)
{
    const struct nested_leaf *leaf = &walk->leaf;
    const struct mmu_walk *guest = &walk->guest;

    walk->hpa = leaf->page + (guest->gpa & (((uint64_t)1 << leaf->shift) - 1));
    walk->to = guest->to;
    if (leaf->shift < walk->to.shift) {
        walk->to.shift = leaf->shift;
    }
    walk->to.page = align_down(walk->hpa, (uint64_t)1 << walk->to.shift);
    if (!(leaf->perms & NESTED_FETCH)) {
        walk->to.perms &= (uint8_t)~MMU_PERM_X;
    }
    walk->to.dirty = walk->to.dirty && leaf->dirty && (leaf->perms & NESTED_WRITE);
}

enum mmu_outcome nested_translate(const struct nested_table *table,
                                  const struct mmu_mode *mode, uint64_t gva,
                                  uint32_t access, struct nested_walk *walk)
{
    struct nested_context context = { table, walk };
    const struct walk_source source = { table->memory, locate_entry, &context, NULL };
    uint32_t nested_access = NESTED_READ;
    enum mmu_outcome outcome;

    if (walk->trace != NULL) {
        walk->trace->count = 0;
    }
    outcome = walk_core(mode, &source, gva, access, &walk->guest);
    if (walk->trace != NULL) {
        trace_values(walk->trace, &walk->guest);
    }
    if (outcome != MMU_OK) {
        return outcome;
    }
    if (access & MMU_FETCH) {
        nested_access = NESTED_FETCH;
    } else if (access & MMU_WRITE) {
        nested_access = NESTED_WRITE;
    }
    if (walk->trace != NULL) {
        nested_trace(table, walk->guest.gpa, 0, walk->trace);
    }
    if (nested_walk(table, walk->guest.gpa, nested_access, &walk->leaf, &walk->fault) !=
        NESTED_OK) {
        walk->guest.outcome = MMU_NESTED_FAULT;
        return MMU_NESTED_FAULT;
    }
    combine(walk);
    return MMU_OK;
}
