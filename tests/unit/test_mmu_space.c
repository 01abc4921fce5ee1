/* SPDX-License-Identifier: MIT */
/* Whole address spaces: what a walk of all tables finds, what their shadow costs, copies of
 * memory that leave the original alone, and tables that lead in circles. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "mmu_world.h"
#include "shadowpt-sim/image.h"
#include "shadowpt-sim/shadow/space.h"

/* ---- Random tables: the walk of all tables and the walk of one address agree ---------------- */

struct found {
    const struct mmu_mode *mode;
    const struct mmu_memory *memory;
    uint64_t last, pages;
};

static bool check_page(void *context, const struct space_page *page)
{
    struct found *found = context;
    struct mmu_walk walk;
    uint32_t access = MMU_PROBE | MMU_AC;
    uint64_t offset = 0x123 & (((uint64_t)1 << page->to.shift) - 1);

    assert_true(found->pages == 0 || page->gva > found->last);
    found->last = page->gva;
    found->pages++;
    if (mmu_walk(found->mode, found->memory, page->gva + offset, access, &walk) !=
        MMU_OK) {
        fail_msg("page %llx is not there for the walker", (unsigned long long)page->gva);
    }
    assert_int_equal(walk.to.page, page->to.page);
    assert_int_equal(walk.to.shift, page->to.shift);
    assert_int_equal(walk.to.perms, page->to.perms);
    assert_int_equal(walk.to.cache, page->to.cache);
    assert_int_equal(walk.to.pkey, page->to.pkey);
    assert_int_equal(walk.to.global, page->to.global);
    assert_int_equal(walk.to.dirty, page->to.dirty);
    assert_int_equal((walk.entry[walk.level] & PTE_A) != 0, page->accessed);
    return true;
}

static uint64_t random_entry(uint64_t *rng, unsigned level, uint64_t next)
{
    uint64_t entry = next | PTE_P |
                     (rng_next(rng) & (PTE_W | PTE_U | PTE_A | PTE_D | PTE_G | PTE_PWT |
                                       PTE_PCD | PTE_NX));

    if (level > 1 && level < 4 && rng_percent(rng, 30)) {
        entry |= PTE_PS;
        entry &= ~((((uint64_t)1 << (12 + 9 * (level - 1))) - 1) & PTE_ADDRESS_MASK);
    }
    if (rng_percent(rng, 3)) {
        entry |= (uint64_t)1 << 50; /* reserved: MAXPHYADDR is 46 */
    }
    return rng_percent(rng, 10) ? entry & ~PTE_P : entry;
}

/* A tree of tables of up to @levels, in pages from 1 MiB on. */
static void random_tables(struct page_image *image, uint64_t *rng, unsigned levels)
{
    uint64_t fresh = MIB + MMU_PAGE_SIZE, done = MIB;
    unsigned level_of[64] = { levels };

    for (; done < fresh; done += MMU_PAGE_SIZE) {
        unsigned level = level_of[(done - MIB) >> 12];
        uint64_t *table = image_page(image, done);

        for (unsigned i = 0; i < 24; i++) {
            uint64_t next = rng_next(rng) & 0xffffff000;

            if (level > 1 && fresh < MIB + 60 * MMU_PAGE_SIZE) {
                next = fresh;
                level_of[(fresh - MIB) >> 12] = level - 1;
                fresh += MMU_PAGE_SIZE;
            }
            table[rng_below(rng, 512)] = random_entry(rng, level, next);
        }
    }
}

static void test_random(void **state)
{
    uint64_t rng = world_seed(1), pages = 0;

    for (unsigned round = 0; round < 200; round++) {
        unsigned levels = 4 + round % 2;
        struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG | CR0_WP,
                                 .cr3 = MIB,
                                 .cr4 = CR4_PAE | CR4_PGE | (levels == 5 ? CR4_LA57 : 0),
                                 .efer = EFER_LME | EFER_LMA |
                                         (rng_percent(&rng, 80) ? EFER_NXE : 0),
                                 .cpu = MMU_CPU_DEFAULT };
        struct page_image image;
        struct space_stats stats;
        struct found found = { .mode = &mode };

        mmu_mode_update(&mode);
        image_init(&image, NULL, NULL);
        found.memory = &image.memory;
        random_tables(&image, &rng, levels);
        space_walk(&mode, &image.memory, 1 << 20, check_page, &found, &stats);
        assert_int_equal(found.pages, stats.pages);
        assert_int_equal(stats.by_shift[12] + stats.by_shift[21] + stats.by_shift[30],
                         stats.pages);
        assert_false(stats.truncated);
        pages += stats.pages;
        image_destroy(&image);
    }
    assert_true(pages > 5000);
}

