/* SPDX-License-Identifier: MIT */
/* Handing a device's own rings to another side, and taking them back. */
#include "virtio/vhost/remote.h"

#include <errno.h>

int remote_queue_start(struct remote *remote, struct virtio_queue *queue, unsigned index,
                       int call_fd)
{
    struct virtqueue_position position;
    struct remote_queue handed = { .index = index,
                                   .size = queue->vq.config.size,
                                   .kick_fd = queue->kick_fd,
                                   .call_fd = call_fd };
    uint64_t areas[3];

    if (queue->vq.config.packed || queue->vq.config.in_order) {
        return -ENOTSUP;
    }
    virtqueue_get_position(&queue->vq, &position);
    virtqueue_host_areas(&queue->vq, areas);
    handed.desc = areas[0];
    handed.driver = areas[1];
    handed.device = areas[2];
    handed.base = position.available;
    return remote->ops->queue_start(remote, &handed);
}

int remote_queue_recover(struct virtio_queue *queue)
{
    struct virtqueue_position position;
    int ret = virtqueue_used_position(&queue->vq, &position);

    if (ret == 0) {
        virtqueue_set_position(&queue->vq, &position);
    }
    return ret;
}

int remote_queue_stop(struct remote *remote, struct virtio_queue *queue, unsigned index)
{
    struct virtqueue_position position;
    uint16_t base;
    int ret = remote->ops->queue_stop(remote, index, &base);

    if (ret == 0) {
        ret = virtqueue_used_position(&queue->vq, &position);
    }
    if (ret == 0) {
        position.available = base;
        virtqueue_set_position(&queue->vq, &position);
    }
    return ret;
}
