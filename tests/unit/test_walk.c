/* SPDX-License-Identifier: MIT */
/* vcpu/x86_64/walk: translation, permissions, faults, accessed and dirty bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "vcpu/x86_64/walk.h"

#define P      UINT64_C(1)
#define W      UINT64_C(2)
#define U      UINT64_C(4)
#define A      UINT64_C(0x20)
#define D      UINT64_C(0x40)
#define PS     UINT64_C(0x80)
#define NX     (UINT64_C(1) << 63)
#define TABLES 0x10000 /* top, then one page a level below it */
#define FRAME  0x40000 /* what the leaf maps */

#define CR0_WP    (UINT64_C(1) << 16)
#define CR4_SMEP  (UINT64_C(1) << 20)
#define CR4_SMAP  (UINT64_C(1) << 21)
#define RFLAGS_AC (UINT64_C(1) << 18)

struct fixture {
    struct guest_mem *mem;
    struct insn_cpu cpu;
};

static int fixture_setup(void **state)
{
    struct guest_mem_options options = { 0 };
    struct fixture *f = calloc(1, sizeof(*f));

    if (!f || guest_mem_create(&options, &f->mem, NULL) ||
        guest_mem_add(f->mem, 0, 4 * MIB, GUEST_REGION_RAM, NULL) ||
        guest_mem_add(f->mem, 8 * MIB, MIB, GUEST_REGION_ROM, NULL))
        return -1;
    f->cpu.cr0 = 0x80000001 | CR0_WP;
    f->cpu.cr3 = TABLES;
    f->cpu.cr4 = 0x20;
    f->cpu.efer = 0xd00;
    *state = f;
    return 0;
}

static int fixture_teardown(void **state)
{
    struct fixture *f = *state;

    guest_mem_destroy(f->mem);
    free(f);
    return 0;
}

static void put(struct fixture *f, gpa at, uint64_t entry, unsigned size)
{
    assert_int_equal(guest_mem_write(f->mem, at, &entry, size), 0);
}

static uint64_t get(struct fixture *f, gpa at, unsigned size)
{
    uint64_t entry = 0;

    assert_int_equal(guest_mem_read(f->mem, at, &entry, size), 0);
    return entry;
}

/* Map @address by @levels tables of 512; @flags[0] is the leaf's, at level 1 + @large. */
static void map(struct fixture *f, uint64_t address, unsigned levels, unsigned large,
                const uint64_t *flags, gpa frame)
{
    for (unsigned level = levels; level > large; level--) {
        gpa table = TABLES + (uint64_t)(levels - level) * 4096;
        gpa next = level == large + 1 ? frame : table + 4096;

        put(f, table + (address >> (12 + 9 * (level - 1)) & 511) * 8,
            next | flags[level - large - 1], 8);
    }
}

static int translate(struct fixture *f, uint64_t address, enum insn_access access,
                     gpa *physical, struct insn_fault *fault)
{
    *fault = (struct insn_fault){ 0 };
    return walk_translate(f->mem, &f->cpu, address, access, physical, fault);
}

static void assert_fault(struct fixture *f, uint64_t address, enum insn_access access,
                         unsigned code)
{
    struct insn_fault fault;
    gpa at;

    assert_int_equal(translate(f, address, access, &at, &fault), -EFAULT);
    assert_int_equal(fault.vector, 14);
    assert_int_equal(fault.error_code, code);
    assert_int_equal(fault.address, address);
}

static void assert_maps(struct fixture *f, uint64_t address, enum insn_access access,
                        gpa expected)
{
    struct insn_fault fault;
    gpa at = 0;

    assert_int_equal(translate(f, address, access, &at, &fault), 0);
    assert_int_equal(at, expected);
}

static void test_no_paging(void **state)
{
    struct fixture *f = *state;

    f->cpu.cr0 = 1;
    assert_maps(f, 0x1234, INSN_WRITE, 0x1234);
}

