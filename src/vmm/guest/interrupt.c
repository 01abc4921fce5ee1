/* SPDX-License-Identifier: MIT */
/* The 8259 pair, the local APIC and the I/O APIC. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

#define LAPIC_ID        0x020
#define LAPIC_EOI       0x0b0
#define LAPIC_SPURIOUS  0x0f0
#define LAPIC_ICR_LOW   0x300
#define LAPIC_ICR_HIGH  0x310
#define LAPIC_LVT_TIMER 0x320
#define LAPIC_LVT_LINT0 0x350
#define LAPIC_TIMER     0x380
#define LAPIC_DIVIDE    0x3e0

#define LVT_MASKED   0x10000
#define LVT_PERIODIC 0x20000
#define LVT_EXTINT   0x00700

volatile unsigned interrupt_counts[256];

static uint64_t lapic_base(void)
{
    return acpi.lapic ? acpi.lapic : LAPIC_ADDRESS;
}

uint32_t lapic_read(unsigned offset)
{
    return mmio_read32(lapic_base() + offset);
}

void lapic_write(unsigned offset, uint32_t v)
{
    mmio_write32(lapic_base() + offset, v);
}

unsigned lapic_id(void)
{
    return lapic_read(LAPIC_ID) >> 24;
}

void lapic_end(void)
{
    lapic_write(LAPIC_EOI, 0);
}

void interrupt_count(struct trap_frame *frame)
{
    interrupt_counts[frame->vector]++;
    lapic_end();
}

void lapic_init(void)
{
    lapic_write(LAPIC_SPURIOUS, 0x100 | VECTOR_APIC);
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED);
    lapic_write(LAPIC_LVT_LINT0, LVT_MASKED);
}

void lapic_pic_route(bool on)
{
    lapic_write(LAPIC_LVT_LINT0, on ? LVT_EXTINT : LVT_MASKED);
}

void lapic_command(unsigned apic_id, uint32_t command)
{
    unsigned wait;

    lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
    lapic_write(LAPIC_ICR_LOW, command);
    for (wait = 0; wait < 1000 && lapic_read(LAPIC_ICR_LOW) & 0x1000; wait++)
        cpu_pause();
}

void lapic_timer(unsigned vector, bool periodic, uint32_t count)
{
    lapic_write(LAPIC_DIVIDE, 0xb); /* by 1 */
    lapic_write(LAPIC_LVT_TIMER,
                count ? vector | (periodic ? LVT_PERIODIC : 0) : LVT_MASKED);
    lapic_write(LAPIC_TIMER, count);
}

/* ---- 8259
 * ------------------------------------------------------------------------------ */

void interrupt_init(void)
{
    out8(PIC_MASTER_PORT, 0x11); /* ICW1: cascade, edge, ICW4 follows */
    out8(PIC_SLAVE_PORT, 0x11);
    out8(PIC_MASTER_PORT + 1, VECTOR_PIC);
    out8(PIC_SLAVE_PORT + 1, VECTOR_PIC + 8);
    out8(PIC_MASTER_PORT + 1, 4);
    out8(PIC_SLAVE_PORT + 1, 2);
    out8(PIC_MASTER_PORT + 1, 1);
    out8(PIC_SLAVE_PORT + 1, 1);
    out8(PIC_MASTER_PORT + 1, 0xff);
    out8(PIC_SLAVE_PORT + 1, 0xff);
    lapic_init();
}

void pic_mask(unsigned irq, bool masked)
{
    uint16_t port = irq < 8 ? PIC_MASTER_PORT + 1 : PIC_SLAVE_PORT + 1;
    uint8_t bit = (uint8_t)(1u << (irq & 7)), mask = in8(port);

    out8(port, masked ? mask | bit : mask & (uint8_t)~bit);
    if (irq >= 8 && !masked)
        pic_mask(2, false);
}

void pic_end(unsigned irq)
{
    if (irq >= 8)
        out8(PIC_SLAVE_PORT, 0x20);
    out8(PIC_MASTER_PORT, 0x20);
}

/* ---- I/O APIC
 * ---------------------------------------------------------------------------- */

static uint64_t ioapic_base(void)
{
    return acpi.ioapic ? acpi.ioapic : IOAPIC_ADDRESS;
}

uint32_t ioapic_read(unsigned index)
{
    mmio_write32(ioapic_base(), index);
    return mmio_read32(ioapic_base() + 0x10);
}

void ioapic_write(unsigned index, uint32_t v)
{
    mmio_write32(ioapic_base(), index);
    mmio_write32(ioapic_base() + 0x10, v);
}

unsigned ioapic_pins(void)
{
    return (ioapic_read(1) >> 16 & 0xff) + 1;
}

void ioapic_route(unsigned gsi, unsigned vector, uint16_t madt_flags)
{
    uint32_t low = vector;

    if ((madt_flags & 3) == 3)
        low |= 1 << 13; /* active low */
    if ((madt_flags & 0xc) == 0xc)
        low |= 1 << 15; /* level */
    ioapic_write(0x11 + gsi * 2, (uint32_t)lapic_id() << 24);
    ioapic_write(0x10 + gsi * 2, low);
}

void ioapic_mask(unsigned gsi)
{
    ioapic_write(0x10 + gsi * 2, LVT_MASKED);
}

void isa_route(unsigned irq, unsigned vector)
{
    ioapic_route(acpi.found ? acpi.isa_gsi[irq] : irq, vector, acpi.isa_flags[irq]);
}

void isa_mask(unsigned irq)
{
    ioapic_mask(acpi.found ? acpi.isa_gsi[irq] : irq);
}
