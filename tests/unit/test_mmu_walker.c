/* SPDX-License-Identifier: MIT */
/* The guest page walker against the oracle: random tables, and every combination of flags. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

#include "mmu_world.h"
#include "shadowpt-sim/walker.h"

/* ---- Comparing one access ----------------------------------------------------------------- */

static int outcome_of(enum oracle_end end)
{
    switch (end) {
    case ORACLE_OK:
        return MMU_OK;
    case ORACLE_PF:
        return MMU_FAULT;
    case ORACLE_GP:
        return MMU_NONCANONICAL;
    default:
        return MMU_UNBACKED;
    }
}

static const char *leaf_differs(const struct mmu_walk *walk,
                                const struct oracle_result *want)
{
    const struct mmu_translation *to = &walk->to;
    uint8_t perms =
        (uint8_t)((want->writable ? MMU_PERM_W : 0) | (want->user ? MMU_PERM_U : 0) |
                  (want->executable ? MMU_PERM_X : 0));

    if (walk->gpa != want->gpa) {
        return "GPA";
    }
    if (to->shift != want->shift || to->page != want->gpa >> want->shift << want->shift) {
        return "page";
    }
    if (to->cache != want->cache) {
        return "memory type";
    }
    if (to->perms != perms || to->global != want->global || to->pkey != want->key) {
        return "permissions";
    }
    return NULL;
}

/* NULL, or what the walk and the oracle disagree on. Applies A/D to the model. */
static const char *compare(struct world *world, const struct mmu_mode *mode, uint64_t gva,
                           uint32_t access)
{
    struct oracle_cpu cpu = world_oracle(world, mode);
    struct oracle_access how = world_oracle_access(access);
    struct oracle_result want = oracle_walk(&cpu, &how, gva);
    enum mmu_outcome got;
    struct mmu_walk walk;

    got = mmu_walk(mode, &world->ram.memory, gva, access, &walk);
    if ((int)got != outcome_of(want.end) || walk.outcome != got) {
        return "outcome";
    }
    if (got == MMU_FAULT && walk.error_code != want.error) {
        return "error code";
    }
    if (got == MMU_OK && leaf_differs(&walk, &want) != NULL) {
        return leaf_differs(&walk, &want);
    }
    for (unsigned i = 0; i < want.count; i++) {
        unsigned size = mode->format == MMU_FORMAT_LEGACY ? 4 : 8;
        uint64_t now = 0, becomes = want.becomes[i];

        if (access & MMU_PROBE) {
            becomes = want.was[i];
        }
        memcpy(&now, world_memory(world, want.where[i]), size);
        if (now != becomes && world_memory(world, want.where[i]) != NULL &&
            want.where[i] < 0xf0000000u) { /* ROM keeps its bits */
            return "accessed or dirty bit";
        }
        if (want.where[i] < 0xf0000000u) {
            world_model(world, want.where[i], size, becomes);
        }
    }
    return NULL;
}

/* ---- Random tables ------------------------------------------------------------------------- */

static void test_random_tables(void **state)
{
    uint64_t steps = world_steps(12000000), seed = world_seed(20260101), done = 0;
    static struct world world;

    assert_int_equal(world_init(&world), 0);
    print_message("%" PRIu64 " steps from UMBRA_MMU_SEED=%" PRIu64 "\n", steps, seed);
    for (uint64_t round = 0; done < steps; round++) {
        uint64_t rng = seed + round;
        struct mmu_cpu cpu = world_cpu(&rng);
        enum world_format format = world_format(&rng);
        struct mmu_mode mode = world_mode(&world, &cpu, format, &rng);

        world_fill(&world, &rng, format == WORLD_LEGACY ? 95 : 5);
        for (unsigned i = 0; i < 4; i++) {
            mode.pdpte[i] = world_pdpte(&world, &rng);
        }
        for (unsigned n = 0; n < 2000; n++, done++) {
            uint64_t gva = world_gva(&rng, format);
            uint32_t access =
                world_access(&rng) | (rng_percent(&rng, 10) ? MMU_PROBE : 0);
            const char *what = compare(&world, &mode, gva, access);

            if (what == NULL && n % 500 == 0 && !world_as_modelled(&world)) {
                what = "other memory";
            }
            if (what != NULL) {
                fail_msg("%s differs: UMBRA_MMU_SEED=%" PRIu64 " step %u GVA %#" PRIx64
                         " access %#x format %u cr0 %#" PRIx64 " cr4 %#" PRIx64,
                         what, seed + round, n, gva, access, mode.format, mode.cr0,
                         mode.cr4);
            }
        }
    }
    world_destroy(&world);
}

