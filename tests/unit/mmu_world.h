/* SPDX-License-Identifier: MIT */
/* A random little guest for the MMU tests: memory, page tables, registers, accesses. */
#ifndef TESTS_UNIT_MMU_WORLD_H
#define TESTS_UNIT_MMU_WORLD_H

#include "mmu_oracle.h"

#include "shadowpt-sim/memory.h"
#include "shadowpt-sim/paging.h"
#include "shadowpt-sim/slots.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- Random numbers: splitmix64 ------------------------------------------------------- */

static inline uint64_t rng_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

static inline unsigned rng_below(uint64_t *state, unsigned limit)
{
    return (unsigned)((rng_next(state) >> 32) * limit >> 32);
}

static inline bool rng_percent(uint64_t *state, unsigned percent)
{
    return rng_below(state, 100) < percent;
}

/* Steps of a property test: the default scaled by UMBRA_MMU_SCALE (percent), and down under
 * sanitizers. */
static inline uint64_t world_steps(uint64_t steps)
{
    const char *scale = getenv("UMBRA_MMU_SCALE");

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    steps /= 50;
#elif !defined(__OPTIMIZE__)
    steps /= 10;
#endif
    return scale != NULL ? steps * strtoull(scale, NULL, 0) / 100 : steps;
}

static inline uint64_t world_seed(uint64_t seed)
{
    const char *text = getenv("UMBRA_MMU_SEED");

    return text != NULL ? strtoull(text, NULL, 0) : seed;
}

/* ---- Memory ----------------------------------------------------------------------------- */

#define WORLD_TABLES 32 /* frames that serve as page tables of any level */

/* Small pages; huge pages; read-only; middle-sized pages above 4 GiB. */
static const struct mmu_slot world_slots[] = {
    { 0, 8 * MIB, 0x700000000, false, 12 },
    { GIB, 2 * GIB, 0x1000000000, false, 30 },
    { 0xf0000000, 64 * KIB, 0x500000000, true, 12 },
    { 8 * GIB, 16 * MIB, 0x600000000, false, 21 },
};

/* What each table frame is meant for: a level, or 6 for the four PDPTEs of PAE. Random CR3 and
 * entries mostly respect it, so that most walks get somewhere. */
static const uint8_t world_level[WORLD_TABLES] = { 4, 5, 6, 3, 2, 1, 2, 1, 4, 3, 2,
                                                   1, 2, 1, 1, 6, 5, 4, 3, 2, 1, 3,
                                                   2, 1, 3, 2, 1, 1, 2, 1, 3, 1 };

struct world {
    struct sim_ram ram;
    struct mmu_slots slots;
    uint64_t table[WORLD_TABLES];      /* their GPAs */
    uint64_t *host[WORLD_TABLES];      /* ... and bytes */
    uint64_t model[WORLD_TABLES][512]; /* what they should hold */
};

static inline const uint8_t *world_memory(void *context, uint64_t gpa)
{
    const struct world *world = context;

    return sim_ram_host(&world->ram, gpa, 4);
}

static inline int world_init(struct world *world)
{
    sim_ram_init(&world->ram);
    mmu_slots_init(&world->slots);
    for (unsigned i = 0; i < ARRAY_SIZE(world_slots); i++) {
        if (sim_ram_add(&world->ram, world_slots[i].gpa, world_slots[i].size,
                        world_slots[i].readonly) != 0 ||
            mmu_slots_add(&world->slots, &world_slots[i]) != 0) {
            return -1;
        }
    }
    for (unsigned i = 0; i < WORLD_TABLES; i++) {
        uint64_t frame = i < 24 ? 16 + i : (GIB >> 12) + (i % 4) + 512 * (i / 28);

        world->table[i] = frame << 12;
        world->host[i] = sim_ram_host(&world->ram, frame << 12, 4096);
    }
    memset(world->model, 0, sizeof(world->model));
    return 0;
}

static inline void world_destroy(struct world *world)
{
    sim_ram_destroy(&world->ram);
    mmu_slots_destroy(&world->slots);
}

static inline void world_clear(struct world *world)
{
    for (unsigned i = 0; i < WORLD_TABLES; i++) {
        memset(world->host[i], 0, 4096);
    }
    memset(world->model, 0, sizeof(world->model));
}

