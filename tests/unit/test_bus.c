/* SPDX-License-Identifier: MIT */
/* devices/bus and devices/irq: routing, nesting, changes from inside an access, lines. */
#include "fake_env.h"

#include <stdlib.h>

struct probe {
    struct device device;
    struct bus *bus;
    unsigned region, size;
    uint64_t offset, value;
    uint64_t move_to; /* a write moves region 1 here */
};

static uint64_t probe_read(struct device *device, unsigned region, uint64_t offset,
                           unsigned size)
{
    struct probe *probe = container_of(device, struct probe, device);

    probe->region = region;
    probe->offset = offset;
    probe->size = size;
    return UINT64_C(0x1122334455667788);
}

static void probe_write(struct device *device, unsigned region, uint64_t offset,
                        unsigned size, uint64_t value)
{
    struct probe *probe = container_of(device, struct probe, device);

    probe->region = region;
    probe->offset = offset;
    probe->size = size;
    probe->value = value;
    if (probe->move_to != 0) {
        assert_int_equal(bus_remove(probe->bus, 0x5000), 0);
        assert_int_equal(bus_add(probe->bus, probe->move_to, 16, device, 1), 0);
        probe->move_to = 0;
    }
}

static const struct device_ops probe_ops = {
    .type = "probe",
    .read = probe_read,
    .write = probe_write,
};

static const struct device_ops silent_ops = { .type = "silent" };

static void test_routing(void **state)
{
    struct probe a = { 0 }, b = { 0 }, silent = { 0 };
    uint64_t value, base;
    struct bus *bus;

    assert_int_equal(bus_create("test", &bus), 0);
    device_init(&a.device, &probe_ops, NULL, "a");
    device_init(&b.device, &probe_ops, NULL, "b");
    device_init(&silent.device, &silent_ops, NULL, "silent");
    assert_int_equal(bus_add(bus, 0x1000, 16, &a.device, 3), 0);
    assert_int_equal(bus_add(bus, 0x1010, 16, &b.device, 4), 0);
    assert_int_equal(bus_add(bus, 0x0, 8, &silent.device, 0), 0);
    assert_int_equal(bus_add(bus, UINT64_MAX - 15, 16, &b.device, 5), 0);
    assert_int_equal(bus_add(bus, 0x100f, 1, &b.device, 0), -EEXIST);
    assert_int_equal(bus_add(bus, 0xff0, 0x100, &b.device, 0), -EEXIST);
    assert_int_equal(bus_add(bus, 0x1008, 2, &b.device, 0), -EEXIST);
    assert_int_equal(bus_add(bus, 0x2000, 0, &b.device, 0), -EINVAL);
    assert_int_equal(bus_add(bus, UINT64_MAX, 2, &b.device, 0), -EINVAL);

    assert_true(bus_read(bus, 0x100c, 4, &value));
    assert_int_equal(value, 0x55667788);
    assert_int_equal(a.region, 3);
    assert_int_equal(a.offset, 12);
    assert_true(bus_write(bus, 0x1010, 2, 0xabcdef));
    assert_int_equal(b.region, 4);
    assert_int_equal(b.value, 0xcdef);
    assert_false(bus_read(bus, 0x100e, 4, &value)); /* straddles two */
    assert_int_equal(value, 0xffffffff);
    assert_false(bus_read(bus, 0x1020, 8, &value));
    assert_int_equal(value, UINT64_MAX);
    assert_true(bus_read(bus, UINT64_MAX, 1, &value));
    assert_int_equal(b.offset, 15);
    assert_false(bus_read(bus, UINT64_MAX, 2, &value));
    assert_true(bus_read(bus, 4, 2, &value)); /* a device without a read */
    assert_int_equal(value, 0xffff);
    assert_true(bus_write(bus, 4, 2, 1));
    assert_ptr_equal(bus_find(bus, 0x101f, &base), &b.device);
    assert_int_equal(base, 0x1010);
    assert_null(bus_find(bus, 0x1020, NULL));

    assert_int_equal(bus_remove(bus, 0x1004), -ENOENT);
    assert_int_equal(bus_remove(bus, 0x1000), 0);
    assert_false(bus_read(bus, 0x1000, 1, &value));
    bus_destroy(bus);
    bus_destroy(NULL);
    device_fini(&a.device);
    device_fini(&b.device);
    device_fini(&silent.device);
}

static void test_nesting(void **state)
{
    struct probe outer = { 0 }, inner = { 0 };
    uint64_t value;
    struct bus *bus;

    assert_int_equal(bus_create("test", &bus), 0);
    device_init(&outer.device, &probe_ops, NULL, "outer");
    device_init(&inner.device, &probe_ops, NULL, "inner");
    assert_int_equal(bus_add(bus, 0xcf8, 4, &outer.device, 0), 0);
    assert_int_equal(bus_add_nested(bus, 0xcf9, 1, &inner.device, 0), 0);
    assert_int_equal(bus_add_nested(bus, 0xcf9, 1, &inner.device, 0), -EEXIST);

    assert_true(bus_read(bus, 0xcf8, 4, &value));
    assert_int_equal(outer.size, 4);
    assert_int_equal(inner.size, 0);
    assert_true(bus_read(bus, 0xcf9, 1, &value));
    assert_int_equal(inner.size, 1);
    assert_true(bus_read(bus, 0xcf9, 2, &value)); /* does not fit in the inner one */
    assert_int_equal(outer.offset, 1);
    assert_int_equal(bus_remove(bus, 0xcf9), 0);
    assert_true(bus_read(bus, 0xcf9, 1, &value));
    assert_int_equal(outer.size, 1);
    bus_destroy(bus);
    device_fini(&outer.device);
    device_fini(&inner.device);
}

