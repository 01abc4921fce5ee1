/* SPDX-License-Identifier: MIT */
/* A small virtio driver core over both transports (virtio 1.2, 4.1 and 4.2). Set up in
 * ring 0, data path (ring.h) in ring 3. */
#ifndef GUESTS_VIRTIO_H
#define GUESTS_VIRTIO_H

#include "ring.h"

#define VIRTIO_NET     1
#define VIRTIO_BLOCK   2
#define VIRTIO_CONSOLE 3
#define VIRTIO_RNG     4
#define VIRTIO_BALLOON 5
#define VIRTIO_VSOCK   19

#define VIRTIO_ACKNOWLEDGE 1
#define VIRTIO_DRIVER      2
#define VIRTIO_DRIVER_OK   4
#define VIRTIO_FEATURES_OK 8
#define VIRTIO_NEEDS_RESET 64
#define VIRTIO_FAILED      128

#define VIRTIO_F_INDIRECT    28
#define VIRTIO_F_EVENT_INDEX 29
#define VIRTIO_F_VERSION_1   32
#define VIRTIO_F_PACKED      34
#define VIRTIO_F_IN_ORDER    35
#define VIRTIO_F_RING_RESET  40

#define FEATURE(bit) (UINT64_C(1) << (bit))

/* Interrupts are counted in interrupt_counts[]: VIRTIO_VECTOR + queue by MSI-X,
 * VIRTIO_CONFIG_VECTOR for changes of the configuration and everything without MSI-X. */
#define VIRTIO_VECTOR        0x80
#define VIRTIO_CONFIG_VECTOR 0x7f

struct virtio {
    bool mmio;
    unsigned bdf, type;
    uint64_t common; /* virtio-mmio: the register block */
    uint64_t notify, isr, config;
    uint32_t notify_multiplier;
    bool has_msix;
    struct pci_msix msix;
    unsigned gsi;
    uint64_t features; /* as negotiated */
};

/* The @nth device of @type on PCI, then on virtio-mmio (words mmio=ADDRESS and gsi=N on
 * the command line say where else to look). Word msix=0: use INTx. */
bool virtio_find(struct virtio *v, unsigned type, unsigned nth);
uint8_t virtio_status(const struct virtio *v);
/* Was there an interrupt of a device's? One may come a moment behind the used entry, or
 * many, on a busy host: waits up to ten seconds. After time_init(). */
bool virtio_interrupted(void);
void virtio_set_status(const struct virtio *v, uint8_t status);
/* Reset, and negotiate those of @wanted that are offered, and VERSION_1. */
bool virtio_begin(struct virtio *v, uint64_t wanted);
uint64_t virtio_offered(const struct virtio *v);
unsigned virtio_queue_max(const struct virtio *v, unsigned index);
/* Set queue @index up with @size entries in @memory and enable it. */
bool virtio_queue(struct virtio *v, unsigned index, struct ring *ring,
                  struct ring_memory *memory, unsigned size);
/* The same with the ring's three parts wherever the caller says, and no look at the size. */
bool virtio_queue_at(struct virtio *v, unsigned index, struct ring *ring, uint64_t desc,
                     uint64_t driver, uint64_t device);
/* Write the driver's features, whatever was offered. */
void virtio_accept(const struct virtio *v, uint64_t features);
/* DRIVER_OK. */
void virtio_ready(const struct virtio *v);
uint8_t virtio_config8(const struct virtio *v, unsigned offset);
uint32_t virtio_config32(const struct virtio *v, unsigned offset);
uint64_t virtio_config64(const struct virtio *v, unsigned offset);

#endif
