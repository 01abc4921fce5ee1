/* SPDX-License-Identifier: MIT */
/* The driver's side of a virtqueue, split or packed (virtio 1.2, 2.7 and 2.8), simple and
 * independent of the device's side. Everything here may run in ring 3. */
#ifndef GUESTS_RING_H
#define GUESTS_RING_H

#include "vmm/guest/guest.h"

#define RING_MAX 256

#define DESC_NEXT     1
#define DESC_WRITE    2
#define DESC_INDIRECT 4
#define DESC_AVAIL    (1 << 7) /* packed */
#define DESC_USED     (1 << 15)

struct ring_desc { /* split */
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct ring_packed_desc {
    uint64_t address;
    uint32_t length;
    uint16_t id, flags;
};

struct ring_used_entry {
    uint32_t id, length;
};

struct ring_avail { /* split; used_event is entries[size] */
    uint16_t flags, index, entries[RING_MAX + 1];
};

struct ring_used { /* split; avail_event is behind entries[size - 1] */
    uint16_t flags, index;
    struct ring_used_entry entries[RING_MAX];
    uint16_t avail_event;
};

struct ring_event { /* packed: event suppression */
    uint16_t place, flags;
};

struct ring_memory {
    union {
        struct ring_desc split[RING_MAX];
        struct ring_packed_desc packed[RING_MAX];
    } desc;
    union {
        struct ring_avail avail;
        struct ring_event event;
    } driver __attribute__((aligned(16)));
    union {
        struct ring_used used;
        struct ring_event event;
    } device __attribute__((aligned(16)));
    /* one table of indirect descriptors for each head */
    struct ring_desc indirect[RING_MAX][8] __attribute__((aligned(16)));
};

struct ring {
    struct ring_memory *memory;
    unsigned size;
    bool packed, indirect, event_index;
    uint16_t next, seen;       /* where to add and where to look for used ones */
    bool next_wrap, seen_wrap; /* packed */
    uint16_t published;        /* split: avail index when it was last asked about */
    unsigned free, free_head;  /* descriptors; split: list, packed: of ids */
    uint16_t links[RING_MAX], counts[RING_MAX];
    uint64_t notify; /* MMIO address of the doorbell */
    uint32_t notify_value;
    bool notify_wide; /* 32-bit doorbell (virtio-mmio) */
    uint64_t kicks, kicks_saved;
};

struct ring_buffer {
    void *start;
    uint32_t size;
};

void ring_init(struct ring *ring, struct ring_memory *memory, unsigned size);
/* Offer a chain, readable buffers first; returns its id, or -1 when the ring is full. */
int ring_add(struct ring *ring, const struct ring_buffer *buffers, unsigned readable,
             unsigned writable);
/* Ring the doorbell, unless the device said that it need not hear it. */
void ring_kick(struct ring *ring);
void ring_kick_always(struct ring *ring);
/* Take back one used chain; false if there is none. */
bool ring_take(struct ring *ring, unsigned *id, uint32_t *length);
/* Spin for it, at most about @spins rounds. */
bool ring_wait(struct ring *ring, unsigned *id, uint32_t *length, uint64_t spins);
/* Ask for an interrupt at the next used chain, or for none. */
void ring_interrupts(struct ring *ring, bool on);

#endif
