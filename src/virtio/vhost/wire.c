/* SPDX-License-Identifier: MIT */
/* Sending and receiving vhost-user messages, bounded in size and in time. */
#include "virtio/vhost/wire.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"

/* 0: ready, -ETIMEDOUT. */
static int wire_wait(int fd, short events, uint64_t deadline_ns)
{
    struct pollfd ready = { .fd = fd, .events = events };

    for (;;) {
        uint64_t now = clock_ns();
        uint64_t left = now < deadline_ns ? deadline_ns - now : 0;
        int ret = poll(&ready, 1, (int)((left + 999999) / 1000000));

        if (ret > 0) {
            return 0;
        }
        if (ret == 0) {
            return -ETIMEDOUT;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

static void wire_attach(struct msghdr *header, char *control, const int *fds,
                        unsigned count)
{
    struct cmsghdr *cmsg;

    header->msg_control = control;
    header->msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsg = CMSG_FIRSTHDR(header);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(cmsg), fds, count * sizeof(int));
}

int vhost_user_send(int fd, const struct vhost_user_message *message, const int *fds,
                    unsigned fd_count, uint64_t deadline_ns)
{
    uint8_t bytes[VHOST_USER_HEADER + VHOST_USER_PAYLOAD_MAX];
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(VHOST_USER_FDS_MAX * sizeof(int))];
    size_t size = VHOST_USER_HEADER + message->size, done = 0;

    if (message->size > VHOST_USER_PAYLOAD_MAX || fd_count > VHOST_USER_FDS_MAX) {
        return -EINVAL;
    }
    memset(control, 0, sizeof(control));
    store_le32(bytes, message->request);
    store_le32(bytes + 4, message->flags | VHOST_USER_VERSION);
    store_le32(bytes + 8, message->size);
    memcpy(bytes + VHOST_USER_HEADER, message->payload, message->size);
    while (done < size) {
        struct iovec iov = { .iov_base = bytes + done, .iov_len = size - done };
        struct msghdr header = { .msg_iov = &iov, .msg_iovlen = 1 };
        ssize_t sent;
        int ret;

        if (done == 0 && fd_count > 0) { /* descriptors go with the first byte */
            wire_attach(&header, control, fds, fd_count);
        }
        sent = sendmsg(fd, &header, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0) {
            done += (size_t)sent;
        } else if (errno == EAGAIN) {
            ret = wire_wait(fd, POLLOUT, deadline_ns);
            if (ret != 0) {
                return ret;
            }
        } else if (errno != EINTR) {
            return errno == EPIPE ? -ECONNRESET : -errno;
        }
    }
    return 0;
}

/* Close what came along; true if anything did. */
static bool wire_drop_fds(struct msghdr *header)
{
    bool any = (header->msg_flags & MSG_CTRUNC) != 0;

    for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(header); cmsg != NULL;
         cmsg = CMSG_NXTHDR(header, cmsg)) {
        size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
            close(fd);
            any = true;
        }
    }
    return any;
}

static int wire_read(int fd, void *buffer, size_t size, uint64_t deadline_ns)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(VHOST_USER_FDS_MAX * sizeof(int))];
    uint8_t *at = buffer;

    while (size > 0) {
        struct iovec iov = { .iov_base = at, .iov_len = size };
        struct msghdr header = { .msg_iov = &iov,
                                 .msg_iovlen = 1,
                                 .msg_control = control,
                                 .msg_controllen = sizeof(control) };
        ssize_t got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
        int ret;

        if (got >= 0 && wire_drop_fds(&header)) {
            return -EPROTO;
        }
        if (got == 0) {
            return -ECONNRESET;
        }
        if (got > 0) {
            at += got;
            size -= (size_t)got;
        } else if (errno == EAGAIN) {
            ret = wire_wait(fd, POLLIN, deadline_ns);
            if (ret != 0) {
                return ret;
            }
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

int vhost_user_receive(int fd, struct vhost_user_message *message, uint64_t deadline_ns)
{
    uint8_t header[VHOST_USER_HEADER];
    int ret = wire_read(fd, header, sizeof(header), deadline_ns);

    if (ret != 0) {
        return ret;
    }
    message->request = load_le32(header);
    message->flags = load_le32(header + 4);
    message->size = load_le32(header + 8);
    if ((message->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
        message->size > VHOST_USER_PAYLOAD_MAX) {
        return -EPROTO;
    }
    return wire_read(fd, message->payload, message->size, deadline_ns);
}
