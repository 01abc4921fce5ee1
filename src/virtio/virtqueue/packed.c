/* SPDX-License-Identifier: MIT */
/* Packed rings (virtio 1.2, 2.8), the device's side. */
#include <errno.h>

#include <linux/virtio_ring.h>

#include "virtio/virtqueue/ring.h"

enum {
    DESC_ADDR = 0,
    DESC_LEN = 8,
    DESC_ID = 12,
    DESC_FLAGS = 14,
    FLAG_AVAIL = 1 << VRING_PACKED_DESC_F_AVAIL,
    FLAG_USED = 1 << VRING_PACKED_DESC_F_USED,
    WRAP_BIT = 0x8000,
};

/* Event suppression (2.8.14): off_wrap in the low half, flags in the high. */
enum { EVENT_SIZE = 4, EVENT_FLAGS_SHIFT = 16 };

static void packed_layout(unsigned size, uint64_t bytes[3], unsigned alignment[3])
{
    bytes[0] = sizeof(struct ring_desc) * (uint64_t)size;
    bytes[1] = bytes[2] = EVENT_SIZE;
    alignment[0] = 16;
    alignment[1] = alignment[2] = 4;
}

static void packed_set_position(struct virtqueue *vq,
                                const struct virtqueue_position *position)
{
    vq->next_available = (position->available & ~WRAP_BIT) % vq->config.size;
    vq->available_wrap = position->available & WRAP_BIT;
    vq->next_used = vq->published_used = (position->used & ~WRAP_BIT) % vq->config.size;
    vq->used_wrap = vq->published_wrap = position->used & WRAP_BIT;
}

static uint16_t packed_off_wrap(uint16_t slot, bool wrap)
{
    return (uint16_t)(slot | (wrap ? WRAP_BIT : 0));
}

static void packed_get_position(const struct virtqueue *vq,
                                struct virtqueue_position *position)
{
    position->available = packed_off_wrap(vq->next_available, vq->available_wrap);
    position->used = packed_off_wrap(vq->next_used, vq->used_wrap);
}

static size_t packed_offset(uint16_t slot)
{
    return (size_t)slot * sizeof(struct ring_desc);
}

static void packed_advance(const struct virtqueue *vq, uint16_t *slot, bool *wrap,
                           unsigned count)
{
    unsigned next = *slot + count;

    if (next >= vq->config.size) {
        next -= vq->config.size;
        *wrap = !*wrap;
    }
    *slot = (uint16_t)next;
}

/*
 * Has the driver made the next slot available? Acquire: pairs with the driver's write
 * barrier between filling the descriptors and storing the head's flags (2.8.21.3.1).
 * @order is SEQ_CST after a store that the driver must see first (enable_kicks).
 */
static bool packed_available(struct virtqueue *vq, int order)
{
    const uint16_t *at =
        ring_u16(vq->desc, packed_offset(vq->next_available) + DESC_FLAGS);
    uint16_t flags =
        le16toh(order == __ATOMIC_SEQ_CST ? __atomic_load_n(at, __ATOMIC_SEQ_CST)
                                          : __atomic_load_n(at, __ATOMIC_ACQUIRE));
    bool available = flags & FLAG_AVAIL, used = flags & FLAG_USED;

    return available == vq->available_wrap && used != vq->available_wrap;
}

/* Collect the chain from the next slot on; *count slots were taken. */
static int packed_walk(struct virtqueue *vq, struct virtqueue_chain *chain,
                       unsigned *count)
{
    uint16_t slot = vq->next_available;
    bool wrap = vq->available_wrap;

    for (*count = 1; *count + vq->in_flight <= vq->config.size; ++*count) {
        struct ring_desc d = ring_desc_read(vq->desc + packed_offset(slot));
        uint16_t flags = d.word[1];
        int ret;

        if (!(flags & VRING_DESC_F_INDIRECT)) {
            ret =
                virtqueue_chain_add(vq, chain, d.addr, d.len, flags & VRING_DESC_F_WRITE);
        } else if (flags & VRING_DESC_F_NEXT) {
            ret = virtqueue_malformed(vq, "a descriptor is indirect and linked");
        } else {
            ret = virtqueue_chain_add_table(vq, chain, d.addr, d.len, false);
        }
        if (ret != 0) {
            return ret;
        }
        if (!(flags & VRING_DESC_F_NEXT)) {
            chain->id = d.word[0]; /* the last descriptor's is the buffer's (2.8.6) */
            return 0;
        }
        packed_advance(vq, &slot, &wrap, 1);
    }
    return virtqueue_malformed(vq, "more descriptors are in flight than the queue holds");
}

static int packed_pop(struct virtqueue *vq, struct virtqueue_chain *chain)
{
    unsigned count;
    int ret;

    if (!packed_available(vq, __ATOMIC_ACQUIRE)) {
        return 0;
    }
    ret = packed_walk(vq, chain, &count);
    if (ret != 0) {
        return ret;
    }
    chain->descriptors = (uint16_t)count;
    packed_advance(vq, &vq->next_available, &vq->available_wrap, count);
    return 1;
}

