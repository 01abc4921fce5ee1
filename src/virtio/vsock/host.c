/* SPDX-License-Identifier: MIT */
/*
 * The host's side of virtio-vsock, in the convention of Firecracker and Cloud Hypervisor:
 * who connects to the unix socket PATH says "CONNECT PORT\n" and hears "OK HOST_PORT\n"
 * once the guest has accepted; when the guest connects to port P of the host, we connect to
 * the unix socket PATH_P. An embedder needs no paths: it hands us ends, and gets some.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backend/chardev/char_end_open.h"
#include "base/error.h"
#include "virtio/registry.h"
#include "virtio/vsock/vsock.h"

#define HOST_SECOND_NS UINT64_C(1000000000)

enum {
    HOST_HANDSHAKE_SECONDS = 10,
    HOST_CONNECT_SECONDS = 30, /* for the guest to answer, its boot included */
    HOST_PORT_FIRST = 1 << 30,
    HOST_PORT_SUFFIX = 11, /* "_4294967295" */
};

/* ---- Clients ----------------------------------------------------------------------------- */

/* A port of the host's that no connection to @guest_port has. */
static uint32_t host_port_take(struct virtio_vsock *vsock, uint32_t guest_port)
{
    uint32_t port;

    do { /* there are fewer streams than ports */
        port = vsock->next_port++;
        if (vsock->next_port >> 31 != 0) {
            vsock->next_port = HOST_PORT_FIRST;
        }
    } while (vsock_stream_find(vsock, port, guest_port) != NULL);
    return port;
}

static void stream_ask_guest(struct vsock_stream *stream, uint32_t guest_port)
{
    vsock_stream_name(stream, host_port_take(stream->vsock, guest_port), guest_port);
    stream->state = VSOCK_CONNECTING;
    stream->say = VSOCK_SAY_REQUEST;
    vsock_stream_update(stream);
}

/* "CONNECT 1234\n": the port; false when it is none. */
static bool line_parse(const char *line, uint32_t *port)
{
    static const char word[] = "CONNECT ";
    uint64_t value = 0;

    if (strncmp(line, word, sizeof(word) - 1) != 0) {
        return false;
    }
    line += sizeof(word) - 1;
    if (*line < '0' || *line > '9') {
        return false;
    }
    for (; *line >= '0' && *line <= '9'; line++) {
        value = value * 10 + (unsigned)(*line - '0');
        if (value >= UINT32_MAX) {
            return false; /* VMADDR_PORT_ANY and above */
        }
    }
    *port = (uint32_t)value;
    return strcmp(line, "\n") == 0 || strcmp(line, "\r\n") == 0;
}

/* As much of the line as there is, and not a byte behind it, which is the guest's. */
static ssize_t line_read(struct vsock_stream *stream)
{
    char *to = stream->line + stream->line_length, *newline;
    size_t room = sizeof(stream->line) - 1 - stream->line_length;
    ssize_t got = recv(stream->fd, to, room, MSG_PEEK | MSG_DONTWAIT);

    if (got <= 0) {
        return got == 0 || errno != EAGAIN ? -EPIPE : 0;
    }
    newline = memchr(to, '\n', (size_t)got);
    got = recv(stream->fd, to, newline != NULL ? (size_t)(newline - to) + 1 : (size_t)got,
               MSG_DONTWAIT);
    if (got < 0) {
        return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
    }
    stream->line_length += (unsigned)got;
    stream->line[stream->line_length] = '\0';
    return got;
}

void vsock_host_handshake(struct vsock_stream *stream)
{
    struct virtio_vsock *vsock = stream->vsock;
    ssize_t got = line_read(stream);
    uint32_t port;

    if (got < 0) {
        vsock_stream_free(stream);
        return;
    }
    if (strchr(stream->line, '\n') == NULL &&
        stream->line_length < sizeof(stream->line) - 1) {
        return;
    }
    if (!line_parse(stream->line, &port)) {
        log_info(vsock->device.env->log,
                 "%s: a client was turned away: expected \"CONNECT PORT\"",
                 vsock->device.id);
        vsock_stream_free(stream);
        return;
    }
    vsock->client_count--;
    stream_ask_guest(stream, port);
    vsock_stream_deadline(stream, HOST_CONNECT_SECONDS * HOST_SECOND_NS);
    vsock_host_update(vsock);
}

