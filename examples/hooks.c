/* SPDX-License-Identifier: MIT */
/*
 * Fault injection by a hook: some reads of a port, chosen by a seed, give a wrong value.
 * The same seed injects the same faults, so a failure that it provokes can be had again.
 */
#include <stdio.h>
#include <stdlib.h>

#include <umbra/umbra.h>

enum { ONE_IN = 4 }; /* reads that go wrong */

struct fault {
    uint64_t random; /* the generator's state: the seed at first */
    uint64_t reads, injected;
    uint8_t wrong;
};

/* SplitMix64: small, and good for any seed. */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* Runs on the vCPU's thread; with one vCPU the reads come in the guest's own order. */
static enum umbra_hook_verdict inject(void *context, struct umbra_access *access)
{
    struct fault *fault = context;

    fault->reads++;
    if (random_next(&fault->random) % ONE_IN != 0) {
        return UMBRA_HOOK_PASS; /* the device answers */
    }
    fault->injected++;
    if (fault->injected <= 5) {
        printf("read %llu of port 0x%llx gives 0x%02x\n",
               (unsigned long long)fault->reads, (unsigned long long)access->address,
               fault->wrong);
    }
    access->value = fault->wrong * UINT64_C(0x0101010101010101);
    return UMBRA_HOOK_HANDLED; /* the device is not asked */
}

static int run(char **argv, struct fault *fault, struct umbra_outcome *outcome,
               struct umbra_error *error)
{
    struct umbra_config *config;
    struct umbra_vm *vm = NULL;
    uint32_t hook;
    int result = umbra_config_new(&config);

    if (result != 0) {
        return result;
    }
    result = umbra_config_set(config, "kernel", argv[1], error);
    if (result == 0) {
        result = umbra_config_set(config, "timeout", "60s", error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, &vm, error);
    }
    umbra_config_free(config);
    if (result == 0) {
        result = umbra_hook_add(vm, UMBRA_PORT_READ, strtoul(argv[2], NULL, 0), 1, inject,
                                fault, &hook, error);
    }
    if (result == 0) {
        result = umbra_vm_start(vm, error);
    }
    if (result == 0) {
        result = umbra_vm_wait(vm, -1, outcome, error);
    }
    umbra_vm_destroy(vm);
    return result;
}

int main(int argc, char **argv)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error = { .message = "" };
    struct fault fault = { 0 };

    if (argc != 5) {
        fprintf(stderr, "usage: hooks KERNEL PORT WRONG-VALUE SEED\n");
        return 64;
    }
    fault.wrong = (uint8_t)strtoul(argv[3], NULL, 0);
    fault.random = strtoull(argv[4], NULL, 0);
    if (run(argv, &fault, &outcome, &error) != 0) {
        fprintf(stderr, "hooks: %s\n", error.message);
        return error.code == UMBRA_ERROR_NO_KVM ? 77 : 70;
    }
    printf("%llu of %llu reads went wrong\n%s%s\n", (unsigned long long)fault.injected,
           (unsigned long long)fault.reads, outcome.console_tail, outcome.reason);
    return outcome.kind == UMBRA_OUTCOME_EXIT && outcome.exit_value == 0 ? 0 : 1;
}
