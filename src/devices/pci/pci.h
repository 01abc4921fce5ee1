/* SPDX-License-Identifier: MIT */
/*
 * PCI functions and the host bridge they sit behind (PCI Local Bus 3.0, PCI Express base
 * for ECAM). A PCI device embeds a `struct pci_function` first, describes its BARs and
 * capabilities as data, and gets BAR accesses through its device_ops with region = BAR
 * index.
 */
#ifndef DEVICES_PCI_PCI_H
#define DEVICES_PCI_PCI_H

#include "devices/bus.h"
#include "devices/device.h"
#include "devices/irq.h"

enum { PCI_CONFIG_SIZE = 4096, PCI_BAR_COUNT = 6, PCI_SLOT_COUNT = 32 };

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };

struct pci_bar {
    enum pci_bar_kind kind;
    bool prefetchable;
    uint64_t size;    /* power of two, at least 16 (4 for I/O) */
    uint64_t address; /* where it is decoded now; valid while `mapped` */
    bool mapped;
};

struct pci_host;
struct pci_function;

struct pci_msix_entry {
    uint64_t address;
    uint32_t data;
    uint32_t control; /* bit 0: masked */
    bool pending;
    int route; /* irq_chip msi_bind handle, -1 when unbound */
    int fd;    /* eventfd bound to the route, -1 without */
};

/* MSI-X state (PCI 3.0, 6.8.2), in one BAR: table at table_offset, PBA at pba_offset. */
struct pci_msix {
    unsigned bar;
    unsigned count;
    uint32_t table_offset, pba_offset;
    unsigned cap; /* config offset of the capability */
    struct pci_msix_entry *entries;
};

struct pci_function_ops {
    /* After a config write changed bytes [offset, offset+size); may be NULL. */
    void (*config_written)(struct pci_function *function, unsigned offset, unsigned size);
    /* Before a config read of [offset, offset+size), to refresh bytes; may be NULL. */
    void (*config_reading)(struct pci_function *function, unsigned offset, unsigned size);
    /* A BAR was mapped (true) or is about to be unmapped; may be NULL. For doorbells. */
    void (*bar_mapped)(struct pci_function *function, unsigned bar, bool mapped);
    /* MSI-X vector @vector was masked or unmasked or its message changed; may be NULL. */
    void (*msix_changed)(struct pci_function *function, unsigned vector);
};

struct pci_function {
    struct device device; /* first: BAR accesses arrive at device.ops with region = BAR */
    const struct pci_function_ops *pci_ops;
    struct pci_host *host; /* set by pci_host_add */
    unsigned slot;         /* device number; function 0 */
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t write_mask[PCI_CONFIG_SIZE]; /* bits that the guest may change */
    uint8_t w1c_mask[PCI_CONFIG_SIZE];   /* bits that a guest's 1 clears */
    uint8_t initial[PCI_CONFIG_SIZE];    /* config as pci_host_add found it */
    struct pci_bar bars[PCI_BAR_COUNT];
    unsigned next_cap; /* where the next capability goes; 0x40 at first */
    unsigned last_cap;
    struct pci_msix msix; /* count == 0: none */
    struct irq_line intx; /* INTA, routed by the host bridge */
};

struct pci_ids {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: class, subclass, interface */
    uint8_t revision;
};

void pci_function_init(struct pci_function *function, const struct pci_ids *ids,
                       const struct pci_function_ops *ops);
/* Release what the common part holds (MSI-X entries, routes); device_fini is the
 * device's. */
void pci_function_fini(struct pci_function *function);

/* Describe BAR @bar before pci_host_add. */
void pci_bar_set(struct pci_function *function, unsigned bar, enum pci_bar_kind kind,
                 uint64_t size, bool prefetchable);

/* Append a capability of @length bytes (with its 2-byte header); returns its config
 * offset. */
unsigned pci_cap_add(struct pci_function *function, uint8_t id, const void *body,
                     unsigned length);

/* Add MSI-X with @count vectors whose table and PBA live in @bar at the given offsets. */
int pci_msix_add(struct pci_function *function, unsigned count, unsigned bar,
                 uint32_t table_offset, uint32_t pba_offset);
/* The device's read/write of the table or PBA: true if [offset, size) of @bar was
 * MSI-X's. */
bool pci_msix_read(struct pci_function *function, unsigned bar, uint64_t offset,
                   unsigned size, uint64_t *value);
bool pci_msix_write(struct pci_function *function, unsigned bar, uint64_t offset,
                    unsigned size, uint64_t value);
bool pci_msix_enabled(const struct pci_function *function);
/* Signal @vector (masked: it becomes pending). Any thread that holds the device's lock.
 */
void pci_msix_notify(struct pci_function *function, unsigned vector);
/* Bind an eventfd so that signalling it sends the vector's message in the kernel while it
 * is unmasked; -ENOTSUP: signal with pci_msix_notify instead. */
int pci_msix_bind(struct pci_function *function, unsigned vector, int fd);
void pci_msix_unbind(struct pci_function *function, unsigned vector);

/* Drive INTA (honours Interrupt Disable in the command register, sets the status bit). */
void pci_intx_set(struct pci_function *function, bool level);

/* Put config space, BARs and MSI-X back to power-on state. The device's lock is held. */
void pci_function_reset(struct pci_function *function);

/* The common part's fields ("pci.*") in the device's own section, between state_begin and
 * state_end, or after state_open. Loading moves the BARs and rebinds MSI-X routes. */
void pci_function_save(struct pci_function *function, struct state_writer *writer);
int pci_function_load(struct pci_function *function, struct state_reader *reader);

/* ---- The host bridge: CF8/CFC on @pio, ECAM on @mmio, slot 0 is the bridge itself
 * ------ */

struct pci_host_config {
    uint64_t ecam_base;
    uint64_t ecam_size; /* bus 0 only is populated */
    unsigned intx_gsi[4];
};

/*
 * Locks: a config access takes the bridge's lock, then the function's; a function's own
 * code never takes the bridge's. The bridge claims CF8..CFB and CFC..CFF on @pio and the
 * ECAM window on @mmio itself.
 */
int pci_host_create(const struct device_env *env, const struct pci_host_config *config,
                    struct bus *pio, struct bus *mmio, struct pci_host **host,
                    struct umbra_error *error);
/* Plug @function into @slot (0: the lowest free one from 1). The host does not own it. */
int pci_host_add(struct pci_host *host, struct pci_function *function, unsigned slot,
                 struct umbra_error *error);
/*
 * Give every BAR that has no address one from the windows, as firmware would, and enable
 * decoding, so that guests that do not assign BARs find them. Called once after the last
 * add and after each reset.
 */
int pci_host_assign_bars(struct pci_host *host, uint64_t mmio32_base,
                         uint64_t mmio32_size, uint64_t mmio64_base, uint64_t mmio64_size,
                         struct umbra_error *error);
/* GSI of INTA of @slot, intx_gsi[slot % 4]: the swizzle that ACPI's _PRT describes. */
unsigned pci_host_gsi(const struct pci_host *host, unsigned slot);
struct device *pci_host_device(struct pci_host *host);
void pci_host_destroy(struct pci_host *host);

#endif
