/* SPDX-License-Identifier: MIT */
/* PCI configuration registers (PCI 3.0, chapter 6), and what the pci_*.c files share. */
#ifndef DEVICES_PCI_REGS_H
#define DEVICES_PCI_REGS_H

#include "devices/pci/pci.h"

enum {
    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_CLASS = 0x09, /* interface, subclass, class */
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_HEADER_END = 0x40,

    PCI_COMMAND_IO = 0x0001,
    PCI_COMMAND_MEMORY = 0x0002,
    PCI_COMMAND_MASTER = 0x0004,
    PCI_COMMAND_INTX_OFF = 0x0400,
    PCI_COMMAND_WRITABLE = 0x0547, /* those, parity and SERR# enable */
    PCI_STATUS_INTERRUPT = 0x0008,
    PCI_STATUS_CAPABILITIES = 0x0010,
    PCI_STATUS_ERRORS = 0xf900, /* write 1 to clear */

    PCI_BAR_IS_IO = 0x1,
    PCI_BAR_IS_64 = 0x4,
    PCI_BAR_IS_PREFETCHABLE = 0x8,

    PCI_CAP_MSIX = 0x11,
    PCI_MSIX_CONTROL = 2, /* offset in the capability */
    PCI_MSIX_ENABLE = 0x8000,
    PCI_MSIX_MASK_ALL = 0x4000,
    PCI_MSIX_ENTRY = 16, /* bytes */
    PCI_MSIX_MAX = 2048,
};

/* Config accesses; the function's lock is held, [offset, offset + size) is inside. A
 * write returns whether a BAR stopped decoding, so that others may take its place. */
uint32_t pci_config_read(struct pci_function *function, unsigned offset, unsigned size);
bool pci_config_write(struct pci_function *function, unsigned offset, unsigned size,
                      uint32_t value);

/* Make what the buses decode fit the config space; returns whether something stopped. */
bool pci_bars_sync(struct pci_function *function);
/* Does some enabled BAR wait for its place? */
bool pci_bars_waiting(const struct pci_function *function);
/* The address that a BAR's registers hold. */
uint64_t pci_bar_address(const struct pci_function *function, unsigned bar);
void pci_bar_store(struct pci_function *function, unsigned bar, uint64_t address);

/* The bus that decodes @kind. */
struct bus *pci_host_bus(const struct pci_host *host, enum pci_bar_kind kind);

/* MSI-X control was written, or everything was reset or loaded. */
void pci_msix_update(struct pci_function *function);
void pci_msix_reset(struct pci_function *function);
void pci_msix_fini(struct pci_function *function);
void pci_msix_save(struct pci_function *function, struct state_writer *writer);
void pci_msix_load(struct pci_function *function, struct state_reader *reader);

#endif
