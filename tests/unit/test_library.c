/* SPDX-License-Identifier: MIT */
/* Libraries loaded on demand: found, absent, and without the function wanted. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dlfcn.h>

#include "base/library.h"
#include "base/util.h"

struct zlib {
    const char *(*version)(void);
};

static void test_loads(void **state)
{
    const struct library_symbol symbols[] = {
        { "zlibVersion", offsetof(struct zlib, version) },
    };
    struct zlib zlib = { 0 };

    assert_int_equal(library_load("libz.so.1", "zlib1g", symbols, 1, &zlib, NULL, NULL),
                     0);
    assert_int_equal(zlib.version()[0], '1');
}

static void test_refuses(void **state)
{
    const struct library_symbol symbols[] = { { "zlib_no_such", 0 } };
    struct umbra_error error = { 0 };
    void *address = NULL;

    assert_int_equal(
        library_load("libabsent.so.9", "libabsent9", symbols, 1, &address, NULL, &error),
        -ENOENT);
    assert_non_null(strstr(error.message, "libabsent.so.9"));
    assert_non_null(strstr(error.message, "apt-get install libabsent9"));
    assert_int_equal(
        library_load("libz.so.1", "zlib1g", symbols, 1, &address, NULL, &error), -ENOENT);
    assert_non_null(strstr(error.message, "zlib_no_such"));
    assert_null(address);
}

/* A library that is the caller's goes when the last of its users has left. */
static void test_unloads(void **state)
{
    const struct library_symbol symbols[] = { { "lzma_version_string", 0 } };
    void *first, *second, *address;

    if (dlopen("liblzma.so.5", RTLD_NOW | RTLD_NOLOAD) != NULL) {
        skip(); /* something else of this program has it */
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(library_load("liblzma.so.5", "liblzma5", symbols, 1, &address,
                                      i == 0 ? &first : &second, NULL),
                         0);
    }
    library_unload(first);
    assert_non_null(dlopen("liblzma.so.5", RTLD_NOW | RTLD_NOLOAD));
    library_unload(second);
    library_unload(second); /* the count of the line above */
    assert_null(dlopen("liblzma.so.5", RTLD_NOW | RTLD_NOLOAD));
    library_unload(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loads),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_unloads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
