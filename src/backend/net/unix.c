/* SPDX-License-Identifier: MIT */
/* A stream socket as the guest's wire: frames behind their big-endian 32-bit length, as
 * passt and QEMU's -netdev stream have it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/net/offload.h"
#include "base/error.h"
#include "base/util.h"

enum {
    UNIX_LENGTH = 4,
    UNIX_SEGMENTS = 64,
    UNIX_OUT = NET_FRAME_MAX + NET_SEGMENTS_MAX * (UNIX_LENGTH + NET_SEGMENT_HEADERS),
};

struct net_unix {
    struct net_backend backend;
    char *path; /* NULL: it was connected by somebody else */
    int fd;
    /* Bytes that came; [begin, end) is unread. */
    uint8_t in[2 * (UNIX_LENGTH + NET_FRAME_MAX)];
    size_t in_begin, in_end;
    /* Frames, or the rest of one, that the socket did not take yet. */
    uint8_t out[UNIX_OUT];
    size_t out_begin, out_end;
    uint8_t frame[NET_FRAME_MAX]; /* in one piece, to finish its checksum */
};

static struct net_unix *unix_of(struct net_backend *backend)
{
    return container_of(backend, struct net_unix, backend);
}

static int unix_flush(struct net_backend *backend, unsigned pair)
{
    struct net_unix *end = unix_of(backend);

    (void)pair;
    while (end->out_begin < end->out_end) {
        ssize_t sent = send(end->fd, end->out + end->out_begin,
                            end->out_end - end->out_begin, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (sent >= 0) {
            end->out_begin += (size_t)sent;
        } else if (errno == EAGAIN) {
            return -EAGAIN;
        } else if (errno != EINTR) {
            end->out_begin = end->out_end; /* receive() will say that it is gone */
        }
    }
    return 0;
}

/* Keep what is left of a frame after its first @sent bytes. */
static void unix_keep(struct net_unix *end, const struct iovec *iov, unsigned count,
                      size_t sent)
{
    end->out_begin = end->out_end = 0;
    for (unsigned i = 0; i < count; i++) {
        size_t skip = sent < iov[i].iov_len ? sent : iov[i].iov_len;
        size_t length = iov[i].iov_len - skip;

        memcpy(end->out + end->out_end, (const uint8_t *)iov[i].iov_base + skip, length);
        end->out_end += length;
        sent -= skip;
    }
}

/* A frame that needs work before others understand it: made in @out. */
static int unix_prepare(struct net_unix *end, const struct iovec *iov, unsigned count)
{
    const struct virtio_net_hdr_v1 *header = iov[0].iov_base;
    size_t size = 0;
    ssize_t made;

    for (unsigned i = 1; i < count; i++) {
        if (iov[i].iov_len > sizeof(end->frame) - size) {
            return -EMSGSIZE;
        }
        memcpy(end->frame + size, iov[i].iov_base, iov[i].iov_len);
        size += iov[i].iov_len;
    }
    end->out_begin = end->out_end = 0;
    if (header->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        net_checksum_complete(header, end->frame, size);
        store_le32(end->out, htonl((uint32_t)size));
        memcpy(end->out + UNIX_LENGTH, end->frame, size);
        made = (ssize_t)(UNIX_LENGTH + size);
    } else {
        made = net_segment(header, end->frame, size, end->out, sizeof(end->out));
        if (made < 0) {
            return (int)made;
        }
    }
    end->out_end = (size_t)made;
    return 0;
}

static int unix_send(struct net_backend *backend, unsigned pair, const struct iovec *iov,
                     unsigned count)
{
    const struct virtio_net_hdr_v1 *header = iov[0].iov_base;
    struct net_unix *end = unix_of(backend);
    struct iovec pieces[UNIX_SEGMENTS];
    struct msghdr message = { .msg_iov = pieces, .msg_iovlen = count };
    uint32_t length = 0, prefix;
    ssize_t sent;

    if (unix_flush(backend, pair) != 0) {
        return -EAGAIN;
    }
    if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
        int ret = unix_prepare(end, iov, count);

        return ret != 0 ? ret : unix_flush(backend, pair) != 0;
    }
    if (count > UNIX_SEGMENTS) {
        return -EMSGSIZE;
    }
    memcpy(pieces, iov, count * sizeof(*pieces));
    for (unsigned i = 1; i < count; i++) {
        length += (uint32_t)iov[i].iov_len;
    }
    if (length > NET_FRAME_MAX) {
        return -EMSGSIZE;
    }
    prefix = htonl(length);
    pieces[0] = (struct iovec){ .iov_base = &prefix, .iov_len = sizeof(prefix) };
    do {
        sent = sendmsg(end->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0) {
        return -errno; /* EAGAIN: none of it went */
    }
    if ((size_t)sent < sizeof(prefix) + length) {
        unix_keep(end, pieces, count, (size_t)sent);
        return 1;
    }
    return 0;
}

/* A whole frame from the bytes that are here; 0: there is none. */
static ssize_t unix_take(struct net_unix *end, uint8_t *frame)
{
    size_t there = end->in_end - end->in_begin;
    uint32_t length;

    if (there < UNIX_LENGTH) {
        return 0;
    }
    memcpy(&length, end->in + end->in_begin, sizeof(length));
    length = ntohl(length);
    if (length > NET_FRAME_MAX) {
        return -EPROTO; /* and no way to find the next frame */
    }
    if (there - UNIX_LENGTH < length) {
        return 0;
    }
    memset(frame, 0, NET_HEADER);
    memcpy(frame + NET_HEADER, end->in + end->in_begin + UNIX_LENGTH, length);
    end->in_begin += UNIX_LENGTH + length;
    return (ssize_t)(NET_HEADER + length);
}

static ssize_t unix_receive(struct net_backend *backend, unsigned pair, void *frame,
                            size_t size)
{
    struct net_unix *end = unix_of(backend);
    ssize_t ret;

    (void)pair;
    (void)size;
    while ((ret = unix_take(end, frame)) == 0) {
        ssize_t got;

        memmove(end->in, end->in + end->in_begin, end->in_end - end->in_begin);
        end->in_end -= end->in_begin;
        end->in_begin = 0;
        got = recv(end->fd, end->in + end->in_end, sizeof(end->in) - end->in_end,
                   MSG_DONTWAIT);
        if (got > 0) {
            end->in_end += (size_t)got;
        } else if (got == 0) {
            return -EPIPE;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return ret;
}

static void unix_destroy(struct net_backend *backend)
{
    struct net_unix *end = unix_of(backend);

    if (end->fd >= 0) {
        close(end->fd);
    }
    free(end->path);
    free(end);
}

static int unix_connect(const char *path, int *fd, struct umbra_error *error)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int ret;

    if (strlen(path) >= sizeof(address.sun_path)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENAMETOOLONG,
                         "network socket %s: a socket's path has less than %zu bytes",
                         path, sizeof(address.sun_path));
    }
    strcpy(address.sun_path, path);
    /* Without waiting, also for somebody who listens but does not accept. */
    *fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd < 0) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, errno, "network socket %s", path);
    }
    if (connect(*fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
        return 0;
    }
    ret = error_errno(error, UMBRA_ERROR_INTERNAL, errno,
                      "network socket %s: cannot connect (start the other end first, "
                      "as: passt --socket %s)",
                      path, path);
    close(*fd);
    *fd = -1;
    return ret;
}

