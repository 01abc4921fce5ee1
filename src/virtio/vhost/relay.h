/* SPDX-License-Identifier: MIT */
/*
 * A relay between the driver's ring and a back end's: chains that the ring module has
 * checked are written, as indirect descriptors, into a split ring that lies in memory of
 * our own, which the back end serves. It moves descriptors, never data. What it is for:
 * umbra always knows which requests the back end has, so that they can be given again to
 * its successor, or answered with an error, and none is lost or done by guess; the back
 * end sees no malformed ring; and the driver may have packed rings and event indices
 * whatever the back end knows.
 *
 * Threads: one at a time, the queue's owner.
 */
#ifndef VIRTIO_VHOST_RELAY_H
#define VIRTIO_VHOST_RELAY_H

#include "virtio/vhost/remote.h"

enum { RELAY_QUEUE_MAX = 1024 };

struct relay_slot {
    struct virtqueue_chain chain;
    uint64_t sequence; /* of submission */
    uint64_t started_ns;
    bool busy;
};

struct relay {
    struct virtio_queue *queue;
    unsigned size; /* of the back end's ring, a power of two */
    unsigned chain_max;
    struct relay_slot *slots;       /* `size` of them; slot i is descriptor i */
    uint16_t *free;                 /* a stack */
    struct virtqueue_chain surplus; /* none is ever in it */
    unsigned free_count, in_flight;
    uint64_t next_sequence;
    /* The back end's ring: NULL while there is no back end. */
    uint8_t *host;
    gpa base;
    uint16_t next_available, next_used;
};

/* Finish @chain, which no back end will, in the way of the device; returns how many bytes
 * were written into it. */
typedef uint32_t (*relay_refuse_fn)(const struct virtqueue_chain *chain);

/* Bytes of ring memory that a queue of @size entries needs, a multiple of the page size. */
uint64_t relay_bytes(unsigned size);
/* For a queue of up to @size entries. */
int relay_init(struct relay *relay, struct virtio_queue *queue, unsigned size);
void relay_fini(struct relay *relay);
/* Forget the requests in flight: the driver has. */
void relay_forget(struct relay *relay);

/* A new back end: its ring is at @host, which it sees at @base.
 * Everything in flight is in it again, in the order of submission. */
void relay_attach(struct relay *relay, uint8_t *host, gpa base);
void relay_detach(struct relay *relay);
/* What to tell the back end about the ring; without descriptors. */
void relay_describe(const struct relay *relay, struct remote_queue *queue);

/* Take what the driver made available. True: the back end wants a kick. */
bool relay_forward(struct relay *relay);
/* Give back what the back end used; *why is set and -EPROTO returned when its ring makes
 * no sense. */
int relay_collect(struct relay *relay, const char **why);
/* Answer everything in flight and everything that the driver made available. Returns how
 * many there were. */
unsigned relay_refuse(struct relay *relay, relay_refuse_fn refuse);

#endif
