/* SPDX-License-Identifier: MIT */
/* The transports: each makes a virtio device visible to the guest and owns it. */
#ifndef VIRTIO_TRANSPORT_TRANSPORT_H
#define VIRTIO_TRANSPORT_TRANSPORT_H

#include "devices/pci/pci.h"
#include "virtio/virtio.h"

enum { VIRTIO_MMIO_SIZE = 0x200 };

/*
 * Behind PCI (virtio 1.2, 4.1; non-transitional). The function goes to pci_host_add().
 * @vdev is taken over, also on failure.
 */
int virtio_pci_create(const struct device_env *env, struct virtio_device *vdev,
                      struct pci_function **function, struct umbra_error *error);

/*
 * As registers at an address (4.2, version 2), VIRTIO_MMIO_SIZE bytes, with a level line
 * on @gsi that may be shared. @vdev is taken over, also on failure.
 */
int virtio_mmio_create(const struct device_env *env, unsigned gsi,
                       struct virtio_device *vdev, struct device **device,
                       struct umbra_error *error);
/* It sits at @base now: have the kernel take the kicks (device_env.doorbell). */
void virtio_mmio_placed(struct device *device, uint64_t base);

#endif
