/* SPDX-License-Identifier: MIT */
/* Inside the ring module: what the split and the packed format share. */
#ifndef VIRTIO_VIRTQUEUE_RING_H
#define VIRTIO_VIRTQUEUE_RING_H

#include <endian.h>
#include <string.h>

#include "virtio/virtqueue/virtqueue.h"

/* One format. Every op runs on the queue's owner thread. */
struct virtqueue_ring_ops {
    /* Bytes of the three parts for a queue of @size, and the alignment each needs. */
    void (*layout)(unsigned size, uint64_t bytes[3], unsigned alignment[3]);
    void (*set_position)(struct virtqueue *vq, const struct virtqueue_position *position);
    void (*get_position)(const struct virtqueue *vq, struct virtqueue_position *position);
    /* The used index in guest memory; NULL where the format has none. */
    uint16_t (*used_index)(const struct virtqueue *vq);
    int (*pop)(struct virtqueue *vq, struct virtqueue_chain *chain);
    void (*unpop)(struct virtqueue *vq, const struct virtqueue_chain *chain);
    /* Write the next used element; not visible before flush. */
    void (*complete)(struct virtqueue *vq, const struct virtqueue_done *done);
    bool (*flush)(struct virtqueue *vq);
    void (*disable_kicks)(struct virtqueue *vq);
    bool (*enable_kicks)(struct virtqueue *vq);
};

extern const struct virtqueue_ring_ops virtqueue_split_ops;
extern const struct virtqueue_ring_ops virtqueue_packed_ops;

/* A descriptor as it lies in guest memory, either format. */
struct ring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t word[2]; /* split: flags, next; packed: id, flags */
};

/*
 * Read @size bytes of guest memory exactly once: the barrier keeps the compiler from
 * fetching them again where the copy is used.
 */
static inline void ring_read(void *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    __asm__ volatile("" ::: "memory");
}

static inline struct ring_desc ring_desc_read(const uint8_t *at)
{
    struct ring_desc d;

    ring_read(&d, at, sizeof(d));
    d.addr = le64toh(d.addr);
    d.len = le32toh(d.len);
    d.word[0] = le16toh(d.word[0]);
    d.word[1] = le16toh(d.word[1]);
    return d;
}

static inline uint16_t *ring_u16(uint8_t *base, size_t offset)
{
    return (uint16_t *)(void *)(base + offset);
}

static inline uint32_t *ring_u32(uint8_t *base, size_t offset)
{
    return (uint32_t *)(void *)(base + offset);
}

/* Note the fault; returns -EPROTO. */
int virtqueue_malformed(struct virtqueue *vq, const char *why);

void virtqueue_chain_clear(struct virtqueue_chain *chain);
/* Append a buffer, checked. 0, -EPROTO or -ENOMEM. */
int virtqueue_chain_add(struct virtqueue *vq, struct virtqueue_chain *chain,
                        uint64_t addr, uint32_t len, bool writable);
/*
 * Append what an indirect table at @addr holds. @linked: entries chain through `next`
 * (split), else they are taken in order (packed).
 */
int virtqueue_chain_add_table(struct virtqueue *vq, struct virtqueue_chain *chain,
                              uint64_t addr, uint32_t len, bool linked);

#endif
