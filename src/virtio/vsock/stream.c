/* SPDX-License-Identifier: MIT */
/* Connections of virtio-vsock: their host end, their buffer, credit, and their end. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/vsock/vsock.h"

enum {
    STREAM_SEGMENTS = 16,
    /* How long the guest may take to answer a SHUTDOWN; Linux gives us eight seconds. */
    STREAM_CLOSE_NS = 1000000000,
    STREAM_CLOSE_SECONDS = 10,
};

#define SHUT_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

/* ---- Names ------------------------------------------------------------------------------ */

static unsigned stream_bucket(uint32_t host_port, uint32_t guest_port)
{
    return (host_port * 2654435761u + guest_port * 2246822519u) >> 24; /* of 256 */
}

struct vsock_stream *vsock_stream_find(struct virtio_vsock *vsock, uint32_t host_port,
                                       uint32_t guest_port)
{
    struct vsock_stream *stream;

    LIST_FOREACH(stream, &vsock->buckets[stream_bucket(host_port, guest_port)], bucket)
    {
        if (stream->host_port == host_port && stream->guest_port == guest_port) {
            return stream;
        }
    }
    return NULL;
}

void vsock_stream_name(struct vsock_stream *stream, uint32_t host_port,
                       uint32_t guest_port)
{
    stream->host_port = host_port;
    stream->guest_port = guest_port;
    LIST_INSERT_HEAD(&stream->vsock->buckets[stream_bucket(host_port, guest_port)],
                     stream, bucket);
    stream->in_bucket = true;
}

/* ---- Life ------------------------------------------------------------------------------- */

int vsock_stream_create(struct virtio_vsock *vsock, int fd, enum vsock_state state,
                        struct vsock_stream **stream)
{
    struct vsock_stream *new;
    int ret;

    if (vsock->stream_count >= vsock->stream_max) {
        return -ENOSPC;
    }
    new = calloc(1, sizeof(*new));
    if (new == NULL) {
        return -ENOMEM;
    }
    new->vsock = vsock;
    new->state = state;
    new->fd = fd;
    ret = loop_watch_add(vsock->device.env->loop, fd, 0, &vsock->device.lock,
                         vsock_stream_polled, new, &new->watch);
    if (ret != 0) {
        free(new);
        return ret;
    }
    LIST_INSERT_HEAD(&vsock->streams, new, all);
    vsock->stream_count++;
    vsock->client_count += state == VSOCK_CLIENT;
    vsock_host_update(vsock);
    *stream = new;
    return 0;
}

static void stream_hang_up(struct vsock_stream *stream)
{
    if (stream->fd >= 0) {
        loop_watch_remove(stream->watch);
        stream->watch = NULL;
        shutdown(stream->fd,
                 SHUT_RDWR); /* a poll in flight may keep the socket for now */
        close(stream->fd);
        stream->fd = -1;
    }
    stream->used = 0;
    stream->readable = false;
}

static void stream_unready(struct vsock_stream *stream)
{
    if (stream->in_ready) {
        TAILQ_REMOVE(&stream->vsock->ready, stream, ready);
        stream->in_ready = false;
    }
}

void vsock_stream_free(struct vsock_stream *stream)
{
    struct virtio_vsock *vsock = stream->vsock;

    stream_hang_up(stream);
    stream_unready(stream);
    if (stream->in_bucket) {
        LIST_REMOVE(stream, bucket);
    }
    LIST_REMOVE(stream, all);
    vsock->stream_count--;
    vsock->client_count -= stream->state == VSOCK_CLIENT;
    free(stream->buffer);
    free(stream);
    vsock_host_update(vsock);
}

void vsock_stream_deadline(struct vsock_stream *stream, uint64_t ns)
{
    stream->deadline = clock_ns() + ns;
    vsock_arm(stream->vsock, stream->deadline);
}

/* ---- Who waits for whom ------------------------------------------------------------------ */

uint32_t vsock_stream_credit(const struct vsock_stream *stream)
{
    uint32_t used = stream->sent - stream->peer_forwarded;

    /* A guest that claims to have more than it was sent gets nothing. */
    return used < stream->peer_alloc ? stream->peer_alloc - used : 0;
}