static void packed_unpop(struct virtqueue *vq, const struct virtqueue_chain *chain)
{
    if (vq->next_available < chain->descriptors) {
        vq->next_available = (uint16_t)(vq->next_available + vq->config.size);
        vq->available_wrap = !vq->available_wrap;
    }
    vq->next_available = (uint16_t)(vq->next_available - chain->descriptors);
}

static void packed_complete(struct virtqueue *vq, const struct virtqueue_done *done)
{
    size_t offset = packed_offset(vq->next_used);
    uint16_t flags = (uint16_t)((vq->used_wrap ? FLAG_AVAIL | FLAG_USED : 0) |
                                (done->written > 0 ? VRING_DESC_F_WRITE : 0));

    store_le32(vq->desc + offset + DESC_LEN, done->written);
    store_le16(vq->desc + offset + DESC_ID, done->id);
    guest_mem_mark_dirty(vq->mem, vq->config.desc + offset, sizeof(struct ring_desc));
    if (!vq->batch_open) {
        /* The batch's first flags go last (packed_flush): the driver reads in order, so
         * it sees all of the batch or nothing. */
        vq->batch_open = true;
        vq->batch_flags = flags;
    } else {
        __atomic_store_n(ring_u16(vq->desc, offset + DESC_FLAGS), htole16(flags),
                         __ATOMIC_RELAXED);
    }
    packed_advance(vq, &vq->next_used, &vq->used_wrap, done->descriptors);
}

/* Did [published, next) pass the slot that the driver named (2.8.10)? */
static bool packed_event_passed(const struct virtqueue *vq, uint16_t off_wrap)
{
    unsigned size = vq->config.size;
    unsigned from = vq->published_used;
    unsigned to = vq->next_used + (vq->used_wrap != vq->published_wrap ? size : 0);
    unsigned event = off_wrap & ~WRAP_BIT & 0xffff;

    if (((off_wrap & WRAP_BIT) != 0) != vq->published_wrap) {
        event += size;
    }
    if (to <= from) { /* the batch was a whole lap */
        to += 2 * size;
    }
    return event >= from && event < to;
}

static bool packed_flush(struct virtqueue *vq)
{
    size_t offset = packed_offset(vq->published_used) + DESC_FLAGS;
    uint32_t event;
    bool wanted;

    if (!vq->batch_open) {
        return false;
    }
    /*
     * Release: pairs with the driver's read barrier after it reads the flags.
     * Sequentially consistent because the driver's event suppression is read next: pairs
     * with its full barrier between storing that and looking at the flags once more
     * (2.8.21.1).
     */
    __atomic_store_n(ring_u16(vq->desc, offset), htole16(vq->batch_flags),
                     __ATOMIC_SEQ_CST);
    event = le32toh(__atomic_load_n(ring_u32(vq->driver, 0), __ATOMIC_SEQ_CST));
    switch (event >> EVENT_FLAGS_SHIFT & 3) { /* the other bits are reserved */
    case VRING_PACKED_EVENT_FLAG_DISABLE:
        wanted = false;
        break;
    case VRING_PACKED_EVENT_FLAG_DESC:
        wanted = !vq->config.event_idx || packed_event_passed(vq, event & 0xffff);
        break;
    default:
        wanted = true;
        break;
    }
    vq->batch_open = false;
    vq->published_used = vq->next_used;
    vq->published_wrap = vq->used_wrap;
    return wanted;
}

static void packed_set_event(struct virtqueue *vq, uint16_t flags, uint16_t off_wrap,
                             int order)
{
    uint32_t event = htole32((uint32_t)flags << EVENT_FLAGS_SHIFT | off_wrap);

    if (order == __ATOMIC_SEQ_CST) {
        __atomic_store_n(ring_u32(vq->device, 0), event, __ATOMIC_SEQ_CST);
    } else {
        __atomic_store_n(ring_u32(vq->device, 0), event, __ATOMIC_RELAXED);
    }
    guest_mem_mark_dirty(vq->mem, vq->config.device, EVENT_SIZE);
}

static void packed_disable_kicks(struct virtqueue *vq)
{
    packed_set_event(vq, VRING_PACKED_EVENT_FLAG_DISABLE, 0, __ATOMIC_RELAXED);
}

static bool packed_enable_kicks(struct virtqueue *vq)
{
    /*
     * Sequentially consistent with the load of the next slot's flags: pairs with the
     * driver's full barrier between storing those and reading this (2.8.21.4). One of the
     * two sees the other.
     */
    if (vq->config.event_idx) {
        packed_set_event(vq, VRING_PACKED_EVENT_FLAG_DESC,
                         packed_off_wrap(vq->next_available, vq->available_wrap),
                         __ATOMIC_SEQ_CST);
    } else {
        packed_set_event(vq, VRING_PACKED_EVENT_FLAG_ENABLE, 0, __ATOMIC_SEQ_CST);
    }
    return packed_available(vq, __ATOMIC_SEQ_CST);
}

const struct virtqueue_ring_ops virtqueue_packed_ops = {
    .layout = packed_layout,
    .set_position = packed_set_position,
    .get_position = packed_get_position,
    .pop = packed_pop,
    .unpop = packed_unpop,
    .complete = packed_complete,
    .flush = packed_flush,
    .disable_kicks = packed_disable_kicks,
    .enable_kicks = packed_enable_kicks,
};