/* The number of the table frame that holds @gpa, or -1. */
static inline int world_table_at(const struct world *world, uint64_t gpa)
{
    for (int i = 0; i < WORLD_TABLES; i++) {
        if (gpa >> 12 == world->table[i] >> 12) {
            return i;
        }
    }
    return -1;
}

/* Tell the model of a store; stores outside the tables do not matter. */
static inline void world_model(struct world *world, uint64_t gpa, unsigned size,
                               uint64_t value)
{
    int table = world_table_at(world, gpa);

    if (table >= 0) {
        memcpy((uint8_t *)world->model[table] + (gpa & 4095), &value, size);
    }
}

static inline bool world_as_modelled(const struct world *world)
{
    for (unsigned i = 0; i < WORLD_TABLES; i++) {
        if (memcmp(world->host[i], world->model[i], 4096) != 0) {
            return false;
        }
    }
    return true;
}

/* ---- Page tables ------------------------------------------------------------------------ */

/* Few indexes, so that random writes meet random accesses. */
#define WORLD_INDEXES 4

static inline unsigned world_index_nth(unsigned i, unsigned entries)
{
    return i < 2 ? i : i == 2 ? entries / 2 : entries - 1;
}

static inline unsigned world_index(uint64_t *rng, unsigned entries)
{
    return world_index_nth(rng_below(rng, WORLD_INDEXES), entries);
}

/* A table meant for @level. */
static inline uint64_t world_pick(const struct world *world, uint64_t *rng,
                                  unsigned level)
{
    unsigned i = rng_below(rng, WORLD_TABLES);

    for (unsigned n = 0; n < WORLD_TABLES && world_level[i] != level; n++) {
        i = (i + 1) % WORLD_TABLES;
    }
    return world->table[i];
}

/* Where a page may be: tables too, so that the guest maps and writes its own. */
static inline uint64_t world_page(const struct world *world, uint64_t *rng)
{
    unsigned kind = rng_below(rng, 100);

    if (kind < 45) {
        return world->table[rng_below(rng, WORLD_TABLES)];
    }
    if (kind < 65) {
        return (uint64_t)rng_below(rng, 2048) << 12;
    }
    if (kind < 85) {
        return GIB + ((uint64_t)rng_below(rng, 1024) << 21) + (rng_next(rng) & 0x3000);
    }
    if (kind < 91) {
        return 0xf0000000 + ((uint64_t)rng_below(rng, 16) << 12);
    }
    if (kind < 96) {
        return 8 * GIB + ((uint64_t)rng_below(rng, 4096) << 12);
    }
    return 0xc0000000u + ((uint64_t)rng_below(rng, 64) << 12); /* nothing there */
}

static inline uint64_t world_large_page(uint64_t *rng)
{
    unsigned kind = rng_below(rng, 100);

    if (kind < 30) {
        return (uint64_t)rng_below(rng, 4) << 21; /* over the tables */
    }
    if (kind < 60) {
        return GIB + ((uint64_t)rng_below(rng, 3) << 21);
    }
    if (kind < 85) {
        return GIB + ((uint64_t)rng_below(rng, 1024) << 21);
    }
    return 8 * GIB + ((uint64_t)rng_below(rng, 10) << 21);
}

/* One of the four registers' worth: P, PWT, PCD and ignored bits; rarely a reserved one. */
static inline uint64_t world_pdpte(const struct world *world, uint64_t *rng)
{
    uint64_t entry = world_pick(world, rng, 2) | rng_percent(rng, 90);

    entry |= rng_next(rng) & 0xe18;
    return entry | (rng_percent(rng, 2) ? (uint64_t)1 << rng_below(rng, 63) : 0);
}

