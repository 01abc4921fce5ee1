/* SPDX-License-Identifier: MIT */
/*
 * vhost-net: the host's kernel moves a tap's frames between it and the rings, and umbra
 * sees neither them nor kicks and interrupts. One instance serves all pairs of a device.
 */
#ifndef VIRTIO_NET_VHOST_H
#define VIRTIO_NET_VHOST_H

#include "virtio/virtio.h"

struct net_vhost;

int net_vhost_open(const struct guest_mem *mem, const int *taps, unsigned pairs,
                   struct net_vhost **vhost, struct umbra_error *error);
void net_vhost_destroy(struct net_vhost *vhost); /* NULL is fine; queues are stopped */

/* Of @features that a device would offer those that the kernel can do. */
uint64_t net_vhost_features(const struct net_vhost *vhost, uint64_t features);
/* What was negotiated, before queues start. */
int net_vhost_activate(struct net_vhost *vhost, uint64_t features);

/* Queues 2i and 2i+1 are pair i's. Device's lock held. */
int net_vhost_start(struct net_vhost *vhost, struct virtio_queue *queue);
void net_vhost_stop(struct net_vhost *vhost, struct virtio_queue *queue);
/* Let frames pass, or not. */
void net_vhost_set_link(struct net_vhost *vhost, bool up);

#endif
