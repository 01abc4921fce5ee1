/* SPDX-License-Identifier: MIT */
/* Split rings (virtio 1.2, 2.7), the device's side. */
#include <errno.h>

#include <linux/virtio_ring.h>

#include "virtio/virtqueue/ring.h"

/*
 * Where things are. Available ring: flags, idx, ring[size], used_event. Used ring: flags,
 * idx, ring[size] of {id, len}, avail_event.
 */
enum { AVAIL_FLAGS = 0, AVAIL_IDX = 2, AVAIL_RING = 4 };
enum { USED_FLAGS = 0, USED_IDX = 2, USED_RING = 4, USED_ELEMENT = 8 };

static uint16_t *used_event(struct virtqueue *vq) /* written by the driver */
{
    return ring_u16(vq->driver, AVAIL_RING + 2 * (size_t)vq->config.size);
}

static size_t avail_event_offset(const struct virtqueue *vq)
{
    return USED_RING + USED_ELEMENT * (size_t)vq->config.size;
}

static void split_layout(unsigned size, uint64_t bytes[3], unsigned alignment[3])
{
    bytes[0] = sizeof(struct ring_desc) * (uint64_t)size;
    bytes[1] = AVAIL_RING + 2 * (uint64_t)size + 2;
    bytes[2] = USED_RING + USED_ELEMENT * (uint64_t)size + 2;
    alignment[0] = 16;
    alignment[1] = 2;
    alignment[2] = 4;
}

static void split_set_position(struct virtqueue *vq,
                               const struct virtqueue_position *position)
{
    vq->next_available = vq->available_seen = position->available;
    vq->next_used = vq->published_used = position->used;
}

static void split_get_position(const struct virtqueue *vq,
                               struct virtqueue_position *position)
{
    position->available = vq->next_available;
    position->used = vq->published_used;
}

static uint16_t split_used_index(const struct virtqueue *vq)
{
    /* Acquire: pairs with the release of whoever served the ring; its elements are there. */
    return le16toh(__atomic_load_n(ring_u16(vq->device, USED_IDX), __ATOMIC_ACQUIRE));
}

/*
 * Is there another chain? Reads the driver's index: acquire, pairs with the driver's
 * write barrier between filling the ring and storing idx (2.7.13.3). @order is SEQ_CST
 * after a store that the driver must see first (enable_kicks).
 */
static int split_available(struct virtqueue *vq, int order)
{
    const uint16_t *idx = ring_u16(vq->driver, AVAIL_IDX);
    uint16_t now =
        le16toh(order == __ATOMIC_SEQ_CST ? __atomic_load_n(idx, __ATOMIC_SEQ_CST)
                                          : __atomic_load_n(idx, __ATOMIC_ACQUIRE));

    if ((uint16_t)(now - vq->next_available) > vq->config.size) {
        return virtqueue_malformed(vq, "the available index runs ahead of the ring");
    }
    vq->available_seen = now;
    return now != vq->next_available;
}

static int split_walk(struct virtqueue *vq, struct virtqueue_chain *chain, uint16_t head)
{
    unsigned size = vq->config.size;
    uint16_t index = head;

    for (unsigned steps = 0; steps < size; steps++) {
        struct ring_desc d =
            ring_desc_read(vq->desc + (size_t)index * sizeof(struct ring_desc));
        uint16_t flags = d.word[0];
        int ret;

        if (flags & VRING_DESC_F_INDIRECT) {
            if (flags & VRING_DESC_F_NEXT) {
                return virtqueue_malformed(vq, "a descriptor is indirect and linked");
            }
            return virtqueue_chain_add_table(vq, chain, d.addr, d.len, true);
        }
        ret = virtqueue_chain_add(vq, chain, d.addr, d.len, flags & VRING_DESC_F_WRITE);
        if (ret != 0) {
            return ret;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            return 0;
        }
        index = d.word[1];
        if (index >= size) {
            return virtqueue_malformed(vq, "a descriptor links outside the table");
        }
    }
    return virtqueue_malformed(vq, "a descriptor chain is a loop");
}