/* A device moves a range of its own from inside a write, as PCI does. */
static void test_move(void **state)
{
    struct probe probe = { .move_to = 0x9000 };
    uint64_t value;

    assert_int_equal(bus_create("test", &probe.bus), 0);
    device_init(&probe.device, &probe_ops, NULL, "probe");
    assert_int_equal(bus_add(probe.bus, 0x4000, 4, &probe.device, 0), 0);
    assert_int_equal(bus_add(probe.bus, 0x5000, 16, &probe.device, 1), 0);
    assert_true(bus_write(probe.bus, 0x4000, 4, 1));
    assert_false(bus_read(probe.bus, 0x5000, 4, &value));
    assert_true(bus_read(probe.bus, 0x9008, 4, &value));
    assert_int_equal(probe.region, 1);
    bus_destroy(probe.bus);
    device_fini(&probe.device);
}

/* Against a plain table of owners, with random additions, removals and accesses. */
static void test_model(void **state)
{
    enum { SPACE = 512, DEVICES = 8, STEPS = 20000 };
    struct probe devices[DEVICES] = { 0 };
    int owner[SPACE], start[SPACE];
    unsigned seed = 7;
    struct bus *bus;

    assert_int_equal(bus_create("test", &bus), 0);
    memset(owner, -1, sizeof(owner));
    for (unsigned i = 0; i < DEVICES; i++) {
        device_init(&devices[i].device, &probe_ops, NULL, "d");
    }
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned base = (unsigned)rand_r(&seed) % SPACE;
        unsigned size = 1 + (unsigned)rand_r(&seed) % 24;
        unsigned d = (unsigned)rand_r(&seed) % DEVICES;
        uint64_t value;
        bool fits = base + size <= SPACE;

        for (unsigned i = base; fits && i < base + size; i++) {
            fits = owner[i] < 0;
        }
        switch (rand_r(&seed) % 3) {
        case 0:
            if (base + size > SPACE) {
                break;
            }
            assert_int_equal(bus_add(bus, base, size, &devices[d].device, base),
                             fits ? 0 : -EEXIST);
            for (unsigned i = base; fits && i < base + size; i++) {
                owner[i] = (int)d;
                start[i] = (int)base;
            }
            break;
        case 1:
            if (owner[base] < 0 || start[base] != (int)base) {
                assert_int_equal(bus_remove(bus, base), -ENOENT);
                break;
            }
            assert_int_equal(bus_remove(bus, base), 0);
            for (unsigned i = base; i < SPACE && owner[i] >= 0 && start[i] == (int)base;
                 i++) {
                owner[i] = -1;
            }
            break;
        default:
            size = 1u << (size % 4);
            if (base + size > SPACE) {
                break;
            }
            fits = owner[base] >= 0 && owner[base + size - 1] >= 0 &&
                   start[base] == start[base + size - 1];
            assert_int_equal(bus_read(bus, base, size, &value), fits);
            if (fits) {
                assert_int_equal(devices[owner[base]].region, start[base]);
                assert_int_equal(devices[owner[base]].offset,
                                 base - (unsigned)start[base]);
            }
            break;
        }
    }
    bus_destroy(bus);
    for (unsigned i = 0; i < DEVICES; i++) {
        device_fini(&devices[i].device);
    }
}

static void test_lines(void **state)
{
    struct irq_line a, b, none;
    struct fake_env fake;

    fake_env_init(&fake, false);
    irq_line_init(&a, &fake.chip, 5);
    irq_line_init(&b, &fake.chip, 5);
    irq_line_init(&none, NULL, 5);
    irq_line_set(&a, true);
    irq_line_set(&a, true);
    irq_line_set(&b, true);
    assert_true(fake.level[5]);
    irq_line_set(&a, false);
    assert_true(fake.level[5]); /* b still holds it */
    irq_line_pulse(&a);         /* of no effect on a pin that is high */
    assert_true(fake.level[5]);
    irq_line_set(&b, false);
    assert_false(fake.level[5]);
    assert_int_equal(fake.edges[5], 1);
    irq_line_pulse(&a);
    assert_false(fake.level[5]);
    assert_int_equal(fake.edges[5], 2);
    irq_line_set(&none, true);
    irq_line_pulse(&none);
    irq_line_init(&none, &fake.chip, IRQ_GSI_COUNT);
    irq_line_set(&none, true);
    assert_int_equal(irq_send_msi(&fake.chip, 0xfee00000, 0x41), 0);
    assert_int_equal(fake.msi_count, 1);
    assert_int_equal(irq_send_msi(NULL, 0, 0), -ENOTSUP);
    fake_env_fini(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routing), cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_move),    cmocka_unit_test(test_model),
        cmocka_unit_test(test_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
