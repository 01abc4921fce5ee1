/* SPDX-License-Identifier: MIT */
/*
 * Inside virtio-vsock: the device (vsock.c), the guest's packets (packet.c),
 * connections (stream.c) and the host's unix sockets (host.c).
 *
 * What bounds memory: a stream has one buffer, for bytes of the guest that its host end
 * does not take yet, and the guest may send no more than fits (credit). Bytes of the host
 * stay in its socket until the guest has credit and a buffer for them. What is to be said
 * to the guest is a bit each in its stream, never a queue; only answers to packets of no
 * stream are queued, and while VSOCK_REFUSALS of those wait no packet is taken.
 *
 * Everything here runs with the device's lock held.
 */
#ifndef VIRTIO_VSOCK_VSOCK_H
#define VIRTIO_VSOCK_VSOCK_H

#include <sys/queue.h>

#include <linux/virtio_vsock.h>

#include "base/util.h"
#include "virtio/virtio.h"

enum {
    VSOCK_RX,
    VSOCK_TX,
    VSOCK_EVENT,
    VSOCK_QUEUES,
    VSOCK_QUEUE_SIZE = 256,
    VSOCK_HOST_CID = 2,
    VSOCK_HEADER = sizeof(struct virtio_vsock_hdr),
    VSOCK_BUFFER = 128 << 10,    /* a stream's, which is the credit that the guest has */
    VSOCK_PACKET_MAX = 64 << 10, /* payload to the guest */
    VSOCK_STREAMS = 256,         /* unless the config says otherwise */
    VSOCK_CLIENTS = 64,          /* of those, how many may not have said their port yet */
    VSOCK_LISTENERS = 64,        /* ports on which the embedder listens */
    VSOCK_BACKLOG = 64,          /* connections that wait for the embedder, at each */
    VSOCK_REFUSALS = 64,
    VSOCK_BUCKETS = 256,
    VSOCK_LINE = 32, /* "CONNECT 4294967294\n" */
};

/* The guest's and the host's words, in host byte order. */
struct vsock_header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port, length;
    uint16_t type, op;
    uint32_t flags, buf_alloc, fwd_cnt;
};

enum vsock_state {
    VSOCK_CLIENT,     /* a host client that has not said its port yet */
    VSOCK_CONNECTING, /* the guest is, or is to be, asked */
    VSOCK_OPEN,
    VSOCK_CLOSING, /* the host end has gone and the guest is told; its RST is to come */
    VSOCK_ENDING,  /* over; an RST is to be said, or the rest goes to the host */
};

/* What is to be said to the guest about a stream; in this order, data behind RESPONSE. */
enum {
    VSOCK_SAY_RESET = 1,
    VSOCK_SAY_REQUEST = 2,
    VSOCK_SAY_RESPONSE = 4,
    VSOCK_SAY_CREDIT = 8,
    VSOCK_SAY_ASK = 16, /* for credit */
    VSOCK_SAY_SHUTDOWN = 32,
};

struct virtio_vsock;

struct vsock_stream {
    struct virtio_vsock *vsock;
    LIST_ENTRY(vsock_stream) all, bucket;
    TAILQ_ENTRY(vsock_stream) ready;
    enum vsock_state state;
    bool in_bucket, in_ready;
    uint32_t host_port, guest_port;
    unsigned say;
    uint64_t deadline; /* 0: none */

    /* The host's end. */
    int fd; /* -1: gone */
    struct loop_watch *watch;
    bool readable;  /* it polled so, and nobody has found it empty since */
    bool host_eof;  /* it sends no more */
    bool host_deaf; /* it takes no more */
    bool asked;     /* it waits for "OK PORT" */
    char line[VSOCK_LINE];
    unsigned line_length;

    /* Shut down, VIRTIO_VSOCK_SHUTDOWN_*: by the guest, and by us (said or to be said). */
    uint32_t guest_shut, our_shut;
    /* Credit (5.10.6.3): counters of bytes, modulo 2^32. */
    uint32_t peer_alloc, peer_forwarded, sent;
    uint32_t received, forwarded, told; /* told: forwarded, as last said */
    bool credit_asked;

    uint8_t *buffer; /* VSOCK_BUFFER bytes from the first time that they are needed */
    uint32_t start, used;
};

struct vsock_listener { /* of the embedder */
    uint32_t port;
    int queue[2]; /* a pipe of accepted descriptors (ints); we write to [1] */
};

struct vsock_refusal { /* an RST to a packet of no stream */
    uint64_t cid;
    uint32_t host_port, guest_port;
    uint16_t type;
};

