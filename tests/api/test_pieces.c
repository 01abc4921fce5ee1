/* SPDX-License-Identifier: MIT */
/* An instruction whose access is several exits is whole, whatever closes the gate within it:
 * pauses, steps, reports, cores. The guest is tests/guests/pieces.c. */
#include "api_test.h"

enum { ROUNDS = 120, WIDE = 0x10, READ = 0x20, CROSSED = 0xffc, NEXT_PAGE = 0x1000 };

/* What the device expects next; calls are serialised. */
static struct pieces {
    uint64_t low, rounds, reads;
    uint32_t crossed;
    unsigned half, cross_half, byte; /* which piece comes next */
    unsigned holes;
} seen;

static void expect(bool right)
{
    seen.holes += !right;
}

static void mmio_write(void *context, uint64_t offset, unsigned width, uint64_t value)
{
    if (offset == WIDE && width == 8) {
        expect(seen.half == 0);
        seen.low = value;
        seen.half = 1;
    } else if (offset == WIDE + 8 && width == 8) {
        expect(seen.half == 1 && value == seen.low);
        seen.half = 0;
        seen.rounds++;
    } else if (offset == CROSSED && width == 4) {
        expect(seen.cross_half == 0);
        seen.crossed = (uint32_t)value;
        seen.cross_half = 1;
    } else if (offset == NEXT_PAGE && width == 4) {
        expect(seen.cross_half == 1 && (uint32_t)value == seen.crossed);
        seen.cross_half = 0;
    } else {
        expect(false);
    }
}

static uint64_t mmio_read(void *context, uint64_t offset, unsigned width)
{
    if (offset == READ) {
        seen.reads++;
    }
    return seen.reads * UINT64_C(0x100000001);
}

static void port_write(void *context, uint64_t offset, unsigned width, uint64_t value)
{
    expect(value == seen.byte);
    seen.byte = (seen.byte + 1) % 8;
}

/* The guest has begun, and is paused. */
static struct umbra_vm *start(void)
{
    const struct umbra_device mmio = { .size = sizeof(mmio),
                                       .name = "pieces",
                                       .mmio = true,
                                       .base = 0xd8000000,
                                       .length = 0x2000,
                                       .read = mmio_read,
                                       .write = mmio_write };
    const struct umbra_device port = { .size = sizeof(port),
                                       .name = "bytes",
                                       .base = 0x300,
                                       .length = 1,
                                       .write = port_write };
    struct umbra_vm *vm = api_create(api_config("pieces", ""));
    struct umbra_error error;

    memset(&seen, 0, sizeof(seen));
    assert_ok(umbra_device_add(vm, &mmio, &error));
    assert_ok(umbra_device_add(vm, &port, &error));
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_console_expect(vm, 0, "ready", 0, 60000, NULL, &error));
    assert_ok(umbra_vm_pause(vm, &error));
    return vm;
}

/* The VM stands still: everything that was begun has come. */
static void assert_whole(void)
{
    assert_int_equal(seen.holes, 0);
    assert_int_equal(seen.half, 0);
    assert_int_equal(seen.cross_half, 0);
}

static void finish(struct umbra_vm *vm)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error;

    assert_ok(umbra_vm_stop(vm, NULL, &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind,
                     UMBRA_OUTCOME_STOPPED); /* not: the guest read halves */
    umbra_vm_destroy(vm);
}

static void test_pause(void **state)
{
    struct umbra_vm *vm = start();
    struct umbra_error error;

    /* As often as that, and as long as it takes for the guest to get around. */
    for (unsigned i = 0; i < ROUNDS || seen.rounds == 0; i++) {
        assert_ok(umbra_vm_resume(vm, &error));
        assert_ok(umbra_vm_pause(vm, &error));
        assert_whole();
    }
    finish(vm);
}

static void test_report(void **state)
{
    struct umbra_vm *vm = start();
    struct umbra_error error;

    for (unsigned i = 0; i < ROUNDS / 4 || seen.rounds == 0; i++) {
        char *report;

        assert_ok(umbra_vm_resume(vm, &error));
        report = umbra_vm_report(vm, &error);
        assert_non_null(report);
        free(report);
        assert_ok(umbra_vm_pause(vm, &error));
        assert_whole();
    }
    finish(vm);
}

static void test_step(void **state)
{
    struct umbra_stop stop = { .size = sizeof(stop) };
    struct umbra_vm *vm = start();
    struct umbra_error error;
    uint64_t before;

    before = seen.rounds;
    for (unsigned i = 0; i < ROUNDS && seen.rounds < before + 2; i++) {
        assert_ok(umbra_vm_step(vm, 0, &stop, &error));
        assert_whole();
    }
    assert_true(seen.rounds >= before + 2);
    finish(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_pause),
                                        cmocka_unit_test(test_report),
                                        cmocka_unit_test(test_step) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
