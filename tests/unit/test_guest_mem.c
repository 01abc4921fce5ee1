/* SPDX-License-Identifier: MIT */
/* memory/: bounds, placement, laziness, dirty bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <sys/mman.h>

#include "base/util.h"
#include "memory/guest_mem.h"

static struct guest_mem *make(struct guest_mem_options options)
{
    struct umbra_error error;
    struct guest_mem *mem;

    assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
    assert_int_equal(guest_mem_add(mem, 4 * GIB, 8 * GIB, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(guest_mem_add(mem, 0, 0xe0000, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(guest_mem_add(mem, 0xe0000, 0x20000, GUEST_REGION_ROM, &error), 0);
    assert_int_equal(guest_mem_add(mem, MIB, 3 * GIB - MIB, GUEST_REGION_RAM, &error), 0);
    return mem;
}

static void test_bounds(void **state)
{
    struct guest_mem *mem = make((struct guest_mem_options){ 0 });
    uint8_t bytes[8192];

    assert_non_null(guest_mem_ptr(mem, 0, 1));
    assert_non_null(guest_mem_ptr(mem, 0, 0xe0000));
    assert_null(guest_mem_ptr(mem, 0, 0xe0001));
    assert_null(guest_mem_ptr(mem, 0, 0));
    assert_null(guest_mem_ptr(mem, 0xe0000, 1));
    assert_non_null(guest_mem_const_ptr(mem, 0xe0000, 0x20000));
    assert_null(guest_mem_ptr(mem, 3 * GIB, 1));
    assert_null(guest_mem_ptr(mem, 3 * GIB - 1, 2));
    assert_null(guest_mem_ptr(mem, UINT64_MAX, 1));
    assert_null(guest_mem_ptr(mem, 4 * GIB, UINT64_MAX));
    assert_null(guest_mem_ptr(mem, 12 * GIB, 1));
    assert_non_null(guest_mem_ptr(mem, 12 * GIB - 1, 1));
    assert_int_equal(guest_mem_read(mem, 0xe0000 - 4096, bytes, 8192), 0);
    assert_int_equal(guest_mem_write(mem, 0xe0000 - 4096, bytes, 8192), -EFAULT);
    assert_int_equal(guest_mem_load(mem, 0xe0000 - 4096, bytes, 8192), 0);
    assert_int_equal(guest_mem_read(mem, 12 * GIB - 1, bytes, 2), -EFAULT);
    assert_int_equal(guest_mem_read(mem, UINT64_MAX, bytes, 2), -EFAULT);
    assert_int_equal(guest_mem_span(mem, 12 * GIB - 5), 5);
    assert_int_equal(guest_mem_span(mem, 12 * GIB), 0);
    assert_int_equal(guest_mem_ram_size(mem), 11 * GIB - 0x20000);
    guest_mem_destroy(mem);
}

static void test_add_rejects(void **state)
{
    struct guest_mem *mem = make((struct guest_mem_options){ 0 });
    struct umbra_error error;
    size_t count;

    assert_int_equal(guest_mem_add(mem, 4 * GIB - 4096, 8192, GUEST_REGION_RAM, &error),
                     -EEXIST);
    assert_int_equal(guest_mem_add(mem, 100 * GIB + 1, 4096, GUEST_REGION_RAM, &error),
                     -EINVAL);
    assert_int_equal(guest_mem_add(mem, 100 * GIB, 0, GUEST_REGION_RAM, &error), -EINVAL);
    assert_int_equal(guest_mem_add(mem, -4096ull, 8192, GUEST_REGION_RAM, &error),
                     -EINVAL);
    guest_mem_regions(mem, &count);
    assert_int_equal(count, 4);
    guest_mem_destroy(mem);
}

static uint64_t resident(const struct guest_region *region)
{
    size_t pages = region->size / 4096, present = 0;
    unsigned char *map = test_malloc(pages);

    assert_int_equal(mincore(region->host, region->size, map), 0);
    for (size_t i = 0; i < pages; i++) {
        present += map[i] & 1;
    }
    test_free(map);
    return present;
}

/* 12 GiB cost nothing until touched, and large regions are congruent to their GPA. */
static void test_lazy_and_aligned(void **state)
{
    static const struct guest_mem_options kinds[] = {
        { .shared = true }, { .backing = GUEST_MEM_4K }, { .mergeable = true }, { 0 }
    };

    for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
        struct guest_mem *mem = make(kinds[k]);
        /* By default the host may give a huge page for the first byte. */
        size_t most = k == ARRAY_SIZE(kinds) - 1 ? 512 : 1;
        const struct guest_region *regions;
        size_t count;

        regions = guest_mem_regions(mem, &count);
        assert_true((regions[count - 1].fd >= 0) == (k < 2));
        for (size_t i = 0; i < count; i++) {
            if (regions[i].size >= GIB) {
                assert_int_equal(((uintptr_t)regions[i].host - regions[i].base) % GIB, 0);
            }
            assert_int_equal(resident(&regions[i]), 0);
        }
        assert_int_equal(guest_mem_fill(mem, 5 * GIB, 0xaa, 4096), 0);
        assert_in_range(resident(&regions[count - 1]), 1, most);
        assert_int_equal(guest_mem_discard(mem, 5 * GIB, 4096), 0);
        assert_int_equal(*(uint8_t *)guest_mem_ptr(mem, 5 * GIB, 1), 0);
        guest_mem_destroy(mem);
    }
}