/* ---- Every combination of flags for a one-page mapping --------------------------------------- */

/* The tables of one mapping: table i is the one of level i + 1. */
struct one_page {
    struct world world;
    uint64_t gva;
    unsigned levels; /* in memory */
    unsigned size;   /* of an entry */
    uint64_t checked;
};

static void one_page_store(struct one_page *page, unsigned level, uint64_t entry)
{
    unsigned bits = page->size == 4 ? 10 : 9;
    unsigned index = (page->gva >> (12 + bits * (level - 1))) & ((1u << bits) - 1);

    memcpy((uint8_t *)page->world.host[level - 1] + index * page->size, &entry,
           page->size);
}

/* Flags 0..127 of the leaf: P W U A D NX reserved. */
static uint64_t leaf_entry(const struct one_page *page, unsigned flags, unsigned level)
{
    uint64_t entry = level == 1 ? 0x3000 : GIB;

    entry |= (flags & 1) | ((flags & 2) ? 2 : 0) | ((flags & 4) ? 4 : 0);
    entry |= ((flags & 8) ? 0x20 : 0) | ((flags & 16) ? 0x40 : 0);
    entry |= level > 1 ? 0x80 : 0;
    if (page->size == 8) {
        entry |= (uint64_t)5 << 59; /* key 5; ignored bits without PKE, reserved in PAE */
        entry |= (flags & 32) ? (uint64_t)1 << 63 : 0;
        entry |= (flags & 64) ? (uint64_t)1 << 50 : 0;
    } else if (level == 2) {
        entry |= (flags & 64) ? (uint64_t)1 << 21 : 0;
    }
    return entry;
}

/* All accesses against the tables as they are. */
static void one_page_accesses(struct one_page *page, const struct mmu_mode *mode,
                              unsigned leaf, unsigned leaf_flags, unsigned upper_flags)
{
    static const uint32_t kinds[] = { 0, MMU_WRITE, MMU_FETCH };
    uint64_t entry = leaf_entry(page, leaf_flags, leaf);

    if (mode->format == MMU_FORMAT_PAE) {
        entry &= ~((uint64_t)15 << 59);
    }
    for (unsigned how = 0; how < 24; how++) {
        uint32_t access = kinds[how % 3] | ((how / 3 & 1) ? MMU_USER : 0) |
                          ((how / 3 & 2) ? MMU_AC : 0) |
                          ((how / 3 & 4) ? MMU_IMPLICIT : 0);
        const char *what;

        one_page_store(page, leaf, entry); /* A and D as asked, again */
        for (unsigned level = leaf + 1; level <= page->levels; level++) {
            uint64_t upper = page->world.table[level - 2] | 1 |
                             ((upper_flags & 1) ? 2 : 0) | ((upper_flags & 2) ? 4 : 0);

            if (level != page->levels) { /* the flags in question: below the top */
                upper |= 6;
            }
            if (page->size == 8 && (upper_flags & 4) && level == page->levels) {
                upper |= (uint64_t)1 << 63;
            }
            one_page_store(page, level, upper);
        }
        what = compare(&page->world, mode, page->gva | 0x123, access);
        if (what != NULL) {
            fail_msg("%s differs: format %u leaf level %u flags %#x upper %#x access %#x "
                     "cr0 %#" PRIx64 " cr4 %#" PRIx64 " efer %#" PRIx64 " pkru %#x",
                     what, mode->format, leaf, leaf_flags, upper_flags, access, mode->cr0,
                     mode->cr4, mode->efer, mode->pkru);
        }
        page->checked++;
    }
}

