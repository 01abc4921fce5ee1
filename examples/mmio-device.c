/* SPDX-License-Identifier: MIT */
/*
 * A device of the embedder's own: a down counter in MMIO that raises an interrupt.
 *   offset 0  COUNT  the guest writes where to count from; reads give what is left
 *   offset 4  TICK   a write counts down by one; at zero, interrupt line 10 pulses
 *   offset 8  TOTAL  all ticks so far; read only
 */
#include <stdio.h>

#include <umbra/umbra.h>

enum { COUNT = 0, TICK = 4, TOTAL = 8, LENGTH = 0x1000, LINE = 10 };

#define BASE UINT64_C(0xd8000000)

struct counter {
    struct umbra_vm *vm;
    uint32_t count, total, interrupts;
};

/* The library serialises these: no lock is needed. */
static uint64_t counter_read(void *context, uint64_t offset, unsigned width)
{
    const struct counter *counter = context;

    if (width != 4) {
        return UINT64_MAX;
    }
    return offset == COUNT   ? counter->count
           : offset == TOTAL ? counter->total
                             : UINT64_MAX;
}

static void counter_tick(struct counter *counter)
{
    counter->total++;
    if (counter->count > 0 && --counter->count == 0) {
        counter->interrupts++;
        umbra_inject_irq(counter->vm, LINE, true, NULL);
        umbra_inject_irq(counter->vm, LINE, false, NULL);
    }
}

static void counter_write(void *context, uint64_t offset, unsigned width, uint64_t value)
{
    struct counter *counter = context;

    if (width == 4 && offset == COUNT) {
        counter->count = (uint32_t)value;
    } else if (width == 4 && offset == TICK) {
        counter_tick(counter);
    }
}

static void counter_reset(void *context)
{
    struct counter *counter = context;

    counter->count = counter->total = counter->interrupts = 0;
}

static int run(const char *kernel, struct counter *counter, struct umbra_outcome *outcome,
               struct umbra_error *error)
{
    const struct umbra_device device = {
        .size = sizeof(device),
        .name = "counter",
        .mmio = true,
        .base = BASE,
        .length = LENGTH,
        .context = counter,
        .read = counter_read,
        .write = counter_write,
        .reset = counter_reset,
    };
    struct umbra_config *config;
    int result = umbra_config_new(&config);

    if (result != 0) {
        return result;
    }
    result = umbra_config_set(config, "kernel", kernel, error);
    if (result == 0) {
        result = umbra_config_set(config, "timeout", "60s", error);
    }
    if (result == 0) {
        result = umbra_vm_create(config, &counter->vm, error);
    }
    umbra_config_free(config); /* the VM has what it needs of it */
    if (result == 0) {
        result = umbra_device_add(counter->vm, &device, error);
    }
    if (result == 0) {
        result = umbra_vm_start(counter->vm, error);
    }
    if (result == 0) {
        result = umbra_vm_wait(counter->vm, -1, outcome, error);
    }
    umbra_vm_destroy(counter->vm);
    return result;
}

int main(int argc, char **argv)
{
    struct umbra_outcome outcome = { .size = sizeof(outcome) };
    struct umbra_error error = { .message = "" };
    struct counter counter = { .vm = NULL };

    if (argc != 2) {
        fprintf(stderr, "usage: mmio-device KERNEL\n");
        return 64;
    }
    if (run(argv[1], &counter, &outcome, &error) != 0) {
        fprintf(stderr, "mmio-device: %s\n", error.message);
        return error.code == UMBRA_ERROR_NO_KVM ? 77 : 70;
    }
    printf("%sthe device saw %u ticks and raised %u interrupts; %s\n",
           outcome.console_tail, counter.total, counter.interrupts, outcome.reason);
    return outcome.kind == UMBRA_OUTCOME_EXIT && outcome.exit_value == 0 ? 0 : 1;
}
