/* SPDX-License-Identifier: MIT */
/* virtio-net's data path (virtio 1.2, 5.1.6): frames between the back end and the rings. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/util.h"
#include "virtio/net/net.h"

enum {
    NET_BUDGET = 256,    /* frames in one go: keeps one guest from holding the loop */
    NET_WATCH_PAIRS = 4, /* so many are watched together, no more */
    NET_SEGMENTS = 64,   /* a frame in more pieces is copied together */
};

static bool queue_live(const struct virtio_queue *queue)
{
    return queue->running && queue->attached && !atomic_load(&queue->device->failed);
}

/* Wait for what can be used: frames while the driver has buffers, room while blocked. */
void net_watch(struct net_pair *pair)
{
    struct virtio_net *net = pair->net;
    uint32_t events = pair->tx_blocked ? POLLOUT : 0;

    if (!pair->starved && pair->index < net->active_pairs &&
        queue_live(net_queue(pair, false))) {
        events |= POLLIN;
    }
    if (pair->ready_watch != NULL && net->vhost == NULL) {
        loop_watch_set(pair->ready_watch, net->lost ? 0 : events);
    }
}

/* ---- To the guest --------------------------------------------------------------------- */

void net_release(struct net_pair *pair)
{
    while (pair->held > 0) {
        virtio_queue_unpop(net_queue(pair, false), &pair->chains[--pair->held]);
    }
    pair->held_bytes = 0;
}

/* Take buffers until the frame fits; false: the driver has none left. */
static bool receive_collect(struct net_pair *pair, struct virtio_queue *queue)
{
    bool mergeable = virtio_has(queue->device, VIRTIO_NET_F_MRG_RXBUF);
    unsigned limit = mergeable ? NET_CHAINS_MAX : 1;

    while (pair->held < limit && pair->held_bytes < pair->frame_size) {
        struct virtqueue_chain *chain = &pair->chains[pair->held];

        if (!virtio_queue_pop(queue, chain)) {
            return false;
        }
        pair->held_bytes += chain->writable_bytes;
        pair->held++;
    }
    return true;
}

static void receive_deliver(struct net_pair *pair, struct virtio_queue *queue)
{
    size_t offset = 0;

    if (pair->held_bytes < pair->frame_size) {
        net_release(pair); /* smaller frames may fit */
        pair->received.dropped++;
        pair->frame_size = 0;
        pair->twice = false;
        return;
    }
    store_le16(pair->frame + offsetof(struct virtio_net_hdr_v1, num_buffers),
               (uint16_t)pair->held);
    for (unsigned i = 0; i < pair->held; i++) {
        size_t done = virtqueue_chain_write(&pair->chains[i], 0, pair->frame + offset,
                                            pair->frame_size - offset);

        virtio_queue_push(queue, &pair->chains[i], (uint32_t)done);
        offset += done;
    }
    pair->received.frames++;
    pair->received.bytes += pair->frame_size - NET_HEADER;
    pair->held = 0;
    pair->held_bytes = 0;
    if (pair->twice) {
        pair->twice = false;
    } else {
        pair->frame_size = 0;
    }
}

/* The back end's next frame into pair->frame; false: there is none. */
static bool receive_fetch(struct net_pair *pair)
{
    struct virtio_net *net = pair->net;

    if (pair->frame_size == 0 && net->faults != NULL) {
        pair->frame_size = net_faults_fetch(pair);
    }
    while (pair->frame_size == 0 && !net->lost) {
        ssize_t got = net->backend->ops->receive(net->backend, pair->index, pair->frame,
                                                 NET_HEADER + NET_FRAME_MAX);

        if (got == -EAGAIN) {
            return false;
        }
        if (got < 0) {
            net_lost(net, (int)-got);
            return false;
        }
        if (got < NET_HEADER + NET_FRAME_MIN || !net->link || net->flapped) {
            pair->received.dropped++;
            continue;
        }
        pair->frame_size = (size_t)got;
        if (!net_faults_receive(pair, &pair->twice)) {
            pair->frame_size = 0;
        }
    }
    return pair->frame_size != 0;
}