/* Registers 0..31: WP SMEP SMAP NXE, and one more (PSE in the legacy format). */
static void one_page_registers(struct mmu_mode *mode, unsigned flags)
{
    mode->cr0 = CR0_PE | CR0_PG | ((flags & 1) ? CR0_WP : 0);
    mode->cr4 &= ~(CR4_SMEP | CR4_SMAP);
    mode->cr4 |= ((flags & 2) ? CR4_SMEP : 0) | ((flags & 4) ? CR4_SMAP : 0);
    mode->efer = (mode->efer & ~EFER_NXE) | ((flags & 8) ? EFER_NXE : 0);
}

/* Key states 0..4: no PKE, then PKRU nothing, AD, WD, both for key 5. */
static void one_page_keys(struct mmu_mode *mode, unsigned keys)
{
    mode->cr4 &= ~CR4_PKE;
    mode->cr4 |= keys > 0 ? CR4_PKE : 0;
    mode->pkru = keys > 1 ? (keys - 1) << 10 : 0;
    mmu_mode_update(mode);
}

static uint64_t one_page_all(struct mmu_mode *mode, unsigned levels, unsigned leaf_max)
{
    static struct one_page page;
    unsigned keys = (mode->efer & EFER_LME) ? 5 : 1;

    page = (struct one_page){ .gva = 0xffffc040, .levels = levels, .size = 8 };
    if (mode->efer & EFER_LME) {
        page.gva = 0x123456789000;
    } else if (!(mode->cr4 & CR4_PAE)) {
        page.size = 4;
    }
    page.gva &= ~0xfffull;
    assert_int_equal(world_init(&page.world), 0);
    mode->cr3 = page.world.table[levels - 1];
    for (unsigned i = 0; i < 4; i++) {
        mode->pdpte[i] = page.world.table[1] | 1;
    }
    for (unsigned leaf = 1; leaf <= leaf_max; leaf++) {
        for (unsigned registers = 0; registers < 16; registers++) {
            for (unsigned key = 0; key < keys; key++) {
                one_page_registers(mode, registers);
                one_page_keys(mode, key);
                for (unsigned flags = 0; flags < 128 * 8; flags++) {
                    one_page_accesses(&page, mode, leaf, flags % 128, flags / 128);
                }
            }
        }
    }
    world_destroy(&page.world);
    return page.checked;
}

static void test_all_flags(void **state)
{
    const struct mmu_cpu cpu = { 46, true, true, false };
    struct mmu_mode mode = { .cpu = cpu, .cr4 = CR4_PAE, .efer = EFER_LME };
    uint64_t checked = one_page_all(&mode, 4, 3);

    mode = (struct mmu_mode){ .cpu = cpu, .cr4 = CR4_PAE };
    checked += one_page_all(&mode, 2, 2);
    for (unsigned pse = 0; pse < 2; pse++) {
        mode = (struct mmu_mode){ .cpu = cpu, .cr4 = pse ? CR4_PSE : 0 };
        checked += one_page_all(&mode, 2, 2);
    }
    print_message("%" PRIu64 " combinations\n", checked);
    assert_true(checked > 7000000);
}

/* ---- Known answers ----------------------------------------------------------------------------- */

static void test_canonical(void **state)
{
    struct mmu_mode mode = {
        .cr0 = CR0_PE | CR0_PG, .cr4 = CR4_PAE, .efer = EFER_LME, .cpu = MMU_CPU_DEFAULT
    };
    struct mmu_walk walk;
    struct sim_ram ram;

    sim_ram_init(&ram);
    assert_int_equal(sim_ram_add(&ram, 0, MIB, false), 0);
    mmu_mode_update(&mode);
    assert_int_equal(mmu_walk(&mode, &ram.memory, 0x800000000000, 0, &walk),
                     MMU_NONCANONICAL);
    assert_int_equal(mmu_walk(&mode, &ram.memory, 0x7fffffffffff, 0, &walk), MMU_FAULT);
    assert_int_equal(walk.error_code, 0);
    assert_int_equal(mmu_walk(&mode, &ram.memory, 0xffff7fffffffffff, 0, &walk),
                     MMU_NONCANONICAL);
    assert_int_equal(
        mmu_walk(&mode, &ram.memory, 0xffff800000000000, MMU_USER | MMU_WRITE, &walk),
        MMU_FAULT);
    assert_int_equal(walk.error_code, PF_W | PF_U);
    mode.cr4 |= CR4_LA57;
    mmu_mode_update(&mode);
    assert_int_equal(mmu_walk(&mode, &ram.memory, 0x800000000000, 0, &walk), MMU_FAULT);
    assert_int_equal(walk.level, 5);
    mode.cr3 = 2 * MIB; /* a table where no memory is */
    assert_int_equal(mmu_walk(&mode, &ram.memory, 0, 0, &walk), MMU_UNBACKED);
    sim_ram_destroy(&ram);
}