static void host_accept(void *context, uint32_t events)
{
    struct virtio_vsock *vsock = context;
    int fd = accept4(vsock->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct vsock_stream *stream;

    (void)events;
    if (fd < 0) {
        if (accept_must_rest(errno)) {
            vsock->accept_ns = deadline_after(clock_ns(), ACCEPT_REST_MS);
            vsock_arm(vsock, vsock->accept_ns);
            vsock_host_update(vsock);
        }
    } else if (vsock_stream_create(vsock, fd, VSOCK_CLIENT, &stream) != 0) {
        close(fd);
    } else {
        vsock_stream_deadline(stream, HOST_HANDSHAKE_SECONDS * HOST_SECOND_NS);
        vsock_stream_update(stream);
    }
}

void vsock_host_update(struct virtio_vsock *vsock)
{
    bool room = vsock->stream_count < vsock->stream_max &&
                vsock->client_count < VSOCK_CLIENTS && vsock->accept_ns == 0;

    if (vsock->listen_watch != NULL) {
        loop_watch_set(vsock->listen_watch, room ? POLLIN : 0); /* others wait in line */
    }
}

int virtio_vsock_connect(struct virtio_device *device, uint32_t port, int fd)
{
    struct virtio_vsock *vsock = vsock_of(device);
    struct vsock_stream *stream;
    int ret;

    pthread_mutex_lock(&device->lock);
    ret = vsock_stream_create(vsock, fd, VSOCK_CONNECTING, &stream);
    if (ret == 0) {
        stream_ask_guest(stream, port);
        vsock_deliver(vsock);
    }
    pthread_mutex_unlock(&device->lock);
    return ret;
}

/* ---- The guest connects -------------------------------------------------------------------- */

static struct vsock_listener *listener_find(struct virtio_vsock *vsock, uint32_t port)
{
    for (unsigned i = 0; i < vsock->listener_count; i++) {
        if (vsock->listeners[i].port == port) {
            return &vsock->listeners[i];
        }
    }
    return NULL;
}

/* An end for the embedder to accept, and ours. */
static int listener_connect(const struct vsock_listener *listener)
{
    int waiting = 0, ends[2];

    if (ioctl(listener->queue[0], FIONREAD, &waiting) != 0 ||
        waiting >= VSOCK_BACKLOG * (int)sizeof(int) ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        return -ECONNREFUSED;
    }
    if (write(listener->queue[1], &ends[1], sizeof(int)) != (ssize_t)sizeof(int)) {
        close(ends[0]);
        close(ends[1]);
        return -ECONNREFUSED;
    }
    return ends[0];
}

int vsock_host_connect(struct virtio_vsock *vsock, uint32_t port)
{
    const struct vsock_listener *listener = listener_find(vsock, port);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd;

    if (listener != NULL) {
        return listener_connect(listener);
    }
    if (vsock->path[0] == '\0') {
        return -ECONNREFUSED;
    }
    snprintf(address.sun_path, sizeof(address.sun_path), "%.96s_%u", vsock->path, port);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    /* A unix socket connects at once or, with a full backlog, not at all (EAGAIN). */
    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0) {
        log_debug(vsock->device.env->log, "%s: the guest connects to port %u: %s: %s",
                  vsock->device.id, port, address.sun_path, strerror(errno));
        close(fd);
        fd = -1;
    }
    return fd >= 0 ? fd : -ECONNREFUSED;
}

int virtio_vsock_listen(struct virtio_device *device, uint32_t port, int *queue)
{
    struct virtio_vsock *vsock = vsock_of(device);
    struct vsock_listener *listener;
    int ret = 0;

    pthread_mutex_lock(&device->lock);
    listener = listener_find(vsock, port);
    if (listener == NULL && vsock->listener_count == VSOCK_LISTENERS) {
        ret = -ENOSPC;
    } else if (listener == NULL) {
        listener = &vsock->listeners[vsock->listener_count];
        listener->port = port;
        ret = pipe2(listener->queue, O_CLOEXEC | O_NONBLOCK) != 0 ? -errno : 0;
        vsock->listener_count += ret == 0;
    }
    if (ret == 0) {
        *queue = listener->queue[0];
    }
    pthread_mutex_unlock(&device->lock);
    return ret;
}

/* ---- Life -------------------------------------------------------------------------------- */

int vsock_host_listen(struct virtio_vsock *vsock, const char *path,
                      struct umbra_error *error)
{
    int ret;

    if (path == NULL) {
        return 0;
    }
    if (strlen(path) + HOST_PORT_SUFFIX >= sizeof(vsock->path)) {
        return error_set(error, UMBRA_ERROR_CONFIG, ENAMETOOLONG,
                         "%s: the socket path %s leaves no room for _PORT behind it: at "
                         "most %zu bytes",
                         vsock->device.id, path,
                         sizeof(vsock->path) - 1 - HOST_PORT_SUFFIX);
    }
    ret = char_end_open_unix(path, &vsock->listen_fd, error);
    if (ret != 0) {
        error_prefix(error, "%s", vsock->device.id);
        return ret;
    }
    snprintf(vsock->path, sizeof(vsock->path), "%s", path);
    ret = loop_watch_add(vsock->device.env->loop, vsock->listen_fd, POLLIN,
                         &vsock->device.lock, host_accept, vsock, &vsock->listen_watch);
    return ret == 0 ? 0
                    : error_errno(error, UMBRA_ERROR_INTERNAL, -ret, "%s: watching %s",
                                  vsock->device.id, path);
}

void vsock_host_fini(struct virtio_vsock *vsock)
{
    loop_watch_remove(vsock->listen_watch);
    vsock->listen_watch = NULL;
    if (vsock->listen_fd >= 0) {
        close(vsock->listen_fd);
        unlink(vsock->path);
    }
    for (unsigned i = 0; i < vsock->listener_count; i++) {
        struct vsock_listener *listener = &vsock->listeners[i];
        int fd;

        while (read(listener->queue[0], &fd, sizeof(fd)) == (ssize_t)sizeof(fd)) {
            close(fd); /* nobody accepted it */
        }
        close(listener->queue[0]);
        close(listener->queue[1]);
    }
}
