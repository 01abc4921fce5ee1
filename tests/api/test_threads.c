/* SPDX-License-Identifier: MIT */
/* One VM used by many threads at once, as the header allows: whatever the order, every call
 * gives one of the results that it may, and the VM ends as it should. */
#include "api_test.h"

#include <errno.h>
#include <pthread.h>

enum { ROUNDS = 200 };

static struct umbra_vm *vm;
static bool done; /* the VM is about to go: read by __atomic_load_n */

static bool may(int result, int a, int b, int c)
{
    return result == 0 || result == a || result == b || result == c;
}

#define ASSERT_MAY(result, a, b, c)                                                      \
    do {                                                                                 \
        int result_ = (result);                                                          \
                                                                                         \
        if (!may(result_, a, b, c)) {                                                    \
            fprintf(stderr, "%s:%d: %d: %s\n", __FILE_NAME__, __LINE__, result_,         \
                    error.message);                                                      \
            abort();                                                                     \
        }                                                                                \
    } while (0)

static bool going(unsigned *round)
{
    return (*round)++ < ROUNDS && !__atomic_load_n(&done, __ATOMIC_ACQUIRE);
}

static void *pause_and_resume(void *context)
{
    struct umbra_error error;

    for (unsigned round = 0; going(&round);) {
        ASSERT_MAY(umbra_vm_pause(vm, &error), -EINVAL, 0, 0);
        ASSERT_MAY(umbra_vm_resume(vm, &error), -EINVAL, 0, 0);
    }
    return NULL;
}

static void *look(void *context)
{
    struct umbra_registers registers = { .size = sizeof(registers) };
    struct umbra_error error = { .message = "" };
    uint64_t word;

    for (unsigned round = 0; going(&round);) {
        char *stats = umbra_vm_stats_json(vm);

        ASSERT_MAY(stats != NULL ? 0 : -ENOMEM, 0, 0, 0);
        free(stats);
        ASSERT_MAY(umbra_registers_get(vm, 0, &registers, &error), -EBUSY, 0, 0);
        ASSERT_MAY(umbra_memory_read(vm, 0x2800000, &word, 8, &error), 0, 0, 0);
        ASSERT_MAY(umbra_memory_read_virtual(vm, 0, 0x200000, &word, 8, &error), -EBUSY,
                   0, 0);
    }
    return NULL;
}

static enum umbra_hook_verdict count_access(void *context, struct umbra_access *access)
{
    __atomic_add_fetch((unsigned *)context, 1, __ATOMIC_RELAXED);
    return UMBRA_HOOK_PASS;
}

static void count_event(void *context, const struct umbra_event *event)
{
    __atomic_add_fetch((unsigned *)context, 1, __ATOMIC_RELAXED);
}

static void *hook(void *context)
{
    struct umbra_error error;
    unsigned count = 0;

    for (unsigned round = 0; going(&round);) {
        uint32_t access, event;

        ASSERT_MAY(umbra_hook_add(vm, UMBRA_PORT_READ | UMBRA_PORT_WRITE, 0, 0x10000,
                                  count_access, &count, &access, &error),
                   0, 0, 0);
        ASSERT_MAY(
            umbra_event_hook_add(vm, 0x7f, NULL, count_event, &count, &event, &error), 0,
            0, 0);
        ASSERT_MAY(umbra_hook_remove(vm, access, &error), 0, 0, 0);
        ASSERT_MAY(umbra_hook_remove(vm, event, &error), 0, 0, 0);
    }
    return NULL;
}

static void *break_things(void *context)
{
    const struct umbra_fault fault = {
        .size = sizeof(fault), .kind = UMBRA_FAULT_IRQ_LOST, .device = "com1", .one_in = 3
    };
    struct umbra_error error;

    for (unsigned round = 0; going(&round);) {
        struct umbra_fault_event event = { .size = sizeof(event) };
        uint32_t id;

        ASSERT_MAY(umbra_fault_add(vm, &fault, &id, &error), 0, 0, 0);
        umbra_fault_event_at(vm, 0, &event);
        ASSERT_MAY(umbra_fault_remove(vm, id, &error), 0, 0, 0);
        ASSERT_MAY(umbra_memory_hide(vm, 0x3000000, 4096, &error), -EEXIST, 0, 0);
        ASSERT_MAY(umbra_memory_show(vm, &error), 0, 0, 0);
        ASSERT_MAY(umbra_clock_jump(vm, UMBRA_CLOCK_RTC | UMBRA_CLOCK_KVM, 1000, &error),
                   0, 0, 0);
    }
    return NULL;
}

static void *talk(void *context)
{
    struct umbra_error error;

    for (unsigned round = 0; going(&round);) {
        ASSERT_MAY(umbra_console_expect(vm, 0, "never", 0, 1, NULL, &error), -ETIMEDOUT,
                   -EPIPE, 0);
        ASSERT_MAY(umbra_console_send(vm, 0, "x", 1), -EAGAIN, 0, 0);
        ASSERT_MAY(umbra_inject_irq(vm, 9, round % 2 != 0, &error), 0, 0, 0);
        ASSERT_MAY(umbra_inject_nmi(vm, 3, &error), -EINVAL, 0, 0);
    }
    return NULL;
}

static void *reset_and_start(void *context)
{
    struct umbra_error error;

    for (unsigned round = 0; going(&round);) {
        if (round % 8 == 0) {
            ASSERT_MAY(umbra_vm_stop(vm, "a test", &error), -EINVAL, 0, 0);
            ASSERT_MAY(umbra_vm_wait(vm, 20, NULL, &error), -EINVAL, -ETIMEDOUT, 0);
        }
        ASSERT_MAY(umbra_vm_reset(vm, &error), 0, 0, 0);
        ASSERT_MAY(umbra_vm_start(vm, &error), -EINVAL, 0, 0);
    }
    return NULL;
}

static void test_threads(void **state)
{
    void *(*const all[])(void *) = {
        pause_and_resume, look, hook, break_things, talk, reset_and_start, look,
        pause_and_resume
    };
    enum { COUNT = sizeof(all) / sizeof(all[0]) };
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_config *config = api_config("ends", "hang");
    struct umbra_error error;
    pthread_t threads[COUNT];

    api_set(config, "rng", "on");
    api_set(config, "cpus", "2");
    vm = api_create(config);
    assert_ok(umbra_vm_start(vm, &error));
    for (unsigned i = 0; i < COUNT; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, all[i], NULL), 0);
    }
    for (unsigned i = 0; i < COUNT; i++) {
        pthread_join(threads[i], NULL);
        __atomic_store_n(&done, i > 0, __ATOMIC_RELEASE); /* two were enough */
    }
    assert_ok(umbra_vm_reset(vm, &error));
    umbra_vm_start(vm, &error); /* -EINVAL if it runs already */
    assert_ok(umbra_console_expect(vm, 0, "ready", 0, 60000, NULL, &error));
    assert_ok(umbra_vm_stop(vm, "a test", &error));
    assert_ok(umbra_vm_wait(vm, 60000, &outcome, &error));
    assert_int_equal(outcome.kind, UMBRA_OUTCOME_STOPPED);
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
