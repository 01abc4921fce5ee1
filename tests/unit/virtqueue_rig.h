/* SPDX-License-Identifier: MIT */
/* Guest memory and configurations for tests of virtqueues. Included behind cmocka.h. */
#ifndef UNIT_VIRTQUEUE_RIG_H
#define UNIT_VIRTQUEUE_RIG_H

#include "unit/virtqueue_driver.h"
#include "virtio/virtqueue/virtqueue.h"

enum { RAM = 16 << 20, BUFFERS = 8 << 20, TABLES = 4 << 20, TABLE_SIZE = 64 * 16 };

static inline struct guest_mem *ram_create(void)
{
    struct guest_mem_options options = { 0 };
    struct umbra_error error;
    struct guest_mem *mem;

    assert_int_equal(guest_mem_create(&options, &mem, &error), 0);
    assert_int_equal(guest_mem_add(mem, 0, RAM / 2, GUEST_REGION_RAM, &error), 0);
    /* Two regions that touch: chains may cross from one into the other. */
    assert_int_equal(guest_mem_add(mem, RAM / 2, RAM / 2, GUEST_REGION_RAM, &error), 0);
    return mem;
}

struct shape {
    unsigned size;
    bool packed, event_idx, indirect, in_order;
};

static inline struct virtqueue_config config_of(const struct drv *v,
                                                const struct shape *s)
{
    return (struct virtqueue_config){
        .size = s->size,
        .desc = v->desc,
        .driver = v->driver,
        .device = v->device,
        .packed = s->packed,
        .event_idx = s->event_idx,
        .indirect = s->indirect,
        .in_order = s->in_order,
    };
}

#endif
