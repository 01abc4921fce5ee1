/* SPDX-License-Identifier: MIT */
/* The shadow MMU, case by case: what exits there are and why, what is shared, what a flush
 * must reach, and every combination of flags for one page under every policy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>

#include "mmu_world.h"
#include "shadowpt-sim/shadow/internal.h"

/* ---- A guest with one address space ------------------------------------------------------------ */

struct bench {
    struct world world;
    struct shadow_mmu *mmu;
    struct shadow_vcpu *vcpu[2];
    unsigned flushes;
};

static struct bench bench;

/* Where the tables of the hand-made guest are: world.table[] by what they are for. */
enum { ROOT_A, ROOT_B, UPPER, DIRECTORY, LEAVES, LEAVES_B, SPARE };

static uint64_t at(unsigned table)
{
    return bench.world.table[table];
}

static void flushed(void *context)
{
    ((struct bench *)context)->flushes++;
}

static void put(unsigned table, unsigned index, uint64_t entry)
{
    bench.world.host[table][index] = entry;
}

static uint64_t get(unsigned table, unsigned index)
{
    return bench.world.host[table][index];
}

static uint64_t counted(enum shadow_event event)
{
    return shadow_stats(bench.mmu)->count[event];
}

static const struct mmu_cpu cpu = MMU_CPU_DEFAULT;

static struct mmu_mode long_mode(uint64_t cr4, unsigned root)
{
    struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG | CR0_WP,
                             .cr4 = CR4_PAE | cr4,
                             .efer = EFER_LME | EFER_NXE,
                             .cr3 = at(root),
                             .cpu = cpu };

    mmu_mode_update(&mode);
    return mode;
}

static void bench_begin(enum shadow_policy policy, unsigned flood)
{
    struct shadow_config config = { .policy = policy,
                                    .hooks = { &bench, flushed },
                                    .pool_pages = 256,
                                    .pool_hpa = 0x9000000000,
                                    .flood_limit = (uint8_t)flood,
                                    .agile_writes = flood == 255 ? 255 : 2 };

    memset(&bench, 0, sizeof(bench));
    assert_int_equal(world_init(&bench.world), 0);
    config.memory = &bench.world.ram.memory;
    config.slots = &bench.world.slots;
    assert_int_equal(shadow_create(&config, &bench.mmu), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(shadow_vcpu_create(bench.mmu, &cpu, &bench.vcpu[i]), 0);
    }
    put(ROOT_A, 0, at(UPPER) | 7);
    put(ROOT_B, 0, at(UPPER) | 7);
    put(UPPER, 0, at(DIRECTORY) | 7);
    put(DIRECTORY, 0, at(LEAVES) | 7);
    for (unsigned i = 0; i < 16; i++) {
        put(LEAVES, i, (0x100000 + i * 0x1000) | 7);
    }
    put(LEAVES, 16, at(LEAVES) | 3); /* the table itself, at 0x10000 */
    put(LEAVES, 17, at(UPPER) | 3);
}

static void bench_end(void)
{
    struct umbra_error error = { .message = "" };

    if (shadow_audit(bench.mmu, &error) != 0) {
        fail_msg("%s", error.message);
    }
    shadow_destroy(bench.mmu);
    world_destroy(&bench.world);
}

static void enter(unsigned vcpu, uint64_t cr4, unsigned root)
{
    struct mmu_mode mode = long_mode(cr4, root);

    assert_int_equal(shadow_set_mode(bench.vcpu[vcpu], &mode), 0);
}

/* An access and the exit it took (SHADOW_EVENTS: none). */
static void expect(unsigned vcpu, uint64_t gva, uint32_t access,
                   enum shadow_outcome outcome, enum shadow_event event)
{
    struct shadow_result result;

    assert_int_equal(shadow_access(bench.vcpu[vcpu], gva, access, &result), outcome);
    assert_string_equal(shadow_event_name((enum shadow_event)result.event),
                        shadow_event_name(event));
}

#define NO_EXIT SHADOW_EVENTS

