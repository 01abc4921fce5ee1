/* SPDX-License-Identifier: MIT */
/* Messages of the vhost-user protocol as they go over the socket. */
#ifndef VIRTIO_VHOST_WIRE_H
#define VIRTIO_VHOST_WIRE_H

#include <stddef.h>
#include <stdint.h>

enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_GET_VRING_BASE = 11,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
    VHOST_USER_GET_PROTOCOL_FEATURES = 15,
    VHOST_USER_SET_PROTOCOL_FEATURES = 16,
    VHOST_USER_GET_QUEUE_NUM = 17,
    VHOST_USER_SET_VRING_ENABLE = 18,
    VHOST_USER_NET_SET_MTU = 20,
    VHOST_USER_SET_BACKEND_REQ_FD = 21,
    VHOST_USER_GET_CONFIG = 24,
    VHOST_USER_SET_CONFIG = 25,
    /* The back end's own. */
    VHOST_USER_BACKEND_CONFIG_CHANGE = 2,
};

enum {
    VHOST_USER_VERSION = 1,
    VHOST_USER_VERSION_MASK = 3,
    VHOST_USER_REPLY = 1 << 2,
    VHOST_USER_NEED_REPLY = 1 << 3,
    VHOST_USER_HEADER = 12,
    VHOST_USER_PAYLOAD_MAX = 12 + 256, /* the largest that we take: config space */
    VHOST_USER_FDS_MAX = 8,
};

struct vhost_user_message {
    uint32_t request, flags, size;
    uint8_t payload[VHOST_USER_PAYLOAD_MAX];
};

/* All of it, or an error, until clock_ns() is @deadline_ns. */
int vhost_user_send(int fd, const struct vhost_user_message *message, const int *fds,
                    unsigned fd_count, uint64_t deadline_ns);
/*
 * One message. -EPROTO: its version, or it is larger than any should be, or it brought
 * descriptors, which are closed; -ECONNRESET: the end of the stream, also in the middle;
 * -ETIMEDOUT.
 */
int vhost_user_receive(int fd, struct vhost_user_message *message, uint64_t deadline_ns);

#endif