static void test_long_mode(void **state)
{
    struct fixture *f = *state;
    const uint64_t flags[] = { P | W, P | W, P | W, P | W, P | W };
    const uint64_t address = UINT64_C(0xffff888012345678);

    map(f, address, 4, 0, flags, FRAME);
    assert_maps(f, address, INSN_READ, FRAME + 0x678);
    assert_int_equal(get(f, TABLES + 0x3000 + (address >> 12 & 511) * 8, 8),
                     FRAME | P | W | A);
    assert_maps(f, address, INSN_WRITE, FRAME + 0x678);
    assert_int_equal(get(f, TABLES + 0x3000 + (address >> 12 & 511) * 8, 8),
                     FRAME | P | W | A | D);
    assert_int_equal(get(f, TABLES + (address >> 39 & 511) * 8, 8) & (A | D), A);
    assert_fault(f, address + 4096, INSN_READ, 0);
    assert_fault(f, address + 4096, INSN_WRITE, 2);
    assert_fault(f, address + 4096, INSN_FETCH, 16);

    f->cpu.cr4 |= 0x1000; /* LA57 */
    map(f, UINT64_C(0x00ff888012345678), 5, 0, flags, FRAME + 0x1000);
    assert_maps(f, UINT64_C(0x00ff888012345678), INSN_READ, FRAME + 0x1678);
}

static void test_large_pages(void **state)
{
    struct fixture *f = *state;
    const uint64_t flags[] = { P | W | PS, P | W, P | W, P | W };
    const uint64_t bad[] = { P | W, P | W, P | W, P | W | PS };

    map(f, 0x40200000, 4, 1, flags, 0x200000);
    assert_maps(f, 0x40212345, INSN_WRITE, 0x212345);
    map(f, UINT64_C(0x8040000000), 4, 2, flags, 0);
    assert_maps(f, UINT64_C(0x8040123456), INSN_READ, 0x123456);
    map(f, 0x40200000, 4, 0, bad, FRAME); /* PS is reserved in the top level */
    assert_fault(f, 0x40200000, INSN_READ, 1 | 8);
}

static void test_permissions(void **state)
{
    struct fixture *f = *state;
    const uint64_t kernel[] = { P, P | W, P | W, P | W };
    const uint64_t user[] = { P | W | U, P | W | U, P | W | U, P | W | U };
    const uint64_t user_mixed[] = { P | W | U, P | U, P | W | U, P | W };
    const uint64_t no_exec[] = { P | W, P | W | NX, P | W, P | W };

    map(f, 0x5000, 4, 0, kernel, FRAME);
    assert_fault(f, 0x5000, INSN_WRITE, 1 | 2);
    f->cpu.cr0 &= ~CR0_WP;
    assert_maps(f, 0x5000, INSN_WRITE, FRAME);
    f->cpu.cpl = 3;
    assert_fault(f, 0x5000, INSN_READ, 1 | 4);
    assert_maps(f, 0x5000, INSN_READ_SYSTEM, FRAME);
    assert_fault(f, 0x5000, INSN_FETCH, 1 | 4 | 16);

    map(f, 0x5000, 4, 0, user, FRAME);
    assert_maps(f, 0x5000, INSN_WRITE, FRAME);
    map(f, 0x5000, 4, 0, user_mixed, FRAME);
    assert_fault(f, 0x5000, INSN_READ, 1 | 4); /* one level without U */
    f->cpu.cpl = 0;
    f->cpu.cr0 |= CR0_WP;
    assert_fault(f, 0x5000, INSN_WRITE, 1 | 2); /* one level without W */

    map(f, 0x5000, 4, 0, user, FRAME);
    f->cpu.cr4 |= CR4_SMAP | CR4_SMEP;
    assert_fault(f, 0x5000, INSN_READ, 1);
    f->cpu.rflags = RFLAGS_AC;
    assert_maps(f, 0x5000, INSN_READ, FRAME);
    assert_fault(f, 0x5000, INSN_READ_SYSTEM, 1); /* AC does not help these */
    assert_fault(f, 0x5000, INSN_FETCH, 1 | 16);

    map(f, 0x5000, 4, 0, no_exec, FRAME);
    assert_maps(f, 0x5000, INSN_READ, FRAME);
    assert_fault(f, 0x5000, INSN_FETCH, 1 | 16);
    f->cpu.efer &= ~UINT64_C(0x800); /* NX is a reserved bit now */
    assert_fault(f, 0x5000, INSN_READ, 1 | 8);
}

static void test_pae(void **state)
{
    struct fixture *f = *state;
    const uint64_t flags[] = { P | W, P | W, P };
    const uint64_t large[] = { P | W | PS, P };

    f->cpu.efer = 0;
    f->cpu.cr3 = TABLES | 0x18; /* bits 4 and 3 are not part of the address */
    map(f, 0xc0201000, 3, 0, flags, FRAME);
    assert_maps(f, 0xc0201004, INSN_WRITE, FRAME + 4); /* the top level has no W */
    assert_int_equal(get(f, TABLES + 3 * 8, 8) & A, 0);
    map(f, 0x80200000, 3, 1, large, 0x200000);
    assert_maps(f, 0x80234567, INSN_READ, 0x234567);
}

