/* SPDX-License-Identifier: MIT */
/* Inside virtio-blk: the device (blk.c) and its queues' threads (queue.c). */
#ifndef VIRTIO_BLK_BLK_H
#define VIRTIO_BLK_BLK_H

#include <pthread.h>
#include <stdatomic.h>

#include "backend/disk/disk.h"
#include "loop/io_ring.h"
#include "virtio/registry.h"
#include "virtio/virtio.h"

enum {
    BLK_ID_BYTES = 20,
    BLK_SEGMENTS_MAX = 254,
    BLK_DISCARD_SEGMENTS = 16,
    BLK_DISCARD_SECTORS = 1 << 22, /* 2 GiB a segment */
};

struct virtio_blk {
    struct virtio_device device;
    struct disk *disk;
    uint8_t serial[BLK_ID_BYTES];
    bool poll;
    atomic_bool writeback; /* else every write is flushed before it completes */
};

struct blk_queue;

/* virtio_device_ops: the thread that owns a queue. */
int blk_queue_start(struct virtio_device *device, struct virtio_queue *queue);
void blk_queue_stop(struct virtio_device *device, struct virtio_queue *queue);

/*
 * One request as the driver wrote it, checked: for queue.c, and apart from it for
 * fuzzing. Everything is the device's copy.
 */
struct blk_command {
    uint32_t type;
    uint64_t sector;
    uint64_t data_length; /* of the readable or writable data */
};

/* false: there is no header or no room for the status, so no answer is possible. */
bool blk_command_parse(const struct virtqueue_chain *chain, struct blk_command *command);

#endif