/* ---- Hostile tables --------------------------------------------------------------------------- */

static void test_circle(void **state)
{
    struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG | CR0_WP,
                             .cr3 = MIB,
                             .cr4 = CR4_PAE,
                             .efer = EFER_LME | EFER_LMA,
                             .cpu = MMU_CPU_DEFAULT };
    struct space_stats stats;
    struct page_image image;
    uint64_t *table;

    mmu_mode_update(&mode);
    image_init(&image, NULL, NULL);
    table = image_page(&image, MIB);
    for (unsigned i = 0; i < 512; i++) {
        table[i] = MIB | PTE_P | PTE_W; /* itself: 2^36 pages */
    }
    space_walk(&mode, &image.memory, 100000, NULL, NULL, &stats);
    assert_true(stats.truncated);
    assert_true(stats.entries <= 100001);
    /* Pointers to nowhere and a root that is nowhere. */
    table[0] = 5 * MIB | PTE_P;
    memset(table + 1, 0, 511 * sizeof(*table));
    space_walk(&mode, &image.memory, 100000, NULL, NULL, &stats);
    assert_int_equal(stats.unbacked, 1);
    assert_int_equal(stats.pages, 0);
    mode.cr3 = 7 * MIB;
    space_walk(&mode, &image.memory, 100000, NULL, NULL, &stats);
    assert_int_equal(stats.unbacked, 1);
    image_destroy(&image);
}

/* ---- What a shadow costs ------------------------------------------------------------------------ */

enum { ROOT = 0x10000, L3 = 0x11000, L2 = 0x12000, L1 = 0x13000 };

static struct mmu_mode hand_made(struct page_image *image)
{
    struct mmu_mode mode = { .cr0 = CR0_PE | CR0_PG | CR0_WP,
                             .cr3 = ROOT,
                             .cr4 = CR4_PAE | CR4_SMAP | CR4_SMEP,
                             .efer = EFER_LME | EFER_LMA | EFER_NXE,
                             .cpu = MMU_CPU_DEFAULT };

    mmu_mode_update(&mode);
    image_page(image, ROOT)[0] = L3 | PTE_P | PTE_W | PTE_U;
    image_page(image, L3)[0] = L2 | PTE_P | PTE_W | PTE_U;
    image_page(image, L2)[0] = L1 | PTE_P | PTE_W | PTE_U;
    image_page(image, L2)[1] = 2 * MIB | PTE_P | PTE_W | PTE_D | PTE_PS;
    /* 2 MiB page over the tables: it cannot be one shadow leaf. */
    image_page(image, L2)[2] = 0 | PTE_P | PTE_W | PTE_D | PTE_PS;
    for (unsigned i = 0; i < 10; i++) {
        image_page(image, L1)[i] =
            (4 * MIB + i * MMU_PAGE_SIZE) | PTE_P | PTE_U | (i < 3 ? PTE_W | PTE_D : 0);
    }
    image_page(image, L1)[20] = 0x40000000000 | PTE_P | PTE_U; /* no memory: MMIO */
    return mode;
}