static bool stream_reads(const struct vsock_stream *stream)
{
    return stream->state == VSOCK_OPEN && !stream->host_eof &&
           (stream->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) == 0;
}

/* What to poll the host's end for. Level-triggered, and POLLHUP cannot be masked: wait for
 * nothing at all where a hang-up could not be dealt with. */
static uint32_t stream_events(const struct vsock_stream *stream)
{
    uint32_t events = stream->used > 0 ? POLLOUT : 0;

    if (stream->state == VSOCK_CLIENT) {
        return POLLIN;
    }
    if (stream->state == VSOCK_CONNECTING) {
        return POLLERR; /* the hang-up of a client that waits no longer */
    }
    if (stream->state == VSOCK_OPEN) {
        if (!stream_reads(stream)) {
            events |= POLLERR; /* for the hang-up */
        } else if (!stream->readable) {
            events |= POLLIN;
        }
    }
    return events;
}

void vsock_stream_update(struct vsock_stream *stream)
{
    bool data = stream_reads(stream) && stream->readable;
    uint32_t credit = vsock_stream_credit(stream);

    if (data && credit == 0 && !stream->credit_asked) {
        stream->credit_asked = true;
        stream->say |= VSOCK_SAY_ASK;
    } else if (credit > 0) {
        stream->credit_asked = false;
        stream->say &= ~VSOCK_SAY_ASK;
    }
    /* Say what was forwarded once the guest sees less than half of its credit. */
    if (stream->state == VSOCK_OPEN && stream->forwarded != stream->told &&
        stream->received - stream->told > VSOCK_BUFFER / 2) {
        stream->say |= VSOCK_SAY_CREDIT;
    }
    if (stream->watch != NULL) {
        loop_watch_set(stream->watch, stream_events(stream));
    }
    if (stream->say == 0 && (!data || credit == 0)) {
        stream_unready(stream);
    } else if (!stream->in_ready) {
        TAILQ_INSERT_TAIL(&stream->vsock->ready, stream, ready);
        stream->in_ready = true;
    }
}

/* ---- Ends -------------------------------------------------------------------------------- */

/* Nothing more can come of it. True: it has gone. */
static bool stream_settle(struct vsock_stream *stream)
{
    if (stream->state == VSOCK_ENDING && stream->used == 0 && stream->fd >= 0) {
        stream_hang_up(stream);
    }
    if (stream->state == VSOCK_ENDING && stream->fd < 0 &&
        (stream->say & VSOCK_SAY_RESET) == 0) {
        vsock_stream_free(stream);
        return true;
    }
    return false;
}

void vsock_stream_end(struct vsock_stream *stream, bool say_reset)
{
    struct virtio_vsock *vsock = stream->vsock;

    stream->state = VSOCK_ENDING;
    stream->deadline = 0;
    stream->say = say_reset ? VSOCK_SAY_RESET : 0;
    if (!say_reset && stream->in_bucket) {
        LIST_REMOVE(stream, bucket); /* the guest may use the ports again */
        stream->in_bucket = false;
    }
    vsock->stats.reset += say_reset;
    if (!stream_settle(stream)) {
        vsock_stream_update(stream);
    }
}

void vsock_stream_abort(struct vsock_stream *stream, bool say_reset)
{
    stream->used = 0;
    vsock_stream_end(stream, say_reset);
}

void vsock_stream_give_up(struct vsock_stream *stream)
{
    if (stream->state == VSOCK_CLIENT) {
        vsock_stream_free(stream);
    } else { /* the guest knows of it once it was asked */
        vsock_stream_abort(stream, (stream->say & VSOCK_SAY_REQUEST) == 0);
    }
}

/* The host's end takes nothing more and sends nothing more. */
static void stream_host_gone(struct vsock_stream *stream)
{
    stream_hang_up(stream);
    stream->state = VSOCK_CLOSING;
    stream->our_shut = SHUT_BOTH;
    stream->say |= VSOCK_SAY_SHUTDOWN;
    vsock_stream_deadline(stream, (uint64_t)STREAM_CLOSE_NS * STREAM_CLOSE_SECONDS);
}

