/* SPDX-License-Identifier: MIT */
/* A tap's frames in the hands of the host's kernel. */
#include "virtio/net/vhost.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include <linux/vhost.h>
#include <linux/virtio_net.h>

#include "backend/net/net.h"
#include "base/error.h"
#include "virtio/vhost/kernel.h"

/* What vhost negotiates itself: the rings and the size of headers; offloads are the tap's. */
#define VHOST_NET_FEATURES                                                               \
    (VIRTIO_FEATURE(VIRTIO_NET_F_MRG_RXBUF) | VIRTIO_FEATURE(28) /* INDIRECT_DESC */ |   \
     VIRTIO_FEATURE(29) /* EVENT_IDX */ | VIRTIO_FEATURE(32) /* VERSION_1 */)
/* Rings that umbra can do and vhost cannot. */
#define VHOST_NET_NO_RINGS (VIRTIO_FEATURE(34) /* RING_PACKED */ | VIRTIO_RING_IN_ORDER)

struct vhost_pair {
    struct vhost_kernel kernel;
    int tap;
    bool started[2];
};

struct net_vhost {
    bool link;
    unsigned pair_count;
    struct vhost_pair pairs[NET_PAIRS_MAX];
};

static int pair_set_backend(const struct vhost_pair *pair, unsigned ring, int fd)
{
    struct vhost_vring_file file = { .index = ring, .fd = fd };

    return ioctl(pair->kernel.fd, VHOST_NET_SET_BACKEND, &file) < 0 ? -errno : 0;
}

int net_vhost_start(struct net_vhost *vhost, struct virtio_queue *queue)
{
    struct vhost_pair *pair = &vhost->pairs[queue->index / 2];
    unsigned ring = queue->index % 2;
    int call_fd = virtio_queue_call_fd(queue), ret;

    if (call_fd < 0) {
        return -ENOTSUP;
    }
    ret = remote_queue_start(&pair->kernel.remote, queue, ring, call_fd);
    if (ret == 0 && vhost->link) {
        ret = pair_set_backend(pair, ring, pair->tap);
    }
    pair->started[ring] = ret == 0;
    return ret;
}

void net_vhost_stop(struct net_vhost *vhost, struct virtio_queue *queue)
{
    struct vhost_pair *pair = &vhost->pairs[queue->index / 2];
    unsigned ring = queue->index % 2;

    if (!pair->started[ring]) {
        return;
    }
    pair->started[ring] = false;
    /* It waits until the kernel has let go of every buffer. */
    pair_set_backend(pair, ring, -1);
    if (remote_queue_stop(&pair->kernel.remote, queue, ring) != 0) {
        remote_queue_recover(queue);
    }
}

void net_vhost_set_link(struct net_vhost *vhost, bool up)
{
    if (vhost->link == up) {
        return;
    }
    vhost->link = up;
    for (unsigned i = 0; i < 2 * vhost->pair_count; i++) {
        struct vhost_pair *pair = &vhost->pairs[i / 2];

        if (pair->started[i % 2]) {
            pair_set_backend(pair, i % 2, up ? pair->tap : -1);
        }
    }
}

uint64_t net_vhost_features(const struct net_vhost *vhost, uint64_t features)
{
    uint64_t missing = VHOST_NET_FEATURES & ~vhost->pairs[0].kernel.features;

    return features & ~missing & ~VHOST_NET_NO_RINGS;
}

int net_vhost_activate(struct net_vhost *vhost, uint64_t features)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < vhost->pair_count; i++) {
        ret = vhost_kernel_set_features(&vhost->pairs[i].kernel,
                                        features & VHOST_NET_FEATURES);
    }
    return ret;
}

int net_vhost_open(const struct guest_mem *mem, const int *taps, unsigned pairs,
                   struct net_vhost **out, struct umbra_error *error)
{
    struct net_vhost *vhost = calloc(1, sizeof(*vhost));
    int ret = 0;

    if (vhost == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "vhost-net");
    }
    vhost->link = true;
    for (unsigned i = 0; ret == 0 && i < pairs; i++) {
        vhost->pairs[i].tap = taps[i];
        ret = vhost_kernel_open(&vhost->pairs[i].kernel, "/dev/vhost-net", mem, error);
        vhost->pair_count += ret == 0;
    }
    if (ret != 0) {
        net_vhost_destroy(vhost);
        return ret;
    }
    *out = vhost;
    return 0;
}

void net_vhost_destroy(struct net_vhost *vhost)
{
    for (unsigned i = 0; vhost != NULL && i < vhost->pair_count; i++) {
        vhost_kernel_close(&vhost->pairs[i].kernel);
    }
    free(vhost);
}
