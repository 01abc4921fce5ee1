/* SPDX-License-Identifier: MIT */
/* Ends the run in the way that its argument names. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

static void triple_fault(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } none = { 0, 0 };

    __asm__ volatile("lidt %0; ud2" ::"m"(none));
}

static uint64_t spin(void *argument)
{
    for (;;)
        cpu_pause();
    return 0;
}

static void hang(void)
{
    print("ready\n");
    for (;;)
        interrupts_wait();
}

static void hang_user(void)
{
    user_run(spin, NULL, NULL);
}

static void hang_off(void)
{
    interrupts_off();
    spin(NULL);
}

static void panic(void)
{
    CHECK(in8(PVPANIC_PORT) & 1);
    out8(PVPANIC_PORT, 1);
}

static void poweroff(void)
{
    CHECK(acpi.found && acpi.pm1a_control && acpi.has_s5);
    acpi_poweroff();
}

static void reset_port(void)
{
    out8(RESET_PORT, 0x02);
    out8(RESET_PORT, 0x06);
}

static void reset_acpi(void)
{
    CHECK(acpi.has_reset && acpi.reset_space == 1);
    out8((uint16_t)acpi.reset_address, acpi.reset_value);
}

static void reset_keyboard(void)
{
    CHECK(i8042_command(0xfe)); /* pulse output line 0 */
}

static const struct {
    const char *name;
    void (*run)(void);
} ends[] = {
    { "triple", triple_fault },   { "hang", hang },
    { "hang-user", hang_user },   { "hang-off", hang_off },
    { "cli-hlt", cpu_stop },      { "panic", panic },
    { "poweroff", poweroff },     { "reset-port", reset_port },
    { "reset-acpi", reset_acpi }, { "reset-keyboard", reset_keyboard },
};

int guest_main(int argc, char **argv)
{
    unsigned i;

    CHECK(argc >= 1);
    acpi_init();
    time_init();
    for (i = 0; i < ARRAY_SIZE(ends); i++)
        if (strcmp(argv[0], ends[i].name) == 0) {
            print("ending by %s\n", argv[0]);
            ends[i].run();
            time_delay(200000);
            guest_fail("still here after %s", argv[0]);
        }
    guest_fail("no such end: %s", argv[0]);
}