/* Consequences of what was shut down at either side; of an open stream. */
static void stream_check_shut(struct vsock_stream *stream)
{
    bool no_input = !stream_reads(stream);
    bool no_output =
        stream->host_deaf ||
        ((stream->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0 && stream->used == 0);
    uint32_t shut = stream->our_shut;

    if (no_input && no_output) {
        stream_host_gone(stream);
        return;
    }
    stream->our_shut |= stream->host_eof ? VIRTIO_VSOCK_SHUTDOWN_SEND : 0;
    stream->our_shut |= stream->host_deaf ? VIRTIO_VSOCK_SHUTDOWN_RCV : 0;
    if (stream->our_shut != shut) {
        stream->say |= VSOCK_SAY_SHUTDOWN;
    }
}

void vsock_stream_shut(struct vsock_stream *stream, uint32_t flags)
{
    uint32_t before = stream->guest_shut;

    stream->guest_shut |= flags & SHUT_BOTH;
    if (stream->guest_shut == SHUT_BOTH) {
        vsock_stream_end(stream, true); /* 5.10.6.5: a clean disconnect is answered */
        return;
    }
    if (stream->state != VSOCK_OPEN || stream->guest_shut == before) {
        return;
    }
    if ((stream->guest_shut & VIRTIO_VSOCK_SHUTDOWN_RCV) != 0) {
        shutdown(stream->fd, SHUT_RD); /* who writes there hears of it */
    } else if (stream->used == 0) {
        shutdown(stream->fd, SHUT_WR);
    }
    stream_check_shut(stream);
    vsock_stream_update(stream);
}

/* ---- From the guest to the host ------------------------------------------------------------ */

/* Send; how many bytes went. A host that takes nothing any more is deaf. */
static uint32_t stream_send(struct vsock_stream *stream, const struct iovec *iov,
                            unsigned count)
{
    struct msghdr message = { .msg_iov = (struct iovec *)(uintptr_t)iov,
                              .msg_iovlen = count };
    ssize_t sent;

    do {
        sent = sendmsg(stream->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (sent < 0 && errno == EINTR);
    if (sent < 0 && errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM) {
        stream->host_deaf = true;
    }
    return sent > 0 ? (uint32_t)sent : 0;
}

/* The part of @iov behind @skip bytes, of @length bytes, in at most STREAM_SEGMENTS. */
static unsigned iov_slice(const struct iovec *iov, unsigned count, uint64_t skip,
                          uint64_t length, struct iovec *slice)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count && length > 0 && n < STREAM_SEGMENTS; i++) {
        uint64_t size = iov[i].iov_len;

        if (skip >= size) {
            skip -= size;
            continue;
        }
        size = size - skip < length ? size - skip : length;
        slice[n++] = (struct iovec){ .iov_base = (uint8_t *)iov[i].iov_base + skip,
                                     .iov_len = size };
        length -= size;
        skip = 0;
    }
    return n;
}

/* Keep what was not sent: @length bytes at @offset of the chain. Credit says they fit. */
static int stream_keep(struct vsock_stream *stream, const struct virtqueue_chain *chain,
                       uint64_t offset, uint32_t length)
{
    if (stream->buffer == NULL) {
        stream->buffer = malloc(VSOCK_BUFFER);
        if (stream->buffer == NULL) {
            return -ENOMEM;
        }
    }
    while (length > 0) {
        uint32_t at = (stream->start + stream->used) % VSOCK_BUFFER;
        uint32_t piece = VSOCK_BUFFER - at < length ? VSOCK_BUFFER - at : length;

        virtqueue_chain_read(chain, offset, stream->buffer + at, piece);
        stream->used += piece;
        offset += piece;
        length -= piece;
    }
    return 0;
}

void vsock_stream_write(struct vsock_stream *stream, const struct virtqueue_chain *chain,
                        uint32_t length)
{
    struct iovec slice[STREAM_SEGMENTS];
    uint32_t sent = 0;

    stream->received += length;
    stream->vsock->stats.bytes_from_guest += length;
    while (sent < length && stream->used == 0 && !stream->host_deaf) {
        uint32_t went =
            stream_send(stream, slice,
                        iov_slice(virtqueue_chain_readable(chain), chain->readable_count,
                                  VSOCK_HEADER + sent, length - sent, slice));

        if (went == 0) {
            break;
        }
        sent += went;
    }
    stream->forwarded += sent;
    if (stream->host_deaf) {
        stream->forwarded += length - sent; /* dropped; the guest hears that it is deaf */
        stream_check_shut(stream);
    } else if (sent < length &&
               stream_keep(stream, chain, VSOCK_HEADER + sent, length - sent) != 0) {
        vsock_stream_abort(stream, true);
        return;
    }
    vsock_stream_update(stream);
}

/* Write what is kept, as far as the host takes it. */
static void stream_flush(struct vsock_stream *stream)
{
    while (stream->used > 0 && !stream->host_deaf) {
        uint32_t piece = VSOCK_BUFFER - stream->start;
        struct iovec iov = { .iov_base = stream->buffer + stream->start,
                             .iov_len = stream->used < piece ? stream->used : piece };
        uint32_t went = stream_send(stream, &iov, 1);

        if (went == 0) {
            break;
        }
        stream->start = (stream->start + went) % VSOCK_BUFFER;
        stream->used -= went;
        stream->forwarded += went;
    }
    if (stream->host_deaf) {
        stream->forwarded += stream->used;
        stream->used = 0;
    }
    if (stream->state != VSOCK_OPEN || stream->used > 0) {
        return;
    }
    if ((stream->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
        shutdown(stream->fd, SHUT_WR);
    }
    stream_check_shut(stream);
}

bool vsock_stream_tell(struct vsock_stream *stream, const char *text)
{
    struct iovec iov = { .iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text) };

    return stream_send(stream, &iov, 1) == iov.iov_len;
}

/* Has the host closed its end, rather than shut down a half? */
static bool stream_hung_up(const struct vsock_stream *stream)
{
    struct pollfd end = { .fd = stream->fd };

    return poll(&end, 1, 0) == 1 && (end.revents & (POLLHUP | POLLERR)) != 0;
}

/* ---- From the host to the guest ------------------------------------------------------------ */

uint32_t vsock_stream_read(struct vsock_stream *stream, const struct iovec *iov,
                           unsigned count)
{
    uint32_t credit = vsock_stream_credit(stream);
    struct iovec slice[STREAM_SEGMENTS];
    struct msghdr message = { .msg_iov = slice };
    ssize_t got;

    if (!stream_reads(stream) || !stream->readable || credit == 0) {
        return 0;
    }
    message.msg_iovlen =
        iov_slice(iov, count, VSOCK_HEADER,
                  credit < VSOCK_PACKET_MAX ? credit : VSOCK_PACKET_MAX, slice);
    if (message.msg_iovlen == 0) {
        return 0;
    }
    do {
        got = recvmsg(stream->fd, &message, MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got > 0) {
        stream->sent += (uint32_t)got;
        stream->vsock->stats.bytes_to_guest += (uint64_t)got;
        return (uint32_t)got;
    }
    stream->readable = false;
    if (got == 0 || errno != EAGAIN) {
        stream->host_eof = true;
        stream->host_deaf = stream_hung_up(stream) && stream->used == 0;
        stream_check_shut(stream);
    }
    return 0;
}

/* ---- The host's end is ready ---------------------------------------------------------------- */

void vsock_stream_polled(void *context, uint32_t events)
{
    struct vsock_stream *stream = context;
    struct virtio_vsock *vsock = stream->vsock;

    if (stream->state == VSOCK_CLIENT) {
        vsock_host_handshake(stream);
        vsock_deliver(vsock);
        return;
    }
    if (stream->state == VSOCK_CONNECTING) {
        vsock_stream_give_up(stream);
        vsock_deliver(vsock);
        return;
    }
    if (stream->used > 0) {
        stream_flush(stream);
    }
    if (stream->state == VSOCK_OPEN && (events & (POLLIN | POLLHUP | POLLERR)) != 0) {
        if (stream_reads(stream)) {
            stream->readable = true;
        } else if ((events & (POLLHUP | POLLERR)) != 0) {
            stream->host_eof = stream->host_deaf = true;
            stream->forwarded += stream->used;
            stream->used = 0;
            stream_check_shut(stream);
        }
    }
    if (!stream_settle(stream)) {
        vsock_stream_update(stream);
    }
    vsock_deliver(vsock);
}