/* As many frames as the budget has; how many. */
static unsigned receive_some(struct net_pair *pair, unsigned budget)
{
    struct virtio_queue *queue = net_queue(pair, false);
    unsigned moved = 0;

    if (!queue_live(queue) || pair->index >= pair->net->active_pairs) {
        return 0;
    }
    pair->starved = false;
    if (!pair->rx_kicks_off) {
        pair->rx_kicks_off = true;
        virtio_queue_disable_kicks(queue); /* until buffers run out */
    }
    while (moved < budget && receive_fetch(pair)) {
        if (receive_collect(pair, queue)) {
            receive_deliver(pair, queue);
            moved++;
            continue;
        }
        pair->rx_kicks_off = false;
        if (!virtio_queue_enable_kicks(queue)) {
            pair->starved = true;
            break;
        }
    }
    virtio_queue_flush(queue);
    return moved;
}

/* ---- From the guest ------------------------------------------------------------------- */

/* May a frame of @size bytes go out with this header, as negotiated (5.1.6.2)? */
static bool header_sound(const struct virtio_device *device,
                         struct virtio_net_hdr_v1 *header, size_t size)
{
    static const struct {
        uint8_t type, feature;
    } segmentations[] = { { VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_F_HOST_TSO4 },
                          { VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_F_HOST_TSO6 },
                          { VIRTIO_NET_HDR_GSO_UDP, VIRTIO_NET_F_HOST_UFO } };
    bool checksum = (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
    bool allowed = false;

    header->flags &= VIRTIO_NET_HDR_F_NEEDS_CSUM; /* others are for the driver */
    header->num_buffers = 0;
    if (checksum &&
        (!virtio_has(device, VIRTIO_NET_F_CSUM) ||
         (size_t)le16toh(header->csum_start) + le16toh(header->csum_offset) + 2 > size)) {
        return false;
    }
    if (!checksum) {
        header->csum_start = 0;
        header->csum_offset = 0;
    }
    if (header->gso_type == VIRTIO_NET_HDR_GSO_NONE) {
        header->gso_size = 0;
        header->hdr_len = 0;
        return true;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(segmentations); i++) {
        allowed |= header->gso_type == segmentations[i].type &&
                   virtio_has(device, segmentations[i].feature);
    }
    return allowed && checksum && header->gso_size != 0 &&
           le16toh(header->hdr_len) <= size;
}

/* The chain's frame as iovecs behind @iov[0]; how many there are with it. */
static unsigned transmit_gather(struct net_pair *pair, struct iovec *iov)
{
    const struct virtqueue_chain *chain = &pair->tx;
    const struct iovec *from = virtqueue_chain_readable(chain);
    size_t skip = NET_HEADER;
    unsigned count = 1;

    for (unsigned i = 0; i < chain->readable_count; i++) {
        if (skip >= from[i].iov_len) {
            skip -= from[i].iov_len;
            continue;
        }
        if (count == NET_SEGMENTS) {
            size_t size = virtqueue_chain_read(chain, NET_HEADER, pair->net->scratch,
                                               NET_FRAME_MAX);

            iov[1] = (struct iovec){ .iov_base = pair->net->scratch, .iov_len = size };
            return 2;
        }
        iov[count++] = (struct iovec){ .iov_base = (uint8_t *)from[i].iov_base + skip,
                                       .iov_len = from[i].iov_len - skip };
        skip = 0;
    }
    return count;
}

int net_send(struct net_pair *pair, const struct iovec *iov, unsigned count, size_t size)
{
    struct net_backend *backend = pair->net->backend;
    int ret = backend->ops->send(backend, pair->index, iov, count);

    if (ret >= 0) {
        pair->sent.frames++;
        pair->sent.bytes += size;
    }
    return ret;
}

/* The popped chain's frame to the back end; as its send(). */
static int transmit_frame(struct net_pair *pair)
{
    struct virtio_net *net = pair->net;
    struct virtio_net_hdr_v1 header;
    struct iovec iov[NET_SEGMENTS];
    uint64_t size = pair->tx.readable_bytes;

    if (size < NET_HEADER + NET_FRAME_MIN || size > NET_HEADER + NET_FRAME_MAX) {
        pair->bad_headers++;
        return -EMSGSIZE;
    }
    size -= NET_HEADER;
    virtqueue_chain_read(&pair->tx, 0, &header, sizeof(header));
    if (!header_sound(&net->device, &header, size)) {
        pair->bad_headers++;
        return -EINVAL;
    }
    if (!net_link_up(net) || pair->index >= net->active_pairs) {
        return -ENETDOWN;
    }
    iov[0] = (struct iovec){ .iov_base = &header, .iov_len = sizeof(header) };
    return net_faults_transmit(pair, iov, transmit_gather(pair, iov), size);
}

/* As many frames as the budget has; how many. */
static unsigned transmit_some(struct net_pair *pair, unsigned budget)
{
    struct virtio_queue *queue = net_queue(pair, true);
    unsigned moved = 0;

    if (!queue_live(queue)) {
        return 0;
    }
    while (moved < budget && !pair->tx_blocked && virtio_queue_pop(queue, &pair->tx)) {
        int ret = transmit_frame(pair);

        pair->tx_blocked = ret == 1 || ret == -EAGAIN;
        if (ret == -EAGAIN) {
            pair->again = true;
            virtio_queue_unpop(queue, &pair->tx);
            break;
        }
        pair->sent.dropped += ret < 0;
        virtio_queue_push(queue, &pair->tx, 0);
        moved++;
    }
    virtio_queue_flush(queue);
    return moved;
}

/* ---- Both ways ------------------------------------------------------------------------ */

/* One look at a pair, or at all few of them; how many frames moved. */
static unsigned serve_round(struct net_pair *pair, unsigned budget, bool all)
{
    struct net_pair *pairs = pair->net->pairs;
    unsigned moved = transmit_some(pair, budget) + receive_some(pair, budget);

    if (all && pair->net->active_pairs <= NET_WATCH_PAIRS) {
        for (unsigned i = 0; i < pair->net->active_pairs; i++) {
            if (&pairs[i] != pair) {
                moved +=
                    transmit_some(&pairs[i], budget) + receive_some(&pairs[i], budget);
            }
        }
    }
    return moved;
}

void net_serve(struct net_pair *pair)
{
    struct virtio_queue *queue = net_queue(pair, true);
    bool sends = queue_live(queue), watching = false;
    unsigned budget = NET_BUDGET;

    if (sends) {
        virtio_queue_disable_kicks(queue);
    } else if (!queue_live(net_queue(pair, false))) {
        net_watch(pair);
        return;
    }
    for (;;) {
        unsigned moved = serve_round(pair, budget, watching);

        if (moved >= budget) { /* others want the loop, too */
            virtio_queue_rekick(sends ? queue : net_queue(pair, false));
            break;
        }
        budget -= moved;
        if (moved > 0) {
            watch_found(&pair->watch);
            watching = false;
            continue;
        }
        watching = watch_goes_on(&pair->watch);
        if (!watching) {
            watch_missed(&pair->watch);
            if (!sends || pair->tx_blocked || !virtio_queue_enable_kicks(queue)) {
                break;
            }
        }
    }
    for (unsigned i = 0; i < pair->net->active_pairs; i++) {
        net_watch(&pair->net->pairs[i]);
    }
    net_watch(pair); /* it may be none of those */
}

void net_ready(void *context, uint32_t events)
{
    struct net_pair *pair = context;
    struct net_backend *backend = pair->net->backend;

    if (pair->tx_blocked && (events & (POLLOUT | POLLERR | POLLHUP)) != 0) {
        int ret =
            backend->ops->flush != NULL ? backend->ops->flush(backend, pair->index) : 0;

        pair->tx_blocked = ret == -EAGAIN;
    }
    net_serve(pair);
}
