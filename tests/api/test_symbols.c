/* SPDX-License-Identifier: MIT */
/* Names of a guest: looked up both ways, for memory, breakpoints and reports. */
#include "api_test.h"

#include <errno.h>

enum { PATIENCE_MS = 60000 };

static struct umbra_symbol symbol_of(struct umbra_vm *vm, const char *name)
{
    struct umbra_symbol symbol = { .size = sizeof(symbol) };
    struct umbra_error error;

    assert_ok(umbra_symbol_lookup(vm, name, &symbol, &error));
    return symbol;
}

static void test_lookup(void **state)
{
    struct umbra_vm *vm = api_create(api_config("echo", ""));
    struct umbra_symbol main = symbol_of(vm, "guest_main"), at = { .size = sizeof(at) };
    struct umbra_error error;

    assert_string_equal(main.name, "guest_main");
    assert_int_equal(main.type, 'T');
    assert_true(main.length > 8);
    assert_int_equal(symbol_of(vm, "guest_main+0x4").offset, 4);
    assert_int_equal(symbol_of(vm, "guest_main+0x4").address, main.address);
    assert_ok(umbra_symbol_at(vm, main.address + 3, &at, &error));
    assert_string_equal(at.name, "guest_main");
    assert_int_equal(at.offset, 3);
    assert_int_equal(umbra_symbol_lookup(vm, "no_such_name", &at, &error), -ENOENT);
    assert_int_equal(umbra_symbol_lookup(vm, "", &at, &error), -EINVAL);
    assert_int_equal(umbra_symbol_lookup(vm, "guest_main+", &at, &error), -EINVAL);
    assert_int_equal(umbra_symbol_lookup(vm, "guest_main+-1", &at, &error), -EINVAL);
    assert_int_equal(umbra_symbol_at(vm, 8, &at, &error), -ENOENT);
    umbra_vm_destroy(vm);
}

static void test_files(void **state)
{
    struct umbra_config *config = api_config("exit", "value=0");
    const char *folder = getenv("UMBRA_GUESTS");
    struct umbra_symbol symbol;
    struct umbra_error error;
    struct umbra_vm *vm;
    char path[4096];
    uint64_t first;

    /* A stripped view of the guest: only what was given is known. */
    snprintf(path, sizeof(path), "%s/echo.elf", folder != NULL ? folder : ".");
    vm = api_create(config);
    first = symbol_of(vm, "guest_main").address;
    assert_ok(umbra_symbols_load(vm, path, 0x40000000, &error));
    symbol = symbol_of(vm, "guest_main");
    assert_true(symbol.address > 0x40000000);
    assert_true(first < 0x40000000);
    assert_true(umbra_symbols_load(vm, "/dev/null", 0, &error) < 0);
    assert_non_null(strstr(error.message, "/dev/null"));
    assert_true(umbra_symbols_load(vm, "/nonexistent", 0, &error) < 0);
    umbra_vm_destroy(vm);

    config = api_config("exit", "value=0");
    api_set(config, "symbols", "/dev/null");
    assert_true(umbra_vm_create(config, &vm, &error) < 0);
    assert_non_null(strstr(error.message, "symbols '/dev/null'"));
    umbra_config_free(config);
}

static void test_use(void **state)
{
    struct umbra_vm *vm = api_create(api_config("echo", "one two"));
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_symbol main = symbol_of(vm, "guest_main");
    uint8_t by_name[8], by_address[8], changed;
    struct umbra_error error;
    char *report;

    assert_ok(umbra_breakpoint_add_symbol(vm, UMBRA_BREAKPOINT_SOFTWARE, "guest_main", 1,
                                          &error));
    assert_true(umbra_breakpoint_add_symbol(vm, UMBRA_BREAKPOINT_SOFTWARE, "nothing", 1,
                                            &error) < 0);
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait_stop(vm, PATIENCE_MS, &stop, &error));
    assert_int_equal(stop.kind, UMBRA_STOP_BREAKPOINT);
    assert_int_equal(stop.pc, main.address);
    assert_ok(umbra_memory_read_symbol(vm, 0, "guest_main+1", by_name, 8, &error));
    assert_ok(umbra_memory_read_virtual(vm, 0, main.address + 1, by_address, 8, &error));
    assert_memory_equal(by_name, by_address, 8);
    changed = (uint8_t)~by_name[0];
    assert_ok(umbra_memory_write_symbol(vm, 0, "guest_main+1", &changed, 1, &error));
    assert_ok(umbra_memory_read_virtual(vm, 0, main.address + 1, by_address, 1, &error));
    assert_int_equal(by_address[0], changed);
    assert_ok(umbra_memory_write_symbol(vm, 0, "guest_main+1", by_name, 1, &error));
    report = umbra_vm_report(vm, &error);
    assert_non_null(report);
    assert_non_null(strstr(report, "state    paused"));
    assert_non_null(strstr(report, "echo.elf: symbol table"));
    assert_non_null(strstr(report, "rip guest_main+0x0"));
    assert_non_null(strstr(report, "  #0  "));
    assert_non_null(strstr(report, "guest_start+0x"));
    assert_non_null(strstr(report, "page walk of rsp"));
    assert_non_null(strstr(report, "last exits"));
    free(report);
    assert_ok(umbra_breakpoint_remove(vm, UMBRA_BREAKPOINT_SOFTWARE, stop.pc, 1, &error));
    assert_ok(umbra_vm_resume(vm, &error));
    assert_ok(umbra_vm_wait(vm, PATIENCE_MS, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    report = umbra_vm_report(vm, &error);
    assert_non_null(report);
    assert_non_null(strstr(report, "state    ended"));
    assert_non_null(strstr(report, "| arg 1 <two>"));
    free(report);
    assert_ok(umbra_vm_reset(vm, &error));
    assert_int_equal(symbol_of(vm, "guest_main").address, main.address);
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lookup),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
