/* SPDX-License-Identifier: MIT */
/* The kernels of this machine, loaded for real: those that UMBRA_TEST_KERNELS names
 * (colons between) and those in /boot. */
#include "unit/boot_fixture.h"

#include <glob.h>

static void check_kernel(const char *path)
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
    assert_non_null(strstr(f.entry.description, "unpacked on the host"));
    f.request.decompress_in_guest = true;
    assert_int_equal(boot_load(&f.request, &f.entry, &f.error), 0);
    assert_int_equal(f.entry.rip, 16 * MIB + 0x200);
    boot_fixture_assert_text(&f, boot_fixture_read(&f, f.entry.rsi + 0x228, 4),
                             f.request.append);
    boot_fixture_teardown(&f);
}

static void test_kernels(void **state)
{
    char **paths = *state;

    for (; *paths != NULL; paths++) {
        check_kernel(*paths);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test_prestate(test_kernels, NULL) };
    char *paths[8] = { NULL }, *named = getenv("UMBRA_TEST_KERNELS");
    struct CMUnitTest test = tests[0];
    glob_t found = { 0 };
    unsigned count = 0;

    for (char *path; count < 4 && (path = strsep(&named, ":")) != NULL;) {
        if (path[0] != '\0') {
            paths[count++] = path;
        }
    }
    glob("/boot/vmlinuz-*-amd64", 0, NULL, &found);
    for (size_t i = 0; i < found.gl_pathc && count < 6; i++) {
        paths[count++] = found.gl_pathv[i];
    }
    if (count == 0) {
        printf("SKIP: no kernel in /boot; name some in UMBRA_TEST_KERNELS\n");
        globfree(&found);
        return 77;
    }
    test.initial_state = paths;
    int failed = _cmocka_run_group_tests("kernels", &test, 1, NULL, NULL);
    globfree(&found);
    return failed;
}