/* An entry for a table meant for @level; 8 bytes if @wide. */
static inline uint64_t world_entry(const struct world *world, uint64_t *rng,
                                   unsigned level, bool wide)
{
    bool leaf = level == 1, large = (level == 2 || level == 3) && rng_percent(rng, 15);
    uint64_t entry, bits = rng_next(rng);

    if (level == 6 && wide) {
        return world_pdpte(world, rng);
    }
    if (large) {
        entry = world_large_page(rng) | 0x80;
        if (level == 3 && rng_percent(rng, 90)) {
            entry = (entry & ~0x3fffffffull) | 0x80;
        }
    } else if (leaf || rng_percent(rng, 4)) {
        entry = world_page(world, rng);
    } else {
        entry = world_pick(world, rng, level == 6 ? 2 : level - 1);
    }
    leaf |= large;
    entry |= rng_percent(rng, leaf ? 92 : 97);
    entry |= rng_percent(rng, leaf ? 80 : 96) ? 2 : 0;
    entry |= rng_percent(rng, leaf ? 75 : 96) ? 4 : 0;
    entry |= bits & 0x60;
    entry |= rng_percent(rng, 20) ? bits & 0xe18 : 0; /* PWT, PCD, ignored bits */
    entry |= leaf && rng_percent(rng, 30) ? 0x100 : 0;
    if (rng_percent(rng, 1)) {
        entry |= (uint64_t)1 << (7 + rng_below(rng, 17));
    }
    if (!wide) {
        return (uint32_t)entry;
    }
    entry |= rng_percent(rng, leaf ? 20 : 3) ? (uint64_t)1 << 63 : 0;
    entry |= leaf && rng_percent(rng, 30) ? bits & ((uint64_t)15 << 59) : 0;
    if (rng_percent(rng, 1)) {
        entry |= (uint64_t)1 << (32 + rng_below(rng, 31));
    }
    return entry;
}

/* Random contents for every table. */
static inline void world_fill(struct world *world, uint64_t *rng, unsigned narrow_percent)
{
    world_clear(world);
    for (unsigned i = 0; i < WORLD_TABLES; i++) {
        unsigned size = rng_percent(rng, narrow_percent) ? 4 : 8;

        for (unsigned n = 0; n < 4 + WORLD_INDEXES; n++) {
            unsigned index = n < 4 ? n : world_index_nth(n - 4, 4096 / size);
            uint64_t entry = world_entry(world, rng, world_level[i], size == 8);

            memcpy((uint8_t *)world->host[i] + index * size, &entry, size);
            memcpy((uint8_t *)world->model[i] + index * size, &entry, size);
        }
    }
}

/* ---- Registers -------------------------------------------------------------------------- */

static inline struct mmu_cpu world_cpu(uint64_t *rng)
{
    static const uint8_t widths[] = { 36, 39, 40, 46, 52 };

    return (struct mmu_cpu){
        .maxphyaddr = widths[rng_below(rng, ARRAY_SIZE(widths))],
        .gbpages = rng_percent(rng, 75),
        .pse36 = rng_percent(rng, 75),
        .amd = rng_percent(rng, 50),
    };
}

static inline uint32_t world_pkru(uint64_t *rng)
{
    return rng_percent(rng, 50) ? (uint32_t)(rng_next(rng) & rng_next(rng)) : 0;
}

enum world_format {
    WORLD_NONE,
    WORLD_LEGACY,
    WORLD_PAE,
    WORLD_LONG4,
    WORLD_LONG5,
    WORLD_FORMATS
};

static inline enum world_format world_format(uint64_t *rng)
{
    static const uint8_t odds[] = { 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4 };

    return (enum world_format)odds[rng_below(rng, ARRAY_SIZE(odds))];
}

static inline unsigned world_root_level(enum world_format format)
{
    static const uint8_t level[] = { 4, 2, 6, 4, 5 };

    return level[format];
}

/* A random value for CR3; PCIDs 0 to 2 if @pcids. */
static inline uint64_t world_cr3(const struct world *world, enum world_format format,
                                 uint64_t *rng, bool pcids)
{
    uint64_t cr3 = world_pick(world, rng, world_root_level(format));

    if (rng_percent(rng, 4)) {
        cr3 = world->table[rng_below(rng, WORLD_TABLES)];
    }
    if (format == WORLD_PAE && rng_percent(rng, 10)) {
        cr3 |= rng_next(rng) & 0xe0;
    }
    return cr3 | (pcids ? rng_below(rng, 3) : 0);
}

/* Any set of protections; CR3 is one of the table frames. */
static inline struct mmu_mode world_mode(const struct world *world,
                                         const struct mmu_cpu *cpu,
                                         enum world_format format, uint64_t *rng)
{
    struct mmu_mode mode = { .cpu = *cpu };
    uint64_t bits = rng_next(rng);

