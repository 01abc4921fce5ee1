/* SPDX-License-Identifier: MIT */
/* Models of TLBs and page-walk caches, and the file of their parameters. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "shadowpt-sim/sim/cost.h"
#include "shadowpt-sim/tlb/tlb.h"

#define PAGE(n) ((uint64_t)(n) << 12)

static struct mmu_translation leaf(uint64_t page, uint8_t shift, bool global)
{
    return (struct mmu_translation){
        .page = page, .shift = shift, .perms = MMU_PERM_ALL, .global = global
    };
}

static void open_default(struct tlb *tlb)
{
    assert_int_equal(tlb_init(tlb, &cost_default.geometry), 0);
}

static void test_sizes_and_tags(void **state)
{
    struct mmu_translation small = leaf(0x5000, 12, false), large = leaf(GIB, 21, false),
                           kernel = leaf(0x7000, 12, true), *found;
    struct tlb tlb;

    open_default(&tlb);
    tlb_insert(&tlb, 0x1000, 1, &small);
    tlb_insert(&tlb, 0x40200000, 1, &large);
    tlb_insert(&tlb, 0x9000, 1, &kernel);
    found = tlb_find(&tlb, 0x1abc, 1);
    assert_non_null(found);
    assert_int_equal(found->page, 0x5000);
    assert_null(tlb_find(&tlb, 0x1abc, 2));
    found = tlb_find(&tlb, 0x403fffff, 1);
    assert_non_null(found);
    assert_int_equal(found->page, GIB);
    assert_null(tlb_find(&tlb, 0x40400000, 1));
    assert_non_null(tlb_find(&tlb, 0x9000, 2));
    tlb_flush_pcid(&tlb, 1);
    assert_null(tlb_find(&tlb, 0x1abc, 1));
    assert_null(tlb_find(&tlb, 0x40200000, 1));
    assert_non_null(tlb_find(&tlb, 0x9000, 1));
    tlb_invlpg(&tlb, 0x9000, 2);
    assert_null(tlb_find(&tlb, 0x9000, 1));
    tlb_destroy(&tlb);
}

/* A set keeps its most recently used pages; what leaves the first level is in the second. */
static void test_recency(void **state)
{
    struct tlb_geometry geometry = cost_default.geometry;
    struct tlb tlb;

    geometry.l1_4k = (struct tlb_shape){ 2, 2 };
    geometry.l2 = (struct tlb_shape){ 4, 4 };
    assert_int_equal(tlb_init(&tlb, &geometry), 0);
    for (unsigned i = 0; i < 5; i++) {
        struct mmu_translation to = leaf(PAGE(100 + i), 12, false);

        if (i == 4) { /* from the second level, so that page 1 is the oldest there */
            assert_non_null(tlb_find(&tlb, PAGE(0), 0));
        }
        tlb_insert(&tlb, PAGE(i), 0, &to);
    }
    memset(&tlb.stats, 0, sizeof(tlb.stats));
    assert_non_null(tlb_find(&tlb, PAGE(4), 0));
    assert_int_equal(tlb.stats.l1_hits, 1);
    assert_int_equal(tlb_find(&tlb, PAGE(2), 0)->page, PAGE(102));
    assert_int_equal(tlb.stats.l2_hits, 1);
    assert_int_equal(tlb_find(&tlb, PAGE(2), 0)->page, PAGE(102));
    assert_int_equal(tlb.stats.l1_hits, 2);
    assert_int_equal(tlb.stats.misses, 0);
    assert_null(tlb_find(&tlb, PAGE(1), 0));
    tlb_destroy(&tlb);
}

/* Against the plainest model: a list of pages, for random finds, inserts and flushes. */
static void against_list(unsigned ways)
{
    struct tlb_geometry geometry = cost_default.geometry;
    uint64_t list[64] = { 0 }, random = 7;
    struct tlb tlb;

    geometry.l1_4k = (struct tlb_shape){ ways, ways };
    geometry.l2 = (struct tlb_shape){ 0, 0 };
    assert_int_equal(tlb_init(&tlb, &geometry), 0);
    for (unsigned step = 0; step < 200000; step++) {
        uint64_t page;
        unsigned at = 0;

        random = random * 6364136223846793005ull + 1442695040888963407ull;
        page = 1 + ((random >> 33) % (ways + ways / 2 + 1));
        while (at < ways - 1 && list[at] != page) {
            at++;
        }
        if ((random >> 50) % 16 == 0) {
            bool here = list[at] == page;

            tlb_invlpg(&tlb, PAGE(page), 3);
            if (here) {
                memmove(&list[at], &list[at + 1], (ways - 1 - at) * sizeof(list[0]));
                list[ways - 1] = 0;
            }
            continue;
        }
        assert_int_equal(tlb_find(&tlb, PAGE(page), 3) != NULL, list[at] == page);
        if (list[at] != page) {
            struct mmu_translation to = leaf(PAGE(page), 12, false);

            tlb_insert(&tlb, PAGE(page), 3, &to);
            for (at = 0; at < ways - 1 && list[at] != 0; at++) {
            }
        }
        memmove(&list[1], &list[0], at * sizeof(list[0]));
        list[0] = page;
    }
    tlb_destroy(&tlb);
}

static void test_against_list(void **state)
{
    static const unsigned ways[] = { 1, 2, 4, 7, 8, 12, 16, 17, 64 };

    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        against_list(ways[i]);
    }
}

static void fill(struct tlb_array array[4], uint64_t gva, uint16_t tag, unsigned level)
{
    const struct tlb_value table = { gva ^ level, (uint64_t)level << TLB_TABLE_SAVED };

    tlb_table_fill(array, gva, tag, level, table);
}

