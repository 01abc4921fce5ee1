/* SPDX-License-Identifier: MIT */
/* What a driver sets up in a PCI function: BARs, capabilities, MSI-X (PCI 3.0, 6.2, 6.8). */
#include "vmm/guest/guest.h"

#define PCI_COMMAND 0x04
#define PCI_STATUS  0x06
#define PCI_BAR0    0x10
#define PCI_CAP_PTR 0x34

#define MSIX_ID      0x11
#define MSIX_CONTROL 2
#define MSIX_TABLE   4
#define MSIX_PENDING 8
#define MSIX_ENABLE  0x8000
#define MSIX_ENTRY   16

void pci_command(unsigned bdf, uint16_t set, uint16_t clear)
{
    uint16_t old = pci_read16(bdf, PCI_COMMAND);

    pci_write16(bdf, PCI_COMMAND, (uint16_t)((old & ~clear) | set));
}

/* Write ones, read the mask, put the old value back: with decoding off meanwhile. */
static uint32_t bar_mask(unsigned bdf, unsigned offset)
{
    uint32_t old = pci_read32(bdf, offset), mask;

    pci_write32(bdf, offset, 0xffffffff);
    mask = pci_read32(bdf, offset);
    pci_write32(bdf, offset, old);
    return mask;
}

bool pci_bar_read(unsigned bdf, unsigned index, struct pci_bar *bar)
{
    unsigned offset = PCI_BAR0 + index * 4;
    uint16_t command = pci_read16(bdf, PCI_COMMAND);
    uint32_t low = pci_read32(bdf, offset);
    uint64_t mask;

    pci_command(bdf, 0, 3);
    bar->io = low & 1;
    bar->wide = (low & 7) == 4;
    mask = bar_mask(bdf, offset) & (bar->io ? ~3u : ~15u);
    bar->address = low & (bar->io ? ~3u : ~15u);
    if (bar->wide) {
        bar->address |= (uint64_t)pci_read32(bdf, offset + 4) << 32;
        mask |= (uint64_t)bar_mask(bdf, offset + 4) << 32;
    } else if (mask) {
        mask |= UINT64_C(0xffffffff) << 32;
    }
    bar->size = mask & -mask;
    pci_command(bdf, command & 3, 0);
    if (bar->size && !bar->io)
        memory_map(bar->address, bar->size,
                   PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_UNCACHED);
    return bar->size != 0;
}

void pci_bar_move(unsigned bdf, unsigned index, const struct pci_bar *bar,
                  uint64_t address)
{
    unsigned offset = PCI_BAR0 + index * 4;

    pci_write32(bdf, offset, (uint32_t)address);
    if (bar->wide)
        pci_write32(bdf, offset + 4, (uint32_t)(address >> 32));
    if (!bar->io)
        memory_map(address, bar->size, PTE_PRESENT | PTE_WRITE | PTE_USER | PTE_UNCACHED);
}

unsigned pci_capability(unsigned bdf, uint8_t id, unsigned after)
{
    unsigned at, steps;

    if (!(pci_read16(bdf, PCI_STATUS) & 1 << 4))
        return 0;
    at = pci_read8(bdf, after ? after + 1 : PCI_CAP_PTR) & 0xfc;
    for (steps = 0; at >= 0x40 && steps < 48; steps++) {
        if (pci_read8(bdf, at) == id)
            return at;
        at = pci_read8(bdf, at + 1) & 0xfc;
    }
    return 0;
}

static uint64_t msix_address(unsigned bdf, uint32_t where)
{
    struct pci_bar bar;

    if (!pci_bar_read(bdf, where & 7, &bar))
        return 0;
    return bar.address + (where & ~7u);
}

bool pci_msix_enable(unsigned bdf, struct pci_msix *msix)
{
    unsigned at = pci_capability(bdf, MSIX_ID, 0), i;
    uint16_t control;

    if (!at)
        return false;
    control = pci_read16(bdf, at + MSIX_CONTROL);
    *msix = (struct pci_msix){
        .bdf = bdf,
        .capability = at,
        .count = (control & 0x7ffu) + 1,
        .table = msix_address(bdf, pci_read32(bdf, at + MSIX_TABLE)),
        .pending = msix_address(bdf, pci_read32(bdf, at + MSIX_PENDING)),
    };
    if (!msix->table || !msix->pending)
        return false;
    pci_command(bdf, 0x406, 0);
    pci_write16(bdf, at + MSIX_CONTROL, control | MSIX_ENABLE);
    for (i = 0; i < msix->count; i++)
        pci_msix_mask(msix, i, true);
    return true;
}

void pci_msix_set(const struct pci_msix *msix, unsigned entry, unsigned apic_id,
                  unsigned vector)
{
    uint64_t at = msix->table + entry * MSIX_ENTRY;

    pci_msix_mask(msix, entry, true);
    mmio_write32(at, 0xfee00000 | apic_id << 12);
    mmio_write32(at + 4, 0);
    mmio_write32(at + 8, vector);
    pci_msix_mask(msix, entry, false);
}

void pci_msix_mask(const struct pci_msix *msix, unsigned entry, bool masked)
{
    mmio_write32(msix->table + entry * MSIX_ENTRY + 12, masked);
}

bool pci_msix_pending(const struct pci_msix *msix, unsigned entry)
{
    return mmio_read32(msix->pending + entry / 32 * 4) >> entry % 32 & 1;
}