static void test_dirty(void **state)
{
    struct guest_mem *mem = make((struct guest_mem_options){ 0 });
    const struct guest_region *regions;
    unsigned long bitmap[4] = { 0 };
    size_t count;

    assert_int_equal(guest_mem_dirty_enable(mem, true), 0);
    regions = guest_mem_regions(mem, &count);
    assert_int_equal(guest_mem_write(mem, 4095, "ab", 2), 0);
    guest_mem_mark_dirty(mem, 0xe0000 - 1, UINT64_MAX / 2);
    guest_mem_dirty_take(&regions[0], bitmap);
    assert_int_equal(bitmap[0], 3);
    assert_int_equal(bitmap[3], 1ul << (0xdf - 192));
    bitmap[0] = 0;
    guest_mem_dirty_take(&regions[0], bitmap);
    assert_int_equal(bitmap[0], 0);
    guest_mem_destroy(mem);
}

static void test_private_kinds(void **state)
{
    struct guest_mem_options options = { .backing = GUEST_MEM_THP, .prefault = true };
    struct umbra_error error;
    struct guest_mem *mem;

    assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
    if (guest_mem_add(mem, 0, 4 * MIB, GUEST_REGION_RAM, &error) == 0) {
        size_t count;

        assert_int_equal(guest_mem_regions(mem, &count)[0].fd, -1);
        assert_int_equal(resident(&guest_mem_regions(mem, &count)[0]), 4 * MIB / 4096);
    } else {
        assert_non_null(strstr(error.message, "transparent"));
    }
    guest_mem_destroy(mem);
    options = (struct guest_mem_options){ .backing = GUEST_MEM_2M };
    assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
    assert_int_equal(guest_mem_add(mem, 0, 3 * MIB, GUEST_REGION_RAM, &error), -EINVAL);
    guest_mem_destroy(mem);
}

static void test_release(void **state)
{
    static const struct guest_mem_options kinds[] = { { 0 }, { .mergeable = true } };

    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        struct guest_mem *mem = make(kinds[i]);
        uint64_t released, before;
        uint8_t byte;

        assert_int_equal(guest_mem_page_size(mem), 4096);
        assert_int_equal(guest_mem_resident(mem), 0);
        assert_int_equal(guest_mem_resident_lately(mem), 0);
        assert_int_equal(guest_mem_fill(mem, MIB, 0x5a, 16 * 4096), 0);
        before = guest_mem_resident(mem);
        assert_true(before >= 16 * 4096);
        assert_int_equal(guest_mem_release(mem, MIB + 1, 4 * 4096, &released), 0);
        assert_int_equal(released, 3 * 4096);
        assert_int_equal(guest_mem_resident(mem), before - 3 * 4096);
        guest_mem_read(mem, MIB, &byte, 1);
        assert_int_equal(byte, 0x5a);
        guest_mem_read(mem, MIB + 4096, &byte, 1);
        assert_int_equal(byte, 0);
        guest_mem_read(mem, MIB + 4 * 4096, &byte, 1);
        assert_int_equal(byte, 0x5a);
        assert_int_equal(guest_mem_release(mem, MIB + 5 * 4096 + 1, 4095, &released), 0);
        assert_int_equal(released, 0);
        /* Not RAM, more than one region, nothing. */
        assert_int_equal(guest_mem_release(mem, 0xe0000, 4096, NULL), -EFAULT);
        assert_int_equal(guest_mem_release(mem, 0xdf000, 8192, NULL), -EFAULT);
        assert_int_equal(guest_mem_release(mem, 3 * GIB, 4096, NULL), -EFAULT);
        assert_int_equal(guest_mem_release(mem, UINT64_MAX - 4095, 4096, NULL), -EFAULT);
        assert_int_equal(guest_mem_release(mem, MIB, UINT64_MAX, NULL), -EFAULT);
        assert_int_equal(guest_mem_release(mem, MIB, 0, NULL), -EFAULT);
        assert_int_equal(guest_mem_release(mem, 11 * GIB, GIB, &released), 0);
        assert_int_equal(released, GIB);
        guest_mem_destroy(mem);
    }
}

