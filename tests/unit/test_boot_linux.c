/* SPDX-License-Identifier: MIT */
/* bzImage loading: headers, every compression, zero page, initrd, hostile input, and the
 * kernels of this machine. */
#include "unit/boot_fixture.h"

#include <errno.h>
#include <glob.h>

/* Check what every Linux entry has: zero page with map, command line and RSDP. */
static void check_zero_page(const struct boot_fixture *f)
{
    gpa page = f->entry.rsi;
    uint64_t usable = 0;

    assert_int_equal(boot_fixture_read(f, page + 0x1fe, 2), 0xaa55);
    assert_int_equal(boot_fixture_read(f, page + 0x202, 4), 0x53726448);
    assert_int_equal(boot_fixture_read(f, page + 0x1ef, 1), 0);
    assert_int_equal(boot_fixture_read(f, page + 0x070, 8), BOARD_ROM_BASE);
    boot_fixture_assert_text(f, boot_fixture_read(f, page + 0x228, 4), f->request.append);
    for (unsigned i = 0; i < boot_fixture_read(f, page + 0x1e8, 1); i++) {
        gpa at = page + 0x2d0 + 20 * i;

        if (boot_fixture_read(f, at + 16, 4) == 1) {
            usable += boot_fixture_read(f, at + 8, 8);
        }
    }
    assert_int_equal(usable, guest_mem_ram_size(f->mem) - (MIB - BOARD_EBDA_BASE));
}

static void check_real_kernel(const char *path)
{
    struct boot_fixture f;
    int result;

    boot_fixture_setup(&f, 2, 512 * MIB);
    f.request.kernel_path = path;
    f.request.append = "console=ttyS0";
    result = boot_load(&f.request, &f.entry, &f.error);
    print_message("%s: %s\n", path, result == 0 ? f.entry.description : f.error.message);
    assert_int_equal(result, 0);
    assert_int_equal(f.entry.kind, BOOT_IMAGE_BZIMAGE);
    assert_true(f.entry.linux_kernel);
    assert_int_equal(f.entry.mode, BOOT_MODE_LONG);
    assert_int_equal(f.entry.rip, 16 * MIB);
    check_zero_page(&f);
    f.request.decompress_in_guest = true;
    assert_int_equal(boot_load(&f.request, &f.entry, &f.error), 0);
    assert_int_equal(f.entry.rip, 16 * MIB + 0x200);
    print_message("%s: %s\n", path, f.entry.description);
    check_zero_page(&f);
    boot_fixture_teardown(&f);
}

/* Kernels named in UMBRA_TEST_KERNELS (colons between), and those in /boot. */
static void test_real_kernels(void **state)
{
    const char *named = getenv("UMBRA_TEST_KERNELS");
    char *copy = strdup(named != NULL ? named : ""), *rest = copy, *path;
    glob_t found = { 0 };
    unsigned count = 0;

    (void)state;
    assert_non_null(copy);
    while ((path = strsep(&rest, ":")) != NULL) {
        if (path[0] != '\0') {
            check_real_kernel(path);
            count++;
        }
    }
    free(copy);
    if (glob("/boot/vmlinuz-*", 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc && i < 2; i++, count++) {
            check_real_kernel(found.gl_pathv[i]);
        }
    }
    globfree(&found);
    if (count == 0) {
        print_message("SKIP: no kernel in /boot; set UMBRA_TEST_KERNELS to some\n");
        skip();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_kernels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
