/* SPDX-License-Identifier: MIT */
/* Looking and touching: registers, memory, steps, breakpoints, watchpoints. */
#include "api_test.h"

#include <errno.h>

enum { STEPS = 6, RSP = 4 };

static struct umbra_registers registers_of(struct umbra_vm *vm)
{
    struct umbra_registers registers = { .size = sizeof(registers) };
    struct umbra_error error;

    assert_ok(umbra_registers_get(vm, 0, &registers, &error));
    return registers;
}

/* A started VM, stopped at its very first instruction. */
static struct umbra_vm *start_at_entry(void)
{
    struct umbra_vm *vm = api_create(api_config("echo", "one two"));
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_error error;
    uint64_t entry = registers_of(vm).rip;

    assert_ok(umbra_breakpoint_add(vm, UMBRA_BREAKPOINT_HARDWARE, entry, 1, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait_stop(vm, 60000, &stop, &error));
    assert_int_equal(stop.kind, UMBRA_STOP_BREAKPOINT);
    assert_int_equal(stop.pc, entry);
    assert_ok(umbra_breakpoint_remove(vm, UMBRA_BREAKPOINT_HARDWARE, entry, 1, &error));
    return vm;
}

static void run_to_end(struct umbra_vm *vm)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;

    assert_ok(umbra_vm_resume(vm, &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_EXIT);
    assert_non_null(strstr(outcome.console_tail, "arg 1 <two>"));
    umbra_vm_destroy(vm);
}

static void test_step_and_break(void **state)
{
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_vm *vm = start_at_entry();
    struct umbra_error error;
    uint64_t path[STEPS];

    for (int i = 0; i < STEPS; i++) {
        assert_ok(umbra_vm_step(vm, 0, &stop, &error));
        assert_int_equal(stop.kind, UMBRA_STOP_STEP);
        path[i] = registers_of(vm).rip;
        assert_int_equal(path[i], stop.pc);
    }
    assert_ok(umbra_vm_reset(vm, &error));
    assert_ok(
        umbra_breakpoint_add(vm, UMBRA_BREAKPOINT_SOFTWARE, path[STEPS - 1], 1, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait_stop(vm, 60000, &stop, &error));
    assert_int_equal(stop.kind, UMBRA_STOP_BREAKPOINT);
    assert_int_equal(stop.pc, path[STEPS - 1]);
    assert_int_equal(registers_of(vm).rip, path[STEPS - 1]);
    run_to_end(vm); /* the breakpoint is stepped over */
}

static void test_watchpoint(void **state)
{
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_vm *vm = start_at_entry();
    struct umbra_error error;
    uint64_t stack;

    /* Find the stack: step until the stack pointer is set, then watch the next push. */
    do {
        assert_ok(umbra_vm_step(vm, 0, &stop, &error));
        stack = registers_of(vm).gpr[RSP];
    } while (stack == 0);
    stack = (stack - 8) & ~7ull;
    assert_ok(umbra_breakpoint_add(vm, UMBRA_WATCHPOINT_WRITE, stack, 8, &error));
    assert_ok(umbra_vm_resume(vm, &error));
    assert_ok(umbra_vm_wait_stop(vm, 60000, &stop, &error));
    if (stop.kind == UMBRA_STOP_ENDED) {
        /* KVM's instruction emulator does not check data breakpoints. */
        print_message("SKIP watchpoint: this KVM interprets guest kernels\n");
        umbra_vm_destroy(vm);
        return;
    }
    assert_int_equal(stop.kind, UMBRA_STOP_WATCHPOINT);
    assert_int_equal(stop.address, stack);
    assert_ok(umbra_breakpoint_remove(vm, UMBRA_WATCHPOINT_WRITE, stack, 8, &error));
    run_to_end(vm);
}

static void test_registers_and_memory(void **state)
{
    struct umbra_vm *vm = start_at_entry();
    struct umbra_registers registers = registers_of(vm), again;
    struct umbra_error error;
    uint8_t bytes[64], virtual_bytes[64];
    uint64_t gpa;

    registers.gpr[2] = 0x123456789abcdef0;
    registers.cr2 = 0xdeadbeef000;
    assert_ok(umbra_registers_set(vm, 0, &registers, &error));
    again = registers_of(vm);
    assert_memory_equal(&again, &registers, sizeof(again));
    assert_ok(umbra_translate(vm, 0, registers.rip, &gpa, &error));
    assert_ok(umbra_memory_read(vm, gpa, bytes, sizeof(bytes), &error));
    assert_ok(umbra_memory_read_virtual(vm, 0, registers.rip, virtual_bytes,
                                        sizeof(virtual_bytes), &error));
    assert_memory_equal(bytes, virtual_bytes, sizeof(bytes));
    assert_ok(umbra_memory_write(vm, 0x200000, "written", 8, &error));
    assert_ok(umbra_memory_read(vm, 0x200000, bytes, 8, &error));
    assert_string_equal((char *)bytes, "written");
    assert_int_equal(umbra_memory_read(vm, UINT64_C(1) << 40, bytes, 8, &error), -EFAULT);
    assert_int_equal(umbra_memory_write(vm, 0xe0000, bytes, 8, &error), -EFAULT);
    assert_int_not_equal(umbra_registers_get(vm, 7, &registers, &error), 0);
    run_to_end(vm);
}

static void test_misuse(void **state)
{
    struct umbra_vm *vm = api_create(api_config("ends", "hang"));
    struct umbra_registers registers = { .size = sizeof(registers) };
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;

    assert_int_equal(umbra_vm_step(vm, 0, NULL, &error), -EBUSY);
    assert_ok(umbra_vm_start(vm, &error));
    assert_int_not_equal(umbra_registers_get(vm, 0, &registers, &error), 0);
    assert_int_equal(error.code, UMBRA_ERROR_STATE);
    assert_int_equal(umbra_breakpoint_add(vm, UMBRA_BREAKPOINT_HARDWARE, 0, 1, &error),
                     -EBUSY);
    assert_int_equal(umbra_vm_wait_stop(vm, 1, NULL, &error), -ETIMEDOUT);
    assert_ok(umbra_vm_pause(vm, &error));
    assert_int_equal(umbra_breakpoint_add(vm, UMBRA_WATCHPOINT_WRITE, 3, 8, &error),
                     -EINVAL);
    assert_int_equal(umbra_breakpoint_remove(vm, UMBRA_WATCHPOINT_WRITE, 8, 8, &error),
                     -ENOENT);
    assert_ok(umbra_vm_stop(vm, "enough", &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_STOPPED);
    assert_string_equal(outcome.reason, "enough");
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_and_break),
        cmocka_unit_test(test_watchpoint),
        cmocka_unit_test(test_registers_and_memory),
        cmocka_unit_test(test_misuse),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