/* ---- Exits and their causes ----------------------------------------------------------------------- */

static void test_exits(void **state)
{
    bench_begin(SHADOW_WP, 255);
    enter(0, 0, ROOT_A);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    assert_int_equal(get(LEAVES, 1) & 0x60, PTE_A);
    expect(0, 0x1abc, MMU_USER, SHADOW_OK, NO_EXIT);
    /* The clean page is mapped read-only: its first write sets D. */
    expect(0, 0x1000, MMU_USER | MMU_WRITE, SHADOW_OK, SHADOW_EXIT_DIRTY);
    assert_int_equal(get(LEAVES, 1) & 0x60, PTE_A | PTE_D);
    expect(0, 0x1000, MMU_USER | MMU_WRITE, SHADOW_OK, NO_EXIT);
    expect(0, 0x40000, 0, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
    expect(0, 0x800000000000, 0, SHADOW_NONCANONICAL, SHADOW_EXIT_TRUE_FAULT);
    put(LEAVES, 3, 0xc0000007); /* no slot there; not shadowed yet */
    expect(0, 0x3000, MMU_WRITE, SHADOW_MMIO, SHADOW_EXIT_MMIO);
    put(LEAVES, 4, 0xf0000007); /* a read-only slot */
    expect(0, 0x4000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 0x4000, MMU_WRITE, SHADOW_MMIO, SHADOW_EXIT_MMIO);
    /* The leaf table maps itself: writes to it are ours to do. */
    expect(0, 0x10000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 0x10000, MMU_WRITE, SHADOW_TABLE_WRITE, SHADOW_EXIT_TABLE_WRITE);
    assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 8, 8, 0x200000 | 5), 0);
    expect(0, 0x1000, MMU_USER | MMU_WRITE, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    bench_end();
}

static void test_sharing_and_flood(void **state)
{
    bench_begin(SHADOW_WP, 3);
    enter(0, 0, ROOT_A);
    enter(1, 0, ROOT_B);
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    uint32_t pages = shadow_pages(bench.mmu);

    /* The other root shares all but itself: linking the upper page is enough. */
    expect(1, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(1, 0x1000, 0, SHADOW_OK, NO_EXIT);
    assert_int_equal(shadow_pages(bench.mmu), pages);
    /* Written again and again, but of use to the processor, which sets A: it stays. */
    for (unsigned i = 0; i < 30; i++) {
        assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 80, 8, 0x200007), 0);
        expect(0, 0x1000, 0, SHADOW_OK, NO_EXIT);
    }
    assert_int_equal(counted(SHADOW_PAGE_FLOOD), 0);
    /* Six times without use in between: the table is let go. */
    for (unsigned i = 0; i < 6; i++) {
        assert_true(frame_protected(bench.mmu, at(LEAVES) >> 12));
        assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 80, 8, 0x200007), 0);
    }
    assert_false(frame_protected(bench.mmu, at(LEAVES) >> 12));
    assert_int_equal(counted(SHADOW_PAGE_FLOOD), 1);
    expect(0, 0xa000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    bench_end();
}

/* ---- Out of sync -------------------------------------------------------------------------------------- */

static void test_unsync_cycle(void **state)
{
    struct umbra_error error;

    bench_begin(SHADOW_UNSYNC, 255);
    enter(0, 0, ROOT_A);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 0x10000, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_UNSYNC);
    put(LEAVES, 1, 0x200000 | 7); /* the guest writes unseen */
    put(LEAVES, 2, 0x201000 | 7);
    expect(0, 0x10000, MMU_WRITE, SHADOW_OK, NO_EXIT);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, NO_EXIT); /* stale, as a TLB may be */
    expect(0, 0x2000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    shadow_invlpg(bench.vcpu[0], 0x1000);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    /* Upper tables never go out of sync. */
    expect(0, 0x11000, MMU_WRITE, SHADOW_TABLE_WRITE, SHADOW_EXIT_TABLE_WRITE);
    /* A CR3 load brings the table back into step, and under protection. */
    put(LEAVES, 2, 0x202000 | 5);
    assert_int_equal(shadow_audit_synced(bench.vcpu[0], &error), -EPROTO);
    assert_int_equal(shadow_load_cr3(bench.vcpu[0], at(ROOT_A)), 0);
    assert_int_equal(shadow_audit_synced(bench.vcpu[0], &error), 0);
    assert_true(frame_protected(bench.mmu, at(LEAVES) >> 12));
    assert_int_equal(counted(SHADOW_ENTRY_SYNC), 1);
    expect(0, 0x2000, MMU_USER | MMU_WRITE, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, NO_EXIT); /* unchanged entries stay */
    bench_end();
}