struct virtio_vsock {
    struct virtio_device device;
    uint32_t cid;
    char path[108]; /* "": none */
    int listen_fd;
    struct loop_watch *listen_watch;
    struct loop_timer *timer;
    uint64_t timer_ns;  /* when it is armed for; 0: it is not */
    uint64_t accept_ns; /* accepting rests until then: no descriptors; 0: it does not */
    uint32_t next_port; /* of the host, for its own connections */
    struct virtqueue_chain rx, tx, event;

    LIST_HEAD(, vsock_stream) streams, buckets[VSOCK_BUCKETS];
    TAILQ_HEAD(vsock_ready, vsock_stream) ready;
    unsigned stream_count, stream_max, client_count;

    struct vsock_refusal refusals[VSOCK_REFUSALS];
    unsigned refusal_first, refusal_count;
    bool tx_stalled;  /* until refusals have gone */
    bool reset_event; /* the guest is to be told that its connections are gone */
    bool complained;  /* about the guest's packets, since its driver came */

    struct vsock_listener listeners[VSOCK_LISTENERS];
    unsigned listener_count;

    struct {
        uint64_t from_guest, from_host; /* connections that came about */
        uint64_t refused, reset;        /* by us, to the guest */
        uint64_t bytes_from_guest, bytes_to_guest, bad_packets;
    } stats;
};

static inline struct virtio_vsock *vsock_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_vsock, device);
}

/* ---- packet.c -------------------------------------------------------------------- */

/* Say to the guest what there is to say, as far as it has buffers. */
void vsock_deliver(struct virtio_vsock *vsock);
/* Take the guest's packets. */
void vsock_transmit(struct virtio_vsock *vsock);

/* ---- stream.c -------------------------------------------------------------------- */

/* A stream on @fd, which it owns then; on failure it is the caller's. */
int vsock_stream_create(struct virtio_vsock *vsock, int fd, enum vsock_state state,
                        struct vsock_stream **stream);
void vsock_stream_free(struct vsock_stream *stream);
struct vsock_stream *vsock_stream_find(struct virtio_vsock *vsock, uint32_t host_port,
                                       uint32_t guest_port);
/* Give it its ports, under which packets find it. */
void vsock_stream_name(struct vsock_stream *stream, uint32_t host_port,
                       uint32_t guest_port);
/* After any change: who is to be waited for, and has the guest to hear something? */
void vsock_stream_update(struct vsock_stream *stream);
void vsock_stream_deadline(struct vsock_stream *stream, uint64_t ns);

/* What the guest may still be sent. */
uint32_t vsock_stream_credit(const struct vsock_stream *stream);
/* Bytes of the host's end into @iov: how many, 0 when there are none now. */
uint32_t vsock_stream_read(struct vsock_stream *stream, const struct iovec *iov,
                           unsigned count);
/* The payload of @length bytes behind the header in @chain, which credit allows. */
void vsock_stream_write(struct vsock_stream *stream, const struct virtqueue_chain *chain,
                        uint32_t length);
/* The guest shut something down. */
void vsock_stream_shut(struct vsock_stream *stream, uint32_t flags);
/* The guest has done with it, or shall: what it sent still goes to the host; @say_reset:
 * tell it. The stream may be gone afterwards. */
void vsock_stream_end(struct vsock_stream *stream, bool say_reset);
/* The same, and nothing more goes to the host. */
void vsock_stream_abort(struct vsock_stream *stream, bool say_reset);
/* Nobody waits for it any more: end it as far as it has got. */
void vsock_stream_give_up(struct vsock_stream *stream);
/* Its host end is ready; context: the stream. */
void vsock_stream_polled(void *context, uint32_t events);
/* Write what the host's end takes at once of @bytes; false: not all of it went. */
bool vsock_stream_tell(struct vsock_stream *stream, const char *text);

/* ---- host.c ---------------------------------------------------------------------- */

int vsock_host_listen(struct virtio_vsock *vsock, const char *path,
                      struct umbra_error *error);
void vsock_host_fini(struct virtio_vsock *vsock);
/* There may be room for clients again, or no more. */
void vsock_host_update(struct virtio_vsock *vsock);
/* The client sent something: "CONNECT PORT\n" in the end. */
void vsock_host_handshake(struct vsock_stream *stream);
/* The guest connects to @port: an end for the stream, or -errno. */
int vsock_host_connect(struct virtio_vsock *vsock, uint32_t port);

/* ---- vsock.c --------------------------------------------------------------------------- */

/* Have vsock_tick look at deadlines at @deadline_ns at the latest. */
void vsock_arm(struct virtio_vsock *vsock, uint64_t deadline_ns);

#endif
