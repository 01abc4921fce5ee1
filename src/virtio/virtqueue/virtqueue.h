/* SPDX-License-Identifier: MIT */
/*
 * Virtqueues (virtio 1.2, 2.6 to 2.10): the device's side of split and packed rings. This
 * module alone touches rings; everybody else pops validated chains and pushes them back.
 *
 * Trust: the driver may write anything at any time. Each guest-written word is read once
 * into host memory before it is checked, and every address is checked against RAM. What a
 * chain's buffers hold may still change under a reader: copy before checking.
 *
 * Threads: a virtqueue is used by one thread at a time (its owner); the other party is
 * the guest. Pairings with the driver's barriers are named beside each atomic.
 */
#ifndef VIRTIO_VIRTQUEUE_VIRTQUEUE_H
#define VIRTIO_VIRTQUEUE_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "memory/guest_mem.h"

enum {
    VIRTQUEUE_MAX_SIZE = 32768,
    VIRTQUEUE_TABLE_MAX =
        1024, /* entries of an indirect table, where the queue has fewer */
};

/*
 * One buffer of the driver. The arrays belong to the chain and grow as needed, so a chain
 * object is best reused: zero it before the first pop, virtqueue_chain_fini() after the
 * last. Every segment is wholly inside one RAM region and not empty.
 */
struct virtqueue_chain {
    struct iovec *iov; /* what the device reads first, then what it writes */
    gpa *addresses;    /* of each iov, for dirty tracking */
    unsigned capacity;
    unsigned readable_count, writable_count;
    uint64_t readable_bytes, writable_bytes;
    /* private to the ring module */
    uint16_t id;          /* head index (split) or buffer id (packed) */
    uint16_t descriptors; /* ring slots it took (packed), 1 (split) */
    uint16_t sequence;    /* order of popping, for VIRTIO_F_IN_ORDER */
};

static inline struct iovec *virtqueue_chain_readable(const struct virtqueue_chain *chain)
{
    return chain->iov;
}

static inline struct iovec *virtqueue_chain_writable(const struct virtqueue_chain *chain)
{
    return chain->iov + chain->readable_count;
}

/* Copy @size bytes at @offset of the readable part out, of the writable part in; returns
 * how many there were. */
size_t virtqueue_chain_read(const struct virtqueue_chain *chain, uint64_t offset,
                            void *buffer, size_t size);
size_t virtqueue_chain_write(const struct virtqueue_chain *chain, uint64_t offset,
                             const void *buffer, size_t size);
void virtqueue_chain_fini(struct virtqueue_chain *chain);

struct virtqueue_config {
    unsigned size; /* split: a power of two; at most VIRTQUEUE_MAX_SIZE */
    gpa desc;      /* descriptor table or packed ring */
    gpa driver;    /* available ring or driver event suppression */
    gpa device;    /* used ring or device event suppression */
    bool packed, event_idx, indirect, in_order; /* negotiated */
};

/* Where a ring stands: enough to go on elsewhere (vhost, snapshots). For packed rings
 * bit 15 is the wrap counter, as VHOST_SET_VRING_BASE has it. */
struct virtqueue_position {
    uint16_t available, used;
};

struct virtqueue_ring_ops;

struct virtqueue_done { /* a pushed chain that waits for its turn (in-order) */
    uint32_t written;
    uint16_t id, descriptors;
    bool done;
};

struct virtqueue { /* read `fault`, `config`; the rest is private to the ring module */
    const struct virtqueue_ring_ops *ops; /* NULL: not running */
    struct guest_mem *mem;
    struct virtqueue_config config;
    const char *fault; /* why the ring was found malformed; sticky, NULL: sound */
    /* Host addresses of the three parts. */
    uint8_t *desc, *driver, *device;
    unsigned in_flight; /* descriptors (split: chains) popped, not pushed */
    uint16_t next_available, next_used; /* free-running (split), slot (packed) */
    uint16_t available_seen;            /* split: the driver's index when last read */
    uint16_t published_used;            /* next_used at the last flush */
    bool available_wrap, used_wrap;     /* packed */
    bool published_wrap;                /* used_wrap at the last flush */
    bool batch_open;      /* packed: published_used's element is written but its flags */
    uint16_t batch_flags; /* these, which go last */
    uint16_t next_pop, next_push; /* sequence numbers, modulo the size */
    struct virtqueue_done *done;  /* in-order only, `size` of them */
};

/*
 * Take over ring memory. -EINVAL (and `fault`) when the size, an alignment or an address
 * is bad. The guest memory must outlive the queue.
 */
int virtqueue_start(struct virtqueue *vq, struct guest_mem *mem,
                    const struct virtqueue_config *config);
/* As virtqueue_start, going on at @position. */
int virtqueue_start_at(struct virtqueue *vq, struct guest_mem *mem,
                       const struct virtqueue_config *config,
                       const struct virtqueue_position *position);
/* Nothing touches the rings after this. Chains not yet pushed are forgotten. Idempotent.
 */
void virtqueue_stop(struct virtqueue *vq);
void virtqueue_get_position(const struct virtqueue *vq,
                            struct virtqueue_position *position);
/* For external back ends: the ring was used elsewhere up to @position; nothing of ours is
 * in flight. */
void virtqueue_set_position(struct virtqueue *vq,
                            const struct virtqueue_position *position);
/* Where the used ring in guest memory says that a split ring stands, both ways: for back
 * ends that are gone. -ENOTSUP for packed rings, which do not say. */
int virtqueue_used_position(const struct virtqueue *vq,
                            struct virtqueue_position *position);
/* Host addresses of the descriptors, the driver's area and the device's. */
void virtqueue_host_areas(const struct virtqueue *vq, uint64_t areas[3]);
/* Descriptors (split: chains) popped and not yet pushed. */
static inline unsigned virtqueue_in_flight(const struct virtqueue *vq)
{
    return vq->ops != NULL ? vq->in_flight : 0;
}

/*
 * The next chain: 1, or 0 when there is none, or -EPROTO when the ring is malformed
 * (`fault` says how; every later call says the same) or -ENOMEM.
 */
int virtqueue_pop(struct virtqueue *vq, struct virtqueue_chain *chain);
/* Undo the latest pop, which must not have been followed by another or by its push. */
void virtqueue_unpop(struct virtqueue *vq, const struct virtqueue_chain *chain);

/* Give a chain back after @written bytes of its writable part were written. The driver
 * sees it with the next virtqueue_flush(). */
void virtqueue_push(struct virtqueue *vq, const struct virtqueue_chain *chain,
                    uint32_t written);
/* Show all pushed chains to the driver. True: it wants to be interrupted. */
bool virtqueue_flush(struct virtqueue *vq);

/* Ask for no kicks while busy: a hint. */
void virtqueue_disable_kicks(struct virtqueue *vq);
/* Ask for a kick at the next available chain. True: there is one already, whose kick may
 * never come, so go on popping. */
bool virtqueue_enable_kicks(struct virtqueue *vq);

#endif
