/* SPDX-License-Identifier: MIT */
/* The small ports: debug console, debug exit, pvpanic, reset, and ACPI fixed hardware. */
#include "fake_env.h"

#include "devices/board/acpi_pm.h"
#include "devices/board/debug_exit.h"
#include "devices/board/debugcon.h"
#include "devices/board/pvpanic.h"
#include "devices/board/reset_port.h"
#include "devices/pci/pci.h"

static char output[64];
static size_t output_length;

static void on_output(void *context, const void *bytes, size_t length)
{
    assert_true(output_length + length <= sizeof(output));
    memcpy(output + output_length, bytes, length);
    output_length += length;
}

static void test_debugcon(void **state)
{
    const struct debugcon_config config = {
        .id = "debugcon", .end = { .kind = CHAR_END_CALLBACK, .output = on_output }
    };
    struct device *device;
    struct fake_env fake;

    fake_env_init(&fake, false);
    assert_int_equal(debugcon_create(&fake.env, &config, &device, NULL), 0);
    assert_int_equal(dev_read(device, 0, 0, 1), 0xe9);
    dev_write(device, 0, 0, 1, 'O');
    dev_write(device, 0, 0, 1, 'K');
    assert_int_equal(output_length, 2);
    assert_memory_equal(output, "OK", 2);
    /* Input goes nowhere and does not pile up. */
    for (unsigned i = 0; i < 3; i++) {
        static char many[40000];

        assert_int_equal(char_end_send(debugcon_end(device), many, sizeof(many)), 0);
    }
    dev_copy_state(device, device);
    device_destroy(device);
    fake_env_fini(&fake);
}

static void test_debug_exit(void **state)
{
    const struct debug_exit_config config = { .id = "debug-exit" };
    struct device *device;
    struct fake_env fake;

    fake_env_init(&fake, false);
    assert_int_equal(debug_exit_create(&fake.env, &config, &device, NULL), 0);
    assert_int_equal(dev_read(device, 0, 0, 4), 0);
    dev_write(device, 0, 0, 4, 0x12345);
    assert_int_equal(fake.events[DEVICE_EVENT_DEBUG_EXIT], 1);
    assert_int_equal(fake.event_value, 0x12345);
    dev_copy_state(device, device);
    device_destroy(device);
    fake_env_fini(&fake);
}

static void test_pvpanic(void **state)
{
    const struct pvpanic_config config = { .id = "pvpanic" };
    struct device *device;
    struct fake_env fake;

    fake_env_init(&fake, false);
    assert_int_equal(pvpanic_create(&fake.env, &config, &device, NULL), 0);
    assert_int_equal(dev_read(device, 0, 0, 1), 3);
    dev_write(device, 0, 0, 1, 0xfc); /* nothing that is known */
    assert_int_equal(fake.events[DEVICE_EVENT_PANIC], 0);
    dev_write(device, 0, 0, 1, 0x01);
    assert_int_equal(fake.events[DEVICE_EVENT_PANIC], 1);
    assert_int_equal(fake.event_value, PVPANIC_PANICKED);
    dev_copy_state(device, device);
    device_destroy(device);
    fake_env_fini(&fake);
}

/* Beside the PCI address register, as on the board. */
static void test_reset_port(void **state)
{
    const struct reset_port_config config = { .id = "reset" };
    const struct pci_host_config pci_config = { 0 };
    struct bus *pio, *mmio;
    struct pci_host *pci;
    struct device *device;
    struct fake_env fake;
    uint64_t value;

    fake_env_init(&fake, false);
    assert_int_equal(bus_create("pio", &pio), 0);
    assert_int_equal(bus_create("mmio", &mmio), 0);
    assert_int_equal(pci_host_create(&fake.env, &pci_config, pio, mmio, &pci, NULL), 0);
    assert_int_equal(reset_port_create(&fake.env, &config, &device, NULL), 0);
    assert_int_equal(bus_add_nested(pio, 0xcf9, 1, device, 0), 0);

    assert_true(bus_write(pio, 0xcf8, 4, 0x80000606)); /* bits of a reset in byte 1 */
    assert_int_equal(fake.events[DEVICE_EVENT_RESET], 0);
    assert_true(bus_read(pio, 0xcf8, 4, &value));
    assert_int_equal(value, 0x80000604);
    assert_true(bus_write(pio, 0xcf9, 1, 0x02));
    assert_int_equal(fake.events[DEVICE_EVENT_RESET], 0);
    assert_true(bus_read(pio, 0xcf9, 1, &value));
    assert_int_equal(value, 0x02);
    assert_true(bus_write(pio, 0xcf9, 1, 0x06));
    assert_int_equal(fake.events[DEVICE_EVENT_RESET], 1);
    assert_true(bus_write(pio, 0xcf9, 1, 0x0e)); /* bit 2 was up already */
    assert_int_equal(fake.events[DEVICE_EVENT_RESET], 1);
    device_reset(device);
    assert_true(bus_read(pio, 0xcf9, 1, &value));
    assert_int_equal(value, 0);
    assert_true(bus_read(pio, 0xcf8, 4, &value));
    assert_int_equal(value, 0x80000604); /* untouched by all that */
    dev_copy_state(device, device);
    device_destroy(device);
    pci_host_destroy(pci);
    bus_destroy(pio);
    bus_destroy(mmio);
    fake_env_fini(&fake);
}

static struct device *pm_create(struct fake_env *fake)
{
    const struct acpi_pm_config config = { .id = "acpi-pm", .gsi = 9, .slp_typ_s5 = 5 };
    struct device *device;