/* A change of CR4 flushes every PCID, also those whose roots are kept. */
static void test_mode_change_reaches_other_pcids(void **state)
{
    bench_begin(SHADOW_UNSYNC, 255);
    enter(0, CR4_PCIDE | CR4_PGE, ROOT_A);
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 0x10000, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_UNSYNC);
    put(UPPER, 1,
        at(SPARE) | 7); /* another way: root B with PCID 1 does not see LEAVES */
    put(ROOT_B, 0, 0);
    assert_int_equal(shadow_load_cr3(bench.vcpu[0], at(ROOT_B) | 1 | CR3_NOFLUSH), 0);
    put(LEAVES, 1, 0x200000 | 7);
    struct mmu_mode mode = *shadow_vcpu_mode(bench.vcpu[0]);

    assert_int_equal(shadow_set_mode(bench.vcpu[0], &mode), 0); /* e.g. CR4.PGE twice */
    assert_int_equal(shadow_load_cr3(bench.vcpu[0], at(ROOT_A) | CR3_NOFLUSH), 0);
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    /* But a CR3 load of one PCID leaves the others alone. */
    expect(0, 0x10000, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_UNSYNC);
    assert_int_equal(shadow_load_cr3(bench.vcpu[0], at(ROOT_B) | 1), 0);
    put(LEAVES, 1, 0x203000 | 7);
    assert_int_equal(shadow_load_cr3(bench.vcpu[0], at(ROOT_A) | CR3_NOFLUSH), 0);
    expect(0, 0x1000, 0, SHADOW_OK, NO_EXIT);
    assert_int_equal(shadow_invpcid(bench.vcpu[0], INVPCID_CONTEXT, 0, 0), 0);
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    assert_int_equal(shadow_invpcid(bench.vcpu[0], INVPCID_CONTEXT, 4096, 0), -EINVAL);
    assert_int_equal(shadow_load_cr3(bench.vcpu[0], (uint64_t)1 << 46), -EINVAL);
    bench_end();
}

/* The guest takes a page away without a flush, then makes it a page table: a TLB may still
 * hold the writable translation, and must not when the table is relied on. */
static void test_stale_tlb_entry_is_flushed(void **state)
{
    for (unsigned policy = SHADOW_WP; policy <= SHADOW_UNSYNC; policy++) {
        bench_begin((enum shadow_policy)policy, 255);
        enter(0, 0, ROOT_A);
        put(LEAVES, 5, at(SPARE) | 3);
        expect(0, 0x5000, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
        assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 40, 8, 0), 0);
        unsigned before = bench.flushes;

        put(SPARE, 0, 0x300007);
        assert_int_equal(shadow_write(bench.mmu, at(DIRECTORY) + 8, 8, at(SPARE) | 7), 0);
        assert_int_equal(bench.flushes, before);
        expect(0, 0x200000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
        assert_true(bench.flushes > before);
        bench_end();
    }
}

/* One processor in the legacy format, one in 64-bit, over the same table: A set in an odd
 * 4-byte entry is an address bit of the 8-byte one. */