static void test_cost(void **state)
{
    static const struct mmu_slot slot = { 0, 16 * MIB, GIB, false, 21 };
    struct shadow_config config = { .pool_pages = 1024, .pool_hpa = (uint64_t)1 << 45 };
    struct shadow_census census;
    struct page_image image, copy;
    struct mmu_slots slots;
    struct mmu_mode mode;

    mmu_slots_init(&slots);
    assert_int_equal(mmu_slots_add(&slots, &slot), 0);
    image_init(&image, NULL, NULL);
    mode = hand_made(&image);
    config.slots = &slots;
    config.memory = &copy.memory;
    for (unsigned policy = 0; policy < SHADOW_POLICIES; policy++) {
        struct umbra_error error;
        struct shadow_mmu *mmu;
        struct shadow_vcpu *vcpu;

        memset(&census, 0, sizeof(census));
        image_init_over(&copy, &image);
        config.policy = (enum shadow_policy)policy;
        assert_int_equal(shadow_create(&config, &mmu), 0);
        assert_int_equal(shadow_vcpu_create(mmu, &mode.cpu, &vcpu), 0);
        assert_int_equal(shadow_set_mode(vcpu, &mode), 0);
        assert_int_equal(space_touch(vcpu, &copy.memory, 1 << 20, &census), 0);
        shadow_census(mmu, &census);
        assert_int_equal(shadow_audit(mmu, &error), 0);
        assert_int_equal(census.pages[4] + census.pages[3] + census.pages[2], 3);
        assert_int_equal(census.bytes, shadow_pages(mmu) * MMU_PAGE_SIZE);
        assert_int_equal(census.refused, 1);
        /* vtlb protects nothing: both large pages are whole. */
        if (policy == SHADOW_VTLB) {
            assert_int_equal(census.leaves[2], 2);
            assert_int_equal(census.leaves[1], 10);
        } else {
            assert_int_equal(census.leaves[2], 1);
            assert_int_equal(census.leaves[1], 10 + 512);
            assert_int_equal(census.splintered, 512);
            assert_int_equal(census.pages[1], 2);
            /* Tables may not be written, but one of leaves under unsync. */
            assert_int_equal(census.writable,
                             1 + 3 + 512 - (policy == SHADOW_UNSYNC ? 3 : 4));
        }
        shadow_vcpu_destroy(vcpu);
        shadow_destroy(mmu);
        assert_true(image_find(&copy, L1)[0] & PTE_A); /* the shadow set it in the copy */
        image_destroy(&copy);
        assert_false(image_find(&image, L1)[0] & PTE_A);
    }
    image_destroy(&image);
    mmu_slots_destroy(&slots);
}

/* ---- Images --------------------------------------------------------------------------------------- */

static int fetch(void *context, uint64_t gpa, void *page)
{
    unsigned *fetched = context;

    ++*fetched;
    memset(page, (int)(gpa >> 12), MMU_PAGE_SIZE);
    return gpa < GIB ? 0 : -EFAULT;
}

static void test_image(void **state)
{
    struct page_image image, over;
    unsigned fetched = 0;
    uint64_t value;

    image_init(&image, fetch, &fetched);
    image_init_over(&over, &image);
    for (unsigned i = 0; i < 3000; i++) {
        assert_int_equal(mmu_load(&over.memory, i * MMU_PAGE_SIZE + 8, 1, &value), 0);
        assert_int_equal(value, i & 0xff);
    }
    assert_int_equal(fetched, 3000);
    assert_int_equal(mmu_load(&over.memory, GIB, 8, &value), -EFAULT);
    assert_int_equal(mmu_store(&over.memory, GIB, 8, 1), -EFAULT);
    assert_int_equal(mmu_store(&over.memory, 0x5004, 4, 0x11223344), 0);
    assert_int_equal(mmu_load(&over.memory, 0x5000, 8, &value), 0);
    assert_int_equal(value, 0x1122334405050505);
    assert_int_equal(mmu_load(&image.memory, 0x5000, 8, &value), 0);
    assert_int_equal(value, 0x0505050505050505);
    assert_int_equal(mmu_cmpxchg(&over.memory, 0x5006, 2, 1, 2), -EAGAIN);
    assert_int_equal(mmu_cmpxchg(&over.memory, 0x5006, 2, 0x1122, 0xffff), 0);
    assert_int_equal(mmu_load(&over.memory, 0x5000, 8, &value), 0);
    assert_int_equal(value, 0xffff334405050505);
    image_destroy(&over);
    image_destroy(&image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_circle),
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_image),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
