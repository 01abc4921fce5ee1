/* SPDX-License-Identifier: MIT */
/* A driver's side of virtio-mmio (virtio 1.2, 4.2): registers, negotiation, queues. */
#ifndef TESTS_MMIO_DRIVER_H
#define TESTS_MMIO_DRIVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include "devices/device.h"
#include "unit/virtqueue_driver.h"

enum {
    MMIO_DRIVER = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
    MMIO_FEATURES_OK = MMIO_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
    MMIO_DRIVER_OK = MMIO_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK,
};

/* Accesses as the bus makes them; @size for what configuration spaces hold. */
static inline uint32_t mmio_get_sized(struct device *device, unsigned offset,
                                      unsigned size)
{
    uint32_t value;

    pthread_mutex_lock(&device->lock);
    value = (uint32_t)device->ops->read(device, 0, offset, size);
    pthread_mutex_unlock(&device->lock);
    return size < 4 ? value & ((1u << 8 * size) - 1) : value;
}

static inline uint32_t mmio_get(struct device *device, unsigned offset)
{
    return mmio_get_sized(device, offset, 4);
}

static inline void mmio_set(struct device *device, unsigned offset, uint32_t value)
{
    pthread_mutex_lock(&device->lock);
    device->ops->write(device, 0, offset, 4, value);
    pthread_mutex_unlock(&device->lock);
}

static inline uint64_t mmio_offered(struct device *device)
{
    uint64_t features = 0;

    for (unsigned i = 0; i < 2; i++) {
        mmio_set(device, VIRTIO_MMIO_DEVICE_FEATURES_SEL, i);
        features |= (uint64_t)mmio_get(device, VIRTIO_MMIO_DEVICE_FEATURES) << 32 * i;
    }
    return features;
}

/* Reset, then up to FEATURES_OK (3.1.1). Gives the status there: MMIO_FEATURES_OK where the
 * device takes @features. */
static inline uint32_t mmio_negotiate(struct device *device, uint64_t features)
{
    mmio_set(device, VIRTIO_MMIO_STATUS, 0);
    mmio_set(device, VIRTIO_MMIO_STATUS, MMIO_DRIVER);
    for (unsigned i = 0; i < 2; i++) {
        mmio_set(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, i);
        mmio_set(device, VIRTIO_MMIO_DRIVER_FEATURES, (uint32_t)(features >> 32 * i));
    }
    mmio_set(device, VIRTIO_MMIO_STATUS, MMIO_FEATURES_OK);
    return mmio_get(device, VIRTIO_MMIO_STATUS);
}

static inline void mmio_queue_address(struct device *device, unsigned low, uint64_t value)
{
    mmio_set(device, low, (uint32_t)value);
    mmio_set(device, low + 4, (uint32_t)(value >> 32));
}

/* Queue @index is ready with @drv's rings. */
static inline void mmio_queue_ready(struct device *device, unsigned index,
                                    const struct drv *drv)
{
    mmio_set(device, VIRTIO_MMIO_QUEUE_SEL, index);
    mmio_set(device, VIRTIO_MMIO_QUEUE_NUM, drv->size);
    mmio_queue_address(device, VIRTIO_MMIO_QUEUE_DESC_LOW, drv->desc);
    mmio_queue_address(device, VIRTIO_MMIO_QUEUE_AVAIL_LOW, drv->driver);
    mmio_queue_address(device, VIRTIO_MMIO_QUEUE_USED_LOW, drv->device);
    mmio_set(device, VIRTIO_MMIO_QUEUE_READY, 1);
}

struct mmio_rings { /* how a driver lays them out */
    struct guest_mem *mem;
    uint64_t base; /* where they begin */
    unsigned size;
    bool packed, event_idx;
};

/* New rings for all of @queues, one behind the other, with interrupts on; those of an earlier
 * start are given up. Gives the end of the last. */
static inline uint64_t mmio_queues_start(struct device *device, struct drv *queues,
                                         unsigned count, const struct mmio_rings *rings)
{
    uint64_t base = rings->base;

    for (unsigned i = 0; i < count; i++) {
        struct drv *d = &queues[i];

        if (d->mem != NULL) {
            drv_fini(d);
        }
        base =
            drv_init(d, rings->mem, base, rings->size, rings->packed, rings->event_idx);
        mmio_queue_ready(device, i, d);
        drv_interrupts_on(d);
    }
    return base;
}

/* As a driver does that heeds the ring's suppression of notifications. */
static inline void mmio_kick(struct device *device, unsigned index, struct drv *drv)
{
    if (drv_kick_needed(drv)) {
        mmio_set(device, VIRTIO_MMIO_QUEUE_NOTIFY, index);
    }
}

#endif
