/* SPDX-License-Identifier: MIT */
/* Nested tables and the two-dimensional walk: counts, permissions, faults, and the oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

#include "mmu_world.h"
#include "shadowpt-sim/nested/nested.h"

static struct world world;

static int setup(void **state)
{
    return world_init(&world);
}

static int teardown(void **state)
{
    world_destroy(&world);
    return 0;
}

static struct nested_config make_config(enum nested_kind kind, unsigned levels,
                                        unsigned max)
{
    return (struct nested_config){ .kind = kind,
                                   .levels = (uint8_t)levels,
                                   .max_level = (uint8_t)max,
                                   .maxphyaddr = 46,
                                   .ad = true,
                                   .pool_pages = 8192,
                                   .pool_hpa = 0x9000000000 };
}

/* ---- n * m + n + m --------------------------------------------------------------------------- */

/* Guest tables for GVA 0 with a leaf at @leaf that maps GPA 1 GiB; tables are in the 1 GiB
 * region too, whose nested leaves are as large as the table's max_level. */
static struct mmu_mode one_page_guest(unsigned levels, unsigned leaf)
{
    struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG | CR0_WP,
                             .cr4 = CR4_PAE | (levels == 5 ? CR4_LA57 : 0),
                             .efer = EFER_LME | EFER_NXE,
                             .cpu = MMU_CPU_DEFAULT };
    uint64_t base = GIB + 0x10000;

    for (unsigned level = levels; level >= leaf; level--) {
        uint64_t *table = sim_ram_host(&world.ram, base + level * 4096, 4096);

        table[0] = level == leaf ? 2 * GIB | 7 | (leaf > 1 ? PTE_PS : 0)
                                 : (base + (level - 1) * 4096) | 7;
    }
    mode.cr3 = base + levels * 4096;
    mmu_mode_update(&mode);
    return mode;
}

static void test_reference_counts(void **state)
{
    static const struct {
        unsigned guest_levels, guest_leaf, nested_levels, nested_leaf, references;
    } rows[] = {
        { 4, 1, 4, 1, 24 }, { 5, 1, 5, 1, 35 }, { 5, 1, 4, 1, 29 }, { 4, 1, 5, 1, 29 },
        { 4, 1, 4, 2, 19 }, { 4, 2, 4, 1, 19 }, { 4, 2, 4, 2, 15 }, { 4, 3, 4, 3, 8 },
        { 4, 1, 4, 3, 14 }, { 4, 3, 4, 1, 14 }, { 4, 2, 4, 3, 11 }, { 5, 2, 5, 2, 24 },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        for (unsigned kind = NESTED_EPT; kind <= NESTED_NPT; kind++) {
            struct nested_config config = make_config(
                (enum nested_kind)kind, rows[i].nested_levels, rows[i].nested_leaf);
            struct mmu_mode mode =
                one_page_guest(rows[i].guest_levels, rows[i].guest_leaf);
            struct mmu_trace trace;
            struct nested_walk walk = { .trace = &trace };
            struct nested_table table;
            enum mmu_outcome outcome;
            unsigned fills = 0, guest = 0;

            assert_int_equal(
                nested_init(&table, &config, &world.slots, &world.ram.memory), 0);
            while ((outcome = nested_translate(&table, &mode, 0x123, MMU_WRITE, &walk)) ==
                   MMU_NESTED_FAULT) {
                assert_int_equal(walk.fault.outcome, NESTED_VIOLATION);
                assert_int_equal(nested_fill(&table, walk.fault.gpa, NESTED_READ), 0);
                assert_true(++fills < 8);
            }
            assert_int_equal(outcome, MMU_OK);
            assert_int_equal(trace.count, rows[i].references);
            for (unsigned n = 0; n < trace.count; n++) {
                guest += trace.ref[n].dimension == MMU_REF_GUEST;
                assert_true(trace.ref[n].value & 1);
            }
            assert_int_equal(guest, rows[i].guest_levels - rows[i].guest_leaf + 1);
            assert_int_equal(walk.guest.gpa, 2 * GIB + 0x123);
            assert_int_equal(walk.hpa, 0x1000000000 + GIB + 0x123);
            assert_int_equal(walk.to.shift,
                             12 + 9 * ((rows[i].guest_leaf < rows[i].nested_leaf
                                            ? rows[i].guest_leaf
                                            : rows[i].nested_leaf) -
                                       1));
            assert_true(walk.to.dirty);
            nested_destroy(&table);
        }
    }
}

/* ---- Faults ------------------------------------------------------------------------------------ */