static void test_pdptes(void **state)
{
    struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG,
                             .cr4 = CR4_PAE,
                             .cpu = MMU_CPU_DEFAULT };
    uint64_t *table;
    struct sim_ram ram;

    sim_ram_init(&ram);
    assert_int_equal(sim_ram_add(&ram, 0, MIB, false), 0);
    mmu_mode_update(&mode);
    table = sim_ram_host(&ram, 0x2020, 32);
    table[0] = 0x5001;
    table[1] = 0x1e6; /* absent: reserved bits do not matter */
    assert_int_equal(mmu_load_pdptes(&mode, &ram.memory, 0x2020), 0);
    assert_int_equal(mode.pdpte[0], 0x5001);
    for (unsigned bit = 1; bit < 64; bit++) {
        bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 46;

        table[3] = 1 | (uint64_t)1 << bit;
        assert_int_equal(mmu_load_pdptes(&mode, &ram.memory, 0x2020),
                         reserved ? -EINVAL : 0);
    }
    assert_int_equal(mmu_load_pdptes(&mode, &ram.memory, 2 * MIB), -EFAULT);
    sim_ram_destroy(&ram);
}

/* An entry that changes between the read and the compare-and-swap: the walk starts over. */
struct racing {
    struct mmu_memory memory;
    struct sim_ram *ram;
    unsigned races;
};

static int racing_load(void *context, uint64_t gpa, unsigned size, uint64_t *value)
{
    struct racing *racing = context;

    return mmu_load(&racing->ram->memory, gpa, size, value);
}

static int racing_cmpxchg(void *context, uint64_t gpa, unsigned size, uint64_t expected,
                          uint64_t desired)
{
    struct racing *racing = context;

    if (gpa == 0x4000 &&
        racing->races++ == 0) { /* the guest takes the page away just now */
        *(uint64_t *)sim_ram_host(racing->ram, 0x4000, 8) = 0;
        return -EAGAIN;
    }
    return mmu_cmpxchg(&racing->ram->memory, gpa, size, expected, desired);
}

static void test_race(void **state)
{
    static const struct mmu_memory_ops ops = { .load = racing_load,
                                               .cmpxchg = racing_cmpxchg };
    struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG,
                             .cr4 = CR4_PAE,
                             .efer = EFER_LME,
                             .cr3 = 0x1000,
                             .cpu = MMU_CPU_DEFAULT };
    struct mmu_walk walk;
    struct racing racing = { .memory = { &ops, &racing } };
    struct sim_ram ram;

    sim_ram_init(&ram);
    assert_int_equal(sim_ram_add(&ram, 0, MIB, false), 0);
    racing.ram = &ram;
    for (uint64_t level = 1; level < 4; level++) {
        *(uint64_t *)sim_ram_host(&ram, level << 12, 8) = (level + 1) << 12 | 7;
    }
    *(uint64_t *)sim_ram_host(&ram, 0x4000, 8) = 0x5007;
    mmu_mode_update(&mode);
    assert_int_equal(mmu_walk(&mode, &racing.memory, 0x10, MMU_WRITE, &walk), MMU_FAULT);
    assert_int_equal(walk.error_code, PF_W);
    assert_int_equal(racing.races, 1);
    assert_int_equal(*(uint64_t *)sim_ram_host(&ram, 0x4000, 8), 0);
    sim_ram_destroy(&ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_canonical),     cmocka_unit_test(test_pdptes),
        cmocka_unit_test(test_race),          cmocka_unit_test(test_all_flags),
        cmocka_unit_test(test_random_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
