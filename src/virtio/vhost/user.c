/* SPDX-License-Identifier: MIT */
/* The vhost-user front end: negotiation, memory, rings, config space. */
#include "virtio/vhost/user.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/util.h"
#include "virtio/vhost/wire.h"

enum {
    PROTOCOL_FEATURES = 30, /* the feature bit: there are protocol features */
    QUEUES_MAX = 1024,      /* no back end has more */
    CONFIG_HEADER = 12,
};

static struct vhost_user *vu_of(struct remote *remote)
{
    return container_of(remote, struct vhost_user, remote);
}

/* ---- Exchanging messages ---------------------------------------------------------------- */

static const char *request_name(uint32_t request)
{
    static const char *const names[] = {
        [VHOST_USER_GET_FEATURES] = "GET_FEATURES",
        [VHOST_USER_SET_FEATURES] = "SET_FEATURES",
        [VHOST_USER_SET_OWNER] = "SET_OWNER",
        [VHOST_USER_SET_MEM_TABLE] = "SET_MEM_TABLE",
        [VHOST_USER_SET_VRING_NUM] = "SET_VRING_NUM",
        [VHOST_USER_SET_VRING_ADDR] = "SET_VRING_ADDR",
        [VHOST_USER_SET_VRING_BASE] = "SET_VRING_BASE",
        [VHOST_USER_GET_VRING_BASE] = "GET_VRING_BASE",
        [VHOST_USER_SET_VRING_KICK] = "SET_VRING_KICK",
        [VHOST_USER_SET_VRING_CALL] = "SET_VRING_CALL",
        [VHOST_USER_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
        [VHOST_USER_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
        [VHOST_USER_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
        [VHOST_USER_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
        [VHOST_USER_NET_SET_MTU] = "NET_SET_MTU",
        [VHOST_USER_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
        [VHOST_USER_GET_CONFIG] = "GET_CONFIG",
        [VHOST_USER_SET_CONFIG] = "SET_CONFIG",
    };

    return request < ARRAY_SIZE(names) && names[request] != NULL ? names[request]
                                                                 : "a message";
}

/* The first fault is what counts. */
__attribute__((format(printf, 3, 4))) static int vu_break(struct vhost_user *vu, int ret,
                                                          const char *format, ...)
{
    va_list args;

    if (!vu->broken) {
        vu->broken = true;
        va_start(args, format);
        vsnprintf(vu->fault, sizeof(vu->fault), format, args);
        va_end(args);
        shutdown(vu->fd, SHUT_RDWR);
    }
    return ret;
}

static int vu_broken_by(struct vhost_user *vu, int ret, uint32_t request)
{
    switch (ret) {
    case -ECONNRESET:
        return vu_break(vu, ret, "it closed the connection at %s", request_name(request));
    case -ETIMEDOUT:
        return vu_break(vu, ret, "no answer to %s within %u ms", request_name(request),
                        vu->timeout_ms);
    case -EPROTO:
        return vu_break(vu, ret, "its answer to %s is no message of the protocol",
                        request_name(request));
    default:
        return vu_break(vu, ret, "%s: %s", request_name(request), strerror(-ret));
    }
}

static uint64_t vu_deadline(const struct vhost_user *vu)
{
    return clock_ns() + (uint64_t)vu->timeout_ms * 1000000;
}

/*
 * Until an answer may be there, or the time is over, which receiving then finds. The back
 * end may itself be waiting for an answer of ours before it gives one.
 */
static void vu_await(struct vhost_user *vu, uint64_t deadline)
{
    struct pollfd ready[2] = { { .fd = vu->fd, .events = POLLIN },
                               { .fd = vu->backend_fd, .events = POLLIN } };

    while (!vu->broken && ready[0].revents == 0) {
        uint64_t now = clock_ns();

        if (now >= deadline ||
            poll(ready, 2, (int)((deadline - now) / 1000000 + 1)) == 0) {
            return;
        }
        if (ready[0].revents == 0 && ready[1].revents != 0 &&
            vhost_user_backend_request(vu) == 1) {
            vu->config_changed = true;
        }
    }
}

/* The answer to @request: exactly @size bytes of payload (message->payload). */
static int vu_answer(struct vhost_user *vu, uint32_t request, uint32_t size,
                     struct vhost_user_message *message, uint64_t deadline)
{
    int ret;

    vu_await(vu, deadline);
    ret = vu->broken ? -EPIPE : vhost_user_receive(vu->fd, message, deadline);
    if (ret != 0) {
        return vu_broken_by(vu, ret, request);
    }
    if (message->request != request || (message->flags & VHOST_USER_REPLY) == 0) {
        return vu_break(vu, -EPROTO, "it answered %s with message %u, flags 0x%x",
                        request_name(request), message->request, message->flags);
    }
    if (message->size != size) {
        return vu_break(vu, -EPROTO, "its answer to %s has %u bytes instead of %u",
                        request_name(request), message->size, size);
    }
    return 0;
}

/* Send; @reply: the message is one that is always answered, with so many bytes. */
static int vu_call(struct vhost_user *vu, struct vhost_user_message *message,
                   const int *fds, unsigned fd_count, uint32_t reply)
{
    const uint32_t request = message->request;
    bool ack = reply == 0 && vhost_user_has(vu, VHOST_USER_PROTOCOL_REPLY_ACK);
    uint64_t deadline = vu_deadline(vu);
    int ret;

    if (vu->broken) {
        return -EPIPE;
    }
    message->flags = ack ? VHOST_USER_NEED_REPLY : 0;
    ret = vhost_user_send(vu->fd, message, fds, fd_count, deadline);
    if (ret != 0) {
        return vu_broken_by(vu, ret, request);
    }
    if (reply != 0) {
        return vu_answer(vu, request, reply, message, deadline);
    }
    if (!ack) {
        return 0;
    }
    ret = vu_answer(vu, request, 8, message, deadline);
    if (ret == 0 && load_le64(message->payload) != 0) {
        return vu_break(vu, -EREMOTEIO, "it refuses %s (%llu)", request_name(request),
                        (unsigned long long)load_le64(message->payload));
    }
    return ret;
}

static int vu_get_u64(struct vhost_user *vu, uint32_t request, uint64_t *value)
{
    struct vhost_user_message message = { .request = request };
    int ret = vu_call(vu, &message, NULL, 0, 8);

    *value = ret == 0 ? load_le64(message.payload) : 0;
    return ret;
}

static int vu_set_u64(struct vhost_user *vu, uint32_t request, uint64_t value)
{
    struct vhost_user_message message = { .request = request, .size = 8 };

    store_le64(message.payload, value);
    return vu_call(vu, &message, NULL, 0, 0);
}

static void state_message(struct vhost_user_message *message, uint32_t request,
                          uint32_t index, uint32_t value)
{
    *message = (struct vhost_user_message){ .request = request, .size = 8 };
    store_le32(message->payload, index);
    store_le32(message->payload + 4, value);
}

static int vu_set_state(struct vhost_user *vu, uint32_t request, uint32_t index,
                        uint32_t value)
{
    struct vhost_user_message message;

    state_message(&message, request, index, value);
    return vu_call(vu, &message, NULL, 0, 0);
}

static int vu_set_fd(struct vhost_user *vu, uint32_t request, uint32_t index, int fd)
{
    struct vhost_user_message message = { .request = request, .size = 8 };

    store_le64(message.payload, index);
    return vu_call(vu, &message, &fd, 1, 0);
}

/* ---- Rings ------------------------------------------------------------------------------- */

static int vu_set_addresses(struct vhost_user *vu, const struct remote_queue *queue)
{
    struct vhost_user_message message = { .request = VHOST_USER_SET_VRING_ADDR,
                                          .size = 40 };

    store_le32(message.payload, queue->index);
    store_le32(message.payload + 4, 0); /* no logging */
    store_le64(message.payload + 8, queue->desc);
    store_le64(message.payload + 16, queue->device);
    store_le64(message.payload + 24, queue->driver);
    store_le64(message.payload + 32, 0);
    return vu_call(vu, &message, NULL, 0, 0);
}

int vhost_user_enable_queue(struct vhost_user *vu, unsigned index, bool on)
{
    return (vu->features & VIRTIO_FEATURE(PROTOCOL_FEATURES)) != 0
               ? vu_set_state(vu, VHOST_USER_SET_VRING_ENABLE, index, on)
               : 0;
}

static int vu_queue_start(struct remote *remote, const struct remote_queue *queue)
{
    struct vhost_user *vu = vu_of(remote);
    int ret = vu_set_state(vu, VHOST_USER_SET_VRING_NUM, queue->index, queue->size);

    if (ret == 0) {
        ret = vu_set_state(vu, VHOST_USER_SET_VRING_BASE, queue->index, queue->base);
    }
    if (ret == 0) {
        ret = vu_set_addresses(vu, queue);
    }
    if (ret == 0) {
        ret = vu_set_fd(vu, VHOST_USER_SET_VRING_CALL, queue->index, queue->call_fd);
    }
    if (ret == 0) { /* starts the ring */
        ret = vu_set_fd(vu, VHOST_USER_SET_VRING_KICK, queue->index, queue->kick_fd);
    }
    return ret == 0 ? vhost_user_enable_queue(vu, queue->index, !vu->start_disabled)
                    : ret;
}

static int vu_queue_stop(struct remote *remote, unsigned index, uint16_t *base)
{
    struct vhost_user *vu = vu_of(remote);
    struct vhost_user_message message;
    int ret;

    state_message(&message, VHOST_USER_GET_VRING_BASE, index, 0);
    ret = vu_call(vu, &message, NULL, 0, 8);
    if (ret != 0) {
        return ret;
    }
    if (load_le32(message.payload) != index || load_le32(message.payload + 4) > 0xffff) {
        return vu_break(
            vu, -EPROTO, "it says that queue %u stopped at %u, asked about queue %u",
            load_le32(message.payload), load_le32(message.payload + 4), index);
    }
    *base = (uint16_t)load_le32(message.payload + 4);
    return 0;
}

static const struct remote_ops vu_ops = {
    .queue_start = vu_queue_start,
    .queue_stop = vu_queue_stop,
};

/* ---- Features, memory, config space --------------------------------------------------------- */

int vhost_user_set_features(struct vhost_user *vu, uint64_t features)
{
    return vu_set_u64(vu, VHOST_USER_SET_FEATURES,
                      features | (vu->features & VIRTIO_FEATURE(PROTOCOL_FEATURES)));
}

int vhost_user_set_memory(struct vhost_user *vu, const struct vhost_user_region *regions,
                          unsigned count)
{
    struct vhost_user_message message = { .request = VHOST_USER_SET_MEM_TABLE,
                                          .size = 8 + 32 * count };
    int fds[VHOST_USER_REGIONS_MAX];

    if (count > VHOST_USER_REGIONS_MAX) {
        return vu_break(vu, -E2BIG, "guest memory has %u parts, the protocol takes %d",
                        count, VHOST_USER_REGIONS_MAX);
    }
    store_le32(message.payload, count);
    for (unsigned i = 0; i < count; i++) {
        uint8_t *at = message.payload + 8 + 32 * (size_t)i;

        store_le64(at, regions[i].gpa);
        store_le64(at + 8, regions[i].size);
        store_le64(at + 16, regions[i].address);
        store_le64(at + 24, regions[i].fd_offset);
        fds[i] = regions[i].fd;
    }
    return vu_call(vu, &message, fds, count, 0);
}

int vhost_user_set_mtu(struct vhost_user *vu, unsigned mtu)
{
    return vhost_user_has(vu, VHOST_USER_PROTOCOL_NET_MTU)
               ? vu_set_u64(vu, VHOST_USER_NET_SET_MTU, mtu)
               : 0;
}

static void config_message(struct vhost_user_message *message, uint32_t request,
                           uint32_t offset, uint32_t size)
{
    *message =
        (struct vhost_user_message){ .request = request, .size = CONFIG_HEADER + size };
    store_le32(message->payload, offset);
    store_le32(message->payload + 4, size);
}

int vhost_user_get_config(struct vhost_user *vu, void *config, unsigned size)
{
    struct vhost_user_message message;
    int ret;

    if (size > VHOST_USER_CONFIG_MAX) {
        return -EINVAL;
    }
    config_message(&message, VHOST_USER_GET_CONFIG, 0, size);
    ret = vu_call(vu, &message, NULL, 0, CONFIG_HEADER + size);
    if (ret != 0) {
        return ret;
    }
    if (load_le32(message.payload) != 0 || load_le32(message.payload + 4) != size) {
        return vu_break(vu, -EPROTO, "its config space is not what was asked for");
    }
    memcpy(config, message.payload + CONFIG_HEADER, size);
    return 0;
}

int vhost_user_set_config(struct vhost_user *vu, unsigned offset, const void *bytes,
                          unsigned size)
{
    struct vhost_user_message message;

    if (size > VHOST_USER_CONFIG_MAX) {
        return -EINVAL;
    }
    config_message(&message, VHOST_USER_SET_CONFIG, offset, size);
    memcpy(message.payload + CONFIG_HEADER, bytes, size);
    return vu_call(vu, &message, NULL, 0, 0);
}

/* ---- What comes unasked ----------------------------------------------------------------------- */

int vhost_user_heard(struct vhost_user *vu)
{
    char byte;
    ssize_t got = recv(vu->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    return got > 0 ? vu_break(vu, -EPROTO, "it spoke without being asked")
                   : vu_break(vu, -ECONNRESET, "it closed the connection");
}

int vhost_user_backend_request(struct vhost_user *vu)
{
    struct vhost_user_message message;
    uint64_t deadline = vu_deadline(vu);
    bool known;
    int ret = vhost_user_receive(vu->backend_fd, &message, deadline);

    if (ret == -ECONNRESET) { /* the socket's end follows */
        return vu_break(vu, ret, "it closed the connection");
    }
    if (ret != 0) {
        return vu_break(vu, ret, "its channel for requests: %s", strerror(-ret));
    }
    known = message.request == VHOST_USER_BACKEND_CONFIG_CHANGE && message.size == 0;
    if ((message.flags & VHOST_USER_NEED_REPLY) != 0) {
        message.flags = VHOST_USER_REPLY;
        message.size = 8;
        store_le64(message.payload, !known);
        ret = vhost_user_send(vu->backend_fd, &message, NULL, 0, deadline);
        if (ret != 0) {
            return vu_break(vu, ret, "its channel for requests: %s", strerror(-ret));
        }
    }
    return known;
}

/* ---- Opening ------------------------------------------------------------------------------------ */

static int vu_give_channel(struct vhost_user *vu)
{
    struct vhost_user_message message = { .request = VHOST_USER_SET_BACKEND_REQ_FD };
    int pair[2], ret;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        return vu_break(vu, -errno, "a channel for its requests: %s", strerror(errno));
    }
    vu->backend_fd = pair[0];
    ret = vu_call(vu, &message, &pair[1], 1, 0);
    close(pair[1]);
    return ret;
}

static int vu_negotiate(struct vhost_user *vu, uint64_t wanted)
{
    struct vhost_user_message owner = { .request = VHOST_USER_SET_OWNER };
    uint64_t offered = 0, queues;
    int ret = vu_get_u64(vu, VHOST_USER_GET_FEATURES, &vu->features);

    if (ret == 0) {
        ret = vu_call(vu, &owner, NULL, 0, 0);
    }
    if (ret != 0 || (vu->features & VIRTIO_FEATURE(PROTOCOL_FEATURES)) == 0) {
        return ret;
    }
    ret = vu_get_u64(vu, VHOST_USER_GET_PROTOCOL_FEATURES, &offered);
    if (ret == 0) {
        ret = vu_set_u64(vu, VHOST_USER_SET_PROTOCOL_FEATURES, offered & wanted);
        vu->protocol = offered & wanted; /* in force from the next message on */
    }
    if (ret == 0 && vhost_user_has(vu, VHOST_USER_PROTOCOL_MQ)) {
        ret = vu_get_u64(vu, VHOST_USER_GET_QUEUE_NUM, &queues);
        vu->queue_max = (unsigned)(queues < QUEUES_MAX ? queues : QUEUES_MAX);
    }
    if (ret == 0 && vhost_user_has(vu, VHOST_USER_PROTOCOL_BACKEND_REQ)) {
        ret = vu_give_channel(vu);
    }
    return ret;
}

int vhost_user_dial(const char *path, int *fd, struct umbra_error *error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int ret;

    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENAMETOOLONG,
                         "vhost-user socket %s: a socket's path has less than %zu bytes",
                         path, sizeof(address.sun_path));
    }
    strcpy(address.sun_path, path);
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd >= 0 && connect(*fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
        return 0;
    }
    ret = error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                      "vhost-user socket %s: cannot connect (start the back end first; "
                      "it must listen there)",
                      path);
    if (*fd >= 0) {
        close(*fd);
    }
    return ret;
}

int vhost_user_open(int fd, const char *name, uint64_t wanted, unsigned timeout_ms,
                    struct vhost_user **out, struct umbra_error *error)
{
    struct vhost_user *vu = calloc(1, sizeof(*vu));
    int ret;

    if (vu == NULL) {
        close(fd);
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "vhost-user %s", name);
    }
    vu->remote.ops = &vu_ops;
    vu->fd = fd;
    vu->backend_fd = -1;
    vu->timeout_ms = timeout_ms;
    vu->queue_max = QUEUES_MAX; /* unless it says so */
    ret = vu_negotiate(vu, wanted);
    if (ret != 0) {
        error_set(error, UMBRA_ERROR_INTERNAL, -ret, "vhost-user back end %s: %s", name,
                  vu->fault);
        vhost_user_close(vu);
        return ret;
    }
    *out = vu;
    return 0;
}

void vhost_user_close(struct vhost_user *vu)
{
    if (vu == NULL) {
        return;
    }
    close(vu->fd);
    if (vu->backend_fd >= 0) {
        close(vu->backend_fd);
    }
    free(vu);
}
