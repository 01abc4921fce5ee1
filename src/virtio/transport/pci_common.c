/* SPDX-License-Identifier: MIT */
/* The common configuration structure of the PCI transport (virtio 1.2, 4.1.4.3). */
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include "virtio/transport/pci.h"

/* The common configuration's tail of 1.2, absent from older <linux/virtio_pci.h>. */
enum { COMMON_QUEUE_NOTIFY_DATA = 56, COMMON_QUEUE_RESET = 58 };

static uint32_t common_read_queue(struct virtio_pci *pci, uint64_t offset)
{
    const struct virtio_queue *queue = virtio_queue_get(pci->vdev, pci->queue_select);

    if (queue == NULL) {
        return offset == VIRTIO_PCI_COMMON_Q_MSIX ? VIRTIO_NO_VECTOR : 0;
    }
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        return queue->size;
    case VIRTIO_PCI_COMMON_Q_MSIX:
        return atomic_load(&queue->vector);
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        return queue->enabled;
    case VIRTIO_PCI_COMMON_Q_NOFF:
    case COMMON_QUEUE_NOTIFY_DATA:
        return queue->index;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
        return (uint32_t)queue->desc_area;
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        return (uint32_t)(queue->desc_area >> 32);
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
        return (uint32_t)queue->driver_area;
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        return (uint32_t)(queue->driver_area >> 32);
    case VIRTIO_PCI_COMMON_Q_USEDLO:
        return (uint32_t)queue->device_area;
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        return (uint32_t)(queue->device_area >> 32);
    default:
        return 0; /* queue_reset: a reset is over when its write returns */
    }
}

uint32_t virtio_pci_common_read(struct virtio_pci *pci, uint64_t offset)
{
    struct virtio_device *vdev = pci->vdev;

    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        return pci->device_feature_select;
    case VIRTIO_PCI_COMMON_DF:
        return virtio_features_read(vdev, pci->device_feature_select, false);
    case VIRTIO_PCI_COMMON_GFSELECT:
        return pci->driver_feature_select;
    case VIRTIO_PCI_COMMON_GF:
        return virtio_features_read(vdev, pci->driver_feature_select, true);
    case VIRTIO_PCI_COMMON_MSIX:
        return atomic_load(&pci->config_vector);
    case VIRTIO_PCI_COMMON_NUMQ:
        return vdev->queue_count;
    case VIRTIO_PCI_COMMON_STATUS:
        return virtio_status_read(vdev);
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        return (uint8_t)atomic_load(&vdev->generation);
    case VIRTIO_PCI_COMMON_Q_SELECT:
        return pci->queue_select;
    default:
        return common_read_queue(pci, offset);
    }
}

static uint16_t vector_checked(const struct virtio_pci *pci, uint32_t value)
{
    return value < pci->vector_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

static void set_half(gpa *address, bool high, uint32_t value)
{
    *address = high ? (*address & UINT32_MAX) | (uint64_t)value << 32
                    : (*address & ~(uint64_t)UINT32_MAX) | value;
}

static void common_write_queue(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    struct virtio_queue *queue = virtio_queue_get(pci->vdev, pci->queue_select);

    if (queue == NULL) {
        return;
    }
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_MSIX:
        atomic_store(&queue->vector, vector_checked(pci, value));
        return;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1) { /* writing 0 is forbidden (4.1.4.3.2) */
            virtio_queue_enable(queue);
        }
        return;
    case COMMON_QUEUE_RESET:
        if (value == 1 && virtio_has(pci->vdev, 40 /* VIRTIO_F_RING_RESET */)) {
            virtio_queue_reset(queue);
        }
        return;
    default:
        break;
    }
    if (queue->enabled) {
        return; /* fixed while enabled */
    }
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        queue->size = value <= queue->max_size ? (uint16_t)value : 0;
        break;
    case VIRTIO_PCI_COMMON_Q_DESCLO:
    case VIRTIO_PCI_COMMON_Q_DESCHI:
        set_half(&queue->desc_area, offset == VIRTIO_PCI_COMMON_Q_DESCHI, value);
        break;
    case VIRTIO_PCI_COMMON_Q_AVAILLO:
    case VIRTIO_PCI_COMMON_Q_AVAILHI:
        set_half(&queue->driver_area, offset == VIRTIO_PCI_COMMON_Q_AVAILHI, value);
        break;
    case VIRTIO_PCI_COMMON_Q_USEDLO:
    case VIRTIO_PCI_COMMON_Q_USEDHI:
        set_half(&queue->device_area, offset == VIRTIO_PCI_COMMON_Q_USEDHI, value);
        break;
    default:
        break;
    }
}

void virtio_pci_common_write(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        pci->device_feature_select = value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        pci->driver_feature_select = value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        virtio_features_write(pci->vdev, pci->driver_feature_select, value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        atomic_store(&pci->config_vector, vector_checked(pci, value));
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        virtio_status_write(pci->vdev, (uint8_t)value);
        if ((uint8_t)value == 0) {
            atomic_store(&pci->config_vector, VIRTIO_NO_VECTOR);
            atomic_store(&pci->isr, 0);
            pci_intx_set(&pci->function, false);
        }
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        pci->queue_select = (uint16_t)value;
        break;
    default:
        common_write_queue(pci, offset, value);
        break;
    }
}