    assert_int_equal(acpi_pm_create(&fake->env, &config, &device, NULL), 0);
    return device;
}

static void test_acpi_power(void **state)
{
    struct fake_env fake;
    struct device *pm;

    fake_env_init(&fake, false);
    pm = pm_create(&fake);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_CNT, 2), 1); /* SCI_EN */
    assert_int_equal(acpi_pm_power_button(pm), -ENODEV);   /* nobody listens */
    assert_false(fake.level[9]);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_STS, 2), 0x100);
    dev_write(pm, 0, ACPI_PM1_EN, 2, 0x120);
    assert_true(fake.level[9]); /* the press was kept */
    dev_write(pm, 0, ACPI_PM1_STS, 2, 0x100);
    assert_false(fake.level[9]);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_STS, 4), 0x1200000); /* both registers */
    assert_int_equal(acpi_pm_power_button(pm), 0);
    assert_true(fake.level[9]);
    dev_write(pm, 0, ACPI_PM1_STS + 1, 1, 0x01); /* a byte of the status */
    assert_false(fake.level[9]);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_EN, 2), 0x120);

    dev_write(pm, 0, ACPI_PM1_CNT, 2, 5 << 10); /* type without the enable */
    assert_int_equal(fake.events[DEVICE_EVENT_POWEROFF], 0);
    dev_write(pm, 0, ACPI_PM1_CNT, 2, 1 << 13 | 3 << 10); /* S3: not there */
    assert_int_equal(fake.events[DEVICE_EVENT_POWEROFF], 0);
    dev_write(pm, 0, ACPI_PM1_CNT, 2, 1 << 13 | 5 << 10);
    assert_int_equal(fake.events[DEVICE_EVENT_POWEROFF], 1);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_CNT, 2), 5 << 10 | 1); /* SLP_EN reads 0 */

    acpi_pm_power_button(pm);
    assert_true(fake.level[9]);
    device_reset(pm);
    assert_false(fake.level[9]);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_STS, 4), 0);
    device_destroy(pm);
    fake_env_fini(&fake);
}

static void test_acpi_timer(void **state)
{
    struct device *pm, *copy;
    struct fake_env fake;
    uint32_t before, now;

    fake_env_init(&fake, false);
    pm = pm_create(&fake);
    before = (uint32_t)dev_read(pm, 0, ACPI_PM_TMR, 4);
    for (unsigned i = 0; i < 1000; i++) {
        now = (uint32_t)dev_read(pm, 0, ACPI_PM_TMR, 4);
        assert_true(now >= before);
        before = now;
    }
    WAIT_UNTIL((uint32_t)dev_read(pm, 0, ACPI_PM_TMR, 4) > before + 3579);
    dev_write(pm, 0, ACPI_PM_TMR, 4, 0); /* read only */
    assert_true((uint32_t)dev_read(pm, 0, ACPI_PM_TMR, 4) > before);
    /* A loaded timer goes on from where it was. */
    before = (uint32_t)dev_read(pm, 0, ACPI_PM_TMR, 4);
    dev_write(pm, 0, ACPI_PM1_EN, 2, 0x100);
    copy = pm_create(&fake);
    dev_copy_state(pm, copy);
    assert_true((uint32_t)dev_read(copy, 0, ACPI_PM_TMR, 4) >= before);
    assert_int_equal(dev_read(copy, 0, ACPI_PM1_EN, 2), 0x100);
    device_destroy(pm);
    device_destroy(copy);
    fake_env_fini(&fake);
}

/* A saved age just below the carry of the timer's top bit: TMR_STS and the SCI come by
 * themselves. */
static void test_acpi_timer_carry(void **state)
{
    const uint64_t carry_ns = (UINT64_C(1) << 31) * 1000000000 / 3579545;
    struct state_writer *writer;
    struct state_reader *reader;
    struct fake_env fake;
    struct device *pm;
    const void *bytes;
    size_t size;

    fake_env_init(&fake, true);
    pm = pm_create(&fake);
    assert_int_equal(state_writer_create(&writer), 0);
    state_begin(writer, "acpi-pm", 1);
    state_put_u64(writer, "status", 0);
    state_put_u64(writer, "enable", 1);
    state_put_u64(writer, "control", 0);
    state_put_u64(writer, "elapsed", carry_ns - 30000000);
    state_end(writer);
    assert_int_equal(state_writer_finish(writer, &bytes, &size), 0);
    assert_int_equal(state_reader_create(bytes, size, &reader, NULL), 0);
    assert_int_equal(device_load(pm, reader, NULL), 0);
    assert_int_equal(loop_start(fake.env.loop, NULL), 0);
    WAIT_UNTIL(fake.level[9]);
    assert_int_equal(dev_read(pm, 0, ACPI_PM1_STS, 2), 1);
    assert_true(dev_read(pm, 0, ACPI_PM_TMR, 4) >> 31);
    dev_write(pm, 0, ACPI_PM1_STS, 2, 1);
    assert_false(fake.level[9]);
    state_reader_destroy(reader);
    state_writer_destroy(writer);
    loop_stop(fake.env.loop);
    device_destroy(pm);
    fake_env_fini(&fake);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_debugcon),         cmocka_unit_test(test_debug_exit),
        cmocka_unit_test(test_pvpanic),          cmocka_unit_test(test_reset_port),
        cmocka_unit_test(test_acpi_power),       cmocka_unit_test(test_acpi_timer),
        cmocka_unit_test(test_acpi_timer_carry),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
