/* SPDX-License-Identifier: MIT */
/*
 * A virtqueue that somebody else serves: another process (user.h) or the host's
 * kernel (kernel.h). Both are told the same things: where the ring is, where it
 * stands, an eventfd that the driver's kicks signal and one that interrupts the driver.
 */
#ifndef VIRTIO_VHOST_REMOTE_H
#define VIRTIO_VHOST_REMOTE_H

#include "virtio/virtio.h"

struct remote_queue {
    unsigned index, size;
    /* The three parts of a split ring, as addresses in this process. */
    uint64_t desc, driver, device;
    uint16_t base; /* the available index to go on from */
    int kick_fd;   /* borrowed, as call_fd */
    int call_fd;
};

struct remote;

struct remote_ops {
    int (*queue_start)(struct remote *remote, const struct remote_queue *queue);
    /* The other side lets go of the ring; *base is the available index it got to. */
    int (*queue_stop)(struct remote *remote, unsigned index, uint16_t *base);
};

struct remote {
    const struct remote_ops *ops;
};

/* Hand a queue that runs over as it stands; @index is its number there, @call_fd from
 * virtio_queue_call_fd(). Split rings only. */
int remote_queue_start(struct remote *remote, struct virtio_queue *queue, unsigned index,
                       int call_fd);
/* Take it back: it goes on where the other side left it. */
int remote_queue_stop(struct remote *remote, struct virtio_queue *queue, unsigned index);
/*
 * Take it back from a side that is gone: what it used is done, all else is not. That is
 * the truth for sides that use buffers in order, and for networks, which may lose frames.
 */
int remote_queue_recover(struct virtio_queue *queue);

#endif