static void test_marks_across_formats(void **state)
{
    const struct mmu_slot slot = { 4 * GIB, 2 * MIB, 0x800000000, false, 12 };
    struct mmu_mode legacy = { .cr0 = CR0_PE | CR0_PG, .cpu = cpu };

    bench_begin(SHADOW_WP, 255);
    assert_int_equal(mmu_slots_add(&bench.world.slots, &slot), 0);
    put(LEAVES, 6, 4 * GIB | 0x106007); /* legacy entry 13 is 1: present, GPA 0 */
    put(SPARE, 0, at(LEAVES) | 7);
    legacy.cr3 = at(SPARE);
    enter(0, 0, ROOT_A);
    assert_int_equal(shadow_set_mode(bench.vcpu[1], &legacy), 0);
    expect(0, 0x6000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 0x6000, MMU_USER, SHADOW_OK, NO_EXIT);
    expect(1, 0xd000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    assert_int_equal(get(LEAVES, 6) >> 32, 1 | PTE_A);
    expect(0, 0x6000, MMU_USER, SHADOW_MMIO, SHADOW_EXIT_MMIO);
    bench_end();
}

/* ---- Agile paging ---------------------------------------------------------------------------------- */

static unsigned references(uint64_t gva)
{
    struct mmu_trace trace;

    shadow_trace(bench.vcpu[0], gva, &trace);
    return trace.count;
}

/* Wholly shadowed n references; one level of the guest's more nested, m more. From the root on
 * its GPA is to be located, too: n * m + n + m. */
static void test_agile_references(void **state)
{
    static const unsigned tables[] = { LEAVES, DIRECTORY, UPPER, ROOT_A };
    static const unsigned small[] = { 8, 12, 16, 24 }, large[] = { 0, 6, 10, 18 };

    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        bench_begin(SHADOW_AGILE, 255);
        enter(0, 0, ROOT_A);
        put(DIRECTORY, 1,
            8 * GIB + (PTE_PS | 7)); /* a 2 MiB page on 2 MiB of the host's */
        expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
        expect(0, 2 * MIB, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
        assert_int_equal(references(0x1000), 4);
        assert_int_equal(references(2 * MIB), 3);
        assert_true(shadow_switch_table(bench.mmu, at(tables[i]), true));
        expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_NESTED);
        expect(0, 0x1000, 0, SHADOW_OK, NO_EXIT);
        assert_int_equal(references(0x1000), small[i]);
        if (large[i] != 0) {
            expect(0, 2 * MIB, 0, SHADOW_OK, SHADOW_EXIT_NESTED);
            assert_int_equal(references(2 * MIB), large[i]);
        }
        assert_int_equal(shadow_vcpu_nested(bench.vcpu[0]), tables[i] == ROOT_A);
        /* What the guest may not do it learns without us. */
        put(LEAVES, 2, 0);
        expect(0, 0x2000, 0, SHADOW_FAULT, NO_EXIT);
        for (int n = (int)i; n >= 0; n--) { /* the way back is from the top down */
            assert_true(shadow_switch_table(bench.mmu, at(tables[n]), false));
            expect(0, 0x1000, 0, SHADOW_OK,
                   n > 0 ? SHADOW_EXIT_NESTED : SHADOW_EXIT_HIDDEN_FILL);
            assert_int_equal(references(0x1000), n > 0 ? small[n - 1] : 4);
        }
        bench_end();
    }
}

/* Two writes in an interval, and the table is the guest's own; an interval without a change,
 * and it is shadowed again, with entries for what was in use. */