    mode.cr0 = CR0_PE | (format != WORLD_NONE ? CR0_PG : 0) | ((bits & 1) ? CR0_WP : 0);
    mode.cr4 = bits & (CR4_SMEP | CR4_PGE | CR4_PSE);
    mode.cr4 |= rng_percent(rng, 35) ? CR4_SMAP : 0;
    mode.cr4 |= rng_percent(rng, 35) ? CR4_PKE : 0;
    mode.efer = rng_percent(rng, 75) ? EFER_NXE : 0;
    if (format >= WORLD_PAE) {
        mode.cr4 |= CR4_PAE;
    }
    if (format >= WORLD_LONG4) {
        mode.cr4 |= format == WORLD_LONG5 ? CR4_LA57 : 0;
        mode.cr4 |= rng_percent(rng, 50) ? CR4_PCIDE : 0;
        mode.efer |= EFER_LME | EFER_LMA;
    }
    mode.cr3 = world_cr3(world, format, rng, mode.cr4 & CR4_PCIDE);
    mode.pkru = world_pkru(rng);
    mmu_mode_update(&mode);
    return mode;
}

/* The oracle's view of the same registers, taken apart by the manual's bit numbers. */
static inline struct oracle_cpu world_oracle(const struct world *world,
                                             const struct mmu_mode *mode)
{
    struct oracle_cpu cpu = {
        .pg = oracle_bit(mode->cr0, 31),
        .wp = oracle_bit(mode->cr0, 16),
        .pse = oracle_bit(mode->cr4, 4),
        .pae = oracle_bit(mode->cr4, 5),
        .pge = oracle_bit(mode->cr4, 7),
        .la57 = oracle_bit(mode->cr4, 12),
        .smep = oracle_bit(mode->cr4, 20),
        .smap = oracle_bit(mode->cr4, 21),
        .pke = oracle_bit(mode->cr4, 22),
        .lme = oracle_bit(mode->efer, 8),
        .nxe = oracle_bit(mode->efer, 11),
        .amd = mode->cpu.amd,
        .gbpages = mode->cpu.gbpages,
        .pse36 = mode->cpu.pse36,
        .maxphyaddr = mode->cpu.maxphyaddr,
        .cr3 = mode->cr3,
        .pkru = mode->pkru,
        .memory = world_memory,
    };
    union {
        const struct world *in;
        void *out;
    } context = { world };

    cpu.context = context.out;
    memcpy(cpu.pdpte, mode->pdpte, sizeof(cpu.pdpte));
    return cpu;
}

/* ---- Accesses ----------------------------------------------------------------------------- */

/* An address made of the indexes that world_index() picks; rarely not canonical. */
static inline uint64_t world_gva(uint64_t *rng, enum world_format format)
{
    unsigned levels = format == WORLD_LONG5 ? 5 : 4, unused = 64 - 12 - 9 * levels;
    uint64_t gva = 0;

    if (format == WORLD_LEGACY) {
        gva = (uint64_t)world_index(rng, 1024) << 22 | (uint64_t)world_index(rng, 1024)
                                                           << 12;
    } else if (format < WORLD_LONG4) {
        gva = (uint64_t)rng_below(rng, 4) << 30 | (uint64_t)world_index(rng, 512) << 21 |
              (uint64_t)world_index(rng, 512) << 12;
    } else {
        for (unsigned level = 0; level < levels; level++) {
            gva |= (uint64_t)world_index(rng, 512) << (12 + 9 * level);
        }
        gva = (uint64_t)((int64_t)(gva << unused) >> unused);
        gva ^= rng_percent(rng, 2) ? (uint64_t)1 << (63 - rng_below(rng, 17)) : 0;
    }
    return gva | (rng_next(rng) & 0xff8);
}

static inline uint32_t world_access(uint64_t *rng)
{
    static const uint32_t kinds[] = { 0, MMU_WRITE, MMU_FETCH };
    uint32_t access = kinds[rng_below(rng, 3)];

    access |= rng_percent(rng, 50) ? MMU_USER : 0;
    access |= rng_percent(rng, 30) ? MMU_AC : 0;
    access |= rng_percent(rng, 10) ? MMU_IMPLICIT : 0;
    return access;
}

static inline struct oracle_access world_oracle_access(uint32_t access)
{
    return (struct oracle_access){
        .kind = (access & MMU_WRITE)   ? ORACLE_WRITE
                : (access & MMU_FETCH) ? ORACLE_FETCH
                                       : ORACLE_READ,
        .user = access & MMU_USER,
        .ac = access & MMU_AC,
        .implicit = access & MMU_IMPLICIT,
    };
}

#endif
