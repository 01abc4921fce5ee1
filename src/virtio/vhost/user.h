/* SPDX-License-Identifier: MIT */
/*
 * The front end of the vhost-user protocol: one connection to a back end, a process that
 * serves a device's virtqueues over shared guest memory.
 *
 * Trust: the back end has the guest's RAM, so it can harm the guest, and nothing else.
 * Whatever it sends is bounded and checked; descriptors that it was not asked for are
 * closed; a message that is late, misshapen or out of turn ends the connection.
 *
 * Threads: one at a time.
 */
#ifndef VIRTIO_VHOST_USER_H
#define VIRTIO_VHOST_USER_H

#include "virtio/vhost/remote.h"

enum {
    VHOST_USER_REGIONS_MAX = 8,
    VHOST_USER_CONFIG_MAX = 256,
    VHOST_USER_TIMEOUT_MS = 10000, /* for each answer */
};

/* Bits of the protocol features. */
enum {
    VHOST_USER_PROTOCOL_MQ = 0,
    VHOST_USER_PROTOCOL_REPLY_ACK = 3,
    VHOST_USER_PROTOCOL_NET_MTU = 4,
    VHOST_USER_PROTOCOL_BACKEND_REQ = 5,
    VHOST_USER_PROTOCOL_CONFIG = 9,
};

struct vhost_user {
    struct remote remote;
    int fd;
    int backend_fd; /* where the back end's own requests come from, -1: it has none */
    unsigned timeout_ms;
    uint64_t features; /* offered, with the bit for protocol features */
    uint64_t protocol; /* negotiated */
    unsigned queue_max;
    bool start_disabled; /* the next ring to start stays disabled */
    bool config_changed; /* the back end said so meanwhile */
    bool broken;         /* nothing goes any more */
    char fault[160];     /* why */
};

struct vhost_user_region {
    uint64_t gpa, size;
    uint64_t address; /* in this process */
    uint64_t fd_offset;
    int fd;
};

/* Connect to a listening socket. */
int vhost_user_dial(const char *path, int *fd, struct umbra_error *error);
/*
 * Take @fd over (also on failure) and negotiate. @wanted: protocol features to use where
 * the back end has them. @name is for the message.
 */
int vhost_user_open(int fd, const char *name, uint64_t wanted, unsigned timeout_ms,
                    struct vhost_user **vu, struct umbra_error *error);
void vhost_user_close(struct vhost_user *vu); /* NULL is fine */

static inline bool vhost_user_has(const struct vhost_user *vu, unsigned protocol)
{
    return (vu->protocol & VIRTIO_FEATURE(protocol)) != 0;
}

/* Everything below returns 0 or -errno; after an error the connection is broken and
 * vu->fault says why. */

/* @features without the bit for protocol features, which is the protocol's own. */
int vhost_user_set_features(struct vhost_user *vu, uint64_t features);
int vhost_user_set_memory(struct vhost_user *vu, const struct vhost_user_region *regions,
                          unsigned count);
/*
 * A ring that was started is served no more, though it stays the back end's: of a network it
 * drops what the guest sends and gives it nothing. Without protocol features a no-op.
 */
int vhost_user_enable_queue(struct vhost_user *vu, unsigned index, bool on);
int vhost_user_set_mtu(struct vhost_user *vu, unsigned mtu);
int vhost_user_get_config(struct vhost_user *vu, void *config, unsigned size);
int vhost_user_set_config(struct vhost_user *vu, unsigned offset, const void *bytes,
                          unsigned size);
/*
 * Something came: on the socket it can only be the end, on backend_fd a request. 1: the
 * back end says its config space changed; 0: nothing to do.
 */
int vhost_user_heard(struct vhost_user *vu);
int vhost_user_backend_request(struct vhost_user *vu);

#endif
