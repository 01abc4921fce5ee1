/* SPDX-License-Identifier: MIT */
/*
 * Packets of virtio-vsock (virtio 1.2, 5.10.6). A header is copied out of guest memory
 * once and checked; a buffer that cannot be what it says stops the device, a packet that
 * breaks the protocol ends its connection by an RST.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "devices/faults.h"
#include "virtio/vsock/vsock.h"

enum { PACKET_BUDGET = 256 /* packets in one go: others want the loop too */ };

static struct vsock_header header_parse(const struct virtio_vsock_hdr *raw)
{
    return (struct vsock_header){
        .src_cid = load_le64(&raw->src_cid),
        .dst_cid = load_le64(&raw->dst_cid),
        .src_port = load_le32(&raw->src_port),
        .dst_port = load_le32(&raw->dst_port),
        .length = load_le32(&raw->len),
        .type = load_le16(&raw->type),
        .op = load_le16(&raw->op),
        .flags = load_le32(&raw->flags),
        .buf_alloc = load_le32(&raw->buf_alloc),
        .fwd_cnt = load_le32(&raw->fwd_cnt),
    };
}

static void header_put(const struct virtqueue_chain *chain,
                       const struct vsock_header *header)
{
    struct virtio_vsock_hdr raw;

    store_le64(&raw.src_cid, header->src_cid);
    store_le64(&raw.dst_cid, header->dst_cid);
    store_le32(&raw.src_port, header->src_port);
    store_le32(&raw.dst_port, header->dst_port);
    store_le32(&raw.len, header->length);
    store_le16(&raw.type, header->type);
    store_le16(&raw.op, header->op);
    store_le32(&raw.flags, header->flags);
    store_le32(&raw.buf_alloc, header->buf_alloc);
    store_le32(&raw.fwd_cnt, header->fwd_cnt);
    virtqueue_chain_write(chain, 0, &raw, sizeof(raw));
}

/* The guest broke a rule. Said once for each time that its driver came. */
static void packet_bad(struct virtio_vsock *vsock, const struct vsock_header *header,
                       const char *why)
{
    vsock->stats.bad_packets++;
    if (!vsock->complained) {
        vsock->complained = true;
        log_warning(vsock->device.env->log,
                    "%s: the guest's packet (operation %u, port %u to %u): %s; further "
                    "ones are counted in the statistics",
                    vsock->device.id, header->op, header->src_port, header->dst_port,
                    why);
    }
}

/* ---- To the guest ------------------------------------------------------------------------- */

static uint32_t refusal_put(struct virtio_vsock *vsock)
{
    const struct vsock_refusal *refusal = &vsock->refusals[vsock->refusal_first];
    const struct vsock_header header = {
        .src_cid = refusal->cid,
        .dst_cid = vsock->cid,
        .src_port = refusal->host_port,
        .dst_port = refusal->guest_port,
        .type = refusal->type,
        .op = VIRTIO_VSOCK_OP_RST,
    };

    header_put(&vsock->rx, &header);
    vsock->refusal_first = (vsock->refusal_first + 1) % VSOCK_REFUSALS;
    vsock->refusal_count--;
    return VSOCK_HEADER;
}

/* A planned fault of a packet with data: its connection is to break. */
static bool packet_faulty(struct virtio_vsock *vsock, bool to_guest, uint32_t length)
{
    struct virtio_queue *queue = &vsock->device.queues[to_guest ? VSOCK_RX : VSOCK_TX];
    struct fault_hits hits;

    return virtio_queue_draw(queue, to_guest ? UMBRA_FAULT_IN : UMBRA_FAULT_OUT, length,
                             &hits);
}

/* A packet of @stream's into the popped buffer. */
static uint32_t packet_put(struct vsock_stream *stream, uint16_t op, uint32_t flags,
                           uint32_t length)
{
    const struct vsock_header header = {
        .src_cid = VSOCK_HOST_CID,
        .dst_cid = stream->vsock->cid,
        .src_port = stream->host_port,
        .dst_port = stream->guest_port,
        .length = length,
        .type = VIRTIO_VSOCK_TYPE_STREAM,
        .op = op,
        .flags = flags,
        .buf_alloc = VSOCK_BUFFER,
        .fwd_cnt = stream->forwarded,
    };

    header_put(&stream->vsock->rx, &header);
    stream->told = stream->forwarded;
    stream->say &= ~VSOCK_SAY_CREDIT; /* every packet says it */
    return VSOCK_HEADER + length;
}