/* Half a frame of the old connection's means nothing to the new one. */
static int unix_reopen(struct net_backend *backend)
{
    struct net_unix *end = unix_of(backend);
    struct umbra_error error;
    int fd, ret;

    if (end->fd >= 0) {
        close(end->fd);
        end->fd = backend->fds[0] = -1;
    }
    ret = unix_connect(end->path, &fd, &error);
    if (ret == 0) {
        end->fd = backend->fds[0] = fd;
        end->in_begin = end->in_end = 0;
        end->out_begin = end->out_end = 0;
    }
    return ret;
}

static const struct net_backend_ops unix_fd_ops = {
    .type = "unix",
    .send = unix_send,
    .flush = unix_flush,
    .receive = unix_receive,
    .destroy = unix_destroy,
};
static const struct net_backend_ops unix_path_ops = {
    .type = "unix",
    .send = unix_send,
    .flush = unix_flush,
    .receive = unix_receive,
    .reopen = unix_reopen,
    .destroy = unix_destroy,
};

int net_unix_open(const char *path, int fd, struct net_backend **backend,
                  struct umbra_error *error)
{
    struct net_unix *end = calloc(1, sizeof(*end));
    int ret = 0;

    if (end == NULL) {
        return error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "network socket");
    }
    end->backend.ops = fd < 0 ? &unix_path_ops : &unix_fd_ops;
    end->backend.pairs = 1;
    end->backend.features = UINT64_C(1) << VIRTIO_NET_F_CSUM |
                            UINT64_C(1) << VIRTIO_NET_F_HOST_TSO4 |
                            UINT64_C(1) << VIRTIO_NET_F_HOST_TSO6;
    end->fd = -1;
    if (fd < 0) {
        ret = unix_connect(path, &end->fd, error);
        end->path = strdup(path);
        if (ret == 0 && end->path == NULL) {
            ret = error_errno(error, UMBRA_ERROR_INTERNAL, ENOMEM, "network socket");
        }
    } else {
        int type = 0;
        socklen_t length = sizeof(type);

        end->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (end->fd < 0 ||
            getsockopt(end->fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) {
            ret = error_errno(error, UMBRA_ERROR_CONFIG, errno,
                              "network: descriptor %d is no socket", fd);
        } else if (type != SOCK_STREAM) {
            ret = error_set(error, UMBRA_ERROR_CONFIG, EINVAL,
                            "network: descriptor %d is no stream socket", fd);
        }
    }
    if (ret != 0) {
        unix_destroy(&end->backend);
        return ret;
    }
    end->backend.fds[0] = end->fd;
    *backend = &end->backend;
    return 0;
}