static void test_ept_violations(void **state)
{
    struct nested_config config = make_config(NESTED_EPT, 4, 3);
    struct nested_table table;
    struct nested_fault fault;
    struct nested_leaf leaf;

    assert_int_equal(nested_init(&table, &config, &world.slots, &world.ram.memory), 0);
    /* Nothing mapped: no permission bits; a read of the page itself. */
    assert_int_equal(nested_walk(&table, 0x1234, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, 0x181);
    assert_int_equal(fault.gpa, 0x1234);
    /* A guest table read counts as read and write when A/D flags are on. */
    assert_int_equal(
        nested_walk(&table, 0x1234, NESTED_READ | NESTED_TABLE, &leaf, &fault),
        NESTED_VIOLATION);
    assert_int_equal(fault.info, 0x083);
    assert_int_equal(nested_fill(&table, 0xf0000000, NESTED_READ), 0);
    assert_int_equal(nested_fill(&table, 0xf0000000, NESTED_WRITE), -EACCES);
    assert_int_equal(nested_fill(&table, 0xc0000000, NESTED_READ), -ENOENT);
    assert_int_equal(nested_walk(&table, 0xf0000000, NESTED_WRITE, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, 0x182 | 5 << 3);
    assert_int_equal(nested_walk(&table, 0xf0000000, NESTED_FETCH, &leaf, &fault),
                     NESTED_OK);
    assert_int_equal(nested_walk(&table, (uint64_t)1 << 48, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    nested_destroy(&table);
}

static void test_ept_misconfigurations(void **state)
{
    static const struct {
        unsigned level;
        uint64_t set, clear;
        bool broken;
    } rows[] = {
        { 1, 0, EPT_R, true },              /* W without R */
        { 1, 0, EPT_R | EPT_W, true },      /* X alone, not supported here */
        { 1, 0, EPT_X | EPT_W, false },     /* read-only is fine */
        { 1, (uint64_t)1 << 46, 0, true },  /* beyond MAXPHYADDR */
        { 1, 0, (uint64_t)4 << 3, true },   /* memory type 2 */
        { 1, (uint64_t)1 << 3, 0, true },   /* memory type 7 */
        { 2, (uint64_t)1 << 4, 0, true },   /* bits 6:3 of a pointer */
        { 4, EPT_PS, 0, true },             /* no page at level 4 */
        { 3, (uint64_t)1 << 11, 0, false }, /* ignored */
        { 1, (uint64_t)1 << 63 | 1 << 11, 0, false },
    };
    struct nested_config config = make_config(NESTED_EPT, 4, 1);
    struct nested_table table;
    struct nested_fault fault;
    struct nested_leaf leaf;

    assert_int_equal(nested_init(&table, &config, &world.slots, &world.ram.memory), 0);
    assert_int_equal(nested_fill(&table, 0x5000, NESTED_READ), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        uint64_t *entry = nested_entry(&table, 0x5000, rows[i].level), before = *entry;

        *entry = (before | rows[i].set) & ~rows[i].clear;
        assert_int_equal(nested_walk(&table, 0x5000, NESTED_READ, &leaf, &fault),
                         rows[i].broken ? NESTED_MISCONFIG : NESTED_OK);
        if (rows[i].broken) {
            assert_int_equal(fault.level, rows[i].level);
        }
        *entry = before;
    }
    nested_destroy(&table);
    config.execute_only = true;
    assert_int_equal(nested_init(&table, &config, &world.slots, &world.ram.memory), 0);
    assert_int_equal(nested_fill(&table, 0x5000, NESTED_READ), 0);
    assert_int_equal(nested_protect(&table, 0x5000, 4096, NESTED_FETCH), 0);
    assert_int_equal(nested_walk(&table, 0x5000, NESTED_FETCH, &leaf, &fault), NESTED_OK);
    assert_int_equal(nested_walk(&table, 0x5000, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, 0x181 | 4 << 3);
    nested_destroy(&table);
}

static void test_npt_faults(void **state)
{
    struct nested_config config = make_config(NESTED_NPT, 4, 1);
    uint64_t final = (uint64_t)1 << 32, tables = (uint64_t)1 << 33, *entry;
    struct nested_table table;
    struct nested_fault fault;
    struct nested_leaf leaf;

    assert_int_equal(nested_init(&table, &config, &world.slots, &world.ram.memory), 0);
    assert_int_equal(nested_walk(&table, 0x5000, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, final | PF_U);
    assert_int_equal(
        nested_walk(&table, 0x5000, NESTED_READ | NESTED_TABLE, &leaf, &fault),
        NESTED_VIOLATION);
    assert_int_equal(fault.info, tables | PF_U | PF_W);
    assert_int_equal(nested_fill(&table, 0x5000, NESTED_READ), 0);
    entry = nested_entry(&table, 0x5000, 1);
    *entry |= PTE_NX;
    assert_int_equal(nested_walk(&table, 0x5000, NESTED_FETCH, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, final | PF_U | PF_P | PF_ID);
    *entry |= (uint64_t)1 << 50;
    assert_int_equal(nested_walk(&table, 0x5000, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, final | PF_U | PF_P | PF_RSVD);
    *entry &= ~((uint64_t)1 << 50 | PTE_U); /* nested accesses are user accesses */
    assert_int_equal(nested_walk(&table, 0x5000, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, final | PF_U | PF_P);
    nested_destroy(&table);
}

/* ---- Accessed and dirty, ranges ------------------------------------------------------------------ */

static void test_marks_and_ranges(void **state)
{
    struct nested_config config = make_config(NESTED_EPT, 4, 3);
    struct nested_table table;
    struct nested_fault fault;
    struct nested_leaf leaf;
    uint32_t before;

    assert_int_equal(nested_init(&table, &config, &world.slots, &world.ram.memory), 0);
    before = table.pool.in_use;
    assert_int_equal(nested_fill(&table, GIB + 5, NESTED_READ), 0);
    assert_int_equal(nested_walk(&table, GIB, NESTED_READ, &leaf, &fault), NESTED_OK);
    assert_int_equal(leaf.shift, 30);
    assert_true(*nested_entry(&table, GIB, 3) & EPT_A);
    assert_true(*nested_entry(&table, GIB, 4) & EPT_A);
    assert_false(*nested_entry(&table, GIB, 3) & EPT_D);
    assert_int_equal(nested_walk(&table, GIB + 4096, NESTED_WRITE, &leaf, &fault),
                     NESTED_OK);
    assert_true(nested_clear_dirty(&table, GIB));
    assert_false(nested_clear_dirty(&table, GIB));
    /* Protecting one page splits the 1 GiB leaf down to it, and only it changes. */
    assert_int_equal(nested_protect(&table, GIB + 8 * MIB, 4096, NESTED_READ), 0);
    assert_int_equal(nested_walk(&table, GIB + 8 * MIB, NESTED_WRITE, &leaf, &fault),
                     NESTED_VIOLATION);
    assert_int_equal(fault.info, 0x182 | 1 << 3);
    assert_int_equal(
        nested_walk(&table, GIB + 8 * MIB + 4096, NESTED_WRITE, &leaf, &fault),
        NESTED_OK);
    assert_int_equal(leaf.shift, 12);
    assert_int_equal(leaf.page, 0x1000000000 + 8 * MIB + 4096);
    assert_int_equal(nested_walk(&table, GIB + 4 * MIB, NESTED_WRITE, &leaf, &fault),
                     NESTED_OK);
    assert_int_equal(leaf.shift, 21);
    /* A fill gives the slot's rights back; unmapping gives the tables back. */
    assert_int_equal(nested_fill(&table, GIB + 8 * MIB, NESTED_WRITE), 0);
    assert_int_equal(nested_walk(&table, GIB + 8 * MIB, NESTED_WRITE, &leaf, &fault),
                     NESTED_OK);
    assert_int_equal(nested_unmap(&table, GIB, 2 * GIB), 0);
    assert_int_equal(table.pool.in_use, before);
    assert_int_equal(nested_walk(&table, GIB, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    /* Every slot at once, each page to its own place. */
    assert_int_equal(nested_fill_all(&table), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(world_slots); i++) {
        for (uint64_t at = 0; at < world_slots[i].size; at += 64 * KIB) {
            uint64_t gpa = world_slots[i].gpa + at;

            assert_int_equal(nested_walk(&table, gpa, NESTED_READ, &leaf, &fault),
                             NESTED_OK);
            assert_int_equal(leaf.page + (gpa & (((uint64_t)1 << leaf.shift) - 1)),
                             world_slots[i].hpa + at);
        }
    }
    assert_int_equal(nested_walk(&table, 8 * MIB, NESTED_READ, &leaf, &fault),
                     NESTED_VIOLATION);
    nested_destroy(&table);
}

/* ---- The oracle ------------------------------------------------------------------------------------ */

/* One access by the two-dimensional walk, filling as a hypervisor does. NULL, or what is wrong
 * with the result. */
static const char *check_access(struct nested_table *table, const struct mmu_mode *mode,
                                uint64_t gva, uint32_t access)
{
    static const uint8_t ends[] = {
        [ORACLE_OK] = MMU_OK, [ORACLE_PF] = MMU_FAULT, [ORACLE_GP] = MMU_NONCANONICAL
    };
    struct oracle_cpu cpu = world_oracle(&world, mode);
    struct oracle_access how = world_oracle_access(access);
    struct oracle_result want = oracle_walk(&cpu, &how, gva);
    struct nested_walk walk = { .trace = NULL };
    const struct mmu_slot *slot;
    enum mmu_outcome got;
    int err;

    for (unsigned fills = 0;; fills++) {
        got = nested_translate(table, mode, gva, access, &walk);
        if (got != MMU_NESTED_FAULT) {
            break;
        }
        /* Bit 1 says `write` in both formats. */
        err = nested_fill(table, walk.fault.gpa,
                          (walk.fault.info & 2) ? NESTED_WRITE : NESTED_READ);
        if (fills > 12) {
            return "endless faults";
        }
        if (err == -ENOENT && want.end == ORACLE_NO_MEMORY) {
            return walk.fault.gpa == cpu.cr3 || want.count < 5 ? NULL : "table elsewhere";
        }
        if (err != 0) { /* MMIO, at the page or at a guest table in ROM */
            slot = mmu_slots_find(&world.slots, walk.fault.gpa);
            return slot == NULL || slot->readonly ? NULL : "no fill for memory";
        }
    }
    if (got != ends[want.end] ||
        (got == MMU_FAULT && walk.guest.error_code != want.error)) {
        return "outcome";
    }
    if (got != MMU_OK) {
        return NULL;
    }
    slot = mmu_slots_find(&world.slots, want.gpa);
    if (slot == NULL || walk.hpa != mmu_slot_hpa(slot, want.gpa)) {
        return "HPA";
    }
    if (!mmu_translation_allows(mode, &walk.to, access) ||
        walk.to.page != align_down(walk.hpa, (uint64_t)1 << walk.to.shift)) {
        return "translation";
    }
    for (unsigned i = 0; i < want.count; i++) {
        uint64_t now = 0;

        memcpy(&now, world_memory(&world, want.where[i]),
               mode->format == MMU_FORMAT_LEGACY ? 4 : 8);
        if (now != want.becomes[i]) {
            return "accessed or dirty bit";
        }
    }
    return NULL;
}

static void test_random(void **state)
{
    uint64_t steps = world_steps(2000000), seed = world_seed(77), done = 0;

    print_message("%" PRIu64 " steps from UMBRA_MMU_SEED=%" PRIu64 "\n", steps, seed);
    for (; done < steps; seed++) {
        uint64_t rng = seed;
        struct nested_config config =
            make_config((enum nested_kind)rng_below(&rng, 2), 4 + rng_below(&rng, 2),
                        1 + rng_below(&rng, 3));
        enum world_format format = world_format(&rng);
        struct mmu_cpu cpu = world_cpu(&rng);
        struct mmu_mode mode = world_mode(&world, &cpu, format, &rng);
        struct nested_table table;

        config.ad = rng_percent(&rng, 50);
        assert_int_equal(nested_init(&table, &config, &world.slots, &world.ram.memory),
                         0);
        world_fill(&world, &rng, format == WORLD_LEGACY ? 95 : 5);
        for (unsigned i = 0; i < 4; i++) {
            mode.pdpte[i] = world_pdpte(&world, &rng);
        }
        for (unsigned n = 0; n < 2000; n++, done++) {
            uint64_t gva = world_gva(&rng, format);
            uint32_t access = world_access(&rng);
            const char *what = check_access(&table, &mode, gva, access);

            if (what != NULL) {
                fail_msg("%s differs: UMBRA_MMU_SEED=%" PRIu64 " step %u GVA %#" PRIx64
                         " access %#x",
                         what, seed, n, gva, access);
            }
            if (rng_percent(&rng, 2)) {
                uint64_t gpa = align_down(world_page(&world, &rng), 4096);

                nested_protect(&table, gpa, 4096, rng_below(&rng, 8));
            }
            if (rng_percent(&rng, 1)) {
                nested_unmap(&table, world.table[rng_below(&rng, WORLD_TABLES)], 2 * MIB);
            }
        }
        nested_destroy(&table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_counts),
        cmocka_unit_test(test_ept_violations),
        cmocka_unit_test(test_ept_misconfigurations),
        cmocka_unit_test(test_npt_faults),
        cmocka_unit_test(test_marks_and_ranges),
        cmocka_unit_test(test_random),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
