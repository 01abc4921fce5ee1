/* SPDX-License-Identifier: MIT */
/* The demo guest's report on interrupts and on the devices of the board. */
#include "vmm/guest/demo.h"
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

enum {
    TICK_VECTOR = VECTOR_FREE,
    TIMER_VECTOR,
    UART_VECTOR,
    KEYBOARD_VECTOR,
    RTC_VECTOR,
};

static void pic_tick(struct trap_frame *frame)
{
    interrupt_counts[frame->vector]++;
    pic_end(0);
}

static void uart_interrupt(struct trap_frame *frame)
{
    in8(COM1_PORT + 2); /* IIR: acknowledges "transmitter empty" */
    interrupt_count(frame);
}

static void keyboard_interrupt(struct trap_frame *frame)
{
    in8(I8042_DATA_PORT);
    interrupt_count(frame);
}

static void rtc_interrupt(struct trap_frame *frame)
{
    rtc_register(0x0c);
    interrupt_count(frame);
}

/* Wait for @ticks on @vector and report how long they took. */
static void report_ticks(const char *name, unsigned vector, unsigned ticks)
{
    uint64_t from = time_us();
    bool good = time_wait_for(&interrupt_counts[vector], ticks, 5000);

    interrupts_off();
    if (good)
        print("  %-22s %u interrupts in %lu us\n", name, ticks, time_us() - from);
    else
        demo_line(name, false, "no interrupts");
}

static void try_pic(void)
{
    interrupt_set(VECTOR_PIC, pic_tick);
    lapic_pic_route(true);
    pic_mask(0, false);
    report_ticks("PIT, 8259", VECTOR_PIC, 5);
    pic_mask(0, true);
    lapic_pic_route(false);
}

static void try_pit(void)
{
    if (!pit_present()) {
        demo_line("PIT", true, "none");
        return;
    }
    pit_start(500);
    if (acpi.has_8259)
        try_pic();
    interrupt_set(TICK_VECTOR, interrupt_count);
    isa_route(0, TICK_VECTOR);
    report_ticks("PIT, I/O APIC", TICK_VECTOR, 5);
    isa_mask(0);
    pit_start(0);
}

static void try_lapic_timer(void)
{
    unsigned before;

    interrupt_set(TIMER_VECTOR, interrupt_count);
    lapic_timer(TIMER_VECTOR, true, 1000000);
    report_ticks("local APIC timer", TIMER_VECTOR, 5);
    before = interrupt_counts[TIMER_VECTOR];
    lapic_timer(TIMER_VECTOR, false, 1000000);
    while (interrupt_counts[TIMER_VECTOR] == before) {
        interrupts_wait();
        interrupts_off();
    }
    demo_line("HLT", true, "woken by the timer");
}

static void try_device_interrupts(void)
{
    interrupt_set(UART_VECTOR, uart_interrupt);
    isa_route(4, UART_VECTOR);
    out8(COM1_PORT + 4, 0x0b); /* OUT2 lets the interrupt out */
    out8(COM1_PORT + 1, 0x02); /* transmitter empty */
    report_ticks("UART, IRQ 4", UART_VECTOR, 1);
    out8(COM1_PORT + 1, 0);
    isa_mask(4);

    interrupt_set(KEYBOARD_VECTOR, keyboard_interrupt);
    i8042_command(0x60); /* write the command byte: keyboard interrupt, translation */
    i8042_write(0x41);
    isa_route(1, KEYBOARD_VECTOR);
    i8042_write(0xee); /* echo */
    report_ticks("keyboard, IRQ 1", KEYBOARD_VECTOR, 1);
    isa_mask(1);
    i8042_command(0x60);
    i8042_write(0x40);

    interrupt_set(RTC_VECTOR, rtc_interrupt);
    isa_route(8, RTC_VECTOR);
    rtc_set_register(0x0a, 0x26); /* 1024 Hz */
    rtc_set_register(0x0b, rtc_register(0x0b) | 0x40);
    rtc_register(0x0c);
    report_ticks("RTC, IRQ 8", RTC_VECTOR, 3);
    rtc_set_register(0x0b, rtc_register(0x0b) & ~0x40);
    isa_mask(8);
}

void demo_interrupts(void)
{
    print("\nInterrupts: I/O APIC with %u pins\n", ioapic_pins());
    try_pit();
    try_lapic_timer();
    try_device_interrupts();
}

static void try_uarts(void)
{
    static const uint16_t ports[] = { COM1_PORT, 0x2f8, 0x3e8, 0x2e8 };
    unsigned i, kind;

    for (i = 0; i < ARRAY_SIZE(ports); i++) {
        out8(ports[i] + 7, 0x5a); /* scratch register */
        if (in8(ports[i] + 7) != 0x5a)
            continue;
        out8(ports[i] + 2, 0x01);
        kind = in8(ports[i] + 2) >> 6;
        print("  %-22s COM%u at %x, %s\n", "UART", i + 1, ports[i],
              kind == 3 ? "16550A with FIFOs" : "no FIFOs");
    }
}

static void try_rtc(void)
{
    struct rtc_time t;

    if (rtc_read(&t) && t.month >= 1 && t.month <= 12)
        print("  %-22s %04u-%02u-%02u %02u:%02u:%02u UTC\n", "RTC", t.year, t.month,
              t.day, t.hour, t.minute, t.second);
    else
        demo_line("RTC", false, "no consistent time");
}

static void try_keyboard(void)
{
    bool controller, keyboard;

    controller = i8042_command(0xaa) && i8042_read() == 0x55;
    demo_line("i8042", controller, controller ? "self-test passed" : "no answer");
    i8042_command(0xae); /* the self-test leaves the keyboard's line off */
    keyboard = i8042_write(0xff) && i8042_read() == 0xfa && i8042_read() == 0xaa;
    demo_line("PS/2 keyboard", keyboard, keyboard ? "reset, ready" : "no answer");
}

static void list_pci(void)
{
    unsigned functions = 0;
    bool agree = true;
    int bdf;

    for (bdf = pci_next(0); bdf >= 0; bdf = pci_next((unsigned)bdf + 1)) {
        uint32_t id = pci_read32((unsigned)bdf, 0), class = pci_read32((unsigned)bdf, 8);

        print("  PCI %02x:%02x.%u            %04x:%04x class %06x\n", bdf >> 8,
              bdf >> 3 & 31, bdf & 7, id & 0xffff, id >> 16, class >> 8);
        agree &= pci_port_read32((unsigned)bdf, 0) == id;
        functions++;
    }
    demo_line("PCI host bridge", functions && agree,
              !functions  ? "no functions"
              : !agree    ? "ECAM and 0xcf8 differ"
              : acpi.ecam ? "ECAM and 0xcf8 agree"
                          : "by 0xcf8, no ECAM");
}

void demo_devices(void)
{
    print("\nDevices:\n");
    try_uarts();
    try_rtc();
    try_keyboard();
    if (in8(DEBUGCON_PORT) == 0xe9)
        demo_line("debug port", true, "answers at 0xe9");
    if (in8(PVPANIC_PORT) != 0xff)
        demo_line("pvpanic", in8(PVPANIC_PORT) & 1, "takes panics at 0x505");
    list_pci();
}
