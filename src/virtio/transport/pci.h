/* SPDX-License-Identifier: MIT */
/* Inside the PCI transport: its layout, state, and the common configuration structure. */
#ifndef VIRTIO_TRANSPORT_PCI_H
#define VIRTIO_TRANSPORT_PCI_H

#include "devices/pci/pci.h"
#include "virtio/virtio.h"

/*
 * The BAR. Each structure is on a page of its own, so that the doorbells and the MSI-X
 * table can be treated apart. 64-bit, and not prefetchable: reading ISR has an effect.
 */
enum {
    BAR = 0,
    BAR_SIZE = 0x8000,
    BAR_COMMON = 0x0000,
    BAR_ISR = 0x1000,
    BAR_DEVICE = 0x2000,
    BAR_NOTIFY = 0x3000,
    BAR_MSIX_TABLE = 0x4000,
    BAR_MSIX_PBA = 0x7000,
    BAR_PAGE = 0x1000,
    NOTIFY_MULTIPLIER = 4,
    VECTORS_MAX = (BAR_MSIX_PBA - BAR_MSIX_TABLE) / 16,
};

enum {
    VENDOR = 0x1af4,
    DEVICE_BASE = 0x1040,
    SUBSYSTEM = 0x1100,
    CAP_VENDOR = 0x09,
    ISR_QUEUE = 1,
    ISR_CONFIG = 2,
};

struct pci_vector {
    struct virtio_pci *pci;
    unsigned index;
    int fd;                   /* signalling it sends the vector's message */
    struct loop_watch *watch; /* only where the kernel does not do that itself */
};

struct virtio_pci {
    struct pci_function function;
    struct virtio_device *vdev;
    uint32_t device_feature_select, driver_feature_select;
    uint16_t queue_select;
    atomic_ushort config_vector;
    unsigned access_cap; /* config offset of the PCI configuration access capability */
    atomic_uint isr;
    atomic_bool msix_enabled; /* a copy that any thread may read */
    unsigned vector_count;
    struct pci_vector *vectors;
    int intx_fd; /* interrupts by INTA go through the loop, which has the device's lock */
    struct loop_watch *intx_watch;
};

/* The common configuration structure (4.1.4.3), @offset within it, up to 32 bits. */
uint32_t virtio_pci_common_read(struct virtio_pci *pci, uint64_t offset);
void virtio_pci_common_write(struct virtio_pci *pci, uint64_t offset, uint32_t value);

#endif