static void test_32bit(void **state)
{
    struct fixture *f = *state;

    f->cpu.efer = 0;
    f->cpu.cr4 = 0x10; /* PSE */
    put(f, TABLES + 0x300 * 4, (TABLES + 0x1000) | P | W, 4);
    put(f, TABLES + 0x1000 + 5 * 4, FRAME | P | W, 4);
    assert_maps(f, 0xc0005678, INSN_WRITE, FRAME + 0x678);
    assert_int_equal(get(f, TABLES + 0x1000 + 5 * 4, 4), FRAME | P | W | A | D);
    assert_int_equal(get(f, TABLES + 0x1000 + 6 * 4, 4), 0); /* the neighbour */
    put(f, TABLES + 0x301 * 4, P | W | PS, 4);
    assert_maps(f, 0xc0512345, INSN_READ, 0x112345);
    f->cpu.cr4 = 0; /* no PSE: an ordinary table at 0 */
    assert_fault(f, 0xc0512345, INSN_READ, 0);
}

static void test_copies(void **state)
{
    struct fixture *f = *state;
    const uint64_t flags[] = { P | W, P | W, P | W, P | W };
    const uint64_t read_only[] = { P, P | W, P | W, P | W };
    uint64_t expected[2] = { 1, 2 };
    const uint64_t desired[2] = { 3, 4 };
    struct insn_fault fault = { 0 };
    uint8_t bytes[16];
    bool swapped;

    map(f, 0x7000, 4, 0, flags, FRAME + 0x1000); /* two pages, swapped in memory */
    map(f, 0x8000, 4, 0, flags, FRAME);
    memset(bytes, 0xab, sizeof(bytes));
    assert_int_equal(walk_write(f->mem, &f->cpu, 0x7ff8, bytes, 16, &fault), 0);
    assert_int_equal(get(f, FRAME + 0x1ff8, 8), 0xabababababababab);
    assert_int_equal(get(f, FRAME, 8), 0xabababababababab);
    map(f, 0x8000, 4, 0, read_only, FRAME);
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(walk_write(f->mem, &f->cpu, 0x7ff8, bytes, 16, &fault), -EFAULT);
    assert_int_equal(fault.address, 0x8000);
    assert_int_equal(fault.error_code, 3);
    assert_int_equal(get(f, FRAME + 0x1ff8, 8), 0xabababababababab); /* all or nothing */
    fault.vector = 0;
    assert_int_equal(walk_read(f->mem, &f->cpu, 0x7ff8, bytes, 16, INSN_READ, &fault), 0);
    assert_int_equal(bytes[15], 0xab);

    put(f, FRAME + 0x1100, 1, 8);
    put(f, FRAME + 0x1108, 2, 8);
    assert_int_equal(
        walk_exchange16(f->mem, &f->cpu, 0x7100, expected, desired, &swapped, &fault), 0);
    assert_true(swapped);
    assert_int_equal(get(f, FRAME + 0x1108, 8), 4);
    assert_int_equal(
        walk_exchange16(f->mem, &f->cpu, 0x7100, expected, desired, &swapped, &fault), 0);
    assert_false(swapped);
    assert_int_equal(expected[0], 3);
}

static void test_not_ram(void **state)
{
    struct fixture *f = *state;
    const uint64_t flags[] = { P | W, P | W, P | W, P | W };
    struct insn_fault fault = { 0 };
    uint8_t byte = 0;

    map(f, 0x7000, 4, 0, flags, 0xfee00000); /* a device */
    assert_int_equal(walk_read(f->mem, &f->cpu, 0x7000, &byte, 1, INSN_READ, &fault),
                     -ENXIO);
    map(f, 0x7000, 4, 0, flags, 8 * MIB); /* ROM */
    assert_int_equal(walk_read(f->mem, &f->cpu, 0x7000, &byte, 1, INSN_READ, &fault), 0);
    assert_int_equal(walk_write(f->mem, &f->cpu, 0x7000, &byte, 1, &fault), -ENXIO);
    f->cpu.cr3 = 16 * MIB; /* tables nowhere */
    assert_int_equal(walk_read(f->mem, &f->cpu, 0x7000, &byte, 1, INSN_READ, &fault),
                     -ENXIO);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_no_paging),   TEST(test_long_mode), TEST(test_large_pages),
        TEST(test_permissions), TEST(test_pae),       TEST(test_32bit),
        TEST(test_copies),      TEST(test_not_ram),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
