/* SPDX-License-Identifier: MIT */
/* The relay between a driver's ring and a back end's. */
#include "virtio/vhost/relay.h"

#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_ring.h>

#include "base/util.h"

enum {
    RELAY_PAGE = 4096,
    /* Entries of a slot's indirect table beyond the queue's size: a buffer may cross from
     * one part of RAM to the next. */
    RELAY_SPARE = 16,
    RELAY_CHAIN_MIN = 128,
    DESC_SIZE = 16,
    AVAIL_IDX = 2,
    AVAIL_RING = 4,
    USED_FLAGS = 0,
    USED_IDX = 2,
    USED_RING = 4,
    USED_ELEMENT = 8,
};

/* ---- Where things are ------------------------------------------------------------------- */

static unsigned relay_round(unsigned size)
{
    unsigned round = 1;

    while (round < size) { /* packed rings have any size, split ones powers of two */
        round *= 2;
    }
    return round;
}

static unsigned relay_chain_max(unsigned size)
{
    return (size > RELAY_CHAIN_MIN ? size : RELAY_CHAIN_MIN) + RELAY_SPARE;
}

static uint64_t avail_offset(unsigned size)
{
    return align_up((uint64_t)DESC_SIZE * size, RELAY_PAGE);
}

static uint64_t used_offset(unsigned size)
{
    return avail_offset(size) +
           align_up(AVAIL_RING + 2u * (uint64_t)size + 2, RELAY_PAGE);
}

static uint64_t table_offset(unsigned size)
{
    return used_offset(size) +
           align_up(USED_RING + USED_ELEMENT * (uint64_t)size + 2, RELAY_PAGE);
}

uint64_t relay_bytes(unsigned size)
{
    unsigned round = relay_round(size);

    return align_up(table_offset(round) +
                        (uint64_t)round * relay_chain_max(round) * DESC_SIZE,
                    RELAY_PAGE);
}

static uint16_t *relay_u16(const struct relay *relay, uint64_t offset)
{
    return (uint16_t *)(void *)(relay->host + offset);
}

/* Once: the other side may change it at any time. */
static uint32_t relay_read32(const struct relay *relay, uint64_t offset)
{
    const uint32_t *at = (const uint32_t *)(const void *)(relay->host + offset);

    return le32toh(__atomic_load_n(at, __ATOMIC_RELAXED));
}

/* ---- Life --------------------------------------------------------------------------------- */

int relay_init(struct relay *relay, struct virtio_queue *queue, unsigned size)
{
    memset(relay, 0, sizeof(*relay));
    relay->queue = queue;
    relay->size = relay_round(size);
    relay->chain_max = relay_chain_max(relay->size);
    relay->slots = calloc(relay->size, sizeof(*relay->slots));
    relay->free = calloc(relay->size, sizeof(*relay->free));
    if (relay->slots == NULL || relay->free == NULL) {
        relay_fini(relay);
        return -ENOMEM;
    }
    relay_forget(relay);
    return 0;
}

void relay_fini(struct relay *relay)
{
    for (unsigned i = 0; relay->slots != NULL && i < relay->size; i++) {
        virtqueue_chain_fini(&relay->slots[i].chain);
    }
    virtqueue_chain_fini(&relay->surplus);
    free(relay->slots);
    free(relay->free);
    relay->slots = NULL;
    relay->free = NULL;
}

void relay_forget(struct relay *relay)
{
    relay->in_flight = 0;
    relay->free_count = 0;
    for (unsigned i = relay->size; i > 0; i--) {
        relay->slots[i - 1].busy = false;
        relay->free[relay->free_count++] = (uint16_t)(i - 1);
    }
}

static void slot_release(struct relay *relay, unsigned index)
{
    relay->slots[index].busy = false;
    relay->free[relay->free_count++] = (uint16_t)index;
    relay->in_flight--;
}

/* ---- Towards the back end -------------------------------------------------------------------- */

static void desc_write(uint8_t *at, uint64_t addr, uint32_t len, uint16_t flags,
                       uint16_t next)
{
    store_le64(at, addr);
    store_le32(at + 8, len);
    store_le16(at + 12, flags);
    store_le16(at + 14, next);
}

/* Put slot @index into the back end's ring; relay_publish() makes it visible. */
static void relay_offer(struct relay *relay, unsigned index)
{
    const struct virtqueue_chain *chain = &relay->slots[index].chain;
    unsigned count = chain->readable_count + chain->writable_count;
    uint64_t table =
        table_offset(relay->size) + (uint64_t)index * relay->chain_max * DESC_SIZE;
    uint16_t place = relay->next_available++ & (uint16_t)(relay->size - 1);

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = i >= chain->readable_count ? VRING_DESC_F_WRITE : 0;

        flags |= i + 1 < count ? VRING_DESC_F_NEXT : 0;
        desc_write(relay->host + table + (uint64_t)i * DESC_SIZE, chain->addresses[i],
                   (uint32_t)chain->iov[i].iov_len, flags, (uint16_t)(i + 1));
    }
    desc_write(relay->host + (uint64_t)index * DESC_SIZE, relay->base + table,
               count * DESC_SIZE, VRING_DESC_F_INDIRECT, 0);
    store_le16(relay->host + avail_offset(relay->size) + AVAIL_RING + 2u * place,
               (uint16_t)index);
}

