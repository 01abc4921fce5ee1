/* SPDX-License-Identifier: MIT */
/* Inside virtio-net: what the device (net.c) and its data path (queue.c) share. */
#ifndef VIRTIO_NET_NET_H
#define VIRTIO_NET_NET_H

#include <linux/virtio_net.h>

#include "backend/net/net.h"
#include "virtio/virtio.h"
#include "virtio/watch.h"

enum { NET_CHAINS_MAX = 64 /* buffers merged for one frame */ };

struct net_counters {
    uint64_t frames, bytes, dropped;
};

struct virtio_net;

struct net_pair {
    struct virtio_net *net;
    unsigned index;
    struct loop_watch *ready_watch;   /* of the back end's descriptor */
    struct loop_watch *kick_watch[2]; /* receive, transmit */
    /* A frame on its way to the guest, and the buffers taken for it so far. */
    uint8_t *frame;
    size_t frame_size; /* with the header; 0: none */
    struct virtqueue_chain chains[NET_CHAINS_MAX];
    unsigned held;
    uint64_t held_bytes;
    bool starved; /* the driver has no buffers: wait for its kick */
    bool rx_kicks_off;
    struct virtqueue_chain tx;
    struct watch watch;
    bool tx_blocked;                    /* the back end takes no more: wait for POLLOUT */
    struct net_counters received, sent; /* as the guest sees it */
    uint64_t bad_headers;
    bool twice; /* a planned fault: the frame comes once more */
    bool again; /* tx did not go: its faults are drawn, in tx_hits */
    struct fault_hits tx_hits;
};

struct virtio_net {
    struct virtio_device device;
    struct net_backend *backend;
    struct net_vhost *vhost; /* the kernel has the pairs' queues; NULL: they are ours */
    unsigned pair_count, active_pairs;
    struct net_pair *pairs;
    uint8_t *scratch;          /* a frame from the guest that must lie in one piece */
    uint64_t offloads;         /* VIRTIO_NET_F_GUEST_* in force */
    uint8_t mac[6];            /* until the driver sets another, and after its reset */
    bool link, lost;           /* the user's wish; the back end's end is gone */
    bool flapped;              /* a planned fault has the link down for a while */
    struct loop_timer *reopen; /* until the back end's end is looked for again */
    struct net_faults *faults; /* frames that are late; NULL until one is */
    struct loop_watch *control_watch;
    struct virtqueue_chain control;
    uint64_t control_errors;
};

static inline bool net_link_up(const struct virtio_net *net)
{
    return net->link && !net->lost && !net->flapped;
}

static inline struct virtio_queue *net_queue(struct net_pair *pair, bool transmit)
{
    return &pair->net->device.queues[2 * pair->index + transmit];
}

/* Move frames both ways as far as there are any, and buffers, and room; and watch for
 * more if that pays. Device's lock held, on the loop's thread. */
void net_serve(struct net_pair *pair);
/* Give buffers taken for a frame back to the ring; the frame waits on. */
void net_release(struct net_pair *pair);
/* The back end's descriptor is ready. */
void net_ready(void *context, uint32_t events);
/* Have the back end's descriptor watched for what the pair waits for. */
void net_watch(struct net_pair *pair);
/* Send @iov (its first piece is the header) as the back end's send() does, and count. */
int net_send(struct net_pair *pair, const struct iovec *iov, unsigned count, size_t size);

/* Planned faults. Of a frame in pair->frame: false when it is not to be delivered now.
 * *twice: once more, after that. */
bool net_faults_receive(struct net_pair *pair, bool *twice);
/* Of the frame in @iov (@count pieces, the header first) of @size bytes: as send(). */
int net_faults_transmit(struct net_pair *pair, struct iovec *iov, unsigned count,
                        size_t size);
/* A frame whose delay is over, into pair->frame; its size, 0: there is none. */
size_t net_faults_fetch(struct net_pair *pair);
/* What is late never arrives (the driver is another now). */
void net_faults_forget(struct virtio_net *net);
void net_faults_destroy(struct virtio_net *net);

/* The back end is gone, or the user said so: tell the guest. */
void net_update_link(struct virtio_net *net);
/* reopen.c: the back end's end is gone, for @error; it is looked for where it can come
 * back. */
void net_lost(struct virtio_net *net, int error);
int net_reopen_init(struct virtio_net *net);

#endif