/* The one of what is to be said that comes first; 0: nothing after all. The stream may be
 * gone afterwards. */
static uint32_t stream_say(struct vsock_stream *stream)
{
    static const struct {
        unsigned bit;
        uint16_t op;
    } first[] = { { VSOCK_SAY_REQUEST, VIRTIO_VSOCK_OP_REQUEST },
                  { VSOCK_SAY_RESPONSE, VIRTIO_VSOCK_OP_RESPONSE } },
      last[] = { { VSOCK_SAY_CREDIT, VIRTIO_VSOCK_OP_CREDIT_UPDATE },
                 { VSOCK_SAY_ASK, VIRTIO_VSOCK_OP_CREDIT_REQUEST } };
    const struct virtqueue_chain *rx = &stream->vsock->rx;
    uint32_t length;

    for (unsigned i = 0; i < ARRAY_SIZE(first); i++) {
        if ((stream->say & first[i].bit) != 0) {
            stream->say &= ~first[i].bit;
            return packet_put(stream, first[i].op, 0, 0);
        }
    }
    length = vsock_stream_read(stream, virtqueue_chain_writable(rx), rx->writable_count);
    if (length > 0 && packet_faulty(stream->vsock, true, length)) {
        vsock_stream_abort(stream, true);
        return 0;
    }
    if (length > 0) {
        return packet_put(stream, VIRTIO_VSOCK_OP_RW, 0, length);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(last); i++) {
        if ((stream->say & last[i].bit) != 0) {
            stream->say &= ~last[i].bit;
            return packet_put(stream, last[i].op, 0, 0);
        }
    }
    if ((stream->say & VSOCK_SAY_SHUTDOWN) != 0) {
        stream->say &= ~VSOCK_SAY_SHUTDOWN;
        return packet_put(stream, VIRTIO_VSOCK_OP_SHUTDOWN, stream->our_shut, 0);
    }
    return 0;
}

static uint32_t stream_put(struct vsock_stream *stream)
{
    uint32_t written;

    /* To the end of the line: streams take turns. */
    TAILQ_REMOVE(&stream->vsock->ready, stream, ready);
    stream->in_ready = false;
    if ((stream->say & VSOCK_SAY_RESET) != 0) {
        written = packet_put(stream, VIRTIO_VSOCK_OP_RST, 0, 0);
        vsock_stream_end(stream, false);
        return written;
    }
    written = stream_say(stream);
    vsock_stream_update(stream);
    return written;
}

static bool anything_to_say(const struct virtio_vsock *vsock)
{
    return vsock->refusal_count > 0 || !TAILQ_EMPTY(&vsock->ready);
}

/* One packet; false: the driver has no buffer for it, or the device failed. */
static bool deliver_one(struct virtio_vsock *vsock, struct virtio_queue *queue)
{
    uint32_t written;

    if (!virtio_queue_pop(queue, &vsock->rx)) {
        return false;
    }
    if (vsock->rx.writable_bytes <= VSOCK_HEADER) {
        virtio_device_fail(&vsock->device, "queue 0: a buffer for packets has no room "
                                           "behind a header");
        return false;
    }
    written = vsock->refusal_count > 0 ? refusal_put(vsock)
                                       : stream_put(TAILQ_FIRST(&vsock->ready));
    if (written > 0) {
        virtio_queue_push(queue, &vsock->rx, written);
    } else {
        virtio_queue_unpop(queue, &vsock->rx);
    }
    return true;
}