static void test_agile_cycle(void **state)
{
    bench_begin(SHADOW_AGILE, 3);
    enter(0, 0, ROOT_A);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 0x10000, MMU_WRITE, SHADOW_TABLE_WRITE, SHADOW_EXIT_TABLE_WRITE);
    assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 8 * 2, 8, 0x200007), 0);
    shadow_tick(bench.mmu);
    assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 8 * 3, 8, 0x201007), 0);
    assert_true(frame_protected(bench.mmu, at(LEAVES) >> 12)); /* one in each */
    assert_int_equal(shadow_write(bench.mmu, at(LEAVES) + 8 * 4, 8, 0x202007), 0);
    assert_false(frame_protected(bench.mmu, at(LEAVES) >> 12));
    assert_int_equal(counted(SHADOW_TABLE_NESTED), 1);
    expect(0, 0x2000, MMU_USER, SHADOW_OK, SHADOW_EXIT_NESTED);
    expect(0, 0x10000, MMU_WRITE, SHADOW_OK, NO_EXIT);
    put(LEAVES, 3, 0x300007); /* unseen, and at once true */
    expect(0, 0x3000, MMU_USER | MMU_WRITE, SHADOW_OK, SHADOW_EXIT_NESTED);
    assert_int_equal(get(LEAVES, 3) & 0x60, PTE_A | PTE_D);
    put(LEAVES, 3, 0x300005);
    expect(0, 0x3000, MMU_USER | MMU_WRITE, SHADOW_FAULT, NO_EXIT);
    /* Upper tables are shadowed still; the second processor shares them. */
    enter(1, 0, ROOT_B);
    expect(1, 0x3000, MMU_USER, SHADOW_OK, SHADOW_EXIT_NESTED); /* to link the root */
    expect(1, 0x2000, MMU_USER, SHADOW_OK, NO_EXIT);
    shadow_tick(bench.mmu);
    put(LEAVES, 3, 0x300007);
    shadow_tick(bench.mmu);
    expect(0, 0x2000, MMU_USER, SHADOW_OK, NO_EXIT);
    unsigned before = bench.flushes;

    shadow_tick(bench.mmu); /* nothing changed but A and D */
    assert_true(bench.flushes > before);
    assert_int_equal(counted(SHADOW_TABLE_BACK), 1);
    expect(0, 0x2000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    assert_true(counted(SHADOW_ENTRY_PREFILL) >= 3);
    expect(0, 0x1000, MMU_USER, SHADOW_OK, NO_EXIT);                 /* made with it */
    expect(0, 0x3000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL); /* its A was lost */
    expect(0, 0x10000, MMU_WRITE, SHADOW_TABLE_WRITE, SHADOW_EXIT_TABLE_WRITE);
    bench_end();
}

/* Where nested parts cannot be, the table is shadowed after all. */
static void test_agile_not_nested(void **state)
{
    struct mmu_mode mode;

    bench_begin(SHADOW_AGILE, 255);
    put(DIRECTORY, 1, 0xf0000007); /* a table in ROM */
    enter(0, 0, ROOT_A);
    assert_false(shadow_switch_table(bench.mmu, 0xf0000000, true));
    assert_false(shadow_switch_table(bench.mmu, 0xc0000000, true)); /* in no slot */
    assert_true(shadow_switch_table(bench.mmu, at(DIRECTORY), true));
    *(uint64_t *)sim_ram_host(&bench.world.ram, 0xf0000000, 8) = 0x300067;
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_NESTED);
    expect(0, 2 * MIB, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    assert_int_equal(counted(SHADOW_TABLE_BACK), 1);
    /* A guest with CR0.WP = 0 is shadowed whole, and its pages in use stay. */
    mode = long_mode(0, ROOT_B);
    mode.cr0 &= ~CR0_WP;
    assert_true(shadow_switch_table(bench.mmu, at(ROOT_B), true));
    assert_int_equal(shadow_set_mode(bench.vcpu[1], &mode), 0);
    assert_false(shadow_vcpu_nested(bench.vcpu[1]));
    assert_false(shadow_switch_table(bench.mmu, at(ROOT_B), true));
    /* A table that is its own parent. */
    put(ROOT_A, 1, at(ROOT_A) | 7);
    assert_true(shadow_switch_table(bench.mmu, at(UPPER), true));
    put(UPPER, 1, at(ROOT_A) | 7);
    put(LEAVES, 0, 0x300007);
    expect(0, GIB, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL); /* root, UPPER, root, UPPER */
    bench_end();
}

/* ---- Large pages ------------------------------------------------------------------------------------------ */