static int split_pop(struct virtqueue *vq, struct virtqueue_chain *chain)
{
    unsigned slot = vq->next_available & (vq->config.size - 1);
    uint16_t head;
    int ret;

    if (vq->available_seen == vq->next_available) {
        ret = split_available(vq, __ATOMIC_ACQUIRE);
        if (ret <= 0) {
            return ret;
        }
    }
    if (vq->in_flight >= vq->config.size) {
        return virtqueue_malformed(vq, "more chains are in flight than the queue holds");
    }
    /* Ordered behind idx by split_available's acquire. */
    head = le16toh(__atomic_load_n(ring_u16(vq->driver, AVAIL_RING + 2 * (size_t)slot),
                                   __ATOMIC_RELAXED));
    if (head >= vq->config.size) {
        return virtqueue_malformed(vq, "the available ring names no descriptor");
    }
    ret = split_walk(vq, chain, head);
    if (ret != 0) {
        return ret;
    }
    chain->id = head;
    chain->descriptors = 1;
    vq->next_available++;
    return 1;
}

static void split_unpop(struct virtqueue *vq, const struct virtqueue_chain *chain)
{
    (void)chain;
    vq->next_available--;
}

static void split_complete(struct virtqueue *vq, const struct virtqueue_done *done)
{
    unsigned slot = vq->next_used & (vq->config.size - 1);
    size_t offset = USED_RING + USED_ELEMENT * (size_t)slot;

    store_le32(vq->device + offset, done->id);
    store_le32(vq->device + offset + 4, done->written);
    guest_mem_mark_dirty(vq->mem, vq->config.device + offset, USED_ELEMENT);
    vq->next_used++;
}

static bool split_flush(struct virtqueue *vq)
{
    uint16_t old = vq->published_used, now = vq->next_used;

    if (old == now) {
        return false;
    }
    /*
     * Release: pairs with the driver's read barrier after it reads idx, so it finds the
     * elements written. Sequentially consistent because the driver's wish is read next:
     * pairs with its full barrier between storing used_event (or flags) and looking at
     * idx once more (2.7.7.1).
     */
    __atomic_store_n(ring_u16(vq->device, USED_IDX), htole16(now), __ATOMIC_SEQ_CST);
    guest_mem_mark_dirty(vq->mem, vq->config.device, USED_RING);
    vq->published_used = now;
    if (vq->config.event_idx) {
        uint16_t event = le16toh(__atomic_load_n(used_event(vq), __ATOMIC_SEQ_CST));

        return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
    }
    return !(
        le16toh(__atomic_load_n(ring_u16(vq->driver, AVAIL_FLAGS), __ATOMIC_SEQ_CST)) &
        VRING_AVAIL_F_NO_INTERRUPT);
}

static void split_disable_kicks(struct virtqueue *vq)
{
    /* With event_idx the stale avail_event is enough: the driver kicks only at it. */
    if (!vq->config.event_idx) {
        __atomic_store_n(ring_u16(vq->device, USED_FLAGS),
                         htole16(VRING_USED_F_NO_NOTIFY), __ATOMIC_RELAXED);
        guest_mem_mark_dirty(vq->mem, vq->config.device, 2);
    }
}

static bool split_enable_kicks(struct virtqueue *vq)
{
    size_t offset = vq->config.event_idx ? avail_event_offset(vq) : USED_FLAGS;
    uint16_t value = vq->config.event_idx ? vq->next_available : 0;

    /*
     * Sequentially consistent with the load of idx behind it: pairs with the driver's
     * full barrier between storing idx and reading avail_event or flags (2.7.13.4). One
     * of the two sees the other.
     */
    __atomic_store_n(ring_u16(vq->device, offset), htole16(value), __ATOMIC_SEQ_CST);
    guest_mem_mark_dirty(vq->mem, vq->config.device + offset, 2);
    /* A malformed index counts as work: the pop that follows says so. */
    return split_available(vq, __ATOMIC_SEQ_CST) != 0;
}

const struct virtqueue_ring_ops virtqueue_split_ops = {
    .layout = split_layout,
    .set_position = split_set_position,
    .get_position = split_get_position,
    .used_index = split_used_index,
    .pop = split_pop,
    .unpop = split_unpop,
    .complete = split_complete,
    .flush = split_flush,
    .disable_kicks = split_disable_kicks,
    .enable_kicks = split_enable_kicks,
};
