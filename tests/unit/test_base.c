/* SPDX-License-Identifier: MIT */
/* base/: sizes and errors. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "base/error.h"
#include "base/util.h"

static void test_size_parse(void **state)
{
    uint64_t v;

    assert_int_equal(size_parse("512M", &v), 0);
    assert_int_equal(v, 512 * MIB);
    assert_int_equal(size_parse("4GiB", &v), 0);
    assert_int_equal(v, 4 * GIB);
    assert_int_equal(size_parse("0x1000", &v), 0);
    assert_int_equal(v, 4096);
    assert_int_equal(size_parse("", &v), -EINVAL);
    assert_int_equal(size_parse("-1", &v), -EINVAL);
    assert_int_equal(size_parse("12Q", &v), -EINVAL);
    assert_int_equal(size_parse("99999999P", &v), -ERANGE);
    assert_int_equal(size_parse("99999999999999999999", &v), -ERANGE);
}

static void test_size_format(void **state)
{
    char text[32];

    assert_string_equal(size_format(512 * MIB, text, sizeof(text)), "512M");
    assert_string_equal(size_format(12345, text, sizeof(text)), "12345");
    assert_string_equal(size_format(0, text, sizeof(text)), "0");
}

static void test_deadline(void **state)
{
    static const struct {
        uint64_t from_ns, ms, expected;
    } rows[] = {
        { 0, 0, 0 },
        { 5, 1, 1000005 },
        { 5, INT64_MAX, INT64_MAX },
        { 5, UINT64_MAX, INT64_MAX },
        { 5, INT64_MAX / 1000000, INT64_MAX / 1000000 * 1000000 + 5 },
        { INT64_MAX - 999999, 1, INT64_MAX },
        { UINT64_MAX, 1, INT64_MAX },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(deadline_after(rows[i].from_ns, rows[i].ms), rows[i].expected);
    }
    assert_int_equal(timespec_of(INT64_MAX).tv_sec, INT64_MAX / 1000000000);
    assert_int_equal(timespec_of(INT64_MAX).tv_nsec, INT64_MAX % 1000000000);
}

static void test_error(void **state)
{
    struct umbra_error error;

    assert_int_equal(
        error_errno(&error, UMBRA_ERROR_INTERNAL, EACCES, "open %s", "/dev/kvm"),
        -EACCES);
    assert_int_equal(error.code, UMBRA_ERROR_PERMISSION);
    error_prefix(&error, "vm '%s'", "web");
    assert_string_equal(error.message, "vm 'web': open /dev/kvm: Permission denied");
    assert_int_equal(error_set(NULL, UMBRA_ERROR_CONFIG, 0, "x"), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_size_parse),
        cmocka_unit_test(test_size_format),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
