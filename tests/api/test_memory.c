/* SPDX-License-Identifier: MIT */
/* Memory options and dirty tracking with a running guest; CPU features. */
#include "api_test.h"

#include <errno.h>

enum { PAGE = 4096 };

struct pages {
    unsigned count;
    uint64_t last;
    bool ascending, has_target;
};

static const uint64_t target = 0x300000;

static void note_page(void *context, uint64_t gpa)
{
    struct pages *pages = context;

    pages->ascending &= pages->count == 0 || gpa > pages->last;
    pages->has_target |= gpa == target;
    pages->last = gpa;
    pages->count++;
}

static struct pages fetch(struct umbra_vm *vm)
{
    struct pages pages = { .ascending = true };
    struct umbra_error error;

    assert_ok(umbra_vm_dirty_pages(vm, note_page, &pages, &error));
    return pages;
}

static void check_dirty(const char *how)
{
    struct umbra_config *config = api_config("echo", "x");
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    struct umbra_vm *vm;
    struct pages pages;

    api_set(config, "dirty", how);
    vm = api_create(config);
    fetch(vm); /* what loading wrote */
    assert_int_equal(fetch(vm).count, 0);
    assert_ok(umbra_memory_write(vm, target, "x", 1, &error)); /* a write of ours */
    pages = fetch(vm);
    assert_int_equal(pages.count, 1);
    assert_true(pages.has_target);
    assert_ok(umbra_vm_start(vm, &error)); /* writes of the guest */
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    pages = fetch(vm);
    assert_true(pages.count > 4 && pages.count < 64 * 256);
    assert_true(pages.ascending);
    assert_int_equal(fetch(vm).count, 0);
    umbra_vm_destroy(vm);
}

static void test_dirty_bitmap(void **state)
{
    check_dirty("bitmap");
}

static void test_dirty_ring(void **state)
{
    check_dirty("ring");
}

/* Which of the four pages from 0x2000000 on were written. */
static void note_pages(void *context, uint64_t gpa)
{
    unsigned *seen = context;

    if (gpa >= 0x2000000 && gpa < 0x2004000) {
        *seen |= 1u << (gpa - 0x2000000) / PAGE;
    }
}

static unsigned written(struct umbra_vm *vm)
{
    struct umbra_error error;
    unsigned seen = 0;

    assert_ok(umbra_vm_dirty_pages(vm, note_pages, &seen, &error));
    return seen;
}

/* Writes before, while and after memory is gone are all in the dirty log, each once. */
static void check_dirty_gone(const char *how)
{
    const struct umbra_fault gone = { .size = sizeof(gone),
                                      .kind = UMBRA_FAULT_MEMORY_GONE,
                                      .device = "debugcon",
                                      .address = 0x2000000,
                                      .bytes = PAGE };
    struct umbra_config *config = api_config("faults", "memory=0x2000000");
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;
    struct umbra_vm *vm;

    api_set(config, "dirty", how);
    vm = api_create(config);
    assert_ok(umbra_fault_add(vm, &gone, NULL, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_console_expect(vm, 0, "waiting", 0, 60000, NULL, &error));
    assert_int_equal(written(vm), 1 | 2 | 4); /* the one that is gone, too */
    assert_ok(umbra_memory_show(vm, &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    assert_int_equal(outcome.exit_value, 0);
    assert_int_equal(written(vm), 8);
    assert_ok(umbra_memory_hide(vm, 0x2001000, PAGE, &error));
    assert_ok(umbra_memory_write(vm, 0x2000000, "x", 1, &error));
    assert_int_equal(written(vm), 1);
    assert_ok(umbra_vm_reset(vm, &error)); /* empties memory */
    assert_int_equal(written(vm), 1 | 2 | 4 | 8);
    assert_int_equal(written(vm), 0);
    umbra_vm_destroy(vm);
}

static void test_dirty_gone(void **state)
{
    check_dirty_gone("bitmap");
    check_dirty_gone("ring");
}

static void test_dirty_off(void **state)
{
    struct umbra_vm *vm = api_create(api_config("echo", "x"));
    struct umbra_error error;

    assert_int_not_equal(umbra_vm_dirty_pages(vm, note_page, NULL, &error), 0);
    assert_int_equal(error.code, UMBRA_ERROR_STATE);
    umbra_vm_destroy(vm);
}

/* Each option alone; where the host has none of it, the error says what to do. */
static void test_options(void **state)
{
    static const char *const options[][3] = {
        { "hugepages", "thp", "transparent" },
        { "hugepages", "2M", "/sys/kernel/mm/hugepages" },
        { "prefault", "on", "" },
        { "mergeable", "on", "KSM" },
        { "locked", "on", "ulimit -l" },
    };

    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        struct umbra_config *config = api_config("exit", "value=4");
        struct umbra_outcome outcome = { .size = sizeof(outcome) };
        struct umbra_error error;
        struct umbra_vm *vm;

        api_set(config, options[i][0], options[i][1]);
        if (umbra_vm_create(config, &vm, &error) == 0) {
            assert_ok(umbra_vm_start(vm, &error));
            assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
            assert_int_equal(outcome.exit_value, 4);
            umbra_vm_destroy(vm);
        } else {
            print_message("%s=%s: %s\n", options[i][0], options[i][1], error.message);
            assert_non_null(strstr(error.message, options[i][2]));
        }
        umbra_config_free(config);
    }
}

static void test_features(void **state)
{
    static const struct {
        const char *features;
        const char *says; /* NULL: it works */
    } cases[] = {
        { "-avx512f,-avx2", NULL },
        { "+x2apic", NULL },
        { "+svm,+vmx", "cannot give guests the CPU feature" },
        { "+avx512g", "did you mean \"avx512f\"" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct umbra_config *config = api_config("exit", "value=4");
        struct umbra_error error = { 0 };
        struct umbra_vm *vm = NULL;
        int ret = umbra_config_set(config, "features", cases[i].features, &error);

        if (ret == 0) {
            ret = umbra_vm_create(config, &vm, &error);
        }
        if (cases[i].says == NULL) {
            assert_int_equal(ret, 0);
        } else {
            assert_int_not_equal(ret, 0);
            assert_int_equal(error.code, UMBRA_ERROR_CONFIG);
            assert_non_null(strstr(error.message, cases[i].says));
        }
        umbra_vm_destroy(vm);
        umbra_config_free(config);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dirty_bitmap), cmocka_unit_test(test_dirty_ring),
        cmocka_unit_test(test_dirty_gone),   cmocka_unit_test(test_dirty_off),
        cmocka_unit_test(test_options),      cmocka_unit_test(test_features),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