/* True: the back end wants to be kicked. */
static bool relay_publish(struct relay *relay)
{
    uint64_t idx = avail_offset(relay->size) + AVAIL_IDX;
    uint64_t flags = used_offset(relay->size) + USED_FLAGS;

    /*
     * Release: pairs with the back end's acquire of idx, so it finds the descriptors.
     * Sequentially consistent with the load behind it: pairs with the back end's full
     * barrier between clearing NO_NOTIFY and looking at idx once more (2.7.10).
     */
    __atomic_store_n(relay_u16(relay, idx), htole16(relay->next_available),
                     __ATOMIC_SEQ_CST);
    return !(le16toh(__atomic_load_n(relay_u16(relay, flags), __ATOMIC_SEQ_CST)) &
             VRING_USED_F_NO_NOTIFY);
}

static int slot_order(const void *a, const void *b, void *context)
{
    const struct relay *relay = context;
    uint64_t x = relay->slots[*(const uint16_t *)a].sequence;
    uint64_t y = relay->slots[*(const uint16_t *)b].sequence;

    return x < y ? -1 : x > y;
}

void relay_attach(struct relay *relay, uint8_t *host, gpa base)
{
    uint16_t busy[RELAY_QUEUE_MAX];
    unsigned count = 0;

    relay->host = host;
    relay->base = base;
    relay->next_available = relay->next_used = 0;
    memset(host, 0, table_offset(relay->size));
    for (unsigned i = 0; i < relay->size; i++) {
        if (relay->slots[i].busy) {
            busy[count++] = (uint16_t)i;
        }
    }
    qsort_r(busy, count, sizeof(busy[0]), slot_order, relay);
    for (unsigned i = 0; i < count; i++) {
        relay_offer(relay, busy[i]);
    }
    relay_publish(relay);
}

void relay_detach(struct relay *relay)
{
    relay->host = NULL;
}

void relay_describe(const struct relay *relay, struct remote_queue *queue)
{
    queue->index = relay->queue->index;
    queue->size = relay->size;
    queue->desc = (uintptr_t)relay->host;
    queue->driver = (uintptr_t)relay->host + avail_offset(relay->size);
    queue->device = (uintptr_t)relay->host + used_offset(relay->size);
    queue->base = 0;
}

/* One chain from the driver into a free slot; its index, or -1: none, or the device
 * failed. */
static int relay_take(struct relay *relay)
{
    unsigned index;
    struct relay_slot *slot;

    if (relay->free_count == 0) {
        /* All that the queue holds: another one is malformed, and popping it says so. */
        if (virtio_queue_pop(relay->queue, &relay->surplus)) {
            virtio_device_fail(relay->queue->device,
                               "more chains are in flight than the queue holds");
        }
        return -1;
    }
    index = relay->free[relay->free_count - 1];
    slot = &relay->slots[index];
    if (!virtio_queue_pop(relay->queue, &slot->chain)) {
        return -1;
    }
    if (slot->chain.readable_count + slot->chain.writable_count > relay->chain_max) {
        virtio_device_fail(relay->queue->device,
                           "a chain has more buffers than the queue has entries");
        return -1;
    }
    relay->free_count--;
    relay->in_flight++;
    slot->busy = true;
    slot->sequence = relay->next_sequence++;
    slot->started_ns = clock_ns();
    return (int)index;
}

bool relay_forward(struct relay *relay)
{
    bool any = false;
    int index;

    do {
        virtio_queue_disable_kicks(relay->queue);
        while ((index = relay_take(relay)) >= 0) {
            relay_offer(relay, (unsigned)index);
            any = true;
        }
    } while (virtio_queue_enable_kicks(relay->queue));
    return any && relay_publish(relay);
}

/* ---- Back to the driver ------------------------------------------------------------------------- */

static void slot_finish(struct relay *relay, unsigned index, uint32_t written)
{
    struct relay_slot *slot = &relay->slots[index];

    virtio_stat_latency(&relay->queue->stats, clock_ns() - slot->started_ns);
    virtio_queue_push(relay->queue, &slot->chain, written);
    slot_release(relay, index);
}

int relay_collect(struct relay *relay, const char **why)
{
    uint64_t used = used_offset(relay->size);
    /* Acquire: pairs with the back end's release of its used index; the elements before
     * it and what they say was written are there. */
    uint16_t end =
        le16toh(__atomic_load_n(relay_u16(relay, used + USED_IDX), __ATOMIC_ACQUIRE));

    if ((uint16_t)(end - relay->next_used) > relay->in_flight) {
        *why = "it used more buffers than it was given";
        return -EPROTO;
    }
    while (relay->next_used != end) {
        unsigned place = relay->next_used & (relay->size - 1);
        uint64_t element = used + USED_RING + USED_ELEMENT * place;
        uint32_t id = relay_read32(relay, element);
        uint32_t written = relay_read32(relay, element + 4);
        uint64_t room;

        if (id >= relay->size || !relay->slots[id].busy) {
            *why = "it used a buffer that it was not given";
            return -EPROTO;
        }
        room = relay->slots[id].chain.writable_bytes;
        relay->next_used++;
        slot_finish(relay, id, written < room ? written : (uint32_t)room);
    }
    virtio_queue_flush(relay->queue);
    return 0;
}

unsigned relay_refuse(struct relay *relay, relay_refuse_fn refuse)
{
    unsigned count = 0;
    int index;

    for (unsigned i = 0; i < relay->size; i++) {
        if (relay->slots[i].busy) {
            slot_finish(relay, i, refuse(&relay->slots[i].chain));
            count++;
        }
    }
    do {
        virtio_queue_disable_kicks(relay->queue);
        while ((index = relay_take(relay)) >= 0) {
            slot_finish(relay, (unsigned)index, refuse(&relay->slots[index].chain));
            count++;
        }
    } while (virtio_queue_enable_kicks(relay->queue));
    virtio_stat_add(&relay->queue->stats.errors, count);
    virtio_queue_flush(relay->queue);
    return count;
}