static void deliver_event(struct virtio_vsock *vsock)
{
    struct virtio_queue *queue = &vsock->device.queues[VSOCK_EVENT];
    uint8_t id[4];

    if (!vsock->reset_event || !queue->running ||
        !virtio_queue_pop(queue, &vsock->event)) {
        return;
    }
    store_le32(id, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
    virtio_queue_push(queue, &vsock->event,
                      (uint32_t)virtqueue_chain_write(&vsock->event, 0, id, sizeof(id)));
    virtio_queue_flush(queue);
    vsock->reset_event = false;
}

void vsock_deliver(struct virtio_vsock *vsock)
{
    struct virtio_queue *queue = &vsock->device.queues[VSOCK_RX];
    unsigned budget = PACKET_BUDGET;

    deliver_event(vsock);
    if (!queue->running) {
        return;
    }
    do {
        virtio_queue_disable_kicks(queue);
        while (anything_to_say(vsock) && budget > 0 && deliver_one(vsock, queue)) {
            budget--;
        }
        virtio_queue_flush(queue);
        if (!anything_to_say(vsock)) {
            break; /* what is to be said comes first, no need for kicks */
        }
        if (budget == 0) {
            virtio_queue_rekick(queue);
            break;
        }
    } while (virtio_queue_enable_kicks(queue));
    if (vsock->tx_stalled && vsock->refusal_count <= VSOCK_REFUSALS / 2) {
        vsock->tx_stalled = false;
        virtio_queue_rekick(&vsock->device.queues[VSOCK_TX]);
    }
}

/* ---- From the guest ------------------------------------------------------------------------ */

/* Answer a packet of no stream; an RST is never answered. */
static void packet_refuse(struct virtio_vsock *vsock, const struct vsock_header *header)
{
    unsigned at = (vsock->refusal_first + vsock->refusal_count) % VSOCK_REFUSALS;

    if (header->op == VIRTIO_VSOCK_OP_RST) {
        return;
    }
    vsock->refusals[at] = (struct vsock_refusal){ .cid = header->dst_cid,
                                                  .host_port = header->dst_port,
                                                  .guest_port = header->src_port,
                                                  .type = header->type };
    vsock->refusal_count++; /* vsock_transmit left room */
    vsock->stats.refused++;
}

static void guest_connects(struct virtio_vsock *vsock, const struct vsock_header *header)
{
    struct vsock_stream *stream;
    int fd;

    if (vsock->stream_count >= vsock->stream_max) {
        packet_refuse(vsock, header);
        return;
    }
    fd = vsock_host_connect(vsock, header->dst_port);
    if (fd < 0) {
        packet_refuse(vsock, header);
        return;
    }
    if (vsock_stream_create(vsock, fd, VSOCK_OPEN, &stream) != 0) {
        close(fd);
        packet_refuse(vsock, header);
        return;
    }
    vsock->stats.from_guest++;
    vsock_stream_name(stream, header->dst_port, header->src_port);
    stream->peer_alloc = header->buf_alloc;
    stream->peer_forwarded = header->fwd_cnt;
    stream->say = VSOCK_SAY_RESPONSE;
    vsock_stream_update(stream);
}

static void guest_answers(struct vsock_stream *stream)
{
    char text[24];

    stream->state = VSOCK_OPEN;
    stream->deadline = 0;
    stream->vsock->stats.from_host++;
    snprintf(text, sizeof(text), "OK %u\n", stream->host_port);
    if (!vsock_stream_tell(stream, text)) {
        vsock_stream_abort(stream, true); /* it has gone */
    }
}

/* Data of an open stream; NULL, or what is wrong with it. */
static const char *guest_sends(struct vsock_stream *stream,
                               const struct vsock_header *header,
                               const struct virtqueue_chain *chain)
{
    if ((stream->guest_shut & VIRTIO_VSOCK_SHUTDOWN_SEND) != 0) {
        return "data after a shutdown";
    }
    if (header->length > VSOCK_BUFFER - stream->used) {
        return "more data than it has credit for";
    }
    if (header->length > 0 && packet_faulty(stream->vsock, false, header->length)) {
        vsock_stream_abort(stream, true);
    } else if (header->length > 0) {
        vsock_stream_write(stream, chain, header->length);
    }
    return NULL;
}

/* A packet of a stream that the host still has; NULL, or what is wrong with it. */
static const char *stream_take(struct vsock_stream *stream,
                               const struct vsock_header *header,
                               const struct virtqueue_chain *chain)
{
    bool open = stream->state == VSOCK_OPEN;

    if (header->op != VIRTIO_VSOCK_OP_RW && header->length != 0) {
        return "a payload where none belongs";
    }
    stream->peer_alloc = header->buf_alloc;
    stream->peer_forwarded = header->fwd_cnt;
    switch (header->op) {
    case VIRTIO_VSOCK_OP_RESPONSE:
        if (stream->state != VSOCK_CONNECTING || (stream->say & VSOCK_SAY_REQUEST) != 0) {
            return "an answer to no request";
        }
        guest_answers(stream);
        break;
    case VIRTIO_VSOCK_OP_RW:
        if (stream->state == VSOCK_CLOSING) {
            break; /* it could not know yet */
        }
        return open ? guest_sends(stream, header, chain) : "data before the connection";
    case VIRTIO_VSOCK_OP_SHUTDOWN:
        if (stream->state == VSOCK_CONNECTING) {
            return "a shutdown before the connection";
        }
        vsock_stream_shut(stream, header->flags);
        break;
    case VIRTIO_VSOCK_OP_CREDIT_REQUEST:
        stream->say |= open ? VSOCK_SAY_CREDIT : 0;
        break;
    case VIRTIO_VSOCK_OP_CREDIT_UPDATE:
        break;
    case VIRTIO_VSOCK_OP_REQUEST:
        return "a request on ports that are in use";
    default:
        return "an unknown operation";
    }
    return NULL;
}

static void packet_to_stream(struct vsock_stream *stream,
                             const struct vsock_header *header,
                             const struct virtqueue_chain *chain)
{
    struct virtio_vsock *vsock = stream->vsock;
    const char *bad;

    if (header->op == VIRTIO_VSOCK_OP_RST) {
        vsock_stream_end(stream, false);
        return;
    }
    if (stream->state == VSOCK_ENDING) {
        return; /* our RST is on its way */
    }
    bad = stream_take(stream, header, chain);
    stream = vsock_stream_find(vsock, header->dst_port, header->src_port);
    if (stream == NULL || stream->state == VSOCK_ENDING) {
        return;
    }
    if (bad != NULL) {
        packet_bad(vsock, header, bad);
        vsock_stream_abort(stream, true);
    } else {
        vsock_stream_update(stream);
    }
}

static void packet_take(struct virtio_vsock *vsock, const struct virtqueue_chain *chain)
{
    struct virtio_vsock_hdr raw;
    struct vsock_header header;
    struct vsock_stream *stream;

    if (virtqueue_chain_read(chain, 0, &raw, sizeof(raw)) != sizeof(raw)) {
        virtio_device_fail(&vsock->device, "queue 1: a packet shorter than its header");
        return;
    }
    header = header_parse(&raw);
    if (header.length > chain->readable_bytes - VSOCK_HEADER) {
        virtio_device_fail(&vsock->device,
                           "queue 1: a packet longer than the buffer it is in");
        return;
    }
    if (header.src_cid != vsock->cid) {
        packet_bad(vsock, &header, "it says to come from another machine");
        return; /* an answer would go there */
    }
    if (header.type != VIRTIO_VSOCK_TYPE_STREAM) {
        packet_bad(vsock, &header, "not a stream");
        packet_refuse(vsock, &header); /* 5.10.6.4.1 */
        return;
    }
    if (header.dst_cid != VSOCK_HOST_CID) {
        packet_refuse(vsock, &header); /* there are no other machines here */
        return;
    }
    stream = vsock_stream_find(vsock, header.dst_port, header.src_port);
    if (stream != NULL) {
        packet_to_stream(stream, &header, chain);
    } else if (header.op == VIRTIO_VSOCK_OP_REQUEST) {
        guest_connects(vsock, &header);
    } else {
        packet_refuse(vsock, &header);
    }
}

void vsock_transmit(struct virtio_vsock *vsock)
{
    struct virtio_queue *queue = &vsock->device.queues[VSOCK_TX];
    unsigned budget = PACKET_BUDGET;

    if (!queue->running) {
        return;
    }
    do {
        virtio_queue_disable_kicks(queue);
        while (budget > 0 && vsock->refusal_count < VSOCK_REFUSALS &&
               virtio_queue_pop(queue, &vsock->tx)) {
            packet_take(vsock, &vsock->tx);
            virtio_queue_push(queue, &vsock->tx, 0);
            budget--;
        }
        virtio_queue_flush(queue);
        if (vsock->refusal_count == VSOCK_REFUSALS) {
            vsock->tx_stalled = true;
            break;
        }
        if (budget == 0) {
            virtio_queue_rekick(queue);
            break;
        }
    } while (virtio_queue_enable_kicks(queue));
    vsock_deliver(vsock);
}