static void test_structure_caches(void **state)
{
    struct tlb_value table = { 0, 0 };
    struct tlb tlb;

    open_default(&tlb);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x1000, 1, &table), 0);
    fill(tlb.pwc, 0x1000, 1, 3);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x3fffffff, 1, &table), 3);
    assert_int_equal(table.address, 0x1000 ^ 3);
    fill(tlb.pwc, 0x1000, 1, 2);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x1fffff, 1, &table), 2);
    assert_int_equal(table.word >> TLB_TABLE_SAVED, 2);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x200000, 1, &table), 3);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x1000, 2, &table), 0);
    fill(tlb.pwc, 0x1000, 2, 2);
    tlb_invlpg(&tlb, 0x80000000, 1);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x1000, 1, &table), 0);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x1000, 2, &table), 2);
    tlb_flush_all(&tlb);
    assert_int_equal(tlb_table_find(tlb.pwc, 0x1000, 2, &table), 0);
    tlb_destroy(&tlb);
}

static void test_nested_tlb(void **state)
{
    struct tlb_nested leaf = { .page = GIB, .shift = 21, .perms = 7, .saved = 3 }, found;
    struct tlb tlb;

    open_default(&tlb);
    assert_false(tlb_nested_find(&tlb, 0x200000, false, &found));
    tlb_nested_fill(&tlb, 0x200000, &leaf);
    assert_true(tlb_nested_find(&tlb, 0x3fffff, false, &found));
    assert_int_equal(found.page, GIB);
    assert_int_equal(found.saved, 3);
    assert_false(tlb_nested_find(&tlb, 0x400000, false, &found));
    /* A write through a clean leaf has to walk; the leaf goes. */
    assert_false(tlb_nested_find(&tlb, 0x200000, true, &found));
    assert_false(tlb_nested_find(&tlb, 0x200000, false, &found));
    leaf.dirty = true;
    tlb_nested_fill(&tlb, 0x200000, &leaf);
    assert_true(tlb_nested_find(&tlb, 0x200000, true, &found));
    tlb_destroy(&tlb);
}

/* Which data cache had the entry; TLB_LINES: none. */
static unsigned reference(struct tlb *tlb, uint64_t address)
{
    struct tlb_stats before = tlb->stats;

    tlb_reference(tlb, address);
    for (unsigned i = 0; i < TLB_LINES; i++) {
        if (tlb->stats.line_hits[i] != before.line_hits[i]) {
            return i;
        }
    }
    assert_int_equal(tlb->stats.line_misses, before.line_misses + 1);
    return TLB_LINES;
}

static void test_lines(void **state)
{
    struct tlb_geometry geometry = cost_default.geometry;
    struct tlb tlb;

    geometry.line[0] = (struct tlb_shape){ 2, 2 };
    geometry.line[1] = (struct tlb_shape){ 4, 4 };
    geometry.line[2] = (struct tlb_shape){ 0, 0 };
    assert_int_equal(tlb_init(&tlb, &geometry), 0);
    assert_int_equal(reference(&tlb, 0x1000), TLB_LINES);
    assert_int_equal(reference(&tlb, 0x1038), 0);
    assert_int_equal(reference(&tlb, 0x1040), TLB_LINES);
    assert_int_equal(reference(&tlb, 0x1080), TLB_LINES);
    assert_int_equal(reference(&tlb, 0x1000), 1);
    assert_int_equal(reference(&tlb, 0x1000), 0);
    assert_int_equal(tlb.stats.line_misses, 3);
    tlb_destroy(&tlb);
}

static void test_bad_geometry(void **state)
{
    struct tlb_geometry geometry = cost_default.geometry;
    struct tlb tlb;

    geometry.l2 = (struct tlb_shape){ 12, 4 };
    assert_int_not_equal(tlb_init(&tlb, &geometry), 0);
    geometry.l2 = (struct tlb_shape){ 4, 0 };
    assert_int_not_equal(tlb_init(&tlb, &geometry), 0);
}

static void test_cost_file(void **state)
{
    char path[] = "/tmp/umbra-cost-XXXXXX";
    struct cost_model cost = cost_default, again = cost_default;
    struct umbra_error error;
    int fd = mkstemp(path);
    FILE *out = fdopen(fd, "w");

    assert_non_null(out);
    assert_int_equal(cost_set(&cost, "cycles.exit", "4711"), 0);
    assert_int_equal(cost_set(&cost, "tlb.l2", "2048/8"), 0);
    cost_print(&cost, NULL, out);
    fclose(out);
    assert_int_equal(cost_load(&again, path, &error), 0);
    assert_memory_equal(&cost, &again, sizeof(cost));
    assert_int_equal(again.vm_exit, 4711);
    assert_int_equal(again.geometry.l2.ways, 8);
    out = fopen(path, "w");
    fputs("# fine\n\ncycles.exit = 5\ncycles.exi = 5\n", out);
    fclose(out);
    assert_int_not_equal(cost_load(&again, path, &error), 0);
    assert_non_null(strstr(error.message, ":4:"));
    unlink(path);
    assert_int_not_equal(cost_set(&cost, "tlb.l2", "12/4"), 0);
    assert_int_not_equal(cost_set(&cost, "tlb.l2", "8/0"), 0);
    assert_int_not_equal(cost_set(&cost, "cycles.exit", "-1"), 0);
    assert_int_not_equal(cost_set(&cost, "cycles.exit", "1x"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_and_tags), cmocka_unit_test(test_recency),
        cmocka_unit_test(test_against_list),   cmocka_unit_test(test_structure_caches),
        cmocka_unit_test(test_nested_tlb),     cmocka_unit_test(test_lines),
        cmocka_unit_test(test_bad_geometry),   cmocka_unit_test(test_cost_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
