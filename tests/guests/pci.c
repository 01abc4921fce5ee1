/* SPDX-License-Identifier: MIT */
/* PCI: both ways into configuration space agree at every width; absent functions and
 * disabled cycles read as ones; BARs can be sized. */
#include "vmm/guest/guest.h"
#include "vmm/guest/ports.h"

static void check_function(unsigned bdf)
{
    uint64_t ecam = acpi.ecam + ((uint64_t)bdf << 12);
    unsigned at;

    for (at = 0; at < 64; at += 4) {
        CHECK(mmio_read32(ecam + at) == pci_port_read32(bdf, at));
        CHECK(mmio_read16(ecam + at + 2) == pci_port_read32(bdf, at) >> 16);
        CHECK(mmio_read8(ecam + at + 1) == (pci_port_read32(bdf, at) >> 8 & 0xff));
        CHECK(in16(PCI_DATA_PORT + 2) == mmio_read16(ecam + at + 2));
        CHECK(in8(PCI_DATA_PORT + 3) == mmio_read8(ecam + at + 3));
    }
}

static void check_bars(unsigned bdf)
{
    unsigned bar, old, size;

    if (pci_read8(bdf, 0x0e) & 0x7f)
        return;
    for (bar = 0x10; bar < 0x28; bar += 4) {
        old = pci_read32(bdf, bar);
        pci_write32(bdf, bar, 0xffffffff);
        size = pci_read32(bdf, bar);
        pci_write32(bdf, bar, old);
        CHECK(pci_read32(bdf, bar) == old);
        if (size)
            print("  bar %u %08x mask %08x\n", (bar - 0x10) / 4, old, size);
        if ((old & 7) == 4)
            bar += 4;
    }
}

int guest_main(int argc, char **argv)
{
    unsigned count = 0;
    int bdf;

    acpi_init();
    CHECK(acpi.found && acpi.ecam);
    out32(PCI_ADDRESS_PORT, 0x80000000);
    CHECK(in32(PCI_ADDRESS_PORT) == 0x80000000);
    for (bdf = pci_next(0); bdf >= 0; bdf = pci_next((unsigned)bdf + 1)) {
        print("%02x:%02x.%u %08x\n", (unsigned)bdf >> 8, bdf >> 3 & 31, bdf & 7,
              pci_read32((unsigned)bdf, 0));
        check_function((unsigned)bdf);
        check_bars((unsigned)bdf);
        count++;
    }
    CHECK(count >= 1 && pci_read8(0, 0x0b) == 6 && pci_read8(0, 0x0a) == 0);
    CHECK(pci_port_read32(0xf8 << 8, 0) == 0xffffffff);
    CHECK(acpi.bus_end < 0x40 || pci_read32(0x40 << 8, 0) == 0xffffffff);
    out32(PCI_ADDRESS_PORT, 0);
    CHECK(in32(PCI_DATA_PORT) == 0xffffffff);
    print("%u functions\n", count);
    return EXIT_PASS;
}