/* Huge pages go whole; memory that is locked goes too. */
static void test_release_kinds(void **state)
{
    struct guest_mem_options options = { .backing = GUEST_MEM_2M };
    struct umbra_error error;
    struct guest_mem *mem;
    uint64_t released, before;

    assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
    assert_int_equal(guest_mem_page_size(mem), 2 * MIB);
    if (guest_mem_add(mem, 0, 8 * MIB, GUEST_REGION_RAM, &error) == 0) {
        guest_mem_fill(mem, 0, 1, 8 * MIB);
        assert_int_equal(guest_mem_resident(mem), 8 * MIB);
        assert_int_equal(guest_mem_release(mem, MIB, 4 * MIB, &released), 0);
        assert_int_equal(released, 2 * MIB);
        assert_int_equal(guest_mem_resident(mem), 6 * MIB);
    } else {
        print_message("no 2 MiB pages are reserved here\n");
    }
    guest_mem_destroy(mem);
    for (unsigned private = 0; private < 2; private ++) {
        options = (struct guest_mem_options){ .locked = true, .mergeable = private };
        assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
        if (guest_mem_add(mem, 0, MIB, GUEST_REGION_RAM, &error) == 0) {
            guest_mem_fill(mem, 0, 1, MIB); /* under ASan mlock() does nothing */
            before = guest_mem_resident(mem);
            assert_int_equal(guest_mem_release(mem, 0, 64 * KIB, &released), 0);
            assert_int_equal(released, 64 * KIB);
            assert_int_equal(guest_mem_resident(mem), before - 64 * KIB);
            assert_int_equal(guest_mem_discard(mem, 0, MIB), 0);
        } else {
            print_message("a MiB cannot be locked here\n");
        }
        guest_mem_destroy(mem);
    }
}

static void test_holes(void **state)
{
    struct guest_mem_options options = { 0 };
    struct guest_piece pieces[GUEST_MEM_PIECES];
    const struct guest_region *regions;
    struct umbra_error error;
    struct guest_mem *mem;
    uint32_t word = 0x12345678;
    size_t count;

    assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
    assert_int_equal(guest_mem_add(mem, 0, 1 * MIB, GUEST_REGION_RAM, &error), 0);
    assert_int_equal(guest_mem_add(mem, 1 * MIB, 64 * KIB, GUEST_REGION_ROM, &error), 0);
    assert_int_equal(guest_mem_write(mem, 0x5000, &word, 4), 0);
    assert_int_equal(guest_mem_hide(mem, 0x5000, 100), -EINVAL);
    assert_int_equal(guest_mem_hide(mem, 0x5000, 0), -EINVAL);
    assert_int_equal(guest_mem_hide(mem, 1 * MIB, 4096), -EFAULT); /* ROM */
    assert_int_equal(guest_mem_hide(mem, UINT64_MAX - 4095, 4096), -EFAULT);
    assert_int_equal(guest_mem_hide(mem, 0x5000, 0x2000), 0);
    assert_int_equal(guest_mem_hide(mem, 0x6000, 0x2000), -EEXIST);
    assert_int_equal(guest_mem_hide(mem, 0, 0x1000), 0);
    assert_null(guest_mem_ptr(mem, 0x5000, 4));
    assert_null(guest_mem_ptr(mem, 0x4ffe, 4));
    assert_non_null(guest_mem_ptr(mem, 0x4ffc, 4));
    assert_non_null(guest_mem_ptr(mem, 0x7000, 4));
    assert_int_equal(guest_mem_read(mem, 0x5000, &word, 4), -EFAULT);
    assert_int_equal(guest_mem_write(mem, 0x4fff, &word, 4), -EFAULT);
    assert_int_equal(guest_mem_span(mem, 0x1000), 0x4000);
    assert_int_equal(guest_mem_span(mem, 0x5800), 0);
    assert_int_equal(guest_mem_span(mem, 0x7000), 1 * MIB - 0x7000);
    regions = guest_mem_regions(mem, &count);
    assert_int_equal(guest_mem_pieces(mem, &regions[0], pieces), 2);
    assert_int_equal(pieces[0].base, 0x1000);
    assert_int_equal(pieces[0].size, 0x4000);
    assert_int_equal(pieces[1].base, 0x7000);
    assert_int_equal(pieces[1].size, 1 * MIB - 0x7000);
    for (unsigned i = 2; i < GUEST_MEM_MAX_HOLES; i++) {
        assert_int_equal(guest_mem_hide(mem, 0x10000 + i * 0x2000, 0x1000), 0);
    }
    assert_int_equal(guest_mem_hide(mem, 0xf0000, 0x1000), -ENOSPC);
    assert_int_equal(guest_mem_pieces(mem, &regions[0], pieces), GUEST_MEM_MAX_HOLES);
    guest_mem_show(mem);
    word = 0;
    assert_int_equal(guest_mem_read(mem, 0x5000, &word, 4), 0);
    assert_int_equal(word, 0x12345678); /* its contents came back */
    guest_mem_destroy(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),           cmocka_unit_test(test_add_rejects),
        cmocka_unit_test(test_lazy_and_aligned), cmocka_unit_test(test_dirty),
        cmocka_unit_test(test_private_kinds),    cmocka_unit_test(test_release),
        cmocka_unit_test(test_release_kinds),    cmocka_unit_test(test_holes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
