/* SPDX-License-Identifier: MIT */
/* ACPI: the tables are whole and the registers that they name are there. */
#include "vmm/guest/guest.h"

#define PM1_ENABLE       2
#define PM1_POWER_BUTTON (1 << 8)
#define SCI_VECTOR       VECTOR_FREE

static void sci_interrupt(struct trap_frame *frame)
{
    out16(acpi.pm1a_event, in16(acpi.pm1a_event));
    interrupt_count(frame);
}

/* button=1: waits for the power button, then powers off as an operating system would. */
static void wait_button(void)
{
    interrupt_set(SCI_VECTOR, sci_interrupt);
    ioapic_route(acpi.isa_gsi[acpi.sci_irq], SCI_VECTOR, acpi.isa_flags[acpi.sci_irq]);
    out16(acpi.pm1a_event, 0xffff);
    out16((uint16_t)(acpi.pm1a_event + PM1_ENABLE), PM1_POWER_BUTTON);
    print("waiting for the power button\n");
    while (!interrupt_counts[SCI_VECTOR]) {
        interrupts_wait();
        interrupts_off();
    }
    print("power button\n");
    acpi_poweroff();
}

int guest_main(int argc, char **argv)
{
    unsigned i;

    acpi_init();
    CHECK(acpi.found);
    time_init();
    for (i = 0; i < acpi.table_count; i++) {
        char name[5] = { 0 };

        memcpy(name, acpi.tables[i]->signature, 4);
        print("%s %u bytes at %p\n", name, acpi.tables[i]->length,
              (const void *)acpi.tables[i]);
    }
    CHECK(acpi.bad_checksums == 0);
    CHECK(acpi_table("FACP") && acpi_table("APIC") && acpi_table("DSDT"));
    CHECK(acpi.lapic && acpi.ioapic && acpi.cpu_count >= 1);
    CHECK(acpi.pm1a_event && acpi.pm1a_control && acpi.pm_timer && acpi.sci_irq < 16);
    CHECK(acpi.has_s5);
    CHECK(in16(acpi.pm1a_control) & 1); /* SCI_EN: ACPI mode */
    out16((uint16_t)(acpi.pm1a_event + PM1_ENABLE), PM1_POWER_BUTTON);
    CHECK(in16((uint16_t)(acpi.pm1a_event + PM1_ENABLE)) == PM1_POWER_BUTTON);
    out16((uint16_t)(acpi.pm1a_event + PM1_ENABLE), 0);
    CHECK(ioapic_pins() >= 24);
    if (boot_option("button"))
        wait_button();
    return EXIT_PASS;
}
