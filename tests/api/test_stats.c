/* SPDX-License-Identifier: MIT */
/* What was counted, as structs: exits by reason and by port, and KVM's own numbers. */
#include "api_test.h"

#include <errno.h>
#include <time.h>

struct sums {
    uint64_t reasons, accesses, exit_port, histogram;
    unsigned stats, histograms, named_exits;
    uint64_t last_exits;
};

static void add_exit(void *context, const struct umbra_exit_counter *counter)
{
    struct sums *sums = context;
    uint64_t in_buckets = 0;

    assert_int_equal(counter->size, sizeof(*counter));
    assert_int_equal(counter->vcpu, 0);
    assert_true(counter->count > 0);
    for (unsigned i = 0; i < counter->buckets; i++) {
        in_buckets += counter->bucket_count[i];
        assert_true(i == 0 || counter->below_ns[i] >= counter->below_ns[i - 1]);
    }
    assert_int_equal(in_buckets, counter->count);
    if (counter->access == 0) {
        assert_true(counter->reason[0] != '\0');
        sums->reasons += counter->count;
    } else {
        assert_string_equal(counter->reason, "");
        sums->accesses += counter->count;
        if (counter->access == UMBRA_PORT_WRITE && counter->key == 0xf4) {
            sums->exit_port += counter->count;
        }
    }
}

static void add_stat(void *context, const struct umbra_kvm_stat *stat)
{
    struct sums *sums = context;

    assert_int_equal(stat->size, sizeof(*stat));
    assert_in_range(stat->count, 1, 64);
    assert_true(stat->base == 2 || stat->base == 10);
    assert_true(stat->name[0] != '\0');
    sums->stats++;
    sums->histograms += stat->kind >= UMBRA_KVM_STAT_LINEAR_HISTOGRAM;
    if (strcmp(stat->name, "exits") == 0) {
        sums->named_exits++;
        sums->last_exits = stat->values[0];
    }
}

static void test_stats(void **state)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_vm *vm = api_create(api_config("exit", "value=0"));
    struct sums sums = { 0 }, machine = { 0 };
    struct umbra_error error;
    int result;

    assert_ok(umbra_vm_exits(vm, add_exit, &sums, &error));
    assert_int_equal(sums.reasons, 0);
    assert_ok(umbra_vm_start(vm, &error));
    assert_ok(umbra_vm_wait(vm, 120000, &outcome, &error));
    assert_ok(umbra_vm_exits(vm, add_exit, &sums, &error));
    assert_int_equal(sums.exit_port, 1);
    assert_true(sums.reasons >= sums.accesses && sums.accesses > 0);
    assert_int_equal(umbra_vm_exits(vm, NULL, NULL, &error), -EINVAL);
    assert_int_equal(umbra_vm_kvm_stats(vm, 1, add_stat, &sums, &error), -EINVAL);
    assert_int_equal(umbra_vm_kvm_stats(vm, -2, add_stat, &sums, &error), -EINVAL);
    assert_int_equal(umbra_vm_kvm_stats(vm, 0, NULL, &sums, &error), -EINVAL);
    result = umbra_vm_kvm_stats(vm, 0, add_stat, &sums, &error);
    if (result != -ENOTSUP) {
        assert_ok(result);
        assert_int_equal(sums.named_exits, 1);
        assert_true(sums.last_exits > 0);
        assert_true(sums.histograms > 0);
        assert_ok(umbra_vm_kvm_stats(vm, -1, add_stat, &machine, &error));
        assert_true(machine.stats > 0);
    }
    umbra_vm_destroy(vm);
}

/* What the guest has not touched is not taken, what is written is; a sample is a second old
 * at most. */
static void test_resident(void **state)
{
    enum { MIB = 1 << 20, WRITTEN = 8 * MIB };
    struct umbra_vm *vm = api_create(api_config("exit", "value=0"));
    static uint8_t bytes[WRITTEN];
    uint64_t before, after = 0;
    struct umbra_error error;

    assert_ok(umbra_memory_resident(vm, &before, &error));
    assert_in_range(before, 1, 32 * MIB); /* the loaded kernel, of 64 MiB */
    memset(bytes, 0x5a, sizeof(bytes));
    assert_ok(umbra_memory_write(vm, 40 * MIB, bytes, sizeof(bytes), &error));
    for (unsigned tries = 0; after < before + WRITTEN && tries < 6000; tries++) {
        nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
        assert_ok(umbra_memory_resident(vm, &after, &error));
    }
    assert_in_range(after, before + WRITTEN, 64 * MIB);
    umbra_vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_resident),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