static void test_large_pages(void **state)
{
    bench_begin(SHADOW_WP, 255);
    enter(0, 0, ROOT_A);
    /* 1 GiB where host, slot and guest agree. */
    put(UPPER, 1, GIB + GIB + (PTE_PS | 7));
    expect(0, GIB + 0x12345, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    uint32_t pages = shadow_pages(bench.mmu);

    expect(0, GIB + 512 * MIB, MMU_WRITE, SHADOW_OK, NO_EXIT);
    /* A shadowed table inside forbids the large leaf: only that 2 MiB is mapped by 4 KiB. */
    put(DIRECTORY, 1, at(30) | 7);
    put(UPPER, 2, GIB | PTE_PS | 7);
    expect(0, 2 * MIB, 0, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
    put(30, 0, 0x300007);
    expect(0, 2 * MIB, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 2 * GIB + 512 * MIB, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    expect(0, 2 * GIB + 513 * MIB, MMU_WRITE, SHADOW_OK, NO_EXIT);
    expect(0, 2 * GIB + (at(30) - GIB), MMU_WRITE, SHADOW_TABLE_WRITE,
           SHADOW_EXIT_TABLE_WRITE);
    assert_true(counted(SHADOW_SPLINTER) > 0);
    assert_true(shadow_pages(bench.mmu) > pages);
    /* A slot that goes takes its mappings along, by whatever path. */
    shadow_slot_zap(bench.mmu, GIB, 2 * GIB);
    assert_int_equal(mmu_slots_remove(&bench.world.slots, GIB), 0);
    expect(0, GIB + 512 * MIB, 0, SHADOW_MMIO, SHADOW_EXIT_MMIO);
    bench_end();
}

/* ---- CR0.WP = 0 ------------------------------------------------------------------------------------------- */

static void test_write_protect_off(void **state)
{
    for (unsigned smep = 0; smep < 2; smep++) {
        struct mmu_mode mode;

        bench_begin(SHADOW_WP, 255);
        put(LEAVES, 1, 0x100000 | 5 | PTE_D);
        mode = long_mode(smep ? CR4_SMEP : 0, ROOT_A);
        mode.cr0 &= ~CR0_WP;
        assert_int_equal(shadow_set_mode(bench.vcpu[0], &mode), 0);
        expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
        /* The kernel may write: the page becomes its own until the user comes back. */
        expect(0, 0x1000, MMU_WRITE, SHADOW_OK, SHADOW_EXIT_WP_CLEAR);
        expect(0, 0x1000, MMU_WRITE, SHADOW_OK, NO_EXIT);
        expect(0, 0x1000, MMU_FETCH, smep ? SHADOW_FAULT : SHADOW_OK,
               smep ? SHADOW_EXIT_TRUE_FAULT : NO_EXIT);
        expect(0, 0x1000, MMU_USER, SHADOW_OK, SHADOW_EXIT_WP_CLEAR);
        expect(0, 0x1000, MMU_USER | MMU_WRITE, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
        /* Under SMAP it must stay a user page: then the write is emulated. */
        mode.cr4 |= CR4_SMAP;
        assert_int_equal(shadow_set_mode(bench.vcpu[0], &mode), 0);
        expect(0, 0x1000, MMU_WRITE, SHADOW_FAULT, SHADOW_EXIT_TRUE_FAULT);
        expect(0, 0x1000, MMU_WRITE | MMU_AC, SHADOW_EMULATE, SHADOW_EXIT_EMULATE);
        bench_end();
    }
}

/* ---- Eviction, policies -------------------------------------------------------------------------------------- */

static void test_eviction_keeps_roots(void **state)
{
    bench_begin(SHADOW_WP, 255);
    enter(0, 0, ROOT_A);
    enter(1, 0, ROOT_B);
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    while (shadow_evict(bench.mmu, 1)) {
    }
    assert_int_equal(shadow_pages(bench.mmu), 2);
    expect(0, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
    for (unsigned policy = 0; policy < SHADOW_POLICIES; policy++) {
        enum shadow_policy parsed;

        assert_int_equal(
            shadow_policy_parse(shadow_policy_name((enum shadow_policy)policy), &parsed),
            0);
        assert_int_equal(parsed, policy);
        assert_int_equal(shadow_set_policy(bench.mmu, parsed), 0);
        expect(1, 0x1000, 0, SHADOW_OK, SHADOW_EXIT_HIDDEN_FILL);
        expect(1, 0x1000, 0, SHADOW_OK, NO_EXIT);
    }
    bench_end();
}

/* ---- Every combination of flags ---------------------------------------------------------------------------------- */

/* Registers: WP, SMEP, SMAP, NXE, and the state of protection key 5 (0: no PKE). */
static struct mmu_mode flags_mode(unsigned registers, unsigned key)
{
    struct mmu_mode mode = long_mode(0, ROOT_A);

    mode.cr0 &= (registers & 1) ? ~0ull : ~CR0_WP;
    mode.cr4 |= ((registers & 2) ? CR4_SMEP : 0) | ((registers & 4) ? CR4_SMAP : 0) |
                (key != 0 ? CR4_PKE : 0);
    mode.efer &= (registers & 8) ? ~0ull : ~EFER_NXE;
    mode.pkru = key > 1 ? (key - 1) << 10 : 0;
    mmu_mode_update(&mode);
    return mode;
}

/* P W U A D NX reserved, for a leaf of @level. */
static uint64_t flags_leaf(unsigned flags, unsigned level)
{
    uint64_t leaf = (level == 1 ? 0x300000 : GIB) | (uint64_t)5 << PTE_PKEY_SHIFT;

    leaf |= level > 1 ? PTE_PS : 0;
    leaf |= (flags & 1) | ((flags & 2) ? PTE_W : 0) | ((flags & 4) ? PTE_U : 0);
    leaf |= ((flags & 8) ? PTE_A : 0) | ((flags & 16) ? PTE_D : 0);
    return leaf | ((flags & 32) ? PTE_NX : 0) | ((flags & 64) ? (uint64_t)1 << 50 : 0);
}

/* Two accesses in a row: from the tables, then from what the first left in the shadow. */
static void flags_access(const struct mmu_mode *mode, uint32_t access, uint64_t where)
{
    struct oracle_cpu oracle = world_oracle(&bench.world, mode);
    struct oracle_access how = world_oracle_access(access);

    for (unsigned round = 0; round < 2; round++) {
        struct oracle_result want = oracle_walk(&oracle, &how, 0x7123);
        bool may_emulate = (access & MMU_WRITE) && !(mode->cr0 & CR0_WP) && want.user &&
                           (mode->cr4 & (CR4_SMAP | CR4_PKE));
        struct shadow_result got;

        shadow_access(bench.vcpu[0], 0x7123, access, &got);
        if (want.end == ORACLE_PF) {
            if (got.outcome != SHADOW_FAULT || got.error_code != want.error) {
                fail_msg("outcome %u error %#x, should be a fault %#x: access %#x leaf "
                         "%#" PRIx64 " cr0 %#" PRIx64 " cr4 %#" PRIx64,
                         got.outcome, got.error_code, want.error, access,
                         want.was[want.count - 1], mode->cr0, mode->cr4);
            }
        } else if (!(got.outcome == SHADOW_OK ||
                     (got.outcome == SHADOW_EMULATE && may_emulate))) {
            fail_msg("outcome %u error %#x for a permitted access %#x leaf %#" PRIx64
                     " cr0 %#" PRIx64 " cr4 %#" PRIx64,
                     got.outcome, got.error_code, access, want.was[want.count - 1],
                     mode->cr0, mode->cr4);
        }
        for (unsigned i = 0; i < want.count; i++) {
            uint64_t now = load_le64(world_memory(&bench.world, want.where[i]));

            assert_int_equal(now, want.becomes[i]);
        }
        if (got.outcome == SHADOW_OK) {
            assert_int_equal(got.hpa, where);
        }
    }
}

/* @nested: this table, and what is below it, is walked nested; ROOT_B: none is. */
static uint64_t flags_run(enum shadow_policy policy, unsigned step, unsigned nested)
{
    static const uint32_t kinds[] = { 0, MMU_WRITE, MMU_FETCH };
    static const unsigned tables[] = { 0, LEAVES, DIRECTORY, UPPER };
    uint64_t checked = 0;

    bench_begin(policy, 255);
    for (unsigned registers = 0; registers < 16; registers++) {
        for (unsigned key = 0; key < 5; key++) {
            struct mmu_mode mode = flags_mode(registers, key);

            assert_int_equal(shadow_set_mode(bench.vcpu[0], &mode), 0);
            if (nested != ROOT_B && (mode.cr0 & CR0_WP) && mode.nx) {
                assert_true(shadow_switch_table(bench.mmu, at(nested), true));
            }
            for (unsigned flags = checked % step; flags < 3 * 8 * 128; flags += step) {
                unsigned level = flags / 1024 + 1, upper = flags / 128 % 8;
                uint64_t leaf = flags_leaf(flags % 128, level);
                uint64_t top = at(UPPER) | 1 | ((upper & 1) ? 2 : 0) |
                               ((upper & 2) ? 4 : 0) | ((upper & 4) ? PTE_NX : 0);
                unsigned slot = level == 1 ? 7 : 0;
                uint64_t where = level == 1 ? 0x700300123 : 0x1000007123;

                shadow_write(bench.mmu, at(UPPER), 8, at(DIRECTORY) | 7);
                shadow_write(bench.mmu, at(DIRECTORY), 8, at(LEAVES) | 7);
                for (unsigned how = 0; how < 24; how++) {
                    uint32_t access = kinds[how % 3] | ((how / 3 & 1) ? MMU_USER : 0) |
                                      ((how / 3 & 2) ? MMU_AC : 0) |
                                      ((how / 3 & 4) ? MMU_IMPLICIT : 0);

                    shadow_write(bench.mmu, at(ROOT_A), 8, top);
                    shadow_write(bench.mmu, at(tables[level]) + 8 * slot, 8, leaf);
                    shadow_invlpg(bench.vcpu[0], 0x7000);
                    flags_access(&mode, access, where);
                    checked++;
                }
            }
        }
    }
    bench_end();
    return checked;
}

static void test_all_flags(void **state)
{
    unsigned step = world_steps(1000) >= 1000 ? 1 : 37; /* sanitizers take a sample */

    for (unsigned policy = 0; policy < SHADOW_POLICIES; policy++) {
        uint64_t checked = flags_run((enum shadow_policy)policy, step, ROOT_B);

        print_message("%s: %" PRIu64 " combinations, twice each\n",
                      shadow_policy_name((enum shadow_policy)policy), checked);
        assert_true(step > 1 || checked == 16 * 5 * 3 * 8 * 128 * 24);
    }
}

/* The same with the walk going on nested from the root on, and from each table below. */
static void test_all_flags_nested(void **state)
{
    static const unsigned tables[] = { ROOT_A, UPPER, DIRECTORY, LEAVES };
    unsigned step = world_steps(1000) >= 1000 ? 1 : 37;

    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        uint64_t checked = flags_run(SHADOW_AGILE, step, tables[i]);

        print_message("agile, nested from level %zu: %" PRIu64 " combinations\n", 4 - i,
                      checked);
        assert_true(step > 1 || checked == 16 * 5 * 3 * 8 * 128 * 24);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exits),
        cmocka_unit_test(test_sharing_and_flood),
        cmocka_unit_test(test_unsync_cycle),
        cmocka_unit_test(test_mode_change_reaches_other_pcids),
        cmocka_unit_test(test_stale_tlb_entry_is_flushed),
        cmocka_unit_test(test_marks_across_formats),
        cmocka_unit_test(test_agile_references),
        cmocka_unit_test(test_agile_cycle),
        cmocka_unit_test(test_agile_not_nested),
        cmocka_unit_test(test_large_pages),
        cmocka_unit_test(test_write_protect_off),
        cmocka_unit_test(test_eviction_keeps_roots),
        cmocka_unit_test(test_all_flags),
        cmocka_unit_test(test_all_flags_nested),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
