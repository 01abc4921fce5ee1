/* SPDX-License-Identifier: MIT */
/* PCI configuration space by both ways in, and the walk over all functions. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

static uint64_t ecam_address(unsigned bdf, unsigned offset)
{
    return acpi.ecam + ((uint64_t)bdf << 12) + offset;
}

static bool ecam_covers(unsigned bdf)
{
    return acpi.ecam && bdf >> 8 >= acpi.bus_start && bdf >> 8 <= acpi.bus_end;
}

static void port_select(unsigned bdf, unsigned offset)
{
    out32(PCI_ADDRESS_PORT, 0x80000000u | bdf << 8 | (offset & 0xfc));
}

uint32_t pci_port_read32(unsigned bdf, unsigned offset)
{
    port_select(bdf, offset);
    return in32(PCI_DATA_PORT);
}

uint32_t pci_read32(unsigned bdf, unsigned offset)
{
    return ecam_covers(bdf) ? mmio_read32(ecam_address(bdf, offset))
                            : pci_port_read32(bdf, offset);
}

uint16_t pci_read16(unsigned bdf, unsigned offset)
{
    return (uint16_t)(pci_read32(bdf, offset & ~3u) >> (offset & 2) * 8);
}

uint8_t pci_read8(unsigned bdf, unsigned offset)
{
    return (uint8_t)(pci_read32(bdf, offset & ~3u) >> (offset & 3) * 8);
}

void pci_write32(unsigned bdf, unsigned offset, uint32_t v)
{
    if (ecam_covers(bdf)) {
        mmio_write32(ecam_address(bdf, offset), v);
        return;
    }
    port_select(bdf, offset);
    out32(PCI_DATA_PORT, v);
}

void pci_write16(unsigned bdf, unsigned offset, uint16_t v)
{
    if (ecam_covers(bdf)) {
        mmio_write16(ecam_address(bdf, offset), v);
        return;
    }
    port_select(bdf, offset);
    out16(PCI_DATA_PORT + (offset & 2), v);
}

void pci_write8(unsigned bdf, unsigned offset, uint8_t v)
{
    if (ecam_covers(bdf)) {
        mmio_write8(ecam_address(bdf, offset), v);
        return;
    }
    port_select(bdf, offset);
    out8((uint16_t)(PCI_DATA_PORT + (offset & 3)), v);
}

/* The last bus: the highest that a bridge on the way here leads to. */
static unsigned last_bus(unsigned bdf, unsigned bus)
{
    unsigned below;

    if ((pci_read8(bdf, 0x0e) & 0x7f) != 1)
        return bus;
    below = pci_read8(bdf, 0x1a);
    return below > bus ? below : bus;
}

int pci_next(unsigned from)
{
    static unsigned buses;
    unsigned bdf;

    if (from == 0)
        buses = 0;
    for (bdf = from; bdf >> 8 <= buses; bdf++) {
        bool multifunction;

        if (bdf & 7 && pci_read16(bdf & ~7u, 0) == 0xffff) {
            bdf |= 7;
            continue;
        }
        multifunction = !(bdf & 7) || pci_read8(bdf & ~7u, 0x0e) & 0x80;
        if (!multifunction) {
            bdf |= 7;
            continue;
        }
        if (pci_read16(bdf, 0) == 0xffff)
            continue;
        buses = last_bus(bdf, buses);
        return (int)bdf;
    }
    return -1;
}
