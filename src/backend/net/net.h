/* SPDX-License-Identifier: MIT */
/*
 * What is behind a virtio-net device: where frames go to and come from. A back end offers
 * a descriptor for each queue pair that polls readable while frames wait that came by
 * themselves; the device polls it on the VM's loop, looks with receive() after each send()
 * too, and calls everything here with its lock held.
 *
 * A frame travels behind a header of NET_HEADER bytes (struct virtio_net_hdr_v1, checked
 * by the device). Back ends that know no offloads skip it, and give it as zeroes.
 */
#ifndef BACKEND_NET_NET_H
#define BACKEND_NET_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <umbra/umbra.h>

#include "base/log.h"

enum {
    NET_HEADER = 12,
    NET_FRAME_MIN = 14,
    NET_FRAME_MAX = 65550, /* the largest IP packet and an Ethernet header */
    NET_PAIRS_MAX = 64,
};

struct net_backend;

struct net_backend_ops {
    const char *type; /* "user" */
    /*
     * Send a frame; iov[0] is the header and nothing else. 0: sent, or lost as networks
     * lose frames. 1: taken, but part of it waits for POLLOUT and flush(). -EAGAIN: not
     * taken, try again after POLLOUT. Another error: dropped.
     */
    int (*send)(struct net_backend *backend, unsigned pair, const struct iovec *iov,
                unsigned count);
    /* What send() left waiting: 0 when all of it went, -EAGAIN. Optional. */
    int (*flush)(struct net_backend *backend, unsigned pair);
    /* The next frame with its header: its size, -EAGAIN: none, another error: this end
     * is gone for good. @size is at least NET_HEADER + NET_FRAME_MAX. */
    ssize_t (*receive)(struct net_backend *backend, unsigned pair, void *frame,
                       size_t size);
    /* Frames for the guest may use the VIRTIO_NET_F_GUEST_* in @features. Optional. */
    int (*set_offloads)(struct net_backend *backend, uint64_t features);
    /* Deliver through the first @pairs queue pairs only. Optional. */
    int (*set_pairs)(struct net_backend *backend, unsigned pairs);
    /* The end is gone: find it again, at another descriptor. An error: not now. Optional. */
    int (*reopen)(struct net_backend *backend);
    /* Add members to a JSON object (jansson json_t). Optional. */
    void (*stats)(struct net_backend *backend, void *json);
    void (*destroy)(struct net_backend *backend);
};

struct net_backend {
    const struct net_backend_ops *ops;
    uint64_t features; /* VIRTIO_NET_F_* offloads that it can do */
    unsigned pairs;
    int fds[NET_PAIRS_MAX]; /* to poll */
};

static inline void net_backend_destroy(struct net_backend *backend)
{
    if (backend != NULL) {
        backend->ops->destroy(backend);
    }
}

struct net_forward {
    bool udp;
    const char *host_address;  /* "": 127.0.0.1 */
    const char *guest_address; /* "": 10.0.2.15 */
    uint16_t host_port, guest_port;
};

struct net_user_options {
    bool restricted; /* no way out but the forwards */
    unsigned mtu;
    const struct net_forward *forwards;
    size_t forward_count;
};

/* A network of the guest's own at 10.0.2.0/24 through the host's sockets (libslirp). */
int net_user_open(const struct net_user_options *options, struct net_backend **backend,
                  struct umbra_error *error);
/* A tap of the host by @name, or with @fd >= 0 (duplicated) one that is open already. */
int net_tap_open(const char *name, int fd, unsigned pairs, const struct log *log,
                 struct net_backend **backend, struct umbra_error *error);
/* A stream socket at @path or @fd (duplicated) with a big-endian 32-bit length before
 * each frame: passt, and QEMU's -netdev stream. At a path it is found again. */
int net_unix_open(const char *path, int fd, struct net_backend **backend,
                  struct umbra_error *error);

#endif
